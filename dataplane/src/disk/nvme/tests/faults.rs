//! Each thing that can go wrong, alone: what the submitter sees, and that it sees it once.

use super::{Rig, arena, read_op, write_op};
use crate::disk::nvme::request::RETRIES_MAX;
use crate::disk::nvme::{NvmeEvent, NvmeOptions, Trouble};
use crate::disk::{Disk, Error, Op};
use crate::sim::nvme::{EmulatedNamespace, NvmeConfig, NvmeFault, NvmeFaults};
use std::time::Duration;
use storage_spec::nvme::status::Status;

fn steady() -> NvmeConfig {
    NvmeConfig { volatile_cache: false, ..NvmeConfig::default() }
}

#[test]
fn one_fault_is_a_delay_for_the_submitter() {
    for (seed, fault) in (0..).zip(NvmeFault::ALL) {
        let (arena, pool) = arena();
        let mut rig = Rig::new(steady(), NvmeOptions::default(), &arena, seed);
        let mut disk = rig.disk(0, 0);
        assert_eq!(rig.write(&mut disk, &pool, 0, 1), Ok(()), "{fault:?}");
        rig.nvme.inject(fault);
        assert_eq!(rig.write(&mut disk, &pool, 4096, 2), Ok(()), "{fault:?}");
        rig.nvme.inject(fault);
        assert_eq!(rig.read(&mut disk, &pool, 0), Ok(1), "{fault:?}");
        assert_eq!(rig.read(&mut disk, &pool, 4096), Ok(2), "{fault:?}");
        rig.nvme.check();
        drop(disk);
        assert_eq!(pool.available(), pool.size(), "{fault:?}");
    }
}

#[test]
fn what_follows_a_fault_is_as_it_should_be() {
    let is_reset = |rig: &Rig| rig.events.iter().any(|e| matches!(e, NvmeEvent::Resetting(_)));
    let wants = [
        (NvmeFault::Late, false, Duration::from_secs(3)),
        (NvmeFault::Stuck, false, Duration::from_secs(8)),
        (NvmeFault::Lost, true, Duration::from_secs(10)),
        (NvmeFault::WrongPhase, true, Duration::from_secs(10)),
        (NvmeFault::WrongCommand, true, Duration::ZERO),
        (NvmeFault::WrongQueue, true, Duration::ZERO),
        (NvmeFault::WrongHead, true, Duration::ZERO),
        (NvmeFault::Fatal, true, Duration::ZERO),
    ];
    for (fault, with_reset, at_least) in wants {
        let (arena, pool) = arena();
        let mut rig = Rig::new(steady(), NvmeOptions::default(), &arena, 5);
        let mut disk = rig.disk(0, 0);
        let start = rig.time.now();
        rig.nvme.inject(fault);
        assert_eq!(rig.write(&mut disk, &pool, 0, 1), Ok(()));
        let took = rig.time.now() - start;
        assert!(
            (at_least..at_least + Duration::from_secs(4)).contains(&took),
            "{fault:?} {took:?}"
        );
        assert_eq!(is_reset(&rig), with_reset, "{fault:?} {:?}", rig.events);
    }
}

#[test]
fn a_doubled_completion_leads_to_a_reset() {
    let (arena, pool) = arena();
    let mut rig = Rig::new(steady(), NvmeOptions::default(), &arena, 5);
    let mut disk = rig.disk(0, 0);
    rig.nvme.inject(NvmeFault::Twice);
    assert_eq!(rig.write(&mut disk, &pool, 0, 1), Ok(()));
    assert_eq!(rig.read(&mut disk, &pool, 0), Ok(1));
    rig.until("it has been reset", |rig| {
        rig.events.iter().any(|event| matches!(event, NvmeEvent::Resetting(Trouble::Nonsense(_))))
    });
    assert_eq!(rig.queues[0].counters().nonsense, 1);
}

