//! Where a PCI function is.

use std::fmt;
use std::str::FromStr;

/// Domain, bus, device and function of a PCI function, as `0000:01:00.0`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PciAddress {
    domain: u32,
    bus: u8,
    device: u8,
    function: u8,
}

/// A text that is no PCI address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no PCI address; write it as 0000:01:00.0 (`basalt disk list` shows them)")]
pub struct AddressError(pub String);

impl FromStr for PciAddress {
    type Err = AddressError;

    /// Takes `DDDD:BB:DD.F` in hexadecimal; without the domain it is domain 0.
    fn from_str(text: &str) -> Result<Self, AddressError> {
        parse(text).ok_or_else(|| AddressError(text.to_owned()))
    }
}

fn parse(text: &str) -> Option<PciAddress> {
    let (rest, function) = text.rsplit_once('.')?;
    let (rest, device) = rest.rsplit_once(':')?;
    let (domain, bus) = rest.split_once(':').unwrap_or(("0", rest));
    let hex = |text: &str, digits_max: usize| {
        let is_hex = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let fits = text.len() <= digits_max;
        (is_hex && fits).then(|| u32::from_str_radix(text, 16).ok())?
    };
    let (bus, device) = (hex(bus, 2)? as u8, hex(device, 2)? as u8);
    let function = hex(function, 1)? as u8;
    // A device number has five bits, a function number three.
    let valid = device < 32 && function < 8;
    valid.then_some(PciAddress { domain: hex(domain, 8)?, bus, device, function })
}

impl fmt::Display for PciAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { domain, bus, device, function } = self;
        write!(f, "{domain:04x}:{bus:02x}:{device:02x}.{function:x}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_shown() {
        let good = [
            ("0000:01:00.0", "0000:01:00.0"),
            ("01:00.0", "0000:01:00.0"),
            ("10000:e1:1F.7", "10000:e1:1f.7"),
            ("0:1:2.3", "0000:01:02.3"),
        ];
        for (text, shown) in good {
            assert_eq!(text.parse::<PciAddress>().unwrap().to_string(), shown);
        }
        let bad =
            ["", "0000:01:00", "01:20.0", "01:00.8", "g0:00.0", ":00.0", "1:2:3:4.0", "+1:0.0"];
        for text in bad {
            assert!(text.parse::<PciAddress>().is_err(), "{text}");
        }
    }
}
