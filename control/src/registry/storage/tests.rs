use serde_json::json;

use super::{
    csi_driver::CsiDrivers, csi_node::CsiNodes, csi_storage_capacity::CsiStorageCapacities,
    storage_class::StorageClasses, volume_attachment::VolumeAttachments,
    volume_attributes_class::VolumeAttributesClasses,
};
use crate::registry::{
    Kind,
    testing::{self, at, cells, check, check_update, create},
};

fn class(fields: &str) -> String {
    format!("{{metadata: {{name: x}}, provisioner: example.com/Disk, {fields}}}")
}

fn spec(spec: &str) -> String {
    format!("{{metadata: {{name: x}}, spec: {{{spec}}}}}")
}

#[test]
fn storage_classes_are_nearly_frozen() {
    let (object, errors) = create(&StorageClasses, &class(""));
    assert_eq!(errors, [] as [&str; 0]);
    assert_eq!(at(&object, "/reclaimPolicy"), "Delete");
    assert_eq!(at(&object, "/volumeBindingMode"), "Immediate");
    let topologies = |values: &str| {
        class(&format!("allowedTopologies: [{{matchLabelExpressions: [{{key: a, values: {values}}}]}}]"))
    };
    for (yaml, expected) in [
        (topologies("[b]"), &[][..]),
        (topologies("[]"), &["allowedTopologies[0].matchLabelExpressions[0].values: Required value"]),
        (
            topologies("[b, b]"),
            &["allowedTopologies[0].matchLabelExpressions[0].values[1]: Duplicate value: \"b\""],
        ),
        (
            class("reclaimPolicy: Recycle, volumeBindingMode: Later"),
            &[
                "reclaimPolicy: Unsupported value: \"Recycle\": supported values: \"Delete\", \"Retain\"",
                "volumeBindingMode: Unsupported value: \"Later\": supported values: \"Immediate\", \"WaitForFirstConsumer\"",
            ],
        ),
        ("{metadata: {name: x}}".into(), &["provisioner: Required value"]),
        (
            "{metadata: {name: x}, provisioner: 'A B'}".into(),
            &["provisioner: Invalid value: \"a b\": name part must consist of…"],
        ),
        (class("parameters: {'': b}"), &["parameters: Invalid value: \"\": field can not be empty."]),
    ] {
        check(&StorageClasses, &yaml, expected);
    }
    check_update(
        &StorageClasses,
        &class("parameters: {a: b}"),
        "{metadata: {name: x}, provisioner: other, reclaimPolicy: Retain, volumeBindingMode: WaitForFirstConsumer}",
        &[
            "parameters: Forbidden: updates to parameters are forbidden.",
            "provisioner: Forbidden: updates to provisioner are forbidden.",
            "reclaimPolicy: Forbidden: updates to reclaimPolicy are forbidden.",
            "volumeBindingMode: Invalid value: \"WaitForFirstConsumer\": field is immutable",
        ],
    );
    check_update(&StorageClasses, &class(""), &class("allowVolumeExpansion: true"), &[]);
}

#[test]
fn the_default_storage_class_is_shown_as_such() {
    let annotated = "{metadata: {name: x, annotations: {storageclass.kubernetes.io/is-default-class: 'true'}}, provisioner: p}";
    let row = StorageClasses.row(&testing::decode::<StorageClasses>(annotated), testing::now());
    assert_eq!(
        row,
        [
            json!("x (default)"),
            json!("p"),
            json!("Delete"),
            json!("Immediate"),
            json!(false),
            json!("<unknown>")
        ]
    );
    let (object, _) = create(
        &StorageClasses,
        &class(
            "allowedTopologies: [{matchLabelExpressions: [{key: failure-domain.beta.kubernetes.io/zone, values: [a]}]}]",
        ),
    );
    assert_eq!(
        StorageClasses.warnings(&object),
        [
            "allowedTopologies[0].matchLabelExpressions[0].key: deprecated since v1.17; use \"topology.kubernetes.io/zone\" instead"
        ]
    );
}

