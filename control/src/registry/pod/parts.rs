//! The parts of a pod's spec that change by a road of their own: debugging guests, and the size of containers.

use k8s_openapi::api::core::v1::{
    Container, ContainerStatus, EphemeralContainer, Pod, PodSpec, ResourceRequirements,
};
use naru_model::{
    pod::is_sidecar,
    validation::{FieldErrors, Path},
};

use super::{resources, update};
use crate::registry::podspec::OrEmpty;

pub(super) const EPHEMERAL_CONTAINERS: &str = "ephemeralcontainers";
pub(super) const RESIZE: &str = "resize";

const MIRROR: &str = "kubernetes.io/config.mirror";
const RESIZABLE: &[&str] = &["cpu", "memory"];

/// `old` with what an update of `part` may change, and nothing else of `new`.
pub(super) fn prepare(part: &str, new: &mut Pod, old: &Pod) {
    let asked = new.spec.take().unwrap_or_default();
    let mut spec = old.spec.clone().unwrap_or_default();
    match part {
        EPHEMERAL_CONTAINERS => spec.ephemeral_containers = asked.ephemeral_containers,
        _ => {
            resize_all(&mut spec.containers, asked.containers);
            if let Some(containers) = &mut spec.init_containers {
                resize_all(containers, asked.init_containers.unwrap_or_default());
            }
            spec.resources = asked.resources;
        }
    }
    let generation = new.metadata.generation;
    *new = Pod { spec: Some(spec), ..old.clone() };
    new.metadata.generation = generation;
}

/// Containers that are not the same, or not in the same order, are left for validation to refuse.
fn resize_all(containers: &mut Vec<Container>, asked: Vec<Container>) {
    if containers.len() != asked.len() || containers.iter().zip(&asked).any(|(old, new)| old.name != new.name)
    {
        *containers = asked;
        return;
    }
    for (container, asked) in containers.iter_mut().zip(asked) {
        container.resources = asked.resources;
        container.resize_policy = asked.resize_policy;
    }
}

pub(super) fn validate(part: &str, new: &Pod, old: &Pod, errors: &mut FieldErrors) {
    let empty = PodSpec::default();
    let (spec, before) = (new.spec.as_ref().unwrap_or(&empty), old.spec.as_ref().unwrap_or(&empty));
    let is_static =
        old.metadata.annotations.as_ref().is_some_and(|annotations| annotations.contains_key(MIRROR));
    if part == EPHEMERAL_CONTAINERS {
        if is_static {
            errors.forbidden(&Path::new(""), "static pods do not support ephemeral containers");
        }
        let guests = (spec.ephemeral_containers.or_empty(), before.ephemeral_containers.or_empty());
        return only_more_guests(guests.0, guests.1, &Path::new("spec"), errors);
    }
    if is_static {
        return errors.forbidden(&Path::new(""), "static pods cannot be resized");
    }
    if before.os.as_ref().is_some_and(|os| os.name == "windows") {
        return errors.forbidden(&Path::new(""), "windows pods cannot be resized");
    }
    if !has_support(old) {
        errors.forbidden(&Path::new("spec"), "Pod running on node without support for resize");
    }
    only_resized(spec, before, &Path::new("spec"), errors);
}

/// Whether the pod's node tells what its containers have; while none runs, nobody knows.
fn has_support(pod: &Pod) -> bool {
    let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_deref());
    let is_running =
        |status: &&ContainerStatus| status.state.as_ref().is_some_and(|state| state.running.is_some());
    statuses.unwrap_or_default().iter().find(is_running).is_none_or(|status| status.resources.is_some())
}

/// Guests come; they neither change nor leave.
fn only_more_guests(
    new: &[EphemeralContainer],
    old: &[EphemeralContainer],
    path: &Path,
    errors: &mut FieldErrors,
) {
    for before in old {
        match new.iter().find(|container| container.name == before.name) {
            None => {
                let detail = format!("existing ephemeral containers {:?} may not be removed\n", before.name);
                errors.forbidden(&path.child("ephemeralContainers"), &detail);
            }
            Some(container) if container != before => {
                let detail = format!("existing ephemeral containers {:?} may not be changed\n", before.name);
                errors.forbidden(path, &detail);
            }
            Some(_) => (),
        }
    }
}

