//! NVMe over Fabrics: Connect, properties, registers, the discovery log.
//!
//! Section numbers are those of the NVM Express Base Specification 2.0.

use crate::nvme::command::SglDescriptor;
use bitfield_struct::bitfield;
use open_enum::open_enum;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// NVMe qualified name by which any host reaches the discovery subsystem.
pub const DISCOVERY_NQN: &str = "nqn.2014-08.org.nvmexpress.discovery";

/// Longest NVMe qualified name in bytes, its terminating NUL not counted (section 4.5).
pub const NQN_MAX: usize = 223;

/// Types of Fabrics commands (section 6.1).
#[open_enum]
#[repr(u8)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FabricsType {
    /// Property Set.
    PropertySet = 0x00,
    /// Connect.
    Connect = 0x01,
    /// Property Get.
    PropertyGet = 0x04,
    /// Authentication Send.
    AuthenticationSend = 0x05,
    /// Authentication Receive.
    AuthenticationReceive = 0x06,
    /// Disconnect.
    Disconnect = 0x08,
}

/// Connect command (section 6.3).
#[repr(C)]
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
pub struct ConnectCommand {
    /// [`crate::nvme::command::FABRICS_OPCODE`].
    pub opcode: u8,
    /// As in every command.
    pub flags: u8,
    /// Command identifier.
    pub command_id: U16,
    /// [`FabricsType::Connect`].
    pub fabrics_type: u8,
    /// Reserved.
    pub reserved_5: [u8; 19],
    /// Where the [`ConnectData`] are.
    pub sgl: SglDescriptor,
    /// Record format: 0.
    pub record_format: U16,
    /// Queue to make: 0 for the admin queue.
    pub queue_id: U16,
    /// Entries of its submission queue, 0-based.
    pub queue_size_z: U16,
    /// [`ConnectAttributes`].
    pub attributes: u8,
    /// Reserved.
    pub reserved_47: u8,
    /// Keep Alive Timeout in ms; 0 for none. Admin queue only.
    pub keep_alive_ms: U32,
    /// Reserved.
    pub reserved_52: [u8; 12],
}
const _: () = assert!(size_of::<ConnectCommand>() == 64);

/// Connect attributes (CATTR).
#[bitfield(u8)]
pub struct ConnectAttributes {
    /// Priority class of an I/O queue.
    #[bits(2)]
    pub priority: u8,
    /// The host does not want SQ flow control.
    pub disable_flow_control: bool,
    /// The host may delete this queue with Disconnect.
    pub queue_deletion: bool,
    #[bits(4)]
    __: u8,
}

/// What a Connect command carries (section 6.3).
#[repr(C)]
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
pub struct ConnectData {
    /// Host identifier.
    pub host_id: [u8; 16],
    /// Controller to connect to; FFFFh: any.
    pub controller_id: U16,
    /// Reserved.
    pub reserved_18: [u8; 238],
    /// Subsystem, NUL terminated.
    pub subsystem_nqn: [u8; 256],
    /// Host, NUL terminated.
    pub host_nqn: [u8; 256],
    /// Reserved.
    pub reserved_768: [u8; 256],
}
const _: () = assert!(size_of::<ConnectData>() == 1024);

/// [`ConnectData::controller_id`] of a host that takes any controller.
pub const CONTROLLER_ID_DYNAMIC: u16 = 0xFFFF;

/// Largest controller id (section 4.6: FFF0h to FFFFh are reserved).
pub const CONTROLLER_ID_MAX: u16 = 0xFFEF;

/// Dword 0 of a Connect that failed with Invalid Parameters.
#[bitfield(u32)]
pub struct InvalidParameter {
    /// IPO: offset of the bad parameter in bytes.
    pub offset: u16,
    /// IATTR bit 0: the offset is into the data, not into the command.
    pub in_data: bool,
    #[bits(15)]
    __: u16,
}

