//! Faults under the store: bytes are right or refused.

use super::*;
use crate::sim::Faults;

const SLAB: u32 = 2 << 20;

/// Where the data of slabs lie, in bytes.
pub(super) fn data_area(bench: &Bench) -> std::ops::Range<u64> {
    let areas = areas(bench);
    areas.data_offset(0, 0)..areas.data_offset(areas.slabs - 1, 511)
}

pub(super) fn areas(bench: &Bench) -> layout::Areas {
    let info = bench.disk().info().clone();
    let options = format_options(Mode::Intent, 64);
    layout::Layout::plan(&info, None, &options).unwrap().areas(0, 4711)
}

/// Every block is what was written last, or an error; how many are errors.
fn compare(bench: &mut Bench, shard: &mut Shard, blocks: &BTreeMap<u32, u8>) -> usize {
    let mut errors = 0;
    for (&block, &byte) in blocks {
        match bench.read(shard, extent(1, 0, block * 4096, 4096)) {
            Ok(bytes) => assert!(bytes.iter().all(|&b| b == byte), "block {block}"),
            Err(Error::Media { block: found }) => {
                assert_eq!(found, block);
                errors += 1;
            }
            Err(error) => panic!("{error}"),
        }
    }
    errors
}

fn fill(bench: &mut Bench, shard: &mut Shard, random: &mut Random) -> BTreeMap<u32, u8> {
    let mut blocks = BTreeMap::new();
    for _ in 0..400 {
        let block = random.below(4) as u32 * 512 + random.below(40) as u32;
        let byte = random.below(255) as u8 + 1;
        bench.write(shard, extent(1, 0, block * 4096, 4096), byte).unwrap();
        blocks.insert(block, byte);
    }
    blocks
}

#[test]
fn lost_and_misdirected_writes_are_never_returned() {
    let mut errors = 0;
    for seed in 0..12 {
        let mode = if seed % 2 == 0 { Mode::Intent } else { Mode::Data };
        let config = SimDiskConfig::new(32 << 20);
        let mut bench = Bench::new(&config, &format_options(mode, 64), false, seed);
        bench.options.payload_max = if seed % 3 == 0 { 0 } else { 16384 };
        let mut shard = bench.mount().unwrap();
        let mut random = Random::new(seed);
        fill(&mut bench, &mut shard, &mut random);
        let range = data_area(&bench);
        bench.data.set_faults(Faults { range, lost: 10, misdirected: 5 });
        let blocks = fill(&mut bench, &mut shard, &mut random);
        bench.stop(shard);
        bench.data.set_faults(Faults::default());
        let mut shard = bench.mount().unwrap();
        let found = compare(&mut bench, &mut shard, &blocks);
        assert_eq!(shard.counters().block_errors, found as u64);
        errors += found;
        let report = bench.check();
        assert!(report.findings_total >= found as u64);
    }
    assert!(errors > 50, "{errors}");
}

#[test]
fn rot_is_never_returned_and_check_finds_it() {
    for seed in 0..8 {
        let mut bench = bench(Mode::Intent);
        let mut shard = bench.mount().unwrap();
        let mut random = Random::new(seed);
        let blocks = fill(&mut bench, &mut shard, &mut random);
        bench.stop(shard);
        let range = data_area(&bench);
        let written = bench.data.written_blocks();
        let rotten: Vec<u64> =
            written.into_iter().filter(|at| range.contains(at) && random.chance(20)).collect();
        for &at in &rotten {
            bench.data.rot(at + random.below(4096), random.below(8) as u8);
        }
        let mut shard = bench.mount().unwrap();
        assert_eq!(compare(&mut bench, &mut shard, &blocks), rotten.len());
        assert!(shard.next_event().is_some());
        bench.stop(shard);
        assert_eq!(bench.check().findings_total, rotten.len() as u64);
    }
}

#[test]
fn a_block_that_cannot_be_read_costs_only_itself() {
    let mut bench = bench(Mode::Intent);
    let mut shard = bench.mount().unwrap();
    bench.write(&mut shard, extent(1, 0, 0, 64 << 10), 3).unwrap();
    let first = areas(&bench).data_offset(0, 0);
    bench.data.make_unreadable(first + 5 * 4096);
    let all = extent(1, 0, 0, 64 << 10);
    assert_eq!(bench.read(&mut shard, all), Err(Error::Media { block: 5 }));
    let before = bench.read(&mut shard, extent(1, 0, 0, 5 * 4096)).unwrap();
    assert!(before.iter().all(|&byte| byte == 3));
    bench.write(&mut shard, extent(1, 0, 5 * 4096, 4096), 4).unwrap();
    bench.read(&mut shard, all).unwrap();
}

