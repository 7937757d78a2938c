//! One request to a wasi:http container: an instance, a call, a response.
//!
//! The guest is polled inside the future that waits for its response, and then inside the response's body: a request
//! needs no task and no other thread. Only a guest that computes longer than its free slice moves to the engine's
//! threads (see `cpu`), and what is left of a guest when nobody reads its response any more ends there, too.

use std::{
    pin::Pin,
    sync::{
        Arc, PoisonError,
        atomic::Ordering::{AcqRel, Relaxed},
    },
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, Uri, header};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Full};
use tokio::{sync::oneshot, task::AbortHandle};
use wasmtime::Store;
use wasmtime_wasi_http::{WasiBody, p2, p3};

use crate::{
    HttpBody, Module, NetworkError, Reuse,
    container::{Busy, Core, Place},
    cpu::{Cpu, FREE_TICKS, Metered, Run},
    failure::Ending,
    guest::Guest,
    outgoing::{from_guest, into_guest},
    worlds::{World, http02, http03},
};

/// How long an instance without requests is kept, and how many of a container.
const KEEP: Duration = Duration::from_secs(10);
const MAX_KEPT: usize = 64;

/// Why there is no response from the guest.
pub enum GuestError {
    /// It answered with one of wasi:http's error codes.
    Code(String),
}

/// Where the guest's response goes.
pub struct Respond(oneshot::Sender<GuestResponse>);

type GuestResponse = Result<Response<WasiBody>, GuestError>;

impl Respond {
    /// The client may be gone; then nobody minds.
    pub fn send(self, response: GuestResponse) {
        let _ = self.0.send(response);
    }
}

/// An instance that has served and may serve again.
pub struct Instance {
    store: Store<Guest>,
    exports: Exports,
    served: u32,
    idle_since: Instant,
    _place: Place,
}

enum Exports {
    V02(p2::bindings::Proxy),
    V03(p3::bindings::Service),
}

/// What serves the next request.
enum Start {
    Fresh(Store<Guest>, Place, Arc<Module>),
    Kept(Box<Instance>),
}

type Call = Metered<dyn Future<Output = ()> + Send>;

/// Serves one request. Every failure is a response, too, and in the container's log.
pub async fn serve(core: &Arc<Core>, request: Request<HttpBody>) -> Response<HttpBody> {
    if request.uri().authority().is_none() && !request.headers().contains_key(header::HOST) {
        return plain(StatusCode::BAD_REQUEST, "the request names no host");
    }
    core.judge(core.requests.fetch_add(1, Relaxed));
    core.environment.cpu.within_limit().await;
    let start = match start(core).await {
        Ok(start) => start,
        Err(response) => return response,
    };
    let run = start.run().clone();
    let (respond, response) = oneshot::channel();
    let call = call(core.clone(), core.begin(), start, request, Respond(respond));
    let answer = Answer {
        call: Some(Metered::new(run, Box::pin(call))),
        moved: None,
        response,
        cpu: core.engine.cpu().clone(),
    }
    .await;
    if core.is_shared() {
        // Other connections' guests run first, and then all answers leave one after the other: a client that is woken
        // once for many costs this thread less than one that is woken for each.
        tokio::task::yield_now().await;
    }
    answer
}

async fn start(core: &Arc<Core>) -> Result<Start, Response<HttpBody>> {
    if let Some(instance) = take_kept(core) {
        return Ok(Start::Kept(Box::new(instance)));
    }
    let module = core.home.module().clone();
    let permit = match module.machine.try_instance() {
        Some(permit) => permit,
        None => {
            core.settle();
            let Some(permit) = module.machine.instance().await else {
                core.log("no free instance on this node: a request was refused");
                return Err(plain(StatusCode::SERVICE_UNAVAILABLE, "no free instance on this node"));
            };
            permit
        }
    };
    let place = Place::new(core, permit);
    let run = Run::visiting(core.environment.cpu.clone());
    Ok(Start::Fresh(Guest::store(module.machine.wasmtime(), &core.environment, run), place, module))
}

/// The guest's side of a request. Ends when the guest is done, or killed.
async fn call(core: Arc<Core>, busy: Busy, start: Start, request: Request<HttpBody>, respond: Respond) {
    let (method, uri) = (request.method().clone(), request.uri().clone());
    let failed = |error: &wasmtime::Error| report(&core, &method, &uri, &Ending::of_error(error));
    let served = async {
        let mut instance = match start.instantiate().await {
            Ok(instance) => instance,
            Err(error) => return failed(&error),
        };
        match instance.call(request.map(into_guest), respond).await {
            Ok(()) => keep(&core, instance),
            // Before the instance is dropped: with it the client gets its answer, and may look at the log.
            Err(error) => failed(&error),
        }
    };
    tokio::select! {
        biased;
        () = served => {}
        () = core.killed.cancelled() => {}
    }
    drop(busy);
}

fn report(core: &Core, method: &Method, uri: &Uri, ending: &Ending) {
    match ending {
        Ending::Killed | Ending::Stopped => {}
        Ending::Trap(message) => core.log(&format!("{method} {}: {message}", uri.path())),
        Ending::Exit(code) => {
            core.log(&format!("{method} {}: the guest exited with {code}, unanswered", uri.path()));
        }
        Ending::OutOfMemory(message) => {
            core.log(&format!("{method} {}: {message}", uri.path()));
            core.end(ending);
        }
    }
}

impl Start {
    fn run(&self) -> &Arc<Run> {
        match self {
            Self::Fresh(store, ..) => store.data().run(),
            Self::Kept(instance) => instance.store.data().run(),
        }
    }

