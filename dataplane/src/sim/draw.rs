//! What a host does next: commands drawn at random, and what they do in terms of the model.

use super::Random;
use super::block::{Damage, SECTORS, Sectors};
use super::content::{Place, Version, append};
use super::model::{BLOCK, Model, REGISTER_BLOCK, covered, slabs};
use super::register::Swap;
use nvmeof_target::io::Now;
use std::ops::Range;

/// Blocks of a large operation at the most.
const LARGE_MAX: u64 = 40;
/// Longest Write Zeroes, in bytes.
const ZEROES_MAX: u64 = 32 << 20;

/// One command of a host, in terms of bytes.
#[derive(Debug, Clone)]
pub(super) struct Operation {
    /// Its number, which no other has.
    pub(super) id: u64,
    pub(super) volume: u32,
    pub(super) kind: Kind,
    pub(super) offset: u64,
    pub(super) len: u64,
    pub(super) begun: Now,
}

/// What kind of command.
#[derive(Debug, Clone)]
pub(super) enum Kind {
    Read,
    /// Of each sector the version.
    Write {
        versions: Vec<Version>,
    },
    /// By Write Zeroes, or Dataset Management with so many ranges.
    Zero {
        ranges: u64,
    },
    Verify,
    Flush,
    /// Against these versions of its sectors.
    Compare {
        versions: Vec<Version>,
    },
    /// Within the volume, from this byte on, where these versions are.
    Copy {
        from: u64,
        versions: Vec<Version>,
    },
    /// Write Uncorrectable.
    Poison,
    /// Read of a register.
    Look {
        register: usize,
        floor: usize,
    },
    /// Fused Compare and Write of a register.
    Swap {
        register: usize,
        swap: Swap,
    },
}

impl Kind {
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write { .. } => "write",
            Self::Zero { .. } => "zero",
            Self::Verify => "verify",
            Self::Flush => "flush",
            Self::Compare { .. } => "compare",
            Self::Copy { .. } => "copy",
            Self::Poison => "poison",
            Self::Look { .. } => "look",
            Self::Swap { .. } => "swap",
        }
    }

    /// Whether it changes blocks of the model that are no registers.
    pub(super) fn is_change(&self) -> bool {
        matches!(self, Self::Write { .. } | Self::Zero { .. } | Self::Copy { .. } | Self::Poison)
    }

    /// Whether it may need a slab.
    pub(super) fn takes_space(&self) -> bool {
        matches!(self, Self::Write { .. } | Self::Copy { .. } | Self::Poison | Self::Swap { .. })
    }
}

impl Operation {
    pub(super) fn range(&self) -> Range<u64> {
        self.offset..self.offset + self.len
    }

    /// The blocks that it touches.
    pub(super) fn blocks(&self) -> Range<u64> {
        self.offset / BLOCK..(self.offset + self.len).div_ceil(BLOCK)
    }

    /// The slabs that it touches.
    pub(super) fn slabs(&self) -> Range<u64> {
        slabs(self.blocks())
    }

    /// What it makes of each sector of a block, if it is a change.
    pub(super) fn sectors_of(&self, number: u64) -> Sectors {
        let covered = covered(number, &self.range());
        let version = |sector: usize| {
            let at = (number * BLOCK + sector as u64 * 512 - self.offset) / 512;
            match &self.kind {
                Kind::Write { versions } | Kind::Copy { versions, .. } => versions[at as usize],
                _ => 0,
            }
        };
        std::array::from_fn(|sector| covered[sector].then(|| version(sector)))
    }

    /// The first of a block's sectors that it touches, and where they are among all of its sectors.
    pub(super) fn sectors_in(&self, number: u64) -> (usize, Range<usize>) {
        let covered = covered(number, &self.range());
        let first = covered.iter().position(|&is| is).expect("it touches the block");
        let count = covered.iter().filter(|&&is| is).count();
        let at = ((number * BLOCK + first as u64 * 512 - self.offset) / 512) as usize;
        (first, at..at + count)
    }

