//! Validation, with the texts and the order of kube-openapi.

use naru_model::validation::{FieldError, FieldErrorKind, FieldErrors, Path};
use serde_json::Value;

use super::{Additional, Schema, Type, formats, join};

/// How large a number without a fraction can be and still be told from its neighbours.
const EXACT: f64 = 9_007_199_254_740_992.0;

/// What validating came to: what is wrong, and how much was looked at, by which the best of several failures is chosen.
#[derive(Default)]
struct Findings {
    errors: Vec<FieldError>,
    looked_at: usize,
}

impl Findings {
    fn merge(&mut self, other: Self) {
        self.errors.extend(other.errors);
        self.looked_at += other.looked_at;
    }

    fn push(&mut self, kind: FieldErrorKind, path: &str, message: String) {
        let path = path.trim_start_matches('.');
        let field = if path.is_empty() { "<nil>" } else { path };
        self.errors.push(FieldError { kind, field: field.into(), message });
    }

    fn invalid(&mut self, path: &str, value: impl Into<Value>, problem: &str) {
        let message = format!("Invalid value: {}: {path} in body {problem}", value.into());
        self.push(FieldErrorKind::Invalid, path, message);
    }

    /// An error about the object as a whole, whose text alone says where it is.
    fn composite(&mut self, message: &str) {
        self.push(FieldErrorKind::Invalid, "", format!("Invalid value: \"\": {message}"));
    }
}

/// The name of a value's type, as error texts say it.
fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

impl Schema {
    /// Reports what is wrong with `value`, which lies at `path` ("" for a whole object).
    pub fn check(&self, value: &Value, path: &str, errors: &mut FieldErrors) {
        errors.0.extend(self.findings(value, path).errors);
    }

    /// Whether `value` fits.
    pub fn is_valid(&self, value: &Value) -> bool {
        let mut lists = FieldErrors::default();
        self.check_lists(value, &Path::default(), &mut lists);
        lists.is_empty() && self.findings(value, "").errors.is_empty()
    }

    fn findings(&self, value: &Value, path: &str) -> Findings {
        let mut found = Findings::default();
        self.check_type(value, path, &mut found);
        if value.is_null() {
            self.check_choices(value, path, &mut found);
            found.looked_at += 2;
            return found;
        }
        self.check_combinations(value, path, &mut found);
        match value {
            Value::String(text) => self.check_string(text, path, &mut found),
            Value::Number(number) => self.check_number(number, path, &mut found),
            Value::Array(items) => self.check_items(items, path, &mut found),
            _ => (),
        }
        self.check_choices(value, path, &mut found);
        if let Value::Object(map) = value {
            self.check_object(map, path, &mut found);
        }
        found.looked_at += 1;
        found
    }

    fn check_type(&self, value: &Value, path: &str, found: &mut Findings) {
        found.looked_at += 1;
        let actual = type_name(value);
        let expected = match self.kind {
            _ if self.is_int_or_string => "integer,string",
            Some(kind) => kind.name(),
            None => return,
        };
        let fits = match value {
            Value::Null => self.nullable,
            Value::Number(number) => {
                let is_whole =
                    number.as_f64().is_some_and(|number| number.fract() == 0.0 && number.abs() < EXACT);
                match self.kind {
                    _ if self.is_int_or_string => !number.is_f64() || is_whole,
                    Some(Type::Number) => true,
                    Some(Type::Integer) => !number.is_f64() || is_whole,
                    _ => false,
                }
            }
            _ => expected.split(',').any(|expected| expected == actual),
        };
        if !fits {
            let problem = format!("{path} in body must be of type {expected}: \"{actual}\"");
            found.push(FieldErrorKind::TypeInvalid, path, format!("Invalid value: \"{actual}\": {problem}"));
        }
    }

    fn check_combinations(&self, value: &Value, path: &str, found: &mut Findings) {
        found.looked_at += 1;
        if !self.any_of.is_empty() {
            let results: Vec<_> = self.any_of.iter().map(|schema| schema.findings(value, path)).collect();
            match results.iter().position(|result| result.errors.is_empty()) {
                Some(_) => (),
                None => {
                    found.composite(&format!("\"{path}\" must validate at least one schema (anyOf)"));
                    found.merge(best(results));
                }
            }
        }
        if !self.one_of.is_empty() {
            let results: Vec<_> = self.one_of.iter().map(|schema| schema.findings(value, path)).collect();
            let valid = results.iter().filter(|result| result.errors.is_empty()).count();
            if valid != 1 {
                let why = match valid {
                    0 => "Found none valid".to_owned(),
                    valid => format!("Found {valid} valid alternatives"),
                };
                found.composite(&format!("\"{path}\" must validate one and only one schema (oneOf). {why}"));
                if valid == 0 {
                    found.merge(best(results));
                }
            }
        }
        if !self.all_of.is_empty() {
            let mut valid = 0;
            for schema in &self.all_of {
                let result = schema.findings(value, path);
                valid += usize::from(result.errors.is_empty());
                found.merge(result);
            }
            if valid != self.all_of.len() {
                let why = if valid == 0 { ". None validated" } else { "" };
                found.composite(&format!("\"{path}\" must validate all the schemas (allOf){why}"));
            }
        }
        if let Some(not) = &self.not
            && not.findings(value, path).errors.is_empty()
        {
            found.composite(&format!("\"{path}\" must not validate the schema (not)"));
        }
    }