/// Property Get and Property Set commands (sections 6.5, 6.6).
#[repr(C)]
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
pub struct PropertyCommand {
    /// [`crate::nvme::command::FABRICS_OPCODE`].
    pub opcode: u8,
    /// As in every command.
    pub flags: u8,
    /// Command identifier.
    pub command_id: U16,
    /// [`FabricsType::PropertyGet`] or [`FabricsType::PropertySet`].
    pub fabrics_type: u8,
    /// Reserved.
    pub reserved_5: [u8; 35],
    /// Size of the property in bits 2:0: 0 for 4 bytes, 1 for 8.
    pub attributes: u8,
    /// Reserved.
    pub reserved_41: [u8; 3],
    /// One of the `PROPERTY_` offsets.
    pub offset: U32,
    /// New value.
    pub value: U64,
    /// Reserved.
    pub reserved_56: [u8; 8],
}
const _: () = assert!(size_of::<PropertyCommand>() == 64);

/// Controller Capabilities, 8 bytes.
pub const PROPERTY_CAP: u32 = 0x00;
/// Version, 4 bytes.
pub const PROPERTY_VS: u32 = 0x08;
/// Controller Configuration, 4 bytes.
pub const PROPERTY_CC: u32 = 0x14;
/// Controller Status, 4 bytes.
pub const PROPERTY_CSTS: u32 = 0x1C;
/// NVM Subsystem Reset, 4 bytes.
pub const PROPERTY_NSSR: u32 = 0x20;
/// Controller Ready Timeouts, 4 bytes.
pub const PROPERTY_CRTO: u32 = 0x68;

/// Controller Capabilities (section 3.1.3.1).
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct Capabilities {
    /// MQES: most entries of a queue, 0-based.
    pub queue_entries_z: u16,
    /// CQR: queues must be contiguous; 1 on fabrics.
    pub contiguous_queues: bool,
    /// AMS: arbitration mechanisms beyond round robin.
    #[bits(2)]
    pub arbitration: u8,
    #[bits(5)]
    __: u8,
    /// TO: longest time until CSTS.RDY follows CC.EN, in 500 ms.
    pub timeout: u8,
    /// DSTRD: 0 on fabrics.
    #[bits(4)]
    pub doorbell_stride: u8,
    /// NSSRS: NVM Subsystem Reset is there.
    pub subsystem_reset: bool,
    /// CSS: command sets; bit 0 NVM, bit 6 any, by Identify.
    #[bits(8)]
    pub command_sets: u8,
    /// BPS: boot partitions.
    pub boot_partitions: bool,
    /// CPS: scope of a controller's power.
    #[bits(2)]
    pub power_scope: u8,
    /// MPSMIN: log2 of the smallest memory page, less 12. The unit of MDTS.
    #[bits(4)]
    pub page_size_min: u8,
    /// MPSMAX: log2 of the largest, less 12.
    #[bits(4)]
    pub page_size_max: u8,
    /// PMRS: persistent memory region.
    pub persistent_memory: bool,
    /// CMBS: controller memory buffer.
    pub memory_buffer: bool,
    /// NSSS: NVM subsystem shutdown.
    pub subsystem_shutdown: bool,
    /// CRMS bit 0: ready means media ready.
    pub ready_with_media: bool,
    /// CRMS bit 1: ready may come before the media are.
    pub ready_independent_of_media: bool,
    #[bits(3)]
    __: u8,
}

/// [`Capabilities::command_sets`]: NVM command set.
pub const COMMAND_SETS_NVM: u8 = 1 << 0;
/// [`Capabilities::command_sets`]: one or more command sets, as Identify says.
pub const COMMAND_SETS_BY_IDENTIFY: u8 = 1 << 6;

