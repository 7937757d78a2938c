//! Protobuf at the door: bodies that come in it become JSON, answers to who asks for it are made of JSON. Nothing
//! behind the door knows of it.
//!
//! Go clients of the built-in kinds send and take it. Which field has which number is read from `types.txt` (made by
//! `tools/protobuf-types.py`). Protobuf sends zero values that JSON leaves out; they are dropped where the Go type is
//! no pointer. Not here: custom resources and tables, which have no messages.

mod decode;
mod encode;
mod types;

pub use decode::to_json;
pub use encode::{List, has_message, object, watch_frame};
pub use types::{go_field, time_layout};

const MAGIC: &[u8] = b"k8s\0";

/// Why a body is not the protobuf of an object.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProtobufError {
    #[error("provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]")]
    NoMagic,
    #[error("proto: unexpected end of the message, or a field of the wrong wire type")]
    Malformed,
    #[error("no kind \"{kind}\" is registered for version \"{api_version}\" in protobuf; send JSON")]
    UnknownType { api_version: String, kind: String },
}
