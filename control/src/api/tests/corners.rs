//! Where requests disagree with themselves, or ask for what is only nearly right.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/shop/leases";

pub(super) async fn refused(answer: Answer, status: u16, message: &str) {
    assert_eq!((answer.status, answer.message()), (status, message), "{}", answer.body);
}

#[tokio::test]
async fn what_is_replaced_is_what_the_url_names() {
    let cluster = Cluster::start().await;
    let lease = |metadata: Value| json!({ "metadata": metadata, "spec": {} });
    let path = format!("{LEASES}/a");
    for (metadata, message) in [
        (json!({ "name": "b" }), "the name of the object (b) does not match the name on the URL (a)"),
        (json!({}), "the name of the object (a based on URL) was undeterminable: name must be provided"),
        (
            json!({ "name": "a", "namespace": "other" }),
            "the namespace of the provided object does not match the namespace sent on the request",
        ),
    ] {
        // Whether it is there or would be created.
        refused(cluster.put(&path, &lease(metadata)).await, 400, message).await;
    }
    assert_eq!(cluster.get(LEASES).await.names(), Vec::<&str>::new());
    cluster.put(&path, &lease(json!({ "name": "a" }))).await.expect(201);
    let renamed = cluster.put(&path, &lease(json!({ "name": "b" }))).await;
    refused(renamed, 400, "the name of the object (b) does not match the name on the URL (a)").await;
    let moved = cluster.patch(&path, MERGE, &json!({ "metadata": { "namespace": "other" } })).await;
    let why = "the namespace of the object (other) does not match the namespace on the request (shop)";
    refused(moved, 400, why).await;

    let ranges = "/api/v1/namespaces/shop/limitranges";
    cluster.put(&format!("{ranges}/r"), &json!({ "metadata": { "name": "r" } })).await.expect(201);
}

#[tokio::test]
async fn a_body_that_is_no_object_is_shown() {
    let cluster = Cluster::start().await;
    let why = |problem: &str, shown: &str| {
        format!(
            "the object provided is unrecognized (must be of type ConfigMap): couldn't get version/kind; json parse error: \
             {problem} ({shown})"
        )
    };
    let structure = "struct { APIVersion string \"json:\\\"apiVersion,omitempty\\\"\"; Kind string \
                     \"json:\\\"kind,omitempty\\\"\" }";
    for (body, problem, shown) in [
        ("", "unexpected end of JSON input".to_owned(), "<empty>"),
        ("{", "unexpected end of JSON input".into(), "{"),
        (
            "{\"metadata\": {\"name\": \"abc\"}, x}",
            "invalid character 'x' looking for beginning of object key string".into(),
            "{\"metadata\": {\"name\": \"abc\"},  ...",
        ),
        ("nope", "invalid character 'o' in literal null (expecting 'u')".into(), "6e6f7065"),
        ("[]", format!("json: cannot unmarshal array into Go value of type {structure}"), "5b5d"),
    ] {
        let answer = cluster.exchange("POST", MAPS, JSON, JSON, body.into()).await;
        assert_eq!((answer.status, answer.message()), (400, &*why(&problem, shown)), "{body}");
    }
    let secrets = "/api/v1/namespaces/shop/secrets";
    let secret =
        cluster.post(secrets, &json!({ "metadata": { "name": "s" }, "data": { "a": "YQ=!" } })).await;
    assert!(secret.message().contains("cannot be handled as a Secret: illegal base64 data at input byte "));
}

const QUANTITY: &str =
    "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'";

