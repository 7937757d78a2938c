//! From counters to amounts in use: pure.

use std::collections::HashMap;

use k8s_openapi::jiff::{SignedDuration, Timestamp};

use super::exposition::{Point, Reading};

/// A container that is younger has used most of its time to start.
const MIN_AGE: SignedDuration = SignedDuration::from_secs(1);

/// What somebody uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Amounts {
    /// CPU time per second, in billionths of a CPU.
    pub cpu_nanocores: u64,
    /// Without what could be dropped at once.
    pub memory_bytes: u64,
}

/// Something that was measured over a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Measured<T> {
    /// The end of that time.
    pub end: Timestamp,
    pub length: SignedDuration,
    pub value: T,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerUsage {
    pub name: String,
    pub amounts: Amounts,
}

/// What the nodes of a cluster and their pods use.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Usages {
    nodes: HashMap<String, Measured<Amounts>>,
    /// By `namespace/name`.
    pods: HashMap<String, Measured<Vec<ContainerUsage>>>,
}

impl Usages {
    /// What was used between two rounds of readings, by node. A pod or node that only the later one knows is not
    /// there, unless it is known since when it counts.
    pub fn between(earlier: &HashMap<String, Reading>, later: &HashMap<String, Reading>) -> Self {
        let mut usages = Self::default();
        for (node, reading) in later {
            let before = earlier.get(node);
            if let Some(point) = &reading.node
                && let Some(usage) = usage(before.and_then(|before| before.node.as_ref()), point)
            {
                usages.nodes.insert(node.clone(), usage);
            }
            for (pod, containers) in &reading.pods {
                let before = before.and_then(|before| before.pods.get(pod));
                if let Some(usage) = pod_usage(before.map(Vec::as_slice), containers) {
                    usages.pods.insert(pod.clone(), usage);
                }
            }
        }
        usages
    }

    pub fn node(&self, name: &str) -> Option<&Measured<Amounts>> {
        self.nodes.get(name)
    }

    pub fn pod(&self, namespace: &str, name: &str) -> Option<&Measured<Vec<ContainerUsage>>> {
        self.pods.get(&format!("{namespace}/{name}"))
    }
}

/// Of all containers of a pod; `None` where one has no figures yet. Its window is the one that ended first.
fn pod_usage(
    before: Option<&[(String, Point)]>,
    containers: &[(String, Point)],
) -> Option<Measured<Vec<ContainerUsage>>> {
    let mut all = Vec::with_capacity(containers.len());
    let mut window: Option<(Timestamp, SignedDuration)> = None;
    for (name, point) in containers {
        let before = before.and_then(|before| before.iter().find(|(of, _)| of == name));
        let Measured { end, length, value } = usage(before.map(|(_, point)| point), point)?;
        if window.is_none_or(|(earliest, _)| end < earliest) {
            window = Some((end, length));
        }
        all.push(ContainerUsage { name: name.clone(), amounts: value });
    }
    let (end, length) = window?;
    Some(Measured { end, length, value: all })
}

