//! The paths of a resource and what may be done at each.

use serde_json::{Map, Value, json};

use super::{Dialect, connect, group_version_path, schemas::list_type};
use crate::registry::Served;

/// Path and path item of everything that a resource answers to.
pub(super) fn paths(resource: &Served, dialect: Dialect) -> Vec<(String, Value)> {
    let info = resource.info;
    let writer = Writer { resource, dialect };
    let base = format!("/{}", group_version_path(resource));
    let collection = if info.namespaced {
        format!("{base}/namespaces/{{namespace}}/{}", info.plural)
    } else {
        format!("{base}/{}", info.plural)
    };
    let item = format!("{collection}/{{name}}");
    let mut paths = Vec::new();
    let mut add = |path: String, actions: &[&str], namespaced: bool, named: bool| {
        if actions.iter().any(|action| writer.is_allowed(action)) {
            paths.push((path, writer.item(actions, namespaced, named)));
        }
    };
    add(collection, &["list", "post", "deletecollection"], info.namespaced, false);
    add(item.clone(), &["get", "put", "patch", "delete"], info.namespaced, true);
    if info.namespaced {
        add(format!("{base}/{}", info.plural), &["list"], false, false);
    }
    for subresource in info.subresources {
        if connect::is_connection(subresource) {
            paths.extend(connect::paths(&writer, &item, subresource));
            continue;
        }
        let actions: &[&str] = match *subresource {
            "status" | "scale" => &["get", "put", "patch"],
            "log" => &["get"],
            _ => &["post"],
        };
        let path = format!("{item}/{subresource}");
        paths.push((path, writer.subresource(subresource, actions)));
    }
    paths
}

/// Writes the operations of one resource in one dialect.
pub(super) struct Writer<'a> {
    pub(super) resource: &'a Served,
    dialect: Dialect,
}

impl Writer<'_> {
    /// A path item; parameters of the path itself come first.
    fn item(&self, actions: &[&str], namespaced: bool, named: bool) -> Value {
        let type_name = &self.resource.type_name;
        let mut item = Map::new();
        for action in actions.iter().filter(|action| self.is_allowed(action)) {
            let answer = if *action == "list" { &list_type(self.resource) } else { type_name };
            item.insert(method(action).into(), self.operation(action, "", type_name, answer));
        }
        item.insert("parameters".into(), self.path_parameters(namespaced, named));
        item.into()
    }

    fn subresource(&self, name: &str, actions: &[&str]) -> Value {
        let type_name = match name {
            "scale" => "io.k8s.api.autoscaling.v1.Scale",
            "eviction" => "io.k8s.api.policy.v1.Eviction",
            "binding" => "io.k8s.api.core.v1.Binding",
            _ => &self.resource.type_name,
        };
        let mut item = Map::new();
        for action in actions {
            item.insert(method(action).into(), self.operation(action, name, type_name, type_name));
        }
        item.insert("parameters".into(), self.path_parameters(self.resource.info.namespaced, true));
        item.into()
    }

    fn is_allowed(&self, action: &str) -> bool {
        let verb = match action {
            "post" => "create",
            "put" => "update",
            other => other,
        };
        self.resource.info.verbs.contains(&verb)
    }

    fn operation(&self, action: &str, subresource: &str, body: &str, answer: &str) -> Value {
        let info = self.resource.info;
        let is_text = subresource == "log";
        let schema = if is_text { json!({ "type": "string" }) } else { self.reference(answer) };
        let content_type = if is_text { "text/plain" } else { "application/json" };
        let mut operation = json!({
            "operationId": operation_id(self.resource, action, subresource),
            "description": format!("{action} {}", info.kind),
            "x-kubernetes-action": action,
            "x-kubernetes-group-version-kind": self.gvk(subresource),
            "parameters": parameters(action).iter().map(|parameter| self.parameter(parameter)).collect::<Vec<_>>(),
        });
        let body = match action {
            "post" | "put" => Some((body, &["application/json", "application/yaml"][..])),
            // A client that finds a strategic merge patch here sends one.
            "patch" if self.resource.kind.is_custom() => Some((
                "io.k8s.apimachinery.pkg.apis.meta.v1.Patch",
                &["application/json-patch+json", "application/merge-patch+json"][..],
            )),
            "patch" => Some((
                "io.k8s.apimachinery.pkg.apis.meta.v1.Patch",
                &[
                    "application/json-patch+json",
                    "application/merge-patch+json",
                    "application/strategic-merge-patch+json",
                    "application/apply-patch+yaml",
                ][..],
            )),
            "delete" | "deletecollection" => {
                Some(("io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions", &["application/json"][..]))
            }
            _ => None,
        };
        match self.dialect {
            Dialect::V3 => {
                let mut content = Map::new();
                content.insert(content_type.into(), json!({ "schema": schema }));
                operation["responses"] = json!({ "200": { "description": "OK", "content": content } });
                if let Some((body, types)) = body {
                    let schema = self.body_schema(body);
                    let content: Map<String, Value> =
                        types.iter().map(|name| ((*name).to_owned(), json!({ "schema": schema }))).collect();
                    operation["requestBody"] = json!({ "content": content });
                }
            }
            Dialect::V2 => {
                operation["produces"] = json!([content_type]);
                operation["responses"] = json!({ "200": { "description": "OK", "schema": schema } });
                if let Some((body, types)) = body {
                    operation["consumes"] = json!(types);
                    let parameter = json!({ "name": "body", "in": "body", "schema": self.body_schema(body) });
                    operation["parameters"].as_array_mut().expect("parameters are an array").push(parameter);
                }
            }
        }
        operation
    }

    fn reference(&self, type_name: &str) -> Value {
        json!({ "$ref": self.dialect.reference(type_name) })
    }

    /// A patch is any object; it has no schema in the list.
    fn body_schema(&self, type_name: &str) -> Value {
        if type_name.ends_with(".Patch") { json!({ "type": "object" }) } else { self.reference(type_name) }
    }

    fn gvk(&self, subresource: &str) -> Value {
        let info = self.resource.info;
        let (group, version, kind) = match subresource {
            "scale" => ("autoscaling", "v1", "Scale"),
            "eviction" => ("policy", "v1", "Eviction"),
            "binding" => ("", "v1", "Binding"),
            _ => (info.group, info.version, info.kind),
        };
        json!({ "group": group, "version": version, "kind": kind })
    }

    pub(super) fn path_parameter(&self, name: &str, description: &str) -> Value {
        let mut parameter =
            json!({ "name": name, "in": "path", "required": true, "description": description });
        self.set_type(&mut parameter, "string");
        parameter
    }

    /// An answer of any form.
    pub(super) fn set_text_answer(&self, operation: &mut Value) {
        let schema = json!({ "type": "string" });
        match self.dialect {
            Dialect::V3 => {
                operation["responses"] =
                    json!({ "200": { "description": "OK", "content": { "*/*": { "schema": schema } } } });
            }
            Dialect::V2 => {
                operation["produces"] = json!(["*/*"]);
                operation["consumes"] = json!(["*/*"]);
                operation["responses"] = json!({ "200": { "description": "OK", "schema": schema } });
            }
        }
    }

    pub(super) fn path_parameters(&self, namespaced: bool, named: bool) -> Value {
        let mut parameters = Vec::new();
        let mut add = |name: &str, description: &str| parameters.push(self.path_parameter(name, description));
        if named {
            add("name", &format!("name of the {}", self.resource.info.kind));
        }
        if namespaced {
            add("namespace", "object name and auth scope, such as for teams and projects");
        }
        parameters.into()
    }

    pub(super) fn parameter(&self, (name, kind, description): &Parameter) -> Value {
        let mut parameter = json!({ "name": name, "in": "query", "description": description });
        self.set_type(&mut parameter, kind);
        parameter
    }

    fn set_type(&self, parameter: &mut Value, kind: &str) {
        match self.dialect {
            Dialect::V2 => parameter["type"] = kind.into(),
            Dialect::V3 => parameter["schema"] = json!({ "type": kind }),
        }
    }
}

