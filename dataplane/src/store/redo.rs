//! Redoing the journal: each record's effect on the tables, the pages and the blocks.
//!
//! Redo may run any number of times, and be interrupted anywhere: pages and blocks only ever move
//! towards the state at the journal's end.

use super::MountError;
use super::checkpoint::{Mark, Tables};
use super::layout::Areas;
use super::map::Owner;
use super::page::{self, GENERATION_MAX, Identity, Page};
use super::port::Port;
use super::record::{Path, Range, Record};
use super::scan::{Batch, Found, Ring, Rotten};
use crate::disk;
use crate::dma::Buf;
use hashbrown::{HashMap, HashSet};
use std::collections::BTreeMap;
use storage_spec::disk::{BLOCK, SLAB_BLOCKS};

/// How often a page that the device cannot read is tried by itself before it is given up.
const PAGE_TRIES: usize = 3;

/// The last thing that the journal says of a block.
#[derive(Debug, Clone, Copy)]
struct Last {
    lsn: u64,
    /// The record before that one; 0 for none.
    before: u64,
    /// Of data that were written in place; `None` for payload and for what writes no data.
    in_place: Option<u32>,
}

/// What a first reading of the journal found.
#[derive(Debug)]
pub(super) struct Survey {
    last: HashMap<u64, Last>,
    /// Per slab, its last change of owner.
    life: HashMap<u32, u64>,
    completed_lsn: u64,
    rotten: Vec<Rotten>,
    pub(super) batches: u64,
    pub(super) start: Mark,
    pub(super) end: Mark,
    /// Whether something stands behind the end that is not the past.
    pub(super) is_torn: bool,
}

impl Survey {
    /// Reads the journal from `start` to its end.
    pub(super) async fn take(ring: &Ring<'_>, start: Mark) -> Result<Self, MountError> {
        let mut survey = Self {
            last: HashMap::new(),
            life: HashMap::new(),
            completed_lsn: 0,
            rotten: Vec::new(),
            batches: 0,
            start,
            end: start,
            is_torn: false,
        };
        loop {
            let mark = survey.end;
            match ring.batch(mark).await? {
                Found::Batch(batch) => {
                    let rotten = ring.rotten_payload(&batch).await?;
                    if !rotten.is_empty() && !ring.is_followed(&batch).await? {
                        if ring.has_later(batch.end).await? {
                            return Err(MountError::JournalDamaged { sequence: mark.sequence });
                        }
                        // The crash came while this batch was being written.
                        survey.is_torn = true;
                        return Ok(survey);
                    }
                    survey.rotten.extend(rotten);
                    survey.note(&batch);
                }
                Found::Later(found) if survey.batches == 0 => {
                    return Err(MountError::CheckpointLost { found, expected: mark.sequence });
                }
                Found::Later(_) => {
                    return Err(MountError::JournalDamaged { sequence: mark.sequence });
                }
                Found::Nothing if ring.has_later(mark).await? => {
                    return Err(MountError::JournalDamaged { sequence: mark.sequence });
                }
                Found::Nothing => return Ok(survey),
            }
        }
    }

    fn note(&mut self, batch: &Batch) {
        for (lsn, _, record) in batch.records() {
            match record {
                Record::Write { path, range, crcs } => {
                    for (block, crc) in blocks(range).zip(crcs) {
                        self.note_block(block, lsn, (path != Path::Payload).then(|| crc.get()));
                    }
                }
                Record::Trim(range) | Record::Poison(range) => {
                    for block in blocks(range) {
                        self.note_block(block, lsn, None);
                    }
                }
                Record::Map { slab, .. } | Record::Unmap { slab, .. } => {
                    self.life.insert(slab, lsn);
                }
                Record::Put { .. } | Record::Delete { .. } => {}
            }
        }
        self.completed_lsn = self.completed_lsn.max(batch.completed_lsn);
        self.batches += 1;
        self.end = batch.end;
    }

    fn note_block(&mut self, block: u64, lsn: u64, in_place: Option<u32>) {
        let before = self.last.get(&block).map_or(0, |last| last.lsn);
        self.last.insert(block, Last { lsn, before, in_place });
    }

    /// Whether a record is of a life that its slab no longer leads.
    fn is_past_life(&self, slab: u32, lsn: u64) -> bool {
        self.life.get(&slab).is_some_and(|&life| life > lsn)
    }
}

impl Ring<'_> {
    /// Whether the batch after this one was written: then this one was durable.
    async fn is_followed(&self, batch: &Batch) -> Result<bool, disk::Error> {
        Ok(matches!(self.batch(batch.end).await?, Found::Batch(_) | Found::Later(_)))
    }
}

