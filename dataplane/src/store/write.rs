//! Writes, on one of three paths:
//!
//! - *fresh*: the blocks hold nothing. Data in place and record in parallel.
//! - *payload*: the data are in the journal with the record, and go in place later.
//! - *ordered*: the record first, the data in place after it.
//!
//! Overwriting in place in parallel with a record would let a power cut leave a block whose old
//! checksum is known and whose new one is not: such a block could be neither trusted nor refused.

use super::device::{Class, What};
use super::operation::Kind;
use super::record::{self, Path, Range, Record};
use super::redo::block_number;
use super::request::is_request;
use super::shard::{NOTHING, Shard};
use super::{Error, Mode};
use crate::disk::{self, WriteData};
use crate::dma::Slice;
use storage_spec::crc32c;
use storage_spec::disk::{BLOCK, SLAB_BLOCKS};

const SLAB: u64 = SLAB_BLOCKS as u64;
/// Version tag of regions until replication sets it.
pub(super) const TAG: u32 = 1;
/// Bytes from which on a first write in data mode goes in place at once.
const DATA_FRESH_MIN: usize = 64 << 10;
/// Most writes of destages in flight.
const DESTAGES_MAX: usize = 32;
/// The same on a disk that turns: what waits can be sorted and merged.
const DESTAGES_TURNING_MAX: usize = 4;
/// Most destages in one device operation.
const MERGE_MAX: usize = 32;

impl Shard {
    /// Reads what a write of part of a block, or a comparison, needs to know.
    pub(super) fn run_merge(&mut self, at: u32) {
        if self.is_failed {
            return self.finish(at, Err(Error::Failed));
        }
        let operation = &mut self.operations[at];
        let page = &self.cache.slots[operation.slot as usize].page;
        let is_zero = matches!(operation.kind, Kind::Partial { .. }) && operation.data.is_none();
        if is_zero && !page.holds(operation.first, 1) {
            return self.finish(at, Ok(()));
        }
        let Some(buf) = self.pool.alloc(usize::from(operation.count) * BLOCK) else {
            self.wait_memory.push_back(at);
            return;
        };
        operation.buf = Some(buf);
        operation.cursor = 0;
        self.read_or_scan(at);
    }

    /// The old contents are known.
    pub(super) fn merge(&mut self, at: u32) {
        let operation = &mut self.operations[at];
        let mut old = operation.buf.take().expect("the old contents");
        if let Kind::Partial { from, len } = operation.kind {
            let part = usize::from(from)..usize::from(from + len);
            match &operation.data {
                Some(data) => old[part.clone()].copy_from_slice(&data[part]),
                None => old[part].fill(0),
            }
            old.crcs_mut()[0] = crc32c::checksum(&old);
            operation.data = Some(old.freeze());
            return self.record_write(at);
        }
        let pending = &self.requests[operation.request];
        let expected = pending.expected.as_ref().expect("a comparison has both");
        let data = pending.data.as_ref().expect("a comparison has both");
        let lead = pending.extent.0 as usize % BLOCK;
        let part = lead..lead + pending.extent.1 as usize;
        let mut pairs = old[part.clone()].iter().zip(&expected[part.clone()]);
        if let Some(offset) = pairs.position(|(a, b)| a != b) {
            return self.finish(at, Err(Error::Miscompare { offset: offset as u32 }));
        }
        if part.len() % BLOCK == 0 {
            operation.data = Some(data.slice(0, part.len()));
        } else {
            old[part.clone()].copy_from_slice(&data[part]);
            old.crcs_mut()[0] = crc32c::checksum(&old);
            operation.data = Some(old.freeze());
        }
        self.record_write(at);
    }

    /// Chooses the path and makes the record.
    pub(super) fn record_write(&mut self, at: u32) {
        if self.is_failed {
            return self.finish(at, Err(Error::Failed));
        }
        let operation = &mut self.operations[at];
        let page = &self.cache.slots[operation.slot as usize].page;
        let (first, count) = (operation.first, operation.count);
        let bytes = usize::from(count) * BLOCK;
        let path = match (page.holds(first, count), self.mode) {
            (false, Mode::Intent) => Path::Fresh,
            (false, Mode::Data) if bytes >= DATA_FRESH_MIN => Path::Fresh,
            (true, Mode::Intent) if bytes > self.options.payload_max as usize => Path::Ordered,
            _ => Path::Payload,
        };
        page.prefetch(first);
        let payload_blocks = if path == Path::Payload { u32::from(count) } else { 0 };
        if !self.journal.admits(record::write_len(count), payload_blocks) {
            operation.is_running = true;
            self.wait_journal.push_back(at);
            return;
        }
        let data = operation.data.as_ref().expect("a write has data");
        let range = Range { slab: operation.slab, first, count, tag: TAG };
        let payload = (path == Path::Payload).then(|| data.clone());
        let lsn = self.journal.push(Some(at), payload, |bytes| {
            record::encode_write(path, range, &data.crcs()[..usize::from(count)], bytes);
        });
        self.journal.note_named(count);
        operation.lsn = lsn;
        operation.path = path;
        operation.waits_for_journal = true;
        let tracker = if path == Path::Payload { &mut self.destages } else { &mut self.intents };
        operation.tracked = tracker.push(lsn);
        match path {
            Path::Fresh => {
                self.counters.path_fresh += 1;
                self.write_in_place(at);
            }
            Path::Payload => self.counters.path_payload += 1,
            Path::Ordered => self.counters.path_ordered += 1,
        }
    }

