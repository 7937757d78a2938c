//! What every namespace has from the start: a default ServiceAccount, and the cluster's CA for its pods.
//!
//! Both come back when they are deleted or, for the CA, changed. A key is a namespace.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{ConfigMap, Namespace, ServiceAccount},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

use super::{
    common::is_deleting,
    framework::{Cache, Change, ClusterView, Controller, Plan, Write, key_of},
};
use crate::store::Key;

const ACCOUNT: &str = "default";
const ROOT_CA: &str = "kube-root-ca.crt";
const ROOT_CA_FILE: &str = "ca.crt";
const DESCRIPTION: &str = "kubernetes.io/description";
const ROOT_CA_DESCRIPTION: &str = "Contains a CA bundle that can be used to verify the kube-apiserver when using \
    internal endpoints such as the internal service IP or kubernetes.default.svc. No other usage is guaranteed \
    across distributions of Kubernetes clusters.";

/// Makes the `default` ServiceAccount of each namespace.
pub struct ServiceAccounts;

/// Publishes the cluster's CA in each namespace.
pub struct RootCa {
    /// PEM.
    pub certificate: String,
}

impl Controller for ServiceAccounts {
    fn name(&self) -> &'static str {
        "service-account-controller"
    }

    fn concerns(&self, change: &Change<'_>, _cache: &Cache, look: &mut dyn FnMut(Key)) {
        let is_gone =
            change.is_deleted && change.is::<ServiceAccount>() && change.entry.key.name() == ACCOUNT;
        look_at_namespace(change, is_gone, look);
    }

    fn reconcile(&self, key: &Key, view: &ClusterView<'_>) -> Plan {
        let mut plan = Plan::nothing();
        if is_living(key, view) && view.cache.get::<ServiceAccount>(key.name(), ACCOUNT).is_none() {
            let metadata = named(key.name(), ACCOUNT);
            plan.then([Write::create(ServiceAccount { metadata, ..Default::default() })]);
        }
        plan
    }
}

impl Controller for RootCa {
    fn name(&self) -> &'static str {
        "root-ca-cert-publisher"
    }

    fn concerns(&self, change: &Change<'_>, _cache: &Cache, look: &mut dyn FnMut(Key)) {
        let is_ours = change.is::<ConfigMap>() && change.entry.key.name() == ROOT_CA;
        look_at_namespace(change, is_ours, look);
    }

    fn reconcile(&self, key: &Key, view: &ClusterView<'_>) -> Plan {
        let mut plan = Plan::nothing();
        if !is_living(key, view) {
            return plan;
        }
        let data = BTreeMap::from([(ROOT_CA_FILE.to_owned(), self.certificate.clone())]);
        match view.cache.get::<ConfigMap>(key.name(), ROOT_CA) {
            None => {
                let mut metadata = named(key.name(), ROOT_CA);
                metadata.annotations =
                    Some([(DESCRIPTION.to_owned(), ROOT_CA_DESCRIPTION.to_owned())].into());
                plan.then([Write::create(ConfigMap { metadata, data: Some(data), ..Default::default() })]);
            }
            Some(map) if map.data.as_ref() != Some(&data) => {
                plan.then([Write::update(ConfigMap { data: Some(data), ..(*map).clone() })]);
            }
            Some(_) => (),
        }
        plan
    }
}

fn look_at_namespace(change: &Change<'_>, is_content: bool, look: &mut dyn FnMut(Key)) {
    if change.is::<Namespace>() {
        look(change.entry.key.clone());
    } else if is_content {
        look(key_of::<Namespace>("", change.entry.key.namespace()));
    }
}

fn is_living(namespace: &Key, view: &ClusterView<'_>) -> bool {
    view.cache.get::<Namespace>("", namespace.name()).is_some_and(|namespace| !is_deleting(&*namespace))
}

fn named(namespace: &str, name: &str) -> ObjectMeta {
    ObjectMeta { name: Some(name.into()), namespace: Some(namespace.into()), ..Default::default() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controllers::testing::World;

    fn world() -> World {
        let mut world = World::default();
        world.add(Namespace {
            metadata: ObjectMeta { name: Some("shop".into()), ..Default::default() },
            ..Default::default()
        });
        world
    }

    fn key() -> Key {
        key_of::<Namespace>("", "shop")
    }

    #[test]
    fn a_namespace_gets_its_default_account_and_gets_it_back() {
        let mut world = world();
        world.settle(&ServiceAccounts, &key());
        assert!(world.find::<ServiceAccount>("shop", "default").is_some());
        world.delete(&key_of::<ServiceAccount>("shop", "default"), &Default::default());
        world.settle(&ServiceAccounts, &key());
        assert!(world.find::<ServiceAccount>("shop", "default").is_some());
    }

    #[test]
    fn a_changed_root_ca_is_put_right() {
        let mut world = world();
        let publisher = RootCa { certificate: "PEM".into() };
        world.settle(&publisher, &key());
        world.edit::<ConfigMap>("shop", ROOT_CA, |map| map.data = None);
        world.settle(&publisher, &key());
        let map = world.get::<ConfigMap>("shop", ROOT_CA);
        assert_eq!(map.data.as_ref().unwrap()["ca.crt"], "PEM");
    }

    #[test]
    fn a_namespace_on_its_way_out_gets_nothing() {
        let mut world = World::default();
        let mut namespace = Namespace {
            metadata: ObjectMeta { name: Some("shop".into()), ..Default::default() },
            ..Default::default()
        };
        namespace.metadata.finalizers = Some(vec!["stay".into()]);
        world.add(namespace);
        world.delete(&key(), &Default::default());
        assert!(world.plan(&ServiceAccounts, &key()).is_nothing());
        assert!(world.plan(&RootCa { certificate: "PEM".into() }, &key()).is_nothing());
    }
}
