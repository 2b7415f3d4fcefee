//! Every way in which things go wrong, one at a time.

use super::{AhciEvent, EmulatedDisk, Rig, arena, byte_of, one, options, read_op, write_op};
use crate::disk::ahci::{AhciOptions, Trouble};
use crate::disk::{Completion, Disk, Error, Op};
use crate::dma::Pool;
use crate::sim::ahci::{AhciConfig, AhciFault, AhciFaults, EmulatedAhci, EmulatedDrive};

/// Writes and reads 32 places, with a fault in the midst of each; nothing of it may be seen.
fn survives(rig: &mut Rig, disk: &mut EmulatedDisk, pool: &Pool, fault: AhciFault) {
    for round in 0..2 {
        rig.ahci.inject(2, fault);
        for index in 0..32 {
            let op = match round {
                0 => write_op(pool, index * 4096, 4096, index as u8 + 1, index == 9),
                _ => read_op(pool, index * 4096, 4096),
            };
            disk.submit(index, op);
        }
        let done = rig.wait(disk);
        assert_eq!(done.len(), 32);
        for Completion { tag, op, result } in done {
            assert_eq!(result, Ok(()), "{fault:?}");
            if round == 1 {
                assert_eq!(byte_of(&op), tag as u8 + 1);
            }
        }
    }
    rig.ahci.inject(2, fault);
    assert_eq!(rig.execute(disk, Op::Flush).1, Ok(()), "{fault:?}");
    rig.ahci.check();
}

#[test]
fn each_fault_is_survived() {
    let (arena, pool) = arena();
    for queue in [None, Some(1), Some(32)] {
        for fault in AhciFault::ALL {
            for seed in 0..4 {
                let drive = EmulatedDrive { queue, ..EmulatedDrive::new(512) };
                // Faults come faster here than the patience with a drive lasts.
                let options = AhciOptions { resets_max: 20, ..options() };
                let mut rig = Rig::new(one(drive), options, &arena, seed);
                let mut disk = rig.disk(0);
                survives(&mut rig, &mut disk, &pool, fault);
                assert_eq!(pool.available(), pool.size());
            }
        }
    }
}

#[test]
fn a_port_that_does_not_stop_takes_a_reset_of_the_adapter() {
    let (arena, pool) = arena();
    let mut rig = Rig::new(one(EmulatedDrive::new(512)), options(), &arena, 1);
    let mut disk = rig.disk(0);
    rig.ahci.inject(2, AhciFault::StuckRunning);
    assert_eq!(rig.write(&mut disk, &pool, 0, 1), Ok(()));
    assert_eq!(rig.ahci.resets(), 2);
    assert!(rig.events.contains(&AhciEvent::Resetting));
    rig.ahci.check();
}

#[test]
fn a_drive_is_given_up_after_resets_of_its_link_and_of_the_adapter() {
    let (arena, pool) = arena();
    let mut rig = Rig::new(AhciConfig::default(), options(), &arena, 1);
    let mut disk = rig.disk(0);
    assert_eq!(rig.write(&mut disk, &pool, 0, 1), Ok(()));
    rig.ahci.set_faults(AhciFaults { kinds: vec![AhciFault::Stuck], chance: 10_000 });
    disk.submit(1, write_op(&pool, 0, 4096, 2, false));
    disk.submit(2, read_op(&pool, 4096, 4096));
    let done = rig.wait(&mut disk);
    assert!(done.iter().all(|completion| completion.result == Err(Error::Failed)), "{done:?}");
    assert!(rig.ports[0].has_ended());
    let trouble = rig.ports[0].trouble();
    assert!(matches!(trouble, Some(Trouble::Hopeless(_))), "{trouble:?}");
    assert_eq!(rig.ahci.resets(), 3, "at bring-up, and as the third and fourth try");
    assert_eq!(rig.write(&mut disk, &pool, 0, 1), Err(Error::Failed));
    assert_eq!(rig.read(&mut disk, &pool, 0), Err(Error::Failed));
    drop(done);
    assert_eq!(pool.available(), pool.size());
    assert!(rig.hba.end().is_none(), "other ports may go on");
    rig.ahci.check();
}

