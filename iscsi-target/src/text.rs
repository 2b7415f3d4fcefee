//! Text as login and text requests carry it: `key=value`, each ended by NUL (RFC 7143, section
//! 6.1).

use storage_spec::iscsi::KEY_MAX;

/// Most pairs of one request.
pub const PAIRS_MAX: usize = 64;

/// Longest value in bytes: that of a CHAP challenge in hexadecimal.
pub const VALUE_MAX: usize = 8192;

/// Why text cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TextError {
    /// A pair is without `=`, or not ended by NUL.
    #[error("text is not made of pairs")]
    Shape,
    /// A key is empty, too long, or not made of what keys are.
    #[error("a key is no key")]
    Key,
    /// A value is too long or not UTF-8.
    #[error("a value is no text")]
    Value,
    /// There are more than [`PAIRS_MAX`], or one twice.
    #[error("too many pairs, or one twice")]
    Pairs,
}

/// Keys and values of a request, in their order.
///
/// # Errors
/// See [`TextError`].
pub fn parse(text: &[u8]) -> Result<Vec<(&str, &str)>, TextError> {
    let mut pairs: Vec<(&str, &str)> = Vec::new();
    let text = match text {
        [] => return Ok(pairs),
        [text @ .., 0] => text,
        _ => return Err(TextError::Shape),
    };
    for pair in text.split(|byte| *byte == 0) {
        // Some initiators pad with NULs.
        if pair.is_empty() {
            continue;
        }
        let at = pair.iter().position(|byte| *byte == b'=').ok_or(TextError::Shape)?;
        let (key, value) = (&pair[..at], &pair[at + 1..]);
        if key.is_empty() || key.len() > KEY_MAX || !key.iter().all(u8::is_ascii_graphic) {
            return Err(TextError::Key);
        }
        let key = str::from_utf8(key).map_err(|_| TextError::Key)?;
        let value = str::from_utf8(value).map_err(|_| TextError::Value)?;
        if value.len() > VALUE_MAX {
            return Err(TextError::Value);
        }
        if pairs.len() == PAIRS_MAX || pairs.iter().any(|(known, _)| *known == key) {
            return Err(TextError::Pairs);
        }
        pairs.push((key, value));
    }
    Ok(pairs)
}

/// Appends a pair.
pub fn push(text: &mut Vec<u8>, key: &str, value: &str) {
    text.extend_from_slice(key.as_bytes());
    text.push(b'=');
    text.extend_from_slice(value.as_bytes());
    text.push(0);
}

/// A number in decimal or hexadecimal (section 6.1).
#[must_use]
pub fn number(value: &str) -> Option<u32> {
    let digits = value.strip_prefix("0x").or_else(|| value.strip_prefix("0X"));
    let (digits, radix) = digits.map_or((value, 10), |digits| (digits, 16));
    let is_plain = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_plain { u32::from_str_radix(digits, radix).ok() } else { None }
}

/// Bytes in hexadecimal (`0x`) or base64 (`0b`), at most `max` of them.
#[must_use]
pub fn binary(value: &str, max: usize) -> Option<Vec<u8>> {
    let (kind, digits) = value.split_at_checked(2)?;
    let bytes = match kind {
        "0x" | "0X" => hexadecimal(digits)?,
        "0b" | "0B" => base64(digits)?,
        _ => return None,
    };
    (bytes.len() <= max).then_some(bytes)
}

/// Bytes in hexadecimal.
#[must_use]
pub fn to_hexadecimal(bytes: &[u8]) -> String {
    use core::fmt::Write;
    bytes.iter().fold(String::from("0x"), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string takes what it is given");
        text
    })
}

fn hexadecimal(digits: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
    let digits = digits.as_bytes();
    // An odd one stands for the lower half of the first byte.
    let (first, rest) = digits.split_at(digits.len() % 2);
    let mut bytes = Vec::with_capacity(digits.len().div_ceil(2));
    for byte in first {
        bytes.push(digit(*byte)?);
    }
    for pair in rest.chunks_exact(2) {
        bytes.push(digit(pair[0])? << 4 | digit(pair[1])?);
    }
    (!bytes.is_empty()).then_some(bytes)
}

fn base64(digits: &str) -> Option<Vec<u8>> {
    let value = |byte: u8| match byte {
        b'A'..=b'Z' => Some(byte - b'A'),
        b'a'..=b'z' => Some(byte - b'a' + 26),
        b'0'..=b'9' => Some(byte - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    };
    let digits = digits.trim_end_matches('=').as_bytes();
    if digits.is_empty() || digits.len() % 4 == 1 {
        return None;
    }
    let mut bytes = Vec::with_capacity(digits.len() * 3 / 4);
    for group in digits.chunks(4) {
        let mut word = 0_u32;
        for byte in group {
            word = word << 6 | u32::from(value(*byte)?);
        }
        word <<= 6 * (4 - group.len());
        bytes.extend_from_slice(&word.to_be_bytes()[1..group.len()]);
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn pairs_are_read() {
        let text = b"InitiatorName=iqn.a:b=c\0\0SessionType=\0";
        assert_eq!(parse(text), Ok(vec![("InitiatorName", "iqn.a:b=c"), ("SessionType", "")]));
        assert_eq!(parse(b""), Ok(vec![]));
        assert_eq!(parse(b"a=b"), Err(TextError::Shape));
        assert_eq!(parse(b"ab\0"), Err(TextError::Shape));
        assert_eq!(parse(b"=b\0"), Err(TextError::Key));
        assert_eq!(parse(b"a b=c\0"), Err(TextError::Key));
        assert_eq!(parse(b"a=\xFF\0"), Err(TextError::Value));
        assert_eq!(parse(b"a=1\0a=2\0"), Err(TextError::Pairs));
        let long = format!("{}=1\0", "k".repeat(KEY_MAX + 1));
        assert_eq!(parse(long.as_bytes()), Err(TextError::Key));
    }

    #[test]
    fn numbers_and_bytes_are_read() {
        assert_eq!(number("65536"), Some(65536));
        assert_eq!(number("0x10"), Some(16));
        for wrong in ["", "-1", "+1", "4294967296", "0x", "1 ", "a"] {
            assert_eq!(number(wrong), None, "{wrong}");
        }
        assert_eq!(binary("0x0aFF", 2), Some(vec![0x0A, 0xFF]));
        assert_eq!(binary("0xaFF", 2), Some(vec![0x0A, 0xFF]));
        assert_eq!(binary("0bTWFu", 3), Some(b"Man".to_vec()));
        assert_eq!(binary("0bTWE=", 3), Some(b"Ma".to_vec()));
        assert_eq!(binary("0bTQ==", 3), Some(b"M".to_vec()));
        for wrong in ["0x", "0b", "0xg0", "0bT", "0b!!!!", "12", "", "0x010203", "0"] {
            assert_eq!(binary(wrong, 2), None, "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn bytes_survive_hexadecimal(bytes in prop::collection::vec(any::<u8>(), 1..64)) {
            prop_assert_eq!(binary(&to_hexadecimal(&bytes), 64), Some(bytes));
        }

        #[test]
        fn whatever_comes_is_read_or_refused(text: Vec<u8>, value: String) {
            let _ = parse(&text);
            let _ = (number(&value), binary(&value, 16));
        }
    }
}
