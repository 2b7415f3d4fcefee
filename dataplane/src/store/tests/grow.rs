//! Disks that grow, also cut short at every write; and what cannot grow.

use super::*;
use crate::disk::{Completion as Done, Disk, Info, Op, Tag};
use storage_spec::disk::EXTENSIONS_MAX;

const SLAB: u32 = 2 << 20;
const START: u64 = 24 << 20;

/// A disk that fails for good at its write, flush or zeroing of this number; that one may have been
/// carried out, or part of it.
struct Cut {
    inner: Box<dyn Disk>,
    left: u64,
    last: Option<Tag>,
    failed: Vec<Done>,
}

impl Cut {
    fn new(inner: Box<dyn Disk>, left: u64) -> Box<Self> {
        Box::new(Self { inner, left, last: None, failed: Vec::new() })
    }
}

impl Disk for Cut {
    fn info(&self) -> &Info {
        self.inner.info()
    }

    fn submit(&mut self, tag: Tag, op: Op) {
        if matches!(op, Op::Read { .. }) {
            return self.inner.submit(tag, op);
        }
        if self.left == 0 {
            let result = Err(crate::disk::Error::Failed);
            return self.failed.push(Done { tag, op, result });
        }
        self.left -= 1;
        if self.left == 0 {
            self.last = Some(tag);
        }
        self.inner.submit(tag, op);
    }

    fn poll(&mut self, done: &mut Vec<Done>) {
        let first = done.len();
        self.inner.poll(done);
        for done in &mut done[first..] {
            if self.last == Some(done.tag) {
                done.result = Err(crate::disk::Error::Failed);
            }
        }
        while done.len() < done.capacity() {
            let Some(failed) = self.failed.pop() else { return };
            done.push(failed);
        }
    }

    fn in_flight(&self) -> usize {
        self.inner.in_flight() + self.failed.len()
    }
}

impl Bench {
    fn grow(&self) -> Result<Grown, GrowError> {
        grow(self.disk(), &self.pool, &mut |_| Ok(()))
    }

    /// Begins to grow, and loses power at the `at`th write. Whether it was done before.
    fn grow_cut(&self, at: u64) -> bool {
        let ended = grow(Cut::new(self.disk(), at), &self.pool, &mut |_| Ok(()));
        self.data.power_cut();
        match ended {
            Ok(_) => true,
            Err(GrowError::Disk(_) | GrowError::Mount(MountError::Disk(_))) => false,
            Err(error) => panic!("{error}"),
        }
    }

    /// The device becomes larger, and the disk takes it, perhaps at the second or third try.
    pub(super) fn grow_somehow(&mut self, random: &mut Random, by: u64) {
        let capacity = self.data.open().info().capacity + by + random.below(4096) * BLOCK as u64;
        self.data.resize(capacity);
        while random.chance(60) {
            self.grow_cut(1 + random.below(60));
        }
        // What was left may be left to the mount.
        if random.chance(80) {
            self.grow().unwrap();
        }
    }

    fn data_bytes(&self) -> u64 {
        probe(self.disk(), &self.pool).unwrap().data_bytes
    }

    /// Writes slab after slab of volume 1 until the disk is full; how many it took.
    fn fill(&mut self, shard: &mut Shard) -> u32 {
        for slab in 0.. {
            let place = extent(1, slab / 128, slab % 128 * SLAB, 8192);
            match self.write(shard, place, slab as u8 + 1) {
                Ok(()) => {}
                Err(Error::Full) => return slab,
                Err(error) => panic!("{error}"),
            }
        }
        unreachable!("disks are finite")
    }

    fn compare_filled(&mut self, shard: &mut Shard, slabs: u32) {
        for slab in 0..slabs {
            let place = extent(1, slab / 128, slab % 128 * SLAB, 8192);
            assert_eq!(self.read(shard, place).unwrap(), [slab as u8 + 1; 8192], "slab {slab}");
        }
    }
}

fn grown_bench(mode: Mode, apart: bool, seed: u64) -> Bench {
    let atomic_write = if mode == Mode::Intent { 4096 } else { 512 };
    let config = SimDiskConfig { atomic_write, ..SimDiskConfig::new(START) };
    Bench::new(&config, &format_options(mode, 64), apart, seed)
}

