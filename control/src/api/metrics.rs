//! What `/metrics` tells, in the two text formats that Prometheus reads, under the names and labels of
//! kube-apiserver's metrics where it has the same.

use std::{
    sync::atomic::AtomicU64,
    time::{Duration, Instant},
};

use http::Method;
use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};

use crate::{
    fairness::LevelLoad,
    store::{Scope, Store},
};

/// What a request was, in the words of the metrics. All is "" where it does not apply, as for paths that are no
/// resource.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RequestKind {
    /// `All` for requests that change nothing.
    pub dry_run: &'static str,
    pub group: &'static str,
    pub resource: &'static str,
    /// `cluster`, `namespace` or, for a single object, `resource`.
    pub scope: &'static str,
    pub subresource: String,
    pub verb: &'static str,
    pub version: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AnswerLabels {
    code: u16,
    #[prometheus(flatten)]
    kind: RequestKind,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResourceLabels {
    resource: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LevelLabels {
    priority_level: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SchemaLabels {
    flow_schema: String,
    priority_level: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RefusalLabels {
    reason: &'static str,
    #[prometheus(flatten)]
    schema: SchemaLabels,
}

/// What priority and fairness say of each level, under Kubernetes' names.
#[derive(Default)]
struct LevelMetrics {
    nominal_seats: Family<LevelLabels, Gauge>,
    seats: Family<LevelLabels, Gauge>,
    seats_in_use: Family<LevelLabels, Gauge>,
    waiting: Family<LevelLabels, Gauge>,
    dispatched: Family<SchemaLabels, Counter>,
    rejected: Family<RefusalLabels, Counter>,
}

/// The API server's counters.
pub struct Metrics {
    registry: Registry,
    requests: Family<AnswerLabels, Counter>,
    durations: Family<RequestKind, Histogram, fn() -> Histogram>,
    inflight: Gauge,
    objects: Family<ResourceLabels, Gauge>,
    revision: Gauge<u64, AtomicU64>,
    levels: LevelMetrics,
}

/// The two text formats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Classic,
    OpenMetrics,
}

impl Format {
    /// The one that `Accept` asks for.
    pub fn of(accept: &str) -> Self {
        if accept.contains("application/openmetrics-text") { Self::OpenMetrics } else { Self::Classic }
    }

    pub fn content_type(self) -> &'static str {
        match self {
            Self::Classic => "text/plain; version=0.0.4; charset=utf-8; escaping=underscores",
            Self::OpenMetrics => {
                "application/openmetrics-text; version=1.0.0; charset=utf-8; escaping=underscores"
            }
        }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::default();
        let requests = Family::default();
        let durations: Family<RequestKind, Histogram, fn() -> Histogram> =
            Family::new_with_constructor(histogram);
        let (inflight, objects, revision) = (Gauge::default(), Family::default(), Gauge::default());
        let own = registry.sub_registry_with_label(("component".into(), "apiserver".into()));
        own.register("apiserver_request", "Requests by verb, resource and code", requests.clone());
        own.register_with_unit(
            "apiserver_request_duration",
            "Time from request to answer, watches and streams left out",
            Unit::Seconds,
            durations.clone(),
        );
        registry.register("apiserver_current_inflight_requests", "Requests being answered", inflight.clone());
        registry.register("apiserver_storage_objects", "Objects that are stored", objects.clone());
        registry.register("naru_store_revision", "The newest revision of the store", revision.clone());
        let levels = LevelMetrics::register(&mut registry);
        Self { registry, requests, durations, inflight, objects, revision, levels }
    }
}

impl LevelMetrics {
    fn register(registry: &mut Registry) -> Self {
        let levels = Self::default();
        let mut gauge = |name, help, family: &Family<LevelLabels, Gauge>| {
            registry.register(format!("apiserver_flowcontrol_{name}"), help, family.clone());
        };
        gauge("nominal_limit_seats", "Seats of the level while none are lent", &levels.nominal_seats);
        gauge("current_limit_seats", "Seats of the level at this moment", &levels.seats);
        gauge("current_executing_seats", "Seats that are in use", &levels.seats_in_use);
        gauge("current_inqueue_requests", "Requests that wait for a seat", &levels.waiting);
        let (dispatched, rejected) = (levels.dispatched.clone(), levels.rejected.clone());
        registry.register(
            "apiserver_flowcontrol_dispatched_requests",
            "Requests that found a seat",
            dispatched,
        );
        registry.register("apiserver_flowcontrol_rejected_requests", "Requests that found no seat", rejected);
        levels
    }

    fn set(&self, level: &LevelLoad) {
        let labels = LevelLabels { priority_level: level.name.clone() };
        for (family, value) in [
            (&self.nominal_seats, level.nominal_seats),
            (&self.seats, level.now.limit),
            (&self.seats_in_use, level.now.seats_in_use),
            (&self.waiting, level.now.waiting),
        ] {
            family.get_or_create(&labels).set(value.into());
        }
        for (schema, counts) in &level.counts {
            let schema = SchemaLabels { flow_schema: schema.clone(), priority_level: level.name.clone() };
            raise(&self.dispatched.get_or_create(&schema), counts.dispatched());
            for (reason, count) in counts.rejected() {
                let labels = RefusalLabels { reason, schema: schema.clone() };
                raise(&self.rejected.get_or_create(&labels), count);
            }
        }
    }
}

/// Brings a counter up to what was counted elsewhere.
fn raise(counter: &Counter, count: u64) {
    counter.inc_by(count.saturating_sub(counter.get()));
}

/// From half a millisecond to a minute.
fn histogram() -> Histogram {
    Histogram::new([
        0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
    ])
}

impl Metrics {
    /// Counts a request that begins; [`Self::end`] ends it.
    pub fn begin(&self) -> Instant {
        self.inflight.inc();
        Instant::now()
    }

    pub fn end(&self, mut kind: RequestKind, method: &Method, code: u16, began: Instant) {
        self.inflight.dec();
        if kind.verb.is_empty() {
            kind.verb = verb_of(method);
        }
        if !matches!(kind.verb, "WATCH" | "CONNECT") {
            self.durations.get_or_create(&kind).observe(seconds(began.elapsed()));
        }
        self.requests.get_or_create(&AnswerLabels { code, kind }).inc();
    }

    /// The page.
    pub fn render<'a>(
        &self,
        store: &Store,
        resources: impl Iterator<Item = &'a str>,
        levels: &[LevelLoad],
        format: Format,
    ) -> String {
        for level in levels {
            self.levels.set(level);
        }
        let snapshot = store.snapshot();
        self.revision.set(snapshot.revision().0);
        for resource in resources {
            let count = i64::try_from(snapshot.count(&Scope::all(resource))).unwrap_or(i64::MAX);
            self.objects.get_or_create(&ResourceLabels { resource: resource.into() }).set(count);
        }
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("a String takes everything");
        match format {
            Format::OpenMetrics => text,
            Format::Classic => classic(&text),
        }
    }
}

/// The verb of a request that is about no resource.
fn verb_of(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}

/// OpenMetrics as the older format has it: a counter has the name of its samples, and there are neither units nor an
/// end.
fn classic(text: &str) -> String {
    let mut page = String::with_capacity(text.len());
    let mut help = "";
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = rest;
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.rsplit_once(' '))
        {
            let suffix = if kind == "counter" { "_total" } else { "" };
            let help = help.strip_prefix(name).unwrap_or_default();
            let heads = [["# HELP ", name, suffix, help, "\n"], ["# TYPE ", name, suffix, " ", kind]];
            page.extend(heads.into_iter().flatten().chain(["\n"]));
        } else if !line.starts_with("# ") {
            page += line;
            page.push('\n');
        }
    }
    page
}

