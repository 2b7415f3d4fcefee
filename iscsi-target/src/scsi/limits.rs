//! Limits that VPD page B0h tells initiators and that commands are held to.

/// Most logical units of a target: LUNs are below it.
pub const LUNS_MAX: u16 = 1024;

/// Most bytes of a read, write, ORWRITE, or verification of data sent (MAXIMUM TRANSFER LENGTH).
/// What is longer than a buffer moves in pieces.
pub const TRANSFER_BYTES_MAX: u64 = 16 << 20;

/// Most logical blocks of one COMPARE AND WRITE: one, so that it never leaves a block of the store.
pub const COMPARE_AND_WRITE_BLOCKS_MAX: u8 = 1;

/// Most bytes of one WRITE SAME (MAXIMUM WRITE SAME LENGTH).
pub const WRITE_SAME_BYTES_MAX: u64 = 16 << 20;

/// Most bytes of one UNMAP.
pub const UNMAP_BYTES_MAX: u64 = 512 << 20;

/// Most ranges of one UNMAP.
pub const UNMAP_RANGES_MAX: u32 = 256;

/// Most bytes of a parameter list.
pub const PARAMETER_LIST_MAX: u32 = 16 << 10;

/// Bytes of a piece of a command that moves more than it was given.
pub(super) const PIECE_MAX: u64 = 256 << 10;

/// Most CSCD descriptors of one EXTENDED COPY.
pub const COPY_DEVICES_MAX: u16 = 8;

/// Most segment descriptors of one EXTENDED COPY.
pub const COPY_SEGMENTS_MAX: u16 = 32;

/// Most bytes of all descriptors of one EXTENDED COPY.
pub const COPY_DESCRIPTORS_LEN_MAX: u32 = 4096;

/// Most bytes of one segment of EXTENDED COPY.
pub const COPY_SEGMENT_BYTES_MAX: u32 = 256 << 20;

/// log2 of the bytes that lengths of copies are told in.
pub const COPY_GRANULARITY_SHIFT: u8 = 9;

/// Copies of one nexus whose status is kept.
pub const COPIES_MAX: u32 = 16;
