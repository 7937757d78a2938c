//! `naru up` and its siblings on the command line: starting, stopping, resuming, and refusing in words.

use std::{
    collections::BTreeMap,
    fs::File,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use naru_tests::{
    Cluster, Kubectl, Options, bench::children, eventually, naru_binary, raw_client::Target, signal,
};

#[test]
fn a_second_start_resumes_the_same_cluster() {
    let mut cluster = Cluster::start();
    let kubectl = cluster.kubectl();
    kubectl.run(&["create", "configmap", "kept", "--from-literal=a=b"]).ok();
    let uid = kubectl.run(&["get", "cm", "kept", "-o", "jsonpath={.metadata.uid}"]).ok();
    let node = kubectl.run(&["get", "nodes", "-o", "jsonpath={.items[*].metadata.uid}"]).ok();

    assert_eq!(cluster.stop(), 0, "{}", cluster.log());
    cluster.up();
    let kubectl = cluster.kubectl();
    assert_eq!(kubectl.run(&["get", "cm", "kept", "-o", "jsonpath={.metadata.uid}"]).ok(), uid);
    assert_eq!(kubectl.run(&["get", "nodes", "-o", "jsonpath={.items[*].metadata.uid}"]).ok(), node);

    // A runtime that nobody asked for more than this machine has warns of nothing.
    let log = std::fs::read_to_string(cluster.data_dir().join("nodes/naru/runtime.log")).unwrap();
    assert!(!log.contains("WARN"), "{log}");

    // The same after a crash, also while the runtime of the killed process still ends its containers.
    cluster.import_samples(&["worker"]);
    kubectl.run(&["run", "worker", "--image=worker:v1", "--", "tick", "600"]).ok();
    kubectl.run(&["wait", "--for=condition=Ready", "pod/worker", "--timeout=30s"]).ok();
    cluster.kill();
    cluster.up();
    let kubectl = cluster.kubectl();
    assert_eq!(kubectl.run(&["get", "cm", "kept", "-o", "jsonpath={.metadata.uid}"]).ok(), uid);
    let restarted = "--for=jsonpath={.status.containerStatuses[0].restartCount}=1";
    kubectl.run(&["wait", restarted, "pod/worker", "--timeout=60s"]).ok();
    kubectl.run(&["wait", "--for=condition=Ready", "pod/worker", "--timeout=60s"]).ok();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_nodes_run_on_one_machine_and_share_the_pods() {
    let cluster = Cluster::start_with(Options { nodes: 3, ..Options::default() });
    let kubectl = cluster.kubectl();
    let nodes = kubectl.run(&["get", "nodes", "--no-headers"]).ok();
    assert_eq!(nodes.lines().count(), 3, "{nodes}");
    assert!(nodes.lines().all(|line| line.split_whitespace().nth(1) == Some("Ready")), "{nodes}");

    cluster.import_samples(&["hello", "hello-p3"]);
    kubectl.apply(include_str!("../../samples/manifests/hello.yaml"));
    kubectl.run(&["rollout", "status", "deployment/hello", "--timeout=60s"]).ok();
    let homes =
        kubectl.run(&["get", "pods", "-l", "app=hello", "-o", "jsonpath={.items[*].spec.nodeName}"]).ok();
    let homes: std::collections::BTreeSet<_> = homes.split_whitespace().collect();
    assert_eq!(homes.len(), 3, "{homes:?}");

    // A pod on any node is reached through the service.
    let ip = kubectl.run(&["get", "svc", "hello", "-o", "jsonpath={.spec.clusterIP}"]).ok();
    let mut seen = std::collections::BTreeSet::new();
    eventually("every pod answers through the service", async || {
        let response =
            cluster.http().get(format!("http://{ip}/")).send().await.map_err(|error| error.to_string())?;
        seen.insert(response.text().await.map_err(|error| error.to_string())?);
        if seen.len() == 3 { Ok(()) } else { Err(format!("{seen:?}")) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_runtime_that_dies_is_started_again_and_its_pods_come_back() {
    let mut cluster = Cluster::start();
    let kubectl = cluster.kubectl();
    cluster.import_samples(&["hello", "hello-p3"]);
    kubectl.apply(include_str!("../../samples/manifests/hello.yaml"));
    kubectl.run(&["rollout", "status", "deployment/hello", "--timeout=60s"]).ok();
    let ip = kubectl.run(&["get", "svc", "hello", "-o", "jsonpath={.spec.clusterIP}"]).ok();
    let pods = |path: &str| {
        let path = format!("jsonpath={{range .items[*]}}{{{path}}} {{end}}");
        kubectl.run(&["get", "pods", "-l", "app=hello", "-o", &path]).ok()
    };
    let uids = pods(".metadata.uid");
    let restarts = ".status.containerStatuses[0].restartCount";
    for round in ["1 1 1 ", "2 2 2 "] {
        let [runtime] = children(cluster.pid())[..] else { panic!("one runtime") };
        signal(runtime, rustix::process::Signal::KILL);
        eventually("every pod was restarted once", async || match pods(restarts) {
            counts if counts == round => Ok(()),
            counts => Err(counts),
        })
        .await;
        kubectl.run(&["wait", "--for=condition=Ready", "pod", "-l", "app=hello", "--timeout=60s"]).ok();
        eventually("the service answers again", async || {
            let answer = cluster.http().get(format!("http://{ip}/")).send().await;
            answer
                .and_then(|answer| answer.error_for_status())
                .map(|_| ())
                .map_err(|error| format!("{error:?}"))
        })
        .await;
    }
    assert_eq!(pods(".metadata.uid"), uids, "the same pods");
    assert_eq!(
        kubectl
            .run(&["get", "node", "naru", "-o", "jsonpath={.status.conditions[?(@.type==\"Ready\")].status}"])
            .ok(),
        "True"
    );
    let log = cluster.log();
    assert!(
        log.contains("the runtime ended by itself and is started again") && log.contains("SIGKILL"),
        "{log}"
    );
    assert_eq!(cluster.stop(), 0, "{}", cluster.log());
}

#[test]
fn manifests_named_at_the_start_are_applied() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("manifest.yaml");
    let manifest = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: early}\ndata: {a: b}\n---\napiVersion: v1\nkind: \
                    Namespace\nmetadata: {name: shop}\n";
    std::fs::write(&file, manifest).unwrap();
    let args = vec!["-f".to_owned(), file.to_string_lossy().into_owned()];
    let cluster = Cluster::start_with(Options { args, ..Options::default() });
    cluster.kubectl().run(&["get", "cm", "early"]).ok();
    cluster.kubectl().run(&["get", "ns", "shop"]).ok();
}

/// Runs `naru ARGS`, which must end with `code`, and answers its standard error.
fn refused(args: &[&str], code: i32) -> String {
    let output = Command::new(naru_binary())
        .args(args)
        .env("HOME", "/nonexistent")
        .stdin(Stdio::null())
        .output()
        .expect("naru starts");
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    stderr
}

#[test]
fn a_data_directory_in_use_is_refused_and_the_first_cluster_unharmed() {
    let cluster = Cluster::start();
    let dir = cluster.data_dir();
    let error = refused(&["up", "--listen", "127.0.0.1:0", "--data-dir", &dir.to_string_lossy()], 1);
    assert!(error.contains("in use"), "{error}");
    assert_eq!(error.lines().count(), 1, "one sentence: {error}");
    cluster.kubectl().run(&["get", "nodes"]).ok();
}

#[test]
fn a_data_directory_that_cannot_be_written_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a-file");
    std::fs::write(&file, "no folder").unwrap();
    let error =
        refused(&["up", "--listen", "127.0.0.1:0", "--data-dir", &file.join("data").to_string_lossy()], 1);
    assert!(error.contains("a-file"), "{error}");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "no folder");
}

#[test]
fn a_port_that_is_taken_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let error =
        refused(&["up", "--listen", &address, "--data-dir", &dir.path().join("d").to_string_lossy()], 1);
    assert!(error.contains(&address), "{error}");
}

/// The files below `dir`, with their contents.
fn contents(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(contents(&path));
        } else {
            files.insert(path.clone(), std::fs::read(&path).unwrap());
        }
    }
    files
}

