//! A slab's metadata in memory, and its form on the disk.

use super::bits::BlockSet;
use super::map::Owner;
use storage_spec::crc32c;
use storage_spec::disk::{self, BLOCK, REGION_BLOCKS, SLAB_BLOCKS, SLAB_REGIONS, Sealed, SlabPage};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

/// Highest generation that a disk may name: none that counts on from it wraps.
pub(super) const GENERATION_MAX: u32 = u32::MAX - (1 << 30);

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

    /// Whether `block` answers reads with an error whatever is on the medium.
    pub(super) fn is_poisoned(&self, block: u16) -> bool {
        self.poisoned.contains(block)
    }

    /// Whether any of the blocks holds data, or an error that must not get lost.
    pub(super) fn holds(&self, first: u16, count: u16) -> bool {
        let range = BlockSet::range(first, count);
        self.allocated.intersects(&range) || self.poisoned.intersects(&range)
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
