//! `kubectl top`, and the API behind it: figures of what wasm containers and their node really use.

use naru_tests::{
    Cluster, Kubectl, Options,
    api::{Api, PROTOBUF},
    eventually, write_guest,
};
use serde_json::Value;

/// Computes for ever, with 10 MiB of memory.
const BURNER: &str =
    r#"(module (memory (export "memory") 160) (func (export "_start") (loop $on (br $on))))"#;

const PODS: &str = "\
apiVersion: v1
kind: Pod
metadata: {name: burner, labels: {app: burner}}
spec:
  containers:
  - name: fire
    image: burner:v1
    imagePullPolicy: IfNotPresent
    resources: {limits: {cpu: 300m, memory: 16Mi}}
---
apiVersion: v1
kind: Pod
metadata: {name: clock, labels: {app: clock}}
spec:
  containers:
  - {name: hands, image: 'worker:v1', args: [tick, '600']}
  - {name: face, image: 'worker:v1', args: [tick, '600']}
";

/// The lines of a table below its header, each by its cells.
fn rows(table: &str) -> Vec<Vec<&str>> {
    table.lines().skip(1).map(|line| line.split_whitespace().collect()).collect()
}

/// `300m`, or `2` where it is whole.
fn millicores(cell: &str) -> u64 {
    let cell = cell.strip_suffix('m').unwrap_or_else(|| panic!("{cell} are no millicores"));
    cell.parse().expect("a number")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kubectl_top_shows_what_pods_and_nodes_use() {
    let cluster = Cluster::start();
    cluster.import_samples(&["worker"]);
    let wasm = wat::parse_str(BURNER).expect("a module");
    cluster.import(&write_guest(cluster.temp_dir(), "burner.wasm", &wasm), "burner:v1");
    let kubectl = cluster.kubectl();
    kubectl.apply(PODS);
    kubectl.run(&["wait", "--for=condition=Ready", "pod/burner", "pod/clock", "--timeout=60s"]).ok();
    eventually("all pods have figures", async || {
        let answer = kubectl.run(&["top", "pod"]);
        if answer.stdout.lines().count() == 3 { Ok(()) } else { Err(format!("{answer:?}")) }
    })
    .await;
    for kubectl in cluster.kubectls() {
        check_pods(&kubectl);
        check_nodes(&kubectl);
        for what in ["pod", "node"] {
            let refused = kubectl.run(&["top", what, "nobody"]).refused();
            assert!(refused.contains(&format!("(NotFound): {what}s \"nobody\" not found")), "{refused}");
        }
    }
    check_api(&kubectl, &Api::of(&cluster).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_share_a_machine_count_their_own_pods() {
    let cluster = Cluster::start_with(Options { nodes: 2, ..Options::default() });
    let wasm = wat::parse_str(BURNER).expect("a module");
    cluster.import(&write_guest(cluster.temp_dir(), "burner.wasm", &wasm), "burner:v1");
    let kubectl = cluster.kubectl();
    let burner = PODS.split("---\n").next().expect("the burner");
    kubectl.apply(&burner.replace("spec:\n", "spec:\n  nodeName: naru-2\n"));
    kubectl.run(&["wait", "--for=condition=Ready", "pod/burner", "--timeout=60s"]).ok();
    // Whatever else this machine does, one burns its pod's 300m, and the other nothing.
    eventually("the burner is one node's alone", async || {
        let table = kubectl.run(&["top", "node", "--sort-by=cpu"]).stdout;
        match &rows(&table)[..] {
            [busy, idle] if busy[0] == "naru-2" && millicores(busy[1]) >= 100 && busy[3] == "10Mi" => {
                assert!(idle[0] == "naru-1" && millicores(idle[1]) == 0 && idle[3] == "0Mi", "{table}");
                Ok(())
            }
            _ => Err(table),
        }
    })
    .await;
}

fn check_pods(kubectl: &Kubectl) {
    let top = |args: &[&str]| kubectl.run(&[&["top", "pod"], args].concat()).ok();
    let all = top(&["--sort-by=cpu"]);
    assert_eq!(
        all.lines().next().map(|line| line.split_whitespace().collect::<Vec<_>>()),
        Some(vec!["NAME", "CPU(cores)", "MEMORY(bytes)"])
    );
    let [burner, clock] = &rows(&all)[..] else { panic!("two pods: {all}") };
    assert_eq!((burner[0], burner[2], clock[0]), ("burner", "10Mi", "clock"));
    // Its limit is all it can have; a busy machine may give it less.
    let (burnt, ticked) = (millicores(burner[1]), millicores(clock[1]));
    assert!((20..=400).contains(&burnt) && ticked < burnt, "{all}");

    let one = top(&["-l", "app=clock", "--no-headers"]);
    assert!(one.starts_with("clock ") && one.lines().count() == 1, "{one}");
    assert!(top(&["burner", "--no-headers"]).starts_with("burner "));
    let named = top(&["-A", "--field-selector=metadata.name=burner", "--no-headers"]);
    assert_eq!(named.split_whitespace().take(2).collect::<Vec<_>>(), ["default", "burner"]);
    let containers = top(&["--containers", "--sort-by=memory"]);
    let mut containers: Vec<_> =
        rows(&containers).iter().map(|row| format!("{}/{}", row[0], row[1])).collect();
    assert_eq!(containers.remove(0), "burner/fire", "it has most memory");
    containers.sort();
    assert_eq!(containers, ["clock/face", "clock/hands"]);
}

fn check_nodes(kubectl: &Kubectl) {
    for args in [&["top", "node"][..], &["top", "node", "naru", "--sort-by=memory"]] {
        let table = kubectl.run(args).ok();
        let [naru] = &rows(&table)[..] else { panic!("one node: {table}") };
        assert!(naru[0] == "naru" && millicores(naru[1]) > 0, "{table}");
        let percent = |cell: &str| cell.trim_end_matches('%').parse::<u64>().expect("a number");
        assert!(naru[3].ends_with("Mi") && (1..=100).contains(&percent(naru[4])), "{table}");
    }
}

async fn check_api(kubectl: &Kubectl, api: &Api) {
    const METRICS: &str = "/apis/metrics.k8s.io/v1beta1";
    assert!(kubectl.run(&["api-versions"]).ok().contains("metrics.k8s.io/v1beta1\n"));
    let path = "jsonpath={.spec.groupPriorityMinimum} {.status.conditions[?(@.type=='Available')].reason}";
    let service = kubectl.run(&["get", "apiservice", "v1beta1.metrics.k8s.io", "-o", path]).ok();
    assert_eq!(service, "100 Local");
    let about = api.get(METRICS).await.expect(200);
    let resources: Vec<_> = about["resources"].as_array().expect("resources").iter().collect();
    let facts = |of: &Value| format!("{} {} {} {}", of["name"], of["kind"], of["namespaced"], of["verbs"]);
    assert_eq!(
        resources.into_iter().map(facts).collect::<Vec<_>>(),
        [r#""nodes" "NodeMetrics" false ["get","list"]"#, r#""pods" "PodMetrics" true ["get","list"]"#]
    );

    let burner = api.get(&format!("{METRICS}/namespaces/default/pods/burner")).await.expect(200);
    assert_eq!(
        (&burner["kind"], &burner["apiVersion"]),
        (&"PodMetrics".into(), &"metrics.k8s.io/v1beta1".into())
    );
    assert_eq!(burner["metadata"]["labels"]["app"], "burner");
    assert!(burner["metadata"].get("resourceVersion").is_none(), "{burner}");
    assert_eq!(
        (&burner["containers"][0]["name"], &burner["containers"][0]["usage"]["memory"]),
        (&"fire".into(), &"10Mi".into())
    );
    burner["timestamp"].as_str().and_then(|text| text.parse::<jiff::Timestamp>().ok()).expect("a time");
    assert!(burner["window"].as_str().is_some_and(|text| text.ends_with('s')), "{burner}");
    let nodes = api.get(&format!("{METRICS}/nodes")).await.expect(200);
    assert_eq!((&nodes["kind"], &nodes["metadata"]), (&"NodeMetricsList".into(), &serde_json::json!({})));
    let usage = &nodes["items"][0]["usage"];
    assert!(usage["cpu"].is_string() && usage["memory"].is_string(), "{nodes}");
    for path in [format!("{METRICS}/nodes"), format!("{METRICS}/namespaces/default/pods/burner")] {
        let reply = api.get_as(&path, PROTOBUF).await;
        assert_eq!((reply.status, reply.header("content-type")), (200, PROTOBUF), "{path}");
        assert!(reply.bytes.starts_with(b"k8s\0"), "{path}");
    }
    let table = kubectl.run(&["get", "pods.metrics.k8s.io"]).ok();
    assert!(table.starts_with("NAME "), "{table}");
    assert_eq!(
        table.lines().next().map(|line| line.split_whitespace().collect::<Vec<_>>()),
        Some(vec!["NAME", "CPU", "MEMORY", "WINDOW"])
    );

    let pods = format!("{METRICS}/namespaces/default/pods");
    for (method, path) in [("POST", &pods), ("DELETE", &pods), ("DELETE", &format!("{pods}/burner"))] {
        api.send(method, path, &[("content-type", "application/json")], "{}")
            .await
            .refused(405, "MethodNotAllowed");
    }
    api.get(&format!("{pods}?watch=true")).await.refused(405, "MethodNotAllowed");
    // One that was never started uses nothing.
    kubectl.apply("apiVersion: v1\nkind: Pod\nmetadata: {name: later}\nspec: {schedulerName: nobody, containers: [{name: c, image: c}]}\n");
    let none = api.get(&format!("{pods}/later")).await.refused(404, "NotFound");
    assert_eq!(none, "podmetrics.metrics.k8s.io \"default/later\" not found");

    kubectl.run(&["create", "serviceaccount", "viewer"]).ok();
    let viewer = "--as=system:serviceaccount:default:viewer";
    assert!(kubectl.run(&["top", "pod", viewer]).refused().contains("Forbidden"));
    kubectl
        .run(&["create", "rolebinding", "viewers", "--clusterrole=view", "--serviceaccount=default:viewer"])
        .ok();
    eventually("a viewer may see what pods use", async || {
        let answer = kubectl.run(&["top", "pod", viewer]);
        if answer.code == 0 { Ok(()) } else { Err(answer.stderr) }
    })
    .await;
    assert!(kubectl.run(&["top", "node", viewer]).refused().contains("Forbidden"));
}
