//! Times as Go's parser reads them, and in its words why a text is none, which Kubernetes' decoder passes on.

use k8s_openapi::jiff::{
    SignedDuration,
    civil::{Date, Time},
    tz::TimeZone,
};

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

/// Whether a text is a time as times mostly are: `2026-01-02T03:04:05Z`, with a fraction (of six digits where it
/// `has_micros`) or without. Go and everybody else take these; cheap, for telling the others apart.
pub fn is_plain(text: &[u8], has_micros: bool) -> bool {
    const LEN: usize = "2006-01-02T15:04:05".len();
    let Some((head, tail)) = text.split_at_checked(LEN) else { return false };
    let fits = |(at, byte): (usize, &u8)| match at {
        4 | 7 => *byte == b'-',
        10 => *byte == b'T',
        13 | 16 => *byte == b':',
        _ => byte.is_ascii_digit(),
    };
    let is_fraction = |digits: &[u8]| {
        digits.iter().all(u8::is_ascii_digit)
            && if has_micros { digits.len() == 6 } else { !digits.is_empty() }
    };
    let has_fitting_tail = match tail {
        [b'Z'] => !has_micros,
        [b'.', digits @ .., b'Z'] => is_fraction(digits),
        _ => false,
    };
    // A leap second is none to Go.
    has_fitting_tail && head.iter().enumerate().all(fits) && head[17] < b'6'
}

/// A text that Go takes as a time of `layout`, as times mostly are; `None` where Go would not take it.
pub fn to_plain(text: &str, layout: &str) -> Option<String> {
    let time = parse(text, layout).ok()?;
    let small = |number: u32| i8::try_from(number).ok();
    let date = Date::new(i16::try_from(time.year).ok()?, small(time.month)?, small(time.day)?).ok()?;
    let clock = Time::new(small(time.hour)?, small(time.minute)?, small(time.second)?, time.nanos).ok()?;
    let local = date.to_datetime(clock).to_zoned(TimeZone::UTC).ok()?.timestamp();
    let utc = local.checked_sub(SignedDuration::from_mins(time.offset_minutes)).ok()?;
    let format = if layout == MICROSECONDS { "%Y-%m-%dT%H:%M:%S%.6fZ" } else { "%Y-%m-%dT%H:%M:%S%.fZ" };
    Some(utc.strftime(format).to_string())
}

/// Why `text` is not of `layout` ([`SECONDS`] or [`MICROSECONDS`]); `None` where Go would take it.
pub fn why_not(text: &str, layout: &str) -> Option<String> {
    parse(text, layout).err()
}

/// The parts of a time.
#[derive(Default)]
struct Parts {
    year: u32,
    month: u32,
    day: u32,
    hour: u32,
    minute: u32,
    second: u32,
    nanos: i32,
    /// East of Greenwich.
    offset_minutes: i64,
}

