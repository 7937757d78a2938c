//! Verbs, options and refusals of the API down to their codes and texts, as clients rely on them.

use std::collections::BTreeSet;

use naru_tests::{
    Cluster,
    api::{Api, JSON, MERGE, names},
    eventually,
};
use serde_json::{Value, json};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";
const TEMPLATES: &str = "/api/v1/namespaces/default/podtemplates";
const STRATEGIC: &str = "application/strategic-merge-patch+json";
const JSON_PATCH: &str = "application/json-patch+json";
const APPLY: &str = "application/apply-patch+yaml";

fn map(name: &str) -> Value {
    json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name }, "data": { "k": "v" } })
}

fn deployment(name: &str) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": name },
        "spec": {
            "replicas": 0,
            "selector": { "matchLabels": { "app": name } },
            "template": {
                "metadata": { "labels": { "app": name } },
                "spec": { "containers": [{ "name": "c", "image": "hello:v1" }] },
            },
        },
    })
}

fn pod(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name },
        "spec": { "schedulerName": "nobody", "containers": [{ "name": "c", "image": "none" }] },
    })
}

async fn start() -> (Cluster, Api) {
    let cluster = Cluster::start();
    let api = Api::of(&cluster).await;
    eventually("pods have an account", async || {
        let found = api.get("/api/v1/namespaces/default/serviceaccounts/default").await;
        if found.status == 200 { Ok(()) } else { Err(found.status) }
    })
    .await;
    (cluster, api)
}

