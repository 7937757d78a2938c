//! What events say, from a request's arrival to the line in the file.

use super::*;

struct Folder {
    dir: tempfile::TempDir,
    audit: Arc<Audit>,
}

fn open(rules: &str) -> Folder {
    let dir = tempfile::tempdir().expect("a folder");
    let policy = dir.path().join("policy.yaml");
    std::fs::write(&policy, format!("apiVersion: audit.k8s.io/v1\nkind: Policy\nrules:\n{rules}"))
        .expect("a policy");
    let log = LogSettings { path: dir.path().join("audit.log"), ..LogSettings::default() };
    let audit = Audit::open(&AuditSettings { policy, log }).expect("an audit log");
    Folder { dir, audit: Arc::new(audit) }
}

impl Folder {
    async fn events(&self) -> Vec<Value> {
        self.audit.flush().await;
        let text = std::fs::read_to_string(self.dir.path().join("audit.log")).expect("the log");
        text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }

    fn begin(&self, method: &str, uri: &str) -> Record {
        let request = http::Request::builder()
            .method(method)
            .uri(uri)
            .header("user-agent", "kubectl/v1.37")
            .header("x-forwarded-for", "10.0.0.1, nonsense")
            .body(())
            .expect("a request");
        self.audit.begin(&request.into_parts().0, uri.contains("watch=true"), "127.0.0.1".parse().ok())
    }
}

fn jane() -> User {
    User::new("jane", vec!["devs".into()])
}

