//! Label selectors and what they match.

use std::{collections::BTreeMap, fmt};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};

use super::{SelectorError, parse};
use crate::validation::names;

/// How a requirement relates a label to its values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operator {
    Equals,
    /// The same as `Equals`, written `==`.
    DoubleEquals,
    NotEquals,
    In,
    NotIn,
    Exists,
    DoesNotExist,
    GreaterThan,
    LessThan,
}

/// What is required of one label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Requirement {
    key: String,
    operator: Operator,
    /// Sorted, without doubles.
    values: Vec<String>,
}

/// A conjunction of requirements; without any, it matches everything.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Selector {
    /// Ordered by key.
    requirements: Vec<Requirement>,
    is_nothing: bool,
}

impl Selector {
    pub fn everything() -> Self {
        Self::default()
    }

    /// What an absent `metav1.LabelSelector` means.
    pub fn nothing() -> Self {
        Self { requirements: Vec::new(), is_nothing: true }
    }

    /// Parses the text form, as in `labelSelector=` of a request.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        parse::requirements(text).map(Self::of)
    }

    /// Equality with each of these labels: the selectors of Services and ReplicationControllers.
    pub fn from_labels(labels: &BTreeMap<String, String>) -> Self {
        let requirement = |(key, value): (&String, &String)| Requirement {
            key: key.clone(),
            operator: Operator::Equals,
            values: vec![value.clone()],
        };
        Self::of(labels.iter().map(requirement).collect())
    }

    /// The API form; `None` matches nothing, an empty selector everything.
    pub fn from_api(selector: Option<&LabelSelector>) -> Result<Self, SelectorError> {
        let Some(selector) = selector else { return Ok(Self::nothing()) };
        let mut requirements = Vec::new();
        for (key, value) in selector.match_labels.iter().flatten() {
            requirements.push(Requirement::new(key, Operator::Equals, vec![value.clone()])?);
        }
        for expression in selector.match_expressions.iter().flatten() {
            let operator = match expression.operator.as_str() {
                "In" => Operator::In,
                "NotIn" => Operator::NotIn,
                "Exists" => Operator::Exists,
                "DoesNotExist" => Operator::DoesNotExist,
                other => {
                    return Err(SelectorError(format!("{other:?} is not a valid label selector operator")));
                }
            };
            let values = expression.values.clone().unwrap_or_default();
            requirements.push(Requirement::new(&expression.key, operator, values)?);
        }
        Ok(Self::of(requirements))
    }

    fn of(mut requirements: Vec<Requirement>) -> Self {
        requirements.sort_by(|left, right| left.key.cmp(&right.key));
        Self { requirements, is_nothing: false }
    }

    /// Whether it restricts nothing.
    pub fn is_everything(&self) -> bool {
        self.requirements.is_empty() && !self.is_nothing
    }

    pub fn requirements(&self) -> &[Requirement] {
        &self.requirements
    }

    /// Takes the map itself or the optional one of `ObjectMeta`.
    pub fn matches<'a>(&self, labels: impl Into<Option<&'a BTreeMap<String, String>>>) -> bool {
        let labels = labels.into();
        !self.is_nothing && self.requirements.iter().all(|requirement| requirement.matches(labels))
    }
}

impl Requirement {
    pub fn new(key: &str, operator: Operator, mut values: Vec<String>) -> Result<Self, SelectorError> {
        let mut problems = Vec::new();
        let keys = names::qualified_name(key);
        if !keys.is_empty() {
            problems.push(format!("key: Invalid value: {key:?}: {}", keys.join("; ")));
        }
        if let Some(problem) = operator.count_problem(values.len()) {
            problems.push(format!("values: Invalid value: {}: {problem}", serde_json::json!(values)));
        }
        for (index, value) in values.iter().enumerate() {
            if operator.is_numeric() && value.parse::<i64>().is_err() {
                let rule = "for 'Gt', 'Lt' operators, the value must be an integer";
                problems.push(format!("values[{index}]: Invalid value: {value:?}: {rule}"));
            }
            let faults = names::label_value(value);
            if !faults.is_empty() {
                problems
                    .push(format!("values[{index}][{key}]: Invalid value: {value:?}: {}", faults.join("; ")));
            }
        }
        values.sort();
        values.dedup();
        match problems.as_slice() {
            [] => Ok(Self { key: key.into(), operator, values }),
            [one] => Err(SelectorError(one.clone())),
            many => Err(SelectorError(format!("[{}]", many.join(", ")))),
        }
    }

