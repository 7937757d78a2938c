//! Why a request failed, in the client's terms, and the one place where that becomes a `Status`.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Status, StatusCause, StatusDetails};
use naru_model::validation::{FieldError, FieldErrorKind};

use crate::store::StoreError;

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
    /// An applied configuration changes what other managers own.
    #[error("{message}")]
    ApplyConflict { message: String, causes: Vec<StatusCause> },
    /// `kind` with its group as Kubernetes prints it: `Pod`, `Deployment.apps`.
    #[error("{kind} \"{name}\" is invalid: {}", naru_model::validation::summary(.errors))]
    Invalid { kind: String, name: String, errors: Vec<FieldError> },
    /// A well-formed JSON patch that does not apply to the object.
    #[error("the server rejected our request due to an error in our request: {0}")]
    PatchFailed(String),
    #[error("{0}")]
    BadRequest(String),
    /// What is wrong with something that Kubernetes answers with 500 and no reason.
    #[error("{0}")]
    Unclassified(String),
    #[error("Unauthorized")]
    Unauthorized,
    #[error("{0}")]
    Forbidden(String),
    /// What is asked for is not allowed: `pods "web" is forbidden: …`; `resource` is "" for other paths, `name` for
    /// collections.
    #[error("{}", forbidden(.resource, .name, .message))]
    Refused { resource: String, name: String, message: String, causes: Vec<StatusCause> },
    #[error("the server does not allow this method on the requested resource")]
    MethodNotAllowed,
    /// The same of a verb that `resource` usually has, and why not now.
    #[error("{message}")]
    NotAllowedNow { resource: String, message: String },
    #[error("{0}")]
    NotAcceptable(String),
    #[error("{0}")]
    UnsupportedMediaType(String),
    #[error("Request entity too large: limit is {limit}")]
    TooLarge { limit: usize },
    #[error("{0}")]
    Expired(String),
    /// A continue token outlived its snapshot; `token` lets the client go on with the newest state.
    #[error(
        "The provided continue parameter is too old to display a consistent list result. You can start a new list \
         without the continue parameter, or use the continue token in this response to retrieve the remainder of \
         the results. Continuing with the provided token results in an inconsistent list - objects that were \
         created, modified, or deleted between the time the first chunk was returned and now may show up in the \
         list."
    )]
    ContinueExpired { token: String },
    /// The client asks for a state that this cluster has not reached.
    #[error("Timeout: Too large resource version: {asked}, current: {current}")]
    NotYetThere { asked: u64, current: u64 },
    #[error("{message}")]
    TooManyRequests { message: String, retry_after: Duration },
    /// A webhook or policy refuses, with the status that it wants the client to see.
    #[error("{}", .0.message.as_deref().unwrap_or_default())]
    Denied(Box<Status>),
    /// A disruption budget keeps a pod from being evicted now.
    #[error("Cannot evict pod as it would violate the pod's disruption budget.")]
    EvictionRefused { why: String, retry_after: Option<Duration> },
    #[error("{0}")]
    Unavailable(String),
    #[error("Timeout: no answer in time; the write may still complete")]
    OutcomeUnknown,
    /// The client's own deadline passed, or the server's.
    #[error("Timeout: request did not complete within the allotted timeout")]
    OutOfTime,
    /// The server's deadline for writes passed.
    #[error("Timeout: request did not complete within requested timeout - context deadline exceeded")]
    WriteOutOfTime,
    /// Our bug or our disk. The cause goes to the log; the client learns that it is not to blame.
    #[error("Internal error occurred: {0}")]
    Internal(String),
}

impl ApiError {
    /// The HTTP status code.
    pub fn code(&self) -> u16 {
        match self {
            Self::BadRequest(_) => 400,
            Self::Denied(status) => status
                .code
                .and_then(|code| u16::try_from(code).ok())
                .filter(|code| *code < 600)
                .unwrap_or(400),
            Self::Unauthorized => 401,
            Self::Forbidden(_) | Self::Refused { .. } => 403,
            Self::NotFound { .. } | Self::NoSuchPath => 404,
            Self::MethodNotAllowed | Self::NotAllowedNow { .. } => 405,
            Self::NotAcceptable(_) => 406,
            Self::AlreadyExists { .. } | Self::Conflict { .. } | Self::ApplyConflict { .. } => 409,
            Self::Expired(_) | Self::ContinueExpired { .. } => 410,
            Self::TooLarge { .. } => 413,
            Self::UnsupportedMediaType(_) => 415,
            Self::Invalid { .. } | Self::PatchFailed(_) => 422,
            Self::TooManyRequests { .. } | Self::EvictionRefused { .. } => 429,
            Self::Unclassified(_) | Self::Internal(_) => 500,
            Self::Unavailable(_) => 503,
            Self::OutcomeUnknown | Self::OutOfTime | Self::WriteOutOfTime | Self::NotYetThere { .. } => 504,
        }
    }

