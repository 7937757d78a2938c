//! Why a text is no time, in the words of Go's parser, which Kubernetes' decoder passes on.

/// `metav1.Time`.
pub const SECONDS: &str = "2006-01-02T15:04:05Z07:00";
/// `metav1.MicroTime`.
pub const MICROSECONDS: &str = "2006-01-02T15:04:05.000000Z07:00";

/// What is wrong with a part of the text.
enum Problem {
    Misfit,
    /// The name of what is out of range.
    Range(&'static str),
}

/// Why `text` is not of `layout` ([`SECONDS`] or [`MICROSECONDS`]); `None` where Go would take it.
pub fn why_not(text: &str, layout: &str) -> Option<String> {
    let has_micros = layout == MICROSECONDS;
    let mut rest = text;
    let (mut year, mut month, mut day) = (0, 0, 0);
    for element in ["2006", "-", "01", "-", "02", "T", "15", ":", "04", ":", "05", ".000000", "Z07:00"] {
        let hold = rest;
        let step = match element {
            "2006" => number(&mut rest, 4, 4).map(|found| year = found),
            "01" => number(&mut rest, 2, 2).and_then(|found| {
                month = found;
                within("month", (1..=12).contains(&found))
            }),
            "02" => number(&mut rest, 2, 2).map(|found| day = found),
            "15" => number(&mut rest, 1, 2).and_then(|found| within("hour", found < 24)),
            "04" => number(&mut rest, 2, 2).and_then(|found| within("minute", found < 60)),
            "05" => number(&mut rest, 2, 2).and_then(|found| {
                if !has_micros {
                    skip_fraction(&mut rest);
                }
                within("second", found < 60)
            }),
            ".000000" if has_micros => micros(&mut rest),
            ".000000" => Ok(()),
            "Z07:00" => zone(&mut rest),
            literal => rest.strip_prefix(literal).map(|after| rest = after).ok_or(Problem::Misfit),
        };
        match step {
            Ok(()) => (),
            Err(Problem::Misfit) => {
                return Some(format!(
                    "parsing time {text:?} as {layout:?}: cannot parse {hold:?} as {element:?}"
                ));
            }
            Err(Problem::Range(what)) => return Some(format!("parsing time {text:?}: {what} out of range")),
        }
    }
    if !rest.is_empty() {
        return Some(format!("parsing time {text:?}: extra text: {rest:?}"));
    }
    let has_day = (1..=days(year, month)).contains(&day);
    (!has_day).then(|| format!("parsing time {text:?}: day out of range"))
}

fn within(what: &'static str, is_within: bool) -> Result<(), Problem> {
    if is_within { Ok(()) } else { Err(Problem::Range(what)) }
}

/// Takes a number of `least` to `most` digits.
fn number(rest: &mut &str, least: usize, most: usize) -> Result<u32, Problem> {
    let count = rest.bytes().take(most).take_while(u8::is_ascii_digit).count();
    if count < least {
        return Err(Problem::Misfit);
    }
    let (digits, after) = rest.split_at(count);
    *rest = after;
    digits.parse().map_err(|_| Problem::Misfit)
}

/// Go takes a fraction after the seconds whether the layout has one or not.
fn skip_fraction(rest: &mut &str) {
    let Some(after) = rest.strip_prefix(['.', ',']) else { return };
    let digits = after.bytes().take_while(u8::is_ascii_digit).count();
    if digits > 0 {
        *rest = &after[digits..];
    }
}

fn micros(rest: &mut &str) -> Result<(), Problem> {
    let mut after = rest.strip_prefix(['.', ',']).ok_or(Problem::Misfit)?;
    number(&mut after, 6, 6)?;
    *rest = after;
    Ok(())
}

/// `Z`, or an offset such as `+01:00`.
fn zone(rest: &mut &str) -> Result<(), Problem> {
    if let Some(after) = rest.strip_prefix('Z') {
        *rest = after;
        return Ok(());
    }
    let mut after = rest.strip_prefix(['+', '-']).ok_or(Problem::Misfit)?;
    let hours = number(&mut after, 2, 2)?;
    after = after.strip_prefix(':').ok_or(Problem::Misfit)?;
    let minutes = number(&mut after, 2, 2)?;
    *rest = after;
    within("time zone offset hour", hours <= 24)?;
    within("time zone offset minute", minutes <= 60)
}

fn days(year: u32, month: u32) -> u32 {
    match month {
        4 | 6 | 9 | 11 => 30,
        2 if year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400)) => 29,
        2 => 28,
        _ => 31,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_part_that_does_not_fit_is_named() {
        let layout = SECONDS;
        for (text, why) in [
            ("abc", format!("parsing time \"abc\" as {layout:?}: cannot parse \"abc\" as \"2006\"")),
            ("", format!("parsing time \"\" as {layout:?}: cannot parse \"\" as \"2006\"")),
            (
                "2026-1-02",
                format!("parsing time \"2026-1-02\" as {layout:?}: cannot parse \"1-02\" as \"01\""),
            ),
            (
                "2026-01-02 03:04:05Z",
                format!(
                    "parsing time \"2026-01-02 03:04:05Z\" as {layout:?}: cannot parse \" 03:04:05Z\" as \"T\""
                ),
            ),
            (
                "2026-01-02T03:04:05",
                format!(
                    "parsing time \"2026-01-02T03:04:05\" as {layout:?}: cannot parse \"\" as \"Z07:00\""
                ),
            ),
            ("2026-13-02T03:04:05Z", "parsing time \"2026-13-02T03:04:05Z\": month out of range".into()),
            ("2026-02-29T03:04:05Z", "parsing time \"2026-02-29T03:04:05Z\": day out of range".into()),
            ("2026-02-01T03:04:05Zx", "parsing time \"2026-02-01T03:04:05Zx\": extra text: \"x\"".into()),
        ] {
            assert_eq!(why_not(text, layout), Some(why));
        }
        for text in ["2024-02-29T03:04:05Z", "2026-01-02T03:04:05.123+01:00"] {
            assert_eq!(why_not(text, layout), None, "{text}");
        }
        assert_eq!(why_not("2026-01-02T03:04:05.123456Z", MICROSECONDS), None);
        assert!(
            why_not("2026-01-02T03:04:05Z", MICROSECONDS)
                .expect("no fraction")
                .ends_with("cannot parse \"Z\" as \".000000\"")
        );
    }
}
