//! From bytes to objects, with what does not fit reported as the client asked.

use std::ops::Range;

use bytes::Bytes;
pub use naru_model::patch::go_type;
use naru_model::{
    quantity::QuantityError,
    rfc3339,
    validation::{FieldErrors, Path},
};
use serde_json::Value;

use super::{
    AnyObject, Served,
    json_text::{Oddities, Survey, duplicates, oddities, offset, path_at, survey, text_before},
    yaml_text,
};
use crate::{ApiError, client::Patch, protobuf};

/// What happens with fields that an object has no place for (`?fieldValidation=`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FieldValidation {
    Ignore,
    #[default]
    Warn,
    Strict,
}

/// So many problems of one body are told, as by Kubernetes' decoder: a body may have hundreds of thousands.
const MAX_PROBLEMS: usize = 100;

/// A body as JSON, whatever it came as.
#[derive(Debug)]
pub struct Text {
    pub json: Bytes,
    /// The keys that it set twice where it came as YAML, as [`yaml_text`] tells them; JSON shows its own.
    repeated: Vec<String>,
}

impl Text {
    pub fn of_json(json: Bytes) -> Self {
        Self { json, repeated: Vec::new() }
    }

    /// # Errors
    /// Where it is not YAML, or has values that JSON does not have.
    pub fn of_yaml(text: &[u8]) -> Result<Self, serde_yaml::Error> {
        let document = yaml_text::read(text)?;
        Ok(Self { json: document.value.to_string().into(), repeated: document.repeated })
    }
}

/// An object and the warnings that came up when it was read.
pub type Decoded = (Box<dyn AnyObject>, Vec<String>);

impl FieldValidation {
    /// The value of the query parameter, if there is such a one; "" means the server's default.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "" | "Warn" => Some(Self::Warn),
            "Ignore" => Some(Self::Ignore),
            "Strict" => Some(Self::Strict),
            _ => None,
        }
    }
}

/// Decodes JSON of the shape in which `served` is served.
pub fn object(served: &Served, text: &Text, validation: FieldValidation) -> Result<Decoded, ApiError> {
    let json = &*text.json;
    let mut problems = Vec::new();
    let Survey { duplicates, odd_times } = survey(json, HAVE_MICRO_TIMES.contains(&served.info.kind));
    if validation != FieldValidation::Ignore {
        add(&mut problems, repeated_keys(&text.repeated, validation));
        add(&mut problems, duplicates.into_iter().map(|path| format!("duplicate field \"{path}\"")));
    }
    let mut unknown = |path: String| add(&mut problems, [format!("unknown field \"{path}\"")]);
    let result = match served.conversion {
        None if served.kind.is_custom() => {
            let value: Value =
                serde_json::from_slice(json).map_err(|error| unreadable(served, json, &error))?;
            check_type(served, &value)?;
            served.kind.decode_value(value, &mut unknown)
        }
        None => match served.kind.decode(json, &mut unknown) {
            Err(error) => match mended(served, json, &error) {
                Some(json) => {
                    let text = Text { json, repeated: text.repeated.clone() };
                    return self::object(served, &text, validation);
                }
                None => Err(error),
            },
            decoded => decoded,
        },
        Some(conversion) => {
            let value: Value =
                serde_json::from_slice(json).map_err(|error| unreadable(served, json, &error))?;
            check_type(served, &value)?;
            (conversion.to_stored)(value, &mut unknown)
                .and_then(|stored| served.kind.decode_value(stored, &mut unknown))
        }
    };
    let object = result.map_err(|error| unreadable(served, json, &error))?;
    let refusal = |why: &str| cannot_be_handled(served, served.info.kind, why);
    if let Some(why) = wrong_time(served, &odd_times) {
        return Err(refusal(&why));
    }
    object.check_quantities().map_err(|error| refusal(&error.to_string()))?;
    Ok((object, judge(problems, validation, refusal)?))
}

