//! Types before values: names that nobody declared, fields that an object does not have, functions that do not take
//! what they are given.

use super::{
    CompileError, ObjectType, Type, Value,
    ast::{Expr, Macro, MacroCall, Node},
    authorization::{AUTHORIZER, REQUEST_RESOURCE, RESOURCE_CHECK},
    functions, lexer,
    vocabulary::{JSON_PATCH, OBJECT},
};

/// The type of `root`, in which `variables` are known, and the types of patches if it `makes_patches`.
pub fn check(
    source: &str,
    root: &Expr,
    variables: &[(&str, Type)],
    makes_patches: bool,
) -> Result<Type, CompileError> {
    let scope = variables.iter().map(|(name, of)| ((*name).to_owned(), of.clone())).collect();
    Checker { source, makes_patches, scope }.type_of(root).map(Type::settled)
}

struct Checker<'a> {
    source: &'a str,
    makes_patches: bool,
    /// The innermost is last.
    scope: Vec<(String, Type)>,
}

type Typed = Result<Type, CompileError>;

impl Checker<'_> {
    fn error<T>(&self, at: usize, text: &str) -> Result<T, CompileError> {
        Err(lexer::error(self.source, at, text))
    }

    fn no_overload<T>(&self, at: usize, name: &str, types: &[Type]) -> Result<T, CompileError> {
        let types: Vec<String> = types.iter().map(ToString::to_string).collect();
        self.error(
            at,
            &format!("found no matching overload for '{name}' applied to '({})'", types.join(", ")),
        )
    }

    fn type_of(&mut self, expr: &Expr) -> Typed {
        match &expr.node {
            Node::Literal(value) => Ok(literal(value)),
            Node::Name(name) => self.name(expr.at, name),
            Node::Select(of, field) => {
                let of = self.type_of(of)?;
                self.field(expr.at, &of, field)
            }
            Node::OptionalSelect(of, field) => {
                let of = self.type_of(of)?;
                Ok(Type::optional(flat(self.field(expr.at, &of, field)?)))
            }
            Node::Has(of, field) => {
                let of = self.type_of(of)?;
                self.field(expr.at, &of, field)?;
                Ok(Type::Bool)
            }
            Node::Index(of, index) => self.index(expr.at, of, index),
            Node::OptionalIndex(of, index) => Ok(Type::optional(flat(self.index(expr.at, of, index)?))),
            Node::Call(target, name, args) => self.call(expr.at, target.as_deref(), name, args),
            Node::Not(of) => {
                let of_type = self.type_of(of)?;
                if of_type.fits(&Type::Bool) {
                    Ok(Type::Bool)
                } else {
                    self.no_overload(expr.at, "!_", &[of_type])
                }
            }
            Node::Negate(of) => match self.type_of(of)? {
                found @ (Type::Int | Type::Double | Type::Dyn) => Ok(found),
                other => self.no_overload(expr.at, "-_", &[other]),
            },
            Node::Binary(sign, left, right) => {
                let (left, right) = (self.type_of(left)?, self.type_of(right)?);
                match binary(sign, &left, &right) {
                    Some(result) => Ok(result),
                    None if *sign == "in" => self.no_overload(expr.at, "@in", &[left, right]),
                    None => self.no_overload(expr.at, &format!("_{sign}_"), &[left, right]),
                }
            }
            Node::And(parts) | Node::Or(parts) => {
                for part in parts {
                    let found = self.type_of(part)?;
                    if !found.fits(&Type::Bool) {
                        let text = format!("expected type 'bool' but found '{found}'");
                        return self.error(part.at, &text);
                    }
                }
                Ok(Type::Bool)
            }
            Node::Choice(parts) => self.choice(expr.at, parts),
            Node::List(items) => self.list(items),
            Node::Map(entries) => self.map(entries),
            Node::Message(name, fields) => self.message(expr.at, name, fields),
            Node::Macro(call) => self.macro_call(expr.at, call),
        }
    }

    fn name(&self, at: usize, name: &str) -> Typed {
        if let Some((_, found)) = self.scope.iter().rev().find(|(known, _)| known == name) {
            return Ok(found.clone());
        }
        if functions::TYPE_NAMES.contains(&name) {
            return Ok(Type::Type);
        }
        self.error(at, &format!("undeclared reference to '{name}' (in container '')"))
    }

    fn field(&self, at: usize, of: &Type, field: &str) -> Typed {
        match of {
            Type::Dyn | Type::Open | Type::Message(_) => Ok(Type::Dyn),
            Type::Special(AUTHORIZER) if field == REQUEST_RESOURCE => Ok(Type::Special(RESOURCE_CHECK)),
            Type::Map(_, value) => Ok((**value).clone().settled()),
            Type::Optional(inner) => Ok(Type::optional(flat(self.field(at, inner, field)?))),
            Type::Object(object) => match object.field(field) {
                Some(found) => Ok(found.clone()),
                None => self.error(at, &format!("undefined field '{field}'")),
            },
            other => self.error(at, &format!("type '{other}' does not support field selection")),
        }
    }

    fn index(&mut self, at: usize, of: &Expr, index: &Expr) -> Typed {
        let (of, index) = (self.type_of(of)?, self.type_of(index)?);
        let found = match &of {
            Type::Optional(inner) => indexed(inner, &index).map(|found| Type::optional(flat(found))),
            of => indexed(of, &index),
        };
        match found {
            Some(found) => Ok(found),
            None => self.no_overload(at, "_[_]", &[of, index]),
        }
    }

    fn call(&mut self, at: usize, target: Option<&Expr>, name: &str, args: &[Expr]) -> Typed {
        // `math.greatest(…)` and the like: the target is a library, unless it is a variable.
        if let Some(Node::Name(library)) = target.map(|target| &target.node)
            && functions::LIBRARIES.contains(&library.as_str())
            && !self.scope.iter().any(|(known, _)| known == library)
            && (self.makes_patches || library != "jsonpatch")
        {
            return self.call(at, None, &format!("{library}.{name}"), args);
        }
        let mut types = Vec::with_capacity(args.len() + 1);
        if let Some(target) = target {
            types.push(self.type_of(target)?);
        }
        for arg in args {
            types.push(self.type_of(arg)?);
        }
        match functions::result(name, target.is_some(), &types) {
            functions::Signature::Result(found) => Ok(found),
            functions::Signature::Mismatch if target.is_some() => {
                let shown: Vec<String> = types[1..].iter().map(ToString::to_string).collect();
                let text = format!(
                    "found no matching overload for '{name}' applied to '{}.({})'",
                    types[0],
                    shown.join(", ")
                );
                self.error(at, &text)
            }
            functions::Signature::Mismatch => self.no_overload(at, name, &types),
            functions::Signature::Unknown => {
                self.error(at, &format!("undeclared reference to '{name}' (in container '')"))
            }
        }
    }

    fn choice(&mut self, at: usize, [condition, yes, no]: &[Expr; 3]) -> Typed {
        let (condition, yes, no) = (self.type_of(condition)?, self.type_of(yes)?, self.type_of(no)?);
        if !condition.fits(&Type::Bool) || !yes.fits(&no) {
            return self.no_overload(at, "_?_:_", &[condition, yes, no]);
        }
        Ok(yes.join(no))
    }

    fn list(&mut self, items: &[(bool, Expr)]) -> Typed {
        let mut of: Option<Type> = None;
        for (is_optional, item) in items {
            let mut found = self.type_of(item)?;
            if let (true, Type::Optional(inner)) = (*is_optional, &found) {
                found = (**inner).clone();
            }
            of = Some(match of {
                None => found,
                Some(of) => of.join(found),
            });
        }
        Ok(Type::list(of.unwrap_or(Type::Open)))
    }

    fn map(&mut self, entries: &[(bool, Expr, Expr)]) -> Typed {
        let mut of: Option<(Type, Type)> = None;
        for (is_optional, key, value) in entries {
            let (key, mut value) = (self.type_of(key)?, self.type_of(value)?);
            if let (true, Type::Optional(inner)) = (*is_optional, &value) {
                value = (**inner).clone();
            }
            of = Some(match of {
                None => (key, value),
                Some((keys, values)) => (keys.join(key), values.join(value)),
            });
        }
        let (key, value) = of.unwrap_or((Type::Open, Type::Open));
        Ok(Type::map(key, value))
    }

    fn message(&mut self, at: usize, name: &str, fields: &[(bool, String, Expr)]) -> Typed {
        let is_known = name == JSON_PATCH || name == OBJECT || name.starts_with("Object.");
        if !self.makes_patches || !is_known {
            return self.error(at, &format!("undeclared reference to '{name}' (in container '')"));
        }
        for (is_optional, field, value) in fields {
            let mut found = self.type_of(value)?;
            if let (true, Type::Optional(inner)) = (*is_optional, &found) {
                found = (**inner).clone();
            }
            let wanted = match (name, field.as_str()) {
                (JSON_PATCH, "op" | "path" | "from") => Type::String,
                (JSON_PATCH, "value") => Type::Dyn,
                (JSON_PATCH, _) => return self.error(value.at, &format!("undefined field '{field}'")),
                _ => Type::Dyn,
            };
            if !found.fits(&wanted) {
                let text = format!(
                    "expected type of field '{field}' is '{wanted}' but provided type is '{}'",
                    found.settled()
                );
                return self.error(value.at, &text);
            }
        }
        Ok(Type::Message(name.into()))
    }

    fn macro_call(&mut self, at: usize, call: &MacroCall) -> Typed {
        let range = self.type_of(&call.range)?;
        let (first, second) = match (call.kind, &range) {
            (Macro::Bind, of) => (of.clone(), Type::Dyn),
            (Macro::OptionalMap | Macro::OptionalFlatMap, Type::Optional(inner)) => {
                ((**inner).clone(), Type::Dyn)
            }
            (_, Type::Dyn | Type::Open) => (Type::Dyn, Type::Dyn),
            (Macro::OptionalMap | Macro::OptionalFlatMap, _) => {
                return self.no_overload(at, "optMap", &[range]);
            }
            (_, Type::List(item)) if call.variables.len() == 1 => ((**item).clone().settled(), Type::Dyn),
            (_, Type::List(item)) => (Type::Int, (**item).clone().settled()),
            (_, Type::Map(key, value)) => ((**key).clone().settled(), (**value).clone().settled()),
            (_, Type::Object(_)) => (Type::String, Type::Dyn),
            (_, other) => {
                let text = format!(
                    "expression of type '{other}' cannot be range of a comprehension (must be list, map, or dynamic)"
                );
                return self.error(call.range.at, &text);
            }
        };
        let depth = self.scope.len();
        self.scope.extend(call.variables.iter().cloned().zip([first.clone(), second.clone()]));
        if let Some(filter) = &call.filter {
            let found = self.type_of(filter)?;
            if !found.fits(&Type::Bool) {
                return self.error(filter.at, &format!("expected type 'bool' but found '{found}'"));
            }
        }
        let body = self.type_of(&call.body)?;
        self.scope.truncate(depth);
        let is_test = matches!(call.kind, Macro::All | Macro::Exists | Macro::ExistsOne | Macro::Filter);
        if is_test && !body.fits(&Type::Bool) {
            return self.error(call.body.at, &format!("expected type 'bool' but found '{body}'"));
        }
        Ok(match call.kind {
            Macro::All | Macro::Exists | Macro::ExistsOne => Type::Bool,
            Macro::Filter => Type::list(first),
            Macro::SortBy => range,
            Macro::Map => Type::list(body),
            Macro::TransformMap => Type::map(first, body),
            Macro::Bind | Macro::OptionalFlatMap => body,
            Macro::OptionalMap => Type::optional(body),
        })
    }
}

