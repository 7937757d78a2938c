//! What the node, its pods and their containers use, as the kubelet tells it: `/metrics/resource` (read by whoever
//! serves `metrics.k8s.io`), `/stats/summary` and `/metrics`.
//!
//! Everything is read when it is asked for; between two questions nothing is measured.

use std::{collections::BTreeMap, fmt::Write as _};

use http::{Response, StatusCode};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{
    identity::{LABEL_CONTAINER_NAME, PodIdentity},
    machine_usage::Usage,
    node_api::{Body, json_body, text},
    node_usage::NodeUsage,
    pod_manager::Workers,
    shared::Shared,
};

/// What one running container has used.
struct Sample {
    id: String,
    pod: PodIdentity,
    container: String,
    cpu_nanos: u64,
    memory_bytes: u64,
    /// Nanoseconds since 1970; `None` where no worker knows.
    started_at: Option<i64>,
    /// Milliseconds since 1970.
    taken_at: i64,
}

/// All containers that run, by pod.
async fn samples(shared: &Shared, workers: &Workers) -> Result<Vec<Sample>, String> {
    let stats = shared.runtime.container_stats().await.map_err(|error| error.message)?;
    let now = Timestamp::now().as_millisecond();
    let sample = |stats: k8s_cri::v1::ContainerStats| {
        let attributes = stats.attributes?;
        let (cpu, memory) = (stats.cpu?, stats.memory?);
        let pod = PodIdentity::from_labels(&attributes.labels)?;
        let report = workers.by_uid(&pod.uid);
        let record = report.as_ref().and_then(|report| report.observed.container(&attributes.id));
        Some(Sample {
            id: attributes.id,
            container: attributes.labels.get(LABEL_CONTAINER_NAME)?.clone(),
            cpu_nanos: cpu.usage_core_nano_seconds?.value,
            memory_bytes: memory.working_set_bytes?.value,
            started_at: record.map(|record| record.started_at).filter(|time| *time > 0),
            taken_at: if cpu.timestamp > 0 { cpu.timestamp / 1_000_000 } else { now },
            pod,
        })
    };
    let mut samples: Vec<Sample> = stats.into_iter().filter_map(sample).collect();
    samples.sort_unstable_by(|one, other| (&one.pod, &one.container).cmp(&(&other.pod, &other.container)));
    Ok(samples)
}

/// All containers that run, and what the node has used, if that is known.
async fn read(shared: &Shared, workers: &Workers) -> Result<(Vec<Sample>, Option<Usage>), String> {
    match &shared.usage {
        NodeUsage::Machine => Ok((samples(shared, workers).await?, Usage::of_machine())),
        NodeUsage::Containers(usage) => {
            let mut usage = usage.lock().await;
            let samples = samples(shared, workers).await?;
            let running =
                samples.iter().map(|sample| (sample.id.as_str(), sample.cpu_nanos, sample.memory_bytes));
            let usage = usage.with(running);
            Ok((samples, Some(usage)))
        }
    }
}

/// `/metrics/resource`: the kubelet's names, labels and order.
pub(super) async fn resource(shared: &Shared, workers: &Workers) -> Response<Body> {
    match read(shared, workers).await {
        Ok((samples, node)) => {
            let node = node.map(|usage| (usage, Timestamp::now().as_millisecond()));
            text(StatusCode::OK, exposition(&samples, node))
        }
        Err(reason) => text(StatusCode::SERVICE_UNAVAILABLE, reason),
    }
}

/// `4.710169000`: seconds, exactly.
fn seconds(nanos: u64) -> String {
    format!("{}.{:09}", nanos / 1_000_000_000, nanos % 1_000_000_000)
}

