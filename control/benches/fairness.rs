//! What a request pays for its seat while there is room: its schema is found, a seat is taken and given back.
//!
//! `cargo bench -p naru-control --bench fairness` prints a table. The target is less than a microsecond, alone and with
//! another thread that does the same.

use std::{
    sync::{Arc, Barrier},
    time::{Duration, Instant},
};

use futures::FutureExt as _;
use naru_control::{
    ApiClient,
    auth::{Attributes, User},
    fairness::{DEFAULT_SEATS, Fairness},
    registry::flowcontrol,
};

const WINDOW: Duration = Duration::from_secs(1);
const RUNS: usize = 3;
/// Requests between two looks at the clock.
const BATCH: u32 = 1_000;

/// Who asks for what.
struct Request {
    name: &'static str,
    user: User,
    attributes: Attributes<'static>,
}

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let fairness = Arc::new(runtime.block_on(default_configuration()));
    println!("| request | one thread | each of two threads |\n| --- | --- | --- |");
    for request in requests() {
        let cells = [1, 2].map(|threads| {
            let mut runs: Vec<_> = (0..RUNS).map(|_| measure(&fairness, &request, threads)).collect();
            runs.sort();
            format!("{:.0?}", runs[RUNS / 2])
        });
        println!("| {} | {} |", request.name, cells.join(" | "));
    }
}

/// What a cluster has that nobody changed.
async fn default_configuration() -> Fairness {
    let client = ApiClient::in_memory();
    for level in flowcontrol::priority_levels() {
        client.create(&level).await.expect("created");
    }
    for schema in flowcontrol::flow_schemas() {
        client.create(&schema).await.expect("created");
    }
    Fairness::new(DEFAULT_SEATS, &client.store().snapshot())
}

fn requests() -> Vec<Request> {
    let get = |resource| Attributes {
        verb: "get",
        resource,
        namespace: "shop",
        name: "web",
        ..Attributes::default()
    };
    let lease = Attributes { group: "coordination.k8s.io", ..get("leases") };
    let account = User::service_account("shop", "operator", "", std::collections::BTreeMap::default());
    vec![
        Request {
            name: "an administrator (exempt)",
            user: User::new("root", vec!["system:masters".into()]),
            attributes: get("pods"),
        },
        Request {
            name: "a node's lease (node-high)",
            user: User::new("system:node:amber", vec!["system:nodes".into()]),
            attributes: lease,
        },
        Request { name: "a service account (workload-low)", user: account, attributes: get("configmaps") },
        Request {
            name: "a user (global-default)",
            user: User::new("jane", vec!["devs".into()]),
            attributes: get("pods"),
        },
    ]
}

/// The time that one request takes of one thread.
fn measure(fairness: &Fairness, request: &Request, threads: usize) -> Duration {
    let start = Barrier::new(threads);
    let each = |_| {
        start.wait();
        let (began, mut served) = (Instant::now(), 0_u32);
        while began.elapsed() < WINDOW {
            for _ in 0..BATCH {
                let schema = fairness.classify(&request.user, &request.attributes);
                let seat = fairness.seat(&schema, 1, &request.user, &request.attributes, "/").now_or_never();
                let permit = seat.expect("there is room").unwrap_or_else(|_| panic!("there is room"));
                std::hint::black_box(&permit);
            }
            served += BATCH;
        }
        began.elapsed() / served
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|index| scope.spawn(move || each(index))).collect();
        workers.into_iter().map(|worker| worker.join().expect("no panic")).max().unwrap_or_default()
    })
}
