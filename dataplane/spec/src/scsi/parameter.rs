//! Parameter data other than INQUIRY's and sense data.

use zerocopy::big_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// READ CAPACITY (10) (SBC-3 section 5.15.2).
#[repr(C)]
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
pub struct Capacity10 {
    /// Last logical block; FFFFFFFFh if it is greater.
    pub last_lba: U32,
    /// Bytes of a logical block.
    pub block_len: U32,
}
const _: () = assert!(size_of::<Capacity10>() == 8);

/// READ CAPACITY (16) (SBC-3 section 5.16.2).
#[repr(C)]
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
pub struct Capacity16 {
    /// Last logical block.
    pub last_lba: U64,
    /// Bytes of a logical block.
    pub block_len: U32,
    /// Bit 0: protection is on.
    pub protection: u8,
    /// Bits 3:0: log2 of the logical blocks in a physical one.
    pub physical_exponent: u8,
    /// Bit 15 LBPME, bit 14 LBPRZ, below them the lowest aligned logical block.
    pub provisioning: U16,
    /// Zero.
    pub reserved: [u8; 16],
}
const _: () = assert!(size_of::<Capacity16>() == 32);

/// LBPME of [`Capacity16::provisioning`]: unmapped blocks are managed.
pub const PROVISIONING_MANAGED: u16 = 1 << 15;
/// LBPRZ of [`Capacity16::provisioning`]: unmapped blocks read as zeroes.
pub const PROVISIONING_ZEROES: u16 = 1 << 14;

/// Head of the parameter list of UNMAP (SBC-3 section 5.28.2).
#[repr(C)]
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
pub struct UnmapHeader {
    /// Bytes that follow this field.
    pub len: U16,
    /// Bytes of descriptors.
    pub descriptors_len: U16,
    /// Zero.
    pub reserved: U32,
}
const _: () = assert!(size_of::<UnmapHeader>() == 8);

/// A range of UNMAP.
#[repr(C)]
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
pub struct UnmapDescriptor {
    /// First logical block.
    pub lba: U64,
    /// Logical blocks.
    pub blocks: U32,
    /// Zero.
    pub reserved: U32,
}
const _: () = assert!(size_of::<UnmapDescriptor>() == 16);

/// Head of the answer to GET LBA STATUS (SBC-3 section 5.5.2).
#[repr(C)]
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
pub struct LbaStatusHeader {
    /// Bytes that follow this field.
    pub len: U32,
    /// Zero.
    pub reserved: U32,
}
const _: () = assert!(size_of::<LbaStatusHeader>() == 8);

/// An extent of GET LBA STATUS.
#[repr(C)]
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
pub struct LbaStatus {
    /// First logical block.
    pub lba: U64,
    /// Logical blocks.
    pub blocks: U32,
    /// [`LBA_MAPPED`] or [`LBA_DEALLOCATED`].
    pub status: u8,
    /// Zero.
    pub reserved: [u8; 3],
}
const _: () = assert!(size_of::<LbaStatus>() == 16);

/// PROVISIONING STATUS: blocks hold data.
pub const LBA_MAPPED: u8 = 0;
/// PROVISIONING STATUS: blocks hold none.
pub const LBA_DEALLOCATED: u8 = 1;

/// Mode page: read-write error recovery (SBC-3 section 6.5.8).
pub const MODE_PAGE_RECOVERY: u8 = 0x01;
/// Mode page: caching (SBC-3 section 6.5.5).
pub const MODE_PAGE_CACHING: u8 = 0x08;
/// Mode page: control (SPC-4 section 7.5.8).
pub const MODE_PAGE_CONTROL: u8 = 0x0A;
/// Mode page: informational exceptions control (SBC-3 section 6.5.6).
pub const MODE_PAGE_EXCEPTIONS: u8 = 0x1C;
/// Log page: logical block provisioning (SBC-3 section 6.4.5).
pub const LOG_PAGE_PROVISIONING: u8 = 0x0C;
/// Log page: temperature (SPC-4 section 7.3.20).
pub const LOG_PAGE_TEMPERATURE: u8 = 0x0D;

