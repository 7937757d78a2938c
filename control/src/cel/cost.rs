//! What an expression may cost at most, told before it is ever evaluated, from how large its variables may be.
//!
//! The formulas are those of cel-go's cost estimation with Kubernetes' functions, as they decide which rules a cluster
//! accepts. Where those know no size at all and assume the worst, this assumes the largest request instead.

use std::collections::{BTreeMap, HashMap};

use super::{
    Value,
    ast::{Expr, Macro, MacroCall, Node},
    check::unescape,
    functions,
};

/// What one request may hold, in bytes.
pub const MAX_REQUEST_BYTES: u64 = 3 << 20;
/// What looking at one character costs.
const TRAVERSAL: f64 = 0.1;
/// What one character of a regular expression costs for each step through the text.
const PATTERN: f64 = 0.25;
const LIST_COST: u64 = 10;
const MAP_COST: u64 = 30;
const MESSAGE_COST: u64 = 40;
const CHECK_COST: u64 = 350_000;

/// How large a value may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Extent {
    Unknown,
    /// A number, a time, …, of which this much is looked at when two are compared.
    Scalar(u64),
    /// Characters.
    Text(u64),
    List(u64, Box<Self>),
    /// Entries; what the values are.
    Map(u64, Box<Self>),
    Fields(BTreeMap<String, Self>),
}

impl Extent {
    fn size(&self) -> u64 {
        match self {
            Self::Unknown => MAX_REQUEST_BYTES,
            Self::Scalar(size) | Self::Text(size) | Self::List(size, _) | Self::Map(size, _) => *size,
            Self::Fields(_) => 0,
        }
    }

    fn item(&self) -> Self {
        match self {
            Self::List(_, item) | Self::Map(_, item) => (**item).clone(),
            _ => Self::Unknown,
        }
    }

    fn field(&self, name: &str) -> Self {
        match self {
            Self::Fields(fields) => {
                fields.get(name).or_else(|| fields.get(&unescape(name))).cloned().unwrap_or(Self::Unknown)
            }
            Self::Map(_, value) => (**value).clone(),
            _ => Self::Unknown,
        }
    }

    /// As large as either may be.
    fn or(self, other: Self) -> Self {
        match (self, other) {
            (Self::Scalar(one), Self::Scalar(other)) => Self::Scalar(one.max(other)),
            (Self::Text(one), Self::Text(other)) => Self::Text(one.max(other)),
            (Self::List(one, item), Self::List(other, other_item)) => {
                Self::List(one.max(other), Box::new(item.or(*other_item)))
            }
            (Self::Map(one, value), Self::Map(other, other_value)) => {
                Self::Map(one.max(other), Box::new(value.or(*other_value)))
            }
            (one, other) if one == other => one,
            _ => Self::Unknown,
        }
    }
}

/// The most that `root` may cost where `variables` are so large.
pub(super) fn estimate(root: &Expr, variables: &[(&str, Extent)]) -> u64 {
    let scope = variables.iter().map(|(name, extent)| ((*name).to_owned(), vec![extent.clone()])).collect();
    Estimator { scope }.cost(root).0
}

struct Estimator {
    /// By name; the innermost is last.
    scope: HashMap<String, Vec<Extent>>,
}

/// What an expression costs, and how large its result is.
type Costed = (u64, Extent);

fn traversed(size: u64, factor: f64) -> u64 {
    (size as f64 * factor).ceil() as u64
}

fn sum(costs: impl IntoIterator<Item = u64>) -> u64 {
    costs.into_iter().fold(0, u64::saturating_add)
}

