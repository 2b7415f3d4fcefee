//! One core's share of a disk: its state, and what drives it.

use super::cache::{Cache, NONE};
use super::checkpoint::{Mark, Tables};
use super::checkpointing::Checkpointing;
use super::device::{Device, Event as DeviceEvent, What};
use super::journal::{Journal, Limits, Tracker};
use super::layout::Areas;
use super::operation::Operation;
use super::places::Places;
use super::read::Pieces;
use super::recovery;
use super::request::Pending;
use super::sweep::Sweep;
use super::{
    Completion, Counters, Error, Event, Mode, MountError, OpenOptions, Space, VolumeId, port,
};
use crate::disk::{self, Disk, Op, WriteData};
use crate::dma::{Buf, Pool, Slice};
use std::collections::VecDeque;
use std::future::Future;
#[cfg(any(test, feature = "sim"))]
use std::ops::Range;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;
use storage_spec::disk::{BLOCK, SLAB_BLOCKS};

/// Buffers kept for metadata pages, so that they never wait for memory.
pub(super) const PAGE_BUFS: usize = 16;
/// Events kept for whoever asks; older ones give way.
const EVENTS_MAX: usize = 256;
/// Places made ready for requests in flight.
const REQUESTS_READY: usize = 1024;
/// Places made ready for reads that are cut.
const PIECES_READY: usize = 64;

/// A shard that is being recovered.
pub struct Mounting {
    path: Pin<Box<dyn Future<Output = Result<Shard, MountError>>>>,
}

impl Mounting {
    /// Advances; the shard once it is ready. Not to be called again afterwards.
    pub fn poll(&mut self) -> Option<Result<Shard, MountError>> {
        port::poll_once(self.path.as_mut())
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
            std::thread::yield_now();
        }
    }
}

/// One core's share of a disk.
pub struct Shard {
    pub(super) areas: Areas,
    pub(super) mode: Mode,
    pub(super) options: OpenOptions,
    pub(super) pool: Rc<Pool>,
    pub(super) data: Device,
    /// The journal's device, where it is not the data's.
    journal_device: Option<Device>,
    pub(super) tables: Tables,
    pub(super) cache: Cache,
    pub(super) journal: Journal,
    pub(super) requests: Places<Pending>,
    pub(super) operations: Places<Operation>,
    /// Buffers of reads that were cut, one entry for each such read.
    pub(super) pieces: Places<Pieces>,
    /// Writes in place whose data may not be durable.
    pub(super) intents: Tracker,
    /// Payload writes whose data are not in place.
    pub(super) destages: Tracker,
    pub(super) destage_queue: Sweep,
    /// Vectors of merged destages, to be used again.
    pub(super) destage_vectors: Vec<Vec<Slice>>,
    pub(super) destaging: usize,
    /// Operations without a slot, or without room in the journal for a new slab.
    pub(super) wait_start: VecDeque<u32>,
    /// Operations without room in the journal.
    pub(super) wait_journal: VecDeque<u32>,
    /// Operations without a buffer.
    pub(super) wait_memory: VecDeque<u32>,
    /// Slots whose waiting operations are to be looked at.
    pub(super) wakes: Vec<u32>,
    /// Requests whose next operations are to be made.
    pub(super) advances: Vec<u32>,
    pub(super) page_bufs: Vec<Buf>,
    pub(super) page_writes: usize,
    /// Slabs of which the device is to be told that nobody has them.
    pub(super) wait_free: VecDeque<u32>,
    /// Slabs of which it is being told.
    pub(super) freeing: usize,
    /// Those of them to be written with zeroes as soon as there is a buffer.
    pub(super) wait_zero: VecDeque<u32>,
    pub(super) checkpointing: Checkpointing,
    pub(super) catalogue_pending: u64,
    pub(super) done: Vec<Completion>,
    pub(super) counters: Counters,
    pub(super) is_failed: bool,
    pub(super) is_stopping: bool,
    events: VecDeque<Event>,
    device_events: Vec<DeviceEvent>,
    members: Vec<u32>,
    pub(super) now: Duration,
}

