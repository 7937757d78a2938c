//! PodSecurity: the Pod Security Standards, as a namespace's labels ask for them.
//!
//! Pods that violate what is enforced are refused; whoever makes pods, or writes a workload that will, is warned.

mod baseline;
mod parts;
mod policy;
mod restricted;

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::{
    api::{
        apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet},
        batch::v1::{CronJob, Job},
        core::v1::{Namespace, Pod, PodSpec, PodTemplate, PodTemplateSpec, ReplicationController},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use naru_model::validation::{FieldErrors, summary};

use self::{
    parts::Violation,
    policy::{Level, Policy, Rule},
};
use super::chain::{Plugin, Write};
use crate::{
    ApiError, audit,
    registry::AnyObject,
    store::{Key, Scope},
};

/// So many pods are looked at when a namespace's level rises.
const MAX_CHECKED: usize = 3000;

pub(super) struct PodSecurity;

impl Plugin for PodSecurity {
    fn validate(&self, write: &Write<'_>, object: &dyn AnyObject) -> Result<(), ApiError> {
        if let Some(namespace) = object.get::<Namespace>() {
            return check_namespace(write, namespace);
        }
        let Some((meta, spec)) = pod_of(object) else { return Ok(()) };
        let Some(namespace) = write.view.get(&Key::new("namespaces", "", write.call.namespace)) else {
            return Ok(());
        };
        let mut errors = FieldErrors::default();
        let policy = Policy::of(&namespace.meta.labels, &mut errors);
        let pod = object.get::<Pod>();
        if policy.allows_everything() && errors.is_empty() {
            if pod.is_some() {
                annotate(write, "enforce-policy", || policy.enforce.to_string());
            }
            return Ok(());
        }
        if let (Some(pod), Some(old)) = (pod, write.old.and_then(|old| old.get::<Pod>()))
            && !is_significant(pod, old)
        {
            return Ok(());
        }
        if !errors.is_empty() {
            annotate(write, "error", || format!("Failed to parse policy: {}", summary(&errors.0)));
        }
        let would_violate = |rule: Rule| {
            let found = violations(rule, meta, spec);
            (!found.is_empty()).then(|| format!("would violate PodSecurity \"{rule}\": {}", details(&found)))
        };
        if write.call.is_recorded()
            && let Some(text) = would_violate(policy.audit)
        {
            annotate(write, "audit-violations", || text);
        }
        if pod.is_some() {
            let rule = policy.enforce;
            annotate(write, "enforce-policy", || rule.to_string());
            let violations = violations(rule, meta, spec);
            if !violations.is_empty() {
                let message = format!("violates PodSecurity \"{rule}\": {}", details(&violations));
                return Err(write.refuse(object, message));
            }
        }
        write.call.warn(would_violate(policy.warn));
        Ok(())
    }
}

/// Notes `pod-security.kubernetes.io/KEY` for the audit log.
fn annotate(write: &Write<'_>, key: &str, value: impl FnOnce() -> String) {
    write.call.annotate(audit::Level::Metadata, || (format!("{}{key}", policy::LABEL), value()));
}

/// The pod in a pod, or the one that a workload makes.
fn pod_of(object: &dyn AnyObject) -> Option<(&ObjectMeta, &PodSpec)> {
    if let Some(pod) = object.get::<Pod>() {
        return Some((&pod.metadata, pod.spec.as_ref()?));
    }
    let template = template_of(object)?;
    Some((template.metadata.as_ref().unwrap_or_else(|| object.meta()), template.spec.as_ref()?))
}

fn template_of(object: &dyn AnyObject) -> Option<&PodTemplateSpec> {
    if let Some(deployment) = object.get::<Deployment>() {
        return Some(&deployment.spec.template);
    }
    if let Some(set) = object.get::<ReplicaSet>() {
        return set.spec.template.as_ref();
    }
    if let Some(set) = object.get::<StatefulSet>() {
        return Some(&set.spec.template);
    }
    if let Some(set) = object.get::<DaemonSet>() {
        return Some(&set.spec.template);
    }
    if let Some(job) = object.get::<Job>() {
        return Some(&job.spec.as_ref()?.template);
    }
    if let Some(job) = object.get::<CronJob>() {
        return Some(&job.spec.job_template.spec.as_ref()?.template);
    }
    if let Some(controller) = object.get::<ReplicationController>() {
        return controller.spec.as_ref()?.template.as_ref();
    }
    object.get::<PodTemplate>()?.template.as_ref()
}

/// Only a new image, or a new container, can make a pod worse: the rest of its spec does not change.
fn is_significant(new: &Pod, old: &Pod) -> bool {
    let images = |pod: &Pod| -> Vec<(String, Option<String>)> {
        let spec = pod.spec.iter();
        spec.flat_map(parts::containers)
            .map(|part| (part.name.to_owned(), part.image.map(Into::into)))
            .collect()
    };
    images(new) != images(old)
}

/// What of `rule` the pod violates, the baseline first, in the order of Kubernetes' checks.
fn violations(rule: Rule, meta: &ObjectMeta, spec: &PodSpec) -> Vec<Violation> {
    match rule.level {
        Level::Privileged => Vec::new(),
        Level::Baseline => baseline::violations(rule.version, meta, spec, true),
        Level::Restricted => {
            let mut found = baseline::violations(rule.version, meta, spec, false);
            found.extend(restricted::violations(rule.version, spec));
            found
        }
    }
}

/// `REASON (DETAIL), REASON (DETAIL)`
fn details(violations: &[Violation]) -> String {
    let texts = violations.iter().map(|violation| format!("{} ({})", violation.reason, violation.detail));
    texts.collect::<Vec<_>>().join(", ")
}

/// Labels must be readable; who raises the level is told which pods would no longer be let in.
fn check_namespace(write: &Write<'_>, namespace: &Namespace) -> Result<(), ApiError> {
    let empty = BTreeMap::new();
    let (mut errors, mut old_errors) = (FieldErrors::default(), FieldErrors::default());
    let new = Policy::of(namespace.metadata.labels.as_ref().unwrap_or(&empty), &mut errors);
    let old = write.old.map(|old| Policy::of(old.meta().labels.as_ref().unwrap_or(&empty), &mut old_errors));
    if errors.0 != old_errors.0 {
        write.call.check(namespace.metadata.name.as_deref().unwrap_or_default(), errors)?;
    }
    let Some(old) = old else { return Ok(()) };
    let is_relaxed = new.enforce.version == old.enforce.version && new.enforce.level <= old.enforce.level;
    if new.enforce == old.enforce || new.enforce.level == Level::Privileged || is_relaxed {
        return Ok(());
    }
    let name = namespace.metadata.name.as_deref().unwrap_or_default();
    let pods = write.view.list::<Pod>(&Scope::namespace("pods", name));
    write.call.warn(warnings_of_pods(name, &pods, new.enforce));
    Ok(())
}

/// What is wrong with the pods of a namespace where `rule` is enforced from now on.
fn warnings_of_pods(namespace: &str, pods: &[Arc<Pod>], rule: Rule) -> Vec<String> {
    let mut warnings = Vec::new();
    // The first name, and how many pods there are, by what is wrong with them.
    let mut found: BTreeMap<String, (&str, usize)> = BTreeMap::new();
    for pod in pods.iter().take(MAX_CHECKED) {
        let Some(spec) = &pod.spec else { continue };
        let reasons = violations(rule, &pod.metadata, spec).into_iter().map(|violation| violation.reason);
        let reasons = reasons.collect::<Vec<_>>().join(", ");
        if !reasons.is_empty() {
            let name = pod.metadata.name.as_deref().unwrap_or_default();
            found.entry(reasons).or_insert((name, 0)).1 += 1;
        }
    }
    if pods.len() > MAX_CHECKED {
        warnings.push(format!(
            "new PodSecurity enforce level only checked against the first {MAX_CHECKED} of {} existing pods",
            pods.len()
        ));
    }
    if !found.is_empty() {
        warnings.push(format!(
            "existing pods in namespace {namespace:?} violate the new PodSecurity enforce level \"{rule}\""
        ));
    }
    let mut texts: Vec<String> = found
        .into_iter()
        .map(|(reasons, (name, count))| match count {
            1 => format!("{name}: {reasons}"),
            2 => format!("{name} (and 1 other pod): {reasons}"),
            _ => format!("{name} (and {} other pods): {reasons}", count - 1),
        })
        .collect();
    texts.sort();
    warnings.append(&mut texts);
    warnings
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{policy::Version, *};

    fn check(level: Level, minor: u32, spec: Value, expected: &str) {
        let mut spec = spec;
        if spec.get("containers").is_none() {
            spec["containers"] = json!([sealed(json!({}))]);
        }
        let spec: PodSpec = serde_json::from_value(spec).expect("a spec");
        let rule = Rule { level, version: Version(minor) };
        assert_eq!(details(&violations(rule, &ObjectMeta::default(), &spec)), expected);
    }

    /// A container with what the restricted level asks of it, and `more` in its security context.
    fn sealed(more: Value) -> Value {
        let mut context = json!({
            "allowPrivilegeEscalation": false, "runAsNonRoot": true, "capabilities": { "drop": ["ALL"] },
            "seccompProfile": { "type": "RuntimeDefault" },
        });
        for (key, value) in more.as_object().into_iter().flatten() {
            context[key] = value.clone();
        }
        json!({ "name": "web", "securityContext": context })
    }

    #[test]
    fn the_baseline_forbids_what_breaks_out() {
        let with = |context: Value| json!({ "containers": [sealed(context)] });
        let path = |name: &str| json!({ "name": name, "hostPath": { "path": "/" } });
        let port = json!({ "name": "web", "ports": [{ "containerPort": 80, "hostPort": 80 }] });
        let probed =
            json!({ "name": "web", "livenessProbe": { "httpGet": { "host": "10.0.0.1", "port": 1 } } });
        let sysctls =
            json!([{ "name": "net.ipv4.tcp_rmem", "value": "1" }, { "name": "kernel.msgmax", "value": "1" }]);
        let hosts = "probe or lifecycle host (container \"web\" uses host \"10.0.0.1\")";
        let cases = [
            (99, json!({}), ""),
            (
                99,
                json!({ "hostNetwork": true, "hostPID": true }),
                "host namespaces (hostNetwork=true, hostPID=true)",
            ),
            (99, json!({ "volumes": [path("a"), path("b")] }), "hostPath volumes (volumes \"a\", \"b\")"),
            (99, json!({ "containers": [port] }), "hostPort (container \"web\" uses hostPort 80)"),
            (33, json!({ "containers": [probed.clone()] }), ""),
            (34, json!({ "containers": [probed] }), hosts),
            (
                99,
                with(json!({ "privileged": true, "procMount": "Unmasked" })),
                "privileged (container \"web\" must not set securityContext.privileged=true), procMount (container \
                 \"web\" must not set securityContext.procMount to \"Unmasked\")",
            ),
            (
                99,
                with(json!({ "capabilities": { "add": ["NET_ADMIN", "KILL"] } })),
                "non-default capabilities (container \"web\" must not include \"NET_ADMIN\" in \
                 securityContext.capabilities.add)",
            ),
            (
                99,
                json!({ "securityContext": { "seLinuxOptions": { "type": "spc_t", "user": "root" } } }),
                "seLinuxOptions (pod set forbidden securityContext.seLinuxOptions: type \"spc_t\"; user may not be set)",
            ),
            (
                99,
                with(json!({ "seccompProfile": { "type": "Unconfined" } })),
                "seccompProfile (container \"web\" must not set securityContext.seccompProfile.type to \"Unconfined\")",
            ),
            (
                31,
                json!({ "securityContext": { "sysctls": sysctls } }),
                "forbidden sysctls (net.ipv4.tcp_rmem, kernel.msgmax)",
            ),
            (32, json!({ "securityContext": { "sysctls": sysctls } }), "forbidden sysctls (kernel.msgmax)"),
            (
                99,
                json!({ "securityContext": { "windowsOptions": { "hostProcess": true } } }),
                "hostProcess (pod must not set securityContext.windowsOptions.hostProcess=true)",
            ),
        ];
        for (minor, spec, expected) in cases {
            check(Level::Baseline, minor, spec, expected);
        }
    }

    #[test]
    fn the_restricted_level_wants_to_be_told() {
        let with = |context: Value| json!({ "containers": [sealed(context)] });
        let cases = [
            (99, json!({}), ""),
            (
                99,
                json!({ "volumes": [{ "name": "a", "nfs": { "path": "/", "server": "x" } }, { "name": "b" }] }),
                "restricted volume types (volume \"a\" uses restricted volume type \"nfs\")",
            ),
            (
                99,
                with(json!({ "runAsNonRoot": false, "runAsUser": 0 })),
                "runAsNonRoot != true (container \"web\" must not set securityContext.runAsNonRoot=false), runAsUser=0 \
                 (container \"web\" must not set runAsUser=0)",
            ),
            (
                99,
                with(json!({ "capabilities": { "drop": ["ALL"], "add": ["KILL", "NET_BIND_SERVICE"] } })),
                "unrestricted capabilities (container \"web\" must not include \"KILL\" in \
                 securityContext.capabilities.add)",
            ),
            (
                99,
                json!({ "hostNetwork": true, "containers": [sealed(json!({ "allowPrivilegeEscalation": true }))] }),
                "host namespaces (hostNetwork=true), allowPrivilegeEscalation != false (container \"web\" must set \
                 securityContext.allowPrivilegeEscalation=false)",
            ),
            (
                7,
                json!({ "containers": [{ "name": "web", "securityContext": { "runAsNonRoot": true } }] }),
                "",
            ),
            (
                99,
                json!({ "os": { "name": "windows" }, "containers": [{ "name": "web" }] }),
                "runAsNonRoot != true (pod or container \"web\" must set securityContext.runAsNonRoot=true)",
            ),
        ];
        for (minor, spec, expected) in cases {
            check(Level::Restricted, minor, spec, expected);
        }
    }

    #[test]
    fn who_raises_a_level_is_told_of_the_pods_beneath_it() {
        let pod = |name: &str, spec: Value| -> Arc<Pod> {
            let pod = json!({ "metadata": { "name": name }, "spec": spec });
            Arc::new(serde_json::from_value(pod).expect("a pod"))
        };
        let host = json!({ "hostNetwork": true, "containers": [] });
        let pods = [pod("a", host.clone()), pod("b", json!({ "containers": [] })), pod("c", host)];
        let rule = Rule { level: Level::Baseline, version: Version::LATEST };
        assert_eq!(
            warnings_of_pods("shop", &pods, rule),
            [
                "existing pods in namespace \"shop\" violate the new PodSecurity enforce level \"baseline:latest\"",
                "a (and 1 other pod): host namespaces",
            ]
        );
    }
}
