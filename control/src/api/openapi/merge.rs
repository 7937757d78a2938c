//! Merges the v2 documents of other servers into one, as Kubernetes' aggregator does.
//!
//! Of another server's document only the paths of its own group and version are taken, and what they refer to. Where
//! two mean different things by one name, the newcomer's gets another: `NAME_v2`, `NAME_v3`.
//! **Invariant:** what was there first stays as it was, except that a definition may come to stand for more kinds.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

const KINDS: &str = "x-kubernetes-group-version-kind";
/// Where a document keeps what its paths refer to.
const SECTIONS: [&str; 3] = ["definitions", "parameters", "responses"];

type Name = (&'static str, String);

/// The part of another server's document that is about `/apis/GROUP/VERSION/`. `None` where it is no v2 document.
pub fn part(document: &Value, group: &str, version: &str) -> Option<Value> {
    let prefix = format!("/apis/{group}/{version}/");
    let paths = document.as_object()?.get("paths")?.as_object()?;
    let of_group = paths.iter().filter(|(path, item)| path.starts_with(&prefix) && item.is_object());
    let paths: Map<String, Value> = of_group.map(|(path, item)| (path.clone(), item.clone())).collect();
    Some(with_meant(paths, document))
}

/// The paths, and of the document what they refer to.
fn with_meant(paths: Map<String, Value>, document: &Value) -> Value {
    let mut used = BTreeSet::new();
    let mut found = Vec::new();
    paths.values().for_each(|item| references(item, &mut found));
    while let Some(name) = found.pop() {
        if let Some(meant) = lookup(document, &name)
            && used.insert(name)
        {
            references(meant, &mut found);
        }
    }
    let mut part = Map::new();
    part.insert("paths".into(), Value::Object(paths));
    for name in used {
        if let Some(meant) = lookup(document, &name) {
            part.entry(name.0).or_insert_with(|| Value::Object(Map::new()))[&name.1] = meant.clone();
        }
    }
    Value::Object(part)
}

/// Adds a part, as [`part`] answers it, to a document. Paths that are there already stay.
pub fn add(document: &mut Value, part: &Value) {
    let mut part = without_known_paths(document, part);
    let renames = renames(document, &part);
    rename(&mut part, &renames);
    for section in ["paths"].into_iter().chain(SECTIONS) {
        let Some(Value::Object(items)) = part.get_mut(section).map(Value::take) else { continue };
        let Some(document) = document.as_object_mut() else { return };
        let known = document.entry(section).or_insert_with(|| Value::Object(Map::new()));
        let Some(known) = known.as_object_mut() else { continue };
        for (name, item) in items {
            match known.get_mut(&name) {
                Some(existing) => add_kinds(existing, &item),
                None => drop(known.insert(name, item)),
            }
        }
    }
}

/// The part without the paths that the document has, and without what only those refer to.
fn without_known_paths(document: &Value, part: &Value) -> Value {
    let mut paths = part["paths"].as_object().cloned().unwrap_or_default();
    paths.retain(|path, _| document["paths"].get(path).is_none());
    with_meant(paths, part)
}

/// What the names in the part have to become.
fn renames(document: &Value, part: &Value) -> BTreeMap<Name, String> {
    let mut renames = BTreeMap::new();
    let mut taken = BTreeSet::new();
    for section in SECTIONS {
        for (name, item) in part[section].as_object().into_iter().flatten() {
            let known = |name: &str| document[section].get(name);
            if known(name).is_none_or(|known| is_same(known, item)) {
                continue;
            }
            let numbered = (2_u32..).map(|number| format!("{name}_v{number}"));
            let fits = |name: &String| match known(name) {
                // It came before, from another version of the same server perhaps.
                Some(known) => is_same(known, item),
                None => part[section].get(name).is_none() && !taken.contains(&(section, name.clone())),
            };
            let Some(new) = numbered.into_iter().find(fits) else { continue };
            taken.insert((section, new.clone()));
            renames.insert((section, name.clone()), new);
        }
    }
    renames
}

fn rename(part: &mut Value, renames: &BTreeMap<Name, String>) {
    if renames.is_empty() {
        return;
    }
    rename_references(part, renames);
    for ((section, old), new) in renames {
        if let Some(items) = part[*section].as_object_mut()
            && let Some(item) = items.remove(old)
        {
            items.insert(new.clone(), item);
        }
    }
}

fn rename_references(value: &mut Value, renames: &BTreeMap<Name, String>) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                match value {
                    Value::String(text) if key == "$ref" => {
                        if let Some(name) = name_of(text)
                            && let Some(new) = renames.get(&name)
                        {
                            *text = format!("#/{}/{new}", name.0);
                        }
                    }
                    value => rename_references(value, renames),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| rename_references(item, renames)),
        _ => (),
    }
}

