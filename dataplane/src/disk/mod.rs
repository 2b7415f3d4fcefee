//! The contract between the store and a storage device, whatever drives it.
//!
//! A driver is polled: [`Disk::submit`] queues, [`Disk::poll`] reports. Buffers travel with the
//! operation and come back with its completion, so that no memory that a device may write is ever
//! borrowed by anybody else.

pub mod ahci;
pub mod conformance;
pub mod health;
pub mod kernel;
pub mod latency;
pub mod nvme;
pub mod ram;
mod shared;
pub mod single;
#[cfg(test)]
mod test_ops;

pub use shared::Shared;

use crate::dma::{Buf, Slice};

/// What identifies an operation to its submitter; returned unchanged.
pub type Tag = u64;

/// One operation. Offsets and lengths are bytes and multiples of [`Info::block_size`].
#[derive(Debug)]
pub enum Op {
    /// Fills the whole of `buf` from `offset`.
    Read {
        /// Position on the disk.
        offset: u64,
        /// Where the data go.
        buf: Buf,
    },
    /// Writes `data` one after another, starting at `offset`.
    Write {
        /// Position on the disk.
        offset: u64,
        /// What is written; adjacent on the disk in this order.
        data: WriteData,
        /// Whether the data must be durable before the completion.
        fua: bool,
    },
    /// Makes every write that completed before this submission durable.
    Flush,
    /// Tells the device that the range is not needed; it may then read as anything.
    Deallocate {
        /// Position on the disk.
        offset: u64,
        /// Length in bytes.
        len: u64,
    },
    /// The range reads as zeroes afterwards.
    WriteZeroes {
        /// Position on the disk.
        offset: u64,
        /// Length in bytes.
        len: u64,
    },
}

/// What one write carries, in the order in which it lies on the disk. Each segment is a multiple of
/// the block size long.
#[derive(Debug, Clone)]
pub enum WriteData {
    /// One segment: the rule on the I/O path.
    One(Slice),
    /// Several, at most [`SEGMENTS_MAX`]: merged background writes.
    Many(Vec<Slice>),
}

impl WriteData {
    /// The segments in order.
    #[must_use]
    pub fn segments(&self) -> &[Slice] {
        match self {
            Self::One(slice) => std::slice::from_ref(slice),
            Self::Many(slices) => slices,
        }
    }

    /// Total length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.segments().iter().map(|slice| slice.len()).sum()
    }

    /// Whether there is nothing to write.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Most segments in one write.
pub const SEGMENTS_MAX: usize = 64;

/// An operation that has ended, with its buffers.
#[derive(Debug)]
pub struct Completion {
    /// As submitted.
    pub tag: Tag,
    /// As submitted; a successful read's buffer is full.
    pub op: Op,
    /// How it ended.
    pub result: Result<(), Error>,
}

/// How an operation failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The device could not read these blocks; others are fine.
    #[error("unrecovered read error")]
    Media,
    /// The device refused or failed a write, a flush, or lost contact: nothing written since the
    /// last good flush can be trusted, and the disk is not written again until re-initialised.
    #[error("device failed")]
    Failed,
    /// No space behind the device (a sparse file on a full file system).
    #[error("no space behind the device")]
    NoSpace,
    /// The device does not have this operation.
    #[error("operation not supported by the device")]
    Unsupported,
    /// What was compared is not what is on the medium.
    #[error("compared data differ")]
    Mismatch,
    /// The device is gone.
    #[error("device removed")]
    Removed,
}

/// What a device is and can do. Does not change while it is open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Info {
    /// Path or address, for people.
    pub name: String,
    /// Capacity in bytes; a multiple of `block_size`.
    pub capacity: u64,
    /// Smallest unit of transfer and alignment in bytes: a power of two, 512 to 4096.
    pub block_size: u32,
    /// Bytes that a power cut leaves wholly old or wholly new, when aligned: 0 where unknown.
    pub atomic_write: u32,
    /// Whether completed writes may be lost at a power cut until flushed.
    pub volatile_cache: bool,
    /// Whether `fua` is cheaper than a flush.
    pub fua: bool,
    /// Whether `Deallocate` does anything.
    pub deallocate: bool,
    /// Whether the medium turns: seeks are dear.
    pub rotational: bool,
    /// Most operations in flight at once.
    pub queue_depth: usize,
    /// Largest transfer in bytes; a multiple of 4096.
    pub transfer_max: usize,
}

impl Info {
    /// Asserts that an operation lies on the disk and is aligned to its blocks, as its submitter
    /// must see to.
    fn check(&self, op: &Op) {
        let (offset, len) = match op {
            Op::Read { offset, buf } => (*offset, buf.len() as u64),
            Op::Write { offset, data, .. } => (*offset, data.len() as u64),
            Op::Flush => return,
            Op::Deallocate { offset, len } | Op::WriteZeroes { offset, len } => (*offset, *len),
        };
        let block = u64::from(self.block_size);
        assert!(
            len > 0 && offset.is_multiple_of(block) && len.is_multiple_of(block),
            "{offset}+{len} in blocks of {block}"
        );
        let end = offset.checked_add(len);
        assert!(end.is_some_and(|end| end <= self.capacity), "{offset}+{len} on the disk");
    }

    /// As [`Info::check`], and that its data fit in one command of a driver of our own.
    fn check_transfer(&self, op: &Op) {
        self.check(op);
        let len = match op {
            Op::Read { buf, .. } => buf.len(),
            Op::Write { data, .. } => {
                assert!(data.segments().len() <= SEGMENTS_MAX);
                data.len()
            }
            Op::Flush | Op::Deallocate { .. } | Op::WriteZeroes { .. } => return,
        };
        let most = self.transfer_max;
        assert!(len <= most, "{len} bytes in one transfer of at most {most}");
    }
}

/// A storage device driven by one core.
///
/// An implementer must:
/// - complete every submitted operation exactly once, in any order;
/// - keep no order between operations in flight: the submitter serialises what overlaps;
/// - report [`Error::Failed`] rather than guess, and fail whatever comes afterwards, but for reads
///   that still succeed;
/// - never block: an operation that would is carried on by `poll`.
///
/// A caller must:
/// - keep offsets, lengths and buffers within and aligned to [`Info`];
/// - hold no more than [`Info::queue_depth`] operations in flight;
/// - call `poll` until everything has completed before it drops the disk.
///
/// `disk::conformance` is the suite that every implementer passes.
pub trait Disk {
    /// What the device is.
    fn info(&self) -> &Info;

    /// Takes an operation. It starts now or at the next [`Disk::poll`].
    fn submit(&mut self, tag: Tag, op: Op);

    /// Advances what is in flight and appends what has ended to `done`, at most its free capacity.
    fn poll(&mut self, done: &mut Vec<Completion>);

    /// Operations submitted and not yet reported.
    fn in_flight(&self) -> usize;

    /// Whether something is in flight whose end nobody notices but [`Disk::poll`], and which the
    /// core's hardware queues do not know of: the core must not sleep.
    fn must_poll(&self) -> bool {
        false
    }
}
