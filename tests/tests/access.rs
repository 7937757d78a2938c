//! Who may do what, as users meet it: roles, tokens, impersonation, certificates.

use std::path::PathBuf;

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD as BASE64, URL_SAFE_NO_PAD},
};
use naru_tests::{Cluster, Kubectl, Options};

/// kubectl as a user with these credentials, lines below `user:` in a kubeconfig.
fn kubectl_as(cluster: &Cluster, name: &str, credentials: &str) -> Kubectl {
    let of = |path: &str| {
        let template = format!("jsonpath={{.clusters[0].cluster.{path}}}");
        cluster.kubectl().run(&["config", "view", "--raw", "-o", &template]).ok()
    };
    let (server, authority) = (of("server"), of("certificate-authority-data"));
    let text = format!(
        "apiVersion: v1\nkind: Config\nclusters:\n- name: c\n  cluster:\n    server: {server}\n    \
         certificate-authority-data: {authority}\nusers:\n- name: u\n  user:\n    {credentials}\ncontexts:\n- name: c\n  \
         context: {{cluster: c, user: u}}\ncurrent-context: c\n"
    );
    let path: PathBuf = cluster.temp_dir().join(format!("kubeconfig-{name}"));
    std::fs::write(&path, text).expect("a kubeconfig");
    Kubectl::new("1.37", &path, cluster.temp_dir())
}

async fn eventually(what: &str, is_so: impl Fn() -> bool) {
    let look = async || if is_so() { Ok(()) } else { Err("not yet") };
    naru_tests::eventually(what, look).await;
}

fn make_namespace(kubectl: &Kubectl, name: &str) {
    kubectl.run(&["create", "namespace", name]).ok();
    kubectl.run(&["-n", name, "wait", "--for=create", "serviceaccount/default", "--timeout=30s"]).ok();
}

