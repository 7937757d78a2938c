//! The APIServices of the groups and versions that this server serves itself: one each, always available.

use std::collections::BTreeMap;

use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
    kube_aggregator::pkg::apis::apiregistration::v1::{APIService, APIServiceSpec},
};
use naru_model::Object as _;

use crate::{ApiClient, ApiError, client::Delete, store::Scope};

/// Says of an APIService who keeps it: `onstart` of built-in groups, `true` of those that definitions bring.
const MANAGED: &str = "kube-aggregator.kubernetes.io/automanaged";

/// Makes those that are missing, and removes those of definitions that are gone.
pub(super) async fn reconcile(client: &ApiClient) {
    let kinds = client.registry().kinds();
    let mut wanted = BTreeMap::new();
    for served in kinds.all() {
        let (group, version) = (served.info.group, served.info.version);
        wanted.entry(format!("{version}.{group}")).or_insert((group, version, served.kind.is_custom()));
    }
    let view = client.store().snapshot();
    let mut stale = Vec::new();
    for entry in view.range(&Scope::all("apiservices.apiregistration.k8s.io"), None) {
        let is_wanted = wanted.remove(&entry.meta.name).is_some();
        if !is_wanted && entry.typed::<APIService>().is_ok_and(|service| is_of_definition(&service)) {
            stale.push(entry.typed::<APIService>());
        }
    }
    let made =
        wanted.into_iter().map(|(name, of)| async move { client.create(&local(name, of)).await.map(drop) });
    let removed = stale.into_iter().flatten().map(|service| async move {
        let options = Delete { uid: Some(service.uid().into()), ..Delete::default() };
        client.delete::<APIService>("", service.name(), options).await.map(drop)
    });
    let (made, removed) = tokio::join!(futures::future::join_all(made), futures::future::join_all(removed));
    for result in made.into_iter().chain(removed) {
        match result {
            Ok(()) | Err(ApiError::AlreadyExists { .. } | ApiError::NotFound { .. }) => {}
            Err(error) => tracing::warn!(%error, "an APIService could not be kept"),
        }
    }
}

fn is_of_definition(service: &APIService) -> bool {
    let label = service.metadata.labels.as_ref().and_then(|labels| labels.get(MANAGED));
    label.is_some_and(|label| label == "true")
        && service.spec.as_ref().is_some_and(|spec| spec.service.is_none())
}

fn local(name: String, (group, version, is_custom): (&str, &str, bool)) -> APIService {
    let (group_priority_minimum, version_priority) = priority(group, version, is_custom);
    let managed = if is_custom { "true" } else { "onstart" };
    APIService {
        metadata: ObjectMeta {
            name: Some(name),
            labels: Some([(MANAGED.to_owned(), managed.to_owned())].into()),
            ..ObjectMeta::default()
        },
        spec: Some(APIServiceSpec {
            group: (!group.is_empty()).then(|| group.to_owned()),
            version: Some(version.into()),
            group_priority_minimum,
            version_priority,
            ..APIServiceSpec::default()
        }),
        ..APIService::default()
    }
}

/// Kubernetes' order of groups, and of versions in them.
fn priority(group: &str, version: &str, is_custom: bool) -> (i32, i32) {
    if is_custom {
        return (1000, 100);
    }
    let group = match group {
        "" => return (18000, 1),
        // As metrics-server's own manifest has it.
        "metrics.k8s.io" => return (100, 100),
        "apps" => 17800,
        "events.k8s.io" => 17750,
        "authentication.k8s.io" => 17700,
        "authorization.k8s.io" => 17600,
        "autoscaling" => 17500,
        "batch" => 17400,
        "certificates.k8s.io" => 17300,
        "networking.k8s.io" => 17200,
        "policy" => 17100,
        "rbac.authorization.k8s.io" => 17000,
        "storage.k8s.io" => 16800,
        "apiextensions.k8s.io" | "admissionregistration.k8s.io" => 16700,
        "scheduling.k8s.io" => 16600,
        "coordination.k8s.io" => 16500,
        "node.k8s.io" => 16300,
        "discovery.k8s.io" => 16200,
        "flowcontrol.apiserver.k8s.io" => 16100,
        _ => 15000,
    };
    (group, if version == "v2" { 30 } else { 15 })
}
