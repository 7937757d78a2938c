//! The functions: what they take and answer, and what they do.

use std::{collections::HashMap, sync::LazyLock};

use super::{
    Budget, EvalError, Type, Value, authorization,
    eval::Evaluated,
    failed, text, time,
    vocabulary::{self, Special},
};

/// Names that stand for a type.
pub const TYPE_NAMES: [&str; 11] =
    ["bool", "int", "uint", "double", "string", "bytes", "list", "map", "null_type", "type", "optional_type"];

/// Names that are no values but hold functions.
pub const LIBRARIES: [&str; 10] =
    ["optional", "sets", "strings", "lists", "math", "format", "ip", "base64", "cel", "jsonpatch"];
/// What asking the authorizer costs.
const CHECK_STEPS: u64 = 350_000;

/// Target, name, arguments and result. `item`, `inner` and `same` stand for the first type's item, content, and itself.
const SIGNATURES: &str = "
size(string) int; size(bytes) int; size(list) int; size(map) int
string.size() int; bytes.size() int; list.size() int; map.size() int
type(dyn) type; dyn(dyn) dyn; bool(bool) bool; bool(string) bool
int(int) int; int(uint) int; int(double) int; int(string) int; int(timestamp) int
uint(uint) uint; uint(int) uint; uint(double) uint; uint(string) uint
double(double) double; double(int) double; double(uint) double; double(string) double
string(string) string; string(bool) string; string(int) string; string(uint) string; string(double) string
string(bytes) string; string(timestamp) string; string(duration) string; string(ip) string; string(cidr) string
bytes(bytes) bytes; bytes(string) bytes
timestamp(timestamp) timestamp; timestamp(string) timestamp; timestamp(int) timestamp
duration(duration) duration; duration(string) duration; duration(int) duration
string.contains(string) bool; string.startsWith(string) bool; string.endsWith(string) bool
string.matches(string) bool; matches(string, string) bool
timestamp.getFullYear() int; timestamp.getMonth() int; timestamp.getDate() int; timestamp.getDayOfMonth() int
timestamp.getDayOfWeek() int; timestamp.getDayOfYear() int; timestamp.getHours() int; timestamp.getMinutes() int
timestamp.getSeconds() int; timestamp.getMilliseconds() int
timestamp.getFullYear(string) int; timestamp.getMonth(string) int; timestamp.getDate(string) int
timestamp.getDayOfMonth(string) int; timestamp.getDayOfWeek(string) int; timestamp.getDayOfYear(string) int
timestamp.getHours(string) int; timestamp.getMinutes(string) int; timestamp.getSeconds(string) int
timestamp.getMilliseconds(string) int
duration.getHours() int; duration.getMinutes() int; duration.getSeconds() int; duration.getMilliseconds() int
string.charAt(int) string; string.format(list) string; string.indexOf(string) int; string.indexOf(string, int) int
string.lastIndexOf(string) int; string.lastIndexOf(string, int) int; string.lowerAscii() string
string.upperAscii() string; string.replace(string, string) string; string.replace(string, string, int) string
string.split(string) strings; string.split(string, int) strings; string.substring(int) string
string.substring(int, int) string; string.trim() string; string.reverse() string; strings.quote(string) string
strings.join() string; strings.join(string) string
string.find(string) string; string.findAll(string) strings; string.findAll(string, int) strings
list.isSorted() bool; list.sum() item; list.min() item; list.max() item; list.indexOf(dyn) int
list.lastIndexOf(dyn) int; list.distinct() same; list.flatten() list; list.flatten(int) list; list.reverse() same
list.slice(int, int) same; list.sort() same; list.first() optional(item); list.last() optional(item)
lists.range(int) ints
sets.contains(list, list) bool; sets.equivalent(list, list) bool; sets.intersects(list, list) bool
optional.of(dyn) optional(same); optional.ofNonZeroValue(dyn) optional(same); optional.none() optional
optional.hasValue() bool; optional.value() inner; optional.orValue(dyn) inner; optional.or(optional) same
math.greatest(dyn, dyn) dyn; math.least(dyn, dyn) dyn; math.greatest(list) dyn; math.least(list) dyn
math.abs(dyn) same; math.ceil(double) double; math.floor(double) double; math.round(double) double
base64.encode(bytes) string; base64.decode(string) bytes
url(string) url; isURL(string) bool; url.getScheme() string; url.getHost() string; url.getHostname() string
url.getPort() string; url.getEscapedPath() string; url.getQuery() map
quantity(string) quantity; isQuantity(string) bool; quantity.sign() int; quantity.isInteger() bool
quantity.asInteger() int; quantity.asApproximateFloat() double; quantity.add(quantity) quantity
quantity.add(int) quantity; quantity.sub(quantity) quantity; quantity.sub(int) quantity
quantity.isGreaterThan(quantity) bool; quantity.isLessThan(quantity) bool; quantity.compareTo(quantity) int
ip(string) ip; isIP(string) bool; ip.isCanonical(string) bool; ip.family() int; ip.isUnspecified() bool
ip.isLoopback() bool; ip.isLinkLocalMulticast() bool; ip.isLinkLocalUnicast() bool; ip.isGlobalUnicast() bool
cidr(string) cidr; isCIDR(string) bool; cidr.containsIP(string) bool; cidr.containsIP(ip) bool
cidr.containsCIDR(string) bool; cidr.containsCIDR(cidr) bool; cidr.ip() ip; cidr.masked() cidr; cidr.prefixLength() int
format.named(string) optional(format); format.validate(string) optional(strings)
format.dns1123Label() format; format.dns1123Subdomain() format; format.dns1035Label() format
format.qualifiedName() format; format.dns1123LabelPrefix() format; format.dns1123SubdomainPrefix() format
format.dns1035LabelPrefix() format; format.labelValue() format; format.uri() format; format.uuid() format
format.byte() format; format.date() format; format.datetime() format
semver(string) semver; semver(string, bool) semver; isSemver(string) bool; isSemver(string, bool) bool
semver.major() int; semver.minor() int; semver.patch() int; semver.compareTo(semver) int
semver.isGreaterThan(semver) bool; semver.isLessThan(semver) bool
jsonpatch.escapeKey(string) string
authorizer.path(string) pathCheck; authorizer.group(string) groupCheck
authorizer.serviceAccount(string, string) authorizer; pathCheck.check(string) decision
groupCheck.resource(string) resourceCheck; resourceCheck.subresource(string) resourceCheck
resourceCheck.namespace(string) resourceCheck; resourceCheck.name(string) resourceCheck
resourceCheck.fieldSelector(string) resourceCheck; resourceCheck.labelSelector(string) resourceCheck
resourceCheck.check(string) decision; decision.allowed() bool; decision.reason() string
decision.errored() bool; decision.error() string
";

