//! A command that touches the medium: block requests, one at a time, until it has ended.

mod compare;
mod copy;
mod long;
mod or_write;
mod pattern;
mod pieces;
mod status;
mod transfer;
mod unmap;

pub(super) use compare::{Compare, CompareAndWrite};
pub(super) use copy::Copy;
pub(super) use long::{Long, LongKind};
pub(super) use or_write::OrWrite;
pub(super) use pattern::Pattern;
use pieces::Pieces;
pub use pieces::piece_len;
pub(super) use status::Status;
pub(super) use transfer::{Read, Write};
pub(super) use unmap::Unmap;

use super::{DataIn, Ending, Sense, Status as EndStatus, Unit};
use storage_spec::crc32c::{self, BLOCK};
use storage_spec::scsi::sense::{AdditionalSense, SenseKey};
use target_io::grid::page_span;
use target_io::{BlockError, BlockRequest, BlockResult, Buffer, Surroundings, Ticket, VolumeIndex};

/// Where a task has got to.
#[derive(Debug)]
pub enum Progress<B> {
    /// A block request is under way: its completion goes to [`Task::complete`].
    Pending,
    /// There is no buffer now: [`Task::resume`] it later.
    Starved,
    /// Data of a read, of which there is more: [`Task::resume`] it when they were handed over.
    Part {
        /// The data.
        data: DataIn<B>,
        /// Bytes that follow them.
        left: u32,
    },
    /// It is done with the data that it was given: [`Task::start`] it with the next piece.
    WantsData,
    /// It has ended.
    End(Ending<B>),
}

/// A command that touches the medium. It has at most one block request under way, and holds, but
/// for its data-out, no buffer while it is starved, and none at all between two pieces.
#[derive(Debug)]
pub struct Task<B> {
    job: Job<B>,
    ticket: Ticket,
    volume: VolumeIndex,
    capacity: u64,
    block_shift: u8,
    descriptor_sense: bool,
    is_cancelled: bool,
    is_pending: bool,
}

/// The kinds of tasks.
#[derive(Debug)]
pub(super) enum Job<B> {
    Read(Read<B>),
    Write(Write<B>),
    Long(Long),
    Compare(Compare<B>),
    Pattern(Pattern<B>),
    CompareAndWrite(CompareAndWrite<B>),
    OrWrite(OrWrite<B>),
    Unmap(Unmap),
    Status(Status<B>),
    Copy(Box<Copy<B>>),
}

impl<B> Job<B> {
    /// The pieces of those that move data in several.
    pub(super) fn pieces_mut(&mut self) -> Option<&mut Pieces> {
        match self {
            Self::Read(job) => Some(&mut job.pieces),
            Self::Write(job) => Some(&mut job.pieces),
            Self::Compare(job) => Some(&mut job.pieces),
            Self::OrWrite(job) => Some(&mut job.pieces),
            _ => None,
        }
    }
}

/// What came of going on.
pub(super) enum Step<B> {
    /// A request is under way.
    Submitted,
    /// There is no buffer.
    Starved,
    /// Some data, and so many bytes are left.
    Part(DataIn<B>, u32),
    /// The next piece is to come.
    WantsData,
    /// All is done.
    Done(DataIn<B>),
}

/// What a job works on.
pub(super) struct Door<'a, S> {
    around: &'a mut S,
    ticket: Ticket,
    volume: VolumeIndex,
    pub(super) block_shift: u8,
}

impl<S: Surroundings> Door<'_, S> {
    fn submit(&mut self, request: BlockRequest<S::Buf>) -> Step<S::Buf> {
        self.submit_to(self.volume, request)
    }

    fn submit_to(&mut self, volume: VolumeIndex, request: BlockRequest<S::Buf>) -> Step<S::Buf> {
        self.around.submit(self.ticket, volume, request);
        Step::Submitted
    }
}

/// A part of a command whose completion is awaited.
type Advance<B> = Result<Step<B>, Sense>;

impl<B> Task<B> {
    /// Whether it may read or write a volume.
    #[must_use]
    pub fn touches(&self, volume: VolumeIndex) -> bool {
        match &self.job {
            Job::Copy(job) => self.volume == volume || job.touches(volume),
            _ => self.volume == volume,
        }
    }
}

