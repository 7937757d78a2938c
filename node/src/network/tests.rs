//! Stories about the data plane, fed as an agent feeds it, with real sockets on loopback addresses.

use std::{
    collections::HashSet,
    io,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use futures::future::BoxFuture;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
    sync::mpsc,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::{
    Change, DnsView, HostPort, Network, Protocol, ResolveError, Route, ServesConnections,
    table::tests::{endpoint, service, slice},
};
use crate::dataplane::{Reset, Synced, UpdateRequest, UpdateResponse, update_request::Update};

const DEADLINE: Duration = Duration::from_secs(20);

/// A data plane and the agent that feeds it.
struct Plane {
    network: Network,
    node: IpAddr,
    updates: mpsc::Sender<Result<UpdateRequest, Status>>,
    answers: mpsc::Receiver<Result<UpdateResponse, Status>>,
}

impl Plane {
    async fn start() -> Self {
        Self::feed(Network::new(), address()).await
    }

    async fn feed(network: Network, node: IpAddr) -> Self {
        let (updates, receiver) = mpsc::channel(16);
        let (sender, answers) = mpsc::channel(16);
        let follower = network.clone();
        tokio::spawn(async move { follower.follow(ReceiverStream::new(receiver), sender).await });
        let plane = Self { network, node, updates, answers };
        let reset = Reset {
            cluster_domain: "cluster.local".to_owned(),
            node_name: "amber".to_owned(),
            node_addresses: vec![node.to_string()],
        };
        plane.send(Update::Reset(reset)).await;
        plane
    }

    async fn send(&self, update: Update) {
        self.updates.send(Ok(UpdateRequest { update: Some(update) })).await.unwrap();
    }

    /// Sends the changes and waits until the listeners follow; returns what could not be opened.
    async fn apply(&mut self, changes: impl IntoIterator<Item = Change>) -> Vec<String> {
        for change in changes {
            let update = match change {
                Change::Service(service) => Update::UpsertService(service),
                Change::NoService(key) => Update::DeleteService(key),
                Change::Slice(slice) => Update::UpsertSlice(slice),
                Change::NoSlice(key) => Update::DeleteSlice(key),
            };
            self.send(update).await;
        }
        self.send(Update::Synced(Synced { id: 7 })).await;
        let answer = tokio::time::timeout(DEADLINE, self.answers.recv()).await.unwrap().unwrap().unwrap();
        assert_eq!(answer.synced, 7);
        answer.errors
    }
}

/// Greets with its name, then repeats what it hears.
async fn backend(name: &'static str) -> SocketAddr {
    let listener = TcpListener::bind((address(), 0)).await.unwrap();
    let local = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                stream.write_all(name.as_bytes()).await?;
                let (mut read, mut write) = stream.split();
                tokio::io::copy(&mut read, &mut write).await
            });
        }
    });
    local
}

fn back(service_address: IpAddr) -> Change {
    service("back", &service_address.to_string(), |_| {})
}

fn to(name: &str, backend: SocketAddr) -> Change {
    slice("back", name, u32::from(backend.port()), vec![endpoint(&backend.ip().to_string(), "ready")])
}

async fn greeting(stream: &mut TcpStream) -> io::Result<String> {
    let mut name = [0; 3];
    stream.read_exact(&mut name).await?;
    Ok(String::from_utf8_lossy(&name).into_owned())
}

async fn greeted(address: SocketAddr) -> io::Result<String> {
    greeting(&mut TcpStream::connect(address).await?).await
}

/// An address that no other test has, also in another process, outside of every cluster's block.
fn address() -> IpAddr {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = (std::process::id() * 101 + NEXT.fetch_add(1, Ordering::Relaxed)) % 64_000;
    IpAddr::from([127, 3, (number / 250) as u8, (number % 250 + 1) as u8])
}