impl Estimator {
    fn cost(&mut self, expr: &Expr) -> Costed {
        match &expr.node {
            Node::Literal(value) => (0, literal(value)),
            Node::Name(name) => {
                let known = self.scope.get(name).and_then(|stack| stack.last());
                (1, known.cloned().unwrap_or(Extent::Scalar(1)))
            }
            Node::Select(of, field) | Node::OptionalSelect(of, field) => {
                let (cost, of) = self.cost(of);
                (cost.saturating_add(1), of.field(field))
            }
            Node::Has(of, _) => (self.cost(of).0, Extent::Scalar(1)),
            Node::Index(of, index) | Node::OptionalIndex(of, index) => {
                let ((cost, of), (index, _)) = (self.cost(of), self.cost(index));
                (sum([cost, index, 1]), of.item())
            }
            Node::Not(of) | Node::Negate(of) => (self.cost(of).0.saturating_add(1), Extent::Scalar(1)),
            Node::Binary(sign, left, right) => {
                let (left, right) = (self.cost(left), self.cost(right));
                binary(sign, left, right)
            }
            Node::And(parts) | Node::Or(parts) => {
                (sum(parts.iter().map(|part| self.cost(part).0)), Extent::Scalar(1))
            }
            Node::Choice(parts) => {
                let [(condition, _), (yes, one), (no, other)] = [0, 1, 2].map(|at| self.cost(&parts[at]));
                (condition.saturating_add(yes.max(no)), one.or(other))
            }
            Node::List(items) => {
                let mut cost = LIST_COST;
                let mut extent: Option<Extent> = None;
                for (_, item) in items {
                    let (own, of) = self.cost(item);
                    cost = cost.saturating_add(own);
                    extent = Some(extent.map_or(of.clone(), |known| known.or(of)));
                }
                let item = extent.unwrap_or(Extent::Scalar(0));
                (cost, Extent::List(items.len() as u64, Box::new(item)))
            }
            Node::Map(entries) => {
                let mut cost = MAP_COST;
                let mut extent: Option<Extent> = None;
                for (_, key, value) in entries {
                    let (own, of) = self.cost(value);
                    cost = sum([cost, own, self.cost(key).0]);
                    extent = Some(extent.map_or(of.clone(), |known| known.or(of)));
                }
                let value = extent.unwrap_or(Extent::Scalar(0));
                (cost, Extent::Map(entries.len() as u64, Box::new(value)))
            }
            Node::Message(_, fields) => {
                let values = sum(fields.iter().map(|(_, _, value)| self.cost(value).0));
                (values.saturating_add(MESSAGE_COST), Extent::Unknown)
            }
            Node::Call(target, name, args) => self.call(target.as_deref(), name, args),
            Node::Macro(call) => self.macro_call(call),
        }
    }

    fn call(&mut self, target: Option<&Expr>, name: &str, args: &[Expr]) -> Costed {
        if let Some(Node::Name(library)) = target.map(|target| &target.node)
            && functions::LIBRARIES.contains(&library.as_str())
            && !self.scope.contains_key(library)
        {
            return self.call(None, &format!("{library}.{name}"), args);
        }
        let costed: Vec<Costed> = target.into_iter().chain(args).map(|arg| self.cost(arg)).collect();
        let paid = sum(costed.iter().map(|(cost, _)| *cost));
        let extents: Vec<Extent> = costed.into_iter().map(|(_, extent)| extent).collect();
        let (own, extent) = function(name, &extents);
        (paid.saturating_add(own), extent)
    }

    /// The cost of `body` with the macro's variables.
    fn body(&mut self, names: &[String], extents: &[Extent], body: &Expr) -> Costed {
        for (name, extent) in names.iter().zip(extents) {
            self.scope.entry(name.clone()).or_default().push(extent.clone());
        }
        let costed = self.cost(body);
        for name in names.iter().take(extents.len()) {
            if let Some(stack) = self.scope.get_mut(name) {
                stack.pop();
                if stack.is_empty() {
                    self.scope.remove(name);
                }
            }
        }
        costed
    }

    fn macro_call(&mut self, call: &MacroCall) -> Costed {
        let (range_cost, range) = self.cost(&call.range);
        if matches!(call.kind, Macro::Bind | Macro::OptionalMap | Macro::OptionalFlatMap) {
            let (body, extent) = self.body(&call.variables, std::slice::from_ref(&range), &call.body);
            return (sum([LIST_COST, range_cost, body]), extent);
        }
        // A map is walked by its keys, of which no size is known; the estimate takes them for small, as cel-go's does.
        let is_map = matches!(range, Extent::Map(..) | Extent::Fields(_));
        let key = if is_map { Extent::Text(0) } else { Extent::Scalar(1) };
        let variables = match (call.variables.len(), is_map) {
            (1, true) => vec![key.clone()],
            (1, false) => vec![range.item()],
            _ => vec![key.clone(), range.item()],
        };
        let (body, made) = self.body(&call.variables, &variables, &call.body);
        let filter =
            call.filter.as_ref().map_or(0, |filter| self.body(&call.variables, &variables, filter).0);
        // What the loop that the macro stands for costs: before it, each time around, and after it.
        let (before, around, after) = match call.kind {
            Macro::All => (0, 3, 1),
            Macro::Exists => (0, 4, 1),
            Macro::ExistsOne => (0, 2, 2),
            Macro::Filter => (LIST_COST, 13, 1),
            Macro::TransformMap => (MAP_COST, 3, 1),
            _ => (LIST_COST, 12, 1),
        };
        let each = sum([around, body, filter]);
        let cost = sum([range_cost, before, after, range.size().saturating_mul(each)]);
        let extent = match call.kind {
            Macro::All | Macro::Exists | Macro::ExistsOne => Extent::Scalar(1),
            Macro::Filter if is_map => Extent::List(range.size(), Box::new(key)),
            Macro::Filter => Extent::List(range.size(), Box::new(range.item())),
            Macro::SortBy => range,
            Macro::TransformMap => Extent::Map(range.size(), Box::new(made)),
            _ => Extent::List(range.size(), Box::new(made)),
        };
        (cost, extent)
    }
}

