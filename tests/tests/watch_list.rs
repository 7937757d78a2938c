//! Lists and watches as informers and reflectors make them, down to the corners: which state is shown, how a stream
//! begins and ends, and what is refused.

use futures::future::join_all;
use naru_tests::{
    Cluster,
    api::{Api, JSON, MERGE, names},
    eventually,
};
use serde_json::{Value, json};

const MAPS: &str = "/api/v1/namespaces/shop/configmaps";
const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io";
const METADATA: &str = "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io";
const METADATA_LIST: &str = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io";
const INITIAL: &str =
    "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";

fn map(name: &str) -> Value {
    json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name, "labels": { "app": name } }, "data": {} })
}

/// A cluster, and a namespace with nothing in it that changes by itself but its root certificates.
async fn start() -> (Cluster, Api) {
    let cluster = Cluster::start();
    let api = Api::of(&cluster).await;
    let shop = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "shop" } });
    api.post("/api/v1/namespaces", &shop).await.expect(201);
    eventually("the namespace is furnished", async || {
        let found = api.get(&format!("{MAPS}/kube-root-ca.crt")).await;
        if found.status == 200 { Ok(()) } else { Err(found.status) }
    })
    .await;
    (cluster, api)
}

async fn create(api: &Api, name: &str) -> u64 {
    version(&api.post(MAPS, &map(name)).await.expect(201))
}

fn version(object: &Value) -> u64 {
    let text = object["metadata"]["resourceVersion"].as_str().expect("a resourceVersion");
    text.parse().expect("a number")
}

#[tokio::test]
async fn a_list_shows_the_state_that_is_asked_for() {
    let (_cluster, api) = start().await;
    let list = async |query: &str| api.get(&format!("{MAPS}?labelSelector=app&{query}")).await;
    let (one, two) = (create(&api, "a").await, create(&api, "b").await);
    for query in ["", "resourceVersion=0", "resourceVersion=0&resourceVersionMatch=NotOlderThan"] {
        assert_eq!(names(&list(query).await.expect(200)), ["a", "b"], "{query}");
    }
    let exact = format!("resourceVersion={one}&resourceVersionMatch=Exact");
    let found = list(&exact).await.expect(200);
    assert_eq!((names(&found), version(&found)), (vec!["a"], one));
    let newer = list(&format!("resourceVersion={one}&resourceVersionMatch=NotOlderThan")).await.expect(200);
    assert_eq!(names(&newer), ["a", "b"]);
    assert!(version(&newer) >= two);
    assert_eq!(names(&list(&format!("resourceVersion={one}")).await.expect(200)), ["a", "b"]);
    assert_eq!(names(&list(&format!("resourceVersion={one}&limit=5")).await.expect(200)), ["a"]);
    let of_one = api.get(&format!("{MAPS}/a?resourceVersion={two}")).await.expect(200);
    assert_eq!(version(&of_one), one);

    let invalid = |detail: &str| format!("ListOptions.meta.k8s.io \"\" is invalid: {detail}");
    for (query, why) in [
        (
            "resourceVersionMatch=Exact",
            "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided",
        ),
        (
            "resourceVersionMatch=Exact&resourceVersion=0",
            "resourceVersionMatch: Forbidden: resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"",
        ),
        (
            "resourceVersionMatch=Newest&resourceVersion=1",
            "resourceVersionMatch: Unsupported value: \"Newest\": supported values: \"Exact\", \"NotOlderThan\", \"\"",
        ),
        ("sendInitialEvents=true", "sendInitialEvents: Forbidden: sendInitialEvents is forbidden for list"),
        (
            "resourceVersionMatch=NotOlderThan&resourceVersion=1&continue=abc",
            "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden when continue is provided",
        ),
    ] {
        assert_eq!(list(query).await.refused(422, "Invalid"), invalid(why), "{query}");
    }
    for query in ["resourceVersion=new", "resourceVersion=-1", "limit=many", "continue=abc", "continue=e30"] {
        list(query).await.refused(400, "BadRequest");
    }
    let why = list("labelSelector=a%20b%20c&fieldSelector=x%3Dy").await.refused(400, "BadRequest");
    assert!(why.contains("is not a known field selector: only \"metadata.name\""), "{why}");

    // A state that is not there yet is waited for a little, then refused in a way that clients know.
    let future = format!("resourceVersion={}", two + 1_000_000);
    for path in [format!("{MAPS}?{future}"), format!("{MAPS}/a?{future}")] {
        let reply = api.get(&path).await;
        assert!(reply.refused(504, "Timeout").starts_with("Timeout: Too large resource version: "));
        let details = &reply.json()["details"];
        assert_eq!(details["causes"][0]["reason"], "ResourceVersionTooLarge");
        assert_eq!(details["retryAfterSeconds"], 1);
    }
}

