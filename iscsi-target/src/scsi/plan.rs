//! What a CDB asks for, checked against its unit (SBC-3 section 5). Pure.

use super::copies::CopyLog;
use super::task::{
    Compare, CompareAndWrite, Copy, Job, Long, LongKind, OrWrite, Pattern, Read, Status, Unmap,
    Write,
};
use super::{
    COMPARE_AND_WRITE_BLOCKS_MAX, DataIn, Ending, Needs, PARAMETER_LIST_MAX, Sense,
    TRANSFER_BYTES_MAX, UNMAP_RANGES_MAX, Unit, WRITE_SAME_BYTES_MAX, control, copies,
};
use std::sync::Arc;
use storage_spec::crc32c::BLOCK;
use storage_spec::scsi::cdb::{Range6, Range10, Range12, Range16, RangeFlags};
use storage_spec::scsi::parameter::{UnmapDescriptor, UnmapHeader};
use storage_spec::scsi::sense::AdditionalSense;
use storage_spec::scsi::{
    COPY_OPERATING_PARAMETERS, COPY_STATUS_LID1, EXTENDED_COPY_LID1, GET_LBA_STATUS, Opcode,
    SANITIZE_BLOCK_ERASE, SANITIZE_EXIT_FAILURE_MODE,
};
use target_io::Buffer;
use zerocopy::FromBytes;

/// What is to be done for a command.
pub(super) enum Order<B> {
    /// Nothing more.
    End(Ending<B>),
    /// Block requests.
    Task {
        job: Job<B>,
        needs: Needs,
        /// The initiator must offer just what is needed.
        is_exact: bool,
    },
    /// Something on core 0.
    Control(Needs),
}

impl<B> Order<B> {
    fn done() -> Self {
        Self::End(Ending::good(DataIn::None))
    }

    fn task(job: Job<B>, needs: Needs) -> Self {
        Self::Task { job, needs, is_exact: false }
    }
}

/// Fields of a command that names a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Fields {
    flags: RangeFlags,
    lba: u64,
    blocks: u64,
    /// First byte of the block count.
    blocks_at: u16,
}

/// A range in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Bytes {
    offset: u64,
    len: u64,
}

impl Bytes {
    fn head(self) -> u32 {
        (self.offset % BLOCK as u64) as u32
    }
}

/// Decodes a command to a unit that is ready for it.
pub(super) fn order<B: Buffer>(cdb: &[u8; 16], unit: &Unit) -> Result<Order<B>, Sense> {
    if let Some(needs) = control::needs(cdb) {
        return Ok(Order::Control(needs?));
    }
    let opcode = Opcode(cdb[0]);
    match opcode {
        Opcode::TestUnitReady => Ok(Order::done()),
        Opcode::StartStopUnit => start_stop(cdb),
        Opcode::PreventAllow => Ok(Order::done()),
        Opcode::Unmap => unmap(cdb),
        Opcode::ServiceActionIn16 if cdb[1] & 0x1F == GET_LBA_STATUS => lba_status(cdb, unit),
        Opcode::ServiceActionIn16 => Err(Sense::cdb_bit(1, 4)),
        Opcode::Sanitize => sanitize(cdb, unit),
        _ => {
            let fields = fields(cdb);
            if fields.flags.protect() != 0 && has_protection_field(opcode) {
                return Err(Sense::cdb_bit(1, 7));
            }
            range_order(opcode, cdb, fields, unit)
        }
    }
}

fn range_order<B: Buffer>(
    opcode: Opcode,
    cdb: &[u8; 16],
    fields: Fields,
    unit: &Unit,
) -> Result<Order<B>, Sense> {
    match opcode {
        Opcode::Read6 | Opcode::Read10 | Opcode::Read12 | Opcode::Read16 => read(fields, unit),
        Opcode::Write6 | Opcode::Write10 | Opcode::Write12 | Opcode::Write16 => {
            write(fields, unit, false)
        }
        Opcode::WriteAndVerify10 | Opcode::WriteAndVerify12 | Opcode::WriteAndVerify16 => {
            check_byte_check(fields.flags, &[0, 1])?;
            write(fields, unit, true)
        }
        Opcode::Verify10 | Opcode::Verify12 | Opcode::Verify16 => verify(fields, unit),
        Opcode::WriteSame10 => {
            // NDOB is a bit of the longer command.
            let flags = fields.flags.with_no_data(false);
            write_same(Fields { flags, ..fields }, unit)
        }
        Opcode::WriteSame16 => write_same(fields, unit),
        Opcode::CompareAndWrite => compare_and_write(cdb, fields, unit),
        Opcode::OrWrite16 => or_write(fields, unit),
        Opcode::SynchronizeCache10
        | Opcode::SynchronizeCache16
        | Opcode::Prefetch10
        | Opcode::Prefetch16 => {
            // What is acknowledged is durable, and nothing is read ahead.
            bytes(fields, unit)?;
            Ok(Order::done())
        }
        _ => Err(Sense::illegal(AdditionalSense::InvalidOpcode)),
    }
}

