//! Slabs on their way from an owner to nobody.

use super::faults::areas;
use super::media::block_of;
use super::operation::Kind;
use super::*;

const SLAB: u32 = 2 << 20;

/// A crash anywhere between giving a slab back and its zeroes, with checkpoints between that make
/// the journal forget it, and crashes of the mounts that go on with it.
#[test]
fn zeroes_that_were_asked_for_survive_crashes() {
    let mut interrupted = 0;
    for seed in 0..150 {
        let config = SimDiskConfig { fua: seed % 2 == 0, ..SimDiskConfig::new(32 << 20) };
        let mut bench = Bench::new(&config, &format_options(Mode::Intent, 64), false, seed);
        let mut random = Random::new(seed);
        bench.options.zero_on_free = true;
        if random.chance(50) {
            bench.options.checkpoint_interval = Duration::ZERO;
        }
        if random.chance(50) {
            bench.data.fail_frees(Some(crate::disk::Error::Unsupported));
        }
        let mut shard = bench.mount().unwrap();
        bench.write(&mut shard, extent(1, 0, 0, 128 << 10), 7).unwrap();
        bench.stop(shard);
        let areas = areas(&bench);
        let is_zero = |bench: &Bench| {
            let bytes = bench.data.bytes(areas.data_offset(0, 0), 128 << 10);
            bytes.iter().all(|&byte| byte == 0)
        };
        let mut shard = bench.mount().unwrap();
        if random.chance(50) {
            shard.drop_volume(1, VolumeId(1));
        } else {
            shard.submit(1, Request::Zero { extent: extent(1, 0, 0, SLAB) });
        }
        for _ in 0..4 {
            for _ in 0..random.below(30) {
                bench.now += Duration::from_micros(10);
                shard.poll(bench.now, &mut Vec::new());
            }
            let is_given_back = shard.volume_usage(VolumeId(1)) == 0;
            interrupted += u32::from(is_given_back && !is_zero(&bench));
            drop(shard);
            bench.data.power_cut();
            shard = bench.mount().unwrap();
        }
        if shard.volume_usage(VolumeId(1)) > 0 {
            assert!(bench.read(&mut shard, extent(1, 0, 0, 4096)).unwrap() == [7; 4096]);
            continue;
        }
        bench.wait_until_free(&mut shard);
        // Durable before the slab can have another owner.
        drop(shard);
        bench.data.power_cut();
        assert!(is_zero(&bench), "seed {seed}");
    }
    assert!(interrupted > 10, "{interrupted}");
}

#[test]
fn a_first_write_waits_for_slabs_that_are_being_freed() {
    let mut bench = bench(Mode::Intent);
    bench.options.zero_on_free = true;
    let mut shard = bench.mount().unwrap();
    let slabs = (shard.space().free / u64::from(SLAB)) as u32;
    for slab in 0..slabs {
        bench.write(&mut shard, extent(1, 0, slab * SLAB, 4096), 1).unwrap();
    }
    for round in 0..slabs {
        bench.run(&mut shard, Request::Zero { extent: extent(1, 0, round * SLAB, SLAB) }).unwrap();
        bench.write(&mut shard, extent(2, 0, round * SLAB, 4096), 2).unwrap();
    }
    let beyond = extent(2, 0, slabs * SLAB, 4096);
    assert_eq!(bench.write(&mut shard, beyond, 2), Err(Error::Full));
}

/// Neither its work nor its memory grows with the volume, and others are served meanwhile.
#[test]
fn a_deletion_is_done_in_small_steps_and_reads_no_pages() {
    for cache_bytes in [0, 256 << 10] {
        let config = SimDiskConfig::new(1 << 30);
        let mut bench = Bench::new(&config, &format_options(Mode::Intent, 1024), false, 3);
        bench.options.cache_bytes = cache_bytes;
        let mut shard = bench.mount().unwrap();
        let slabs = (shard.space().free / u64::from(SLAB)) as u32 - 1;
        let other = extent(2, 0, 0, 4096);
        bench.write(&mut shard, other, 9).unwrap();
        for slab in 0..slabs {
            let place = extent(1, slab / 5 * 7, slab % 5 * 3 * SLAB, 4096);
            bench.write(&mut shard, place, 1).unwrap();
        }
        bench.stop(shard);
        let mut shard = bench.mount().unwrap();
        bench.read(&mut shard, other).unwrap();
        let misses = shard.counters().cache_misses;
        shard.drop_volume(1, VolumeId(1));
        let (mut done, mut reads, mut is_reading, mut is_dropped) = (Vec::new(), 0, false, false);
        while !is_dropped {
            if !is_reading {
                let buf = bench.pool.alloc(4096).unwrap();
                shard.submit(2, Request::Read { extent: other, buf });
                is_reading = true;
            }
            bench.now += Duration::from_micros(10);
            shard.poll(bench.now, &mut done);
            let kinds = |wanted: Kind| shard.operations.iter().filter(|o| o.kind == wanted).count();
            let live = kinds(Kind::Trim) + kinds(Kind::Unmap);
            assert!(live <= 32 && shard.freeing <= trim::FREES_MAX, "{live} {}", shard.freeing);
            for completion in done.drain(..) {
                completion.result.unwrap();
                is_dropped |= completion.tag == 1;
                if completion.tag == 2 {
                    (reads, is_reading) = (reads + 1, false);
                }
            }
        }
        assert!(reads > slabs / 64, "{reads}");
        // Only the other volume's page, which a cache of four slots may have to give away.
        let most = if cache_bytes > 0 { 0 } else { u64::from(reads) + 1 };
        let misses = shard.counters().cache_misses - misses;
        assert!(misses <= most, "{misses} of {most}, {cache_bytes}");
        assert_eq!(shard.volume_usage(VolumeId(1)), 0);
        let all = shard.space().capacity - u64::from(SLAB);
        for _ in 0..100_000 {
            shard.poll(bench.now, &mut done);
            if shard.space().free == all {
                break;
            }
        }
        assert_eq!(shard.space().free, all);
    }
}

/// What was skipped because it seemed not to be needed is read after all.
#[test]
fn a_slab_that_could_not_be_given_back_is_still_known() {
    let mut bench = bench(Mode::Intent);
    let mut shard = bench.mount().unwrap();
    bench.write(&mut shard, extent(1, 0, 0, 4096), 5).unwrap();
    bench.stop(shard);
    let mut shard = bench.mount().unwrap();
    bench.data.fail_writes(true);
    let zero = Request::Zero { extent: extent(1, 0, 0, SLAB) };
    assert_eq!(bench.run(&mut shard, zero).err(), Some(Error::Failed));
    assert_eq!(block_of(&mut bench, &mut shard, 0), Some(5));
    assert_eq!(shard.counters().page_errors, 0);
    bench.stop(shard);
}
