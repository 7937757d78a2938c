//! Whose certificates other servers may show.

use std::sync::OnceLock;

use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, pem::PemObject as _},
};

/// The authorities in `pem`, or this machine's where that is empty.
///
/// # Errors
/// What is wrong with the first certificate that cannot be used.
pub fn authorities(pem: &[u8]) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    if pem.is_empty() {
        roots.add_parsable_certificates(native().iter().cloned());
        return Ok(roots);
    }
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|error| format!("it is not PEM: {error}"))?;
        roots.add(certificate).map_err(|error| format!("it holds no certificate: {error}"))?;
    }
    if roots.is_empty() {
        return Err("unable to parse bytes as PEM block".into());
    }
    Ok(roots)
}

/// This machine's authorities, which are hundreds of files to read: once, as in programs in Go.
fn native() -> &'static [CertificateDer<'static>] {
    static NATIVE: OnceLock<Vec<CertificateDer<'static>>> = OnceLock::new();
    NATIVE.get_or_init(|| rustls_native_certs::load_native_certs().certs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn authorities_are_those_that_are_given() {
        let pair = rcgen::KeyPair::generate().expect("a key");
        let params = rcgen::CertificateParams::new(vec!["localhost".into()]).expect("a name");
        let pem = params.self_signed(&pair).expect("a certificate").pem();
        assert_eq!(authorities(pem.repeat(2).as_bytes()).map(|roots| roots.len()), Ok(2));
        let broken = "-----BEGIN CERTIFICATE-----\n%\n-----END CERTIFICATE-----\n";
        assert!(authorities(broken.as_bytes()).is_err());
        let nothing = authorities(b"hello").map(|roots| roots.len());
        assert_eq!(nothing, Err("unable to parse bytes as PEM block".into()));
        assert_eq!(authorities(&[]).map(|roots| roots.len()).ok(), Some(native_len()));
    }

    fn native_len() -> usize {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(native().iter().cloned());
        roots.len()
    }
}
