//! Headers that targets send in full-feature phase.

use super::{BHS_LEN, U24};
use bitfield_struct::bitfield;
use open_enum::open_enum;
use zerocopy::big_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Flags that say how far a residual goes, of SCSI Response and (the lower three) Data-In.
#[bitfield(u8)]
#[derive(PartialEq, Eq)]
pub struct ResidualFlags {
    /// S (Data-In): status and residual are valid, no SCSI Response follows.
    pub status: bool,
    /// U: fewer bytes moved than expected.
    pub underflow: bool,
    /// O: more bytes would have moved than expected.
    pub overflow: bool,
    /// u (SCSI Response): as U, of the data to the initiator of a bidirectional command.
    pub read_underflow: bool,
    /// o (SCSI Response): as O, of those.
    pub read_overflow: bool,
    #[bits(2)]
    __: u8,
    /// F (Data-In): last of its sequence. Always set in a SCSI Response.
    pub is_final: bool,
}

/// SCSI Response (section 11.4).
#[repr(C)]
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
pub struct ScsiResponse {
    /// [`super::Opcode::ScsiResponse`].
    pub opcode: u8,
    /// As [`ResidualFlags`].
    pub flags: u8,
    /// 0: completed; 1: target failure.
    pub response: u8,
    /// SCSI status.
    pub status: u8,
    /// 0.
    pub ahs_words: u8,
    /// Length of the sense data with their length field.
    pub data_len: U24,
    /// Reserved.
    pub reserved: [u8; 8],
    /// Initiator Task Tag.
    pub task_tag: U32,
    /// SNACK tag: 0.
    pub snack_tag: U32,
    /// StatSN.
    pub status_sn: U32,
    /// ExpCmdSN.
    pub expected_command_sn: U32,
    /// MaxCmdSN.
    pub command_sn_max: U32,
    /// R2T and Data-In PDUs that were sent for the command.
    pub expected_data_sn: U32,
    /// Residual of the data to the initiator of a bidirectional command.
    pub read_residual: U32,
    /// Residual in bytes.
    pub residual: U32,
}
const _: () = assert!(size_of::<ScsiResponse>() == BHS_LEN);

/// SCSI Data-In (section 11.7).
#[repr(C)]
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
pub struct DataIn {
    /// [`super::Opcode::DataIn`].
    pub opcode: u8,
    /// As [`ResidualFlags`].
    pub flags: u8,
    /// Reserved.
    pub reserved: u8,
    /// SCSI status, if valid.
    pub status: u8,
    /// 0.
    pub ahs_words: u8,
    /// Data in bytes.
    pub data_len: U24,
    /// Reserved.
    pub lun: [u8; 8],
    /// Initiator Task Tag.
    pub task_tag: U32,
    /// [`super::TAG_NONE`].
    pub transfer_tag: U32,
    /// StatSN, if the status is valid.
    pub status_sn: U32,
    /// ExpCmdSN.
    pub expected_command_sn: U32,
    /// MaxCmdSN.
    pub command_sn_max: U32,
    /// Number of this PDU among those of the command.
    pub data_sn: U32,
    /// Where in the command's data these begin.
    pub buffer_offset: U32,
    /// Residual in bytes, if the status is valid.
    pub residual: U32,
}
const _: () = assert!(size_of::<DataIn>() == BHS_LEN);

/// Ready To Transfer (section 11.8).
#[repr(C)]
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
pub struct R2t {
    /// [`super::Opcode::R2t`].
    pub opcode: u8,
    /// [`super::FINAL`].
    pub flags: u8,
    /// Reserved.
    pub reserved: [u8; 2],
    /// 0.
    pub ahs_words: u8,
    /// 0.
    pub data_len: U24,
    /// Logical unit.
    pub lun: [u8; 8],
    /// Initiator Task Tag.
    pub task_tag: U32,
    /// What the data asked for are to carry.
    pub transfer_tag: U32,
    /// The next StatSN.
    pub status_sn: U32,
    /// ExpCmdSN.
    pub expected_command_sn: U32,
    /// MaxCmdSN.
    pub command_sn_max: U32,
    /// Number of this R2T among those of the command.
    pub r2t_sn: U32,
    /// Where in the command's data those asked for begin.
    pub buffer_offset: U32,
    /// How many bytes are asked for.
    pub desired_len: U32,
}
const _: () = assert!(size_of::<R2t>() == BHS_LEN);

