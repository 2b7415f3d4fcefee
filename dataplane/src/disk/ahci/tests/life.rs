//! Drivers that come and go: orderly, killed; and cores that are threads.

use super::{AhciPort, EmulatedDisk, Rig, arena, one, options, read_op, write_op};
use crate::disk::ahci::{AhciOptions, AhciSeat};
use crate::disk::{Completion, Disk, Op};
use crate::dma::{Arena, Pool};
use crate::hardware::CoreTime;
use crate::sim::Random;
use crate::sim::ahci::{
    AhciConfig, AhciFault, AhciFaults, EmulatedAhci, EmulatedDrive, EmulatedRegisters,
};
use crate::uring::Waker;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

fn two_drives() -> AhciConfig {
    let drive = || Some(EmulatedDrive::new(512));
    AhciConfig { drives: vec![(0, drive()), (1, None), (5, drive())], ..AhciConfig::default() }
}

/// A driver's life, ended at a random moment in a random way.
fn live_and_die(
    ahci: &EmulatedAhci,
    arena: &Arena,
    pool: &Pool,
    random: &mut Random,
    time: &CoreTime,
) -> bool {
    let mut rig = Rig { time: time.clone(), ..Rig::cold(ahci, ahci.open(arena), options()) };
    // Empty ports are waited for for a second, of which some lives see the end.
    let moment = random.below(5800);
    let mut disks: Vec<EmulatedDisk> = Vec::new();
    let mut done: Vec<Completion> = Vec::with_capacity(64);
    for tick in 0..moment {
        rig.tick();
        assert!(rig.hba.end().is_none(), "{:?}", rig.events);
        let known = rig.ports.len();
        rig.attach();
        disks.extend((known..rig.ports.len()).map(|port| rig.disk(port)));
        for disk in &mut disks {
            disk.poll(&mut done);
            done.drain(..).for_each(|completion| assert_eq!(completion.result, Ok(())));
            if disk.in_flight() < 10 && random.chance(10) {
                let offset = random.below(1000) * 4096;
                let op = match random.below(8) {
                    0 => Op::Flush,
                    1..4 => write_op(pool, offset, 4096, tick as u8, false),
                    _ => read_op(pool, offset, 4096),
                };
                disk.submit(tick, op);
            }
        }
    }
    let was_up = !disks.is_empty();
    // Whatever goes first: no buffer is free before the device has no access.
    match random.below(3) {
        0 => {
            drop(disks);
            rig.ports.clear();
        }
        1 => drop(rig.ports.split_off(rig.ports.len().min(1))),
        _ => drop(std::mem::take(&mut rig.ports)),
    }
    drop(rig);
    was_up
}

#[test]
fn a_thousand_rounds_of_start_and_kill() {
    let ahci = EmulatedAhci::new(two_drives(), 11);
    let (arena, pool) = arena();
    let mut random = Random::new(12);
    let (mut lives, time) = (0, CoreTime::default());
    for round in 0..1000 {
        lives += usize::from(live_and_die(&ahci, &arena, &pool, &mut random, &time));
        assert_eq!(pool.available(), pool.size(), "round {round}: every buffer came back");
    }
    assert!(lives > 500, "{lives} of them came up");
    ahci.check();
    let mut rig = Rig { time, ..Rig::cold(&ahci, ahci.open(&arena), options()) };
    rig.bring_up();
    let mut disk = rig.disk(1);
    assert_eq!(rig.write(&mut disk, &pool, 0, 1), Ok(()));
    assert_eq!(rig.read(&mut disk, &pool, 0), Ok(1));
}

#[test]
fn buffers_stay_until_the_port_has_stopped() {
    let (arena, pool) = arena();
    let mut rig = Rig::new(one(EmulatedDrive::new(512)), options(), &arena, 1);
    let mut disk = rig.disk(0);
    rig.ahci.inject(2, AhciFault::Lost);
    disk.submit(1, read_op(&pool, 0, 4096));
    let mut done = Vec::with_capacity(1);
    for _ in 0..10 {
        rig.tick();
        disk.poll(&mut done);
    }
    assert!(done.is_empty());
    drop(disk);
    rig.ports.clear();
    assert_eq!(pool.available(), pool.size() - 4096, "the device may still write it");
    rig.until("it has stopped", |_| pool.available() == pool.size());
    rig.hba.probe().unwrap();
    rig.until("it has looked", |rig| rig.hba.is_searched());
    rig.attach();
    let mut disk = rig.disk(0);
    assert_eq!(rig.write(&mut disk, &pool, 0, 1), Ok(()));
    rig.ahci.check();
}

#[test]
fn an_adapter_is_let_go_at_rest() {
    let (arena, pool) = arena();
    let rig = Rig::new(one(EmulatedDrive::new(512)), options(), &arena, 1);
    let mut disk = rig.disk(0);
    let resets = rig.ahci.resets();
    disk.submit(1, write_op(&pool, 0, 4096, 7, false));
    let ahci = rig.ahci.clone();
    drop((disk, rig));
    assert_eq!(ahci.resets(), resets + 1, "nothing else ends what it has in hand");
    // One that somebody else still has is not touched.
    drop(Rig::cold(&ahci, ahci.open(&arena), options()));
    assert_eq!(ahci.resets(), resets + 1);
    ahci.check();
}

