//! Servers that are asked before anything is written, as policy engines and sidecar injectors are.

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use naru_tests::{
    Cluster, Kubectl,
    reviews::{ReviewServer, allow, configuration, patch, rule},
};
use serde_json::{Value, json};

fn shop(kubectl: &Kubectl) {
    kubectl.run(&["create", "namespace", "shop"]).ok();
    kubectl.run(&["-n", "shop", "wait", "--for=create", "serviceaccount/default", "--timeout=30s"]).ok();
}

fn in_shop() -> Value {
    json!({ "matchLabels": { "kubernetes.io/metadata.name": "shop" } })
}

/// A pod that no node takes.
const POD: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec:\n  nodeSelector: {kubernetes.io/hostname: \
                   nowhere}\n  containers:\n  - {name: web, image: 'hello:v1'}\n";

#[tokio::test(flavor = "multi_thread")]
async fn what_a_webhook_adds_is_defaulted_and_shown_to_those_before_it() {
    let server = ReviewServer::start(|path, request| match path {
        "/label" => {
            let containers = request["object"]["spec"]["containers"].as_array().map_or(0, Vec::len);
            let count = json!([{ "op": "add", "path": "/metadata/labels", "value": { "containers": containers.to_string() } }]);
            let mut response = patch(&count);
            response["warnings"] = json!([format!("{containers} counted")]);
            response
        }
        "/sidecar" => {
            let containers = request["object"]["spec"]["containers"].as_array().expect("containers");
            if containers.iter().any(|container| container["name"] == "sidecar") {
                return allow();
            }
            let sidecar = json!({ "name": "sidecar", "image": "proxy:v1" });
            patch(&json!([{ "op": "add", "path": "/spec/containers/-", "value": sidecar }]))
        }
        _ => json!({ "allowed": false }),
    })
    .await;
    let cluster = Cluster::start();
    let kubectl = cluster.kubectl();
    shop(&kubectl);
    kubectl
        .run_with(
            &["-n", "shop", "create", "-f", "-"],
            "apiVersion: v1\nkind: LimitRange\nmetadata: {name: bounds}\nspec: {limits: [{type: Container, default: \
             {cpu: 500m}}]}\n",
        )
        .ok();
    let pods = || rule(&[""], &["v1"], &["pods"], &["CREATE"]);
    let again = json!({ "namespaceSelector": in_shop(), "reinvocationPolicy": "IfNeeded" });
    kubectl.apply(&configuration("Mutating", "a-label", &server.client("/label"), pods(), again));
    let once = json!({ "namespaceSelector": in_shop() });
    kubectl.apply(&configuration("Mutating", "b-sidecar", &server.client("/sidecar"), pods(), once));

    // Nothing is written in a dry run, and webhooks are told.
    let dry = kubectl.run_with(&["-n", "shop", "create", "--dry-run=server", "-o", "json", "-f", "-"], POD);
    let dry: Value = serde_json::from_str(&dry.ok()).expect("a pod");
    assert_eq!(dry["spec"]["containers"][1]["name"], "sidecar");
    assert!(server.take("/label").iter().all(|request| request["dryRun"] == true));
    server.take("/sidecar");
    kubectl.run(&["-n", "shop", "get", "pod", "web"]).refused();

    let created = kubectl.run_with(&["-n", "shop", "apply", "--server-side", "-f", "-"], POD);
    assert!(created.stderr.contains("Warning: 1 counted") && created.stderr.contains("Warning: 2 counted"));
    created.ok();
    let pod: Value =
        serde_json::from_str(&kubectl.run(&["-n", "shop", "get", "pod", "web", "-o", "json"]).ok())
            .expect("a pod");
    assert_eq!(pod["metadata"]["labels"], json!({ "containers": "2" }));
    // What came late is defaulted, limited and given a token like the rest.
    let sidecar = &pod["spec"]["containers"][1];
    assert_eq!(sidecar["imagePullPolicy"], "IfNotPresent");
    assert_eq!(sidecar["resources"]["limits"], json!({ "cpu": "500m" }));
    assert_eq!(sidecar["volumeMounts"], pod["spec"]["containers"][0]["volumeMounts"]);
    assert_eq!(sidecar["volumeMounts"].as_array().map(Vec::len), Some(1));
    // The first webhook was asked again, as the second changed what it had seen; the second was not.
    let asked = server.take("/label");
    assert_eq!(asked.len(), 2, "{asked:#?}");
    assert_eq!(server.take("/sidecar").len(), 1);
    let request = &asked[0];
    assert_eq!(
        (&request["operation"], &request["name"], &request["namespace"], &request["oldObject"]),
        (&json!("CREATE"), &json!("web"), &json!("shop"), &Value::Null)
    );
    assert_eq!(request["resource"], json!({ "group": "", "version": "v1", "resource": "pods" }));
    assert_eq!(request["userInfo"]["username"], "kubernetes-admin");
    assert_eq!(request["object"]["metadata"].get("uid"), None, "it is not born yet");
    // The same again changes nothing, and nobody owns what webhooks added.
    kubectl.run_with(&["-n", "shop", "apply", "--server-side", "-f", "-"], POD).ok();
    let owned = kubectl.run(&["-n", "shop", "get", "pod", "web", "--show-managed-fields", "-o", "json"]).ok();
    let owned: Value = serde_json::from_str(&owned).expect("a pod");
    assert!(!owned["metadata"]["managedFields"].to_string().contains("sidecar"));

    // A pod of a name to be made has none yet.
    let unnamed = POD.replace("name: web}", "generateName: web-}");
    kubectl.run_with(&["-n", "shop", "create", "-f", "-"], &unnamed).ok();
    let asked = server.take("/label");
    assert_eq!((asked[0].get("name"), asked[0]["object"]["metadata"].get("name")), (None, None));
    // Elsewhere nobody is asked.
    kubectl.run_with(&["create", "-f", "-"], POD).ok();
    assert!(server.take("/label").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_refuses_and_says_why() {
    let server = ReviewServer::start(|path, request| match path {
        "/maps" => {
            let refusal = |message: &str| {
                let status = json!({ "code": 403, "reason": "Forbidden", "message": message });
                json!({ "allowed": false, "status": status })
            };
            let color = |object: &str| request[object]["data"]["color"].as_str().unwrap_or_default().to_owned();
            match request["operation"].as_str().unwrap_or_default() {
                "DELETE" if color("oldObject") == "gold" => refusal("gold stays"),
                "UPDATE" if color("oldObject") != color("object") => refusal("colors do not change"),
                "CREATE" if color("object") == "red" => json!({ "allowed": false }),
                _ => allow(),
            }
        }
        "/scale" => {
            let is_fine = request["object"]["kind"] == "Scale" && request["object"]["spec"]["replicas"] == 0;
            json!({ "allowed": is_fine, "status": { "message": "none may run" } })
        }
        "/evict" => json!({ "allowed": request["object"]["kind"] != "Eviction" }),
        "/exec" => json!({ "allowed": request["object"]["command"] != json!(["sh"]) || request["operation"] != "CONNECT" }),
        "/autoscalers" => patch(&json!([{ "op": "replace", "path": "/spec/metrics/0/resource/target/averageUtilization", "value": 33 }])),
        _ => json!({ "allowed": false }),
    })
    .await;
    let cluster = Cluster::start();
    let kubectl = cluster.kubectl();
    shop(&kubectl);
    let maps = rule(&["*"], &["*"], &["configmaps"], &["CREATE", "UPDATE", "DELETE"]);
    let fields = json!({
        "namespaceSelector": in_shop(),
        "objectSelector": { "matchExpressions": [{ "key": "free", "operator": "DoesNotExist" }] },
    });
    kubectl.apply(&configuration("Validating", "maps", &server.client("/maps"), maps, fields));
    let map = |name: &str, color: &str| {
        kubectl.run(&["-n", "shop", "create", "configmap", name, &format!("--from-literal=color={color}")])
    };
    assert_eq!(
        map("red", "red").refused(),
        "error: failed to create configmap: admission webhook \"maps.example.com\" denied the request without explanation\n"
    );
    map("gold", "gold").ok();
    let merge = |text: &str| kubectl.run(&["-n", "shop", "patch", "cm", "gold", "--type=merge", "-p", text]);
    assert_eq!(
        merge(r#"{"data":{"color":"blue"}}"#).refused(),
        "Error from server (Forbidden): admission webhook \"maps.example.com\" denied the request: colors do not change\n"
    );
    merge(r#"{"data":{"size":"1"}}"#).ok();
    assert!(kubectl.run(&["-n", "shop", "delete", "cm", "gold"]).refused().contains("gold stays"));
    // Who is free of it before the change may still be asked, and after it no more.
    merge(r#"{"metadata":{"labels":{"free":"yes"}}}"#).ok();
    merge(r#"{"data":{"color":"blue"}}"#).ok();
    kubectl.run(&["-n", "shop", "delete", "cm", "gold"]).ok();

    // Subresources have forms of their own.
    kubectl.run(&["-n", "shop", "create", "deployment", "web", "--image=hello:v1", "--replicas=0"]).ok();
    let scale = rule(&["apps"], &["v1"], &["deployments/scale"], &["UPDATE"]);
    kubectl.apply(&configuration("Validating", "scale", &server.client("/scale"), scale, json!({})));
    let refused = kubectl.run(&["-n", "shop", "scale", "deployment", "web", "--replicas=1"]).refused();
    assert!(refused.contains("\"scale.example.com\" denied the request: none may run"), "{refused}");
    kubectl.run(&["-n", "shop", "scale", "deployment", "web", "--replicas=0"]).ok();
    let evictions = rule(&[""], &["*"], &["pods/eviction"], &["CREATE"]);
    kubectl.apply(&configuration("Validating", "evict", &server.client("/evict"), evictions, json!({})));
    kubectl.run_with(&["-n", "shop", "create", "-f", "-"], POD).ok();
    let eviction =
        r#"{"apiVersion":"policy/v1","kind":"Eviction","metadata":{"name":"web","namespace":"shop"}}"#;
    let path = "/api/v1/namespaces/shop/pods/web/eviction";
    let refused = kubectl.run_with(&["create", "--raw", path, "-f", "-"], eviction).refused();
    assert!(refused.contains("evict.example.com"), "{refused}");
    kubectl.run(&["-n", "shop", "get", "pod", "web"]).ok();

    let shells = rule(&[""], &["v1"], &["pods/exec"], &["CONNECT"]);
    kubectl.apply(&configuration("Validating", "exec", &server.client("/exec"), shells, json!({})));
    let refused = kubectl.run(&["-n", "shop", "exec", "web", "--", "sh"]).refused();
    assert!(refused.contains("exec.example.com"), "{refused}");
    let refused = kubectl.run(&["-n", "shop", "exec", "web", "--", "ls"]).refused();
    assert!(refused.contains("does not have a host assigned"), "{refused}");

    // A rule for one version is about the others, too, in the form that it knows.
    let newest = rule(&["autoscaling"], &["v2"], &["horizontalpodautoscalers"], &["CREATE"]);
    kubectl.apply(&configuration(
        "Mutating",
        "autoscalers",
        &server.client("/autoscalers"),
        newest,
        json!({}),
    ));
    let scaler = "apiVersion: autoscaling/v1\nkind: HorizontalPodAutoscaler\nmetadata: {name: web}\nspec: \
                  {maxReplicas: 3, targetCPUUtilizationPercentage: 50, scaleTargetRef: {apiVersion: apps/v1, kind: \
                  Deployment, name: web}}\n";
    kubectl.run_with(&["-n", "shop", "create", "-f", "-"], scaler).ok();
    let asked = server.take("/autoscalers");
    assert_eq!(asked[0]["kind"]["version"], "v2");
    assert_eq!(asked[0]["requestKind"]["version"], "v1");
    let path = "jsonpath={.spec.targetCPUUtilizationPercentage}";
    let target = ["-n", "shop", "get", "horizontalpodautoscalers.v1.autoscaling", "web", "-o", path];
    assert_eq!(kubectl.run(&target).ok(), "33");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_that_does_not_answer_stops_only_what_it_must() {
    let server = ReviewServer::start(|path, _| match path {
        "/wrong" => json!({ "allowed": true, "patchType": "JSONPatch" }),
        "/missing" => patch(&json!([{ "op": "remove", "path": "/data/none" }])),
        _ => allow(),
    })
    .await;
    let cluster = Cluster::start();
    let kubectl = cluster.kubectl();
    shop(&kubectl);
    // A port that nobody listens on.
    let dead = std::net::TcpListener::bind("127.0.0.1:0").and_then(|of| of.local_addr()).expect("a port");
    let dead =
        json!({ "url": format!("https://localhost:{}/", dead.port()), "caBundle": server.https.bundle() });
    let maps = || rule(&[""], &["v1"], &["configmaps"], &["CREATE"]);
    let make = |name: &str| kubectl.run(&["-n", "shop", "create", "configmap", name]);
    let fields = |policy: &str| json!({ "failurePolicy": policy, "namespaceSelector": in_shop() });
    kubectl.apply(&configuration("Validating", "dead", &dead, maps(), fields("Ignore")));
    make("ignored").ok();
    kubectl.apply(&configuration("Validating", "dead", &dead, maps(), fields("Fail")));
    let refused = make("failed").refused();
    assert!(
        refused.contains("Internal error occurred: failed calling webhook \"dead.example.com\": failed to call webhook: Post \"https://localhost:"),
        "{refused}"
    );
    // Another authority than the one that is believed.
    let stranger = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a certificate");
    let mut client = server.client("/fine");
    client["caBundle"] = BASE64.encode(stranger.cert.pem()).into();
    kubectl.apply(&configuration("Validating", "dead", &client, maps(), fields("Fail")));
    assert!(make("failed").refused().contains("failed calling webhook"));
    kubectl.apply(&configuration("Validating", "dead", &server.client("/fine"), maps(), fields("Fail")));
    make("fine").ok();

    let mutating = |name: &str, path: &str| {
        kubectl.apply(&configuration("Mutating", name, &server.client(path), maps(), fields("Fail")));
    };
    mutating("wrong", "/wrong");
    let refused = make("failed").refused();
    assert!(refused.contains("webhook returned response.patchType but not response.patch"), "{refused}");
    mutating("wrong", "/missing");
    assert!(make("failed").refused().contains("Internal error"));
    kubectl.run(&["delete", "mutatingwebhookconfiguration", "wrong"]).ok();
    make("whole").ok();

    // Nobody locks everybody out for good.
    let everything = rule(&["admissionregistration.k8s.io"], &["*"], &["*"], &["*"]);
    kubectl.apply(&configuration(
        "Validating",
        "lock",
        &dead,
        everything,
        json!({ "failurePolicy": "Fail" }),
    ));
    kubectl.run(&["delete", "validatingwebhookconfiguration", "lock", "dead"]).ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_is_asked_only_where_its_conditions_hold() {
    let server = ReviewServer::start(|_, _| json!({ "allowed": false })).await;
    let cluster = Cluster::start();
    let kubectl = cluster.kubectl();
    shop(&kubectl);
    let maps = rule(&[""], &["v1"], &["configmaps"], &["CREATE"]);
    let fields = json!({
        "namespaceSelector": in_shop(),
        "matchConditions": [
            { "name": "not-free", "expression": "!(has(object.data) && 'free' in object.data)" },
            { "name": "whole", "expression": "!has(request.subResource) && request.operation == 'CREATE'" },
        ],
    });
    kubectl.apply(&configuration("Validating", "maps", &server.client("/maps"), maps, fields));
    let map = |name: &str, data: &str| {
        kubectl.run(&["-n", "shop", "create", "configmap", name, &format!("--from-literal={data}=1")])
    };
    map("free", "free").ok();
    assert!(server.take("/maps").is_empty());
    map("other", "other").refused();
    assert_eq!(server.take("/maps").len(), 1);
}
