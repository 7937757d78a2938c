//! JSON with numbers written as Go writes them.
//!
//! kubectl and every other client in Go sends a `float64` that is whole without a fraction, and compares what it reads
//! with what it sent: `1.0` in place of `1` would show as a change for ever.

use std::{
    cell::Cell,
    io::{self, Write},
};

use serde::Serialize;
use serde_json::ser::{CompactFormatter, Formatter, Serializer};

/// What a thread keeps to write into, at most.
const KEPT: usize = 64 << 10;

thread_local! {
    static BUFFER: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// `value` as compact JSON, in no more memory than that takes.
pub fn to_vec<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>, serde_json::Error> {
    // A text that is copied once costs less than one that grows step by step. What `value` serializes on its way finds
    // no buffer, and makes its own.
    let mut buffer = BUFFER.take();
    buffer.clear();
    let written = value.serialize(&mut Serializer::with_formatter(&mut buffer, GoNumbers));
    let json = written.map(|()| buffer.as_slice().to_vec());
    if buffer.capacity() <= KEPT {
        BUFFER.set(buffer);
    }
    json
}

struct GoNumbers;

impl Formatter for GoNumbers {
    fn write_f64<W: ?Sized + Write>(&mut self, writer: &mut W, value: f64) -> io::Result<()> {
        let size = value.abs();
        if value == 0.0 || (1e-6..1e21).contains(&size) {
            return write!(writer, "{value}");
        }
        CompactFormatter.write_f64(writer, value)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn whole_numbers_have_no_fraction() {
        let value = json!({ "a": 1.0, "b": [0.0, -2.5, 1e20, 3], "c": 0.1, "text": "1.0" });
        let text = String::from_utf8(to_vec(&value).expect("JSON")).expect("text");
        assert_eq!(text, r#"{"a":1,"b":[0,-2.5,100000000000000000000,3],"c":0.1,"text":"1.0"}"#);
        for number in [1e21, 1e-7, f64::MAX, f64::MIN_POSITIVE, 0.1 + 0.2] {
            let text = to_vec(&number).expect("JSON");
            let read: f64 = serde_json::from_slice(&text).expect("a number");
            assert_eq!(read.to_bits(), number.to_bits());
        }
    }
}