#[test]
fn volume_attributes_classes_do_not_change() {
    let class = |driver: &str, parameters: &str| {
        format!("{{metadata: {{name: x}}, driverName: {driver}, parameters: {parameters}}}")
    };
    let gold = class("d.example", "{iops: '9'}");
    check(&VolumeAttributesClasses, &gold, &[]);
    check(
        &VolumeAttributesClasses,
        &class("''", "{}"),
        &[
            "driverName: Required value",
            "parameters: Required value: must contain at least one key/value pair",
        ],
    );
    check_update(
        &VolumeAttributesClasses,
        &gold,
        &class("e.example", "{iops: '1'}"),
        &[
            "driverName: Forbidden: updates to driverName are forbidden.",
            "parameters: Forbidden: updates to parameters are forbidden.",
        ],
    );
    assert_eq!(cells(&VolumeAttributesClasses, &gold), ["d.example", "<unknown>"]);
}

#[test]
fn attachments_say_what_is_attached_where() {
    let attachment = |source: &str| spec(&format!("attacher: d.example, nodeName: n, source: {source}"));
    let good = attachment("{persistentVolumeName: pv}");
    let (old, errors) = create(&VolumeAttachments, &good);
    assert_eq!(errors, [] as [&str; 0]);
    assert_eq!(at(&old, "/status"), json!({"attached": false}));
    for (yaml, expected) in [
        (
            attachment("{}"),
            &[
                "spec.source: Required value: must specify exactly one of inlineVolumeSpec and persistentVolumeName",
            ][..],
        ),
        (
            spec("nodeName: 'N', source: {persistentVolumeName: pv}"),
            &[
                "spec.attacher: Required value",
                "spec.nodeName: Invalid value: \"N\": a lowercase RFC 1123 subdomain…",
            ],
        ),
        (
            spec("attacher: 'a b', nodeName: n, source: {persistentVolumeName: pv}"),
            &["spec.attacher: Invalid value: \"a b\": a lowercase RFC 1123 subdomain…"],
        ),
    ] {
        check(&VolumeAttachments, &yaml, expected);
    }
    let (_, errors) =
        testing::update(&VolumeAttachments, &good, &attachment("{persistentVolumeName: other}"));
    testing::assert_errors(&errors, &["spec: Invalid value: {…"], "another volume");
    assert!(errors[0].ends_with("field is immutable"), "{errors:?}");

    let mut new = old.clone();
    new.spec.node_name = "elsewhere".into();
    let status = new.status.as_mut().expect("a status");
    status.attached = true;
    status.attach_error = Some(serde_json::from_value(json!({"errorCode": -1})).expect("an error"));
    let (new, errors) = testing::update_status(&VolumeAttachments, &old, new);
    testing::assert_errors(
        &errors,
        &["status.attachError.errorCode: Invalid value: -1: must be between 0 and 2147483647, inclusive"],
        "a status",
    );
    assert_eq!(new.spec, old.spec);
    let row = VolumeAttachments.row(&new, testing::now());
    assert_eq!(row[1..5], [json!("d.example"), json!("pv"), json!("n"), json!(true)]);
}

#[test]
fn drivers_say_what_they_need() {
    let (driver, errors) = create(&CsiDrivers, &spec(""));
    assert_eq!(errors, [] as [&str; 0]);
    assert_eq!(
        at(&driver, "/spec"),
        json!({
            "attachRequired": true, "podInfoOnMount": false, "storageCapacity": false,
            "requiresRepublish": false, "seLinuxMount": false,
            "fsGroupPolicy": "ReadWriteOnceWithFSType", "volumeLifecycleModes": ["Persistent"],
        })
    );
    for (fields, expected) in [
        ("tokenRequests: [{audience: a, expirationSeconds: 600}, {audience: b}]", &[][..]),
        (
            "tokenRequests: [{audience: a, expirationSeconds: 1}, {audience: a}]",
            &[
                "spec.tokenRequests[0].expirationSeconds: Invalid value: 1: may not specify a duration less than 10 minutes",
                "spec.tokenRequests[1].audience: Duplicate value: \"a\"",
            ],
        ),
        (
            "fsGroupPolicy: Always, volumeLifecycleModes: [Now], nodeAllocatableUpdatePeriodSeconds: 9",
            &[
                "spec.fsGroupPolicy: Unsupported value: \"Always\": supported values: \"File\", \"None\", \"ReadWriteOnceWithFSType\"",
                "spec.volumeLifecycleModes: Unsupported value: \"Now\": supported values: \"Persistent\", \"Ephemeral\"",
                "spec.nodeAllocatableUpdatePeriodSeconds: Invalid value: 9: must be greater than or equal to 10 seconds",
            ],
        ),
        (
            "serviceAccountTokenInSecrets: true",
            &[
                "spec.serviceAccountTokenInSecrets: Invalid value: true: serviceAccountTokenInSecrets is set but no tokenRequests are specified",
            ],
        ),
    ] {
        check(&CsiDrivers, &spec(fields), expected);
    }
    check_update(
        &CsiDrivers,
        &spec(""),
        &spec("attachRequired: false, volumeLifecycleModes: [Ephemeral], podInfoOnMount: true"),
        &[
            "spec.attachedRequired: Invalid value: false: field is immutable",
            "spec.volumeLifecycleModes: Invalid value: [\"Ephemeral\"]: field is immutable",
        ],
    );
    assert_eq!(
        cells(&CsiDrivers, &spec("tokenRequests: [{audience: a}, {audience: b}]")),
        [
            json!(true),
            json!(false),
            json!(false),
            json!("a,b"),
            json!(false),
            json!("<none>"),
            json!("<unknown>")
        ]
    );
}

