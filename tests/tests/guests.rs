//! Files that shall pass for wasm, and guests that mean harm: each gets its reason, and nobody else notices.

#[path = "../../wasi-shim/tests/shim/guest.rs"]
mod guest;

use std::time::Instant;

use guest::guest;
use naru_tests::{Cluster, Options, bench::children, eventually, write_guest};

fn pod(name: &str, image: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  restartPolicy: Never\n  containers:\n  - name: c\n    \
         image: {image}\n    imagePullPolicy: IfNotPresent\n"
    )
}

#[test]
fn a_file_that_is_not_wasm_is_not_imported() {
    let cluster = Cluster::start();
    let file = write_guest(cluster.temp_dir(), "elf.wasm", b"\x7fELF and so on");
    let refused = cluster.naru(&["image", "import", &file.to_string_lossy(), "--name", "elf:v1"]).refused();
    assert!(refused.contains("not a WebAssembly file"), "{refused}");
    let refused = cluster.naru(&["image", "import", "/nonexistent.wasm"]).refused();
    assert!(refused.contains("/nonexistent.wasm"), "{refused}");
    let refused = cluster.naru(&["image", "rm", "nobody:v1"]).refused();
    assert_eq!(refused, "naru: cannot remove image nobody:v1: images \"nobody:v1\" not found\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_truncated_file_and_a_missing_import_are_told_in_events() {
    let cluster = Cluster::start();
    let kubectl = cluster.kubectl();
    let whole = std::fs::read(naru_tests::sample("hello")).unwrap();
    let truncated = write_guest(cluster.temp_dir(), "cut.wasm", &whole[..whole.len() / 2]);
    cluster.import(&truncated, "cut:v1");
    kubectl.apply(&pod("cut", "cut:v1"));
    kubectl.eventually_event("cut", "damaged").await;

    let wanting = br#"(module (import "acme:rockets/launch@1.0.0" "fire" (func)) (memory (export "memory") 1)
        (func (export "_start") (call 0)))"#;
    let wasm = wat(wanting);
    cluster.import(&write_guest(cluster.temp_dir(), "rockets.wasm", &wasm), "rockets:v1");
    kubectl.apply(&pod("rockets", "rockets:v1"));
    kubectl.eventually_event("rockets", "acme:rockets/launch@1.0.0").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_that_nobody_has_is_told_with_the_registrys_reason() {
    let cluster = Cluster::start();
    let kubectl = cluster.kubectl();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    kubectl.apply(&pod("nowhere", &format!("localhost:{free}/nowhere:v1")));
    kubectl.eventually_event("nowhere", "nowhere:v1").await;
    kubectl.apply(&pod("never", "unknown:v1").replace("IfNotPresent", "Never"));
    eventually("a pod that may not pull says so", async || {
        let path = "jsonpath={.status.containerStatuses[0].state.waiting.reason}";
        let reason = kubectl.run(&["get", "pod", "never", "-o", path]).ok();
        if reason == "ErrImageNeverPull" { Ok(()) } else { Err(reason) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_guests_end_with_their_reason_and_harm_nobody() {
    let cluster = Cluster::start();
    let kubectl = cluster.kubectl();
    cluster.import_samples(&["hello"]);
    kubectl.run(&["create", "deployment", "web", "--image=hello:v1", "--port=8080"]).ok();
    kubectl.run(&["rollout", "status", "deploy/web", "--timeout=60s"]).ok();
    let guests: [(&str, &[u8], &str, &str); 3] = [
        (
            "bomb",
            br#"(module (memory (export "memory") 1) (func (export "_start")
                (loop $more (br_if $more (i32.ne (memory.grow (i32.const 64)) (i32.const -1)))) unreachable))"#,
            "OOMKilled",
            "137",
        ),
        ("deep", br#"(module (memory (export "memory") 1) (func $f (call $f)) (func (export "_start") (call $f)))"#, "Error", "134"),
        ("trap", br#"(module (memory (export "memory") 1) (func (export "_start") unreachable))"#, "Error", "134"),
    ];
    for (name, text, reason, code) in guests {
        cluster.import(
            &write_guest(cluster.temp_dir(), &format!("{name}.wasm"), &wat(text)),
            &format!("{name}:v1"),
        );
        let limited = pod(name, &format!("{name}:v1")) + "    resources: {limits: {memory: 16Mi}}\n";
        kubectl.apply(&limited);
        eventually(&format!("{name} ends with {reason}"), async || {
            let path = "jsonpath={.status.containerStatuses[0].state.terminated.reason} \
                        {.status.containerStatuses[0].state.terminated.exitCode}";
            let state = kubectl.run(&["get", "pod", name, "-o", path]).ok();
            if state == format!("{reason} {code}") { Ok(()) } else { Err(state) }
        })
        .await;
    }

    // One that never yields is still deleted within its grace, while others answer.
    let spin = wat(br#"(module (memory (export "memory") 1) (func (export "_start") (loop $on (br $on))))"#);
    cluster.import(&write_guest(cluster.temp_dir(), "spin.wasm", &spin), "spin:v1");
    kubectl.apply(&pod("spin", "spin:v1"));
    kubectl.run(&["wait", "--for=jsonpath={.status.phase}=Running", "pod/spin", "--timeout=60s"]).ok();
    let ip = kubectl.run(&["get", "pods", "-l", "app=web", "-o", "jsonpath={.items[0].status.podIP}"]).ok();
    let answer = cluster.http().get(format!("http://{ip}:8080/")).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    kubectl.run(&["delete", "pod", "spin", "--grace-period=1", "--timeout=30s"]).ok();
    let restarts = "jsonpath={.items[0].status.containerStatuses[0].restartCount}";
    assert_eq!(kubectl.run(&["get", "pods", "-l", "app=web", "-o", restarts]).ok(), "0");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn guests_get_no_more_sockets_files_and_addresses_than_they_were_given() {
    let cluster = Cluster::start();
    let kubectl = cluster.kubectl();
    cluster.import_samples(&["hello"]);
    cluster.import(&guest("service02"), "service:v1");
    cluster.import(&guest("command02"), "reader:v1");
    let paths =
        ["/etc/passwd", "..", "/data/..", "/data/../../../../../../../../etc/passwd", "/proc/self/environ"];
    let reader = pod("reader", "reader:v1")
        + &format!(
            "    args: {paths:?}\n    volumeMounts: [{{name: data, mountPath: /data}}]\n  volumes: [{{name: data, emptyDir: {{}}}}]\n"
        );
    kubectl.apply(&[pod("web", "hello:v1"), pod("hostile", "service:v1"), reader].join("---\n"));
    kubectl.run(&["wait", "--for=condition=Ready", "pod/web", "pod/hostile", "--timeout=60s"]).ok();
    let [web, hostile] =
        ["web", "hostile"].map(|pod| format!("http://{}:8080", kubectl.pod_field(pod, ".status.podIP")));
    let http = cluster.http();
    let get = async |url: &str| http.get(url).send().await.unwrap().text().await.unwrap();

    // It holds as many sockets as it may when it is refused one more; the neighbour still gets its own.
    let sockets = format!("{hostile}/sockets");
    let (hoard, neighbour) = tokio::join!(get(&sockets), get(&web));
    assert!(hoard.starts_with("1024 ") && hoard.contains("new-socket-limit"), "{hoard}");
    assert!(neighbour.starts_with("Hello"), "{neighbour}");

    // What the host serves to itself is not there for a pod, another pod is.
    for (host, error) in [("127.0.0.1", "connection-refused"), ("127.0.0.2", "access-denied")] {
        let listener = std::net::TcpListener::bind((host, 0)).unwrap();
        let answer = get(&format!("{hostile}/connect/{}", listener.local_addr().unwrap())).await;
        assert!(answer.contains(error), "{host}: {answer}");
    }
    let friend = web.trim_start_matches("http://");
    assert_eq!(get(&format!("{hostile}/connect/{friend}")).await, "Ok(())");

    kubectl.eventually_field("reader", ".status.phase", "Succeeded").await;
    let log = kubectl.run(&["logs", "reader"]).ok();
    for path in paths {
        assert!(log.contains(&format!("cannot read {path}: ")), "{path}: {log}");
    }
    assert!(!log.contains("root:"), "{log}");
    for pod in ["web", "hostile"] {
        assert_eq!(kubectl.pod_field(pod, ".status.containerStatuses[0].restartCount"), "0", "{pod}");
    }

    // One that takes more memory than it may, by a request, is ended for that.
    kubectl.apply(&(pod("bomber", "service:v1") + "    resources: {limits: {memory: 32Mi}}\n"));
    kubectl.run(&["wait", "--for=condition=Ready", "pod/bomber", "--timeout=60s"]).ok();
    let bomber = format!("http://{}:8080", kubectl.pod_field("bomber", ".status.podIP"));
    // The container ends with it: the connection may break before the answer is out.
    if let Ok(answer) = http.get(format!("{bomber}/bomb")).send().await {
        assert_eq!(answer.status(), 500);
    }
    kubectl
        .eventually_field("bomber", ".status.containerStatuses[0].state.terminated.reason", "OOMKilled")
        .await;
    assert!(get(&web).await.starts_with("Hello"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cpu_limit_holds_an_endless_loop_which_can_still_be_deleted() {
    let cluster = Cluster::start();
    let kubectl = cluster.kubectl();
    let spin = wat(br#"(module (memory (export "memory") 1) (func (export "_start") (loop $on (br $on))))"#);
    cluster.import(&write_guest(cluster.temp_dir(), "spin.wasm", &spin), "spin:v1");
    kubectl.apply(&(pod("limited", "spin:v1") + "    resources: {limits: {cpu: 200m}}\n"));
    kubectl.run(&["wait", "--for=jsonpath={.status.phase}=Running", "pod/limited", "--timeout=60s"]).ok();
    let [runtime] = children(cluster.pid())[..] else { panic!("one runtime") };
    let (before, started) = (cpu_seconds(runtime), Instant::now());
    eventually("it computes for a while", async || match cpu_seconds(runtime) - before {
        used if used > 0.5 => Ok(()),
        used => Err(used),
    })
    .await;
    // At a fifth of a CPU this takes 2.5 s; a busy machine only makes it longer.
    let share = 0.5 / started.elapsed().as_secs_f64();
    assert!(share < 0.5, "it used {share} CPUs");
    kubectl.run(&["delete", "pod", "limited", "--grace-period=1", "--timeout=30s"]).ok();
}

/// For how many of the runtime's engines the one image was compiled that a service with fresh instances and one with
/// kept instances run.
fn engines(args: &[&str]) -> usize {
    let args = args.iter().map(|arg| (*arg).to_owned()).collect();
    let cluster = Cluster::start_with(Options { args, ..Options::default() });
    cluster.import_samples(&["hello"]);
    let kubectl = cluster.kubectl();
    for (name, annotations) in
        [("fresh", "{}"), ("kept", r#"{wasm.naru.dev/max-requests-per-instance: "100"}"#)]
    {
        let metadata = format!("metadata: {{name: {name}, annotations: {annotations}}}");
        kubectl.apply(&pod(name, "hello:v1").replace(&format!("metadata: {{name: {name}}}"), &metadata));
        kubectl.run(&["wait", "--for=condition=Ready", &format!("pod/{name}"), "--timeout=60s"]).ok();
    }
    let modules = cluster.data_dir().join("nodes/naru/runtime/modules");
    let files = std::fs::read_dir(modules).unwrap().map(|file| file.unwrap().path());
    files.filter(|file| file.extension().is_some_and(|end| end == "cwasm")).count()
}

#[test]
fn hardened_guests_are_compiled_for_one_engine() {
    assert_eq!(engines(&["--harden-guests"]), 1);
    assert_eq!(engines(&[]), 2);
}

/// What a process has used so far.
fn cpu_seconds(pid: u32) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // After the name, which may hold anything: the 12th and 13th field, in hundredths.
    let fields = text.rsplit_once(')').unwrap().1.split_whitespace().skip(11).take(2);
    fields.map(|ticks| ticks.parse::<f64>().unwrap() / 100.0).sum()
}

/// The binary form of a module or component in text.
fn wat(text: &[u8]) -> Vec<u8> {
    wat::parse_str(std::str::from_utf8(text).unwrap()).unwrap()
}
