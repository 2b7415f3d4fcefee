//! Bring-up: what is found out, what is refused, what fails.

use super::{Rig, arena};
use crate::disk::nvme::{NvmeEvent, NvmeOptions, Trouble};
use crate::disk::{Disk, single};
use crate::sim::nvme::{EmulatedNamespace, EmulatedNvme, NvmeConfig, NvmeFault, NvmeFaults};
use std::cell::Cell;
use std::time::Duration;
use storage_spec::fabrics::ReadyTimeouts;
use storage_spec::nvme::status::Status;

#[test]
fn a_disk_is_what_its_namespace_says() {
    let (arena, _pool) = arena();
    let config = NvmeConfig {
        atomic_z: 11,
        transfer_shift: 5,
        namespaces: vec![EmulatedNamespace::new(4, 512)],
        ..NvmeConfig::default()
    };
    let rig = Rig::new(config, NvmeOptions::default(), &arena, 1);
    let disk = rig.disk(0, 0);
    let info = disk.info();
    assert_eq!(info.name, "0000:01:00.0n4");
    assert_eq!((info.capacity, info.block_size), (16 << 20, 512));
    assert_eq!(info.atomic_write, 4096, "12 blocks, of which 8 are a power of two");
    assert_eq!(info.transfer_max, 128 << 10);
    assert_eq!(info.queue_depth, 255);
    assert!(info.volatile_cache && info.fua && info.deallocate && !info.rotational);
    assert_eq!(&rig.controller.identity().unwrap().serial[..8], b"EMULATED");
    rig.nvme.check();
}

#[test]
fn queues_are_as_many_as_both_want() {
    let (arena, _pool) = arena();
    for (has, wants, gets) in [(1, 4, 1), (8, 3, 3), (16, 16, 16)] {
        let config = NvmeConfig { queues: has, ..NvmeConfig::default() };
        let options = NvmeOptions { queues: wants, ..NvmeOptions::default() };
        assert_eq!(Rig::new(config, options, &arena, 1).queues.len(), gets);
    }
}

#[test]
fn two_hundred_namespaces_are_found() {
    let (arena, _pool) = arena();
    let namespaces = (1..=200).map(|id| EmulatedNamespace::new(id * 3, 4096)).collect();
    let config = NvmeConfig { namespaces, ..NvmeConfig::default() };
    let rig = Rig::new(config, NvmeOptions::default(), &arena, 1);
    let ids: Vec<u32> = rig.controller.namespaces().map(|one| one.facts().id).collect();
    assert_eq!(ids, (1..=200).map(|id| id * 3).collect::<Vec<_>>());
}

#[test]
fn what_cannot_be_used_is_told_and_left() {
    let (arena, _pool) = arena();
    let odd =
        EmulatedNamespace { extended: true, ..EmulatedNamespace::with_metadata(2, 512, 16, 0) };
    let namespaces = vec![odd, EmulatedNamespace::new(5, 4096)];
    let config = NvmeConfig { namespaces, ..NvmeConfig::default() };
    let rig = Rig::new(config, NvmeOptions::default(), &arena, 1);
    let ids: Vec<u32> = rig.controller.namespaces().map(|one| one.facts().id).collect();
    assert_eq!(ids, [5]);
    let is_told = |event: &NvmeEvent| {
        matches!(event, NvmeEvent::NamespaceRefused(2, Trouble::Unsupported(_)))
    };
    assert!(rig.events.iter().any(is_told));
}

#[test]
fn a_controller_that_is_stuck_gets_a_function_level_reset() {
    let (arena, _pool) = arena();
    let nvme = EmulatedNvme::new(NvmeConfig::default(), 1);
    nvme.set_stuck(true);
    let mut rig = Rig::cold(&nvme, nvme.open(&arena), NvmeOptions::default());
    rig.bring_up();
    let first = rig.events.first();
    assert_eq!(first, Some(&NvmeEvent::Resetting(Trouble::NotReady(true))));
}

#[test]
fn a_controller_that_stays_stuck_is_given_up() {
    let (arena, _pool) = arena();
    let nvme = EmulatedNvme::new(NvmeConfig::default(), 1);
    nvme.set_stuck(true);
    nvme.set_reset_helps(false);
    let mut rig = Rig::cold(&nvme, nvme.open(&arena), NvmeOptions::default());
    rig.until("it is given up", |rig| rig.controller.end().is_some());
    assert!(matches!(rig.controller.end(), Some(Some(Trouble::Hopeless(_)))));
    nvme.check();
    // Somebody else may try.
    nvme.set_stuck(false);
    Rig::cold(&nvme, nvme.open(&arena), NvmeOptions::default()).bring_up();
}

