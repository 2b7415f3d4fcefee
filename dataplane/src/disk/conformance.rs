//! The suite that every [`Disk`] passes: call [`run`] in a test of the driver.
//!
//! It shows what the contract promises while nothing fails: data, neighbours, tags, counts, limits.
//! It does not show durability (that takes a power cut) nor errors (that takes a bad disk).

use super::{Completion, Disk, Error, Op, SEGMENTS_MAX, Tag, WriteData};
use crate::dma::{Arena, PAGE, Pool};
use std::collections::BTreeMap;
use std::thread;
use std::time::Duration;

/// Smallest capacity with which the suite can work, in bytes.
pub const CAPACITY_MIN: u64 = 8 << 20;

/// Buffers for the suite: transfers of 2 MiB and a full queue of single blocks.
const POOL_BYTES: usize = 48 << 20;

/// Polls in a row that may bring nothing: about ten seconds.
const IDLE_POLLS_MAX: usize = 100_000;

/// Most operations in flight that the suite tries, if the queue is deeper.
const DEPTH_TRIED_MAX: usize = 2048;

type Check = fn(&mut Rig);

/// Runs every check, each on a disk of its own from `make`; contents at first are whatever they
/// are. Panics where a promise is broken.
pub fn run(make: &mut dyn FnMut() -> Box<dyn Disk>) {
    run_with_arena(&mut |_| make());
}

/// As [`run`], for drivers whose device has to know the arena that the buffers come from.
pub fn run_with_arena(make: &mut dyn FnMut(&Arena) -> Box<dyn Disk>) {
    let checks: &[(&str, Check)] = &[
        ("info", info_is_sane),
        ("reads what was written", reads_what_was_written),
        ("edges", edges_leave_neighbours_alone),
        ("largest transfers", largest_transfers),
        ("gathered writes", gathered_writes),
        ("full queue", full_queue),
        ("bounded polls", polls_respect_capacity),
        ("write zeroes", zeroes_read_as_zero),
        ("deallocate", deallocation_leaves_neighbours_alone),
        ("flush and fua", flush_and_fua),
        ("random mix", random_mix_matches_a_model),
    ];
    let arena = Arena::new(POOL_BYTES, 1).expect("memory for the suite");
    let pool = arena.pool(0);
    let free = pool.available();
    for (name, check) in checks {
        println!("conformance: {name}");
        let mut rig = Rig::new(make(&arena), &pool);
        check(&mut rig);
        assert_eq!(rig.disk.in_flight(), 0, "{name}: nothing is left in flight");
        drop(rig);
        assert_eq!(pool.available(), free, "{name}: every buffer came back");
    }
}

/// A disk with what the checks need.
struct Rig<'a> {
    disk: Box<dyn Disk>,
    pool: &'a Pool,
    next_tag: Tag,
}

impl<'a> Rig<'a> {
    fn new(disk: Box<dyn Disk>, pool: &'a Pool) -> Self {
        assert!(disk.info().capacity >= CAPACITY_MIN, "the suite needs {CAPACITY_MIN} bytes");
        Self { disk, pool, next_tag: 0x1234_5678_9abc_0000 }
    }

    fn block(&self) -> usize {
        self.disk.info().block_size as usize
    }

    fn submit(&mut self, op: Op) -> Tag {
        let (tag, before) = (self.next_tag, self.disk.in_flight());
        self.next_tag += 1;
        self.disk.submit(tag, op);
        assert_eq!(self.disk.in_flight(), before + 1, "a submitted operation is in flight");
        tag
    }

    fn write_op(&self, offset: u64, bytes: &[u8], fua: bool) -> Op {
        let mut buf = self.pool.alloc(bytes.len()).expect("the suite's pool suffices");
        buf.copy_from_slice(bytes);
        Op::Write { offset, data: WriteData::One(buf.freeze()), fua }
    }

    /// A read into a buffer that holds other bytes.
    fn read_op(&self, offset: u64, len: usize) -> Op {
        let mut buf = self.pool.alloc(len).expect("the suite's pool suffices");
        buf.fill(0xa5);
        Op::Read { offset, buf }
    }

    /// Polls until something has ended, with room for `room` completions.
    fn poll(&mut self, room: usize) -> Vec<Completion> {
        let mut done = Vec::with_capacity(room);
        let before = self.disk.in_flight();
        for idle in 0..IDLE_POLLS_MAX {
            self.disk.poll(&mut done);
            if !done.is_empty() {
                let reported = before - self.disk.in_flight();
                assert_eq!(reported, done.len(), "what is reported is no longer in flight");
                return done;
            }
            if idle > 100 {
                thread::sleep(Duration::from_micros(100));
            }
        }
        panic!("{before} operations in flight never end");
    }

