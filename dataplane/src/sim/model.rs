//! What hosts may see of the volumes: for each 4 KiB block what is certainly there and the changes
//! that may have happened. One change at a time is outstanding on a block, except on registers;
//! reads and compares go beside it.

use super::block::{Block, Change, Damage, SECTORS, State};
use super::content::{Version, parse};
use super::draw::{Kind, Operation};
use super::register::Register;
use nvmeof_target::io::Now;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use storage_spec::nvme::status::Status;

/// Bytes of a block.
pub(super) const BLOCK: u64 = 4096;
/// Blocks of a slab, the unit of space.
const SLAB_BLOCKS: u64 = 512;
/// Slabs of a chunk, which lies on one shard.
const CHUNK_SLABS: u64 = 128;
/// How long a change may still begin whose host is gone.
const LIMBO: Now = Now::from_millis(20);
/// How long after a deallocation its space may still be missing.
const FREEING: Now = Now::from_millis(20);
/// Changes of unknown end on one block.
const MAYBE_MAX: usize = 5;

/// A volume as the operator made it.
#[derive(Debug, Clone)]
pub(super) struct Volume {
    /// Its number, which no other volume of this world has.
    pub(super) serial: u32,
    pub(super) disk: usize,
    pub(super) bytes: u64,
    /// log2 of the logical block size.
    pub(super) shift: u8,
    /// Blocks on which hosts work.
    pub(super) windows: Vec<Range<u64>>,
    /// Since when it may be gone.
    pub(super) deleting: Option<Now>,
    /// Since when it must be.
    pub(super) deleted: Option<Now>,
    /// Until when commands whose hosts are gone may still begin.
    pub(super) limbo_until: Now,
    pub(super) blocks: BTreeMap<u64, Block>,
    /// Slabs that may be in use.
    slabs: BTreeSet<u64>,
    /// Slabs whose pages were damaged.
    bad_slabs: BTreeSet<u64>,
    pub(super) registers: Vec<Register>,
}

/// Block that holds the first register.
pub(super) const REGISTER_BLOCK: u64 = 300;
/// Registers of a volume with 512-byte blocks, which lie in one 4 KiB block.
const REGISTERS: usize = 5;

impl Volume {
    /// A new volume of zeroes.
    pub(super) fn new(serial: u32, disk: usize, bytes: u64, shift: u8) -> Self {
        let registers = if shift == 9 { REGISTERS } else { 1 };
        let mut volume = Self {
            serial,
            disk,
            bytes: 0,
            shift,
            windows: Vec::new(),
            deleting: None,
            deleted: None,
            limbo_until: Now::ZERO,
            blocks: BTreeMap::new(),
            slabs: BTreeSet::new(),
            bad_slabs: BTreeSet::new(),
            registers: vec![Register::default(); registers],
        };
        volume.resize(bytes);
        volume
    }

    /// The volume has grown to `bytes`.
    pub(super) fn resize(&mut self, bytes: u64) {
        self.bytes = bytes;
        let blocks = bytes / BLOCK;
        let chunk = SLAB_BLOCKS * CHUNK_SLABS;
        let edges = (1..).map(|edge| edge * chunk).take_while(|&edge| edge < blocks);
        let around = std::iter::once(SLAB_BLOCKS).chain(edges).map(|at| at - 24..at + 24);
        self.windows = std::iter::once(0..120).chain(around).collect();
        self.windows.push(blocks.saturating_sub(20)..blocks);
        for window in &mut self.windows {
            window.end = window.end.min(blocks);
        }
        self.windows.retain(|window| !window.is_empty());
    }

    /// What it is, for the message of a failure.
    pub(super) fn describe(&self) -> String {
        let Self { serial, disk, bytes, shift, deleting, deleted, .. } = self;
        format!(
            "volume {serial} on disk {disk}: {bytes} bytes, shift {shift}, deleting {deleting:?}, \
             deleted {deleted:?}"
        )
    }

    /// The block with this number, as it is.
    pub(super) fn block(&mut self, number: u64) -> &mut Block {
        self.blocks.entry(number).or_default()
    }

    /// Byte offset of a register.
    pub(super) fn register_offset(&self, register: usize) -> u64 {
        REGISTER_BLOCK * BLOCK + ((register as u64) << self.shift)
    }
}

