//! A disk in memory with a volatile cache, power cuts, and faults.
//!
//! What has been written stays in the cache until flushed. At a power cut each write that was not
//! durable, block by block, is lost, kept, or torn at the unit that the medium writes atomically.

use super::Random;
use crate::disk::{Completion, Disk, Error, Info, Op, Tag};
use hashbrown::{HashMap, HashSet};
use std::cell::RefCell;
use std::ops::Range;
use std::rc::Rc;

const BLOCK: usize = 4096;
const SECTOR: usize = 512;

type Block = Box<[u8; BLOCK]>;

/// What kind of disk.
#[derive(Debug, Clone)]
pub struct SimDiskConfig {
    /// Bytes.
    pub capacity: u64,
    /// Whether completed writes wait for a flush.
    pub volatile_cache: bool,
    /// Whether the device honours FUA.
    pub fua: bool,
    /// Bytes that are written wholly or not at all: 512 or 4096.
    pub atomic_write: u32,
    /// Whether operations take several polls, and overtake one another.
    pub is_slow: bool,
}

impl SimDiskConfig {
    /// An NVMe disk with a volatile cache and atomic writes of 4 KiB.
    #[must_use]
    pub fn new(capacity: u64) -> Self {
        Self { capacity, volatile_cache: true, fua: false, atomic_write: 4096, is_slow: true }
    }
}

/// Faults that happen by themselves, in percent of writes that begin within `range`.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    /// Where, in bytes.
    pub range: Range<u64>,
    /// Reported as good, not carried out.
    pub lost: u64,
    /// Reported as good, carried out elsewhere within the range.
    pub misdirected: u64,
}

#[derive(Debug)]
struct Unflushed {
    number: u64,
    block: u64,
    data: Block,
}

#[derive(Debug)]
struct Started {
    handle: u64,
    tag: Tag,
    op: Op,
    /// Of a flush: the writes below this number.
    covers: u64,
}

#[derive(Debug)]
struct State {
    info: Info,
    is_slow: bool,
    /// Percent of polls that find an operation not done yet, where the disk is slow.
    laziness: u64,
    is_stalled: bool,
    /// Contents of blocks that lost and misdirected writes have damaged.
    victims: Vec<Block>,
    random: Random,
    durable: HashMap<u64, Block>,
    /// Block to what a read sees, where that is not durable.
    cached: HashMap<u64, Block>,
    unflushed: Vec<Unflushed>,
    next_number: u64,
    started: Vec<Started>,
    faults: Faults,
    unreadable: HashSet<u64>,
    writes_fail: bool,
    /// How deallocation and zeroing fail.
    frees_fail: Option<Error>,
    /// Where blocks that were never written cannot be, in bytes.
    full: Range<u64>,
    /// Handles of before the last power cut do nothing.
    life: u64,
    handles: u64,
    /// Operations carried out, for tests that count.
    operations: u64,
}

/// The medium: survives power cuts and the handles to it. Clones are the same medium.
#[derive(Debug, Clone)]
pub struct SimMedia(Rc<RefCell<State>>);

impl SimMedia {
    /// A medium of zeroes.
    #[must_use]
    pub fn new(config: &SimDiskConfig, seed: u64) -> Self {
        let info = Info {
            name: "simulated".into(),
            capacity: config.capacity,
            block_size: BLOCK as u32,
            atomic_write: config.atomic_write,
            volatile_cache: config.volatile_cache,
            fua: config.fua,
            deallocate: true,
            rotational: false,
            queue_depth: 64,
            transfer_max: 1 << 20,
        };
        Self(Rc::new(RefCell::new(State {
            info,
            is_slow: config.is_slow,
            laziness: 50,
            is_stalled: false,
            victims: Vec::new(),
            random: Random::new(seed),
            durable: HashMap::new(),
            cached: HashMap::new(),
            unflushed: Vec::new(),
            next_number: 1,
            started: Vec::new(),
            faults: Faults::default(),
            unreadable: HashSet::new(),
            writes_fail: false,
            frees_fail: None,
            full: 0..0,
            life: 0,
            handles: 0,
            operations: 0,
        })))
    }

    /// A handle with a queue of its own.
    #[must_use]
    pub fn open(&self) -> SimDisk {
        let state = &mut *self.0.borrow_mut();
        state.handles += 1;
        let (handle, life) = (state.handles, state.life);
        SimDisk { info: state.info.clone(), handle, life, media: self.clone() }
    }

