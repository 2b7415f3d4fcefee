//! Random operations and random faults by seed, against an oracle that knows what each block may
//! hold.

use super::{EmulatedDisk, Rig, TICKS_MAX, arena, read_op, write_op};
use crate::disk::nvme::{NvmeEvent, NvmeOptions, Trouble};
use crate::disk::{Completion, Disk, Op};
use crate::dma::Pool;
use crate::sim::Random;
use crate::sim::nvme::{EmulatedNamespace, NvmeConfig, NvmeFault, NvmeFaults};
use std::collections::BTreeMap;
use std::ops::Range;

const BLOCK: u64 = 4096;
const BLOCKS: u64 = 64;
const OPERATIONS: u64 = 300;

/// What each block of a namespace may hold.
struct Oracle {
    may: Vec<Vec<u8>>,
    /// What it may hold besides if power was lost: everything since the last flush.
    before_flush: Vec<Vec<u8>>,
    /// Blocks of operations in flight.
    busy: BTreeMap<u64, Range<u64>>,
}

impl Oracle {
    fn new() -> Self {
        let may = vec![vec![0]; BLOCKS as usize];
        Self { before_flush: may.clone(), may, busy: BTreeMap::new() }
    }

    fn is_free(&self, range: &Range<u64>) -> bool {
        self.busy.values().all(|other| range.end <= other.start || other.end <= range.start)
    }

    fn end(&mut self, completion: &Completion, power_was_lost: bool) {
        let range = self.busy.remove(&completion.tag).expect("each ends once");
        let is_good = completion.result.is_ok();
        match &completion.op {
            Op::Write { data, .. } => {
                let byte = data.segments()[0][0];
                for block in range {
                    let may = &mut self.may[block as usize];
                    if is_good {
                        may.clear();
                    }
                    may.push(byte);
                    self.before_flush[block as usize].push(byte);
                }
            }
            Op::Read { buf, .. } if is_good => {
                // What was cached when power went may be torn, at the smallest block.
                let unit = if power_was_lost { 512 } else { BLOCK as usize };
                for (index, bytes) in buf.chunks(unit).enumerate() {
                    let block = range.start as usize + index * unit / BLOCK as usize;
                    assert!(bytes.iter().all(|byte| *byte == bytes[0]), "block {block} is mixed");
                    let is_known = self.may[block].contains(&bytes[0]);
                    let is_older = self.before_flush[block].contains(&bytes[0]);
                    let is_fine = is_known || (power_was_lost && is_older);
                    assert!(is_fine, "block {block}: {} of {:?}", bytes[0], self.may[block]);
                }
            }
            Op::Flush if is_good => {
                assert!(!power_was_lost, "nobody can flush what is lost");
                self.before_flush.clone_from(&self.may);
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
    has_cache: bool,
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
            let lost = NvmeEvent::Resetting(Trouble::LostState);
            let power_was_lost = self.has_cache && self.rig.events.contains(&lost);
            for completion in self.done.drain(..) {
                let oracle = &mut self.oracles[index % 2];
                oracle.end(&completion, power_was_lost);
            }
        }
    }

    /// Disks 0 and 2 are the first namespace's, 1 and 3 the second's; 2 and 3 on the other queue.
    fn submit(&mut self) {
        let index = self.random.below(4) as usize;
        let tag = self.submitted;
        let len = 1 + self.random.below(6);
        let first = self.random.below(BLOCKS - len);
        let oracle = &mut self.oracles[index % 2];
        let (range, op) = match self.random.below(10) {
            // Alone, so that it is clear what it covers.
            0 if oracle.busy.is_empty() => (0..BLOCKS, Op::Flush),
            1..=5 => {
                let byte = (self.submitted % 251) as u8;
                let is_forced = self.random.chance(10);
                let op =
                    write_op(&self.pool, first * BLOCK, (len * BLOCK) as usize, byte, is_forced);
                (first..first + len, op)
            }
            _ => {
                let op = read_op(&self.pool, first * BLOCK, (len * BLOCK) as usize);
                (first..first + len, op)
            }
        };
        if oracle.is_free(&range) {
            oracle.busy.insert(tag, range);
            self.disks[index].submit(tag, op);
            self.submitted += 1;
        }
    }
}

fn run(config: NvmeConfig, faults: NvmeFaults, seed: u64) -> Vec<NvmeEvent> {
    let (arena, pool) = arena();
    let options =
        NvmeOptions { queues: 2, entries: 16, resets_max: 1000, ..NvmeOptions::default() };
    let has_cache = config.volatile_cache;
    let rig = Rig::new(config, options, &arena, seed);
    let disks: Vec<EmulatedDisk> = [(0, 0), (0, 1), (1, 0), (1, 1)]
        .map(|(queue, namespace)| rig.disk(queue, namespace))
        .into();
    let oracles = vec![Oracle::new(), Oracle::new()];
    let random = Random::new(seed ^ 0xABCD);
    let done = Vec::with_capacity(4);
    let mut world = World { rig, pool, disks, oracles, random, submitted: 0, done, has_cache };
    world.rig.nvme.set_faults(faults);
    for _ in 0..TICKS_MAX {
        if world.submitted == OPERATIONS {
            break;
        }
        let in_flight: usize = world.disks.iter().map(|disk| disk.in_flight()).sum();
        if in_flight < 12 && world.random.chance(60) {
            world.submit();
        }
        world.step();
    }
    for _ in 0..TICKS_MAX {
        if world.oracles.iter().all(|oracle| oracle.busy.is_empty()) {
            break;
        }
        world.step();
    }
    assert!(world.oracles.iter().all(|oracle| oracle.busy.is_empty()), "{:?}", world.rig.events);
    assert!(world.disks.iter().all(|disk| disk.in_flight() == 0));
    assert_eq!(world.pool.available(), world.pool.size(), "every buffer came back");
    world.rig.nvme.check();
    std::mem::take(&mut world.rig.events)
}

fn config(seed: u64) -> NvmeConfig {
    NvmeConfig {
        namespaces: vec![EmulatedNamespace::new(1, 512), EmulatedNamespace::new(2, 4096)],
        volatile_cache: seed.is_multiple_of(2),
        shadow_doorbells: seed % 3 == 1,
        sgl: seed % 5 == 2,
        ..NvmeConfig::default()
    }
}

#[test]
fn every_request_ends_once_and_no_data_are_wrong() {
    let mut resets = 0;
    for seed in 0..300 {
        let kinds = NvmeFault::ALL.to_vec();
        let chance = [30, 100, 300][seed as usize % 3];
        let faults = NvmeFaults { kinds, chance, admin: seed % 4 == 0, stuck_ready: 2 };
        let events = run(config(seed), faults, seed);
        resets += events.iter().filter(|e| matches!(e, NvmeEvent::Resetting(_))).count();
    }
    assert!(resets > 300, "{resets} resets: the faults did happen");
}

#[test]
fn without_power_loss_or_storms_nothing_fails() {
    for seed in 0..50 {
        let kinds: Vec<NvmeFault> =
            NvmeFault::ALL.into_iter().filter(|fault| *fault != NvmeFault::PowerCycle).collect();
        let faults = NvmeFaults { kinds, chance: 20, ..NvmeFaults::default() };
        let events = run(config(seed), faults, seed + 5000);
        let is_end = |event: &NvmeEvent| matches!(event, NvmeEvent::Ended(_));
        assert!(!events.iter().any(is_end), "{events:?}");
    }
}
