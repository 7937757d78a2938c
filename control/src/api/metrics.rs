//! What `/metrics` tells, in the text format that Prometheus reads.

use std::{
    sync::atomic::AtomicU64,
    time::{Duration, Instant},
};

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};

use crate::{
    fairness::Load,
    store::{Scope, Store},
};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    verb: &'static str,
    group: &'static str,
    resource: &'static str,
    subresource: String,
    code: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DurationLabels {
    verb: &'static str,
    group: &'static str,
    resource: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResourceLabels {
    resource: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LevelLabels {
    priority_level: String,
}

/// What priority and fairness say of each level, under Kubernetes' names.
#[derive(Default)]
struct LevelMetrics {
    nominal_seats: Family<LevelLabels, Gauge>,
    seats: Family<LevelLabels, Gauge>,
    seats_in_use: Family<LevelLabels, Gauge>,
    waiting: Family<LevelLabels, Gauge>,
    rejected: Family<LevelLabels, Counter>,
}

/// The API server's counters.
pub struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    durations: Family<DurationLabels, Histogram, fn() -> Histogram>,
    inflight: Gauge,
    objects: Family<ResourceLabels, Gauge>,
    revision: Gauge<u64, AtomicU64>,
    levels: LevelMetrics,
}

/// What a request was, in the words of the metrics. `resource` is "" for paths that are no resource.
#[derive(Debug, Clone, Default)]
pub struct RequestKind {
    pub verb: &'static str,
    pub group: &'static str,
    pub resource: &'static str,
    pub subresource: String,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::default();
        let requests = Family::default();
        let durations: Family<DurationLabels, Histogram, fn() -> Histogram> =
            Family::new_with_constructor(histogram);
        let (inflight, objects, revision) = (Gauge::default(), Family::default(), Gauge::default());
        registry.register("apiserver_request", "Requests by verb, resource and code", requests.clone());
        registry.register_with_unit(
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
        registry.register(
            "apiserver_flowcontrol_rejected_requests",
            "Requests that found no seat",
            levels.rejected.clone(),
        );
        levels
    }

    fn set(&self, name: &str, nominal: u32, load: Load) {
        let labels = LevelLabels { priority_level: name.to_owned() };
        for (family, value) in [
            (&self.nominal_seats, nominal),
            (&self.seats, load.limit),
            (&self.seats_in_use, load.seats_in_use),
            (&self.waiting, load.waiting),
        ] {
            family.get_or_create(&labels).set(value.into());
        }
        let rejected = self.rejected.get_or_create(&labels);
        rejected.inc_by(load.rejected.saturating_sub(rejected.get()));
    }
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

    pub fn end(&self, kind: RequestKind, code: u16, began: Instant) {
        self.inflight.dec();
        if !matches!(kind.verb, "WATCH" | "CONNECT") {
            let labels = DurationLabels { verb: kind.verb, group: kind.group, resource: kind.resource };
            self.durations.get_or_create(&labels).observe(seconds(began.elapsed()));
        }
        let RequestKind { verb, group, resource, subresource } = kind;
        self.requests.get_or_create(&RequestLabels { verb, group, resource, subresource, code }).inc();
    }

    /// The page.
    pub fn render<'a>(
        &self,
        store: &Store,
        resources: impl Iterator<Item = &'a str>,
        levels: &[(String, u32, Load)],
    ) -> String {
        for (name, nominal, load) in levels {
            self.levels.set(name, *nominal, *load);
        }
        let snapshot = store.snapshot();
        self.revision.set(snapshot.revision().0);
        for resource in resources {
            let count = i64::try_from(snapshot.count(&Scope::all(resource))).unwrap_or(i64::MAX);
            self.objects.get_or_create(&ResourceLabels { resource: resource.into() }).set(count);
        }
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("a String takes everything");
        text
    }
}

fn seconds(duration: Duration) -> f64 {
    duration.as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_counted_with_its_code() {
        let metrics = Metrics::default();
        let began = metrics.begin();
        let kind = RequestKind { verb: "GET", resource: "pods", ..RequestKind::default() };
        metrics.end(kind, 404, began);
        let load = Load { seats_in_use: 3, waiting: 2, limit: 5, rejected: 7 };
        let levels = [("system".to_owned(), 4, load)];
        let page = metrics.render(&Store::in_memory(), ["pods"].into_iter(), &levels);
        for line in [
            r#"apiserver_flowcontrol_nominal_limit_seats{priority_level="system"} 4"#,
            r#"apiserver_flowcontrol_current_inqueue_requests{priority_level="system"} 2"#,
            r#"apiserver_flowcontrol_rejected_requests_total{priority_level="system"} 7"#,
        ] {
            assert!(page.contains(line), "{page}");
        }
        let line =
            r#"apiserver_request_total{verb="GET",group="",resource="pods",subresource="",code="404"} 1"#;
        assert!(page.contains(line), "{page}");
        assert!(page.contains(r#"apiserver_storage_objects{resource="pods"} 0"#), "{page}");
        assert!(page.contains("apiserver_request_duration_seconds_bucket"), "{page}");
    }
}
