//! Headers of iSCSI protocol data units, and the codes in them (RFC 7143, section 11).

mod login;
mod request;
mod response;

pub use login::{LoginFlags, LoginRequest, LoginResponse, LoginStatus, Stage};
pub use request::{
    DataOut, LogoutRequest, NopOut, ScsiCommand, ScsiCommandFlags, TaskFunction,
    TaskManagementRequest, TextRequest,
};
pub use response::{
    AsyncEvent, AsyncMessage, DataIn, LogoutResponse, NopIn, R2t, Reject, ResidualFlags,
    ScsiResponse, TaskManagementResponse, TaskResponse, TextResponse,
};

use bitfield_struct::bitfield;
use open_enum::open_enum;
use zerocopy::big_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Bytes in a basic header segment.
pub const BHS_LEN: usize = 48;
/// Bytes in a digest.
pub const DIGEST_LEN: usize = 4;
/// Segments are padded to a multiple of this.
pub const PAD: usize = 4;
/// Most bytes of additional header segments: 255 words.
pub const AHS_MAX: usize = 255 * 4;
/// Version of the protocol: the only one.
pub const VERSION: u8 = 0;
/// Tag that names nothing.
pub const TAG_NONE: u32 = u32::MAX;
/// Set in the first flags byte of PDUs that end a sequence.
pub const FINAL: u8 = 0x80;
/// Text continues in the next PDU (byte 1 of text PDUs).
pub const CONTINUE: u8 = 0x40;
/// Longest name of an initiator or target in bytes (RFC 7143, section 4.2.7.1).
pub const NAME_MAX: usize = 223;
/// Longest name of a key (section 6.1).
pub const KEY_MAX: usize = 63;
/// Longest value unless its key says otherwise (section 6.1).
pub const VALUE_MAX: usize = 255;

/// Opcodes, in bits 5 to 0 of the first byte.
#[open_enum]
#[repr(u8)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Opcode {
    /// NOP-Out.
    NopOut = 0x00,
    /// SCSI Command.
    ScsiCommand = 0x01,
    /// Task Management Function Request.
    TaskManagementRequest = 0x02,
    /// Login Request.
    LoginRequest = 0x03,
    /// Text Request.
    TextRequest = 0x04,
    /// SCSI Data-Out.
    DataOut = 0x05,
    /// Logout Request.
    LogoutRequest = 0x06,
    /// SNACK Request.
    Snack = 0x10,
    /// NOP-In.
    NopIn = 0x20,
    /// SCSI Response.
    ScsiResponse = 0x21,
    /// Task Management Function Response.
    TaskManagementResponse = 0x22,
    /// Login Response.
    LoginResponse = 0x23,
    /// Text Response.
    TextResponse = 0x24,
    /// SCSI Data-In.
    DataIn = 0x25,
    /// Logout Response.
    LogoutResponse = 0x26,
    /// Ready To Transfer.
    R2t = 0x31,
    /// Asynchronous Message.
    AsyncMessage = 0x32,
    /// Reject.
    Reject = 0x3F,
}

/// First byte of a request.
#[bitfield(u8)]
#[derive(PartialEq, Eq)]
pub struct OpcodeByte {
    /// An [`Opcode`].
    #[bits(6)]
    pub opcode: u8,
    /// I: to be executed at once, and not numbered.
    pub immediate: bool,
    #[bits(1)]
    __: u8,
}

/// What all headers have in common (section 11.2.1).
#[repr(C)]
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
pub struct Bhs {
    /// As [`OpcodeByte`].
    pub opcode: u8,
    /// Flags of the PDU's own.
    pub flags: u8,
    /// Of the PDU's own.
    pub specific: [u8; 2],
    /// Length of the additional header segments in words of 4 bytes.
    pub ahs_words: u8,
    /// Length of the data segment in bytes, without padding.
    pub data_len: U24,
    /// Logical unit, or of the PDU's own.
    pub lun: [u8; 8],
    /// Initiator Task Tag.
    pub task_tag: U32,
    /// Of the PDU's own.
    pub rest: [u8; 28],
}
const _: () = assert!(size_of::<Bhs>() == BHS_LEN);

impl Bhs {
    /// The opcode, without the immediate bit.
    #[must_use]
    pub fn opcode(&self) -> Opcode {
        Opcode(OpcodeByte::from(self.opcode).opcode())
    }

    /// Whether it is an immediate request.
    #[must_use]
    pub fn is_immediate(&self) -> bool {
        OpcodeByte::from(self.opcode).immediate()
    }
}

/// A number of three bytes.
#[repr(transparent)]
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
pub struct U24([u8; 3]);

impl U24 {
    /// Largest value.
    pub const MAX: u32 = (1 << 24) - 1;

