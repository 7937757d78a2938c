//! PodCertificateRequests: a node asks a signer for a certificate that a pod is to find in a projected volume.

use k8s_openapi::{
    api::certificates::v1::{PodCertificateRequest, PodCertificateRequestSpec, PodCertificateRequestStatus},
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
    jiff::{SignedDuration, Timestamp},
};
use naru_model::{
    ResourceInfo,
    validation::{FieldErrors, Path, names},
};
use serde_json::{Value, json};
use x509_parser::{
    certificate::Validity, certification_request::X509CertificationRequest, pem::Pem, prelude::FromDer as _,
};

use super::{
    Column, Kind,
    certificates::validate_signer,
    conditions,
    kind::{Context, age},
    podspec::OrEmpty,
    text,
};
use crate::auth::signing::check_request;

pub struct PodCertificateRequests;

const DAY_SECONDS: i32 = 86_400;
const MIN_SECONDS: i32 = 3_600;
const MAX_SECONDS: i32 = 91 * DAY_SECONDS;
/// How far from both ends of its lifetime a certificate may be renewed.
const REFRESH_MARGIN_SECONDS: i64 = 600;
const MAX_UID: usize = 128;
const MAX_REQUEST: usize = 10 << 10;
const MAX_CHAIN: usize = 100 << 10;
/// What a request comes to.
const VERDICTS: &[&str] = &["Issued", "Denied", "Failed"];

static RESOURCE: ResourceInfo = ResourceInfo {
    group: "certificates.k8s.io",
    subresources: &["status"],
    ..text::core_resource("PodCertificateRequest", "podcertificaterequests", "podcertificaterequest", &[])
};

const COLUMNS: &[Column] = &[
    text::NAME,
    text::column("PodName", "string", 0, "Name of the pod that the certificate is for."),
    text::column("ServiceAccountName", "string", 0, "Name of the service account that the pod runs as."),
    text::column("NodeName", "string", 0, "Name of the node that the pod runs on."),
    text::column("SignerName", "string", 0, "The signer that is asked."),
    text::column("State", "string", 0, "Whether the certificate was issued, or why not."),
    text::AGE,
];

impl Kind for PodCertificateRequests {
    type Object = PodCertificateRequest;