impl ObjectType {
    /// A field by its name in an expression, where names that are none are written with escapes.
    pub fn field(&self, name: &str) -> Option<&Type> {
        self.fields.get(name).or_else(|| self.fields.get(&unescape(name)))
    }
}

/// `a__dot__b` as `a.b`, `__namespace__` as `namespace`.
pub fn unescape(name: &str) -> String {
    if let Some(word) = name.strip_prefix("__").and_then(|rest| rest.strip_suffix("__"))
        && !word.is_empty()
        && !word.contains("__")
        && !matches!(word, "underscores" | "dot" | "dash" | "slash")
    {
        return word.into();
    }
    name.replace("__underscores__", "\0")
        .replace("__dot__", ".")
        .replace("__dash__", "-")
        .replace("__slash__", "/")
        .replace('\0', "__")
}

/// An optional of an optional is one optional.
fn flat(of: Type) -> Type {
    match of {
        Type::Optional(inner) => *inner,
        other => other,
    }
}

fn literal(value: &Value) -> Type {
    match value {
        Value::Null => Type::Null,
        Value::Bool(_) => Type::Bool,
        Value::Int(_) => Type::Int,
        Value::Uint(_) => Type::Uint,
        Value::Double(_) => Type::Double,
        Value::Bytes(_) => Type::Bytes,
        Value::String(_) => Type::String,
        _ => Type::Dyn,
    }
}

