//! Why a connection to another server failed, in the words of Go's libraries: people and tools look for these.

use std::io;

use rustls::CertificateError;

/// What kept a connection to `address` (`10.0.0.1:443`) from being made, be it TCP or TLS.
pub fn problem(address: &str, error: &io::Error) -> String {
    refused_certificate(error).unwrap_or_else(|| unreached(address, error))
}

/// Why nobody answers at `address`.
pub fn unreached(address: &str, error: &io::Error) -> String {
    let why = match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused",
        io::ErrorKind::HostUnreachable => "no route to host",
        io::ErrorKind::NetworkUnreachable => "network is unreachable",
        io::ErrorKind::TimedOut => "connection timed out",
        _ => return format!("dial tcp {address}: {error}"),
    };
    format!("dial tcp {address}: connect: {why}")
}

/// Why no connection over TLS came about.
pub fn unbelieved(error: &io::Error) -> String {
    refused_certificate(error).unwrap_or_else(|| error.to_string())
}

fn refused_certificate(error: &io::Error) -> Option<String> {
    match error.get_ref()?.downcast_ref::<rustls::Error>()? {
        rustls::Error::InvalidCertificate(problem) => {
            Some(format!("tls: failed to verify certificate: x509: {}", of_certificate(problem)))
        }
        _ => None,
    }
}

fn of_certificate(problem: &CertificateError) -> String {
    match problem {
        CertificateError::UnknownIssuer => "certificate signed by unknown authority".into(),
        CertificateError::Expired
        | CertificateError::ExpiredContext { .. }
        | CertificateError::NotValidYet
        | CertificateError::NotValidYetContext { .. } => "certificate has expired or is not yet valid".into(),
        CertificateError::NotValidForNameContext { expected, presented } if presented.is_empty() => {
            format!("certificate is not valid for any names, but wanted to match {}", expected.to_str())
        }
        CertificateError::NotValidForNameContext { expected, presented } => {
            // webpki shows them as `DnsName("localhost")`.
            let names = presented.iter().map(|name| name.split('"').nth(1).unwrap_or(name));
            let names = names.collect::<Vec<_>>().join(", ");
            format!("certificate is valid for {names}, not {}", expected.to_str())
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(error: impl Into<io::Error>, expected: &str) {
        assert_eq!(problem("10.0.0.1:443", &error.into()), expected);
    }

    fn certificate(problem: CertificateError) -> io::Error {
        io::Error::new(io::ErrorKind::InvalidData, rustls::Error::InvalidCertificate(problem))
    }

    #[test]
    fn what_keeps_a_connection_from_being_made_is_said_as_go_says_it() {
        check(io::ErrorKind::ConnectionRefused, "dial tcp 10.0.0.1:443: connect: connection refused");
        check(io::ErrorKind::HostUnreachable, "dial tcp 10.0.0.1:443: connect: no route to host");
        check(io::Error::other("odd"), "dial tcp 10.0.0.1:443: odd");
        let start = "tls: failed to verify certificate: x509:";
        check(
            certificate(CertificateError::UnknownIssuer),
            &format!("{start} certificate signed by unknown authority"),
        );
        check(
            certificate(CertificateError::NotValidYet),
            &format!("{start} certificate has expired or is not yet valid"),
        );
        let wrong = |presented: &[&str]| {
            certificate(CertificateError::NotValidForNameContext {
                expected: "hooks.shop.svc".try_into().expect("a name"),
                presented: presented.iter().map(ToString::to_string).collect(),
            })
        };
        check(
            wrong(&[r#"DnsName("localhost")"#, r#"DnsName("a.b")"#]),
            &format!("{start} certificate is valid for localhost, a.b, not hooks.shop.svc"),
        );
        check(
            wrong(&[]),
            &format!("{start} certificate is not valid for any names, but wanted to match hooks.shop.svc"),
        );
    }
}
