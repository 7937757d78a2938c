//! The choice of a node for one pod: filter, score, pick.
//!
//! In a large cluster not every node is looked at: the search stops when enough nodes fit, and the next one goes on
//! where this one ended, so that all nodes get their turn.

use std::collections::BTreeMap;

use super::{
    NodeInfo, PodInfo,
    framework::{NodeFilter, Profile, Reason, Scale, Verdict},
};

/// Below this many nodes all are looked at.
const ALWAYS_ENOUGH: usize = 100;
/// The least share of a large cluster that is looked at, in per cent.
const LEAST_PERCENT: usize = 5;

/// Why no node was found: how many were looked at, and how many gave each reason.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Misfit {
    pub nodes: usize,
    pub reasons: BTreeMap<Reason, usize>,
}

impl Misfit {
    /// As users of Kubernetes know it: `0/3 nodes are available: 1 Insufficient cpu, 2 node(s) were unschedulable.`
    pub fn message(&self) -> String {
        if self.nodes == 0 {
            return "no nodes available to schedule pods".into();
        }
        let mut reasons: Vec<_> =
            self.reasons.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
        reasons.sort();
        format!("0/{} nodes are available: {}.", self.nodes, reasons.join(", "))
    }
}

/// Where the next search starts, and the source of chance among equals.
#[derive(Debug, Clone)]
pub struct Search {
    start: usize,
    random: u64,
    candidates: Vec<usize>,
    points: Vec<i64>,
    totals: Vec<i64>,
}

impl Search {
    /// The same seed makes the same choices.
    pub fn new(seed: u64) -> Self {
        Self { start: 0, random: seed | 1, candidates: Vec::new(), points: Vec::new(), totals: Vec::new() }
    }

    /// The place in `nodes` of the best node for the pod.
    pub fn choose(&mut self, pod: &PodInfo, nodes: &[NodeInfo], profile: &Profile) -> Result<usize, Misfit> {
        let filters: Vec<_> = profile.filters.iter().filter_map(|filter| filter.prepare(pod)).collect();
        let misfit = self.find_candidates(&filters, nodes);
        match self.candidates.as_slice() {
            [] => Err(misfit),
            [only] => Ok(*only),
            _ => Ok(self.best(pod, nodes, profile)),
        }
    }