#[tokio::test]
async fn pages_show_one_state_while_writes_go_on() {
    let (_cluster, api) = start().await;
    for number in 0..7 {
        create(&api, &format!("m{number}")).await;
    }
    let page = async |query: &str| api.get(&format!("{MAPS}?limit=3{query}")).await;
    let token = |list: &Value| list["metadata"]["continue"].as_str().unwrap_or_default().to_owned();
    let first = page("").await.expect(200);
    assert_eq!(names(&first), ["kube-root-ca.crt", "m0", "m1"]);
    assert_eq!(first["metadata"]["remainingItemCount"], 5);
    api.delete(&format!("{MAPS}/m3"), &json!({})).await.expect(200);
    create(&api, "m25").await;
    let second = page(&format!("&continue={}", token(&first))).await.expect(200);
    assert_eq!((names(&second), version(&second)), (vec!["m2", "m3", "m4"], version(&first)));
    let third = page(&format!("&continue={}", token(&second))).await.expect(200);
    assert_eq!(names(&third), ["m5", "m6"]);
    assert_eq!((token(&third), &third["metadata"]["remainingItemCount"]), (String::new(), &Value::Null));
    // With a selector nobody counts what is left.
    let chosen = page("&labelSelector=app").await.expect(200);
    assert_eq!((token(&chosen).is_empty(), &chosen["metadata"]["remainingItemCount"]), (false, &Value::Null));
    let both = format!("&continue={}&resourceVersion={}", token(&first), version(&first));
    let why = page(&both).await.refused(400, "BadRequest");
    assert_eq!(why, "specifying resource version is not allowed when using continue");

    // More history than is kept: the token outlives its snapshot.
    let old = version(&first);
    let large = json!({ "data": { "text": "x".repeat(900_000) } });
    for number in 0..30 {
        let patch = json!({ "metadata": { "labels": { "round": number.to_string() } } });
        let patch = if number == 0 { &large } else { &patch };
        api.patch(&format!("{MAPS}/m6"), MERGE, patch).await.expect(200);
    }
    let expired = page(&format!("&continue={}", token(&first))).await;
    let why = expired.refused(410, "Expired");
    assert!(
        why.starts_with("The provided continue parameter is too old to display a consistent list"),
        "{why}"
    );
    let rest = page(&format!("&continue={}", token(&expired.json()))).await.expect(200);
    assert_eq!(names(&rest), ["m2", "m25", "m4"], "the rest as it is now");
    assert!(version(&rest) > old);
    let why = api.get(&format!("{MAPS}?resourceVersion={old}&resourceVersionMatch=Exact")).await;
    why.refused(410, "Expired");
    let mut stale = api.watch(&format!("{MAPS}?watch=1&resourceVersion={old}"), JSON).await;
    let (kind, status) = stale.event().await;
    assert_eq!(
        (kind.as_str(), &status["code"], &status["reason"]),
        ("ERROR", &410.into(), &"Expired".into())
    );
    assert!(status["message"].as_str().is_some_and(|text| text.starts_with("too old resource version: ")));
    assert_eq!(stale.next().await, None, "and that is its end");
}

#[tokio::test]
async fn a_watch_begins_where_it_is_told_to() {
    let (_cluster, api) = start().await;
    let (one, _) = (create(&api, "a").await, create(&api, "b").await);
    let chosen = format!("{MAPS}?labelSelector=app");
    for start in ["", "&resourceVersion=0"] {
        let mut watch = api.watch(&format!("{chosen}&watch=true{start}"), JSON).await;
        assert_eq!((watch.line().await, watch.line().await), ("ADDED a".into(), "ADDED b".into()));
    }
    let mut watch = api.watch(&format!("{chosen}&watch=1&resourceVersion={one}"), JSON).await;
    assert_eq!(watch.line().await, "ADDED b");

    // All that is there, and a bookmark that says where it ends.
    for start in ["", "&resourceVersion=0", &format!("&resourceVersion={one}")] {
        let mut watch = api.watch(&format!("{chosen}&{INITIAL}{start}"), JSON).await;
        assert_eq!((watch.line().await, watch.line().await), ("ADDED a".into(), "ADDED b".into()), "{start}");
        let (kind, bookmark) = watch.event().await;
        assert_eq!((kind.as_str(), &bookmark["kind"]), ("BOOKMARK", &"ConfigMap".into()));
        assert_eq!(bookmark["metadata"]["annotations"], json!({ "k8s.io/initial-events-end": "true" }));
        assert!(version(&bookmark) > one);
    }
    // None of it, though it begins now.
    let none = INITIAL.replace("sendInitialEvents=true", "sendInitialEvents=false");
    let mut watch = api.watch(&format!("{chosen}&{none}"), JSON).await;
    create(&api, "c").await;
    assert_eq!(watch.line().await, "ADDED c");

    let why = |text: &str| format!("ListOptions.meta.k8s.io \"\" is invalid: {text}");
    let requires = "resourceVersionMatch: Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan";
    let unless = "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided";
    let unsupported =
        "resourceVersionMatch: Unsupported value: \"Exact\": supported values: \"NotOlderThan\"";
    for (query, expected) in [
        ("sendInitialEvents=true", why(requires)),
        ("sendInitialEvents=false", why(requires)),
        ("resourceVersionMatch=NotOlderThan&resourceVersion=1", why(unless)),
        ("resourceVersionMatch=Exact&sendInitialEvents=true", why(&format!("[{requires}, {unsupported}]"))),
    ] {
        let reply = api.get(&format!("{MAPS}?watch=1&{query}")).await;
        assert_eq!(reply.refused(422, "Invalid"), expected);
    }
    api.get(&format!("{MAPS}?watch=1&resourceVersion=x")).await.refused(400, "BadRequest");
    // What cannot be begun is told in the stream.
    let mut early = api.watch(&format!("{MAPS}?{INITIAL}&resourceVersion={}", one + 1_000_000), JSON).await;
    let (kind, status) = early.event().await;
    assert_eq!(
        (kind.as_str(), &status["details"]["causes"][0]["reason"]),
        ("ERROR", &"ResourceVersionTooLarge".into())
    );
}

