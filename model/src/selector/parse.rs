//! The text form of label selectors.
//!
//! ```text
//! selector    = requirement { "," requirement }
//! requirement = [ "!" ] key | key ( "=" | "==" | "!=" | ">" | "<" ) value | key ( "in" | "notin" ) "(" values ")"
//! ```

use super::{Operator, Requirement, SelectorError};
use crate::validation::names;

type Result<T> = std::result::Result<T, SelectorError>;

/// A word or a symbol; the end of the text is the empty symbol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token<'a> {
    Word(&'a str),
    Symbol(&'a str),
    /// Symbol characters that make no symbol.
    Broken(&'a str),
}

impl Token<'_> {
    const END: Token<'static> = Token::Symbol("");

    /// As an error message quotes it.
    fn literal(&self) -> String {
        match self {
            Self::Word(text) | Self::Symbol(text) => (*text).to_owned(),
            Self::Broken(text) => format!("error expected: keyword found '{text}'"),
        }
    }
}

pub(super) fn requirements(text: &str) -> Result<Vec<Requirement>> {
    let mut parser = Parser { rest: text };
    let mut requirements = Vec::new();
    loop {
        match parser.peek() {
            Token::Word(_) | Token::Symbol("!") => {
                let requirement = parser.requirement();
                requirements.push(
                    requirement.map_err(|error| failure(format!("unable to parse requirement: {error}")))?,
                );
            }
            Token::END => return Ok(requirements),
            other => return expected(other, ", expected: !, identifier, or 'end of string'"),
        }
        match parser.next() {
            Token::END => return Ok(requirements),
            Token::Symbol(",") => match parser.peek() {
                Token::Word(_) | Token::Symbol("!") => (),
                other => return expected(other, ", expected: identifier after ','"),
            },
            other => return expected(other, ", expected: ',' or 'end of string'"),
        }
    }
}

fn failure(text: String) -> SelectorError {
    SelectorError(text)
}

fn expected<T>(found: Token<'_>, what: &str) -> Result<T> {
    Err(failure(format!("found '{}'{what}", found.literal())))
}

struct Parser<'a> {
    rest: &'a str,
}

impl<'a> Parser<'a> {
    fn requirement(&mut self) -> Result<Requirement> {
        let mut token = self.next();
        let is_negated = token == Token::Symbol("!");
        if is_negated {
            token = self.next();
        }
        let Token::Word(key) = token else { return expected(token, ", expected: identifier") };
        let problems = names::qualified_name(key);
        if !problems.is_empty() {
            return Err(failure(format!("<nil>: Invalid value: {key:?}: {}", problems.join("; "))));
        }
        if is_negated {
            return Requirement::new(key, Operator::DoesNotExist, Vec::new());
        }
        if matches!(self.peek(), Token::END | Token::Symbol(",")) {
            return Requirement::new(key, Operator::Exists, Vec::new());
        }
        let operator = self.operator()?;
        let values = match operator {
            Operator::In | Operator::NotIn => self.values()?,
            _ => vec![self.exact_value()?],
        };
        Requirement::new(key, operator, values)
    }

    fn operator(&mut self) -> Result<Operator> {
        Ok(match self.next() {
            Token::Word("in") => Operator::In,
            Token::Word("notin") => Operator::NotIn,
            Token::Symbol("=") => Operator::Equals,
            Token::Symbol("==") => Operator::DoubleEquals,
            Token::Symbol("!=") => Operator::NotEquals,
            Token::Symbol(">") => Operator::GreaterThan,
            Token::Symbol("<") => Operator::LessThan,
            other => return expected(other, ", expected: in, notin, =, ==, !=, gt, lt"),
        })
    }

    /// `(a,b)`; a missing value is the empty text, as in `(a,)` and `()`.
    fn values(&mut self) -> Result<Vec<String>> {
        match self.next() {
            Token::Symbol("(") => (),
            other => return expected(other, " expected: '('"),
        }
        let mut values = Vec::new();
        loop {
            let value = match self.peek() {
                Token::Word(word) => {
                    self.next();
                    word
                }
                Token::Symbol("," | ")") => "",
                other => return expected(other, ", expected: ',', ')' or identifier"),
            };
            values.push(value.to_owned());
            match self.next() {
                Token::Symbol(",") => (),
                Token::Symbol(")") => return Ok(values),
                other => return expected(other, ", expected: ',' or ')'"),
            }
        }
    }