#[test]
fn a_storm_of_errors_ends_each_request_after_a_few_attempts() {
    let (arena, pool) = arena();
    let mut rig = Rig::new(steady(), NvmeOptions::default(), &arena, 1);
    let (mut disk, mut other) = (rig.disk(0, 0), rig.disk(0, 0));
    let kinds = vec![NvmeFault::Error(Status::INTERNAL_ERROR)];
    rig.nvme.set_faults(NvmeFaults { kinds, chance: 10_000, ..NvmeFaults::default() });
    let before = rig.queues[0].counters().commands;
    assert_eq!(rig.read(&mut disk, &pool, 0), Err(Error::Media));
    let commands = rig.queues[0].counters().commands - before;
    assert_eq!(commands, u64::from(RETRIES_MAX) + 1);
    assert_eq!(rig.write(&mut disk, &pool, 0, 1), Err(Error::Failed));
    rig.nvme.set_faults(NvmeFaults::default());
    // A write has failed: no other is tried, by whichever handle. Reads are.
    assert_eq!(rig.write(&mut other, &pool, 0, 1), Err(Error::Failed));
    assert_eq!(rig.execute(&mut other, Op::Flush).1, Err(Error::Failed));
    assert_eq!(rig.read(&mut other, &pool, 8192), Ok(0));
    assert!(rig.controller.is_running());
}

#[test]
fn statuses_mean_what_they_say() {
    let wants = [
        (Status::UNRECOVERED_READ_ERROR.dnr(), Error::Media, Error::Failed),
        (Status::WRITE_FAULT.dnr(), Error::Media, Error::Failed),
        (Status::CAPACITY_EXCEEDED, Error::NoSpace, Error::NoSpace),
        (Status::LBA_OUT_OF_RANGE.dnr(), Error::Failed, Error::Failed),
        (Status::INVALID_NAMESPACE.dnr(), Error::Removed, Error::Removed),
        (Status::WRITE_PROTECTED, Error::Failed, Error::Failed),
    ];
    for (status, of_read, of_write) in wants {
        let (arena, pool) = arena();
        let mut rig = Rig::new(steady(), NvmeOptions::default(), &arena, 1);
        let mut disk = rig.disk(0, 0);
        rig.nvme.inject(NvmeFault::Error(status));
        assert_eq!(rig.read(&mut disk, &pool, 0), Err(of_read), "{status:?}");
        rig.nvme.inject(NvmeFault::Error(status));
        assert_eq!(rig.write(&mut disk, &pool, 0, 1), Err(of_write), "{status:?}");
        // Each was one command: these are not repeated.
        assert_eq!(rig.queues[0].counters().commands, 2, "{status:?}");
    }
}

#[test]
fn a_refused_deallocation_harms_nobody() {
    let (arena, pool) = arena();
    let mut rig = Rig::new(steady(), NvmeOptions::default(), &arena, 1);
    let mut disk = rig.disk(0, 0);
    rig.nvme.inject(NvmeFault::Error(Status::INVALID_FIELD.dnr()));
    let op = Op::Deallocate { offset: 0, len: 4096 };
    assert_eq!(rig.execute(&mut disk, op).1, Err(Error::Failed));
    assert_eq!(rig.write(&mut disk, &pool, 0, 1), Ok(()));
}

#[test]
fn delays_that_the_controller_names_are_kept() {
    let (arena, pool) = arena();
    let config = NvmeConfig { retry_delay: 20, ..steady() };
    let mut rig = Rig::new(config, NvmeOptions::default(), &arena, 1);
    let mut disk = rig.disk(0, 0);
    rig.nvme.inject(NvmeFault::Error(Status::COMMAND_INTERRUPTED.with_retry_delay(1)));
    let start = rig.time.now();
    assert_eq!(rig.write(&mut disk, &pool, 0, 1), Ok(()));
    let took = rig.time.now() - start;
    assert!(took >= Duration::from_secs(2) && took < Duration::from_secs(3), "{took:?}");
}

#[test]
fn an_unreadable_block_fails_alone() {
    let (arena, pool) = arena();
    let mut rig = Rig::new(steady(), NvmeOptions::default(), &arena, 1);
    let mut disk = rig.disk(0, 0);
    for block in 0..3 {
        rig.write(&mut disk, &pool, block * 4096, block as u8 + 1).unwrap();
    }
    rig.nvme.make_unreadable(1, 1);
    assert_eq!(rig.read(&mut disk, &pool, 0), Ok(1));
    assert_eq!(rig.read(&mut disk, &pool, 4096), Err(Error::Media));
    assert_eq!(rig.read(&mut disk, &pool, 8192), Ok(3));
    assert_eq!(rig.write(&mut disk, &pool, 4096, 9), Ok(()));
    assert_eq!(rig.read(&mut disk, &pool, 4096), Ok(9));
}

