//! The API as typed Go clients speak it: protobuf both ways, with messages written down here by the numbers of
//! Kubernetes' `generated.proto`, not by the server's own table.

use std::collections::HashMap;

use naru_tests::{
    Cluster,
    api::{Api, PROTOBUF, Reply},
    eventually,
};
use prost::Message;

const MAGIC: &[u8] = b"k8s\0";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";
const SECRETS: &str = "/api/v1/namespaces/default/secrets";

/// `runtime.Unknown`, the envelope.
#[derive(Clone, PartialEq, Message)]
struct Unknown {
    #[prost(message, required, tag = "1")]
    type_meta: TypeMeta,
    #[prost(bytes = "vec", tag = "2")]
    raw: Vec<u8>,
    #[prost(string, tag = "3")]
    content_encoding: String,
    #[prost(string, tag = "4")]
    content_type: String,
}

#[derive(Clone, PartialEq, Message)]
struct TypeMeta {
    #[prost(string, tag = "1")]
    api_version: String,
    #[prost(string, tag = "2")]
    kind: String,
}

#[derive(Clone, PartialEq, Message)]
struct ObjectMeta {
    #[prost(string, optional, tag = "1")]
    name: Option<String>,
    #[prost(string, optional, tag = "2")]
    generate_name: Option<String>,
    #[prost(string, optional, tag = "3")]
    namespace: Option<String>,
    #[prost(string, optional, tag = "4")]
    self_link: Option<String>,
    #[prost(string, optional, tag = "5")]
    uid: Option<String>,
    #[prost(string, optional, tag = "6")]
    resource_version: Option<String>,
    #[prost(int64, optional, tag = "7")]
    generation: Option<i64>,
    #[prost(message, optional, tag = "8")]
    creation_timestamp: Option<Time>,
    #[prost(map = "string, string", tag = "11")]
    labels: HashMap<String, String>,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct Time {
    #[prost(int64, optional, tag = "1")]
    seconds: Option<i64>,
    #[prost(int32, optional, tag = "2")]
    nanos: Option<i32>,
}

#[derive(Clone, PartialEq, Message)]
struct Deployment {
    #[prost(message, optional, tag = "1")]
    metadata: Option<ObjectMeta>,
    #[prost(message, optional, tag = "2")]
    spec: Option<DeploymentSpec>,
    #[prost(message, optional, tag = "3")]
    status: Option<DeploymentStatus>,
}

#[derive(Clone, PartialEq, Message)]
struct DeploymentSpec {
    #[prost(int32, optional, tag = "1")]
    replicas: Option<i32>,
    #[prost(message, optional, tag = "2")]
    selector: Option<LabelSelector>,
    #[prost(message, optional, tag = "3")]
    template: Option<PodTemplateSpec>,
    #[prost(message, optional, tag = "4")]
    strategy: Option<DeploymentStrategy>,
    #[prost(int32, optional, tag = "5")]
    min_ready_seconds: Option<i32>,
}

#[derive(Clone, PartialEq, Message)]
struct DeploymentStatus {
    #[prost(int64, optional, tag = "1")]
    observed_generation: Option<i64>,
    #[prost(int32, optional, tag = "8")]
    collision_count: Option<i32>,
}

#[derive(Clone, PartialEq, Message)]
struct DeploymentStrategy {
    #[prost(string, optional, tag = "1")]
    kind: Option<String>,
    #[prost(message, optional, tag = "2")]
    rolling_update: Option<RollingUpdate>,
}

#[derive(Clone, PartialEq, Message)]
struct RollingUpdate {
    #[prost(message, optional, tag = "1")]
    max_unavailable: Option<IntOrString>,
    #[prost(message, optional, tag = "2")]
    max_surge: Option<IntOrString>,
}

#[derive(Clone, PartialEq, Message)]
struct IntOrString {
    #[prost(int64, optional, tag = "1")]
    kind: Option<i64>,
    #[prost(int32, optional, tag = "2")]
    int: Option<i32>,
    #[prost(string, optional, tag = "3")]
    text: Option<String>,
}

#[derive(Clone, PartialEq, Message)]
struct LabelSelector {
    #[prost(map = "string, string", tag = "1")]
    match_labels: HashMap<String, String>,
}

#[derive(Clone, PartialEq, Message)]
struct PodTemplateSpec {
    #[prost(message, optional, tag = "1")]
    metadata: Option<ObjectMeta>,
    #[prost(message, optional, tag = "2")]
    spec: Option<PodSpec>,
}

#[derive(Clone, PartialEq, Message)]
struct PodSpec {
    #[prost(message, repeated, tag = "2")]
    containers: Vec<Container>,
    #[prost(string, optional, tag = "3")]
    restart_policy: Option<String>,
}

#[derive(Clone, PartialEq, Message)]
struct Container {
    #[prost(string, optional, tag = "1")]
    name: Option<String>,
    #[prost(string, optional, tag = "2")]
    image: Option<String>,
    #[prost(string, repeated, tag = "4")]
    args: Vec<String>,
    #[prost(message, repeated, tag = "6")]
    ports: Vec<ContainerPort>,
    #[prost(message, optional, tag = "8")]
    resources: Option<ResourceRequirements>,
}

#[derive(Clone, PartialEq, Message)]
struct ContainerPort {
    #[prost(string, optional, tag = "1")]
    name: Option<String>,
    #[prost(int32, optional, tag = "3")]
    container_port: Option<i32>,
    #[prost(string, optional, tag = "4")]
    protocol: Option<String>,
}

#[derive(Clone, PartialEq, Message)]
struct ResourceRequirements {
    #[prost(map = "string, message", tag = "1")]
    limits: HashMap<String, Quantity>,
}

#[derive(Clone, PartialEq, Message)]
struct Quantity {
    #[prost(string, optional, tag = "1")]
    text: Option<String>,
}

#[derive(Clone, PartialEq, Message)]
struct Secret {
    #[prost(message, optional, tag = "1")]
    metadata: Option<ObjectMeta>,
    #[prost(map = "string, bytes", tag = "2")]
    data: HashMap<String, Vec<u8>>,
    #[prost(string, optional, tag = "3")]
    kind: Option<String>,
    #[prost(map = "string, string", tag = "4")]
    string_data: HashMap<String, String>,
}

#[derive(Clone, PartialEq, Message)]
struct SecretList {
    #[prost(message, optional, tag = "1")]
    metadata: Option<ListMeta>,
    #[prost(message, repeated, tag = "2")]
    items: Vec<Secret>,
}

#[derive(Clone, PartialEq, Message)]
struct ListMeta {
    #[prost(string, optional, tag = "2")]
    resource_version: Option<String>,
    #[prost(string, optional, tag = "3")]
    next: Option<String>,
    #[prost(int64, optional, tag = "4")]
    remaining: Option<i64>,
}

#[derive(Clone, PartialEq, Message)]
struct Scale {
    #[prost(message, optional, tag = "1")]
    metadata: Option<ObjectMeta>,
    #[prost(message, optional, tag = "2")]
    spec: Option<ScaleSpec>,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct ScaleSpec {
    #[prost(int32, optional, tag = "1")]
    replicas: Option<i32>,
}

#[derive(Clone, PartialEq, Message)]
struct DeleteOptions {
    #[prost(int64, optional, tag = "1")]
    grace_period_seconds: Option<i64>,
    #[prost(message, optional, tag = "2")]
    preconditions: Option<Preconditions>,
    #[prost(string, optional, tag = "4")]
    propagation_policy: Option<String>,
}

#[derive(Clone, PartialEq, Message)]
struct Preconditions {
    #[prost(string, optional, tag = "1")]
    uid: Option<String>,
}

#[derive(Clone, PartialEq, Message)]
struct Status {
    #[prost(string, optional, tag = "2")]
    status: Option<String>,
    #[prost(string, optional, tag = "3")]
    message: Option<String>,
    #[prost(string, optional, tag = "4")]
    reason: Option<String>,
    #[prost(int32, optional, tag = "6")]
    code: Option<i32>,
}

/// `metav1.WatchEvent`; the object is a `RawExtension`.
#[derive(Clone, PartialEq, Message)]
struct WatchEvent {
    #[prost(string, optional, tag = "1")]
    kind: Option<String>,
    #[prost(message, optional, tag = "2")]
    object: Option<Raw>,
}

#[derive(Clone, PartialEq, Message)]
struct Raw {
    #[prost(bytes = "vec", optional, tag = "1")]
    raw: Option<Vec<u8>>,
}

/// `authorization.k8s.io/v1`: `SelfSubjectAccessReview`.
#[derive(Clone, PartialEq, Message)]
struct AccessReview {
    #[prost(message, optional, tag = "2")]
    spec: Option<AccessSpec>,
    #[prost(message, optional, tag = "3")]
    status: Option<AccessStatus>,
}

#[derive(Clone, PartialEq, Message)]
struct AccessSpec {
    #[prost(message, optional, tag = "1")]
    attributes: Option<Attributes>,
}

#[derive(Clone, PartialEq, Message)]
struct Attributes {
    #[prost(string, optional, tag = "2")]
    verb: Option<String>,
    #[prost(string, optional, tag = "5")]
    resource: Option<String>,
}

#[derive(Clone, PartialEq, Message)]
struct AccessStatus {
    #[prost(bool, optional, tag = "1")]
    allowed: Option<bool>,
}

fn envelope(api_version: &str, kind: &str, object: &impl Message) -> Vec<u8> {
    let type_meta = TypeMeta { api_version: api_version.into(), kind: kind.into() };
    let unknown = Unknown { type_meta, raw: object.encode_to_vec(), ..Unknown::default() };
    [MAGIC, &unknown.encode_to_vec()].concat()
}

/// The object in an envelope, which must be of this kind.
fn open<T: Message + Default>(bytes: &[u8], api_version: &str, kind: &str) -> T {
    let body = bytes.strip_prefix(MAGIC).expect("Kubernetes' envelope");
    let unknown = Unknown::decode(body).expect("an envelope");
    assert_eq!((&*unknown.type_meta.api_version, &*unknown.type_meta.kind), (api_version, kind));
    T::decode(&*unknown.raw).expect("a message")
}

/// An answer in protobuf with this status and object.
fn answer<T: Message + Default>(reply: &Reply, status: u16, api_version: &str, kind: &str) -> T {
    assert_eq!((reply.status, reply.header("content-type")), (status, PROTOBUF), "{:?}", reply.json());
    open(&reply.bytes, api_version, kind)
}

/// As client-go sends it.
async fn send(api: &Api, method: &str, path: &str, body: Vec<u8>) -> Reply {
    let accept = format!("{PROTOBUF},application/json");
    api.send(method, path, &[("content-type", PROTOBUF), ("accept", &accept)], body).await
}

fn named(name: &str) -> Option<ObjectMeta> {
    // Go sends the empty fields, too.
    let empty = Some(String::new());
    Some(ObjectMeta {
        name: Some(name.into()),
        generate_name: empty.clone(),
        namespace: empty.clone(),
        self_link: empty.clone(),
        uid: empty.clone(),
        resource_version: empty,
        generation: Some(0),
        creation_timestamp: Some(Time { seconds: None, nanos: None }),
        labels: HashMap::from([("app".into(), name.into())]),
    })
}

fn deployment(name: &str) -> Deployment {
    let port = ContainerPort {
        name: Some("http".into()),
        container_port: Some(8080),
        protocol: Some(String::new()),
    };
    let limits = HashMap::from([("memory".into(), Quantity { text: Some("64Mi".into()) })]);
    let container = Container {
        name: Some("c".into()),
        image: Some("hello:v1".into()),
        args: vec!["-v".into()],
        ports: vec![port],
        resources: Some(ResourceRequirements { limits }),
    };
    let surge = IntOrString { kind: Some(1), int: Some(0), text: Some("50%".into()) };
    let unavailable = IntOrString { kind: Some(0), int: Some(1), text: Some(String::new()) };
    let rolling_update = RollingUpdate { max_unavailable: Some(unavailable), max_surge: Some(surge) };
    let labels = HashMap::from([("app".into(), name.into())]);
    Deployment {
        metadata: named(name),
        spec: Some(DeploymentSpec {
            replicas: Some(0),
            selector: Some(LabelSelector { match_labels: labels }),
            template: Some(PodTemplateSpec {
                metadata: named(name),
                spec: Some(PodSpec { containers: vec![container], restart_policy: Some(String::new()) }),
            }),
            strategy: Some(DeploymentStrategy {
                kind: Some("RollingUpdate".into()),
                rolling_update: Some(rolling_update),
            }),
            min_ready_seconds: Some(0),
        }),
        status: Some(DeploymentStatus { observed_generation: Some(0), collision_count: None }),
    }
}

#[tokio::test]
async fn a_typed_go_client_creates_reads_changes_watches_and_deletes() {
    let cluster = Cluster::start();
    let api = Api::of(&cluster).await;
    let mut watch = api.watch(&format!("{DEPLOYMENTS}?watch=1&resourceVersion=0"), PROTOBUF).await;
    assert_eq!(watch.content_type, format!("{PROTOBUF};stream=watch"));
    let sent = deployment("web");
    let reply = send(&api, "POST", DEPLOYMENTS, envelope("apps/v1", "Deployment", &sent)).await;
    let made: Deployment = answer(&reply, 201, "apps/v1", "Deployment");
    let meta = made.metadata.clone().expect("metadata");
    assert_eq!((meta.generation, meta.labels.get("app").map(String::as_str)), (Some(1), Some("web")));
    assert!(
        meta.creation_timestamp.and_then(|time| time.seconds).is_some_and(|seconds| seconds > 1_700_000_000)
    );
    let (wanted, spec) = (sent.spec.expect("a spec"), made.spec.clone().expect("a spec"));
    assert_eq!((spec.replicas, &spec.selector), (Some(0), &wanted.selector));
    let update = spec.strategy.expect("a strategy").rolling_update.expect("numbers");
    assert_eq!(update.max_surge.and_then(|surge| surge.text).as_deref(), Some("50%"));
    assert_eq!(update.max_unavailable.and_then(|number| number.int), Some(1));
    let pod = spec.template.and_then(|template| template.spec).expect("a pod");
    assert_eq!(pod.restart_policy.as_deref(), Some("Always"), "what Go sends empty is defaulted");
    assert_eq!(pod.containers[0].ports[0].protocol.as_deref(), Some("TCP"));
    assert_eq!(
        pod.containers[0].resources,
        wanted.template.and_then(|of| of.spec).expect("a pod").containers[0].resources
    );

    // The watcher has got the very same.
    let message = watch.message().await.expect("an event");
    let event = WatchEvent::decode(message).expect("an event");
    assert_eq!(event.kind.as_deref(), Some("ADDED"));
    let seen: Deployment =
        open(&event.object.and_then(|object| object.raw).expect("an object"), "apps/v1", "Deployment");
    assert_eq!(seen, made);

    // Its scale, its status, itself.
    let web = format!("{DEPLOYMENTS}/web");
    let mut scale: Scale =
        answer(&send(&api, "GET", &format!("{web}/scale"), vec![]).await, 200, "autoscaling/v1", "Scale");
    scale.spec = Some(ScaleSpec { replicas: Some(1) });
    let body = envelope("autoscaling/v1", "Scale", &scale);
    // The controller writes as well: a scale that it made stale is refused, as any other.
    eventually("the scale is set", async || {
        let mut scale: Scale =
            answer(&send(&api, "GET", &format!("{web}/scale"), vec![]).await, 200, "autoscaling/v1", "Scale");
        scale.spec = Some(ScaleSpec { replicas: Some(1) });
        let reply =
            send(&api, "PUT", &format!("{web}/scale"), envelope("autoscaling/v1", "Scale", &scale)).await;
        if reply.status == 200 { Ok(()) } else { Err(reply.status) }
    })
    .await;
    let stale: Status = answer(&send(&api, "PUT", &format!("{web}/scale"), body).await, 409, "v1", "Status");
    assert_eq!((stale.reason.as_deref(), stale.code), (Some("Conflict"), Some(409)));
    eventually("the status is set", async || {
        let mut live: Deployment =
            answer(&send(&api, "GET", &web, vec![]).await, 200, "apps/v1", "Deployment");
        live.status = Some(DeploymentStatus { collision_count: Some(3), ..live.status.unwrap_or_default() });
        let body = envelope("apps/v1", "Deployment", &live);
        let reply = send(&api, "PUT", &format!("{web}/status"), body).await;
        if reply.status == 200 { Ok(()) } else { Err(reply.status) }
    })
    .await;
    let live: Deployment = answer(&send(&api, "GET", &web, vec![]).await, 200, "apps/v1", "Deployment");
    assert_eq!(live.status.and_then(|status| status.collision_count), Some(3));
    assert_eq!(live.spec.and_then(|spec| spec.replicas), Some(1));

    let options = |uid: &str| DeleteOptions {
        preconditions: Some(Preconditions { uid: Some(uid.into()) }),
        propagation_policy: Some("Background".into()),
        grace_period_seconds: None,
    };
    // Every group has its own name for the same options.
    let body = envelope("apps/v1", "DeleteOptions", &options("other"));
    let refused: Status = answer(&send(&api, "DELETE", &web, body).await, 409, "v1", "Status");
    assert!(
        refused
            .message
            .is_some_and(|text| text.contains("the UID in the precondition (other) does not match"))
    );
    let body = envelope("apps/v1", "DeleteOptions", &options(meta.uid.as_deref().expect("a uid")));
    let done: Status = answer(&send(&api, "DELETE", &web, body).await, 200, "v1", "Status");
    assert_eq!(done.status.as_deref(), Some("Success"));
    loop {
        let event = WatchEvent::decode(watch.message().await.expect("an event")).expect("an event");
        if event.kind.as_deref() == Some("DELETED") {
            break;
        }
    }
}

#[tokio::test]
async fn bytes_pages_and_reviews_come_in_protobuf() {
    let cluster = Cluster::start();
    let api = Api::of(&cluster).await;
    for name in ["a", "b", "c"] {
        let secret = Secret {
            metadata: named(name),
            data: HashMap::from([("raw".into(), vec![0, 159, 146, 150])]),
            kind: Some(String::new()),
            string_data: HashMap::from([("text".into(), "hi".into())]),
        };
        let reply = send(&api, "POST", SECRETS, envelope("v1", "Secret", &secret)).await;
        let made: Secret = answer(&reply, 201, "v1", "Secret");
        assert_eq!(
            (made.data["raw"].as_slice(), made.data["text"].as_slice()),
            (&[0, 159, 146, 150][..], &b"hi"[..])
        );
        assert_eq!((made.kind.as_deref(), made.string_data.len()), (Some("Opaque"), 0));
    }
    let page = async |query: &str| {
        let path = format!("{SECRETS}?limit=2{query}");
        answer::<SecretList>(&send(&api, "GET", &path, vec![]).await, 200, "v1", "SecretList")
    };
    let first = page("").await;
    let meta = first.metadata.expect("metadata");
    assert_eq!((first.items.len(), meta.remaining), (2, Some(1)));
    let second = page(&format!("&continue={}", meta.next.expect("more"))).await;
    assert_eq!(second.items[0].metadata.as_ref().and_then(|meta| meta.name.as_deref()), Some("c"));
    assert_eq!(second.metadata.and_then(|meta| meta.resource_version), meta.resource_version);

    let attributes = Attributes { verb: Some("delete".into()), resource: Some("nodes".into()) };
    let review = AccessReview { spec: Some(AccessSpec { attributes: Some(attributes) }), status: None };
    let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    let reply =
        send(&api, "POST", path, envelope("authorization.k8s.io/v1", "SelfSubjectAccessReview", &review))
            .await;
    let review: AccessReview = answer(&reply, 201, "authorization.k8s.io/v1", "SelfSubjectAccessReview");
    assert_eq!(review.status.and_then(|status| status.allowed), Some(true));

    // What cannot be read is refused in words that tell what it was taken for.
    for (body, code) in [
        (b"{}".to_vec(), 400),
        (b"k8s\0\xff\xff".to_vec(), 400),
        (envelope("v1", "Nonsense", &Status::default()), 400),
        (envelope("v1", "ConfigMap", &Status::default()), 400),
    ] {
        let reply = send(&api, "POST", SECRETS, body).await;
        let refused: Status = answer(&reply, code, "v1", "Status");
        assert!(refused.message.is_some_and(|text| !text.is_empty()));
    }
    // Custom resources have no messages.
    let definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    let definition = serde_json::json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": { "name": "cups.example.com" },
        "spec": {
            "group": "example.com", "scope": "Namespaced", "names": { "plural": "cups", "kind": "Cup" },
            "versions": [{
                "name": "v1", "served": true, "storage": true,
                "schema": { "openAPIV3Schema": { "type": "object", "x-kubernetes-preserve-unknown-fields": true } },
            }],
        },
    });
    api.post(definitions, &definition).await.expect(201);
    let cups = "/apis/example.com/v1/namespaces/default/cups";
    eventually("cups are served", async || {
        let found = api.get(cups).await;
        if found.status == 200 { Ok(()) } else { Err(found.status) }
    })
    .await;
    let reply = send(&api, "POST", cups, envelope("example.com/v1", "Cup", &Status::default())).await;
    assert_eq!(reply.status, 415, "{}", reply.json());
    assert_eq!(api.get_as(cups, PROTOBUF).await.status, 406);
    assert_eq!(send(&api, "GET", cups, vec![]).await.header("content-type"), "application/json");
}
