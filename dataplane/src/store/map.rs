//! Which slab stands where: chunks to slabs, slabs to owners, and which slabs are free.
//!
//! About 10 MiB of memory for each TiB: slab maps, page generations, owners.

use super::{ChunkKey, Event, VolumeId};
use hashbrown::HashMap;
use storage_spec::disk::CHUNK_SLABS;

/// Most chunks of one volume: 256 TiB.
pub(super) const VOLUME_CHUNKS_MAX: u32 = 1 << 20;

const NONE: u32 = u32::MAX;

/// The place of a slab in a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Owner {
    pub(super) volume: VolumeId,
    pub(super) chunk: u32,
    pub(super) index: u8,
}

impl Owner {
    pub(super) fn of(chunk: ChunkKey, index: u8) -> Self {
        Self { volume: chunk.volume, chunk: chunk.index, index }
    }

    pub(super) fn key(self) -> ChunkKey {
        ChunkKey { volume: self.volume, index: self.chunk }
    }

    /// What is told when the slab's page is lost.
    pub(super) fn page_error(self) -> Event {
        Event::PageError { chunk: self.key(), index: u32::from(self.index) }
    }
}

/// A chunk that holds at least one slab.
#[derive(Debug, Clone)]
pub(super) struct Chunk {
    pub(super) key: ChunkKey,
    used: u16,
    slabs: [u32; CHUNK_SLABS],
}

impl Chunk {
    /// The slabs that are mapped: index and slab.
    pub(super) fn slabs(&self) -> impl Iterator<Item = (u8, u32)> {
        (0u8..).zip(self.slabs).filter(|&(_, slab)| slab != NONE)
    }
}

#[derive(Debug, Default)]
struct Volume {
    /// Place in `Map::chunks` of each chunk, `NONE` where there is none.
    chunks: Vec<u32>,
    slabs: u32,
}

/// The slab map of a shard.
#[derive(Debug)]
pub(super) struct Map {
    volumes: HashMap<VolumeId, Volume>,
    chunks: Vec<Option<Chunk>>,
    vacant: Vec<u32>,
    /// Per slab: how often its page has been written.
    pub(super) generations: Vec<u32>,
    /// Per slab: place in `chunks` and index there, `(NONE, 0)` for none.
    owners: Vec<(u32, u8)>,
    free: SlabSet,
    /// Slabs without owner that the device has not yet taken back: they are not free.
    leaving: SlabSet,
}

impl Map {
    /// A map in which nothing is mapped and, until [`Map::free_the_rest`], nothing is free.
    pub(super) fn new(slabs: u32) -> Self {
        Self {
            volumes: HashMap::new(),
            chunks: Vec::new(),
            vacant: Vec::new(),
            generations: vec![0; slabs as usize],
            owners: vec![(NONE, 0); slabs as usize],
            free: SlabSet::new(slabs),
            leaving: SlabSet::new(slabs),
        }
    }

    /// Adds slabs that nobody has, up to `slabs`; they are not free until [`Map::free_the_rest`].
    pub(super) fn grow(&mut self, slabs: u32) {
        assert!(slabs >= self.slab_count());
        self.generations.resize(slabs as usize, 0);
        self.owners.resize(slabs as usize, (NONE, 0));
        for set in [&mut self.free, &mut self.leaving] {
            set.words.resize((slabs as usize).div_ceil(64), 0);
        }
    }

    pub(super) fn slab_count(&self) -> u32 {
        self.generations.len() as u32
    }

    pub(super) fn free_slabs(&self) -> u32 {
        self.free.count
    }

    /// The slab at a place.
    pub(super) fn get(&self, chunk: ChunkKey, index: u8) -> Option<u32> {
        let at = self.chunk_at(chunk)?;
        let slab = self.chunks[at as usize].as_ref()?.slabs[usize::from(index)];
        (slab != NONE).then_some(slab)
    }

    pub(super) fn owner(&self, slab: u32) -> Option<Owner> {
        let (at, index) = *self.owners.get(slab as usize)?;
        let chunk = self.chunks.get(at as usize)?.as_ref()?;
        Some(Owner::of(chunk.key, index))
    }

    /// A free slab, near the one given out last; it is still free.
    pub(super) fn next_free(&self) -> Option<u32> {
        self.free.next()
    }

