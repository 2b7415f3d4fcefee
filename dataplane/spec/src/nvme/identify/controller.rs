//! Identify structures of a controller.

use super::IDENTIFY_SIZE;
use bitfield_struct::bitfield;
use zerocopy::little_endian::{U16, U32, U64, U128};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

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
    /// NWPC: bit 0: namespaces can be write protected, and not.
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