#[test]
fn compare_tells_what_differs() {
    for optional_commands in [true, false] {
        let (arena, pool) = arena();
        let config = NvmeConfig { optional_commands, ..steady() };
        let mut rig = Rig::new(config, NvmeOptions::default(), &arena, 1);
        let mut disk = rig.disk(0, 0);
        rig.write(&mut disk, &pool, 4096, 7).unwrap();
        let mut compare = |byte, fault: Option<NvmeFault>| {
            fault.into_iter().for_each(|fault| rig.nvme.inject(fault));
            let Op::Write { offset, data, .. } = write_op(&pool, 4096, 4096, byte, false) else {
                unreachable!("a write")
            };
            disk.compare(3, offset, data);
            let mut done = Vec::with_capacity(1);
            rig.until("it has ended", |_| {
                disk.poll(&mut done);
                !done.is_empty()
            });
            done.remove(0).result
        };
        if optional_commands {
            assert_eq!(compare(7, None), Ok(()));
            assert_eq!(compare(8, None), Err(Error::Mismatch));
            assert_eq!(compare(7, Some(NvmeFault::Fatal)), Ok(()));
            let unreadable = NvmeFault::Error(Status::UNRECOVERED_READ_ERROR.dnr());
            assert_eq!(compare(7, Some(unreadable)), Err(Error::Media));
        } else {
            assert_eq!(compare(7, None), Err(Error::Unsupported));
        }
        assert_eq!(rig.write(&mut disk, &pool, 4096, 9), Ok(()), "nothing failed");
    }
}

#[test]
fn protection_information_finds_rot() {
    for (metadata, protection) in [(8, 1), (8, 2), (8, 3), (16, 1), (0, 0)] {
        let (arena, pool) = arena();
        let namespace = EmulatedNamespace::with_metadata(1, 4096, metadata, protection);
        let config = NvmeConfig { namespaces: vec![namespace], ..steady() };
        let mut rig = Rig::new(config, NvmeOptions::default(), &arena, 1);
        let mut disk = rig.disk(0, 0);
        rig.write(&mut disk, &pool, 0, 1).unwrap();
        rig.write(&mut disk, &pool, 4096, 1).unwrap();
        rig.nvme.rot(1, 1, 999);
        assert_eq!(rig.read(&mut disk, &pool, 0), Ok(1));
        let (_, result) = rig.execute(&mut disk, read_op(&pool, 4096, 4096));
        let wants = if protection > 0 { Err(Error::Media) } else { Ok(()) };
        assert_eq!(result, wants, "{metadata} bytes, type {protection}");
        rig.nvme.check();
    }
}

#[test]
fn lost_power_with_a_volatile_cache_ends_writing() {
    for seed in 0..20 {
        let (arena, pool) = arena();
        let mut rig = Rig::new(NvmeConfig::default(), NvmeOptions::default(), &arena, seed);
        let (mut disk, mut other) = (rig.disk(0, 0), rig.disk(0, 0));
        assert_eq!(rig.write(&mut disk, &pool, 0, 1), Ok(()));
        assert_eq!(rig.execute(&mut disk, Op::Flush).1, Ok(()));
        assert_eq!(rig.write(&mut disk, &pool, 4096, 2), Ok(()));
        rig.nvme.power_cycle();
        assert_eq!(rig.execute(&mut disk, Op::Flush).1, Err(Error::Failed));
        assert_eq!(rig.write(&mut other, &pool, 8192, 2), Err(Error::Failed));
        assert_eq!(rig.read(&mut disk, &pool, 0), Ok(1), "what was flushed is there");
        let is_told = rig.events.contains(&NvmeEvent::Resetting(Trouble::LostState));
        assert!(is_told, "{:?}", rig.events);
    }
}

#[test]
fn forced_writes_survive_lost_power() {
    for seed in 0..20 {
        for honours_fua in [true, false] {
            let (arena, pool) = arena();
            let options = NvmeOptions { honours_fua, ..NvmeOptions::default() };
            let mut rig = Rig::new(NvmeConfig::default(), options, &arena, seed);
            let mut disk = rig.disk(0, 0);
            assert_eq!(disk.info().fua, honours_fua);
            let op = write_op(&pool, 0, 8192, 7, true);
            assert_eq!(rig.execute(&mut disk, op).1, Ok(()));
            rig.nvme.power_cycle();
            assert_eq!(rig.nvme.block(1, 1)[0], 7);
            assert_eq!(rig.read(&mut disk, &pool, 0), Ok(7));
        }
    }
}

