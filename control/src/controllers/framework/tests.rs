//! The machinery around a decision, tried with small controllers on a store in memory.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use k8s_openapi::{
    api::core::v1::{ConfigMap, Namespace},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use tokio::{task::JoinHandle, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{Cache, Change, ClusterView, Controller, Hub, Plan, Runner, RunnerSettings, Write, key_of};
use crate::{
    ApiClient,
    client::Delete,
    store::{Key, Scope},
};

const DEADLINE: Duration = Duration::from_secs(20);

async fn cluster() -> ApiClient {
    let client = ApiClient::in_memory();
    let metadata = ObjectMeta { name: Some("default".into()), ..Default::default() };
    client.create(&Namespace { metadata, ..Default::default() }).await.unwrap();
    client
}

fn map(name: &str, value: &str) -> ConfigMap {
    let metadata =
        ObjectMeta { name: Some(name.into()), namespace: Some("default".into()), ..Default::default() };
    let data = BTreeMap::from([("value".to_owned(), value.to_owned())]);
    ConfigMap { metadata, data: Some(data), ..Default::default() }
}

fn hub(client: &ApiClient) -> Hub {
    Hub::new(client.registry().clone())
}

/// Runs one controller until the token is cancelled.
fn run(controller: Arc<dyn Controller>, client: &ApiClient) -> (CancellationToken, Vec<JoinHandle<()>>) {
    let shutdown = CancellationToken::new();
    let mut hub = hub(client);
    let runner = Runner::new(&mut hub, controller, client, RunnerSettings::default());
    let hub = Arc::new(hub);
    let runner = tokio::spawn(runner.run(hub.clone(), shutdown.clone()));
    let token = shutdown.clone();
    (shutdown, vec![runner, tokio::spawn(async move { hub.run(token).await })])
}

async fn until(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !is_so() {
        assert!(Instant::now() < deadline, "{what} does not come");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// For each map `NAME`, makes five maps from a generated name that have it as their value; panics at `poison`.
#[derive(Default)]
struct Fives {
    created: Mutex<BTreeMap<String, usize>>,
}

impl Controller for Fives {
    /// One whose role lets it create maps.
    fn name(&self) -> &'static str {
        "root-ca-cert-publisher"
    }

    fn concerns(&self, change: &Change<'_>, _cache: &Cache, look: &mut dyn FnMut(Key)) {
        if change.is::<ConfigMap>() {
            let map = change.entry.typed::<ConfigMap>().unwrap();
            look(key_of::<ConfigMap>("default", &map.data.as_ref().unwrap()["value"]));
        }
    }

    fn reconcile(&self, key: &Key, view: &ClusterView<'_>) -> Plan {
        assert!(key.name() != "poison", "a bug in a reconciler");
        let mut plan = Plan::nothing();
        let maps = view.cache.list::<ConfigMap>(Some("default"));
        let made = maps.filter(|map| {
            map.metadata.generate_name.is_some() && map.data.as_ref().unwrap()["value"] == key.name()
        });
        let missing = 5 - made.count().min(5);
        let mut child = map("", key.name());
        child.metadata.name = None;
        child.metadata.generate_name = Some("child-".into());
        plan.then_slowly(std::iter::repeat_n(Write::create(child), missing));
        *self.created.lock().unwrap().entry(key.name().into()).or_default() += missing;
        plan
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_is_looked_at_only_when_the_cache_shows_what_was_written_for_it() {
    let client = cluster().await;
    let controller = Arc::new(Fives::default());
    let (shutdown, tasks) = run(controller.clone(), &client);
    for number in 0..20 {
        client.create(&map(&format!("m{number}"), &format!("m{number}"))).await.unwrap();
    }
    let count = || client.store().snapshot().count(&Scope::all("configmaps"));
    until("five maps for each", || count() == 120).await;
    // Every child is a reason to look again; none of these looks may see fewer than were made.
    until("rest", || controller.created.lock().unwrap().values().sum::<usize>() >= 100).await;
    assert_eq!(controller.created.lock().unwrap().values().sum::<usize>(), 100);
    assert_eq!(count(), 120);
    shutdown.cancel();
    for task in tasks {
        task.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reconciler_that_panics_costs_only_its_key() {
    let client = cluster().await;
    let (shutdown, _tasks) = run(Arc::new(Fives::default()), &client);
    client.create(&map("poison", "poison")).await.unwrap();
    client.create(&map("fine", "fine")).await.unwrap();
    until("five maps", || client.store().snapshot().count(&Scope::all("configmaps")) == 7).await;
    shutdown.cancel();
}

/// Writes down what it is shown.
#[derive(Default)]
struct Diary(Mutex<Vec<(String, bool)>>);

impl Controller for Diary {
    fn name(&self) -> &'static str {
        "diary"
    }

    fn concerns(&self, change: &Change<'_>, _cache: &Cache, _look: &mut dyn FnMut(Key)) {
        if change.is::<ConfigMap>() {
            self.0.lock().unwrap().push((change.entry.key.name().into(), change.is_deleted));
        }
    }

    fn reconcile(&self, _key: &Key, _view: &ClusterView<'_>) -> Plan {
        Plan::nothing()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_that_lost_track_lists_again_and_shows_what_it_missed() {
    let client = cluster().await;
    let diary = Arc::new(Diary::default());
    let mut hub = hub(&client);
    hub.subscribe(diary.clone());
    let hub = Arc::new(hub);
    let follow = |hub: &Arc<Hub>| {
        let (token, hub) = (CancellationToken::new(), hub.clone());
        let shutdown = token.clone();
        (shutdown, tokio::spawn(async move { hub.run(token).await }))
    };
    for name in ["stays", "changes", "goes"] {
        client.create(&map(name, "1")).await.unwrap();
    }
    let (shutdown, task) = follow(&hub);
    hub.caught_up(client.store().snapshot().revision()).await;
    shutdown.cancel();
    task.await.unwrap();
    assert_eq!(diary.0.lock().unwrap().len(), 3);

    // While nobody follows, one map changes, one goes, and one comes.
    client.update(&map("changes", "2")).await.unwrap();
    client.delete::<ConfigMap>("default", "goes", Delete::default()).await.unwrap();
    client.create(&map("comes", "1")).await.unwrap();
    diary.0.lock().unwrap().clear();
    let (shutdown, task) = follow(&hub);
    hub.caught_up(client.store().snapshot().revision()).await;
    shutdown.cancel();
    task.await.unwrap();
    let mut seen = diary.0.lock().unwrap().clone();
    seen.sort();
    assert_eq!(seen, [("changes".into(), false), ("comes".into(), false), ("goes".into(), true)]);
    let names = hub.read(|cache| cache.keys().map(|key| key.as_str().to_owned()).collect::<Vec<_>>());
    assert!(!names.contains(&"configmaps/default/goes".to_owned()), "{names:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_cache_follows_the_store_in_its_order_under_load() {
    let client = cluster().await;
    let mut hub = hub(&client);
    let order = Arc::new(Order::default());
    hub.subscribe(order.clone());
    let hub = Arc::new(hub);
    let shutdown = CancellationToken::new();
    let (running, token) = (hub.clone(), shutdown.clone());
    let task = tokio::spawn(async move { running.run(token).await });
    let writers = (0..8).map(|writer| {
        let client = client.clone();
        tokio::spawn(async move {
            for number in 0..25 {
                client.create(&map(&format!("m-{writer}-{number}"), "1")).await.unwrap();
                let metadata = ObjectMeta {
                    name: Some(format!("s-{writer}-{number}")),
                    namespace: Some("default".into()),
                    ..Default::default()
                };
                let secret = k8s_openapi::api::core::v1::Secret { metadata, ..Default::default() };
                client.create(&secret).await.unwrap();
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
    hub.caught_up(client.store().snapshot().revision()).await;
    shutdown.cancel();
    task.await.unwrap();
    let order = order.0.lock().unwrap();
    assert_eq!(order.len(), 401);
    assert!(order.is_sorted(), "events of different resources keep the store's order");
}

/// The revisions it was shown.
#[derive(Default)]
struct Order(Mutex<Vec<u64>>);

impl Controller for Order {
    fn name(&self) -> &'static str {
        "order"
    }

    fn concerns(&self, change: &Change<'_>, _cache: &Cache, _look: &mut dyn FnMut(Key)) {
        self.0.lock().unwrap().push(change.entry.revision.0);
    }

    fn reconcile(&self, _key: &Key, _view: &ClusterView<'_>) -> Plan {
        Plan::nothing()
    }
}
