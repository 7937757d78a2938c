use serde_json::json;

use super::{
    bindings::{MutatingBindings, ValidatingBindings},
    mutating_policy::MutatingPolicies,
    validating_policy::ValidatingPolicies,
    webhooks::{MutatingWebhooks, ValidatingWebhooks},
};
use crate::registry::{
    Kind,
    testing::{self, at, cells, check, create},
};

const RULE: &str = "{operations: [CREATE], apiGroups: [''], apiVersions: [v1], resources: [pods]}";

fn hook(fields: &str) -> String {
    format!(
        "{{metadata: {{name: x}}, webhooks: [{{name: a.b.example, sideEffects: None, admissionReviewVersions: [v1], {fields}}}]}}"
    )
}

fn hook_with_rule(rule: &str) -> String {
    hook(&format!("clientConfig: {{url: 'https://a.example'}}, rules: [{rule}]"))
}

fn spec(spec: &str) -> String {
    format!("{{metadata: {{name: x}}, spec: {{{spec}}}}}")
}

fn policy(fields: &str) -> String {
    spec(&format!("matchConstraints: {{resourceRules: [{RULE}]}}, {fields}"))
}

#[test]
fn webhooks_are_completed() {
    let yaml = hook(&format!("clientConfig: {{service: {{name: s, namespace: n}}}}, rules: [{RULE}]"));
    let (object, errors) = create(&MutatingWebhooks, &yaml);
    assert_eq!(errors, [] as [&str; 0]);
    assert_eq!(
        at(&object, "/webhooks/0"),
        json!({
            "name": "a.b.example", "sideEffects": "None", "admissionReviewVersions": ["v1"],
            "failurePolicy": "Fail", "matchPolicy": "Equivalent", "reinvocationPolicy": "Never",
            "namespaceSelector": {}, "objectSelector": {}, "timeoutSeconds": 10,
            "clientConfig": {"service": {"name": "s", "namespace": "n", "port": 443}},
            "rules": [{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"], "scope": "*"}],
        })
    );
    let (object, errors) = create(&ValidatingWebhooks, &yaml);
    assert_eq!(errors, [] as [&str; 0]);
    assert_eq!(at(&object, "/webhooks/0/timeoutSeconds"), 10);
    assert_eq!(cells(&ValidatingWebhooks, &yaml), [json!(1), json!("<unknown>")]);
    let mut changed = object.clone();
    changed.metadata.labels = Some([("a".to_owned(), "b".to_owned())].into());
    assert!(!ValidatingWebhooks.is_spec_changed(&changed, &object));
    changed.webhooks = None;
    assert!(ValidatingWebhooks.is_spec_changed(&changed, &object));
}

#[test]
fn webhooks_say_how_they_are_called() {
    for (yaml, expected) in [
        (
            hook("clientConfig: {}"),
            &["webhooks[0].clientConfig: Required value: exactly one of url or service is required"][..],
        ),
        (
            "{metadata: {name: x}, webhooks: [{name: a.b, clientConfig: {url: 'https://a'}, timeoutSeconds: 31, failurePolicy: Warn}]}".into(),
            &[
                "webhooks[0].name: Invalid value: \"a.b\": should be a domain with at least three segments separated by dots",
                "webhooks[0].failurePolicy: Unsupported value: \"Warn\": supported values: \"Fail\", \"Ignore\"",
                "webhooks[0].sideEffects: Required value: must specify one of None, NoneOnDryRun",
                "webhooks[0].timeoutSeconds: Invalid value: 31: the timeout value must be between 1 and 30 seconds",
                "webhooks[0].admissionReviewVersions: Required value: must specify one of v1, v1beta1",
            ],
        ),
        (
            hook("clientConfig: {url: 'https://a'}, matchConditions: [{name: a, expression: ' '}, {name: a, expression: 'true'}]"),
            &[
                "webhooks[0].matchConditions[0].expression: Required value",
                "webhooks[0].matchConditions[1].name: Duplicate value: \"a\"",
            ],
        ),
    ] {
        check(&ValidatingWebhooks, &yaml, expected);
    }
    check(
        &MutatingWebhooks,
        &hook("clientConfig: {url: 'https://a'}, reinvocationPolicy: Often"),
        &[
            "webhooks[0].reinvocationPolicy: Unsupported value: \"Often\": supported values: \"IfNeeded\", \"Never\"",
        ],
    );
}

#[test]
fn rules_name_what_they_apply_to_once() {
    let resources = |resources: &str| {
        hook_with_rule(&format!(
            "{{operations: ['*'], apiGroups: ['*'], apiVersions: ['*'], resources: {resources}}}"
        ))
    };
    for (yaml, expected) in [
        (resources("[pods, pods/log, '*/scale']"), &[][..]),
        (resources("[]"), &["webhooks[0].rules[0].resources: Required value"]),
        (
            resources("['pods/*', pods/log]"),
            &[
                "webhooks[0].rules[0].resources[1]: Invalid value: \"pods/log\": if 'pods/*' is present, must not specify pods/log",
            ],
        ),
        (
            resources("['*', pods]"),
            &[
                "webhooks[0].rules[0].resources: Invalid value: [\"*\",\"pods\"]: if '*' is present, must not specify other resources without subresources",
            ],
        ),
        (
            resources("['*/*', a/b]"),
            &[
                "webhooks[0].rules[0].resources: Invalid value: [\"*/*\",\"a/b\"]: if '*/*' is present, must not specify other resources",
            ],
        ),
        (
            hook_with_rule(
                "{operations: [READ], apiGroups: ['*', a], apiVersions: [], resources: [a], scope: Some}",
            ),
            &[
                "webhooks[0].rules[0].apiGroups: Invalid value: [\"*\",\"a\"]: if '*' is present, must not specify other API groups",
                "webhooks[0].rules[0].apiVersions: Required value",
                "webhooks[0].rules[0].operations[0]: Unsupported value: \"READ\": supported values: \"*\", \"CONNECT\", \"CREATE\", \"DELETE\", \"UPDATE\"",
                "webhooks[0].rules[0].scope: Unsupported value: \"Some\": supported values: \"*\", \"Cluster\", \"Namespaced\"",
            ],
        ),
    ] {
        check(&ValidatingWebhooks, &yaml, expected);
    }
    let (object, _) = create(
        &ValidatingWebhooks,
        &hook_with_rule(
            "{operations: ['*'], apiGroups: [authentication.k8s.io], apiVersions: [v1], resources: [tokenreviews]}",
        ),
    );
    assert_eq!(
        ValidatingWebhooks.warnings(&object),
        [
            "webhooks[0].rules[0]: tokenreviews.authentication.k8s.io is excluded from admission webhooks; this rule will have no effect"
        ]
    );
}

#[test]
fn validating_policies_have_something_to_say() {
    let (object, errors) = create(
        &ValidatingPolicies,
        &policy("validations: [{expression: 'true'}], variables: [{name: a, expression: '1'}]"),
    );
    assert_eq!(errors, [] as [&str; 0]);
    assert_eq!(at(&object, "/spec/failurePolicy"), "Fail");
    assert_eq!(at(&object, "/spec/matchConstraints/matchPolicy"), "Equivalent");
    assert_eq!(at(&object, "/spec/matchConstraints/resourceRules/0/scope"), "*");
    assert_eq!(at(&object, "/status"), json!({}));
    for (yaml, expected) in [
        (spec("validations: [{expression: 'true'}]"), &["spec.matchConstraints: Required value"][..]),
        (
            policy(""),
            &[
                "spec.validations: Required value: validations or auditAnnotations must contain at least one item",
                "spec.auditAnnotations: Required value: validations or auditAnnotations must contain at least one item",
            ],
        ),
        (
            policy(
                "validations: [{expression: '', message: \"a\\nb\", messageExpression: ' ', reason: NotFound}]",
            ),
            &[
                "spec.validations[0].expression: Required value: expression is not specified",
                "spec.validations[0].messageExpression: Invalid value: \" \": must be non-empty if specified",
                "spec.validations[0].message: Invalid value: \"a\\nb\": message must not contain line breaks",
                "spec.validations[0].reason: Unsupported value: \"NotFound\": supported values: \"Forbidden\", \"Invalid\", \"RequestEntityTooLarge\"",
            ],
        ),
        (
            policy(
                "auditAnnotations: [{key: a b, valueExpression: '\"x\"'}, {key: c, valueExpression: ''}, {key: c, valueExpression: 'null'}]",
            ),
            &[
                "spec.auditAnnotations[0].key: Invalid value: \"x/a b\": name part must consist of…",
                "spec.auditAnnotations[1].valueExpression: Required value: valueExpression is not specified",
                "spec.auditAnnotations[2].key: Duplicate value: \"c\"",
            ],
        ),
        (
            policy(
                "paramKind: {apiVersion: a/b/c}, variables: [{name: if, expression: '1'}], validations: [{expression: 'true'}]",
            ),
            &[
                "spec.paramKind.apiVersion: Invalid value: \"a/b/c\": unexpected GroupVersion string: a/b/c",
                "spec.paramKind.kind: Required value",
                "spec.variables[0].name: Invalid value: \"if\": name is not a valid CEL identifier",
            ],
        ),
    ] {
        check(&ValidatingPolicies, &yaml, expected);
    }
    assert_eq!(
        cells(
            &ValidatingPolicies,
            &policy("paramKind: {apiVersion: a/v1, kind: K}, validations: [{expression: 'true'}]")
        ),
        [json!(1), json!("a/v1/K"), json!("<unknown>")]
    );

    let mut new = object.clone();
    new.status = serde_json::from_value(json!({
        "typeChecking": {"expressionWarnings": [{"fieldRef": "", "warning": "w"}]},
        "conditions": [{"type": "a b", "status": "Maybe", "reason": "", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}],
    }))
    .expect("a status");
    let (_, errors) = testing::update_status(&ValidatingPolicies, &object, new);
    testing::assert_errors(
        &errors,
        &[
            "status.typeChecking.expressionWarnings[0].fieldRef: Required value",
            "status.conditions[0].type: Invalid value: \"a b\": name part must consist of…",
            "status.conditions[0].status: Unsupported value: \"Maybe\": supported values: \"False\", \"True\", \"Unknown\"",
            "status.conditions[0].reason: Required value: must be set",
        ],
        "a status",
    );
}

#[test]
fn mutating_policies_have_one_expression_a_mutation() {
    let mutation = |of: &str| policy(&format!("reinvocationPolicy: Never, mutations: [{of}]"));
    for (yaml, expected) in [
        (
            mutation(
                "{patchType: JSONPatch, jsonPatch: {expression: '[JSONPatch{op: \"remove\", path: \"/spec\"}]'}}",
            ),
            &[][..],
        ),
        (mutation("{patchType: ApplyConfiguration, applyConfiguration: {expression: 'Object{}'}}"), &[]),
        (
            mutation("{patchType: JSONPatch, jsonPatch: {expression: '[]'}}"),
            &[
                "spec.mutations[0].jsonPatch.expression: Invalid value: \"[]\": must evaluate to list(JSONPatch) but got list(dyn)",
            ],
        ),
        (mutation("{}"), &["spec.mutations[0].patchType: Required value"]),
        (
            mutation("{patchType: JSONPatch, applyConfiguration: {expression: a}}"),
            &[
                "spec.mutations[0].applyConfiguration: Invalid value: \"{applyConfiguration}\": must not be specified when patchType is JSONPatch",
                "spec.mutations[0].jsonPatch: Required value: must be specified when patchType is JSONPatch",
            ],
        ),
        (
            spec(
                "matchConstraints: {resourceRules: [{operations: [DELETE], apiGroups: [''], apiVersions: [v1], resources: [pods]}]}",
            ),
            &[
                "spec.matchConstraints.resourceRules.operations: Unsupported value: \"DELETE\": supported values: \"*\", \"CONNECT\", \"CREATE\", \"UPDATE\"",
                "spec.mutations: Required value: mutations must contain at least one item",
                "spec.reinvocationPolicy: Required value",
            ],
        ),
    ] {
        check(&MutatingPolicies, &yaml, expected);
    }
    assert_eq!(cells(&MutatingPolicies, &mutation("{}")), [json!(1), json!("<unset>"), json!("<unknown>")]);
}

#[test]
fn expressions_that_do_not_compile_are_refused() {
    let condition = |expression: &str| format!("matchConditions: [{{name: a, expression: {expression}}}]");
    for (yaml, expected) in [
        (
            policy("validations: [{expression: 'object.spec.replicas'}]"),
            &[
                "spec.validations[0].expression: Invalid value: \"object.spec.replicas\": must evaluate to bool but got dyn",
            ][..],
        ),
        (
            policy("validations: [{expression: 'params.max > 1', messageExpression: '1'}]"),
            &[
                "spec.validations[0].expression: Invalid value: \"params.max > 1\": compilation failed: ERROR: <input>:1:1: undeclared reference to 'params'…",
                "spec.validations[0].messageExpression: Invalid value: \"1\": must evaluate to string but got int",
            ],
        ),
        (
            policy(
                "paramKind: {apiVersion: v1, kind: ConfigMap}, validations: [{expression: 'params.max > 1'}]",
            ),
            &[],
        ),
        (
            policy(
                "variables: [{name: a, expression: 'variables.b'}, {name: b, expression: 'object.x'}], validations: [{expression: 'variables.b == 1'}]",
            ),
            &[
                "spec.variables[0].expression: Invalid value: \"variables.b\": compilation failed: ERROR: <input>:1:10: undefined field 'b'…",
            ],
        ),
        (
            policy(&format!("{}, validations: [{{expression: 'true'}}]", condition("'variables.b == 1'"))),
            &[
                "spec.matchConditions[0].expression: Invalid value: \"variables.b == 1\": compilation failed: ERROR: <input>:1:1: undeclared reference to 'variables'…",
            ],
        ),
        (
            policy("auditAnnotations: [{key: a, valueExpression: '1'}]"),
            &[
                "spec.auditAnnotations[0].valueExpression: Invalid value: \"1\": must evaluate to one of [string null_type] but got int",
            ],
        ),
    ] {
        check(&ValidatingPolicies, &yaml, expected);
    }
    check(
        &ValidatingWebhooks,
        &hook(&format!("clientConfig: {{url: 'https://a'}}, {}", condition("'params.x == 1'"))),
        &[
            "webhooks[0].matchConditions[0].expression: Invalid value: \"params.x == 1\": compilation failed: ERROR: <input>:1:1: undeclared reference to 'params'…",
        ],
    );
}

#[test]
fn bindings_name_a_policy_and_its_parameters() {
    let binding = |fields: &str| spec(&format!("policyName: p, validationActions: [Deny], {fields}"));
    for (yaml, expected) in [
        (binding("paramRef: {name: a, parameterNotFoundAction: Deny}"), &[][..]),
        (
            binding("paramRef: {name: a, selector: {}, parameterNotFoundAction: Ask}"),
            &[
                "spec.paramRef.name: Forbidden: name and selector are mutually exclusive",
                "spec.paramRef.selector: Forbidden: name and selector are mutually exclusive",
                "spec.paramRef.parameterNotFoundAction: Unsupported value: \"Ask\": supported values: \"Deny\", \"Allow\"",
            ],
        ),
        (
            spec("validationActions: [Deny, Warn, Deny], paramRef: {}"),
            &[
                "spec.policyName: Required value",
                "spec.paramRef: Required value: one of name or selector must be specified",
                "spec.paramRef.parameterNotFoundAction: Required value",
                "spec.validationActions[2]: Duplicate value: \"Deny\"",
                "spec.validationActions: Invalid value: [\"Deny\",\"Warn\",\"Deny\"]: must not contain both Deny and Warn…",
            ],
        ),
        (
            spec("policyName: p"),
            &["spec.validationActions: Required value: at least one validation action is required"],
        ),
    ] {
        check(&ValidatingBindings, &yaml, expected);
    }
    check(&MutatingBindings, &spec("policyName: p, matchResources: {}"), &[]);
    for (param, shown) in [
        ("{namespace: n, name: a}", "n/a"),
        ("{name: a}", "*/a"),
        ("{selector: {matchLabels: {a: b}}}", "a=b"),
    ] {
        let row = cells(&MutatingBindings, &spec(&format!("policyName: p, paramRef: {param}")));
        assert_eq!(row, ["p", shown, "<unknown>"]);
    }
}