/// Kinds that have times whose fraction must have six digits.
const HAVE_MICRO_TIMES: &[&str] = &["Event", "Lease", "LeaseCandidate"];

/// Go's layout of the time at `path` (`spec.containers[0].startedAt`), if that is what is there.
fn time_layout(served: &Served, path: &str) -> Option<&'static str> {
    let names: Vec<&str> = path.split('.').map(|step| step.split('[').next().unwrap_or(step)).collect();
    protobuf::time_layout(&served.api_version, served.info.kind, &names)
}

/// Why Go would not take one of these texts, by their paths, as the time that it has to be.
fn wrong_time(served: &Served, odd_times: &[(String, String)]) -> Option<String> {
    let mut odd_times = odd_times.iter();
    odd_times.find_map(|(path, text)| rfc3339::why_not(text, time_layout(served, path)?))
}

/// `json` with other words for what Go reads and serde does not, of which `error` is the first; `None` where that is not
/// it. Null is zero to a quantity, and times may have hours of one digit and offsets of a day.
///
/// Hardly anybody writes such things, so that it need not be fast: but not slow without bounds either.
fn mended(served: &Served, json: &[u8], error: &serde_json::Error) -> Option<Bytes> {
    const MOST: usize = 64;
    let mut text = json.to_vec();
    let (range, word) = mend(served, &text, error)?;
    text.splice(range, word.bytes());
    for _ in 1..MOST {
        let Err(error) = served.kind.decode(&text, &mut |_| ()) else { return Some(text.into()) };
        let Some((range, word)) = mend(served, &text, &error) else { return Some(text.into()) };
        text.splice(range, word.bytes());
    }
    None
}

/// The bytes that serde stopped at, and what Go takes them for.
fn mend(served: &Served, json: &[u8], error: &serde_json::Error) -> Option<(Range<usize>, String)> {
    const NULL: &str = "null";
    let stop = offset(json, error);
    if error.to_string().starts_with("invalid type: null, expected Quantity") {
        let start = stop.checked_sub(NULL.len())?;
        return (&json[start..stop] == NULL.as_bytes()).then(|| (start..stop, "\"0\"".into()));
    }
    let text = text_before(json, stop)?;
    let layout = time_layout(served, &path_at(json, stop))?;
    let plain = rfc3339::to_plain(text, layout)?;
    let end = json[..stop].iter().rposition(|byte| *byte == b'"')?;
    Some((end - text.len()..end, plain))
}

/// A refusal tells them as one problem, as Kubernetes' YAML decoder does; warnings are one each.
pub fn repeated_keys(lines: &[String], validation: FieldValidation) -> Vec<String> {
    match validation {
        FieldValidation::Strict if !lines.is_empty() => {
            vec![format!("yaml: unmarshal errors:\n  {}", lines.join("\n  "))]
        }
        _ => lines.to_vec(),
    }
}

/// Decodes what a patch made of an object, in the shape in which `served` is served.
///
/// `problems` are those of the patch itself ([`patch_problems`]); `shown` makes what a refusal shows of it.
pub fn patched(
    served: &Served,
    value: Value,
    mut problems: Vec<String>,
    shown: impl Fn() -> Result<Value, ApiError>,
    validation: FieldValidation,
) -> Result<Decoded, ApiError> {
    check_type(served, &value)?;
    let Oddities { mut times, has_nulls } = oddities(&value, HAVE_MICRO_TIMES.contains(&served.info.kind));
    times.retain(|(path, _)| time_layout(served, path).is_some());
    let mut unknown = |path: String| add(&mut problems, [format!("unknown field \"{path}\"")]);
    let decoded = match served.conversion {
        // Hardly any object has what may have to be read in another way.
        None if (has_nulls || !times.is_empty()) && !served.kind.is_custom() => {
            let json = value.to_string();
            served.kind.decode_value(value, &mut unknown).or_else(|error| {
                let Err(at) = served.kind.decode(json.as_bytes(), &mut |_| ()) else { return Err(error) };
                let Some(json) = mended(served, json.as_bytes(), &at) else { return Err(error) };
                served.kind.decode_value(serde_json::from_slice(&json)?, &mut unknown)
            })
        }
        None => served.kind.decode_value(value, &mut unknown),
        Some(conversion) => (conversion.to_stored)(value, &mut unknown)
            .and_then(|stored| served.kind.decode_value(stored, &mut unknown)),
    };
    let object = decoded.map_err(|error| misfit(served, &shown, &error))?;
    let refusal = |why: &str| match shown() {
        Ok(shown) => invalid_patch(shown.to_string(), why),
        Err(error) => error,
    };
    if let Some(why) = wrong_time(served, &times) {
        return Err(refusal(&why));
    }
    object.check_quantities().map_err(|error| refusal(&error.to_string()))?;
    Ok((object, judge(problems, validation, refusal)?))
}

