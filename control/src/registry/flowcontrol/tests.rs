use serde_json::json;

use super::{flow_schema::FlowSchemas, flow_schemas, priority_level::PriorityLevels, priority_levels};
use crate::registry::{
    Kind,
    testing::{at, cells, check, create, now},
};

fn named(name: &str, spec: &str) -> String {
    format!("{{metadata: {{name: {name}}}, spec: {{{spec}}}}}")
}

fn yaml<T: serde::Serialize>(object: &T) -> String {
    serde_yaml::to_string(object).expect("objects serialize")
}

#[test]
fn what_every_cluster_has_is_complete_and_valid() {
    for level in priority_levels() {
        let (object, errors) = create(&PriorityLevels, &yaml(&level));
        assert_eq!(errors, [] as [&str; 0], "{:?}", level.metadata.name);
        assert_eq!(object.spec, level.spec, "nothing is left to default");
    }
    let levels: Vec<_> = priority_levels().map(|level| level.metadata.name).collect();
    for schema in flow_schemas() {
        let (object, errors) = create(&FlowSchemas, &yaml(&schema));
        assert_eq!(errors, [] as [&str; 0], "{:?}", schema.metadata.name);
        assert_eq!(object.spec, schema.spec, "nothing is left to default");
        let level = schema.spec.priority_level_configuration.name;
        assert!(levels.contains(&Some(level)), "{:?} leads to a level", schema.metadata.name);
    }
}

#[test]
fn mandatory_objects_stay_as_they_are() {
    let reject = "limited: {limitResponse: {type: Reject}}";
    check(
        &PriorityLevels,
        &named("catch-all", &format!("type: Limited, {reject}")),
        &["spec: Invalid value: {…"],
    );
    check(&PriorityLevels, &named("exempt", "type: Exempt, exempt: {lendablePercent: 50}"), &[]);
    let (_, errors) = create(
        &FlowSchemas,
        &named("catch-all", "priorityLevelConfiguration: {name: exempt}, matchingPrecedence: 10000"),
    );
    assert!(errors[0].ends_with("spec of 'catch-all' must equal the fixed value"), "{errors:?}");
}

#[test]
fn levels_are_exempt_or_limited() {
    let queue = |queuing: &str| {
        named("l", &format!("type: Limited, limited: {{limitResponse: {{type: Queue, queuing: {queuing}}}}}"))
    };
    let (level, errors) = create(&PriorityLevels, &queue("{}"));
    assert_eq!(errors, [] as [&str; 0]);
    assert_eq!(
        at(&level, "/spec/limited"),
        json!({
            "nominalConcurrencyShares": 30, "lendablePercent": 0,
            "limitResponse": {"type": "Queue", "queuing": {"queues": 64, "handSize": 8, "queueLengthLimit": 50}},
        })
    );
    assert_eq!(at(&level, "/status"), json!({}));
    for (yaml, expected) in [
        (
            named("l", "type: Exempt"),
            &["spec.type: Invalid value: \"Exempt\": type must be 'Exempt' if and only if name is 'exempt'"]
                [..],
        ),
        (
            named("l", "type: Limited"),
            &["spec.limited: Required value: must not be empty when type is Limited"],
        ),
        (
            named("l", "type: Free"),
            &["spec.type: Unsupported value: \"Free\": supported values: \"Exempt\", \"Limited\""],
        ),
        (
            queue("{queues: 4, handSize: 5, queueLengthLimit: -1}"),
            &[
                "spec.limited.limitResponse.queuing.queueLengthLimit: Invalid value: -1: must be positive",
                "spec.limited.limitResponse.queuing.handSize: Invalid value: 5: should not be greater than queues (4)",
            ],
        ),
        (
            queue("{queues: 1024, handSize: 7}"),
            &[
                "spec.limited.limitResponse.queuing.handSize: Invalid value: 7: required entropy bits of deckSize 1024 and handSize 7 should not be greater than 60",
            ],
        ),
        (
            named(
                "l",
                "type: Limited, limited: {lendablePercent: 101, nominalConcurrencyShares: -1, limitResponse: {type: Reject, queuing: {}}}",
            ),
            &[
                "spec.limited.nominalConcurrencyShares: Invalid value: -1: must be a non-negative integer",
                "spec.limited.lendablePercent: Invalid value: 101: must be between 0 and 100, inclusive",
                "spec.limited.limitResponse.queuing: Forbidden: must be nil if limited.limitResponse.type is not Limited",
            ],
        ),
    ] {
        check(&PriorityLevels, &yaml, expected);
    }
    let row = PriorityLevels.row(&level, now());
    assert_eq!(row[1..6], [json!("Limited"), json!(30), json!(64), json!(8), json!(50)]);
}

