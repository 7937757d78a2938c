//! Who does what to which object, as everything on a request's road is told it.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use naru_model::validation::FieldErrors;

use super::{Served, decode::FieldValidation, managed};
use crate::{
    ApiError,
    audit::Level,
    auth::{Attributes, User},
    notes::Notes,
    store::Key,
};

/// Who does something to which object or collection.
#[derive(Clone, Copy)]
pub struct Call<'a> {
    pub user: &'a User,
    pub served: &'a Served,
    /// "" for cluster-scoped objects and for collections of all namespaces.
    pub namespace: &'a str,
    /// "" for collections, and on create.
    pub name: &'a str,
    /// Whose the fields are that a write changes: the client's name for itself.
    pub manager: &'a str,
    pub dry_run: bool,
    pub validation: FieldValidation,
    /// Where warnings and annotations go; `None` where nobody reads them.
    pub notes: Option<&'a Notes>,
}

/// The part of an object that an update is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    Whole,
    Status,
    /// The verdict on a certificate signing request.
    Approval,
    /// `spec.finalizers` of a namespace.
    Finalize,
    /// A part of the spec that a subresource of this name changes (`ephemeralcontainers`, `resize`).
    Spec(&'static str),
    /// The number of replicas; otherwise as the whole.
    Scale,
}

impl Part {
    /// The subresource's name, "" for the whole.
    pub fn subresource(self) -> &'static str {
        match self {
            Self::Whole => "",
            Self::Status => "status",
            Self::Approval => "approval",
            Self::Finalize => "finalize",
            Self::Spec(name) => name,
            Self::Scale => "scale",
        }
    }
}

impl<'a> Call<'a> {
    /// A call of code of the control plane: not a dry run, no field is checked for being known.
    pub fn of(user: &'a User, served: &'a Served, namespace: &'a str, name: &'a str) -> Self {
        let (manager, validation) = (managed::component(&user.name), FieldValidation::Ignore);
        Self { user, served, namespace, name, manager, dry_run: false, validation, notes: None }
    }
}

impl Call<'_> {
    /// Tells the client something that keeps nothing from being done.
    pub fn warn<T: Into<String>>(&self, texts: impl IntoIterator<Item = T>) {
        if let Some(notes) = self.notes {
            texts.into_iter().for_each(|text| notes.warn(text));
        }
    }
    /// Whether what is noted for the audit log leads anywhere.
    pub fn is_recorded(&self) -> bool {
        self.notes.is_some_and(Notes::is_recorded)
    }
    /// Notes something for the audit log, where events of `level` and above show it; `annotation` makes key and value,
    /// and is not asked where nobody wants them.
    pub fn annotate(&self, level: Level, annotation: impl FnOnce() -> (String, String)) {
        if let Some(notes) = self.notes.filter(|notes| notes.is_recorded()) {
            let (key, value) = annotation();
            notes.annotate(level, key, value);
        }
    }
    pub fn key(&self) -> Key {
        Key::new(&self.served.storage, self.namespace, self.name)
    }
    pub fn not_found(&self) -> ApiError {
        ApiError::NotFound { resource: self.served.qualified.clone(), name: self.name.into() }
    }
    pub fn already_exists(&self, name: &str) -> ApiError {
        ApiError::AlreadyExists { resource: self.served.qualified.clone(), name: name.into() }
    }
    pub fn conflict(&self, message: impl Into<String>) -> ApiError {
        ApiError::Conflict {
            resource: self.served.qualified.clone(),
            name: self.name.into(),
            message: message.into(),
        }
    }
    pub fn modified(&self) -> ApiError {
        self.conflict(
            "the object has been modified; please apply your changes to the latest version and try again",
        )
    }
    pub fn invalid(&self, name: &str, errors: FieldErrors) -> ApiError {
        ApiError::Invalid { kind: self.served.qualified_kind.clone(), name: name.into(), errors: errors.0 }
    }
    pub fn check(&self, name: &str, errors: FieldErrors) -> Result<(), ApiError> {
        if errors.is_empty() { Ok(()) } else { Err(self.invalid(name, errors)) }
    }
    /// Puts an object, or a message about one, into the namespace of the URL.
    ///
    /// # Errors
    /// It says another.
    pub fn settle_namespace(&self, meta: &mut ObjectMeta) -> Result<(), ApiError> {
        if !self.served.info.namespaced {
            // A namespace on a cluster-scoped object is validation's to report.
            return Ok(());
        }
        match meta.namespace.as_deref() {
            None | Some("") => meta.namespace = Some(self.namespace.into()),
            Some(namespace) if namespace == self.namespace => (),
            Some(_) => {
                return Err(ApiError::BadRequest(
                    "the namespace of the provided object does not match the namespace sent on the request"
                        .into(),
                ));
            }
        }
        Ok(())
    }
    /// Refuses a message of `kind` that names another object than the URL does.
    pub fn check_name_of(&self, kind: &str, meta: &ObjectMeta) -> Result<(), ApiError> {
        match meta.name.as_deref() {
            Some(name) if !name.is_empty() && name != self.name => {
                Err(ApiError::BadRequest(format!("name in URL does not match name in {kind} object")))
            }
            _ => Ok(()),
        }
    }
    /// What this call does, for the authorizer.
    pub fn attributes<'a>(&'a self, verb: &'a str, subresource: &'a str) -> Attributes<'a> {
        let info = self.served.info;
        // A namespace is in itself, so that who rules it may see it.
        let is_namespace = info.plural == "namespaces" && info.group.is_empty();
        Attributes {
            verb,
            group: info.group,
            resource: info.plural,
            subresource,
            namespace: if is_namespace { self.name } else { self.namespace },
            name: self.name,
            ..Attributes::default()
        }
    }
}
