//! APIServices: who serves which group and version.

use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::Time,
    jiff::Timestamp,
    kube_aggregator::pkg::apis::apiregistration::v1::{
        APIService, APIServiceCondition, APIServiceSpec, APIServiceStatus, ServiceReference,
    },
};
use naru_model::{
    ResourceInfo,
    validation::{FieldErrors, Path, names},
};
use serde_json::Value;

use super::{
    Column, Kind,
    kind::{Context, age},
    podspec::{OrEmpty, check},
    text,
};

pub struct ApiServices;

const HTTPS: i32 = 443;

static RESOURCE: ResourceInfo = ResourceInfo {
    group: "apiregistration.k8s.io",
    namespaced: false,
    categories: &["api-extensions"],
    subresources: &["status"],
    ..text::core_resource("APIService", "apiservices", "apiservice", &[])
};

const COLUMNS: &[Column] = &[
    text::NAME,
    text::column("Service", "string", 0, "The reference to the service that hosts this API endpoint."),
    text::column("Available", "string", 0, "Whether this service is available."),
    text::AGE,
];

impl Kind for ApiServices {
    type Object = APIService;

    fn resource(&self) -> &'static ResourceInfo {
        &RESOURCE
    }

    fn default(&self, service: &mut APIService) {
        if let Some(service) = service.spec.as_mut().and_then(|spec| spec.service.as_mut()) {
            service.port.get_or_insert(HTTPS);
        }
    }

    fn prepare_create(&self, service: &mut APIService, context: &Context<'_>) {
        let is_local = service.spec.as_ref().is_none_or(|spec| spec.service.is_none());
        let conditions = is_local.then(|| vec![always_available(context.now)]);
        service.status = Some(APIServiceStatus { conditions });
    }

    fn prepare_update(&self, new: &mut APIService, old: &APIService, _context: &Context<'_>) {
        new.status.clone_from(&old.status);
    }

    fn prepare_status_update(&self, new: &mut APIService, old: &APIService, _context: &Context<'_>) {
        new.spec.clone_from(&old.spec);
    }

    fn has_generation(&self) -> bool {
        false
    }

    fn requires_resource_version(&self) -> bool {
        true
    }

    fn validate_name(&self, name: &str, errors: &mut FieldErrors) {
        let path = Path::new("metadata").child("name");
        errors.problems(&path, name, names::path_segment_name(name, false));
    }

    fn validate(&self, service: &APIService, errors: &mut FieldErrors) {
        let empty = APIServiceSpec::default();
        let spec = service.spec.as_ref().unwrap_or(&empty);
        let name = service.metadata.name.or_empty();
        let required = format!("{}.{}", spec.version.or_empty(), spec.group.or_empty());
        if names::path_segment_name(name, false).is_empty() && name != required {
            let detail = format!("must be `spec.version+\".\"+spec.group`: {required:?}");
            errors.invalid(&Path::new("metadata").child("name"), name, &detail);
        }
        validate_spec(spec, &Path::new("spec"), errors);
    }

    fn validate_status_update(&self, new: &APIService, _old: &APIService, errors: &mut FieldErrors) {
        let path = Path::new("status").child("conditions");
        for (index, condition) in conditions(new).iter().enumerate() {
            let path = path.index(index).child("status");
            check::one_of(&condition.status, &["True", "False", "Unknown"], &path, errors);
        }
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, service: &APIService, now: Timestamp) -> Vec<Value> {
        let host = service.spec.as_ref().and_then(|spec| spec.service.as_ref()).map_or_else(
            || "Local".to_owned(),
            |host| format!("{}/{}", host.namespace.or_empty(), host.name.or_empty()),
        );
        let available = conditions(service).iter().find(|condition| condition.type_ == "Available");
        let available = available.map_or_else(
            || "Unknown".to_owned(),
            |condition| match condition.status.as_str() {
                "True" => "True".into(),
                status => format!("{status} ({})", condition.reason.or_empty()),
            },
        );
        vec![
            service.metadata.name.or_empty().into(),
            host.into(),
            available.into(),
            age(service.metadata.creation_timestamp.as_ref(), now).into(),
        ]
    }
}

fn conditions(service: &APIService) -> &[APIServiceCondition] {
    service.status.as_ref().map(|status| status.conditions.or_empty()).unwrap_or_default()
}

/// Of groups that this process serves itself.
fn always_available(now: Timestamp) -> APIServiceCondition {
    APIServiceCondition {
        type_: "Available".into(),
        status: "True".into(),
        reason: Some("Local".into()),
        message: Some("Local APIServices are always available".into()),
        last_transition_time: Some(Time(now)),
    }
}

