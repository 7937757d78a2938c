//! Pulling: from a name to verified content in the store.
//!
//! Every byte is checked against the digest that the manifest announces, and the manifest against the one that
//! the registry or the user announces. Each pull has a client of its own, so that no credentials outlive it.

use std::{fs::File, io::Read, sync::Once, time::Duration};

use flate2::read::GzDecoder;
use futures::StreamExt;
use oci_client::{
    Client, Reference, RegistryOperation,
    client::{ClientConfig, ClientProtocol},
    errors::{OciDistributionError, OciErrorCode},
    manifest::{OciDescriptor, OciImageManifest, OciManifest},
    secrets::RegistryAuth,
};

use crate::{
    Image, ImageStore, Incoming, PullAuth, PullError,
    images::copy,
    incoming::Kept,
    manifest::{Plan, RunConfig, archive_path, choose, plan},
    record::Record,
    reference::{is_loopback, parse},
};

/// A layer, or a file in it, may be this large; and so may what a compressed layer unpacks to.
const MAX_CONTENT: u64 = 512 << 20;
const MAX_CONFIG: u64 = 4 << 20;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Without a byte for so long, the pull fails and is tried again with backoff by whoever asked.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
const NO_LINUX: &str = "this version of Naru runs wasm containers only";

pub(crate) async fn pull(store: &ImageStore, name: &str, auth: PullAuth) -> Result<Image, PullError> {
    let reference = parse(name)?;
    let pull = Pull { store, name, client: client(&reference)?, reference, auth: registry_auth(auth) };
    pull.run().await
}

struct Pull<'a> {
    store: &'a ImageStore,
    name: &'a str,
    client: Client,
    reference: Reference,
    auth: RegistryAuth,
}

