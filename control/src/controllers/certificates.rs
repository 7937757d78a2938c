//! Approves kubelets' requests for client certificates, issues what was approved, and clears away what is done.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use k8s_openapi::{
    ByteString,
    api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition},
    jiff::{SignedDuration, Timestamp},
};
use naru_model::Object;
use serde_json::json;

use super::framework::{Action, Cache, Change, ClusterView, Controller, Plan, Write, key_of};
use crate::{
    auth::{
        Attributes, Authorizer, User,
        signing::{Authority, Requested},
    },
    client::Patch,
    store::Key,
};

const CLIENT: &str = "kubernetes.io/kube-apiserver-client";
const KUBELET_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
const KUBELET_SERVING: &str = "kubernetes.io/kubelet-serving";
const MAX_VALIDITY: SignedDuration = SignedDuration::from_hours(24 * 365);
const KEEP_DONE: SignedDuration = SignedDuration::from_hours(1);
const KEEP_PENDING: SignedDuration = SignedDuration::from_hours(24);

/// A key is a request.
pub struct Certificates {
    pub authority: Arc<Authority>,
    pub authorizer: Arc<Authorizer>,
}

impl Controller for Certificates {
    fn name(&self) -> &'static str {
        "certificate-controller"
    }

    fn concerns(&self, change: &Change<'_>, _cache: &Cache, look: &mut dyn FnMut(Key)) {
        if change.is::<CertificateSigningRequest>() && !change.is_deleted {
            look(change.entry.key.clone());
        }
    }

    fn reconcile(&self, key: &Key, view: &ClusterView<'_>) -> Plan {
        let mut plan = Plan::nothing();
        let Some(request) = view.cache.get::<CertificateSigningRequest>("", key.name()) else { return plan };
        let verdict = ["Denied", "Failed", "Approved"].into_iter().find(|kind| has(&request, kind));
        let has_certificate = certificate(&request).is_some();
        let ends = ends_at(&request, verdict.is_some() || has_certificate);
        if ends <= view.now {
            plan.then([Write::delete(&*request)]);
            return plan;
        }
        plan.again = Some(Duration::try_from(ends.duration_since(view.now)).unwrap_or_default());
        match verdict {
            None if self.approves(&request) => plan.then([approval(&request)]),
            Some("Approved") if !has_certificate => {
                if let Some(outcome) = self.issue(&request, view.now) {
                    plan.then([Write::update_status(with_outcome(&request, outcome))]);
                }
            }
            _ => (),
        }
        plan
    }
}

impl Certificates {
    /// Whether a node, or who is about to become one, may have its certificate without being asked about.
    fn approves(&self, request: &CertificateSigningRequest) -> bool {
        let spec = &request.spec;
        let Some(requested) = Requested::parse(&spec.request.0) else { return false };
        if spec.signer_name != KUBELET_CLIENT || check(KUBELET_CLIENT, &requested, request).is_err() {
            return false;
        }
        let user = User {
            name: spec.username.clone().unwrap_or_default().into(),
            uid: spec.uid.clone().unwrap_or_default().into(),
            groups: spec.groups.clone().unwrap_or_default().into(),
            extra: Arc::new(spec.extra.clone().unwrap_or_default()),
        };
        let may = |subresource| {
            let attributes = Attributes {
                verb: "create",
                group: "certificates.k8s.io",
                resource: "certificatesigningrequests",
                subresource,
                ..Attributes::default()
            };
            self.authorizer.is_allowed(&user, &attributes)
        };
        (*user.name == *requested.name && may("selfnodeclient")) || may("nodeclient")
    }

    /// The certificate in PEM, or why there is none; `None` for other signers' requests.
    fn issue(&self, request: &CertificateSigningRequest, now: Timestamp) -> Option<Result<String, String>> {
        let signer = request.spec.signer_name.as_str();
        if ![CLIENT, KUBELET_CLIENT, KUBELET_SERVING].contains(&signer) {
            return None;
        }
        let asked = request.spec.expiration_seconds.map(|seconds| SignedDuration::from_secs(seconds.into()));
        let validity = asked.unwrap_or(MAX_VALIDITY).min(MAX_VALIDITY);
        let issue = || {
            let requested = Requested::parse(&request.spec.request.0).ok_or("the request cannot be read")?;
            check(signer, &requested, request)?;
            let usages = request.spec.usages.as_deref().unwrap_or_default();
            self.authority.sign(requested, usages, now, validity)
        };
        Some(issue())
    }
}

