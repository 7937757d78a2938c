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

/// Resource usage metrics of a node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "io.k8s.metrics.pkg.apis.metrics.v1beta1.NodeMetrics")]
#[serde(rename_all = "camelCase")]
pub struct NodeMetrics {
    /// The kind of this object.
    #[serde(default)]
    pub kind: String,
    /// The version of its schema.
    #[serde(default)]
    pub api_version: String,
    /// Standard object's metadata, with the labels of the node.
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// The end of the window in which the usage was measured.
    pub timestamp: Time,
    /// The length of that window.
    pub window: String,
    /// The memory usage is the memory working set.
    pub usage: Usage,
}

/// Resource usage metrics of a pod.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "io.k8s.metrics.pkg.apis.metrics.v1beta1.PodMetrics")]
#[serde(rename_all = "camelCase")]
pub struct PodMetrics {
    /// The kind of this object.
    #[serde(default)]
    pub kind: String,
    /// The version of its schema.
    #[serde(default)]
    pub api_version: String,
    /// Standard object's metadata, with the labels of the pod.
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// The end of the window in which the usage was measured.
    pub timestamp: Time,
    /// The length of that window.
    pub window: String,
    /// Metrics for all containers that ran within it.
    pub containers: Vec<ContainerMetrics>,
}

/// Resource usage metrics of a container.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "io.k8s.metrics.pkg.apis.metrics.v1beta1.ContainerMetrics")]
pub struct ContainerMetrics {
    /// Container name corresponding to the one from pod.spec.containers.
    pub name: String,
    /// The memory usage is the memory working set.
    pub usage: Usage,
}

macro_rules! resource {
    ($object:ident, $plural:literal, $scope:ident) => {
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
    };
}

resource!(NodeMetrics, "nodes", ClusterResourceScope);
resource!(PodMetrics, "pods", NamespaceResourceScope);

/// When something was measured, and over what time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Window {
    pub end: Timestamp,
    pub length: SignedDuration,
}

impl NodeMetrics {
    pub fn new(metadata: ObjectMeta, window: Window, usage: Usage) -> Self {
        Self {
            kind: Self::KIND.into(),
            api_version: Self::API_VERSION.into(),
            metadata,
            timestamp: Time(window.end),
            window: duration::go(window.length),
            usage,
        }
    }
}

impl PodMetrics {
    pub fn new(metadata: ObjectMeta, window: Window, containers: Vec<ContainerMetrics>) -> Self {
        Self {
            kind: Self::KIND.into(),
            api_version: Self::API_VERSION.into(),
            metadata,
            timestamp: Time(window.end),
            window: duration::go(window.length),
            containers,
        }
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

fn row<'a>(
    metadata: &ObjectMeta,
    usages: impl Iterator<Item = &'a Usage> + Clone,
    window: &str,
) -> Vec<Value> {
    let sum = |resource: &str| {
        let amounts = usages.clone().filter_map(|usage| usage.get(resource));
        let amounts = amounts.filter_map(|amount| quantity::Quantity::try_from(amount).ok());
        amounts.sum::<quantity::Quantity>().to_string().into()
    };
    vec![text::name(metadata), sum("cpu"), sum("memory"), window.into()]
}

pub struct NodeUsages;
pub struct PodUsages;

static NODES: ResourceInfo = ResourceInfo {
    group: GROUP,
    version: VERSION,
    namespaced: false,
    verbs: &["get", "list"],
    ..text::core_resource("NodeMetrics", "nodes", "", &[])
};

static PODS: ResourceInfo = ResourceInfo {
    group: GROUP,
    version: VERSION,
    verbs: &["get", "list"],
    ..text::core_resource("PodMetrics", "pods", "", &[])
};

impl Kind for NodeUsages {
    type Object = NodeMetrics;

    fn resource(&self) -> &'static ResourceInfo {
        &NODES
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, node: &NodeMetrics, _now: Timestamp) -> Vec<Value> {
        row(&node.metadata, std::iter::once(&node.usage), &node.window)
    }
}

impl Kind for PodUsages {
    type Object = PodMetrics;

    fn resource(&self) -> &'static ResourceInfo {
        &PODS
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, pod: &PodMetrics, _now: Timestamp) -> Vec<Value> {
        row(&pod.metadata, pod.containers.iter().map(|container| &container.usage), &pod.window)
    }
}
