//! The JSONPath of printer columns, selectable fields and scales: `.status.conditions[?(@.type=="Ready")].status`.

use serde_json::Value;

/// A parsed path.
#[derive(Debug, Clone, PartialEq)]
pub struct JsonPath(Vec<Step>);

#[derive(Debug, Clone, PartialEq)]
enum Step {
    Field(String),
    /// From the end where negative.
    Index(i64),
    Every,
    /// Items whose value at the path compares so with the literal.
    Where(JsonPath, Comparison, Value),
    /// Items that have something at the path.
    Has(JsonPath),
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

const COMPARISONS: [(&str, Comparison); 6] = [
    ("==", Comparison::Equal),
    ("!=", Comparison::NotEqual),
    ("<=", Comparison::LessOrEqual),
    (">=", Comparison::GreaterOrEqual),
    ("<", Comparison::Less),
    (">", Comparison::Greater),
];

impl JsonPath {
    /// Parses a path that begins with a dot.
    ///
    /// # Errors
    /// What is not understood, in words.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut rest = text;
        let mut steps = Vec::new();
        while !rest.is_empty() {
            rest = match rest.as_bytes()[0] {
                b'.' => {
                    let (name, after) = field(&rest[1..])?;
                    match name.as_str() {
                        "" if after.starts_with('[') => (),
                        "" => return Err("a field name is missing".into()),
                        "*" => steps.push(Step::Every),
                        _ => steps.push(Step::Field(name)),
                    }
                    after
                }
                b'[' => {
                    let end = closing(rest).ok_or("unterminated array")?;
                    steps.push(bracket(rest[1..end].trim())?);
                    &rest[end + 1..]
                }
                _ => return Err(format!("unexpected {rest:?}")),
            };
        }
        Ok(Self(steps))
    }

    /// The first value that the path leads to.
    pub fn first<'a>(&self, value: &'a Value) -> Option<&'a Value> {
        find(value, &self.0)
    }

    /// The names that the path consists of, where it consists of names alone.
    pub fn fields(&self) -> Option<Vec<&str>> {
        fn name(step: &Step) -> Option<&str> {
            match step {
                Step::Field(name) => Some(name),
                _ => None,
            }
        }
        self.0.iter().map(name).collect()
    }
}

fn find<'a>(value: &'a Value, steps: &[Step]) -> Option<&'a Value> {
    let Some((step, rest)) = steps.split_first() else { return Some(value) };
    let every = |choose: &dyn Fn(&Value) -> bool| match value {
        Value::Array(items) => items.iter().filter(|item| choose(item)).find_map(|item| find(item, rest)),
        Value::Object(map) => map.values().filter(|item| choose(item)).find_map(|item| find(item, rest)),
        _ => None,
    };
    match step {
        Step::Field(name) => find(value.get(name)?, rest),
        Step::Index(index) => {
            let items = value.as_array()?;
            let index = if *index < 0 { items.len() as i64 + index } else { *index };
            find(items.get(usize::try_from(index).ok()?)?, rest)
        }
        Step::Every => every(&|_| true),
        Step::Has(path) => every(&|item| path.first(item).is_some()),
        Step::Where(path, comparison, literal) => {
            every(&|item| path.first(item).is_some_and(|found| compare(found, *comparison, literal)))
        }
    }
}

/// A field's name up to the next dot or bracket, of which `\.` is none.
fn field(text: &str) -> Result<(String, &str), String> {
    let mut name = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '\\' => name.push(characters.next().ok_or("a backslash at the end")?.1),
            '.' | '[' => return Ok((name, &text[at..])),
            ' ' | ']' | '{' | '}' => return Err(format!("unexpected {character:?}")),
            other => name.push(other),
        }
    }
    Ok((name, ""))
}

