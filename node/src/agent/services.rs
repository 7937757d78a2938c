//! Services as the agent last saw them: for environment variables of new containers.

use std::{
    collections::BTreeMap,
    sync::{Arc, RwLock},
};

use k8s_openapi::api::core::v1::Service;
use tokio::sync::watch;

/// All Services of the cluster; the data plane feed keeps it up to date.
pub struct Services {
    /// Held for a few lines.
    by_key: RwLock<BTreeMap<(String, String), Arc<Service>>>,
    synced: watch::Sender<bool>,
}

impl Default for Services {
    fn default() -> Self {
        Self { by_key: RwLock::default(), synced: watch::Sender::new(false) }
    }
}

pub fn key_of(service: &Service) -> (String, String) {
    let metadata = &service.metadata;
    (metadata.namespace.clone().unwrap_or_default(), metadata.name.clone().unwrap_or_default())
}

impl Services {
    pub fn upsert(&self, service: Arc<Service>) {
        self.by_key.write().expect("no one panics holding it").insert(key_of(&service), service);
    }

    pub fn remove(&self, key: &(String, String)) {
        self.by_key.write().expect("no one panics holding it").remove(key);
    }

    /// The first list is complete: from now on a missing Service is one that doesn't exist.
    pub fn set_synced(&self) {
        self.synced.send_replace(true);
    }

    pub async fn wait_synced(&self) {
        let _ = self.synced.subscribe().wait_for(|synced| *synced).await; // The sender lives as long as `self`.
    }

    /// The variables that Kubernetes gives every container: the API's address, and the namespace's Services.
    pub fn environment(&self, namespace: &str, with_links: bool) -> BTreeMap<String, String> {
        let by_key = self.by_key.read().expect("no one panics holding it");
        let mut chosen = BTreeMap::new();
        if let Some(api) = by_key.get(&("default".into(), "kubernetes".into())) {
            chosen.insert("kubernetes", api);
        }
        if with_links {
            let range = by_key.range((namespace.to_owned(), String::new())..);
            let own = range.take_while(|((service_namespace, _), _)| service_namespace == namespace);
            chosen.extend(own.map(|((_, name), service)| (name.as_str(), service)));
        }
        let mut variables = BTreeMap::new();
        for (name, service) in chosen {
            add_variables(name, service, &mut variables);
        }
        variables
    }
}

fn add_variables(name: &str, service: &Service, variables: &mut BTreeMap<String, String>) {
    let Some(spec) = &service.spec else { return };
    let address = spec.cluster_ip.as_deref().filter(|ip| !ip.is_empty() && *ip != "None");
    let (Some(address), Some(ports)) = (address, &spec.ports) else { return };
    let Some(first) = ports.first() else { return };
    let prefix = variable_name(name);
    variables.insert(format!("{prefix}_SERVICE_HOST"), address.into());
    variables.insert(format!("{prefix}_SERVICE_PORT"), first.port.to_string());
    for (index, port) in ports.iter().enumerate() {
        if let Some(port_name) = port.name.as_deref().filter(|name| !name.is_empty()) {
            variables
                .insert(format!("{prefix}_SERVICE_PORT_{}", variable_name(port_name)), port.port.to_string());
        }
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        let scheme = protocol.to_lowercase();
        let url = format!("{scheme}://{}", join_host_port(address, port.port));
        if index == 0 {
            variables.insert(format!("{prefix}_PORT"), url.clone());
        }
        let port_prefix = format!("{prefix}_PORT_{}_{}", port.port, protocol.to_uppercase());
        variables.insert(format!("{port_prefix}_PROTO"), scheme);
        variables.insert(format!("{port_prefix}_PORT"), port.port.to_string());
        variables.insert(format!("{port_prefix}_ADDR"), address.into());
        variables.insert(port_prefix, url);
    }
}

fn variable_name(name: &str) -> String {
    name.to_uppercase().replace('-', "_")
}

/// `host:port`, with brackets around an IPv6 address.
pub fn join_host_port(host: &str, port: i32) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn services() -> Services {
        let services = Services::default();
        let service = |namespace: &str, name: &str, ip: &str| {
            let value = json!({
                "metadata": { "namespace": namespace, "name": name },
                "spec": { "clusterIP": ip, "ports": [{ "name": "http", "port": 80 }, { "port": 53, "protocol": "UDP" }] }
            });
            Arc::new(serde_json::from_value(value).unwrap())
        };
        services.upsert(service("default", "kubernetes", "127.4.0.1"));
        services.upsert(service("shop", "my-back", "127.4.0.9"));
        services.upsert(service("shop", "headless", "None"));
        services.upsert(service("other", "hidden", "127.4.0.8"));
        services
    }

    #[test]
    fn a_container_learns_of_its_namespace_s_services() {
        let variables = services().environment("shop", true);
        for (name, value) in [
            ("KUBERNETES_SERVICE_HOST", "127.4.0.1"),
            ("MY_BACK_SERVICE_HOST", "127.4.0.9"),
            ("MY_BACK_SERVICE_PORT", "80"),
            ("MY_BACK_SERVICE_PORT_HTTP", "80"),
            ("MY_BACK_PORT", "tcp://127.4.0.9:80"),
            ("MY_BACK_PORT_53_UDP", "udp://127.4.0.9:53"),
            ("MY_BACK_PORT_53_UDP_PROTO", "udp"),
            ("MY_BACK_PORT_80_TCP_ADDR", "127.4.0.9"),
        ] {
            assert_eq!(variables.get(name).map(String::as_str), Some(value), "{name}");
        }
        assert!(!variables.keys().any(|name| name.starts_with("HEADLESS") || name.starts_with("HIDDEN")));
    }

    #[test]
    fn without_service_links_only_the_api_is_named() {
        let variables = services().environment("shop", false);
        assert!(variables.keys().all(|name| name.starts_with("KUBERNETES_")));
        assert_eq!(variables["KUBERNETES_SERVICE_PORT"], "80");
    }
}
