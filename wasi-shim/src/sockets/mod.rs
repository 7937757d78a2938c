//! wasi:sockets, confined to the pod: wasmtime's own sockets, with other addresses.
//!
//! A guest binds to nothing but the pod's address, whatever it asks for; where it connects or sends to is asked of the
//! pod's network first, which may refuse, or name another address (a service's endpoint); names are looked up there,
//! too. Of wasmtime's implementation only the functions that take an address or make a socket are replaced, one file
//! per version of the interface. WASI 0.1 has no way to make a socket.
//!
//! A datagram's answer comes from where the datagram really went.

mod v02;
mod v03;

use std::net::{IpAddr, SocketAddr};

use wasmtime::component::Linker;

use crate::{
    NetworkError, PodNetwork,
    guest::{Environment, Guest},
    machine::Sort,
};

/// Replaces functions of what is linked already: the linker must allow shadowing.
pub fn add_to_linker(linker: &mut Linker<Guest>, sort: Sort) -> wasmtime::Result<()> {
    v02::add_to_linker(linker)?;
    if sort == Sort::Concurrent {
        v03::add_to_linker(linker)?;
    }
    Ok(())
}

/// Where a bind to `wanted` really goes; `None` if it is another host's address.
fn own_address(network: &dyn PodNetwork, wanted: SocketAddr) -> Option<SocketAddr> {
    let pod = network.address();
    let is_own = wanted.ip() == pod || wanted.ip().is_unspecified() || is_localhost(wanted.ip());
    (is_own && wanted.is_ipv4() == pod.is_ipv4()).then(|| SocketAddr::new(pod, wanted.port()))
}

/// Where a connection or datagram to `wanted` really goes.
async fn remote_address(environment: &Environment, wanted: SocketAddr) -> Result<SocketAddr, NetworkError> {
    let network = &environment.network;
    let wanted =
        if is_localhost(wanted.ip()) { SocketAddr::new(network.address(), wanted.port()) } else { wanted };
    if wanted.ip().is_unspecified() || wanted.port() == 0 {
        // Refused with the interface's own error.
        return Ok(wanted);
    }
    network.connect(wanted).await
}

/// What to bind a socket to that is not bound when it connects to `remote`: the pod's address, so that the other side
/// sees who it is. Not where the kernel would refuse: from a loopback address to the world outside.
fn source_address(network: &dyn PodNetwork, remote: SocketAddr) -> Option<SocketAddr> {
    let pod = network.address();
    let possible = pod.is_ipv4() == remote.is_ipv4() && (!pod.is_loopback() || remote.ip().is_loopback());
    possible.then(|| SocketAddr::new(pod, 0))
}

/// Looks a name up as the pod's network does; addresses and `localhost` need no lookup.
async fn resolve(environment: &Environment, name: &str) -> Result<Vec<IpAddr>, NetworkError> {
    if let Ok(address) = name.trim_start_matches('[').trim_end_matches(']').parse() {
        return Ok(vec![address]);
    }
    if name.eq_ignore_ascii_case("localhost") {
        return Ok(vec![environment.network.address()]);
    }
    environment.network.resolve(name).await
}

/// 127.0.0.1 alone: in loopback mode other addresses of 127.0.0.0/8 are other pods.
fn is_localhost(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address == std::net::Ipv4Addr::LOCALHOST,
        IpAddr::V6(address) => address == std::net::Ipv6Addr::LOCALHOST,
    }
}

fn is_valid_name(name: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    };
    name.len() <= 253 && name.trim_end_matches('.').split('.').all(label) || name.parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use http::{Request, Response};

    use super::*;
    use crate::HttpBody;

    struct Pod(IpAddr);

    #[async_trait::async_trait]
    impl PodNetwork for Pod {
        fn address(&self) -> IpAddr {
            self.0
        }
        async fn resolve(&self, name: &str) -> Result<Vec<IpAddr>, NetworkError> {
            Err(NetworkError::NoSuchName(name.into()))
        }
        async fn connect(&self, address: SocketAddr) -> Result<SocketAddr, NetworkError> {
            Err(NetworkError::Denied(address))
        }
        async fn send(&self, _: Request<HttpBody>) -> Result<Response<HttpBody>, NetworkError> {
            Err(NetworkError::Other("not here".into()))
        }
    }

    fn check_bind(wanted: &str, expected: Option<&str>) {
        let pod = Pod("127.5.0.9".parse().unwrap());
        let bound = own_address(&pod, wanted.parse().unwrap());
        assert_eq!(bound, expected.map(|address| address.parse().unwrap()), "{wanted}");
    }

    #[test]
    fn a_guest_binds_to_its_pods_address_and_to_no_other() {
        check_bind("0.0.0.0:80", Some("127.5.0.9:80"));
        check_bind("127.0.0.1:80", Some("127.5.0.9:80"));
        check_bind("127.5.0.9:0", Some("127.5.0.9:0"));
        check_bind("127.5.0.8:80", None);
        check_bind("192.0.2.1:80", None);
        check_bind("[::]:80", None);
    }

    #[test]
    fn a_connection_comes_from_the_pods_address_where_the_kernel_allows_it() {
        let pod = Pod("127.5.0.9".parse().unwrap());
        let source = |remote: &str| source_address(&pod, remote.parse().unwrap());
        assert_eq!(source("127.5.0.8:80"), Some("127.5.0.9:0".parse().unwrap()));
        assert_eq!(source("192.0.2.1:80"), None);
        assert_eq!(source("[2001:db8::1]:80"), None);
    }

    #[test]
    fn names_with_anything_but_letters_digits_and_dashes_are_not_looked_up() {
        for name in ["echo", "echo.shop.svc.cluster.local.", "_http._tcp.echo", "192.0.2.1", "::1"] {
            assert!(is_valid_name(name), "{name}");
        }
        for name in ["", "a..b", "a b", "/etc/passwd", &"a".repeat(64)] {
            assert!(!is_valid_name(name), "{name}");
        }
    }
}