    /// Of a number below 2^24; higher bits are lost.
    #[must_use]
    pub const fn new(value: u32) -> Self {
        let [_, a, b, c] = value.to_be_bytes();
        Self([a, b, c])
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u32 {
        let [a, b, c] = self.0;
        u32::from_be_bytes([0, a, b, c])
    }
}

/// Types of additional header segments (section 11.2.2).
#[open_enum]
#[repr(u8)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AhsType {
    /// Bytes of a CDB beyond the sixteenth.
    ExtendedCdb = 1,
    /// Expected length of the data to the initiator of a command that moves data both ways.
    BidirectionalReadLength = 2,
}

/// Why a PDU was rejected (section 11.17.1).
#[open_enum]
#[repr(u8)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RejectReason {
    /// Data digest wrong; the data were thrown away.
    DataDigest = 0x02,
    /// SNACK refused.
    Snack = 0x03,
    /// Against the protocol.
    Protocol = 0x04,
    /// No such PDU here.
    NotSupported = 0x05,
    /// Too many immediate commands.
    TooManyImmediate = 0x06,
    /// The task is still under way.
    TaskInProgress = 0x07,
    /// Data acknowledgement refused.
    DataAck = 0x08,
    /// A field has a value that it must not have.
    InvalidField = 0x09,
    /// No resources now.
    OutOfResources = 0x0A,
    /// Waiting for a logout.
    WaitingForLogout = 0x0C,
}

/// Serial-number comparison (RFC 1982): whether `a` comes before `b`.
#[must_use]
pub const fn serial_lt(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) < 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::mem::offset_of;

    #[test]
    fn fields_are_where_the_standard_has_them() {
        assert_eq!(offset_of!(Bhs, ahs_words), 4);
        assert_eq!(offset_of!(Bhs, data_len), 5);
        assert_eq!(offset_of!(Bhs, lun), 8);
        assert_eq!(offset_of!(Bhs, task_tag), 16);
        assert_eq!(offset_of!(ScsiCommand, transfer_len), 20);
        assert_eq!(offset_of!(ScsiCommand, command_sn), 24);
        assert_eq!(offset_of!(ScsiCommand, cdb), 32);
        assert_eq!(offset_of!(DataOut, data_sn), 36);
        assert_eq!(offset_of!(DataOut, buffer_offset), 40);
        assert_eq!(offset_of!(TaskManagementRequest, referenced_sn), 32);
        assert_eq!(offset_of!(LoginRequest, isid), 8);
        assert_eq!(offset_of!(LoginRequest, tsih), 14);
        assert_eq!(offset_of!(LoginRequest, connection_id), 20);
        assert_eq!(offset_of!(LoginResponse, status_sn), 24);
        assert_eq!(offset_of!(LoginResponse, status), 36);
        assert_eq!(offset_of!(ScsiResponse, expected_data_sn), 36);
        assert_eq!(offset_of!(ScsiResponse, residual), 44);
        assert_eq!(offset_of!(DataIn, data_sn), 36);
        assert_eq!(offset_of!(DataIn, residual), 44);
        assert_eq!(offset_of!(R2t, r2t_sn), 36);
        assert_eq!(offset_of!(R2t, desired_len), 44);
        assert_eq!(offset_of!(AsyncMessage, event), 36);
        assert_eq!(offset_of!(AsyncMessage, parameters), 38);
        assert_eq!(offset_of!(LogoutResponse, time_to_wait), 40);
        assert_eq!(offset_of!(Reject, data_sn), 36);
    }

    #[test]
    fn bits_are_where_the_standard_has_them() {
        assert_eq!(OpcodeByte::new().with_opcode(3).with_immediate(true).into_bits(), 0x43);
        let flags = ScsiCommandFlags::new().with_read(true).with_is_final(true);
        assert_eq!(flags.into_bits(), 0xC0);
        assert_eq!(ScsiCommandFlags::new().with_write(true).into_bits(), 0x20);
        let flags = LoginFlags::new().with_transit(true).with_current(1).with_next(3);
        assert_eq!(flags.into_bits(), 0x87);
        assert_eq!(ResidualFlags::new().with_underflow(true).into_bits(), 0x02);
        assert_eq!(ResidualFlags::new().with_overflow(true).into_bits(), 0x04);
        assert_eq!(U24::new(0x0001_0203).as_bytes(), &[1, 2, 3]);
        assert_eq!(U24::new(U24::MAX).get(), U24::MAX);
    }

    #[test]
    fn serial_numbers_wrap() {
        assert!(serial_lt(1, 2) && !serial_lt(2, 1) && !serial_lt(2, 2));
        assert!(serial_lt(u32::MAX, 0) && !serial_lt(0, u32::MAX));
    }
}
