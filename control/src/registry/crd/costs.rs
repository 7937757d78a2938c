//! What the rules of a schema may cost, from how large it lets values be.
//!
//! Source: the cost limits of Kubernetes' apiextensions, whose texts tell authors what to bound.

use std::collections::BTreeMap;

use naru_model::validation::{FieldErrors, Path};
use serde_json::Value;

use super::schema::{Additional, Schema, Type};
use crate::cel::{Extent, MAX_REQUEST_BYTES, Program};

/// What one expression may cost, for all values that it is evaluated on in one object.
const RULE_LIMIT: u64 = 10_000_000;
/// What all expressions of a schema may cost together.
const TOTAL_LIMIT: u64 = 100_000_000;
/// How many of the most expensive are named where the total is too much.
const NAMED: usize = 4;

/// A string or a number, as it is written, takes at least as many bytes.
const MIN_TEXT: u64 = 2;
const MIN_BOOLEAN: u64 = 4;
const MIN_NUMBER: u64 = 1;
const MIN_DURATION: u64 = 3;
const DATE: u64 = 12;
const MIN_TIME: u64 = 21;
/// And these at most.
const MAX_DURATION: u64 = 32;
const MAX_TIME: u64 = 32;

/// How large the values of a schema may be, and how many of them one object may hold.
#[derive(Debug)]
pub struct Bounds {
    extent: Extent,
    count: u64,
}

/// The costs of a schema's expressions.
#[derive(Debug, Default)]
pub struct Costs {
    total: u64,
    /// The most expensive, the worst first.
    most: Vec<(u64, Path)>,
}

impl Bounds {
    /// Without a `count`, as many as fit into a request.
    pub fn of(schema: &Schema, is_resource: bool, count: Option<u64>) -> Self {
        let (extent, min_bytes) = extent(schema, is_resource);
        Self { extent, count: count.unwrap_or(MAX_REQUEST_BYTES / (min_bytes + 1)) }
    }
}

impl Costs {
    /// Adds what `program` may cost where values are so large, and reports what alone is too much.
    pub fn add(
        &mut self,
        bounds: &Bounds,
        program: &Program,
        path: &Path,
        what: &str,
        errors: &mut FieldErrors,
    ) {
        let variables = [("self", bounds.extent.clone()), ("oldSelf", bounds.extent.clone())];
        let cost = program.estimated_cost(&variables).saturating_mul(bounds.count);
        if cost > RULE_LIMIT {
            errors.forbidden(path, &excess(what, cost, RULE_LIMIT));
        }
        self.total = self.total.saturating_add(cost);
        let at = self.most.partition_point(|(other, _)| *other >= cost);
        self.most.insert(at, (cost, path.clone()));
        self.most.truncate(NAMED);
    }

    /// Reports a total that is too much for the schema at `path`.
    pub fn check_total(&self, path: &Path, errors: &mut FieldErrors) {
        if self.total <= TOTAL_LIMIT {
            return;
        }
        for (_, path) in &self.most {
            let detail = "contributed to estimated rule & messageExpression cost total exceeding cost limit for entire \
                          OpenAPIv3 schema";
            errors.forbidden(path, detail);
        }
        let what = "estimated rule & messageExpression cost total for entire OpenAPIv3 schema";
        errors.forbidden(path, &excess(what, self.total, TOTAL_LIMIT));
    }
}

fn excess(what: &str, cost: u64, limit: u64) -> String {
    let factor = cost as f64 / limit as f64;
    let factor = match factor {
        // Nothing but bounds will help there.
        factor if factor > 100.0 => "more than 100x".to_owned(),
        factor if factor < 1.5 => format!("{factor:.6}x"),
        factor => format!("{factor:.1}x"),
    };
    format!(
        "{what} exceeds budget by factor of {factor} (try simplifying the rule, or adding maxItems, maxProperties, and \
         maxLength where arrays, maps, and strings are declared)"
    )
}

/// How large values of the schema may be, and how many bytes the smallest takes.
fn extent(schema: &Schema, is_resource: bool) -> (Extent, u64) {
    let most = |bound: Option<i64>| bound.map(|bound| u64::try_from(bound).unwrap_or(0));
    let longest = MAX_REQUEST_BYTES - 2;
    // A character takes up to four bytes.
    let characters = most(schema.max_length).map(|length| length.saturating_mul(4));
    if schema.is_int_or_string {
        return (Extent::Text(characters.unwrap_or(longest)), MIN_NUMBER);
    }
    match schema.kind {
        None => (Extent::Unknown, MIN_NUMBER),
        Some(Type::Boolean) => (Extent::Scalar(0), MIN_BOOLEAN),
        Some(Type::Integer | Type::Number) => (Extent::Scalar(0), MIN_NUMBER),
        Some(Type::String) => match schema.format.as_deref() {
            Some("byte") => (Extent::Text(most(schema.max_length).unwrap_or(longest)), MIN_TEXT),
            Some("duration") => (Extent::Scalar(MAX_DURATION), MIN_DURATION),
            Some("date") => (Extent::Scalar(DATE), DATE),
            Some("date-time" | "datetime") => (Extent::Scalar(MAX_TIME), MIN_TIME),
            _ => {
                let choices = schema.choices.iter().filter_map(Value::as_str).map(|text| text.len() as u64);
                (Extent::Text(characters.or(choices.max()).unwrap_or(longest)), MIN_TEXT)
            }
        },
        Some(Type::Array) => {
            let items = schema.items.as_deref().map(|items| extent(items, items.is_embedded));
            let (item, min_bytes) = items.unwrap_or((Extent::Unknown, MIN_NUMBER));
            let count = most(schema.max_items).unwrap_or(longest / (min_bytes + 1));
            (Extent::List(count, Box::new(item)), 2)
        }
        Some(Type::Object) => {
            if let Additional::Schema(values) = &schema.additional {
                let (value, min_bytes) = extent(values, values.is_embedded);
                let count = most(schema.max_properties).unwrap_or(longest / (min_bytes + 6));
                return (Extent::Map(count, Box::new(value)), 2);
            }
            fields(schema, is_resource)
        }
    }
}

