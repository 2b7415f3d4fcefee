//! One operation on its way: which command it needs next, and what the drive's errors mean.

use super::super::{Error, Op, Tag};
use super::drive::DriveFacts;
use super::options::{AhciOptions, TRANSFER_MAX};
use std::time::Duration;
use storage_spec::ata::{AtaError, AtaStatus, RANGES_PER_BLOCK, SECTOR};

/// Most times that a command is tried again.
pub(super) const RETRIES_MAX: u8 = 4;
/// Blocks of a range of a TRIM.
pub(super) const RANGE_MAX: u64 = 0xFFFF;
/// Most blocks of ranges that we send at once: what the scratch page holds.
const TRIM_BLOCKS_MAX: u16 = (super::memory::SCRATCH / SECTOR) as u16;

/// What is to be done, from its submission to its end.
pub(super) struct Request {
    pub(super) job: Job,
    pub(super) stage: Stage,
    /// First block of the part of the drive that the operation is about.
    pub(super) base: u64,
    /// Blocks done, of what takes several commands.
    pub(super) done: u64,
    pub(super) retries: u8,
    /// Goes alone, so that it is known whose error the next one is.
    pub(super) is_suspect: bool,
    /// When the present command was started.
    pub(super) since: Duration,
}

/// For whom it is.
pub(super) enum Job {
    /// A submitter.
    Op {
        /// Handle.
        client: u16,
        /// As submitted.
        tag: Tag,
        /// As submitted.
        op: Op,
    },
    /// Whoever wants to know how the drive fares.
    Health,
    /// Who uses the drive no more: it may lose its power.
    Rest,
}

/// Which command of a request is next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// The first, or the next of several parts.
    First,
    /// The flush after a forced write; SMART data after the SMART status.
    Second,
}

/// How a command goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Manner {
    /// With others.
    Queued,
    /// Alone.
    Alone,
    /// Alone, and for all others that want the same.
    Flush,
}

impl Request {
    pub(super) fn new(job: Job, base: u64) -> Self {
        Self {
            job,
            stage: Stage::First,
            base,
            done: 0,
            retries: 0,
            is_suspect: false,
            since: Duration::ZERO,
        }
    }

    /// How the next command goes.
    #[inline]
    pub(super) fn manner(&self, facts: &DriveFacts, options: &AhciOptions) -> Manner {
        let queued = if facts.queue.is_some() { Manner::Queued } else { Manner::Alone };
        match &self.job {
            Job::Health | Job::Rest => Manner::Alone,
            Job::Op { op, .. } => match op {
                Op::Read { .. } => queued,
                Op::Write { .. } if self.stage == Stage::First => queued,
                Op::WriteZeroes { .. } if !trims_zeroes(facts, options) => queued,
                Op::Write { .. } | Op::Flush => Manner::Flush,
                Op::WriteZeroes { .. } | Op::Deallocate { .. } => Manner::Alone,
            },
        }
    }

    pub(super) fn is_read(&self) -> bool {
        matches!(self.job, Job::Op { op: Op::Read { .. }, .. })
    }

    /// Takes in that the present command succeeded; whether the request has ended with it.
    #[inline]
    pub(super) fn advance(&mut self, facts: &DriveFacts, options: &AhciOptions) -> bool {
        if matches!(self.job, Job::Rest) {
            return true;
        }
        let Job::Op { op, .. } = &self.job else {
            let was_first = self.stage == Stage::First;
            self.stage = Stage::Second;
            return !was_first;
        };
        match op {
            Op::Read { .. } | Op::Flush => true,
            Op::Write { fua, .. } => {
                let is_flush_due = *fua && facts.is_cached(options) && !facts.forces(options);
                if is_flush_due && self.stage == Stage::First {
                    self.stage = Stage::Second;
                    return false;
                }
                true
            }
            Op::WriteZeroes { len, .. } | Op::Deallocate { len, .. } => {
                let len = *len >> facts.block_shift;
                self.done += self.part(facts, options);
                self.done == len
            }
        }
    }

    /// Blocks of the next command of a range that may take several.
    pub(super) fn part(&self, facts: &DriveFacts, options: &AhciOptions) -> u64 {
        let (len, is_trim) = match &self.job {
            Job::Op { op: Op::WriteZeroes { len, .. }, .. } => (*len, trims_zeroes(facts, options)),
            Job::Op { op: Op::Deallocate { len, .. }, .. } => (*len, true),
            _ => unreachable!("only ranges have parts"),
        };
        let most = if is_trim {
            let blocks = facts.trim_blocks.expect("refused at submission").min(TRIM_BLOCKS_MAX);
            u64::from(blocks) * RANGES_PER_BLOCK as u64 * RANGE_MAX
        } else {
            TRANSFER_MAX as u64 >> facts.block_shift
        };
        ((len >> facts.block_shift) - self.done).min(most)
    }
}

/// Whether zeroes are written by TRIM.
pub(super) fn trims_zeroes(facts: &DriveFacts, options: &AhciOptions) -> bool {
    options.zeroes_by_trim && facts.trim_reads_zero
}

/// What to do about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Try again.
    Retry,
    /// Tell the submitter.
    Fail(Error),
}

/// Judges the error of a command (ACS-4, section 6.3). The medium's verdict on a read is final; the
/// cable's, and what a drive refuses for no reason, is tried again.
pub(super) fn judge(request: &Request, status: AtaStatus, error: AtaError) -> Verdict {
    let is_about_medium = error.uncorrectable() || error.not_found();
    if request.is_read() && is_about_medium && !error.interface_crc() && !status.fault() {
        return Verdict::Fail(Error::Media);
    }
    if let Job::Op { op: Op::Deallocate { .. }, .. } = &request.job
        && error.abort()
        && !error.interface_crc()
    {
        return Verdict::Fail(Error::Unsupported);
    }
    if request.retries < RETRIES_MAX {
        return Verdict::Retry;
    }
    Verdict::Fail(Error::Failed)
}