#[tokio::test]
async fn what_is_refused_has_its_code_and_says_why() {
    let (_cluster, api) = start().await;
    let a = format!("{MAPS}/a");
    api.post(MAPS, &map("a")).await.expect(201);
    let send = async |method: &str, path: &str, kind: &str, accept: &str, body: &str| {
        api.send(method, path, &[("content-type", kind), ("accept", accept)], body.to_owned()).await
    };

    for path in ["/api/v1/cups", "/apis/apps/v2/deployments", &format!("{a}/status")] {
        api.get(path).await.refused(404, "NotFound");
    }
    for path in ["/apis/none/v1/x", "/x"] {
        let lost = api.get(path).await;
        assert_eq!((lost.status, lost.json()), (404, "404 page not found\n".into()));
    }
    let none = api.get(&format!("{MAPS}/none")).await;
    assert_eq!(none.refused(404, "NotFound"), "configmaps \"none\" not found");
    assert_eq!(none.json()["details"], json!({ "name": "none", "kind": "configmaps" }));
    for (method, path) in [
        ("POST", a.as_str()),
        ("PUT", MAPS),
        ("PATCH", MAPS),
        ("DELETE", "/api/v1/configmaps"),
        ("POST", "/api/v1/configmaps"),
        ("DELETE", "/api/v1/componentstatuses"),
        ("DELETE", "/apis/apps/v1/namespaces/default/deployments/x/status"),
        ("PUT", "/api/v1/namespaces/default/pods/x/eviction"),
    ] {
        let reply = send(method, path, JSON, JSON, "{}").await;
        assert_eq!(
            reply.refused(405, "MethodNotAllowed"),
            "the server does not allow this method on the requested resource",
            "{method} {path}"
        );
    }
    for accept in ["application/xml", "application/cbor", "application/json;as=Table;v=v9;g=x"] {
        let why = api.get_as(&a, accept).await.refused(406, "NotAcceptable");
        assert!(why.starts_with("only the following media types are accepted: application/json"), "{why}");
    }
    for accept in ["text/html, */*;q=0.8", "application/xml, application/json", "*/*", ""] {
        api.get_as(&a, accept).await.expect(200);
    }
    for (method, path, kind) in
        [("POST", MAPS, "text/plain"), ("PUT", &a, "application/xml"), ("PATCH", &a, JSON)]
    {
        let why = send(method, path, kind, JSON, "{}").await.refused(415, "UnsupportedMediaType");
        assert!(
            why.starts_with("the body of the request was in an unknown format - accepted media types"),
            "{why}"
        );
    }
    let read = async |query: &str, agent: &str| {
        let reply = api.send("GET", &format!("{a}{query}"), &[("user-agent", agent)], "").await;
        String::from_utf8_lossy(&reply.bytes).contains("\n  \"kind\": \"ConfigMap\"")
    };
    assert!(read("", "curl/8.5.0").await && read("?pretty=true", "kubectl").await);
    assert!(!read("", "kubectl").await && !read("?pretty=false", "curl/8.5.0").await);
    let large = json!({ "metadata": { "name": "large" }, "data": { "k": "x".repeat(3 << 20) } });
    let why = api.post(MAPS, &large).await.refused(413, "RequestEntityTooLarge");
    assert_eq!(why, "Request entity too large: limit is 3145728");
    let large = json!({ "metadata": { "name": "large" }, "data": { "k": "x".repeat(2 << 20) } });
    let why = api.post(MAPS, &large).await.refused(422, "Invalid");
    assert!(why.contains("Too long: may not be more than 1048576 bytes"), "{why}");

    let exists = api.post(MAPS, &map("a")).await;
    assert_eq!(exists.refused(409, "AlreadyExists"), "configmaps \"a\" already exists");
    let mut stale = api.get(&a).await.expect(200);
    api.patch(&a, MERGE, &json!({ "data": { "k": "2" } })).await.expect(200);
    stale["data"]["k"] = "3".into();
    assert_eq!(
        api.put(&a, &stale).await.refused(409, "Conflict"),
        "Operation cannot be fulfilled on configmaps \"a\": the object has been modified; please apply your changes to \
         the latest version and try again"
    );
    let why = api.patch(&a, MERGE, &json!({ "metadata": { "resourceVersion": "1" } })).await;
    why.refused(409, "Conflict");
    let why = api.patch(&a, MERGE, &json!({ "metadata": { "uid": "other" } })).await;
    assert!(why.refused(409, "Conflict").contains("Precondition failed: UID in precondition: other"));

    let change = |pointer: &str, value: Value| {
        let mut object = map("a");
        *object.pointer_mut(pointer).expect("a field") = value;
        object
    };
    for (object, why) in [
        (
            change("/apiVersion", "v2".into()),
            "the API version in the data (v2) does not match the expected API version (v1)",
        ),
        (change("/kind", "Secret".into()), "Secret in version \"v1\" cannot be handled as a ConfigMap"),
        (
            change("/metadata/name", "b".into()),
            "the name of the object (b) does not match the name on the URL (a)",
        ),
        (
            change("/metadata", json!({ "name": "a", "namespace": "other" })),
            "the namespace of the provided object does not match the namespace sent on the request",
        ),
        (
            change("/data", json!([])),
            "cannot unmarshal array into Go struct field ConfigMap.data of type map[string]string",
        ),
    ] {
        let refused = api.put(&a, &object).await.refused(400, "BadRequest");
        assert!(refused.contains(why), "{refused}");
    }
    let refused = api.post(MAPS, &change("/metadata", json!({ "name": "z", "namespace": "other" }))).await;
    assert_eq!(
        refused.refused(400, "BadRequest"),
        "the namespace of the provided object does not match the namespace sent on the request"
    );
    // `null` is an object of which nothing is said.
    for body in ["", "{", "[]", "\"x\""] {
        send("POST", MAPS, JSON, JSON, body).await.refused(400, "BadRequest");
    }
    let unnamed = json!({ "metadata": {} });
    let refused = api.post(MAPS, &unnamed).await;
    assert_eq!(
        refused.refused(422, "Invalid"),
        "ConfigMap \"\" is invalid: metadata.name: Required value: name or generateName is required"
    );
    assert_eq!(refused.json()["details"]["causes"][0]["reason"], "FieldValueRequired");
    let ghost = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "x" } });
    let refused = api.post("/api/v1/namespaces/ghost/configmaps", &ghost).await;
    assert_eq!(refused.refused(404, "NotFound"), "namespaces \"ghost\" not found");
    let why = api.put(&format!("{MAPS}/ghost"), &map("ghost")).await.refused(404, "NotFound");
    assert_eq!(why, "configmaps \"ghost\" not found");
    let lease =
        json!({ "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": { "name": "l" } });
    api.put("/apis/coordination.k8s.io/v1/namespaces/default/leases/l", &lease).await.expect(201);
}

