//! Several tasks at once against plain bytes, with few buffers, completed in any order. Each task
//! has a part of the volume to itself, whose borders lie within blocks of the store.

use super::*;
use crate::scsi::harness::{Feed, land};
use proptest::prelude::*;
use target_io::testing::{Memory, PlainBuf};
use target_io::{Buffer, Ticket};

const LANES: usize = 4;
/// Blocks of 512 bytes of each lane: no multiple of 8.
const LANE_BLOCKS: u64 = 301;
const CAPACITY: usize = 1 << 20;

#[derive(Debug, Clone)]
struct Step {
    lane: usize,
    kind: u8,
    lba: u64,
    blocks: u64,
    fill: u8,
    /// Which of the waiting requests go on before the next step.
    order: Vec<prop::sample::Index>,
}

fn step() -> impl Strategy<Value = Step> {
    let order = prop::collection::vec(any::<prop::sample::Index>(), 0..4);
    (0..LANES, 0..10_u8, 0..LANE_BLOCKS, 1..80_u64, any::<u8>(), order).prop_map(
        |(lane, kind, lba, blocks, fill, order)| {
            let blocks = blocks.min(LANE_BLOCKS - lba);
            Step { lane, kind, lba: lane as u64 * LANE_BLOCKS + lba, blocks, fill, order }
        },
    )
}

/// What a command must return, and make of its range.
struct Expected {
    data: Vec<u8>,
    /// Offset of the difference, if it is to find one.
    miscompare: Option<u64>,
    range: Range<usize>,
    after: Vec<u8>,
}

fn cdb(opcode: u8, flags: u8, lba: u64, blocks: u64) -> [u8; 16] {
    let mut cdb = [0; 16];
    cdb[0] = opcode;
    cdb[1] = flags;
    cdb[2..10].copy_from_slice(&lba.to_be_bytes());
    cdb[10..14].copy_from_slice(&(blocks as u32).to_be_bytes());
    cdb
}

/// A command of a step, its data-out, and what is to come of it.
fn command(step: &Step, model: &[u8]) -> ([u8; 16], Vec<u8>, Expected) {
    let &Step { kind, lba, blocks, fill, .. } = step;
    let blocks = if kind == 5 { 1 } else { blocks };
    let range = lba as usize * 512..(lba + blocks) as usize * 512;
    let before = model[range.clone()].to_vec();
    let len = before.len();
    let mut expected =
        Expected { data: Vec::new(), miscompare: None, range, after: before.clone() };
    let pattern: Vec<u8> = (0..len).map(|at| (at / 3) as u8 ^ fill).collect();
    // Every other comparison is to fail, somewhere.
    let flip = |bytes: &mut [u8]| {
        let at = (fill % 2 == 1).then(|| usize::from(fill) * 2 % bytes.len())?;
        bytes[at] ^= 0x10;
        Some(at as u64)
    };
    let (cdb, data) = match kind {
        0 => {
            expected.data = before;
            (cdb(0x88, 0, lba, blocks), Vec::new())
        }
        1 | 2 => {
            expected.after.clone_from(&pattern);
            (cdb(if kind == 1 { 0x8A } else { 0x8E }, 0, lba, blocks), pattern)
        }
        3 => {
            let block = vec![fill; 512];
            expected.after = block.repeat(blocks as usize);
            (cdb(0x93, 0, lba, blocks), block)
        }
        4 => {
            expected.after = vec![0; len];
            (cdb(0x93, 9, lba, blocks), Vec::new())
        }
        5 => {
            let mut data = before;
            expected.miscompare = flip(&mut data);
            if expected.miscompare.is_none() {
                expected.after.clone_from(&pattern);
            }
            data.extend_from_slice(&pattern);
            let mut cdb = cdb(0x89, 0, lba, 0);
            cdb[13] = 1;
            (cdb, data)
        }
        6 => {
            expected.after = before.iter().zip(&pattern).map(|(a, b)| a | b).collect();
            (cdb(0x8B, 0, lba, blocks), pattern)
        }
        7 => {
            let mut data = before;
            expected.miscompare = flip(&mut data);
            (cdb(0x8F, 2, lba, blocks), data)
        }
        8 => (cdb(0x8F, 0, lba, blocks), Vec::new()),
        _ => {
            expected.after = vec![0; len];
            let mut list = vec![0, 22, 0, 16, 0, 0, 0, 0];
            list.extend_from_slice(&lba.to_be_bytes());
            list.extend_from_slice(&(blocks as u32).to_be_bytes());
            list.extend_from_slice(&[0; 4]);
            let mut cdb = [0; 16];
            (cdb[0], cdb[8]) = (0x42, 24);
            (cdb, list)
        }
    };
    (cdb, data, expected)
}

struct Lane {
    task: Task<PlainBuf>,
    feed: Feed,
    /// What was read of all pieces but the last.
    read: Vec<u8>,
    expected: Expected,
}

struct World {
    harness: Harness,
    buffers_max: usize,
    model: Vec<u8>,
    lanes: [Option<Lane>; LANES],
    /// In the order in which they were.
    starved: Vec<usize>,
}

