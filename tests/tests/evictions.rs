//! Pods that have to go: drained nodes, evictions, and what a ReplicaSet takes in, lets go and picks.

use std::collections::BTreeSet;

use naru_tests::{
    Cluster, Kubectl, Options,
    api::{Api, JSON},
    eventually,
};
use serde_json::{Value, json};

fn set(kind: &str, replicas: u32) -> String {
    format!(
        "\
apiVersion: apps/v1
kind: {kind}
metadata: {{name: web}}
spec:
  replicas: {replicas}
  selector: {{matchLabels: {{app: web}}}}
  template:
    metadata: {{labels: {{app: web}}}}
    spec:
      containers:
      - {{name: web, image: 'hello:v1', ports: [{{containerPort: 8080}}]}}
"
    )
}

fn lone_pod(name: &str, labels: &str) -> String {
    format!(
        "\
apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{{labels}}}}}
spec:
  containers:
  - {{name: web, image: 'hello:v1', ports: [{{containerPort: 8080}}]}}
---
"
    )
}

/// Name, uid, node and controlling owner of each pod with `app: web` that is not being deleted.
fn pods(kubectl: &Kubectl) -> Vec<[String; 4]> {
    let path = "jsonpath={range .items[*]}{.metadata.deletionTimestamp}#{.metadata.name}#{.metadata.uid}#{.spec.nodeName}#\
                {.metadata.ownerReferences[?(@.controller==true)].name}{\"\\n\"}{end}";
    let text = kubectl.run(&["get", "pods", "-l", "app=web", "-o", path]).ok();
    let staying = text.lines().filter_map(|line| line.strip_prefix('#'));
    staying
        .map(|line| {
            let parts: Vec<_> = line.split('#').map(str::to_owned).collect();
            parts.try_into().expect("four parts")
        })
        .collect()
}