/// A read under way: what its blocks may be.
#[derive(Debug)]
struct Reading {
    volume: u32,
    first: u64,
    states: Vec<State>,
}

/// A range that is being zeroed, blocks of which nothing else is known included.
#[derive(Debug)]
struct Zeroing {
    id: u64,
    volume: u32,
    blocks: Range<u64>,
    until: Now,
}

/// Space of one shard, in slabs.
#[derive(Debug, Clone, Default)]
pub(super) struct Space {
    pub(super) capacity: usize,
    /// Slabs that may be in use: volume and number.
    touched: BTreeSet<(u32, u64)>,
    freed_at: Option<Now>,
}

impl Space {
    /// A shard of so many slabs, none of them in use.
    pub(super) fn of(capacity: usize) -> Self {
        Self { capacity, ..Self::default() }
    }
}

/// See the module.
#[derive(Default)]
pub(super) struct Model {
    pub(super) volumes: BTreeMap<u32, Volume>,
    /// By disk and shard.
    pub(super) spaces: Vec<Vec<Space>>,
    /// Disks on which blocks of zeroes were damaged, which do not say where they belong.
    zeroes_damaged: BTreeSet<usize>,
    /// Disks that may answer with errors.
    pub(super) failing: BTreeSet<usize>,
    /// Blocks that are to be read at the end: volume and number, the last first.
    sweep: Vec<(u32, u64)>,
    reads: BTreeMap<u64, Reading>,
    zeroings: Vec<Zeroing>,
    pub(super) next_id: u64,
    pub(super) next_version: Version,
    /// Versions that are elsewhere too.
    pub(super) copied: BTreeSet<Version>,
    pub(super) now: Now,
    /// Hash of everything that was observed: equal for equal runs.
    trace: u64,
}

/// What the model is told.
impl Model {
    /// Every block learns of something.
    pub(super) fn remember(&mut self, what: &'static str) {
        let now = self.now;
        for block in self.volumes.values_mut().flat_map(|volume| volume.blocks.values_mut()) {
            block.remember(now, what, 0);
        }
    }

    /// Notes something that equal runs must have in common.
    pub(super) fn note(&mut self, value: u64) {
        self.trace = (self.trace ^ value).wrapping_mul(0x0100_0000_01B3).rotate_left(7);
    }

    /// The trace so far.
    pub(super) fn trace(&self) -> u64 {
        self.trace
    }

    /// A block may answer with media errors from now on.
    pub(super) fn damage(&mut self, volume: u32, number: u64) {
        let now = self.now;
        if let Some(volume) = self.volumes.get_mut(&volume) {
            let block = volume.block(number);
            block.damage = block.damage.max(Damage::Maybe);
            block.damaged_at = Some(now);
            block.remember(now, "damaged", 0);
        }
    }

    /// Some block of a disk that holds zeroes may.
    pub(super) fn damage_zeroes(&mut self, disk: usize) {
        self.zeroes_damaged.insert(disk);
    }

    /// Everything in a slab may.
    pub(super) fn damage_slab(&mut self, volume: u32, slab: u64) {
        if let Some(volume) = self.volumes.get_mut(&volume) {
            volume.bad_slabs.insert(slab);
        }
    }

    /// Everything that was ever written is to be read.
    pub(super) fn plan_sweep(&mut self) {
        let volumes = self.volumes.values().filter(|volume| volume.deleting.is_none());
        let blocks =
            |volume: &Volume| volume.blocks.keys().map(|&b| (volume.serial, b)).collect::<Vec<_>>();
        self.sweep = volumes.flat_map(blocks).filter(|&(_, b)| b != REGISTER_BLOCK).collect();
    }

    /// Whether something is left to be read.
    pub(super) fn is_sweeping(&self) -> bool {
        !self.sweep.is_empty()
    }

    /// The next read of the sweep.
    pub(super) fn begin_sweep(&mut self) -> Option<Operation> {
        let (volume, last) = self.sweep.pop()?;
        let mut first = last;
        while first > last.saturating_sub(15) && self.sweep.last() == Some(&(volume, first - 1)) {
            self.sweep.pop();
            first -= 1;
        }
        self.next_id += 1;
        let operation = Operation {
            id: self.next_id,
            volume,
            kind: Kind::Read,
            offset: first * BLOCK,
            len: (last - first + 1) * BLOCK,
            begun: self.now,
        };
        self.begin_read(&operation);
        Some(operation)
    }