fn has_protection_field(opcode: Opcode) -> bool {
    !matches!(
        opcode,
        Opcode::Read6
            | Opcode::Write6
            | Opcode::SynchronizeCache10
            | Opcode::SynchronizeCache16
            | Opcode::Prefetch10
            | Opcode::Prefetch16
    )
}

/// By the group of the operation code, which tells the length of the CDB.
fn fields(cdb: &[u8; 16]) -> Fields {
    const FITS: &str = "a CDB has 16 bytes";
    let (flags, lba, blocks, blocks_at) = match cdb[0] >> 5 {
        0 => {
            let range = Range6::read_from_prefix(cdb).expect(FITS).0;
            let lba = u64::from(range.lba_high & 0x1F) << 16 | u64::from(range.lba.get());
            let blocks = if range.blocks == 0 { 256 } else { range.blocks.into() };
            (0, lba, blocks, 4)
        }
        1 | 2 => {
            let range = Range10::read_from_prefix(cdb).expect(FITS).0;
            (range.flags, range.lba.get().into(), range.blocks.get().into(), 7)
        }
        5 => {
            let range = Range12::read_from_prefix(cdb).expect(FITS).0;
            (range.flags, range.lba.get().into(), range.blocks.get().into(), 6)
        }
        _ => {
            let range = Range16::read_from_prefix(cdb).expect(FITS).0;
            (range.flags, range.lba.get(), range.blocks.get().into(), 10)
        }
    };
    Fields { flags: flags.into(), lba, blocks, blocks_at }
}

/// The range, within the unit.
fn bytes(fields: Fields, unit: &Unit) -> Result<Bytes, Sense> {
    let capacity = unit.capacity >> unit.block_shift;
    match fields.lba.checked_add(fields.blocks) {
        Some(end) if end <= capacity => Ok(Bytes {
            offset: fields.lba << unit.block_shift,
            len: fields.blocks << unit.block_shift,
        }),
        _ => Err(Sense::illegal(AdditionalSense::LbaOutOfRange)),
    }
}

/// The range of a command whose data are no longer than `max`.
fn transfer(fields: Fields, unit: &Unit, max: u64) -> Result<Bytes, Sense> {
    let range = bytes(fields, unit)?;
    if range.len > max { Err(Sense::cdb_byte(fields.blocks_at)) } else { Ok(range) }
}

fn read<B: Buffer>(fields: Fields, unit: &Unit) -> Result<Order<B>, Sense> {
    let range = transfer(fields, unit, TRANSFER_BYTES_MAX)?;
    if range.len == 0 {
        return Ok(Order::done());
    }
    let len = range.len as u32;
    let needs = Needs { data_in_max: len, ..Needs::default() };
    Ok(Order::task(Job::Read(Read::new(range.offset, len)), needs))
}

/// Data-out that lie in their buffer as they do in their blocks.
fn data_out(range: Bytes) -> Needs {
    Needs { data_out: range.len as u32, page_offset: range.head(), ..Needs::default() }
}

fn write<B: Buffer>(fields: Fields, unit: &Unit, verify: bool) -> Result<Order<B>, Sense> {
    let range = transfer(fields, unit, TRANSFER_BYTES_MAX)?;
    if range.len == 0 {
        return Ok(Order::done());
    }
    let job = Job::Write(Write::new(range.offset, range.len as u32, verify));
    Ok(Order::task(job, data_out(range)))
}

/// BYTCHK is one of these.
fn check_byte_check(flags: RangeFlags, allowed: &[u8]) -> Result<(), Sense> {
    if allowed.contains(&flags.byte_check()) { Ok(()) } else { Err(Sense::cdb_bit(1, 2)) }
}