/// A number for each block of the shard.
pub(super) fn block_number(slab: u32, block: u16) -> u64 {
    u64::from(slab) * SLAB_BLOCKS as u64 + u64::from(block)
}

fn blocks(range: Range) -> impl Iterator<Item = u64> {
    (range.first..range.first + range.count).map(move |block| block_number(range.slab, block))
}

#[derive(Debug)]
struct Held {
    page: Page,
    is_dirty: bool,
}

/// A page whose contents are gone, but for what the journal says of its blocks.
#[derive(Debug, Clone, Copy)]
pub(super) struct LostPage {
    pub(super) owner: Owner,
    /// Whether the device could not read it; otherwise what it read was damaged or out of date.
    pub(super) is_unreadable: bool,
}

/// The copies of a page that are intact, with their generations, and how many are unreadable.
struct Copies {
    intact: Vec<(Page, u32)>,
    unreadable: usize,
}

/// What a block's bytes say of a checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Medium {
    Matches,
    Differs,
    /// The device cannot read it: it may be anything, so it counts as neither old nor new.
    Unreadable,
}

/// The second reading, which carries out the records.
pub(super) struct Redo<'a> {
    data: &'a Port<'a>,
    areas: &'a Areas,
    pub(super) tables: Tables,
    pages: HashMap<u32, Held>,
    pages_max: usize,
    /// Whether nothing may be written: pages stay here, and payload in the journal.
    is_dry: bool,
    /// Blocks whose data are in the journal only, when dry.
    pub(super) in_journal: HashSet<u64>,
    /// Pages that no copy could give, by their slabs.
    pub(super) lost_pages: BTreeMap<u32, LostPage>,
    /// Records between the survey's start and its end.
    records: u64,
    /// Blocks that are neither old nor new.
    pub(super) lost_blocks: u64,
}

impl<'a> Redo<'a> {
    pub(super) fn new(
        data: &'a Port<'a>,
        areas: &'a Areas,
        tables: Tables,
        pages_max: usize,
        is_dry: bool,
    ) -> Self {
        Self {
            data,
            areas,
            tables,
            pages: HashMap::new(),
            pages_max,
            is_dry,
            in_journal: HashSet::new(),
            lost_pages: BTreeMap::new(),
            records: 0,
            lost_blocks: 0,
        }
    }

    /// Carries out everything that the survey found.
    pub(super) async fn run(&mut self, ring: &Ring<'_>, survey: &Survey) -> Result<(), MountError> {
        self.records = survey.end.lsn - survey.start.lsn;
        let mut mark = survey.start;
        while mark != survey.end {
            let Found::Batch(batch) = ring.batch(mark).await? else {
                return Err(MountError::JournalDamaged { sequence: mark.sequence });
            };
            for (lsn, payload, record) in batch.records() {
                self.apply(ring, survey, lsn, payload, record).await?;
            }
            mark = batch.end;
        }
        if self.tables.map.free_the_rest() > 0 {
            return Err(MountError::Inconsistent("two chunks claim one slab"));
        }
        if self.tables.catalogue.bytes() > self.areas.catalogue_bytes {
            return Err(MountError::Inconsistent("the catalogue has outgrown its room"));
        }
        Ok(())
    }

    async fn apply(
        &mut self,
        ring: &Ring<'_>,
        survey: &Survey,
        lsn: u64,
        payload: u64,
        record: Record<'_>,
    ) -> Result<(), MountError> {
        match record {
            Record::Map { owner, slab, generation } => {
                self.tables.map.insert(owner, slab);
                if survey.life.get(&slab) == Some(&lsn) {
                    self.begin_life(owner, slab, generation).await?;
                }
            }
            Record::Unmap { owner, slab, generation } => {
                self.tables.map.remove(owner, slab);
                // Nobody knows whether the device was told, or has zeroed it.
                self.tables.map.leave(slab);
                self.pages.remove(&slab);
                // One write of the page may have been under way, and one more have begun while the
                // record waited.
                let known = &mut self.tables.map.generations[slab as usize];
                *known = (*known).max(generation + 2);
            }
            Record::Put { key, value } => self.tables.catalogue.put(key, value),
            Record::Delete { key } => self.tables.catalogue.delete(key),
            Record::Trim(range) | Record::Poison(range) | Record::Write { range, .. }
                if survey.is_past_life(range.slab, lsn) => {}
            Record::Trim(range) => {
                let page = self.change(range.slab).await?;
                page.set_trimmed(range.first, range.count, range.tag);
            }
            Record::Poison(range) => {
                let page = self.change(range.slab).await?;
                page.set_poisoned(range.first, range.count, range.tag);
            }
            Record::Write { path: Path::Payload, range, crcs } => {
                for (index, crc) in (0..range.count).zip(crcs) {
                    let block = Range { first: range.first + index, count: 1, ..range };
                    let at = payload + u64::from(index);
                    self.redo_payload(ring, survey, lsn, at, block, crc.get()).await?;
                }
            }
            Record::Write { range, crcs, .. } => {
                for (index, crc) in (0..range.count).zip(crcs) {
                    let block = Range { first: range.first + index, count: 1, ..range };
                    self.redo_in_place(survey, lsn, block, crc.get()).await?;
                }
            }
        }
        Ok(())
    }

