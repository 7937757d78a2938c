use serde_json::json;

use super::{
    ingress::Ingresses, ingress_class::IngressClasses, ip_address::IpAddresses,
    network_policy::NetworkPolicies, service_cidr::ServiceCidrs,
};
use crate::registry::{
    Kind,
    testing::{self, at, cells, check, check_update, create},
};

fn named(spec: &str) -> String {
    format!("{{metadata: {{name: x}}, spec: {spec}}}")
}

/// An Ingress with one path, all of whose traffic goes to port 80 of `s`.
fn route(path: &str) -> String {
    let backend = "backend: {service: {name: s, port: {number: 80}}}";
    named(&format!("{{rules: [{{host: a.example, http: {{paths: [{{{path}, {backend}}}]}}}}]}}"))
}

#[test]
fn ingress_rules_name_hosts_and_paths() {
    for (rules, expected) in [
        ("[{host: a.example}, {host: '*.example'}, {}]", &[][..]),
        (
            "[{host: 10.0.0.1}]",
            &["spec.rules[0].host: Invalid value: \"10.0.0.1\": must be a DNS name, not an IP address"],
        ),
        (
            "[{host: 'a.*'}]",
            &[
                "spec.rules[0].host: Invalid value: \"a.*\": a wildcard DNS-1123 subdomain must start with '*.'…",
            ],
        ),
        ("[{http: {paths: []}}]", &["spec.rules[0].http.paths: Required value"]),
        ("[]", &["spec: Invalid value: []: either `defaultBackend` or `rules` must be specified"]),
    ] {
        check(&Ingresses, &named(&format!("{{rules: {rules}}}")), expected);
    }
    for (path, expected) in [
        ("path: /, pathType: Prefix", &[][..]),
        ("pathType: ImplementationSpecific", &[]),
        (
            "path: a, pathType: Exact",
            &["spec.rules[0].http.paths[0].path: Invalid value: \"a\": must be an absolute path"],
        ),
        (
            "path: /a//b/.., pathType: Exact",
            &[
                "spec.rules[0].http.paths[0].path: Invalid value: \"/a//b/..\": must not contain '//'",
                "spec.rules[0].http.paths[0].path: Invalid value: \"/a//b/..\": cannot end with '/..'",
            ],
        ),
        ("path: /", &["spec.rules[0].http.paths[0].pathType: Required value: pathType must be specified"]),
        (
            "path: /, pathType: Regex",
            &[
                "spec.rules[0].http.paths[0].pathType: Unsupported value: \"Regex\": supported values: \"Exact\", \"ImplementationSpecific\", \"Prefix\"",
            ],
        ),
    ] {
        check(&Ingresses, &route(path), expected);
    }
}

#[test]
fn ingress_backends_are_services_or_resources() {
    for (backend, expected) in [
        ("{service: {name: s, port: {name: http}}}", &[][..]),
        ("{resource: {kind: Bucket, name: b, apiGroup: example.com}}", &[]),
        ("{}", &["spec.defaultBackend: Invalid value: \"\": resource or service backend is required"]),
        (
            "{service: {name: s}, resource: {kind: Bucket, name: b}}",
            &["spec.defaultBackend: Invalid value: \"\": cannot set both resource and service backends"],
        ),
        ("{service: {name: s}}", &["spec.defaultBackend: Required value: port name or number is required"]),
        (
            "{service: {name: s, port: {name: http, number: 80}}}",
            &["spec.defaultBackend: Invalid value: \"\": cannot set both port name & port number"],
        ),
        (
            "{service: {port: {number: 70000}}}",
            &[
                "spec.defaultBackend.service.name: Required value",
                "spec.defaultBackend.service.port.number: Invalid value: 70000: must be between 1 and 65535, inclusive",
            ],
        ),
        ("{resource: {kind: '', name: b}}", &["spec.defaultBackend.resource.kind: Required value"]),
    ] {
        check(&Ingresses, &named(&format!("{{defaultBackend: {backend}}}")), expected);
    }
}

#[test]
fn an_ingress_class_is_named_once() {
    let ingress = |annotation: &str, class: &str| {
        format!(
            "{{metadata: {{name: x, annotations: {{kubernetes.io/ingress.class: {annotation}}}}}, spec: {{{class} rules: [{{}}]}}}}"
        )
    };
    check(&Ingresses, &ingress("a", "ingressClassName: a,"), &[]);
    check(
        &Ingresses,
        &ingress("a", "ingressClassName: b,"),
        &[
            "annotations.kubernetes.io/ingress.class: Invalid value: \"a\": must match `ingressClassName` when both are specified",
        ],
    );
    let (object, _) = create(&Ingresses, &ingress("a", ""));
    assert_eq!(
        Ingresses.warnings(&object),
        [
            "annotation \"kubernetes.io/ingress.class\" is deprecated, please use 'spec.ingressClassName' instead"
        ]
    );
}

