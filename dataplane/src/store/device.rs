//! A disk as the shard uses it: bounded depth, and writes whose completion means *durable*.

use crate::disk::{Completion, Disk, Error, Op, WriteData};
use crate::dma::{Buf, Slice};
use std::collections::VecDeque;

/// What an operation is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum What {
    /// Blocks for a reader; index: sub-operation.
    Read,
    /// One block once more; index: sub-operation.
    Reread,
    /// Blocks of a write; index: sub-operation.
    Data,
    /// Payload that goes in place; index: sub-operation, the first of its group.
    Destage,
    /// Metadata page; index: cache slot.
    PageRead,
    /// Metadata page; index: cache slot.
    PageWrite,
    /// Part of a batch.
    Journal,
    /// Page of a checkpoint.
    Content,
    /// Header of a checkpoint.
    Header,
    /// The checkpoint's flush.
    Flush,
    /// Deallocation or zeroing; index: slab.
    Free,
}

const WHATS: [What; 11] = [
    What::Read,
    What::Reread,
    What::Data,
    What::Destage,
    What::PageRead,
    What::PageWrite,
    What::Journal,
    What::Content,
    What::Header,
    What::Flush,
    What::Free,
];

/// When a write counts as done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    /// When the device has it; [`Device::flush`] makes it durable.
    Lazy,
    /// When it is durable, as soon as possible.
    Prompt,
    /// When it is durable; many share one flush.
    Grouped,
}

/// An operation that has ended.
#[derive(Debug)]
pub(super) struct Event {
    pub(super) what: What,
    pub(super) index: u32,
    pub(super) op: Op,
    pub(super) result: Result<(), Error>,
}

/// The flush that stands behind grouped writes.
const GROUP_FLUSH: u64 = u64::MAX;

/// A disk with a queue before it and flushes behind it.
pub(super) struct Device {
    disk: Box<dyn Disk>,
    depth: usize,
    has_cache: bool,
    has_fua: bool,
    pub(super) transfer_max: usize,
    pub(super) rotational: bool,
    queue: VecDeque<(u64, Op)>,
    completions: Vec<Completion>,
    unflushed: Vec<Event>,
    flushing: Vec<Event>,
    flush_in_flight: bool,
}

impl Device {
    pub(super) fn new(disk: Box<dyn Disk>) -> Self {
        let info = disk.info();
        let depth = info.queue_depth.max(1);
        Self {
            depth,
            has_cache: info.volatile_cache,
            has_fua: info.fua,
            transfer_max: info.transfer_max,
            rotational: info.rotational,
            queue: VecDeque::with_capacity(depth),
            completions: Vec::with_capacity(depth.min(256)),
            unflushed: Vec::with_capacity(depth),
            flushing: Vec::with_capacity(depth),
            flush_in_flight: false,
            disk,
        }
    }

    /// Operations that have not been reported.
    pub(super) fn must_poll(&self) -> bool {
        self.disk.must_poll()
    }

    pub(super) fn is_idle(&self) -> bool {
        self.disk.in_flight() == 0
            && self.queue.is_empty()
            && self.unflushed.is_empty()
            && self.flushing.is_empty()
    }

    pub(super) fn can_deallocate(&self) -> bool {
        self.disk.info().deallocate
    }

    pub(super) fn read(&mut self, what: What, index: u32, offset: u64, buf: Buf) {
        self.start(tag(what, false, index), Op::Read { offset, buf });
    }

    pub(super) fn write(&mut self, what: What, index: u32, at: u64, data: WriteData, class: Class) {
        let fua = class == Class::Prompt && self.has_cache && self.has_fua;
        let needs_flush = class != Class::Lazy && self.has_cache && !fua;
        self.start(tag(what, needs_flush, index), Op::Write { offset: at, data, fua });
    }

    /// As [`Device::write`] for one segment.
    pub(super) fn write_one(&mut self, what: What, index: u32, at: u64, data: Slice, class: Class) {
        self.write(what, index, at, WriteData::One(data), class);
    }

    /// Ends when every write that was reported before is durable.
    pub(super) fn flush(&mut self) {
        self.start(tag(What::Flush, false, 0), Op::Flush);
    }

    pub(super) fn deallocate(&mut self, index: u32, offset: u64, len: u64) {
        self.start(tag(What::Free, false, index), Op::Deallocate { offset, len });
    }

    /// Writes over what is freed, where the device cannot zero it by itself.
    /// Ends, if it is the `last` part, when all parts are durable.
    pub(super) fn overwrite(&mut self, index: u32, at: u64, data: WriteData, last: bool) {
        let class = if last { Class::Grouped } else { Class::Lazy };
        self.write(What::Free, index, at, data, class);
    }

    /// Ends when the zeroes are durable.
    pub(super) fn zero(&mut self, index: u32, offset: u64, len: u64) {
        self.start(tag(What::Free, self.has_cache, index), Op::WriteZeroes { offset, len });
    }

    /// Advances, and appends what has ended.
    pub(super) fn poll(&mut self, events: &mut Vec<Event>) {
        self.disk.poll(&mut self.completions);
        let mut completions = std::mem::take(&mut self.completions);
        for completion in completions.drain(..) {
            self.take(completion, events);
        }
        self.completions = completions;
        if !self.flush_in_flight && !self.unflushed.is_empty() {
            std::mem::swap(&mut self.unflushed, &mut self.flushing);
            self.flush_in_flight = true;
            self.start(GROUP_FLUSH, Op::Flush);
        }
        while self.disk.in_flight() < self.depth {
            let Some((tag, op)) = self.queue.pop_front() else { break };
            self.disk.submit(tag, op);
        }
    }

    fn take(&mut self, completion: Completion, events: &mut Vec<Event>) {
        let Completion { tag, op, result } = completion;
        if tag == GROUP_FLUSH {
            self.flush_in_flight = false;
            // Whatever the reason, nobody knows which of the writes it covers was lost.
            let result = result.map_err(|error| match error {
                Error::Removed => Error::Removed,
                _ => Error::Failed,
            });
            events.extend(self.flushing.drain(..).map(|event| Event { result, ..event }));
            return;
        }
        let event =
            Event { what: WHATS[usize::from(tag as u8)], index: (tag >> 16) as u32, op, result };
        let needs_flush = tag & NEEDS_FLUSH != 0;
        if needs_flush && result.is_ok() { self.unflushed.push(event) } else { events.push(event) }
    }

    fn start(&mut self, tag: u64, op: Op) {
        if self.queue.is_empty() && self.disk.in_flight() < self.depth {
            self.disk.submit(tag, op);
        } else {
            self.queue.push_back((tag, op));
        }
    }
}

const NEEDS_FLUSH: u64 = 1 << 8;

fn tag(what: What, needs_flush: bool, index: u32) -> u64 {
    let flag = if needs_flush { NEEDS_FLUSH } else { 0 };
    u64::from(what as u8) | flag | u64::from(index) << 16
}
