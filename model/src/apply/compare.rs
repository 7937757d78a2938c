//! What differs between two objects, and which fields an object has.

use std::borrow::Cow;

use serde_json::Map;

use super::{
    Element, Fields, ObjectType, Tree,
    schema::{ListKind, ListNode, MapNode, Node, TypeId},
    tree::{EMPTY, NULL},
};

/// The fields that one object has and another has not, or has with another value.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Comparison {
    pub added: Fields,
    pub modified: Fields,
    pub removed: Fields,
}

impl Comparison {
    pub fn subtract_whole(&mut self, ignored: &Fields) {
        for fields in [&mut self.added, &mut self.modified, &mut self.removed] {
            fields.subtract_whole(ignored);
        }
    }

    fn put(&mut self, element: Element, below: Self) {
        let Self { added, modified, removed } = below;
        // Most of what is put is in one of them: then its name is not copied.
        if modified.is_empty() && removed.is_empty() {
            return self.added.put(element, added);
        }
        self.added.put_named(&element, added);
        self.modified.put_named(&element, modified);
        self.removed.put(element, removed);
    }

    fn is_empty(&self) -> bool {
        self.added.is_empty() && self.modified.is_empty() && self.removed.is_empty()
    }
}

type Side<'a> = Option<&'a Tree<'a>>;

impl ObjectType {
    /// What becomes of `old` in `new`.
    pub(super) fn compare(&self, old: &Tree<'_>, new: &Tree<'_>) -> Comparison {
        self.compare_at(self.root, Some(old), Some(new))
    }

    /// At least one side is there.
    fn compare_at(&self, kind: TypeId, old: Side<'_>, new: Side<'_>) -> Comparison {
        let mut found = Comparison::default();
        if old == new {
            return found;
        }
        let is_empty = |side: Side<'_>| side.is_none_or(|tree| !tree.has_content());
        let is_map = |side: Side<'_>| side.is_none_or(|tree| matches!(tree, Tree::Map(_) | Tree::Null));
        let deduced = MapNode { element: Some(kind), ..MapNode::default() };
        // Where both are empty, or of different types, they are leaves.
        let is_leaf = is_empty(old) && is_empty(new);
        match self.node(kind) {
            Node::Map(map) if !map.is_atomic && !is_leaf && is_map(old) && is_map(new) => {
                self.compare_maps(map, old, new, &mut found);
            }
            Node::Deduced if !is_leaf && is_map(old) && is_map(new) => {
                self.compare_maps(&deduced, old, new, &mut found);
            }
            Node::List(list) if !matches!(list.kind, ListKind::Atomic) && !is_leaf => {
                self.compare_lists(list, old, new, &mut found);
            }
            _ if old.is_some() && new.is_some() => found.modified.is_member = true,
            _ => (),
        }
        found.added.is_member |= old.is_none();
        found.removed.is_member |= new.is_none();
        found
    }

    fn compare_maps(&self, map: &MapNode, old: Side<'_>, new: Side<'_>, found: &mut Comparison) {
        let mut visit = |name: &str, mut before: Side<'_>, mut after: Side<'_>| {
            let field = map.field(name);
            let Some(kind) = field.map(|field| field.kind).or(map.element) else { return };
            if field.is_some_and(|field| field.is_always_there) {
                let nothing = if matches!(self.node(kind), Node::List(_)) { &NULL } else { &EMPTY };
                before = before.or(old.map(|_| nothing));
                after = after.or(new.map(|_| nothing));
            }
            if before.is_none() && after.is_none() {
                return;
            }
            let below = self.compare_at(kind, before, after);
            if !below.is_empty() {
                found.put(Element::field(name), below);
            }
        };
        let (mut left, mut right) = (members(old).iter().peekable(), members(new).iter().peekable());
        loop {
            let (before, after) = match (left.peek(), right.peek()) {
                (None, None) => break,
                (Some(before), Some(after)) if before.0 == after.0 => (left.next(), right.next()),
                (Some(before), Some(after)) if before.0 > after.0 => (None, right.next()),
                (None, Some(_)) => (None, right.next()),
                _ => (left.next(), None),
            };
            let name = before.or(after).map_or("", |(name, _)| name);
            visit(name, before.map(|(_, value)| value), after.map(|(_, value)| value));
        }
        // What is written even when it is empty comes and goes with the struct.
        if old.is_none() || new.is_none() {
            let present = old.or(new);
            for field in map.fields.iter().filter(|field| field.is_always_there) {
                if present.is_some_and(|present| present.get(&field.name).is_none()) {
                    visit(&field.name, None, None);
                }
            }
        }
    }