    fn exact_value(&mut self) -> Result<String> {
        match self.peek() {
            Token::END | Token::Symbol(",") => Ok(String::new()),
            Token::Word(word) => {
                self.next();
                Ok(word.to_owned())
            }
            other => expected(other, ", expected: identifier"),
        }
    }

    fn peek(&self) -> Token<'a> {
        self.token().0
    }

    fn next(&mut self) -> Token<'a> {
        let (token, rest) = self.token();
        self.rest = rest;
        token
    }

    fn token(&self) -> (Token<'a>, &'a str) {
        let text = self.rest.trim_start_matches([' ', '\t', '\r', '\n']);
        let is_symbol = |character: char| "=!(),<>".contains(character);
        if !text.starts_with(is_symbol) {
            let end = text.find(|character| is_symbol(character) || " \t\r\n".contains(character));
            let (word, rest) = text.split_at(end.unwrap_or(text.len()));
            return (if word.is_empty() { Token::END } else { Token::Word(word) }, rest);
        }
        for symbol in ["==", "!=", "=", "!", "(", ")", ",", "<", ">"] {
            if let Some(rest) = text.strip_prefix(symbol) {
                return (Token::Symbol(symbol), rest);
            }
        }
        (Token::Broken(text), "")
    }
}

#[cfg(test)]
mod tests {
    use crate::selector::Selector;

    fn check(text: &str, expected: &str) {
        let error = Selector::parse(text).expect_err(text).to_string();
        assert_eq!(error, expected, "{text:?}");
    }

    #[test]
    fn errors_are_worded_as_kubernetes_words_them() {
        for (text, expected) in [
            (",", "found ',', expected: !, identifier, or 'end of string'"),
            ("a,", "found '', expected: identifier after ','"),
            ("a,,b", "found ',', expected: identifier after ','"),
            ("a b", "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt"),
            ("a=b c", "found 'c', expected: ',' or 'end of string'"),
            ("a==(b)", "unable to parse requirement: found '(', expected: identifier"),
            ("a in b", "unable to parse requirement: found 'b' expected: '('"),
            ("a in (b", "unable to parse requirement: found '', expected: ',' or ')'"),
            ("a in (b c)", "unable to parse requirement: found 'c', expected: ',' or ')'"),
            ("!", "unable to parse requirement: found '', expected: identifier"),
            ("!a=b", "found '=', expected: ',' or 'end of string'"),
            (
                "a>x",
                "unable to parse requirement: values[0]: Invalid value: \"x\": for 'Gt', 'Lt' operators, the value must be an integer",
            ),
        ] {
            check(text, expected);
        }
    }

    #[test]
    fn keys_and_values_are_checked() {
        let error = Selector::parse("a.b/c/d=e").expect_err("invalid").to_string();
        assert!(
            error.starts_with(
                "unable to parse requirement: <nil>: Invalid value: \"a.b/c/d\": a valid label key"
            ),
            "{error}"
        );
        let error = Selector::parse("a=-").expect_err("invalid").to_string();
        assert!(
            error.starts_with(
                "unable to parse requirement: values[0][a]: Invalid value: \"-\": a valid label"
            ),
            "{error}"
        );
    }

    #[test]
    fn no_text_makes_the_parser_panic() {
        use rand::{Rng, SeedableRng, rngs::StdRng};
        let mut random = StdRng::seed_from_u64(3);
        let pieces =
            ["a", "in", "notin", "(", ")", ",", "=", "==", "!", "!=", ">", "<", " ", "é", "-", "/", "5"];
        for _ in 0..20_000 {
            let length = random.random_range(0..9);
            let text: String = (0..length).map(|_| pieces[random.random_range(0..pieces.len())]).collect();
            if let Ok(selector) = Selector::parse(&text) {
                assert_eq!(Selector::parse(&selector.to_string()).as_ref(), Ok(&selector), "{text:?}");
            }
        }
    }
}
