//! What the data plane knows: services, their endpoints, and what follows from them for each port.
//!
//! Pure state: updates come in, look-ups go out; nothing here opens a socket. Invariant: look-ups see all of a
//! batch of updates or none of it, because a batch is applied under one lock.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use super::frontend::{Frontend, Targets};
use crate::dataplane::{Endpoint, EndpointSlice, Reset, Service, ServiceKey, ServicePort, SliceKey};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    Tcp,
    Udp,
}

impl Protocol {
    /// SCTP has no meaning on loopback addresses.
    fn parse(name: &str) -> Option<Self> {
        match name {
            "" | "TCP" => Some(Self::Tcp),
            "UDP" => Some(Self::Udp),
            _ => None,
        }
    }
}

/// Where something is listened on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Listen {
    pub address: SocketAddr,
    pub protocol: Protocol,
}

/// One change, as it came from the agent.
#[derive(Debug, Clone)]
pub(super) enum Change {
    Service(Service),
    NoService(ServiceKey),
    Slice(EndpointSlice),
    NoSlice(SliceKey),
}

#[derive(Debug, Default)]
pub(super) struct Table {
    pub(super) settings: Settings,
    services: HashMap<ServiceKey, Entry>,
    /// Which service a slice belongs to: deletions name only the slice.
    slices: HashMap<SliceKey, ServiceKey>,
    frontends: HashMap<Place, Arc<Frontend>>,
}

/// What a frontend stands at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Place {
    Service(Listen),
    NodePort(u16, Protocol),
    HostPort(HostPort),
}

/// A port of the host that leads to one pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct HostPort {
    /// None is every address of the node.
    pub ip: Option<IpAddr>,
    pub port: u16,
    pub protocol: Protocol,
}

#[derive(Debug, Clone)]
pub(super) struct Settings {
    pub cluster_domain: String,
    pub node_name: String,
    pub node_addresses: Vec<IpAddr>,
}

#[derive(Debug, Default)]
pub(super) struct Entry {
    pub service: Option<Service>,
    slices: HashMap<SliceKey, EndpointSlice>,
    places: Vec<Place>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            cluster_domain: "cluster.local".to_owned(),
            node_name: String::new(),
            node_addresses: Vec::new(),
        }
    }
}

impl Settings {
    pub(super) fn from_reset(reset: &Reset) -> Self {
        let domain = reset.cluster_domain.trim_matches('.').to_ascii_lowercase();
        Self {
            cluster_domain: if domain.is_empty() { Self::default().cluster_domain } else { domain },
            node_name: reset.node_name.clone(),
            node_addresses: reset.node_addresses.iter().filter_map(|address| address.parse().ok()).collect(),
        }
    }
}

impl Table {
    /// Takes a whole new state: what is not in `changes` is dropped.
    pub(super) fn replace(&mut self, settings: Settings, changes: Vec<Change>) {
        let (mut services, mut slices) = (HashSet::new(), HashSet::new());
        for change in &changes {
            match change {
                Change::Service(service) => _ = services.insert(key_of(service)),
                Change::Slice(slice) => _ = slices.insert(slice_key(slice)),
                Change::NoService(_) | Change::NoSlice(_) => {}
            }
        }
        let gone_slices =
            self.slices.keys().filter(|key| !slices.contains(key)).cloned().map(Change::NoSlice);
        let gone_services = self
            .services
            .iter()
            .filter(|(key, entry)| entry.service.is_some() && !services.contains(key))
            .map(|(key, _)| Change::NoService(key.clone()));
        let mut all: Vec<_> = gone_slices.chain(gone_services).collect();
        all.extend(changes);
        self.settings = settings;
        self.apply(all);
        // Local traffic policies depend on the node's name.
        let keys: BTreeSet<_> = self.services.keys().map(sort_key).collect();
        self.derive_all(keys);
    }

    pub(super) fn apply(&mut self, changes: Vec<Change>) {
        let mut dirty = BTreeSet::new();
        for change in changes {
            let key = match change {
                Change::Service(service) => {
                    let key = key_of(&service);
                    self.services.entry(key.clone()).or_default().service = Some(service);
                    key
                }
                Change::NoService(key) => {
                    self.services.entry(key.clone()).or_default().service = None;
                    key
                }
                Change::Slice(slice) => {
                    let (slice_key, key) = (slice_key(&slice), slice.service.clone().unwrap_or_default());
                    self.detach_slice(&slice_key, &mut dirty);
                    self.slices.insert(slice_key.clone(), key.clone());
                    self.services.entry(key.clone()).or_default().slices.insert(slice_key, slice);
                    key
                }
                Change::NoSlice(slice_key) => {
                    self.detach_slice(&slice_key, &mut dirty);
                    continue;
                }
            };
            dirty.insert(sort_key(&key));
        }
        self.derive_all(dirty);
    }

