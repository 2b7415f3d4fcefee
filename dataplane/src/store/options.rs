//! What a person may choose at format and at mount.

use std::time::Duration;
use uuid::Uuid;

/// How overwrites are kept safe over a power cut; fixed at format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// The medium writes 4 KiB wholly or not at all: intents in the journal, data in place.
    Intent,
    /// Nothing is known of the medium: data go to the journal first.
    Data,
}

/// Choices at format.
#[derive(Debug, Clone)]
pub struct FormatOptions {
    /// The mode; `None` takes [`Mode::Intent`] where the device reports an atomic write of 4 KiB.
    pub mode: Option<Mode>,
    /// Shards in which the disk is divided, one for each core that serves it.
    pub shards: u16,
    /// Bytes of journal for each shard; 0 chooses by capacity.
    pub journal_bytes: u64,
    /// Bytes of catalogue that each shard has room for.
    pub catalogue_bytes: u64,
    /// Identity of the data disk.
    pub disk: Uuid,
    /// Identity of the journal disk, if there is one.
    pub journal_disk: Uuid,
    /// A random number that no earlier format of these disks had.
    pub incarnation: u64,
    /// Whether a disk that already has a superblock is overwritten.
    pub force: bool,
}

impl FormatOptions {
    /// One shard, everything else chosen by the device. `disk` and `incarnation` are to be random.
    #[must_use]
    pub fn new(disk: Uuid, incarnation: u64) -> Self {
        Self {
            mode: None,
            shards: 1,
            journal_bytes: 0,
            catalogue_bytes: 1 << 20,
            disk,
            journal_disk: Uuid::from_u128(disk.as_u128() ^ 1),
            incarnation,
            force: false,
        }
    }
}

/// Choices at mount.
#[derive(Debug, Clone)]
pub struct OpenOptions {
    /// Memory for cached metadata pages in bytes, for this shard.
    pub cache_bytes: usize,
    /// Largest overwrite in bytes whose data go through the journal in intent mode: it saves the
    /// second wait and costs a second write.
    pub payload_max: u32,
    /// How old the oldest change that is only in the journal may become.
    pub checkpoint_interval: Duration,
    /// Whether freed slabs are deallocated on the device.
    pub discard: bool,
    /// Whether freed slabs are overwritten with zeroes before they are used again.
    pub zero_on_free: bool,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self {
            cache_bytes: 64 << 20,
            payload_max: 16 << 10,
            checkpoint_interval: Duration::from_secs(30),
            discard: true,
            zero_on_free: false,
        }
    }
}
