//! Rules for names and other short texts. Each answers what is wrong, in Kubernetes' words; nothing if all is well.

use super::FieldErrors;
use super::Path;

const LABEL_REGEX: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";
const KEY_REGEX: &str = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";

/// What a rule found wrong; empty (and not allocated) when nothing is.
pub type Problems = Vec<String>;

/// A name rule of a kind: the name, and whether it is a `generateName` prefix (which may end in `-`).
pub type NameRule = fn(name: &str, is_prefix: bool) -> Problems;

/// `metadata.name` of most kinds.
pub fn subdomain_name(name: &str, is_prefix: bool) -> Problems {
    dns1123_subdomain(&mask_trailing_dash(name, is_prefix))
}

/// `metadata.name` of namespaces and others that become one DNS label.
pub fn label_name(name: &str, is_prefix: bool) -> Problems {
    dns1123_label(&mask_trailing_dash(name, is_prefix))
}

/// `metadata.name` of Services.
pub fn dns1035_name(name: &str, is_prefix: bool) -> Problems {
    dns1035_label(&mask_trailing_dash(name, is_prefix))
}

/// `metadata.name` of kinds whose names only need to fit into a URL (RBAC).
pub fn path_segment_name(name: &str, is_prefix: bool) -> Problems {
    if !is_prefix && matches!(name, "." | "..") {
        return vec![format!("may not be '{name}'")];
    }
    ["/", "%"]
        .iter()
        .filter(|bad| name.contains(**bad))
        .map(|bad| format!("may not contain '{bad}'"))
        .collect()
}

/// A `generateName` prefix may end in `-`, since a suffix follows.
fn mask_trailing_dash(name: &str, is_prefix: bool) -> std::borrow::Cow<'_, str> {
    match name.strip_suffix('-') {
        Some(rest) if is_prefix && !rest.is_empty() => format!("{rest}a").into(),
        _ => name.into(),
    }
}

pub fn is_dns1123_label(text: &str) -> bool {
    text.len() <= 63 && label_shape(text)
}

pub fn is_dns1123_subdomain(text: &str) -> bool {
    text.len() <= 253 && subdomain_shape(text)
}

pub fn dns1123_label(text: &str) -> Problems {
    let mut problems = too_long(text, 63);
    if !label_shape(text) {
        problems.push(if subdomain_shape(text) {
            "must not contain dots".into()
        } else {
            regex_problem(
                "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start \
                 and end with an alphanumeric character",
                LABEL_REGEX,
                &["my-name", "123-abc"],
            )
        });
    }
    problems
}

pub fn dns1123_subdomain(text: &str) -> Problems {
    let mut problems = too_long(text, 253);
    if !subdomain_shape(text) {
        problems.push(regex_problem(
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must \
             start and end with an alphanumeric character",
            &format!("{LABEL_REGEX}(\\.{LABEL_REGEX})*"),
            &["example.com"],
        ));
    }
    problems
}

/// `*.example.com`, as an Ingress host may be.
pub fn wildcard_dns1123_subdomain(text: &str) -> Problems {
    let mut problems = too_long(text, 253);
    if !text.strip_prefix("*.").is_some_and(subdomain_shape) {
        problems.push(regex_problem(
            "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist \
             of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character",
            &format!("\\*\\.{LABEL_REGEX}(\\.{LABEL_REGEX})*"),
            &["*.example.com"],
        ));
    }
    problems
}

pub fn dns1035_label(text: &str) -> Problems {
    let mut problems = too_long(text, 63);
    if !label_shape(text) || !text.starts_with(|first: char| first.is_ascii_lowercase()) {
        problems.push(regex_problem(
            "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic \
             character, and end with an alphanumeric character",
            "[a-z]([-a-z0-9]*[a-z0-9])?",
            &["my-name", "abc-123"],
        ));
    }
    problems
}

/// Keys of labels and annotations, names of taints, finalizers and resources: `[prefix/]name`.
pub fn qualified_name(text: &str) -> Problems {
    const RULE: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character";
    const EXAMPLES: &[&str] = &["MyName", "my.name", "123-abc"];
    let (prefix, name) = match text.split_once('/') {
        None => (None, text),
        Some((prefix, name)) if !name.contains('/') => (Some(prefix), name),
        Some(_) => {
            let rule = regex_problem(RULE, KEY_REGEX, EXAMPLES);
            return vec![format!(
                "a valid label key {rule} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
            )];
        }
    };
    let mut problems = Vec::new();
    match prefix {
        Some("") => problems.push("prefix part must be non-empty".into()),
        Some(prefix) => {
            problems.extend(dns1123_subdomain(prefix).iter().map(|problem| format!("prefix part {problem}")));
        }
        None => (),
    }
    if name.is_empty() {
        problems.push("name part must be non-empty".into());
    } else if name.len() > 63 {
        problems.push("name part must be no more than 63 bytes".into());
    }
    if !key_shape(name) {
        problems.push(format!("name part {}", regex_problem(RULE, KEY_REGEX, EXAMPLES)));
    }
    problems
}

