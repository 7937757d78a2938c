//! What clients of server-side apply rely on, on small objects and on random ones.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

const NOW: &str = "2026-01-01T00:00:00Z";

fn deployments() -> ObjectType {
    ObjectType::builtin("io.k8s.api.apps.v1.Deployment")
}

fn writer<'a>(manager: &'a str, subresource: &'a str) -> Writer<'a> {
    Writer { manager, api_version: "apps/v1", subresource, time: NOW }
}

fn deployment(spec: Value) -> Value {
    json!({ "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "web" }, "spec": spec })
}

/// The set of fields of one manager, as JSON.
fn fields(managers: &ManagedFields, manager: &str) -> Value {
    let all: Value = serde_json::to_value(managers).expect("managers serialize");
    let mine = all.as_array().expect("a list").iter().find(|entry| entry["manager"] == manager);
    mine.map_or(Value::Null, |entry| entry["fieldsV1"].clone())
}

/// A cluster of one object, for stories about who applies what.
#[derive(Default, Clone)]
struct Story {
    live: Option<Value>,
    managers: ManagedFields,
}

impl Story {
    fn apply(&mut self, manager: &str, config: &Value, force: bool) -> Result<(), ApplyError> {
        let mut managers = self.managers.clone();
        let kind = deployments();
        let who = writer(manager, "");
        let result = managers.apply(&kind, self.live.as_ref(), config, who, &Fields::default(), force)?;
        (self.live, self.managers) = (Some(result), managers);
        Ok(())
    }

    fn update(&mut self, manager: &str, new: Value) {
        let old = self.live.as_ref().map(Tree::from);
        let none = Fields::default();
        self.managers.update(&deployments(), old.as_ref(), &Tree::from(&new), writer(manager, ""), &none);
        self.live = Some(new);
    }

    fn spec(&self) -> &Value {
        &self.live.as_ref().expect("an object")["spec"]
    }
}

#[test]
fn a_new_object_is_its_creators_as_in_kubernetes() {
    let mut story = Story::default();
    story.update("kubectl-create", json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": { "name": "web", "namespace": "shop", "uid": "u", "generation": 1, "labels": { "app": "web" } },
        "spec": {
            "replicas": 1,
            "selector": { "matchLabels": { "app": "web" } },
            "strategy": { "type": "RollingUpdate", "rollingUpdate": { "maxSurge": "25%" } },
            "template": {
                "metadata": { "labels": { "app": "web" } },
                "spec": { "containers": [{
                    "name": "web", "image": "hello.wasm", "env": [{ "name": "A", "value": "1" }],
                    "ports": [{ "containerPort": 80 }], "args": ["a"],
                }] },
            },
        },
    }));
    assert_eq!(
        fields(&story.managers, "kubectl-create"),
        json!({
            "f:metadata": { "f:labels": { ".": {}, "f:app": {} } },
            "f:spec": {
                "f:replicas": {},
                "f:selector": {},
                "f:strategy": { "f:rollingUpdate": { ".": {}, "f:maxSurge": {} }, "f:type": {} },
                "f:template": {
                    "f:metadata": { "f:labels": { ".": {}, "f:app": {} } },
                    "f:spec": { "f:containers": { "k:{\"name\":\"web\"}": {
                        ".": {}, "f:args": {}, "f:image": {}, "f:name": {}, "f:resources": {},
                        "f:env": { ".": {}, "k:{\"name\":\"A\"}": { ".": {}, "f:name": {}, "f:value": {} } },
                        "f:ports": {
                            ".": {}, "k:{\"containerPort\":80,\"protocol\":\"TCP\"}": { ".": {}, "f:containerPort": {} },
                        },
                    } } },
                },
            },
        })
    );
}

