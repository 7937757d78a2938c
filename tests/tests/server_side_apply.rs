//! Server-side apply with stock kubectl and with the `kube` client: who owns what, and who may change it.

use k8s_openapi::api::{
    apps::v1::Deployment,
    autoscaling::v1::Scale,
    core::v1::{ConfigMap, Pod},
};
use kube::{
    Api,
    api::{Patch, PatchParams, PostParams},
};
use naru_tests::{Cluster, Kubectl, eventually};
use serde_json::{Value, json};

const WEB: &str = "\
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {app: web}}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      schedulerName: nobody
      containers:
      - name: web
        image: hello:v1
        ports: [{containerPort: 8080}]
";

/// The entries of `metadata.managedFields`, as kubectl shows them when asked to.
fn managers(kubectl: &Kubectl, object: &str) -> Vec<Value> {
    let json = kubectl.run(&["get", object, "-o", "json", "--show-managed-fields"]).ok();
    let mut object: Value = serde_json::from_str(&json).expect("json");
    match object["metadata"]["managedFields"].take() {
        Value::Array(entries) => entries,
        _ => Vec::new(),
    }
}

/// The fields of one manager.
fn fields_of(kubectl: &Kubectl, object: &str, manager: &str, operation: &str) -> Value {
    let all = managers(kubectl, object);
    let is_wanted = |entry: &&Value| entry["manager"] == manager && entry["operation"] == operation;
    all.iter().find(is_wanted).map_or(Value::Null, |entry| entry["fieldsV1"].clone())
}

fn version(kubectl: &Kubectl, object: &str) -> String {
    kubectl.run(&["get", object, "-o", "jsonpath={.metadata.resourceVersion} {.metadata.generation}"]).ok()
}

#[test]
fn kubectl_applies_on_the_server() {
    let cluster = Cluster::start();
    for (index, kubectl) in cluster.kubectls().iter().enumerate() {
        let namespace = format!("shop{index}");
        kubectl.run(&["create", "namespace", &namespace]).ok();
        kubectl.run(&["config", "set-context", "--current", "--namespace", &namespace]).ok();
        kubectl.run(&["wait", "--for=create", "serviceaccount/default", "--timeout=30s"]).ok();
        applied_objects_have_owners(kubectl);
        client_side_apply_migrates(kubectl);
        dry_runs_and_diffs_keep_nothing(kubectl);
    }
}

