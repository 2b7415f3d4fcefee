//! Drivers that come and go: orderly, killed, torn out; and cores that are threads.

use super::{EmulatedDisk, Rig, arena, read_op, write_op};
use crate::disk::nvme::{NvmeController, NvmeEvent, NvmeOptions, NvmeSeat, Trouble};
use crate::disk::{Completion, Disk, Error, Op};
use crate::dma::{Arena, Pool};
use crate::hardware::CoreTime;
use crate::sim::Random;
use crate::sim::nvme::{EmulatedDevice, EmulatedNvme, NvmeConfig, NvmeFault, NvmeFaults};
use crate::uring::Waker;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

/// A driver's life, ended at a random moment in a random way.
fn live_and_die(nvme: &EmulatedNvme, arena: &Arena, pool: &Pool, random: &mut Random) -> bool {
    let options = NvmeOptions { queues: 2, ..NvmeOptions::default() };
    let mut rig = Rig::cold(nvme, nvme.open(arena), options);
    let moment = random.below(400);
    let mut disks: Vec<EmulatedDisk> = Vec::new();
    let mut done: Vec<Completion> = Vec::with_capacity(64);
    for tick in 0..moment {
        rig.tick();
        assert!(rig.controller.end().is_none(), "{:?}", rig.events);
        if rig.controller.is_running() && disks.is_empty() {
            rig.bring_up();
            disks = (0..2).map(|queue| rig.disk(queue, 0)).collect();
        }
        for disk in &mut disks {
            disk.poll(&mut done);
            done.drain(..).for_each(|completion| assert_eq!(completion.result, Ok(())));
            if disk.in_flight() < 10 && random.chance(40) {
                let offset = random.below(1000) * 4096;
                let is_write = random.chance(50);
                disk.submit(
                    tick,
                    if is_write {
                        write_op(pool, offset, 4096, tick as u8, false)
                    } else {
                        read_op(pool, offset, 4096)
                    },
                );
            }
        }
    }
    let was_up = !disks.is_empty();
    // Whatever goes first: no buffer is free before the device has no access.
    match random.below(3) {
        0 => {
            drop(disks);
            rig.queues.clear();
        }
        1 => drop(rig.queues.split_off(rig.queues.len().min(1))),
        _ => drop(std::mem::take(&mut rig.queues)),
    }
    drop(rig);
    was_up
}

#[test]
fn a_thousand_rounds_of_start_and_kill() {
    let nvme = EmulatedNvme::new(NvmeConfig::default(), 11);
    let (arena, pool) = arena();
    let mut random = Random::new(12);
    let mut lives = 0;
    for round in 0..1000 {
        lives += usize::from(live_and_die(&nvme, &arena, &pool, &mut random));
        assert_eq!(pool.available(), pool.size(), "round {round}: every buffer came back");
    }
    assert!(lives > 500, "{lives} of them came up");
    nvme.check();
    let mut rig = Rig::cold(&nvme, nvme.open(&arena), NvmeOptions::default());
    rig.bring_up();
    let mut disk = rig.disk(0, 0);
    assert_eq!(rig.write(&mut disk, &pool, 0, 1), Ok(()));
    assert_eq!(rig.read(&mut disk, &pool, 0), Ok(1));
}

#[test]
fn buffers_stay_until_the_device_cannot_reach_them() {
    let (arena, pool) = arena();
    let mut rig = Rig::new(NvmeConfig::default(), NvmeOptions::default(), &arena, 1);
    let mut disk = rig.disk(0, 0);
    rig.nvme.inject(NvmeFault::Lost);
    disk.submit(1, read_op(&pool, 0, 4096));
    let mut done = Vec::with_capacity(1);
    for _ in 0..10 {
        rig.tick();
        disk.poll(&mut done);
    }
    assert!(done.is_empty());
    drop(disk);
    rig.queues.clear();
    assert_eq!(pool.available(), pool.size() - 4096, "the device may still write it");
    rig.nvme.fail();
    rig.until("it has been reset", |rig| rig.controller.is_running() && rig.nvme.enabled() == 2);
    assert_eq!(pool.available(), pool.size());
}

#[test]
fn an_orderly_end_loses_nothing() {
    for seed in 0..10 {
        let (arena, pool) = arena();
        let mut rig = Rig::new(NvmeConfig::default(), NvmeOptions::default(), &arena, seed);
        let mut disk = rig.disk(0, 0);
        assert_eq!(rig.write(&mut disk, &pool, 0, 5), Ok(()));
        let now = rig.time.now();
        rig.controller.shut_down(now);
        let mut done = Vec::with_capacity(1);
        rig.until("it has ended", |rig| {
            disk.poll(&mut done);
            rig.controller.end().is_some()
        });
        assert_eq!(rig.controller.end(), Some(None));
        assert_eq!(rig.read(&mut disk, &pool, 0), Err(Error::Failed));
        rig.nvme.power_cycle();
        assert_eq!(rig.nvme.block(1, 0)[0], 5);
        rig.nvme.check();
    }
}

