//! One operation on its way: which command it needs next, and what the controller's answers mean.

use super::super::{Error, Op, Tag};
use super::namespace::Namespace;
use super::pointers::{DataPointer, Pointers};
use std::time::Duration;
use storage_spec::nvme::command::{
    Command, CommandFlags, DsmDword11, IoDword12, NvmOpcode, ProtectionField,
};
use storage_spec::nvme::status::Status;
use zerocopy::FromZeros;
use zerocopy::little_endian::{U16, U32, U64};

/// Most times that a command is tried again.
pub(super) const RETRIES_MAX: u8 = 4;

/// An operation, from its submission to its completion.
pub(super) struct Request {
    pub(super) client: u16,
    pub(super) retries: u8,
    pub(super) stage: Stage,
    /// Blocks done, of what takes several commands.
    pub(super) done: u64,
    /// When the present command was started.
    pub(super) since: Duration,
    /// Whether an abort has been asked for.
    pub(super) is_aborted: bool,
    pub(super) tag: Tag,
    pub(super) op: Op,
}

/// What the present command of a request does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// The operation itself, or its next part.
    Main,
    /// The flush after a forced write, for a controller that does not keep its word.
    Flush,
    /// What would be written is compared instead.
    Compare,
}

/// What a request is about, for its commands.
pub(super) struct Target {
    pub(super) namespace: Namespace,
    /// First block of the part of the namespace.
    pub(super) base: u64,
    pub(super) honours_fua: bool,
}

impl Request {
    pub(super) fn new(client: u16, tag: Tag, op: Op, stage: Stage) -> Self {
        let since = Duration::ZERO;
        Self { client, retries: 0, stage, done: 0, since, is_aborted: false, tag, op }
    }

    /// The next command. `None`: not now, for the place to copy data to is taken.
    #[inline]
    pub(super) fn command(
        &self,
        target: &Target,
        slot: u16,
        command_id: u16,
        pointers: &mut Pointers,
    ) -> Option<Command> {
        let facts = target.namespace.facts();
        let shift = facts.block_shift;
        if self.stage == Stage::Flush {
            return Some(plain(NvmOpcode::Flush, command_id, facts.id));
        }
        let range = |offset: u64, len: usize| (target.base + (offset >> shift), len >> shift);
        match &self.op {
            Op::Read { offset, buf } => {
                let pointer = pointers.span(slot, &buf.span());
                let (lba, blocks) = range(*offset, buf.len());
                Some(transfer(NvmOpcode::Read, command_id, target, (lba, blocks), pointer, false))
            }
            Op::Write { offset, data, fua } => {
                let pointer = pointers.write(slot, data)?;
                let (lba, blocks) = range(*offset, data.len());
                if self.stage == Stage::Compare {
                    let opcode = NvmOpcode::Compare;
                    let range = (lba, blocks);
                    return Some(transfer(opcode, command_id, target, range, pointer, false));
                }
                let fua = *fua && facts.volatile_cache && target.honours_fua;
                Some(transfer(NvmOpcode::Write, command_id, target, (lba, blocks), pointer, fua))
            }
            Op::Flush => Some(plain(NvmOpcode::Flush, command_id, facts.id)),
            Op::WriteZeroes { offset, .. } => {
                let lba = target.base + (offset >> shift) + self.done;
                let blocks = self.part(target) as usize;
                let opcode = NvmOpcode::WriteZeroes;
                let none = DataPointer::NONE;
                Some(transfer(opcode, command_id, target, (lba, blocks), none, false))
            }
            Op::Deallocate { offset, .. } => {
                let lba = target.base + (offset >> shift) + self.done;
                let mut command = plain(NvmOpcode::DatasetManagement, command_id, facts.id);
                let attributes_and_blocks = self.part(target) << 32;
                let pointer = pointers.payload(slot, &[attributes_and_blocks.to_le(), lba.to_le()]);
                (command.sgl, command.flags) = (pointer.value, flags(pointer));
                let dword_11 = DsmDword11::new().with_deallocate(true);
                command.dwords[1] = U32::new(dword_11.into());
                Some(command)
            }
        }
    }

    /// Whether it changes nothing.
    #[inline]
    pub(super) fn is_read(&self) -> bool {
        matches!(self.op, Op::Read { .. }) || self.stage == Stage::Compare
    }