    /// Power is lost and comes back.
    pub fn power_cut(&self) {
        let state = &mut *self.0.borrow_mut();
        let unit = (state.info.atomic_write as usize).clamp(SECTOR, BLOCK);
        for write in std::mem::take(&mut state.unflushed) {
            state.tear(write.block, &write.data[..], unit);
        }
        for started in std::mem::take(&mut state.started) {
            if let Op::Write { offset, data, .. } = started.op {
                let bytes: Vec<u8> = data.segments().iter().flat_map(|s| s.to_vec()).collect();
                for (block, data) in (offset / BLOCK as u64..).zip(bytes.chunks_exact(BLOCK)) {
                    state.tear(block, data, unit);
                }
            }
        }
        state.cached.clear();
        state.life += 1;
    }

    /// The process dies: what the disk was told, it does; handles of before are dead.
    pub fn kill(&self) {
        let state = &mut *self.0.borrow_mut();
        for started in std::mem::take(&mut state.started) {
            if state.random.chance(50) {
                let _ = state.carry_out(started.op, started.covers);
            }
        }
        state.life += 1;
    }

    /// Flips a bit of the medium.
    pub fn rot(&self, byte: u64, bit: u8) {
        let state = &mut *self.0.borrow_mut();
        let (block, at) = (byte / BLOCK as u64, (byte % BLOCK as u64) as usize);
        let durable = state.durable.entry(block).or_insert_with(|| Box::new([0; BLOCK]));
        durable[at] ^= 1 << (bit % 8);
        if let Some(cached) = state.cached.get_mut(&block) {
            cached[at] ^= 1 << (bit % 8);
        }
    }

    /// Gives the medium another size, for handles that are opened from now on. What lies behind a
    /// smaller one's end stays, and comes back with a larger one.
    #[cfg(test)]
    pub(crate) fn resize(&self, capacity: u64) {
        self.0.borrow_mut().info.capacity = capacity;
    }

    /// Makes a block fail reads until it is written again.
    pub fn make_unreadable(&self, byte: u64) {
        self.0.borrow_mut().unreadable.insert(byte / BLOCK as u64);
    }

    /// Lets every block be read again: what failed was the way to it.
    pub fn make_readable(&self) {
        self.0.borrow_mut().unreadable.clear();
    }

    /// Sets the faults from now on.
    pub fn set_faults(&self, faults: Faults) {
        self.0.borrow_mut().faults = faults;
    }

    /// How many of 100 polls find an operation not done yet, if the disk is slow at all.
    pub fn set_laziness(&self, percent: u64) {
        self.0.borrow_mut().laziness = percent;
    }

    /// Whether nothing ends until further notice.
    pub fn set_stalled(&self, is_stalled: bool) {
        self.0.borrow_mut().is_stalled = is_stalled;
    }

    /// Contents of the blocks that lost and misdirected writes have damaged since the last call.
    #[must_use]
    pub fn take_victims(&self) -> Vec<Vec<u8>> {
        let victims = std::mem::take(&mut self.0.borrow_mut().victims);
        victims.into_iter().map(|block| block.to_vec()).collect()
    }

    /// Whether every write and flush fails from now on.
    pub fn fail_writes(&self, fail: bool) {
        self.0.borrow_mut().writes_fail = fail;
    }

    /// How every deallocation and zeroing fails from now on.
    pub fn fail_frees(&self, error: Option<Error>) {
        self.0.borrow_mut().frees_fail = error;
    }

    /// There is no space behind blocks of `range`, in bytes, that were never written, from now on.
    pub fn set_full(&self, range: Range<u64>) {
        self.0.borrow_mut().full = range;
    }

    /// What is at a place, cached or durable.
    #[must_use]
    pub fn bytes(&self, offset: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.0.borrow().read(offset, &mut bytes);
        bytes
    }

    /// Blocks that hold anything but zeroes: their first bytes' offsets, ascending.
    #[must_use]
    pub fn written_blocks(&self) -> Vec<u64> {
        let state = self.0.borrow();
        let mut blocks: Vec<u64> = state
            .durable
            .keys()
            .chain(state.cached.keys())
            .map(|block| block * BLOCK as u64)
            .collect();
        blocks.sort_unstable();
        blocks.dedup();
        blocks
    }

    /// Operations carried out so far.
    #[must_use]
    pub fn operations(&self) -> u64 {
        self.0.borrow().operations
    }
}