#[tokio::test]
async fn broken_quantities_and_times_are_noticed_by_the_decoder() {
    let cluster = Cluster::start().await;
    let deployments = "/apis/apps/v1/namespaces/shop/deployments";
    let with_cpu = |cpu: Value| {
        let mut object = deployment("web", json!(1));
        object["spec"]["template"]["spec"]["containers"][0]["resources"] =
            json!({ "limits": { "cpu": cpu } });
        object
    };
    let why = format!("Deployment in version \"v1\" cannot be handled as a Deployment: {QUANTITY}");
    for cpu in [json!("abc"), json!(""), json!(true), json!("1 Gi")] {
        refused(cluster.post(deployments, &with_cpu(cpu)).await, 400, &why).await;
    }
    cluster.post(deployments, &with_cpu(json!(0.5))).await.expect(201);
    let path = format!("{deployments}/web");
    refused(cluster.put(&path, &with_cpu(json!("abc"))).await, 400, &why).await;
    let patched = cluster.patch(&path, MERGE, &with_cpu(json!("abc"))).await;
    assert_eq!((patched.status, &patched.body["reason"]), (422, &json!("Invalid")), "{}", patched.body);
    assert!(patched.message().starts_with(" \"\" is invalid: patch: Invalid value: "), "{}", patched.body);
    assert!(patched.message().ends_with(&format!(": {QUANTITY}")), "{}", patched.body);
    let lease = json!({ "metadata": { "name": "l" }, "spec": { "renewTime": "soon" } });
    let why = "Lease in version \"v1\" cannot be handled as a Lease: parsing time \"soon\" as \
               \"2006-01-02T15:04:05.000000Z07:00\": cannot parse \"soon\" as \"2006\"";
    refused(cluster.post(LEASES, &lease).await, 400, why).await;
    let quota = json!({ "metadata": { "name": "q" }, "spec": { "hard": { "pods": "many" } } });
    let answer = cluster.post("/api/v1/namespaces/shop/resourcequotas", &quota).await;
    assert_eq!(answer.status, 400, "{}", answer.body);
}

#[tokio::test]
async fn a_delete_takes_delete_options_and_nothing_else() {
    let cluster = Cluster::start().await;
    cluster.post(MAPS, &config_map("a", json!({}))).await.expect(201);
    let path = format!("{MAPS}/a");
    assert_eq!(cluster.delete(&path, &config_map("a", json!({}))).await.status, 400);
    cluster.get(&path).await.expect(200);
    let options = json!({ "kind": "DeleteOptions", "apiVersion": "apps/v1" });
    cluster.delete(&path, &options).await.expect(200);
}

#[tokio::test]
async fn metadata_is_tidied_and_judged_as_a_whole() {
    let cluster = Cluster::start().await;
    let of = |metadata: Value| json!({ "metadata": metadata });
    let owner = |uid: &str| json!({ "apiVersion": "v1", "kind": "Pod", "name": "p", "uid": uid });
    let owned = of(json!({ "name": "o", "ownerReferences": [owner("1"), owner("1"), owner("2")] }));
    let answer = cluster.post(MAPS, &owned).await;
    let warning =
        answer.headers.get(header::WARNING).and_then(|value| value.to_str().ok()).unwrap_or_default();
    assert!(warning.ends_with("please fix your requests; duplicate UID(s) observed: 1\""), "{warning}");
    assert_eq!(answer.expect(201)["metadata"]["ownerReferences"], json!([owner("1"), owner("2")]));

    let held = |finalizers: Value| of(json!({ "name": "f", "finalizers": finalizers }));
    refused(
        cluster.post(MAPS, &held(json!(["example.com/x", "mine"]))).await,
        422,
        "ConfigMap \"f\" is invalid: metadata.finalizers[1]: Invalid value: \"mine\": name is neither a standard \
         finalizer name nor is it fully qualified",
    )
    .await;
    cluster.post(MAPS, &held(json!(["example.com/x", "orphan"]))).await.expect(201);
    let held = cluster.patch(&format!("{MAPS}/f"), MERGE, &of(json!({ "finalizers": ["mine"] }))).await;
    assert_eq!(held.status, 422, "{}", held.body);

    let named = cluster.post(MAPS, &of(json!({ "generateName": "Q-" }))).await;
    let message = named.message();
    assert!(message.contains("[metadata.generateName: Invalid value: \"Q-\": a lowercase"), "{message}");
    assert!(message.contains(", metadata.name: Invalid value: \"Q-"), "{message}");
    cluster.post(MAPS, &of(json!({ "generateName": "q-" }))).await.expect(201);

    let mut large = config_map("l", json!({}));
    large["data"] = json!({ "a": "x".repeat((1 << 20) + 1) });
    let why = "ConfigMap \"l\" is invalid: []: Too long: may not be more than 1048576 bytes";
    refused(cluster.post(MAPS, &large).await, 422, why).await;
}

