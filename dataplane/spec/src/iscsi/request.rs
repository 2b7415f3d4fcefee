//! Headers that initiators send in full-feature phase.

use super::{BHS_LEN, U24};
use bitfield_struct::bitfield;
use open_enum::open_enum;
use zerocopy::big_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Flags of a SCSI Command.
#[bitfield(u8)]
#[derive(PartialEq, Eq)]
pub struct ScsiCommandFlags {
    /// Task attribute: 0 untagged, 1 simple, 2 ordered, 3 head of queue, 4 ACA.
    #[bits(3)]
    pub attribute: u8,
    #[bits(2)]
    __: u8,
    /// W: data go to the target.
    pub write: bool,
    /// R: data come from the target.
    pub read: bool,
    /// F: no unsolicited Data-Out follow.
    pub is_final: bool,
}

/// SCSI Command (section 11.3).
#[repr(C)]
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
pub struct ScsiCommand {
    /// As [`super::OpcodeByte`].
    pub opcode: u8,
    /// As [`ScsiCommandFlags`].
    pub flags: u8,
    /// Reserved.
    pub reserved: [u8; 2],
    /// As [`super::Bhs::ahs_words`].
    pub ahs_words: u8,
    /// Immediate data in bytes.
    pub data_len: U24,
    /// Logical unit.
    pub lun: [u8; 8],
    /// Initiator Task Tag.
    pub task_tag: U32,
    /// Expected Data Transfer Length in bytes.
    pub transfer_len: U32,
    /// CmdSN.
    pub command_sn: U32,
    /// ExpStatSN.
    pub expected_status_sn: U32,
    /// The first 16 bytes of the command.
    pub cdb: [u8; 16],
}
const _: () = assert!(size_of::<ScsiCommand>() == BHS_LEN);

/// SCSI Data-Out (section 11.7).
#[repr(C)]
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
pub struct DataOut {
    /// As [`super::OpcodeByte`].
    pub opcode: u8,
    /// [`super::FINAL`] or 0.
    pub flags: u8,
    /// Reserved.
    pub reserved: [u8; 2],
    /// As [`super::Bhs::ahs_words`].
    pub ahs_words: u8,
    /// Data in bytes.
    pub data_len: U24,
    /// Logical unit, of data that were asked for.
    pub lun: [u8; 8],
    /// Initiator Task Tag of the command.
    pub task_tag: U32,
    /// Target Transfer Tag of the R2T; [`super::TAG_NONE`] for unsolicited data.
    pub transfer_tag: U32,
    /// Reserved.
    pub reserved2: U32,
    /// ExpStatSN.
    pub expected_status_sn: U32,
    /// Reserved.
    pub reserved3: U32,
    /// Number of this PDU in its sequence, from 0.
    pub data_sn: U32,
    /// Where in the command's data these begin.
    pub buffer_offset: U32,
    /// Reserved.
    pub reserved4: U32,
}
const _: () = assert!(size_of::<DataOut>() == BHS_LEN);

/// Task management functions (section 11.5.1, RFC 7144 section 7.1).
#[open_enum]
#[repr(u8)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TaskFunction {
    /// Abort one task.
    AbortTask = 1,
    /// Abort this session's tasks of a logical unit.
    AbortTaskSet = 2,
    /// Clear an auto contingent allegiance.
    ClearAca = 3,
    /// Abort everybody's tasks of a logical unit.
    ClearTaskSet = 4,
    /// Reset a logical unit.
    LogicalUnitReset = 5,
    /// Reset all logical units.
    TargetWarmReset = 6,
    /// The same, and end all sessions.
    TargetColdReset = 7,
    /// Move a task to this connection.
    TaskReassign = 8,
    /// Whether a task is there.
    QueryTask = 9,
    /// Whether this session has tasks of a logical unit.
    QueryTaskSet = 10,
    /// Abort all tasks of this session.
    ItNexusReset = 11,
    /// Whether a unit attention is pending.
    QueryAsynchronousEvent = 12,
}