    /// Whether the blocks may be changed by a new operation.
    pub(super) fn is_free(&self, volume: u32, blocks: Range<u64>) -> bool {
        let overlaps = |zeroing: &Zeroing| {
            zeroing.volume == volume
                && zeroing.until > self.now
                && zeroing.blocks.start < blocks.end
                && blocks.start < zeroing.blocks.end
        };
        let is_free = |block: &Block| {
            !block.is_busy && block.free_at <= self.now && block.state.maybe.len() < MAYBE_MAX
        };
        !self.zeroings.iter().any(overlaps)
            && self.volumes[&volume].blocks.range(blocks.clone()).all(|(_, block)| is_free(block))
    }

    /// Whether nothing is open on any of the blocks.
    pub(super) fn is_settled(&self, volume: u32, blocks: Range<u64>) -> bool {
        self.volumes[&volume].blocks.range(blocks).all(|(_, block)| block.state.is_certain())
    }

    /// Begins a read or compare.
    pub(super) fn begin_read(&mut self, operation: &Operation) {
        let volume = &self.volumes[&operation.volume];
        let blocks = operation.blocks();
        let state =
            |number| volume.blocks.get(&number).map(|b| b.state.clone()).unwrap_or_default();
        let reading = Reading {
            volume: operation.volume,
            first: blocks.start,
            states: blocks.map(state).collect(),
        };
        self.reads.insert(operation.id, reading);
    }

    /// Begins a change.
    pub(super) fn begin_change(&mut self, operation: &Operation) {
        let now = self.now;
        if let Kind::Zero { .. } = operation.kind {
            let (volume, blocks) = (operation.volume, operation.blocks());
            let until = Now::MAX;
            self.note_freeing(operation);
            self.zeroings.push(Zeroing { id: operation.id, volume, blocks, until });
        } else {
            self.touch(operation);
        }
        let volume = self.volumes.get_mut(&operation.volume).expect("volumes stay");
        let numbers: Vec<u64> = match operation.kind {
            Kind::Zero { .. } => {
                volume.blocks.range(operation.blocks()).map(|(&number, _)| number).collect()
            }
            _ => operation.blocks().collect(),
        };
        for number in numbers {
            let block = volume.blocks.entry(number).or_default();
            block.is_busy = true;
            block.remember(now, operation.kind.name(), operation.id);
            if matches!(operation.kind, Kind::Poison) {
                block.damaged_at = Some(now);
                block.damage = Damage::Maybe;
                continue;
            }
            let changes = changes_of(operation, number, &mut self.next_id);
            for reading in self.reads.values_mut() {
                if reading.volume == operation.volume
                    && let Some(at) = number.checked_sub(reading.first)
                    && let Some(state) = reading.states.get_mut(at as usize)
                {
                    state.maybe.extend(changes.iter().cloned());
                }
            }
            block.state.maybe.extend(changes);
        }
        self.hold_source(operation, true);
    }

    /// Takes the end of an operation that succeeded.
    ///
    /// # Panics
    /// If it must not have, or returned what it must not.
    pub(super) fn done(&mut self, operation: Operation, data: &[u8]) {
        let gone = self.volumes[&operation.volume].deleted;
        assert!(gone.is_none_or(|gone| operation.begun <= gone), "on no volume: {operation:?}");
        self.note(operation.offset ^ operation.id);
        match &operation.kind {
            Kind::Read => self.check_read(&operation, data),
            Kind::Compare { versions } => self.check_equal(&operation, versions),
            Kind::Look { register, floor } => {
                let version = self.register_version(&operation, data);
                self.note(version);
                self.register(&operation, *register).read(*floor, version);
            }
            Kind::Swap { register, swap } => self.register(&operation, *register).swapped(*swap),
            Kind::Write { .. } | Kind::Zero { .. } | Kind::Copy { .. } | Kind::Poison => {
                self.changed(&operation);
            }
            Kind::Verify => self.check_readable(&operation),
            Kind::Flush => {}
        }
    }

