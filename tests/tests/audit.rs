//! The audit log, by a policy file, as an auditor reads it.

use std::path::PathBuf;

use naru_tests::{
    Cluster, Options,
    api::Api,
    eventually, naru_binary,
    reviews::{ReviewServer, configuration, patch, rule},
};
use serde_json::{Value, json};

const POLICY: &str = "apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- {level: None, users: [nobody]}
- {level: Metadata, resources: [{group: '', resources: [secrets]}], namespaces: [default]}
- {level: RequestResponse, resources: [{group: '', resources: [configmaps]}], namespaces: [default], omitManagedFields: true}
- {level: Request, resources: [{group: '', resources: [services]}], namespaces: [default]}
- level: Request
  resources:
  - {group: '', resources: [serviceaccounts/token]}
  - {group: apps, resources: [deployments/scale]}
  - {group: authorization.k8s.io, resources: [selfsubjectaccessreviews]}
- {level: Metadata, nonResourceURLs: [/version]}
- {level: Metadata, verbs: [watch], namespaces: [shop]}
- {level: Request, resources: [{group: '', resources: [configmaps]}], namespaces: [shop]}
- {level: Metadata, resources: [{group: '', resources: [pods, pods/eviction]}], namespaces: [shop]}
";

fn start() -> (Cluster, PathBuf) {
    let dir = tempfile::Builder::new().prefix("naru-audit-").tempdir().expect("a folder").keep();
    let (policy, log) = (dir.join("policy.yaml"), dir.join("audit.log"));
    std::fs::write(&policy, POLICY).expect("a policy");
    let flag = |name: &str, value: &PathBuf| format!("--audit-{name}={}", value.display());
    let args = vec![flag("policy-file", &policy), flag("log-path", &log)];
    (Cluster::start_with(Options { args, ..Options::default() }), dir)
}

fn events(dir: &std::path::Path) -> Vec<Value> {
    let text = std::fs::read_to_string(dir.join("audit.log")).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).expect("an event is a line of JSON")).collect()
}

