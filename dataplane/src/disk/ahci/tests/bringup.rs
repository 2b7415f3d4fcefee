//! From power to drives: handoff, discovery, what drives say of themselves, what is refused.

use super::{AhciEvent, Rig, arena, one, options, write_op};
use crate::disk::ahci::{AhciOptions, Trouble};
use crate::disk::health::{Concern, Health};
use crate::disk::single;
use crate::disk::{Disk, Error, Op};
use crate::sim::ahci::{AhciConfig, EmulatedAhci, EmulatedDrive};
use std::cell::Cell;
use std::time::Duration;
use storage_spec::ata::SIGNATURE_MULTIPLIER;

#[test]
fn drives_tell_what_they_are() {
    let (arena, _) = arena();
    let turning = EmulatedDrive { rotation: 7200, trim: None, ..EmulatedDrive::new(4096) };
    let config = AhciConfig {
        drives: vec![(0, Some(EmulatedDrive::emulating_512())), (3, None), (31, Some(turning))],
        ..AhciConfig::default()
    };
    let rig = Rig::new(config, options(), &arena, 1);
    // In whatever order: ports are independent.
    assert_eq!(rig.events.len(), 2);
    assert!([0, 31].iter().all(|&port| rig.events.contains(&AhciEvent::Found(port))));
    let facts: Vec<_> = rig.ports.iter().map(super::AhciPort::facts).collect();
    assert_eq!(facts[0].model, "BASALT EMULATED DISK");
    assert_eq!((&*facts[0].serial, &*facts[0].firmware), ("EMULATED-1", "FW 1.0"));
    assert_eq!((facts[0].block_shift, facts[0].physical_shift), (9, 12));
    assert_eq!((facts[1].block_shift, facts[1].physical_shift), (12, 12));
    assert_eq!((facts[0].queue, facts[0].trim_blocks), (Some(32), Some(8)));
    assert!(facts[0].trim_is_deterministic && facts[0].trim_reads_zero);
    assert_eq!((facts[0].turns, facts[1].turns), (None, Some(7200)));
    let infos = [0, 1].map(|port| rig.disk(port).info().clone());
    assert_eq!(infos[1].name, "0000:00:1f.2/31");
    assert_eq!((infos[0].capacity, infos[0].block_size), (16 << 20, 512));
    assert_eq!((infos[1].capacity, infos[1].block_size), (16 << 20, 4096));
    assert!(infos[0].deallocate && !infos[1].deallocate);
    assert!(!infos[0].rotational && infos[1].rotational);
    rig.ahci.check();
}

#[test]
fn the_firmware_hands_over_or_is_dead() {
    let (arena, _) = arena();
    for is_alive in [true, false] {
        for staggered in [true, false] {
            let firmware = Some(is_alive);
            let config = AhciConfig { firmware, staggered, ..AhciConfig::default() };
            let rig = Rig::new(config, options(), &arena, 3);
            assert_eq!(rig.ports.len(), 1);
            rig.ahci.check();
        }
    }
}

#[test]
fn what_is_no_disk_is_refused_by_name() {
    let (arena, _) = arena();
    for (signature, what) in
        [(SIGNATURE_MULTIPLIER, "a port multiplier"), (0xEB14_0101, "no disk, by its signature")]
    {
        let config = one(EmulatedDrive { signature, ..EmulatedDrive::new(512) });
        let rig = Rig::new(config, options(), &arena, 1);
        assert!(rig.ports.is_empty());
        assert_eq!(rig.events, [AhciEvent::Refused(2, Trouble::Unsupported(what))]);
        rig.ahci.check();
    }
}

#[test]
fn an_adapter_that_reaches_4_gib_is_refused_beyond_them() {
    let (arena, _) = arena();
    let config = AhciConfig { address_64: false, ..AhciConfig::default() };
    let ahci = EmulatedAhci::new(config, 1);
    let mut rig = Rig::cold(&ahci, ahci.open(&arena), options());
    rig.until("it has ended", |rig| rig.hba.end().is_some());
    assert_eq!(rig.hba.end(), Some(&Trouble::Unsupported("memory above 4 GiB")));
    ahci.check();
}

#[test]
fn an_adapter_that_is_not_there_or_stuck_ends_by_name() {
    let (arena, _) = arena();
    let ahci = EmulatedAhci::new(AhciConfig::default(), 1);
    ahci.remove();
    let mut rig = Rig::cold(&ahci, ahci.open(&arena), options());
    rig.tick();
    assert_eq!(rig.hba.end(), Some(&Trouble::Removed));
    drop(rig);
    ahci.insert();
    ahci.set_stuck(true);
    let mut rig = Rig::cold(&ahci, ahci.open(&arena), options());
    rig.until("it has ended", |rig| rig.hba.end().is_some());
    assert_eq!(rig.hba.end(), Some(&Trouble::ResetStuck));
    ahci.check();
}

