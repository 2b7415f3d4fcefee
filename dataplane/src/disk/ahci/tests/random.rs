//! Random operations and random faults by seed, against an oracle that knows what each block may
//! hold.

use super::{AhciEvent, EmulatedDisk, Rig, TICKS_MAX, arena, options, read_op, write_op};
use crate::disk::ahci::{AhciOptions, PortCounters};
use crate::disk::{Completion, Disk, Error, Op};
use crate::dma::Pool;
use crate::sim::Random;
use crate::sim::ahci::{AhciConfig, AhciFault, AhciFaults, EmulatedDrive};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

const BLOCK: u64 = 4096;
const BLOCKS: u64 = 64;
const OPERATIONS: u64 = 300;

/// What each block of a drive may hold.
struct Oracle {
    may: Vec<Vec<u8>>,
    bad: BTreeSet<u64>,
    /// Blocks of operations in flight.
    busy: BTreeMap<u64, Range<u64>>,
}

impl Oracle {
    fn new() -> Self {
        let may = vec![vec![0]; BLOCKS as usize];
        Self { may, bad: BTreeSet::new(), busy: BTreeMap::new() }
    }

    fn is_free(&self, range: &Range<u64>) -> bool {
        self.busy.values().all(|other| range.end <= other.start || other.end <= range.start)
    }

    fn end(&mut self, completion: &Completion) {
        let range = self.busy.remove(&completion.tag).expect("each ends once");
        let is_good = completion.result.is_ok();
        let is_bad = range.clone().any(|block| self.bad.contains(&block));
        match &completion.op {
            Op::Write { data, .. } => {
                let byte = data.segments()[0][0];
                for block in range {
                    let may = &mut self.may[block as usize];
                    if is_good {
                        may.clear();
                        self.bad.remove(&block);
                    }
                    may.push(byte);
                }
            }
            Op::Read { .. } if is_bad => {
                let is_told = matches!(completion.result, Err(Error::Media | Error::Failed));
                // Written since, by what failed.
                assert!(is_told || is_good, "{completion:?}");
            }
            Op::Read { buf, .. } if is_good => {
                for (index, bytes) in buf.chunks(BLOCK as usize).enumerate() {
                    let block = range.start as usize + index;
                    assert!(bytes.iter().all(|byte| *byte == bytes[0]), "block {block} is mixed");
                    let may = &self.may[block];
                    assert!(may.contains(&bytes[0]), "block {block}: {} of {may:?}", bytes[0]);
                }
            }
            Op::Read { .. } => {
                assert_ne!(completion.result, Err(Error::Media), "the medium is good");
            }
            _ => {}
        }
    }
}

struct World {
    rig: Rig,
    pool: Pool,
    disks: Vec<EmulatedDisk>,
    oracles: Vec<Oracle>,
    random: Random,
    submitted: u64,
    done: Vec<Completion>,
}

impl World {
    fn step(&mut self) {
        self.rig.tick();
        for index in 0..self.disks.len() {
            // A core may be busy elsewhere.
            if self.random.chance(20) {
                continue;
            }
            self.disks[index].poll(&mut self.done);
            for completion in self.done.drain(..) {
                self.oracles[index % 2].end(&completion);
            }
        }
    }

    /// Disks 0 and 2 are the first drive's, 1 and 3 the second's.
    fn submit(&mut self) {
        let index = self.random.below(4) as usize;
        let tag = self.submitted;
        let len = 1 + self.random.below(6);
        let first = self.random.below(BLOCKS - len);
        let bytes = (len * BLOCK) as usize;
        let (range, op) = match self.random.below(12) {
            0 => (0..0, Op::Flush),
            1..=6 => {
                let byte = (self.submitted % 251) as u8;
                let is_forced = self.random.chance(10);
                let op = write_op(&self.pool, first * BLOCK, bytes, byte, is_forced);
                (first..first + len, op)
            }
            _ => (first..first + len, read_op(&self.pool, first * BLOCK, bytes)),
        };
        let oracle = &mut self.oracles[index % 2];
        if oracle.is_free(&range) {
            oracle.busy.insert(tag, range);
            self.disks[index].submit(tag, op);
            self.submitted += 1;
        }
    }