    fn write_in_place(&mut self, at: u32) {
        let operation = &mut self.operations[at];
        operation.io += 1;
        let offset = self.areas.data_offset(operation.slab, operation.first);
        let data = operation.data.take().expect("a write has data");
        self.data.write_one(What::Data, at, offset, data, Class::Prompt);
    }

    /// The record is durable.
    pub(super) fn write_recorded(&mut self, at: u32) {
        let operation = &self.operations[at];
        match operation.path {
            Path::Fresh if operation.io > 0 => {}
            Path::Fresh => self.write_done(at),
            Path::Ordered => self.write_in_place(at),
            Path::Payload => self.acknowledge_payload(at),
        }
    }

    /// The data are durable in place, and come back.
    pub(super) fn data_written(&mut self, at: u32, data: Slice, result: Result<(), disk::Error>) {
        let is_harmless = self.is_harmless(at, result);
        let operation = &mut self.operations[at];
        operation.io -= 1;
        if is_harmless && !self.is_failed {
            operation.kind = Kind::TakeBack(false);
            if !operation.waits_for_journal {
                self.run_take_back(at);
            }
            return;
        }
        operation.data = Some(data);
        if operation.waits_for_journal {
            return;
        }
        if self.is_failed { self.finish(at, Err(Error::Failed)) } else { self.write_done(at) }
    }

    /// Whether a data write failed in a way that touched nothing of value: a first write to where a
    /// sparse file cannot grow.
    pub(super) fn is_harmless(&self, at: u32, result: Result<(), disk::Error>) -> bool {
        result == Err(disk::Error::NoSpace) && self.operations[at].path == Path::Fresh
    }

    /// Journals that the blocks of a first write hold nothing: only then does a recovery that takes
    /// its record for completed do no harm.
    pub(super) fn run_take_back(&mut self, at: u32) {
        if self.is_failed {
            return self.finish(at, Err(Error::Failed));
        }
        let operation = &mut self.operations[at];
        let (slab, first, count) = (operation.slab, operation.first, operation.count);
        let record = Record::Trim(Range { slab, first, count, tag: TAG });
        if !self.journal.admits(record.len(), 0) {
            self.wait_journal.push_back(at);
            return;
        }
        operation.kind = Kind::TakeBack(true);
        operation.waits_for_journal = true;
        self.journal.push(Some(at), None, |bytes| record.encode(bytes));
        self.journal.note_named(count);
    }

    /// It is as if the write had never been.
    pub(super) fn taken_back(&mut self, at: u32) {
        self.intents.done(self.operations[at].tracked);
        self.counters.refused_full += 1;
        self.finish(at, Err(Error::Full));
    }

    fn write_done(&mut self, at: u32) {
        self.intents.done(self.operations[at].tracked);
        self.apply_write(at);
        self.finish(at, Ok(()));
    }

    fn apply_write(&mut self, at: u32) {
        let operation = &self.operations[at];
        let data = operation.data.as_ref().expect("a write has data");
        let crcs = &data.crcs()[..usize::from(operation.count)];
        let (slot, lsn) = (operation.slot, operation.lsn);
        self.cache.slots[slot as usize].page.set_written(operation.first, crcs, TAG);
        self.soil(slot, lsn);
    }

    /// The write is safe in the journal: the host hears of it, the data go in place behind its
    /// back.
    fn acknowledge_payload(&mut self, at: u32) {
        self.apply_write(at);
        let operation = &mut self.operations[at];
        operation.kind = Kind::Destage;
        let request = std::mem::replace(&mut operation.request, NOTHING);
        let slot = operation.slot;
        self.destage_queue.push(block_number(operation.slab, operation.first), at);
        self.wakes.push(slot);
        assert!(is_request(request), "a write belongs to a request");
        self.report(request, 0, None, Ok(()));
    }

    /// Starts destages in the order of their places, neighbours together.
    pub(super) fn pump_destages(&mut self) {
        let depth = if self.data.rotational { DESTAGES_TURNING_MAX } else { DESTAGES_MAX };
        while self.destaging < depth {
            let Some((block, first)) = self.destage_queue.pop() else { return };
            let mut last = first;
            let mut end = block + u64::from(self.operations[first].count);
            let mut merged = self.destage_vectors.pop().unwrap_or_default();
            merged.extend(self.operations[first].data.clone());
            while let Some(next) = self.destage_queue.next_at(end) {
                if end.is_multiple_of(SLAB) && self.areas.starts_segment(end / SLAB) {
                    break;
                }
                end += u64::from(self.operations[next].count);
                let bytes = (end - block) as usize * BLOCK;
                if bytes > self.data.transfer_max || merged.len() == MERGE_MAX {
                    break;
                }
                self.destage_queue.pop();
                merged.extend(self.operations[next].data.clone());
                self.operations[last].merged = next;
                last = next;
            }
            let operation = &self.operations[first];
            let offset = self.areas.data_offset(operation.slab, operation.first);
            let data = if merged.len() == 1 {
                let only = merged.pop().expect("one segment");
                self.destage_vectors.push(merged);
                WriteData::One(only)
            } else {
                WriteData::Many(merged)
            };
            self.destaging += 1;
            self.data.write(What::Destage, first, offset, data, Class::Lazy);
        }
    }

    /// A group of destages has reached the device; the next checkpoint makes them durable.
    pub(super) fn destaged(&mut self, first: u32, data: WriteData) {
        if let WriteData::Many(mut vector) = data {
            vector.clear();
            self.destage_vectors.push(vector);
        }
        self.destaging -= 1;
        let mut at = first;
        while at != NOTHING {
            let next = self.operations[at].merged;
            self.destages.done(self.operations[at].tracked);
            self.finish(at, Ok(()));
            at = next;
        }
    }
}