#[test]
fn a_device_torn_out_fails_everything_and_may_come_back() {
    let (arena, pool) = arena();
    let config = NvmeConfig { volatile_cache: false, ..NvmeConfig::default() };
    let mut rig = Rig::new(config, NvmeOptions { queues: 2, ..NvmeOptions::default() }, &arena, 1);
    let mut disks: Vec<_> = (0..2).map(|queue| rig.disk(queue, 0)).collect();
    rig.write(&mut disks[0], &pool, 0, 3).unwrap();
    for (tag, disk) in disks.iter_mut().enumerate() {
        for index in 0..30 {
            let offset = (tag as u64 * 30 + index + 1) * 4096;
            disk.submit(tag as u64 * 30 + index, write_op(&pool, offset, 4096, 4, false));
        }
    }
    rig.nvme.remove();
    let mut ended = Vec::new();
    let mut done = Vec::with_capacity(100);
    rig.until("all have ended", |_| {
        for disk in &mut disks {
            disk.poll(&mut done);
        }
        ended.extend(done.drain(..).map(|completion| (completion.tag, completion.result)));
        ended.len() == 60
    });
    ended.sort_unstable_by_key(|(tag, _)| *tag);
    assert_eq!(ended, (0..60).map(|tag| (tag, Err(Error::Removed))).collect::<Vec<_>>());
    assert_eq!(rig.controller.end(), Some(Some(&Trouble::Removed)));
    assert_eq!(rig.read(&mut disks[1], &pool, 0), Err(Error::Removed));
    assert_eq!(pool.available(), pool.size());
    let nvme = rig.nvme.clone();
    drop(disks);
    drop(rig);
    nvme.insert();
    let mut rig = Rig::cold(&nvme, nvme.open(&arena), NvmeOptions::default());
    rig.bring_up();
    let mut disk = rig.disk(0, 0);
    assert_eq!(rig.read(&mut disk, &pool, 0), Ok(3));
    nvme.check();
}

/// What the threads share.
struct Stage {
    now: AtomicU64,
    finished: AtomicUsize,
    is_over: AtomicBool,
}

#[test]
fn cores_in_threads_survive_resets() {
    const CORES: usize = 3;
    let config = NvmeConfig { volatile_cache: false, ..NvmeConfig::default() };
    let nvme = EmulatedNvme::new(config, 1);
    let arena = Arena::new(4 << 20, CORES).unwrap();
    let options = NvmeOptions {
        queues: CORES,
        timeout: Duration::from_millis(400),
        patience: Duration::from_millis(100),
        resets_max: 1000,
        ..NvmeOptions::default()
    };
    let mut rig = Rig::cold(&nvme, nvme.open(&arena), options);
    rig.until("it runs", |rig| rig.controller.is_running());
    let kinds = NvmeFault::ALL.into_iter().filter(|fault| !matches!(fault, NvmeFault::Late));
    nvme.set_faults(NvmeFaults { kinds: kinds.collect(), chance: 15, ..NvmeFaults::default() });
    let now = rig.time.now().as_nanos() as u64;
    let (finished, is_over) = (AtomicUsize::new(0), AtomicBool::new(false));
    let stage = Arc::new(Stage { now: AtomicU64::new(now), finished, is_over });
    let mut threads = Vec::new();
    for core in 0..CORES {
        let seat = rig.controller.take_seat().expect("one for each");
        let namespace = rig.controller.namespaces().next().expect("there is one").clone();
        let (pool, stage) = (arena.pool(core), stage.clone());
        threads.push(std::thread::spawn(move || drive(seat, &namespace, &pool, core, &stage)));
    }
    let mut controller: NvmeController<EmulatedDevice> = rig.controller;
    while stage.finished.load(Ordering::SeqCst) < CORES {
        assert!(!threads.iter().any(std::thread::JoinHandle::is_finished), "a core panicked");
        let now = stage.now.fetch_add(50_000, Ordering::SeqCst) + 50_000;
        nvme.step(Duration::from_nanos(now));
        controller.poll(Duration::from_nanos(now));
        assert!(controller.end().is_none(), "{:?}", controller.take_event());
        while controller.take_event().is_some() {}
        std::thread::yield_now();
    }
    stage.is_over.store(true, Ordering::SeqCst);
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert!(nvme.enabled() > 1, "there were resets");
    nvme.check();
}

