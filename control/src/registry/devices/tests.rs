use serde_json::json;

use super::{
    claim::ResourceClaims, claim_template::ResourceClaimTemplates, device_class::DeviceClasses,
    slice::ResourceSlices, taint_rule::DeviceTaintRules,
};
use crate::registry::{
    Kind,
    testing::{self, at, cells, check, check_update, create},
};

fn claim(devices: &str) -> String {
    format!("{{metadata: {{name: x}}, spec: {{devices: {{{devices}}}}}}}")
}

fn slice(fields: &str) -> String {
    format!(
        "{{metadata: {{name: x}}, spec: {{driver: d.example, pool: {{name: p, generation: 1, resourceSliceCount: 1}}, {fields}}}}}"
    )
}

fn device(fields: &str) -> String {
    slice(&format!("nodeName: n, devices: [{{name: d0, {fields}}}]"))
}

#[test]
fn requests_ask_for_devices_of_a_class() {
    let (object, errors) = create(
        &ResourceClaims,
        &claim(
            "requests: [{name: a, exactly: {deviceClassName: c, capacity: {requests: {memory: 1024Mi}}, tolerations: [{key: k, value: v}]}}, {name: b, firstAvailable: [{name: s, deviceClassName: c, allocationMode: All}]}]",
        ),
    );
    assert_eq!(errors, [] as [&str; 0]);
    assert_eq!(
        at(&object, "/spec/devices/requests/0/exactly"),
        json!({
            "deviceClassName": "c", "allocationMode": "ExactCount", "count": 1,
            "capacity": {"requests": {"memory": "1Gi"}},
            "tolerations": [{"key": "k", "value": "v", "operator": "Equal"}],
        })
    );
    assert_eq!(at(&object, "/spec/devices/requests/1/firstAvailable/0/count"), json!(null));
    assert_eq!(at(&object, "/status"), json!({}));
    for (devices, expected) in [
        (
            "requests: [{name: a}]",
            &[
                "spec.devices.requests[0]: Required value: exactly one of `exactly` or `firstAvailable` is required",
            ][..],
        ),
        (
            "requests: [{name: a, exactly: {deviceClassName: '', allocationMode: All, count: 2}}, {name: a, exactly: {deviceClassName: c, allocationMode: Some}}]",
            &[
                "spec.devices.requests[0].exactly.deviceClassName: Required value",
                "spec.devices.requests[0].exactly.count: Invalid value: 2: must not be specified when allocationMode is 'All'",
                "spec.devices.requests[1].exactly.allocationMode: Unsupported value: \"Some\": supported values: \"All\", \"ExactCount\"",
                "spec.devices.requests[1]: Duplicate value: \"a\"",
            ],
        ),
        (
            "requests: [{name: a, exactly: {deviceClassName: c, selectors: [{}, {cel: {expression: ''}}]}}]",
            &[
                "spec.devices.requests[0].exactly.selectors[0].cel: Required value",
                "spec.devices.requests[0].exactly.selectors[1].cel.expression: Required value",
            ],
        ),
        (
            "requests: [{name: a, exactly: {deviceClassName: c}}], constraints: [{requests: [b], matchAttribute: model}, {}], config: [{requests: [a]}]",
            &[
                "spec.devices.constraints[0].requests[0]: Invalid value: \"b\": must be the name of a request in the claim…",
                "spec.devices.constraints[0].matchAttribute: Invalid value: \"model\": a fully qualified name must be…",
                "spec.devices.constraints[1]: Required value: exactly one of \"matchAttribute\" or…",
                "spec.devices.config[0].opaque: Required value",
            ],
        ),
        (
            "config: [{opaque: {driver: d.example, parameters: [1]}}]",
            &[
                "spec.devices.config[0].opaque.parameters: Invalid value: \"<value omitted>\": must be a valid JSON object",
            ],
        ),
    ] {
        check(&ResourceClaims, &claim(devices), expected);
    }
    let (_, errors) = testing::update(
        &ResourceClaims,
        &claim("requests: [{name: a, exactly: {deviceClassName: c}}]"),
        &claim("requests: [{name: b, exactly: {deviceClassName: c}}]"),
    );
    assert!(matches!(errors.as_slice(), [only] if only.ends_with("field is immutable")), "{errors:?}");
}

