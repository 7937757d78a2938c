//! Which objects of a collection a request means.

use std::sync::Arc;

use naru_model::selector::{FieldSelector, Selector};

use super::query::Query;
use crate::{
    ApiError,
    registry::{Call, Served},
    store::{Entry, Scope},
};

/// Label and field selectors of a request, and the scope that they leave to look at.
pub struct Filter {
    served: Arc<Served>,
    labels: Selector,
    fields: FieldSelector,
    is_everything: bool,
    pub scope: Scope,
}

impl Filter {
    pub fn new(served: &Arc<Served>, call: &Call<'_>, query: &Query<'_>) -> Result<Self, ApiError> {
        let labels = match query.text("labelSelector") {
            "" => Selector::everything(),
            text => Selector::parse(text).map_err(|error| ApiError::BadRequest(error.to_string()))?,
        };
        let fields = match query.text("fieldSelector") {
            "" => FieldSelector::default(),
            text => FieldSelector::parse(text).map_err(|error| ApiError::BadRequest(error.to_string()))?,
        };
        check_fields(served, &fields)?;
        // A watch of one object by its URL.
        let fields = if call.name.is_empty() { fields } else { only(call.name, fields)? };
        let named = fields.required("metadata.name");
        let within = fields.required("metadata.namespace").filter(|_| call.namespace.is_empty());
        let namespace = match (served.info.namespaced, call.namespace) {
            (false, _) => Some(""),
            (true, "") => within,
            (true, namespace) => Some(namespace),
        };
        let scope = Scope {
            resource: served.storage.clone(),
            // A cluster-scoped resource has one namespace, the empty one; naming it is needed for single objects only.
            namespace: namespace.filter(|of| !of.is_empty() || named.is_some()).map(Into::into),
            name: named.map(Into::into),
        };
        let is_everything = labels.is_everything() && fields.is_everything();
        Ok(Self { served: served.clone(), labels, fields, is_everything, scope })
    }

    /// Whether nothing is left out.
    pub fn is_everything(&self) -> bool {
        self.is_everything
    }

    pub fn matches(&self, entry: &Entry) -> bool {
        self.is_everything
            || (self.labels.matches(&*entry.meta.labels)
                && self.fields.matches(|field| match field {
                    "metadata.name" => entry.meta.name.clone(),
                    "metadata.namespace" => entry.meta.namespace.clone(),
                    other => self.served.field(entry, other),
                }))
    }
}

/// `fields` where they choose `name` already, or nothing less.
fn only(name: &str, fields: FieldSelector) -> Result<FieldSelector, ApiError> {
    if fields.is_everything() {
        return Ok(FieldSelector::equal("metadata.name", name));
    }
    if fields.required("metadata.name") == Some(name) {
        return Ok(fields);
    }
    Err(ApiError::BadRequest("fieldSelector metadata.name doesn't match requested name".into()))
}

fn check_fields(served: &Served, fields: &FieldSelector) -> Result<(), ApiError> {
    let known = served.field_names();
    for term in fields.terms() {
        let field = term.field.as_str();
        if matches!(field, "metadata.name" | "metadata.namespace") || known.contains(&field) {
            continue;
        }
        return Err(ApiError::BadRequest(if known.is_empty() && !served.kind.is_custom() {
            format!(
                "\"{field}\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\""
            )
        } else {
            format!("field label not supported: {field}")
        }));
    }
    Ok(())
}
