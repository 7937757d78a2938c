//! Requests for certificates, and bundles of authorities to trust.
//!
//! Who asks, approves or signs is checked by `admission`; signing is a controller's work.

use k8s_openapi::{
    api::certificates::v1::{
        CertificateSigningRequest, CertificateSigningRequestCondition, CertificateSigningRequestStatus,
        ClusterTrustBundle,
    },
    apimachinery::pkg::apis::meta::v1::Time,
    jiff::Timestamp,
};
use naru_model::{
    ResourceInfo,
    validation::{FieldErrors, Path, names},
};
use rustls::pki_types::{CertificateDer, CertificateSigningRequestDer, pem::PemObject as _};
use serde_json::{Value, json};
use std::collections::BTreeSet;

use super::{
    Column, Kind,
    kind::{Context, age},
    podspec::OrEmpty,
    text,
};
use crate::auth::signing::check_request;

pub struct SigningRequests;
pub struct TrustBundles;

const GROUP: &str = "certificates.k8s.io";
const MIN_SECONDS: i32 = 600;
const USAGES: &[&str] = &[
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];

static REQUESTS: ResourceInfo = ResourceInfo {
    group: GROUP,
    namespaced: false,
    subresources: &["approval", "status"],
    ..text::core_resource(
        "CertificateSigningRequest",
        "certificatesigningrequests",
        "certificatesigningrequest",
        &["csr"],
    )
};
static BUNDLES: ResourceInfo = ResourceInfo {
    group: GROUP,
    namespaced: false,
    ..text::core_resource("ClusterTrustBundle", "clustertrustbundles", "clustertrustbundle", &[])
};

const REQUEST_COLUMNS: &[Column] = &[
    text::NAME,
    text::AGE,
    text::column(
        "SignerName",
        "string",
        0,
        "signerName indicates the requested signer, and is a qualified name.",
    ),
    text::column("Requestor", "string", 0, "The user that created the request."),
    text::column("RequestedDuration", "string", 0, "How long the certificate is to be valid."),
    text::column(
        "Condition",
        "string",
        0,
        "Whether the request was approved or denied, and the certificate issued.",
    ),
];
const BUNDLE_COLUMNS: &[Column] = &[
    text::NAME,
    text::column("SignerName", "string", 0, "signerName indicates the associated signer, if any."),
];

impl Kind for SigningRequests {
    type Object = CertificateSigningRequest;

