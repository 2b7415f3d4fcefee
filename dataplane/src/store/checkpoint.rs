//! What a checkpoint holds: page generations, the slab map, the catalogue, and where redo starts.

use super::catalogue::{self, Catalogue};
use super::layout::Areas;
use super::map::{Map, Owner, VOLUME_CHUNKS_MAX};
use super::page::GENERATION_MAX;
use super::{ChunkKey, VolumeId};
use storage_spec::crc32c;
use storage_spec::disk::{
    self, BLOCK, CHUNK_SLABS, CONTENT_BYTES, CheckpointHeader, ChunkEntry, ContentPage, Sealed,
};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

/// Everything of a shard that is resident in memory and comes from the checkpoint.
#[derive(Debug)]
pub(super) struct Tables {
    pub(super) map: Map,
    pub(super) catalogue: Catalogue,
}

impl Tables {
    pub(super) fn new(slabs: u32) -> Self {
        Self { map: Map::new(slabs), catalogue: Catalogue::default() }
    }
}

/// A point in the journal: where the next batch starts and what it must say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mark {
    /// Block, counted on and on; the place in the ring is the remainder.
    pub(super) position: u64,
    /// Sequence of the batch.
    pub(super) sequence: u64,
    /// Number of its first record.
    pub(super) lsn: u64,
    /// Its `previous_crc`.
    pub(super) crc: u32,
}

/// A checkpoint's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) sequence: u64,
    pub(super) pages: u64,
    pub(super) content_crc: u32,
    pub(super) start: Mark,
    pub(super) clean: bool,
}

impl Header {
    pub(super) fn encode(&self, areas: &Areas) -> CheckpointHeader {
        let mut header = CheckpointHeader::new_zeroed();
        header.magic = disk::CHECKPOINT_MAGIC;
        header.incarnation = areas.incarnation.into();
        header.sequence = self.sequence.into();
        header.pages = self.pages.into();
        header.journal_position = (self.start.position % areas.journal_blocks).into();
        header.next_sequence = self.start.sequence.into();
        header.next_lsn = self.start.lsn.into();
        header.previous_crc = self.start.crc.into();
        header.shard = areas.shard.into();
        header.clean = u8::from(self.clean);
        header.content_crc = self.content_crc.into();
        header.seal();
        header
    }

    /// The header in `block`, if it is an intact one of this shard for region `region`.
    pub(super) fn decode(block: &[u8], areas: &Areas, region: u64) -> Option<Self> {
        let (header, _) = CheckpointHeader::ref_from_prefix(block).ok()?;
        let is_ours = header.magic == disk::CHECKPOINT_MAGIC
            && header.is_intact()
            && header.incarnation == areas.incarnation
            && header.shard == areas.shard
            && header.sequence.get() & 1 == region
            && header.pages.get() < areas.checkpoint_blocks
            && header.journal_position.get() < areas.journal_blocks;
        is_ours.then(|| Self {
            sequence: header.sequence.get(),
            pages: header.pages.get(),
            content_crc: header.content_crc.get(),
            start: Mark {
                position: header.journal_position.get(),
                sequence: header.next_sequence.get(),
                lsn: header.next_lsn.get(),
                crc: header.previous_crc.get(),
            },
            clean: header.clean != 0,
        })
    }
}

/// The chain's first link after a checkpoint that ends a recovery: batches of the past do not chain
/// to it.
pub(super) fn chain_seed(areas: &Areas, sequence: u64) -> u32 {
    crc32c::append(crc32c::checksum(&areas.incarnation.to_le_bytes()), &sequence.to_le_bytes())
}

#[derive(Debug)]
enum Cursor {
    Generations(u32),
    Chunks(usize),
    Leaving(u32),
    Catalogue(Vec<u8>),
    End,
}

/// Turns the tables into content pages, some at a time; the tables may change meanwhile, since redo
/// from the checkpoint's start passes over every such change again.
#[derive(Debug)]
pub(super) struct Encoder {
    pub(super) sequence: u64,
    shard: u16,
    cursor: Cursor,
    /// Pages made so far.
    pub(super) pages: u64,
    /// Checksum over their checksums.
    pub(super) content_crc: u32,
    entry: Vec<u8>,
}

impl Encoder {
    pub(super) fn new(sequence: u64, shard: u16) -> Self {
        Self {
            sequence,
            shard,
            cursor: Cursor::Generations(0),
            pages: 0,
            content_crc: 0,
            entry: Vec::new(),
        }
    }

