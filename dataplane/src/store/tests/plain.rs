//! What each request does, without crashes.

use super::*;

const KIB: u32 = 1024;

#[test]
fn written_bytes_come_back_and_others_are_zero() {
    for mode in [Mode::Intent, Mode::Data] {
        let mut bench = bench(mode);
        let mut shard = bench.mount().unwrap();
        let place = extent(1, 0, 8 * KIB, 64 * KIB);
        bench.write(&mut shard, place, 5).unwrap();
        bench.write(&mut shard, extent(1, 0, 12 * KIB, 4 * KIB), 6).unwrap();
        let bytes = bench.read(&mut shard, extent(1, 0, 0, 128 * KIB)).unwrap();
        for (at, &byte) in (0u32..).zip(&bytes) {
            let expected = match at / KIB {
                12..16 => 6,
                8..72 => 5,
                _ => 0,
            };
            assert_eq!(byte, expected, "byte {at}");
        }
        assert_eq!(bench.read(&mut shard, extent(2, 9, 0, 4 * KIB)).unwrap(), [0; 4096]);
        bench.stop(shard);
        let mut shard = bench.mount().unwrap();
        assert_eq!(bench.read(&mut shard, extent(1, 0, 0, 128 * KIB)).unwrap(), bytes);
        assert_eq!(bench.check().findings, []);
    }
}

#[test]
fn parts_of_blocks_are_merged() {
    for mode in [Mode::Intent, Mode::Data] {
        let mut bench = bench(mode);
        let mut shard = bench.mount().unwrap();
        bench.write(&mut shard, extent(1, 0, 512, 1024), 1).unwrap();
        bench.write(&mut shard, extent(1, 0, 3584, 6 * KIB), 2).unwrap();
        let bytes = bench.read(&mut shard, extent(1, 0, 0, 12 * KIB)).unwrap();
        for (at, &byte) in bytes.iter().enumerate() {
            let expected = match at {
                512..1536 => 1,
                3584..9728 => 2,
                _ => 0,
            };
            assert_eq!(byte, expected, "byte {at}");
        }
    }
}

#[test]
fn large_writes_cross_slabs() {
    let mut bench = bench(Mode::Intent);
    let mut shard = bench.mount().unwrap();
    for byte in 1..4 {
        let place = extent(1, 0, (2 << 20) - 512 * KIB, 1 << 20);
        bench.write(&mut shard, place, byte).unwrap();
        assert!(bench.read(&mut shard, place).unwrap().iter().all(|&b| b == byte));
    }
    assert_eq!(shard.volume_usage(VolumeId(1)), 4 << 20);
}

#[test]
fn zeroing_frees_slabs() {
    let mut bench = bench(Mode::Intent);
    let mut shard = bench.mount().unwrap();
    let before = shard.space();
    let place = extent(1, 0, 0, 1 << 20);
    bench.write(&mut shard, place, 9).unwrap();
    assert_eq!(shard.space().free, before.free - (2 << 20));
    bench.run(&mut shard, Request::Zero { extent: extent(1, 0, 512, 8 * KIB) }).unwrap();
    let bytes = bench.read(&mut shard, extent(1, 0, 0, 16 * KIB)).unwrap();
    assert!(bytes[512..512 + 8192].iter().all(|&byte| byte == 0));
    assert!(bytes[..512].iter().chain(&bytes[512 + 8192..]).all(|&byte| byte == 9));
    bench.run(&mut shard, Request::Zero { extent: extent(1, 0, 0, CHUNK as u32) }).unwrap();
    assert_eq!(bench.read(&mut shard, place).unwrap(), vec![0; 1 << 20]);
    bench.stop(shard);
    let mut shard = bench.mount().unwrap();
    bench.wait_until_free(&mut shard);
    assert_eq!(shard.space(), before);
}

