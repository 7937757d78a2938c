//! To which FlowSchema a request belongs: the schemas compiled by subject, so that a request looks at those rules only
//! that may be about its user.

use std::{collections::HashMap, sync::Arc};

use http::HeaderValue;
use k8s_openapi::api::flowcontrol::v1::{
    FlowSchema, NonResourcePolicyRule, PolicyRulesWithSubjects, ResourcePolicyRule,
};

use super::{counts::Counts, level::Level};
use crate::auth::{Attributes, User, account_user};

const ALL: &str = "*";
const ACCOUNT_PREFIX: &str = "system:serviceaccount:";

/// How the flows of one schema are told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Distinguisher {
    None,
    User,
    Namespace,
}

/// A schema that is in force.
pub struct Schema {
    pub name: String,
    /// The object's uid, as clients are told it.
    pub uid: HeaderValue,
    pub level: Arc<Level>,
    pub counts: Arc<Counts>,
    by: Distinguisher,
    rules: Vec<Rules>,
}

/// What one element of `spec.rules` is about; its subjects are in the index.
struct Rules {
    resources: Vec<ResourcePolicyRule>,
    paths: Vec<NonResourcePolicyRule>,
}

/// One element of `spec.rules` of one schema, both by position. They sort by precedence.
type Hit = (usize, usize);

/// All schemas that are in force.
#[derive(Default)]
pub struct Classifier {
    /// By precedence, then name.
    schemas: Vec<Arc<Schema>>,
    users: HashMap<String, Vec<Hit>, ahash::RandomState>,
    groups: HashMap<String, Vec<Hit>, ahash::RandomState>,
    /// By namespace: all service accounts of it.
    accounts: HashMap<String, Vec<Hit>, ahash::RandomState>,
    everybody: Vec<Hit>,
}

impl Schema {
    /// Which flow of the schema a request belongs to.
    pub fn flow(&self, user: &User, attributes: &Attributes<'_>) -> u64 {
        let distinguisher = self.distinguisher(user, attributes);
        ahash::RandomState::with_seeds(1, 2, 3, 4).hash_one((&self.name, distinguisher))
    }

    /// What tells the flow from others of the schema.
    pub fn distinguisher<'a>(&self, user: &'a User, attributes: &Attributes<'a>) -> &'a str {
        match self.by {
            Distinguisher::None => "",
            Distinguisher::User => &user.name,
            Distinguisher::Namespace => attributes.namespace,
        }
    }

    fn matches(&self, rules: usize, attributes: &Attributes<'_>) -> bool {
        let rules = &self.rules[rules];
        if attributes.resource.is_empty() {
            rules.paths.iter().any(|rule| is_path_of(rule, attributes))
        } else {
            rules.resources.iter().any(|rule| is_resource_of(rule, attributes))
        }
    }
}