    fn wait(&mut self) -> BTreeMap<Tag, Completion> {
        let mut ended = BTreeMap::new();
        while self.disk.in_flight() > 0 {
            for completion in self.poll(64) {
                let twice = ended.insert(completion.tag, completion);
                assert!(twice.is_none(), "each tag is reported once");
            }
        }
        ended
    }

    fn execute(&mut self, op: Op) -> (Op, Result<(), Error>) {
        let tag = self.submit(op);
        let mut ended = self.wait();
        assert_eq!(ended.len(), 1, "one submitted, one reported");
        let Completion { op, result, .. } = ended.remove(&tag).expect("the tag comes back");
        (op, result)
    }

    fn write(&mut self, mut offset: u64, bytes: &[u8]) {
        for part in bytes.chunks(self.disk.info().transfer_max) {
            self.write_at_once(offset, part);
            offset += part.len() as u64;
        }
    }

    fn write_at_once(&mut self, offset: u64, bytes: &[u8]) {
        let (op, result) = self.execute(self.write_op(offset, bytes, false));
        result.expect("a write succeeds");
        let Op::Write { offset: same, data, .. } = op else { panic!("{op:?} was a write") };
        assert_eq!(same, offset, "the operation comes back as it was");
        assert!(data.segments()[0][..] == *bytes, "a write leaves its data alone");
    }

    fn read(&mut self, offset: u64, len: usize) -> Vec<u8> {
        let most = self.disk.info().transfer_max;
        let parts = (0..len).step_by(most);
        parts.flat_map(|at| self.read_at_once(offset + at as u64, most.min(len - at))).collect()
    }

    fn read_at_once(&mut self, offset: u64, len: usize) -> Vec<u8> {
        let (op, result) = self.execute(self.read_op(offset, len));
        result.expect("a read succeeds");
        let Op::Read { offset: same, buf } = op else { panic!("{op:?} was a read") };
        assert_eq!((same, buf.len()), (offset, len), "the operation comes back as it was");
        buf.to_vec()
    }

    fn expect(&mut self, offset: u64, expected: &[u8]) {
        let mut at = offset;
        for chunk in expected.chunks(1 << 20) {
            let got = self.read(at, chunk.len());
            if let Some(wrong) = got.iter().zip(chunk).position(|(got, expected)| got != expected) {
                panic!(
                    "byte {} reads {:#x} instead of {:#x}",
                    at + wrong as u64,
                    got[wrong],
                    chunk[wrong]
                );
            }
            at += chunk.len() as u64;
        }
    }
}

/// Bytes that tell their place and their writer.
fn pattern(len: usize, seed: u64) -> Vec<u8> {
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let words = (0..len.div_ceil(8)).flat_map(|_| random.next().to_le_bytes());
    words.take(len).collect()
}

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }
}

fn info_is_sane(rig: &mut Rig) {
    let info = rig.disk.info().clone();
    assert!(info.block_size.is_power_of_two() && (512..=4096).contains(&info.block_size));
    assert!(info.capacity.is_multiple_of(u64::from(info.block_size)));
    assert!(info.atomic_write.is_multiple_of(info.block_size));
    assert!(info.queue_depth > 0);
    assert!(info.transfer_max >= PAGE && info.transfer_max.is_multiple_of(PAGE));
    assert!(!info.name.is_empty());
    assert_eq!(rig.disk.in_flight(), 0);
    let mut done = Vec::with_capacity(1);
    rig.disk.poll(&mut done);
    assert!(done.is_empty(), "nothing was submitted");
}

fn reads_what_was_written(rig: &mut Rig) {
    let block = rig.block();
    let sizes = [block, 2 * block, 7 * block, PAGE, 16 * PAGE, 256 * PAGE];
    let capacity = rig.disk.info().capacity;
    for (seed, size) in sizes.into_iter().enumerate() {
        let middle = (capacity / 2).next_multiple_of(block as u64);
        for offset in [0, middle, capacity - size as u64] {
            let first = pattern(size, seed as u64);
            rig.write(offset, &first);
            rig.expect(offset, &first);
            let second = pattern(size, seed as u64 + 1000);
            rig.write(offset, &second);
            rig.expect(offset, &second);
        }
    }
}

