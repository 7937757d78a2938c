//! `AdmissionReview`: what webhooks are sent, and what their answers mean.

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use serde_json::{Map, Value, json};

use super::{Asked, Content, asked::Type};
use crate::{
    ApiError,
    admission::{expressions::Facts, matching::Operation},
    audit::Level,
    auth::User,
    registry::{Served, decode},
};

const GROUP: &str = "admission.k8s.io";

/// What a webhook says.
#[derive(Debug, Default)]
pub(super) struct Verdict {
    pub is_allowed: bool,
    /// Why not.
    pub status: Option<Status>,
    /// Operations of a JSON patch.
    pub patch: Option<Value>,
    warnings: Vec<String>,
    audit_annotations: Map<String, Value>,
}

/// Why an answer is none.
#[derive(Debug, thiserror::Error)]
pub(super) enum Misread {
    #[error("received invalid webhook response: {0}")]
    Invalid(String),
    #[error("received undecodable patch in webhook response: {0}")]
    Undecodable(String),
}

impl From<String> for Misread {
    fn from(problem: String) -> Self {
        Self::Invalid(problem)
    }
}

/// The review that asks about a request in the form of `served`.
pub(super) fn request(
    asked: &Asked<'_>,
    served: &Served,
    content: Content<'_>,
    version: &str,
    uid: &str,
    is_mutating: bool,
) -> Result<Value, ApiError> {
    let call = asked.call;
    let info = call.served.info;
    let mut request = json!({
        "uid": uid,
        "kind": kind(&asked.type_of(served)),
        "resource": resource(served),
        "requestKind": kind(&asked.type_of(call.served)),
        "requestResource": resource(call.served),
        "operation": asked.operation.as_str(),
        "userInfo": user(call.user),
        "object": null,
        "oldObject": null,
        "dryRun": call.dry_run,
        "options": asked.options,
    });
    let is_namespace = info.plural == "namespaces" && info.group.is_empty();
    let namespace = if is_namespace { &*asked.name } else { call.namespace };
    for (field, text) in [
        ("name", &*asked.name),
        ("namespace", namespace),
        ("subResource", asked.subresource),
        ("requestSubResource", asked.subresource),
    ] {
        if !text.is_empty() {
            request[field] = text.into();
        }
    }
    request["object"] = shown(asked, served, content, is_mutating)?;
    if let Some(old) = asked.old {
        request["oldObject"] = asked.shown(served, Content::Object(old))?;
    }
    Ok(json!({ "apiVersion": format!("{GROUP}/{version}"), "kind": "AdmissionReview", "request": request }))
}

/// What expressions see of a request in the form of `served`. `content` is the state after the request.
pub(in crate::admission) fn facts(
    asked: &Asked<'_>,
    served: &Served,
    content: Content<'_>,
    is_mutating: bool,
) -> Result<Facts, ApiError> {
    let mut request = request(asked, served, content, "v1", "", is_mutating)?["request"].take();
    let mut take = |field: &str| Some(request[field].take()).filter(|value| !value.is_null());
    Ok(Facts {
        object: take("object"),
        old: take("oldObject"),
        namespace: asked.surroundings().and_then(|entry| serde_json::from_slice(&entry.json).ok()),
        request,
    })
}

/// The state after the request. What changes a new object does so before the server gives it an identity.
pub(super) fn shown(
    asked: &Asked<'_>,
    served: &Served,
    content: Content<'_>,
    is_mutating: bool,
) -> Result<Value, ApiError> {
    let mut value = asked.shown(served, content)?;
    if !matches!(content, Content::Object(_)) {
        return Ok(value);
    }
    let Some(metadata) = value["metadata"].as_object_mut() else { return Ok(value) };
    match asked.operation {
        Operation::Create if is_mutating => {
            metadata.remove("uid");
            metadata.remove("creationTimestamp");
            if asked.name.is_empty() {
                metadata.remove("name");
            }
        }
        Operation::Update => {
            let stored = asked.old.and_then(|old| old.meta().resource_version.clone());
            if let Some(version) = stored.filter(|_| !metadata.contains_key("resourceVersion")) {
                metadata.insert("resourceVersion".into(), version.into());
            }
        }
        _ => (),
    }
    Ok(value)
}

fn kind(of: &Type<'_>) -> Value {
    json!({ "group": of.group, "version": of.version, "kind": of.kind })
}

fn resource(served: &Served) -> Value {
    let info = served.info;
    json!({ "group": info.group, "version": info.version, "resource": info.plural })
}

