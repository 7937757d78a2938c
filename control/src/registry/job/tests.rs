//! Jobs by tables: what is filled in, what is refused, what may change.

use super::*;
use crate::registry::testing::{assert_errors, at, check, check_update, create, now, update, update_status};

/// A job with more fields of its spec, indented by two.
fn job(fields: &str) -> String {
    format!(
        "metadata: {{name: count, namespace: shop, uid: u-1}}\nspec:\n  {fields}\n  template:\n    spec:\n      \
         restartPolicy: Never\n      containers: [{{name: c, image: i}}]\n"
    )
}

#[test]
fn defaults_and_the_selector_are_filled_in() {
    let (object, errors) = create(&Jobs, &job("ttlSecondsAfterFinished: 5"));
    assert_eq!(errors, [] as [&str; 0]);
    for (field, expected) in [
        ("completions", json!(1)),
        ("parallelism", json!(1)),
        ("backoffLimit", json!(6)),
        ("completionMode", json!("NonIndexed")),
        ("suspend", json!(false)),
        ("manualSelector", json!(false)),
        ("podReplacementPolicy", json!("TerminatingOrFailed")),
        ("selector", json!({ "matchLabels": { "batch.kubernetes.io/controller-uid": "u-1" } })),
    ] {
        assert_eq!(at(&object, &format!("/spec/{field}")), expected, "{field}");
    }
    let labels = json!({
        "batch.kubernetes.io/controller-uid": "u-1", "batch.kubernetes.io/job-name": "count",
        "controller-uid": "u-1", "job-name": "count",
    });
    assert_eq!(at(&object, "/spec/template/metadata/labels"), labels);
    let row = Jobs.row(&object, now());
    assert_eq!(json!(row[1..4]), json!(["Running", "0/1", ""]));
}

#[test]
fn wrong_specs_are_refused() {
    for (fields, expected) in [
        ("parallelism: -1", &["spec.parallelism: Invalid value: -1: must be greater than or equal to 0"][..]),
        (
            "completionMode: Indexed\n  parallelism: 2",
            &["spec.completions: Required value: when completion mode is Indexed"],
        ),
        (
            "backoffLimitPerIndex: 1",
            &["spec.backoffLimitPerIndex: Invalid value: 1: requires indexed completion mode"],
        ),
        (
            "successPolicy: {rules: []}",
            &["spec.successPolicy: Invalid value: {\"rules\":[]}: requires indexed completion mode"],
        ),
        (
            "managedBy: me",
            &[
                "spec.managedBy: Invalid value: \"me\": must be a domain-prefixed path (such as \"acme.io/foo\")",
            ],
        ),
        (
            "selector: {matchLabels: {a: b}}",
            &[
                "spec.selector: Invalid value: {\"matchLabels\":{\"a\":\"b\",\"batch.kubernetes.io/controller-uid\":\"u-1\"}}: `selector` not auto-generated",
                "spec.template.metadata.labels: Invalid value: …",
            ],
        ),
        ("manualSelector: true", &["spec.selector: Required value", "spec.template.metadata.labels: …"]),
    ] {
        check(&Jobs, &job(fields), expected);
    }
    check(
        &Jobs,
        &job("suspend: true").replace("Never", "Always"),
        &["spec.template.spec.restartPolicy: Required value: valid values: \"OnFailure\", \"Never\""],
    );
}

#[test]
fn policies_are_checked() {
    let policy = |rule: &str| job(&format!("podFailurePolicy: {{rules: [{rule}]}}"));
    check(&Jobs, &policy("{action: Ignore, onPodConditions: [{type: DisruptionTarget}]}"), &[]);
    check(
        &Jobs,
        &policy("{action: FailIndex, onExitCodes: {operator: In, containerName: x, values: [3, 0, 3]}}"),
        &[
            "spec.podFailurePolicy.rules[0].action: Invalid value: \"FailIndex\": requires the backoffLimitPerIndex to be set",
            "spec.podFailurePolicy.rules[0].onExitCodes.containerName: Invalid value: \"x\": must be one of the container or initContainer names in the pod template",
            "spec.podFailurePolicy.rules[0].onExitCodes.values[1]: Invalid value: 0: must not be 0 for the In operator",
            "spec.podFailurePolicy.rules[0].onExitCodes.values[2]: Duplicate value: 3",
            "spec.podFailurePolicy.rules[0].onExitCodes.values: Invalid value: [3,0,3]: must be ordered",
        ],
    );
    check(
        &Jobs,
        &policy("{}"),
        &[
            "spec.podFailurePolicy.rules[0].action: Required value: valid values: [\"Count\" \"FailIndex\" \"FailJob\" \"Ignore\"]",
            "spec.podFailurePolicy.rules[0]: Invalid value: specifying one of OnExitCodes and OnPodConditions is required",
        ],
    );
    check(
        &Jobs,
        &job(
            "completions: 5\n  completionMode: Indexed\n  successPolicy: {rules: [{}, {succeededIndexes: 1-7}, {succeededIndexes: '0,2-3', succeededCount: 4}]}",
        ),
        &[
            "spec.successPolicy.rules[0]: Required value: at least one of succeededCount or succeededIndexes must be specified",
            "spec.successPolicy.rules[1].succeededIndexes: Invalid value: \"1-7\": error parsing succeededIndexes: too large index: \"7\"",
            "spec.successPolicy.rules[2].succeededCount: Invalid value: 4: must be less than or equal to 3 (the number of indexes in the specified succeededIndexes field)",
        ],
    );
}