/// The text that Prometheus reads. Names of pods and containers have no characters that it would have to escape.
fn exposition(samples: &[Sample], node: Option<(Usage, i64)>) -> String {
    let mut out = String::with_capacity(512 + samples.len() * 640);
    let mut family = |name: &str, kind: &str, help: &str, lines: &mut dyn FnMut(&mut String)| {
        let _ = writeln!(out, "# HELP {name} [STABLE] {help}\n# TYPE {name} {kind}"); // To a String.
        lines(&mut out);
    };
    let of_container = |out: &mut String, name: &str, sample: &Sample, value: &dyn std::fmt::Display| {
        let (pod, container, at) = (&sample.pod, &sample.container, sample.taken_at);
        let _ = writeln!(
            out,
            "{name}{{container=\"{container}\",namespace=\"{}\",pod=\"{}\"}} {value} {at}",
            pod.namespace, pod.name
        );
    };
    let name = "container_cpu_usage_seconds_total";
    family(name, "counter", "Cumulative cpu time consumed by the container in core-seconds", &mut |out| {
        for sample in samples {
            of_container(out, name, sample, &seconds(sample.cpu_nanos));
        }
    });
    let name = "container_memory_working_set_bytes";
    family(name, "gauge", "Current working set of the container in bytes", &mut |out| {
        for sample in samples {
            of_container(out, name, sample, &sample.memory_bytes);
        }
    });
    let name = "container_start_time_seconds";
    family(name, "gauge", "Start time of the container since unix epoch in seconds", &mut |out| {
        for sample in samples {
            if let Some(started_at) = sample.started_at {
                of_container(out, name, sample, &seconds(started_at.unsigned_abs()));
            }
        }
    });
    if let Some((usage, at)) = node {
        let name = "node_cpu_usage_seconds_total";
        family(name, "counter", "Cumulative cpu time consumed by the node in core-seconds", &mut |out| {
            let nanos = u64::try_from(usage.cpu.as_nanos()).unwrap_or(u64::MAX);
            let _ = writeln!(out, "{name} {} {at}", seconds(nanos));
        });
        let name = "node_memory_working_set_bytes";
        family(name, "gauge", "Current working set of the node in bytes", &mut |out| {
            let _ = writeln!(out, "{name} {} {at}", usage.working_set_bytes);
        });
    }
    let of_pod = |out: &mut String, name: &str, value: fn(&Sample) -> u64, print: fn(u64) -> String| {
        for pod in samples.chunk_by(|one, other| one.pod == other.pod) {
            let (first, sum) = (&pod[0], pod.iter().map(value).sum());
            let _ = writeln!(
                out,
                "{name}{{namespace=\"{}\",pod=\"{}\"}} {} {}",
                first.pod.namespace,
                first.pod.name,
                print(sum),
                first.taken_at
            );
        }
    };
    let name = "pod_cpu_usage_seconds_total";
    family(name, "counter", "Cumulative cpu time consumed by the pod in core-seconds", &mut |out| {
        of_pod(out, name, |sample| sample.cpu_nanos, seconds);
    });
    let name = "pod_memory_working_set_bytes";
    family(name, "gauge", "Current working set of the pod in bytes", &mut |out| {
        of_pod(out, name, |sample| sample.memory_bytes, |bytes| bytes.to_string());
    });
    let failed = u8::from(node.is_none());
    let name = "resource_scrape_error";
    family(
        name,
        "gauge",
        "1 if there was an error while getting container metrics, 0 otherwise",
        &mut |out| {
            let _ = writeln!(out, "{name} {failed}");
        },
    );
    out
}

/// `/stats/summary`, as far as there are figures.
pub(super) async fn summary(shared: &Shared, workers: &Workers) -> Response<Body> {
    let (samples, usage) = match read(shared, workers).await {
        Ok(read) => read,
        Err(reason) => return text(StatusCode::SERVICE_UNAVAILABLE, reason),
    };
    let now = Timestamp::now().to_string();
    let cpu = |nanos: u64| json!({ "time": now, "usageCoreNanoSeconds": nanos });
    let memory = |bytes: u64| json!({ "time": now, "workingSetBytes": bytes, "usageBytes": bytes });
    let pods = samples.chunk_by(|one, other| one.pod == other.pod).map(|samples| {
        let containers = samples.iter().map(|sample| {
            json!({
                "name": sample.container,
                "startTime": sample.started_at.and_then(time),
                "cpu": cpu(sample.cpu_nanos),
                "memory": memory(sample.memory_bytes),
            })
        });
        let pod = &samples[0].pod;
        json!({
            "podRef": { "name": pod.name, "namespace": pod.namespace, "uid": pod.uid },
            "containers": containers.collect::<Vec<_>>(),
            "cpu": cpu(samples.iter().map(|sample| sample.cpu_nanos).sum()),
            "memory": memory(samples.iter().map(|sample| sample.memory_bytes).sum()),
        })
    });
    let mut node = BTreeMap::from([("nodeName", Value::from(shared.node_name.as_str()))]);
    if let Some(usage) = usage {
        node.insert("cpu", cpu(u64::try_from(usage.cpu.as_nanos()).unwrap_or(u64::MAX)));
        node.insert("memory", memory(usage.working_set_bytes));
    }
    json_body(&json!({ "node": node, "pods": pods.collect::<Vec<_>>() }))
}

