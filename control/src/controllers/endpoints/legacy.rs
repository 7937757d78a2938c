//! Endpoints: one object per Service with all addresses, for clients that know no slices.

use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::{
    api::core::v1::{EndpointAddress, EndpointPort, EndpointSubset, Endpoints, Service},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

use super::{
    backend::{Backend, BackendPort, backends, concerned_services, is_headless, selects_pods},
    slices::HEADLESS,
};
use crate::{
    controllers::framework::{Cache, Change, ClusterView, Controller, Plan, Write, key_of},
    store::Key,
};

const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
const MANAGER: &str = "endpoint-controller";
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
const MAX_ADDRESSES: usize = 1000;

/// Keeps the Endpoints of each Service; a key is a Service's, there or gone.
pub struct LegacyEndpoints;

impl Controller for LegacyEndpoints {
    fn name(&self) -> &'static str {
        "endpoint-controller"
    }

    fn concerns(&self, change: &Change<'_>, cache: &Cache, look: &mut dyn FnMut(Key)) {
        concerned_services(change, cache, look);
        if change.is::<Service>() || change.is::<Endpoints>() {
            look(key_of::<Service>(change.entry.key.namespace(), change.entry.key.name()));
        }
    }

    fn reconcile(&self, key: &Key, view: &ClusterView<'_>) -> Plan {
        let mut plan = Plan::nothing();
        let endpoints = view.cache.get::<Endpoints>(key.namespace(), key.name());
        match (view.cache.get::<Service>(key.namespace(), key.name()), endpoints) {
            // Endpoints have no owner reference, as users may have written them before the Service was there.
            (None, Some(endpoints)) => {
                let labels = endpoints.metadata.labels.as_ref();
                if labels.and_then(|labels| labels.get(MANAGED_BY)).is_some_and(|manager| manager == MANAGER)
                {
                    plan.then([Write::delete(&*endpoints)]);
                }
            }
            (None, None) => (),
            (Some(service), _) if !selects_pods(&service) => (),
            (Some(service), None) => plan.then([Write::create(wanted(&service, view.cache, None))]),
            (Some(service), Some(endpoints)) => {
                let new = wanted(&service, view.cache, Some(&*endpoints));
                if new != *endpoints {
                    plan.then([Write::update(new)]);
                }
            }
        }
        plan
    }

    fn pace(&self) -> Duration {
        // Rewrites every address each time, and nobody who is in a hurry reads it.
        Duration::from_millis(250)
    }
}

fn wanted(service: &Service, cache: &Cache, existing: Option<&Endpoints>) -> Endpoints {
    let mut endpoints = existing.cloned().unwrap_or_else(|| Endpoints {
        metadata: ObjectMeta {
            name: service.metadata.name.clone(),
            namespace: service.metadata.namespace.clone(),
            ..Default::default()
        },
        subsets: None,
    });
    let Some(spec) = &service.spec else { return endpoints };
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.insert(MANAGED_BY.into(), MANAGER.into());
    if is_headless(spec) {
        labels.insert(HEADLESS.into(), String::new());
    } else {
        labels.remove(HEADLESS);
    }
    endpoints.metadata.labels = Some(labels);
    let is_ipv6 = spec.ip_families.iter().flatten().next().is_some_and(|family| family == "IPv6");
    let mut backends = backends(service, spec, is_ipv6, cache);
    // These clients know no terminating endpoints, only ready and not ready ones.
    backends.retain(|backend| !backend.is_terminating || spec.publish_not_ready_addresses == Some(true));
    let annotations = endpoints.metadata.annotations.get_or_insert_default();
    if backends.len() > MAX_ADDRESSES {
        backends.sort_by_key(|backend| !backend.is_ready);
        backends.truncate(MAX_ADDRESSES);
        annotations.insert(OVER_CAPACITY.into(), "truncated".into());
    } else {
        annotations.remove(OVER_CAPACITY);
    }
    endpoints.metadata.annotations.take_if(|annotations| annotations.is_empty());
    let subsets = subsets(backends, is_headless(spec));
    endpoints.subsets = (!subsets.is_empty()).then_some(subsets);
    endpoints
}

fn subsets(backends: Vec<Backend>, is_headless: bool) -> Vec<EndpointSubset> {
    let mut groups = BTreeMap::<Vec<BackendPort>, (Vec<EndpointAddress>, Vec<EndpointAddress>)>::new();
    for mut backend in backends {
        let mut ports = std::mem::take(&mut backend.ports);
        ports.sort();
        if ports.is_empty() && !is_headless {
            continue; // None of the Service's ports exists on this pod.
        }
        let (ready, not_ready) = groups.entry(ports).or_default();
        let list = if backend.is_ready { ready } else { not_ready };
        list.push(EndpointAddress {
            ip: backend.address,
            hostname: backend.hostname,
            node_name: backend.node_name,
            target_ref: Some(backend.target),
        });
    }
    let subset = |(ports, (ready, not_ready)): (Vec<BackendPort>, (Vec<_>, Vec<_>))| {
        let sorted = |mut list: Vec<EndpointAddress>| {
            list.sort_by(|left, right| left.ip.cmp(&right.ip));
            (!list.is_empty()).then_some(list)
        };
        let ports = ports.into_iter().map(endpoint_port).collect::<Vec<_>>();
        EndpointSubset {
            addresses: sorted(ready),
            not_ready_addresses: sorted(not_ready),
            ports: (!ports.is_empty()).then_some(ports),
        }
    };
    groups.into_iter().map(subset).collect()
}

fn endpoint_port(port: BackendPort) -> EndpointPort {
    EndpointPort {
        name: Some(port.name).filter(|name| !name.is_empty()),
        port: port.port,
        protocol: Some(port.protocol),
        app_protocol: port.app_protocol,
    }
}
