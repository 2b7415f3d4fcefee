//! Command descriptor blocks that name a range of logical blocks (SBC-3 section 5), and others.

use bitfield_struct::bitfield;
use zerocopy::big_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// READ (6) and WRITE (6).
#[repr(C)]
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
pub struct Range6 {
    /// Operation code.
    pub opcode: u8,
    /// High five bits of the LBA in the low ones of this.
    pub lba_high: u8,
    /// Low bits of the LBA.
    pub lba: U16,
    /// Blocks; 0 is 256.
    pub blocks: u8,
    /// CONTROL.
    pub control: u8,
}
const _: () = assert!(size_of::<Range6>() == 6);

/// Commands of 10 bytes.
#[repr(C)]
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
pub struct Range10 {
    /// Operation code.
    pub opcode: u8,
    /// A [`RangeFlags`].
    pub flags: u8,
    /// First logical block.
    pub lba: U32,
    /// Group number.
    pub group: u8,
    /// Blocks.
    pub blocks: U16,
    /// CONTROL.
    pub control: u8,
}
const _: () = assert!(size_of::<Range10>() == 10);

/// Commands of 12 bytes.
#[repr(C)]
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
pub struct Range12 {
    /// Operation code.
    pub opcode: u8,
    /// A [`RangeFlags`].
    pub flags: u8,
    /// First logical block.
    pub lba: U32,
    /// Blocks.
    pub blocks: U32,
    /// Group number.
    pub group: u8,
    /// CONTROL.
    pub control: u8,
}
const _: () = assert!(size_of::<Range12>() == 12);

/// Commands of 16 bytes; COMPARE AND WRITE has its block count in the last byte of `blocks`.
#[repr(C)]
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
pub struct Range16 {
    /// Operation code.
    pub opcode: u8,
    /// A [`RangeFlags`], or a service action.
    pub flags: u8,
    /// First logical block.
    pub lba: U64,
    /// Blocks, or the allocation length.
    pub blocks: U32,
    /// Group number.
    pub group: u8,
    /// CONTROL.
    pub control: u8,
}
const _: () = assert!(size_of::<Range16>() == 16);

/// Byte 1 of commands that name a range. Which bits mean something depends on the command.
#[bitfield(u8)]
#[derive(PartialEq, Eq)]
pub struct RangeFlags {
    /// No data-out buffer (WRITE SAME).
    pub no_data: bool,
    /// Status before the work is done (SYNCHRONIZE CACHE, PRE-FETCH); the low bit of BYTCHK.
    pub immediate: bool,
    /// The high bit of BYTCHK (VERIFY).
    pub byte_check_high: bool,
    /// Force unit access; UNMAP for WRITE SAME.
    pub fua: bool,
    /// Disable page out; ANCHOR for WRITE SAME.
    pub dpo: bool,
    /// RDPROTECT, WRPROTECT, VRPROTECT, ORPROTECT.
    #[bits(3)]
    pub protect: u8,
}

impl RangeFlags {
    /// BYTCHK: what VERIFY compares with.
    #[must_use]
    pub fn byte_check(self) -> u8 {
        u8::from(self.byte_check_high()) << 1 | u8::from(self.immediate())
    }

    /// UNMAP of WRITE SAME.
    #[must_use]
    pub fn unmap(self) -> bool {
        self.fua()
    }

    /// ANCHOR of WRITE SAME.
    #[must_use]
    pub fn anchor(self) -> bool {
        self.dpo()
    }
}
