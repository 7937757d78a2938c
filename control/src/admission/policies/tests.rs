//! Policies on the road that every write takes.

use k8s_openapi::api::{
    admissionregistration::v1::{
        MutatingAdmissionPolicy, MutatingAdmissionPolicyBinding, ValidatingAdmissionPolicy,
        ValidatingAdmissionPolicyBinding,
    },
    apps::v1::Deployment,
    core::v1::{ConfigMap, Namespace, Pod, ServiceAccount},
};
use naru_model::Object;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::{
    ApiClient, ApiError,
    auth::User,
    client::{Delete, Patch},
    notes::Notes,
    registry::{Call, Served},
    store::Key,
};

fn object<T: DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).expect("a valid object")
}

/// A cluster with the namespaces `shop` and `lab`.
async fn cluster() -> ApiClient {
    let client = ApiClient::in_memory();
    for (name, env) in [("shop", "prod"), ("lab", "test")] {
        let labels = json!({ "env": env });
        let namespace: Namespace = object(json!({ "metadata": { "name": name, "labels": labels } }));
        client.create(&namespace).await.expect("a namespace");
    }
    client
}

fn deployment(namespace: &str, name: &str, replicas: i32) -> Deployment {
    let labels = json!({ "app": name });
    object(json!({
        "metadata": { "name": name, "namespace": namespace },
        "spec": {
            "replicas": replicas,
            "selector": { "matchLabels": labels },
            "template": {
                "metadata": { "labels": labels },
                "spec": { "containers": [{ "name": "web", "image": "hello.wasm" }] },
            },
        },
    }))
}

fn about_deployments(mut spec: Value, operations: &[&str]) -> Value {
    let rule = json!({
        "operations": operations, "apiGroups": ["apps"], "apiVersions": ["v1"],
        "resources": ["deployments", "deployments/scale"],
    });
    spec["matchConstraints"] = json!({ "resourceRules": [rule] });
    spec
}

/// A validating policy `limits` about deployments, with a binding of the same name.
async fn limit(client: &ApiClient, spec: Value, binding: Value) {
    let spec = about_deployments(spec, &["CREATE", "UPDATE", "DELETE"]);
    let policy: ValidatingAdmissionPolicy = object(json!({ "metadata": { "name": "limits" }, "spec": spec }));
    client.create(&policy).await.expect("a policy");
    let mut bound = json!({ "policyName": "limits", "validationActions": ["Deny"] });
    bound.as_object_mut().expect("an object").extend(binding.as_object().cloned().unwrap_or_default());
    let binding: ValidatingAdmissionPolicyBinding =
        object(json!({ "metadata": { "name": "limits" }, "spec": bound }));
    client.create(&binding).await.expect("a binding");
}

/// A mutating policy about deployments, with a binding of the same name.
async fn change(client: &ApiClient, name: &str, spec: Value) {
    let spec = about_deployments(spec, &["CREATE", "UPDATE"]);
    let policy: MutatingAdmissionPolicy = object(json!({ "metadata": { "name": name }, "spec": spec }));
    client.create(&policy).await.expect("a policy");
    let binding: MutatingAdmissionPolicyBinding =
        object(json!({ "metadata": { "name": name }, "spec": { "policyName": name } }));
    client.create(&binding).await.expect("a binding");
}

fn apply(expression: &str) -> Value {
    json!({ "patchType": "ApplyConfiguration", "applyConfiguration": { "expression": expression } })
}

fn patch(expression: &str) -> Value {
    json!({ "patchType": "JSONPatch", "jsonPatch": { "expression": expression } })
}

async fn created<T: Object>(client: &ApiClient, object: &T) -> Value {
    let entry = client.create(object).await.expect("created");
    serde_json::from_slice(&entry.json).expect("json")
}

