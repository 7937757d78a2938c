//! Lists of indexes such as `1,3-5`: ascending, each below the job's completions.

/// The intervals of `text`, ends included, or why there are none, in Kubernetes' words.
pub(super) fn parse(text: &str, completions: i32) -> Result<Vec<(i32, i32)>, String> {
    let mut intervals: Vec<(i32, i32)> = Vec::new();
    for part in text.split(',').filter(|_| !text.is_empty()) {
        let (first, last) = interval(part, completions)?;
        if let Some((_, previous)) = intervals.last().filter(|(_, previous)| *previous >= first) {
            return Err(format!("non-increasing order, previous: {previous}, current: {first}"));
        }
        intervals.push((first, last));
    }
    Ok(intervals)
}

/// How many indexes there are in all.
pub(super) fn count(intervals: &[(i32, i32)]) -> i32 {
    intervals.iter().map(|(first, last)| last - first + 1).sum()
}

/// The first index that is in both.
pub(super) fn overlap(one: &[(i32, i32)], other: &[(i32, i32)]) -> Option<i32> {
    let common = |(first, last): &(i32, i32)| {
        let meets = other.iter().find(|(start, end)| start <= last && first <= end);
        meets.map(|(start, _)| *start.max(first))
    };
    one.iter().find_map(common)
}

fn interval(text: &str, completions: i32) -> Result<(i32, i32), String> {
    let ends: Vec<&str> = text.split('-').collect();
    let (first, last) = match ends.as_slice() {
        [one] => (*one, None),
        [first, last] => (*first, Some(*last)),
        _ => {
            return Err(format!(
                "the fragment {text:?} violates the requirement that an index interval can have at most two parts \
                 separated by '-'"
            ));
        }
    };
    let first = index(first, completions)?;
    let Some(last) = last else { return Ok((first, first)) };
    let last = index(last, completions)?;
    if first >= last {
        return Err(format!("non-increasing order, previous: {first}, current: {last}"));
    }
    Ok((first, last))
}

fn index(text: &str, completions: i32) -> Result<i32, String> {
    let number: i32 =
        text.parse().map_err(|_| format!("cannot convert string to integer for index: {text:?}"))?;
    if number >= completions { Err(format!("too large index: {text:?}")) } else { Ok(number) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_ascending_and_in_range() {
        assert_eq!(parse("", 3), Ok(vec![]));
        assert_eq!(parse("0,2-4,9", 10), Ok(vec![(0, 0), (2, 4), (9, 9)]));
        assert_eq!(count(&[(0, 0), (2, 4)]), 4);
        for (text, expected) in [
            ("x", "cannot convert string to integer for index: \"x\""),
            ("10", "too large index: \"10\""),
            ("3,1", "non-increasing order, previous: 3, current: 1"),
            ("4-2", "non-increasing order, previous: 4, current: 2"),
        ] {
            assert_eq!(parse(text, 10), Err(expected.into()));
        }
    }

    #[test]
    fn lists_meet_at_an_index() {
        assert_eq!(overlap(&[(0, 1), (4, 8)], &[(2, 3), (6, 9)]), Some(6));
        assert_eq!(overlap(&[(0, 1)], &[(2, 3)]), None);
    }
}
