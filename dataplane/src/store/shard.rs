//! One core's share of a disk. (The interface; the implementation follows.)

use super::{
    CheckOptions, CheckReport, Completion, Counters, Event, FormatError, FormatOptions, Formatted,
    MountError, OpenOptions, Probe, Progress, Request, Space, VolumeId,
};
use crate::disk::Disk;
use crate::dma::Pool;
use std::rc::Rc;
use std::time::Duration;

/// Writes superblocks and empty checkpoints. `journal` is the separate journal disk, if any.
///
/// Blocks the caller.
///
/// # Errors
/// See [`FormatError`]; unless it is `Disk`, nothing has been written.
pub fn format(
    data: Box<dyn Disk>,
    journal: Option<Box<dyn Disk>>,
    options: &FormatOptions,
    pool: &Pool,
) -> Result<Formatted, FormatError> {
    let _ = (data, journal, options, pool);
    unreachable!("not there yet")
}

/// Reads the superblocks of a disk. Blocks the caller.
///
/// # Errors
/// [`MountError::NotFormatted`] if it has none of ours; others as the device fails.
pub fn probe(disk: Box<dyn Disk>, pool: &Pool) -> Result<Probe, MountError> {
    let _ = (disk, pool);
    unreachable!("not there yet")
}

/// Reads every structure and every block that a chunk holds, and writes nothing. Blocks the caller.
///
/// # Errors
/// [`MountError`] when there is nothing that could be checked.
pub fn check(
    data: Box<dyn Disk>,
    journal: Option<Box<dyn Disk>>,
    options: CheckOptions,
    pool: &Pool,
    progress: &mut dyn FnMut(Progress),
) -> Result<CheckReport, MountError> {
    let _ = (data, journal, options, pool, progress);
    unreachable!("not there yet")
}

/// A shard that is being recovered.
pub struct Mounting {}

impl Mounting {
    /// Advances; the shard once it is ready.
    pub fn poll(&mut self) -> Option<Result<Shard, MountError>> {
        unreachable!("not there yet")
    }

    /// Polls until the shard is ready.
    ///
    /// # Errors
    /// As the mount fails.
    pub fn wait(mut self) -> Result<Shard, MountError> {
        loop {
            if let Some(result) = self.poll() {
                return result;
            }
        }
    }
}

/// One core's share of a disk.
pub struct Shard {}

impl Shard {
    /// Starts to mount shard `shard` of the disk. Each shard has handles of its own to the devices.
    #[must_use]
    pub fn mount(
        data: Box<dyn Disk>,
        journal: Option<Box<dyn Disk>>,
        shard: u16,
        options: &OpenOptions,
        pool: Rc<Pool>,
    ) -> Mounting {
        let _ = (data, journal, shard, options, pool);
        unreachable!("not there yet")
    }

    /// Takes a request; its completion carries `tag`.
    pub fn submit(&mut self, tag: u64, request: Request) {
        let _ = (tag, request);
    }

    /// Advances what is in flight and appends what has ended.
    pub fn poll(&mut self, now: Duration, done: &mut Vec<Completion>) {
        let _ = (now, done);
    }

    /// Requests submitted and not yet completed.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        0
    }

    /// Largest [`Request::CompareAndWrite`] in bytes.
    #[must_use]
    pub fn compare_and_write_max(&self) -> u32 {
        0
    }

    /// Frees everything that the volume holds; idempotent, so that it can be repeated after a crash.
    /// The volume takes no other requests meanwhile.
    pub fn drop_volume(&mut self, tag: u64, volume: VolumeId) {
        let _ = (tag, volume);
    }

    /// Bytes that the volume holds, in whole slabs.
    #[must_use]
    pub fn volume_usage(&self, volume: VolumeId) -> u64 {
        let _ = volume;
        0
    }

    /// Bytes for data, and free ones.
    #[must_use]
    pub fn space(&self) -> Space {
        Space::default()
    }

    /// What has been done so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        Counters::default()
    }

    /// Takes the oldest event not yet taken.
    pub fn next_event(&mut self) -> Option<Event> {
        None
    }

    /// Whether the device failed a write: reads go on, writes are refused.
    #[must_use]
    pub fn is_failed(&self) -> bool {
        false
    }

    /// Durably sets a catalogue entry: key of 1 to 64 bytes, value of at most 1 KiB. Completes with
    /// `tag`; [`super::Error::Full`] when the catalogue has no room.
    pub fn catalogue_put(&mut self, tag: u64, key: &[u8], value: &[u8]) {
        let _ = (tag, key, value);
    }

    /// Durably removes a catalogue entry, if it is there. Completes with `tag`.
    pub fn catalogue_delete(&mut self, tag: u64, key: &[u8]) {
        let _ = (tag, key);
    }

    /// The durable value of a key.
    #[must_use]
    pub fn catalogue_get(&self, key: &[u8]) -> Option<&[u8]> {
        let _ = key;
        None
    }

    /// All durable entries in the order of their keys.
    pub fn catalogue(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        std::iter::empty()
    }

    /// No more requests come: what is in flight ends, then a checkpoint is written. Poll until
    /// [`Shard::is_shut_down`].
    pub fn shutdown(&mut self) {}

    /// Whether the shutdown is complete; the shard may then be dropped.
    #[must_use]
    pub fn is_shut_down(&self) -> bool {
        true
    }
}
