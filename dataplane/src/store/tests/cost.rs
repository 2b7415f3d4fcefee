//! How much is read, written and remembered: counted, not timed.

use super::cache::{Slot, State};
use super::*;
use crate::disk::{Completion as Done, Disk, Info, Op, Tag};
use std::cell::RefCell;

/// What a disk was asked: whether it was a read, offset and length in blocks.
type Log = Rc<RefCell<Vec<(bool, u64, u64)>>>;

/// A disk whose reads and writes are noted.
struct Watched {
    inner: Box<dyn Disk>,
    info: Info,
    log: Log,
}

impl Watched {
    fn new(bench: &Bench, rotational: bool) -> (Box<Self>, Log) {
        let (inner, log) = (bench.disk(), Log::default());
        let info = Info { rotational, ..inner.info().clone() };
        (Box::new(Self { inner, info, log: log.clone() }), log)
    }
}

impl Disk for Watched {
    fn info(&self) -> &Info {
        &self.info
    }

    fn submit(&mut self, tag: Tag, op: Op) {
        let block = |bytes: u64| bytes / BLOCK as u64;
        match &op {
            Op::Read { offset, buf } => {
                self.log.borrow_mut().push((true, block(*offset), block(buf.len() as u64)));
            }
            Op::Write { offset, data, .. } => {
                self.log.borrow_mut().push((false, block(*offset), block(data.len() as u64)));
            }
            _ => {}
        }
        self.inner.submit(tag, op);
    }

    fn poll(&mut self, done: &mut Vec<Done>) {
        self.inner.poll(done);
    }

    fn in_flight(&self) -> usize {
        self.inner.in_flight()
    }
}

/// What a recovery reads: commands for tables, blocks of the journal, commands for pages and for
/// data; and the blocks of the tables' region.
fn recovery_reads(capacity: u64, others: u32) -> ([usize; 4], u64) {
    let config = SimDiskConfig { is_slow: false, ..SimDiskConfig::new(capacity) };
    let mut bench = Bench::new(&config, &format_options(Mode::Intent, 256), false, 1);
    let mut shard = bench.mount().unwrap();
    for slab in 0..others {
        let place = extent(2, slab / 100, slab % 100 * (2 << 20), 4096);
        bench.write(&mut shard, place, 1).unwrap();
    }
    for slab in 0..4 {
        bench.write(&mut shard, extent(1, 0, slab << 21, 64 << 10), 1).unwrap();
    }
    bench.stop(shard);
    let mut shard = bench.mount().unwrap();
    let mut random = Random::new(5);
    for byte in 1..50 {
        let (slab, block) = (random.below(8) as u32, random.below(30) as u32);
        let place = extent(1, 0, (slab << 21) + block * 4096, 4096 << random.below(4));
        match random.below(8) {
            0 => drop(bench.run(&mut shard, Request::Zero { extent: place }).unwrap()),
            1 => drop(bench.run(&mut shard, Request::Poison { extent: place }).unwrap()),
            _ => bench.write(&mut shard, place, byte).unwrap(),
        }
    }
    assert_eq!(shard.counters().checkpoints, 0);
    let areas = shard.areas;
    drop(shard);
    bench.data.power_cut();
    let (disk, log) = Watched::new(&bench, false);
    Shard::mount(disk, None, 0, &bench.options, bench.pool.clone()).wait().unwrap();
    let mut reads = [0; 4];
    let journal = areas.journal..areas.journal + areas.journal_blocks;
    for &(is_read, offset, blocks) in log.borrow().iter() {
        let area = match offset {
            offset if journal.contains(&offset) => 1,
            offset if (areas.segments()[0].pages..areas.segments()[0].data).contains(&offset) => 2,
            offset if offset >= areas.segments()[0].data => 3,
            _ => 0,
        };
        // The superblock at the end of the disk is no data.
        let is_end = offset >= capacity / BLOCK as u64 - 256;
        // A piece of the journal that lies across the ring's end takes two commands.
        let count = if area == 1 { blocks as usize } else { 1 };
        reads[area] += if is_read && !is_end { count } else { 0 };
    }
    (reads, areas.checkpoint_blocks)
}

/// Beyond its tables, a recovery reads what the journal names, whatever the disk holds.
#[test]
fn recovery_reads_what_the_journal_names() {
    let (small, _) = recovery_reads(64 << 20, 2);
    let (large, tables) = recovery_reads(1 << 40, 1500);
    assert_eq!(small[1..], large[1..]);
    assert!(small[1..].iter().all(|&reads| reads > 2), "{small:?}");
    // Superblock, two headers, then the tables of one checkpoint in large pieces.
    assert!(small[0] <= 4, "{small:?}");
    assert!(large[0] as u64 <= 3 + tables.div_ceil(64), "{large:?}");
}