/// A controller whose media take some seconds.
fn slow_to_be_ready(seconds: u64, timeouts: ReadyTimeouts) -> EmulatedNvme {
    let media_take = Duration::from_secs(seconds);
    EmulatedNvme::new(
        NvmeConfig {
            version: 0x0002_0000,
            media_take,
            ready_timeouts: timeouts,
            ..NvmeConfig::default()
        },
        1,
    )
}

#[test]
fn a_controller_gets_the_time_that_it_asks_for() {
    let (arena, _pool) = arena();
    let asked = ReadyTimeouts::new().with_with_media(400);
    // Firmware that did not wait for media has CAP.TO say how long that takes.
    let other = asked.with_independent_of_media(2);
    for (timeouts, is_left_by_firmware) in [(asked, false), (other, false), (other, true)] {
        let nvme = slow_to_be_ready(190, timeouts);
        if is_left_by_firmware {
            nvme.leave_by_firmware();
        }
        let clock = Cell::new(Duration::ZERO);
        let now = || {
            clock.set(clock.get() + Duration::from_millis(50));
            nvme.step(clock.get());
            clock.get()
        };
        let brought_up = single::bring_up(nvme.open(&arena), NvmeOptions::default(), &now);
        let mut controller = brought_up.ok().unwrap();
        let events = std::iter::from_fn(|| controller.take_event());
        assert_eq!(events.collect::<Vec<_>>(), [NvmeEvent::Running], "it was never reset");
        assert_eq!(nvme.enabled(), 1);
        drop(controller);
        nvme.check();
    }
}

#[test]
fn a_controller_does_not_get_more_time_than_there_is() {
    let (arena, _pool) = arena();
    // One that asks for nothing beyond CAP.TO, for less than that, and for hours.
    let asked = |units| ReadyTimeouts::new().with_with_media(units);
    for (timeouts, seconds) in [(asked(0), 10), (asked(1), 10), (asked(u16::MAX), 601)] {
        let nvme = slow_to_be_ready(seconds, timeouts);
        let mut rig = Rig::cold(&nvme, nvme.open(&arena), NvmeOptions::default());
        for _ in 0..seconds * 10 {
            rig.pass(Duration::from_millis(100));
        }
        let first = rig.events.first();
        assert_eq!(first, Some(&NvmeEvent::Resetting(Trouble::NotReady(true))), "{timeouts:?}");
    }
}

#[test]
fn one_that_fails_while_it_is_described_is_reset() {
    for fault in NvmeFault::ALL {
        for seed in 0..8 {
            let (arena, _pool) = arena();
            let nvme = EmulatedNvme::new(NvmeConfig::default(), seed);
            let faults =
                NvmeFaults { kinds: vec![fault], chance: 1500, admin: true, stuck_ready: 0 };
            nvme.set_faults(faults);
            let mut rig = Rig::cold(&nvme, nvme.open(&arena), NvmeOptions::default());
            rig.until("it runs or is given up", |rig| {
                rig.controller.is_running() || rig.controller.end().is_some()
            });
            nvme.set_faults(NvmeFaults::default());
            rig.nvme.check();
        }
    }
}

#[test]
fn a_refusal_ends_the_attempts() {
    let (arena, _pool) = arena();
    let nvme = EmulatedNvme::new(NvmeConfig::default(), 1);
    let kinds = vec![NvmeFault::Error(Status::INVALID_FIELD.dnr())];
    nvme.set_faults(NvmeFaults { kinds, chance: 10_000, admin: true, stuck_ready: 0 });
    let mut rig = Rig::cold(&nvme, nvme.open(&arena), NvmeOptions::default());
    rig.until("it is given up", |rig| rig.controller.end().is_some());
    assert!(rig.time.now() < Duration::from_secs(60));
}

#[test]
fn a_device_that_is_not_there_is_removed() {
    let (arena, _pool) = arena();
    let nvme = EmulatedNvme::new(NvmeConfig::default(), 1);
    nvme.remove();
    let mut rig = Rig::cold(&nvme, nvme.open(&arena), NvmeOptions::default());
    rig.tick();
    assert_eq!(rig.controller.end(), Some(Some(&Trouble::Removed)));
}