#[test]
fn a_full_disk_takes_writes_again_once_it_has_grown() {
    for (mode, apart) in [(Mode::Intent, false), (Mode::Data, false), (Mode::Data, true)] {
        let mut bench = grown_bench(mode, apart, 3);
        let mut shard = bench.mount().unwrap();
        let before = bench.fill(&mut shard);
        assert_eq!(shard.space().free, 0);
        // Growth does not ask for an orderly stop: the journal is not empty.
        drop(shard);
        bench.data.power_cut();
        if let Some(journal) = &bench.journal {
            journal.power_cut();
        }
        let old = probe(bench.disk(), &bench.pool).unwrap();
        assert_eq!((old.version, old.extensions, old.growable_bytes), (1, 0, 0));
        bench.data.resize(START + (40 << 20));
        let enlarged = probe(bench.disk(), &bench.pool).unwrap();
        assert_eq!(enlarged.intact, [true, true], "the far one is at its former end");
        assert!(enlarged.growable_bytes >= 34 << 20);
        let grown = bench.grow().unwrap();
        assert_eq!(grown.added_bytes, enlarged.growable_bytes);
        assert_eq!((grown.data_bytes, grown.extensions), (old.data_bytes + grown.added_bytes, 1));
        let now = probe(bench.disk(), &bench.pool).unwrap();
        assert_eq!((now.version, now.extensions, now.growable_bytes), (2, 1, 0));
        assert_eq!(bench.grow().unwrap().added_bytes, 0, "there is no more");
        let mut shard = bench.mount().unwrap();
        bench.compare_filled(&mut shard, before);
        assert_eq!(shard.space().capacity, grown.data_bytes);
        let after = bench.fill(&mut shard);
        assert_eq!(u64::from(after) * u64::from(SLAB), grown.data_bytes);
        bench.stop(shard);
        let report = bench.check();
        assert_eq!((report.findings, report.extensions), (vec![], 1));
        assert_eq!(report.slabs, u64::from(after));
        let mut shard = bench.mount().unwrap();
        bench.compare_filled(&mut shard, after);
    }
}

/// Cut at any write, torn at 512 bytes, unflushed writes dropped in any subset: the disk is what it
/// was or has grown, and whatever comes next completes it.
#[test]
fn a_growth_that_is_cut_short_leaves_the_old_disk_or_the_new_one() {
    const BY: u64 = 16 << 20;
    let (mut old_seen, mut new_seen, mut ended) = (0, 0, 0);
    for seed in 0..8 {
        for at in 1.. {
            let mode = if seed % 2 == 0 { Mode::Intent } else { Mode::Data };
            let mut bench = grown_bench(mode, seed % 3 == 0, seed * 1000 + at);
            let mut shard = bench.mount().unwrap();
            let before = bench.fill(&mut shard);
            drop(shard);
            bench.data.kill();
            let old_bytes = bench.data_bytes();
            bench.data.resize(START + BY);
            let is_done = bench.grow_cut(at);
            let bytes = bench.data_bytes();
            assert!(!is_done || bytes > old_bytes);
            if bytes == old_bytes {
                old_seen += 1
            } else {
                new_seen += 1
            }
            // What comes next: a mount and writes, another growth, or one that goes further.
            if at % 2 == 0 {
                let mut shard = bench.mount().unwrap();
                bench.compare_filled(&mut shard, before);
                let filled = bench.fill(&mut shard);
                assert_eq!(u64::from(filled) * u64::from(SLAB), bytes);
                drop(shard);
                bench.data.kill();
            }
            let further = if at % 3 == 0 { 16 << 20 } else { 0 };
            bench.data.resize(START + BY + further);
            bench.grow().unwrap();
            assert_eq!(probe(bench.disk(), &bench.pool).unwrap().intact, [true, true]);
            let mut shard = bench.mount().unwrap();
            let filled = if at % 2 == 0 { (bytes / u64::from(SLAB)) as u32 } else { before };
            bench.compare_filled(&mut shard, filled);
            let filled = bench.fill(&mut shard);
            bench.stop(shard);
            assert_eq!(u64::from(filled) * u64::from(SLAB), bench.data_bytes());
            assert!(bench.data_bytes() >= old_bytes + (8 << 20) + further / 2);
            assert_eq!(bench.check().findings, []);
            // The former end is no superblock any more: a device cut back to it is refused.
            bench.data.resize(START);
            assert!(matches!(bench.mount(), Err(MountError::Truncated { .. })));
            bench.data.rot(8, 1);
            assert!(matches!(bench.mount(), Err(MountError::NotFormatted)));
            if is_done {
                ended += 1;
                break;
            }
        }
    }
    assert_eq!(ended, 8);
    assert!(old_seen > 50 && new_seen > 20, "{old_seen} {new_seen}");
}

