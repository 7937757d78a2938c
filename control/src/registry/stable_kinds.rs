//! Every kind of a stable version of Kubernetes 1.37 is served.
//!
//! The list is that of the types in k8s-openapi's `v1_37` that have a URL of their own, in versions without `alpha` or
//! `beta`; a type that a later Kubernetes drops does not compile here any more.

use k8s_openapi::Resource;

use super::Kinds;

/// The path of a type's URL below its group, where nothing is served at it.
fn missing<T: Resource>(kinds: &Kinds) -> Option<String> {
    let is_served = kinds.of::<T>().is_some_and(|served| served.info.kind == T::KIND);
    (!is_served).then(|| format!("{}/{}", T::API_VERSION, T::URL_PATH_SEGMENT))
}

macro_rules! missing {
    ($kinds:expr; $($($segment:ident)::+ { $($kind:ident)* })*) => {
        [$({
            use k8s_openapi::$($segment)::+ as group;
            vec![$(missing::<group::$kind>($kinds)),*]
        }),*]
    };
}

#[test]
fn every_stable_kind_is_served() {
    let kinds = Kinds::builtin();
    let missing = missing! { &kinds;
        api::admissionregistration::v1 {
            MutatingAdmissionPolicy MutatingAdmissionPolicyBinding MutatingWebhookConfiguration
            ValidatingAdmissionPolicy ValidatingAdmissionPolicyBinding
            ValidatingWebhookConfiguration
        }
        api::apps::v1 { ControllerRevision DaemonSet Deployment ReplicaSet StatefulSet }
        api::authentication::v1 { SelfSubjectReview TokenReview }
        api::authorization::v1 {
            LocalSubjectAccessReview SelfSubjectAccessReview SelfSubjectRulesReview
            SubjectAccessReview
        }
        api::autoscaling::v1 { HorizontalPodAutoscaler }
        api::autoscaling::v2 { HorizontalPodAutoscaler }
        api::batch::v1 { CronJob Job }
        api::certificates::v1 { CertificateSigningRequest ClusterTrustBundle PodCertificateRequest }
        api::coordination::v1 { Lease }
        api::core::v1 {
            Binding ComponentStatus ConfigMap Endpoints Event LimitRange Namespace Node
            PersistentVolume PersistentVolumeClaim Pod PodTemplate ReplicationController
            ResourceQuota Secret Service ServiceAccount
        }
        api::discovery::v1 { EndpointSlice }
        api::events::v1 { Event }
        api::flowcontrol::v1 { FlowSchema PriorityLevelConfiguration }
        api::networking::v1 { IPAddress Ingress IngressClass NetworkPolicy ServiceCIDR }
        api::node::v1 { RuntimeClass }
        api::policy::v1 { PodDisruptionBudget }
        api::rbac::v1 { ClusterRole ClusterRoleBinding Role RoleBinding }
        api::resource::v1 { DeviceClass DeviceTaintRule ResourceClaim ResourceClaimTemplate ResourceSlice }
        api::scheduling::v1 { PriorityClass }
        api::storage::v1 {
            CSIDriver CSINode CSIStorageCapacity StorageClass VolumeAttachment VolumeAttributesClass
        }
        api::storagemigration::v1 { StorageVersionMigration }
        apiextensions_apiserver::pkg::apis::apiextensions::v1 { CustomResourceDefinition }
        kube_aggregator::pkg::apis::apiregistration::v1 { APIService }
    };
    let missing: Vec<String> = missing.into_iter().flatten().flatten().collect();
    assert_eq!(missing, [] as [String; 0]);
}
