//! Kubernetes quantities (`100m`, `1.5Gi`, `2e3`), exactly: no floating point anywhere.
//!
//! A value is a whole number of nano-units in an `i128`, so every quantity that Kubernetes can express is held
//! without loss up to about 1.7e29; beyond that it is capped. What is finer than a nano-unit is rounded away
//! from zero, as Kubernetes does.

use std::{
    cmp::Ordering,
    fmt,
    iter::Sum,
    ops::{Add, AddAssign, Neg, Sub, SubAssign},
    str::FromStr,
};

use k8s_openapi::apimachinery::pkg::api::resource::Quantity as ApiQuantity;

const NANOS: i128 = 1_000_000_000;
/// Kubernetes caps quantities with a binary suffix here.
const MAX_BINARY: i128 = i64::MAX as i128 * NANOS;

/// How a quantity was written, and so how it is written again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// `Ki`, `Mi`, …: powers of 1024.
    BinarySi,
    /// `n`, `u`, `m`, `k`, `M`, …: powers of 1000.
    #[default]
    DecimalSi,
    /// `e3`, `E6`.
    DecimalExponent,
}

/// An amount of a resource. Equality and order are of the amount, not of the way it is written.
#[derive(Debug, Clone, Copy, Default)]
pub struct Quantity {
    nanos: i128,
    format: Format,
}

/// Why a text is no quantity, in Kubernetes' words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    #[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
    Format,
    #[error("unable to parse numeric part of quantity")]
    Number,
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

impl Quantity {
    pub const ZERO: Self = Self { nanos: 0, format: Format::DecimalSi };

    pub fn from_units(units: i64, format: Format) -> Self {
        Self { nanos: i128::from(units) * NANOS, format }
    }

    /// As for cpu: `from_milli(1500)` is `1500m`.
    pub fn from_milli(milli: i64) -> Self {
        Self { nanos: i128::from(milli) * (NANOS / 1000), format: Format::DecimalSi }
    }

    /// As for measured cpu: `from_nano(12_345)` is `12345n`.
    pub fn from_nano(nano: i64) -> Self {
        Self { nanos: i128::from(nano), format: Format::DecimalSi }
    }

    /// As for memory: prints with `Ki`, `Mi`, … where that is exact.
    pub fn from_bytes(bytes: i64) -> Self {
        Self::from_units(bytes, Format::BinarySi)
    }

    /// Whole units, rounded away from zero as Kubernetes' `Value()`; capped to an `i64`.
    pub fn value(self) -> i64 {
        clamp(div_away(self.nanos, NANOS))
    }

    /// Thousandths, rounded away from zero as Kubernetes' `MilliValue()`; capped to an `i64`.
    pub fn milli_value(self) -> i64 {
        clamp(div_away(self.nanos, NANOS / 1000))
    }

    pub fn nanos(self) -> i128 {
        self.nanos
    }

    pub fn format(self) -> Format {
        self.format
    }

    pub fn is_zero(self) -> bool {
        self.nanos == 0
    }

    pub fn is_negative(self) -> bool {
        self.nanos < 0
    }

    /// Whether it is a whole number of units, as counts of pods or huge pages must be.
    pub fn is_whole(self) -> bool {
        self.nanos % NANOS == 0
    }

    /// Whether it is a whole number of thousandths: finer cpu requests are refused.
    pub fn is_whole_milli(self) -> bool {
        self.nanos % (NANOS / 1000) == 0
    }

    fn write_decimal(self, formatter: &mut fmt::Formatter<'_>, exponents: bool) -> fmt::Result {
        let (mut mantissa, mut exponent) = (self.nanos, -9);
        // A suffix exists up to E (10^18) only; an exponent may grow on.
        while mantissa % 1000 == 0 && (exponents || exponent < 18) {
            mantissa /= 1000;
            exponent += 3;
        }
        if exponents {
            return if exponent == 0 {
                write!(formatter, "{mantissa}")
            } else {
                write!(formatter, "{mantissa}e{exponent}")
            };
        }
        let suffix = ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"][((exponent + 9) / 3) as usize];
        write!(formatter, "{mantissa}{suffix}")
    }