#[test]
fn what_is_no_longer_applied_goes_unless_somebody_else_has_it() {
    let mut story = Story::default();
    story
        .apply("a", &deployment(json!({ "replicas": 2, "paused": true, "minReadySeconds": 5 })), false)
        .expect("applied");
    story.apply("b", &deployment(json!({ "minReadySeconds": 5 })), false).expect("the same value is shared");
    story.apply("a", &deployment(json!({ "replicas": 2 })), false).expect("applied");
    assert_eq!(*story.spec(), json!({ "replicas": 2, "minReadySeconds": 5 }));
    assert_eq!(fields(&story.managers, "a"), json!({ "f:spec": { "f:replicas": {} } }));
    assert_eq!(fields(&story.managers, "b"), json!({ "f:spec": { "f:minReadySeconds": {} } }));
}

#[test]
fn conflicts_are_told_by_manager_and_field() {
    let mut story = Story::default();
    story.update("hpa", deployment(json!({ "replicas": 3, "minReadySeconds": 1 })));
    story.apply("b", &deployment(json!({ "paused": true })), false).expect("no conflict");
    let config = deployment(json!({ "replicas": 1 }));
    let error = story.apply("a", &config, false).expect_err("a conflict");
    assert_eq!(
        error.to_string(),
        "Apply failed with 1 conflict: conflict with \"hpa\" using apps/v1: .spec.replicas"
    );
    let config = deployment(json!({ "replicas": 1, "minReadySeconds": 2, "paused": false }));
    let error = story.apply("a", &config, false).expect_err("conflicts");
    assert_eq!(
        error.to_string(),
        "Apply failed with 3 conflicts: conflicts with \"b\":\n- .spec.paused\nconflicts with \"hpa\" using apps/v1:\n- \
         .spec.minReadySeconds\n- .spec.replicas"
    );
    story.apply("a", &config, true).expect("by force");
    assert_eq!(story.spec()["replicas"], 1);
    assert_eq!(fields(&story.managers, "hpa"), Value::Null);
    assert_eq!(fields(&story.managers, "b"), Value::Null);
}

#[test]
fn list_items_are_merged_by_their_keys() {
    let containers = |items: Value| deployment(json!({ "template": { "spec": { "containers": items } } }));
    let mut story = Story::default();
    let sidecar = json!({ "name": "proxy", "image": "proxy:1" });
    story
        .apply(
            "a",
            &containers(json!([{ "name": "web", "image": "web:1", "ports": [{ "containerPort": 80 }] }])),
            false,
        )
        .expect("applied");
    story.apply("b", &containers(json!([sidecar])), false).expect("applied");
    story
        .apply(
            "a",
            &containers(json!([{ "name": "log", "image": "log:1" }, { "name": "web", "image": "web:2" }])),
            false,
        )
        .expect("applied");
    assert_eq!(
        story.spec()["template"]["spec"]["containers"],
        json!([
            { "name": "log", "image": "log:1" }, { "name": "web", "image": "web:2" }, sidecar,
        ])
    );
    story.apply("a", &containers(json!([{ "name": "web", "image": "web:2" }])), false).expect("applied");
    assert_eq!(
        story.spec()["template"]["spec"]["containers"],
        json!([{ "name": "web", "image": "web:2" }, sidecar])
    );
}

#[test]
fn kubectl_takes_over_what_it_applied_on_the_clients_side() {
    let config = deployment(json!({ "replicas": 2 }));
    let mut old = config.clone();
    old["metadata"]["annotations"] =
        json!({ "kubectl.kubernetes.io/last-applied-configuration": config.to_string() });
    let mut story = Story::default();
    story.update("kubectl-client-side-apply", old);
    let new = deployment(json!({ "replicas": 5 }));
    story.clone().apply("flux", &new, false).expect_err("for anybody else it is a conflict");
    story.apply("kubectl", &new, false).expect("it was kubectl's own");
    assert_eq!(story.spec()["replicas"], 5);
    let live = story.live.expect("live");
    let annotation = &live["metadata"]["annotations"]["kubectl.kubernetes.io/last-applied-configuration"];
    assert_eq!(*annotation, format!("{new}\n"));
}

