use super::{check_spec, check_volume};

#[test]
fn a_volume_has_a_name_and_one_source() {
    check_volume("emptyDir: {}", &[]);
    check_spec("volumes: [{emptyDir: {}}]", &["spec.volumes[0].name: Required value"]);
    check_spec("volumes: [{name: v}, {name: v}]", &["spec.volumes[1].name: Duplicate value: \"v\""]);
    check_volume(
        "emptyDir: {}, secret: {secretName: s}",
        &["spec.volumes[0].secret: Forbidden: may not specify more than 1 volume type"],
    );
    check_spec(
        "volumes: [{name: V, emptyDir: {}}]",
        &["spec.volumes[0].name: Invalid value: \"V\": a lowercase RFC…"],
    );
}

#[test]
fn each_source_has_its_required_fields() {
    for (source, expected) in [
        ("hostPath: {path: /x, type: Directory}", &[][..]),
        ("hostPath: {}", &["spec.volumes[0].hostPath.path: Required value"]),
        (
            "hostPath: {path: /a/../b}",
            &["spec.volumes[0].hostPath.path: Invalid value: \"/a/../b\": must not contain '..'"],
        ),
        (
            "hostPath: {path: /x, type: Dir}",
            &[
                "spec.volumes[0].hostPath.type: Unsupported value: \"Dir\": supported values: \"\", \"BlockDevice\", \"CharDevice\", \"Directory\", \"DirectoryOrCreate\", \"File\", \"FileOrCreate\", \"Socket\"",
            ],
        ),
        ("secret: {}", &["spec.volumes[0].secret.secretName: Required value"]),
        (
            "secret: {secretName: s, defaultMode: 512}",
            &[
                "spec.volumes[0].secret.defaultMode: Invalid value: 512: must be a number between 0 and 0777 (octal), both inclusive",
            ],
        ),
        (
            "configMap: {items: [{key: k}, {path: ../x, mode: -1}]}",
            &[
                "spec.volumes[0].configMap.name: Required value",
                "spec.volumes[0].configMap.items[0].path: Required value",
                "spec.volumes[0].configMap.items[1].key: Required value",
                "spec.volumes[0].configMap.items[1].path: Invalid value: \"../x\": must not contain '..'",
                "spec.volumes[0].configMap.items[1].mode: Invalid value: -1: must be a number between 0 and 0777 (octal), both inclusive",
            ],
        ),
        (
            "configMap: {name: c, items: [{key: k, path: ..data}]}",
            &["spec.volumes[0].configMap.items[0].path: Invalid value: \"..data\": must not start with '..'"],
        ),
        ("persistentVolumeClaim: {}", &["spec.volumes[0].persistentVolumeClaim.claimName: Required value"]),
        ("emptyDir: {sizeLimit: 1Gi}", &[]),
        (
            "emptyDir: {sizeLimit: -1}",
            &[
                "spec.volumes[0].emptyDir.sizeLimit: Forbidden: SizeLimit field must be a valid resource quantity",
            ],
        ),
        ("image: {reference: a}", &[]),
        ("image: {pullPolicy: Never}", &["spec.volumes[0].image.reference: Required value"]),
        (
            "csi: {}",
            &[
                "spec.volumes[0].csi.driver: Required value",
                "spec.volumes[0].csi.driver: Invalid value: \"\": a lowercase RFC 1123 subdomain…",
            ],
        ),
        (
            "nfs: {server: s, path: x}",
            &["spec.volumes[0].nfs.path: Invalid value: \"x\": must be an absolute path"],
        ),
        (
            "iscsi: {targetPortal: p, iqn: iqn.2015-02.example.com:test, lun: 256}",
            &["spec.volumes[0].iscsi.lun: Invalid value: 256: must be between 0 and 255, inclusive"],
        ),
        (
            "iscsi: {targetPortal: p, iqn: iqn.x}",
            &["spec.volumes[0].iscsi.iqn: Invalid value: \"iqn.x\": must be valid format"],
        ),
        ("gitRepo: {}", &["spec.volumes[0].gitRepo.repository: Required value"]),
        (
            "rbd: {}",
            &["spec.volumes[0].rbd.monitors: Required value", "spec.volumes[0].rbd.image: Required value"],
        ),
        (
            "fc: {targetWWNs: [a]}",
            &["spec.volumes[0].fc.lun: Required value: lun is required if targetWWNs is specified"],
        ),
        (
            "flocker: {}",
            &["spec.volumes[0].flocker: Required value: one of datasetName and datasetUUID is required"],
        ),
        (
            "azureDisk: {diskName: d, diskURI: x, kind: Managed}",
            &[
                "spec.volumes[0].azureDisk.diskURI: Unsupported value: \"x\": supported values: \"/subscriptions…",
            ],
        ),
        (
            "flexVolume: {driver: d, options: {k8s.io/x: y}}",
            &[
                "spec.volumes[0].flexVolume.options[k8s.io/x]: Invalid value: \"k8s.io/x\": kubernetes.io and k8s.io namespaces are reserved",
            ],
        ),
    ] {
        check_volume(source, expected);
    }
}

