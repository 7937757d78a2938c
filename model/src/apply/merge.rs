//! An applied configuration merged into the live object: what it names wins, the rest stays.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value};

use super::{
    Element, ObjectType, Tree,
    compare::element_of,
    schema::{ListKind, ListNode, MapNode, Node, TypeId},
};

impl ObjectType {
    /// `live` with all that `config` says. `config` must have passed validation.
    pub(super) fn merge(&self, live: Value, config: &Value) -> Value {
        self.merge_at(self.root, Some(live), Some(config)).unwrap_or_else(|| Value::Object(Map::new()))
    }

    fn merge_at(&self, kind: TypeId, live: Option<Value>, config: Option<&Value>) -> Option<Value> {
        let Some(config) = config else { return live };
        let has_content = |value: Option<&Value>| match value {
            Some(Value::Object(map)) => !map.is_empty(),
            Some(Value::Array(items)) => !items.is_empty(),
            _ => false,
        };
        let is_leaf = !has_content(live.as_ref()) && !has_content(Some(config));
        let deduced = MapNode { element: Some(kind), ..MapNode::default() };
        match (self.node(kind), config) {
            _ if is_leaf => Some(config.clone()),
            (Node::Map(map), Value::Object(_) | Value::Null) if !map.is_atomic => {
                self.merge_maps(map, live, config)
            }
            (Node::Deduced, Value::Object(_)) => self.merge_maps(&deduced, live, config),
            (Node::List(list), Value::Array(_) | Value::Null) if !matches!(list.kind, ListKind::Atomic) => {
                let live = if let Some(Value::Array(items)) = live { items } else { Vec::new() };
                let merged = self.merge_lists(list, live, config.as_array().map_or(&[], Vec::as_slice));
                (!merged.is_empty()).then_some(Value::Array(merged))
            }
            _ => Some(config.clone()),
        }
    }

    fn merge_maps(&self, map: &MapNode, live: Option<Value>, config: &Value) -> Option<Value> {
        let mut live = if let Some(Value::Object(live)) = live { live } else { Map::new() };
        for (name, value) in config.as_object().into_iter().flatten() {
            let Some(kind) = map.kind_of(name) else { continue };
            if let Some(merged) = self.merge_at(kind, live.remove(name), Some(value)) {
                live.insert(name.clone(), merged);
            }
        }
        (!live.is_empty()).then_some(Value::Object(live))
    }

    /// Items of the configuration in its order, the others in between as they were: an item that only the live list
    /// has stays before the next one that both have.
    fn merge_lists(&self, list: &ListNode, live: Vec<Value>, config: &[Value]) -> Vec<Value> {
        let element = |item: &Value| element_of(list, &Tree::from(item)).ok();
        let ours: Vec<(Element, Option<Value>)> =
            live.into_iter().filter_map(|item| Some((element(&item)?, Some(item)))).collect();
        let theirs: Vec<(Element, &Value)> =
            config.iter().filter_map(|item| Some((element(item)?, item))).collect();
        let named: HashSet<&Element> = theirs.iter().map(|(element, _)| element).collect();
        let order: Vec<Element> = ours.iter().map(|(element, _)| element.clone()).collect();
        // What the live list has more than once cannot be merged into.
        let mut places: HashMap<&Element, Option<usize>> = HashMap::new();
        for (place, element) in order.iter().enumerate() {
            places.entry(element).and_modify(|known| *known = None).or_insert(Some(place));
        }
        let mut ours: Vec<Option<Value>> = ours.into_iter().map(|(_, item)| item).collect();
        let mut shared =
            theirs.iter().map(|(element, _)| element).filter(|element| places.contains_key(element));
        let mut next_shared = shared.next();
        let mut merged = Vec::with_capacity(ours.len().max(theirs.len()));
        let mut done: HashSet<&Element> = HashSet::new();
        let (mut left, mut right) = (0, 0);
        while left < order.len() || right < theirs.len() {
            if left < order.len() && right < theirs.len() && order[left] != theirs[right].0 {
                let element = &order[left];
                // An item of both, but not the one whose turn it is.
                if named.contains(element) && next_shared.is_some_and(|next| next != element) {
                    left += 1;
                    continue;
                }
            }
            if left < order.len() && (right >= theirs.len() || order[left] != theirs[right].0) {
                let element = &order[left];
                if !named.contains(element) {
                    merged.extend(ours[left].take());
                    left += 1;
                    continue;
                }
                if done.contains(element) {
                    left += 1;
                }
            }
            if let Some((element, item)) = theirs.get(right) {
                let live = places.get(element).copied().flatten().and_then(|place| ours[place].take());
                merged.extend(self.merge_at(list.element, live, Some(item)));
                done.insert(element);
                right += 1;
                if order.get(left) == Some(element) {
                    left += 1;
                }
                if next_shared == Some(element) {
                    next_shared = shared.next();
                }
            }
        }
        merged
    }
}
