//! EndpointSlices, changed as little as possible.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use k8s_openapi::{
    api::{
        core::v1::{Service, ServiceSpec},
        discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use naru_model::{Object, owner::controller_reference};

use super::backend::{Backend, BackendPort, backends, concerned_services, is_headless, selects_pods};
use crate::{
    controllers::{
        common::is_deleting,
        framework::{Cache, Change, ClusterView, Plan, Reconciler, Write, controller_of, key_of},
    },
    store::Key,
};

pub const SERVICE_NAME: &str = "kubernetes.io/service-name";
pub const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
pub const HEADLESS: &str = "service.kubernetes.io/headless";
const MANAGER: &str = "endpointslice-controller.k8s.io";
pub const MAX_ENDPOINTS: usize = 100;

/// Keeps the slices of each Service.
pub struct EndpointSlices;

impl Reconciler for EndpointSlices {
    type Object = Service;

    fn name(&self) -> &'static str {
        "endpointslice-controller"
    }

    fn concerns(&self, change: &Change<'_>, cache: &Cache, look: &mut dyn FnMut(Key)) {
        concerned_services(change, cache, look);
        if change.is::<EndpointSlice>()
            && let Some(owner) = controller_of(&change.entry.meta).filter(|owner| owner.kind == "Service")
        {
            look(key_of::<Service>(change.entry.key.namespace(), &owner.name));
        }
    }

    fn reconcile(&self, service: &Service, view: &ClusterView<'_>) -> Plan {
        let Some(spec) = service.spec.as_ref().filter(|_| selects_pods(service) && !is_deleting(service))
        else {
            return Plan::nothing();
        };
        let mut writes = Writes::default();
        let existing = view.cache.controlled_by::<EndpointSlice>(service.uid());
        let mut existing = existing.filter(|slice| is_ours(slice)).collect::<Vec<_>>();
        for address_type in address_types(spec) {
            let (of_type, others) =
                existing.into_iter().partition(|slice| slice.address_type == address_type);
            existing = others;
            reconcile_type(service, spec, address_type, of_type, view.cache, &mut writes);
        }
        writes.delete.extend(existing); // Of a family that the Service had before.
        let mut plan = Plan::nothing();
        // Endpoints may be in two slices for a moment, never in none.
        let creates = writes.create.into_iter().map(Write::create);
        plan.then(creates.chain(writes.update.into_iter().map(Write::update)));
        plan.then(writes.delete.iter().map(|slice| Write::delete(&**slice)));
        plan
    }

    fn pace(&self) -> Duration {
        Duration::from_millis(50)
    }
}

#[derive(Default)]
struct Writes {
    create: Vec<EndpointSlice>,
    update: Vec<EndpointSlice>,
    delete: Vec<Arc<EndpointSlice>>,
}

/// A slice on its way to what it shall be.
struct Draft {
    original: Arc<EndpointSlice>,
    endpoints: Vec<Endpoint>,
    is_changed: bool,
}

fn is_ours(slice: &EndpointSlice) -> bool {
    let labels = slice.metadata.labels.as_ref();
    !is_deleting(slice)
        && labels.and_then(|labels| labels.get(MANAGED_BY)).is_some_and(|manager| manager == MANAGER)
}

fn address_types(spec: &ServiceSpec) -> Vec<&'static str> {
    let families = spec.ip_families.iter().flatten();
    let types = families.map(|family| if family == "IPv6" { "IPv6" } else { "IPv4" }).collect::<Vec<_>>();
    if types.is_empty() { vec!["IPv4"] } else { types }
}

fn reconcile_type(
    service: &Service,
    spec: &ServiceSpec,
    address_type: &'static str,
    existing: Vec<Arc<EndpointSlice>>,
    cache: &Cache,
    writes: &mut Writes,
) {
    // Pods can disagree on the number of a named port, and slices have one list of ports.
    let mut groups = BTreeMap::<Vec<BackendPort>, Vec<Backend>>::new();
    for mut backend in backends(service, spec, address_type == "IPv6", cache) {
        let mut ports = std::mem::take(&mut backend.ports);
        ports.sort();
        groups.entry(ports).or_default().push(backend);
    }
    if groups.is_empty() {
        groups.insert(Vec::new(), Vec::new()); // One empty slice says that there is nothing.
    }
    let mut existing_groups = BTreeMap::<Vec<BackendPort>, Vec<Arc<EndpointSlice>>>::new();
    for slice in existing {
        existing_groups.entry(ports_of(&slice)).or_default().push(slice);
    }
    for (ports, backends) in groups {
        let existing = existing_groups.remove(&ports).unwrap_or_default();
        let template = blank(service, spec, address_type, &ports);
        reconcile_group(&template, backends, existing, writes);
    }
    writes.delete.extend(existing_groups.into_values().flatten());
}