fn literal(value: &Value) -> Extent {
    match value {
        Value::String(text) => Extent::Text(text.chars().count() as u64),
        Value::Bytes(bytes) => Extent::Text(bytes.len() as u64),
        _ => Extent::Scalar(1),
    }
}

fn binary(sign: &str, (left_cost, left): Costed, (right_cost, right): Costed) -> Costed {
    let (one, other) = (left.size(), right.size());
    let compared = traversed(one.min(other), TRAVERSAL);
    let (own, extent) = match (sign, &left, &right) {
        ("==" | "!=", ..) => (compared, Extent::Scalar(1)),
        ("<" | "<=" | ">" | ">=", Extent::Scalar(_), _) | ("<" | "<=" | ">" | ">=", _, Extent::Scalar(_)) => {
            (1, Extent::Scalar(1))
        }
        ("<" | "<=" | ">" | ">=", ..) => (compared, Extent::Scalar(1)),
        ("in", _, Extent::List(size, _)) => (*size, Extent::Scalar(1)),
        ("+", Extent::List(_, item), Extent::List(_, other_item)) => {
            let item = (**item).clone().or((**other_item).clone());
            (1, Extent::List(one.saturating_add(other), Box::new(item)))
        }
        ("+", Extent::Text(_), _) | ("+", _, Extent::Text(_)) => {
            let size = one.saturating_add(other);
            (traversed(size, TRAVERSAL), Extent::Text(size))
        }
        _ => (1, Extent::Scalar(1)),
    };
    (sum([left_cost, right_cost, own]), extent)
}