    /// The machine-readable reason, "" where there is none.
    pub fn reason(&self) -> &str {
        match self {
            Self::Denied(status) => status.reason.as_deref().unwrap_or_default(),
            Self::Unclassified(_) => "",
            Self::BadRequest(_) => "BadRequest",
            Self::Unauthorized => "Unauthorized",
            Self::Forbidden(_) | Self::Refused { .. } => "Forbidden",
            Self::NotFound { .. } | Self::NoSuchPath => "NotFound",
            Self::MethodNotAllowed | Self::NotAllowedNow { .. } => "MethodNotAllowed",
            Self::NotAcceptable(_) => "NotAcceptable",
            Self::AlreadyExists { .. } => "AlreadyExists",
            Self::Conflict { .. } | Self::ApplyConflict { .. } => "Conflict",
            Self::Expired(_) | Self::ContinueExpired { .. } => "Expired",
            Self::TooLarge { .. } => "RequestEntityTooLarge",
            Self::UnsupportedMediaType(_) => "UnsupportedMediaType",
            Self::Invalid { .. } | Self::PatchFailed(_) => "Invalid",
            Self::TooManyRequests { .. } | Self::EvictionRefused { .. } => "TooManyRequests",
            Self::Internal(_) => "InternalError",
            Self::Unavailable(_) => "ServiceUnavailable",
            Self::OutcomeUnknown | Self::OutOfTime | Self::WriteOutOfTime | Self::NotYetThere { .. } => {
                "Timeout"
            }
        }
    }

    /// The one place where an error becomes a Kubernetes `Status`.
    pub fn to_status(&self) -> Status {
        if let Self::Denied(status) = self {
            return Status { code: Some(self.code().into()), ..(**status).clone() };
        }
        let mut status = Status {
            code: Some(self.code().into()),
            reason: Some(self.reason().to_owned()).filter(|reason| !reason.is_empty()),
            status: Some("Failure".into()),
            message: Some(self.to_string()),
            details: self.details(),
            ..Status::default()
        };
        if let Self::ContinueExpired { token } = self {
            status.metadata.continue_ = Some(token.clone());
        }
        status
    }

    fn details(&self) -> Option<StatusDetails> {
        match self {
            Self::NotFound { resource, name }
            | Self::AlreadyExists { resource, name }
            | Self::Conflict { resource, name, .. } => Some(about(resource, name)),
            Self::ApplyConflict { causes, .. } => {
                Some(StatusDetails { causes: Some(causes.clone()), ..StatusDetails::default() })
            }
            Self::Refused { resource, name, causes, .. } => Some(StatusDetails {
                causes: (!causes.is_empty()).then(|| causes.clone()),
                ..about(resource, name)
            }),
            Self::Invalid { kind, name, errors } => {
                Some(StatusDetails { causes: Some(errors.iter().map(cause).collect()), ..about(kind, name) })
            }
            Self::TooManyRequests { retry_after, .. } => Some(StatusDetails {
                retry_after_seconds: Some(retry_after.as_secs() as i32),
                ..StatusDetails::default()
            }),
            Self::EvictionRefused { why, retry_after } => Some(StatusDetails {
                causes: Some(vec![StatusCause {
                    reason: Some("DisruptionBudget".into()),
                    message: Some(why.clone()),
                    field: None,
                }]),
                retry_after_seconds: retry_after.map(|after| after.as_secs() as i32),
                ..StatusDetails::default()
            }),
            Self::NotYetThere { .. } => Some(StatusDetails {
                causes: Some(vec![StatusCause {
                    reason: Some("ResourceVersionTooLarge".into()),
                    message: Some("Too large resource version".into()),
                    field: None,
                }]),
                retry_after_seconds: Some(1),
                ..StatusDetails::default()
            }),
            Self::Internal(why) => Some(StatusDetails {
                causes: Some(vec![StatusCause { message: Some(why.clone()), ..StatusCause::default() }]),
                ..StatusDetails::default()
            }),
            Self::NotAllowedNow { resource, .. } => Some(about(resource, "")),
            Self::NoSuchPath
            | Self::MethodNotAllowed
            | Self::Unavailable(_)
            | Self::OutOfTime
            | Self::WriteOutOfTime => Some(StatusDetails::default()),
            _ => None,
        }
    }
}