/// A disk that keeps what compresses: blocks of one byte, and blocks with zeroes at their end.
struct Sparse {
    blocks: BTreeMap<u64, (usize, Box<[u8]>)>,
    ended: Vec<Done>,
}

impl Sparse {
    fn store(&mut self, block: u64, bytes: &[u8]) {
        let is_uniform = bytes.iter().all(|byte| *byte == bytes[0]);
        let used = bytes.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
        let kept = if is_uniform { 1 } else { used };
        let repeated = if is_uniform { BLOCK } else { 1 };
        self.blocks.insert(block, (repeated, bytes[..kept].into()));
    }
}

/// The disk, so that it can be mounted after it has been formatted.
#[derive(Clone)]
struct SparseDisk(Rc<RefCell<Sparse>>, Info);

impl Disk for SparseDisk {
    fn info(&self) -> &Info {
        &self.1
    }

    fn submit(&mut self, tag: Tag, mut op: Op) {
        let sparse = &mut *self.0.borrow_mut();
        match &mut op {
            Op::Read { offset, buf } => {
                for (block, bytes) in (*offset / BLOCK as u64..).zip(buf.chunks_mut(BLOCK)) {
                    bytes.fill(0);
                    if let Some((repeated, kept)) = sparse.blocks.get(&block) {
                        let kept = kept.repeat(*repeated);
                        bytes[..kept.len()].copy_from_slice(&kept);
                    }
                }
            }
            Op::Write { offset, data, .. } => {
                let blocks = data.segments().iter().flat_map(|segment| segment.chunks(BLOCK));
                for (block, bytes) in (*offset / BLOCK as u64..).zip(blocks) {
                    sparse.store(block, bytes);
                }
            }
            Op::Flush | Op::Deallocate { .. } | Op::WriteZeroes { .. } => {}
        }
        sparse.ended.push(Done { tag, op, result: Ok(()) });
    }

    fn poll(&mut self, done: &mut Vec<Done>) {
        let ended = &mut self.0.borrow_mut().ended;
        let count = ended.len().min(done.capacity() - done.len());
        done.extend(ended.drain(..count));
    }

    fn in_flight(&self) -> usize {
        self.0.borrow().ended.len()
    }
}

/// A volume of 1 TiB, written here and there in each of its chunks, with 1 MiB for its pages.
#[test]
fn pages_in_memory_stay_within_their_budget() {
    const BUDGET: usize = 1 << 20;
    const CHUNKS: u32 = 4096;
    const SLABS: u32 = 8;
    let info = Info {
        volatile_cache: false,
        ..SimMedia::new(&SimDiskConfig::new(1 << 30), 1).open().info().clone()
    };
    let info = Info { capacity: (1 << 40) + (16 << 30), ..info };
    let sparse = Sparse { blocks: BTreeMap::new(), ended: Vec::new() };
    let disk = SparseDisk(Rc::new(RefCell::new(sparse)), info);
    let pool = Rc::new(Arena::new(16 << 20, 1).unwrap().pool(0));
    format(Box::new(disk.clone()), None, &format_options(Mode::Intent, 8192), &pool).unwrap();
    let options = OpenOptions { cache_bytes: BUDGET, ..OpenOptions::default() };
    let mut shard = Shard::mount(Box::new(disk), None, 0, &options, pool.clone()).wait().unwrap();
    let slots = shard.cache.slots.len();
    assert!(slots * size_of::<Slot>() <= BUDGET && slots > 100, "{slots} slots");
    let place = |number: u32| {
        let (chunk, slab) = (number / SLABS, number % SLABS * 16);
        extent(1, chunk, slab << 21, 4096)
    };
    let byte = |number: u32| (number % 251) as u8 + 1;
    let (mut done, mut next, mut resident) = (Vec::new(), 0, 0);
    while next < CHUNKS * SLABS || shard.in_flight() > 0 {
        while next < CHUNKS * SLABS && shard.in_flight() < 64 {
            let mut data = pool.alloc(BLOCK).unwrap();
            data.fill(byte(next));
            sum(&mut data);
            shard.submit(0, Request::Write { extent: place(next), data: data.freeze() });
            next += 1;
        }
        shard.poll(Duration::ZERO, &mut done);
        done.drain(..).for_each(|completion| drop(completion.result.unwrap()));
        let held = shard.cache.slots.iter().filter(|slot| slot.state != State::Empty).count();
        resident = resident.max(held);
        assert!(shard.page_bufs.len() <= shard::PAGE_BUFS && shard.operations.len() <= 64 + slots);
    }
    assert_eq!(shard.cache.slots.len(), slots);
    assert_eq!(resident, slots, "the budget is used, and not exceeded");
    let misses = shard.counters().cache_misses;
    let mut random = Random::new(3);
    for _ in 0..500 {
        let number = random.below(u64::from(CHUNKS * SLABS)) as u32;
        let buf = pool.alloc(BLOCK).unwrap();
        shard.submit(1, Request::Read { extent: place(number), buf });
        while done.is_empty() {
            shard.poll(Duration::ZERO, &mut done);
        }
        let buf = done.pop().unwrap().result.unwrap().unwrap();
        assert!(buf.iter().all(|&found| found == byte(number)), "{number}");
    }
    assert!(shard.counters().cache_misses - misses > 400, "pages came back from the disk");
}

