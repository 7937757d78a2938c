//! Runs the probes of one run of a container, each on its own timer, until the run ends.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{Container, HTTPGetAction, Probe},
    apimachinery::pkg::util::intstr::IntOrString,
};

use super::{
    events::{EventKind, Events},
    http_client::{HttpTarget, connect},
    identity::PodIdentity,
    pod_view::{ProbeKind, Role},
    probe::{Counter, Outcome, Timing},
    runtime::Runtime,
};

pub const USER_AGENT: &str = "kube-probe/1.37";
/// Of what a probe prints, this much goes into the event.
const OUTPUT_LIMIT: usize = 1024;

/// One probe of one run of a container.
pub struct Prober {
    pub pod: PodIdentity,
    pub pod_ip: String,
    pub container: Container,
    pub role: Role,
    pub container_id: String,
    pub started_at: Timestamp,
    pub kind: ProbeKind,
    /// The verdict so far, for a run that the agent found running.
    pub known: Option<bool>,
    pub runtime: Arc<dyn Runtime>,
    pub events: Events,
}

/// How one attempt went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    Success,
    Failure(String),
    /// The probe itself could not be carried out.
    Error(String),
}

impl Prober {
    /// Probes until dropped, telling `report` of every change of verdict.
    pub async fn run(self, report: impl Fn(&str, ProbeKind, bool) + Send) {
        let Some(probe) = self.kind.of(&self.container).cloned() else { return };
        let timing = Timing::of(&probe);
        let mut counter = Counter::new(self.kind, timing);
        if let Some(known) = self.known {
            counter = counter.continuing(known);
        }
        tokio::time::sleep(self.first_delay(timing)).await;
        let mut ticks = tokio::time::interval(timing.period);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let answer = self.attempt(&probe, timing).await;
            self.tell(&answer);
            // What could not be asked has not been answered.
            if matches!(answer, Answer::Error(_)) {
                continue;
            }
            if let Outcome::Changed(success) = counter.record(answer == Answer::Success) {
                report(&self.container_id, self.kind, success);
                if self.kind == ProbeKind::Startup || (self.kind == ProbeKind::Liveness && !success) {
                    return; // Started for good, or about to be killed.
                }
            }
        }
    }

    /// The initial delay counts from the container's start, also for an agent that came later.
    fn first_delay(&self, timing: Timing) -> Duration {
        let running = Timestamp::now().duration_since(self.started_at);
        timing.initial_delay.saturating_sub(running.try_into().unwrap_or(Duration::ZERO))
    }

    async fn attempt(&self, probe: &Probe, timing: Timing) -> Answer {
        if let Some(action) = &probe.http_get {
            self.http(action, timing.timeout).await
        } else if let Some(action) = &probe.tcp_socket {
            match port_of(&action.port, &self.container) {
                Err(reason) => Answer::Error(reason),
                Ok(port) => tcp(action.host.as_deref().unwrap_or(&self.pod_ip), port, timing.timeout).await,
            }
        } else if let Some(action) = &probe.exec {
            self.exec(action.command.clone().unwrap_or_default(), timing.timeout).await
        } else {
            Answer::Error("this node supports the probe handlers httpGet, tcpSocket and exec".into())
        }
    }

    async fn http(&self, action: &HTTPGetAction, timeout: Duration) -> Answer {
        let target = match http_target(action, &self.container, &self.pod_ip) {
            Ok(target) => target,
            Err(reason) => return Answer::Error(reason),
        };
        match target.get(timeout, USER_AGENT).await {
            Ok((200..400, _)) => Answer::Success,
            Ok((code, _)) => Answer::Failure(format!("HTTP probe failed with statuscode: {code}")),
            Err(reason) => Answer::Failure(reason),
        }
    }

    async fn exec(&self, command: Vec<String>, timeout: Duration) -> Answer {
        match self.runtime.exec(&self.container_id, command, timeout.as_secs() as i64).await {
            Ok(response) if response.exit_code == 0 => Answer::Success,
            Ok(response) => {
                let output = [response.stdout, response.stderr].concat();
                Answer::Failure(String::from_utf8_lossy(&output).into_owned())
            }
            Err(error) if error.code == tonic::Code::DeadlineExceeded => {
                Answer::Failure(format!("command timed out after {}s", timeout.as_secs()))
            }
            Err(error) => Answer::Error(error.message),
        }
    }

    fn tell(&self, answer: &Answer) {
        let title = self.kind.title();
        let message = match answer {
            Answer::Success => return,
            Answer::Failure(reason) => format!("{title} probe failed: {}", shortened(reason)),
            Answer::Error(reason) => {
                format!("{title} probe errored and resulted in unknown state: {}", shortened(reason))
            }
        };
        let target = (self.container.name.as_str(), self.role);
        self.events.container(&self.pod, target, EventKind::Warning, "Unhealthy", message);
    }
}