/// What was used since `before`, or since the counters began where that is later.
fn usage(before: Option<&Point>, now: &Point) -> Option<Measured<Amounts>> {
    // One that was started again counts from zero.
    let is_same = |before: &&Point| {
        before.taken_at < now.taken_at
            && before.cpu_nanos <= now.cpu_nanos
            && now.started_at.is_none_or(|started_at| started_at <= before.taken_at)
    };
    let (since, cpu_before) = match before.filter(is_same) {
        Some(before) => (before.taken_at, before.cpu_nanos),
        None => {
            let is_old_enough = |started_at: &Timestamp| now.taken_at.duration_since(*started_at) >= MIN_AGE;
            (now.started_at.filter(is_old_enough)?, 0)
        }
    };
    let length = now.taken_at.duration_since(since);
    let nanos = u128::try_from(length.as_nanos()).ok().filter(|nanos| *nanos > 0)?;
    let cpu = u128::from(now.cpu_nanos - cpu_before) * 1_000_000_000 / nanos;
    let cpu_nanocores = u64::try_from(cpu).unwrap_or(u64::MAX);
    Some(Measured {
        end: now.taken_at,
        length,
        value: Amounts { cpu_nanocores, memory_bytes: now.memory_bytes },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millisecond(1_700_000_000_000 + millis).expect("in range")
    }

    fn point(taken_at: i64, started_at: Option<i64>, cpu_nanos: u64) -> Point {
        Point { taken_at: at(taken_at), started_at: started_at.map(at), cpu_nanos, memory_bytes: 4096 }
    }

    /// Nanocores and the window's milliseconds.
    fn rate(before: Option<Point>, now: Point) -> Option<(u64, i128)> {
        usage(before.as_ref(), &now).map(|usage| (usage.value.cpu_nanocores, usage.length.as_millis()))
    }

    #[test]
    fn a_rate_is_of_the_time_between_two_points() {
        let before = Some(point(0, None, 1_000_000_000));
        assert_eq!(rate(before, point(15_000, None, 4_000_000_000)), Some((200_000_000, 15_000)));
        assert_eq!(rate(before, point(1_500, None, 1_000_000_000)), Some((0, 1_500)));
        assert_eq!(rate(before, point(0, None, 4_000_000_000)), None, "the same moment twice");
        assert_eq!(rate(before, point(15_000, None, 1)), None, "a counter that fell");
        assert_eq!(rate(None, point(15_000, None, 1)), None);
    }

    #[test]
    fn what_started_since_counts_from_its_start() {
        let before = Some(point(0, Some(-50_000), 1_000_000_000));
        assert_eq!(rate(before, point(15_000, Some(5_000), 2_000_000_000)), Some((200_000_000, 10_000)));
        assert_eq!(rate(None, point(15_000, Some(5_000), 2_000_000_000)), Some((200_000_000, 10_000)));
        assert_eq!(rate(None, point(15_000, Some(14_500), 2_000_000_000)), None, "too young");
        // It has more than it had, but it is another one.
        assert_eq!(rate(before, point(15_000, Some(14_500), 2_000_000_000)), None);
    }

    fn reading(node: u64, pods: &[(&str, &[(&str, u64)])], millis: i64) -> HashMap<String, Reading> {
        let pods = pods.iter().map(|(pod, containers)| {
            let points = containers.iter().map(|(name, cpu)| ((*name).to_owned(), point(millis, None, *cpu)));
            ((*pod).to_owned(), points.collect())
        });
        let reading =
            Reading { taken_at: at(millis), node: Some(point(millis, None, node)), pods: pods.collect() };
        [("n1".to_owned(), reading)].into()
    }

    #[test]
    fn a_pod_is_told_of_when_all_of_its_containers_are_known() {
        let earlier = reading(0, &[("shop/web", &[("a", 0), ("b", 0)]), ("shop/grown", &[("a", 0)])], 0);
        let later = reading(
            2_000_000_000,
            &[
                ("shop/web", &[("a", 10_000_000), ("b", 0)]),
                ("shop/grown", &[("a", 0), ("b", 0)]),
                ("shop/new", &[("a", 1)]),
            ],
            1_000,
        );
        let usages = Usages::between(&earlier, &later);
        assert_eq!(usages.node("n1").expect("known").value.cpu_nanocores, 2_000_000_000);
        let web = usages.pod("shop", "web").expect("known");
        let cpu: Vec<_> = web.value.iter().map(|of| (of.name.as_str(), of.amounts.cpu_nanocores)).collect();
        assert_eq!(cpu, [("a", 10_000_000), ("b", 0)]);
        assert_eq!((web.end, web.length), (at(1_000), SignedDuration::from_secs(1)));
        assert_eq!((usages.pod("shop", "grown"), usages.pod("shop", "new")), (None, None));
        // A node that was not heard of before has a node's figures only from the next round on.
        assert_eq!(Usages::between(&HashMap::new(), &later), Usages::default());
    }
}
