//! Log pages (section 5.16).

use bitfield_struct::bitfield;
use open_enum::open_enum;
use zerocopy::little_endian::{U16, U32, U64, U128};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Log page identifiers.
#[open_enum]
#[repr(u8)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LogPage {
    /// Which log pages there are: 256 [`SupportedLog`].
    Supported = 0x00,
    /// Errors: [`ErrorEntry`], newest first.
    Error = 0x01,
    /// SMART / health: [`HealthLog`].
    Health = 0x02,
    /// Firmware slots: [`FirmwareLog`].
    Firmware = 0x03,
    /// Namespaces whose attributes changed: [`CHANGED_NAMESPACES_MAX`] ids.
    ChangedNamespaces = 0x04,
    /// Commands supported and their effects: [`EffectsLog`].
    Effects = 0x05,
    /// Asymmetric namespace access: [`AnaHeader`] and groups.
    Ana = 0x0C,
    /// Features supported and their effects: 256 [`FeatureEffects`].
    FeatureEffects = 0x12,
    /// Management interface commands supported.
    ManagementEffects = 0x13,
    /// Discovery: `DiscoveryHeader` and entries.
    Discovery = 0x70,
    /// Reservation notification: the oldest one, as `reservation::NotificationLog`.
    ReservationNotification = 0x80,
}

/// Dword 10 of Get Log Page.
#[bitfield(u32)]
pub struct LogDword10 {
    /// [`LogPage`].
    pub page: u8,
    /// LSP: log specific.
    #[bits(7)]
    pub specific: u8,
    /// RAE: do not clear the event that this page answers.
    pub retain_event: bool,
    /// NUMDL: low half of the number of dwords, 0-based.
    pub dwords_low: u16,
}

/// Dword 11 of Get Log Page.
#[bitfield(u32)]
pub struct LogDword11 {
    /// NUMDU: high half of the number of dwords.
    pub dwords_high: u16,
    /// LSI: log specific identifier.
    pub specific_id: u16,
}

/// Dword 14 of Get Log Page.
#[bitfield(u32)]
pub struct LogDword14 {
    /// UUID index.
    #[bits(7)]
    pub uuid_index: u8,
    #[bits(16)]
    __: u16,
    /// OT: the offset counts entries, not bytes.
    pub offset_by_index: bool,
    /// Command set.
    pub command_set: u8,
}

/// One entry of [`LogPage::Supported`].
#[bitfield(u32)]
pub struct SupportedLog {
    /// LSUPP.
    pub supported: bool,
    /// IOS: offsets may count entries.
    pub index_offset: bool,
    #[bits(14)]
    __: u16,
    /// LIDSP: specific to the page.
    pub specific: u16,
}

/// One entry of [`LogPage::Error`].
#[repr(C)]
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
pub struct ErrorEntry {
    /// Counts errors; 0 for an entry that is not used.
    pub count: U64,
    /// Submission queue.
    pub queue_id: U16,
    /// Command.
    pub command_id: U16,
    /// Status with its phase bit.
    pub status: U16,
    /// Parameter error location: byte in 7:0, bit in 10:8; FFFFh for none.
    pub location: U16,
    /// First block concerned.
    pub lba: U64,
    /// Namespace.
    pub namespace_id: U32,
    /// Vendor page with more.
    pub vendor: u8,
    /// TRTYPE.
    pub transport: u8,
    /// Reserved.
    pub reserved_30: [u8; 2],
    /// Command specific.
    pub specific: U64,
    /// Transport specific.
    pub transport_specific: U16,
    /// Reserved.
    pub reserved_42: [u8; 22],
}
const _: () = assert!(size_of::<ErrorEntry>() == 64);