    /// A block whose data are in the journal: they go in place unless something newer is there.
    async fn redo_payload(
        &mut self,
        ring: &Ring<'_>,
        survey: &Survey,
        lsn: u64,
        payload: u64,
        at: Range,
        crc: u32,
    ) -> Result<(), MountError> {
        let number = block_number(at.slab, at.first);
        let last = survey.last[&number];
        // Between this payload and an uncertain last write there must be no other: it would have
        // been in place before the last one began, and would be gone.
        let is_last_but_one = last.before == lsn && last.lsn > survey.completed_lsn;
        let is_wanted = match last.in_place {
            _ if last.lsn == lsn => true,
            Some(newer) if is_last_but_one => self.medium(at, newer).await? == Medium::Differs,
            _ => false,
        };
        let is_rotten = survey
            .rotten
            .iter()
            .any(|rotten| rotten.lsn == lsn && rotten.range.first + rotten.index == at.first);
        let page = self.change(at.slab).await?;
        page.set_written(at.first, &[crc], at.tag);
        if !is_wanted {
            return Ok(());
        }
        if is_rotten {
            if self.medium(at, crc).await? != Medium::Matches {
                self.lose(at).await?;
            }
            return Ok(());
        }
        if self.is_dry {
            self.in_journal.insert(number);
            return Ok(());
        }
        let bytes = ring.read(payload, 1).await?;
        let Some(bytes) = bytes.filter(|bytes| page::matches(bytes, crc)) else {
            return self.lose(at).await;
        };
        let mut buf = self.data.buffer(BLOCK).await;
        buf.copy_from_slice(&bytes);
        let offset = self.areas.data_offset(at.slab, at.first);
        Ok(self.data.write_background(offset, buf.freeze()).await?)
    }

    /// A block whose data were written in place: if that may not have ended, the block itself says
    /// whether it is new, still old, or neither.
    async fn redo_in_place(
        &mut self,
        survey: &Survey,
        lsn: u64,
        at: Range,
        crc: u32,
    ) -> Result<(), MountError> {
        let is_last = survey.last[&block_number(at.slab, at.first)].lsn == lsn;
        let is_certain = lsn <= survey.completed_lsn || !is_last;
        let page = self.change(at.slab).await?;
        let before = page.crc(at.first);
        if is_certain || before == Some(crc) {
            page.set_written(at.first, &[crc], at.tag);
            return Ok(());
        }
        match self.medium(at, crc).await? {
            Medium::Differs => {}
            Medium::Unreadable => return self.lose(at).await,
            Medium::Matches => {
                self.change(at.slab).await?.set_written(at.first, &[crc], at.tag);
                return Ok(());
            }
        }
        let Some(before) = before else { return Ok(()) };
        let is_waiting = self.in_journal.contains(&block_number(at.slab, at.first));
        if is_waiting || self.medium(at, before).await? == Medium::Matches {
            return Ok(());
        }
        self.lose(at).await
    }

    async fn lose(&mut self, at: Range) -> Result<(), MountError> {
        self.lost_blocks += 1;
        self.change(at.slab).await?.set_poisoned(at.first, 1, at.tag);
        Ok(())
    }

    async fn medium(&self, at: Range, crc: u32) -> Result<Medium, disk::Error> {
        self.data.drain().await?;
        match self.data.read(self.areas.data_offset(at.slab, at.first), BLOCK).await {
            Ok(bytes) if page::matches(&bytes, crc) => Ok(Medium::Matches),
            Ok(_) => Ok(Medium::Differs),
            Err(disk::Error::Media) => Ok(Medium::Unreadable),
            Err(error) => Err(error),
        }
    }

    /// A slab begins anew; pages of its former lives do not count.
    async fn begin_life(&mut self, owner: Owner, slab: u32, before: u32) -> Result<(), MountError> {
        let copies = self.page_copies(owner, slab).await?;
        let newest = copies.intact.iter().map(|&(_, generation)| generation).max();
        // Where neither copy says how often the page of this life has been written: nothing that it
        // says is needed, but whatever can be read of it later must be older than what is written.
        let bound = if copies.unreadable == 2 { self.generation_bound(before) } else { before };
        self.tables.map.generations[slab as usize] = newest.map_or(bound, |found| found.max(bound));
        self.pages.insert(slab, Held { page: Page::EMPTY, is_dirty: true });
        Ok(())
    }

