//! API priority and fairness: which requests are worked on now, which wait, and which are refused.
//!
//! The cluster's FlowSchemas and PriorityLevelConfigurations are compiled into a [`Plan`] whenever one changes; a
//! request looks its schema up there and takes a seat of the schema's level. As long as seats are free that is a few
//! hash look-ups and one atomic exchange. `queues` decides who waits how long, `seats` who may lend to whom; both are
//! pure.
//!
//! **How many seats.** A seat is held from when all of a request is here until its answer is ready to be sent. In Naru
//! a read holds one for microseconds of CPU and never waits, so reads hardly use more seats than there are cores; a
//! write holds one while its group commit reaches the disk, and the more writes wait together, the better: what seats
//! bound is the memory of bodies and objects under way. So the server has as many as kube-apiserver by default, 400 +
//! 200, which also keeps the arithmetic of shares that people know. What a CPU does have to fear is LISTs: they take as
//! many seats as they are large, and let others run before they begin.
//!
//! A body that comes slowly holds none: Kubernetes reads it from within the handler, but there the client's pace is the
//! request's deadline, and here it would be up to a minute of somebody else's seat. Requests that another API server
//! answers are seated like others, as they are in Kubernetes.
//!
//! The control plane's own controllers do not come this way. In Kubernetes they are clients over HTTP, in levels of
//! their own (`workload-high`, `leader-election`) so that nobody can crowd them out; here they are a few tasks of this
//! process, each works on one thing at a time, and nothing can crowd them out. A seat would bound nothing, and would
//! let a flood of requests stop the garbage collector that cleans up after it.

mod classify;
mod counts;
mod dump; // What is told of them to whoever debugs.
mod follow;
mod level;
mod queues;
mod seats;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use http::HeaderValue;
use k8s_openapi::api::flowcontrol::v1::{
    FlowSchema, LimitedPriorityLevelConfiguration, PriorityLevelConfiguration,
};
use k8s_openapi::jiff::Timestamp;
use naru_model::Object;
use tokio::sync::Notify;

use classify::Classifier;
use level::{Asker, Policy};
use queues::Settings;
use seats::{Seats, Share};

use crate::{
    auth::{Attributes, User},
    registry::flowcontrol::{self, CATCH_ALL},
    store::{Scope, Snapshot},
};

pub use classify::Schema;
pub use counts::Counts;
pub use level::{Level, Load, Permit, Refused};

const SCHEMAS: &str = "flowschemas.flowcontrol.apiserver.k8s.io";
const LEVELS: &str = "prioritylevelconfigurations.flowcontrol.apiserver.k8s.io";

/// Kubernetes' default for reads and writes together.
pub const DEFAULT_SEATS: u32 = 600;
/// How long a request may wait for a seat: a quarter of Kubernetes' request timeout, as there.
const PATIENCE: Duration = Duration::from_secs(15);
/// A LIST takes a seat for each of so many objects, up to so many seats.
const OBJECTS_PER_SEAT: usize = 100;
const MAX_WIDTH: u32 = 10;

/// Admits requests by the configuration in force.
pub struct Fairness {
    total: u32,
    plan: ArcSwap<Plan>,
    /// Told when a level is full, so that seats may be lent.
    pressed: Arc<Notify>,
}

/// What is compiled of one state of the configuration.
#[derive(Default)]
struct Plan {
    classifier: Classifier,
    levels: BTreeMap<String, Configured>,
    /// Where requests go that no schema takes, which cannot be as long as the mandatory ones are there.
    fallback: Option<Arc<Schema>>,
}

#[derive(Clone)]
struct Configured {
    level: Arc<Level>,
    seats: Seats,
    is_exempt: bool,
}

/// A level as `/metrics` tells of it.
pub struct LevelLoad {
    pub name: String,
    /// Seats of the level while none are lent.
    pub nominal_seats: u32,
    pub now: Load,
    /// By the name of the schema.
    pub counts: BTreeMap<String, Arc<Counts>>,
}

impl Fairness {
    /// Divides `total` seats by what `view` says.
    pub fn new(total: u32, view: &Snapshot) -> Self {
        let fairness = Self { total, plan: ArcSwap::default(), pressed: Arc::new(Notify::new()) };
        fairness.refresh(view);
        fairness
    }

