//! The command line, and every default of it.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand};
use naru_control::{
    audit::{AuditSettings, LogSettings},
    auth::{AuthenticationSettings, OidcSettings},
};

/// Naru: the WebAssembly-first Kubernetes, in one binary.
#[derive(Debug, Parser)]
#[command(name = "naru", version = naru_version(), propagate_version = true, disable_help_subcommand = true)]
pub struct Cli {
    /// Say more: -v debug, -vv trace. `RUST_LOG` overrules it.
    #[arg(short, long, action = clap::ArgAction::Count, global = true)]
    pub verbose: u8,
    #[command(subcommand)]
    pub command: Command,
}

/// The text of `naru --version`.
pub fn naru_version() -> &'static str {
    env!("CARGO_PKG_VERSION")
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start a whole cluster on this machine, in the foreground.
    Up(UpArgs),
    /// Start a member of the control plane.
    Server(ServerArgs),
    /// Start a node agent, and its runtime where none runs yet.
    Node(NodeArgs),
    /// Start the container runtime alone: a CRI server on a Unix socket.
    Runtime(RuntimeArgs),
    /// Work with the cluster's image store.
    Image(ImageArgs),
    /// Print the kubeconfig of a cluster that runs on this machine.
    Kubeconfig(KubeconfigArgs),
    /// Print the version.
    Version(VersionArgs),
    /// Print a completion script for a shell.
    Completion { shell: clap_complete::Shell },
}

/// How users may prove who they are, beside certificates and the cluster's own tokens.
#[derive(Debug, Clone, Args)]
pub struct AuthenticationArgs {
    /// Whether requests without credentials are taken as those of system:anonymous.
    #[arg(long, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set)]
    pub anonymous_auth: bool,
    /// A file of bearer tokens: lines of token,user,uid,"group1,group2".
    #[arg(long, value_name = "FILE")]
    pub token_auth_file: Option<PathBuf>,
    /// The OpenID Connect provider whose tokens are believed (https://...).
    #[arg(long, value_name = "URL", requires = "oidc_client_id")]
    pub oidc_issuer_url: Option<String>,
    /// The audience that the provider's tokens must be for.
    #[arg(long, value_name = "ID")]
    pub oidc_client_id: Option<String>,
    /// The claim that is the user's name.
    #[arg(long, value_name = "CLAIM", default_value = "sub")]
    pub oidc_username_claim: String,
    /// What is put before user names; - for nothing [default: the issuer and #, for claims other than email].
    #[arg(long, value_name = "PREFIX")]
    pub oidc_username_prefix: Option<String>,
    /// The claim that lists the user's groups.
    #[arg(long, value_name = "CLAIM")]
    pub oidc_groups_claim: Option<String>,
    /// What is put before the names of groups.
    #[arg(long, value_name = "PREFIX", default_value = "")]
    pub oidc_groups_prefix: String,
    /// A claim that tokens must have, as KEY=VALUE. May be repeated.
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    pub oidc_required_claim: Vec<(String, String)>,
    /// The authorities that vouch for the provider [default: those of this machine].
    #[arg(long, value_name = "FILE")]
    pub oidc_ca_file: Option<PathBuf>,
    /// Signature algorithms that are accepted.
    #[arg(long, value_name = "ALG", value_delimiter = ',', default_value = "RS256")]
    pub oidc_signing_algs: Vec<String>,
}