impl State {
    /// A write that the power cut met: each atomic unit old or new.
    fn tear(&mut self, block: u64, data: &[u8], unit: usize) {
        let fate = self.random.below(3);
        let durable = self.durable.entry(block).or_insert_with(|| Box::new([0; BLOCK]));
        for at in (0..BLOCK).step_by(unit) {
            let is_kept = match fate {
                0 => false,
                1 => true,
                _ => self.random.chance(50),
            };
            if is_kept {
                durable[at..at + unit].copy_from_slice(&data[at..at + unit]);
            }
        }
    }

    fn read(&self, offset: u64, bytes: &mut [u8]) {
        assert!(offset.is_multiple_of(BLOCK as u64) && bytes.len().is_multiple_of(BLOCK));
        assert!(offset + bytes.len() as u64 <= self.info.capacity, "read behind the end");
        for (block, to) in (offset / BLOCK as u64..).zip(bytes.chunks_exact_mut(BLOCK)) {
            match self.cached.get(&block).or_else(|| self.durable.get(&block)) {
                Some(data) => to.copy_from_slice(&data[..]),
                None => to.fill(0),
            }
        }
    }

    fn store(&mut self, block: u64, data: &[u8], is_durable: bool) {
        let data: Block = Box::new(data.try_into().expect("one block"));
        self.unreadable.remove(&block);
        if is_durable {
            self.cached.remove(&block);
            self.unflushed.retain(|write| write.block != block);
            self.durable.insert(block, data);
        } else {
            let number = self.next_number;
            self.next_number += 1;
            self.cached.insert(block, data.clone());
            self.unflushed.push(Unflushed { number, block, data });
        }
    }

    fn flush(&mut self, covers: u64) {
        let unflushed = std::mem::take(&mut self.unflushed);
        for write in unflushed {
            if write.number < covers {
                self.durable.insert(write.block, write.data);
            } else {
                self.unflushed.push(write);
            }
        }
        if self.unflushed.is_empty() {
            self.cached.clear();
        }
    }

    fn carry_out(&mut self, mut op: Op, covers: u64) -> (Op, Result<(), Error>) {
        self.operations += 1;
        let is_durable = |fua: bool| !self.info.volatile_cache || (fua && self.info.fua);
        if self.writes_fail && !matches!(op, Op::Read { .. }) {
            return (op, Err(Error::Failed));
        }
        if let Some(error) = self.refusal(&op) {
            return (op, Err(error));
        }
        match &mut op {
            Op::Read { offset, buf } => {
                let first = *offset / BLOCK as u64;
                let mut blocks = first..first + (buf.len() / BLOCK) as u64;
                if blocks.any(|block| self.unreadable.contains(&block)) {
                    return (op, Err(Error::Media));
                }
                self.read(*offset, buf);
            }
            Op::Write { offset, data, fua } => {
                assert!(*offset + data.len() as u64 <= self.info.capacity, "write behind the end");
                let is_durable = is_durable(*fua);
                let bytes: Vec<u8> = data.segments().iter().flat_map(|s| s.to_vec()).collect();
                assert!(bytes.len().is_multiple_of(BLOCK), "whole blocks");
                let target = self.target(*offset, data.len() as u64);
                if target != Some(*offset) {
                    self.damage(&bytes, target);
                }
                if let Some(target) = target {
                    for (block, data) in (target / BLOCK as u64..).zip(bytes.chunks_exact(BLOCK)) {
                        self.store(block, data, is_durable);
                    }
                }
            }
            Op::Flush => self.flush(covers),
            Op::Deallocate { offset, len } | Op::WriteZeroes { offset, len } => {
                let (first, end) = (*offset / BLOCK as u64, (*offset + *len) / BLOCK as u64);
                let is_durable = is_durable(false);
                let fill = if matches!(op, Op::Deallocate { .. }) { 0xDE } else { 0 };
                // Blocks that were never written stay so: memory is dear.
                for block in first..end {
                    let is_there =
                        self.durable.contains_key(&block) || self.cached.contains_key(&block);
                    if is_there {
                        self.store(block, &[fill; BLOCK], is_durable);
                    }
                }
            }
        }
        (op, Ok(()))
    }

    fn refusal(&self, op: &Op) -> Option<Error> {
        match op {
            Op::Deallocate { .. } | Op::WriteZeroes { .. } => self.frees_fail,
            Op::Write { offset, data, .. } if self.full.contains(offset) => {
                let first = *offset / BLOCK as u64;
                let mut blocks = first..first + (data.len() / BLOCK) as u64;
                let is_new =
                    |block| !self.durable.contains_key(&block) && !self.cached.contains_key(&block);
                blocks.any(is_new).then_some(Error::NoSpace)
            }
            _ => None,
        }
    }

