//! What hosts may see: for each 4 KiB block the last acknowledged content and those that a write of
//! unknown end may have left. One write at a time is outstanding on a block; reads go beside it.
//!
//! A block's content is a number spread over all its bytes, so that a mixture of two contents, or a
//! content of another block, is neither.

use super::Random;
use nvmeof_target::io::Now;
use std::collections::{BTreeMap, VecDeque};
use storage_spec::nvme::status::Status;

const BLOCK: u64 = 4096;
/// Blocks of one operation at the most.
const OPERATION_MAX: u64 = 40;

/// A version of a block; 0 is zeroes.
type Version = u64;

/// One command of a host, in terms of bytes.
#[derive(Debug, Clone)]
pub(super) struct Operation {
    pub(super) kind: Kind,
    pub(super) offset: u64,
    pub(super) len: u64,
    /// Which read this is.
    read: u64,
    /// Of changes: what their first block becomes; each further block has its own after it. Zero
    /// for zeroing.
    version: Version,
}

/// What kind of command.
#[derive(Debug, Clone)]
pub(super) enum Kind {
    Read,
    Write { data: Vec<u8> },
    Zero,
    Verify,
    Flush,
}

#[derive(Debug, Clone, Default)]
struct Block {
    committed: Version,
    /// Contents that may be there instead, oldest first: outstanding, or of unknown end.
    maybe: Vec<Version>,
    is_changing: bool,
    /// What happened last, for the message of a failure.
    history: VecDeque<(Now, &'static str, Version)>,
}

/// Entries of a block's history that are kept.
const HISTORY_MAX: usize = 24;

impl Block {
    fn remember(&mut self, now: Now, what: &'static str, version: Version) {
        if self.history.len() == HISTORY_MAX {
            self.history.pop_front();
        }
        self.history.push_back((now, what, version));
    }
}

/// A read under way: what each of its blocks may be.
#[derive(Debug)]
struct Reading {
    first: u64,
    allowed: Vec<Vec<Version>>,
}

/// See the module.
pub(super) struct Model {
    blocks: Vec<Block>,
    reads: BTreeMap<u64, Reading>,
    hosts: u64,
    block_shift: u8,
    namespace: u32,
    next_read: u64,
    next_version: Version,
    now: Now,
    /// Hash of everything that was observed: equal for equal runs.
    trace: u64,
}

impl Model {
    /// `blocks` blocks of zeroes, divided among `hosts` that change their own and read all.
    pub(super) fn new(blocks: u64, hosts: u64, block_shift: u8, namespace: u32) -> Self {
        Self {
            blocks: vec![Block::default(); blocks as usize],
            reads: BTreeMap::new(),
            hosts,
            block_shift,
            namespace,
            next_read: 0,
            next_version: 1,
            now: Now::ZERO,
            trace: 0xCBF2_9CE4_8422_2325,
        }
    }

    /// log2 of the logical block size.
    pub(super) fn block_shift(&self) -> u8 {
        self.block_shift
    }

    /// The namespace that it is the model of.
    pub(super) fn namespace(&self) -> u32 {
        self.namespace
    }

    /// Sets the time, which only messages show.
    pub(super) fn set_now(&mut self, now: Now) {
        self.now = now;
    }

    /// Every block learns of a crash.
    pub(super) fn crashed(&mut self) {
        for block in &mut self.blocks {
            block.remember(self.now, "crash", 0);
        }
    }

    /// Notes something that equal runs must have in common.
    pub(super) fn note(&mut self, value: u64) {
        self.trace = (self.trace ^ value).wrapping_mul(0x0100_0000_01B3);
    }

    /// The trace so far.
    pub(super) fn trace(&self) -> u64 {
        self.trace
    }

