//! The little of DER that certificates need beyond what their library does.

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use rcgen::{KeyPair, SigningKey as _};

const SEQUENCE: u8 = 0x30;
const BIT_STRING: u8 = 0x03;

/// A value with its tag and length; `parts` are its content.
pub fn element(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let mut bytes = vec![tag];
    match u8::try_from(content.len()) {
        Ok(short) if short < 0x80 => bytes.push(short),
        _ => {
            let len = content.len().to_be_bytes();
            let digits: Vec<u8> = len.into_iter().skip_while(|byte| *byte == 0).collect();
            bytes.push(0x80 | digits.len() as u8);
            bytes.extend_from_slice(&digits);
        }
    }
    bytes.extend_from_slice(&content);
    bytes
}

/// Takes the first value from `bytes`: its content, and what follows.
fn split(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (_tag, rest) = bytes.split_first()?;
    let (first, rest) = rest.split_first()?;
    let (len, rest) = match first {
        short if *short < 0x80 => (usize::from(*short), rest),
        long => {
            let (digits, rest) = rest.split_at_checked(usize::from(long & 0x7f))?;
            let len = digits
                .iter()
                .try_fold(0_usize, |len, digit| Some(len.checked_mul(256)? + usize::from(*digit)))?;
            (len, rest)
        }
    };
    rest.split_at_checked(len)
}

/// What is `signed`, be it a certificate or a request for one, with `new` in the place of `old`, which its body holds
/// once; signed anew with `key`, which must be of the same kind as the last one.
pub fn signed_anew(signed: &[u8], old: &[u8], new: &[u8], key: &KeyPair) -> Result<Vec<u8>, String> {
    let unreadable = || "the certificate cannot be read".to_owned();
    let (content, _) = split(signed).ok_or_else(unreadable)?;
    let (body, rest) = split(content).ok_or_else(unreadable)?;
    let (_, signature) = split(rest).ok_or_else(unreadable)?;
    let algorithm = &rest[..rest.len() - signature.len()];
    let at = memchr::memmem::find(body, old).ok_or_else(unreadable)?;
    let body = element(SEQUENCE, &[&body[..at], new, &body[at + old.len()..]]);
    let signature = key.sign(&body).map_err(|error| error.to_string())?;
    let signature = element(BIT_STRING, &[&[0], &signature]);
    Ok(element(SEQUENCE, &[&body, algorithm, &signature]))
}

/// `-----BEGIN LABEL-----` and so on.
pub fn to_pem(label: &str, der: &[u8]) -> String {
    const LINE: usize = 64;
    let text = BASE64.encode(der);
    let mut pem = format!("-----BEGIN {label}-----\n");
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(LINE));
        pem.extend([line, "\n"]);
        rest = after;
    }
    pem + &format!("-----END {label}-----\n")
}
