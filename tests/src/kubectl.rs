//! Stock kubectl, run as a user would run it.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::eventually;

/// kubectl of one version, pointed at one cluster.
#[derive(Debug, Clone)]
pub struct Kubectl {
    binary: PathBuf,
    kubeconfig: PathBuf,
    home: PathBuf,
}

/// What a command answered.
#[derive(Debug, Clone)]
pub struct Answer {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Answer {
    /// The standard output of a command that must have succeeded.
    pub fn ok(self) -> String {
        assert_eq!(self.code, 0, "the command failed\nstdout: {}\nstderr: {}", self.stdout, self.stderr);
        self.stdout
    }

    /// The standard error of a command that must have failed.
    pub fn refused(self) -> String {
        assert_ne!(self.code, 0, "the command succeeded, though it must not\nstdout: {}", self.stdout);
        self.stderr
    }
}

/// Something that `make tools` or `make clients` brought.
pub(crate) fn tool(name: &str) -> PathBuf {
    let tools = std::env::var_os("NARU_TOOLS").map_or_else(
        || PathBuf::from(std::env::var_os("HOME").expect("HOME is set")).join(".cache/naru/tools"),
        PathBuf::from,
    );
    let path = tools.join(name);
    assert!(path.exists(), "{} is missing: run `make tools clients`", path.display());
    path
}

impl Kubectl {
    /// `version` is `1.35` or `1.37`.
    pub fn new(version: &str, kubeconfig: &Path, home: &Path) -> Self {
        let binary = tool(&format!("kubectl-{version}"));
        Self { binary, kubeconfig: kubeconfig.into(), home: home.into() }
    }

    /// The command, for tests that need the process itself (`-w`, `-f`).
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command
            .args(args)
            .env("KUBECONFIG", &self.kubeconfig)
            .env("HOME", &self.home)
            .env_remove("KUBE_EDITOR");
        command
    }

    pub fn run(&self, args: &[&str]) -> Answer {
        finish(&mut self.command(args))
    }

    /// Runs with `input` on standard input: `kubectl.run_with(&["apply", "-f", "-"], yaml)`.
    pub fn run_with(&self, args: &[&str], input: &str) -> Answer {
        let mut command = self.command(args);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("kubectl starts");
        // kubectl may refuse before it has read everything.
        let _ = child.stdin.take().expect("stdin is piped").write_all(input.as_bytes());
        answer(&child.wait_with_output().expect("kubectl ends"))
    }

    /// Applies `yaml`, which must succeed.
    pub fn apply(&self, yaml: &str) -> String {
        self.run_with(&["apply", "-f", "-"], yaml).ok()
    }

    /// Waits until the CustomResourceDefinition of this name is served.
    pub fn established(&self, name: &str) {
        self.run(&["wait", "--for=condition=Established", &format!("crd/{name}"), "--timeout=30s"]).ok();
    }

    /// A field of a pod: `pod_field("web", ".status.podIP")`.
    pub fn pod_field(&self, pod: &str, path: &str) -> String {
        self.run(&["get", "pod", pod, "-o", &format!("jsonpath={{{path}}}")]).ok()
    }

    /// Waits until a field of a pod is `expected`.
    pub async fn eventually_field(&self, pod: &str, path: &str, expected: &str) {
        eventually(&format!("{path} of pod {pod} is {expected}"), async || {
            let value = self.pod_field(pod, path);
            if value == expected { Ok(()) } else { Err(value) }
        })
        .await;
    }

    /// The events of a pod, a line each: `REASON: MESSAGE`.
    pub fn events(&self, pod: &str) -> String {
        let selector = format!("involvedObject.name={pod}");
        let path = "jsonpath={range .items[*]}{.reason}: {.message}{\"\\n\"}{end}";
        self.run(&["get", "events", "--field-selector", &selector, "-o", path]).ok()
    }

    /// Waits until an event of the pod says `text`.
    pub async fn eventually_event(&self, pod: &str, text: &str) {
        eventually(&format!("an event of {pod} says {text:?}"), async || {
            let events = self.events(pod);
            if events.contains(text) { Ok(()) } else { Err(events) }
        })
        .await;
    }
}

pub(crate) fn finish(command: &mut Command) -> Answer {
    answer(&command.stdin(Stdio::null()).output().expect("the client starts"))
}

fn answer(output: &std::process::Output) -> Answer {
    Answer {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}