fn applied_objects_have_owners(kubectl: &Kubectl) {
    let apply = |yaml: &str, args: &[&str]| {
        kubectl.run_with(&[&["apply", "--server-side", "-f", "-"], args].concat(), yaml)
    };
    assert_eq!(apply(WEB, &[]).ok(), "deployment.apps/web serverside-applied\n");
    let mine = fields_of(kubectl, "deploy/web", "kubectl", "Apply");
    assert_eq!(
        mine,
        json!({
            "f:metadata": { "f:labels": { "f:app": {} } },
            "f:spec": {
                "f:replicas": {},
                "f:selector": {},
                "f:template": {
                    "f:metadata": { "f:labels": { "f:app": {} } },
                    "f:spec": {
                        "f:schedulerName": {},
                        "f:containers": { "k:{\"name\":\"web\"}": {
                            ".": {}, "f:name": {}, "f:image": {},
                            "f:ports": { "k:{\"containerPort\":8080,\"protocol\":\"TCP\"}": { ".": {}, "f:containerPort": {} } },
                        } },
                    },
                },
            },
        })
    );
    let yaml = kubectl.run(&["get", "deploy", "web", "-o", "yaml"]).ok();
    assert!(!yaml.contains("managedFields"), "hidden unless asked for: {yaml}");

    // The controller owns what it reports, in a subresource; applying again changes nothing.
    kubectl
        .run(&["wait", "--for=jsonpath={.status.unavailableReplicas}=2", "deploy/web", "--timeout=60s"])
        .ok();
    kubectl
        .run(&["wait", "--for=jsonpath={.status.observedGeneration}=1", "deploy/web", "--timeout=60s"])
        .ok();
    let all = managers(kubectl, "deploy/web");
    let reporter = all.iter().find(|entry| entry["subresource"] == "status").expect("a reporter");
    assert_eq!(
        (&reporter["manager"], &reporter["operation"]),
        (&json!("kube-controller-manager"), &json!("Update"))
    );
    assert!(reporter["fieldsV1"]["f:status"]["f:unavailableReplicas"].is_object(), "{reporter}");
    let before = version(kubectl, "deploy/web");
    apply(WEB, &[]).ok();
    assert_eq!(version(kubectl, "deploy/web"), before);

    // Somebody scales; who applied must say that it wants its number back.
    kubectl.run(&["scale", "deploy/web", "--replicas=1"]).ok();
    let all = managers(kubectl, "deploy/web");
    let scaler = all.iter().find(|entry| entry["subresource"] == "scale").expect("a scaler");
    assert_eq!(scaler["fieldsV1"], json!({ "f:spec": { "f:replicas": {} } }));
    let refusal = apply(WEB, &[]).refused();
    // A client is known by its program's name.
    let conflict = format!(
        "Apply failed with 1 conflict: conflict with {} with subresource \"scale\" using apps/v1: .spec.replicas",
        scaler["manager"]
    );
    assert!(refusal.contains(&conflict), "{refusal}");
    assert!(refusal.contains("--force-conflicts"), "kubectl understands the conflict: {refusal}");
    apply(WEB, &["--force-conflicts"]).ok();
    let replicas = kubectl.run(&["get", "deploy", "web", "-o", "jsonpath={.spec.replicas}"]).ok();
    assert_eq!(replicas, "2");

    // A second manager adds a container; neither removes the other's when it lets go of its own.
    let sidecar = "\
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, annotations: {team: mesh}}
spec:
  template:
    spec:
      containers:
      - {name: proxy, image: proxy:v1}
";
    apply(sidecar, &["--field-manager=mesh"]).ok();
    let names = || {
        kubectl.run(&["get", "deploy", "web", "-o", "jsonpath={.spec.template.spec.containers[*].name}"]).ok()
    };
    assert_eq!(names(), "web proxy");
    let without_label = WEB.replace(", labels: {app: web}}\nspec", "}\nspec");
    apply(&without_label, &[]).ok();
    assert_eq!(names(), "web proxy");
    let metadata = kubectl
        .run(&["get", "deploy", "web", "-o", "jsonpath={.metadata.labels} {.metadata.annotations.team}"])
        .ok();
    assert_eq!(metadata, " mesh");
    let without_sidecar = sidecar.split("spec:").next().expect("a head");
    apply(without_sidecar, &["--field-manager=mesh"]).ok();
    assert_eq!(names(), "web");

    // What does not fit is refused with its place.
    let refusal = apply(&WEB.replace("replicas:", "replica:"), &[]).refused();
    assert!(refusal.contains(".spec.replica: field not declared in schema"), "{refusal}");
    let clear = r#"[{"op":"replace","path":"/metadata/managedFields","value":[{}]}]"#;
    kubectl.run(&["patch", "deploy", "web", "--type=json", "-p", clear]).ok();
    eventually_settles(kubectl);
    assert_eq!(managers(kubectl, "deploy/web"), [] as [Value; 0], "an empty entry clears them");
    apply(WEB, &["--force-conflicts"]).ok();
    assert!(fields_of(kubectl, "deploy/web", "before-first-apply", "Update")["f:spec"].is_object());
    kubectl.run(&["delete", "deploy", "web"]).ok();
}

/// Waits until the controller has nothing more to report.
fn eventually_settles(kubectl: &Kubectl) {
    let path = "-o=jsonpath={.metadata.generation} {.status.observedGeneration}";
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(eventually("the deployment is observed", async || {
        let text = kubectl.run(&["get", "deploy", "web", path]).ok();
        let (wanted, seen) = text.split_once(' ').unwrap_or_default();
        if wanted == seen { Ok(()) } else { Err(text) }
    }));
}