    /// Makes the next page in `into`; `false` when there is none.
    pub(super) fn next_page(&mut self, tables: &Tables, into: &mut [u8]) -> bool {
        let mut page = ContentPage::new_zeroed();
        while page.used == 0 {
            let (kind, used) = match &mut self.cursor {
                Cursor::Generations(next) => {
                    let used = fill_generations(next, &tables.map, &mut page.entries);
                    if used == 0 {
                        self.cursor = Cursor::Chunks(0);
                    }
                    (disk::CONTENT_GENERATIONS, used)
                }
                Cursor::Chunks(next) => {
                    let used = fill_chunks(next, &tables.map, &mut page.entries, &mut self.entry);
                    if used == 0 {
                        self.cursor = Cursor::Leaving(0);
                    }
                    (disk::CONTENT_CHUNKS, used)
                }
                Cursor::Leaving(next) => {
                    let used = fill_leaving(next, &tables.map, &mut page.entries);
                    if used == 0 {
                        self.cursor = Cursor::Catalogue(Vec::new());
                    }
                    (disk::CONTENT_LEAVING, used)
                }
                Cursor::Catalogue(after) => {
                    let catalogue = &tables.catalogue;
                    let used = fill_catalogue(after, catalogue, &mut page.entries, &mut self.entry);
                    if used == 0 {
                        self.cursor = Cursor::End;
                    }
                    (disk::CONTENT_CATALOGUE, used)
                }
                Cursor::End => return false,
            };
            page.kind = kind.into();
            page.used = (used as u32).into();
        }
        page.magic = disk::CONTENT_MAGIC;
        page.sequence = self.sequence.into();
        page.index = self.pages.into();
        page.shard = self.shard.into();
        page.seal();
        self.content_crc = crc32c::append(self.content_crc, page.crc.as_bytes());
        self.pages += 1;
        into[..BLOCK].copy_from_slice(page.as_bytes());
        true
    }
}

fn fill_generations(next: &mut u32, map: &Map, entries: &mut [u8; CONTENT_BYTES]) -> usize {
    let rest = &map.generations[*next as usize..];
    let count = rest.len().min(CONTENT_BYTES / 4);
    for (to, generation) in entries.chunks_exact_mut(4).zip(&rest[..count]) {
        to.copy_from_slice(&generation.to_le_bytes());
    }
    *next += count as u32;
    count * 4
}

fn fill_chunks(
    next: &mut usize,
    map: &Map,
    entries: &mut [u8; CONTENT_BYTES],
    entry: &mut Vec<u8>,
) -> usize {
    let mut used = 0;
    while *next < map.chunk_places() {
        if let Some(chunk) = map.chunk(*next) {
            let mut mapped = [0u64; CHUNK_SLABS / 64];
            for (index, _) in chunk.slabs() {
                mapped[usize::from(index) / 64] |= 1 << (index % 64);
            }
            let head = ChunkEntry {
                volume: chunk.key.volume.0.into(),
                chunk: chunk.key.index.into(),
                flags: 0.into(),
                mapped: mapped.map(Into::into),
            };
            entry.clear();
            entry.extend_from_slice(head.as_bytes());
            for (_, slab) in chunk.slabs() {
                entry.extend_from_slice(&slab.to_le_bytes());
            }
            let Some(room) = entries.get_mut(used..used + entry.len()) else { return used };
            room.copy_from_slice(entry);
            used += entry.len();
        }
        *next += 1;
    }
    used
}

fn fill_leaving(next: &mut u32, map: &Map, entries: &mut [u8; CONTENT_BYTES]) -> usize {
    let mut used = 0;
    for to in entries.chunks_exact_mut(4) {
        let Some(slab) = map.next_leaving(*next) else { break };
        to.copy_from_slice(&slab.to_le_bytes());
        *next = slab + 1;
        used += 4;
    }
    used
}

fn fill_catalogue(
    after: &mut Vec<u8>,
    catalogue: &Catalogue,
    entries: &mut [u8; CONTENT_BYTES],
    entry: &mut Vec<u8>,
) -> usize {
    let mut used = 0;
    while let Some((key, value)) = catalogue.after(after) {
        entry.clear();
        catalogue::encode(key, value, entry);
        let Some(room) = entries.get_mut(used..used + entry.len()) else { return used };
        room.copy_from_slice(entry);
        used += entry.len();
        after.clear();
        after.extend_from_slice(key);
    }
    used
}

/// Reads content pages back into tables.
#[derive(Debug)]
pub(super) struct Decoder {
    pub(super) tables: Tables,
    sequence: u64,
    shard: u16,
    pages: u64,
    generations: usize,
    /// Checksum over the checksums of the pages so far.
    pub(super) content_crc: u32,
}

impl Decoder {
    pub(super) fn new(areas: &Areas, sequence: u64) -> Self {
        Self {
            tables: Tables::new(areas.slabs),
            sequence,
            shard: areas.shard,
            pages: 0,
            generations: 0,
            content_crc: 0,
        }
    }

    /// Takes the next page; `None` if it is not an intact one in its place.
    pub(super) fn take(&mut self, block: &[u8]) -> Option<()> {
        let (page, _) = ContentPage::ref_from_prefix(block).ok()?;
        let is_next = page.magic == disk::CONTENT_MAGIC
            && page.is_intact()
            && page.sequence == self.sequence
            && page.index == self.pages
            && page.shard == self.shard;
        if !is_next {
            return None;
        }
        self.content_crc = crc32c::append(self.content_crc, page.crc.as_bytes());
        self.pages += 1;
        let entries = page.entries.get(..page.used.get() as usize)?;
        match page.kind.get() {
            disk::CONTENT_GENERATIONS => self.take_generations(entries),
            disk::CONTENT_CHUNKS => self.take_chunks(entries),
            disk::CONTENT_LEAVING => self.take_leaving(entries),
            disk::CONTENT_CATALOGUE => self.take_catalogue(entries),
            _ => None,
        }
    }

