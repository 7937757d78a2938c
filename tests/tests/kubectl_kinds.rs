//! Stock kubectl on the kinds whose controllers are the API's users: each is created in full, shown, explained and
//! deleted.

use naru_tests::{Cluster, Kubectl, eventually};
use serde_json::Value;

/// One object of every kind, with fields of all sorts.
const EVERYTHING: &str = include_str!("kinds.yaml");

/// What client-side apply always takes for changed, with any server of Kubernetes.
const REPLACED: &[&str] = &[
    "limitrange/bounds",
    "statefulset.apps/db",
    "job.batch/count",
    "poddisruptionbudget.policy/web",
    "endpoints/outside",
    "validatingwebhookconfiguration.admissionregistration.k8s.io/guards",
    "mutatingwebhookconfiguration.admissionregistration.k8s.io/painters",
    "validatingadmissionpolicy.admissionregistration.k8s.io/few-replicas",
    "resourceclaim.resource.k8s.io/gpu",
];

/// Each line of a table, its cells joined by single spaces.
fn table(text: &str) -> Vec<String> {
    text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}

fn get(kubectl: &Kubectl, args: &[&str]) -> Vec<String> {
    table(&kubectl.run(&[&["get"], args].concat()).ok())
}

/// The header of a table and the start of its first row, without the age.
fn check_table(kubectl: &Kubectl, args: &[&str], header: &str, row: &str) {
    let lines = get(kubectl, args);
    assert_eq!(lines[0], header, "{args:?}");
    assert!(lines[1].starts_with(row), "{args:?}: {:?} does not start with {row:?}", lines[1]);
}

fn json(kubectl: &Kubectl, args: &[&str]) -> Value {
    let text = kubectl.run(&[&["get", "-o", "json"], args].concat()).ok();
    serde_json::from_str(&text).expect("JSON")
}

#[test]
fn every_kind_is_applied_shown_explained_and_deleted() {
    let cluster = Cluster::start();
    let kubectl = cluster.kubectl();
    let apply = |extra: &[&str]| {
        let args = [&["apply", "--validate=strict", "-f", "-"], extra].concat();
        kubectl.run_with(&args, EVERYTHING).ok()
    };
    let created = apply(&[]);
    assert!(created.lines().all(|line| line.ends_with(" created")), "{created}");
    // What was applied is there, so a second time changes nothing. kubectl says so of all but those whose defaults
    // stand in lists that are replaced as a whole, and a budget, whose selector is.
    let again = apply(&[]);
    let configured: Vec<_> = again.lines().filter_map(|line| line.strip_suffix(" configured")).collect();
    assert_eq!(configured, REPLACED, "{again}");
    assert!(again.lines().all(|line| line.ends_with(" unchanged") || line.ends_with(" configured")));

    tables(&kubectl);
    versions(&kubectl);
    scales(&kubectl);

    for path in [
        "statefulset.spec.volumeClaimTemplates",
        "daemonset.spec.updateStrategy.rollingUpdate.maxSurge",
        "job.spec.podFailurePolicy.rules.onExitCodes",
        "cronjob.spec.timeZone",
        "hpa.spec.behavior.scaleUp.policies",
        "pdb.spec.unhealthyPodEvictionPolicy",
        "pv.spec.csi",
        "pvc.spec.dataSourceRef",
        "quota.spec.scopeSelector",
        "limits.spec.limits.maxLimitRequestRatio",
        "priorityclass.preemptionPolicy",
        "runtimeclass.overhead.podFixed",
        "rc.spec.template",
        "podtemplate.template",
    ] {
        let text = kubectl.run(&["explain", path]).ok();
        assert!(text.contains("DESCRIPTION:"), "{path}: {text}");
    }
    // Every kind can be told of in words.
    for object in kubectl.run_with(&["get", "-o", "name", "-f", "-"], EVERYTHING).ok().lines() {
        let text = kubectl.run(&["describe", object]).ok();
        let name = object.split_once('/').expect("KIND/NAME").1;
        assert!(text.starts_with("Name:") && text.contains(name), "{object}: {text}");
    }
    let deleted = kubectl.run_with(&["delete", "--wait=false", "-f", "-"], EVERYTHING).ok();
    assert_eq!(deleted.lines().filter(|line| line.contains(" deleted")).count(), created.lines().count());
}

