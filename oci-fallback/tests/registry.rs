//! Pulls against a real registry: Debian's `docker-registry` on a loopback port.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use naru_oci_fallback::{ImageKind, ImageStore, PullAuth, PullError};
use oci_client::{
    Client, Reference,
    client::{ClientConfig, ClientProtocol, Config, ImageLayer},
    manifest::{ImageIndexEntry, OciImageIndex, OciImageManifest, OciManifest},
    secrets::RegistryAuth,
};

const WASM: &[u8] = b"\0asm\x01\0\0\0 a program";
const CONFIG: &str = "application/vnd.wasm.config.v0+json";
/// The bcrypt hash of `secret`.
const HTPASSWD: &str = "naru:$2b$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n";

struct Registry {
    dir: tempfile::TempDir,
    address: String,
    child: Child,
    auth: RegistryAuth,
}

impl Registry {
    fn start(with_password: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let passwords = dir.path().join("htpasswd");
        fs::write(&passwords, HTPASSWD).unwrap();
        let mut config = format!(
            "version: 0.1\nlog: {{level: info}}\nhttp: {{addr: '127.0.0.1:0'}}\nstorage: {{filesystem: \
             {{rootdirectory: '{}'}}}}\n",
            dir.path().join("data").display()
        );
        if with_password {
            config =
                format!("{config}auth: {{htpasswd: {{realm: test, path: '{}'}}}}\n", passwords.display());
        }
        fs::write(dir.path().join("config.yml"), config).unwrap();
        let mut child = Command::new("docker-registry")
            .arg("serve")
            .arg(dir.path().join("config.yml"))
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .expect("these tests need Debian's package docker-registry");
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
        let line = lines.find(|line| line.contains("listening on ")).expect("the registry tells its port");
        // Its log must be read, or it blocks.
        std::thread::spawn(move || lines.for_each(drop));
        let address = line.split("listening on ").nth(1).unwrap().split('"').next().unwrap().to_owned();
        let auth = if with_password {
            RegistryAuth::Basic("naru".to_owned(), "secret".to_owned())
        } else {
            RegistryAuth::Anonymous
        };
        Self { dir, address, child, auth }
    }

    fn name(&self, image: &str) -> String {
        format!("{}/{image}", self.address)
    }

    async fn push(&self, image: &str, layers: &[(&str, &[u8])], config: (&str, &[u8])) -> String {
        let reference: Reference = self.name(image).parse().unwrap();
        let layers: Vec<_> = layers
            .iter()
            .map(|(kind, bytes)| ImageLayer::new(bytes.to_vec(), (*kind).to_owned(), None))
            .collect();
        let config = Config::new(config.1.to_vec(), config.0.to_owned(), None);
        let manifest = OciImageManifest::build(&layers, &config, None);
        client().push(&reference, &layers, config, &self.auth, Some(manifest.clone())).await.unwrap();
        let (_, digest) = client().pull_manifest(&reference, &self.auth).await.unwrap();
        digest
    }

    async fn push_artifact(&self, image: &str) -> String {
        self.push(image, &[("application/wasm", WASM)], (CONFIG, b"{}")).await
    }

