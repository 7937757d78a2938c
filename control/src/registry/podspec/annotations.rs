//! Annotations that once were fields, and still are checked like them.

use k8s_openapi::api::core::v1::{AppArmorProfile, PodSpec, SeccompProfile};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use naru_model::validation::{FieldErrors, Path};
use std::collections::BTreeMap;

use super::{OrEmpty, check, visit_containers};

const MIRROR_POD: &str = "kubernetes.io/config.mirror";
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";
const APP_ARMOR_PREFIX: &str = "container.apparmor.security.beta.kubernetes.io/";
const SECCOMP_POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
const SECCOMP_PREFIX: &str = "container.seccomp.security.alpha.kubernetes.io/";

/// Checks the annotations of a pod or template; `path` is that of the annotations.
pub(in crate::registry) fn pod_annotations(
    meta: &ObjectMeta,
    spec: &PodSpec,
    path: &Path,
    errors: &mut FieldErrors,
) {
    for (key, value) in meta.annotations.iter().flatten() {
        if key == MIRROR_POD && spec.node_name.or_empty().is_empty() {
            errors.invalid(
                &path.key(key),
                value.as_str(),
                "must set spec.nodeName if mirror pod annotation is set",
            );
        }
        if key == DELETION_COST && !is_deletion_cost(value) {
            errors.invalid(&path.key(key), value.as_str(), "must be a 32bit integer");
        }
        if key == SECCOMP_POD || key.starts_with(SECCOMP_PREFIX) {
            seccomp_annotation(value, &path.child(key), errors);
        }
        if let Some(container) = key.strip_prefix(APP_ARMOR_PREFIX) {
            app_armor_annotation(container, value, spec, &path.key(key), errors);
        }
    }
}

/// A 32-bit number without a plus sign or leading zeros, so that text order can't mislead.
fn is_deletion_cost(value: &str) -> bool {
    value.parse::<i32>().is_ok_and(|cost| cost.to_string() == value)
}

fn seccomp_annotation(value: &str, path: &Path, errors: &mut FieldErrors) {
    match value {
        "runtime/default" | "docker/default" | "unconfined" => {}
        _ => match value.strip_prefix("localhost/") {
            Some(profile) => check::local_path(profile, path, errors),
            None => errors.invalid(path, value, "must be a valid seccomp profile"),
        },
    }
}

fn app_armor_annotation(container: &str, value: &str, spec: &PodSpec, path: &Path, errors: &mut FieldErrors) {
    let mut is_known = false;
    visit_containers(spec, path, |visited, _| is_known |= visited.name == container);
    if !is_known {
        errors.invalid(path, container, "container not found");
    }
    let is_profile =
        matches!(value, "" | "runtime/default" | "unconfined") || value.starts_with("localhost/");
    if !is_profile {
        errors.invalid(path, value, &format!("invalid AppArmor profile name: {value:?}"));
    }
}

/// Where an annotation and the field that replaced it are both set, they must say the same.
pub(in crate::registry) fn match_profiles(
    meta: &ObjectMeta,
    spec: &PodSpec,
    path: &Path,
    errors: &mut FieldErrors,
) {
    let annotation = |key: &str| meta.annotations.as_ref().and_then(|annotations| annotations.get(key));
    let context = spec.security_context.as_ref();
    let pod_seccomp = context.and_then(|context| context.seccomp_profile.as_ref());
    if let (Some(profile), Some(value)) = (pod_seccomp, annotation(SECCOMP_POD)) {
        seccomp_matches(value, profile, &path.child("securityContext"), errors);
    }
    let is_windows = spec.os.as_ref().is_some_and(|os| os.name == "windows");
    let pod_app_armor = context.and_then(|context| context.app_armor_profile.as_ref());
    visit_containers(spec, path, |container, path| {
        let path = path.child("securityContext");
        let seccomp = container.security_context.and_then(|context| context.seccomp_profile.as_ref());
        if let (Some(profile), Some(value)) =
            (seccomp, annotation(&format!("{SECCOMP_PREFIX}{}", container.name)))
        {
            seccomp_matches(value, profile, &path, errors);
        }
        let app_armor = container.security_context.and_then(|context| context.app_armor_profile.as_ref());
        let annotated = annotation(&format!("{APP_ARMOR_PREFIX}{}", container.name));
        if let (Some(profile), Some(value), false) = (app_armor.or(pod_app_armor), annotated, is_windows) {
            app_armor_matches(value, profile, &path, errors);
        }
    });
}

fn seccomp_matches(annotation: &str, profile: &SeccompProfile, context: &Path, errors: &mut FieldErrors) {
    let path = context.child("seccompProfile");
    let (local, ok) = match profile.type_.as_str() {
        "Unconfined" => (None, annotation == "unconfined"),
        "RuntimeDefault" => (None, matches!(annotation, "runtime/default" | "docker/default")),
        "Localhost" => (annotation.strip_prefix("localhost/"), annotation.starts_with("localhost/")),
        _ => (None, true),
    };
    if !ok {
        errors.forbidden(&path.child("type"), "seccomp type in annotation and field must match");
    } else if local.is_some() && local != profile.localhost_profile.as_deref() {
        let detail = "seccomp profile in annotation and field must match";
        errors.forbidden(&path.child("localhostProfile"), detail);
    }
}

fn app_armor_matches(annotation: &str, profile: &AppArmorProfile, context: &Path, errors: &mut FieldErrors) {
    let path = context.child("appArmorProfile");
    let (local, ok) = match profile.type_.as_str() {
        "Unconfined" => (None, annotation == "unconfined"),
        "RuntimeDefault" => (None, annotation == "runtime/default"),
        "Localhost" => (annotation.strip_prefix("localhost/"), annotation.starts_with("localhost/")),
        _ => (None, true),
    };
    if !ok {
        errors.forbidden(&path.child("type"), "apparmor type in annotation and field must match");
    } else if local.is_some() && local != profile.localhost_profile.as_deref() {
        let detail = "apparmor profile in annotation and field must match";
        errors.forbidden(&path.child("localhostProfile"), detail);
    }
}

/// Annotations that say what a pod is can't change while it lives.
pub(in crate::registry) fn annotation_updates(
    new: &ObjectMeta,
    old: &ObjectMeta,
    path: &Path,
    errors: &mut FieldErrors,
) {
    let empty = BTreeMap::new();
    let (new, old) = (new.annotations.as_ref().unwrap_or(&empty), old.annotations.as_ref().unwrap_or(&empty));
    let mut refuse = |key: &str, action: &str| {
        let what = match key {
            MIRROR_POD => "mirror pod annotation",
            _ if key.starts_with(APP_ARMOR_PREFIX) => "AppArmor annotations",
            _ => return,
        };
        errors.forbidden(&path.key(key), &format!("may not {action} {what}"));
    };
    for (key, value) in old {
        if new.get(key) != Some(value) {
            refuse(key, "remove or update");
        }
    }
    for key in new.keys().filter(|key| !old.contains_key(*key)) {
        refuse(key, "add");
    }
}
