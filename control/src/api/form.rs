//! The form in which a client wants objects: as they are, as a table, or their metadata only.

use bytes::{BufMut, Bytes, BytesMut};
use k8s_openapi::jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};

use super::encoding::Encoding;
use crate::{ApiError, registry::Served, store::Entry};

/// What an object's metadata is called where it stands for itself.
pub const METADATA_KIND: &str = "PartialObjectMetadata";

/// What `Accept` asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    Plain,
    Table {
        version: MetaVersion,
        include: Include,
    },
    /// `of_list` where it is the metadata of a whole list that is asked for.
    Metadata {
        version: MetaVersion,
        of_list: bool,
    },
}

/// The version of `meta.k8s.io` that a client knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetaVersion {
    V1,
    V1Beta1,
}

/// How much of the object a table row carries (`?includeObject=`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Include {
    None,
    Metadata,
    Object,
}

impl MetaVersion {
    pub fn api_version(self) -> &'static str {
        match self {
            Self::V1 => "meta.k8s.io/v1",
            Self::V1Beta1 => "meta.k8s.io/v1beta1",
        }
    }
}

impl Include {
    pub fn parse(text: &str) -> Result<Self, ApiError> {
        match text {
            "" | "Metadata" => Ok(Self::Metadata),
            "None" => Ok(Self::None),
            "Object" => Ok(Self::Object),
            other => Err(ApiError::BadRequest(format!("unrecognized includeObject value: {other:?}"))),
        }
    }
}

impl Form {
    /// The first form of `accept` that is served, and its encoding. `has_message` tells whether the kind has a
    /// protobuf message; tables have none.
    pub fn negotiate(accept: &str, include: &str, has_message: bool) -> Result<(Self, Encoding), ApiError> {
        if accept.is_empty() || accept == "application/json" || accept == "*/*" {
            return Ok((Self::Plain, Encoding::Json));
        }
        for clause in by_preference(accept) {
            let mut parts = clause.split(';').map(str::trim);
            let Some(encoding) = parts.next().and_then(Encoding::of_media_type) else { continue };
            let (mut form, mut version, mut group) = ("", "", "");
            for part in parts {
                match part.split_once('=') {
                    Some(("as", value)) => form = value,
                    Some(("v", value)) => version = value,
                    Some(("g", value)) => group = value,
                    _ => (),
                }
            }
            let version = match version {
                "v1beta1" => MetaVersion::V1Beta1,
                "" | "v1" => MetaVersion::V1,
                _ => continue,
            };
            match form {
                "" if encoding != Encoding::Protobuf || has_message => return Ok((Self::Plain, encoding)),
                "Table" if group == "meta.k8s.io" && encoding != Encoding::Protobuf => {
                    return Ok((Self::Table { version, include: Include::parse(include)? }, encoding));
                }
                "PartialObjectMetadata" | "PartialObjectMetadataList" if group == "meta.k8s.io" => {
                    let of_list = form.ends_with("List");
                    return Ok((Self::Metadata { version, of_list }, encoding));
                }
                _ => (),
            }
        }
        Err(Self::unacceptable(has_message))
    }

    /// The refusal of an `Accept` that names no form which is served.
    pub fn unacceptable(has_message: bool) -> ApiError {
        let protobuf = if has_message { ", application/vnd.kubernetes.protobuf" } else { "" };
        ApiError::NotAcceptable(format!(
            "only the following media types are accepted: application/json, application/yaml{protobuf}, \
             application/json;as=Table;v=v1;g=meta.k8s.io, application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io"
        ))
    }

    /// Whether an answer, one object or a list, can have this form; `go_type` is what the answer is to Go.
    ///
    /// # Errors
    /// 406 where one is asked for in the form of the other.
    pub fn check(self, is_list: bool, go_type: impl FnOnce() -> String) -> Result<(), ApiError> {
        let (form, what) = match self {
            Self::Metadata { of_list: false, .. } if is_list => (METADATA_KIND.to_owned(), "a list"),
            Self::Metadata { of_list: true, .. } if !is_list => {
                (format!("{METADATA_KIND}List"), "not a list")
            }
            _ => return Ok(()),
        };
        Err(ApiError::NotAcceptable(format!(
            "you requested {form}, but the requested object is {what} ({})",
            go_type()
        )))
    }