/// Names before a dot that are both a library and a type.
const AMBIGUOUS: [&str; 5] = ["optional", "strings", "ip", "format", "lists"];

struct Form {
    is_member: bool,
    takes: Vec<Type>,
    gives: &'static str,
}

static FORMS: LazyLock<HashMap<String, Vec<Form>>> = LazyLock::new(|| {
    let mut forms: HashMap<String, Vec<Form>> = HashMap::new();
    for text in SIGNATURES.split([';', '\n']).map(str::trim).filter(|text| !text.is_empty()) {
        let (head, gives) = text.split_once(") ").expect("a signature has a result");
        let (name, args) = head.split_once('(').expect("a signature has arguments");
        let takes: Vec<Type> = args.split(", ").filter(|arg| !arg.is_empty()).map(named).collect();
        let gives = gives.trim();
        match name.split_once('.') {
            None => forms.entry(name.into()).or_default().push(Form { is_member: false, takes, gives }),
            Some((owner, member)) => {
                if LIBRARIES.contains(&owner) {
                    let takes = takes.clone();
                    forms.entry(name.into()).or_default().push(Form { is_member: false, takes, gives });
                }
                if !LIBRARIES.contains(&owner) || AMBIGUOUS.contains(&owner) {
                    let takes = std::iter::once(named(owner)).chain(takes).collect();
                    forms.entry(member.into()).or_default().push(Form { is_member: true, takes, gives });
                }
            }
        }
    }
    forms
});

fn named(text: &str) -> Type {
    match text {
        "dyn" => Type::Dyn,
        "bool" => Type::Bool,
        "int" => Type::Int,
        "uint" => Type::Uint,
        "double" => Type::Double,
        "string" => Type::String,
        "bytes" => Type::Bytes,
        "timestamp" => Type::Timestamp,
        "duration" => Type::Duration,
        "type" => Type::Type,
        "list" => Type::list(Type::Dyn),
        "lists" | "ints" => Type::list(Type::Int),
        "strings" => Type::list(Type::String),
        "map" => Type::map(Type::Dyn, Type::Dyn),
        "optional" => Type::optional(Type::Dyn),
        "url" => Type::Special(vocabulary::URL),
        "quantity" => Type::Special(vocabulary::QUANTITY),
        "ip" => Type::Special(vocabulary::IP),
        "cidr" => Type::Special(vocabulary::CIDR),
        "format" => Type::Special(vocabulary::FORMAT),
        "semver" => Type::Special(vocabulary::SEMVER),
        "authorizer" => Type::Special(authorization::AUTHORIZER),
        "pathCheck" => Type::Special(authorization::PATH_CHECK),
        "groupCheck" => Type::Special(authorization::GROUP_CHECK),
        "resourceCheck" => Type::Special(authorization::RESOURCE_CHECK),
        "decision" => Type::Special(authorization::DECISION),
        other => unreachable!("{other} is no type of the table"),
    }
}

