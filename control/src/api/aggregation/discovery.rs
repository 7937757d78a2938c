//! What other servers serve, put beside what is served here.

use serde_json::{Value, json};

use super::{Aggregator, Remote};

impl Aggregator {
    pub fn is_empty(&self) -> bool {
        self.remotes.load().is_empty()
    }

    /// Adds to `/apis`, or to `/apis/GROUP` if `only` one is meant; `groups` are those of this server.
    pub fn add_groups(&self, groups: &mut Vec<Value>, only: Option<&str>) {
        for remote in self.remotes().iter().filter(|remote| only.is_none_or(|only| remote.group() == only)) {
            let group = remote.group();
            let version = json!({ "groupVersion": format!("{group}/{}", remote.version()), "version": remote.version() });
            match groups.iter_mut().find(|known| known["name"] == group) {
                Some(known) => push(&mut known["versions"], version),
                None => {
                    let group = json!({ "name": group, "versions": [version], "preferredVersion": version });
                    groups.push(group);
                }
            }
        }
    }

    /// Adds to the aggregated form of `/apis`.
    pub fn add_aggregated(&self, items: &mut Vec<Value>) {
        for remote in self.remotes().iter() {
            let version = aggregated(remote);
            match items.iter_mut().find(|known| known["metadata"]["name"] == remote.group()) {
                Some(known) => push(&mut known["versions"], version),
                None => items.push(json!({ "metadata": { "name": remote.group() }, "versions": [version] })),
            }
        }
    }

    /// Adds to the index of `/openapi/v3`. What is there may change at any time, so it is never the same document.
    pub fn add_openapi(&self, paths: &mut Value) {
        for remote in self.remotes().iter().filter(|remote| remote.resources.is_ok()) {
            let path = format!("apis/{}/{}", remote.group(), remote.version());
            let hash = &remote.openapi_hash;
            paths[&path] = json!({ "serverRelativeURL": format!("/openapi/v3/{path}?hash={hash}") });
        }
    }
}

fn push(list: &mut Value, item: Value) {
    if let Some(list) = list.as_array_mut()
        && !list.iter().any(|known| known["version"] == item["version"])
    {
        list.push(item);
    }
}

fn aggregated(remote: &Remote) -> Value {
    let version = remote.version();
    let Ok(list) = &remote.resources else {
        return json!({ "version": version, "freshness": "Stale", "resources": [] });
    };
    let of_list = list["resources"].as_array().map(Vec::as_slice).unwrap_or_default();
    let name = |resource: &Value| resource["name"].as_str().unwrap_or_default().to_owned();
    let mut resources: Vec<Value> = Vec::new();
    for resource in of_list.iter().filter(|resource| !name(resource).contains('/')) {
        let mut item = json!({
            "resource": resource["name"],
            "responseKind": kind(remote, resource),
            "scope": if resource["namespaced"] == true { "Namespaced" } else { "Cluster" },
            "singularResource": resource["singularName"],
            "verbs": resource["verbs"],
        });
        for list in ["shortNames", "categories"] {
            if resource[list].is_array() {
                item[list] = resource[list].clone();
            }
        }
        let prefix = format!("{}/", name(resource));
        let subresources: Vec<Value> = of_list
            .iter()
            .filter_map(|sub| Some((sub, name(sub).strip_prefix(&prefix)?.to_owned())))
            .map(|(sub, name)| {
                json!({ "subresource": name, "responseKind": kind(remote, sub), "verbs": sub["verbs"] })
            })
            .collect();
        if !subresources.is_empty() {
            item["subresources"] = subresources.into();
        }
        resources.push(item);
    }
    json!({ "version": version, "freshness": "Current", "resources": resources })
}

fn kind(remote: &Remote, resource: &Value) -> Value {
    let own = |field: &str, default: &str| {
        resource[field].as_str().filter(|text| !text.is_empty()).unwrap_or(default).to_owned()
    };
    json!({
        "group": own("group", remote.group()),
        "version": own("version", remote.version()),
        "kind": resource["kind"],
    })
}