/// SMART / health information.
#[repr(C)]
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
pub struct HealthLog {
    /// As [`CriticalWarning`].
    pub critical_warning: u8,
    /// Composite temperature in K.
    pub temperature: U16,
    /// Available spare in %.
    pub available_spare: u8,
    /// Available spare threshold in %.
    pub spare_threshold: u8,
    /// Percentage of life used.
    pub used: u8,
    /// Endurance group critical warnings.
    pub endurance_warning: u8,
    /// Reserved.
    pub reserved_7: [u8; 25],
    /// Thousands of 512-byte units read, rounded up.
    pub units_read: U128,
    /// Thousands of 512-byte units written, rounded up.
    pub units_written: U128,
    /// Read commands.
    pub reads: U128,
    /// Write commands.
    pub writes: U128,
    /// Minutes busy.
    pub busy_minutes: U128,
    /// Power cycles.
    pub power_cycles: U128,
    /// Power-on hours.
    pub power_on_hours: U128,
    /// Unsafe shutdowns.
    pub unsafe_shutdowns: U128,
    /// Media and data integrity errors.
    pub media_errors: U128,
    /// Entries that the error log ever had.
    pub error_entries: U128,
    /// Minutes above the warning temperature.
    pub warning_minutes: U32,
    /// Minutes above the critical temperature.
    pub critical_minutes: U32,
    /// Temperature sensors, in K.
    pub sensors: [U16; 8],
    /// Thermal management transitions and times.
    pub thermal: [U32; 4],
    /// Reserved.
    pub reserved_232: [u8; 280],
}
const _: () = assert!(size_of::<HealthLog>() == 512);

/// [`HealthLog::critical_warning`].
#[bitfield(u8)]
pub struct CriticalWarning {
    /// Spare capacity below its threshold.
    pub spare: bool,
    /// Temperature.
    pub temperature: bool,
    /// Reliability degraded by media or internal errors.
    pub degraded: bool,
    /// All media are read only.
    pub read_only: bool,
    /// The volatile memory backup failed.
    pub backup: bool,
    #[bits(3)]
    __: u8,
}

/// Firmware slots.
#[repr(C)]
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
pub struct FirmwareLog {
    /// AFI: active slot in 2:0.
    pub active: u8,
    /// Reserved.
    pub reserved_1: [u8; 7],
    /// Revision in each slot.
    pub revisions: [[u8; 8]; 7],
    /// Reserved.
    pub reserved_64: [u8; 448],
}
const _: () = assert!(size_of::<FirmwareLog>() == 512);

/// Most ids in [`LogPage::ChangedNamespaces`]; with more, the first is FFFFFFFFh and the rest 0.
pub const CHANGED_NAMESPACES_MAX: usize = 1024;

/// Commands supported and effects.
#[repr(C)]
#[derive(Debug, Clone, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
pub struct EffectsLog {
    /// One [`CommandEffects`] for each admin opcode.
    pub admin: [U32; 256],
    /// One for each opcode of the I/O command set.
    pub io: [U32; 256],
    /// Reserved.
    pub reserved: [u8; 2048],
}
const _: () = assert!(size_of::<EffectsLog>() == 4096);

/// Effects of a command.
#[bitfield(u32)]
pub struct CommandEffects {
    /// CSUPP.
    pub supported: bool,
    /// LBCC: changes logical blocks.
    pub changes_blocks: bool,
    /// NCC: changes namespace capabilities.
    pub changes_namespace: bool,
    /// NIC: changes the namespace inventory.
    pub changes_inventory: bool,
    /// CCC: changes controller capabilities.
    pub changes_controller: bool,
    #[bits(9)]
    __: u16,
    /// A UUID may be selected.
    pub uuid_selection: bool,
    #[bits(1)]
    __: u8,
    /// CSE: what must not run at the same time.
    #[bits(3)]
    pub exclusion: u8,
    #[bits(1)]
    __: u8,
    /// CSP bit 0: affects a namespace.
    pub scope_namespace: bool,
    /// CSP bit 1: affects the controller.
    pub scope_controller: bool,
    #[bits(10)]
    __: u16,
}

/// Effects of a feature.
#[bitfield(u32)]
pub struct FeatureEffects {
    /// FSUPP.
    pub supported: bool,
    /// UDCC: changes user data.
    pub changes_data: bool,
    /// NCC.
    pub changes_namespace: bool,
    /// NIC.
    pub changes_inventory: bool,
    /// CCC.
    pub changes_controller: bool,
    #[bits(14)]
    __: u16,
    /// A UUID may be selected.
    pub uuid_selection: bool,
    /// FSP bit 0: affects a namespace.
    pub scope_namespace: bool,
    /// FSP bit 1: affects the controller.
    pub scope_controller: bool,
    #[bits(10)]
    __: u16,
}

/// Header of the ANA log page.
#[repr(C)]
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
pub struct AnaHeader {
    /// Counts changes of the page.
    pub changes: U64,
    /// Groups that follow.
    pub groups: U16,
    /// Reserved.
    pub reserved: [u8; 6],
}
const _: () = assert!(size_of::<AnaHeader>() == 16);