    fn resource(&self) -> &'static ResourceInfo {
        &RESOURCE
    }
    fn has_generation(&self) -> bool {
        false
    }

    fn default(&self, request: &mut PodCertificateRequest) {
        request.spec.max_expiration_seconds.get_or_insert(DAY_SECONDS);
    }

    fn prepare_create(&self, request: &mut PodCertificateRequest, _context: &Context<'_>) {
        request.status = None;
    }

    fn prepare_update(
        &self,
        new: &mut PodCertificateRequest,
        old: &PodCertificateRequest,
        _context: &Context<'_>,
    ) {
        new.status.clone_from(&old.status);
    }

    fn prepare_status_update(
        &self,
        new: &mut PodCertificateRequest,
        old: &PodCertificateRequest,
        _context: &Context<'_>,
    ) {
        new.spec.clone_from(&old.spec);
    }

    fn validate(&self, request: &PodCertificateRequest, errors: &mut FieldErrors) {
        let (spec, path) = (&request.spec, Path::new("spec"));
        validate_signer(&path.child("signerName"), &spec.signer_name, errors);
        validate_names(spec, &path, errors);
        for key in spec.unverified_user_annotations.iter().flatten().map(|(key, _)| key) {
            let path = path.child("unverifiedUserAnnotations");
            if !key.contains('/') {
                errors.invalid(&path, key.as_str(), "user-annotations must be prefixed with a domain name");
            }
            errors.problems(&path, key, names::qualified_name(&key.to_lowercase()));
        }
        let is_ours = spec
            .signer_name
            .split('/')
            .next()
            .is_some_and(|domain| domain == "kubernetes.io" || domain.ends_with(".kubernetes.io"));
        let longest = if is_ours { DAY_SECONDS } else { MAX_SECONDS };
        let seconds = spec.max_expiration_seconds.unwrap_or_default();
        if !(MIN_SECONDS..=longest).contains(&seconds) {
            let detail = format!("must be in the range [{MIN_SECONDS}, {longest}]");
            errors.invalid(&path.child("maxExpirationSeconds"), seconds, &detail);
        }
        let (request, path) = (&spec.stub_pkc_s10_request.0, path.child("stubPKCS10Request"));
        if request.len() > MAX_REQUEST {
            errors.too_long(&path, MAX_REQUEST);
        } else if check_request(request).is_err() {
            // That it is signed by its own key is part of reading it.
            errors.invalid(
                &path,
                json!(spec.stub_pkc_s10_request),
                "must be a valid PKCS#10 certificate request",
            );
        }
    }

    fn validate_update(
        &self,
        new: &PodCertificateRequest,
        old: &PodCertificateRequest,
        errors: &mut FieldErrors,
    ) {
        if new.spec != old.spec {
            errors.invalid(&Path::new("spec"), json!(new.spec), "field is immutable");
        }
    }

    fn validate_status_update(
        &self,
        new: &PodCertificateRequest,
        old: &PodCertificateRequest,
        errors: &mut FieldErrors,
    ) {
        let (path, empty) = (Path::new("status"), PodCertificateRequestStatus::default());
        let (before, after) = (old.status.as_ref().unwrap_or(&empty), new.status.as_ref().unwrap_or(&empty));
        let known = errors.0.len();
        validate_verdict(after.conditions.or_empty(), &path.child("conditions"), errors);
        if errors.0.len() > known {
            return;
        }
        if verdict(before).is_some() {
            if before != after {
                let detail = "immutable after PodCertificateRequest is issued, denied, or failed";
                errors.invalid(&path, json!(after), detail);
            }
            return;
        }
        let is_only_verdict = || {
            let conditions = after.conditions.clone();
            *after == PodCertificateRequestStatus { conditions, ..PodCertificateRequestStatus::default() }
        };
        match verdict(after) {
            Some("Issued") => validate_chain(&new.spec, after, &path, errors),
            Some(_) if is_only_verdict() => (),
            None if before == after => (),
            verdict => {
                let detail = match verdict {
                    Some(_) => {
                        "non-condition status fields must be empty when denying or failing the PodCertificateRequest"
                    }
                    None => r#"status is immutable unless transitioning to "Issued", "Denied", or "Failed""#,
                };
                errors.invalid(&path, json!(after), detail);
            }
        }
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, request: &PodCertificateRequest, now: Timestamp) -> Vec<Value> {
        let spec = &request.spec;
        let state = request.status.as_ref().and_then(verdict).unwrap_or("Pending");
        vec![
            request.metadata.name.or_empty().into(),
            spec.pod_name.as_str().into(),
            spec.service_account_name.as_str().into(),
            spec.node_name.as_str().into(),
            spec.signer_name.as_str().into(),
            state.into(),
            age(request.metadata.creation_timestamp.as_ref(), now).into(),
        ]
    }

    fn field_names(&self) -> &'static [&'static str] {
        &["spec.nodeName", "spec.podName", "spec.signerName"]
    }

    fn field(&self, request: &PodCertificateRequest, name: &str) -> String {
        let spec = &request.spec;
        match name {
            "spec.nodeName" => spec.node_name.clone(),
            "spec.podName" => spec.pod_name.clone(),
            _ => spec.signer_name.clone(),
        }
    }
}

/// The pod, its account and its node, each with its uid.
fn validate_names(spec: &PodCertificateRequestSpec, path: &Path, errors: &mut FieldErrors) {
    for (name, uid, (name_field, uid_field)) in [
        (&spec.pod_name, &spec.pod_uid, ("podName", "podUID")),
        (&spec.service_account_name, &spec.service_account_uid, ("serviceAccountName", "serviceAccountUID")),
        (&spec.node_name, &spec.node_uid, ("nodeName", "nodeUID")),
    ] {
        errors.problems(&path.child(name_field), name, names::dns1123_subdomain(name));
        if uid.is_empty() {
            errors.invalid(&path.child(uid_field), "", "must not be empty");
        }
        if uid.len() > MAX_UID {
            errors.too_long(&path.child(uid_field), MAX_UID);
        }
    }
}