    /// Notes what a write that went wrong has damaged: its own blocks, and those that it hit.
    fn damage(&mut self, bytes: &[u8], target: Option<u64>) {
        let block = |bytes: &[u8]| -> Block { Box::new(bytes.try_into().expect("one block")) };
        self.victims.extend(bytes.chunks_exact(BLOCK).map(block));
        if let Some(target) = target {
            let mut hit = vec![0; bytes.len()];
            self.read(target, &mut hit);
            self.victims.extend(hit.chunks_exact(BLOCK).map(block));
        }
    }

    /// Where a write really goes.
    fn target(&mut self, offset: u64, len: u64) -> Option<u64> {
        let faults = self.faults.clone();
        if !faults.range.contains(&offset) {
            return Some(offset);
        }
        if self.random.chance(faults.lost) {
            return None;
        }
        let room = (faults.range.end - faults.range.start).saturating_sub(len) / BLOCK as u64;
        if room > 0 && self.random.chance(faults.misdirected) {
            return Some(faults.range.start + self.random.below(room) * BLOCK as u64);
        }
        Some(offset)
    }
}

/// A handle to the medium.
#[derive(Debug)]
pub struct SimDisk {
    info: Info,
    handle: u64,
    life: u64,
    media: SimMedia,
}

impl Disk for SimDisk {
    fn info(&self) -> &Info {
        &self.info
    }

    fn submit(&mut self, tag: Tag, op: Op) {
        let mut state = self.media.0.borrow_mut();
        assert_eq!(self.life, state.life, "a handle of before the power cut");
        let covers = state.next_number;
        let of_this = state.started.iter().filter(|started| started.handle == self.handle).count();
        assert!(of_this < self.info.queue_depth, "queue depth");
        state.started.push(Started { handle: self.handle, tag, op, covers });
    }

    fn poll(&mut self, done: &mut Vec<Completion>) {
        let state = &mut *self.media.0.borrow_mut();
        if self.life != state.life {
            return;
        }
        if state.is_stalled {
            return;
        }
        let mut at = 0;
        while at < state.started.len() && done.len() < done.capacity() {
            let is_other = state.started[at].handle != self.handle;
            if is_other || (state.is_slow && state.random.chance(state.laziness)) {
                at += 1;
                continue;
            }
            let Started { tag, op, covers, .. } = if state.is_slow {
                state.started.swap_remove(at)
            } else {
                state.started.remove(at)
            };
            let (op, result) = state.carry_out(op, covers);
            done.push(Completion { tag, op, result });
        }
    }

    fn in_flight(&self) -> usize {
        let state = self.media.0.borrow();
        if self.life != state.life {
            return 0;
        }
        state.started.iter().filter(|started| started.handle == self.handle).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::WriteData;
    use crate::dma::{Arena, Pool};

    fn run(disk: &mut SimDisk, op: Op) -> Result<(), Error> {
        disk.submit(1, op);
        let mut done = Vec::with_capacity(1);
        while done.is_empty() {
            disk.poll(&mut done);
        }
        done.pop().unwrap().result
    }

    fn write(pool: &Pool, byte: u8, fua: bool) -> Op {
        let mut buf = pool.alloc(BLOCK).unwrap();
        buf.fill(byte);
        Op::Write { offset: 0, data: WriteData::One(buf.freeze()), fua }
    }

    #[test]
    fn a_power_cut_tears_only_what_was_not_flushed() {
        let pool = Arena::new(1 << 20, 1).unwrap().pool(0);
        let (mut kept, mut lost, mut torn) = (0, 0, 0);
        for seed in 0..100 {
            let config = SimDiskConfig { atomic_write: 512, ..SimDiskConfig::new(1 << 20) };
            let media = SimMedia::new(&config, seed);
            let mut disk = media.open();
            run(&mut disk, write(&pool, 1, false)).unwrap();
            run(&mut disk, Op::Flush).unwrap();
            run(&mut disk, write(&pool, 2, false)).unwrap();
            assert!(media.bytes(0, BLOCK).iter().all(|&byte| byte == 2));
            media.power_cut();
            let bytes = media.bytes(0, BLOCK);
            assert!(bytes.iter().all(|byte| (1..=2).contains(byte)));
            match bytes.iter().filter(|&&byte| byte == 2).count() {
                0 => lost += 1,
                BLOCK => kept += 1,
                _ => torn += 1,
            }
        }
        assert!(kept > 10 && lost > 10 && torn > 10, "{kept} {lost} {torn}");
    }
}
