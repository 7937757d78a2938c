//! Stock kubectl, two versions, on objects: every command that needs no running container.

use std::{
    io::{BufRead as _, BufReader},
    process::Stdio,
};

use naru_tests::{Cluster, Kubectl, eventually};

const WEB: &str = "\
apiVersion: apps/v1
kind: Deployment
metadata:
  name: web
  labels: {app: web}
spec:
  replicas: 0
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - name: web
        image: hello:v1
        ports: [{containerPort: 8080}]
";

/// Runs `story` once for each kubectl version, each in a namespace of its own.
fn with_each_kubectl(story: impl Fn(&Cluster, &Kubectl, &str)) {
    let cluster = Cluster::start();
    for (kubectl, namespace) in cluster.kubectls().iter().zip(["old", "new"]) {
        kubectl.run(&["create", "namespace", namespace]).ok();
        eventually_has_service_account(kubectl, namespace);
        story(&cluster, kubectl, namespace);
    }
}

fn eventually_has_service_account(kubectl: &Kubectl, namespace: &str) {
    kubectl.run(&["-n", namespace, "wait", "--for=create", "serviceaccount/default", "--timeout=30s"]).ok();
}

#[test]
fn apply_creates_then_changes_then_leaves_alone() {
    with_each_kubectl(|_, kubectl, ns| {
        let apply = |yaml: &str| kubectl.run_with(&["-n", ns, "apply", "-f", "-"], yaml).ok();
        assert_eq!(apply(WEB), "deployment.apps/web created\n");
        assert_eq!(apply(WEB), "deployment.apps/web unchanged\n");
        let changed = WEB.replace("labels: {app: web}\nspec", "labels: {app: web, tier: front}\nspec");
        assert_eq!(apply(&changed), "deployment.apps/web configured\n");
        let labels =
            kubectl.run(&["-n", ns, "get", "deploy", "web", "-o", "jsonpath={.metadata.labels}"]).ok();
        assert_eq!(labels, r#"{"app":"web","tier":"front"}"#);
        // What the manifest no longer says goes away.
        assert_eq!(apply(WEB), "deployment.apps/web configured\n");
        let labels =
            kubectl.run(&["-n", ns, "get", "deploy", "web", "-o", "jsonpath={.metadata.labels}"]).ok();
        assert_eq!(labels, r#"{"app":"web"}"#);
    });
}

#[test]
fn create_makes_objects_of_many_kinds() {
    with_each_kubectl(|_, kubectl, ns| {
        let create = |args: &[&str]| kubectl.run(&[&["-n", ns, "create"], args].concat()).ok();
        assert_eq!(create(&["configmap", "c", "--from-literal=k=v"]), "configmap/c created\n");
        assert_eq!(create(&["secret", "generic", "s", "--from-literal=k=v"]), "secret/s created\n");
        assert_eq!(create(&["serviceaccount", "sa"]), "serviceaccount/sa created\n");
        assert_eq!(
            create(&["deployment", "d", "--image=hello:v1", "--replicas=0"]),
            "deployment.apps/d created\n"
        );
        assert_eq!(create(&["service", "clusterip", "svc", "--tcp=80:8080"]), "service/svc created\n");
        let again = kubectl.run(&["-n", ns, "create", "configmap", "c"]).refused();
        assert_eq!(again, "error: failed to create configmap: configmaps \"c\" already exists\n");
        let secret = kubectl.run(&["-n", ns, "get", "secret", "s", "-o", "jsonpath={.data.k} {.type}"]).ok();
        assert_eq!(secret, "dg== Opaque");
    });
}

#[test]
fn get_prints_tables_and_documents() {
    with_each_kubectl(|_, kubectl, ns| {
        kubectl.run_with(&["-n", ns, "apply", "-f", "-"], WEB).ok();
        kubectl.run(&["-n", ns, "create", "configmap", "c", "--from-literal=k=v"]).ok();
        let get = |args: &[&str]| kubectl.run(&[&["-n", ns, "get"], args].concat()).ok();
        let header = |text: &str| {
            text.lines().next().unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ")
        };

        assert_eq!(header(&get(&["deploy"])), "NAME READY UP-TO-DATE AVAILABLE AGE");
        assert_eq!(
            header(&get(&["deploy", "-o", "wide"])),
            "NAME READY UP-TO-DATE AVAILABLE AGE CONTAINERS IMAGES SELECTOR"
        );
        assert_eq!(header(&get(&["cm"])), "NAME DATA AGE");
        assert_eq!(header(&get(&["deploy", "-A"])), "NAMESPACE NAME READY UP-TO-DATE AVAILABLE AGE");
        assert_eq!(get(&["deploy", "-o", "name"]), "deployment.apps/web\n");
        assert_eq!(
            get(&["deploy", "web", "-o", "jsonpath={.spec.template.spec.containers[0].image}"]),
            "hello:v1"
        );
        let yaml = get(&["deploy", "web", "-o", "yaml"]);
        assert!(yaml.contains("terminationGracePeriodSeconds: 30"), "defaults are filled in: {yaml}");
        let json: serde_json::Value = serde_json::from_str(&get(&["deploy", "-o", "json"])).unwrap();
        assert_eq!(json["items"][0]["kind"], "Deployment");
        assert_eq!(get(&["deploy", "-l", "app=web", "-o", "name"]), "deployment.apps/web\n");
        assert_eq!(get(&["deploy", "-l", "app!=web", "-o", "name"]), "");
        assert_eq!(get(&["cm", "--field-selector", "metadata.name=c", "-o", "name"]), "configmap/c\n");
        assert!(
            !get(&["cm", "--field-selector", "metadata.name!=c", "-o", "name"]).contains("configmap/c\n")
        );
        let missing = kubectl.run(&["-n", ns, "get", "deploy", "nope"]).refused();
        assert_eq!(missing, "Error from server (NotFound): deployments.apps \"nope\" not found\n");
        assert!(kubectl.run(&["get", "nodes"]).ok().contains("Ready"));
    });
}

#[test]
fn get_watches() {
    with_each_kubectl(|_, kubectl, ns| {
        let mut watch = kubectl
            .command(&[
                "-n",
                ns,
                "get",
                "cm",
                "-w",
                "-o",
                "name",
                "--field-selector",
                "metadata.name!=kube-root-ca.crt",
            ])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
        for name in ["one", "two"] {
            kubectl.run(&["-n", ns, "create", "configmap", name]).ok();
            assert_eq!(lines.next().unwrap().unwrap(), format!("configmap/{name}"));
        }
        kubectl.run(&["-n", ns, "delete", "configmap", "one"]).ok();
        assert_eq!(lines.next().unwrap().unwrap(), "configmap/one");
        watch.kill().unwrap();
        watch.wait().unwrap();
    });
}

#[test]
fn describe_tells_what_there_is() {
    with_each_kubectl(|_, kubectl, ns| {
        kubectl.run_with(&["-n", ns, "apply", "-f", "-"], WEB).ok();
        let text = kubectl.run(&["-n", ns, "describe", "deployment", "web"]).ok();
        assert!(text.contains("StrategyType:           RollingUpdate"), "{text}");
        assert!(text.contains("25% max unavailable, 25% max surge"), "{text}");
        let node = kubectl.run(&["describe", "nodes"]).ok();
        for part in ["Capacity:", "Allocatable:", "Lease:", "KubeletReady", "System Info:"] {
            assert!(node.contains(part), "{part} is missing in {node}");
        }
        kubectl.run(&["describe", "namespace", ns]).ok();
        kubectl.run(&["-n", ns, "create", "service", "clusterip", "svc", "--tcp=80:8080"]).ok();
        assert!(kubectl.run(&["-n", ns, "describe", "service", "svc"]).ok().contains("Session Affinity:"));
    });
}

#[test]
fn edit_label_annotate_and_scale_change_objects() {
    with_each_kubectl(|_, kubectl, ns| {
        kubectl.run_with(&["-n", ns, "apply", "-f", "-"], WEB).ok();
        let path = |path: &str| {
            kubectl.run(&["-n", ns, "get", "deploy", "web", "-o", &format!("jsonpath={path}")]).ok()
        };
        kubectl.run(&["-n", ns, "label", "deploy", "web", "tier=front"]).ok();
        assert_eq!(path("{.metadata.labels.tier}"), "front");
        let refused = kubectl.run(&["-n", ns, "label", "deploy", "web", "tier=back"]).refused();
        assert!(refused.contains("already has a value (front)"), "{refused}");
        kubectl.run(&["-n", ns, "label", "deploy", "web", "tier=back", "--overwrite"]).ok();
        kubectl.run(&["-n", ns, "label", "deploy", "web", "tier-"]).ok();
        assert_eq!(path("{.metadata.labels.tier}"), "");
        kubectl.run(&["-n", ns, "annotate", "deploy", "web", "note=kept"]).ok();
        assert_eq!(path("{.metadata.annotations.note}"), "kept");

        let edited = kubectl
            .command(&["-n", ns, "edit", "deploy", "web"])
            .env("KUBE_EDITOR", "sed -i s/revisionHistoryLimit:.10/revisionHistoryLimit:\\ 3/")
            .output()
            .unwrap();
        assert!(edited.status.success(), "{}", String::from_utf8_lossy(&edited.stderr));
        assert_eq!(path("{.spec.revisionHistoryLimit}"), "3");

        kubectl.run(&["-n", ns, "set", "image", "deploy/web", "web=hello:v2"]).ok();
        assert_eq!(path("{.spec.template.spec.containers[0].image}"), "hello:v2");

        kubectl.run(&["-n", ns, "scale", "deploy", "web", "--current-replicas=5", "--replicas=1"]).refused();
        kubectl.run(&["-n", ns, "patch", "deploy", "web", "-p", r#"{"spec":{"paused":true}}"#]).ok();
        kubectl.run(&["-n", ns, "scale", "deploy", "web", "--replicas=2"]).ok();
        assert_eq!(path("{.spec.replicas}"), "2");
    });
}

#[test]
fn patch_takes_all_three_types() {
    with_each_kubectl(|_, kubectl, ns| {
        kubectl.run_with(&["-n", ns, "apply", "-f", "-"], WEB).ok();
        let patch = |kind: &str, patch: &str| {
            kubectl.run(&["-n", ns, "patch", "deploy", "web", "--type", kind, "-p", patch])
        };
        let containers = || {
            kubectl
                .run(&[
                    "-n",
                    ns,
                    "get",
                    "deploy",
                    "web",
                    "-o",
                    "jsonpath={.spec.template.spec.containers[*].name}",
                ])
                .ok()
        };
        let add = r#"{"spec":{"template":{"spec":{"containers":[{"name":"side","image":"hello:v1"}]}}}}"#;
        patch("strategic", add).ok();
        assert_eq!(containers(), "side web", "lists of containers are merged by name");
        patch("merge", add).ok();
        assert_eq!(containers(), "side", "a merge patch replaces the list");
        patch("json", r#"[{"op":"replace","path":"/spec/template/spec/containers/0/name","value":"third"}]"#)
            .ok();
        assert_eq!(containers(), "third");
        let refused = patch("json", r#"[{"op":"test","path":"/spec/replicas","value":77}]"#).refused();
        assert!(refused.to_lowercase().contains("test"), "{refused}");
        patch("json", "[{]").refused();
    });
}

#[test]
fn diff_shows_what_apply_would_do() {
    with_each_kubectl(|_, kubectl, ns| {
        kubectl.run_with(&["-n", ns, "apply", "-f", "-"], WEB).ok();
        assert_eq!(kubectl.run_with(&["-n", ns, "diff", "-f", "-"], WEB).code, 0);
        let changed = WEB.replace("replicas: 0", "replicas: 3");
        let diff = kubectl.run_with(&["-n", ns, "diff", "-f", "-"], &changed);
        assert_eq!(diff.code, 1, "{}", diff.stderr);
        assert!(
            diff.stdout.contains("-  replicas: 0") && diff.stdout.contains("+  replicas: 3"),
            "{}",
            diff.stdout
        );
        let replicas =
            kubectl.run(&["-n", ns, "get", "deploy", "web", "-o", "jsonpath={.spec.replicas}"]).ok();
        assert_eq!(replicas, "0", "a diff changes nothing");
    });
}

#[test]
fn the_api_explains_itself() {
    with_each_kubectl(|_, kubectl, _| {
        let text = kubectl.run(&["explain", "deployment.spec.strategy.rollingUpdate.maxSurge"]).ok();
        assert!(text.contains("FIELD: maxSurge") && text.contains("maximum number of pods"), "{text}");
        let text = kubectl.run(&["explain", "pods"]).ok();
        assert!(text.contains("KIND:       Pod") && text.contains("spec"), "{text}");
        let resources = kubectl.run(&["api-resources"]).ok();
        for name in [
            "namespaces",
            "nodes",
            "pods",
            "replicasets",
            "deployments",
            "services",
            "endpoints",
            "endpointslices",
            "configmaps",
            "secrets",
            "serviceaccounts",
            "events",
            "leases",
            "controllerrevisions",
        ] {
            assert!(resources.lines().any(|line| line.starts_with(name)), "{name} is missing in {resources}");
        }
        assert!(kubectl.run(&["api-versions"]).ok().contains("apps/v1\n"));
        assert!(kubectl.run(&["cluster-info"]).ok().contains("Kubernetes control plane"));
        assert!(kubectl.run(&["version"]).ok().contains("Server Version: v1.37."));
        for path in ["/healthz", "/livez", "/readyz"] {
            assert_eq!(kubectl.run(&["get", "--raw", path]).ok(), "ok");
        }
        assert!(kubectl.run(&["get", "--raw", "/readyz?verbose"]).ok().contains("[+]"));
        assert!(kubectl.run(&["get", "--raw", "/metrics"]).ok().contains("apiserver_request_total"));
    });
}

#[test]
fn delete_waits_cascades_and_orphans() {
    with_each_kubectl(|_, kubectl, ns| {
        let replica_sets = || kubectl.run(&["-n", ns, "get", "rs", "-o", "name"]).ok();
        let deployed = |cascade: &str| {
            kubectl.run_with(&["-n", ns, "apply", "-f", "-"], WEB).ok();
            kubectl.run(&["-n", ns, "wait", "--for=create", "rs", "-l", "app=web", "--timeout=30s"]);
            let runtime = tokio::runtime::Runtime::new().unwrap();
            runtime.block_on(eventually("the deployment has its replica set", async || {
                if replica_sets().is_empty() { Err("none") } else { Ok(()) }
            }));
            kubectl
                .run(&["-n", ns, "delete", "deploy", "web", &format!("--cascade={cascade}"), "--timeout=30s"])
                .ok();
        };
        deployed("foreground");
        assert_eq!(replica_sets(), "", "the dependents go first");

        deployed("orphan");
        assert!(!replica_sets().is_empty(), "orphans stay");
        let owner =
            kubectl.run(&["-n", ns, "get", "rs", "-o", "jsonpath={.items[0].metadata.ownerReferences}"]).ok();
        assert_eq!(owner, "");
        kubectl.run(&["-n", ns, "delete", "rs", "--all", "--wait"]).ok();

        deployed("background");
        kubectl.run(&["-n", ns, "wait", "--for=delete", "rs", "-l", "app=web", "--timeout=30s"]).ok();
        assert_eq!(replica_sets(), "");
    });
}

#[test]
fn a_namespace_takes_what_is_in_it_along() {
    with_each_kubectl(|_, kubectl, _| {
        kubectl.run(&["create", "namespace", "gone"]).ok();
        kubectl.run(&["-n", "gone", "create", "configmap", "c"]).ok();
        kubectl.run_with(&["-n", "gone", "apply", "-f", "-"], WEB).ok();
        kubectl.run(&["delete", "namespace", "gone", "--timeout=45s"]).ok();
        let missing = kubectl.run(&["-n", "gone", "get", "cm", "c"]).refused();
        assert!(missing.contains("NotFound"), "{missing}");
        let refused = kubectl.run(&["-n", "gone", "create", "configmap", "c"]).refused();
        assert!(refused.contains("namespaces \"gone\" not found"), "{refused}");
    });
}

#[test]
fn wait_waits() {
    with_each_kubectl(|_, kubectl, ns| {
        kubectl.run(&["-n", ns, "create", "configmap", "c"]).ok();
        let waiting = kubectl
            .command(&["-n", ns, "wait", "--for=jsonpath={.data.k}=v", "cm/c", "--timeout=30s"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        kubectl.run(&["-n", ns, "patch", "cm", "c", "-p", r#"{"data":{"k":"v"}}"#]).ok();
        let output = waiting.wait_with_output().unwrap();
        assert!(output.status.success());
        assert_eq!(String::from_utf8_lossy(&output.stdout), "configmap/c condition met\n");
    });
}

#[test]
fn bad_objects_are_refused_with_the_path_of_what_is_wrong() {
    with_each_kubectl(|_, kubectl, ns| {
        let refused = |yaml: &str| kubectl.run_with(&["-n", ns, "apply", "-f", "-"], yaml).refused();
        let text = refused(&WEB.replace("matchLabels: {app: web}", "matchLabels: {app: other}"));
        assert!(text.contains("`selector` does not match template `labels`"), "{text}");
        let text = refused(&WEB.replace("containerPort: 8080", "containerPort: 99999"));
        assert!(text.contains("spec.template.spec.containers[0].ports[0].containerPort"), "{text}");
        let text = refused(&WEB.replace("replicas: 0", "replicas: \"many\""));
        assert!(
            text.contains("BadRequest") || text.contains("cannot be handled") || text.contains("invalid"),
            "{text}"
        );
        let text = refused(&WEB.replace("replicas: 0", "replica: 0"));
        assert!(text.contains("unknown field \"spec.replica\""), "{text}");
        let text = refused("kind: [");
        assert!(text.contains("error"), "{text}");
        let text = refused("apiVersion: v1\nkind: Nonsense\nmetadata: {name: x}\n");
        assert!(text.contains("no matches for kind \"Nonsense\""), "{text}");
        let text = refused("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: UPPER}\n");
        assert!(text.contains("metadata.name: Invalid value: \"UPPER\""), "{text}");
    });
}
