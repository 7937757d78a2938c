//! Projected volumes: several sources in one directory.

use k8s_openapi::api::core::v1::{
    ClusterTrustBundleProjection, PodCertificateProjection, ProjectedVolumeSource,
    ServiceAccountTokenProjection, VolumeProjection,
};
use naru_model::validation::{FieldErrors, Path};
use std::collections::BTreeSet;

use super::{OrEmpty, check, volumes};

const MIN_TOKEN_SECONDS: i64 = 600;
const MAX_TOKEN_SECONDS: i64 = 1 << 32;
const CERTIFICATE_KEY_TYPES: &[&str] =
    &["RSA3072", "RSA4096", "ECDSAP256", "ECDSAP384", "ECDSAP521", "ED25519"];
const MIN_CERTIFICATE_SECONDS: i32 = 3600;
const MAX_CERTIFICATE_SECONDS: i32 = 91 * 86_400;

pub(super) fn projected(source: &ProjectedVolumeSource, path: &Path, errors: &mut FieldErrors) {
    check::file_mode(source.default_mode, &path.child("defaultMode"), errors);
    let mut taken = BTreeSet::new();
    for (index, projection) in source.sources.or_empty().iter().enumerate() {
        let source_path = path.child("sources").index(index);
        let count = one_source(projection, &mut taken, path, &source_path, errors);
        if count > 1 {
            errors.forbidden(&source_path, "may not specify more than 1 volume type per source");
        }
    }
}

/// Checks what is set and says how many sources that were.
fn one_source<'a>(
    projection: &'a VolumeProjection,
    taken: &mut BTreeSet<&'a str>,
    volume: &Path,
    path: &Path,
    errors: &mut FieldErrors,
) -> usize {
    let mut count = 0;
    // No two sources may write the same file.
    let mut claim = |file: &'a str, value: &str, errors: &mut FieldErrors| {
        if !file.is_empty() && !taken.insert(file) {
            errors.invalid(volume, value, "conflicting duplicate paths");
        }
    };
    for (name, object) in [
        ("secret", projection.secret.as_ref().map(|source| (&source.name, source.items.or_empty()))),
        ("configMap", projection.config_map.as_ref().map(|source| (&source.name, source.items.or_empty()))),
    ] {
        let Some((object_name, items)) = object else { continue };
        count += 1;
        let path = path.child(name);
        check::required_text(object_name, &path.child("name"), errors);
        volumes::keys_to_paths(items, &path.child("items"), errors);
        for item in items {
            claim(&item.path, object_name, errors);
        }
    }
    if let Some(source) = &projection.downward_api {
        count += 1;
        for file in source.items.or_empty() {
            volumes::downward_file(file, &path.child("downwardAPI"), errors);
            claim(&file.path, &file.path, errors);
        }
    }
    if let Some(token) = &projection.service_account_token {
        count += 1;
        service_account_token(token, volume, &path.child("serviceAccountToken"), errors);
    }
    if let Some(bundle) = &projection.cluster_trust_bundle {
        count += 1;
        trust_bundle(bundle, &path.child("clusterTrustBundle"), errors);
        claim(&bundle.path, &bundle.path, errors);
    }
    if let Some(certificate) = &projection.pod_certificate {
        count += 1;
        let path = path.child("podCertificate");
        for file in pod_certificate(certificate, &path, errors) {
            claim(file, file, errors);
        }
    }
    count
}

/// Kubernetes reports the path's faults at the volume, the lifetime's at the source.
fn service_account_token(
    token: &ServiceAccountTokenProjection,
    volume: &Path,
    path: &Path,
    errors: &mut FieldErrors,
) {
    let seconds = token.expiration_seconds.unwrap_or_default();
    let seconds_path = path.child("expirationSeconds");
    if seconds < MIN_TOKEN_SECONDS {
        errors.invalid(&seconds_path, seconds, "may not specify a duration less than 10 minutes");
    }
    if seconds > MAX_TOKEN_SECONDS {
        errors.invalid(&seconds_path, seconds, "may not specify a duration larger than 2^32 seconds");
    }
    if token.path.is_empty() {
        errors.required(&volume.child("path"), "");
    } else {
        check::local_unreserved_path(&token.path, &volume.child("path"), errors);
    }
}

