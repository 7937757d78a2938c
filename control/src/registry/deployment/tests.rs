use serde_json::json;

use super::Deployments;
use crate::registry::{
    Kind,
    replicaset::ReplicaSets,
    testing::{self, at},
};

/// A deployment with further fields of its spec and of its template's spec.
fn deployment(spec: &str, template: &str) -> String {
    format!(
        "metadata: {{name: d, namespace: n}}\nspec:\n  selector: {{matchLabels: {{app: x}}}}\n  template:\n    metadata: {{labels: {{app: x}}}}\n    spec: {{containers: [{{name: a, image: 'i:1'}}] {template}}}\n{spec}"
    )
}

fn check(spec: &str, expected: &[&str]) {
    testing::check(&Deployments, &deployment(&format!("  {spec}"), ""), expected);
}

#[test]
fn defaults_are_filled_in() {
    let (object, errors) = testing::create(&Deployments, &deployment("", ""));
    assert_eq!(errors, [] as [&str; 0]);
    for (pointer, expected) in [
        ("/spec/replicas", json!(1)),
        ("/spec/revisionHistoryLimit", json!(10)),
        ("/spec/progressDeadlineSeconds", json!(600)),
        (
            "/spec/strategy",
            json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}}),
        ),
        ("/spec/template/spec/restartPolicy", json!("Always")),
    ] {
        assert_eq!(at(&object, pointer), expected, "{pointer}");
    }
    let (object, _) = testing::create(&Deployments, &deployment("  strategy: {type: Recreate}", ""));
    assert_eq!(at(&object, "/spec/strategy"), json!({"type": "Recreate"}));
}

#[test]
fn the_selector_is_required_and_matches_the_template() {
    let template = "template: {metadata: {labels: {app: x}}, spec: {containers: [{name: a, image: i}]}}";
    testing::check(
        &Deployments,
        &format!("{{metadata: {{name: d}}, spec: {{{template}}}}}"),
        &[
            "spec.selector: Required value",
            "spec.template.metadata.labels: Invalid value: {\"app\":\"x\"}: `selector` does not match template `labels`",
        ],
    );
    testing::check(
        &Deployments,
        &format!("{{metadata: {{name: d}}, spec: {{selector: {{matchLabels: {{app: y}}}}, {template}}}}}"),
        &[
            "spec.template.metadata.labels: Invalid value: {\"app\":\"x\"}: `selector` does not match template `labels`",
        ],
    );
    testing::check(
        &ReplicaSets,
        "{metadata: {name: d}, spec: {selector: {matchLabels: {app: y}}}}",
        &["spec.template: Required value"],
    );
}

#[test]
fn a_selector_that_makes_no_sense_is_not_compared_with_the_template() {
    let selector = "{matchExpressions: [{key: app, operator: Like}]}";
    let found = testing::create(
        &Deployments,
        &format!("{{metadata: {{name: d}}, spec: {{selector: {selector}, template: {{}}}}}}"),
    );
    let expected = [
        "spec.selector.matchExpressions[0].operator: Invalid value: \"Like\": not a valid selector operator",
        "spec.selector: Invalid value: {\"matchExpressions\":[{\"key\":\"app\",\"operator\":\"Like\"}]}: invalid label selector",
    ];
    testing::assert_errors(&found.1, &expected, selector);
}

#[test]
fn numbers_are_not_negative_and_the_deadline_is_after_min_ready() {
    check("replicas: -1", &["spec.replicas: Invalid value: -1: must be greater than or equal to 0"]);
    check(
        "minReadySeconds: -1",
        &["spec.minReadySeconds: Invalid value: -1: must be greater than or equal to 0"],
    );
    check(
        "revisionHistoryLimit: -1",
        &["spec.revisionHistoryLimit: Invalid value: -1: must be greater than or equal to 0"],
    );
    check(
        "{minReadySeconds: 10, progressDeadlineSeconds: 10}"
            .trim_matches(['{', '}'])
            .replace(", ", "\n  ")
            .as_str(),
        &["spec.progressDeadlineSeconds: Invalid value: 10: must be greater than minReadySeconds"],
    );
}

