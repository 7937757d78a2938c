//! StatefulSets: pods with a name, an order and claims of their own.

use k8s_openapi::{
    api::{
        apps::v1::{StatefulSet, StatefulSetSpec, StatefulSetStatus, StatefulSetUpdateStrategy},
        core::v1::{PersistentVolumeClaimVolumeSource, PodTemplateSpec, Volume},
    },
    apimachinery::pkg::util::intstr::IntOrString,
    jiff::Timestamp,
};
use naru_model::{
    ResourceInfo,
    selector::matches_api,
    validation::{FieldErrors, Path, names},
};
use serde_json::{Value, json};

use super::{
    Column, Kind, Scale,
    kind::Context,
    persistentvolumeclaim::{default_claim, validate_claim_spec},
    podspec::{self, OrEmpty, check},
    replicaset::template_warnings,
    text, workload,
};

pub struct StatefulSets;

static RESOURCE: ResourceInfo = ResourceInfo {
    group: "apps",
    categories: &["all"],
    subresources: &["scale", "status"],
    ..text::core_resource("StatefulSet", "statefulsets", "statefulset", &["sts"])
};

const DEFAULT_REVISION_HISTORY: i32 = 10;

const COLUMNS: &[Column] = &[
    text::NAME,
    text::column("Ready", "string", 0, "Number of the pod with ready state"),
    text::AGE,
    text::CONTAINERS,
    text::IMAGES,
];

impl Kind for StatefulSets {
    type Object = StatefulSet;