#[test]
fn most_of_a_job_stays() {
    let stored = |fields: &str| {
        let (object, errors) = create(&Jobs, &job(fields));
        assert_eq!(errors, [] as [&str; 0]);
        serde_yaml::to_string(&object).expect("YAML")
    };
    let old = stored("suspend: false");
    check_update(&Jobs, &old, &old.replace("parallelism: 1", "parallelism: 3"), &[]);
    check_update(
        &Jobs,
        &old,
        &old.replace("completions: 1", "completions: 2"),
        &["spec.completions: Invalid value: 2: field is immutable"],
    );
    check_update(&Jobs, &old, &old.replace("image: i", "image: j"), &["spec.template: Invalid value: …"]);
    let resting = stored("suspend: true");
    let placed =
        resting.replace("restartPolicy: Never", "restartPolicy: Never\n      nodeSelector: {disk: fast}");
    check_update(&Jobs, &resting, &placed, &[]);
    let placed =
        old.replace("restartPolicy: Never", "restartPolicy: Never\n      nodeSelector: {disk: fast}");
    check_update(&Jobs, &old, &placed, &["spec.template: Invalid value: …"]);
    let indexed = stored("completions: 2\n  parallelism: 2\n  completionMode: Indexed");
    let grown = indexed.replace("completions: 2", "completions: 3");
    check_update(
        &Jobs,
        &indexed,
        &grown,
        &["spec.completions: Invalid value: 3: can only be modified in tandem with spec.parallelism"],
    );
    assert_eq!(
        update(&Jobs, &indexed, &grown.replace("parallelism: 2", "parallelism: 3")).1,
        [] as [&str; 0]
    );
}

#[test]
fn a_status_is_consistent_and_only_goes_on() {
    let (mut old, _) = create(&Jobs, &job("suspend: false"));
    let report = |old: &Job, status: Value, expected: &[&str]| {
        let mut new = old.clone();
        new.status = serde_json::from_value(status.clone()).expect("a status");
        let (new, errors) = update_status(&Jobs, old, new);
        assert_errors(&errors, expected, &status.to_string());
        new
    };
    let (early, late) = ("2026-01-01T00:00:00Z", "2026-01-01T00:01:05Z");
    let condition = |kind: &str| json!({ "type": kind, "status": "True" });
    report(
        &old,
        json!({ "active": -1, "ready": 1 }),
        &[
            "status.active: Invalid value: -1: must be greater than or equal to 0",
            "status.ready: Invalid value: 1: cannot set more ready pods than active",
        ],
    );
    report(
        &old,
        json!({ "conditions": [condition("Complete")], "active": 1 }),
        &[
            "status.conditions: Invalid value: cannot set Complete=True condition without the SuccessCriteriaMet=true condition",
            "status.completionTime: Required value: completionTime is required for Complete jobs",
            "status.active: Invalid value: 1: active>0 is invalid for finished job",
            "status.startTime: Required value: startTime is required for finished job",
        ],
    );
    let done = json!({
        "conditions": [condition("SuccessCriteriaMet"), condition("Complete")],
        "startTime": early, "completionTime": late, "succeeded": 1,
    });
    old = report(&old, done, &[]);
    assert_eq!(json!(Jobs.row(&old, now())[1..4]), json!(["Complete", "1/1", "65s"]));
    assert_eq!(Jobs.field(&old, "status.successful"), "1");
    report(
        &old,
        json!({ "startTime": early }),
        &[
            "status.conditions: Invalid value: cannot disable the terminal Complete=True condition",
            "status.succeeded: Invalid value: 0: cannot decrease the succeeded counter",
            "status.conditions: Invalid value: cannot disable the SuccessCriteriaMet=True condition",
        ],
    );
}
