//! Which field of which message has which number: the table `types.txt`, read when it is first needed.

use std::{
    collections::{BTreeMap, HashMap},
    sync::OnceLock,
};

use naru_model::rfc3339;

static TYPES: &str = include_str!("types.txt");

/// The message of a kind, for kinds that are built in: custom resources are JSON only. Options and `Status` are of no
/// group of their own.
pub fn message(api_version: &str, kind: &str) -> Option<(&'static str, &'static Message)> {
    let name = match api_version.split_once('/') {
        _ if kind.ends_with("Options") || kind == "Status" => format!("meta/v1.{kind}"),
        None => format!("core/{api_version}.{kind}"),
        Some(("meta.k8s.io", _)) => format!("meta/v1.{kind}"),
        Some((group, version)) => {
            let short = group.strip_suffix(".k8s.io").unwrap_or(group);
            let short = short.strip_suffix(".apiserver").unwrap_or(short);
            let short = short.strip_suffix(".authorization").unwrap_or(short);
            if short.contains('.') {
                return None;
            }
            format!("{short}/{version}.{kind}")
        }
    };
    types().get_key_value(name.as_str()).map(|(name, message)| (*name, message))
}

/// The Go type that holds the field at `path` (names of fields, without indices) in objects of a kind, and the fields
/// on the way there, keys of maps left out: error messages name both. `None` for kinds that are not in the table.
pub fn go_field<'a>(api_version: &str, kind: &str, path: &[&'a str]) -> Option<(&'static str, Vec<&'a str>)> {
    let (name, _, fields) = holder(api_version, kind, path)?;
    Some((name.rsplit('.').next()?, fields))
}

/// Go's layout of the time at `path`, if that is what is there.
pub fn time_layout(api_version: &str, kind: &str, path: &[&str]) -> Option<&'static str> {
    let (_, message, fields) = holder(api_version, kind, path)?;
    match field(message, fields.last()?)?.kind {
        Kind::Time => Some(rfc3339::SECONDS),
        Kind::MicroTime => Some(rfc3339::MICROSECONDS),
        _ => None,
    }
}

/// A message with its name, and the fields that lead into it.
type Holder<'a> = (&'static str, &'static Message, Vec<&'a str>);

/// The message that has the field at `path`, and the way to that field.
fn holder<'a>(api_version: &str, kind: &str, path: &[&'a str]) -> Option<Holder<'a>> {
    let (mut name, mut message) = message(api_version, kind)?;
    let (mut holder, mut fields) = ((name, message), Vec::new());
    let mut steps = path.iter();
    while let Some(step) = steps.next() {
        holder = (name, message);
        fields.push(*step);
        let Some(field) = field(message, step) else {
            fields.extend(steps);
            break;
        };
        if field.shape == Shape::Map {
            steps.next(); // A key.
        }
        match field.kind {
            Kind::Message(inner) => (name, message) = (inner, &types()[inner]),
            _ => break, // Something that is simpler in JSON: its holder is the last type.
        }
    }
    Some((holder.0, holder.1, fields))
}

