//! Ingresses: which requests from outside reach which services.

use k8s_openapi::{
    api::{
        core::v1::TypedLocalObjectReference,
        networking::v1::{
            HTTPIngressPath, Ingress, IngressBackend, IngressLoadBalancerIngress, IngressRule,
            IngressServiceBackend, IngressSpec, IngressStatus, IngressTLS,
        },
    },
    jiff::Timestamp,
};
use naru_model::{
    ResourceInfo,
    validation::{FieldErrors, Path, names},
};
use serde_json::{Value, json};
use std::{collections::BTreeSet, net::IpAddr};

use crate::registry::{
    Column, Kind,
    kind::{Context, age},
    podspec::{OrEmpty, check},
    text,
};

pub struct Ingresses;

/// What chose the class before `spec.ingressClassName` did.
const CLASS_ANNOTATION: &str = "kubernetes.io/ingress.class";

static RESOURCE: ResourceInfo = ResourceInfo {
    group: "networking.k8s.io",
    subresources: &["status"],
    ..text::core_resource("Ingress", "ingresses", "ingress", &["ing"])
};

const COLUMNS: &[Column] = &[
    text::NAME,
    text::column(
        "Class",
        "string",
        0,
        "The name of the IngressClass resource that should be used for additional configuration",
    ),
    text::column(
        "Hosts",
        "string",
        0,
        "Hosts that incoming requests are matched against before the ingress rule",
    ),
    text::column("Address", "string", 0, "Address is a list containing ingress points for the load-balancer"),
    text::column("Ports", "string", 0, "Ports of TLS configurations that open"),
    text::AGE,
];

impl Kind for Ingresses {
    type Object = Ingress;

    fn resource(&self) -> &'static ResourceInfo {
        &RESOURCE
    }

    fn prepare_create(&self, ingress: &mut Ingress, _context: &Context<'_>) {
        ingress.status = Some(IngressStatus { load_balancer: Some(Default::default()) });
    }

    fn prepare_update(&self, new: &mut Ingress, old: &Ingress, _context: &Context<'_>) {
        new.status.clone_from(&old.status);
    }

    fn prepare_status_update(&self, new: &mut Ingress, old: &Ingress, _context: &Context<'_>) {
        new.spec.clone_from(&old.spec);
    }

    fn validate(&self, ingress: &Ingress, errors: &mut FieldErrors) {
        let empty = IngressSpec::default();
        validate_spec(ingress.spec.as_ref().unwrap_or(&empty), &Path::new("spec"), errors);
    }

    fn validate_create(&self, ingress: &Ingress, errors: &mut FieldErrors) {
        let class = ingress.spec.as_ref().and_then(|spec| spec.ingress_class_name.as_ref());
        if let (Some(annotated), Some(class)) = (annotated_class(ingress), class)
            && annotated != class
        {
            let path = Path::new("annotations").child(CLASS_ANNOTATION);
            errors.invalid(
                &path,
                annotated.as_str(),
                "must match `ingressClassName` when both are specified",
            );
        }
    }

    fn validate_status_update(&self, new: &Ingress, _old: &Ingress, errors: &mut FieldErrors) {
        let path = Path::new("status").child("loadBalancer").child("ingress");
        for (index, point) in points(new).iter().enumerate() {
            validate_point(point, &path.index(index), errors);
        }
    }

    fn warnings(&self, ingress: &Ingress) -> Vec<String> {
        let has_class = ingress.spec.as_ref().is_some_and(|spec| spec.ingress_class_name.is_some());
        if has_class || annotated_class(ingress).is_none() {
            return Vec::new();
        }
        vec![format!(
            "annotation {CLASS_ANNOTATION:?} is deprecated, please use 'spec.ingressClassName' instead"
        )]
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, ingress: &Ingress, now: Timestamp) -> Vec<Value> {
        let empty = IngressSpec::default();
        let spec = ingress.spec.as_ref().unwrap_or(&empty);
        let addresses: BTreeSet<&str> = points(ingress)
            .iter()
            .map(|point| if point.ip.or_empty().is_empty() { &point.hostname } else { &point.ip })
            .map(OrEmpty::or_empty)
            .filter(|address| !address.is_empty())
            .collect();
        let ports = if spec.tls.or_empty().is_empty() { "80" } else { "80, 443" };
        vec![
            ingress.metadata.name.or_empty().into(),
            spec.ingress_class_name.as_deref().unwrap_or("<none>").into(),
            hosts(spec.rules.or_empty()).into(),
            addresses.into_iter().collect::<Vec<_>>().join(",").into(),
            ports.into(),
            age(ingress.metadata.creation_timestamp.as_ref(), now).into(),
        ]
    }
}

fn annotated_class(ingress: &Ingress) -> Option<&String> {
    ingress.metadata.annotations.as_ref()?.get(CLASS_ANNOTATION)
}

/// Where its traffic comes in.
fn points(ingress: &Ingress) -> &[IngressLoadBalancerIngress] {
    let balancer = ingress.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    balancer.map(|balancer| balancer.ingress.or_empty()).unwrap_or_default()
}

/// `a.example,b.example`, `*` for all, or the first three and how many rules more there are.
fn hosts(rules: &[IngressRule]) -> String {
    const SHOWN: usize = 3;
    let mut shown = Vec::new();
    for rule in rules {
        if shown.len() == SHOWN {
            return format!("{} + {} more...", shown.join(","), rules.len() - SHOWN);
        }
        shown.extend(rule.host.as_deref().filter(|host| !host.is_empty()));
    }
    if shown.is_empty() { "*".into() } else { shown.join(",") }
}

