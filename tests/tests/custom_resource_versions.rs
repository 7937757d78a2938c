//! Versions of a defined resource, each with a schema and fields of its own.

use naru_tests::Cluster;

/// The old version has neither the fields that the new one selects by, nor a future.
const LAMPS: &str = "
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: lamps.light.example.com}
spec:
  group: light.example.com
  scope: Namespaced
  names: {plural: lamps, kind: Lamp}
  versions:
  - name: v1beta1
    served: true
    storage: false
    deprecated: true
    deprecationWarning: light.example.com/v1beta1 Lamp goes in spring; use v1
    schema:
      openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}
  - name: v1
    served: true
    storage: true
    selectableFields: [{jsonPath: .spec.color}]
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec: {type: object, properties: {color: {type: string}}}
";

#[test]
fn fields_are_selected_in_the_version_that_has_them() {
    let cluster = Cluster::start();
    let kubectl = cluster.kubectl();
    kubectl.apply(LAMPS);
    kubectl.established("lamps.light.example.com");
    for (name, color) in [("one", "red"), ("two", "blue")] {
        kubectl.apply(&format!(
            "{{apiVersion: light.example.com/v1, kind: Lamp, metadata: {{name: {name}}}, spec: {{color: {color}}}}}"
        ));
    }
    let get =
        |resource: &str| kubectl.run(&["get", resource, "--field-selector", "spec.color=red", "-o", "name"]);
    assert_eq!(get("lamps").ok(), "lamp.light.example.com/one\n");
    let why = get("lamps.v1beta1.light.example.com").refused();
    assert!(why.contains("field label not supported: spec.color"), "{why}");

    let swapped = LAMPS.replace("jsonPath: .spec.color", "jsonPath: .spec.colour");
    let why = kubectl.run_with(&["apply", "-f", "-"], &swapped).refused();
    let place = r#"spec.versions[1].selectableFields[0].jsonPath: Invalid value: ".spec.colour""#;
    assert!(why.contains(place) && why.contains("does not refer to a valid field"), "{why}");
}

#[test]
fn every_use_of_a_deprecated_version_is_warned_of() {
    const WARNING: &str = "Warning: light.example.com/v1beta1 Lamp goes in spring; use v1";
    let cluster = Cluster::start();
    let kubectl = cluster.kubectl();
    kubectl.apply(LAMPS);
    kubectl.established("lamps.light.example.com");
    let lamp = "{apiVersion: light.example.com/v1beta1, kind: Lamp, metadata: {name: one}}";
    let made = kubectl.run_with(&["create", "-f", "-"], lamp);
    assert_eq!(made.stderr.matches(WARNING).count(), 1, "{made:?}");
    let (old, new) = ("lamps.v1beta1.light.example.com", "lamps.v1.light.example.com");
    for verb in [&["get"][..], &["get", "one"], &["label", "one", "a=b"], &["delete", "one"]] {
        let with = |resource| kubectl.run(&[&verb[..1], &[resource], &verb[1..]].concat());
        if verb[0] != "delete" {
            let answer = with(new);
            assert!(answer.code == 0 && !answer.stderr.contains("Warning"), "{verb:?}: {answer:?}");
        }
        let answer = with(old);
        assert!(answer.code == 0 && answer.stderr.contains(WARNING), "{verb:?}: {answer:?}");
    }
}
