//! Finds where in an object's JSON a member of `metadata` belongs, and puts it there.
//!
//! The state machine learns an object's revision only while it applies the write, when nobody wants to parse and
//! print the object again: the text is cut open at one place instead. Members of `metadata` are in alphabetical
//! order in canonical JSON, so the place is before the first key greater than `resourceVersion`. In the same way
//! `managedFields`, which no code reads as a typed value, stays text on its way in and out.

use std::ops::Range;

use super::Revision;

pub(super) const REVISION: &[u8] = b"resourceVersion";
pub(super) const MANAGED_FIELDS: &[u8] = b"managedFields";

/// Where `metadata` lies in an object's JSON, and where in it a member is or belongs.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub metadata: Range<usize>,
    /// The member that is there together with the comma that goes with it.
    pub existing: Option<Range<usize>>,
    /// Its value.
    pub value: Option<Range<usize>>,
    /// Where a new member goes, in the text with `existing` cut out.
    pub insert_at: usize,
}

/// Looks through the top-level object in `json`, which must be valid JSON, for member `field` of `metadata`. `None`
/// where it has no `metadata` object.
pub(super) fn find(json: &[u8], field: &[u8]) -> Option<Place> {
    let mut top = Members::new(json, 0)?;
    let start = loop {
        let (_, key, value_start) = top.key()?;
        if &json[key] == b"metadata" {
            break value_start;
        }
        top.pass(value_start)?;
    };
    let (mut existing, mut value) = (None, None);
    let mut insert_at = None;
    let (mut count, mut is_last) = (0, false);
    let mut members = Members::new(json, start)?;
    for member in members.by_ref() {
        count += 1;
        is_last = &json[member.key.clone()] == field;
        if is_last {
            existing = Some(member.start..member.value.end);
            value = Some(member.value);
        } else if insert_at.is_none() && &json[member.key.clone()] > field {
            insert_at = Some(member.start);
        }
    }
    if json.get(members.at) != Some(&b'}') {
        return None;
    }
    let metadata = start..members.at + 1;
    // The comma that goes with the member that is there: the one after it, or before it when it is the last.
    if let Some(range) = &mut existing {
        if !is_last {
            range.end += json[range.end..].iter().position(|byte| *byte == b',')? + 1;
            range.end += json[range.end..].iter().position(|byte| !byte.is_ascii_whitespace())?;
        } else if count > 1 {
            range.start = json[..range.start].iter().rposition(|byte| *byte == b',')?;
        }
    }
    let mut insert_at = insert_at.unwrap_or(metadata.end - 1);
    if let Some(range) = &existing
        && insert_at >= range.end
    {
        insert_at -= range.len();
    }
    Some(Place { metadata, existing, value, insert_at })
}

/// Makes the text that is the value of member `field` of `metadata` an empty one.
pub fn blank(json: &mut Vec<u8>, field: &str) {
    if let Some(value) = find(json, field.as_bytes()).and_then(|place| place.value)
        && json[value.start] == b'"'
    {
        json.drain(value.start + 1..value.end - 1);
    }
}

/// `json` with the revision put in at `at`.
pub(super) fn insert(json: &[u8], at: usize, revision: Revision) -> Vec<u8> {
    let mut digits = [0; 20];
    insert_member(json, at, REVISION, [b"\"", decimal(revision.0, &mut digits), b"\""])
}

/// `json` with a member put in at `at`; its value is the given texts together.
pub(super) fn insert_member(json: &[u8], at: usize, field: &[u8], value: [&[u8]; 3]) -> Vec<u8> {
    let (before, after) = json.split_at(at);
    let is_first = before.last() == Some(&b'{');
    let is_last = after.first() == Some(&b'}');
    let len: usize = value.iter().map(|part| part.len()).sum();
    let mut text = Vec::with_capacity(json.len() + field.len() + len + 4);
    text.extend_from_slice(before);
    if is_last && !is_first {
        text.push(b',');
    }
    for part in [b"\"", field, b"\":"].into_iter().chain(value) {
        text.extend_from_slice(part);
    }
    if !is_last {
        text.push(b',');
    }
    text.extend_from_slice(after);
    text
}

