//! The rules of `x-kubernetes-validations`: compiled once with the schema that they stand in, evaluated on each write.

use std::{collections::BTreeMap, sync::Arc};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::ValidationRule;
use naru_model::validation::{FieldError, FieldErrorKind, FieldErrors, Path};
use serde_json::Value as Json;

use super::schema::{Additional, ListKind, Schema, Type as SchemaType};
use crate::{
    cel::{Budget, EvalError, Key, ObjectType, Program, Type, Value},
    registry::podspec::OrEmpty as _,
};

/// What one rule may cost, and all rules of one write together.
const RULE_STEPS: u64 = 1_000_000;
const WRITE_STEPS: u64 = 10_000_000;
/// What an evaluated message may be long.
const MAX_MESSAGE_BYTES: usize = 5 << 10;

pub(super) const REASONS: [&str; 4] =
    ["FieldValueRequired", "FieldValueInvalid", "FieldValueForbidden", "FieldValueDuplicate"];

/// The rules of a schema and of all that is in it.
#[derive(Debug, Default)]
pub struct Rules {
    own: Vec<Rule>,
    properties: BTreeMap<String, Self>,
    additional: Option<Box<Self>>,
    items: Option<Box<Self>>,
}

#[derive(Debug)]
struct Rule {
    of: ValidationRule,
    program: Result<Program, String>,
    message: Option<Program>,
    uses_old: bool,
}