impl Pull<'_> {
    async fn run(self) -> Result<Image, PullError> {
        self.sign_in().await?;
        let (manifest, digest) = self.manifest().await?;
        let record = self.record(&manifest, digest);
        match plan(&manifest) {
            Plan::Layer(layer) => self.take_layer(record, layer).await,
            Plan::Archive(layers) => self.take_archive(record, &manifest.config, layers).await,
            Plan::Unusable(reason) => Err(PullError::Unsupported {
                image: self.name.to_owned(),
                reason: format!("{reason}; {NO_LINUX}"),
            }),
        }
    }

    /// Asks for a token first: the client would otherwise go on without one and hide the reason.
    async fn sign_in(&self) -> Result<(), PullError> {
        let answer = self.client.auth(&self.reference, &self.auth, RegistryOperation::Pull).await;
        answer.map(|_| ()).map_err(|error| self.failed(error))
    }

    async fn manifest(&self) -> Result<(OciImageManifest, String), PullError> {
        let (manifest, digest) = self.fetch_manifest(&self.reference).await?;
        let index = match manifest {
            OciManifest::Image(manifest) => return Ok((manifest, digest)),
            OciManifest::ImageIndex(index) => index,
        };
        let Some(entry) = choose(&index.manifests) else {
            let platforms: Vec<_> = index
                .manifests
                .iter()
                .filter_map(|entry| entry.platform.as_ref())
                .map(ToString::to_string)
                .collect();
            let reason = format!("it is for {}; {NO_LINUX}", platforms.join(", "));
            return Err(PullError::Unsupported { image: self.name.to_owned(), reason });
        };
        let reference = self.reference.clone_with_digest(entry.digest.clone());
        match self.fetch_manifest(&reference).await? {
            (OciManifest::Image(manifest), digest) => Ok((manifest, digest)),
            (OciManifest::ImageIndex(_), _) => Err(self.because("an index inside an index".to_owned())),
        }
    }

    async fn fetch_manifest(&self, reference: &Reference) -> Result<(OciManifest, String), PullError> {
        self.client.pull_manifest(reference, &self.auth).await.map_err(|error| self.failed(error))
    }

    fn record(&self, manifest: &OciImageManifest, digest: String) -> Record {
        let layers: i64 = manifest.layers.iter().map(|layer| layer.size).sum();
        let repository = format!("{}/{}", self.reference.registry(), self.reference.repository());
        Record {
            repo_digests: vec![format!("{repository}@{digest}")],
            digest,
            content_digest: String::new(),
            content_size: 0,
            size: u64::try_from(layers).unwrap_or_default(),
            names: vec![self.reference.whole()],
            entrypoint: Vec::new(),
            cmd: Vec::new(),
            env: Vec::new(),
            working_dir: None,
            user: None,
            sequence: 0,
        }
    }

    async fn take_layer(&self, mut record: Record, layer: OciDescriptor) -> Result<Image, PullError> {
        record.content_digest.clone_from(&layer.digest);
        record.content_size = u64::try_from(layer.size).unwrap_or_default();
        if self.store.has_content(&layer.digest) {
            return self.file(record, None).await;
        }
        let incoming = self.download(&layer).await?;
        let (name, digest) = (self.name.to_owned(), layer.digest);
        let kept = blocking(move || incoming.keep(&name, Some(&digest))).await?;
        record.content_size = kept.size;
        self.file(record, Some(kept)).await
    }

    async fn take_archive(
        &self,
        mut record: Record,
        config: &OciDescriptor,
        layers: Vec<OciDescriptor>,
    ) -> Result<Image, PullError> {
        let config = self.download_config(config).await?;
        let config = RunConfig::of_wasm_image(&config)
            .map_err(|error| self.because(format!("its config: {error}")))?;
        let Some(config) = config else {
            let reason = NO_LINUX.to_owned();
            return Err(PullError::Unsupported { image: self.name.to_owned(), reason });
        };
        let kept = self.find_program(&config, layers).await?;
        record.content_digest.clone_from(&kept.digest);
        record.content_size = kept.size;
        record.entrypoint = config.entrypoint;
        record.cmd = config.cmd;
        record.env = config.env;
        record.working_dir = config.working_dir;
        record.user = config.user;
        self.file(record, Some(kept)).await
    }

    /// The last layer that has the program wins, as in a stacked file system.
    async fn find_program(&self, config: &RunConfig, layers: Vec<OciDescriptor>) -> Result<Kept, PullError> {
        let program = config.program();
        for layer in layers.into_iter().rev() {
            let mut archive = self.download(&layer).await?;
            if archive.digest() != layer.digest {
                return Err(self.because(format!("layer {} is damaged: its digest differs", layer.digest)));
            }
            let (store, name, program) = (self.store.clone(), self.name.to_owned(), program.clone());
            let found = blocking(move || unpack(&store, &archive, &name, program.as_deref())).await?;
            if let Some(kept) = found {
                return Ok(kept);
            }
        }
        let what =
            program.map_or_else(|| "a .wasm file".to_owned(), |program| format!("its program {program}"));
        Err(self.because(format!("no layer contains {what}")))
    }

    async fn download_config(&self, config: &OciDescriptor) -> Result<Vec<u8>, PullError> {
        if config.size < 0 || config.size as u64 > MAX_CONFIG {
            return Err(self.because(format!("its config has {} bytes", config.size)));
        }
        let mut bytes = Vec::with_capacity(config.size as usize);
        let pulled = self.client.pull_blob(&self.reference, config, Bounded { bytes: &mut bytes }).await;
        pulled.map_err(|error| self.failed(error))?;
        Ok(bytes)
    }

    async fn download(&self, layer: &OciDescriptor) -> Result<Incoming, PullError> {
        let announced = u64::try_from(layer.size).unwrap_or(u64::MAX);
        if announced > MAX_CONTENT {
            return Err(self.because(format!(
                "layer {} has {announced} bytes, the limit is {MAX_CONTENT}",
                layer.digest
            )));
        }
        let mut stream =
            self.client.pull_blob_stream(&self.reference, layer).await.map_err(|error| self.failed(error))?;
        let mut incoming = self.store.receive()?;
        while let Some(chunk) = stream.next().await {
            let chunk =
                chunk.map_err(|error| self.because(format!("layer {}: {}", layer.digest, chain(&error))))?;
            if incoming.size() + chunk.len() as u64 > announced {
                return Err(self.because(format!("layer {} is longer than announced", layer.digest)));
            }
            incoming.write(&chunk)?;
        }
        if incoming.size() != announced {
            let reason =
                format!("layer {} ended after {} of {announced} bytes", layer.digest, incoming.size());
            return Err(self.because(reason));
        }
        Ok(incoming)
    }

    async fn file(&self, record: Record, content: Option<Kept>) -> Result<Image, PullError> {
        let store = self.store.clone();
        blocking(move || store.file(record, content)).await
    }

    fn because(&self, reason: String) -> PullError {
        PullError::Registry { image: self.name.to_owned(), reason }
    }

    fn failed(&self, error: OciDistributionError) -> PullError {
        match reason(&error) {
            Reason::NotFound => PullError::NotFound(self.reference.whole()),
            Reason::Other(reason) => self.because(reason),
        }
    }
}

enum Reason {
    NotFound,
    Other(String),
}

