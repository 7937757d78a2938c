//! CustomResourceDefinitions: kubectl and a typed client on resources that a user defines.

use std::{
    io::{BufRead as _, BufReader},
    process::Stdio,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::StreamExt as _;
use k8s_openapi::{
    api::core::v1::ConfigMap, apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api, CustomResourceExt as _, ResourceExt as _,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
    runtime::{
        Controller,
        controller::Action,
        finalizer,
        wait::{await_condition, conditions},
        watcher,
    },
};
use naru_tests::{Cluster, DEADLINE, eventually, https::HttpsServer};

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
const PROMETHEUSES: &str = r"
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
";

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
    kubectl.established("certificates.certs.example.com");
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
    // While they go, nothing comes.
    let hold = |finalizers: &str| {
        let patch = format!("{{\"metadata\":{{\"finalizers\":{finalizers}}}}}");
        kubectl.run(&["patch", "cert", "web", "--type=merge", "-p", &patch]).ok()
    };
    hold("[\"example.com/hold\"]");
    next();
    kubectl.run(&["delete", "crd", "certificates.certs.example.com", "--wait=false"]).ok();
    let path = "/apis/certs.example.com/v1/namespaces/default/certificates";
    let began = Instant::now();
    loop {
        let refused = kubectl.run_with(&["create", "--raw", path, "-f", "-"], "{}").refused();
        if refused.contains("create not allowed while custom resource definition is terminating") {
            break;
        }
        assert!(began.elapsed() < DEADLINE, "{refused}");
    }
    next();
    let before = Instant::now();
    hold("null");
    kubectl.run(&["wait", "--for=delete", "crd/certificates.certs.example.com", "--timeout=30s"]).ok();
    assert!(before.elapsed() < Duration::from_secs(20));
    let last = next();
    assert!(last.contains("certificate.certs.example.com/web"), "{last}");
    watch.kill().expect("it can be ended");
    watch.wait().expect("it ends");
    let gone = kubectl.run(&["get", "--raw", "/apis/certs.example.com/v1/certificates"]).refused();
    assert!(gone.contains("NotFound"), "{gone}");
    // Whoever defines it again finds nothing of before.
    kubectl.apply(CERTIFICATES);
    kubectl.established("certificates.certs.example.com");
    assert_eq!(kubectl.run(&["get", "certificates.certs.example.com", "-A", "-o", "name"]).ok(), "");
}

#[test]
fn scales_embedded_objects_and_restarts() {
    let mut cluster = Cluster::start();
    let kubectl = cluster.kubectl();
    kubectl.apply(PROMETHEUSES);
    kubectl.established("prometheuses.monitoring.example.com");
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

    let foreign = PROMETHEUSES.replace("monitoring.example.com", "monitoring.k8s.io");
    let refused = kubectl.run_with(&["create", "-f", "-"], &foreign).refused();
    assert!(
        refused.contains(
            "metadata.annotations[api-approved.kubernetes.io]: Required value: protected groups must have"
        ),
        "{refused}"
    );

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

/// What a user's operator is made of: a derived definition, a typed client, a controller with a finalizer.
#[derive(kube::CustomResource, Clone, Debug, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[kube(
    group = "toys.example.com",
    version = "v1",
    kind = "Widget",
    namespaced,
    status = "WidgetStatus",
    shortname = "wd",
    scale(spec_replicas_path = ".spec.parts", status_replicas_path = ".status.parts"),
    validation = kube::core::Rule::new("self.spec.parts <= 10 || has(self.spec.permit)").message("many parts need a permit"),
    printcolumn(name = "Parts", json_path = ".spec.parts", type_ = "integer")
)]
struct WidgetSpec {
    parts: i32,
    #[serde(skip_serializing_if = "Option::is_none")]
    permit: Option<String>,
}

#[derive(Clone, Debug, Default, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
struct WidgetStatus {
    parts: i32,
}

/// Gives each widget a map, says in the status how many parts there are, and takes the map away in the end.
async fn reconcile(
    widget: Arc<Widget>,
    client: Arc<kube::Client>,
) -> Result<Action, finalizer::Error<kube::Error>> {
    let namespace = widget.namespace().unwrap_or_default();
    let widgets: Api<Widget> = Api::namespaced((*client).clone(), &namespace);
    let maps: Api<ConfigMap> = Api::namespaced((*client).clone(), &namespace);
    finalizer::finalizer(&widgets, "toys.example.com/cleanup", widget, |event| async {
        match event {
            finalizer::Event::Apply(widget) => {
                let name = widget.name_any();
                let map = ConfigMap {
                    metadata: kube::api::ObjectMeta { name: Some(name.clone()), ..Default::default() },
                    ..Default::default()
                };
                match maps.create(&PostParams::default(), &map).await {
                    Err(kube::Error::Api(status)) if status.code == 409 => (),
                    other => drop(other?),
                }
                let status = serde_json::json!({ "status": { "parts": widget.spec.parts } });
                widgets.patch_status(&name, &PatchParams::default(), &Patch::Merge(&status)).await?;
                Ok(Action::await_change())
            }
            finalizer::Event::Cleanup(widget) => {
                maps.delete(&widget.name_any(), &DeleteParams::default()).await?;
                Ok(Action::await_change())
            }
        }
    })
    .await
}