    /// Makes a block unreadable that nothing is about to touch.
    fn spoil(&mut self) {
        let (index, block) = (self.random.below(2) as usize, self.random.below(BLOCKS));
        let oracle = &mut self.oracles[index];
        if oracle.is_free(&(block..block + 1)) {
            oracle.bad.insert(block);
            let shift = self.disks[index].port().facts().block_shift;
            self.rig.ahci.make_unreadable(index as u8, (block * BLOCK) >> shift);
        }
    }

    fn is_over(&self) -> bool {
        self.oracles.iter().all(|oracle| oracle.busy.is_empty())
    }
}

/// Events, what the ports have counted, and how many reads met a bad medium.
fn run(faults: AhciFaults, spoil: u64, seed: u64) -> (Vec<AhciEvent>, [PortCounters; 2]) {
    let (arena, pool) = arena();
    let options = AhciOptions { resets_max: 1000, ..options() };
    let queue = [Some(32), Some(3), None][seed as usize % 3];
    let first = EmulatedDrive {
        volatile_cache: seed.is_multiple_of(2),
        fua: seed % 3 == 1,
        ..EmulatedDrive::new(512)
    };
    let second =
        EmulatedDrive { queue, has_log: !seed.is_multiple_of(5), ..EmulatedDrive::new(4096) };
    let config =
        AhciConfig { drives: vec![(0, Some(first)), (1, Some(second))], ..AhciConfig::default() };
    let rig = Rig::new(config, options, &arena, seed);
    let disks: Vec<EmulatedDisk> = [0, 1, 0, 1].map(|port| rig.disk(port)).into();
    let oracles = vec![Oracle::new(), Oracle::new()];
    let random = Random::new(seed ^ 0xABCD);
    let done = Vec::with_capacity(4);
    let mut world = World { rig, pool, disks, oracles, random, submitted: 0, done };
    world.rig.ahci.set_faults(faults);
    for _ in 0..TICKS_MAX {
        if world.submitted == OPERATIONS {
            break;
        }
        let in_flight: usize = world.disks.iter().map(|disk| disk.in_flight()).sum();
        if in_flight < 40 && world.random.chance(60) {
            world.submit();
        }
        if world.random.below(1000) < spoil {
            world.spoil();
        }
        world.step();
    }
    for _ in 0..TICKS_MAX {
        if world.is_over() {
            break;
        }
        world.step();
    }
    assert!(world.is_over(), "seed {seed}: {:?}", world.rig.events);
    assert!(world.disks.iter().all(|disk| disk.in_flight() == 0));
    assert_eq!(world.pool.available(), world.pool.size(), "every buffer came back");
    world.rig.ahci.check();
    let counters = [0, 1].map(|port: usize| world.rig.ports[port].counters());
    (std::mem::take(&mut world.rig.events), counters)
}

#[test]
fn every_request_ends_once_and_no_data_are_wrong() {
    let (mut resets, mut link_resets) = (0, 0);
    for seed in 0..300 {
        let kinds = AhciFault::ALL.to_vec();
        let chance = [30, 100, 300][seed as usize % 3];
        let (events, counters) = run(AhciFaults { kinds, chance }, 3, seed);
        resets += events.iter().filter(|event| **event == AhciEvent::Resetting).count();
        link_resets += counters.iter().map(|counters| counters.resets).sum::<u64>();
    }
    assert!(resets > 100, "{resets} resets of the adapter: the faults did happen");
    assert!(link_resets > 500, "{link_resets} resets for trouble of ports");
}

#[test]
fn without_storms_nothing_fails() {
    for seed in 0..100 {
        let kinds = AhciFault::ALL.to_vec();
        let (_, counters) = run(AhciFaults { kinds, chance: 20 }, 0, seed + 5000);
        assert_eq!(counters.map(|counters| counters.errors), [0, 0], "seed {seed}");
    }
}