fn only_resized(new: &PodSpec, old: &PodSpec, path: &Path, errors: &mut FieldErrors) {
    let class = resources::qos_class(new);
    if class != resources::qos_class(old) {
        errors.invalid(path, class, "Pod QOS Class may not change as a result of resizing");
    }
    let lists = [
        ("containers", new.containers.as_slice(), old.containers.as_slice()),
        ("initContainers", new.init_containers.or_empty(), old.init_containers.or_empty()),
    ];
    let mut rest = new.clone();
    for (name, new, old) in lists {
        let path = path.child(name);
        if new.len() != old.len() {
            return errors.forbidden(&path, "containers may not be added or removed on resize");
        }
        let mut is_same = true;
        for (index, (new, old)) in new.iter().zip(old).enumerate() {
            let path = path.index(index);
            if new.name != old.name {
                is_same = false;
                let detail = "containers may not be renamed or reordered on resize";
                errors.forbidden(&path.child("name"), detail);
            } else if name == "initContainers" && !is_sidecar(old) {
                if new.resources != old.resources {
                    let detail = "resources for non-sidecar init containers are immutable";
                    errors.forbidden(&path.child("resources"), detail);
                }
            } else {
                not_removed(new, old, &path.child("resources"), errors);
            }
        }
        if !is_same {
            return;
        }
    }
    restore(&mut rest.containers, &old.containers);
    restore(rest.init_containers.as_deref_mut().unwrap_or_default(), old.init_containers.or_empty());
    rest.resources =
        Some(restored(rest.resources.as_ref(), old.resources.as_ref())).filter(|_| old.resources.is_some());
    if rest != *old {
        let (old, rest) = (update::essence(old), update::essence(&rest));
        let mut lines = Vec::new();
        update::differences("spec", &old, &rest, &mut lines);
        let detail = format!("only cpu and memory resources are mutable\n{}\n", lines.join("\n"));
        errors.forbidden(path, &detail);
    }
}

fn not_removed(new: &Container, old: &Container, path: &Path, errors: &mut FieldErrors) {
    let empty = ResourceRequirements::default();
    let (new, old) = (new.resources.as_ref().unwrap_or(&empty), old.resources.as_ref().unwrap_or(&empty));
    for (name, new, old) in [("requests", &new.requests, &old.requests), ("limits", &new.limits, &old.limits)]
    {
        let is_kept = |name: &String| new.as_ref().is_some_and(|new| new.contains_key(name));
        if !old.iter().flatten().all(|(name, _)| is_kept(name)) {
            errors.forbidden(&path.child(name), &format!("resource {name} cannot be removed"));
        }
    }
}

/// Puts back the old values of all that a resize may change.
fn restore(new: &mut [Container], old: &[Container]) {
    for (new, old) in new.iter_mut().zip(old) {
        new.resize_policy.clone_from(&old.resize_policy);
        let resources = restored(new.resources.as_ref(), old.resources.as_ref());
        new.resources =
            Some(resources).filter(|of| *of != ResourceRequirements::default() || old.resources.is_some());
    }
}

