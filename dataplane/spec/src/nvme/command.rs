//! Submission and completion queue entries, and the commands of the NVM command set.

use super::status::Status;
use bitfield_struct::bitfield;
use open_enum::open_enum;
use zerocopy::big_endian;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Submission queue entry (section 3.3.3.1).
#[repr(C)]
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
pub struct Command {
    /// Opcode: a [`NvmOpcode`] on I/O queues, an [`AdminOpcode`] on the admin queue, 7Fh for
    /// Fabrics on both.
    pub opcode: u8,
    /// Fused operation and kind of data pointer, as [`CommandFlags`].
    pub flags: u8,
    /// Command identifier, unique among those outstanding on the queue.
    pub command_id: U16,
    /// Namespace identifier; for Fabrics its first byte is the command type.
    pub namespace_id: U32,
    /// Command dwords 2 and 3.
    pub dwords_2_3: [U32; 2],
    /// Metadata pointer.
    pub metadata: U64,
    /// Where the data are.
    pub sgl: SglDescriptor,
    /// Command dwords 10 to 15.
    pub dwords: [U32; 6],
}
const _: () = assert!(size_of::<Command>() == 64);

impl Command {
    /// Command dword `number`, 10 to 15.
    #[must_use]
    pub fn dword(&self, number: usize) -> u32 {
        self.dwords[number - 10].get()
    }

    /// Dwords 10 and 11 as one number: the starting LBA of I/O commands.
    #[must_use]
    pub fn lba(&self) -> u64 {
        u64::from(self.dword(10)) | u64::from(self.dword(11)) << 32
    }

    /// Byte 1.
    #[must_use]
    pub fn command_flags(&self) -> CommandFlags {
        CommandFlags::from(self.flags)
    }

    /// Which way the data go, by the two low bits of the opcode, or of the command type for
    /// Fabrics.
    #[must_use]
    pub fn direction(&self) -> Direction {
        let of = match self.opcode {
            FABRICS_OPCODE => self.namespace_id.get() as u8,
            opcode => opcode,
        };
        match of & 0b11 {
            0b00 => Direction::None,
            0b01 => Direction::HostToController,
            0b10 => Direction::ControllerToHost,
            _ => Direction::Both,
        }
    }
}

/// Opcode of every Fabrics command.
pub const FABRICS_OPCODE: u8 = 0x7F;

/// Byte 1 of a command.
#[bitfield(u8)]
#[derive(PartialEq, Eq)]
pub struct CommandFlags {
    /// Fused operation: 0 none, 1 first, 2 second, 3 reserved.
    #[bits(2)]
    pub fuse: u8,
    #[bits(4)]
    __: u8,
    /// PRP or SGL for Data Transfer: must be [`PSDT_SGL`] on fabrics.
    #[bits(2)]
    pub psdt: u8,
}

/// [`CommandFlags::fuse`] of a command that stands alone.
pub const FUSE_NONE: u8 = 0;
/// [`CommandFlags::fuse`] of the first of a pair.
pub const FUSE_FIRST: u8 = 1;
/// [`CommandFlags::fuse`] of the second of a pair.
pub const FUSE_SECOND: u8 = 2;
/// [`CommandFlags::psdt`] that says SGL, the metadata pointer being an address.
pub const PSDT_SGL: u8 = 1;

/// [`CommandFlags::psdt`] that says PRP.
pub const PSDT_PRP: u8 = 0;

/// Which way a command's data go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// No data.
    None,
    /// A write.
    HostToController,
    /// A read.
    ControllerToHost,
    /// Both ways; no command that exists.
    Both,
}

/// SGL descriptor (section 4.3.2).
#[repr(C)]
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
pub struct SglDescriptor {
    /// Address, or for in-capsule data the offset into the capsule's data.
    pub address: U64,
    /// Bytes.
    pub length: U32,
    /// Reserved.
    pub reserved: [u8; 3],
    /// Type in bits 7:4, subtype in 3:0; one of the `SGL_` constants for TCP.
    pub identifier: u8,
}
const _: () = assert!(size_of::<SglDescriptor>() == 16);

/// Data block by offset (type 0h, subtype 1h): in-capsule data.
pub const SGL_IN_CAPSULE: u8 = 0x01;
/// Transport data block (type 5h, subtype Ah): data moved by the transport.
pub const SGL_TRANSPORT: u8 = 0x5A;

/// Data block at an address (type 0h, subtype 0h).
pub const SGL_DATA_BLOCK: u8 = 0x00;
/// Last segment of a list at an address (type 3h, subtype 0h).
pub const SGL_LAST_SEGMENT: u8 = 0x30;