/// The opposite of [`insert`]: `json` without the member that `insert` put in at `at`.
pub(super) fn remove(json: &[u8], at: usize, revision: Revision) -> Vec<u8> {
    let is_first = json[..at].last() == Some(&b'{');
    let has_leading_comma = json[at] == b',';
    let mut end = at + member_len(revision) + usize::from(has_leading_comma);
    // Its own comma comes after it, unless it was alone.
    let is_alone = is_first && json[end] == b'}';
    if !has_leading_comma && !is_alone {
        end += 1;
    }
    [&json[..at], &json[end..]].concat()
}

fn member_len(revision: Revision) -> usize {
    REVISION.len() + 5 + decimal(revision.0, &mut [0; 20]).len()
}

fn decimal(mut number: u64, digits: &mut [u8; 20]) -> &[u8] {
    let mut start = digits.len();
    loop {
        start -= 1;
        digits[start] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            return &digits[start..];
        }
    }
}

/// The members of one JSON object, as ranges of the text.
struct Members<'a> {
    json: &'a [u8],
    at: usize,
}

struct Member {
    start: usize,
    /// Without its quotes.
    key: Range<usize>,
    value: Range<usize>,
}

impl<'a> Members<'a> {
    /// `None` where no object starts at `at`.
    fn new(json: &'a [u8], at: usize) -> Option<Self> {
        let at = skip_space(json, at);
        (json.get(at) == Some(&b'{')).then_some(Self { json, at: at + 1 })
    }

    /// The next member's start, its key and where its value starts. `None` after the last, with `at` where that ends.
    fn key(&mut self) -> Option<(usize, Range<usize>, usize)> {
        let json = self.json;
        self.at = skip_space(json, self.at);
        let start = self.at;
        if json.get(start) != Some(&b'"') {
            return None;
        }
        let key_end = string_end(json, start)?;
        let colon = skip_space(json, key_end);
        Some((start, start + 1..key_end - 1, skip_space(json, colon + 1)))
    }

    /// Goes on after the value that starts at `value_start`, and answers its end.
    fn pass(&mut self, value_start: usize) -> Option<usize> {
        let value_end = value_end(self.json, value_start)?;
        self.at = skip_space(self.json, value_end);
        if self.json.get(self.at) == Some(&b',') {
            self.at += 1;
        }
        Some(value_end)
    }
}

impl Iterator for Members<'_> {
    type Item = Member;

    fn next(&mut self) -> Option<Member> {
        let (start, key, value_start) = self.key()?;
        let value_end = self.pass(value_start)?;
        Some(Member { start, key, value: value_start..value_end })
    }
}

fn skip_space(json: &[u8], mut at: usize) -> usize {
    while json.get(at).is_some_and(u8::is_ascii_whitespace) {
        at += 1;
    }
    at
}

/// The offset after the closing quote of the string that starts at `at`.
fn string_end(json: &[u8], at: usize) -> Option<usize> {
    let mut at = at + 1;
    loop {
        at += memchr::memchr2(b'"', b'\\', json.get(at..)?)?;
        if json[at] == b'"' {
            return Some(at + 1);
        }
        at += 2;
    }
}

