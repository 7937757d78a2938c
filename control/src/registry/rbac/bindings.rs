//! RoleBindings and ClusterRoleBindings: who has a role.

use k8s_openapi::{
    api::rbac::v1::{ClusterRoleBinding, RoleBinding, RoleRef, Subject},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
    jiff::Timestamp,
};
use naru_model::{
    ResourceInfo,
    validation::{FieldErrors, Path, names},
};
use serde_json::{Value, json};

use super::super::{Column, Kind, kind::age, podspec::OrEmpty, text};
use crate::auth::rbac::GROUP;

pub struct RoleBindings;
pub struct ClusterRoleBindings;

static ROLE_BINDINGS: ResourceInfo = super::resource("RoleBinding", "rolebindings", "rolebinding", true);
static CLUSTER_ROLE_BINDINGS: ResourceInfo =
    super::resource("ClusterRoleBinding", "clusterrolebindings", "clusterrolebinding", false);

const ROLE: &str = "RoleRef can reference a Role in the current namespace or a ClusterRole in the global namespace. If the RoleRef cannot be resolved, the Authorizer must return an error. This field is immutable.";
const CLUSTER_ROLE: &str = "RoleRef can only reference a ClusterRole in the global namespace. If the RoleRef cannot be resolved, the Authorizer must return an error. This field is immutable.";

const COLUMNS: &[Column] = &[
    text::NAME,
    text::column("Role", "string", 0, ROLE),
    text::AGE,
    text::column("Users", "string", 1, "Users in the roleBinding"),
    text::column("Groups", "string", 1, "Groups in the roleBinding"),
    text::column("ServiceAccounts", "string", 1, "ServiceAccounts in the roleBinding"),
];
const CLUSTER_COLUMNS: &[Column] = &[
    text::NAME,
    text::column("Role", "string", 0, CLUSTER_ROLE),
    text::AGE,
    text::column("Users", "string", 1, "Users in the clusterRoleBinding"),
    text::column("Groups", "string", 1, "Groups in the clusterRoleBinding"),
    text::column("ServiceAccounts", "string", 1, "ServiceAccounts in the clusterRoleBinding"),
];

fn row(metadata: &ObjectMeta, role: &RoleRef, subjects: &[Subject], now: Timestamp) -> Vec<Value> {
    let of = |kind: &str| {
        let names = subjects.iter().filter(|subject| subject.kind == kind).map(|subject| {
            match subject.namespace.as_deref().filter(|of| !of.is_empty() && kind == "ServiceAccount") {
                Some(namespace) => format!("{namespace}/{}", subject.name),
                None => subject.name.clone(),
            }
        });
        Value::from(names.collect::<Vec<_>>().join(", "))
    };
    vec![
        metadata.name.or_empty().into(),
        format!("{}/{}", role.kind, role.name).into(),
        age(metadata.creation_timestamp.as_ref(), now).into(),
        of("User"),
        of("Group"),
        of("ServiceAccount"),
    ]
}

impl Kind for RoleBindings {
    type Object = RoleBinding;

    fn resource(&self) -> &'static ResourceInfo {
        &ROLE_BINDINGS
    }
    fn has_generation(&self) -> bool {
        false
    }
    fn allows_create_on_update(&self) -> bool {
        true
    }
    fn default(&self, binding: &mut RoleBinding) {
        default(&mut binding.role_ref, binding.subjects.as_mut());
    }
    fn validate_name(&self, name: &str, errors: &mut FieldErrors) {
        super::validate_name(name, errors);
    }
    fn validate(&self, binding: &RoleBinding, errors: &mut FieldErrors) {
        validate(&binding.role_ref, binding.subjects.or_empty(), true, errors);
    }
    fn validate_update(&self, new: &RoleBinding, old: &RoleBinding, errors: &mut FieldErrors) {
        validate_same_role(&new.role_ref, &old.role_ref, errors);
    }
    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }
    fn row(&self, binding: &RoleBinding, now: Timestamp) -> Vec<Value> {
        row(&binding.metadata, &binding.role_ref, binding.subjects.or_empty(), now)
    }
}