#[test]
fn only_so_many_updaters_are_told_apart() {
    let mut story = Story::default();
    let mut labels = serde_json::Map::new();
    for index in 0..15 {
        labels.insert(format!("l{index:02}"), "x".into());
        let mut object = deployment(json!({}));
        object["metadata"]["labels"] = labels.clone().into();
        story.update(&format!("m{index:02}"), object);
    }
    let all = serde_json::to_value(&story.managers).expect("json");
    assert_eq!(all.as_array().map(Vec::len), Some(10));
    let ancient = fields(&story.managers, "ancient-changes");
    assert_eq!(ancient["f:metadata"]["f:labels"].as_object().map(serde_json::Map::len), Some(7), "{ancient}");
}

#[test]
fn what_does_not_fit_is_refused_with_its_place() {
    let mut story = Story::default();
    for (spec, expected) in [
        (json!({ "replica": 1 }), ".spec.replica: field not declared in schema"),
        (json!({ "replicas": "x" }), ".spec.replicas: expected numeric (int or float), got string"),
        (
            json!({ "template": { "spec": { "containers": [{ "name": "a" }, { "name": "a" }] } } }),
            ".spec.template.spec.containers: duplicate entries for key [name=\"a\"]",
        ),
        (json!([]), ".spec: expected map, got []"),
    ] {
        let error = story.apply("a", &deployment(spec), false).expect_err(expected);
        assert_eq!(error.to_string(), expected);
    }
}

#[test]
fn managers_are_read_as_they_were_written() {
    let mut story = Story::default();
    story.update("a", deployment(json!({ "replicas": 1 })));
    story.apply("b", &deployment(json!({ "paused": true })), false).expect("applied");
    let json = story.managers.to_json().expect("two managers");
    assert_eq!(ManagedFields::parse(json.as_bytes()), Some(story.managers));
    assert_eq!(ManagedFields::parse(b"[{\"manager\":\"a\"}]"), None);
    assert_eq!(ManagedFields::default().to_json(), None);
}

/// A configuration of some fields out of a few, so that configurations often meet.
fn config() -> impl Strategy<Value = Value> {
    let scalar = prop::option::of(0..3_i64);
    let labels = prop::collection::btree_map("[a-c]", "[xy]", 0..3);
    let ports = prop::collection::btree_map(80..83_i64, prop::option::of("[xy]"), 0..3);
    let containers = prop::collection::btree_map("[p-r]", (prop::option::of("[xy]"), ports), 0..3);
    (scalar.clone(), scalar, labels, containers, prop::option::of(prop::collection::vec("[xy]", 1..3))).prop_map(
        |(replicas, ready, labels, containers, finalizers)| {
            let mut object = deployment(json!({}));
            let mut set = |pointer: [&str; 2], value: Value| object[pointer[0]][pointer[1]] = value;
            if let Some(replicas) = replicas {
                set(["spec", "replicas"], replicas.into());
            }
            if let Some(ready) = ready {
                set(["spec", "minReadySeconds"], ready.into());
            }
            if !labels.is_empty() {
                set(["metadata", "labels"], json!(labels));
            }
            if let Some(mut finalizers) = finalizers {
                finalizers.dedup();
                finalizers.truncate(2);
                set(["metadata", "finalizers"], json!(finalizers));
            }
            if !containers.is_empty() {
                let containers: Vec<Value> = containers
                    .into_iter()
                    .map(|(name, (image, ports))| {
                        let mut container = json!({ "name": name });
                        if let Some(image) = image {
                            container["image"] = image.into();
                        }
                        if !ports.is_empty() {
                            container["ports"] = ports
                                .into_iter()
                                .map(|(port, name)| json!({ "containerPort": port, "name": name.unwrap_or_default() }))
                                .collect();
                        }
                        container
                    })
                    .collect();
                set(["spec", "template"], json!({ "spec": { "containers": containers } }));
            }
            object
        },
    )
}

/// The same object whatever the order of its merged lists.
fn unordered(value: &Value) -> Value {
    match value {
        Value::Object(map) => map.iter().map(|(name, value)| (name.clone(), unordered(value))).collect(),
        Value::Array(items) => {
            let mut items: Vec<_> = items.iter().map(unordered).collect();
            items.sort_by_key(ToString::to_string);
            Value::Array(items)
        }
        plain => plain.clone(),
    }
}

