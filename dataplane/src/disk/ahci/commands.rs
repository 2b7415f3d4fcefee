//! Commands of requests.

use super::super::Op;
use super::drive::DriveFacts;
use super::memory::{Payload, PortMemory};
use super::options::AhciOptions;
use super::request::{Job, Manner, RANGE_MAX, Request, Stage, trims_zeroes};
use storage_spec::ata::{
    AtaCommand, DEVICE_FUA, DEVICE_LBA, FEATURE_TRIM, FEATURE_UNLOAD, HostFrame, LOG_QUEUED_ERROR,
    RANGES_PER_BLOCK, Range, SECTOR, SMART_READ_DATA, SMART_RETURN_STATUS, SMART_SIGNATURE,
    UNLOAD_SIGNATURE,
};

/// A command that we give by ourselves, on slot 0 while nothing is in flight. Each brings one
/// sector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Question {
    /// What the drive is.
    Identify,
    /// How often it has been switched on.
    PowerOns,
    /// Which queued command failed.
    QueuedError,
}

impl PortMemory {
    /// Writes a request's next command to a slot.
    #[inline]
    pub(super) fn write_request(
        &self,
        slot: usize,
        request: &Request,
        facts: &DriveFacts,
        options: &AhciOptions,
    ) {
        let op = match &request.job {
            Job::Op { op, .. } => op,
            Job::Health => return self.write_smart(slot, request.stage),
            Job::Rest => return self.write_command(slot, &rest(facts), Payload::None),
        };
        let is_queued = request.manner(facts, options) == Manner::Queued;
        let shift = facts.block_shift;
        match op {
            Op::Read { offset, buf } => {
                let range = (request.base + (offset >> shift), buf.len() >> shift);
                let frame = read(is_queued, slot, range);
                self.write_command(slot, &frame, Payload::Read(buf.span()));
            }
            Op::Write { offset, data, fua } if request.stage == Stage::First => {
                let range = (request.base + (offset >> shift), data.len() >> shift);
                let is_forced = *fua && facts.is_cached(options) && facts.forces(options);
                let frame = write(is_queued, slot, range, is_forced);
                let mut spans = data.segments().iter().map(|slice| slice.span());
                self.write_command(slot, &frame, Payload::Write(&mut spans));
            }
            Op::Write { .. } | Op::Flush => {
                let frame = HostFrame::command(AtaCommand::FlushCacheExt, 0, 0, 0, DEVICE_LBA);
                self.write_command(slot, &frame, Payload::None);
            }
            Op::WriteZeroes { offset, .. } if !trims_zeroes(facts, options) => {
                let blocks = request.part(facts, options) as usize;
                let range = (request.base + (offset >> shift) + request.done, blocks);
                let frame = write(is_queued, slot, range, false);
                self.write_command(slot, &frame, Payload::Zeroes(blocks << shift));
            }
            Op::WriteZeroes { offset, .. } | Op::Deallocate { offset, .. } => {
                let lba = request.base + (offset >> shift) + request.done;
                self.write_trim(slot, lba, request.part(facts, options));
            }
        }
    }

    /// Writes a command of our own to slot 0.
    pub(super) fn write_question(&self, question: Question) {
        self.clear_scratch();
        let frame = match question {
            Question::Identify => HostFrame::command(AtaCommand::IdentifyDevice, 0, 0, 0, 0),
            Question::PowerOns => {
                let (feature, signature) = (SMART_READ_DATA, SMART_SIGNATURE);
                HostFrame::command(AtaCommand::Smart, feature, signature, 0, DEVICE_LBA)
            }
            Question::QueuedError => {
                let log = LOG_QUEUED_ERROR;
                HostFrame::command(AtaCommand::ReadLogExt, 0, log, 1, DEVICE_LBA)
            }
        };
        self.write_command(0, &frame, Payload::ScratchIn);
    }

    fn write_smart(&self, slot: usize, stage: Stage) {
        let (feature, payload) = match stage {
            Stage::First => (SMART_RETURN_STATUS, Payload::None),
            Stage::Second => {
                self.clear_scratch();
                (SMART_READ_DATA, Payload::ScratchIn)
            }
        };
        let command = AtaCommand::Smart;
        let frame = HostFrame::command(command, feature, SMART_SIGNATURE, 0, DEVICE_LBA);
        self.write_command(slot, &frame, payload);
    }

    /// The ranges lie in the scratch page: nothing else is in flight.
    fn write_trim(&self, slot: usize, lba: u64, blocks: u64) {
        let ranges = blocks.div_ceil(RANGE_MAX) as usize;
        let sectors = ranges.div_ceil(RANGES_PER_BLOCK);
        for index in 0..sectors * RANGES_PER_BLOCK {
            let before = index as u64 * RANGE_MAX;
            let count = blocks.saturating_sub(before).min(RANGE_MAX);
            let range = match count {
                0 => Range::new(),
                _ => Range::new().with_lba(lba + before).with_count(count as u16),
            };
            self.set_scratch(index, range.into());
        }
        let command = AtaCommand::DataSetManagement;
        let frame = HostFrame::command(command, FEATURE_TRIM, 0, sectors as u16, DEVICE_LBA);
        self.write_command(slot, &frame, Payload::ScratchOut(sectors * SECTOR));
    }
}

/// A medium that does not turn stands by; one that does goes on turning, without its heads on it:
/// its owner may want it again in a moment.
fn rest(facts: &DriveFacts) -> HostFrame {
    if facts.is_rotational {
        let (command, signature) = (AtaCommand::IdleImmediate, UNLOAD_SIGNATURE);
        return HostFrame::command(command, FEATURE_UNLOAD, signature, 0, DEVICE_LBA);
    }
    HostFrame::command(AtaCommand::StandbyImmediate, 0, 0, 0, DEVICE_LBA)
}

fn read(is_queued: bool, slot: usize, (lba, blocks): (u64, usize)) -> HostFrame {
    if is_queued {
        let tag = (slot as u16) << 3;
        let command = AtaCommand::ReadFpdmaQueued;
        return HostFrame::command(command, blocks as u16, lba, tag, DEVICE_LBA);
    }
    HostFrame::command(AtaCommand::ReadDmaExt, 0, lba, blocks as u16, DEVICE_LBA)
}

fn write(is_queued: bool, slot: usize, (lba, blocks): (u64, usize), is_forced: bool) -> HostFrame {
    if is_queued {
        let tag = (slot as u16) << 3;
        let device = DEVICE_LBA | if is_forced { DEVICE_FUA } else { 0 };
        return HostFrame::command(AtaCommand::WriteFpdmaQueued, blocks as u16, lba, tag, device);
    }
    let command = if is_forced { AtaCommand::WriteDmaFuaExt } else { AtaCommand::WriteDmaExt };
    HostFrame::command(command, 0, lba, blocks as u16, DEVICE_LBA)
}