/// What `self` and `oldSelf` are.
pub(super) fn variables(of: &Type, is_old_optional: bool) -> [(&'static str, Type); 2] {
    let old = if is_old_optional { Type::optional(of.clone()) } else { of.clone() };
    [("self", of.clone()), ("oldSelf", old)]
}

/// The type of the values that fit `schema`.
pub(super) fn type_of(schema: &Schema, is_resource: bool) -> Type {
    if schema.is_int_or_string {
        return Type::Dyn;
    }
    match schema.kind {
        None => Type::Dyn,
        Some(SchemaType::Boolean) => Type::Bool,
        Some(SchemaType::Integer) => Type::Int,
        Some(SchemaType::Number) => Type::Double,
        Some(SchemaType::String) => match schema.format.as_deref() {
            Some("byte") => Type::Bytes,
            Some("date" | "date-time" | "datetime") => Type::Timestamp,
            Some("duration") => Type::Duration,
            _ => Type::String,
        },
        Some(SchemaType::Array) => {
            Type::list(schema.items.as_deref().map_or(Type::Dyn, |items| type_of(items, items.is_embedded)))
        }
        Some(SchemaType::Object) => {
            if let Additional::Schema(values) = &schema.additional {
                return Type::map(Type::String, type_of(values, values.is_embedded));
            }
            let mut fields: BTreeMap<String, Type> = schema
                .properties
                .iter()
                .map(|(name, field)| (name.clone(), type_of(field, field.is_embedded)))
                .collect();
            if is_resource {
                let names = [("name".to_owned(), Type::String), ("generateName".to_owned(), Type::String)];
                let metadata = ObjectType { name: "object".into(), fields: names.into() };
                fields.insert("apiVersion".into(), Type::String);
                fields.insert("kind".into(), Type::String);
                fields.insert("metadata".into(), Type::Object(metadata.into()));
            }
            if fields.is_empty() && schema.preserves_unknown {
                return Type::map(Type::String, Type::Dyn);
            }
            Type::Object(ObjectType { name: "object".into(), fields }.into())
        }
    }
}

/// `json` as expressions see it.
fn value_of(schema: Option<&Schema>, json: &Json) -> Value {
    let Some(schema) = schema else { return Value::from_json(json) };
    match (json, schema.kind) {
        (Json::Number(number), Some(SchemaType::Number)) => {
            Value::Double(number.as_f64().unwrap_or(f64::NAN))
        }
        (Json::Number(number), Some(SchemaType::Integer)) if number.is_f64() => {
            Value::Int(number.as_f64().unwrap_or_default() as i64)
        }
        (Json::String(text), Some(SchemaType::String)) => formatted(schema.format.as_deref(), text),
        (Json::Array(items), _) => {
            Value::list(items.iter().map(|item| value_of(schema.items.as_deref(), item)).collect())
        }
        (Json::Object(map), _) => {
            let entries = map.iter().map(|(key, value)| (Key::text(key), value_of(schema.child(key), value)));
            Value::Map(Arc::new(entries.collect()))
        }
        _ => Value::from_json(json),
    }
}

fn formatted(format: Option<&str>, text: &str) -> Value {
    let value = match format {
        Some("byte") => STANDARD.decode(text).ok().map(|bytes| Value::Bytes(bytes.into())),
        Some("date") => format!("{text}T00:00:00Z").parse().ok().map(Value::Timestamp),
        Some("date-time" | "datetime") => text.parse().ok().map(Value::Timestamp),
        Some("duration") => crate::cel::parse_duration(text).map(Value::Duration),
        _ => None,
    };
    value.unwrap_or_else(|| Value::text(text))
}

impl Rules {
    /// Compiles the rules of a version's schema; `None` where it has none.
    pub fn compile(schema: &Schema) -> Option<Self> {
        schema.has_rules.then(|| Self::of(schema, true))
    }

    fn of(schema: &Schema, is_resource: bool) -> Self {
        let type_of = type_of(schema, is_resource);
        let own = schema.rules.iter().map(|rule| {
            let variables = variables(&type_of, rule.optional_old_self == Some(true));
            let program = Program::compile(&rule.rule, &variables);
            let message = rule.message_expression.as_deref().filter(|text| !text.is_empty());
            Rule {
                uses_old: program.as_ref().is_ok_and(|program| program.uses("oldSelf")),
                program: program.map_err(|error| error.to_string()),
                message: message.and_then(|message| Program::compile(message, &variables).ok()),
                of: rule.clone(),
            }
        });
        let with_rules = |schema: &&Schema| schema.has_rules;
        let properties = schema.properties.iter().filter(|(_, field)| field.has_rules);
        let additional = match &schema.additional {
            Additional::Schema(values) => Some(&**values).filter(with_rules),
            _ => None,
        };
        let items = schema.items.as_deref().filter(with_rules);
        let boxed = |schema: &Schema| Box::new(Self::of(schema, schema.is_embedded));
        Self {
            own: own.collect(),
            properties: properties
                .map(|(name, field)| (name.clone(), Self::of(field, field.is_embedded)))
                .collect(),
            additional: additional.map(boxed),
            items: items.map(boxed),
        }
    }

    /// Reports the rules that a whole object breaks; `old` is what it was before an update.
    pub fn validate(&self, schema: &Schema, object: &Json, old: Option<&Json>, errors: &mut FieldErrors) {
        let value = value_of(Some(schema), object);
        let old = old.map(|old| value_of(Some(schema), old));
        let mut run = Run { budget: Budget::new(WRITE_STEPS), is_over: false, errors };
        self.walk(schema, &value, old.as_ref(), &Path::default(), &mut run);
    }

    fn walk(&self, schema: &Schema, value: &Value, old: Option<&Value>, path: &Path, run: &mut Run<'_>) {
        if matches!(value, Value::Null) {
            return;
        }
        for rule in &self.own {
            if run.is_over {
                return;
            }
            rule.validate(schema, value, old.filter(|old| !matches!(old, Value::Null)), path, run);
        }
        match value {
            Value::Map(map) => {
                for (key, value) in map.iter() {
                    let Key::String(name) = key else { continue };
                    let old = match old {
                        Some(Value::Map(old)) => old.get(key),
                        _ => None,
                    };
                    if let (Some(rules), Some(schema)) =
                        (self.properties.get(&**name), schema.properties.get(&**name))
                    {
                        rules.walk(schema, value, old, &path.child(name), run);
                    } else if let (Some(rules), Additional::Schema(schema)) =
                        (&self.additional, &schema.additional)
                    {
                        rules.walk(schema, value, old, &path.key(name), run);
                    }
                }
            }
            Value::List(items) => {
                let (Some(rules), Some(item_schema)) = (&self.items, &schema.items) else { return };
                for (index, item) in items.iter().enumerate() {
                    let old = old.and_then(|old| correlated(&schema.list_kind, item, old));
                    rules.walk(item_schema, item, old, &path.index(index), run);
                }
            }
            _ => (),
        }
    }
}

/// The item of an older list that `item` replaces, which only lists that are maps can tell.
fn correlated<'a>(kind: &ListKind, item: &Value, old: &'a Value) -> Option<&'a Value> {
    let (ListKind::Map(keys), Value::Map(item), Value::List(old)) = (kind, item, old) else { return None };
    old.iter().find(|old| match old {
        Value::Map(old) => keys.iter().all(|key| {
            let key = Key::text(key);
            old.get(&key) == item.get(&key)
        }),
        _ => false,
    })
}

struct Run<'a> {
    budget: Budget,
    /// No more rules are looked at.
    is_over: bool,
    errors: &'a mut FieldErrors,
}

