//! The paths of a resource and what may be done at each.

use serde_json::{Map, Value, json};

use super::{
    Dialect, connect, group_version_path, names,
    parameters::{self, Parameter},
    schemas::list_type,
};
use crate::{api::discovery::Subresource, registry::Served};

/// What a program said is text; what went wrong, a `Status`.
const LOG_TYPES: &[&str] =
    &["text/plain", "application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];

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
    let mut add = |path: String, actions: &[&str], scope: Scope| {
        if actions.iter().any(|action| writer.is_allowed(action)) {
            paths.push((path, writer.item(actions, scope)));
        }
    };
    add(collection, &["list", "post", "deletecollection"], Scope::Collection);
    add(item.clone(), &["get", "put", "patch", "delete"], Scope::Item);
    if info.namespaced {
        add(format!("{base}/{}", info.plural), &["list"], Scope::AllNamespaces);
    }
    for subresource in info.subresources {
        if connect::is_connection(subresource) {
            paths.extend(connect::paths(&writer, &item, subresource));
        } else {
            paths.push((format!("{item}/{subresource}"), writer.subresource(subresource)));
        }
    }
    paths
}

/// What a path names.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Scope {
    /// The objects of a namespace, or all that have none.
    Collection,
    /// The objects of all namespaces.
    AllNamespaces,
    /// One object.
    Item,
}

const STATUS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Status";
const PATCH: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Patch";

/// Codes and meanings of answers of an action that did something.
fn success(action: &str) -> &'static [(&'static str, &'static str)] {
    match action {
        "post" => &[("200", "OK"), ("201", "Created"), ("202", "Accepted")],
        "put" | "patch" => &[("200", "OK"), ("201", "Created")],
        "delete" => &[("200", "OK"), ("202", "Accepted")],
        _ => &[("200", "OK")],
    }
}

/// The same schema in every one of `types`.
fn content(types: &[&str], schema: &Value) -> Map<String, Value> {
    types.iter().map(|name| ((*name).to_owned(), json!({ "schema": schema }))).collect()
}

/// Writes the operations of one resource in one dialect.
pub(super) struct Writer<'a> {
    pub(super) resource: &'a Served,
    dialect: Dialect,
}