fn tables(kubectl: &Kubectl) {
    let shown = |args: &[&str], header: &str, row: &str| check_table(kubectl, args, header, row);
    shown(&["sts", "db"], "NAME READY AGE", "db 0/2 ");
    shown(
        &["ds", "logs"],
        "NAME DESIRED CURRENT READY UP-TO-DATE AVAILABLE NODE SELECTOR AGE",
        "logs 0 0 0 0 0 disk=fast ",
    );
    shown(&["rc", "old"], "NAME DESIRED CURRENT READY AGE", "old 0 0 0 ");
    shown(&["podtemplate", "mould"], "NAME CONTAINERS IMAGES POD LABELS", "mould c hello:v1 app=mould");
    shown(&["job", "count"], "NAME STATUS COMPLETIONS DURATION AGE", "count Running 0/3 ");
    shown(
        &["cj", "nightly"],
        "NAME SCHEDULE TIMEZONE SUSPEND ACTIVE LAST SCHEDULE AGE",
        "nightly 0 3 * * 1-5 Europe/Berlin True 0 <none> ",
    );
    shown(
        &["hpa", "web"],
        "NAME REFERENCE TARGETS MINPODS MAXPODS REPLICAS AGE",
        "web Deployment/web cpu: <unknown>/60%, <unknown>/100 + 1 more... 2 9 0 ",
    );
    shown(&["pdb", "web"], "NAME MIN AVAILABLE MAX UNAVAILABLE ALLOWED DISRUPTIONS AGE", "web 50% N/A 0 ");
    shown(
        &["pv", "disk"],
        "NAME CAPACITY ACCESS MODES RECLAIM POLICY STATUS CLAIM STORAGECLASS VOLUMEATTRIBUTESCLASS REASON AGE",
        "disk 5Gi RWO,ROX Retain Pending default/data fast <unset> ",
    );
    shown(
        &["pvc", "data"],
        "NAME STATUS VOLUME CAPACITY ACCESS MODES STORAGECLASS VOLUMEATTRIBUTESCLASS AGE",
        "data Pending fast <unset> ",
    );
    shown(&["quota", "few"], "NAME REQUEST LIMIT AGE", "few ");
    shown(&["limits", "bounds"], "NAME CREATED AT", "bounds 20");
    shown(&["pc", "high"], "NAME VALUE GLOBAL-DEFAULT AGE PREEMPTIONPOLICY", "high 1000 false ");
    shown(&["runtimeclass", "wasm"], "NAME HANDLER AGE", "wasm spin ");
    let classes = get(kubectl, &["pc"]).join("\n");
    for class in ["system-cluster-critical 2000000000", "system-node-critical 2000001000"] {
        assert!(classes.contains(class), "{classes}");
    }
    let components = kubectl.run(&["get", "cs"]);
    assert!(
        components.stderr.contains("v1 ComponentStatus is deprecated in v1.19+"),
        "{}",
        components.stderr
    );
    let endpoints = kubectl.run(&["get", "endpoints"]);
    let warning = "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice";
    assert!(endpoints.stderr.contains(warning), "{}", endpoints.stderr);
    let lines = table(&components.ok());
    assert_eq!(lines[0], "NAME STATUS MESSAGE ERROR");
    assert_eq!(lines[1..], ["controller-manager Healthy ok", "scheduler Healthy ok", "etcd-0 Healthy ok"]);
    let etcd = json(kubectl, &["componentstatus", "etcd-0"]);
    assert_eq!(etcd["conditions"][0]["type"], "Healthy");
    assert_eq!(etcd["metadata"].get("resourceVersion"), None);
}

