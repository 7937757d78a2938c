//! A made-up cluster for unit tests: a cache, a clock, and an API that carries plans out on them.
//!
//! The API here knows what reconcilers rely on and no more: uids, generations, resource versions as
//! preconditions, the status subresource, merge patches, finalizers, and graceful deletion of pods on demand.

use std::{collections::VecDeque, sync::Arc};

use k8s_openapi::{
    api::core::v1::{Container, Pod, PodCondition, PodSpec, PodStatus, PodTemplateSpec},
    apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, Time},
    jiff::{SignedDuration, Timestamp},
};
use naru_model::Object;
use serde_json::{Value, json};

use super::framework::{Action, Cache, ClusterView, Controller, Plan, Write, key_of, resource_of};
use crate::{
    client::{Delete, Patch},
    registry::Kinds,
    store::{Draft, Entry, Key, Revision},
};

/// A cluster that exists in this test only.
pub struct World {
    pub cache: Cache,
    pub now: Timestamp,
    /// What was told about objects: reason and message.
    pub events: Vec<(String, String)>,
    pub last_failure: Option<String>,
    /// Answers for coming creates: a text fails one.
    pub create_failures: VecDeque<String>,
    /// Whether a deleted pod stays until `finish_pods`, as its kubelet would have it.
    pub pods_end_slowly: bool,
    pub revision: u64,
    pub uid: u64,
}

impl Default for World {
    fn default() -> Self {
        let mut cache = Cache::default();
        cache.follow(Kinds::builtin().stored().map(|served| served.info.clone()));
        Self {
            cache,
            now: Timestamp::from_second(1_800_000_000).expect("in range"),
            events: Vec::new(),
            last_failure: None,
            create_failures: VecDeque::new(),
            pods_end_slowly: false,
            revision: 0,
            uid: 0,
        }
    }
}

impl World {
    pub fn advance(&mut self, seconds: i64) {
        self.now += SignedDuration::from_secs(seconds);
    }

    /// Creates the object as a client would, and answers it as it is stored.
    pub fn add<T: Object>(&mut self, object: T) -> Arc<T> {
        let key = self.create(&resource_of::<T>(), serde_json::to_value(object).unwrap());
        self.cache.entry(&key).unwrap().typed::<T>().unwrap()
    }

    /// Changes the object's spec or metadata as a client would.
    pub fn edit<T: Object>(&mut self, namespace: &str, name: &str, change: impl FnOnce(&mut T)) {
        let mut object = (*self.get::<T>(namespace, name)).clone();
        change(&mut object);
        self.update(&key_of::<T>(namespace, name), serde_json::to_value(object).unwrap(), false);
    }

    /// Changes the object's status.
    pub fn report<T: Object>(&mut self, namespace: &str, name: &str, change: impl FnOnce(&mut T)) {
        let mut object = (*self.get::<T>(namespace, name)).clone();
        change(&mut object);
        self.update(&key_of::<T>(namespace, name), serde_json::to_value(object).unwrap(), true);
    }

    pub fn get<T: Object>(&self, namespace: &str, name: &str) -> Arc<T> {
        self.find(namespace, name).unwrap_or_else(|| panic!("{} {namespace}/{name} exists", T::KIND))
    }

    pub fn find<T: Object>(&self, namespace: &str, name: &str) -> Option<Arc<T>> {
        self.cache.get::<T>(namespace, name)
    }

    pub fn list<T: Object>(&self) -> Vec<Arc<T>> {
        self.cache.list::<T>(None).collect()
    }

    pub fn plan(&self, controller: &dyn Controller, key: &Key) -> Plan {
        let view =
            ClusterView { cache: &self.cache, now: self.now, last_failure: self.last_failure.as_deref() };
        controller.reconcile(key, &view)
    }

    /// One look at one key: decides and carries out. Answers the plan.
    pub fn look(&mut self, controller: &dyn Controller, key: &Key) -> Plan {
        let plan = self.plan(controller, key);
        self.carry_out(&plan);
        plan
    }

    /// Looks until nothing is left to write.
    pub fn settle(&mut self, controller: &dyn Controller, key: &Key) {
        for _ in 0..50 {
            if self.look(controller, key).is_nothing() {
                return;
            }
        }
        panic!("{} does not come to rest at {}", controller.name(), key.as_str());
    }

    pub fn carry_out(&mut self, plan: &Plan) {
        self.last_failure = None;
        for stage in &plan.stages {
            let results = stage.writes.iter().map(|write| self.write(write)).collect::<Vec<_>>();
            if results.contains(&false) {
                return;
            }
        }
    }

