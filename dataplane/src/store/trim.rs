//! Taking away: blocks, slabs, and the promise of an error.

use super::Error;
use super::bits::BlockSet;
use super::operation::Kind;
use super::record::{Range, Record};
use super::request::TRANSFER_MIN;
use super::shard::Shard;
use super::write::TAG;
use crate::disk::{self, Op, WriteData};
use storage_spec::disk::{BLOCK, SLAB_BLOCKS};

const SLAB_BYTES: u64 = (SLAB_BLOCKS * BLOCK) as u64;
/// Bytes of zeroes in memory, written several times over in one operation.
const ZEROES: usize = 64 << 10;
/// Most slabs that the device is being told of.
pub(super) const FREES_MAX: usize = 8;

impl Shard {
    /// Journals that blocks hold nothing, or, if the slab then holds nothing, that it is free.
    pub(super) fn run_trim(&mut self, at: u32) {
        if self.is_failed {
            return self.finish(at, Err(Error::Failed));
        }
        let is_alone = self.is_alone(at);
        let operation = &mut self.operations[at];
        let page = &self.cache.slots[operation.slot as usize].page;
        let (first, count) = (operation.first, operation.count);
        let is_whole = usize::from(count) == SLAB_BLOCKS;
        if !is_whole && !page.holds(first, count) {
            return self.finish(at, Ok(()));
        }
        let range = BlockSet::range(first, count);
        let is_last = range.covers(&page.allocated) && range.covers(&page.poisoned);
        let record = if is_whole || (is_last && is_alone) {
            // Whatever comes from now on waits until the slab is gone.
            operation.kind = Kind::Unmap;
            (operation.first, operation.count) = (0, SLAB_BLOCKS as u16);
            let generation = self.tables.map.generations[operation.slab as usize];
            Record::Unmap { owner: operation.owner, slab: operation.slab, generation }
        } else {
            Record::Trim(Range { slab: operation.slab, first, count, tag: TAG })
        };
        if !self.journal.admits(record.len(), 0) {
            self.wait_journal.push_back(at);
            return;
        }
        operation.waits_for_journal = true;
        operation.lsn = self.journal.push(Some(at), None, |bytes| record.encode(bytes));
        if operation.kind == Kind::Trim {
            self.journal.note_named(operation.count);
        }
    }

    pub(super) fn trim_recorded(&mut self, at: u32) {
        let operation = &self.operations[at];
        let (slot, lsn) = (operation.slot, operation.lsn);
        let page = &mut self.cache.slots[slot as usize].page;
        page.set_trimmed(operation.first, operation.count, TAG);
        self.soil(slot, lsn);
        self.finish(at, Ok(()));
    }

    /// The slab is free; who waited for it begins anew.
    pub(super) fn unmap_recorded(&mut self, at: u32) {
        let operation = &self.operations[at];
        let (slot, slab, owner) = (operation.slot, operation.slab, operation.owner);
        let waiting = self.take_list(slot);
        assert_eq!(waiting.first(), Some(&at), "an operation on the whole slab runs alone");
        self.tables.map.remove(owner, slab);
        self.tables.map.leave(slab);
        let page = &mut self.cache.slots[slot as usize];
        if page.writing {
            page.doomed = true;
            self.cache.forget(slot);
        } else {
            self.cache.empty(slot);
            self.free_slab(slab);
        }
        for &other in &waiting[1..] {
            self.start(other);
        }
        self.finish(at, Ok(()));
    }

    /// Makes a slab that nobody has available again, as soon as the device has been told.
    pub(super) fn free_slab(&mut self, slab: u32) {
        let is_told =
            self.options.zero_on_free || (self.options.discard && self.data.can_deallocate());
        if is_told && !self.is_failed {
            self.wait_free.push_back(slab);
        } else {
            self.tables.map.release(slab);
        }
    }

    /// Goes on with freeing slabs, few at a time, so that a deletion does not stand in the way of
    /// others. What is left at the end the next mount does.
    pub(super) fn pump_frees(&mut self) {
        self.write_zeroes_waiting();
        while self.freeing < FREES_MAX && !self.is_stopping {
            let Some(slab) = self.wait_free.pop_front() else { return };
            if self.is_failed {
                self.tables.map.release(slab);
                continue;
            }
            self.freeing += 1;
            let offset = self.areas.data_offset(slab, 0);
            if self.options.zero_on_free {
                self.data.zero(slab, offset, SLAB_BYTES);
            } else {
                self.data.deallocate(slab, offset, SLAB_BYTES);
            }
        }
    }

    fn release(&mut self, slab: u32) {
        self.freeing -= 1;
        self.tables.map.release(slab);
    }

    /// A step of freeing a slab has ended.
    pub(super) fn freed(&mut self, slab: u32, op: Op, result: Result<(), disk::Error>) {
        let end = self.areas.data_offset(slab, 0) + SLAB_BYTES;
        match (op, result) {
            (Op::WriteZeroes { .. }, Err(disk::Error::Unsupported)) => {
                self.wait_zero.push_back(slab);
            }
            (Op::Write { offset, data, .. }, Ok(()))
                if !self.is_failed && offset + (data.len() as u64) < end =>
            {
                let next = offset + data.len() as u64;
                let is_last = next + data.len() as u64 == end;
                self.data.overwrite(slab, next, data, is_last);
            }
            _ => self.release(slab),
        }
    }

    /// Begins to write zeroes over slabs, if there is memory for some.
    fn write_zeroes_waiting(&mut self) {
        while let Some(&slab) = self.wait_zero.front() {
            if self.is_failed {
                self.wait_zero.pop_front();
                self.release(slab);
                continue;
            }
            let Some(mut buf) = self.pool.alloc(ZEROES) else { return };
            self.wait_zero.pop_front();
            buf.fill(0);
            let zeroes = buf.freeze();
            let data = WriteData::Many(vec![zeroes; TRANSFER_MIN / ZEROES]);
            self.data.overwrite(slab, self.areas.data_offset(slab, 0), data, false);
        }
    }

    pub(super) fn run_poison(&mut self, at: u32) {
        if self.is_failed {
            return self.finish(at, Err(Error::Failed));
        }
        let operation = &mut self.operations[at];
        let (slab, first, count) = (operation.slab, operation.first, operation.count);
        let record = Record::Poison(Range { slab, first, count, tag: TAG });
        if !self.journal.admits(record.len(), 0) {
            self.wait_journal.push_back(at);
            return;
        }
        operation.waits_for_journal = true;
        operation.lsn = self.journal.push(Some(at), None, |bytes| record.encode(bytes));
        self.journal.note_named(operation.count);
    }

    pub(super) fn poison_recorded(&mut self, at: u32) {
        let operation = &self.operations[at];
        let (slot, lsn) = (operation.slot, operation.lsn);
        let page = &mut self.cache.slots[slot as usize].page;
        page.set_poisoned(operation.first, operation.count, TAG);
        self.soil(slot, lsn);
        self.finish(at, Ok(()));
    }
}
