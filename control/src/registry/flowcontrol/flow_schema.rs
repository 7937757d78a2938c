//! FlowSchemas: which requests belong to which priority level.

use k8s_openapi::{
    api::flowcontrol::v1::{
        FlowSchema, FlowSchemaSpec, NonResourcePolicyRule, PolicyRulesWithSubjects, ResourcePolicyRule,
        Subject,
    },
    jiff::Timestamp,
};
use naru_model::{
    ResourceInfo,
    validation::{FieldErrors, Path, names},
};
use serde_json::{Value, json};

use super::{EXEMPT, bootstrap, validate_conditions};
use crate::registry::{
    Column, Kind,
    kind::{Context, age},
    podspec::{OrEmpty, check},
    text,
};

pub struct FlowSchemas;

const DEFAULT_PRECEDENCE: i32 = 1000;
const MAX_PRECEDENCE: i32 = 10_000;
const VERBS: &[&str] =
    &["create", "delete", "deletecollection", "get", "list", "patch", "proxy", "update", "watch"];

static RESOURCE: ResourceInfo = ResourceInfo {
    group: "flowcontrol.apiserver.k8s.io",
    namespaced: false,
    subresources: &["status"],
    ..text::core_resource("FlowSchema", "flowschemas", "flowschema", &[])
};

const COLUMNS: &[Column] = &[
    text::NAME,
    text::column(
        "PriorityLevel",
        "string",
        0,
        "`name` is the name of the priority level configuration being referenced Required.",
    ),
    text::column(
        "MatchingPrecedence",
        "string",
        0,
        "`matchingPrecedence` is used to choose among the FlowSchemas that match a given request. The chosen FlowSchema is among those with the numerically lowest (which we take to be logically highest) MatchingPrecedence.  Each MatchingPrecedence value must be ranged in [1,10000]. Note that if the precedence is not specified, it will be set to 1000 as default.",
    ),
    text::column(
        "DistinguisherMethod",
        "string",
        0,
        "`distinguisherMethod` defines how to compute the flow distinguisher for requests that match this schema. `nil` specifies that the distinguisher is disabled and thus will always be the empty string.",
    ),
    text::AGE,
    text::column("MissingPL", "string", 0, "references a broken or non-existent PriorityLevelConfiguration"),
];

impl Kind for FlowSchemas {
    type Object = FlowSchema;

    fn resource(&self) -> &'static ResourceInfo {
        &RESOURCE
    }

    fn default(&self, schema: &mut FlowSchema) {
        let spec = &mut schema.spec;
        if spec.matching_precedence.unwrap_or_default() == 0 {
            spec.matching_precedence = Some(DEFAULT_PRECEDENCE);
        }
    }

    fn prepare_create(&self, schema: &mut FlowSchema, _context: &Context<'_>) {
        schema.status = Some(Default::default());
    }

    fn prepare_update(&self, new: &mut FlowSchema, old: &FlowSchema, _context: &Context<'_>) {
        new.status.clone_from(&old.status);
    }

    fn prepare_status_update(&self, new: &mut FlowSchema, old: &FlowSchema, _context: &Context<'_>) {
        new.spec.clone_from(&old.spec);
    }

    fn validate(&self, schema: &FlowSchema, errors: &mut FieldErrors) {
        let spec = &schema.spec;
        let (name, path) = (schema.metadata.name.or_empty(), Path::new("spec"));
        validate_spec(spec, name, &path, errors);
        if bootstrap::mandatory_schema(name).is_some_and(|fixed| fixed != *spec) {
            errors.invalid(&path, json!(spec), &format!("spec of '{name}' must equal the fixed value"));
        }
    }

    fn validate_status_update(&self, new: &FlowSchema, _old: &FlowSchema, errors: &mut FieldErrors) {
        let conditions = new.status.as_ref().map(|status| status.conditions.or_empty()).unwrap_or_default();
        validate_conditions(conditions.iter().map(|condition| condition.type_.as_str()), errors);
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, schema: &FlowSchema, now: Timestamp) -> Vec<Value> {
        let spec = &schema.spec;
        let conditions =
            schema.status.as_ref().map(|status| status.conditions.or_empty()).unwrap_or_default();
        let dangling = conditions.iter().find(|condition| condition.type_ == "Dangling");
        vec![
            schema.metadata.name.or_empty().into(),
            spec.priority_level_configuration.name.as_str().into(),
            spec.matching_precedence.unwrap_or_default().into(),
            spec.distinguisher_method.as_ref().map_or("<none>", |method| method.type_.as_str()).into(),
            age(schema.metadata.creation_timestamp.as_ref(), now).into(),
            dangling.map_or("?", |condition| condition.status.or_empty()).into(),
        ]
    }
}