/// Head of the parameter list of EXTENDED COPY (LID1) (SPC-4 section 6.4.3.1).
#[repr(C)]
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
pub struct CopyHeader {
    /// List identifier.
    pub list_id: u8,
    /// STR in bit 5, LIST ID USAGE in bits 4:3, PRIORITY in bits 2:0.
    pub flags: u8,
    /// Bytes of CSCD descriptors.
    pub devices_len: U16,
    /// Zero.
    pub reserved: U32,
    /// Bytes of segment descriptors.
    pub segments_len: U32,
    /// Bytes of inline data.
    pub inline_len: U32,
}
const _: () = assert!(size_of::<CopyHeader>() == 16);

/// Identification descriptor CSCD descriptor (SPC-4 section 6.4.5.3).
#[repr(C)]
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
pub struct CopyDevice {
    /// E4h.
    pub kind: u8,
    /// LU ID TYPE in bits 7:6, peripheral device type in bits 4:0.
    pub peripheral: u8,
    /// Relative initiator port identifier.
    pub initiator_port: U16,
    /// As in a designation descriptor.
    pub code_set: u8,
    /// As in a designation descriptor.
    pub designator_kind: u8,
    /// Zero.
    pub reserved: u8,
    /// As in a designation descriptor.
    pub designator_len: u8,
    /// Filled up with zeroes.
    pub designator: [u8; 20],
    /// PAD in bit 2; the disk block length in the low 24 bits.
    pub block_len: U32,
}
const _: () = assert!(size_of::<CopyDevice>() == 32);

/// Kind of a [`CopyDevice`].
pub const COPY_DEVICE_IDENTIFICATION: u8 = 0xE4;

/// Block to block segment descriptor (SPC-4 section 6.4.6.3).
#[repr(C)]
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
pub struct CopySegment {
    /// 02h.
    pub kind: u8,
    /// DC in bit 1: blocks are those of the destination.
    pub flags: u8,
    /// Bytes that follow this field: 24.
    pub len: U16,
    /// Index of the source's CSCD descriptor.
    pub source: U16,
    /// Index of the destination's.
    pub destination: U16,
    /// Zero.
    pub reserved: U16,
    /// How many.
    pub blocks: U16,
    /// First of the source.
    pub source_lba: U64,
    /// First of the destination.
    pub destination_lba: U64,
}
const _: () = assert!(size_of::<CopySegment>() == 28);

/// Kind of a [`CopySegment`].
pub const COPY_BLOCK_TO_BLOCK: u8 = 0x02;

/// Parameter list of PERSISTENT RESERVE OUT but for REGISTER AND MOVE (SPC-4 section 6.16.3).
#[repr(C)]
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
pub struct ReserveOut {
    /// The nexus's own key.
    pub key: U64,
    /// Key that the service action is about.
    pub action_key: U64,
    /// Obsolete.
    pub obsolete: U32,
    /// SPEC_I_PT in bit 3, ALL_TG_PT in bit 2, APTPL in bit 0.
    pub flags: u8,
    /// Zero.
    pub reserved: u8,
    /// Obsolete.
    pub obsolete_end: U16,
}
const _: () = assert!(size_of::<ReserveOut>() == 24);

/// Parameter list of REGISTER AND MOVE (SPC-4 section 6.16.4).
#[repr(C)]
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
pub struct ReserveMove {
    /// The nexus's own key.
    pub key: U64,
    /// Key of the receiver.
    pub action_key: U64,
    /// Zero.
    pub reserved: u8,
    /// UNREG in bit 1, APTPL in bit 0.
    pub flags: u8,
    /// Target port that the receiver comes through.
    pub relative_port: U16,
    /// Bytes of the TransportID that follows.
    pub transport_id_len: U32,
}
const _: () = assert!(size_of::<ReserveMove>() == 24);

/// Descriptor of PERSISTENT RESERVE IN with READ FULL STATUS (SPC-4 section 6.15.5.2), before its
/// TransportID.
#[repr(C)]
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
pub struct FullStatus {
    /// Key of the registration.
    pub key: U64,
    /// Zero.
    pub reserved: U32,
    /// ALL_TG_PT in bit 1, R_HOLDER in bit 0.
    pub flags: u8,
    /// Scope in bits 7:4, type in bits 3:0, of who holds the reservation.
    pub scope_type: u8,
    /// Zero.
    pub reserved_end: U32,
    /// Target port of the nexus.
    pub relative_port: U16,
    /// Bytes of the TransportID that follows.
    pub transport_id_len: U32,
}
const _: () = assert!(size_of::<FullStatus>() == 24);