    /// Takes in that the present command succeeded; whether the request has ended with it.
    #[inline]
    pub(super) fn advance(&mut self, target: &Target) -> bool {
        let facts = target.namespace.facts();
        match &self.op {
            Op::Read { .. } | Op::Flush => true,
            Op::Write { fua, .. } => {
                let is_flush_due = *fua && facts.volatile_cache && !target.honours_fua;
                if is_flush_due && self.stage == Stage::Main {
                    self.stage = Stage::Flush;
                    return false;
                }
                true
            }
            Op::WriteZeroes { len, .. } | Op::Deallocate { len, .. } => {
                self.done += self.part(target);
                self.done << facts.block_shift == *len
            }
        }
    }

    /// Blocks of the next command of a range that may take several.
    fn part(&self, target: &Target) -> u64 {
        let facts = target.namespace.facts();
        let (len, most) = match &self.op {
            Op::WriteZeroes { len, .. } => (*len, facts.zeroes_max),
            Op::Deallocate { len, .. } => (*len, facts.deallocate_max),
            _ => unreachable!("only ranges have parts"),
        };
        ((len >> facts.block_shift) - self.done).min(most.expect("refused at submission"))
    }
}

/// What to do about a status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Try again, after the delay that the status names by number, 0 for none.
    Retry(u8),
    /// Tell the submitter.
    Fail(Error),
}

/// Judges a status that is no success (base specification, section 3.3.3.2.1): what the controller
/// says may be repeated is, unless it has been often enough.
pub(super) fn judge(request: &Request, status: Status) -> Verdict {
    let Request { op, retries, .. } = request;
    let is_final = status.do_not_retry()
        || FINAL.iter().any(|&never| status.is(never))
        || *retries >= RETRIES_MAX;
    if !is_final {
        return Verdict::Retry(status.retry_delay());
    }
    let is = |other| status.is(other);
    Verdict::Fail(if is(Status::COMPARE_FAILURE) {
        Error::Mismatch
    } else if is(Status::CAPACITY_EXCEEDED) {
        Error::NoSpace
    } else if is(Status::INVALID_NAMESPACE) {
        Error::Removed
    } else if is(Status::INVALID_OPCODE) && !matches!(op, Op::Read { .. } | Op::Write { .. }) {
        Error::Unsupported
    } else if request.is_read() && is_about_data(status) {
        Error::Media
    } else {
        Error::Failed
    })
}

/// Repeating these changes nothing, whether the controller says so or not.
const FINAL: [Status; 7] = [
    Status::COMPARE_FAILURE,
    Status::INVALID_OPCODE,
    Status::INVALID_FIELD,
    Status::INVALID_NAMESPACE,
    Status::LBA_OUT_OF_RANGE,
    Status::CAPACITY_EXCEEDED,
    Status::WRITE_PROTECTED,
];

/// Whether a read failed for what lies on the medium, other blocks being fine.
fn is_about_data(status: Status) -> bool {
    status.is_media() || status.is(Status::INTERNAL_ERROR) || status.is(Status::DATA_TRANSFER_ERROR)
}

fn plain(opcode: NvmOpcode, command_id: u16, namespace: u32) -> Command {
    let mut command = Command::new_zeroed();
    command.opcode = opcode.0;
    command.command_id = U16::new(command_id);
    command.namespace_id = U32::new(namespace);
    command
}

fn flags(pointer: DataPointer) -> u8 {
    CommandFlags::new().with_psdt(pointer.psdt).into()
}

/// A command on a range of blocks: first and count.
#[inline]
fn transfer(
    opcode: NvmOpcode,
    command_id: u16,
    target: &Target,
    (lba, blocks): (u64, usize),
    pointer: DataPointer,
    fua: bool,
) -> Command {
    let facts = target.namespace.facts();
    let protection = protection(facts.metadata.protection);
    let dword_12 = IoDword12::new()
        .with_blocks_z((blocks - 1) as u16)
        .with_protection(protection)
        .with_force_unit_access(fua);
    // The initial reference tag; without protection information the field is reserved.
    let reference = if protection == 0 { 0 } else { lba as u32 };
    Command {
        opcode: opcode.0,
        flags: flags(pointer),
        command_id: U16::new(command_id),
        namespace_id: U32::new(facts.id),
        dwords_2_3: [U32::ZERO; 2],
        metadata: U64::ZERO,
        sgl: pointer.value,
        dwords: [
            U32::new(lba as u32),
            U32::new((lba >> 32) as u32),
            U32::new(dword_12.into()),
            U32::ZERO,
            U32::new(reference),
            U32::ZERO,
        ],
    }
}

/// The controller makes the information, and checks the guard and, where it is the block's number,
/// the reference tag.
#[inline]
fn protection(kind: u8) -> u8 {
    if kind == 0 {
        return 0;
    }
    let field = ProtectionField::new().with_action(true).with_check_guard(true);
    field.with_check_reference(kind < 3).into()
}
