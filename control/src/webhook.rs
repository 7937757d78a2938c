//! HTTPS calls that the API server makes to webhooks: reviews go out as JSON, answers come back as JSON.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{Service, ServiceSpec};
use rustls::pki_types::ServerName;
use serde_json::Value;
use tokio::net::{TcpStream, lookup_host};
use tokio_rustls::TlsConnector;

use crate::{
    dialing,
    store::{Key, Store},
    trust::believing,
};

/// What an answer may be long.
const MAX_ANSWER_BYTES: usize = 16 << 20;
/// How much is shown of an answer that tells of an error.
const MAX_SHOWN_CHARS: usize = 2048;
/// Connections that are kept for the next calls, and for how long.
const MAX_IDLE: usize = 16;
const IDLE_PATIENCE: Duration = Duration::from_secs(30);

/// Where a webhook is and whom to believe there.
pub struct Webhook {
    uri: Uri,
    /// Namespace and name, where it is a service of this cluster.
    service: Option<(String, String)>,
    tls: TlsConnector,
    timeout: Duration,
    store: Store,
    /// Connections between calls, the last used last. Held to push or pop one.
    idle: Mutex<Vec<(Instant, Connection)>>,
}

struct Connection {
    /// The address that was dialled: a Service may get another one.
    host: String,
    sender: SendRequest<Full<Bytes>>,
}

/// Why an exchange failed.
struct Failure {
    problem: String,
    /// Whether the server may just have closed a connection that was kept.
    is_hangup: bool,
}

impl<T: std::fmt::Display> From<T> for Failure {
    fn from(problem: T) -> Self {
        Self { problem: problem.to_string(), is_hangup: false }
    }
}

/// How a webhook is named in an object's spec.
#[derive(Debug, Clone, Default)]
pub struct Place<'a> {
    pub url: Option<&'a str>,
    pub service: Option<ServicePlace<'a>>,
    /// PEM; where it is empty, this machine's authorities are believed.
    pub authority: &'a [u8],
}

#[derive(Debug, Clone, Default)]
pub struct ServicePlace<'a> {
    pub namespace: &'a str,
    pub name: &'a str,
    pub path: &'a str,
    pub port: u16,
}

impl Webhook {
    /// # Errors
    /// What is wrong with the place, in words.
    pub fn new(place: &Place<'_>, timeout: Duration, store: Store) -> Result<Self, String> {
        let text = match (&place.url, &place.service) {
            (Some(url), _) => (*url).to_owned(),
            (None, Some(service)) => {
                let (name, namespace, port) = (service.name, service.namespace, service.port);
                format!("https://{name}.{namespace}.svc:{port}/{}", service.path.trim_start_matches('/'))
            }
            (None, None) => return Err("neither a URL nor a service is given".into()),
        };
        let uri: Uri = text.parse().map_err(|error| format!("{text:?} is no URL: {error}"))?;
        let config = believing(place.authority)
            .map_err(|problem| format!("unable to load root certificates: {problem}"))?
            .with_no_client_auth();
        Ok(Self {
            uri,
            service: place.service.as_ref().map(|service| (service.namespace.into(), service.name.into())),
            tls: TlsConnector::from(Arc::new(config)),
            timeout,
            store,
            idle: Mutex::default(),
        })
    }

    /// Sends `review` and answers what comes back.
    ///
    /// # Errors
    /// `Post "https://…": …`, as Kubernetes words it.
    pub async fn call(&self, review: &Value) -> Result<Value, String> {
        let called = tokio::time::timeout(self.timeout, self.exchange(review)).await;
        let result = called.unwrap_or_else(|_| Err("context deadline exceeded".into()));
        result.map_err(|problem| format!("Post \"{}?{}\": {problem}", self.uri, self.query()))
    }

    /// What the webhook is told of our patience.
    fn query(&self) -> String {
        format!("timeout={}s", self.timeout.as_secs())
    }

    async fn exchange(&self, review: &Value) -> Result<Value, String> {
        let body = Bytes::from(review.to_string());
        let host = self.address()?;
        if let Some(connection) = self.kept(&host) {
            match self.send(connection, body.clone()).await {
                Err(failure) if failure.is_hangup => (),
                outcome => return outcome.map_err(|failure| failure.problem),
            }
        }
        let connection = self.connect(host).await.map_err(|failure| failure.problem)?;
        self.send(connection, body).await.map_err(|failure| failure.problem)
    }