    /// Puts `slab` at a place; whatever stood there loses it. `slab` is in range.
    pub(super) fn insert(&mut self, owner: Owner, slab: u32) {
        assert!(owner.chunk < VOLUME_CHUNKS_MAX && usize::from(owner.index) < CHUNK_SLABS);
        self.free.take(slab);
        let volume = self.volumes.entry(owner.volume).or_default();
        let position = owner.chunk as usize;
        if volume.chunks.len() <= position {
            volume.chunks.resize(position + 1, NONE);
        }
        if volume.chunks[position] == NONE {
            let chunk = Chunk { key: owner.key(), used: 0, slabs: [NONE; CHUNK_SLABS] };
            volume.chunks[position] = match self.vacant.pop() {
                Some(at) => {
                    self.chunks[at as usize] = Some(chunk);
                    at
                }
                None => {
                    self.chunks.push(Some(chunk));
                    self.chunks.len() as u32 - 1
                }
            };
        }
        let at = volume.chunks[position];
        let chunk = self.chunks[at as usize].as_mut().expect("volumes name chunks that exist");
        let place = &mut chunk.slabs[usize::from(owner.index)];
        if *place == NONE {
            chunk.used += 1;
            volume.slabs += 1;
        } else if *place != slab {
            self.owners[*place as usize] = (NONE, 0);
        }
        *place = slab;
        self.owners[slab as usize] = (at, owner.index);
    }

    /// Takes `slab` from a place if it stands there. It is to [`Map::leave`] then.
    pub(super) fn remove(&mut self, owner: Owner, slab: u32) {
        let Some(at) = self.chunk_at(owner.key()) else { return };
        let chunk = self.chunks[at as usize].as_mut().expect("volumes name chunks that exist");
        if chunk.slabs[usize::from(owner.index)] != slab {
            return;
        }
        chunk.slabs[usize::from(owner.index)] = NONE;
        chunk.used -= 1;
        let is_empty = chunk.used == 0;
        if self.owners[slab as usize] == (at, owner.index) {
            self.owners[slab as usize] = (NONE, 0);
        }
        let volume = self.volumes.get_mut(&owner.volume).expect("the chunk has a volume");
        volume.slabs -= 1;
        if is_empty {
            volume.chunks[owner.chunk as usize] = NONE;
            self.chunks[at as usize] = None;
            self.vacant.push(at);
            if volume.slabs == 0 {
                self.volumes.remove(&owner.volume);
            }
        }
    }

    /// Nobody has the slab any more; it is not free until [`Map::release`], also after a crash.
    pub(super) fn leave(&mut self, slab: u32) {
        self.leaving.put(slab);
    }

    /// A slab without owner may be given out again.
    pub(super) fn release(&mut self, slab: u32) {
        assert_eq!(self.owners[slab as usize].0, NONE, "slab {slab} has an owner");
        self.leaving.take(slab);
        self.free.put(slab);
    }

    /// Whether slabs will be free without anybody's doing.
    pub(super) fn has_leaving(&self) -> bool {
        self.leaving.count > 0
    }

    /// The first slab at or after `from` that is leaving.
    pub(super) fn next_leaving(&self, from: u32) -> Option<u32> {
        self.leaving.at_or_after(from)
    }

    /// At the end of recovery: what has no owner and is not leaving is free. Owners are read from
    /// the map anew, since redo may have passed through states that never were. The number of slabs
    /// that two places claim.
    pub(super) fn free_the_rest(&mut self) -> u32 {
        self.owners.fill((NONE, 0));
        let mut twice = 0;
        for (at, chunk) in (0u32..).zip(&self.chunks) {
            let Some(chunk) = chunk else { continue };
            for (index, slab) in chunk.slabs() {
                let owner = &mut self.owners[slab as usize];
                twice += u32::from(owner.0 != NONE);
                *owner = (at, index);
            }
        }
        for slab in 0..self.slab_count() {
            let has_owner = self.owners[slab as usize].0 != NONE;
            if has_owner {
                self.leaving.take(slab);
            }
            if has_owner || self.leaving.contains(slab) {
                self.free.take(slab);
            } else {
                self.free.put(slab);
            }
        }
        twice
    }

    /// Slabs that a volume has.
    pub(super) fn volume_slabs(&self, volume: VolumeId) -> u32 {
        self.volumes.get(&volume).map_or(0, |volume| volume.slabs)
    }