#[tokio::test]
async fn a_watch_ends_when_it_is_told_to_and_sees_what_it_chose() {
    let (_cluster, api) = start().await;
    create(&api, "a").await;
    create(&api, "b").await;
    let mut short = api.watch(&format!("{MAPS}?watch=1&timeoutSeconds=1&labelSelector=app%3Da"), JSON).await;
    assert_eq!(short.line().await, "ADDED a");
    assert_eq!(short.next().await, None);

    // One object: by a field selector, and by the path that is deprecated since 1.11 and served to this day.
    let mut watches = Vec::new();
    for path in [
        format!("{MAPS}?watch=1&fieldSelector=metadata.name%3Da"),
        "/api/v1/watch/namespaces/shop/configmaps/a".into(),
        "/api/v1/configmaps?watch=1&fieldSelector=metadata.namespace%3Dshop,metadata.name%3Da".into(),
    ] {
        let mut watch = api.watch(&path, JSON).await;
        assert_eq!(watch.line().await, "ADDED a", "{path}");
        watches.push(watch);
    }
    for path in ["/api/v1/watch/namespaces/shop/configmaps?", "/api/v1/watch/configmaps?"] {
        let mut watch = api.watch(&format!("{path}labelSelector=app"), JSON).await;
        assert_eq!((watch.line().await, watch.line().await), ("ADDED a".into(), "ADDED b".into()), "{path}");
        watches.push(watch);
    }
    let mut spaces = api.watch("/api/v1/watch/namespaces/shop", JSON).await;
    assert_eq!(spaces.line().await, "ADDED shop");
    let path = "/api/v1/watch/namespaces/shop/configmaps/a?fieldSelector=metadata.name%3Db";
    api.get(path).await.refused(400, "BadRequest");
    api.post("/api/v1/watch/namespaces/shop/configmaps", &map("x")).await.refused(405, "MethodNotAllowed");
    // A name in the path makes it a read of one object, whatever the query says.
    assert_eq!(api.get(&format!("{MAPS}/a?watch=1")).await.expect(200)["metadata"]["name"], "a");

    api.patch(&format!("{MAPS}/b"), MERGE, &json!({ "data": { "k": "1" } })).await.expect(200);
    api.patch(&format!("{MAPS}/a"), MERGE, &json!({ "metadata": { "labels": null } })).await.expect(200);
    api.delete(&format!("{MAPS}/a"), &json!({})).await.expect(200);
    for (index, watch) in watches.iter_mut().enumerate() {
        if index < 3 {
            assert_eq!((watch.line().await, watch.line().await), ("MODIFIED a".into(), "DELETED a".into()));
        } else {
            // For who chose by label, the object went when it lost the label.
            assert_eq!((watch.line().await, watch.line().await), ("MODIFIED b".into(), "DELETED a".into()));
        }
    }
}