#[tokio::test]
async fn what_the_policy_asks_for_is_recorded() {
    let (mut cluster, dir) = start();
    let kubectl = cluster.kubectl();
    kubectl.run(&["create", "secret", "generic", "db", "--from-literal=password=hunter2"]).ok();
    kubectl.run(&["create", "configmap", "prices", "--from-literal=tea=3"]).ok();
    kubectl.run(&["patch", "configmap", "prices", "-p", r#"{"data":{"tea":"4"}}"#]).ok();
    kubectl.run(&["get", "configmap", "prices", "--as", "jane"]).refused();
    kubectl.run(&["get", "--raw", "/version"]).ok();
    kubectl.run(&["get", "nodes"]).ok();
    let find = |verb: &str, resource: &str, user: &str| {
        events(&dir).into_iter().find(|event| {
            event["verb"] == verb
                && event["objectRef"]["resource"] == resource
                && (user.is_empty() || event["impersonatedUser"]["username"] == user)
                && event["userAgent"].as_str().is_some_and(|agent| agent.starts_with("kubectl"))
        })
    };
    let wait = async |verb: &'static str, resource: &'static str, user: &'static str| {
        eventually("the event", async || find(verb, resource, user).ok_or(format!("no {verb} of {resource}")))
            .await
    };
    let secret = wait("create", "secrets", "").await;
    assert_eq!(
        (&secret["stage"], &secret["level"], &secret["objectRef"]["name"]),
        (&"ResponseComplete".into(), &"Metadata".into(), &"db".into())
    );
    assert_eq!(secret["responseStatus"]["code"], 201);
    assert_eq!(secret["user"]["username"], "kubernetes-admin");
    assert_eq!(secret["annotations"]["authorization.k8s.io/decision"], "allow");
    assert_eq!(secret["sourceIPs"][0], "127.0.0.1");
    // What was sent is shown as it was understood: with its type and its defaults, without what it has no place for.
    let sent = r#"{"metadata":{"name":"deaf"},"spec":{"ports":[{"port":80}]},"nonsense":1}"#;
    let path = "/api/v1/namespaces/default/services";
    kubectl.run_with(&["create", "--raw", path, "-f", "-"], sent).ok();
    let service = wait("create", "services", "").await;
    let object = &service["requestObject"];
    assert_eq!((&object["kind"], &object["apiVersion"]), (&"Service".into(), &"v1".into()));
    assert_eq!(
        (&object["spec"]["type"], &object["spec"]["ports"][0]["protocol"]),
        (&"ClusterIP".into(), &"TCP".into())
    );
    assert!(object["metadata"].get("uid").is_none() && object.get("nonsense").is_none(), "{object}");
    assert!(object["spec"].get("clusterIP").is_none(), "{object}");
    let sent = r#"{"spec":{"audiences":["shop"]},"nonsense":1}"#;
    let path = "/api/v1/namespaces/default/serviceaccounts/default/token";
    kubectl.run_with(&["create", "--raw", path, "-f", "-"], sent).ok();
    let token = wait("create", "serviceaccounts", "").await;
    let expected = json!({
        "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "metadata": {},
        "spec": { "audiences": ["shop"], "expirationSeconds": 3600 },
    });
    assert_eq!(token["requestObject"], expected);
    kubectl.run(&["create", "deployment", "web", "--image=none", "--replicas=0"]).ok();
    let sent = r#"{"metadata":{"name":"web"},"spec":{"replicas":0},"nonsense":1}"#;
    let path = "/apis/apps/v1/namespaces/default/deployments/web/scale";
    kubectl.run_with(&["replace", "--raw", path, "-f", "-"], sent).ok();
    let scale = wait("update", "deployments", "").await;
    let expected = json!({
        "apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": { "name": "web" }, "spec": { "replicas": 0 },
    });
    assert_eq!(scale["requestObject"], expected);
    kubectl.run(&["auth", "can-i", "get", "pods"]).ok();
    let review = wait("create", "selfsubjectaccessreviews", "").await;
    assert_eq!(review["requestObject"]["kind"], "SelfSubjectAccessReview");
    let map = wait("create", "configmaps", "").await;
    assert_eq!(map["requestObject"]["data"]["tea"], "3");
    assert!(map["responseObject"]["metadata"]["uid"].is_string());
    assert!(map["responseObject"]["metadata"].get("managedFields").is_none(), "{map}");
    let patch = wait("patch", "configmaps", "").await;
    assert_eq!(patch["requestObject"]["data"]["tea"], "4");
    let refused = wait("get", "configmaps", "jane").await;
    assert_eq!(refused["responseStatus"]["code"], 403);
    assert_eq!(refused["responseStatus"]["reason"], "Forbidden");
    assert_eq!(refused["annotations"]["authorization.k8s.io/decision"], "forbid");
    eventually("the path", async || {
        let found = events(&dir).iter().any(|event| event["requestURI"] == "/version");
        if found { Ok(()) } else { Err("nothing of /version") }
    })
    .await;
    // Clients can refer to the record, and name it themselves.
    let headers = kubectl.run(&["get", "configmap", "prices", "-v=8"]).stderr;
    assert!(headers.to_lowercase().contains("audit-id"), "{headers}");

    // What the control plane itself writes is recorded, too; what no rule names is not.
    kubectl.run(&["delete", "configmap", "kube-root-ca.crt"]).ok();
    eventually("the controller's write", async || {
        let account = "system:serviceaccount:kube-system:root-ca-cert-publisher";
        let found = events(&dir).iter().any(|event| event["user"]["username"] == account);
        if found { Ok(()) } else { Err("nothing of the controller") }
    })
    .await;
    assert_eq!(cluster.stop(), 0);
    let all = events(&dir);
    assert!(all.iter().all(|event| event["objectRef"]["resource"] != "nodes"));
    assert!(!std::fs::read_to_string(dir.join("audit.log")).expect("the log").contains("hunter2"));
    std::fs::remove_dir_all(&dir).expect("it is ours");
}

#[test]
fn a_bad_policy_keeps_the_server_from_starting_and_says_why() {
    let dir = tempfile::tempdir().expect("a folder");
    let policy = dir.path().join("policy.yaml");
    let start = |log: &str| {
        let output = std::process::Command::new(naru_binary())
            .args(["server", "--listen", "127.0.0.1:0", "--data-dir"])
            .arg(dir.path().join("data"))
            .arg("--audit-policy-file")
            .arg(&policy)
            .args(["--audit-log-path", log])
            .env("HOME", dir.path())
            .output()
            .expect("naru starts");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, error) = start("-");
    assert!(code == Some(1) && error.contains("cannot read the audit policy"), "{error}");
    std::fs::write(&policy, POLICY.replace("RequestResponse", "Everything")).expect("a policy");
    let (code, error) = start("-");
    assert!(code == Some(1) && error.contains("unknown variant `Everything`"), "{error}");
    std::fs::write(&policy, POLICY).expect("a policy");
    let (code, error) = start("/nonexistent/audit.log");
    assert!(
        code == Some(1) && error.contains("cannot write the audit log /nonexistent/audit.log"),
        "{error}"
    );
    assert!(!dir.path().join("data/server/store/log").exists(), "nothing was made");
}

const NOTED: &str = r#"
apiVersion: v1
kind: Namespace
metadata:
  name: shop
  labels: {pod-security.kubernetes.io/enforce: baseline, pod-security.kubernetes.io/audit: restricted}
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: small.example.com}
spec:
  matchConstraints:
    resourceRules:
    - {apiGroups: [''], apiVersions: [v1], operations: [CREATE], resources: [configmaps]}
  validations:
  - {expression: 'object.data.size() < 2', message: too large}
  auditAnnotations:
  - {key: size, valueExpression: "'it has ' + string(object.data.size())"}
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {name: small}
spec: {policyName: small.example.com, validationActions: [Audit], matchResources: {namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: shop}}}}
"#;