impl Classifier {
    /// Compiles `schemas`, each with its level.
    pub fn new<'a>(schemas: impl Iterator<Item = (&'a FlowSchema, HeaderValue, Arc<Level>)>) -> Self {
        let mut schemas: Vec<_> = schemas.collect();
        schemas.sort_by_key(|(schema, ..)| {
            (schema.spec.matching_precedence.unwrap_or_default(), schema.metadata.name.clone())
        });
        let mut classifier = Self::default();
        for (schema, uid, level) in schemas {
            let position = classifier.schemas.len();
            let spec = &schema.spec;
            let mut rules = Vec::new();
            for rule in spec.rules.iter().flatten() {
                classifier.index(rule, (position, rules.len()));
                let (resources, paths) = (rule.resource_rules.clone(), rule.non_resource_rules.clone());
                rules.push(Rules {
                    resources: resources.unwrap_or_default(),
                    paths: paths.unwrap_or_default(),
                });
            }
            let by = match spec.distinguisher_method.as_ref().map(|method| method.type_.as_str()) {
                Some("ByUser") => Distinguisher::User,
                Some("ByNamespace") => Distinguisher::Namespace,
                _ => Distinguisher::None,
            };
            let name = schema.metadata.name.clone().unwrap_or_default();
            let counts = level.counts_of(&name);
            classifier.schemas.push(Arc::new(Schema { name, uid, level, counts, by, rules }));
        }
        classifier
    }

    /// The schema that comes first.
    pub fn into_first(self) -> Option<Arc<Schema>> {
        self.schemas.into_iter().next()
    }

    fn index(&mut self, rule: &PolicyRulesWithSubjects, hit: Hit) {
        for subject in &rule.subjects {
            let hits = if let Some(user) = &subject.user {
                match user.name.as_str() {
                    ALL => &mut self.everybody,
                    name => self.users.entry(name.into()).or_default(),
                }
            } else if let Some(group) = &subject.group {
                match group.name.as_str() {
                    ALL => &mut self.everybody,
                    name => self.groups.entry(name.into()).or_default(),
                }
            } else if let Some(account) = &subject.service_account {
                match account.name.as_str() {
                    ALL => self.accounts.entry(account.namespace.clone()).or_default(),
                    name => self.users.entry(account_user(&account.namespace, name)).or_default(),
                }
            } else {
                continue;
            };
            hits.push(hit);
        }
    }

    /// The schema of a request, or `None` where none matches.
    pub fn find(&self, user: &User, attributes: &Attributes<'_>) -> Option<&Arc<Schema>> {
        let account = user.name.strip_prefix(ACCOUNT_PREFIX).and_then(|account| account.split_once(':'));
        let lists = [
            self.users.get(&*user.name),
            account.and_then(|(namespace, _)| self.accounts.get(namespace)),
            Some(&self.everybody),
        ];
        let groups = user.groups.iter().map(|group| self.groups.get(group.as_str()));
        let mut best = usize::MAX;
        for hits in lists.into_iter().chain(groups).flatten() {
            let better = hits.iter().take_while(|(schema, _)| *schema < best);
            let found =
                better.copied().find(|(schema, rules)| self.schemas[*schema].matches(*rules, attributes));
            best = found.map_or(best, |(schema, _)| schema);
        }
        self.schemas.get(best)
    }
}

fn has(list: &[String], text: &str) -> bool {
    list.iter().any(|item| item == ALL || item == text)
}

fn is_resource_of(rule: &ResourcePolicyRule, attributes: &Attributes<'_>) -> bool {
    let is_resource = |asked: &String| asked == ALL || attributes.is_of(asked);
    let is_in_scope = if attributes.namespace.is_empty() {
        rule.cluster_scope.unwrap_or_default()
    } else {
        has(rule.namespaces.as_deref().unwrap_or_default(), attributes.namespace)
    };
    is_in_scope
        && has(&rule.verbs, attributes.verb)
        && has(&rule.api_groups, attributes.group)
        && rule.resources.iter().any(is_resource)
}