    /// The file in which the registry keeps a blob.
    fn blob(&self, bytes: &[u8]) -> PathBuf {
        use sha2::Digest;
        let hex = hex::encode(sha2::Sha256::digest(bytes));
        let blobs = self.dir.path().join("data/docker/registry/v2/blobs/sha256");
        blobs.join(&hex[..2]).join(&hex).join("data")
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn client() -> Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let config = ClientConfig { protocol: ClientProtocol::Http, ..ClientConfig::default() };
    Client::try_from(config).unwrap()
}

fn store(dir: &Path) -> ImageStore {
    ImageStore::open(dir).unwrap()
}

fn content(kind: &ImageKind) -> Vec<u8> {
    match kind {
        ImageKind::Wasm { file } => fs::read(file).unwrap(),
        ImageKind::Linux => panic!("not wasm"),
    }
}

fn tar_of(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (path, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, path, *bytes).unwrap();
    }
    archive.into_inner().unwrap()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[tokio::test]
async fn an_artifact_is_pulled_by_tag_and_by_digest() {
    let (registry, dir) = (Registry::start(false), tempfile::tempdir().unwrap());
    let digest = registry.push_artifact("shop/hello:v1").await;
    let store = store(dir.path());
    let image = store.pull(&registry.name("shop/hello:v1"), PullAuth::Anonymous).await.unwrap();
    assert_eq!(image.digest, digest);
    assert_eq!(image.names, [registry.name("shop/hello:v1")]);
    assert_eq!(image.repo_digests, [format!("{}@{digest}", registry.name("shop/hello"))]);
    assert_eq!(content(&image.kind), WASM);

    let pinned = format!("{}@{digest}", registry.name("shop/hello"));
    assert_eq!(store.pull(&pinned, PullAuth::Anonymous).await.unwrap().digest, digest);
    assert_eq!(store.get(&pinned).unwrap().digest, digest);
    assert_eq!(store.list().len(), 1);
    // Also after a restart.
    let store = self::store(dir.path());
    assert_eq!(content(&store.get(&registry.name("shop/hello:v1")).unwrap().kind), WASM);
}

#[tokio::test]
async fn what_is_there_is_not_fetched_again() {
    let (registry, dir) = (Registry::start(false), tempfile::tempdir().unwrap());
    registry.push_artifact("hello:v1").await;
    let store = store(dir.path());
    store.pull(&registry.name("hello:v1"), PullAuth::Anonymous).await.unwrap();
    fs::remove_file(registry.blob(WASM)).unwrap();
    store.pull(&registry.name("hello:v1"), PullAuth::Anonymous).await.unwrap();
}

#[tokio::test]
async fn a_tag_that_moved_is_followed() {
    let (registry, dir) = (Registry::start(false), tempfile::tempdir().unwrap());
    let store = store(dir.path());
    let name = registry.name("hello:latest");
    registry.push_artifact("hello:latest").await;
    store.pull(&name, PullAuth::Anonymous).await.unwrap();
    let newer = b"\0asm\x01\0\0\0 another".as_slice();
    let layer = ("application/vnd.wasm.content.layer.v1+wasm", newer);
    let digest =
        registry.push("hello:latest", &[layer], ("application/vnd.wasm.config.v1+json", b"{}")).await;
    assert_eq!(store.pull(&registry.name("hello"), PullAuth::Anonymous).await.unwrap().digest, digest);
    assert_eq!(content(&store.get(&name).unwrap().kind), newer);
    assert_eq!(store.list().len(), 1);
}

#[tokio::test]
async fn names_that_are_not_there_are_not_found() {
    let (registry, dir) = (Registry::start(false), tempfile::tempdir().unwrap());
    registry.push_artifact("hello:v1").await;
    for name in ["hello:v2", "nothing:v1"] {
        let error = store(dir.path()).pull(&registry.name(name), PullAuth::Anonymous).await.unwrap_err();
        assert!(matches!(&error, PullError::NotFound(found) if *found == registry.name(name)), "{error}");
    }
    let error = store(dir.path()).pull("UPPER case", PullAuth::Anonymous).await.unwrap_err();
    assert_eq!(error.to_string(), "couldn't parse image name \"UPPER case\": invalid reference format");
}

#[tokio::test]
async fn damaged_content_is_refused() {
    let (registry, dir) = (Registry::start(false), tempfile::tempdir().unwrap());
    registry.push_artifact("hello:v1").await;
    let mut damaged = WASM.to_vec();
    damaged[12] ^= 1;
    fs::write(registry.blob(WASM), &damaged).unwrap();
    let store = store(dir.path());
    let error = store.pull(&registry.name("hello:v1"), PullAuth::Anonymous).await.unwrap_err();
    assert!(error.to_string().to_lowercase().contains("digest"), "{error}");
    assert!(store.list().is_empty());
    assert_eq!(fs::read_dir(dir.path().join("tmp")).unwrap().count(), 0);
}

#[tokio::test]
async fn a_registry_with_passwords_wants_the_right_one() {
    let (registry, dir) = (Registry::start(true), tempfile::tempdir().unwrap());
    registry.push_artifact("hello:v1").await;
    let (store, name) = (store(dir.path()), registry.name("hello:v1"));
    let basic =
        |password: &str| PullAuth::Basic { username: "naru".to_owned(), password: password.to_owned() };
    for auth in [PullAuth::Anonymous, basic("wrong"), PullAuth::Bearer("nonsense".to_owned())] {
        let error = store.pull(&name, auth).await.unwrap_err();
        assert!(error.to_string().contains("unauthorized"), "{error}");
    }
    store.pull(&name, basic("secret")).await.unwrap();
}

#[tokio::test]
async fn a_registry_that_is_not_there_is_named_with_the_reason() {
    let dir = tempfile::tempdir().unwrap();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let error = store(dir.path()).pull(&format!("{free}/hello:v1"), PullAuth::Anonymous).await.unwrap_err();
    let text = error.to_string();
    assert!(text.contains("refused") && text.contains(&free.to_string()), "{text}");
}

#[tokio::test]
async fn linux_images_are_recognised() {
    let (registry, dir) = (Registry::start(false), tempfile::tempdir().unwrap());
    let layer = gzip(&tar_of(&[("bin/sh", b"\x7fELF")]));
    let config = br#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}"#;
    let layers = [("application/vnd.oci.image.layer.v1.tar+gzip", layer.as_slice())];
    registry.push("sh:v1", &layers, ("application/vnd.oci.image.config.v1+json", config)).await;
    let error = store(dir.path()).pull(&registry.name("sh:v1"), PullAuth::Anonymous).await.unwrap_err();
    assert!(matches!(error, PullError::Unsupported { .. }), "{error}");
}

#[tokio::test]
async fn a_container_image_for_wasi_is_unpacked_and_chosen_from_an_index() {
    let (registry, dir) = (Registry::start(false), tempfile::tempdir().unwrap());
    let base = tar_of(&[("app/run.wasm", b"\0asm older"), ("etc/motd", b"hi")]);
    let top = gzip(&tar_of(&[("./app/run.wasm", WASM)]));
    let config = br#"{"architecture":"wasm","os":"wasip1","rootfs":{"type":"layers","diff_ids":[]},
        "config":{"Entrypoint":["/app/run.wasm","--fast"],"Env":["A=b"],"Cmd":["x"]}}"#;
    let layers = [
        ("application/vnd.oci.image.layer.v1.tar", base.as_slice()),
        ("application/vnd.oci.image.layer.v1.tar+gzip", top.as_slice()),
    ];
    let digest =
        registry.push("app:wasm", &layers, ("application/vnd.oci.image.config.v1+json", config)).await;
    let entry = |platform: serde_json::Value, digest: &str| -> ImageIndexEntry {
        serde_json::from_value(serde_json::json!({
            "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest, "size": 1,
            "platform": platform,
        }))
        .unwrap()
    };
    let index = OciImageIndex {
        schema_version: 2,
        media_type: Some("application/vnd.oci.image.index.v1+json".to_owned()),
        manifests: vec![
            entry(serde_json::json!({"os": "linux", "architecture": "amd64"}), &digest),
            entry(serde_json::json!({"os": "wasip1", "architecture": "wasm"}), &digest),
        ],
        artifact_type: None,
        annotations: None,
    };
    let reference: Reference = registry.name("app:v1").parse().unwrap();
    client().push_manifest(&reference, &OciManifest::ImageIndex(index)).await.unwrap();

    let store = store(dir.path());
    let image = store.pull(&registry.name("app:v1"), PullAuth::Anonymous).await.unwrap();
    assert_eq!(image.digest, digest);
    assert_eq!(content(&image.kind), WASM);
    assert_eq!(image.entrypoint, ["/app/run.wasm", "--fast"]);
    assert_eq!((image.cmd, image.env), (vec!["x".to_owned()], vec!["A=b".to_owned()]));
}

#[tokio::test]
async fn ten_pulls_at_once_end_in_one_image() {
    let (registry, dir) = (Registry::start(false), tempfile::tempdir().unwrap());
    registry.push_artifact("hello:v1").await;
    let (store, name) = (store(dir.path()), registry.name("hello:v1"));
    let pulls = (0..10).map(|_| store.pull(&name, PullAuth::Anonymous));
    for result in futures::future::join_all(pulls).await {
        result.unwrap();
    }
    assert_eq!(store.list().len(), 1);
}
