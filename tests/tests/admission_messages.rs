//! What is sent to objects and is none itself (evictions, bindings, connections), as admission warns of it, refuses it
//! and changes it.

use naru_tests::{
    Cluster, Kubectl,
    api::{Api, JSON},
    reviews::{ReviewServer, configuration, patch, rule},
};
use serde_json::{Value, json};

/// A pod that no node takes.
fn pod(kubectl: &Kubectl, name: &str) {
    kubectl.run(&["wait", "--for=create", "serviceaccount/default", "--timeout=30s"]).ok();
    kubectl.apply(&format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  nodeSelector: {{kubernetes.io/hostname: \
         nowhere}}\n  containers:\n  - {{name: web, image: 'hello:v1'}}\n  - {{name: side, image: 'hello:v1'}}\n"
    ));
}

/// A policy that only warns, of whatever matches `rule`.
fn warn_of(kubectl: &Kubectl, name: &str, rule: &str, expression: &str) {
    kubectl.apply(&format!(
        "\
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {{name: {name}}}
spec:
  matchConstraints: {{resourceRules: [{{apiGroups: [''], apiVersions: [v1], {rule}}}]}}
  validations: [{{expression: \"{expression}\", message: think again}}]
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {{name: {name}}}
spec: {{policyName: {name}, validationActions: [Warn]}}
"
    ));
}

fn warning(name: &str) -> String {
    format!("Validation failed for ValidatingAdmissionPolicy '{name}' with binding '{name}': think again")
}

#[tokio::test(flavor = "multi_thread")]
async fn warnings_of_everything_reach_the_client() {
    let server = ReviewServer::start(|_, request| {
        json!({ "allowed": request["subResource"] != "binding", "warnings": ["a webhook saw it"] })
    })
    .await;
    let cluster = Cluster::start();
    let kubectl = cluster.kubectl();
    let all = rule(
        &[""],
        &["v1"],
        &["configmaps", "pods/eviction", "pods/binding", "pods/exec"],
        &["CREATE", "DELETE", "CONNECT"],
    );
    let here =
        json!({ "namespaceSelector": { "matchLabels": { "kubernetes.io/metadata.name": "default" } } });
    pod(&kubectl, "web");
    kubectl.run(&["create", "configmap", "gone"]).ok();
    kubectl.apply(&configuration("Validating", "all", &server.client("/all"), all, here));
    warn_of(&kubectl, "deletions", "operations: [DELETE], resources: [configmaps]", "oldObject == null");
    warn_of(
        &kubectl,
        "evictions",
        "operations: [CREATE], resources: [pods/eviction]",
        "object.kind != 'Eviction'",
    );
    warn_of(&kubectl, "shells", "operations: [CONNECT], resources: [pods/exec]", "object.command != ['sh']");

    let deleted = kubectl.run(&["delete", "configmap", "gone"]);
    assert!(deleted.stderr.contains(&format!("Warning: {}", warning("deletions"))), "{deleted:?}");
    assert!(deleted.stderr.contains("Warning: a webhook saw it"), "{deleted:?}");
    deleted.ok();
    // Whoever is refused is warned, too; and a connection that comes to nothing.
    let shell = kubectl.run(&["exec", "web", "-c", "web", "--", "sh"]);
    assert!(shell.stderr.contains("does not have a host assigned"), "{shell:?}");

    let api = Api::of(&cluster).await;
    let warnings = async |method: &str, path: &str, body: Value| {
        let reply = api.send(method, path, &[("content-type", JSON)], body.to_string()).await;
        let texts = reply.headers.get_all("warning").into_iter();
        let texts: Vec<String> =
            texts.map(|text| String::from_utf8_lossy(text.as_bytes()).into_owned()).collect();
        (reply.status, texts)
    };
    let webhooks = "299 - \"a webhook saw it\"".to_owned();
    let path = "/api/v1/namespaces/default/pods/web";
    let binding = json!({ "metadata": { "name": "web" }, "target": { "kind": "Node", "name": "nowhere" } });
    assert_eq!(warnings("POST", &format!("{path}/binding"), binding).await, (400, vec![webhooks.clone()]));
    let (status, texts) =
        warnings("POST", &format!("{path}/exec?command=sh&container=web"), Value::Null).await;
    let shells = format!("299 - \"{}\"", warning("shells"));
    assert_eq!((status, texts), (400, vec![shells, webhooks.clone()]));
    let eviction = json!({ "apiVersion": "policy/v1", "kind": "Eviction", "metadata": { "name": "web" } });
    let evictions = format!("299 - \"{}\"", warning("evictions"));
    let evicted = warnings("POST", &format!("{path}/eviction"), eviction).await;
    assert_eq!(evicted, (201, vec![evictions, webhooks]));
}

#[tokio::test(flavor = "multi_thread")]
async fn webhooks_and_policies_change_what_is_sent() {
    let server = ReviewServer::start(|path, request| match path {
        "/evict" => {
            assert_eq!(request["kind"]["kind"], "Eviction");
            assert_eq!(request["object"]["metadata"]["name"], "web");
            patch(&json!([{ "op": "add", "path": "/deleteOptions", "value": { "dryRun": ["All"] } }]))
        }
        "/bind" => patch(&json!([{ "op": "replace", "path": "/target/name", "value": "elsewhere" }])),
        "/exec" => patch(&json!([{ "op": "replace", "path": "/container", "value": "none" }])),
        "/broken" => patch(&json!([{ "op": "replace", "path": "/target", "value": 1 }])),
        _ => json!({ "allowed": true }),
    })
    .await;
    let cluster = Cluster::start();
    let kubectl = cluster.kubectl();
    pod(&kubectl, "web");
    let hook = |name: &str, resource: &str, operation: &str| {
        let rule = rule(&[""], &["v1"], &[resource], &[operation]);
        kubectl.apply(&configuration("Mutating", name, &server.client(&format!("/{name}")), rule, json!({})));
    };
    hook("evict", "pods/eviction", "CREATE");
    hook("exec", "pods/exec", "CONNECT");
    let api = Api::of(&cluster).await;
    let send = async |path: &str, body: Value| {
        let path = format!("/api/v1/namespaces/default/pods/web/{path}");
        let reply = api.send("POST", &path, &[("content-type", JSON)], body.to_string()).await;
        (reply.status, String::from_utf8_lossy(&reply.bytes).into_owned())
    };
    // What was to delete the pod became a trial.
    let eviction = json!({ "apiVersion": "policy/v1", "kind": "Eviction", "metadata": { "name": "web" } });
    assert_eq!(send("eviction", eviction).await.0, 201);
    assert_eq!(kubectl.pod_field("web", ".metadata.deletionTimestamp"), "");
    // A connection leads to the container that the webhook chose, which there is none of.
    let (status, text) = send("exec?command=sh&container=web", Value::Null).await;
    assert!(status == 400 && text.contains("container none is not valid for pod web"), "{status} {text}");

    // A binding is sent to another node, and annotated by a policy.
    kubectl.apply(
        r#"
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingAdmissionPolicy
metadata: {name: note}
spec:
  matchConstraints: {resourceRules: [{apiGroups: [''], apiVersions: [v1], operations: [CREATE], resources: [pods/binding]}]}
  reinvocationPolicy: IfNeeded
  mutations:
  - patchType: ApplyConfiguration
    applyConfiguration: {expression: "Object{metadata: Object.metadata{annotations: {'to': object.target.name}}}"}
---
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingAdmissionPolicyBinding
metadata: {name: note}
spec: {policyName: note}
"#,
    );
    hook("broken", "pods/binding", "CREATE");
    let binding = json!({ "apiVersion": "v1", "kind": "Binding", "metadata": { "name": "web" }, "target": { "kind": "Node", "name": "naru-1" } });
    let (status, text) = send("binding", binding.clone()).await;
    assert!(
        status == 500
            && text.contains("\"message\":\"Internal error occurred: ")
            && !text.contains("broken.example.com"),
        "{text}"
    );
    kubectl.run(&["delete", "mutatingwebhookconfiguration", "broken"]).ok();
    hook("bind", "pods/binding", "CREATE");
    assert_eq!(send("binding", binding).await.0, 201);
    assert_eq!(kubectl.pod_field("web", ".spec.nodeName"), "elsewhere");
    // The policy came first, and was asked again after the webhook had changed the node.
    assert_eq!(kubectl.pod_field("web", ".metadata.annotations.to"), "elsewhere");
}
