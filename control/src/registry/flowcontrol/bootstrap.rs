//! The objects that every cluster has: without the mandatory ones no request would have a place, the suggested ones
//! keep nodes, controllers and users from starving each other. The figures are Kubernetes' own.

use k8s_openapi::{
    api::flowcontrol::v1::{
        ExemptPriorityLevelConfiguration, FlowDistinguisherMethod, FlowSchema, FlowSchemaSpec, GroupSubject,
        LimitResponse, LimitedPriorityLevelConfiguration, NonResourcePolicyRule, PolicyRulesWithSubjects,
        PriorityLevelConfiguration, PriorityLevelConfigurationReference, PriorityLevelConfigurationSpec,
        QueuingConfiguration, ResourcePolicyRule, ServiceAccountSubject, Subject, UserSubject,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

use super::{CATCH_ALL, EXEMPT};

/// Tells that the object follows Kubernetes' own as long as nobody changes it.
pub const AUTO_UPDATE: &str = "apf.kubernetes.io/autoupdate-spec";
const QUEUE_LENGTH: i32 = 50;

/// Name, shares, lendable percent, and queues with the size of a hand of them.
type Level = (&'static str, i32, i32, Option<(i32, i32)>);

const LEVELS: &[Level] = &[
    (CATCH_ALL, 5, 0, None),
    ("system", 30, 33, Some((64, 6))),
    ("node-high", 40, 25, Some((64, 6))),
    ("leader-election", 10, 0, Some((16, 4))),
    ("workload-high", 40, 50, Some((128, 6))),
    ("workload-low", 100, 90, Some((128, 6))),
    ("global-default", 20, 50, Some((128, 6))),
];

const BY_USER: &str = "ByUser";
const BY_NAMESPACE: &str = "ByNamespace";

enum Who {
    Group(&'static str),
    User(&'static str),
    /// An account of `kube-system`, or `*` for all.
    Account(&'static str),
}

use Who::{Account, Group, User};

/// Verbs, group, resources, and whether cluster-scoped objects are meant, too.
type Rule = (&'static [&'static str], &'static str, &'static [&'static str], bool);

const EVERYTHING: &[Rule] = &[(&["*"], "*", &["*"], true)];
const ALL_URLS: Option<(&str, &[&str])> = Some(("*", &["*"]));
const WRITE: &[&str] = &["get", "create", "update"];
const ELECTION: &[Rule] = &[(WRITE, "coordination.k8s.io", &["leases"], false)];
const EVERYBODY: &[Who] = &[Group("system:unauthenticated"), Group("system:authenticated")];
const MANAGER: &str = "system:kube-controller-manager";
const SCHEDULER: &str = "system:kube-scheduler";

struct Schema {
    name: &'static str,
    level: &'static str,
    precedence: i32,
    /// How flows are told apart, if at all.
    by: Option<&'static str>,
    who: &'static [Who],
    rules: &'static [Rule],
    urls: Option<(&'static str, &'static [&'static str])>,
}

#[rustfmt::skip]
const SCHEMAS: &[Schema] = &[
    Schema { name: EXEMPT, level: EXEMPT, precedence: 1, by: None, who: &[Group("system:masters")], rules: EVERYTHING, urls: ALL_URLS },
    Schema { name: CATCH_ALL, level: CATCH_ALL, precedence: 10_000, by: Some(BY_USER), who: EVERYBODY, rules: EVERYTHING, urls: ALL_URLS },
    Schema { name: "system-nodes", level: "system", precedence: 500, by: Some(BY_USER), who: &[Group("system:nodes")], rules: EVERYTHING, urls: ALL_URLS },
    Schema { name: "system-node-high", level: "node-high", precedence: 400, by: Some(BY_USER), who: &[Group("system:nodes")],
        rules: &[(&["*"], "", &["nodes", "nodes/status"], true), (&["*"], "coordination.k8s.io", &["leases"], false)], urls: None },
    Schema { name: "probes", level: EXEMPT, precedence: 2, by: None, who: EVERYBODY, rules: &[], urls: Some(("get", &["/healthz", "/readyz", "/livez"])) },
    Schema { name: "system-leader-election", level: "leader-election", precedence: 100, by: Some(BY_USER),
        who: &[User(MANAGER), User(SCHEDULER), Account("*")], rules: ELECTION, urls: None },
    Schema { name: "endpoint-controller", level: "workload-high", precedence: 150, by: Some(BY_USER),
        who: &[User(MANAGER), Account("endpoint-controller"), Account("endpointslicemirroring-controller")],
        rules: &[(WRITE, "", &["endpoints"], false)], urls: None },
    Schema { name: "workload-leader-election", level: "leader-election", precedence: 200, by: Some(BY_USER), who: &[Account("*")], rules: ELECTION, urls: None },
    Schema { name: "kube-controller-manager", level: "workload-high", precedence: 800, by: Some(BY_NAMESPACE), who: &[User(MANAGER)], rules: EVERYTHING, urls: ALL_URLS },
    Schema { name: "kube-scheduler", level: "workload-high", precedence: 800, by: Some(BY_NAMESPACE), who: &[User(SCHEDULER)], rules: EVERYTHING, urls: ALL_URLS },
    Schema { name: "kube-system-service-accounts", level: "workload-high", precedence: 900, by: Some(BY_NAMESPACE), who: &[Account("*")], rules: EVERYTHING, urls: ALL_URLS },
    Schema { name: "service-accounts", level: "workload-low", precedence: 9_000, by: Some(BY_USER), who: &[Group("system:serviceaccounts")], rules: EVERYTHING, urls: ALL_URLS },
    Schema { name: "global-default", level: "global-default", precedence: 9_900, by: Some(BY_USER), who: EVERYBODY, rules: EVERYTHING, urls: ALL_URLS },
];

/// All levels, complete with defaults.
pub fn priority_levels() -> impl Iterator<Item = PriorityLevelConfiguration> {
    let exempt = PriorityLevelConfigurationSpec {
        type_: "Exempt".into(),
        exempt: Some(ExemptPriorityLevelConfiguration {
            lendable_percent: Some(0),
            nominal_concurrency_shares: Some(0),
        }),
        limited: None,
    };
    let limited =
        LEVELS.iter().map(|&(name, shares, lendable, queues)| (name, limited(shares, lendable, queues)));
    std::iter::once((EXEMPT, exempt)).chain(limited).map(|(name, spec)| PriorityLevelConfiguration {
        metadata: metadata(name),
        spec,
        status: None,
    })
}

/// All schemas, complete with defaults.
pub fn flow_schemas() -> impl Iterator<Item = FlowSchema> {
    SCHEMAS.iter().map(|schema| FlowSchema {
        metadata: metadata(schema.name),
        spec: spec(schema),
        status: None,
    })
}

/// What the level of this name must say, if it is one that no cluster can do without.
pub(super) fn mandatory_level(name: &str) -> Option<PriorityLevelConfigurationSpec> {
    let is_it = |level: &PriorityLevelConfiguration| level.metadata.name.as_deref() == Some(name);
    is_mandatory(name).then(|| priority_levels().find(is_it))?.map(|level| level.spec)
}

/// The same for schemas.
pub(super) fn mandatory_schema(name: &str) -> Option<FlowSchemaSpec> {
    let schema = SCHEMAS.iter().find(|schema| schema.name == name)?;
    is_mandatory(name).then(|| spec(schema))
}

/// Whether no cluster can do without the level and the schema of this name.
pub fn is_mandatory(name: &str) -> bool {
    [EXEMPT, CATCH_ALL].contains(&name)
}

fn metadata(name: &str) -> ObjectMeta {
    ObjectMeta {
        name: Some(name.into()),
        annotations: Some([(AUTO_UPDATE.to_owned(), "true".to_owned())].into()),
        ..ObjectMeta::default()
    }
}

fn limited(shares: i32, lendable: i32, queues: Option<(i32, i32)>) -> PriorityLevelConfigurationSpec {
    let queuing = queues.map(|(queues, hand)| QueuingConfiguration {
        queues: Some(queues),
        hand_size: Some(hand),
        queue_length_limit: Some(QUEUE_LENGTH),
    });
    let response = if queuing.is_some() { "Queue" } else { "Reject" };
    PriorityLevelConfigurationSpec {
        type_: "Limited".into(),
        limited: Some(LimitedPriorityLevelConfiguration {
            nominal_concurrency_shares: Some(shares),
            lendable_percent: Some(lendable),
            limit_response: LimitResponse { type_: response.into(), queuing },
            borrowing_limit_percent: None,
        }),
        exempt: None,
    }
}

fn spec(schema: &Schema) -> FlowSchemaSpec {
    let rules = schema.rules.iter().map(resource_rule).collect::<Vec<_>>();
    let urls = schema.urls.map(|(verb, urls)| {
        vec![NonResourcePolicyRule { verbs: vec![verb.into()], non_resource_urls: texts(urls) }]
    });
    FlowSchemaSpec {
        priority_level_configuration: PriorityLevelConfigurationReference { name: schema.level.into() },
        matching_precedence: Some(schema.precedence),
        distinguisher_method: schema.by.map(|by| FlowDistinguisherMethod { type_: by.into() }),
        rules: Some(vec![PolicyRulesWithSubjects {
            subjects: schema.who.iter().map(subject).collect(),
            resource_rules: Some(rules).filter(|rules| !rules.is_empty()),
            non_resource_rules: urls,
        }]),
    }
}

fn resource_rule(&(verbs, group, resources, cluster): &Rule) -> ResourcePolicyRule {
    ResourcePolicyRule {
        verbs: texts(verbs),
        api_groups: vec![group.into()],
        resources: texts(resources),
        namespaces: Some(vec!["*".into()]),
        cluster_scope: cluster.then_some(true),
    }
}

fn texts(texts: &[&str]) -> Vec<String> {
    texts.iter().map(ToString::to_string).collect()
}

fn subject(who: &Who) -> Subject {
    match *who {
        Group(name) => Subject {
            kind: "Group".into(),
            group: Some(GroupSubject { name: name.into() }),
            ..Subject::default()
        },
        User(name) => Subject {
            kind: "User".into(),
            user: Some(UserSubject { name: name.into() }),
            ..Subject::default()
        },
        Account(name) => Subject {
            kind: "ServiceAccount".into(),
            service_account: Some(ServiceAccountSubject {
                name: name.into(),
                namespace: "kube-system".into(),
            }),
            ..Subject::default()
        },
    }
}
