//! JSON with numbers written as Go writes them.
//!
//! kubectl and every other client in Go sends a `float64` that is whole without a fraction, and compares what it reads
//! with what it sent: `1.0` in place of `1` would show as a change for ever.

use std::io::{self, Write};

use serde::Serialize;
use serde_json::ser::{CompactFormatter, Formatter, Serializer};

/// `value` as compact JSON.
pub fn to_vec<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>, serde_json::Error> {
    let mut json = Vec::with_capacity(512);
    value.serialize(&mut Serializer::with_formatter(&mut json, GoNumbers))?;
    Ok(json)
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
