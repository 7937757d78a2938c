//! What can be done to a part of an object: bind a pod, evict it, scale a workload, finalize a namespace.

use k8s_openapi::{
    api::{
        autoscaling::v1 as autoscaling,
        core::v1::{Binding, Namespace, Pod, PodCondition, PodStatus},
    },
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
    jiff::Timestamp,
};
use naru_model::validation::{FieldErrors, Path, summary};
use serde_json::Value;

use super::{
    AnyObject, Call, ErasedKind, Part, Registry,
    managed::Owners,
    path::{Refusal, damaged},
};
use crate::{
    ApiError,
    admission::{self, matching::Operation},
    client::Patch,
    store::Entry,
};

const MAX_ATTEMPTS: usize = 64;

impl Registry {
    /// Assigns the pod named by `call` to the node that `binding` names.
    pub async fn bind(&self, call: &Call<'_>, mut binding: Binding) -> Result<(), ApiError> {
        call.settle_namespace(&mut binding.metadata)?;
        admission::topology::label_binding(&self.store().snapshot(), &mut binding);
        let to = (Operation::Create, "binding");
        let binding = &self.admit_message(call, to, binding, |binding| check_binding(call, binding)).await?;
        let node = binding.target.name.as_deref().unwrap_or_default();
        for _ in 0..MAX_ATTEMPTS {
            let entry = self.entry(call)?;
            let old = call.served.kind.load(&entry).map_err(|error| damaged(&entry, &error))?;
            check_binding_target(call, binding, &entry, old.get::<Pod>())?;
            let mut new = old.boxed();
            let now = Timestamp::now();
            if let Some(pod) = new.get_mut::<Pod>() {
                assign(pod, binding, node, now);
            }
            match self.put(call, &entry, &*old, &*new, Owners::Kept, now).await {
                Ok(_) => return Ok(()),
                Err(Refusal::Error(error)) => return Err(error),
                Err(Refusal::Taken | Refusal::Outdated) => (),
            }
        }
        Err(call.modified())
    }

    /// The scale of the object named by `call`.
    pub fn scale(&self, call: &Call<'_>) -> Result<Value, ApiError> {
        let entry = self.entry(call)?;
        scale_of(call, &entry)
    }

    /// Sets how many replicas the object asks for.
    pub async fn update_scale(&self, call: &Call<'_>, scale: &autoscaling::Scale) -> Result<Value, ApiError> {
        check_scale(call, scale)?;
        self.change_scale(call, |_| Ok(scale.clone())).await
    }

    /// The same by a patch of the scale.
    pub async fn patch_scale(&self, call: &Call<'_>, patch: &Patch) -> Result<Value, ApiError> {
        self.change_scale(call, |entry| {
            let mut value = scale_of(call, entry)?;
            super::patch::apply(patch, "Scale", &mut value)?;
            let scale: autoscaling::Scale = serde_json::from_value(value).map_err(|error| {
                ApiError::BadRequest(format!("Scale in version \"v1\" cannot be handled as a Scale: {error}"))
            })?;
            check_scale(call, &scale)?;
            Ok(scale)
        })
        .await
    }

    async fn change_scale(
        &self,
        call: &Call<'_>,
        wanted: impl Fn(&Entry) -> Result<autoscaling::Scale, ApiError> + Send + Sync,
    ) -> Result<Value, ApiError> {
        let kind = &call.served.kind;
        let outcome = self
            .update(call, Part::Scale, |entry| {
                let entry = entry.ok_or_else(|| call.not_found())?;
                let scale = wanted(entry)?;
                let mut object = kind.load(entry).map_err(|error| damaged(entry, &error))?.boxed();
                let replicas = scale.spec.and_then(|spec| spec.replicas).unwrap_or(0);
                object.meta_mut().resource_version = scale.metadata.resource_version;
                object.meta_mut().uid = scale.metadata.uid;
                kind.set_scale(&mut *object, replicas);
                Ok(object)
            })
            .await?;
        match &outcome.entry {
            Some(entry) => scale_of(call, entry),
            None => self.scale(call),
        }
    }
}

pub(super) fn scale_of(call: &Call<'_>, entry: &Entry) -> Result<Value, ApiError> {
    let object = call.served.kind.load(entry).map_err(|error| damaged(entry, &error))?;
    if call.served.kind.scale(&*object).is_none() {
        return Err(ApiError::NoSuchPath);
    }
    let mut scale =
        scale_value(&*call.served.kind, &*object).map_err(|error| ApiError::Internal(error.to_string()))?;
    scale["metadata"]["resourceVersion"] = entry.revision.0.to_string().into();
    Ok(scale)
}