/// A field, be it the message's own or one of a message that stands among them.
fn field(message: &'static Message, name: &str) -> Option<&'static Field> {
    let inlined = message.values().filter_map(|field| match (field.name, field.kind) {
        (None, Kind::Message(inner)) => types().get(inner),
        _ => None,
    });
    let mut fields = inlined.flat_map(BTreeMap::values).chain(message.values());
    fields.find(|field| field.name == Some(name))
}

/// The message of a schema in a CustomResourceDefinition.
pub const SCHEMA: &str = "apiextensions/v1.JSONSchemaProps";

/// A message's fields by number.
pub type Message = BTreeMap<u32, Field>;

#[derive(Debug)]
pub struct Field {
    /// The name in JSON; `None` where the fields of the message stand in the parent's place.
    pub name: Option<&'static str>,
    pub shape: Shape,
    pub kind: Kind,
    /// Zero values are not there in JSON.
    pub drops_zero: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    One,
    List,
    Map,
}

#[derive(Debug, Clone, Copy)]
pub enum Kind {
    Text,
    Integer,
    Boolean,
    Double,
    Base64,
    Time,
    MicroTime,
    /// Nanoseconds in a message's first field; as Go prints them in JSON.
    Duration,
    Quantity,
    IntOrString,
    /// JSON in a message's first field.
    Raw,
    /// Strings in a message's first field.
    Texts,
    /// A schema, or whether everything is allowed.
    SchemaOrBool,
    /// A schema, or a list of them.
    SchemaOrList,
    /// A schema, or a list of strings.
    SchemaOrTexts,
    Message(&'static str),
}

pub fn types() -> &'static HashMap<&'static str, Message> {
    static PARSED: OnceLock<HashMap<&'static str, Message>> = OnceLock::new();
    PARSED.get_or_init(|| {
        let mut types: HashMap<&'static str, Message> = HashMap::new();
        let mut current = "";
        for line in TYPES.lines().filter(|line| !line.starts_with('#')) {
            if let Some(name) = line.strip_prefix('=') {
                current = name;
                types.entry(current).or_default();
            } else if let Some((number, field)) = parse_field(line) {
                types.entry(current).or_default().insert(number, field);
            }
        }
        types
    })
}

/// `13 ownerReferences []meta/v1.OwnerReference?`
fn parse_field(line: &'static str) -> Option<(u32, Field)> {
    let mut parts = line.split(' ');
    let (number, name, code) = (parts.next()?.parse().ok()?, parts.next()?, parts.next()?);
    let (code, drops_zero) = code.strip_suffix('?').map_or((code, false), |code| (code, true));
    let (code, shape) = match (code.strip_prefix("[]"), code.strip_prefix("{}")) {
        (Some(item), _) => (item, Shape::List),
        (_, Some(value)) => (value, Shape::Map),
        _ => (code, Shape::One),
    };
    let kind = match code {
        "s" => Kind::Text,
        "i" => Kind::Integer,
        "b" => Kind::Boolean,
        "d" => Kind::Double,
        "y" => Kind::Base64,
        "T" => Kind::Time,
        "M" => Kind::MicroTime,
        "D" => Kind::Duration,
        "Q" => Kind::Quantity,
        "I" => Kind::IntOrString,
        "R" => Kind::Raw,
        "L" => Kind::Texts,
        "SB" => Kind::SchemaOrBool,
        "SA" => Kind::SchemaOrList,
        "SL" => Kind::SchemaOrTexts,
        message => Kind::Message(message),
    };
    Some((number, Field { name: Some(name).filter(|name| *name != "-"), shape, kind, drops_zero }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_type_that_holds_a_field_is_known() {
        let check = |path: &str, expected: &str| {
            let path: Vec<&str> = path.split('.').collect();
            let (holder, fields) = go_field("apps/v1", "Deployment", &path).expect("a known kind");
            assert_eq!(format!("{holder}.{}", fields.join(".")), expected);
        };
        check("spec.replicas", "DeploymentSpec.spec.replicas");
        check("spec.template.spec.containers.image", "Container.spec.template.spec.containers.image");
        // Keys of maps are no fields.
        check("metadata.labels.app", "ObjectMeta.metadata.labels");
        check("spec.template.spec.nodeSelector.a", "PodSpec.spec.template.spec.nodeSelector");
        check("spec.nope.deeper", "DeploymentSpec.spec.nope.deeper");
        assert_eq!(go_field("example.com/v1", "Shop", &["spec"]), None);
        let layout = |path: &[&str]| time_layout("coordination.k8s.io/v1", "Lease", path);
        assert_eq!(layout(&["spec", "renewTime"]), Some(rfc3339::MICROSECONDS));
        assert_eq!(layout(&["metadata", "creationTimestamp"]), Some(rfc3339::SECONDS));
        assert_eq!(layout(&["spec", "holderIdentity"]), None);
    }

    #[test]
    fn every_message_that_a_field_names_is_known() {
        for field in types().values().flat_map(BTreeMap::values) {
            if let Kind::Message(name) = field.kind {
                assert!(types().contains_key(name), "{name}");
            }
        }
        assert!(types().len() > 300);
    }

    #[test]
    fn a_custom_kind_is_never_taken_for_a_built_in_one() {
        let name = |api_version, kind| message(api_version, kind).map(|(name, _)| name);
        assert_eq!(name("rbac.authorization.k8s.io/v1", "Role"), Some("rbac/v1.Role"));
        assert_eq!(name("flowcontrol.apiserver.k8s.io/v1", "FlowSchema"), Some("flowcontrol/v1.FlowSchema"));
        assert_eq!(name("v1", "Status"), Some("meta/v1.Status"));
        assert_eq!(name("apps.example.com/v1", "Deployment"), None);
    }
}