#[tokio::test]
async fn an_operator_of_kube_runs() {
    let cluster = Cluster::start();
    let client = cluster.client().await;
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    let created = Instant::now();
    definitions
        .create(&PostParams::default(), &Widget::crd())
        .await
        .expect("the derived definition is valid");
    let established =
        await_condition(definitions.clone(), "widgets.toys.example.com", conditions::is_crd_established());
    tokio::time::timeout(Duration::from_secs(20), established).await.expect("in time").expect("established");
    let widgets: Api<Widget> = Api::namespaced(client.clone(), "default");
    eventually("widgets are served", async || widgets.list(&ListParams::default()).await).await;
    assert!(created.elapsed() < Duration::from_secs(5), "served only after {:?}", created.elapsed());

    let controller = Controller::new(widgets.clone(), watcher::Config::default());
    let run = controller.run(
        reconcile,
        |_, _, _| Action::requeue(Duration::from_millis(100)),
        Arc::new(client.clone()),
    );
    let run = tokio::spawn(run.for_each(|_| async {}));

    let mut widget = Widget::new("one", WidgetSpec { parts: 3, permit: None });
    widgets.create(&PostParams::default(), &widget).await.expect("created");
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "default");
    eventually("the controller acts", async || {
        let widget = widgets.get("one").await.map_err(|error| error.to_string())?;
        maps.get("one").await.map_err(|error| error.to_string())?;
        if widget.status.map(|status| status.parts) == Some(3) {
            Ok(())
        } else {
            Err("no status yet".to_owned())
        }
    })
    .await;
    // A rule is asked on every write, by whatever road.
    widget.spec.parts = 11;
    let patch = serde_json::json!({ "spec": { "parts": 11 } });
    let refused =
        widgets.patch("one", &PatchParams::default(), &Patch::Merge(&patch)).await.expect_err("no permit");
    assert!(refused.to_string().contains("many parts need a permit"), "{refused}");
    let scaled = serde_json::json!({ "spec": { "replicas": 12 } });
    widgets.patch_scale("one", &PatchParams::default(), &Patch::Merge(&scaled)).await.expect_err("no permit");
    let scaled = serde_json::json!({ "spec": { "replicas": 5 } });
    let scale =
        widgets.patch_scale("one", &PatchParams::default(), &Patch::Merge(&scaled)).await.expect("scaled");
    assert_eq!(scale.spec.and_then(|spec| spec.replicas), Some(5));

    widgets.delete("one", &DeleteParams::default()).await.expect("deleted");
    eventually("the finalizer let go", async || {
        match (widgets.get_opt("one").await, maps.get_opt("one").await) {
            (Ok(None), Ok(None)) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    run.abort();
}

/// Rules, and versions that a webhook converts between.
const GAUGES: &str = r#"
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: gauges.toys.example.com}
spec:
  group: toys.example.com
  scope: Cluster
  names: {plural: gauges, kind: Gauge}
  CONVERSION
  versions:
  - name: v1
    served: true
    storage: V1_STORES
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec:
            type: object
            x-kubernetes-validations:
            - {rule: 'self.low <= self.high', message: low must not exceed high, fieldPath: .low}
            - {rule: 'self.high == oldSelf.high || self.high > oldSelf.high', messageExpression: '"high fell to %d".format([self.high])'}
            properties: {low: {type: integer}, high: {type: integer}}
  - name: v2
    served: true
    storage: V2_STORES
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec:
            type: object
            properties: {range: {type: string}, low: {type: integer}, high: {type: integer}}
"#;

fn gauges(conversion: &str, storage: &str) -> String {
    GAUGES
        .replace("CONVERSION", conversion)
        .replace("V1_STORES", if storage == "v1" { "true" } else { "false" })
        .replace("V2_STORES", if storage == "v2" { "true" } else { "false" })
}

/// An HTTPS server that converts gauges.
async fn conversion_webhook(name: &str) -> HttpsServer {
    HttpsServer::start(name, None, |request: http::Request<hyper::body::Incoming>| async {
        use http_body_util::BodyExt as _;
        let body = request.into_body().collect().await.expect("a body").to_bytes();
        let review = converted(&serde_json::from_slice(&body).expect("a review"));
        http::Response::new(bytes::Bytes::from(review.to_string()).into())
    })
    .await
}

/// v1 has `low` and `high`, v2 has `range: low-high`.
fn converted(review: &serde_json::Value) -> serde_json::Value {
    let request = &review["request"];
    let to = request["desiredAPIVersion"].as_str().expect("a version");
    let convert = |object: &serde_json::Value| {
        let mut object = object.clone();
        object["apiVersion"] = to.into();
        let spec = &object["spec"];
        object["spec"] = if to.ends_with("v2") {
            serde_json::json!({ "range": format!("{}-{}", spec["low"], spec["high"]) })
        } else {
            let (low, high) =
                spec["range"].as_str().and_then(|range| range.split_once('-')).expect("a range");
            serde_json::json!({ "low": low.parse::<i64>().expect("low"), "high": high.parse::<i64>().expect("high") })
        };
        object
    };
    let objects: Vec<_> = request["objects"].as_array().expect("objects").iter().map(convert).collect();
    let response = serde_json::json!({ "uid": request["uid"], "convertedObjects": objects, "result": { "status": "Success" } });
    serde_json::json!({ "apiVersion": review["apiVersion"], "kind": "ConversionReview", "response": response })
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_are_converted_and_rules_are_asked() {
    let cluster = Cluster::start();
    let kubectl = cluster.kubectl();
    kubectl.apply(&gauges("conversion: {strategy: None}", "v1"));
    kubectl.established("gauges.toys.example.com");
    let gauge = |spec: &str| {
        format!("apiVersion: toys.example.com/v1\nkind: Gauge\nmetadata: {{name: g}}\nspec: {spec}\n")
    };
    let refused = kubectl.run_with(&["create", "-f", "-"], &gauge("{low: 3, high: 2}")).refused();
    assert!(
        refused.contains(
            r#"The Gauge "g" is invalid: spec.low: Invalid value: "object": low must not exceed high"#
        ),
        "{refused}"
    );
    kubectl.apply(&gauge("{low: 1, high: 5}"));
    let refused = kubectl.run_with(&["apply", "-f", "-"], &gauge("{low: 1, high: 4}")).refused();
    assert!(refused.contains(r#"spec: Invalid value: "object": high fell to 4"#), "{refused}");
    let wrong = gauges("conversion: {strategy: None}", "v1").replace("self.low <=", "self.lwo <=");
    let refused = kubectl.run_with(&["apply", "-f", "-"], &wrong).refused();
    assert!(refused.contains("compilation failed: ERROR: <input>:1:5: undefined field 'lwo'"), "{refused}");

    // Without a webhook only the name of the version changes.
    let as_v2 = ["get", "gauges.v2.toys.example.com", "g", "-o", "jsonpath={.apiVersion} {.spec}"];
    assert_eq!(kubectl.run(&as_v2).ok(), r#"toys.example.com/v2 {"high":5,"low":1}"#);

    // With one, both versions say the same in their own words, wherever objects are stored.
    let server = conversion_webhook("gauges.default.svc").await;
    server.behind_service(&kubectl, "default", "gauges", 8443);
    let webhook = format!(
        "conversion: {{strategy: Webhook, webhook: {{conversionReviewVersions: [v1], clientConfig: {{service: {{name: gauges, namespace: default, path: /convert, port: 8443}}, caBundle: {}}}}}}}",
        server.bundle()
    );
    let run = |args: &[&str]| {
        let (kubectl, args) = (kubectl.clone(), args.iter().map(|arg| (*arg).to_owned()).collect::<Vec<_>>());
        tokio::task::spawn_blocking(move || kubectl.run(&args.iter().map(String::as_str).collect::<Vec<_>>()))
    };
    kubectl.apply(&gauges(&webhook, "v2"));
    eventually("v2 is converted", async || {
        let seen = run(&["get", "gauges.v2.toys.example.com", "-o", "jsonpath={.items[*].spec}"])
            .await
            .expect("no panic");
        if seen.stdout == r#"{"range":"1-5"}"# { Ok(()) } else { Err(format!("{seen:?}")) }
    })
    .await;
    let patched =
        run(&["patch", "gauges.v1.toys.example.com", "g", "--type=merge", "-p", r#"{"spec":{"high":9}}"#])
            .await;
    patched.expect("no panic").ok();
    let seen = run(&["get", "gauges.v2.toys.example.com", "g", "-o", "jsonpath={.spec}"])
        .await
        .expect("no panic")
        .ok();
    assert_eq!(seen, r#"{"range":"1-9"}"#);
    let stored =
        run(&["get", "crd", "gauges.toys.example.com", "-o", "jsonpath={.status.storedVersions}"]).await;
    assert_eq!(stored.expect("no panic").ok(), r#"["v1","v2"]"#);
    let removed =
        gauges(&webhook, "v2").replace("  - name: v1\n    served: true", "  - name: v3\n    served: true");
    let refused = kubectl.run_with(&["apply", "-f", "-"], &removed).refused();
    assert!(
        refused.contains("status.storedVersions[0]: Invalid value: \"v1\": missing from spec.versions"),
        "{refused}"
    );
}
