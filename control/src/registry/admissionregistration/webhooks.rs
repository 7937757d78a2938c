//! Webhook configurations: servers outside that are asked to change or to refuse what is written.

use k8s_openapi::{
    api::admissionregistration::v1::{
        MatchCondition, MutatingWebhook, MutatingWebhookConfiguration, RuleWithOperations, ValidatingWebhook,
        ValidatingWebhookConfiguration, WebhookClientConfig,
    },
    apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta},
    jiff::Timestamp,
};
use naru_model::{
    ResourceInfo,
    validation::{FieldErrors, Path, names},
};
use serde_json::{Value, json};
use std::collections::BTreeSet;

use super::{FAILURE_POLICIES, REINVOCATION_POLICIES, matching, suffix_warning};
use crate::registry::{
    Column, Kind,
    kind::age,
    podspec::{OrEmpty, check},
    text, webhook_client,
};

pub struct ValidatingWebhooks;
pub struct MutatingWebhooks;

const DEFAULT_TIMEOUT_SECONDS: i32 = 10;
const REVIEW_VERSIONS: &[&str] = &["v1", "v1beta1"];
const SIDE_EFFECTS: &[&str] = &["None", "NoneOnDryRun"];

/// No webhook is asked about these: they are questions, not objects.
const EXCLUDED: &[(&str, &str)] = &[
    ("authentication.k8s.io", "selfsubjectreviews"),
    ("authentication.k8s.io", "tokenreviews"),
    ("authorization.k8s.io", "localsubjectaccessreviews"),
    ("authorization.k8s.io", "selfsubjectaccessreviews"),
    ("authorization.k8s.io", "selfsubjectrulesreviews"),
    ("authorization.k8s.io", "subjectaccessreviews"),
];

const COLUMNS: &[Column] = &[
    text::NAME,
    text::column(
        "Webhooks",
        "integer",
        0,
        "Webhooks indicates the number of webhooks registered in this configuration",
    ),
    text::AGE,
];

const fn resource(kind: &'static str, plural: &'static str, singular: &'static str) -> ResourceInfo {
    ResourceInfo {
        group: "admissionregistration.k8s.io",
        namespaced: false,
        categories: &["api-extensions"],
        ..text::core_resource(kind, plural, singular, &[])
    }
}

static VALIDATING: ResourceInfo = resource(
    "ValidatingWebhookConfiguration",
    "validatingwebhookconfigurations",
    "validatingwebhookconfiguration",
);
static MUTATING: ResourceInfo =
    resource("MutatingWebhookConfiguration", "mutatingwebhookconfigurations", "mutatingwebhookconfiguration");

/// A webhook of either kind.
struct Hook<'a> {
    name: &'a str,
    rules: &'a [RuleWithOperations],
    failure_policy: Option<&'a str>,
    match_policy: Option<&'a str>,
    side_effects: &'a str,
    timeout_seconds: Option<i32>,
    namespace_selector: Option<&'a LabelSelector>,
    object_selector: Option<&'a LabelSelector>,
    reinvocation_policy: Option<&'a str>,
    client: &'a WebhookClientConfig,
    conditions: &'a [MatchCondition],
    versions: &'a [String],
}

/// Both kinds of webhook have the same fields but one; their types have nothing in common.
macro_rules! view {
    ($hook:expr, $reinvocation_policy:expr) => {{
        let hook = $hook;
        Hook {
            name: &hook.name,
            rules: hook.rules.or_empty(),
            failure_policy: hook.failure_policy.as_deref(),
            match_policy: hook.match_policy.as_deref(),
            side_effects: &hook.side_effects,
            timeout_seconds: hook.timeout_seconds,
            namespace_selector: hook.namespace_selector.as_ref(),
            object_selector: hook.object_selector.as_ref(),
            reinvocation_policy: $reinvocation_policy,
            client: &hook.client_config,
            conditions: hook.match_conditions.or_empty(),
            versions: &hook.admission_review_versions,
        }
    }};
}

