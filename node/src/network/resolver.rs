//! Names of the cluster, as a pod sees them: the answers of cluster DNS, given in process.
//!
//! Decides purely over the table of services; the host's resolver is asked by the caller for names outside the
//! cluster. Not here: serving DNS on a socket, which Linux containers will need on top of this.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr},
};

use super::table::{Entry, Table};

/// A chain of `ExternalName` services is followed so far.
const MAX_ALIASES: usize = 8;

/// How a pod looks names up: the part of its DNS configuration that decides.
#[derive(Debug, Clone, Default)]
pub struct DnsView {
    pub address: Option<IpAddr>,
    pub hostname: String,
    /// Search domains, in order.
    pub searches: Vec<String>,
    /// A name with fewer dots is tried with the search domains first.
    pub ndots: usize,
}

impl DnsView {
    /// What a pod of the namespace gets with `dnsPolicy: ClusterFirst`.
    pub fn cluster_first(namespace: &str, cluster_domain: &str) -> Self {
        let searches = vec![
            format!("{namespace}.svc.{cluster_domain}"),
            format!("svc.{cluster_domain}"),
            cluster_domain.to_owned(),
        ];
        Self { searches, ndots: 5, ..Self::default() }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    Addresses(Vec<IpAddr>),
    /// Not a name of the cluster: ask the host for this one.
    Ask(String),
    NoSuchName,
}

/// One name of the cluster, or not.
enum Found {
    Addresses(Vec<IpAddr>),
    Alias(String),
    Nothing,
    Elsewhere,
}

pub(super) fn resolve(table: &Table, view: &DnsView, name: &str) -> Answer {
    let lower = name.to_ascii_lowercase();
    if let Ok(address) = lower.trim_matches(['[', ']']).parse::<IpAddr>() {
        return Answer::Addresses(vec![address]);
    }
    let bare = lower.trim_end_matches('.');
    if bare.is_empty() || bare.len() > 253 {
        return Answer::NoSuchName;
    }
    let is_own = bare == "localhost" || bare.ends_with(".localhost") || bare == view.hostname;
    if let Some(address) = view.address.filter(|_| is_own) {
        return Answer::Addresses(vec![address]);
    }
    let mut elsewhere = None;
    for candidate in candidates(&lower, view) {
        match follow(table, candidate.clone()) {
            Answer::Addresses(addresses) => return Answer::Addresses(addresses),
            Answer::Ask(outside) if candidate == bare || outside != candidate => {
                elsewhere.get_or_insert(outside);
            }
            Answer::Ask(_) | Answer::NoSuchName => {}
        }
    }
    elsewhere.map_or(Answer::NoSuchName, Answer::Ask)
}

/// The absolute names to try, in the resolver library's order.
fn candidates(name: &str, view: &DnsView) -> Vec<String> {
    if let Some(absolute) = name.strip_suffix('.') {
        return vec![absolute.to_owned()];
    }
    let searched = view
        .searches
        .iter()
        .map(|domain| format!("{name}.{}", domain.trim_matches('.').to_ascii_lowercase()));
    let mut candidates: Vec<_> = searched.collect();
    let dots = name.bytes().filter(|byte| *byte == b'.').count();
    let position = if dots >= view.ndots { 0 } else { candidates.len() };
    candidates.insert(position, name.to_owned());
    candidates
}

fn follow(table: &Table, mut name: String) -> Answer {
    for _ in 0..MAX_ALIASES {
        match look_up(table, &name) {
            Found::Addresses(addresses) => return Answer::Addresses(addresses),
            Found::Alias(target) => name = target.trim_end_matches('.').to_ascii_lowercase(),
            Found::Nothing => return Answer::NoSuchName,
            Found::Elsewhere => {
                return name.parse().map_or(Answer::Ask(name), |address| Answer::Addresses(vec![address]));
            }
        }
    }
    Answer::NoSuchName
}

fn look_up(table: &Table, name: &str) -> Found {
    let domain = &table.settings.cluster_domain;
    let Some(inside) = name.strip_suffix(domain).and_then(|rest| rest.strip_suffix('.')) else {
        return if name == domain { Found::Nothing } else { Found::Elsewhere };
    };
    match inside.split('.').collect::<Vec<_>>().as_slice() {
        [service, namespace, "svc"] => table.service(namespace, service).map_or(Found::Nothing, of_service),
        [host, service, namespace, "svc"] => {
            table.service(namespace, service).map_or(Found::Nothing, |entry| of_host(entry, host))
        }
        // A pod's address written as a name, as cluster DNS answers by default.
        [dashed, _, "pod"] => dashed
            .replace('-', ".")
            .parse::<Ipv4Addr>()
            .map_or(Found::Nothing, |address| addresses([address.into()])),
        _ => Found::Nothing,
    }
}

fn of_service(entry: &Entry) -> Found {
    let Some(service) = &entry.service else { return Found::Nothing };
    if service.r#type == "ExternalName" {
        return Found::Alias(service.external_name.clone());
    }
    let own: Vec<_> =
        service.cluster_ips.iter().filter_map(|address| address.parse::<IpAddr>().ok()).collect();
    if own.is_empty() { addresses(ready(entry, |_, _| true)) } else { Found::Addresses(own) }
}

