//! What node agents may do: Kubernetes' rules for nodes, narrowed to what concerns the agent's own node.
//!
//! A Secret or ConfigMap is readable for a node while a pod that is bound to it names it. That is looked up when it is
//! asked: agents keep what they fetch for a moment, so it is seldom. A token is asked for by a pod's name, which
//! the token handler checks. Writes are narrowed further by `admission`.

use std::sync::LazyLock;

use k8s_openapi::api::core::v1::{Pod, PodSpec};
use naru_model::{Object as _, PodBrief};

use super::{
    Attributes, User,
    rbac::{Rule, defaults},
};
use crate::store::{Entry, Key, Scope, Snapshot, Store};

/// The role `system:node` as it is by default: what it is in the cluster is bound to nobody.
static RULES: LazyLock<Vec<Rule>> = LazyLock::new(|| {
    let roles = defaults().cluster_roles;
    let role = roles.into_iter().find(|role| role.name() == "system:node").expect("it is a default role");
    role.rules.into_iter().flatten().map(Rule::new).collect()
});

/// `None` where the user is no node, else whether a rule for nodes allows it, or why not.
pub fn decide(store: Option<&Store>, user: &User, asked: &Attributes<'_>) -> Option<Result<(), String>> {
    let node = user.node()?;
    let view = || store.map(Store::snapshot).unwrap_or_default();
    let unless = |is_fine: bool, why: &str| if is_fine { Ok(()) } else { Err(why.to_owned()) };
    let no_relation = format!("no relationship found between node '{node}' and this object");
    Some(match (asked.group, asked.resource) {
        ("", "secrets" | "configmaps") => {
            let reads = matches!(asked.verb, "get" | "list" | "watch");
            if !reads || !asked.subresource.is_empty() {
                Err("can only read resources of this type".into())
            } else if asked.namespace.is_empty() {
                Err("can only read namespaced object of this type".into())
            } else if asked.name.is_empty() {
                Err("No Object name found".into())
            } else {
                unless(is_named_by_a_pod(&view(), node, asked), &no_relation)
            }
        }
        ("", "pods") if asked.subresource.is_empty() => match asked.verb {
            "get" => unless(is_bound(&view(), node, asked.namespace, asked.name), &no_relation),
            "list" | "watch" => {
                let is_own = selects(asked.field_selector, "spec.nodeName", node)
                    || is_bound(&view(), node, asked.namespace, asked.name);
                unless(is_own, "can only list/watch pods with spec.nodeName field selector")
            }
            "create" | "delete" => Ok(()),
            _ => Err(String::new()),
        },
        ("", "nodes") if asked.verb != "delete" && asked.verb != "deletecollection" => {
            let reads = matches!(asked.verb, "get" | "list" | "watch");
            let is_own = asked.name == node || asked.verb == "create";
            unless(
                is_own || !reads,
                &format!("node '{node}' cannot read all nodes, only its own Node object"),
            )
        }
        ("", "serviceaccounts") => unless(
            asked.verb == "create" && asked.subresource == "token" && !asked.name.is_empty(),
            "can only create tokens for individual service accounts",
        ),
        ("coordination.k8s.io", "leases") => {
            let is_fine = matches!(asked.verb, "get" | "create" | "update" | "patch" | "delete");
            if asked.namespace != "kube-node-lease" {
                Err("can only access leases in the \"kube-node-lease\" system namespace".into())
            } else if asked.verb != "create" && asked.name != node {
                Err("can only access node lease with the same name as the requesting node".into())
            } else {
                unless(is_fine, "can only get, create, update, patch, or delete a node lease")
            }
        }
        _ => unless(RULES.iter().any(|rule| rule.allows(asked)), ""),
    })
}

fn selects(selector: &str, field: &str, value: &str) -> bool {
    let selector = naru_model::selector::FieldSelector::parse(selector).unwrap_or_default();
    selector.required(field) == Some(value)
}