    fn write_binary(self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (mut mantissa, mut power) = (self.nanos / NANOS, 0);
        while mantissa % 1024 == 0 && power < 6 {
            mantissa /= 1024;
            power += 1;
        }
        write!(formatter, "{mantissa}{}", ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"][power])
    }
}

/// The canonical form: no fraction, and the largest suffix that loses nothing.
impl fmt::Display for Quantity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nanos == 0 {
            return formatter.write_str("0");
        }
        match self.format {
            Format::BinarySi if self.nanos.abs() >= 1024 * NANOS && self.is_whole() => {
                self.write_binary(formatter)
            }
            Format::BinarySi | Format::DecimalSi => self.write_decimal(formatter, false),
            Format::DecimalExponent => self.write_decimal(formatter, true),
        }
    }
}

impl FromStr for Quantity {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        let (negative, digits) = match text.as_bytes().first() {
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            Some(_) => (false, text),
            None => return Err(QuantityError::Format),
        };
        let (number, suffix) = split_number(digits);
        check_suffix_shape(suffix)?;
        let (base, exponent, format) = suffix_of(suffix).ok_or(QuantityError::Suffix)?;
        if !number.bytes().any(|byte| byte.is_ascii_digit()) {
            return Err(QuantityError::Number);
        }
        let nanos = scale(number, base, exponent);
        let mut quantity = Self { nanos, format };
        if format == Format::BinarySi {
            quantity.nanos = nanos.min(MAX_BINARY);
            if (1..NANOS).contains(&nanos) {
                quantity.format = Format::DecimalSi; // Less than one: binary suffixes cannot say it.
            }
        }
        Ok(if negative { -quantity } else { quantity })
    }
}

/// The leading `digits[.digits]`, and what follows.
fn split_number(text: &str) -> (&str, &str) {
    let is_digit = |byte: &u8| byte.is_ascii_digit();
    let whole = text.bytes().take_while(is_digit).count();
    let mut end = whole;
    if text.as_bytes().get(end) == Some(&b'.') {
        end += 1;
        end += text[end..].bytes().take_while(is_digit).count();
    }
    text.split_at(end)
}

/// Letters of suffixes, then a sign, then digits; anything else is a format error.
fn check_suffix_shape(suffix: &str) -> Result<(), QuantityError> {
    let rest = suffix.trim_start_matches(['e', 'E', 'i', 'n', 'u', 'm', 'k', 'K', 'M', 'G', 'T', 'P']);
    let rest = rest.strip_prefix(['-', '+']).unwrap_or(rest);
    if rest.bytes().all(|byte| byte.is_ascii_digit()) { Ok(()) } else { Err(QuantityError::Format) }
}

fn suffix_of(suffix: &str) -> Option<(u32, i64, Format)> {
    let decimal = |exponent| Some((10, exponent, Format::DecimalSi));
    let binary = |exponent| Some((2, exponent, Format::BinarySi));
    match suffix {
        "n" => decimal(-9),
        "u" => decimal(-6),
        "m" => decimal(-3),
        "" => decimal(0),
        "k" => decimal(3),
        "M" => decimal(6),
        "G" => decimal(9),
        "T" => decimal(12),
        "P" => decimal(15),
        "E" => decimal(18),
        "Ki" => binary(10),
        "Mi" => binary(20),
        "Gi" => binary(30),
        "Ti" => binary(40),
        "Pi" => binary(50),
        "Ei" => binary(60),
        _ => {
            let exponent = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
            Some((10, exponent, Format::DecimalExponent))
        }
    }
}

/// `number * base^exponent` in nano-units, rounded up; saturates.
fn scale(number: &str, base: u32, exponent: i64) -> i128 {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let mut mantissa: i128 = 0;
    // How many powers of ten the mantissa is ahead of (below zero: behind) a nano-unit.
    let mut tens: i64 = 9;
    if base == 10 {
        tens = tens.saturating_add(exponent);
    }
    let mut lost = false;
    for (index, digit) in whole.bytes().chain(fraction.bytes()).enumerate() {
        let digit = i128::from(digit - b'0');
        match mantissa.checked_mul(10).and_then(|value| value.checked_add(digit)) {
            Some(value) if !lost_room(value, base, exponent) => {
                mantissa = value;
                tens -= i64::from(index >= whole.len());
            }
            // No room for more digits: a whole digit makes the number ten times larger, a fraction only finer.
            _ => {
                lost |= digit != 0;
                tens = tens.saturating_add(i64::from(index < whole.len()));
            }
        }
    }
    if base == 2 {
        mantissa = mantissa.saturating_mul(1 << exponent);
    }
    let mut nanos = mantissa;
    while tens > 0 && nanos != 0 && nanos != i128::MAX {
        nanos = nanos.saturating_mul(10);
        tens -= 1;
    }
    let mut inexact = lost && tens <= 0;
    while tens < 0 && nanos != 0 {
        inexact |= nanos % 10 != 0;
        nanos /= 10;
        tens += 1;
    }
    // `inexact` after the mantissa shrank to nothing still means "more than zero".
    nanos.saturating_add(i128::from(inexact))
}

