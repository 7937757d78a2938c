//! `IntOrString` values that may be percentages, such as `maxSurge: 25%`.

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// Which way a percentage of a total is rounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rounding {
    Up,
    Down,
}

/// The text is no percentage.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScaleError {
    #[error("invalid value for IntOrString: invalid type: string is not a percentage")]
    NotAPercentage,
    #[error("invalid value for IntOrString: invalid value {0:?}")]
    NotANumber(String),
}

/// The number itself, or the percentage taken of `total`.
pub fn scaled(value: &IntOrString, total: i32, rounding: Rounding) -> Result<i32, ScaleError> {
    let Some(percent) = percentage(value)? else {
        let IntOrString::Int(number) = value else { return Err(ScaleError::NotAPercentage) };
        return Ok(*number);
    };
    let product = i64::from(percent) * i64::from(total);
    let rounded = match rounding {
        Rounding::Up => product.div_euclid(100) + i64::from(product.rem_euclid(100) != 0),
        Rounding::Down => product.div_euclid(100),
    };
    Ok(i32::try_from(rounded).unwrap_or(if rounded < 0 { i32::MIN } else { i32::MAX }))
}

/// The percentage, or `None` for a plain number.
pub fn percentage(value: &IntOrString) -> Result<Option<i32>, ScaleError> {
    match value {
        IntOrString::Int(_) => Ok(None),
        IntOrString::String(text) => {
            let digits = text.strip_suffix('%').ok_or(ScaleError::NotAPercentage)?;
            digits.parse().map(Some).map_err(|_| ScaleError::NotANumber(text.clone()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn percent(text: &str) -> IntOrString {
        IntOrString::String(text.into())
    }

    #[test]
    fn numbers_are_taken_as_they_are() {
        assert_eq!(scaled(&IntOrString::Int(3), 10, Rounding::Up), Ok(3));
        assert_eq!(scaled(&IntOrString::Int(-3), 10, Rounding::Down), Ok(-3));
    }

    #[test]
    fn percentages_round_as_asked() {
        for (text, total, up, down) in [
            ("25%", 3, 1, 0),
            ("25%", 4, 1, 1),
            ("100%", 7, 7, 7),
            ("0%", 7, 0, 0),
            ("33%", 10, 4, 3),
            ("150%", 2, 3, 3),
        ] {
            assert_eq!(scaled(&percent(text), total, Rounding::Up), Ok(up), "{text} of {total}");
            assert_eq!(scaled(&percent(text), total, Rounding::Down), Ok(down), "{text} of {total}");
        }
        assert_eq!(scaled(&percent("2147483647%"), i32::MAX, Rounding::Up), Ok(i32::MAX));
    }

    #[test]
    fn other_texts_are_refused() {
        assert_eq!(scaled(&percent("5"), 10, Rounding::Up), Err(ScaleError::NotAPercentage));
        assert_eq!(scaled(&percent("x%"), 10, Rounding::Up), Err(ScaleError::NotANumber("x%".into())));
        assert_eq!(scaled(&percent(""), 10, Rounding::Up), Err(ScaleError::NotAPercentage));
    }
}