    /// Takes the end of an operation that failed.
    ///
    /// # Panics
    /// If it had no reason to.
    pub(super) fn failed(&mut self, operation: Operation, status: Status) {
        self.note(u64::from(u16::from(status)));
        let disk = self.volumes[&operation.volume].disk;
        let is_allowed = if status.is(Status::COMPARE_FAILURE) {
            self.may_differ(&operation)
        } else if status.is(Status::CAPACITY_EXCEEDED) {
            self.may_be_full(&operation)
        } else if status.is(Status::UNRECOVERED_READ_ERROR) {
            self.may_be_unreadable(&operation)
        } else if status.is(Status::WRITE_FAULT) || status.is(Status::INTERNAL_ERROR) {
            self.failing.contains(&disk)
        } else if status.is(Status::INVALID_NAMESPACE) || status.is(Status::NAMESPACE_NOT_READY) {
            self.volumes[&operation.volume].deleting.is_some()
        } else {
            false
        };
        let bytes = self.volumes[&operation.volume].bytes;
        assert!(is_allowed, "{status:?} on {bytes} bytes: {}", self.story(&operation));
        if status.is(Status::COMPARE_FAILURE)
            && let Kind::Swap { register, swap } = operation.kind
        {
            self.register(&operation, register).differed(swap);
        }
        self.unknown(operation);
    }

    /// An operation whose end nobody learns: it may have happened, or happen yet.
    pub(super) fn unknown(&mut self, operation: Operation) {
        self.reads.remove(&operation.id);
        let until = self.now + LIMBO;
        for zeroing in self.zeroings.iter_mut().filter(|zeroing| zeroing.id == operation.id) {
            zeroing.until = until;
        }
        self.hold_source(&operation, false);
        let volume = self.volumes.get_mut(&operation.volume).expect("volumes stay");
        volume.limbo_until = until;
        if operation.kind.is_change() {
            let (now, id) = (self.now, operation.id);
            let volume = self.volumes.get_mut(&operation.volume).expect("volumes stay");
            for (_, block) in volume.blocks.range_mut(operation.blocks()) {
                if block.is_busy {
                    block.is_busy = false;
                    block.free_at = until;
                    block.damage = block.damage.min(Damage::Maybe);
                    block.remember(now, "unknown", id);
                }
            }
        }
    }
}

/// What the model works out.
impl Model {
    /// A change is certain now.
    fn changed(&mut self, operation: &Operation) {
        let now = self.now;
        self.zeroings.retain(|zeroing| zeroing.id != operation.id && zeroing.until > now);
        self.hold_source(operation, false);
        self.free_slabs(operation);
        let is_poison = matches!(operation.kind, Kind::Poison);
        let volume = self.volumes.get_mut(&operation.volume).expect("volumes stay");
        for (&number, block) in volume.blocks.range_mut(operation.blocks()) {
            block.remember(now, "done", operation.id);
            block.is_busy = false;
            block.state.settle_operation(operation.id);
            let is_whole = operation.sectors_of(number).iter().all(Option::is_some);
            if is_poison {
                block.damage = Damage::Poisoned;
                block.poisoned_at = now;
            } else if is_whole && block.damaged_at.is_some_and(|at| at < operation.begun) {
                if block.damage != Damage::None {
                    block.damaged_at = Some(now);
                }
                block.damage = Damage::None;
            } else if is_whole {
                // What went wrong with this very write still counts.
                block.damage = block.damage.min(Damage::Maybe);
            }
        }
    }

    /// The source of a copy is not changed meanwhile.
    fn hold_source(&mut self, operation: &Operation, is_busy: bool) {
        let Kind::Copy { from, .. } = operation.kind else { return };
        let volume = self.volumes.get_mut(&operation.volume).expect("volumes stay");
        for number in from / BLOCK..(from + operation.len).div_ceil(BLOCK) {
            volume.block(number).is_busy = is_busy;
        }
    }

