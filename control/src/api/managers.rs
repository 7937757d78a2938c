//! Field managers as requests name them, and the configurations that they apply.

use http::header;
use naru_model::validation::{FieldErrors, Path};

use super::{form, handler::Exchange};
use crate::{
    ApiError,
    registry::{
        Call, Configuration,
        decode::{self, FieldValidation},
        yaml_text::{self, Document},
    },
};

/// The content type of applied configurations.
pub const APPLY: &str = "application/apply-patch+yaml";

/// The longest name, in bytes.
const MAX_NAME: usize = 128;

/// Who writes: `?fieldManager=`, else the client's program as its `User-Agent` names it.
pub fn name(exchange: &Exchange<'_>, verb: &str, errors: &mut FieldErrors) -> String {
    let name = exchange.query.text("fieldManager");
    check_name(name, errors);
    if verb == "patch" {
        let is_apply = exchange.content_type() == APPLY;
        if is_apply && name.is_empty() {
            errors.required(&Path::new("fieldManager"), "is required for apply patch");
        }
        if !is_apply && exchange.query.has("force") {
            errors.forbidden(&Path::new("force"), "may not be specified for non-apply patch");
        }
    }
    if name.is_empty() { of_user_agent(exchange.header(header::USER_AGENT)) } else { name.to_owned() }
}

fn check_name(name: &str, errors: &mut FieldErrors) {
    let path = Path::new("fieldManager");
    if name.len() > MAX_NAME {
        errors.too_long(&path, MAX_NAME);
    }
    if let Some(place) = name.chars().position(|character| !is_printable(character)) {
        let detail =
            format!("should only contain printable characters (found non-printable character at {place})");
        errors.invalid(&path, name, &detail);
    }
}

fn is_printable(character: char) -> bool {
    character == ' ' || !(character.is_control() || character.is_whitespace())
}

/// `kubectl` of `kubectl/v1.37.0 (linux/amd64) …`.
fn of_user_agent(text: &str) -> String {
    let mut name = String::new();
    for character in
        text.split('/').next().unwrap_or_default().chars().filter(|character| is_printable(*character))
    {
        if name.len() + character.len_utf8() > MAX_NAME {
            break;
        }
        name.push(character);
    }
    if name.is_empty() { "unknown".into() } else { name }
}

/// Reads an applied configuration, which is YAML.
pub async fn read_configuration(exchange: Exchange<'_>, call: &Call<'_>) -> Result<Configuration, ApiError> {
    let force = exchange.query.flag("force");
    let record = exchange.record;
    let bytes = exchange.body.read().await?;
    let Document { value, repeated } = yaml_text::read(&bytes)
        .map_err(|error| ApiError::BadRequest(format!("error decoding YAML: {error}")))?;
    for field in ["kind", "apiVersion"] {
        if value[field].as_str().is_none_or(str::is_empty) {
            let name = if field == "kind" { "Kind" } else { "apiVersion" };
            let text = String::from_utf8_lossy(&bytes);
            return Err(ApiError::BadRequest(format!(
                "error decoding YAML: Object '{name}' is missing in '{text}'"
            )));
        }
    }
    if let Some(record) = record {
        record.request_body(|| form::to_bytes(&value));
    }
    let problems = decode::repeated_keys(&repeated, call.validation);
    match call.validation {
        FieldValidation::Ignore => (),
        FieldValidation::Warn => call.warn(problems),
        FieldValidation::Strict => {
            if let Some(problem) = problems.first() {
                return Err(ApiError::BadRequest(format!("error strict decoding patch: {problem}")));
            }
        }
    }
    Ok(Configuration { value, force })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_named_by_its_user_agent() {
        for (agent, expected) in [
            ("kubectl/v1.37.0 (linux/amd64) kubernetes/abc", "kubectl"),
            ("my\ttool", "mytool"),
            ("", "unknown"),
            ("/1.0", "unknown"),
        ] {
            assert_eq!(of_user_agent(agent), expected);
        }
        assert_eq!(of_user_agent(&"é".repeat(100)).len(), MAX_NAME);
    }

    #[test]
    fn a_name_is_short_and_printable() {
        let check = |name: &str| {
            let mut errors = FieldErrors::default();
            check_name(name, &mut errors);
            errors.0.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert!(check("my manager").is_empty());
        assert_eq!(check(&"x".repeat(129)).len(), 1);
        assert!(check("a\nb")[0].contains("printable"));
    }
}