#[tokio::test]
async fn a_write_is_recorded_with_both_bodies_and_the_decision() {
    let folder = open("- {level: RequestResponse, omitManagedFields: true}\n");
    let record = folder.begin("POST", "/api/v1/namespaces/shop/configmaps?dryRun=All");
    record.authenticated(&jane()).await;
    record.impersonated(&User::new("joe", vec![]));
    record.authorized(
        &Authorizer::of_defaults(),
        &User::new("root", vec!["system:masters".into()]),
        &record.about.target.attributes(),
    );
    let sent = Bytes::from(r#"{"metadata":{"name":"tea","managedFields":[1]},"data":{"a":"1"}}"#);
    record.request_body(|| sent.clone());
    record.answered(Answer { code: 201, body: Some(&sent) }, false).await;
    let events = folder.events().await;
    let [received, complete] = events.as_slice() else { panic!("{events:?}") };
    assert_eq!(received["stage"], "RequestReceived");
    assert_eq!(
        received["objectRef"],
        json!({ "resource": "configmaps", "namespace": "shop", "apiVersion": "v1" })
    );
    assert!(received.get("requestObject").is_none() && received.get("responseStatus").is_none());
    assert_eq!(complete["stage"], "ResponseComplete");
    assert_eq!((&complete["level"], &complete["verb"]), (&json!("RequestResponse"), &json!("create")));
    assert_eq!(complete["auditID"], received["auditID"]);
    assert_eq!(complete["requestURI"], "/api/v1/namespaces/shop/configmaps?dryRun=All");
    assert_eq!(complete["user"], json!({ "username": "jane", "groups": ["devs", "system:authenticated"] }));
    assert_eq!(complete["impersonatedUser"]["username"], "joe");
    assert_eq!(complete["sourceIPs"], json!(["10.0.0.1", "127.0.0.1"]));
    assert_eq!(complete["objectRef"]["name"], "tea");
    assert_eq!(complete["responseStatus"], json!({ "metadata": {}, "code": 201 }));
    let object = json!({ "metadata": { "name": "tea" }, "data": { "a": "1" } });
    assert_eq!((&complete["requestObject"], &complete["responseObject"]), (&object, &object));
    assert_eq!(
        complete["annotations"],
        json!({ "authorization.k8s.io/decision": "allow", "authorization.k8s.io/reason": "" })
    );
    let time = complete["stageTimestamp"].as_str().expect("a time");
    assert_eq!((time.len(), &time[19..20]), ("2026-01-31T10:20:30.123456Z".len(), "."));
}

#[tokio::test]
async fn metadata_names_the_object_but_shows_no_body() {
    let folder = open("- {level: Metadata, omitStages: [RequestReceived]}\n");
    let record = folder.begin("POST", "/api/v1/namespaces/shop/secrets");
    record.authenticated(&jane()).await;
    let metadata = ObjectMeta { name: Some("tea".into()), ..ObjectMeta::default() };
    record.request_body(|| r#"{"metadata":{"name":"tea"},"data":{"password":"hunter2"}}"#.into());
    record.request_object(&metadata, || unreachable!("nobody wants to see it"));
    let refusal = Bytes::from(
        r#"{"kind":"Status","status":"Failure","reason":"Forbidden","message":"no","details":{"name":"tea"},"code":403}"#,
    );
    record.answered(Answer { code: 403, body: Some(&refusal) }, false).await;
    let events = folder.events().await;
    assert_eq!(events.len(), 1);
    assert_eq!(events[0]["objectRef"]["name"], "tea");
    assert_eq!(
        events[0]["responseStatus"],
        json!({ "metadata": {}, "code": 403, "status": "Failure", "reason": "Forbidden", "message": "no",
            "details": { "name": "tea" } })
    );
    assert!(!events[0].to_string().contains("hunter2"), "{}", events[0]);
}

#[tokio::test]
async fn a_watch_has_a_beginning_and_an_end_and_a_stranger_is_noted() {
    let folder = open("- {level: Metadata}\n");
    let record = folder.begin("GET", "/api/v1/pods?watch=true");
    record.authenticated(&jane()).await;
    let ending = record.begun(200).await;
    let stages = |events: &[Value]| -> Vec<String> {
        events.iter().map(|event| event["stage"].as_str().unwrap_or_default().to_owned()).collect()
    };
    assert_eq!(stages(&folder.events().await), ["RequestReceived", "ResponseStarted"]);
    drop(ending);
    while folder.events().await.len() < 3 {
        tokio::task::yield_now().await;
    }
    let stranger = folder.begin("GET", "/api/v1/pods");
    stranger.answered(Answer { code: 401, body: None }, false).await;
    let failed = folder.begin("GET", "/api/v1/pods");
    failed.authenticated(&jane()).await;
    failed.answered(Answer { code: 500, body: None }, true).await;
    let events = folder.events().await;
    assert_eq!(stages(&events)[2..], ["ResponseComplete", "ResponseStarted", "RequestReceived", "Panic"]);
    assert_eq!((&events[3]["user"], &events[3]["responseStatus"]["code"]), (&json!({}), &json!(401)));
}

#[tokio::test]
async fn what_no_rule_wants_is_not_written_and_ids_are_the_clients_own() {
    let folder = open("- {level: None, users: [jane]}\n- {level: Metadata, verbs: [get]}\n");
    for (user, uri) in [("jane", "/api/v1/nodes/a"), ("joe", "/api/v1/nodes")] {
        let record = folder.begin("GET", uri);
        record.authenticated(&User::new(user, vec![])).await;
        record.answered(Answer { code: 200, body: None }, false).await;
    }
    assert!(folder.events().await.is_empty());
    let request =
        http::Request::builder().uri("/version").header("Audit-ID", "mine").body(()).expect("a request");
    let record = folder.audit.begin(&request.into_parts().0, false, None);
    assert_eq!(record.id(), "mine");
    let request = http::Request::builder().uri("/version").header("Audit-ID", "x".repeat(65)).body(());
    let record = folder.audit.begin(&request.expect("a request").into_parts().0, false, None);
    assert_eq!(record.id().len(), 36);
}

#[tokio::test]
async fn annotations_are_shown_from_their_level_on() {
    for (level, expected) in [
        ("Metadata", json!({ "a.example.com/seen": "yes" })),
        ("Request", json!({ "a.example.com/seen": "yes", "a.example.com/patch": "[]" })),
    ] {
        let folder = open(&format!("- {{level: {level}, omitStages: [RequestReceived]}}\n"));
        let record = folder.begin("POST", "/api/v1/namespaces/shop/configmaps");
        record.authenticated(&jane()).await;
        let notes = crate::notes::Notes::new(true);
        notes.annotate(Level::Metadata, "a.example.com/seen".into(), "yes".into());
        notes.annotate(Level::Request, "a.example.com/patch".into(), "[]".into());
        record.annotate(notes.take_annotations());
        record.answered(Answer { code: 201, body: None }, false).await;
        assert_eq!(folder.events().await[0]["annotations"], expected);
    }
}