/// At most one verdict, which must be true; nothing else.
fn validate_verdict(list: &[Condition], path: &Path, errors: &mut FieldErrors) {
    for (index, condition) in list.iter().enumerate() {
        let path = path.index(index);
        if !VERDICTS.contains(&condition.type_.as_str()) {
            errors.not_supported(&path.child("type"), condition.type_.as_str(), VERDICTS);
            continue;
        }
        if index > 0 {
            let detail = "There may be at most one condition with type \"Issued\", \"Denied\", or \"Failed\"";
            errors.invalid(&path.child("type"), condition.type_.as_str(), detail);
        }
        if condition.status != "True" {
            errors.not_supported(&path.child("status"), condition.status.as_str(), &["True"]);
        }
    }
    conditions::validate(list, path, errors);
}

fn verdict(status: &PodCertificateRequestStatus) -> Option<&'static str> {
    let list = status.conditions.or_empty();
    VERDICTS.iter().copied().find(|kind| conditions::is_true(list, kind))
}

/// A chain for the key of the request, with the times that its first certificate says. Checks go on only where those
/// before found nothing, as they rest on them.
fn validate_chain(
    spec: &PodCertificateRequestSpec,
    status: &PodCertificateRequestStatus,
    path: &Path,
    errors: &mut FieldErrors,
) {
    let (chain, chain_path) = (status.certificate_chain.or_empty(), path.child("certificateChain"));
    if chain.len() > MAX_CHAIN {
        return errors.too_long(&chain_path, MAX_CHAIN);
    }
    let mut blocks = Pem::iter_from_buffer(chain.as_bytes());
    let Some(Ok(leaf)) = blocks.next() else {
        let detail = "issued certificate chain must contain at least one certificate";
        return errors.invalid(&chain_path, chain, detail);
    };
    if leaf.label != "CERTIFICATE" {
        let detail = "issued certificate chain must consist entirely of CERTIFICATE PEM blocks";
        return errors.invalid(&chain_path, chain, detail);
    }
    let Ok(leaf) = leaf.parse_x509() else {
        return errors.invalid(&chain_path, chain, "leaf certificate does not parse as valid X.509");
    };
    let wanted = X509CertificationRequest::from_der(&spec.stub_pkc_s10_request.0);
    if wanted
        .is_ok_and(|(_, wanted)| wanted.certification_request_info.subject_pki.raw != leaf.public_key().raw)
    {
        let detail = "leaf certificate was not issued to the requested public key";
        return errors.invalid(&chain_path, chain, detail);
    }
    if validate_times(spec, status, leaf.validity(), path, errors).is_none() {
        return;
    }
    for block in blocks.map_while(Result::ok) {
        let detail = if block.label != "CERTIFICATE" {
            "issued certificate chain must consist entirely of CERTFICATE PEM blocks"
        } else if block.parse_x509().is_err() {
            "intermediate certificate does not parse as valid X.509"
        } else {
            continue;
        };
        return errors.invalid(&chain_path, chain, detail);
    }
}