    fn resource(&self) -> &'static ResourceInfo {
        &REQUESTS
    }
    fn has_generation(&self) -> bool {
        false
    }

    fn prepare_create(&self, request: &mut CertificateSigningRequest, _context: &Context<'_>) {
        request.status = None;
    }

    fn prepare_update(
        &self,
        new: &mut CertificateSigningRequest,
        old: &CertificateSigningRequest,
        _context: &Context<'_>,
    ) {
        (new.spec, new.status) = (old.spec.clone(), old.status.clone());
    }

    /// Signers write the certificate and say where they failed; whether it was approved is not theirs to change.
    fn prepare_status_update(
        &self,
        new: &mut CertificateSigningRequest,
        old: &CertificateSigningRequest,
        context: &Context<'_>,
    ) {
        new.spec = old.spec.clone();
        let verdicts = |request: &CertificateSigningRequest| -> Vec<_> {
            conditions(request).iter().filter(|of| is_verdict(of)).cloned().collect()
        };
        let status = new.status.get_or_insert_default();
        let own = status.conditions.take().unwrap_or_default();
        let own = own.into_iter().filter(|of| !is_verdict(of));
        let all: Vec<_> = verdicts(old).into_iter().chain(own).collect();
        status.conditions = (!all.is_empty()).then_some(all);
        set_times(status, old, context.now);
    }

    /// Approvers write conditions only.
    fn prepare_approval_update(
        &self,
        new: &mut CertificateSigningRequest,
        old: &CertificateSigningRequest,
        context: &Context<'_>,
    ) {
        new.spec = old.spec.clone();
        let status = new.status.get_or_insert_default();
        status.certificate = old.status.as_ref().and_then(|status| status.certificate.clone());
        set_times(status, old, context.now);
    }

    /// Any name will do.
    fn validate_name(&self, _name: &str, _errors: &mut FieldErrors) {}

    fn validate(&self, request: &CertificateSigningRequest, errors: &mut FieldErrors) {
        let (spec, path) = (&request.spec, Path::new("spec"));
        let checked = CertificateSigningRequestDer::from_pem_slice(&spec.request.0)
            .map_err(|_| "PEM block type must be CERTIFICATE REQUEST".to_owned())
            .and_then(|der| check_request(&der));
        if let Err(detail) = checked {
            errors.invalid(&path.child("request"), json!(spec.request), &detail);
        }
        let usages = spec.usages.or_empty();
        if usages.is_empty() {
            errors.required(&path.child("usages"), "");
        }
        let mut seen = BTreeSet::new();
        for (index, usage) in usages.iter().enumerate() {
            let path = path.child("usages").index(index);
            if !USAGES.contains(&usage.as_str()) {
                errors.not_supported(&path, usage.as_str(), USAGES);
            }
            if !seen.insert(usage) {
                errors.duplicate(&path, usage.as_str());
            }
        }
        validate_signer(&path.child("signerName"), &spec.signer_name, errors);
        if let Some(seconds) = spec.expiration_seconds.filter(|seconds| *seconds < MIN_SECONDS) {
            let detail = "may not specify a duration less than 600 seconds (10 minutes)";
            errors.invalid(&path.child("expirationSeconds"), seconds, detail);
        }
    }

    fn validate_status_update(
        &self,
        new: &CertificateSigningRequest,
        old: &CertificateSigningRequest,
        errors: &mut FieldErrors,
    ) {
        let path = Path::new("status");
        let has = |request: &CertificateSigningRequest, kind: &str| {
            conditions(request).iter().any(|condition| condition.type_ == kind)
        };
        let list = path.child("conditions");
        for kind in ["Approved", "Denied", "Failed"] {
            if has(old, kind) && !has(new, kind) {
                let detail = format!("updates may not remove a condition of type {kind:?}");
                errors.forbidden(&list, &detail);
            }
        }
        for (index, condition) in conditions(new).iter().enumerate() {
            let path = list.index(index);
            let is_true = condition.status == "True";
            match condition.type_.as_str() {
                "" => errors.required(&path.child("type"), ""),
                "Approved" | "Denied" | "Failed" if !is_true => {
                    errors.not_supported(&path.child("status"), condition.status.as_str(), &["True"]);
                }
                "Denied" if has(new, "Approved") => errors.invalid(
                    &path.child("type"),
                    "Denied",
                    "Approved and Denied conditions are mutually exclusive",
                ),
                _ => (),
            }
        }
        let certificate = |request: &CertificateSigningRequest| {
            request
                .status
                .as_ref()
                .and_then(|status| status.certificate.clone())
                .filter(|of| !of.0.is_empty())
        };
        match (certificate(old), certificate(new)) {
            (Some(old), new) if new.as_ref() != Some(&old) => {
                let detail = "updates may not change a certificate once it has been set";
                errors.forbidden(&path.child("certificate"), detail);
            }
            (None, Some(new)) if CertificateDer::pem_slice_iter(&new.0).flatten().next().is_none() => {
                let detail = "must contain at least one CERTIFICATE PEM block";
                errors.invalid(&path.child("certificate"), "<certificate data>", detail);
            }
            _ => (),
        }
    }

    fn columns(&self) -> &'static [Column] {
        REQUEST_COLUMNS
    }

    fn row(&self, request: &CertificateSigningRequest, now: Timestamp) -> Vec<Value> {
        let seconds = request.spec.expiration_seconds.map(i64::from);
        let duration = seconds.map(k8s_openapi::jiff::SignedDuration::from_secs);
        vec![
            request.metadata.name.or_empty().into(),
            age(request.metadata.creation_timestamp.as_ref(), now).into(),
            text::or_none(&request.spec.signer_name).into(),
            request.spec.username.or_empty().into(),
            duration.map_or_else(|| "<none>".to_owned(), naru_model::duration::human).into(),
            summary(request).into(),
        ]
    }

    fn field_names(&self) -> &'static [&'static str] {
        &["spec.signerName"]
    }

    fn field(&self, request: &CertificateSigningRequest, _name: &str) -> String {
        request.spec.signer_name.clone()
    }
}

fn conditions(request: &CertificateSigningRequest) -> &[CertificateSigningRequestCondition] {
    request.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default()
}

fn is_verdict(condition: &CertificateSigningRequestCondition) -> bool {
    matches!(condition.type_.as_str(), "Approved" | "Denied")
}

/// Since when each condition is what it is, where its writer does not say.
fn set_times(status: &mut CertificateSigningRequestStatus, old: &CertificateSigningRequest, now: Timestamp) {
    for condition in status.conditions.iter_mut().flatten() {
        condition.last_update_time.get_or_insert(Time(now));
        let before = conditions(old).iter().find(|of| of.type_ == condition.type_);
        let since = before.filter(|of| of.status == condition.status);
        let since = since.and_then(|of| of.last_transition_time.clone()).unwrap_or(Time(now));
        condition.last_transition_time.get_or_insert(since);
    }
}

