//! One HTTP request at a time, for probes and hooks: a fresh connection, a deadline, errors in Go's words.

use std::{error::Error, io, sync::LazyLock, time::Duration};

use reqwest::{
    Client,
    header::{self, HeaderMap, HeaderName, HeaderValue},
    redirect::Policy,
};
use tokio::net::TcpStream;

use super::services::join_host_port;

/// Of an answer's body, this much is read: for messages, and to let the server finish.
const BODY_LIMIT: usize = 10 << 10;

/// Probes don't verify certificates: they ask whether the container serves, not who it is.
static CLIENT: LazyLock<Client> = LazyLock::new(|| {
    let _ = rustls::crypto::ring::default_provider().install_default(); // There may be one already.
    let builder =
        Client::builder().no_proxy().redirect(Policy::none()).http1_only().pool_max_idle_per_host(0);
    builder.tls_danger_accept_invalid_certs(true).build().expect("the settings are constants that fit")
});

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpTarget {
    pub is_https: bool,
    pub host: String,
    pub port: u16,
    /// With a leading slash.
    pub path: String,
    pub headers: Vec<(String, String)>,
}

impl HttpTarget {
    pub fn url(&self) -> String {
        let scheme = if self.is_https { "https" } else { "http" };
        format!("{scheme}://{}{}", join_host_port(&self.host, self.port.into()), self.path)
    }

    /// Status code and the beginning of the body.
    pub async fn get(&self, timeout: Duration, user_agent: &str) -> Result<(u16, String), String> {
        let answer = tokio::time::timeout(timeout, self.exchange(user_agent)).await;
        let result = answer.unwrap_or_else(|_| {
            Err("context deadline exceeded (Client.Timeout exceeded while awaiting headers)".into())
        });
        result.map_err(|reason| format!("Get {:?}: {reason}", self.url()))
    }

    async fn exchange(&self, user_agent: &str) -> Result<(u16, String), String> {
        let request = CLIENT.get(self.url()).headers(self.headers(user_agent)?);
        let mut response = request.send().await.map_err(|error| self.reason(&error))?;
        let code = response.status().as_u16();
        let mut body = Vec::new();
        // A body that breaks off doesn't change what the status code said.
        while let Ok(Some(chunk)) = response.chunk().await
            && body.len() + chunk.len() <= BODY_LIMIT
        {
            body.extend_from_slice(&chunk);
        }
        Ok((code, String::from_utf8_lossy(&body).into_owned()))
    }

    /// The user's own come before ours.
    fn headers(&self, user_agent: &str) -> Result<HeaderMap, String> {
        let mut headers = HeaderMap::new();
        for (name, value) in &self.headers {
            let name: HeaderName = name.parse().map_err(|_| format!("invalid header name {name:?}"))?;
            headers.append(name, value.parse().map_err(|_| format!("invalid header value {value:?}"))?);
        }
        let user_agent = user_agent.parse().map_err(|_| format!("invalid user agent {user_agent:?}"))?;
        headers.entry(header::USER_AGENT).or_insert(user_agent);
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        Ok(headers)
    }

    /// Why there is no answer, in Go's words.
    fn reason(&self, error: &reqwest::Error) -> String {
        let sources = || std::iter::successors(error.source(), |error| (*error).source());
        let io = sources().find_map(|error| error.downcast_ref::<io::Error>());
        match io {
            Some(io) if error.is_connect() => dial_error(&join_host_port(&self.host, self.port.into()), io),
            _ if error.is_connect() || error.is_builder() => super::cluster::with_sources(error),
            _ => "EOF".into(),
        }
    }
}

/// Opens a TCP connection, failing as Go does: `dial tcp 127.5.0.2:80: connect: connection refused`.
pub async fn connect(host: &str, port: u16) -> Result<TcpStream, String> {
    let address = join_host_port(host, port.into());
    TcpStream::connect(&address).await.map_err(|error| dial_error(&address, &error))
}

fn dial_error(address: &str, error: &io::Error) -> String {
    let reason = match error.kind() {
        io::ErrorKind::ConnectionRefused => "connect: connection refused".into(),
        io::ErrorKind::HostUnreachable => "connect: no route to host".into(),
        io::ErrorKind::NetworkUnreachable => "connect: network is unreachable".into(),
        io::ErrorKind::TimedOut => "i/o timeout".into(),
        _ => error.to_string(),
    };
    format!("dial tcp {address}: {reason}")
}
