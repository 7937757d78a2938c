//! The shop's back end: answers with its stock as JSON.

use wasip2::http::types::{Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam};

struct Back;

wasip2::http::proxy::export!(Back);

const STOCK: &[u8] = br#"[{"item":"oar","count":12},{"item":"rope","count":40},{"item":"lantern","count":7}]"#;

impl wasip2::exports::http::incoming_handler::Guest for Back {
    fn handle(_request: IncomingRequest, response_out: ResponseOutparam) {
        let headers = Fields::new();
        let _ = headers.set("content-type", &[b"application/json".to_vec()]);
        let response = OutgoingResponse::new(headers);
        let body = response.body().expect("the body is taken once");
        ResponseOutparam::set(response_out, Ok(response));
        // A client that went away is no error of ours.
        if let Ok(stream) = body.write() {
            let _ = stream.blocking_write_and_flush(STOCK);
        }
        let _ = OutgoingBody::finish(body, None);
    }
}
