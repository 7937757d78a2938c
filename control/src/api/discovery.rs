//! What is served, in the two forms that clients ask for it: lists per group version, and all at once ("aggregated").

use naru_model::ResourceInfo;
use serde_json::{Value, json};

use crate::registry::{Kinds, Served};

/// The version of `apidiscovery.k8s.io` that `accept` prefers, where it asks for aggregated discovery at all.
pub fn aggregated_version(accept: &str) -> Option<&'static str> {
    accept.split(',').find_map(|clause| {
        let has = |part: &str| clause.split(';').any(|of| of.trim() == part);
        if !has("application/json") || !has("g=apidiscovery.k8s.io") || !has("as=APIGroupDiscoveryList") {
            return None;
        }
        ["v2", "v2beta1"].into_iter().find(|version| has(&format!("v={version}")))
    })
}

/// The content type of an aggregated answer.
pub fn aggregated_content_type(version: &str) -> String {
    format!("application/json;g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList")
}

/// Everything below `/api` (`is_legacy`) or `/apis`, at once.
pub fn aggregated(kinds: &Kinds, is_legacy: bool, version: &str) -> Value {
    let items: Vec<Value> = groups_of(kinds)
        .into_iter()
        .filter(|group| group.is_empty() == is_legacy)
        .map(|group| {
            let versions = versions_of(kinds, group).into_iter().map(|version| {
                let resources =
                    of_version(kinds, group, version).map(aggregated_resource).collect::<Vec<_>>();
                json!({ "version": version, "freshness": "Current", "resources": resources })
            });
            let metadata = if group.is_empty() { json!({}) } else { json!({ "name": group }) };
            json!({ "metadata": metadata, "versions": versions.collect::<Vec<_>>() })
        })
        .collect();
    json!({
        "kind": "APIGroupDiscoveryList",
        "apiVersion": format!("apidiscovery.k8s.io/{version}"),
        "metadata": {},
        "items": items,
    })
}

fn aggregated_resource(served: &Served) -> Value {
    let info = served.info;
    let kind =
        |group: &str, version: &str, kind: &str| json!({ "group": group, "version": version, "kind": kind });
    let subresources: Vec<Value> = info
        .subresources
        .iter()
        .map(|name| {
            let of = Subresource::new(info, name);
            json!({
                "subresource": name,
                "responseKind": kind(of.group, of.version, of.kind),
                "verbs": of.verbs,
            })
        })
        .collect();
    let mut resource = json!({
        "resource": info.plural,
        "responseKind": kind(info.group, info.version, info.kind),
        "scope": if info.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": info.singular,
        "verbs": info.verbs,
    });
    add_lists(&mut resource, info);
    if !subresources.is_empty() {
        resource["subresources"] = subresources.into();
    }
    resource
}

/// `/api`
pub fn legacy_versions(address: &str) -> Value {
    json!({
        "kind": "APIVersions",
        "versions": ["v1"],
        "serverAddressByClientCIDRs": [{ "clientCIDR": "0.0.0.0/0", "serverAddress": address }],
    })
}

/// `/apis`
pub fn groups(kinds: &Kinds) -> Value {
    let groups: Vec<Value> = groups_of(kinds)
        .into_iter()
        .filter(|group| !group.is_empty())
        .map(|group| group_value(kinds, group))
        .collect();
    json!({ "kind": "APIGroupList", "apiVersion": "v1", "groups": groups })
}

/// `/apis/GROUP`
pub fn group(kinds: &Kinds, group: &str) -> Option<Value> {
    let known = groups_of(kinds).into_iter().find(|of| !of.is_empty() && *of == group)?;
    let mut value = group_value(kinds, known);
    value["kind"] = "APIGroup".into();
    value["apiVersion"] = "v1".into();
    Some(value)
}

fn group_value(kinds: &Kinds, group: &str) -> Value {
    let version = |version: &str| json!({ "groupVersion": format!("{group}/{version}"), "version": version });
    let versions: Vec<Value> = versions_of(kinds, group).into_iter().map(version).collect();
    let preferred = versions.first().cloned();
    json!({ "name": group, "versions": versions, "preferredVersion": preferred })
}

/// `/api/v1` or `/apis/GROUP/VERSION`
pub fn resources(kinds: &Kinds, group: &str, version: &str) -> Option<Value> {
    let mut resources = Vec::new();
    for served in of_version(kinds, group, version) {
        let info = served.info;
        let mut resource = json!({
            "name": info.plural,
            "singularName": info.singular,
            "namespaced": info.namespaced,
            "kind": info.kind,
            "verbs": info.verbs,
        });
        add_lists(&mut resource, info);
        resources.push(resource);
        for name in info.subresources {
            let of = Subresource::new(info, name);
            let mut subresource = json!({
                "name": format!("{}/{name}", info.plural),
                "singularName": "",
                "namespaced": info.namespaced,
                "kind": of.kind,
                "verbs": of.verbs,
            });
            if (of.group, of.version) != (info.group, info.version) {
                subresource["group"] = of.group.into();
                subresource["version"] = of.version.into();
            }
            resources.push(subresource);
        }
    }
    if resources.is_empty() {
        return None;
    }
    let group_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    Some(json!({
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": group_version,
        "resources": resources,
    }))
}