fn edges_leave_neighbours_alone(rig: &mut Rig) {
    let block = rig.block();
    let mut model = pattern(64 * PAGE, 1);
    rig.write(0, &model);
    let borders = [0, block, PAGE - block, PAGE, 16 * PAGE - block, 16 * PAGE, 62 * PAGE];
    for (seed, offset) in borders.into_iter().enumerate() {
        for blocks in [1, 2, PAGE / block] {
            let bytes = pattern(blocks * block, 50 + seed as u64);
            rig.write(offset as u64, &bytes);
            model[offset..offset + bytes.len()].copy_from_slice(&bytes);
            rig.expect(0, &model);
        }
    }
    let capacity = rig.disk.info().capacity;
    let last = pattern(block, 99);
    rig.write(capacity - block as u64, &last);
    rig.expect(capacity - block as u64, &last);
    rig.expect(0, &model);
}

fn largest_transfers(rig: &mut Rig) {
    let len = rig.disk.info().transfer_max.min(2 << 20);
    let capacity = rig.disk.info().capacity;
    for offset in [0, rig.block() as u64, capacity - len as u64] {
        let bytes = pattern(len, offset + 5);
        rig.write(offset, &bytes);
        let (op, result) = rig.execute(rig.read_op(offset, len));
        result.expect("a read succeeds");
        let Op::Read { buf, .. } = op else { panic!("{op:?} was a read") };
        assert!(buf[..] == bytes, "the largest transfer is whole");
    }
}

fn gathered_writes(rig: &mut Rig) {
    let block = rig.block();
    for count in [1, 2, 3, 17, SEGMENTS_MAX] {
        // Segments of one and two blocks from the middle of buffers of their own.
        let mut expected = Vec::new();
        let mut segments = Vec::new();
        for index in 0..count {
            let bytes = pattern(4 * block, index as u64 + 7);
            let mut buf = rig.pool.alloc(bytes.len()).expect("the suite's pool suffices");
            buf.copy_from_slice(&bytes);
            let len = block * (1 + index % 2);
            segments.push(buf.freeze().slice(block, len));
            expected.extend_from_slice(&bytes[block..block + len]);
        }
        if expected.len() > rig.disk.info().transfer_max {
            continue;
        }
        let offset = 8 * PAGE as u64;
        let before = pattern(block, 1);
        rig.write(offset - block as u64, &before);
        let op = Op::Write { offset, data: WriteData::Many(segments), fua: count == 3 };
        let (op, result) = rig.execute(op);
        result.expect("a gathered write succeeds");
        let Op::Write { data, .. } = op else { panic!("{op:?} was a write") };
        assert_eq!(data.segments().len(), count);
        rig.expect(offset, &expected);
        rig.expect(offset - block as u64, &before);
    }
}

fn full_queue(rig: &mut Rig) {
    let block = rig.block();
    let depth = rig.disk.info().queue_depth.min(DEPTH_TRIED_MAX);
    for round in 0..3 {
        for index in 0..depth {
            let bytes = pattern(block, (round * depth + index) as u64);
            rig.submit(rig.write_op((index * block) as u64, &bytes, false));
        }
        assert_eq!(rig.disk.in_flight(), depth);
        let ended = rig.wait();
        assert_eq!(ended.len(), depth, "every tag is reported");
        assert!(ended.values().all(|completion| completion.result.is_ok()));
        let tags: Vec<Tag> = (0..depth)
            .map(|index| rig.submit(rig.read_op((index * block) as u64, block)))
            .collect();
        let mut ended = rig.wait();
        for (index, tag) in tags.into_iter().enumerate() {
            let completion = ended.remove(&tag).expect("every tag is reported");
            let Op::Read { buf, .. } = completion.op else { panic!("it was a read") };
            let expected = pattern(block, (round * depth + index) as u64);
            assert!(buf[..] == expected, "each read gets its own block");
        }
    }
}

fn polls_respect_capacity(rig: &mut Rig) {
    let block = rig.block();
    let count = rig.disk.info().queue_depth.min(8);
    for index in 0..count {
        rig.submit(rig.read_op((index * block) as u64, block));
    }
    let mut none = Vec::new();
    rig.disk.poll(&mut none);
    assert_eq!(none.capacity(), 0, "a list without room gets nothing");
    assert_eq!(rig.disk.in_flight(), count);
    for left in (0..count).rev() {
        assert_eq!(rig.poll(1).len(), 1, "a list with room for one gets one");
        assert_eq!(rig.disk.in_flight(), left);
    }
}

