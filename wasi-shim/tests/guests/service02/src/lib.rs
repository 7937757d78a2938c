//! A wasi:http 0.2 service that does, path by path, what the tests ask for, the hostile things included.

use wasip2::{
    http::{
        outgoing_handler,
        types::{
            Fields, IncomingBody, IncomingRequest, OutgoingBody, OutgoingRequest, OutgoingResponse, ResponseOutparam, Scheme,
        },
    },
    io::streams::StreamError,
    sockets::{
        instance_network::instance_network,
        ip_name_lookup::resolve_addresses,
        network::{ErrorCode, IpAddress, IpAddressFamily, IpSocketAddress, Ipv4SocketAddress},
        tcp::TcpSocket,
        tcp_create_socket::create_tcp_socket,
        udp::OutgoingDatagram,
        udp_create_socket::create_udp_socket,
    },
};

struct Service;

wasip2::http::proxy::export!(Service);

impl wasip2::exports::http::incoming_handler::Guest for Service {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let path = request.path_with_query().unwrap_or_default();
        if let Some((task, file)) = path.trim_start_matches('/').split_once("-file/") {
            return on_file(out, task, &format!("/{file}"));
        }
        let mut parts = path.trim_start_matches('/').split('/');
        match (parts.next().unwrap_or_default(), parts.next().unwrap_or_default()) {
            ("echo", _) => echo(request, out),
            ("trap", _) => panic!("as asked"),
            ("spin", _) => loop {
                std::hint::black_box(0);
            },
            ("bomb", _) => bomb(),
            ("silent", _) => {}
            ("compute", rounds) => respond(out, &compute(rounds.parse().unwrap()).to_string()),
            ("fill", bytes) => respond(out, &fill(bytes.parse().unwrap()).to_string()),
            ("grow", bytes) => respond(out, &grow(bytes.parse().unwrap()).to_string()),
            ("read", address) => respond(out, &read(address.parse().unwrap()).to_string()),
            ("call", index) => call(index.parse().unwrap()),
            ("recurse", _) => respond(out, &recurse(u64::MAX).to_string()),
            ("count", _) => respond(out, &count().to_string()),
            ("env", name) => respond(out, &std::env::var(name).unwrap_or_default()),
            ("get", authority) => respond(out, &get(authority)),
            ("lookup", name) => respond(out, &format!("{:?}", lookup(name))),
            ("connect", address) => respond(out, &format!("{:?}", connect(address).map(|_| ()))),
            ("datagram", address) => respond(out, &format!("{:?}", datagram(address))),
            ("bind", address) => respond(out, &format!("{:?}", bind(address))),
            ("sockets", _) => respond(out, &many_sockets()),
            _ => respond(out, "hello"),
        }
    }
}

/// How often this instance was called.
fn count() -> u32 {
    use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
    static CALLS: AtomicU32 = AtomicU32::new(0);
    CALLS.fetch_add(1, Relaxed) + 1
}

fn compute(rounds: u64) -> u64 {
    (0..rounds).fold(1, |sum, round| std::hint::black_box(sum ^ round).rotate_left(7))
}

/// Writes to memory up to an address, and answers how large it is.
fn fill(bytes: usize) -> usize {
    let hoard = vec![0xab_u8; bytes];
    std::hint::black_box(&hoard);
    core::arch::wasm32::memory_size(0) << 16
}

/// How many bytes of memory that nobody had before are not zero.
fn grow(bytes: usize) -> usize {
    let page = core::arch::wasm32::memory_grow(0, bytes >> 16);
    // The new pages are this guest's and nobody's in it.
    let new = unsafe { std::slice::from_raw_parts((page << 16) as *const u8, bytes) };
    new.iter().filter(|byte| **byte != 0).count()
}

/// The byte at an address, which may be outside of the memory.
fn read(address: usize) -> u8 {
    unsafe { std::ptr::read_volatile(address as *const u8) }
}

/// Calls a function that may not exist.
fn call(index: usize) {
    let function: extern "C" fn() = unsafe { std::mem::transmute(std::hint::black_box(index)) };
    function();
}

fn recurse(depth: u64) -> u64 {
    if depth == 0 { 0 } else { std::hint::black_box(recurse(depth - 1)) + 1 }
}

fn bomb() -> ! {
    let mut hoard: Vec<Vec<u8>> = Vec::new();
    loop {
        hoard.push(vec![1; 1 << 20]);
    }
}

/// `read-file/PATH`, `write-file/PATH` and `remove-file/PATH`: 404 with the reason where that fails.
fn on_file(out: ResponseOutparam, task: &str, path: &str) {
    let result = match task {
        "write" => std::fs::write(path, "written").map(|()| String::new()),
        "remove" => std::fs::remove_file(path).map(|()| String::new()),
        _ => std::fs::read_to_string(path),
    };
    match result {
        Ok(text) => respond(out, &text),
        Err(error) => respond_with(out, 404, &error.to_string()),
    }
}

