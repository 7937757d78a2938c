use serde_json::{Value, json};

use super::Services;
use crate::registry::{
    Kind,
    testing::{self, at},
};

fn service(spec: &str) -> String {
    format!("{{metadata: {{name: s, namespace: n}}, spec: {{{spec}}}}}")
}

fn check(spec: &str, expected: &[&str]) {
    testing::check(&Services, &service(spec), expected);
}

/// Creates a service, gives it what the allocator would, and updates it.
fn updated(old: &str, new: &str) -> (k8s_openapi::api::core::v1::Service, Vec<String>) {
    let (old, errors) = testing::create(&Services, &service(old));
    assert_eq!(errors, [] as [&str; 0]);
    testing::update_object(&Services, &old, testing::decode::<Services>(&service(new)))
}

fn check_update(old: &str, new: &str, expected: &[&str]) {
    testing::assert_errors(&updated(old, new).1, expected, new);
}

#[test]
fn defaults_are_filled_in() {
    let (object, errors) = testing::create(&Services, &service("ports: [{port: 80}], selector: {app: x}"));
    assert_eq!(errors, [] as [&str; 0]);
    assert_eq!(
        at(&object, "/spec"),
        json!({
            "type": "ClusterIP", "sessionAffinity": "None", "internalTrafficPolicy": "Cluster",
            "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack", "selector": {"app": "x"},
            "ports": [{"port": 80, "protocol": "TCP", "targetPort": 80}],
        })
    );
    for (spec, pointer, expected) in [
        ("sessionAffinity: ClientIP", "/spec/sessionAffinityConfig/clientIP/timeoutSeconds", json!(10_800)),
        ("type: NodePort", "/spec/externalTrafficPolicy", json!("Cluster")),
        ("type: LoadBalancer", "/spec/allocateLoadBalancerNodePorts", json!(true)),
        ("type: ExternalName, externalName: a.b", "/spec/ipFamilies", Value::Null),
        ("clusterIP: None, selector: {a: b}", "/spec/clusterIPs", json!(["None"])),
        ("clusterIP: None", "/spec/ipFamilies", json!(["IPv4", "IPv6"])),
        ("clusterIP: None", "/spec/ipFamilyPolicy", json!("RequireDualStack")),
        ("clusterIP: 127.4.0.9", "/spec/clusterIPs", json!(["127.4.0.9"])),
    ] {
        let (object, errors) =
            testing::create(&Services, &service(&format!("ports: [{{port: 80}}], {spec}")));
        assert_eq!(errors, [] as [&str; 0], "{spec}");
        assert_eq!(at(&object, pointer), expected, "{pointer} of {spec}");
    }
}

#[test]
fn ports_are_required_named_and_distinct() {
    for (spec, expected) in [
        ("", &["spec.ports: Required value"][..]),
        ("clusterIP: None", &[]),
        ("type: ExternalName, externalName: a.b", &[]),
        (
            "ports: [{port: 0}]",
            &[
                "spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive",
                "spec.ports[0].targetPort: Invalid value: 0: must be between 1 and 65535, inclusive",
            ],
        ),
        (
            "ports: [{port: 80}, {port: 81}]",
            &["spec.ports[0].name: Required value", "spec.ports[1].name: Required value"],
        ),
        (
            "ports: [{port: 80, name: a}, {port: 81, name: a}]",
            &["spec.ports[1].name: Duplicate value: \"a\""],
        ),
        (
            "ports: [{port: 80, name: a}, {port: 80, name: b}]",
            &[
                "spec.ports[1]: Duplicate value: {\"AppProtocol\":null,\"Name\":\"\",\"NodePort\":0,\"Port\":80,\"Protocol\":\"TCP\",\"TargetPort\":0}",
            ],
        ),
        ("ports: [{port: 80, name: a}, {port: 80, name: b, protocol: UDP}]", &[]),
        ("ports: [{port: 80, targetPort: http}]", &[]),
        (
            "ports: [{port: 80, targetPort: HTTP}]",
            &[
                "spec.ports[0].targetPort: Invalid value: \"HTTP\": must contain only…",
                "spec.ports[0].targetPort: Invalid value: \"HTTP\": must contain at least one letter (a-z)",
            ],
        ),
        (
            "ports: [{port: 80, protocol: HTTP}]",
            &[
                "spec.ports[0].protocol: Unsupported value: \"HTTP\": supported values: \"SCTP\", \"TCP\", \"UDP\"",
            ],
        ),
        (
            "ports: [{port: 80, nodePort: 30000}]",
            &["spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'"],
        ),
        (
            "type: NodePort, ports: [{port: 80, name: a, nodePort: 30000}, {port: 81, name: b, nodePort: 30000}]",
            &["spec.ports[1].nodePort: Duplicate value: 30000"],
        ),
    ] {
        check(spec, expected);
    }
}