/// One core: writes its blocks, reads them back, again and again.
fn drive(
    seat: NvmeSeat<EmulatedDevice>,
    namespace: &crate::disk::nvme::Namespace,
    pool: &Pool,
    core: usize,
    stage: &Stage,
) {
    const ROUNDS: u64 = 60;
    const BLOCKS: u64 = 16;
    let time = CoreTime::default();
    let queue = seat.attach(Waker::unneeded(), time.clone());
    let mut disk = queue.open(namespace);
    let mut done: Vec<Completion> = Vec::with_capacity(32);
    let first = core as u64 * BLOCKS;
    let byte = |round: u64, block: u64| (round * 31 + block * 7 + core as u64) as u8;
    for round in 0..ROUNDS {
        for is_write in [true, false] {
            for block in 0..BLOCKS {
                let offset = (first + block) * 4096;
                disk.submit(
                    block,
                    if is_write {
                        write_op(pool, offset, 4096, byte(round, block), false)
                    } else {
                        read_op(pool, offset, 4096)
                    },
                );
            }
            let mut ended = 0;
            while ended < BLOCKS {
                time.set(Duration::from_nanos(stage.now.load(Ordering::SeqCst)).max(time.now()));
                disk.poll(&mut done);
                for Completion { tag, op, result } in done.drain(..) {
                    assert_eq!(result, Ok(()));
                    ended += 1;
                    if let Op::Read { buf, .. } = op {
                        assert!(buf.iter().all(|&read| read == byte(round, tag)));
                    }
                }
                std::thread::yield_now();
            }
        }
    }
    stage.finished.fetch_add(1, Ordering::SeqCst);
    while !stage.is_over.load(Ordering::SeqCst) {
        disk.poll(&mut done);
        std::thread::yield_now();
    }
}

#[test]
fn a_queue_goes_from_core_to_core_also_over_a_reset() {
    let (arena, pool) = arena();
    let nvme = EmulatedNvme::new(NvmeConfig { queues: 1, ..NvmeConfig::default() }, 5);
    let mut rig = Rig::cold(&nvme, nvme.open(&arena), NvmeOptions::default());
    rig.bring_up();
    for round in 1..=6 {
        let mut disk = rig.disk(0, 0);
        let queue = rig.queues.pop().unwrap();
        let extra = queue.clone();
        for block in 0..u64::from(round) {
            rig.queues.push(queue.clone());
            rig.write(&mut disk, &pool, block * 4096, round).unwrap();
            rig.queues.clear();
        }
        drop(disk);
        drop(extra);
        let seat = queue.detach(None).expect("nothing is in flight, and nobody else has it");
        rig.controller.return_seat(seat);
        assert_eq!(rig.controller.seats(), 1);
        if round % 2 == 0 {
            nvme.fail();
            rig.until("it is reset", |rig| !rig.controller.is_running());
        }
        rig.until("it runs again", |rig| rig.controller.is_running());
        let seat = rig.controller.take_seat().unwrap();
        let queue = seat.attach(Waker::unneeded(), rig.time.clone());
        rig.queues.push(queue);
        let mut disk = rig.disk(0, 0);
        assert_eq!(rig.read(&mut disk, &pool, 0), Ok(round));
        nvme.check();
    }
    let resets = rig.events.iter().filter(|event| matches!(event, NvmeEvent::Resetting(_)));
    assert_eq!(resets.count(), 3);
}

#[test]
fn a_queue_in_use_is_not_taken_from_its_core() {
    let (arena, pool) = arena();
    let mut rig = Rig::new(NvmeConfig::default(), NvmeOptions::default(), &arena, 1);
    let queue = rig.queues.pop().unwrap();
    let disk = queue.open(rig.controller.namespaces().next().unwrap());
    let seat: Option<NvmeSeat<EmulatedDevice>> = queue.detach(None);
    assert!(seat.is_none(), "a disk is open on it");
    drop(disk);
    let mut rig = Rig::new(NvmeConfig::default(), NvmeOptions::default(), &arena, 1);
    let queue = rig.queues.pop().unwrap();
    let mut disk = queue.open(rig.controller.namespaces().next().unwrap());
    disk.submit(1, read_op(&pool, 0, 4096));
    drop(disk);
    let seat: Option<NvmeSeat<EmulatedDevice>> = queue.detach(None);
    assert!(seat.is_none(), "something is in flight");
    rig.controller.shut_down(rig.time.now());
    rig.until("it has ended", |rig| rig.controller.end().is_some());
    assert_eq!(pool.available(), pool.size());
}