/// Contents around `range` that a check then finds unchanged.
fn with_neighbours(rig: &mut Rig, offset: usize, len: usize) -> Vec<u8> {
    let model = pattern(offset + len + 4 * PAGE, len as u64);
    rig.write(0, &model);
    model
}

fn zeroes_read_as_zero(rig: &mut Rig) {
    let block = rig.block();
    for (offset, len) in [(block, block), (PAGE, PAGE), (3 * block, 200 * PAGE - block)] {
        let mut model = with_neighbours(rig, offset, len);
        let op = Op::WriteZeroes { offset: offset as u64, len: len as u64 };
        match rig.execute(op).1 {
            Ok(()) => model[offset..offset + len].fill(0),
            Err(error) => assert_eq!(error, Error::Unsupported, "zeroes or no such operation"),
        }
        rig.expect(0, &model);
    }
}

fn deallocation_leaves_neighbours_alone(rig: &mut Rig) {
    let block = rig.block();
    for (offset, len) in [(block, block), (PAGE, PAGE), (16 * PAGE, 200 * PAGE)] {
        let mut model = with_neighbours(rig, offset, len);
        let op = Op::Deallocate { offset: offset as u64, len: len as u64 };
        match rig.execute(op).1 {
            Ok(()) => {}
            Err(error) => {
                assert_eq!(error, Error::Unsupported);
                assert!(!rig.disk.info().deallocate, "a disk that deallocates does it");
            }
        }
        let whatever = rig.read(offset as u64, len);
        model[offset..offset + len].copy_from_slice(&whatever);
        rig.expect(0, &model);
        let again = pattern(len, 3);
        rig.write(offset as u64, &again);
        rig.expect(offset as u64, &again);
    }
}

fn flush_and_fua(rig: &mut Rig) {
    let block = rig.block();
    let bytes = pattern(block, 11);
    rig.write(0, &bytes);
    rig.execute(Op::Flush).1.expect("a flush succeeds");
    rig.expect(0, &bytes);
    let bytes = pattern(4 * block, 12);
    rig.execute(rig.write_op(0, &bytes, true)).1.expect("a forced write succeeds");
    rig.expect(0, &bytes);
    // Flushes among other operations.
    let depth = rig.disk.info().queue_depth.min(64);
    for index in 0..depth {
        let op = match index % 4 {
            0 => Op::Flush,
            1 => rig.read_op((index * block) as u64, block),
            _ => rig.write_op((index * block) as u64, &pattern(block, index as u64), true),
        };
        rig.submit(op);
    }
    let ended = rig.wait();
    assert_eq!(ended.len(), depth);
    assert!(ended.values().all(|completion| completion.result.is_ok()));
}

/// Random operations, many in flight, none overlapping another in flight.
fn random_mix_matches_a_model(rig: &mut Rig) {
    const BLOCKS: usize = 512;
    const STEPS: usize = 1500;
    let block = rig.block();
    let depth = rig.disk.info().queue_depth.min(32);
    let mut random = Random(0x5eed);
    let mut model = pattern(BLOCKS * block, 0);
    rig.write(0, &model);
    let mut busy = BTreeMap::new();
    for step in 0..STEPS {
        let len = 1 + random.below(8);
        let first = random.below(BLOCKS - len);
        let overlaps =
            |(at, other): (&usize, &(usize, Tag))| first < at + other.0 && *at < first + len;
        if busy.len() == depth || busy.iter().any(overlaps) {
            for completion in rig.poll(4) {
                check_against(&completion, &model);
                busy.retain(|_, (_, tag)| *tag != completion.tag);
            }
            continue;
        }
        let range = first * block..(first + len) * block;
        let offset = range.start as u64;
        let op = if random.below(2) == 0 {
            rig.read_op(offset, range.len())
        } else {
            let bytes = pattern(range.len(), step as u64);
            model[range].copy_from_slice(&bytes);
            rig.write_op(offset, &bytes, random.below(8) == 0)
        };
        busy.insert(first, (len, rig.submit(op)));
    }
    rig.wait().values().for_each(|completion| check_against(completion, &model));
    rig.expect(0, &model);
}

fn check_against(completion: &Completion, model: &[u8]) {
    assert_eq!(completion.result, Ok(()));
    if let Op::Read { offset, buf } = &completion.op {
        let expected = &model[*offset as usize..*offset as usize + buf.len()];
        assert!(buf[..] == *expected, "a read at {offset} gets what was last written");
    }
}
