//! wasi:sockets 0.3.

use futures::FutureExt;
use wasmtime::{
    StoreContextMut,
    component::{Accessor, HasData, Linker, LinkerInstance, Resource, ResourceType},
};
use wasmtime_wasi::{
    p3::{
        bindings::sockets::{
            ip_name_lookup,
            types::{
                ErrorCode, HostTcpSocket, HostTcpSocketWithStore, HostUdpSocket, HostUdpSocketWithStore,
                IpAddress, IpAddressFamily, IpSocketAddress,
            },
        },
        sockets::SocketResult,
    },
    sockets::{TcpSocket, UdpSocket, WasiSockets, WasiSocketsView},
};

use super::{is_valid_name, own_address, remote_address, resolve, source_address};
use crate::{NetworkError, guest::Guest};

type Context<'a> = StoreContextMut<'a, Guest>;
type Answer<T> = wasmtime::Result<(Result<T, ErrorCode>,)>;

pub fn add_to_linker(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    ip_name_lookup::add_to_linker::<Guest, Names>(linker, |guest| guest)?;
    let mut types = linker.instance("wasi:sockets/types@0.3.0")?;
    tcp(&mut types)?;
    udp(&mut types)
}

fn answer<T>(result: SocketResult<T>) -> Answer<T> {
    Ok((match result {
        Ok(value) => Ok(value),
        Err(error) => Err(error.downcast()?),
    },))
}

fn too_many<T>() -> Answer<T> {
    Ok((Err(ErrorCode::Other(Some("the container has too many sockets open".into()))),))
}

fn code(error: &NetworkError) -> ErrorCode {
    match error {
        NetworkError::Denied(_) => ErrorCode::AccessDenied,
        NetworkError::Refused(_) => ErrorCode::ConnectionRefused,
        NetworkError::TimedOut(_) => ErrorCode::Timeout,
        NetworkError::NoSuchName(_) | NetworkError::Other(_) => ErrorCode::Other(Some(error.to_string())),
    }
}

fn again<T: 'static>(resource: &Resource<T>) -> Resource<T> {
    Resource::new_borrow(resource.rep())
}

async fn remote(
    accessor: &Accessor<Guest>,
    wanted: IpSocketAddress,
) -> Result<std::net::SocketAddr, ErrorCode> {
    let environment = accessor.with(|mut guest| guest.get().environment().clone());
    remote_address(&environment, wanted.into()).await.map_err(|error| code(&error))
}