#[tokio::test]
async fn options_of_writes_are_checked() {
    let (_cluster, api) = start().await;
    let a = format!("{MAPS}/a");
    api.post(MAPS, &map("a")).await.expect(201);
    let long = "x".repeat(129);
    for (method, path, options, why) in [
        (
            "POST",
            MAPS,
            "dryRun=Some",
            "CreateOptions.meta.k8s.io \"\" is invalid: dryRun: Unsupported value: [\"Some\"]: supported values: \"All\"",
        ),
        ("PUT", &a, "dryRun=some", "UpdateOptions.meta.k8s.io \"\" is invalid: dryRun: "),
        ("PATCH", &a, "dryRun=some", "PatchOptions.meta.k8s.io \"\" is invalid: dryRun: "),
        ("DELETE", &a, "dryRun=some", "DeleteOptions.meta.k8s.io \"\" is invalid: dryRun: "),
        ("DELETE", MAPS, "dryRun=some", "DeleteOptions.meta.k8s.io \"\" is invalid: dryRun: "),
        (
            "PATCH",
            &a,
            "force=true",
            "PatchOptions.meta.k8s.io \"\" is invalid: force: Forbidden: may not be specified for non-apply patch",
        ),
        (
            "POST",
            MAPS,
            "fieldValidation=strict",
            "CreateOptions.meta.k8s.io \"\" is invalid: fieldValidation: Unsupported value: \"strict\": supported values: \"\", \"Ignore\", \"Strict\", \"Warn\"",
        ),
        (
            "POST",
            MAPS,
            &format!("fieldManager={long}"),
            "CreateOptions.meta.k8s.io \"\" is invalid: fieldManager: Too long: may not be more than 128 bytes",
        ),
        (
            "DELETE",
            &a,
            "propagationPolicy=Away",
            "DeleteOptions.meta.k8s.io \"\" is invalid: propagationPolicy: Unsupported value: \"Away\": supported values: \"Foreground\", \"Background\", \"Orphan\", \"nil\"",
        ),
        (
            "DELETE",
            &a,
            "propagationPolicy=Orphan&orphanDependents=true",
            "DeleteOptions.meta.k8s.io \"\" is invalid: propagationPolicy: Invalid value: \"Orphan\": orphanDependents and deletionPropagation cannot be both set",
        ),
    ] {
        let kind = if method == "PATCH" { MERGE } else { JSON };
        let body = if method == "DELETE" { String::new() } else { map("a").to_string() };
        let reply = api.send(method, &format!("{path}?{options}"), &[("content-type", kind)], body).await;
        let refused = reply.refused(422, "Invalid");
        assert!(refused.starts_with(why), "{method} {options}: {refused}");
    }
    api.send("DELETE", &format!("{a}?gracePeriodSeconds=soon"), &[], "").await.refused(400, "BadRequest");
    let apply = api.send("PATCH", &a, &[("content-type", APPLY)], map("a").to_string()).await;
    assert!(
        apply.refused(422, "Invalid").contains("fieldManager: Required value: is required for apply patch")
    );
    assert!(names(&api.get(MAPS).await.expect(200)).contains(&"a"), "nothing was done");

    // Preconditions.
    let object = api.get(&a).await.expect(200);
    let (uid, version) = (&object["metadata"]["uid"], &object["metadata"]["resourceVersion"]);
    let conditions =
        |uid: Value, version: Value| json!({ "preconditions": { "uid": uid, "resourceVersion": version } });
    for (options, why) in [
        (
            conditions("other".into(), Value::Null),
            "the UID in the precondition (other) does not match the UID in record",
        ),
        (conditions(uid.clone(), "1".into()), "the ResourceVersion in the precondition (1) does not match"),
    ] {
        let refused = api.delete(&a, &options).await.refused(409, "Conflict");
        assert!(refused.contains(why), "{refused}");
    }
    api.delete(&a, &conditions(uid.clone(), version.clone())).await.expect(200);
}