fn indexed(of: &Type, index: &Type) -> Option<Type> {
    match of {
        Type::Dyn | Type::Open => Some(Type::Dyn),
        Type::List(item) if index.fits(&Type::Int) || index.fits(&Type::Uint) => {
            Some((**item).clone().settled())
        }
        Type::Map(key, value) if index.fits(key) || (index.is_number() && key.is_number()) => {
            Some((**value).clone().settled())
        }
        Type::Object(_) if index.fits(&Type::String) => Some(Type::Dyn),
        _ => None,
    }
}

fn binary(sign: &str, left: &Type, right: &Type) -> Option<Type> {
    // Where only one side is known it decides, unless several results are possible with it.
    let known_number = |of: &Type| (of.is_number() || *of == Type::Dyn).then(|| of.clone());
    match sign {
        "==" | "!=" => left.fits(right).then_some(Type::Bool),
        "<" | "<=" | ">" | ">=" => {
            let is_ordered = |of: &Type| {
                of.is_number()
                    || matches!(
                        of,
                        Type::Bool
                            | Type::String
                            | Type::Bytes
                            | Type::Timestamp
                            | Type::Duration
                            | Type::Dyn
                    )
            };
            let fits = left.fits(right) || (left.is_number() && right.is_number());
            (fits && is_ordered(left) && is_ordered(right)).then_some(Type::Bool)
        }
        "in" => match right {
            Type::Dyn => Some(Type::Bool),
            Type::List(item) => left.fits(item).then_some(Type::Bool),
            Type::Map(key, _) => left.fits(key).then_some(Type::Bool),
            Type::Object(_) => left.fits(&Type::String).then_some(Type::Bool),
            _ => None,
        },
        "+" => match (left, right) {
            (Type::Timestamp, Type::Dyn) | (Type::Dyn, Type::Timestamp) => Some(Type::Timestamp),
            (Type::Duration, Type::Dyn) | (Type::Dyn, Type::Duration) => Some(Type::Dyn),
            (Type::Dyn, other) | (other, Type::Dyn) => {
                let is_text = matches!(other, Type::String | Type::Bytes | Type::List(_) | Type::Dyn);
                (is_text || other.is_number()).then(|| other.clone())
            }
            (Type::Timestamp, Type::Duration) | (Type::Duration, Type::Timestamp) => Some(Type::Timestamp),
            (Type::Duration, Type::Duration) => Some(Type::Duration),
            (Type::List(one), Type::List(other)) if one.fits(other) => {
                Some(Type::list((**one).clone().join((**other).clone())))
            }
            (Type::String, Type::String) | (Type::Bytes, Type::Bytes) => Some(left.clone()),
            _ if left.is_number() && left == right => Some(left.clone()),
            _ => None,
        },
        "-" => match (left, right) {
            (Type::Timestamp, Type::Dyn) | (Type::Dyn, Type::Timestamp | Type::Duration) => Some(Type::Dyn),
            (Type::Duration, Type::Dyn) => Some(Type::Duration),
            (Type::Dyn, other) | (other, Type::Dyn) => known_number(other),
            (Type::Timestamp, Type::Duration) => Some(Type::Timestamp),
            (Type::Timestamp, Type::Timestamp) | (Type::Duration, Type::Duration) => Some(Type::Duration),
            _ if left.is_number() && left == right => Some(left.clone()),
            _ => None,
        },
        "%" if *left == Type::Double => None,
        _ if *left == Type::Dyn => known_number(right),
        _ if *right == Type::Dyn => known_number(left),
        _ if left.is_number() && left == right => Some(left.clone()),
        _ => None,
    }
}
