//! Field errors as Kubernetes words them, and the checks that many kinds share.

pub mod conditions;
pub mod meta; // ObjectMeta.
pub mod names; // Names, keys, ports and other short texts.
pub mod network; // Addresses and networks.
pub mod selector; // Labels and selectors of them.

use std::fmt;

/// A path into an object: `spec.containers[0].name`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Path(String);

impl Path {
    /// The path of a field of the whole object, or, for "", of the object itself, which Kubernetes shows as `[]`.
    pub fn new(root: &str) -> Self {
        Self(if root.is_empty() { "[]" } else { root }.into())
    }
    #[must_use]
    pub fn child(&self, name: &str) -> Self {
        if self.0.is_empty() { Self(name.into()) } else { Self([&self.0, ".", name].concat()) }
    }
    #[must_use]
    pub fn index(&self, index: usize) -> Self {
        Self(format!("{}[{index}]", self.0))
    }
    #[must_use]
    pub fn key(&self, key: &str) -> Self {
        Self([&self.0, "[", key, "]"].concat())
    }
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The kinds of field error, each a `reason` of a `StatusCause`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FieldErrorKind {
    Required,
    Invalid,
    NotSupported,
    Duplicate,
    Forbidden,
    TooLong,
    TooMany,
    NotFound,
    TypeInvalid,
    Internal,
}

impl FieldErrorKind {
    /// The `reason` of the `StatusCause`.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Required => "FieldValueRequired",
            Self::Invalid => "FieldValueInvalid",
            Self::NotSupported => "FieldValueNotSupported",
            Self::Duplicate => "FieldValueDuplicate",
            Self::Forbidden => "FieldValueForbidden",
            Self::TooLong => "FieldValueTooLong",
            Self::TooMany => "FieldValueTooMany",
            Self::NotFound => "FieldValueNotFound",
            Self::TypeInvalid => "FieldValueTypeInvalid",
            Self::Internal => "InternalError",
        }
    }
}

/// One thing that is wrong with one field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldError {
    pub kind: FieldErrorKind,
    pub field: String,
    /// The text after `field: `, in Kubernetes' words: `Invalid value: "x": must be …`.
    pub message: String,
}

impl fmt::Display for FieldError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.field, self.message)
    }
}

/// Several errors as one line: alone, or in brackets with commas.
pub fn summary(errors: &[FieldError]) -> String {
    match errors {
        [one] => one.to_string(),
        many => format!("[{}]", many.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")),
    }
}

/// Collects what is wrong with an object.
#[derive(Debug, Default)]
pub struct FieldErrors(pub Vec<FieldError>);

impl FieldErrors {
    fn push(&mut self, kind: FieldErrorKind, path: &Path, message: String) {
        self.0.push(FieldError { kind, field: path.as_str().into(), message });
    }
    /// `Required value: detail`
    pub fn required(&mut self, path: &Path, detail: &str) {
        let message =
            if detail.is_empty() { "Required value".into() } else { format!("Required value: {detail}") };
        self.push(FieldErrorKind::Required, path, message);
    }
    /// `Invalid value: "value": detail`; text values are quoted, others printed as they are.
    pub fn invalid(&mut self, path: &Path, value: impl Into<serde_json::Value>, detail: &str) {
        self.push(FieldErrorKind::Invalid, path, format!("Invalid value: {}: {detail}", value.into()));
    }
    /// `Invalid value: detail`: for what is too large to be shown, or not one field's fault.
    pub fn invalid_whole(&mut self, path: &Path, detail: &str) {
        self.push(FieldErrorKind::Invalid, path, format!("Invalid value: {detail}"));
    }
    /// `Unsupported value: "value": supported values: "a", "b"`
    pub fn not_supported(&mut self, path: &Path, value: impl Into<serde_json::Value>, supported: &[&str]) {
        let list = supported.iter().map(|value| format!("{value:?}")).collect::<Vec<_>>().join(", ");
        let message = format!("Unsupported value: {}: supported values: {list}", value.into());
        self.push(FieldErrorKind::NotSupported, path, message);
    }
    pub fn duplicate(&mut self, path: &Path, value: impl Into<serde_json::Value>) {
        self.push(FieldErrorKind::Duplicate, path, format!("Duplicate value: {}", value.into()));
    }
    pub fn forbidden(&mut self, path: &Path, detail: &str) {
        self.push(FieldErrorKind::Forbidden, path, format!("Forbidden: {detail}"));
    }
    pub fn too_long(&mut self, path: &Path, max: usize) {
        let unit = if max == 1 { "byte" } else { "bytes" };
        self.push(FieldErrorKind::TooLong, path, format!("Too long: may not be more than {max} {unit}"));
    }
    pub fn too_many(&mut self, path: &Path, actual: usize, max: usize) {
        let unit = if max == 1 { "item" } else { "items" };
        let message = format!("Too many: {actual}: must have at most {max} {unit}");
        self.push(FieldErrorKind::TooMany, path, message);
    }
    /// `Not found: "value"`: a reference within the object to something that it does not have.
    pub fn not_found(&mut self, path: &Path, value: impl Into<serde_json::Value>) {
        self.push(FieldErrorKind::NotFound, path, format!("Not found: {}", value.into()));
    }
    /// One `Invalid value` per problem that a rule of [`names`] found.
    pub fn problems(&mut self, path: &Path, value: &str, problems: names::Problems) {
        for problem in problems {
            self.invalid(path, value, &problem);
        }
    }
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// `metadata.name` as a DNS-1123 subdomain.
pub fn dns1123_subdomain_name(name: &str, errors: &mut FieldErrors) {
    errors.problems(&Path::new("metadata").child("name"), name, names::dns1123_subdomain(name));
}
