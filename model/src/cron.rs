//! Cron schedules as CronJobs write them: five fields, or `@daily` and the like, or `@every 90m`.
//!
//! Syntax, ranges and the wording of errors are those of `ParseStandard` of github.com/robfig/cron/v3. Not here: which
//! moment comes next.

use std::time::Duration;

/// The moments that a schedule names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Schedule {
    Fields(Fields),
    /// At this distance, in whole seconds.
    Every(Duration),
}

/// One bit for each value of a field, and whether the field was open (`*` or `?`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field {
    pub bits: u64,
    pub is_star: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fields {
    /// 0 to 59.
    pub minute: Field,
    /// 0 to 23.
    pub hour: Field,
    /// 1 to 31.
    pub day_of_month: Field,
    /// 1 to 12.
    pub month: Field,
    /// 0 (Sunday) to 6.
    pub day_of_week: Field,
    /// The time zone named by `TZ=` or `CRON_TZ=` in front of the fields.
    pub zone: Option<String>,
}

/// Why a text is no schedule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ScheduleError(String);

type Result<T> = std::result::Result<T, ScheduleError>;

struct Bounds {
    min: u32,
    max: u32,
    names: &'static [&'static str],
}

const MONTHS: &[&str] = &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const DAYS: &[&str] = &["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

const BOUNDS: [Bounds; 5] = [
    Bounds { min: 0, max: 59, names: &[] },
    Bounds { min: 0, max: 23, names: &[] },
    Bounds { min: 1, max: 31, names: &[] },
    Bounds { min: 1, max: 12, names: MONTHS },
    Bounds { min: 0, max: 6, names: DAYS },
];

impl Schedule {
    pub fn parse(text: &str) -> Result<Self> {
        if text.is_empty() {
            return refuse("empty spec string".into());
        }
        let (zone, spec) = split_zone(text);
        if spec.starts_with('@') {
            return descriptor(spec, zone);
        }
        let texts: Vec<&str> = spec.split_whitespace().collect();
        let [minute, hour, day_of_month, month, day_of_week] = texts.as_slice() else {
            let found = texts.join(" ");
            return refuse(format!("expected exactly 5 fields, found {}: [{found}]", texts.len()));
        };
        Ok(Self::Fields(Fields {
            minute: field(minute, &BOUNDS[0])?,
            hour: field(hour, &BOUNDS[1])?,
            day_of_month: field(day_of_month, &BOUNDS[2])?,
            month: field(month, &BOUNDS[3])?,
            day_of_week: field(day_of_week, &BOUNDS[4])?,
            zone,
        }))
    }
}

fn refuse<T>(why: String) -> Result<T> {
    Err(ScheduleError(why))
}

/// The zone's name is not looked up.
fn split_zone(text: &str) -> (Option<String>, &str) {
    let Some(rest) = text.strip_prefix("TZ=").or_else(|| text.strip_prefix("CRON_TZ=")) else {
        return (None, text);
    };
    let (zone, spec) = rest.split_once(' ').unwrap_or((rest, ""));
    (Some(zone.into()), spec.trim())
}

fn descriptor(text: &str, zone: Option<String>) -> Result<Schedule> {
    if let Some(duration) = text.strip_prefix("@every ") {
        let seconds = go_seconds(duration).ok_or_else(|| {
            ScheduleError(format!("failed to parse duration {text}: time: invalid duration {duration:?}"))
        })?;
        // Fractions of a second are dropped, and something always remains.
        return Ok(Schedule::Every(Duration::from_secs((seconds.max(1.0)) as u64)));
    }
    let fields = match text {
        "@yearly" | "@annually" => "0 0 1 1 *",
        "@monthly" => "0 0 1 * *",
        "@weekly" => "0 0 * * 0",
        "@daily" | "@midnight" => "0 0 * * *",
        "@hourly" => "0 * * * *",
        _ => return refuse(format!("unrecognized descriptor: {text}")),
    };
    let Schedule::Fields(fields) = Schedule::parse(fields)? else {
        return refuse(format!("unrecognized descriptor: {text}"));
    };
    Ok(Schedule::Fields(Fields { zone, ..fields }))
}

/// `1h30m`, as Go writes durations.
fn go_seconds(text: &str) -> Option<f64> {
    let (sign, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (-1.0, rest),
        None => (1.0, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(0.0);
    }
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let end = rest.find(|character: char| !character.is_ascii_digit() && character != '.')?;
        let number: f64 = rest[..end].parse().ok()?;
        let unit_end = rest[end..]
            .find(|character: char| character.is_ascii_digit() || character == '.')
            .map_or(rest.len(), |at| end + at);
        seconds += number
            * match &rest[end..unit_end] {
                "ns" => 1e-9,
                "us" | "µs" | "μs" => 1e-6,
                "ms" => 1e-3,
                "s" => 1.0,
                "m" => 60.0,
                "h" => 3600.0,
                _ => return None,
            };
        rest = &rest[unit_end..];
    }
    (!text.is_empty()).then_some(sign * seconds)
}

fn field(text: &str, bounds: &Bounds) -> Result<Field> {
    let mut field = Field { bits: 0, is_star: false };
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let one = range(part, bounds)?;
        field.bits |= one.bits;
        field.is_star |= one.is_star;
    }
    Ok(field)
}