#[test]
fn a_port_may_move_whatever_happens_meanwhile() {
    let (arena, pool) = arena();
    let mut rig = Rig::new(two_drives(), options(), &arena, 1);
    let mut other = rig.ports.pop().expect("there are two").open();
    for round in 0..6_u8 {
        let mut disk = rig.disk(0);
        assert_eq!(rig.write(&mut disk, &pool, 0, round), Ok(()));
        assert!(rig.ports[0].clone().detach().is_none(), "there is a disk on it");
        drop(disk);
        let seat = rig.ports.remove(0).detach().expect("nobody uses it");
        if round % 2 == 1 {
            let before = rig.ahci.resets();
            rig.ahci.inject(5, AhciFault::StuckRunning);
            assert_eq!(rig.write(&mut other, &pool, 0, round), Ok(()));
            assert_eq!(rig.ahci.resets(), before + 1, "the other port had the adapter reset");
        }
        rig.ports.push(seat.attach(Waker::unneeded(), rig.time.clone()));
        let mut disk = rig.disk(0);
        assert_eq!(rig.read(&mut disk, &pool, 0), Ok(round));
        // Long enough for resets not to be in a row.
        for _ in 0..7 {
            let now = rig.time.now() + Duration::from_secs(5);
            rig.time.set(now);
            rig.tick();
            rig.ports[0].poll();
            other.port().poll();
        }
        rig.until("all is well again", |rig| {
            rig.ports[0].poll();
            other.port().poll();
            rig.hba.is_searched()
        });
    }
    rig.ahci.check();
}

/// What the threads share.
struct Stage {
    now: AtomicU64,
    finished: AtomicUsize,
    is_over: AtomicBool,
}

#[test]
fn cores_in_threads_survive_resets_of_the_adapter() {
    const CORES: usize = 3;
    let drive = || Some(EmulatedDrive::new(512));
    let drives = (0..CORES as u8).map(|port| (port, drive())).collect();
    let ahci = EmulatedAhci::new(AhciConfig { drives, ..AhciConfig::default() }, 1);
    let arena = Arena::new(4 << 20, CORES).unwrap();
    // Nothing sleeps here, but time flies.
    let options =
        AhciOptions { timeout: Duration::from_secs(2), resets_max: 1000, ..AhciOptions::default() };
    let mut rig = Rig::cold(&ahci, ahci.open(&arena), options);
    rig.until("it runs", |rig| rig.hba.is_searched());
    let kinds = vec![
        AhciFault::StuckRunning,
        AhciFault::LyingLog,
        AhciFault::Error(0x84),
        AhciFault::Interface,
        AhciFault::WrongActive,
    ];
    ahci.set_faults(AhciFaults { kinds, chance: 25 });
    let now = rig.time.now().as_nanos() as u64;
    let (finished, is_over) = (AtomicUsize::new(0), AtomicBool::new(false));
    let stage = Arc::new(Stage { now: AtomicU64::new(now), finished, is_over });
    let mut threads = Vec::new();
    for core in 0..CORES {
        let seat = rig.hba.take_seat().expect("one for each");
        let (pool, stage) = (arena.pool(core), stage.clone());
        threads.push(std::thread::spawn(move || drive_port(seat, &pool, core, &stage)));
    }
    let mut hba = rig.hba;
    while stage.finished.load(Ordering::SeqCst) < CORES {
        assert!(!threads.iter().any(std::thread::JoinHandle::is_finished), "a core panicked");
        let now = stage.now.fetch_add(100_000, Ordering::SeqCst) + 100_000;
        ahci.step(Duration::from_nanos(now));
        hba.poll(Duration::from_nanos(now));
        assert!(hba.end().is_none(), "{:?}", hba.take_event());
        while hba.take_event().is_some() {}
        std::thread::yield_now();
    }
    stage.is_over.store(true, Ordering::SeqCst);
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert!(ahci.resets() > 1, "there were resets");
    ahci.check();
}

/// One core: writes its blocks, reads them back, again and again.
fn drive_port(seat: AhciSeat<EmulatedRegisters>, pool: &Pool, core: usize, stage: &Stage) {
    const ROUNDS: u64 = 60;
    const BLOCKS: u64 = 16;
    let time = CoreTime::default();
    time.set(Duration::from_nanos(stage.now.load(Ordering::SeqCst)));
    let port: AhciPort<EmulatedRegisters> = seat.attach(Waker::unneeded(), time.clone());
    let mut disk = port.open();
    let mut done: Vec<Completion> = Vec::with_capacity(32);
    let byte = |round: u64, block: u64| (round * 31 + block * 7 + core as u64) as u8;
    for round in 0..ROUNDS {
        for is_write in [true, false] {
            for block in 0..BLOCKS {
                let op = match is_write {
                    true => write_op(pool, block * 4096, 4096, byte(round, block), false),
                    false => read_op(pool, block * 4096, 4096),
                };
                disk.submit(block, op);
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
        time.set(Duration::from_nanos(stage.now.load(Ordering::SeqCst)).max(time.now()));
        disk.poll(&mut done);
        std::thread::yield_now();
    }
}
