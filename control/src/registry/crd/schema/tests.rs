use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::JSONSchemaProps;
use naru_model::validation::{FieldErrors, Path};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::Schema;

fn schema(value: Value) -> Schema {
    let props: JSONSchemaProps = serde_json::from_value(value).expect("a schema");
    Schema::build(&props).expect("it compiles")
}

fn errors(schema_value: Value, value: Value) -> Vec<String> {
    let schema = schema(schema_value);
    let mut errors = FieldErrors::default();
    schema.check(&value, "", &mut errors);
    schema.check_lists(&value, &Path::default(), &mut errors);
    errors.0.iter().map(ToString::to_string).collect()
}

/// What is wrong with `value` under `spec`.
fn check(spec: Value, value: Value, expected: &[&str]) {
    assert_eq!(
        errors(json!({ "type": "object", "properties": { "spec": spec } }), json!({ "spec": value })),
        expected
    );
}

#[test]
fn types_are_named_as_kubernetes_names_them() {
    let integer = json!({ "type": "integer" });
    check(
        integer.clone(),
        json!("x"),
        &[r#"spec: Invalid value: "string": spec in body must be of type integer: "string""#],
    );
    check(
        integer.clone(),
        json!(1.5),
        &[r#"spec: Invalid value: "number": spec in body must be of type integer: "number""#],
    );
    check(integer.clone(), json!(2.0), &[]);
    check(
        integer,
        json!(null),
        &[r#"spec: Invalid value: "null": spec in body must be of type integer: "null""#],
    );
    check(json!({ "type": "integer", "nullable": true }), json!(null), &[]);
    let either = json!({ "x-kubernetes-int-or-string": true });
    check(either.clone(), json!("80%"), &[]);
    check(
        either,
        json!(true),
        &[r#"spec: Invalid value: "boolean": spec in body must be of type integer,string: "boolean""#],
    );
}

#[test]
fn bounds_say_what_they_are() {
    check(
        json!({ "type": "integer", "minimum": 1 }),
        json!(0),
        &["spec: Invalid value: 0: spec in body should be greater than or equal to 1"],
    );
    check(
        json!({ "type": "number", "maximum": 0.5, "exclusiveMaximum": true }),
        json!(0.5),
        &["spec: Invalid value: 0.5: spec in body should be less than 0.5"],
    );
    check(
        json!({ "type": "integer", "multipleOf": 3 }),
        json!(7),
        &["spec: Invalid value: 7: spec in body should be a multiple of 3"],
    );
    check(
        json!({ "type": "string", "minLength": 2 }),
        json!("a"),
        &[r#"spec: Invalid value: "a": spec in body should be at least 2 chars long"#],
    );
    check(
        json!({ "type": "string", "maxLength": 2 }),
        json!("abc"),
        &["spec: Too long: may not be more than 2 bytes"],
    );
    check(
        json!({ "type": "string", "pattern": "^a$" }),
        json!("b"),
        &[r#"spec: Invalid value: "b": spec in body should match '^a$'"#],
    );
    check(
        json!({ "type": "string", "format": "ipv4" }),
        json!("b"),
        &[r#"spec: Invalid value: "b": spec in body must be of type ipv4: "b""#],
    );
    check(
        json!({ "type": "string", "enum": ["a", "b"] }),
        json!("c"),
        &[r#"spec: Unsupported value: "c": supported values: "a", "b""#],
    );
    let list = json!({ "type": "array", "maxItems": 1, "items": { "type": "string" } });
    check(
        list,
        json!(["a", 1]),
        &[
            r#"spec[1]: Invalid value: "integer": spec[1] in body must be of type string: "integer""#,
            "spec: Too many: 2: must have at most 1 item",
        ],
    );
    check(
        json!({ "type": "object", "required": ["a"], "properties": { "a": {} } }),
        json!({}),
        &["spec.a: Required value"],
    );
}

#[test]
fn combinations_report_the_best_failure() {
    let one = json!({ "type": "object", "oneOf": [{ "required": ["a"] }, { "required": ["b"] }],
        "properties": { "a": { "type": "string" }, "b": { "type": "string" } } });
    check(
        one.clone(),
        json!({}),
        &[
            r#"<nil>: Invalid value: "": "spec" must validate one and only one schema (oneOf). Found none valid"#,
            "spec.a: Required value",
        ],
    );
    check(
        one,
        json!({ "a": "1", "b": "2" }),
        &[
            r#"<nil>: Invalid value: "": "spec" must validate one and only one schema (oneOf). Found 2 valid alternatives"#,
        ],
    );
    check(
        json!({ "not": { "required": ["a"] } }),
        json!({ "a": 1 }),
        &[r#"<nil>: Invalid value: "": "spec" must not validate the schema (not)"#],
    );
}

#[test]
fn sets_and_maps_hold_nothing_twice() {
    let set = json!({ "type": "array", "x-kubernetes-list-type": "set", "items": { "type": "string" } });
    check(set, json!(["a", "b", "a"]), &[r#"spec[2]: Duplicate value: "a""#]);
    let map = json!({ "type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
        "items": { "type": "object", "properties": { "name": { "type": "string" } } } });
    check(
        map,
        json!([{ "name": "a" }, { "name": "a", "x": 1 }]),
        &[r#"spec[1]: Duplicate value: {"name":"a"}"#],
    );
}

#[test]
fn unknown_fields_are_pruned_and_told() {
    let schema = schema(
        json!({ "type": "object", "properties": { "spec": { "type": "object", "properties": {
        "known": { "type": "object", "properties": { "a": { "type": "string" } } },
        "free": { "type": "object", "x-kubernetes-preserve-unknown-fields": true, "properties": { "shut": { "type": "object" } } },
        "list": { "type": "array", "items": { "type": "object", "properties": { "a": {} } } },
        "pod": { "type": "object", "x-kubernetes-embedded-resource": true },
        "labels": { "type": "object", "additionalProperties": { "type": "string" } },
    } } } }),
    );
    let mut object = json!({ "kind": "X", "metadata": { "name": "a" }, "extra": 1, "spec": {
        "known": { "a": "1", "b": "2" },
        "free": { "any": { "thing": 1 }, "shut": { "gone": 1 } },
        "list": [{ "a": 1, "c": 2 }],
        "pod": { "kind": "Pod", "metadata": { "name": "p", "odd": 1 }, "spec": {} },
        "labels": { "x": "y" },
    } });
    let mut unknown = Vec::new();
    schema.prune(object.as_object_mut().expect("an object"), &mut |path| unknown.push(path));
    unknown.sort();
    assert_eq!(
        unknown,
        [
            "extra",
            "spec.free.shut.gone",
            "spec.known.b",
            "spec.list[0].c",
            "spec.pod.metadata.odd",
            "spec.pod.spec"
        ]
    );
    assert_eq!(object["spec"]["free"], json!({ "any": { "thing": 1 }, "shut": {} }));
    assert_eq!(object["spec"]["pod"], json!({ "kind": "Pod", "metadata": { "name": "p" } }));
}

#[test]
fn defaults_fill_what_is_absent_or_wrongly_null() {
    let schema = schema(json!({ "type": "object", "properties": {
        "foo": { "type": "string", "default": "default" },
        "bar": { "type": "string", "nullable": true },
        "baz": { "type": "string" },
        "nested": { "type": "object", "default": {}, "properties": { "port": { "type": "integer", "default": 80 } } },
        "list": { "type": "array", "items": { "type": "object", "properties": { "on": { "type": "boolean", "default": true } } } },
    } }));
    let mut object: Map<String, Value> = serde_json::from_value(
        json!({ "foo": null, "bar": null, "baz": null, "list": [{}, { "on": false }] }),
    )
    .expect("a map");
    schema.fill(&mut object);
    let expected = json!({ "foo": "default", "bar": null, "nested": { "port": 80 }, "list": [{ "on": true }, { "on": false }] });
    assert_eq!(Value::Object(object.clone()), expected);
    schema.fill(&mut object);
    assert_eq!(Value::Object(object), expected, "a second time changes nothing");
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[a-c]{0,3}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::btree_map("[a-c]", inner, 0..4).prop_map(|map| json!(map)),
        ]
    })
}

fn any_schema() -> impl Strategy<Value = Value> {
    let kinds = prop_oneof![
        Just("string"),
        Just("integer"),
        Just("number"),
        Just("boolean"),
        Just("object"),
        Just("array")
    ];
    let leaf = (kinds, any::<bool>(), proptest::option::of(any_json()), proptest::option::of(any::<i64>()), "[a-c*+?.(){}\\[\\]]{0,4}")
        .prop_map(|(kind, nullable, default, bound, pattern)| {
            json!({ "type": kind, "nullable": nullable, "default": default, "minimum": bound, "maxLength": bound, "multipleOf": bound, "pattern": pattern })
        });
    leaf.prop_recursive(4, 24, 3, |inner| {
        prop_oneof![
            (proptest::collection::btree_map("[a-c]", inner.clone(), 0..3), any::<bool>())
                .prop_map(|(properties, free)| json!({ "type": "object", "properties": properties, "x-kubernetes-preserve-unknown-fields": free })),
            inner.clone().prop_map(|items| json!({ "type": "array", "items": items, "x-kubernetes-list-type": "set" })),
            inner.clone().prop_map(|schema| json!({ "type": "object", "additionalProperties": schema })),
            (inner.clone(), inner).prop_map(|(one, two)| json!({ "oneOf": [one, two], "not": one, "allOf": [two] })),
        ]
    })
}

proptest! {
    /// Whatever the schema, and whatever the object: no panic, and what was pruned and filled stays as it is.
    #[test]
    fn any_schema_meets_any_object(schema in any_schema(), object in proptest::collection::btree_map("[a-c]", any_json(), 0..4)) {
        let props: JSONSchemaProps = serde_json::from_value(schema).expect("a schema");
        let Ok(schema) = Schema::build(&props) else { return Ok(()) };
        let mut object: Map<String, Value> = object.into_iter().collect();
        schema.prune(&mut object, &mut |_| ());
        schema.fill(&mut object);
        let once = object.clone();
        schema.fill(&mut object);
        prop_assert_eq!(&once, &object);
        schema.is_valid(&Value::Object(object));
    }
}
