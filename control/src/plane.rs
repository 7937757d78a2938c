//! A member of the control plane: puts store, API server, controllers and scheduler together, and takes them down.
//!
//! Start and restart take the same path: open what is there, make what is missing, serve.

mod bootstrap;
mod connections; // How many, and which go.
mod serve;

use std::{
    io,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use crate::{
    ApiClient, ApiError, ClusterSettings,
    api::{
        State,
        aggregation::{Aggregator, Contents, Follower},
    },
    audit::{Audit, AuditSettings},
    auth::{
        AuthenticationSettings, Authenticator, Authorizer, TokenIssuer,
        pki::{Pki, PkiError},
    },
    controllers::{self, ControllerSettings},
    fairness::Fairness,
    images::{ImageLibrary, LibraryError},
    registry::{Kinds, Registry, crd::Serving},
    scheduler,
    store::{Sealer, Store, StoreError},
};

/// What a member is started with.
#[derive(Debug, Clone)]
pub struct PlaneSettings {
    /// Store, certificates and images live below; made if missing.
    pub data_dir: PathBuf,
    /// Where HTTPS is served; port 0 picks a free one.
    pub listen: SocketAddr,
    pub cluster: ClusterSettings,
    pub authentication: AuthenticationSettings,
    /// Ranges that the nodes' pod ranges are cut from.
    pub pod_cidrs: Vec<String>,
    /// Prefix length of one node's pod range.
    pub node_cidr_prefix: u8,
    /// Requests that are worked on at the same time.
    pub max_requests_inflight: u32,
    /// How long a request takes at most, unless it goes on for as long as its client likes.
    pub request_timeout: Duration,
    /// The keys for encryption at rest, if there is to be any.
    pub encryption: Option<PathBuf>,
    /// Where requests are recorded, if they are.
    pub audit: Option<AuditSettings>,
    /// How long a node may be silent before it counts as lost; None for Kubernetes' default.
    pub node_monitor_grace_period: Option<Duration>,
}

/// Why a member did not start. Each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("cannot use the data directory {path}: {source}")]
    DataDir { path: PathBuf, source: io::Error },
    #[error("cannot serve the API on {address}: {source}; choose another address with --listen")]
    Listen { address: SocketAddr, source: io::Error },
    #[error("the store does not start: {0}")]
    Store(#[from] StoreError),
    #[error(transparent)]
    Pki(#[from] PkiError),
    #[error(transparent)]
    Images(#[from] LibraryError),
    #[error("{0}")]
    Authentication(String),
    #[error("{0}")]
    Audit(String),
    #[error("{0}")]
    Encryption(String),
    #[error("TLS cannot be set up: {0}")]
    Tls(String),
    #[error("cannot write the first objects of the cluster: {0}")]
    Bootstrap(#[source] ApiError),
}

/// A running member.
pub struct ControlPlane {
    address: SocketAddr,
    pki: Pki,
    client: ApiClient,
    shutdown: CancellationToken,
    /// The server first, then what writes through it.
    tasks: Vec<JoinHandle<()>>,
}

impl ControlPlane {
    /// Starts everything; the API answers when this returns.
    pub async fn start(settings: PlaneSettings) -> Result<Self, StartError> {
        let data_dir = &settings.data_dir;
        let audit = settings.audit.as_ref().map(Audit::open).transpose().map_err(StartError::Audit)?;
        let sealer = settings.encryption.as_deref().map_or_else(|| Ok(Sealer::default()), Sealer::open);
        let sealer = sealer.map_err(StartError::Encryption)?;
        std::fs::create_dir_all(data_dir)
            .map_err(|source| StartError::DataDir { path: data_dir.clone(), source })?;
        // The lock of the store comes first: a second process must change nothing.
        let store = Store::open_sealed(&data_dir.join("store"), sealer).await?;
        match Self::start_on(store.clone(), &settings, audit).await {
            Ok(plane) => Ok(plane),
            Err(error) => {
                store.close().await;
                Err(error)
            }
        }
    }

    async fn start_on(
        store: Store,
        settings: &PlaneSettings,
        audit: Option<Audit>,
    ) -> Result<Self, StartError> {
        let refused = |source| StartError::Listen { address: settings.listen, source };
        let listener = TcpListener::bind(settings.listen).await.map_err(refused)?;
        let address = listener.local_addr().map_err(refused)?;
        let pki = Pki::open(&settings.data_dir.join("pki"), &server_names(settings))?;
        let issuer = TokenIssuer::open(&settings.data_dir.join("pki"), &settings.cluster.domain)?;
        let issuer = Arc::new(issuer);
        let authenticator = Authenticator::new(&settings.authentication, issuer.clone());
        let authenticator = authenticator.map_err(StartError::Authentication)?;
        let images = Arc::new(ImageLibrary::open(&settings.data_dir.join("images"))?);
        let acceptor = serve::acceptor(&pki).map_err(StartError::Tls)?;

        let authorizer = Arc::new(Authorizer::new(store.clone()));
        let registry =
            Registry::new(store.clone(), Kinds::builtin(), settings.cluster.clone(), authorizer.clone());
        if let Some(audit) = audit {
            registry.record_to(Arc::new(audit));
        }
        let client = ApiClient::new(registry.clone(), "system:apiserver");
        let authorities = bootstrap::Authorities { clients: pki.authority(), proxy: &pki.proxy_authority };
        bootstrap::write(&client, &settings.cluster, reachable(address), authorities)
            .await
            .map_err(StartError::Bootstrap)?;
        // Whoever acts from here on does so by the cluster's roles.
        authorizer.rbac.refresh(&store.snapshot());

        let shutdown = CancellationToken::new();
        let (cache, ends) = (store.clone(), shutdown.clone());
        let idle_objects = tokio::spawn(async move {
            let _ = ends.run_until_cancelled(cache.let_idle_objects_go()).await;
        });
        let (sealed, ends) = (store.clone(), shutdown.clone());
        let key_follower = tokio::spawn(async move { sealed.keep_sealed(ends).await });
        let (rbac, ends) = (authorizer.rbac.clone(), shutdown.clone());
        let rbac_follower = tokio::spawn(async move { rbac.follow(&store, ends).await });
        let mut serving = Serving::new(registry.clone());
        serving.refresh();
        let aggregator = Arc::new(Aggregator::new(pki.proxy_client.clone()));
        let fairness = Arc::new(Fairness::new(settings.max_requests_inflight, &client.store().snapshot()));
        let state = State::new(
            registry,
            authenticator,
            fairness.clone(),
            images,
            aggregator.clone(),
            &pki.kubelet_client,
            shutdown.clone(),
        )
        .map_err(StartError::Tls)?
        .with_request_timeout(settings.request_timeout);
        let usage = state.resource_metrics().clone().run(shutdown.clone());
        let mut tasks =
            vec![tokio::spawn(serve::serve(listener, acceptor, Arc::new(state), shutdown.clone()))];
        tasks.push(tokio::spawn(usage));
        let (upkeep, ends) = (client.clone(), shutdown.clone());
        tasks.push(tokio::spawn(async move { fairness.follow(&upkeep, ends).await }));
        let defaults = ControllerSettings::default();
        tasks.push(tokio::spawn(serving.run(shutdown.clone())));
        let contents = Contents::new(aggregator.clone(), client.store().clone(), shutdown.clone());
        let follower = Follower::new(aggregator, client.clone(), shutdown.clone());
        tasks.push(tokio::spawn(follower.run()));
        let controller_settings = ControllerSettings {
            pod_cidrs: settings.pod_cidrs.clone(),
            node_cidr_prefix: settings.node_cidr_prefix,
            node_monitor_grace_period: settings
                .node_monitor_grace_period
                .unwrap_or(defaults.node_monitor_grace_period),
            root_ca: pki.authority().to_owned(),
            token_issuer: Some(issuer),
            certificates: Some((pki.signer(), authorizer.clone())),
            other_servers: Some(Arc::new(contents)),
        };
        tasks.extend(controllers::spawn(client.clone(), controller_settings, shutdown.clone()));
        tasks.extend([rbac_follower, idle_objects, key_follower]);
        tasks.push(scheduler::spawn(client.acting_as("system:kube-scheduler"), shutdown.clone()));
        Ok(Self { address, pki, client, shutdown, tasks })
    }

    /// `https://127.0.0.1:6443`: where clients of this machine reach the API.
    pub fn url(&self) -> String {
        format!("https://{}", reachable(self.address))
    }

    /// The road to the API for code of this process.
    pub fn client(&self) -> &ApiClient {
        &self.client
    }

    /// A kubeconfig of the group `system:masters`.
    pub fn admin_kubeconfig(&self) -> String {
        self.pki.kubeconfig(&self.url(), "naru-admin", &self.pki.admin)
    }

    /// A kubeconfig for the agent of node `name`.
    pub fn node_kubeconfig(&self, name: &str) -> Result<String, PkiError> {
        let identity = self.pki.issue_node(name)?;
        Ok(self.pki.kubeconfig(&self.url(), &format!("system:node:{name}"), &identity))
    }

    /// Stops serving, then everything else, and closes the store.
    pub async fn shutdown(self) {
        self.shutdown.cancel();
        for task in self.tasks {
            if let Err(error) = task.await
                && error.is_panic()
            {
                tracing::error!(%error, "a part of the control plane had failed");
            }
        }
        self.client.store().close().await;
        if let Some(audit) = self.client.registry().audit() {
            audit.flush().await;
        }
    }
}

/// What the server's certificate vouches for.
fn server_names(settings: &PlaneSettings) -> Vec<String> {
    let domain = &settings.cluster.domain;
    let mut names: Vec<String> =
        ["localhost", "127.0.0.1", "kubernetes", "kubernetes.default", "kubernetes.default.svc"]
            .map(str::to_owned)
            .into();
    names.push(format!("kubernetes.default.svc.{domain}"));
    names.push(settings.cluster.kubernetes_service().to_string());
    if !settings.listen.ip().is_unspecified() {
        names.push(settings.listen.ip().to_string());
    }
    let host = rustix::system::uname().nodename().to_string_lossy().to_lowercase();
    if !host.is_empty() {
        names.push(host);
    }
    names.dedup();
    names
}

/// The address by which this machine's own clients reach a listener.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        ip if !ip.is_unspecified() => ip,
        IpAddr::V4(_) => IpAddr::from([127, 0, 0, 1]),
        IpAddr::V6(_) => IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1]),
    };
    SocketAddr::new(ip, address.port())
}