async fn eventually(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let begin = Instant::now();
    while !is_so().await {
        assert!(begin.elapsed() < DEADLINE, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn connections_go_round_and_open_ones_outlive_their_endpoint() {
    let mut plane = Plane::start().await;
    let (one, two) = (backend("one").await, backend("two").await);
    let service = SocketAddr::new(address(), 80);
    assert!(plane.apply([back(service.ip()), to("a", one), to("b", two)]).await.is_empty());
    let mut seen = HashSet::new();
    for _ in 0..4 {
        seen.insert(greeted(service).await.unwrap());
    }
    assert_eq!(seen.len(), 2);

    let mut open = TcpStream::connect(service).await.unwrap();
    let first = greeting(&mut open).await.unwrap();
    let (gone, stays) = if first == "one" { ("a", "two") } else { ("b", "one") };
    plane.apply([slice("back", gone, 1, vec![])]).await;
    for _ in 0..4 {
        assert_eq!(greeted(service).await.unwrap(), stays);
    }
    // No endpoint at all: refused at once; the open connection goes on.
    plane.apply([slice("back", "a", 1, vec![]), slice("back", "b", 1, vec![])]).await;
    eventually("new connections are refused", async || greeted(service).await.is_err()).await;
    open.write_all(b"abc").await.unwrap();
    assert_eq!(greeting(&mut open).await.unwrap(), "abc");
}

#[tokio::test]
async fn an_endpoint_that_refuses_is_passed_over() {
    let mut plane = Plane::start().await;
    let free = TcpListener::bind((address(), 0)).await.unwrap().local_addr().unwrap();
    let service = SocketAddr::new(address(), 80);
    plane.apply([back(service.ip()), to("a", free), to("b", backend("two").await)]).await;
    for _ in 0..6 {
        assert_eq!(greeted(service).await.unwrap(), "two");
    }
}

#[tokio::test]
async fn nodes_of_one_machine_share_service_addresses() {
    let (mut amber, mut birch) = (Plane::start().await, Plane::start().await);
    let (service, one) = (SocketAddr::new(address(), 80), backend("one").await);
    for plane in [&mut amber, &mut birch] {
        assert!(plane.apply([back(service.ip()), to("a", one)]).await.is_empty());
    }
    amber.network.close();
    for _ in 0..10 {
        assert_eq!(greeted(service).await.unwrap(), "one");
    }
}

#[tokio::test]
async fn a_node_port_that_is_taken_is_told_and_taken_when_it_is_free() {
    let mut plane = Plane::start().await;
    let holder = TcpListener::bind((plane.node, 0)).await.unwrap();
    let taken = holder.local_addr().unwrap();
    let change = service("back", &address().to_string(), |service| {
        service.ports[0].node_port = u32::from(taken.port());
    });
    let one = backend("one").await;
    let errors = plane.apply([change, to("a", one)]).await;
    assert_eq!(errors.len(), 1);
    assert!(errors[0].contains(&taken.to_string()), "{errors:?}");
    drop(holder);
    // Without another word from the agent.
    eventually("the port is taken", async || greeted(taken).await.is_ok_and(|name| name == "one")).await;
    assert!(plane.apply([]).await.is_empty());
}

#[tokio::test]
async fn a_port_is_free_again_as_soon_as_its_last_endpoint_goes() {
    let mut plane = Plane::start().await;
    let port = TcpListener::bind((plane.node, 0)).await.unwrap().local_addr().unwrap();
    let change = service("back", &address().to_string(), |service| {
        service.ports[0].node_port = u32::from(port.port());
    });
    let one = backend("one").await;
    assert!(plane.apply([change, to("a", one)]).await.is_empty());
    for _ in 0..20 {
        assert_eq!(greeted(port).await.unwrap(), "one");
        assert!(plane.apply([slice("back", "a", 1, vec![])]).await.is_empty());
        assert!(plane.apply([to("a", one)]).await.is_empty());
    }
}

#[tokio::test]
async fn a_host_port_leads_to_one_pod_until_it_is_closed() {
    let mut plane = Plane::start().await;
    assert!(plane.apply([]).await.is_empty());
    let (one, two) = (backend("one").await, backend("two").await);
    let free = TcpListener::bind((plane.node, 0)).await.unwrap().local_addr().unwrap();
    let host = HostPort { ip: None, port: free.port(), protocol: Protocol::Tcp };
    plane.network.open_host_port(host, one).unwrap();
    assert_eq!(greeted(free).await.unwrap(), "one");
    assert!(plane.network.open_host_port(host, two).unwrap_err().contains("another pod"));
    plane.network.close_host_port(host, two);
    assert_eq!(greeted(free).await.unwrap(), "one");
    plane.network.close_host_port(host, one);
    assert!(greeted(free).await.is_err());

    let taken = TcpListener::bind((plane.node, 0)).await.unwrap();
    let port = taken.local_addr().unwrap().port();
    let host = HostPort { ip: Some(plane.node), port, protocol: Protocol::Tcp };
    assert!(plane.network.open_host_port(host, one).unwrap_err().contains("cannot listen"));
    drop(taken);
    plane.network.open_host_port(host, one).unwrap();
}

#[tokio::test]
async fn the_last_state_stays_while_the_agent_is_away_and_its_return_leaves_no_gap() {
    let mut plane = Plane::start().await;
    let (service, other) = (SocketAddr::new(address(), 80), SocketAddr::new(address(), 80));
    let one = backend("one").await;
    let leftover = super::table::tests::service("gone", &other.ip().to_string(), |_| {});
    let endpoints = vec![endpoint(&one.ip().to_string(), "ready")];
    let changes =
        [back(service.ip()), to("a", one), leftover, slice("gone", "z", u32::from(one.port()), endpoints)];
    plane.apply(changes).await;
    let Plane { network, node, updates, answers } = plane;
    drop((updates, answers));
    assert_eq!(greeted(service).await.unwrap(), "one");

    let mut plane = Plane::feed(network, node).await;
    assert_eq!(greeted(other).await.unwrap(), "one");
    plane
        .send(Update::UpsertService(match back(service.ip()) {
            Change::Service(service) => service,
            _ => unreachable!("a service"),
        }))
        .await;
    // Half told, nothing changes.
    assert_eq!(greeted(service).await.unwrap(), "one");
    plane.apply([to("a", one)]).await;
    assert_eq!(greeted(service).await.unwrap(), "one");
    eventually("what was not repeated is gone", async || greeted(other).await.is_err()).await;
}

#[tokio::test]
async fn an_older_agent_is_not_heard_any_more() {
    let mut older = Plane::start().await;
    let service = SocketAddr::new(address(), 80);
    older.apply([back(service.ip()), to("a", backend("one").await)]).await;
    let mut newer = Plane::feed(older.network.clone(), older.node).await;
    newer.apply([back(service.ip()), to("b", backend("two").await)]).await;
    older.send(Update::Synced(Synced { id: 8 })).await;
    let answer = older.answers.recv().await.unwrap().unwrap_err();
    assert_eq!(answer.code(), tonic::Code::Aborted);
    assert_eq!(greeted(service).await.unwrap(), "two");
}

#[tokio::test]
async fn a_feed_begins_with_a_reset() {
    let (updates, receiver) = mpsc::channel(1);
    let (sender, mut answers) = mpsc::channel(1);
    let update = Some(Update::Synced(Synced { id: 1 }));
    updates.send(Ok(UpdateRequest { update })).await.unwrap();
    Network::new().follow(ReceiverStream::new(receiver), sender).await;
    assert_eq!(answers.recv().await.unwrap().unwrap_err().code(), tonic::Code::InvalidArgument);
}

struct Counts(Mutex<u32>);

impl ServesConnections for Counts {
    fn serve(&self, mut stream: TcpStream) -> BoxFuture<'static, ()> {
        *self.0.lock().unwrap() += 1;
        Box::pin(async move { stream.write_all(b"own").await.unwrap() })
    }
}

#[tokio::test]
async fn a_container_of_this_process_takes_connections_itself() {
    let mut plane = Plane::start().await;
    let (service, one) = (SocketAddr::new(address(), 80), backend("one").await);
    plane.apply([back(service.ip()), to("a", one)]).await;
    let counts = Arc::new(Counts(Mutex::new(0)));
    plane.network.serve_locally(one, counts.clone());
    assert_eq!(greeted(service).await.unwrap(), "own");
    assert_eq!(*counts.0.lock().unwrap(), 1);
    plane.network.stop_serving_locally(one);
    assert_eq!(greeted(service).await.unwrap(), "one");
}

#[tokio::test]
async fn datagrams_find_their_endpoint_and_their_way_back() {
    let mut plane = Plane::start().await;
    let echo = UdpSocket::bind((address(), 0)).await.unwrap();
    let backend = echo.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 100];
        while let Ok((length, from)) = echo.recv_from(&mut buffer).await {
            echo.send_to(&buffer[..length], from).await.unwrap();
        }
    });
    let listen = SocketAddr::new(address(), 53);
    let change = service("back", &listen.ip().to_string(), |service| {
        service.ports[0].protocol = "UDP".to_owned();
        service.ports[0].port = 53;
    });
    let mut endpoints = to("a", backend);
    if let Change::Slice(slice) = &mut endpoints {
        slice.ports[0].protocol = "UDP".to_owned();
    }
    assert!(plane.apply([change, endpoints]).await.is_empty());
    for number in 0..3u8 {
        let client = UdpSocket::bind((address(), 0)).await.unwrap();
        client.connect(listen).await.unwrap();
        let mut answer = [0; 10];
        // Datagrams may be lost, even here.
        eventually("an answer", async || {
            client.send(&[number; 5]).await.unwrap();
            let received = tokio::time::timeout(Duration::from_millis(500), client.recv(&mut answer)).await;
            matches!(received, Ok(Ok(5)))
        })
        .await;
        assert_eq!(answer[..5], [number; 5]);
    }
}

