//! What webhooks and policies apply to: operations, resources, scopes and selectors, as Kubernetes matches them.
//!
//! Pure, and compiled once per configuration. Not here: conditions in CEL (`expressions`), and what is done with a
//! request that matches.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::admissionregistration::v1::{MatchResources, NamedRuleWithOperations, RuleWithOperations},
    apimachinery::pkg::apis::meta::v1::LabelSelector,
};
use naru_model::selector::{Selector, SelectorError};

type Labels = BTreeMap<String, String>;

/// What a request does with an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    Create,
    Update,
    Delete,
    Connect,
}

/// A resource in one of the versions in which it is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resource<'a> {
    /// "" for core resources.
    pub group: &'a str,
    pub version: &'a str,
    pub plural: &'a str,
}

/// A request as rules and selectors see it.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    pub operation: Operation,
    pub resource: Resource<'a>,
    /// "" for whole objects.
    pub subresource: &'a str,
    /// "" where the server is still to generate one, and for collections.
    pub name: &'a str,
    /// Other names and versions under which the same objects are served with this subresource.
    pub equivalents: &'a [Resource<'a>],
    /// Labels of the object after the request, and before it; `None` where there is none.
    pub labels: Option<&'a Labels>,
    pub old_labels: Option<&'a Labels>,
    pub namespace: Namespace<'a>,
}

/// Where the object of a request is.
#[derive(Debug, Clone, Copy)]
pub enum Namespace<'a> {
    /// It belongs to no namespace.
    None,
    /// It is the namespace that has these labels: the new ones where they are being written.
    Itself(&'a Labels),
    In(&'a Labels),
    /// There is no such namespace.
    Missing,
}

/// A request matches but for a selector of namespaces, and its namespace does not exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NamespaceMissing;

/// What a webhook or policy applies to.
#[derive(Debug)]
pub struct Criteria {
    rules: Vec<Rule>,
    /// What is left out, whatever `rules` say.
    excluded: Vec<Rule>,
    /// Whether rules are also about what they name in other versions.
    is_equivalent: bool,
    namespaces: Selector,
    objects: Selector,
}

/// Each list holds what is meant, or `*`.
#[derive(Debug)]
struct Rule {
    operations: Vec<String>,
    groups: Vec<String>,
    versions: Vec<String>,
    /// `pods`, `pods/log`, `pods/*`, `*/scale`.
    resources: Vec<String>,
    /// Of objects; empty for all.
    names: Vec<String>,
    scope: Scope,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scope {
    All,
    Cluster,
    Namespaced,
}

impl Operation {
    /// As rules and reviews spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Create => "CREATE",
            Self::Update => "UPDATE",
            Self::Delete => "DELETE",
            Self::Connect => "CONNECT",
        }
    }
}

/// Whether requests for the resource pass webhooks and policies untouched: who configures them could otherwise lock
/// everybody out for good.
pub fn is_exempt(group: &str, plural: &str) -> bool {
    group == "admissionregistration.k8s.io"
        && matches!(
            plural,
            "validatingwebhookconfigurations"
                | "mutatingwebhookconfigurations"
                | "validatingadmissionpolicies"
                | "validatingadmissionpolicybindings"
                | "mutatingadmissionpolicies"
                | "mutatingadmissionpolicybindings"
        )
}

impl Criteria {
    /// Of a webhook. No rules match nothing.
    pub fn of_webhook(
        rules: &[RuleWithOperations],
        match_policy: Option<&str>,
        namespaces: Option<&LabelSelector>,
        objects: Option<&LabelSelector>,
    ) -> Result<Self, SelectorError> {
        Ok(Self {
            rules: rules.iter().map(Rule::from).collect(),
            excluded: Vec::new(),
            is_equivalent: is_equivalent(match_policy),
            namespaces: selector(namespaces)?,
            objects: selector(objects)?,
        })
    }

