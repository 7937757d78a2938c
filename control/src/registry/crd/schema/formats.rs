//! The formats that strings are checked against. Others are taken for what they are: a remark.

use std::sync::LazyLock;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use naru_model::validation::names;
use regex::Regex;

macro_rules! patterns {
    ($($name:ident = $text:expr;)*) => {
        $(static $name: LazyLock<Regex> = LazyLock::new(|| Regex::new($text).expect("a constant pattern"));)*
    };
}

patterns! {
    OBJECT_ID = "^[0-9a-fA-F]{24}$";
    HOSTNAME = r"^([a-zA-Z0-9\p{S}\p{L}]((-?[a-zA-Z0-9\p{S}\p{L}]{0,62})?)|([a-zA-Z0-9\p{S}\p{L}](([a-zA-Z0-9-\p{S}\p{L}]{0,61}[a-zA-Z0-9\p{S}\p{L}])?)(\.)){1,}([a-zA-Z\p{L}]){2,63})$";
    EMAIL = r"^[^@\s<>]+@[^@\s<>]+$";
    UUID = "^(?i)[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}$";
    UUID3 = "^(?i)[0-9a-f]{8}-?[0-9a-f]{4}-?3[0-9a-f]{3}-?[0-9a-f]{4}-?[0-9a-f]{12}$";
    UUID4 = "^(?i)[0-9a-f]{8}-?[0-9a-f]{4}-?4[0-9a-f]{3}-?[89ab][0-9a-f]{3}-?[0-9a-f]{12}$";
    UUID5 = "^(?i)[0-9a-f]{8}-?[0-9a-f]{4}-?5[0-9a-f]{3}-?[89ab][0-9a-f]{3}-?[0-9a-f]{12}$";
    MAC = r"^(?i)([0-9a-f]{2}[:-]){5}[0-9a-f]{2}$|^([0-9a-f]{2}[:-]){7}[0-9a-f]{2}$|^([0-9a-f]{4}\.){2}[0-9a-f]{4}$";
    HEX_COLOR = "^#?([0-9a-fA-F]{3}|[0-9a-fA-F]{6})$";
    RGB_COLOR = r"^rgb\(\s*(\d{1,2}|1\d\d|2[0-4]\d|25[0-5])\s*,\s*(\d{1,2}|1\d\d|2[0-4]\d|25[0-5])\s*,\s*(\d{1,2}|1\d\d|2[0-4]\d|25[0-5])\s*\)$";
    SSN = r"^\d{3}[- ]?\d{2}[- ]?\d{4}$";
    DIGITS = r"^[0-9]+$";
    DURATION = r"^\s*\d+(\.\d+)?\s*(ns|nanosecond|us|µs|microsecond|ms|millisecond|s|second|m|minute|h|hour|d|day|w|week)s?\s*$";
    GO_DURATION = r"^[-+]?(0|(\d+(\.\d*)?|\.\d+)(ns|us|µs|μs|ms|s|m|h))+$";
    DATE_TIME = r"^\d{4}-\d{2}-\d{2}[Tt ]\d{2}:\d{2}(:\d{2}(\.\d+)?)?([Zz]|[+-]\d{2}:?\d{2})?$";
    URI = r"^([a-zA-Z][a-zA-Z0-9+.-]*:.*|/.*)$";
}

/// Whether `text` has the form that `format` names; unknown formats fit everything.
pub fn fits(format: &str, text: &str) -> bool {
    match format {
        "bsonobjectid" => OBJECT_ID.is_match(text),
        "byte" => STANDARD.decode(text).is_ok(),
        "cidr" => text.split_once('/').is_some_and(|(address, length)| {
            let most = match address.parse::<std::net::IpAddr>() {
                Ok(address) => {
                    if address.is_ipv4() {
                        32
                    } else {
                        128
                    }
                }
                Err(_) => return false,
            };
            DIGITS.is_match(length) && length.parse::<u16>().is_ok_and(|length| length <= most)
        }),
        "creditcard" => passes_luhn(text),
        "date" => text.len() == 10 && text.parse::<k8s_openapi::jiff::civil::Date>().is_ok(),
        "date-time" | "datetime" => is_date_time(text),
        "duration" => GO_DURATION.is_match(text) || DURATION.is_match(text),
        "email" => EMAIL.is_match(text),
        "hexcolor" => HEX_COLOR.is_match(text),
        "hostname" => text.len() <= 255 && HOSTNAME.is_match(text),
        "ipv4" => text.parse::<std::net::Ipv4Addr>().is_ok(),
        "ipv6" => text.parse::<std::net::Ipv6Addr>().is_ok(),
        "isbn" => is_isbn10(text) || is_isbn13(text),
        "isbn10" => is_isbn10(text),
        "isbn13" => is_isbn13(text),
        "k8s-long-name" => names::is_dns1123_subdomain(text),
        "k8s-short-name" => names::is_dns1123_label(text),
        "mac" => MAC.is_match(text),
        "rgbcolor" => RGB_COLOR.is_match(text),
        "ssn" => SSN.is_match(text),
        "uri" => {
            URI.is_match(text) && !text.chars().any(|character| character.is_control() || character == ' ')
        }
        "uuid" => UUID.is_match(text),
        "uuid3" => UUID3.is_match(text),
        "uuid4" => UUID4.is_match(text),
        "uuid5" => UUID5.is_match(text),
        _ => true,
    }
}

