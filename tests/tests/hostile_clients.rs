//! Clients that mean harm, or are broken: what they hold is bounded and taken back, and others do not notice.

use std::time::{Duration, Instant};

use naru_tests::{Cluster, eventually_within, raw_client::Target};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// What an answer may take while others misbehave, on a machine that is busy with other tests.
const PROMPT: Duration = Duration::from_secs(20);

fn resident_bytes(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the process lives");
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a size");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") << 10
}

/// As many files as this process may have open at most.
fn raise_file_limit() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

fn assert_serves(cluster: &Cluster) {
    let began = Instant::now();
    cluster.kubectl().run(&["get", "namespaces"]).ok();
    assert!(began.elapsed() < PROMPT, "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_idle_connections_are_bounded_and_end() {
    // Before the cluster starts: it takes the limit over.
    let files = raise_file_limit();
    let crowd = 10_000.min(files.saturating_sub(1_000)) as usize;
    let cluster = Cluster::start();
    let target = Target::from_kubeconfig(&cluster.kubeconfig());
    assert_serves(&cluster);
    let before = resident_bytes(cluster.pid());
    let (mut silent, mut shaken) = (Vec::new(), Vec::new());
    for index in 0..crowd {
        // One in ten gets as far as TLS; none sends a request.
        if index % 10 == 0 {
            shaken.push(target.tls(&[b"h2"]).await);
        } else {
            silent.push(TcpStream::connect(target.authority()).await.expect("it listens"));
        }
    }
    let grown = resident_bytes(cluster.pid()).saturating_sub(before);
    assert!(grown < 256 << 20, "{} MiB for {crowd} connections", grown >> 20);
    assert_serves(&cluster);

    // The server ends all of them, whether they began a handshake or finished it.
    let ended = async {
        for mut stream in silent {
            let _ = stream.read(&mut [0; 64]).await;
        }
        for mut stream in shaken {
            while stream.read(&mut [0; 4096]).await.is_ok_and(|read| read > 0) {}
        }
    };
    tokio::time::timeout(Duration::from_secs(90), ended).await.expect("every connection is ended");
    let log = cluster.log();
    let complaints =
        log.lines().filter(|line| line.contains("handshakes failed") || line.contains("were closed"));
    assert!(complaints.count() <= 6, "{log}");
    assert_serves(&cluster);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_heads_and_bodies_are_cut_off_while_others_are_served() {
    let cluster = Cluster::start();
    let target = Target::from_kubeconfig(&cluster.kubeconfig());
    let post = format!(
        "POST /api/v1/namespaces/default/configmaps HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\n",
        target.authority()
    );
    let cases = [
        // The head comes a byte at a time and never ends.
        ("head", "GET /version HTTP/1.1\r\nX-Slow: ".to_owned(), b"a".to_vec(), ""),
        // The body is announced and never comes.
        ("silence", format!("{post}Content-Length: 100000\r\n\r\n{{"), Vec::new(), "400"),
        // It comes a byte at a time: until the time is over that a write may take.
        ("drip", format!("{post}Content-Length: 100000\r\n\r\n{{"), b" ".to_vec(), "504"),
        // It never ends.
        ("endless", format!("{post}Transfer-Encoding: chunked\r\n\r\n"), endless_chunk(), "413"),
    ];
    let attacks = cases.map(|(name, start, more, expected)| {
        let target = target.clone();
        tokio::spawn(async move {
            let (mut reader, mut writer) = tokio::io::split(target.tls(&[b"http/1.1"]).await);
            writer.write_all(start.as_bytes()).await.expect("the start is sent");
            let pause = if more.len() > 1 { Duration::ZERO } else { Duration::from_millis(500) };
            let drip = async {
                // Until the server has had enough.
                while !more.is_empty()
                    && writer.write_all(&more).await.is_ok()
                    && writer.flush().await.is_ok()
                {
                    tokio::time::sleep(pause).await;
                }
                std::future::pending::<()>().await;
            };
            let mut answer = Vec::new();
            let read = async {
                // A reset after the answer is as good as an end.
                while reader.read_buf(&mut answer).await.is_ok_and(|read| read > 0) {}
            };
            tokio::select! {
                () = read => (),
                () = drip => (),
                () = tokio::time::sleep(Duration::from_secs(110)) => panic!("{name} was not cut off"),
            }
            let answer = String::from_utf8_lossy(&answer).into_owned();
            assert!(answer.contains(expected), "{name}: {answer}");
        })
    });
    let is_done = || attacks.iter().all(tokio::task::JoinHandle::is_finished);
    let before = resident_bytes(cluster.pid());
    eventually_within(Duration::from_mins(2), "all are cut off", async || {
        assert_serves(&cluster);
        if is_done() { Ok(()) } else { Err("some are not") }
    })
    .await;
    for attack in attacks {
        attack.await.expect("cut off as it should be");
    }
    let grown = resident_bytes(cluster.pid()).saturating_sub(before);
    assert!(grown < 64 << 20, "{} MiB", grown >> 20);
}

fn endless_chunk() -> Vec<u8> {
    let mut chunk = b"4000\r\n".to_vec();
    chunk.extend_from_slice(&[b' '; 0x4000]);
    chunk.extend_from_slice(b"\r\n");
    chunk
}

/// One HTTP/2 frame.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    frame.extend_from_slice(&[kind, flags]);
    frame.extend_from_slice(&stream.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_that_are_reset_as_fast_as_they_open_end_their_connection() {
    let (settings, headers, rst_stream, goaway) = (4, 1, 3, 7);
    let cluster = Cluster::start();
    let target = Target::from_kubeconfig(&cluster.kubeconfig());
    let before = resident_bytes(cluster.pid());
    let stream = target.tls(&[b"h2"]).await;
    let (mut reader, mut writer) = tokio::io::split(stream);
    let mut head = vec![0x82, 0x87, 0x84, 0x01]; // GET, https, /, and the authority as it is.
    head.push(target.authority().len() as u8);
    head.extend_from_slice(target.authority().as_bytes());
    let attack = tokio::spawn(async move {
        let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        bytes.extend(frame(settings, 0, 0, &[]));
        bytes.extend(frame(settings, 1, 0, &[]));
        for stream in (1..200_000).step_by(2) {
            bytes.extend(frame(headers, 0x5, stream, &head));
            bytes.extend(frame(rst_stream, 0, stream, &8_u32.to_be_bytes()));
            if bytes.len() > 16 << 10 && writer.write_all(&std::mem::take(&mut bytes)).await.is_err() {
                return;
            }
        }
        std::future::pending::<()>().await;
    });
    let mut answer = Vec::new();
    let read = async { while reader.read_buf(&mut answer).await.is_ok_and(|read| read > 0) {} };
    tokio::time::timeout(Duration::from_mins(1), read).await.expect("the server ends the connection");
    attack.abort();
    let mut rest = &answer[..];
    let mut kinds = Vec::new();
    while rest.len() >= 9 {
        let len = u32::from_be_bytes([0, rest[0], rest[1], rest[2]]) as usize;
        kinds.push(rest[3]);
        rest = rest.get(9 + len..).unwrap_or_default();
    }
    assert!(kinds.contains(&goaway), "{kinds:?}");
    assert_serves(&cluster);
    let grown = resident_bytes(cluster.pid()).saturating_sub(before);
    assert!(grown < 64 << 20, "{} MiB", grown >> 20);
}