#[track_caller]
fn refused<T>(outcome: Result<T, ApiError>, reason: &str, code: u16, message: &str) {
    let Err(error) = outcome else { panic!("not refused: {message}") };
    assert_eq!((error.to_string().as_str(), error.reason(), error.code()), (message, reason, code));
    let causes = error.to_status().details.and_then(|details| details.causes).unwrap_or_default();
    let first = causes.first().and_then(|cause| cause.message.as_deref()).unwrap_or_default();
    assert!(!first.is_empty() && message.ends_with(first), "{causes:?}");
}

const DENIED: &str = "is forbidden: ValidatingAdmissionPolicy 'limits' with binding 'limits' denied request:";

#[tokio::test]
async fn a_policy_acts_on_what_is_written_after_it() {
    let client = cluster().await;
    client.create(&deployment("shop", "before", 9)).await.expect("nobody minds yet");
    let validations = json!([
        { "expression": "object == null || object.spec.replicas <= 5" },
        {
            "expression": "object == null || !object.metadata.name.startsWith('x')", "reason": "Forbidden",
            "messageExpression": "'not ' + object.metadata.name",
        },
    ]);
    limit(&client, json!({ "validations": validations }), json!({})).await;
    client.create(&deployment("shop", "small", 5)).await.expect("few enough");
    let expression = "failed expression: object == null || object.spec.replicas <= 5";
    refused(
        client.create(&deployment("shop", "large", 6)).await,
        "Invalid",
        422,
        &format!("deployments.apps \"large\" {DENIED} {expression}"),
    );
    refused(
        client.create(&deployment("shop", "xs", 1)).await,
        "Forbidden",
        403,
        &format!("deployments.apps \"xs\" {DENIED} not xs"),
    );
    let more = Patch::Merge(json!({ "spec": { "replicas": 7 } }));
    let outcome = client.patch::<Deployment>("shop", "small", "", more).await;
    refused(outcome, "Invalid", 422, &format!("deployments.apps \"small\" {DENIED} {expression}"));
    client.delete::<Deployment>("shop", "before", Delete::default()).await.expect("deletions are fine");
    client
        .delete::<ValidatingAdmissionPolicyBinding>("", "limits", Delete::default())
        .await
        .expect("deleted");
    client.create(&deployment("shop", "large", 6)).await.expect("nobody minds any more");
}

#[tokio::test]
async fn a_deletion_can_be_refused() {
    let client = cluster().await;
    client.create(&deployment("shop", "web", 1)).await.expect("created");
    let rule = "request.operation != 'DELETE' || oldObject.metadata.?labels['free'].hasValue()";
    let validations = json!([{ "expression": rule, "message": "it is still needed" }]);
    limit(&client, json!({ "validations": validations }), json!({})).await;
    let outcome = client.delete::<Deployment>("shop", "web", Delete::default()).await;
    refused(outcome, "Invalid", 422, &format!("deployments.apps \"web\" {DENIED} it is still needed"));
}

#[tokio::test]
async fn a_binding_names_parameters_and_namespaces() {
    let client = cluster().await;
    let spec = json!({
        "paramKind": { "apiVersion": "v1", "kind": "ConfigMap" },
        "variables": [{ "name": "most", "expression": "int(params.data.most)" }],
        "validations": [{
            "expression": "object == null || object.spec.replicas <= variables.most",
            "messageExpression": "'at most ' + string(variables.most) + ' in ' + namespaceObject.metadata.name",
        }],
    });
    let binding = json!({
        "paramRef": { "name": "limits", "parameterNotFoundAction": "Deny" },
        "matchResources": { "namespaceSelector": { "matchLabels": { "env": "prod" } } },
    });
    limit(&client, spec, binding).await;
    let missing =
        "failed to configure binding: no params found for policy binding with `Deny` parameterNotFoundAction";
    let web = |replicas| deployment("shop", "web", replicas);
    refused(
        client.create(&web(1)).await,
        "Invalid",
        422,
        &format!("deployments.apps \"web\" {DENIED} {missing}"),
    );
    let limits: ConfigMap =
        object(json!({ "metadata": { "name": "limits", "namespace": "shop" }, "data": { "most": "3" } }));
    client.create(&limits).await.expect("a parameter");
    refused(
        client.create(&web(4)).await,
        "Invalid",
        422,
        &format!("deployments.apps \"web\" {DENIED} at most 3 in shop"),
    );
    client.create(&web(3)).await.expect("as many as the parameter says");
    client.create(&deployment("lab", "web", 30)).await.expect("another namespace");
}