async fn until_pods(kubectl: &Kubectl, what: &str, is_so: impl Fn(&[[String; 4]]) -> bool) {
    eventually(what, async || {
        let pods = pods(kubectl);
        if is_so(&pods) { Ok(()) } else { Err(format!("{pods:?}")) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drained_node_gives_its_pods_away_until_it_is_uncordoned() {
    let cluster = Cluster::start_with(Options { nodes: 2, ..Options::default() });
    cluster.import_samples(&["hello"]);
    for kubectl in cluster.kubectls() {
        kubectl.apply(&set("Deployment", 2));
        kubectl.run(&["rollout", "status", "deploy/web", "--timeout=60s"]).ok();
        let nodes: BTreeSet<_> = pods(&kubectl).into_iter().map(|[_, _, node, _]| node).collect();
        assert_eq!(nodes.len(), 2, "{nodes:?}");

        // A cordoned node keeps its pods and gets no more.
        kubectl.run(&["cordon", "naru-1"]).ok();
        let listed = kubectl.run(&["get", "nodes", "naru-1", "--no-headers"]).ok();
        assert!(listed.contains("Ready,SchedulingDisabled"), "{listed}");
        kubectl.run(&["scale", "deploy/web", "--replicas=4"]).ok();
        kubectl.run(&["rollout", "status", "deploy/web", "--timeout=60s"]).ok();
        let on_first = |pods: &[[String; 4]]| pods.iter().filter(|[_, _, node, _]| node == "naru-1").count();
        assert_eq!(on_first(&pods(&kubectl)), 1);

        // Nobody would bring a lone pod back, so draining it has to be asked for.
        let lone = lone_pod("lone", "app: lone").replace("spec:\n", "spec:\n  nodeName: naru-1\n");
        kubectl.apply(&lone);
        kubectl.run(&["wait", "--for=condition=Ready", "pod/lone", "--timeout=60s"]).ok();
        let refused = kubectl.run(&["drain", "naru-1", "--timeout=60s"]).refused();
        assert!(refused.contains("cannot delete") && refused.contains("default/lone"), "{refused}");
        let drained = kubectl.run(&["drain", "naru-1", "--force", "--timeout=60s"]).ok();
        assert!(
            drained.contains("evicting pod default/web-") && drained.contains("node/naru-1 drained"),
            "{drained}"
        );
        assert_eq!(on_first(&pods(&kubectl)), 0);
        assert!(kubectl.run(&["get", "pod", "lone"]).refused().contains("NotFound"));
        kubectl.run(&["rollout", "status", "deploy/web", "--timeout=60s"]).ok();

        kubectl.run(&["uncordon", "naru-1"]).ok();
        kubectl.run(&["scale", "deploy/web", "--replicas=6"]).ok();
        until_pods(&kubectl, "new pods on the node", |pods| on_first(pods) > 0).await;
        kubectl.run(&["delete", "deploy", "web", "--cascade=foreground", "--timeout=60s"]).ok();
    }
}

#[test]
fn an_eviction_deletes_the_pod_that_it_names_and_no_other() {
    let cluster = Cluster::start();
    let kubectl = cluster.kubectl();
    cluster.import_samples(&["hello"]);
    kubectl.apply(&[lone_pod("one", "app: web"), lone_pod("two", "app: web")].concat());
    kubectl.run(&["wait", "--for=condition=Ready", "pod/one", "pod/two", "--timeout=60s"]).ok();
    let uid = |name: &str| kubectl.run(&["get", "pod", name, "-o", "jsonpath={.metadata.uid}"]).ok();
    let evict = |pod: &str, name: &str, options: &str| {
        let eviction = format!(
            r#"{{"apiVersion":"policy/v1","kind":"Eviction","metadata":{{"name":"{name}"}},"deleteOptions":{{{options}}}}}"#
        );
        let path = format!("/api/v1/namespaces/default/pods/{pod}/eviction");
        kubectl.run_with(&["create", "--raw", &path, "-f", "-"], &eviction)
    };
    evict("one", "one", r#""dryRun":["All"]"#).ok();
    assert!(evict("one", "two", "").refused().contains("does not match"));
    let other = format!(r#""preconditions":{{"uid":"{}"}}"#, uid("two"));
    assert!(evict("one", "one", &other).refused().contains("Conflict"));
    assert!(evict("nobody", "nobody", "").refused().contains("NotFound"));
    assert_eq!(pods(&kubectl).len(), 2, "nothing of this deletes");
    let right = format!(r#""gracePeriodSeconds":0,"preconditions":{{"uid":"{}"}}"#, uid("one"));
    let status: serde_json::Value = serde_json::from_str(&evict("one", "one", &right).ok()).unwrap();
    assert_eq!((&status["kind"], &status["status"]), (&"Status".into(), &"Success".into()));
    kubectl.run(&["wait", "--for=delete", "pod/one", "--timeout=60s"]).ok();
    assert_eq!(pods(&kubectl).len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_set_adopts_releases_orphans_and_deletes_the_cheapest_first() {
    let cluster = Cluster::start();
    let kubectl = cluster.kubectl();
    cluster.import_samples(&["hello"]);
    let are_owned = |pods: &[[String; 4]], count: usize| {
        pods.iter().filter(|[_, _, _, owner]| owner == "web").count() == count
    };

    // A pod that was there is adopted: two replicas need only one more.
    kubectl.apply(&lone_pod("early", "app: web"));
    kubectl.apply(&set("ReplicaSet", 2));
    until_pods(&kubectl, "two pods of the set", |pods| pods.len() == 2 && are_owned(pods, 2)).await;
    assert!(pods(&kubectl).iter().any(|[name, ..]| name == "early"));

    // Who loses the label is let go and replaced.
    kubectl.run(&["label", "pod", "early", "app=other", "--overwrite"]).ok();
    until_pods(&kubectl, "a replacement", |pods| {
        pods.len() == 2 && are_owned(pods, 2) && pods.iter().all(|[name, ..]| name != "early")
    })
    .await;
    let owners = ["get", "pod", "early", "-o", "jsonpath={.metadata.ownerReferences}"];
    assert_eq!(kubectl.run(&owners).ok(), "");

    // Orphans stay, and a new set takes them back.
    let uids = |pods: &[[String; 4]]| pods.iter().map(|[_, uid, ..]| uid.clone()).collect::<BTreeSet<_>>();
    let before = uids(&pods(&kubectl));
    kubectl.run(&["delete", "rs", "web", "--cascade=orphan", "--timeout=60s"]).ok();
    let left = pods(&kubectl);
    assert_eq!((uids(&left), are_owned(&left, 0)), (before.clone(), true));
    kubectl.apply(&set("ReplicaSet", 2));
    until_pods(&kubectl, "the orphans are adopted", |pods| are_owned(pods, 2)).await;
    assert_eq!(uids(&pods(&kubectl)), before);

    // Of ready pods, those that cost least go first; without a price a pod costs nothing.
    kubectl.run(&["scale", "rs", "web", "--replicas=4"]).ok();
    kubectl.run(&["wait", "--for=jsonpath={.status.readyReplicas}=4", "rs/web", "--timeout=60s"]).ok();
    let names: Vec<_> = pods(&kubectl).into_iter().map(|[name, ..]| name).collect();
    let [cheap, free, dear, dearest] = &names[..] else { panic!("{names:?}") };
    for (pod, cost) in [(cheap, "-5"), (dear, "7"), (dearest, "100")] {
        let cost = format!("controller.kubernetes.io/pod-deletion-cost={cost}");
        kubectl.run(&["annotate", "pod", pod, &cost]).ok();
    }
    for (replicas, gone) in [(3, cheap), (2, free), (1, dear)] {
        kubectl.run(&["scale", "rs", "web", &format!("--replicas={replicas}")]).ok();
        until_pods(&kubectl, &format!("{gone} goes"), |pods| {
            pods.len() == replicas && pods.iter().all(|[name, ..]| name != gone)
        })
        .await;
    }
    assert_eq!(pods(&kubectl)[0][0], *dearest);
}

/// Makes a budget for `app: web`, and waits until it counts `healthy` pods and wants `wanted`.
async fn budget(kubectl: &Kubectl, name: &str, spec: &str, healthy: i32, wanted: i32) {
    kubectl.apply(&format!(
        "apiVersion: policy/v1\nkind: PodDisruptionBudget\nmetadata: {{name: {name}}}\nspec: {{selector: {{matchLabels: \
         {{app: web}}}}, {spec}}}\n"
    ));
    until_budget(kubectl, name, &format!("1 {healthy} {wanted} {}", (healthy - wanted).max(0))).await;
}

/// Waits until the budget's status is `counts`: the generation observed, healthy, wanted and allowed.
async fn until_budget(kubectl: &Kubectl, name: &str, counts: &str) {
    let path = "jsonpath={.status.observedGeneration} {.status.currentHealthy} {.status.desiredHealthy} \
                {.status.disruptionsAllowed}";
    eventually(&format!("budget {name} counts {counts}"), async || {
        let found = kubectl.run(&["get", "pdb", name, "-o", path]).ok();
        if found == counts { Ok(()) } else { Err(found) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_waits_for_budgets() {
    let cluster = Cluster::start();
    let kubectl = cluster.kubectl();
    cluster.import_samples(&["hello"]);
    kubectl.apply(&lone_pod("one", "app: web"));
    kubectl.run(&["wait", "--for=condition=Ready", "pod/one", "--timeout=60s"]).ok();
    budget(&kubectl, "web", "minAvailable: 1", 1, 1).await;
    let api = Api::of(&cluster).await;
    let evict = async |name: &str| {
        let eviction = json!({ "apiVersion": "policy/v1", "kind": "Eviction", "metadata": { "name": name } });
        let path = format!("/api/v1/namespaces/default/pods/{name}/eviction");
        api.send("POST", &path, &[("content-type", JSON)], eviction.to_string()).await
    };
    const VIOLATED: &str = "Cannot evict pod as it would violate the pod's disruption budget.";
    let refused = evict("one").await;
    let status: Value = refused.json();
    assert_eq!(
        (refused.status, &status["reason"], &status["message"]),
        (429, &json!("TooManyRequests"), &json!(VIOLATED))
    );
    assert_eq!(
        status["details"]["causes"],
        json!([{ "reason": "DisruptionBudget", "message": "The disruption budget web needs 1 healthy pods and has 1 currently" }])
    );

    // kubectl tries again until it is told to stop.
    let node = kubectl.pod_field("one", ".spec.nodeName");
    for kubectl in cluster.kubectls() {
        let refused = kubectl.run(&["drain", &node, "--force", "--timeout=1s"]).refused();
        assert!(
            refused.contains(&format!(
                "error when evicting pods/\"one\" -n \"default\" (will retry after 5s): {VIOLATED}"
            )) && refused.contains("global timeout reached: 1s"),
            "{refused}"
        );
    }
    kubectl.run(&["uncordon", &node]).ok();

    // Two budgets about one pod are too many to obey.
    budget(&kubectl, "again", "minAvailable: 1", 1, 1).await;
    let refused = evict("one").await;
    assert_eq!(refused.status, 500);
    assert_eq!(
        refused.json()["message"],
        "Internal error occurred: This pod has more than one PodDisruptionBudget, which the eviction subresource does not support."
    );
    kubectl.run(&["delete", "pdb", "again"]).ok();

    // Pods that do not serve: only where the budget does not want them to come up first.
    kubectl.apply(
        &lone_pod("two", "app: web")
            .replace("'hello:v1', ", "'hello:v1', readinessProbe: {exec: {command: [none]}}, "),
    );
    kubectl.run(&["wait", "--for=jsonpath={.status.phase}=Running", "pod/two", "--timeout=60s"]).ok();
    kubectl.run(&["delete", "pdb", "web"]).ok();
    budget(&kubectl, "web", "minAvailable: 2, unhealthyPodEvictionPolicy: IfHealthyBudget", 1, 2).await;
    assert_eq!(evict("two").await.status, 429);
    kubectl.run(&["delete", "pdb", "web"]).ok();
    budget(&kubectl, "web", "minAvailable: 2, unhealthyPodEvictionPolicy: AlwaysAllow", 1, 2).await;
    assert_eq!(evict("two").await.status, 201);
    kubectl.run(&["wait", "--for=delete", "pod/two", "--timeout=60s"]).ok();
    assert_eq!(evict("one").await.status, 429);

    // One more than is needed: it may go, and is counted.
    kubectl.run(&["delete", "pdb", "web"]).ok();
    budget(&kubectl, "web", "minAvailable: 0", 1, 0).await;
    assert_eq!(evict("one").await.status, 201);
    kubectl.run(&["wait", "--for=delete", "pod/one", "--timeout=60s"]).ok();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_moves_the_pods_of_a_deployment_one_by_one() {
    let cluster = Cluster::start_with(Options { nodes: 2, ..Options::default() });
    let kubectl = cluster.kubectl();
    cluster.import_samples(&["hello"]);
    kubectl.run(&["cordon", "naru-2"]).ok();
    kubectl.apply(&set("Deployment", 3));
    kubectl.run(&["create", "pdb", "web", "--selector=app=web", "--max-unavailable=1"]).ok();
    kubectl.run(&["rollout", "status", "deploy/web", "--timeout=60s"]).ok();
    until_budget(&kubectl, "web", "1 3 2 1").await;
    for kubectl in cluster.kubectls() {
        let table = kubectl.run(&["get", "pdb"]).ok();
        let rows: Vec<Vec<&str>> = table.lines().map(|row| row.split_whitespace().collect()).collect();
        assert_eq!(rows[0].join(" "), "NAME MIN AVAILABLE MAX UNAVAILABLE ALLOWED DISRUPTIONS AGE");
        assert_eq!(rows[1][..4], ["web", "N/A", "1", "1"]);
        let told = kubectl.run(&["describe", "pdb", "web"]).ok();
        let told: Vec<String> =
            told.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        for line in ["Allowed disruptions: 1", "Current: 3", "Desired: 2", "Total: 3"] {
            assert!(told.iter().any(|other| other == line), "{told:?}");
        }
    }
    let path =
        "jsonpath={.status.conditions[0].type} {.status.conditions[0].status} {.status.conditions[0].reason}";
    let condition = kubectl.run(&["get", "pdb", "web", "-o", path]).ok();
    assert_eq!(condition, "DisruptionAllowed True SufficientPods");

    // All pods are on the first node, and may go to the second only.
    assert!(pods(&kubectl).iter().all(|[_, _, node, _]| node == "naru-1"));
    kubectl.run(&["uncordon", "naru-2"]).ok();
    let drained = std::thread::scope(|scope| {
        let drain = scope.spawn(|| kubectl.run(&["drain", "naru-1", "--timeout=60s"]));
        let ready = "jsonpath={range .items[*]}{.metadata.deletionTimestamp}#{.status.conditions[?(@.type==\"Ready\")].status}\
                     {\"\\n\"}{end}";
        while !drain.is_finished() {
            let listed = kubectl.run(&["get", "pods", "-l", "app=web", "-o", ready]).ok();
            let serving = listed.lines().filter(|line| *line == "#True").count();
            assert!(serving >= 2, "more than one is away: {listed}");
        }
        drain.join().expect("kubectl ran")
    });
    let drained = drained.stderr.clone() + &drained.ok();
    assert!(drained.contains("node/naru-1 drained"), "{drained}");
    let waits = drained.matches("(will retry after 5s): Cannot evict pod as it would violate").count();
    assert!(waits >= 2, "not all could go at once: {drained}");
    assert!(pods(&kubectl).iter().all(|[_, _, node, _]| node == "naru-2"));
    kubectl.run(&["rollout", "status", "deploy/web", "--timeout=60s"]).ok();
    until_budget(&kubectl, "web", "1 3 2 1").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_budget_goes_by_the_scale_of_whatever_controls_its_pods() {
    let cluster = Cluster::start();
    let kubectl = cluster.kubectl();
    kubectl.run(&["wait", "--for=create", "serviceaccount/default", "--timeout=30s"]).ok();
    kubectl.apply(
        "\
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: fleets.example.com}
spec:
  group: example.com
  scope: Namespaced
  names: {plural: fleets, singular: fleet, kind: Fleet}
  versions:
  - name: v1
    served: true
    storage: true
    schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
    subresources: {status: {}, scale: {specReplicasPath: .spec.size, statusReplicasPath: .status.size}}
",
    );
    kubectl.established("fleets.example.com");
    let fleet = "{apiVersion: example.com/v1, kind: Fleet, metadata: {name: ferries}, spec: {size: 5}}";
    eventually("a fleet is taken", async || {
        let answer = kubectl.run_with(&["apply", "-f", "-"], fleet);
        if answer.code == 0 { Ok(()) } else { Err(answer.stderr) }
    })
    .await;
    let uid = kubectl.run(&["get", "fleet", "ferries", "-o", "jsonpath={.metadata.uid}"]).ok();
    let running = |name: &str, owner: &str| {
        kubectl.apply(&format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, labels: {{app: web}}, ownerReferences: [{owner}]}}, \
             spec: {{schedulerName: nobody, containers: [{{name: c, image: none}}]}}}}"
        ));
        let status = r#"{"status":{"phase":"Running","conditions":[{"type":"Ready","status":"True"}]}}"#;
        kubectl.run(&["patch", "pod", name, "--subresource=status", "-p", status]).ok();
    };
    let owner =
        format!("{{apiVersion: example.com/v1, kind: Fleet, name: ferries, uid: {uid}, controller: true}}");
    for name in ["one", "two", "three", "four"] {
        running(name, &owner);
    }
    // Three fifths, rounded up from half.
    budget(&kubectl, "web", "minAvailable: 50%", 4, 3).await;
    let expected = ["get", "pdb", "web", "-o", "jsonpath={.status.expectedPods}"];
    assert_eq!(kubectl.run(&expected).ok(), "5");

    // One that no controller speaks for any more: nothing is allowed until that is settled.
    let set = "{apiVersion: apps/v1, kind: DaemonSet, metadata: {name: all}, spec: {selector: {matchLabels: {app: all}}, \
               template: {metadata: {labels: {app: all}}, spec: {nodeSelector: {none: such}, containers: [{name: c, image: none}]}}}}";
    kubectl.apply(set);
    let uid = kubectl.run(&["get", "ds", "all", "-o", "jsonpath={.metadata.uid}"]).ok();
    running(
        "five",
        &format!("{{apiVersion: apps/v1, kind: DaemonSet, name: all, uid: {uid}, controller: true}}"),
    );
    let problem = "daemonsets.apps does not implement the scale subresource";
    let failed = format!("SyncFailed {problem} 0");
    let path = "jsonpath={.status.conditions[0].reason} {.status.conditions[0].message} {.status.disruptionsAllowed}";
    eventually("the budget says what is wrong", async || {
        let found = kubectl.run(&["get", "pdb", "web", "-o", path]).ok();
        if found == failed { Ok(()) } else { Err(found) }
    })
    .await;
    eventually("an event says so, too", async || {
        let told = kubectl.run(&["events", "--for=pdb/web"]).ok();
        if told.contains("CalculateExpectedPodCountFailed") && told.contains(problem) {
            Ok(())
        } else {
            Err(told)
        }
    })
    .await;
    kubectl.run(&["delete", "pod", "five", "--force"]).ok();
    until_budget(&kubectl, "web", "1 4 3 1").await;
}