/// The registry's own words, without the client's framing.
fn reason(error: &OciDistributionError) -> Reason {
    match error {
        OciDistributionError::RegistryError { envelope, .. } => {
            let is_unknown = |code: &OciErrorCode| {
                matches!(
                    code,
                    OciErrorCode::ManifestUnknown | OciErrorCode::NameUnknown | OciErrorCode::NotFound
                )
            };
            if envelope.errors.iter().any(|error| is_unknown(&error.code)) {
                return Reason::NotFound;
            }
            let said: Vec<_> = envelope
                .errors
                .iter()
                .map(|error| match serde_json::to_value(&error.code) {
                    Ok(serde_json::Value::String(code)) => {
                        format!("{}: {}", code.to_lowercase(), error.message)
                    }
                    _ => error.message.clone(),
                })
                .collect();
            Reason::Other(said.join("; "))
        }
        OciDistributionError::ImageManifestNotFoundError(_) => Reason::NotFound,
        OciDistributionError::ServerError { code: 404, .. } => Reason::NotFound,
        OciDistributionError::ServerError { code, message, .. } => {
            Reason::Other(format!("the registry answered {code}: {}", message.trim()))
        }
        OciDistributionError::UnauthorizedError { .. } => Reason::Other(
            "unauthorized: the registry refused the credentials, or needs some (401)".to_owned(),
        ),
        OciDistributionError::AuthenticationFailure(said) => {
            Reason::Other(format!("unauthorized: {}", said.trim()))
        }
        other => Reason::Other(chain(other)),
    }
}

fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        source = error.source();
    }
    text
}

fn client(reference: &Reference) -> Result<Client, PullError> {
    static PROVIDER: Once = Once::new();
    // Whoever installed another one first wins; either works.
    PROVIDER.call_once(|| _ = rustls::crypto::ring::default_provider().install_default());
    let registry = reference.resolve_registry();
    let protocol = if is_loopback(registry) { ClientProtocol::Http } else { ClientProtocol::Https };
    let config = ClientConfig {
        protocol,
        connect_timeout: Some(CONNECT_TIMEOUT),
        read_timeout: Some(READ_TIMEOUT),
        user_agent: concat!("naru/", env!("CARGO_PKG_VERSION")),
        ..ClientConfig::default()
    };
    Client::try_from(config)
        .map_err(|error| PullError::Registry { image: reference.whole(), reason: chain(&error) })
}

fn registry_auth(auth: PullAuth) -> RegistryAuth {
    match auth {
        PullAuth::Anonymous => RegistryAuth::Anonymous,
        PullAuth::Basic { username, password } => RegistryAuth::Basic(username, password),
        PullAuth::Bearer(token) => RegistryAuth::Bearer(token),
    }
}

/// Takes the program (or the only `.wasm` file) out of a layer.
fn unpack(
    store: &ImageStore,
    layer: &Incoming,
    name: &str,
    program: Option<&str>,
) -> Result<Option<Kept>, PullError> {
    let invalid = |reason: String| PullError::Invalid { image: name.to_owned(), reason };
    let broken = |error: std::io::Error| invalid(format!("a layer is no valid archive: {error}"));
    let mut archive = tar::Archive::new(decompressed(layer)?.take(MAX_CONTENT));
    let mut found = None;
    for entry in archive.entries().map_err(broken)? {
        let mut entry = entry.map_err(broken)?;
        let path = archive_path(&String::from_utf8_lossy(&entry.path_bytes()));
        let is_wanted = match program {
            Some(program) => path == program,
            None => path.ends_with(".wasm"),
        };
        if !is_wanted || !entry.header().entry_type().is_file() {
            continue;
        }
        if found.is_some() && program.is_none() {
            return Err(invalid("it has no entrypoint and several .wasm files".to_owned()));
        }
        let mut incoming = store.receive()?;
        copy(&mut entry, |bytes| incoming.write(bytes)).map_err(broken)?;
        found = Some(incoming.keep(name, None)?);
    }
    Ok(found)
}

fn decompressed(layer: &Incoming) -> std::io::Result<Box<dyn Read>> {
    let mut magic = [0; 2];
    let is_gzip = File::open(layer.path())?.read_exact(&mut magic).is_ok() && magic == [0x1f, 0x8b];
    let file = std::io::BufReader::new(File::open(layer.path())?);
    Ok(if is_gzip { Box::new(GzDecoder::new(file)) } else { Box::new(file) })
}

/// Hashing, syncing and unpacking do not belong on the async threads.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, PullError> + Send + 'static,
) -> Result<T, PullError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(PullError::Io(std::io::Error::other(error))),
    }
}

/// Collects a config without trusting the size that its descriptor announces.
struct Bounded<'a> {
    bytes: &'a mut Vec<u8>,
}

impl tokio::io::AsyncWrite for Bounded<'_> {
    fn poll_write(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
        buffer: &[u8],
    ) -> std::task::Poll<std::io::Result<usize>> {
        let bytes = &mut *self.get_mut().bytes;
        if (bytes.len() + buffer.len()) as u64 > MAX_CONFIG {
            return std::task::Poll::Ready(Err(std::io::Error::other("the config is too large")));
        }
        bytes.extend_from_slice(buffer);
        std::task::Poll::Ready(Ok(buffer.len()))
    }

    fn poll_flush(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn poll_shutdown(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::task::Poll::Ready(Ok(()))
    }
}