#[tokio::test]
async fn what_fails_refuses_unless_it_may_be_ignored() {
    for (policy, expected) in [("Fail", false), ("Ignore", true)] {
        let client = cluster().await;
        let spec = json!({
            "failurePolicy": policy,
            "validations": [{ "expression": "object.spec.nothing == 1" }],
        });
        limit(&client, spec, json!({})).await;
        let outcome = client.create(&deployment("shop", "web", 1)).await;
        assert_eq!(outcome.is_ok(), expected, "{policy}");
        if !expected {
            let why = "expression 'object.spec.nothing == 1' resulted in error: no such key: nothing";
            refused(outcome, "Invalid", 422, &format!("deployments.apps \"web\" {DENIED} {why}"));
        }
    }
}

#[tokio::test]
async fn a_scale_is_shown_as_a_scale() {
    let client = cluster().await;
    client.create(&deployment("shop", "web", 1)).await.expect("created");
    let rule = "!has(request.subResource) || object.kind == 'Scale' && object.spec.replicas < 3";
    let spec = json!({ "validations": [{ "expression": rule, "message": "too many" }] });
    limit(&client, spec, json!({})).await;
    let served = client.registry().kinds().of::<Deployment>().cloned().expect("served");
    let user = crate::auth::User::internal("system:apiserver");
    let call = crate::registry::Call::of(&user, &served, "shop", "web");
    let scale = |replicas: i32| {
        object(
            json!({ "metadata": { "name": "web", "namespace": "shop" }, "spec": { "replicas": replicas } }),
        )
    };
    client.registry().update_scale(&call, &scale(2)).await.expect("few");
    let outcome = client.registry().update_scale(&call, &scale(3)).await;
    refused(outcome, "Invalid", 422, &format!("deployments.apps \"web\" {DENIED} too many"));
}

#[tokio::test]
async fn an_applied_configuration_is_merged() {
    let client = cluster().await;
    let spec = json!({
        "reinvocationPolicy": "Never",
        "matchConditions": [{ "name": "new", "expression": "!has(object.metadata.labels)" }],
        "mutations": [
            apply("Object{metadata: Object.metadata{labels: {'team': namespaceObject.metadata.labels.env}}}"),
            apply(
                "Object{spec: Object.spec{template: Object.spec.template{spec: Object.spec.template.spec{\
                 containers: [Object.spec.template.spec.containers{name: 'proxy', image: 'proxy.wasm'}]}}}}",
            ),
        ],
    });
    change(&client, "sidecar", spec).await;
    let web = created(&client, &deployment("shop", "web", 2)).await;
    assert_eq!(web["metadata"]["labels"], json!({ "team": "prod" }));
    let containers = &web["spec"]["template"]["spec"]["containers"];
    assert_eq!((&containers[0]["name"], &containers[1]["name"]), (&json!("web"), &json!("proxy")));
    // What a policy adds is completed like everything else.
    assert_eq!(containers[1]["imagePullPolicy"], "Always");
    assert_eq!(web["spec"]["replicas"], 2);
}

