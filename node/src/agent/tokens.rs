//! How long the tokens of service accounts are used before new ones are asked for.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL};
use jiff::Timestamp;
use serde::Deserialize;

/// No token is used for longer.
const MAX_AGE_SECONDS: i64 = 24 * 3600;

#[derive(Deserialize)]
struct Claims {
    iat: i64,
}

/// Whether less than four fifths of the time that was asked for have passed since the token was issued.
///
/// The token itself says when that was, so that nothing needs to be remembered, not even by the next agent.
pub fn is_young(token: &str, seconds: i64, now: Timestamp) -> bool {
    let claims = token.split('.').nth(1).and_then(|claims| BASE64URL.decode(claims).ok());
    let claims: Option<Claims> = claims.and_then(|claims| serde_json::from_slice(&claims).ok());
    claims.is_some_and(|claims| {
        let age = now.as_second() - claims.iat;
        (0..(seconds * 4 / 5).min(MAX_AGE_SECONDS)).contains(&age)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_ages_from_its_issue() {
        let token = format!("e30.{}.e30", BASE64URL.encode(r#"{"iat":1000}"#));
        let is_young = |token: &str, seconds, now| {
            super::is_young(token, seconds, Timestamp::from_second(now).expect("a time"))
        };
        assert!(is_young(&token, 600, 1000) && is_young(&token, 600, 1479));
        assert!(!is_young(&token, 600, 1480) && !is_young(&token, 600, 999));
        assert!(!is_young(&token, i64::from(u32::MAX), 1000 + MAX_AGE_SECONDS));
        assert!(!is_young("nonsense", 600, 1000) && !is_young("", 600, 1000));
    }
}
