//! The smallest wasi:http 0.2 service: greets, and says which pod it is.

use wasip2::http::types::{Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam};

struct Hello;

wasip2::http::proxy::export!(Hello);

impl wasip2::exports::http::incoming_handler::Guest for Hello {
    fn handle(request: IncomingRequest, response_out: ResponseOutparam) {
        let path = request.path_with_query().unwrap_or_default();
        let (status, text) = match path.split('?').next().unwrap_or_default() {
            "/healthz" => (200, "ok\n".to_owned()),
            "/" => (200, greeting()),
            other => (404, format!("nothing at {other}\n")),
        };
        respond(response_out, status, text.as_bytes());
    }
}

fn greeting() -> String {
    let env = |name: &str| std::env::var(name).ok();
    let greeting = env("GREETING").unwrap_or_else(|| "Hello from WebAssembly".into());
    match env("POD_NAME") {
        Some(pod) => format!("{greeting}, served by {pod}\n"),
        None => format!("{greeting}\n"),
    }
}

fn respond(response_out: ResponseOutparam, status: u16, text: &[u8]) {
    let headers = Fields::new();
    let _ = headers.set("content-type", &[b"text/plain; charset=utf-8".to_vec()]);
    let response = OutgoingResponse::new(headers);
    let _ = response.set_status_code(status);
    let body = response.body().expect("the body is taken once");
    ResponseOutparam::set(response_out, Ok(response));
    // A client that went away is no error of ours.
    if let Ok(stream) = body.write() {
        let _ = stream.blocking_write_and_flush(text);
    }
    let _ = OutgoingBody::finish(body, None);
}