/// Creates a ConfigMap that fills so many KiB of the store.
fn create_large(kubectl: &Kubectl, name: &str, kib: usize) -> naru_tests::Answer {
    let data = "x".repeat(kib << 10);
    let object = format!(
        r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"{name}"}},"data":{{"x":"{data}"}}}}"#
    );
    kubectl.run_with(&["create", "-f", "-"], &object)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_store_is_reported_in_a_sentence_and_left_alone() {
    let mut cluster = Cluster::start();
    // Enough for a checkpoint, so that there is a database beside the log.
    let (kubectl, store) = (cluster.kubectl(), cluster.data_dir().join("server/store"));
    for index in 0..80 {
        create_large(&kubectl, &format!("large-{index}"), 900).ok();
    }
    eventually("a checkpoint", async || if store.join("state.redb").exists() { Ok(()) } else { Err("none") })
        .await;
    assert_eq!(cluster.stop(), 0);
    let sound = contents(&store);
    let log = sound.keys().rfind(|path| path.extension().is_some_and(|end| end == "log")).unwrap();
    let database = store.join("state.redb");
    let cut = |path: &Path, len: usize| sound[path][..len].to_vec();
    let flipped = |path: &Path, at: usize| {
        let mut bytes = sound[path].clone();
        bytes[at] ^= 0x40;
        bytes
    };
    let data_dir = cluster.data_dir();
    for (path, bytes, what) in [
        (log, flipped(log, 100), "a flipped bit in the log"),
        (log, Vec::new(), "an empty log"),
        (&database, cut(&database, sound[&database].len() / 2), "half a database"),
        (&database, flipped(&database, 3), "a flipped bit in the database"),
        (&database, Vec::new(), "an empty database"),
    ] {
        std::fs::write(path, &bytes).unwrap();
        let damaged = contents(&store);
        let error = refused(&["up", "--listen", "127.0.0.1:0", "--data-dir", &data_dir.to_string_lossy()], 1);
        assert_eq!(error.lines().count(), 1, "{what}: one sentence: {error}");
        assert!(error.contains("is corrupted") && error.contains("restore"), "{what}: {error}");
        assert!(error.contains(&*store.to_string_lossy()), "{what}: {error}");
        let mut after = contents(&store);
        // The lock says which process held it last.
        after.insert(store.join("lock"), damaged[&store.join("lock")].clone());
        assert!(after == damaged, "{what}: files were changed");
        let socket = data_dir.join("nodes/naru/runtime.sock");
        assert!(std::os::unix::net::UnixStream::connect(socket).is_err(), "{what}: a runtime is left");
        std::fs::write(path, &sound[path]).unwrap();
    }
    cluster.up();
    assert_eq!(cluster.kubectl().run(&["get", "cm", "-o", "name"]).ok().matches("/large-").count(), 80);
}

