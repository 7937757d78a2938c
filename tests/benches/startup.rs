//! From `naru up` to ready: on an empty folder, and on one with a cluster in it. And what it takes when idle.

use std::time::Instant;

use naru_tests::{
    Cluster,
    bench::{Samples, Table, children, private_mib, proportional_mib, report, resident_mib},
};

const RUNS: usize = 11;

fn main() {
    let (mut first, mut again) = (Samples::default(), Samples::default());
    let (mut control, mut runtime, mut all) = (Samples::default(), Samples::default(), Samples::default());
    for _ in 0..RUNS {
        let started = Instant::now();
        let mut cluster = Cluster::start();
        first.push(started.elapsed().as_secs_f64() * 1000.0);
        cluster.stop();
        let started = Instant::now();
        cluster.up();
        again.push(started.elapsed().as_secs_f64() * 1000.0);
        // Idle: after the burst of the start has settled.
        std::thread::sleep(std::time::Duration::from_secs(2));
        control.push(resident_mib(cluster.pid()));
        let runtimes = children(cluster.pid());
        runtime.push(runtimes.iter().copied().map(resident_mib).sum());
        let processes = runtimes.into_iter().chain([cluster.pid()]);
        all.push(processes.map(proportional_mib).sum());
        if std::env::var_os("VERBOSE").is_some() {
            eprintln!("private: {:.1} MiB", private_mib(cluster.pid()));
        }
    }
    let mut table = Table::new(&["what", "median", "min", "max", "target"]);
    let row = |name: &str, samples: &Samples, unit: &str, target: &str| {
        let cell = |value: f64| format!("{value:.0} {unit}");
        [name.into(), cell(samples.median()), cell(samples.min()), cell(samples.max()), target.into()]
    };
    table.row(&row("`naru up` to ready, empty folder", &first, "ms", "< 300 ms"));
    table.row(&row("`naru up` to ready, existing cluster", &again, "ms", ""));
    table.row(&row("idle: control plane and agent, resident", &control, "MiB", ""));
    table.row(&row("idle: runtime, resident", &runtime, "MiB", ""));
    table.row(&row("idle: in all, the binary's shared pages counted once", &all, "MiB", "< 80 MiB"));
    report("startup", "cargo bench -p naru-tests --bench startup", &table);
}