    fn check_string(&self, text: &str, path: &str, found: &mut Findings) {
        found.looked_at += 1;
        let length = text.chars().count() as i64;
        if let Some(max) = self.max_length.filter(|max| length > *max) {
            let unit = if max == 1 { "byte" } else { "bytes" };
            found.push(FieldErrorKind::TooLong, path, format!("Too long: may not be more than {max} {unit}"));
        }
        if let Some(min) = self.min_length.filter(|min| length < *min) {
            found.invalid(path, text, &format!("should be at least {min} chars long"));
        }
        if let Some((pattern, regex)) = &self.pattern
            && !regex.is_match(text)
        {
            found.invalid(path, text, &format!("should match '{pattern}'"));
        }
        if let Some(format) = &self.format
            && !formats::fits(format, text)
        {
            let problem = format!("{path} in body must be of type {format}: {text:?}");
            let message = format!("Invalid value: {}: {problem}", Value::from(text));
            found.push(FieldErrorKind::TypeInvalid, path, message);
        }
    }

    fn check_number(&self, number: &serde_json::Number, path: &str, found: &mut Findings) {
        found.looked_at += 1;
        let value = || Value::Number(number.clone());
        let amount = number.as_f64().unwrap_or(f64::NAN);
        let is_too_wide = match self.format.as_deref() {
            Some("int32") => {
                number.as_i64().is_none_or(|number| i32::try_from(number).is_err()) && amount.fract() == 0.0
            }
            _ => false,
        };
        if is_too_wide && matches!(self.kind, Some(Type::Integer)) {
            found.composite("Checked value must be of type integer with format int32");
        }
        if let Some(factor) = self.multiple_of {
            let times = amount / factor;
            if (times - times.round()).abs() > 1e-9 {
                found.invalid(path, value(), &format!("should be a multiple of {factor}"));
            }
        }
        if let Some((max, is_exclusive)) = self.maximum {
            if is_exclusive && amount >= max {
                found.invalid(path, value(), &format!("should be less than {max}"));
            } else if amount > max {
                found.invalid(path, value(), &format!("should be less than or equal to {max}"));
            }
        }
        if let Some((min, is_exclusive)) = self.minimum {
            if is_exclusive && amount <= min {
                found.invalid(path, value(), &format!("should be greater than {min}"));
            } else if amount < min {
                found.invalid(path, value(), &format!("should be greater than or equal to {min}"));
            }
        }
    }

    fn check_items(&self, items: &[Value], path: &str, found: &mut Findings) {
        found.looked_at += 1;
        if let Some(schema) = &self.items {
            for (index, item) in items.iter().enumerate() {
                found.merge(schema.findings(item, &format!("{path}[{index}]")));
            }
        }
        let count = items.len() as i64;
        if let Some(min) = self.min_items.filter(|min| count < *min) {
            found.invalid(path, count, &format!("should have at least {min} items"));
        }
        if let Some(max) = self.max_items.filter(|max| count > *max) {
            found.push(FieldErrorKind::TooMany, path, too_many(count, max));
        }
    }

    fn check_choices(&self, value: &Value, path: &str, found: &mut Findings) {
        if self.choices.is_empty() || self.choices.iter().any(|choice| is_equal(choice, value)) {
            return;
        }
        let text = |value: &Value| match value {
            Value::String(text) => format!("{text:?}"),
            other => format!("{:?}", other.to_string()),
        };
        let supported = self.choices.iter().map(text).collect::<Vec<_>>().join(", ");
        let message = format!("Unsupported value: {value}: supported values: {supported}");
        found.push(FieldErrorKind::NotSupported, path, message);
    }

    fn check_object(&self, map: &serde_json::Map<String, Value>, path: &str, found: &mut Findings) {
        found.looked_at += 1;
        let count = map.len() as i64;
        if let Some(min) = self.min_properties.filter(|min| count < *min) {
            return found.invalid(path, min, &format!("should have at least {min} properties"));
        }
        if let Some(max) = self.max_properties.filter(|max| count > *max) {
            return found.push(FieldErrorKind::TooMany, path, too_many(count, max));
        }
        if let Additional::Schema(schema) = &self.additional {
            for (key, value) in map.iter().filter(|(key, _)| !self.properties.contains_key(*key)) {
                found.merge(schema.findings(value, &format!("{path}.{key}")));
            }
        }
        for (key, schema) in &self.properties {
            if let Some(value) = map.get(key) {
                found.merge(schema.findings(value, &join(path, key)));
            }
        }
        for key in self.required.iter().filter(|key| !map.contains_key(*key)) {
            found.push(FieldErrorKind::Required, &join(path, key), "Required value".into());
        }
    }
}

fn too_many(actual: i64, max: i64) -> String {
    let unit = if max == 1 { "item" } else { "items" };
    format!("Too many: {actual}: must have at most {max} {unit}")
}

/// The failure that got furthest.
fn best(results: Vec<Findings>) -> Findings {
    let mut best = Findings::default();
    for result in results {
        if best.errors.is_empty() || result.looked_at > best.looked_at {
            best = result;
        }
    }
    best
}

/// Equality of JSON values; 1 and 1.0 are the same.
fn is_equal(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(one), Value::Number(other)) => one == other || one.as_f64() == other.as_f64(),
        _ => one == other,
    }
}