fn verify<B: Buffer>(fields: Fields, unit: &Unit) -> Result<Order<B>, Sense> {
    check_byte_check(fields.flags, &[0, 1, 3])?;
    let compares = fields.flags.byte_check() == 1;
    let max = if compares { TRANSFER_BYTES_MAX } else { u64::MAX };
    let range = transfer(fields, unit, max)?;
    if range.len == 0 {
        return Ok(Order::done());
    }
    Ok(match fields.flags.byte_check() {
        0 => {
            let job = Job::Long(Long::new(LongKind::Verify, range.offset, range.len));
            Order::task(job, Needs::default())
        }
        1 => {
            let job = Job::Compare(Compare::new(range.offset, range.len as u32));
            Order::task(job, data_out(range))
        }
        _ => {
            let needs = Needs { data_out: 1 << unit.block_shift, ..Needs::default() };
            let job = Pattern::verify(range.offset, range.len, needs.data_out);
            Order::task(Job::Pattern(job), needs)
        }
    })
}

fn write_same<B: Buffer>(fields: Fields, unit: &Unit) -> Result<Order<B>, Sense> {
    // Nothing is ever anchored (ANC_SUP in VPD page B2h).
    if fields.flags.anchor() {
        return Err(Sense::cdb_bit(1, 4));
    }
    let mut range = bytes(fields, unit)?;
    if fields.blocks == 0 {
        // To the end of the medium (WSNZ in VPD page B0h).
        range.len = unit.capacity - range.offset;
        if range.len == 0 {
            return Err(Sense::illegal(AdditionalSense::LbaOutOfRange));
        }
    }
    if range.len > WRITE_SAME_BYTES_MAX {
        return Err(Sense::cdb_byte(fields.blocks_at));
    }
    let no_data = fields.flags.no_data();
    let len = if no_data { 0 } else { 1 << unit.block_shift };
    let needs = Needs { data_out: len, ..Needs::default() };
    let job = if no_data {
        Job::Long(Long::new(LongKind::Zero, range.offset, range.len))
    } else if fields.flags.unmap() {
        Job::Pattern(Pattern::unmap(range.offset, range.len, len))
    } else {
        Job::Pattern(Pattern::write(range.offset, range.len, len))
    };
    Ok(Order::Task { job, needs, is_exact: true })
}

fn compare_and_write<B: Buffer>(
    cdb: &[u8; 16],
    fields: Fields,
    unit: &Unit,
) -> Result<Order<B>, Sense> {
    const BLOCKS_AT: u16 = 13;
    let blocks = cdb[usize::from(BLOCKS_AT)];
    if blocks > COMPARE_AND_WRITE_BLOCKS_MAX {
        return Err(Sense::cdb_byte(BLOCKS_AT));
    }
    let range = bytes(Fields { blocks: blocks.into(), ..fields }, unit)?;
    let len = range.len as u32;
    let needs = Needs { data_out: 2 * len, ..Needs::default() };
    // Of no blocks: nothing to be done, but nothing may be sent either.
    let job = match len {
        0 => Job::Long(Long::new(LongKind::Verify, range.offset, 0)),
        _ => Job::CompareAndWrite(CompareAndWrite::new(range.offset, len)),
    };
    Ok(Order::Task { job, needs, is_exact: true })
}

fn or_write<B: Buffer>(fields: Fields, unit: &Unit) -> Result<Order<B>, Sense> {
    let range = transfer(fields, unit, TRANSFER_BYTES_MAX)?;
    if range.len == 0 {
        return Ok(Order::done());
    }
    let job = Job::OrWrite(OrWrite::new(range.offset, range.len as u32));
    Ok(Order::task(job, data_out(range)))
}

fn unmap<B: Buffer>(cdb: &[u8; 16]) -> Result<Order<B>, Sense> {
    // ANCHOR: see WRITE SAME.
    if cdb[1] & 1 != 0 {
        return Err(Sense::cdb_bit(1, 0));
    }
    let len = u32::from(u16::from_be_bytes([cdb[7], cdb[8]]));
    if len == 0 {
        return Ok(Order::done());
    }
    if len < size_of::<UnmapHeader>() as u32 {
        return Err(Sense::illegal(AdditionalSense::ParameterListLengthError));
    }
    const LIST_MAX: u32 =
        size_of::<UnmapHeader>() as u32 + UNMAP_RANGES_MAX * size_of::<UnmapDescriptor>() as u32;
    const _: () = assert!(LIST_MAX <= PARAMETER_LIST_MAX);
    if len > LIST_MAX {
        return Err(Sense::cdb_byte(7));
    }
    let needs = Needs { data_out: len, ..Needs::default() };
    Ok(Order::task(Job::Unmap(Unmap::new(len)), needs))
}