/// What the table says of a call.
pub enum Signature {
    Result(Type),
    /// There is such a function, for others.
    Mismatch,
    Unknown,
}

/// The type of a call's result. A member's target is the first of `types`.
pub fn result(name: &str, is_member: bool, types: &[Type]) -> Signature {
    let Some(forms) = FORMS.get(name) else { return Signature::Unknown };
    let fitting = forms.iter().filter(|form| {
        form.is_member == is_member
            && form.takes.len() == types.len()
            && form.takes.iter().zip(types).all(|(wanted, given)| takes(wanted, given))
    });
    let mut results = fitting.map(|form| given(form.gives, types));
    let Some(first) = results.next() else { return Signature::Mismatch };
    Signature::Result(results.fold(first, Type::join))
}

fn takes(wanted: &Type, given: &Type) -> bool {
    match (wanted, given) {
        (_, Type::Null) => matches!(wanted, Type::Dyn),
        _ => given.fits(wanted),
    }
}

fn given(text: &str, types: &[Type]) -> Type {
    if let Some(inner) = text.strip_prefix("optional(").and_then(|text| text.strip_suffix(')')) {
        return Type::optional(given(inner, types));
    }
    match (text, types.first()) {
        ("same", Some(first)) => first.clone(),
        ("item", Some(Type::List(inner))) | ("inner", Some(Type::Optional(inner))) => (**inner).clone(),
        ("same" | "item" | "inner", _) => Type::Dyn,
        (text, _) => named(text),
    }
}

/// Calls a function. A member's target is the first of `args`.
pub fn call(name: &str, is_member: bool, args: &[Value], budget: &mut Budget) -> Evaluated {
    budget.charge(
        args.iter()
            .map(|arg| match arg {
                Value::String(_) | Value::Bytes(_) => arg.weight(),
                Value::List(items) => items.len() as u64,
                _ => 1,
            })
            .sum(),
    )?;
    match (name, args) {
        ("size", [of]) => size(of),
        ("type", [of]) => Ok(Value::Type(of.type_name())),
        ("dyn", [of]) => Ok(of.clone()),
        ("bool" | "int" | "uint" | "double" | "string" | "bytes", [of]) => convert(name, of),
        ("timestamp" | "duration", [of]) => time::convert(name, of),
        (_, [Value::Timestamp(_) | Value::Duration(_), ..]) if is_member => time::call(name, args),
        (_, [Value::Special(special), rest @ ..]) if is_member => {
            if let ("check", Special::Access(_)) = (name, &**special) {
                budget.charge(CHECK_STEPS)?;
            }
            special.call(name, rest)
        }
        (_, [Value::Optional(of), ..]) if is_member => optional(name, of.as_deref()),
        (_, [Value::String(of), rest @ ..]) if is_member => text::call(name, of, rest, budget),
        ("matches", [Value::String(of), pattern]) => {
            text::call(name, of, std::slice::from_ref(pattern), budget)
        }
        (_, [Value::List(items), rest @ ..]) if is_member => list(name, items, rest, budget),
        ("optional.of", [of]) => Ok(Value::some(of.clone())),
        ("optional.ofNonZeroValue", [of]) => {
            Ok(Value::Optional((!is_zero(of)).then(|| Box::new(of.clone()))))
        }
        ("optional.none", []) => Ok(Value::Optional(None)),
        ("sets.contains" | "sets.equivalent" | "sets.intersects", [Value::List(one), Value::List(other)]) => {
            budget.charge((one.len() * other.len().max(1)) as u64)?;
            let has_all = |of: &[Value], items: &[Value]| items.iter().all(|item| of.contains(item));
            Ok(Value::Bool(match name {
                "sets.contains" => has_all(one, other),
                "sets.equivalent" => has_all(one, other) && has_all(other, one),
                _ => one.iter().any(|item| other.contains(item)),
            }))
        }
        ("strings.quote", [Value::String(of)]) => Ok(Value::text(format!("{of:?}"))),
        ("lists.range", [Value::Int(end)]) => {
            budget.charge((*end).max(0) as u64)?;
            Ok(Value::list((0..*end).map(Value::Int).collect()))
        }
        ("math.greatest" | "math.least", [Value::List(items)]) => extreme(items, name == "math.greatest"),
        ("math.greatest" | "math.least", items) => extreme(items, name == "math.greatest"),
        ("math.abs", [Value::Int(of)]) => {
            of.checked_abs().map_or_else(|| failed("integer overflow"), |of| Ok(Value::Int(of)))
        }
        ("math.abs", [of @ Value::Uint(_)]) => Ok(of.clone()),
        ("math.abs", [Value::Double(of)]) => Ok(Value::Double(of.abs())),
        ("math.ceil", [Value::Double(of)]) => Ok(Value::Double(of.ceil())),
        ("math.floor", [Value::Double(of)]) => Ok(Value::Double(of.floor())),
        ("math.round", [Value::Double(of)]) => Ok(Value::Double(of.round())),
        ("jsonpatch.escapeKey", [Value::String(of)]) => {
            Ok(Value::text(of.replace('~', "~0").replace('/', "~1")))
        }
        ("base64.encode" | "base64.decode", [of]) => text::base64(name, of),
        _ if !is_member => Special::make(name, args),
        _ => failed("no such overload"),
    }
}