/// The first segment's last slab and the next one's first are not neighbours on the medium, though
/// their numbers are.
#[test]
fn writes_in_place_are_not_merged_across_segments() {
    let mut bench = grown_bench(Mode::Data, false, 1);
    bench.data.resize(START + (16 << 20));
    bench.grow().unwrap();
    let mut shard = bench.mount().unwrap();
    let slabs = bench.fill(&mut shard);
    let border = shard.areas.slabs_of(0).end;
    assert!(border < slabs);
    let around = extent(1, 0, border * SLAB - 4 * BLOCK as u32, 8 * BLOCK as u32);
    for byte in [201, 202, 203] {
        bench.write(&mut shard, around, byte).unwrap();
    }
    while shard.destages.first_pending().is_some() {
        bench.now += Duration::from_micros(10);
        shard.poll(bench.now, &mut Vec::new());
    }
    assert_eq!(bench.read(&mut shard, around).unwrap(), [203; 8 * BLOCK]);
    bench.stop(shard);
    assert_eq!(bench.check().findings, []);
}

#[test]
fn what_cannot_grow_says_why() {
    let bench = grown_bench(Mode::Intent, true, 1);
    bench.data.resize(START + (1 << 20));
    let Err(GrowError::TooLittle { capacity, needed }) = bench.grow() else {
        panic!("1 MiB is too little");
    };
    assert_eq!(capacity, START + (1 << 20));
    assert!(bench.mount().is_ok());
    bench.data.resize(needed - BLOCK as u64);
    assert!(matches!(bench.grow(), Err(GrowError::TooLittle { .. })));
    bench.data.resize(needed);
    assert_eq!(bench.grow().unwrap().added_bytes, 8 << 20);
    let journal = grow(bench.journal().unwrap(), &bench.pool, &mut |_| Ok(()));
    assert!(matches!(journal, Err(GrowError::Mount(MountError::Inconsistent(_)))));
    for times in 2..=EXTENSIONS_MAX as u64 {
        bench.data.resize(needed + times * (16 << 20));
        let grown = bench.grow().unwrap();
        assert_eq!(u64::from(grown.extensions), times);
    }
    bench.data.resize(2 << 30);
    assert_eq!(bench.grow(), Err(GrowError::TooOften));
    let mut bench = bench;
    let mut shard = bench.mount().unwrap();
    let filled = bench.fill(&mut shard);
    bench.stop(shard);
    let mut shard = bench.mount().unwrap();
    bench.compare_filled(&mut shard, filled);
    bench.stop(shard);
    assert_eq!(bench.check().findings, []);
}

#[test]
fn no_space_for_the_metadata_is_no_growth() {
    let bench = grown_bench(Mode::Intent, false, 1);
    bench.data.resize(START + (16 << 20));
    let mut asked = Vec::new();
    let refused = grow(bench.disk(), &bench.pool, &mut |range| {
        asked.push(range);
        Err(crate::disk::Error::NoSpace)
    });
    assert_eq!(refused, Err(GrowError::Disk(crate::disk::Error::NoSpace)));
    assert!(asked.len() == 1 && asked[0].start >= START && asked[0].end < START + (4 << 20));
    assert_eq!(probe(bench.disk(), &bench.pool).unwrap().extensions, 0);
    assert!(bench.mount().is_ok());
}

/// A device that was cut down, formatted anew and enlarged again may have the end of another life.
#[test]
fn the_end_of_an_earlier_life_says_nothing() {
    let bench = grown_bench(Mode::Intent, false, 1);
    bench.data.resize(START + (16 << 20));
    bench.grow().unwrap();
    bench.data.resize(START);
    let options = FormatOptions { incarnation: 5, force: true, ..format_options(Mode::Intent, 64) };
    format(bench.disk(), None, &options, &bench.pool).unwrap();
    bench.data.resize(START + (16 << 20));
    let probe = probe(bench.disk(), &bench.pool).unwrap();
    assert_eq!((probe.incarnation, probe.extensions, probe.intact), (5, 0, [true, true]));
    assert!(bench.mount().is_ok());
    assert_eq!(bench.grow().unwrap().extensions, 1);
    assert!(bench.mount().is_ok());
    assert_eq!(bench.check().findings, []);
}

#[test]
fn a_mount_mends_a_damaged_superblock() {
    for end in [8, START - BLOCK as u64 + 8] {
        let bench = grown_bench(Mode::Intent, false, 1);
        bench.data.rot(end, 3);
        assert_eq!(bench.check().findings.len(), 1);
        bench.mount().unwrap();
        assert_eq!(bench.check().findings, []);
    }
}