/// `None` where they are not right.
fn validate_times(
    spec: &PodCertificateRequestSpec,
    status: &PodCertificateRequestStatus,
    validity: &Validity,
    path: &Path,
    errors: &mut FieldErrors,
) -> Option<()> {
    let all = [
        ("notBefore", &status.not_before, "must be present and consistent with the issued certificate"),
        ("notAfter", &status.not_after, "must be present and consistent with the issued certificate"),
        (
            "beginRefreshAt",
            &status.begin_refresh_at,
            "must be present and in the range [notbefore+10min, notafter-10min]",
        ),
    ];
    for (field, time, detail) in all {
        if time.is_none() {
            errors.required(&path.child(field), detail);
        }
    }
    let second = |time: &Option<Time>| time.as_ref().map(|time| time.0.as_second());
    let (begin, end) = (second(&status.not_before)?, second(&status.not_after)?);
    let refresh = second(&status.begin_refresh_at)?;
    let (valid_from, valid_to) = (validity.not_before.timestamp(), validity.not_after.timestamp());
    let lifetime = valid_to - valid_from;
    let longest = spec.max_expiration_seconds.unwrap_or_default();
    let too_long = format!("leaf certificate lifetime must be <= spec.maxExpirationSeconds ({longest})");
    let go = |seconds| json!(naru_model::duration::go(SignedDuration::from_secs(seconds)));
    let (field, value, detail) = if begin != valid_from {
        (
            "notBefore",
            json!(status.not_before),
            "must be set to the NotBefore time encoded in the leaf certificate",
        )
    } else if end != valid_to {
        (
            "notAfter",
            json!(status.not_after),
            "must be set to the NotAfter time encoded in the leaf certificate",
        )
    } else if lifetime < i64::from(MIN_SECONDS) {
        ("certificateChain", go(lifetime), "leaf certificate lifetime must be >= 1 hour")
    } else if lifetime > i64::from(longest) {
        ("certificateChain", go(lifetime), &*too_long)
    } else if refresh < begin + REFRESH_MARGIN_SECONDS {
        (
            "beginRefreshAt",
            json!(status.begin_refresh_at),
            "must be at least 10 minutes after status.notBefore",
        )
    } else if refresh > end - REFRESH_MARGIN_SECONDS {
        (
            "beginRefreshAt",
            json!(status.begin_refresh_at),
            "must be at least 10 minutes before status.notAfter",
        )
    } else {
        return Some(());
    };
    errors.invalid(&path.child(field), value, detail);
    None
}

#[cfg(test)]
mod tests {
    use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
    use rcgen::{CertificateParams, KeyPair};

    use super::{
        super::testing::{assert_errors, cells, check, check_update, create, decode, update_status},
        *,
    };

    fn request() -> String {
        request_of(&KeyPair::generate().expect("a key"))
    }

    fn request_of(key: &KeyPair) -> String {
        let request = CertificateParams::default().serialize_request(key).expect("a request");
        format!(
            "{{metadata: {{name: a, namespace: shop}}, spec: {{signerName: example.com/s, podName: p, podUID: u1, \
             serviceAccountName: sa, serviceAccountUID: u2, nodeName: n, nodeUID: u3, stubPKCS10Request: {}}}}}",
            BASE64.encode(request.der())
        )
    }

    #[test]
    fn a_request_says_for_whom_it_is_and_never_changes() {
        let (kind, ours) = (PodCertificateRequests, request());
        check(&kind, &ours, &[]);
        assert_eq!(create(&kind, &ours).0.spec.max_expiration_seconds, Some(DAY_SECONDS));
        let with = |from: &str, to: &str| ours.replace(from, to);
        check(&kind, &with("u2", "''"), &["spec.serviceAccountUID: Invalid value: \"\": must not be empty"]);
        check(&kind, &with("podName: p", "podName: P"), &["spec.podName: Invalid value: \"P\"…"]);
        check(
            &kind,
            &with("nodeUID", "maxExpirationSeconds: 60, nodeUID"),
            &["spec.maxExpirationSeconds: Invalid value: 60: must be in the range [3600, 7862400]"],
        );
        check(
            &kind,
            &with("stubPKCS10Request: MI", "stubPKCS10Request: AA"),
            &["spec.stubPKCS10Request: Invalid value: …"],
        );
        check_update(&kind, &ours, &with("u3", "u4"), &["spec: Invalid value: …"]);
        assert_eq!(cells(&kind, &ours)[4], "Pending");
    }

