use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use serde_json::json;

use super::*;
use crate::agent::{
    fakes::{FakeCluster, FakeRuntime, TempDir},
    identity::Directories,
    inbox::{Inbox, Report},
    observed::{ContainerRecord, Observed, RunState},
    pod_view::PodView,
    resources::Allocatable,
    shared::NodeIdentity,
};

/// A certificate of somebody of that organization, to be.
fn params(organization: &str) -> CertificateParams {
    let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, "someone");
    params.distinguished_name.push(DnType::OrganizationName, organization);
    params
}

struct World {
    address: SocketAddr,
    authority: CertifiedIssuer<'static, KeyPair>,
    directory: TempDir,
    shutdown: CancellationToken,
}

impl Drop for World {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

/// A node API with one pod, `web` in `shop`, whose container `c` has ended.
async fn world() -> World {
    let mut ca = params("ca");
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(ca, KeyPair::generate().unwrap()).unwrap();
    let directory = TempDir::new().unwrap();
    let mut config = kube::Config::new("http://127.0.0.1:1".parse().unwrap());
    config.root_cert = Some(vec![authority.der().to_vec()]);
    let settings =
        AgentSettings::new(config, "n1", directory.path().into(), directory.path().join("cri.sock"));
    let shutdown = CancellationToken::new();
    let node = NodeIdentity {
        node_name: "n1".into(),
        node_addresses: vec!["127.0.0.1".into()],
        cluster_domain: "cluster.local".into(),
        directories: Directories::new(directory.path()),
        allocatable: Allocatable::default(),
        is_machine_shared: false,
    };
    let (runtime, cluster) = (Arc::new(FakeRuntime::default()), Arc::new(FakeCluster::default()));
    let shared = Arc::new(Shared::new(node, runtime, cluster, &shutdown));
    let workers = Workers::default();
    let inbox = Arc::new(Inbox::default());
    inbox.set_report(report());
    workers.insert(report().pod.identity, inbox);
    let api = NodeApi::bind(&settings, shared, workers).await.unwrap();
    let address = ([127, 0, 0, 1], api.port()).into();
    tokio::spawn(api.run(shutdown.clone()));
    World { address, authority, directory, shutdown }
}

fn report() -> Report {
    let status = json!({ "containerStatuses": [{
        "name": "c", "image": "x", "imageID": "", "ready": false, "restartCount": 0, "containerID": "naru://id",
        "state": { "terminated": { "exitCode": 0, "containerID": "naru://id" } }
    }, {
        "name": "d", "image": "x", "imageID": "", "ready": false, "restartCount": 0,
        "state": { "waiting": { "reason": "ContainerCreating" } }
    }] });
    let pod = json!({
        "metadata": { "name": "web", "namespace": "shop", "uid": "u" },
        "spec": { "containers": [{ "name": "c" }, { "name": "d" }] }
    });
    let record = ContainerRecord {
        id: "id".into(),
        name: "c".into(),
        sandbox_id: "s".into(),
        state: RunState::Exited,
        restart_count: 0,
        created_at: 1,
        started_at: 1,
        finished_at: 2,
        exit_code: 0,
        reason: String::new(),
        message: String::new(),
        image: "x".into(),
        image_id: String::new(),
        hash: String::new(),
        log_path: "c/0.log".into(),
        size: None,
    };
    Report {
        pod: PodView::new(Arc::new(serde_json::from_value(pod).unwrap())).unwrap(),
        status: serde_json::from_value(status).unwrap(),
        observed: Observed::new(vec![], vec![record], 1).into(),
    }
}

impl World {
    /// Asks as a member of the organization, or as nobody.
    async fn get(&self, organization: Option<&str>, path: &str) -> (u16, String) {
        let _ = ring::default_provider().install_default();
        let mut client = reqwest::Client::builder().no_proxy().tls_danger_accept_invalid_certs(true);
        if let Some(organization) = organization {
            let key = KeyPair::generate().unwrap();
            let certificate = params(organization).signed_by(&key, &self.authority).unwrap();
            let pem = format!("{}{}", certificate.pem(), key.serialize_pem());
            client = client.identity(reqwest::Identity::from_pem(pem.as_bytes()).unwrap());
        }
        let url = format!("https://{}{path}", self.address);
        let response = client.build().unwrap().get(url).send().await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    }
}

#[tokio::test]
async fn the_api_server_reads_logs_and_others_do_not() {
    let world = world().await;
    let logs = world.directory.path().join("pods-log/shop_web_u/c");
    std::fs::create_dir_all(&logs).unwrap();
    std::fs::write(
        logs.join("0.log"),
        "2026-11-21T10:00:00Z stdout F one\n2026-11-21T10:00:01Z stdout F two\n",
    )
    .unwrap();
    let masters = Some(MASTERS);
    for (who, path, expected) in [
        (None, "/healthz", (200, "ok")),
        (None, "/containerLogs/shop/web/c", (401, "Unauthorized\n")),
        (None, "/metrics/resource", (401, "Unauthorized\n")),
        (Some("system:nodes"), "/metrics/resource", (403, "Forbidden\n")),
        (Some("system:nodes"), "/containerLogs/shop/web/c", (403, "Forbidden\n")),
        (masters, "/containerLogs/shop/web/c", (200, "one\ntwo\n")),
        (masters, "/containerLogs/shop/web/c?tailLines=1&follow=true", (200, "two\n")),
        (masters, "/containerLogs/shop/web/x", (404, "container \"x\" not found in pod \"web\"\n")),
        (masters, "/containerLogs/shop/no/c", (404, "pod \"no\" does not exist\n")),
        (
            masters,
            "/containerLogs/shop/web/d",
            (400, "container \"d\" in pod \"web\" is waiting to start: ContainerCreating"),
        ),
        (
            masters,
            "/containerLogs/shop/web/c?tailLines=x",
            (400, "invalid value \"x\" for query parameter tailLines"),
        ),
    ] {
        let (code, body) = world.get(who, path).await;
        assert_eq!((code, body.as_str()), expected, "{path}");
    }
    let (code, metrics) = world.get(masters, "/metrics/resource").await;
    assert!(code == 200 && metrics.contains("\nnode_cpu_usage_seconds_total "), "{metrics}");
    let (code, pods) = world.get(masters, "/pods").await;
    assert!(code == 200 && pods.contains("\"name\":\"web\""), "{pods}");
}