impl Run<'_> {
    fn invalid(&mut self, path: &Path, schema: &Schema, detail: &str) {
        self.push(
            FieldErrorKind::Invalid,
            path,
            format!("Invalid value: \"{}\": {detail}", shown_type(schema)),
        );
    }

    fn push(&mut self, kind: FieldErrorKind, path: &Path, message: String) {
        let field = if path.as_str().is_empty() { "<nil>" } else { path.as_str() };
        self.errors.0.push(FieldError { kind, field: field.into(), message });
    }

    /// Evaluates within what one rule may cost and what is left for all.
    fn evaluate(&mut self, program: &Program, values: Vec<Value>) -> Result<Value, EvalError> {
        program.evaluate_within(RULE_STEPS, values, &mut self.budget)
    }
}

fn shown_type(schema: &Schema) -> &'static str {
    schema.kind.map_or("", SchemaType::name)
}

impl Rule {
    fn validate(&self, schema: &Schema, value: &Value, old: Option<&Value>, path: &Path, run: &mut Run<'_>) {
        let is_optional = self.of.optional_old_self == Some(true);
        if self.uses_old && old.is_none() && !is_optional {
            return;
        }
        let program = match &self.program {
            Ok(program) => program,
            Err(error) => return run.invalid(path, schema, &format!("rule compile error: {error}")),
        };
        let old_value = match (is_optional, old) {
            (true, old) => Value::Optional(old.cloned().map(Box::new)),
            (false, old) => old.cloned().unwrap_or(Value::Null),
        };
        let values = vec![value.clone(), old_value];
        let text = self.text();
        match run.evaluate(program, values.clone()) {
            Ok(Value::Bool(true)) => return,
            Ok(_) => (),
            Err(EvalError::TooExpensive) => {
                run.is_over = true;
                let detail = if run.budget.left() == 0 {
                    "validation failed due to running out of cost budget, no further validation rules will be run".into()
                } else {
                    format!(
                        "'{}': no further validation rules will be run due to call cost exceeds limit for rule: {text}",
                        EvalError::TooExpensive
                    )
                };
                return run.invalid(path, schema, &detail);
            }
            Err(EvalError::Failed(error)) if error.starts_with("no such overload") => {
                let detail = format!(
                    "'{error}': call arguments did not match a supported operator, function or macro signature for rule: {text}"
                );
                return run.invalid(path, schema, &detail);
            }
            Err(error) => return run.invalid(path, schema, &format!("{error} evaluating rule: {text}")),
        }
        // What an update leaves as it was may break rules that are younger.
        if !self.uses_old && old == Some(value) {
            return;
        }
        let detail = self.message.as_ref().and_then(|message| match run.evaluate(message, values) {
            Ok(Value::String(text)) => {
                let text = text.trim().to_owned();
                (!text.is_empty() && text.len() <= MAX_MESSAGE_BYTES && !text.contains('\n')).then_some(text)
            }
            _ => None,
        });
        let detail = detail.unwrap_or_else(|| match self.of.message.or_empty() {
            "" => format!("failed rule: {text}"),
            message => message.trim().to_owned(),
        });
        let suffix = self
            .of
            .field_path
            .as_deref()
            .map(|path| path.trim_start_matches('.'))
            .filter(|path| !path.is_empty());
        let path = suffix.map_or_else(|| path.clone(), |suffix| path.child(suffix));
        match self.of.reason.as_deref() {
            Some("FieldValueForbidden") => {
                run.push(FieldErrorKind::Forbidden, &path, format!("Forbidden: {detail}"));
            }
            Some("FieldValueRequired") => {
                run.push(FieldErrorKind::Required, &path, format!("Required value: {detail}"));
            }
            Some("FieldValueDuplicate") => {
                let message = format!("Duplicate value: \"{}\"", shown_type(schema));
                run.push(FieldErrorKind::Duplicate, &path, message);
            }
            _ => run.invalid(&path, schema, &detail),
        }
    }

