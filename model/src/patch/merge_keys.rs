//! Which fields a strategic merge patch merges, and by which key.
//!
//! These are the facts that Kubernetes' API types carry as `patchStrategy` and `patchMergeKey`, and that OpenAPI
//! publishes as `x-kubernetes-patch-strategy` and `x-kubernetes-patch-merge-key`. Types are named as in OpenAPI:
//! `io.k8s.api.core.v1.PodSpec`. A field that is not listed has the default: maps merge, lists are replaced.
//! Not here: server-side apply, which has list types and keys of its own (`x-kubernetes-list-map-keys`).

use std::borrow::Cow;

/// How a patch is merged into one field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strategy {
    /// A list is merged: by its key, or as a set if it has none.
    Merge,
    /// A map is replaced.
    Replace,
    /// A map keeps only the keys that the patch's `$retainKeys` lists.
    RetainKeys,
    /// Both: a list that is merged by key, of maps whose other keys are retained as listed.
    MergeRetainKeys,
}

use Strategy::{Merge, MergeRetainKeys, Replace, RetainKeys};

impl Strategy {
    /// As OpenAPI spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Merge => "merge",
            Replace => "replace",
            RetainKeys => "retainKeys",
            MergeRetainKeys => "merge,retainKeys",
        }
    }

    pub fn merges_lists(self) -> bool {
        matches!(self, Merge | MergeRetainKeys)
    }
}

/// What is known of one field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MergeKey {
    pub strategy: Strategy,
    /// The field that identifies a list's items; `None` for lists of plain values.
    pub key: Option<&'static str>,
}

const API: &str = "io.k8s.api.";
const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";

/// How `field` of the type is merged, if not by default.
pub fn of(type_name: &str, field: &str) -> Option<MergeKey> {
    if type_name == OBJECT_META {
        return match field {
            "ownerReferences" => Some(MergeKey { strategy: Merge, key: Some("uid") }),
            "finalizers" => Some(MergeKey { strategy: Merge, key: None }),
            _ => None,
        };
    }
    let name = type_name.strip_prefix(API)?;
    let at = STRATEGIES.binary_search_by_key(&(name, field), |(name, field, ..)| (name, field)).ok()?;
    let (_, _, strategy, key) = STRATEGIES[at];
    Some(MergeKey { strategy, key: Some(key).filter(|key| !key.is_empty()) })
}

/// The type of `field`, or of its items if it is a list; known only where something below it is not merged by
/// default.
pub fn type_of(type_name: &str, field: &str) -> Option<Cow<'static, str>> {
    if field == "metadata" {
        return Some(OBJECT_META.into());
    }
    let name = type_name.strip_prefix(API)?;
    let at = FIELDS.binary_search_by_key(&(name, field), |(name, field, _)| (name, field)).ok()?;
    Some(format!("{API}{}", FIELDS[at].2).into())
}

/// The OpenAPI name of a built-in kind: (`apps`, `v1`, `Deployment`) is `io.k8s.api.apps.v1.Deployment`.
pub fn type_name(group: &str, version: &str, kind: &str) -> String {
    match group {
        "" => format!("{API}core.{version}.{kind}"),
        "apiextensions.k8s.io" => {
            format!("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.{version}.{kind}")
        }
        "apiregistration.k8s.io" => {
            format!("io.k8s.kube-aggregator.pkg.apis.apiregistration.{version}.{kind}")
        }
        "metrics.k8s.io" => format!("io.k8s.metrics.pkg.apis.metrics.{version}.{kind}"),
        "internal.apiserver.k8s.io" => format!("{API}apiserverinternal.{version}.{kind}"),
        group => format!("{API}{}.{version}.{kind}", group.split('.').next().unwrap_or(group)),
    }
}

