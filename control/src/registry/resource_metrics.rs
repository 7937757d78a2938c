//! What nodes and pods use: `metrics.k8s.io/v1beta1`, as metrics-server serves it. Nothing is stored; the figures are
//! `crate::resource_metrics`', and `api::resource_metrics` answers.
//!
//! k8s-openapi has no types of this group, as Kubernetes defines it outside of its API server.

use std::collections::BTreeMap;

use k8s_openapi::{
    ClusterResourceScope, Metadata, NamespaceResourceScope, Resource,
    apimachinery::pkg::{
        api::resource::Quantity,
        apis::meta::v1::{ObjectMeta, Time},
    },
    jiff::{SignedDuration, Timestamp},
};
use naru_model::{ResourceInfo, duration, quantity};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Column, Kind, text};

const GROUP: &str = "metrics.k8s.io";
const VERSION: &str = "v1beta1";

/// Amounts by resource: `cpu` and `memory`.
pub type Usage = BTreeMap<String, Quantity>;

/// Resource usage metrics of a container.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "io.k8s.metrics.pkg.apis.metrics.v1beta1.ContainerMetrics")]
pub struct ContainerMetrics {
    /// Container name corresponding to the one from pod.spec.containers.
    pub name: String,
    /// The memory usage is the memory working set.
    pub usage: Usage,
}

/// When something was measured, and over what time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Window {
    pub end: Timestamp,
    pub length: SignedDuration,
}

/// Defines the metrics of something, which are alike but for what was used, and their kind.
macro_rules! metrics {
    (
        $(#[$doc:meta])*
        $object:ident as $schema:literal, of $kind:ident: $plural:literal, $scope:ident, namespaced $namespaced:literal;
        $(#[$field_doc:meta])*
        $field:ident: $content:ty
    ) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
        #[schemars(rename = $schema)]
        #[serde(rename_all = "camelCase")]
        pub struct $object {
            /// The kind of this object.
            #[serde(default)]
            pub kind: String,
            /// The version of its schema.
            #[serde(default)]
            pub api_version: String,
            /// Standard object's metadata, with the labels of what was measured.
            #[serde(default)]
            pub metadata: ObjectMeta,
            /// The end of the window in which the usage was measured.
            pub timestamp: Time,
            /// The length of that window.
            pub window: String,
            $(#[$field_doc])*
            pub $field: $content,
        }

        impl $object {
            pub fn new(metadata: ObjectMeta, window: Window, $field: $content) -> Self {
                Self {
                    kind: Self::KIND.into(),
                    api_version: Self::API_VERSION.into(),
                    metadata,
                    timestamp: Time(window.end),
                    window: duration::go(window.length),
                    $field,
                }
            }
        }

        impl Resource for $object {
            const API_VERSION: &'static str = "metrics.k8s.io/v1beta1";
            const GROUP: &'static str = GROUP;
            const KIND: &'static str = stringify!($object);
            const VERSION: &'static str = VERSION;
            const URL_PATH_SEGMENT: &'static str = $plural;
            type Scope = $scope;
        }

        impl Metadata for $object {
            type Ty = ObjectMeta;
            fn metadata(&self) -> &ObjectMeta {
                &self.metadata
            }
            fn metadata_mut(&mut self) -> &mut ObjectMeta {
                &mut self.metadata
            }
        }

        pub struct $kind;

        impl Kind for $kind {
            type Object = $object;

            fn resource(&self) -> &'static ResourceInfo {
                static INFO: ResourceInfo = ResourceInfo {
                    group: GROUP,
                    version: VERSION,
                    namespaced: $namespaced,
                    verbs: &["get", "list"],
                    ..text::core_resource(stringify!($object), $plural, "", &[])
                };
                &INFO
            }

            fn columns(&self) -> &'static [Column] {
                COLUMNS
            }

            fn row(&self, object: &$object, _now: Timestamp) -> Vec<Value> {
                row(&object.metadata, &object.usages(), &object.window)
            }
        }
    };
}

metrics! {
    /// Resource usage metrics of a node.
    NodeMetrics as "io.k8s.metrics.pkg.apis.metrics.v1beta1.NodeMetrics",
    of NodeUsages: "nodes", ClusterResourceScope, namespaced false;
    /// The memory usage is the memory working set.
    usage: Usage
}

metrics! {
    /// Resource usage metrics of a pod.
    PodMetrics as "io.k8s.metrics.pkg.apis.metrics.v1beta1.PodMetrics",
    of PodUsages: "pods", NamespaceResourceScope, namespaced true;
    /// Metrics for all containers that ran within it.
    containers: Vec<ContainerMetrics>
}

impl NodeMetrics {
    fn usages(&self) -> Vec<&Usage> {
        vec![&self.usage]
    }
}

impl PodMetrics {
    fn usages(&self) -> Vec<&Usage> {
        self.containers.iter().map(|container| &container.usage).collect()
    }
}

/// The columns of metrics-server's tables.
const COLUMNS: &[Column] = &[
    Column { description: "Name of the resource", ..text::NAME },
    amount("cpu"),
    amount("memory"),
    Column { format: "duration", ..text::column("Window", "string", 0, "") },
];

const fn amount(name: &'static str) -> Column {
    Column { format: "quantity", ..text::column(name, "string", 0, "") }
}

fn row(metadata: &ObjectMeta, usages: &[&Usage], window: &str) -> Vec<Value> {
    let sum = |resource: &str| {
        let amounts = usages.iter().filter_map(|usage| usage.get(resource));
        let amounts = amounts.filter_map(|amount| quantity::Quantity::try_from(amount).ok());
        amounts.sum::<quantity::Quantity>().to_string().into()
    };
    vec![text::name(metadata), sum("cpu"), sum("memory"), window.into()]
}