/// Every value that a configuration names is in the object.
fn is_within(kind: &ObjectType, config: &Value, object: &Value) -> bool {
    let changes = kind.compare(&Tree::from(config), &Tree::from(object));
    changes.modified.is_empty() && changes.removed.is_empty()
}

proptest! {
    #[test]
    fn applying_again_changes_nothing(before in config(), config in config()) {
        let mut story = Story::default();
        story.update("someone", before);
        story.apply("a", &config, true).expect("forced");
        let once = (story.live.clone(), story.managers.clone());
        story.apply("a", &config, false).expect("it has all that it wants");
        prop_assert_eq!((story.live, story.managers), once);
    }

    #[test]
    fn an_applier_gets_what_it_says(before in config(), first in config(), second in config()) {
        let mut story = Story::default();
        story.update("someone", before);
        story.apply("a", &first, true).expect("forced");
        story.apply("a", &second, true).expect("forced");
        let live = story.live.expect("live");
        prop_assert!(is_within(&deployments(), &second, &live), "{second} in {live}");
    }

    #[test]
    fn appliers_without_conflicts_commute(first in config(), second in config()) {
        let (mut here, mut there) = (Story::default(), Story::default());
        let is_peaceful = here.apply("a", &first, false).is_ok() && here.apply("b", &second, false).is_ok();
        prop_assume!(is_peaceful);
        there.apply("b", &second, false).expect("no conflict in the other order either");
        there.apply("a", &first, false).expect("no conflict in the other order either");
        prop_assert_eq!(unordered(&here.live.expect("live")), unordered(&there.live.expect("live")));
        prop_assert_eq!(here.managers, there.managers);
    }

    #[test]
    fn nobody_loses_what_it_owns_without_force(others in config(), first in config(), second in config()) {
        let mut story = Story::default();
        story.apply("b", &others, false).expect("the first");
        for config in [first, second] {
            let _ = story.apply("a", &config, false);
            let live = story.live.as_ref().expect("live");
            prop_assert!(is_within(&deployments(), &others, live), "{others} in {live}");
        }
        let kind = deployments();
        let mut expected = kind.fields_of(&Tree::from(&others));
        expected.subtract(&Fields::of_paths(["apiVersion", "kind", "metadata.name"]));
        let expected = serde_json::to_value(expected).expect("json");
        let found = fields(&story.managers, "b");
        prop_assert_eq!(if found.is_null() { json!({}) } else { found }, expected);
    }

    #[test]
    fn updates_own_exactly_what_they_change(old in config(), new in config()) {
        let kind = deployments();
        let mut story = Story::default();
        story.update("a", old.clone());
        story.update("b", new.clone());
        let changes = kind.compare(&Tree::from(&old), &Tree::from(&new));
        let mut taken = changes.added;
        taken.add(changes.modified);
        taken.subtract(&Fields::of_paths(["metadata"]));
        let found = fields(&story.managers, "b");
        let found: Fields = serde_json::from_value(if found.is_null() { json!({}) } else { found }).expect("fields");
        prop_assert_eq!(found, taken);
    }

    #[test]
    fn sets_of_fields_round_trip_and_obey_their_laws(one in config(), other in config()) {
        let kind = deployments();
        let (one, other) = (kind.fields_of(&Tree::from(&one)), kind.fields_of(&Tree::from(&other)));
        let json = serde_json::to_string(&one).expect("json");
        prop_assert_eq!(&serde_json::from_str::<Fields>(&json).expect("fields"), &one);
        let mut union = one.clone();
        union.add(other.clone());
        let mut rest = union.clone();
        rest.subtract(&other);
        prop_assert!(rest.intersection(&other).is_empty());
        let mut again = rest;
        again.add(other.clone());
        prop_assert_eq!(&again, &union);
        prop_assert_eq!(union.intersection(&one), one);
    }
}
