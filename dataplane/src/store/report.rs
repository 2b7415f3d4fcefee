//! What the store says about itself: errors of the slow paths, findings, counters, events.

use super::{ChunkKey, Mode};
use crate::disk;
use storage_spec::disk::EXTENSIONS_MAX;
use uuid::Uuid;

/// Why a disk was not formatted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// The disk belongs to a store already.
    #[error("the disk already holds store {0}; force overwrites it")]
    InUse(Uuid),
    /// Too small for its superblocks, journal, metadata and at least four slabs for each shard.
    #[error("the disk has {capacity} bytes, needs at least {needed}")]
    TooSmall {
        /// Bytes it has.
        capacity: u64,
        /// Bytes it needs.
        needed: u64,
    },
    /// An option contradicts the device or another one.
    #[error("{0}")]
    Option(&'static str),
    /// The arena has no room for the few buffers that formatting takes.
    #[error("no buffer memory")]
    Memory,
    /// The device failed.
    #[error("the device: {0}")]
    Disk(#[from] disk::Error),
}

/// What formatting made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Formatted {
    /// Identity of the data disk.
    pub disk: Uuid,
    /// The mode chosen.
    pub mode: Mode,
    /// Number of shards.
    pub shards: u16,
    /// Bytes for data.
    pub data_bytes: u64,
    /// Bytes of journal in each shard.
    pub journal_bytes: u64,
}

/// Why a disk did not grow.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GrowError {
    /// The disk cannot be read, or is none that could grow.
    #[error("{0}")]
    Mount(#[from] MountError),
    /// The device is larger, but not by what a few slabs of each shard take.
    #[error("the device has {capacity} bytes; to grow it needs at least {needed}")]
    TooLittle {
        /// Bytes it has.
        capacity: u64,
        /// Bytes it needs.
        needed: u64,
    },
    /// There is no room for another extension in the superblock.
    #[error("the disk has grown {EXTENSIONS_MAX} times, which is as often as it can")]
    TooOften,
    /// Each shard has as many slabs as it can.
    #[error("each shard of the disk has 32 TiB, which is as much as it can")]
    Largest,
    /// The device failed.
    #[error("the device: {0}")]
    Disk(#[from] disk::Error),
}

/// What a growth made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grown {
    /// Identity of the disk.
    pub disk: Uuid,
    /// Bytes for data that are new; 0: the disk used all of its device already.
    pub added_bytes: u64,
    /// Bytes for data.
    pub data_bytes: u64,
    /// How often it has grown.
    pub extensions: u32,
}

/// Why a shard was not mounted. Nothing has been written in these cases.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MountError {
    /// Neither end of the disk has a superblock of ours.
    #[error("not a formatted disk (no valid superblock at either end)")]
    NotFormatted,
    /// Written by a newer release.
    #[error("format version {found} is newer than {known}; use the release that wrote it")]
    Version {
        /// On the disk.
        found: u16,
        /// The newest that this release reads.
        known: u16,
    },
    /// The device is smaller than when it was formatted.
    #[error("the device has {capacity} bytes, was formatted with {formatted}: truncated?")]
    Truncated {
        /// Bytes it has.
        capacity: u64,
        /// Bytes it had.
        formatted: u64,
    },
    /// The journal disk is missing, or is not the one that belongs to the data disk.
    #[error("the journal disk is not {0}, the one that belongs to this data disk")]
    JournalDisk(Uuid),
    /// There is no such shard.
    #[error("the disk has {0} shards")]
    NoShard(u16),
    /// Neither checkpoint is intact.
    #[error("neither checkpoint is intact; run `basalt disk check`")]
    NoCheckpoint,
    /// The journal was overwritten beyond the checkpoint found: the newer checkpoint is lost.
    #[error("the newest checkpoint is lost: the journal starts at batch {found}, not {expected}")]
    CheckpointLost {
        /// Sequence on the disk.
        found: u64,
        /// Sequence that the checkpoint names.
        expected: u64,
    },
    /// A batch in the middle of the journal is damaged, and later ones exist.
    #[error(
        "journal batch {sequence} is damaged but later ones exist; acknowledged writes are lost"
    )]
    JournalDamaged {
        /// Sequence of the damaged batch.
        sequence: u64,
    },
    /// The journal, intact, contradicts the checkpoint.
    #[error("journal and checkpoint contradict each other: {0}")]
    Inconsistent(&'static str),
    /// The arena has no room for the buffers that a shard takes.
    #[error("no buffer memory")]
    Memory,
    /// The device failed.
    #[error("the device: {0}")]
    Disk(#[from] disk::Error),
}

/// What the superblocks of a disk say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// Identity of the disk.
    pub disk: Uuid,
    /// Identity of the journal disk that belongs to it, or of the data disk.
    pub partner: Option<Uuid>,
    /// Whether this is a journal disk.
    pub is_journal: bool,
    /// Of the format.
    pub version: u16,
    /// New at every format.
    pub incarnation: u64,
    /// The mode.
    pub mode: Mode,
    /// Number of shards.
    pub shards: u16,
    /// Bytes for data.
    pub data_bytes: u64,
    /// How often it has grown.
    pub extensions: u32,
    /// Bytes for data that it would gain if it grew: the device is larger than the disk.
    pub growable_bytes: u64,
    /// Bytes of journal in each shard.
    pub journal_bytes: u64,
    /// Which of the two superblocks are intact: at the start, at the end.
    pub intact: [bool; 2],
}