/// A file system of a few MiB in memory; gone with this value.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(path: &Path, mib: u32) -> Self {
        let disk = Self(path.into());
        let size = format!("size={mib}m");
        disk.as_root(&["mount", "-t", "tmpfs", "-o", &format!("{size},mode=0777"), "tmpfs"]);
        disk
    }

    /// Runs a command on the mount point, by sudo where the test is not root.
    fn as_root(&self, command: &[&str]) {
        let sudo: &[&str] = if rustix::process::geteuid().is_root() { &[] } else { &["sudo", "-n"] };
        let words = [sudo, command].concat();
        let status = Command::new(words[0]).args(&words[1..]).arg(&self.0).status().unwrap();
        assert!(status.success(), "{command:?} needs root");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        self.as_root(&["umount", "--lazy"]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_stops_writes_with_a_status_until_there_is_space_again() {
    let mut cluster = Cluster::prepare(Options::default());
    let data_dir = cluster.data_dir();
    let _disk = SmallDisk::mount(&data_dir, 48);
    cluster.up();
    let kubectl = cluster.kubectl();
    kubectl.run(&["create", "configmap", "kept", "--from-literal=a=b"]).ok();

    // Somebody else's file takes what is left.
    let filler = data_dir.join("filler");
    let mut file = File::create(&filler).unwrap();
    let block = vec![7; 1 << 16];
    while file.write(&block).is_ok_and(|written| written > 0) {}
    drop(file);
    let mut written = Vec::new();
    let refused = loop {
        let name = format!("large-{}", written.len());
        let answer = create_large(&kubectl, &name, 200);
        if answer.code != 0 {
            break answer.stderr;
        }
        written.push(name);
        assert!(written.len() < 100, "the disk does not fill");
    };
    assert!(refused.contains("(InternalError)") && refused.contains("disk"), "{refused}");
    // Reads go on, of all that was acknowledged and of nothing else.
    let names = || {
        let listed = kubectl.run(&["get", "cm", "-o", "name"]).ok();
        let large = listed.lines().filter_map(|line| line.strip_prefix("configmap/large-"));
        large.map(|number| format!("large-{number}")).collect::<std::collections::BTreeSet<_>>()
    };
    assert_eq!(names(), written.iter().cloned().collect());
    assert_eq!(kubectl.run(&["get", "cm", "kept", "-o", "jsonpath={.data.a}"]).ok(), "b");

    std::fs::remove_file(&filler).unwrap();
    eventually("writes go on", async || {
        let answer = create_large(&kubectl, "later", 200);
        if answer.code == 0 { Ok(()) } else { Err(answer.stderr) }
    })
    .await;
    assert_eq!(cluster.stop(), 0, "{}", cluster.log());
    cluster.up();
    let kubectl = cluster.kubectl();
    kubectl.run(&["get", "cm", "later", "kept"]).ok();
    for name in &written {
        kubectl.run(&["get", "cm", name]).ok();
    }
    cluster.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_over_the_limit_is_refused_with_a_status() {
    let cluster = Cluster::start();
    let refused = create_large(&cluster.kubectl(), "large", 3 << 10).refused();
    assert!(refused.contains("(RequestEntityTooLarge)") && refused.contains("3145728"), "{refused}");
    // The same over HTTP/1.1, whose client learns of it while it is still sending; and the server is none the worse.
    let mut connection = Target::from_kubeconfig(&cluster.kubeconfig()).connect().await;
    let body = bytes::Bytes::from(vec![b' '; 4 << 20]);
    let path = "/api/v1/namespaces/default/configmaps";
    let (status, _) = connection.read("POST", path, "application/json", body).await;
    assert_eq!(status, 413);
    create_large(&cluster.kubectl(), "small", 900).ok();
}

#[test]
fn usage_errors_end_with_2() {
    refused(&["up", "--nodes", "0"], 2);
    refused(&["frobnicate"], 2);
    refused(&["image", "import"], 2);
}

#[test]
fn commands_without_a_cluster_say_how_to_get_one() {
    let error = refused(&["image", "ls"], 1);
    assert!(error.contains("naru up"), "{error}");
    let error = refused(&["kubeconfig", "--data-dir", "/nonexistent/naru"], 1);
    assert!(error.contains("naru up"), "{error}");
}

#[test]
fn the_small_commands_answer() {
    let cluster = Cluster::start();
    let version = cluster.naru(&["version"]).ok();
    assert!(version.contains("Kubernetes v1.37."), "{version}");
    let json: serde_json::Value = serde_json::from_str(&cluster.naru(&["version", "--json"]).ok()).unwrap();
    assert!(json["kubernetes"].as_str().unwrap().starts_with("v1.37."));
    let data_dir = cluster.data_dir();
    let kubeconfig = cluster.naru(&["kubeconfig", "--data-dir", &data_dir.to_string_lossy()]).ok();
    assert_eq!(kubeconfig, std::fs::read_to_string(cluster.kubeconfig()).unwrap());
    for shell in ["bash", "zsh", "fish"] {
        assert!(cluster.naru(&["completion", shell]).ok().contains("naru"));
    }
}