fn client_side_apply_migrates(kubectl: &Kubectl) {
    let map = |value: &str| {
        format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: prices}}\ndata: {{tea: '{value}', cake: '5'}}\n"
        )
    };
    kubectl.apply(&map("1"));
    let old = fields_of(kubectl, "cm/prices", "kubectl-client-side-apply", "Update");
    assert_eq!(old["f:data"], json!({ ".": {}, "f:tea": {}, "f:cake": {} }));
    let apply = |yaml: &str| kubectl.run_with(&["apply", "--server-side", "-f", "-"], yaml).ok();
    apply(&map("2"));
    let new = fields_of(kubectl, "cm/prices", "kubectl", "Apply");
    assert_eq!(new["f:data"]["f:tea"], json!({}), "{new}");
    assert_eq!(fields_of(kubectl, "cm/prices", "kubectl-client-side-apply", "Update"), Value::Null);
    // What is no longer applied goes, though it was set from the client's side.
    apply("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: prices}\ndata: {tea: '2'}\n");
    assert_eq!(kubectl.run(&["get", "cm", "prices", "-o", "jsonpath={.data}"]).ok(), r#"{"tea":"2"}"#);
    // And back again.
    assert_eq!(kubectl.apply(&map("3")), "configmap/prices configured\n");
    assert_eq!(kubectl.run(&["get", "cm", "prices", "-o", "jsonpath={.data.tea}{.data.cake}"]).ok(), "35");
}

fn dry_runs_and_diffs_keep_nothing(kubectl: &Kubectl) {
    let map = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: dry}\ndata: {a: '1'}\n";
    let dry = ["apply", "--server-side", "--dry-run=server", "-f", "-"];
    assert_eq!(kubectl.run_with(&dry, map).ok(), "configmap/dry serverside-applied (server dry run)\n");
    kubectl.run(&["get", "cm", "dry"]).refused();
    kubectl.run_with(&["apply", "--server-side", "-f", "-"], map).ok();
    let before = version(kubectl, "cm/dry");
    let changed = map.replace("'1'", "'2'");
    let diff = kubectl.run_with(&["diff", "--server-side", "-f", "-"], &changed);
    assert_eq!(diff.code, 1, "{}", diff.stderr);
    assert!(diff.stdout.contains("-  a: \"1\"\n+  a: \"2\""), "{}", diff.stdout);
    let same = kubectl.run_with(&["diff", "--server-side", "-f", "-"], map);
    assert_eq!((same.code, same.stdout.as_str()), (0, ""), "{}", same.stderr);
    assert_eq!(version(kubectl, "cm/dry"), before);
}

