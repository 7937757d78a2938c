//! Kinds and their objects behind one pointer, so that the generic path is compiled once, not once per kind.
//!
//! **Invariant:** a kind is only ever handed objects that it decoded or loaded itself; the downcasts rest on that.

use std::{any::Any, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use k8s_openapi::{apimachinery::pkg::apis::meta::v1::ObjectMeta, jiff::Timestamp};
use naru_model::{Object, ResourceInfo, apply::ObjectType, quantity::QuantityError, validation::FieldErrors};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{
    allocation::{Claim, Pools},
    kind::{ColumnOf, Context, Kind, Scale},
    nulls, quantities,
};
use crate::store::{Draft, Entry, json};

/// An API object of some kind.
pub trait AnyObject: Any + Send + Sync {
    fn meta(&self) -> &ObjectMeta;
    fn meta_mut(&mut self) -> &mut ObjectMeta;
    fn draft(&self) -> Result<Draft, serde_json::Error>;
    fn to_value(&self) -> Result<Value, serde_json::Error>;
    fn to_json(&self) -> Result<Vec<u8>, serde_json::Error>;
    /// Why one of its quantities is none, if that is so. Custom resources have none.
    fn check_quantities(&self) -> Result<(), QuantityError> {
        Ok(())
    }
    fn boxed(&self) -> Box<dyn AnyObject>;
    fn as_any(&self) -> &dyn Any;
    fn as_any_mut(&mut self) -> &mut dyn Any;
}

impl<T: Object> AnyObject for T {
    fn meta(&self) -> &ObjectMeta {
        self.metadata()
    }
    fn meta_mut(&mut self) -> &mut ObjectMeta {
        self.metadata_mut()
    }
    fn draft(&self) -> Result<Draft, serde_json::Error> {
        Draft::new(self)
    }
    fn to_value(&self) -> Result<Value, serde_json::Error> {
        serde_json::to_value(self)
    }
    fn to_json(&self) -> Result<Vec<u8>, serde_json::Error> {
        json::to_vec(self)
    }
    fn check_quantities(&self) -> Result<(), QuantityError> {
        quantities::check(self)
    }
    fn boxed(&self) -> Box<dyn AnyObject> {
        Box::new(self.clone())
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }
}

/// A name for an object wherever only one is looked at.
impl dyn AnyObject {
    pub fn name(&self) -> &str {
        self.meta().name.as_deref().unwrap_or_default()
    }
    pub fn namespace(&self) -> &str {
        self.meta().namespace.as_deref().unwrap_or_default()
    }
    /// The object as `T`, if that is what it is.
    pub fn get<T: Object>(&self) -> Option<&T> {
        self.as_any().downcast_ref()
    }
    pub fn get_mut<T: Object>(&mut self) -> Option<&mut T> {
        self.as_any_mut().downcast_mut()
    }
}

/// Told of each field that a decoded object has no place for, as `spec.containers[0].imagee`.
pub type OnUnknown<'a> = &'a mut dyn FnMut(String);

/// [`Kind`] without its type parameter; the methods mean the same.
#[async_trait]
pub trait ErasedKind: Send + Sync {
    fn resource(&self) -> &'static ResourceInfo;
    /// Adds the type's schema, and those of all that it is made of, to the definitions of `generator`.
    fn add_schema(&self, generator: &mut schemars::SchemaGenerator);
    fn decode(&self, json: &[u8], unknown: OnUnknown<'_>) -> Result<Box<dyn AnyObject>, serde_json::Error>;
    fn decode_value(
        &self,
        value: Value,
        unknown: OnUnknown<'_>,
    ) -> Result<Box<dyn AnyObject>, serde_json::Error>;
    /// What is stored, shared.
    fn load(&self, entry: &Entry) -> Result<Arc<dyn AnyObject>, serde_json::Error>;
    /// Whether a definition made this kind: its objects must say their type, and have no strategic merge patch.
    fn is_custom(&self) -> bool {
        false
    }
    /// Whether the entry's JSON is what clients of this kind are to see.
    fn is_served_as_stored(&self, _entry: &Entry) -> bool {
        true
    }
    /// Before many entries are served: does at once what would be slow one by one.
    async fn prepare(&self, _entries: &[Arc<Entry>]) -> Result<(), String> {
        Ok(())
    }
    /// Stored JSON as clients of this kind are to see it.
    fn as_served(&self, json: &Bytes) -> Result<Bytes, serde_json::Error> {
        Ok(json.clone())
    }

    fn default(&self, object: &mut dyn AnyObject);
    fn prepare_create(&self, object: &mut dyn AnyObject, context: &Context<'_>);
    fn prepare_update(&self, new: &mut dyn AnyObject, old: &dyn AnyObject, context: &Context<'_>);
    fn prepare_status_update(&self, new: &mut dyn AnyObject, old: &dyn AnyObject, context: &Context<'_>);
    fn prepare_approval_update(&self, new: &mut dyn AnyObject, old: &dyn AnyObject, context: &Context<'_>);
    fn validate_name(&self, name: &str, errors: &mut FieldErrors);
    fn validate(&self, object: &dyn AnyObject, errors: &mut FieldErrors);
    fn validate_create(&self, object: &dyn AnyObject, errors: &mut FieldErrors);
    fn validate_update(&self, new: &dyn AnyObject, old: &dyn AnyObject, errors: &mut FieldErrors);
    fn validate_status_update(&self, new: &dyn AnyObject, old: &dyn AnyObject, errors: &mut FieldErrors);
    fn prepare_part_update(&self, part: &str, new: &mut dyn AnyObject, old: &dyn AnyObject);
    fn validate_part_update(
        &self,
        part: &str,
        new: &dyn AnyObject,
        old: &dyn AnyObject,
        errors: &mut FieldErrors,
    );
    fn deprecation(&self) -> Option<&str>;
    fn warnings(&self, object: &dyn AnyObject) -> Vec<String>;
    fn is_spec_changed(&self, new: &dyn AnyObject, old: &dyn AnyObject) -> bool;
    fn has_generation(&self) -> bool;
    fn allocates(&self) -> bool;
    fn allocate(
        &self,
        new: &mut dyn AnyObject,
        old: Option<&dyn AnyObject>,
        pools: &Pools<'_>,
        errors: &mut FieldErrors,
    );
    fn claims(&self, object: &dyn AnyObject) -> Vec<Claim>;
    fn allows_create_on_update(&self) -> bool;
    fn requires_resource_version(&self) -> bool;
    fn object_type(&self) -> Option<ObjectType>;
    fn reset_fields(&self, subresource: &str) -> &'static [&'static str];
    fn mark_deleting(&self, object: &mut dyn AnyObject);
    fn is_held(&self, object: &dyn AnyObject) -> bool;
    fn grace_period_seconds(&self, object: &dyn AnyObject, requested: Option<i64>) -> Option<i64>;
    fn orphans_by_default(&self) -> bool;
    fn answers_deleted(&self) -> bool;

    fn columns(&self) -> Vec<ColumnOf<'_>>;
    fn row(&self, entry: &Entry, now: Timestamp) -> Vec<Value>;
    fn field_names(&self) -> Vec<&str>;
    fn field(&self, entry: &Entry, name: &str) -> String;
    fn scale(&self, object: &dyn AnyObject) -> Option<Scale>;
    fn set_scale(&self, object: &mut dyn AnyObject, replicas: i32);
}

/// Makes an [`ErasedKind`] of a [`Kind`].
pub(super) struct Erase<K>(pub K);

fn of<T: Object>(object: &dyn AnyObject) -> &T {
    object.get().expect("a kind is handed only objects of its own")
}

fn of_mut<T: Object>(object: &mut dyn AnyObject) -> &mut T {
    object.get_mut().expect("a kind is handed only objects of its own")
}

#[async_trait]
impl<K: Kind> ErasedKind for Erase<K> {
    fn resource(&self) -> &'static ResourceInfo {
        self.0.resource()
    }

    fn add_schema(&self, generator: &mut schemars::SchemaGenerator) {
        generator.subschema_for::<K::Object>();
    }

    fn decode(&self, json: &[u8], unknown: OnUnknown<'_>) -> Result<Box<dyn AnyObject>, serde_json::Error> {
        Ok(Box::new(nulls::read(json, |json| decode_text::<K::Object>(json, &mut *unknown))?))
    }

    fn decode_value(
        &self,
        value: Value,
        unknown: OnUnknown<'_>,
    ) -> Result<Box<dyn AnyObject>, serde_json::Error> {
        let object: K::Object = decode_known(value, unknown)?;
        Ok(Box::new(object))
    }

    fn load(&self, entry: &Entry) -> Result<Arc<dyn AnyObject>, serde_json::Error> {
        Ok(entry.typed::<K::Object>()?)
    }

    fn default(&self, object: &mut dyn AnyObject) {
        self.0.default(of_mut(object));
    }
    fn prepare_create(&self, object: &mut dyn AnyObject, context: &Context<'_>) {
        self.0.prepare_create(of_mut(object), context);
    }
    fn prepare_update(&self, new: &mut dyn AnyObject, old: &dyn AnyObject, context: &Context<'_>) {
        self.0.prepare_update(of_mut(new), of(old), context);
    }
    fn prepare_status_update(&self, new: &mut dyn AnyObject, old: &dyn AnyObject, context: &Context<'_>) {
        self.0.prepare_status_update(of_mut(new), of(old), context);
    }
    fn prepare_approval_update(&self, new: &mut dyn AnyObject, old: &dyn AnyObject, context: &Context<'_>) {
        self.0.prepare_approval_update(of_mut(new), of(old), context);
    }
    fn validate_name(&self, name: &str, errors: &mut FieldErrors) {
        self.0.validate_name(name, errors);
    }
    fn validate(&self, object: &dyn AnyObject, errors: &mut FieldErrors) {
        self.0.validate(of(object), errors);
    }
    fn validate_create(&self, object: &dyn AnyObject, errors: &mut FieldErrors) {
        self.0.validate_create(of(object), errors);
    }
    fn validate_update(&self, new: &dyn AnyObject, old: &dyn AnyObject, errors: &mut FieldErrors) {
        self.0.validate_update(of(new), of(old), errors);
    }
    fn validate_status_update(&self, new: &dyn AnyObject, old: &dyn AnyObject, errors: &mut FieldErrors) {
        self.0.validate_status_update(of(new), of(old), errors);
    }
    fn prepare_part_update(&self, part: &str, new: &mut dyn AnyObject, old: &dyn AnyObject) {
        self.0.prepare_part_update(part, of_mut(new), of(old));
    }
    fn validate_part_update(
        &self,
        part: &str,
        new: &dyn AnyObject,
        old: &dyn AnyObject,
        errors: &mut FieldErrors,
    ) {
        self.0.validate_part_update(part, of(new), of(old), errors);
    }
    fn deprecation(&self) -> Option<&str> {
        self.0.deprecation()
    }
    fn warnings(&self, object: &dyn AnyObject) -> Vec<String> {
        self.0.warnings(of(object))
    }
    fn is_spec_changed(&self, new: &dyn AnyObject, old: &dyn AnyObject) -> bool {
        self.0.is_spec_changed(of(new), of(old))
    }
    fn has_generation(&self) -> bool {
        self.0.has_generation()
    }
    fn allocates(&self) -> bool {
        self.0.allocates()
    }
    fn allocate(
        &self,
        new: &mut dyn AnyObject,
        old: Option<&dyn AnyObject>,
        pools: &Pools<'_>,
        errors: &mut FieldErrors,
    ) {
        self.0.allocate(of_mut(new), old.map(of), pools, errors);
    }
    fn claims(&self, object: &dyn AnyObject) -> Vec<Claim> {
        self.0.claims(of(object))
    }
    fn allows_create_on_update(&self) -> bool {
        self.0.allows_create_on_update()
    }
    fn requires_resource_version(&self) -> bool {
        self.0.requires_resource_version()
    }
    fn object_type(&self) -> Option<ObjectType> {
        self.0.object_type()
    }
    fn reset_fields(&self, subresource: &str) -> &'static [&'static str] {
        self.0.reset_fields(subresource)
    }
    fn mark_deleting(&self, object: &mut dyn AnyObject) {
        self.0.mark_deleting(of_mut(object));
    }
    fn is_held(&self, object: &dyn AnyObject) -> bool {
        self.0.is_held(of(object))
    }
    fn grace_period_seconds(&self, object: &dyn AnyObject, requested: Option<i64>) -> Option<i64> {
        self.0.grace_period_seconds(of(object), requested)
    }

    fn orphans_by_default(&self) -> bool {
        self.0.orphans_by_default()
    }
    fn answers_deleted(&self) -> bool {
        self.0.answers_deleted()
    }

    fn columns(&self) -> Vec<ColumnOf<'_>> {
        self.0.columns().to_vec()
    }
    fn row(&self, entry: &Entry, now: Timestamp) -> Vec<Value> {
        match entry.typed::<K::Object>() {
            Ok(object) => self.0.row(&object, now),
            // Better a row with only a name than a list that fails for one damaged object.
            Err(_) => vec![entry.meta.name.clone().into(); self.0.columns().len()],
        }
    }
    fn field_names(&self) -> Vec<&str> {
        self.0.field_names().to_vec()
    }
    fn field(&self, entry: &Entry, name: &str) -> String {
        let whole =
            || entry.typed::<K::Object>().map(|object| self.0.field(&object, name)).unwrap_or_default();
        self.0.quick_field(entry, name).unwrap_or_else(whole)
    }
    fn scale(&self, object: &dyn AnyObject) -> Option<Scale> {
        self.0.scale(of(object))
    }
    fn set_scale(&self, object: &mut dyn AnyObject, replicas: i32) {
        self.0.set_scale(of_mut(object), replicas);
    }
}

/// Decodes a value of a type that is not the stored one.
pub(super) fn decode_known<T: DeserializeOwned>(
    value: Value,
    unknown: OnUnknown<'_>,
) -> Result<T, serde_json::Error> {
    if nulls::any_in(&value) {
        return nulls::read_value(&value, |json| decode_text(json, &mut *unknown));
    }
    serde_ignored::deserialize(value, |path| unknown(field_path(&path)))
}

fn decode_text<T: DeserializeOwned>(json: &[u8], unknown: OnUnknown<'_>) -> Result<T, serde_json::Error> {
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let object = serde_ignored::deserialize(&mut deserializer, |path| unknown(field_path(&path)))?;
    deserializer.end()?;
    Ok(object)
}

/// `spec.containers[0].imagee`, as Kubernetes writes the place of a field.
pub(super) fn field_path(path: &serde_ignored::Path<'_>) -> String {
    use serde_ignored::Path;
    match path {
        Path::Root => String::new(),
        Path::Seq { parent, index } => format!("{}[{index}]", field_path(parent)),
        Path::Map { parent, key } => match field_path(parent) {
            parent if parent.is_empty() => key.clone(),
            parent => format!("{parent}.{key}"),
        },
        Path::Some { parent } | Path::NewtypeStruct { parent } | Path::NewtypeVariant { parent } => {
            field_path(parent)
        }
    }
}
