//! Programs that are run in containers by hand, and containers that are looked into: exec and attach.

use std::{sync::Arc, time::Duration};

use futures::StreamExt;
use k8s_cri::v1 as cri;
use naru_wasi_shim::{Exec, LogStream};
use tokio::{io::AsyncWriteExt, sync::mpsc};
use tonic::{Status, Streaming};

use super::{backend::Running, container::Container, error::PodError, log::Attached, pods::Pods};
use crate::dataplane::{
    ExecStart, Exited, StreamRequest, StreamResponse, stream_request::Request, stream_response::Response,
};

/// Of each stream of a program that is asked for its whole output.
const MAX_OUTPUT: usize = 16 << 20;
/// A program that nobody listens to any more gets no time to end.
const NO_GRACE: Duration = Duration::ZERO;

type Responses = mpsc::Sender<Result<StreamResponse, Status>>;

impl Pods {
    fn running(&self, id: &str) -> Result<(Arc<Container>, Running), PodError> {
        let container = self.container(id)?;
        let running = container.running().ok_or_else(|| PodError::NotRunning(container.id.clone()))?;
        Ok((container, running))
    }

    /// Runs a program to its end, for at most `timeout`, 0 for as long as it takes.
    pub(super) async fn exec_sync(
        &self,
        request: cri::ExecSyncRequest,
    ) -> Result<cri::ExecSyncResponse, PodError> {
        let (_, running) = self.running(&request.container_id)?;
        let mut exec = running.exec(request.cmd.clone(), false)?;
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let mut keep = |stderr_too: bool, bytes: &[u8]| {
            let kept = if stderr_too { &mut stderr } else { &mut stdout };
            kept.extend_from_slice(&bytes[..bytes.len().min(MAX_OUTPUT - kept.len())]);
        };
        let ended = async {
            let code = loop {
                tokio::select! {
                    bytes = exec.stdout.read() => keep(false, &bytes),
                    bytes = exec.stderr.read() => keep(true, &bytes),
                    status = exec.container.wait() => break status.code,
                }
            };
            keep(false, &exec.stdout.take());
            keep(true, &exec.stderr.take());
            code
        };
        let exit_code = match u64::try_from(request.timeout).ok().filter(|seconds| *seconds > 0) {
            None => ended.await,
            Some(seconds) => match tokio::time::timeout(Duration::from_secs(seconds), ended).await {
                Ok(code) => code,
                Err(_) => {
                    exec.container.stop(NO_GRACE).await;
                    return Err(PodError::TimedOut { command: request.cmd.join(" "), seconds });
                }
            },
        };
        Ok(cri::ExecSyncResponse { stdout, stderr, exit_code })
    }

    /// Starts what the first of `requests` asks for, and serves it in the background until it ends or its client goes.
    pub(super) async fn stream(
        &self,
        mut requests: Streaming<StreamRequest>,
    ) -> Result<mpsc::Receiver<Result<StreamResponse, Status>>, Status> {
        let first = requests.next().await.transpose()?.and_then(|first| first.request);
        let (sender, receiver) = mpsc::channel(8);
        match first {
            Some(Request::Exec(ExecStart { container_id, command, stdin })) => {
                let (_, running) = self.running(&container_id)?;
                let exec = running.exec(command, stdin).map_err(PodError::from)?;
                tokio::spawn(serve_exec(exec, requests, sender));
            }
            Some(Request::Attach(start)) => {
                let (container, running) = self.running(&start.container_id)?;
                if start.stdin && !container.stdin {
                    return Err(PodError::Invalid(
                        "the container takes no input: its spec does not say `stdin: true`".to_owned(),
                    )
                    .into());
                }
                let attached = container.log.attach();
                tokio::spawn(serve_attach(container, running, attached, requests, sender));
            }
            _ => return Err(Status::invalid_argument("the first message must say what to do")),
        }
        Ok(receiver)
    }
}

fn response(response: Response) -> Result<StreamResponse, Status> {
    Ok(StreamResponse { response: Some(response) })
}

async fn serve_exec(exec: Exec, requests: Streaming<StreamRequest>, responses: Responses) {
    let Exec { container, stdin, mut stdout, mut stderr } = exec;
    let mut client = std::pin::pin!(feed_exec(stdin, requests));
    let code = loop {
        let sent = tokio::select! {
            bytes = stdout.read() => responses.send(response(Response::Stdout(bytes.into()))).await,
            bytes = stderr.read() => responses.send(response(Response::Stderr(bytes.into()))).await,
            status = container.wait() => break status.code,
            () = &mut client => {
                container.stop(NO_GRACE).await;
                return;
            }
            () = responses.closed() => {
                container.stop(NO_GRACE).await;
                return;
            }
        };
        if sent.is_err() {
            container.stop(NO_GRACE).await;
            return;
        }
    };
    // What it wrote last; whether anybody takes it makes no difference to a program that ended.
    for last in [Response::Stdout(stdout.take().into()), Response::Stderr(stderr.take().into())] {
        let _ = responses.send(response(last)).await;
    }
    let _ = responses.send(response(Response::Exited(Exited { code }))).await;
}

/// Returns when the client is gone.
async fn feed_exec(mut stdin: Option<tokio::io::DuplexStream>, mut requests: Streaming<StreamRequest>) {
    while let Some(Ok(message)) = requests.next().await {
        match message.request {
            Some(Request::Stdin(bytes)) => {
                // A program that reads no more of its input goes on without.
                if let Some(input) = &mut stdin
                    && input.write_all(&bytes).await.is_err()
                {
                    stdin = None;
                }
            }
            Some(Request::StdinEnd(_)) => stdin = None,
            _ => {}
        }
    }
}

async fn serve_attach(
    container: Arc<Container>,
    running: Running,
    mut attached: Attached,
    requests: Streaming<StreamRequest>,
    responses: Responses,
) {
    let mut client = std::pin::pin!(feed_container(&container, &running, requests));
    loop {
        let (stream, bytes) = tokio::select! {
            piece = attached.next() => match piece {
                Some(piece) => piece,
                None => {
                    let text = "the client reads too slowly, so that output would be lost: read the log";
                    let _ = responses.send(Err(Status::resource_exhausted(text))).await;
                    return;
                }
            },
            status = running.wait() => {
                while let Some((stream, bytes)) = attached.take() {
                    let _ = responses.send(response(of(stream, bytes))).await;
                }
                let exited = Exited { code: status.code };
                let _ = responses.send(response(Response::Exited(exited))).await;
                return;
            }
            () = &mut client => return,
            () = responses.closed() => return,
        };
        if responses.send(response(of(stream, bytes))).await.is_err() {
            return;
        }
    }
}

fn of(stream: LogStream, bytes: Vec<u8>) -> Response {
    match stream {
        LogStream::Stdout => Response::Stdout(bytes),
        LogStream::Stderr => Response::Stderr(bytes),
    }
}

/// Returns when the client is gone.
async fn feed_container(container: &Container, running: &Running, mut requests: Streaming<StreamRequest>) {
    while let Some(Ok(message)) = requests.next().await {
        match message.request {
            Some(Request::Stdin(bytes)) => drop(running.write_stdin(&bytes).await), // Or it reads no more of it.
            Some(Request::StdinEnd(_)) if container.stdin_once => running.close_stdin().await,
            _ => {}
        }
    }
}