#[tokio::test]
async fn what_a_limit_range_gives_decides_the_class_of_service() {
    let cluster = Cluster::start().await;
    let limits = json!({
        "metadata": { "name": "all" },
        "spec": { "limits": [{ "type": "Container", "default": { "cpu": "1", "memory": "1Gi" } }] },
    });
    cluster.post("/api/v1/namespaces/shop/limitranges", &limits).await.expect(201);
    let made = cluster.post("/api/v1/namespaces/shop/pods", &pod("p")).await.expect(201);
    assert_eq!(made["status"], json!({ "phase": "Pending", "qosClass": "Guaranteed" }));
}

#[tokio::test]
async fn a_token_is_asked_for_under_the_name_of_its_account() {
    let cluster = Cluster::start().await;
    let path = "/api/v1/namespaces/shop/serviceaccounts/default/token";
    refused(
        cluster.post(path, &json!({ "metadata": { "name": "other" }, "spec": {} })).await,
        422,
        "TokenRequest.authentication.k8s.io \"default\" is invalid: metadata.name: Invalid value: \"other\": must match \
         the service account name if specified",
    )
    .await;
}

#[tokio::test]
async fn a_token_is_bound_to_a_pod_of_its_account() {
    use base64::Engine as _;
    let cluster = Cluster::start().await;
    cluster.post("/api/v1/nodes", &json!({ "metadata": { "name": "amber" } })).await.expect(201);
    let mut bound = pod("p");
    bound["spec"]["nodeName"] = json!("amber");
    let bound = cluster.post("/api/v1/namespaces/shop/pods", &bound).await.expect(201);
    let accounts = "/api/v1/namespaces/shop/serviceaccounts";
    cluster.post(accounts, &json!({ "metadata": { "name": "other" } })).await.expect(201);
    let request = |reference: Value| json!({ "spec": { "boundObjectRef": reference } });
    let uid = bound["metadata"]["uid"].as_str().expect("a uid");
    let by_uid = |uid: &str| request(json!({ "kind": "Pod", "apiVersion": "v1", "name": "p", "uid": uid }));
    let own = format!("{accounts}/default/token");
    refused(
        cluster.post(&format!("{accounts}/other/token"), &by_uid(uid)).await,
        400,
        "cannot bind token for serviceaccount \"other\" to pod running with different serviceaccount name.",
    )
    .await;
    assert_eq!(cluster.post(&own, &by_uid("another")).await.status, 409);
    let missing = cluster.post(&own, &request(json!({ "kind": "Pod", "name": "q" }))).await;
    refused(missing, 404, "pods \"q\" not found").await;

    let answer = cluster.post(&own, &by_uid(uid)).await.expect(201);
    let token = answer["status"]["token"].as_str().expect("a token");
    let claims = token.split('.').nth(1).expect("claims");
    let claims = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(claims).expect("base64");
    let claims: Value = serde_json::from_slice(&claims).expect("JSON");
    assert_eq!(claims["kubernetes.io"]["pod"], json!({ "name": "p", "uid": uid }));
    assert_eq!(claims["kubernetes.io"]["node"]["name"], "amber");
}