/// Controller Configuration (section 3.1.3.5).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Configuration {
    /// EN.
    pub enable: bool,
    #[bits(3)]
    __: u8,
    /// CSS: 0 the NVM command set, 6 all that are there, 7 admin only.
    #[bits(3)]
    pub command_set: u8,
    /// MPS: log2 of the memory page, less 12.
    #[bits(4)]
    pub page_size: u8,
    /// AMS: arbitration mechanism.
    #[bits(3)]
    pub arbitration: u8,
    /// SHN: 0 none, 1 normal, 2 abrupt.
    #[bits(2)]
    pub shutdown: u8,
    /// IOSQES: log2 of the submission queue entry: 6.
    #[bits(4)]
    pub submission_entry: u8,
    /// IOCQES: log2 of the completion queue entry: 4.
    #[bits(4)]
    pub completion_entry: u8,
    /// CRIME: ready independent of media.
    pub ready_independent_of_media: bool,
    #[bits(7)]
    __: u8,
}

/// Controller Status (section 3.1.3.6).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct ControllerStatus {
    /// RDY.
    pub ready: bool,
    /// CFS: fatal.
    pub fatal: bool,
    /// SHST: one of the `SHUTDOWN_` constants.
    #[bits(2)]
    pub shutdown: u8,
    /// NSSRO: an NVM subsystem reset happened.
    pub subsystem_reset: bool,
    /// PP: processing paused.
    pub paused: bool,
    /// ST: the shutdown is of the whole subsystem.
    pub shutdown_type: bool,
    #[bits(25)]
    __: u32,
}

/// [`ControllerStatus::shutdown`]: normal operation.
pub const SHUTDOWN_NONE: u8 = 0;
/// [`ControllerStatus::shutdown`]: being shut down.
pub const SHUTDOWN_UNDER_WAY: u8 = 1;
/// [`ControllerStatus::shutdown`]: done.
pub const SHUTDOWN_COMPLETE: u8 = 2;

/// Controller Ready Timeouts (section 3.1.3.22).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct ReadyTimeouts {
    /// CRWMT: with media, in 500 ms; not below CAP.TO.
    pub with_media: u16,
    /// CRIMT: independent of media, in 500 ms.
    pub independent_of_media: u16,
}

/// Header of the discovery log page (section 5.16.1.23).
#[repr(C)]
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
pub struct DiscoveryHeader {
    /// GENCTR: counts changes.
    pub generation: U64,
    /// NUMREC: entries that follow.
    pub records: U64,
    /// RECFMT: 0.
    pub record_format: U16,
    /// Reserved.
    pub reserved_18: [u8; 1006],
}
const _: () = assert!(size_of::<DiscoveryHeader>() == 1024);

/// One entry of the discovery log page.
#[repr(C)]
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
pub struct DiscoveryEntry {
    /// TRTYPE: [`TRANSPORT_TCP`].
    pub transport: u8,
    /// ADRFAM: [`ADDRESS_IPV4`] or [`ADDRESS_IPV6`].
    pub address_family: u8,
    /// SUBTYPE: one of the `SUBSYSTEM_` constants.
    pub subsystem_type: u8,
    /// TREQ, as [`TransportRequirements`].
    pub requirements: u8,
    /// PORTID.
    pub port_id: U16,
    /// CNTLID: FFFFh for dynamic controllers.
    pub controller_id: U16,
    /// ASQSZ: largest admin submission queue.
    pub admin_queue_size: U16,
    /// EFLAGS, as [`EntryFlags`].
    pub flags: U16,
    /// Reserved.
    pub reserved_12: [u8; 20],
    /// TRSVCID: TCP port in decimal, space padded.
    pub service: [u8; 32],
    /// Reserved.
    pub reserved_64: [u8; 192],
    /// SUBNQN, NUL terminated.
    pub subsystem_nqn: [u8; 256],
    /// TRADDR: IP address, space padded.
    pub address: [u8; 256],
    /// TSAS: byte 0 is the kind of security, 0 for none.
    pub transport_specific: [u8; 256],
}
const _: () = assert!(size_of::<DiscoveryEntry>() == 1024);