fn is_date_time(text: &str) -> bool {
    if text.len() < 4 || !DATE_TIME.is_match(text) {
        return false;
    }
    let has_offset = text.ends_with(['Z', 'z']) || text.len() > 19 && text[19..].contains(['+', '-']);
    if has_offset {
        text.parse::<k8s_openapi::jiff::Timestamp>().is_ok()
    } else {
        text.parse::<k8s_openapi::jiff::civil::DateTime>().is_ok()
    }
}

fn digits(text: &str) -> Vec<u32> {
    text.chars().filter_map(|character| character.to_digit(10)).collect()
}

fn plain(text: &str) -> String {
    text.chars().filter(|character| !matches!(character, '-' | ' ')).collect()
}

fn passes_luhn(text: &str) -> bool {
    let text = plain(text);
    if !(12..=19).contains(&text.len()) || !DIGITS.is_match(&text) {
        return false;
    }
    let doubled = |digit: u32| if digit > 4 { 2 * digit - 9 } else { 2 * digit };
    let sum: u32 = digits(&text)
        .into_iter()
        .rev()
        .enumerate()
        .map(|(index, digit)| if index % 2 == 1 { doubled(digit) } else { digit })
        .sum();
    sum.is_multiple_of(10)
}

fn is_isbn10(text: &str) -> bool {
    let text = plain(text);
    let (Some(body), Some(last)) = (text.get(..9), text.get(9..)) else { return false };
    let check = match last {
        "X" | "x" => 10,
        digit => match digit.parse::<u32>() {
            Ok(digit) if digit < 10 => digit,
            _ => return false,
        },
    };
    let sum: u32 = digits(body).into_iter().zip(1..).map(|(digit, weight)| digit * weight).sum();
    DIGITS.is_match(body) && (sum + 10 * check).is_multiple_of(11)
}

fn is_isbn13(text: &str) -> bool {
    let text = plain(text);
    let weigh = |(index, digit): (usize, u32)| if index % 2 == 0 { digit } else { 3 * digit };
    text.len() == 13
        && DIGITS.is_match(&text)
        && digits(&text).into_iter().enumerate().map(weigh).sum::<u32>().is_multiple_of(10)
}

#[cfg(test)]
mod tests {
    use super::fits;

    #[test]
    fn formats_tell_right_from_wrong() {
        for (format, right, wrong) in [
            ("date-time", "2026-11-21T14:15:00Z", "yesterday"),
            ("date", "2026-11-21", "2026-13-01"),
            ("duration", "1h30m", "soon"),
            ("ipv4", "10.0.0.1", "10.0.0.256"),
            ("ipv6", "::1", "10.0.0.1"),
            ("cidr", "10.0.0.0/8", "10.0.0.0/33"),
            ("email", "a@b.example", "ab.example"),
            ("hostname", "a.example", "a_b"),
            ("uri", "https://a.example/x", "not a uri"),
            ("uuid", "123e4567-e89b-12d3-a456-426614174000", "123"),
            ("byte", "aGk=", "%%"),
            ("isbn10", "0-306-40615-2", "0-306-40615-3"),
            ("isbn13", "978-3-16-148410-0", "978-3-16-148410-1"),
            ("creditcard", "4111 1111 1111 1111", "4111 1111 1111 1112"),
            ("mac", "01:23:45:67:89:ab", "01:23"),
            ("k8s-short-name", "web", "Web"),
        ] {
            assert!(fits(format, right), "{format}: {right}");
            assert!(!fits(format, wrong), "{format}: {wrong}");
        }
        assert!(fits("made-up", "anything"));
    }
}
