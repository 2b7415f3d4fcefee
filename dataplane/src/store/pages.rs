//! Metadata pages on their way to and from the disk.

use super::Error;
use super::cache::{CLEAN, State};
use super::device::{Class, What};
use super::page::{Identity, Page};
use super::request::block_of;
use super::shard::Shard;
use crate::disk::{self, WriteData};
use crate::dma::Buf;

/// Most page writes in flight.
const WRITES_MAX: usize = 32;

impl Shard {
    /// Begins to read a slab's page; its slot, or `None` if there is no room yet.
    pub(super) fn load_page(&mut self, slab: u32) -> Option<u32> {
        let buf = self.page_buf()?;
        let Some(slot) = self.empty_slot() else {
            self.return_page_buf(buf);
            return None;
        };
        self.counters.cache_misses += 1;
        self.cache.assign(slot, slab, State::Loading(false));
        self.read_page(slot, buf);
        Some(slot)
    }

    /// A slot for a slab whose page nobody needs to know.
    pub(super) fn skip_page(&mut self, slab: u32) -> Option<u32> {
        let slot = self.empty_slot()?;
        self.cache.assign(slot, slab, State::Unread);
        Some(slot)
    }

    /// Reads a page that was skipped; `false` without memory.
    pub(super) fn read_skipped(&mut self, slot: u32) -> bool {
        let Some(buf) = self.page_buf() else { return false };
        self.cache.slots[slot as usize].state = State::Loading(false);
        self.read_page(slot, buf);
        true
    }

    fn read_page(&mut self, slot: u32, buf: Buf) {
        let slab = self.cache.slots[slot as usize].slab;
        let generation = self.tables.map.generations[slab as usize];
        let offset = self.areas.page_offset(slab, generation);
        self.data.read(What::PageRead, slot, offset, buf);
    }

    /// A page was read. It must be the very one that was written last: an older one means that the
    /// disk lost a write. A page that the device cannot read may be good: it is left alone.
    pub(super) fn page_read(&mut self, slot: u32, buf: Buf, result: Result<(), disk::Error>) {
        let page = &self.cache.slots[slot as usize];
        let slab = page.slab;
        let identity = self.page_identity(slab);
        let expected = self.tables.map.generations[slab as usize];
        let read = result.ok().and_then(|()| Page::decode(&buf, &identity));
        let read = read.filter(|&(_, generation)| generation == expected);
        let is_second = page.state == State::Loading(true);
        if read.is_none() && !is_second {
            self.cache.slots[slot as usize].state = State::Loading(true);
            self.read_page(slot, buf);
            return;
        }
        self.return_page_buf(buf);
        if read.is_none() {
            self.counters.page_errors += 1;
            self.tell(identity.owner.page_error());
        }
        match (read, result) {
            (None, Err(error)) => self.page_unreadable(slot, error),
            (read, _) => self.page_ready(slot, read.map_or_else(Page::lost, |(page, _)| page)),
        }
    }

    fn page_ready(&mut self, slot: u32, page: Page) {
        let slot_state = &mut self.cache.slots[slot as usize];
        slot_state.page = page;
        slot_state.state = State::Ready;
        self.wakes.push(slot);
    }

    /// Fails what waits for a page, and forgets it: the next operation tries to read it again.
    /// Giving the whole slab back does not need to know what it held.
    fn page_unreadable(&mut self, slot: u32, error: disk::Error) {
        let mut waiting = self.take_list(slot).into_iter();
        self.cache.empty(slot);
        for at in waiting.by_ref() {
            let operation = &self.operations[at];
            if operation.gives_slab_back() {
                let slab = operation.slab;
                self.cache.assign(slot, slab, State::Unread);
                self.attach(at, slot);
                break;
            }
            let block = block_of(operation.owner, operation.first);
            let is_media = error == disk::Error::Media;
            self.finish(at, Err(if is_media { Error::Media { block } } else { Error::Failed }));
        }
        for at in waiting {
            self.attach(at, slot);
        }
    }

    /// Begins to write a dirty page to its other copy; `false` if that cannot be now.
    pub(super) fn write_page(&mut self, slot: u32) -> bool {
        let page = &self.cache.slots[slot as usize];
        assert!(page.state == State::Ready && page.first_dirty != CLEAN);
        let is_mapped = page.mapped_by < self.journal.durable.lsn;
        if page.writing || !is_mapped || self.is_failed || self.page_writes == WRITES_MAX {
            return false;
        }
        let slab = page.slab;
        let Some(mut buf) = self.page_buf() else { return false };
        let identity = self.page_identity(slab);
        let generation = self.tables.map.generations[slab as usize] + 1;
        let page = &mut self.cache.slots[slot as usize];
        page.page.encode(&identity, generation, &mut buf);
        page.first_dirty = CLEAN;
        page.writing = true;
        self.page_writes += 1;
        let offset = self.areas.page_offset(slab, generation);
        self.data.write_one(What::PageWrite, slot, offset, buf.freeze(), Class::Grouped);
        true
    }

    /// A page is durable: only now may its other copy be overwritten.
    pub(super) fn page_written(
        &mut self,
        slot: u32,
        data: WriteData,
        result: Result<(), disk::Error>,
    ) {
        self.recycle(data);
        self.page_writes -= 1;
        let page = &mut self.cache.slots[slot as usize];
        page.writing = false;
        let slab = page.slab;
        if result.is_err() {
            // The shard has failed; the page stays, as the only copy of what it says.
            page.first_dirty = 0;
            return;
        }
        self.tables.map.generations[slab as usize] += 1;
        if page.doomed {
            self.cache.empty(slot);
            self.free_slab(slab);
        }
    }

    /// Has a page buffer back after a write.
    pub(super) fn recycle(&mut self, data: WriteData) {
        if let WriteData::One(slice) = data
            && let Some(buf) = slice.reclaim()
        {
            self.return_page_buf(buf);
        }
    }

    fn page_identity(&self, slab: u32) -> Identity {
        let owner = self.tables.map.owner(slab).expect("a slab with a page has an owner");
        Identity { incarnation: self.areas.incarnation, slab, owner }
    }

    /// A record has changed a page.
    pub(super) fn soil(&mut self, slot: u32, lsn: u64) {
        let page = &mut self.cache.slots[slot as usize];
        page.first_dirty = page.first_dirty.min(lsn);
    }
}