fn is_bound(view: &Snapshot, node: &str, namespace: &str, name: &str) -> bool {
    let entry = view.get(&Key::new("pods", namespace, name)).filter(|_| !name.is_empty());
    entry.is_some_and(|entry| runs_on(&entry, node))
}

fn runs_on(pod: &Entry, node: &str) -> bool {
    pod.brief::<PodBrief>().is_ok_and(|brief| brief.node_name.as_deref() == Some(node))
}

fn is_named_by_a_pod(view: &Snapshot, node: &str, asked: &Attributes<'_>) -> bool {
    let pods = view.range(&Scope::namespace("pods", asked.namespace), None);
    let own = pods.filter(|entry| runs_on(entry, node));
    own.filter_map(|entry| entry.typed::<Pod>().ok()).any(|pod| {
        pod.spec.as_ref().is_some_and(|spec| {
            if asked.resource == "secrets" {
                names_secret(spec, asked.name)
            } else {
                names_config_map(spec, asked.name)
            }
        })
    })
}

fn names_secret(spec: &PodSpec, name: &str) -> bool {
    let is = |of: Option<&str>| of == Some(name);
    spec.image_pull_secrets.iter().flatten().any(|of| of.name == name)
        || spec.volumes.iter().flatten().any(|volume| {
            let projected = volume.projected.iter().flat_map(|of| of.sources.iter().flatten());
            let disks = [
                volume.iscsi.as_ref().and_then(|of| of.secret_ref.as_ref()).map(|of| &*of.name),
                volume.flex_volume.as_ref().and_then(|of| of.secret_ref.as_ref()).map(|of| &*of.name),
                volume.cephfs.as_ref().and_then(|of| of.secret_ref.as_ref()).map(|of| &*of.name),
                volume.csi.as_ref().and_then(|of| of.node_publish_secret_ref.as_ref()).map(|of| &*of.name),
            ];
            is(volume.secret.as_ref().and_then(|of| of.secret_name.as_deref()))
                || projected.filter_map(|of| of.secret.as_ref()).any(|of| of.name == name)
                || disks.into_iter().any(is)
        })
        || environments(spec).any(|(from, one)| {
            from.is_some_and(|of| of.secret_ref.as_ref().is_some_and(|of| of.name == name))
                || one.is_some_and(|of| of.secret_key_ref.as_ref().is_some_and(|of| of.name == name))
        })
}

fn names_config_map(spec: &PodSpec, name: &str) -> bool {
    spec.volumes.iter().flatten().any(|volume| {
        let projected = volume.projected.iter().flat_map(|of| of.sources.iter().flatten());
        volume.config_map.as_ref().is_some_and(|of| of.name == name)
            || projected.filter_map(|of| of.config_map.as_ref()).any(|of| of.name == name)
    }) || environments(spec).any(|(from, one)| {
        from.is_some_and(|of| of.config_map_ref.as_ref().is_some_and(|of| of.name == name))
            || one.is_some_and(|of| of.config_map_key_ref.as_ref().is_some_and(|of| of.name == name))
    })
}

type Sources<'a> = (
    Option<&'a k8s_openapi::api::core::v1::EnvFromSource>,
    Option<&'a k8s_openapi::api::core::v1::EnvVarSource>,
);

