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

use crate::store::{Scope, Store};

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

/// The API server's counters.
pub struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    durations: Family<DurationLabels, Histogram, fn() -> Histogram>,
    inflight: Gauge,
    objects: Family<ResourceLabels, Gauge>,
    revision: Gauge<u64, AtomicU64>,
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
        Self { registry, requests, durations, inflight, objects, revision }
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
    pub fn render<'a>(&self, store: &Store, resources: impl Iterator<Item = &'a str>) -> String {
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
        let page = metrics.render(&Store::in_memory(), ["pods"].into_iter());
        let line =
            r#"apiserver_request_total{verb="GET",group="",resource="pods",subresource="",code="404"} 1"#;
        assert!(page.contains(line), "{page}");
        assert!(page.contains(r#"apiserver_storage_objects{resource="pods"} 0"#), "{page}");
        assert!(page.contains("apiserver_request_duration_seconds_bucket"), "{page}");
    }
}