macro_rules! default_hook {
    ($hook:expr) => {{
        let hook = $hook;
        matching::default_policy(&mut hook.failure_policy, "Fail");
        matching::default_policy(&mut hook.match_policy, "Equivalent");
        hook.namespace_selector.get_or_insert_default();
        hook.object_selector.get_or_insert_default();
        hook.timeout_seconds.get_or_insert(DEFAULT_TIMEOUT_SECONDS);
        hook.rules.iter_mut().flatten().for_each(|rule| matching::default_scope(&mut rule.scope));
        if let Some(service) = &mut hook.client_config.service {
            service.port.get_or_insert(webhook_client::DEFAULT_PORT);
        }
    }};
}

fn validating(hooks: &[ValidatingWebhook]) -> Vec<Hook<'_>> {
    hooks.iter().map(|hook| view!(hook, None)).collect()
}

fn mutating(hooks: &[MutatingWebhook]) -> Vec<Hook<'_>> {
    hooks.iter().map(|hook| view!(hook, hook.reinvocation_policy.as_deref())).collect()
}

impl Kind for ValidatingWebhooks {
    type Object = ValidatingWebhookConfiguration;

    fn resource(&self) -> &'static ResourceInfo {
        &VALIDATING
    }

    fn default(&self, configuration: &mut ValidatingWebhookConfiguration) {
        for hook in configuration.webhooks.iter_mut().flatten() {
            default_hook!(hook);
        }
    }

    fn requires_resource_version(&self) -> bool {
        true
    }

    fn is_spec_changed(
        &self,
        new: &ValidatingWebhookConfiguration,
        old: &ValidatingWebhookConfiguration,
    ) -> bool {
        new.webhooks != old.webhooks
    }

    fn validate(&self, configuration: &ValidatingWebhookConfiguration, errors: &mut FieldErrors) {
        validate_hooks(&validating(configuration.webhooks.or_empty()), errors);
    }

    fn warnings(&self, configuration: &ValidatingWebhookConfiguration) -> Vec<String> {
        warnings(&configuration.metadata, &validating(configuration.webhooks.or_empty()))
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, configuration: &ValidatingWebhookConfiguration, now: Timestamp) -> Vec<Value> {
        row(&configuration.metadata, configuration.webhooks.or_empty().len(), now)
    }
}

impl Kind for MutatingWebhooks {
    type Object = MutatingWebhookConfiguration;

    fn resource(&self) -> &'static ResourceInfo {
        &MUTATING
    }

    fn default(&self, configuration: &mut MutatingWebhookConfiguration) {
        for hook in configuration.webhooks.iter_mut().flatten() {
            matching::default_policy(&mut hook.reinvocation_policy, "Never");
            default_hook!(hook);
        }
    }

    fn requires_resource_version(&self) -> bool {
        true
    }

    fn is_spec_changed(
        &self,
        new: &MutatingWebhookConfiguration,
        old: &MutatingWebhookConfiguration,
    ) -> bool {
        new.webhooks != old.webhooks
    }

    fn validate(&self, configuration: &MutatingWebhookConfiguration, errors: &mut FieldErrors) {
        validate_hooks(&mutating(configuration.webhooks.or_empty()), errors);
    }

    fn warnings(&self, configuration: &MutatingWebhookConfiguration) -> Vec<String> {
        warnings(&configuration.metadata, &mutating(configuration.webhooks.or_empty()))
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, configuration: &MutatingWebhookConfiguration, now: Timestamp) -> Vec<Value> {
        row(&configuration.metadata, configuration.webhooks.or_empty().len(), now)
    }
}

fn row(meta: &ObjectMeta, webhooks: usize, now: Timestamp) -> Vec<Value> {
    vec![meta.name.or_empty().into(), webhooks.into(), age(meta.creation_timestamp.as_ref(), now).into()]
}

