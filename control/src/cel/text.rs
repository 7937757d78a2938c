//! Functions on strings. Positions count characters.

use std::{
    num::NonZeroUsize,
    sync::{Arc, Mutex, PoisonError},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use regex::Regex;

use super::{Budget, EvalError, Value, eval::Evaluated, failed};
use crate::registry::crd::schema::pattern;

/// Patterns that are kept compiled.
const KEPT_PATTERNS: usize = 256;

pub fn call(name: &str, of: &Arc<str>, rest: &[Value], budget: &mut Budget) -> Evaluated {
    let boolean = |flag| Ok(Value::Bool(flag));
    match (name, rest) {
        ("contains", [Value::String(part)]) => {
            budget.charge(of.len() as u64 * part.len() as u64 / 100)?;
            boolean(of.contains(&**part))
        }
        ("startsWith", [Value::String(part)]) => boolean(of.starts_with(&**part)),
        ("endsWith", [Value::String(part)]) => boolean(of.ends_with(&**part)),
        ("matches", [Value::String(text)]) => boolean(compile(text, of, budget)?.is_match(of)),
        ("find", [Value::String(text)]) => {
            let found = compile(text, of, budget)?;
            Ok(Value::text(found.find(of).map_or("", |found| found.as_str())))
        }
        ("findAll", [Value::String(text)]) => find_all(&compile(text, of, budget)?, of, None),
        ("findAll", [Value::String(text), Value::Int(limit)]) => {
            find_all(&compile(text, of, budget)?, of, usize::try_from(*limit).ok())
        }
        ("lowerAscii", []) => Ok(Value::text(of.to_ascii_lowercase())),
        ("upperAscii", []) => Ok(Value::text(of.to_ascii_uppercase())),
        ("trim", []) => Ok(Value::text(of.trim())),
        ("reverse", []) => Ok(Value::text(of.chars().rev().collect::<String>())),
        ("charAt", [Value::Int(at)]) => char_at(of, *at),
        ("substring", [Value::Int(from)]) => substring(of, *from, None),
        ("substring", [Value::Int(from), Value::Int(to)]) => substring(of, *from, Some(*to)),
        ("indexOf", [Value::String(part)]) => index_of(of, part, 0, budget),
        ("indexOf", [Value::String(part), Value::Int(from)]) => index_of(of, part, *from, budget),
        ("lastIndexOf", [Value::String(part)]) => last_index_of(of, part, None, budget),
        ("lastIndexOf", [Value::String(part), Value::Int(to)]) => last_index_of(of, part, Some(*to), budget),
        ("replace", [Value::String(old), Value::String(new)]) => replace(of, old, new, usize::MAX, budget),
        ("replace", [Value::String(old), Value::String(new), Value::Int(limit)]) => {
            replace(of, old, new, usize::try_from(*limit).unwrap_or(usize::MAX), budget)
        }
        ("split", [Value::String(by)]) => split(of, by, -1, budget),
        ("split", [Value::String(by), Value::Int(limit)]) => split(of, by, *limit, budget),
        ("format", [Value::List(args)]) => format(of, args, budget),
        _ => failed("no such overload"),
    }
}

/// A compiled pattern, of which the latest are kept.
fn compile(text: &Arc<str>, of: &str, budget: &mut Budget) -> Result<Regex, EvalError> {
    /// The oldest is first.
    type Kept = Vec<(Arc<str>, Regex)>;
    static KEPT: Mutex<Kept> = Mutex::new(Vec::new());
    budget.charge((1 + of.len() as u64 / 10) * (1 + text.len() as u64 / 4))?;
    let lock = || KEPT.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, regex)) = lock().iter().find(|(kept, _)| kept == text) {
        return Ok(regex.clone());
    }
    let regex = match pattern::compile(text) {
        Ok(regex) => regex,
        Err(problem) => return Err(EvalError::Failed(format!("error parsing regexp: {problem}"))),
    };
    // Compiling is much dearer than matching.
    budget.charge(100 + text.len() as u64)?;
    let mut kept = lock();
    if kept.len() >= KEPT_PATTERNS {
        kept.remove(0);
    }
    kept.push((text.clone(), regex.clone()));
    Ok(regex)
}

fn find_all(regex: &Regex, of: &str, limit: Option<usize>) -> Evaluated {
    let found = regex.find_iter(of).take(limit.unwrap_or(usize::MAX));
    Ok(Value::list(found.map(|found| Value::text(found.as_str())).collect()))
}

/// The byte at which the character `index` begins; the end of the text counts.
fn offset(of: &str, index: i64) -> Option<usize> {
    let index = usize::try_from(index).ok()?;
    of.char_indices().map(|(at, _)| at).chain([of.len()]).nth(index)
}

fn out_of_range(index: i64) -> Evaluated {
    failed(format!("index out of range: {index}"))
}

fn char_at(of: &str, at: i64) -> Evaluated {
    let Some(start) = offset(of, at) else { return out_of_range(at) };
    Ok(Value::text(of[start..].chars().next().map_or_else(String::new, String::from)))
}

fn substring(of: &str, from: i64, to: Option<i64>) -> Evaluated {
    let Some(start) = offset(of, from) else { return out_of_range(from) };
    let end = match to {
        None => of.len(),
        Some(to) if to < from => return failed(format!("invalid substring range. start: {from}, end: {to}")),
        Some(to) => match offset(of, to) {
            Some(end) => end,
            None => return out_of_range(to),
        },
    };
    Ok(Value::text(&of[start..end]))
}