    fn check_read(&mut self, operation: &Operation, data: &[u8]) {
        assert_eq!(data.len() as u64, operation.len);
        self.check_readable(operation);
        let reading = self.reads.remove(&operation.id).expect("a read ends once");
        for (number, state) in operation.blocks().zip(&reading.states) {
            let (first, bytes) = operation.bytes_of(number, data);
            let seen: Option<Vec<Version>> =
                bytes.chunks(512).map(|sector| parse(sector).map(|(version, _)| version)).collect();
            let needed = seen.as_deref().and_then(|seen| state.explain(first, seen));
            let Some(needed) = needed else {
                panic!(
                    "volume {} block {number} reads as {seen:?} from sector {first}, where \
                     {state:?} may be; {}",
                    operation.volume,
                    self.story(operation)
                );
            };
            seen.into_iter().flatten().for_each(|version| self.note(version));
            let now = self.now;
            let volume = self.volumes.get_mut(&operation.volume).expect("volumes stay");
            if let Some(block) = volume.blocks.get_mut(&number) {
                block.remember(now, "read", needed.last().copied().unwrap_or(0));
                // What was seen stays, unless something newer comes.
                needed.into_iter().for_each(|id| block.state.settle(id));
            }
        }
    }

    /// Each block of a compare that succeeded may have been what was expected.
    fn check_equal(&mut self, operation: &Operation, versions: &[Version]) {
        self.check_readable(operation);
        let reading = self.reads.remove(&operation.id).expect("a compare ends once");
        for (number, state) in operation.blocks().zip(&reading.states) {
            let (first, range) = operation.sectors_in(number);
            let expected = &versions[range];
            assert!(state.explain(first, expected).is_some(), "equal: {}", self.story(operation));
        }
    }

    /// Whether a compare may have found a difference.
    fn may_differ(&self, operation: &Operation) -> bool {
        let versions = match &operation.kind {
            Kind::Compare { versions } => versions,
            kind => return matches!(kind, Kind::Swap { .. }),
        };
        let reading = &self.reads[&operation.id];
        operation.blocks().zip(&reading.states).any(|(number, state)| {
            let (first, range) = operation.sectors_in(number);
            let expected = &versions[range];
            !state.is_certain() || state.explain(first, expected).is_none()
        })
    }

    /// Nothing that must fail was read.
    fn check_readable(&self, operation: &Operation) {
        let volume = &self.volumes[&operation.volume];
        for (number, block) in volume.blocks.range(operation.blocks()) {
            let is_poisoned = block.damage == Damage::Poisoned
                && !block.is_busy
                && block.poisoned_at < operation.begun;
            assert!(!is_poisoned, "block {number} was read: {}", self.story(operation));
        }
    }

    fn may_be_unreadable(&self, operation: &Operation) -> bool {
        let volume = &self.volumes[&operation.volume];
        if operation.slabs().any(|slab| volume.bad_slabs.contains(&slab)) {
            return true;
        }
        // A part of a block is merged with the rest; a copy may cut any block into parts.
        let is_copy = matches!(operation.kind, Kind::Copy { .. });
        let is_read = |number: u64| {
            let is_whole = operation.sectors_of(number).iter().all(Option::is_some);
            !operation.kind.is_change() || !is_whole || is_copy
        };
        let source = match operation.kind {
            Kind::Copy { from, .. } => from / BLOCK..(from + operation.len).div_ceil(BLOCK),
            _ => 0..0,
        };
        let may_be_zero = |number: u64| {
            let block = volume.blocks.get(&number);
            block.is_none_or(|block| block.state.explain(0, &[0; SECTORS]).is_some())
        };
        let mut touched =
            operation.blocks().filter(|&number| is_read(number)).chain(source.clone());
        if self.zeroes_damaged.contains(&volume.disk) && touched.any(may_be_zero) {
            return true;
        }
        let mut blocks = volume
            .blocks
            .range(operation.blocks())
            .filter(|(number, _)| is_read(**number))
            .chain(volume.blocks.range(source));
        blocks.any(|(_, block)| block.was_damaged_since(operation.begun))
    }

    fn register(&mut self, operation: &Operation, register: usize) -> &mut Register {
        let volume = self.volumes.get_mut(&operation.volume).expect("volumes stay");
        &mut volume.registers[register]
    }

    fn register_version(&self, operation: &Operation, data: &[u8]) -> Version {
        let mut sectors = data.chunks(512).map(|sector| parse(sector).map(|(version, _)| version));
        let first = sectors.next().flatten().expect("a register holds what was written to it");
        assert!(sectors.all(|version| version == Some(first)), "torn: {}", self.story(operation));
        first
    }

