//! JSON as text: where in it something is, and which fields it sets twice.

use std::collections::HashSet;

use naru_model::rfc3339;
use serde_json::Value;

/// What nests deeper is refused by the decoder, and must not overflow the stack before.
const MAX_DEPTH: usize = 128;
/// So many odd times are noted of one body: more than any object has.
const MOST_TIMES: usize = 4096;

/// Where in `json` serde stopped.
pub fn offset(json: &[u8], error: &serde_json::Error) -> usize {
    let line = error.line().saturating_sub(1);
    let start: usize = json.split_inclusive(|byte| *byte == b'\n').take(line).map(<[u8]>::len).sum();
    (start + error.column()).min(json.len())
}

/// The string that ends at byte `stop`, as it stands in the text.
pub fn text_before(json: &[u8], stop: usize) -> Option<&str> {
    let before = json.get(..stop)?;
    let end = before.iter().rposition(|byte| *byte == b'"')?;
    let start = before[..end].iter().rposition(|byte| *byte == b'"')?;
    std::str::from_utf8(&before[start + 1..end]).ok()
}

/// The paths of fields that an object names twice. `json` need not be valid; what is found until the first
/// error is answered.
pub fn duplicates(json: &[u8]) -> Vec<String> {
    let mut scanner = Scanner::new(json, usize::MAX);
    scanner.value();
    scanner.duplicates
}

/// What is to be known of a body beside what it says.
pub struct Survey {
    /// As [`duplicates`] answers them.
    pub duplicates: Vec<String>,
    /// Texts that may be times, and are not written as times mostly are; with their paths.
    pub odd_times: Vec<(String, String)>,
}

/// Looks at all of `json` once. `has_micros` where times without six digits of a fraction are odd, too.
pub fn survey(json: &[u8], has_micros: bool) -> Survey {
    let mut scanner = Scanner { times: Some(has_micros), ..Scanner::new(json, usize::MAX) };
    scanner.value();
    Survey { duplicates: scanner.duplicates, odd_times: scanner.odd_times }
}

/// What is to be known of a value that has no text any more.
#[derive(Default)]
pub struct Oddities {
    /// The odd times of [`survey`].
    pub times: Vec<(String, String)>,
    pub has_nulls: bool,
}

/// Looks at all of `value` once, as [`survey`] does at text.
pub fn oddities(value: &Value, has_micros: bool) -> Oddities {
    let mut found = Oddities::default();
    note_oddities(value, has_micros, &mut Vec::new(), &mut found);
    found
}

fn note_oddities<'a>(value: &'a Value, has_micros: bool, path: &mut Vec<Step<'a>>, found: &mut Oddities) {
    let mut inside = |step, inner| {
        path.push(step);
        note_oddities(inner, has_micros, path, found);
        path.pop();
    };
    match value {
        Value::Object(map) => map.iter().for_each(|(key, inner)| inside(Step::Field(key.as_bytes()), inner)),
        Value::Array(list) => list.iter().enumerate().for_each(|(at, inner)| inside(Step::Index(at), inner)),
        Value::String(text)
            if may_be_time(text.as_bytes())
                && !rfc3339::is_plain(text.as_bytes(), has_micros)
                && found.times.len() < MOST_TIMES =>
        {
            found.times.push((place(path), text.clone()));
        }
        Value::Null => found.has_nulls = true,
        _ => (),
    }
}

/// By its first byte; whatever else begins so is told apart by its path later. An escape may stand for a digit.
fn may_be_time(text: &[u8]) -> bool {
    matches!(text.first(), Some(b'0'..=b'9' | b'+' | b'-' | b'\\'))
}

/// The field that byte `stop` belongs to: `spec.containers[0].image`.
pub fn path_at(json: &[u8], stop: usize) -> String {
    let mut scanner = Scanner::new(json, stop);
    scanner.value();
    scanner.place()
}

/// Walks JSON text without building anything, keeping track of where it is.
struct Scanner<'a> {
    json: &'a [u8],
    at: usize,
    /// The walk ends here.
    stop: usize,
    path: Vec<Step<'a>>,
    duplicates: Vec<String>,
    /// Whether times are looked at, and then whether they need six digits of a fraction.
    times: Option<bool>,
    odd_times: Vec<(String, String)>,
}

enum Step<'a> {
    Field(&'a [u8]),
    Index(usize),
}