pub fn label_value(text: &str) -> Problems {
    let mut problems =
        if text.len() > 63 { vec!["must be no more than 63 bytes".into()] } else { Vec::new() };
    if !text.is_empty() && !key_shape(text) {
        problems.push(regex_problem(
            "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start \
             and end with an alphanumeric character",
            &format!("({KEY_REGEX})?"),
            &["MyValue", "my_value", "12345"],
        ));
    }
    problems
}

/// Names of environment variables: printable ASCII without `=`.
pub fn env_var_name(text: &str) -> Problems {
    let mut problems = Vec::new();
    if text.is_empty() {
        problems.push("environment variable name must be non-empty".into());
    }
    if !text.bytes().all(|byte| (b' '..=b'~').contains(&byte) && byte != b'=') {
        problems.push(
            "a valid environment variable name must consist only of printable ASCII characters other than '='".into(),
        );
    }
    problems
}

pub fn config_map_key(text: &str) -> Problems {
    let mut problems = too_long(text, 253);
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte)) {
        problems.push(regex_problem(
            "a valid config key must consist of alphanumeric characters, '-', '_' or '.'",
            "[-._a-zA-Z0-9]+",
            &["key.name", "KEY_NAME", "key-name"],
        ));
    }
    match text {
        "." => problems.push("must not be '.'".into()),
        ".." => problems.push("must not be '..'".into()),
        _ if text.starts_with("..") => problems.push("must not start with '..'".into()),
        _ => (),
    }
    problems
}

pub fn port_number(port: i64) -> Problems {
    in_range(port, 1, 65535)
}

/// An IANA service name, which ports are named by.
pub fn port_name(text: &str) -> Problems {
    let mut problems = too_long(text, 15);
    let lower_or_digit = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    if text.is_empty() || !text.bytes().all(|byte| lower_or_digit(byte) || byte == b'-') {
        problems.push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".into());
    }
    if !text.bytes().any(|byte| byte.is_ascii_lowercase()) {
        problems.push("must contain at least one letter (a-z)".into());
    }
    if text.contains("--") {
        problems.push("must not contain consecutive hyphens".into());
    }
    if text.starts_with('-') || text.ends_with('-') {
        problems.push("must not begin or end with a hyphen".into());
    }
    problems
}

pub fn http_header_name(text: &str) -> Problems {
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
        return Vec::new();
    }
    vec![regex_problem(
        "a valid HTTP header must consist of alphanumeric characters or '-'",
        "[-A-Za-z0-9]+",
        &["X-Header-Name"],
    )]
}

pub fn percent(text: &str) -> Problems {
    let digits = text.strip_suffix('%').unwrap_or_default();
    if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Vec::new();
    }
    let rule = "a valid percent string must be a numeric string followed by an ending '%'";
    vec![regex_problem(rule, "[0-9]+%", &["1%", "93%"])]
}

pub fn user_id(id: i64) -> Problems {
    in_range(id, 0, i64::from(i32::MAX))
}

pub fn group_id(id: i64) -> Problems {
    in_range(id, 0, i64::from(i32::MAX))
}

pub fn in_range(value: i64, low: i64, high: i64) -> Problems {
    if (low..=high).contains(&value) {
        Vec::new()
    } else {
        vec![format!("must be between {low} and {high}, inclusive")]
    }
}

/// A mount path or working directory that must start at the root.
pub fn absolute_path(path: &Path, text: &str, errors: &mut FieldErrors) {
    if !text.starts_with('/') {
        errors.invalid(path, text, "must be an absolute path");
    }
}

/// A sub-path that must stay below its parent: relative, without `..`.
pub fn local_descending_path(path: &Path, text: &str, errors: &mut FieldErrors) {
    if text.starts_with('/') {
        errors.invalid(path, text, "must be a relative path");
    }
    path_no_backsteps(path, text, errors);
}

/// No element of the path is `..`.
pub fn path_no_backsteps(path: &Path, text: &str, errors: &mut FieldErrors) {
    if text.split('/').any(|element| element == "..") {
        errors.invalid(path, text, "must not contain '..'");
    }
}

fn too_long(text: &str, max: usize) -> Problems {
    if text.len() > max { vec![format!("must be no more than {max} characters")] } else { Vec::new() }
}

fn label_shape(text: &str) -> bool {
    !text.is_empty()
        && !text.starts_with('-')
        && !text.ends_with('-')
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}