#[tokio::test(flavor = "multi_thread")]
async fn what_admission_notes_is_recorded_too() {
    let server = ReviewServer::start(|path, _| {
        let mut response = match path {
            "/label" => patch(&json!([{ "op": "add", "path": "/data/added", "value": "1" }])),
            _ => json!({ "allowed": true }),
        };
        response["auditAnnotations"] = json!({ "seen": "yes" });
        response
    })
    .await;
    let (mut cluster, dir) = start();
    let kubectl = cluster.kubectl();
    kubectl.apply(NOTED);
    let maps = || rule(&[""], &["v1"], &["configmaps"], &["CREATE"]);
    let in_shop = json!({ "matchLabels": { "kubernetes.io/metadata.name": "shop" } });
    let fields = json!({ "namespaceSelector": in_shop });
    kubectl.apply(&configuration("Mutating", "label", &server.client("/label"), maps(), fields.clone()));
    kubectl.apply(&configuration("Validating", "see", &server.client("/see"), maps(), fields));
    // A port that nobody listens on.
    let dead = std::net::TcpListener::bind("127.0.0.1:0").and_then(|of| of.local_addr()).expect("a port");
    let dead =
        json!({ "url": format!("https://localhost:{}/", dead.port()), "caBundle": server.https.bundle() });
    let ignored = json!({ "namespaceSelector": in_shop, "failurePolicy": "Ignore" });
    kubectl.apply(&configuration("Validating", "dead", &dead, maps(), ignored));
    kubectl.run(&["-n", "shop", "create", "configmap", "prices", "--from-literal=tea=3"]).ok();
    let annotations = async |resource: &'static str, name: &'static str| {
        let what = format!("the event of {resource} {name}");
        let event = eventually(&what, async || {
            let found = events(&dir).into_iter().find(|event| {
                let of = &event["objectRef"];
                event["verb"] == "create" && of["resource"] == resource && of["name"] == name
            });
            found.ok_or("there is none yet")
        });
        event.await["annotations"].clone()
    };
    let map = annotations("configmaps", "prices").await;
    let expected = [
        ("label.example.com/seen", "yes"),
        ("see.example.com/seen", "yes"),
        ("small.example.com/size", "it has 2"),
        (
            "mutation.webhook.admission.k8s.io/round_0_index_0",
            r#"{"configuration":"label","webhook":"label.example.com","mutated":true}"#,
        ),
        (
            "patch.webhook.admission.k8s.io/round_0_index_0",
            r#"{"configuration":"label","webhook":"label.example.com","patch":[{"op":"add","path":"/data/added","value":"1"}],"patchType":"JSONPatch"}"#,
        ),
        ("failed-open.validating.webhook.admission.k8s.io/round_0_index_0", "dead.example.com"),
        (
            "validation.policy.admission.k8s.io/validation_failure",
            r#"[{"message":"too large","policy":"small.example.com","binding":"small","expressionIndex":0,"validationActions":["Audit"]}]"#,
        ),
        ("authorization.k8s.io/decision", "allow"),
    ];
    for (key, value) in expected {
        assert_eq!(map[key], value, "{key} of {map:#}");
    }

    // Pods, by the labels of their namespace: let in with a note, and refused.
    let pod = |name: &str, more: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  {more}nodeSelector: {{a: b}}\n  containers: [{{name: web, image: 'hello:v1'}}]\n"
        )
    };
    kubectl.run(&["-n", "shop", "wait", "--for=create", "serviceaccount/default", "--timeout=30s"]).ok();
    kubectl.run_with(&["-n", "shop", "create", "-f", "-"], &pod("lax", "")).ok();
    kubectl.run_with(&["-n", "shop", "create", "-f", "-"], &pod("host", "hostPID: true\n  ")).refused();
    for name in ["lax", "host"] {
        let of = annotations("pods", name).await;
        assert_eq!(of["pod-security.kubernetes.io/enforce-policy"], "baseline:latest", "{of:#}");
        let audited = of["pod-security.kubernetes.io/audit-violations"].as_str().unwrap_or_default();
        assert!(audited.starts_with("would violate PodSecurity \"restricted:latest\": "), "{of:#}");
    }

    // The old way to watch is recorded as the watch that it is.
    let api = Api::of(&cluster).await;
    let path = "/api/v1/watch/namespaces/shop/configmaps?timeoutSeconds=1";
    assert_eq!(api.begin("GET", path, &[], "").await.status(), 200);
    eventually("the watch is recorded", async || {
        let found = events(&dir).into_iter().find(|event| event["requestURI"] == path);
        let event = found.ok_or("it is not".to_owned())?;
        let of = &event["objectRef"];
        let is_right =
            event["verb"] == "watch" && of["resource"] == "configmaps" && of["namespace"] == "shop";
        if is_right { Ok(()) } else { Err(event.to_string()) }
    })
    .await;
    assert_eq!(cluster.stop(), 0);
    std::fs::remove_dir_all(&dir).expect("it is ours");
}