/// `Pending`, `Approved,Issued`, …
fn summary(request: &CertificateSigningRequest) -> String {
    let has = |kind: &str| conditions(request).iter().any(|condition| condition.type_ == kind);
    let mut words = Vec::new();
    match (has("Approved"), has("Denied")) {
        (_, true) => words.push("Denied"),
        (true, _) => words.push("Approved"),
        _ => words.push("Pending"),
    }
    if has("Failed") {
        words.push("Failed");
    }
    let certificate = request.status.as_ref().and_then(|status| status.certificate.as_ref());
    if certificate.is_some_and(|certificate| !certificate.0.is_empty()) {
        words.push("Issued");
    }
    words.join(",")
}

/// `example.com/a-signer`
pub(super) fn validate_signer(path: &Path, signer: &str, errors: &mut FieldErrors) {
    if signer.is_empty() {
        return errors.required(path, "");
    }
    let Some((domain, name)) = signer.split_once('/') else {
        let detail = "must be a fully qualified domain and path of the form 'example.com/signer-name'";
        return errors.invalid(path, signer, detail);
    };
    let mut problems = names::dns1123_subdomain(domain);
    if problems.is_empty() && !domain.contains('.') {
        problems.push("should be a domain with at least two segments separated by dots".into());
    }
    problems.extend(names::dns1123_subdomain(name));
    for problem in problems {
        errors.invalid(path, signer, &problem);
    }
}

impl Kind for TrustBundles {
    type Object = ClusterTrustBundle;

    fn resource(&self) -> &'static ResourceInfo {
        &BUNDLES
    }
    fn has_generation(&self) -> bool {
        false
    }

    /// A colon sets the signer apart.
    fn validate_name(&self, name: &str, errors: &mut FieldErrors) {
        let path = Path::new("metadata").child("name");
        let plain = name.rsplit(':').next().unwrap_or_default();
        errors.problems(&path, name, names::dns1123_subdomain(plain));
    }

    fn validate(&self, bundle: &ClusterTrustBundle, errors: &mut FieldErrors) {
        let (signer, name) = (bundle.spec.signer_name.or_empty(), bundle.metadata.name.or_empty());
        let path = Path::new("metadata").child("name");
        if signer.is_empty() {
            if name.contains(':') {
                let detail = "ClusterTrustBundle without signer name must not have \":\" in its name";
                errors.invalid(&path, name, detail);
            }
        } else {
            validate_signer(&Path::new("spec").child("signerName"), signer, errors);
            let prefix = format!("{}:", signer.replace('/', ":"));
            if !name.starts_with(&prefix) {
                let detail =
                    format!("ClusterTrustBundle for signerName {signer} must be named with prefix {prefix}");
                errors.invalid(&path, name, &detail);
            }
        }
        let path = Path::new("spec").child("trustBundle");
        let certificates: Result<Vec<_>, _> =
            CertificateDer::pem_slice_iter(bundle.spec.trust_bundle.as_bytes()).collect();
        match certificates {
            Ok(certificates) if !certificates.is_empty() => {
                let distinct: BTreeSet<&[u8]> = certificates.iter().map(AsRef::as_ref).collect();
                if distinct.len() < certificates.len() {
                    errors.invalid(&path, "<value omitted>", "duplicate trust anchor");
                }
            }
            Ok(_) => errors.invalid(&path, "<value omitted>", "at least one trust anchor must be provided"),
            Err(error) => errors.invalid(&path, "<value omitted>", &error.to_string()),
        }
    }

    fn validate_update(&self, new: &ClusterTrustBundle, old: &ClusterTrustBundle, errors: &mut FieldErrors) {
        if new.spec.signer_name != old.spec.signer_name {
            let path = Path::new("spec").child("signerName");
            errors.invalid(&path, new.spec.signer_name.or_empty(), "field is immutable");
        }
    }

    fn columns(&self) -> &'static [Column] {
        BUNDLE_COLUMNS
    }

    fn row(&self, bundle: &ClusterTrustBundle, _now: Timestamp) -> Vec<Value> {
        vec![bundle.metadata.name.or_empty().into(), text::or_none(bundle.spec.signer_name.or_empty()).into()]
    }

    fn field_names(&self) -> &'static [&'static str] {
        &["spec.signerName"]
    }

    fn field(&self, bundle: &ClusterTrustBundle, _name: &str) -> String {
        bundle.spec.signer_name.or_empty().into()
    }
}

#[cfg(test)]
mod tests {
    use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
    use rcgen::{CertificateParams, KeyPair};

    use super::super::testing::{check, check_update, decode, update_status};
    use super::*;

    fn pem() -> String {
        let key = KeyPair::generate().expect("a key");
        let request = CertificateParams::default().serialize_request(&key).expect("a request");
        request.pem().expect("PEM")
    }

