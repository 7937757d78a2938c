//! Name resolution of a pod: `dnsPolicy`, `dnsConfig` and `hostAliases`.

use k8s_openapi::api::core::v1::HostAlias;
use naru_model::validation::{FieldErrors, Path};

use super::{Check, OrEmpty, check};

const MAX_NAMESERVERS: usize = 3;
const MAX_SEARCHES: usize = 32;
const MAX_SEARCH_CHARACTERS: usize = 2048;

impl Check<'_> {
    pub(super) fn dns_policy(&self, path: &Path, errors: &mut FieldErrors) {
        let supported = &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];
        check::required_one_of(self.spec.dns_policy.or_empty(), supported, path, errors);
    }

    pub(super) fn dns_config(&self, path: &Path, errors: &mut FieldErrors) {
        let config = self.spec.dns_config.as_ref();
        if self.spec.dns_policy.as_deref() == Some("None") {
            let Some(config) = config else {
                return errors.required(path, "must provide `dnsConfig` when `dnsPolicy` is None");
            };
            if config.nameservers.or_empty().is_empty() {
                let detail = "must provide at least one DNS nameserver when `dnsPolicy` is None";
                return errors.required(&path.child("nameservers"), detail);
            }
        }
        let Some(config) = config else { return };
        let (servers, searches) = (config.nameservers.or_empty(), config.searches.or_empty());
        let servers_path = path.child("nameservers");
        if servers.len() > MAX_NAMESERVERS {
            let detail = format!("must not have more than {MAX_NAMESERVERS} nameservers");
            errors.invalid(&servers_path, servers, &detail);
        }
        for (index, server) in servers.iter().enumerate() {
            check::ip(server, &servers_path.index(index), errors);
        }
        search_list(searches, &path.child("searches"), errors);
        for (index, option) in config.options.or_empty().iter().enumerate() {
            if option.name.or_empty().is_empty() {
                errors.required(&path.child("options").index(index), "must not be empty");
            }
        }
    }
}

fn search_list(searches: &[String], path: &Path, errors: &mut FieldErrors) {
    if searches.len() > MAX_SEARCHES {
        let detail = format!("must not have more than {MAX_SEARCHES} search paths");
        errors.invalid(path, searches, &detail);
    }
    let length = searches.iter().map(String::len).sum::<usize>() + searches.len().saturating_sub(1);
    if length > MAX_SEARCH_CHARACTERS {
        let detail = format!(
            "must not have more than {MAX_SEARCH_CHARACTERS} characters (including spaces) in the search list"
        );
        errors.invalid(path, searches, &detail);
    }
    for (index, search) in searches.iter().enumerate().filter(|(_, search)| *search != ".") {
        let search = search.strip_suffix('.').unwrap_or(search);
        check::subdomain_with_underscores(search, &path.index(index), errors);
    }
}

pub(super) fn host_aliases(aliases: &[HostAlias], path: &Path, errors: &mut FieldErrors) {
    for (index, alias) in aliases.iter().enumerate() {
        let path = path.index(index);
        check::ip(&alias.ip, &path.child("ip"), errors);
        for (index, name) in alias.hostnames.or_empty().iter().enumerate() {
            check::subdomain(name, &path.child("hostnames").index(index), errors);
        }
    }
}