#[test]
fn ingresses_show_hosts_addresses_and_ports() {
    let row = cells(
        &Ingresses,
        "{metadata: {name: x}, spec: {ingressClassName: c, tls: [{hosts: [a.b]}],
          rules: [{host: a.b}, {}, {host: c.d}, {host: e.f}, {host: g.h}]},
          status: {loadBalancer: {ingress: [{ip: 10.0.0.2}, {hostname: lb.example}, {ip: 10.0.0.1}]}}}",
    );
    assert_eq!(row, ["c", "a.b,c.d,e.f + 2 more...", "10.0.0.1,10.0.0.2,lb.example", "80, 443", "<unknown>"]);
    assert_eq!(cells(&Ingresses, &named("{rules: [{}]}")), ["<none>", "*", "", "80", "<unknown>"]);
}

#[test]
fn the_status_of_an_ingress_is_its_own() {
    let (old, _) = create(&Ingresses, &named("{rules: [{}]}"));
    assert_eq!(at(&old, "/status"), json!({"loadBalancer": {}}));
    let new = testing::decode::<Ingresses>(
        "{metadata: {name: x}, spec: {rules: []}, status: {loadBalancer: {ingress: [{ip: x}, {hostname: 10.0.0.1}]}}}",
    );
    let (new, errors) = testing::update_status(&Ingresses, &old, new);
    assert_eq!(new.spec, old.spec);
    testing::assert_errors(
        &errors,
        &[
            "status.loadBalancer.ingress[0].ip: Invalid value: \"x\": must be a valid IP address…",
            "status.loadBalancer.ingress[1].hostname: Invalid value: \"10.0.0.1\": must be a DNS name, not an IP address",
        ],
        "a status",
    );
}

#[test]
fn ingress_classes_have_a_controller_for_life() {
    let parameters = |of: &str| named(&format!("{{controller: a.example/c, parameters: {of}}}"));
    for (yaml, expected) in [
        (parameters("{apiGroup: a.example, kind: K, name: n}"), &[][..]),
        (parameters("{kind: K, name: n, scope: Namespace, namespace: d}"), &[]),
        (named("{}"), &["spec.controller: Required value"]),
        (
            named("{controller: a}"),
            &[
                "spec.controller: Invalid value: \"a\": must be a domain-prefixed path (such as \"acme.io/foo\")",
            ],
        ),
        (
            named("{controller: 'a.b/c d'}"),
            &[
                "spec.controller: Invalid value: \"c d\": Invalid path (regex used for validation is '[A-Za-z0-9/\\-._~%!$&'()*+,;=:]+')",
            ],
        ),
        (
            parameters("{kind: K, name: n, scope: Namespace}"),
            &["spec.parameters.namespace: Required value: `parameters.scope` is set to 'Namespace'"],
        ),
        (
            parameters("{kind: K, name: a/b, namespace: d}"),
            &[
                "spec.parameters.name: Invalid value: \"a/b\": may not contain '/'",
                "spec.parameters.namespace: Forbidden: `parameters.scope` is set to 'Cluster'",
            ],
        ),
    ] {
        check(&IngressClasses, &yaml, expected);
    }
    check_update(
        &IngressClasses,
        &named("{controller: a.example/c}"),
        &named("{controller: a.example/d}"),
        &["spec.controller: Invalid value: \"a.example/d\": field is immutable"],
    );
    assert_eq!(
        cells(&IngressClasses, &parameters("{apiGroup: a.example, kind: K, name: n}")),
        ["a.example/c", "K.a.example/n", "<unknown>"]
    );
}

