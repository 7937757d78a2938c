//! `nodeSelector` and `nodeAffinity`: which nodes a pod requires, and which it prefers.

use k8s_openapi::api::core::v1::{
    NodeAffinity as Affinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm,
};
use naru_model::selector::Operator;

use crate::scheduler::{
    NodeInfo, PodInfo,
    framework::{Filter, NodeFilter, NodeScore, Scale, Score, Verdict},
};

pub struct NodeAffinity;

const REFUSED: &str = "node(s) didn't match Pod's node affinity/selector";

impl Filter for NodeAffinity {
    fn name(&self) -> &'static str {
        "NodeAffinity"
    }

    fn prepare<'a>(&self, pod: &'a PodInfo) -> Option<NodeFilter<'a>> {
        let selector = pod.node_selector();
        let required = affinity(pod)
            .and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.as_ref());
        if selector.is_none() && required.is_none() {
            return None;
        }
        Some(Box::new(move |node| {
            let label = |key: &str| node.labels().and_then(|labels| labels.get(key));
            let fits = selector.into_iter().flatten().all(|(key, value)| label(key) == Some(value))
                && required.is_none_or(|required| matches_any(required, node));
            Verdict::fits_if(fits, REFUSED)
        }))
    }
}

/// Points are the weights of the preferences that the node meets.
impl Score for NodeAffinity {
    fn name(&self) -> &'static str {
        "NodeAffinity"
    }

    fn weight(&self) -> i64 {
        2
    }

    fn scale(&self) -> Scale {
        Scale::MoreIsBetter
    }

    fn prepare<'a>(&self, pod: &'a PodInfo) -> Option<NodeScore<'a>> {
        let preferences = affinity(pod)?.preferred_during_scheduling_ignored_during_execution.as_ref()?;
        Some(Box::new(move |node| {
            let met = preferences.iter().filter(|preference| matches_term(&preference.preference, node));
            met.map(|preference| i64::from(preference.weight)).sum()
        }))
    }
}

fn affinity(pod: &PodInfo) -> Option<&Affinity> {
    pod.affinity()?.node_affinity.as_ref()
}

/// One of the terms suffices.
fn matches_any(selector: &NodeSelector, node: &NodeInfo) -> bool {
    selector.node_selector_terms.iter().any(|term| matches_term(term, node))
}

/// All of a term's requirements must hold; a term without any matches nothing.
fn matches_term(term: &NodeSelectorTerm, node: &NodeInfo) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    let label = |key: &str| node.labels().and_then(|labels| labels.get(key)).map(String::as_str);
    let field = |key: &str| (key == "metadata.name").then_some(&*node.name);
    (!expressions.is_empty() || !fields.is_empty())
        && expressions.iter().all(|requirement| holds(requirement, label(&requirement.key)))
        && fields.iter().all(|requirement| holds(requirement, field(&requirement.key)))
}

fn holds(requirement: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let operator = match requirement.operator.as_str() {
        "In" => Operator::In,
        "NotIn" => Operator::NotIn,
        "Exists" => Operator::Exists,
        "DoesNotExist" => Operator::DoesNotExist,
        "Gt" => Operator::GreaterThan,
        "Lt" => Operator::LessThan,
        _ => return false,
    };
    operator.holds(value, requirement.values.as_deref().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::super::testing::{node, pod, points, verdict};
    use super::*;
    use serde_json::{Value, json};

    fn labelled() -> NodeInfo {
        node(json!({"metadata": {"name": "n1", "labels": {"zone": "a", "cores": "8"}}}))
    }

    fn check(spec: Value, fits: bool) {
        let mut with_containers = spec.clone();
        with_containers["containers"] = json!([]);
        let found = verdict(&NodeAffinity, &pod(with_containers), &labelled());
        assert_eq!(found, if fits { "" } else { REFUSED }, "{spec}");
    }

    fn required(terms: Value) -> Value {
        json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}})
    }

    #[test]
    fn selectors_and_required_terms_filter() {
        for (spec, fits) in [
            (json!({}), true),
            (json!({"nodeSelector": {"zone": "a"}}), true),
            (json!({"nodeSelector": {"zone": "a", "disk": "ssd"}}), false),
            (
                required(
                    json!([{"matchExpressions": [{"key": "zone", "operator": "In", "values": ["b", "a"]}]}]),
                ),
                true,
            ),
            (
                required(
                    json!([{"matchExpressions": [{"key": "zone", "operator": "NotIn", "values": ["a"]}]}]),
                ),
                false,
            ),
            (
                required(
                    json!([{"matchExpressions": [{"key": "cores", "operator": "Gt", "values": ["4"]}]}]),
                ),
                true,
            ),
            (
                required(
                    json!([{"matchExpressions": [{"key": "cores", "operator": "Lt", "values": ["4"]}]}]),
                ),
                false,
            ),
            (
                required(
                    json!([{"matchExpressions": [{"key": "disk", "operator": "Exists"}]}, {"matchExpressions": [{"key": "disk", "operator": "DoesNotExist"}]}]),
                ),
                true,
            ),
            (
                required(
                    json!([{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]}]),
                ),
                true,
            ),
            (
                required(
                    json!([{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n2"]}]}]),
                ),
                false,
            ),
            (required(json!([{}])), false),
            (required(json!([])), false),
        ] {
            check(spec, fits);
        }
    }

    #[test]
    fn preferences_add_their_weights() {
        let preference = |weight: i32, zone: &str| json!({"weight": weight, "preference": {"matchExpressions": [{"key": "zone", "operator": "In", "values": [zone]}]}});
        let pod = pod(
            json!({"containers": [], "affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution":
            [preference(10, "a"), preference(5, "a"), preference(80, "b")]}}}),
        );
        assert_eq!(points(&NodeAffinity, &pod, &labelled()), 15);
    }
}