/// A pod of a service by its hostname, or by its address with dashes when it has none.
fn of_host(entry: &Entry, host: &str) -> Found {
    addresses(ready(entry, |hostname, address| {
        if hostname.is_empty() {
            address.replace(['.', ':'], "-") == host
        } else {
            hostname.eq_ignore_ascii_case(host)
        }
    }))
}

fn ready(entry: &Entry, is_wanted: impl Fn(&str, &str) -> bool) -> BTreeSet<IpAddr> {
    let all = entry.service.as_ref().is_some_and(|service| service.publish_not_ready_addresses);
    entry
        .endpoints()
        .filter(|endpoint| all || endpoint.ready)
        .flat_map(|endpoint| endpoint.addresses.iter().map(|address| (&endpoint.hostname, address)))
        .filter(|(hostname, address)| is_wanted(hostname, address))
        .filter_map(|(_, address)| address.parse().ok())
        .collect()
}

fn addresses(found: impl IntoIterator<Item = IpAddr>) -> Found {
    let found: Vec<_> = found.into_iter().collect();
    if found.is_empty() { Found::Nothing } else { Found::Addresses(found) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::table::{
        Settings,
        tests::{endpoint, service, slice},
    };

    fn table() -> Table {
        let mut db0 = endpoint("127.65.0.1", "ready");
        db0.hostname = "db-0".to_owned();
        let mut table = Table::default();
        table.replace(
            Settings::default(),
            vec![
                service("back", "127.64.0.9", |_| {}),
                service("db", "", |_| {}),
                slice(
                    "db",
                    "db-a",
                    5432,
                    vec![db0, endpoint("127.65.0.2", "ready"), endpoint("127.65.0.3", "down")],
                ),
                service("empty", "", |_| {}),
                service("alias", "", |service| {
                    service.r#type = "ExternalName".to_owned();
                    service.external_name = "Back.shop.svc.cluster.local.".to_owned();
                }),
                service("outside", "", |service| {
                    service.r#type = "ExternalName".to_owned();
                    service.external_name = "www.example.com".to_owned();
                }),
                service("circle", "", |service| {
                    service.r#type = "ExternalName".to_owned();
                    service.external_name = "circle.shop.svc.cluster.local".to_owned();
                }),
            ],
        );
        table
    }

    fn view(namespace: &str) -> DnsView {
        DnsView {
            address: Some(IpAddr::from([127, 65, 0, 7])),
            hostname: "front-1".to_owned(),
            ..DnsView::cluster_first(namespace, "cluster.local")
        }
    }

    #[track_caller]
    fn check(namespace: &str, name: &str, expected: &[&str]) {
        let answer = resolve(&table(), &view(namespace), name);
        let expected = match expected {
            [] => Answer::NoSuchName,
            [ask] if ask.starts_with('?') => Answer::Ask(ask[1..].to_owned()),
            addresses => {
                Answer::Addresses(addresses.iter().map(|address| address.parse().unwrap()).collect())
            }
        };
        assert_eq!(answer, expected, "{name} in {namespace}");
    }

    #[test]
    fn a_service_has_four_names() {
        for name in [
            "back",
            "back.shop",
            "back.shop.svc",
            "back.shop.svc.cluster.local",
            "BACK.shop.svc.cluster.local.",
        ] {
            check("shop", name, &["127.64.0.9"]);
        }
        check("other", "back.shop", &["127.64.0.9"]);
        check("other", "back", &["?back"]);
        check("shop", "back.shop.svc.", &["?back.shop.svc"]);
    }

    #[test]
    fn a_headless_service_is_its_ready_endpoints() {
        check("shop", "db", &["127.65.0.1", "127.65.0.2"]);
        check("shop", "db-0.db", &["127.65.0.1"]);
        check("shop", "127-65-0-2.db.shop.svc.cluster.local", &["127.65.0.2"]);
        check("shop", "db-1.db.shop.svc.cluster.local", &[]);
        check("shop", "empty.shop.svc.cluster.local", &[]);
    }

    #[test]
    fn external_names_lead_on() {
        check("shop", "alias", &["127.64.0.9"]);
        check("shop", "outside", &["?www.example.com"]);
        check("shop", "circle.shop.svc.cluster.local", &[]);
    }

    #[test]
    fn what_is_not_of_the_cluster_is_asked_as_written() {
        check("shop", "example.com", &["?example.com"]);
        check("shop", "example.com.", &["?example.com"]);
        check("shop", "nothing.shop.svc.cluster.local", &[]);
        check("shop", "cluster.local", &[]);
        check("shop", "", &[]);
    }

    #[test]
    fn a_pod_knows_itself() {
        for name in ["localhost", "front-1", "a.localhost"] {
            check("shop", name, &["127.65.0.7"]);
        }
        check("shop", "127.65.0.9", &["127.65.0.9"]);
        check("shop", "127-65-0-9.shop.pod.cluster.local", &["127.65.0.9"]);
    }
}