/// Outcomes of task management (section 11.6.1, RFC 7144 section 7.2).
#[open_enum]
#[repr(u8)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TaskResponse {
    /// Done.
    FunctionComplete = 0,
    /// There is no such task.
    TaskDoesNotExist = 1,
    /// There is no such logical unit.
    LunDoesNotExist = 2,
    /// The task is still allegiant.
    TaskStillAllegiant = 3,
    /// Tasks cannot be moved.
    ReassignNotSupported = 4,
    /// No such function here.
    NotSupported = 5,
    /// Not allowed.
    AuthorizationFailed = 6,
    /// Done, and what was asked about is so.
    FunctionSucceeded = 7,
    /// Refused.
    Rejected = 255,
}

/// Task Management Function Response (section 11.6).
#[repr(C)]
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
pub struct TaskManagementResponse {
    /// [`super::Opcode::TaskManagementResponse`].
    pub opcode: u8,
    /// [`super::FINAL`].
    pub flags: u8,
    /// A [`TaskResponse`].
    pub response: u8,
    /// Reserved.
    pub reserved: u8,
    /// 0.
    pub ahs_words: u8,
    /// 0.
    pub data_len: U24,
    /// Reserved.
    pub reserved2: [u8; 8],
    /// Initiator Task Tag of the request.
    pub task_tag: U32,
    /// Additional information of Query Asynchronous Event.
    pub information: U32,
    /// StatSN.
    pub status_sn: U32,
    /// ExpCmdSN.
    pub expected_command_sn: U32,
    /// MaxCmdSN.
    pub command_sn_max: U32,
    /// Reserved.
    pub reserved3: [u8; 12],
}
const _: () = assert!(size_of::<TaskManagementResponse>() == BHS_LEN);

/// Text Response (section 11.11).
#[repr(C)]
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
pub struct TextResponse {
    /// [`super::Opcode::TextResponse`].
    pub opcode: u8,
    /// [`super::FINAL`], [`super::CONTINUE`].
    pub flags: u8,
    /// Reserved.
    pub reserved: [u8; 2],
    /// 0.
    pub ahs_words: u8,
    /// Text in bytes.
    pub data_len: U24,
    /// Of the target's choice; comes back with the transfer tag.
    pub lun: [u8; 8],
    /// Initiator Task Tag.
    pub task_tag: U32,
    /// [`super::TAG_NONE`] in the last response.
    pub transfer_tag: U32,
    /// StatSN.
    pub status_sn: U32,
    /// ExpCmdSN.
    pub expected_command_sn: U32,
    /// MaxCmdSN.
    pub command_sn_max: U32,
    /// Reserved.
    pub reserved2: [u8; 12],
}
const _: () = assert!(size_of::<TextResponse>() == BHS_LEN);

/// Logout Response (section 11.15).
#[repr(C)]
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
pub struct LogoutResponse {
    /// [`super::Opcode::LogoutResponse`].
    pub opcode: u8,
    /// [`super::FINAL`].
    pub flags: u8,
    /// 0 closed, 1 no such connection, 2 recovery not supported, 3 clean-up failed.
    pub response: u8,
    /// Reserved.
    pub reserved: u8,
    /// 0.
    pub ahs_words: u8,
    /// 0.
    pub data_len: U24,
    /// Reserved.
    pub reserved2: [u8; 8],
    /// Initiator Task Tag.
    pub task_tag: U32,
    /// Reserved.
    pub reserved3: U32,
    /// StatSN.
    pub status_sn: U32,
    /// ExpCmdSN.
    pub expected_command_sn: U32,
    /// MaxCmdSN.
    pub command_sn_max: U32,
    /// Reserved.
    pub reserved4: U32,
    /// Seconds to wait before another login.
    pub time_to_wait: U16,
    /// Seconds that tasks are kept.
    pub time_to_retain: U16,
    /// Reserved.
    pub reserved5: U32,
}
const _: () = assert!(size_of::<LogoutResponse>() == BHS_LEN);

