//! Features (section 5.27).

use bitfield_struct::bitfield;
use open_enum::open_enum;

/// Feature identifiers.
#[open_enum]
#[repr(u8)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Feature {
    /// Arbitration.
    Arbitration = 0x01,
    /// Power Management.
    PowerManagement = 0x02,
    /// Temperature Threshold.
    TemperatureThreshold = 0x04,
    /// Error Recovery.
    ErrorRecovery = 0x05,
    /// Volatile Write Cache.
    VolatileWriteCache = 0x06,
    /// Number of Queues.
    NumberOfQueues = 0x07,
    /// Interrupt Coalescing.
    InterruptCoalescing = 0x08,
    /// Interrupt Vector Configuration.
    InterruptVector = 0x09,
    /// Write Atomicity Normal.
    WriteAtomicity = 0x0A,
    /// Asynchronous Event Configuration.
    AsyncEventConfiguration = 0x0B,
    /// Keep Alive Timer.
    KeepAliveTimer = 0x0F,
    /// Host Behavior Support.
    HostBehavior = 0x16,
    /// I/O Command Set Profile.
    CommandSetProfile = 0x19,
    /// Host Identifier.
    HostIdentifier = 0x81,
    /// Reservation Notification Mask.
    ReservationMask = 0x82,
    /// Reservation Persistence.
    ReservationPersistence = 0x83,
    /// Namespace Write Protection Configuration.
    WriteProtection = 0x84,
}

/// Dword 10 of Get Features and Set Features.
#[bitfield(u32)]
pub struct FeatureDword10 {
    /// [`Feature`].
    pub feature: u8,
    /// SEL of Get Features: one of the `SELECT_` constants.
    #[bits(3)]
    pub select: u8,
    #[bits(20)]
    __: u32,
    /// SV of Set Features: keep over resets and power cycles.
    pub save: bool,
}

/// [`FeatureDword10::select`]: the present value.
pub const SELECT_CURRENT: u8 = 0;
/// [`FeatureDword10::select`]: the value after a reset.
pub const SELECT_DEFAULT: u8 = 1;
/// [`FeatureDword10::select`]: the saved value.
pub const SELECT_SAVED: u8 = 2;
/// [`FeatureDword10::select`]: what can be done with it, as [`FeatureCapabilities`].
pub const SELECT_CAPABILITIES: u8 = 3;

/// Answer to [`SELECT_CAPABILITIES`].
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct FeatureCapabilities {
    /// It can be saved.
    pub saveable: bool,
    /// It is a namespace's.
    pub namespace_specific: bool,
    /// It can be changed.
    pub changeable: bool,
    #[bits(29)]
    __: u32,
}

/// Dword 11 of Number of Queues, and dword 0 of its completion.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct NumberOfQueues {
    /// I/O submission queues, 0-based.
    pub submission_z: u16,
    /// I/O completion queues, 0-based.
    pub completion_z: u16,
}

/// Dword 11 of Namespace Write Protection Configuration, and dword 0 of its completion.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct WriteProtection {
    /// WPS: one of the `WRITE_PROTECTION_` constants.
    #[bits(3)]
    pub state: u8,
    #[bits(29)]
    __: u32,
}

/// [`WriteProtection::state`]: not protected.
pub const WRITE_PROTECTION_OFF: u8 = 0;
/// [`WriteProtection::state`]: protected, over resets and power cycles.
pub const WRITE_PROTECTION_ON: u8 = 1;

/// Dword 11 of Temperature Threshold.
#[bitfield(u32)]
pub struct TemperatureThreshold {
    /// TMPTH in K.
    pub threshold: u16,
    /// TMPSEL: 0 composite, 1 to 8 a sensor, Fh all.
    #[bits(4)]
    pub sensor: u8,
    /// THSEL: 0 over, 1 under.
    #[bits(2)]
    pub kind: u8,
    #[bits(10)]
    __: u16,
}

/// Dword 11 of Error Recovery.
#[bitfield(u32)]
pub struct ErrorRecovery {
    /// TLER: time limit of retries in 100 ms.
    pub time_limit: u16,
    /// DULBE: reading deallocated blocks is an error.
    pub deallocated_error: bool,
    #[bits(15)]
    __: u16,
}

/// Bytes of the data of Host Behavior Support.
pub const HOST_BEHAVIOR_SIZE: usize = 512;

/// Dword 11 of Host Identifier: 128 bits wide.
pub const HOST_ID_EXTENDED: u32 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_lie_where_the_specification_puts_them() {
        assert_eq!(u32::from(FeatureDword10::new().with_save(true)), 1 << 31);
        assert_eq!(u32::from(FeatureDword10::new().with_select(3)), 3 << 8);
        assert_eq!(u32::from(NumberOfQueues::new().with_completion_z(1)), 1 << 16);
        assert_eq!(u32::from(TemperatureThreshold::new().with_kind(1)), 1 << 20);
    }
}