    /// The rule as messages name it.
    fn text(&self) -> &str {
        let message = self.of.message.or_empty().trim();
        if message.is_empty() { self.of.rule.trim() } else { message }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::JSONSchemaProps;

    use serde_json::json;

    use super::{super::check_rules::check, *};

    fn schema(spec: Json) -> Schema {
        let props: JSONSchemaProps =
            serde_json::from_value(json!({ "type": "object", "properties": { "spec": spec } }))
                .expect("a schema");
        Schema::build(&props).expect("it compiles")
    }

    fn ranged(rules: Json) -> Json {
        json!({
            "type": "object",
            "x-kubernetes-validations": rules,
            "properties": {
                "min": { "type": "integer" },
                "max": { "type": "integer" },
                "until": { "type": "string", "format": "date-time" },
                "ports": {
                    "type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
                    "items": { "type": "object", "properties": { "name": { "type": "string" }, "port": {
                        "type": "integer", "x-kubernetes-validations": [{ "rule": "self >= oldSelf", "message": "ports only grow" }] } } },
                },
            },
        })
    }

    fn broken(spec: &Json, object: Json, old: Option<Json>) -> Vec<String> {
        let schema = schema(spec.clone());
        let rules = Rules::compile(&schema).expect("it has rules");
        let mut errors = FieldErrors::default();
        let whole = |spec: Json| json!({ "metadata": { "name": "a" }, "spec": spec });
        rules.validate(&schema, &whole(object), old.map(whole).as_ref(), &mut errors);
        errors.0.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn broken_rules_are_told_as_they_ask() {
        let spec = ranged(json!([
            { "rule": "self.min <= self.max" },
            { "rule": "self.max < 10", "message": "max is too large", "reason": "FieldValueForbidden", "fieldPath": ".max" },
            { "rule": "!has(self.until) || self.until.getFullYear() > 2000", "messageExpression": "'not ' + string(self.until)" },
        ]));
        assert_eq!(broken(&spec, json!({ "min": 1, "max": 2 }), None), [] as [&str; 0]);
        assert_eq!(
            broken(&spec, json!({ "min": 12, "max": 11, "until": "1999-01-01T00:00:00Z" }), None),
            [
                r#"spec: Invalid value: "object": failed rule: self.min <= self.max"#,
                "spec.max: Forbidden: max is too large",
                r#"spec: Invalid value: "object": not 1999-01-01T00:00:00Z"#,
            ]
        );
        let absent = broken(&spec, json!({ "min": 1 }), None);
        assert_eq!(
            absent[0],
            r#"spec: Invalid value: "object": no such key: max evaluating rule: self.min <= self.max"#
        );
        // What was broken before, and is untouched, is forgiven.
        assert_eq!(
            broken(&spec, json!({ "min": 3, "max": 2 }), Some(json!({ "min": 3, "max": 2 }))),
            [] as [&str; 0]
        );
    }

    #[test]
    fn transitions_are_compared_with_what_was() {
        let spec =
            ranged(json!([{ "rule": "oldSelf.hasValue() || self.min == 0", "optionalOldSelf": true }]));
        let ports = |list: Json| json!({ "min": 0, "ports": list });
        let old = ports(json!([{ "name": "a", "port": 80 }, { "name": "b", "port": 1 }]));
        let new = ports(
            json!([{ "name": "b", "port": 2 }, { "name": "a", "port": 79 }, { "name": "c", "port": 0 }]),
        );
        assert_eq!(broken(&spec, new.clone(), None), [] as [&str; 0]);
        assert_eq!(
            broken(&spec, new, Some(old)),
            [r#"spec.ports[1].port: Invalid value: "integer": ports only grow"#]
        );
        assert_eq!(broken(&spec, json!({ "min": 1 }), None).len(), 1);
    }

    #[test]
    fn rules_that_cannot_work_are_found() {
        let rules = json!([{ "rule": "self.mni > 0" }, { "rule": "self.min" }, { "rule": "" }, { "rule": "true", "reason": "Because", "fieldPath": ".nowhere" }]);
        let mut errors = FieldErrors::default();
        check(&schema(ranged(rules)), &Path::new("schema"), &mut errors);
        let texts: Vec<String> = errors.0.iter().map(ToString::to_string).collect();
        let place = "schema.properties[spec].x-kubernetes-validations";
        assert_eq!(texts.len(), 5, "{texts:?}");
        assert!(
            texts[0].starts_with(&format!("{place}[0].rule: Invalid value: "))
                && texts[0].contains("compilation failed: ERROR: <input>:1:5: undefined field 'mni'"),
            "{}",
            texts[0]
        );
        assert!(texts[1].contains("cel expression must evaluate to a bool"));
        assert_eq!(texts[2], format!("{place}[2].rule: Required value: rule is not specified"));
    }

    #[test]
    fn a_hostile_rule_ends() {
        let ten = "[1,2,3,4,5,6,7,8,9,10]";
        let rule = format!(
            "{ten}.all(a, {ten}.all(b, {ten}.all(c, {ten}.all(d, {ten}.all(e, {ten}.all(f, {ten}.all(g, true)))))))"
        );
        let errors = broken(&ranged(json!([{ "rule": rule, "message": "slow" }])), json!({ "min": 1 }), None);
        assert_eq!(
            errors,
            [
                r#"spec: Invalid value: "object": 'operation cancelled: actual cost limit exceeded': no further validation rules will be run due to call cost exceeds limit for rule: slow"#,
            ]
        );
    }
}
