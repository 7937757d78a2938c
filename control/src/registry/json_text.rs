//! JSON as text: where in it something is, and which fields it sets twice.

use std::collections::HashSet;

/// What nests deeper is refused by the decoder, and must not overflow the stack before.
const MAX_DEPTH: usize = 128;

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
    let mut scanner = Scanner { json, at: 0, stop: usize::MAX, path: Vec::new(), duplicates: Vec::new() };
    scanner.value();
    scanner.duplicates
}

/// The field that byte `stop` belongs to: `spec.containers[0].image`.
pub fn path_at(json: &[u8], stop: usize) -> String {
    let mut scanner = Scanner { json, at: 0, stop, path: Vec::new(), duplicates: Vec::new() };
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
}

enum Step<'a> {
    Field(&'a [u8]),
    Index(usize),
}

impl<'a> Scanner<'a> {
    fn place(&self) -> String {
        let mut text = String::new();
        for step in &self.path {
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
            b'"' => self.string().map(drop),
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