    /// What happened to the first blocks of an operation.
    fn story(&self, operation: &Operation) -> String {
        let volume = &self.volumes[&operation.volume];
        let blocks = volume.blocks.range(operation.blocks()).take(3);
        let story = |(number, block): (&u64, &Block)| format!("\n  block {number}: {block:?}");
        format!(
            "{} at {:?}{}",
            operation.describe(),
            self.now,
            blocks.map(story).collect::<String>()
        )
    }
}

/// Space.
impl Model {
    /// The shard on which a slab of a volume lies.
    fn space(&mut self, volume: u32, slab: u64) -> &mut Space {
        let shards = &mut self.spaces[self.volumes[&volume].disk];
        let shard = (slab / CHUNK_SLABS) as usize % shards.len();
        &mut shards[shard]
    }

    pub(super) fn touch(&mut self, operation: &Operation) {
        for slab in operation.slabs() {
            let volume = self.volumes.get_mut(&operation.volume).expect("volumes stay");
            volume.slabs.insert(slab);
            self.space(operation.volume, slab).touched.insert((operation.volume, slab));
        }
    }

    /// Whole slabs that were zeroed are free, a little later.
    fn free_slabs(&mut self, operation: &Operation) {
        let Kind::Zero { .. } = operation.kind else { return };
        self.note_freeing(operation);
        let slab = SLAB_BLOCKS * BLOCK;
        let end = operation.offset + operation.len;
        for number in operation.offset.div_ceil(slab)..end / slab {
            let volume = self.volumes.get_mut(&operation.volume).expect("volumes stay");
            volume.slabs.remove(&number);
            self.space(operation.volume, number).touched.remove(&(operation.volume, number));
        }
    }

    /// Slabs in which nothing is left are on their way to be free.
    fn note_freeing(&mut self, operation: &Operation) {
        let now = self.now;
        for slab in operation.slabs() {
            self.space(operation.volume, slab).freed_at = Some(now);
        }
    }

    /// Whether there may have been no slab for this operation.
    fn may_be_full(&mut self, operation: &Operation) -> bool {
        // Its end was decided at any time since it began: what tells of it may have taken long.
        let begun = operation.begun;
        operation.kind.takes_space()
            && operation.slabs().any(|slab| {
                let space = self.space(operation.volume, slab);
                space.touched.len() > space.capacity
                    || space.freed_at.is_some_and(|at| begun < at + FREEING)
            })
    }

    /// After a restart, with shards as they are now: every slab of a volume in which a block was
    /// ever begun may be in use.
    pub(super) fn retouch(&mut self) {
        let slabs: Vec<(u32, u64)> = self
            .volumes
            .values()
            .filter(|volume| volume.deleted.is_none())
            .flat_map(|volume| volume.slabs.iter().map(|&slab| (volume.serial, slab)))
            .collect();
        for (volume, slab) in slabs {
            self.space(volume, slab).touched.insert((volume, slab));
        }
    }

    /// A volume's space is free again.
    pub(super) fn free_volume(&mut self, volume: u32) {
        let now = self.now;
        for space in self.spaces.iter_mut().flatten() {
            space.touched.retain(|(other, _)| *other != volume);
            space.freed_at = Some(now);
        }
    }
}

/// What an operation makes of a block: all of it at once, except that a copy goes sector by sector.
fn changes_of(operation: &Operation, number: u64, next_id: &mut u64) -> Vec<Change> {
    let sectors = operation.sectors_of(number);
    let mut change = |sectors| {
        *next_id += 1;
        Change { id: *next_id, operation: operation.id, sectors }
    };
    if !matches!(operation.kind, Kind::Copy { .. }) {
        return vec![change(sectors)];
    }
    let alone = |at: usize| {
        let mut one = [None; SECTORS];
        one[at] = sectors[at];
        one[at].is_some().then_some(one)
    };
    (0..SECTORS).filter_map(alone).map(&mut change).collect()
}

/// Slabs, by number within the volume, that blocks lie in.
pub(super) fn slabs(blocks: Range<u64>) -> Range<u64> {
    blocks.start / SLAB_BLOCKS..blocks.end.div_ceil(SLAB_BLOCKS)
}

/// Sectors of a block that lie in `range`, in bytes.
pub(super) fn covered(number: u64, range: &Range<u64>) -> [bool; SECTORS] {
    std::array::from_fn(|sector| {
        let at = number * BLOCK + sector as u64 * 512;
        range.contains(&at)
    })
}

#[cfg(test)]
mod tests;