fn validate_hooks(hooks: &[Hook<'_>], errors: &mut FieldErrors) {
    let path = Path::new("webhooks");
    let mut seen = BTreeSet::new();
    for (index, hook) in hooks.iter().enumerate() {
        let path = path.index(index);
        validate_hook(hook, &path, errors);
        if !hook.name.is_empty() && !seen.insert(hook.name) {
            errors.duplicate(&path.child("name"), hook.name);
        }
    }
}

fn validate_hook(hook: &Hook<'_>, path: &Path, errors: &mut FieldErrors) {
    validate_name(hook.name, &path.child("name"), errors);
    matching::validate_rules(hook.rules, &path.child("rules"), errors);
    for (field, value, supported) in [
        ("failurePolicy", hook.failure_policy, FAILURE_POLICIES),
        ("matchPolicy", hook.match_policy, matching::MATCH_POLICIES),
        ("reinvocationPolicy", hook.reinvocation_policy, REINVOCATION_POLICIES),
    ] {
        if let Some(value) = value {
            check::one_of(value, supported, &path.child(field), errors);
        }
    }
    let at = path.child("sideEffects");
    if hook.side_effects.is_empty() {
        errors.required(&at, &format!("must specify one of {}", SIDE_EFFECTS.join(", ")));
    } else {
        check::one_of(hook.side_effects, SIDE_EFFECTS, &at, errors);
    }
    if let Some(seconds) = hook.timeout_seconds.filter(|seconds| !(1..=30).contains(seconds)) {
        let detail = "the timeout value must be between 1 and 30 seconds";
        errors.invalid(&path.child("timeoutSeconds"), seconds, detail);
    }
    check::label_selector(hook.namespace_selector, &path.child("namespaceSelector"), errors);
    check::label_selector(hook.object_selector, &path.child("objectSelector"), errors);
    let service = hook.client.service.as_ref().map(|service| webhook_client::Service {
        name: &service.name,
        namespace: &service.namespace,
        path: service.path.as_deref(),
        port: service.port.unwrap_or(webhook_client::DEFAULT_PORT),
    });
    webhook_client::validate(hook.client.url.as_deref(), service, &path.child("clientConfig"), errors);
    matching::validate_conditions(hook.conditions, false, &path.child("matchConditions"), errors);
    validate_versions(hook.versions, &path.child("admissionReviewVersions"), errors);
}

fn validate_name(name: &str, path: &Path, errors: &mut FieldErrors) {
    let problems = names::dns1123_subdomain(name);
    if name.is_empty() {
        errors.required(path, "");
    } else if !problems.is_empty() {
        errors.invalid(path, name, &problems.join(","));
    } else if name.split('.').count() < 3 {
        let detail = "should be a domain with at least three segments separated by dots";
        errors.invalid(path, name, detail);
    }
}

fn validate_versions(versions: &[String], path: &Path, errors: &mut FieldErrors) {
    let known = REVIEW_VERSIONS.join(", ");
    if versions.is_empty() {
        return errors.required(path, &format!("must specify one of {known}"));
    }
    let mut seen = BTreeSet::new();
    for (index, version) in versions.iter().enumerate() {
        let path = path.index(index);
        if seen.insert(version) {
            errors.problems(&path, version, names::dns1035_label(version));
        } else {
            errors.invalid(&path, version.as_str(), "duplicate version");
        }
    }
    if !versions.iter().any(|version| REVIEW_VERSIONS.contains(&version.as_str())) {
        errors.invalid(path, json!(versions), &format!("must include at least one of {known}"));
    }
}

fn warnings(meta: &ObjectMeta, hooks: &[Hook<'_>]) -> Vec<String> {
    let mut texts: Vec<String> = suffix_warning(meta.name.or_empty()).into_iter().collect();
    for (hook, rules) in hooks.iter().map(|hook| hook.rules).enumerate() {
        for (index, rule) in rules.iter().enumerate() {
            texts.extend(excluded(rule).map(|(group, resource)| {
                format!(
                    "webhooks[{hook}].rules[{index}]: {resource}.{group} is excluded from admission webhooks; this rule \
                     will have no effect"
                )
            }));
        }
    }
    texts
}

/// What the rule names although it is never asked about. A wildcard names nothing.
fn excluded(rule: &RuleWithOperations) -> impl Iterator<Item = &'static (&'static str, &'static str)> {
    let has = |texts: &Option<Vec<String>>, wanted: &str| texts.or_empty().iter().any(|text| text == wanted);
    let fields = [&rule.api_groups, &rule.api_versions, &rule.resources];
    let is_vague = fields.iter().any(|texts| has(texts, "*"));
    EXCLUDED.iter().filter(move |(group, resource)| {
        !is_vague && has(&rule.api_groups, group) && has(&rule.resources, resource)
    })
}