#[test]
fn a_rolling_update_can_move() {
    for (rolling, expected) in [
        ("{maxSurge: 1, maxUnavailable: 0}", &[][..]),
        (
            "{maxSurge: 0, maxUnavailable: 0}",
            &[
                "spec.strategy.rollingUpdate.maxUnavailable: Invalid value: 0: may not be 0 when `maxSurge` is 0",
            ],
        ),
        (
            "{maxSurge: 0%, maxUnavailable: 0%}",
            &[
                "spec.strategy.rollingUpdate.maxUnavailable: Invalid value: \"0%\": may not be 0 when `maxSurge` is 0",
            ],
        ),
        (
            "{maxUnavailable: 101%}",
            &[
                "spec.strategy.rollingUpdate.maxUnavailable: Invalid value: \"101%\": must not be greater than 100%",
            ],
        ),
        (
            "{maxSurge: -1}",
            &["spec.strategy.rollingUpdate.maxSurge: Invalid value: -1: must be greater than or equal to 0"],
        ),
        (
            "{maxSurge: some}",
            &["spec.strategy.rollingUpdate.maxSurge: Invalid value: \"some\": a valid percent string must…"],
        ),
    ] {
        check(&format!("strategy: {{rollingUpdate: {rolling}}}"), expected);
    }
    check(
        "strategy: {type: Recreate, rollingUpdate: {maxSurge: 1}}",
        &["spec.strategy.rollingUpdate: Forbidden: may not be specified when strategy `type` is 'Recreate'"],
    );
    check(
        "strategy: {type: Blue}",
        &[
            "spec.strategy: Unsupported value: {\"RollingUpdate\":null,\"Type\":\"Blue\"}: supported values: \"Recreate\", \"RollingUpdate\"",
        ],
    );
}

#[test]
fn pods_of_a_workload_live_forever() {
    testing::check(
        &Deployments,
        &deployment("", ", restartPolicy: Never"),
        &["spec.template.spec.restartPolicy: Unsupported value: \"Never\": supported values: \"Always\""],
    );
    testing::check(
        &Deployments,
        &deployment("", ", activeDeadlineSeconds: 5"),
        &[
            "spec.template.spec.activeDeadlineSeconds: Forbidden: activeDeadlineSeconds in ReplicaSet is not Supported",
        ],
    );
}

#[test]
fn template_errors_carry_the_templates_path() {
    testing::check(
        &Deployments,
        &deployment("", ", volumes: [{name: v, secret: {}}], ephemeralContainers: [{name: e, image: i}]"),
        &[
            "spec.template.spec.volumes[0].secret.secretName: Required value",
            "spec.template.spec.ephemeralContainers: Forbidden: ephemeral containers not allowed in pod template",
        ],
    );
}

#[test]
fn the_selector_is_for_life() {
    let new = deployment("", "").replace("app: x", "app: y");
    testing::check_update(
        &Deployments,
        &deployment("", ""),
        &new,
        &["spec.selector: Invalid value: {\"matchLabels\":{\"app\":\"y\"}}: field is immutable"],
    );
    testing::check_update(&Deployments, &deployment("", ""), &deployment("  replicas: 5", ""), &[]);
}

#[test]
fn a_status_counts_consistently() {
    let (old, _) = testing::create(&Deployments, &deployment("", ""));
    let mut new = old.clone();
    new.status =
        Some(serde_yaml::from_str("{replicas: 1, readyReplicas: 2, updatedReplicas: -1}").expect("a status"));
    let (_, errors) = testing::update_status(&Deployments, &old, new);
    testing::assert_errors(
        &errors,
        &[
            "status.updatedReplicas: Invalid value: -1: must be greater than or equal to 0",
            "status.readyReplicas: Invalid value: 2: cannot be greater than status.replicas",
        ],
        "status",
    );
}

#[test]
fn tables_show_progress() {
    let yaml = deployment("  replicas: 3", "")
        + "\nstatus: {readyReplicas: 2, updatedReplicas: 1, availableReplicas: 2}";
    let mut object = testing::decode::<Deployments>(&yaml);
    object.metadata.creation_timestamp = None;
    let row = Deployments.row(&object, testing::now());
    assert_eq!(
        row,
        [
            json!("d"),
            json!("2/3"),
            json!(1),
            json!(2),
            json!("<unknown>"),
            json!("a"),
            json!("i:1"),
            json!("app=x")
        ]
    );
    assert_eq!(row.len(), Deployments.columns().len());
    let scale = Deployments.scale(&object).expect("deployments scale");
    assert_eq!((scale.spec_replicas, scale.selector.as_str()), (3, "app=x"));
}
