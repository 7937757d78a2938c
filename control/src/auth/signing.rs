//! Certificates for those who ask for one by a signing request.

use std::{sync::Arc, time::Duration};

use k8s_openapi::jiff::{SignedDuration, Timestamp, tz::TimeZone};
use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType, SubjectPublicKeyInfo,
};
use rustls::pki_types::{CertificateSigningRequestDer, pem::PemObject as _};
use x509_parser::prelude::{
    AttributeTypeAndValue, FromDer, GeneralName, ParsedExtension, X509Certificate, X509CertificationRequest,
};

use super::der;

/// Clocks may differ by this much.
const BACKDATED: SignedDuration = SignedDuration::from_mins(5);

/// What a signing request asks for; its signature is checked.
pub struct Requested {
    pub name: String,
    pub groups: Vec<String>,
    /// The subject as it came, in DER: the certificate has the same.
    subject: Vec<u8>,
    names: Vec<SanType>,
    key: SubjectPublicKeyInfo,
}

impl Requested {
    /// `None` where the PEM holds no request that can be read, all of its names included: what is not understood here
    /// might mean something to others who believe this authority.
    pub fn parse(pem: &[u8]) -> Option<Self> {
        let der = CertificateSigningRequestDer::from_pem_slice(pem).ok()?;
        let (_, request) = X509CertificationRequest::from_der(&der).ok()?;
        request.verify_signature().ok()?;
        let info = &request.certification_request_info;
        let text = |of: &AttributeTypeAndValue<'_>| of.as_str().ok().map(str::to_owned);
        let name: Vec<String> = info.subject.iter_common_name().map(text).collect::<Option<_>>()?;
        let groups = info.subject.iter_organization().map(text).collect::<Option<_>>()?;
        let name = match <[String; 1]>::try_from(name) {
            Ok([name]) => name,
            Err(none) if none.is_empty() => String::new(),
            Err(_) => return None,
        };
        let mut names = Vec::new();
        for extension in request.requested_extensions().into_iter().flatten() {
            if let ParsedExtension::SubjectAlternativeName(alternatives) = extension {
                for name in &alternatives.general_names {
                    names.push(alternative(name)?);
                }
            }
        }
        let key = SubjectPublicKeyInfo::from_der(info.subject_pki.raw).ok()?;
        Some(Self { name, groups, subject: info.subject.as_raw().to_vec(), names, key })
    }

    /// Whether it asks for alternative names of any kind.
    pub fn has_names(&self) -> bool {
        !self.names.is_empty()
    }

    /// Whether it asks for host names or addresses, and for nothing else.
    pub fn has_only_hosts(&self) -> bool {
        self.has_names()
            && self.names.iter().all(|name| matches!(name, SanType::DnsName(_) | SanType::IpAddress(_)))
    }
}

/// That `der` is a signing request, signed with its own key. What it asks for is the signer's to judge.
///
/// # Errors
/// What is wrong with it.
pub fn check_request(der: &[u8]) -> Result<(), String> {
    let (_, request) = X509CertificationRequest::from_der(der).map_err(|error| format!("asn1: {error}"))?;
    request.verify_signature().map_err(|error| format!("x509: {error}"))
}

fn alternative(name: &GeneralName<'_>) -> Option<SanType> {
    Some(match name {
        GeneralName::DNSName(name) => SanType::DnsName((*name).try_into().ok()?),
        GeneralName::RFC822Name(name) => SanType::Rfc822Name((*name).try_into().ok()?),
        GeneralName::URI(name) => SanType::URI((*name).try_into().ok()?),
        GeneralName::IPAddress(bytes) => SanType::IpAddress(match bytes.len() {
            4 => <[u8; 4]>::try_from(*bytes).ok()?.into(),
            _ => <[u8; 16]>::try_from(*bytes).ok()?.into(),
        }),
        _ => return None,
    })
}