#[test]
fn names_are_labels() {
    let mut errors = naru_model::validation::FieldErrors::default();
    Services.validate_name("web", &mut errors);
    assert!(errors.is_empty());
    Services.validate_name("web.shop", &mut errors);
    assert_eq!(errors.0[0].to_string(), "metadata.name: Invalid value: \"web.shop\": must not contain dots");
}

#[test]
fn each_type_has_its_own_fields() {
    for (spec, expected) in [
        (
            "type: Magic, ports: [{port: 80}]",
            &[
                "spec.type: Unsupported value: \"Magic\": supported values: \"ClusterIP\", \"ExternalName\", \"LoadBalancer\", \"NodePort\"",
            ][..],
        ),
        ("type: ExternalName", &["spec.externalName: Required value"]),
        (
            "type: ExternalName, externalName: a_b",
            &["spec.externalName: Invalid value: \"a_b\": a lowercase RFC…"],
        ),
        (
            "type: ExternalName, externalName: a.b, clusterIP: 1.1.1.1",
            &["spec.clusterIPs: Forbidden: may not be set for ExternalName services"],
        ),
        (
            "type: NodePort, clusterIP: None, ports: [{port: 80}]",
            &["spec.clusterIPs[0]: Invalid value: \"None\": may not be set to 'None' for NodePort services"],
        ),
        (
            "ports: [{port: 80}], externalTrafficPolicy: Local",
            &[
                "spec.externalTrafficPolicy: Invalid value: \"Local\": may only be set for externally-accessible services",
            ],
        ),
        (
            "ports: [{port: 80}], allocateLoadBalancerNodePorts: true",
            &[
                "spec.allocateLoadBalancerNodePorts: Forbidden: may only be used when `type` is 'LoadBalancer'",
            ],
        ),
        (
            "ports: [{port: 80}], loadBalancerClass: a.b/c",
            &["spec.loadBalancerClass: Forbidden: may only be used when `type` is 'LoadBalancer'"],
        ),
        (
            "ports: [{port: 80}], healthCheckNodePort: 30000",
            &[
                "spec.healthCheckNodePort: Invalid value: 30000: may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'",
            ],
        ),
        (
            "type: LoadBalancer, ports: [{port: 80}], loadBalancerSourceRanges: [x]",
            &["spec.LoadBalancerSourceRanges[0]: Invalid value: \"x\": must be a valid CIDR value…"],
        ),
        (
            "ports: [{port: 80}], sessionAffinity: Sticky",
            &[
                "spec.sessionAffinity: Unsupported value: \"Sticky\": supported values: \"ClientIP\", \"None\"",
            ],
        ),
        (
            "ports: [{port: 80}], sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {timeoutSeconds: 86401}}",
            &[
                "spec.sessionAffinityConfig.clientIP.timeoutSeconds: Invalid value: 86401: must be greater than 0 and less than 86400",
            ],
        ),
        (
            "ports: [{port: 80}], internalTrafficPolicy: Near",
            &[
                "spec.internalTrafficPolicy: Unsupported value: \"Near\": supported values: \"Cluster\", \"Local\"",
            ],
        ),
        (
            "ports: [{port: 80}], externalIPs: [127.0.0.1, x]",
            &[
                "spec.externalIPs[0]: Invalid value: \"127.0.0.1\": may not be in the loopback range (127.0.0.0/8, ::1/128)",
                "spec.externalIPs[1]: Invalid value: \"x\": must be a valid IP address…",
            ],
        ),
        (
            "ports: [{port: 80}], selector: {'a b': c}",
            &["spec.selector: Invalid value: \"a b\": name part must consist of…"],
        ),
    ] {
        check(spec, expected);
    }
}

