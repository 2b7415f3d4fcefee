//! A drive: what it says of itself, and its blocks, durable and cached.

use super::EmulatedDrive;
use crate::sim::Random;
use hashbrown::{HashMap, HashSet};
use storage_spec::ata::{IdentifyDevice, word};
use zerocopy::{FromZeros, IntoBytes};

/// A drive with its medium.
pub(super) struct Drive {
    pub(super) config: EmulatedDrive,
    durable: HashMap<u64, Box<[u8]>>,
    cached: HashMap<u64, Box<[u8]>>,
    unreadable: HashSet<u64>,
    unwritable: HashSet<u64>,
    pub(super) is_failing: bool,
    attributes: Vec<(u8, u8, u64)>,
    power_ons: u64,
}

impl Drive {
    pub(super) fn new(config: EmulatedDrive) -> Self {
        Self {
            config,
            durable: HashMap::new(),
            cached: HashMap::new(),
            unreadable: HashSet::new(),
            unwritable: HashSet::new(),
            is_failing: false,
            attributes: Vec::new(),
            power_ons: 41,
        }
    }

    pub(super) fn block_size(&self) -> usize {
        1 << self.config.block_shift
    }

    pub(super) fn block(&self, lba: u64) -> Vec<u8> {
        let stored = self.cached.get(&lba).or_else(|| self.durable.get(&lba));
        stored.map_or_else(|| vec![0; self.block_size()], |block| block.to_vec())
    }

    pub(super) fn is_durable(&self, lba: u64) -> bool {
        !self.cached.contains_key(&lba)
    }

    pub(super) fn first_unreadable(&self, lba: u64, blocks: u64) -> Option<u64> {
        (lba..lba + blocks).find(|lba| self.unreadable.contains(lba))
    }

    pub(super) fn first_unwritable(&self, lba: u64, blocks: u64) -> Option<u64> {
        (lba..lba + blocks).find(|lba| self.unwritable.contains(lba))
    }

    pub(super) fn make_unreadable(&mut self, lba: u64) {
        self.unreadable.insert(lba);
    }

    pub(super) fn make_unwritable(&mut self, lba: u64) {
        self.unwritable.insert(lba);
    }

    pub(super) fn write(&mut self, lba: u64, data: &[u8], is_forced: bool) {
        let blocks = data.chunks(self.block_size());
        for (lba, block) in (lba..).zip(blocks) {
            self.unreadable.remove(&lba);
            if self.config.volatile_cache && !is_forced {
                self.cached.insert(lba, block.into());
            } else {
                self.cached.remove(&lba);
                self.durable.insert(lba, block.into());
            }
        }
    }

    pub(super) fn trim(&mut self, lba: u64, blocks: u64, random: &mut Random) {
        let range = lba..lba + blocks;
        self.cached.retain(|lba, _| !range.contains(lba));
        self.durable.retain(|lba, _| !range.contains(lba));
        if !self.config.trim_zeroes {
            for lba in range {
                let bytes = vec![random.next_u64() as u8; self.block_size()];
                self.durable.insert(lba, bytes.into());
            }
        }
    }

    pub(super) fn flush(&mut self) {
        self.durable.extend(self.cached.drain());
    }

    /// What was not flushed is kept or lost, each block by itself.
    pub(super) fn lose_power(&mut self, random: &mut Random) {
        self.power_ons += 1;
        for (lba, block) in std::mem::take(&mut self.cached) {
            if random.chance(50) {
                self.durable.insert(lba, block);
            }
        }
    }

    pub(super) fn set_smart(&mut self, is_failing: bool, attribute: (u8, u8, u64)) {
        self.is_failing = is_failing;
        self.attributes.push(attribute);
    }

    /// SMART READ DATA, with its checksum.
    pub(super) fn smart_data(&self) -> [u8; 512] {
        let mut data = [0; 512];
        let power_ons = self.config.counts_power_ons.then_some((12, 100, self.power_ons));
        for (at, (id, value, raw)) in self.attributes.iter().chain(&power_ons).enumerate() {
            let entry = &mut data[2 + at * 12..][..12];
            (entry[0], entry[3]) = (*id, *value);
            entry[5..11].copy_from_slice(&raw.to_le_bytes()[..6]);
        }
        let sum = data.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
        data[511] = sum.wrapping_neg();
        data
    }

    pub(super) fn identify(&self) -> IdentifyDevice {
        let config = &self.config;
        let mut identify = IdentifyDevice::new_zeroed();
        let mut set = |at: usize, value: u16| identify.words[at].set(value);
        for (range, text) in [
            (word::SERIAL, config.serial.as_str()),
            (word::FIRMWARE, "FW 1.0"),
            (word::MODEL, "BASALT EMULATED DISK"),
        ] {
            let padded = text.bytes().chain(std::iter::repeat(b' '));
            let bytes: Vec<u8> = padded.take(range.len() * 2).collect();
            for (at, pair) in range.zip(bytes.chunks(2)) {
                set(at, u16::from_be_bytes([pair[0], pair[1]]));
            }
        }
        set(word::CAPABILITIES, 1 << 9 | 1 << 8);
        if let Some(depth) = config.queue {
            set(word::QUEUE_DEPTH, u16::from(depth) - 1);
            set(word::SATA_CAPABILITIES, 1 << 8 | 0b110);
        }
        let features = u16::from(config.volatile_cache) << 5 | u16::from(config.smart);
        set(word::SUPPORTED_1, features);
        set(word::ENABLED_1, features);
        set(word::SUPPORTED_2, 1 << 14 | 1 << 13 | 1 << 10);
        let features = u16::from(config.unloads) << 13 | u16::from(config.fua) << 6;
        set(word::SUPPORTED_3, 1 << 14 | features | 1 << 5);
        for (at, part) in config.blocks.to_le_bytes().chunks(2).enumerate() {
            set(word::CAPACITY + at, u16::from_le_bytes([part[0], part[1]]));
        }
        if let Some(blocks) = config.trim {
            set(word::TRIM_BLOCKS_MAX, blocks);
            set(word::DATA_SET_MANAGEMENT, 1);
            set(word::ADDITIONAL, if config.trim_zeroes { 1 << 14 | 1 << 5 } else { 0 });
        }
        let shift = config.physical_shift - config.block_shift;
        let has_long = config.block_shift > 9;
        let flags = 1 << 14 | u16::from(shift > 0) << 13 | u16::from(has_long) << 12;
        set(word::BLOCK_SIZE, flags | u16::from(shift));
        set(word::BLOCK_WORDS, if has_long { 1 << (config.block_shift - 1) } else { 0 });
        set(word::ROTATION, config.rotation);
        set(word::INTEGRITY, 0xA5);
        let sum = identify.sum();
        identify.as_mut_bytes()[511] = sum.wrapping_neg();
        identify
    }
}