impl Writer<'_> {
    /// A path item; parameters of the path itself come first.
    fn item(&self, actions: &[&str], scope: Scope) -> Value {
        let type_name = &self.resource.type_name;
        let mut item = Map::new();
        for action in actions.iter().filter(|action| self.is_allowed(action)) {
            let answer = match *action {
                "list" => &list_type(self.resource),
                "deletecollection" => STATUS,
                "delete" if !self.resource.kind.answers_deleted() => STATUS,
                _ => type_name,
            };
            let mut operation = self.operation(action, "", type_name, answer);
            operation["operationId"] = self.operation_id(action, scope, "").into();
            item.insert(method(action).into(), operation);
        }
        let is_namespaced = self.resource.info.namespaced && scope != Scope::AllNamespaces;
        item.insert("parameters".into(), self.path_parameters(is_namespaced, scope == Scope::Item));
        item.into()
    }

    fn subresource(&self, name: &str) -> Value {
        let of = Subresource::new(self.resource.info, name);
        let type_name = match of.kind {
            "Scale" => "io.k8s.api.autoscaling.v1.Scale",
            "Eviction" => "io.k8s.api.policy.v1.Eviction",
            "Binding" => "io.k8s.api.core.v1.Binding",
            "TokenRequest" => "io.k8s.api.authentication.v1.TokenRequest",
            _ => &self.resource.type_name,
        };
        let mut item = Map::new();
        for verb in of.verbs {
            let action = match *verb {
                "create" => "post",
                "update" => "put",
                other => other,
            };
            let mut operation = self.operation(action, name, type_name, type_name);
            operation["operationId"] = self.operation_id(action, Scope::Item, name).into();
            operation["x-kubernetes-group-version-kind"] =
                json!({ "group": of.group, "version": of.version, "kind": of.kind });
            item.insert(action.into(), operation);
        }
        item.insert("parameters".into(), self.path_parameters(self.resource.info.namespaced, true));
        item.into()
    }

    fn operation_id(&self, action: &str, scope: Scope, subresource: &str) -> String {
        let info = self.resource.info;
        let (verb, collection) = match action {
            "post" => ("create", ""),
            "put" => ("replace", ""),
            "get" => ("read", ""),
            "deletecollection" => ("delete", "Collection"),
            other => (other, ""),
        };
        let (before, after) = match scope {
            Scope::AllNamespaces => ("", "ForAllNamespaces"),
            _ if info.namespaced => ("Namespaced", ""),
            _ => ("", ""),
        };
        let rest = format!("{collection}{before}{}{}{after}", info.kind, capital(subresource));
        names::operation_id(info, verb, &rest)
    }

    fn is_allowed(&self, action: &str) -> bool {
        let verb = match action {
            "post" => "create",
            "put" => "update",
            other => other,
        };
        self.resource.info.verbs.contains(&verb)
    }

    /// An operation that has no name yet.
    fn operation(&self, action: &str, subresource: &str, body: &str, answer: &str) -> Value {
        let info = self.resource.info;
        let mut operation = json!({
            "description": format!("{action} {}", info.kind),
            "tags": [names::tag(info)],
            "x-kubernetes-action": action,
            "x-kubernetes-group-version-kind":
                { "group": info.group, "version": info.version, "kind": info.kind },
            "parameters":
                parameters::of(action, subresource).iter().map(|of| self.parameter(of)).collect::<Vec<_>>(),
        });
        self.add_body(&mut operation, action, body);
        let is_text = subresource == "log";
        let schema = if is_text { json!({ "type": "string" }) } else { self.reference(answer) };
        let types = if is_text { LOG_TYPES } else { self.answer_types(action) };
        let answer = match self.dialect {
            Dialect::V2 => {
                operation["schemes"] = json!(["https"]);
                operation["produces"] = json!(types);
                json!({ "schema": schema })
            }
            Dialect::V3 => json!({ "content": content(types, &schema) }),
        };
        let mut responses = Map::new();
        for (code, description) in success(action) {
            let mut answer = answer.clone();
            answer["description"] = (*description).into();
            responses.insert((*code).into(), answer);
        }
        responses.insert("401".into(), json!({ "description": "Unauthorized" }));
        operation["responses"] = responses.into();
        operation
    }

    fn add_body(&self, operation: &mut Value, action: &str, body: &str) {
        let (body, types) = match action {
            "post" | "put" => (body, &["application/json", "application/yaml"][..]),
            // A client that finds a strategic merge patch here sends one.
            "patch" if self.resource.kind.is_custom() => (
                PATCH,
                &[
                    "application/json-patch+json",
                    "application/merge-patch+json",
                    "application/apply-patch+yaml",
                ][..],
            ),
            "patch" => (
                PATCH,
                &[
                    "application/json-patch+json",
                    "application/merge-patch+json",
                    "application/strategic-merge-patch+json",
                    "application/apply-patch+yaml",
                ][..],
            ),
            "delete" | "deletecollection" => {
                ("io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions", &["application/json"][..])
            }
            _ => return,
        };
        let schema = self.body_schema(body);
        let is_required = matches!(action, "post" | "put" | "patch");
        match self.dialect {
            Dialect::V2 => {
                operation["consumes"] = json!(types);
                let mut parameter = json!({ "name": "body", "in": "body", "schema": schema });
                if is_required {
                    parameter["required"] = true.into();
                }
                operation["parameters"].as_array_mut().expect("parameters are an array").push(parameter);
            }
            Dialect::V3 => {
                operation["requestBody"] = json!({ "content": content(types, &schema) });
                if is_required {
                    operation["requestBody"]["required"] = true.into();
                }
            }
        }
    }

    /// The forms in which an action is answered, the usual one first.
    fn answer_types(&self, action: &str) -> &'static [&'static str] {
        let has_protobuf = !self.resource.kind.is_custom();
        match (action, has_protobuf) {
            ("list", true) => &[
                "application/json",
                "application/yaml",
                "application/vnd.kubernetes.protobuf",
                "application/json;stream=watch",
                "application/vnd.kubernetes.protobuf;stream=watch",
            ],
            ("list", false) => &["application/json", "application/yaml", "application/json;stream=watch"],
            (_, true) => &["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"],
            (_, false) => &["application/json", "application/yaml"],
        }
    }

    fn reference(&self, type_name: &str) -> Value {
        json!({ "$ref": self.dialect.reference(type_name) })
    }

    /// A patch is any object; it has no schema in the list.
    fn body_schema(&self, type_name: &str) -> Value {
        if type_name.ends_with(".Patch") { json!({ "type": "object" }) } else { self.reference(type_name) }
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
        let answer = match self.dialect {
            Dialect::V3 => json!({ "description": "OK", "content": { "*/*": { "schema": schema } } }),
            Dialect::V2 => {
                operation["produces"] = json!(["*/*"]);
                operation["consumes"] = json!(["*/*"]);
                json!({ "description": "OK", "schema": schema })
            }
        };
        operation["responses"] = json!({ "200": answer, "401": { "description": "Unauthorized" } });
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
