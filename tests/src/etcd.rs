//! etcd as a peer: its server, and the one call that the benchmarks need.

use std::{
    net::{SocketAddr, TcpListener},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use http::uri::PathAndQuery;
use tonic::{client::Grpc, transport::Channel};
use tonic_prost::ProstCodec;

/// An etcd with one member. Ended when dropped.
pub struct Etcd {
    address: SocketAddr,
    process: Child,
    _data: tempfile::TempDir,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PutRequest {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

/// What a put answers is not looked at.
#[derive(Clone, PartialEq, prost::Message)]
struct PutResponse {}

impl Etcd {
    /// `None`, with a word of why, where etcd is not installed.
    pub async fn start() -> Option<Self> {
        let data = tempfile::tempdir().expect("a temporary directory");
        let [client, peer] = [free_port(), free_port()];
        let urls = [format!("http://{client}"), format!("http://{peer}")];
        let process = Command::new("etcd")
            .arg("--data-dir")
            .arg(PathBuf::from(data.path()).join("etcd"))
            .args(["--listen-client-urls", &urls[0], "--advertise-client-urls", &urls[0]])
            .args(["--listen-peer-urls", &urls[1], "--initial-advertise-peer-urls", &urls[1]])
            .args(["--initial-cluster", &format!("default={}", urls[1])])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let Ok(process) = process else {
            eprintln!("etcd is missing: apt-get install etcd-server");
            return None;
        };
        let etcd = Self { address: client, process, _data: data };
        let started = Instant::now();
        loop {
            if let Ok(mut connection) = etcd.connect().await
                && connection.put(b"ready".to_vec(), Vec::new()).await.is_ok()
            {
                return Some(etcd);
            }
            assert!(started.elapsed() < Duration::from_secs(30), "etcd does not answer");
            tokio::time::sleep(Duration::from_millis(50)).await; // Another process: there is nothing to wait on.
        }
    }

    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// # Errors
    /// It does not listen.
    pub async fn connect(&self) -> Result<Connection, tonic::transport::Error> {
        let channel =
            Channel::from_shared(format!("http://{}", self.address)).expect("a URI").connect().await?;
        Ok(Connection(Grpc::new(channel)))
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

pub struct Connection(Grpc<Channel>);

impl Connection {
    /// One durable put.
    ///
    /// # Errors
    /// What etcd answers instead.
    pub async fn put(&mut self, key: Vec<u8>, value: Vec<u8>) -> Result<(), tonic::Status> {
        self.0.ready().await.map_err(|error| tonic::Status::unavailable(error.to_string()))?;
        let path = PathAndQuery::from_static("/etcdserverpb.KV/Put");
        let codec = ProstCodec::<PutRequest, PutResponse>::default();
        self.0.unary(tonic::Request::new(PutRequest { key, value }), path, codec).await.map(drop)
    }
}

fn free_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a free port")
}