impl World {
    fn begin(&mut self, step: &Step) {
        let (cdb, data, expected) = command(step, &self.model);
        let admitted = self.harness.admit(0, Lun(0), &cdb, data.len());
        let Admitted::Task(mut task, needs) = admitted else { panic!("{step:?}: {admitted:?}") };
        let mut feed = Feed::new(needs, &data, self.harness.piece_max);
        let first = self.feed(&mut feed);
        let progress = task.start(Ticket(step.lane as u32), first, &mut self.harness.memory);
        self.lanes[step.lane] = Some(Lane { task, feed, read: Vec::new(), expected });
        self.note(step.lane, progress);
    }

    /// The next data-out: they are the transport's to find room for.
    fn feed(&mut self, feed: &mut Feed) -> Option<PlainBuf> {
        let memory = &mut self.harness.memory;
        memory.buffers_max = usize::MAX;
        let data = feed.next(memory);
        memory.buffers_max = self.buffers_max;
        data
    }

    fn note(&mut self, at: usize, progress: Progress<PlainBuf>) {
        match progress {
            Progress::Pending => {}
            Progress::Starved => self.starved.push(at),
            Progress::Part { data, .. } => {
                let lane = self.lanes[at].as_mut().expect("it has a task");
                lane.read.extend(data.to_vec());
                self.starved.push(at);
            }
            Progress::WantsData => {
                let mut lane = self.lanes[at].take().expect("it has a task");
                let data = self.feed(&mut lane.feed);
                let progress = lane.task.start(Ticket(at as u32), data, &mut self.harness.memory);
                self.lanes[at] = Some(lane);
                self.note(at, progress);
            }
            Progress::End(ending) => {
                let lane = self.lanes[at].take().expect("it has a task");
                self.check(lane, ending);
            }
        }
    }

    fn check(&mut self, lane: Lane, ending: Ending<PlainBuf>) {
        let Lane { expected, mut read, .. } = lane;
        match expected.miscompare {
            Some(at) => {
                let sense = ending.sense.expect("it miscompares");
                assert_eq!((sense.key.0, sense.information), (0xE, Some(at)));
            }
            None => {
                read.extend(bytes_of(ending));
                assert_eq!(read, expected.data);
            }
        }
        let found = &self.harness.memory.volumes[0][expected.range.clone()];
        assert_eq!(found, expected.after);
        self.model[expected.range].copy_from_slice(&expected.after);
    }

    /// Completes a request, then lets those that starve, or have more to read, try again.
    fn go_on(&mut self, index: usize) {
        let (ticket, result) = self.harness.memory.execute(index);
        let at = ticket.0 as usize;
        let lane = self.lanes[at].as_mut().expect("it has a task");
        let progress = lane.task.complete(result, &mut self.harness.memory);
        self.note(at, progress);
        for at in core::mem::take(&mut self.starved) {
            let lane = self.lanes[at].as_mut().expect("it has a task");
            let progress = lane.task.resume(&mut self.harness.memory);
            self.note(at, progress);
        }
    }
}

proptest! {
    #[test]
    fn tasks_do_what_plain_bytes_would(
        steps in prop::collection::vec(step(), 1..40),
        // Each lane's data, and two more for one of them.
        buffers_max in LANES + 2..LANES + 6,
        piece_blocks in prop_oneof![1..8_u32, Just(256)],
    ) {
        let mut harness = Harness::new(&[(CAPACITY, 9)]);
        harness.piece_max = piece_blocks * 4096;
        let model = harness.memory.volumes[0].clone();
        let lanes = [const { None }; LANES];
        let mut world = World { harness, buffers_max, model, lanes, starved: Vec::new() };
        for step in &steps {
            while world.lanes[step.lane].is_some() {
                prop_assert!(world.harness.memory.pending() > 0, "a task is stuck");
                world.go_on(0);
            }
            world.begin(step);
            for index in &step.order {
                if world.harness.memory.pending() > 0 {
                    let pending = world.harness.memory.pending();
                    world.go_on(index.index(pending));
                }
            }
        }
        while world.lanes.iter().any(Option::is_some) {
            prop_assert!(world.harness.memory.pending() > 0, "a task is stuck");
            world.go_on(0);
        }
        prop_assert_eq!(&world.harness.memory.volumes[0], &world.model);
        prop_assert_eq!(world.harness.memory.live(), 0);
    }

    #[test]
    fn copies_are_what_was_there(
        from in 0..1500_u64, to in 0..1500_u64, blocks in 0..500_u16, shift in prop::bool::ANY,
    ) {
        let shift = if shift { 12 } else { 9 };
        let mut harness = Harness::new(&[(CAPACITY, 9), (8 << 20, shift)]);
        let list = shared::copy_list((0, 9), (1, shift), (from, to, blocks));
        let blocks = if shift == 12 { usize::from(blocks) / 8 * 8 } else { blocks.into() };
        prop_assume!(shift == 9 || list[16 + 64 + 11].is_multiple_of(8));
        let mut cdb = [0; 16];
        (cdb[0], cdb[13]) = (0x83, list.len() as u8);
        bytes_of(harness.request(&cdb, &list));
        let source = &harness.memory.volumes[0][from as usize * 512..][..blocks * 512];
        let target = &harness.memory.volumes[1][(to as usize) << shift..][..blocks * 512];
        prop_assert_eq!(source, target);
    }
}

#[test]
fn buffers_are_what_the_memory_counts() {
    let mut memory = Memory::new(&[4096]);
    let needs = Needs { data_out: 512, named: 512, page_offset: 3584, data_in_max: 0 };
    let buf = land(&mut memory, needs, &[1; 512]);
    assert_eq!((buf.bytes().len(), memory.live()), (4096, 1));
}
