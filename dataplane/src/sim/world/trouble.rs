//! What goes wrong in a world: streams, crashes, and whatever its disks suffer from.

use super::World;
use super::plan::Ailment;
use crate::sim::Faults;
use crate::sim::content::{Place, parse};
use crate::sim::model::BLOCK;
use nvmeof_target::io::Now;
use std::ops::Range;
use storage_spec::disk::{CHUNK_SLABS, PAGE_MAGIC, Sealed, SlabPage};
use zerocopy::FromBytes;

/// Something happens to a host in one of so many steps.
const BREAK_ODDS: u64 = 500;
/// The node crashes in one of so many steps.
const CRASH_ODDS: u64 = 1000;
/// A disk suffers in one of so many steps.
const AILMENT_ODDS: u64 = 120;
/// Longest stall of a disk.
const STALL_MAX_MS: u64 = 200;

/// What is the matter now.
#[derive(Debug, Default)]
pub(super) struct Trouble {
    /// For each disk and shard: its data and its slabs' pages, in bytes.
    pub(super) places: Vec<Vec<[Range<u64>; 2]>>,
    /// A disk that does nothing, and until when.
    stalled: Option<(usize, Now)>,
    /// When a failed disk is replaced by its twin that works.
    repair: Option<Now>,
    /// Blocks that cannot be read for a while.
    has_unreadable: bool,
}

impl Trouble {
    pub(super) fn deadline(&self) -> Option<Now> {
        self.stalled.map(|(_, until)| until)
    }
}

impl World<'_> {
    /// Perhaps something goes wrong.
    pub(super) fn make_trouble(&mut self) {
        if self.random.below(BREAK_ODDS) == 0 {
            let victim = self.random.below(self.hosts.len() as u64) as usize;
            self.hosts[victim].break_something(self.now, &self.network, &mut self.model);
        }
        if self.trouble.stalled.is_some_and(|(_, until)| until <= self.now) {
            self.end_stall();
        }
        let is_crash = self.plan.may_crash && self.random.below(CRASH_ODDS) == 0;
        if self.trouble.repair.is_some_and(|at| is_crash || at <= self.now) {
            self.repair();
        } else if is_crash {
            self.end_stall();
            self.crash();
        } else if self.random.below(AILMENT_ODDS) == 0 {
            let disk = self.random.below(self.media.len() as u64) as usize;
            match self.plan.ailment {
                Ailment::None | Ailment::Full => {}
                Ailment::Damage => self.damage_something(disk),
                Ailment::Failure => self.fail(disk),
                Ailment::Stall => self.stall(disk),
            }
        }
    }

    /// Everything works again.
    pub(super) fn end_trouble(&mut self) {
        self.end_stall();
        for medium in &self.media {
            medium.set_faults(Faults::default());
        }
        if self.trouble.repair.is_some() {
            self.repair();
        }
    }

    fn fail(&mut self, disk: usize) {
        if self.trouble.repair.is_none() {
            self.report.faults += 1;
            self.media[disk].fail_writes(true);
            self.model.failing.insert(disk);
            self.model.remember("disk fails");
            self.trouble.repair = Some(self.now + Now::from_millis(self.random.below(50)));
        }
    }

    /// The disk works again, and the node is restarted: what was acknowledged is there.
    fn repair(&mut self) {
        self.trouble.repair = None;
        self.media.iter().for_each(|medium| medium.fail_writes(false));
        self.crash();
        self.model.failing.clear();
    }

    fn stall(&mut self, disk: usize) {
        if self.trouble.stalled.is_none() {
            self.report.faults += 1;
            self.media[disk].set_stalled(true);
            let until = self.now + Now::from_millis(self.random.below(STALL_MAX_MS));
            self.trouble.stalled = Some((disk, until));
        }
    }

    fn end_stall(&mut self) {
        if let Some((disk, _)) = self.trouble.stalled.take() {
            self.media[disk].set_stalled(false);
        }
    }

    fn damage_something(&mut self, disk: usize) {
        self.report.faults += 1;
        match self.random.below(10) {
            0..4 => self.damage_block(disk, true),
            4..6 => self.damage_block(disk, false),
            6 => self.damage_page(disk),
            7 if self.trouble.has_unreadable => {
                self.trouble.has_unreadable = false;
                self.media.iter().for_each(crate::sim::SimMedia::make_readable);
            }
            _ => {
                // Of the data of one shard; metadata and journals are another matter.
                let shard = self.random.below(self.trouble.places[disk].len() as u64) as usize;
                let range = self.trouble.places[disk][shard][0].clone();
                let (lost, misdirected) = [(0, 0), (20, 0), (0, 20)][self.random.below(3) as usize];
                self.media[disk].set_faults(Faults { range, lost, misdirected });
            }
        }
    }

    /// A block with data rots, or cannot be read.
    fn damage_block(&mut self, disk: usize, is_rot: bool) {
        let Some((at, bytes)) = self.draw_block(disk, 0) else { return };
        let places = places(&bytes);
        if places.is_empty() {
            return;
        }
        self.damaged(&places);
        if is_rot {
            let bit = self.random.below(BLOCK * 8);
            self.media[disk].rot(at + bit / 8, (bit % 8) as u8);
        } else {
            self.media[disk].make_unreadable(at);
            self.trouble.has_unreadable = true;
        }
    }

    /// A slab's page rots: all its blocks may answer with errors.
    fn damage_page(&mut self, disk: usize) {
        let Some((at, bytes)) = self.draw_block(disk, 1) else { return };
        let page = SlabPage::read_from_bytes(&bytes).expect("one block");
        if page.magic != PAGE_MAGIC || !page.is_intact() {
            return;
        }
        let slab = u64::from(page.chunk.get()) * CHUNK_SLABS as u64 + u64::from(page.index.get());
        self.model.damage_slab(page.volume.get() as u32, slab);
        let bit = self.random.below(BLOCK * 8);
        self.media[disk].rot(at + bit / 8, (bit % 8) as u8);
    }

    /// A block of one kind on a disk that was ever written.
    fn draw_block(&mut self, disk: usize, kind: usize) -> Option<(u64, Vec<u8>)> {
        let ranges: Vec<_> = self.trouble.places[disk].iter().map(|places| &places[kind]).collect();
        let mut blocks = self.media[disk].written_blocks();
        blocks.retain(|block| ranges.iter().any(|range| range.contains(block)));
        let at = *blocks.get(self.random.below(blocks.len().max(1) as u64) as usize)?;
        Some((at, self.media[disk].bytes(at, BLOCK as usize)))
    }

    /// Blocks that lost and misdirected writes have damaged.
    pub(super) fn note_victims(&mut self) {
        for disk in 0..self.media.len() {
            for bytes in self.media[disk].take_victims() {
                self.report.faults += 1;
                if bytes.iter().all(|&byte| byte == 0) {
                    self.model.damage_zeroes(disk);
                }
                self.damaged(&places(&bytes));
            }
        }
    }

    fn damaged(&mut self, places: &[Place]) {
        for place in places {
            self.model.damage(place.volume, place.sector * 512 / BLOCK);
        }
    }
}

/// The places to which a block's sectors belong.
fn places(bytes: &[u8]) -> Vec<Place> {
    let place = |sector: &[u8]| parse(sector).and_then(|(_, place)| place);
    bytes.chunks(512).filter_map(place).collect()
}