#[tokio::test]
async fn events_of_the_new_form_say_when_who_and_what() {
    let cluster = Cluster::start().await;
    let events = "/apis/events.k8s.io/v1/namespaces/shop/events";
    let regarding = json!({ "kind": "Pod", "namespace": "shop", "name": "p" });
    let bare = json!({ "metadata": { "name": "e" }, "regarding": regarding });
    refused(
        cluster.post(events, &bare).await,
        422,
        "Event.events.k8s.io \"e\" is invalid: [eventTime: Required value, type: Invalid value: \"\": has invalid value: ]",
    )
    .await;
    let whole = json!({
        "metadata": { "name": "e" }, "regarding": regarding, "eventTime": "2026-11-22T00:00:00.000000Z",
        "type": "Normal", "reason": "Told", "action": "Tell", "note": "n",
        "reportingController": "example.com/teller", "reportingInstance": "t-1",
    });
    let with = |field: &str, value: Value| {
        let mut event = whole.clone();
        event[field] = value;
        event
    };
    for (event, why) in [
        (with("deprecatedCount", json!(3)), "count: Invalid value: \"\": needs to be unset"),
        (with("action", json!("")), "action: Required value"),
        (
            with("note", json!("n".repeat(1025))),
            "message: Invalid value: \"\": can have at most 1024 characters",
        ),
        (
            with("series", json!({ "count": 1, "lastObservedTime": "2026-11-22T00:00:00.000000Z" })),
            "series.count: Invalid value: \"\": should be at least 2",
        ),
    ] {
        let message = format!("Event.events.k8s.io \"e\" is invalid: {why}");
        refused(cluster.post(events, &event).await, 422, &message).await;
    }
    cluster.post(events, &whole).await.expect(201);
    let path = format!("{events}/e");
    refused(
        cluster.patch(&path, MERGE, &json!({ "note": "other" })).await,
        422,
        "Event.events.k8s.io \"e\" is invalid: message: Invalid value: \"other\": field is immutable",
    )
    .await;
    let series = json!({ "series": { "count": 2, "lastObservedTime": "2026-11-22T00:00:01.000000Z" } });
    cluster.patch(&path, MERGE, &series).await.expect(200);
    // The old form has fewer rules, and other names.
    let core = "/api/v1/namespaces/shop/events";
    cluster.patch(&format!("{core}/e"), MERGE, &json!({ "message": "other" })).await.expect(200);
    let chosen = |path: &str, field: &str| format!("{path}?fieldSelector={field}");
    assert_eq!(
        cluster.get(&chosen(events, "regarding.name=p,reportingController=example.com/teller")).await.names(),
        ["e"]
    );
    assert_eq!(cluster.get(&chosen(events, "regarding.name=q")).await.names(), Vec::<&str>::new());
    assert_eq!(cluster.get(&chosen(core, "involvedObject.name=p")).await.names(), ["e"]);
    refused(
        cluster.get(&chosen(events, "involvedObject.name=p")).await,
        400,
        "field label not supported: involvedObject.name",
    )
    .await;
}

#[tokio::test]
async fn a_scale_has_a_table() {
    let cluster = Cluster::start().await;
    let deployments = "/apis/apps/v1/namespaces/shop/deployments";
    cluster.post(deployments, &deployment("web", json!(3))).await.expect(201);
    let accept = "application/json;as=Table;v=v1;g=meta.k8s.io";
    let table = cluster.get_as(&format!("{deployments}/web/scale"), accept).await.expect(200);
    let names: Vec<_> =
        table["columnDefinitions"].as_array().expect("columns").iter().map(|of| &of["name"]).collect();
    assert_eq!(names, ["Name", "Desired", "Available", "Age"]);
    let row = &table["rows"][0];
    assert_eq!(row["cells"].as_array().expect("cells")[..3], [json!("web"), json!(3), json!(0)]);
    assert_eq!(
        (&row["object"]["kind"], &row["object"]["metadata"]["name"]),
        (&json!("PartialObjectMetadata"), &json!("web"))
    );
}

