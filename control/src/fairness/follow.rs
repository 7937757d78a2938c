//! Keeps the plan in step with the cluster's objects, and the objects as they have to be: the mandatory and the
//! suggested ones exist, those that follow Kubernetes' own do so, and each schema says whether its level exists.

use std::time::Duration;

use k8s_openapi::{
    api::flowcontrol::v1::{
        FlowSchema, FlowSchemaCondition as Condition, FlowSchemaStatus, PriorityLevelConfiguration,
    },
    apimachinery::pkg::apis::meta::v1::Time,
    jiff::Timestamp,
};
use naru_model::Object;
use tokio_util::sync::CancellationToken;

use super::{Fairness, LEVELS, SCHEMAS};
use crate::{
    ApiClient, ApiError,
    registry::flowcontrol::{self, AUTO_UPDATE},
    store::{Key, Revision, Scope, Snapshot, Store, StoreError},
};

const RETRY: Duration = Duration::from_millis(100);
/// Between two looks at who lacks seats while somebody does.
const LEND_EVERY: Duration = Duration::from_millis(100);

impl Fairness {
    /// Follows the objects until `shutdown`, writing as `client` what is missing.
    pub async fn follow(&self, client: &ApiClient, shutdown: CancellationToken) {
        let work = async { tokio::join!(self.keep_up(client), self.keep_lending()) };
        shutdown.run_until_cancelled(work).await;
    }

    async fn keep_up(&self, client: &ApiClient) {
        loop {
            let view = client.store().snapshot();
            self.refresh(&view);
            if let Err(error) = maintain(client, &view).await {
                tracing::warn!(%error, "the objects of priority and fairness cannot be kept up; trying again");
                tokio::time::sleep(RETRY).await;
                continue;
            }
            if let Err(error) = changed(client.store(), view.revision()).await {
                tracing::warn!(%error, "the objects of priority and fairness cannot be watched; trying again");
                tokio::time::sleep(RETRY).await;
            }
        }
    }

    /// Asleep while every level has seats enough.
    async fn keep_lending(&self) {
        loop {
            self.pressed.notified().await;
            loop {
                tokio::time::sleep(LEND_EVERY).await;
                if !self.lend() {
                    break;
                }
            }
        }
    }
}

/// Waits for a change of either kind after `seen`.
async fn changed(store: &Store, seen: Revision) -> Result<(), StoreError> {
    let mut schemas = store.watch(Scope::all(SCHEMAS), seen)?;
    let mut levels = store.watch(Scope::all(LEVELS), seen)?;
    // A watch that lags has missed changes, which is a change.
    tokio::select! {
        _ = schemas.next() => Ok(()),
        _ = levels.next() => Ok(()),
    }
}

/// Writes what `view` lacks.
async fn maintain(client: &ApiClient, view: &Snapshot) -> Result<(), ApiError> {
    for level in flowcontrol::priority_levels() {
        match view.get(&Key::new(LEVELS, "", level.name())) {
            None => absent(client.create(&level).await)?,
            Some(entry) => {
                let Ok(found) = entry.typed::<PriorityLevelConfiguration>() else { continue };
                if follows_ours(&*found) && found.spec != level.spec {
                    let mended = PriorityLevelConfiguration { spec: level.spec, ..found.as_ref().clone() };
                    absent(client.update(&mended).await)?;
                }
            }
        }
    }
    for schema in flowcontrol::flow_schemas() {
        match view.get(&Key::new(SCHEMAS, "", schema.name())) {
            None => absent(client.create(&schema).await)?,
            Some(entry) => {
                let Ok(found) = entry.typed::<FlowSchema>() else { continue };
                if follows_ours(&*found) && found.spec != schema.spec {
                    absent(client.update(&FlowSchema { spec: schema.spec, ..found.as_ref().clone() }).await)?;
                }
            }
        }
    }
    let reports = view.list::<FlowSchema>(&Scope::all(SCHEMAS)).into_iter().filter_map(|schema| {
        let level = &schema.spec.priority_level_configuration.name;
        let exists = view.get(&Key::new(LEVELS, "", level)).is_some();
        with_report(&schema, exists, Timestamp::now())
    });
    // At the same time, so that one commit holds them all.
    let writes = reports.map(|schema| async move { absent(client.update_status(&schema).await) });
    futures::future::try_join_all(writes).await.map(drop)
}

/// Another change came in between: it will be looked at next.
fn absent<T>(written: Result<T, ApiError>) -> Result<(), ApiError> {
    match written {
        Err(ApiError::AlreadyExists { .. } | ApiError::Conflict { .. } | ApiError::NotFound { .. }) => Ok(()),
        other => other.map(drop),
    }
}

