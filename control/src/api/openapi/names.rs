//! The names of operations, from which generated clients make the names of their functions, and the tags by which they
//! make classes. Both follow from the path and what is done there, as Kubernetes' names do.

use naru_model::ResourceInfo;

use super::operations::capital;

/// `patchAppsV1NamespacedDeploymentStatus`: the verb, the group and its version, then what it is done to.
pub(super) fn operation_id(info: &ResourceInfo, verb: &str, rest: &str) -> String {
    format!("{verb}{}{}{rest}", group(info.group, true), capital(info.version))
}

/// `apps_v1`
pub(super) fn tag(info: &ResourceInfo) -> String {
    format!("{}_{}", group(info.group, false), info.version)
}

/// `core`, `apps`, `rbacAuthorization`, `stableExampleCom`
pub(super) fn group(group: &str, is_capitalized: bool) -> String {
    let group = match group {
        "" => "core",
        group => group.strip_suffix(".k8s.io").unwrap_or(group),
    };
    let mut name = String::new();
    let mut at_start = is_capitalized;
    for letter in group.chars() {
        if !(letter.is_alphanumeric() || letter == '_') || (name.is_empty() && letter.is_numeric()) {
            at_start = true;
        } else if std::mem::take(&mut at_start) {
            name.extend(letter.to_uppercase());
        } else {
            name.push(letter);
        }
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_become_words() {
        for (name, plain, capitalized) in [
            ("", "core", "Core"),
            ("apps", "apps", "Apps"),
            ("rbac.authorization.k8s.io", "rbacAuthorization", "RbacAuthorization"),
            ("flowcontrol.apiserver.k8s.io", "flowcontrolApiserver", "FlowcontrolApiserver"),
            ("stable.my-shop.example.com", "stableMyShopExampleCom", "StableMyShopExampleCom"),
        ] {
            assert_eq!((group(name, false).as_str(), group(name, true).as_str()), (plain, capitalized));
        }
    }
}
