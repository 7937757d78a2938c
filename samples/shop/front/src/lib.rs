//! The shop's front: asks the back end for its stock by Service name and shows it.
//!
//! `BACK_URL` says where the back end is (`back.shop`, without the scheme), `SHOP_NAME` what the shop is called; the
//! manifest takes both from a ConfigMap.

use wasip2::http::{
    outgoing_handler,
    types::{Fields, IncomingRequest, OutgoingBody, OutgoingRequest, OutgoingResponse, ResponseOutparam, Scheme},
};

struct Front;

wasip2::http::proxy::export!(Front);

impl wasip2::exports::http::incoming_handler::Guest for Front {
    fn handle(_request: IncomingRequest, response_out: ResponseOutparam) {
        let shop = std::env::var("SHOP_NAME").unwrap_or_else(|_| "a shop without a name".into());
        let back = std::env::var("BACK_URL").unwrap_or_else(|_| "back".into());
        let (status, text) = match stock(&back) {
            Ok(stock) => (200, format!("Welcome to {shop}! In stock: {stock}\n")),
            Err(why) => (502, format!("{shop} is closed: {back} does not answer: {why}\n")),
        };
        respond(response_out, status, text.as_bytes());
    }
}

/// The back end's answer, or why there is none.
fn stock(back: &str) -> Result<String, String> {
    let (authority, path) = back.split_once('/').unwrap_or((back, ""));
    let request = OutgoingRequest::new(Fields::new());
    request.set_scheme(Some(&Scheme::Http)).map_err(|()| "bad scheme")?;
    request.set_authority(Some(authority)).map_err(|()| "bad authority")?;
    request.set_path_with_query(Some(&format!("/{path}"))).map_err(|()| "bad path")?;
    let pending = outgoing_handler::handle(request, None).map_err(|code| code.to_string())?;
    pending.subscribe().block();
    let response = pending
        .get()
        .ok_or("no response")?
        .map_err(|()| "response taken twice")?
        .map_err(|code| code.to_string())?;
    if response.status() != 200 {
        return Err(format!("status {}", response.status()));
    }
    let body = response.consume().map_err(|()| "no body")?;
    let stream = body.stream().map_err(|()| "no stream")?;
    let mut bytes = Vec::new();
    // The stream ends with an error that says it is closed.
    while let Ok(chunk) = stream.blocking_read(64 * 1024) {
        bytes.extend(chunk);
    }
    String::from_utf8(bytes).map_err(|error| error.to_string())
}

fn respond(response_out: ResponseOutparam, status: u16, text: &[u8]) {
    let response = OutgoingResponse::new(Fields::new());
    let _ = response.set_status_code(status);
    let body = response.body().expect("the body is taken once");
    ResponseOutparam::set(response_out, Ok(response));
    // A client that went away is no error of ours.
    if let Ok(stream) = body.write() {
        for part in text.chunks(4096) {
            let _ = stream.blocking_write_and_flush(part);
        }
    }
    let _ = OutgoingBody::finish(body, None);
}