impl Kind for ClusterRoleBindings {
    type Object = ClusterRoleBinding;

    fn resource(&self) -> &'static ResourceInfo {
        &CLUSTER_ROLE_BINDINGS
    }
    fn has_generation(&self) -> bool {
        false
    }
    fn allows_create_on_update(&self) -> bool {
        true
    }
    fn default(&self, binding: &mut ClusterRoleBinding) {
        default(&mut binding.role_ref, binding.subjects.as_mut());
    }
    fn validate_name(&self, name: &str, errors: &mut FieldErrors) {
        super::validate_name(name, errors);
    }
    fn validate(&self, binding: &ClusterRoleBinding, errors: &mut FieldErrors) {
        validate(&binding.role_ref, binding.subjects.or_empty(), false, errors);
    }
    fn validate_update(&self, new: &ClusterRoleBinding, old: &ClusterRoleBinding, errors: &mut FieldErrors) {
        validate_same_role(&new.role_ref, &old.role_ref, errors);
    }
    fn columns(&self) -> &'static [Column] {
        CLUSTER_COLUMNS
    }
    fn row(&self, binding: &ClusterRoleBinding, now: Timestamp) -> Vec<Value> {
        row(&binding.metadata, &binding.role_ref, binding.subjects.or_empty(), now)
    }
}

fn default(role: &mut RoleRef, subjects: Option<&mut Vec<Subject>>) {
    if role.api_group.or_empty().is_empty() {
        role.api_group = Some(GROUP.into());
    }
    for subject in subjects.into_iter().flatten() {
        let is_of_group = matches!(subject.kind.as_str(), "User" | "Group");
        if is_of_group && subject.api_group.as_deref().unwrap_or_default().is_empty() {
            subject.api_group = Some(GROUP.into());
        }
    }
}

fn validate(role: &RoleRef, subjects: &[Subject], is_namespaced: bool, errors: &mut FieldErrors) {
    let path = Path::new("roleRef");
    if role.api_group.or_empty() != GROUP {
        errors.not_supported(&path.child("apiGroup"), role.api_group.or_empty(), &[GROUP]);
    }
    let kinds: &[&str] = if is_namespaced { &["Role", "ClusterRole"] } else { &["ClusterRole"] };
    if !kinds.contains(&role.kind.as_str()) {
        errors.not_supported(&path.child("kind"), role.kind.as_str(), kinds);
    }
    let name = path.child("name");
    if role.name.is_empty() {
        errors.required(&name, "");
    } else {
        errors.problems(&name, &role.name, names::path_segment_name(&role.name, false));
    }
    for (index, subject) in subjects.iter().enumerate() {
        validate_subject(subject, is_namespaced, &Path::new("subjects").index(index), errors);
    }
}

fn validate_subject(subject: &Subject, is_namespaced: bool, path: &Path, errors: &mut FieldErrors) {
    let (name, group) = (&subject.name, subject.api_group.as_deref().unwrap_or_default());
    if name.is_empty() {
        errors.required(&path.child("name"), "");
    }
    match subject.kind.as_str() {
        "ServiceAccount" => {
            if !name.is_empty() {
                errors.problems(&path.child("name"), name, names::dns1123_subdomain(name));
            }
            if !group.is_empty() {
                errors.not_supported(&path.child("apiGroup"), group, &[""]);
            }
            if !is_namespaced && subject.namespace.as_deref().unwrap_or_default().is_empty() {
                errors.required(&path.child("namespace"), "");
            }
        }
        kind @ ("User" | "Group") => {
            if name.is_empty() {
                let detail = format!("{} name cannot be empty", kind.to_lowercase());
                errors.invalid(&path.child("name"), name.as_str(), &detail);
            }
            if group != GROUP {
                errors.not_supported(&path.child("apiGroup"), group, &[GROUP]);
            }
        }
        other => {
            errors.not_supported(&path.child("kind"), other, &["ServiceAccount", "User", "Group"]);
        }
    }
}

