//! A shard: one core's share of a disk, with its own journal, allocator and metadata.
//!
//! Requests come in by [`Shard::submit`], are advanced by [`Shard::poll`], and come back as
//! [`Completion`]s. A completed write is durable; every byte that a read returns has matched the
//! checksum that was journaled with it.

mod bits;
mod cache;
mod catalogue;
mod check;
mod checkpoint;
mod checkpointing;
mod device;
mod format;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod grow;
mod journal;
mod layout;
mod map;
mod operation;
mod options;
mod page;
mod pages;
mod places;
mod port;
mod read;
mod record;
mod recovery;
mod redo;
mod report;
mod request;
mod scan;
mod shard;
mod superblock;
mod sweep;
mod trim;
mod write;

pub use catalogue::{KEY_MAX, VALUE_MAX};
pub use check::check;
pub use format::{format, probe};
pub use grow::grow;
pub use options::{FormatOptions, Mode, OpenOptions};
pub use report::{
    CheckOptions, CheckReport, Counters, Event, Finding, FormatError, Formatted, GrowError, Grown,
    MountError, Probe, Progress, Space,
};
pub use shard::{Mounting, Shard};

use crate::dma::{Buf, Slice};

#[cfg(test)]
mod tests;

/// Bytes of a volume's address space in one chunk.
pub const CHUNK: u64 = 256 << 20;

/// A volume within the stores of one disk; never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VolumeId(pub u64);

/// Which chunk of which volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ChunkKey {
    /// The volume.
    pub volume: VolumeId,
    /// Position of the chunk in the volume, in units of [`CHUNK`].
    pub index: u32,
}

/// A range of bytes within one chunk; `offset + len` is at most [`CHUNK`]. Multiples of 512.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// The chunk.
    pub chunk: ChunkKey,
    /// First byte within the chunk.
    pub offset: u32,
    /// Length in bytes, not 0.
    pub len: u32,
}

/// What a host asks of a shard.
///
/// Buffers lie on the chunk's 4 KiB grid: a buffer's first byte stands for `offset` rounded down to
/// 4 KiB, so that whole blocks go to and from the disk as they are, and `crcs()[i]` belongs to the
/// buffer's page `i`.
#[derive(Debug)]
pub enum Request {
    /// Fills `buf`, whose length covers the extent to whole blocks, and its checksum cells. Blocks
    /// never written are zeroes.
    Read {
        /// What to read.
        extent: Extent,
        /// Where it goes.
        buf: Buf,
    },
    /// Checks that the extent can be read, without handing it out.
    Verify {
        /// What to read.
        extent: Extent,
    },
    /// Writes the extent. Checksum cells of blocks that are written whole are those of the data;
    /// of the two edge blocks that may be written in part, the store computes them after the merge.
    Write {
        /// What to write.
        extent: Extent,
        /// Its bytes, from the start of the first block.
        data: Slice,
    },
    /// Compares the extent with `expected` and, only if equal, writes `data`, with no other write
    /// between. Within one 4 KiB block, or a run of whole ones within one slab.
    CompareAndWrite {
        /// What to compare and write.
        extent: Extent,
        /// What must be there.
        expected: Slice,
        /// What replaces it; checksum cells as in `Write`.
        data: Slice,
    },
    /// Whole blocks are unmapped, parts of blocks overwritten with zeroes: the extent reads as
    /// zero.
    Zero {
        /// What to zero.
        extent: Extent,
    },
    /// The extent, whole blocks, answers reads with a media error until it is written again.
    Poison {
        /// What to poison.
        extent: Extent,
    },
}

/// How a request failed. Nothing of a failed write is promised: each of its blocks is old or new.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No free slab for a first write. Overwrites, deallocation and deletion still work.
    #[error("the disk is full")]
    Full,
    /// The block's bytes on the medium do not match its checksum, or cannot be read.
    #[error("block {block} of the chunk cannot be read")]
    Media {
        /// First bad 4 KiB block within the chunk.
        block: u32,
    },
    /// The comparison found a difference; nothing was written.
    #[error("differs at byte {offset} of the extent")]
    Miscompare {
        /// First differing byte, relative to the extent.
        offset: u32,
    },
    /// The disk failed; the shard takes no more writes.
    #[error("the disk has failed")]
    Failed,
}

/// The end of one request.
#[derive(Debug)]
pub struct Completion {
    /// As submitted.
    pub tag: u64,
    /// For a read its buffer, filled, on success; for everything else `None`.
    pub result: Result<Option<Buf>, Error>,
}