    #[test]
    fn a_verdict_is_final() {
        let (kind, ours) = (PodCertificateRequests, request());
        let old = create(&kind, &ours).0;
        let with = |status: &str| {
            decode::<PodCertificateRequests>(&ours.replace("spec:", &format!("status: {status}, spec:")))
        };
        let verdict = |of: &str, rest: &str| {
            with(&format!(
                "{{conditions: [{{type: {of}, status: 'True', reason: R, message: '', lastTransitionTime: \
                 '2026-01-01T00:00:00Z'}}]{rest}}}"
            ))
        };
        let (denied, errors) = update_status(&kind, &old, verdict("Denied", ""));
        assert_errors(&errors, &[], "denied");
        let changed = update_status(&kind, &denied, verdict("Failed", "")).1;
        assert_errors(&changed, &["status: Invalid value: …"], "failed after denied");
        let odd = update_status(&kind, &old, verdict("Lost", "")).1;
        assert_errors(&odd, &["status.conditions[0].type: Unsupported value: \"Lost\"…"], "lost");
        let empty = update_status(&kind, &old, verdict("Issued", "")).1;
        assert_errors(&empty, &["status.certificateChain: Invalid value: \"\"…"], "issued without a chain");

        let chain = |pem: String| format!(", certificateChain: {}", json!(pem));
        let stranger = CertificateParams::default().self_signed(&KeyPair::generate().expect("a key"));
        let stranger = chain(stranger.expect("a certificate").pem());
        let stranger = update_status(&kind, &old, verdict("Issued", &stranger)).1;
        let expected = ["status.certificateChain: Invalid value: …"];
        assert_errors(&stranger, &expected, "another's certificate");
    }

    #[test]
    fn an_issued_certificate_is_of_the_request_s_key_and_tells_its_times() {
        let kind = PodCertificateRequests;
        let key = KeyPair::generate().expect("a key");
        let ours = request_of(&key);
        let old = create(&kind, &ours).0;
        let day = |day: u8| rcgen::date_time_ymd(2026, 1, day);
        let issue = |last: u8| {
            let mut params = CertificateParams::default();
            (params.not_before, params.not_after) = (day(1), day(last));
            json!(params.self_signed(&key).expect("a certificate").pem())
        };
        let errors = |chain: &Value, rest: &str| {
            let status = format!(
                "{{conditions: [{{type: Issued, status: 'True', reason: R, message: '', lastTransitionTime: \
                 '2026-01-01T00:00:00Z'}}], certificateChain: {chain}{rest}}}"
            );
            let new = ours.replace("spec:", &format!("status: {status}, spec:"));
            update_status(&kind, &old, decode::<PodCertificateRequests>(&new)).1
        };
        let times = |end: &str, refresh: &str| {
            format!(", notBefore: '2026-01-01T00:00:00Z', notAfter: '{end}', beginRefreshAt: '{refresh}'")
        };
        let (chain, end) = (issue(2), "2026-01-02T00:00:00Z");
        assert_errors(&errors(&chain, &times(end, "2026-01-01T12:00:00Z")), &[], "as it should be");
        for (chain, rest, expected) in [
            (
                &chain,
                String::new(),
                &[
                    "status.notBefore: Required value…",
                    "status.notAfter: Required value…",
                    "status.beginRefreshAt: Required value…",
                ][..],
            ),
            (&chain, times("2026-01-03T00:00:00Z", end), &["status.notAfter: Invalid value…"]),
            (
                &chain,
                times(end, "2026-01-01T00:09:00Z"),
                &[
                    "status.beginRefreshAt: Invalid value: \"2026-01-01T00:09:00Z\": must be at least 10 minutes after status.notBefore",
                ],
            ),
            (&chain, times(end, "2026-01-01T23:51:00Z"), &["status.beginRefreshAt: Invalid value…"]),
            (
                &issue(3),
                times("2026-01-03T00:00:00Z", "2026-01-01T12:00:00Z"),
                &[
                    "status.certificateChain: Invalid value: \"48h0m0s\": leaf certificate lifetime must be <= spec.maxExpirationSeconds (86400)",
                ],
            ),
        ] {
            assert_errors(&errors(chain, &rest), expected, &rest);
        }
    }
}
