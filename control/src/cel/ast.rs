//! Expressions as trees.

use super::Value;

/// An expression and where it is.
#[derive(Debug, Clone)]
pub struct Expr {
    /// Byte offset in the source to which errors point.
    pub at: usize,
    /// How many levels it has, which bounds every recursion over it.
    pub depth: usize,
    pub node: Node,
}

#[derive(Debug, Clone)]
pub enum Node {
    Literal(Value),
    Name(String),
    Select(Box<Expr>, String),
    /// `a.?b`
    OptionalSelect(Box<Expr>, String),
    /// `has(a.b)`
    Has(Box<Expr>, String),
    Index(Box<Expr>, Box<Expr>),
    /// `a[?b]`
    OptionalIndex(Box<Expr>, Box<Expr>),
    /// A function with its target, if it is called on one.
    Call(Option<Box<Expr>>, String, Vec<Expr>),
    Not(Box<Expr>),
    Negate(Box<Expr>),
    /// Sign and sides.
    Binary(&'static str, Box<Expr>, Box<Expr>),
    /// All of them, or any of them.
    And(Vec<Expr>),
    Or(Vec<Expr>),
    Choice(Box<[Expr; 3]>),
    /// Items; `true` for `?item`.
    List(Vec<(bool, Expr)>),
    Map(Vec<(bool, Expr, Expr)>),
    /// `Object.spec{ replicas: 1 }`: the type's name and its fields; `true` for `?field`.
    Message(String, Vec<(bool, String, Expr)>),
    Macro(Box<MacroCall>),
}

/// A macro over the items of `range`.
#[derive(Debug, Clone)]
pub struct MacroCall {
    pub kind: Macro,
    pub range: Expr,
    /// One variable for the item (of a map: its key), or two for index and item (key and value).
    pub variables: Vec<String>,
    pub filter: Option<Expr>,
    pub body: Expr,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Macro {
    All,
    Exists,
    ExistsOne,
    Filter,
    Map,
    TransformMap,
    SortBy,
    /// `cel.bind(name, range, body)`
    Bind,
    OptionalMap,
    OptionalFlatMap,
}

impl Expr {
    /// The expressions that it is made of.
    pub fn children(&self) -> Vec<&Self> {
        match &self.node {
            Node::Literal(_) | Node::Name(_) => Vec::new(),
            Node::Select(of, _)
            | Node::OptionalSelect(of, _)
            | Node::Has(of, _)
            | Node::Not(of)
            | Node::Negate(of) => vec![of],
            Node::Index(of, index) | Node::OptionalIndex(of, index) | Node::Binary(_, of, index) => {
                vec![of, index]
            }
            Node::Call(target, _, args) => target.iter().map(|target| &**target).chain(args).collect(),
            Node::And(parts) | Node::Or(parts) => parts.iter().collect(),
            Node::Choice(parts) => parts.iter().collect(),
            Node::List(items) => items.iter().map(|(_, item)| item).collect(),
            Node::Map(entries) => entries.iter().flat_map(|(_, key, value)| [key, value]).collect(),
            Node::Message(_, fields) => fields.iter().map(|(_, _, value)| value).collect(),
            Node::Macro(call) => [&call.range].into_iter().chain(&call.filter).chain([&call.body]).collect(),
        }
    }

    /// `a.b.c` of an expression that is nothing but names.
    pub fn path(&self) -> Option<String> {
        match &self.node {
            Node::Name(name) => Some(name.clone()),
            Node::Select(of, field) => Some(format!("{}.{field}", of.path()?)),
            _ => None,
        }
    }

    pub fn uses(&self, variable: &str) -> bool {
        matches!(&self.node, Node::Name(name) if name == variable)
            || self.children().into_iter().any(|child| child.uses(variable))
    }
}
