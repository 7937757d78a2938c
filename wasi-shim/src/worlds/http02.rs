//! `wasi:http/proxy` 0.2: one call of `incoming-handler` per request.

use http::Request;
use wasmtime::{Store, component::InstancePre};
use wasmtime_wasi_http::{
    WasiBody, WasiHttpView,
    p2::bindings::{Proxy, ProxyPre, http::types::Scheme},
};

use crate::{
    guest::Guest,
    serve::{GuestError, Respond},
};

pub struct Http02(ProxyPre<Guest>);

impl Http02 {
    pub fn new(linked: InstancePre<Guest>) -> wasmtime::Result<Self> {
        ProxyPre::new(linked).map(Self)
    }

    pub async fn instantiate(&self, store: &mut Store<Guest>) -> wasmtime::Result<Proxy> {
        self.0.instantiate_async(store).await
    }
}

/// Returns when the guest returned, which may be after the response was sent and while its body is read.
pub async fn call(
    store: &mut Store<Guest>,
    proxy: &Proxy,
    request: Request<WasiBody>,
    respond: Respond,
) -> wasmtime::Result<()> {
    let mut http = store.data_mut().http();
    let request = http.new_incoming_request(Scheme::Http, request)?;
    let out = http.new_response_outparam_from_callback(move |response| {
        respond.send(response.map_err(|code| GuestError::Code(format!("{code:?}"))));
    })?;
    proxy.wasi_http_incoming_handler().call_handle(store, request, out).await
}
