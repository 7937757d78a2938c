//! OpenAPI v2 and v3 documents, made from the schemas of the served types and the merge-key facts of the model.
//!
//! `kubectl explain` reads them, `kubectl apply` merges lists by them, and clients are generated from them. They are
//! made when first asked for, as most clusters' clients never do. Not here: HTTP and caching.

mod connect;
pub mod merge;
mod names;
mod operations;
mod parameters;
pub mod protobuf;
mod roots;
mod schemas;

use std::{collections::BTreeMap, sync::Arc};

use serde_json::{Map, Value, json};

use crate::registry::Served;

/// The two dialects differ in where schemas lie and how parameters are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dialect {
    V2,
    V3,
}

impl Dialect {
    fn reference(self, type_name: &str) -> String {
        match self {
            Self::V2 => format!("#/definitions/{type_name}"),
            Self::V3 => format!("#/components/schemas/{type_name}"),
        }
    }
}

/// `/openapi/v3`: where the document of each group version lies. `hash` of a path changes when its document does.
pub fn v3_index<E>(served: &[Arc<Served>], hash: &dyn Fn(&str) -> Result<String, E>) -> Result<Value, E> {
    let mut paths = Map::new();
    let of_resources = served.iter().map(|resource| group_version_path(resource));
    for path in of_resources.chain(roots::document_paths(served)) {
        if paths.contains_key(&path) {
            continue;
        }
        let url = format!("/openapi/v3/{path}?hash={}", hash(&path)?);
        paths.insert(path, json!({ "serverRelativeURL": url }));
    }
    Ok(json!({ "paths": paths }))
}

/// `api/v1` or `apis/apps/v1`.
pub fn group_version_path(resource: &Served) -> String {
    let root = if resource.info.group.is_empty() { "api" } else { "apis" };
    format!("{root}/{}", resource.api_version)
}

/// The v3 document of one group version, given as the resources in it.
pub fn v3_document(served: &[Arc<Served>]) -> Value {
    v3(paths(served, Dialect::V3), schemas::of(served, Dialect::V3))
}

/// The v3 document of a path that leads to resources, such as `apis/apps`, or `None` if there is no such path.
pub fn v3_root_document(served: &[Arc<Served>], path: &str) -> Option<Value> {
    let paths = BTreeMap::from_iter(roots::paths(served, Dialect::V3, Some(path)));
    (!paths.is_empty()).then(|| v3(paths, schemas::of_roots(Dialect::V3)))
}

fn v3(paths: BTreeMap<String, Value>, schemas: Map<String, Value>) -> Value {
    json!({
        "openapi": "3.0.0",
        "info": info(),
        "paths": paths,
        "components": { "schemas": schemas, "securitySchemes": credentials() },
        "security": [{ "BearerToken": [] }],
    })
}

/// The v2 document of everything.
pub fn v2_document(served: &[Arc<Served>]) -> Value {
    let mut paths = paths(served, Dialect::V2);
    paths.extend(roots::paths(served, Dialect::V2, None));
    let mut definitions = schemas::of(served, Dialect::V2);
    definitions.extend(schemas::of_roots(Dialect::V2));
    json!({
        "swagger": "2.0",
        "info": info(),
        "paths": paths,
        "definitions": definitions,
        "securityDefinitions": credentials(),
        "security": [{ "BearerToken": [] }],
    })
}

/// How clients say who they are.
fn credentials() -> Value {
    json!({
        "BearerToken": {
            "description": "Bearer Token authentication",
            "in": "header",
            "name": "authorization",
            "type": "apiKey",
        },
    })
}

fn info() -> Value {
    json!({ "title": "Kubernetes", "version": naru_model::version::git_version() })
}

