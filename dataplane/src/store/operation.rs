//! Operations: parts of requests on one slab, in order where they overlap.
//!
//! ```text
//!            no slot, no room for a new slab
//!          ┌──────── wait_start ◄────────┐
//!          ▼                             │
//!  new ► start ─ page in memory ─► attached ─ nothing earlier overlaps ─► run ─► finish
//!          ▲                          ▲  │ waits in the page's list        │
//!          │                          └──┘                                 ├► wait_journal ► run
//!          └── the slab was unmapped meanwhile                             └► wait_memory  ► run
//! ```

use super::Error;
use super::cache::{NONE, State, Victim};
use super::map::{Owner, VOLUME_CHUNKS_MAX};
use super::record::{Path, RECORD_MAX, Record};
use super::request::{Asked, is_request};
use super::shard::{NOTHING, Shard};
use crate::dma::{Buf, Slice};
use storage_spec::disk::SLAB_BLOCKS;

/// What an operation does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Read,
    Verify,
    /// Whole blocks.
    Write,
    /// Part of one block; without data, zeroes.
    Partial {
        from: u16,
        len: u16,
    },
    Compare,
    Trim,
    /// The whole slab is given back.
    Unmap,
    Poison,
    /// Acknowledged data on their way in place.
    Destage,
    /// A first write that found no space behind the device: its record is taken back by another,
    /// which the flag says has been made.
    TakeBack(bool),
    /// A catalogue entry; stands on no slab.
    Catalogue,
}

/// An operation in flight.
#[derive(Debug)]
pub(super) struct Operation {
    pub(super) request: u32,
    pub(super) kind: Kind,
    pub(super) owner: Owner,
    pub(super) slab: u32,
    pub(super) slot: u32,
    pub(super) first: u16,
    pub(super) count: u16,
    /// Neighbours in the page's list.
    previous: u32,
    next: u32,
    pub(super) is_running: bool,
    /// Which part of the request's buffer this is.
    pub(super) part: u8,
    pub(super) buf: Option<Buf>,
    pub(super) data: Option<Slice>,
    /// Next block to verify; whether the device failed a read of them, and whether for good.
    pub(super) cursor: u16,
    pub(super) is_read_failed: bool,
    pub(super) is_device_failed: bool,
    pub(super) path: Path,
    pub(super) lsn: u64,
    /// In `Shard::intents` or `Shard::destages`.
    pub(super) tracked: u64,
    pub(super) waits_for_journal: bool,
    /// Device operations in flight.
    pub(super) io: u8,
    /// In `Shard::pieces`, for a read that was cut.
    pub(super) pieces: u32,
    /// The next destage of the same device operation.
    pub(super) merged: u32,
}

impl Operation {
    pub(super) fn new(request: u32, kind: Kind, owner: Owner, first: u16, count: u16) -> Self {
        Self {
            request,
            kind,
            owner,
            slab: NONE,
            slot: NONE,
            first,
            count,
            previous: NOTHING,
            next: NOTHING,
            is_running: false,
            part: 0,
            buf: None,
            data: None,
            cursor: 0,
            is_read_failed: false,
            is_device_failed: false,
            path: Path::Fresh,
            lsn: 0,
            tracked: 0,
            waits_for_journal: false,
            io: 0,
            pieces: NOTHING,
            merged: NOTHING,
        }
    }

    fn is_reader(&self) -> bool {
        matches!(self.kind, Kind::Read | Kind::Verify)
    }

    /// Whether it gives the whole slab back, whatever that holds.
    pub(super) fn gives_slab_back(&self) -> bool {
        matches!(self.kind, Kind::Trim | Kind::Unmap) && usize::from(self.count) == SLAB_BLOCKS
    }

    fn overlaps(&self, other: &Self) -> bool {
        self.first < other.first + other.count && other.first < self.first + self.count
    }

    fn covers(&self, other: &Self) -> bool {
        self.first <= other.first && other.first + other.count <= self.first + self.count
    }
}

/// What stands before an operation.
enum Before {
    Nothing,
    /// Data in memory that answer it.
    Data(u32),
    Something,
}

impl Shard {
    /// Begins an operation; those that came earlier and could not begin go first.
    pub(super) fn start(&mut self, at: u32) {
        if !self.wait_start.is_empty() || !self.try_start(at) {
            self.wait_start.push_back(at);
        }
    }

    /// Begins an operation unless something that it needs is not there.
    pub(super) fn try_start(&mut self, at: u32) -> bool {
        let operation = &self.operations[at];
        if self.is_failed && !operation.is_reader() {
            self.finish(at, Err(Error::Failed));
            return true;
        }
        if operation.kind == Kind::Catalogue {
            self.run(at);
            return true;
        }
        let owner = operation.owner;
        let Some(slab) = self.tables.map.get(owner.key(), owner.index) else {
            return self.start_unmapped(at);
        };
        let gives_back = operation.gives_slab_back();
        let found = self.cache.find(slab);
        self.counters.cache_hits += u64::from(found.is_some());
        let slot = match found {
            None if gives_back => self.skip_page(slab),
            None => self.load_page(slab),
            found => found,
        };
        match slot {
            Some(slot) => self.attach(at, slot),
            None if self.is_failed => self.finish(at, Err(Error::Failed)),
            None => return false,
        }
        true
    }

