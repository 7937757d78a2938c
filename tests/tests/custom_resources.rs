//! CustomResourceDefinitions: kubectl and a typed client on resources that a user defines.

use std::{
    io::{BufRead as _, BufReader},
    process::Stdio,
    time::{Duration, Instant},
};

use naru_tests::{Cluster, Kubectl, eventually};

/// The shape of a certificate manager's definition: status, columns by filter, enums, defaults, a free-form part.
const CERTIFICATES: &str = r#"
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: certificates.certs.example.com}
spec:
  group: certs.example.com
  scope: Namespaced
  names: {plural: certificates, kind: Certificate, shortNames: [cert, certs], categories: [pki]}
  versions:
  - name: v1
    served: true
    storage: true
    subresources:
      status: {}
    additionalPrinterColumns:
    - {name: Ready, type: string, jsonPath: '.status.conditions[?(@.type=="Ready")].status'}
    - {name: Secret, type: string, jsonPath: .spec.secretName}
    - {name: Renewals, type: integer, jsonPath: .status.revision, priority: 1}
    - {name: Age, type: date, jsonPath: .metadata.creationTimestamp}
    selectableFields:
    - jsonPath: .spec.secretName
    schema:
      openAPIV3Schema:
        description: A Certificate is a promise of a signed key pair.
        type: object
        required: [spec]
        properties:
          spec:
            description: What is asked for.
            type: object
            required: [secretName, issuerRef]
            properties:
              secretName: {type: string, minLength: 1, description: Where the key pair is kept.}
              duration: {type: string, default: 2160h}
              dnsNames: {type: array, maxItems: 3, x-kubernetes-list-type: set, items: {type: string}}
              issuerRef:
                type: object
                required: [name]
                properties:
                  name: {type: string}
                  kind: {type: string, enum: [Issuer, ClusterIssuer], default: Issuer}
              privateKey:
                type: object
                default: {}
                properties:
                  algorithm: {type: string, enum: [RSA, ECDSA], default: RSA}
                  size: {type: integer, minimum: 256, maximum: 8192}
              usages: {type: object, additionalProperties: {type: boolean}}
              extra: {type: object, x-kubernetes-preserve-unknown-fields: true}
              port: {x-kubernetes-int-or-string: true}
          status:
            type: object
            properties:
              revision: {type: integer}
              conditions:
                type: array
                x-kubernetes-list-type: map
                x-kubernetes-list-map-keys: [type]
                items:
                  type: object
                  required: [type, status]
                  properties:
                    type: {type: string}
                    status: {type: string, enum: ["True", "False", Unknown]}
"#;

const CERTIFICATE: &str = "
apiVersion: certs.example.com/v1
kind: Certificate
metadata: {name: web}
spec:
  secretName: web-tls
  issuerRef: {name: ca}
  dnsNames: [a.example, b.example]
  extra: {anything: {goes: 1}}
  port: 443
";

/// The shape of a monitoring operator's definition: a scale, an embedded resource, a cluster scope.
const PROMETHEUSES: &str = r#"
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: prometheuses.monitoring.example.com}
spec:
  group: monitoring.example.com
  scope: Namespaced
  names: {plural: prometheuses, singular: prometheus, kind: Prometheus, shortNames: [prom]}
  versions:
  - name: v1
    served: true
    storage: true
    subresources:
      status: {}
      scale: {specReplicasPath: .spec.replicas, statusReplicasPath: .status.replicas, labelSelectorPath: .status.selector}
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec:
            type: object
            properties:
              replicas: {type: integer, format: int32, minimum: 0, default: 1}
              retention: {type: string, pattern: '^(0|(([0-9]+)y)?(([0-9]+)w)?(([0-9]+)d)?)$'}
              remote:
                type: array
                items:
                  type: object
                  oneOf:
                  - required: [url]
                  - required: [file]
                  properties: {url: {type: string, format: uri}, file: {type: string}}
              template: {type: object, x-kubernetes-embedded-resource: true, x-kubernetes-preserve-unknown-fields: true}
          status:
            type: object
            properties: {replicas: {type: integer}, selector: {type: string}}
