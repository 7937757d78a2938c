//! Gives each node a range of pod addresses of its own.
//!
//! **Invariant:** no two nodes' ranges overlap. There is one key for all nodes, so all assignments are made one
//! after the other, each on a cache that shows the one before. IPv4 only.

use std::{collections::BTreeSet, net::Ipv4Addr};

use k8s_openapi::api::core::v1::Node;
use naru_model::Object;
use serde_json::json;

use crate::{
    controllers::{
        common::{is_deleting, reference},
        framework::{Action, Cache, Change, ClusterView, Controller, Note, Plan, Report, Write, key_of},
    },
    store::Key,
};

/// Assigns `spec.podCIDR`.
pub struct NodeIpam {
    /// The ranges to cut from, as `address/prefix`.
    pub pool: Vec<String>,
    /// The prefix length of one node's range.
    pub node_prefix: u8,
}

/// Addresses from `first` to `last`, both included.
#[derive(Debug, Clone, Copy)]
struct Range {
    first: u32,
    last: u32,
}

impl Controller for NodeIpam {
    fn name(&self) -> &'static str {
        "node-ipam-controller"
    }

    fn concerns(&self, change: &Change<'_>, _cache: &Cache, look: &mut dyn FnMut(Key)) {
        // A node that goes may free what another waits for.
        if change.is::<Node>()
            && (change.is_deleted || change.previous.is_none() || change.entry_lacks_range())
        {
            look(Key::new("nodes", "", ""));
        }
    }

    fn reconcile(&self, _all: &Key, view: &ClusterView<'_>) -> Plan {
        let nodes = view.cache.list::<Node>(None).collect::<Vec<_>>();
        let waiting = nodes.iter().filter(|node| pod_cidrs(node).next().is_none() && !is_deleting(&***node));
        let mut waiting = waiting.peekable();
        let mut plan = Plan::nothing();
        if waiting.peek().is_none() {
            return plan;
        }
        let taken = nodes.iter().flat_map(|node| pod_cidrs(node)).filter_map(parse).collect::<Vec<_>>();
        let mut free = self.free(&taken);
        plan.then(waiting.map(|node| match free.next() {
            Some(cidr) => assign(node, &cidr),
            None => complain(node),
        }));
        plan
    }
}

impl Change<'_> {
    fn entry_lacks_range(&self) -> bool {
        let node = crate::controllers::framework::decoded::<Node>(self.entry);
        node.is_some_and(|node| pod_cidrs(&node).next().is_none())
    }
}

impl NodeIpam {
    /// The ranges that overlap nothing in `taken`, lowest first.
    fn free(&self, taken: &[Range]) -> impl Iterator<Item = String> {
        let size = 1u64 << (32 - u32::from(self.node_prefix.clamp(1, 32)));
        let pools = self.pool.iter().filter_map(|cidr| parse(cidr)).collect::<Vec<_>>();
        // Every aligned range that something taken touches, by its number.
        let touched = |range: &Range| u64::from(range.first) / size..=u64::from(range.last) / size;
        let touched = taken.iter().flat_map(touched).collect::<BTreeSet<_>>();
        let prefix = self.node_prefix;
        let numbers = pools.into_iter().flat_map(move |pool| {
            let (first, last) = (u64::from(pool.first), u64::from(pool.last));
            (first.div_ceil(size)..=last / size).filter(move |number| (number + 1) * size - 1 <= last)
        });
        numbers
            .filter(move |number| !touched.contains(number))
            .map(move |number| format!("{}/{prefix}", Ipv4Addr::from((number * size) as u32)))
    }
}

fn assign(node: &Node, cidr: &str) -> Write {
    let spec = json!({"podCIDR": cidr, "podCIDRs": [cidr]});
    let patch = json!({"metadata": {"uid": node.uid()}, "spec": spec});
    Write::merge_patch(key_of::<Node>("", node.name()), "", patch)
}

fn complain(node: &Node) -> Write {
    let message = format!("Node {} status is now: CIDRNotAvailable", node.name());
    let success = Some(Note::normal("CIDRNotAvailable", message));
    Write::from(Action::Tell).reported(Report { about: reference(node), success, failure: None })
}

fn pod_cidrs(node: &Node) -> impl Iterator<Item = &str> {
    let spec = node.spec.as_ref();
    let one = spec.and_then(|spec| spec.pod_cidr.as_deref());
    let many = spec.into_iter().flat_map(|spec| spec.pod_cidrs.iter().flatten()).map(String::as_str);
    one.into_iter().chain(many).filter(|cidr| !cidr.is_empty())
}

fn parse(cidr: &str) -> Option<Range> {
    let (address, prefix) = cidr.split_once('/')?;
    let prefix = prefix.parse::<u32>().ok().filter(|prefix| *prefix <= 32)?;
    let hosts = u32::MAX.checked_shr(prefix).unwrap_or(0);
    let first = u32::from(address.parse::<Ipv4Addr>().ok()?) & !hosts;
    Some(Range { first, last: first | hosts })
}