    fn start_unmapped(&mut self, at: u32) -> bool {
        let operation = &self.operations[at];
        match operation.kind {
            Kind::Read => self.read_nothing(at),
            Kind::Verify | Kind::Trim => self.finish(at, Ok(())),
            Kind::Partial { .. } if operation.data.is_none() => self.finish(at, Ok(())),
            _ => return self.map_slab(at),
        }
        true
    }

    /// Gives the operation's place a slab.
    fn map_slab(&mut self, at: u32) -> bool {
        let owner = self.operations[at].owner;
        let map = &self.tables.map;
        let is_inside = owner.chunk < VOLUME_CHUNKS_MAX;
        let Some(slab) = map.next_free().filter(|_| is_inside) else {
            // Slabs that the device is taking back are free soon. Where that waits for memory, who
            // waits for a slab may hold it.
            if is_inside && map.has_leaving() && self.wait_zero.is_empty() && !self.is_stopping {
                return false;
            }
            self.counters.refused_full += 1;
            self.finish(at, Err(Error::Full));
            return true;
        };
        let generation = self.tables.map.generations[slab as usize];
        let record = Record::Map { owner, slab, generation };
        if !self.journal.admits(record.len(), 0) {
            return false;
        }
        let Some(slot) = self.empty_slot() else { return false };
        let lsn = self.journal.push(None, None, |bytes| record.encode(bytes));
        self.tables.map.insert(owner, slab);
        self.cache.assign(slot, slab, State::Ready);
        let page = &mut self.cache.slots[slot as usize];
        (page.first_dirty, page.mapped_by) = (lsn, lsn);
        self.attach(at, slot);
        true
    }

    /// An empty slot; where there is none, some are written so that there will be.
    pub(super) fn empty_slot(&mut self) -> Option<u32> {
        const AHEAD: usize = 8;
        for _ in 0..AHEAD {
            match self.cache.victim() {
                Victim::Slot(slot) => return Some(slot),
                Victim::Dirty(slot) => {
                    if !self.write_page(slot) {
                        return None;
                    }
                }
                Victim::Busy => return None,
            }
        }
        None
    }

    pub(super) fn attach(&mut self, at: u32, slot: u32) {
        let page = &mut self.cache.slots[slot as usize];
        let last = std::mem::replace(&mut page.tail, at);
        if last == NOTHING {
            page.head = at;
        } else {
            self.operations[last].next = at;
        }
        let (state, slab) = (page.state, page.slab);
        let operation = &mut self.operations[at];
        (operation.previous, operation.next) = (last, NOTHING);
        (operation.slot, operation.slab) = (slot, slab);
        match state {
            State::Ready => {
                self.run_if_first(at);
            }
            State::Unread if last == NOTHING => self.wake_unread(slot),
            State::Unread | State::Loading(_) => {}
            State::Empty => unreachable!("operations stand on slots that have a slab"),
        }
    }

    /// Runs an operation that nothing earlier forbids.
    fn run_if_first(&mut self, at: u32) -> bool {
        match self.before(at) {
            Before::Nothing => self.run(at),
            Before::Data(destage) => self.read_memory(at, destage),
            Before::Something => return false,
        }
        true
    }

    fn before(&self, at: u32) -> Before {
        let operation = &self.operations[at];
        let mut earlier = operation.previous;
        let mut before = Before::Nothing;
        while earlier != NOTHING {
            let other = &self.operations[earlier];
            let is_in_the_way =
                operation.overlaps(other) && !(operation.is_reader() && other.is_reader());
            if is_in_the_way {
                let answers = operation.kind == Kind::Read
                    && other.kind == Kind::Destage
                    && other.covers(operation);
                if !answers || !matches!(before, Before::Nothing) {
                    return Before::Something;
                }
                before = Before::Data(earlier);
            }
            earlier = other.previous;
        }
        before
    }

    /// Carries out an operation that has its turn.
    pub(super) fn run(&mut self, at: u32) {
        let operation = &mut self.operations[at];
        operation.is_running = true;
        match operation.kind {
            Kind::Read | Kind::Verify => self.run_read(at),
            Kind::Write => self.record_write(at),
            Kind::Partial { .. } | Kind::Compare => self.run_merge(at),
            Kind::Trim | Kind::Unmap => self.run_trim(at),
            Kind::Poison => self.run_poison(at),
            Kind::TakeBack(_) => self.run_take_back(at),
            Kind::Catalogue => self.run_catalogue(at),
            Kind::Destage => unreachable!("destages are not started"),
        }
    }

    /// Carries on with an operation that waited for room in the journal.
    pub(super) fn run_again(&mut self, at: u32) {
        if self.operations[at].data.is_some() { self.record_write(at) } else { self.run(at) }
    }

