//! What walks over the items of a list or a map.

use std::{cmp::Ordering, collections::BTreeMap, sync::Arc};

use super::{
    EvalError, Value,
    ast::{Expr, Macro, MacroCall},
    eval::{Evaluated, Evaluation},
    failed,
    value::Key,
};

pub fn run(evaluation: &mut Evaluation<'_>, call: &MacroCall) -> Evaluated {
    let range = evaluation.run(&call.range)?;
    match call.kind {
        Macro::Bind => evaluation.within(&call.variables, [range], &call.body),
        Macro::OptionalMap | Macro::OptionalFlatMap => match range {
            Value::Optional(None) => Ok(range),
            Value::Optional(Some(value)) => {
                let result = evaluation.within(&call.variables, [*value], &call.body)?;
                Ok(if call.kind == Macro::OptionalMap { Value::some(result) } else { result })
            }
            _ => failed("no such overload"),
        },
        Macro::All => test(evaluation, call, &range, false),
        Macro::Exists => test(evaluation, call, &range, true),
        Macro::ExistsOne => exists_one(evaluation, call, &range),
        Macro::Filter => filter(evaluation, call, &range),
        Macro::Map => map(evaluation, call, &range),
        Macro::TransformMap => transform_map(evaluation, call, &range),
        Macro::SortBy => sort_by(evaluation, call, &range),
    }
}

/// What the variables stand for, item by item.
fn items(call: &MacroCall, range: &Value) -> Result<Vec<[Value; 2]>, EvalError> {
    let is_single = call.variables.len() == 1;
    Ok(match range {
        Value::List(list) if is_single => list.iter().map(|item| [item.clone(), Value::Null]).collect(),
        Value::List(list) => {
            list.iter().zip(0..).map(|(item, index)| [Value::Int(index), item.clone()]).collect()
        }
        Value::Map(map) => map.iter().map(|(key, value)| [key.value(), value.clone()]).collect(),
        _ => return failed("no such overload"),
    })
}

fn is_true(
    evaluation: &mut Evaluation<'_>,
    call: &MacroCall,
    item: [Value; 2],
    body: &Expr,
) -> Result<bool, EvalError> {
    match evaluation.within(&call.variables, item, body)? {
        Value::Bool(flag) => Ok(flag),
        _ => failed("no such overload"),
    }
}

/// An item that decides ends it; an item that fails matters only if no other decides.
fn test(evaluation: &mut Evaluation<'_>, call: &MacroCall, range: &Value, deciding: bool) -> Evaluated {
    let mut failure = None;
    for item in items(call, range)? {
        match is_true(evaluation, call, item, &call.body) {
            Ok(flag) if flag == deciding => return Ok(Value::Bool(deciding)),
            Ok(_) => (),
            Err(EvalError::TooExpensive) => return Err(EvalError::TooExpensive),
            Err(error) => failure = Some(error),
        }
    }
    failure.map_or(Ok(Value::Bool(!deciding)), Err)
}

fn exists_one(evaluation: &mut Evaluation<'_>, call: &MacroCall, range: &Value) -> Evaluated {
    let mut count = 0;
    for item in items(call, range)? {
        count += usize::from(is_true(evaluation, call, item, &call.body)?);
    }
    Ok(Value::Bool(count == 1))
}

fn filter(evaluation: &mut Evaluation<'_>, call: &MacroCall, range: &Value) -> Evaluated {
    let mut kept = Vec::new();
    for item in items(call, range)? {
        if is_true(evaluation, call, item.clone(), &call.body)? {
            let [item, _] = item;
            kept.push(item);
        }
    }
    Ok(Value::list(kept))
}

fn map(evaluation: &mut Evaluation<'_>, call: &MacroCall, range: &Value) -> Evaluated {
    let mut result = Vec::new();
    for item in items(call, range)? {
        if let Some(filter) = &call.filter
            && !is_true(evaluation, call, item.clone(), filter)?
        {
            continue;
        }
        result.push(evaluation.within(&call.variables, item, &call.body)?);
    }
    Ok(Value::list(result))
}

fn transform_map(evaluation: &mut Evaluation<'_>, call: &MacroCall, range: &Value) -> Evaluated {
    let mut result = BTreeMap::new();
    for item in items(call, range)? {
        if let Some(filter) = &call.filter
            && !is_true(evaluation, call, item.clone(), filter)?
        {
            continue;
        }
        let Some(key) = Key::of(&item[0]) else { return failed("unsupported key type") };
        result.insert(key, evaluation.within(&call.variables, item, &call.body)?);
    }
    Ok(Value::Map(Arc::new(result)))
}

fn sort_by(evaluation: &mut Evaluation<'_>, call: &MacroCall, range: &Value) -> Evaluated {
    let mut keyed = Vec::new();
    for item in items(call, range)? {
        let key = evaluation.within(&call.variables, item.clone(), &call.body)?;
        let [item, _] = item;
        keyed.push((key, item));
    }
    if keyed.windows(2).any(|pair| pair[0].0.compare(&pair[1].0).is_none()) {
        return failed("list elements must be comparable");
    }
    keyed.sort_by(|(one, _), (other, _)| one.compare(other).unwrap_or(Ordering::Equal));
    Ok(Value::list(keyed.into_iter().map(|(_, item)| item).collect()))
}
