//! The paths that lead to resources: discovery, the version, and what other parties need to check service account
//! tokens. Generated clients have a class for each.

use std::{collections::BTreeSet, sync::Arc};

use k8s_openapi::{
    apimachinery::pkg::{
        apis::meta::v1::{APIGroup, APIGroupList, APIResourceList, APIVersions, WatchEvent},
        runtime::RawExtension,
        version::Info,
    },
    schemars::SchemaGenerator,
};
use serde_json::{Value, json};

use super::{Dialect, group_version_path, names};
use crate::registry::Served;

const JSON: &str = "application/json";
const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";

/// A path that no resource stands behind.
struct Root {
    /// Without slashes around it, as the index of OpenAPI v3 has it.
    path: String,
    operation_id: String,
    tag: String,
    description: &'static str,
    /// The type of the answer; text where there is none.
    answer: Option<String>,
    media_type: &'static str,
    has_slash: bool,
}

impl Root {
    fn discovery(path: &str, operation_id: String, tag: String, answer: &str) -> Self {
        Self {
            path: path.into(),
            operation_id,
            tag,
            description: "what is served below this path",
            answer: Some(format!("{META}.{answer}")),
            media_type: JSON,
            has_slash: true,
        }
    }

    fn path_and_item(&self, dialect: Dialect) -> (String, Value) {
        let schema = match &self.answer {
            Some(answer) => json!({ "$ref": dialect.reference(answer) }),
            None => json!({ "type": "string" }),
        };
        let mut operation = json!({
            "operationId": self.operation_id,
            "description": self.description,
            "tags": [self.tag],
        });
        let unauthorized = json!({ "description": "Unauthorized" });
        match dialect {
            Dialect::V2 => {
                operation["schemes"] = json!(["https"]);
                operation["produces"] = json!([self.media_type]);
                operation["responses"] =
                    json!({ "200": { "description": "OK", "schema": schema }, "401": unauthorized });
            }
            Dialect::V3 => {
                let content = json!({ self.media_type: { "schema": schema } });
                operation["responses"] =
                    json!({ "200": { "description": "OK", "content": content }, "401": unauthorized });
            }
        }
        let end = if self.has_slash { "/" } else { "" };
        (format!("/{}{end}", self.path), json!({ "get": operation }))
    }
}

/// The paths that belong to no group version, and are documents of their own in OpenAPI v3.
fn of(served: &[Arc<Served>]) -> Vec<Root> {
    let groups: BTreeSet<_> = served.iter().map(|resource| resource.info.group).collect();
    let mut roots = vec![
        Root::discovery("api", "getCoreAPIVersions".into(), "core".into(), "APIVersions"),
        Root::discovery("apis", "getAPIVersions".into(), "apis".into(), "APIGroupList"),
    ];
    for group in groups.into_iter().filter(|group| !group.is_empty()) {
        let operation_id = format!("get{}APIGroup", names::group(group, true));
        let tag = names::group(group, false);
        roots.push(Root::discovery(&format!("apis/{group}"), operation_id, tag, "APIGroup"));
    }
    roots.push(Root {
        path: "version".into(),
        operation_id: "getCodeVersion".into(),
        tag: "version".into(),
        description: "the version of the server",
        answer: Some("io.k8s.apimachinery.pkg.version.Info".into()),
        media_type: JSON,
        has_slash: true,
    });
    for (path, name, tag, media_type, description) in [
        (
            ".well-known/openid-configuration",
            "Configuration",
            "WellKnown",
            JSON,
            "how tokens of service accounts are checked",
        ),
        (
            "openid/v1/jwks",
            "Keyset",
            "openid",
            "application/jwk-set+json",
            "the keys by which tokens of service accounts are checked",
        ),
    ] {
        roots.push(Root {
            path: path.into(),
            operation_id: format!("getServiceAccountIssuerOpenID{name}"),
            tag: tag.into(),
            description,
            answer: None,
            media_type,
            has_slash: false,
        });
    }
    roots
}

/// Where documents of OpenAPI v3 about such paths lie, below `/openapi/v3/`.
pub(super) fn document_paths(served: &[Arc<Served>]) -> Vec<String> {
    of(served).into_iter().map(|root| root.path).collect()
}

/// Path and path item of everything that belongs to no group version; of `only` one document where that is said.
pub(super) fn paths(served: &[Arc<Served>], dialect: Dialect, only: Option<&str>) -> Vec<(String, Value)> {
    let roots = of(served);
    let wanted = roots.iter().filter(|root| only.is_none_or(|only| root.path == only));
    wanted.map(|root| root.path_and_item(dialect)).collect()
}

/// The path of a group version itself.
pub(super) fn group_version(resource: &Served, dialect: Dialect) -> (String, Value) {
    let info = resource.info;
    let operation_id = names::operation_id(info, "get", "APIResources");
    let path = group_version_path(resource);
    Root::discovery(&path, operation_id, names::tag(info), "APIResourceList").path_and_item(dialect)
}

/// The types that the paths of a group version answer.
pub(super) fn add_group_version_types(generator: &mut SchemaGenerator) {
    generator.subschema_for::<APIResourceList>();
    generator.subschema_for::<WatchEvent<RawExtension>>();
}

/// The types that the other paths answer.
pub(super) fn add_types(generator: &mut SchemaGenerator) {
    generator.subschema_for::<APIVersions>();
    generator.subschema_for::<APIGroup>();
    generator.subschema_for::<APIGroupList>();
    generator.subschema_for::<Info>();
}
