//! Bad input for tests: well-formed examples, changed step by step until they are not. One seed gives the same inputs
//! every time; a failing test names it.

use rand::{Rng as _, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// What one test may take: enough for hundreds of inputs, little enough to run each time.
const TIME: Duration = Duration::from_millis(1500);

/// Makes bad input.
pub struct Fuzz {
    random: StdRng,
}

impl Fuzz {
    pub fn new(seed: u64) -> Self {
        Self { random: StdRng::seed_from_u64(seed) }
    }

    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        items.choose(&mut self.random).expect("there are some")
    }

    /// `example` with a few bytes changed, cut out, repeated or put in.
    pub fn bytes(&mut self, example: &[u8]) -> Vec<u8> {
        let mut bytes = example.to_vec();
        for _ in 0..self.random.random_range(1..5) {
            let at = self.random.random_range(0..=bytes.len());
            let end = self.random.random_range(at..=bytes.len().min(at + 64));
            match self.random.random_range(0..6) {
                0 if at < bytes.len() => bytes[at] = self.random.random(),
                1 if at < bytes.len() => bytes[at] ^= 1 << self.random.random_range(0..8),
                2 => drop(bytes.drain(at..end)),
                3 => {
                    let piece = bytes[at..end].to_vec();
                    bytes.splice(at..at, piece);
                }
                4 => bytes.truncate(at),
                _ => {
                    let token = *self.pick(&[
                        "{",
                        "}",
                        "[[[[[[[[",
                        "\"",
                        "\\u0000",
                        "\\ud800",
                        "1e999",
                        "-",
                        "\0",
                        "$",
                        "é",
                        ":",
                        ",",
                        "'",
                        "99999999999999999999",
                        "((((((((",
                        "../",
                        "%2F",
                        "\u{feff}",
                        " in ()",
                        "!=",
                        "null",
                    ]);
                    bytes.splice(at..at, token.bytes());
                }
            }
        }
        bytes
    }

    /// The same as text.
    pub fn text(&mut self, example: &str) -> String {
        String::from_utf8_lossy(&self.bytes(example.as_bytes())).into_owned()
    }

    /// `example` with a few of its values or keys replaced by what nobody expects there.
    pub fn json(&mut self, example: &Value) -> Value {
        let mut value = example.clone();
        for _ in 0..self.random.random_range(1..4) {
            self.change(&mut value);
        }
        value
    }

    fn change(&mut self, value: &mut Value) {
        if self.random.random_range(0..4) > 0 {
            match value {
                Value::Object(map) if !map.is_empty() => {
                    let keys: Vec<String> = map.keys().cloned().collect();
                    let key = self.pick(&keys).clone();
                    if self.random.random_range(0..8) == 0 {
                        let moved = map.remove(&key).unwrap_or_default();
                        let strange =
                            *self.pick(&["", "$patch", "metadata", "~1", "a.b/c", "$setElementOrder/x"]);
                        map.insert(strange.to_owned(), moved);
                        return;
                    }
                    return self.change(&mut map[&key]);
                }
                Value::Array(items) if !items.is_empty() => {
                    let at = self.random.random_range(0..items.len());
                    if self.random.random_range(0..8) == 0 {
                        return items.push(items[at].clone());
                    }
                    return self.change(&mut items[at]);
                }
                _ => (),
            }
        }
        *value = self.surprise();
    }

    fn surprise(&mut self) -> Value {
        match self.random.random_range(0..14) {
            0 => Value::Null,
            1 => json!(-1),
            2 => json!(i64::MAX),
            3 => json!(u64::MAX),
            4 => json!(1e308),
            5 => json!(""),
            6 => json!("x".repeat(70_000)),
            7 => json!("é\u{0}\u{202e}/../"),
            8 => json!([]),
            9 => json!({}),
            10 => json!([null, [null], {}]),
            11 => (0..100).fold(json!(1), |inner, _| json!([inner])),
            12 => {
                (0..100).fold(json!(1), |inner, _| json!({ "properties": { "a": inner }, "type": "object" }))
            }
            _ => json!(self.random.random::<bool>()),
        }
    }
}

/// Calls `check` with ever new seeds until its time is over; a failure names the seed.
pub fn run(mut check: impl FnMut(&mut Fuzz)) {
    let began = Instant::now();
    let mut seed = 0;
    while began.elapsed() < TIME {
        let failing = Failing(seed);
        check(&mut Fuzz::new(seed));
        std::mem::forget(failing);
        seed += 1;
    }
    assert!(seed > 20, "only {seed} inputs were tried: they take too long");
}

/// Names the seed when a check fails.
pub struct Failing(pub u64);

impl Drop for Failing {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the input of seed {} failed", self.0);
        }
    }
}