#[tokio::test]
async fn rust_clients_apply_typed_objects_and_parts_of_them() {
    let cluster = Cluster::start();
    let client = cluster.client().await;
    let maps: Api<ConfigMap> = Api::default_namespaced(client.clone());
    let params = PatchParams::apply("operator");
    let map = |data: Value| json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "m" }, "data": data });

    let made =
        maps.patch("m", &params, &Patch::Apply(map(json!({ "a": "1", "b": "2" })))).await.expect("created");
    assert!(made.metadata.uid.is_some() && made.metadata.resource_version.is_some());
    let same =
        maps.patch("m", &params, &Patch::Apply(map(json!({ "a": "1", "b": "2" })))).await.expect("applied");
    assert_eq!(same.metadata.resource_version, made.metadata.resource_version, "nothing changed");

    let other = PatchParams::apply("rival");
    let conflict = maps.patch("m", &other, &Patch::Apply(map(json!({ "a": "9", "c": "3" })))).await;
    let Err(kube::Error::Api(status)) = conflict else { panic!("a conflict: {conflict:?}") };
    assert_eq!((status.code, status.reason.as_str()), (409, "Conflict"));
    assert_eq!(status.message, "Apply failed with 1 conflict: conflict with \"operator\": .data.a");
    let details = status.details.as_ref().expect("details");
    assert_eq!((&*details.causes[0].reason, &*details.causes[0].field), ("FieldManagerConflict", ".data.a"));

    // Shared fields need no force, and go when the last who wants them lets go.
    maps.patch("m", &other, &Patch::Apply(map(json!({ "a": "1" })))).await.expect("the same value");
    let left = maps.patch("m", &params, &Patch::Apply(map(json!({ "b": "2" })))).await.expect("applied");
    assert_eq!(json!(left.data), json!({ "a": "1", "b": "2" }));
    let left = maps.patch("m", &other, &Patch::Apply(map(json!({})))).await.expect("applied");
    assert_eq!(json!(left.data), json!({ "b": "2" }));

    // An update of a stale copy is refused; one of the fresh copy takes over what it changes.
    let mut fresh = maps.get("m").await.expect("there");
    fresh.data.get_or_insert_default().insert("b".into(), "7".into());
    maps.replace("m", &PostParams { field_manager: Some("editor".into()), ..PostParams::default() }, &fresh)
        .await
        .expect("replaced");
    let error =
        maps.patch("m", &params, &Patch::Apply(map(json!({ "b": "2" })))).await.expect_err("a conflict");
    assert!(error.to_string().contains("conflict with \"editor\" using v1: .data.b"), "{error}");
    maps.patch("m", &params.clone().force(), &Patch::Apply(map(json!({ "b": "2" }))))
        .await
        .expect("by force");

    // Without a manager there is no apply.
    let error = maps
        .patch("m", &PatchParams::default(), &Patch::Apply(map(json!({}))))
        .await
        .expect_err("no manager");
    assert!(
        error.to_string().contains("fieldManager: Required value: is required for apply patch"),
        "{error}"
    );

    statuses_and_scales_are_applied(client).await;
}

async fn statuses_and_scales_are_applied(client: kube::Client) {
    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    let params = PatchParams::apply("operator");
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "p" },
        "spec": { "schedulerName": "nobody", "containers": [{ "name": "c", "image": "hello:v1" }] },
    });
    pods.patch("p", &params, &Patch::Apply(&pod)).await.expect("created");
    let status = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "p" },
        "status": { "conditions": [{ "type": "example.com/Gate", "status": "True" }] },
    });
    let pod =
        pods.patch_status("p", &PatchParams::apply("gate"), &Patch::Apply(&status)).await.expect("applied");
    let conditions = pod.status.and_then(|status| status.conditions).unwrap_or_default();
    assert!(conditions.iter().any(|condition| condition.type_ == "example.com/Gate"));
    let entries = pod.metadata.managed_fields.unwrap_or_default();
    let gate = entries.iter().find(|entry| entry.manager.as_deref() == Some("gate")).expect("an entry");
    assert_eq!(gate.subresource.as_deref(), Some("status"));
    let missing = pods
        .patch_status(
            "none",
            &PatchParams::apply("gate"),
            &Patch::Apply(&json!({
                "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "none" }, "status": {},
            })),
        )
        .await
        .expect_err("no such pod");
    assert!(missing.to_string().contains("not found"), "{missing}");

    let deployments: Api<Deployment> = Api::default_namespaced(client);
    let deployment: Value = serde_yaml::from_str(WEB).expect("yaml");
    deployments.patch("web", &params, &Patch::Apply(&deployment)).await.expect("created");
    let scale = |replicas: i32| {
        json!({
            "apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": { "name": "web" }, "spec": { "replicas": replicas },
        })
    };
    let scaler = PatchParams::apply("scaler");
    let error =
        deployments.patch_scale("web", &scaler, &Patch::Apply(scale(0))).await.expect_err("a conflict");
    assert!(error.to_string().contains("conflict with \"operator\": .spec.replicas"), "{error}");
    let scaled: Scale =
        deployments.patch_scale("web", &scaler.force(), &Patch::Apply(scale(0))).await.expect("forced");
    assert_eq!(scaled.spec.and_then(|spec| spec.replicas), Some(0));
}
