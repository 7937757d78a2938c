//! Values that only Kubernetes knows: quantities, addresses, networks, URLs, named formats, versions.

use std::{cmp::Ordering, collections::BTreeMap, fmt, net::IpAddr, sync::Arc};

use naru_model::{
    quantity::{self, Quantity},
    validation::{names, network::parse_cidr},
};

use super::{
    Value,
    authorization::Access,
    eval::{Budget, Evaluated},
    failed,
    value::Key,
};
use crate::registry::crd::schema::fits;

pub const QUANTITY: &str = "kubernetes.Quantity";
pub const IP: &str = "net.IP";
pub const CIDR: &str = "net.CIDR";
pub const URL: &str = "kubernetes.URL";
pub const FORMAT: &str = "kubernetes.NamedFormat";
pub const SEMVER: &str = "kubernetes.Semver";
/// The types of patches.
pub const OBJECT: &str = "Object";
pub const JSON_PATCH: &str = "JSONPatch";

const FORMATS: [(&str, &str); 13] = [
    ("dns1123Label", "k8s-short-name"),
    ("dns1123Subdomain", "k8s-long-name"),
    ("dns1035Label", ""),
    ("qualifiedName", ""),
    ("dns1123LabelPrefix", ""),
    ("dns1123SubdomainPrefix", ""),
    ("dns1035LabelPrefix", ""),
    ("labelValue", ""),
    ("uri", "uri"),
    ("uuid", "uuid"),
    ("byte", "byte"),
    ("date", "date"),
    ("datetime", "date-time"),
];

/// One of Kubernetes' own values.
#[derive(Debug, Clone)]
pub enum Special {
    Quantity(Quantity),
    Ip(IpAddr),
    Cidr(IpAddr, u8),
    Url(Url),
    Format(&'static str),
    Version([u64; 3], String),
    Access(Access),
    Record(Arc<dyn Record>),
    Message(Message),
}

/// Fields whose values are found out when they are asked for.
pub trait Record: fmt::Debug + Send + Sync {
    /// The field's value; `None` where there is no such field.
    fn get(&self, field: &str, budget: &mut Budget) -> Option<Evaluated>;
}

/// A part of a patch.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    /// `Object.spec`
    pub type_name: Arc<str>,
    pub fields: BTreeMap<String, Value>,
}

/// A URL's parts, as they are written.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Url {
    text: String,
    scheme: String,
    host: String,
    path: String,
    query: String,
}

impl PartialEq for Special {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Quantity(one), Self::Quantity(other)) => one == other,
            (Self::Ip(one), Self::Ip(other)) => one == other,
            (Self::Cidr(one, length), Self::Cidr(other, other_length)) => {
                (one, length) == (other, other_length)
            }
            (Self::Url(one), Self::Url(other)) => one.text == other.text,
            (Self::Format(one), Self::Format(other)) => one == other,
            (Self::Version(..), Self::Version(..)) => self.compare(other) == Some(Ordering::Equal),
            (Self::Message(one), Self::Message(other)) => one == other,
            _ => false,
        }
    }
}

impl fmt::Display for Special {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Quantity(quantity) => write!(formatter, "{quantity}"),
            Self::Ip(address) => write!(formatter, "{address}"),
            Self::Cidr(address, length) => write!(formatter, "{address}/{length}"),
            Self::Url(url) => formatter.write_str(&url.text),
            Self::Format(name) => formatter.write_str(name),
            Self::Version([major, minor, patch], rest) => {
                write!(formatter, "{major}.{minor}.{patch}")?;
                if rest.is_empty() { Ok(()) } else { write!(formatter, "-{rest}") }
            }
            Self::Access(_) | Self::Record(_) => formatter.write_str(self.type_name()),
            Self::Message(message) => write!(formatter, "{}{{…}}", message.type_name),
        }
    }
}

