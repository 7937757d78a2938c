//! What answers look like, whatever they are about: their form, their id, and when they come.

use super::*;

const METADATA: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
const METADATA_LIST: &str = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
const TABLE: &str = "application/json;as=Table;g=meta.k8s.io;v=v1";

fn is_metadata(object: &Value, name: &str) {
    assert_eq!(
        (&object["kind"], &object["apiVersion"], &object["metadata"]["name"]),
        (&json!("PartialObjectMetadata"), &json!("meta.k8s.io/v1"), &json!(name)),
        "{object}"
    );
    assert!(object.get("data").is_none() && object.get("spec").is_none(), "{object}");
}

fn is_row(table: &Value, name: &str) {
    assert_eq!((&table["kind"], &table["rows"][0]["cells"][0]), (&json!("Table"), &json!(name)), "{table}");
}

#[tokio::test]
async fn writes_answer_in_the_form_that_is_asked_for() {
    let cluster = Cluster::start().await;
    let send = async |method: &str, path: &str, kind: &str, accept: &str, body: &Value| {
        cluster.exchange(method, path, kind, accept, body.to_string().into()).await
    };
    let (a, map) = (format!("{MAPS}/a"), config_map("a", json!({})));
    is_metadata(&send("POST", MAPS, JSON, METADATA, &map).await.expect(201), "a");
    let tried = send("POST", &format!("{MAPS}?dryRun=All"), JSON, TABLE, &config_map("b", json!({}))).await;
    is_row(&tried.expect(201), "b");
    is_row(&send("PUT", &a, JSON, TABLE, &map).await.expect(200), "a");
    is_metadata(&send("PATCH", &a, MERGE, METADATA, &json!({ "data": { "b": "2" } })).await.expect(200), "a");
    // What is gone has nothing to show but a status, and what lingers its metadata.
    let gone = send("DELETE", &a, JSON, METADATA, &json!({})).await.expect(200);
    assert_eq!((&gone["kind"], &gone["status"]), (&json!("Status"), &json!("Success")));
    let mut held = config_map("held", json!({}));
    held["metadata"]["finalizers"] = json!(["example.com/hold"]);
    cluster.post(MAPS, &held).await.expect(201);
    is_metadata(
        &send("DELETE", &format!("{MAPS}/held"), JSON, METADATA, &json!({})).await.expect(200),
        "held",
    );
    is_row(&send("DELETE", &format!("{MAPS}/held"), JSON, TABLE, &json!({})).await.expect(200), "held");
    let pods = "/api/v1/namespaces/shop/pods";
    cluster.post(pods, &pod("p")).await.expect(201);
    is_metadata(&send("DELETE", &format!("{pods}/p"), JSON, METADATA, &json!({})).await.expect(200), "p");

    let all = send("DELETE", MAPS, JSON, METADATA_LIST, &json!({})).await.expect(200);
    assert_eq!(all["kind"], "PartialObjectMetadataList");
    is_metadata(&all["items"][0], "held");
    is_row(&send("DELETE", MAPS, JSON, TABLE, &json!({})).await.expect(200), "held");
    let plain = cluster.delete(MAPS, &json!({})).await.expect(200);
    assert_eq!((&plain["kind"], &plain["items"][0]["data"]), (&json!("ConfigMapList"), &held["data"]));

    let deployments = "/apis/apps/v1/namespaces/shop/deployments";
    cluster.post(deployments, &deployment("web", json!(3))).await.expect(201);
    let scale = format!("{deployments}/web/scale");
    let two = json!({ "spec": { "replicas": 2 } });
    is_metadata(&send("PATCH", &scale, MERGE, METADATA, &two).await.expect(200), "web");
    is_row(&send("PATCH", &scale, MERGE, TABLE, &two).await.expect(200), "web");

    let reviews = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    let metadata = send("POST", reviews, JSON, METADATA, &json!({})).await.expect(201);
    assert_eq!((&metadata["kind"], &metadata.get("status")), (&json!("PartialObjectMetadata"), &None));
    assert!(metadata["metadata"]["creationTimestamp"].is_string(), "{metadata}");
    assert_eq!(send("POST", reviews, JSON, TABLE, &json!({})).await.expect(201)["kind"], "Table");
    assert_eq!(send("POST", reviews, JSON, "application/xml", &json!({})).await.status, 406);
}