#[test]
fn a_model_that_ignores_fua_is_known_and_flushed() {
    let ignores_fua = true;
    let run = |model: &str, honours_fua, seed| {
        let config = NvmeConfig { model: model.into(), ignores_fua, ..NvmeConfig::default() };
        let (arena, pool) = arena();
        let options = NvmeOptions { honours_fua, ..NvmeOptions::default() };
        let mut rig = Rig::new(config, options, &arena, seed);
        let mut disk = rig.disk(0, 0);
        let op = write_op(&pool, 0, 8192, 7, true);
        assert_eq!(rig.execute(&mut disk, op).1, Ok(()));
        rig.nvme.power_cycle();
        (disk.info().fua, rig.nvme.block(1, 1)[0] == 7)
    };
    let lost = (0..20).filter(|&seed| run("Other", true, seed) == (true, false)).count();
    assert!(lost > 0, "one that is not known loses what it said it kept");
    for seed in 0..20 {
        assert_eq!(run("QEMU NVMe Ctrl", true, seed), (false, true));
        assert_eq!(run("Other", false, seed), (false, true));
    }
}

#[test]
fn a_reset_reaches_the_requests_of_every_core() {
    let (arena, pool) = arena();
    let options = NvmeOptions { queues: 3, ..NvmeOptions::default() };
    let mut rig = Rig::new(steady(), options, &arena, 3);
    let mut disks: Vec<_> = (0..3).map(|queue| rig.disk(queue, 0)).collect();
    for (number, disk) in disks.iter_mut().enumerate() {
        for index in 0..20 {
            let place = number as u64 * 20 + index;
            disk.submit(place, write_op(&pool, place * 4096, 4096, place as u8, false));
        }
    }
    rig.nvme.inject(NvmeFault::WrongQueue);
    let mut ended = Vec::new();
    let mut done = Vec::with_capacity(8);
    rig.until("all have ended", |_| {
        for disk in &mut disks {
            disk.poll(&mut done);
            ended.extend(done.drain(..).map(|completion| (completion.tag, completion.result)));
        }
        ended.len() == 60
    });
    ended.sort_unstable_by_key(|(tag, _)| *tag);
    assert_eq!(ended, (0..60).map(|tag| (tag, Ok(()))).collect::<Vec<_>>());
    for place in 0..60 {
        assert_eq!(rig.read(&mut disks[0], &pool, place * 4096), Ok(place as u8));
    }
    rig.nvme.check();
}

#[test]
fn what_two_cores_ask_for_is_one_reset() {
    let (arena, pool) = arena();
    let options = NvmeOptions { queues: 2, ..NvmeOptions::default() };
    let mut rig = Rig::new(steady(), options, &arena, 3);
    let mut disks = [rig.disk(0, 0), rig.disk(1, 0)];
    for (number, disk) in (0..).zip(&mut disks) {
        rig.nvme.inject(NvmeFault::Lost);
        disk.submit(number, write_op(&pool, number * 4096, 4096, 1, false));
    }
    let mut done = Vec::with_capacity(2);
    rig.until("both have ended", |_| {
        disks.iter_mut().for_each(|disk| disk.poll(&mut done));
        done.len() == 2
    });
    rig.pass(Duration::from_secs(1));
    (0..1000).for_each(|_| rig.tick());
    assert!(rig.controller.is_running());
    assert_eq!(rig.nvme.enabled(), 2, "{:?}", rig.events);
}

#[test]
fn a_reset_waits_for_cores_that_are_slow_to_hear() {
    let (arena, pool) = arena();
    let options = NvmeOptions { queues: 2, ..NvmeOptions::default() };
    let mut rig = Rig::new(steady(), options, &arena, 3);
    let (mut quick, mut slow) = (rig.disk(0, 0), rig.disk(1, 0));
    slow.submit(1, write_op(&pool, 0, 4096, 1, false));
    rig.nvme.fail();
    quick.submit(2, write_op(&pool, 4096, 4096, 2, false));
    let mut done = Vec::with_capacity(4);
    for _ in 0..20_000 {
        quick.poll(&mut done);
        rig.tick();
    }
    assert!(done.is_empty() && rig.nvme.enabled() == 1, "the other core has not answered");
    rig.until("both have ended", |_| {
        slow.poll(&mut done);
        quick.poll(&mut done);
        done.len() == 2
    });
    assert!(done.iter().all(|completion| completion.result.is_ok()));
}