#[tokio::test]
async fn a_namespace_ends_without_a_grace_period_and_keeps_no_odd_finalizers() {
    let cluster = Cluster::start().await;
    let finalize = "/api/v1/namespaces/shop/finalize";
    let with =
        |finalizer: &str| json!({ "metadata": { "name": "shop" }, "spec": { "finalizers": [finalizer] } });
    assert_eq!(cluster.put(finalize, &with("mine")).await.status, 422);
    cluster.put(finalize, &with("example.com/mine")).await.expect(200);
    let deleted = cluster.delete("/api/v1/namespaces/shop", &json!({})).await.expect(200);
    assert_eq!(deleted["status"]["phase"], "Terminating");
    assert!(deleted["metadata"]["deletionTimestamp"].is_string(), "{deleted}");
    assert_eq!(deleted["metadata"].get("deletionGracePeriodSeconds"), None);
}

#[tokio::test]
async fn what_admission_takes_back_is_no_new_generation() {
    let cluster = Cluster::start().await;
    let pods = "/api/v1/namespaces/shop/pods";
    let made = cluster.post(pods, &pod("p")).await.expect(201);
    assert_eq!(made["metadata"]["generation"], 1);
    // The default tolerations come back.
    let none = json!({ "spec": { "tolerations": [] } });
    let same = cluster.patch(&format!("{pods}/p"), MERGE, &none).await.expect(200);
    assert_eq!(same["spec"]["tolerations"], made["spec"]["tolerations"]);
    assert_eq!(same["metadata"]["generation"], 1);
}

/// Clients that are still sending when they are refused must not lose the connection, and with it the answer.
#[tokio::test]
async fn who_is_refused_may_finish_and_go_on() {
    let cluster = Cluster::start().await;
    let mut stream = TcpStream::connect(cluster.address).await.expect("a connection");
    let head = format!(
        "POST /api/v1/configmaps HTTP/1.1\r\nhost: naru\r\ncontent-type: {JSON}\r\ncontent-length: 65536\r\n\r\n"
    );
    for _ in 0..2 {
        stream.write_all(head.as_bytes()).await.expect("sent");
        let mut text = String::new();
        while !text.ends_with("}}") && !text.ends_with("\"Failure\"}") {
            let mut piece = [0; 4096];
            let len = tokio::time::timeout(DEADLINE, stream.read(&mut piece))
                .await
                .expect("in time")
                .expect("open");
            assert!(len > 0, "the connection ended after {text}");
            text.push_str(&String::from_utf8_lossy(&piece[..len]));
        }
        assert!(text.starts_with("HTTP/1.1 405 "), "{text}");
        stream.write_all(" ".repeat(65536).as_bytes()).await.expect("the body is taken");
    }
}

#[tokio::test]
async fn a_pod_names_a_class_that_exists_or_that_every_node_knows() {
    let cluster = Cluster::start().await;
    let pods = "/api/v1/namespaces/shop/pods";
    let of = |name: &str, class: &str| {
        let mut object = pod(name);
        object["spec"]["runtimeClassName"] = class.into();
        object
    };
    let why = "pods \"p\" is forbidden: pod rejected: RuntimeClass \"sealed\" not found";
    refused(cluster.post(pods, &of("p", "sealed")).await, 403, why).await;
    let class = json!({ "metadata": { "name": "sealed" }, "handler": "wasm", "scheduling": { "nodeSelector": { "a": "b" } } });
    cluster.post("/apis/node.k8s.io/v1/runtimeclasses", &class).await.expect(201);
    let made = cluster.post(pods, &of("p", "sealed")).await.expect(201);
    assert_eq!(made["spec"]["nodeSelector"], json!({ "a": "b" }));
    for (index, class) in ["wasmtime-spin-v2", "wasmtime", "spin", "wasmedge"].into_iter().enumerate() {
        cluster.post(pods, &of(&format!("q{index}"), class)).await.expect(201);
    }
}

