//! Feeds the runtime's data plane with Services and EndpointSlices.
//!
//! The feed owns both maps. A new stream starts with a Reset and everything that is known, so a restart on either side
//! leaves no gap; between two Syncs only changes travel.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use futures::{StreamExt, stream::BoxStream};
use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
use kube::{
    Api, Client,
    runtime::{WatchStreamExt, watcher},
};
use tokio::{sync::mpsc, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{runtime::RuntimeResult, services::key_of, shared::Shared};
use crate::dataplane::{self as wire, update_request::Update};

const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";
const RECONNECT_AFTER: Duration = Duration::from_millis(200);
/// Updates under way to the runtime; the watch waits when it does not keep up.
const WINDOW: usize = 256;

type Key = (String, String);

pub struct DataPlaneFeed {
    shared: Arc<Shared>,
    node_addresses: Vec<String>,
    services: BTreeMap<Key, wire::Service>,
    slices: BTreeMap<Key, wire::EndpointSlice>,
    /// Lists that are coming in: what is in none of their entries is gone.
    incoming_services: Option<HashMap<Key, wire::Service>>,
    incoming_slices: Option<HashMap<Key, wire::EndpointSlice>>,
    has_services: bool,
    has_slices: bool,
    stream: Option<mpsc::Sender<wire::UpdateRequest>>,
    sync_id: u64,
}

impl DataPlaneFeed {
    pub fn new(shared: Arc<Shared>, node_addresses: Vec<String>) -> Self {
        Self {
            shared,
            node_addresses,
            services: BTreeMap::new(),
            slices: BTreeMap::new(),
            incoming_services: None,
            incoming_slices: None,
            has_services: false,
            has_slices: false,
            stream: None,
            sync_id: 0,
        }
    }

    pub async fn run(mut self, client: Client, shutdown: CancellationToken) {
        let config = || watcher::Config::default().page_size(2000);
        let mut services = watcher(Api::<Service>::all(client.clone()), config()).default_backoff().boxed();
        let mut slices = watcher(Api::<EndpointSlice>::all(client), config()).default_backoff().boxed();
        let mut answers: BoxStream<'static, RuntimeResult<wire::UpdateResponse>> =
            futures::stream::pending().boxed();
        let mut connect_at = Some(Instant::now());
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                Some(event) = services.next() => self.on_service(event).await,
                Some(event) = slices.next() => self.on_slice(event).await,
                answer = answers.next() => match answer {
                    Some(Ok(answer)) => tell_errors(&answer),
                    _ => {
                        self.stream = None;
                        answers = futures::stream::pending().boxed();
                        connect_at = Some(Instant::now() + RECONNECT_AFTER);
                    }
                },
                () = tokio::time::sleep_until(connect_at.unwrap_or_else(Instant::now)),
                    if connect_at.is_some() && self.has_services && self.has_slices =>
                {
                    match self.connect().await {
                        Some(stream) => (answers, connect_at) = (stream, None),
                        None => connect_at = Some(Instant::now() + RECONNECT_AFTER),
                    }
                }
            }
        }
    }

    /// Opens a stream and tells everything that is known.
    async fn connect(&mut self) -> Option<BoxStream<'static, RuntimeResult<wire::UpdateResponse>>> {
        let (sender, receiver) = mpsc::channel(WINDOW);
        let runtime = self.shared.runtime.clone();
        // The runtime may answer only after the first updates: both sides have to move at once.
        let opening = tokio::spawn(async move { runtime.update_data_plane(receiver).await });
        self.stream = Some(sender);
        let reset = wire::Reset {
            cluster_domain: self.shared.cluster_domain.clone(),
            node_name: self.shared.node_name.clone(),
            node_addresses: self.node_addresses.clone(),
        };
        self.send(Update::Reset(reset)).await;
        let services: Vec<_> = self.services.values().cloned().collect();
        for service in services {
            self.send(Update::UpsertService(service)).await;
        }
        let slices: Vec<_> = self.slices.values().cloned().collect();
        for slice in slices {
            self.send(Update::UpsertSlice(slice)).await;
        }
        self.sync().await;
        match opening.await {
            Ok(Ok(answers)) => Some(answers),
            Ok(Err(error)) => {
                tracing::debug!(%error, "the data plane is not there yet");
                self.stream = None;
                None
            }
            Err(_) => None,
        }
    }

    /// Tells the data plane, if it is there; a broken stream is noticed by its answers.
    async fn send(&mut self, update: Update) {
        if let Some(stream) = &self.stream
            && stream.send(wire::UpdateRequest { update: Some(update) }).await.is_err()
        {
            self.stream = None;
        }
    }

    async fn sync(&mut self) {
        self.sync_id += 1;
        self.send(Update::Synced(wire::Synced { id: self.sync_id })).await;
    }

    async fn on_service(&mut self, event: Result<watcher::Event<Service>, watcher::Error>) {
        match event {
            Ok(watcher::Event::Init) => self.incoming_services = Some(HashMap::new()),
            Ok(watcher::Event::InitApply(service)) => {
                let converted = service_to_wire(&service);
                if let Some(incoming) = &mut self.incoming_services {
                    incoming.insert(key_of(&service), converted);
                }
                self.shared.services.upsert(Arc::new(service));
            }
            Ok(watcher::Event::InitDone) => self.on_services_listed().await,
            Ok(watcher::Event::Apply(service)) => {
                let converted = service_to_wire(&service);
                let key = key_of(&service);
                self.shared.services.upsert(Arc::new(service));
                // A change of labels or status is no news to the data plane.
                if self.services.insert(key, converted.clone()).as_ref() != Some(&converted) {
                    self.send(Update::UpsertService(converted)).await;
                    self.sync().await;
                }
            }
            Ok(watcher::Event::Delete(service)) => {
                self.remove_service(&key_of(&service)).await;
                self.sync().await;
            }
            Err(error) => tracing::warn!(%error, "the service watch broke off and will be resumed"),
        }
    }

    async fn on_services_listed(&mut self) {
        let incoming = self.incoming_services.take().unwrap_or_default();
        let gone: Vec<_> = self.services.keys().filter(|key| !incoming.contains_key(*key)).cloned().collect();
        for key in gone {
            self.remove_service(&key).await;
        }
        for (key, service) in incoming {
            if self.services.insert(key, service.clone()).as_ref() != Some(&service) {
                self.send(Update::UpsertService(service)).await;
            }
        }
        self.sync().await;
        self.has_services = true;
        self.shared.services.set_synced();
    }

    async fn remove_service(&mut self, key: &Key) {
        self.shared.services.remove(key);
        if self.services.remove(key).is_some() {
            self.send(Update::DeleteService(service_key(key))).await;
        }
    }

    async fn on_slice(&mut self, event: Result<watcher::Event<EndpointSlice>, watcher::Error>) {
        match event {
            Ok(watcher::Event::Init) => self.incoming_slices = Some(HashMap::new()),
            Ok(watcher::Event::InitApply(slice)) => {
                if let (Some(incoming), Some(converted)) = (&mut self.incoming_slices, slice_to_wire(&slice))
                {
                    incoming.insert(slice_key(&slice), converted);
                }
            }
            Ok(watcher::Event::InitDone) => self.on_slices_listed().await,
            Ok(watcher::Event::Apply(slice)) => match slice_to_wire(&slice) {
                Some(converted) => {
                    let key = slice_key(&slice);
                    if self.slices.insert(key, converted.clone()).as_ref() != Some(&converted) {
                        self.send(Update::UpsertSlice(converted)).await;
                        self.sync().await;
                    }
                }
                None => self.remove_slice(&slice_key(&slice)).await,
            },
            Ok(watcher::Event::Delete(slice)) => {
                self.remove_slice(&slice_key(&slice)).await;
                self.sync().await;
            }
            Err(error) => tracing::warn!(%error, "the endpoint watch broke off and will be resumed"),
        }
    }

    async fn on_slices_listed(&mut self) {
        let incoming = self.incoming_slices.take().unwrap_or_default();
        let gone: Vec<_> = self.slices.keys().filter(|key| !incoming.contains_key(*key)).cloned().collect();
        for key in gone {
            self.remove_slice(&key).await;
        }
        for (key, slice) in incoming {
            if self.slices.insert(key, slice.clone()).as_ref() != Some(&slice) {
                self.send(Update::UpsertSlice(slice)).await;
            }
        }
        self.sync().await;
        self.has_slices = true;
    }

    async fn remove_slice(&mut self, key: &Key) {
        if self.slices.remove(key).is_some() {
            let key = wire::SliceKey { namespace: key.0.clone(), name: key.1.clone() };
            self.send(Update::DeleteSlice(key)).await;
        }
    }
}