#[tokio::test]
async fn a_client_may_say_how_long_it_waits() {
    let cluster = Cluster::start().await;
    let answer = cluster.get(&format!("{MAPS}?timeout=abc")).await;
    assert_eq!(
        (answer.status, answer.message()),
        (400, "invalid timeout specified in the request URL - time: invalid duration \"abc\"")
    );
    cluster.get(&format!("{MAPS}?timeout=32s")).await.expect(200);
    // Nothing here gets as far as that version, which is waited for for seconds.
    let began = std::time::Instant::now();
    let answer = cluster.get(&format!("{MAPS}?resourceVersion=999999&timeout=50ms")).await;
    assert_eq!(
        (answer.status, answer.message()),
        (504, "Timeout: request did not complete within the allotted timeout")
    );
    assert_eq!(answer.body["reason"], "Timeout");
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
}

#[tokio::test]
async fn nobody_waits_for_ever_except_who_wants_to() {
    let admin = User::new("admin", vec!["system:masters".into()]);
    let cluster = Cluster::start_within(Some(admin), Duration::from_millis(200)).await;
    let mut watch = cluster.watch(&format!("{MAPS}?watch=1")).await;
    for query in ["resourceVersion=999999", "resourceVersion=999999&timeout=1m"] {
        let answer = cluster.get(&format!("{MAPS}?{query}")).await;
        assert_eq!(
            (answer.status, answer.message()),
            (504, "Timeout: request did not complete within the allotted timeout"),
            "{query}"
        );
        assert_eq!(answer.body["details"], json!({}));
    }
    // The watch is older than that by now.
    cluster.post(MAPS, &config_map("late", json!({}))).await.expect(201);
    let mut event = watch.event().await;
    while event.1 != "late" {
        event = watch.event().await;
    }
    assert_eq!(event.0, "ADDED");
}

#[tokio::test]
async fn every_answer_has_an_id_which_the_client_may_choose() {
    let cluster = Cluster::start().await;
    let id = |answer: &Answer| answer.headers["audit-id"].to_str().expect("text").to_owned();
    let (first, second) = (cluster.get(MAPS).await, cluster.get("/nowhere").await);
    for id in [id(&first), id(&second)] {
        assert_eq!(uuid::Uuid::parse_str(&id).expect("an id").get_version_num(), 4);
    }
    assert_ne!(id(&first), id(&second));
    let stream = TcpStream::connect(cluster.address).await.expect("a connection");
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.expect("HTTP");
    tokio::spawn(connection);
    let request = Request::get(MAPS).header(header::HOST, "naru").header("Audit-ID", "mine");
    let request = request.body(Full::new(Bytes::new())).expect("a request");
    let response = sender.send_request(request).await.expect("an answer");
    assert_eq!(response.headers()["audit-id"], "mine");
}

#[tokio::test]
async fn who_gets_lost_is_told_so_in_text_or_by_a_status() {
    let cluster = Cluster::start().await;
    cluster
        .post("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", &bad_input::definition())
        .await
        .expect(201);
    for path in [
        "/nowhere",
        "/healthz/nothing",
        "/apis/none",
        "/apis/none/v1/things",
        "/apis/example.com/v9/pandas",
        "/apis/example.com/v1/things",
        "/openapi/v3/apis/none",
    ] {
        let answer = cluster.get(path).await;
        assert_eq!(answer.headers[header::CONTENT_TYPE], "text/plain; charset=utf-8", "{path}");
        assert_eq!((answer.status, answer.body), (404, json!("404 page not found\n")), "{path}");
    }
    for path in ["/api/v2", "/api/v1/things", "/apis/apps/v9", "/apis/apps/v1/things", "/version/old"] {
        let answer = cluster.get(path).await;
        assert_eq!(
            (answer.status, answer.message()),
            (404, "the server could not find the requested resource")
        );
        assert_eq!(answer.body["details"], json!({}), "{path}");
    }
    let paths = cluster.get("/").await.expect(200);
    assert_eq!(cluster.get("/index.html").await.expect(200), paths);
}

#[tokio::test]
async fn who_may_not_ask_does_not_learn_what_there_is() {
    let cluster = Cluster::start_for(Some(User::new("jane", vec![]))).await;
    let answer = cluster.get("/apis/example.com/v1/namespaces/shop/pandas").await;
    assert_eq!(
        (answer.status, answer.message()),
        (
            403,
            "pandas.example.com is forbidden: User \"jane\" cannot list resource \"pandas\" in API group \"example.com\" in \
             the namespace \"shop\""
        )
    );
}