fn validate_same_role(new: &RoleRef, old: &RoleRef, errors: &mut FieldErrors) {
    if new != old {
        let value = json!({ "APIGroup": new.api_group, "Kind": new.kind, "Name": new.name });
        errors.invalid(&Path::new("roleRef"), value, "cannot change roleRef");
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::{at, check, check_update, create};
    use super::*;

    fn binding(role: &str, subject: &str) -> String {
        format!("metadata: {{name: a, namespace: shop}}\nroleRef: {role}\nsubjects: [{subject}]")
    }

    const VIEW: &str = "{apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: view}";
    const JANE: &str = "{kind: User, name: jane, apiGroup: rbac.authorization.k8s.io}";

    #[test]
    fn subjects_and_roles_are_of_known_kinds() {
        let cases: &[(&str, &str, &[&str])] = &[
            (VIEW, JANE, &[]),
            (VIEW, "{kind: Group, name: devs}", &[]),
            (VIEW, "{kind: ServiceAccount, name: ci}", &[]),
            (
                "{apiGroup: x, kind: Other, name: ''}",
                JANE,
                &[
                    r#"roleRef.apiGroup: Unsupported value: "x": supported values: "rbac.authorization.k8s.io""#,
                    r#"roleRef.kind: Unsupported value: "Other": supported values: "Role", "ClusterRole""#,
                    "roleRef.name: Required value",
                ],
            ),
            (
                "{apiGroup: '', kind: Role, name: a/b}",
                JANE,
                &[r#"roleRef.name: Invalid value: "a/b": may not contain '/'"#],
            ),
            (
                VIEW,
                "{kind: User, name: ''}",
                &[
                    "subjects[0].name: Required value",
                    r#"subjects[0].name: Invalid value: "": user name cannot be empty"#,
                ],
            ),
            (
                VIEW,
                "{kind: Robot, name: a}",
                &[
                    r#"subjects[0].kind: Unsupported value: "Robot": supported values: "ServiceAccount", "User", "Group""#,
                ],
            ),
            (
                VIEW,
                "{kind: ServiceAccount, name: ci, apiGroup: x}",
                &[r#"subjects[0].apiGroup: Unsupported value: "x": supported values: """#],
            ),
        ];
        for (role, subject, expected) in cases {
            check(&RoleBindings, &binding(role, subject), expected);
        }
        check(
            &ClusterRoleBindings,
            "metadata: {name: a}\nroleRef: {apiGroup: '', kind: Role, name: a}\nsubjects: [{kind: ServiceAccount, name: ci}]",
            &[
                r#"roleRef.kind: Unsupported value: "Role": supported values: "ClusterRole""#,
                "subjects[0].namespace: Required value",
            ],
        );
    }

    #[test]
    fn the_group_of_users_is_filled_in() {
        let (object, _) = create(&RoleBindings, &binding(VIEW, "{kind: User, name: jane}"));
        assert_eq!(at(&object, "/subjects/0/apiGroup"), GROUP);
    }

    #[test]
    fn the_role_stays() {
        check_update(
            &RoleBindings,
            &binding(VIEW, JANE),
            &binding(&VIEW.replace("view", "edit"), JANE),
            &[
                r#"roleRef: Invalid value: {"APIGroup":"rbac.authorization.k8s.io","Kind":"ClusterRole","Name":"edit"}: cannot change roleRef"#,
            ],
        );
    }

    #[test]
    fn wide_columns_list_the_subjects_by_kind() {
        let subjects = "{kind: User, name: jane}, {kind: User, name: joe}, {kind: ServiceAccount, name: ci, namespace: x}";
        let (object, _) = create(&RoleBindings, &binding(VIEW, subjects));
        let row = RoleBindings.row(&object, super::super::super::testing::now());
        assert_eq!(row[1], "ClusterRole/view");
        assert_eq!(row[3..], ["jane, joe", "", "x/ci"]);
    }
}
