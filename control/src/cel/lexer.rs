//! Tokens.

use super::{CompileError, Value};

#[derive(Debug, Clone, PartialEq)]
pub enum Token {
    Name(String),
    Literal(Value),
    /// A sign of one or two characters.
    Sign(&'static str),
    End,
}

const SIGNS: [&str; 25] = [
    "==", "!=", "<=", ">=", "&&", "||", "<", ">", "!", "+", "-", "*", "/", "%", "?", ":", ".", ",", "(", ")",
    "[", "]", "{", "}", "=",
];
/// What nobody writes by hand.
const MAX_SOURCE_BYTES: usize = 64 << 10;

/// `ERROR: <input>:1:5: text`, with the line and a mark under the place.
pub fn error(source: &str, at: usize, text: &str) -> CompileError {
    let at = (0..=at.min(source.len())).rev().find(|at| source.is_char_boundary(*at)).unwrap_or(0);
    let start = source[..at].rfind('\n').map_or(0, |end| end + 1);
    let line = source[..at].matches('\n').count() + 1;
    let shown = source[start..].lines().next().unwrap_or_default();
    let column = source[start..at].chars().count();
    let dots = ".".repeat(column);
    CompileError(format!("ERROR: <input>:{line}:{}: {text}\n | {shown}\n | {dots}^", column + 1))
}

/// The tokens of `source` with their offsets.
pub fn tokens(source: &str) -> Result<Vec<(usize, Token)>, CompileError> {
    if source.len() > MAX_SOURCE_BYTES {
        return Err(CompileError(format!("the expression is longer than {MAX_SOURCE_BYTES} bytes")));
    }
    let mut tokens = Vec::new();
    let mut at = 0;
    let bytes = source.as_bytes();
    while at < bytes.len() {
        let rest = &source[at..];
        let byte = bytes[at];
        if byte.is_ascii_whitespace() {
            at += 1;
        } else if rest.starts_with("//") {
            at += rest.find('\n').unwrap_or(rest.len());
        } else if let Some((value, length)) = string(rest).map_err(|text| error(source, at, &text))? {
            tokens.push((at, Token::Literal(value)));
            at += length;
        } else if byte.is_ascii_digit() || (byte == b'.' && bytes.get(at + 1).is_some_and(u8::is_ascii_digit))
        {
            let (value, length) = number(rest).map_err(|text| error(source, at, &text))?;
            tokens.push((at, Token::Literal(value)));
            at += length;
        } else if byte.is_ascii_alphabetic() || byte == b'_' {
            let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
            let length = rest.bytes().take_while(is_part).count();
            tokens.push((at, word(&rest[..length])));
            at += length;
        } else if let Some(sign) = SIGNS.iter().find(|sign| rest.starts_with(**sign)) {
            tokens.push((at, Token::Sign(sign)));
            at += sign.len();
        } else {
            let character = rest.chars().next().unwrap_or_default();
            let text = format!("Syntax error: token recognition error at: '{character}'");
            return Err(error(source, at, &text));
        }
    }
    tokens.push((source.len(), Token::End));
    Ok(tokens)
}

fn word(text: &str) -> Token {
    match text {
        "true" => Token::Literal(Value::Bool(true)),
        "false" => Token::Literal(Value::Bool(false)),
        "null" => Token::Literal(Value::Null),
        other => Token::Name(other.into()),
    }
}

fn number(text: &str) -> Result<(Value, usize), String> {
    let wrong = |kind: &str| format!("invalid {kind} literal");
    if let Some(digits) = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        let length = digits.bytes().take_while(u8::is_ascii_hexdigit).count();
        let is_unsigned = digits[length..].starts_with(['u', 'U']);
        let value = if is_unsigned {
            Value::Uint(u64::from_str_radix(&digits[..length], 16).map_err(|_| wrong("uint"))?)
        } else {
            Value::Int(i64::from_str_radix(&digits[..length], 16).map_err(|_| wrong("int"))?)
        };
        return Ok((value, 2 + length + usize::from(is_unsigned)));
    }
    let bytes = text.as_bytes();
    let digits = |from: usize| bytes[from..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    let mut end = digits(0);
    let mut is_double = false;
    if bytes.get(end) == Some(&b'.') && bytes.get(end + 1).is_some_and(u8::is_ascii_digit) {
        is_double = true;
        end += 1 + digits(end + 1);
    }
    if matches!(bytes.get(end), Some(b'e' | b'E')) {
        let sign = usize::from(matches!(bytes.get(end + 1), Some(b'+' | b'-')));
        let count = bytes.get(end + 1 + sign..).map_or(0, |_| digits(end + 1 + sign));
        if count > 0 {
            is_double = true;
            end += 1 + sign + count;
        }
    }
    if is_double {
        return Ok((Value::Double(text[..end].parse().map_err(|_| wrong("double"))?), end));
    }
    if matches!(bytes.get(end), Some(b'u' | b'U')) {
        return Ok((Value::Uint(text[..end].parse().map_err(|_| wrong("uint"))?), end + 1));
    }
    // The smallest int is written with a sign, which comes later.
    match text[..end].parse::<i64>() {
        Ok(number) => Ok((Value::Int(number), end)),
        Err(_) if &text[..end] == "9223372036854775808" => Ok((Value::Uint(1 << 63), end)),
        Err(_) => Err(wrong("int")),
    }
}

/// A text or bytes literal at the start of `text`, and how long it is; `None` where there is none.
fn string(text: &str) -> Result<Option<(Value, usize)>, String> {
    let letters = text.bytes().take_while(|byte| b"rRbB".contains(byte)).count();
    if letters > 2 || !text[letters..].starts_with(['"', '\'']) {
        return Ok(None);
    }
    let prefix = text[..letters].to_lowercase();
    let (is_raw, is_bytes) = (prefix.contains('r'), prefix.contains('b'));
    let body = &text[letters..];
    let quote = &body[..1];
    let triple = quote.repeat(3);
    let quote = if body.starts_with(&triple) { triple.as_str() } else { quote };
    let mut result = Vec::new();
    let mut at = quote.len();
    loop {
        let rest = &body[at..];
        if rest.starts_with(quote) {
            break;
        }
        let Some(character) = rest.chars().next() else {
            return Err("Syntax error: unterminated string".into());
        };
        if character == '\n' && quote.len() == 1 {
            return Err("Syntax error: unterminated string".into());
        }
        if character == '\\' && !is_raw {
            let (bytes, length) = escape(&rest[1..], is_bytes)?;
            result.extend(bytes);
            at += 1 + length;
        } else if character == '\\' && rest.len() > 1 {
            let next = rest[1..].chars().next().map_or(0, char::len_utf8);
            result.extend(&rest.as_bytes()[..=next]);
            at += 1 + next;
        } else {
            result.extend(&rest.as_bytes()[..character.len_utf8()]);
            at += character.len_utf8();
        }
    }
    let length = letters + at + quote.len();
    let value = if is_bytes {
        Value::Bytes(result.into())
    } else {
        Value::text(String::from_utf8(result).map_err(|_| "invalid string literal")?)
    };
    Ok(Some((value, length)))
}

fn escape(text: &str, is_bytes: bool) -> Result<(Vec<u8>, usize), String> {
    const WRONG: &str = "Syntax error: invalid escape sequence";
    let Some(kind) = text.bytes().next() else { return Err(WRONG.into()) };
    let plain = |byte: u8| Ok((vec![byte], 1));
    match kind {
        b'a' => plain(7),
        b'b' => plain(8),
        b'f' => plain(12),
        b'n' => plain(b'\n'),
        b'r' => plain(b'\r'),
        b't' => plain(b'\t'),
        b'v' => plain(11),
        b'\\' | b'\'' | b'"' | b'`' | b'?' => plain(kind),
        _ => {
            let (skip, count, radix) = match kind {
                b'x' | b'X' => (1, 2, 16),
                b'u' => (1, 4, 16),
                b'U' => (1, 8, 16),
                b'0'..=b'3' => (0, 3, 8),
                _ => return Err(WRONG.into()),
            };
            let digits = text.get(skip..skip + count).ok_or(WRONG)?;
            let code = u32::from_str_radix(digits, radix).map_err(|_| WRONG)?;
            let bytes = if is_bytes && count < 4 {
                vec![u8::try_from(code).map_err(|_| WRONG)?]
            } else {
                char::from_u32(code).ok_or(WRONG)?.to_string().into_bytes()
            };
            Ok((bytes, skip + count))
        }
    }
}