/// Where the containers' environments come from. Ephemeral containers have theirs, too.
fn environments(spec: &PodSpec) -> impl Iterator<Item = Sources<'_>> {
    let containers = spec.init_containers.iter().flatten().chain(&spec.containers);
    let containers = containers.map(|container| (container.env_from.as_ref(), container.env.as_ref()));
    let ephemeral = spec.ephemeral_containers.iter().flatten();
    let ephemeral = ephemeral.map(|container| (container.env_from.as_ref(), container.env.as_ref()));
    containers.chain(ephemeral).flat_map(|(from, env)| {
        let from = from.into_iter().flatten().map(|of| (Some(of), None));
        let env = env.into_iter().flatten().filter_map(|of| of.value_from.as_ref());
        from.chain(env.map(|of| (None, Some(of))))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::ApiClient;

    #[tokio::test]
    async fn a_node_sees_what_its_pods_need_and_no_more() {
        let client = ApiClient::in_memory();
        let namespace = json!({ "metadata": { "name": "shop" } });
        let namespace: k8s_openapi::api::core::v1::Namespace =
            serde_json::from_value(namespace).expect("a namespace");
        client.create(&namespace).await.expect("created");
        let account = json!({ "metadata": { "name": "default", "namespace": "shop" } });
        let account: k8s_openapi::api::core::v1::ServiceAccount =
            serde_json::from_value(account).expect("an account");
        client.create(&account).await.expect("created");
        let pod = json!({
            "metadata": { "name": "web", "namespace": "shop" },
            "spec": {
                "nodeName": "amber",
                "imagePullSecrets": [{ "name": "pull" }],
                "containers": [{
                    "name": "web",
                    "image": "web",
                    "envFrom": [{ "configMapRef": { "name": "settings" } }],
                    "env": [{ "name": "A", "valueFrom": { "secretKeyRef": { "name": "key", "key": "a" } } }],
                }],
                "volumes": [
                    { "name": "s", "secret": { "secretName": "mounted" } },
                    { "name": "p", "projected": { "sources": [{ "configMap": { "name": "projected" } }] } },
                ],
            },
        });
        client.create(&serde_json::from_value::<Pod>(pod).expect("a pod")).await.expect("created");
        let amber = User::new("system:node:amber", vec!["system:nodes".into()]);
        let birch = User::new("system:node:birch", vec!["system:nodes".into()]);
        let cases = [
            (&amber, "get secrets shop pull", true),
            (&amber, "get secrets shop key", true),
            (&amber, "get secrets shop mounted", true),
            (&amber, "get secrets shop other", false),
            (&amber, "list secrets shop -", false),
            (&amber, "update secrets shop key", false),
            (&birch, "get secrets shop key", false),
            (&amber, "get configmaps shop settings", true),
            (&amber, "get configmaps shop projected", true),
            (&amber, "get configmaps else settings", false),
            (&amber, "get pods shop web", true),
            (&birch, "get pods shop web", false),
            (&amber, "list pods - -", false),
            (&amber, "list pods - - spec.nodeName=amber", true),
            (&birch, "watch pods - - spec.nodeName=amber", false),
            (&amber, "update pods shop web", false),
            (&amber, "patch pods/status shop web", true),
            (&amber, "get nodes - amber", true),
            (&amber, "get nodes - birch", false),
            (&amber, "patch nodes - amber", true),
            (&amber, "delete nodes - amber", false),
            (&amber, "create serviceaccounts/token shop default", true),
            (&amber, "get serviceaccounts shop default", false),
            (&amber, "update leases kube-node-lease amber", true),
            (&amber, "update leases kube-node-lease birch", false),
            (&amber, "update leases default amber", false),
            (&amber, "watch services - -", true),
            (&amber, "create events shop -", true),
            (&amber, "create deployments shop -", false),
        ];
        for (user, text, expected) in cases {
            let words: Vec<&str> = text.split(' ').map(|word| if word == "-" { "" } else { word }).collect();
            let (resource, subresource) = words[1].split_once('/').unwrap_or((words[1], ""));
            let group = match resource {
                "leases" => "coordination.k8s.io",
                "deployments" => "apps",
                _ => "",
            };
            let asked = Attributes {
                verb: words[0],
                group,
                resource,
                subresource,
                namespace: words[2],
                name: words[3],
                path: "",
                field_selector: words.get(4).copied().unwrap_or_default(),
            };
            let decision = decide(Some(client.store()), user, &asked).expect("a node");
            assert_eq!(decision.is_ok(), expected, "{} {text}: {decision:?}", user.name);
        }
    }
}
