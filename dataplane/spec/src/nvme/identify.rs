//! Data structures of the Identify command (section 5.17).

use bitfield_struct::bitfield;
use open_enum::open_enum;
use zerocopy::little_endian::{U16, U32, U64, U128};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Bytes of every Identify data structure.
pub const IDENTIFY_SIZE: usize = 4096;

/// Controller or Namespace Structure: what to identify.
#[open_enum]
#[repr(u8)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cns {
    /// A namespace, as [`IdentifyNamespace`].
    Namespace = 0x00,
    /// This controller, as [`IdentifyController`].
    Controller = 0x01,
    /// Active namespaces.
    ActiveNamespaces = 0x02,
    /// Descriptors of a namespace's identity.
    NamespaceDescriptors = 0x03,
    /// A namespace, for its command set, as [`NvmNamespace`].
    CommandSetNamespace = 0x05,
    /// This controller, for a command set, as [`NvmController`].
    CommandSetController = 0x06,
    /// Active namespaces of a command set.
    CommandSetActiveNamespaces = 0x07,
    /// A namespace whatever its command set, as [`IndependentNamespace`].
    IndependentNamespace = 0x08,
    /// Allocated namespaces.
    AllocatedNamespaces = 0x10,
    /// An allocated namespace.
    AllocatedNamespace = 0x11,
    /// Controllers that a namespace is attached to.
    NamespaceControllers = 0x12,
    /// Controllers of the subsystem.
    SubsystemControllers = 0x13,
    /// Primary controller, as [`PrimaryController`].
    PrimaryController = 0x14,
    /// Allocated namespaces of a command set.
    CommandSetAllocatedNamespaces = 0x1A,
    /// Command sets that work together.
    CommandSets = 0x1C,
}

/// Dword 10 of Identify.
#[bitfield(u32)]
pub struct IdentifyDword10 {
    /// [`Cns`].
    pub cns: u8,
    __: u8,
    /// Controller that is meant, for some structures.
    pub controller_id: u16,
}

/// Dword 11 of Identify.
#[bitfield(u32)]
pub struct IdentifyDword11 {
    /// CNS specific identifier.
    pub specific: u16,
    __: u8,
    /// Command set identifier: 0 for NVM.
    pub command_set: u8,
}