/// (type, field, strategy, key), ordered.
#[rustfmt::skip]
const STRATEGIES: &[(&str, &str, Strategy, &str)] = &[
    ("admissionregistration.v1.MutatingAdmissionPolicySpec", "matchConditions", Merge, "name"),
    ("admissionregistration.v1.MutatingWebhook", "matchConditions", Merge, "name"),
    ("admissionregistration.v1.MutatingWebhookConfiguration", "webhooks", Merge, "name"),
    ("admissionregistration.v1.ValidatingAdmissionPolicySpec", "matchConditions", Merge, "name"),
    ("admissionregistration.v1.ValidatingAdmissionPolicySpec", "variables", Merge, "name"),
    ("admissionregistration.v1.ValidatingWebhook", "matchConditions", Merge, "name"),
    ("admissionregistration.v1.ValidatingWebhookConfiguration", "webhooks", Merge, "name"),
    ("admissionregistration.v1alpha1.MutatingAdmissionPolicySpec", "matchConditions", Merge, "name"),
    ("admissionregistration.v1beta1.MutatingAdmissionPolicySpec", "matchConditions", Merge, "name"),
    ("apps.v1.DaemonSetStatus", "conditions", Merge, "type"),
    ("apps.v1.DeploymentSpec", "strategy", RetainKeys, ""),
    ("apps.v1.DeploymentStatus", "conditions", Merge, "type"),
    ("apps.v1.ReplicaSetStatus", "conditions", Merge, "type"),
    ("apps.v1.StatefulSetStatus", "conditions", Merge, "type"),
    ("autoscaling.v2.HorizontalPodAutoscalerStatus", "conditions", Merge, "type"),
    ("batch.v1.JobSchedulingConfiguration", "resourceClaims", Merge, "name"),
    ("batch.v1.JobStatus", "conditions", Merge, "type"),
    ("certificates.v1.PodCertificateRequestStatus", "conditions", Merge, "type"),
    ("certificates.v1beta1.PodCertificateRequestStatus", "conditions", Merge, "type"),
    ("core.v1.ComponentStatus", "conditions", Merge, "type"),
    ("core.v1.Container", "env", Merge, "name"),
    ("core.v1.Container", "ports", Merge, "containerPort"),
    ("core.v1.Container", "volumeDevices", Merge, "devicePath"),
    ("core.v1.Container", "volumeMounts", Merge, "mountPath"),
    ("core.v1.ContainerStatus", "allocatedResourcesStatus", Merge, "name"),
    ("core.v1.ContainerStatus", "volumeMounts", Merge, "mountPath"),
    ("core.v1.EphemeralContainer", "env", Merge, "name"),
    ("core.v1.EphemeralContainer", "ports", Merge, "containerPort"),
    ("core.v1.EphemeralContainer", "volumeDevices", Merge, "devicePath"),
    ("core.v1.EphemeralContainer", "volumeMounts", Merge, "mountPath"),
    ("core.v1.NamespaceStatus", "conditions", Merge, "type"),
    ("core.v1.NodeAllocatableResourceClaimStatus", "mapping", Merge, "name"),
    ("core.v1.NodeAllocatableResourceClaimStatus", "overhead", Merge, "name"),
    ("core.v1.NodeSpec", "podCIDRs", Merge, ""),
    ("core.v1.NodeStatus", "addresses", Merge, "type"),
    ("core.v1.NodeStatus", "conditions", Merge, "type"),
    ("core.v1.PersistentVolumeClaimStatus", "conditions", Merge, "type"),
    ("core.v1.PodSpec", "containers", Merge, "name"),
    ("core.v1.PodSpec", "ephemeralContainers", Merge, "name"),
    ("core.v1.PodSpec", "evictionResponders", Merge, "name"),
    ("core.v1.PodSpec", "hostAliases", Merge, "ip"),
    ("core.v1.PodSpec", "imagePullSecrets", Merge, "name"),
    ("core.v1.PodSpec", "initContainers", Merge, "name"),
    ("core.v1.PodSpec", "resourceClaims", MergeRetainKeys, "name"),
    ("core.v1.PodSpec", "schedulingGates", Merge, "name"),
    ("core.v1.PodSpec", "topologySpreadConstraints", Merge, "topologyKey"),
    ("core.v1.PodSpec", "volumes", MergeRetainKeys, "name"),
    ("core.v1.PodStatus", "conditions", Merge, "type"),
    ("core.v1.PodStatus", "hostIPs", Merge, "ip"),
    ("core.v1.PodStatus", "nodeAllocatableResourceClaimStatuses", Merge, "resourceClaimName"),
    ("core.v1.PodStatus", "podIPs", Merge, "ip"),
    ("core.v1.PodStatus", "resourceClaimStatuses", MergeRetainKeys, "name"),
    ("core.v1.PodVolumeHealth", "healthConditions", Merge, "status"),
    ("core.v1.ReplicationControllerStatus", "conditions", Merge, "type"),
    ("core.v1.ServiceAccount", "secrets", Merge, "name"),
    ("core.v1.ServiceSpec", "ports", Merge, "port"),
    ("core.v1.ServiceStatus", "conditions", Merge, "type"),
    ("core.v1.VolumeHealthStatus", "healthConditions", Merge, "status"),
    ("flowcontrol.v1.FlowSchemaStatus", "conditions", Merge, "type"),
    ("flowcontrol.v1.PriorityLevelConfigurationStatus", "conditions", Merge, "type"),
    ("lifecycle.v1alpha1.EvictionRequestStatus", "conditions", Merge, "type"),
    ("lifecycle.v1alpha1.EvictionStatus", "conditions", Merge, "type"),
    ("lifecycle.v1alpha1.EvictionStatus", "requesters", Merge, "name"),
    ("lifecycle.v1alpha1.EvictionStatus", "responders", Merge, "name"),
    ("lifecycle.v1alpha1.EvictionStatus", "targetResponders", Merge, "name"),
    ("networking.v1.ServiceCIDRStatus", "conditions", Merge, "type"),
    ("policy.v1.PodDisruptionBudgetSpec", "selector", Replace, ""),
    ("policy.v1.PodDisruptionBudgetStatus", "conditions", Merge, "type"),
    ("resource.v1.DeviceTaintRuleStatus", "conditions", Merge, "type"),
    ("resource.v1.ResourceClaimStatus", "reservedFor", Merge, "uid"),
    ("resource.v1alpha3.DeviceTaintRuleStatus", "conditions", Merge, "type"),
    ("resource.v1alpha3.ResourcePoolStatusRequestStatus", "conditions", Merge, "type"),
    ("resource.v1beta1.ResourceClaimStatus", "reservedFor", Merge, "uid"),
    ("resource.v1beta2.DeviceTaintRuleStatus", "conditions", Merge, "type"),
    ("resource.v1beta2.ResourceClaimStatus", "reservedFor", Merge, "uid"),
    ("scheduling.v1alpha3.CompositePodGroupStatus", "conditions", Merge, "type"),
    ("scheduling.v1alpha3.PodGroupSpec", "resourceClaims", MergeRetainKeys, "name"),
    ("scheduling.v1alpha3.PodGroupStatus", "conditions", Merge, "type"),
    ("scheduling.v1alpha3.PodGroupStatus", "resourceClaimStatuses", MergeRetainKeys, "name"),
    ("scheduling.v1alpha3.PodGroupTemplate", "resourceClaims", MergeRetainKeys, "name"),
    ("scheduling.v1beta1.PodGroupSpec", "resourceClaims", MergeRetainKeys, "name"),
    ("scheduling.v1beta1.PodGroupStatus", "conditions", Merge, "type"),
    ("scheduling.v1beta1.PodGroupStatus", "resourceClaimStatuses", MergeRetainKeys, "name"),
    ("scheduling.v1beta1.PodGroupTemplate", "resourceClaims", MergeRetainKeys, "name"),
    ("storage.v1.CSINodeSpec", "drivers", Merge, "name"),
    ("storage.v1.CSINodeStatus", "storageHealth", Merge, "name"),
    ("storagemigration.v1.StorageVersionMigrationStatus", "conditions", Merge, "type"),
    ("storagemigration.v1beta1.StorageVersionMigrationStatus", "conditions", Merge, "type"),
];