    async fn instantiate(self) -> wasmtime::Result<Instance> {
        match self {
            Self::Kept(instance) => Ok(*instance),
            Self::Fresh(mut store, place, module) => {
                let exports = match &module.world {
                    World::Http02(service) => Exports::V02(service.instantiate(&mut store).await?),
                    World::Http03(service) => Exports::V03(service.instantiate(&mut store).await?),
                    _ => unreachable!("a command serves no requests"),
                };
                Ok(Instance { store, exports, served: 0, idle_since: Instant::now(), _place: place })
            }
        }
    }
}

impl Instance {
    async fn call(&mut self, request: Request<WasiBody>, respond: Respond) -> wasmtime::Result<()> {
        self.served += 1;
        match &self.exports {
            Exports::V02(proxy) => http02::call(&mut self.store, proxy, request, respond).await,
            Exports::V03(service) => http03::call(&mut self.store, service, request, respond).await,
        }
    }
}

fn take_kept(core: &Core) -> Option<Instance> {
    if core.reuse == Reuse::Never {
        return None;
    }
    let mut instance = core.kept.lock().unwrap_or_else(PoisonError::into_inner).pop()?;
    instance.store.data().run().visit_again();
    instance.store.set_epoch_deadline(FREE_TICKS);
    Some(instance)
}

fn keep(core: &Arc<Core>, mut instance: Instance) {
    let Reuse::Instances { max_requests } = core.reuse else { return };
    // Where no place is left, another request may wait for the one of this instance.
    if instance.served >= max_requests || core.stopping.is_cancelled() || core.home.module().machine.is_full()
    {
        return;
    }
    instance.idle_since = Instant::now();
    let mut kept = core.kept.lock().unwrap_or_else(PoisonError::into_inner);
    if kept.len() < MAX_KEPT {
        kept.push(instance);
        drop(kept);
        if !core.sweeping.swap(true, AcqRel) {
            core.engine.cpu().threads().spawn(sweep(core.clone()));
        }
    }
}

/// Drops instances that were idle for long; ends with the last one.
async fn sweep(core: Arc<Core>) {
    while !core.killed.is_cancelled() {
        tokio::select! {
            () = tokio::time::sleep(KEEP / 2) => {}
            () = core.stopping.cancelled() => {}
        }
        let mut kept = core.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if core.stopping.is_cancelled() {
            kept.clear();
        }
        kept.retain(|instance| instance.idle_since.elapsed() < KEEP);
        if kept.is_empty() {
            // Under the lock: whoever keeps the next one sees it.
            core.sweeping.store(false, Relaxed);
            return;
        }
    }
}

/// Waits for the response while it polls the guest.
struct Answer {
    call: Option<Call>,
    /// Once the guest has moved to the engine's threads: ended when the client is gone.
    moved: Option<AbortOnDrop>,
    response: oneshot::Receiver<GuestResponse>,
    cpu: Arc<Cpu>,
}

impl Future for Answer {
    type Output = Response<HttpBody>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        if let Some(call) = &mut this.call {
            if Pin::new(&mut *call).poll(context).is_ready() {
                this.call = None;
            } else if call.run().take_move() {
                let call = this.call.take().expect("matched above");
                this.moved = Some(AbortOnDrop(this.cpu.threads().spawn(call).abort_handle()));
            }
        }
        let response = ready!(Pin::new(&mut this.response).poll(context));
        if let Some(moved) = this.moved.take() {
            moved.keep();
        }
        Poll::Ready(match response {
            Ok(Ok(response)) => {
                let (call, cpu) = (this.call.take(), this.cpu.clone());
                response.map(|body| match call {
                    None => from_guest(body),
                    call => BodyExt::boxed_unsync(Written { body, call, cpu }),
                })
            }
            Ok(Err(GuestError::Code(code))) => {
                plain(StatusCode::INTERNAL_SERVER_ERROR, &format!("the guest failed: {code}"))
            }
            Err(_) => failed(),
        })
    }
}

struct AbortOnDrop(AbortHandle);

impl AbortOnDrop {
    fn keep(self) {
        std::mem::forget(self);
    }
}

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A response's body, with the guest that is still writing it.
struct Written {
    body: WasiBody,
    call: Option<Call>,
    cpu: Arc<Cpu>,
}

impl Written {
    fn poll_guest(&mut self, context: &mut Context<'_>) {
        let Some(call) = &mut self.call else { return };
        if Pin::new(&mut *call).poll(context).is_ready() {
            self.call = None;
        } else if call.run().take_move() {
            self.leave();
        }
    }

    /// Lets the guest go on without this body.
    fn leave(&mut self) {
        if let Some(call) = self.call.take() {
            self.cpu.threads().spawn(call);
        }
    }
}

impl Drop for Written {
    fn drop(&mut self) {
        self.leave();
    }
}

impl Body for Written {
    type Data = Bytes;
    type Error = NetworkError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, NetworkError>>> {
        self.poll_guest(context);
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        Poll::Ready(frame.map(|frame| frame.map_err(|error| NetworkError::Other(error.to_string()))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The cause is in the container's log; the client learns no more than that it is not to blame.
fn failed() -> Response<HttpBody> {
    plain(StatusCode::INTERNAL_SERVER_ERROR, "the guest failed before it answered")
}

fn plain(status: StatusCode, text: &str) -> Response<HttpBody> {
    let body = Full::new(Bytes::from(format!("{text}\n"))).map_err(|never| match never {}).boxed_unsync();
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let plain = header::HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, plain);
    response
}
