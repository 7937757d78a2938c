//! Certificates for those who ask for one by a signing request.

use std::{sync::Arc, time::Duration};

use k8s_openapi::jiff::{SignedDuration, Timestamp, tz::TimeZone};
use rcgen::{
    CertificateSigningRequestParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType,
};
use rustls::pki_types::{CertificateSigningRequestDer, pem::PemObject as _};
use x509_parser::prelude::{FromDer, X509CertificationRequest};

/// Clocks may differ by this much.
const BACKDATED: SignedDuration = SignedDuration::from_mins(5);

/// What a signing request asks for; its signature is checked.
pub struct Requested {
    pub name: String,
    pub groups: Vec<String>,
    params: CertificateSigningRequestParams,
}

impl Requested {
    /// `None` where the PEM holds no request that can be read.
    pub fn parse(pem: &[u8]) -> Option<Self> {
        let der = CertificateSigningRequestDer::from_pem_slice(pem).ok()?;
        let params = CertificateSigningRequestParams::from_der(&der).ok()?;
        let (_, request) = X509CertificationRequest::from_der(&der).ok()?;
        let subject = &request.certification_request_info.subject;
        let name = subject.iter_common_name().next().and_then(|of| of.as_str().ok()).unwrap_or_default();
        let groups = subject.iter_organization().filter_map(|of| of.as_str().ok().map(str::to_owned));
        Some(Self { name: name.into(), groups: groups.collect(), params })
    }

    /// Whether it asks for alternative names of any kind.
    pub fn has_names(&self) -> bool {
        !self.params.params.subject_alt_names.is_empty()
    }

    /// Whether it asks for host names or addresses, and for nothing else.
    pub fn has_only_hosts(&self) -> bool {
        let names = &self.params.params.subject_alt_names;
        self.has_names()
            && names.iter().all(|name| matches!(name, SanType::DnsName(_) | SanType::IpAddress(_)))
    }
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
        // rcgen's distinguished names keep one value per type; a certificate that lost groups would be worse than none.
        if requested.groups.len() > 1 {
            return Err("more than one organization is not supported".into());
        }
        let Requested { name, groups, params: mut request } = requested;
        let params = &mut request.params;
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        for group in groups {
            params.distinguished_name.push(DnType::OrganizationName, group);
        }
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages.clear();
        params.extended_key_usages.clear();
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
        request.signed_by(&*self.0).map(|certificate| certificate.pem()).map_err(|error| error.to_string())
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
