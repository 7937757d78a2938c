//! Why a request failed, in the client's terms, and the one place where that becomes a `Status`.

use std::time::Duration;

use naru_model::validation::FieldError;

/// Why a request failed.
///
/// `resource` is the plural with its group as Kubernetes prints it (`pods`, `deployments.apps`).
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    #[error("{resource} \"{name}\" not found")]
    NotFound { resource: String, name: String },
    #[error("the server could not find the requested resource")]
    NoSuchPath,
    #[error("{resource} \"{name}\" already exists")]
    AlreadyExists { resource: String, name: String },
    #[error("Operation cannot be fulfilled on {resource} \"{name}\": {message}")]
    Conflict { resource: String, name: String, message: String },
    /// `kind` with its group as Kubernetes prints it: `Pod`, `Deployment.apps`.
    #[error("{kind} \"{name}\" is invalid: {}", naru_model::validation::summary(.errors))]
    Invalid { kind: String, name: String, errors: Vec<FieldError> },
    #[error("{0}")]
    BadRequest(String),
    #[error("Unauthorized")]
    Unauthorized,
    #[error("{0}")]
    Forbidden(String),
    #[error("the server does not allow this method on the requested resource")]
    MethodNotAllowed,
    #[error("{0}")]
    NotAcceptable(String),
    #[error("{0}")]
    UnsupportedMediaType(String),
    #[error("Request entity too large: limit is {limit} bytes")]
    TooLarge { limit: usize },
    #[error("{0}")]
    Expired(String),
    #[error("{message}")]
    TooManyRequests { message: String, retry_after: Duration },
    #[error("{0}")]
    Unavailable(String),
    #[error("Timeout: no answer in time; the write may still complete")]
    OutcomeUnknown,
    /// Our bug or our disk. The cause goes to the log; the client learns that it is not to blame.
    #[error("Internal error occurred: {0}")]
    Internal(String),
}
