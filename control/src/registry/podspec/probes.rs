//! Probes, lifecycle hooks, and the handlers they share.

use k8s_openapi::api::core::v1::{
    ExecAction, GRPCAction, HTTPGetAction, Lifecycle, LifecycleHandler, Probe, SleepAction, TCPSocketAction,
};
use naru_model::validation::{FieldErrors, Path};

use super::{Check, OrEmpty, check};

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum ProbeKind {
    Liveness,
    Readiness,
    Startup,
}

/// The ways to act on a container; a probe or hook has exactly one.
struct Handler<'a> {
    exec: Option<&'a ExecAction>,
    http_get: Option<&'a HTTPGetAction>,
    tcp_socket: Option<&'a TCPSocketAction>,
    grpc: Option<&'a GRPCAction>,
    sleep: Option<&'a SleepAction>,
}

impl Check<'_> {
    pub(super) fn probe(
        &self,
        probe: Option<&Probe>,
        kind: ProbeKind,
        path: &Path,
        errors: &mut FieldErrors,
    ) {
        let Some(probe) = probe else { return };
        let handler = Handler {
            exec: probe.exec.as_ref(),
            http_get: probe.http_get.as_ref(),
            tcp_socket: probe.tcp_socket.as_ref(),
            grpc: probe.grpc.as_ref(),
            sleep: None,
        };
        self.handler(&handler, path, errors);
        for (name, value) in [
            ("initialDelaySeconds", probe.initial_delay_seconds),
            ("timeoutSeconds", probe.timeout_seconds),
            ("periodSeconds", probe.period_seconds),
            ("successThreshold", probe.success_threshold),
            ("failureThreshold", probe.failure_threshold),
        ] {
            check::not_negative(value.unwrap_or_default().into(), &path.child(name), errors);
        }
        let grace_path = path.child("terminationGracePeriodSeconds");
        if let Some(seconds) = probe.termination_grace_period_seconds {
            if seconds <= 0 {
                errors.invalid(&grace_path, seconds, "must be greater than 0");
            }
            if kind == ProbeKind::Readiness {
                errors.invalid(&grace_path, seconds, "must not be set for readinessProbes");
            }
        }
        let threshold = probe.success_threshold.unwrap_or_default();
        if kind != ProbeKind::Readiness && threshold != 1 {
            errors.invalid(&path.child("successThreshold"), threshold, "must be 1");
        }
    }

    pub(super) fn lifecycle(&self, lifecycle: &Lifecycle, path: &Path, errors: &mut FieldErrors) {
        for (name, handler) in [("postStart", &lifecycle.post_start), ("preStop", &lifecycle.pre_stop)] {
            if let Some(handler) = handler {
                self.handler(&lifecycle_handler(handler), &path.child(name), errors);
            }
        }
        if let Some(signal) = &lifecycle.stop_signal {
            self.stop_signal(signal, path, errors);
        }
    }

    fn stop_signal(&self, signal: &str, path: &Path, errors: &mut FieldErrors) {
        let path = path.child("stopSignal");
        match self.spec.os.as_ref().map(|os| os.name.as_str()) {
            None | Some("") => {
                errors.forbidden(&path, "may not be set for containers with empty `spec.os.name`");
            }
            Some("windows") if !matches!(signal, "SIGTERM" | "SIGKILL") => {
                errors.not_supported(&path, signal, &["SIGKILL", "SIGTERM"]);
            }
            Some(_) if !is_linux_signal(signal) => errors.not_supported(&path, signal, LINUX_SIGNALS),
            Some(_) => {}
        }
    }

    fn handler(&self, handler: &Handler<'_>, path: &Path, errors: &mut FieldErrors) {
        let mut count = 0;
        let mut is_first = |name: &str, errors: &mut FieldErrors| {
            count += 1;
            if count > 1 {
                errors.forbidden(&path.child(name), "may not specify more than 1 handler type");
            }
            count == 1
        };
        if let Some(action) = handler.exec
            && is_first("exec", errors)
            && action.command.or_empty().is_empty()
        {
            errors.required(&path.child("exec").child("command"), "");
        }
        if let Some(action) = handler.http_get
            && is_first("httpGet", errors)
        {
            http_get(action, &path.child("httpGet"), errors);
        }
        if let Some(action) = handler.tcp_socket
            && is_first("tcpSocket", errors)
        {
            check::port_number_or_name(&action.port, &path.child("tcpSocket").child("port"), errors);
        }
        if let Some(action) = handler.grpc
            && is_first("grpc", errors)
        {
            check::port(action.port, &path.child("grpc").child("port"), errors);
        }
        if let Some(action) = handler.sleep
            && is_first("sleep", errors)
        {
            self.sleep(action, &path.child("sleep"), errors);
        }
        if count == 0 {
            errors.required(path, "must specify a handler type");
        }
    }

    fn sleep(&self, action: &SleepAction, path: &Path, errors: &mut FieldErrors) {
        let Some(grace) = self.spec.termination_grace_period_seconds else { return };
        if action.seconds < 0 || action.seconds > grace {
            let detail =
                format!("must be non-negative and less than terminationGracePeriodSeconds ({grace})");
            errors.invalid(path, action.seconds, &detail);
        }
    }
}

fn lifecycle_handler(handler: &LifecycleHandler) -> Handler<'_> {
    Handler {
        exec: handler.exec.as_ref(),
        http_get: handler.http_get.as_ref(),
        tcp_socket: handler.tcp_socket.as_ref(),
        grpc: None,
        sleep: handler.sleep.as_ref(),
    }
}

fn http_get(action: &HTTPGetAction, path: &Path, errors: &mut FieldErrors) {
    if action.path.or_empty().is_empty() {
        errors.required(&path.child("path"), "");
    }
    check::port_number_or_name(&action.port, &path.child("port"), errors);
    check::one_of(action.scheme.or_empty(), &["HTTP", "HTTPS"], &path.child("scheme"), errors);
    for header in action.http_headers.or_empty() {
        check::http_header_name(&header.name, &path.child("httpHeaders"), errors);
    }
}

const LINUX_SIGNALS: &[&str] = &[
    "SIGABRT",
    "SIGALRM",
    "SIGBUS",
    "SIGCHLD",
    "SIGCLD",
    "SIGCONT",
    "SIGFPE",
    "SIGHUP",
    "SIGILL",
    "SIGINT",
    "SIGIO",
    "SIGIOT",
    "SIGKILL",
    "SIGPIPE",
    "SIGPOLL",
    "SIGPROF",
    "SIGPWR",
    "SIGQUIT",
    "SIGSEGV",
    "SIGSTKFLT",
    "SIGSTOP",
    "SIGSYS",
    "SIGTERM",
    "SIGTRAP",
    "SIGTSTP",
    "SIGTTIN",
    "SIGTTOU",
    "SIGURG",
    "SIGUSR1",
    "SIGUSR2",
    "SIGVTALRM",
    "SIGWINCH",
    "SIGXCPU",
    "SIGXFSZ",
];

/// The named signals, and the realtime ones between `SIGRTMIN` and `SIGRTMAX`.
fn is_linux_signal(signal: &str) -> bool {
    let offset = |prefix: &str, max: u32| {
        let Some(rest) = signal.strip_prefix(prefix) else { return false };
        rest.is_empty() || rest[1..].parse::<u32>().is_ok_and(|number| (1..=max).contains(&number))
    };
    LINUX_SIGNALS.contains(&signal)
        || (signal.is_ascii()
            && ((!signal.contains('-') && offset("SIGRTMIN", 15))
                || (!signal.contains('+') && offset("SIGRTMAX", 14))))
}