/// What sockets of both kinds have in common: they bind to the pod's address, and they count until they are dropped.
macro_rules! bound_and_counted {
    ($linker:expr, $name:literal, $socket:ty, $host:ident) => {
        $linker.func_wrap_async(
            concat!("[method]", $name, ".bind"),
            |mut store: Context<'_>, (socket, address): (Resource<$socket>, IpSocketAddress)| {
                Box::new(async move {
                    let Some(address) = own_address(&*store.data().environment().network, address.into())
                    else {
                        return Ok((Err(ErrorCode::AddressNotBindable),));
                    };
                    answer($host::bind(&mut store.data_mut().sockets(), socket, address.into()).await)
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

/// Binds a socket that is not bound to the pod's address, before it speaks to `remote`.
macro_rules! bind_source {
    ($guest:expr, $socket:expr, $remote:expr, $host:ident) => {{
        let guest: &mut Guest = $guest;
        let source = source_address(&*guest.environment().network, $remote);
        let mut sockets = guest.sockets();
        if let Some(source) = source
            && $host::get_local_address(&mut sockets, again($socket)).is_err()
        {
            // It never waits; a failure shows in the connection, or when the datagram is sent.
            let _ = $host::bind(&mut sockets, again($socket), source.into()).now_or_never();
        }
    }};
}

fn tcp(types: &mut LinkerInstance<'_, Guest>) -> wasmtime::Result<()> {
    types.func_wrap(
        "[static]tcp-socket.create",
        |mut store: Context<'_>, (family,): (IpAddressFamily,)| {
            if !store.data_mut().open_socket() {
                return too_many();
            }
            let created = HostTcpSocket::create(&mut store.data_mut().sockets(), family);
            if created.is_err() {
                store.data_mut().close_socket();
            }
            answer(created)
        },
    )?;
    bound_and_counted!(types, "tcp-socket", TcpSocket, HostTcpSocket);
    types.func_wrap_concurrent(
        "[method]tcp-socket.connect",
        |accessor: &Accessor<Guest>, (socket, address): (Resource<TcpSocket>, IpSocketAddress)| {
            Box::pin(async move {
                let remote = match remote(accessor, address).await {
                    Ok(remote) => remote,
                    Err(error) => return Ok((Err(error),)),
                };
                accessor.with(|mut guest| bind_source!(guest.get(), &socket, remote, HostTcpSocket));
                let sockets = accessor.with_getter::<WasiSockets>(Guest::sockets);
                answer(WasiSockets::connect(&sockets, socket, remote.into()).await)
            })
        },
    )?;
    Ok(())
}

fn udp(types: &mut LinkerInstance<'_, Guest>) -> wasmtime::Result<()> {
    types.func_wrap_async(
        "[static]udp-socket.create",
        |mut store: Context<'_>, (family,): (IpAddressFamily,)| {
            Box::new(async move {
                if !store.data_mut().open_socket() {
                    return too_many();
                }
                let created = HostUdpSocket::create(&mut store.data_mut().sockets(), family).await;
                if created.is_err() {
                    store.data_mut().close_socket();
                }
                answer(created)
            })
        },
    )?;
    bound_and_counted!(types, "udp-socket", UdpSocket, HostUdpSocket);
    types.func_wrap_async(
        "[method]udp-socket.connect",
        |mut store: Context<'_>, (socket, address): (Resource<UdpSocket>, IpSocketAddress)| {
            Box::new(async move {
                let environment = store.data().environment().clone();
                let remote = match remote_address(&environment, address.into()).await {
                    Ok(remote) => remote,
                    Err(error) => return Ok((Err(code(&error)),)),
                };
                answer(HostUdpSocket::connect(&mut store.data_mut().sockets(), socket, remote.into()).await)
            })
        },
    )?;
    type Send = (Resource<UdpSocket>, Vec<u8>, Option<IpSocketAddress>);
    types.func_wrap_concurrent(
        "[method]udp-socket.send",
        |accessor: &Accessor<Guest>, (socket, data, address): Send| {
            Box::pin(async move {
                let address = match address {
                    None => None,
                    Some(address) => match remote(accessor, address).await {
                        Ok(remote) => {
                            accessor
                                .with(|mut guest| bind_source!(guest.get(), &socket, remote, HostUdpSocket));
                            Some(remote.into())
                        }
                        Err(error) => return Ok((Err(error),)),
                    },
                };
                let sockets = accessor.with_getter::<WasiSockets>(Guest::sockets);
                answer(
                    <WasiSockets as HostUdpSocketWithStore<Guest>>::send(&sockets, socket, data, address)
                        .await,
                )
            })
        },
    )?;
    Ok(())
}

/// `ip-name-lookup`, by the pod's network.
struct Names;

impl HasData for Names {
    type Data<'a> = &'a mut Guest;
}

impl ip_name_lookup::Host for &mut Guest {}

impl ip_name_lookup::HostWithStore<Guest> for Names {
    async fn resolve_addresses(
        accessor: &Accessor<Guest, Self>,
        name: String,
    ) -> wasmtime::Result<Result<Vec<IpAddress>, ip_name_lookup::ErrorCode>> {
        if !is_valid_name(&name) {
            return Ok(Err(ip_name_lookup::ErrorCode::InvalidArgument));
        }
        let environment = accessor.with(|mut guest| guest.get().environment().clone());
        Ok(match resolve(&environment, &name).await {
            Ok(found) => Ok(found.into_iter().map(IpAddress::from).collect()),
            Err(NetworkError::NoSuchName(_)) => Err(ip_name_lookup::ErrorCode::NameUnresolvable),
            Err(NetworkError::Denied(_)) => Err(ip_name_lookup::ErrorCode::AccessDenied),
            Err(NetworkError::TimedOut(_)) => Err(ip_name_lookup::ErrorCode::TemporaryResolverFailure),
            Err(error) => Err(ip_name_lookup::ErrorCode::Other(Some(error.to_string()))),
        })
    }
}