    /// Whether everything that must be there was.
    pub(super) fn is_complete(&self) -> bool {
        self.generations == self.tables.map.generations.len()
    }

    fn take_generations(&mut self, entries: &[u8]) -> Option<()> {
        for entry in entries.chunks_exact(4) {
            let generation = u32::from_le_bytes(entry.try_into().expect("four bytes"));
            if generation > GENERATION_MAX {
                return None;
            }
            *self.tables.map.generations.get_mut(self.generations)? = generation;
            self.generations += 1;
        }
        Some(())
    }

    fn take_chunks(&mut self, mut entries: &[u8]) -> Option<()> {
        while !entries.is_empty() {
            let (entry, mut rest) = ChunkEntry::ref_from_prefix(entries).ok()?;
            let volume = VolumeId(entry.volume.get());
            let key = ChunkKey { volume, index: entry.chunk.get() };
            if key.index >= VOLUME_CHUNKS_MAX {
                return None;
            }
            for index in 0..CHUNK_SLABS as u8 {
                let word = entry.mapped[usize::from(index) / 64].get();
                if word & (1 << (index % 64)) == 0 {
                    continue;
                }
                let (slab, more) = rest.split_first_chunk::<4>()?;
                let slab = u32::from_le_bytes(*slab);
                if slab >= self.tables.map.slab_count() {
                    return None;
                }
                self.tables.map.insert(Owner::of(key, index), slab);
                rest = more;
            }
            entries = rest;
        }
        Some(())
    }

    fn take_leaving(&mut self, entries: &[u8]) -> Option<()> {
        for entry in entries.chunks_exact(4) {
            let slab = u32::from_le_bytes(entry.try_into().expect("four bytes"));
            if slab >= self.tables.map.slab_count() {
                return None;
            }
            self.tables.map.leave(slab);
        }
        Some(())
    }

    fn take_catalogue(&mut self, mut entries: &[u8]) -> Option<()> {
        while !entries.is_empty() {
            let (key, value, rest) = catalogue::decode(entries)?;
            self.tables.catalogue.put(key, value);
            entries = rest;
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::FormatOptions;
    use super::super::layout::Layout;
    use super::*;
    use uuid::Uuid;

    pub(super) fn areas(slabs: u64) -> Areas {
        let info = crate::disk::Info {
            name: String::new(),
            capacity: slabs << 21,
            block_size: 4096,
            atomic_write: 4096,
            volatile_cache: false,
            fua: false,
            deallocate: false,
            rotational: false,
            queue_depth: 32,
            transfer_max: 1 << 20,
        };
        let options = FormatOptions::new(Uuid::from_u128(5), 99);
        Layout::plan(&info, None, &options).unwrap().areas(0, 99)
    }

    #[test]
    fn tables_survive_and_rot_is_seen() {
        let areas = areas(4000);
        let mut tables = Tables::new(areas.slabs);
        tables.map.free_the_rest();
        for slab in 0..2000u32 {
            let chunk = ChunkKey { volume: VolumeId(u64::from(slab % 3)), index: slab / 100 };
            tables.map.insert(Owner::of(chunk, (slab % 100) as u8), slab);
            tables.map.generations[slab as usize] = slab * 7;
        }
        for slab in (2000..areas.slabs).step_by(3) {
            tables.map.leave(slab);
        }
        for number in 0..300u32 {
            tables.catalogue.put(&number.to_le_bytes(), &vec![3; number as usize]);
        }
        let mut encoder = Encoder::new(4, 0);
        let mut pages = Vec::new();
        let mut block = [0; BLOCK];
        while encoder.next_page(&tables, &mut block) {
            pages.push(block);
        }
        assert!(encoder.pages < areas.checkpoint_blocks);
        let mut decoder = Decoder::new(&areas, 4);
        for page in &pages {
            decoder.take(page).unwrap();
        }
        assert!(decoder.is_complete());
        assert_eq!(decoder.content_crc, encoder.content_crc);
        assert_eq!(decoder.tables.map.generations, tables.map.generations);
        for slab in 0..areas.slabs {
            assert_eq!(decoder.tables.map.owner(slab), tables.map.owner(slab));
        }
        let leaving = |map: &Map| {
            let mut slabs = Vec::new();
            while let Some(slab) = map.next_leaving(slabs.last().map_or(0, |last| last + 1)) {
                slabs.push(slab);
            }
            slabs
        };
        assert_eq!(leaving(&decoder.tables.map), leaving(&tables.map));
        assert!(leaving(&tables.map).len() > 600);
        assert!(decoder.tables.catalogue.iter().eq(tables.catalogue.iter()));
        let mut decoder = Decoder::new(&areas, 4);
        assert!(decoder.take(&pages[1]).is_none(), "out of place");
        pages[0][99] ^= 1;
        assert!(decoder.take(&pages[0]).is_none(), "rotten");
    }
}
