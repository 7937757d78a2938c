//! Which protocol a connection shall speak: what the client offers, in its order, against what there is.

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

const STREAM_PROTOCOL: HeaderName = HeaderName::from_static("x-stream-protocol-version");
const ACCEPTED_PROTOCOLS: HeaderName = HeaderName::from_static("x-accepted-stream-protocol-versions");
const SPDY: &str = "SPDY/3.1";

/// What carries the streams, with the protocol inside; "" where a WebSocket client names none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Carrier {
    WebSocket(String),
    Spdy(String),
}

/// The protocols of one kind of connection.
#[derive(Debug, Clone, Copy)]
pub struct Known {
    pub websocket: &'static [&'static str],
    pub spdy: &'static [&'static str],
}

/// Why the connection stays what it is.
#[derive(Debug, PartialEq, Eq)]
pub struct Refusal {
    pub status: StatusCode,
    pub message: String,
    /// What a SPDY client could have asked for.
    pub accepted: &'static [&'static str],
}

impl Refusal {
    fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), accepted: &[] }
    }

    /// The headers that say so.
    pub fn headers(&self) -> HeaderMap {
        let accepted = self.accepted.iter().map(|protocol| HeaderValue::from_static(protocol));
        accepted.map(|protocol| (ACCEPTED_PROTOCOLS, protocol)).collect()
    }
}

/// The carrier, and the headers by which the client learns of it.
pub fn negotiate(headers: &HeaderMap, known: Known) -> Result<(Carrier, HeaderMap), Refusal> {
    let wants = |protocol: &str| {
        list(headers, &header::UPGRADE).any(|asked| asked.eq_ignore_ascii_case(protocol))
            && list(headers, &header::CONNECTION).any(|option| option.eq_ignore_ascii_case("upgrade"))
    };
    if wants("websocket") {
        websocket(headers, known.websocket)
    } else if wants(SPDY) {
        spdy(headers, known.spdy)
    } else {
        Err(Refusal::new(StatusCode::BAD_REQUEST, "unable to upgrade: missing upgrade headers in request"))
    }
}

fn websocket(headers: &HeaderMap, known: &[&'static str]) -> Result<(Carrier, HeaderMap), Refusal> {
    let version = headers.get(header::SEC_WEBSOCKET_VERSION).map(HeaderValue::as_bytes);
    let Some(key) = headers.get(header::SEC_WEBSOCKET_KEY).filter(|_| version == Some(b"13")) else {
        let text = "unable to upgrade: a WebSocket needs version 13 and a key";
        return Err(Refusal::new(StatusCode::BAD_REQUEST, text));
    };
    let offered: Vec<&str> = list(headers, &header::SEC_WEBSOCKET_PROTOCOL).collect();
    let chosen = choose(&offered, known).or(offered.is_empty().then_some(""));
    let chosen = chosen.ok_or_else(|| unknown(&offered, known))?;
    let mut answer = HeaderMap::new();
    answer.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    answer.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    let accept = HeaderValue::try_from(derive_accept_key(key.as_bytes())).expect("base64 is a header value");
    answer.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    if !chosen.is_empty() {
        answer.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(chosen));
    }
    Ok((Carrier::WebSocket(chosen.into()), answer))
}

fn spdy(headers: &HeaderMap, known: &'static [&'static str]) -> Result<(Carrier, HeaderMap), Refusal> {
    let offered: Vec<&str> = list(headers, &STREAM_PROTOCOL).collect();
    let chosen =
        choose(&offered, known).ok_or_else(|| Refusal { accepted: known, ..unknown(&offered, known) })?;
    let mut answer = HeaderMap::new();
    answer.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    answer.insert(header::UPGRADE, HeaderValue::from_static(SPDY));
    answer.insert(STREAM_PROTOCOL, HeaderValue::from_static(chosen));
    Ok((Carrier::Spdy(chosen.into()), answer))
}

fn list<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim).filter(|text| !text.is_empty())
}

/// The first of the client's that is known.
fn choose(offered: &[&str], known: &[&'static str]) -> Option<&'static str> {
    offered.iter().find_map(|protocol| known.iter().find(|known| *known == protocol).copied())
}

fn unknown(offered: &[&str], known: &[&str]) -> Refusal {
    let (offered, known) = (offered.join(", "), known.join(", "));
    let text = format!("unable to upgrade: the client offers [{offered}], this server speaks [{known}]");
    Refusal::new(StatusCode::FORBIDDEN, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: Known = Known { websocket: &["v5", "v4"], spdy: &["v4"] };

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let pairs = pairs
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
        pairs.collect()
    }

    #[test]
    fn a_websocket_gets_the_first_protocol_that_is_known() {
        let ask = |protocols: &'static str| {
            let mut asked = headers(&[
                ("connection", "keep-alive, Upgrade"),
                ("upgrade", "WebSocket"),
                ("sec-websocket-version", "13"),
                ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
            ]);
            if !protocols.is_empty() {
                asked.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocols));
            }
            negotiate(&asked, KNOWN)
        };
        let (carrier, answer) = ask("v9, v4, v5").unwrap();
        assert_eq!(carrier, Carrier::WebSocket("v4".into()));
        assert_eq!(answer[header::SEC_WEBSOCKET_PROTOCOL], "v4");
        // The example of RFC 6455.
        assert_eq!(answer[header::SEC_WEBSOCKET_ACCEPT], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(ask("").unwrap().0, Carrier::WebSocket(String::new()));
        assert_eq!(ask("v9").unwrap_err().status, StatusCode::FORBIDDEN);
    }

    #[test]
    fn spdy_says_what_it_knows_when_it_knows_nothing_of_what_is_offered() {
        let ask = |protocol| {
            let upgrade = [("connection", "Upgrade"), ("upgrade", "SPDY/3.1")];
            negotiate(&headers(&[upgrade[0], upgrade[1], ("x-stream-protocol-version", protocol)]), KNOWN)
        };
        assert_eq!(ask("v4").unwrap().0, Carrier::Spdy("v4".into()));
        let refusal = ask("v9").unwrap_err();
        assert_eq!(refusal.headers()[ACCEPTED_PROTOCOLS], "v4");
        assert_eq!(negotiate(&HeaderMap::new(), KNOWN).unwrap_err().status, StatusCode::BAD_REQUEST);
    }
}
