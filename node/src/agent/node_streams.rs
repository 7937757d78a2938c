//! The node API's connections that become streams: `/portForward`, `/exec`, `/attach`.

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Empty};
use hyper::{
    body::Incoming,
    upgrade::{OnUpgrade, Upgraded},
};
use hyper_util::rt::TokioIo;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{
    node_api::{Body, text},
    pod_manager::Workers,
    runtime::Runtime,
    streaming::{
        negotiation::{Carrier, Known, negotiate},
        port_forward,
        remote_command::{self, Options, Program},
        websocket,
    },
};
use crate::dataplane::{AttachStart, ExecStart, StreamRequest, stream_request};

/// The client's connection once it speaks another protocol.
type Connection = TokioIo<Upgraded>;

/// A request for a connection.
pub struct Call<'a> {
    pub workers: &'a Workers,
    pub runtime: &'a dyn Runtime,
    pub request: &'a Request<Incoming>,
    /// Ends what the connection becomes.
    pub shutdown: CancellationToken,
}

/// `/portForward/NAMESPACE/POD?port=N…`
pub async fn port_forward(call: Call<'_>, (namespace, pod): (&str, &str)) -> Response<Body> {
    let Call { workers, request, shutdown, .. } = call;
    let Some(report) = workers.find(namespace, pod) else {
        return text(StatusCode::NOT_FOUND, format!("pod {pod:?} does not exist\n"));
    };
    let address = report.status.pod_ip.as_deref().and_then(|address| address.parse().ok());
    let Some(address) = address else {
        return text(
            StatusCode::BAD_REQUEST,
            format!("pod {pod:?} has no address yet: it was not started\n"),
        );
    };
    let target = port_forward::Target {
        address,
        pod: format!("{pod}_{namespace}"),
        uid: report.pod.identity.uid.clone(),
    };
    let ports: Result<Vec<u16>, _> = query(request)
        .into_iter()
        .filter(|(name, _)| name == "port" || name == "ports")
        .flat_map(|(_, ports)| ports.split(',').map(str::to_owned).collect::<Vec<_>>())
        .map(|port| port.parse::<u16>().ok().filter(|port| *port != 0).ok_or(port))
        .collect();
    let ports = match ports {
        Ok(ports) => ports,
        Err(port) => return text(StatusCode::BAD_REQUEST, format!("unable to parse {port:?} as a port\n")),
    };
    let prepare = async move |carrier| match carrier {
        Carrier::WebSocket(protocol) if protocol != port_forward::SPDY_IN_WEBSOCKET && ports.is_empty() => {
            Err(text(StatusCode::BAD_REQUEST, "query parameter \"port\" is required\n"))
        }
        carrier => Ok::<Serve, _>(Box::new(move |connection| forward(carrier, connection, ports, target))),
    };
    upgrade(request, port_forward::PROTOCOLS, shutdown, prepare).await
}

fn forward(
    carrier: Carrier,
    connection: Connection,
    ports: Vec<u16>,
    target: port_forward::Target,
) -> BoxFuture<'static, ()> {
    Box::pin(async move {
        match carrier {
            Carrier::Spdy(_) => {
                let (reader, writer) = tokio::io::split(connection);
                port_forward::over_spdy(reader, writer, target).await;
            }
            Carrier::WebSocket(protocol) if protocol == port_forward::SPDY_IN_WEBSOCKET => {
                let (reader, writer) = websocket::bytes(websocket::accept(connection).await);
                port_forward::over_spdy(reader, writer, target).await;
            }
            Carrier::WebSocket(_) => port_forward::over_websocket(connection, ports, target).await,
        }
    })
}

