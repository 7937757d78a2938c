//! Server-side apply: a configuration says which fields its manager wants, and how.

use k8s_openapi::{apimachinery::pkg::apis::meta::v1::StatusCause, jiff::Timestamp};
use naru_model::apply::{ApplyError, ManagedFields};
use serde_json::{Value, json};

use super::{
    AnyObject, Call, Outcome, Part, Registry,
    checks::check_name,
    decode,
    managed::{self, Owners},
    path::{MAX_ATTEMPTS, Refusal},
};
use crate::{ApiError, store::Entry};

/// What a manager wants of an object.
#[derive(Debug, Clone)]
pub struct Configuration {
    pub value: Value,
    /// Whether it takes what other managers own.
    pub force: bool,
}

/// The result of a merge: the object and its managers.
type Merged = (Box<dyn AnyObject>, ManagedFields);

impl Registry {
    /// Applies `config` to the object named by `call`, which is created if it is not there.
    pub async fn apply(
        &self,
        call: &Call<'_>,
        part: Part,
        config: &Configuration,
    ) -> Result<Outcome, ApiError> {
        check(call, &config.value)?;
        let key = call.key();
        for _ in 0..MAX_ATTEMPTS {
            let view = self.store().snapshot();
            let Some(entry) = view.get(&key) else {
                if part != Part::Whole {
                    return Err(call.not_found());
                }
                check_is_new(call, &config.value)?;
                self.authorize(call.user, &call.attributes("create", ""))?;
                let (object, managers) = merge(call, part, None, config)?;
                match self.create_owned(call, object, Some(managers)).await {
                    // Somebody else created it in between: it is merged into that.
                    Err(ApiError::AlreadyExists { .. }) => continue,
                    outcome => return outcome,
                }
            };
            let (object, managers) = merge(call, part, Some(&entry), config)?;
            match self.replace(call, part, &view, &entry, object, Owners::Given(managers)).await {
                Ok((json, entry)) => return Ok(Outcome { json, entry, is_created: false }),
                Err(Refusal::Error(error)) => return Err(error),
                Err(Refusal::Taken | Refusal::Outdated) => (),
            }
        }
        Err(call.modified())
    }

    /// Applies a `Scale`, which stands for `spec.replicas` of the object.
    pub async fn apply_scale(&self, call: &Call<'_>, config: &Configuration) -> Result<Value, ApiError> {
        let scale = &config.value;
        if scale["apiVersion"] != "autoscaling/v1" || scale["kind"] != "Scale" {
            return Err(ApiError::BadRequest(format!("invalid object type: {}", group_version_kind(scale))));
        }
        let mut value = json!({
            "apiVersion": call.served.api_version,
            "kind": call.served.info.kind,
            "metadata": scale["metadata"],
            "spec": {},
        });
        match &scale["spec"]["replicas"] {
            Value::Null => (),
            replicas => value["spec"]["replicas"] = replicas.clone(),
        }
        let config = Configuration { value, force: config.force };
        let outcome = self.apply(call, Part::Scale, &config).await?;
        match &outcome.entry {
            Some(entry) => super::subresource::scale_of(call, entry),
            None => self.scale(call),
        }
    }
}

fn merge(
    call: &Call<'_>,
    part: Part,
    entry: Option<&Entry>,
    config: &Configuration,
) -> Result<Merged, ApiError> {
    let live = entry.map(|entry| call.served.plain_value(entry)).transpose()?;
    let mut managers = entry.and_then(managed::stored).unwrap_or_default();
    let time = managed::time(Timestamp::now());
    let merged = managers
        .apply(
            call.served.object_type(),
            live.as_ref(),
            &config.value,
            call.writer(part, &time),
            &call.ignored(part),
            config.force,
        )
        .map_err(|error| refusal(&config.value, error))?;
    let (object, warnings) =
        decode::patched(call.served, merged, Vec::new(), || Ok(config.value.clone()), call.validation)?;
    call.warn(warnings);
    Ok((object, managers))
}

fn refusal(config: &Value, error: ApplyError) -> ApiError {
    let message = error.to_string();
    match error {
        ApplyError::Misfit(_) => {
            let text = |field: &str| config["metadata"][field].as_str().unwrap_or_default();
            let (namespace, name) = (text("namespace"), text("name"));
            let kind = group_version_kind(config);
            ApiError::BadRequest(format!(
                "failed to create typed patch object ({namespace}/{name}; {kind}): {message}"
            ))
        }
        ApplyError::Conflicts(conflicts) => {
            let causes = conflicts.into_iter().map(|conflict| StatusCause {
                reason: Some("FieldManagerConflict".into()),
                message: Some(format!("conflict with {}", conflict.manager)),
                field: Some(conflict.field),
            });
            ApiError::ApplyConflict { message, causes: causes.collect() }
        }
    }
}

/// A configuration that means an object of its own, by its uid, is not for another one.
fn check_is_new(call: &Call<'_>, config: &Value) -> Result<(), ApiError> {
    match config["metadata"]["uid"].as_str().unwrap_or_default() {
        "" => Ok(()),
        uid => Err(call.conflict(format!(
            "uid mismatch: the provided object specified uid {uid}, and no existing object was found"
        ))),
    }
}

fn check(call: &Call<'_>, config: &Value) -> Result<(), ApiError> {
    let is_of_kind =
        config["apiVersion"] == *call.served.api_version && config["kind"] == call.served.info.kind;
    if !is_of_kind {
        return Err(ApiError::BadRequest(format!("invalid object type: {}", group_version_kind(config))));
    }
    if !config["metadata"]["managedFields"].is_null() {
        return Err(ApiError::BadRequest("metadata.managedFields must be nil".into()));
    }
    check_name(call, config["metadata"]["name"].as_str().unwrap_or_default())
}

/// `apps/v1, Kind=Deployment`, `/v1, Kind=Pod`.
fn group_version_kind(config: &Value) -> String {
    let text = |field: &str| config[field].as_str().unwrap_or_default();
    let version = text("apiVersion");
    let slash = if version.contains('/') { "" } else { "/" };
    format!("{slash}{version}, Kind={}", text("kind"))
}