#[test]
fn an_adapter_that_cannot_be_reset_fails_all_its_ports() {
    let (arena, pool) = arena();
    let drive = || Some(EmulatedDrive::new(512));
    let config = AhciConfig { drives: vec![(2, drive()), (4, drive())], ..AhciConfig::default() };
    let mut rig = Rig::new(config, options(), &arena, 1);
    let mut disks = [rig.disk(0), rig.disk(1)];
    rig.ahci.set_stuck(true);
    rig.ahci.inject(2, AhciFault::StuckRunning);
    for disk in &mut disks {
        disk.submit(1, write_op(&pool, 0, 4096, 2, false));
    }
    let mut done = Vec::with_capacity(2);
    rig.until("the first ends", |_| {
        disks.iter_mut().for_each(|disk| disk.poll(&mut done));
        disks.iter().all(|disk| disk.in_flight() == 0) && disks[1].port().has_ended()
    });
    assert_eq!(rig.hba.end(), Some(&Trouble::ResetStuck));
    assert_eq!(rig.read(&mut disks[0], &pool, 0), Err(Error::Failed));
    assert_eq!(rig.read(&mut disks[1], &pool, 0), Err(Error::Failed));
    drop(done);
    assert_eq!(pool.available(), pool.size());
    rig.ahci.check();
}

#[test]
fn an_adapter_torn_out_fails_everything_and_may_come_back() {
    let (arena, pool) = arena();
    for depth in [5, 32] {
        let mut rig = Rig::new(one(EmulatedDrive::new(512)), options(), &arena, depth);
        let mut disk = rig.disk(0);
        assert_eq!(rig.write(&mut disk, &pool, 0, 3), Ok(()));
        for tag in 0..depth {
            disk.submit(tag, write_op(&pool, 4096 + tag * 4096, 4096, 4, false));
        }
        rig.ahci.remove();
        let done = rig.wait(&mut disk);
        assert_eq!(done.len() as u64, depth);
        assert!(done.iter().all(|completion| completion.result == Err(Error::Removed)));
        drop(done);
        assert_eq!(rig.hba.end(), Some(&Trouble::Removed));
        assert_eq!(rig.read(&mut disk, &pool, 0), Err(Error::Removed));
        assert_eq!(pool.available(), pool.size());
        let ahci: EmulatedAhci = rig.ahci.clone();
        drop(disk);
        drop(rig);
        ahci.insert();
        let mut rig = Rig::cold(&ahci, ahci.open(&arena), options());
        rig.bring_up();
        let mut disk = rig.disk(0);
        assert_eq!(rig.read(&mut disk, &pool, 0), Ok(3));
        ahci.check();
    }
}

#[test]
fn a_drive_unplugged_fails_alone_and_is_found_again() {
    let (arena, pool) = arena();
    let drive = || Some(EmulatedDrive::new(512));
    let config = AhciConfig { drives: vec![(2, drive()), (4, drive())], ..AhciConfig::default() };
    let mut rig = Rig::new(config, options(), &arena, 1);
    let (mut disk, mut other) = (rig.disk(0), rig.disk(1));
    assert_eq!(rig.write(&mut disk, &pool, 0, 3), Ok(()));
    assert_eq!(rig.execute(&mut disk, Op::Flush).1, Ok(()));
    for tag in 0..20 {
        disk.submit(tag, write_op(&pool, 4096 + tag * 4096, 4096, 4, false));
    }
    rig.tick();
    rig.ahci.unplug(2);
    let done = rig.wait(&mut disk);
    assert_eq!(done.len(), 20);
    let is_removed = |done: &Completion| done.result == Err(Error::Removed);
    assert!(done.iter().filter(|done| is_removed(done)).count() > 0);
    assert!(done.iter().all(|done| done.result.is_ok() || is_removed(done)));
    drop(done);
    assert_eq!(rig.ports[0].trouble(), Some(Trouble::Removed));
    assert_eq!(rig.read(&mut disk, &pool, 0), Err(Error::Removed));
    assert_eq!(rig.write(&mut other, &pool, 0, 5), Ok(()), "others do not care");
    rig.hba.probe().unwrap();
    assert!(rig.hba.is_searched(), "somebody still has handles on it");
    drop(disk);
    drop(rig.ports.remove(0));
    rig.hba.probe().unwrap();
    rig.until("it has looked", |rig| rig.hba.is_searched());
    assert!(rig.hba.take_seat().is_none(), "there is nothing");
    rig.ahci.plug(2, None);
    rig.hba.probe().unwrap();
    rig.until("it has looked", |rig| rig.hba.is_searched());
    rig.attach();
    let mut disk = rig.disk(0);
    assert_eq!(rig.read(&mut disk, &pool, 0), Ok(3));
    assert_eq!(rig.read(&mut other, &pool, 0), Ok(5));
    rig.ahci.check();
}

