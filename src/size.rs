//! Sizes in bytes as people write and read them.

use serde::de::{self, Deserializer, Visitor};
use std::fmt;

/// Units, largest first. A bare letter is binary, as storage tools have it; `GB` is decimal.
const UNITS: [(&str, u64); 20] = [
    ("PiB", 1 << 50),
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("P", 1 << 50),
    ("T", 1 << 40),
    ("G", 1 << 30),
    ("M", 1 << 20),
    ("K", 1 << 10),
    ("p", 1 << 50),
    ("t", 1 << 40),
    ("g", 1 << 30),
    ("m", 1 << 20),
    ("k", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("B", 1),
];

/// Why a text is no size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SizeError {
    /// No digits, or something else than a number before the unit.
    #[error("{0:?} is not a size; write a number with a unit, for example 64MiB or 1.5TiB")]
    Number(String),
    /// A unit that is not known.
    #[error("unknown unit {0:?}; use B, KiB, MiB, GiB, TiB, PiB, or kB, MB, GB, TB")]
    Unit(String),
    /// More than 2^63 bytes.
    #[error("{0:?} is too large")]
    Range(String),
    /// A fraction that does not come to whole bytes.
    #[error("{0:?} is not a whole number of bytes")]
    Fraction(String),
}

/// A number of bytes that reads `4096`, `64MiB`, `1.5 TiB` or `10GB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

impl std::str::FromStr for Size {
    type Err = SizeError;

    fn from_str(text: &str) -> Result<Self, SizeError> {
        let trimmed = text.trim();
        let split = trimmed.find(|c: char| !c.is_ascii_digit() && c != '.' && c != '_');
        let (number, unit) = trimmed.split_at(split.unwrap_or(trimmed.len()));
        let unit = unit.trim_start();
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        let bad_number = || SizeError::Number(text.to_owned());
        let whole = whole.replace('_', "");
        if whole.is_empty() || number.ends_with('.') || !fraction.chars().all(|c| c != '.') {
            return Err(bad_number());
        }
        let scale = match unit {
            "" => 1,
            unit => {
                let found = UNITS.iter().find(|(name, _)| *name == unit);
                u128::from(found.ok_or_else(|| SizeError::Unit(unit.to_owned()))?.1)
            }
        };
        let too_large = || SizeError::Range(text.to_owned());
        if whole.len() > 19 || fraction.len() > 15 {
            return Err(too_large());
        }
        let decimals = 10_u128.pow(fraction.len() as u32);
        let digits: u128 = format!("{whole}{fraction}").parse().map_err(|_| bad_number())?;
        let scaled = digits.checked_mul(scale).ok_or_else(too_large)?;
        if scaled % decimals != 0 {
            return Err(SizeError::Fraction(text.to_owned()));
        }
        let bytes = i64::try_from(scaled / decimals).map_err(|_| too_large())?;
        Ok(Self(bytes.unsigned_abs()))
    }
}

impl fmt::Display for Size {
    /// Three significant digits with a binary unit; exact where that is as short.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let binary = UNITS.iter().take(5).find(|(_, scale)| self.0 >= *scale);
        let Some((unit, scale)) = binary else {
            return write!(f, "{} B", self.0);
        };
        if self.0.is_multiple_of(*scale) {
            return write!(f, "{} {unit}", self.0 / scale);
        }
        let value = self.0 as f64 / *scale as f64;
        let decimals = if value < 10.0 {
            2
        } else if value < 100.0 {
            1
        } else {
            0
        };
        write!(f, "{value:.decimals$} {unit}")
    }
}

impl<'de> de::Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visit;
        impl Visitor<'_> for Visit {
            type Value = Size;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a size such as \"64MiB\", or a number of bytes")
            }

            fn visit_i64<E: de::Error>(self, value: i64) -> Result<Size, E> {
                u64::try_from(value).map(Size).map_err(|_| E::custom("a size is not negative"))
            }

            fn visit_u64<E: de::Error>(self, value: u64) -> Result<Size, E> {
                Ok(Size(value))
            }

            fn visit_str<E: de::Error>(self, value: &str) -> Result<Size, E> {
                value.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_any(Visit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_people_write() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("64MiB", 64 << 20),
            (" 1.5 TiB ", 3 << 39),
            ("10G", 10 << 30),
            ("10GB", 10_000_000_000),
            ("1_000k", 1_024_000),
            ("512B", 512),
        ] {
            assert_eq!(text.parse(), Ok(Size(bytes)), "{text}");
        }
    }

    #[test]
    fn refuses_the_rest() {
        for text in ["", "GiB", "1.", "1..5G", ".5G", "-1", "1e3", "12XB", "1.0001B", "1.2.3"] {
            assert!(text.parse::<Size>().is_err(), "{text}");
        }
        assert!(matches!("9000PiB".parse::<Size>(), Err(SizeError::Range(_))));
        assert!(matches!("99999999999999999999".parse::<Size>(), Err(SizeError::Range(_))));
        assert!(matches!("5 bytes".parse::<Size>(), Err(SizeError::Unit(_))));
    }

    #[test]
    fn shows_briefly() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (4096, "4 KiB"),
            (1_500_000, "1.43 MiB"),
            (64 << 30, "64 GiB"),
            (u64::MAX, "16384 PiB"),
        ] {
            assert_eq!(Size(bytes).to_string(), text);
        }
    }
}
