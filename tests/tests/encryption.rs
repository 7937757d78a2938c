//! Encryption at rest: no byte of a Secret reaches the disk in plain, keys change under a running cluster, and a wrong
//! key breaks nothing.

use std::path::{Path, PathBuf};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use naru_tests::{Cluster, Options, eventually, naru_binary};

const PLAIN: &str = "tr0ub4dor-and-3-horses";

fn aesgcm(name: &str, fill: u8) -> String {
    format!("  - aesgcm: {{keys: [{{name: {name}, secret: {}}}]}}\n", BASE64.encode([fill; 32]))
}

fn secretbox(name: &str, fill: u8) -> String {
    aesgcm(name, fill).replace("aesgcm", "secretbox")
}

fn write_keys(file: &Path, providers: &[String]) {
    let text = format!(
        "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n- resources: [secrets]\n  \
         providers:\n{}",
        providers.concat()
    );
    // Under another name first: the server may look at any moment.
    let draft = file.with_extension("new");
    std::fs::write(&draft, text).expect("the file is written");
    std::fs::rename(&draft, file).expect("it gets its name");
}

/// Which files of the store hold `text`.
fn holders(cluster: &Cluster, text: &str) -> Vec<PathBuf> {
    fn visit(dir: &Path, text: &[u8], found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(dir).expect("a folder").flatten() {
            let path = entry.path();
            if path.is_dir() {
                visit(&path, text, found);
            } else if path.ends_with("sealed") {
                // Names the keys that everything else was written with.
            } else if std::fs::read(&path)
                .is_ok_and(|bytes| bytes.windows(text.len()).any(|window| window == text))
            {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    visit(&cluster.data_dir().join("server/store"), text.as_bytes(), &mut found);
    found
}

/// The Secret's own text and its form in JSON.
fn is_hidden(cluster: &Cluster) -> Result<(), String> {
    let found = [holders(cluster, PLAIN), holders(cluster, &BASE64.encode(PLAIN))].concat();
    if found.is_empty() { Ok(()) } else { Err(format!("the secret is in {found:?}")) }
}

fn password(cluster: &Cluster) -> String {
    let value = cluster.kubectl().run(&["get", "secret", "db", "-o", "jsonpath={.data.password}"]).ok();
    String::from_utf8(BASE64.decode(value).expect("base64")).expect("text")
}

fn start(file: &Path) -> Cluster {
    let args = vec![format!("--encryption-provider-config={}", file.display())];
    Cluster::start_with(Options { args, ..Options::default() })
}

fn make_secret(cluster: &Cluster) {
    let literal = format!("--from-literal=password={PLAIN}");
    cluster.kubectl().run(&["create", "secret", "generic", "db", &literal]).ok();
}

/// What `naru server` says when it cannot start on the cluster's data.
fn refusal(cluster: &Cluster, file: Option<&Path>) -> String {
    let mut command = std::process::Command::new(naru_binary());
    command.args(["server", "--listen", "127.0.0.1:0", "--data-dir"]).arg(cluster.data_dir());
    if let Some(file) = file {
        command.arg("--encryption-provider-config").arg(file);
    }
    let output = command.env("HOME", cluster.temp_dir()).output().expect("naru starts");
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!error.contains(&BASE64.encode([7; 32])), "{error}");
    error
}

#[tokio::test]
async fn a_secret_never_reaches_the_disk_and_survives_restarts_and_new_keys() {
    let dir = tempfile::tempdir().expect("a folder");
    let keys = dir.path().join("keys.yaml");
    let identity = || "  - identity: {}\n".to_owned();
    write_keys(&keys, &[aesgcm("one", 7)]);
    let mut cluster = start(&keys);
    make_secret(&cluster);
    cluster.kubectl().run(&["create", "configmap", "plain", "--from-literal=word=in-the-open"]).ok();
    is_hidden(&cluster).expect("it is hidden in the log");
    assert!(!holders(&cluster, "k8s:enc:aesgcm:v1:one:").is_empty());
    assert!(!holders(&cluster, "in-the-open").is_empty(), "only what is asked for is encrypted");
    cluster.kill();
    cluster.up();
    assert_eq!(password(&cluster), PLAIN);

    // A new key in front: the server notices, and rewrites what it has.
    write_keys(&keys, &[secretbox("two", 8), aesgcm("one", 7)]);
    eventually("nothing is left of the old key", async || {
        let old = holders(&cluster, "k8s:enc:aesgcm:v1:one:");
        if old.is_empty() { Ok(()) } else { Err(format!("{old:?}")) }
    })
    .await;
    is_hidden(&cluster).expect("it is hidden in the checkpoint");
    assert!(!holders(&cluster, "k8s:enc:secretbox:v1:two:").is_empty());
    // The way that Kubernetes' users know does no harm.
    let secrets = cluster.kubectl().run(&["get", "secrets", "-A", "-o", "json"]).ok();
    cluster.kubectl().run_with(&["replace", "-f", "-"], &secrets).ok();
    // So the old key may go.
    write_keys(&keys, &[secretbox("two", 8), identity()]);
    cluster.stop();
    cluster.up();
    assert_eq!(password(&cluster), PLAIN);
    is_hidden(&cluster).expect("it is hidden");

    // A file that is broken while the server runs changes nothing.
    std::fs::write(&keys, "nonsense").expect("it is ours");
    eventually("the server complains", async || {
        if cluster.log().contains("cannot be used") { Ok(()) } else { Err(cluster.log()) }
    })
    .await;
    assert_eq!(password(&cluster), PLAIN);
    cluster.stop();

    // Neither a missing key, nor a wrong one, nor none at all starts, or destroys anything.
    write_keys(&keys, &[aesgcm("three", 9)]);
    let error = refusal(&cluster, Some(&keys));
    assert!(error.contains("is encrypted with key \"two\" of secretbox, which"), "{error}");
    write_keys(&keys, &[secretbox("two", 9)]);
    let error = refusal(&cluster, Some(&keys));
    assert!(error.contains("cannot be decrypted with key \"two\" of secretbox"), "{error}");
    let error = refusal(&cluster, None);
    assert!(error.contains("start with --encryption-provider-config"), "{error}");
    assert_eq!(error.lines().count(), 1, "{error}");
    write_keys(&keys, &[secretbox("two", 8)]);
    cluster.up();
    assert_eq!(password(&cluster), PLAIN);
}

#[tokio::test]
async fn encryption_can_be_turned_on_and_off_for_what_is_there() {
    let dir = tempfile::tempdir().expect("a folder");
    let keys = dir.path().join("keys.yaml");
    write_keys(&keys, &["  - identity: {}\n".into()]);
    let mut cluster = start(&keys);
    make_secret(&cluster);
    is_hidden(&cluster).expect_err("it is not encrypted yet");
    cluster.stop();
    write_keys(&keys, &[aesgcm("one", 7)]);
    let error = refusal(&cluster, Some(&keys));
    assert!(error.contains("is stored unencrypted") && error.contains("identity"), "{error}");
    write_keys(&keys, &[aesgcm("one", 7), "  - identity: {}\n".into()]);
    cluster.up();
    eventually("nothing is left in plain", async || is_hidden(&cluster)).await;
    assert_eq!(password(&cluster), PLAIN);
    write_keys(&keys, &["  - identity: {}\n".into(), aesgcm("one", 7)]);
    eventually("nothing is encrypted", async || {
        let sealed = holders(&cluster, "k8s:enc:");
        if sealed.is_empty() { Ok(()) } else { Err(format!("{sealed:?}")) }
    })
    .await;
    assert_eq!(password(&cluster), PLAIN);
}