fn user(user: &User) -> Value {
    let mut info = json!({ "username": &*user.name, "groups": &*user.groups });
    if !user.uid.is_empty() {
        info["uid"] = (*user.uid).into();
    }
    if !user.extra.is_empty() {
        info["extra"] = json!(&*user.extra);
    }
    info
}

/// Reads an answer to the review `uid`.
///
/// # Errors
/// What is wrong with it, in Kubernetes' words.
pub(super) fn verdict(
    mut answer: Value,
    version: &str,
    uid: &str,
    is_mutating: bool,
) -> Result<Verdict, Misread> {
    let Value::Object(mut response) = answer["response"].take() else {
        return Err("webhook response was absent".to_owned().into());
    };
    let text = |value: Option<&Value>| value.and_then(Value::as_str).unwrap_or_default().to_owned();
    // The older version of reviews is taken as it comes.
    if version == "v1" {
        let answered = text(response.get("uid"));
        if answered != uid {
            return Err(format!("expected response.uid={uid:?}, got {answered:?}").into());
        }
        let (api_version, kind) = (text(answer.get("apiVersion")), text(answer.get("kind")));
        if api_version != format!("{GROUP}/v1") || kind != "AdmissionReview" {
            return Err(format!(
                "expected webhook response of {GROUP}/v1, Kind=AdmissionReview, got {api_version}, Kind={kind}"
            )
            .into());
        }
    }
    let patch = text(response.get("patch"));
    let patch_type = response.get("patchType").filter(|of| !of.is_null()).map(|of| text(Some(of)));
    if version == "v1" {
        check_patch(&patch, patch_type.as_deref(), is_mutating)?;
    }
    let patch = if is_mutating { read_patch(&patch)? } else { None };
    let status = match response.remove("status") {
        None | Some(Value::Null) => None,
        Some(status) => {
            Some(serde_json::from_value(status).map_err(|error| format!("response.status: {error}"))?)
        }
    };
    let warnings = response.get("warnings").and_then(Value::as_array).into_iter().flatten();
    let warnings = warnings.map(|warning| text(Some(warning))).collect();
    let audit_annotations = match response.remove("auditAnnotations") {
        Some(Value::Object(annotations)) => annotations,
        _ => Map::new(),
    };
    Ok(Verdict {
        is_allowed: response.get("allowed").and_then(Value::as_bool).unwrap_or(false),
        status,
        patch,
        warnings,
        audit_annotations,
    })
}

/// That a patch and its type go together, and with the kind of webhook.
fn check_patch(patch: &str, patch_type: Option<&str>, is_mutating: bool) -> Result<(), String> {
    Err(match (is_mutating, patch.is_empty(), patch_type) {
        (_, true, None) | (true, false, Some("JSONPatch")) => return Ok(()),
        (true, false, None) => "webhook returned response.patch but not response.patchType".into(),
        (true, true, Some(_)) => "webhook returned response.patchType but not response.patch".into(),
        (true, false, Some("")) => "webhook returned invalid response.patchType of \"\"".into(),
        (true, false, Some(other)) => format!("unsupported patch type {other:?}"),
        (false, false, _) => "validating webhook may not return response.patch".into(),
        (false, true, Some(_)) => "validating webhook may not return response.patchType".into(),
    })
}

fn read_patch(patch: &str) -> Result<Option<Value>, Misread> {
    if patch.is_empty() {
        return Ok(None);
    }
    let json = BASE64.decode(patch).map_err(|error| format!("response.patch is not base64: {error}"))?;
    let undecodable = |error| Misread::Undecodable(decode::go_syntax_error(&json, &error));
    let patch: Value = serde_json::from_slice(&json).map_err(undecodable)?;
    let Some(operations) = patch.as_array() else {
        let found = decode::go_type(&patch);
        let why = format!("json: cannot unmarshal {found} into Go value of type jsonpatch.Patch");
        return Err(Misread::Undecodable(why));
    };
    let is_empty = operations.is_empty();
    Ok(Some(patch).filter(|_| !is_empty))
}

impl Verdict {
    /// Notes what the webhook wants to be known of the request, for the client and for the audit log.
    pub fn note(&mut self, webhook: &str, asked: &Asked<'_>) {
        asked.call.warn(std::mem::take(&mut self.warnings));
        for (key, value) in &self.audit_annotations {
            let value = value.as_str().unwrap_or_default();
            asked.call.annotate(Level::Metadata, || (format!("{webhook}/{key}"), value.to_owned()));
        }
    }