/// A time above zero as Go writes it: `1m0s`.
fn duration(text: &str) -> Result<Duration, String> {
    let parsed = naru_model::duration::parse_go(text).map_err(|error| error.to_string())?;
    let duration = Duration::try_from(parsed).ok().filter(|duration| !duration.is_zero());
    duration.ok_or_else(|| "must be above zero".to_owned())
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("must be KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

impl From<AuthenticationArgs> for AuthenticationSettings {
    fn from(args: AuthenticationArgs) -> Self {
        let oidc = args.oidc_issuer_url.map(|issuer| OidcSettings {
            issuer,
            client_id: args.oidc_client_id.unwrap_or_default(),
            username_claim: args.oidc_username_claim,
            username_prefix: args.oidc_username_prefix,
            groups_claim: args.oidc_groups_claim,
            groups_prefix: args.oidc_groups_prefix,
            required_claims: args.oidc_required_claim,
            ca_file: args.oidc_ca_file,
            algorithms: args.oidc_signing_algs,
        });
        Self { refuses_anonymous: !args.anonymous_auth, token_file: args.token_auth_file, oidc }
    }
}

/// How the API server treats requests.
#[derive(Debug, Clone, Args)]
pub struct ApiArgs {
    /// Reads that are worked on at the same time; priority and fairness divide the sum of both.
    #[arg(long, value_name = "N", default_value_t = 400)]
    pub max_requests_inflight: u32,
    /// Writes that are worked on at the same time.
    #[arg(long, value_name = "N", default_value_t = 200)]
    pub max_mutating_requests_inflight: u32,
    /// How long a request may take, unless it goes on for as long as its client likes, as watches do.
    #[arg(long, value_name = "DURATION", default_value = "1m0s", value_parser = duration)]
    pub request_timeout: Duration,
    /// Which resources are encrypted on disk, and with which keys: an EncryptionConfiguration of
    /// apiserver.config.k8s.io/v1. It is read again when it changes.
    #[arg(long, value_name = "FILE")]
    pub encryption_provider_config: Option<PathBuf>,
    /// Which requests are recorded: a Policy of audit.k8s.io/v1.
    #[arg(long, value_name = "FILE", requires = "audit_log_path")]
    pub audit_policy_file: Option<PathBuf>,
    /// Where they are recorded, an event a line; - for standard output.
    #[arg(long, value_name = "FILE", requires = "audit_policy_file")]
    pub audit_log_path: Option<PathBuf>,
    /// Size in MB at which the audit log begins a new file; 0 for never.
    #[arg(long, value_name = "MB", default_value_t = 0)]
    pub audit_log_maxsize: u64,
    /// How many old files of the audit log are kept; 0 for all.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub audit_log_maxbackup: usize,
    /// Days after which old files of the audit log are removed; 0 for never.
    #[arg(long, value_name = "DAYS", default_value_t = 0)]
    pub audit_log_maxage: u64,
}

impl ApiArgs {
    pub fn audit(&self) -> Option<AuditSettings> {
        let (policy, path) = self.audit_policy_file.clone().zip(self.audit_log_path.clone())?;
        let log = LogSettings {
            path,
            max_size_mb: self.audit_log_maxsize,
            max_backups: self.audit_log_maxbackup,
            max_age_days: self.audit_log_maxage,
        };
        Some(AuditSettings { policy, log })
    }
}

#[derive(Debug, Args)]
pub struct UpArgs {
    /// Where the cluster lives [default: ~/.naru].
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Where the Kubernetes API is served; port 0 picks a free one.
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:6443")]
    pub listen: SocketAddr,
    /// How many nodes to run on this machine.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub nodes: u32,
    #[command(flatten)]
    pub guests: GuestArgs,
    /// Apply a manifest (a file, or - for standard input) as soon as the cluster is ready. May be repeated.
    #[arg(short = 'f', long = "filename", value_name = "MANIFEST")]
    pub manifests: Vec<PathBuf>,
    #[command(flatten, next_help_heading = "Authentication")]
    pub authentication: AuthenticationArgs,
    #[command(flatten, next_help_heading = "Requests")]
    pub api: ApiArgs,
}

#[derive(Debug, Args)]
pub struct ServerArgs {
    /// Where the control plane keeps its state [default: ~/.naru].
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Where the Kubernetes API is served; port 0 picks a free one.
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:6443")]
    pub listen: SocketAddr,
    /// How many seconds a node may be silent before it counts as lost [default: 50].
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    pub node_monitor_grace_period: Option<u64>,
    #[command(flatten, next_help_heading = "Authentication")]
    pub authentication: AuthenticationArgs,
    #[command(flatten, next_help_heading = "Requests")]
    pub api: ApiArgs,
}

#[derive(Debug, Args)]
pub struct NodeArgs {
    /// A kubeconfig that lets the node into its cluster.
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: PathBuf,
    /// The node's name [default: the host's name].
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Where the node keeps images, logs and volumes [default: ~/.naru/nodes/NAME].
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// The runtime's socket; a runtime is started there if none answers [default: DIR/runtime.sock].
    #[arg(long, value_name = "PATH")]
    pub runtime_socket: Option<PathBuf>,
    /// The node's address [default: one from the cluster's loopback block].
    #[arg(long, value_name = "ADDR")]
    pub address: Option<std::net::IpAddr>,
    #[command(flatten)]
    pub guests: GuestArgs,
}

/// How nodes run WebAssembly.
#[derive(Debug, Clone, Copy, Args)]
pub struct GuestArgs {
    /// Compile all WebAssembly with wasmtime's defences against speculative execution (Spectre), as for tenants that do
    /// not trust each other. A fresh instance per request then takes about twice the CPU time. A runtime
    /// that runs already stays as it was started.
    #[arg(long)]
    pub harden_guests: bool,
}

#[derive(Debug, Args)]
pub struct RuntimeArgs {
    /// The Unix socket that CRI is served on [default: DIR/runtime.sock].
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// Where the runtime keeps images and compiled modules [default: ~/.naru/runtime].
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// How many wasm instances may exist at once [default: 12000, or what fits below vm.max_map_count].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub max_instances: Option<u32>,
    #[command(flatten)]
    pub guests: GuestArgs,
    /// End when the process that started this one ends.
    #[arg(long, hide = true)]
    pub exit_with_parent: bool,
}

#[derive(Debug, Args)]
pub struct ImageArgs {
    /// The cluster's kubeconfig [default: as kubectl finds it, then ~/.naru/kubeconfig].
    #[arg(long, value_name = "FILE", global = true)]
    pub kubeconfig: Option<PathBuf>,
    #[command(subcommand)]
    pub command: ImageCommand,
}

#[derive(Debug, Subcommand)]
pub enum ImageCommand {
    /// Put a WebAssembly file into the cluster under a name.
    Import {
        /// The .wasm file.
        file: PathBuf,
        /// The image's name, as pods will say it [default: the file's name without .wasm].
        #[arg(long, value_name = "NAME")]
        name: Option<String>,
    },
    /// List the cluster's images.
    Ls {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Remove images from the cluster by name.
    Rm {
        #[arg(required = true)]
        names: Vec<String>,
    },
}

#[derive(Debug, Args)]
pub struct KubeconfigArgs {
    /// The cluster's data directory [default: ~/.naru].
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct VersionArgs {
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}
