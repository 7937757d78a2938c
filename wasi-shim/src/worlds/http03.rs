//! `wasi:http/service` 0.3: one async call of `handler` per request; what the guest spawned goes on until the response
//! is complete.

use std::future::poll_fn;

use http::Request;
use wasmtime::{Store, component::InstancePre};
use wasmtime_wasi_http::{
    WasiBody, WasiHttpView,
    p3::{
        self,
        bindings::{Service, ServicePre},
    },
};

use crate::{
    guest::Guest,
    serve::{GuestError, Respond},
};

pub struct Http03(ServicePre<Guest>);

impl Http03 {
    pub fn new(linked: InstancePre<Guest>) -> wasmtime::Result<Self> {
        ServicePre::new(linked).map(Self)
    }

    pub async fn instantiate(&self, store: &mut Store<Guest>) -> wasmtime::Result<Service> {
        self.0.instantiate_async(store).await
    }
}

/// Returns when nothing is left to do in the guest: the response's body was written to its end, or dropped.
pub async fn call(
    store: &mut Store<Guest>,
    service: &Service,
    request: Request<WasiBody>,
    respond: Respond,
) -> wasmtime::Result<()> {
    let (request, received) = p3::Request::from_http(store.data_mut().http().hooks, request);
    let request = store.data_mut().http().table.push(request)?;
    store
        .run_concurrent(async |accessor| {
            match service.wasi_http_handler().call_handle(accessor, request).await? {
                Ok(response) => {
                    let response = accessor.with(|mut store| {
                        let response = store.get().http().table.delete(response)?;
                        response.into_http(&mut store, received)
                    })?;
                    respond.send(Ok(response));
                }
                Err(code) => respond.send(Err(GuestError::Code(format!("{code:?}")))),
            }
            poll_fn(|context| accessor.poll_no_interesting_tasks(context)).await;
            Ok(())
        })
        .await?
}