/// A controller: CNS 01h (section 5.17.2.1).
#[repr(C)]
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
pub struct IdentifyController {
    /// VID: PCI vendor; 0 on fabrics.
    pub vendor: U16,
    /// SSVID.
    pub subsystem_vendor: U16,
    /// SN: ASCII, space padded.
    pub serial: [u8; 20],
    /// MN: ASCII, space padded.
    pub model: [u8; 40],
    /// FR: ASCII, space padded.
    pub firmware: [u8; 8],
    /// RAB: recommended arbitration burst.
    pub arbitration_burst: u8,
    /// IEEE OUI of the vendor.
    pub oui: [u8; 3],
    /// CMIC, as [`MultiPath`].
    pub multi_path: u8,
    /// MDTS: log2 of the most data of a command, in pages of CAP.MPSMIN.
    pub transfer_max: u8,
    /// CNTLID.
    pub controller_id: U16,
    /// VER: as the VS property.
    pub version: U32,
    /// RTD3R: resume latency in µs.
    pub resume_latency: U32,
    /// RTD3E: entry latency in µs.
    pub entry_latency: U32,
    /// OAES, as [`AsyncEvents`].
    pub async_events: U32,
    /// CTRATT, as [`ControllerAttributes`].
    pub attributes: U32,
    /// RRLS: read recovery levels.
    pub read_recovery: U16,
    /// Reserved.
    pub reserved_102: [u8; 9],
    /// CNTRLTYPE: [`CONTROLLER_IO`] or [`CONTROLLER_DISCOVERY`].
    pub controller_type: u8,
    /// FGUID: identity of the field replaceable unit.
    pub fru_guid: [u8; 16],
    /// CRDT1 to CRDT3: command retry delays in 100 ms.
    pub retry_delay: [U16; 3],
    /// Reserved, and for the management interface.
    pub reserved_134: [u8; 122],
    /// OACS: optional admin commands.
    pub admin_commands: U16,
    /// ACL: most Aborts at once, 0-based.
    pub abort_limit_z: u8,
    /// AERL: most Asynchronous Event Requests at once, 0-based.
    pub async_event_limit_z: u8,
    /// FRMW: firmware slots.
    pub firmware_updates: u8,
    /// LPA, as [`LogAttributes`].
    pub log_attributes: u8,
    /// ELPE: entries of the error log, 0-based.
    pub error_log_entries_z: u8,
    /// NPSS: power states, 0-based.
    pub power_states_z: u8,
    /// AVSCC.
    pub admin_vendor: u8,
    /// APSTA.
    pub power_transitions: u8,
    /// WCTEMP: warning temperature in K.
    pub warning_temperature: U16,
    /// CCTEMP: critical temperature in K.
    pub critical_temperature: U16,
    /// MTFA.
    pub firmware_activation_max: U16,
    /// HMPRE, HMMIN: host memory buffer.
    pub host_memory: [U32; 2],
    /// TNVMCAP: total capacity in bytes.
    pub capacity: U128,
    /// UNVMCAP: unallocated capacity in bytes.
    pub unallocated: U128,
    /// RPMBS.
    pub protected_memory: U32,
    /// EDSTT.
    pub self_test_time: U16,
    /// DSTO.
    pub self_test_options: u8,
    /// FWUG.
    pub firmware_granularity: u8,
    /// KAS: granularity of the Keep Alive Timeout in 100 ms.
    pub keep_alive_granularity: U16,
    /// HCTMA, MNTMT, MXTMT: thermal management by the host.
    pub thermal: [U16; 3],
    /// SANICAP: sanitize.
    pub sanitize: U32,
    /// HMMINDS.
    pub host_memory_entry_min: U32,
    /// HMMAXD.
    pub host_memory_entries_max: U16,
    /// NSETIDMAX.
    pub nvm_set_max: U16,
    /// ENDGIDMAX.
    pub endurance_group_max: U16,
    /// ANATT: longest time in ANA Change, in s.
    pub ana_transition_time: u8,
    /// ANACAP, as [`AnaCapabilities`].
    pub ana_capabilities: u8,
    /// ANAGRPMAX: largest ANA group id.
    pub ana_group_max: U32,
    /// NANAGRPID: number of ANA groups.
    pub ana_groups: U32,
    /// PELS: persistent event log.
    pub persistent_event_log: U32,
    /// DOMAINID.
    pub domain: U16,
    /// Reserved.
    pub reserved_358: [u8; 10],
    /// MEGCAP.
    pub endurance_group_capacity: U128,
    /// Reserved.
    pub reserved_384: [u8; 128],
    /// SQES: log2 of the submission queue entry; required in 3:0, largest in 7:4.
    pub submission_entry: u8,
    /// CQES: the same of the completion queue entry.
    pub completion_entry: u8,
    /// MAXCMD: most commands outstanding on a queue.
    pub commands_max: U16,
    /// NN: largest namespace id.
    pub namespaces: U32,
    /// ONCS, as [`NvmCommands`].
    pub nvm_commands: U16,
    /// FUSES: bit 0: Compare and Write.
    pub fused: U16,
    /// FNA: format attributes.
    pub format: u8,
    /// VWC, as [`VolatileCache`].
    pub volatile_cache: u8,
    /// AWUN: blocks written atomically, 0-based.
    pub atomic_write_z: U16,
    /// AWUPF: the same with a power failure.
    pub atomic_write_power_fail_z: U16,
    /// ICSVSCC.
    pub nvm_vendor: u8,
    /// NWPC: write protection.
    pub write_protection: u8,
    /// ACWU: blocks compared and written atomically, 0-based.
    pub atomic_compare_write_z: U16,
    /// CDFS: Copy descriptor formats, one bit each.
    pub copy_formats: U16,
    /// SGLS, as [`SglSupport`].
    pub sgl: U32,
    /// MNAN: most namespaces at once.
    pub namespaces_max: U32,
    /// MAXDNA.
    pub domain_attachments_max: U128,
    /// MAXCNA.
    pub controller_attachments_max: U32,
    /// Reserved.
    pub reserved_564: [u8; 204],
    /// SUBNQN, NUL terminated.
    pub subsystem_nqn: [u8; 256],
    /// Reserved.
    pub reserved_1024: [u8; 768],
    /// IOCCSZ: largest command capsule of an I/O queue in 16 bytes.
    pub command_capsule: U32,
    /// IORCSZ: largest response capsule of an I/O queue in 16 bytes.
    pub response_capsule: U32,
    /// ICDOFF: where in-capsule data begin, in 16 bytes.
    pub in_capsule_offset: U16,
    /// FCATT: bit 0: static controllers.
    pub fabrics_attributes: u8,
    /// MSDBD: most SGL data block descriptors in a capsule.
    pub sgl_descriptors_max: u8,
    /// OFCS: bit 0: Disconnect.
    pub fabrics_commands: U16,
    /// DCTYPE: 1 for a direct discovery controller.
    pub discovery_type: u8,
    /// Reserved.
    pub reserved_1807: [u8; 241],
    /// PSD0 to PSD31: power states.
    pub power_states: [[u8; 32]; 32],
    /// Vendor specific.
    pub vendor_specific: [u8; 1024],
}
const _: () = assert!(size_of::<IdentifyController>() == IDENTIFY_SIZE);