/// Everything of this document that the value refers to.
fn references(value: &Value, found: &mut Vec<Name>) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                match value {
                    Value::String(text) if key == "$ref" => found.extend(name_of(text)),
                    value => references(value, found),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| references(item, found)),
        _ => (),
    }
}

/// `#/definitions/NAME`, taken apart.
fn name_of(reference: &str) -> Option<Name> {
    let (section, name) = reference.strip_prefix("#/")?.split_once('/')?;
    let section = SECTIONS.into_iter().find(|other| *other == section)?;
    Some((section, name.to_owned()))
}

fn lookup<'a>(document: &'a Value, (section, name): &Name) -> Option<&'a Value> {
    document.get(section)?.get(name)
}

/// Whether two definitions say the same, whichever kinds they stand for.
fn is_same(one: &Value, other: &Value) -> bool {
    let (Some(one), Some(other)) = (one.as_object(), other.as_object()) else { return one == other };
    let count = |fields: &Map<String, Value>| fields.len() - usize::from(fields.contains_key(KINDS));
    count(one) == count(other) && one.iter().all(|(key, value)| key == KINDS || other.get(key) == Some(value))
}

/// Lets a definition stand for the kinds of its equal, too.
fn add_kinds(existing: &mut Value, item: &Value) {
    let Some(more) = item[KINDS].as_array() else { return };
    let Some(fields) = existing.as_object_mut() else { return };
    let kinds = fields.entry(KINDS).or_insert_with(|| Value::Array(Vec::new()));
    if let Some(kinds) = kinds.as_array_mut() {
        for kind in more {
            if !kinds.contains(kind) {
                kinds.push(kind.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn reference(name: &str) -> Value {
        json!({ "$ref": format!("#/definitions/{name}") })
    }

    /// A path whose answer is of a type.
    fn path(type_name: &str) -> Value {
        json!({ "get": { "responses": { "200": { "schema": reference(type_name) } } } })
    }

    fn kinds(version: &str, kind: &str) -> Value {
        json!([{ "group": "shop.example.com", "version": version, "kind": kind }])
    }

    /// The document of a shop whose carts hold `meta`.
    fn shop(meta: &Value) -> Value {
        json!({
            "swagger": "2.0",
            "paths": {
                "/apis/": path("Groups"),
                "/apis/shop.example.com/v1/carts": path("Cart"),
                "/apis/shop.example.com/v10/carts": path("Other"),
                "/apis/apps/v1/deployments": path("Other"),
                "/version": path("Other"),
            },
            "definitions": {
                "Cart": { "type": "object", "properties": { "metadata": reference("Meta") } },
                "Meta": meta,
                "Groups": { "type": "object" },
                "Other": { "type": "object" },
            },
        })
    }

    fn ours() -> Value {
        json!({
            "paths": { "/apis/apps/v1/deployments": path("Deployment") },
            "definitions": {
                "Deployment": { "properties": { "metadata": reference("Meta") } },
                "Meta": { "type": "object", "properties": { "name": { "type": "string" } } },
            },
        })
    }

    fn keys(value: &Value) -> Vec<&str> {
        let mut keys: Vec<&str> = value.as_object().expect("an object").keys().map(String::as_str).collect();
        keys.sort_unstable();
        keys
    }

    #[test]
    fn a_part_is_the_paths_of_the_group_version_and_what_they_refer_to() {
        let meta = json!({ "type": "object", "properties": { "$ref": { "type": "string" }, "parent": reference("Meta") } });
        let part = part(&shop(&meta), "shop.example.com", "v1").expect("a part");
        assert_eq!(keys(&part["paths"]), ["/apis/shop.example.com/v1/carts"]);
        assert_eq!(keys(&part["definitions"]), ["Cart", "Meta"]);
        for broken in [json!(null), json!([]), json!({}), json!({ "paths": [] }), json!("paths")] {
            assert_eq!(super::part(&broken, "shop.example.com", "v1"), None, "{broken}");
        }
        // Nothing of the group is a part, too, and references that lead nowhere are no reason to lose the rest.
        let dangling = json!({ "paths": { "/apis/g/v1/x": path("Gone") } });
        assert_eq!(super::part(&dangling, "g", "v1").expect("a part"), dangling);
        assert_eq!(super::part(&dangling, "h", "v1").expect("a part"), json!({ "paths": {} }));
    }

    #[test]
    fn equal_definitions_are_shared_and_others_are_renamed_wherever_they_are_meant() {
        let mut document = ours();
        let same = part(&shop(&ours()["definitions"]["Meta"]), "shop.example.com", "v1").expect("a part");
        add(&mut document, &same);
        assert_eq!(keys(&document["definitions"]), ["Cart", "Deployment", "Meta"]);
        assert_eq!(
            keys(&document["paths"]),
            ["/apis/apps/v1/deployments", "/apis/shop.example.com/v1/carts"]
        );

        let mut document = ours();
        let meta = json!({ "type": "object", "properties": { "parent": reference("Meta") } });
        let other = part(&shop(&meta), "shop.example.com", "v1").expect("a part");
        add(&mut document, &other);
        let definitions = &document["definitions"];
        assert_eq!(keys(definitions), ["Cart", "Deployment", "Meta", "Meta_v2"]);
        assert_eq!(definitions["Meta"], ours()["definitions"]["Meta"]);
        assert_eq!(definitions["Deployment"]["properties"]["metadata"], reference("Meta"));
        assert_eq!(definitions["Cart"]["properties"]["metadata"], reference("Meta_v2"));
        assert_eq!(definitions["Meta_v2"]["properties"]["parent"], reference("Meta_v2"));
    }

    #[test]
    fn numbers_go_on_where_they_are_taken() {
        let meta = |kind: &str| json!({ "type": kind });
        let mut document = ours();
        let mut first = shop(&meta("string"));
        // Its own name for something else.
        first["definitions"]["Meta_v2"] = meta("number");
        first["definitions"]["Cart"]["properties"]["other"] = reference("Meta_v2");
        add(&mut document, &part(&first, "shop.example.com", "v1").expect("a part"));
        assert_eq!(document["definitions"]["Meta_v3"], meta("string"));
        assert_eq!(document["definitions"]["Meta_v2"], meta("number"));
        // The same again, from another group, is recognized.
        let again = json!({
            "paths": { "/apis/toys/v1/blocks": path("Meta") }, "definitions": { "Meta": meta("string") },
        });
        add(&mut document, &again);
        assert_eq!(document["paths"]["/apis/toys/v1/blocks"], path("Meta_v3"));
        assert_eq!(keys(&document["definitions"]), ["Cart", "Deployment", "Meta", "Meta_v2", "Meta_v3"]);
    }

    #[test]
    fn kinds_are_no_difference_and_come_together() {
        let item = |version: &str| json!({ "type": "object", KINDS: kinds(version, "DeleteOptions") });
        let mut document = json!({ "paths": {}, "definitions": { "DeleteOptions": item("v1") } });
        let part = json!({
            "paths": { "/apis/shop.example.com/v2/carts": path("DeleteOptions") },
            "definitions": { "DeleteOptions": item("v2") },
        });
        add(&mut document, &part);
        assert_eq!(keys(&document["definitions"]), ["DeleteOptions"]);
        let of = document["definitions"]["DeleteOptions"][KINDS].as_array().expect("kinds");
        assert_eq!(of.len(), 2, "{of:?}");
    }

    #[test]
    fn paths_that_are_there_stay_and_bring_nothing_with_them() {
        let mut document = ours();
        document["paths"]["/apis/shop.example.com/v1/carts"] = path("Deployment");
        let before = document.clone();
        add(&mut document, &part(&shop(&json!({})), "shop.example.com", "v1").expect("a part"));
        assert_eq!(document["paths"], before["paths"]);
        assert_eq!(document["definitions"], before["definitions"]);
    }

    #[test]
    fn parameters_of_the_whole_document_come_along() {
        let pretty =
            |description: &str| json!({ "in": "query", "name": "pretty", "description": description });
        let by_reference = json!({ "parameters": [{ "$ref": "#/parameters/pretty" }] });
        let source = |description: &str| {
            json!({
                "paths": { "/apis/g/v1/x": by_reference },
                "parameters": { "pretty": pretty(description), "unused": {} },
            })
        };
        let mut document = json!({ "paths": {}, "parameters": { "pretty": pretty("ours") } });
        add(&mut document, &part(&source("theirs"), "g", "v1").expect("a part"));
        assert_eq!(keys(&document["parameters"]), ["pretty", "pretty_v2"]);
        let reference = &document["paths"]["/apis/g/v1/x"]["parameters"][0]["$ref"];
        assert_eq!(reference, "#/parameters/pretty_v2");
    }
}
