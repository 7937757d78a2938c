//! The options of writes, as Kubernetes has them: `CreateOptions`, `UpdateOptions`, `PatchOptions`, `DeleteOptions`.

use naru_model::validation::{FieldErrors, Path};
use serde::{Deserialize, Serialize};

use super::{
    handler::{ContentType, Exchange},
    managers, resources,
};
use crate::{ApiError, client::Delete, registry::decode::FieldValidation};

/// What the query of a write says about how to do it; of a read, nothing.
pub struct WriteOptions {
    /// Who writes, as managed fields name them.
    pub manager: String,
    pub dry_run: bool,
    pub validation: FieldValidation,
}

impl WriteOptions {
    /// # Errors
    /// 422 with a cause per option that is wrong.
    pub fn parse(exchange: &Exchange<'_>, verb: &str) -> Result<Self, ApiError> {
        let kind = match verb {
            "create" => "CreateOptions",
            "update" => "UpdateOptions",
            "patch" => "PatchOptions",
            "delete" | "deletecollection" => "DeleteOptions",
            _ => {
                let validation = FieldValidation::default();
                return Ok(Self { manager: String::new(), dry_run: false, validation });
            }
        };
        let mut errors = FieldErrors::default();
        let query = &exchange.query;
        let dry_run = is_dry_run(query.all("dryRun"), &mut errors);
        let (mut manager, mut validation) = (String::new(), FieldValidation::default());
        if kind != "DeleteOptions" {
            manager = managers::name(exchange, verb, &mut errors);
            let text = query.text("fieldValidation");
            match FieldValidation::parse(text) {
                Some(known) => validation = known,
                None => {
                    let path = Path::new("fieldValidation");
                    errors.not_supported(&path, text, &["", "Ignore", "Strict", "Warn"]);
                }
            }
        }
        check(kind, errors)?;
        Ok(Self { manager, dry_run, validation })
    }
}

fn check(kind: &str, errors: FieldErrors) -> Result<(), ApiError> {
    if errors.is_empty() {
        return Ok(());
    }
    let kind = format!("{kind}.meta.k8s.io");
    Err(ApiError::Invalid { kind, name: String::new(), errors: errors.0 })
}

fn is_dry_run<'a>(values: impl Iterator<Item = &'a str>, errors: &mut FieldErrors) -> bool {
    let values: Vec<&str> = values.filter(|value| !value.is_empty()).collect();
    if values.iter().any(|value| *value != "All") {
        errors.not_supported(&Path::new("dryRun"), values.clone(), &["All"]);
    }
    !values.is_empty()
}

/// `metav1.DeleteOptions`, whatever group it says it is of.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeleteOptions {
    #[serde(skip_serializing)]
    kind: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    grace_period_seconds: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    preconditions: Option<Preconditions>,
    #[serde(skip_serializing_if = "Option::is_none")]
    orphan_dependents: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    propagation_policy: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dry_run: Option<Vec<String>>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Preconditions {
    #[serde(skip_serializing_if = "Option::is_none")]
    uid: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    resource_version: Option<String>,
}

impl DeleteOptions {
    /// What they ask for, and whether only in a dry run.
    ///
    /// # Errors
    /// 422 with a cause per option that is wrong.
    pub fn check(self) -> Result<(Delete, bool), ApiError> {
        let mut errors = FieldErrors::default();
        let path = Path::new("propagationPolicy");
        let policy = self.propagation_policy.as_deref();
        if let (Some(policy), Some(_)) = (policy, self.orphan_dependents) {
            errors.invalid(&path, policy, "orphanDependents and deletionPropagation cannot be both set");
        }
        if let Some(policy) = policy.filter(|policy| !POLICIES.contains(policy)) {
            errors.not_supported(&path, policy, &["Foreground", "Background", "Orphan", "nil"]);
        }
        let dry_run = is_dry_run(self.dry_run.iter().flatten().map(String::as_str), &mut errors);
        check("DeleteOptions", errors)?;
        let preconditions = self.preconditions.unwrap_or_default();
        let legacy =
            self.orphan_dependents.map(|orphan| if orphan { "Orphan" } else { "Background" }.to_owned());
        let delete = Delete {
            uid: preconditions.uid,
            resource_version: preconditions.resource_version,
            grace_period_seconds: self.grace_period_seconds,
            propagation_policy: self.propagation_policy.or(legacy),
        };
        Ok((delete, dry_run))
    }
}

const POLICIES: &[&str] = &["Foreground", "Background", "Orphan"];

/// The options of a delete: from the body if there is one, else from the query; and whether it is a dry run.
pub async fn of_delete(exchange: Exchange<'_>) -> Result<(Delete, bool), ApiError> {
    let content_type = ContentType::parse(exchange.content_type())?;
    let (query, record) = (exchange.query, exchange.record);
    let bytes = content_type.to_json(exchange.body.read().await?)?.json;
    if let Some(record) = record {
        record.request_body(|| bytes.clone());
    }
    if !bytes.is_empty() {
        let options: DeleteOptions = resources::decode_as("DeleteOptions", &bytes)?;
        let kind = options.kind.as_deref().unwrap_or_default();
        // Whoever sends something else does not mean what a delete would do.
        if !["", "DeleteOptions"].contains(&kind) {
            return Err(ApiError::BadRequest(format!(
                "{kind} cannot be handled as a DeleteOptions: the body of a delete may only be that"
            )));
        }
        return options.check();
    }
    let optional = |name| Some(query.text(name)).filter(|text| !text.is_empty());
    let options = DeleteOptions {
        grace_period_seconds: query.number("gracePeriodSeconds")?,
        propagation_policy: optional("propagationPolicy").map(Into::into),
        orphan_dependents: query.has("orphanDependents").then(|| query.flag("orphanDependents")),
        ..DeleteOptions::default()
    };
    options.check()
}