#[tokio::test]
async fn keys_that_yaml_sets_twice_are_refused_warned_of_or_ignored() {
    let cluster = Cluster::start().await;
    let body =
        "metadata:\n  name: NAME\ndata:\n  a: \"1\"\n  b: \"1\"\n  a: \"2\"\ndat: {}\ndata:\n  a: \"3\"\n";
    let post = async |name: &str, validation: &str| {
        let path = format!("{MAPS}?fieldValidation={validation}");
        cluster.exchange("POST", &path, "application/yaml", JSON, body.replace("NAME", name).into()).await
    };
    refused(
        post("strict", "Strict").await,
        400,
        "ConfigMap in version \"v1\" cannot be handled as a ConfigMap: strict decoding error: yaml: unmarshal errors:\n  \
         line 6: key \"a\" already set in map\n  line 9: key \"data\" already set in map, unknown field \"dat\"",
    )
    .await;
    let warned = post("warned", "Warn").await;
    let warnings: Vec<_> = warned.headers.get_all(header::WARNING).iter().collect();
    assert_eq!(
        warnings,
        [
            "299 - \"line 6: key \\\"a\\\" already set in map\"",
            "299 - \"line 9: key \\\"data\\\" already set in map\"",
            "299 - \"unknown field \\\"dat\\\"\"",
        ]
    );
    assert_eq!(warned.expect(201)["data"], json!({ "a": "3" }));
    let ignored = post("ignored", "Ignore").await;
    assert_eq!((ignored.status, ignored.headers.get(header::WARNING)), (201, None));

    let applied =
        "apiVersion: v1\nkind: ConfigMap\nmetadata: { name: applied }\ndata: { a: \"1\", a: \"2\" }\n";
    let apply = async |validation: &str| {
        let path = format!("{MAPS}/applied?fieldManager=me&fieldValidation={validation}");
        cluster.exchange("PATCH", &path, "application/apply-patch+yaml", JSON, applied.into()).await
    };
    let why = "error strict decoding patch: yaml: unmarshal errors:\n  line 4: key \"a\" already set in map";
    refused(apply("Strict").await, 400, why).await;
    let warned = apply("Warn").await;
    assert_eq!(warned.headers[header::WARNING], "299 - \"line 4: key \\\"a\\\" already set in map\"");
    assert_eq!(warned.expect(201)["data"], json!({ "a": "2" }));
}

#[tokio::test]
async fn reviews_say_who_nobody_is_and_when_they_were_made() {
    let cluster = Cluster::start().await;
    let group = "/apis/authentication.k8s.io/v1";
    let review = json!({ "spec": { "token": "none of ours" } });
    let seen = cluster.post(&format!("{group}/tokenreviews"), &review).await.expect(201);
    assert_eq!(
        (&seen["status"]["user"], &seen["status"].get("authenticated")),
        (&json!({}), &None),
        "{seen}"
    );
    let myself = json!({ "metadata": { "name": "x" } });
    let seen = cluster.post(&format!("{group}/selfsubjectreviews"), &myself).await.expect(201);
    let metadata = seen["metadata"].as_object().expect("metadata");
    assert_eq!(metadata.keys().collect::<Vec<_>>(), ["creationTimestamp"]);
    assert_eq!(seen["status"]["userInfo"]["username"], "admin");
}

#[tokio::test]
async fn a_definition_without_a_storage_version_lacks_a_stored_one_too() {
    let cluster = Cluster::start().await;
    let path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    let mut definition = bad_input::definition();
    definition["spec"]["versions"][0]["storage"] = false.into();
    let answer = cluster.post(path, &definition).await;
    assert_eq!(answer.status, 422, "{}", answer.body);
    let causes = answer.body["details"]["causes"].as_array().expect("causes");
    let told: Vec<_> =
        causes.iter().map(|cause| (&cause["field"], cause["message"].as_str().unwrap_or_default())).collect();
    let stored = "Invalid value: []: must have at least one stored version";
    assert!(told.contains(&(&json!("status.storedVersions"), stored)), "{told:?}");
    assert!(told.iter().any(|(field, _)| **field == "spec.versions"), "{told:?}");
    definition["spec"]["versions"][0]["storage"] = true.into();
    cluster.post(path, &definition).await.expect(201);
}