    pub fn key(&self) -> &str {
        &self.key
    }

    pub fn operator(&self) -> Operator {
        self.operator
    }

    pub fn values(&self) -> &[String] {
        &self.values
    }

    fn matches(&self, labels: Option<&BTreeMap<String, String>>) -> bool {
        let value = labels.and_then(|labels| labels.get(&self.key)).map(String::as_str);
        self.operator.holds(value, &self.values)
    }
}

impl Operator {
    fn is_numeric(self) -> bool {
        matches!(self, Self::GreaterThan | Self::LessThan)
    }

    fn count_problem(self, count: usize) -> Option<&'static str> {
        match self {
            Self::In | Self::NotIn if count == 0 => {
                Some("for 'in', 'notin' operators, values set can't be empty")
            }
            Self::Equals | Self::DoubleEquals | Self::NotEquals if count != 1 => {
                Some("exact-match compatibility requires one single value")
            }
            Self::Exists | Self::DoesNotExist if count != 0 => {
                Some("values set must be empty for exists and does not exist")
            }
            Self::GreaterThan | Self::LessThan if count != 1 => {
                Some("for 'Gt', 'Lt' operators, exactly one value is required")
            }
            _ => None,
        }
    }

    /// Whether a label's value (`None`: the label is absent) satisfies the operator.
    pub fn holds(self, value: Option<&str>, values: &[String]) -> bool {
        let is_listed = |value: &str| values.iter().any(|listed| listed == value);
        let compares = |check: fn(i64, i64) -> bool| {
            let label = value.and_then(|value| value.parse().ok());
            let limit = values.first().and_then(|limit| limit.parse().ok());
            label.zip(limit).is_some_and(|(label, limit)| check(label, limit))
        };
        match self {
            Self::Equals | Self::DoubleEquals | Self::In => value.is_some_and(is_listed),
            Self::NotEquals | Self::NotIn => !value.is_some_and(is_listed),
            Self::Exists => value.is_some(),
            Self::DoesNotExist => value.is_none(),
            Self::GreaterThan => compares(|label, limit| label > limit),
            Self::LessThan => compares(|label, limit| label < limit),
        }
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (key, values) = (&self.key, self.values.join(","));
        match self.operator {
            Operator::Equals => write!(formatter, "{key}={values}"),
            Operator::DoubleEquals => write!(formatter, "{key}=={values}"),
            Operator::NotEquals => write!(formatter, "{key}!={values}"),
            Operator::In => write!(formatter, "{key} in ({values})"),
            Operator::NotIn => write!(formatter, "{key} notin ({values})"),
            Operator::Exists => formatter.write_str(key),
            Operator::DoesNotExist => write!(formatter, "!{key}"),
            Operator::GreaterThan => write!(formatter, "{key}>{values}"),
            Operator::LessThan => write!(formatter, "{key}<{values}"),
        }
    }
}

/// The text form; `Selector::parse` reads it back.
impl fmt::Display for Selector {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, requirement) in self.requirements.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(formatter, "{comma}{requirement}")?;
        }
        Ok(())
    }
}

/// Whether the API form matches, without converting it first. Invalid operators match nothing.
pub fn matches_api<'a>(
    selector: &LabelSelector,
    labels: impl Into<Option<&'a BTreeMap<String, String>>>,
) -> bool {
    let labels = labels.into();
    let value = |key: &str| labels.and_then(|labels| labels.get(key)).map(String::as_str);
    selector.match_labels.iter().flatten().all(|(key, wanted)| value(key) == Some(wanted))
        && selector
            .match_expressions
            .iter()
            .flatten()
            .all(|expression| holds(expression, value(&expression.key)))
}

fn holds(expression: &LabelSelectorRequirement, value: Option<&str>) -> bool {
    let operator = match expression.operator.as_str() {
        "In" => Operator::In,
        "NotIn" => Operator::NotIn,
        "Exists" => Operator::Exists,
        "DoesNotExist" => Operator::DoesNotExist,
        _ => return false,
    };
    operator.holds(value, expression.values.as_deref().unwrap_or_default())
}