#[test]
fn a_claim_is_allocated_reserved_and_released() {
    let (old, _) = create(&ResourceClaims, &claim("requests: [{name: a, exactly: {deviceClassName: c}}]"));
    let with_status = |status: serde_json::Value| {
        let mut claim = old.clone();
        claim.status = serde_json::from_value(status).expect("a status");
        claim
    };
    let result = json!({"request": "a", "driver": "d.example", "pool": "p", "device": "d0"});
    let allocation = json!({"devices": {"results": [result]}});
    let device =
        json!({"driver": "d.example", "pool": "p", "device": "d0", "networkData": {"ips": ["10.0.0.1/24"]}});
    let consumer = json!({"resource": "pods", "name": "web", "uid": "1"});
    let (given, errors) = testing::update_status(
        &ResourceClaims,
        &old,
        with_status(json!({"allocation": allocation, "devices": [device], "reservedFor": [consumer]})),
    );
    assert_eq!(errors, [] as [&str; 0]);
    let state = |claim: &_| ResourceClaims.row(claim, testing::now())[1].clone();
    assert_eq!(state(&old), "pending");
    assert_eq!(state(&given), "allocated,reserved");

    let (_, errors) =
        testing::update_status(&ResourceClaims, &old, with_status(json!({"reservedFor": [consumer]})));
    testing::assert_errors(
        &errors,
        &["status.reservedFor: Forbidden: may not be specified when `allocated` is not set"],
        "reserved only",
    );
    let (_, errors) = testing::update_status(
        &ResourceClaims,
        &old,
        with_status(json!({
            "allocation": {"devices": {"results": [{"request": "z", "driver": "d.example", "pool": "p", "device": "d0"}]}},
            "devices": [{"driver": "d.example", "pool": "p", "device": "d1"}],
        })),
    );
    testing::assert_errors(
        &errors,
        &[
            "status.devices[0]: Invalid value: \"d.example/p/d1\": must be an allocated device in the claim",
            "status.allocation.devices.results[0].request: Invalid value: \"z\": must be the name of a request…",
        ],
        "what was not asked for",
    );
    // What was said of a device goes with its allocation.
    let (released, errors) =
        testing::update_status(&ResourceClaims, &given, with_status(json!({"devices": [device]})));
    assert_eq!(errors, [] as [&str; 0]);
    assert_eq!(at(&released, "/status"), json!({}));
}

#[test]
fn templates_hold_claims() {
    let template = |spec: &str| format!("{{metadata: {{name: x}}, spec: {{spec: {{devices: {{{spec}}}}}}}}}");
    let good = template("requests: [{name: a, exactly: {deviceClassName: c}}]");
    let (object, errors) = create(&ResourceClaimTemplates, &good);
    assert_eq!(errors, [] as [&str; 0]);
    assert_eq!(at(&object, "/spec/spec/devices/requests/0/exactly/count"), 1);
    check(
        &ResourceClaimTemplates,
        &template("requests: [{name: A, exactly: {deviceClassName: c}}]"),
        &["spec.spec.devices.requests[0].name: Invalid value: \"A\": a lowercase RFC 1123 label…"],
    );
}

#[test]
fn classes_select_and_configure() {
    let class = |spec: &str| format!("{{metadata: {{name: x}}, spec: {{{spec}}}}}");
    check(
        &DeviceClasses,
        &class("selectors: [{cel: {expression: 'true'}}], extendedResourceName: example.com/gpu"),
        &[],
    );
    check(
        &DeviceClasses,
        &class("extendedResourceName: gpu, config: [{}]"),
        &[
            "spec.config[0].opaque: Required value",
            "spec.extendedResourceName: Invalid value: \"gpu\": must be a valid extended resource name",
        ],
    );
}

