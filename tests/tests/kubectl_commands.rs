//! Stock kubectl, the commands that write: generators, `set`, `expose`, pruning, replacing, kustomizing, subresources,
//! and those for nodes. Each is checked by what the server then says.

use std::io::{Seek as _, Write as _};

use naru_tests::{Cluster, Kubectl};
use serde_json::Value;

fn ok(kubectl: &Kubectl, line: &str) -> String {
    kubectl.run(&line.split_whitespace().collect::<Vec<_>>()).ok()
}

fn refused(kubectl: &Kubectl, line: &str) -> String {
    kubectl.run(&line.split_whitespace().collect::<Vec<_>>()).refused()
}

/// `kubectl get LINE -o jsonpath={PATH}`
fn field(kubectl: &Kubectl, object: &str, path: &str) -> String {
    kubectl.run(&["get", object, "-o", &format!("jsonpath={{{path}}}")]).ok()
}

fn started() -> Cluster {
    let cluster = Cluster::start();
    ok(&cluster.kubectl(), "wait --for=create serviceaccount/default --timeout=30s");
    cluster
}

#[test]
fn every_generator_makes_its_object() {
    let cluster = started();
    let certificate =
        rcgen::generate_simple_self_signed(vec!["web.example.com".into()]).expect("a certificate");
    let file = |name: &str, text: &str| {
        let path = cluster.temp_dir().join(name);
        std::fs::write(&path, text).expect("a file");
        path.to_str().expect("UTF-8").to_owned()
    };
    let (cert, key) = (
        file("cert.pem", &certificate.cert.pem()),
        file("key.pem", &certificate.signing_key.serialize_pem()),
    );
    let settings = file("app.env", "A=1\nB=two\n");
    let tls = format!("secret tls t --cert={cert} --key={key}");
    let from_env = format!("configmap env --from-env-file={settings}");
    let from_file = format!("configmap file --from-file=app={settings}");
    let generators: &[(&str, &str, &str, &str)] = &[
        (
            "clusterrole look --verb=get,list --resource=pods,pods/log",
            "clusterrole/look",
            ".rules[0].resources",
            r#"["pods","pods/log"]"#,
        ),
        (
            "clusterrole paths --verb=get --non-resource-url=/logs/*",
            "clusterrole/paths",
            ".rules[0].nonResourceURLs[0]",
            "/logs/*",
        ),
        (
            "clusterrole all --aggregation-rule=a=b",
            "clusterrole/all",
            ".aggregationRule.clusterRoleSelectors[0].matchLabels.a",
            "b",
        ),
        (
            "clusterrolebinding look --clusterrole=look --group=devs",
            "clusterrolebinding/look",
            ".subjects[0].name",
            "devs",
        ),
        (
            "role read --verb=get --resource=deployments.apps --resource-name=web",
            "role/read",
            ".rules[0].apiGroups[0]",
            "apps",
        ),
        (
            "rolebinding read --role=read --serviceaccount=default:default",
            "rolebinding/read",
            ".subjects[0].kind",
            "ServiceAccount",
        ),
        (&from_env, "cm/env", ".data.B", "two"),
        (&from_file, "cm/file", ".data.app", "A=1\nB=two\n"),
        (
            "cronjob nightly --image=hello:v1 --schedule=@daily --restart=OnFailure -- true",
            "cronjob/nightly",
            ".spec.jobTemplate.spec.template.spec.containers[0].command[0]",
            "true",
        ),
        ("job once --image=hello:v1 -- true", "job/once", ".spec.template.spec.restartPolicy", "Never"),
        ("job now --from=cronjob/nightly", "job/now", ".metadata.ownerReferences[0].name", "nightly"),
        (
            "deployment web --image=hello:v1 --port=8080 --replicas=0",
            "deploy/web",
            ".spec.template.spec.containers[0].ports[0].containerPort",
            "8080",
        ),
        (
            "ingress site --class=edge --rule=site.example.com/api*=web:http,tls=site --annotation=a=b --default-backend=web:80",
            "ingress/site",
            ".spec.rules[0].http.paths[0].pathType",
            "Prefix",
        ),
        ("namespace other", "namespace/other", ".status.phase", "Active"),
        (
            "poddisruptionbudget web --selector=app=web --max-unavailable=50%",
            "pdb/web",
            ".spec.maxUnavailable",
            "50%",
        ),
        (
            "priorityclass low --value=-5 --preemption-policy=Never --description=least",
            "priorityclass/low",
            ".value",
            "-5",
        ),
        ("quota few --hard=pods=40,count/deployments.apps=20", "quota/few", ".spec.hard.pods", "40"),
        (
            "secret generic plain --from-literal=a=b --type=example.com/x",
            "secret/plain",
            ".type",
            "example.com/x",
        ),
        (
            "secret docker-registry pull --docker-server=r.example.com --docker-username=u --docker-password=p",
            "secret/pull",
            ".type",
            "kubernetes.io/dockerconfigjson",
        ),
        (&tls, "secret/t", ".type", "kubernetes.io/tls"),
        ("service clusterip one --tcp=80:8080", "svc/one", ".spec.ports[0].targetPort", "8080"),
        ("service clusterip none --clusterip=None --tcp=80", "svc/none", ".spec.clusterIP", "None"),
        (
            "service nodeport two --tcp=80:8080 --node-port=30123",
            "svc/two",
            ".spec.ports[0].nodePort",
            "30123",
        ),
        ("service loadbalancer three --tcp=443", "svc/three", ".spec.type", "LoadBalancer"),
        (
            "service externalname four --external-name=example.com",
            "svc/four",
            ".spec.externalName",
            "example.com",
        ),
        ("serviceaccount robot", "serviceaccount/robot", ".metadata.name", "robot"),
    ];
    for kubectl in cluster.kubectls() {
        for (line, object, path, expected) in generators {
            let rehearsed = ok(
                &kubectl,
                &format!("create {} --dry-run=server --validate=strict -o name", before_dashes(line)),
            );
            assert!(rehearsed.contains('/'), "{line}: {rehearsed}");
            let made = ok(&kubectl, &format!("create {line}"));
            assert!(made.ends_with(" created\n"), "{line}: {made}");
            assert_eq!(field(&kubectl, object, path), *expected, "{line}");
        }
        assert_eq!(ok(&kubectl, "create token robot").split('.').count(), 3);
        for (_, object, ..) in generators {
            ok(&kubectl, &format!("delete {object} --ignore-not-found --timeout=30s"));
        }
    }
}