fn parse(text: &str, layout: &str) -> Result<Parts, String> {
    let has_micros = layout == MICROSECONDS;
    let mut rest = text;
    let mut time = Parts::default();
    for element in ["2006", "-", "01", "-", "02", "T", "15", ":", "04", ":", "05", ".000000", "Z07:00"] {
        let hold = rest;
        let step = match element {
            "2006" => number(&mut rest, 4, 4).map(|found| time.year = found),
            "01" => number(&mut rest, 2, 2).and_then(|found| {
                time.month = found;
                within("month", (1..=12).contains(&found))
            }),
            "02" => number(&mut rest, 2, 2).map(|found| time.day = found),
            "15" => number(&mut rest, 1, 2).and_then(|found| {
                time.hour = found;
                within("hour", found < 24)
            }),
            "04" => number(&mut rest, 2, 2).and_then(|found| {
                time.minute = found;
                within("minute", found < 60)
            }),
            "05" => number(&mut rest, 2, 2).and_then(|found| {
                time.second = found;
                if !has_micros {
                    time.nanos = fraction(&mut rest);
                }
                within("second", found < 60)
            }),
            ".000000" if has_micros => micros(&mut rest).map(|nanos| time.nanos = nanos),
            ".000000" => Ok(()),
            "Z07:00" => zone(&mut rest).map(|minutes| time.offset_minutes = minutes),
            literal => rest.strip_prefix(literal).map(|after| rest = after).ok_or(Problem::Misfit),
        };
        match step {
            Ok(()) => (),
            Err(Problem::Misfit) => {
                return Err(format!(
                    "parsing time {text:?} as {layout:?}: cannot parse {hold:?} as {element:?}"
                ));
            }
            Err(Problem::Range(what)) => return Err(format!("parsing time {text:?}: {what} out of range")),
        }
    }
    if !rest.is_empty() {
        return Err(format!("parsing time {text:?}: extra text: {rest:?}"));
    }
    let has_day = (1..=days(time.year, time.month)).contains(&time.day);
    if has_day { Ok(time) } else { Err(format!("parsing time {text:?}: day out of range")) }
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

/// Go takes a fraction after the seconds whether the layout has one or not. Answers its nanoseconds.
fn fraction(rest: &mut &str) -> i32 {
    let Some(after) = rest.strip_prefix(['.', ',']) else { return 0 };
    let count = after.bytes().take_while(u8::is_ascii_digit).count();
    if count == 0 {
        return 0;
    }
    let (digits, after) = after.split_at(count);
    *rest = after;
    let digits = digits.bytes().chain(std::iter::repeat(b'0')).take(9);
    digits.fold(0, |nanos, digit| nanos * 10 + i32::from(digit - b'0'))
}

fn micros(rest: &mut &str) -> Result<i32, Problem> {
    let mut after = rest.strip_prefix(['.', ',']).ok_or(Problem::Misfit)?;
    let micros = number(&mut after, 6, 6)?;
    *rest = after;
    i32::try_from(micros * 1000).map_err(|_| Problem::Misfit)
}

/// `Z`, or an offset such as `+01:00`. Answers its minutes.
fn zone(rest: &mut &str) -> Result<i64, Problem> {
    if let Some(after) = rest.strip_prefix('Z') {
        *rest = after;
        return Ok(0);
    }
    let sign = if rest.starts_with('-') { -1 } else { 1 };
    let mut after = rest.strip_prefix(['+', '-']).ok_or(Problem::Misfit)?;
    let hours = number(&mut after, 2, 2)?;
    after = after.strip_prefix(':').ok_or(Problem::Misfit)?;
    let minutes = number(&mut after, 2, 2)?;
    *rest = after;
    within("time zone offset hour", hours <= 24)?;
    within("time zone offset minute", minutes <= 60)?;
    Ok(sign * i64::from(hours * 60 + minutes))
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
    fn what_go_takes_becomes_what_everybody_takes() {
        for (text, layout, plain) in [
            ("2026-01-02T03:04:05Z", SECONDS, "2026-01-02T03:04:05Z"),
            ("2026-01-02T3:04:05Z", SECONDS, "2026-01-02T03:04:05Z"),
            ("2026-01-02T03:04:05,25Z", SECONDS, "2026-01-02T03:04:05.25Z"),
            ("2026-01-02T03:04:05.1234567891Z", SECONDS, "2026-01-02T03:04:05.123456789Z"),
            ("2026-01-02T03:04:05-24:60", SECONDS, "2026-01-03T04:04:05Z"),
            ("2026-01-02T03:04:05.5+01:30", SECONDS, "2026-01-02T01:34:05.5Z"),
            ("2026-01-02T03:04:05,250000+01:00", MICROSECONDS, "2026-01-02T02:04:05.250000Z"),
        ] {
            assert_eq!(to_plain(text, layout).as_deref(), Some(plain), "{text}");
            assert!(is_plain(plain.as_bytes(), layout == MICROSECONDS), "{plain}");
        }
        assert!(!is_plain(b"2026-01-02T03:04:05Z", true) && !is_plain(b"2026-01-02T03:04:05.123Z", true));
        assert!(!is_plain(b"10.0.0.1", false) && !is_plain(b"2026-01-02T03:04:05.Z", false));
    }

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
        // What other parsers take, and Go does not.
        for text in [
            "2026-01-02t03:04:05z",
            "2026-01-02T03:04:60Z",
            "2026-01-02T03:04:05+0100",
            "2026-01-02T03:04:05+01",
            "2026-01-02T03:04Z",
            "20260102T030405Z",
            "+002026-01-02T03:04:05Z",
            "2026-01-02T03:04:05Z[UTC]",
        ] {
            assert!(why_not(text, layout).is_some() && to_plain(text, layout).is_none(), "{text}");
            assert!(!is_plain(text.as_bytes(), false), "{text}");
        }
        assert_eq!(why_not("2026-01-02T03:04:05.123456Z", MICROSECONDS), None);
        assert!(
            why_not("2026-01-02T03:04:05Z", MICROSECONDS)
                .expect("no fraction")
                .ends_with("cannot parse \"Z\" as \".000000\"")
        );
    }
}