fn validate_spec(spec: &FlowSchemaSpec, name: &str, path: &Path, errors: &mut FieldErrors) {
    let (precedence, at) = (spec.matching_precedence.unwrap_or_default(), path.child("matchingPrecedence"));
    if precedence <= 0 {
        errors.invalid(&at, precedence, "must be a positive value");
    }
    if precedence > MAX_PRECEDENCE {
        errors.invalid(&at, precedence, &format!("must not be greater than {MAX_PRECEDENCE}"));
    }
    if precedence == 1 && name != EXEMPT {
        errors.invalid(&at, precedence, "only the schema named 'exempt' may have matchingPrecedence 1");
    }
    if let Some(method) = &spec.distinguisher_method {
        let path = path.child("distinguisherMethod").child("type");
        check::one_of(&method.type_, &["ByNamespace", "ByUser"], &path, errors);
    }
    let at = path.child("priorityLevelConfiguration").child("name");
    match spec.priority_level_configuration.name.as_str() {
        "" => errors.required(&at, "must reference a priority level"),
        level => check::subdomain(level, &at, errors),
    }
    for (index, rule) in spec.rules.or_empty().iter().enumerate() {
        validate_rule(rule, &path.child("rules").index(index), errors);
    }
}

fn validate_rule(rule: &PolicyRulesWithSubjects, path: &Path, errors: &mut FieldErrors) {
    if rule.subjects.is_empty() {
        errors.required(&path.child("subjects"), "subjects must contain at least one value");
    }
    for (index, subject) in rule.subjects.iter().enumerate() {
        validate_subject(subject, &path.child("subjects").index(index), errors);
    }
    let (resources, urls) = (rule.resource_rules.or_empty(), rule.non_resource_rules.or_empty());
    if resources.is_empty() && urls.is_empty() {
        errors.required(path, "at least one of resourceRules and nonResourceRules has to be non-empty");
    }
    for (index, rule) in resources.iter().enumerate() {
        validate_resources(rule, &path.child("resourceRules").index(index), errors);
    }
    for (index, rule) in urls.iter().enumerate() {
        validate_urls(rule, &path.child("nonResourceRules").index(index), errors);
    }
}

fn validate_subject(subject: &Subject, path: &Path, errors: &mut FieldErrors) {
    let (user, group) = (subject.user.as_ref(), subject.group.as_ref());
    let account = subject.service_account.as_ref();
    let fields = [
        ("ServiceAccount", "serviceAccount", account.is_some()),
        ("User", "user", user.is_some()),
        ("Group", "group", group.is_some()),
    ];
    let kind = subject.kind.as_str();
    let Some((_, own, is_set)) = fields.iter().find(|(of, ..)| *of == kind) else {
        let supported = ["Group", "ServiceAccount", "User"];
        return errors.not_supported(&path.child("kind"), kind, &supported);
    };
    let at = path.child(own);
    match (kind, user, group, account) {
        _ if !is_set => errors.required(&at, &format!("{own} is required when subject kind is '{kind}'")),
        ("User", Some(user), ..) => check::required_text(&user.name, &at.child("name"), errors),
        ("Group", _, Some(group), _) => check::required_text(&group.name, &at.child("name"), errors),
        (.., Some(account)) => validate_account(&account.name, &account.namespace, &at, errors),
        _ => (),
    }
    for (of, field, _) in fields.iter().filter(|(of, _, is_set)| *is_set && *of != kind) {
        let detail = format!("{field} is forbidden when subject kind is not '{of}'");
        errors.forbidden(&path.child(field), &detail);
    }
}