    /// Fills `candidates`; the reasons are complete only if there are none.
    fn find_candidates(&mut self, filters: &[NodeFilter<'_>], nodes: &[NodeInfo]) -> Misfit {
        self.candidates.clear();
        let mut misfit = Misfit::default();
        let wanted = enough(nodes.len());
        for step in 0..nodes.len() {
            let at = (self.start + step) % nodes.len();
            let node = &nodes[at];
            if node.node.is_none() {
                continue;
            }
            misfit.nodes += 1;
            match check(filters, node) {
                Verdict::Fits => self.candidates.push(at),
                Verdict::Refused(reasons) => {
                    for reason in reasons {
                        *misfit.reasons.entry(reason).or_default() += 1;
                    }
                }
            }
            if self.candidates.len() >= wanted {
                self.start = (at + 1) % nodes.len();
                break;
            }
        }
        misfit
    }

    fn best(&mut self, pod: &PodInfo, nodes: &[NodeInfo], profile: &Profile) -> usize {
        self.totals.clear();
        self.totals.resize(self.candidates.len(), 0);
        for rule in &profile.scores {
            let Some(score) = rule.prepare(pod) else { continue };
            self.points.clear();
            self.points.extend(self.candidates.iter().map(|at| score(&nodes[*at])));
            normalize(&mut self.points, rule.scale());
            for (total, points) in self.totals.iter_mut().zip(&self.points) {
                *total += points * rule.weight();
            }
        }
        let (mut best, mut most, mut equals) = (0, i64::MIN, 0);
        for place in 0..self.totals.len() {
            let total = self.totals[place];
            if total > most {
                (best, most, equals) = (place, total, 1);
            } else if total == most {
                // Each of the equals ends up chosen with the same probability.
                equals += 1;
                if self.random().is_multiple_of(equals) {
                    best = place;
                }
            }
        }
        self.candidates[best]
    }

    /// Xorshift: chance need not be better than this to spread pods over equal nodes.
    fn random(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random >> 11
    }
}

/// Whether the pod may go to this one node.
pub fn fits(pod: &PodInfo, node: &NodeInfo, profile: &Profile) -> bool {
    let filters: Vec<_> = profile.filters.iter().filter_map(|filter| filter.prepare(pod)).collect();
    node.node.is_some() && check(&filters, node) == Verdict::Fits
}

/// The first refusal counts; later rules are not asked.
fn check(filters: &[NodeFilter<'_>], node: &NodeInfo) -> Verdict {
    for filter in filters {
        let verdict = filter(node);
        if verdict != Verdict::Fits {
            return verdict;
        }
    }
    Verdict::Fits
}

/// How many fitting nodes end the search, as kube-scheduler has it: half of a middling cluster, 5 % of a large one.
fn enough(nodes: usize) -> usize {
    if nodes < ALWAYS_ENOUGH {
        return nodes;
    }
    let percent = 50_usize.saturating_sub(nodes / 125).max(LEAST_PERCENT);
    (nodes * percent / 100).max(ALWAYS_ENOUGH)
}

fn normalize(points: &mut [i64], scale: Scale) {
    let most = points.iter().copied().max().unwrap_or(0);
    for value in points {
        *value = match scale {
            Scale::Percent => *value,
            Scale::MoreIsBetter if most <= 0 => 0,
            Scale::MoreIsBetter => *value * 100 / most,
            Scale::FewerIsBetter if most <= 0 => 100,
            Scale::FewerIsBetter => 100 - *value * 100 / most,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scheduler::plugins::{default_profile, testing};
    use serde_json::{Value, json};

    fn node(name: &str, extra: Value) -> NodeInfo {
        let mut value = json!({"metadata": {"name": name}, "status": {"allocatable": {"cpu": "4", "memory": "8Gi", "pods": "10"}}});
        json_patch::merge(&mut value, &extra);
        testing::node(value)
    }

    fn pod(cpu: &str) -> std::sync::Arc<PodInfo> {
        testing::pod(json!({"containers": [{"name": "a", "resources": {"requests": {"cpu": cpu}}}]}))
    }

    fn chosen(search: &mut Search, pod: &PodInfo, nodes: &[NodeInfo]) -> Result<String, String> {
        let at = search.choose(pod, nodes, &default_profile()).map_err(|misfit| misfit.message())?;
        Ok(nodes[at].name.to_string())
    }

    #[test]
    fn refusals_are_counted_by_reason() {
        let nodes = [
            node("a", json!({"status": {"allocatable": {"cpu": "1"}}})),
            node("b", json!({"spec": {"taints": [{"key": "team", "value": "x", "effect": "NoSchedule"}]}})),
            node("c", json!({"spec": {"taints": [{"key": "team", "value": "x", "effect": "NoSchedule"}]}})),
            node("d", json!({"spec": {"unschedulable": true}})),
            NodeInfo::new("not seen yet"),
        ];
        assert_eq!(
            chosen(&mut Search::new(1), &pod("2"), &nodes),
            Err("0/4 nodes are available: 1 Insufficient cpu, 1 node(s) were unschedulable, 2 node(s) had untolerated taint \
                 {team: x}."
                .into())
        );
        assert_eq!(
            chosen(&mut Search::new(1), &pod("2"), &[]),
            Err("no nodes available to schedule pods".into())
        );
    }

    #[test]
    fn the_emptier_node_wins() {
        let mut nodes = [node("a", json!({})), node("b", json!({}))];
        nodes[0].add_pod(pod("3").footprint.clone());
        for seed in 0..20 {
            assert_eq!(chosen(&mut Search::new(seed), &pod("1"), &nodes), Ok("b".into()));
        }
    }

    #[test]
    fn a_preference_outweighs_emptiness() {
        let mut nodes = [node("a", json!({"metadata": {"labels": {"disk": "ssd"}}})), node("b", json!({}))];
        nodes[0].add_pod(pod("2").footprint.clone());
        let prefers = testing::pod(
            json!({"containers": [], "affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution":
            [{"weight": 1, "preference": {"matchExpressions": [{"key": "disk", "operator": "Exists"}]}}]}}}),
        );
        assert_eq!(chosen(&mut Search::new(1), &prefers, &nodes), Ok("a".into()));
    }

    #[test]
    fn equal_nodes_are_chosen_equally_often() {
        let nodes = [node("a", json!({})), node("b", json!({})), node("c", json!({}))];
        let mut search = Search::new(42);
        let mut counts = BTreeMap::new();
        for _ in 0..3_000 {
            *counts.entry(chosen(&mut search, &pod("1"), &nodes).expect("one fits")).or_insert(0) += 1;
        }
        assert!(counts.len() == 3 && counts.values().all(|count| (800..1_200).contains(count)), "{counts:?}");
    }

    #[test]
    fn the_pods_of_a_workload_are_spread() {
        let member = || {
            let value = json!({"metadata": {"name": "p", "namespace": "d", "uid": "1", "ownerReferences":
                [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "r", "uid": "r", "controller": true}]}, "spec": {"containers": []}});
            std::sync::Arc::new(PodInfo::new(std::sync::Arc::new(
                serde_json::from_value(value).expect("a pod"),
            )))
        };
        let mut nodes = [node("a", json!({})), node("b", json!({}))];
        nodes[0].add_pod(member().footprint.clone());
        // Node b is fuller, but has none of the workload.
        nodes[1].add_pod(pod("1").footprint.clone());
        assert_eq!(chosen(&mut Search::new(3), &member(), &nodes), Ok("b".into()));
    }

    #[test]
    fn a_large_cluster_is_searched_in_turns() {
        assert_eq!(
            [enough(3), enough(100), enough(1_000), enough(5_000), enough(10_000)],
            [3, 100, 420, 500, 500]
        );
        let nodes: Vec<_> = (0..1_000).map(|number| node(&number.to_string(), json!({}))).collect();
        let mut search = Search::new(1);
        let mut starts = Vec::new();
        for _ in 0..4 {
            starts.push(search.start);
            chosen(&mut search, &pod("1"), &nodes).expect("one fits");
        }
        assert_eq!(starts, [0, 420, 840, 260]);
    }
}