    pub fn delete(&mut self, key: &Key, options: &Delete) {
        let Some(entry) = self.cache.entry(key).cloned() else { return };
        assert!(options.uid.is_none() || options.uid.as_deref() == Some(&entry.meta.uid), "uid precondition");
        let mut value: Value = serde_json::from_slice(&entry.json).unwrap();
        let finalizer = match options.propagation_policy.as_deref() {
            Some("Foreground") => Some("foregroundDeletion"),
            Some("Orphan") => Some("orphan"),
            _ => None,
        };
        let mut finalizers = entry.meta.finalizers.clone();
        finalizers.extend(
            finalizer
                .filter(|finalizer| !entry.meta.finalizers.iter().any(|f| f == finalizer))
                .map(Into::into),
        );
        let ends_slowly =
            key.resource() == "pods" && self.pods_end_slowly && options.grace_period_seconds != Some(0);
        let has_spec_finalizers = value.pointer("/spec/finalizers").is_some_and(|list| list != &json!([]));
        if finalizers.is_empty() && !ends_slowly && !has_spec_finalizers {
            self.cache.remove(key, self.now);
            return;
        }
        value["metadata"]["finalizers"] = json!(finalizers);
        if entry.meta.deletion_timestamp.is_none() {
            value["metadata"]["deletionTimestamp"] = json!(Time(self.now));
        }
        if has_spec_finalizers {
            value["status"]["phase"] = json!("Terminating");
        }
        self.put(key, &value);
    }

    /// Ends the pods that were asked to.
    pub fn finish_pods(&mut self) {
        for pod in self.list::<Pod>() {
            if pod.metadata.deletion_timestamp.is_some() {
                self.cache.remove(&key_of::<Pod>(pod.namespace(), pod.name()), self.now);
            }
        }
    }

    /// Plays kubelet: the pod runs and its Ready condition says so, or says no longer.
    pub fn set_ready(&mut self, namespace: &str, name: &str, is_ready: bool) {
        let now = self.now;
        self.report::<Pod>(namespace, name, |pod| {
            let status = if is_ready { "True" } else { "False" };
            let condition = PodCondition {
                type_: "Ready".into(),
                status: status.into(),
                last_transition_time: Some(Time(now)),
                ..Default::default()
            };
            let pod_status = pod.status.get_or_insert_default();
            pod_status.phase = Some("Running".into());
            pod_status.conditions = Some(vec![condition]);
        });
    }

    pub fn make_all_ready(&mut self) {
        for pod in self.list::<Pod>() {
            if !naru_model::pod::is_ready(&pod) {
                self.set_ready(pod.namespace(), pod.name(), true);
            }
        }
    }

    fn write(&mut self, write: &Write) -> bool {
        let result = self.attempt(&write.action);
        let report = write.report.as_ref();
        let note =
            report.and_then(
                |report| if result.is_ok() { report.success.as_ref() } else { report.failure.as_ref() },
            );
        if let Some(note) = note {
            let name = result.as_ref().map(String::as_str).unwrap_or_default();
            let error = result.as_ref().err().map_or("", String::as_str);
            let message = note.message.replace("{name}", name).replace("{error}", error);
            self.events.push((note.reason.into(), message));
            if result.is_err() {
                self.last_failure = Some(error.into());
            }
        }
        result.is_ok()
    }

    fn attempt(&mut self, action: &Action) -> Result<String, String> {
        match action {
            Action::Create(body) => {
                if let Some(failure) = self.create_failures.pop_front() {
                    return Err(failure);
                }
                let (resource, value) = body.to_json();
                let name = value.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
                let namespace =
                    value.pointer("/metadata/namespace").and_then(Value::as_str).unwrap_or_default();
                if self.cache.entry(&Key::new(&resource, namespace, name)).is_some() {
                    return Err(format!("{resource} \"{name}\" already exists"));
                }
                Ok(self.create(&resource, value).name().into())
            }
            Action::Update(body) | Action::UpdateStatus(body) => {
                let (resource, value) = body.to_json();
                let namespace =
                    value.pointer("/metadata/namespace").and_then(Value::as_str).unwrap_or_default();
                let key = Key::new(&resource, namespace, body.name());
                let current = self.cache.entry(&key).ok_or("not found")?;
                let version = value.pointer("/metadata/resourceVersion").and_then(Value::as_str);
                if version.is_some_and(|version| version != current.revision.0.to_string()) {
                    return Err("conflict".into());
                }
                self.update(&key, value, matches!(action, Action::UpdateStatus(_)));
                Ok(body.name().into())
            }
            Action::Patch { key, patch, .. } => {
                let entry = self.cache.entry(key).cloned().ok_or("not found")?;
                let mut value: Value = serde_json::from_slice(&entry.json).unwrap();
                let is_strategic = matches!(patch, Patch::Strategic(_));
                let (Patch::Merge(patch) | Patch::Strategic(patch) | Patch::Json(patch)) = patch;
                if let Some(uid) = patch.pointer("/metadata/uid") {
                    assert_eq!(uid, &json!(entry.meta.uid), "uid precondition");
                }
                merge(&mut value, patch, is_strategic);
                self.put(key, &value);
                self.remove_if_finished(key);
                Ok(key.name().into())
            }
            Action::Delete { key, options } => {
                self.delete(key, options);
                Ok(key.name().into())
            }
            Action::Tell => Ok(String::new()),
            Action::Errand(errand) => {
                futures::executor::block_on(errand.run());
                Ok(String::new())
            }
        }
    }