/// What is wrong with the text of a patch, where that is asked for: fields that it names twice, and those of a JSON
/// patch's operations that mean nothing.
pub fn patch_problems(json: &[u8], patch: &Patch, validation: FieldValidation) -> Vec<String> {
    if validation == FieldValidation::Ignore {
        return Vec::new();
    }
    let mut problems = Vec::new();
    add(&mut problems, duplicates(json).into_iter().map(|path| format!("duplicate field \"{path}\"")));
    if let Patch::Json(operations) = patch {
        let operations = operations.as_array().into_iter().flatten().enumerate();
        for (index, operation) in operations {
            let fields = operation.as_object().into_iter().flat_map(|operation| operation.keys());
            let unknown = fields.filter(|field| !["op", "path", "from", "value"].contains(&field.as_str()));
            add(&mut problems, unknown.map(|field| format!("unknown field \"[{index}].{field}\"")));
        }
        for problem in &mut problems {
            problem.insert_str(0, "json patch ");
        }
    }
    problems
}

/// Adds those that are not told yet, as long as there is room.
fn add(problems: &mut Vec<String>, more: impl IntoIterator<Item = String>) {
    for problem in more {
        if problems.len() == MAX_PROBLEMS {
            return;
        }
        if !problems.contains(&problem) {
            problems.push(problem);
        }
    }
}

fn judge(
    problems: Vec<String>,
    validation: FieldValidation,
    refusal: impl FnOnce(&str) -> ApiError,
) -> Result<Vec<String>, ApiError> {
    match validation {
        FieldValidation::Strict if !problems.is_empty() => {
            Err(refusal(&format!("strict decoding error: {}", problems.join(", "))))
        }
        FieldValidation::Ignore => Ok(Vec::new()),
        _ => Ok(problems),
    }
}

/// The refusal of a patch whose result is no object of `served`. What the patch made has no text: where that does not
/// fit is found out in what is shown of it.
fn misfit(
    served: &Served,
    shown: impl Fn() -> Result<Value, ApiError>,
    error: &serde_json::Error,
) -> ApiError {
    let text = match shown() {
        Ok(shown) => shown.to_string(),
        Err(error) => return error,
    };
    let is_plain = served.conversion.is_none() && !served.kind.is_custom();
    let found = if is_plain { served.kind.decode(text.as_bytes(), &mut |_| ()).err() } else { None };
    let why = found.map_or_else(|| error.to_string(), |found| wrong_type(served, text.as_bytes(), &found));
    invalid_patch(text, &why)
}

/// The refusal of a patch, which names neither kind nor object; `shown` is the text that it shows.
fn invalid_patch(shown: String, why: &str) -> ApiError {
    let mut errors = FieldErrors::default();
    errors.invalid(&Path::new("patch"), shown, why);
    ApiError::Invalid { kind: String::new(), name: String::new(), errors: errors.0 }
}

fn cannot_be_handled(served: &Served, kind: &str, why: &str) -> ApiError {
    let (version, expected) = (served.info.version, served.info.kind);
    ApiError::BadRequest(format!("{kind} in version \"{version}\" cannot be handled as a {expected}: {why}"))
}