#[tokio::test]
async fn a_pod_reaches_the_cluster_and_not_the_host() {
    let mut plane = Plane::start().await;
    plane.network.set_pod_cidr("127.65.0.0/24").unwrap();
    let own = IpAddr::V4(plane.network.allocate().unwrap());
    let change = service("back", "127.64.0.9", |service| service.ports[0].node_port = 30_999);
    let api = service("api", "127.64.0.1", |_| {});
    plane
        .apply([
            change,
            slice("back", "a", 8080, vec![endpoint("127.65.0.77", "ready")]),
            api,
            slice("api", "b", 6443, vec![endpoint("127.0.0.1", "ready")]),
            service("empty", "127.64.0.10", |_| {}),
        ])
        .await;
    let check = |address: &str, expected: &str| {
        let route = match plane.network.route(own, address.parse().unwrap(), &[]) {
            Route::To(address) => address.to_string(),
            other => format!("{other:?}"),
        };
        assert_eq!(route, expected, "{address}");
    };
    check("127.64.0.9:80", "127.65.0.77:8080");
    check("127.64.0.10:80", "NoEndpoint");
    check("127.64.0.9:81", "127.64.0.9:81");
    check("127.65.1.2:9", "127.65.1.2:9");
    check(&format!("{}:30999", plane.node), "127.65.0.77:8080");
    // Its own localhost, and not the host's; also under other names.
    check("127.0.0.1:30999", &format!("{own}:30999"));
    check("[::1]:80", &format!("{own}:80"));
    check("0.0.0.0:80", &format!("{own}:80"));
    check("[::ffff:127.0.0.1]:6443", &format!("{own}:6443"));
    check("127.0.0.2:80", "Denied");
    check("127.0.1.1:631", "Denied");
    check("127.100.0.1:80", "Denied");
    // The API server is on the host's localhost, and a service leads there.
    check("127.64.0.1:80", "127.0.0.1:6443");
    check("192.0.2.1:443", "192.0.2.1:443");
    check("[2001:db8::1]:443", "[2001:db8::1]:443");
}

