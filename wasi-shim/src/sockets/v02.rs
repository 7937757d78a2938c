//! wasi:sockets 0.2.

use std::{future::Future, net::IpAddr, vec};

use futures::FutureExt;
use wasmtime::{
    StoreContextMut,
    component::{Linker, LinkerInstance, Resource, ResourceType},
};
use wasmtime_wasi::{
    p2::{
        DynInputStream, DynOutputStream, DynPollable, Network, Pollable, SocketResult, TcpSocket, UdpSocket,
        bindings::sockets::{
            network::{ErrorCode, IpAddress, IpAddressFamily, IpSocketAddress},
            tcp::HostTcpSocket,
            tcp_create_socket::Host as _,
            udp::{
                HostOutgoingDatagramStream, HostUdpSocket, IncomingDatagramStream, OutgoingDatagram,
                OutgoingDatagramStream,
            },
            udp_create_socket::Host as _,
        },
        subscribe,
    },
    runtime::{AbortOnDropJoinHandle, spawn},
    sockets::WasiSocketsView,
};

use super::{is_valid_name, own_address, remote_address, resolve, source_address};
use crate::{NetworkError, guest::Guest};

type Context<'a> = StoreContextMut<'a, Guest>;
/// What a function of the interface returns.
type Answer<T> = wasmtime::Result<(Result<T, ErrorCode>,)>;

pub fn add_to_linker(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    tcp(&mut linker.instance("wasi:sockets/tcp@0.2.12")?)?;
    udp(&mut linker.instance("wasi:sockets/udp@0.2.12")?)?;
    let mut create = linker.instance("wasi:sockets/tcp-create-socket@0.2.12")?;
    create.func_wrap("create-tcp-socket", |mut store: Context<'_>, (family,): (IpAddressFamily,)| {
        counted(&mut store, |guest| answer(guest.sockets().create_tcp_socket(family)))
    })?;
    let mut create = linker.instance("wasi:sockets/udp-create-socket@0.2.12")?;
    create.func_wrap_async(
        "create-udp-socket",
        |mut store: Context<'_>, (family,): (IpAddressFamily,)| {
            Box::new(async move {
                if !store.data_mut().open_socket() {
                    return Ok((Err(ErrorCode::NewSocketLimit),));
                }
                let created = answer(store.data_mut().sockets().create_udp_socket(family).await);
                uncount_failure(store.data_mut(), created)
            })
        },
    )?;
    name_lookup(&mut linker.instance("wasi:sockets/ip-name-lookup@0.2.12")?)
}

fn answer<T>(result: SocketResult<T>) -> Answer<T> {
    Ok((match result {
        Ok(value) => Ok(value),
        Err(error) => Err(error.downcast()?),
    },))
}

/// Makes a socket if the container may have another one.
fn counted<T>(store: &mut Context<'_>, make: impl FnOnce(&mut Guest) -> Answer<T>) -> Answer<T> {
    if !store.data_mut().open_socket() {
        return Ok((Err(ErrorCode::NewSocketLimit),));
    }
    let made = make(store.data_mut());
    uncount_failure(store.data_mut(), made)
}

fn uncount_failure<T>(guest: &mut Guest, made: Answer<T>) -> Answer<T> {
    if !matches!(made, Ok((Ok(_),))) {
        guest.close_socket();
    }
    made
}

fn code(error: &NetworkError) -> ErrorCode {
    match error {
        NetworkError::NoSuchName(_) => ErrorCode::NameUnresolvable,
        NetworkError::Denied(_) => ErrorCode::AccessDenied,
        NetworkError::Refused(_) => ErrorCode::ConnectionRefused,
        NetworkError::TimedOut(_) => ErrorCode::Timeout,
        NetworkError::Other(_) => ErrorCode::Unknown,
    }
}

/// A second handle to what the guest lent for the call.
fn again<T: 'static>(resource: &Resource<T>) -> Resource<T> {
    Resource::new_borrow(resource.rep())
}

/// What sockets of both kinds have in common: they bind to the pod's address, and they count until they are dropped.
macro_rules! bound_and_counted {
    ($linker:expr, $name:literal, $socket:ty, $host:ident) => {
        $linker.func_wrap_async(
            concat!("[method]", $name, ".start-bind"),
            |mut store: Context<'_>,
             (socket, network, address): (Resource<$socket>, Resource<Network>, IpSocketAddress)| {
                Box::new(async move {
                    let Some(address) = own_address(&*store.data().environment().network, address.into())
                    else {
                        return Ok((Err(ErrorCode::AddressNotBindable),));
                    };
                    let mut sockets = store.data_mut().sockets();
                    answer($host::start_bind(&mut sockets, socket, network, address.into()).await)
                })
            },
        )?;
        $linker.resource($name, ResourceType::host::<$socket>(), |mut store, handle| {
            $host::drop(&mut store.data_mut().sockets(), Resource::new_own(handle))?;
            store.data_mut().close_socket();
            Ok(())
        })?;
    };
}