    /// The first of a block's sectors that was read, and the bytes of the block among the data.
    pub(super) fn bytes_of<'a>(&self, number: u64, data: &'a [u8]) -> (usize, &'a [u8]) {
        let (first, range) = self.sectors_in(number);
        (first, &data[range.start * 512..range.end * 512])
    }

    /// The bytes of versions of its sectors.
    pub(super) fn content(&self, versions: &[Version]) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(versions.len() * 512);
        for (sector, &version) in (self.offset / 512..).zip(versions) {
            append(&mut bytes, version, Place { volume: self.volume, sector });
        }
        bytes
    }

    /// In few words.
    pub(super) fn describe(&self) -> String {
        let Self { id, volume, kind, offset, len, begun } = self;
        let name = kind.name();
        let (block, sector) = (offset / BLOCK, offset % BLOCK / 512);
        format!("{name} {id}: volume {volume}, block {block}+{sector}, {len} bytes, at {begun:?}")
    }
}

/// What a world's hosts do.
#[derive(Debug, Clone, Copy)]
pub(super) struct Habits {
    /// Copies happen: not where damage is found by what blocks say of themselves.
    pub(super) copies: bool,
    /// Write Uncorrectable happens.
    pub(super) poisons: bool,
    /// Percent of operations that read.
    pub(super) reads: u64,
}

impl Model {
    /// A new operation on a volume of which the host knows `bytes` bytes; `None` if the blocks
    /// drawn are being changed.
    pub(super) fn begin(
        &mut self,
        serial: u32,
        bytes: u64,
        habits: Habits,
        random: &mut Random,
    ) -> Option<Operation> {
        let mut operation = self.draw_place(serial, bytes, random)?;
        let is_read = random.below(100) < habits.reads;
        let draw = random.below(100);
        operation.kind = match (is_read, draw) {
            (true, 0..70) => Kind::Read,
            (true, 70..80) => Kind::Compare { versions: self.guess(&operation, random)? },
            (true, 80..88) => Kind::Verify,
            (true, 88..90) => Kind::Flush,
            (true, _) => self.look(&mut operation, random),
            (false, 0..15) => self.zero(&mut operation, bytes, random),
            (false, 15..20) if habits.poisons => poison(&mut operation),
            (false, 20..30) if habits.copies => self.copy(&operation, bytes, random)?,
            (false, 30..50) => self.swap(&mut operation, random),
            (false, _) => Kind::Write { versions: self.versions(operation.len / 512) },
        };
        self.enter(&operation).then_some(operation)
    }

    /// Takes an operation into the books, if its blocks are free for it.
    fn enter(&mut self, operation: &Operation) -> bool {
        match operation.kind {
            Kind::Read | Kind::Compare { .. } => self.begin_read(operation),
            Kind::Verify | Kind::Flush | Kind::Look { .. } | Kind::Swap { .. } => {}
            _ => {
                let blocks = operation.blocks();
                if blocks.contains(&REGISTER_BLOCK) || !self.is_free(operation.volume, blocks) {
                    return false;
                }
                self.begin_change(operation);
            }
        }
        true
    }

    fn draw_place(&mut self, serial: u32, bytes: u64, random: &mut Random) -> Option<Operation> {
        let volume = &self.volumes[&serial];
        let windows: Vec<_> =
            volume.windows.iter().filter(|window| window.end * BLOCK <= bytes).collect();
        if windows.is_empty() {
            return None;
        }
        let window = windows[random.below(windows.len() as u64) as usize];
        let blocks = window.end - window.start;
        let most = if random.chance(80) { 4 } else { LARGE_MAX };
        let first = window.start + random.below(blocks);
        let count = (1 + random.below(most)).min(window.end - first);
        let (mut offset, mut len) = (first * BLOCK, count * BLOCK);
        if volume.shift == 9 && random.chance(50) {
            let cut = random.below(SECTORS as u64) * 512;
            offset += cut;
            len -= cut;
            len -= (random.below(SECTORS as u64) * 512).min(len - 512);
        }
        self.next_id += 1;
        let (id, begun) = (self.next_id, self.now);
        Some(Operation { id, volume: serial, kind: Kind::Flush, offset, len, begun })
    }

    fn versions(&mut self, count: u64) -> Vec<Version> {
        let first = self.next_version + 1;
        self.next_version += count;
        (first..first + count).collect()
    }