fn trust_bundle(bundle: &ClusterTrustBundleProjection, path: &Path, errors: &mut FieldErrors) {
    let value = || serde_json::to_value(bundle).unwrap_or_default();
    match (bundle.name.as_deref(), bundle.signer_name.as_deref()) {
        (Some(_), Some(_)) => errors.invalid(path, value(), "only one of name and signerName may be used"),
        (Some(name), None) => {
            if name.is_empty() {
                errors.required(&path.child("name"), "must be a valid object name");
            }
            bundle_name(name, &path.child("name"), errors);
            if let Some(selector) = &bundle.label_selector {
                let selector = serde_json::to_value(selector).unwrap_or_default();
                let detail = "labelSelector must be unset if name is specified";
                errors.invalid(&path.child("labelSelector"), selector, detail);
            }
        }
        (None, Some(signer)) => {
            if signer.is_empty() {
                errors.required(&path.child("signerName"), "must be a valid signer name");
            }
            signer_name(signer, &path.child("signerName"), errors);
            check::label_selector(bundle.label_selector.as_ref(), &path.child("labelSelector"), errors);
        }
        (None, None) => errors.required(path, "either name or signerName must be specified"),
    }
    check::required_text(&bundle.path, &path.child("path"), errors);
    check::local_unreserved_path(&bundle.path, &path.child("path"), errors);
}

/// `NAME`, or `example.com:signer:NAME` for a bundle that belongs to a signer.
fn bundle_name(name: &str, path: &Path, errors: &mut FieldErrors) {
    let last = name.rsplit(':').next().unwrap_or_default();
    for problem in naru_model::validation::names::dns1123_subdomain(last) {
        errors.invalid(path, name, &format!("not a valid clustertrustbundlename: {problem}"));
    }
}

/// `example.com/signer`.
fn signer_name(name: &str, path: &Path, errors: &mut FieldErrors) {
    if name.is_empty() {
        return errors.required(path, "");
    }
    let Some((domain, rest)) =
        name.split_once('/').filter(|(_, rest)| !rest.is_empty() && !rest.contains('/'))
    else {
        return errors.invalid(
            path,
            name,
            "must be a fully qualified domain and path of the form 'example.com/signer-name'",
        );
    };
    check::subdomain(domain, path, errors);
    check::subdomain(rest, path, errors);
    if !domain.contains('.') {
        errors.invalid(path, domain, "should be a domain with at least two segments separated by dots");
    }
}

/// Checks a certificate and names the files it writes.
fn pod_certificate<'a>(
    certificate: &'a PodCertificateProjection,
    path: &Path,
    errors: &mut FieldErrors,
) -> Vec<&'a str> {
    signer_name(&certificate.signer_name, &path.child("signerName"), errors);
    check::one_of(&certificate.key_type, CERTIFICATE_KEY_TYPES, &path.child("keyType"), errors);
    if let Some(seconds) = certificate.max_expiration_seconds {
        let path = path.child("maxExpirationSeconds");
        if seconds < MIN_CERTIFICATE_SECONDS {
            let detail = format!("if provided, maxExpirationSeconds must be >= {MIN_CERTIFICATE_SECONDS}");
            errors.invalid(&path, seconds, &detail);
        } else if seconds > MAX_CERTIFICATE_SECONDS {
            let detail = format!("if provided, maxExpirationSeconds must be <= {MAX_CERTIFICATE_SECONDS}");
            errors.invalid(&path, seconds, &detail);
        }
    }
    let mut files = Vec::new();
    for (name, file) in [
        ("credentialBundlePath", certificate.credential_bundle_path.or_empty()),
        ("keyPath", certificate.key_path.or_empty()),
        ("certificateChainPath", certificate.certificate_chain_path.or_empty()),
    ] {
        if !file.is_empty() {
            check::local_unreserved_path(file, &path.child(name), errors);
            files.push(file);
        }
    }
    if files.is_empty() {
        let detail = "specify at least one of credentialBundlePath, keyPath, and certificateChainPath";
        errors.required(path, detail);
    }
    files
}
