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
use tokio_util::sync::CancellationToken;

use super::{
    node_api::{Body, text},
    pod_manager::Workers,
    streaming::{
        negotiation::{Carrier, Known, negotiate},
        port_forward, websocket,
    },
};

/// The client's connection once it speaks another protocol.
type Connection = TokioIo<Upgraded>;

/// `/portForward/NAMESPACE/POD?port=N…`
pub fn port_forward(
    workers: &Workers,
    (namespace, pod): (&str, &str),
    request: &Request<Incoming>,
    shutdown: CancellationToken,
) -> Response<Body> {
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
    upgrade(request, port_forward::PROTOCOLS, shutdown, move |carrier| match carrier {
        Carrier::WebSocket(protocol) if protocol != port_forward::SPDY_IN_WEBSOCKET && ports.is_empty() => {
            Err("query parameter \"port\" is required\n".into())
        }
        carrier => Ok(Box::new(move |connection| forward(carrier, connection, ports, target))),
    })
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

/// What is done with a connection that was upgraded.
type Serve = Box<dyn FnOnce(Connection) -> BoxFuture<'static, ()> + Send>;

/// Agrees on a protocol and serves it beside this answer. `prepare` may still refuse, with a text for the client.
pub(super) fn upgrade(
    request: &Request<Incoming>,
    known: Known,
    shutdown: CancellationToken,
    prepare: impl FnOnce(Carrier) -> Result<Serve, String>,
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
    let serve = match prepare(carrier) {
        Ok(serve) => serve,
        Err(message) => return text(StatusCode::BAD_REQUEST, message),
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
