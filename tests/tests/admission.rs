//! What is added to objects and refused of them, as users of a shared cluster meet it.

use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams, PostParams};
use naru_tests::{Cluster, Kubectl, eventually};

fn make_namespace(kubectl: &Kubectl, name: &str, labels: &[&str]) {
    kubectl.run(&["create", "namespace", name]).ok();
    kubectl.run(&["-n", name, "wait", "--for=create", "serviceaccount/default", "--timeout=30s"]).ok();
    if !labels.is_empty() {
        kubectl.run(&[&["label", "namespace", name], labels].concat()).ok();
    }
}

/// A pod that no node takes: only its admission is of interest.
fn pod(name: &str, container: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  nodeSelector: {{kubernetes.io/hostname: \
         nowhere}}\n  containers:\n  - {{name: web, image: 'hello:v1'{container}}}\n"
    )
}

#[test]
fn a_limit_range_fills_in_and_refuses() {
    let cluster = Cluster::start();
    let kubectl = cluster.kubectl();
    make_namespace(&kubectl, "shop", &[]);
    let create = |yaml: &str| kubectl.run_with(&["-n", "shop", "create", "-f", "-"], yaml);
    create(
        "apiVersion: v1\nkind: LimitRange\nmetadata: {name: bounds}\nspec:\n  limits:\n  - {type: Container, default: \
         {cpu: 500m}, defaultRequest: {cpu: 100m}, max: {cpu: '1'}, min: {memory: 16Mi}}\n  - {type: \
         PersistentVolumeClaim, max: {storage: 1Gi}}\n",
    )
    .ok();
    create(&pod("web", ", resources: {requests: {memory: 32Mi}}")).ok();
    let fields =
        "jsonpath={.spec.containers[0].resources} {.metadata.annotations.kubernetes\\.io/limit-ranger}";
    assert_eq!(
        kubectl.run(&["-n", "shop", "get", "pod", "web", "-o", fields]).ok(),
        r#"{"limits":{"cpu":"500m"},"requests":{"cpu":"100m","memory":"32Mi"}} LimitRanger plugin set: cpu request for container web; cpu limit for container web"#
    );
    let refused = create(&pod("big", ", resources: {limits: {cpu: '2', memory: 8Mi}}")).refused();
    assert_eq!(
        refused,
        "Error from server (Forbidden): error when creating \"STDIN\": pods \"big\" is forbidden: [minimum memory usage \
         per Container is 16Mi, but request is 8Mi, maximum cpu usage per Container is 1, but limit is 2]\n"
    );
    let claim = |size: &str| {
        format!(
            "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {{name: data}}\nspec: {{accessModes: \
             [ReadWriteOnce], resources: {{requests: {{storage: {size}}}}}}}\n"
        )
    };
    let refused = create(&claim("2Gi")).refused();
    assert!(
        refused.contains("maximum storage usage per PersistentVolumeClaim is 1Gi, but request is 2Gi"),
        "{refused}"
    );
    create(&claim("1Gi")).ok();
}

#[test]
fn a_default_storage_class_is_given_and_claims_go_once_nothing_uses_them() {
    let cluster = Cluster::start();
    let kubectl = cluster.kubectl();
    make_namespace(&kubectl, "shop", &[]);
    kubectl.apply(
        "apiVersion: storage.k8s.io/v1\nkind: StorageClass\nmetadata: {name: quick, annotations: \
         {storageclass.kubernetes.io/is-default-class: 'true'}}\nprovisioner: example.com/disk\n",
    );
    kubectl
        .run_with(
            &["-n", "shop", "apply", "--server-side", "-f", "-"],
            "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {name: data}\nspec: {accessModes: [ReadWriteOnce], \
             resources: {requests: {storage: 1Gi}}}\n",
        )
        .ok();
    let fields = "jsonpath={.spec.storageClassName} {.metadata.finalizers}";
    assert_eq!(
        kubectl.run(&["-n", "shop", "get", "pvc", "data", "-o", fields]).ok(),
        r#"quick ["kubernetes.io/pvc-protection"]"#
    );
    let user = "apiVersion: v1\nkind: Pod\nmetadata: {name: user}\nspec:\n  nodeSelector: {kubernetes.io/hostname: \
                nowhere}\n  volumes: [{name: data, persistentVolumeClaim: {claimName: data}}]\n  containers: [{name: \
                web, image: 'hello:v1'}]\n";
    kubectl.run_with(&["-n", "shop", "create", "-f", "-"], user).ok();
    kubectl.run(&["-n", "shop", "delete", "pvc", "data", "--wait=false"]).ok();
    let deleted = ["-n", "shop", "get", "pvc", "data", "-o", "jsonpath={.metadata.deletionTimestamp}"];
    assert_ne!(kubectl.run(&deleted).ok(), "", "a pod uses it");
    kubectl.run(&["-n", "shop", "delete", "pod", "user"]).ok();
    kubectl.run(&["-n", "shop", "wait", "--for=delete", "pvc/data", "--timeout=30s"]).ok();
}