    /// The first slab of a volume at or after a chunk and an index in it: its place.
    pub(super) fn next_slab(&self, volume: VolumeId, chunk: u32, index: u32) -> Option<(u32, u8)> {
        let chunks = self.volumes.get(&volume)?.chunks.iter().enumerate();
        chunks.skip(chunk as usize).filter(|&(_, &at)| at != NONE).find_map(|(position, &at)| {
            let first = if position == chunk as usize { index } else { 0 };
            let mut slabs = self.chunks[at as usize].as_ref()?.slabs();
            let (index, _) = slabs.find(|&(index, _)| u32::from(index) >= first)?;
            Some((position as u32, index))
        })
    }

    /// Number of places for chunks, some of them vacant.
    pub(super) fn chunk_places(&self) -> usize {
        self.chunks.len()
    }

    /// The chunk at a place.
    pub(super) fn chunk(&self, place: usize) -> Option<&Chunk> {
        self.chunks[place].as_ref()
    }

    fn chunk_at(&self, key: ChunkKey) -> Option<u32> {
        let at = *self.volumes.get(&key.volume)?.chunks.get(key.index as usize)?;
        (at != NONE).then_some(at)
    }
}

/// A bit for each slab; given out in ascending order from where the last was.
#[derive(Debug)]
struct SlabSet {
    words: Vec<u64>,
    cursor: usize,
    count: u32,
}

impl SlabSet {
    fn new(slabs: u32) -> Self {
        Self { words: vec![0; (slabs as usize).div_ceil(64)], cursor: 0, count: 0 }
    }

    fn next(&self) -> Option<u32> {
        if self.count == 0 {
            return None;
        }
        let words = self.words.len();
        let word = (self.cursor..self.cursor + words)
            .map(|at| at % words)
            .find(|&at| self.words[at] != 0)
            .expect("the count says that one is free");
        Some(word as u32 * 64 + self.words[word].trailing_zeros())
    }

    fn contains(&self, slab: u32) -> bool {
        self.words[slab as usize / 64] & (1 << (slab % 64)) != 0
    }

    fn at_or_after(&self, from: u32) -> Option<u32> {
        let first = from as usize / 64;
        let words = self.words.iter().enumerate().skip(first);
        let mut words = words.map(|(at, &word)| {
            (at, if at == first { word & (u64::MAX << (from % 64)) } else { word })
        });
        let (at, word) = words.find(|&(_, word)| word != 0)?;
        Some(at as u32 * 64 + word.trailing_zeros())
    }

    fn take(&mut self, slab: u32) {
        let (word, bit) = (slab as usize / 64, 1 << (slab % 64));
        if self.words[word] & bit != 0 {
            self.words[word] &= !bit;
            self.count -= 1;
            self.cursor = word;
        }
    }

    fn put(&mut self, slab: u32) {
        let (word, bit) = (slab as usize / 64, 1 << (slab % 64));
        if self.words[word] & bit == 0 {
            self.words[word] |= bit;
            self.count += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(volume: u64, chunk: u32, index: u8) -> Owner {
        Owner { volume: VolumeId(volume), chunk, index }
    }

    #[test]
    fn slabs_come_and_go() {
        let mut map = Map::new(70);
        map.free_the_rest();
        assert_eq!(map.free_slabs(), 70);
        for index in 0..70 {
            let slab = map.next_free().unwrap();
            map.insert(owner(1, 3, index), slab);
            assert_eq!(map.get(owner(1, 3, index).key(), index), Some(slab));
            assert_eq!(map.owner(slab), Some(owner(1, 3, index)));
        }
        assert_eq!((map.next_free(), map.volume_slabs(VolumeId(1))), (None, 70));
        assert_eq!(map.next_slab(VolumeId(1), 0, 9), Some((3, 0)));
        assert_eq!(map.next_slab(VolumeId(1), 3, 9), Some((3, 9)));
        assert_eq!(map.next_slab(VolumeId(1), 3, 70), None);
        map.remove(owner(1, 3, 5), 5);
        map.leave(5);
        assert_eq!((map.next_free(), map.next_leaving(0)), (None, Some(5)));
        assert_eq!((map.next_leaving(5), map.next_leaving(6)), (Some(5), None));
        map.free_the_rest();
        assert_eq!(map.next_free(), None, "a recovery does not free what is leaving");
        map.release(5);
        assert_eq!((map.next_free(), map.next_leaving(0)), (Some(5), None));
        for index in 0..70u8 {
            map.remove(owner(1, 3, index), u32::from(index));
        }
        assert_eq!(map.next_slab(VolumeId(1), 0, 0), None);
        assert_eq!(map.free_the_rest(), 0);
        assert_eq!(map.free_slabs(), 70);
    }
}
