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
    assert_eq!((counters.path_payload, counters.path_ordered), (1, 2));
    let shard = cut_with_first_block_unreadable(&mut bench, shard);
    is_lost(&mut bench, shard);
}

fn set_page_unreadable(bench: &Bench, slab: u32) {
    for copy in [0, 1] {
        bench.data.make_unreadable(areas(bench).page_offset(slab, copy));
    }
}

#[test]
fn a_page_that_can_be_read_again_has_lost_nothing() {
    let mut bench = bench(Mode::Intent);
    let mut shard = bench.mount().unwrap();
    let place = extent(1, 0, 0, 64 << 10);
    bench.write(&mut shard, place, 1).unwrap();
    bench.stop(shard);
    let mut shard = bench.mount().unwrap();
    set_page_unreadable(&bench, 0);
    assert_eq!(bench.read(&mut shard, place), Err(Error::Media { block: 0 }));
    assert_eq!(bench.write(&mut shard, place, 2), Err(Error::Media { block: 0 }));
    assert!(matches!(shard.next_event(), Some(Event::PageError { .. })));
    bench.data.make_readable();
    assert!(bench.read(&mut shard, place).unwrap().iter().all(|&byte| byte == 1));
    bench.write(&mut shard, place, 3).unwrap();
    bench.stop(shard);
    assert_eq!(bench.check().findings, []);
    set_page_unreadable(&bench, 0);
    assert_eq!(bench.check().findings_total, 1);
    let mut shard = bench.mount().unwrap();
    // The read is in front of the volume's end, the write behind it.
    let buf = bench.pool.alloc(4096).unwrap();
    let data = bench.filled(extent(1, 0, 0, 4096), 5);
    shard.submit(1, Request::Read { extent: extent(1, 0, 0, 4096), buf });
    shard.drop_volume(2, VolumeId(1));
    shard.submit(3, Request::Write { extent: extent(1, 0, 0, 4096), data });
    let mut done = bench.finish_all(&mut shard, 3);
    done.sort_by_key(|completion| completion.tag);
    let results: Vec<_> = done.into_iter().map(|done| done.result.map(|_| ())).collect();
    assert_eq!(results, [Err(Error::Media { block: 0 }), Ok(()), Ok(())]);
    assert_eq!(bench.read(&mut shard, extent(1, 0, 0, 8192)).unwrap()[4096..], [0; 4096]);
}

#[test]
fn recovery_writes_no_page_that_it_could_not_read() {
    let mut bench = bench(Mode::Intent);
    let mut shard = bench.mount().unwrap();
    let place = extent(1, 0, 0, 64 << 10);
    bench.write(&mut shard, place, 1).unwrap();
    bench.stop(shard);
    let mut shard = bench.mount().unwrap();
    bench.write(&mut shard, extent(1, 0, 0, 4096), 2).unwrap();
    drop(shard);
    bench.data.power_cut();
    set_page_unreadable(&bench, 0);
    assert_eq!(bench.mount().err(), Some(MountError::PageUnreadable { slab: 0 }));
    assert!(bench.check().findings_total > 0);
    bench.data.make_readable();
    let mut shard = bench.mount().unwrap();
    let bytes = bench.read(&mut shard, place).unwrap();
    assert!(bytes[..4096].iter().all(|&byte| byte == 2));
    assert!(bytes[4096..].iter().all(|&byte| byte == 1));
}