#[test]
fn a_full_disk_can_be_overwritten_trimmed_and_filled_again() {
    let mut bench = bench(Mode::Intent);
    let mut shard = bench.mount().unwrap();
    let slabs = (shard.space().free >> 21) as u32;
    for slab in 0..slabs {
        bench.write(&mut shard, extent(1, 0, slab << 21, 4 * KIB), 1).unwrap();
    }
    let beyond = extent(1, 0, slabs << 21, 4 * KIB);
    assert_eq!(bench.write(&mut shard, beyond, 1), Err(Error::Full));
    for round in 0..20 {
        for slab in 0..slabs {
            bench.write(&mut shard, extent(1, 0, slab << 21, 8 * KIB), round).unwrap();
        }
    }
    assert!(shard.counters().checkpoints > 0);
    bench.run(&mut shard, Request::Zero { extent: extent(1, 0, 2 << 20, 2 << 20) }).unwrap();
    // The slab is deallocated on the device before it is free; who needs it waits for that.
    bench.write(&mut shard, beyond, 3).unwrap();
    shard.drop_volume(1, VolumeId(1));
    bench.finish(&mut shard).unwrap();
    bench.stop(shard);
    let mut shard = bench.mount().unwrap();
    bench.wait_until_free(&mut shard);
}

#[test]
fn comparisons_write_only_what_is_equal() {
    for mode in [Mode::Intent, Mode::Data] {
        let mut bench = bench(mode);
        let mut shard = bench.mount().unwrap();
        let place = extent(1, 0, 1024, 512);
        let compare = |bench: &Bench, expected, new| Request::CompareAndWrite {
            extent: place,
            expected: bench.filled(place, expected),
            data: bench.filled(place, new),
        };
        let request = compare(&bench, 0, 1);
        bench.run(&mut shard, request).unwrap();
        let request = compare(&bench, 0, 2);
        let refused = bench.run(&mut shard, request).map(|_| ());
        assert_eq!(refused, Err(Error::Miscompare { offset: 0 }));
        assert_eq!(bench.read(&mut shard, place).unwrap(), [1; 512]);
        let request = compare(&bench, 1, 2);
        bench.run(&mut shard, request).unwrap();
        assert_eq!(bench.read(&mut shard, place).unwrap(), [2; 512]);
    }
}

#[test]
fn poisoned_blocks_answer_with_errors_until_written() {
    let mut bench = bench(Mode::Intent);
    let mut shard = bench.mount().unwrap();
    let place = extent(1, 0, 8 * KIB, 8 * KIB);
    bench.run(&mut shard, Request::Poison { extent: place }).unwrap();
    let all = extent(1, 0, 0, 32 * KIB);
    assert_eq!(bench.read(&mut shard, all), Err(Error::Media { block: 2 }));
    bench.stop(shard);
    let mut shard = bench.mount().unwrap();
    assert_eq!(bench.read(&mut shard, all), Err(Error::Media { block: 2 }));
    let part = extent(1, 0, 8 * KIB, 512);
    assert_eq!(bench.write(&mut shard, part, 1), Err(Error::Media { block: 2 }));
    bench.write(&mut shard, place, 1).unwrap();
    bench.read(&mut shard, all).unwrap();
}

#[test]
fn the_catalogue_is_durable_and_bounded() {
    let mut bench = bench(Mode::Intent);
    let mut shard = bench.mount().unwrap();
    shard.catalogue_put(1, b"one", b"first");
    bench.finish(&mut shard).unwrap();
    shard.catalogue_put(2, b"two", b"second");
    bench.finish(&mut shard).unwrap();
    shard.catalogue_delete(3, b"one");
    bench.finish(&mut shard).unwrap();
    drop(shard);
    bench.data.power_cut();
    let mut shard = bench.mount().unwrap();
    assert_eq!(shard.catalogue_get(b"one"), None);
    assert_eq!(shard.catalogue().collect::<Vec<_>>(), [(&b"two"[..], &b"second"[..])]);
    let mut kept = 0;
    let refused = loop {
        shard.catalogue_put(4, format!("key {kept}").as_bytes(), &[1; VALUE_MAX]);
        match bench.finish(&mut shard) {
            Ok(_) => kept += 1,
            Err(error) => break error,
        }
    };
    assert_eq!((refused, kept), (Error::Full, 15));
}