    /// A new operation of a host; `None` if the blocks drawn are being changed.
    pub(super) fn begin(&mut self, host: u64, random: &mut Random) -> Option<Operation> {
        let draw = random.below(100);
        let share = self.blocks.len() as u64 / self.hosts;
        let (from, to) = if draw < 50 {
            (0, self.blocks.len() as u64)
        } else {
            (host * share, (host + 1) * share)
        };
        let first = from + random.below(to - from);
        let most = if random.chance(80) { 4 } else { OPERATION_MAX };
        let count = (random.below(most) + 1).min(to - first);
        let mut operation = Operation {
            kind: Kind::Flush,
            offset: first * BLOCK,
            len: count * BLOCK,
            read: 0,
            version: 0,
        };
        match draw {
            0..45 => self.begin_read(&mut operation, first, count),
            45..48 => operation.kind = Kind::Verify,
            48..50 => {}
            _ => self.begin_change(&mut operation, draw < 60, first, count)?,
        }
        Some(operation)
    }

    /// Takes the end of an operation that succeeded.
    ///
    /// # Panics
    /// If a read returned what it must not.
    pub(super) fn done(&mut self, operation: Operation, data: &[u8]) {
        let blocks = operation.blocks();
        match operation.kind {
            Kind::Read => self.check(&operation, data),
            Kind::Write { .. } | Kind::Zero => {
                for index in blocks {
                    let version = operation.version_of(index);
                    let block = &mut self.blocks[index as usize];
                    block.remember(self.now, "done", version);
                    block.committed = version;
                    block.maybe.clear();
                    block.is_changing = false;
                }
            }
            Kind::Verify | Kind::Flush => {}
        }
        self.note(operation.offset ^ operation.version);
    }

    /// Takes the end of an operation that failed.
    ///
    /// # Panics
    /// If it had no reason to.
    pub(super) fn failed(&mut self, operation: Operation, status: Status) {
        assert_eq!(status, Status::CAPACITY_EXCEEDED, "{operation:?}");
        assert!(matches!(operation.kind, Kind::Write { .. }), "{operation:?}");
        self.note(u64::from(u16::from(status)));
        self.unknown(operation);
    }

    /// An operation whose end nobody learns: it may have happened, or happen yet.
    pub(super) fn unknown(&mut self, operation: Operation) {
        self.reads.remove(&operation.read);
        if operation.is_change() {
            for index in operation.blocks() {
                let version = operation.version_of(index);
                self.blocks[index as usize].is_changing = false;
                self.blocks[index as usize].remember(self.now, "unknown", version);
            }
        }
    }

    fn begin_read(&mut self, operation: &mut Operation, first: u64, count: u64) {
        self.next_read += 1;
        operation.read = self.next_read;
        operation.kind = Kind::Read;
        let blocks = &self.blocks[first as usize..(first + count) as usize];
        let allowed = |block: &Block| {
            let mut versions = block.maybe.clone();
            versions.push(block.committed);
            versions
        };
        let allowed = blocks.iter().map(allowed).collect();
        self.reads.insert(operation.read, Reading { first, allowed });
    }

    fn begin_change(
        &mut self,
        operation: &mut Operation,
        is_zero: bool,
        first: u64,
        count: u64,
    ) -> Option<()> {
        let range = first as usize..(first + count) as usize;
        if self.blocks[range.clone()].iter().any(|block| block.is_changing) {
            return None;
        }
        operation.kind = Kind::Zero;
        if !is_zero {
            operation.version = self.next_version;
            self.next_version += count;
            let data = (first..first + count)
                .flat_map(|index| content(index, operation.version_of(index)))
                .collect();
            operation.kind = Kind::Write { data };
        }
        for index in operation.blocks() {
            let version = operation.version_of(index);
            let block = &mut self.blocks[index as usize];
            block.is_changing = true;
            block.maybe.push(version);
            block.remember(self.now, "begin", version);
            for reading in self.reads.values_mut() {
                if let Some(at) = index.checked_sub(reading.first)
                    && let Some(allowed) = reading.allowed.get_mut(at as usize)
                {
                    allowed.push(version);
                }
            }
        }
        Some(())
    }