fn restored(new: Option<&ResourceRequirements>, old: Option<&ResourceRequirements>) -> ResourceRequirements {
    let mut result = new.cloned().unwrap_or_default();
    let empty = ResourceRequirements::default();
    let old = old.unwrap_or(&empty);
    for (new, old) in [(&mut result.requests, &old.requests), (&mut result.limits, &old.limits)] {
        let list = new.get_or_insert_default();
        for name in RESIZABLE {
            match old.as_ref().and_then(|old| old.get(*name)) {
                Some(amount) => drop(list.insert((*name).into(), amount.clone())),
                None => drop(list.remove(*name)),
            }
        }
        new.take_if(|list| list.is_empty() && old.is_none());
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::{
        Kind,
        pod::Pods,
        testing::{self, at, create},
    };

    const POD: &str = "{metadata: {name: p, namespace: n}, spec: {containers: [{name: c, image: i, resources: {requests: {cpu: 100m, memory: 64Mi, example.com/gpu: '1'}, limits: {cpu: 200m, memory: 64Mi, example.com/gpu: '1'}}}]}}";

    /// What an update of the part makes of the pod, and what is wrong with it.
    fn changed(part: &'static str, change: impl FnOnce(&mut Pod)) -> (Pod, Vec<String>) {
        let (old, errors) = create(&Pods, POD);
        assert_eq!(errors, [] as [&str; 0]);
        let mut new = old.clone();
        change(&mut new);
        Pods.default(&mut new);
        Pods.prepare_part_update(part, &mut new, &old);
        let mut errors = FieldErrors::default();
        Pods.validate(&new, &mut errors);
        Pods.validate_part_update(part, &new, &old, &mut errors);
        (new, errors.0.iter().map(ToString::to_string).collect())
    }

    fn guest(name: &str, image: &str) -> EphemeralContainer {
        EphemeralContainer { name: name.into(), image: Some(image.into()), ..EphemeralContainer::default() }
    }

    #[test]
    fn guests_come_and_stay() {
        let (pod, errors) = changed(EPHEMERAL_CONTAINERS, |pod| {
            let spec = pod.spec.as_mut().expect("a spec");
            spec.ephemeral_containers = Some(vec![guest("debug", "busybox")]);
            spec.containers[0].image = Some("other".into());
            pod.metadata.labels = Some([("a".to_owned(), "b".to_owned())].into());
        });
        assert_eq!(errors, [] as [&str; 0]);
        assert_eq!(at(&pod, "/spec/ephemeralContainers/0/image"), "busybox");
        assert_eq!(at(&pod, "/spec/containers/0/image"), "i", "only the part changes");
        assert_eq!(pod.metadata.labels, None);

        let mut errors = FieldErrors::default();
        let old = [guest("a", "i"), guest("b", "i")];
        only_more_guests(&[guest("a", "j"), guest("c", "i")], &old, &Path::new("spec"), &mut errors);
        let errors: Vec<_> = errors.0.iter().map(ToString::to_string).collect();
        testing::assert_errors(
            &errors,
            &[
                "spec: Forbidden: existing ephemeral containers \"a\" may not be changed\n",
                "spec.ephemeralContainers: Forbidden: existing ephemeral containers \"b\" may not be removed\n",
            ],
            "guests",
        );
    }

    #[test]
    fn a_resize_leaves_alone_what_has_no_size_that_changes() {
        let resources = |cpu: &str| -> ResourceRequirements {
            serde_json::from_value(serde_json::json!({ "requests": { "cpu": cpu } })).expect("resources")
        };
        let init = |name: &str, restarts: Option<&str>, cpu: &str| Container {
            name: name.into(),
            image: Some("i".into()),
            restart_policy: restarts.map(str::to_owned),
            resources: Some(resources(cpu)),
            ..Container::default()
        };
        let (old, errors) = create(&Pods, POD);
        assert_eq!(errors, [] as [&str; 0]);
        let with = |cpu: &str| {
            let mut pod = old.clone();
            let list = vec![init("once", None, cpu), init("beside", Some("Always"), cpu)];
            pod.spec.as_mut().expect("a spec").init_containers = Some(list);
            pod
        };
        let said = |new: &Pod, old: &Pod| {
            let mut errors = FieldErrors::default();
            validate(RESIZE, new, old, &mut errors);
            errors.0.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(
            said(&with("2"), &with("1")),
            [
                "spec.initContainers[0].resources: Forbidden: resources for non-sidecar init containers are immutable"
            ]
        );
        // A node that does not tell what containers have does not resize them.
        let running = |resources: Option<ResourceRequirements>| {
            let state = serde_json::from_value(serde_json::json!({ "running": {} })).expect("a state");
            let status = ContainerStatus { state: Some(state), resources, ..ContainerStatus::default() };
            let mut pod = old.clone();
            pod.status.get_or_insert_default().container_statuses = Some(vec![status]);
            pod
        };
        assert_eq!(
            said(&old, &running(None)),
            ["spec: Forbidden: Pod running on node without support for resize"]
        );
        assert_eq!(said(&old, &running(Some(resources("1")))), [] as [&str; 0]);
    }

    #[test]
    fn a_resize_changes_cpu_and_memory() {
        let set = |pod: &mut Pod, resource: &str, amount: Option<&str>| {
            let resources = pod.spec.as_mut().expect("a spec").containers[0].resources.as_mut();
            let requests = resources.expect("resources").requests.as_mut().expect("requests");
            match amount {
                Some(amount) => drop(requests.insert(
                    resource.into(),
                    k8s_openapi::apimachinery::pkg::api::resource::Quantity(amount.into()),
                )),
                None => drop(requests.remove(resource)),
            }
        };
        let (pod, errors) = changed(RESIZE, |pod| set(pod, "cpu", Some("150m")));
        assert_eq!(errors, [] as [&str; 0]);
        assert_eq!(at(&pod, "/spec/containers/0/resources/requests/cpu"), "150m");
        let (_, errors) = changed(RESIZE, |pod| {
            let limits =
                pod.spec.as_mut().expect("a spec").containers[0].resources.as_mut().expect("resources");
            limits.limits.as_mut().expect("limits").remove("memory");
        });
        testing::assert_errors(
            &errors,
            &["spec.containers[0].resources.limits: Forbidden: resource limits cannot be removed"],
            "no limit",
        );
        let (_, errors) = changed(RESIZE, |pod| {
            set(pod, "cpu", Some("200m"));
        });
        testing::assert_errors(
            &errors,
            &["spec: Invalid value: \"Guaranteed\": Pod QOS Class may not change as a result of resizing"],
            "another class",
        );
        let (_, errors) =
            changed(RESIZE, |pod| pod.spec.as_mut().expect("a spec").containers[0].name = "d".into());
        testing::assert_errors(
            &errors,
            &["spec.containers[0].name: Forbidden: containers may not be renamed or reordered on resize"],
            "another container",
        );
    }
}