impl<B: Buffer> Task<B> {
    pub(super) fn new(unit: &Unit, job: Job<B>) -> Self {
        Self {
            job,
            ticket: Ticket(0),
            volume: unit.volume,
            capacity: unit.capacity,
            block_shift: unit.block_shift,
            descriptor_sense: unit.descriptor_sense,
            is_cancelled: false,
            is_pending: false,
        }
    }

    /// Begins, or goes on after [`Progress::WantsData`]. `data_out` are the bytes of the piece that
    /// is due ([`piece_len`]), if the task needs some, with the checksum cells of whole pages
    /// filled; `ticket` is that of all block requests until it wants data again.
    pub fn start<S: Surroundings<Buf = B>>(
        &mut self,
        ticket: Ticket,
        data_out: Option<B>,
        around: &mut S,
    ) -> Progress<B> {
        self.ticket = ticket;
        if let Err(sense) = self.take_data(data_out) {
            return self.fail(sense);
        }
        self.advance(around)
    }

    /// Goes on after [`Progress::Starved`].
    pub fn resume<S: Surroundings<Buf = B>>(&mut self, around: &mut S) -> Progress<B> {
        assert!(!self.is_pending, "a task with a request under way is not starved");
        self.advance(around)
    }

    /// Takes the completion of its block request.
    pub fn complete<S: Surroundings<Buf = B>>(
        &mut self,
        result: BlockResult<B>,
        around: &mut S,
    ) -> Progress<B> {
        assert!(self.is_pending, "a completion for a request");
        self.is_pending = false;
        let returned = match result {
            BlockResult::Failed(error) => return self.failed(error, around),
            BlockResult::Done(buf) => buf,
        };
        match (&mut self.job, returned) {
            (Job::Read(job), Some(buf)) => job.filled(buf),
            (Job::Status(job), Some(buf)) => job.filled(buf),
            (Job::OrWrite(job), buf) => job.completed(buf),
            (Job::Copy(job), buf) => job.completed(buf),
            (Job::Write(job), None) => job.completed(),
            (_, buf) => assert!(buf.is_none(), "reads alone return a buffer"),
        }
        self.advance(around)
    }

    /// No further block request is made; if one is under way the task ends with its completion, and
    /// otherwise may be dropped.
    pub fn cancel(&mut self) {
        self.is_cancelled = true;
    }

    /// Whether a block request is under way.
    #[must_use]
    pub fn is_pending(&self) -> bool {
        self.is_pending
    }

    fn take_data(&mut self, data: Option<B>) -> Result<(), Sense> {
        const NEEDED: &str = "the transport brings what the task needs";
        match &mut self.job {
            Job::Read(_) | Job::Long(_) | Job::Status(_) => {
                assert!(data.is_none(), "a task without data-out")
            }
            Job::Write(job) => job.take(data),
            Job::Compare(job) => job.data = Some(data.expect(NEEDED)),
            Job::Pattern(job) => job.take(data.expect(NEEDED)),
            Job::CompareAndWrite(job) => job.data = Some(data.expect(NEEDED)),
            Job::OrWrite(job) => job.data = Some(data.expect(NEEDED)),
            Job::Copy(job) => job.take(data.expect(NEEDED).bytes())?,
            Job::Unmap(job) => {
                let list = data.expect(NEEDED);
                job.take(list.bytes(), self.block_shift, self.capacity)?;
            }
        }
        Ok(())
    }

    fn advance<S: Surroundings<Buf = B>>(&mut self, around: &mut S) -> Progress<B> {
        if self.is_cancelled {
            return Progress::End(Ending::status(EndStatus::TaskAborted));
        }
        let (ticket, volume, block_shift) = (self.ticket, self.volume, self.block_shift);
        let mut door = Door { around, ticket, volume, block_shift };
        let step = match &mut self.job {
            Job::Read(job) => job.advance(&mut door),
            Job::Write(job) => job.advance(&mut door),
            Job::Long(job) => job.advance(&mut door),
            Job::Compare(job) => job.advance(&mut door),
            Job::Pattern(job) => job.advance(&mut door),
            Job::CompareAndWrite(job) => job.advance(&mut door),
            Job::OrWrite(job) => job.advance(&mut door),
            Job::Unmap(job) => job.advance(&mut door),
            Job::Status(job) => job.advance(&mut door),
            Job::Copy(job) => job.advance(&mut door),
        };
        match step {
            Ok(Step::Submitted) => {
                self.is_pending = true;
                Progress::Pending
            }
            Ok(Step::Starved) => Progress::Starved,
            Ok(Step::Part(data, left)) => Progress::Part { data, left },
            Ok(Step::WantsData) => Progress::WantsData,
            Ok(Step::Done(data)) => Progress::End(Ending::good(data)),
            Err(sense) => self.fail(sense),
        }
    }

