//! What the operator decides: names, portals, who may log in.

use std::net::SocketAddr;
use storage_spec::iscsi::NAME_MAX;
use zeroize::Zeroizing;

/// Fewest and most bytes of a CHAP secret. Fewer can be tried out by who listens (RFC 7143, section
/// 9.2.1), more are not taken by every initiator.
pub const SECRET_MIN: usize = 12;
/// See [`SECRET_MIN`].
pub const SECRET_MAX: usize = 255;

/// Most initiators that may be allowed.
pub const INITIATORS_MAX: usize = 1024;

/// Why something cannot be as the operator wants it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Not a name.
    #[error(
        "{0} is no iSCSI name: those are iqn.YYYY-MM.DOMAIN[:TEXT], eui.HEX or naa.HEX, at \
         most 223 bytes"
    )]
    Name(String),
    /// A user name or secret of CHAP cannot be.
    #[error("{0}")]
    Secret(&'static str),
    /// There are as many as can be.
    #[error("there are {INITIATORS_MAX} initiators already, which is the most")]
    Full,
    /// There is such a unit already.
    #[error("LUN {0} is in use")]
    LunInUse(u16),
    /// There is no such unit.
    #[error("there is no LUN {0}")]
    NoLun(u16),
}

/// An iSCSI name, of a target or an initiator (RFC 7143, section 4.2.7).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct IscsiName(String);

impl IscsiName {
    /// Checks a name.
    ///
    /// # Errors
    /// [`ConfigError::Name`].
    pub fn new(name: &str) -> Result<Self, ConfigError> {
        // Names are compared without case; what else a name is made of is not our affair.
        let name = name.to_ascii_lowercase();
        let is_hex = |digits: &str, lens: &[usize]| {
            lens.contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
        };
        let is_name = match name.split_at_checked(4) {
            Some(("iqn.", rest)) => {
                is_qualified(rest) && name.bytes().all(|byte| byte.is_ascii_graphic())
            }
            Some(("eui.", rest)) => is_hex(rest, &[16]),
            Some(("naa.", rest)) => is_hex(rest, &[16, 32]),
            _ => false,
        };
        if !is_name || name.len() > NAME_MAX {
            return Err(ConfigError::Name(name));
        }
        Ok(Self(name))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl core::fmt::Display for IscsiName {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(&self.0)
    }
}

/// `YYYY-MM.` and then something.
fn is_qualified(rest: &str) -> bool {
    let Some((date, domain)) = rest.split_once('.') else { return false };
    let is_date = matches!(date.as_bytes(), [a, b, c, d, b'-', m, n]
        if [a, b, c, d, m, n].into_iter().all(u8::is_ascii_digit));
    is_date && !domain.is_empty()
}

/// A user and what only he knows. Never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret {
    user: String,
    bytes: Zeroizing<Vec<u8>>,
}

impl Secret {
    /// Checks both.
    ///
    /// # Errors
    /// [`ConfigError::Secret`].
    pub fn new(user: &str, bytes: &[u8]) -> Result<Self, ConfigError> {
        if user.is_empty()
            || user.len() > NAME_MAX
            || user.bytes().any(|byte| byte.is_ascii_control())
        {
            return Err(ConfigError::Secret("the name for CHAP has 1 to 223 bytes, all printable"));
        }
        if !(SECRET_MIN..=SECRET_MAX).contains(&bytes.len()) {
            return Err(ConfigError::Secret("the secret for CHAP has 12 to 255 bytes"));
        }
        Ok(Self { user: user.to_owned(), bytes: Zeroizing::new(bytes.to_vec()) })
    }

    /// The user.
    #[must_use]
    pub fn user(&self) -> &str {
        &self.user
    }

    /// The secret.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

impl core::fmt::Debug for Secret {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Secret").field("user", &self.user).finish_non_exhaustive()
    }
}

/// What an initiator must prove, and what is proved to it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Credentials {
    /// What it must know; without, it need prove nothing.
    pub initiator: Option<Secret>,
    /// What we prove when it asks.
    pub target: Option<Secret>,
}

impl Credentials {
    /// Checks that the two do not give each other away.
    ///
    /// # Errors
    /// [`ConfigError::Secret`].
    pub fn check(&self) -> Result<(), ConfigError> {
        match (&self.initiator, &self.target) {
            (None, Some(_)) => Err(ConfigError::Secret(
                "a target proves itself only to who proves himself: give both secrets",
            )),
            (Some(initiator), Some(target)) if initiator.bytes == target.bytes => {
                Err(ConfigError::Secret("the secrets of initiator and target must differ"))
            }
            _ => Ok(()),
        }
    }
}

/// An address that initiators come to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Portal {
    /// Number of the portal, in the node's list.
    pub id: u16,
    /// Address that it listens on.
    pub listen: SocketAddr,
    /// Address that SendTargets names, if not the one that the initiator came to.
    pub advertised: Option<SocketAddr>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for good in [
            "iqn.2026-01.dev.basalt:node",
            "iqn.1993-08.org.debian:01:abc-d.e",
            "iqn.2026-01.a",
            "eui.0123456789ABCDEF",
            "naa.0123456789abcdef0123456789abcdef",
        ] {
            assert!(IscsiName::new(good).is_ok(), "{good}");
        }
        let long = format!("iqn.2026-01.a:{}", "b".repeat(NAME_MAX));
        for bad in [
            "",
            "iqn",
            "iqn.",
            "iqn.2026-1.a",
            "iqn.2026-01",
            "iqn.2026-01.",
            "iqn.2026-01.a b",
            "eui.0123",
            "naa.x123456789abcdef",
            "nqn.2014-08.org.nvmexpress:uuid:1",
            &long,
        ] {
            assert!(IscsiName::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn secrets_are_not_printed() {
        let secret = Secret::new("user", b"correct horse").unwrap();
        let printed = format!("{secret:?}");
        assert!(printed.contains("user") && !printed.contains("horse") && !printed.contains("104"));
        assert!(Secret::new("user", b"short").is_err());
        assert!(Secret::new("", b"correct horse").is_err());
        assert!(Secret::new("a\0b", b"correct horse").is_err());
        let both = Credentials { initiator: Some(secret.clone()), target: Some(secret.clone()) };
        assert!(both.check().is_err());
        assert!(Credentials { initiator: None, target: Some(secret) }.check().is_err());
    }
}