/// Completion queue entry (section 3.3.3.2).
#[repr(C)]
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
pub struct Completion {
    /// Dwords 0 and 1: command specific.
    pub result: U64,
    /// Submission queue head pointer; FFFFh where flow control is disabled.
    pub sq_head: U16,
    /// Submission queue identifier; reserved on fabrics.
    pub sq_id: U16,
    /// Which command.
    pub command_id: U16,
    /// Phase in bit 0 (0 on fabrics), status in bits 15:1.
    pub status_and_phase: U16,
}
const _: () = assert!(size_of::<Completion>() == 16);

impl Completion {
    /// A completion for fabrics: phase and queue identifier are zero.
    #[must_use]
    pub fn new(command_id: u16, status: Status, result: u64, sq_head: u16) -> Self {
        Self {
            result: U64::new(result),
            sq_head: U16::new(sq_head),
            sq_id: U16::ZERO,
            command_id: U16::new(command_id),
            status_and_phase: U16::new(u16::from(status) << 1),
        }
    }

    /// The status without the phase bit.
    #[must_use]
    pub fn status(&self) -> Status {
        Status::from(self.status_and_phase.get() >> 1)
    }
}

/// Opcodes of the NVM command set (NVM section 3.2).
#[open_enum]
#[repr(u8)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NvmOpcode {
    /// Commit to durable media.
    Flush = 0x00,
    /// Write.
    Write = 0x01,
    /// Read.
    Read = 0x02,
    /// Mark blocks unreadable.
    WriteUncorrectable = 0x04,
    /// Compare.
    Compare = 0x05,
    /// Set to zeroes.
    WriteZeroes = 0x08,
    /// Deallocate, hints.
    DatasetManagement = 0x09,
    /// Check that blocks can be read.
    Verify = 0x0C,
    /// Reservation Register.
    ReservationRegister = 0x0D,
    /// Reservation Report.
    ReservationReport = 0x0E,
    /// Reservation Acquire.
    ReservationAcquire = 0x11,
    /// Reservation Release.
    ReservationRelease = 0x15,
    /// Copy within the controller.
    Copy = 0x19,
    /// Fabrics command.
    Fabrics = FABRICS_OPCODE,
}

/// Opcodes of the admin command set (section 5).
#[open_enum]
#[repr(u8)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AdminOpcode {
    /// Delete I/O Submission Queue.
    DeleteSubmissionQueue = 0x00,
    /// Create I/O Submission Queue.
    CreateSubmissionQueue = 0x01,
    /// Get Log Page.
    GetLogPage = 0x02,
    /// Delete I/O Completion Queue.
    DeleteCompletionQueue = 0x04,
    /// Create I/O Completion Queue.
    CreateCompletionQueue = 0x05,
    /// Identify.
    Identify = 0x06,
    /// Abort.
    Abort = 0x08,
    /// Set Features.
    SetFeatures = 0x09,
    /// Get Features.
    GetFeatures = 0x0A,
    /// Asynchronous Event Request.
    AsyncEventRequest = 0x0C,
    /// Namespace Management.
    NamespaceManagement = 0x0D,
    /// Namespace Attachment.
    NamespaceAttachment = 0x15,
    /// Keep Alive.
    KeepAlive = 0x18,
    /// Doorbell Buffer Config.
    DoorbellBufferConfig = 0x7C,
    /// Format NVM.
    FormatNvm = 0x80,
    /// Fabrics command.
    Fabrics = FABRICS_OPCODE,
}

/// Dword 12 of Read, Write, Compare, Verify, Write Zeroes and Write Uncorrectable.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct IoDword12 {
    /// Number of logical blocks, 0-based.
    pub blocks_z: u16,
    #[bits(4)]
    __: u8,
    /// Directive type (writes).
    #[bits(4)]
    pub directive_type: u8,
    /// Storage Tag Check.
    pub storage_tag_check: bool,
    /// Deallocate (Write Zeroes).
    pub deallocate: bool,
    /// Protection information action and checks; zero without protection information.
    #[bits(4)]
    pub protection: u8,
    /// Force Unit Access.
    pub force_unit_access: bool,
    /// Limited Retry.
    pub limited_retry: bool,
}

/// [`IoDword12::protection`].
#[bitfield(u8)]
#[derive(PartialEq, Eq)]
pub struct ProtectionField {
    /// PRCHK: the reference tag is checked.
    pub check_reference: bool,
    /// PRCHK: the application tag is checked.
    pub check_application: bool,
    /// PRCHK: the guard is checked.
    pub check_guard: bool,
    /// PRACT: the controller inserts the information on writes and strips it on reads.
    pub action: bool,
    #[bits(4)]
    __: u8,
}

/// Dword 10 of Dataset Management.
#[bitfield(u32)]
pub struct DsmDword10 {
    /// Number of ranges, 0-based.
    pub ranges_z: u8,
    #[bits(24)]
    __: u32,
}

/// Dword 11 of Dataset Management.
#[bitfield(u32)]
pub struct DsmDword11 {
    /// Hint: will be read as a whole.
    pub integral_read: bool,
    /// Hint: will be written as a whole.
    pub integral_write: bool,
    /// Deallocate the ranges.
    pub deallocate: bool,
    #[bits(29)]
    __: u32,
}