async fn tcp(host: &str, port: u16, timeout: Duration) -> Answer {
    match tokio::time::timeout(timeout, connect(host, port)).await {
        Ok(Ok(_)) => Answer::Success,
        Ok(Err(reason)) => Answer::Failure(reason),
        Err(_) => {
            let address = super::services::join_host_port(host, port.into());
            Answer::Failure(format!("dial tcp {address}: i/o timeout"))
        }
    }
}

fn shortened(text: &str) -> &str {
    let mut end = text.len().min(OUTPUT_LIMIT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// Where an `httpGet` of a probe or hook leads.
pub fn http_target(
    action: &HTTPGetAction,
    container: &Container,
    pod_ip: &str,
) -> Result<HttpTarget, String> {
    let path = action.path.clone().unwrap_or_default();
    let headers = action.http_headers.iter().flatten();
    Ok(HttpTarget {
        is_https: action.scheme.as_deref().is_some_and(|scheme| scheme.eq_ignore_ascii_case("https")),
        host: action.host.clone().filter(|host| !host.is_empty()).unwrap_or_else(|| pod_ip.into()),
        port: port_of(&action.port, container)?,
        path: if path.starts_with('/') { path } else { format!("/{path}") },
        headers: headers.map(|header| (header.name.clone(), header.value.clone())).collect(),
    })
}

/// A port by number, or by the name that the container gives it.
pub fn port_of(port: &IntOrString, container: &Container) -> Result<u16, String> {
    let number = match port {
        IntOrString::Int(number) => Some(*number),
        IntOrString::String(name) => {
            let named = container.ports.iter().flatten().find(|port| port.name.as_deref() == Some(name));
            named.map(|port| port.container_port).or_else(|| name.parse().ok())
        }
    };
    number
        .and_then(|number| u16::try_from(number).ok())
        .filter(|number| *number > 0)
        .ok_or_else(|| format!("couldn't find port: {port:?} in container {}", container.name))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_probe_leads_to_the_named_port_of_the_pod() {
        let container: Container = serde_json::from_value(json!({
            "name": "web", "ports": [{ "name": "http", "containerPort": 8080 }],
            "readinessProbe": { "httpGet": { "path": "healthz", "port": "http", "httpHeaders": [{ "name": "X", "value": "y" }] } }
        }))
        .unwrap();
        let action = container.readiness_probe.as_ref().unwrap().http_get.as_ref().unwrap();
        let target = http_target(action, &container, "127.5.0.2").unwrap();
        assert_eq!(target.url(), "http://127.5.0.2:8080/healthz");
        assert_eq!(target.headers, [("X".to_owned(), "y".to_owned())]);
        assert!(port_of(&IntOrString::String("grpc".into()), &container).is_err());
        assert_eq!(port_of(&IntOrString::String("9090".into()), &container), Ok(9090));
    }

    #[tokio::test]
    async fn a_closed_port_is_refused_in_go_s_words() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        assert_eq!(tcp("127.0.0.1", port, Duration::from_secs(5)).await, Answer::Success);
        drop(listener);
        let expected = format!("dial tcp 127.0.0.1:{port}: connect: connection refused");
        assert_eq!(tcp("127.0.0.1", port, Duration::from_secs(5)).await, Answer::Failure(expected));
        let target = HttpTarget {
            is_https: false,
            host: "127.0.0.1".into(),
            port,
            path: "/x".into(),
            headers: vec![],
        };
        let error = target.get(Duration::from_secs(5), USER_AGENT).await.unwrap_err();
        assert!(
            error.starts_with("Get \"http://127.0.0.1:") && error.ends_with("connect: connection refused"),
            "{error}"
        );
    }
}