/// What a function costs beside its arguments, of which a target is the first, and how large its result is.
fn function(name: &str, args: &[Extent]) -> Costed {
    let size = |at: usize| args.get(at).map_or(1, Extent::size);
    let walk = |factor: f64| traversed(size(0), factor);
    let text = |size: u64| Extent::Text(size);
    let nothing = Extent::Scalar(1);
    match name {
        "check" => (CHECK_COST, nothing),
        "startsWith" | "endsWith" => (traversed(size(1), TRAVERSAL), nothing),
        "contains" => (walk(TRAVERSAL).saturating_mul(traversed(size(1), TRAVERSAL)), nothing),
        "matches" | "find" | "findAll" => {
            let steps = traversed(size(0).saturating_add(1), TRAVERSAL);
            let cost = steps.saturating_mul(traversed(size(1), PATTERN));
            let extent = match name {
                "matches" => nothing,
                "find" => text(size(0)),
                _ => Extent::List(size(0), Box::new(text(size(0)))),
            };
            (cost, extent)
        }
        "lowerAscii" | "upperAscii" | "substring" | "trim" | "reverse" => {
            (walk(TRAVERSAL), args.first().cloned().unwrap_or(Extent::Unknown))
        }
        "replace" => {
            let result = size(0).saturating_add(size(0).saturating_add(1).saturating_mul(size(2)));
            (walk(2.0 * TRAVERSAL), text(result.min(MAX_REQUEST_BYTES)))
        }
        "split" => (walk(2.0 * TRAVERSAL), Extent::List(size(0), Box::new(text(size(0))))),
        "join" => {
            let items = size(0).saturating_mul(args.first().map_or(0, |of| of.item().size()));
            let between = size(0).saturating_sub(1).saturating_mul(args.get(1).map_or(0, Extent::size));
            let size = items.saturating_add(between);
            (traversed(size, TRAVERSAL), text(size))
        }
        "isSorted" | "sum" | "min" | "max" | "indexOf" | "lastIndexOf" | "distinct" | "sort" => {
            let (cost, item) = match args.first() {
                Some(Extent::List(size, item)) => {
                    let each = match &**item {
                        Extent::Text(length) => traversed(*length, TRAVERSAL).saturating_add(1),
                        _ => 1,
                    };
                    (size.saturating_mul(each), (**item).clone())
                }
                _ => (walk(TRAVERSAL), Extent::Scalar(1)),
            };
            match name {
                "distinct" | "sort" => (cost, args.first().cloned().unwrap_or(Extent::Unknown)),
                "min" | "max" => (cost, item),
                _ => (cost, nothing),
            }
        }
        "sets.contains" | "sets.intersects" => (size(0).saturating_mul(size(1)).saturating_add(1), nothing),
        "sets.equivalent" => (size(0).saturating_mul(size(1)).saturating_mul(2).saturating_add(1), nothing),
        "bytes" => (walk(TRAVERSAL), text(size(0).saturating_mul(4))),
        "string" | "strings.quote" => {
            (walk(TRAVERSAL).max(1), text(size(0).saturating_mul(2).saturating_add(2)))
        }
        "format" => (walk(TRAVERSAL), text(size(0).saturating_add(size(1)).min(MAX_REQUEST_BYTES))),
        "url" | "isURL" | "ip" | "isIP" | "cidr" | "isCIDR" | "quantity" | "isQuantity" | "semver"
        | "isSemver" | "validate" => (walk(TRAVERSAL), nothing),
        "ip.isCanonical" => (walk(2.0 * TRAVERSAL), nothing),
        "orValue" | "or" => (1, args.iter().cloned().reduce(Extent::or).unwrap_or(Extent::Unknown)),
        "optional.of" | "optional.ofNonZeroValue" | "value" | "dyn" | "flatten" | "slice" => {
            (1, args.first().cloned().unwrap_or(Extent::Unknown))
        }
        "first" | "last" => (1, args.first().map_or(Extent::Unknown, Extent::item)),
        _ => (1, nothing),
    }
}

#[cfg(test)]
mod tests {
    use super::{super::parser, *};

    fn costs(source: &str) -> u64 {
        let names = Extent::List(100, Box::new(Extent::Text(40)));
        let fields = [
            ("name".to_owned(), Extent::Text(1000)),
            ("count".to_owned(), Extent::Scalar(0)),
            ("names".to_owned(), names),
            ("labels".to_owned(), Extent::Map(50, Box::new(Extent::Text(20)))),
        ];
        let variables = [("self", Extent::Fields(fields.into()))];
        estimate(&parser::parse(source).expect("it parses"), &variables)
    }

    /// The figures are worked out by hand from cel-go's rules.
    #[test]
    fn costs_are_those_of_kubernetes() {
        for (source, expected) in [
            ("true", 0),
            ("self.count > 1", 3),
            ("self.count == 1", 2),
            ("self.name == 'abc'", 3),
            ("self.name + 'abc' == ''", 103),
            ("self.name.startsWith('abc')", 3),
            ("self.name.contains('abc')", 102),
            // Each character, for each step of the pattern.
            ("self.name.matches('^a+$')", 2 + 101),
            ("'a' in self.names", 102),
            ("self.names.all(n, n == 'a')", 2 + 1 + 100 * (3 + 2)),
            ("self.names.exists(n, n.startsWith('a'))", 2 + 1 + 100 * (4 + 2)),
            ("self.names.map(n, n + 'x').size() == 3", 2 + 10 + 1 + 100 * (12 + 1 + 5) + 1 + 1),
            ("self.names.all(a, self.names.all(b, a != b))", 2 + 1 + 100 * (3 + 2 + 1 + 100 * (3 + 6))),
            ("self.labels.all(k, self.labels[k] != '')", 2 + 1 + 50 * (3 + 4)),
            ("has(self.name) ? self.names.size() > 1 : false", 1 + 4),
            ("[1, 2, 3].sum() == 6", 10 + 3 + 1),
        ] {
            assert_eq!(costs(source), expected, "{source}");
        }
    }
}