"#;

fn established(kubectl: &Kubectl, name: &str) {
    kubectl.run(&["wait", "--for=condition=Established", &format!("crd/{name}"), "--timeout=30s"]).ok();
}

fn words(text: &str) -> Vec<String> {
    text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}

#[test]
fn kubectl_lives_with_a_definition_from_its_birth_to_its_end() {
    let cluster = Cluster::start();
    let kubectl = cluster.kubectl();
    let created = kubectl.apply(CERTIFICATES);
    assert_eq!(
        created,
        "customresourcedefinition.apiextensions.k8s.io/certificates.certs.example.com created\n"
    );
    established(&kubectl, "certificates.certs.example.com");
    kubectl.run(&["-n", "default", "wait", "--for=create", "serviceaccount/default", "--timeout=30s"]).ok();

    // Defaults are filled in, what the schema leaves free stays, and what it does not know is told.
    assert_eq!(kubectl.apply(CERTIFICATE), "certificate.certs.example.com/web created\n");
    assert_eq!(kubectl.apply(CERTIFICATE), "certificate.certs.example.com/web unchanged\n");
    let spec = kubectl.run(&["get", "cert", "web", "-o", "jsonpath={.spec}"]).ok();
    let spec: serde_json::Value = serde_json::from_str(&spec).expect("JSON");
    assert_eq!(
        spec,
        serde_json::json!({
            "secretName": "web-tls", "issuerRef": { "name": "ca", "kind": "Issuer" }, "duration": "2160h",
            "dnsNames": ["a.example", "b.example"], "extra": { "anything": { "goes": 1 } }, "port": 443,
            "privateKey": { "algorithm": "RSA" },
        })
    );
    let odd = CERTIFICATE.replace("secretName: web-tls", "secretName: web-tls\n  sercet: typo");
    let refused = kubectl.run_with(&["apply", "-f", "-"], &odd).refused();
    assert!(refused.contains(r#"strict decoding error: unknown field "spec.sercet""#), "{refused}");
    let warned = kubectl.run_with(&["apply", "--validate=warn", "-f", "-"], &odd);
    assert!(warned.stderr.contains(r#"Warning: unknown field "spec.sercet""#), "{}", warned.stderr);
    assert_eq!(kubectl.run(&["get", "cert", "web", "-o", "jsonpath={.spec.sercet}"]).ok(), "");

    // Invalid objects, in Kubernetes' words.
    let invalid = CERTIFICATE
        .replace("name: web}", "name: bad}")
        .replace(
            "issuerRef: {name: ca}",
            "issuerRef: {kind: Judge}\n  privateKey: {size: 1}\n  usages: {a: maybe}",
        )
        .replace("[a.example, b.example]", "[a, b, a]")
        .replace("port: 443", "port: true");
    let refused = kubectl.run_with(&["create", "-f", "-"], &invalid).refused();
    for text in [
        r#"The Certificate "bad" is invalid:"#,
        "spec.issuerRef.name: Required value",
        r#"spec.issuerRef.kind: Unsupported value: "Judge": supported values: "Issuer", "ClusterIssuer""#,
        "spec.privateKey.size: Invalid value: 1: spec.privateKey.size in body should be greater than or equal to 256",
        r#"spec.usages.a: Invalid value: "string": spec.usages.a in body must be of type boolean: "string""#,
        r#"spec.dnsNames[2]: Duplicate value: "a""#,
        r#"spec.port: Invalid value: "boolean": spec.port in body must be of type integer,string: "boolean""#,
    ] {
        assert!(refused.contains(text), "{text} is not in {refused}");
    }
    let two = CERTIFICATE.replace("[a.example, b.example]", "[a, b, c, d]");
    let refused = kubectl.run_with(&["apply", "-f", "-"], &two).refused();
    assert!(refused.contains("spec.dnsNames: Too many: 4: must have at most 3 items"), "{refused}");

    // The status is a part of its own.
    let status = r#"{"status":{"revision":3,"conditions":[{"type":"Ready","status":"True"}]}}"#;
    kubectl.run(&["patch", "cert", "web", "--type=merge", "-p", status]).ok();
    assert_eq!(kubectl.run(&["get", "cert", "web", "-o", "jsonpath={.status}"]).ok(), "");
    kubectl.run(&["patch", "cert", "web", "--subresource=status", "--type=merge", "-p", status]).ok();
    let generation = ["get", "cert", "web", "-o", "jsonpath={.metadata.generation} {.status.revision}"];
    assert_eq!(kubectl.run(&generation).ok(), "1 3");
    let strategic = kubectl.run(&["patch", "cert", "web", "--type=strategic", "-p", status]);
    assert!(strategic.code != 0, "a custom resource has no strategic merge patch");

    // Tables, names, categories and selectors.
    let table = words(&kubectl.run(&["get", "certs", "-o", "wide"]).ok());
    assert_eq!(table[0], "NAME READY SECRET RENEWALS AGE");
    assert!(table[1].starts_with("web True web-tls 3 "), "{table:?}");
    assert_eq!(words(&kubectl.run(&["get", "certificates"]).ok())[0], "NAME READY SECRET AGE");
    assert_eq!(kubectl.run(&["get", "pki", "-o", "name"]).ok(), "certificate.certs.example.com/web\n");
    let chosen =
        |selector: &str| kubectl.run(&["get", "cert", "--field-selector", selector, "-o", "name"]).ok();
    assert_eq!(chosen("spec.secretName=web-tls"), "certificate.certs.example.com/web\n");
    assert_eq!(chosen("spec.secretName=other"), "");
    let unknown = kubectl.run(&["get", "cert", "--field-selector", "spec.duration=1h"]).refused();
    assert!(unknown.contains("field label not supported: spec.duration"), "{unknown}");

    // Documents.
    for kubectl in cluster.kubectls() {
        let explained = kubectl.run(&["explain", "cert.spec"]).ok();
        assert!(
            explained.contains("What is asked for.") && explained.contains("secretName\t<string> -required-"),
            "{explained}"
        );
        let resources = kubectl.run(&["api-resources", "--api-group=certs.example.com"]).ok();
        assert_eq!(words(&resources)[1], "certificates cert,certs certs.example.com/v1 true Certificate");
    }

    // A watch sees every change, and the objects go with their definition.
    let mut watch = kubectl
        .command(&["get", "cert", "-w", "--output-watch-events", "-o", "name"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("kubectl starts");
    let mut lines = BufReader::new(watch.stdout.take().expect("piped")).lines();
    let mut next = || lines.next().expect("one more line").expect("text");
    let first = next();
    assert!(first.contains("certificate.certs.example.com/web"), "{first}");
    let before = Instant::now();
    kubectl.run(&["delete", "crd", "certificates.certs.example.com", "--timeout=30s"]).ok();
    assert!(before.elapsed() < Duration::from_secs(20));
    let last = next();
    assert!(last.contains("certificate.certs.example.com/web"), "{last}");
    watch.kill().expect("it can be ended");
    watch.wait().expect("it ends");
    let gone = kubectl.run(&["get", "--raw", "/apis/certs.example.com/v1/certificates"]).refused();
    assert!(gone.contains("NotFound"), "{gone}");
    // Whoever defines it again finds nothing of before.
    kubectl.apply(CERTIFICATES);
    established(&kubectl, "certificates.certs.example.com");
    assert_eq!(kubectl.run(&["get", "certificates.certs.example.com", "-A", "-o", "name"]).ok(), "");
}

#[test]
fn scales_embedded_objects_and_restarts() {
    let mut cluster = Cluster::start();
    let kubectl = cluster.kubectl();
    kubectl.apply(PROMETHEUSES);
    established(&kubectl, "prometheuses.monitoring.example.com");
    let object = "
apiVersion: monitoring.example.com/v1
kind: Prometheus
metadata: {name: main}
spec:
  remote: [{url: 'https://far.example/write'}]
  template: {apiVersion: v1, kind: ConfigMap, metadata: {name: inner}, data: {a: b}}
";
    kubectl.apply(object);
    kubectl.run(&["scale", "prom/main", "--replicas=3"]).ok();
    let spec = [
        "get",
        "prom",
        "main",
        "-o",
        "jsonpath={.spec.replicas} {.spec.template.data.a} {.metadata.generation}",
    ];
    assert_eq!(kubectl.run(&spec).ok(), "3 b 2");
    let scale = kubectl
        .run(&["get", "--raw", "/apis/monitoring.example.com/v1/namespaces/default/prometheuses/main/scale"])
        .ok();
    assert!(scale.contains(r#""kind":"Scale""#) && scale.contains(r#""replicas":3"#), "{scale}");
    let neither =
        object.replace("name: main", "name: other").replace("url: 'https://far.example/write'", "odd: x");
    let refused = kubectl.run_with(&["create", "--validate=false", "-f", "-"], &neither).refused();
    assert!(
        refused
            .contains(r#""spec.remote[0]" must validate one and only one schema (oneOf). Found none valid"#),
        "{refused}"
    );
    let bad = kubectl
        .run(&["patch", "prom", "main", "--type=merge", "-p", r#"{"spec":{"retention":"long"}}"#])
        .refused();
    assert!(
        bad.contains(r#"spec.retention: Invalid value: "long": spec.retention in body should match"#),
        "{bad}"
    );

    // Definitions that are none.
    let wrong = PROMETHEUSES
        .replace("scope: Namespaced", "scope: Universal")
        .replace("prometheuses.monitoring.example.com}", "wrong.monitoring.example.com}")
        .replace("retention: {type: string, ", "retention: {");
    let refused = kubectl.run_with(&["create", "-f", "-"], &wrong).refused();
    for text in [
        r#"metadata.name: Invalid value: "wrong.monitoring.example.com": must be spec.names.plural+"."+spec.group"#,
        r#"spec.scope: Unsupported value: "Universal": supported values: "Cluster", "Namespaced""#,
        "spec.validation.openAPIV3Schema.properties[spec].properties[retention].type: Required value: must not be empty for specified object fields",
    ] {
        assert!(refused.contains(text), "{text} is not in {refused}");
    }

    // A name that is taken is not given twice.
    let rival = PROMETHEUSES
        .replace("prometheuses.monitoring.example.com}", "rivals.monitoring.example.com}")
        .replace(
            "plural: prometheuses, singular: prometheus, kind: Prometheus",
            "plural: rivals, singular: rival, kind: Rival",
        );
    kubectl.apply(&rival);
    kubectl
        .run(&[
            "wait",
            "--for=condition=NamesAccepted=false",
            "crd/rivals.monitoring.example.com",
            "--timeout=30s",
        ])
        .ok();
    let condition = [
        "get",
        "crd",
        "rivals.monitoring.example.com",
        "-o",
        "jsonpath={.status.conditions[?(@.type=='NamesAccepted')].message}",
    ];
    assert_eq!(kubectl.run(&condition).ok(), r#""prom" is already in use"#);

    // After a restart everything is served as before, from the first request on; a changed schema meets old objects.
    cluster.stop();
    cluster.up();
    assert_eq!(kubectl.run(&spec).ok(), "3 b 2");
    let changed = PROMETHEUSES.replace(
        "retention: {type: string,",
        "logLevel: {type: string, default: info}\n              retention: {type: string,",
    );
    kubectl.apply(&changed);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(eventually("the new default shows", async || {
        match kubectl.run(&["get", "prom", "main", "-o", "jsonpath={.spec.logLevel}"]).ok().as_str() {
            "info" => Ok(()),
            other => Err(format!("{other:?}")),
        }
    }));
    // A namespace takes its custom objects with it.
    kubectl.run(&["create", "namespace", "shop"]).ok();
    kubectl.run_with(&["-n", "shop", "apply", "-f", "-"], object).ok();
    kubectl.run(&["delete", "namespace", "shop", "--timeout=60s"]).ok();
    assert_eq!(
        kubectl.run(&["get", "prom", "-A", "-o", "name"]).ok(),
        "prometheus.monitoring.example.com/main\n"
    );
}