    fn kept(&self, host: &str) -> Option<Connection> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some((since, connection)) = idle.pop() {
            if since.elapsed() < IDLE_PATIENCE && !connection.sender.is_closed() && connection.host == host {
                return Some(connection);
            }
        }
        None
    }

    fn keep(&self, connection: Connection) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < MAX_IDLE && !connection.sender.is_closed() {
            idle.push((Instant::now(), connection));
        }
    }

    fn host(&self) -> Result<&str, String> {
        Ok(self.uri.host().ok_or("no Host in request URL")?)
    }

    fn port(&self) -> u16 {
        self.uri.port_u16().unwrap_or(443)
    }

    async fn connect(&self, host: String) -> Result<Connection, Failure> {
        let stream = dial(&host, self.port()).await?;
        let name = ServerName::try_from(bare(self.host()?).to_owned())?;
        let stream = self.tls.connect(name, stream).await.map_err(|error| dialing::unbelieved(&error))?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // Ends with `sender`, wherever that is dropped.
        tokio::spawn(connection);
        Ok(Connection { host, sender })
    }

    async fn send(&self, mut connection: Connection, body: Bytes) -> Result<Value, Failure> {
        let request = Request::builder()
            .method(Method::POST)
            .uri(format!("{}?{}", self.uri.path(), self.query()))
            .header(header::HOST, format!("{}:{}", self.host()?, self.port()))
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::ACCEPT, "application/json")
            .body(Full::new(body))?;
        let hangup = |error: hyper::Error| Failure {
            is_hangup: error.is_canceled() || error.is_closed() || error.is_incomplete_message(),
            problem: error.to_string(),
        };
        connection.sender.ready().await.map_err(hangup)?;
        let response = connection.sender.send_request(request).await.map_err(hangup)?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES).collect().await?.to_bytes();
        self.keep(connection);
        if !status.is_success() {
            return Err(refusal(status, &body).into());
        }
        Ok(serde_json::from_slice(&body)?)
    }

    /// What to dial now: for a service its own address, or where its name leads outside.
    fn address(&self) -> Result<String, String> {
        let Some((namespace, name)) = &self.service else { return Ok(bare(self.host()?).into()) };
        let entry = self.store.snapshot().get(&Key::new("services", namespace, name));
        let service = entry.and_then(|entry| entry.typed::<Service>().ok());
        let service = service.ok_or_else(|| format!("service \"{name}\" not found"))?;
        let nothing = ServiceSpec::default();
        service_address(name, service.spec.as_ref().unwrap_or(&nothing), self.port())
    }
}

/// An address without the brackets that it has in a URL.
fn bare(host: &str) -> &str {
    host.trim_matches(['[', ']'])
}

/// Connects to the first address of `host` that can be reached; of several that cannot, the first is told of, as by Go.
async fn dial(host: &str, port: u16) -> Result<TcpStream, String> {
    let addresses = lookup_host((host, port)).await;
    let mut problem = format!("dial tcp: lookup {host}: no such host");
    for (index, address) in addresses.into_iter().flatten().enumerate() {
        match TcpStream::connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) if index == 0 => problem = dialing::unreached(&address.to_string(), &error),
            Err(_) => (),
        }
    }
    Err(problem)
}

/// What an answer without success says, as Kubernetes' clients put it.
fn refusal(status: StatusCode, body: &[u8]) -> String {
    match status {
        StatusCode::NOT_FOUND => "the server could not find the requested resource".into(),
        StatusCode::UNAUTHORIZED => "the server has asked for the client to provide credentials".into(),
        status if status.is_server_error() => {
            let text: String = String::from_utf8_lossy(body).trim().chars().take(MAX_SHOWN_CHARS).collect();
            format!("an error on the server ({text:?}) has prevented the request from succeeding")
        }
        status => {
            let code = status.as_u16();
            format!("the server responded with the status code {code} but did not return more information")
        }
    }
}

fn service_address(name: &str, spec: &ServiceSpec, port: u16) -> Result<String, String> {
    if spec.type_.as_deref() == Some("ExternalName") {
        return Ok(spec.external_name.clone().unwrap_or_default());
    }
    let address = spec.cluster_ip.as_deref().unwrap_or_default();
    if matches!(address, "" | "None") {
        return Err("cannot route to service with ClusterIP \"None\"".into());
    }
    if !spec.ports.iter().flatten().any(|of| of.port == i32::from(port)) {
        return Err(format!("no service port {port} found for service {name:?}"));
    }
    Ok(address.into())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[tokio::test]
    async fn who_cannot_be_reached_is_told_as_go_does() {
        // Bound and never listened on: nobody answers, and nobody else can take the port meanwhile.
        let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
        socket.bind("127.0.0.1:0".parse().expect("an address")).expect("a port");
        let port = socket.local_addr().expect("an address").port();
        let refused = dial("127.0.0.1", port).await.expect_err("nobody is there");
        assert_eq!(refused, format!("dial tcp 127.0.0.1:{port}: connect: connection refused"));
        // Too long for a name: no other server has to be asked.
        let name = "x".repeat(64);
        let unknown = dial(&name, 443).await.expect_err("no such name");
        assert_eq!(unknown, format!("dial tcp: lookup {name}: no such host"));
    }

    #[test]
    fn a_refusal_says_what_the_server_said() {
        let refusal =
            |code, body: &str| refusal(StatusCode::from_u16(code).expect("a code"), body.as_bytes());
        assert_eq!(
            refusal(500, "oops \"x\"\n"),
            r#"an error on the server ("oops \"x\"") has prevented the request from succeeding"#
        );
        assert_eq!(refusal(404, ""), "the server could not find the requested resource");
        let told = "the server responded with the status code 418 but did not return more information";
        assert_eq!(refusal(418, "teapot"), told);
    }

    #[test]
    fn a_service_is_reached_at_its_address_or_where_its_name_leads() {
        let address = |spec: Value| {
            let spec = serde_json::from_value(spec).expect("a spec");
            service_address("hooks", &spec, 8443)
        };
        let ports = json!([{ "port": 443 }, { "port": 8443, "targetPort": 1 }]);
        assert_eq!(address(json!({ "clusterIP": "10.0.0.1", "ports": ports })), Ok("10.0.0.1".into()));
        assert_eq!(
            address(json!({ "type": "ExternalName", "externalName": "example.com" })),
            Ok("example.com".into())
        );
        assert_eq!(
            address(json!({ "clusterIP": "None", "ports": ports })),
            Err("cannot route to service with ClusterIP \"None\"".into())
        );
        assert_eq!(
            address(json!({ "clusterIP": "10.0.0.1", "ports": [{ "port": 443 }] })),
            Err("no service port 8443 found for service \"hooks\"".into())
        );
    }
}