    /// Whether the journal has room for whatever record the operation makes.
    pub(super) fn fits(&self, at: u32) -> bool {
        let operation = &self.operations[at];
        let payload = if operation.data.is_some() { u32::from(operation.count) } else { 0 };
        self.journal.admits(RECORD_MAX, payload)
    }

    /// Runs what waits on a page and has its turn.
    pub(super) fn wake(&mut self, slot: u32) {
        'again: loop {
            let page = &self.cache.slots[slot as usize];
            match page.state {
                State::Ready => {}
                State::Unread => return self.wake_unread(slot),
                State::Empty | State::Loading(_) => return,
            }
            let mut at = page.head;
            while at != NOTHING {
                let next = self.operations[at].next;
                if !self.operations[at].is_running && self.run_if_first(at) {
                    // The list may be another one now.
                    continue 'again;
                }
                at = next;
            }
            return;
        }
    }

    /// Begins with the first operation on a page that has not been read: gives the slab back, or,
    /// where that has failed, reads the page for those that come after.
    fn wake_unread(&mut self, slot: u32) {
        let head = self.cache.slots[slot as usize].head;
        if head == NOTHING || self.operations[head].is_running {
            return;
        }
        if self.operations[head].gives_slab_back() {
            self.run(head);
        } else if !self.read_skipped(slot) {
            for waiting in self.take_list(slot) {
                self.finish(waiting, Err(Error::Failed));
            }
        }
    }

    /// Takes the operation from its page's list; those behind it may have their turn.
    pub(super) fn detach(&mut self, at: u32) {
        let operation = &mut self.operations[at];
        let (previous, next, slot) = (operation.previous, operation.next, operation.slot);
        if slot == NONE {
            return;
        }
        operation.slot = NONE;
        if next != NOTHING {
            self.operations[next].previous = previous;
        }
        if previous != NOTHING {
            self.operations[previous].next = next;
        }
        let page = &mut self.cache.slots[slot as usize];
        if page.head == at {
            page.head = next;
        }
        if page.tail == at {
            page.tail = previous;
        }
        if page.head != NOTHING {
            self.wakes.push(slot);
        }
    }

    /// Ends an operation.
    pub(super) fn finish(&mut self, at: u32, result: Result<(), Error>) {
        self.detach(at);
        let operation = self.operations.remove(at);
        if is_request(operation.request) {
            self.report(operation.request, operation.part, operation.buf, result);
        }
    }

    /// Whether an operation stands alone on its page.
    pub(super) fn is_alone(&self, at: u32) -> bool {
        let operation = &self.operations[at];
        let page = &self.cache.slots[operation.slot as usize];
        page.head == at && page.tail == at
    }

    /// Takes everything from a page's list, in order.
    pub(super) fn take_list(&mut self, slot: u32) -> Vec<u32> {
        let page = &mut self.cache.slots[slot as usize];
        let mut at = std::mem::replace(&mut page.head, NOTHING);
        page.tail = NOTHING;
        let mut list = Vec::new();
        while at != NOTHING {
            let operation = &mut self.operations[at];
            list.push(at);
            at = operation.next;
            (operation.slot, operation.is_running) = (NONE, false);
        }
        list
    }

    fn run_catalogue(&mut self, at: u32) {
        if self.is_failed {
            return self.finish(at, Err(Error::Failed));
        }
        let operation = &mut self.operations[at];
        let pending = &self.requests[operation.request];
        let entry = pending.entry.as_ref().expect("a catalogue request has an entry");
        let (key, value) = (entry.0.as_slice(), entry.1.as_slice());
        let record = match pending.asked {
            Asked::Put => Record::Put { key, value },
            _ => Record::Delete { key },
        };
        if self.journal.admits(record.len(), 0) {
            operation.waits_for_journal = true;
            self.journal.push(Some(at), None, |bytes| record.encode(bytes));
        } else {
            self.wait_journal.push_back(at);
        }
    }

    /// The operation's record is durable.
    pub(super) fn recorded(&mut self, at: u32) {
        let operation = &mut self.operations[at];
        operation.waits_for_journal = false;
        match operation.kind {
            Kind::Write | Kind::Partial { .. } | Kind::Compare => self.write_recorded(at),
            Kind::Trim => self.trim_recorded(at),
            Kind::Unmap => self.unmap_recorded(at),
            Kind::Poison => self.poison_recorded(at),
            Kind::TakeBack(false) => self.run_take_back(at),
            Kind::TakeBack(true) => self.taken_back(at),
            Kind::Catalogue => self.entry_recorded(at),
            Kind::Read | Kind::Verify | Kind::Destage => unreachable!("these have no records"),
        }
    }

    fn entry_recorded(&mut self, at: u32) {
        let pending = &self.requests[self.operations[at].request];
        let entry = pending.entry.as_ref().expect("a catalogue request has an entry");
        match pending.asked {
            Asked::Put => self.tables.catalogue.put(&entry.0, &entry.1),
            _ => self.tables.catalogue.delete(&entry.0),
        }
        self.finish(at, Ok(()));
    }
}