#[test]
fn a_namespace_says_how_secure_its_pods_must_be() {
    let cluster = Cluster::start();
    let kubectl = cluster.kubectl();
    make_namespace(
        &kubectl,
        "shop",
        &["pod-security.kubernetes.io/enforce=baseline", "pod-security.kubernetes.io/warn=restricted"],
    );
    let create = |yaml: &str| kubectl.run_with(&["-n", "shop", "create", "-f", "-"], yaml);
    let privileged = pod("strong", ", securityContext: {privileged: true}");
    assert_eq!(
        create(&privileged).refused(),
        "Error from server (Forbidden): error when creating \"STDIN\": pods \"strong\" is forbidden: violates \
         PodSecurity \"baseline:latest\": privileged (container \"web\" must not set \
         securityContext.privileged=true)\n"
    );
    let created = create(&pod("web", ""));
    assert!(
        created.stderr.contains(
            "Warning: would violate PodSecurity \"restricted:latest\": \
                                 allowPrivilegeEscalation != false (container \"web\" must set"
        ),
        "{created:?}"
    );
    created.ok();
    // Guests come by a road of their own, which is watched, too.
    let guest = r#"{"spec":{"ephemeralContainers":[{"name":"guest","image":"hello:v1","securityContext":{"privileged":true}}]}}"#;
    let patch = ["-n", "shop", "patch", "pod", "web", "--subresource=ephemeralcontainers", "-p", guest];
    let refused = kubectl.run(&patch).refused();
    assert!(
        refused.contains("container \"guest\" must not set securityContext.privileged=true"),
        "{refused}"
    );
    // A workload is let in, and whoever writes it is warned.
    let made =
        kubectl.run(&["-n", "shop", "create", "deployment", "web", "--image=hello:v1", "--replicas=0"]);
    assert!(made.stderr.contains("Warning: would violate PodSecurity \"restricted:latest\""), "{made:?}");
    made.ok();
    // Who raises the level is told whom it would hit.
    let raised =
        kubectl.run(&["label", "--overwrite", "ns", "shop", "pod-security.kubernetes.io/enforce=restricted"]);
    assert!(
        raised.stderr.contains(
            "Warning: existing pods in namespace \"shop\" violate the new PodSecurity enforce level \
             \"restricted:latest\""
        ) && raised.stderr.contains("Warning: web: allowPrivilegeEscalation != false"),
        "{raised:?}"
    );
    raised.ok();
    let wrong =
        kubectl.run(&["label", "--overwrite", "ns", "shop", "pod-security.kubernetes.io/enforce=strict"]);
    assert!(wrong.refused().contains("must be one of privileged, baseline, restricted"));
}

/// How many creators work at once.
const CREATORS: usize = 64;

#[tokio::test(flavor = "multi_thread")]
async fn a_quota_holds_under_many_creators_and_is_given_back() {
    let cluster = Cluster::start();
    let kubectl = cluster.kubectl();
    make_namespace(&kubectl, "shop", &[]);
    let hard = "--hard=pods=20,requests.cpu=1,count/configmaps=3";
    kubectl.run(&["-n", "shop", "create", "quota", "all", hard]).ok();
    let used = || {
        let fields = "jsonpath={.status.used}";
        kubectl.run(&["-n", "shop", "get", "quota", "all", "-o", fields]).ok()
    };
    let eventually_used = async |expected: &str| {
        let look = async || if used() == expected { Ok(()) } else { Err(used()) };
        eventually(&format!("{expected} is used"), look).await;
    };
    // The authority's certificate is there for every namespace.
    eventually_used(r#"{"count/configmaps":"1","pods":"0","requests.cpu":"0"}"#).await;

    let pods: Api<Pod> = Api::namespaced(cluster.client().await, "shop");
    let creators = (0..CREATORS).map(|index| {
        let pods = pods.clone();
        let yaml = pod(&format!("web-{index}"), ", resources: {requests: {cpu: 50m}}");
        let pod: Pod = serde_yaml::from_str(&yaml).expect("a pod");
        tokio::spawn(async move { pods.create(&PostParams::default(), &pod).await })
    });
    let mut created = Vec::new();
    for creator in creators.collect::<Vec<_>>() {
        match creator.await.expect("no panic") {
            Ok(pod) => created.push(pod.metadata.name.expect("a name")),
            Err(kube::Error::Api(refusal)) => {
                assert_eq!(refusal.code, 403, "{refusal:?}");
                assert!(refusal.message.contains("exceeded quota: all, requested: "), "{refusal:?}");
            }
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(created.len(), 20);
    assert_eq!(used(), r#"{"count/configmaps":"1","pods":"20","requests.cpu":"1"}"#);
    let refused = kubectl
        .run_with(&["-n", "shop", "create", "-f", "-"], &pod("more", ", resources: {requests: {cpu: 50m}}"));
    assert_eq!(
        refused.refused(),
        "Error from server (Forbidden): error when creating \"STDIN\": pods \"more\" is forbidden: exceeded quota: \
         all, requested: pods=1,requests.cpu=50m, used: pods=20,requests.cpu=1, limited: pods=20,requests.cpu=1\n"
    );
    let refused = kubectl.run_with(&["-n", "shop", "create", "-f", "-"], &pod("mute", "")).refused();
    assert!(refused.contains("failed quota: all: must specify requests.cpu for: web"), "{refused}");
    // A name that is taken is said to be, whatever the quota says.
    let again = pod(&created[0], ", resources: {requests: {cpu: 50m}}");
    let refused = kubectl.run_with(&["-n", "shop", "create", "-f", "-"], &again).refused();
    assert!(refused.contains("(AlreadyExists)"), "{refused}");

    // What goes is given back, all of it.
    for name in &created[..5] {
        pods.delete(name, &DeleteParams::default()).await.expect("it is deleted");
    }
    eventually_used(r#"{"count/configmaps":"1","pods":"15","requests.cpu":"750m"}"#).await;
    kubectl.run(&["-n", "shop", "delete", "pods", "--all"]).ok();
    eventually_used(r#"{"count/configmaps":"1","pods":"0","requests.cpu":"0"}"#).await;
    // The quota is still its maker's, whoever counts in it.
    let managers = ["-n", "shop", "get", "quota", "all", "--show-managed-fields", "-o"];
    let managers = kubectl.run(&[&managers[..], &["jsonpath={.metadata.managedFields[*].manager}"]].concat());
    assert!(managers.ok().contains("kubectl-create"));
}