/// The offset after the value that starts at `at`.
fn value_end(json: &[u8], at: usize) -> Option<usize> {
    match json.get(at)? {
        b'"' => string_end(json, at),
        b'{' | b'[' => {
            let mut depth = 0_usize;
            let mut at = at;
            loop {
                match json.get(at)? {
                    b'"' => {
                        at = string_end(json, at)?;
                        continue;
                    }
                    b'{' | b'[' => depth += 1,
                    b'}' | b']' => depth -= 1,
                    _ => {}
                }
                at += 1;
                if depth == 0 {
                    return Some(at);
                }
            }
        }
        _ => {
            let rest = &json[at..];
            Some(at + rest.iter().position(|byte| matches!(byte, b',' | b'}' | b']')).unwrap_or(rest.len()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_blanked_and_nothing_else_is() {
        let blanked = |text: &str, field: &str| {
            let mut json = text.as_bytes().to_vec();
            blank(&mut json, field);
            String::from_utf8(json).unwrap()
        };
        let text = r#"{"kind":"A","metadata":{"generation":3,"name":"a\"b","uid":"u"},"name":"c"}"#;
        assert_eq!(blanked(text, "name"), text.replace(r#""a\"b""#, r#""""#));
        assert_eq!(blanked(text, "uid"), text.replace(r#""u""#, r#""""#));
        for field in ["generation", "kind", "namespace"] {
            assert_eq!(blanked(text, field), text);
        }
        assert_eq!(blanked("{}", "name"), "{}");
    }

    /// Strips `input`, expects `stripped`, puts revision 42 in, expects `spliced`, and takes it out again.
    fn check(input: &str, stripped: &str, spliced: &str) {
        let place = find(input.as_bytes(), REVISION).expect("has metadata");
        let mut text = input.as_bytes().to_vec();
        if let Some(range) = place.existing {
            text.drain(range);
        }
        assert_eq!(std::str::from_utf8(&text).unwrap(), stripped);
        let full = insert(&text, place.insert_at, Revision(42));
        assert_eq!(std::str::from_utf8(&full).unwrap(), spliced);
        assert_eq!(remove(&full, place.insert_at, Revision(42)), text);
    }

    #[test]
    fn the_revision_goes_before_the_first_greater_key() {
        check(
            r#"{"kind":"Pod","metadata":{"name":"a","uid":"u"},"spec":{}}"#,
            r#"{"kind":"Pod","metadata":{"name":"a","uid":"u"},"spec":{}}"#,
            r#"{"kind":"Pod","metadata":{"name":"a","resourceVersion":"42","uid":"u"},"spec":{}}"#,
        );
    }

    #[test]
    fn the_revision_goes_last_where_no_key_is_greater() {
        check(
            r#"{"metadata":{"name":"a"}}"#,
            r#"{"metadata":{"name":"a"}}"#,
            r#"{"metadata":{"name":"a","resourceVersion":"42"}}"#,
        );
    }

    #[test]
    fn the_revision_may_be_alone() {
        check(r#"{"metadata":{}}"#, r#"{"metadata":{}}"#, r#"{"metadata":{"resourceVersion":"42"}}"#);
        check(
            r#"{"metadata":{"resourceVersion":"7"},"x":1}"#,
            r#"{"metadata":{},"x":1}"#,
            r#"{"metadata":{"resourceVersion":"42"},"x":1}"#,
        );
        check(
            r#"{"metadata":{"uid":"u"}}"#,
            r#"{"metadata":{"uid":"u"}}"#,
            r#"{"metadata":{"resourceVersion":"42","uid":"u"}}"#,
        );
    }

    #[test]
    fn an_old_revision_is_replaced_wherever_it_is() {
        let stripped = r#"{"metadata":{"name":"a","uid":"u"}}"#;
        let spliced = r#"{"metadata":{"name":"a","resourceVersion":"42","uid":"u"}}"#;
        for input in [
            r#"{"metadata":{"resourceVersion":"1","name":"a","uid":"u"}}"#,
            r#"{"metadata":{"name":"a","resourceVersion":"123456","uid":"u"}}"#,
            r#"{"metadata":{"name":"a","uid":"u","resourceVersion":""}}"#,
        ] {
            check(input, stripped, spliced);
        }
    }

    #[test]
    fn look_alikes_are_left_alone() {
        check(
            r#"{"a":"\"metadata\":{","b":[{"metadata":{"resourceVersion":"9"}}],"metadata":{"annotations":{"resourceVersion":"1","x":"}\\"},"uid":"u"}}"#,
            r#"{"a":"\"metadata\":{","b":[{"metadata":{"resourceVersion":"9"}}],"metadata":{"annotations":{"resourceVersion":"1","x":"}\\"},"uid":"u"}}"#,
            r#"{"a":"\"metadata\":{","b":[{"metadata":{"resourceVersion":"9"}}],"metadata":{"annotations":{"resourceVersion":"1","x":"}\\"},"resourceVersion":"42","uid":"u"}}"#,
        );
    }

    #[test]
    fn objects_without_metadata_have_no_place() {
        for json in ["{}", "[]", "1", "\"metadata\"", r#"{"metadata":1}"#, r#"{"spec":{"metadata":{}}}"#] {
            assert_eq!(find(json.as_bytes(), REVISION), None, "{json}");
        }
    }

    #[test]
    fn every_length_of_revision_fits() {
        for number in [0, 9, 10, 99, 100, u64::MAX] {
            let full = insert(br#"{"metadata":{"a":1}}"#, 18, Revision(number));
            let value: serde_json::Value = serde_json::from_slice(&full).unwrap();
            assert_eq!(value["metadata"]["resourceVersion"], number.to_string());
            assert_eq!(remove(&full, 18, Revision(number)), br#"{"metadata":{"a":1}}"#);
        }
    }
}