/// What recovery hands over.
pub(super) struct Recovered {
    pub(super) areas: Areas,
    pub(super) mode: Mode,
    pub(super) tables: Tables,
    /// Sequence of the newest checkpoint.
    pub(super) checkpoint: u64,
    /// Where the journal goes on.
    pub(super) mark: Mark,
    /// Metadata pages that it had to give up.
    pub(super) page_errors: u64,
    pub(super) events: Vec<Event>,
}

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
        let options = options.clone();
        Mounting { path: Box::pin(recovery::mount(data, journal, shard, options, pool)) }
    }

    pub(super) fn new(
        data: Box<dyn Disk>,
        journal: Option<Box<dyn Disk>>,
        recovered: Recovered,
        options: OpenOptions,
        pool: Rc<Pool>,
    ) -> Result<Self, MountError> {
        let Recovered { areas, mode, tables, checkpoint, mark, page_errors, events } = recovered;
        let data = Device::new(data);
        let journal_device = journal.map(Device::new);
        let transfer_max =
            journal_device.as_ref().map_or(data.transfer_max, |device| device.transfer_max);
        let limits = Limits::of(areas.journal_blocks, transfer_max.min(data.transfer_max));
        let page_bufs: Vec<Buf> = (0..PAGE_BUFS).map_while(|_| pool.alloc(BLOCK)).collect();
        if page_bufs.len() < PAGE_BUFS {
            return Err(MountError::Memory);
        }
        let mut shard = Self {
            cache: Cache::new(options.cache_bytes, areas.slabs),
            journal: Journal::new(areas, limits, mark, &pool).ok_or(MountError::Memory)?,
            checkpointing: Checkpointing::new(checkpoint, mark.position),
            areas,
            mode,
            options,
            pool,
            data,
            journal_device,
            tables,
            requests: Places::with_capacity(REQUESTS_READY),
            operations: Places::with_capacity(REQUESTS_READY),
            pieces: Places::with_capacity(PIECES_READY),
            intents: Tracker::default(),
            destages: Tracker::default(),
            destage_queue: Sweep::default(),
            destage_vectors: Vec::new(),
            destaging: 0,
            wait_start: VecDeque::new(),
            wait_journal: VecDeque::new(),
            wait_memory: VecDeque::new(),
            wakes: Vec::with_capacity(64),
            advances: Vec::with_capacity(64),
            page_bufs,
            page_writes: 0,
            wait_free: VecDeque::new(),
            freeing: 0,
            wait_zero: VecDeque::new(),
            catalogue_pending: 0,
            done: Vec::with_capacity(REQUESTS_READY),
            counters: Counters { page_errors, ..Counters::default() },
            is_failed: false,
            is_stopping: false,
            events: events.into(),
            device_events: Vec::with_capacity(REQUESTS_READY),
            members: Vec::with_capacity(REQUESTS_READY),
            now: Duration::ZERO,
        };
        shard.free_leaving();
        Ok(shard)
    }

    /// Goes on with freeing the slabs that were being freed before the mount.
    fn free_leaving(&mut self) {
        let mut next = 0;
        while let Some(slab) = self.tables.map.next_leaving(next) {
            self.free_slab(slab);
            next = slab + 1;
        }
    }

    /// Advances what is in flight and appends what has ended. `now` is the time since some start.
    pub fn poll(&mut self, now: Duration, done: &mut Vec<Completion>) {
        self.now = now;
        let mut events = std::mem::take(&mut self.device_events);
        self.data.poll(&mut events);
        if let Some(device) = &mut self.journal_device {
            device.poll(&mut events);
        }
        for event in events.drain(..) {
            self.take_event(event);
        }
        self.device_events = events;
        self.settle();
        self.retry_waiting();
        self.settle();
        self.close_batch();
        self.pump_destages();
        self.pump_frees();
        self.step_checkpoint();
        done.append(&mut self.done);
    }

    /// Requests submitted and not yet completed.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.requests.len() + self.done.len()
    }

    /// Whether something is in flight whose end nobody notices but [`Shard::poll`].
    #[must_use]
    pub fn must_poll(&self) -> bool {
        self.data.must_poll() || self.journal_device.as_ref().is_some_and(Device::must_poll)
    }

    /// Largest [`super::Request::CompareAndWrite`] in bytes.
    #[must_use]
    pub fn compare_and_write_max(&self) -> u32 {
        self.journal.limits.extent_blocks * BLOCK as u32
    }

    /// Bytes that the volume holds, in whole slabs.
    #[must_use]
    pub fn volume_usage(&self, volume: VolumeId) -> u64 {
        slabs_to_bytes(self.tables.map.volume_slabs(volume))
    }

    /// Bytes for data, and free ones.
    #[must_use]
    pub fn space(&self) -> Space {
        Space {
            capacity: slabs_to_bytes(self.tables.map.slab_count()),
            free: slabs_to_bytes(self.tables.map.free_slabs()),
        }
    }

    /// Where data and slabs' pages lie on the device, in bytes, for a simulator that damages them.
    /// Of a disk that has grown, those that it was formatted with.
    #[cfg(any(test, feature = "sim"))]
    pub(crate) fn places(&self) -> [Range<u64>; 2] {
        let (first, slabs) = (self.areas.segments()[0], u64::from(self.areas.slabs_of(0).end));
        let end = first.data + slabs * SLAB_BLOCKS as u64;
        [first.data..end, first.pages..first.pages + 2 * slabs]
            .map(|blocks| blocks.start * BLOCK as u64..blocks.end * BLOCK as u64)
    }

    /// What has been done so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Takes the oldest event not yet taken.
    pub fn next_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Whether the device failed a write: reads go on, writes are refused.
    #[must_use]
    pub fn is_failed(&self) -> bool {
        self.is_failed
    }

    /// The durable value of a key of the catalogue.
    #[must_use]
    pub fn catalogue_get(&self, key: &[u8]) -> Option<&[u8]> {
        self.tables.catalogue.get(key)
    }

    /// All durable entries of the catalogue in the order of their keys.
    pub fn catalogue(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.tables.catalogue.iter()
    }

    /// No more requests come: what is in flight ends, then a checkpoint is written. Poll until
    /// [`Shard::is_shut_down`].
    pub fn shutdown(&mut self) {
        self.is_stopping = true;
    }

    /// Whether the shutdown is complete; the shard may then be dropped.
    #[must_use]
    pub fn is_shut_down(&self) -> bool {
        let is_idle = self.data.is_idle()
            && self.journal_device.as_ref().is_none_or(Device::is_idle)
            && self.in_flight() == 0;
        self.is_stopping && is_idle && (self.is_failed || self.checkpointing.is_clean())
    }

    /// Adds an event; the oldest gives way where nobody asks.
    pub(super) fn tell(&mut self, event: Event) {
        if self.events.len() == EVENTS_MAX {
            self.events.pop_front();
        }
        self.events.push_back(event);
    }

    /// Carries out what completions have made possible, until nothing is left.
    pub(super) fn settle(&mut self) {
        loop {
            if let Some(slot) = self.wakes.pop() {
                self.wake(slot);
            } else if let Some(request) = self.advances.pop() {
                self.advance(request);
            } else {
                return;
            }
        }
    }

    /// A buffer of one block for metadata.
    pub(super) fn page_buf(&mut self) -> Option<Buf> {
        self.page_bufs.pop().or_else(|| self.pool.alloc(BLOCK))
    }

    /// Has such a buffer back; more than a few belong to everybody.
    pub(super) fn return_page_buf(&mut self, buf: Buf) {
        if self.page_bufs.len() < PAGE_BUFS {
            self.page_bufs.push(buf);
        }
    }

    /// The device failed a write or flush: nothing is written any more.
    pub(super) fn fail(&mut self) {
        if std::mem::replace(&mut self.is_failed, true) {
            return;
        }
        self.tell(Event::Failed);
        self.checkpointing.stop();
        let mut members = std::mem::take(&mut self.members);
        self.journal.abandon(&mut members);
        for member in members.drain(..) {
            let operation = &mut self.operations[member];
            operation.waits_for_journal = false;
            if operation.io == 0 {
                self.finish(member, Err(Error::Failed));
            }
        }
        self.members = members;
        while let Some(waiting) = self.wait_journal.pop_front() {
            self.finish(waiting, Err(Error::Failed));
        }
        while let Some((_, queued)) = self.destage_queue.pop() {
            self.finish(queued, Ok(()));
        }
    }

    fn close_batch(&mut self) {
        if self.is_failed {
            return;
        }
        let pending = self.intents.first_pending();
        let completed = pending.unwrap_or_else(|| self.journal.next_lsn()) - 1;
        let device = self.journal_device.as_mut().unwrap_or(&mut self.data);
        if let Some(blocks) = self.journal.close(completed, device) {
            self.counters.journal_batches += 1;
            self.counters.journal_bytes += blocks * BLOCK as u64;
        }
    }

    fn retry_waiting(&mut self) {
        for _ in 0..self.wait_memory.len() {
            let waiting = self.wait_memory.pop_front().expect("counted");
            self.run(waiting);
        }
        while let Some(&waiting) = self.wait_journal.front() {
            if !self.fits(waiting) {
                break;
            }
            self.wait_journal.pop_front();
            self.run_again(waiting);
        }
        while let Some(&waiting) = self.wait_start.front() {
            if !self.try_start(waiting) {
                break;
            }
            self.wait_start.pop_front();
        }
    }

    fn take_event(&mut self, event: DeviceEvent) {
        let DeviceEvent { what, index, op, result } = event;
        let is_harmless = what == What::Data && self.is_harmless(index, result);
        if !is_harmless && result.is_err_and(|error| is_fatal(what, &op, error)) {
            self.fail();
        }
        match (what, op) {
            (What::Read, Op::Read { buf, offset }) => self.read_done(index, buf, offset, result),
            (What::Reread, Op::Read { buf, .. }) => self.reread_done(index, buf, result),
            (What::PageRead, Op::Read { buf, .. }) => self.page_read(index, buf, result),
            (What::PageWrite, Op::Write { data, .. }) => self.page_written(index, data, result),
            (What::Data, Op::Write { data: WriteData::One(data), .. }) => {
                self.data_written(index, data, result);
            }
            (What::Destage, Op::Write { data, .. }) => self.destaged(index, data),
            (What::Journal, Op::Write { data, .. }) => self.journal_written(data),
            (What::Content, Op::Write { data, .. }) => self.content_written(data),
            (What::Header, _) => self.header_written(),
            (What::Flush, _) => self.checkpoint_flushed(),
            (What::Free, op) => self.freed(index, op, result),
            (what, op) => unreachable!("{what:?} came back as {op:?}"),
        }
    }

    fn journal_written(&mut self, data: WriteData) {
        let mut members = std::mem::take(&mut self.members);
        self.journal.part_done(data, &mut members);
        for member in members.drain(..) {
            self.recorded(member);
        }
        self.members = members;
    }
}

/// Whether an error ends the writing.
fn is_fatal(what: What, op: &Op, error: disk::Error) -> bool {
    match (what, op) {
        (What::Read | What::Reread | What::PageRead, _) => false,
        // Advice: a slab is as free without it.
        (What::Free, Op::Deallocate { .. }) => error == disk::Error::Removed,
        // Zeroes are written instead.
        (What::Free, Op::WriteZeroes { .. }) => error != disk::Error::Unsupported,
        _ => true,
    }
}

fn slabs_to_bytes(slabs: u32) -> u64 {
    u64::from(slabs) * (SLAB_BLOCKS * BLOCK) as u64
}

/// No operation, request, or slot.
pub(super) const NOTHING: u32 = NONE;