#[test]
fn network_policies_name_peers_and_ports() {
    let (policy, errors) =
        create(&NetworkPolicies, &named("{egress: [{ports: [{port: 53}, {port: dns, protocol: UDP}]}]}"));
    assert_eq!(errors, [] as [&str; 0]);
    assert_eq!(
        at(&policy, "/spec"),
        json!({
            "podSelector": {}, "policyTypes": ["Ingress", "Egress"],
            "egress": [{"ports": [{"port": 53, "protocol": "TCP"}, {"port": "dns", "protocol": "UDP"}]}],
        })
    );
    let ports = |port: &str| named(&format!("{{ingress: [{{ports: [{port}]}}]}}"));
    let peers = |peer: &str| named(&format!("{{ingress: [{{from: [{peer}]}}]}}"));
    for (yaml, expected) in [
        (ports("{port: 80, endPort: 90}"), &[][..]),
        (
            ports("{port: 80, endPort: 70}"),
            &["spec.ingress[0].ports[0].endPort: Invalid value: 70: must be greater than or equal to `port`"],
        ),
        (
            ports("{endPort: 70}"),
            &[
                "spec.ingress[0].ports[0].endPort: Invalid value: 70: may not be specified when `port` is not specified",
            ],
        ),
        (
            ports("{port: http, endPort: 70, protocol: ICMP}"),
            &[
                "spec.ingress[0].ports[0].protocol: Unsupported value: \"ICMP\": supported values: \"SCTP\", \"TCP\", \"UDP\"",
                "spec.ingress[0].ports[0].endPort: Invalid value: 70: may not be specified when `port` is non-numeric",
            ],
        ),
        (peers("{podSelector: {}, namespaceSelector: {}}"), &[]),
        (peers("{ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16]}}"), &[]),
        (peers("{ipBlock: {cidr: '::/0', except: ['fd00::/8']}}"), &[]),
        (peers("{}"), &["spec.ingress[0].from[0]: Required value: must specify a peer"]),
        (
            peers("{podSelector: {}, ipBlock: {cidr: 10.0.0.0/8}}"),
            &["spec.ingress[0].from[0]: Forbidden: may not specify both ipBlock and another peer"],
        ),
        (
            peers("{ipBlock: {cidr: 10.0.0.0/8, except: [10.0.0.0/8, 11.0.0.0/16, 'fd00::/8']}}"),
            &[
                "spec.ingress[0].from[0].ipBlock.except[0]: Invalid value: \"10.0.0.0/8\": must be a strict subset of `cidr`",
                "spec.ingress[0].from[0].ipBlock.except[1]: Invalid value: \"11.0.0.0/16\": must be a strict subset of `cidr`",
                "spec.ingress[0].from[0].ipBlock.except[2]: Invalid value: \"fd00::/8\": must be a strict subset of `cidr`",
            ],
        ),
        (
            named("{policyTypes: [Both]}"),
            &["spec.policyTypes[0]: Unsupported value: \"Both\": supported values: \"Egress\", \"Ingress\""],
        ),
    ] {
        check(&NetworkPolicies, &yaml, expected);
    }
    assert_eq!(cells(&NetworkPolicies, &named("{podSelector: {matchLabels: {a: b}}}")), ["a=b", "<unknown>"]);
}

#[test]
fn service_ranges_only_gain_a_family() {
    let range = |cidrs: &str| named(&format!("{{cidrs: {cidrs}}}"));
    for (cidrs, expected) in [
        ("[10.0.0.0/24, 'fd00::/64']", &[][..]),
        ("[]", &["spec.cidrs: Required value: at least one CIDR required"]),
        (
            "[10.0.0.0/24, 10.0.1.0/24]",
            &[
                "spec.cidrs: Invalid value: [\"10.0.0.0/24\",\"10.0.1.0/24\"]: may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64",
            ],
        ),
        ("[x]", &["spec.cidrs[0]: Invalid value: \"x\": must be a valid CIDR value…"]),
    ] {
        check(&ServiceCidrs, &range(cidrs), expected);
    }
    let old = range("[10.0.0.0/24]");
    check_update(&ServiceCidrs, &old, &range("[10.0.0.0/24, 'fd00::/64']"), &[]);
    check_update(
        &ServiceCidrs,
        &old,
        &range("[10.0.1.0/24]"),
        &["spec.cidrs[0]: Invalid value: \"10.0.1.0/24\": field is immutable"],
    );
    check_update(&ServiceCidrs, &old, &range("[]"), &["spec.cidrs: Invalid value: []: field is immutable"]);
    assert_eq!(
        cells(&ServiceCidrs, &range("[10.0.0.0/24, 'fd00::/64']")),
        ["10.0.0.0/24,fd00::/64", "<unknown>"]
    );
}

#[test]
fn addresses_have_an_owner() {
    let address = |parent: &str| format!("{{metadata: {{name: 127.4.0.9}}, spec: {{parentRef: {parent}}}}}");
    let of_service = address("{resource: services, namespace: n, name: s}");
    check(&IpAddresses, &of_service, &[]);
    check(&IpAddresses, &address("{}"), &["spec.parentRef: Required value"]);
    check(
        &IpAddresses,
        &address("{resource: services, name: a/b}"),
        &["spec.parentRef.name: Invalid value: \"a/b\": may not contain '/'"],
    );
    assert_eq!(cells(&IpAddresses, &of_service), ["services/n/s"]);
}
