//! What server-side apply has to know of a type: which parts of it are merged, and by what.

use std::{
    borrow::Cow,
    collections::HashMap,
    sync::{Arc, LazyLock},
};

use serde_json::Value;

/// A type's place in its schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct TypeId(u32);

/// The type of an object and of everything in it.
#[derive(Debug, Clone)]
pub struct ObjectType {
    pub(super) schema: Arc<Schema>,
    pub(super) root: TypeId,
}

/// Types that refer to each other by their places.
#[derive(Debug, Default)]
pub(super) struct Schema {
    nodes: Vec<Node>,
    names: HashMap<Cow<'static, str>, TypeId>,
}

#[derive(Debug, Clone)]
pub(super) enum Node {
    Scalar(Scalar),
    Map(MapNode),
    List(ListNode),
    /// Anything, replaced as a whole.
    Atomic,
    /// Anything: maps merge, the rest is replaced.
    Deduced,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scalar {
    String,
    Numeric,
    Boolean,
    Any,
}

/// A struct, a map, or both.
#[derive(Debug, Clone, Default)]
pub(super) struct MapNode {
    /// Ordered by name.
    pub fields: Vec<Field>,
    /// The type of every other key's value; `None` where there may be no other key.
    pub element: Option<TypeId>,
    pub is_atomic: bool,
}

#[derive(Debug, Clone)]
pub(super) struct Field {
    pub name: Cow<'static, str>,
    pub kind: TypeId,
    /// What Go writes even when it is empty: its absence means an empty one.
    pub is_always_there: bool,
    /// What stands for a list key that an item does not give.
    default: Option<Value>,
}

#[derive(Debug, Clone)]
pub(super) struct ListNode {
    pub element: TypeId,
    pub kind: ListKind,
}

#[derive(Debug, Clone)]
pub(super) enum ListKind {
    Atomic,
    Set,
    /// Items are told apart by these fields.
    Keyed(Vec<Key>),
}

#[derive(Debug, Clone)]
pub(super) struct Key {
    pub name: Cow<'static, str>,
    pub default: Option<Value>,
}

static BUILTIN: LazyLock<Arc<Schema>> = LazyLock::new(|| Arc::new(Schema::parse(include_str!("types.txt"))));

const API: &str = "io.k8s.api.";
const META: &str = "io.k8s.apimachinery.pkg.apis.";

/// A type's name in the table.
fn table_name(type_name: &str) -> &str {
    type_name.strip_prefix(API).or_else(|| type_name.strip_prefix(META)).unwrap_or(type_name)
}

/// An OpenAPI extension that says how a field of a type is merged; of the type itself where `field` is "".
#[derive(Debug, Clone, PartialEq)]
pub struct Extension {
    pub field: &'static str,
    pub name: &'static str,
    pub value: Value,
}

/// What OpenAPI says of the built-in type with this name.
pub fn extensions(type_name: &str) -> Vec<Extension> {
    let Some(id) = BUILTIN.names.get(table_name(type_name)) else { return Vec::new() };
    let Node::Map(map) = BUILTIN.node(*id) else { return Vec::new() };
    let atomic_map = |field| Extension { field, name: "x-kubernetes-map-type", value: "atomic".into() };
    let mut found: Vec<_> = map.is_atomic.then(|| atomic_map("")).into_iter().collect();
    for field in &map.fields {
        let Cow::Borrowed(name) = field.name else { continue };
        let list_type =
            |kind: &str| Extension { field: name, name: "x-kubernetes-list-type", value: kind.into() };
        match BUILTIN.node(field.kind) {
            // What is a type of its own says it itself.
            Node::Map(map) if map.is_atomic && map.fields.is_empty() => found.push(atomic_map(name)),
            Node::List(list) => match &list.kind {
                ListKind::Atomic => found.push(list_type("atomic")),
                ListKind::Set => found.push(list_type("set")),
                ListKind::Keyed(keys) => {
                    let value = keys.iter().map(|key| Value::from(&*key.name)).collect();
                    found.push(Extension { field: name, name: "x-kubernetes-list-map-keys", value });
                    found.push(list_type("map"));
                }
            },
            _ => (),
        }
    }
    found
}

impl ObjectType {
    /// Whether both are one type, not only equal ones.
    pub fn is(&self, other: &Self) -> bool {
        self.root == other.root && Arc::ptr_eq(&self.schema, &other.schema)
    }

