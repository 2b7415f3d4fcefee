//! Blocks and pages that the device cannot read, for a while or for ever.

use super::faults::areas;
use super::*;

/// A shard after a power cut, with the first data block unreadable.
fn cut_with_first_block_unreadable(bench: &mut Bench, shard: Shard) -> Shard {
    drop(shard);
    bench.data.power_cut();
    bench.data.make_unreadable(areas(bench).data_offset(0, 0));
    bench.mount().unwrap()
}

/// The block is an error, also for a later mount that could read it.
fn is_lost(bench: &mut Bench, mut shard: Shard) {
    let first = extent(1, 0, 0, 4096);
    assert_eq!(bench.read(&mut shard, first), Err(Error::Media { block: 0 }));
    bench.data.make_readable();
    assert_eq!(bench.read(&mut shard, first), Err(Error::Media { block: 0 }));
    drop(shard);
    bench.data.power_cut();
    let mut shard = bench.mount().unwrap();
    assert_eq!(bench.read(&mut shard, first), Err(Error::Media { block: 0 }));
    let rest = bench.read(&mut shard, extent(1, 0, 4096, 60 << 10)).unwrap();
    assert!(rest.iter().all(|&byte| byte == rest[0] && byte > 0));
    bench.write(&mut shard, first, 9).unwrap();
    assert_eq!(bench.read(&mut shard, first).unwrap(), [9; 4096]);
}

#[test]
fn an_unreadable_first_write_is_no_zeroes_after_a_crash() {
    let mut bench = bench(Mode::Intent);
    let mut shard = bench.mount().unwrap();
    bench.write(&mut shard, extent(1, 0, 0, 64 << 10), 1).unwrap();
    let shard = cut_with_first_block_unreadable(&mut bench, shard);
    is_lost(&mut bench, shard);
}

#[test]
fn an_unreadable_overwrite_is_no_older_data_after_a_crash() {
    let mut bench = bench(Mode::Intent);
    let mut shard = bench.mount().unwrap();
    bench.write(&mut shard, extent(1, 0, 0, 64 << 10), 1).unwrap();
    bench.write(&mut shard, extent(1, 0, 0, 4096), 2).unwrap();
    bench.write(&mut shard, extent(1, 0, 0, 64 << 10), 3).unwrap();
    let counters = shard.counters();
    assert_eq!((counters.path_payload, counters.path_ordered), (1, 1));
    let shard = cut_with_first_block_unreadable(&mut bench, shard);
    is_lost(&mut bench, shard);
}