#[tokio::test]
async fn tables_and_metadata_are_listed_and_watched() {
    let (_cluster, api) = start().await;
    create(&api, "a").await;
    let chosen = format!("{MAPS}?labelSelector=app");
    let table = api.get_as(&chosen, TABLE).await.expect(200);
    assert_eq!((&table["kind"], &table["apiVersion"]), (&"Table".into(), &"meta.k8s.io/v1".into()));
    assert_eq!(table["columnDefinitions"][0]["name"], "Name");
    assert_eq!(table["rows"][0]["cells"][0], "a");
    assert_eq!(table["rows"][0]["object"]["kind"], "PartialObjectMetadata");
    assert!(version(&table) > 0);
    for (include, kind) in [("None", Value::Null), ("Object", "ConfigMap".into())] {
        let table = api.get_as(&format!("{chosen}&includeObject={include}"), TABLE).await.expect(200);
        assert_eq!(table["rows"][0]["object"]["kind"], kind);
    }
    api.get_as(&format!("{chosen}&includeObject=All"), TABLE).await.refused(400, "BadRequest");
    let list = api.get_as(&chosen, METADATA_LIST).await.expect(200);
    assert_eq!(
        (&list["kind"], &list["apiVersion"]),
        (&"PartialObjectMetadataList".into(), &"meta.k8s.io/v1".into())
    );
    assert_eq!(
        (&list["items"][0]["metadata"]["name"], &list["items"][0]["data"]),
        (&"a".into(), &Value::Null)
    );
    let one = api.get_as(&format!("{MAPS}/a"), METADATA).await.expect(200);
    assert_eq!(
        (&one["kind"], &one["metadata"]["labels"]["app"]),
        (&"PartialObjectMetadata".into(), &"a".into())
    );

    let mut rows = api.watch(&format!("{chosen}&{INITIAL}"), TABLE).await;
    let (kind, first) = rows.event().await;
    assert_eq!((kind.as_str(), &first["rows"][0]["cells"][0]), ("ADDED", &"a".into()));
    assert_eq!(first["columnDefinitions"][0]["name"], "Name");
    let (kind, bookmark) = rows.event().await;
    assert_eq!((kind.as_str(), &bookmark["kind"]), ("BOOKMARK", &"Table".into()));
    let annotations = &bookmark["rows"][0]["object"]["metadata"]["annotations"];
    assert_eq!(annotations["k8s.io/initial-events-end"], "true");
    let mut metadata = api.watch(&format!("{chosen}&{INITIAL}"), METADATA).await;
    let (kind, first) = metadata.event().await;
    assert_eq!((kind.as_str(), &first["kind"]), ("ADDED", &"PartialObjectMetadata".into()));
    let (kind, bookmark) = metadata.event().await;
    assert_eq!((kind.as_str(), &bookmark["kind"]), ("BOOKMARK", &"PartialObjectMetadata".into()));

    api.patch(&format!("{MAPS}/a"), MERGE, &json!({ "data": { "k": "v" } })).await.expect(200);
    let (kind, changed) = rows.event().await;
    assert_eq!(
        (kind.as_str(), &changed["rows"][0]["cells"][1], &changed["columnDefinitions"]),
        ("MODIFIED", &1.into(), &json!([]))
    );
    let (kind, changed) = metadata.event().await;
    assert_eq!((kind.as_str(), &changed["data"]), ("MODIFIED", &Value::Null));
    assert_eq!(api.get_as(&format!("{MAPS}?watch=1"), "application/yaml").await.status, 406);
}

#[tokio::test]
async fn a_thousand_watchers_see_everything_and_one_that_does_not_read_harms_nobody() {
    let (cluster, api) = start().await;
    // A stream whose client takes nothing: what waits for it is bounded.
    let stalled = api.begin("GET", &format!("{MAPS}?watch=1&resourceVersion=0"), &[], "").await;
    create(&api, "a").await;
    let path = format!("{MAPS}?watch=1&labelSelector=app");
    let mut watches = Vec::new();
    for _ in 0..1000 {
        watches.push(api.watch(&path, JSON).await);
    }
    let memory = resident_kib(cluster.pid());
    for number in 0..60 {
        let patch = json!({ "data": { "text": format!("{number}{}", "x".repeat(500_000)) } });
        api.patch(&format!("{MAPS}/kube-root-ca.crt"), MERGE, &patch).await.expect(200);
    }
    for number in 0..5 {
        let patch = json!({ "data": { "k": number.to_string() } });
        api.patch(&format!("{MAPS}/a"), MERGE, &patch).await.expect(200);
    }
    let seen = join_all(watches.iter_mut().map(async |watch| {
        let mut seen = Vec::new();
        for _ in 0..6 {
            let (kind, object) = watch.event().await;
            seen.push(format!("{kind} {}", object["data"]["k"].as_str().unwrap_or_default()));
        }
        seen
    }))
    .await;
    let expected = ["ADDED ", "MODIFIED 0", "MODIFIED 1", "MODIFIED 2", "MODIFIED 3", "MODIFIED 4"];
    assert!(seen.iter().all(|seen| seen == &expected), "{:?}", seen.iter().find(|seen| *seen != &expected));
    let grown = resident_kib(cluster.pid()).saturating_sub(memory);
    assert!(grown < 200 << 10, "{grown} KiB for what one client does not read");
    drop(stalled);
}

/// What a process has in memory.
fn resident_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the process runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a size");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}