/// The rules of each signer.
fn check(signer: &str, requested: &Requested, request: &CertificateSigningRequest) -> Result<(), String> {
    let usages: BTreeSet<&str> = request.spec.usages.iter().flatten().map(String::as_str).collect();
    let purpose = if signer == KUBELET_SERVING { "server auth" } else { "client auth" };
    let is_usual = |usage: &&str| ["digital signature", "key encipherment", purpose].contains(usage);
    if !usages.contains(purpose) || !usages.iter().all(is_usual) {
        return Err(format!(
            "invalid usages {usages:?}: {purpose:?} is needed, with digital signature and key encipherment"
        ));
    }
    if signer == CLIENT {
        return Ok(());
    }
    if requested.groups != ["system:nodes"] {
        return Err("subject organization is not system:nodes".into());
    }
    if !requested.name.starts_with("system:node:") {
        return Err("subject common name does not begin with system:node:".into());
    }
    if signer == KUBELET_CLIENT {
        return if requested.has_names() {
            Err("DNS, IP, email or URI subjectAltNames are not allowed".into())
        } else {
            Ok(())
        };
    }
    if request.spec.username.as_deref() != Some(&*requested.name) {
        return Err("the requestor is not the node that the certificate is for".into());
    }
    if !requested.has_only_hosts() {
        return Err(
            "DNS or IP subjectAltName is required, email and URI subjectAltNames are not allowed".into()
        );
    }
    Ok(())
}

fn has(request: &CertificateSigningRequest, kind: &str) -> bool {
    conditions(request).any(|condition| condition.type_ == kind)
}

fn conditions(
    request: &CertificateSigningRequest,
) -> impl Iterator<Item = &CertificateSigningRequestCondition> {
    request.status.iter().flat_map(|status| status.conditions.iter().flatten())
}

fn certificate(request: &CertificateSigningRequest) -> Option<&ByteString> {
    let certificate = request.status.as_ref()?.certificate.as_ref();
    certificate.filter(|certificate| !certificate.0.is_empty())
}

/// When the request is of no more use.
fn ends_at(request: &CertificateSigningRequest, is_done: bool) -> Timestamp {
    let created = request.metadata.creation_timestamp.as_ref().map(|time| time.0).unwrap_or_default();
    let settled = conditions(request).filter_map(|of| Some(of.last_update_time.as_ref()?.0)).max();
    let (since, keep) =
        if is_done { (settled.unwrap_or(created), KEEP_DONE) } else { (created, KEEP_PENDING) };
    since.saturating_add(keep).unwrap_or(Timestamp::MAX)
}

fn approval(request: &CertificateSigningRequest) -> Write {
    let condition = json!({
        "type": "Approved",
        "status": "True",
        "reason": "AutoApproved",
        "message": "Auto approving kubelet client certificate after SubjectAccessReview.",
    });
    let patch = Patch::Merge(json!({ "status": { "conditions": [condition] } }));
    let key = key_of::<CertificateSigningRequest>("", request.name());
    Action::Patch { key, subresource: "approval", patch }.into()
}