/// `spec.containers[0].image`
fn place(path: &[Step<'_>]) -> String {
    let mut text = String::new();
    for step in path {
        match step {
            Step::Field(name) => {
                if !text.is_empty() {
                    text.push('.');
                }
                text.push_str(&String::from_utf8_lossy(name));
            }
            Step::Index(index) => text.extend(["[", &index.to_string(), "]"]),
        }
    }
    text
}

impl<'a> Scanner<'a> {
    fn new(json: &'a [u8], stop: usize) -> Self {
        let (path, duplicates, odd_times) = (Vec::new(), Vec::new(), Vec::new());
        Self { json, at: 0, stop, path, duplicates, times: None, odd_times }
    }

    /// Notes a text if it may be an odd time. So many are noted of one body as bodies reasonably have.
    fn note_time(&mut self, text: &[u8], has_micros: bool) {
        if self.odd_times.len() == MOST_TIMES || rfc3339::is_plain(text, has_micros) {
            return;
        }
        let quoted = [b"\"", text, b"\""].concat();
        if let Ok(text) = serde_json::from_slice(&quoted) {
            self.odd_times.push((self.place(), text));
        }
    }

    fn place(&self) -> String {
        place(&self.path)
    }

    fn space(&mut self) -> Option<u8> {
        while self.json.get(self.at)?.is_ascii_whitespace() {
            self.at += 1;
        }
        Some(self.json[self.at])
    }

    /// Passes one value; `None` once the walk is over.
    fn value(&mut self) -> Option<()> {
        if self.path.len() > MAX_DEPTH {
            return None;
        }
        match self.space()? {
            b'{' => self.object(),
            b'[' => self.array(),
            b'"' => {
                let text = self.string()?;
                if let Some(has_micros) = self.times.filter(|_| may_be_time(text)) {
                    self.note_time(text, has_micros);
                }
                Some(())
            }
            _ => {
                let start = self.at;
                while self.json.get(self.at).is_some_and(|byte| !b",]} \t\r\n".contains(byte)) {
                    self.at += 1;
                }
                // A bracket that closes nothing is no value: who asked for one would ask for ever.
                (start < self.at && self.at < self.stop).then_some(())
            }
        }
    }

    fn string(&mut self) -> Option<&'a [u8]> {
        let start = self.at + 1;
        let mut end = start;
        loop {
            match self.json.get(end)? {
                b'"' => break,
                b'\\' => end += 2,
                _ => end += 1,
            }
        }
        self.at = end + 1;
        (self.at < self.stop).then_some(&self.json[start..end])
    }

    fn object(&mut self) -> Option<()> {
        self.at += 1;
        let mut names: Vec<&[u8]> = Vec::new();
        let mut many: HashSet<&[u8]> = HashSet::new();
        loop {
            match self.space()? {
                b'}' => break,
                b',' => self.at += 1,
                b'"' => {
                    let name = self.string()?;
                    self.path.push(Step::Field(name));
                    // Few fields are compared one by one; a set is for maps such as large ConfigMaps.
                    let is_known = if names.len() < 16 {
                        names.contains(&name)
                    } else {
                        if many.is_empty() {
                            many.extend(&names);
                        }
                        !many.insert(name)
                    };
                    if is_known {
                        let place = self.place();
                        self.duplicates.push(place);
                    }
                    names.push(name);
                    if self.space()? != b':' {
                        return None;
                    }
                    self.at += 1;
                    self.value()?;
                    self.path.pop();
                }
                _ => return None,
            }
        }
        self.at += 1;
        (self.at < self.stop).then_some(())
    }

    fn array(&mut self) -> Option<()> {
        self.at += 1;
        let mut index = 0;
        loop {
            match self.space()? {
                b']' => break,
                b',' => self.at += 1,
                _ => {
                    self.path.push(Step::Index(index));
                    self.value()?;
                    self.path.pop();
                    index += 1;
                }
            }
        }
        self.at += 1;
        (self.at < self.stop).then_some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_times_are_found_in_text_and_in_values() {
        let json = br#"{"a":["2026-01-02T03:04:05Z",{"b":"2026-01-02t03:04:05z"}],"\u0032":"\u0032026","c":7,"d":"x"}"#;
        let expected = [("a[1].b", "2026-01-02t03:04:05z"), ("2", "2026")];
        let value: Value = serde_json::from_slice(json).expect("JSON");
        let mut in_value = oddities(&value, false).times;
        in_value.sort_by_key(|(path, _)| path.len());
        in_value.reverse();
        let texts =
            |found: &[(String, String)]| -> Vec<String> { found.iter().map(|of| of.1.clone()).collect() };
        assert_eq!(in_value, expected.map(|(path, text)| (path.to_owned(), text.to_owned())));
        assert_eq!(texts(&survey(json, false).odd_times), texts(&in_value));
        assert_eq!(oddities(&value, true).times.len(), 3);
    }

    #[test]
    fn the_walk_of_any_text_ends() {
        for json in
            ["[}", "{\"a\":[null, [null], }", "{\"a\":}", "{\"a\":]", "[,]", "[1 2]", "{]", "[\"", "[[[}"]
        {
            assert!(duplicates(json.as_bytes()).is_empty(), "{json}");
        }
        let example = br#"{"spec":{"a":1,"list":[{"x":1},{"x":2,"x":3}],"a":2},"spec":null}"#;
        crate::fuzz::run(|fuzz| drop(duplicates(&fuzz.bytes(example))));
    }

    #[test]
    fn a_field_named_twice_is_found_with_its_path() {
        let json = br#"{"spec":{"a":1,"list":[{"x":1},{"x":2,"x":3}],"a":2},"spec":null}"#;
        assert_eq!(duplicates(json), ["spec.list[1].x", "spec.a", "spec"]);
        assert!(duplicates(br#"{"a":{"b":"\"a\":1"},"b":{"b":2}}"#).is_empty());
    }

    #[test]
    fn a_body_of_brackets_ends_the_walk_not_the_process() {
        assert!(duplicates(&vec![b'['; 3 << 20]).is_empty());
        assert!(duplicates("{\"a\":".repeat(1 << 18).as_bytes()).is_empty());
    }

    #[test]
    fn the_place_of_an_error_is_named() {
        let json = br#"{"spec":{"replicas":"three"}}"#;
        let at = json.iter().position(|byte| *byte == b't').expect("three") + 6;
        assert_eq!(path_at(json, at), "spec.replicas");
    }
}