/// The API form as `kubectl` prints it and as the `scale` subresource answers it: "<none>" if there is none.
pub fn format_api(selector: Option<&LabelSelector>) -> String {
    match Selector::from_api(selector) {
        Ok(selector) if selector.requirements.is_empty() => "<none>".into(),
        Ok(selector) => selector.to_string(),
        Err(_) => "<error>".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(text: &str) -> BTreeMap<String, String> {
        let pairs = text.split(',').filter_map(|pair| pair.split_once('='));
        pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
    }

    fn check(selector: &str, object: &str, expected: bool) {
        let parsed = Selector::parse(selector).expect(selector);
        assert_eq!(parsed.matches(&labels(object)), expected, "{selector:?} on {object:?}");
        let again = Selector::parse(&parsed.to_string()).expect("what we print parses");
        assert_eq!(again, parsed);
    }

    #[test]
    fn text_selectors_match_as_in_kubernetes() {
        for (selector, object, expected) in [
            ("", "", true),
            ("", "a=b", true),
            ("a=b", "a=b", true),
            ("a==b", "a=b", true),
            ("a=b", "a=c", false),
            ("a=b", "", false),
            ("a!=b", "a=c", true),
            ("a!=b", "", true),
            ("a!=b", "a=b", false),
            ("a=", "a=", true),
            ("a=", "", false),
            ("a=,b=c", "a=,b=c", true),
            ("a in (b,c)", "a=c", true),
            ("a in (b,c)", "a=d", false),
            ("a in (,b)", "a=", true),
            ("a in ()", "a=", true),
            ("a notin (b)", "a=c", true),
            ("a notin (b)", "", true),
            ("a notin (b)", "a=b", false),
            ("a", "a=x", true),
            ("a", "b=x", false),
            ("!a", "b=x", true),
            ("! a", "a=x", false),
            ("a>5", "a=6", true),
            ("a>5", "a=5", false),
            ("a<5", "a=4", true),
            ("a<5", "a=x", false),
            ("a<5", "", false),
            (" a = b , c in ( d , e ) ", "a=b,c=e", true),
            ("in in (in,notin)", "in=notin", true),
            ("example.com/a=b", "example.com/a=b", true),
        ] {
            check(selector, object, expected);
        }
    }

    #[test]
    fn selectors_print_ordered_by_key() {
        let selector = Selector::parse("z,!y,x notin (b,a,b),w in (c),v=1,u==2,t!=3,s>4,r<5").expect("valid");
        assert_eq!(selector.to_string(), "r<5,s>4,t!=3,u==2,v=1,w in (c),x notin (a,b),!y,z");
    }

    #[test]
    fn the_api_form_means_the_same() {
        let api: LabelSelector = serde_json::from_value(serde_json::json!({
            "matchLabels": {"app": "web"},
            "matchExpressions": [{"key": "tier", "operator": "NotIn", "values": ["db"]}, {"key": "x", "operator": "Exists"}],
        }))
        .expect("a selector");
        let selector = Selector::from_api(Some(&api)).expect("valid");
        assert_eq!(format_api(Some(&api)), "app=web,tier notin (db),x");
        for (object, expected) in
            [("app=web,x=1", true), ("app=web,x=1,tier=db", false), ("app=web", false), ("x=1", false)]
        {
            assert_eq!(selector.matches(&labels(object)), expected, "{object}");
            assert_eq!(matches_api(&api, &labels(object)), expected, "{object}");
        }
    }

    #[test]
    fn an_absent_selector_matches_nothing_and_an_empty_one_everything() {
        let empty = LabelSelector::default();
        assert!(!Selector::from_api(None).expect("valid").matches(None));
        assert!(Selector::from_api(Some(&empty)).expect("valid").matches(None));
        assert!(Selector::everything().is_everything() && !Selector::nothing().is_everything());
        assert_eq!(format_api(Some(&empty)), "<none>");
    }

    #[test]
    fn bad_api_selectors_are_refused() {
        let selector = |operator: &str, values: Option<Vec<String>>| LabelSelector {
            match_expressions: Some(vec![LabelSelectorRequirement {
                key: "a".into(),
                operator: operator.into(),
                values,
            }]),
            match_labels: None,
        };
        let error = |selector| Selector::from_api(Some(&selector)).expect_err("invalid").to_string();
        assert_eq!(error(selector("Has", None)), "\"Has\" is not a valid label selector operator");
        assert_eq!(
            error(selector("In", None)),
            "values: Invalid value: []: for 'in', 'notin' operators, values set can't be empty"
        );
        assert_eq!(
            error(selector("Exists", Some(vec!["x".into()]))),
            "values: Invalid value: [\"x\"]: values set must be empty for exists and does not exist"
        );
    }
}
