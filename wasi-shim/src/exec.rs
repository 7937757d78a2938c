//! Another run of a container's module beside the container itself: `kubectl exec`.
//!
//! A wasm container has no other programs. It runs its own module with other arguments, in an instance of its own, with
//! the container's environment, mounts, network and limits; it ends with the container.

use std::sync::Arc;

use tokio::io::DuplexStream;

use crate::{
    Container, command,
    container::Core,
    pipe::{PipeReader, PipeWriter, Stdin},
};

/// A program that runs in a container. Dropping `container` kills it.
pub struct Exec {
    /// For its end; not the container that it runs in.
    pub container: Container,
    /// Ends the program's input when dropped.
    pub stdin: Option<DuplexStream>,
    pub stdout: PipeReader,
    pub stderr: PipeReader,
}

/// Why a program was not started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ExecError {
    #[error(
        "the container serves wasi:http and has no program to run: exec takes a module with _start or a component that \
         exports wasi:cli/run"
    )]
    NoProgram,
    #[error("the container does not run any more")]
    Ended,
    #[error("the node has no room for another wasm instance")]
    NoRoom,
}

/// Where the standard streams of one run lead, if not to the log.
#[derive(Clone)]
pub struct Streams {
    pub stdin: Option<Stdin>,
    pub output: Option<(PipeWriter, PipeWriter)>,
}

impl Container {
    /// Runs the module once more, with `args`, the program's name first. Belongs into an async runtime.
    ///
    /// # Errors
    /// See [`ExecError`].
    pub fn exec(&self, args: Vec<String>, with_stdin: bool) -> Result<Exec, ExecError> {
        let core = self.core();
        if core.is_http() {
            return Err(ExecError::NoProgram);
        }
        if self.exit_status().is_some() {
            return Err(ExecError::Ended);
        }
        let place = core.home.module().machine.try_instance().ok_or(ExecError::NoRoom)?;
        let (stdin, input) = with_stdin.then(Stdin::new).unzip();
        let (stdout, stderr) = (PipeWriter::default(), PipeWriter::default());
        let readers = (stdout.reader(), stderr.reader());
        let streams = Streams { stdin, output: Some((stdout, stderr)) };
        let run = Arc::new(Core::beside(core, args, streams));
        core.engine.cpu().threads().spawn(command::run(run.clone(), place));
        Ok(Exec { container: Container::of(run), stdin: input, stdout: readers.0, stderr: readers.1 })
    }
}
