//! What one instance carries: its WASI context, its share of the container's limits, and nothing of another instance.
//!
//! Requests come and go by the ten thousand, so that making a [`Guest`] must stay cheap: whatever is the same for all
//! instances (arguments, environment, network) stays in the shared [`Environment`] and is copied when a guest asks.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
    },
};

use wasmtime::{Store, StoreContextMut, UpdateDeadline, component::ResourceTable};
use wasmtime_wasi::{
    FsPerms, WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView, p1::WasiP1Ctx, sockets::SocketAddrUse,
};
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

use crate::{
    LogStream, LogWriter, Mount, PodNetwork,
    cpu::{CpuAccount, FREE_TICKS, Run},
    exec::Streams,
    failure::Killed,
    memory::{MemoryAccount, MemoryMeter},
    outgoing::Outgoing,
    output::Output,
};

/// Handles of one instance: files, sockets, streams, requests.
const MAX_HANDLES: usize = 16 << 10;

/// Sockets of one container.
const MAX_SOCKETS: u32 = 1024;

/// Header names and values of one request or response.
const MAX_HEADER_BYTES: usize = 128 << 10;

/// What all instances of a container share.
pub struct Environment {
    pub args: Vec<String>,
    pub env: Vec<(String, String)>,
    pub working_dir: Option<String>,
    pub mounts: Vec<Mount>,
    pub network: Arc<dyn PodNetwork>,
    pub log: Arc<dyn LogWriter>,
    pub streams: Streams,
    pub memory: Arc<MemoryAccount>,
    pub cpu: Arc<CpuAccount>,
    /// Set once: every instance ends at its next epoch.
    pub killed: AtomicBool,
    pub sockets: AtomicU32,
}

impl Environment {
    /// Opens every mount once, so that a missing one is found before the container starts.
    pub fn check_mounts(&self) -> Result<(), String> {
        self.open_mounts().map(drop)
    }

    /// A context of nothing but the mounts, each opened now.
    pub fn open_mounts(&self) -> Result<WasiCtx, String> {
        let mut builder = WasiCtxBuilder::new();
        self.mounts.iter().try_for_each(|mount| preopen(&mut builder, mount))?;
        Ok(builder.build())
    }

    pub fn open_socket(&self) -> bool {
        let below = |open: u32| (open < MAX_SOCKETS).then_some(open + 1);
        self.sockets.fetch_update(Relaxed, Relaxed, below).is_ok()
    }

    pub fn close_sockets(&self, number: u32) {
        self.sockets.fetch_sub(number, Relaxed);
    }
}

fn preopen(builder: &mut WasiCtxBuilder, mount: &Mount) -> Result<(), String> {
    let permissions = if mount.read_only { FsPerms::ReadOnly } else { FsPerms::ReadWrite };
    match builder.preopened_dir(&mount.host_path, &mount.guest_path, permissions) {
        Ok(_) => Ok(()),
        Err(error) => Err(format!(
            "cannot open {} for the mount {}: {}",
            mount.host_path.display(),
            mount.guest_path,
            error.root_cause()
        )),
    }
}

/// The data of one wasmtime store.
pub struct Guest {
    wasi: Wasi,
    http: WasiHttpCtx,
    outgoing: Outgoing,
    memory: MemoryMeter,
    run: Arc<Run>,
    environment: Arc<Environment>,
    /// Of the container's sockets those of this instance.
    sockets: u32,
}

#[allow(
    clippy::large_enum_variant,
    reason = "the large one is the usual one, and boxing it would cost each request"
)]
enum Wasi {
    Component { context: WasiCtx, table: ResourceTable },
    Preview1(Box<WasiP1Ctx>),
}

impl Guest {
    /// A store for a component. Its mounts are opened when it asks for them (`worlds::preopens`).
    pub fn store(engine: &wasmtime::Engine, environment: &Arc<Environment>, run: Arc<Run>) -> Store<Self> {
        let context = context(environment).build();
        let mut table = ResourceTable::new();
        table.set_max_capacity(MAX_HANDLES);
        Self::in_store(engine, Wasi::Component { context, table }, environment, run)
    }

    /// A store for a core module, which knows WASI 0.1 only.
    pub fn preview1_store(
        engine: &wasmtime::Engine,
        environment: &Arc<Environment>,
        run: Arc<Run>,
    ) -> Result<Store<Self>, String> {
        let mut builder = context(environment);
        environment.mounts.iter().try_for_each(|mount| preopen(&mut builder, mount))?;
        builder.args(&environment.args).envs(&environment.env);
        let is_set = environment.env.iter().any(|(name, _)| name == "PWD");
        if let Some(directory) = environment.working_dir.as_ref().filter(|_| !is_set) {
            // WASI 0.1 has no call that says where a program starts; Go's runtime reads this.
            builder.env("PWD", directory);
        }
        Ok(Self::in_store(engine, Wasi::Preview1(Box::new(builder.build_p1())), environment, run))
    }

