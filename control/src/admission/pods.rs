//! What every pod gets: a priority (see `priority`), and tolerations for nodes in trouble.

use k8s_openapi::api::core::v1::{Pod, Toleration};

use crate::{ApiError, registry::Call, store::Store};

/// How long a pod may stay on a node that is not ready or cannot be reached.
const TOLERATED_SECONDS: i64 = 300;

pub(super) fn admit_create(store: &Store, call: &Call<'_>, pod: &mut Pod) -> Result<(), ApiError> {
    add_default_tolerations(pod);
    let name = pod.metadata.name.clone().unwrap_or_default();
    super::priority::of_pod(store, call, &name, pod.spec.get_or_insert_default())
}

/// Pods stay for a while on a node in trouble, unless they say otherwise.
pub(super) fn add_default_tolerations(pod: &mut Pod) {
    let Some(spec) = pod.spec.as_mut() else { return };
    for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        let tolerations = spec.tolerations.get_or_insert_default();
        let is_tolerated = tolerations.iter().any(|toleration| {
            toleration.key.as_deref().is_none_or(|of| of.is_empty() || of == key)
                && toleration.effect.as_deref().is_none_or(|of| of.is_empty() || of == "NoExecute")
        });
        if !is_tolerated {
            tolerations.push(Toleration {
                key: Some(key.into()),
                operator: Some("Exists".into()),
                effect: Some("NoExecute".into()),
                toleration_seconds: Some(TOLERATED_SECONDS),
                value: None,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::PodSpec;

    use super::*;

    fn keys(pod: &Pod) -> Vec<(String, Option<i64>)> {
        let tolerations = pod.spec.as_ref().and_then(|spec| spec.tolerations.clone()).unwrap_or_default();
        tolerations.into_iter().map(|of| (of.key.unwrap_or_default(), of.toleration_seconds)).collect()
    }

    #[test]
    fn only_troubles_that_a_pod_does_not_mention_are_tolerated_for_it() {
        let own = Toleration {
            key: Some("node.kubernetes.io/unreachable".into()),
            operator: Some("Exists".into()),
            toleration_seconds: Some(7),
            ..Toleration::default()
        };
        let spec = PodSpec { tolerations: Some(vec![own]), ..PodSpec::default() };
        let mut pod = Pod { spec: Some(spec), ..Pod::default() };
        add_default_tolerations(&mut pod);
        add_default_tolerations(&mut pod);
        let expected = [
            ("node.kubernetes.io/unreachable".to_owned(), Some(7)),
            ("node.kubernetes.io/not-ready".to_owned(), Some(300)),
        ];
        assert_eq!(keys(&pod), expected);
    }
}
