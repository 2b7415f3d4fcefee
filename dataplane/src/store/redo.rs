//! Redoing the journal: each record's effect on the tables, the pages and the blocks.
//!
//! Redo may run any number of times, and be interrupted anywhere: pages and blocks only ever move
//! towards the state at the journal's end.

use super::MountError;
use super::checkpoint::{Mark, Tables};
use super::layout::Areas;
use super::map::Owner;
use super::page::{self, Identity, Page};
use super::port::Port;
use super::record::{Path, Range, Record};
use super::scan::{Batch, Found, Ring, Rotten};
use crate::disk;
use hashbrown::{HashMap, HashSet};
use storage_spec::disk::{BLOCK, SLAB_BLOCKS};

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
    /// Pages that no copy could give.
    pub(super) lost_pages: Vec<Owner>,
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
            lost_pages: Vec::new(),
            lost_blocks: 0,
        }
    }

    /// Carries out everything that the survey found.
    pub(super) async fn run(&mut self, ring: &Ring<'_>, survey: &Survey) -> Result<(), MountError> {
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
        let mut generation = before;
        let (copies, unreadable) = self.page_copies(owner, slab).await?;
        if unreadable == 2 {
            return Err(MountError::PageUnreadable { slab });
        }
        for (_, found) in copies {
            generation = generation.max(found);
        }
        self.tables.map.generations[slab as usize] = generation;
        self.pages.insert(slab, Held { page: Page::EMPTY, is_dirty: true });
        Ok(())
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
        let (copies, unreadable) = self.page_copies(owner, slab).await?;
        let newest = copies
            .into_iter()
            .filter(|&(_, generation)| generation >= expected)
            .max_by_key(|&(_, generation)| generation);
        let page = match newest {
            Some((page, generation)) => {
                self.tables.map.generations[slab as usize] = generation;
                page
            }
            // The newest may be there, and good: it must not be written over with a guess.
            None if unreadable > 0 => return Err(MountError::PageUnreadable { slab }),
            None => {
                self.lost_pages.push(owner);
                Page::lost()
            }
        };
        self.pages.insert(slab, Held { page, is_dirty: false });
        Ok(())
    }

    /// The intact copies of a slab's page, which lie side by side, and how many are unreadable.
    async fn page_copies(
        &self,
        owner: Owner,
        slab: u32,
    ) -> Result<(Vec<(Page, u32)>, usize), disk::Error> {
        let identity = Identity { incarnation: self.areas.incarnation, slab, owner };
        let first = self.areas.page_offset(slab, 0);
        match self.data.read(first, 2 * BLOCK).await {
            Ok(both) => {
                let copies = both.chunks_exact(BLOCK);
                let intact = copies.filter_map(|copy| Page::decode(copy, &identity));
                return Ok((intact.collect(), 0));
            }
            Err(disk::Error::Media) => {}
            Err(error) => return Err(error),
        }
        let (mut copies, mut unreadable) = (Vec::new(), 0);
        for copy in [0, 1] {
            match self.data.read(self.areas.page_offset(slab, copy), BLOCK).await {
                Ok(bytes) => copies.extend(Page::decode(&bytes, &identity)),
                Err(disk::Error::Media) => unreadable += 1,
                Err(error) => return Err(error),
            }
        }
        Ok((copies, unreadable))
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