    fn failed<S: Surroundings<Buf = B>>(
        &mut self,
        error: BlockError,
        around: &mut S,
    ) -> Progress<B> {
        if self.is_cancelled {
            return self.advance(around);
        }
        let (error, writes) = match (&mut self.job, error) {
            (Job::OrWrite(job), BlockError::Miscompare { .. }) => {
                return if job.tries_again() {
                    self.advance(around)
                } else {
                    Progress::End(Ending::status(EndStatus::Busy))
                };
            }
            (Job::Status(job), BlockError::Media { .. }) => {
                job.unreadable();
                return self.advance(around);
            }
            // INFORMATION is the place within the data that were sent.
            (Job::Compare(job), BlockError::Miscompare { offset }) => {
                (BlockError::Miscompare { offset: offset - job.offset }, false)
            }
            (Job::CompareAndWrite(job), BlockError::Miscompare { offset }) => {
                (BlockError::Miscompare { offset: offset - job.offset }, true)
            }
            (Job::Pattern(job), BlockError::Miscompare { offset }) => {
                (BlockError::Miscompare { offset: offset % u64::from(job.len) }, false)
            }
            (Job::Write(job), error) => (error, job.writes()),
            (Job::OrWrite(job), error) => (error, job.writes()),
            (Job::Long(job), error) => (error, job.kind == LongKind::Zero),
            (Job::Pattern(job), error) => (error, !job.compares),
            (Job::Copy(job), error) => (error, job.writes()),
            (Job::Read(_) | Job::Compare(_) | Job::Status(_), error) => (error, false),
            (Job::CompareAndWrite(_) | Job::Unmap(_), error) => (error, true),
        };
        self.fail(sense_of(error, self.block_shift, writes))
    }

    fn fail(&self, sense: Sense) -> Progress<B> {
        Progress::End(Ending::check(sense.with_format(self.descriptor_sense)))
    }
}

/// The sense data that tell an initiator of this failure.
pub(super) fn sense_of(error: BlockError, block_shift: u8, writes: bool) -> Sense {
    match error {
        BlockError::Full => {
            Sense::new(SenseKey::DataProtect, AdditionalSense::SpaceAllocationFailed)
        }
        BlockError::Media { offset } => {
            Sense::new(SenseKey::MediumError, AdditionalSense::UnrecoveredReadError)
                .with_information(offset >> block_shift)
        }
        BlockError::Miscompare { offset } => {
            Sense::new(SenseKey::Miscompare, AdditionalSense::MiscompareDuringVerify)
                .with_information(offset)
        }
        BlockError::DiskFailed if writes => {
            Sense::new(SenseKey::MediumError, AdditionalSense::PeripheralDeviceWriteFault)
        }
        BlockError::DiskFailed => {
            Sense::new(SenseKey::HardwareError, AdditionalSense::InternalTargetFailure)
        }
        // It may come back or be elsewhere; a unit that is gone for good is missed when the next
        // snapshot comes.
        BlockError::VolumeGone => {
            Sense::new(SenseKey::NotReady, AdditionalSense::NotReadyBecomingReady)
        }
    }
}

/// Sets the checksum cells of the pages that `len` bytes from `head` fill.
fn seal<B: Buffer>(data: &mut B, head: usize, len: usize) {
    for page in head.div_ceil(BLOCK)..(head + len) / BLOCK {
        let crc = crc32c::checksum(&data.bytes()[page * BLOCK..(page + 1) * BLOCK]);
        data.crcs_mut()[page] = crc;
    }
}
