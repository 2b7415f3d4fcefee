//! Devices that refuse something, and what the store makes of it.

use super::faults::{areas, data_area};
use super::*;

const SLAB: u32 = 2 << 20;

#[test]
fn a_slab_is_free_without_the_advice() {
    for error in [crate::disk::Error::Failed, crate::disk::Error::Unsupported] {
        let mut bench = bench(Mode::Intent);
        bench.data.fail_frees(Some(error));
        let mut shard = bench.mount().unwrap();
        bench.write(&mut shard, extent(1, 0, 0, 4096), 1).unwrap();
        bench.run(&mut shard, Request::Zero { extent: extent(1, 0, 0, SLAB) }).unwrap();
        bench.wait_until_free(&mut shard);
        assert!(!shard.is_failed());
        bench.write(&mut shard, extent(1, 0, 0, 4096), 2).unwrap();
        bench.stop(shard);
    }
}

#[test]
fn a_device_that_cannot_zero_is_overwritten() {
    let mut bench = bench(Mode::Intent);
    bench.options.zero_on_free = true;
    bench.data.fail_frees(Some(crate::disk::Error::Unsupported));
    let mut shard = bench.mount().unwrap();
    for part in 0..16 {
        bench.write(&mut shard, extent(1, 0, part * (SLAB / 16), SLAB / 16), 7).unwrap();
    }
    let (start, len) = (areas(&bench).data_offset(0, 0), SLAB as usize);
    assert!(bench.data.bytes(start, len).iter().all(|&byte| byte == 7));
    bench.run(&mut shard, Request::Zero { extent: extent(1, 0, 0, SLAB) }).unwrap();
    bench.wait_until_free(&mut shard);
    assert!(bench.data.bytes(start, len).iter().all(|&byte| byte == 0));
    assert!(!shard.is_failed());
    bench.stop(shard);
    let mut shard = bench.mount().unwrap();
    bench.data.fail_frees(Some(crate::disk::Error::Failed));
    bench.write(&mut shard, extent(1, 0, 0, 4096), 1).unwrap();
    bench.run(&mut shard, Request::Zero { extent: extent(1, 0, 0, SLAB) }).unwrap();
    bench.wait_until_free(&mut shard);
    assert!(shard.is_failed(), "zeroes that were asked for are no advice");
}

#[test]
fn acknowledged_data_that_never_came_in_place_are_no_media_error() {
    let mut met = 0;
    for seed in 0..20 {
        let config = SimDiskConfig::new(32 << 20);
        let mut bench = Bench::new(&config, &format_options(Mode::Intent, 64), false, seed);
        let mut shard = bench.mount().unwrap();
        let place = extent(1, 0, 0, 4096);
        bench.write(&mut shard, place, 1).unwrap();
        bench.write(&mut shard, place, 2).unwrap();
        bench.data.fail_writes(true);
        let other = bench.write(&mut shard, extent(1, 0, SLAB, 4096), 3);
        assert_eq!(other, Err(Error::Failed));
        match bench.read(&mut shard, place) {
            Ok(bytes) => assert_eq!(bytes, [2; 4096]),
            Err(error) => {
                assert_eq!(error, Error::Failed);
                met += 1;
            }
        }
        assert_eq!(shard.counters().block_errors, 0);
        let events: Vec<_> = std::iter::from_fn(|| shard.next_event()).collect();
        assert!(events.iter().all(|event| !matches!(event, Event::BlockError { .. })));
        bench.stop(shard);
        bench.data.fail_writes(false);
        let mut shard = bench.mount().unwrap();
        assert_eq!(bench.read(&mut shard, place).unwrap(), [2; 4096]);
    }
    assert!(met > 3, "{met}");
}

#[test]
fn second_tries_keep_no_memory() {
    let mut bench = bench(Mode::Intent);
    let mut shard = bench.mount().unwrap();
    bench.write(&mut shard, extent(1, 0, 0, 256 << 10), 1).unwrap();
    for block in 0..48 {
        bench.data.make_unreadable(areas(&bench).data_offset(0, block));
    }
    for block in 0..48 {
        let buf = bench.pool.alloc(4096).unwrap();
        shard.submit(1, Request::Read { extent: extent(1, 0, block * 4096, 4096), buf });
    }
    let done = bench.finish_all(&mut shard, 48);
    assert!(done.iter().all(|completion| completion.result.is_err()));
    assert!(shard.page_bufs.len() <= shard::PAGE_BUFS, "{}", shard.page_bufs.len());
}

#[test]
fn a_slab_that_was_freed_counts_every_page_that_may_have_been_written() {
    let mut bench = bench(Mode::Intent);
    let mut shard = bench.mount().unwrap();
    bench.write(&mut shard, extent(1, 0, 0, 4096), 1).unwrap();
    bench.stop(shard);
    let mut shard = bench.mount().unwrap();
    let before = shard.tables.map.generations[0];
    bench.run(&mut shard, Request::Zero { extent: extent(1, 0, 0, SLAB) }).unwrap();
    drop(shard);
    bench.data.power_cut();
    // One write in flight when the record was made, one that began while it waited.
    assert_eq!(bench.mount().unwrap().tables.map.generations[0], before + 2);
}

/// A sparse file on a full file system refuses first writes; they have then never been.
#[test]
fn a_first_write_without_space_is_as_if_it_had_not_been() {
    for seed in 0..20 {
        let config = SimDiskConfig::new(32 << 20);
        let mut bench = Bench::new(&config, &format_options(Mode::Intent, 64), false, seed);
        let mut shard = bench.mount().unwrap();
        bench.write(&mut shard, extent(1, 0, 0, 4096), 1).unwrap();
        bench.data.set_full(data_area(&bench));
        let refused = extent(1, 0, 4096, 64 << 10);
        assert_eq!(bench.write(&mut shard, refused, 2), Err(Error::Full));
        assert!(!shard.is_failed());
        for byte in 3..5 {
            bench.write(&mut shard, extent(1, 0, 0, 4096), byte).unwrap();
        }
        let is_zero = |bench: &mut Bench, shard: &mut Shard| {
            assert!(bench.read(shard, refused).unwrap().iter().all(|&byte| byte == 0));
            assert_eq!(bench.read(shard, extent(1, 0, 0, 4096)).unwrap(), [4; 4096]);
        };
        is_zero(&mut bench, &mut shard);
        drop(shard);
        bench.data.power_cut();
        let mut shard = bench.mount().unwrap();
        is_zero(&mut bench, &mut shard);
        assert_eq!(bench.write(&mut shard, refused, 5), Err(Error::Full));
        bench.data.set_full(0..0);
        bench.write(&mut shard, refused, 6).unwrap();
        bench.stop(shard);
        assert_eq!(bench.check().findings, []);
    }
}
