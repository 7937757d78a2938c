//! Field selectors: `metadata.name=web,status.phase!=Running`.

use std::fmt;

use super::SelectorError;

/// One field compared with one value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldTerm {
    pub field: String,
    pub value: String,
    /// `=` and `==`, or `!=`.
    pub is_equal: bool,
}

/// A conjunction of terms; without any, it matches everything.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FieldSelector {
    terms: Vec<FieldTerm>,
}

impl FieldSelector {
    /// In values `\`, `,` and `=` are escaped with a backslash.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let mut parts = split_terms(text);
        parts.sort_unstable();
        let term = |part: &str| {
            let parsed = split_term(part);
            let (field, is_equal, value) = parsed.ok_or_else(|| {
                SelectorError(format!("invalid selector: '{text}'; can't understand '{part}'"))
            })?;
            Ok(FieldTerm { field: field.into(), value: unescape(value)?, is_equal })
        };
        let terms = parts.into_iter().filter(|part| !part.is_empty()).map(term);
        Ok(Self { terms: terms.collect::<Result<_, _>>()? })
    }

    /// Matches objects whose `field` equals `value`.
    pub fn equal(field: &str, value: &str) -> Self {
        Self { terms: vec![FieldTerm { field: field.into(), value: value.into(), is_equal: true }] }
    }

    pub fn terms(&self) -> &[FieldTerm] {
        &self.terms
    }

    pub fn is_everything(&self) -> bool {
        self.terms.is_empty()
    }

    /// The value that `field` must have, if the selector fixes one: lets a list go straight to a name.
    pub fn required(&self, field: &str) -> Option<&str> {
        let mut fixed = self.terms.iter().filter(|term| term.is_equal && term.field == field);
        fixed.next().map(|term| term.value.as_str())
    }

    /// `value_of` answers a field's value, "" where it is unset.
    pub fn matches<S: AsRef<str>>(&self, value_of: impl Fn(&str) -> S) -> bool {
        self.terms.iter().all(|term| (value_of(&term.field).as_ref() == term.value) == term.is_equal)
    }
}

impl fmt::Display for FieldSelector {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, term) in self.terms.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            let operator = if term.is_equal { "=" } else { "!=" };
            write!(formatter, "{comma}{}{operator}{}", term.field, escape(&term.value))?;
        }
        Ok(())
    }
}

/// Splits at commas that are not escaped.
fn split_terms(text: &str) -> Vec<&str> {
    let (mut terms, mut start, mut is_escaped) = (Vec::new(), 0, false);
    for (index, character) in text.char_indices() {
        match character {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            ',' => {
                terms.push(&text[start..index]);
                start = index + 1;
            }
            _ => (),
        }
    }
    terms.push(&text[start..]);
    terms
}

/// Field, whether it must equal, value. The first operator splits; fields cannot hold one.
fn split_term(term: &str) -> Option<(&str, bool, &str)> {
    let at = term.find('=')?;
    let (before, after) = (&term[..at], &term[at + 1..]);
    match before.strip_suffix('!') {
        Some(field) => Some((field, false, after)),
        None => Some((before, true, after.strip_prefix('=').unwrap_or(after))),
    }
}

fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace(',', "\\,").replace('=', "\\=")
}

fn unescape(value: &str) -> Result<String, SelectorError> {
    let mut plain = String::with_capacity(value.len());
    let mut characters = value.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => match characters.next() {
                Some(escaped @ ('\\' | ',' | '=')) => plain.push(escaped),
                other => {
                    let sequence: String = std::iter::once('\\').chain(other).collect();
                    return Err(SelectorError(format!(
                        "invalid field selector: invalid escape sequence: {sequence}"
                    )));
                }
            },
            ',' | '=' => {
                let code = u32::from(character);
                return Err(SelectorError(format!(
                    "invalid field selector: unescaped character in value: {code}"
                )));
            }
            other => plain.push(other),
        }
    }
    Ok(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(selector: &str, expected: bool) {
        let parsed = FieldSelector::parse(selector).expect(selector);
        let value_of = |field: &str| match field {
            "metadata.name" => "web",
            "odd" => "a,b=c\\d",
            _ => "",
        };
        assert_eq!(parsed.matches(value_of), expected, "{selector}");
        assert_eq!(FieldSelector::parse(&parsed.to_string()), Ok(parsed), "{selector}");
    }

    #[test]
    fn fields_are_compared() {
        for (selector, expected) in [
            ("", true),
            (",", true),
            ("metadata.name=web", true),
            ("metadata.name==web", true),
            ("metadata.name!=web", false),
            ("metadata.name!=other", true),
            ("metadata.name=web,spec.nodeName=", true),
            ("metadata.name=web,spec.nodeName!=", false),
            ("spec.nodeName!=x,metadata.name=web", true),
            ("odd=a\\,b\\=c\\\\d", true),
            ("odd!=a\\,b\\=c\\\\d", false),
        ] {
            check(selector, expected);
        }
    }

    #[test]
    fn a_fixed_field_is_found() {
        let selector = FieldSelector::parse("metadata.name=web,spec.nodeName!=n").expect("valid");
        assert_eq!(selector.required("metadata.name"), Some("web"));
        assert_eq!(selector.required("spec.nodeName"), None);
        assert_eq!(FieldSelector::equal("a", "b").to_string(), "a=b");
    }

    #[test]
    fn errors_are_worded_as_kubernetes_words_them() {
        for (text, expected) in [
            ("web", "invalid selector: 'web'; can't understand 'web'"),
            ("a=b,c", "invalid selector: 'a=b,c'; can't understand 'c'"),
            ("a=b=c", "invalid field selector: unescaped character in value: 61"),
            ("a=b\\x", "invalid field selector: invalid escape sequence: \\x"),
            ("a=b\\", "invalid field selector: invalid escape sequence: \\"),
        ] {
            assert_eq!(FieldSelector::parse(text).expect_err(text).to_string(), expected);
        }
    }
}