#[tokio::test]
async fn a_dry_run_of_every_verb_changes_nothing() {
    let (_cluster, api) = start().await;
    api.post(MAPS, &map("a")).await.expect(201);
    api.post(DEPLOYMENTS, &deployment("web")).await.expect(201);
    api.post("/api/v1/namespaces/default/pods", &pod("p")).await.expect(201);
    let state = async || {
        let mut all = Vec::new();
        for path in [MAPS, "/api/v1/namespaces/default/pods", "/api/v1/namespaces/default/serviceaccounts"] {
            let list = api.get(path).await.expect(200);
            all.extend(list["items"].as_array().expect("items").clone());
        }
        all
    };
    let before = state().await;
    let (a, web) = (format!("{MAPS}/a"), format!("{DEPLOYMENTS}/web"));
    let data = json!({ "data": { "k": "2" } });
    let check = |reply: naru_tests::api::Reply, status: u16, pointer: &str, expected: Value| {
        let body = reply.expect(status);
        assert_eq!(body.pointer(pointer), Some(&expected), "{body}");
    };
    check(api.post(&format!("{MAPS}?dryRun=All"), &map("b")).await, 201, "/metadata/name", "b".into());
    let mut changed = map("a");
    changed["data"]["k"] = "2".into();
    check(api.put(&format!("{a}?dryRun=All"), &changed).await, 200, "/data/k", "2".into());
    for kind in [MERGE, STRATEGIC] {
        check(api.patch(&format!("{a}?dryRun=All"), kind, &data).await, 200, "/data/k", "2".into());
    }
    let operations = json!([{ "op": "replace", "path": "/data/k", "value": "2" }]);
    check(api.patch(&format!("{a}?dryRun=All"), JSON_PATCH, &operations).await, 200, "/data/k", "2".into());
    let apply = "dryRun=All&fieldManager=m&force=true";
    check(api.patch(&format!("{a}?{apply}"), APPLY, &changed).await, 200, "/data/k", "2".into());
    check(
        api.patch(&format!("{MAPS}/new?{apply}"), APPLY, &map("new")).await,
        201,
        "/metadata/name",
        "new".into(),
    );
    check(api.delete(&format!("{a}?dryRun=All"), &json!({})).await, 200, "/status", "Success".into());
    check(api.delete(&a, &json!({ "dryRun": ["All"] })).await, 200, "/status", "Success".into());
    let gone = api.send("DELETE", &format!("{MAPS}?dryRun=All"), &[], "").await.expect(200);
    assert!(names(&gone).contains(&"a"), "{gone}");
    let status = json!({ "status": { "phase": "Running" } });
    let p = "/api/v1/namespaces/default/pods/p";
    check(
        api.patch(&format!("{p}/status?dryRun=All"), MERGE, &status).await,
        200,
        "/status/phase",
        "Running".into(),
    );
    let evict = json!({ "apiVersion": "policy/v1", "kind": "Eviction", "metadata": { "name": "p" } });
    api.post(&format!("{p}/eviction?dryRun=All"), &evict).await.expect(201);
    let binding = json!({ "metadata": { "name": "p" }, "target": { "kind": "Node", "name": "nowhere" } });
    api.post(&format!("{p}/binding?dryRun=All"), &binding).await.expect(201);
    api.delete(&format!("{p}?dryRun=All"), &json!({ "gracePeriodSeconds": 0 })).await.expect(200);
    let scale = json!({ "spec": { "replicas": 3 } });
    let scaled = api.patch(&format!("{web}/scale?dryRun=All"), MERGE, &scale).await.expect(200);
    assert_eq!(scaled["spec"]["replicas"], 3, "{scaled}");
    assert_eq!(api.get(&format!("{web}/scale")).await.expect(200)["spec"]["replicas"], 0);
    assert_eq!(state().await, before);
    // What a real run refuses, a dry run refuses, too.
    api.post(&format!("{MAPS}?dryRun=All"), &map("a")).await.refused(409, "AlreadyExists");
    api.post(&format!("{MAPS}?dryRun=All"), &map("UPPER")).await.refused(422, "Invalid");
}

