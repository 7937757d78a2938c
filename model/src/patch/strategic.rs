//! Strategic merge patch: lists merge by key, and the patch may carry directives.
//!
//! The directives are `$patch: replace|delete` in a map or a list's item, `$retainKeys` in a map,
//! `$setElementOrder/FIELD` and `$deleteFromPrimitiveList/FIELD` beside a list. None of them survives into the
//! document. Order of a merged list: items of the patch as the patch orders them, the others in between where
//! the document's order allows, as Kubernetes has it.

use serde_json::{Map, Value};

use super::{
    PatchError,
    merge_keys::{self, MergeKey},
};

const PATCH: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const SET_ORDER: &str = "$setElementOrder/";
const DELETE_FROM: &str = "$deleteFromPrimitiveList/";

type Object = Map<String, Value>;
type Result<T> = std::result::Result<T, PatchError>;

/// Merges `patch` into `document`, which is of the type `type_name` (see [`merge_keys::type_name`]).
pub fn apply_strategic(document: &mut Value, patch: &Value, type_name: &str) -> Result<()> {
    let Value::Object(patch) = patch else {
        return Err(PatchError::Malformed(format!("expected a map, but received a {}", kind(patch))));
    };
    let Value::Object(object) = document else {
        return fails(format!("expected a map, but received a {}", kind(document)));
    };
    merge_object(object, patch, Some(type_name))
}

fn fails<T>(text: impl Into<String>) -> Result<T> {
    Err(PatchError::DoesNotApply(text.into()))
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "nil",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "slice",
        Value::Object(_) => "map",
    }
}

fn merge_object(object: &mut Object, patch: &Object, type_name: Option<&str>) -> Result<()> {
    match patch.get(PATCH).map(|directive| (directive, directive.as_str())) {
        None => (),
        Some((_, Some("replace"))) => {
            object.clone_from(patch);
            object.remove(PATCH);
            return Ok(());
        }
        Some((_, Some("delete"))) => {
            object.clear();
            return Ok(());
        }
        Some((directive, _)) => return fails(unknown_directive(directive, patch)),
    }
    retain_keys(object, patch)?;
    // Deletions and lists with an order take place where their directive or their field stands.
    for (name, value) in patch {
        if let Some(field) = name.strip_prefix(DELETE_FROM) {
            delete_from_list(object, field, value)?;
        } else if let Some(field) = name.strip_prefix(SET_ORDER) {
            merge_ordered_list(object, field, patch.get(field), value, type_name)?;
        } else if matches!(name.as_str(), "$setElementOrder" | "$deleteFromPrimitiveList") {
            return Err(bad_format(name));
        } else if name != RETAIN_KEYS && !patch.contains_key(&format!("{SET_ORDER}{name}")) {
            merge_field(object, name, value, type_name)?;
        }
    }
    Ok(())
}

fn bad_format(directive: &str) -> PatchError {
    PatchError::BadDirective(match directive {
        RETAIN_KEYS => "invalid patch format of retainKeys",
        "$deleteFromPrimitiveList" => "invalid patch format of primitive list",
        _ => "invalid patch format of setElementOrder list",
    })
}

fn unknown_directive(directive: &Value, patch: &Object) -> String {
    let text = directive.as_str().map_or_else(|| directive.to_string(), Into::into);
    format!("unknown patch type: {text} in map: {}", Value::Object(patch.clone()))
}

/// Drops what `$retainKeys` does not list; the patch itself may then only touch what it lists.
fn retain_keys(object: &mut Object, patch: &Object) -> Result<()> {
    let Some(keys) = patch.get(RETAIN_KEYS) else { return Ok(()) };
    let Value::Array(keys) = keys else { return Err(bad_format(RETAIN_KEYS)) };
    let is_kept = |name: &str| keys.iter().any(|key| key == name);
    for (name, value) in patch {
        if !value.is_null() && !name.starts_with('$') && !is_kept(name) {
            return Err(bad_format(RETAIN_KEYS));
        }
    }
    object.retain(|name, _| is_kept(name));
    Ok(())
}

fn merge_field(object: &mut Object, name: &str, patch: &Value, type_name: Option<&str>) -> Result<()> {
    if patch.is_null() {
        object.remove(name);
        return Ok(());
    }
    let fact = type_name.and_then(|type_name| merge_keys::of(type_name, name));
    let below = type_name.and_then(|type_name| merge_keys::type_of(type_name, name));
    match (object.get_mut(name), patch) {
        (Some(Value::Object(_)), Value::Object(_))
            if fact.is_some_and(|fact| fact.strategy == merge_keys::Strategy::Replace) =>
        {
            object.insert(name.into(), patch.clone());
            Ok(())
        }
        (Some(Value::Object(current)), Value::Object(patch)) => {
            merge_object(current, patch, below.as_deref())
        }
        (Some(Value::Array(current)), Value::Array(items)) => {
            *current = merge_list(std::mem::take(current), items, fact, below.as_deref(), name)?;
            Ok(())
        }
        _ => {
            match without_directives(patch) {
                Some(value) => object.insert(name.into(), value),
                None => object.remove(name),
            };
            Ok(())
        }
    }
}

