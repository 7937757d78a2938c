//! Regular expressions as Go's RE2 understands them, on a machine that differs in little: `\d`, `\w` and `\s` mean
//! ASCII only.

use regex::{Regex, RegexBuilder};

/// What a compiled expression may take.
const SIZE_LIMIT_BYTES: usize = 1 << 20;

/// Compiles `text`, which matches anywhere in a string.
///
/// # Errors
/// What is wrong with it, in a line.
pub fn compile(text: &str) -> Result<Regex, String> {
    let build = |text: &str| RegexBuilder::new(text).size_limit(SIZE_LIMIT_BYTES).build();
    build(&ascii_classes(text)).map_err(|error| {
        let text = error.to_string();
        text.lines().last().unwrap_or_default().trim_start_matches("error: ").trim().to_owned()
    })
}

/// Writes the perl classes out.
fn ascii_classes(text: &str) -> String {
    let mut result = String::with_capacity(text.len() + 16);
    let mut is_in_class = false;
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => {
                let Some(escaped) = characters.next() else {
                    result.push('\\');
                    break;
                };
                let written = match escaped {
                    'd' => "0-9",
                    'w' => "0-9A-Za-z_",
                    's' => r"\t\n\f\r ",
                    'D' if !is_in_class => "^0-9",
                    'W' if !is_in_class => "^0-9A-Za-z_",
                    'S' if !is_in_class => r"^\t\n\f\r ",
                    // Go's \z and \Q have the same meaning here; RE2 has no other that Rust lacks.
                    other => {
                        result.push('\\');
                        result.push(other);
                        continue;
                    }
                };
                if is_in_class {
                    result.push_str(written);
                } else {
                    result.extend(["[", written, "]"]);
                }
            }
            '[' if !is_in_class => {
                is_in_class = true;
                result.push('[');
                // A bracket at the very start of a class is a member of it.
                let rest = characters.as_str();
                let skip = usize::from(rest.starts_with('^'));
                if rest[skip..].starts_with(']') {
                    result.push_str(&rest[..skip]);
                    result.push_str(r"\]");
                    characters = rest[skip + 1..].chars();
                }
            }
            // A named class keeps its brackets; any other is a plain character in Go.
            '[' if characters.as_str().starts_with(':') => {
                let rest = characters.as_str();
                match rest.find(":]") {
                    Some(end) => {
                        result.push('[');
                        result.push_str(&rest[..end + 2]);
                        characters = rest[end + 2..].chars();
                    }
                    None => result.push_str(r"\["),
                }
            }
            '[' => result.push_str(r"\["),
            // Set operations, which Go does not know.
            '&' | '~' if is_in_class => result.extend(['\\', character]),
            ']' if is_in_class => {
                is_in_class = false;
                result.push(']');
            }
            other => result.push(other),
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, text: &str) -> bool {
        compile(pattern).expect("a pattern").is_match(text)
    }

    #[test]
    fn classes_are_ascii() {
        assert!(matches(r"^\d+$", "123") && !matches(r"^\d+$", "١٢٣"));
        assert!(matches(r"^[\w.-]+$", "a_1.b") && !matches(r"^[\w]+$", "é"));
        assert!(matches(r"^\S+$", "é") && !matches(r"^\S+$", "a b"));
    }

    #[test]
    fn brackets_in_classes_are_members() {
        assert!(matches(r"^[[a]+$", "[a") && matches(r"^[]a]+$", "]a") && matches(r"^[^]]$", "a"));
        assert!(matches(r"^[[:alpha:]&&]+$", "a&"));
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        assert!(compile("(").is_err() && compile("a{100000}{100000}").is_err());
    }
}
