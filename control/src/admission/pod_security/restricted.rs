//! The restricted level: a pod says that it wants no more than it needs.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{PodSpec, Volume};

use super::{
    parts::{Violation, bad_seccomp, containers, named, plural, quoted, setters, those_with, uses},
    policy::Version,
};

/// What is asked beyond, or in place of, the baseline.
pub(super) fn violations(version: Version, spec: &PodSpec) -> Vec<Violation> {
    let is_windows = spec.os.as_ref().is_some_and(|os| os.name == "windows") && version >= Version(25);
    // Root in a user namespace of the pod's own is nobody outside of it.
    let has_own_users = spec.host_users == Some(false) && version >= Version(35);
    [
        privilege_escalation(spec).filter(|_| version >= Version(8) && !is_windows),
        capabilities(spec).filter(|_| version >= Version(22) && !is_windows),
        volumes(spec),
        non_root(spec).filter(|_| !has_own_users),
        user(spec).filter(|_| version >= Version(23) && !has_own_users),
        seccomp(spec).filter(|_| version >= Version(19) && !is_windows),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn privilege_escalation(spec: &PodSpec) -> Option<Violation> {
    let names = those_with(spec, |context| {
        context.and_then(|context| context.allow_privilege_escalation) != Some(false)
    });
    (!names.is_empty()).then(|| {
        let detail = format!("{} must set securityContext.allowPrivilegeEscalation=false", named(&names));
        Violation::new("allowPrivilegeEscalation != false", detail)
    })
}

fn capabilities(spec: &PodSpec) -> Option<Violation> {
    let (mut keeping, mut adding, mut added) = (Vec::new(), Vec::new(), BTreeSet::new());
    for part in containers(spec) {
        let given = part.security.and_then(|context| context.capabilities.as_ref());
        let dropped = given.and_then(|given| given.drop.as_ref());
        if !dropped.into_iter().flatten().any(|name| name == "ALL") {
            keeping.push(part.name);
        }
        let more = given.and_then(|given| given.add.as_ref()).into_iter().flatten();
        let more: Vec<_> = more.filter(|name| *name != "NET_BIND_SERVICE").collect();
        if !more.is_empty() {
            adding.push(part.name);
            added.extend(more);
        }
    }
    let mut details = Vec::new();
    if !keeping.is_empty() {
        details.push(format!("{} must set securityContext.capabilities.drop=[\"ALL\"]", named(&keeping)));
    }
    if !adding.is_empty() {
        let (who, what) = (named(&adding), quoted(added));
        details.push(format!("{who} must not include {what} in securityContext.capabilities.add"));
    }
    (!details.is_empty()).then(|| Violation::new("unrestricted capabilities", details.join("; ")))
}

fn volumes(spec: &PodSpec) -> Option<Violation> {
    let (mut names, mut types) = (Vec::new(), BTreeSet::new());
    for volume in spec.volumes.iter().flatten() {
        if let Some(type_) = restricted_type(volume) {
            names.push(&volume.name);
            types.insert(type_);
        }
    }
    (!names.is_empty()).then(|| {
        let detail = format!(
            "{} {} {} {} {}",
            plural("volume", names.len()),
            quoted(names.iter().copied()),
            uses(names.len()),
            plural("restricted volume type", types.len()),
            quoted(&types)
        );
        Violation::new("restricted volume types", detail)
    })
}

/// The type of a volume that reaches beyond the pod and the cluster's own objects.
fn restricted_type(volume: &Volume) -> Option<&'static str> {
    let types = [
        (volume.host_path.is_some(), "hostPath"),
        (volume.gce_persistent_disk.is_some(), "gcePersistentDisk"),
        (volume.aws_elastic_block_store.is_some(), "awsElasticBlockStore"),
        (volume.git_repo.is_some(), "gitRepo"),
        (volume.nfs.is_some(), "nfs"),
        (volume.iscsi.is_some(), "iscsi"),
        (volume.glusterfs.is_some(), "glusterfs"),
        (volume.rbd.is_some(), "rbd"),
        (volume.flex_volume.is_some(), "flexVolume"),
        (volume.cinder.is_some(), "cinder"),
        (volume.cephfs.is_some(), "cephfs"),
        (volume.flocker.is_some(), "flocker"),
        (volume.fc.is_some(), "fc"),
        (volume.azure_file.is_some(), "azureFile"),
        (volume.vsphere_volume.is_some(), "vsphereVolume"),
        (volume.quobyte.is_some(), "quobyte"),
        (volume.azure_disk.is_some(), "azureDisk"),
        (volume.portworx_volume.is_some(), "portworxVolume"),
        (volume.photon_persistent_disk.is_some(), "photonPersistentDisk"),
        (volume.scale_io.is_some(), "scaleIO"),
        (volume.storageos.is_some(), "storageos"),
    ];
    types.iter().find(|(is_so, _)| *is_so).map(|(_, type_)| *type_)
}

fn non_root(spec: &PodSpec) -> Option<Violation> {
    const REASON: &str = "runAsNonRoot != true";
    let of_pod = spec.security_context.as_ref().and_then(|context| context.run_as_non_root);
    let bad = those_with(spec, |context| context.and_then(|context| context.run_as_non_root) == Some(false));
    let who = setters(of_pod == Some(false), &bad);
    if !who.is_empty() {
        return Some(Violation::new(
            REASON,
            format!("{who} must not set securityContext.runAsNonRoot=false"),
        ));
    }
    let silent = those_with(spec, |context| context.and_then(|context| context.run_as_non_root).is_none());
    (of_pod.is_none() && !silent.is_empty()).then(|| {
        Violation::new(
            REASON,
            format!("pod or {} must set securityContext.runAsNonRoot=true", named(&silent)),
        )
    })
}

fn user(spec: &PodSpec) -> Option<Violation> {
    let is_pod = spec.security_context.as_ref().and_then(|context| context.run_as_user) == Some(0);
    let names = those_with(spec, |context| context.and_then(|context| context.run_as_user) == Some(0));
    let who = setters(is_pod, &names);
    (!who.is_empty()).then(|| Violation::new("runAsUser=0", format!("{who} must not set runAsUser=0")))
}

fn seccomp(spec: &PodSpec) -> Option<Violation> {
    if let Some(violation) = bad_seccomp(spec) {
        return Some(violation);
    }
    let is_set = spec.security_context.as_ref().is_some_and(|context| context.seccomp_profile.is_some());
    let silent =
        those_with(spec, |context| context.and_then(|context| context.seccomp_profile.as_ref()).is_none());
    (!is_set && !silent.is_empty()).then(|| {
        let who = named(&silent);
        let detail = format!(
            "pod or {who} must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\""
        );
        Violation::new("seccompProfile", detail)
    })
}