/// One ANA group; its namespace ids follow in rising order.
#[repr(C)]
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
pub struct AnaGroup {
    /// ANAGRPID, from 1.
    pub group: U32,
    /// Namespace ids that follow.
    pub namespaces: U32,
    /// Counts changes of the group.
    pub changes: U64,
    /// State in 3:0: one of the `ANA_` constants.
    pub state: u8,
    /// Reserved.
    pub reserved: [u8; 15],
}
const _: () = assert!(size_of::<AnaGroup>() == 32);

/// [`AnaGroup::state`].
pub const ANA_OPTIMIZED: u8 = 1;

/// Log specific field of the ANA page: return groups only.
pub const ANA_GROUPS_ONLY: u8 = 1;

/// Dword 0 of the completion of an Asynchronous Event Request (section 5.2).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct AsyncEvent {
    /// One of the `EVENT_` constants.
    #[bits(3)]
    pub kind: u8,
    #[bits(5)]
    __: u8,
    /// Which event of that kind.
    pub information: u8,
    /// The log page to read.
    pub page: u8,
    __: u8,
}

/// [`AsyncEvent::kind`]: an error that belongs to no command.
pub const EVENT_ERROR: u8 = 0;
/// [`AsyncEvent::kind`]: the health log has a new critical warning.
pub const EVENT_HEALTH: u8 = 1;
/// [`AsyncEvent::information`]: reliability is degraded, or the media are read only.
pub const HEALTH_RELIABILITY: u8 = 0x00;
/// [`AsyncEvent::information`]: a temperature threshold was crossed.
pub const HEALTH_TEMPERATURE: u8 = 0x01;
/// [`AsyncEvent::information`]: available spare fell below its threshold.
pub const HEALTH_SPARE: u8 = 0x02;
/// [`AsyncEvent::kind`] of notices.
pub const EVENT_NOTICE: u8 = 2;
/// [`AsyncEvent::information`]: a namespace was added, removed or changed.
pub const NOTICE_NAMESPACE_ATTRIBUTE: u8 = 0x00;
/// [`AsyncEvent::information`]: ANA states changed.
pub const NOTICE_ANA: u8 = 0x03;
/// [`AsyncEvent::information`]: the discovery log changed.
pub const NOTICE_DISCOVERY: u8 = 0xF0;
/// [`AsyncEvent::kind`]: specific to the I/O command set.
pub const EVENT_IO: u8 = 6;
/// [`AsyncEvent::information`]: there is a reservation notification.
pub const IO_RESERVATION: u8 = 0x00;

#[cfg(test)]
mod tests {
    use super::*;
    use core::mem::offset_of;

    #[test]
    fn fields_lie_where_the_specification_puts_them() {
        assert_eq!(offset_of!(HealthLog, temperature), 1);
        assert_eq!(offset_of!(HealthLog, units_read), 32);
        assert_eq!(offset_of!(HealthLog, power_on_hours), 128);
        assert_eq!(offset_of!(HealthLog, warning_minutes), 192);
        assert_eq!(offset_of!(HealthLog, sensors), 200);
        assert_eq!(offset_of!(ErrorEntry, lba), 16);
        assert_eq!(offset_of!(ErrorEntry, specific), 32);
        assert_eq!(offset_of!(AnaGroup, state), 16);
        assert_eq!(offset_of!(EffectsLog, io), 1024);
    }

    #[test]
    fn bits_lie_where_the_specification_puts_them() {
        let event = AsyncEvent::new()
            .with_kind(EVENT_NOTICE)
            .with_information(NOTICE_DISCOVERY)
            .with_page(LogPage::Discovery.0);
        assert_eq!(u32::from(event), 0x0070_F002);
        assert_eq!(u32::from(LogDword10::new().with_retain_event(true)), 1 << 15);
        assert_eq!(u32::from(LogDword14::new().with_offset_by_index(true)), 1 << 23);
        assert_eq!(u32::from(CommandEffects::new().with_exclusion(1)), 1 << 16);
        assert_eq!(u32::from(CommandEffects::new().with_scope_namespace(true)), 1 << 20);
        assert_eq!(u32::from(FeatureEffects::new().with_scope_namespace(true)), 1 << 20);
    }
}