    pub(super) fn service(&self, namespace: &str, name: &str) -> Option<&Entry> {
        let key = ServiceKey { namespace: namespace.to_owned(), name: name.to_owned() };
        self.services.get(&key).filter(|entry| entry.service.is_some())
    }

    pub(super) fn frontend(&self, listen: Listen) -> Option<Arc<Frontend>> {
        if let Some(frontend) = self.frontends.get(&Place::Service(listen)) {
            return Some(Arc::clone(frontend));
        }
        let ip = listen.address.ip();
        let is_node = self.settings.node_addresses.contains(&ip) || ip == IpAddr::from([127, 0, 0, 1]);
        let (port, protocol) = (listen.address.port(), listen.protocol);
        let host = Place::HostPort(HostPort { ip: Some(ip), port, protocol });
        let of_node =
            [Place::HostPort(HostPort { ip: None, port, protocol }), Place::NodePort(port, protocol)];
        let mut places = std::iter::once(host).chain(of_node.into_iter().filter(|_| is_node));
        places.find_map(|place| self.frontends.get(&place).cloned())
    }

    pub(super) fn set_host_port(&mut self, host: HostPort, target: SocketAddr) {
        let frontend = Frontend::default();
        frontend.set(Targets { endpoints: [target].into(), affinity: None });
        self.frontends.insert(Place::HostPort(host), Arc::new(frontend));
    }

    /// Only if it still leads there.
    pub(super) fn remove_host_port(&mut self, host: HostPort, target: SocketAddr) {
        let place = Place::HostPort(host);
        if self.frontends.get(&place).is_some_and(|frontend| frontend.has_endpoint(target)) {
            self.frontends.remove(&place);
        }
    }

    pub(super) fn has_host_port(&self, host: HostPort) -> bool {
        self.frontends.contains_key(&Place::HostPort(host))
    }

    pub(super) fn host_ports(&self) -> impl Iterator<Item = HostPort> {
        self.served().filter_map(|place| match place {
            Place::HostPort(host) => Some(host),
            Place::Service(_) | Place::NodePort(..) => None,
        })
    }

    /// Where a listener is wanted on a service address: what has no endpoint refuses by not listening.
    pub(super) fn service_listens(&self) -> impl Iterator<Item = Listen> {
        self.served().filter_map(|place| match place {
            Place::Service(listen) => Some(listen),
            Place::NodePort(..) | Place::HostPort(_) => None,
        })
    }

    pub(super) fn node_ports(&self) -> impl Iterator<Item = (u16, Protocol)> {
        self.served().filter_map(|place| match place {
            Place::NodePort(port, protocol) => Some((port, protocol)),
            Place::Service(_) | Place::HostPort(_) => None,
        })
    }

    fn served(&self) -> impl Iterator<Item = Place> {
        self.frontends.iter().filter(|(_, frontend)| frontend.has_endpoints()).map(|(place, _)| *place)
    }

    fn detach_slice(&mut self, slice: &SliceKey, dirty: &mut BTreeSet<(String, String)>) {
        let Some(key) = self.slices.remove(slice) else { return };
        if let Some(entry) = self.services.get_mut(&key) {
            entry.slices.remove(slice);
        }
        dirty.insert(sort_key(&key));
    }

    fn derive_all(&mut self, keys: BTreeSet<(String, String)>) {
        // First everything goes, then everything comes, so that an address may move from one service to another.
        let mut kept = HashMap::new();
        for (namespace, name) in &keys {
            let key = ServiceKey { namespace: namespace.clone(), name: name.clone() };
            let Some(entry) = self.services.get_mut(&key) else { continue };
            for place in entry.places.drain(..) {
                kept.extend(self.frontends.remove(&place).map(|frontend| ((key.clone(), place), frontend)));
            }
            if entry.service.is_none() && entry.slices.is_empty() {
                self.services.remove(&key);
            }
        }
        for (namespace, name) in keys {
            let key = ServiceKey { namespace, name };
            let Some(entry) = self.services.get_mut(&key) else { continue };
            for (place, targets) in entry.derive(&self.settings.node_name) {
                // Round robin and affinity go on where they were.
                let frontend = kept.remove(&(key.clone(), place)).unwrap_or_default();
                frontend.set(targets);
                entry.places.push(place);
                self.frontends.insert(place, frontend);
            }
        }
    }
}

