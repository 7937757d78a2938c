//! Connections into pods, with stock kubectl of two versions and `kube`: port-forward, proxy, exec and attach. And those to
//! the API server itself.

use std::{
    io::{BufRead as _, BufReader, Read as _},
    process::{Child, ChildStdout, Command, Stdio},
};

use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use k8s_openapi::api::core::v1::Pod;
use kube::api::AttachParams;
use naru_tests::{Cluster, Kubectl, eventually, raw_client::Target, write_guest};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const WEB: &str = "\
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec:
  containers:
  - {name: web, image: 'hello:v1', ports: [{name: http, containerPort: 8080}], env: [{name: POD_NAME, value: web}]}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  selector: {app: web}
  ports: [{name: main, port: 80, targetPort: http}]
";

const GREETING: &str = "Hello from WebAssembly, served by web\n";

/// A cluster with the pod and Service `web`, which serve.
async fn with_web() -> Cluster {
    let cluster = Cluster::start();
    cluster.import_samples(&["hello"]);
    let kubectl = cluster.kubectl();
    kubectl.apply(WEB);
    kubectl.run(&["wait", "--for=condition=Ready", "pod/web", "--timeout=60s"]).ok();
    eventually("the Service has an endpoint", async || {
        let path = "jsonpath={.subsets[*].addresses[*].ip}";
        let answer = kubectl.run(&["get", "endpoints", "web", "-o", path]);
        if answer.stdout.is_empty() { Err(answer.stderr) } else { Ok(()) }
    })
    .await;
    cluster
}

/// A kubectl that goes on until this is dropped.
struct Running {
    process: Child,
    /// Kept, as kubectl ends when nobody takes what it says.
    output: BufReader<ChildStdout>,
}

impl Running {
    fn start(mut command: Command) -> Self {
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut process = child.expect("kubectl starts");
        let output = BufReader::new(process.stdout.take().expect("it is piped"));
        Self { process, output }
    }