#[test]
fn slices_list_devices_of_one_pool() {
    let (object, errors) = create(
        &ResourceSlices,
        &device(
            "attributes: {model: {string: a}, d.example/v: {version: 1.2.3-rc.1}}, capacity: {memory: {value: 1024Mi}}, taints: [{key: k, effect: NoSchedule}]",
        ),
    );
    assert_eq!(errors, [] as [&str; 0]);
    assert_eq!(at(&object, "/spec/devices/0/capacity/memory/value"), "1Gi");
    assert_eq!(at(&object, "/spec/devices/0/taints/0/timeAdded"), "2026-01-01T00:00:00Z");
    assert_eq!(ResourceSlices.field(&object, "spec.nodeName"), "n");
    for (yaml, expected) in [
        (slice("allNodes: true"), &[][..]),
        (slice("nodeName: n, sharedCounters: [{name: s, counters: {c: {value: '4'}}}]"), &[]),
        (
            slice(""),
            &[
                "spec: Required value: exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required",
            ],
        ),
        (
            slice("nodeName: n, allNodes: true"),
            &["spec: Invalid value: \"{`nodeName`, `allNodes`}\": exactly one of…"],
        ),
        (
            device("attributes: {model: {}, 9a: {bool: true, int: 1}, v: {version: 1.2}}"),
            &[
                "spec.devices[0].attributes[9a]: Invalid value: \"9a\": a valid C identifier must start with…",
                "spec.devices[0].attributes[9a]: Invalid value: {\"bool\":true,\"int\":1}: exactly one value must be specified",
                "spec.devices[0].attributes[model]: Invalid value: \"\": exactly one value must be specified",
                "spec.devices[0].attributes[v].version: Invalid value: \"1.2\": must be a string compatible with semver.org spec 2.0.0",
            ],
        ),
        (
            device(
                "taints: [{key: k}], allNodes: true, bindingConditions: [a], bindingFailureConditions: [a]",
            ),
            &[
                "spec.devices[0].taints[0].effect: Required value",
                "spec.devices[0]: Invalid value: null: `nodeName`, `nodeSelector` and `allNodes` can only be set…",
                "spec.devices[0].bindingFailureConditions[0]: Invalid value: \"a\": bindingFailureConditions must not overlap with bindingConditions",
            ],
        ),
        (
            device("capacity: {m: {value: '8', requestPolicy: {default: '1', validValues: ['1']}}}"),
            &["spec.devices[0].capacity[m].requestPolicy: Forbidden: allowMultipleAllocations must be true"],
        ),
        (
            device(
                "allowMultipleAllocations: true, capacity: {m: {value: '8', requestPolicy: {default: '3', validRange: {min: '2', max: '9', step: '2'}}}}",
            ),
            &[
                "spec.devices[0].capacity[m].requestPolicy.validRange.max: Invalid value: \"9\": max is larger than capacity value: 8",
                "spec.devices[0].capacity[m].requestPolicy.validRange.step: Invalid value: \"3\": value is not a multiple of a given step (2) from (2)",
                "spec.devices[0].capacity[m].requestPolicy.validRange.step: Invalid value: \"9\": value is not a multiple of a given step (2) from (2)",
            ],
        ),
    ] {
        check(&ResourceSlices, &yaml, expected);
    }
    check_update(
        &ResourceSlices,
        &slice("nodeName: n"),
        &slice("nodeName: m"),
        &["spec.nodeName: Invalid value: \"m\": field is immutable"],
    );
    assert_eq!(cells(&ResourceSlices, &slice("nodeName: n")), ["n", "d.example", "p", "<unknown>"]);
}

#[test]
fn taint_rules_name_devices_and_a_taint() {
    let rule = |spec: &str| format!("{{metadata: {{name: x}}, spec: {{{spec}}}}}");
    let (object, errors) = create(&DeviceTaintRules, &rule("taint: {key: k, effect: NoExecute}"));
    assert_eq!(errors, [] as [&str; 0]);
    assert_eq!(at(&object, "/spec/taint/timeAdded"), "2026-01-01T00:00:00Z");
    check(
        &DeviceTaintRules,
        &rule("deviceSelector: {device: D, pool: ''}, taint: {key: '', effect: Never}"),
        &[
            "spec.deviceSelector.pool: Required value",
            "spec.deviceSelector.device: Invalid value: \"D\": a lowercase RFC 1123 label…",
            "spec.taint.key: Invalid value: \"\": name part must be non-empty",
            "spec.taint.key: Invalid value: \"\": name part must consist of…",
            "spec.taint.effect: Unsupported value: \"Never\": supported values: \"NoExecute\", \"NoSchedule\", \"None\"",
        ],
    );
}