#[test]
fn smart_is_told_in_the_terms_of_all_drives() {
    let (arena, pool) = arena();
    let mut rig = Rig::new(one(EmulatedDrive::new(512)), options(), &arena, 1);
    let mut disk = rig.disk(0);
    assert_eq!(rig.ports[0].health(), None);
    for (is_failing, attribute) in
        [(false, (194, 60, 41)), (false, (9, 99, 1234)), (true, (177, 88, 0))]
    {
        rig.ahci.set_smart(2, is_failing, attribute);
    }
    rig.ports[0].ask_health();
    // Among other commands, for which the queue drains.
    for tag in 0..20 {
        disk.submit(tag, write_op(&pool, tag * 4096, 4096, 1, false));
    }
    let done = rig.wait(&mut disk);
    assert!(done.iter().all(|completion| completion.result.is_ok()));
    rig.until("it has told", |rig| {
        rig.ports[0].poll();
        rig.ports[0].health().is_some_and(|health| health.temperature.is_some())
    });
    let expected = Health {
        is_failing: true,
        temperature: Some(41),
        power_on_hours: Some(1234),
        used_percent: Some(12),
        ..Health::default()
    };
    assert_eq!(rig.ports[0].health(), Some(expected));
    assert_eq!(expected.concerns(&[]), [Concern::Failing]);
    rig.ahci.check();
    let config = one(EmulatedDrive { smart: false, ..EmulatedDrive::new(512) });
    let mut rig = Rig::new(config, options(), &arena, 1);
    rig.ports[0].ask_health();
    let mut disk = rig.disk(0);
    assert_eq!(rig.write(&mut disk, &pool, 0, 1), Ok(()));
    assert_eq!(rig.ports[0].health(), None);
}

#[test]
fn large_trims_take_several_commands() {
    let (arena, _) = arena();
    let blocks = 1 << 33;
    for (trim, expected) in [(1, 2049), (8, 257), (100, 257)] {
        let drive = EmulatedDrive { blocks, trim: Some(trim), ..EmulatedDrive::new(512) };
        let mut rig = Rig::new(one(drive), options(), &arena, 1);
        let mut disk = rig.disk(0);
        let _ = rig.ahci.take_commands();
        let op = Op::Deallocate { offset: 0, len: disk.info().capacity };
        assert_eq!(rig.execute(&mut disk, op).1, Ok(()));
        let commands = rig.ahci.take_commands();
        assert_eq!((commands.len(), commands[0]), (expected, 0x06));
        rig.ahci.check();
    }
}

#[test]
fn without_trim_there_is_no_deallocation() {
    let (arena, _) = arena();
    let config = one(EmulatedDrive { trim: None, ..EmulatedDrive::new(512) });
    let mut rig = Rig::new(config, options(), &arena, 1);
    let mut disk = rig.disk(0);
    let op = Op::Deallocate { offset: 0, len: 4096 };
    assert_eq!(rig.execute(&mut disk, op).1, Err(Error::Unsupported));
}

#[test]
fn one_port_may_be_taken_alone() {
    let (arena, _) = arena();
    let multiplier = EmulatedDrive { signature: SIGNATURE_MULTIPLIER, ..EmulatedDrive::new(512) };
    let drives = vec![(0, Some(EmulatedDrive::new(512))), (1, None), (2, Some(multiplier))];
    let ahci = EmulatedAhci::new(AhciConfig { drives, ..AhciConfig::default() }, 1);
    let time = Cell::new(Duration::ZERO);
    let tick = || {
        time.set(time.get() + Duration::from_micros(500));
        ahci.step(time.get());
        time.get()
    };
    let opened = single::bring_up_adapter(ahci.open(&arena), AhciOptions::default(), &tick);
    let (mut hba, refused) = opened.unwrap();
    let mut text = |port| {
        let taken = single::take_drive(&mut hba, &refused, port);
        taken.map(|seat| seat.facts().blocks).map_err(|error| error.to_string())
    };
    let none = |port: &str| Err(format!("0000:00:1f.2: no drive on port {port}; it has: 0"));
    assert_eq!(text(1), none("1"));
    assert_eq!(text(2), none("2 (not supported: a port multiplier)"));
    assert_eq!(text(0), Ok(32768));
    let error = text(0).unwrap_err();
    assert!(error.ends_with("it has: none"), "{error}");
    ahci.check();
}
