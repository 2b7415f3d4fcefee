//! Identify structures of a namespace.

use super::IDENTIFY_SIZE;
use bitfield_struct::bitfield;
use zerocopy::little_endian::{U16, U32, U64, U128};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// A namespace: CNS 00h and 11h (NVM section 4.1.5.1).
#[repr(C)]
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
pub struct IdentifyNamespace {
    /// NSZE: blocks.
    pub size: U64,
    /// NCAP: blocks that may be allocated; 0 for an inactive namespace.
    pub capacity: U64,
    /// NUSE: blocks allocated.
    pub used: U64,
    /// NSFEAT, as [`NamespaceFeatures`].
    pub features: u8,
    /// NLBAF: formats, 0-based.
    pub formats_z: u8,
    /// FLBAS: the format in use.
    pub format: u8,
    /// MC: metadata.
    pub metadata: u8,
    /// DPC: protection information that could be.
    pub protection_capabilities: u8,
    /// DPS: protection information that is.
    pub protection: u8,
    /// NMIC: bit 0: may be attached to several controllers.
    pub sharing: u8,
    /// RESCAP: reservations.
    pub reservations: u8,
    /// FPI: format progress.
    pub format_progress: u8,
    /// DLFEAT, as [`DeallocateFeatures`].
    pub deallocate: u8,
    /// NAWUN: atomic write, 0-based.
    pub atomic_write_z: U16,
    /// NAWUPF: atomic write with power failure, 0-based.
    pub atomic_write_power_fail_z: U16,
    /// NACWU: atomic compare and write, 0-based.
    pub atomic_compare_write_z: U16,
    /// NABSN: atomic boundary, 0-based.
    pub atomic_boundary_z: U16,
    /// NABO: where the first boundary is.
    pub atomic_boundary_offset: U16,
    /// NABSPF: atomic boundary with power failure, 0-based.
    pub atomic_boundary_power_fail_z: U16,
    /// NOIOB: optimal I/O boundary.
    pub io_boundary: U16,
    /// NVMCAP: capacity in bytes.
    pub capacity_bytes: U128,
    /// NPWG: preferred write granularity, 0-based.
    pub write_granularity_z: U16,
    /// NPWA: preferred write alignment, 0-based.
    pub write_alignment_z: U16,
    /// NPDG: preferred deallocate granularity, 0-based.
    pub deallocate_granularity_z: U16,
    /// NPDA: preferred deallocate alignment, 0-based.
    pub deallocate_alignment_z: U16,
    /// NOWS: optimal write size, 0-based.
    pub optimal_write_z: U16,
    /// MSSRL: most blocks of one Copy source range.
    pub copy_range_max: U16,
    /// MCL: most blocks of one Copy.
    pub copy_max: U32,
    /// MSRC: most Copy source ranges, 0-based.
    pub copy_ranges_z: u8,
    /// Reserved.
    pub reserved_81: [u8; 11],
    /// ANAGRPID.
    pub ana_group: U32,
    /// Reserved.
    pub reserved_96: [u8; 3],
    /// NSATTR: bit 0: write protected.
    pub attributes: u8,
    /// NVMSETID.
    pub nvm_set: U16,
    /// ENDGID.
    pub endurance_group: U16,
    /// NGUID.
    pub nguid: [u8; 16],
    /// EUI64.
    pub eui64: [u8; 8],
    /// LBAF0 to LBAF63.
    pub lba_formats: [LbaFormat; 64],
    /// Vendor specific.
    pub vendor_specific: [u8; 3712],
}
const _: () = assert!(size_of::<IdentifyNamespace>() == IDENTIFY_SIZE);

/// A logical block format.
#[repr(C)]
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
pub struct LbaFormat {
    /// MS: bytes of metadata.
    pub metadata: U16,
    /// LBADS: log2 of the block's bytes.
    pub block_shift: u8,
    /// RP: relative performance, 0 the best.
    pub performance: u8,
}
const _: () = assert!(size_of::<LbaFormat>() == 4);

/// FLBAS: the format in use.
#[bitfield(u8)]
pub struct FormattedSize {
    /// Low bits of the format's number.
    #[bits(4)]
    pub index_low: u8,
    /// Metadata follow their block in the data instead of a buffer of their own.
    pub extended: bool,
    /// High bits of the format's number.
    #[bits(2)]
    pub index_high: u8,
    #[bits(1)]
    __: u8,
}

/// DPS: protection information that is.
#[bitfield(u8)]
pub struct ProtectionSettings {
    /// 0 none, else types 1 to 3.
    #[bits(3)]
    pub kind: u8,
    /// It lies in the first bytes of the metadata, not in the last.
    pub first: bool,
    #[bits(4)]
    __: u8,
}

/// ELBAF: what a format has beyond [`LbaFormat`].
#[bitfield(u32)]
pub struct ExtendedFormat {
    /// STS: bits of the storage tag.
    #[bits(7)]
    pub storage_tag_bits: u8,
    /// PIF: 0 a 16-bit guard, 1 32, 2 64.
    #[bits(2)]
    pub guard: u8,
    #[bits(23)]
    __: u32,
}

