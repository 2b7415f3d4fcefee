//! SCSI: commands, statuses, sense data and parameter data (SAM-5, SPC-4, SBC-3; what is of a later
//! edition says so). All numbers are big-endian.

pub mod cdb;
mod code;
pub mod inquiry;
pub mod parameter;
pub mod sense;

pub use code::{Opcode, Status};

/// Service action of [`Opcode::ServiceActionIn16`]: READ CAPACITY (16).
pub const READ_CAPACITY_16: u8 = 0x10;
/// Service action of [`Opcode::ServiceActionIn16`]: GET LBA STATUS.
pub const GET_LBA_STATUS: u8 = 0x12;
/// Service action of [`Opcode::MaintenanceIn`]: REPORT TARGET PORT GROUPS.
pub const REPORT_TARGET_PORT_GROUPS: u8 = 0x0A;
/// Service action of [`Opcode::MaintenanceIn`]: REPORT SUPPORTED OPERATION CODES.
pub const REPORT_SUPPORTED_OPCODES: u8 = 0x0C;
/// Service action of [`Opcode::MaintenanceIn`]: REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS.
pub const REPORT_SUPPORTED_TMFS: u8 = 0x0D;
/// Service action of [`Opcode::MaintenanceOut`]: SET TARGET PORT GROUPS.
pub const SET_TARGET_PORT_GROUPS: u8 = 0x0A;
/// Service action of [`Opcode::ThirdPartyCopyOut`]: EXTENDED COPY (LID1).
pub const EXTENDED_COPY_LID1: u8 = 0x00;
/// Service action of [`Opcode::ThirdPartyCopyIn`]: RECEIVE COPY STATUS (LID1).
pub const COPY_STATUS_LID1: u8 = 0x00;
/// Service action of [`Opcode::ThirdPartyCopyIn`]: RECEIVE COPY DATA (LID1).
pub const COPY_DATA_LID1: u8 = 0x01;
/// Service action of [`Opcode::ThirdPartyCopyIn`]: RECEIVE COPY OPERATING PARAMETERS.
pub const COPY_OPERATING_PARAMETERS: u8 = 0x03;
/// Service action of [`Opcode::ThirdPartyCopyIn`]: RECEIVE COPY FAILURE DETAILS (LID1).
pub const COPY_FAILURE_DETAILS_LID1: u8 = 0x04;
/// Service action of [`Opcode::Sanitize`]: OVERWRITE.
pub const SANITIZE_OVERWRITE: u8 = 0x01;
/// Service action of [`Opcode::Sanitize`]: BLOCK ERASE.
pub const SANITIZE_BLOCK_ERASE: u8 = 0x02;
/// Service action of [`Opcode::Sanitize`]: EXIT FAILURE MODE.
pub const SANITIZE_EXIT_FAILURE_MODE: u8 = 0x1F;
