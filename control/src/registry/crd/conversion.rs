//! Between the versions of a custom resource: by name alone, or by a webhook.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceConversion;
use serde::de::Error as _;
use serde_json::{Value, json};

use crate::{
    registry::podspec::OrEmpty as _,
    store::Store,
    webhook::{Place, ServicePlace, Webhook},
};

const TIMEOUT: Duration = Duration::from_secs(30);
/// Objects of one review.
const BATCH: usize = 500;
/// How much is kept of what was converted, with what it was made of: what was read lately is likely read again.
const MAX_KEPT_BYTES: usize = 128 << 20;

/// How an object of one version becomes one of another.
pub enum Conversion {
    /// Only the version's name differs.
    Rename,
    Webhook(Box<Converter>),
    /// The webhook cannot be called.
    Broken(String),
}

/// A conversion webhook of one kind.
pub struct Converter {
    webhook: Webhook,
    /// `apiextensions.k8s.io/v1`
    review_version: String,
    /// `example.com, Kind=Widget`, for messages.
    of: String,
    /// Held for one operation.
    kept: Mutex<Kept>,
}

/// What was converted lately, as JSON: few objects may be large, and many small.
#[derive(Default)]
struct Kept {
    /// Stored JSON and the version that was wanted, with what became of it.
    objects: HashMap<(Bytes, String), Bytes>,
    bytes: usize,
}

impl Kept {
    fn insert(&mut self, key: (Bytes, String), converted: Bytes) {
        let bytes = key.0.len() + converted.len();
        if self.bytes + bytes > MAX_KEPT_BYTES {
            *self = Self::default();
        }
        if bytes <= MAX_KEPT_BYTES && self.objects.insert(key, converted).is_none() {
            self.bytes += bytes;
        }
    }
}

impl Conversion {
    pub fn new(conversion: Option<&CustomResourceConversion>, of: String, store: &Store) -> Self {
        let webhook = conversion.filter(|conversion| conversion.strategy == "Webhook");
        let Some(webhook) = webhook.and_then(|conversion| conversion.webhook.as_ref()) else {
            return Self::Rename;
        };
        let Some(client) = &webhook.client_config else {
            return Self::Broken("it has no clientConfig".into());
        };
        let service = client.service.as_ref().map(|service| ServicePlace {
            namespace: &service.namespace,
            name: &service.name,
            path: service.path.or_empty(),
            port: service.port.and_then(|port| u16::try_from(port).ok()).unwrap_or(443),
        });
        let authority = client.ca_bundle.as_ref().map_or(&[][..], |bundle| &bundle.0);
        let version = webhook
            .conversion_review_versions
            .iter()
            .find(|version| matches!(version.as_str(), "v1" | "v1beta1"));
        let place = Place { url: client.url.as_deref(), service, authority };
        match Webhook::new(&place, TIMEOUT, store.clone()) {
            Ok(webhook) => Self::Webhook(Box::new(Converter {
                webhook,
                review_version: format!("apiextensions.k8s.io/{}", version.map_or("v1", String::as_str)),
                of,
                kept: Mutex::default(),
            })),
            Err(problem) => Self::Broken(problem),
        }
    }

    /// `object` in the version `to`. Calls of a webhook block this thread, not the others.
    pub fn convert(&self, mut object: Value, to: &str) -> Result<Value, serde_json::Error> {
        if object["apiVersion"] == to {
            return Ok(object);
        }
        match self {
            Self::Rename => {
                object["apiVersion"] = to.into();
                Ok(object)
            }
            Self::Broken(problem) => Err(serde_json::Error::custom(format!("conversion webhook: {problem}"))),
            Self::Webhook(converter) => {
                let call = converter.review(vec![object], to);
                let converted =
                    tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(call));
                converted.map(|mut objects| objects.remove(0)).map_err(serde_json::Error::custom)
            }
        }
    }

    /// The same for stored JSON, of which conversions are kept.
    pub fn convert_stored(&self, json: &Bytes, to: &str) -> Result<Value, serde_json::Error> {
        let Self::Webhook(converter) = self else { return self.convert(serde_json::from_slice(json)?, to) };
        let key = (json.clone(), to.to_owned());
        if let Some(known) = converter.kept().objects.get(&key).cloned() {
            return serde_json::from_slice(&known);
        }
        let object: Value = serde_json::from_slice(json)?;
        if object["apiVersion"] == to {
            return Ok(object);
        }
        let converted = self.convert(object, to)?;
        converter.keep(key, &converted);
        Ok(converted)
    }

    /// Converts many stored objects with few calls, so that `convert_stored` finds them.
    pub async fn prepare(&self, stored: Vec<Bytes>, to: &str) -> Result<(), String> {
        let Self::Webhook(converter) = self else { return Ok(()) };
        let is_unknown = |json: &Bytes| {
            let key = (json.clone(), to.to_owned());
            !converter.kept().objects.contains_key(&key)
        };
        let mut due = Vec::new();
        for json in stored.into_iter().filter(is_unknown) {
            let object: Value = serde_json::from_slice(&json).map_err(|error| error.to_string())?;
            if object["apiVersion"] != to {
                due.push((json, object));
            }
        }
        for batch in due.chunks(BATCH) {
            let objects = batch.iter().map(|(_, object)| object.clone()).collect();
            let converted = converter.review(objects, to).await?;
            for ((json, _), converted) in batch.iter().zip(converted) {
                converter.keep((json.clone(), to.to_owned()), &converted);
            }
        }
        Ok(())
    }
}