/// `5`, `*`, `1-5`, `*/2`, `1-9/3`, `mon-fri`.
fn range(text: &str, bounds: &Bounds) -> Result<Field> {
    let slashes: Vec<&str> = text.split('/').collect();
    let ends: Vec<&str> = slashes[0].split('-').collect();
    let is_single = ends.len() == 1;
    let mut is_star = false;
    let (start, mut end) = if matches!(ends[0], "*" | "?") {
        is_star = true;
        (bounds.min, bounds.max)
    } else {
        let start = value(ends[0], bounds)?;
        match ends.as_slice() {
            [_] => (start, start),
            [_, end] => (start, value(end, bounds)?),
            _ => return refuse(format!("too many hyphens: {text}")),
        }
    };
    let step = match slashes.as_slice() {
        [_] => 1,
        [_, step] => {
            let step = number(step)?;
            // `5/10` means "from 5 on".
            if is_single {
                end = bounds.max;
            }
            is_star &= step <= 1;
            step
        }
        _ => return refuse(format!("too many slashes: {text}")),
    };
    if start < bounds.min {
        return refuse(format!("beginning of range ({start}) below minimum ({}): {text}", bounds.min));
    }
    if end > bounds.max {
        return refuse(format!("end of range ({end}) above maximum ({}): {text}", bounds.max));
    }
    if start > end {
        return refuse(format!("beginning of range ({start}) beyond end of range ({end}): {text}"));
    }
    if step == 0 {
        return refuse(format!("step of range should be a positive number: {text}"));
    }
    let bits = (start..=end).step_by(step as usize).fold(0, |bits, value| bits | 1 << value);
    Ok(Field { bits, is_star })
}

fn value(text: &str, bounds: &Bounds) -> Result<u32> {
    let lower = text.to_lowercase();
    match bounds.names.iter().position(|name| *name == lower) {
        Some(at) => Ok(bounds.min + at as u32),
        None => number(text),
    }
}

fn number(text: &str) -> Result<u32> {
    match text.parse::<i64>() {
        Ok(number) if number < 0 => refuse(format!("negative number ({number}) not allowed: {text}")),
        Ok(number) if number <= i64::from(u32::MAX) => Ok(number as u32),
        _ => {
            refuse(format!("failed to parse int from {text}: strconv.Atoi: parsing {text:?}: invalid syntax"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(text: &str) -> Fields {
        match Schedule::parse(text) {
            Ok(Schedule::Fields(fields)) => fields,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn fields_are_sets_of_values() {
        let found = fields("*/15 0-4,12 1/10 jan,MAR-apr mon-5");
        assert_eq!(found.minute.bits, 1 | 1 << 15 | 1 << 30 | 1 << 45);
        assert_eq!(found.hour.bits, 0b11111 | 1 << 12);
        assert_eq!(found.day_of_month.bits, 1 << 1 | 1 << 11 | 1 << 21 | 1 << 31);
        assert_eq!(found.month.bits, 1 << 1 | 1 << 3 | 1 << 4);
        assert_eq!(found.day_of_week.bits, 0b11_1110);
        assert!(!found.minute.is_star && fields("* * ? * *").day_of_month.is_star);
        assert_eq!(fields("TZ=Europe/Berlin 0 0 * * *").zone.as_deref(), Some("Europe/Berlin"));
    }

    #[test]
    fn descriptors_stand_for_fields() {
        assert_eq!(fields("@weekly"), fields("0 0 * * 0"));
        assert_eq!(Schedule::parse("@every 1h30m10s"), Ok(Schedule::Every(Duration::from_secs(5410))));
        assert_eq!(Schedule::parse("@every 1ms"), Ok(Schedule::Every(Duration::from_secs(1))));
    }

    #[test]
    fn what_is_wrong_is_told() {
        for (text, expected) in [
            ("", "empty spec string"),
            ("error", "expected exactly 5 fields, found 1: [error]"),
            ("* * * * * *", "expected exactly 5 fields, found 6: [* * * * * *]"),
            ("60 * * * *", "end of range (60) above maximum (59): 60"),
            ("* * 0 * *", "beginning of range (0) below minimum (1): 0"),
            ("* * * * 7", "end of range (7) above maximum (6): 7"),
            ("5-1 * * * *", "beginning of range (5) beyond end of range (1): 5-1"),
            ("1-2-3 * * * *", "too many hyphens: 1-2-3"),
            ("1/2/3 * * * *", "too many slashes: 1/2/3"),
            ("*/0 * * * *", "step of range should be a positive number: */0"),
            ("x * * * *", "failed to parse int from x: strconv.Atoi: parsing \"x\": invalid syntax"),
            ("@sometimes", "unrecognized descriptor: @sometimes"),
            ("@every soon", "failed to parse duration @every soon: time: invalid duration \"soon\""),
        ] {
            assert_eq!(Schedule::parse(text), Err(ScheduleError(expected.into())), "{text}");
        }
    }
}