fn size(of: &Value) -> Evaluated {
    Ok(Value::Int(match of {
        Value::String(text) => text.chars().count() as i64,
        Value::Bytes(bytes) => bytes.len() as i64,
        Value::List(items) => items.len() as i64,
        Value::Map(map) => map.len() as i64,
        _ => return failed("no such overload"),
    }))
}

fn convert(to: &str, of: &Value) -> Evaluated {
    let wrong =
        || Err(EvalError::Failed(format!("type conversion error from '{}' to '{to}'", of.type_name())));
    let range = || {
        Err(EvalError::Failed(
            if to == "uint" { "unsigned integer overflow" } else { "integer overflow" }.into(),
        ))
    };
    match (to, of) {
        ("bool", Value::Bool(_))
        | ("int", Value::Int(_))
        | ("uint", Value::Uint(_))
        | ("double", Value::Double(_))
        | ("string", Value::String(_))
        | ("bytes", Value::Bytes(_)) => Ok(of.clone()),
        ("bool", Value::String(text)) => match &**text {
            "1" | "t" | "T" | "TRUE" | "true" | "True" => Ok(Value::Bool(true)),
            "0" | "f" | "F" | "FALSE" | "false" | "False" => Ok(Value::Bool(false)),
            _ => wrong(),
        },
        ("int", Value::Uint(number)) => {
            i64::try_from(*number).map_or_else(|_| range(), |number| Ok(Value::Int(number)))
        }
        ("int", Value::Double(number)) if number.abs() < 9.2e18 => Ok(Value::Int(*number as i64)),
        ("int" | "uint", Value::Double(number)) if to == "int" || !(0.0..1.8e19).contains(number) => range(),
        ("int", Value::String(text)) => {
            text.parse().map_or_else(|_| wrong(), |number| Ok(Value::Int(number)))
        }
        ("int", Value::Timestamp(time)) => Ok(Value::Int(time.as_second())),
        ("uint", Value::Int(number)) => {
            u64::try_from(*number).map_or_else(|_| range(), |number| Ok(Value::Uint(number)))
        }
        ("uint", Value::Double(number)) => Ok(Value::Uint(*number as u64)),
        ("uint", Value::String(text)) => {
            text.parse().map_or_else(|_| wrong(), |number| Ok(Value::Uint(number)))
        }
        ("double", Value::Int(number)) => Ok(Value::Double(*number as f64)),
        ("double", Value::Uint(number)) => Ok(Value::Double(*number as f64)),
        ("double", Value::String(text)) => {
            text.parse().map_or_else(|_| wrong(), |number| Ok(Value::Double(number)))
        }
        ("string", Value::Bytes(bytes)) => match std::str::from_utf8(bytes) {
            Ok(text) => Ok(Value::text(text)),
            Err(_) => failed("invalid UTF-8 in bytes, cannot convert to string"),
        },
        (
            "string",
            Value::Bool(_)
            | Value::Int(_)
            | Value::Uint(_)
            | Value::Double(_)
            | Value::Timestamp(_)
            | Value::Duration(_)
            | Value::Special(_),
        ) => Ok(Value::text(of.to_string())),
        ("bytes", Value::String(text)) => Ok(Value::Bytes(text.as_bytes().into())),
        _ => wrong(),
    }
}