#[tokio::test]
async fn a_json_patch_is_applied_where_its_tests_hold() {
    let client = cluster().await;
    let spec = json!({
        "reinvocationPolicy": "Never",
        "mutations": [
            patch("[JSONPatch{op: 'test', path: '/spec/replicas', value: 1}, JSONPatch{op: 'replace', path: '/spec/replicas', value: 3}]"),
            patch("has(object.metadata.annotations) ? [] : [JSONPatch{op: 'add', path: '/metadata/annotations', value: {}}]"),
            patch("[JSONPatch{op: 'add', path: '/metadata/annotations/' + jsonpatch.escapeKey('example.com/by'), value: 'policy'}]"),
        ],
    });
    change(&client, "annotate", spec).await;
    let web = created(&client, &deployment("shop", "web", 1)).await;
    assert_eq!(
        (&web["spec"]["replicas"], &web["metadata"]["annotations"]["example.com/by"]),
        (&json!(3), &json!("policy"))
    );
    let db = created(&client, &deployment("shop", "db", 2)).await;
    assert_eq!(db["spec"]["replicas"], 2);
}

#[tokio::test]
async fn a_policy_that_wants_to_sees_what_others_changed() {
    let client = cluster().await;
    let label = |key: &str, value: &str| {
        apply(&format!("Object{{metadata: Object.metadata{{labels: {{'{key}': {value}}}}}}}"))
    };
    let count = "has(object.metadata.labels) ? string(object.metadata.labels.size()) : '0'";
    let first = json!({ "reinvocationPolicy": "IfNeeded", "mutations": [label("first", count)] });
    change(&client, "a-first", first).await;
    let once = json!({ "reinvocationPolicy": "Never", "mutations": [label("once", count)] });
    change(&client, "b-once", once).await;
    let web = created(&client, &deployment("shop", "web", 1)).await;
    assert_eq!(web["metadata"]["labels"], json!({ "first": "2", "once": "1" }));
}

#[tokio::test]
async fn a_mutation_that_cannot_be_made_refuses() {
    for (mutation, why) in [
        (
            apply("Object{spec: Object.wrong{replicas: 1}}"),
            "type mismatch: unexpected type name \"Object.wrong\", expected \"Object.spec\", which matches field name path from root Object type",
        ),
        (
            apply("Object{spec: Object.spec{selector: Object.spec.selector{matchLabels: {'a': 'b'}}}}"),
            "error applying patch: invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: .spec.selector",
        ),
        (
            apply("Object{spec: Object.spec{nothing: 1}}"),
            "error applying patch: failed to convert patch object to typed object: .spec.nothing: field not declared in schema",
        ),
    ] {
        let client = cluster().await;
        change(&client, "broken", json!({ "reinvocationPolicy": "Never", "mutations": [mutation] })).await;
        let message = format!("policy 'broken' with binding 'broken' denied request: {why}");
        refused(client.create(&deployment("shop", "web", 1)).await, "Invalid", 403, &message);
    }
}

#[tokio::test]
async fn policies_do_not_apply_to_themselves() {
    let client = cluster().await;
    let spec = json!({
        "matchConstraints": { "resourceRules": [
            { "operations": ["*"], "apiGroups": ["*"], "apiVersions": ["*"], "resources": ["*"] },
        ] },
        "validations": [{ "expression": "false", "message": "nothing may be written" }],
    });
    let policy: ValidatingAdmissionPolicy = object(json!({ "metadata": { "name": "stop" }, "spec": spec }));
    client.create(&policy).await.expect("a policy");
    let binding: ValidatingAdmissionPolicyBinding = object(json!({
        "metadata": { "name": "stop" }, "spec": { "policyName": "stop", "validationActions": ["Deny"] },
    }));
    client.create(&binding).await.expect("a binding");
    client.create(&deployment("shop", "web", 1)).await.expect_err("everything is refused");
    client.delete::<ValidatingAdmissionPolicyBinding>("", "stop", Delete::default()).await.expect("but this");
    client.create(&deployment("shop", "web", 1)).await.expect("nothing is refused");
}

/// A call whose notes can be read.
fn noted<'a>(user: &'a User, served: &'a Served, name: &'a str, notes: &'a Notes) -> Call<'a> {
    Call { notes: Some(notes), ..Call::of(user, served, "shop", name) }
}