impl Converter {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep(&self, key: (Bytes, String), converted: &Value) {
        // What cannot be written is not kept.
        if let Ok(json) = serde_json::to_vec(converted) {
            self.kept().insert(key, json.into());
        }
    }

    async fn review(&self, objects: Vec<Value>, to: &str) -> Result<Vec<Value>, String> {
        let failed = |problem: String| format!("conversion webhook for {} failed: {problem}", self.of);
        let uid = uuid::Uuid::new_v4().to_string();
        let review = json!({
            "apiVersion": self.review_version,
            "kind": "ConversionReview",
            "request": { "uid": uid, "desiredAPIVersion": to, "objects": objects },
        });
        let mut answer = self.webhook.call(&review).await.map_err(&failed)?;
        let response = answer["response"].take();
        if response["uid"] != uid.as_str() {
            return Err(failed(format!("expected response.uid={uid:?}, got {}", response["uid"])));
        }
        let result = &response["result"];
        if result["status"] != "Success" {
            let message = result["message"].as_str().filter(|message| !message.is_empty());
            return Err(failed(message.unwrap_or("no message was given").to_owned()));
        }
        let Some(converted) = response["convertedObjects"].as_array().filter(|of| of.len() == objects.len())
        else {
            return Err(failed(format!("expected {} converted objects", objects.len())));
        };
        objects
            .iter()
            .zip(converted)
            .map(|(old, new)| settled(old, new.clone(), to))
            .collect::<Result<_, _>>()
            .map_err(failed)
    }
}

/// What the webhook made of `old`, which it may have changed in all but its identity.
fn settled(old: &Value, mut new: Value, to: &str) -> Result<Value, String> {
    if new["apiVersion"] != to {
        return Err(format!(
            "returned invalid converted object: invalid groupVersion (expected {to}, received {})",
            new["apiVersion"]
        ));
    }
    for field in ["kind"] {
        if new[field] != old[field] {
            return Err(format!(
                "returned invalid converted object: invalid kind (expected {}, received {})",
                old[field], new[field]
            ));
        }
    }
    let (old, changed) = (&old["metadata"], new["metadata"].take());
    for field in ["name", "namespace", "uid"] {
        if changed[field] != old[field] {
            return Err(format!("returned invalid converted object: metadata.{field} must not change"));
        }
    }
    let mut metadata = old.clone();
    for field in ["labels", "annotations"] {
        match changed.get(field) {
            Some(value) => metadata[field] = value.clone(),
            None => drop(metadata.as_object_mut().and_then(|metadata| metadata.remove(field))),
        }
    }
    new["metadata"] = metadata;
    Ok(new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_of_large_objects_is_bounded() {
        let mut kept = Kept::default();
        let large = |number: u32| Bytes::from(vec![number as u8; 1 << 20]);
        for number in 0..200 {
            kept.insert((large(number), "example.com/v1".into()), large(number));
            let bytes: usize = kept.objects.iter().map(|(key, value)| key.0.len() + value.len()).sum();
            assert!(bytes == kept.bytes && bytes <= MAX_KEPT_BYTES, "{bytes} for {}", kept.bytes);
        }
        let before = kept.bytes;
        kept.insert((large(199), "example.com/v1".into()), large(199));
        assert_eq!(kept.bytes, before, "the same again takes no more");
        // What is too large in itself makes room for nothing.
        kept.insert((vec![0; MAX_KEPT_BYTES + 1].into(), "example.com/v1".into()), Bytes::new());
        assert_eq!((kept.objects.len(), kept.bytes), (0, 0));
    }
}
