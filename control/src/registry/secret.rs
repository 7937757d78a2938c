//! Secrets. Some types promise that certain keys are there.

use k8s_openapi::{ByteString, api::core::v1::Secret, jiff::Timestamp};
use naru_model::{
    ResourceInfo,
    validation::{FieldErrors, Path},
};
use serde_json::Value;

use super::{
    Column, Kind,
    configmap::MAX_SIZE,
    kind::age,
    podspec::{OrEmpty, check},
    text,
};

pub struct Secrets;

const FROZEN: &str = "field is immutable when `immutable` is set";
const ACCOUNT_NAME: &str = "kubernetes.io/service-account.name";

static RESOURCE: ResourceInfo = text::core_resource("Secret", "secrets", "secret", &[]);

const COLUMNS: &[Column] = &[
    text::NAME,
    text::column(
        "Type",
        "string",
        0,
        "Used to facilitate programmatic handling of secret data. More info: https://kubernetes.io/docs/concepts/configuration/secret/#secret-types",
    ),
    text::column(
        "Data",
        "string",
        0,
        "Data contains the secret data. Each key must consist of alphanumeric characters, '-', '_' or '.'. The serialized form of the secret data is a base64 encoded string, representing the arbitrary (possibly non-string) data value here. Described in https://tools.ietf.org/html/rfc4648#section-4",
    ),
    text::AGE,
];

impl Kind for Secrets {
    type Object = Secret;

    fn resource(&self) -> &'static ResourceInfo {
        &RESOURCE
    }

    fn has_generation(&self) -> bool {
        false
    }

    /// `stringData` is for writing only: it is taken over into `data`.
    fn default(&self, secret: &mut Secret) {
        if secret.type_.or_empty().is_empty() {
            secret.type_ = Some("Opaque".into());
        }
        for (key, value) in secret.string_data.take().into_iter().flatten() {
            secret.data.get_or_insert_default().insert(key, ByteString(value.into_bytes()));
        }
    }

    fn validate(&self, secret: &Secret, errors: &mut FieldErrors) {
        let path = Path::new("data");
        for (key, _) in secret.data.iter().flatten() {
            check::config_map_key(key, &path.key(key), errors);
        }
        if secret.data.iter().flatten().map(|(_, value)| value.0.len()).sum::<usize>() > MAX_SIZE {
            errors.too_long(&path, MAX_SIZE);
        }
        promised_keys(secret, &path, errors);
    }

    fn validate_update(&self, new: &Secret, old: &Secret, errors: &mut FieldErrors) {
        if new.type_ != old.type_ {
            errors.invalid(&Path::new("type"), new.type_.or_empty(), check::IMMUTABLE);
        }
        if old.immutable == Some(true) {
            if new.immutable != Some(true) {
                errors.forbidden(&Path::new("immutable"), FROZEN);
            }
            if new.data.iter().flatten().ne(old.data.iter().flatten()) {
                errors.forbidden(&Path::new("data"), FROZEN);
            }
        }
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, secret: &Secret, now: Timestamp) -> Vec<Value> {
        vec![
            secret.metadata.name.or_empty().into(),
            secret.type_.or_empty().into(),
            secret.data.iter().flatten().count().into(),
            age(secret.metadata.creation_timestamp.as_ref(), now).into(),
        ]
    }

    fn field_names(&self) -> &'static [&'static str] {
        &["type"]
    }

    fn field(&self, secret: &Secret, name: &str) -> String {
        if name == "type" { secret.type_.or_empty().into() } else { String::new() }
    }
}

fn promised_keys(secret: &Secret, path: &Path, errors: &mut FieldErrors) {
    let value =
        |key: &str| secret.data.as_ref().and_then(|data| data.get(key)).map(|value| value.0.as_slice());
    match secret.type_.or_empty() {
        "kubernetes.io/service-account-token" => {
            let annotation = secret.metadata.annotations.as_ref().and_then(|map| map.get(ACCOUNT_NAME));
            if annotation.is_none_or(String::is_empty) {
                errors.required(&Path::new("metadata").child("annotations").key(ACCOUNT_NAME), "");
            }
        }
        "kubernetes.io/dockercfg" => json_value(value(".dockercfg"), &path.key(".dockercfg"), errors),
        "kubernetes.io/dockerconfigjson" => {
            json_value(value(".dockerconfigjson"), &path.key(".dockerconfigjson"), errors);
        }
        "kubernetes.io/basic-auth" if value("username").is_none() && value("password").is_none() => {
            errors.required(&path.key("username"), "");
            errors.required(&path.key("password"), "");
        }
        "kubernetes.io/ssh-auth" if value("ssh-privatekey").unwrap_or_default().is_empty() => {
            errors.required(&path.key("ssh-privatekey"), "");
        }
        "kubernetes.io/tls" => {
            for key in ["tls.crt", "tls.key"] {
                if value(key).is_none() {
                    errors.required(&path.key(key), "");
                }
            }
        }
        _ => {}
    }
}

fn json_value(value: Option<&[u8]>, path: &Path, errors: &mut FieldErrors) {
    let Some(value) = value else { return errors.required(path, "") };
    if let Err(error) = serde_json::from_slice::<serde_json::Map<String, Value>>(value) {
        errors.invalid(path, "<secret contents redacted>", &error.to_string());
    }
}