fn validate_spec(spec: &APIServiceSpec, path: &Path, errors: &mut FieldErrors) {
    let (group, version) = (spec.group.or_empty(), spec.version.or_empty());
    if !group.is_empty() {
        check::subdomain(group, &path.child("group"), errors);
    } else if version != "v1" {
        let detail = "only v1 may have an empty group and it better be legacy kube";
        errors.required(&path.child("group"), detail);
    }
    errors.problems(&path.child("version"), version, names::dns1035_label(version));
    for (field, value, max) in [
        ("groupPriorityMinimum", spec.group_priority_minimum, 20_000),
        ("versionPriority", spec.version_priority, 1_000),
    ] {
        if !(1..=max).contains(&value) {
            errors.invalid(&path.child(field), value, &format!("must be positive and less than {max}"));
        }
    }
    let bundle = spec.ca_bundle.as_ref().map_or(0, |bundle| bundle.0.len());
    let is_insecure = spec.insecure_skip_tls_verify == Some(true);
    let at = path.child("insecureSkipTLSVerify");
    match &spec.service {
        None => {
            if bundle > 0 {
                let detail = "local APIServices may not have a caBundle";
                errors.invalid(&path.child("caBundle"), format!("{bundle} bytes"), detail);
            }
            if is_insecure {
                errors.invalid(&at, true, "local APIServices may not have insecureSkipTLSVerify");
            }
        }
        Some(service) => {
            validate_service(service, &path.child("service"), errors);
            if is_insecure && bundle > 0 {
                errors.invalid(&at, true, "may not be true if caBundle is present");
            }
        }
    }
}

fn validate_service(service: &ServiceReference, path: &Path, errors: &mut FieldErrors) {
    check::required_text(service.namespace.or_empty(), &path.child("namespace"), errors);
    check::required_text(service.name.or_empty(), &path.child("name"), errors);
    let port = service.port.unwrap_or_default();
    let problems = names::port_number(port.into());
    if !problems.is_empty() {
        let detail = format!("port is not valid: {}", problems.join(", "));
        errors.invalid(&path.child("port"), port, &detail);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::testing::{at, cells, check, create};

    fn service(name: &str, fields: &str) -> String {
        format!(
            "{{metadata: {{name: {name}}}, spec: {{group: a.example, version: v1, groupPriorityMinimum: 100, versionPriority: 10, {fields}}}}}"
        )
    }

    #[test]
    fn a_group_is_served_here_or_by_a_service() {
        let remote = service("v1.a.example", "service: {namespace: n, name: s}");
        let (object, errors) = create(&ApiServices, &remote);
        assert_eq!(errors, [] as [&str; 0]);
        assert_eq!(at(&object, "/spec/service/port"), 443);
        assert_eq!(cells(&ApiServices, &remote), ["n/s", "Unknown", "<unknown>"]);
        let (local, errors) = create(&ApiServices, &service("v1.a.example", ""));
        assert_eq!(errors, [] as [&str; 0]);
        let row = ApiServices.row(&local, crate::registry::testing::now());
        assert_eq!(row[1..3], ["Local", "True"]);
        let broken = "{metadata: {name: v1.a.example}, status: {conditions: [{type: Available, status: 'False', reason: FailedDiscoveryCheck}]}}";
        assert_eq!(cells(&ApiServices, broken), ["Local", "False (FailedDiscoveryCheck)", "<unknown>"]);
    }

    #[test]
    fn names_priorities_and_services_are_checked() {
        for (yaml, expected) in [
            (
                service("v2.a.example", ""),
                &["metadata.name: Invalid value: \"v2.a.example\": must be `spec.version+\".\"+spec.group`: \"v1.a.example\""][..],
            ),
            (
                "{metadata: {name: v1.}, spec: {version: v1, groupPriorityMinimum: 0, versionPriority: 1001}}".into(),
                &[
                    "spec.groupPriorityMinimum: Invalid value: 0: must be positive and less than 20000",
                    "spec.versionPriority: Invalid value: 1001: must be positive and less than 1000",
                ],
            ),
            (
                service("v1.a.example", "caBundle: YQ==, insecureSkipTLSVerify: true"),
                &[
                    "spec.caBundle: Invalid value: \"1 bytes\": local APIServices may not have a caBundle",
                    "spec.insecureSkipTLSVerify: Invalid value: true: local APIServices may not have insecureSkipTLSVerify",
                ],
            ),
            (
                service("v1.a.example", "caBundle: YQ==, insecureSkipTLSVerify: true, service: {name: s, port: 0}"),
                &[
                    "spec.service.namespace: Required value",
                    "spec.service.port: Invalid value: 0: port is not valid: must be between 1 and 65535, inclusive",
                    "spec.insecureSkipTLSVerify: Invalid value: true: may not be true if caBundle is present",
                ],
            ),
        ] {
            check(&ApiServices, &yaml, expected);
        }
    }
}