#[test]
fn addresses_and_families_agree() {
    for (spec, expected) in [
        (
            "clusterIP: 1.1.1.1, clusterIPs: [1.1.1.2]",
            "spec.clusterIPs: Invalid value: [\"1.1.1.2\"]: first value must match `clusterIP`",
        ),
        (
            "clusterIPs: [1.1.1.2]",
            "spec.clusterIPs: Invalid value: [\"1.1.1.2\"]: must be empty when `clusterIP` is not specified",
        ),
        ("clusterIP: x", "spec.clusterIPs[0]: Invalid value: \"x\": must be a valid IP address…"),
        (
            "clusterIP: '::1'",
            "spec.clusterIPs[0]: Invalid value: \"::1\": expected an IPv4 value as indicated by `ipFamilies[0]`",
        ),
        ("ipFamilies: [IPv6]", "spec.ipFamilies[0]: Invalid value: \"IPv6\": not configured on this cluster"),
        (
            "ipFamilies: [IPv5]",
            "spec.ipFamilies[0]: Unsupported value: \"IPv5\": supported values: \"IPv4\", \"IPv6\"",
        ),
        (
            "ipFamilyPolicy: RequireDualStack",
            "spec.ipFamilyPolicy: Invalid value: \"RequireDualStack\": this cluster is not configured for dual-stack services",
        ),
    ] {
        check(&format!("ports: [{{port: 80}}], {spec}"), &[expected]);
    }
    check("ports: [{port: 80}], ipFamilyPolicy: PreferDualStack", &[]);
}

#[test]
fn an_address_is_for_life() {
    const OLD: &str = "ports: [{port: 80}], clusterIP: 127.4.0.9";
    check_update(OLD, OLD, &[]);
    check_update(OLD, "ports: [{port: 81}]", &[]);
    check_update(
        OLD,
        "ports: [{port: 80}], clusterIP: 127.4.0.10",
        &["spec.clusterIPs[0]: Invalid value: [\"127.4.0.10\"]: may not change once set"],
    );
    check_update(
        OLD,
        "ports: [{port: 80}], clusterIP: None",
        &["spec.clusterIPs[0]: Invalid value: [\"None\"]: may not change once set"],
    );
    check_update("clusterIP: None", "clusterIP: None, ports: [{port: 80}]", &[]);
}

#[test]
fn updates_keep_what_was_allocated() {
    let old = "type: NodePort, clusterIP: 127.4.0.9, ports: [{port: 80, nodePort: 30080}]";
    let (object, errors) = updated(old, "type: NodePort, ports: [{port: 8080}]");
    assert_eq!(errors, [] as [&str; 0]);
    assert_eq!(at(&object, "/spec/clusterIPs"), json!(["127.4.0.9"]));
    assert_eq!(at(&object, "/spec/ports/0/nodePort"), 30080);
}

#[test]
fn a_change_of_type_drops_what_the_new_type_lacks() {
    let old = "type: NodePort, clusterIP: 127.4.0.9, ports: [{port: 80, nodePort: 30080}], externalTrafficPolicy: Local";
    let (object, errors) = updated(old, &old.replace("NodePort", "ClusterIP"));
    assert_eq!(errors, [] as [&str; 0]);
    assert_eq!(at(&object, "/spec/ports/0/nodePort"), Value::Null);
    assert_eq!(at(&object, "/spec/externalTrafficPolicy"), Value::Null);
    assert_eq!(at(&object, "/spec/clusterIP"), "127.4.0.9");

    let (object, errors) = updated(
        "ports: [{port: 80}], clusterIP: 127.4.0.9",
        "type: ExternalName, externalName: a.b, ports: [{port: 80}], clusterIP: 127.4.0.9, clusterIPs: [127.4.0.9], ipFamilies: [IPv4], ipFamilyPolicy: SingleStack",
    );
    assert_eq!(errors, [] as [&str; 0]);
    for gone in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
        assert_eq!(at(&object, &format!("/spec/{gone}")), Value::Null, "{gone}");
    }
    // What the client asks for on purpose is refused, not dropped.
    check_update(
        old,
        "ports: [{port: 80, nodePort: 30081}]",
        &["spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'"],
    );
}