impl Special {
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::Quantity(_) => QUANTITY,
            Self::Ip(_) => IP,
            Self::Cidr(..) => CIDR,
            Self::Url(_) => URL,
            Self::Format(_) => FORMAT,
            Self::Version(..) => SEMVER,
            Self::Access(access) => access.type_name(),
            Self::Record(_) => "kubernetes.variables",
            Self::Message(message) if &*message.type_name == JSON_PATCH => JSON_PATCH,
            Self::Message(_) => OBJECT,
        }
    }

    pub fn value(self) -> Value {
        Value::Special(Arc::new(self))
    }

    /// The functions that make such values, and those that ask whether they could.
    pub fn make(name: &str, args: &[Value]) -> Evaluated {
        if let Some(format) = name.strip_prefix("format.")
            && args.is_empty()
        {
            return match FORMATS.iter().find(|(known, _)| *known == format) {
                Some((name, _)) => Ok(Self::Format(name).value()),
                None => failed("no such overload"),
            };
        }
        let (text, is_lenient) = match args {
            [Value::String(text)] => (text, false),
            [Value::String(text), Value::Bool(is_lenient)] => (text, *is_lenient),
            _ => return failed("no such overload"),
        };
        let parsed = match name {
            "quantity" | "isQuantity" => text.parse().ok().map(Self::Quantity),
            "ip" | "isIP" => address(text).map(Self::Ip),
            "cidr" | "isCIDR" => cidr(text),
            "url" | "isURL" => url(text).map(Self::Url),
            "semver" | "isSemver" => version(text, is_lenient),
            "ip.isCanonical" => {
                return match address(text) {
                    Some(address) => Ok(Value::Bool(address.to_string() == **text)),
                    None => failed(format!("IP Address {text:?} parse error during conversion from string")),
                };
            }
            "format.named" => {
                let known = FORMATS.iter().find(|(known, _)| *known == &**text);
                return Ok(Value::Optional(known.map(|(name, _)| Box::new(Self::Format(name).value()))));
            }
            _ => return failed("no such overload"),
        };
        if name.starts_with("is") {
            return Ok(Value::Bool(parsed.is_some()));
        }
        parsed.map_or_else(
            || failed(format!("{name} parse error during conversion from string: {text:?}")),
            |parsed| Ok(parsed.value()),
        )
    }

    fn compare(&self, other: &Self) -> Option<Ordering> {
        match (self, other) {
            (Self::Quantity(one), Self::Quantity(other)) => Some(one.cmp(other)),
            (Self::Version(one, rest), Self::Version(other, other_rest)) => {
                Some(one.cmp(other).then_with(|| {
                    // A version with something behind it comes before the one without.
                    match (rest.is_empty(), other_rest.is_empty()) {
                        (true, false) => Ordering::Greater,
                        (false, true) => Ordering::Less,
                        _ => prerelease(rest, other_rest),
                    }
                }))
            }
            _ => None,
        }
    }

    /// The functions of such a value.
    pub fn call(&self, name: &str, args: &[Value]) -> Evaluated {
        if let ("isGreaterThan" | "isLessThan" | "compareTo", [Value::Special(other)]) = (name, args)
            && let Some(order) = self.compare(other)
        {
            return Ok(match name {
                "isGreaterThan" => Value::Bool(order.is_gt()),
                "isLessThan" => Value::Bool(order.is_lt()),
                _ => Value::Int(order as i64),
            });
        }
        match self {
            Self::Quantity(of) => of_quantity(*of, name, args),
            Self::Ip(address) => of_address(*address, name, args),
            Self::Cidr(address, length) => of_network(*address, *length, name, args),
            Self::Url(url) if args.is_empty() => of_url(url, name),
            Self::Format(format) => of_format(format, name, args),
            Self::Version([major, minor, patch], _) => match (name, args) {
                ("major", []) => Ok(Value::Int(*major as i64)),
                ("minor", []) => Ok(Value::Int(*minor as i64)),
                ("patch", []) => Ok(Value::Int(*patch as i64)),
                _ => failed("no such overload"),
            },
            Self::Access(access) => access.call(name, args),
            Self::Url(_) | Self::Record(_) | Self::Message(_) => failed("no such overload"),
        }
    }
}

fn of_quantity(of: Quantity, name: &str, args: &[Value]) -> Evaluated {
    let other = match args {
        [] => None,
        [Value::Int(number)] => Some(Quantity::from_units(*number, quantity::Format::DecimalSi)),
        [Value::Special(special)] => match &**special {
            Special::Quantity(other) => Some(*other),
            _ => return failed("no such overload"),
        },
        _ => return failed("no such overload"),
    };
    match (name, other) {
        ("sign", None) => Ok(Value::Int(of.nanos().signum() as i64)),
        ("isInteger", None) => {
            Ok(Value::Bool(of.is_whole() && i64::try_from(of.nanos() / 1_000_000_000).is_ok()))
        }
        ("asInteger", None) if of.is_whole() => Ok(Value::Int(of.value())),
        ("asInteger", None) => failed("cannot convert value to integer"),
        ("asApproximateFloat", None) => Ok(Value::Double(of.nanos() as f64 / 1e9)),
        ("add", Some(other)) => Ok(Special::Quantity(of + other).value()),
        ("sub", Some(other)) => Ok(Special::Quantity(of - other).value()),
        _ => failed("no such overload"),
    }
}

