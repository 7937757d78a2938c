//! The cluster's certificates: one authority, the server's own, and those of its first clients.
//!
//! Everything lives in `DATA_DIR/pki`, keys readable by their owner only. What is missing, about to expire or not
//! from this authority is issued again at start.

use std::{
    fs, io,
    net::IpAddr,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use k8s_openapi::jiff::{self, Timestamp, ToSpan, tz::TimeZone};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::signing::Authority;

const AUTHORITY_DAYS: i32 = 3650;
const CLIENT_DAYS: i32 = 365;
/// What expires sooner than this is issued again at start.
const RENEWAL_DAYS: i64 = 30;

/// Why there is no usable set of certificates.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    #[error("cannot use {}: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("{} is not usable: {why}; restore it, or delete the folder to make a new authority", path.display())]
    Damaged { path: PathBuf, why: String },
    #[error("cannot issue a certificate for {subject}: {source}")]
    Issue { subject: String, source: rcgen::Error },
}

/// A certificate and its key, both PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    pub certificate: String,
    pub key: String,
}

/// The cluster's authority and the certificates that the control plane itself needs.
pub struct Pki {
    authority: Arc<Issuer<'static, KeyPair>>,
    authority_pem: String,
    /// A client of group `system:masters`.
    pub admin: Identity,
    /// What the API server shows to node agents.
    pub kubelet_client: Identity,
    /// What the API server shows to its clients; issued afresh at each start, since addresses change.
    pub server: Identity,
    /// Of an authority of its own: what the API server shows to other API servers, which then believe who it says that
    /// the user is. A certificate of the cluster's authority must not do that.
    pub proxy_client: Identity,
    /// The certificate of that authority, PEM.
    pub proxy_authority: String,
}

impl Pki {
    /// Opens the certificates in `folder`, makes what is missing, and issues the server's for `names`.
    pub fn open(folder: &Path, names: &[String]) -> Result<Self, PkiError> {
        fs::create_dir_all(folder).map_err(|source| PkiError::File { path: folder.into(), source })?;
        let (authority, issuer) = open_authority(folder, "ca", "naru-ca")?;
        let (proxy_authority, proxy_issuer) =
            open_authority(folder, "front-proxy-ca", "naru-front-proxy-ca")?;
        let proxy_client = issue_by(&proxy_issuer, "front-proxy-client", None, &[])?;
        let mut pki = Self {
            authority: Arc::new(issuer),
            authority_pem: authority.certificate,
            admin: Identity { certificate: String::new(), key: String::new() },
            kubelet_client: Identity { certificate: String::new(), key: String::new() },
            server: Identity { certificate: String::new(), key: String::new() },
            proxy_client: store(folder, "front-proxy-client", proxy_client)?,
            proxy_authority: proxy_authority.certificate,
        };
        pki.admin = pki.keep_or_issue(folder, "admin", "kubernetes-admin", "system:masters")?;
        pki.kubelet_client =
            pki.keep_or_issue(folder, "kubelet-client", "kube-apiserver-kubelet-client", "system:masters")?;
        pki.server = store(folder, "server", pki.issue("kube-apiserver", None, names)?)?;
        Ok(pki)
    }

    /// The authority's certificate, PEM.
    pub fn authority(&self) -> &str {
        &self.authority_pem
    }

    /// The authority, for signing what others ask for.
    pub fn signer(&self) -> Arc<Authority> {
        Arc::new(Authority(self.authority.clone()))
    }

    /// A certificate for a client called `user`, member of `group`.
    pub fn issue_client(&self, user: &str, group: &str) -> Result<Identity, PkiError> {
        self.issue(user, Some(group), &[])
    }

    /// A certificate for the agent of node `name`.
    pub fn issue_node(&self, name: &str) -> Result<Identity, PkiError> {
        self.issue_client(&format!("system:node:{name}"), "system:nodes")
    }

    fn keep_or_issue(
        &self,
        folder: &Path,
        file: &str,
        user: &str,
        group: &str,
    ) -> Result<Identity, PkiError> {
        match load(folder, file)? {
            Some(identity) if is_fresh(&identity.certificate) && self.has_issued(&identity.certificate) => {
                Ok(identity)
            }
            _ => store(folder, file, self.issue_client(user, group)?),
        }
    }

    fn has_issued(&self, certificate: &str) -> bool {
        let (Ok(authority), Ok(leaf)) = (der(&self.authority_pem), der(certificate)) else { return false };
        let parsed = (X509Certificate::from_der(&authority), X509Certificate::from_der(&leaf));
        matches!(parsed, (Ok((_, authority)), Ok((_, leaf)))
            if authority.subject() == leaf.issuer()
                && authority_key_id(&leaf).is_some_and(|id| Some(id) == subject_key_id(&authority)))
    }