    fn resource(&self) -> &'static ResourceInfo {
        &RESOURCE
    }

    fn default(&self, set: &mut StatefulSet) {
        let spec = &mut set.spec;
        if spec.pod_management_policy.or_empty().is_empty() {
            spec.pod_management_policy = Some("OrderedReady".into());
        }
        default_strategy(spec.update_strategy.get_or_insert_default());
        let retention = spec.persistent_volume_claim_retention_policy.get_or_insert_default();
        for policy in [&mut retention.when_deleted, &mut retention.when_scaled] {
            if policy.or_empty().is_empty() {
                *policy = Some("Retain".into());
            }
        }
        spec.replicas.get_or_insert(1);
        spec.revision_history_limit.get_or_insert(DEFAULT_REVISION_HISTORY);
        spec.volume_claim_templates.iter_mut().flatten().for_each(default_claim);
        podspec::default_template(&mut spec.template);
    }

    fn prepare_create(&self, set: &mut StatefulSet, _context: &Context<'_>) {
        set.status = Some(StatefulSetStatus { available_replicas: Some(0), ..StatefulSetStatus::default() });
    }

    fn prepare_update(&self, new: &mut StatefulSet, old: &StatefulSet, _context: &Context<'_>) {
        new.status.clone_from(&old.status);
    }

    fn prepare_status_update(&self, new: &mut StatefulSet, old: &StatefulSet, _context: &Context<'_>) {
        new.spec.clone_from(&old.spec);
    }

    /// Pods are named after it.
    fn validate_name(&self, name: &str, errors: &mut FieldErrors) {
        errors.problems(&Path::new("metadata").child("name"), name, names::label_name(name, false));
    }

    fn validate(&self, set: &StatefulSet, errors: &mut FieldErrors) {
        let spec = &set.spec;
        let path = Path::new("spec");
        match spec.pod_management_policy.or_empty() {
            "OrderedReady" | "Parallel" => (),
            "" => errors.required(&path.child("podManagementPolicy"), ""),
            other => {
                let detail = "must be 'OrderedReady' or 'Parallel'";
                errors.invalid(&path.child("podManagementPolicy"), other, detail);
            }
        }
        strategy(spec, &path.child("updateStrategy"), errors);
        if let Some(policy) = &spec.persistent_volume_claim_retention_policy {
            let path = path.child("persistentVolumeClaimRetentionPolicy");
            for (name, value) in [("whenDeleted", &policy.when_deleted), ("whenScaled", &policy.when_scaled)]
            {
                check::one_of(value.or_empty(), &["Retain", "Delete"], &path.child(name), errors);
            }
        }
        check::not_negative(spec.replicas.unwrap_or_default().into(), &path.child("replicas"), errors);
        let min_ready = spec.min_ready_seconds.unwrap_or_default();
        check::not_negative(min_ready.into(), &path.child("minReadySeconds"), errors);
        if let Some(start) = spec.ordinals.as_ref().and_then(|ordinals| ordinals.start) {
            check::not_negative(start.into(), &path.child("ordinals.start"), errors);
        }
        workload::selector(&spec.selector, "statefulset", &path.child("selector"), errors);
        template(spec, &path.child("template"), errors);
        for (index, claim) in spec.volume_claim_templates.or_empty().iter().enumerate() {
            let path = path.child("volumeClaimTemplates").index(index);
            let name = claim.metadata.name.or_empty();
            if name.is_empty() {
                errors.required(&path.child("metadata").child("name"), "name or generateName is required");
            }
            validate_claim_spec(claim.spec.as_ref(), &path.child("spec"), errors);
        }
    }

    fn validate_create(&self, set: &StatefulSet, errors: &mut FieldErrors) {
        let service = set.spec.service_name.or_empty();
        if !service.is_empty() {
            check::dns_label(service, &Path::new("spec").child("serviceName"), errors);
        }
    }

    fn validate_update(&self, new: &StatefulSet, old: &StatefulSet, errors: &mut FieldErrors) {
        let changeable = new.spec.clone();
        let kept = StatefulSetSpec {
            replicas: changeable.replicas,
            ordinals: changeable.ordinals,
            template: changeable.template,
            update_strategy: changeable.update_strategy,
            revision_history_limit: changeable.revision_history_limit,
            persistent_volume_claim_retention_policy: changeable.persistent_volume_claim_retention_policy,
            min_ready_seconds: changeable.min_ready_seconds,
            ..old.spec.clone()
        };
        if kept != new.spec {
            errors.forbidden(
                &Path::new("spec"),
                "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', \
                 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and \
                 'minReadySeconds' are forbidden",
            );
        }
    }

    fn validate_status_update(&self, new: &StatefulSet, old: &StatefulSet, errors: &mut FieldErrors) {
        let Some(status) = &new.status else { return };
        let path = Path::new("status");
        let each = [
            ("readyReplicas", status.ready_replicas),
            ("currentReplicas", status.current_replicas),
            ("updatedReplicas", status.updated_replicas),
            ("availableReplicas", status.available_replicas),
        ];
        workload::counts(&[("replicas", Some(status.replicas.into()))], &path, errors);
        workload::counts(&each.map(|(name, count)| (name, count.map(Into::into))), &path, errors);
        workload::counts(
            &[
                ("observedGeneration", status.observed_generation),
                ("collisionCount", status.collision_count.map(Into::into)),
            ],
            &path,
            errors,
        );
        for count in each {
            workload::at_most(count, ("status.replicas", status.replicas), &path, errors);
        }
        let ready = ("status.readyReplicas", status.ready_replicas.unwrap_or_default());
        workload::at_most(("availableReplicas", status.available_replicas), ready, &path, errors);
        let before = old.status.as_ref().and_then(|status| status.collision_count);
        workload::collisions(status.collision_count, before, errors);
    }

    fn is_spec_changed(&self, new: &StatefulSet, old: &StatefulSet) -> bool {
        new.spec != old.spec
    }

    fn warnings(&self, set: &StatefulSet) -> Vec<String> {
        let mut texts = template_warnings(&set.spec.template);
        if set.spec.revision_history_limit.is_some_and(|limit| limit < 0) {
            texts.push(
                "spec.revisionHistoryLimit: a negative value retains all historical revisions; a value >= 0 is recommended"
                    .into(),
            );
        }
        texts
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, set: &StatefulSet, now: Timestamp) -> Vec<Value> {
        let ready = set.status.as_ref().and_then(|status| status.ready_replicas).unwrap_or_default();
        let (names, images) = text::containers(Some(&set.spec.template));
        vec![
            text::name(&set.metadata),
            format!("{ready}/{}", set.spec.replicas.unwrap_or_default()).into(),
            text::age(&set.metadata, now),
            names.into(),
            images.into(),
        ]
    }

    fn scale(&self, set: &StatefulSet) -> Option<Scale> {
        Some(Scale {
            spec_replicas: set.spec.replicas.unwrap_or_default(),
            status_replicas: set.status.as_ref().map(|status| status.replicas).unwrap_or_default(),
            selector: text::selector(&set.spec.selector),
        })
    }

    fn set_scale(&self, set: &mut StatefulSet, replicas: i32) {
        set.spec.replicas = Some(replicas);
    }
}

fn default_strategy(strategy: &mut StatefulSetUpdateStrategy) {
    if strategy.type_.or_empty().is_empty() {
        strategy.type_ = Some("RollingUpdate".into());
        strategy.rolling_update.get_or_insert_default();
    }
    if strategy.type_.as_deref() == Some("RollingUpdate")
        && let Some(rolling) = &mut strategy.rolling_update
    {
        rolling.partition.get_or_insert(0);
        rolling.max_unavailable.get_or_insert(IntOrString::Int(1));
    }
}

fn strategy(spec: &StatefulSetSpec, path: &Path, errors: &mut FieldErrors) {
    let empty = StatefulSetUpdateStrategy::default();
    let strategy = spec.update_strategy.as_ref().unwrap_or(&empty);
    let rolling_path = path.child("rollingUpdate");
    match (strategy.type_.or_empty(), &strategy.rolling_update) {
        ("", _) => errors.required(path, ""),
        ("OnDelete", Some(rolling)) => {
            let detail = "only allowed for updateStrategy 'RollingUpdate'";
            errors.invalid(&rolling_path, json!(rolling), detail);
        }
        ("RollingUpdate", Some(rolling)) => {
            let partition = rolling.partition.unwrap_or_default();
            check::not_negative(partition.into(), &rolling_path.child("partition"), errors);
            if let Some(unavailable) = &rolling.max_unavailable {
                let path = rolling_path.child("maxUnavailable");
                workload::positive_or_percent(unavailable, &path, errors);
                if workload::is_zero(unavailable) {
                    errors.invalid(&path, workload::json(unavailable), "cannot be 0");
                }
                workload::not_more_than_all(unavailable, &path, errors);
            }
        }
        ("OnDelete" | "RollingUpdate", None) => (),
        _ => errors.invalid(path, json!(strategy), "must be 'RollingUpdate' or 'OnDelete'"),
    }
}