#[test]
fn nodes_list_their_drivers() {
    let node = |driver: &str| spec(&format!("drivers: [{{name: d.example, nodeID: i, {driver}}}]"));
    check(&CsiNodes, &node("topologyKeys: [a.example/zone], allocatable: {count: 4}"), &[]);
    check(
        &CsiNodes,
        &spec(
            "drivers: [{name: d.example, nodeID: ''}, {name: d.example, nodeID: i, allocatable: {count: -1}}]",
        ),
        &[
            "spec.drivers[0].nodeID: Required value",
            "spec.drivers[1].allocatable.count: Invalid value: -1: must be greater than or equal to 0",
            "spec.drivers[1].name: Duplicate value: \"d.example\"",
        ],
    );
    check(
        &CsiNodes,
        "{metadata: {name: x}, spec: {drivers: []}, status: {storageHealth: [{name: d.example, healthConditions: [{status: Ill, reason: ''}]}]}}",
        &[
            "status.storageHealth[0].healthConditions[0].status: Unsupported value: \"Ill\": supported values: \"StorageDegraded\", \"StorageUnreachable\"",
            "status.storageHealth[0].healthConditions[0].reason: Required value",
        ],
    );
    check_update(&CsiNodes, &node("allocatable: {count: 4}"), &node("allocatable: {count: 5}"), &[]);
    let (_, errors) = testing::update(&CsiNodes, &node(""), &node("topologyKeys: [zone]"));
    testing::assert_errors(&errors, &["spec.drivers: Invalid value: {…"], "another topology");
    assert_eq!(cells(&CsiNodes, &node("")), [json!(1), json!("<unknown>")]);
}

#[test]
fn capacities_are_quantities() {
    let capacity = |fields: &str| format!("{{metadata: {{name: x}}, storageClassName: c, {fields}}}");
    let (object, errors) = create(&CsiStorageCapacities, &capacity("capacity: 1024Mi"));
    assert_eq!(errors, [] as [&str; 0]);
    assert_eq!(at(&object, "/capacity"), "1Gi");
    check(
        &CsiStorageCapacities,
        &capacity("capacity: '-1', maximumVolumeSize: x"),
        &[
            "capacity: Invalid value: \"-1\": must be greater than or equal to 0",
            "maximumVolumeSize: Invalid value: \"x\": quantities must match the regular expression…",
        ],
    );
    check_update(
        &CsiStorageCapacities,
        &capacity(""),
        "{metadata: {name: x}, storageClassName: d, nodeTopology: {}}",
        &[
            "nodeTopology: Invalid value: {}: field is immutable",
            "storageClassName: Invalid value: \"d\": field is immutable",
        ],
    );
    assert_eq!(
        cells(
            &CsiStorageCapacities,
            "{metadata: {name: x, creationTimestamp: '2026-01-01T00:00:00Z'}, storageClassName: c}"
        ),
        ["2026-01-01T00:00:00Z"]
    );
}
