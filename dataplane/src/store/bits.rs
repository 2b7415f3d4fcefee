//! A bit for each block of a slab.

use storage_spec::disk::SLAB_BLOCKS;

const WORDS: usize = SLAB_BLOCKS / 64;

/// A set of blocks of one slab.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct BlockSet(pub(super) [u64; WORDS]);

impl BlockSet {
    pub(super) const EMPTY: Self = Self([0; WORDS]);
    pub(super) const FULL: Self = Self([u64::MAX; WORDS]);

    /// The blocks `first..first + count`.
    pub(super) fn range(first: u16, count: u16) -> Self {
        let (first, end) = (usize::from(first), usize::from(first) + usize::from(count));
        assert!(end <= SLAB_BLOCKS);
        Self(std::array::from_fn(|word| {
            let low = first.clamp(word * 64, word * 64 + 64) - word * 64;
            let high = end.clamp(word * 64, word * 64 + 64) - word * 64;
            ones(high) & !ones(low)
        }))
    }

    pub(super) fn contains(&self, block: u16) -> bool {
        self.0[usize::from(block) / 64] & (1 << (block % 64)) != 0
    }

    pub(super) fn insert(&mut self, other: &Self) {
        self.each(other, |a, b| a | b);
    }

    pub(super) fn remove(&mut self, other: &Self) {
        self.each(other, |a, b| a & !b);
    }

    pub(super) fn intersects(&self, other: &Self) -> bool {
        self.0.iter().zip(other.0).any(|(a, b)| a & b != 0)
    }

    /// Whether everything in `other` is here.
    pub(super) fn covers(&self, other: &Self) -> bool {
        self.0.iter().zip(other.0).all(|(a, b)| a & b == b)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0 == Self::EMPTY.0
    }

    pub(super) fn count(&self) -> u32 {
        self.0.iter().map(|word| word.count_ones()).sum()
    }

    fn each(&mut self, other: &Self, f: impl Fn(u64, u64) -> u64) {
        for (a, b) in self.0.iter_mut().zip(other.0) {
            *a = f(*a, b);
        }
    }
}

/// The lowest `count` bits.
fn ones(count: usize) -> u64 {
    if count >= 64 { u64::MAX } else { (1 << count) - 1 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn ranges(first in 0u16..512, count in 0u16..512) {
            let count = count.min(512 - first);
            let set = BlockSet::range(first, count);
            for block in 0..512 {
                prop_assert_eq!(set.contains(block), block >= first && block < first + count);
            }
            prop_assert_eq!(set.count(), u32::from(count));
        }
    }
}
