//! Structural schemas: what a custom resource's objects look like, and what is done with objects by it.
//!
//! A schema is built once from the definition's JSON ([`Schema::build`]). With it objects are pruned (`prune`), filled
//! with defaults (`defaults`) and validated (`validate`, `lists`). Source: the structural schema rules of Kubernetes'
//! apiextensions and the error texts of kube-openapi.

mod build;
mod defaults;
mod formats;
mod lists;
pub mod pattern; // Regular expressions as Go understands them.
mod prune;
#[cfg(test)]
mod tests;
mod validate;

pub use formats::fits;

use std::collections::BTreeMap;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::ValidationRule;
use regex::Regex;
use serde_json::Value;

/// The type of a value. An integer is also a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Type {
    Object,
    Array,
    String,
    Integer,
    Number,
    Boolean,
}

impl Type {
    pub fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "object" => Self::Object,
            "array" => Self::Array,
            "string" => Self::String,
            "integer" => Self::Integer,
            "number" => Self::Number,
            "boolean" => Self::Boolean,
            _ => return None,
        })
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Object => "object",
            Self::Array => "array",
            Self::String => "string",
            Self::Integer => "integer",
            Self::Number => "number",
            Self::Boolean => "boolean",
        }
    }
}

/// What an object may hold beside its `properties`.
#[derive(Debug, Default)]
pub enum Additional {
    /// Nothing was said: such fields are pruned.
    #[default]
    Unsaid,
    Any,
    Schema(Box<Schema>),
}

/// How two writers' lists relate.
#[derive(Debug, Default, PartialEq, Eq)]
pub enum ListKind {
    #[default]
    Atomic,
    Set,
    /// A map by these keys.
    Map(Vec<String>),
}

/// Bounds of a number; `true` excludes the bound itself.
pub type Bound = Option<(f64, bool)>;

/// One node of a schema, compiled.
#[derive(Debug, Default)]
pub struct Schema {
    pub kind: Option<Type>,
    pub nullable: bool,
    pub format: Option<String>,
    pub default: Option<Value>,
    pub choices: Vec<Value>,
    pub maximum: Bound,
    pub minimum: Bound,
    pub multiple_of: Option<f64>,
    pub max_length: Option<i64>,
    pub min_length: Option<i64>,
    pub pattern: Option<(String, Regex)>,
    pub max_items: Option<i64>,
    pub min_items: Option<i64>,
    pub max_properties: Option<i64>,
    pub min_properties: Option<i64>,
    pub required: Vec<String>,
    pub properties: BTreeMap<String, Self>,
    pub additional: Additional,
    pub items: Option<Box<Self>>,
    pub all_of: Vec<Self>,
    pub any_of: Vec<Self>,
    pub one_of: Vec<Self>,
    pub not: Option<Box<Self>>,
    pub preserves_unknown: bool,
    pub is_embedded: bool,
    pub is_int_or_string: bool,
    pub list_kind: ListKind,
    pub rules: Vec<ValidationRule>,
    /// Whether it or something in it has rules.
    pub has_rules: bool,
}

impl Schema {
    /// The schema of what lies under `key` in an object, where there is one.
    pub fn child(&self, key: &str) -> Option<&Self> {
        self.properties.get(key).or(match &self.additional {
            Additional::Schema(schema) => Some(schema),
            _ => None,
        })
    }
}

/// `spec` and `size` as `spec.size`.
pub(super) fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.into() } else { format!("{path}.{key}") }
}