    /// The built-in type with this OpenAPI name, as [`crate::patch::merge_keys::type_name`] makes it. A type that is
    /// not known is treated as one without a schema.
    pub fn builtin(type_name: &str) -> Self {
        let schema = BUILTIN.clone();
        match schema.names.get(table_name(type_name)) {
            Some(root) => Self { root: *root, schema },
            None => Self::deduced(),
        }
    }

    /// An object without a schema: its maps merge, its lists are replaced.
    pub fn deduced() -> Self {
        let mut schema = Schema::default();
        let root = schema.add(Node::Deduced);
        Self { schema: Arc::new(schema), root }
    }

    pub(super) fn node(&self, id: TypeId) -> &Node {
        self.schema.node(id)
    }
}

impl MapNode {
    pub fn field(&self, name: &str) -> Option<&Field> {
        let at = self.fields.binary_search_by(|field| (*field.name).cmp(name)).ok()?;
        Some(&self.fields[at])
    }

    /// The type of the value of `name`.
    pub fn kind_of(&self, name: &str) -> Option<TypeId> {
        self.field(name).map(|field| field.kind).or(self.element)
    }
}

impl Field {
    pub fn new(name: impl Into<Cow<'static, str>>, kind: TypeId) -> Self {
        Self { name: name.into(), kind, is_always_there: false, default: None }
    }

    pub fn always_there(self) -> Self {
        Self { is_always_there: true, ..self }
    }

    pub fn with_default(self, default: Option<Value>) -> Self {
        Self { default, ..self }
    }
}

impl Schema {
    pub fn node(&self, id: TypeId) -> &Node {
        &self.nodes[id.0 as usize]
    }

    pub fn add(&mut self, node: Node) -> TypeId {
        self.nodes.push(node);
        TypeId(self.nodes.len() as u32 - 1)
    }

    /// Adds a list; what stands for missing keys is looked up in the element.
    pub fn add_list(&mut self, element: TypeId, keys: &[&str]) -> TypeId {
        let keys = keys.iter().map(|name| {
            let default = match self.node(element) {
                Node::Map(map) => map.field(name).and_then(|field| field.default.clone()),
                _ => None,
            };
            Key { name: Cow::Owned((*name).to_owned()), default }
        });
        let kind = ListKind::Keyed(keys.collect());
        self.add(Node::List(ListNode { element, kind }))
    }

    /// The type `name` of the built-in schema, copied with all that it is made of.
    pub fn import(&mut self, name: &'static str) -> TypeId {
        if let Some(id) = self.names.get(name) {
            return *id;
        }
        let id = self.add(Node::Deduced);
        self.names.insert(name.into(), id);
        let node = self.copy(BUILTIN.names[name]);
        self.nodes[id.0 as usize] = self.nodes[node.0 as usize].clone();
        id
    }

    /// Copies a type of the built-in schema that does not contain itself.
    fn copy(&mut self, id: TypeId) -> TypeId {
        let node = match BUILTIN.node(id) {
            Node::Map(map) => {
                let fields = map.fields.iter();
                let fields =
                    fields.map(|field| Field { kind: self.copy(field.kind), ..field.clone() }).collect();
                let element = map.element.map(|element| self.copy(element));
                Node::Map(MapNode { fields, element, is_atomic: map.is_atomic })
            }
            Node::List(list) => {
                Node::List(ListNode { element: self.copy(list.element), kind: list.kind.clone() })
            }
            plain => plain.clone(),
        };
        self.add(node)
    }