    /// What certainly is there, or was, and now and then something else.
    fn guess(&mut self, operation: &Operation, random: &mut Random) -> Option<Vec<Version>> {
        let mut versions = self.certain(operation.volume, operation.range())?;
        // Their bytes tell of another place.
        if versions.iter().any(|version| self.copied.contains(version)) {
            return None;
        }
        if random.chance(30) {
            let at = random.below(versions.len() as u64) as usize;
            versions[at] = self.versions(1)[0];
        }
        Some(versions)
    }

    /// The base of each sector; `None` where anything is open.
    fn certain(&self, volume: u32, range: Range<u64>) -> Option<Vec<Version>> {
        let blocks = &self.volumes[&volume].blocks;
        let sector = |at: u64| match blocks.get(&(at / BLOCK)) {
            None => Some(0),
            Some(block) => {
                let version = block.state.base[(at % BLOCK / 512) as usize];
                let is_known = block.state.is_certain() && block.damage == Damage::None;
                is_known.then_some(version)
            }
        };
        range.step_by(512).map(sector).collect()
    }

    fn look(&mut self, operation: &mut Operation, random: &mut Random) -> Kind {
        let register = self.draw_register(operation, random);
        let floor = self.volumes[&operation.volume].registers[register].floor();
        Kind::Look { register, floor }
    }

    fn swap(&mut self, operation: &mut Operation, random: &mut Random) -> Kind {
        let register = self.draw_register(operation, random);
        let volume = self.volumes.get_mut(&operation.volume).expect("volumes stay");
        let swap = volume.registers[register].begin(random.chance(15));
        let kind = Kind::Swap { register, swap };
        operation.kind = kind.clone();
        self.touch(operation);
        kind
    }

    fn draw_register(&self, operation: &mut Operation, random: &mut Random) -> usize {
        let volume = &self.volumes[&operation.volume];
        let register = random.below(volume.registers.len() as u64) as usize;
        operation.offset = volume.register_offset(register);
        operation.len = 1 << volume.shift;
        register
    }

    fn zero(&mut self, operation: &mut Operation, bytes: u64, random: &mut Random) -> Kind {
        if random.chance(20) {
            // Over slabs, some of them with nothing in them.
            operation.offset -= operation.offset % (2 << 20);
            if random.chance(50) {
                operation.offset += 2 << 20;
            }
            let most = (bytes.saturating_sub(operation.offset)).min(ZEROES_MAX);
            if most >= 2 << 20 {
                operation.len = (1 + random.below(most / (2 << 20))) * (2 << 20);
                return Kind::Zero { ranges: random.below(2) };
            }
            operation.offset = operation.offset.min(bytes - operation.len);
        }
        Kind::Zero { ranges: random.below(4).min(operation.len / 4096) }
    }

    /// From elsewhere in the window or volume, where everything is certain and stays so.
    fn copy(&mut self, operation: &Operation, bytes: u64, random: &mut Random) -> Option<Kind> {
        let volume = &self.volumes[&operation.volume];
        let window = volume.windows[random.below(volume.windows.len() as u64) as usize].clone();
        let room = (window.end - window.start) * BLOCK;
        let unit = 1 << volume.shift;
        let from = window.start * BLOCK + random.below(room / unit) * unit;
        let range = from..from + operation.len;
        let blocks = from / BLOCK..range.end.div_ceil(BLOCK);
        let overlaps =
            blocks.start < operation.blocks().end && operation.blocks().start < blocks.end;
        let is_fit = range.end <= (window.end * BLOCK).min(bytes)
            && !overlaps
            && self.is_free(operation.volume, blocks)
            && self.is_settled(operation.volume, operation.blocks());
        let versions = is_fit.then(|| self.certain(operation.volume, range)).flatten()?;
        self.copied.extend(versions.iter().filter(|&&version| version != 0));
        Some(Kind::Copy { from, versions })
    }
}

fn poison(operation: &mut Operation) -> Kind {
    let blocks = operation.blocks();
    (operation.offset, operation.len) = (blocks.start * BLOCK, (blocks.end - blocks.start) * BLOCK);
    Kind::Poison
}