/// Small overwrites that come in any order go in place in the order of their places, neighbours
/// together.
#[test]
fn payload_goes_in_place_sorted_and_merged() {
    for seed in 0..5 {
        let config = SimDiskConfig::new(32 << 20);
        let bench = Bench::new(&config, &format_options(Mode::Data, 1024), true, seed);
        let (disk, log) = Watched::new(&bench, true);
        let pool = bench.pool.clone();
        let mounting = Shard::mount(disk, bench.journal(), 0, &bench.options, pool);
        let mut shard = mounting.wait().unwrap();
        let data = shard.areas.segments()[0].data;
        let mut blocks: Vec<u32> = (0..64).chain(512 - 32..512 + 32).collect();
        let byte = |block: u32| (block % 200) as u8 + 1;
        let mut random = Random::new(seed);
        for at in (1..blocks.len()).rev() {
            blocks.swap(at, random.below(at as u64 + 1) as usize);
        }
        for &block in &blocks {
            let place = extent(1, 0, block * 4096, 4096);
            let data = bench.filled(place, byte(block));
            shard.submit(u64::from(block), Request::Write { extent: place, data });
        }
        let mut done = Vec::new();
        let mut bench = bench;
        while done.len() < blocks.len() || shard.destages.first_pending().is_some() {
            bench.now += Duration::from_micros(10);
            shard.poll(bench.now, &mut done);
        }
        let writes: Vec<(u64, u64)> = log
            .borrow()
            .iter()
            .filter(|&&(is_read, offset, _)| !is_read && offset >= data)
            .map(|&(_, offset, len)| (offset - data, len))
            .collect();
        assert_eq!(writes.iter().map(|&(_, len)| len).sum::<u64>(), blocks.len() as u64);
        assert!(writes.len() <= 12, "{writes:?}");
        for &block in &blocks {
            let bytes = bench.read(&mut shard, extent(1, 0, block * 4096, 4096)).unwrap();
            assert!(bytes.iter().all(|&found| found == byte(block)), "block {block}");
        }
        bench.stop(shard);
    }
}

/// Of a span with holes only what is there is read, unless a hole is small, or the disk turns past
/// it anyway.
#[test]
fn large_holes_are_not_read() {
    for (rotational, expected) in
        [(false, vec![(0, 1), (100, 9), (200, 2)]), (true, vec![(0, 202)])]
    {
        let mut bench = bench(Mode::Intent);
        let (disk, log) = Watched::new(&bench, rotational);
        let pool = bench.pool.clone();
        let mut shard = Shard::mount(disk, None, 0, &bench.options, pool).wait().unwrap();
        let mut model = vec![0; 1 << 20];
        for block in [0, 100, 108, 200, 201] {
            bench.write(&mut shard, extent(1, 0, block * 4096, 4096), block as u8 + 1).unwrap();
            model[block as usize * BLOCK..][..BLOCK].fill(block as u8 + 1);
        }
        log.borrow_mut().clear();
        assert!(bench.read(&mut shard, extent(1, 0, 0, 1 << 20)).unwrap() == model);
        let data = shard.areas.segments()[0].data;
        let reads = || {
            let log = log.borrow();
            let reads = log.iter().filter(|&&(is_read, offset, _)| is_read && offset >= data);
            let mut reads: Vec<_> = reads.map(|&(_, at, len)| (at - data, len)).collect();
            reads.sort_unstable();
            reads
        };
        assert_eq!(reads(), expected);
        // One that cannot be read is told for itself, the others are still served.
        let bad = shard.areas.data_offset(0, 108);
        bench.data.make_unreadable(bad);
        let refused = bench.read(&mut shard, extent(1, 0, 0, 1 << 20));
        assert_eq!(refused, Err(Error::Media { block: 108 }));
        let tail = bench.read(&mut shard, extent(1, 0, 109 * 4096, 400 << 10)).unwrap();
        assert!(tail == model[109 * BLOCK..][..400 << 10]);
        log.borrow_mut().clear();
        bench.read(&mut shard, extent(1, 0, 300 * 4096, 4096)).unwrap();
        assert_eq!(reads(), [], "a hole is not read at all");
    }
}