    fn in_store(
        engine: &wasmtime::Engine,
        wasi: Wasi,
        environment: &Arc<Environment>,
        run: Arc<Run>,
    ) -> Store<Self> {
        let mut http = WasiHttpCtx::new();
        http.set_field_size_limit(MAX_HEADER_BYTES);
        let guest = Self {
            wasi,
            http,
            outgoing: Outgoing::new(environment.network.clone()),
            memory: MemoryMeter::new(environment.memory.clone()),
            run,
            environment: environment.clone(),
            sockets: 0,
        };
        let mut store = Store::new(engine, guest);
        store.limiter(|guest| &mut guest.memory);
        store.set_epoch_deadline(FREE_TICKS);
        store.epoch_deadline_callback(|mut store: StoreContextMut<'_, Self>| store.data_mut().end_slice());
        store
    }

    /// The epoch deadline: a killed guest ends here, any other one queues for its next slice.
    fn end_slice(&mut self) -> wasmtime::Result<UpdateDeadline> {
        if self.environment.killed.load(Relaxed) {
            return Err(Killed.into());
        }
        Ok(UpdateDeadline::YieldCustom(self.run.slice_ticks(), Box::pin(self.run.clone().next_slice())))
    }

    pub fn run(&self) -> &Arc<Run> {
        &self.run
    }

    pub fn environment(&self) -> &Arc<Environment> {
        &self.environment
    }

    /// What a component's world needs to hand out handles of what its container has.
    pub fn environment_and_table(&mut self) -> (&Environment, &mut ResourceTable) {
        match &mut self.wasi {
            Wasi::Component { table, .. } => (&self.environment, table),
            Wasi::Preview1(_) => unreachable!("core modules are linked to WASI 0.1 only"),
        }
    }

    pub fn preview1(&mut self) -> &mut WasiP1Ctx {
        match &mut self.wasi {
            Wasi::Preview1(context) => context,
            Wasi::Component { .. } => unreachable!("only core modules are linked to WASI 0.1"),
        }
    }

    /// Counts one more socket of this instance; false when the container has enough.
    pub fn open_socket(&mut self) -> bool {
        let opened = self.environment.open_socket();
        self.sockets += u32::from(opened);
        opened
    }

    pub fn close_socket(&mut self) {
        if self.sockets > 0 {
            self.sockets -= 1;
            self.environment.close_sockets(1);
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.environment.close_sockets(self.sockets);
    }
}

fn context(environment: &Arc<Environment>) -> WasiCtxBuilder {
    let mut builder = WasiCtxBuilder::new();
    match &environment.streams.output {
        None => builder
            .stdout(Output::new(environment.log.clone(), LogStream::Stdout))
            .stderr(Output::new(environment.log.clone(), LogStream::Stderr)),
        Some((stdout, stderr)) => builder.stdout(stdout.clone()).stderr(stderr.clone()),
    };
    if let Some(stdin) = &environment.streams.stdin {
        builder.stdin(stdin.clone());
    }
    builder
        .allow_tcp(true)
        .allow_udp(true)
        // Names are looked up by the pod's network, not by the host's resolver.
        .allow_ip_name_lookup(false);
    let pod = environment.clone();
    builder.socket_addr_check(move |address, purpose| {
        let allowed = is_allowed(&pod, address, purpose);
        Box::pin(async move { allowed })
    });
    builder
}

/// The last line of defence. Addresses come here after `sockets` mapped them: what a guest binds is the pod's address,
/// and where it connects to has been asked of the pod's network.
fn is_allowed(pod: &Environment, address: SocketAddr, purpose: SocketAddrUse) -> bool {
    let is_own = address.ip() == pod.network.address();
    match purpose {
        // Without address and port: asked before connecting a socket that is not bound.
        SocketAddrUse::TcpBind | SocketAddrUse::UdpBind => {
            is_own || address.ip().is_unspecified() && address.port() == 0
        }
        SocketAddrUse::TcpListen => is_own,
        SocketAddrUse::TcpAccept
        | SocketAddrUse::TcpConnect
        | SocketAddrUse::UdpSend
        | SocketAddrUse::UdpReceive => true,
    }
}

impl WasiView for Guest {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        match &mut self.wasi {
            Wasi::Component { context, table } => WasiCtxView { ctx: context, table },
            Wasi::Preview1(_) => unreachable!("core modules are linked to WASI 0.1 only"),
        }
    }
}

impl WasiHttpView for Guest {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        match &mut self.wasi {
            Wasi::Component { table, .. } => {
                WasiHttpCtxView { hooks: &mut self.outgoing, table, ctx: &mut self.http }
            }
            Wasi::Preview1(_) => unreachable!("core modules are linked to WASI 0.1 only"),
        }
    }
}