/// What comes after `--` is the container's, where `--dry-run` would be, too.
fn before_dashes(line: &str) -> &str {
    line.split(" -- ").next().unwrap_or(line)
}

#[test]
fn objects_are_set_exposed_replaced_and_pruned() {
    let cluster = started();
    for (kubectl, name) in cluster.kubectls().iter().zip(["old", "new"]) {
        ok(kubectl, &format!("create namespace {name}"));
        ok(kubectl, &format!("config set-context --current --namespace={name}"));
        ok(kubectl, "wait --for=create serviceaccount/default --timeout=30s");
        sets(kubectl, name);
        exposes(kubectl);
        replaces(kubectl);
        prunes(kubectl, name);
    }
}

fn sets(kubectl: &Kubectl, namespace: &str) {
    let container =
        |path: &str| field(kubectl, "deploy/web", &format!(".spec.template.spec.containers[0]{path}"));
    ok(kubectl, "create deployment web --image=hello:v1 --replicas=0");
    ok(kubectl, "set image deploy/web *=hello:v2");
    assert_eq!(container(".image"), "hello:v2");
    ok(kubectl, "set resources deploy web --limits=cpu=200m,memory=512Mi --requests=cpu=100m");
    assert_eq!(container(".resources.limits"), r#"{"cpu":"200m","memory":"512Mi"}"#);
    ok(kubectl, "create configmap settings --from-literal=color=red");
    ok(kubectl, "set env deploy/web A=1 B=2");
    ok(kubectl, "set env deploy/web --from=configmap/settings --prefix=C_");
    ok(kubectl, "set env deploy/web B-");
    assert_eq!(container(".env[*].name"), "A C_COLOR");
    assert!(ok(kubectl, "set env deploy/web --list --resolve").contains("C_COLOR=red"));
    ok(kubectl, "set serviceaccount deploy web default");
    assert_eq!(field(kubectl, "deploy/web", ".spec.template.spec.serviceAccountName"), "default");
    ok(kubectl, "create service clusterip web --tcp=80:8080");
    ok(kubectl, "set selector svc/web tier=front");
    assert_eq!(field(kubectl, "svc/web", ".spec.selector"), r#"{"tier":"front"}"#);
    ok(kubectl, "create role look --verb=get --resource=pods");
    ok(kubectl, "create rolebinding look --role=look --user=jane");
    ok(kubectl, &format!("set subject rolebinding look --group=devs --serviceaccount={namespace}:default"));
    assert_eq!(field(kubectl, "rolebinding/look", ".subjects[*].name"), "jane devs default");
    ok(kubectl, "label deploy,svc web tier=front --overwrite");
    ok(kubectl, "label deploy --all tier=back --overwrite --field-manager=labeller");
    ok(kubectl, "annotate deploy web a=1");
    assert!(refused(kubectl, "annotate deploy web a=2").contains("--overwrite is false"));
    ok(kubectl, "annotate deploy web a=2 --overwrite --resource-version=0");
    assert_eq!(field(kubectl, "deploy/web", ".metadata.annotations.a"), "2");
    assert!(
        refused(kubectl, "annotate deploy web a=3 --overwrite --resource-version=1")
            .contains("has been modified")
    );
}

fn exposes(kubectl: &Kubectl) {
    ok(kubectl, "delete svc web");
    ok(kubectl, "expose deploy web --port=80 --target-port=8080 --type=NodePort --labels=app=web");
    assert_eq!(field(kubectl, "svc/web", ".spec.selector.app"), "web");
    assert_ne!(field(kubectl, "svc/web", ".spec.ports[0].nodePort"), "");
    ok(
        kubectl,
        "run lone --image=hello:v1 --port=8080 --labels=app=lone --env=A=b --overrides={\"spec\":{\"schedulerName\":\"nobody\"}}",
    );
    ok(kubectl, "expose pod lone --name=lone --cluster-ip=None");
    assert_eq!(field(kubectl, "svc/lone", ".spec.ports[0].port"), "8080");
    ok(kubectl, "autoscale deploy web --min=2 --max=5 --cpu=70%");
    assert_eq!(field(kubectl, "hpa/web", ".spec.maxReplicas"), "5");
    ok(
        kubectl,
        "run both --image=hello:v1 --expose --port=9000 --overrides={\"spec\":{\"schedulerName\":\"nobody\"}}",
    );
    assert_eq!(field(kubectl, "svc/both", ".spec.selector.run"), "both");
    ok(kubectl, "delete pod lone both --now");
}

fn replaces(kubectl: &Kubectl) {
    let map = |value: &str| {
        format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: r}}\ndata: {{k: {value}}}\n")
    };
    ok(kubectl, "create configmap r --from-literal=k=1");
    let uid = field(kubectl, "cm/r", ".metadata.uid");
    assert_eq!(kubectl.run_with(&["replace", "-f", "-"], &map("two")).ok(), "configmap/r replaced\n");
    assert_eq!(
        field(kubectl, "cm/r", ".data.k") + &field(kubectl, "cm/r", ".metadata.uid"),
        format!("two{uid}")
    );
    kubectl.run_with(&["replace", "--force", "-f", "-"], &map("three")).ok();
    assert_eq!(field(kubectl, "cm/r", ".data.k"), "three");
    assert_ne!(field(kubectl, "cm/r", ".metadata.uid"), uid, "another object");
    let service =
        "apiVersion: v1\nkind: Service\nmetadata: {name: r}\nspec: {selector: {a: b}, ports: [{port: 80}]}\n";
    kubectl.run_with(&["create", "--save-config", "-f", "-"], service).ok();
    let address = field(kubectl, "svc/r", ".spec.clusterIP");
    kubectl.run_with(&["replace", "--save-config", "-f", "-"], &service.replace("80", "81")).ok();
    assert_eq!(
        field(kubectl, "svc/r", ".spec.clusterIP"),
        address,
        "a replacement keeps what the server gave"
    );
    kubectl.run_with(&["apply", "-f", "-"], &service.replace("80", "82")).ok();
    assert_eq!(field(kubectl, "svc/r", ".spec.ports[*].port"), "82");
    let immutable = refused_with(
        kubectl,
        &["replace", "-f", "-"],
        &service.replace("ports", "clusterIP: 127.1.2.3, ports"),
    );
    assert!(
        immutable.contains("spec.clusterIPs[0]: Invalid value") || immutable.contains("field is immutable"),
        "{immutable}"
    );
}