/// An address as Kubernetes takes it: no IPv4 in IPv6's clothes.
fn address(text: &str) -> Option<IpAddr> {
    text.parse()
        .ok()
        .filter(|address| !matches!(address, IpAddr::V6(address) if address.to_ipv4_mapped().is_some()))
}

fn cidr(text: &str) -> Option<Special> {
    let (address, length) = parse_cidr(text)?;
    Some(Special::Cidr(address, length as u8))
}

fn of_address(address: IpAddr, name: &str, args: &[Value]) -> Evaluated {
    if !args.is_empty() {
        return failed("no such overload");
    }
    let is_link_local = match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    let is_link_local_multicast = match address {
        IpAddr::V4(address) => address.octets()[..3] == [224, 0, 0],
        IpAddr::V6(address) => address.segments()[0] & 0xff0f == 0xff02,
    };
    let is_broadcast = matches!(address, IpAddr::V4(address) if address.is_broadcast());
    Ok(match name {
        "family" => Value::Int(if address.is_ipv4() { 4 } else { 6 }),
        "isUnspecified" => Value::Bool(address.is_unspecified()),
        "isLoopback" => Value::Bool(address.is_loopback()),
        "isLinkLocalMulticast" => Value::Bool(is_link_local_multicast),
        "isLinkLocalUnicast" => Value::Bool(is_link_local),
        "isGlobalUnicast" => Value::Bool(
            !(is_broadcast
                || is_link_local
                || address.is_unspecified()
                || address.is_loopback()
                || address.is_multicast()),
        ),
        _ => return failed("no such overload"),
    })
}

fn bits(address: IpAddr) -> (u128, u32) {
    match address {
        IpAddr::V4(address) => (u128::from(address.to_bits()) << 96, 32),
        IpAddr::V6(address) => (address.to_bits(), 128),
    }
}

fn masked(address: IpAddr, length: u8) -> IpAddr {
    let mask = |width: u32| u128::MAX.checked_shl(width - u32::from(length)).unwrap_or(0);
    match address {
        IpAddr::V4(address) => IpAddr::V4((address.to_bits() & mask(32) as u32).into()),
        IpAddr::V6(address) => IpAddr::V6((address.to_bits() & mask(128)).into()),
    }
}

fn of_network(address: IpAddr, length: u8, name: &str, args: &[Value]) -> Evaluated {
    let holds = |other: IpAddr, other_length: u32| {
        bits(address).1 == bits(other).1
            && other_length >= u32::from(length)
            && masked(address, length) == masked(other, length)
    };
    match (name, args) {
        ("ip", []) => Ok(Special::Ip(address).value()),
        ("masked", []) => Ok(Special::Cidr(masked(address, length), length).value()),
        ("prefixLength", []) => Ok(Value::Int(length.into())),
        ("containsIP" | "containsCIDR", [of]) => {
            let special = match of {
                Value::Special(special) => Some((**special).clone()),
                Value::String(text) if name == "containsIP" => self::address(text).map(Special::Ip),
                Value::String(text) => cidr(text),
                _ => None,
            };
            match special {
                Some(Special::Ip(other)) if name == "containsIP" => {
                    Ok(Value::Bool(holds(other, bits(other).1)))
                }
                Some(Special::Cidr(other, other_length)) if name == "containsCIDR" => {
                    Ok(Value::Bool(holds(other, other_length.into())))
                }
                _ => failed("no such overload"),
            }
        }
        _ => failed("no such overload"),
    }
}

