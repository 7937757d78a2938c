//! Why a call failed, and the one place where that becomes a gRPC status.

use naru_oci_fallback::PullError;
use naru_wasi_shim::{ExecError, LoadError};
use tonic::{Code, Status};

use crate::network::AddressError;

#[derive(Debug, thiserror::Error)]
pub(super) enum PodError {
    #[error("an error occurred when try to find sandbox: \"{0}\": not found")]
    NoSandbox(String),
    #[error("an error occurred when try to find container \"{0}\": not found")]
    NoContainer(String),
    #[error("{0}")]
    Missing(&'static str),
    #[error("{what} \"{name}\" is reserved for \"{id}\"")]
    Reserved { what: &'static str, name: String, id: String },
    #[error("sandbox \"{0}\" is not running")]
    SandboxNotReady(String),
    #[error("container \"{id}\" is {state} and not created")]
    NotCreated { id: String, state: &'static str },
    #[error("container \"{0}\" is not running")]
    NotRunning(String),
    #[error("no runtime for \"{0}\" is configured")]
    NoHandler(String),
    #[error("no address for the pod: {0}")]
    Address(#[from] AddressError),
    #[error("image \"{0}\": not found")]
    NoImage(String),
    #[error(transparent)]
    Image(#[from] PullError),
    #[error("image \"{image}\": {source}")]
    Load { image: String, source: LoadError },
    #[error("image \"{image}\" is a Linux image and Linux containers are not available on this node")]
    LinuxUnavailable { image: String },
    #[error("{0}")]
    Invalid(String),
    #[error("cannot write the log {path}: {source}")]
    Log { path: String, source: std::io::Error },
    /// In the guest's or the mount's own words.
    #[error("{0}")]
    Start(String),
    /// Why limits cannot change so.
    #[error("{0}")]
    Resources(String),
    #[error(transparent)]
    Exec(#[from] ExecError),
    #[error("command {command:?} timed out after {seconds}s")]
    TimedOut { command: String, seconds: u64 },
    #[error("{0}")]
    Unimplemented(&'static str),
}

impl PodError {
    fn code(&self) -> Code {
        match self {
            Self::NoSandbox(_)
            | Self::NoContainer(_)
            | Self::NoImage(_)
            | Self::Image(PullError::NotFound(_)) => Code::NotFound,
            Self::Missing(_) | Self::Invalid(_) | Self::Image(PullError::InvalidName(..)) => {
                Code::InvalidArgument
            }
            Self::Reserved { .. } => Code::AlreadyExists,
            Self::SandboxNotReady(_) | Self::NotCreated { .. } | Self::NotRunning(_) | Self::Resources(_) => {
                Code::FailedPrecondition
            }
            Self::Address(AddressError::Exhausted(_)) => Code::ResourceExhausted,
            Self::Address(AddressError::InvalidRange(_)) => Code::InvalidArgument,
            Self::Address(AddressError::NoRange) => Code::Unavailable,
            Self::Exec(ExecError::NoProgram) => Code::InvalidArgument,
            Self::Exec(ExecError::Ended) => Code::FailedPrecondition,
            Self::Exec(ExecError::NoRoom) => Code::ResourceExhausted,
            Self::TimedOut { .. } => Code::DeadlineExceeded,
            Self::Unimplemented(_) => Code::Unimplemented,
            Self::Image(_)
            | Self::NoHandler(_)
            | Self::Load { .. }
            | Self::LinuxUnavailable { .. }
            | Self::Log { .. }
            | Self::Start(_) => Code::Unknown,
        }
    }
}

impl From<PodError> for Status {
    fn from(error: PodError) -> Self {
        Self::new(error.code(), error.to_string())
    }
}