#[test]
fn entries_of_a_full_catalogue_can_be_replaced() {
    let mut bench = bench(Mode::Intent);
    let mut shard = bench.mount().unwrap();
    let fill = |bench: &mut Bench, shard: &mut Shard, len: usize| {
        for number in 0_u64.. {
            shard.catalogue_put(1, format!("{len} {number}").as_bytes(), &vec![1; len]);
            if bench.finish(shard).is_err() {
                return;
            }
        }
    };
    fill(&mut bench, &mut shard, VALUE_MAX);
    fill(&mut bench, &mut shard, 8);
    for key in [b"1024 0", b"1024 1"] {
        shard.catalogue_put(2, key, &[2; VALUE_MAX]);
    }
    // Each of two at once; and not the same one twice, whose room might be taken meanwhile.
    shard.catalogue_put(3, b"1024 1", &[3; VALUE_MAX]);
    let mut done = Vec::new();
    while done.len() < 3 {
        bench.now += Duration::from_micros(10);
        shard.poll(bench.now, &mut done);
    }
    done.sort_by_key(|completion| completion.tag);
    let results: Vec<_> = done.iter().map(|done| done.result.as_ref().err().copied()).collect();
    assert_eq!(results, [None, None, Some(Error::Full)]);
    assert_eq!(shard.catalogue_get(b"1024 1"), Some(&[2; VALUE_MAX][..]));
    // A deletion under way gives no room before it is done.
    shard.catalogue_delete(4, b"1024 0");
    shard.catalogue_put(5, b"1024 0", &[5; VALUE_MAX]);
    let mut done = Vec::new();
    while done.len() < 2 {
        bench.now += Duration::from_micros(10);
        shard.poll(bench.now, &mut done);
    }
    shard.catalogue_put(6, b"other", &[6; 900]);
    bench.finish(&mut shard).unwrap();
    assert_eq!(shard.catalogue_pending, 0);
    assert!(shard.tables.catalogue.bytes() <= shard.areas.catalogue_bytes);
}

#[test]
fn overlapping_requests_keep_their_order() {
    let bench = bench(Mode::Intent);
    let mut shard = bench.mount().unwrap();
    let place = extent(1, 0, 0, 32 * KIB);
    for round in 0..20u8 {
        for tag in 0..8 {
            let data = bench.filled(place, round * 8 + tag);
            shard.submit(u64::from(tag), Request::Write { extent: place, data });
        }
        let buf = bench.pool.alloc(32 << 10).unwrap();
        shard.submit(99, Request::Read { extent: place, buf });
        let mut done = Vec::new();
        while shard.in_flight() > 0 {
            shard.poll(bench.now, &mut done);
        }
        let read = done.into_iter().find(|completion| completion.tag == 99).unwrap();
        let bytes = read.result.unwrap().unwrap();
        assert!(bytes.iter().all(|&byte| byte == round * 8 + 7));
    }
}

#[test]
fn records_that_name_many_blocks_make_a_checkpoint_due() {
    const NAMED: u64 = 64;
    let mut bench = bench(Mode::Intent);
    let mut shard = bench.mount().unwrap();
    shard.journal.limits.named_blocks = NAMED;
    let blocks = 2 * NAMED as u32 + 8;
    bench.write(&mut shard, extent(1, 0, 0, 4096), 1).unwrap();
    let before = shard.counters().checkpoints;
    // Small records of many blocks: the journal stays nearly empty.
    for tag in 0..40u64 {
        let place = extent(1, 0, 4096, blocks * 4096);
        let request = if tag % 2 == 0 {
            Request::Poison { extent: place }
        } else {
            Request::Zero { extent: place }
        };
        shard.submit(tag, request);
        bench.finish(&mut shard).unwrap();
    }
    assert!(shard.counters().checkpoints - before > 10, "{:?}", shard.counters());
    assert_eq!(bench.read(&mut shard, extent(1, 0, 4096, 4096)).unwrap(), [0; 4096]);
}