/// The same autoscaler in both of its versions.
fn versions(kubectl: &Kubectl) {
    let old = json(kubectl, &["horizontalpodautoscalers.v1.autoscaling", "web"]);
    assert_eq!(
        (&old["apiVersion"], &old["spec"]["targetCPUUtilizationPercentage"]),
        (&"autoscaling/v1".into(), &60.into())
    );
    let annotations = &old["metadata"]["annotations"];
    let others = annotations["autoscaling.alpha.kubernetes.io/metrics"].as_str().expect("an annotation");
    assert!(
        others.contains("\"metricName\":\"rps\"") && others.contains("\"targetValue\":\"30\""),
        "{others}"
    );
    let before = json(kubectl, &["hpa", "web"]);
    assert_eq!(before["apiVersion"], "autoscaling/v2");
    // A write in the old version keeps what only the new one can say.
    let patch = r#"{"spec":{"targetCPUUtilizationPercentage":70}}"#;
    kubectl
        .run(&["patch", "horizontalpodautoscalers.v1.autoscaling", "web", "--type=merge", "-p", patch])
        .ok();
    let after = json(kubectl, &["hpa", "web"]);
    assert_eq!(after["spec"]["behavior"], before["spec"]["behavior"]);
    let metrics = after["spec"]["metrics"].as_array().expect("metrics");
    assert_eq!(metrics.len(), 3);
    let cpu = metrics.iter().find(|metric| metric["type"] == "Resource").expect("the CPU's metric");
    assert_eq!(cpu["resource"]["target"]["averageUtilization"], 70);
    let strange = "{apiVersion: autoscaling/v1, kind: HorizontalPodAutoscaler, metadata: {name: x}, \
                   spec: {maxReplicas: 1, scaleTargetRef: {kind: Deployment, name: web}, metrics: []}}";
    let refused = kubectl.run_with(&["create", "--validate=strict", "-f", "-"], strange).refused();
    assert!(refused.contains("unknown field \"spec.metrics\""), "{refused}");
}

fn scales(kubectl: &Kubectl) {
    for (resource, name) in [("sts", "db"), ("rc", "old")] {
        kubectl.run(&["scale", resource, name, "--replicas=0"]).ok();
        assert_eq!(json(kubectl, &[resource, name])["spec"]["replicas"], 0);
    }
    // What of a rollout is the API's.
    for object in ["sts/db", "ds/logs"] {
        kubectl.run(&["rollout", "restart", object]).ok();
        let path = "jsonpath={.spec.template.metadata.annotations}";
        let annotations = kubectl.run(&["get", object, "-o", path]).ok();
        assert!(annotations.contains("kubectl.kubernetes.io/restartedAt"), "{annotations}");
        kubectl.run(&["rollout", "history", object]).ok();
    }
}