/// [`IdentifyController::controller_type`].
pub const CONTROLLER_IO: u8 = 1;
/// [`IdentifyController::controller_type`].
pub const CONTROLLER_DISCOVERY: u8 = 2;

/// CMIC: paths to the subsystem.
#[bitfield(u8)]
pub struct MultiPath {
    /// More than one port.
    pub ports: bool,
    /// More than one controller.
    pub controllers: bool,
    /// A virtual function.
    pub virtual_function: bool,
    /// ANA reporting.
    pub ana: bool,
    #[bits(4)]
    __: u8,
}

/// OAES, and what the host wants of them: dword 11 of feature 0Bh.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct AsyncEvents {
    /// Critical warnings of the health log (feature only).
    pub health: u8,
    /// A namespace was added, removed or changed.
    pub namespace_attribute: bool,
    /// Firmware activation.
    pub firmware_activation: bool,
    /// Telemetry.
    pub telemetry: bool,
    /// ANA states changed.
    pub ana: bool,
    #[bits(19)]
    __: u32,
    /// The discovery log changed.
    pub discovery: bool,
}

/// CTRATT.
#[bitfield(u32)]
pub struct ControllerAttributes {
    /// 128-bit host identifiers.
    pub host_id_128: bool,
    #[bits(5)]
    __: u8,
    /// TBKAS: any command keeps the controller alive.
    pub traffic_keep_alive: bool,
    #[bits(25)]
    __: u32,
}

/// LPA.
#[bitfield(u8)]
pub struct LogAttributes {
    /// Health log per namespace.
    pub health_per_namespace: bool,
    /// Commands Supported and Effects.
    pub command_effects: bool,
    /// 32-bit lengths and offsets.
    pub extended: bool,
    /// Telemetry.
    pub telemetry: bool,
    /// Persistent event log.
    pub persistent_event: bool,
    /// Supported log pages, and effects of features.
    pub supported_pages: bool,
    #[bits(2)]
    __: u8,
}

/// ANACAP.
#[bitfield(u8)]
pub struct AnaCapabilities {
    /// Reports Optimized.
    pub optimized: bool,
    /// Reports Non-Optimized.
    pub non_optimized: bool,
    /// Reports Inaccessible.
    pub inaccessible: bool,
    /// Reports Persistent Loss.
    pub persistent_loss: bool,
    /// Reports Change.
    pub change: bool,
    #[bits(1)]
    __: u8,
    /// A namespace's group does not change while it is attached.
    pub group_fixed: bool,
    /// Group ids may be given in Namespace Management.
    pub group_managed: bool,
}

/// ONCS: optional NVM commands.
#[bitfield(u16)]
pub struct NvmCommands {
    /// Compare.
    pub compare: bool,
    /// Write Uncorrectable.
    pub write_uncorrectable: bool,
    /// Dataset Management.
    pub dataset_management: bool,
    /// Write Zeroes.
    pub write_zeroes: bool,
    /// The Save and Select fields of features.
    pub save_select: bool,
    /// Reservations.
    pub reservations: bool,
    /// Timestamp feature.
    pub timestamp: bool,
    /// Verify.
    pub verify: bool,
    /// Copy.
    pub copy: bool,
    #[bits(7)]
    __: u8,
}

/// VWC.
#[bitfield(u8)]
pub struct VolatileCache {
    /// There is one.
    pub present: bool,
    /// Flush of namespace FFFFFFFFh: 2 refused, 3 flushes all.
    #[bits(2)]
    pub flush_all: u8,
    #[bits(5)]
    __: u8,
}

/// SGLS.
#[bitfield(u32)]
pub struct SglSupport {
    /// 1: supported without alignment.
    #[bits(2)]
    pub supported: u8,
    /// Keyed data blocks.
    pub keyed: bool,
    #[bits(17)]
    __: u32,
    /// Addresses that are offsets: in-capsule data.
    pub offset: bool,
    /// Transport data blocks.
    pub transport: bool,
    #[bits(10)]
    __: u16,
}

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

/// OACS: optional admin commands.
#[bitfield(u16)]
pub struct AdminCommands {
    /// Security Send and Receive.
    pub security: bool,
    /// Format NVM.
    pub format: bool,
    /// Firmware download and commit.
    pub firmware: bool,
    /// Namespace Management and Attachment.
    pub namespace_management: bool,
    /// Device Self-test.
    pub self_test: bool,
    /// Directives.
    pub directives: bool,
    /// Management interface.
    pub management: bool,
    /// Virtualization Management.
    pub virtualization: bool,
    /// Doorbell Buffer Config.
    pub doorbell_buffer: bool,
    #[bits(7)]
    __: u8,
}

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