fn add_lists(resource: &mut Value, info: &ResourceInfo) {
    if !info.short_names.is_empty() {
        resource["shortNames"] = json!(info.short_names);
    }
    if !info.categories.is_empty() {
        resource["categories"] = json!(info.categories);
    }
}

/// What a subresource takes and answers, and what may be done with it.
pub(super) struct Subresource {
    pub(super) group: &'static str,
    pub(super) version: &'static str,
    pub(super) kind: &'static str,
    pub(super) verbs: &'static [&'static str],
}

impl Subresource {
    pub(super) fn new(info: &ResourceInfo, name: &str) -> Self {
        let of = |group, version, kind, verbs| Self { group, version, kind, verbs };
        match name {
            "scale" => of("autoscaling", "v1", "Scale", &["get", "patch", "update"]),
            "eviction" => of("policy", "v1", "Eviction", &["create"]),
            "binding" => of("", "v1", "Binding", &["create"]),
            "token" => of("authentication.k8s.io", "v1", "TokenRequest", &["create"]),
            "log" => of(info.group, info.version, info.kind, &["get"]),
            "attach" => of("", "v1", "PodAttachOptions", &["create", "get"]),
            "exec" => of("", "v1", "PodExecOptions", &["create", "get"]),
            "portforward" => of("", "v1", "PodPortForwardOptions", &["create", "get"]),
            "proxy" => {
                of("", "v1", proxy_options(info.kind), &["create", "delete", "get", "patch", "update"])
            }
            "finalize" => of(info.group, info.version, info.kind, &["update"]),
            _ => of(info.group, info.version, info.kind, &["get", "patch", "update"]),
        }
    }
}

fn proxy_options(kind: &str) -> &'static str {
    match kind {
        "Pod" => "PodProxyOptions",
        "Service" => "ServiceProxyOptions",
        _ => "NodeProxyOptions",
    }
}

/// The groups that are served, in the order of their names; core, which has none, is first.
fn groups_of(kinds: &Kinds) -> Vec<&'static str> {
    let mut groups: Vec<_> = kinds.all().iter().map(|served| served.info.group).collect();
    groups.sort_unstable();
    groups.dedup();
    groups
}

/// The versions of a group, the preferred one first.
fn versions_of(kinds: &Kinds, group: &str) -> Vec<&'static str> {
    let mut versions: Vec<_> = kinds
        .all()
        .iter()
        .filter(|served| served.info.group == group)
        .map(|served| served.info.version)
        .collect();
    versions
        .sort_unstable_by_key(|version| std::cmp::Reverse((priority(version), std::cmp::Reverse(*version))));
    versions.dedup();
    versions
}

/// Stable versions before betas before alphas before what is no version; of each, the latest first.
fn priority(version: &str) -> (u8, u32, u32) {
    let number = |text: &str| text.parse::<u32>().ok();
    let parse = || -> Option<(u8, u32, u32)> {
        let rest = version.strip_prefix('v')?;
        for (mark, stability) in [("beta", 2), ("alpha", 1)] {
            if let Some((major, minor)) = rest.split_once(mark) {
                return Some((stability, number(major)?, number(minor)?));
            }
        }
        Some((3, number(rest)?, 0))
    };
    parse().unwrap_or((0, 0, 0))
}

fn of_version<'a>(kinds: &'a Kinds, group: &'a str, version: &'a str) -> impl Iterator<Item = &'a Served> {
    let is_of = move |served: &&Served| served.info.group == group && served.info.version == version;
    kinds.all().iter().map(AsRef::as_ref).filter(is_of)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_kubectl_accepts_is_understood() {
        let accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json;\
                      g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json";
        assert_eq!(aggregated_version(accept), Some("v2"));
        assert_eq!(aggregated_version("application/json"), None);
        assert_eq!(
            aggregated_version("application/vnd.kubernetes.protobuf;g=apidiscovery.k8s.io;v=v2"),
            None
        );
    }

    #[test]
    fn both_forms_tell_of_the_same_resources() {
        let kinds = Kinds::builtin();
        let all = aggregated(&kinds, false, "v2");
        for group in all["items"].as_array().expect("groups") {
            let name = group["metadata"]["name"].as_str().expect("a name");
            let version = group["versions"][0]["version"].as_str().expect("a version");
            let list = resources(&kinds, name, version).expect("it is served");
            let count = |value: &Value| value.as_array().map_or(0, Vec::len);
            let listed = list["resources"].as_array().expect("resources");
            let whole = listed
                .iter()
                .filter(|of| !of["name"].as_str().is_some_and(|name| name.contains('/')))
                .count();
            assert_eq!(whole, count(&group["versions"][0]["resources"]), "{name}");
        }
    }

    #[test]
    fn a_subresource_of_another_group_says_so() {
        let list = resources(&Kinds::builtin(), "apps", "v1").expect("apps is served");
        let scale = list["resources"]
            .as_array()
            .and_then(|list| list.iter().find(|of| of["name"] == "deployments/scale"));
        let scale = scale.expect("deployments have a scale");
        assert_eq!(
            (&scale["group"], &scale["version"], &scale["kind"]),
            (&json!("autoscaling"), &json!("v1"), &json!("Scale"))
        );
    }

    #[test]
    fn unknown_groups_are_not_found() {
        assert_eq!(group(&Kinds::builtin(), "nonsense"), None);
        assert_eq!(group(&Kinds::builtin(), ""), None);
        assert_eq!(resources(&Kinds::builtin(), "apps", "v2"), None);
    }
}