#[test]
fn tables_show_addresses_and_ports() {
    for (spec, status, expected) in [
        (
            "type: ClusterIP, clusterIPs: [127.4.0.9], ports: [{port: 80, protocol: TCP}], selector: {app: x}",
            "",
            ["ClusterIP", "127.4.0.9", "<none>", "80/TCP", "app=x"],
        ),
        (
            "type: NodePort, clusterIPs: [127.4.0.9], externalIPs: [1.1.1.1], ports: [{port: 80, protocol: TCP, nodePort: 30080}, {port: 53, protocol: UDP}]",
            "",
            ["NodePort", "127.4.0.9", "1.1.1.1", "80:30080/TCP,53/UDP", "<none>"],
        ),
        (
            "type: LoadBalancer, clusterIPs: [127.4.0.9]",
            "",
            ["LoadBalancer", "127.4.0.9", "<pending>", "<none>", "<none>"],
        ),
        (
            "type: LoadBalancer, clusterIPs: [127.4.0.9]",
            "loadBalancer: {ingress: [{ip: 2.2.2.2}, {hostname: a.b}]}",
            ["LoadBalancer", "127.4.0.9", "2.2.2.2,a.b", "<none>", "<none>"],
        ),
        ("type: ExternalName, externalName: a.b", "", ["ExternalName", "<none>", "a.b", "<none>", "<none>"]),
        ("type: ClusterIP, clusterIPs: [None]", "", ["ClusterIP", "None", "<none>", "<none>", "<none>"]),
    ] {
        let yaml = format!("{{metadata: {{name: s}}, spec: {{{spec}}}, status: {{{status}}}}}");
        let row = Services.row(&testing::decode::<Services>(&yaml), testing::now());
        assert_eq!(row.len(), Services.columns().len());
        assert_eq!([&row[1], &row[2], &row[3], &row[4], &row[6]], expected, "{spec}");
    }
}

#[test]
fn what_has_no_effect_or_no_future_is_warned_of() {
    const EXTERNAL: &str = "spec.externalIPs is deprecated and may no longer be implemented in some clusters";
    for (spec, expected) in [
        ("ports: [{port: 80}]", &[][..]),
        (
            "clusterIP: None, loadBalancerIP: 1.2.3.4, externalIPs: [1.2.3.4], sessionAffinity: ClientIP",
            &[
                "spec.loadBalancerIP is ignored for headless services",
                "spec.externalIPs is ignored for headless services",
                "spec.SessionAffinity is ignored for headless services",
            ],
        ),
        ("ports: [{port: 80}], externalIPs: [1.2.3.4]", &[EXTERNAL]),
        (
            "type: ExternalName, externalName: a.b, externalIPs: [1.2.3.4]",
            &["spec.externalIPs is ignored when spec.type is \"ExternalName\""],
        ),
        (
            "ports: [{port: 80}], externalName: a.b",
            &["spec.externalName is ignored when spec.type is not \"ExternalName\""],
        ),
        (
            "ports: [{port: 80}], trafficDistribution: PreferClose",
            &["spec.trafficDistribution: \"PreferClose\" is deprecated; use \"PreferSameZone\""],
        ),
        (
            "ports: [{port: 80}], externalIPs: ['2001:DB8::1']",
            &[
                EXTERNAL,
                "spec.externalIPs[0]: IPv6 address \"2001:DB8::1\" should be in RFC 5952 canonical format (\"2001:db8::1\")",
            ],
        ),
    ] {
        let (object, _) = testing::create(&Services, &service(spec));
        assert_eq!(Services.warnings(&object), expected, "{spec}");
    }
}
