//! Files that shall pass for wasm, and guests that mean harm: each gets its reason, and nobody else notices.

use naru_tests::{Cluster, Kubectl, eventually, write_guest};

fn pod(name: &str, image: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  restartPolicy: Never\n  containers:\n  - name: c\n    \
         image: {image}\n    imagePullPolicy: IfNotPresent\n"
    )
}

/// Waits until an event of the pod says `text`.
async fn event_says(kubectl: &Kubectl, pod: &str, text: &str) {
    eventually(&format!("an event of {pod} says {text:?}"), async || {
        let selector = format!("involvedObject.name={pod}");
        let path = "jsonpath={range .items[*]}{.reason}: {.message}{\"\\n\"}{end}";
        let events = kubectl.run(&["get", "events", "--field-selector", &selector, "-o", path]).ok();
        if events.contains(text) { Ok(()) } else { Err(events) }
    })
    .await;
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
    assert!(refused.contains("nobody:v1"), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_truncated_file_and_a_missing_import_are_told_in_events() {
    let cluster = Cluster::start();
    let kubectl = cluster.kubectl();
    let whole = std::fs::read(naru_tests::sample("hello")).unwrap();
    let truncated = write_guest(cluster.temp_dir(), "cut.wasm", &whole[..whole.len() / 2]);
    cluster.import(&truncated, "cut:v1");
    kubectl.apply(&pod("cut", "cut:v1"));
    event_says(&kubectl, "cut", "damaged").await;

    let wanting = br#"(module (import "acme:rockets/launch@1.0.0" "fire" (func)) (memory (export "memory") 1)
        (func (export "_start") (call 0)))"#;
    let wasm = wat(wanting);
    cluster.import(&write_guest(cluster.temp_dir(), "rockets.wasm", &wasm), "rockets:v1");
    kubectl.apply(&pod("rockets", "rockets:v1"));
    event_says(&kubectl, "rockets", "acme:rockets/launch@1.0.0").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_that_nobody_has_is_told_with_the_registrys_reason() {
    let cluster = Cluster::start();
    let kubectl = cluster.kubectl();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    kubectl.apply(&pod("nowhere", &format!("localhost:{free}/nowhere:v1")));
    event_says(&kubectl, "nowhere", "nowhere:v1").await;
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

/// The binary form of a module or component in text.
fn wat(text: &[u8]) -> Vec<u8> {
    wat::parse_str(std::str::from_utf8(text).unwrap()).unwrap()
}
