//! Evaluation within a budget.

use std::sync::Arc;

use super::{
    EvalError, Value,
    ast::{Expr, Node},
    check::unescape,
    failed, functions, macros, operators,
    value::Key,
    vocabulary::{Message, Special},
};

/// What evaluating may cost, in steps. A step is about what looking at ten bytes takes.
#[derive(Debug)]
pub struct Budget {
    left: u64,
    /// What was spent on others' behalf: on variables, which have limits of their own.
    spent_outside: u64,
}

impl Budget {
    pub fn new(steps: u64) -> Self {
        Self { left: steps, spent_outside: 0 }
    }

    /// Notes steps that count for whoever pays for the whole evaluation, but not against its own limit.
    pub fn spend_outside(&mut self, steps: u64) {
        self.spent_outside = self.spent_outside.saturating_add(steps);
    }

    pub(super) fn spent_outside(&self) -> u64 {
        self.spent_outside
    }

    pub fn left(&self) -> u64 {
        self.left
    }

    /// Takes `steps`, or refuses.
    pub fn charge(&mut self, steps: u64) -> Result<(), EvalError> {
        match self.left.checked_sub(steps) {
            Some(left) => {
                self.left = left;
                Ok(())
            }
            None => {
                self.left = 0;
                Err(EvalError::TooExpensive)
            }
        }
    }
}

pub type Evaluated = Result<Value, EvalError>;

/// One evaluation of one expression.
pub struct Evaluation<'a> {
    /// The innermost is last.
    scope: Vec<(String, Value)>,
    pub budget: &'a mut Budget,
}

impl<'a> Evaluation<'a> {
    pub fn new(scope: Vec<(String, Value)>, budget: &'a mut Budget) -> Self {
        Self { scope, budget }
    }

    /// With more variables, for the body of a macro.
    pub fn within(
        &mut self,
        names: &[String],
        values: impl IntoIterator<Item = Value>,
        body: &Expr,
    ) -> Evaluated {
        let depth = self.scope.len();
        self.scope.extend(names.iter().cloned().zip(values));
        let result = self.run(body);
        self.scope.truncate(depth);
        result
    }

    pub fn run(&mut self, expr: &Expr) -> Evaluated {
        self.budget.charge(1)?;
        match &expr.node {
            Node::Literal(value) => Ok(value.clone()),
            Node::Name(name) => self.name(name),
            Node::Select(of, field) => {
                let of = self.run(of)?;
                select(&of, field, self.budget)
            }
            Node::OptionalSelect(of, field) => {
                let of = self.run(of)?;
                optional_entry(of, &Key::text(field))
            }
            Node::Has(of, field) => {
                let of = self.run(of)?;
                has(&of, field)
            }
            Node::Index(of, index) => {
                let (of, index) = (self.run(of)?, self.run(index)?);
                operators::index(&of, &index)
            }
            Node::OptionalIndex(of, index) => {
                let (of, index) = (self.run(of)?, self.run(index)?);
                optional_index(of, &index)
            }
            Node::Call(target, name, args) => self.call(target.as_deref(), name, args),
            Node::Not(of) => match self.run(of)? {
                Value::Bool(flag) => Ok(Value::Bool(!flag)),
                _ => failed("no such overload"),
            },
            Node::Negate(of) => {
                let of = self.run(of)?;
                operators::negate(&of)
            }
            Node::Binary(sign, left, right) => {
                let (left, right) = (self.run(left)?, self.run(right)?);
                operators::binary(sign, &left, &right, self.budget)
            }
            Node::And(parts) => self.logic(parts, false),
            Node::Or(parts) => self.logic(parts, true),
            Node::Choice(parts) => match self.run(&parts[0])? {
                Value::Bool(true) => self.run(&parts[1]),
                Value::Bool(false) => self.run(&parts[2]),
                _ => failed("no such overload"),
            },
            Node::List(items) => self.list(items),
            Node::Map(entries) => self.map(entries),
            Node::Message(name, fields) => self.message(name, fields),
            Node::Macro(call) => macros::run(self, call),
        }
    }

    fn name(&self, name: &str) -> Evaluated {
        match self.scope.iter().rev().find(|(known, _)| known == name) {
            Some((_, value)) => Ok(value.clone()),
            None => match functions::TYPE_NAMES.iter().find(|known| **known == name) {
                Some(name) => Ok(Value::Type(name)),
                None => failed(format!("no such attribute(s): {name}")),
            },
        }
    }

    /// A part that decides ends it; a part that fails matters only if no other decides.
    fn logic(&mut self, parts: &[Expr], deciding: bool) -> Evaluated {
        let mut failure = None;
        for part in parts {
            match self.run(part) {
                Ok(Value::Bool(flag)) if flag == deciding => return Ok(Value::Bool(deciding)),
                Ok(Value::Bool(_)) => (),
                Ok(_) => failure = Some(EvalError::Failed("no such overload".into())),
                Err(EvalError::TooExpensive) => return Err(EvalError::TooExpensive),
                Err(error) => failure = Some(error),
            }
        }
        failure.map_or(Ok(Value::Bool(!deciding)), Err)
    }

