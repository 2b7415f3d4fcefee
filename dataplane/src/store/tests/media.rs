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

/// What a block holds: its byte, or that it is an error.
pub(super) fn block_of(bench: &mut Bench, shard: &mut Shard, block: u32) -> Option<u8> {
    match bench.read(shard, extent(1, 0, block * 4096, 4096)) {
        Ok(bytes) => {
            assert!(bytes.iter().all(|&byte| byte == bytes[0]));
            Some(bytes[0])
        }
        Err(error) => {
            assert_eq!(error, Error::Media { block });
            None
        }
    }
}

#[test]
fn an_unreadable_page_that_the_journal_names_costs_what_it_described() {
    let mut bench = bench(Mode::Intent);
    let mut shard = bench.mount().unwrap();
    bench.write(&mut shard, extent(1, 0, 0, 64 << 10), 1).unwrap();
    bench.write(&mut shard, extent(1, 0, 2 << 20, 4096), 7).unwrap();
    bench.stop(shard);
    let mut shard = bench.mount().unwrap();
    bench.write(&mut shard, extent(1, 0, 0, 4096), 2).unwrap();
    bench.write(&mut shard, extent(1, 0, 20 * 4096, 4096), 3).unwrap();
    bench.run(&mut shard, Request::Zero { extent: extent(1, 0, 4096, 4096) }).unwrap();
    drop(shard);
    bench.data.power_cut();
    set_page_unreadable(&bench, 0);
    let findings: Vec<String> = bench.check().findings.into_iter().map(|f| f.what).collect();
    assert_eq!(findings, ["volume 1, chunk 0, slab 0: the metadata page cannot be read"]);
    let mut shard = bench.mount().unwrap();
    assert_eq!(shard.counters().page_errors, 1);
    assert!(matches!(shard.next_event(), Some(Event::PageError { index: 0, .. })));
    // What the journal says is known; 2 to 15 were there, 30 was not: nobody knows.
    let expected = [(0, Some(2)), (1, Some(0)), (2, None), (15, None), (20, Some(3)), (30, None)];
    for (block, byte) in expected {
        assert_eq!(block_of(&mut bench, &mut shard, block), byte, "block {block}");
    }
    assert_eq!(block_of(&mut bench, &mut shard, 512), Some(7));
    // Part of a block does not heal it, the whole of it does.
    let part = bench.write(&mut shard, extent(1, 0, 2 * 4096, 512), 4);
    assert_eq!(part, Err(Error::Media { block: 2 }));
    bench.write(&mut shard, extent(1, 0, 2 * 4096, 4096), 4).unwrap();
    bench.run(&mut shard, Request::Zero { extent: extent(1, 0, 3 * 4096, 4096) }).unwrap();
    bench.data.make_readable();
    drop(shard);
    bench.data.power_cut();
    let mut shard = bench.mount().unwrap();
    let healed = [(2, Some(4)), (3, Some(0)), (4, None), (20, Some(3))];
    for (block, byte) in healed {
        assert_eq!(block_of(&mut bench, &mut shard, block), byte, "block {block}");
    }
    assert_eq!(shard.counters().page_errors, 0);
    bench.run(&mut shard, Request::Zero { extent: extent(1, 0, 0, 2 << 20) }).unwrap();
    assert_eq!(block_of(&mut bench, &mut shard, 4), Some(0));
    bench.stop(shard);
    assert_eq!(bench.check().findings, []);
}
