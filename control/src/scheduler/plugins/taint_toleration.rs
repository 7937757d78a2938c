//! Taints keep pods away that do not tolerate them, or make nodes less wanted.

use k8s_openapi::api::core::v1::{Taint, Toleration};

use crate::scheduler::{
    PodInfo,
    framework::{Filter, NodeFilter, NodeScore, Scale, Score, Verdict},
};

pub struct TaintToleration;

impl Filter for TaintToleration {
    fn name(&self) -> &'static str {
        "TaintToleration"
    }

    fn prepare<'a>(&self, pod: &'a PodInfo) -> Option<NodeFilter<'a>> {
        Some(Box::new(|node| {
            let keeps_away = |taint: &&Taint| {
                matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute")
                    && !tolerates(pod.tolerations(), taint)
            };
            node.taints.iter().find(keeps_away).map_or(Verdict::Fits, |taint| {
                let value = taint.value.as_deref().unwrap_or_default();
                let reason = format!("node(s) had untolerated taint {{{}: {value}}}", taint.key);
                Verdict::Refused(vec![reason.into()])
            })
        }))
    }
}

/// Points are taints that say `PreferNoSchedule` and are not tolerated.
impl Score for TaintToleration {
    fn name(&self) -> &'static str {
        "TaintToleration"
    }

    fn weight(&self) -> i64 {
        3
    }

    fn scale(&self) -> Scale {
        Scale::FewerIsBetter
    }

    fn prepare<'a>(&self, pod: &'a PodInfo) -> Option<NodeScore<'a>> {
        Some(Box::new(|node| {
            let repels =
                |taint: &&Taint| taint.effect == "PreferNoSchedule" && !tolerates(pod.tolerations(), taint);
            node.taints.iter().filter(repels).count() as i64
        }))
    }
}

/// Whether one of the tolerations accepts the taint.
pub fn tolerates(tolerations: &[Toleration], taint: &Taint) -> bool {
    tolerations.iter().any(|toleration| naru_model::taint::tolerates(toleration, taint))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{node, pod, points, verdict};
    use super::*;
    use serde_json::{Value, json};

    fn check(tolerations: Value, expected: &str) {
        let pod = pod(json!({"containers": [], "tolerations": tolerations}));
        let tainted = node(json!({"metadata": {"name": "n"}, "spec": {"taints": [
            {"key": "soft", "effect": "PreferNoSchedule"}, {"key": "team", "value": "a", "effect": "NoSchedule"}]}}));
        assert_eq!(verdict(&TaintToleration, &pod, &tainted), expected, "{tolerations}");
    }

    #[test]
    fn a_taint_must_be_tolerated_in_key_value_and_effect() {
        const REFUSED: &str = "node(s) had untolerated taint {team: a}";
        for (tolerations, expected) in [
            (json!([]), REFUSED),
            (json!([{"key": "team", "value": "a", "effect": "NoSchedule"}]), ""),
            (json!([{"key": "team", "operator": "Equal", "value": "a"}]), ""),
            (json!([{"key": "team", "operator": "Exists"}]), ""),
            (json!([{"operator": "Exists"}]), ""),
            (json!([{"key": "team", "value": "b"}]), REFUSED),
            (json!([{"key": "team", "operator": "Exists", "effect": "NoExecute"}]), REFUSED),
            (json!([{"key": "other", "operator": "Exists"}]), REFUSED),
        ] {
            check(tolerations, expected);
        }
    }

    #[test]
    fn soft_taints_only_cost_points() {
        let soft = node(json!({"metadata": {"name": "n"}, "spec": {"taints": [
            {"key": "a", "effect": "PreferNoSchedule"}, {"key": "b", "effect": "PreferNoSchedule"}]}}));
        let one = pod(json!({"containers": [], "tolerations": [{"key": "a", "operator": "Exists"}]}));
        assert_eq!(verdict(&TaintToleration, &one, &soft), "");
        assert_eq!(points(&TaintToleration, &one, &soft), 1);
    }

    #[test]
    fn a_taint_without_a_value_prints_kubernetes_way() {
        let fresh = node(json!({"metadata": {"name": "n"}, "spec": {"taints": [
            {"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}]}}));
        assert_eq!(
            verdict(&TaintToleration, &pod(json!({"containers": []})), &fresh),
            "node(s) had untolerated taint {node.kubernetes.io/not-ready: }"
        );
    }
}
