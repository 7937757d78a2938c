//! What is kept of an object: its JSON as served, its metadata, and its typed form once somebody asked.

use std::{
    any::Any,
    collections::BTreeMap,
    sync::{Arc, OnceLock},
};

use bytes::Bytes;
use k8s_openapi::{apimachinery::pkg::apis::meta::v1::OwnerReference, jiff::Timestamp};
use naru_model::Object;

use super::{Key, Revision};

/// An object ready to be written: canonical JSON without `metadata.resourceVersion`, which the state machine
/// puts in at `revision_at` when it knows the revision.
#[derive(Debug, Clone)]
pub struct Draft {
    pub json: Bytes,
    /// Byte offset in `json` where `"resourceVersion":"N",` (or the digits) goes; see `Draft::new`.
    pub revision_at: u32,
}

impl Draft {
    /// Serializes `object`; its `resourceVersion` is ignored.
    pub fn new<T: Object>(object: &T) -> Result<Self, serde_json::Error> {
        todo!("{}", object.name())
    }
    /// The same for an object that is held as JSON. Objects without `metadata` get none.
    pub fn from_value(value: &serde_json::Value) -> Result<Self, serde_json::Error> {
        todo!("{value}")
    }
}

/// The part of `metadata` that every object's handling needs, decoded once when the entry is made.
#[derive(Debug, Clone, Default)]
pub struct Meta {
    pub name: String,
    pub namespace: String,
    pub uid: String,
    pub generation: Option<i64>,
    pub labels: BTreeMap<String, String>,
    pub owner_references: Vec<OwnerReference>,
    pub finalizers: Vec<String>,
    pub creation_timestamp: Option<Timestamp>,
    pub deletion_timestamp: Option<Timestamp>,
}

/// One revision of one object.
#[derive(Debug)]
pub struct Entry {
    pub key: Key,
    pub revision: Revision,
    pub meta: Meta,
    /// Canonical JSON, `metadata.resourceVersion` included: exactly what GET answers.
    pub json: Bytes,
    typed: OnceLock<Arc<dyn Any + Send + Sync>>,
}

impl Entry {
    /// The object as `T`, decoded at most once per revision.
    pub fn typed<T: Object>(&self) -> Result<Arc<T>, serde_json::Error> {
        todo!()
    }
}