fn time(nanos: i64) -> Option<String> {
    Timestamp::from_nanosecond(nanos.into()).ok().map(|time| time.to_string())
}

/// `/metrics`: of the agent itself.
pub(super) fn metrics(workers: &Workers) -> Response<Body> {
    let pods = workers.observed();
    let running =
        pods.iter().flat_map(|(_, observed)| &observed.containers).filter(|record| record.is_running());
    let mut output = String::new();
    let mut gauge = |name: &str, help: &str, value: usize| {
        let _ = writeln!(output, "# HELP {name} {help}\n# TYPE {name} gauge\n{name} {value}"); // To a String.
    };
    gauge("kubelet_running_pods", "Number of pods that have a worker.", pods.len());
    gauge("kubelet_running_containers", "Number of containers that run.", running.count());
    text(StatusCode::OK, output)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn sample(pod: &str, container: &str, cpu_nanos: u64) -> Sample {
        let pod = PodIdentity { namespace: "shop".into(), name: pod.into(), uid: pod.into() };
        let started_at = Some(1_700_000_000_500_000_000).filter(|_| container != "new");
        Sample {
            id: container.into(),
            pod,
            container: container.into(),
            cpu_nanos,
            memory_bytes: 65_536,
            started_at,
            taken_at: 1_700_000_015_012,
        }
    }

    #[test]
    fn resources_are_told_under_the_kubelet_s_names() {
        let samples =
            [sample("web", "front", 4_710_169_000), sample("web", "new", 1), sample("worker", "c", 20)];
        let node = Usage { cpu: Duration::from_millis(1500), working_set_bytes: 1024 };
        let text = exposition(&samples, Some((node, 1_700_000_015_013)));
        let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(
            lines,
            [
                r#"container_cpu_usage_seconds_total{container="front",namespace="shop",pod="web"} 4.710169000 1700000015012"#,
                r#"container_cpu_usage_seconds_total{container="new",namespace="shop",pod="web"} 0.000000001 1700000015012"#,
                r#"container_cpu_usage_seconds_total{container="c",namespace="shop",pod="worker"} 0.000000020 1700000015012"#,
                r#"container_memory_working_set_bytes{container="front",namespace="shop",pod="web"} 65536 1700000015012"#,
                r#"container_memory_working_set_bytes{container="new",namespace="shop",pod="web"} 65536 1700000015012"#,
                r#"container_memory_working_set_bytes{container="c",namespace="shop",pod="worker"} 65536 1700000015012"#,
                r#"container_start_time_seconds{container="front",namespace="shop",pod="web"} 1700000000.500000000 1700000015012"#,
                r#"container_start_time_seconds{container="c",namespace="shop",pod="worker"} 1700000000.500000000 1700000015012"#,
                "node_cpu_usage_seconds_total 1.500000000 1700000015013",
                "node_memory_working_set_bytes 1024 1700000015013",
                r#"pod_cpu_usage_seconds_total{namespace="shop",pod="web"} 4.710169001 1700000015012"#,
                r#"pod_cpu_usage_seconds_total{namespace="shop",pod="worker"} 0.000000020 1700000015012"#,
                r#"pod_memory_working_set_bytes{namespace="shop",pod="web"} 131072 1700000015012"#,
                r#"pod_memory_working_set_bytes{namespace="shop",pod="worker"} 65536 1700000015012"#,
                "resource_scrape_error 0",
            ]
        );
        assert!(
            text.starts_with("# HELP container_cpu_usage_seconds_total [STABLE] Cumulative cpu time"),
            "{text}"
        );
    }
}