#[tokio::test]
async fn fields_without_a_place_are_refused_warned_of_or_dropped() {
    let (_cluster, api) = start().await;
    api.post(DEPLOYMENTS, &deployment("web")).await.expect(201);
    let web = format!("{DEPLOYMENTS}/web");
    let mut odd = deployment("web");
    odd["spec"]["replica"] = 1.into();
    odd["spec"]["template"]["spec"]["containers"][0]["imagePolicy"] = "x".into();
    let unknown =
        ["unknown field \"spec.replica\"", "unknown field \"spec.template.spec.containers[0].imagePolicy\""];
    let patch = json!({ "spec": { "replica": 1 } });
    let operations = json!([{ "op": "add", "path": "/spec/replica", "value": 1 }]);
    let requests = [
        ("PUT", JSON, &odd, &unknown[..]),
        ("PATCH", MERGE, &patch, &unknown[..1]),
        ("PATCH", STRATEGIC, &patch, &unknown[..1]),
        ("PATCH", JSON_PATCH, &operations, &unknown[..1]),
    ];
    for (method, kind, body, problems) in requests {
        let send = async |validation: &str| {
            let path = format!("{web}?fieldValidation={validation}");
            api.send(method, &path, &[("content-type", kind)], body.to_string()).await
        };
        let strict = send("Strict").await;
        let (code, reason) = if method == "PUT" { (400, "BadRequest") } else { (422, "Invalid") };
        let refused = strict.refused(code, reason);
        assert!(refused.contains(&format!("strict decoding error: {}", problems.join(", "))), "{refused}");
        let warned = send("Warn").await;
        warned.expect(200);
        let said: BTreeSet<_> = warned.warnings().into_iter().map(str::to_owned).collect();
        let expected: BTreeSet<_> =
            problems.iter().map(|problem| format!("299 - \"{}\"", problem.replace('"', "\\\""))).collect();
        assert_eq!(said, expected, "{method} {kind}");
        let ignored = send("Ignore").await;
        assert_eq!((ignored.expect(200)["spec"]["replica"].is_null(), ignored.warnings().len()), (true, 0));
    }
    let twice = r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"t"},"data":{"k":"1","k":"2"}}"#;
    let send = async |validation: &str| {
        let path = format!("{MAPS}?fieldValidation={validation}&dryRun=All");
        api.send("POST", &path, &[("content-type", JSON)], twice).await
    };
    let refused = send("Strict").await.refused(400, "BadRequest");
    assert!(refused.contains("strict decoding error: duplicate field \"data.k\""), "{refused}");
    let warned = send("").await;
    assert_eq!(warned.warnings(), ["299 - \"duplicate field \\\"data.k\\\"\""]);
    assert_eq!(warned.expect(201)["data"]["k"], "2", "the last one counts");
    // An applied configuration is always read strictly: a field without a place has no owner.
    let reply = api.patch(&format!("{web}?fieldManager=m&force=true"), APPLY, &odd).await;
    assert!(
        reply.json()["message"].as_str().is_some_and(|text| text.contains("field not declared in schema"))
    );
}