/// The cluster's authority, for signing what others ask for.
pub struct Authority(pub(super) Arc<Issuer<'static, KeyPair>>);

impl Authority {
    /// A certificate, PEM, for what was `requested`, with `usages` as the API spells them.
    ///
    /// # Errors
    /// What cannot be granted.
    pub fn sign(
        &self,
        requested: Requested,
        usages: &[String],
        now: Timestamp,
        validity: SignedDuration,
    ) -> Result<String, String> {
        // rcgen's distinguished names keep one value per type, and subjects have several groups: what it makes gets a
        // name that is nobody's, in the place of which the real one is put.
        let placeholder = uuid::Uuid::new_v4().to_string();
        let mut params = CertificateParams::default();
        params.subject_alt_names = requested.names;
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, placeholder);
        params.is_ca = IsCa::ExplicitNoCa;
        for usage in usages {
            match usage.as_str() {
                "digital signature" | "signing" => params.key_usages.push(KeyUsagePurpose::DigitalSignature),
                "key encipherment" => params.key_usages.push(KeyUsagePurpose::KeyEncipherment),
                "client auth" => params.extended_key_usages.push(ExtendedKeyUsagePurpose::ClientAuth),
                "server auth" => params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth),
                other => return Err(format!("the usage {other:?} is not granted")),
            }
        }
        params.use_authority_key_identifier_extension = true;
        let (first, last) = (Moment::of(now - BACKDATED), Moment::of(now + validity));
        params.not_before = rcgen::date_time_ymd(first.year, first.month, first.day) + first.within;
        params.not_after = rcgen::date_time_ymd(last.year, last.month, last.day) + last.within;
        let certificate = params.signed_by(&requested.key, &*self.0).map_err(|error| error.to_string())?;
        let (_, parsed) = X509Certificate::from_der(certificate.der()).map_err(|error| error.to_string())?;
        let placeholder = parsed.subject().as_raw();
        let der = der::signed_anew(certificate.der(), placeholder, &requested.subject, self.0.key())?;
        Ok(der::to_pem("CERTIFICATE", &der))
    }
}

/// A time as rcgen takes it: a day, and how far into it.
struct Moment {
    year: i32,
    month: u8,
    day: u8,
    within: Duration,
}