#[tokio::test]
async fn roles_say_who_may_do_what_and_nobody_gives_more_than_they_have() {
    let cluster = Cluster::start();
    let kubectl = cluster.kubectl();
    make_namespace(&kubectl, "shop");
    assert_eq!(kubectl.run(&["auth", "can-i", "delete", "nodes"]).ok(), "yes\n");
    let who = kubectl.run(&["auth", "whoami"]).ok();
    assert!(who.contains("kubernetes-admin") && who.contains("X509SHA256="), "{who}");

    // Jane may look at pods, in one namespace.
    let can = |args: &[&str]| {
        kubectl.run(&[&["auth", "can-i", "-n", "shop", "--as", "jane"], args].concat()).stdout
    };
    assert_eq!(can(&["list", "pods"]), "no\n");
    let refused = kubectl.run(&["-n", "shop", "get", "pods", "--as", "jane"]).refused();
    assert!(
        refused.contains(
            r#"pods is forbidden: User "jane" cannot list resource "pods" in API group "" in the namespace "shop""#
        ),
        "{refused}"
    );
    kubectl.run(&["-n", "shop", "create", "role", "look", "--verb=get,list", "--resource=pods"]).ok();
    kubectl.run(&["-n", "shop", "create", "rolebinding", "jane", "--role=look", "--user=jane"]).ok();
    eventually("jane may list pods", || can(&["list", "pods"]) == "yes\n").await;
    assert_eq!(can(&["delete", "pods"]), "no\n");
    assert_eq!(can(&["get", "pods", "--subresource=log"]), "no\n");
    kubectl.run(&["-n", "shop", "get", "pods", "--as", "jane"]).ok();
    kubectl.run(&["get", "pods", "--as", "jane"]).refused();
    let list = can(&["--list"]);
    assert!(
        list.contains("selfsubjectreviews.authentication.k8s.io") && list.contains("[get list]"),
        "{list}"
    );
    let table = kubectl.run(&["-n", "shop", "get", "rolebindings", "-o", "wide"]).ok();
    assert!(table.contains("Role/look") && table.contains("jane"), "{table}");

    // The roles of Kubernetes gather their rules, and what is added to them.
    let joe =
        |args: &[&str]| kubectl.run(&[&["auth", "can-i", "-n", "shop", "--as", "joe"], args].concat()).stdout;
    kubectl.run(&["-n", "shop", "create", "rolebinding", "joe", "--clusterrole=admin", "--user=joe"]).ok();
    eventually("an admin may edit", || joe(&["create", "deployments.apps"]) == "yes\n").await;
    assert_eq!(joe(&["create", "endpointslices.discovery.k8s.io"]), "no\n");
    kubectl.apply(
        "apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\nmetadata:\n  name: slicer\n  labels: \
         {rbac.authorization.k8s.io/aggregate-to-edit: \"true\"}\nrules:\n- {apiGroups: [discovery.k8s.io], \
         resources: [endpointslices], verbs: [create]}\n",
    );
    eventually("rules are gathered", || joe(&["create", "endpointslices.discovery.k8s.io"]) == "yes\n").await;

    // Joe may write roles, but none that give more than he has.
    let make = |name: &str, resource: &str| {
        let role = ["create", "role", name, "--verb=get"];
        let (resource, user) = (format!("--resource={resource}"), ["-n", "shop", "--as", "joe"]);
        kubectl.run(&[&role[..], &[&resource], &user].concat())
    };
    make("fine", "secrets").ok();
    let refused = make("greedy", "nodes").refused();
    assert!(
        refused.contains(r#"user "joe" (groups=["system:authenticated"]) is attempting to grant RBAC permissions not currently held:"#),
        "{refused}"
    );
    let bind = ["-n", "shop", "--as", "joe", "create", "rolebinding", "x", "--user=joe"];
    kubectl.run(&[&bind[..], &["--clusterrole=view"]].concat()).ok();
    let refused = kubectl.run(&[&bind[..], &["--clusterrole=cluster-admin"]].concat()).refused();
    assert!(refused.contains("not currently held"), "{refused}");
    kubectl.run(&["get", "nodes", "--as", "root", "--as-group", "system:masters"]).ok();
    let refused = kubectl.run(&["-n", "shop", "get", "pods", "--as", "root"]).refused();
    assert!(refused.contains("forbidden"), "{refused}");

    let reconciled = kubectl.run_with(
        &["auth", "reconcile", "-f", "-"],
        "apiVersion: rbac.authorization.k8s.io/v1\nkind: Role\nmetadata: {name: look, namespace: shop}\nrules:\n- \
         {apiGroups: [\"\"], resources: [services], verbs: [get]}\n",
    );
    assert!(reconciled.ok().contains("role.rbac.authorization.k8s.io/look reconciled"));
    eventually("rules were added", || {
        can(&["get", "services"]) == "yes\n" && can(&["list", "pods"]) == "yes\n"
    })
    .await;
}

#[tokio::test]
async fn tokens_speak_for_their_accounts_as_long_as_they_last() {
    let cluster = Cluster::start();
    let kubectl = cluster.kubectl();
    make_namespace(&kubectl, "shop");
    kubectl.run(&["-n", "shop", "create", "serviceaccount", "ci"]).ok();
    kubectl
        .run(&["-n", "shop", "create", "rolebinding", "ci", "--clusterrole=view", "--serviceaccount=shop:ci"])
        .ok();

    // One on request.
    let token = kubectl.run(&["-n", "shop", "create", "token", "ci", "--duration=20m"]).ok();
    let ci = kubectl_as(&cluster, "ci", &format!("token: {}", token.trim()));
    assert!(ci.run(&["auth", "whoami"]).ok().contains("system:serviceaccount:shop:ci"));
    eventually("its account may look", || ci.run(&["-n", "shop", "get", "pods"]).code == 0).await;
    ci.run(&["-n", "shop", "get", "secrets"]).refused();
    kubectl.run(&["-n", "shop", "create", "token", "ci", "--duration=5m"]).refused();
    let other = kubectl.run(&["-n", "shop", "create", "token", "ci", "--audience=vault"]).ok();
    let other = kubectl_as(&cluster, "vault", &format!("token: {}", other.trim()));
    assert!(other.run(&["get", "pods"]).refused().contains("Unauthorized"));

    // One in a Secret.
    kubectl.apply(
        "apiVersion: v1\nkind: Secret\ntype: kubernetes.io/service-account-token\nmetadata:\n  name: old\n  namespace: \
         shop\n  annotations: {kubernetes.io/service-account.name: ci}\n",
    );
    let old = || kubectl.run(&["-n", "shop", "get", "secret", "old", "-o", "jsonpath={.data.token}"]).ok();
    eventually("the Secret is filled", || !old().is_empty()).await;
    let old = BASE64.decode(old()).expect("base64");
    let old = kubectl_as(&cluster, "old", &format!("token: {}", String::from_utf8_lossy(&old)));
    assert!(old.run(&["auth", "whoami"]).ok().contains("system:serviceaccount:shop:ci"));

    // Nobody in particular sees little, and basic authentication makes nobody of anyone; who lies sees nothing.
    let nobody = kubectl_as(&cluster, "nobody", "username: a\n    password: b");
    nobody.run(&["get", "--raw", "/version"]).ok();
    nobody.run(&["get", "--raw", "/.well-known/openid-configuration"]).refused();
    let refused = nobody.run(&["get", "--raw", "/api/v1/pods"]).refused();
    assert!(refused.contains(r#"User "system:anonymous" cannot list resource "pods""#), "{refused}");
    let liar = kubectl_as(&cluster, "liar", "token: abcdef.0123456789abcdef");
    assert!(liar.run(&["get", "--raw", "/version"]).refused().contains("Unauthorized"));
    assert!(ci.run(&["get", "--raw", "/openid/v1/jwks"]).ok().contains(r#""alg":"ES256""#));

    kubectl.run(&["-n", "shop", "delete", "serviceaccount", "ci"]).ok();
    assert!(ci.run(&["-n", "shop", "get", "pods"]).refused().contains("Unauthorized"));
}

#[tokio::test]
async fn a_pod_finds_a_token_of_its_account() {
    let cluster = Cluster::start();
    let kubectl = cluster.kubectl();
    cluster.import_samples(&["hello"]);
    make_namespace(&kubectl, "shop");
    kubectl.run(&["-n", "shop", "run", "web", "--image=hello:v1", "--image-pull-policy=IfNotPresent"]).ok();
    kubectl.run(&["-n", "shop", "wait", "--for=condition=Ready", "pod/web", "--timeout=60s"]).ok();
    let of = |path: &str| {
        kubectl.run(&["-n", "shop", "get", "pod", "web", "-o", &format!("jsonpath={{{path}}}")]).ok()
    };
    let (uid, volume) = (of(".metadata.uid"), of(".spec.volumes[0].name"));
    assert_eq!(
        of(".spec.containers[0].volumeMounts[0].mountPath"),
        "/var/run/secrets/kubernetes.io/serviceaccount"
    );
    let folder = find(
        &[cluster.data_dir().as_ref(), std::path::Path::new("/dev/shm")],
        &format!("{uid}/volumes/kubernetes.io~projected/{volume}"),
    );
    let read = |file: &str| std::fs::read_to_string(folder.join(file)).expect("a projected file");
    assert_eq!(read("namespace"), "shop");
    assert!(read("ca.crt").contains("BEGIN CERTIFICATE"));
    let pod = kubectl_as(&cluster, "pod", &format!("token: {}", read("token")));
    let who = pod.run(&["auth", "whoami"]).ok();
    assert!(who.contains("system:serviceaccount:shop:default") && who.contains(&uid), "{who}");

    // Without the pod, its token is nothing.
    kubectl.run(&["-n", "shop", "delete", "pod", "web", "--now"]).ok();
    eventually("the token ends", || pod.run(&["auth", "whoami"]).code != 0).await;

    let refused = kubectl.run(&[
        "-n",
        "shop",
        "run",
        "x",
        "--image=hello:v1",
        "--overrides",
        r#"{"spec":{"serviceAccountName":"none"}}"#,
    ]);
    let refused = refused.refused();
    assert!(
        refused.contains(
            "pods \"x\" is forbidden: error looking up service account shop/none: serviceaccount \"none\" not found"
        ),
        "{refused}"
    );
}

/// The folder below one of `roots` whose path ends in `end`.
fn find(roots: &[&std::path::Path], end: &str) -> PathBuf {
    let mut open: Vec<PathBuf> = roots.iter().map(|root| root.to_path_buf()).collect();
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.ends_with(end) {
                return path;
            }
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                open.push(path);
            }
        }
    }
    panic!("{end} is nowhere below {roots:?}");
}

#[tokio::test]
async fn who_asks_for_a_certificate_gets_it_once_it_is_approved() {
    let cluster = Cluster::start();
    let kubectl = cluster.kubectl();
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::CommonName, "jane");
    params.distinguished_name.push(rcgen::DnType::OrganizationName, "devs");
    // rcgen keeps one value per type: the same type by its number is another to it.
    params.distinguished_name.push(rcgen::DnType::CustomDnType(vec![2, 5, 4, 10]), "ops");
    let key = rcgen::KeyPair::generate().expect("a key");
    let request = params.serialize_request(&key).and_then(|request| request.pem()).expect("a request");
    let apply = |name: &str| {
        kubectl.apply(&format!(
            "apiVersion: certificates.k8s.io/v1\nkind: CertificateSigningRequest\nmetadata: {{name: {name}}}\nspec:\n  \
             signerName: kubernetes.io/kube-apiserver-client\n  usages: [client auth]\n  request: {}\n",
            BASE64.encode(&request)
        ))
    };
    let condition = |name: &str| {
        let row = kubectl.run(&["get", "csr", name, "--no-headers"]).ok();
        row.split_whitespace().last().unwrap_or_default().to_owned()
    };
    apply("jane");
    apply("again");
    assert_eq!(condition("jane"), "Pending");
    let refused = kubectl.run(&["certificate", "approve", "jane", "--as", "joe"]).refused();
    assert!(refused.contains("forbidden"), "{refused}");
    kubectl.run(&["certificate", "approve", "jane"]).ok();
    eventually("it is issued", || condition("jane") == "Approved,Issued").await;
    kubectl.run(&["certificate", "deny", "again"]).ok();
    assert_eq!(condition("again"), "Denied");

    let certificate = kubectl.run(&["get", "csr", "jane", "-o", "jsonpath={.status.certificate}"]).ok();
    let key = BASE64.encode(key.serialize_pem());
    let jane = kubectl_as(
        &cluster,
        "jane",
        &format!("client-certificate-data: {certificate}\n    client-key-data: {key}"),
    );
    let who = jane.run(&["auth", "whoami"]).ok();
    assert!(who.contains("jane") && who.contains("[devs ops system:authenticated]"), "{who}");
    jane.run(&["get", "pods"]).refused();
}

#[tokio::test]
async fn who_set_up_a_provider_that_does_not_work_finds_out_in_the_log() {
    let issuer = "https://127.0.0.1:1";
    let args = vec![format!("--oidc-issuer-url={issuer}"), "--oidc-client-id=naru".into()];
    let cluster = Cluster::start_with(Options { args, ..Options::default() });
    let part = |json: serde_json::Value| URL_SAFE_NO_PAD.encode(json.to_string());
    let header = part(serde_json::json!({ "alg": "RS256", "kid": "a" }));
    let claims =
        part(serde_json::json!({ "iss": issuer, "aud": "naru", "sub": "jane", "exp": 4_000_000_000_u32 }));
    let jane = kubectl_as(&cluster, "jane", &format!("token: {header}.{claims}.c2lnbmVk"));
    let refused = jane.run(&["get", "pods"]).refused();
    assert!(refused.contains("Unauthorized") || refused.contains("must be logged in"), "{refused}");
    // Jane isn't told why; whoever reads the log is.
    eventually("the log tells why", || {
        let log = cluster.log();
        log.contains("tokens of the OIDC provider are not believed") && log.contains(issuer)
    })
    .await;
}