/// (type, field, the field's type), ordered: the ways that lead to a type in `STRATEGIES`.
#[rustfmt::skip]
const FIELDS: &[(&str, &str, &str)] = &[
    ("admissionregistration.v1.MutatingAdmissionPolicy", "spec", "admissionregistration.v1.MutatingAdmissionPolicySpec"),
    ("admissionregistration.v1.MutatingWebhookConfiguration", "webhooks", "admissionregistration.v1.MutatingWebhook"),
    ("admissionregistration.v1.ValidatingAdmissionPolicy", "spec", "admissionregistration.v1.ValidatingAdmissionPolicySpec"),
    ("admissionregistration.v1.ValidatingWebhookConfiguration", "webhooks", "admissionregistration.v1.ValidatingWebhook"),
    ("admissionregistration.v1alpha1.MutatingAdmissionPolicy", "spec", "admissionregistration.v1alpha1.MutatingAdmissionPolicySpec"),
    ("admissionregistration.v1beta1.MutatingAdmissionPolicy", "spec", "admissionregistration.v1beta1.MutatingAdmissionPolicySpec"),
    ("apps.v1.DaemonSet", "spec", "apps.v1.DaemonSetSpec"),
    ("apps.v1.DaemonSet", "status", "apps.v1.DaemonSetStatus"),
    ("apps.v1.DaemonSetSpec", "template", "core.v1.PodTemplateSpec"),
    ("apps.v1.Deployment", "spec", "apps.v1.DeploymentSpec"),
    ("apps.v1.Deployment", "status", "apps.v1.DeploymentStatus"),
    ("apps.v1.DeploymentSpec", "template", "core.v1.PodTemplateSpec"),
    ("apps.v1.ReplicaSet", "spec", "apps.v1.ReplicaSetSpec"),
    ("apps.v1.ReplicaSet", "status", "apps.v1.ReplicaSetStatus"),
    ("apps.v1.ReplicaSetSpec", "template", "core.v1.PodTemplateSpec"),
    ("apps.v1.StatefulSet", "spec", "apps.v1.StatefulSetSpec"),
    ("apps.v1.StatefulSet", "status", "apps.v1.StatefulSetStatus"),
    ("apps.v1.StatefulSetSpec", "template", "core.v1.PodTemplateSpec"),
    ("apps.v1.StatefulSetSpec", "volumeClaimTemplates", "core.v1.PersistentVolumeClaim"),
    ("autoscaling.v2.HorizontalPodAutoscaler", "status", "autoscaling.v2.HorizontalPodAutoscalerStatus"),
    ("batch.v1.CronJob", "spec", "batch.v1.CronJobSpec"),
    ("batch.v1.CronJobSpec", "jobTemplate", "batch.v1.JobTemplateSpec"),
    ("batch.v1.Job", "spec", "batch.v1.JobSpec"),
    ("batch.v1.Job", "status", "batch.v1.JobStatus"),
    ("batch.v1.JobSpec", "scheduling", "batch.v1.JobSchedulingConfiguration"),
    ("batch.v1.JobSpec", "template", "core.v1.PodTemplateSpec"),
    ("batch.v1.JobTemplateSpec", "spec", "batch.v1.JobSpec"),
    ("certificates.v1.PodCertificateRequest", "status", "certificates.v1.PodCertificateRequestStatus"),
    ("certificates.v1beta1.PodCertificateRequest", "status", "certificates.v1beta1.PodCertificateRequestStatus"),
    ("core.v1.Namespace", "status", "core.v1.NamespaceStatus"),
    ("core.v1.Node", "spec", "core.v1.NodeSpec"),
    ("core.v1.Node", "status", "core.v1.NodeStatus"),
    ("core.v1.PersistentVolumeClaim", "status", "core.v1.PersistentVolumeClaimStatus"),
    ("core.v1.PersistentVolumeClaimStatus", "healthStatus", "core.v1.VolumeHealthStatus"),
    ("core.v1.Pod", "spec", "core.v1.PodSpec"),
    ("core.v1.Pod", "status", "core.v1.PodStatus"),
    ("core.v1.PodSpec", "containers", "core.v1.Container"),
    ("core.v1.PodSpec", "ephemeralContainers", "core.v1.EphemeralContainer"),
    ("core.v1.PodSpec", "initContainers", "core.v1.Container"),
    ("core.v1.PodStatus", "containerStatuses", "core.v1.ContainerStatus"),
    ("core.v1.PodStatus", "ephemeralContainerStatuses", "core.v1.ContainerStatus"),
    ("core.v1.PodStatus", "initContainerStatuses", "core.v1.ContainerStatus"),
    ("core.v1.PodStatus", "nodeAllocatableResourceClaimStatuses", "core.v1.NodeAllocatableResourceClaimStatus"),
    ("core.v1.PodStatus", "volumeHealth", "core.v1.PodVolumeHealth"),
    ("core.v1.PodTemplate", "template", "core.v1.PodTemplateSpec"),
    ("core.v1.PodTemplateSpec", "spec", "core.v1.PodSpec"),
    ("core.v1.ReplicationController", "spec", "core.v1.ReplicationControllerSpec"),
    ("core.v1.ReplicationController", "status", "core.v1.ReplicationControllerStatus"),
    ("core.v1.ReplicationControllerSpec", "template", "core.v1.PodTemplateSpec"),
    ("core.v1.Service", "spec", "core.v1.ServiceSpec"),
    ("core.v1.Service", "status", "core.v1.ServiceStatus"),
    ("flowcontrol.v1.FlowSchema", "status", "flowcontrol.v1.FlowSchemaStatus"),
    ("flowcontrol.v1.PriorityLevelConfiguration", "status", "flowcontrol.v1.PriorityLevelConfigurationStatus"),
    ("lifecycle.v1alpha1.Eviction", "status", "lifecycle.v1alpha1.EvictionStatus"),
    ("lifecycle.v1alpha1.EvictionRequest", "status", "lifecycle.v1alpha1.EvictionRequestStatus"),
    ("networking.v1.ServiceCIDR", "status", "networking.v1.ServiceCIDRStatus"),
    ("policy.v1.PodDisruptionBudget", "spec", "policy.v1.PodDisruptionBudgetSpec"),
    ("policy.v1.PodDisruptionBudget", "status", "policy.v1.PodDisruptionBudgetStatus"),
    ("resource.v1.DeviceTaintRule", "status", "resource.v1.DeviceTaintRuleStatus"),
    ("resource.v1.ResourceClaim", "status", "resource.v1.ResourceClaimStatus"),
    ("resource.v1alpha3.DeviceTaintRule", "status", "resource.v1alpha3.DeviceTaintRuleStatus"),
    ("resource.v1alpha3.ResourcePoolStatusRequest", "status", "resource.v1alpha3.ResourcePoolStatusRequestStatus"),
    ("resource.v1beta1.ResourceClaim", "status", "resource.v1beta1.ResourceClaimStatus"),
    ("resource.v1beta2.DeviceTaintRule", "status", "resource.v1beta2.DeviceTaintRuleStatus"),
    ("resource.v1beta2.ResourceClaim", "status", "resource.v1beta2.ResourceClaimStatus"),
    ("scheduling.v1alpha3.CompositePodGroup", "status", "scheduling.v1alpha3.CompositePodGroupStatus"),
    ("scheduling.v1alpha3.CompositePodGroupTemplate", "compositePodGroupTemplates", "scheduling.v1alpha3.CompositePodGroupTemplate"),
    ("scheduling.v1alpha3.CompositePodGroupTemplate", "podGroupTemplates", "scheduling.v1alpha3.PodGroupTemplate"),
    ("scheduling.v1alpha3.PodGroup", "spec", "scheduling.v1alpha3.PodGroupSpec"),
    ("scheduling.v1alpha3.PodGroup", "status", "scheduling.v1alpha3.PodGroupStatus"),
    ("scheduling.v1alpha3.Workload", "spec", "scheduling.v1alpha3.WorkloadSpec"),
    ("scheduling.v1alpha3.WorkloadSpec", "compositePodGroupTemplates", "scheduling.v1alpha3.CompositePodGroupTemplate"),
    ("scheduling.v1alpha3.WorkloadSpec", "podGroupTemplates", "scheduling.v1alpha3.PodGroupTemplate"),
    ("scheduling.v1beta1.CompositePodGroupTemplate", "compositePodGroupTemplates", "scheduling.v1beta1.CompositePodGroupTemplate"),
    ("scheduling.v1beta1.CompositePodGroupTemplate", "podGroupTemplates", "scheduling.v1beta1.PodGroupTemplate"),
    ("scheduling.v1beta1.PodGroup", "spec", "scheduling.v1beta1.PodGroupSpec"),
    ("scheduling.v1beta1.PodGroup", "status", "scheduling.v1beta1.PodGroupStatus"),
    ("scheduling.v1beta1.Workload", "spec", "scheduling.v1beta1.WorkloadSpec"),
    ("scheduling.v1beta1.WorkloadSpec", "compositePodGroupTemplates", "scheduling.v1beta1.CompositePodGroupTemplate"),
    ("scheduling.v1beta1.WorkloadSpec", "podGroupTemplates", "scheduling.v1beta1.PodGroupTemplate"),
    ("storage.v1.CSINode", "spec", "storage.v1.CSINodeSpec"),
    ("storage.v1.CSINode", "status", "storage.v1.CSINodeStatus"),
    ("storagemigration.v1.StorageVersionMigration", "status", "storagemigration.v1.StorageVersionMigrationStatus"),
    ("storagemigration.v1beta1.StorageVersionMigration", "status", "storagemigration.v1beta1.StorageVersionMigrationStatus"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tables_are_ordered_for_binary_search() {
        assert!(STRATEGIES.is_sorted_by_key(|(name, field, ..)| (name, field)));
        assert!(FIELDS.is_sorted_by_key(|(name, field, _)| (name, field)));
    }

    #[test]
    fn every_way_leads_to_something() {
        for (name, field, target) in FIELDS {
            let leads = STRATEGIES.iter().any(|(name, ..)| name == target)
                || FIELDS.iter().any(|(name, ..)| name == target);
            assert!(leads, "{name}.{field} leads to {target}, of which nothing is known");
        }
    }

    #[test]
    fn a_deployment_is_walked_down_to_its_environment_variables() {
        let mut name = type_name("apps", "v1", "Deployment");
        for field in ["spec", "template", "spec", "containers"] {
            name = type_of(&name, field).unwrap_or_else(|| panic!("{name}.{field}")).into_owned();
        }
        assert_eq!(name, "io.k8s.api.core.v1.Container");
        assert_eq!(of(&name, "env"), Some(MergeKey { strategy: Merge, key: Some("name") }));
        assert_eq!(of(&name, "ports"), Some(MergeKey { strategy: Merge, key: Some("containerPort") }));
        assert_eq!(of(&name, "args"), None);
    }

    #[test]
    fn metadata_is_the_same_everywhere() {
        let name = type_of(&type_name("", "v1", "ConfigMap"), "metadata").expect("known");
        assert_eq!(of(&name, "finalizers"), Some(MergeKey { strategy: Merge, key: None }));
        assert_eq!(of(&name, "ownerReferences"), Some(MergeKey { strategy: Merge, key: Some("uid") }));
    }

    #[test]
    fn groups_lose_their_domain() {
        assert_eq!(type_name("", "v1", "Pod"), "io.k8s.api.core.v1.Pod");
        assert_eq!(type_name("networking.k8s.io", "v1", "Ingress"), "io.k8s.api.networking.v1.Ingress");
        assert_eq!(type_name("rbac.authorization.k8s.io", "v1", "Role"), "io.k8s.api.rbac.v1.Role");
    }

    #[test]
    fn types_and_fields_are_those_of_the_schemas() {
        use k8s_openapi::schemars::{JsonSchema, SchemaGenerator};
        fn properties<T: JsonSchema>() -> (String, serde_json::Value) {
            let schema = T::json_schema(&mut SchemaGenerator::default());
            (T::schema_name().into_owned(), schema.as_value()["properties"].clone())
        }
        use k8s_openapi::api::{apps::v1 as apps, core::v1 as core};
        for (name, properties) in [
            properties::<core::PodSpec>(),
            properties::<core::PodStatus>(),
            properties::<core::Container>(),
            properties::<core::EphemeralContainer>(),
            properties::<core::NodeSpec>(),
            properties::<core::NodeStatus>(),
            properties::<core::ServiceSpec>(),
            properties::<core::ServiceAccount>(),
            properties::<core::NamespaceStatus>(),
            properties::<apps::DeploymentSpec>(),
            properties::<apps::StatefulSetSpec>(),
            properties::<apps::ReplicaSetStatus>(),
        ] {
            let short = name.strip_prefix(API).expect("an API type");
            let listed: Vec<_> =
                STRATEGIES.iter().filter(|(name, ..)| *name == short).map(|row| row.1).collect();
            let ways = FIELDS.iter().filter(|(name, ..)| *name == short).map(|row| row.1);
            assert!(!listed.is_empty() || ways.clone().next().is_some(), "{name}");
            for field in listed.into_iter().chain(ways) {
                assert!(properties.get(field).is_some(), "{name} has no field {field}");
            }
        }
    }
}
