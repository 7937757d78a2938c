//! What admission costs a write that it does not concern, and what a quota costs the writers of its namespace.
//!
//! `cargo bench -p naru-control --bench admission [-- DIR]` prints two tables: a ConfigMap's whole way but for the
//! store (a dry run) beside webhooks, policies and quotas for other things; and 64 clients that create ConfigMaps in a
//! namespace without and with a quota, in a store below DIR (a temporary directory by default).

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use k8s_openapi::api::{
    admissionregistration::v1::{
        ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding, ValidatingWebhookConfiguration,
    },
    core::v1::{ConfigMap, Namespace, ResourceQuota},
};
use naru_control::{
    ApiClient,
    auth::{Authorizer, User},
    registry::{Call, Kinds, Registry},
    store::Store,
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

const WINDOW: Duration = Duration::from_secs(2);
const RUNS: usize = 3;
const CLIENTS: usize = 64;

fn main() {
    // Cargo passes `--bench`; what is not an option is the directory.
    let dir = std::env::args().skip(1).find(|argument| !argument.starts_with('-')).map(PathBuf::from);
    let dir = dir.unwrap_or_else(std::env::temp_dir);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    println!("| a ConfigMap beside | time on its way to the store |\n| --- | --- |");
    for beside in [Beside::Nothing, Beside::Webhooks, Beside::Policies, Beside::Quotas] {
        let mut runs: Vec<_> = (0..RUNS).map(|_| runtime.block_on(way(beside))).collect();
        runs.sort();
        println!("| {} | {:.1?} |", beside.name(), runs[RUNS / 2]);
    }
    println!("\n| {CLIENTS} clients create ConfigMaps | per second |\n| --- | --- |");
    for (name, has_quota) in [("in a namespace without a quota", false), ("in one with a quota", true)] {
        let scratch = || tempfile::tempdir_in(&dir).expect("a scratch directory");
        let mut runs: Vec<_> =
            (0..RUNS).map(|_| runtime.block_on(creates(scratch().path(), has_quota))).collect();
        runs.sort_unstable();
        println!("| {name} | {} |", runs[RUNS / 2]);
    }
}

/// What a cluster has that is about something else.
#[derive(Clone, Copy)]
enum Beside {
    Nothing,
    Webhooks,
    Policies,
    Quotas,
}

impl Beside {
    fn name(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Webhooks => "ten webhooks for Pods",
            Self::Policies => "ten policies for Deployments",
            Self::Quotas => "a quota of another namespace",
        }
    }

    async fn add(self, client: &ApiClient) {
        let rule = |group: &str, resource: &str| json!({ "apiGroups": [group], "apiVersions": ["v1"], "operations": ["*"], "resources": [resource] });
        for index in 0..10 {
            let metadata = json!({ "name": format!("other-{index}") });
            match self {
                Self::Nothing => return,
                Self::Webhooks => {
                    let hook = json!({
                        "name": format!("other-{index}.example.com"), "admissionReviewVersions": ["v1"],
                        "sideEffects": "None", "clientConfig": { "url": "https://localhost/" },
                        "rules": [rule("", "pods")],
                    });
                    let configuration = json!({ "metadata": metadata, "webhooks": [hook] });
                    let configuration: ValidatingWebhookConfiguration = object(configuration);
                    client.create(&configuration).await.expect("created");
                }
                Self::Policies => {
                    let spec = json!({
                        "matchConstraints": { "resourceRules": [rule("apps", "deployments")] },
                        "validations": [{ "expression": "object.spec.replicas < 5" }],
                    });
                    let policy: ValidatingAdmissionPolicy =
                        object(json!({ "metadata": metadata, "spec": spec }));
                    client.create(&policy).await.expect("created");
                    let bound =
                        json!({ "policyName": format!("other-{index}"), "validationActions": ["Deny"] });
                    let binding: ValidatingAdmissionPolicyBinding =
                        object(json!({ "metadata": metadata, "spec": bound }));
                    client.create(&binding).await.expect("created");
                }
                Self::Quotas => {
                    create_quota(client, "elsewhere").await;
                    return;
                }
            }
        }
    }
}

fn object<T: DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).expect("a valid object")
}

async fn create_namespaces(client: &ApiClient) {
    for name in ["shop", "elsewhere"] {
        client.create(&object::<Namespace>(json!({ "metadata": { "name": name } }))).await.expect("created");
    }
}

async fn create_quota(client: &ApiClient, namespace: &str) {
    let quota = json!({
        "metadata": { "name": "all", "namespace": namespace },
        "spec": { "hard": { "count/configmaps": "1000000000" } },
    });
    client.create(&object::<ResourceQuota>(quota)).await.expect("created");
}

fn config_map(name: String) -> ConfigMap {
    let metadata = json!({ "name": name, "namespace": "shop", "labels": { "app": "web" } });
    object(json!({ "metadata": metadata, "data": { "text": "x".repeat(1000) } }))
}

/// The time that a create takes where nothing is stored.
async fn way(beside: Beside) -> Duration {
    let client = ApiClient::in_memory();
    create_namespaces(&client).await;
    beside.add(&client).await;
    let registry = client.registry();
    let served = registry.kinds().of::<ConfigMap>().cloned().expect("served");
    let user = User::new("jane", vec![]);
    let call = Call { dry_run: true, ..Call::of(&user, &served, "shop", "") };
    let map = config_map("prices".into());
    let (began, mut done) = (Instant::now(), 0_u32);
    while began.elapsed() < WINDOW {
        for _ in 0..100 {
            registry.create(&call, Box::new(map.clone())).await.expect("nobody minds");
        }
        done += 100;
    }
    began.elapsed() / done
}

/// Creates per second of many clients at once.
async fn creates(dir: &Path, has_quota: bool) -> u64 {
    let store = Store::open(dir).await.expect("a store");
    let authorizer = Arc::new(Authorizer::of_defaults());
    let registry = Registry::new(store, Kinds::builtin(), Default::default(), authorizer);
    let client = ApiClient::new(registry, "system:apiserver");
    create_namespaces(&client).await;
    if has_quota {
        create_quota(&client, "shop").await;
    }
    let (is_over, created) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let writers: Vec<_> = (0..CLIENTS)
        .map(|writer| {
            let (client, is_over, created) = (client.clone(), is_over.clone(), created.clone());
            tokio::spawn(async move {
                let mut index = 0;
                while !is_over.load(Ordering::Relaxed) {
                    client.create(&config_map(format!("map-{writer}-{index}"))).await.expect("created");
                    created.fetch_add(1, Ordering::Relaxed);
                    index += 1;
                }
            })
        })
        .collect();
    let began = Instant::now();
    tokio::time::sleep(WINDOW).await;
    let rate = created.load(Ordering::Relaxed) as f64 / began.elapsed().as_secs_f64();
    is_over.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.await.expect("no panic");
    }
    client.store().close().await;
    rate as u64
}