/// The refusal of what does not even tell its kind.
fn unrecognized(served: &Served, body: &[u8], why: &str) -> ApiError {
    const SHOWN_BYTES: usize = 30;
    let more = if body.len() > SHOWN_BYTES { " ..." } else { "" };
    let start = &body[..body.len().min(SHOWN_BYTES)];
    let summary = match start.first() {
        None => "<empty>".to_owned(),
        Some(b'{') => format!("{}{more}", String::from_utf8_lossy(start)),
        Some(_) => format!("{}{more}", hex::encode(start)),
    };
    ApiError::BadRequest(format!(
        "the object provided is unrecognized (must be of type {}): couldn't get version/kind; json parse error: {why} \
         ({summary})",
        served.info.kind
    ))
}

/// What Go says of JSON that is none, where it says the same as serde in other words.
pub fn go_syntax_error(json: &[u8], error: &serde_json::Error) -> String {
    if error.is_eof() {
        return "unexpected end of JSON input".into();
    }
    let character = |at: usize| json.get(at).map_or(' ', |byte| *byte as char);
    let at = offset(json, error).saturating_sub(1);
    let text = error.to_string();
    let what = text.split(" at line ").next().unwrap_or(&text);
    let place = match what {
        "expected value" => "looking for beginning of value",
        "key must be a string" => "looking for beginning of object key string",
        "expected `:`" => "after object key",
        "expected `,` or `}`" => "after object key:value pair",
        "expected `,` or `]`" => "after array element",
        "trailing characters" => "after top-level value",
        "expected ident" => return broken_literal(json, at),
        _ => return what.to_owned(),
    };
    format!("invalid character '{}' {place}", character(at))
}

/// The same of what begins like `true`, `false` or `null`, and stops being that at `at`.
fn broken_literal(json: &[u8], at: usize) -> String {
    let before = json.get(..at).unwrap_or_default();
    let start = before.iter().rposition(|byte| !byte.is_ascii_lowercase()).map_or(0, |before| before + 1);
    let begun = &before[start..];
    let literal = ["true", "false", "null"].into_iter().find(|word| word.as_bytes().starts_with(begun));
    let found = json.get(at).map_or(' ', |byte| *byte as char);
    match literal.and_then(|word| word.chars().nth(begun.len()).map(|expected| (word, expected))) {
        Some((word, expected)) => {
            format!("invalid character '{found}' in literal {word} (expecting '{expected}')")
        }
        None => format!("invalid character '{found}' looking for beginning of value"),
    }
}

/// Says why `json` is not an object of `served`: another type, broken JSON, or a value of the wrong type.
fn unreadable(served: &Served, json: &[u8], error: &serde_json::Error) -> ApiError {
    match serde_json::from_slice::<Value>(json) {
        Err(syntax) => unrecognized(served, json, &go_syntax_error(json, &syntax)),
        Ok(value) => match check_type(served, &value) {
            Err(mismatch) => mismatch,
            Ok(()) => cannot_be_handled(served, served.info.kind, &wrong_type(served, json, error)),
        },
    }
}

fn check_type(served: &Served, value: &Value) -> Result<(), ApiError> {
    let Value::Object(map) = value else {
        let why = format!(
            "json: cannot unmarshal {} into Go value of type struct {{ APIVersion string \
             \"json:\\\"apiVersion,omitempty\\\"\"; Kind string \"json:\\\"kind,omitempty\\\"\" }}",
            go_type(value)
        );
        return Err(unrecognized(served, value.to_string().as_bytes(), &why));
    };
    let text = |field: &str| map.get(field).and_then(Value::as_str).unwrap_or_default();
    let (api_version, kind) = (text("apiVersion"), text("kind"));
    let expected = served.api_version.as_str();
    if served.kind.is_custom() {
        for (field, text) in [("Kind", kind), ("apiVersion", api_version)] {
            if text.is_empty() {
                return Err(ApiError::BadRequest(format!("Object '{field}' is missing in '{value}'")));
            }
        }
    }
    if !api_version.is_empty() && api_version != expected {
        return Err(ApiError::BadRequest(format!(
            "the API version in the data ({api_version}) does not match the expected API version ({expected})"
        )));
    }
    if !kind.is_empty() && kind != served.info.kind {
        return Err(cannot_be_handled(
            served,
            kind,
            &format!("no kind \"{kind}\" is served at this path; it takes {} only", served.info.kind),
        ));
    }
    Ok(())
}

