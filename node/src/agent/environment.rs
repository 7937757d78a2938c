//! A container's environment, command and arguments, with every reference resolved.

use std::collections::{BTreeMap, HashMap};

use k8s_cri::v1 as cri;
use k8s_openapi::{
    ByteString,
    api::core::v1::{Container, EnvFromSource, EnvVar, EnvVarSource},
};

use super::{
    cluster::ClusterError,
    expansion::expand,
    field_path::{self, Addresses},
    objects::{FRESH, Objects},
    pod_view::PodView,
    resources::{self, Allocatable},
};

/// Variables in the order in which they were first named.
#[derive(Debug, Default)]
pub struct Environment {
    order: Vec<String>,
    values: HashMap<String, String>,
    /// Keys of `envFrom` sources that cannot be variable names.
    pub skipped: Vec<String>,
}

impl Environment {
    fn set(&mut self, name: &str, value: String) {
        if self.values.insert(name.to_owned(), value).is_none() {
            self.order.push(name.to_owned());
        }
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str)
    }

    pub fn to_cri(&self) -> Vec<cri::KeyValue> {
        let pair = |name: &String| cri::KeyValue { key: name.clone(), value: self.values[name].clone() };
        self.order.iter().map(pair).collect()
    }

    /// `command` or `args` with `$(VAR)` replaced.
    pub fn expand_all(&self, texts: Option<&Vec<String>>) -> Vec<String> {
        texts.into_iter().flatten().map(|text| expand(text, |name| self.get(name))).collect()
    }
}

/// Where references lead.
pub struct Sources<'a> {
    pub pod: &'a PodView,
    pub objects: &'a Objects,
    pub services: &'a BTreeMap<String, String>,
    pub addresses: &'a Addresses,
    pub allocatable: Allocatable,
}

impl Sources<'_> {
    /// # Errors
    /// A text for `CreateContainerConfigError`.
    pub async fn environment(&self, container: &Container) -> Result<Environment, String> {
        let mut environment = Environment::default();
        for source in container.env_from.iter().flatten() {
            self.add_all(source, &mut environment).await?;
        }
        for variable in container.env.iter().flatten() {
            if let Some(value) = self.value(variable, container, &environment).await? {
                environment.set(&variable.name, value);
            }
        }
        for (name, value) in self.services {
            if environment.get(name).is_none() {
                environment.set(name, value.clone());
            }
        }
        Ok(environment)
    }

    async fn add_all(&self, source: &EnvFromSource, environment: &mut Environment) -> Result<(), String> {
        let prefix = source.prefix.as_deref().unwrap_or_default();
        let data = if let Some(reference) = &source.config_map_ref {
            self.config_map(&reference.name, reference.optional).await?
        } else if let Some(reference) = &source.secret_ref {
            self.secret(&reference.name, reference.optional).await?
        } else {
            None
        };
        for (key, value) in data.into_iter().flatten() {
            let name = format!("{prefix}{key}");
            if name.is_empty() || name.contains('=') || name.bytes().any(|byte| !(32..127).contains(&byte)) {
                environment.skipped.push(name);
            } else {
                environment.set(&name, value);
            }
        }
        Ok(())
    }

    async fn value(
        &self,
        variable: &EnvVar,
        container: &Container,
        environment: &Environment,
    ) -> Result<Option<String>, String> {
        let Some(source) = &variable.value_from else {
            let text = variable.value.as_deref().unwrap_or_default();
            let lookup =
                |name: &str| environment.get(name).or_else(|| self.services.get(name).map(String::as_str));
            return Ok(Some(expand(text, lookup)));
        };
        self.referenced(source, container).await
    }

    /// `None` where an optional reference leads nowhere.
    async fn referenced(
        &self,
        source: &EnvVarSource,
        container: &Container,
    ) -> Result<Option<String>, String> {
        let namespace = &self.pod.identity.namespace;
        if let Some(field) = &source.field_ref {
            field_path::value(self.pod.pod(), &field.field_path, self.addresses).map(Some)
        } else if let Some(field) = &source.resource_field_ref {
            let named = field.container_name.as_deref().filter(|name| !name.is_empty());
            let target =
                named.and_then(|name| self.pod.container(name)).map_or(container, |(target, _)| target);
            let requirements = target.resources.as_ref();
            resources::field_value(&field.resource, field.divisor.as_ref(), requirements, self.allocatable)
                .map(Some)
        } else if let Some(reference) = &source.config_map_key_ref {
            let data = self.config_map(&reference.name, reference.optional).await?;
            let missing =
                format!("couldn't find key {} in ConfigMap {namespace}/{}", reference.key, reference.name);
            pick(data, &reference.key, reference.optional, missing)
        } else if let Some(reference) = &source.secret_key_ref {
            let data = self.secret(&reference.name, reference.optional).await?;
            let missing =
                format!("couldn't find key {} in Secret {namespace}/{}", reference.key, reference.name);
            pick(data, &reference.key, reference.optional, missing)
        } else {
            Err("this kind of valueFrom is not supported by this node".into())
        }
    }

    async fn config_map(
        &self,
        name: &str,
        optional: Option<bool>,
    ) -> Result<Option<BTreeMap<String, String>>, String> {
        match self.objects.config_map(&self.pod.identity.namespace, name, FRESH).await {
            Ok(config_map) => Ok(Some(config_map.data.clone().unwrap_or_default())),
            Err(ClusterError::NotFound(_)) if optional == Some(true) => Ok(None),
            Err(error) => Err(error.to_string()),
        }
    }

    async fn secret(
        &self,
        name: &str,
        optional: Option<bool>,
    ) -> Result<Option<BTreeMap<String, String>>, String> {
        match self.objects.secret(&self.pod.identity.namespace, name, FRESH).await {
            Ok(secret) => Ok(Some(secret.data.iter().flatten().map(as_text).collect())),
            Err(ClusterError::NotFound(_)) if optional == Some(true) => Ok(None),
            Err(error) => Err(error.to_string()),
        }
    }
}

