//! Webhooks as they are deployed: behind Services of the cluster, slow, and older than the cluster.

use std::time::{Duration, Instant};

use naru_tests::{
    Cluster, eventually,
    reviews::{ReviewServer, allow, configuration, rule},
};
use serde_json::{Value, json};

fn here(fields: Value) -> Value {
    let mut all =
        json!({ "namespaceSelector": { "matchLabels": { "kubernetes.io/metadata.name": "default" } } });
    all.as_object_mut().expect("fields").extend(fields.as_object().cloned().unwrap_or_default());
    all
}

fn maps() -> Value {
    rule(&[""], &["v1"], &["configmaps"], &["CREATE"])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_behind_a_service_is_asked_under_the_service_s_name() {
    let server = ReviewServer::start_as("hooks.default.svc", |_, request| {
        json!({ "allowed": request["object"]["data"]["color"] != "red", "status": { "message": "no red" } })
    })
    .await;
    let cluster = Cluster::start();
    let kubectl = cluster.kubectl();
    let client = |name: &str, port: Value| {
        let mut service = json!({ "name": name, "namespace": "default", "path": "/colors/check" });
        if !port.is_null() {
            service["port"] = port;
        }
        json!({ "service": service, "caBundle": server.https.bundle() })
    };
    let hook = |client: &Value| {
        kubectl.apply(&configuration("Validating", "colors", client, maps(), here(json!({}))))
    };
    let map = |name: &str, color: &str| {
        kubectl.run(&["create", "configmap", name, &format!("--from-literal=color={color}")])
    };
    // Before there is such a Service, and where it does not listen.
    hook(&client("hooks", json!(8443)));
    assert_eq!(
        map("early", "blue").refused(),
        "error: failed to create configmap: Internal error occurred: failed calling webhook \"colors.example.com\": \
         failed to call webhook: Post \"https://hooks.default.svc:8443/colors/check?timeout=10s\": service \"hooks\" \
         not found\n"
    );
    server.https.behind_service(&kubectl, "default", "hooks", 8443);
    let serves = async || {
        eventually("the service serves", async || {
            let answer = kubectl.run(&["create", "configmap", "probe", "--dry-run=server"]);
            if answer.code == 0 { Ok(()) } else { Err(answer.stderr) }
        })
        .await;
    };
    serves().await;
    server.take("/colors/check");
    map("blue", "blue").ok();
    let refused = map("red", "red").refused();
    assert!(
        refused.contains("admission webhook \"colors.example.com\" denied the request: no red"),
        "{refused}"
    );
    assert_eq!(server.take("/colors/check").len(), 2);

    // The port is 443 where none is given.
    hook(&client("hooks", Value::Null));
    let refused = map("green", "green").refused();
    assert!(refused.contains("no service port 443 found for service \"hooks\""), "{refused}");
    server.https.behind_service(&kubectl, "default", "hooks", 443);
    serves().await;
    map("green", "green").ok();
    // The connection that was kept does not outlive the Service's address.
    kubectl.run(&["delete", "service", "hooks"]).ok();
    let refused = map("late", "blue").refused();
    assert!(refused.ends_with("service \"hooks\" not found\n"), "{refused}");
    // Another Service leads to the same server, which is not who it should be.
    server.https.behind_service(&kubectl, "default", "others", 8443);
    hook(&client("others", json!(8443)));
    eventually("the certificate is refused", async || {
        let refused = map("brown", "brown").refused();
        let is_it = refused.contains("https://others.default.svc:8443/") && refused.contains("certificate");
        if is_it { Ok(()) } else { Err(refused) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_that_takes_too_long_is_not_waited_for() {
    let server = ReviewServer::start(|_, _| allow()).await;
    let cluster = Cluster::start();
    let kubectl = cluster.kubectl();
    let hook = |kind: &str, policy: &str| {
        let fields = here(json!({ "timeoutSeconds": 1, "failurePolicy": policy }));
        kubectl.apply(&configuration(kind, "slow", &server.client("/never"), maps(), fields));
    };
    let began = Instant::now();
    for kind in ["Mutating", "Validating"] {
        hook(kind, "Fail");
        let refused = kubectl.run(&["create", "configmap", "refused"]).refused();
        assert!(
            refused.contains("Internal error occurred: failed calling webhook \"slow.example.com\": failed to call webhook: Post \"https://localhost:")
                && refused.contains("/never?timeout=1s\": context deadline exceeded"),
            "{refused}"
        );
        hook(kind, "Ignore");
        kubectl.run(&["create", "configmap", &kind.to_lowercase()]).ok();
        kubectl.run(&["delete", &format!("{}webhookconfiguration", kind.to_lowercase()), "slow"]).ok();
    }
    assert!(began.elapsed() >= Duration::from_secs(4), "each of the four waited for its second");
    assert_eq!(server.take("/never").len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_webhook_is_asked_in_its_own_version() {
    // Such a webhook need not repeat the uid, nor say what its patch is.
    let server = ReviewServer::start(|_, _| {
        let patch = r#"[{"op":"add","path":"/metadata/labels","value":{"old":"yes"}}]"#;
        json!({ "allowed": true, "patch": base64::Engine::encode(&base64::engine::general_purpose::STANDARD, patch) })
    })
    .await;
    let cluster = Cluster::start();
    let kubectl = cluster.kubectl();
    let hook = |kind: &str, versions: &[&str]| {
        let fields = here(json!({ "admissionReviewVersions": versions }));
        kubectl.run_with(
            &["apply", "-f", "-"],
            &configuration(kind, "old", &server.client("/old"), maps(), fields),
        )
    };
    hook("Mutating", &["v1beta1", "v1"]).ok();
    kubectl.run(&["create", "configmap", "labelled"]).ok();
    let label = ["get", "configmap", "labelled", "-o", "jsonpath={.metadata.labels.old}"];
    assert_eq!(kubectl.run(&label).ok(), "yes");
    let asked = server.reviews();
    assert!(asked.iter().all(|review| review["apiVersion"] == "admission.k8s.io/v1beta1"), "{asked:?}");
    assert_eq!(asked.len(), 1);
    // To the newer version its answer is none.
    hook("Mutating", &["v1", "v1beta1"]).ok();
    let refused = kubectl.run(&["create", "configmap", "strict"]).refused();
    assert!(refused.contains("webhook returned response.patch but not response.patchType"), "{refused}");
    kubectl.run(&["delete", "mutatingwebhookconfiguration", "old"]).ok();
    // A validating one may say what it likes, too.
    hook("Validating", &["v1beta1"]).ok();
    kubectl.run(&["create", "configmap", "lax"]).ok();
    let refused = hook("Validating", &["v2"]).refused();
    assert!(refused.contains("must include at least one of v1, v1beta1"), "{refused}");
}