impl Entry {
    pub(super) fn endpoints(&self) -> impl Iterator<Item = &Endpoint> {
        self.slices.values().flat_map(|slice| &slice.endpoints)
    }

    fn derive(&self, node_name: &str) -> Vec<(Place, Targets)> {
        let mut derived = Vec::new();
        let Some(service) = &self.service else { return derived };
        if service.r#type == "ExternalName" {
            return derived;
        }
        let affinity = (service.session_affinity == "ClientIP").then(|| {
            let seconds = u64::try_from(service.session_affinity_seconds).ok().filter(|seconds| *seconds > 0);
            Duration::from_secs(seconds.unwrap_or(10_800))
        });
        for port in &service.ports {
            let Some(protocol) = Protocol::parse(&port.protocol) else { continue };
            let targets = |local: bool| Targets {
                endpoints: self.usable(port, protocol, local.then_some(node_name)).into(),
                affinity,
            };
            let internal = targets(service.internal_traffic_policy == "Local");
            for address in service.cluster_ips.iter().filter_map(|address| address.parse::<IpAddr>().ok()) {
                let address = SocketAddr::new(address, port.port as u16);
                derived.push((Place::Service(Listen { address, protocol }), internal.clone()));
            }
            if port.node_port != 0 {
                let external = targets(service.external_traffic_policy == "Local");
                derived.push((Place::NodePort(port.node_port as u16, protocol), external));
            }
        }
        derived
    }

    /// The endpoints that new connections may go to: the ready ones, or, when there is none, those that are ending
    /// but still serve, so that a rollout of a single pod drops nothing.
    fn usable(&self, port: &ServicePort, protocol: Protocol, only_node: Option<&str>) -> Vec<SocketAddr> {
        let of = |is_usable: fn(&Endpoint) -> bool| {
            let mut found = BTreeSet::new();
            for slice in self.slices.values() {
                let number = slice.ports.iter().find(|other| {
                    other.name == port.name && Protocol::parse(&other.protocol) == Some(protocol)
                });
                let Some(number) = number else { continue };
                let here = |endpoint: &&Endpoint| only_node.is_none_or(|node| endpoint.node_name == node);
                let endpoints = slice.endpoints.iter().filter(here).filter(|endpoint| is_usable(endpoint));
                // Only the first address of an endpoint counts, as for kube-proxy.
                let addresses =
                    endpoints.filter_map(|endpoint| endpoint.addresses.first()?.parse::<IpAddr>().ok());
                found.extend(addresses.map(|address| SocketAddr::new(address, number.port as u16)));
            }
            Vec::from_iter(found)
        };
        let ready = of(|endpoint| endpoint.ready);
        if ready.is_empty() { of(|endpoint| endpoint.serving && endpoint.terminating) } else { ready }
    }
}

fn key_of(service: &Service) -> ServiceKey {
    service.key.clone().unwrap_or_default()
}

fn slice_key(slice: &EndpointSlice) -> SliceKey {
    slice.key.clone().unwrap_or_default()
}