#[test]
fn lost_metadata_writes_are_noticed() {
    let mut seen = 0;
    for seed in 0..10 {
        let config = SimDiskConfig::new(40 << 20);
        let mut bench = Bench::new(&config, &format_options(Mode::Intent, 64), false, seed);
        let mut shard = bench.mount().unwrap();
        let areas = areas(&bench);
        let range = areas.page_offset(0, 0)..areas.page_offset(areas.slabs, 0);
        bench.data.set_faults(Faults { range, lost: 20, misdirected: 10 });
        let mut random = Random::new(seed);
        let mut blocks = BTreeMap::new();
        // More slabs than slots: pages leave memory and come back.
        for _ in 0..600 {
            let block = random.below(12) as u32 * 512 + random.below(8) as u32;
            let byte = random.below(255) as u8 + 1;
            match bench.write(&mut shard, extent(1, 0, block * 4096, 4096), byte) {
                Ok(()) => blocks.insert(block, byte),
                Err(error) => panic!("{error}"),
            };
        }
        compare(&mut bench, &mut shard, &blocks);
        seen += shard.counters().page_errors;
    }
    assert!(seen > 10, "{seen}");
}

#[test]
fn a_disk_that_failed_a_write_is_not_written_again() {
    for payload_max in [0, 16384] {
        let mut bench = bench(Mode::Intent);
        bench.options.payload_max = payload_max;
        let mut shard = bench.mount().unwrap();
        let place = extent(1, 0, 0, 16 << 10);
        bench.write(&mut shard, place, 1).unwrap();
        bench.data.fail_writes(true);
        assert_eq!(bench.write(&mut shard, place, 2), Err(Error::Failed));
        bench.data.fail_writes(false);
        assert_eq!(bench.write(&mut shard, place, 3), Err(Error::Failed));
        assert_eq!(bench.write(&mut shard, extent(1, 0, SLAB, 4096), 3), Err(Error::Failed));
        assert!(bench.read(&mut shard, place).unwrap().iter().all(|&byte| byte == 1));
        shard.catalogue_put(1, b"key", b"value");
        assert!(bench.finish(&mut shard).is_err());
        assert!(shard.is_failed());
        bench.stop(shard);
        let mut shard = bench.mount().unwrap();
        let bytes = bench.read(&mut shard, place).unwrap();
        assert!(bytes.iter().all(|byte| (1..=2).contains(byte)));
    }
}

#[test]
fn one_damaged_superblock_or_checkpoint_is_survived() {
    let mut bench = bench(Mode::Intent);
    let mut shard = bench.mount().unwrap();
    bench.write(&mut shard, extent(1, 0, 0, 4096), 1).unwrap();
    bench.stop(shard);
    bench.data.rot(100, 3);
    let mut shard = bench.mount().unwrap();
    // The mount has mended it.
    bench.data.rot(100, 3);
    bench.write(&mut shard, extent(1, 0, 0, 4096), 2).unwrap();
    drop(shard);
    bench.data.power_cut();
    // Checkpoint 3 is in region 1; 2, of the format, in region 0 reaches back to the first batch.
    bench.data.rot(areas(&bench).checkpoint_offset(1, 0) + 20, 1);
    let mut shard = bench.mount().unwrap();
    assert_eq!(bench.read(&mut shard, extent(1, 0, 0, 4096)).unwrap(), [2; 4096]);
    bench.stop(shard);
    for end in [100, (32 << 20) - 4000] {
        bench.data.rot(end, 3);
    }
    assert!(matches!(bench.mount(), Err(MountError::NotFormatted)));
}

#[test]
fn a_damaged_journal_is_not_taken_for_its_end() {
    let mut bench = bench(Mode::Intent);
    let mut shard = bench.mount().unwrap();
    for block in 0..4 {
        bench.write(&mut shard, extent(1, 0, block * 4096, 4096), 1).unwrap();
    }
    drop(shard);
    bench.data.power_cut();
    // Each write made one batch of one block; the second is damaged.
    bench.data.rot(areas(&bench).journal_offset(1) + 40, 1);
    let refused = bench.mount().err();
    assert_eq!(refused, Some(MountError::JournalDamaged { sequence: 2 }));
    let report = bench.check();
    assert!(report.findings.iter().any(|finding| finding.data_lost), "{report:?}");
}

#[test]
fn foreign_and_truncated_disks_are_refused() {
    let config = SimDiskConfig::new(32 << 20);
    let mut options = format_options(Mode::Intent, 64);
    let bench = Bench::new(&config, &options, true, 1);
    let mount = |data: &SimMedia, journal: Option<&SimMedia>| {
        let journal = journal.map(|media| Box::new(media.open()) as Box<dyn crate::disk::Disk>);
        let data = Box::new(data.open());
        Shard::mount(data, journal, 0, &bench.options, bench.pool.clone()).wait().err()
    };
    let journal_disk = MountError::JournalDisk(options.journal_disk);
    assert_eq!(mount(&bench.data, None), Some(journal_disk.clone()));
    assert_eq!(mount(&bench.data, Some(&bench.data)), Some(journal_disk.clone()));
    options.incarnation += 1;
    let other = Bench::new(&config, &options, true, 2);
    assert_eq!(mount(&bench.data, other.journal.as_ref()), Some(journal_disk));
    assert_eq!(mount(&bench.data, bench.journal.as_ref()), None);
    let empty = SimMedia::new(&config, 3);
    assert_eq!(mount(&empty, None), Some(MountError::NotFormatted));
    let again = format(bench.disk(), None, &options, &bench.pool);
    assert_eq!(again, Err(FormatError::InUse(options.disk)));
    let probe = probe(bench.disk(), &bench.pool).unwrap();
    assert_eq!((probe.disk, probe.shards, probe.intact), (options.disk, 1, [true, true]));
}
