//! Helm, and the clients for Python and JavaScript, as their users use them.

use naru_tests::{Cluster, checkout};
use serde_json::Value;

/// What Helm is told of every change.
const CHANGE: [&str; 3] = ["--wait", "--timeout", "60s"];

fn helm(cluster: &Cluster, args: &[&str]) -> String {
    cluster.helm(args).ok()
}

/// `REVISION STATUS` of every release.
fn history(cluster: &Cluster) -> Vec<String> {
    let text = helm(cluster, &["history", "web", "-o", "json"]);
    let releases: Vec<Value> = serde_json::from_str(&text).expect("JSON");
    let line = |release: &Value| format!("{} {}", release["revision"], release["status"].as_str().unwrap());
    releases.iter().map(line).collect()
}

#[test]
fn helm_installs_upgrades_tests_rolls_back_and_uninstalls_a_chart() {
    let cluster = Cluster::start();
    cluster.import_samples(&["hello", "worker"]);
    let kubectl = cluster.kubectl();
    let chart = checkout("tests/charts/shop");
    let chart = chart.to_str().expect("UTF-8");
    let get = |kind: &str, path: &str| {
        kubectl.run(&["get", kind, "web", "-o", &format!("jsonpath={{{path}}}")]).ok()
    };

    let dry = helm(&cluster, &["install", "web", chart, "--dry-run=server"]);
    assert!(dry.contains("kind: Deployment"), "{dry}");
    let notes = helm(&cluster, &[&["install", "web", chart], &CHANGE[..]].concat());
    assert!(notes.contains("STATUS: deployed") && notes.contains("web says good day"), "{notes}");
    assert_eq!(get("deploy", ".status.availableReplicas"), "2");
    // What the templates asked the API server while they were rendered.
    let kube_system = kubectl.run(&["get", "ns", "kube-system", "-o", "jsonpath={.metadata.uid}"]).ok();
    assert_eq!(get("cm", ".data.systemNamespace"), kube_system);
    assert_eq!(get("cm", ".data.hasApps") + &get("cm", ".data.hasNothing"), "truefalse");
    assert_eq!(
        get("coupon", ".spec"),
        r#"{"currency":"EUR","percent":10}"#,
        "of a CRD that the chart brings"
    );
    assert_eq!(get("ingress", ".spec.rules[0].http.paths[0].backend.service.name"), "web");
    assert_eq!(get("hpa", ".spec.maxReplicas") + &get("pdb", ".spec.maxUnavailable"), "41");
    let managers = kubectl.run(&[
        "get",
        "deploy",
        "web",
        "--show-managed-fields",
        "-o",
        "jsonpath={.metadata.managedFields}",
    ]);
    let managers = managers.ok();
    assert!(managers.contains(r#""manager":"helm","operation":"Apply""#), "{managers}");
    let size =
        || kubectl.run(&["get", "cm", "web-cache", "-o", "jsonpath={.data.size}", "--ignore-not-found"]).ok();
    assert_eq!(size(), "7", "the dependency has its values from the chart above it");
    let password = get("secret", ".data.password");

    let settings = "greeting=hi,replicas=1,cache.enabled=false,coupon=20,autoscaling.enabled=false";
    let change = ["--rollback-on-failure", "--timeout", "60s", "--set", settings];
    helm(&cluster, &[&["upgrade", "--install", "web", chart], &change[..]].concat());
    assert_eq!(get("cm", ".data.greeting"), "hi");
    assert_eq!((get("coupon", ".spec.percent"), size()), ("20".into(), String::new()));
    assert_eq!(kubectl.run(&["get", "hpa", "-o", "name"]).ok(), "", "what is switched off goes");
    assert_eq!(get("secret", ".data.password"), password, "`lookup` finds what the first release made");

    let broken = ["--rollback-on-failure", "--timeout", "3s", "--set", "image=nowhere:v1"];
    let why = cluster.helm(&[&["upgrade", "web", chart], &broken[..]].concat()).refused();
    assert!(why.contains("has been rolled back"), "{why}");
    assert_eq!(history(&cluster), ["1 superseded", "2 superseded", "3 failed", "4 deployed"]);
    assert_eq!(get("deploy", ".spec.template.spec.containers[0].image"), "hello:v1");

    let tested = helm(&cluster, &["test", "web", "--logs", "--timeout", "60s"]);
    assert!(tested.contains("Phase:          Succeeded") && tested.contains("there are 4"), "{tested}");
    helm(&cluster, &[&["rollback", "web", "1"], &CHANGE[..]].concat());
    assert_eq!(get("cm", ".data.greeting"), "good day");
    assert_eq!(get("deploy", ".status.availableReplicas"), "2");

    let status = helm(&cluster, &["status", "web"]);
    assert!(status.contains("REVISION: 5") && status.contains("v1/Pod(related)"), "{status}");
    let all = helm(&cluster, &["get", "all", "web"]);
    assert!(all.contains("MANIFEST:") && all.contains("HOOKS:"), "{all}");
    let list: Value = serde_json::from_str(&helm(&cluster, &["list", "-o", "json"])).expect("JSON");
    assert_eq!((&list[0]["name"], &list[0]["status"]), (&"web".into(), &"deployed".into()));

    helm(&cluster, &[&["uninstall", "web"], &CHANGE[..]].concat());
    let left = kubectl.run(&[
        "get",
        "deploy,svc,cm,secret,sa,role,rolebinding,ingress,netpol,pdb,hpa,coupons",
        "-l",
        "helm.sh/chart",
        "-o",
        "name",
    ]);
    assert_eq!(left.ok(), "");
    assert_eq!(helm(&cluster, &["list", "-q"]), "");
}

#[test]
fn the_python_and_the_javascript_client_work() {
    let cluster = Cluster::start();
    cluster.import_samples(&["hello"]);
    for program in ["python_client.py", "javascript_client.mjs"] {
        let said = cluster.client_program(program).ok();
        assert!(said.ends_with("ok\n"), "{program}: {said}");
    }
}

#[test]
fn whatever_the_python_client_can_do_is_done_and_described() {
    let cluster = Cluster::start();
    cluster.import_samples(&["hello"]);
    for program in ["python_sweep.py", "python_openapi.py"] {
        let said = cluster.client_program(program).ok();
        assert!(said.ends_with("ok\n"), "{program}: {said}");
    }
}

#[test]
fn an_operator_of_a_python_framework_works() {
    let cluster = Cluster::start();
    let said = cluster.client_program("python_operator.py").ok();
    assert!(said.ends_with("ok\n"), "{said}");
}
