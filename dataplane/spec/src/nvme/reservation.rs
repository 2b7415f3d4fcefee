//! Reservation commands, their data, and their log page (sections 7.5 to 7.8, and 5.1.12.1.32 of
//! Base 2.1).

use bitfield_struct::bitfield;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Dword 10 of Reservation Register.
#[bitfield(u32)]
pub struct RegisterDword10 {
    /// RREGA: one of the `REGISTER_` constants.
    #[bits(3)]
    pub action: u8,
    /// IEKEY: the current key does not matter.
    pub ignore_key: bool,
    #[bits(26)]
    __: u32,
    /// CPTPL: one of the `PERSIST_` constants.
    #[bits(2)]
    pub persist: u8,
}

/// [`RegisterDword10::action`]: register a key.
pub const REGISTER_KEY: u8 = 0;
/// [`RegisterDword10::action`]: end the registration.
pub const REGISTER_END: u8 = 1;
/// [`RegisterDword10::action`]: replace the key.
pub const REGISTER_REPLACE: u8 = 2;

/// [`RegisterDword10::persist`]: as it is.
pub const PERSIST_UNCHANGED: u8 = 0;
/// [`RegisterDword10::persist`]: lost with power.
pub const PERSIST_OFF: u8 = 2;
/// [`RegisterDword10::persist`]: kept.
pub const PERSIST_ON: u8 = 3;

/// Dword 10 of Reservation Acquire and Reservation Release.
#[bitfield(u32)]
pub struct ReserveDword10 {
    /// RACQA or RRELA: one of the `ACQUIRE_` or `RELEASE_` constants.
    #[bits(3)]
    pub action: u8,
    /// IEKEY: not possible here any more.
    pub ignore_key: bool,
    #[bits(4)]
    __: u8,
    /// RTYPE.
    pub kind: u8,
    __: u16,
}

/// [`ReserveDword10::action`] of Acquire: reserve.
pub const ACQUIRE: u8 = 0;
/// [`ReserveDword10::action`] of Acquire: preempt.
pub const ACQUIRE_PREEMPT: u8 = 1;
/// [`ReserveDword10::action`] of Acquire: preempt, and abort commands.
pub const ACQUIRE_PREEMPT_ABORT: u8 = 2;
/// [`ReserveDword10::action`] of Release: end the reservation.
pub const RELEASE: u8 = 0;
/// [`ReserveDword10::action`] of Release: end the reservation and all registrations.
pub const RELEASE_CLEAR: u8 = 1;

/// Data of Reservation Register and Reservation Acquire; Reservation Release has the first alone.
#[repr(C)]
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
pub struct ReservationKeys {
    /// CRKEY: the host's own key.
    pub current: U64,
    /// NRKEY or PRKEY.
    pub other: U64,
}
const _: () = assert!(size_of::<ReservationKeys>() == 16);

/// Bytes of data of Reservation Release.
pub const RELEASE_DATA_LEN: usize = 8;

/// Dword 11 of Reservation Report.
#[bitfield(u32)]
pub struct ReportDword11 {
    /// EDS: with 128-bit host identifiers.
    pub extended: bool,
    #[bits(31)]
    __: u32,
}

/// Start of what Reservation Report returns. The extended structure has 40 reserved bytes more.
#[repr(C)]
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
pub struct ReportHead {
    /// GEN.
    pub generation: U32,
    /// RTYPE; 0 without a reservation.
    pub kind: u8,
    /// REGSTRNT: how many registrants follow.
    pub registrants: U16,
    /// Reserved.
    pub reserved_7: [u8; 2],
    /// PTPLS: whether they persist through power loss.
    pub persists: u8,
    /// Reserved.
    pub reserved_10: [u8; 14],
}
const _: () = assert!(size_of::<ReportHead>() == 24);

/// Reserved bytes after [`ReportHead`] in the extended structure.
pub const REPORT_EXTENDED_RESERVED: usize = 40;

/// A registrant in the extended structure.
#[repr(C)]
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
pub struct ReportRegistrant {
    /// CNTLID; FFFFh of dynamic controllers.
    pub controller_id: U16,
    /// RCSTS: bit 0: holds the reservation.
    pub status: u8,
    /// Reserved.
    pub reserved_3: [u8; 5],
    /// RKEY.
    pub key: U64,
    /// HOSTID.
    pub host_id: [u8; 16],
    /// Reserved.
    pub reserved_32: [u8; 32],
}
const _: () = assert!(size_of::<ReportRegistrant>() == 64);

/// Dword 11 of feature 82h: what a host does not want to be told.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct NotificationMask {
    #[bits(1)]
    __: u8,
    /// Registration Preempted.
    pub registration_preempted: bool,
    /// Reservation Released.
    pub released: bool,
    /// Reservation Preempted.
    pub preempted: bool,
    #[bits(28)]
    __: u32,
}

/// Dword 11 of feature 83h.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct ReservationPersistence {
    /// PTPL.
    pub persists: bool,
    #[bits(31)]
    __: u32,
}

/// Log page 80h: one notification.
#[repr(C)]
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
pub struct NotificationLog {
    /// Counts notifications of the controller; 0 of an empty page.
    pub count: U64,
    /// One of the `NOTIFICATION_` constants.
    pub kind: u8,
    /// How many more there are.
    pub available: u8,
    /// Reserved.
    pub reserved_10: [u8; 2],
    /// The namespace.
    pub namespace_id: U32,
    /// Reserved.
    pub reserved_16: [u8; 48],
}
const _: () = assert!(size_of::<NotificationLog>() == 64);

/// [`NotificationLog::kind`] of an empty page.
pub const NOTIFICATION_EMPTY: u8 = 0;
/// [`NotificationLog::kind`].
pub const NOTIFICATION_REGISTRATION_PREEMPTED: u8 = 1;
/// [`NotificationLog::kind`].
pub const NOTIFICATION_RELEASED: u8 = 2;
/// [`NotificationLog::kind`].
pub const NOTIFICATION_PREEMPTED: u8 = 3;

#[cfg(test)]
mod tests {
    use super::*;
    use core::mem::offset_of;

    #[test]
    fn fields_lie_where_the_specification_puts_them() {
        assert_eq!(u32::from(RegisterDword10::new().with_ignore_key(true)), 1 << 3);
        assert_eq!(u32::from(RegisterDword10::new().with_persist(PERSIST_ON)), 0b11 << 30);
        assert_eq!(u32::from(ReserveDword10::new().with_kind(6)), 6 << 8);
        assert_eq!(u32::from(NotificationMask::new().with_preempted(true)), 1 << 3);
        assert_eq!(offset_of!(ReportHead, registrants), 5);
        assert_eq!(offset_of!(ReportHead, persists), 9);
        assert_eq!(offset_of!(ReportRegistrant, host_id), 16);
        assert_eq!(offset_of!(NotificationLog, namespace_id), 12);
    }
}