/// A value that is new to the document: directives and nulls in it have nothing to act on. `None` if all of it
/// was a directive.
fn without_directives(patch: &Value) -> Option<Value> {
    match patch {
        Value::Object(map) if map.contains_key(PATCH) => None,
        Value::Object(map) => {
            let fields = map.iter().filter(|(name, value)| !value.is_null() && !is_directive(name));
            Some(
                fields.filter_map(|(name, value)| Some((name.clone(), without_directives(value)?))).collect(),
            )
        }
        Value::Array(items) => Some(items.iter().filter_map(without_directives).collect()),
        plain => Some(plain.clone()),
    }
}

fn is_directive(name: &str) -> bool {
    name == RETAIN_KEYS || name.starts_with(SET_ORDER) || name.starts_with(DELETE_FROM)
}

fn delete_from_list(object: &mut Object, field: &str, doomed: &Value) -> Result<()> {
    match (object.get_mut(field), doomed) {
        (_, Value::Null) => {
            object.remove(field);
        }
        (Some(Value::Array(items)), Value::Array(doomed)) => items.retain(|item| !doomed.contains(item)),
        (None, Value::Array(_)) => (),
        _ => return Err(bad_format("$deleteFromPrimitiveList")),
    }
    Ok(())
}

/// Merges a list as its strategy says, without putting it in order yet.
fn merge_list(
    current: Vec<Value>,
    patch: &[Value],
    fact: Option<MergeKey>,
    item_type: Option<&str>,
    field: &str,
) -> Result<Vec<Value>> {
    let Some(fact) = fact.filter(|fact| fact.strategy.merges_lists()) else { return Ok(replaced(patch)) };
    let (merged, order) = merge_items(current, patch, fact.key, item_type, field)?;
    Ok(in_order(merged, &plain_items(patch), &order, fact.key))
}

/// A list that is replaced as a whole; directives are not for it.
fn replaced(patch: &[Value]) -> Vec<Value> {
    patch.iter().filter_map(without_directives).collect()
}

fn plain_items(patch: &[Value]) -> Vec<&Value> {
    patch.iter().filter(|item| item.get(PATCH).is_none()).collect()
}

/// The merged items, and the document's items in their order, deletions done.
fn merge_items(
    current: Vec<Value>,
    patch: &[Value],
    key: Option<&str>,
    item_type: Option<&str>,
    field: &str,
) -> Result<(Vec<Value>, Vec<Value>)> {
    if current.is_empty() && patch.is_empty() {
        return Ok((current, Vec::new()));
    }
    let is_map = check_items(&current, patch)?;
    if !is_map {
        let mut merged: Vec<Value> = Vec::with_capacity(current.len() + patch.len());
        for item in current.iter().chain(patch) {
            if !merged.contains(item) {
                merged.push(item.clone());
            }
        }
        return Ok((merged, current));
    }
    let Some(key) = key else { return fails(format!("cannot merge lists without merge key for {field}")) };
    let current = delete_marked(current, patch, key)?;
    let order = current.iter().map(|item| key_only(item, key)).collect();
    let mut merged = current;
    for item in plain_items(patch) {
        let wanted = key_of(item, key)?;
        match merged.iter_mut().find(|item| item.get(key) == Some(wanted)) {
            Some(Value::Object(old)) => {
                let Value::Object(item) = item else { return fails("expected a map") };
                merge_object(old, item, item_type)?;
            }
            _ => merged.extend(without_directives(item)),
        }
    }
    Ok((merged, order))
}

/// All items are maps (true) or all are plain values of one kind.
fn check_items(current: &[Value], patch: &[Value]) -> Result<bool> {
    let mut kinds = current.iter().chain(patch).map(kind);
    let first = kinds.next().unwrap_or("nil");
    if first == "slice" {
        return fails("lists of lists are not supported");
    }
    if let Some(other) = kinds.find(|other| *other != first) {
        return fails(format!("list element types are not identical: {first} and {other}"));
    }
    Ok(first == "map")
}

