//! What a definition defines: a kind that works on JSON by a schema.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use async_trait::async_trait;
use bytes::Bytes;
use k8s_openapi::{
    apiextensions_apiserver::pkg::apis::apiextensions::v1::JSONSchemaProps,
    apimachinery::pkg::apis::meta::v1::ObjectMeta, jiff::Timestamp,
};
use naru_model::{
    ResourceInfo,
    apply::ObjectType,
    duration,
    validation::{FieldError, FieldErrorKind, FieldErrors, Path},
};
use serde::de::Error as _;
use serde_json::{Map, Value, json};

use super::{conversion::Conversion, jsonpath::JsonPath, rules::Rules, schema::Schema};
use crate::{
    registry::{
        AnyObject, Context, ErasedKind, Scale,
        allocation::{Claim, Pools},
        erased::{OnUnknown, field_path},
        kind::ColumnOf,
        text,
    },
    store::{Draft, Entry, Revision},
};

/// What all objects of one version have in common.
pub struct Identity {
    pub kind: String,
    /// `example.com/v1`
    pub api_version: String,
    /// The version in which objects are stored.
    pub stored_as: String,
    pub conversion: Arc<Conversion>,
}

/// An object of a custom resource.
#[derive(Clone)]
pub struct CustomObject {
    identity: Arc<Identity>,
    meta: ObjectMeta,
    /// Everything but type and metadata.
    body: Map<String, Value>,
}

impl CustomObject {
    /// The object as clients of its version see it.
    fn value(&self) -> Result<Value, serde_json::Error> {
        let mut map = self.body.clone();
        map.insert("apiVersion".into(), self.identity.api_version.as_str().into());
        map.insert("kind".into(), self.identity.kind.as_str().into());
        map.insert("metadata".into(), serde_json::to_value(&self.meta)?);
        Ok(Value::Object(map))
    }

    pub fn body(&self) -> &Map<String, Value> {
        &self.body
    }
}

impl AnyObject for CustomObject {
    fn meta(&self) -> &ObjectMeta {
        &self.meta
    }
    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.meta
    }
    fn draft(&self) -> Result<Draft, serde_json::Error> {
        let identity = &self.identity;
        Draft::from_value(&identity.conversion.convert(self.value()?, &identity.stored_as)?)
    }
    fn to_value(&self) -> Result<Value, serde_json::Error> {
        self.value()
    }
    fn to_json(&self) -> Result<Vec<u8>, serde_json::Error> {
        serde_json::to_vec(&self.value()?)
    }
    fn boxed(&self) -> Box<dyn AnyObject> {
        Box::new(self.clone())
    }
    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
    fn as_any_mut(&mut self) -> &mut dyn std::any::Any {
        self
    }
}

/// A column of a definition's table.
#[derive(Debug)]
pub struct CustomColumn {
    pub name: String,
    pub kind: String,
    pub format: String,
    pub priority: i32,
    pub description: String,
    pub path: JsonPath,
}

/// Where the `scale` subresource finds what it shows.
#[derive(Debug)]
pub struct ScalePaths {
    pub spec_replicas: Vec<String>,
    pub status_replicas: Vec<String>,
    pub selector: Option<Vec<String>>,
}

/// One version of a custom resource.
pub struct CustomKind {
    pub info: &'static ResourceInfo,
    pub identity: Arc<Identity>,
    pub type_name: String,
    pub schema: Schema,
    pub rules: Option<Rules>,
    /// The schema as the definition says it, for OpenAPI.
    pub props: JSONSchemaProps,
    pub has_status: bool,
    pub scale: Option<ScalePaths>,
    /// Columns after the name.
    pub columns: Vec<CustomColumn>,
    /// Fields that selectors may ask for, as `spec.color`.
    pub selectable: Vec<(String, JsonPath)>,
    /// What is told to who uses a version that will go.
    pub deprecation: Option<String>,
    /// Whether every stored object is in this version's form, whatever its age.
    pub is_uniform: bool,
    /// Objects that were written after this revision were written by the present schema.
    pub since: AtomicU64,
}

impl CustomKind {
    /// From now on objects are written by this kind.
    pub fn begin(&self, revision: Revision) {
        self.since.fetch_min(revision.0, Ordering::Release);
    }

    fn object(&self, value: Value, unknown: OnUnknown<'_>) -> Result<CustomObject, serde_json::Error> {
        let Value::Object(mut body) = value else { return Err(serde_json::Error::custom("it is no object")) };
        body.remove("apiVersion");
        body.remove("kind");
        let metadata =
            body.remove("metadata").filter(|metadata| !metadata.is_null()).unwrap_or_else(|| json!({}));
        let meta =
            serde_ignored::deserialize(metadata, |path| unknown(format!("metadata.{}", field_path(&path))))?;
        self.schema.prune(&mut body, unknown);
        Ok(CustomObject { identity: self.identity.clone(), meta, body })
    }