fn tell_errors(answer: &wire::UpdateResponse) {
    for error in &answer.errors {
        tracing::warn!(error, "the data plane could not follow a service");
    }
}

fn service_key(key: &Key) -> wire::ServiceKey {
    wire::ServiceKey { namespace: key.0.clone(), name: key.1.clone() }
}

fn slice_key(slice: &EndpointSlice) -> Key {
    let metadata = &slice.metadata;
    (metadata.namespace.clone().unwrap_or_default(), metadata.name.clone().unwrap_or_default())
}

fn service_to_wire(service: &Service) -> wire::Service {
    let spec = service.spec.clone().unwrap_or_default();
    let single = spec.cluster_ip.clone().into_iter();
    let ips = spec.cluster_ips.clone().unwrap_or_else(|| single.collect());
    let text = |value: Option<String>, default: &str| value.unwrap_or_else(|| default.into());
    let port = |port: k8s_openapi::api::core::v1::ServicePort| wire::ServicePort {
        name: port.name.unwrap_or_default(),
        protocol: text(port.protocol, "TCP"),
        port: port.port as u32,
        node_port: port.node_port.unwrap_or(0) as u32,
        app_protocol: port.app_protocol.unwrap_or_default(),
    };
    let client_ip = spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref());
    wire::Service {
        key: Some(service_key(&key_of(service))),
        r#type: text(spec.type_, "ClusterIP"),
        cluster_ips: ips.into_iter().filter(|ip| !ip.is_empty() && ip != "None").collect(),
        external_name: spec.external_name.unwrap_or_default(),
        session_affinity_seconds: client_ip.and_then(|config| config.timeout_seconds).unwrap_or(10_800),
        session_affinity: text(spec.session_affinity, "None"),
        publish_not_ready_addresses: spec.publish_not_ready_addresses.unwrap_or(false),
        internal_traffic_policy: text(spec.internal_traffic_policy, "Cluster"),
        external_traffic_policy: text(spec.external_traffic_policy, "Cluster"),
        ports: spec.ports.into_iter().flatten().map(port).collect(),
    }
}