fn validate_account(name: &str, namespace: &str, path: &Path, errors: &mut FieldErrors) {
    match name {
        "" => errors.required(&path.child("name"), ""),
        "*" => (),
        name => check::subdomain(name, &path.child("name"), errors),
    }
    match namespace {
        "" => errors.required(&path.child("namespace"), "must specify namespace for service account"),
        namespace => check::dns_label(namespace, &path.child("namespace"), errors),
    }
}

fn has_wildcard(texts: &[String]) -> bool {
    texts.iter().any(|text| text == "*")
}

/// A wildcard stands alone; `items` is how a list of the kind is called.
fn only_wildcard(texts: &[String], items: &str, path: &Path, errors: &mut FieldErrors) {
    if texts.len() > 1 && has_wildcard(texts) {
        errors.invalid(path, json!(texts), &format!("if '*' is present, must not specify other {items}"));
    }
}

fn validate_verbs(verbs: &[String], path: &Path, errors: &mut FieldErrors) {
    if verbs.is_empty() {
        errors.required(path, "verbs must contain at least one value");
    } else if has_wildcard(verbs) {
        only_wildcard(verbs, "verbs", path, errors);
    } else if !verbs.iter().all(|verb| VERBS.contains(&verb.as_str())) {
        errors.not_supported(path, json!(verbs), VERBS);
    }
}

fn validate_resources(rule: &ResourcePolicyRule, path: &Path, errors: &mut FieldErrors) {
    validate_verbs(&rule.verbs, &path.child("verbs"), errors);
    let at = path.child("apiGroups");
    if rule.api_groups.is_empty() {
        errors.required(&at, "resource rules must supply at least one api group");
    }
    only_wildcard(&rule.api_groups, "api groups", &at, errors);
    let at = path.child("resources");
    if rule.resources.is_empty() {
        errors.required(&at, "resource rules must supply at least one resource");
    }
    only_wildcard(&rule.resources, "resources", &at, errors);
    let (namespaces, at) = (rule.namespaces.or_empty(), path.child("namespaces"));
    if namespaces.is_empty() && rule.cluster_scope != Some(true) {
        let detail = "resource rules that are not cluster scoped must supply at least one namespace";
        errors.required(&at, detail);
    } else if has_wildcard(namespaces) {
        only_wildcard(namespaces, "namespaces", &at, errors);
    } else {
        for (index, namespace) in namespaces.iter().enumerate() {
            for problem in names::dns1123_label(namespace) {
                let detail = format!("each member of this list must be '*' or a DNS-1123 label; {problem}");
                errors.invalid(&at.index(index), namespace.as_str(), &detail);
            }
        }
    }
}

fn validate_urls(rule: &NonResourcePolicyRule, path: &Path, errors: &mut FieldErrors) {
    validate_verbs(&rule.verbs, &path.child("verbs"), errors);
    let (urls, path) = (&rule.non_resource_urls, path.child("nonResourceURLs"));
    if urls.is_empty() {
        errors.required(&path, "nonResourceURLs must contain at least one value");
    } else if has_wildcard(urls) {
        only_wildcard(urls, "non-resource URLs", &path, errors);
    } else {
        for (index, url) in urls.iter().enumerate() {
            if let Some(problem) = url_problem(url) {
                errors.invalid(&path.index(index), url.as_str(), problem);
            }
        }
    }
}

fn url_problem(url: &str) -> Option<&'static str> {
    let stars = url.matches('*').count();
    match url {
        "" => Some("must not be empty"),
        "/" => None,
        _ if !url.starts_with('/') => Some("must start with slash"),
        _ if url.contains(' ') => Some("must not contain white-space"),
        _ if url.contains("//") => Some("must not contain double slash"),
        _ if stars > 1 || (stars == 1 && !url.ends_with("/*")) => {
            Some("wildcard can only do suffix matching")
        }
        _ => None,
    }
}