impl Moment {
    fn of(time: Timestamp) -> Self {
        let zoned = time.to_zoned(TimeZone::UTC);
        let date = zoned.date();
        let seconds = time.as_second().rem_euclid(24 * 3600);
        Self {
            year: i32::from(date.year()),
            month: date.month().unsigned_abs(),
            day: date.day().unsigned_abs(),
            within: Duration::from_secs(seconds.unsigned_abs()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::pki::{Pki, subject};

    /// `SET { SEQUENCE { OID, UTF8String } … }`: values of one type that stand together, as Go's library puts them.
    fn together(oid: &[u8], values: &[&str]) -> Vec<u8> {
        let value = |text: &&str| {
            let pair = [der::element(0x06, &[oid]), der::element(0x0c, &[text.as_bytes()])].concat();
            der::element(0x30, &[&pair])
        };
        der::element(0x31, &[&values.iter().flat_map(value).collect::<Vec<u8>>()])
    }

    /// A request for this subject, PEM.
    fn request(subject: &[Vec<u8>], names: &[&str]) -> String {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("names");
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "placeholder");
        let key = KeyPair::generate().expect("a key");
        let request = params.serialize_request(&key).expect("a request");
        let (_, parsed) = X509CertificationRequest::from_der(request.der()).expect("it is one");
        let old = parsed.certification_request_info.subject.as_raw();
        let subject = der::element(0x30, &[&subject.concat()]);
        let der = der::signed_anew(request.der(), old, &subject, &key).expect("signed");
        der::to_pem("CERTIFICATE REQUEST", &der)
    }

    const COMMON_NAME: &[u8] = &[0x55, 4, 3];
    const ORGANIZATION: &[u8] = &[0x55, 4, 10];

    #[test]
    fn a_certificate_has_all_groups_however_they_stand() {
        let folder = tempfile::tempdir().expect("a folder");
        let pki = Pki::open(folder.path(), &["localhost".into()]).expect("an authority");
        let long = "x".repeat(200);
        let jane = together(COMMON_NAME, &["jane"]);
        let cases = [
            (vec![together(ORGANIZATION, &["devs", "ops"]), jane.clone()], vec!["devs", "ops"]),
            (
                vec![
                    together(ORGANIZATION, &["devs"]),
                    together(ORGANIZATION, &["ops", &long]),
                    jane.clone(),
                ],
                vec!["devs", "ops", &long],
            ),
            (vec![jane.clone()], vec![]),
        ];
        for (wanted, groups) in cases {
            let pem = request(&wanted, &["jane.example.com"]);
            let requested = Requested::parse(pem.as_bytes()).expect("it can be read");
            assert_eq!(requested.name, "jane");
            assert_eq!(requested.groups, groups);
            let usages = ["client auth".to_owned(), "digital signature".to_owned()];
            let validity = SignedDuration::from_hours(1);
            let signed = pki.signer().sign(requested, &usages, Timestamp::now(), validity).expect("signed");
            let pem = rustls::pki_types::CertificateDer::from_pem_slice(signed.as_bytes()).expect("PEM");
            let expected = groups.iter().map(|group| (*group).to_owned()).collect();
            assert_eq!(subject(&pem), Some(("jane".into(), expected)));
            // The authority's signature is good for what it was changed to.
            let (_, certificate) = X509Certificate::from_der(&pem).expect("a certificate");
            let authority = pki.authority();
            let authority =
                rustls::pki_types::CertificateDer::from_pem_slice(authority.as_bytes()).expect("PEM");
            let (_, authority) = X509Certificate::from_der(&authority).expect("a certificate");
            certificate.verify_signature(Some(authority.public_key())).expect("it is the authority's");
            let names = certificate.subject_alternative_name().expect("readable").expect("there are some");
            assert!(matches!(names.value.general_names[..], [GeneralName::DNSName("jane.example.com")]));
        }
    }

    #[test]
    fn what_is_not_understood_is_not_signed() {
        let two = vec![together(COMMON_NAME, &["jane"]), together(COMMON_NAME, &["system:node:a"])];
        let two = request(&two, &[]);
        assert!(Requested::parse(two.as_bytes()).is_none());
        let der = CertificateSigningRequestDer::from_pem_slice(two.as_bytes()).expect("PEM");
        assert_eq!(check_request(&der), Ok(()), "another signer may understand it");
        let mut forged = der.to_vec();
        *forged.last_mut().expect("it is not empty") ^= 1;
        assert!(check_request(&forged).is_err() && check_request(b"").is_err());
        // A BMPString.
        let value = [der::element(0x06, &[ORGANIZATION]), der::element(0x1e, &[&[0, b'a']])].concat();
        let odd = der::element(0x31, &[&der::element(0x30, &[&value])]);
        assert!(Requested::parse(request(&[odd], &[]).as_bytes()).is_none());
        let good = request(&[together(COMMON_NAME, &["jane"])], &[]);
        assert!(Requested::parse(good.as_bytes()).is_some());
    }

    #[test]
    fn any_request_is_survived() {
        let pem = request(&[together(COMMON_NAME, &["jane"]), together(ORGANIZATION, &["a", "b"])], &["a.b"]);
        let der = CertificateSigningRequestDer::from_pem_slice(pem.as_bytes()).expect("PEM");
        crate::fuzz::run(|fuzz| {
            let broken = der::to_pem("CERTIFICATE REQUEST", &fuzz.bytes(&der));
            let _ = Requested::parse(broken.as_bytes());
        });
    }
}
