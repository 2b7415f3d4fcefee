//! Who registers.

use std::fmt;
use std::sync::Arc;

/// A reservation key, as both protocols carry it: 0 stands for none.
pub type Key = u64;

/// Longest name of an initiator in bytes (RFC 7143, section 4.2.7).
pub const NAME_MAX: usize = 223;

/// Who may register, and so hold a reservation.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Registrant {
    /// A host by its Host Identifier: all its controllers are one registrant.
    Nvme {
        /// 128 bits, as Connect carries them.
        host_id: [u8; 16],
    },
    /// An I_T nexus of iSCSI: each path of a host is a registrant of its own.
    Scsi(Nexus),
}

/// An I_T nexus of iSCSI: an initiator port and a target port. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Nexus {
    initiator: Arc<str>,
    isid: [u8; 6],
    portal_group: u16,
}

impl Nexus {
    /// The nexus of a session. `None` if the initiator's name is empty or longer than [`NAME_MAX`].
    #[must_use]
    pub fn new(initiator: &str, isid: [u8; 6], portal_group: u16) -> Option<Self> {
        let fits = (1..=NAME_MAX).contains(&initiator.len());
        fits.then(|| Self { initiator: initiator.into(), isid, portal_group })
    }

    /// The initiator's name.
    #[must_use]
    pub fn initiator(&self) -> &str {
        &self.initiator
    }

    /// The initiator's part of the session's id.
    #[must_use]
    pub fn isid(&self) -> [u8; 6] {
        self.isid
    }

    /// The target portal group tag, which is the target port here.
    #[must_use]
    pub fn portal_group(&self) -> u16 {
        self.portal_group
    }

    /// Whether both come from one initiator port, to whichever target ports.
    #[must_use]
    pub fn is_same_initiator_port(&self, other: &Self) -> bool {
        self.initiator == other.initiator && self.isid == other.isid
    }
}

impl fmt::Display for Registrant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nvme { host_id } => {
                f.write_str("nvme,")?;
                host_id.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
            Self::Scsi(nexus) => {
                write!(f, "{},i,0x", nexus.initiator)?;
                nexus.isid.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
                write!(f, ",t,{}", nexus.portal_group)
            }
        }
    }
}