    /// Of a policy or a binding. No rules match everything that is not excluded.
    pub fn of_resources(resources: &MatchResources) -> Result<Self, SelectorError> {
        let rules = |rules: &Option<Vec<NamedRuleWithOperations>>| {
            rules.iter().flatten().map(Rule::from).collect::<Vec<_>>()
        };
        let mut included = rules(&resources.resource_rules);
        if included.is_empty() {
            included.push(Rule::everything());
        }
        Ok(Self {
            rules: included,
            excluded: rules(&resources.exclude_resource_rules),
            is_equivalent: is_equivalent(resources.match_policy.as_deref()),
            namespaces: selector(resources.namespace_selector.as_ref())?,
            objects: selector(resources.object_selector.as_ref())?,
        })
    }

    /// The resource as which the request matches, which is one of `subject.equivalents` where no rule names the
    /// request's own; `None` where it does not match.
    pub fn matches<'a>(&self, subject: &Subject<'a>) -> Result<Option<Resource<'a>>, NamespaceMissing> {
        let is_selected = self.selects_namespace(subject);
        if is_selected == Ok(false) || !self.selects_object(subject) {
            return Ok(None);
        }
        if self.resource(&self.excluded, subject).is_some() {
            return Ok(None);
        }
        let resource = self.resource(&self.rules, subject);
        // A missing namespace is only a problem for what applies otherwise.
        if resource.is_some() { is_selected.map(|_| resource) } else { Ok(None) }
    }

    fn selects_namespace(&self, subject: &Subject<'_>) -> Result<bool, NamespaceMissing> {
        match subject.namespace {
            Namespace::None => Ok(true),
            _ if self.namespaces.is_everything() => Ok(true),
            Namespace::Itself(labels) | Namespace::In(labels) => Ok(self.namespaces.matches(labels)),
            Namespace::Missing => Err(NamespaceMissing),
        }
    }

    fn selects_object(&self, subject: &Subject<'_>) -> bool {
        self.objects.is_everything()
            || [subject.labels, subject.old_labels]
                .into_iter()
                .flatten()
                .any(|labels| self.objects.matches(labels))
    }

    fn resource<'a>(&self, rules: &[Rule], subject: &Subject<'a>) -> Option<Resource<'a>> {
        if rules.iter().any(|rule| rule.covers(subject, subject.resource)) {
            return Some(subject.resource);
        }
        let equivalents = subject.equivalents.iter().filter(|_| self.is_equivalent);
        let others = equivalents.copied().filter(|other| *other != subject.resource);
        // The first rule decides, not the first resource.
        rules.iter().find_map(|rule| others.clone().find(|other| rule.covers(subject, *other)))
    }
}

impl Rule {
    fn everything() -> Self {
        let any = || vec!["*".to_owned()];
        Self {
            operations: any(),
            groups: any(),
            versions: any(),
            resources: vec!["*/*".to_owned()],
            names: Vec::new(),
            scope: Scope::All,
        }
    }

    fn covers(&self, subject: &Subject<'_>, resource: Resource<'_>) -> bool {
        holds(&self.groups, resource.group)
            && holds(&self.versions, resource.version)
            && self.resources.iter().any(|text| names_resource(text, resource.plural, subject.subresource))
            && holds(&self.operations, subject.operation.as_str())
            && self.has_scope_of(subject)
            && (self.names.is_empty() || self.names.iter().any(|name| name == subject.name))
    }

    fn has_scope_of(&self, subject: &Subject<'_>) -> bool {
        let is_namespaced = matches!(subject.namespace, Namespace::In(_) | Namespace::Missing);
        match self.scope {
            Scope::All => true,
            Scope::Namespaced => is_namespaced,
            Scope::Cluster => !is_namespaced,
        }
    }
}

impl From<&RuleWithOperations> for Rule {
    fn from(rule: &RuleWithOperations) -> Self {
        Self {
            operations: rule.operations.clone().unwrap_or_default(),
            groups: rule.api_groups.clone().unwrap_or_default(),
            versions: rule.api_versions.clone().unwrap_or_default(),
            resources: rule.resources.clone().unwrap_or_default(),
            names: Vec::new(),
            scope: scope(rule.scope.as_deref()),
        }
    }
}