/// Whether nobody took the object over. Without the annotation, one that was never changed is still ours.
fn follows_ours<T: Object>(object: &T) -> bool {
    let metadata = object.metadata();
    let annotation = metadata.annotations.as_ref().and_then(|annotations| annotations.get(AUTO_UPDATE));
    annotation.map_or(metadata.generation == Some(1), |value| value == "true")
}

/// `schema` with the condition that tells whether its level exists, unless it says so already.
fn with_report(schema: &FlowSchema, exists: bool, now: Timestamp) -> Option<FlowSchema> {
    let level = &schema.spec.priority_level_configuration.name;
    let (status, reason, message) = if exists {
        let message = format!(
            "This FlowSchema references the PriorityLevelConfiguration object named {level:?} and it exists"
        );
        ("False", "Found", message)
    } else {
        let message = format!(
            "This FlowSchema references the PriorityLevelConfiguration object named {level:?} but there is no such object"
        );
        ("True", "NotFound", message)
    };
    let mut conditions = schema.status.clone().unwrap_or_default().conditions.unwrap_or_default();
    let found = conditions.iter().position(|condition| condition.type_.as_str() == "Dangling");
    let before = found.map(|at| conditions.remove(at));
    let is_same = |of: &Condition| of.status.as_deref() == Some(status);
    if before.as_ref().is_some_and(|of| is_same(of) && of.message.as_deref() == Some(&message)) {
        return None;
    }
    let since = before.filter(is_same).and_then(|of| of.last_transition_time).unwrap_or(Time(now));
    conditions.push(Condition {
        type_: "Dangling".into(),
        status: Some(status.into()),
        reason: Some(reason.into()),
        message: Some(message),
        last_transition_time: Some(since),
    });
    Some(FlowSchema { status: Some(FlowSchemaStatus { conditions: Some(conditions) }), ..schema.clone() })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::client::Patch;

    async fn reported(client: &ApiClient, name: &str, status: &str) {
        loop {
            let entry = client.store().snapshot().get(&Key::new(SCHEMAS, "", name));
            let schema = entry.and_then(|entry| entry.typed::<FlowSchema>().ok());
            let conditions =
                schema.and_then(|schema| schema.status.clone()).and_then(|status| status.conditions);
            if conditions.is_some_and(|of| of.iter().any(|of| of.status.as_deref() == Some(status))) {
                return;
            }
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn objects_are_made_mended_and_reported_on() {
        let client = ApiClient::in_memory();
        let fairness = std::sync::Arc::new(Fairness::new(600, &client.store().snapshot()));
        let shutdown = CancellationToken::new();
        let (follower, of, ends) = (fairness.clone(), client.clone(), shutdown.clone());
        let task = tokio::spawn(async move { follower.follow(&of, ends).await });
        reported(&client, "global-default", "False").await;

        // One that follows ours is put right; one that was taken over is left alone.
        let shares = |shares: i32| json!({ "limited": { "nominalConcurrencyShares": shares } });
        let patch = Patch::Merge(json!({ "spec": shares(7) }));
        client.patch::<PriorityLevelConfiguration>("", "system", "", patch).await.expect("patched");
        let own = json!({ "metadata": { "annotations": { AUTO_UPDATE: "false" } }, "spec": shares(8) });
        client
            .patch::<PriorityLevelConfiguration>("", "node-high", "", Patch::Merge(own))
            .await
            .expect("patched");
        let shares_of = |name: &str| {
            let entry = client.store().snapshot().get(&Key::new(LEVELS, "", name)).expect("there");
            let level = entry.typed::<PriorityLevelConfiguration>().expect("typed");
            level.spec.limited.as_ref().and_then(|limited| limited.nominal_concurrency_shares)
        };
        while shares_of("system") != Some(30) {
            tokio::task::yield_now().await;
        }
        assert_eq!(shares_of("node-high"), Some(8));

        // A schema whose level goes says so.
        let schema: FlowSchema = serde_json::from_value(json!({ "metadata": { "name": "own" }, "spec": {
            "priorityLevelConfiguration": { "name": "missing" },
            "rules": [{ "subjects": [{ "kind": "User", "user": { "name": "jane" } }],
                "nonResourceRules": [{ "verbs": ["*"], "nonResourceURLs": ["*"] }] }],
        } }))
        .expect("a schema");
        client.create(&schema).await.expect("created");
        reported(&client, "own", "True").await;

        client.delete::<FlowSchema>("", "catch-all", Default::default()).await.expect("deleted");
        reported(&client, "catch-all", "False").await;
        shutdown.cancel();
        task.await.expect("no panic");
    }
}