/// `/exec/NAMESPACE/POD/CONTAINER?command=…&input=1&output=1&error=1&tty=1`, and `/attach` without a command.
pub async fn remote_command(
    call: Call<'_>,
    action: &str,
    (namespace, pod, container): (&str, &str, &str),
) -> Response<Body> {
    let Call { workers, runtime, request, shutdown } = call;
    let Some(report) = workers.find(namespace, pod) else {
        return text(StatusCode::NOT_FOUND, format!("pod {pod:?} does not exist\n"));
    };
    let running = report.observed.latest(container).filter(|record| record.is_running());
    let Some(container_id) = running.map(|record| record.id.clone()) else {
        return text(
            StatusCode::BAD_REQUEST,
            format!("container not found ({container:?}): it does not run\n"),
        );
    };
    let query = query(request);
    let flag =
        |name: &str| query.iter().any(|(key, value)| key == name && matches!(value.as_str(), "1" | "true"));
    let tty = flag("tty");
    // A terminal has one output.
    let options =
        Options { stdin: flag("input"), stdout: flag("output"), stderr: flag("error") && !tty, tty };
    if !(options.stdin || options.stdout || options.stderr) {
        return text(StatusCode::BAD_REQUEST, "you must specify at least 1 of stdin, stdout, stderr\n");
    }
    let command: Vec<String> =
        query.into_iter().filter(|(name, _)| name == "command").map(|(_, argument)| argument).collect();
    let (start, told) = match action {
        "exec" if command.is_empty() => {
            return text(StatusCode::BAD_REQUEST, "you must specify a command to run\n");
        }
        "exec" => {
            let told = format!("[{}]", command.join(" "));
            (
                stream_request::Request::Exec(ExecStart { container_id, command, stdin: options.stdin }),
                Some(told),
            )
        }
        _ => (stream_request::Request::Attach(AttachStart { container_id, stdin: options.stdin }), None),
    };
    let prepare = async |carrier| {
        let (requests, receiver) = mpsc::channel(8);
        let start = StreamRequest { request: Some(start) };
        requests.try_send(start).expect("a new channel has room");
        let responses = runtime.stream(receiver).await.map_err(|error| {
            let status = match error.code {
                tonic::Code::InvalidArgument | tonic::Code::FailedPrecondition => StatusCode::BAD_REQUEST,
                _ => StatusCode::INTERNAL_SERVER_ERROR,
            };
            text(status, error.message)
        })?;
        let program = Program { command: told, requests, responses };
        Ok::<Serve, _>(Box::new(move |connection| run(carrier, connection, options, program)))
    };
    upgrade(request, remote_command::PROTOCOLS, shutdown, prepare).await
}

fn run(
    carrier: Carrier,
    connection: Connection,
    options: Options,
    program: Program,
) -> BoxFuture<'static, ()> {
    Box::pin(async move {
        match carrier {
            Carrier::WebSocket(protocol) => {
                remote_command::over_websocket(connection, &protocol, options, program).await;
            }
            Carrier::Spdy(_) => {
                let (reader, writer) = tokio::io::split(connection);
                remote_command::over_spdy(reader, writer, options, program).await;
            }
        }
    })
}

/// What is done with a connection that was upgraded.
type Serve = Box<dyn FnOnce(Connection) -> BoxFuture<'static, ()> + Send>;

/// Agrees on a protocol and serves it beside this answer. `prepare` may still refuse.
async fn upgrade(
    request: &Request<Incoming>,
    known: Known,
    shutdown: CancellationToken,
    prepare: impl AsyncFnOnce(Carrier) -> Result<Serve, Response<Body>>,
) -> Response<Body> {
    if !matches!(*request.method(), Method::GET | Method::POST) {
        return text(StatusCode::METHOD_NOT_ALLOWED, "405: Method Not Allowed\n");
    }
    let (carrier, headers) = match negotiate(request.headers(), known) {
        Ok(agreed) => agreed,
        Err(refusal) => {
            let headers = refusal.headers();
            let mut response = text(refusal.status, refusal.message);
            response.headers_mut().extend(headers);
            return response;
        }
    };
    let serve = match prepare(carrier).await {
        Ok(serve) => serve,
        Err(refusal) => return refusal,
    };
    let Some(connection) = request.extensions().get::<OnUpgrade>().cloned() else {
        return text(StatusCode::BAD_REQUEST, "unable to upgrade: HTTP/1.1 is wanted for this\n");
    };
    tokio::spawn(async move {
        match connection.await {
            Ok(connection) => drop(shutdown.run_until_cancelled(serve(TokioIo::new(connection))).await),
            Err(error) => tracing::debug!(%error, "a connection was not upgraded"),
        }
    });
    let mut response = Response::new(Empty::<Bytes>::new().boxed_unsync());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    *response.headers_mut() = headers;
    response
}

/// The query's pairs, decoded.
pub fn query(request: &Request<Incoming>) -> Vec<(String, String)> {
    let query = request.uri().query().unwrap_or_default();
    let pairs = form_urlencoded::parse(query.as_bytes());
    pairs.map(|(name, value)| (name.into_owned(), value.into_owned())).collect()
}