impl From<&NamedRuleWithOperations> for Rule {
    fn from(rule: &NamedRuleWithOperations) -> Self {
        Self {
            operations: rule.operations.clone().unwrap_or_default(),
            groups: rule.api_groups.clone().unwrap_or_default(),
            versions: rule.api_versions.clone().unwrap_or_default(),
            resources: rule.resources.clone().unwrap_or_default(),
            names: rule.resource_names.clone().unwrap_or_default(),
            scope: scope(rule.scope.as_deref()),
        }
    }
}

fn scope(text: Option<&str>) -> Scope {
    match text {
        Some("Cluster") => Scope::Cluster,
        Some("Namespaced") => Scope::Namespaced,
        _ => Scope::All,
    }
}

fn is_equivalent(match_policy: Option<&str>) -> bool {
    match_policy != Some("Exact")
}

/// Absent means everything here: these fields are defaulted to an empty selector.
fn selector(selector: Option<&LabelSelector>) -> Result<Selector, SelectorError> {
    selector.map_or_else(|| Ok(Selector::everything()), |selector| Selector::from_api(Some(selector)))
}

fn holds(texts: &[String], wanted: &str) -> bool {
    texts.iter().any(|text| text == "*" || text == wanted)
}

/// Whether `text` (`pods`, `pods/log`, `*/*`, …) speaks of the resource with this subresource.
fn names_resource(text: &str, plural: &str, subresource: &str) -> bool {
    let (resource, part) = text.split_once('/').unwrap_or((text, ""));
    (resource == "*" || resource == plural) && (part == "*" || part == subresource)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const PODS: Resource<'_> = Resource { group: "", version: "v1", plural: "pods" };
    const EVENTS: Resource<'_> = Resource { group: "", version: "v1", plural: "events" };
    const NEW_EVENTS: Resource<'_> = Resource { group: "events.k8s.io", version: "v1", plural: "events" };

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    fn subject<'a>(resource: Resource<'a>, namespace: &'a Labels) -> Subject<'a> {
        Subject {
            operation: Operation::Create,
            resource,
            subresource: "",
            name: "web",
            equivalents: &[],
            labels: None,
            old_labels: None,
            namespace: Namespace::In(namespace),
        }
    }

    fn criteria(resources: Value) -> Criteria {
        let resources: MatchResources = serde_json::from_value(resources).expect("resources");
        Criteria::of_resources(&resources).expect("selectors")
    }

    fn rule(fields: Value) -> Value {
        let mut rule = json!({
            "apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"],
        });
        for (name, value) in fields.as_object().into_iter().flatten() {
            rule[name] = value.clone();
        }
        json!({ "resourceRules": [rule] })
    }

    #[test]
    fn a_rule_names_operations_resources_and_scope() {
        let none = Labels::new();
        let is_matched = |fields: Value, change: &dyn Fn(&mut Subject<'_>)| {
            let mut subject = subject(PODS, &none);
            change(&mut subject);
            criteria(rule(fields)).matches(&subject).expect("a namespace").is_some()
        };
        let same: &dyn Fn(&mut Subject<'_>) = &|_| ();
        let log: &dyn Fn(&mut Subject<'_>) = &|subject| subject.subresource = "log";
        let delete: &dyn Fn(&mut Subject<'_>) = &|subject| subject.operation = Operation::Delete;
        let cluster: &dyn Fn(&mut Subject<'_>) = &|subject| subject.namespace = Namespace::None;
        let cases = [
            (json!({}), same, true),
            (json!({}), log, false),
            (json!({}), delete, false),
            (json!({ "operations": ["*"] }), delete, true),
            (json!({ "resources": ["pods/*"] }), log, true),
            (json!({ "resources": ["*/log"] }), log, true),
            (json!({ "resources": ["*/log"] }), same, false),
            (json!({ "resources": ["*"] }), log, false),
            (json!({ "resources": ["*/*"] }), log, true),
            (json!({ "apiGroups": ["apps"] }), same, false),
            (json!({ "apiVersions": ["v2"] }), same, false),
            (json!({ "scope": "Namespaced" }), same, true),
            (json!({ "scope": "Cluster" }), same, false),
            (json!({ "scope": "Cluster" }), cluster, true),
            (json!({ "scope": "Namespaced" }), cluster, false),
            (json!({ "resourceNames": ["web"] }), same, true),
            (json!({ "resourceNames": ["db"] }), same, false),
        ];
        for (fields, change, expected) in cases {
            assert_eq!(is_matched(fields.clone(), change), expected, "{fields}");
        }
    }

    #[test]
    fn a_rule_is_about_equivalents_unless_it_is_exact() {
        let none = Labels::new();
        let equivalents = [EVENTS, NEW_EVENTS];
        let subject = Subject { equivalents: &equivalents, ..subject(NEW_EVENTS, &none) };
        let mut resources = rule(json!({ "resources": ["events"] }));
        assert_eq!(criteria(resources.clone()).matches(&subject), Ok(Some(EVENTS)));
        resources["matchPolicy"] = "Exact".into();
        assert_eq!(criteria(resources).matches(&subject), Ok(None));
    }

    #[test]
    fn selectors_and_exclusions_narrow() {
        let (blue, red) = (labels(&[("color", "blue")]), labels(&[("color", "red")]));
        let wants_blue = json!({ "matchLabels": { "color": "blue" } });
        let in_blue = json!({ "namespaceSelector": wants_blue });
        assert!(criteria(in_blue.clone()).matches(&subject(PODS, &blue)).expect("known").is_some());
        assert!(criteria(in_blue.clone()).matches(&subject(PODS, &red)).expect("known").is_none());
        let missing = Subject { namespace: Namespace::Missing, ..subject(PODS, &red) };
        assert_eq!(criteria(in_blue.clone()).matches(&missing), Err(NamespaceMissing));
        // What has no namespace is never left out for one.
        let cluster = Subject { namespace: Namespace::None, ..missing };
        assert!(criteria(in_blue).matches(&cluster).expect("none is needed").is_some());

        let objects = criteria(json!({ "objectSelector": wants_blue }));
        let was_blue = Subject { labels: Some(&red), old_labels: Some(&blue), ..subject(PODS, &red) };
        assert!(objects.matches(&was_blue).expect("known").is_some());
        assert!(objects.matches(&Subject { old_labels: None, ..was_blue }).expect("known").is_none());
        assert!(
            objects
                .matches(&Subject { labels: None, old_labels: None, ..was_blue })
                .expect("known")
                .is_none()
        );

        let mut narrowed = rule(json!({ "resources": ["*"] }));
        narrowed["excludeResourceRules"] = rule(json!({}))["resourceRules"].clone();
        let narrowed = criteria(narrowed);
        assert_eq!(narrowed.matches(&subject(PODS, &red)), Ok(None));
        assert_eq!(narrowed.matches(&subject(EVENTS, &red)), Ok(Some(EVENTS)));
    }

    #[test]
    fn no_rules_of_a_webhook_match_nothing() {
        let none = Labels::new();
        let webhook = Criteria::of_webhook(&[], None, None, None).expect("no selectors");
        assert_eq!(webhook.matches(&subject(PODS, &none)), Ok(None));
        assert_eq!(criteria(json!({})).matches(&subject(PODS, &none)), Ok(Some(PODS)));
    }

    #[test]
    fn what_configures_admission_is_exempt_from_it() {
        assert!(is_exempt("admissionregistration.k8s.io", "validatingadmissionpolicies"));
        assert!(!is_exempt("admissionregistration.k8s.io", "somethingelse"));
        assert!(!is_exempt("", "pods"));
    }
}
