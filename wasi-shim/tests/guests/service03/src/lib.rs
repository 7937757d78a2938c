//! A wasi:http 0.3 service that does, path by path, what the tests ask for.

use wasip3::{
    http::{
        client,
        types::{ErrorCode, Fields, Request, Response, Scheme},
    },
    sockets::{
        ip_name_lookup::resolve_addresses,
        types::{IpAddress, IpAddressFamily, IpSocketAddress, Ipv4SocketAddress, TcpSocket, UdpSocket},
    },
    wit_bindgen, wit_future, wit_stream,
};

struct Service;

wasip3::http::service::export!(Service);

impl wasip3::exports::http::handler::Guest for Service {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        let path = request.get_path_with_query().unwrap_or_default();
        let mut parts = path.trim_start_matches('/').split('/');
        match (parts.next().unwrap_or_default(), parts.next().unwrap_or_default()) {
            ("trap", _) => panic!("as asked"),
            ("spin", _) => loop {
                std::hint::black_box(0);
            },
            ("error", _) => Err(ErrorCode::InternalError(Some("as asked".into()))),
            ("echo", _) => echo(request),
            ("lookup", name) => text(lookup(name).await),
            ("connect", address) => text(connect(address).await),
            ("datagram", address) => text(datagram(address).await),
            ("bind", address) => text(bind(address)),
            ("get", authority) => text(get(authority).await),
            _ => text("hello".into()),
        }
    }
}

fn text(text: String) -> Result<Response, ErrorCode> {
    let (mut body, body_reader) = wit_stream::new();
    let (trailers, trailers_reader) = wit_future::new(|| Ok(None));
    let (response, _sent) = Response::new(Fields::new(), Some(body_reader), trailers_reader);
    drop(trailers);
    wit_bindgen::spawn_local(async move {
        let _left_over = body.write_all(text.into_bytes()).await;
    });
    Ok(response)
}

fn echo(request: Request) -> Result<Response, ErrorCode> {
    let (_, result) = wit_future::new(|| Ok(()));
    let (body, trailers) = Request::consume_body(request, result);
    Ok(Response::new(Fields::new(), Some(body), trailers).0)
}

async fn lookup(name: &str) -> String {
    match resolve_addresses(name.into()).await {
        Ok(found) => format!("{:?}", found.iter().map(address_text).collect::<Vec<_>>()),
        Err(error) => format!("{error:?}"),
    }
}

fn address_text(address: &IpAddress) -> String {
    match address {
        IpAddress::Ipv4((a, b, c, d)) => format!("{a}.{b}.{c}.{d}"),
        IpAddress::Ipv6(address) => format!("{address:?}"),
    }
}

fn parse(address: &str) -> IpSocketAddress {
    let address: std::net::SocketAddrV4 = address.parse().unwrap();
    let [a, b, c, d] = address.ip().octets();
    IpSocketAddress::Ipv4(Ipv4SocketAddress { port: address.port(), address: (a, b, c, d) })
}

async fn connect(address: &str) -> String {
    let socket = TcpSocket::create(IpAddressFamily::Ipv4).unwrap();
    format!("{:?}", socket.connect(parse(address)).await)
}

async fn datagram(address: &str) -> String {
    let socket = UdpSocket::create(IpAddressFamily::Ipv4).unwrap();
    format!("{:?}", socket.send(b"ping".to_vec(), Some(parse(address))).await)
}

fn bind(address: &str) -> String {
    let socket = TcpSocket::create(IpAddressFamily::Ipv4).unwrap();
    match socket.bind(parse(address)) {
        Ok(()) => format!("{:?}", socket.get_local_address()),
        Err(error) => format!("{error:?}"),
    }
}

async fn get(authority: &str) -> String {
    let (trailers, trailers_reader) = wit_future::new(|| Ok(None));
    let (request, _sent) = Request::new(Fields::new(), None, trailers_reader, None);
    drop(trailers);
    request.set_scheme(Some(&Scheme::Http)).unwrap();
    request.set_authority(Some(authority)).unwrap();
    request.set_path_with_query(Some("/from-a-guest")).unwrap();
    let response = match client::send(request).await {
        Ok(response) => response,
        Err(error) => return format!("{error:?}"),
    };
    let status = response.get_status_code();
    let (_, result) = wit_future::new(|| Ok(()));
    let (body, _trailers) = Response::consume_body(response, result);
    let bytes = body.collect().await;
    format!("{status} {}", String::from_utf8_lossy(&bytes))
}