/// One range of Dataset Management.
#[repr(C)]
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
pub struct DsmRange {
    /// Context attributes: hints.
    pub attributes: U32,
    /// Logical blocks; may be zero.
    pub blocks: U32,
    /// First of them.
    pub lba: U64,
}
const _: () = assert!(size_of::<DsmRange>() == 16);

/// Dword 12 of Copy.
#[bitfield(u32)]
pub struct CopyDword12 {
    /// Number of source ranges, 0-based.
    pub ranges_z: u8,
    /// Format of the source ranges.
    #[bits(4)]
    pub format: u8,
    /// Protection information of the reads.
    #[bits(4)]
    pub protection_read: u8,
    #[bits(4)]
    __: u8,
    /// Directive type.
    #[bits(4)]
    pub directive_type: u8,
    /// Storage Tag Check of the write.
    pub storage_tag_check_write: bool,
    /// Storage Tag Check of the reads.
    pub storage_tag_check_read: bool,
    /// Protection information of the write.
    #[bits(4)]
    pub protection_write: u8,
    /// Force Unit Access.
    pub force_unit_access: bool,
    /// Limited Retry.
    pub limited_retry: bool,
}

/// What source ranges of Copy have in common whatever their format: the first 24 bytes.
#[repr(C)]
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
pub struct CopyRange {
    /// Source namespace in formats 2 and 3, else reserved.
    pub reserved: [u8; 8],
    /// First logical block.
    pub lba: U64,
    /// Number of logical blocks, 0-based.
    pub blocks_z: U16,
    /// Reserved here; expected tags follow.
    pub reserved_2: [u8; 6],
}
const _: () = assert!(size_of::<CopyRange>() == 24);

/// Protection information of 8 bytes: 16-bit guard (NVM section 5.2.1). Big endian, alone of all.
#[repr(C)]
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
pub struct ProtectionInformation {
    /// CRC-16/T10-DIF of the block, and of the metadata before this.
    pub guard: big_endian::U16,
    /// Application tag; FFFFh switches the checks of reads off.
    pub application: big_endian::U16,
    /// Reference tag: the low half of the LBA in types 1 and 2.
    pub reference: big_endian::U32,
}
const _: () = assert!(size_of::<ProtectionInformation>() == 8);

/// Bytes of a Copy source range of format 0h.
pub const COPY_RANGE_FORMAT_0: usize = 32;
/// Bytes of a Copy source range of format 1h.
pub const COPY_RANGE_FORMAT_1: usize = 40;

/// Most ranges of one Dataset Management command.
pub const DSM_RANGES_MAX: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_lie_where_the_specification_puts_them() {
        let mut bytes = [0_u8; 64];
        bytes[0] = 0x02;
        bytes[1] = 0x40;
        bytes[2..4].copy_from_slice(&[0x34, 0x12]);
        bytes[4] = 7;
        bytes[32..36].copy_from_slice(&[0, 0x10, 0, 0]);
        bytes[39] = SGL_TRANSPORT;
        bytes[40..48].copy_from_slice(&0x1_0000_0002_u64.to_le_bytes());
        bytes[48..52].copy_from_slice(&0x4000_0007_u32.to_le_bytes());
        let command = Command::read_from_bytes(&bytes).unwrap();
        assert_eq!(NvmOpcode(command.opcode), NvmOpcode::Read);
        assert_eq!(command.command_flags().psdt(), PSDT_SGL);
        assert_eq!(command.command_id.get(), 0x1234);
        assert_eq!((command.sgl.length.get(), command.sgl.identifier), (0x1000, SGL_TRANSPORT));
        assert_eq!(command.lba(), 0x1_0000_0002);
        let dword_12 = IoDword12::from(command.dword(12));
        assert_eq!((dword_12.blocks_z(), dword_12.force_unit_access()), (7, true));
        assert_eq!(command.direction(), Direction::ControllerToHost);
    }

    #[test]
    fn fabrics_commands_take_their_direction_from_the_type() {
        let mut command = Command::read_from_bytes(&[0; 64]).unwrap();
        command.opcode = FABRICS_OPCODE;
        command.namespace_id = U32::new(0x01);
        assert_eq!(command.direction(), Direction::HostToController);
        command.namespace_id = U32::new(0x04);
        assert_eq!(command.direction(), Direction::None);
    }

    #[test]
    fn completion_round_trip() {
        let completion = Completion::new(9, Status::LBA_OUT_OF_RANGE.dnr(), 5, 0xFFFF);
        let bytes = completion.as_bytes();
        assert_eq!(&bytes[14..], &[0x00, 0x81]);
        assert_eq!(completion.status(), Status::LBA_OUT_OF_RANGE.dnr());
    }
}