fn sort_key(key: &ServiceKey) -> (String, String) {
    (key.namespace.clone(), key.name.clone())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::dataplane::EndpointPort;

    pub(in crate::network) fn service(name: &str, address: &str, edit: impl FnOnce(&mut Service)) -> Change {
        let mut service = Service {
            key: Some(ServiceKey { namespace: "shop".to_owned(), name: name.to_owned() }),
            r#type: "ClusterIP".to_owned(),
            cluster_ips: vec![address.to_owned()],
            ports: vec![ServicePort { name: "http".to_owned(), port: 80, ..ServicePort::default() }],
            ..Service::default()
        };
        service.cluster_ips.retain(|address| !address.is_empty());
        edit(&mut service);
        Change::Service(service)
    }

    pub(in crate::network) fn endpoint(address: &str, state: &str) -> Endpoint {
        Endpoint {
            addresses: vec![address.to_owned()],
            ready: state == "ready",
            serving: state != "down",
            terminating: state == "ending",
            node_name: if address.ends_with(".1") { "amber" } else { "birch" }.to_owned(),
            ..Endpoint::default()
        }
    }

    pub(in crate::network) fn slice(
        service: &str,
        name: &str,
        port: u32,
        endpoints: Vec<Endpoint>,
    ) -> Change {
        Change::Slice(EndpointSlice {
            key: Some(SliceKey { namespace: "shop".to_owned(), name: name.to_owned() }),
            service: Some(ServiceKey { namespace: "shop".to_owned(), name: service.to_owned() }),
            ports: vec![EndpointPort { name: "http".to_owned(), protocol: "TCP".to_owned(), port }],
            endpoints,
        })
    }

    fn table(changes: Vec<Change>) -> Table {
        let mut table = Table::default();
        let reset = Reset {
            cluster_domain: String::new(),
            node_name: "amber".to_owned(),
            node_addresses: vec!["127.64.255.1".to_owned()],
        };
        table.replace(Settings::from_reset(&reset), changes);
        table
    }

    fn reached(table: &Table, address: &str) -> Vec<String> {
        let listen = Listen { address: address.parse().unwrap(), protocol: Protocol::Tcp };
        let Some(frontend) = table.frontend(listen) else { return Vec::new() };
        let client = IpAddr::from([127, 0, 0, 1]);
        let mut failed = Vec::new();
        while let Some(endpoint) = frontend.choose(client, &failed) {
            failed.push(endpoint);
        }
        failed.sort();
        failed.iter().map(ToString::to_string).collect()
    }

    const BACK: &str = "127.64.0.9:80";

    #[test]
    fn ready_endpoints_are_used_and_ending_ones_only_when_none_is_ready() {
        let change = service("back", "127.64.0.9", |_| {});
        let mut table = table(vec![
            change,
            slice("back", "a", 8080, vec![endpoint("127.65.0.1", "ready"), endpoint("127.65.0.2", "ending")]),
            slice("back", "b", 9090, vec![endpoint("127.65.0.3", "ready"), endpoint("127.65.0.4", "down")]),
        ]);
        assert_eq!(reached(&table, BACK), ["127.65.0.1:8080", "127.65.0.3:9090"]);
        table.apply(vec![slice("back", "b", 9090, vec![])]);
        table.apply(vec![slice("back", "a", 8080, vec![endpoint("127.65.0.2", "ending")])]);
        assert_eq!(reached(&table, BACK), ["127.65.0.2:8080"]);
        table.apply(vec![Change::NoSlice(SliceKey { namespace: "shop".to_owned(), name: "a".to_owned() })]);
        assert!(reached(&table, BACK).is_empty());
        assert_eq!(table.service_listens().count(), 0);
    }

    #[test]
    fn local_policies_keep_to_this_node() {
        let change = service("back", "127.64.0.9", |service| {
            service.internal_traffic_policy = "Local".to_owned();
            service.external_traffic_policy = "Cluster".to_owned();
            service.ports[0].node_port = 30_080;
        });
        let endpoints = vec![endpoint("127.65.0.1", "ready"), endpoint("127.65.0.2", "ready")];
        let table = table(vec![change, slice("back", "a", 8080, endpoints)]);
        assert_eq!(reached(&table, BACK), ["127.65.0.1:8080"]);
        assert_eq!(reached(&table, "127.64.255.1:30080").len(), 2);
        assert_eq!(reached(&table, "127.0.0.1:30080").len(), 2);
        assert!(reached(&table, "10.0.0.1:30080").is_empty());
    }

    #[test]
    fn a_new_state_drops_what_it_does_not_repeat_and_keeps_the_turn() {
        let endpoints = || vec![endpoint("127.65.0.1", "ready"), endpoint("127.65.0.2", "ready")];
        let all = vec![
            service("back", "127.64.0.9", |_| {}),
            slice("back", "a", 8080, endpoints()),
            service("gone", "127.64.0.10", |_| {}),
            slice("gone", "b", 8080, endpoints()),
        ];
        let mut table = table(all.clone());
        let listen = Listen { address: BACK.parse().unwrap(), protocol: Protocol::Tcp };
        let before = table.frontend(listen).unwrap();
        table.replace(table.settings.clone(), all[..2].to_vec());
        assert!(Arc::ptr_eq(&before, &table.frontend(listen).unwrap()));
        assert!(reached(&table, "127.64.0.10:80").is_empty());
        assert!(table.service("shop", "gone").is_none());
        assert_eq!(table.service_listens().count(), 1);
    }

    #[test]
    fn an_address_may_move_to_another_service_in_one_batch() {
        let mut table = table(vec![
            service("old", "127.64.0.9", |_| {}),
            slice("old", "a", 8080, vec![endpoint("127.65.0.1", "ready")]),
        ]);
        table.apply(vec![
            service("new", "127.64.0.9", |_| {}),
            slice("new", "b", 8080, vec![endpoint("127.65.0.2", "ready")]),
            Change::NoService(ServiceKey { namespace: "shop".to_owned(), name: "old".to_owned() }),
        ]);
        assert_eq!(reached(&table, BACK), ["127.65.0.2:8080"]);
    }
}