    /// The schema that a request belongs to.
    pub fn classify(&self, user: &User, attributes: &Attributes<'_>) -> Arc<Schema> {
        let plan = self.plan.load();
        let found = plan.classifier.find(user, attributes).or(plan.fallback.as_ref());
        found.expect("a plan has a fallback").clone()
    }

    /// Takes seats for a request of `schema`, waiting for them if need be. `path` is that of its URL.
    pub async fn seat(
        &self,
        schema: &Schema,
        width: u32,
        user: &User,
        attributes: &Attributes<'_>,
        path: &str,
    ) -> Result<Permit, Refused> {
        let outcome = match schema.level.try_acquire(width) {
            Some(permit) => Ok(permit),
            None => {
                let asker = Asker {
                    since: Timestamp::now(),
                    schema: schema.name.clone(),
                    distinguisher: schema.distinguisher(user, attributes).into(),
                    user: user.name.to_string(),
                    verb: attributes.verb.into(),
                    path: path.into(),
                    namespace: attributes.namespace.into(),
                    name: attributes.name.into(),
                    resource: attributes.resource.into(),
                    subresource: attributes.subresource.into(),
                };
                schema.level.acquire(width, schema.flow(user, attributes), PATIENCE, asker).await
            }
        };
        schema.counts.note(&outcome);
        outcome
    }

    /// What each level is doing.
    pub fn loads(&self) -> Vec<LevelLoad> {
        let load = |of: &Configured| LevelLoad {
            name: of.level.name.clone(),
            nominal_seats: of.seats.nominal,
            now: of.level.load(),
            counts: of.level.counts(),
        };
        self.plan.load().levels.values().map(load).collect()
    }

    /// Compiles what `view` holds. Levels that stay keep their queues.
    fn refresh(&self, view: &Snapshot) {
        let before = self.plan.load();
        let plan = Plan::compile(self.total, view, &before, &self.pressed);
        self.plan.store(Arc::new(plan));
    }

    /// Moves seats from levels that lately did not want them to levels that did. Answers whether any level had too
    /// few, so that it is worth looking again soon.
    fn lend(&self) -> bool {
        let plan = self.plan.load();
        let limited: Vec<&Configured> = plan.levels.values().filter(|level| !level.is_exempt).collect();
        let wanted: Vec<_> = limited.iter().map(|of| (of.seats, of.level.take_peak())).collect();
        for (of, limit) in limited.iter().zip(seats::lend(&wanted)) {
            of.level.set_limit(limit);
        }
        wanted.iter().any(|(seats, demand)| *demand > seats.nominal)
    }
}

/// How many seats a LIST of so many objects takes.
pub fn width_of_list(objects: usize) -> u32 {
    (objects.div_ceil(OBJECTS_PER_SEAT) as u32).clamp(1, MAX_WIDTH)
}

impl Plan {
    fn compile(total: u32, view: &Snapshot, before: &Self, pressed: &Arc<Notify>) -> Self {
        // Somebody may have deleted the mandatory ones; they count until they are back.
        let mut levels: BTreeMap<String, PriorityLevelConfiguration> =
            flowcontrol::priority_levels().filter(is_mandatory).map(named).collect();
        levels.extend(
            view.list(&Scope::all(LEVELS))
                .iter()
                .map(|level| named(PriorityLevelConfiguration::clone(level))),
        );
        let mut schemas: BTreeMap<String, FlowSchema> =
            flowcontrol::flow_schemas().filter(is_mandatory).map(named).collect();
        schemas.extend(view.list(&Scope::all(SCHEMAS)).iter().map(|schema| named(FlowSchema::clone(schema))));

        let shares: Vec<Share> = levels.values().map(share).collect();
        let seats = seats::divide(total, &shares);
        let levels: BTreeMap<String, Configured> = levels
            .into_iter()
            .zip(seats)
            .map(|((name, object), seats)| {
                let policy = policy(&object);
                let (uid, is_exempt) = (uid(&object), policy == Policy::Exempt);
                let level = match before.levels.get(&name) {
                    Some(of) if of.level.uid == uid => of.level.clone(),
                    _ => Arc::new(Level::new(&name, uid, policy, pressed.clone())),
                };
                level.configure(policy);
                if !is_exempt {
                    level.set_limit(seats.nominal);
                }
                (name, Configured { level, seats, is_exempt })
            })
            .collect();
        let in_force = schemas.values().filter_map(|schema| {
            // A schema whose level is missing counts for nothing.
            let level = levels.get(&schema.spec.priority_level_configuration.name)?;
            Some((schema, uid(schema), level.level.clone()))
        });
        let classifier = Classifier::new(in_force);
        let fallback = levels.get(CATCH_ALL).zip(schemas.get(CATCH_ALL)).and_then(|(level, schema)| {
            Classifier::new(std::iter::once((schema, uid(schema), level.level.clone()))).into_first()
        });
        Self { classifier, levels, fallback }
    }
}