/// Task Management Function Request (section 11.5).
#[repr(C)]
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
pub struct TaskManagementRequest {
    /// As [`super::OpcodeByte`].
    pub opcode: u8,
    /// [`super::FINAL`] and a [`TaskFunction`].
    pub function: u8,
    /// Reserved.
    pub reserved: [u8; 2],
    /// 0.
    pub ahs_words: u8,
    /// 0.
    pub data_len: U24,
    /// Logical unit.
    pub lun: [u8; 8],
    /// Initiator Task Tag of this request.
    pub task_tag: U32,
    /// That of the task concerned.
    pub referenced_tag: U32,
    /// CmdSN.
    pub command_sn: U32,
    /// ExpStatSN.
    pub expected_status_sn: U32,
    /// CmdSN of the task concerned.
    pub referenced_sn: U32,
    /// ExpDataSN.
    pub expected_data_sn: U32,
    /// Reserved.
    pub reserved2: [u8; 8],
}
const _: () = assert!(size_of::<TaskManagementRequest>() == BHS_LEN);

/// Text Request (section 11.10).
#[repr(C)]
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
pub struct TextRequest {
    /// As [`super::OpcodeByte`].
    pub opcode: u8,
    /// [`super::FINAL`], [`super::CONTINUE`].
    pub flags: u8,
    /// Reserved.
    pub reserved: [u8; 2],
    /// 0.
    pub ahs_words: u8,
    /// Text in bytes.
    pub data_len: U24,
    /// As in the response that is continued.
    pub lun: [u8; 8],
    /// Initiator Task Tag.
    pub task_tag: U32,
    /// Target Transfer Tag of the response that is continued, or [`super::TAG_NONE`].
    pub transfer_tag: U32,
    /// CmdSN.
    pub command_sn: U32,
    /// ExpStatSN.
    pub expected_status_sn: U32,
    /// Reserved.
    pub reserved2: [u8; 16],
}
const _: () = assert!(size_of::<TextRequest>() == BHS_LEN);

/// Logout Request (section 11.14).
#[repr(C)]
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
pub struct LogoutRequest {
    /// As [`super::OpcodeByte`].
    pub opcode: u8,
    /// [`super::FINAL`] and in bits 6 to 0 the reason: 0 closes the session, 1 the connection, 2
    /// removes a connection for recovery.
    pub reason: u8,
    /// Reserved.
    pub reserved: [u8; 2],
    /// 0.
    pub ahs_words: u8,
    /// 0.
    pub data_len: U24,
    /// Reserved.
    pub reserved2: [u8; 8],
    /// Initiator Task Tag.
    pub task_tag: U32,
    /// The connection to close.
    pub connection_id: U16,
    /// Reserved.
    pub reserved3: U16,
    /// CmdSN.
    pub command_sn: U32,
    /// ExpStatSN.
    pub expected_status_sn: U32,
    /// Reserved.
    pub reserved4: [u8; 16],
}
const _: () = assert!(size_of::<LogoutRequest>() == BHS_LEN);

/// NOP-Out (section 11.18).
#[repr(C)]
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
pub struct NopOut {
    /// As [`super::OpcodeByte`].
    pub opcode: u8,
    /// [`super::FINAL`].
    pub flags: u8,
    /// Reserved.
    pub reserved: [u8; 2],
    /// 0.
    pub ahs_words: u8,
    /// Ping data in bytes.
    pub data_len: U24,
    /// As in the NOP-In that this answers.
    pub lun: [u8; 8],
    /// [`super::TAG_NONE`] where no answer is wanted.
    pub task_tag: U32,
    /// That of the NOP-In that this answers, or [`super::TAG_NONE`].
    pub transfer_tag: U32,
    /// CmdSN.
    pub command_sn: U32,
    /// ExpStatSN.
    pub expected_status_sn: U32,
    /// Reserved.
    pub reserved2: [u8; 16],
}
const _: () = assert!(size_of::<NopOut>() == BHS_LEN);