fn with_outcome(
    request: &CertificateSigningRequest,
    outcome: Result<String, String>,
) -> CertificateSigningRequest {
    let mut done = request.clone();
    let status = done.status.get_or_insert_default();
    match outcome {
        Ok(pem) => status.certificate = Some(ByteString(pem.into_bytes())),
        Err(message) => status.conditions.get_or_insert_default().push(CertificateSigningRequestCondition {
            type_: "Failed".into(),
            status: "True".into(),
            reason: Some("SignerValidationFailure".into()),
            message: Some(message),
            ..CertificateSigningRequestCondition::default()
        }),
    }
    done
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair};
    use serde_json::Value;

    use super::*;
    use crate::{auth::pki::Pki, controllers::testing::World};

    struct Desk {
        world: World,
        controller: Certificates,
        _folder: tempfile::TempDir,
    }

    impl Desk {
        fn new() -> Self {
            let folder = tempfile::tempdir().expect("a folder");
            let authority = Pki::open(folder.path(), &["localhost".into()]).expect("an authority").signer();
            let authorizer = Arc::new(Authorizer::of_defaults());
            Self {
                world: World::default(),
                controller: Certificates { authority, authorizer },
                _folder: folder,
            }
        }

        /// What becomes of an approved request.
        fn outcome(&mut self, changes: Value, subject: &[(DnType, &str)], names: &[&str]) -> String {
            let mut params =
                CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())
                    .expect("names");
            params.distinguished_name = rcgen::DistinguishedName::new();
            for (kind, text) in subject {
                params.distinguished_name.push(kind.clone(), *text);
            }
            let key = KeyPair::generate().expect("a key");
            let pem = params.serialize_request(&key).and_then(|request| request.pem()).expect("a request");
            let mut request = json!({
                "metadata": { "name": "a", "creationTimestamp": self.world.now.to_string() },
                "spec": {
                    "request": ByteString(pem.into_bytes()),
                    "signerName": CLIENT,
                    "usages": ["client auth", "digital signature"],
                    "username": "jane",
                },
                "status": { "conditions": [{ "type": "Approved", "status": "True" }] },
            });
            json_patch::merge(&mut request, &changes);
            self.world.add(serde_json::from_value::<CertificateSigningRequest>(request).expect("a request"));
            let key = key_of::<CertificateSigningRequest>("", "a");
            self.world.settle(&self.controller, &key);
            let Some(request) = self.world.find::<CertificateSigningRequest>("", "a") else {
                return "deleted".into();
            };
            if let Some(certificate) = certificate(&request) {
                let der = rustls::pki_types::pem::PemObject::from_pem_slice(&certificate.0);
                let der: rustls::pki_types::CertificateDer<'_> = der.expect("a certificate");
                let (name, groups) = crate::auth::pki::subject(&der).expect("a subject");
                return format!("issued to {name} of {}", groups.join(","));
            }
            let failed = conditions(&request).find(|of| of.type_ == "Failed");
            failed.map_or_else(String::new, |of| of.message.clone().unwrap_or_default())
        }
    }

    #[test]
    fn each_signer_has_its_rules() {
        let jane = [(DnType::CommonName, "jane"), (DnType::OrganizationName, "devs")];
        let node = [(DnType::CommonName, "system:node:amber"), (DnType::OrganizationName, "system:nodes")];
        let of = |signer: &str, usage: &str, username: &str| json!({ "spec": { "signerName": signer, "usages": [usage], "username": username } });
        let serving = of(KUBELET_SERVING, "server auth", "system:node:amber");
        type Case<'a> = (Value, &'a [(DnType, &'a str)], &'a [&'a str], &'a str);
        let cases: Vec<Case<'_>> = vec![
            (json!({}), &jane, &[], "issued to jane of devs"),
            (
                of(CLIENT, "server auth", "jane"),
                &jane,
                &[],
                "invalid usages {\"server auth\"}: \"client auth\" is needed, with digital signature and key encipherment",
            ),
            (of("shop.example/own", "client auth", "jane"), &jane, &[], ""),
            (
                of(KUBELET_CLIENT, "client auth", "jane"),
                &node,
                &[],
                "issued to system:node:amber of system:nodes",
            ),
            (
                of(KUBELET_CLIENT, "client auth", "jane"),
                &jane,
                &[],
                "subject organization is not system:nodes",
            ),
            (
                of(KUBELET_CLIENT, "client auth", "jane"),
                &node,
                &["a.b"],
                "DNS, IP, email or URI subjectAltNames are not allowed",
            ),
            (serving.clone(), &node, &["amber", "127.0.0.1"], "issued to system:node:amber of system:nodes"),
            (
                serving,
                &node,
                &[],
                "DNS or IP subjectAltName is required, email and URI subjectAltNames are not allowed",
            ),
            (
                of(KUBELET_SERVING, "server auth", "jane"),
                &node,
                &["amber"],
                "the requestor is not the node that the certificate is for",
            ),
            (json!({ "status": { "conditions": [{ "type": "Denied", "status": "True" }] } }), &jane, &[], ""),
            (json!({ "metadata": { "creationTimestamp": "2000-01-01T00:00:00Z" } }), &jane, &[], "deleted"),
        ];
        for (changes, subject, names, expected) in cases {
            assert_eq!(Desk::new().outcome(changes.clone(), subject, names), expected, "{changes}");
        }
    }

    #[test]
    fn only_who_may_ask_for_nodes_is_approved_without_a_human() {
        let node = [(DnType::CommonName, "system:node:amber"), (DnType::OrganizationName, "system:nodes")];
        let ask = |group: &str| {
            json!({
                "spec": { "signerName": KUBELET_CLIENT, "usages": ["client auth"], "groups": [group] },
                "status": { "conditions": null },
            })
        };
        assert_eq!(Desk::new().outcome(ask("system:bootstrappers"), &node, &[]), "");
        let issued = "issued to system:node:amber of system:nodes";
        assert_eq!(Desk::new().outcome(ask("system:masters"), &node, &[]), issued);
    }
}