    /// Reads the table of types. `=NAME` begins a type (`!`: atomic), and each of its fields is a line: name, type,
    /// then `+` where an absent field means an empty one, or `=JSON` for the default of a list key.
    fn parse(text: &'static str) -> Self {
        let mut schema = Self::default();
        for line in text.lines().filter_map(|line| line.strip_prefix('=')) {
            let id = schema.add(Node::Deduced);
            schema.names.insert(line.trim_end_matches(" !").into(), id);
        }
        let mut later = Vec::new();
        let mut current = None;
        for line in text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
            if let Some(name) = line.strip_prefix('=') {
                let id = schema.names[name.trim_end_matches(" !")];
                let is_atomic = name.ends_with(" !");
                schema.nodes[id.0 as usize] = Node::Map(MapNode { is_atomic, ..MapNode::default() });
                current = Some(id);
                continue;
            }
            let mut words = line.splitn(3, ' ');
            let (name, code) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
            let kind = schema.parse_type(code, &mut later);
            let mut field = Field::new(name, kind);
            match words.next() {
                Some("+") => field.is_always_there = true,
                Some(default) => field.default = serde_json::from_str(default.trim_start_matches('=')).ok(),
                None => (),
            }
            if let Some(Node::Map(map)) = current.map(|id: TypeId| &mut schema.nodes[id.0 as usize]) {
                map.fields.push(field);
            }
        }
        for node in &mut schema.nodes {
            if let Node::Map(map) = node {
                map.fields.sort_unstable_by(|left, right| left.name.cmp(&right.name));
            }
        }
        for Later { place, of, what } in later {
            let made = match (what, schema.node(of).clone()) {
                (What::ListBy(keys), _) => schema.add_list(of, &keys),
                (What::Struct { is_atomic }, Node::Map(map)) => {
                    schema.add(Node::Map(MapNode { is_atomic, ..map }))
                }
                (What::Struct { .. }, other) => schema.add(other),
            };
            schema.nodes[place.0 as usize] = schema.node(made).clone();
        }
        schema
    }

    /// `s n b u`: scalars; `*`: atomic; `?`: deduced; `{T}`: map; `[T]`: atomic list; `=[T]`: set; `a,b[T]`: list by
    /// keys; `!{T}`, `!T`: as T, atomic; `~T`: as T, merged.
    fn parse_type(&mut self, code: &'static str, later: &mut Vec<Later>) -> TypeId {
        let node = match code {
            "s" => Node::Scalar(Scalar::String),
            "n" => Node::Scalar(Scalar::Numeric),
            "b" => Node::Scalar(Scalar::Boolean),
            "u" => Node::Scalar(Scalar::Any),
            "*" => Node::Atomic,
            "?" => Node::Deduced,
            _ => {
                let map =
                    code.trim_start_matches('!').strip_prefix('{').and_then(|rest| rest.strip_suffix('}'));
                let list = code.strip_suffix(']').and_then(|rest| rest.split_once('['));
                if let Some(element) = map {
                    let element = Some(self.parse_type(element, later));
                    Node::Map(MapNode { fields: Vec::new(), element, is_atomic: code.starts_with('!') })
                } else if let Some((keys, element)) = list {
                    let element = self.parse_type(element, later);
                    match keys {
                        "" => Node::List(ListNode { element, kind: ListKind::Atomic }),
                        "=" => Node::List(ListNode { element, kind: ListKind::Set }),
                        keys => return self.defer(element, What::ListBy(keys.split(',').collect()), later),
                    }
                } else if let Some(name) = code.strip_prefix(['!', '~']) {
                    let what = What::Struct { is_atomic: code.starts_with('!') };
                    return self.defer(self.names[name], what, later);
                } else {
                    return self.names[code];
                }
            }
        };
        self.add(node)
    }

    fn defer(&mut self, of: TypeId, what: What, later: &mut Vec<Later>) -> TypeId {
        let place = self.add(Node::Deduced);
        later.push(Later { place, of, what });
        place
    }
}