#[tokio::test]
async fn metadata_is_asked_for_as_that_of_one_object_or_of_a_list() {
    let cluster = Cluster::start().await;
    cluster.post(MAPS, &config_map("a", json!({}))).await.expect(201);
    let deployments = "/apis/apps/v1/namespaces/shop/deployments";
    cluster.post(deployments, &deployment("web", json!(3))).await.expect(201);
    let one = "you requested PartialObjectMetadata, but the requested object is a list";
    let many = "you requested PartialObjectMetadataList, but the requested object is not a list";
    for (method, path, accept, expected) in [
        ("GET", MAPS, METADATA, format!("{one} (*core.ConfigMapList)")),
        ("DELETE", MAPS, METADATA, format!("{one} (*core.ConfigMapList)")),
        ("GET", deployments, METADATA, format!("{one} (*apps.DeploymentList)")),
        ("GET", "/api/v1/componentstatuses", METADATA, format!("{one} (*core.ComponentStatusList)")),
        ("GET", &format!("{MAPS}/a"), METADATA_LIST, format!("{many} (*core.ConfigMap)")),
        ("DELETE", &format!("{MAPS}/a"), METADATA_LIST, format!("{many} (*core.ConfigMap)")),
        ("GET", &format!("{deployments}/web/scale"), METADATA_LIST, format!("{many} (*autoscaling.Scale)")),
    ] {
        let answer = cluster.exchange(method, path, JSON, accept, Bytes::new()).await;
        assert_eq!((answer.status, answer.message()), (406, expected.as_str()), "{method} {path}");
        assert_eq!(answer.body["reason"], "NotAcceptable");
    }
    // Nothing was deleted for an answer that could not be given.
    let maps = cluster.get_as(MAPS, METADATA_LIST).await.expect(200);
    assert_eq!(maps["items"].as_array().map(Vec::len), Some(1), "{maps}");
}

#[tokio::test]
async fn a_token_is_shown_as_it_is_or_by_its_metadata() {
    let cluster = Cluster::start().await;
    let path = "/api/v1/namespaces/shop/serviceaccounts/default/token";
    let ask = async |accept: &str| {
        cluster.exchange("POST", path, JSON, accept, json!({ "spec": {} }).to_string().into()).await
    };
    for accept in [JSON, &format!("{TABLE},{JSON}")] {
        let token = ask(accept).await.expect(201);
        assert_eq!(token["kind"], "TokenRequest");
        assert!(token["status"]["token"].is_string(), "{token}");
    }
    let metadata = ask(METADATA).await.expect(201);
    is_metadata(&metadata, "default");
    assert!(metadata.get("status").is_none(), "{metadata}");
    for accept in [TABLE, METADATA_LIST, "text/plain"] {
        assert_eq!(ask(accept).await.status, 406, "{accept}");
    }
}

#[tokio::test]
async fn a_quantity_that_is_null_is_zero() {
    let cluster = Cluster::start().await;
    let mut pod = pod("p");
    let container = &mut pod["spec"]["containers"][0];
    container["resources"] = json!({
        "limits": { "cpu": null, "memory": "1Gi" }, "requests": { "memory": null, "cpu": null },
    });
    let made = cluster.post("/api/v1/namespaces/shop/pods", &pod).await.expect(201);
    let resources = &made["spec"]["containers"][0]["resources"];
    assert_eq!(
        *resources,
        json!({ "limits": { "cpu": "0", "memory": "1Gi" }, "requests": { "cpu": "0", "memory": "0" } })
    );
    // Null is no zero elsewhere, and a body of nothing else does not keep anybody busy.
    pod["metadata"] = json!({ "name": "q", "labels": { "a": null } });
    let many: serde_json::Map<String, Value> =
        (0..10_000).map(|index| (format!("example.com/r{index}"), Value::Null)).collect();
    pod["spec"]["containers"][0]["resources"] = json!({ "limits": many });
    let refused = cluster.post("/api/v1/namespaces/shop/pods", &pod).await;
    assert_eq!(refused.status, 400, "{}", refused.body);
}

