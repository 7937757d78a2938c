//! What clients send in texts and patches may be anything: it is refused or understood, and never a panic.

use std::collections::BTreeMap;

use naru_model::{
    cron::Schedule,
    patch::{apply_json, apply_merge, apply_strategic},
    quantity::Quantity,
    selector::{FieldSelector, Selector},
};
use proptest::prelude::*;
use serde_json::{Value, json};

/// Any JSON, with the keys and values that patches and objects are made of.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "[a-c]{0,2}".prop_map(Value::from),
        prop_oneof![Just("delete"), Just("replace"), Just("merge"), Just("bogus")].prop_map(Value::from),
    ];
    let key = prop_oneof![
        Just("spec"),
        Just("template"),
        Just("containers"),
        Just("ports"),
        Just("name"),
        Just("containerPort"),
        Just("finalizers"),
        Just("metadata"),
        Just("$patch"),
        Just("$retainKeys"),
        Just("$setElementOrder/containers"),
        Just("$deleteFromPrimitiveList/finalizers"),
        Just("$"),
        Just(""),
    ];
    leaf.prop_recursive(6, 40, 5, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::btree_map(key.clone(), inner, 0..5).prop_map(|map| Value::Object(
                map.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
            )),
        ]
    })
}

fn operation() -> impl Strategy<Value = Value> {
    let pointer = prop_oneof![
        Just("/spec"),
        Just("/spec/template/containers/0"),
        Just("/spec/template/containers/-"),
        Just("/spec/template/containers/99999999999999999999"),
        Just("/metadata/a~1b"),
        Just("~2"),
        Just("spec"),
        Just("/"),
        Just(""),
    ];
    let op = prop_oneof![
        Just("add"),
        Just("remove"),
        Just("replace"),
        Just("move"),
        Just("copy"),
        Just("test"),
        Just("bogus"),
    ];
    (op, pointer.clone(), pointer, any_json())
        .prop_map(|(op, path, from, value)| json!({ "op": op, "path": path, "from": from, "value": value }))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn any_quantity(text in "[-+]?[0-9.]{0,24}(n|u|m|k|Ki|M|Mi|G|Gi|T|Ti|P|Pi|E|Ei|[eE][-+]?[0-9]{0,4}|.{0,3})") {
        if let Ok(quantity) = text.parse::<Quantity>() {
            let again: Quantity = quantity.to_string().parse().expect("what is printed is understood");
            prop_assert_eq!(again.nanos(), quantity.nanos(), "{}", text);
            let _ = (quantity.value(), quantity.milli_value());
        }
    }

    #[test]
    fn any_selector(text in "(([a-c/.!=<>(), -]|in|notin|exists){0,30})|.{0,40}") {
        let labels: BTreeMap<String, String> = [("a".to_owned(), "b".to_owned())].into();
        if let Ok(selector) = Selector::parse(&text) {
            let _ = selector.matches(&labels);
        }
        if let Ok(selector) = FieldSelector::parse(&text) {
            let _ = selector.matches(|_| "b");
        }
    }

    #[test]
    fn any_schedule(text in "([0-9*/,?L#@a-z -]{0,30})|.{0,30}") {
        let _ = Schedule::parse(&text);
    }

    #[test]
    fn any_merge_patch(mut document in any_json(), patch in any_json()) {
        apply_merge(&mut document, &patch);
        let once = document.clone();
        apply_merge(&mut document, &patch);
        prop_assert_eq!(document, once, "merging again changes nothing");
    }

    #[test]
    fn any_strategic_patch(document in any_json(), patch in any_json()) {
        for name in ["io.k8s.api.apps.v1.Deployment", "io.k8s.api.core.v1.PodSpec", "io.k8s.api.core.v1.Pod", "unknown"] {
            let mut document = document.clone();
            let _ = apply_strategic(&mut document, &patch, name);
        }
    }

    #[test]
    fn any_json_patch(document in any_json(), patch in proptest::collection::vec(operation(), 0..6)) {
        let mut document = document;
        let _ = apply_json(&mut document, &Value::from(patch));
    }

    #[test]
    fn any_json_as_a_json_patch(mut document in any_json(), patch in any_json()) {
        let _ = apply_json(&mut document, &patch);
    }
}

#[test]
fn a_json_patch_cannot_grow_an_object_without_bound() {
    // Each operation doubles the object: forty of them would fill any memory.
    let copies: Vec<Value> =
        (0..40).map(|at| json!({ "op": "copy", "from": "", "path": format!("/copy{at}") })).collect();
    let mut document = json!({ "spec": "x".repeat(100) });
    apply_json(&mut document, &Value::from(copies)).expect_err("it would be too large");
}