fn fields(schema: &Schema, is_resource: bool) -> (Extent, u64) {
    let mut fields = BTreeMap::new();
    let mut min_bytes = 2;
    for (name, field) in &schema.properties {
        let (extent, own) = extent(field, field.is_embedded);
        if field.default.is_none() && schema.required.contains(name) {
            min_bytes += name.len() as u64 + own + 4;
        }
        fields.insert(name.clone(), extent);
    }
    if is_resource {
        let text = || Extent::Text(MAX_REQUEST_BYTES - 2);
        let names = [("name".to_owned(), text()), ("generateName".to_owned(), text())];
        fields.insert("metadata".into(), Extent::Fields(names.into()));
        fields.insert("apiVersion".into(), text());
        fields.insert("kind".into(), text());
    }
    (Extent::Fields(fields), min_bytes)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::JSONSchemaProps;
    use serde_json::json;

    use super::{super::check_rules::check, *};

    fn errors(spec: Value) -> Vec<String> {
        let props = json!({ "type": "object", "properties": { "spec": spec } });
        let props: JSONSchemaProps = serde_json::from_value(props).expect("a schema");
        let schema = Schema::build(&props).expect("it compiles");
        let mut errors = FieldErrors::default();
        check(&schema, &Path::new("schema"), &mut errors);
        errors.0.iter().map(ToString::to_string).collect()
    }

    fn list(bounds: Value, item: Value, rule: &str) -> Value {
        let mut spec = json!({
            "type": "array", "items": item, "x-kubernetes-validations": [{ "rule": rule }],
        });
        spec.as_object_mut().expect("an object").extend(bounds.as_object().cloned().unwrap_or_default());
        spec
    }

    const PLACE: &str = "schema.properties[spec].x-kubernetes-validations[0].rule: Forbidden: estimated rule cost exceeds \
                         budget by factor of ";
    const ADVICE: &str = " (try simplifying the rule, or adding maxItems, maxProperties, and maxLength where arrays, maps, \
                          and strings are declared)";

    #[test]
    fn rules_over_what_is_unbounded_are_refused() {
        let text = || json!({ "type": "string" });
        let nested = "self.all(a, self.all(b, a != b))";
        assert_eq!(
            errors(list(json!({}), text(), nested)),
            [
                format!("{PLACE}more than 100x{ADVICE}"),
                "schema.properties[spec].x-kubernetes-validations[0].rule: Forbidden: contributed to estimated rule & \
                     messageExpression cost total exceeding cost limit for entire OpenAPIv3 schema".to_owned(),
                format!(
                    "schema: Forbidden: estimated rule & messageExpression cost total for entire OpenAPIv3 schema exceeds \
                     budget by factor of more than 100x{ADVICE}"
                )
            ]
        );
        assert_eq!(
            errors(list(json!({ "maxItems": 100 }), json!({ "type": "string", "maxLength": 50 }), nested)),
            [] as [&str; 0]
        );
        // Looking once at each of many is fine: there are only so many in a request.
        assert_eq!(errors(list(json!({}), text(), "self.all(a, a != '')")), [] as [&str; 0]);
        assert_eq!(
            errors(list(
                json!({}),
                text(),
                "self.all(a, a.startsWith('abc') && a.endsWith('def') && a.size() > 1)"
            )),
            [format!("{PLACE}1.048575x{ADVICE}")]
        );
    }

    #[test]
    fn a_rule_counts_for_each_value_that_it_is_about() {
        let ruled = |bounds: Value| {
            let item = json!({
                "type": "string", "maxLength": 1000, "x-kubernetes-validations": [{ "rule": "self.matches('^[a-z]+$')" }],
            });
            let mut spec = json!({ "type": "array", "items": item });
            spec.as_object_mut().expect("an object").extend(bounds.as_object().cloned().unwrap_or_default());
            errors(spec)
        };
        assert_eq!(ruled(json!({ "maxItems": 100 })), [] as [&str; 0]);
        assert!(
            ruled(json!({})).first().is_some_and(|error| error.contains("exceeds budget by factor of 84.2x"))
        );
    }
}
