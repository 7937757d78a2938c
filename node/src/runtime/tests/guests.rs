//! Guests for the tests, written by hand so that they need no toolchain.

/// A preview-1 command that writes a line and exits with `code`.
pub fn says(line: &str, code: i32) -> Vec<u8> {
    wasm(&format!(
        r#"(module
            (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
            (memory (export "memory") 1)
            (data (i32.const 16) "{line}\n")
            (func (export "_start")
                (i32.store (i32.const 0) (i32.const 16))
                (i32.store (i32.const 4) (i32.const {length}))
                (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
                (call $exit (i32.const {code}))))"#,
        length = line.len() + 1
    ))
}

/// A preview-1 command that sleeps for an hour.
pub fn sleeps() -> Vec<u8> {
    wasm(
        r#"(module
            (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
            (memory (export "memory") 1)
            (func (export "_start")
                (i32.store (i32.const 16) (i32.const 1))
                (i64.store (i32.const 24) (i64.const 3600000000000))
                (drop (call $poll (i32.const 0) (i32.const 64) (i32.const 1) (i32.const 128)))))"#,
    )
}

/// A preview-1 command that sleeps for an hour; with arguments, it copies its input to its output and exits with how
/// many arguments it has, its name among them.
pub fn sleeps_or_copies() -> Vec<u8> {
    wasm(include_str!("../../../../tests/guests/copies.wat"))
}

/// A preview-1 command that never yields.
pub fn spins() -> Vec<u8> {
    wasm(r#"(module (memory (export "memory") 1) (func (export "_start") (loop (br 0))))"#)
}

/// A command that imports what nobody provides.
pub fn wants_too_much() -> Vec<u8> {
    wasm(r#"(module (import "moon" "land" (func)) (memory (export "memory") 1) (func (export "_start")))"#)
}

/// A wasi:http 0.2 component that answers every request with this status.
pub fn answers(status: u16) -> Vec<u8> {
    wasm(&HTTP.replace("STATUS", &status.to_string()))
}

fn wasm(text: &str) -> Vec<u8> {
    wat::parse_str(text).expect("a guest of the tests is valid")
}

const HTTP: &str = r#"(component
    (import "wasi:http/types@0.2.0" (instance $types
        (export "fields" (type $fields (sub resource)))
        (export "incoming-request" (type $request (sub resource)))
        (export "outgoing-response" (type $response (sub resource)))
        (export "response-outparam" (type $out (sub resource)))
        (type $dns' (record (field "rcode" (option string)) (field "info-code" (option u16))))
        (export "DNS-error-payload" (type $dns (eq $dns')))
        (type $tls' (record (field "alert-id" (option u8)) (field "alert-message" (option string))))
        (export "TLS-alert-received-payload" (type $tls (eq $tls')))
        (type $field' (record (field "field-name" (option string)) (field "field-size" (option u32))))
        (export "field-size-payload" (type $field (eq $field')))
        (type $error' (variant
            (case "DNS-timeout") (case "DNS-error" $dns) (case "destination-not-found")
            (case "destination-unavailable") (case "destination-IP-prohibited") (case "destination-IP-unroutable")
            (case "connection-refused") (case "connection-terminated") (case "connection-timeout")
            (case "connection-read-timeout") (case "connection-write-timeout") (case "connection-limit-reached")
            (case "TLS-protocol-error") (case "TLS-certificate-error") (case "TLS-alert-received" $tls)
            (case "HTTP-request-denied") (case "HTTP-request-length-required")
            (case "HTTP-request-body-size" (option u64)) (case "HTTP-request-method-invalid")
            (case "HTTP-request-URI-invalid") (case "HTTP-request-URI-too-long")
            (case "HTTP-request-header-section-size" (option u32)) (case "HTTP-request-header-size" (option $field))
            (case "HTTP-request-trailer-section-size" (option u32)) (case "HTTP-request-trailer-size" $field)
            (case "HTTP-response-incomplete") (case "HTTP-response-header-section-size" (option u32))
            (case "HTTP-response-header-size" $field) (case "HTTP-response-body-size" (option u64))
            (case "HTTP-response-trailer-section-size" (option u32)) (case "HTTP-response-trailer-size" $field)
            (case "HTTP-response-transfer-coding" (option string))
            (case "HTTP-response-content-coding" (option string)) (case "HTTP-response-timeout")
            (case "HTTP-upgrade-failed") (case "HTTP-protocol-error") (case "loop-detected")
            (case "configuration-error") (case "internal-error" (option string))))
        (export "error-code" (type $error (eq $error')))
        (export "[constructor]fields" (func (result (own $fields))))
        (export "[constructor]outgoing-response" (func (param "headers" (own $fields)) (result (own $response))))
        (export "[method]outgoing-response.set-status-code"
            (func (param "self" (borrow $response)) (param "status-code" u16) (result (result))))
        (export "[static]response-outparam.set"
            (func (param "param" (own $out)) (param "response" (result (own $response) (error $error)))))))
    (alias export $types "incoming-request" (type $request))
    (alias export $types "response-outparam" (type $out))
    (core module $memory (memory (export "memory") 1))
    (core instance $memory (instantiate $memory))
    (alias core export $memory "memory" (core memory $bytes))
    (core func $fields (canon lower (func $types "[constructor]fields")))
    (core func $response (canon lower (func $types "[constructor]outgoing-response")))
    (core func $status (canon lower (func $types "[method]outgoing-response.set-status-code")))
    (core func $set (canon lower (func $types "[static]response-outparam.set") (memory $bytes)))
    (core module $main
        (import "host" "fields" (func $fields (result i32)))
        (import "host" "response" (func $response (param i32) (result i32)))
        (import "host" "status" (func $status (param i32 i32) (result i32)))
        (import "host" "set" (func $set (param i32 i32 i32 i32 i64 i32 i32 i32 i32)))
        (func (export "handle") (param $request i32) (param $out i32) (local $answer i32)
            (local.set $answer (call $response (call $fields)))
            (drop (call $status (local.get $answer) (i32.const STATUS)))
            (call $set (local.get $out) (i32.const 0) (local.get $answer) (i32.const 0) (i64.const 0)
                (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0))))
    (core instance $main (instantiate $main (with "host" (instance
        (export "fields" (func $fields)) (export "response" (func $response))
        (export "status" (func $status)) (export "set" (func $set))))))
    (func $handle (param "request" (own $request)) (param "response-out" (own $out))
        (canon lift (core func $main "handle")))
    (instance $handler (export "handle" (func $handle)))
    (export "wasi:http/incoming-handler@0.2.0" (instance $handler)))"#;