/// Whether a mantissa this long would overflow once its binary suffix is multiplied in.
fn lost_room(mantissa: i128, base: u32, exponent: i64) -> bool {
    base == 2 && mantissa > i128::MAX >> exponent
}

fn div_away(value: i128, by: i128) -> i128 {
    let quotient = value / by;
    if value % by == 0 { quotient } else { quotient + value.signum() }
}

fn clamp(value: i128) -> i64 {
    i64::try_from(value).unwrap_or(if value < 0 { i64::MIN } else { i64::MAX })
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nanos == other.nanos
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nanos.cmp(&other.nanos)
    }
}

impl Add for Quantity {
    type Output = Self;
    /// A zero takes on the other's format, so that sums that start at zero print like their parts.
    fn add(self, other: Self) -> Self {
        let format = if self.is_zero() { other.format } else { self.format };
        Self { nanos: self.nanos.saturating_add(other.nanos), format }
    }
}

impl Neg for Quantity {
    type Output = Self;
    fn neg(self) -> Self {
        Self { nanos: self.nanos.saturating_neg(), format: self.format }
    }
}

impl Sub for Quantity {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        self + -other
    }
}

impl AddAssign for Quantity {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl SubAssign for Quantity {
    fn sub_assign(&mut self, other: Self) {
        *self = *self - other;
    }
}

impl Sum for Quantity {
    fn sum<I: Iterator<Item = Self>>(items: I) -> Self {
        items.fold(Self::ZERO, Add::add)
    }
}

impl TryFrom<&ApiQuantity> for Quantity {
    type Error = QuantityError;
    fn try_from(quantity: &ApiQuantity) -> Result<Self, QuantityError> {
        quantity.0.parse()
    }
}

impl From<Quantity> for ApiQuantity {
    fn from(quantity: Quantity) -> Self {
        Self(quantity.to_string())
    }
}

/// Rewrites an API quantity in canonical form, as the API server answers it.
pub fn canonicalize(quantity: &mut ApiQuantity) -> Result<(), QuantityError> {
    let canonical = Quantity::try_from(&*quantity)?.to_string();
    if canonical != quantity.0 {
        quantity.0 = canonical;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{Rng, SeedableRng, rngs::StdRng};

    fn quantity(text: &str) -> Quantity {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    fn check(text: &str, canonical: &str) {
        assert_eq!(quantity(text).to_string(), canonical, "{text}");
    }

    #[test]
    fn every_suffix_is_understood_and_written_canonically() {
        for (text, canonical) in [
            ("0", "0"),
            ("0n", "0"),
            ("0Gi", "0"),
            ("-0", "0"),
            ("00", "0"),
            (".0", "0"),
            ("1n", "1n"),
            ("1u", "1u"),
            ("1m", "1m"),
            ("1", "1"),
            ("1k", "1k"),
            ("1M", "1M"),
            ("1G", "1G"),
            ("1T", "1T"),
            ("1P", "1P"),
            ("1E", "1E"),
            ("100E", "100E"),
            ("1000E", "1000E"),
            ("1Ki", "1Ki"),
            ("1Mi", "1Mi"),
            ("1Gi", "1Gi"),
            ("1Ti", "1Ti"),
            ("1Pi", "1Pi"),
            ("1Ei", "1Ei"),
            ("1000m", "1"),
            ("1500m", "1500m"),
            ("0.5", "500m"),
            ("1.5", "1500m"),
            ("100m", "100m"),
            ("2000", "2k"),
            ("1.5Gi", "1536Mi"),
            ("1024Mi", "1Gi"),
            ("1000Ki", "1000Ki"),
            ("1023", "1023"),
            ("512Ki", "512Ki"),
            ("0.5Ki", "512"),
            ("0.1Ki", "102400m"),
            ("0.0001Ki", "102400u"),
            ("1.1Ki", "1126400m"),
            ("2048Ki", "2Mi"),
            ("12e6", "12e6"),
            ("12E6", "12e6"),
            ("1e3", "1e3"),
            ("1000e0", "1e3"),
            ("1e-3", "1e-3"),
            ("1.5e3", "1500"),
            ("100e-3", "100e-3"),
            ("1e-10", "1e-9"),
            ("1e21", "1e21"),
            ("0e5", "0"),
            ("12e+3", "12e3"),
            ("+1", "1"),
            ("-1", "-1"),
            ("-1.5Gi", "-1536Mi"),
            (".5", "500m"),
            ("5.", "5"),
            ("-.5", "-500m"),
            ("100000", "100k"),
            ("1.000000000000000000000000000000", "1"),
        ] {
            check(text, canonical);
        }
    }

    #[test]
    fn what_is_finer_than_nano_is_rounded_away_from_zero() {
        check("0.1n", "1n");
        check("-0.1n", "-1n");
        check("1.0000000001", "1000000001n");
        check("0.00000000000000000000000000000000000000000000001", "1n");
        check("1e-400", "1e-9");
    }

    #[test]
    fn what_is_too_large_is_capped_and_never_wraps() {
        check("9223372036854775807", "9223372036854775807");
        check("8Ei", "9223372036854775807");
        check("1000Ei", "9223372036854775807");
        assert_eq!(quantity("99999999999999999999999999999999999999999999").value(), i64::MAX);
        assert_eq!(quantity("-1e400").value(), i64::MIN);
        assert_eq!(quantity("1e9223372036854775807").value(), i64::MAX);
        assert_eq!(quantity("10E").milli_value(), i64::MAX);
    }

    #[test]
    fn malformed_texts_say_what_is_wrong_as_kubernetes_does() {
        for text in ["", "1.2.3", "1 Gi", " 1", "1,5", "abc", "1Gib", "0x10", "1m1m", "é"] {
            assert_eq!(text.parse::<Quantity>(), Err(QuantityError::Format), "{text:?}");
        }
        for text in ["1K", "1Kii", "1mm", "1i", "1ee3", "1e", "1m3", "1-3", "1Mi5"] {
            assert_eq!(text.parse::<Quantity>(), Err(QuantityError::Suffix), "{text:?}");
        }
        for text in ["-", "+", ".", "Ki", "e3"] {
            assert_eq!(text.parse::<Quantity>(), Err(QuantityError::Number), "{text:?}");
        }
    }

    #[test]
    fn values_round_up() {
        assert_eq!((quantity("1m").value(), quantity("1m").milli_value()), (1, 1));
        assert_eq!((quantity("1n").value(), quantity("1n").milli_value()), (1, 1));
        assert_eq!((quantity("1.5").value(), quantity("1.5").milli_value()), (2, 1500));
        assert_eq!((quantity("-1.5").value(), quantity("-1.5").milli_value()), (-2, -1500));
        assert_eq!(quantity("1Gi").value(), 1 << 30);
    }

    #[test]
    fn arithmetic_is_exact_and_keeps_the_format() {
        assert_eq!((quantity("0.1") + quantity("0.2")).to_string(), "300m");
        assert_eq!((quantity("1Gi") - quantity("512Mi")).to_string(), "512Mi");
        assert_eq!((Quantity::ZERO + quantity("1024Ki")).to_string(), "1Mi");
        assert_eq!((quantity("1Gi") + quantity("1M")).to_string(), "1074741824");
        assert_eq!(["250m", "750m"].map(quantity).into_iter().sum::<Quantity>().to_string(), "1");
        assert!(quantity("1Gi") > quantity("1G") && quantity("1000m") == quantity("1"));
    }

    #[test]
    fn formatting_and_parsing_are_inverse_for_random_values() {
        let mut random = StdRng::seed_from_u64(7);
        for _ in 0..20_000 {
            let format =
                [Format::BinarySi, Format::DecimalSi, Format::DecimalExponent][random.random_range(0..3)];
            let nanos = i128::from(random.random::<i64>()) >> random.random_range(0..62);
            let shift = 10_i128.pow(random.random_range(0..9));
            let quantity = Quantity { nanos: nanos.saturating_mul(shift), format };
            let text = quantity.to_string();
            let again: Quantity = text.parse().expect("what we print parses");
            assert_eq!(again, quantity, "{text}");
            assert_eq!(again.to_string(), text);
        }
    }
}