fn seconds(duration: Duration) -> f64 {
    duration.as_secs_f64()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::fairness::{Counts, Load};

    fn page(format: Format) -> String {
        let metrics = Metrics::default();
        let kind = RequestKind {
            verb: "GET",
            resource: "pods",
            version: "v1",
            scope: "resource",
            ..Default::default()
        };
        metrics.end(kind, &Method::GET, 404, metrics.begin());
        metrics.end(RequestKind::default(), &Method::POST, 201, metrics.begin());
        let now = Load { seats_in_use: 3, waiting: 2, limit: 5 };
        let counts = [("nodes".to_owned(), Arc::<Counts>::default())].into();
        let level = LevelLoad { name: "system".into(), nominal_seats: 4, now, counts };
        metrics.render(&Store::in_memory(), ["pods"].into_iter(), &[level], format)
    }

    #[test]
    fn a_request_is_counted_with_its_code() {
        let page = page(Format::OpenMetrics);
        for line in [
            r#"apiserver_flowcontrol_nominal_limit_seats{priority_level="system"} 4"#,
            r#"apiserver_flowcontrol_current_inqueue_requests{priority_level="system"} 2"#,
            r#"apiserver_flowcontrol_dispatched_requests_total{flow_schema="nodes",priority_level="system"} 0"#,
            r#"apiserver_flowcontrol_rejected_requests_total{reason="queue-full",flow_schema="nodes",priority_level="system"} 0"#,
            r#"apiserver_request_total{component="apiserver",code="404",dry_run="",group="",resource="pods",scope="resource",subresource="",verb="GET",version="v1"} 1"#,
            r#"apiserver_request_total{component="apiserver",code="201",dry_run="",group="",resource="",scope="",subresource="",verb="POST",version=""} 1"#,
            r#"apiserver_storage_objects{resource="pods"} 0"#,
            "# TYPE apiserver_request_duration_seconds histogram",
        ] {
            assert!(page.lines().any(|of| of == line), "{line} in {page}");
        }
        assert!(page.contains("apiserver_request_duration_seconds_bucket"), "{page}");
    }

    #[test]
    fn the_older_format_names_a_counter_as_its_samples() {
        let page = page(Format::of("text/plain;version=0.0.4;q=0.5,*/*;q=0.1"));
        assert!(page.contains("# HELP apiserver_request_total Requests by verb, resource and code.\n# TYPE apiserver_request_total counter\napiserver_request_total{"), "{page}");
        assert!(!page.contains("# EOF") && !page.contains("# UNIT"), "{page}");
        assert_eq!(
            Format::of("application/openmetrics-text;version=1.0.0,text/plain;q=0.5"),
            Format::OpenMetrics
        );
    }
}
