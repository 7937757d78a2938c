//! exec and attach: a program's standard streams, and how it ended, over the channels of one connection.
//!
//! Over a WebSocket a channel is a number; over SPDY the client opens a stream for each. How the program ended is told
//! on the error channel, as a `Status`: `Success`, or with the exit code among its causes.

use std::{pin::pin, time::Duration};

use futures::{StreamExt, stream::BoxStream};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::mpsc,
};

use super::{
    channel::{self, Gone, Input, Outgoing, Output, Queue},
    negotiation::Known,
    spdy, websocket,
};
use crate::{
    agent::runtime::RuntimeResult,
    dataplane::{StreamRequest, StreamResponse, stream_request, stream_response},
};

/// In version 5 a client can end its input; its other channels are those of version 4.
pub const PROTOCOLS: Known =
    Known { websocket: &[V5, "v4.channel.k8s.io"], spdy: &[V5, "v4.channel.k8s.io"] };
pub const V5: &str = "v5.channel.k8s.io";

const STDIN: u32 = 0;
const STDOUT: u32 = 1;
const STDERR: u32 = 2;
const ERROR: u32 = 3;
const RESIZE: u32 = 4;

/// How long a client may take to open its streams.
const STREAMS_PATIENCE: Duration = Duration::from_secs(30);

/// Which streams the client wants.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Options {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    pub tty: bool,
}

/// A program in the runtime, from here. It ends when `requests` is dropped.
pub struct Program {
    /// For messages: `[sh -c exit]`, as Go prints lists. None for a container that is attached to, whose end is no
    /// matter of this connection.
    pub command: Option<String>,
    pub requests: mpsc::Sender<StreamRequest>,
    pub responses: BoxStream<'static, RuntimeResult<StreamResponse>>,
}

/// The client's side.
struct Session {
    stdin: Option<Input>,
    stdout: Option<Output>,
    stderr: Option<Output>,
    error: Output,
}

pub async fn over_websocket<S: AsyncRead + AsyncWrite + Unpin>(
    connection: S,
    protocol: &str,
    options: Options,
    program: Program,
) {
    let socket = websocket::accept(connection).await;
    let (queue, outgoing) = Queue::new();
    let (stdin, input) = options.stdin.then(channel::input).unzip();
    let output = |wanted: bool, channel| wanted.then(|| queue.channel(channel));
    let session = Session {
        stdin: input,
        stdout: output(options.stdout, STDOUT),
        stderr: output(options.stderr, STDERR),
        error: queue.channel(ERROR),
    };
    drop(queue);
    let channels = websocket::channels(socket, vec![stdin], protocol == V5, outgoing);
    // The program ends with its client; the connection once everything is said.
    let mut channels = pin!(channels);
    tokio::select! {
        () = &mut channels => {}
        () = session.serve(program) => channels.await,
    }
}

pub async fn over_spdy(
    reader: impl AsyncRead + Unpin,
    writer: impl AsyncWrite + Unpin,
    options: Options,
    program: Program,
) {
    let (queue, outgoing) = Queue::new();
    let (sender, streams) = mpsc::channel(8);
    let closing = queue.clone();
    let serving = async {
        if let Some(session) = Session::gather(streams, options).await {
            session.serve(program).await;
        }
        let _ = closing.push(Outgoing::Close).await; // It may be gone already.
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = spdy::serve(reader, writer, sender, (queue, outgoing)) => {}
        () = serving => {}
    }
}

impl Session {
    /// Waits for the streams that the client's options promise.
    async fn gather(mut streams: mpsc::Receiver<channel::Stream>, options: Options) -> Option<Self> {
        let mut found: [Option<channel::Stream>; 5] = Default::default();
        let wanted = [options.stdin, options.stdout, options.stderr, true, options.tty];
        let all = async {
            while wanted.iter().zip(&found).any(|(wanted, found)| *wanted && found.is_none()) {
                let stream = streams.recv().await?;
                let index = match stream.header("streamtype") {
                    "stdin" => STDIN,
                    "stdout" => STDOUT,
                    "stderr" => STDERR,
                    "error" => ERROR,
                    "resize" => RESIZE,
                    _ => {
                        stream.output.reset().await.ok()?;
                        continue;
                    }
                };
                found[index as usize] = Some(stream);
            }
            Some(())
        };
        tokio::time::timeout(STREAMS_PATIENCE, all).await.ok()??;
        let [stdin, stdout, stderr, error, _] = found;
        Some(Self {
            stdin: stdin.map(|stream| stream.input),
            stdout: stdout.map(|stream| stream.output),
            stderr: stderr.map(|stream| stream.output),
            error: error?.output,
        })
    }

    /// Until the program has ended and everything is said, or the client is gone.
    async fn serve(self, program: Program) {
        let Self { stdin, stdout, stderr, error } = self;
        let Program { command, requests, mut responses } = program;
        let mut feeding = pin!(feed(stdin, requests));
        let ended = async {
            while let Some(response) = responses.next().await {
                let response = match response {
                    Ok(response) => response,
                    Err(error) => return Ok(failure(&error.message)),
                };
                use stream_response::Response;
                match response.response {
                    Some(Response::Stdout(bytes)) => send(stdout.as_ref(), bytes).await?,
                    Some(Response::Stderr(bytes)) => send(stderr.as_ref(), bytes).await?,
                    Some(Response::Exited(exited)) => {
                        return Ok(exit_status(command.as_deref(), exited.code));
                    }
                    None => {}
                }
            }
            Ok::<_, Gone>(success())
        };
        let status = tokio::select! {
            status = ended => status,
            never = &mut feeding => match never {},
        };
        let Ok(status) = status else { return };
        // Whether the client still listens makes no difference any more.
        let _ = error.send(status.to_string()).await;
        for output in [stdout.as_ref(), stderr.as_ref(), Some(&error)].into_iter().flatten() {
            let _ = output.end().await;
        }
    }
}

async fn send(output: Option<&Output>, bytes: Vec<u8>) -> Result<(), Gone> {
    match output {
        Some(output) if !bytes.is_empty() => output.send(bytes).await,
        _ => Ok(()),
    }
}

/// Passes the client's input on, and its end. Keeps `requests`, by which the runtime knows that somebody is there.
async fn feed(stdin: Option<Input>, requests: mpsc::Sender<StreamRequest>) -> std::convert::Infallible {
    use stream_request::Request;
    if let Some(mut stdin) = stdin {
        while let Some(bytes) = stdin.recv().await {
            let request = StreamRequest { request: Some(Request::Stdin(bytes.to_vec())) };
            if requests.send(request).await.is_err() {
                break;
            }
        }
        let request = StreamRequest { request: Some(Request::StdinEnd(true)) };
        let _ = requests.send(request).await; // A program that ended needs none.
    }
    std::future::pending().await
}

fn success() -> Value {
    json!({ "metadata": {}, "status": "Success" })
}

fn exit_status(command: Option<&str>, code: i32) -> Value {
    let Some(command) = command.filter(|_| code != 0) else { return success() };
    json!({
        "metadata": {},
        "status": "Failure",
        "message": format!(
            "command terminated with non-zero exit code: error executing command {command}, exit code {code}"
        ),
        "reason": "NonZeroExitCode",
        "details": { "causes": [{ "reason": "ExitCode", "message": code.to_string() }] },
    })
}

fn failure(message: &str) -> Value {
    let message = format!("error executing command in container: {message}");
    json!({
        "metadata": {},
        "status": "Failure",
        "message": format!("Internal error occurred: {message}"),
        "reason": "InternalError",
        "details": { "causes": [{ "message": message }] },
        "code": 500,
    })
}