fn respond(out: ResponseOutparam, text: &str) {
    respond_with(out, 200, text);
}

fn respond_with(out: ResponseOutparam, status: u16, text: &str) {
    let response = OutgoingResponse::new(Fields::new());
    response.set_status_code(status).unwrap();
    let body = response.body().unwrap();
    ResponseOutparam::set(out, Ok(response));
    let stream = body.write().unwrap();
    stream.blocking_write_and_flush(text.as_bytes()).unwrap();
    drop(stream);
    OutgoingBody::finish(body, None).unwrap();
}

/// Answers while the request is still coming in.
fn echo(request: IncomingRequest, out: ResponseOutparam) {
    let incoming = request.consume().unwrap();
    let response = OutgoingResponse::new(Fields::new());
    let body = response.body().unwrap();
    ResponseOutparam::set(out, Ok(response));
    let (input, output) = (incoming.stream().unwrap(), body.write().unwrap());
    loop {
        match output.blocking_splice(&input, 1 << 16) {
            Ok(_) => {}
            Err(StreamError::Closed) => break,
            Err(error) => panic!("{error:?}"),
        }
    }
    output.blocking_flush().unwrap();
    drop((input, output));
    IncomingBody::finish(incoming);
    OutgoingBody::finish(body, None).unwrap();
}

fn get(authority: &str) -> String {
    let request = OutgoingRequest::new(Fields::new());
    request.set_scheme(Some(&Scheme::Http)).unwrap();
    request.set_authority(Some(authority)).unwrap();
    request.set_path_with_query(Some("/from-a-guest")).unwrap();
    let answer = match outgoing_handler::handle(request, None) {
        Ok(answer) => answer,
        Err(error) => return format!("{error:?}"),
    };
    answer.subscribe().block();
    let response = match answer.get().unwrap().unwrap() {
        Ok(response) => response,
        Err(error) => return format!("{error:?}"),
    };
    let body = response.consume().unwrap();
    let stream = body.stream().unwrap();
    let mut text = Vec::new();
    while let Ok(bytes) = stream.blocking_read(1 << 16) {
        text.extend(bytes);
    }
    format!("{} {}", response.status(), String::from_utf8_lossy(&text))
}

fn lookup(name: &str) -> Result<Vec<String>, ErrorCode> {
    let found = resolve_addresses(&instance_network(), name)?;
    let mut addresses = Vec::new();
    loop {
        found.subscribe().block();
        match found.resolve_next_address()? {
            Some(IpAddress::Ipv4((a, b, c, d))) => addresses.push(format!("{a}.{b}.{c}.{d}")),
            Some(IpAddress::Ipv6(address)) => addresses.push(format!("{address:?}")),
            None => return Ok(addresses),
        }
    }
}

fn parse(address: &str) -> IpSocketAddress {
    let address: std::net::SocketAddrV4 = address.parse().unwrap();
    let [a, b, c, d] = address.ip().octets();
    IpSocketAddress::Ipv4(Ipv4SocketAddress { port: address.port(), address: (a, b, c, d) })
}

fn connect(address: &str) -> Result<TcpSocket, ErrorCode> {
    let socket = create_tcp_socket(IpAddressFamily::Ipv4)?;
    socket.start_connect(&instance_network(), parse(address))?;
    socket.subscribe().block();
    socket.finish_connect()?;
    Ok(socket)
}

fn datagram(address: &str) -> Result<u64, ErrorCode> {
    let socket = create_udp_socket(IpAddressFamily::Ipv4)?;
    socket.start_bind(&instance_network(), parse("0.0.0.0:0"))?;
    socket.finish_bind()?;
    let (_incoming, outgoing) = socket.stream(None)?;
    outgoing.subscribe().block();
    outgoing.check_send()?;
    outgoing.send(&[OutgoingDatagram { data: b"ping".to_vec(), remote_address: Some(parse(address)) }])
}

fn bind(address: &str) -> Result<String, ErrorCode> {
    let socket = create_tcp_socket(IpAddressFamily::Ipv4)?;
    socket.start_bind(&instance_network(), parse(address))?;
    socket.finish_bind()?;
    match socket.local_address()? {
        IpSocketAddress::Ipv4(Ipv4SocketAddress { address: (a, b, c, d), .. }) => Ok(format!("{a}.{b}.{c}.{d}")),
        IpSocketAddress::Ipv6(_) => Ok("an IPv6 address".into()),
    }
}

fn many_sockets() -> String {
    let mut open = Vec::new();
    loop {
        match create_tcp_socket(IpAddressFamily::Ipv4) {
            Ok(socket) => open.push(socket),
            Err(error) => return format!("{} {error:?}", open.len()),
        }
    }
}
