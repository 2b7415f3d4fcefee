//! How the reservations of a volume lie in the catalogue of its disk: a [`RecordHead`], then for
//! each registrant a [`RegistrantHead`], its name, and zeroes to a multiple of 4.
//!
//! The catalogue's journal and checkpoints carry the checksums.

use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Version of the layout that this module describes; a reader refuses others.
pub const VERSION: u16 = 1;

/// `RecordHead::holder` when no single registrant holds the reservation.
pub const HOLDER_NONE: u16 = 0xFFFF;

/// `RegistrantHead::protocol` of an NVMe host.
pub const PROTOCOL_NVME: u8 = 1;
/// `RegistrantHead::protocol` of an I_T nexus of iSCSI.
pub const PROTOCOL_ISCSI: u8 = 2;

/// Start of the record.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct RecordHead {
    /// [`VERSION`].
    pub version: U16,
    /// How many registrants follow.
    pub registrants: U16,
    /// Counts registrations and what ended them (PRGENERATION, GEN).
    pub generation: U32,
    /// Index of the holder among the registrants, or [`HOLDER_NONE`].
    pub holder: U16,
    /// Type of the reservation by its NVMe code; 0 without one.
    pub kind: u8,
    /// Zero.
    pub reserved: [u8; 5],
}
const _: () = assert!(size_of::<RecordHead>() == 16);

/// Start of a registrant.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct RegistrantHead {
    /// One of `PROTOCOL_*`.
    pub protocol: u8,
    /// Bytes of the initiator's name, which follows; 0 of NVMe.
    pub name_len: u8,
    /// Target portal group of the nexus; 0 of NVMe.
    pub portal_group: U16,
    /// Zero.
    pub reserved: [u8; 4],
    /// Its key.
    pub key: U64,
    /// Host identifier of NVMe; of iSCSI 6 bytes of ISID, then zeroes.
    pub id: [u8; 16],
}
const _: () = assert!(size_of::<RegistrantHead>() == 32);

/// Start of the catalogue entry of a volume's reservations. The record follows, or, if it is too
/// long for one entry, lies in entries of its own: of two sets of these one is in use, so that a
/// record is replaced as a whole.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct KeptHead {
    /// [`VERSION`].
    pub version: U16,
    /// Which set of entries is in use: 0 or 1.
    pub set: u8,
    /// Entries of that set; 0 if the record follows.
    pub parts: u8,
    /// Bytes of the record.
    pub len: U32,
    /// CRC32C of the record.
    pub crc: U32,
}
const _: () = assert!(size_of::<KeptHead>() == 12);