/// How far a check shall go.
#[derive(Debug, Clone, Copy, Default)]
pub struct CheckOptions {
    /// Whether data blocks are left unread.
    pub metadata_only: bool,
}

/// How far a check has come: bytes read of bytes to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Bytes read.
    pub done: u64,
    /// Bytes to read.
    pub total: u64,
}

/// One thing that a check found wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Which shard; `None` for the disk as a whole.
    pub shard: Option<u16>,
    /// What is wrong, for people.
    pub what: String,
    /// Whether data are concerned, or only a redundant copy of metadata.
    pub data_lost: bool,
}

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CheckReport {
    /// How often the disk has grown.
    pub extensions: u32,
    /// Chunks in the map.
    pub chunks: u64,
    /// Slabs in the map.
    pub slabs: u64,
    /// Blocks that hold data.
    pub blocks: u64,
    /// Journal batches that wait to be redone.
    pub batches: u64,
    /// What is wrong, at most [`CheckReport::FINDINGS_MAX`] of it.
    pub findings: Vec<Finding>,
    /// How much is wrong.
    pub findings_total: u64,
}

impl CheckReport {
    /// Most findings kept.
    pub const FINDINGS_MAX: usize = 1000;
}

/// Sizes in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Space {
    /// For data.
    pub capacity: u64,
    /// In slabs that no chunk has.
    pub free: u64,
}

/// What a shard has done since it was mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Read requests completed.
    pub reads: u64,
    /// Write requests completed.
    pub writes: u64,
    /// Bytes read for hosts.
    pub read_bytes: u64,
    /// Bytes written by hosts.
    pub write_bytes: u64,
    /// Other requests completed.
    pub others: u64,
    /// Writes that were refused for want of room, in the shard or behind its device.
    pub refused_full: u64,
    /// Blocks whose bytes did not match their checksum, or could not be read.
    pub block_errors: u64,
    /// Blocks that did match on a second read.
    pub block_retries: u64,
    /// Metadata pages that could not be read or were not the ones written last, at the mount too.
    pub page_errors: u64,
    /// Journal batches written.
    pub journal_batches: u64,
    /// Journal bytes written.
    pub journal_bytes: u64,
    /// Checkpoints completed.
    pub checkpoints: u64,
    /// Metadata page look-ups that found the page in memory.
    pub cache_hits: u64,
    /// Metadata page look-ups that had to read.
    pub cache_misses: u64,
    /// Writes to blocks that held nothing: data and record in parallel.
    pub path_fresh: u64,
    /// Writes whose data went through the journal.
    pub path_payload: u64,
    /// Writes in place after their record.
    pub path_ordered: u64,
}

/// Something that an operator may want to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A block cannot be read or did not match its checksum.
    BlockError {
        /// Where.
        chunk: ChunkKey,
        /// The block within the chunk.
        block: u32,
    },
    /// A slab's metadata page was unreadable or out of date: its blocks answer with errors. Found
    /// while the shard serves requests, an unreadable page is tried again; found by a recovery, it
    /// is given up, and blocks that the journal knows are not concerned.
    PageError {
        /// Where.
        chunk: ChunkKey,
        /// The slab's index within the chunk.
        index: u32,
    },
    /// The device failed a write or flush: the shard takes no more writes.
    Failed,
    /// Recovery has redone the journal.
    Recovered {
        /// Batches redone.
        batches: u64,
        /// Blocks found neither old nor new.
        lost_blocks: u64,
    },
}