    /// A stored object in this version's form.
    fn load_custom(&self, json: &Bytes) -> Result<CustomObject, serde_json::Error> {
        let identity = &self.identity;
        let value = identity.conversion.convert_stored(json, &identity.api_version)?;
        let mut object = self.object(value, &mut |_| ())?;
        self.schema.fill(&mut object.body);
        Ok(object)
    }

    /// Validates by the schema, then by its rules, which would stumble over what is badly wrong.
    fn check(&self, object: &CustomObject, old: Option<&CustomObject>, errors: &mut FieldErrors) {
        let (value, before) = match (object.value(), old.map(CustomObject::value).transpose()) {
            (Ok(value), Ok(old)) => (value, old),
            (Err(error), _) | (_, Err(error)) => {
                return errors.invalid(&Path::default(), Value::Null, &error.to_string());
            }
        };
        self.schema.check(&value, "", errors);
        self.schema.check_lists(&value, &Path::default(), errors);
        if let Some(old) = old
            && !errors.is_empty()
        {
            ratchet(object, old, errors);
        }
        let Some(rules) = &self.rules else { return };
        if errors.0.iter().any(|error| BLOCKING.contains(&error.kind)) {
            errors.0.push(FieldError {
                kind: FieldErrorKind::Invalid,
                field: "<nil>".into(),
                message: "Invalid value: null: some validation rules were not checked because the object was invalid; \
                          correct the existing errors to complete validation"
                    .into(),
            });
            return;
        }
        rules.validate(&self.schema, &value, before.as_ref(), errors);
    }
}

fn of(object: &dyn AnyObject) -> &CustomObject {
    object.as_any().downcast_ref().expect("a kind is handed only objects of its own")
}

fn of_mut(object: &mut dyn AnyObject) -> &mut CustomObject {
    object.as_any_mut().downcast_mut().expect("a kind is handed only objects of its own")
}

