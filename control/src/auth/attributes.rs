//! What a request wants to do, and how a refusal of it reads.

use super::User;
use crate::ApiError;

/// What a request wants to do.
#[derive(Debug, Clone, Copy, Default)]
pub struct Attributes<'a> {
    pub verb: &'a str,
    pub group: &'a str,
    /// The plural, "" for paths that are not about resources.
    pub resource: &'a str,
    pub subresource: &'a str,
    pub namespace: &'a str,
    pub name: &'a str,
    /// The URL path where `resource` is "".
    pub path: &'a str,
    /// The `fieldSelector` of a list or watch, "" for none.
    pub field_selector: &'a str,
}

impl Attributes<'_> {
    /// Whether `asked` is the resource and its subresource, written `pods/log`.
    pub fn is_of(&self, asked: &str) -> bool {
        match asked.strip_prefix(self.resource) {
            Some("") => self.subresource.is_empty(),
            Some(rest) => rest.strip_prefix('/') == Some(self.subresource) && !self.subresource.is_empty(),
            None => false,
        }
    }
}

/// The refusal as Kubernetes words it; `reason` is what the authorizers have to say, "" for nothing.
pub fn refusal(user: &User, attributes: &Attributes<'_>, reason: &str) -> ApiError {
    let Attributes { group, resource, name, .. } = attributes;
    let qualified = if group.is_empty() { (*resource).to_owned() } else { format!("{resource}.{group}") };
    let mut message = describe(user, attributes);
    if !reason.is_empty() {
        message = format!("{message}: {reason}");
    }
    ApiError::Refused { resource: qualified, name: (*name).into(), message, causes: Vec::new() }
}

fn describe(user: &User, attributes: &Attributes<'_>) -> String {
    let Attributes { verb, group, resource, subresource, namespace, path, .. } = attributes;
    let user = &user.name;
    if resource.is_empty() {
        return format!("User {user:?} cannot {verb} path {path:?}");
    }
    let resource =
        if subresource.is_empty() { (*resource).to_owned() } else { format!("{resource}/{subresource}") };
    let place = if namespace.is_empty() {
        "at the cluster scope".to_owned()
    } else {
        format!("in the namespace {namespace:?}")
    };
    format!("User {user:?} cannot {verb} resource {resource:?} in API group {group:?} {place}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_reads_as_in_kubernetes() {
        let jane = User::new("jane", vec![]);
        let list = Attributes {
            verb: "list",
            group: "apps",
            resource: "deployments",
            namespace: "shop",
            ..Attributes::default()
        };
        let cases = [
            (
                list,
                "",
                r#"deployments.apps is forbidden: User "jane" cannot list resource "deployments" in API group "apps" in the namespace "shop""#,
            ),
            (
                Attributes {
                    verb: "get",
                    group: "",
                    subresource: "log",
                    resource: "pods",
                    name: "web",
                    ..list
                },
                "",
                r#"pods "web" is forbidden: User "jane" cannot get resource "pods/log" in API group "" in the namespace "shop""#,
            ),
            (
                Attributes { verb: "get", path: "/metrics", ..Attributes::default() },
                "",
                r#"forbidden: User "jane" cannot get path "/metrics""#,
            ),
            (
                Attributes { resource: "nodes", group: "", namespace: "", ..list },
                "no relationship",
                r#"nodes is forbidden: User "jane" cannot list resource "nodes" in API group "" at the cluster scope: no relationship"#,
            ),
        ];
        for (attributes, reason, expected) in cases {
            assert_eq!(refusal(&jane, &attributes, reason).to_string(), expected);
        }
    }

    #[test]
    fn a_resource_is_told_apart_from_its_subresources() {
        let of = |resource, subresource, asked| {
            Attributes { resource, subresource, ..Attributes::default() }.is_of(asked)
        };
        assert!(of("pods", "", "pods") && of("pods", "log", "pods/log"));
        assert!(!of("pods", "log", "pods") && !of("pods", "", "pods/log") && !of("pods", "log", "podsx/log"));
        assert!(!of("pods", "", "pods/"));
    }
}
