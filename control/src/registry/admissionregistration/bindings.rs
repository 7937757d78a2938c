//! Bindings: where a policy applies, and with which parameters.

use k8s_openapi::{
    api::admissionregistration::v1::{
        MutatingAdmissionPolicyBinding, MutatingAdmissionPolicyBindingSpec, ParamKind, ParamRef,
        ValidatingAdmissionPolicyBinding,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
    jiff::Timestamp,
};
use naru_model::{
    ResourceInfo, selector,
    validation::{FieldErrors, Path},
};
use serde_json::{Value, json};
use std::collections::BTreeSet;

use super::{matching, suffix_warning};
use crate::registry::{
    Column, Kind,
    kind::age,
    podspec::{OrEmpty, check},
    text,
};

pub struct ValidatingBindings;
pub struct MutatingBindings;

const ACTIONS: &[&str] = &["Audit", "Deny", "Warn"];

const COLUMNS: &[Column] = &[
    text::NAME,
    text::column(
        "PolicyName",
        "string",
        0,
        "PolicyName indicates the policy definition which the policy binding binded to",
    ),
    text::column(
        "ParamRef",
        "string",
        0,
        "ParamRef indicates the param resource which sets the configration param",
    ),
    text::AGE,
];

static VALIDATING: ResourceInfo = ResourceInfo {
    group: "admissionregistration.k8s.io",
    namespaced: false,
    categories: &["api-extensions"],
    ..text::core_resource(
        "ValidatingAdmissionPolicyBinding",
        "validatingadmissionpolicybindings",
        "validatingadmissionpolicybinding",
        &[],
    )
};

static MUTATING: ResourceInfo = ResourceInfo {
    group: "admissionregistration.k8s.io",
    namespaced: false,
    categories: &["api-extensions"],
    ..text::core_resource(
        "MutatingAdmissionPolicyBinding",
        "mutatingadmissionpolicybindings",
        "mutatingadmissionpolicybinding",
        &[],
    )
};

impl Kind for ValidatingBindings {
    type Object = ValidatingAdmissionPolicyBinding;

    fn resource(&self) -> &'static ResourceInfo {
        &VALIDATING
    }

    fn default(&self, binding: &mut ValidatingAdmissionPolicyBinding) {
        let resources = binding.spec.match_resources.as_mut();
        resources.into_iter().for_each(matching::default_resources);
    }

    fn requires_resource_version(&self) -> bool {
        true
    }

    fn validate(&self, binding: &ValidatingAdmissionPolicyBinding, errors: &mut FieldErrors) {
        let (spec, path) = (&binding.spec, Path::new("spec"));
        validate_policy(&spec.policy_name, spec.param_ref.as_ref(), &path, errors);
        if let Some(resources) = &spec.match_resources {
            matching::validate_resources(resources, &path.child("matchResources"), errors);
        }
        validate_actions(&spec.validation_actions, &path.child("validationActions"), errors);
    }

    fn warnings(&self, binding: &ValidatingAdmissionPolicyBinding) -> Vec<String> {
        suffix_warning(binding.metadata.name.or_empty()).into_iter().collect()
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, binding: &ValidatingAdmissionPolicyBinding, now: Timestamp) -> Vec<Value> {
        let spec = &binding.spec;
        row(&binding.metadata, &spec.policy_name, spec.param_ref.as_ref(), now)
    }
}

impl Kind for MutatingBindings {
    type Object = MutatingAdmissionPolicyBinding;

    fn resource(&self) -> &'static ResourceInfo {
        &MUTATING
    }

    fn default(&self, binding: &mut MutatingAdmissionPolicyBinding) {
        let resources = binding.spec.as_mut().and_then(|spec| spec.match_resources.as_mut());
        resources.into_iter().for_each(matching::default_resources);
    }

    fn requires_resource_version(&self) -> bool {
        true
    }

    fn validate(&self, binding: &MutatingAdmissionPolicyBinding, errors: &mut FieldErrors) {
        let empty = MutatingAdmissionPolicyBindingSpec::default();
        let (spec, path) = (binding.spec.as_ref().unwrap_or(&empty), Path::new("spec"));
        validate_policy(spec.policy_name.or_empty(), spec.param_ref.as_ref(), &path, errors);
        if let Some(resources) = &spec.match_resources {
            let path = path.child("matchResources");
            matching::validate_resources(resources, &path, errors);
            matching::validate_mutable(resources, &path, errors);
        }
    }

    fn warnings(&self, binding: &MutatingAdmissionPolicyBinding) -> Vec<String> {
        suffix_warning(binding.metadata.name.or_empty()).into_iter().collect()
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, binding: &MutatingAdmissionPolicyBinding, now: Timestamp) -> Vec<Value> {
        let spec = binding.spec.as_ref();
        let policy = spec.map_or("", |spec| spec.policy_name.or_empty());
        row(&binding.metadata, policy, spec.and_then(|spec| spec.param_ref.as_ref()), now)
    }
}

fn row(meta: &ObjectMeta, policy: &str, param: Option<&ParamRef>, now: Timestamp) -> Vec<Value> {
    let param = param.map_or_else(
        || "<unset>".to_owned(),
        |param| match (param.namespace.or_empty(), param.name.or_empty()) {
            ("", "") => selector::format_api(param.selector.as_ref()),
            // A parameter of the cluster looks the same from here.
            ("", name) => format!("*/{name}"),
            (namespace, name) => format!("{namespace}/{name}"),
        },
    );
    vec![
        meta.name.or_empty().into(),
        policy.into(),
        param.into(),
        age(meta.creation_timestamp.as_ref(), now).into(),
    ]
}

/// `example.com/v1/Limits`, or `<unset>`.
pub(super) fn param_kind(kind: Option<&ParamKind>) -> String {
    kind.map_or_else(
        || "<unset>".into(),
        |kind| format!("{}/{}", kind.api_version.or_empty(), kind.kind.or_empty()),
    )
}

fn validate_policy(name: &str, param: Option<&ParamRef>, path: &Path, errors: &mut FieldErrors) {
    let at = path.child("policyName");
    if name.is_empty() {
        errors.required(&at, "");
    } else {
        check::subdomain(name, &at, errors);
    }
    if let Some(param) = param {
        matching::validate_param_ref(param, &path.child("paramRef"), errors);
    }
}

fn validate_actions(actions: &[String], path: &Path, errors: &mut FieldErrors) {
    let mut seen = BTreeSet::new();
    for (index, action) in actions.iter().enumerate() {
        let path = path.index(index);
        check::one_of(action, ACTIONS, &path, errors);
        if !seen.insert(action.as_str()) {
            errors.duplicate(&path, action.as_str());
        }
    }
    if seen.contains("Deny") && seen.contains("Warn") {
        let detail = "must not contain both Deny and Warn (repeating the same validation failure information in the \
                      API response and headers serves no purpose)";
        errors.invalid(path, json!(actions), detail);
    }
    if seen.is_empty() {
        errors.required(path, "at least one validation action is required");
    }
}
