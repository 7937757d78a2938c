//! What guests reach: the pod's address, the names and addresses it was given, and nothing else.

use std::{net::SocketAddr, sync::Arc};

use naru_wasi_shim::Container;
use tokio::net::{TcpListener, UdpSocket};

use crate::common::{Log, Node, Pod, get, within};

const SERVICES: [&str; 2] = ["service02", "service03"];

/// Whether the answer names the error, in whatever way its version of the bindings prints it.
fn names(answer: &str, error: &str) -> bool {
    answer.to_lowercase().replace(['-', '_'], "").contains(error)
}

async fn start(node: &Node, name: &str, pod: Pod) -> (Container, Arc<Log>) {
    node.start(node.guest(name).await, |spec| spec.network = Arc::new(pod)).await
}

#[tokio::test]
async fn names_are_looked_up_in_the_pods_network() {
    let node = Node::new();
    for name in SERVICES {
        let mut pod = Pod::default();
        let own = pod.address.to_string();
        pod.names.insert("echo.shop", "127.4.0.7".parse().unwrap());
        let (container, _) = start(&node, name, pod).await;
        let lookup = async |wanted: &str| get(&container, &format!("/lookup/{wanted}")).await.1;
        assert!(lookup("echo.shop").await.contains("127.4.0.7"), "{name}");
        assert!(lookup("localhost").await.contains(&own), "{name}");
        assert!(lookup("192.0.2.1").await.contains("192.0.2.1"), "{name}");
        assert!(names(&lookup("elsewhere").await, "nameunresolvable"), "{name}");
        assert!(names(&lookup("not%20a%20name").await, "invalidargument"), "{name}");
    }
}

#[tokio::test]
async fn a_connection_goes_where_the_network_says_and_comes_from_the_pod() {
    let node = Node::new();
    for name in SERVICES {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (service, endpoint): (SocketAddr, _) =
            ("127.4.0.7:80".parse().unwrap(), listener.local_addr().unwrap());
        let mut pod = Pod::default();
        let own = pod.address;
        pod.routes.insert(service, endpoint);
        let (container, _) = start(&node, name, pod).await;
        let (answer, accepted) =
            tokio::join!(get(&container, "/connect/127.4.0.7:80"), within(listener.accept()));
        assert_eq!(answer.1, "Ok(())", "{name}");
        assert_eq!(accepted.unwrap().1.ip(), own, "{name}");
    }
}

#[tokio::test]
async fn an_address_that_was_not_given_is_denied() {
    let node = Node::new();
    // It listens, and would accept.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    for name in SERVICES {
        let (container, _) = start(&node, name, Pod::default()).await;
        for address in [format!("127.0.0.1:{port}"), "192.0.2.1:80".into()] {
            let (_, answer) = get(&container, &format!("/connect/{address}")).await;
            assert!(names(&answer, "accessdenied"), "{name}: {address}: {answer}");
        }
    }
}

#[tokio::test]
async fn a_datagram_goes_where_the_network_says_and_comes_from_the_pod() {
    let node = Node::new();
    for name in SERVICES {
        let receiver = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let mut pod = Pod::default();
        let own = pod.address;
        pod.routes.insert("127.4.0.10:53".parse().unwrap(), receiver.local_addr().unwrap());
        let (container, _) = start(&node, name, pod).await;
        let (_, sent) = get(&container, "/datagram/127.4.0.10:53").await;
        assert!(sent.starts_with("Ok("), "{name}: {sent}");
        let mut buffer = [0; 16];
        let (length, from) = within(receiver.recv_from(&mut buffer)).await.unwrap();
        assert_eq!((&buffer[..length], from.ip()), (&b"ping"[..], own), "{name}");
        let (_, denied) = get(&container, "/datagram/127.4.0.11:53").await;
        assert!(names(&denied, "accessdenied"), "{name}: {denied}");
    }
}

#[tokio::test]
async fn a_guest_binds_to_its_pods_address_only() {
    let node = Node::new();
    for name in SERVICES {
        let pod = Pod::default();
        let own = pod.address;
        let (container, _) = start(&node, name, pod).await;
        let own = match name {
            "service02" => own.to_string(),
            _ => own.to_string().replace('.', ", "),
        };
        for wanted in ["0.0.0.0:0", "127.0.0.1:0"] {
            let (_, bound) = get(&container, &format!("/bind/{wanted}")).await;
            assert!(bound.contains(&own), "{name}: {bound}");
        }
        let (_, refused) = get(&container, "/bind/127.4.0.7:0").await;
        assert!(names(&refused, "addressnotbindable"), "{name}: {refused}");
    }
}

#[tokio::test]
async fn outgoing_requests_go_through_the_pods_network() {
    let node = Node::new();
    for name in SERVICES {
        let (container, _) = start(&node, name, Pod::default()).await;
        assert_eq!(get(&container, "/get/echo").await.1, "200 echo of /from-a-guest", "{name}");
        let (_, refused) = get(&container, "/get/nobody").await;
        assert!(names(&refused, "connectionrefused"), "{name}: {refused}");
    }
}