    fn remove_if_finished(&mut self, key: &Key) {
        let entry = self.cache.entry(key).expect("it was just written");
        let value: Value = serde_json::from_slice(&entry.json).unwrap();
        let has_spec_finalizers = value.pointer("/spec/finalizers").is_some_and(|list| list != &json!([]));
        if entry.meta.deletion_timestamp.is_some() && entry.meta.finalizers.is_empty() && !has_spec_finalizers
        {
            self.cache.remove(key, self.now);
        }
    }

    fn create(&mut self, resource: &str, mut value: Value) -> Key {
        self.uid += 1;
        let metadata = &mut value["metadata"];
        if metadata.get("name").is_none() {
            let prefix = metadata["generateName"].as_str().expect("a name or generateName").to_owned();
            metadata["name"] = json!(format!("{prefix}{:05}", self.uid));
        }
        if metadata.get("uid").is_none() {
            metadata["uid"] = json!(format!("uid-{:05}", self.uid));
        }
        if metadata.get("creationTimestamp").is_none() {
            metadata["creationTimestamp"] = json!(Time(self.now));
        }
        metadata["generation"] = json!(1);
        let namespace = metadata.get("namespace").and_then(Value::as_str).unwrap_or_default();
        let key = Key::new(resource, namespace, metadata["name"].as_str().unwrap());
        self.put(&key, &value);
        key
    }

    fn update(&mut self, key: &Key, mut new: Value, is_status: bool) {
        let entry = self.cache.entry(key).expect("an object to update");
        let old: Value = serde_json::from_slice(&entry.json).unwrap();
        if is_status {
            let (status, annotations) = (new["status"].take(), new["metadata"].get("annotations").cloned());
            new = old;
            new["status"] = status;
            if let Some(annotations) = annotations {
                new["metadata"]["annotations"] = annotations;
            }
        } else {
            if new.get("spec") != old.get("spec") {
                new["metadata"]["generation"] =
                    json!(old["metadata"]["generation"].as_i64().unwrap_or(0) + 1);
            }
            match old.get("status") {
                Some(status) => new["status"] = status.clone(),
                None => drop(new.as_object_mut().unwrap().remove("status")),
            }
        }
        self.put(key, &new);
    }

    fn put(&mut self, key: &Key, value: &Value) {
        self.revision += 1;
        let draft = Draft::from_value(value).unwrap();
        self.cache.put(Arc::new(Entry::new(key.clone(), Revision(self.revision), &draft)), self.now);
    }
}

/// A merge patch; lists of owner references and conditions merge by their keys, as in a strategic merge patch.
fn merge(target: &mut Value, patch: &Value, is_strategic: bool) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    let object = target.as_object_mut().expect("made one above");
    for (name, value) in patch {
        let merge_key = match name.as_str() {
            "ownerReferences" => "uid",
            "conditions" => "type",
            _ => "",
        };
        let strategic =
            value.as_array().filter(|list| is_strategic && !merge_key.is_empty() && !list.is_empty());
        if value.is_null() {
            object.remove(name);
        } else if let Some(list) = strategic {
            let mut owners = object.get(name).and_then(Value::as_array).cloned().unwrap_or_default();
            for item in list {
                if item.get("$patch").is_some() {
                    owners.retain(|owner| owner[merge_key] != item[merge_key]);
                } else if let Some(owner) =
                    owners.iter_mut().find(|owner| owner[merge_key] == item[merge_key])
                {
                    merge(owner, item, true);
                } else {
                    owners.push(item.clone());
                }
            }
            object.insert(name.clone(), Value::Array(owners));
        } else {
            merge(object.entry(name.clone()).or_insert(Value::Null), value, is_strategic);
        }
    }
}

pub fn named(name: &str) -> ObjectMeta {
    ObjectMeta { name: Some(name.into()), namespace: Some("default".into()), ..Default::default() }
}

pub fn labels(label: &str, value: &str) -> std::collections::BTreeMap<String, String> {
    [(label.to_owned(), value.to_owned())].into()
}

pub fn selector(app: &str) -> LabelSelector {
    LabelSelector { match_labels: Some(labels("app", app)), ..Default::default() }
}

pub fn template(app: &str, image: &str) -> PodTemplateSpec {
    let container = Container { name: "main".into(), image: Some(image.into()), ..Default::default() };
    PodTemplateSpec {
        metadata: Some(ObjectMeta { labels: Some(labels("app", app)), ..Default::default() }),
        spec: Some(PodSpec { containers: vec![container], ..Default::default() }),
    }
}

/// A pod with the label `app` that may have a controller of its own.
pub fn pod(name: &str, app: &str) -> Pod {
    let template = template(app, "hello");
    Pod {
        metadata: ObjectMeta { labels: Some(labels("app", app)), ..named(name) },
        spec: template.spec,
        status: Some(PodStatus { phase: Some("Pending".into()), ..Default::default() }),
    }
}