    /// One object, alone.
    pub fn object(self, served: &Served, entry: &Entry) -> Result<Bytes, ApiError> {
        match self {
            Self::Plain => plain(served, entry),
            Self::Metadata { version, .. } => Ok(metadata(version, entry)),
            Self::Table { version, include } => {
                let rows = [row(served, entry, include, version, Timestamp::now())?];
                let meta = json!({ "resourceVersion": entry.revision.0.to_string() });
                Ok(table(version, meta, Some(columns(served)), &rows))
            }
        }
    }
}

/// How Go prints the type in which kube-apiserver has these objects: `*apps.DeploymentList`.
pub fn go_type(served: &Served, is_list: bool) -> String {
    let list = if is_list { "List" } else { "" };
    let (package, kind) = match served.info.group {
        _ if served.kind.is_custom() => ("unstructured", "Unstructured"),
        "" | "events.k8s.io" => ("core", served.info.kind),
        group => (group.split('.').next().unwrap_or(group), served.info.kind),
    };
    format!("*{package}.{kind}{list}")
}

/// The clauses of `Accept`, the most wanted (`;q=`) first, those that are equally wanted in their order.
fn by_preference(accept: &str) -> Vec<&str> {
    let quality = |clause: &&str| {
        let given = clause.split(';').find_map(|part| part.trim().strip_prefix("q="));
        given.and_then(|text| text.parse().ok()).unwrap_or(1.0_f32)
    };
    let mut clauses: Vec<&str> = accept.split(',').collect();
    if accept.contains("q=") {
        clauses.retain(|clause| quality(clause) > 0.0);
        clauses.sort_by(|one, other| quality(other).total_cmp(&quality(one)));
    }
    clauses
}

/// A stored object as it is served.
pub fn plain(served: &Served, entry: &Entry) -> Result<Bytes, ApiError> {
    if served.conversion.is_none() {
        return served.json(entry);
    }
    served.value(entry).map(|value| to_bytes(&value))
}

#[derive(Deserialize)]
struct OnlyMetadata<'a> {
    #[serde(borrow)]
    metadata: Option<&'a RawValue>,
}

