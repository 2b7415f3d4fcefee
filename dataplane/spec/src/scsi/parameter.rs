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

/// GET LBA STATUS: its head and its one descriptor (SBC-3 section 5.5.2).
#[repr(C)]
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
pub struct LbaStatus {
    /// Bytes that follow this field.
    pub len: U32,
    /// Zero.
    pub reserved: U32,
    /// First logical block of the extent.
    pub lba: U64,
    /// Logical blocks of it.
    pub blocks: U32,
    /// 0 mapped, 1 deallocated, 2 anchored.
    pub status: u8,
    /// Zero.
    pub reserved_end: [u8; 3],
}
const _: () = assert!(size_of::<LbaStatus>() == 24);