#[test]
fn generators_make_what_the_server_takes() {
    let cluster = Cluster::start();
    let kubectl = cluster.kubectl();
    let create = |args: &[&str], expected: &str| {
        let line = kubectl.run(&[&["create", "--validate=strict"], args].concat()).ok();
        assert_eq!(line, format!("{expected} created\n"));
    };
    create(&["job", "once", "--image=hello:v1", "--", "true"], "job.batch/once");
    create(&["cronjob", "nightly", "--image=hello:v1", "--schedule=0 3 * * *"], "cronjob.batch/nightly");
    create(&["job", "now", "--from=cronjob/nightly"], "job.batch/now");
    create(&["quota", "few", "--hard=pods=4,requests.cpu=2", "--scopes=NotBestEffort"], "resourcequota/few");
    create(&["pdb", "web", "--selector=app=web", "--min-available=1"], "poddisruptionbudget.policy/web");
    create(
        &["priorityclass", "high", "--value=10", "--global-default"],
        "priorityclass.scheduling.k8s.io/high",
    );
    create(&["deployment", "web", "--image=hello:v1", "--replicas=0"], "deployment.apps/web");
    kubectl.run(&["autoscale", "deployment", "web", "--min=1", "--max=3", "--cpu=50%"]).ok();
    assert_eq!(
        get(&kubectl, &["hpa", "web"])[1].split(" 1 3 ").next(),
        Some("web Deployment/web cpu: <unknown>/50%")
    );

    // A job's pods are its own.
    let job = json(&kubectl, &["job", "once"]);
    let (uid, labels) = (&job["metadata"]["uid"], &job["spec"]["template"]["metadata"]["labels"]);
    assert_eq!(&labels["batch.kubernetes.io/controller-uid"], uid);
    assert_eq!(&job["spec"]["selector"]["matchLabels"]["batch.kubernetes.io/controller-uid"], uid);
    assert_eq!(labels["job-name"], "once");
    let refused = kubectl.run(&["patch", "job", "once", "-p", r#"{"spec":{"completions":7}}"#]).refused();
    assert!(refused.contains("spec.completions: Invalid value: 7: field is immutable"), "{refused}");
    let refused = kubectl.run(&["create", "cronjob", "bad", "--image=i", "--schedule=99 * * * *"]).refused();
    assert!(refused.contains("end of range (99) above maximum (59): 99"), "{refused}");
    let refused =
        kubectl.run(&["create", "priorityclass", "other", "--value=1", "--global-default"]).refused();
    assert!(refused.contains("PriorityClass high is already marked as default"), "{refused}");
    let refused = kubectl.run(&["create", "quota", "bad", "--hard=cups=1"]).refused();
    assert!(refused.contains("must be a standard resource for quota"), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_budget_keeps_pods_from_being_evicted() {
    let cluster = Cluster::start();
    let kubectl = cluster.kubectl();
    kubectl.run(&["wait", "--for=create", "serviceaccount/default", "--timeout=30s"]).ok();
    let pod = |name: &str| {
        format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, labels: {{app: web}}}}, spec: {{schedulerName: nobody, \
             containers: [{{name: c, image: none}}]}}}}"
        )
    };
    let running = |name: &str| {
        kubectl.run_with(&["create", "-f", "-"], &pod(name)).ok();
        let status = r#"{"status":{"phase":"Running","conditions":[{"type":"Ready","status":"True"}]}}"#;
        kubectl.run(&["patch", "pod", name, "--subresource=status", "-p", status]).ok();
    };
    running("one");
    kubectl.run(&["create", "pdb", "web", "--selector=app=web", "--min-available=1"]).ok();
    let evict = |name: &str| {
        let eviction = format!(
            "{{\"apiVersion\":\"policy/v1\",\"kind\":\"Eviction\",\"metadata\":{{\"name\":\"{name}\"}}}}"
        );
        let path = format!("/api/v1/namespaces/default/pods/{name}/eviction");
        kubectl.run_with(&["create", "--raw", &path, "-f", "-"], &eviction)
    };
    // Healthy, allowed, and why.
    let counted = async |expected: &str| {
        let path =
            "jsonpath={.status.currentHealthy} {.status.disruptionsAllowed} {.status.conditions[0].reason}";
        eventually(&format!("the budget says {expected}"), async || {
            let found = kubectl.run(&["get", "pdb", "web", "-o", path]).ok();
            if found == expected { Ok(()) } else { Err(found) }
        })
        .await;
    };
    counted("1 0 InsufficientPods").await;
    let refused = evict("one").refused();
    assert!(
        refused.contains("Cannot evict pod as it would violate the pod's disruption budget."),
        "{refused}"
    );
    running("two");
    counted("2 1 SufficientPods").await;
    evict("one").ok();
    counted("1 0 InsufficientPods").await;
    let refused = evict("two").refused();
    assert!(refused.contains("violate the pod's disruption budget"), "{refused}");
    // What serves nobody costs no budget while the others are enough.
    running("four");
    counted("2 1 SufficientPods").await;
    let unready = r#"{"status":{"conditions":[{"type":"Ready","status":"False"}]}}"#;
    kubectl.run(&["patch", "pod", "two", "--subresource=status", "-p", unready]).ok();
    counted("1 0 InsufficientPods").await;
    evict("two").ok();
    // A binding in the collection assigns the pod that it names.
    kubectl.run_with(&["create", "-f", "-"], &pod("three")).ok();
    let node =
        json(&kubectl, &["nodes"])["items"][0]["metadata"]["name"].as_str().expect("a node").to_owned();
    let binding = format!(
        "{{\"apiVersion\":\"v1\",\"kind\":\"Binding\",\"metadata\":{{\"name\":\"three\"}},\"target\":{{\"kind\":\"Node\",\"name\":\"{node}\"}}}}"
    );
    kubectl.run_with(&["create", "--raw", "/api/v1/namespaces/default/bindings", "-f", "-"], &binding).ok();
    assert_eq!(json(&kubectl, &["pod", "three"])["spec"]["nodeName"], node.as_str());
}