    fn request(pem: &str, rest: &str) -> String {
        format!("metadata: {{name: a}}\nspec: {{request: {}, {rest}}}", BASE64.encode(pem))
    }

    #[test]
    fn a_request_is_well_formed_and_for_a_signer() {
        let good = "signerName: a.b/c, usages: [client auth]";
        let cases: &[(&str, &[&str])] = &[
            (good, &[]),
            ("signerName: a.b/c, usages: [client auth], expirationSeconds: 600", &[]),
            ("signerName: a.b/c", &["spec.usages: Required value"]),
            (
                "signerName: a.b/c, usages: [client auth, client auth]",
                &[r#"spec.usages[1]: Duplicate value: "client auth""#],
            ),
            (
                "signerName: a.b/c, usages: [magic]",
                &["spec.usages[0]: Unsupported value: \"magic\": supported…"],
            ),
            (
                "signerName: c, usages: [any]",
                &[
                    "spec.signerName: Invalid value: \"c\": must be a fully qualified domain and path of the form 'example.com/signer-name'",
                ],
            ),
            (
                "signerName: a/c, usages: [any]",
                &[
                    "spec.signerName: Invalid value: \"a/c\": should be a domain with at least two segments separated by dots",
                ],
            ),
            (
                "signerName: a.b/c, usages: [any], expirationSeconds: 599",
                &[
                    "spec.expirationSeconds: Invalid value: 599: may not specify a duration less than 600 seconds (10 minutes)",
                ],
            ),
        ];
        let pem = pem();
        for (rest, expected) in cases {
            check(&SigningRequests, &request(&pem, rest), expected);
        }
        check(&SigningRequests, &request("nonsense", good), &["spec.request: Invalid value: …"]);
    }

    #[test]
    fn approval_and_certificate_each_have_their_writer() {
        let yaml = request(&pem(), "signerName: a.b/c, usages: [client auth]");
        let old = decode::<SigningRequests>(&yaml);
        let with = |kind: &str| {
            let status = format!("\nstatus: {{conditions: [{{type: {kind}, status: 'True'}}]}}");
            decode::<SigningRequests>(&format!("{yaml}{status}"))
        };
        let (signed, errors) = update_status(&SigningRequests, &old, with("Approved"));
        assert_eq!((summary(&signed), errors), ("Pending".to_owned(), vec![]));
        let mut approved = with("Approved");
        let now = super::super::testing::now();
        let view = crate::store::Snapshot::default();
        SigningRequests.prepare_approval_update(&mut approved, &old, &Context { now, view: &view });
        assert_eq!(summary(&approved), "Approved");
        assert_eq!(conditions(&approved)[0].last_transition_time, Some(Time(now)));
        let mut errors = FieldErrors::default();
        SigningRequests.validate_status_update(&old, &approved, &mut errors);
        assert_eq!(
            errors.0[0].to_string(),
            "status.conditions: Forbidden: updates may not remove a condition of type \"Approved\""
        );
    }

    #[test]
    fn a_bundle_is_named_by_its_signer() {
        let key = KeyPair::generate().expect("a key");
        let certificate = CertificateParams::default().self_signed(&key).expect("a certificate").pem();
        let bundle = |name: &str, signer: &str, pem: &str| {
            let pem = serde_json::to_string(pem).expect("text");
            format!("metadata: {{name: '{name}'}}\nspec: {{signerName: '{signer}', trustBundle: {pem}}}")
        };
        check(&TrustBundles, &bundle("a", "", &certificate), &[]);
        check(&TrustBundles, &bundle("a.b:c:d", "a.b/c", &certificate), &[]);
        check(
            &TrustBundles,
            &bundle("d", "a.b/c", &certificate),
            &[
                "metadata.name: Invalid value: \"d\": ClusterTrustBundle for signerName a.b/c must be named with prefix a.b:c:",
            ],
        );
        check(&TrustBundles, &bundle("a:b", "", &certificate), &["metadata.name: Invalid value: \"a:b\": …"]);
        check(
            &TrustBundles,
            &bundle("a", "", ""),
            &[
                "spec.trustBundle: Invalid value: \"<value omitted>\": at least one trust anchor must be provided",
            ],
        );
        let twice = format!("{certificate}{certificate}");
        check(
            &TrustBundles,
            &bundle("a", "", &twice),
            &["spec.trustBundle: Invalid value: \"<value omitted>\": duplicate trust anchor"],
        );
        check_update(
            &TrustBundles,
            &bundle("a.b:c:d", "a.b/c", &certificate),
            &bundle("a.b:c:d", "a.b/d", &certificate),
            &["metadata.name: …", "spec.signerName: Invalid value: \"a.b/d\": field is immutable"],
        );
    }
}
