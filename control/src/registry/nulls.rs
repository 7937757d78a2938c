//! Nulls where a value is needed: in a list, or for a key of a map. Go reads them as the zero of the type, so files with
//! `KEY:` and nothing behind it, which templates often make, are applied; serde refuses them.
//!
//! Nulls of fields need nothing: a field that is null is absent.

use serde::de::Error as _;
use serde_json::{Error, Value};

use super::json_text::offset;

/// Reading begins again for each such null. So many bytes are read again at most: a body may have hundreds of
/// thousands.
const MAX_BYTES: usize = 16 << 20;

/// Reads `json` as `read` does, with zeros in place of nulls that no type takes.
///
/// # Errors
/// What `read` says of the first thing that is not such a null; its place is that in `json`.
pub(super) fn read<T>(json: &[u8], mut read: impl FnMut(&[u8]) -> Result<T, Error>) -> Result<T, Error> {
    let mut error = match read(json) {
        Ok(object) => return Ok(object),
        Err(error) => error,
    };
    if zero_for(&error).is_none() {
        return Err(error);
    }
    let mut text = json.to_vec();
    let mut budget = MAX_BYTES;
    while let Some(zero) = zero_for(&error)
        && let Some(rest) = budget.checked_sub(text.len())
        && let Some(place) = text.get_mut(..offset(json, &error)).and_then(|before| before.last_chunk_mut())
        && place == b"null"
    {
        *place = *zero;
        budget = rest;
        match read(&text) {
            Ok(object) => return Ok(object),
            Err(next) => error = next,
        }
    }
    Err(error)
}

/// Whether `read` has something to do in `value`.
pub(super) fn any_in(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.iter().any(any_in),
        Value::Object(fields) => fields.values().any(any_in),
        _ => false,
    }
}

/// The zero of the type that was expected where a null is, as long as a null, so that every place stays where it is.
fn zero_for(error: &Error) -> Option<&'static [u8; 4]> {
    let text = error.to_string();
    let expected = text.strip_prefix("invalid type: null, expected ")?.split(" at line ").next()?;
    match expected {
        "a string" => Some(b"\"\"  "),
        "a sequence" => Some(b"[]  "),
        "i32" | "i64" | "f64" => Some(b"0   "),
        "a map" => Some(b"{}  "),
        // Those that are written as text or a number.
        "Quantity" | "IntOrString" | "Time" | "MicroTime" => None,
        name if name.starts_with(|first: char| first.is_ascii_uppercase()) => Some(b"{}  "),
        _ => None,
    }
}

/// The same for a value, which has no places.
///
/// # Errors
/// As [`read`].
pub(super) fn read_value<T>(
    value: &Value,
    read_text: impl FnMut(&[u8]) -> Result<T, Error>,
) -> Result<T, Error> {
    let text = serde_json::to_vec(value)?;
    // The text is nobody else's: a place in it would tell nothing.
    read(&text, read_text)
        .map_err(|error| Error::custom(error.to_string().split(" at line ").next().unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use k8s_openapi::api::core::v1::{ConfigMap, Pod};
    use serde_json::json;

    use super::*;

    fn from_slice<T: serde::de::DeserializeOwned>(json: &[u8]) -> Result<T, Error> {
        read(json, |text| serde_json::from_slice(text))
    }

    #[test]
    fn nulls_are_zeros_in_maps_and_lists() {
        let map: ConfigMap = from_slice(
            b"{\"metadata\": {\"labels\": {\"a\": null}},\n \"data\": {\"b\":null, \"c\": \"d\"}}",
        )
        .expect("a ConfigMap");
        let labels = map.metadata.labels.expect("labels");
        assert_eq!(labels["a"], "");
        let data = BTreeMap::from([("b".into(), String::new()), ("c".into(), "d".into())]);
        assert_eq!(map.data, Some(data));

        let pod: Pod = from_slice(
            b"{\"spec\": {\"containers\": [null, {\"name\": \"c\", \"args\": [null, \"x\"], \"env\": null}]}}",
        )
        .expect("a Pod");
        let containers = pod.spec.expect("a spec").containers;
        assert_eq!(containers[0].name, "");
        assert_eq!(containers[1].args, Some(vec![String::new(), "x".into()]));
    }

    #[test]
    fn what_else_is_wrong_is_told_where_it_is() {
        let json = b"{\"data\": {\"a\": null, \"b\": 1}}";
        let error = from_slice::<ConfigMap>(json).expect_err("a number is no text");
        assert!(error.to_string().starts_with("invalid type: integer `1`, expected a string"), "{error}");
        assert_eq!(&json[..offset(json, &error)], b"{\"data\": {\"a\": null, \"b\": 1");
        let value = json!({ "data": { "a": null, "b": 1 } });
        let error = read_value(&value, |json| serde_json::from_slice::<ConfigMap>(json));
        assert!(!error.expect_err("the same").to_string().contains("line"));
    }

    #[test]
    fn nobody_makes_the_server_read_without_end() {
        let json = format!("{{\"data\": {{{}\"z\": null}}}}", "\"a\": null, ".repeat(200_000));
        let mut reads = 0;
        let result: Result<ConfigMap, _> = read(json.as_bytes(), |text| {
            reads += 1;
            serde_json::from_slice(text)
        });
        assert!(result.is_err());
        assert!(reads <= 1 + MAX_BYTES / json.len(), "{reads}");
    }
}