    fn compare_lists(&self, list: &ListNode, old: Side<'_>, new: Side<'_>, found: &mut Comparison) {
        let (before, after) = (items(list, old), items(list, new));
        let (mut left, mut right) = (before.as_slice(), after.as_slice());
        while let Some((element, _)) =
            [left.first(), right.first()].into_iter().flatten().min_by_key(|item| &item.0)
        {
            let count =
                |items: &[(Element, &Tree<'_>)]| items.iter().take_while(|item| item.0 == *element).count();
            let (some, more) = left.split_at(count(left));
            let (others, rest) = right.split_at(count(right));
            (left, right) = (more, rest);
            let one = |items: &[(Element, &'_ Tree<'_>)]| items.len() == 1;
            let mut below = Comparison::default();
            let is_repeated = (some.len() > 1, others.len() > 1);
            // What is there more than once is owned as a whole.
            match is_repeated {
                (false, false) => {
                    let (before, after) = (some.first(), others.first());
                    below =
                        self.compare_at(list.element, before.map(|item| item.1), after.map(|item| item.1));
                }
                (true, true) => below.modified.is_member = some != others,
                (true, false) => {
                    if one(others) {
                        below = self.compare_at(list.element, None, Some(others[0].1));
                    }
                    below.removed.is_member = true;
                }
                (false, true) => {
                    if one(some) {
                        below = self.compare_at(list.element, Some(some[0].1), None);
                    }
                    below.added.is_member = true;
                }
            }
            found.put(element.clone(), below);
        }
    }

    /// All the fields of an object.
    pub(super) fn fields_of(&self, object: &Tree<'_>) -> Fields {
        self.fields_at(self.root, object)
    }

    fn fields_at(&self, kind: TypeId, tree: &Tree<'_>) -> Fields {
        let mut found = Fields::default();
        let deduced = MapNode { element: Some(kind), ..MapNode::default() };
        match (self.node(kind), tree) {
            (Node::Map(map), Tree::Map(members)) if !map.is_atomic => {
                self.fields_of_map(map, members, &mut found);
            }
            (Node::Deduced, Tree::Map(members)) => self.fields_of_map(&deduced, members, &mut found),
            (Node::Map(map), Tree::Null) if !map.is_atomic => (),
            (Node::Deduced, Tree::Null) => (),
            (Node::List(list), _) if !matches!(list.kind, ListKind::Atomic) => {
                for group in items(list, Some(tree)).chunk_by(|left, right| left.0 == right.0) {
                    let mut below = match group {
                        [(_, item)] => self.fields_at(list.element, item),
                        _ => Fields::default(),
                    };
                    below.is_member = true;
                    found.put(group[0].0.clone(), below);
                }
            }
            _ => found.is_member = true,
        }
        found
    }

    fn fields_of_map(&self, map: &MapNode, members: &[(Cow<'_, str>, Tree<'_>)], found: &mut Fields) {
        for (name, value) in members {
            let Some(kind) = map.kind_of(name) else { continue };
            let mut below = self.fields_at(kind, value);
            let is_nothing =
                matches!(value, Tree::Null) || matches!(value, Tree::Map(members) if members.is_empty());
            below.is_member |= is_nothing || map.field(name).is_none();
            found.put(Element::field(name), below);
        }
    }
}

/// A list's items by what tells them apart, in that order; items that nothing tells apart are left out.
fn items<'a>(list: &ListNode, side: Side<'a>) -> Vec<(Element, &'a Tree<'a>)> {
    let Some(Tree::List(items)) = side else { return Vec::new() };
    let mut items: Vec<_> =
        items.iter().filter_map(|item| Some((element_of(list, item).ok()?, item))).collect();
    items.sort_by(|left, right| left.0.cmp(&right.0));
    items
}

fn members(side: Side<'_>) -> &[(Cow<'_, str>, Tree<'_>)] {
    match side {
        Some(Tree::Map(members)) => members,
        _ => &[],
    }
}

/// What tells `item` apart from the others of its list, or why nothing does.
pub(super) fn element_of(list: &ListNode, item: &Tree<'_>) -> Result<Element, String> {
    match &list.kind {
        ListKind::Atomic => Err("invalid indexing of non-associative list".into()),
        ListKind::Set => match item {
            Tree::Map(_) => Err("associative list without keys has an element that's a map type".into()),
            Tree::List(_) => Err("not supported: associative list with lists as elements".into()),
            Tree::Null => Err("associative list without keys has an element that's an explicit null".into()),
            scalar => Ok(Element::value(&scalar.to_value())),
        },
        ListKind::Keyed(keys) => {
            match item {
                Tree::Null => return Err("associative list with keys may not have a null element".into()),
                Tree::Map(_) => (),
                _ => return Err("associative list with keys may not have non-map elements".into()),
            }
            let values = keys.iter().filter_map(|key| {
                let value = item.get(&key.name).map(Tree::to_value).or_else(|| key.default.clone())?;
                Some((key.name.clone().into_owned(), value))
            });
            let values: Map<_, _> = values.collect();
            if values.is_empty() {
                let names: Vec<_> = keys.iter().map(|key| format!("{:?}", key.name)).collect();
                return Err(format!(
                    "associative list with keys has an element that omits all key fields [{}] (and doesn't have \
                     default values for any key fields)",
                    names.join(" ")
                ));
            }
            Ok(Element::key(values))
        }
    }
}