    fn issue(&self, user: &str, group: Option<&str>, names: &[String]) -> Result<Identity, PkiError> {
        issue_by(&self.authority, user, group, names)
    }

    /// A kubeconfig with which `identity` reaches the cluster at `server` (`https://127.0.0.1:6443`).
    pub fn kubeconfig(&self, server: &str, user: &str, identity: &Identity) -> String {
        let [authority, certificate, key] =
            [&self.authority_pem, &identity.certificate, &identity.key].map(|pem| BASE64.encode(pem));
        format!(
            "apiVersion: v1\nkind: Config\nclusters:\n- name: naru\n  cluster:\n    server: {server}\n    \
             certificate-authority-data: {authority}\nusers:\n- name: {user}\n  user:\n    \
             client-certificate-data: {certificate}\n    client-key-data: {key}\ncontexts:\n- name: naru\n  \
             context:\n    cluster: naru\n    user: {user}\ncurrent-context: naru\n"
        )
    }
}

impl Identity {
    /// What rustls wants.
    pub fn to_rustls(&self) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), String> {
        let certificates = CertificateDer::pem_slice_iter(self.certificate.as_bytes())
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| error.to_string())?;
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes()).map_err(|error| error.to_string())?;
        Ok((certificates, key))
    }
}

/// Who a client certificate says its bearer is: CN, and every O.
pub fn subject(certificate: &[u8]) -> Option<(String, Vec<String>)> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let subject = certificate.subject();
    let name = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
    let groups = subject.iter_organization().filter_map(|group| group.as_str().ok().map(str::to_owned));
    Some((name, groups.collect()))
}

fn issue_by(
    authority: &Issuer<'static, KeyPair>,
    user: &str,
    group: Option<&str>,
    names: &[String],
) -> Result<Identity, PkiError> {
    let failed = |source| PkiError::Issue { subject: user.into(), source };
    let mut params = params(user, CLIENT_DAYS);
    if let Some(group) = group {
        params.distinguished_name.push(DnType::OrganizationName, group);
    }
    for name in names {
        params.subject_alt_names.push(match name.parse::<IpAddr>() {
            Ok(address) => SanType::IpAddress(address),
            Err(_) => SanType::DnsName(name.as_str().try_into().map_err(failed)?),
        });
    }
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
    params.extended_key_usages = vec![if names.is_empty() {
        ExtendedKeyUsagePurpose::ClientAuth
    } else {
        ExtendedKeyUsagePurpose::ServerAuth
    }];
    params.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate().map_err(failed)?;
    let certificate = params.signed_by(&key, authority).map_err(failed)?;
    Ok(Identity { certificate: certificate.pem(), key: key.serialize_pem() })
}

/// The authority whose files are called `file`, made if there is none that lasts.
fn open_authority(
    folder: &Path,
    file: &str,
    name: &str,
) -> Result<(Identity, Issuer<'static, KeyPair>), PkiError> {
    let authority = match load(folder, file)? {
        Some(identity) if is_fresh(&identity.certificate) => identity,
        _ => store(folder, file, make_authority(name)?)?,
    };
    let damaged = |extension: &str, why: rcgen::Error| PkiError::Damaged {
        path: folder.join(format!("{file}.{extension}")),
        why: why.to_string(),
    };
    let key = KeyPair::from_pem(&authority.key).map_err(|why| damaged("key", why))?;
    let issuer = Issuer::from_ca_cert_pem(&authority.certificate, key).map_err(|why| damaged("crt", why))?;
    Ok((authority, issuer))
}

fn make_authority(name: &str) -> Result<Identity, PkiError> {
    let failed = |source| PkiError::Issue { subject: format!("the authority {name}"), source };
    let mut params = params(name, AUTHORITY_DAYS);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages =
        vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    let key = KeyPair::generate().map_err(failed)?;
    let certificate = params.self_signed(&key).map_err(failed)?;
    Ok(Identity { certificate: certificate.pem(), key: key.serialize_pem() })
}

fn params(common_name: &str, days: i32) -> CertificateParams {
    let day = |offset: i32| {
        let date = Timestamp::now().to_zoned(TimeZone::UTC).date().saturating_add(offset.days());
        rcgen::date_time_ymd(i32::from(date.year()), date.month().unsigned_abs(), date.day().unsigned_abs())
    };
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    // Yesterday, so that clocks may differ.
    params.not_before = day(-1);
    params.not_after = day(days);
    params
}

