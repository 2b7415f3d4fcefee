//! What the device is made of.

use reservations::Registrant;
use target_io::VolumeIndex;

/// A device as its operator made it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceConfig {
    /// iSCSI name of the target: the device's name.
    pub name: String,
    /// Product identification, at most 16 bytes.
    pub product: String,
    /// Product revision level, at most 4 bytes.
    pub revision: String,
    /// Its ports: one for each portal group.
    pub ports: Vec<Port>,
}

/// A SCSI target port: a portal group of the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Port {
    /// Target portal group tag.
    pub tag: u16,
    /// Relative target port identifier, from 1.
    pub relative: u16,
}

/// A logical unit as its operator made it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnitConfig {
    /// Its volume.
    pub volume: VolumeIndex,
    /// The volume's identity.
    pub uuid: [u8; 16],
    /// The volume's name.
    pub name: String,
    /// Capacity in bytes.
    pub capacity: u64,
    /// log2 of the logical block size: 9 or 12.
    pub block_shift: u8,
    /// Whether the volume is read only.
    pub read_only: bool,
}

/// An initiator port and the target port that it came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nexus {
    /// iSCSI name of the initiator.
    pub initiator: String,
    /// Initiator's part of the session identifier.
    pub isid: [u8; 6],
    /// Target portal group tag of the port.
    pub tag: u16,
}

impl Nexus {
    /// Whether the name has the length of one.
    pub(super) fn is_valid(&self) -> bool {
        reservations::Nexus::new(&self.initiator, self.isid, self.tag).is_some()
    }

    /// As reservations know it.
    pub(super) fn registrant(&self) -> Registrant {
        let nexus = reservations::Nexus::new(&self.initiator, self.isid, self.tag);
        Registrant::Scsi(nexus.expect("names are checked when the nexus is attached"))
    }
}