    /// Above every generation that a page may have which had `known` when the journal's first
    /// record was made: each later write of it was for a record of its own, and one may have been
    /// under way.
    fn generation_bound(&self, known: u32) -> u32 {
        let records = u32::try_from(self.records).unwrap_or(u32::MAX);
        known.saturating_add(records).saturating_add(1).min(GENERATION_MAX)
    }

    /// A page that is about to change.
    async fn change(&mut self, slab: u32) -> Result<&mut Page, MountError> {
        self.hold(slab).await?;
        let held = self.pages.get_mut(&slab).expect("held above");
        held.is_dirty = true;
        Ok(&mut held.page)
    }

    /// A page as it is.
    pub(super) async fn page(&mut self, slab: u32) -> Result<&Page, MountError> {
        self.hold(slab).await?;
        Ok(&self.pages[&slab].page)
    }

    async fn hold(&mut self, slab: u32) -> Result<(), MountError> {
        if self.pages.contains_key(&slab) {
            return Ok(());
        }
        let Some(owner) = self.tables.map.owner(slab) else {
            return Err(MountError::Inconsistent("a record names a slab that nobody has"));
        };
        if self.pages.len() >= self.pages_max {
            if self.is_dry {
                self.pages.retain(|_, held| held.is_dirty);
            } else {
                self.write_pages().await?;
            }
        }
        let expected = self.tables.map.generations[slab as usize];
        let Copies { intact, unreadable } = self.page_copies(owner, slab).await?;
        let newest = intact
            .into_iter()
            .filter(|&(_, generation)| generation >= expected)
            .max_by_key(|&(_, generation)| generation);
        let (page, generation) = newest.unwrap_or_else(|| {
            let is_unreadable = unreadable > 0;
            self.lost_pages.insert(slab, LostPage { owner, is_unreadable });
            let bound = self.generation_bound(expected);
            (Page::lost(), if is_unreadable { bound } else { expected })
        });
        self.tables.map.generations[slab as usize] = generation;
        self.pages.insert(slab, Held { page, is_dirty: false });
        Ok(())
    }

    /// The copies of a slab's page, which lie side by side.
    async fn page_copies(&self, owner: Owner, slab: u32) -> Result<Copies, disk::Error> {
        let identity = Identity { incarnation: self.areas.incarnation, slab, owner };
        let first = self.areas.page_offset(slab, 0);
        match self.data.read(first, 2 * BLOCK).await {
            Ok(both) => {
                let copies = both.chunks_exact(BLOCK);
                let intact = copies.filter_map(|copy| Page::decode(copy, &identity)).collect();
                return Ok(Copies { intact, unreadable: 0 });
            }
            Err(disk::Error::Media) => {}
            Err(error) => return Err(error),
        }
        let mut copies = Copies { intact: Vec::new(), unreadable: 0 };
        for copy in [0, 1] {
            match self.read_page(self.areas.page_offset(slab, copy)).await? {
                Some(bytes) => copies.intact.extend(Page::decode(&bytes, &identity)),
                None => copies.unreadable += 1,
            }
        }
        Ok(copies)
    }

    /// One copy of a page, `None` if the device cannot read it: that costs what the page says, so
    /// it is tried several times.
    async fn read_page(&self, offset: u64) -> Result<Option<Buf>, disk::Error> {
        for _ in 0..PAGE_TRIES {
            match self.data.read(offset, BLOCK).await {
                Ok(bytes) => return Ok(Some(bytes)),
                Err(disk::Error::Media) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// Makes all pages durable and forgets them.
    pub(super) async fn write_pages(&mut self) -> Result<(), MountError> {
        let mut pages = std::mem::take(&mut self.pages);
        for (slab, held) in pages.drain().filter(|(_, held)| held.is_dirty) {
            let Some(owner) = self.tables.map.owner(slab) else {
                return Err(MountError::Inconsistent("two slabs claim one place"));
            };
            let identity = Identity { incarnation: self.areas.incarnation, slab, owner };
            let generation = &mut self.tables.map.generations[slab as usize];
            *generation += 1;
            let mut buf = self.data.buffer(BLOCK).await;
            held.page.encode(&identity, *generation, &mut buf);
            let offset = self.areas.page_offset(slab, *generation);
            self.data.write_background(offset, buf.freeze()).await?;
        }
        Ok(self.data.flush().await?)
    }
}