/// Carries out the `$patch` directives among a list's items.
fn delete_marked(mut current: Vec<Value>, patch: &[Value], key: &str) -> Result<Vec<Value>> {
    let mut is_replaced = false;
    for item in patch {
        match item.get(PATCH).map(|directive| (directive, directive.as_str())) {
            None => (),
            Some((_, Some("delete"))) => {
                let doomed = key_of(item, key)?;
                current.retain(|item| item.get(key) != Some(doomed));
            }
            Some((_, Some("replace"))) => is_replaced = true,
            Some((_, Some("merge"))) => return fails("merging lists cannot yet be specified in the patch"),
            Some((directive, _)) => {
                return fails(unknown_directive(directive, item.as_object().unwrap_or(&Object::new())));
            }
        }
    }
    if is_replaced {
        current.clear();
    }
    Ok(current)
}

fn key_of<'a>(item: &'a Value, key: &str) -> Result<&'a Value> {
    item.get(key).map_or_else(|| fails(format!("map: {item} does not contain declared merge key: {key}")), Ok)
}

/// An item reduced to what orders it.
fn key_only(item: &Value, key: &str) -> Value {
    let value = item.get(key).cloned().unwrap_or_default();
    Value::Object(std::iter::once((key.to_owned(), value)).collect())
}

/// A list whose order the patch gives in `$setElementOrder/FIELD`, together with the patch of the list if any.
fn merge_ordered_list(
    object: &mut Object,
    field: &str,
    patch: Option<&Value>,
    order: &Value,
    type_name: Option<&str>,
) -> Result<()> {
    let fact = type_name.and_then(|type_name| merge_keys::of(type_name, field));
    let item_type = type_name.and_then(|type_name| merge_keys::type_of(type_name, field));
    let key = fact.and_then(|fact| fact.key);
    let list = |value: Option<&Value>| match value {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Array(items)) => Ok(Some(items.clone())),
        Some(other) => fails(format!("expected a slice, but received a {}", kind(other))),
    };
    let order = list(Some(order))?.unwrap_or_default();
    if patch.is_some_and(Value::is_null) {
        object.remove(field);
        return Ok(());
    }
    let (current, patch) = (list(object.get(field))?, list(patch)?);
    check_order(patch.as_deref().unwrap_or_default(), &order, key)?;
    let (merged, server_order) = match (current, patch) {
        (None, None) => return Ok(()),
        (Some(current), None) => (current.clone(), current),
        (None, Some(patch)) => (replaced(&patch), Vec::new()),
        (Some(current), Some(patch)) if fact.is_some_and(|fact| fact.strategy.merges_lists()) => {
            let (merged, _) = merge_items(current.clone(), &patch, key, item_type.as_deref(), field)?;
            (merged, current)
        }
        (Some(current), Some(patch)) => (replaced(&patch), current),
    };
    let order: Vec<_> = order.iter().collect();
    object.insert(field.into(), Value::Array(in_order(merged, &order, &server_order, key)));
    Ok(())
}

/// The items of the patch must stand in the given order, and all be in it.
fn check_order(patch: &[Value], order: &[Value], key: Option<&str>) -> Result<()> {
    if patch.is_empty() || order.is_empty() {
        return Ok(());
    }
    let mut places = order.iter();
    for item in plain_items(patch) {
        if let Some(key) = key {
            key_of(item, key)?;
        }
        if !places.any(|place| is_same(place, item, key)) {
            let list = |items: &[Value]| Value::Array(items.to_vec());
            let (patch, order) = (list(patch), list(order));
            return fails(format!(
                "The order in patch list:\n{patch}\n doesn't match $setElementOrder list:\n{order}\n"
            ));
        }
    }
    Ok(())
}

fn is_same(left: &Value, right: &Value, key: Option<&str>) -> bool {
    key.map_or_else(|| left == right, |key| left.get(key) == right.get(key))
}

/// Puts `merged` in order: what `wanted` names in that order, the rest as the server had it, interleaved so that
/// a server's item stands before the first wanted one that it stood before.
fn in_order(merged: Vec<Value>, wanted: &[&Value], server: &[Value], key: Option<&str>) -> Vec<Value> {
    let wanted_place = |item: &Value| wanted.iter().position(|other| is_same(other, item, key));
    let server_place = |item: &Value| server.iter().position(|other| is_same(other, item, key));
    let (mut ours, mut theirs): (Vec<_>, Vec<_>) =
        merged.into_iter().partition(|item| wanted_place(item).is_some());
    ours.sort_by_cached_key(wanted_place);
    theirs.sort_by_cached_key(|item| server_place(item).unwrap_or(usize::MAX));
    let mut ordered = Vec::with_capacity(ours.len() + theirs.len());
    let mut theirs = theirs.into_iter().peekable();
    for item in ours {
        if let Some(place) = server_place(&item) {
            while let Some(other) =
                theirs.next_if(|other| server_place(other).is_some_and(|other| other < place))
            {
                ordered.push(other);
            }
        }
        ordered.push(item);
    }
    ordered.extend(theirs);
    ordered
}

#[cfg(test)]
mod tests;
