//! INQUIRY: standard data and vital product data (SPC-4 sections 6.6 and 7.8, SBC-3 section 6.6).

use zerocopy::big_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Peripheral device type and qualifier of a direct access block device that is there.
pub const PERIPHERAL_DISK: u8 = 0x00;
/// The same where no device is connected but one could be (qualifier 1, type 1Fh).
pub const PERIPHERAL_ABSENT: u8 = 0x3F;
/// The same where there can be none (qualifier 3, type 1Fh).
pub const PERIPHERAL_NONE: u8 = 0x7F;

/// Standard INQUIRY data.
#[repr(C)]
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
pub struct StandardInquiry {
    /// Qualifier in bits 7:5, type in 4:0.
    pub peripheral: u8,
    /// Bit 7: removable medium.
    pub removable: u8,
    /// 6: SPC-4.
    pub version: u8,
    /// Bit 4: hierarchical LUNs; bits 3:0: 2.
    pub response_format: u8,
    /// Bytes that follow this one.
    pub additional_len: u8,
    /// Bits 5:4 TPGS, bit 3 third party copy, bit 0 protection.
    pub flags_5: u8,
    /// Bit 4: several ports.
    pub flags_6: u8,
    /// Bit 1: command queuing.
    pub flags_7: u8,
    /// T10 vendor identification.
    pub vendor: [u8; 8],
    /// Product identification.
    pub product: [u8; 16],
    /// Product revision level.
    pub revision: [u8; 4],
    /// Vendor specific.
    pub vendor_specific: [u8; 20],
    /// Zero.
    pub reserved: [u8; 2],
    /// Version descriptors.
    pub versions: [U16; 8],
    /// Zero.
    pub reserved_end: [u8; 22],
}
const _: () = assert!(size_of::<StandardInquiry>() == 96);

/// Version descriptors (SPC-4 annex E.8).
pub mod version {
    /// SAM-5, no version claimed.
    pub const SAM_5: u16 = 0x00A0;
    /// SPC-4, no version claimed.
    pub const SPC_4: u16 = 0x0460;
    /// SBC-3, no version claimed.
    pub const SBC_3: u16 = 0x04C0;
    /// iSCSI, no version claimed.
    pub const ISCSI: u16 = 0x0960;
}

/// Codes of vital product data pages.
pub mod page {
    /// Supported pages.
    pub const SUPPORTED: u8 = 0x00;
    /// Unit serial number.
    pub const SERIAL_NUMBER: u8 = 0x80;
    /// Device identification.
    pub const IDENTIFICATION: u8 = 0x83;
    /// Management network addresses.
    pub const NETWORK_ADDRESSES: u8 = 0x85;
    /// Extended INQUIRY data.
    pub const EXTENDED: u8 = 0x86;
    /// Mode page policy.
    pub const MODE_POLICY: u8 = 0x87;
    /// SCSI ports.
    pub const PORTS: u8 = 0x88;
    /// Third-party copy.
    pub const THIRD_PARTY_COPY: u8 = 0x8F;
    /// Block limits.
    pub const BLOCK_LIMITS: u8 = 0xB0;
    /// Block device characteristics.
    pub const CHARACTERISTICS: u8 = 0xB1;
    /// Logical block provisioning.
    pub const PROVISIONING: u8 = 0xB2;
}

/// Head of every vital product data page.
#[repr(C)]
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
pub struct PageHeader {
    /// Qualifier and type, as in [`StandardInquiry`].
    pub peripheral: u8,
    /// Page code.
    pub code: u8,
    /// Bytes that follow.
    pub len: U16,
}
const _: () = assert!(size_of::<PageHeader>() == 4);

/// Head of a designation descriptor (SPC-4 section 7.8.6.1).
#[repr(C)]
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
pub struct Designator {
    /// Protocol in bits 7:4, code set in bits 3:0.
    pub code_set: u8,
    /// Bit 7: protocol valid; bits 5:4 association; bits 3:0 type.
    pub kind: u8,
    /// Zero.
    pub reserved: u8,
    /// Bytes that follow.
    pub len: u8,
}
const _: () = assert!(size_of::<Designator>() == 4);

/// Block limits (SBC-3 section 6.6.3), after its header.
#[repr(C)]
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
pub struct BlockLimits {
    /// Bit 0, WSNZ: WRITE SAME with no length is refused.
    pub flags: u8,
    /// Blocks of COMPARE AND WRITE.
    pub compare_and_write_max: u8,
    /// Blocks.
    pub granularity: U16,
    /// Blocks.
    pub transfer_max: U32,
    /// Blocks.
    pub transfer_optimal: U32,
    /// Blocks.
    pub prefetch_max: U32,
    /// Blocks of one UNMAP.
    pub unmap_blocks_max: U32,
    /// Descriptors of one UNMAP.
    pub unmap_descriptors_max: U32,
    /// Blocks.
    pub unmap_granularity: U32,
    /// First block of the grid of unmapping, with bit 31 set where it is valid.
    pub unmap_alignment: U32,
    /// Blocks.
    pub write_same_max: U64,
    /// Of WRITE ATOMIC: most, alignment, granularity; with a boundary: most, boundary (SBC-4).
    pub atomic: [U32; 5],
}
const _: () = assert!(size_of::<BlockLimits>() == 60);