/// [`DiscoveryEntry::transport`].
pub const TRANSPORT_TCP: u8 = 3;
/// [`DiscoveryEntry::address_family`].
pub const ADDRESS_IPV4: u8 = 1;
/// [`DiscoveryEntry::address_family`].
pub const ADDRESS_IPV6: u8 = 2;
/// [`DiscoveryEntry::subsystem_type`]: another discovery subsystem.
pub const SUBSYSTEM_REFERRAL: u8 = 1;
/// [`DiscoveryEntry::subsystem_type`]: one with namespaces.
pub const SUBSYSTEM_NVM: u8 = 2;
/// [`DiscoveryEntry::subsystem_type`]: the discovery subsystem that gave this log.
pub const SUBSYSTEM_CURRENT_DISCOVERY: u8 = 3;

/// Transport requirements (TREQ).
#[bitfield(u8)]
pub struct TransportRequirements {
    /// Secure channel: 0 not specified, 1 required, 2 not required.
    #[bits(2)]
    pub secure_channel: u8,
    /// SQ flow control may be disabled.
    pub flow_control_optional: bool,
    #[bits(5)]
    __: u8,
}

/// Flags of a discovery entry (EFLAGS).
#[bitfield(u16)]
pub struct EntryFlags {
    /// DUPRETINFO: this entry leads to the information that is being read.
    pub duplicate: bool,
    /// EPCSD: persistent connections are supported.
    pub persistent: bool,
    /// NCC: no centralised discovery.
    pub no_central_connectivity: bool,
    #[bits(13)]
    __: u16,
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::mem::offset_of;

    #[test]
    fn fields_lie_where_the_specification_puts_them() {
        assert_eq!(offset_of!(ConnectCommand, sgl), 24);
        assert_eq!(offset_of!(ConnectCommand, record_format), 40);
        assert_eq!(offset_of!(ConnectCommand, attributes), 46);
        assert_eq!(offset_of!(ConnectCommand, keep_alive_ms), 48);
        assert_eq!(offset_of!(ConnectData, controller_id), 16);
        assert_eq!(offset_of!(ConnectData, subsystem_nqn), 256);
        assert_eq!(offset_of!(ConnectData, host_nqn), 512);
        assert_eq!(offset_of!(PropertyCommand, attributes), 40);
        assert_eq!(offset_of!(PropertyCommand, offset), 44);
        assert_eq!(offset_of!(PropertyCommand, value), 48);
        assert_eq!(offset_of!(DiscoveryEntry, flags), 10);
        assert_eq!(offset_of!(DiscoveryEntry, service), 32);
        assert_eq!(offset_of!(DiscoveryEntry, subsystem_nqn), 256);
        assert_eq!(offset_of!(DiscoveryEntry, address), 512);
        assert_eq!(offset_of!(DiscoveryEntry, transport_specific), 768);
    }

    #[test]
    fn register_bits_lie_where_the_specification_puts_them() {
        assert_eq!(u64::from(Capabilities::new().with_timeout(0xFF)), 0xFF00_0000);
        assert_eq!(u64::from(Capabilities::new().with_command_sets(COMMAND_SETS_NVM)), 1 << 37);
        let by_identify = Capabilities::new().with_command_sets(COMMAND_SETS_BY_IDENTIFY);
        assert_eq!(u64::from(by_identify), 1 << 43);
        assert_eq!(u64::from(Capabilities::new().with_page_size_min(1)), 1 << 48);
        assert_eq!(u64::from(Capabilities::new().with_ready_with_media(true)), 1 << 59);
        // What Linux writes to enable a controller.
        let configuration = Configuration::from(0x0046_0061);
        assert!(configuration.enable());
        assert_eq!(configuration.command_set(), 6);
        assert_eq!((configuration.submission_entry(), configuration.completion_entry()), (6, 4));
        assert_eq!(u32::from(ControllerStatus::new().with_shutdown(SHUTDOWN_COMPLETE)), 8);
    }
}
