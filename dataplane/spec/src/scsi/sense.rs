//! Sense data (SPC-4 section 4.5).

pub use super::code::{AdditionalSense, SenseKey};

use bitfield_struct::bitfield;
use zerocopy::big_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Response code of fixed format sense data of the command that just ended.
pub const RESPONSE_FIXED: u8 = 0x70;
/// Response code of descriptor format sense data of the command that just ended.
pub const RESPONSE_DESCRIPTOR: u8 = 0x72;

/// Fixed format sense data (SPC-4 section 4.5.3).
#[repr(C)]
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
pub struct FixedSense {
    /// Response code, and in bit 7 whether the information is valid.
    pub response: u8,
    /// Segment number.
    pub obsolete: u8,
    /// Filemark, end of medium and incorrect length in the high bits, sense key in the low ones.
    pub key: u8,
    /// INFORMATION.
    pub information: U32,
    /// Bytes that follow this one.
    pub additional_len: u8,
    /// Specific to the command.
    pub command_specific: U32,
    /// An [`AdditionalSense`].
    pub code: U16,
    /// Field replaceable unit.
    pub replaceable_unit: u8,
    /// Specific to the sense key: a [`FieldPointer`], or progress.
    pub specific: [u8; 3],
}
const _: () = assert!(size_of::<FixedSense>() == 18);

/// Head of descriptor format sense data (SPC-4 section 4.5.2).
#[repr(C)]
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
pub struct DescriptorSense {
    /// Response code.
    pub response: u8,
    /// A [`SenseKey`].
    pub key: u8,
    /// An [`AdditionalSense`].
    pub code: U16,
    /// Zero.
    pub reserved: [u8; 3],
    /// Bytes that follow this one.
    pub additional_len: u8,
}
const _: () = assert!(size_of::<DescriptorSense>() == 8);

/// Information sense data descriptor (SPC-4 section 4.5.2.2).
#[repr(C)]
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
pub struct InformationDescriptor {
    /// 0.
    pub kind: u8,
    /// Bytes that follow this one: 10.
    pub additional_len: u8,
    /// Bit 7: valid.
    pub valid: u8,
    /// Zero.
    pub reserved: u8,
    /// INFORMATION.
    pub information: U64,
}
const _: () = assert!(size_of::<InformationDescriptor>() == 12);

/// Sense key specific descriptor (SPC-4 section 4.5.2.4).
#[repr(C)]
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
pub struct SpecificDescriptor {
    /// 2.
    pub kind: u8,
    /// Bytes that follow this one: 6.
    pub additional_len: u8,
    /// Zero.
    pub reserved: [u8; 2],
    /// A [`FieldPointer`], or progress.
    pub specific: [u8; 3],
    /// Zero.
    pub reserved_end: u8,
}
const _: () = assert!(size_of::<SpecificDescriptor>() == 8);

/// Which field is wrong (SPC-4 section 4.5.2.4.2), in the byte order of a number.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct FieldPointer {
    /// Byte of the CDB or parameter list.
    #[bits(16)]
    pub field: u16,
    /// Bit within that byte.
    #[bits(3)]
    pub bit: u8,
    /// Whether the bit is told.
    pub bit_valid: bool,
    #[bits(2)]
    __: u8,
    /// In the CDB; in the parameter list where not.
    pub in_command: bool,
    /// These three bytes are valid (SKSV).
    pub valid: bool,
    #[bits(8)]
    __: u8,
}
