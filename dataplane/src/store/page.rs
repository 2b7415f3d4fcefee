//! A slab's metadata in memory, and its form on the disk.

use super::bits::BlockSet;
use super::map::Owner;
use crate::dma::prefetch;
use arrayvec::ArrayVec;
use storage_spec::crc32c;
use storage_spec::disk::{self, BLOCK, REGION_BLOCKS, SLAB_BLOCKS, SLAB_REGIONS, Sealed, SlabPage};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

/// Highest generation that a disk may name: none that counts on from it wraps.
pub(super) const GENERATION_MAX: u32 = u32::MAX - (1 << 30);

/// Most runs of blocks that a read is cut into; the last one takes what is left.
pub(super) const RUNS_MAX: usize = 8;

/// Which blocks of a slab hold data, and what their bytes are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Page {
    pub(super) allocated: BlockSet,
    pub(super) poisoned: BlockSet,
    versions: [u32; SLAB_REGIONS],
    crcs: [u32; SLAB_BLOCKS],
}

impl Page {
    /// Of a slab that holds nothing.
    pub(super) const EMPTY: Self = Self {
        allocated: BlockSet::EMPTY,
        poisoned: BlockSet::EMPTY,
        versions: [0; SLAB_REGIONS],
        crcs: [0; SLAB_BLOCKS],
    };

    /// Of a slab whose page is lost: nothing is known, so nothing is answered.
    pub(super) fn lost() -> Self {
        Self { poisoned: BlockSet::FULL, ..Self::EMPTY }
    }

    /// What the bytes of `block` must have as checksum; `None` where it holds nothing.
    pub(super) fn crc(&self, block: u16) -> Option<u32> {
        self.allocated.contains(block).then(|| self.crcs[usize::from(block)])
    }

    /// Has the checksum of `block` fetched while its data are on their way.
    pub(super) fn prefetch(&self, block: u16) {
        prefetch::value(&self.crcs[usize::from(block)]);
    }

    /// Whether `block` answers reads with an error whatever is on the medium.
    pub(super) fn is_poisoned(&self, block: u16) -> bool {
        self.poisoned.contains(block)
    }

    /// Whether any of the blocks holds data, or an error that must not get lost.
    pub(super) fn holds(&self, first: u16, count: u16) -> bool {
        let range = BlockSet::range(first, count);
        self.allocated.intersects(&range) || self.poisoned.intersects(&range)
    }

    /// The runs of blocks that hold data: first block and count. Holes of fewer than `hole` blocks
    /// count as data, and so do those behind the run that is one too many.
    pub(super) fn runs(&self, first: u16, count: u16, hole: u16) -> ArrayVec<(u16, u16), RUNS_MAX> {
        let mut runs = ArrayVec::<(u16, u16), RUNS_MAX>::new();
        if self.allocated.covers(&BlockSet::range(first, count)) {
            runs.push((first, count));
            return runs;
        }
        for block in (first..first + count).filter(|&block| self.allocated.contains(block)) {
            let is_full = runs.is_full();
            match runs.last_mut() {
                Some((start, len)) if is_full || block - (*start + *len) < hole => {
                    *len = block + 1 - *start;
                }
                _ => runs.push((block, 1)),
            }
        }
        runs
    }

    /// Blocks from `first` on were written with these checksums.
    pub(super) fn set_written(&mut self, first: u16, crcs: &[u32], tag: u32) {
        let range = BlockSet::range(first, crcs.len() as u16);
        self.allocated.insert(&range);
        self.poisoned.remove(&range);
        self.crcs[usize::from(first)..][..crcs.len()].copy_from_slice(crcs);
        self.set_version(first, crcs.len() as u16, tag);
    }

    /// The blocks hold nothing any more.
    pub(super) fn set_trimmed(&mut self, first: u16, count: u16, tag: u32) {
        let range = BlockSet::range(first, count);
        self.allocated.remove(&range);
        self.poisoned.remove(&range);
        self.set_version(first, count, tag);
    }

    /// The blocks answer reads with an error.
    pub(super) fn set_poisoned(&mut self, first: u16, count: u16, tag: u32) {
        let range = BlockSet::range(first, count);
        self.allocated.remove(&range);
        self.poisoned.insert(&range);
        self.set_version(first, count, tag);
    }

    fn set_version(&mut self, first: u16, count: u16, tag: u32) {
        let end = (usize::from(first) + usize::from(count)).div_ceil(REGION_BLOCKS);
        self.versions[usize::from(first) / REGION_BLOCKS..end].fill(tag);
    }