fn forbidden(resource: &str, name: &str, message: &str) -> String {
    match (resource, name) {
        ("", _) => format!("forbidden: {message}"),
        (_, "") => format!("{resource} is forbidden: {message}"),
        _ => format!("{resource} {name:?} is forbidden: {message}"),
    }
}

/// `deployments.apps` "web" as details: the group apart from the resource or kind.
fn about(qualified: &str, name: &str) -> StatusDetails {
    let (kind, group) = qualified.split_once('.').unwrap_or((qualified, ""));
    let optional = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    StatusDetails {
        name: optional(name),
        group: optional(group),
        kind: optional(kind),
        ..StatusDetails::default()
    }
}

fn cause(error: &FieldError) -> StatusCause {
    let reason = match error.kind {
        FieldErrorKind::Required => "FieldValueRequired",
        FieldErrorKind::Invalid => "FieldValueInvalid",
        FieldErrorKind::NotSupported => "FieldValueNotSupported",
        FieldErrorKind::Duplicate => "FieldValueDuplicate",
        FieldErrorKind::Forbidden => "FieldValueForbidden",
        FieldErrorKind::TooLong => "FieldValueTooLong",
        FieldErrorKind::TooMany => "FieldValueTooMany",
        FieldErrorKind::NotFound => "FieldValueNotFound",
        FieldErrorKind::TypeInvalid => "FieldValueTypeInvalid",
        FieldErrorKind::Internal => "InternalError",
    };
    StatusCause {
        reason: Some(reason.into()),
        message: Some(error.message.clone()),
        field: Some(error.field.clone()),
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::NoLeader => Self::Unavailable(error.to_string()),
            StoreError::OutcomeUnknown => Self::OutcomeUnknown,
            StoreError::Expired(revision) => {
                Self::Expired(format!("The resourceVersion for the provided list is too old: {}", revision.0))
            }
            StoreError::Full(reason) => {
                tracing::error!(reason, "the store refused a request");
                Self::Internal("the disk of the cluster's store is full; nothing was written".into())
            }
            StoreError::Precondition { .. } | StoreError::Unusable(_) | StoreError::Internal(_) => {
                tracing::error!(
                    error = format!("{:#}", anyhow::Error::from(error)),
                    "the store refused a request"
                );
                Self::Internal("the store failed; see the server's log".into())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(error: &ApiError, code: i32, message: &str, kind: &str, group: Option<&str>) {
        let status = error.to_status();
        let details = status.details.expect("details");
        assert_eq!(
            (status.code, status.message.as_deref(), details.kind.as_deref(), details.group.as_deref()),
            (Some(code), Some(message), Some(kind), group)
        );
    }

    #[test]
    fn a_status_names_the_resource_apart_from_its_group() {
        let (resource, name) = ("deployments.apps".to_owned(), "web".to_owned());
        let not_found = ApiError::NotFound { resource: resource.clone(), name: name.clone() };
        check(&not_found, 404, r#"deployments.apps "web" not found"#, "deployments", Some("apps"));
        let exists = ApiError::AlreadyExists { resource: "pods".into(), name };
        check(&exists, 409, r#"pods "web" already exists"#, "pods", None);
    }

    #[test]
    fn field_errors_become_causes() {
        let errors = vec![FieldError {
            kind: FieldErrorKind::Required,
            field: "spec.containers".into(),
            message: "Required value".into(),
        }];
        let status = ApiError::Invalid { kind: "Pod".into(), name: "web".into(), errors }.to_status();
        assert_eq!(
            status.message.as_deref(),
            Some(r#"Pod "web" is invalid: spec.containers: Required value"#)
        );
        let causes = status.details.and_then(|details| details.causes).expect("causes");
        assert_eq!(causes[0].reason.as_deref(), Some("FieldValueRequired"));
        assert_eq!(causes[0].field.as_deref(), Some("spec.containers"));
    }
}
