//! IngressClasses: which controller serves an Ingress.

use k8s_openapi::{
    api::networking::v1::{IngressClass, IngressClassParametersReference, IngressClassSpec},
    jiff::Timestamp,
};
use naru_model::{
    ResourceInfo,
    validation::{FieldErrors, Path, meta},
};
use serde_json::Value;

use crate::registry::{
    Column, Kind,
    kind::age,
    podspec::{OrEmpty, check},
    text,
};

pub struct IngressClasses;

const MAX_CONTROLLER: usize = 250;

static RESOURCE: ResourceInfo = ResourceInfo {
    group: "networking.k8s.io",
    namespaced: false,
    ..text::core_resource("IngressClass", "ingressclasses", "ingressclass", &[])
};

const COLUMNS: &[Column] = &[
    text::NAME,
    text::column("Controller", "string", 0, "Controller that is responsible for handling this class"),
    text::column("Parameters", "string", 0, "A reference to a resource with additional parameters"),
    text::AGE,
];

impl Kind for IngressClasses {
    type Object = IngressClass;

    fn resource(&self) -> &'static ResourceInfo {
        &RESOURCE
    }

    fn default(&self, class: &mut IngressClass) {
        if let Some(parameters) = class.spec.as_mut().and_then(|spec| spec.parameters.as_mut()) {
            parameters.scope.get_or_insert_with(|| "Cluster".into());
        }
    }

    fn validate(&self, class: &IngressClass, errors: &mut FieldErrors) {
        let empty = IngressClassSpec::default();
        let spec = class.spec.as_ref().unwrap_or(&empty);
        let path = Path::new("spec");
        validate_controller(spec.controller.or_empty(), &path.child("controller"), errors);
        if let Some(parameters) = &spec.parameters {
            validate_parameters(parameters, &path.child("parameters"), errors);
        }
    }

    fn validate_update(&self, new: &IngressClass, old: &IngressClass, errors: &mut FieldErrors) {
        let controller = |class: &IngressClass| class.spec.as_ref().and_then(|spec| spec.controller.clone());
        let path = Path::new("spec").child("controller");
        meta::immutable_field(&path, &controller(new), &controller(old), errors);
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, class: &IngressClass, now: Timestamp) -> Vec<Value> {
        let spec = class.spec.as_ref();
        let parameters = spec.and_then(|spec| spec.parameters.as_ref()).map(|of| match &of.api_group {
            Some(group) => format!("{}.{group}/{}", of.kind, of.name),
            None => format!("{}/{}", of.kind, of.name),
        });
        vec![
            class.metadata.name.or_empty().into(),
            spec.map(|spec| spec.controller.or_empty()).unwrap_or_default().into(),
            parameters.unwrap_or_else(|| "<none>".into()).into(),
            age(class.metadata.creation_timestamp.as_ref(), now).into(),
        ]
    }
}

/// `example.com/ingress-controller`
fn validate_controller(controller: &str, path: &Path, errors: &mut FieldErrors) {
    if controller.is_empty() {
        return errors.required(path, "");
    }
    if controller.len() > MAX_CONTROLLER {
        errors.too_long(path, MAX_CONTROLLER);
    }
    let Some((host, rest)) =
        controller.split_once('/').filter(|(host, rest)| !host.is_empty() && !rest.is_empty())
    else {
        let detail = "must be a domain-prefixed path (such as \"acme.io/foo\")";
        return errors.invalid(path, controller, detail);
    };
    check::subdomain(host, path, errors);
    let is_path_byte = |byte: u8| byte.is_ascii_alphanumeric() || b"/-._~%!$&'()*+,;=:".contains(&byte);
    if !rest.bytes().all(is_path_byte) {
        let detail = "Invalid path (regex used for validation is '[A-Za-z0-9/\\-._~%!$&'()*+,;=:]+')";
        errors.invalid(path, rest, detail);
    }
}

fn validate_parameters(of: &IngressClassParametersReference, path: &Path, errors: &mut FieldErrors) {
    if let Some(group) = &of.api_group {
        check::subdomain(group, &path.child("apiGroup"), errors);
    }
    check::path_segment(&of.kind, &path.child("kind"), errors);
    check::path_segment(&of.name, &path.child("name"), errors);
    let at = path.child("namespace");
    match (of.scope.or_empty(), &of.namespace) {
        ("Namespace", None) => errors.required(&at, "`parameters.scope` is set to 'Namespace'"),
        ("Namespace", Some(namespace)) => check::dns_label(namespace, &at, errors),
        ("Cluster", Some(_)) => errors.forbidden(&at, "`parameters.scope` is set to 'Cluster'"),
        ("Cluster", None) => (),
        (other, _) => errors.not_supported(&path.child("scope"), other, &["Cluster", "Namespace"]),
    }
}