/// START STOP UNIT (SBC-3 section 5.25): there is nothing to start or to stop.
fn start_stop<B: Buffer>(cdb: &[u8; 16]) -> Result<Order<B>, Sense> {
    let (conditions, load_eject) = (cdb[4] >> 4, cdb[4] & 0b10 != 0);
    if conditions != 0 {
        return Err(Sense::cdb_bit(4, 7));
    }
    if load_eject {
        return Err(Sense::cdb_bit(4, 1));
    }
    Ok(Order::done())
}

/// GET LBA STATUS: as far as one read goes, or as a hole does.
fn lba_status<B: Buffer>(cdb: &[u8; 16], unit: &Unit) -> Result<Order<B>, Sense> {
    let Fields { lba, blocks: allocation, .. } = fields(cdb);
    let capacity = unit.capacity >> unit.block_shift;
    if lba >= capacity {
        return Err(Sense::illegal(AdditionalSense::LbaOutOfRange));
    }
    let offset = lba << unit.block_shift;
    let allocation = allocation as u32;
    let needs = Needs { data_in_max: allocation, ..Needs::default() };
    Ok(Order::task(Job::Status(Status::new(offset, unit.capacity, allocation)), needs))
}

/// SANITIZE (SBC-3 section 5.24): blocks are erased by unmapping them. Overwriting is not offered:
/// a store that never writes in place could not promise it.
fn sanitize<B: Buffer>(cdb: &[u8; 16], unit: &Unit) -> Result<Order<B>, Sense> {
    let has_list = cdb[7..9] != [0; 2];
    // What erases everything is not to be meant otherwise: reserved fields are looked at.
    if cdb[1] & 0x40 != 0 {
        return Err(Sense::cdb_bit(1, 6));
    }
    if let Some(at) = (2..7).find(|&at| cdb[at] != 0) {
        return Err(Sense::cdb_byte(at as u16));
    }
    match cdb[1] & 0x1F {
        SANITIZE_BLOCK_ERASE | SANITIZE_EXIT_FAILURE_MODE if has_list => Err(Sense::cdb_byte(7)),
        // None ever fails and stays so.
        SANITIZE_EXIT_FAILURE_MODE => Ok(Order::done()),
        SANITIZE_BLOCK_ERASE => {
            let job = Job::Long(Long::new(LongKind::Zero, 0, unit.capacity));
            Ok(Order::task(job, Needs::default()))
        }
        _ => Err(Sense::cdb_bit(1, 4)),
    }
}

/// THIRD PARTY COPY OUT: EXTENDED COPY (LID1).
pub(super) fn copy_out<B: Buffer>(
    cdb: &[u8; 16],
    units: &[Option<Unit>],
    log: &Arc<CopyLog>,
) -> Result<Order<B>, Sense> {
    if cdb[1] & 0x1F != EXTENDED_COPY_LID1 {
        return Err(Sense::cdb_bit(1, 4));
    }
    let Fields { blocks: len, .. } = fields(cdb);
    let needs = control::list(len as usize, 10)?;
    if len == 0 {
        return Ok(Order::done());
    }
    let job = Job::Copy(Box::new(Copy::new(needs.data_out, units, log.clone())));
    Ok(Order::task(job, needs))
}

/// THIRD PARTY COPY IN: what came of copies, and what they may be.
pub(super) fn copy_in<B>(cdb: &[u8; 16], log: &CopyLog) -> Result<Order<B>, Sense> {
    let mut data = match cdb[1] & 0x1F {
        COPY_STATUS_LID1 => log.status(cdb[2])?,
        COPY_OPERATING_PARAMETERS => copies::operating_parameters(),
        _ => return Err(Sense::cdb_bit(1, 4)),
    };
    data.truncate(fields(cdb).blocks as usize);
    Ok(Order::End(Ending::good(DataIn::Bytes(data))))
}