/// `None` for a slice that belongs to no Service.
fn slice_to_wire(slice: &EndpointSlice) -> Option<wire::EndpointSlice> {
    let service = slice.metadata.labels.as_ref()?.get(SERVICE_NAME_LABEL)?;
    let key = slice_key(slice);
    let ports = slice.ports.iter().flatten().map(|port| wire::EndpointPort {
        name: port.name.clone().unwrap_or_default(),
        protocol: port.protocol.clone().unwrap_or_else(|| "TCP".into()),
        port: port.port.unwrap_or(0) as u32,
    });
    let endpoints = slice.endpoints.iter().flatten().map(|endpoint| {
        let conditions = endpoint.conditions.clone().unwrap_or_default();
        let target = endpoint.target_ref.clone().unwrap_or_default();
        let ready = conditions.ready.unwrap_or(true);
        wire::Endpoint {
            addresses: endpoint.addresses.clone(),
            ready,
            serving: conditions.serving.unwrap_or(ready),
            terminating: conditions.terminating.unwrap_or(false),
            hostname: endpoint.hostname.clone().unwrap_or_default(),
            node_name: endpoint.node_name.clone().unwrap_or_default(),
            pod_namespace: target.namespace.unwrap_or_default(),
            pod_name: target.name.unwrap_or_default(),
        }
    });
    Some(wire::EndpointSlice {
        service: Some(wire::ServiceKey { namespace: key.0.clone(), name: service.clone() }),
        key: Some(wire::SliceKey { namespace: key.0, name: key.1 }),
        ports: ports.collect(),
        endpoints: endpoints.collect(),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_headless_service_has_no_addresses_and_defaults_are_filled_in() {
        let service: Service = serde_json::from_value(json!({
            "metadata": { "namespace": "shop", "name": "db" },
            "spec": { "clusterIP": "None", "clusterIPs": ["None"], "ports": [{ "port": 5432 }] }
        }))
        .unwrap();
        let converted = service_to_wire(&service);
        assert!(converted.cluster_ips.is_empty());
        assert_eq!(converted.r#type, "ClusterIP");
        assert_eq!(converted.ports[0].protocol, "TCP");
    }

    #[test]
    fn an_endpoint_without_conditions_is_ready() {
        let slice: EndpointSlice = serde_json::from_value(json!({
            "metadata": { "namespace": "shop", "name": "back-x", "labels": { "kubernetes.io/service-name": "back" } },
            "addressType": "IPv4", "ports": [{ "port": 8080 }],
            "endpoints": [{ "addresses": ["127.5.0.2"] }, { "addresses": ["127.5.0.3"], "conditions": { "ready": false, "serving": true, "terminating": true } }]
        }))
        .unwrap();
        let converted = slice_to_wire(&slice).unwrap();
        assert_eq!(converted.service.unwrap().name, "back");
        assert!(converted.endpoints[0].ready && converted.endpoints[0].serving);
        assert!(!converted.endpoints[1].ready && converted.endpoints[1].terminating);
    }

    #[test]
    fn a_slice_without_a_service_is_nobody_s() {
        let slice: EndpointSlice = serde_json::from_value(
            json!({ "metadata": { "name": "x" }, "addressType": "IPv4", "endpoints": [] }),
        )
        .unwrap();
        assert!(slice_to_wire(&slice).is_none());
    }
}
