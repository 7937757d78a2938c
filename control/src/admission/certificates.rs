//! Certificates: a request says who made it, and signers' names guard who may approve, sign or attest.

use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, ClusterTrustBundle};

use super::refused;
use crate::{
    ApiError,
    auth::{Attributes, Authorizer, MASTERS, signing::Requested},
    registry::{AnyObject, Call, Part},
};

const API_CLIENT: &str = "kubernetes.io/kube-apiserver-client";

pub(super) fn admit_create(call: &Call<'_>, object: &mut dyn AnyObject) -> Result<(), ApiError> {
    let name = object.name().to_owned();
    let Some(request) = object.get_mut::<CertificateSigningRequest>() else { return Ok(()) };
    let spec = &mut request.spec;
    spec.username = Some(call.user.name.to_string());
    spec.uid = Some(call.user.uid.to_string()).filter(|uid| !uid.is_empty());
    spec.groups = Some(call.user.groups.to_vec());
    spec.extra = (!call.user.extra.is_empty()).then(|| (*call.user.extra).clone());
    let requested = Requested::parse(&spec.request.0);
    let wants_everything = requested.is_some_and(|of| of.groups.iter().any(|group| group == MASTERS));
    if spec.signer_name == API_CLIENT && wants_everything {
        let message = format!("use of {API_CLIENT} signer with {MASTERS} group is not allowed");
        return Err(refused(call, &name, message));
    }
    Ok(())
}

pub(super) fn admit_update(
    authorizer: &Authorizer,
    call: &Call<'_>,
    part: Part,
    new: &dyn AnyObject,
    old: &dyn AnyObject,
) -> Result<(), ApiError> {
    let (Some(new), Some(old)) =
        (new.get::<CertificateSigningRequest>(), old.get::<CertificateSigningRequest>())
    else {
        return Ok(());
    };
    let verb = match part {
        Part::Approval => "approve",
        Part::Status if signs(new, old) => "sign",
        _ => return Ok(()),
    };
    let signer = &old.spec.signer_name;
    if may(authorizer, call, verb, signer) {
        return Ok(());
    }
    let message = format!("user not permitted to {verb} requests with signerName {signer:?}");
    Err(refused(call, call.name, message))
}

/// Who writes a bundle for a signer must be allowed to attest for it.
pub(super) fn admit_bundle(
    authorizer: &Authorizer,
    call: &Call<'_>,
    object: &dyn AnyObject,
) -> Result<(), ApiError> {
    let Some(bundle) = object.get::<ClusterTrustBundle>() else { return Ok(()) };
    let signer = bundle.spec.signer_name.as_deref().unwrap_or_default();
    if signer.is_empty() || may(authorizer, call, "attest", signer) {
        return Ok(());
    }
    let message = format!("user not permitted to attest for signerName {signer:?}");
    Err(refused(call, object.name(), message))
}

/// Whether the update issues the certificate, or says that this failed.
fn signs(new: &CertificateSigningRequest, old: &CertificateSigningRequest) -> bool {
    let facts = |request: &CertificateSigningRequest| {
        let status = request.status.clone().unwrap_or_default();
        let has_failed = status.conditions.iter().flatten().any(|condition| condition.type_ == "Failed");
        (status.certificate, has_failed)
    };
    facts(new) != facts(old)
}

/// Asks for the signer by its name, then for all of its domain.
fn may(authorizer: &Authorizer, call: &Call<'_>, verb: &str, signer: &str) -> bool {
    let asked = |name: &str| {
        let attributes = Attributes {
            verb,
            group: "certificates.k8s.io",
            resource: "signers",
            name,
            ..Attributes::default()
        };
        authorizer.is_allowed(call.user, &attributes)
    };
    let domain = signer.split('/').next().unwrap_or_default();
    asked(signer) || asked(&format!("{domain}/*"))
}