    fn check(&mut self, operation: &Operation, data: &[u8]) {
        let reading = self.reads.remove(&operation.read).expect("a read ends once");
        assert_eq!(data.len() as u64, operation.len);
        for ((index, allowed), found) in
            operation.blocks().zip(&reading.allowed).zip(data.chunks(BLOCK as usize))
        {
            let version = version(index, found);
            assert!(
                version.is_some_and(|version| allowed.contains(&version)),
                "block {index} reads as version {version:?} where {allowed:?} may be; {:?}",
                self.blocks[index as usize].history
            );
            let version = version.expect("looked at above");
            self.note(version);
            let block = &mut self.blocks[index as usize];
            block.remember(self.now, "read", version);
            // What was seen stays, unless something newer comes. Zeroes may be older than they
            // look.
            if version != 0
                && let Some(at) = block.maybe.iter().rposition(|&maybe| maybe == version)
                && block.committed != version
            {
                block.committed = version;
                block.maybe.drain(..=at);
            }
        }
    }
}

impl Operation {
    fn blocks(&self) -> std::ops::Range<u64> {
        self.offset / BLOCK..(self.offset + self.len) / BLOCK
    }

    fn is_change(&self) -> bool {
        matches!(self.kind, Kind::Write { .. } | Kind::Zero)
    }

    /// What a change makes of a block.
    fn version_of(&self, index: u64) -> Version {
        match self.version {
            0 => 0,
            version => version + index - self.offset / BLOCK,
        }
    }
}

/// The bytes of a version of a block.
fn content(index: u64, version: Version) -> Vec<u8> {
    let mut random = Random::new(version ^ (index << 40));
    let words = (2..BLOCK / 8).map(|_| random.next_u64());
    [version, index].into_iter().chain(words).flat_map(u64::to_le_bytes).collect()
}

/// Which version of the block these bytes are; `None` for a mixture or a foreign block.
fn version(index: u64, bytes: &[u8]) -> Option<Version> {
    if bytes.iter().all(|&byte| byte == 0) {
        return Some(0);
    }
    let version = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes"));
    (content(index, version) == bytes).then_some(version)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(model: &mut Model, first: u64) -> Operation {
        let mut operation =
            Operation { kind: Kind::Flush, offset: first * BLOCK, len: BLOCK, read: 0, version: 0 };
        model.begin_change(&mut operation, false, first, 1).unwrap();
        operation
    }

    fn read(model: &mut Model, first: u64) -> Operation {
        let mut operation =
            Operation { kind: Kind::Read, offset: first * BLOCK, len: BLOCK, read: 0, version: 0 };
        model.begin_read(&mut operation, first, 1);
        operation
    }

    #[test]
    fn old_or_new_beside_a_write_and_only_new_after() {
        let mut model = Model::new(4, 1, 12, 1);
        let (reading, writing) = (read(&mut model, 1), write(&mut model, 1));
        let new = content(1, writing.version);
        model.done(reading, &[0; 4096]);
        let reading = read(&mut model, 1);
        model.done(reading, &new);
        model.done(writing, &[]);
        let reading = read(&mut model, 1);
        model.done(reading, &new);
    }

    #[test]
    #[should_panic(expected = "reads as version")]
    fn an_acknowledged_write_that_is_gone_is_seen() {
        let mut model = Model::new(4, 1, 12, 1);
        let writing = write(&mut model, 1);
        model.done(writing, &[]);
        let reading = read(&mut model, 1);
        model.done(reading, &[0; 4096]);
    }

    #[test]
    #[should_panic(expected = "reads as version None")]
    fn a_torn_block_is_seen() {
        let mut model = Model::new(4, 1, 12, 1);
        let writing = write(&mut model, 1);
        let mut torn = content(1, writing.version);
        torn[512..].fill(0);
        let reading = read(&mut model, 1);
        model.done(reading, &torn);
    }

    #[test]
    #[should_panic(expected = "reads as version")]
    fn what_was_seen_after_an_unknown_end_stays() {
        let mut model = Model::new(4, 1, 12, 1);
        let writing = write(&mut model, 1);
        let new = content(1, writing.version);
        model.unknown(writing);
        let reading = read(&mut model, 1);
        model.done(reading, &new);
        let reading = read(&mut model, 1);
        model.done(reading, &[0; 4096]);
    }
}