#[test]
fn downward_files_show_one_thing() {
    for (file, expected) in [
        ("{path: l, fieldRef: {fieldPath: metadata.labels}}", &[][..]),
        (
            "{path: l}",
            &[
                "spec.volumes[0].downwardAPI: Required value: one of fieldRef and resourceFieldRef is required",
            ],
        ),
        (
            "{path: l, fieldRef: {fieldPath: spec.nodeName}}",
            &[
                "spec.volumes[0].downwardAPI.fieldRef.fieldPath: Unsupported value: \"spec.nodeName\": supported values: \"metadata.annotations\", \"metadata.labels\", \"metadata.name\", \"metadata.namespace\", \"metadata.uid\"",
            ],
        ),
        (
            "{path: l, resourceFieldRef: {resource: limits.cpu}}",
            &["spec.volumes[0].downwardAPI.resourceFieldRef.containerName: Required value"],
        ),
    ] {
        check_volume(&format!("downwardAPI: {{items: [{file}]}}"), expected);
    }
}

#[test]
fn projected_sources_do_not_collide() {
    for (sources, expected) in [
        ("{secret: {name: s}}, {configMap: {name: c}}", &[][..]),
        ("{secret: {}}", &["spec.volumes[0].projected.sources[0].secret.name: Required value"]),
        (
            "{secret: {name: s}, configMap: {name: c}}",
            &[
                "spec.volumes[0].projected.sources[0]: Forbidden: may not specify more than 1 volume type per source",
            ],
        ),
        (
            "{secret: {name: s, items: [{key: k, path: x}]}}, {configMap: {name: c, items: [{key: k, path: x}]}}",
            &["spec.volumes[0].projected: Invalid value: \"c\": conflicting duplicate paths"],
        ),
        (
            "{clusterTrustBundle: {path: x}}",
            &[
                "spec.volumes[0].projected.sources[0].clusterTrustBundle: Required value: either name or signerName must be specified",
            ],
        ),
        (
            "{podCertificate: {signerName: example.com/s, keyType: ED25519}}",
            &[
                "spec.volumes[0].projected.sources[0].podCertificate: Required value: specify at least one of…",
            ],
        ),
    ] {
        check_volume(&format!("projected: {{sources: [{sources}]}}"), expected);
    }
}

#[test]
fn tokens_need_an_account_and_a_lifetime() {
    check_spec(
        "serviceAccountName: sa\n  volumes: [{name: v, projected: {sources: [{serviceAccountToken: {path: t, expirationSeconds: 599}}]}}]",
        &[
            "spec.volumes[0].projected.sources[0].serviceAccountToken.expirationSeconds: Invalid value: 599: may not specify a duration less than 10 minutes",
        ],
    );
    check_volume(
        "projected: {sources: [{serviceAccountToken: {}}]}",
        &[
            "spec.volumes[0].projected.path: Required value",
            "spec.volumes[0].projected.sources[0].serviceAccountToken: Forbidden: must not be specified when serviceAccountName is not set",
        ],
    );
}

#[test]
fn ephemeral_claims_are_whole_claims() {
    let spec = "{accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}";
    check_volume(&format!("ephemeral: {{volumeClaimTemplate: {{spec: {spec}}}}}"), &[]);
    check_volume("ephemeral: {}", &["spec.volumes[0].ephemeral.volumeClaimTemplate: Required value"]);
    check_volume(
        "ephemeral: {volumeClaimTemplate: {metadata: {name: n}, spec: {}}}",
        &[
            "spec.volumes[0].ephemeral.volumeClaimTemplate.metadata.name: Forbidden: cannot be set",
            "spec.volumes[0].ephemeral.volumeClaimTemplate.spec.accessModes: Required value: at least 1 access mode is required",
            "spec.volumes[0].ephemeral.volumeClaimTemplate.spec.resources[storage]: Required value",
        ],
    );
    check_spec(
        &format!(
            "volumes: [{{name: v, ephemeral: {{volumeClaimTemplate: {{spec: {spec}}}}}}}, {{name: w, persistentVolumeClaim: {{claimName: p-v}}}}]"
        ),
        &[
            "spec.volumes[1].persistentVolumeClaim.claimName: Invalid value: \"p-v\": must not reference a PVC that gets created for an ephemeral volume",
        ],
    );
}

#[test]
fn mounts_of_bad_volumes_are_reported_too() {
    let spec = "volumes: [{name: v, secret: {}}]\n  initContainers: [{name: b, image: i, volumeMounts: [{name: v, mountPath: /x}]}]";
    check_spec(
        spec,
        &[
            "spec.volumes[0].secret.secretName: Required value",
            "spec.initContainers[0].volumeMounts[0].name: Not found: \"v\"",
        ],
    );
}