/// Name, type and description of a query parameter.
pub(super) type Parameter = (&'static str, &'static str, &'static str);

const PRETTY: Parameter = ("pretty", "string", "If 'true', then the output is pretty printed.");
const DRY_RUN: Parameter = ("dryRun", "string", "'All': everything is done but the change is not kept.");
const FIELD_MANAGER: Parameter = ("fieldManager", "string", "The name of the actor that makes the change.");
const FIELD_VALIDATION: Parameter =
    ("fieldValidation", "string", "What becomes of unknown and duplicate fields: Ignore, Warn or Strict.");

fn parameters(action: &str) -> Vec<Parameter> {
    let delete: [Parameter; 3] = [
        ("gracePeriodSeconds", "integer", "Seconds before the object is deleted; 0 deletes it at once."),
        ("propagationPolicy", "string", "What becomes of dependents: Orphan, Background or Foreground."),
        ("orphanDependents", "boolean", "Deprecated: use propagationPolicy."),
    ];
    let list: [Parameter; 9] = [
        ("allowWatchBookmarks", "boolean", "Asks for BOOKMARK events."),
        ("continue", "string", "Where an earlier list stopped, as it said itself."),
        ("fieldSelector", "string", "Restricts the objects by their fields."),
        ("labelSelector", "string", "Restricts the objects by their labels."),
        ("limit", "integer", "How many objects to answer at most; the rest follows by `continue`."),
        ("resourceVersion", "string", "How old the answer may be, or where a watch begins."),
        ("resourceVersionMatch", "string", "How resourceVersion is applied: NotOlderThan or Exact."),
        ("sendInitialEvents", "boolean", "Begins a watch with the objects that exist."),
        ("timeoutSeconds", "integer", "Ends the call after so long."),
    ];
    let mut parameters = vec![PRETTY];
    match action {
        "post" | "put" => parameters.extend([DRY_RUN, FIELD_MANAGER, FIELD_VALIDATION]),
        "patch" => {
            parameters.extend([DRY_RUN, FIELD_MANAGER, FIELD_VALIDATION]);
            parameters.push(("force", "boolean", "Takes fields from other managers (apply patches only)."));
        }
        "delete" => {
            parameters.push(DRY_RUN);
            parameters.extend(delete);
        }
        "deletecollection" => {
            parameters.push(DRY_RUN);
            parameters.extend(delete);
            parameters.extend(list);
        }
        "list" => {
            parameters.extend(list);
            parameters.push(("watch", "boolean", "Answers changes as they happen, as a stream."));
        }
        _ => {}
    }
    parameters
}

fn method(action: &str) -> &str {
    match action {
        "list" => "get",
        "deletecollection" => "delete",
        other => other,
    }
}

pub(super) fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

/// `patchAppsV1NamespacedDeploymentStatus`
fn operation_id(resource: &Served, action: &str, subresource: &str) -> String {
    let action = match action {
        "post" => "create",
        "put" => "replace",
        "get" => "read",
        other => other,
    };
    let info = resource.info;
    let group = capital(info.group.split('.').next().filter(|group| !group.is_empty()).unwrap_or("core"));
    let scope = if info.namespaced { "Namespaced" } else { "" };
    format!("{action}{group}{}{scope}{}{}", capital(info.version), info.kind, capital(subresource))
}
