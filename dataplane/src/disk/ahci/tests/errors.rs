//! Errors that drives report: which requests fail, and how; order and durability.

use super::{Rig, arena, byte_of, one, options, read_op, write_op};
use crate::disk::{Completion, Disk, Error, Op};
use crate::sim::ahci::{AhciConfig, AhciFault, EmulatedDrive};
use storage_spec::ata::AtaCommand;

#[test]
fn only_the_unreadable_block_fails() {
    let (arena, pool) = arena();
    for (queue, has_log) in [(Some(32), true), (Some(32), false), (Some(1), false), (None, true)] {
        for seed in 0..10 {
            let drive = EmulatedDrive { queue, has_log, ..EmulatedDrive::new(512) };
            let mut rig = Rig::new(one(drive), options(), &arena, seed);
            let mut disk = rig.disk(0);
            for index in 0..32 {
                disk.submit(index, write_op(&pool, index * 4096, 4096, index as u8, false));
            }
            assert!(rig.wait(&mut disk).iter().all(|done| done.result.is_ok()));
            let bad = [3, 17, 29];
            bad.iter().for_each(|index| rig.ahci.make_unreadable(2, index * 8 + 5));
            for index in 0..32 {
                disk.submit(index, read_op(&pool, index * 4096, 4096));
            }
            for Completion { tag, op, result } in rig.wait(&mut disk) {
                if bad.contains(&tag) {
                    assert_eq!(result, Err(Error::Media), "block {tag}");
                } else {
                    assert_eq!(result, Ok(()), "block {tag}");
                    assert_eq!(byte_of(&op), tag as u8);
                }
            }
            assert_eq!(rig.ahci.resets(), 1, "no more resets");
            let is_reset = rig.ahci.link_resets() > 1;
            assert_eq!(is_reset, !has_log, "but of links, where a drive does not tell");
            let retries = rig.ports[0].counters().retries;
            let is_one_by_one = !has_log && queue == Some(32);
            assert_eq!(retries > 0, is_one_by_one, "without a log they go one by one");
            assert_eq!(rig.ports[0].counters().errors, 3);
            assert_eq!(rig.write(&mut disk, &pool, 3 * 4096, 9), Ok(()), "writing mends it");
            assert_eq!(rig.read(&mut disk, &pool, 3 * 4096), Ok(9));
            rig.ahci.check();
        }
    }
}

#[test]
fn a_write_that_fails_ends_all_writing() {
    let (arena, pool) = arena();
    let mut rig = Rig::new(one(EmulatedDrive::new(512)), options(), &arena, 1);
    let mut disk = rig.disk(0);
    assert_eq!(rig.write(&mut disk, &pool, 0, 1), Ok(()));
    rig.ahci.make_unwritable(2, 8);
    assert_eq!(rig.write(&mut disk, &pool, 4096, 2), Err(Error::Failed));
    assert_eq!(rig.write(&mut disk, &pool, 0, 2), Err(Error::Failed));
    assert_eq!(rig.execute(&mut disk, Op::Flush).1, Err(Error::Failed));
    assert_eq!(rig.read(&mut disk, &pool, 0), Ok(1), "what is there can be read");
    rig.ahci.check();
}

#[test]
fn errors_of_the_cable_and_refusals_without_reason_are_tried_again() {
    let (arena, pool) = arena();
    for queue in [None, Some(32)] {
        let drive = EmulatedDrive { queue, ..EmulatedDrive::new(512) };
        let mut rig = Rig::new(one(drive), options(), &arena, 1);
        let mut disk = rig.disk(0);
        for error in [0x84, 0x04] {
            for _ in 0..3 {
                rig.ahci.inject(2, AhciFault::Error(error));
            }
            assert_eq!(rig.write(&mut disk, &pool, 0, error), Ok(()));
            rig.ahci.inject(2, AhciFault::Error(error));
            assert_eq!(rig.read(&mut disk, &pool, 0), Ok(error));
        }
        for _ in 0..5 {
            rig.ahci.inject(2, AhciFault::Error(0x84));
        }
        assert_eq!(rig.write(&mut disk, &pool, 0, 1), Err(Error::Failed), "but not for ever");
        assert_eq!(rig.ports[0].counters().drive_errors, 13);
        rig.ahci.check();
    }
}