fn optional(name: &str, of: Option<&Value>) -> Evaluated {
    match (name, of) {
        ("hasValue", of) => Ok(Value::Bool(of.is_some())),
        ("value", Some(value)) => Ok(value.clone()),
        ("value", None) => failed("optional.none() dereference"),
        _ => failed("no such overload"),
    }
}

fn is_zero(of: &Value) -> bool {
    match of {
        Value::Null => true,
        Value::Bool(flag) => !flag,
        Value::Int(number) => *number == 0,
        Value::Uint(number) => *number == 0,
        Value::Double(number) => *number == 0.0,
        Value::String(text) => text.is_empty(),
        Value::Bytes(bytes) => bytes.is_empty(),
        Value::List(items) => items.is_empty(),
        Value::Map(map) => map.is_empty(),
        Value::Optional(of) => of.is_none(),
        Value::Duration(duration) => duration.is_zero(),
        _ => false,
    }
}

fn extreme(items: &[Value], is_greatest: bool) -> Evaluated {
    let Some((first, rest)) = items.split_first() else { return failed("the list is empty") };
    let mut best = first;
    for item in rest {
        let Some(order) = item.compare(best) else { return failed("no such overload") };
        if (is_greatest && order.is_gt()) || (!is_greatest && order.is_lt()) {
            best = item;
        }
    }
    Ok(best.clone())
}

fn list(name: &str, items: &[Value], rest: &[Value], budget: &mut Budget) -> Evaluated {
    let weight: u64 = items.iter().map(Value::weight).sum();
    let position = |index: Option<usize>| Ok(Value::Int(index.map_or(-1, |index| index as i64)));
    match (name, rest) {
        ("join", [] | [Value::String(_)]) => text::join(items, rest.first(), budget),
        ("isSorted", []) => {
            let orders = items.windows(2).map(|pair| pair[0].compare(&pair[1]));
            Ok(Value::Bool(orders.into_iter().all(|order| order.is_some_and(std::cmp::Ordering::is_le))))
        }
        ("sum", []) => {
            let Some((first, rest)) = items.split_first() else { return Ok(Value::Int(0)) };
            rest.iter().try_fold(first.clone(), |sum, item| super::operators::binary("+", &sum, item, budget))
        }
        ("min" | "max", []) => match items {
            [] => failed(format!("{name} called on empty list")),
            items => extreme(items, name == "max"),
        },
        ("indexOf", [wanted]) => {
            budget.charge(weight)?;
            position(items.iter().position(|item| item == wanted))
        }
        ("lastIndexOf", [wanted]) => {
            budget.charge(weight)?;
            position(items.iter().rposition(|item| item == wanted))
        }
        ("distinct", []) => {
            let mut distinct: Vec<Value> = Vec::new();
            for item in items {
                budget.charge(distinct.len() as u64 * item.weight())?;
                if !distinct.contains(item) {
                    distinct.push(item.clone());
                }
            }
            Ok(Value::list(distinct))
        }
        ("reverse", []) => Ok(Value::list(items.iter().rev().cloned().collect())),
        ("slice", [Value::Int(from), Value::Int(to)]) => {
            let range = usize::try_from(*from).ok().zip(usize::try_from(*to).ok());
            let part = range.filter(|(from, to)| from <= to).and_then(|(from, to)| items.get(from..to));
            part.map_or_else(
                || failed(format!("cannot slice({from}, {to}), list is length {}", items.len())),
                |part| Ok(Value::list(part.to_vec())),
            )
        }
        ("sort", []) => {
            budget.charge(weight)?;
            if items.windows(2).any(|pair| pair[0].compare(&pair[1]).is_none()) {
                return failed("list elements must be comparable");
            }
            let mut sorted = items.to_vec();
            sorted.sort_by(|one, other| one.compare(other).unwrap_or(std::cmp::Ordering::Equal));
            Ok(Value::list(sorted))
        }
        ("first", []) => Ok(Value::Optional(items.first().cloned().map(Box::new))),
        ("last", []) => Ok(Value::Optional(items.last().cloned().map(Box::new))),
        ("flatten", []) => flatten(items, 1, budget),
        ("flatten", [Value::Int(depth)]) => flatten(items, (*depth).clamp(0, 64), budget),
        _ => failed("no such overload"),
    }
}

fn flatten(items: &[Value], depth: i64, budget: &mut Budget) -> Evaluated {
    let mut flat = Vec::new();
    for item in items {
        budget.charge(1)?;
        match item {
            Value::List(inner) if depth > 0 => {
                let Value::List(inner) = flatten(inner, depth - 1, budget)? else { continue };
                flat.extend(inner.iter().cloned());
            }
            other => flat.push(other.clone()),
        }
    }
    Ok(Value::list(flat))
}