/// This controller, for the NVM command set: CNS 06h (NVM section 4.1.5.4). 0 says "no limit".
#[repr(C)]
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
pub struct NvmController {
    /// VSL: log2 of the most data of a Verify, in pages.
    pub verify_max: u8,
    /// WZSL: log2 of the most data of a Write Zeroes, in pages.
    pub write_zeroes_max: u8,
    /// WUSL: log2 of the most data of a Write Uncorrectable, in pages.
    pub write_uncorrectable_max: u8,
    /// DMRL: most ranges of a Dataset Management.
    pub dataset_ranges_max: u8,
    /// DMRSL: most blocks of one such range.
    pub dataset_range_max: U32,
    /// DMSL: most blocks of one Dataset Management.
    pub dataset_max: U64,
    /// Reserved.
    pub reserved_16: [u8; 4080],
}
const _: () = assert!(size_of::<NvmController>() == IDENTIFY_SIZE);

/// Primary controller: CNS 14h (section 5.17.2.14); only its beginning concerns us.
#[repr(C)]
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
pub struct PrimaryController {
    /// CNTLID.
    pub controller_id: U16,
    /// PORTID.
    pub port_id: U16,
    /// CRT: resources that secondary controllers could have.
    pub resources: u8,
    /// Reserved, and their numbers.
    pub reserved_5: [u8; 4091],
}
const _: () = assert!(size_of::<PrimaryController>() == IDENTIFY_SIZE);

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

/// Command set identifier of the NVM command set.
pub const COMMAND_SET_NVM: u8 = 0;
/// Zoned namespaces.
pub const COMMAND_SET_ZONED: u8 = 2;

/// Namespace id that means all of them.
pub const NSID_ALL: u32 = 0xFFFF_FFFF;

#[cfg(test)]
mod tests {
    use super::*;
    use core::mem::offset_of;

    #[test]
    fn controller_fields_lie_where_the_specification_puts_them() {
        for (offset, want) in [
            (offset_of!(IdentifyController, multi_path), 76),
            (offset_of!(IdentifyController, controller_id), 78),
            (offset_of!(IdentifyController, async_events), 92),
            (offset_of!(IdentifyController, attributes), 96),
            (offset_of!(IdentifyController, controller_type), 111),
            (offset_of!(IdentifyController, retry_delay), 128),
            (offset_of!(IdentifyController, admin_commands), 256),
            (offset_of!(IdentifyController, log_attributes), 261),
            (offset_of!(IdentifyController, capacity), 280),
            (offset_of!(IdentifyController, keep_alive_granularity), 320),
            (offset_of!(IdentifyController, sanitize), 328),
            (offset_of!(IdentifyController, ana_transition_time), 342),
            (offset_of!(IdentifyController, ana_groups), 348),
            (offset_of!(IdentifyController, endurance_group_capacity), 368),
            (offset_of!(IdentifyController, submission_entry), 512),
            (offset_of!(IdentifyController, commands_max), 514),
            (offset_of!(IdentifyController, namespaces), 516),
            (offset_of!(IdentifyController, nvm_commands), 520),
            (offset_of!(IdentifyController, volatile_cache), 525),
            (offset_of!(IdentifyController, write_protection), 531),
            (offset_of!(IdentifyController, sgl), 536),
            (offset_of!(IdentifyController, namespaces_max), 540),
            (offset_of!(IdentifyController, subsystem_nqn), 768),
            (offset_of!(IdentifyController, command_capsule), 1792),
            (offset_of!(IdentifyController, in_capsule_offset), 1800),
            (offset_of!(IdentifyController, fabrics_commands), 1804),
            (offset_of!(IdentifyController, discovery_type), 1806),
            (offset_of!(IdentifyController, power_states), 2048),
        ] {
            assert_eq!(offset, want);
        }
    }

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
            (offset_of!(NvmController, dataset_max), 8),
        ] {
            assert_eq!(offset, want);
        }
    }

    #[test]
    fn bits_lie_where_the_specification_puts_them() {
        assert_eq!(u32::from(AsyncEvents::new().with_namespace_attribute(true)), 1 << 8);
        assert_eq!(u32::from(AsyncEvents::new().with_ana(true)), 1 << 11);
        assert_eq!(u32::from(AsyncEvents::new().with_discovery(true)), 1 << 31);
        assert_eq!(u32::from(ControllerAttributes::new().with_traffic_keep_alive(true)), 1 << 6);
        assert_eq!(u16::from(NvmCommands::new().with_verify(true).with_copy(true)), 0x180);
        assert_eq!(u8::from(LogAttributes::new().with_supported_pages(true)), 1 << 5);
        assert_eq!(u8::from(AnaCapabilities::new().with_group_fixed(true)), 1 << 6);
        assert_eq!(u32::from(SglSupport::new().with_offset(true).with_transport(true)), 3 << 20);
        assert_eq!(u8::from(MultiPath::new().with_ana(true)), 1 << 3);
    }
}