/// `json: cannot unmarshal string into Go struct field Deployment.spec.replicas of type int32`, from what serde
/// says and where it stopped.
fn wrong_type(served: &Served, json: &[u8], error: &serde_json::Error) -> String {
    let text = error.to_string();
    if let Some(at) = illegal_base64(&text) {
        return format!("illegal base64 data at input byte {at}");
    }
    let at = offset(json, error);
    let field = path_at(json, at);
    let names: Vec<&str> = field.split('.').map(|step| step.split('[').next().unwrap_or(step)).collect();
    // An integer that is too large is of a wrong type, too, for Go.
    let problem = text
        .strip_prefix("invalid type: ")
        .or_else(|| text.strip_prefix("invalid value: ").filter(is_integer));
    let parts = problem.and_then(|rest| rest.split_once(", expected "));
    let Some((found, rest)) = parts else {
        if let Some(layout) = time_layout(served, &field)
            && let Some(why) = text_before(json, at).and_then(|text| rfc3339::why_not(text, layout))
        {
            return why;
        }
        let what = text.split(" at line ").next().unwrap_or(&text);
        return if field.is_empty() { what.to_owned() } else { format!("{field}: {what}") };
    };
    if rest.starts_with("Quantity") {
        return QuantityError::Format.to_string();
    }
    let number =
        if is_integer(&found) || found.starts_with("floating") { found.split('`').nth(1) } else { None };
    let found = match found.split([' ', '`']).next().unwrap_or_default() {
        "string" => "string",
        "integer" | "floating" => "number",
        "boolean" => "bool",
        "sequence" => "array",
        "map" => "object",
        other => other,
    };
    let wanted = match rest.split(" at line ").next().unwrap_or(rest) {
        "i32" => "int32",
        "i64" => "int64",
        "f64" => "float64",
        "a boolean" => "bool",
        "a string" => "string",
        "a sequence" => "[]",
        "a map" => "map[string]string",
        "identifier" => "string",
        other => other,
    };
    // Of a number that is no such integer, Go shows the number.
    let shown = number
        .filter(|_| wanted.starts_with("int"))
        .map_or_else(|| found.into(), |of| format!("{found} {of}"));
    let known = protobuf::go_field(&served.api_version, served.info.kind, &names);
    let (holder, names) = known.unwrap_or((served.info.kind, names));
    format!(
        "json: cannot unmarshal {shown} into Go struct field {holder}.{} of type {wanted}",
        names.join(".")
    )
}

fn is_integer(found: &&str) -> bool {
    found.starts_with("integer ")
}

/// The byte at which bytes in base64 stop being that, from what their decoder says.
fn illegal_base64(text: &str) -> Option<usize> {
    let number = |text: &str| text.split(|c: char| !c.is_ascii_digit()).next()?.parse::<usize>().ok();
    if let Some(length) = text.strip_prefix("Invalid input length: ") {
        return number(length).map(|length| length / 4 * 4);
    }
    let (what, at) = text.split_once(", offset ")?;
    (what.starts_with("Invalid symbol ") || what.starts_with("Invalid last symbol ")).then(|| number(at))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn not_more_problems_are_told_than_anybody_reads() {
        let mut problems = Vec::new();
        add(&mut problems, ["x".to_owned(), "x".to_owned()]);
        assert_eq!(problems, ["x"]);
        add(&mut problems, (0..1_000_000).map(|index| format!("unknown field \"{index}\"")));
        assert_eq!(problems.len(), MAX_PROBLEMS);
    }
}