/// Asynchronous events (section 11.9.1).
#[open_enum]
#[repr(u8)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AsyncEvent {
    /// Sense data of a logical unit.
    Scsi = 0,
    /// The initiator is to log out within as many seconds as the third parameter says.
    RequestLogout = 1,
    /// The target drops a connection.
    DropConnection = 2,
    /// The target drops all connections of the session.
    DropSession = 3,
    /// Parameters are to be negotiated again.
    Renegotiate = 4,
    /// All tasks of a logical unit have been ended.
    TasksTerminated = 5,
}

/// Asynchronous Message (section 11.9).
#[repr(C)]
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
pub struct AsyncMessage {
    /// [`super::Opcode::AsyncMessage`].
    pub opcode: u8,
    /// [`super::FINAL`].
    pub flags: u8,
    /// Reserved.
    pub reserved: [u8; 2],
    /// 0.
    pub ahs_words: u8,
    /// Length of the sense data with their length field.
    pub data_len: U24,
    /// Logical unit.
    pub lun: [u8; 8],
    /// [`super::TAG_NONE`].
    pub task_tag: U32,
    /// Reserved.
    pub reserved2: U32,
    /// StatSN.
    pub status_sn: U32,
    /// ExpCmdSN.
    pub expected_command_sn: U32,
    /// MaxCmdSN.
    pub command_sn_max: U32,
    /// An [`AsyncEvent`].
    pub event: u8,
    /// Vendor code.
    pub vendor_code: u8,
    /// Depend on the event.
    pub parameters: [U16; 3],
    /// Reserved.
    pub reserved3: U32,
}
const _: () = assert!(size_of::<AsyncMessage>() == BHS_LEN);

/// Reject (section 11.17); the header of the rejected PDU is its data.
#[repr(C)]
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
pub struct Reject {
    /// [`super::Opcode::Reject`].
    pub opcode: u8,
    /// [`super::FINAL`].
    pub flags: u8,
    /// A [`super::RejectReason`].
    pub reason: u8,
    /// Reserved.
    pub reserved: u8,
    /// 0.
    pub ahs_words: u8,
    /// Length of the header that is returned.
    pub data_len: U24,
    /// Reserved.
    pub reserved2: [u8; 8],
    /// [`super::TAG_NONE`].
    pub task_tag: U32,
    /// Reserved.
    pub reserved3: U32,
    /// StatSN.
    pub status_sn: U32,
    /// ExpCmdSN.
    pub expected_command_sn: U32,
    /// MaxCmdSN.
    pub command_sn_max: U32,
    /// DataSN or R2TSN, where it applies.
    pub data_sn: U32,
    /// Reserved.
    pub reserved4: [u8; 8],
}
const _: () = assert!(size_of::<Reject>() == BHS_LEN);

/// NOP-In (section 11.19).
#[repr(C)]
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
pub struct NopIn {
    /// [`super::Opcode::NopIn`].
    pub opcode: u8,
    /// [`super::FINAL`].
    pub flags: u8,
    /// Reserved.
    pub reserved: [u8; 2],
    /// 0.
    pub ahs_words: u8,
    /// Ping data in bytes.
    pub data_len: U24,
    /// Logical unit, with a transfer tag.
    pub lun: [u8; 8],
    /// That of the NOP-Out that this answers, or [`super::TAG_NONE`].
    pub task_tag: U32,
    /// What the answer is to carry, or [`super::TAG_NONE`] where none is wanted.
    pub transfer_tag: U32,
    /// StatSN; the next one where this answers nothing.
    pub status_sn: U32,
    /// ExpCmdSN.
    pub expected_command_sn: U32,
    /// MaxCmdSN.
    pub command_sn_max: U32,
    /// Reserved.
    pub reserved2: [u8; 12],
}
const _: () = assert!(size_of::<NopIn>() == BHS_LEN);