fn tcp(tcp: &mut LinkerInstance<'_, Guest>) -> wasmtime::Result<()> {
    bound_and_counted!(tcp, "tcp-socket", TcpSocket, HostTcpSocket);
    type Connect = (Resource<TcpSocket>, Resource<Network>, IpSocketAddress);
    tcp.func_wrap_async(
        "[method]tcp-socket.start-connect",
        |mut store: Context<'_>, (socket, network, address): Connect| {
            Box::new(async move {
                let environment = store.data().environment().clone();
                let remote = match remote_address(&environment, address.into()).await {
                    Ok(remote) => remote,
                    Err(error) => return Ok((Err(code(&error)),)),
                };
                let mut sockets = store.data_mut().sockets();
                let is_bound = HostTcpSocket::local_address(&mut sockets, again(&socket)).is_ok();
                if let Some(source) = source_address(&*environment.network, remote).filter(|_| !is_bound) {
                    // A failure shows in the connection.
                    let (same, source) = (again(&socket), source.into());
                    if HostTcpSocket::start_bind(&mut sockets, same, again(&network), source).await.is_ok() {
                        let _ = HostTcpSocket::finish_bind(&mut sockets, again(&socket));
                    }
                }
                answer(sockets.start_connect(socket, network, remote.into()))
            })
        },
    )?;
    type Accepted = (Resource<TcpSocket>, Resource<DynInputStream>, Resource<DynOutputStream>);
    tcp.func_wrap(
        "[method]tcp-socket.accept",
        |mut store: Context<'_>, (socket,): (Resource<TcpSocket>,)| -> Answer<Accepted> {
            counted(&mut store, |guest| answer(guest.sockets().accept(socket)))
        },
    )?;
    Ok(())
}

fn udp(udp: &mut LinkerInstance<'_, Guest>) -> wasmtime::Result<()> {
    bound_and_counted!(udp, "udp-socket", UdpSocket, HostUdpSocket);
    type Stream = (Resource<UdpSocket>, Option<IpSocketAddress>);
    type Streams = (Resource<IncomingDatagramStream>, Resource<OutgoingDatagramStream>);
    udp.func_wrap_async("[method]udp-socket.stream", |mut store: Context<'_>, (socket, remote): Stream| {
        Box::new(async move {
            let remote = match remote_or_none(&store, remote).await {
                Ok(remote) => remote,
                Err(error) => return Ok((Err(code(&error)),)),
            };
            let streams: Answer<Streams> = answer(store.data_mut().sockets().stream(socket, remote).await);
            streams
        })
    })?;
    type Send = (Resource<OutgoingDatagramStream>, Vec<OutgoingDatagram>);
    udp.func_wrap_async(
        "[method]outgoing-datagram-stream.send",
        |mut store: Context<'_>, (stream, mut datagrams): Send| {
            Box::new(async move {
                for datagram in &mut datagrams {
                    match remote_or_none(&store, datagram.remote_address).await {
                        Ok(remote) => datagram.remote_address = remote,
                        Err(error) => return Ok((Err(code(&error)),)),
                    }
                }
                answer(HostOutgoingDatagramStream::send(&mut store.data_mut().sockets(), stream, datagrams))
            })
        },
    )?;
    Ok(())
}

fn remote_or_none(
    store: &Context<'_>,
    remote: Option<IpSocketAddress>,
) -> impl Future<Output = Result<Option<IpSocketAddress>, NetworkError>> + Send + use<> {
    let environment = store.data().environment().clone();
    async move {
        match remote {
            None => Ok(None),
            Some(remote) => Ok(Some(remote_address(&environment, remote.into()).await?.into())),
        }
    }
}

/// What a lookup found, or is still looking for.
enum Lookup {
    Pending(AbortOnDropJoinHandle<Result<Vec<IpAddr>, NetworkError>>),
    Done(Result<vec::IntoIter<IpAddr>, ErrorCode>),
}

impl Lookup {
    fn done(found: Result<Vec<IpAddr>, NetworkError>) -> Self {
        Self::Done(found.map(Vec::into_iter).map_err(|error| code(&error)))
    }
}

#[async_trait::async_trait]
impl Pollable for Lookup {
    async fn ready(&mut self) {
        if let Self::Pending(lookup) = self {
            *self = Self::done(lookup.await);
        }
    }
}

fn name_lookup(lookup: &mut LinkerInstance<'_, Guest>) -> wasmtime::Result<()> {
    lookup.resource("resolve-address-stream", ResourceType::host::<Lookup>(), |mut store, handle| {
        store.data_mut().sockets().table.delete(Resource::<Lookup>::new_own(handle))?;
        Ok(())
    })?;
    lookup.func_wrap(
        "resolve-addresses",
        |mut store: Context<'_>, (_network, name): (Resource<Network>, String)| -> Answer<Resource<Lookup>> {
            if !is_valid_name(&name) {
                return Ok((Err(ErrorCode::InvalidArgument),));
            }
            let environment = store.data().environment().clone();
            let lookup = Lookup::Pending(spawn(async move { resolve(&environment, &name).await }));
            Ok((Ok(store.data_mut().sockets().table.push(lookup)?),))
        },
    )?;
    lookup.func_wrap(
        "[method]resolve-address-stream.resolve-next-address",
        |mut store: Context<'_>, (stream,): (Resource<Lookup>,)| -> Answer<Option<IpAddress>> {
            let lookup = store.data_mut().sockets().table.get_mut(&stream)?;
            let _ = lookup.ready().now_or_never();
            Ok((match lookup {
                Lookup::Pending(_) => Err(ErrorCode::WouldBlock),
                Lookup::Done(Ok(found)) => Ok(found.next().map(IpAddress::from)),
                Lookup::Done(Err(error)) => Err(*error),
            },))
        },
    )?;
    lookup.func_wrap(
        "[method]resolve-address-stream.subscribe",
        |mut store: Context<'_>,
         (stream,): (Resource<Lookup>,)|
         -> wasmtime::Result<(Resource<DynPollable>,)> {
            Ok((subscribe(store.data_mut().sockets().table, stream)?,))
        },
    )
}