/// The template may mount the claims as if they were its volumes.
fn template(spec: &StatefulSetSpec, path: &Path, errors: &mut FieldErrors) {
    let labels = spec.template.metadata.as_ref().and_then(|meta| meta.labels.as_ref());
    if !matches_api(&spec.selector, labels) {
        let detail = "`selector` does not match template `labels`";
        errors.invalid(&path.child("metadata").child("labels"), json!(labels), detail);
    }
    podspec::validate_template(&with_claims(spec), path, errors);
    workload::restarts(&spec.template, "StatefulSet", path, errors);
}

fn with_claims(spec: &StatefulSetSpec) -> PodTemplateSpec {
    let mut template = spec.template.clone();
    let Some(pod) = &mut template.spec else { return template };
    for claim in spec.volume_claim_templates.or_empty() {
        let name = claim.metadata.name.or_empty();
        let volumes = pod.volumes.get_or_insert_default();
        volumes.retain(|volume| volume.name != name);
        volumes.push(Volume {
            name: name.into(),
            persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
                claim_name: name.into(),
                read_only: None,
            }),
            ..Volume::default()
        });
    }
    template
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::testing::{at, check, check_update, create};

    const DB: &str = "
metadata: {name: db, namespace: shop}
spec:
  serviceName: db
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}}
    spec: {containers: [{name: db, image: db:v1, volumeMounts: [{name: data, mountPath: /data}]}]}
  volumeClaimTemplates:
  - metadata: {name: data}
    spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}
";

    #[test]
    fn defaults_are_those_of_kubernetes() {
        let (set, errors) = create(&StatefulSets, DB);
        assert_eq!(errors, [] as [&str; 0]);
        assert_eq!(at(&set, "/spec/podManagementPolicy"), "OrderedReady");
        let expected =
            json!({ "type": "RollingUpdate", "rollingUpdate": { "partition": 0, "maxUnavailable": 1 } });
        assert_eq!(at(&set, "/spec/updateStrategy"), expected);
        let retain = json!({ "whenDeleted": "Retain", "whenScaled": "Retain" });
        assert_eq!(at(&set, "/spec/persistentVolumeClaimRetentionPolicy"), retain);
        assert_eq!(at(&set, "/spec/volumeClaimTemplates/0/status/phase"), "Pending");
        assert_eq!(at(&set, "/spec/volumeClaimTemplates/0/spec/volumeMode"), "Filesystem");
        assert_eq!(StatefulSets.row(&set, crate::registry::testing::now())[1], "0/1");
    }

    #[test]
    fn wrong_sets_are_refused() {
        check(
            &StatefulSets,
            &DB.replace("serviceName: db", "serviceName: Db.x\n  podManagementPolicy: Some"),
            &[
                "spec.podManagementPolicy: Invalid value: \"Some\": must be 'OrderedReady' or 'Parallel'",
                "spec.serviceName: …",
            ],
        );
        check(
            &StatefulSets,
            &DB.replace("serviceName: db", "updateStrategy: {type: OnDelete, rollingUpdate: {partition: 1}}"),
            &[
                "spec.updateStrategy.rollingUpdate: Invalid value: {\"partition\":1}: only allowed for updateStrategy 'RollingUpdate'",
            ],
        );
        check(
            &StatefulSets,
            &DB.replace(
                "serviceName: db",
                "updateStrategy: {type: RollingUpdate, rollingUpdate: {maxUnavailable: 0}}",
            ),
            &["spec.updateStrategy.rollingUpdate.maxUnavailable: Invalid value: 0: cannot be 0"],
        );
        check(
            &StatefulSets,
            &DB.replace("name: data, mountPath", "name: other, mountPath"),
            &["spec.template.spec.containers[0].volumeMounts[0].name: Not found: \"other\""],
        );
        check(
            &StatefulSets,
            &DB.replace("accessModes: [ReadWriteOnce], ", ""),
            &[
                "spec.volumeClaimTemplates[0].spec.accessModes: Required value: at least 1 access mode is required",
            ],
        );
    }

    #[test]
    fn only_some_fields_change() {
        check_update(
            &StatefulSets,
            DB,
            &DB.replace("serviceName: db", "replicas: 3\n  serviceName: db"),
            &[],
        );
        check_update(
            &StatefulSets,
            DB,
            &DB.replace("serviceName: db", "serviceName: other"),
            &[
                "spec: Forbidden: updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden",
            ],
        );
    }
}
