//! A cluster of the real binary.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use tempfile::TempDir;

use crate::{
    Kubectl, checkout,
    kubectl::{Answer, finish, tool},
    naru_binary, sample,
};

/// What kind of cluster to start.
#[derive(Debug, Clone)]
pub struct Options {
    pub nodes: u32,
    /// More arguments for `naru up`.
    pub args: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self { nodes: 1, args: Vec::new() }
    }
}

/// A running `naru up`.
pub struct Cluster {
    dir: TempDir,
    options: Options,
    process: Option<Child>,
}

impl Cluster {
    /// A cluster of one node.
    pub fn start() -> Self {
        Self::start_with(Options::default())
    }

    pub fn start_with(options: Options) -> Self {
        let mut cluster = Self::prepare(options);
        cluster.up();
        cluster
    }

    /// A cluster that is not started yet, for tests that do something to its empty data directory first.
    pub fn prepare(options: Options) -> Self {
        let dir = tempfile::Builder::new().prefix("naru-test-").tempdir().expect("a temp dir");
        let cluster = Self { dir, options, process: None };
        std::fs::create_dir(cluster.data_dir()).expect("the temp dir is writable");
        cluster
    }

    /// Starts `naru up` on this cluster's folder (again) and waits until it is ready.
    pub fn up(&mut self) {
        assert!(self.process.is_none(), "the cluster runs already");
        let log = File::options().create(true).append(true).open(self.log_file()).expect("a log file");
        let out = self.dir.path().join("out");
        let child = Command::new(naru_binary())
            .args(["up", "--listen", "127.0.0.1:0", "--nodes", &self.options.nodes.to_string(), "--data-dir"])
            .arg(self.data_dir())
            .args(&self.options.args)
            .env("HOME", self.dir.path())
            .stdin(Stdio::null())
            .stdout(File::create(&out).expect("an output file"))
            .stderr(log)
            .spawn()
            .expect("naru starts");
        self.process = Some(child);
        let started = Instant::now();
        loop {
            let text = std::fs::read_to_string(&out).unwrap_or_default();
            if text.lines().any(|line| line.starts_with("naru is ready")) {
                return;
            }
            let ended = self.process.as_mut().and_then(|child| child.try_wait().ok().flatten());
            assert!(ended.is_none(), "naru up ended with {ended:?}:\n{}", self.log());
            assert!(started.elapsed() < Duration::from_mins(1), "naru up is not ready:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(5)); // Another process: there is nothing to wait on.
        }
    }

    pub fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// A folder of this test's own, beside the cluster's.
    pub fn temp_dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.data_dir().join("kubeconfig")
    }

    fn log_file(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    /// What the cluster wrote to standard error.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    pub fn pid(&self) -> u32 {
        self.process.as_ref().expect("the cluster runs").id()
    }

    /// kubectl 1.37.
    pub fn kubectl(&self) -> Kubectl {
        self.kubectl_of("1.37")
    }

    pub fn kubectl_of(&self, version: &str) -> Kubectl {
        Kubectl::new(version, &self.kubeconfig(), self.dir.path())
    }

    /// Both kubectl versions that the tests use.
    pub fn kubectls(&self) -> [Kubectl; 2] {
        ["1.35", "1.37"].map(|version| self.kubectl_of(version))
    }

    /// Helm 4.
    pub fn helm(&self, args: &[&str]) -> Answer {
        self.run_client(Command::new(tool("helm")).args(args))
    }

    /// A program of `tests/clients`, in Python or JavaScript by its name, with that language's client at hand.
    pub fn client_program(&self, name: &str) -> Answer {
        let language = if name.ends_with(".py") { "python3" } else { "node" };
        let mut command = Command::new(language);
        command.arg(checkout("tests/clients").join(name));
        match language {
            // Programs import each other; what Python makes of them has no place in the checkout.
            "python3" => command.env("PYTHONPATH", tool("python")).env("PYTHONDONTWRITEBYTECODE", "1"),
            _ => command.env("NODE_MODULES", tool("javascript")),
        };
        self.run_client(&mut command)
    }

    fn run_client(&self, command: &mut Command) -> Answer {
        finish(command.env("KUBECONFIG", self.kubeconfig()).env("HOME", self.dir.path()))
    }

    /// A typed client.
    pub async fn client(&self) -> kube::Client {
        kube::Client::try_from(self.client_config().await).expect("a client")
    }

    /// How a client of the administrator connects.
    pub async fn client_config(&self) -> kube::Config {
        // Several libraries of this process bring TLS; the first call settles which.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let kubeconfig = kube::config::Kubeconfig::read_from(self.kubeconfig()).expect("a kubeconfig");
        kube::Config::from_custom_kubeconfig(kubeconfig, &Default::default()).await.expect("a config")
    }

    /// `naru ARGS` against this cluster.
    pub fn naru(&self, args: &[&str]) -> Answer {
        let output = Command::new(naru_binary())
            .args(args)
            .env("KUBECONFIG", self.kubeconfig())
            .env("HOME", self.dir.path())
            .stdin(Stdio::null())
            .output()
            .expect("naru starts");
        Answer {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Imports built samples under the names that the manifests use: `hello` becomes `hello:v1`.
    pub fn import_samples(&self, names: &[&str]) {
        for name in names {
            self.import(&sample(name), &format!("{name}:v1"));
        }
    }

    pub fn import(&self, file: &Path, name: &str) {
        self.naru(&["image", "import", &file.to_string_lossy(), "--name", name]).ok();
    }

    /// An HTTP client that gives up soon.
    pub fn http(&self) -> reqwest::Client {
        let _ = rustls::crypto::ring::default_provider().install_default();
        reqwest::Client::builder()
            .timeout(Duration::from_secs(10))
            .pool_max_idle_per_host(0)
            .build()
            .expect("an HTTP client")
    }

    /// Stops it as Ctrl-C would, and waits until it ended. Answers its exit code.
    pub fn stop(&mut self) -> i32 {
        let mut child = self.process.take().expect("the cluster runs");
        signal(child.id(), rustix::process::Signal::TERM);
        child.wait().expect("naru ends").code().unwrap_or(-1)
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        let mut child = self.process.take().expect("the cluster runs");
        child.kill().expect("it can be killed");
        child.wait().expect("it ends");
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Some(child) = &mut self.process {
            signal(child.id(), rustix::process::Signal::TERM);
            let started = Instant::now();
            while child.try_wait().is_ok_and(|ended| ended.is_none()) {
                if started.elapsed() > Duration::from_secs(20) {
                    let _ = child.kill();
                    let _ = child.wait();
                    break;
                }
                std::thread::sleep(Duration::from_millis(10)); // Another process: there is nothing to wait on.
            }
        }
        if std::thread::panicking() {
            eprintln!("--- log of the cluster:\n{}", self.log());
        }
    }
}

/// Sends a signal to a process that this test started.
pub fn signal(pid: u32, signal: rustix::process::Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw) {
        let _ = rustix::process::kill_process(pid, signal);
    }
}