fn url(text: &str) -> Option<Url> {
    let (rest, _) = text.split_once('#').unwrap_or((text, ""));
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let mut url = Url { text: text.into(), query: query.into(), ..Url::default() };
    let path = match rest.split_once("://") {
        Some((scheme, rest)) => {
            let is_scheme = scheme.starts_with(|first: char| first.is_ascii_alphabetic())
                && scheme
                    .chars()
                    .all(|character| character.is_ascii_alphanumeric() || "+-.".contains(character));
            let (host, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
            if !is_scheme || host.contains([' ', '\\']) {
                return None;
            }
            url.scheme = scheme.to_lowercase();
            url.host = host.rsplit('@').next().unwrap_or(host).into();
            path
        }
        None if rest.starts_with('/') => rest,
        None => return None,
    };
    url.path = path.replace(' ', "%20");
    Some(url)
}

fn of_url(url: &Url, name: &str) -> Evaluated {
    let (hostname, port) = match url.host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => (name, port),
        _ => (url.host.as_str(), ""),
    };
    Ok(match name {
        "getScheme" => Value::text(url.scheme.as_str()),
        "getHost" => Value::text(url.host.as_str()),
        "getHostname" => Value::text(hostname.trim_matches(['[', ']'])),
        "getPort" => Value::text(port),
        "getEscapedPath" => Value::text(url.path.as_str()),
        "getQuery" => {
            let mut query: BTreeMap<Key, Vec<Value>> = BTreeMap::new();
            for pair in url.query.split('&').filter(|pair| !pair.is_empty()) {
                let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
                let plain = |text: &str| {
                    let text = text.replace('+', " ");
                    percent_encoding::percent_decode_str(&text).decode_utf8_lossy().into_owned()
                };
                query.entry(Key::text(&plain(key))).or_default().push(Value::text(plain(value)));
            }
            Value::Map(Arc::new(query.into_iter().map(|(key, values)| (key, Value::list(values))).collect()))
        }
        _ => return failed("no such overload"),
    })
}

fn of_format(format: &'static str, name: &str, args: &[Value]) -> Evaluated {
    let ("validate", [Value::String(text)]) = (name, args) else { return failed("no such overload") };
    let problems = match format {
        "dns1123Label" => names::dns1123_label(text),
        "dns1123Subdomain" => names::dns1123_subdomain(text),
        "dns1035Label" => names::dns1035_label(text),
        "qualifiedName" => names::qualified_name(text),
        "labelValue" => names::label_value(text),
        "dns1123LabelPrefix" => names::label_name(text, true),
        "dns1123SubdomainPrefix" => names::subdomain_name(text, true),
        "dns1035LabelPrefix" => names::dns1035_name(text, true),
        other => {
            let checked = FORMATS.iter().find(|(known, _)| *known == other).map_or("", |(_, format)| format);
            if fits(checked, text) { Vec::new() } else { vec![format!("does not match {other}")] }
        }
    };
    let problems: Vec<Value> = problems.into_iter().map(Value::text).collect();
    Ok(Value::Optional((!problems.is_empty()).then(|| Box::new(Value::list(problems)))))
}

/// `1.2.3-rc.1+build`; leniently also `v1.2`.
fn version(text: &str, is_lenient: bool) -> Option<Special> {
    let text = if is_lenient { text.strip_prefix('v').unwrap_or(text) } else { text };
    let (text, _build) = text.split_once('+').unwrap_or((text, ""));
    let (core, rest) = text.split_once('-').unwrap_or((text, ""));
    let mut parts: Vec<&str> = core.split('.').collect();
    while is_lenient && parts.len() < 3 {
        parts.push("0");
    }
    let number = |part: &str| {
        let is_plain = is_lenient || part == "0" || !part.starts_with('0');
        part.parse::<u64>().ok().filter(|_| is_plain && !part.starts_with('+'))
    };
    match parts.as_slice() {
        [major, minor, patch] => {
            Some(Special::Version([number(major)?, number(minor)?, number(patch)?], rest.into()))
        }
        _ => None,
    }
}

fn prerelease(one: &str, other: &str) -> Ordering {
    let (mut one, mut other) = (one.split('.'), other.split('.'));
    loop {
        let order = match (one.next(), other.next()) {
            (None, None) => return Ordering::Equal,
            (None, Some(_)) => Ordering::Less,
            (Some(_), None) => Ordering::Greater,
            (Some(one), Some(other)) => match (one.parse::<u64>(), other.parse::<u64>()) {
                (Ok(one), Ok(other)) => one.cmp(&other),
                (Ok(_), Err(_)) => Ordering::Less,
                (Err(_), Ok(_)) => Ordering::Greater,
                (Err(_), Err(_)) => one.cmp(other),
            },
        };
        if order.is_ne() {
            return order;
        }
    }
}