#[test]
fn schemas_say_who_may_ask_for_what() {
    let schema =
        |rule: &str| named("s", &format!("priorityLevelConfiguration: {{name: l}}, rules: [{rule}]"));
    let resources = "resourceRules: [{verbs: ['*'], apiGroups: [''], resources: [pods], namespaces: [n]}]";
    let of_user = "subjects: [{kind: User, user: {name: u}}]";
    let (object, errors) = create(&FlowSchemas, &schema(&format!("{{{of_user}, {resources}}}")));
    assert_eq!(errors, [] as [&str; 0]);
    assert_eq!(at(&object, "/spec/matchingPrecedence"), 1000);
    for (yaml, expected) in [
        (
            schema("{subjects: []}"),
            &[
                "spec.rules[0].subjects: Required value: subjects must contain at least one value",
                "spec.rules[0]: Required value: at least one of resourceRules and nonResourceRules has to be non-empty",
            ][..],
        ),
        (
            schema(&format!(
                "{{subjects: [{{kind: Group, user: {{name: u}}}}, {{kind: Robot}}], {resources}}}"
            )),
            &[
                "spec.rules[0].subjects[0].group: Required value: group is required when subject kind is 'Group'",
                "spec.rules[0].subjects[0].user: Forbidden: user is forbidden when subject kind is not 'User'",
                "spec.rules[0].subjects[1].kind: Unsupported value: \"Robot\": supported values: \"Group\", \"ServiceAccount\", \"User\"",
            ],
        ),
        (
            schema(&format!(
                "{{{of_user}, resourceRules: [{{verbs: [eat], apiGroups: ['*', a], resources: [], namespaces: []}}]}}"
            )),
            &[
                "spec.rules[0].resourceRules[0].verbs: Unsupported value: [\"eat\"]: supported values: \"create\", \"delete\", \"deletecollection\", \"get\", \"list\", \"patch\", \"proxy\", \"update\", \"watch\"",
                "spec.rules[0].resourceRules[0].apiGroups: Invalid value: [\"*\",\"a\"]: if '*' is present, must not specify other api groups",
                "spec.rules[0].resourceRules[0].resources: Required value: resource rules must supply at least one resource",
                "spec.rules[0].resourceRules[0].namespaces: Required value: resource rules that are not cluster scoped must supply at least one namespace",
            ],
        ),
        (
            schema(&format!(
                "{{{of_user}, nonResourceRules: [{{verbs: [get], nonResourceURLs: [x, '/a*', '/b/*']}}]}}"
            )),
            &[
                "spec.rules[0].nonResourceRules[0].nonResourceURLs[0]: Invalid value: \"x\": must start with slash",
                "spec.rules[0].nonResourceRules[0].nonResourceURLs[1]: Invalid value: \"/a*\": wildcard can only do suffix matching",
            ],
        ),
        (
            named("s", "matchingPrecedence: 1, distinguisherMethod: {type: ByMood}"),
            &[
                "spec.matchingPrecedence: Invalid value: 1: only the schema named 'exempt' may have matchingPrecedence 1",
                "spec.distinguisherMethod.type: Unsupported value: \"ByMood\": supported values: \"ByNamespace\", \"ByUser\"",
                "spec.priorityLevelConfiguration.name: Required value: must reference a priority level",
            ],
        ),
    ] {
        check(&FlowSchemas, &yaml, expected);
    }
    assert_eq!(
        cells(&FlowSchemas, &schema("{}")),
        [json!("l"), json!(0), json!("<none>"), json!("<unknown>"), json!("?")]
    );
}