fn subdomain_shape(text: &str) -> bool {
    text.split('.').all(label_shape)
}

fn key_shape(text: &str) -> bool {
    let (Some(first), Some(last)) = (text.bytes().next(), text.bytes().next_back()) else { return false };
    first.is_ascii_alphanumeric()
        && last.is_ascii_alphanumeric()
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

/// `rule (e.g. 'a', or 'b', regex used for validation is '…')`
fn regex_problem(rule: &str, regex: &str, examples: &[&str]) -> String {
    let examples = examples.iter().map(|example| format!("'{example}', ")).collect::<Vec<_>>().join(" or ");
    format!("{rule} (e.g. {examples}regex used for validation is '{regex}')")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(rule: fn(&str) -> Problems, good: &[&str], bad: &[&str]) {
        for text in good {
            assert_eq!(rule(text), Problems::new(), "{text:?}");
        }
        for text in bad {
            assert_ne!(rule(text), Problems::new(), "{text:?}");
        }
    }

    #[test]
    fn labels_and_subdomains_follow_rfc_1123() {
        let long = "a".repeat(64);
        check(
            dns1123_label,
            &["a", "0", "a-b", "a--b", &long[..63]],
            &["", "-", "a-", "-a", "A", "a_b", "a.b", "ä", &long],
        );
        let longest = vec!["a"; 127].join(".");
        check(
            dns1123_subdomain,
            &["a", "a.b", "0.1", "a-b.c", &longest],
            &["", ".", "a.", ".a", "a..b", "A.b", "a_b", "a.-b"],
        );
        assert_eq!(dns1123_subdomain(&"a".repeat(254)), ["must be no more than 253 characters"]);
    }

    #[test]
    fn services_follow_rfc_1035() {
        check(dns1035_label, &["a", "a1", "my-name"], &["", "1a", "-a", "a-", "A", "a.b"]);
        assert_eq!(
            dns1035_label("1a"),
            [
                "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic \
              character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for \
              validation is '[a-z]([-a-z0-9]*[a-z0-9])?')"
            ]
        );
    }

    #[test]
    fn a_label_with_dots_is_told_so() {
        assert_eq!(dns1123_label("a.b"), ["must not contain dots"]);
    }

    #[test]
    fn qualified_names_may_have_one_prefix() {
        check(
            qualified_name,
            &[
                "simple",
                "now-with-dashes",
                "1-starts-with-num",
                "example.com/Name",
                "a.b/c_d.e",
                "A/".get(..1).unwrap(),
            ],
            &["", "nospecialchars%^=@", "-x", "x-", "a/b/c", "/x", "x/", "A.b/c", "Not.DNS_1123/x"],
        );
        assert_eq!(
            qualified_name(&format!("a/{}", "x".repeat(64))),
            ["name part must be no more than 63 bytes"]
        );
        assert_eq!(qualified_name("/x"), ["prefix part must be non-empty"]);
        assert_eq!(qualified_name("a/")[0], "name part must be non-empty");
    }

    #[test]
    fn label_values_may_be_empty() {
        check(label_value, &["", "a", "A_b.c-1"], &["-", "a b", "a/b", "_a", "ü"]);
        assert_eq!(label_value(&"a".repeat(64)), ["must be no more than 63 bytes"]);
    }

    #[test]
    fn port_names_are_iana_service_names() {
        check(
            port_name,
            &["http", "a", "80-http", "p2p"],
            &["", "80", "-a", "a-", "a--b", "Http", "a_b", "sixteen-letters-"],
        );
        assert!(
            port_number(0) == ["must be between 1 and 65535, inclusive"] && port_number(65535).is_empty()
        );
    }

    #[test]
    fn keys_of_config_maps_cannot_climb() {
        check(config_map_key, &["a", "A.b_c-d", ".hidden", "a..b"], &["", ".", "..", "..a", "a/b", "a b"]);
    }

    #[test]
    fn environment_variable_names_are_printable() {
        check(env_var_name, &["A", "a b", "1", "."], &["", "A=B", "ä", "a\n"]);
    }

    #[test]
    fn a_generate_name_may_end_in_a_dash() {
        assert!(subdomain_name("web-", true).is_empty());
        assert!(!subdomain_name("web-", false).is_empty());
        assert!(!subdomain_name("-", true).is_empty());
        assert!(!path_segment_name("..", false).is_empty() && path_segment_name("a:b", false).is_empty());
    }

    #[test]
    fn percentages_and_headers() {
        check(percent, &["0%", "25%", "125%"], &["", "%", "5", "-5%", "5%%"]);
        check(http_header_name, &["X-Header", "accept"], &["", "a b", "a:b", "a_b"]);
    }
}