fn index_of(of: &str, part: &str, from: i64, budget: &mut Budget) -> Evaluated {
    budget.charge(of.len() as u64 * part.len() as u64 / 100)?;
    let Some(start) = offset(of, from) else { return out_of_range(from) };
    let found = of[start..].find(part).map(|at| of[..start + at].chars().count() as i64);
    Ok(Value::Int(found.unwrap_or(-1)))
}

fn last_index_of(of: &str, part: &str, to: Option<i64>, budget: &mut Budget) -> Evaluated {
    budget.charge(of.len() as u64 * part.len() as u64 / 100)?;
    let end = match to {
        None => of.len(),
        Some(to) => match offset(of, to) {
            Some(end) => (end + part.len()).min(of.len()),
            None => return out_of_range(to),
        },
    };
    let end = (0..=end).rev().find(|end| of.is_char_boundary(*end)).unwrap_or(0);
    let found = of[..end].rfind(part).map(|at| of[..at].chars().count() as i64);
    Ok(Value::Int(found.unwrap_or(-1)))
}

fn replace(of: &str, old: &str, new: &str, limit: usize, budget: &mut Budget) -> Evaluated {
    // What it makes is paid for before it is made.
    let count = of.matches(old).take(limit).count() as u64;
    budget.charge((of.len() as u64 + count * new.len() as u64) / 10)?;
    Ok(Value::text(of.replacen(old, new, limit)))
}

fn split(of: &str, by: &str, limit: i64, budget: &mut Budget) -> Evaluated {
    if limit == 0 {
        return Ok(Value::list(Vec::new()));
    }
    let limit = usize::try_from(limit).ok().and_then(NonZeroUsize::new).map_or(usize::MAX, NonZeroUsize::get);
    let parts: Vec<Value> = if by.is_empty() {
        let mut rest = of.chars();
        let mut parts: Vec<String> = rest.by_ref().take(limit - 1).map(String::from).collect();
        let last: String = rest.collect();
        if !last.is_empty() {
            parts.push(last);
        }
        parts.into_iter().map(Value::text).collect()
    } else {
        of.splitn(limit, by).map(Value::text).collect()
    };
    budget.charge(parts.len() as u64)?;
    Ok(Value::list(parts))
}

pub fn join(items: &[Value], separator: Option<&Value>, budget: &mut Budget) -> Evaluated {
    let separator = match separator {
        Some(Value::String(text)) => text,
        _ => "",
    };
    let mut texts = Vec::with_capacity(items.len());
    for item in items {
        let Value::String(text) = item else { return failed("no such overload") };
        budget.charge((text.len() + separator.len()) as u64 / 10)?;
        texts.push(&**text);
    }
    Ok(Value::text(texts.join(separator)))
}

/// `"%s of %d".format([…])`
fn format(of: &str, args: &[Value], budget: &mut Budget) -> Evaluated {
    let mut result = String::new();
    let mut args = args.iter();
    let mut characters = of.chars();
    while let Some(character) = characters.next() {
        if character != '%' {
            result.push(character);
            continue;
        }
        let mut verb = characters.next();
        if verb == Some('%') {
            result.push('%');
            continue;
        }
        let mut precision = None;
        if verb == Some('.') {
            let digits: String =
                characters.as_str().chars().take_while(char::is_ascii_digit).take(3).collect();
            characters.by_ref().take(digits.len()).for_each(drop);
            precision = Some(digits.parse::<usize>().unwrap_or(0).min(100));
            verb = characters.next();
        }
        let Some(arg) = args.next() else { return failed("index out of range in format arguments") };
        budget.charge(arg.weight())?;
        let text = match (verb, arg) {
            (Some('s'), Value::String(text)) => text.to_string(),
            (Some('s'), other) => other.to_string(),
            (Some('d'), Value::Int(_) | Value::Uint(_)) => arg.to_string(),
            (Some('f'), Value::Double(number)) => format!("{number:.*}", precision.unwrap_or(6)),
            (Some('f'), Value::Int(number)) => format!("{:.*}", precision.unwrap_or(6), *number as f64),
            (Some('e'), Value::Double(number)) => format!("{number:.*e}", precision.unwrap_or(6)),
            (Some('b'), Value::Int(number)) => format!("{number:b}"),
            (Some('b'), Value::Bool(flag)) => u8::from(*flag).to_string(),
            (Some('o'), Value::Int(number)) => format!("{number:o}"),
            (Some('x'), Value::Int(number)) => format!("{number:x}"),
            (Some('X'), Value::Int(number)) => format!("{number:X}"),
            (Some('x'), Value::String(text)) => hex::encode(text.as_bytes()),
            (Some('X'), Value::String(text)) => hex::encode_upper(text.as_bytes()),
            (Some(verb), _) => return failed(format!("could not format value with %{verb}")),
            (None, _) => return failed("unexpected end of format string"),
        };
        budget.charge(text.len() as u64 / 10)?;
        result.push_str(&text);
    }
    Ok(Value::text(result))
}

pub fn base64(name: &str, of: &Value) -> Evaluated {
    match (name, of) {
        ("base64.encode", Value::Bytes(bytes)) => Ok(Value::text(STANDARD.encode(bytes))),
        ("base64.decode", Value::String(text)) => match STANDARD.decode(text.as_bytes()) {
            Ok(bytes) => Ok(Value::Bytes(bytes.into())),
            Err(error) => failed(format!("illegal base64 data: {error}")),
        },
        _ => failed("no such overload"),
    }
}
