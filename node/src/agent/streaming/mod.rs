//! Connections that carry several streams: port-forward, exec and attach, in the protocols that clients speak.
//!
//! kubectl and the JavaScript, Python and Rust clients come with WebSockets whose messages begin with a channel's
//! number; kubectl forwards ports through SPDY/3.1 inside a WebSocket; clients in Go also speak SPDY/3.1 directly. Here
//! all of them become the same [`channel`]s. Not here: who may connect (the node API), and running programs (the
//! runtime).

pub mod channel; // Streams, whatever carries them.
pub mod negotiation; // Which protocol it shall be.
pub mod port_forward;
pub mod remote_command; // exec and attach.
pub mod spdy;
pub mod websocket;

#[cfg(test)]
mod tests;
