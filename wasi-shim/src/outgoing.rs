//! Outgoing wasi:http, 0.2 and 0.3: every request goes to the pod's network, which knows where it really goes.

use std::{sync::Arc, time::Duration};

use http::{Request, Response};
use http_body_util::BodyExt;
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody, WasiHttpHooks};

use crate::{HttpBody, NetworkError, PodNetwork};

/// How long a guest waits for a response that sets no time of its own.
const FIRST_BYTE: Duration = Duration::from_mins(10);

/// Chunks of a response body that a guest may write ahead of the client; with one only it would wait before its return.
const CHUNKS_AHEAD: usize = 4;

pub struct Outgoing {
    network: Arc<dyn PodNetwork>,
}

type Completion = Box<dyn Future<Output = Result<(), Error>> + Send>;

impl Outgoing {
    pub fn new(network: Arc<dyn PodNetwork>) -> Self {
        Self { network }
    }
}

impl WasiHttpHooks for Outgoing {
    fn p2_outgoing_body_buffer_chunks(&mut self) -> usize {
        CHUNKS_AHEAD
    }

    fn send_request(
        &mut self,
        request: Request<WasiBody>,
        options: Option<RequestOptions>,
        _written: Completion,
    ) -> Box<dyn Future<Output = Result<(Response<WasiBody>, Completion), Error>> + Send> {
        let network = self.network.clone();
        Box::new(async move {
            let limit = options.and_then(|options| options.first_byte_timeout).unwrap_or(FIRST_BYTE);
            let sent = network.send(request.map(from_guest));
            let response = tokio::time::timeout(limit, sent).await.map_err(|_| Error::HttpResponseTimeout)?;
            let response = response.map_err(|error| to_guest(&error))?.map(into_guest);
            Ok((response, Box::new(async { Ok(()) }) as Completion))
        })
    }
}

/// A body that a guest writes.
pub fn from_guest(body: WasiBody) -> HttpBody {
    body.map_err(|error| NetworkError::Other(error.to_string())).boxed_unsync()
}

/// A body that a guest reads.
pub fn into_guest(body: HttpBody) -> WasiBody {
    body.map_err(|error| to_guest(&error)).boxed_unsync()
}

fn to_guest(error: &NetworkError) -> Error {
    match error {
        NetworkError::NoSuchName(name) => {
            Error::DnsError { rcode: Some(format!("no such name: {name}")), info_code: None }
        }
        NetworkError::Denied(_) => Error::DestinationIpProhibited,
        NetworkError::Refused(_) => Error::ConnectionRefused,
        NetworkError::TimedOut(_) => Error::ConnectionTimeout,
        NetworkError::Other(text) => Error::InternalError(Some(text.clone())),
    }
}