#[tokio::test]
async fn a_policy_that_only_audits_leaves_notes_for_the_log() {
    let client = cluster().await;
    let spec = json!({
        "validations": [{ "expression": "object.spec.replicas < 3", "message": "too many" }],
        "auditAnnotations": [
            { "key": "replicas", "valueExpression": "string(object.spec.replicas)" },
            { "key": "nothing", "valueExpression": "null" },
        ],
    });
    limit(&client, spec, json!({ "validationActions": ["Audit", "Warn"] })).await;
    let served = client.registry().kinds().of::<Deployment>().cloned().expect("served");
    let (user, notes) = (User::internal("system:apiserver"), Notes::new(true));
    let call = noted(&user, &served, "", &notes);
    client.registry().create(&call, Box::new(deployment("shop", "web", 4))).await.expect("it is let pass");
    assert_eq!(
        notes.take_warnings(),
        ["Validation failed for ValidatingAdmissionPolicy 'limits' with binding 'limits': too many"]
    );
    let annotations = notes.take_annotations();
    assert_eq!(
        annotations.keys().collect::<Vec<_>>(),
        ["limits/replicas", "validation.policy.admission.k8s.io/validation_failure"]
    );
    assert_eq!(annotations["limits/replicas"].1, "4");
    assert_eq!(
        annotations["validation.policy.admission.k8s.io/validation_failure"].1,
        r#"[{"message":"too many","policy":"limits","binding":"limits","expressionIndex":0,"validationActions":["Audit","Warn"]}]"#
    );
}

#[tokio::test]
async fn a_deletion_can_be_warned_of() {
    let client = cluster().await;
    client.create(&deployment("shop", "web", 1)).await.expect("created");
    let validations = json!([{ "expression": "request.operation != 'DELETE'", "message": "think again" }]);
    limit(&client, json!({ "validations": validations }), json!({ "validationActions": ["Warn"] })).await;
    let served = client.registry().kinds().of::<Deployment>().cloned().expect("served");
    let (user, notes) = (User::internal("system:apiserver"), Notes::new(false));
    let call = noted(&user, &served, "web", &notes);
    client.registry().delete(&call, &Delete::default()).await.expect("it is let pass");
    assert_eq!(
        notes.take_warnings(),
        ["Validation failed for ValidatingAdmissionPolicy 'limits' with binding 'limits': think again"]
    );
}

#[tokio::test]
async fn what_is_sent_to_an_object_can_be_changed_too() {
    let client = cluster().await;
    let rule = json!({
        "operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods/binding"],
    });
    let spec = json!({
        "matchConstraints": { "resourceRules": [rule] },
        "reinvocationPolicy": "Never",
        "mutations": [
            patch("[JSONPatch{op: 'replace', path: '/target/name', value: object.target.name + '-b'}]"),
            apply("Object{metadata: Object.metadata{annotations: {'moved': 'yes'}}}"),
        ],
    });
    let policy: MutatingAdmissionPolicy = object(json!({ "metadata": { "name": "move" }, "spec": spec }));
    client.create(&policy).await.expect("a policy");
    let bound: MutatingAdmissionPolicyBinding =
        object(json!({ "metadata": { "name": "move" }, "spec": { "policyName": "move" } }));
    client.create(&bound).await.expect("a binding");
    let pod: Pod = object(json!({
        "metadata": { "name": "web", "namespace": "shop" },
        "spec": { "serviceAccountName": "default", "containers": [{ "name": "web", "image": "hello.wasm" }] },
    }));
    let account = json!({ "metadata": { "name": "default", "namespace": "shop" } });
    client.create(&object::<ServiceAccount>(account)).await.expect("an account");
    client.create(&pod).await.expect("a pod");
    client.bind("shop", "web", "", "amber").await.expect("bound");
    let entry = client.store().snapshot().get(&Key::new("pods", "shop", "web")).expect("the pod");
    let pod: std::sync::Arc<Pod> = entry.typed().expect("typed");
    assert_eq!(pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()), Some("amber-b"));
    assert_eq!(pod.metadata.annotations.as_ref().map(|of| of["moved"].as_str()), Some("yes"));
}
