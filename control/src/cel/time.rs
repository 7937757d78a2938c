//! Timestamps and durations.

use k8s_openapi::jiff::{SignedDuration, Timestamp, tz::TimeZone};

use super::{Value, eval::Evaluated, failed};

/// `timestamp(…)` and `duration(…)`.
pub fn convert(to: &str, of: &Value) -> Evaluated {
    match (to, of) {
        ("timestamp", Value::Timestamp(_)) | ("duration", Value::Duration(_)) => Ok(of.clone()),
        ("timestamp", Value::String(text)) => match text.parse() {
            Ok(time) => Ok(Value::Timestamp(time)),
            Err(_) => failed(format!("type conversion error: {text:?} is no timestamp")),
        },
        ("timestamp", Value::Int(seconds)) => match Timestamp::from_second(*seconds) {
            Ok(time) => Ok(Value::Timestamp(time)),
            Err(_) => failed("timestamp overflow"),
        },
        ("duration", Value::String(text)) => match parse_duration(text) {
            Some(duration) => Ok(Value::Duration(duration)),
            None => failed(format!("type conversion error: {text:?} is no duration")),
        },
        ("duration", Value::Int(nanos)) => Ok(Value::Duration(SignedDuration::from_nanos(*nanos))),
        _ => failed("no such overload"),
    }
}

/// `getHours` and the like.
pub fn call(name: &str, args: &[Value]) -> Evaluated {
    match args {
        [Value::Duration(duration)] => Ok(Value::Int(match name {
            "getHours" => duration.as_secs() / 3600,
            "getMinutes" => duration.as_secs() / 60,
            "getSeconds" => duration.as_secs(),
            "getMilliseconds" => duration.subsec_millis().into(),
            _ => return failed("no such overload"),
        })),
        [Value::Timestamp(time)] => part(name, *time, TimeZone::UTC),
        [Value::Timestamp(time), Value::String(zone)] => match zone_of(zone) {
            Some(zone) => part(name, *time, zone),
            None => failed(format!("unknown time zone {zone}")),
        },
        _ => failed("no such overload"),
    }
}

/// `UTC`, `Europe/Oslo`, `+01:30`.
fn zone_of(text: &str) -> Option<TimeZone> {
    if let Some((hours, minutes)) = text.split_once(':') {
        let sign = if hours.starts_with('-') { -1 } else { 1 };
        let hours: i32 = hours.trim_start_matches(['+', '-']).parse().ok()?;
        let minutes: i32 = minutes.parse().ok()?;
        let seconds = hours.checked_mul(3600)?.checked_add(minutes.checked_mul(60)?)?;
        return k8s_openapi::jiff::tz::Offset::from_seconds(sign * seconds).ok().map(TimeZone::fixed);
    }
    if text == "UTC" { Some(TimeZone::UTC) } else { TimeZone::get(text).ok() }
}

fn part(name: &str, time: Timestamp, zone: TimeZone) -> Evaluated {
    let zoned = time.to_zoned(zone);
    Ok(Value::Int(match name {
        "getFullYear" => zoned.year().into(),
        "getMonth" => i64::from(zoned.month()) - 1,
        "getDate" => zoned.day().into(),
        "getDayOfMonth" => i64::from(zoned.day()) - 1,
        "getDayOfWeek" => zoned.weekday().to_sunday_zero_offset().into(),
        "getDayOfYear" => i64::from(zoned.day_of_year()) - 1,
        "getHours" => zoned.hour().into(),
        "getMinutes" => zoned.minute().into(),
        "getSeconds" => zoned.second().into(),
        "getMilliseconds" => zoned.millisecond().into(),
        _ => return failed("no such overload"),
    }))
}

/// `1h30m`, `-1.5s`, as Go reads it.
pub fn parse_duration(text: &str) -> Option<SignedDuration> {
    naru_model::duration::parse_go(text).ok()
}

/// `5400s`, `1.5s`.
pub fn format_duration(duration: SignedDuration) -> String {
    let nanos = duration.subsec_nanos().unsigned_abs();
    let sign = if duration.is_negative() { "-" } else { "" };
    let seconds = duration.as_secs().unsigned_abs();
    if nanos == 0 {
        return format!("{sign}{seconds}s");
    }
    let fraction = format!("{nanos:09}");
    format!("{sign}{seconds}.{}s", fraction.trim_end_matches('0'))
}