    fn call(&mut self, target: Option<&Expr>, name: &str, args: &[Expr]) -> Evaluated {
        if let Some(Node::Name(library)) = target.map(|target| &target.node)
            && functions::LIBRARIES.contains(&library.as_str())
            && !self.scope.iter().any(|(known, _)| known == library)
        {
            return self.call(None, &format!("{library}.{name}"), args);
        }
        let target = target.map(|target| self.run(target)).transpose()?;
        // The one function that need not look at its argument.
        if let (Some(Value::Optional(inner)), "orValue" | "or") = (&target, name)
            && let [other] = args
        {
            return match (inner, name) {
                (Some(value), "orValue") => Ok((**value).clone()),
                (Some(_), _) => Ok(target.expect("it was just seen")),
                (None, _) => self.run(other),
            };
        }
        let mut values = Vec::with_capacity(args.len() + 1);
        let is_member = target.is_some();
        values.extend(target);
        for arg in args {
            values.push(self.run(arg)?);
        }
        functions::call(name, is_member, &values, self.budget)
    }

    fn list(&mut self, items: &[(bool, Expr)]) -> Evaluated {
        let mut list = Vec::with_capacity(items.len());
        for (is_optional, item) in items {
            match (self.run(item)?, is_optional) {
                (Value::Optional(value), true) => list.extend(value.map(|value| *value)),
                (value, _) => list.push(value),
            }
        }
        Ok(Value::list(list))
    }

    fn map(&mut self, entries: &[(bool, Expr, Expr)]) -> Evaluated {
        let mut map = std::collections::BTreeMap::new();
        for (is_optional, key, value) in entries {
            let key = self.run(key)?;
            let Some(key) = Key::of(&key) else {
                return failed(format!("unsupported key type: {}", key.type_name()));
            };
            let value = match (self.run(value)?, is_optional) {
                (Value::Optional(None), true) => continue,
                (Value::Optional(Some(value)), true) => *value,
                (value, _) => value,
            };
            if map.contains_key(&key) {
                return failed(format!("duplicate map key: {key}"));
            }
            map.insert(key, value);
        }
        Ok(Value::Map(Arc::new(map)))
    }

    fn message(&mut self, name: &str, fields: &[(bool, String, Expr)]) -> Evaluated {
        let mut message = Message { type_name: name.into(), fields: std::collections::BTreeMap::new() };
        for (is_optional, field, value) in fields {
            let value = match (self.run(value)?, is_optional) {
                (Value::Optional(None), true) => continue,
                (Value::Optional(Some(value)), true) => *value,
                (value, _) => value,
            };
            message.fields.insert(unescape(field), value);
        }
        Ok(Special::Message(message).value())
    }
}

fn select(of: &Value, field: &str, budget: &mut Budget) -> Evaluated {
    match of {
        Value::Special(special) => match &**special {
            Special::Record(record) => {
                record.get(field, budget).unwrap_or_else(|| failed(format!("no such key: {field}")))
            }
            Special::Message(message) => match message.fields.get(&unescape(field)) {
                Some(value) => Ok(value.clone()),
                None => failed(format!("no such key: {field}")),
            },
            Special::Access(access) => access.field(field),
            _ => failed("no such overload"),
        },
        Value::Map(map) => {
            let found = map.get(&Key::text(field)).or_else(|| map.get(&Key::text(&unescape(field))));
            found.cloned().map_or_else(|| failed(format!("no such key: {field}")), Ok)
        }
        Value::Optional(None) => Ok(Value::Optional(None)),
        Value::Optional(Some(value)) => optional_entry((**value).clone(), &Key::text(field)),
        _ => failed("no such overload"),
    }
}

fn has(of: &Value, field: &str) -> Evaluated {
    match of {
        Value::Map(map) => {
            let is_there = |name: &str| map.contains_key(&Key::text(name));
            Ok(Value::Bool(is_there(field) || is_there(&unescape(field))))
        }
        Value::Special(special) => match &**special {
            Special::Message(message) => Ok(Value::Bool(message.fields.contains_key(&unescape(field)))),
            // A name that does not exist was found when the expression was compiled.
            Special::Record(_) => Ok(Value::Bool(true)),
            _ => failed("no such overload"),
        },
        Value::Optional(None) => Ok(Value::Bool(false)),
        Value::Optional(Some(value)) => has(value, field),
        _ => failed("no such overload"),
    }
}

/// What is under `key`, if there is anything.
fn optional_entry(of: Value, key: &Key) -> Evaluated {
    match of {
        Value::Optional(None) => Ok(Value::Optional(None)),
        Value::Optional(Some(value)) => optional_entry(*value, key),
        Value::Map(map) => {
            let unescaped = || match key {
                Key::String(text) => map.get(&Key::text(&unescape(text))),
                _ => None,
            };
            Ok(Value::Optional(map.get(key).or_else(unescaped).cloned().map(Box::new)))
        }
        _ => failed("no such overload"),
    }
}

fn optional_index(of: Value, index: &Value) -> Evaluated {
    match of {
        Value::Optional(None) => Ok(Value::Optional(None)),
        Value::Optional(Some(value)) => optional_index(*value, index),
        of => Ok(Value::Optional(operators::index(&of, index).ok().map(Box::new))),
    }
}
