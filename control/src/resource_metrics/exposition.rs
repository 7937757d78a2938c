//! A node's `/metrics/resource`, understood: the text that Prometheus reads, with the kubelet's names.

use std::collections::HashMap;

use k8s_openapi::jiff::Timestamp;

/// One look at the counters of a node, a pod or a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Point {
    pub taken_at: Timestamp,
    /// When the counters began; `None` where nobody says.
    pub started_at: Option<Timestamp>,
    /// CPU time since then.
    pub cpu_nanos: u64,
    pub memory_bytes: u64,
}

/// What one agent told at one time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading {
    pub taken_at: Timestamp,
    pub node: Option<Point>,
    /// The containers of pods by `namespace/name`, each with its name.
    pub pods: HashMap<String, Vec<(String, Point)>>,
}

/// What the families say; a point needs CPU and memory.
#[derive(Default)]
struct Parts {
    taken_at: Option<Timestamp>,
    started_at: Option<Timestamp>,
    cpu_nanos: Option<u64>,
    memory_bytes: Option<u64>,
}

/// One line: `name{label="value",…} value [milliseconds since 1970]`.
struct Line<'a> {
    name: &'a str,
    container: &'a str,
    namespace: &'a str,
    pod: &'a str,
    value: f64,
    taken_at: Option<Timestamp>,
}

impl Reading {
    /// Understands `text`, which was read at `now`. Lines that are no samples, or of other families, say nothing.
    pub fn parse(text: &str, now: Timestamp) -> Self {
        let mut node = Parts::default();
        let mut pods: HashMap<String, Vec<(String, Parts)>> = HashMap::new();
        for line in text.lines().filter_map(Line::parse) {
            if let Some(family) = line.name.strip_prefix("node_") {
                node.add(family, &line);
            } else if let Some(family) = line.name.strip_prefix("container_")
                && !line.container.is_empty()
            {
                let pod = pods.entry(format!("{}/{}", line.namespace, line.pod)).or_default();
                let at = pod.iter().position(|(name, _)| name == line.container).unwrap_or_else(|| {
                    pod.push((line.container.to_owned(), Parts::default()));
                    pod.len() - 1
                });
                pod[at].1.add(family, &line);
            }
        }
        let pods = pods.into_iter().filter_map(|(pod, containers)| {
            let points = containers.into_iter().map(|(name, parts)| Some((name, parts.point(now)?)));
            // A pod of which not everything is known is not known.
            Some((pod, points.collect::<Option<Vec<_>>>()?))
        });
        Self { taken_at: now, node: node.point(now), pods: pods.collect() }
    }
}

impl Parts {
    fn add(&mut self, family: &str, line: &Line<'_>) {
        match family {
            "cpu_usage_seconds_total" => {
                self.cpu_nanos = Some((line.value * 1e9).round() as u64);
                self.taken_at = line.taken_at;
            }
            "memory_working_set_bytes" => self.memory_bytes = Some(line.value as u64),
            "start_time_seconds" => {
                self.started_at = Timestamp::from_microsecond((line.value * 1e6) as i64).ok();
            }
            _ => (),
        }
    }

    fn point(self, now: Timestamp) -> Option<Point> {
        Some(Point {
            taken_at: self.taken_at.unwrap_or(now),
            started_at: self.started_at,
            cpu_nanos: self.cpu_nanos?,
            memory_bytes: self.memory_bytes?,
        })
    }
}

impl<'a> Line<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        if line.starts_with('#') {
            return None;
        }
        let name_end = line.find(['{', ' '])?;
        let (name, mut rest) = line.split_at(name_end);
        let mut parsed = Self { name, container: "", namespace: "", pod: "", value: 0.0, taken_at: None };
        if let Some(labels) = rest.strip_prefix('{') {
            rest = labels;
            while let Some((label, after)) = rest.split_once("=\"") {
                let (value, after) = after.split_once('"')?;
                match label {
                    "container" => parsed.container = value,
                    "namespace" => parsed.namespace = value,
                    "pod" => parsed.pod = value,
                    _ => (),
                }
                rest = after.strip_prefix(',').unwrap_or(after);
                if rest.starts_with('}') {
                    break;
                }
            }
            rest = rest.strip_prefix('}')?;
        }
        let mut fields = rest.split_whitespace();
        parsed.value =
            fields.next()?.parse().ok().filter(|value: &f64| value.is_finite() && *value >= 0.0)?;
        parsed.taken_at = fields.next().and_then(|text| Timestamp::from_millisecond(text.parse().ok()?).ok());
        Some(parsed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millisecond(millis).expect("in range")
    }

    #[test]
    fn containers_and_the_node_are_understood() {
        let text = r#"# HELP container_cpu_usage_seconds_total [STABLE] Cumulative cpu time
# TYPE container_cpu_usage_seconds_total counter
container_cpu_usage_seconds_total{container="front",namespace="shop",pod="web"} 4.710169 1700000015012
container_cpu_usage_seconds_total{container="back",namespace="shop",pod="web"} 1e-3 1700000015013
container_cpu_usage_seconds_total{container="c",namespace="shop",pod="half"} 1 1700000015013
container_memory_working_set_bytes{container="front",namespace="shop",pod="web"} 65536 1700000015012
container_memory_working_set_bytes{container="back",namespace="shop",pod="web"} 0
container_start_time_seconds{container="front",namespace="shop",pod="web"} 1.7000000005e+09 1700000015012
container_swap_usage_bytes{container="front",namespace="shop",pod="web"} 1 1700000015012
node_cpu_usage_seconds_total 1.5 1700000015014
node_memory_working_set_bytes 1024 1700000015014
pod_cpu_usage_seconds_total{namespace="shop",pod="web"} 4 1700000015012
resource_scrape_error 0
"#;
        let reading = Reading::parse(text, at(7));
        let front = Point {
            taken_at: at(1_700_000_015_012),
            started_at: Some(at(1_700_000_000_500)),
            cpu_nanos: 4_710_169_000,
            memory_bytes: 65_536,
        };
        let back = Point {
            taken_at: at(1_700_000_015_013),
            started_at: None,
            cpu_nanos: 1_000_000,
            memory_bytes: 0,
        };
        let pods = HashMap::from([(
            "shop/web".to_owned(),
            vec![("front".to_owned(), front), ("back".to_owned(), back)],
        )]);
        let node = Point {
            taken_at: at(1_700_000_015_014),
            started_at: None,
            cpu_nanos: 1_500_000_000,
            memory_bytes: 1024,
        };
        assert_eq!(reading, Reading { taken_at: at(7), node: Some(node), pods });
    }

    #[test]
    fn what_is_no_sample_says_nothing() {
        let text = "\n{\nnode_cpu_usage_seconds_total\nnode_cpu_usage_seconds_total x\nnode_cpu_usage_seconds_total -1\n\
                    node_memory_working_set_bytes NaN\ncontainer_cpu_usage_seconds_total{container=\"a 1\n\
                    container_cpu_usage_seconds_total{container=\"a\" 1\ncontainer_memory_working_set_bytes{} 1\n";
        assert_eq!(
            Reading::parse(text, at(7)),
            Reading { taken_at: at(7), node: None, pods: HashMap::new() }
        );
    }
}