#[test]
fn a_flush_drains_the_queue_and_serves_all_that_wait() {
    let (arena, pool) = arena();
    let mut rig = Rig::new(one(EmulatedDrive::new(512)), options(), &arena, 1);
    let mut disk = rig.disk(0);
    let _ = rig.ahci.take_commands();
    for index in 0..24 {
        let op = match index % 3 {
            0 => Op::Flush,
            _ => write_op(&pool, index * 4096, 4096, 1, false),
        };
        disk.submit(index, op);
    }
    assert!(rig.wait(&mut disk).iter().all(|done| done.result.is_ok()));
    let commands = rig.ahci.take_commands();
    let flushes = commands.iter().filter(|code| **code == AtaCommand::FlushCacheExt.0).count();
    assert!(flushes < 8, "{flushes} commands for 8 flushes");
    assert_eq!(commands.len(), 16 + flushes);
    rig.ahci.check();
}

#[test]
fn what_was_flushed_or_forced_survives_power_cuts() {
    let (arena, pool) = arena();
    for (fua, queue) in [(true, Some(32)), (true, None), (false, Some(32)), (false, None)] {
        for seed in 0..8 {
            let drive = EmulatedDrive { fua, queue, ..EmulatedDrive::new(512) };
            let mut rig = Rig::new(one(drive), options(), &arena, seed);
            let mut disk = rig.disk(0);
            let _ = rig.ahci.take_commands();
            let op = write_op(&pool, 4096, 4096, 2, true);
            assert_eq!(rig.execute(&mut disk, op).1, Ok(()));
            let commands = rig.ahci.take_commands();
            assert_eq!(commands.len(), if fua { 1 } else { 2 }, "{commands:x?}");
            assert!(rig.ahci.is_durable(2, 8));
            assert_eq!(rig.write(&mut disk, &pool, 0, 1), Ok(()));
            assert!(!rig.ahci.is_durable(2, 0), "the cache is a cache");
            assert_eq!(rig.execute(&mut disk, Op::Flush).1, Ok(()));
            assert_eq!(rig.write(&mut disk, &pool, 8192, 3), Ok(()));
            rig.ahci.unplug(2);
            assert_eq!((rig.ahci.block(2, 0)[0], rig.ahci.block(2, 8)[0]), (1, 2));
            rig.ahci.check();
        }
    }
}

#[test]
fn polls_cost_one_register_and_commands_two_writes() {
    let (arena, pool) = arena();
    let config = AhciConfig { is_slow: false, ..one(EmulatedDrive::new(512)) };
    let rig = Rig::new(config, options(), &arena, 1);
    let mut disk = rig.disk(0);
    let mut done = Vec::with_capacity(32);
    disk.poll(&mut done);
    let before = rig.ahci.accesses();
    for tag in 0..32 {
        disk.submit(tag, write_op(&pool, tag * 4096, 4096, 1, false));
    }
    // Time stands still, so that nothing else is looked after.
    disk.poll(&mut done);
    rig.ahci.step(rig.time.now());
    disk.poll(&mut done);
    assert_eq!(done.len(), 32);
    let after = rig.ahci.accesses();
    assert_eq!(after.1 - before.1, 2, "PxSACT and PxCI, for all of them");
    // Three of the first poll, which also looks at PxIS and PxTFD, as it does once in a while. The
    // second reads PxSACT, PxCI and, since a single frame does not vouch for all of it, PxCMD.
    assert_eq!(after.0 - before.0, 6);
    let before = rig.ahci.accesses();
    disk.poll(&mut done);
    assert_eq!(rig.ahci.accesses(), before, "an idle port is left alone");
    rig.ahci.check();
}