#[tokio::test]
async fn without_a_pod_range_no_loopback_address_is_reached() {
    let network = Network::new();
    let own = IpAddr::from([10, 0, 0, 7]);
    assert_eq!(network.route(own, "127.65.0.1:80".parse().unwrap(), &[]), Route::Denied);
    network.set_pod_cidr("10.0.0.0/24").unwrap();
    assert_eq!(network.route(own, "127.65.0.1:80".parse().unwrap(), &[]), Route::Denied);
}

#[tokio::test]
async fn names_are_the_cluster_s_first_and_then_the_host_s() {
    let mut plane = Plane::start().await;
    plane.apply([service("back", "127.64.0.9", |_| {})]).await;
    let view = DnsView::cluster_first("shop", "cluster.local");
    assert_eq!(plane.network.resolve(&view, "back").await, Ok(vec![IpAddr::from([127, 64, 0, 9])]));
    let missing = plane.network.resolve(&view, "nothing.shop.svc.cluster.local").await;
    assert_eq!(missing, Err(ResolveError::NoSuchName("nothing.shop.svc.cluster.local".to_owned())));
    // This name of the host needs no server.
    let host = plane.network.resolve(&view, "localhost").await.unwrap();
    assert!(host.iter().all(IpAddr::is_loopback), "{host:?}");
}