#[test]
fn an_idle_drive_that_is_exchanged_is_not_taken_for_the_same() {
    let (arena, pool) = arena();
    let mut rig = Rig::new(one(EmulatedDrive::new(512)), options(), &arena, 1);
    let mut disk = rig.disk(0);
    rig.ahci.unplug(2);
    let other = EmulatedDrive { serial: "ANOTHER".into(), ..EmulatedDrive::new(512) };
    rig.ahci.plug(2, Some(other));
    for _ in 0..1000 {
        rig.ahci.step(rig.time.now() + std::time::Duration::from_millis(20));
    }
    // Its link is as good as before: only the event tells.
    let mut done = Vec::with_capacity(1);
    for _ in 0..1000 {
        rig.tick();
        disk.poll(&mut done);
    }
    assert_eq!(rig.read(&mut disk, &pool, 0), Err(Error::Removed));
    drop(disk);
    rig.ports.clear();
    rig.hba.probe().unwrap();
    rig.until("it has looked", |rig| rig.hba.is_searched());
    rig.attach();
    assert_eq!(rig.ports[0].facts().serial, "ANOTHER");
    rig.ahci.check();
}

#[test]
fn a_drive_that_lost_its_power_during_a_reset_is_found_out() {
    // A reset of its link, and one of the whole adapter.
    for fault in [AhciFault::Interface, AhciFault::StuckRunning] {
        let (arena, pool) = arena();
        let mut rig = Rig::new(one(EmulatedDrive::new(512)), options(), &arena, 1);
        let mut disk = rig.disk(0);
        rig.ahci.inject(2, fault);
        assert_eq!(rig.write(&mut disk, &pool, 0, 3), Ok(()), "a reset alone loses nothing");
        rig.ahci.blink(2);
        rig.ahci.inject(2, fault);
        assert_eq!(rig.write(&mut disk, &pool, 4096, 4), Err(Error::Removed));
        assert_eq!(rig.execute(&mut disk, Op::Flush).1, Err(Error::Removed));
        assert_eq!(rig.ports[0].trouble(), Some(Trouble::PowerLost));
        drop(disk);
        rig.ports.clear();
        rig.hba.probe().unwrap();
        rig.until("it has looked", |rig| rig.hba.is_searched());
        rig.attach();
        let mut disk = rig.disk(0);
        assert_eq!(rig.write(&mut disk, &pool, 0, 5), Ok(()), "it is as good as new");
        rig.ahci.check();
    }
}

#[test]
fn a_drive_that_has_nothing_to_lose_goes_on_without_power_for_a_moment() {
    let without_cache = EmulatedDrive { volatile_cache: false, ..EmulatedDrive::new(512) };
    let untold = EmulatedDrive { counts_power_ons: false, ..EmulatedDrive::new(512) };
    let (arena, pool) = arena();
    for drive in [without_cache, untold] {
        let mut rig = Rig::new(one(drive), options(), &arena, 1);
        let mut disk = rig.disk(0);
        rig.ahci.blink(2);
        rig.ahci.inject(2, AhciFault::Interface);
        assert_eq!(rig.write(&mut disk, &pool, 0, 3), Ok(()), "nobody can tell, or need");
        assert_eq!(rig.ahci.link_resets(), 2);
        rig.ahci.check();
    }
}