/// NSFEAT.
#[bitfield(u8)]
pub struct NamespaceFeatures {
    /// THINP: thin provisioning.
    pub thin: bool,
    /// NSABP: the atomic fields of the namespace count.
    pub atomic: bool,
    /// DAE: reading deallocated blocks may be an error.
    pub deallocated_error: bool,
    /// UIDREUSE: identifiers are never used again.
    pub ids_unique: bool,
    /// OPTPERF: NPWG, NPWA, NPDG, NPDA and NOWS count.
    pub performance: bool,
    #[bits(3)]
    __: u8,
}

/// DLFEAT.
#[bitfield(u8)]
pub struct DeallocateFeatures {
    /// What deallocated blocks read as: 1 for zeroes.
    #[bits(3)]
    pub reads: u8,
    /// Write Zeroes can deallocate.
    pub write_zeroes: bool,
    /// Guard is the CRC of what is read.
    pub guard: bool,
    #[bits(3)]
    __: u8,
}

/// A namespace whatever its command set: CNS 08h (section 5.17.2.8).
#[repr(C)]
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
pub struct IndependentNamespace {
    /// NSFEAT: bit 3: identifiers are never used again.
    pub features: u8,
    /// NMIC.
    pub sharing: u8,
    /// RESCAP.
    pub reservations: u8,
    /// FPI.
    pub format_progress: u8,
    /// ANAGRPID.
    pub ana_group: U32,
    /// NSATTR.
    pub attributes: u8,
    /// Reserved.
    pub reserved_9: u8,
    /// NVMSETID.
    pub nvm_set: U16,
    /// ENDGID.
    pub endurance_group: U16,
    /// NSTAT: bit 0: ready.
    pub status: u8,
    /// Reserved.
    pub reserved_15: [u8; 4081],
}
const _: () = assert!(size_of::<IndependentNamespace>() == IDENTIFY_SIZE);

/// A namespace, for the NVM command set: CNS 05h (NVM section 4.1.5.3).
#[repr(C)]
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
pub struct NvmNamespace {
    /// LBSTM: storage tag mask.
    pub storage_tag_mask: U64,
    /// PIC: protection information.
    pub protection: u8,
    /// Reserved.
    pub reserved_9: [u8; 3],
    /// ELBAF0 to ELBAF63.
    pub extended_formats: [U32; 64],
    /// Reserved.
    pub reserved_268: [u8; 3828],
}
const _: () = assert!(size_of::<NvmNamespace>() == IDENTIFY_SIZE);

/// Header of a namespace identification descriptor: CNS 03h (section 5.17.2.3).
#[repr(C)]
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
pub struct DescriptorHeader {
    /// NIDT: one of the `DESCRIPTOR_` constants.
    pub kind: u8,
    /// NIDL: bytes that follow.
    pub length: u8,
    /// Reserved.
    pub reserved: [u8; 2],
}
const _: () = assert!(size_of::<DescriptorHeader>() == 4);

/// [`DescriptorHeader::kind`]: IEEE Extended Unique Identifier, 8 bytes.
pub const DESCRIPTOR_EUI64: u8 = 1;
/// [`DescriptorHeader::kind`]: Namespace Globally Unique Identifier, 16 bytes.
pub const DESCRIPTOR_NGUID: u8 = 2;
/// [`DescriptorHeader::kind`]: UUID, 16 bytes.
pub const DESCRIPTOR_UUID: u8 = 3;
/// [`DescriptorHeader::kind`]: command set identifier, 1 byte.
pub const DESCRIPTOR_CSI: u8 = 4;

#[cfg(test)]
mod tests {
    use super::*;
    use core::mem::offset_of;

    #[test]
    fn namespace_fields_lie_where_the_specification_puts_them() {
        for (offset, want) in [
            (offset_of!(IdentifyNamespace, features), 24),
            (offset_of!(IdentifyNamespace, sharing), 30),
            (offset_of!(IdentifyNamespace, deallocate), 33),
            (offset_of!(IdentifyNamespace, atomic_write_z), 34),
            (offset_of!(IdentifyNamespace, io_boundary), 46),
            (offset_of!(IdentifyNamespace, capacity_bytes), 48),
            (offset_of!(IdentifyNamespace, write_granularity_z), 64),
            (offset_of!(IdentifyNamespace, copy_range_max), 74),
            (offset_of!(IdentifyNamespace, copy_ranges_z), 80),
            (offset_of!(IdentifyNamespace, ana_group), 92),
            (offset_of!(IdentifyNamespace, attributes), 99),
            (offset_of!(IdentifyNamespace, nguid), 104),
            (offset_of!(IdentifyNamespace, eui64), 120),
            (offset_of!(IdentifyNamespace, lba_formats), 128),
            (offset_of!(IdentifyNamespace, vendor_specific), 384),
            (offset_of!(IndependentNamespace, attributes), 8),
            (offset_of!(IndependentNamespace, status), 14),
            (offset_of!(NvmNamespace, extended_formats), 12),
        ] {
            assert_eq!(offset, want);
        }
    }
}
