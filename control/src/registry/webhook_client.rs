//! How the API server reaches a webhook: by a URL, or by a service of the cluster.

use naru_model::validation::{FieldErrors, Path, names};

use super::podspec::check;

/// A service that answers webhooks, of whichever kind's type.
pub struct Service<'a> {
    pub name: &'a str,
    pub namespace: &'a str,
    pub path: Option<&'a str>,
    pub port: i32,
}

pub const DEFAULT_PORT: i32 = 443;

/// Exactly one of both is there, and it is well formed.
pub fn validate(url: Option<&str>, service: Option<Service<'_>>, path: &Path, errors: &mut FieldErrors) {
    match (url, service) {
        (Some(url), None) => validate_url(url, &path.child("url"), errors),
        (None, Some(service)) => validate_service(&service, &path.child("service"), errors),
        _ => errors.required(path, "exactly one of url or service is required"),
    }
}

fn validate_url(url: &str, path: &Path, errors: &mut FieldErrors) {
    const FORM: &str = "; desired format: https://host[/path]";
    let (url, fragment) = url.split_once('#').unwrap_or((url, ""));
    let (url, query) = url.split_once('?').unwrap_or((url, ""));
    let (scheme, rest) = url.split_once(':').unwrap_or(("", url));
    let authority = rest.strip_prefix("//").map_or("", |rest| rest.split('/').next().unwrap_or_default());
    let (user, host) = authority.rsplit_once('@').unwrap_or(("", authority));
    if url.chars().any(|char| char.is_control() || char == ' ') {
        let detail = format!("url must be a valid URL: parse {url:?}: invalid character in URL{FORM}");
        return errors.required(path, &detail);
    }
    if scheme != "https" {
        errors.invalid(path, scheme, &format!("'https' is the only allowed URL scheme{FORM}"));
    }
    if host.is_empty() {
        errors.invalid(path, host, &format!("host must be specified{FORM}"));
    }
    for (part, text) in [
        (user, "user information is not permitted in the URL"),
        (fragment, "fragments are not permitted in the URL"),
        (query, "query parameters are not permitted in the URL"),
    ] {
        if !part.is_empty() {
            errors.invalid(path, part, text);
        }
    }
}

fn validate_service(service: &Service<'_>, path: &Path, errors: &mut FieldErrors) {
    check::required_text(service.name, &path.child("name"), errors);
    check::required_text(service.namespace, &path.child("namespace"), errors);
    let problems = names::port_number(service.port.into());
    if !problems.is_empty() {
        let detail = format!("port is not valid: {}", problems.join(","));
        errors.invalid(&path.child("port"), service.port, &detail);
    }
    if let Some(text) = service.path {
        validate_path(text, &path.child("path"), errors);
    }
}

fn validate_path(text: &str, path: &Path, errors: &mut FieldErrors) {
    if matches!(text, "" | "/") {
        return;
    }
    if !text.starts_with('/') {
        errors.invalid(path, text, "must start with a '/'");
    }
    let inner = text.strip_prefix('/').unwrap_or(text);
    for (index, step) in inner.strip_suffix('/').unwrap_or(inner).split('/').enumerate() {
        if step.is_empty() {
            errors.invalid(path, text, &format!("segment[{index}] may not be empty"));
            continue;
        }
        for problem in names::dns1123_subdomain(step) {
            errors.invalid(path, text, &format!("segment[{index}]: {problem}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::testing::assert_errors;

    fn found(url: Option<&str>, service: Option<Service<'_>>) -> Vec<String> {
        let mut errors = FieldErrors::default();
        validate(url, service, &Path::new("c"), &mut errors);
        errors.0.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_url_is_a_host_and_a_path() {
        for (url, expected) in [
            ("https://a.example:8443/x/y", &[][..]),
            (
                "http://a.example",
                &[
                    "c.url: Invalid value: \"http\": 'https' is the only allowed URL scheme; desired format: https://host[/path]",
                ],
            ),
            (
                "https:///x",
                &["c.url: Invalid value: \"\": host must be specified; desired format: https://host[/path]"],
            ),
            (
                "https://me:secret@a.example?b=c#d",
                &[
                    "c.url: Invalid value: \"me:secret\": user information is not permitted in the URL",
                    "c.url: Invalid value: \"d\": fragments are not permitted in the URL",
                    "c.url: Invalid value: \"b=c\": query parameters are not permitted in the URL",
                ],
            ),
            ("https://a b", &["c.url: Required value: url must be a valid URL: …"]),
        ] {
            assert_errors(&found(Some(url), None), expected, url);
        }
        assert_errors(
            &found(None, None),
            &["c: Required value: exactly one of url or service is required"],
            "neither",
        );
    }

    #[test]
    fn a_service_has_a_name_a_port_and_maybe_a_path() {
        let service = |path, port| Service { name: "s", namespace: "n", path: Some(path), port };
        for (path, port, expected) in [
            ("/", 443, &[][..]),
            ("/a/b/", 443, &[]),
            (
                "a//B",
                0,
                &[
                    "c.service.port: Invalid value: 0: port is not valid: must be between 1 and 65535, inclusive",
                    "c.service.path: Invalid value: \"a//B\": must start with a '/'",
                    "c.service.path: Invalid value: \"a//B\": segment[1] may not be empty",
                    "c.service.path: Invalid value: \"a//B\": segment[2]: a lowercase RFC 1123 subdomain…",
                ],
            ),
        ] {
            assert_errors(&found(None, Some(service(path, port))), expected, path);
        }
    }
}