fn refused_with(kubectl: &Kubectl, args: &[&str], input: &str) -> String {
    kubectl.run_with(args, input).refused()
}

fn prunes(kubectl: &Kubectl, namespace: &str) {
    let maps = |names: &[&str]| {
        let map = |name: &&str| {
            format!("---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}, labels: {{set: p}}}}\n")
        };
        names.iter().map(map).collect::<String>()
    };
    let apply = ["apply", "--prune", "-l", "set=p", "--prune-allowlist=core/v1/ConfigMap", "-f", "-"];
    kubectl.run_with(&apply, &maps(&["p1", "p2"])).ok();
    let said = kubectl.run_with(&apply, &maps(&["p2", "p3"])).ok();
    assert!(said.contains("configmap/p1 pruned") && said.contains("configmap/p3 created"), "{said}");
    assert_eq!(ok(kubectl, "get cm -l set=p -o name"), "configmap/p2\nconfigmap/p3\n");
    // And by a set that keeps its own books.
    let apply = |yaml: &str| {
        let mut command =
            kubectl.command(&["apply", "-n", namespace, "--prune", "--applyset=configmaps/books", "-f", "-"]);
        let mut input = tempfile::tempfile().expect("a file");
        input.write_all(yaml.as_bytes()).and_then(|()| input.rewind()).expect("a file");
        let output = command.env("KUBECTL_APPLYSET", "true").stdin(input).output().expect("kubectl starts");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    ok(kubectl, "delete cm -l set=p");
    apply(&maps(&["p1", "p2"]));
    let said = apply(&maps(&["p2"]));
    assert!(said.contains("configmap/p1 pruned"), "{said}");
    assert_eq!(ok(kubectl, "get cm -l set=p -o name"), "configmap/p2\n");
    assert!(field(kubectl, "cm/books", ".metadata.labels").contains("applyset.kubernetes.io/id"));
}

#[test]
fn folders_are_kustomized_applied_compared_and_deleted() {
    let cluster = started();
    let folder = cluster.temp_dir().join("kustom");
    std::fs::create_dir(&folder).expect("a folder");
    let write = |name: &str, text: &str| std::fs::write(folder.join(name), text).expect("a file");
    write(
        "web.yaml",
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\nspec:\n  replicas: 0\n  selector: {matchLabels: {app: web}}\n  template:\n    metadata: {labels: {app: web}}\n    spec: {containers: [{name: c, image: hello:v1}]}\n",
    );
    write(
        "kustomization.yaml",
        "resources: [web.yaml]\nnamePrefix: my-\nlabels: [{pairs: {env: test}}]\nconfigMapGenerator:\n- {name: settings, literals: [color=red]}\nimages: [{name: hello, newTag: v2}]\n",
    );
    let path = folder.to_str().expect("UTF-8");
    for kubectl in cluster.kubectls() {
        assert_eq!(kubectl.run(&["diff", "-k", path]).code, 1);
        let said = ok(&kubectl, &format!("apply -k {path}"));
        assert!(
            said.contains("deployment.apps/my-web created") && said.contains("configmap/my-settings-"),
            "{said}"
        );
        assert_eq!(field(&kubectl, "deploy/my-web", ".spec.template.spec.containers[0].image"), "hello:v2");
        assert_eq!(kubectl.run(&["diff", "-k", path]).code, 0);
        ok(&kubectl, &format!("apply --server-side --force-conflicts -k {path}"));
        assert_eq!(kubectl.run(&["diff", "--server-side", "--force-conflicts", "-k", path]).code, 0);
        assert!(ok(&kubectl, &format!("get -k {path} -o name")).contains("deployment.apps/my-web"));
        ok(&kubectl, "wait --for=jsonpath={.status.observedGeneration} deploy/my-web --timeout=30s");
        ok(&kubectl, &format!("delete -k {path} --timeout=30s"));
        assert!(refused(&kubectl, "get deploy my-web").contains("NotFound"));
    }
}

#[test]
fn subresources_are_read_and_written_by_name() {
    let cluster = started();
    let kubectl = cluster.kubectl();
    ok(&kubectl, "create deployment web --image=none:v1 --replicas=0");
    let scale: Value =
        serde_json::from_str(&ok(&kubectl, "get deploy web --subresource=scale -o json")).expect("JSON");
    assert_eq!(
        (&scale["kind"], &scale["apiVersion"], &scale["spec"]["replicas"]),
        (&"Scale".into(), &"autoscaling/v1".into(), &0.into())
    );
    ok(&kubectl, r#"patch deploy web --subresource=scale --type=merge -p {"spec":{"replicas":1}}"#);
    assert_eq!(field(&kubectl, "deploy/web", ".spec.replicas"), "1");
    let table = ok(&kubectl, "get deploy web --subresource=status");
    assert!(table.contains("READY"), "{table}");
    ok(
        &kubectl,
        r#"patch deploy web --subresource=status --type=json -p [{"op":"add","path":"/status/collisionCount","value":7}]"#,
    );
    assert_eq!(field(&kubectl, "deploy/web", ".status.collisionCount"), "7");
    let edited = kubectl
        .command(&["edit", "deploy", "web", "--subresource=status"])
        .env("KUBE_EDITOR", "sed -i s/collisionCount:.7/collisionCount:\\ 8/")
        .output()
        .expect("kubectl starts");
    assert!(edited.status.success(), "{}", String::from_utf8_lossy(&edited.stderr));
    assert_eq!(field(&kubectl, "deploy/web", ".status.collisionCount"), "8");
    let text = kubectl
        .run(&["get", "deploy", "web", "-o", "yaml"])
        .ok()
        .replace("collisionCount: 8", "collisionCount: 9");
    kubectl.run_with(&["replace", "--subresource=status", "-f", "-"], &text).ok();
    assert_eq!(field(&kubectl, "deploy/web", ".status.collisionCount"), "9");
    kubectl
        .run_with(
            &[
                "apply",
                "--server-side",
                "--subresource=status",
                "--field-manager=reporter",
                "--force-conflicts",
                "-f",
                "-",
            ],
            "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\nstatus: {collisionCount: 10}\n",
        )
        .ok();
    assert_eq!(field(&kubectl, "deploy/web", ".status.collisionCount"), "10");

    // A pod's resources change in place, through the subresource only.
    kubectl.apply("{apiVersion: v1, kind: Pod, metadata: {name: p}, spec: {schedulerName: nobody, containers: [{name: c, image: i, resources: {requests: {cpu: 100m}}}]}}");
    let resize = r#"{"spec":{"containers":[{"name":"c","resources":{"requests":{"cpu":"200m"}}}]}}"#;
    assert!(kubectl.run(&["patch", "pod", "p", "-p", resize]).refused().contains("Forbidden"));
    kubectl.run(&["patch", "pod", "p", "--subresource=resize", "-p", resize]).ok();
    assert_eq!(field(&kubectl, "pod/p", ".spec.containers[0].resources.requests.cpu"), "200m");
    ok(&kubectl, "debug p --image=hello:v1 --profile=general --attach=false -c debugger");
    assert_eq!(field(&kubectl, "pod/p", ".spec.ephemeralContainers[0].name"), "debugger");
    assert!(refused(&kubectl, "get pod p --subresource=nothing").contains("could not find"));
}

#[test]
fn nodes_are_tainted_labelled_cordoned_and_drained() {
    let cluster = started();
    cluster.import_samples(&["hello"]);
    let kubectl = cluster.kubectl();
    let node = field(&kubectl, "nodes", ".items[0].metadata.name");
    let of_node = |path: &str| field(&kubectl, &format!("node/{node}"), path);
    ok(&kubectl, &format!("taint node {node} color=red:NoSchedule size=big:PreferNoSchedule"));
    assert_eq!(of_node(".spec.taints[*].key"), "color size");
    assert!(
        refused(&kubectl, &format!("taint node {node} color=blue:NoSchedule")).contains("already has color")
    );
    ok(&kubectl, &format!("taint node {node} color=blue:NoSchedule --overwrite"));
    ok(&kubectl, &format!("taint node {node} color- size:PreferNoSchedule-"));
    assert_eq!(of_node(".spec.taints"), "");
    ok(&kubectl, &format!("label node {node} disk=fast node-role.kubernetes.io/edge="));
    assert!(ok(&kubectl, "get nodes -l disk=fast").contains("edge"));
    ok(&kubectl, "create deployment web --image=hello:v1 --replicas=2");
    ok(&kubectl, "rollout status deploy/web --timeout=60s");
    ok(&kubectl, &format!("cordon {node}"));
    assert!(ok(&kubectl, "get nodes").contains("SchedulingDisabled"));
    let drained =
        ok(&kubectl, &format!("drain {node} --ignore-daemonsets --delete-emptydir-data --timeout=60s"));
    assert!(drained.contains("evicted") && drained.contains("drained"), "{drained}");
    assert_eq!(ok(&kubectl, "get pods --field-selector=spec.nodeName!= -o name"), "");
    ok(&kubectl, &format!("uncordon {node}"));
    ok(&kubectl, "rollout status deploy/web --timeout=60s");
    let text = ok(&kubectl, &format!("describe node {node}"));
    assert!(text.contains("default") && text.contains("Non-terminated Pods:"), "{text}");
    // What was told of the pods.
    let events = ok(&kubectl, "events --for deploy/web");
    assert!(events.contains("ScalingReplicaSet"), "{events}");
    let events = ok(&kubectl, "events -A --types=Normal --no-headers");
    assert!(events.contains("Started"), "{events}");
    let sorted = ok(&kubectl, "get events --sort-by=.metadata.creationTimestamp -o name");
    assert!(sorted.lines().count() > 3, "{sorted}");
}

#[test]
fn a_manifest_is_read_as_strictly_as_asked() {
    let cluster = started();
    let odd = "{apiVersion: v1, kind: ConfigMap, metadata: {name: odd}, dada: {k: v}, data: {k: v}}";
    for kubectl in cluster.kubectls() {
        for strict in ["--validate=true", "--validate=strict"] {
            let refused = kubectl.run_with(&["create", strict, "-f", "-"], odd).refused();
            assert!(refused.contains("unknown field \"dada\""), "{refused}");
        }
        let warned = kubectl.run_with(&["create", "--validate=warn", "-f", "-"], odd);
        assert_eq!(warned.stderr, "Warning: unknown field \"dada\"\n");
        assert_eq!(warned.ok(), "configmap/odd created\n");
        let quiet = kubectl.run_with(&["apply", "--validate=ignore", "--server-side", "-f", "-"], odd);
        assert!(quiet.stderr.contains("field not declared in schema"), "{}", quiet.stderr);
        let rehearsed = kubectl.run_with(&["delete", "--dry-run=server", "-f", "-"], odd).ok();
        assert_eq!(rehearsed, "configmap \"odd\" deleted from default namespace (server dry run)\n");
        ok(&kubectl, "delete cm odd");
    }
}

#[test]
fn the_server_is_asked_about_itself() {
    let cluster = started();
    for kubectl in cluster.kubectls() {
        let tree = ok(&kubectl, "explain deployment --recursive");
        assert!(tree.contains("maxSurge\t<IntOrString>"), "{tree}");
        assert!(ok(&kubectl, "explain hpa --api-version=autoscaling/v1").contains("VERSION:    v1"));
        assert!(ok(&kubectl, "explain pod.spec.containers --output=plaintext-openapiv2").contains("FIELDS"));
        for line in [
            "api-resources --verbs=list --namespaced -o name",
            "api-resources --api-group=apps -o wide --sort-by=name",
        ] {
            assert!(ok(&kubectl, line).contains("deployments"), "{line}");
        }
        assert!(ok(&kubectl, "api-resources --categories=all -o name").contains("pods"));
        let version: Value = serde_json::from_str(&ok(&kubectl, "get --raw /version")).expect("JSON");
        assert_eq!((&version["major"], &version["minor"]), (&"1".into(), &"37".into()));
        assert!(ok(&kubectl, "auth whoami -o json").contains("system:masters"));
        assert!(ok(&kubectl, "auth can-i --list").contains("[*]"));
        assert_eq!(ok(&kubectl, "auth can-i get /healthz"), "yes\n");
        assert!(ok(&kubectl, "cluster-info dump --output-directory=-").contains("NodeList"));
        ok(&kubectl, "create configmap sorted --from-literal=a=b");
        let list = ok(
            &kubectl,
            "get ns --sort-by=.metadata.name --chunk-size=1 -o custom-columns=N:.metadata.name --no-headers",
        );
        assert_eq!(list.lines().next(), Some("default"));
        ok(&kubectl, "get all,cm,secret,ing -A");
        ok(&kubectl, "get cm sorted --show-managed-fields -o yaml --show-labels=false");
        assert!(
            ok(&kubectl, "get cm --show-kind --show-labels --label-columns=app").contains("configmap/sorted")
        );
        assert!(ok(&kubectl, "get cm sorted -o go-template={{.data.a}}").contains('b'));
        assert_eq!(ok(&kubectl, "get cm sorted none --ignore-not-found -o name"), "configmap/sorted\n");
        ok(&kubectl, "delete --raw /api/v1/namespaces/default/configmaps/sorted");
        ok(&kubectl, "wait --for=delete cm/sorted --timeout=30s");
        assert!(
            refused(&kubectl, "wait --for=condition=Ready node --all --timeout=0s -l no=body")
                .contains("no matching resources")
        );
        ok(&kubectl, "wait --for=condition=Ready nodes --all --timeout=30s");
    }
}