#[async_trait]
impl ErasedKind for CustomKind {
    fn resource(&self) -> &'static ResourceInfo {
        self.info
    }

    fn add_schema(&self, generator: &mut schemars::SchemaGenerator) {
        generator.subschema_for::<ObjectMeta>();
        let is_v2 = generator.settings().definitions_path.contains("definitions");
        let schema = super::openapi::document(&self.props, is_v2);
        generator.definitions_mut().insert(self.type_name.clone(), schema);
    }

    fn is_custom(&self) -> bool {
        true
    }

    fn decode(&self, json: &[u8], unknown: OnUnknown<'_>) -> Result<Box<dyn AnyObject>, serde_json::Error> {
        self.decode_value(serde_json::from_slice(json)?, unknown)
    }

    fn decode_value(
        &self,
        value: Value,
        unknown: OnUnknown<'_>,
    ) -> Result<Box<dyn AnyObject>, serde_json::Error> {
        Ok(Box::new(self.object(value, unknown)?))
    }

    fn load(&self, entry: &Entry) -> Result<Arc<dyn AnyObject>, serde_json::Error> {
        let mut object = self.load_custom(&entry.json)?;
        // They are kept beside the object, as of every other kind.
        object.meta.managed_fields = None;
        Ok(Arc::new(object))
    }

    fn is_served_as_stored(&self, entry: &Entry) -> bool {
        self.is_uniform
            || (self.identity.api_version == self.identity.stored_as
                && entry.revision.0 > self.since.load(Ordering::Acquire))
    }

    async fn prepare(&self, entries: &[Arc<Entry>]) -> Result<(), String> {
        if self.is_uniform {
            return Ok(());
        }
        let due = entries.iter().filter(|entry| !self.is_served_as_stored(entry));
        self.identity
            .conversion
            .prepare(due.map(|entry| entry.json.clone()).collect(), &self.identity.api_version)
            .await
    }

    fn as_served(&self, json: &Bytes) -> Result<Bytes, serde_json::Error> {
        Ok(serde_json::to_vec(&self.load_custom(json)?.value()?)?.into())
    }

    fn default(&self, object: &mut dyn AnyObject) {
        self.schema.fill(&mut of_mut(object).body);
    }

    fn prepare_create(&self, object: &mut dyn AnyObject, _context: &Context<'_>) {
        if self.has_status {
            of_mut(object).body.remove("status");
        }
    }

    fn prepare_update(&self, new: &mut dyn AnyObject, old: &dyn AnyObject, _context: &Context<'_>) {
        if self.has_status {
            carry(&mut of_mut(new).body, &of(old).body, |key| key == "status");
        }
    }

    fn prepare_status_update(&self, new: &mut dyn AnyObject, old: &dyn AnyObject, _context: &Context<'_>) {
        let (new, old) = (of_mut(new), of(old));
        carry(&mut new.body, &old.body, |key| key != "status");
        let managed_fields = new.meta.managed_fields.take();
        new.meta = ObjectMeta {
            managed_fields,
            resource_version: new.meta.resource_version.take(),
            ..old.meta.clone()
        };
    }

    fn prepare_approval_update(
        &self,
        _new: &mut dyn AnyObject,
        _old: &dyn AnyObject,
        _context: &Context<'_>,
    ) {
    }

    fn prepare_part_update(&self, _part: &str, _new: &mut dyn AnyObject, _old: &dyn AnyObject) {}

    fn validate_part_update(
        &self,
        _part: &str,
        _new: &dyn AnyObject,
        _old: &dyn AnyObject,
        _errors: &mut FieldErrors,
    ) {
    }

    fn validate_name(&self, name: &str, errors: &mut FieldErrors) {
        naru_model::validation::dns1123_subdomain_name(name, errors);
    }

    fn validate(&self, _object: &dyn AnyObject, _errors: &mut FieldErrors) {}

    fn validate_create(&self, object: &dyn AnyObject, errors: &mut FieldErrors) {
        self.check(of(object), None, errors);
    }

    fn validate_update(&self, new: &dyn AnyObject, old: &dyn AnyObject, errors: &mut FieldErrors) {
        let mut found = FieldErrors::default();
        self.check(of(new), Some(of(old)), &mut found);
        errors.0.append(&mut found.0);
    }

    fn validate_status_update(&self, new: &dyn AnyObject, old: &dyn AnyObject, errors: &mut FieldErrors) {
        self.validate_update(new, old, errors);
    }

    fn deprecation(&self) -> Option<&str> {
        self.deprecation.as_deref()
    }

    fn warnings(&self, _object: &dyn AnyObject) -> Vec<String> {
        Vec::new()
    }

    fn is_spec_changed(&self, new: &dyn AnyObject, old: &dyn AnyObject) -> bool {
        let (new, old) = (&of(new).body, &of(old).body);
        let counts = |key: &str| !(self.has_status && key == "status");
        let differs = |one: &Map<String, Value>, other: &Map<String, Value>| {
            one.iter().any(|(key, value)| counts(key) && other.get(key) != Some(value))
        };
        differs(new, old) || differs(old, new)
    }

    fn object_type(&self) -> Option<ObjectType> {
        serde_json::to_value(&self.props).ok().map(|schema| ObjectType::of_custom_resource(&schema))
    }
    fn reset_fields(&self, subresource: &str) -> &'static [&'static str] {
        match subresource {
            "" if self.has_status => &["status"],
            "status" => &["spec", "metadata"],
            _ => &[],
        }
    }
    fn has_generation(&self) -> bool {
        true
    }
    fn allocates(&self) -> bool {
        false
    }
    fn allocate(&self, _: &mut dyn AnyObject, _: Option<&dyn AnyObject>, _: &Pools<'_>, _: &mut FieldErrors) {
    }
    fn claims(&self, _object: &dyn AnyObject) -> Vec<Claim> {
        Vec::new()
    }
    fn allows_create_on_update(&self) -> bool {
        false
    }
    fn requires_resource_version(&self) -> bool {
        true
    }
    fn mark_deleting(&self, _object: &mut dyn AnyObject) {}
    fn is_held(&self, _object: &dyn AnyObject) -> bool {
        false
    }
    fn grace_period_seconds(&self, _object: &dyn AnyObject, _requested: Option<i64>) -> Option<i64> {
        None
    }

    fn orphans_by_default(&self) -> bool {
        false
    }
    fn answers_deleted(&self) -> bool {
        false
    }

    fn columns(&self) -> Vec<ColumnOf<'_>> {
        let own = self.columns.iter().map(|column| ColumnOf {
            name: &column.name,
            kind: &column.kind,
            format: &column.format,
            priority: column.priority,
            description: &column.description,
        });
        std::iter::once(text::NAME).chain(own).collect()
    }

    fn row(&self, entry: &Entry, now: Timestamp) -> Vec<Value> {
        let json = if self.is_served_as_stored(entry) {
            Ok(entry.json.clone())
        } else {
            self.as_served(&entry.json)
        };
        let value: Value = json.and_then(|json| serde_json::from_slice(&json)).unwrap_or_default();
        let cells = self.columns.iter().map(|column| cell(&column.kind, column.path.first(&value), now));
        std::iter::once(entry.meta.name.clone().into()).chain(cells).collect()
    }

    fn field_names(&self) -> Vec<&str> {
        self.selectable.iter().map(|(name, _)| name.as_str()).collect()
    }

    fn field(&self, entry: &Entry, name: &str) -> String {
        let Some((_, path)) = self.selectable.iter().find(|(known, _)| known == name) else {
            return String::new();
        };
        let json = if self.is_served_as_stored(entry) {
            Ok(entry.json.clone())
        } else {
            self.as_served(&entry.json)
        };
        let value: Value = json.and_then(|json| serde_json::from_slice(&json)).unwrap_or_default();
        match path.first(&value) {
            Some(Value::String(text)) => text.clone(),
            Some(Value::Null) | None => String::new(),
            Some(other) => other.to_string(),
        }
    }

    fn scale(&self, object: &dyn AnyObject) -> Option<Scale> {
        let (paths, body) = (self.scale.as_ref()?, &of(object).body);
        let number = |path| at(body, path).and_then(Value::as_i64).unwrap_or(0) as i32;
        let selector = paths.selector.as_ref().and_then(|path| at(body, path)).and_then(Value::as_str);
        Some(Scale {
            spec_replicas: number(&paths.spec_replicas),
            status_replicas: number(&paths.status_replicas),
            selector: selector.unwrap_or_default().into(),
        })
    }

    fn set_scale(&self, object: &mut dyn AnyObject, replicas: i32) {
        let Some((last, parents)) = self.scale.as_ref().and_then(|paths| paths.spec_replicas.split_last())
        else {
            return;
        };
        let mut map = &mut of_mut(object).body;
        for name in parents {
            let next = map.entry(name.clone()).or_insert_with(|| json!({}));
            let Value::Object(next) = next else { return };
            map = next;
        }
        map.insert(last.clone(), replicas.into());
    }
}