/// Where the bracket that `text` begins with is closed.
fn closing(text: &str) -> Option<usize> {
    let (mut depth, mut quote) = (0, None);
    for (at, byte) in text.bytes().enumerate() {
        match (quote, byte) {
            (Some(open), byte) if byte == open => quote = None,
            (Some(_), _) => (),
            (None, b'"' | b'\'') => quote = Some(byte),
            (None, b'[') => depth += 1,
            (None, b']') => {
                depth -= 1;
                if depth == 0 {
                    return Some(at);
                }
            }
            _ => (),
        }
    }
    None
}

fn bracket(text: &str) -> Result<Step, String> {
    if text == "*" {
        return Ok(Step::Every);
    }
    if let Some(name) = quoted(text) {
        return Ok(Step::Field(name));
    }
    if let Some(condition) = text.strip_prefix("?(").and_then(|text| text.strip_suffix(')')) {
        return filter(condition.trim());
    }
    text.parse().map(Step::Index).map_err(|_| format!("invalid array index {text}"))
}

fn filter(text: &str) -> Result<Step, String> {
    let of = |text: &str| JsonPath::parse(text.trim().strip_prefix('@').ok_or("a filter begins with @")?);
    let found = COMPARISONS.iter().filter_map(|(sign, of)| Some((text.find(sign)?, sign, *of)));
    let Some((at, sign, comparison)) = found.min_by_key(|(at, sign, _)| (*at, 2 - sign.len())) else {
        return Ok(Step::Has(of(text)?));
    };
    let literal = text[at + sign.len()..].trim();
    let literal = match quoted(literal) {
        Some(text) => Value::String(text),
        None => serde_json::from_str(literal).map_err(|_| format!("unrecognized literal {literal}"))?,
    };
    Ok(Step::Where(of(&text[..at])?, comparison, literal))
}

fn quoted(text: &str) -> Option<String> {
    let inner = |quote: char| text.strip_prefix(quote)?.strip_suffix(quote);
    if text.len() < 2 {
        return None;
    }
    inner('\'').or_else(|| inner('"')).map(str::to_owned)
}

fn compare(found: &Value, comparison: Comparison, literal: &Value) -> bool {
    let ordering = match (found, literal) {
        (Value::Number(found), Value::Number(literal)) => found.as_f64().partial_cmp(&literal.as_f64()),
        (Value::String(found), Value::String(literal)) => Some(found.cmp(literal)),
        (Value::Bool(found), Value::Bool(literal)) => Some(found.cmp(literal)),
        _ => None,
    };
    let Some(ordering) = ordering else { return comparison == Comparison::NotEqual };
    match comparison {
        Comparison::Equal => ordering.is_eq(),
        Comparison::NotEqual => ordering.is_ne(),
        Comparison::Less => ordering.is_lt(),
        Comparison::LessOrEqual => ordering.is_le(),
        Comparison::Greater => ordering.is_gt(),
        Comparison::GreaterOrEqual => ordering.is_ge(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(path: &str, expected: Value) {
        let object = json!({
            "metadata": { "annotations": { "a.b/c": "dotted" } },
            "status": { "conditions": [{ "type": "Other", "status": "False" }, { "type": "Ready", "status": "True" }] },
            "list": [1, 2, 3],
        });
        let found = JsonPath::parse(path).expect(path).first(&object).cloned().unwrap_or(Value::Null);
        assert_eq!(found, expected, "{path}");
    }

    #[test]
    fn paths_lead_to_values() {
        check(r#".status.conditions[?(@.type=="Ready")].status"#, json!("True"));
        check(".status.conditions[?(@.type=='Ready')].status", json!("True"));
        check(r".metadata.annotations.a\.b/c", json!("dotted"));
        check(".metadata.annotations['a.b/c']", json!("dotted"));
        check(".list[-1]", json!(3));
        check(".list[*]", json!(1));
        check(".nothing.here", Value::Null);
        assert!(
            JsonPath::parse("spec").is_err()
                && JsonPath::parse(".a[").is_err()
                && JsonPath::parse(".a[x]").is_err()
        );
        assert_eq!(JsonPath::parse(".spec.x").expect("a path").fields(), Some(vec!["spec", "x"]));
    }
}