fn validate_spec(spec: &IngressSpec, path: &Path, errors: &mut FieldErrors) {
    let rules = spec.rules.or_empty();
    if rules.is_empty() && spec.default_backend.is_none() {
        errors.invalid(path, json!(spec.rules), "either `defaultBackend` or `rules` must be specified");
    }
    if let Some(backend) = &spec.default_backend {
        validate_backend(backend, &path.child("defaultBackend"), errors);
    }
    for (index, rule) in rules.iter().enumerate() {
        validate_rule(rule, &path.child("rules").index(index), errors);
    }
    for (index, tls) in spec.tls.or_empty().iter().enumerate() {
        validate_tls(tls, &path.child("tls").index(index), errors);
    }
    if let Some(class) = &spec.ingress_class_name {
        check::subdomain(class, &path.child("ingressClassName"), errors);
    }
}

fn validate_tls(tls: &IngressTLS, path: &Path, errors: &mut FieldErrors) {
    for (index, host) in tls.hosts.or_empty().iter().enumerate() {
        validate_host(host, &path.child("hosts").index(index), errors);
    }
    if !tls.secret_name.or_empty().is_empty() {
        check::subdomain(tls.secret_name.or_empty(), &path.child("secretName"), errors);
    }
}

fn validate_host(host: &str, path: &Path, errors: &mut FieldErrors) {
    if host.contains('*') {
        errors.problems(path, host, names::wildcard_dns1123_subdomain(host));
    } else {
        check::subdomain(host, path, errors);
    }
}

fn validate_rule(rule: &IngressRule, path: &Path, errors: &mut FieldErrors) {
    let host = rule.host.or_empty();
    if !host.is_empty() {
        let path = path.child("host");
        if host.parse::<IpAddr>().is_ok() {
            errors.invalid(&path, host, "must be a DNS name, not an IP address");
        }
        validate_host(host, &path, errors);
    }
    let Some(http) = &rule.http else { return };
    let path = path.child("http").child("paths");
    if http.paths.is_empty() {
        errors.required(&path, "");
    }
    for (index, route) in http.paths.iter().enumerate() {
        validate_path(route, &path.index(index), errors);
    }
}

fn validate_path(route: &HTTPIngressPath, path: &Path, errors: &mut FieldErrors) {
    let (text, at) = (route.path.or_empty(), path.child("path"));
    let is_absolute = text.starts_with('/');
    match route.path_type.as_str() {
        "" => return errors.required(&path.child("pathType"), "pathType must be specified"),
        "Exact" | "Prefix" => {
            if !is_absolute {
                errors.invalid(&at, text, "must be an absolute path");
            }
            for sequence in ["//", "/./", "/../", "%2f", "%2F"].iter().filter(|part| text.contains(**part)) {
                errors.invalid(&at, text, &format!("must not contain '{sequence}'"));
            }
            for suffix in ["/..", "/."].iter().filter(|end| text.ends_with(**end)) {
                errors.invalid(&at, text, &format!("cannot end with '{suffix}'"));
            }
        }
        "ImplementationSpecific" => {
            if !text.is_empty() && !is_absolute {
                errors.invalid(&at, text, "must be an absolute path");
            }
        }
        other => {
            let supported = ["Exact", "ImplementationSpecific", "Prefix"];
            errors.not_supported(&path.child("pathType"), other, &supported);
        }
    }
    validate_backend(&route.backend, &path.child("backend"), errors);
}

fn validate_backend(backend: &IngressBackend, path: &Path, errors: &mut FieldErrors) {
    match (&backend.resource, &backend.service) {
        (Some(_), Some(_)) => errors.invalid(path, "", "cannot set both resource and service backends"),
        (None, None) => errors.invalid(path, "", "resource or service backend is required"),
        (Some(resource), None) => validate_resource(resource, &path.child("resource"), errors),
        (None, Some(service)) => validate_service(service, path, errors),
    }
}

fn validate_resource(resource: &TypedLocalObjectReference, path: &Path, errors: &mut FieldErrors) {
    if let Some(group) = &resource.api_group {
        check::subdomain(group, &path.child("apiGroup"), errors);
    }
    check::path_segment(&resource.kind, &path.child("kind"), errors);
    check::path_segment(&resource.name, &path.child("name"), errors);
}

fn validate_service(service: &IngressServiceBackend, path: &Path, errors: &mut FieldErrors) {
    let at = path.child("service");
    if service.name.is_empty() {
        errors.required(&at.child("name"), "");
    } else {
        check::dns_label(&service.name, &at.child("name"), errors);
    }
    let name = service.port.as_ref().map(|port| port.name.or_empty()).unwrap_or_default();
    let number = service.port.as_ref().and_then(|port| port.number).unwrap_or_default();
    match (name, number) {
        ("", 0) => errors.required(path, "port name or number is required"),
        ("", number) => check::port(number, &at.child("port").child("number"), errors),
        (name, 0) => check::port_name(name, &at.child("port").child("name"), errors),
        _ => errors.invalid(path, "", "cannot set both port name & port number"),
    }
}

fn validate_point(point: &IngressLoadBalancerIngress, path: &Path, errors: &mut FieldErrors) {
    if !point.ip.or_empty().is_empty() {
        check::ip(point.ip.or_empty(), &path.child("ip"), errors);
    }
    let host = point.hostname.or_empty();
    if host.is_empty() {
        return;
    }
    let path = path.child("hostname");
    check::subdomain(host, &path, errors);
    if host.parse::<IpAddr>().is_ok() {
        errors.invalid(&path, host, "must be a DNS name, not an IP address");
    }
}