/// The `Scale` of an object, as JSON.
pub(crate) fn scale_value(kind: &dyn ErasedKind, object: &dyn AnyObject) -> Result<Value, serde_json::Error> {
    let scale = kind.scale(object).unwrap_or_default();
    let meta = object.meta();
    serde_json::to_value(autoscaling::Scale {
        metadata: ObjectMeta {
            name: meta.name.clone(),
            namespace: meta.namespace.clone(),
            uid: meta.uid.clone(),
            resource_version: meta.resource_version.clone(),
            creation_timestamp: meta.creation_timestamp.clone(),
            ..ObjectMeta::default()
        },
        spec: Some(autoscaling::ScaleSpec { replicas: Some(scale.spec_replicas) }),
        status: Some(autoscaling::ScaleStatus {
            replicas: scale.status_replicas,
            selector: (!scale.selector.is_empty()).then_some(scale.selector),
        }),
    })
}

fn check_scale(call: &Call<'_>, scale: &autoscaling::Scale) -> Result<(), ApiError> {
    let mut errors = FieldErrors::default();
    let name = scale.metadata.name.as_deref().unwrap_or_default();
    if !name.is_empty() && name != call.name {
        return Err(ApiError::BadRequest(format!(
            "the name of the object ({name}) does not match the name on the URL ({})",
            call.name
        )));
    }
    let replicas = scale.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(0);
    if replicas < 0 {
        let path = Path::new("spec").child("replicas");
        errors.invalid(&path, replicas, "must be greater than or equal to 0");
    }
    if errors.is_empty() {
        return Ok(());
    }
    Err(ApiError::Invalid { kind: "Scale.autoscaling".into(), name: call.name.into(), errors: errors.0 })
}

fn check_binding(call: &Call<'_>, binding: &Binding) -> Result<(), ApiError> {
    call.check_name_of("Binding", &binding.metadata)?;
    let mut errors = FieldErrors::default();
    let target = Path::new("target");
    match binding.target.kind.as_deref().unwrap_or_default() {
        "" | "Node" => (),
        other => errors.not_supported(&target.child("kind"), other, &["Node", "<empty>"]),
    }
    if binding.target.name.as_deref().unwrap_or_default().is_empty() {
        errors.required(&target.child("name"), "");
    }
    if errors.is_empty() {
        return Ok(());
    }
    Err(ApiError::Unclassified(summary(&errors.0)))
}

fn check_binding_target(
    call: &Call<'_>,
    binding: &Binding,
    entry: &Entry,
    pod: Option<&Pod>,
) -> Result<(), ApiError> {
    let conflict = |message: String| ApiError::Conflict {
        resource: "pods/binding".into(),
        name: call.name.into(),
        message,
    };
    if let Some(uid) = &binding.metadata.uid
        && *uid != entry.meta.uid
    {
        let found = &entry.meta.uid;
        return Err(conflict(format!(
            "Precondition failed: UID in precondition: {uid}, UID in object meta: {found}"
        )));
    }
    let version = binding.metadata.resource_version.as_deref().unwrap_or_default();
    if !version.is_empty() && version != entry.revision.0.to_string() {
        let found = entry.revision.0;
        return Err(conflict(format!(
            "Precondition failed: ResourceVersion in precondition: {version}, ResourceVersion in object meta: {found}"
        )));
    }
    if entry.meta.deletion_timestamp.is_some() {
        return Err(conflict(format!("pod {} is being deleted, cannot be assigned to a host", call.name)));
    }
    let spec = pod.and_then(|pod| pod.spec.as_ref());
    if let Some(node) = spec.and_then(|spec| spec.node_name.as_deref()).filter(|node| !node.is_empty()) {
        return Err(conflict(format!("pod {} is already assigned to node \"{node}\"", call.name)));
    }
    if spec.and_then(|spec| spec.scheduling_gates.as_ref()).is_some_and(|gates| !gates.is_empty()) {
        return Err(conflict(format!("pod {} has non-empty .spec.schedulingGates", call.name)));
    }
    Ok(())
}

fn assign(pod: &mut Pod, binding: &Binding, node: &str, now: Timestamp) {
    if let Some(annotations) = &binding.metadata.annotations {
        pod.metadata.annotations.get_or_insert_default().extend(annotations.clone());
    }
    if let Some(labels) = &binding.metadata.labels {
        admission::topology::add(&mut pod.metadata, labels.clone());
    }
    if let Some(spec) = pod.spec.as_mut() {
        spec.node_name = Some(node.into());
    }
    let status = pod.status.get_or_insert_with(PodStatus::default);
    // It was where the pod might have gone.
    status.nominated_node_name = None;
    let conditions = status.conditions.get_or_insert_default();
    conditions.retain(|condition| condition.type_ != "PodScheduled");
    conditions.push(PodCondition {
        type_: "PodScheduled".into(),
        status: "True".into(),
        last_transition_time: Some(Time(now)),
        ..PodCondition::default()
    });
}

/// `old` with the finalizers of `new`'s spec, and nothing else of it.
pub(super) fn keep_all_but_finalizers(new: &mut dyn AnyObject, old: &dyn AnyObject) {
    let (Some(new), Some(old)) = (new.get_mut::<Namespace>(), old.get::<Namespace>()) else { return };
    let finalizers = new.spec.take().and_then(|spec| spec.finalizers);
    new.clone_from(old);
    new.spec.get_or_insert_default().finalizers = finalizers;
}