fn as_text((key, value): (&String, &ByteString)) -> (String, String) {
    (key.clone(), String::from_utf8_lossy(&value.0).into_owned())
}

fn pick(
    data: Option<BTreeMap<String, String>>,
    key: &str,
    optional: Option<bool>,
    missing: String,
) -> Result<Option<String>, String> {
    match data {
        None => Ok(None),
        Some(mut data) => match data.remove(key) {
            Some(value) => Ok(Some(value)),
            None if optional == Some(true) => Ok(None),
            None => Err(missing),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;
    use crate::agent::fakes::FakeCluster;

    async fn environment_of(container: serde_json::Value) -> Result<Environment, String> {
        let cluster = Arc::new(FakeCluster::default());
        cluster.add_config_map("shop", "settings", &[("GREETING", "hi"), ("bad=key", "x")]);
        cluster.add_secret("shop", "login", &[("password", "s3cret")]);
        let objects = Objects::new(cluster);
        let pod = json!({ "metadata": { "name": "web", "namespace": "shop", "uid": "u" }, "spec": { "containers": [container] } });
        let pod = PodView::new(Arc::new(serde_json::from_value(pod).unwrap())).unwrap();
        let services = BTreeMap::from([("BACK_SERVICE_HOST".to_owned(), "127.4.0.9".to_owned())]);
        let addresses = Addresses { pod_ips: vec!["127.5.0.2".into()], host_ips: vec![] };
        let sources = Sources {
            pod: &pod,
            objects: &objects,
            services: &services,
            addresses: &addresses,
            allocatable: Allocatable::default(),
        };
        sources.environment(&pod.containers()[0]).await
    }

    #[tokio::test]
    async fn values_come_from_everywhere_and_later_ones_win() {
        let environment = environment_of(json!({
            "name": "c",
            "envFrom": [{ "prefix": "P_", "configMapRef": { "name": "settings" } }],
            "env": [
                { "name": "P_GREETING", "value": "hello" },
                { "name": "URL", "value": "http://$(BACK_SERVICE_HOST)/$(P_GREETING)/$(NOPE)" },
                { "name": "IP", "valueFrom": { "fieldRef": { "fieldPath": "status.podIP" } } },
                { "name": "PASSWORD", "valueFrom": { "secretKeyRef": { "name": "login", "key": "password" } } },
                { "name": "GONE", "valueFrom": { "configMapKeyRef": { "name": "no", "key": "k", "optional": true } } }
            ]
        }))
        .await
        .unwrap();
        assert_eq!(environment.get("P_GREETING"), Some("hello"));
        assert_eq!(environment.get("URL"), Some("http://127.4.0.9/hello/$(NOPE)"));
        assert_eq!(environment.get("IP"), Some("127.5.0.2"));
        assert_eq!(environment.get("PASSWORD"), Some("s3cret"));
        assert_eq!(environment.get("GONE"), None);
        assert_eq!(environment.get("BACK_SERVICE_HOST"), Some("127.4.0.9"));
        assert_eq!(environment.skipped, ["P_bad=key"]);
    }

    #[tokio::test]
    async fn what_is_missing_is_named_as_the_kubelet_names_it() {
        for (source, expected) in [
            (json!({ "configMapKeyRef": { "name": "no", "key": "k" } }), "configmap \"no\" not found"),
            (json!({ "secretKeyRef": { "name": "no", "key": "k" } }), "secret \"no\" not found"),
            (
                json!({ "configMapKeyRef": { "name": "settings", "key": "k" } }),
                "couldn't find key k in ConfigMap shop/settings",
            ),
        ] {
            let error =
                environment_of(json!({ "name": "c", "env": [{ "name": "X", "valueFrom": source }] })).await;
            assert_eq!(error.unwrap_err(), expected);
        }
    }
}
