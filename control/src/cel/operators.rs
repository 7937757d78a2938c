//! Signs between values.

use std::sync::Arc;

use super::{Budget, EvalError, Value, eval::Evaluated, failed, value::Key};

const NO_OVERLOAD: &str = "no such overload";

pub fn negate(of: &Value) -> Evaluated {
    match of {
        Value::Int(number) => {
            number.checked_neg().map_or_else(|| failed("integer overflow"), |number| Ok(Value::Int(number)))
        }
        Value::Double(number) => Ok(Value::Double(-number)),
        _ => failed(NO_OVERLOAD),
    }
}

pub fn index(of: &Value, index: &Value) -> Evaluated {
    match (of, index) {
        (Value::Optional(None), _) => Ok(Value::Optional(None)),
        (Value::Optional(Some(value)), index_value) => {
            Ok(Value::Optional(index_of(value, index_value).ok().map(Box::new)))
        }
        _ => index_of(of, index),
    }
}

fn index_of(of: &Value, index: &Value) -> Evaluated {
    match of {
        Value::List(items) => {
            let Some(Key::Number(number)) = Key::of(index) else {
                return failed(format!("unsupported index type '{}' in list", index.type_name()));
            };
            let item = usize::try_from(number).ok().and_then(|index| items.get(index));
            item.cloned().map_or_else(|| failed(format!("index out of bounds: {number}")), Ok)
        }
        Value::Map(map) => {
            let found = Key::of(index).and_then(|key| map.get(&key));
            let name = match index {
                Value::String(text) => text.to_string(),
                other => other.to_string(),
            };
            found.cloned().map_or_else(|| failed(format!("no such key: {name}")), Ok)
        }
        _ => failed(NO_OVERLOAD),
    }
}

pub fn binary(sign: &str, left: &Value, right: &Value, budget: &mut Budget) -> Evaluated {
    match sign {
        "==" | "!=" => {
            budget.charge(left.weight().min(right.weight()))?;
            Ok(Value::Bool((left == right) == (sign == "==")))
        }
        "<" | "<=" | ">" | ">=" => {
            budget.charge(left.weight().min(right.weight()))?;
            let Some(order) = left.compare(right) else {
                let is_nan = |value: &Value| matches!(value, Value::Double(number) if number.is_nan());
                return if is_nan(left) || is_nan(right) {
                    Ok(Value::Bool(false))
                } else {
                    failed(NO_OVERLOAD)
                };
            };
            Ok(Value::Bool(match sign {
                "<" => order.is_lt(),
                "<=" => order.is_le(),
                ">" => order.is_gt(),
                _ => order.is_ge(),
            }))
        }
        "in" => is_in(left, right, budget),
        "+" => add(left, right, budget),
        _ => arithmetic(sign, left, right),
    }
}

fn is_in(left: &Value, right: &Value, budget: &mut Budget) -> Evaluated {
    match right {
        Value::List(items) => {
            for item in items.iter() {
                budget.charge(left.weight().min(item.weight()))?;
                if item == left {
                    return Ok(Value::Bool(true));
                }
            }
            Ok(Value::Bool(false))
        }
        Value::Map(map) => Ok(Value::Bool(Key::of(left).is_some_and(|key| map.contains_key(&key)))),
        _ => failed(NO_OVERLOAD),
    }
}

fn add(left: &Value, right: &Value, budget: &mut Budget) -> Evaluated {
    match (left, right) {
        (Value::String(one), Value::String(other)) => {
            budget.charge((one.len() + other.len()) as u64 / 10)?;
            Ok(Value::text(format!("{one}{other}")))
        }
        (Value::Bytes(one), Value::Bytes(other)) => {
            budget.charge((one.len() + other.len()) as u64 / 10)?;
            Ok(Value::Bytes([&**one, &**other].concat().into()))
        }
        (Value::List(one), Value::List(other)) => {
            budget.charge((one.len() + other.len()) as u64)?;
            Ok(Value::List(Arc::new(one.iter().chain(other.iter()).cloned().collect())))
        }
        (Value::Timestamp(time), Value::Duration(duration))
        | (Value::Duration(duration), Value::Timestamp(time)) => time
            .checked_add(*duration)
            .map_or_else(|_| failed("timestamp overflow"), |time| Ok(Value::Timestamp(time))),
        (Value::Duration(one), Value::Duration(other)) => one
            .checked_add(*other)
            .map_or_else(|| failed("duration overflow"), |sum| Ok(Value::Duration(sum))),
        _ => arithmetic("+", left, right),
    }
}

/// Whole numbers of either kind, combined; `None` where the result is no such number.
macro_rules! checked {
    ($sign:ident, $left:ident, $right:ident) => {
        match $sign {
            "+" => $left.checked_add(*$right),
            "-" => $left.checked_sub(*$right),
            "*" => $left.checked_mul(*$right),
            "/" if *$right == 0 => return failed("division by zero"),
            "/" => $left.checked_div(*$right),
            _ if *$right == 0 => return failed("modulus by zero"),
            _ => $left.checked_rem(*$right),
        }
    };
}

fn arithmetic(sign: &str, left: &Value, right: &Value) -> Evaluated {
    let overflow = |kind: &str| Err(EvalError::Failed(format!("{kind} overflow")));
    match (left, right) {
        (Value::Int(left), Value::Int(right)) => {
            checked!(sign, left, right).map_or_else(|| overflow("integer"), |number| Ok(Value::Int(number)))
        }
        (Value::Uint(left), Value::Uint(right)) => checked!(sign, left, right)
            .map_or_else(|| overflow("unsigned integer"), |number| Ok(Value::Uint(number))),
        (Value::Double(left), Value::Double(right)) => match sign {
            "+" => Ok(Value::Double(left + right)),
            "-" => Ok(Value::Double(left - right)),
            "*" => Ok(Value::Double(left * right)),
            "/" => Ok(Value::Double(left / right)),
            _ => failed(NO_OVERLOAD),
        },
        (Value::Timestamp(one), Value::Timestamp(other)) if sign == "-" => {
            Ok(Value::Duration(one.duration_since(*other)))
        }
        (Value::Timestamp(time), Value::Duration(duration)) if sign == "-" => time
            .checked_sub(*duration)
            .map_or_else(|_| overflow("timestamp"), |time| Ok(Value::Timestamp(time))),
        (Value::Duration(one), Value::Duration(other)) if sign == "-" => one
            .checked_sub(*other)
            .map_or_else(|| overflow("duration"), |difference| Ok(Value::Duration(difference))),
        _ => failed(NO_OVERLOAD),
    }
}