    fn forward(kubectl: &Kubectl, what: &str, port: &str, websockets: bool) -> (Self, String) {
        let mut command = kubectl.command(&["port-forward", what, port]);
        command.env("KUBECTL_PORT_FORWARD_WEBSOCKETS", websockets.to_string());
        let mut running = Self::start(command);
        let line = running.line();
        let address = line.strip_prefix("Forwarding from ").and_then(|rest| rest.split(' ').next());
        let url = format!("http://{}/", address.unwrap_or_else(|| panic!("kubectl said {line:?}")));
        (running, url)
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).expect("kubectl says something");
        line
    }

    /// All that it complains of until it ends.
    fn complaints(&mut self) -> String {
        let mut text = String::new();
        self.process.stderr.take().expect("it is piped").read_to_string(&mut text).expect("a text");
        text
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kubectl_forwards_ports_in_each_protocol_that_it_knows() {
    let cluster = with_web().await;
    let http = cluster.http();
    for kubectl in cluster.kubectls() {
        for websockets in [true, false] {
            for (what, ports) in [("service/web", ":80"), ("pod/web", ":http")] {
                let (_running, url) = Running::forward(&kubectl, what, ports, websockets);
                // Several connections, one after the other and at the same time.
                for _ in 0..2 {
                    let answers = futures::future::join_all((0..4).map(|_| async {
                        http.get(&url).send().await.expect("an answer").text().await.expect("a text")
                    }));
                    assert_eq!(answers.await, [GREETING; 4], "{what}, WebSockets: {websockets}");
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_that_nobody_listens_on_is_said_to_be_so() {
    let cluster = with_web().await;
    for websockets in [true, false] {
        let kubectl = cluster.kubectl();
        let (mut running, url) = Running::forward(&kubectl, "pod/web", ":9999", websockets);
        assert!(cluster.http().get(url).send().await.is_err());
        // It ends then, as there is no use in going on.
        let said = running.complaints();
        assert!(said.contains("error forwarding port 9999 to pod web_default"), "{said}");
        assert!(said.contains("connection refused"), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_rust_client_forwards_ports_over_channels() {
    let cluster = with_web().await;
    let pods: kube::Api<Pod> = kube::Api::default_namespaced(cluster.client().await);
    let mut forwarder = pods.portforward("web", &[8080]).await.expect("a connection");
    let mut stream = forwarder.take_stream(8080).expect("a stream");
    stream.write_all(b"GET / HTTP/1.1\r\nhost: web\r\nconnection: close\r\n\r\n").await.expect("a request");
    let mut answer = String::new();
    let read = tokio::time::timeout(naru_tests::DEADLINE, stream.read_to_string(&mut answer)).await;
    read.expect("in time").expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.contains(GREETING), "{answer}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_runs_in_the_cluster_is_reached_by_paths_of_the_api() {
    let cluster = with_web().await;
    let (node, core) = ("/api/v1/nodes", "/api/v1/namespaces/default");
    for kubectl in cluster.kubectls() {
        let get = |path: &str| kubectl.run(&["get", "--raw", path]);
        for name in ["web", "web:8080", "http:web:8080"] {
            assert_eq!(get(&format!("{core}/pods/{name}/proxy/")).ok(), GREETING, "{name}");
        }
        for name in ["web:main", "web:80", "http:web:main"] {
            assert_eq!(get(&format!("{core}/services/{name}/proxy/?x=%2F")).ok(), GREETING, "{name}");
        }
        // A redirection to the same with a slash at its end, followed.
        assert_eq!(get(&format!("{core}/services/web:80/proxy")).ok(), GREETING);
        assert_eq!(get(&format!("{core}/services/web:80/proxy/healthz")).ok(), "ok\n");
        let name = kubectl.run(&["get", "nodes", "-o", "jsonpath={.items[0].metadata.name}"]).ok();
        assert_eq!(get(&format!("{node}/{name}/proxy/healthz")).ok(), "ok");
        assert!(get(&format!("{node}/{name}/proxy/stats/summary")).ok().contains("\"nodeName\""));

        // Without a port only a service's port without a name is meant.
        let refused = get(&format!("{core}/services/web/proxy/")).refused();
        assert!(refused.contains("no endpoints available for service \"web\""), "{refused}");
        let refused = get(&format!("{core}/services/web:81/proxy/")).refused();
        assert!(refused.contains("no service port 81 found for service \"web\""), "{refused}");
        let refused = get(&format!("{core}/pods/web:9999/proxy/")).refused();
        assert!(refused.contains("error trying to reach service: dial tcp"), "{refused}");
        assert!(get(&format!("{core}/pods/nobody/proxy/")).refused().contains("pods \"nobody\" not found"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kubectl_proxy_leads_to_services() {
    let cluster = with_web().await;
    let mut running = Running::start(cluster.kubectl().command(&["proxy", "--port=0"]));
    let line = running.line();
    let address = line.trim().rsplit(' ').next().expect("an address").to_owned();
    let url = format!("http://{address}/api/v1/namespaces/default/services/web:main/proxy/nothing?a=b");
    let response = cluster.http().post(url).body("x").send().await.expect("an answer");
    let (status, text) = (response.status(), response.text().await.expect("a text"));
    assert_eq!((status.as_u16(), text.as_str()), (404, "nothing at /nothing\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn to_connect_takes_the_right_to() {
    let cluster = with_web().await;
    let kubectl = cluster.kubectl();
    kubectl.run(&["create", "rolebinding", "jane", "--clusterrole=view", "--user=jane"]).ok();
    // Reading a subresource that leads elsewhere is more than viewing.
    kubectl.run(&["create", "role", "reader", "--verb=get", "--resource=pods/portforward"]).ok();
    kubectl.run(&["create", "rolebinding", "reader", "--role=reader", "--user=jane"]).ok();
    eventually("jane may see pods", async || {
        let answer = kubectl.run(&["get", "pods", "--as=jane"]);
        if answer.code == 0 { Ok(()) } else { Err(answer.stderr) }
    })
    .await;
    let refused = kubectl.run(&["port-forward", "pod/web", ":8080", "--as=jane"]).refused();
    assert!(refused.contains("cannot create resource \"pods/portforward\""), "{refused}");
    let path = "/api/v1/namespaces/default/pods/web/proxy/";
    let refused = kubectl.run(&["get", "--raw", path, "--as=jane"]).refused();
    assert!(refused.contains("cannot get resource \"pods/proxy\""), "{refused}");
}

/// Sleeps for an hour; with arguments, copies its input to its output and exits with how many it has, its name among
/// them.
const COPIES: &str = include_str!("../guests/copies.wat");

/// A cluster with the pods `worker`, which ticks, and `copies`, which sleeps.
fn with_commands() -> Cluster {
    let cluster = Cluster::start();
    cluster.import_samples(&["worker"]);
    let copies = wat::parse_str(COPIES).expect("a valid module");
    cluster.import(&write_guest(cluster.temp_dir(), "copies.wasm", &copies), "copies:v1");
    let kubectl = cluster.kubectl();
    for (name, args) in [("worker", "args: [tick, '600']"), ("copies", "")] {
        kubectl.apply(&format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}, spec: {{containers: [{{name: main, image: \
             '{name}:v1', {args}}}]}}}}"
        ));
        kubectl.run(&["wait", "--for=condition=Ready", &format!("pod/{name}"), "--timeout=60s"]).ok();
    }
    cluster
}

#[test]
fn kubectl_runs_programs_and_tells_how_they_ended() {
    let cluster = with_commands();
    for kubectl in cluster.kubectls() {
        let primes = kubectl.run(&["exec", "worker", "--", "worker", "primes", "100"]);
        assert_eq!(primes.ok(), "counting primes below 100\nthere are 25\n");
        let failed = kubectl.run(&["exec", "worker", "-c", "main", "--", "worker", "exit", "7"]);
        assert_eq!(failed.code, 7, "{failed:?}");
        assert!(failed.stderr.starts_with("leaving with exit code 7\n"), "{}", failed.stderr);
        let copied =
            kubectl.run_with(&["exec", "-i", "copies", "--", "copy", "it"], &"some text\n".repeat(10_000));
        assert_eq!((copied.code, copied.stdout.len()), (2, 100_000), "{}", copied.stderr);
        // The other protocol that clients in Go speak.
        let mut command = kubectl.command(&["exec", "worker", "--", "worker", "exit", "5"]);
        let output = command.env("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", "false").output().expect("it starts");
        assert_eq!(output.status.code(), Some(5), "{output:?}");
        assert_eq!(String::from_utf8_lossy(&output.stderr).lines().next(), Some("leaving with exit code 5"));

        let refused = kubectl.run(&["exec", "worker", "-c", "nope", "--", "x"]).refused();
        assert!(refused.contains("container nope is not valid for pod worker"), "{refused}");
    }
}

#[test]
fn the_clients_of_other_languages_open_streams() {
    let cluster = with_commands();
    cluster.import_samples(&["hello"]);
    let kubectl = cluster.kubectl();
    kubectl.apply(WEB);
    kubectl.run(&["wait", "--for=condition=Ready", "pod/web", "--timeout=60s"]).ok();
    for program in ["python_streams.py", "javascript_streams.mjs"] {
        let said = cluster.client_program(program).ok();
        assert!(said.ends_with("ok\n"), "{program}: {said}");
    }
}

/// `kubectl cp` runs `tar` in the container. A wasm container runs its own module whatever the program is called, so
/// that one which brings several tools under their names can answer to `tar`, too; others end with what they make of
/// such arguments.
#[test]
fn a_copy_asks_the_module_for_tar() {
    let cluster = with_commands();
    for kubectl in cluster.kubectls() {
        let refused = kubectl.run(&["cp", "worker:/etc/hosts", "/dev/null"]).refused();
        assert!(refused.contains("command terminated with exit code 2"), "{refused}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_has_no_program_and_says_so() {
    let cluster = with_web().await;
    for kubectl in cluster.kubectls() {
        let refused = kubectl.run(&["exec", "web", "--", "sh"]).refused();
        assert!(refused.contains("serves wasi:http and has no program to run"), "{refused}");
    }
}

#[test]
fn kubectl_attaches_to_what_runs() {
    let cluster = with_commands();
    for kubectl in cluster.kubectls() {
        let mut running = Running::start(kubectl.command(&["attach", "worker"]));
        let tick = running.line();
        assert!(tick.starts_with("tick "), "{tick}");
        let refused = kubectl.run_with(&["attach", "-i", "worker"], "x").refused();
        assert!(refused.contains("stdin"), "{refused}");
    }
}

#[test]
fn a_container_that_asks_for_input_gets_it_from_who_attaches() {
    let cluster = with_commands();
    for (kubectl, name) in cluster.kubectls().iter().zip(["old", "new"]) {
        kubectl.apply(&format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}, spec: {{restartPolicy: Never, containers: [{{name: \
             main, image: 'copies:v1', args: [copy], stdin: true, stdinOnce: true}}]}}}}"
        ));
        kubectl.run(&["wait", "--for=condition=Ready", &format!("pod/{name}"), "--timeout=60s"]).ok();
        let attached = kubectl.run_with(&["attach", "-i", name], "hello\n");
        assert_eq!(attached.stdout, "hello\n", "{}", attached.stderr);
        let code = ".status.containerStatuses[0].state.terminated.exitCode";
        kubectl
            .run(&["wait", &format!("--for=jsonpath={{{code}}}=2"), &format!("pod/{name}"), "--timeout=60s"])
            .ok();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_rust_client_runs_programs() {
    let cluster = with_commands();
    let pods: kube::Api<Pod> = kube::Api::default_namespaced(cluster.client().await);
    let options = AttachParams::default().stdin(true).stdout(true).stderr(true);
    let mut process = pods.exec("copies", ["copy", "a", "b"], &options).await.expect("it runs");
    let status = process.take_status().expect("a status");
    let mut stdin = process.stdin().expect("an input");
    stdin.write_all(b"hello").await.expect("it is taken");
    stdin.shutdown().await.expect("it ends");
    drop(stdin);
    let mut output = String::new();
    process.stdout().expect("an output").read_to_string(&mut output).await.expect("a text");
    assert_eq!(output, "hello");
    let status =
        tokio::time::timeout(naru_tests::DEADLINE, status).await.expect("in time").expect("a status");
    assert_eq!(status.reason.as_deref(), Some("NonZeroExitCode"));
    let cause = &status.details.expect("details").causes.expect("causes")[0];
    assert_eq!((cause.reason.as_deref(), cause.message.as_deref()), (Some("ExitCode"), Some("3")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn probes_and_hooks_run_programs() {
    let cluster = with_commands();
    let kubectl = cluster.kubectl();
    kubectl.apply(
        "{apiVersion: v1, kind: Pod, metadata: {name: probed}, spec: {containers: [{name: main, image: 'worker:v1', \
         args: [tick, '600'], readinessProbe: {periodSeconds: 1, exec: {command: [worker, primes, '10']}}, \
         lifecycle: {postStart: {exec: {command: [worker, primes, '10']}}}}]}}",
    );
    kubectl.run(&["wait", "--for=condition=Ready", "pod/probed", "--timeout=60s"]).ok();
    kubectl.apply(
        "{apiVersion: v1, kind: Pod, metadata: {name: unready}, spec: {containers: [{name: main, image: 'worker:v1', \
         args: [tick, '600'], readinessProbe: {periodSeconds: 1, exec: {command: [worker, exit, '4']}}}]}}",
    );
    kubectl.eventually_event("unready", "Unhealthy: Readiness probe failed: leaving with exit code 4").await;
    kubectl.eventually_field("unready", ".status.containerStatuses[0].ready", "false").await;
}

#[tokio::test]
async fn an_answer_to_head_has_no_body_in_http2() {
    let cluster = Cluster::start();
    let target = Target::from_kubeconfig(&cluster.kubeconfig());
    let stream = TokioIo::new(target.tls(&[b"h2"]).await);
    let (mut sender, connection) =
        http2::handshake(TokioExecutor::new(), stream).await.expect("a connection");
    tokio::spawn(connection);
    let refusal = concat!(
        r#"{"apiVersion":"v1","code":405,"details":{},"kind":"Status","message":"the server does not allow this "#,
        r#"method on the requested resource","metadata":{},"reason":"MethodNotAllowed","status":"Failure"}"#,
    );
    for (path, code, length) in [("/healthz", 200, "ok".len()), ("/api/v1/nodes", 405, refusal.len())] {
        let request = Request::head(format!("https://{}{path}", target.authority()));
        let request = request.body(Empty::<Bytes>::new()).expect("a request");
        let answer = sender.send_request(request).await.expect("an answer");
        assert_eq!(answer.status(), code, "{path}");
        assert_eq!(answer.headers()[header::CONTENT_LENGTH], length.to_string(), "{path}");
        let body = answer.into_body().collect().await.expect("nothing follows");
        assert!(body.to_bytes().is_empty(), "{path}");
    }
}