/// The object's metadata as an object of its own.
pub fn metadata(version: MetaVersion, entry: &Entry) -> Bytes {
    let found: Option<OnlyMetadata<'_>> = serde_json::from_slice(&entry.json).ok();
    let raw = found.and_then(|found| found.metadata).map_or("{}", RawValue::get);
    let mut bytes = BytesMut::with_capacity(raw.len() + 80);
    bytes.put_slice(br#"{"kind":"PartialObjectMetadata","apiVersion":""#);
    bytes.put_slice(version.api_version().as_bytes());
    bytes.put_slice(br#"","metadata":"#);
    bytes.put_slice(raw.as_bytes());
    bytes.put_slice(b"}");
    bytes.freeze()
}

/// One row, encoded.
pub fn row(
    served: &Served,
    entry: &Entry,
    include: Include,
    version: MetaVersion,
    now: Timestamp,
) -> Result<Bytes, ApiError> {
    let mut bytes = BytesMut::with_capacity(512);
    bytes.put_slice(br#"{"cells":"#);
    bytes.put_slice(&to_bytes(&Value::Array(served.kind.row(entry, now))));
    match include {
        Include::None => (),
        Include::Metadata => {
            bytes.put_slice(br#","object":"#);
            bytes.put_slice(&metadata(version, entry));
        }
        Include::Object => {
            bytes.put_slice(br#","object":"#);
            bytes.put_slice(&plain(served, entry)?);
        }
    }
    bytes.put_slice(b"}");
    Ok(bytes.freeze())
}

pub fn columns(served: &Served) -> Value {
    let columns = served.kind.columns().into_iter().map(|column| {
        json!({
            "name": column.name,
            "type": column.kind,
            "format": column.format,
            "description": column.description,
            "priority": column.priority,
        })
    });
    Value::Array(columns.collect())
}

/// A table of rows that are encoded already. Watches send the columns only once.
pub fn table(version: MetaVersion, metadata: Value, columns: Option<Value>, rows: &[Bytes]) -> Bytes {
    let head = json!({
        "kind": "Table",
        "apiVersion": version.api_version(),
        "metadata": metadata,
        "columnDefinitions": columns.unwrap_or_else(|| Value::Array(Vec::new())),
    });
    let mut bytes = BytesMut::from(&*to_bytes(&head));
    bytes.truncate(bytes.len() - 1);
    bytes.put_slice(br#","rows":["#);
    for (index, row) in rows.iter().enumerate() {
        if index > 0 {
            bytes.put_u8(b',');
        }
        bytes.put_slice(row);
    }
    bytes.put_slice(b"]}");
    bytes.freeze()
}

/// One `Scale`, whatever it is of.
pub fn scale(form: Form, scale: &Value) -> Bytes {
    match form {
        Form::Plain => to_bytes(scale),
        Form::Metadata { version, .. } => to_bytes(&scale_metadata(version, scale)),
        Form::Table { version, include } => scale_table(version, include, scale),
    }
}

fn scale_metadata(version: MetaVersion, scale: &Value) -> Value {
    json!({ "kind": METADATA_KIND, "apiVersion": version.api_version(), "metadata": scale["metadata"] })
}

fn scale_table(version: MetaVersion, include: Include, scale: &Value) -> Bytes {
    let column = |name: &str, kind: &str, format: &str, description: &str| json!({ "name": name, "type": kind, "format": format, "description": description, "priority": 0 });
    let columns = json!([
        column("Name", "string", "name", "Name of the object that is scaled."),
        column("Desired", "integer", "", "Number of replicas that are asked for."),
        column("Available", "integer", "", "Number of replicas that were observed."),
        column("Age", "string", "", "Time since the object was created."),
    ]);
    let born =
        scale["metadata"]["creationTimestamp"].as_str().and_then(|text| text.parse::<Timestamp>().ok());
    let age = born.map_or_else(
        || "<unknown>".to_owned(),
        |born| naru_model::duration::human(Timestamp::now().duration_since(born)),
    );
    let replicas = |part: &str| scale[part]["replicas"].as_i64().unwrap_or_default();
    let name = &scale["metadata"]["name"];
    let mut row = json!({ "cells": [name, replicas("spec"), replicas("status"), age] });
    match include {
        Include::None => (),
        Include::Metadata => row["object"] = scale_metadata(version, scale),
        Include::Object => row["object"] = scale.clone(),
    }
    let metadata = json!({ "resourceVersion": scale["metadata"]["resourceVersion"] });
    table(version, metadata, Some(columns), &[to_bytes(&row)])
}

/// JSON of something that always serializes.
pub fn to_bytes<T: serde::Serialize>(value: &T) -> Bytes {
    serde_json::to_vec(value).expect("values of our own making serialize").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLES: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,\
                          application/json";

    #[test]
    fn the_first_form_that_is_known_wins() {
        let form = |accept| Form::negotiate(accept, "", true).expect("acceptable");
        let table = Form::Table { version: MetaVersion::V1, include: Include::Metadata };
        let metadata = Form::Metadata { version: MetaVersion::V1, of_list: true };
        assert_eq!(form(TABLES), (table, Encoding::Json));
        assert_eq!(form("application/json;as=Unheard;v=v1;g=meta.k8s.io,*/*"), (Form::Plain, Encoding::Json));
        assert_eq!(
            form("application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io"),
            (metadata, Encoding::Json)
        );
        assert_eq!(form("application/yaml"), (Form::Plain, Encoding::Yaml));
        assert_eq!(form("application/json;q=0.1, application/yaml;q=0.9"), (Form::Plain, Encoding::Yaml));
        assert_eq!(form("application/yaml;q=0, application/json;q=0.1"), (Form::Plain, Encoding::Json));
    }

    #[test]
    fn protobuf_is_for_kinds_with_a_message_and_never_for_tables() {
        const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
        let encoding =
            |accept: &str, has_message| Form::negotiate(accept, "", has_message).map(|found| found.1);
        let both = format!("{PROTOBUF}, application/json");
        assert_eq!(encoding(&both, true).expect("fine"), Encoding::Protobuf);
        assert_eq!(encoding(&both, false).expect("fine"), Encoding::Json);
        assert_eq!(encoding(PROTOBUF, false).expect_err("a custom resource").code(), 406);
        let tables = format!("{PROTOBUF};as=Table;v=v1;g=meta.k8s.io");
        assert_eq!(encoding(&tables, true).expect_err("no table").code(), 406);
        let metadata = format!("{PROTOBUF};as=PartialObjectMetadata;v=v1;g=meta.k8s.io");
        assert_eq!(encoding(&metadata, false).expect("fine"), Encoding::Protobuf);
    }
}
