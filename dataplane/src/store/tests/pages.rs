//! Metadata pages over crashes: which copy counts, and which must not come back.

use super::faults::areas;
use super::media::block_of;
use super::*;
use crate::sim::Faults;

/// Writes one byte to block 0 of each of the first slabs, more of them than the cache has slots, so
/// that pages go to the disk without a checkpoint.
fn touch_slabs(bench: &mut Bench, shard: &mut Shard, byte: u8) {
    for slab in 0..6 {
        bench.write(shard, extent(1, 0, slab << 21, 4096), byte).unwrap();
    }
}

/// The copies of a page hold higher generations than the checkpoint knows; where none of them can
/// be read, recovery counts on from above them. In the end only what it wrote counts.
#[test]
fn pages_of_before_a_recovery_do_not_come_back() {
    for case in 0..24 {
        let (is_readable, is_mapped_before, rounds) = (case % 2 == 0, case % 4 < 2, case / 4 + 1);
        let config = SimDiskConfig::new(32 << 20);
        let mut bench = Bench::new(&config, &format_options(Mode::Intent, 512), false, 1);
        let mut shard = bench.mount().unwrap();
        let areas = shard.areas;
        if is_mapped_before {
            bench.write(&mut shard, extent(1, 0, 4096, 4096), 9).unwrap();
            touch_slabs(&mut bench, &mut shard, 8);
            bench.stop(shard);
            shard = bench.mount().unwrap();
        }
        for byte in 1..=rounds {
            touch_slabs(&mut bench, &mut shard, byte);
        }
        assert_eq!(shard.counters().checkpoints, 0);
        drop(shard);
        bench.data.power_cut();
        if !is_readable {
            for copy in [0, 1] {
                bench.data.make_unreadable(areas.page_offset(0, copy));
            }
        }
        let mut shard = bench.mount().unwrap();
        // A page of a slab that the journal maps says nothing that the journal does not.
        let is_lost = is_mapped_before && !is_readable;
        assert_eq!(shard.counters().page_errors, u64::from(is_lost));
        let other = match (is_lost, is_mapped_before) {
            (true, _) => None,
            (false, true) => Some(9),
            (false, false) => Some(0),
        };
        bench.write(&mut shard, extent(1, 0, 2 * 4096, 4096), 7).unwrap();
        drop(shard);
        bench.data.power_cut();
        bench.data.make_readable();
        // The journal names the slab, but not its blocks 0 and 2 any more.
        let mut shard = bench.mount().unwrap();
        bench.write(&mut shard, extent(1, 0, 3 * 4096, 4096), 6).unwrap();
        drop(shard);
        bench.data.power_cut();
        let mut shard = bench.mount().unwrap();
        for (block, byte) in [(0, Some(rounds)), (1, other), (2, Some(7)), (3, Some(6))] {
            assert_eq!(block_of(&mut bench, &mut shard, block), byte, "case {case} block {block}");
        }
    }
}

/// The device loses the newest write of a page, of which the checkpoint knows: the older copy says
/// of a block that it holds nothing.
#[test]
fn recovery_does_not_go_on_from_a_page_that_is_out_of_date() {
    let mut bench = bench(Mode::Intent);
    let mut shard = bench.mount().unwrap();
    bench.write(&mut shard, extent(1, 0, 0, 4096), 1).unwrap();
    bench.stop(shard);
    let mut shard = bench.mount().unwrap();
    let first = areas(&bench).page_offset(0, 0);
    bench.data.set_faults(Faults { range: first..first + 8192, lost: 100, misdirected: 0 });
    bench.write(&mut shard, extent(1, 0, 4096, 4096), 2).unwrap();
    bench.stop(shard);
    bench.data.set_faults(Faults::default());
    let mut shard = bench.mount().unwrap();
    bench.write(&mut shard, extent(1, 0, 2 * 4096, 4096), 3).unwrap();
    drop(shard);
    bench.data.power_cut();
    let findings: Vec<String> = bench.check().findings.into_iter().map(|f| f.what).collect();
    assert_eq!(findings, ["volume 1, chunk 0, slab 0: the metadata page is damaged or lost"]);
    let mut shard = bench.mount().unwrap();
    assert_eq!(shard.counters().page_errors, 1);
    for (block, byte) in [(0, None), (1, None), (2, Some(3)), (3, None)] {
        assert_eq!(block_of(&mut bench, &mut shard, block), byte, "block {block}");
    }
}

/// On a medium that tears blocks, with a journal whose flushes do not reach it, a page that is
/// written over its newest durable copy would be lost.
#[test]
fn one_copy_of_a_page_is_always_durable() {
    for seed in 0..30 {
        let config = SimDiskConfig { atomic_write: 512, ..SimDiskConfig::new(32 << 20) };
        let mut bench = Bench::new(&config, &format_options(Mode::Data, 512), true, seed);
        let mut shard = bench.mount().unwrap();
        for byte in 1..6 {
            // Checksums in two sectors of the page, so that it can be torn.
            for slab in 0..6 {
                for block in [0, 400] {
                    let place = extent(1, 0, (slab << 21) + block * 4096, 4096);
                    bench.write(&mut shard, place, byte).unwrap();
                }
            }
            if byte == 1 {
                bench.stop(shard);
                shard = bench.mount().unwrap();
            }
        }
        drop(shard);
        bench.data.power_cut();
        bench.journal.as_ref().unwrap().power_cut();
        let mut shard = bench.mount().unwrap();
        assert_eq!(shard.counters().page_errors, 0, "seed {seed}");
        for slab in 0..6 {
            for block in [0, 400] {
                let found = block_of(&mut bench, &mut shard, slab * 512 + block);
                assert_eq!(found, Some(5), "seed {seed}");
            }
        }
    }
}
