//! One pod's sandbox: an address, names, and containers that share them.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use k8s_cri::v1::{
    DnsConfig, NamespaceMode, PodSandboxConfig, PodSandboxMetadata, PodSandboxState, Protocol,
};

use super::{outgoing::Outgoing, pod_network::PodNet};
use crate::network::{DnsView, HostPort, Network};

pub(super) struct Sandbox {
    pub id: String,
    pub config: PodSandboxConfig,
    pub runtime_handler: String,
    pub created_at: i64,
    pub network: Arc<PodNet>,
    /// The pod's own address; none with `hostNetwork`.
    pub own_address: Option<Ipv4Addr>,
    is_ready: AtomicBool,
}

impl Sandbox {
    pub(super) fn new(
        id: String,
        config: PodSandboxConfig,
        runtime_handler: String,
        address: IpAddr,
        network: &Network,
        outgoing: &Arc<Outgoing>,
    ) -> Self {
        let own_address = match address {
            IpAddr::V4(address) if !is_host_network(&config) => Some(address),
            _ => None,
        };
        let view = dns_view(&config, address, &network.cluster_domain());
        let network = PodNet { network: network.clone(), address, view, outgoing: Arc::clone(outgoing) };
        Self {
            id,
            config,
            runtime_handler,
            created_at: super::container::now(),
            network: Arc::new(network),
            own_address,
            is_ready: AtomicBool::new(true),
        }
    }

    pub(super) fn metadata(&self) -> PodSandboxMetadata {
        self.config.metadata.clone().unwrap_or_default()
    }

    pub(super) fn is_ready(&self) -> bool {
        self.is_ready.load(Ordering::Acquire)
    }

    /// Whether it was ready until now.
    pub(super) fn stop(&self) -> bool {
        self.is_ready.swap(false, Ordering::AcqRel)
    }

    /// Ports of the host that lead to this pod. With `hostNetwork` its ports are the host's already.
    ///
    /// # Errors
    /// Which port is taken.
    pub(super) fn open_host_ports(&self) -> Result<(), String> {
        self.host_ports().try_for_each(|(place, target)| self.network.network.open_host_port(place, target))
    }

    pub(super) fn close_host_ports(&self) {
        for (place, target) in self.host_ports() {
            self.network.network.close_host_port(place, target);
        }
    }

    fn host_ports(&self) -> impl Iterator<Item = (HostPort, SocketAddr)> {
        let address = self.own_address;
        self.config.port_mappings.iter().filter_map(move |mapping| {
            let protocol = match mapping.protocol() {
                Protocol::Tcp => crate::network::Protocol::Tcp,
                Protocol::Udp => crate::network::Protocol::Udp,
                Protocol::Sctp => return None,
            };
            let port = u16::try_from(mapping.host_port).ok().filter(|port| *port != 0)?;
            // Any address of the host is what no or an unspecified address means.
            let ip = mapping.host_ip.parse::<IpAddr>().ok().filter(|ip| !ip.is_unspecified());
            let target = SocketAddr::new(address?.into(), u16::try_from(mapping.container_port).ok()?);
            Some((HostPort { ip, port, protocol }, target))
        })
    }

    pub(super) fn state(&self) -> PodSandboxState {
        if self.is_ready() { PodSandboxState::SandboxReady } else { PodSandboxState::SandboxNotready }
    }
}

pub(super) fn is_host_network(config: &PodSandboxConfig) -> bool {
    let options =
        config.linux.as_ref().and_then(|linux| linux.security_context.as_ref()?.namespace_options.as_ref());
    options.is_some_and(|options| options.network() == NamespaceMode::Node)
}

fn dns_view(config: &PodSandboxConfig, address: IpAddr, cluster_domain: &str) -> DnsView {
    let namespace = config.metadata.as_ref().map(|metadata| metadata.namespace.as_str()).unwrap_or_default();
    let mut view = match &config.dns_config {
        Some(dns) => DnsView { searches: dns.searches.clone(), ndots: ndots(dns), ..DnsView::default() },
        None => DnsView::cluster_first(namespace, cluster_domain),
    };
    view.address = Some(address);
    view.hostname = config.hostname.to_ascii_lowercase();
    view
}

/// As the resolver library reads the option: 1 by default, 15 at most.
fn ndots(dns: &DnsConfig) -> usize {
    let mut values =
        dns.options.iter().filter_map(|option| option.strip_prefix("ndots:")?.parse::<usize>().ok());
    values.next_back().unwrap_or(1).min(15)
}