    /// The refusal of the webhook `name`, with the status that it wants the client to see.
    pub fn refusal(self, name: &str) -> ApiError {
        const BAD_REQUEST: i32 = 400;
        let mut status = self.status.unwrap_or_default();
        let code = status.code.unwrap_or(0).max(BAD_REQUEST);
        status.code = Some(code);
        status.status = Some("Failure".into());
        let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        let why = given(&status.message).or_else(|| given(&status.reason));
        let why = why.map_or_else(|| " without explanation".into(), |why| format!(": {why}"));
        status.message = Some(format!("admission webhook {name:?} denied the request{why}"));
        ApiError::Denied(Box::new(status))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(response: Value) -> Value {
        json!({ "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response })
    }

    #[test]
    fn an_answer_must_fit_its_question() {
        let patch = BASE64.encode(r#"[{"op":"remove","path":"/spec"}]"#);
        let undecodable = |text: &str| {
            answer(json!({ "uid": "a", "patch": BASE64.encode(text), "patchType": "JSONPatch" }))
        };
        let cases = [
            (json!({ "apiVersion": "admission.k8s.io/v1" }), true, "webhook response was absent"),
            (answer(json!({ "uid": "b" })), true, r#"expected response.uid="a", got "b""#),
            (
                json!({ "apiVersion": "v1", "kind": "Pod", "response": { "uid": "a" } }),
                true,
                "expected webhook response of admission.k8s.io/v1, Kind=AdmissionReview, got v1, Kind=Pod",
            ),
            (
                answer(json!({ "uid": "a", "patch": patch })),
                true,
                "webhook returned response.patch but not response.patchType",
            ),
            (
                answer(json!({ "uid": "a", "patchType": "JSONPatch" })),
                true,
                "webhook returned response.patchType but not response.patch",
            ),
            (
                answer(json!({ "uid": "a", "patch": patch, "patchType": "Merge" })),
                true,
                "unsupported patch type \"Merge\"",
            ),
            (
                answer(json!({ "uid": "a", "patch": patch, "patchType": "JSONPatch" })),
                false,
                "validating webhook may not return response.patch",
            ),
            (answer(json!({ "uid": "a", "patch": patch, "patchType": "JSONPatch" })), true, ""),
        ];
        for (answer, is_mutating, expected) in cases {
            let problem = verdict(answer.clone(), "v1", "a", is_mutating).err();
            let expected =
                (!expected.is_empty()).then(|| format!("received invalid webhook response: {expected}"));
            assert_eq!(problem.map(|problem| problem.to_string()), expected, "{answer}");
        }
        for (text, expected) in [
            ("[{", "unexpected end of JSON input"),
            ("{}", "json: cannot unmarshal object into Go value of type jsonpatch.Patch"),
        ] {
            let problem = verdict(undecodable(text), "v1", "a", true).expect_err("it cannot be read");
            let expected = format!("received undecodable patch in webhook response: {expected}");
            assert_eq!(problem.to_string(), expected);
        }
    }

    #[test]
    fn older_answers_are_taken_as_they_come() {
        let patch = BASE64.encode(r#"[{"op":"remove","path":"/spec"}]"#);
        let answer = json!({ "response": { "allowed": true, "patch": patch, "patchType": "Merge" } });
        let of_mutating = verdict(answer.clone(), "v1beta1", "a", true).expect("it can be read");
        assert_eq!(of_mutating.patch, Some(json!([{ "op": "remove", "path": "/spec" }])));
        let of_validating = verdict(answer, "v1beta1", "a", false).expect("it can be read");
        assert!(of_validating.is_allowed && of_validating.patch.is_none());
    }

    #[test]
    fn a_refusal_has_the_status_that_the_webhook_wants() {
        let refusal = |status: Value| {
            let response = json!({ "uid": "a", "allowed": false, "status": status });
            let verdict = verdict(answer(response), "v1", "a", false).expect("it can be read");
            assert!(!verdict.is_allowed);
            let status = verdict.refusal("x.example.com").to_status();
            (
                status.code.unwrap_or_default(),
                status.reason.unwrap_or_default(),
                status.message.unwrap_or_default(),
            )
        };
        let said = |text: &str| format!("admission webhook \"x.example.com\" denied the request{text}");
        assert_eq!(refusal(Value::Null), (400, String::new(), said(" without explanation")));
        assert_eq!(
            refusal(json!({ "code": 403, "reason": "Forbidden", "message": "no" })),
            (403, "Forbidden".into(), said(": no"))
        );
        assert_eq!(refusal(json!({ "code": 200, "reason": "Odd" })), (400, "Odd".into(), said(": Odd")));
    }
}
