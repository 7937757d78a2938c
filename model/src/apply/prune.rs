//! What an applier named last time and names no longer is removed, unless somebody else owns it.

use serde_json::{Map, Value};

use super::{
    Element, Fields, ObjectType, Tree,
    compare::element_of,
    schema::{ListKind, MapNode, Node, TypeId},
};

impl ObjectType {
    /// `merged` without what was in `last` and is owned by nobody now; `owned` is what all managers own, the new
    /// configuration of the applier included.
    pub(super) fn prune(&self, merged: Value, last: &Fields, owned: &Fields) -> Value {
        let named = |fields: &Fields| self.with_named_fields(self.root, fields);
        let last = named(last);
        let pruned = self.without(merged.clone(), &last);
        // Back comes what somebody owns,
        let all = named(&self.fields_of(&Tree::from(&merged)));
        let mut gone = all.clone();
        gone.subtract(&named(&self.fields_of(&Tree::from(&pruned))));
        gone.subtract(&named(owned));
        let pruned = self.without(merged.clone(), &gone);
        // and what the applier never owned.
        let mut gone = all;
        gone.subtract(&named(&self.fields_of(&Tree::from(&pruned))));
        self.without(merged, &gone.intersection(&last))
    }

    fn without(&self, object: Value, gone: &Fields) -> Value {
        self.remove_at(self.root, object, gone).unwrap_or_else(|| Value::Object(Map::new()))
    }

    /// `None` where nothing is left.
    fn remove_at(&self, kind: TypeId, value: Value, gone: &Fields) -> Option<Value> {
        let deduced = MapNode { element: Some(kind), ..MapNode::default() };
        match (self.node(kind), value) {
            (Node::Map(map), Value::Object(object)) if !map.is_atomic => {
                self.remove_from_map(map, object, gone)
            }
            (Node::Deduced, Value::Object(object)) => self.remove_from_map(&deduced, object, gone),
            (Node::List(list), Value::Array(items)) if !matches!(list.kind, ListKind::Atomic) => {
                let mut left = Vec::with_capacity(items.len());
                for item in items {
                    let element = element_of(list, &Tree::from(&item)).ok();
                    match element.and_then(|element| gone.below.get(&element)) {
                        Some(gone) if gone.is_member => (),
                        Some(gone) => left.extend(self.remove_at(list.element, item, gone)),
                        None => left.push(item),
                    }
                }
                (!left.is_empty()).then_some(Value::Array(left))
            }
            (Node::Scalar(_), value) => Some(value),
            (Node::Deduced, value) if !value.is_array() => Some(value),
            // Something in what is replaced as a whole goes: all of it does.
            _ => None,
        }
    }

    fn remove_from_map(&self, map: &MapNode, object: Map<String, Value>, gone: &Fields) -> Option<Value> {
        let mut left = Map::new();
        for (name, value) in object {
            match (gone.below.get(&Element::field(&name)), map.kind_of(&name)) {
                (Some(gone), _) if gone.is_member => (),
                (Some(gone), Some(kind)) => {
                    if let Some(value) = self.remove_at(kind, value, gone) {
                        left.insert(name, value);
                    }
                }
                _ => drop(left.insert(name, value)),
            }
        }
        (!left.is_empty()).then_some(Value::Object(left))
    }

    /// The set with each struct's field in it that has something below it in the set.
    fn with_named_fields(&self, kind: TypeId, fields: &Fields) -> Fields {
        let mut all = Fields { is_member: fields.is_member, ..Fields::default() };
        for (element, below) in &fields.below {
            let (kind, is_named) = match (self.node(kind), element.name()) {
                (Node::Map(map), Some(name)) => (map.kind_of(name), map.field(name).is_some()),
                (Node::Deduced, Some(_)) => (Some(kind), false),
                (Node::List(list), None) if element.is_key() => (Some(list.element), false),
                _ => (None, false),
            };
            let mut below = kind.map_or_else(|| below.clone(), |kind| self.with_named_fields(kind, below));
            below.is_member |= is_named && !below.below.is_empty();
            all.below.insert(element.clone(), below);
        }
        all
    }
}