fn der(pem: &str) -> Result<CertificateDer<'static>, rustls::pki_types::pem::Error> {
    CertificateDer::from_pem_slice(pem.as_bytes())
}

fn is_fresh(pem: &str) -> bool {
    let Ok(der) = der(pem) else { return false };
    let Ok((_, certificate)) = X509Certificate::from_der(&der) else { return false };
    let soon = Timestamp::now() + jiff::SignedDuration::from_hours(24 * RENEWAL_DAYS);
    certificate.validity().not_after.timestamp() > soon.as_second()
}

fn authority_key_id<'a>(certificate: &'a X509Certificate<'_>) -> Option<&'a [u8]> {
    certificate.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        x509_parser::extensions::ParsedExtension::AuthorityKeyIdentifier(id) => {
            Some(id.key_identifier.as_ref()?.0)
        }
        _ => None,
    })
}

fn subject_key_id<'a>(certificate: &'a X509Certificate<'_>) -> Option<&'a [u8]> {
    certificate.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        x509_parser::extensions::ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0),
        _ => None,
    })
}

/// A pair of files, or `None` where one is missing.
fn load(folder: &Path, name: &str) -> Result<Option<Identity>, PkiError> {
    let read = |extension: &str| {
        let path = folder.join(format!("{name}.{extension}"));
        match fs::read_to_string(&path) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(PkiError::File { path, source }),
        }
    };
    Ok(read("crt")?.zip(read("key")?).map(|(certificate, key)| Identity { certificate, key }))
}

fn store(folder: &Path, name: &str, identity: Identity) -> Result<Identity, PkiError> {
    // The key first: an interrupted start must not leave a certificate whose key is gone.
    write_file(&folder.join(format!("{name}.key")), &identity.key, 0o600)?;
    write_file(&folder.join(format!("{name}.crt")), &identity.certificate, 0o644)?;
    Ok(identity)
}

/// Writes a file that is either there as a whole or not at all, never readable by more than `mode` says.
pub fn write_file(path: &Path, text: &str, mode: u32) -> Result<(), PkiError> {
    let failed = |source| PkiError::File { path: path.into(), source };
    let partial = path.with_extension("partial");
    let mut options = fs::OpenOptions::new();
    let mut file =
        options.write(true).create(true).truncate(true).mode(mode).open(&partial).map_err(failed)?;
    io::Write::write_all(&mut file, text.as_bytes()).map_err(failed)?;
    file.set_permissions(fs::Permissions::from_mode(mode)).map_err(failed)?;
    fs::rename(&partial, path).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_certificate_is_survived() {
        let folder = Folder::new("any");
        let identity = folder.open().issue_client("jane", "devs").expect("a certificate");
        let der = CertificateDer::from_pem_slice(identity.certificate.as_bytes()).expect("it is one");
        assert_eq!(subject(&der), Some(("jane".into(), vec!["devs".into()])));
        crate::fuzz::run(|fuzz| {
            if let Some((name, groups)) = subject(&fuzz.bytes(&der)) {
                assert!(name.len() + groups.concat().len() <= 2 * der.len());
            }
        });
    }

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("naru-pki-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&path);
            Self(path)
        }
        fn open(&self) -> Pki {
            Pki::open(&self.0, &["localhost".into(), "127.0.0.1".into()]).expect("certificates")
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_second_start_keeps_the_authority_and_the_admin() {
        let folder = Folder::new("again");
        let (first, second) = (folder.open(), folder.open());
        assert_eq!(first.authority(), second.authority());
        assert_eq!(first.admin, second.admin);
    }

    #[test]
    fn an_admin_of_another_authority_is_replaced() {
        let folder = Folder::new("stranger");
        let first = folder.open();
        fs::remove_file(folder.0.join("ca.key")).expect("there was a key");
        let second = folder.open();
        assert_ne!(first.authority(), second.authority());
        assert_ne!(first.admin, second.admin);
    }

    #[test]
    fn keys_are_for_their_owner_only() {
        let folder = Folder::new("mode");
        folder.open();
        for name in ["ca.key", "admin.key", "server.key", "kubelet-client.key"] {
            let mode = fs::metadata(folder.0.join(name)).expect("a key").permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{name}");
        }
    }

    #[test]
    fn a_node_is_named_in_its_certificate() {
        let folder = Folder::new("node");
        let identity = folder.open().issue_node("amber").expect("a certificate");
        let (certificates, _) = identity.to_rustls().expect("usable");
        let expected = ("system:node:amber".to_owned(), vec!["system:nodes".to_owned()]);
        assert_eq!(subject(&certificates[0]), Some(expected));
    }
}