#[tokio::test]
async fn levels_queues_and_requests_are_shown_to_who_may_see_them() {
    const DUMPS: &str = "/debug/api_priority_and_fairness";
    let cluster = Cluster::start().await;
    for (name, head, row) in [
        ("dump_priority_levels", "PriorityLevelName, ActiveQueues, IsIdle, IsQuiescing, ", "catch-all, "),
        ("dump_queues", "PriorityLevelName, Index, ", ""),
        ("dump_requests", "PriorityLevelName, FlowSchemaName, QueueIndex, ", ""),
        (
            "dump_requests?includeRequestDetails=1",
            "PriorityLevelName, FlowSchemaName, QueueIndex, RequestIndexInQueue, FlowDistingsher, ArriveTime, \
             InitialSeats, FinalSeats, AdditionalLatency, StartTime, UserName, Verb, ",
            "",
        ),
    ] {
        let answer = cluster.get(&format!("{DUMPS}/{name}")).await;
        assert_eq!(answer.headers["content-type"], "text/plain; charset=utf-8");
        let table = answer.expect(200);
        let table = table.as_str().expect("text");
        let words = table.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(words.starts_with(head) && words.contains(row), "{table}");
    }
    assert_eq!(cluster.get(&format!("{DUMPS}/dump_everything")).await.status, 404);
    let jane = Cluster::start_for(Some(User::new("jane", vec![]))).await;
    let refused = jane.get(&format!("{DUMPS}/dump_queues")).await;
    assert_eq!(
        (refused.status, refused.message()),
        (403, "forbidden: User \"jane\" cannot get path \"/debug/api_priority_and_fairness/dump_queues\"")
    );
}

#[tokio::test]
async fn times_are_read_as_go_reads_them() {
    const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/shop/leases";
    let cluster = Cluster::start().await;
    let lease = |name: &str, renewed: &str| {
        json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": { "name": name },
            "spec": { "renewTime": renewed },
        })
    };
    for (name, sent, stored) in [
        ("a", "2026-01-02T03:04:05.000006Z", "2026-01-02T03:04:05.000006Z"),
        ("b", "2026-01-02T3:04:05,000006Z", "2026-01-02T03:04:05.000006Z"),
        ("c", "2026-01-02T03:04:05.000006-24:60", "2026-01-03T04:04:05.000006Z"),
    ] {
        let made = cluster.post(LEASES, &lease(name, sent)).await.expect(201);
        assert_eq!(made["spec"]["renewTime"], stored, "{sent}");
    }
    for (sent, why) in [
        (
            "2026-01-02T03:04:05Z",
            "parsing time \"2026-01-02T03:04:05Z\" as \"2006-01-02T15:04:05.000000Z07:00\": cannot parse \"Z\" as \".000000\"",
        ),
        (
            "2026-01-02t03:04:05.000006z",
            "parsing time \"2026-01-02t03:04:05.000006z\" as \"2006-01-02T15:04:05.000000Z07:00\": cannot parse \
             \"t03:04:05.000006z\" as \"T\"",
        ),
        ("2026-01-02T03:04:60.000006Z", "parsing time \"2026-01-02T03:04:60.000006Z\": second out of range"),
    ] {
        let answer = cluster.post(LEASES, &lease("d", sent)).await;
        assert_eq!(answer.status, 400, "{}", answer.body);
        assert_eq!(
            answer.message(),
            format!("Lease in version \"v1\" cannot be handled as a Lease: {why}"),
            "{sent}"
        );
    }
    let patch = json!({ "spec": { "renewTime": "2026-01-02T03:04:05Z" } });
    let answer = cluster.patch(&format!("{LEASES}/a"), MERGE, &patch).await;
    assert_eq!(answer.status, 422, "{}", answer.body);
    assert!(answer.message().contains("cannot parse \"Z\" as \".000000\""), "{}", answer.body);
    let patch = json!({ "spec": { "renewTime": "2026-01-02T03:04:06.000000Z" } });
    cluster.patch(&format!("{LEASES}/a"), MERGE, &patch).await.expect(200);
    // A time that is no MicroTime needs no fraction, and what only looks like a time is none.
    let mut map = config_map("e", json!({ "when": "2026-01-02t03.04" }));
    map["metadata"]["creationTimestamp"] = "2026-01-02T03:04:05+01:00".into();
    map["data"] = json!({ "a": "2026-01-02t03:04:05z", "b": "10.0.0.1" });
    cluster.post(MAPS, &map).await.expect(201);
    map["metadata"] = json!({ "name": "f", "creationTimestamp": "2026-01-02 03:04:05Z" });
    assert_eq!(cluster.post(MAPS, &map).await.status, 400);
}