#[tokio::test]
async fn collections_are_deleted_as_the_options_say() {
    let (_cluster, api) = start().await;
    for (name, tier) in [("a", "front"), ("b", "front"), ("c", "back"), ("d", "back")] {
        let mut map = map(name);
        map["metadata"]["labels"] = json!({ "tier": tier });
        api.post(MAPS, &map).await.expect(201);
    }
    let left = async || {
        let list = api.get(&format!("{MAPS}?labelSelector=tier")).await.expect(200);
        names(&list).into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    let delete = async |query: &str, options: Value| api.delete(&format!("{MAPS}?{query}"), &options).await;
    let refused = delete("labelSelector=tier%3Dfront", json!({ "preconditions": { "uid": "x" } })).await;
    refused.refused(409, "Conflict");
    delete("labelSelector=tier%3D%3D%3D", json!({})).await.refused(400, "BadRequest");
    delete("fieldSelector=data.k%3Dv", json!({})).await.refused(400, "BadRequest");
    assert_eq!(left().await, ["a", "b", "c", "d"]);
    let gone =
        delete("labelSelector=tier%3Dfront&fieldSelector=metadata.name!%3Da", json!({})).await.expect(200);
    assert_eq!((names(&gone), left().await), (vec!["b"], vec!["a".into(), "c".into(), "d".into()]));
    // Those that something holds stay, on their way out.
    let held = json!({ "metadata": { "finalizers": ["example.com/hold"] } });
    api.patch(&format!("{MAPS}/c"), MERGE, &held).await.expect(200);
    delete("labelSelector=tier%3Dback", json!({ "propagationPolicy": "Background" })).await.expect(200);
    assert_eq!(left().await, ["a", "c"]);
    let c = api.get(&format!("{MAPS}/c")).await.expect(200);
    assert!(c["metadata"]["deletionTimestamp"].is_string());
    let more = json!({ "metadata": { "finalizers": ["example.com/hold", "example.com/more"] } });
    let refused = api.patch(&format!("{MAPS}/c"), MERGE, &more).await.refused(422, "Invalid");
    assert!(
        refused.contains(
            "metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted"
        ),
        "{refused}"
    );
    let free = json!({ "metadata": { "finalizers": null } });
    api.patch(&format!("{MAPS}/c"), MERGE, &free).await.expect(200);
    assert_eq!(left().await, ["a"]);
}

#[tokio::test]
async fn metadata_is_the_servers_where_it_is() {
    let (_cluster, api) = start().await;
    let web = format!("{DEPLOYMENTS}/web");
    let mut sent = deployment("web");
    sent["metadata"]["uid"] = "mine".into();
    sent["metadata"]["generation"] = 7.into();
    sent["metadata"]["creationTimestamp"] = "2001-01-01T00:00:00Z".into();
    sent["metadata"]["selfLink"] = "/here".into();
    sent["status"] = json!({ "replicas": 9 });
    let made = api.post(DEPLOYMENTS, &sent).await.expect(201);
    let meta = &made["metadata"];
    assert_eq!((&meta["generation"], &meta["selfLink"]), (&1.into(), &Value::Null));
    assert_ne!(meta["uid"], "mine");
    assert!(!meta["creationTimestamp"].as_str().is_none_or(|time| time.starts_with("2001")));
    assert_eq!(made["status"]["replicas"], Value::Null);
    let mut versioned = deployment("other");
    versioned["metadata"]["resourceVersion"] = "5".into();
    let refused = api.post(DEPLOYMENTS, &versioned).await.refused(400, "BadRequest");
    assert_eq!(refused, "resourceVersion should not be set on objects to be created");

    // The generation counts changes of what is wanted, and of nothing else.
    let generation = async |patch: Value| {
        api.patch(&web, MERGE, &patch).await.expect(200)["metadata"]["generation"].as_i64()
    };
    assert_eq!(generation(json!({ "metadata": { "labels": { "x": "y" } } })).await, Some(1));
    assert_eq!(generation(json!({ "metadata": { "generation": 40 } })).await, Some(1));
    assert_eq!(generation(json!({ "spec": { "paused": true } })).await, Some(2));
    assert_eq!(generation(json!({ "spec": { "paused": true } })).await, Some(2));
    assert_eq!(generation(json!({ "status": { "replicas": 4 } })).await, Some(2));
    eventually("the controller has seen it", async || {
        let seen = api.get(&web).await.expect(200)["status"]["observedGeneration"].clone();
        if seen == 2 { Ok(()) } else { Err(seen) }
    })
    .await;
    let status = json!({ "status": { "collisionCount": 1 }, "spec": { "paused": false } });
    let reported = api.patch(&format!("{web}/status"), MERGE, &status).await.expect(200);
    assert_eq!((&reported["spec"]["paused"], &reported["metadata"]["generation"]), (&true.into(), &2.into()));

    // What does not change is not written; nobody but this test writes this object.
    let template =
        json!({ "metadata": { "name": "quiet" }, "template": deployment("web")["spec"]["template"] });
    let before = api.post(TEMPLATES, &template).await.expect(201);
    let quiet = format!("{TEMPLATES}/quiet");
    let elsewhere = json!({ "metadata": { "creationTimestamp": "2001-01-01T00:00:00Z" } });
    for (kind, patch) in
        [(MERGE, json!({})), (STRATEGIC, json!({})), (JSON_PATCH, json!([])), (MERGE, elsewhere)]
    {
        let same = api.patch(&quiet, kind, &patch).await.expect(200);
        assert_eq!(same["metadata"]["resourceVersion"], before["metadata"]["resourceVersion"]);
    }
    let same = api.put(&quiet, &before).await.expect(200);
    assert_eq!(same["metadata"]["resourceVersion"], before["metadata"]["resourceVersion"]);
    for (patch, why) in [
        (
            json!({ "metadata": { "deletionTimestamp": "2001-01-01T00:00:00Z" } }),
            "metadata.deletionTimestamp: Invalid value: \"2001-01-01T00:00:00Z\": field is immutable",
        ),
        (json!({ "metadata": { "labels": { "a b": "c" } } }), "metadata.labels: Invalid value: \"a b\""),
        (
            json!({ "metadata": { "ownerReferences": [{ "apiVersion": "v1", "kind": "", "name": "x", "uid": "y" }] } }),
            "metadata.ownerReferences",
        ),
        (
            json!({ "spec": { "selector": { "matchLabels": { "app": "x" } } } }),
            "spec.selector: Invalid value",
        ),
    ] {
        let refused = api.patch(&web, MERGE, &patch).await.refused(422, "Invalid");
        assert!(refused.contains(why), "{refused}");
    }
    // Names that are made up come with the prefix, and are never taken.
    let made: BTreeSet<String> = futures::future::join_all((0..20).map(async |_| {
        let map = json!({ "metadata": { "generateName": "made-" } });
        let made = api.post(MAPS, &map).await.expect(201);
        made["metadata"]["name"].as_str().expect("a name").to_owned()
    }))
    .await
    .into_iter()
    .collect();
    assert!(made.len() == 20 && made.iter().all(|name| name.starts_with("made-") && name.len() == 10));
    // Writers without a version never lose to each other.
    let patches = (0..30).map(async |number: i32| {
        let patch = json!({ "data": { number.to_string(): "x" } });
        let name = made.first().expect("one");
        api.patch(&format!("{MAPS}/{name}"), MERGE, &patch).await.expect(200);
    });
    futures::future::join_all(patches).await;
    let name = made.first().expect("one");
    let all = api.get(&format!("{MAPS}/{name}")).await.expect(200);
    assert_eq!(all["data"].as_object().map(serde_json::Map::len), Some(30));
}
