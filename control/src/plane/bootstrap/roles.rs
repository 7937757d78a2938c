//! The default roles and bindings: made where they are missing, mended where they lost something.
//!
//! What was added to them stays. An object whose annotation says that it is not to be updated is left alone.

use futures::future::try_join_all;
use k8s_openapi::{
    api::rbac::v1::{ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, RoleRef, Subject},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use naru_model::Object;

use crate::{
    ApiClient, ApiError,
    auth::rbac::{self, AUTO_UPDATE, defaults},
    client::Delete,
    store::Key,
};

pub(super) async fn reconcile(client: &ApiClient) -> Result<(), ApiError> {
    let defaults = defaults();
    // At once, so that they share a commit.
    tokio::try_join!(
        try_join_all(defaults.cluster_roles.iter().map(|object| settle(client, object))),
        try_join_all(defaults.cluster_role_bindings.iter().map(|object| settle(client, object))),
        try_join_all(defaults.roles.iter().map(|object| settle(client, object))),
        try_join_all(defaults.role_bindings.iter().map(|object| settle(client, object))),
    )
    .map(drop)
}

/// What of a default object is kept as it should be.
trait Kept: Object {
    /// Adds to `self` what `wanted` has and it lacks.
    fn mend(&mut self, wanted: &Self);
    fn role_ref(&self) -> Option<&RoleRef> {
        None
    }
}

impl Kept for ClusterRole {
    fn mend(&mut self, wanted: &Self) {
        mend_metadata(&mut self.metadata, &wanted.metadata);
        if let Some(wanted) = &wanted.aggregation_rule {
            let selectors =
                self.aggregation_rule.get_or_insert_default().cluster_role_selectors.get_or_insert_default();
            add_missing(selectors, wanted.cluster_role_selectors.as_deref());
        } else {
            mend_rules(&mut self.rules, wanted.rules.as_deref());
        }
    }
}

impl Kept for Role {
    fn mend(&mut self, wanted: &Self) {
        mend_metadata(&mut self.metadata, &wanted.metadata);
        mend_rules(&mut self.rules, wanted.rules.as_deref());
    }
}

impl Kept for ClusterRoleBinding {
    fn mend(&mut self, wanted: &Self) {
        mend_metadata(&mut self.metadata, &wanted.metadata);
        mend_subjects(&mut self.subjects, wanted.subjects.as_deref());
    }
    fn role_ref(&self) -> Option<&RoleRef> {
        Some(&self.role_ref)
    }
}

impl Kept for RoleBinding {
    fn mend(&mut self, wanted: &Self) {
        mend_metadata(&mut self.metadata, &wanted.metadata);
        mend_subjects(&mut self.subjects, wanted.subjects.as_deref());
    }
    fn role_ref(&self) -> Option<&RoleRef> {
        Some(&self.role_ref)
    }
}

async fn settle<T: Kept>(client: &ApiClient, wanted: &T) -> Result<(), ApiError> {
    let resource = client.registry().kinds().of::<T>().expect("the kinds of RBAC are served").storage.clone();
    let entry = client.store().snapshot().get(&Key::new(&resource, wanted.namespace(), wanted.name()));
    let Some(entry) = entry else { return create(client, wanted).await };
    let Ok(found) = entry.typed::<T>() else { return Ok(()) };
    let annotations = found.metadata().annotations.as_ref();
    if annotations.and_then(|map| map.get(AUTO_UPDATE)).is_some_and(|value| value == "false") {
        return Ok(());
    }
    if found.role_ref() != wanted.role_ref() {
        // Bindings cannot change their role.
        client.delete::<T>(wanted.namespace(), wanted.name(), Delete::default()).await?;
        return create(client, wanted).await;
    }
    let mut mended = T::clone(&found);
    mended.mend(wanted);
    if serde_json::to_value(&mended).ok() == serde_json::to_value(&*found).ok() {
        return Ok(());
    }
    mended.metadata_mut().resource_version = Some(entry.revision.0.to_string());
    match client.update(&mended).await {
        // Another member has just written the same.
        Err(ApiError::Conflict { .. }) => Ok(()),
        other => other.map(drop),
    }
}

async fn create<T: Object>(client: &ApiClient, object: &T) -> Result<(), ApiError> {
    match client.create(object).await {
        Err(ApiError::AlreadyExists { .. }) => Ok(()),
        other => other.map(drop),
    }
}

fn mend_metadata(found: &mut ObjectMeta, wanted: &ObjectMeta) {
    for (key, value) in wanted.labels.iter().flatten() {
        found.labels.get_or_insert_default().insert(key.clone(), value.clone());
    }
    for (key, value) in wanted.annotations.iter().flatten() {
        found.annotations.get_or_insert_default().insert(key.clone(), value.clone());
    }
}

fn mend_rules(found: &mut Option<Vec<PolicyRule>>, wanted: Option<&[PolicyRule]>) {
    let missing = rbac::missing(found.iter().flatten(), wanted.unwrap_or_default());
    if !missing.is_empty() {
        found.get_or_insert_default().extend(missing);
    }
}

fn mend_subjects(found: &mut Option<Vec<Subject>>, wanted: Option<&[Subject]>) {
    if wanted.is_some() {
        add_missing(found.get_or_insert_default(), wanted);
    }
}

fn add_missing<T: Clone + PartialEq>(found: &mut Vec<T>, wanted: Option<&[T]>) {
    for item in wanted.unwrap_or_default() {
        if !found.contains(item) {
            found.push(item.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::client::Patch;

    async fn get<T: Object>(client: &ApiClient, namespace: &str, name: &str) -> T {
        let resource = client.registry().kinds().of::<T>().expect("served").storage.clone();
        let entry = client.store().snapshot().get(&Key::new(&resource, namespace, name)).expect("it exists");
        T::clone(&entry.typed::<T>().expect("it decodes"))
    }

    async fn cluster() -> ApiClient {
        let client = ApiClient::in_memory();
        for name in ["kube-system", "kube-public"] {
            let namespace = json!({ "metadata": { "name": name } });
            let namespace: k8s_openapi::api::core::v1::Namespace =
                serde_json::from_value(namespace).expect("a namespace");
            client.create(&namespace).await.expect("created");
        }
        reconcile(&client).await.expect("the defaults are valid");
        client
    }

    #[tokio::test]
    async fn a_second_start_writes_nothing() {
        let client = cluster().await;
        let before = client.store().snapshot().revision();
        reconcile(&client).await.expect("all is there");
        assert_eq!(client.store().snapshot().revision(), before);
    }

    #[tokio::test]
    async fn what_was_taken_comes_back_and_what_was_added_stays() {
        let client = cluster().await;
        let rules = json!([{ "verbs": ["get"], "apiGroups": ["shop"], "resources": ["teas"] }]);
        let patch = Patch::Merge(json!({ "rules": rules }));
        client.patch::<ClusterRole>("", "system:node-bootstrapper", "", patch).await.expect("patched");
        reconcile(&client).await.expect("mended");
        let role: ClusterRole = get(&client, "", "system:node-bootstrapper").await;
        let groups: Vec<_> =
            role.rules.iter().flatten().map(|rule| rule.api_groups.clone().unwrap_or_default()).collect();
        assert_eq!(groups[0], ["shop"]);
        assert!(groups.len() > 1 && groups[1..].iter().all(|of| *of == ["certificates.k8s.io"]));
    }

    #[tokio::test]
    async fn what_is_not_to_be_updated_is_not() {
        let client = cluster().await;
        let annotations = json!({ AUTO_UPDATE: "false" });
        let patch = Patch::Merge(json!({ "metadata": { "annotations": annotations }, "subjects": null }));
        client.patch::<ClusterRoleBinding>("", "system:discovery", "", patch).await.expect("patched");
        reconcile(&client).await.expect("left alone");
        assert_eq!(get::<ClusterRoleBinding>(&client, "", "system:discovery").await.subjects, None);
    }

    #[tokio::test]
    async fn a_binding_to_another_role_is_made_anew() {
        let client = cluster().await;
        client
            .delete::<ClusterRoleBinding>("", "system:discovery", Delete::default())
            .await
            .expect("deleted");
        let mut other: ClusterRoleBinding = get(&client, "", "system:monitoring").await;
        other.metadata = ObjectMeta { name: Some("system:discovery".into()), ..ObjectMeta::default() };
        client.create(&other).await.expect("created");
        reconcile(&client).await.expect("mended");
        let binding: ClusterRoleBinding = get(&client, "", "system:discovery").await;
        assert_eq!(binding.role_ref.name, "system:discovery");
    }
}