/// Keeps endpoints in the slices where they are, then fills slices that change anyway, then those with the least
/// room that suffices, and only then makes new ones.
fn reconcile_group(
    template: &EndpointSlice,
    backends: Vec<Backend>,
    existing: Vec<Arc<EndpointSlice>>,
    writes: &mut Writes,
) {
    let is_empty = backends.is_empty();
    let mut wanted = backends.into_iter().map(|backend| (backend.target.uid.clone(), endpoint(backend)));
    let mut by_pod = wanted.by_ref().collect::<BTreeMap<_, _>>();
    let mut drafts = existing.into_iter().map(|slice| keep(slice, template, &mut by_pod)).collect::<Vec<_>>();
    let mut rest = by_pod.into_values().collect::<Vec<_>>();
    rest.sort_by(|left, right| target_name(left).cmp(&target_name(right)));
    for draft in drafts.iter_mut().filter(|draft| draft.is_changed) {
        draft.fill(&mut rest);
    }
    if !rest.is_empty() {
        let has_room =
            |draft: &&mut Draft| !draft.is_changed && draft.endpoints.len() + rest.len() <= MAX_ENDPOINTS;
        if let Some(fullest) = drafts.iter_mut().filter(has_room).max_by_key(|draft| draft.endpoints.len()) {
            fullest.fill(&mut rest);
        }
    }
    while !rest.is_empty() {
        let endpoints = rest.drain(..rest.len().min(MAX_ENDPOINTS)).collect();
        writes.create.push(EndpointSlice { endpoints: Some(endpoints), ..template.clone() });
    }
    let mut is_first = true;
    for draft in drafts {
        let is_placeholder = is_empty && std::mem::take(&mut is_first);
        if draft.endpoints.is_empty() && !is_placeholder {
            writes.delete.push(draft.original);
        } else if draft.is_changed {
            writes.update.push(draft.into_slice(template));
        }
    }
    if is_empty && is_first {
        writes.create.push(template.clone());
    }
}

/// Takes from `wanted` what the slice has already, as it is now.
fn keep(
    slice: Arc<EndpointSlice>,
    template: &EndpointSlice,
    wanted: &mut BTreeMap<Option<String>, Endpoint>,
) -> Draft {
    let mut is_changed = !is_labelled_alike(&slice, template);
    let mut endpoints = Vec::new();
    for old in slice.endpoints.iter().flatten() {
        let uid = old.target_ref.as_ref().and_then(|target| target.uid.clone());
        match wanted.remove(&uid) {
            Some(new) => {
                is_changed |= new != *old;
                endpoints.push(new);
            }
            None => is_changed = true,
        }
    }
    Draft { original: slice, endpoints, is_changed }
}

fn is_labelled_alike(slice: &EndpointSlice, template: &EndpointSlice) -> bool {
    slice.metadata.labels == template.metadata.labels
}

impl Draft {
    fn fill(&mut self, rest: &mut Vec<Endpoint>) {
        let room = MAX_ENDPOINTS.saturating_sub(self.endpoints.len()).min(rest.len());
        if room > 0 {
            self.endpoints.extend(rest.drain(..room));
            self.is_changed = true;
        }
    }

    fn into_slice(self, template: &EndpointSlice) -> EndpointSlice {
        let mut slice = (*self.original).clone();
        slice.metadata.labels.clone_from(&template.metadata.labels);
        slice.endpoints = Some(self.endpoints);
        slice
    }
}

fn blank(service: &Service, spec: &ServiceSpec, address_type: &str, ports: &[BackendPort]) -> EndpointSlice {
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.remove(HEADLESS);
    labels.insert(SERVICE_NAME.into(), service.name().into());
    labels.insert(MANAGED_BY.into(), MANAGER.into());
    if is_headless(spec) {
        labels.insert(HEADLESS.into(), String::new());
    }
    EndpointSlice {
        address_type: address_type.into(),
        metadata: ObjectMeta {
            generate_name: Some(format!("{}-", service.name())),
            namespace: service.metadata.namespace.clone(),
            labels: Some(labels),
            owner_references: Some(vec![controller_reference(service)]),
            ..Default::default()
        },
        endpoints: Some(Vec::new()),
        ports: Some(ports.iter().map(endpoint_port).collect()),
    }
}

fn endpoint(backend: Backend) -> Endpoint {
    Endpoint {
        addresses: vec![backend.address],
        conditions: Some(EndpointConditions {
            ready: Some(backend.is_ready),
            serving: Some(backend.is_serving),
            terminating: Some(backend.is_terminating),
        }),
        hostname: backend.hostname,
        node_name: backend.node_name,
        zone: backend.zone,
        target_ref: Some(backend.target),
        ..Default::default()
    }
}

fn endpoint_port(port: &BackendPort) -> EndpointPort {
    EndpointPort {
        name: Some(port.name.clone()),
        port: Some(port.port),
        protocol: Some(port.protocol.clone()),
        app_protocol: port.app_protocol.clone(),
    }
}

fn ports_of(slice: &EndpointSlice) -> Vec<BackendPort> {
    let port = |port: &EndpointPort| BackendPort {
        name: port.name.clone().unwrap_or_default(),
        port: port.port.unwrap_or_default(),
        protocol: port.protocol.clone().unwrap_or_else(|| "TCP".into()),
        app_protocol: port.app_protocol.clone(),
    };
    let mut ports = slice.ports.iter().flatten().map(port).collect::<Vec<_>>();
    ports.sort();
    ports
}

fn target_name(endpoint: &Endpoint) -> Option<&String> {
    endpoint.target_ref.as_ref()?.name.as_ref()
}
