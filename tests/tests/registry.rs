//! Pods whose images come from a registry: Debian's `docker-registry`, on a loopback port.

use std::{
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
};

use naru_tests::{Cluster, eventually, sample};
use oci_client::{
    Client, Reference,
    client::{ClientConfig, ClientProtocol, Config, ImageLayer},
    manifest::OciImageManifest,
    secrets::RegistryAuth,
};

struct Registry {
    address: String,
    process: Child,
}

impl Registry {
    fn start(dir: &Path) -> Self {
        let data = dir.join("registry");
        let config = format!(
            "version: 0.1\nlog: {{level: info}}\nhttp: {{addr: '127.0.0.1:0'}}\nstorage: {{filesystem: {{rootdirectory: \
             '{}'}}}}\n",
            data.display()
        );
        let file = dir.join("registry.yml");
        std::fs::write(&file, config).unwrap();
        let mut process = Command::new("docker-registry")
            .arg("serve")
            .arg(file)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("these tests need the package docker-registry");
        let mut lines = BufReader::new(process.stderr.take().unwrap()).lines().map_while(Result::ok);
        let line = lines.find(|line| line.contains("listening on ")).expect("the registry tells its port");
        // Its log must be read, or it blocks.
        std::thread::spawn(move || lines.for_each(drop));
        let address = line.split("listening on ").nth(1).unwrap().split('"').next().unwrap().to_owned();
        Self { address, process }
    }

    /// Pushes a wasm file as a CNCF wasm artifact.
    async fn push(&self, name: &str, wasm: Vec<u8>) -> String {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let image = format!("{}/{name}", self.address);
        let reference: Reference = image.parse().unwrap();
        let client = Client::new(ClientConfig { protocol: ClientProtocol::Http, ..ClientConfig::default() });
        let layers = [ImageLayer::new(wasm, "application/wasm".to_owned(), None)];
        let config = Config::new(b"{}".to_vec(), "application/vnd.wasm.config.v0+json".to_owned(), None);
        let manifest = OciImageManifest::build(&layers, &config, None);
        client.push(&reference, &layers, config, &RegistryAuth::Anonymous, Some(manifest)).await.unwrap();
        image
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn pod(name: &str, image: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  restartPolicy: Never\n  containers:\n  - name: c\n    \
         image: {image}\n    args: [primes, '100']\n"
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wasm_artifact_is_pulled_and_run_and_what_is_missing_is_told() {
    let cluster = Cluster::start();
    let kubectl = cluster.kubectl();
    let registry = Registry::start(cluster.temp_dir());
    let image = registry.push("library/worker:v1", std::fs::read(sample("worker")).unwrap()).await;
    kubectl.apply(&pod("pulled", &image));
    kubectl.run(&["wait", "--for=jsonpath={.status.phase}=Succeeded", "pod/pulled", "--timeout=60s"]).ok();
    assert_eq!(kubectl.run(&["logs", "pulled"]).ok(), "counting primes below 100\nthere are 25\n");

    kubectl.apply(&pod("missing", &format!("{}/library/worker:v2", registry.address)));
    eventually("the pod waits with a reason", async || {
        let path = "jsonpath={.status.containerStatuses[0].state.waiting.reason}";
        let reason = kubectl.run(&["get", "pod", "missing", "-o", path]).ok();
        if ["ErrImagePull", "ImagePullBackOff"].contains(&reason.as_str()) { Ok(()) } else { Err(reason) }
    })
    .await;
    let events = "jsonpath={.items[*].message}";
    let selector = "involvedObject.name=missing,reason=Failed";
    let events = kubectl.run(&["get", "events", "--field-selector", selector, "-o", events]).ok();
    assert!(events.contains("library/worker:v2") && events.contains("not found"), "{events}");
}