fn is_mandatory<T: Object>(object: &T) -> bool {
    flowcontrol::is_mandatory(object.name())
}

fn named<T: Object>(object: T) -> (String, T) {
    (object.name().to_owned(), object)
}

fn uid<T: Object>(object: &T) -> HeaderValue {
    let uid = object.metadata().uid.as_deref().unwrap_or_default();
    HeaderValue::from_str(uid).unwrap_or_else(|_| HeaderValue::from_static(""))
}

fn share(object: &PriorityLevelConfiguration) -> Share {
    let number = |value: Option<i32>, default: u32| value.map_or(default, |value| value.max(0) as u32);
    match (&object.spec.limited, &object.spec.exempt) {
        (Some(limited), _) => Share {
            shares: number(limited.nominal_concurrency_shares, 30),
            lendable_percent: number(limited.lendable_percent, 0).min(100),
            borrowing_percent: limited.borrowing_limit_percent.map(|percent| percent.max(0) as u32),
        },
        (None, Some(exempt)) => Share {
            shares: number(exempt.nominal_concurrency_shares, 0),
            lendable_percent: number(exempt.lendable_percent, 0).min(100),
            borrowing_percent: None,
        },
        (None, None) => Share::default(),
    }
}

fn policy(object: &PriorityLevelConfiguration) -> Policy {
    let Some(LimitedPriorityLevelConfiguration { limit_response, .. }) = &object.spec.limited else {
        return Policy::Exempt;
    };
    let positive = |value: Option<i32>, default: u32| value.map_or(default, |value| value.max(1) as u32);
    match &limit_response.queuing {
        Some(queuing) if limit_response.type_ == "Queue" => Policy::Queue(Settings {
            queues: positive(queuing.queues, 64),
            hand_size: positive(queuing.hand_size, 8),
            queue_length: positive(queuing.queue_length_limit, 50),
        }),
        _ => Policy::Reject,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::ApiClient;

    async fn cluster() -> ApiClient {
        let client = ApiClient::in_memory();
        for level in flowcontrol::priority_levels() {
            client.create(&level).await.expect("created");
        }
        for schema in flowcontrol::flow_schemas() {
            client.create(&schema).await.expect("created");
        }
        client
    }

    fn list_pods() -> Attributes<'static> {
        Attributes { verb: "list", resource: "pods", namespace: "shop", ..Attributes::default() }
    }

    #[tokio::test]
    async fn without_any_object_the_mandatory_ones_hold() {
        let fairness = Fairness::new(100, &Snapshot::default());
        let (root, jane) = (User::new("root", vec!["system:masters".into()]), User::new("jane", vec![]));
        assert_eq!(fairness.classify(&root, &list_pods()).level.name, "exempt");
        assert_eq!(fairness.classify(&jane, &list_pods()).level.name, "catch-all");
        let nobody = User { groups: Vec::new().into(), ..User::anonymous() };
        assert_eq!(fairness.classify(&nobody, &list_pods()).level.name, "catch-all");
    }

    #[tokio::test]
    async fn a_change_keeps_what_runs_and_a_missing_level_disables_its_schema() {
        let client = cluster().await;
        let fairness = Fairness::new(600, &client.store().snapshot());
        let jane = User::new("jane", vec![]);
        let schema = fairness.classify(&jane, &list_pods());
        assert_eq!((schema.name.as_str(), schema.level.load().limit), ("global-default", 49));
        let path = "/api/v1/namespaces/shop/pods";
        let permit = fairness.seat(&schema, 1, &jane, &list_pods(), path).await.expect("free");

        let patch = crate::client::Patch::Merge(
            json!({ "spec": { "limited": { "nominalConcurrencyShares": 245 } } }),
        );
        let patched = client.patch::<PriorityLevelConfiguration>("", "global-default", "", patch).await;
        patched.expect("patched");
        fairness.refresh(&client.store().snapshot());
        let again = fairness.classify(&jane, &list_pods());
        assert!(Arc::ptr_eq(&again.level, &schema.level));
        assert_eq!((again.level.load().limit, again.level.load().seats_in_use), (313, 1));
        drop(permit);
        assert_eq!(again.level.load().seats_in_use, 0);

        client
            .delete::<PriorityLevelConfiguration>("", "global-default", Default::default())
            .await
            .expect("deleted");
        fairness.refresh(&client.store().snapshot());
        assert_eq!(fairness.classify(&jane, &list_pods()).name, "catch-all");
    }

    #[tokio::test]
    async fn seats_are_lent_while_their_level_is_idle() {
        let client = cluster().await;
        let fairness = Fairness::new(60, &client.store().snapshot());
        let jane = User::new("jane", vec![]);
        let schema = fairness.classify(&jane, &list_pods());
        let nominal = schema.level.load().limit;
        let mut held = Vec::new();
        while let Some(permit) = schema.level.try_acquire(1) {
            held.push(permit);
        }
        assert_eq!(held.len() as u32, nominal);
        let wait = schema.level.acquire(1, 0, PATIENCE, Asker::default());
        tokio::pin!(wait);
        assert!(futures::poll!(&mut wait).is_pending());
        assert!(fairness.lend());
        assert!(schema.level.load().limit > nominal);
        held.push(wait.await.expect("a lent seat"));
        drop(held);
        fairness.lend();
        assert!(!fairness.lend());
        assert_eq!(schema.level.load().limit, nominal);
    }

    #[tokio::test]
    async fn who_waits_is_shown_to_whoever_debugs() {
        let client = cluster().await;
        let fairness = Fairness::new(60, &client.store().snapshot());
        let jane = User::new("jane", vec![]);
        let schema = fairness.classify(&jane, &list_pods());
        let held: Vec<Permit> = std::iter::from_fn(|| schema.level.try_acquire(1)).collect();
        let attributes = list_pods();
        let wait = fairness.seat(&schema, 3, &jane, &attributes, "/api/v1/namespaces/shop/pods");
        let mut wait = Box::pin(wait);
        assert!(futures::poll!(&mut wait).is_pending());

        let row = |name: &str, with_details| {
            let table = fairness.dump(name, with_details).expect("there is such a table");
            let rows = table.lines().filter(|line| line.starts_with("global-default, "));
            let cells = |row: &str| row.split(',').map(|cell| cell.trim().to_owned()).collect::<Vec<_>>();
            let rows: Vec<Vec<String>> = rows.map(cells).collect();
            // Of the queues, the one that somebody waits in.
            rows.iter().find(|row| name != "dump_queues" || row[2] != "0").expect("a row").clone()
        };
        let in_use = held.len().to_string();
        let level = row("dump_priority_levels", false);
        assert_eq!(level, ["global-default", "1", "false", "false", "1", &in_use, "0", "0", "0", "0"]);
        let queue = row("dump_queues", false);
        assert_eq!(queue[2..], ["1", "0", "0", "0.00000000ss", "3", "3", "0.00900000ss"]);
        let request = row("dump_requests", true);
        assert_eq!(request[..5], ["global-default", "global-default", &queue[1], "0", "jane"]);
        assert_eq!(request[6..10], ["3", "0", "0s", "0001-01-01T00:00:00Z"]);
        let path = "/api/v1/namespaces/shop/pods";
        assert_eq!(request[10..], ["jane", "list", path, "shop", "", "v1", "pods", ""]);
        assert_eq!(row("dump_requests", false).len(), 10);
        drop(wait);
        assert_eq!(row("dump_priority_levels", false)[9], "1");
        assert_eq!(fairness.dump("dump_everything", false), None);
    }

    #[test]
    fn a_list_is_as_wide_as_it_is_long() {
        assert_eq!([0, 1, 100, 101, 950, 1_000_000].map(width_of_list), [1, 1, 1, 2, 10, 10]);
    }
}