    /// The block that lies on the disk.
    pub(super) fn encode(&self, identity: &Identity, generation: u32, into: &mut [u8]) {
        let mut page = SlabPage::new_zeroed();
        page.magic = disk::PAGE_MAGIC;
        page.incarnation = identity.incarnation.into();
        page.slab = identity.slab.into();
        page.generation = generation.into();
        page.volume = identity.owner.volume.0.into();
        page.chunk = identity.owner.chunk.into();
        page.index = u32::from(identity.owner.index).into();
        for word in 0..SLAB_BLOCKS / 64 {
            page.allocated[word] = self.allocated.0[word].into();
            page.poisoned[word] = self.poisoned.0[word].into();
        }
        for (to, from) in page.versions.iter_mut().zip(self.versions) {
            *to = from.into();
        }
        for (to, from) in page.crcs.iter_mut().zip(self.crcs) {
            *to = from.into();
        }
        page.seal();
        into[..BLOCK].copy_from_slice(page.as_bytes());
    }

    /// The page and its generation, if `block` is an intact page of this slab, disk, and owner.
    pub(super) fn decode(block: &[u8], identity: &Identity) -> Option<(Self, u32)> {
        let (page, _) = SlabPage::ref_from_prefix(block).ok()?;
        let matches = page.magic == disk::PAGE_MAGIC
            && page.incarnation == identity.incarnation
            && page.slab == identity.slab
            && page.volume == identity.owner.volume.0
            && page.chunk == identity.owner.chunk
            && page.index == u32::from(identity.owner.index)
            && page.generation.get() <= GENERATION_MAX
            && page.is_intact();
        matches.then(|| {
            let decoded = Self {
                allocated: BlockSet(page.allocated.map(|word| word.get())),
                poisoned: BlockSet(page.poisoned.map(|word| word.get())),
                versions: page.versions.map(|version| version.get()),
                crcs: page.crcs.map(|crc| crc.get()),
            };
            (decoded, page.generation.get())
        })
    }
}

/// Which page a page must be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Identity {
    pub(super) incarnation: u64,
    pub(super) slab: u32,
    pub(super) owner: Owner,
}

/// Whether a block's bytes are those that were written.
pub(super) fn matches(bytes: &[u8], crc: u32) -> bool {
    crc32c::checksum(bytes) == crc
}

#[cfg(test)]
mod tests {
    use super::super::VolumeId;
    use super::*;

    #[test]
    fn runs_pass_over_large_holes() {
        let mut page = Page::EMPTY;
        assert!(page.runs(0, 512, 4).is_empty());
        for block in [0, 4, 9, 10, 20] {
            page.set_written(block, &[1], 1);
        }
        assert_eq!(page.runs(0, 512, 4)[..], [(0, 5), (9, 2), (20, 1)]);
        assert_eq!(page.runs(3, 7, 512)[..], [(4, 6)]);
        assert_eq!(page.runs(9, 2, 1)[..], [(9, 2)]);
        for block in (0..512).step_by(32) {
            page.set_written(block, &[1], 1);
        }
        let runs = page.runs(0, 512, 2);
        assert_eq!((runs.len(), runs[RUNS_MAX - 1].0 + runs[RUNS_MAX - 1].1), (RUNS_MAX, 481));
    }

    #[test]
    fn a_page_is_itself_or_nothing() {
        let owner = Owner { volume: VolumeId(9), chunk: 3, index: 4 };
        let identity = Identity { incarnation: 77, slab: 5, owner };
        let mut page = Page::EMPTY;
        page.set_written(511, &[0xABCD], 6);
        page.set_poisoned(3, 2, 7);
        let mut block = [0; BLOCK];
        page.encode(&identity, 12, &mut block);
        assert_eq!(Page::decode(&block, &identity), Some((page, 12)));
        assert_eq!(Page::decode(&block, &Identity { slab: 6, ..identity }), None);
        assert_eq!(Page::decode(&block, &Identity { incarnation: 1, ..identity }), None);
        let other = Owner { index: 5, ..owner };
        assert_eq!(Page::decode(&block, &Identity { owner: other, ..identity }), None);
        for at in (0..BLOCK).step_by(7) {
            let mut rotten = block;
            rotten[at] ^= 0x10;
            assert_eq!(Page::decode(&rotten, &identity), None, "byte {at}");
        }
    }
}