fn paths(served: &[Arc<Served>], dialect: Dialect) -> BTreeMap<String, Value> {
    let group_versions = served.iter().map(|resource| roots::group_version(resource, dialect));
    served.iter().flat_map(|resource| operations::paths(resource, dialect)).chain(group_versions).collect()
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;
    use crate::registry::Kinds;

    fn document(group: &str) -> Value {
        let kinds = Kinds::builtin();
        let served: Vec<_> =
            kinds.all().iter().filter(|served| served.info.group == group).cloned().collect();
        v3_document(&served)
    }

    #[test]
    fn every_reference_leads_somewhere() {
        fn references(value: &Value, found: &mut Vec<String>) {
            match value {
                Value::Object(map) => {
                    if let Some(Value::String(reference)) = map.get("$ref") {
                        found.push(reference.clone());
                    }
                    map.values().for_each(|value| references(value, found));
                }
                Value::Array(items) => items.iter().for_each(|value| references(value, found)),
                _ => {}
            }
        }
        let kinds = Kinds::builtin();
        let root = v3_root_document(kinds.all(), "apis").expect("a document");
        for document in [document(""), document("apps"), root, v2_document(kinds.all())] {
            let mut found = Vec::new();
            references(&document, &mut found);
            assert!(!found.is_empty());
            for reference in found {
                let pointer = reference.trim_start_matches('#');
                assert!(document.pointer(pointer).is_some(), "{reference} leads nowhere");
            }
        }
    }

    #[test]
    fn lists_say_how_they_are_merged() {
        let document = document("apps");
        let containers =
            &document["components"]["schemas"]["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"];
        assert_eq!(containers["x-kubernetes-patch-merge-key"], "name");
        assert_eq!(containers["x-kubernetes-patch-strategy"], "merge");
    }

    #[test]
    fn a_kind_is_found_by_its_path_and_by_its_schema() {
        let document = document("apps");
        let gvk = json!({ "group": "apps", "version": "v1", "kind": "Deployment" });
        let path = &document["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"];
        assert_eq!(path["patch"]["x-kubernetes-group-version-kind"], gvk);
        let parameters = path["patch"]["parameters"].as_array().expect("parameters");
        for name in ["dryRun", "fieldValidation", "fieldManager"] {
            assert!(parameters.iter().any(|parameter| parameter["name"] == name), "{name}");
        }
        let schema = &document["components"]["schemas"]["io.k8s.api.apps.v1.Deployment"];
        assert_eq!(schema["x-kubernetes-group-version-kind"], json!([gvk]));
        let list = &document["components"]["schemas"]["io.k8s.api.apps.v1.DeploymentList"];
        assert_eq!(list["x-kubernetes-group-version-kind"][0]["kind"], "DeploymentList");
    }

    #[test]
    fn numbers_that_may_be_text_have_the_types_that_each_version_can_say() {
        let types = |document: &Value, parent: &str, name: &str| {
            let schema = &document[parent][name];
            let mut said = schema.as_object().expect(name).clone();
            assert!(said.remove("description").is_some_and(|text| text.is_string()), "{schema}");
            Value::Object(said)
        };
        let (either, quantity) = (
            "io.k8s.apimachinery.pkg.util.intstr.IntOrString",
            "io.k8s.apimachinery.pkg.api.resource.Quantity",
        );
        let v2 = v2_document(Kinds::builtin().all());
        let told = json!({ "type": "string", "format": "int-or-string" });
        assert_eq!(types(&v2, "definitions", either), told);
        assert_eq!(types(&v2, "definitions", quantity), json!({ "type": "string" }));
        let schemas = &document("apps")["components"];
        let told =
            json!({ "oneOf": [{ "type": "integer" }, { "type": "string" }], "format": "int-or-string" });
        assert_eq!(types(schemas, "schemas", either), told);
        let told = json!({ "oneOf": [{ "type": "string" }, { "type": "number" }] });
        assert_eq!(types(schemas, "schemas", quantity), told);
    }

    #[test]
    fn operations_have_names_of_their_own_and_say_what_they_take_and_answer() {
        let document = v2_document(Kinds::builtin().all());
        let mut names = std::collections::BTreeSet::new();
        for (path, item) in document["paths"].as_object().expect("paths") {
            for (method, operation) in item.as_object().expect("operations") {
                let Some(name) = operation["operationId"].as_str() else {
                    assert_eq!(method, "parameters", "{path}");
                    continue;
                };
                assert!(names.insert(name), "{name} twice");
            }
        }
        let check = |path: &str, method: &str, name: &str, answer: &str| {
            let operation = &document["paths"][path][method];
            assert_eq!(operation["operationId"], name, "{path}");
            let reference = operation["responses"]["200"]["schema"]["$ref"].as_str().unwrap_or_default();
            assert_eq!(reference.rsplit('.').next(), Some(answer), "{path}");
        };
        let (pod, node) = ("/api/v1/namespaces/{namespace}/pods", "/api/v1/nodes/{name}");
        check("/api/v1/pods", "get", "listCoreV1PodForAllNamespaces", "PodList");
        check(pod, "get", "listCoreV1NamespacedPod", "PodList");
        check(pod, "delete", "deleteCoreV1CollectionNamespacedPod", "Status");
        check(&format!("{pod}/{{name}}"), "delete", "deleteCoreV1NamespacedPod", "Pod");
        check(node, "delete", "deleteCoreV1Node", "Status");
        check(&format!("{pod}/{{name}}/resize"), "patch", "patchCoreV1NamespacedPodResize", "Pod");
        check(
            "/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token",
            "post",
            "createCoreV1NamespacedServiceAccountToken",
            "TokenRequest",
        );
        check("/api/v1/namespaces/{name}/finalize", "put", "replaceCoreV1NamespaceFinalize", "Namespace");
        let roles = "/apis/rbac.authorization.k8s.io/v1/clusterroles";
        check(roles, "post", "createRbacAuthorizationV1ClusterRole", "ClusterRole");
        assert_eq!(document["paths"][roles]["post"]["tags"], json!(["rbacAuthorization_v1"]));
        check("/apis/apps/", "get", "getAppsAPIGroup", "APIGroup");
        check("/apis/apps/v1/", "get", "getAppsV1APIResources", "APIResourceList");
        check("/version/", "get", "getCodeVersion", "Info");
        let log = &document["paths"][format!("{pod}/{{name}}/log")]["get"]["parameters"];
        assert!(log.as_array().expect("parameters").iter().any(|of| of["name"] == "tailLines"), "{log}");
        let create = &document["paths"][pod]["post"];
        let codes: Vec<_> = create["responses"].as_object().expect("responses").keys().collect();
        assert_eq!(codes, ["200", "201", "202", "401"]);
        assert_eq!(
            create["produces"],
            json!(["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"])
        );
    }

    #[test]
    fn paths_that_lead_to_resources_have_documents_of_their_own() {
        let kinds = Kinds::builtin();
        let Ok(index) = v3_index(kinds.all(), &|_| Ok::<_, Infallible>("0".into()));
        for path in ["api", "apis", "apis/apps", "apis/apps/v1", "version"] {
            assert!(index["paths"][path].is_object(), "{path}: {index}");
        }
        let apps = v3_root_document(kinds.all(), "apis/apps").expect("a document");
        assert_eq!(apps["paths"].as_object().expect("paths").keys().collect::<Vec<_>>(), ["/apis/apps/"]);
        assert!(v3_root_document(kinds.all(), "apis/nobody").is_none());
    }

    #[test]
    fn a_view_has_the_schema_of_its_own_type() {
        let document = document("events.k8s.io");
        let event = &document["components"]["schemas"]["io.k8s.api.events.v1.Event"];
        assert!(event["properties"]["regarding"].is_object(), "{event}");
    }
}