/// After these, rules are not even looked at.
const BLOCKING: [FieldErrorKind; 5] = [
    FieldErrorKind::NotSupported,
    FieldErrorKind::Required,
    FieldErrorKind::TooLong,
    FieldErrorKind::TooMany,
    FieldErrorKind::TypeInvalid,
];

/// Forgives what is wrong with fields that the update does not touch: the schema may have changed after the object. Of
/// a required field, what counts is the object that it is missing in.
fn ratchet(new: &CustomObject, old: &CustomObject, errors: &mut FieldErrors) {
    errors.0.retain(|error| {
        let Some(mut steps) = steps(&error.field) else { return true };
        if error.kind == FieldErrorKind::Required {
            steps.pop();
        }
        let (now, before) = (follow(&new.body, &steps), follow(&old.body, &steps));
        now.is_none() || now != before
    });
}

/// The steps of a path such as `spec.ports[0].name`; none for the object as a whole.
fn steps(field: &str) -> Option<Vec<&str>> {
    if field == "<nil>" || field.is_empty() {
        return None;
    }
    Some(field.split(['.', '[', ']']).filter(|step| !step.is_empty()).collect())
}

fn follow<'a>(body: &'a Map<String, Value>, steps: &[&str]) -> Option<&'a Value> {
    let (first, rest) = steps.split_first()?;
    rest.iter().try_fold(body.get(*first)?, |value, step| match value {
        Value::Object(map) => map.get(*step),
        Value::Array(items) => items.get(step.parse::<usize>().ok()?),
        _ => None,
    })
}

fn at<'a>(body: &'a Map<String, Value>, path: &[String]) -> Option<&'a Value> {
    let (first, rest) = path.split_first()?;
    rest.iter().try_fold(body.get(first)?, |value, name| value.get(name))
}

/// Makes the fields of `new` that `chooses` chooses those of `old`.
fn carry(new: &mut Map<String, Value>, old: &Map<String, Value>, chooses: impl Fn(&str) -> bool) {
    new.retain(|key, _| !chooses(key));
    let carried = old.iter().filter(|(key, _)| chooses(key));
    new.extend(carried.map(|(key, value)| (key.clone(), value.clone())));
}

/// A table's cell for what a column's path found.
fn cell(kind: &str, found: Option<&Value>, now: Timestamp) -> Value {
    let Some(found) = found.filter(|found| !found.is_null()) else { return Value::Null };
    match (kind, found) {
        ("string", Value::String(text)) => text.as_str().into(),
        ("string", other) => other.to_string().into(),
        ("integer", Value::Number(number)) => {
            number.as_i64().or_else(|| number.as_f64().map(|number| number as i64)).into()
        }
        ("number", Value::Number(number)) => Value::Number(number.clone()),
        ("boolean", Value::Bool(flag)) => (*flag).into(),
        ("date", Value::String(text)) => match text.parse::<Timestamp>() {
            Ok(time) => duration::human(now.duration_since(time)).into(),
            Err(_) => "<invalid>".into(),
        },
        _ => Value::Null,
    }
}
