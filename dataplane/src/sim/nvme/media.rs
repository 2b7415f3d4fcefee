//! A namespace's blocks: durable, cached, and what a power cut leaves.

use super::EmulatedNamespace;
use crate::sim::Random;
use hashbrown::{HashMap, HashSet};

/// A block with its metadata behind it.
type Block = Box<[u8]>;

/// The media of a namespace.
pub(super) struct Media {
    pub(super) config: EmulatedNamespace,
    /// Of the write cache.
    is_cached: bool,
    durable: HashMap<u64, Block>,
    cached: HashMap<u64, Block>,
    /// Writes in the cache, in order: blocks that a power cut leaves together.
    unflushed: Vec<Vec<(u64, Block)>>,
    unreadable: HashSet<u64>,
    /// Blocks of one write that are old or new together.
    atomic: usize,
}

impl Media {
    pub(super) fn new(config: EmulatedNamespace, is_cached: bool, atomic: usize) -> Self {
        Self {
            config,
            is_cached,
            durable: HashMap::new(),
            cached: HashMap::new(),
            unflushed: Vec::new(),
            unreadable: HashSet::new(),
            atomic,
        }
    }

    pub(super) fn block_size(&self) -> usize {
        1 << self.config.block_shift
    }

    /// A block with its metadata; never written, zeroes (and no protection information).
    pub(super) fn stored(&self, lba: u64) -> Option<&[u8]> {
        self.cached.get(&lba).or_else(|| self.durable.get(&lba)).map(|block| &block[..])
    }

    pub(super) fn block(&self, lba: u64) -> Block {
        match self.stored(lba) {
            Some(block) => block[..self.block_size()].into(),
            None => vec![0; self.block_size()].into(),
        }
    }

    pub(super) fn is_unreadable(&self, lba: u64) -> bool {
        self.unreadable.contains(&lba)
    }

    /// Writes adjacent blocks with their metadata.
    pub(super) fn write(&mut self, lba: u64, blocks: Vec<Block>, is_forced: bool) {
        let numbered: Vec<(u64, Block)> = (lba..).zip(blocks).collect();
        for (lba, block) in &numbered {
            self.unreadable.remove(lba);
            if !self.is_cached || is_forced {
                self.durable.insert(*lba, block.clone());
                self.cached.remove(lba);
                self.unflushed.iter_mut().for_each(|write| write.retain(|(at, _)| at != lba));
            } else {
                self.cached.insert(*lba, block.clone());
            }
        }
        if self.is_cached && !is_forced {
            let together = if numbered.len() <= self.atomic { numbered.len() } else { 1 };
            let mut rest = numbered;
            while !rest.is_empty() {
                let tail = rest.split_off(together.min(rest.len()));
                self.unflushed.push(rest);
                rest = tail;
            }
        }
    }

    pub(super) fn flush(&mut self) {
        for (lba, block) in self.unflushed.drain(..).flatten() {
            self.durable.insert(lba, block);
        }
        self.cached.clear();
    }

    /// What was not flushed is kept or lost, each write by itself.
    pub(super) fn power_cycle(&mut self, random: &mut Random) {
        for write in std::mem::take(&mut self.unflushed) {
            if random.chance(50) {
                self.durable.extend(write);
            }
        }
        self.cached.clear();
    }

    pub(super) fn rot(&mut self, lba: u64, bit: usize) {
        let len = self.block_size() + usize::from(self.config.metadata);
        for blocks in [&mut self.durable, &mut self.cached] {
            if let Some(block) = blocks.get_mut(&lba) {
                block[bit / 8 % len] ^= 1 << (bit % 8);
            }
        }
    }

    pub(super) fn make_unreadable(&mut self, lba: u64) {
        self.unreadable.insert(lba);
    }
}

/// CRC-16/T10-DIF of a block: the guard of protection information.
pub(super) fn guard(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc: u16, &byte| {
        (0..8).fold(crc ^ u16::from(byte) << 8, |crc, _| {
            if crc & 0x8000 != 0 { crc << 1 ^ 0x8BB7 } else { crc << 1 }
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guard_is_that_of_the_standard() {
        assert_eq!(guard(b"123456789"), 0xD0DB);
    }

    #[test]
    fn a_power_cut_keeps_atomic_writes_together() {
        let (mut kept, mut lost) = (0, 0);
        for seed in 0..40 {
            let mut media = Media::new(EmulatedNamespace::new(1, 512), true, 8);
            let block = |byte: u8| vec![byte; 512].into_boxed_slice();
            media.write(8, (0..8).map(|_| block(1)).collect(), true);
            media.write(8, (0..8).map(|_| block(2)).collect(), false);
            media.power_cycle(&mut Random::new(seed));
            let bytes: Vec<u8> = (8..16).map(|lba| media.block(lba)[0]).collect();
            match bytes[..] {
                [1, 1, 1, 1, 1, 1, 1, 1] => lost += 1,
                [2, 2, 2, 2, 2, 2, 2, 2] => kept += 1,
                _ => panic!("torn: {bytes:?}"),
            }
        }
        assert!(kept > 5 && lost > 5);
    }
}