/// A type that is made when all the types that it is made of are known.
struct Later {
    place: TypeId,
    of: TypeId,
    what: What,
}

enum What {
    ListBy(Vec<&'static str>),
    /// Like another, but merged otherwise than that says itself.
    Struct {
        is_atomic: bool,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(of: &ObjectType, path: &[&str]) -> Node {
        let mut id = of.root;
        for name in path {
            id = match of.node(id) {
                Node::Map(map) => map.kind_of(name).unwrap_or_else(|| panic!("no field {name}")),
                Node::List(list) => list.element,
                other => panic!("{name} of {other:?}"),
            };
        }
        of.node(id).clone()
    }

    #[test]
    fn a_pod_is_known_down_to_its_ports() {
        let pod = ObjectType::builtin("io.k8s.api.core.v1.Pod");
        let Node::List(ports) = at(&pod, &["spec", "containers", "", "ports"]) else { panic!("a list") };
        let ListKind::Keyed(keys) = ports.kind else { panic!("a list by keys") };
        let keys: Vec<_> = keys.iter().map(|key| (&*key.name, key.default.clone())).collect();
        assert_eq!(keys, [("containerPort", Some(0.into())), ("protocol", Some("TCP".into()))]);
        let Node::Map(selector) = at(&pod, &["spec", "nodeSelector"]) else { panic!("a map") };
        assert!(selector.is_atomic);
        assert!(matches!(
            at(&pod, &["metadata", "finalizers"]),
            Node::List(ListNode { kind: ListKind::Set, .. })
        ));
        assert!(matches!(at(&pod, &["spec", "containers", "", "image"]), Node::Scalar(Scalar::String)));
    }

    #[test]
    fn a_reference_is_merged_where_its_field_says_so() {
        let volume = ObjectType::builtin("io.k8s.api.core.v1.PersistentVolume");
        let Node::Map(reference) = at(&volume, &["spec", "claimRef"]) else { panic!("a map") };
        assert!(!reference.is_atomic && reference.field("uid").is_some());
        let event = ObjectType::builtin("io.k8s.api.core.v1.Event");
        let Node::Map(reference) = at(&event, &["involvedObject"]) else { panic!("a map") };
        assert!(reference.is_atomic);
    }

    #[test]
    fn extensions_say_what_is_merged() {
        let of = |type_name: &str, field: &str| -> Vec<_> {
            let found = extensions(type_name).into_iter().filter(|extension| extension.field == field);
            found.map(|extension| (extension.name, extension.value)).collect()
        };
        assert_eq!(
            of("io.k8s.api.core.v1.ServiceSpec", "ports"),
            [
                ("x-kubernetes-list-map-keys", serde_json::json!(["port", "protocol"])),
                ("x-kubernetes-list-type", "map".into()),
            ]
        );
        assert_eq!(
            of("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta", "finalizers"),
            [("x-kubernetes-list-type", "set".into())]
        );
        let atomic = [("x-kubernetes-map-type", Value::from("atomic"))];
        assert_eq!(of("io.k8s.api.core.v1.PodSpec", "nodeSelector"), atomic);
        assert_eq!(of("io.k8s.api.core.v1.ObjectReference", ""), atomic);
    }

    #[test]
    fn every_stable_type_has_metadata_of_its_own() {
        for name in [
            "io.k8s.api.apps.v1.Deployment",
            "io.k8s.api.autoscaling.v2.HorizontalPodAutoscaler",
            "io.k8s.api.events.v1.Event",
            "io.k8s.api.rbac.v1.ClusterRole",
            "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinition",
            "io.k8s.kube-aggregator.pkg.apis.apiregistration.v1.APIService",
        ] {
            let labels = at(&ObjectType::builtin(name), &["metadata", "labels"]);
            assert!(matches!(labels, Node::Map(map) if map.element.is_some()), "{name}");
        }
    }
}