fn is_path_of(rule: &NonResourcePolicyRule, attributes: &Attributes<'_>) -> bool {
    let path = attributes.path;
    let is_path = |asked: &String| match asked.strip_suffix('*') {
        Some(prefix) => path.starts_with(prefix),
        None => asked == path,
    };
    has(&rule.verbs, attributes.verb) && rule.non_resource_urls.iter().any(is_path)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use tokio::sync::Notify;

    use super::*;
    use crate::{auth::Extra, fairness::level::Policy, registry::flowcontrol::flow_schemas};

    fn compile(schemas: &[FlowSchema]) -> Classifier {
        let uid = HeaderValue::from_static("uid");
        let level =
            |name: &str| Arc::new(Level::new(name, uid.clone(), Policy::Exempt, Arc::new(Notify::new())));
        Classifier::new(
            schemas
                .iter()
                .map(|schema| (schema, uid.clone(), level(&schema.spec.priority_level_configuration.name))),
        )
    }

    fn schema(name: &str, precedence: i32, by: Option<&str>, rule: Value) -> FlowSchema {
        let value = json!({ "metadata": { "name": name }, "spec": {
            "priorityLevelConfiguration": { "name": "own" },
            "matchingPrecedence": precedence,
            "distinguisherMethod": by.map(|by| json!({ "type": by })),
            "rules": [rule],
        } });
        serde_json::from_value(value).expect("a schema")
    }

    fn of<'a>(verb: &'a str, group: &'a str, resource: &'a str, namespace: &'a str) -> Attributes<'a> {
        Attributes { verb, group, resource, namespace, ..Attributes::default() }
    }

    fn found<'a>(classifier: &'a Classifier, user: &User, attributes: &Attributes<'_>) -> &'a str {
        classifier.find(user, attributes).map_or("", |schema| &schema.name)
    }

    #[test]
    fn requests_fall_to_the_suggested_schemas_as_in_kubernetes() {
        let classifier = compile(&flow_schemas().collect::<Vec<_>>());
        let account = |namespace, name| User::service_account(namespace, name, "", Extra::new());
        let node = User::new("system:node:amber", vec!["system:nodes".into()]);
        let jane = User::new("jane", vec![]);
        let path = |path| Attributes { verb: "get", path, ..Attributes::default() };
        let lease = of("update", "coordination.k8s.io", "leases", "kube-system");
        let status = Attributes { subresource: "status", ..of("patch", "", "nodes", "") };
        let pods = of("list", "", "pods", "shop");
        for (user, attributes, expected) in [
            (&User::new("root", vec!["system:masters".into()]), pods, "exempt"),
            (&node, of("get", "", "secrets", "shop"), "system-nodes"),
            (&node, status, "system-node-high"),
            (&node, of("update", "coordination.k8s.io", "leases", "kube-node-lease"), "system-node-high"),
            (&jane, pods, "global-default"),
            (&User::anonymous(), path("/readyz"), "probes"),
            (&User::anonymous(), path("/version"), "global-default"),
            (&User::new("system:kube-scheduler", vec![]), lease, "system-leader-election"),
            (&User::new("system:kube-scheduler", vec![]), pods, "kube-scheduler"),
            (&account("kube-system", "job-controller"), lease, "system-leader-election"),
            (&account("kube-system", "job-controller"), pods, "kube-system-service-accounts"),
            (
                &account("kube-system", "endpoint-controller"),
                of("create", "", "endpoints", "a"),
                "endpoint-controller",
            ),
            (&account("shop", "ci"), lease, "service-accounts"),
        ] {
            assert_eq!(found(&classifier, user, &attributes), expected, "{user:?} {attributes:?}");
        }
    }

    #[test]
    fn the_lowest_precedence_wins_then_the_name() {
        let rule = |subject: Value, verbs: &[&str]| {
            json!({ "subjects": [subject], "resourceRules": [{
                "verbs": verbs, "apiGroups": ["*"], "resources": ["pods", "pods/log"], "namespaces": ["shop"],
            }] })
        };
        let jane = || json!({ "kind": "User", "user": { "name": "jane" } });
        let anybody = || json!({ "kind": "Group", "group": { "name": "*" } });
        let classifier = compile(&[
            schema("z-anybody", 500, None, rule(anybody(), &["*"])),
            schema("b-jane", 200, None, rule(jane(), &["get"])),
            schema("a-jane", 200, None, rule(jane(), &["get"])),
            schema("late", 900, None, rule(jane(), &["*"])),
        ]);
        let jane = User::new("jane", vec![]);
        assert_eq!(found(&classifier, &jane, &of("get", "", "pods", "shop")), "a-jane");
        assert_eq!(found(&classifier, &jane, &of("list", "", "pods", "shop")), "z-anybody");
        let log = Attributes { subresource: "log", ..of("get", "", "pods", "shop") };
        assert_eq!(found(&classifier, &jane, &log), "a-jane");
        let status = Attributes { subresource: "status", ..log };
        assert_eq!(found(&classifier, &jane, &status), "");
        assert_eq!(found(&classifier, &jane, &of("get", "", "pods", "")), "");
        assert_eq!(
            found(&classifier, &User::new("joe", vec![]), &of("get", "", "pods", "shop")),
            "z-anybody"
        );
    }

    #[test]
    fn flows_are_told_apart_as_the_schema_says() {
        let rule = json!({ "subjects": [{ "kind": "Group", "group": { "name": "*" } }] });
        let of_method = |by| compile(&[schema("s", 1000, by, rule.clone())]).schemas[0].clone();
        let (jane, joe) = (User::new("jane", vec![]), User::new("joe", vec![]));
        let (shop, bank) = (of("get", "", "pods", "shop"), of("get", "", "pods", "bank"));
        for (by, users_differ, namespaces_differ) in
            [(None, false, false), (Some("ByUser"), true, false), (Some("ByNamespace"), false, true)]
        {
            let schema = of_method(by);
            assert_eq!(schema.flow(&jane, &shop) != schema.flow(&joe, &shop), users_differ);
            assert_eq!(schema.flow(&jane, &shop) != schema.flow(&jane, &bank), namespaces_differ);
        }
    }
}
