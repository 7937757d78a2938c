//! Whose certificates other servers may show.
//!
//! As programs in Go do, we also believe a server whose very certificate is among those that we are given: of webhooks
//! and the like, it often is both, made in one step and marked as that of an authority.

use std::sync::{Arc, OnceLock};

use rustls::{
    CertificateError, ClientConfig, ConfigBuilder, DigitallySignedStruct, Error, RootCertStore,
    SignatureScheme,
    client::{
        WantsClientCert, WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_name,
    },
    crypto::ring,
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject as _},
    server::ParsedCertificate,
};
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// How TLS is spoken with servers for which the authorities in `pem` vouch, or this machine's where that is empty.
///
/// # Errors
/// What is wrong with the first certificate that cannot be used.
pub fn believing(pem: &[u8]) -> Result<ConfigBuilder<ClientConfig, WantsClientCert>, String> {
    let roots = authorities(pem)?;
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    if pem.is_empty() {
        return Ok(builder.with_root_certificates(roots));
    }
    let chains = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
        .build()
        .map_err(|error| error.to_string())?;
    let given = CertificateDer::pem_slice_iter(pem).filter_map(Result::ok).collect();
    Ok(builder.dangerous().with_custom_certificate_verifier(Arc::new(Believed { chains, given })))
}

/// Believes what leads to an authority, and the certificates that were given themselves.
#[derive(Debug)]
struct Believed {
    chains: Arc<WebPkiServerVerifier>,
    given: Vec<CertificateDer<'static>>,
}

impl ServerCertVerifier for Believed {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verified = self.chains.verify_server_cert(certificate, intermediates, name, ocsp, now);
        // Refused for what it is, and nothing else: that it ended, or is another's, has an error of its own.
        match verified {
            Err(Error::InvalidCertificate(CertificateError::Other(_)))
                if self.given.contains(certificate) =>
            {
                verify_given(certificate, name, now)
            }
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chains.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chains.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chains.supported_verify_schemes()
    }
}

/// What is left to ask of a certificate that is trusted itself: whether it is valid now, for servers, and for this one.
fn verify_given(
    certificate: &CertificateDer<'_>,
    name: &ServerName<'_>,
    now: UnixTime,
) -> Result<ServerCertVerified, Error> {
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|_| CertificateError::BadEncoding)?;
    let (validity, now) = (parsed.validity(), now.as_secs().cast_signed());
    if now < validity.not_before.timestamp() {
        return Err(CertificateError::NotValidYet.into());
    }
    if now > validity.not_after.timestamp() {
        return Err(CertificateError::Expired.into());
    }
    let usage = parsed.extended_key_usage().map_err(|_| CertificateError::BadEncoding)?;
    if usage.is_some_and(|usage| !usage.value.server_auth && !usage.value.any) {
        return Err(CertificateError::InvalidPurpose.into());
    }
    verify_server_name(&ParsedCertificate::try_from(certificate)?, name)?;
    Ok(ServerCertVerified::assertion())
}

/// The authorities in `pem`, or this machine's where that is empty.
///
/// # Errors
/// What is wrong with the first certificate that cannot be used.
fn authorities(pem: &[u8]) -> Result<RootCertStore, String> {
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

    /// A certificate that signs itself as that of an authority, for `localhost`, valid in 2026.
    fn both_in_one() -> rcgen::Certificate {
        let mut params = rcgen::CertificateParams::new(vec!["localhost".into()]).expect("a name");
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.not_before = rcgen::date_time_ymd(2026, 1, 1);
        params.not_after = rcgen::date_time_ymd(2027, 1, 1);
        params.self_signed(&rcgen::KeyPair::generate().expect("a key")).expect("a certificate")
    }

    #[test]
    fn a_certificate_that_is_given_is_believed_itself() {
        const IN_2026: u64 = 1_780_000_000;
        let (ours, other) = (both_in_one(), both_in_one());
        let verify = |shown: &rcgen::Certificate, name: &'static str, seconds: u64| {
            let roots = Arc::new(authorities(ours.pem().as_bytes()).expect("authorities"));
            let provider = Arc::new(ring::default_provider());
            let chains =
                WebPkiServerVerifier::builder_with_provider(roots, provider).build().expect("usable");
            let believed = Believed { chains, given: vec![ours.der().clone()] };
            let name = ServerName::try_from(name).expect("a name");
            let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds));
            match believed.verify_server_cert(shown.der(), &[], &name, &[], now) {
                Ok(_) => "believed".to_owned(),
                Err(error) => format!("{error:?}").split([' ', '{']).next().unwrap_or_default().to_owned(),
            }
        };
        assert_eq!(verify(&ours, "localhost", IN_2026), "believed");
        for (name, seconds, problem) in [
            ("localhost", 2 * IN_2026, "Expired"),
            ("localhost", IN_2026 / 2, "NotValidYet"),
            ("elsewhere", IN_2026, "NotValidForName"),
        ] {
            let said = verify(&ours, name, seconds);
            assert!(said.starts_with(&format!("InvalidCertificate({problem}")), "{said}");
        }
        assert_ne!(verify(&other, "localhost", IN_2026), "believed");
    }

    fn native_len() -> usize {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(native().iter().cloned());
        roots.len()
    }
}
