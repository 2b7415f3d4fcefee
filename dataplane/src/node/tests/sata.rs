//! Drives of an emulated adapter that are pulled and put back while a node serves them.

use super::rig::{Load, PATIENCE, Plugged, Rig, offline, online};
use super::*;
use crate::core::Clock;
use crate::disk::single::Unit;
use crate::dma::Arena;
use crate::pci::ControllerKind;
use crate::sim::Random;
use crate::sim::ahci::{AhciConfig, EmulatedAhci, EmulatedDevice, EmulatedDrive};
use std::time::Duration;

impl Plugged for EmulatedAhci {
    type Device = EmulatedDevice;

    const AT: &str = "0000:00:1f.2";

    const KIND: ControllerKind = ControllerKind::Ahci;

    fn is_there(&self) -> bool {
        self.is_inserted()
    }

    fn take(&self, arena: &Arena) -> EmulatedDevice {
        self.open(arena)
    }

    fn unit(number: usize) -> Unit {
        Unit::Port(number as u8)
    }

    fn follow(&self, clock: Clock) {
        self.set_clock(move || clock.now());
    }

    fn work(&self, now: Duration) {
        self.step(now);
    }

    fn check(&self) {
        EmulatedAhci::check(self);
    }
}

fn drive(number: usize) -> EmulatedDrive {
    let blocks = (64 << 20) >> 9;
    EmulatedDrive { serial: format!("EMULATED-{number}"), blocks, ..EmulatedDrive::new(512) }
}

/// A node on an adapter with so many drives.
fn serving(drives: usize) -> Rig<EmulatedAhci> {
    let of_ports = (0..drives).map(|port| (port as u8, Some(drive(port)))).collect();
    let config = AhciConfig { drives: of_ports, ..AhciConfig::default() };
    Rig::new(EmulatedAhci::new(config, 7), drives)
}

/// Why a drive cannot be served.
fn refusal(rig: &Rig<EmulatedAhci>, port: usize) -> String {
    match rig.order(online, port) {
        Err(CommandError::Disk(text)) => text,
        other => panic!("{other:?}"),
    }
}

#[test]
fn drives_go_and_return_one_by_one_while_others_are_served() {
    let rig = serving(3);
    let loads = [0, 1, 2].map(|port| rig.load(port));
    loads.iter().for_each(|load| load.go_on(50));
    for (port, states) in [(1, ["ok", "offline", "ok"]), (2, ["ok", "ok", "offline"])] {
        rig.device.unplug(port);
        rig.until(&states);
        loads[0].go_on(50);
        rig.device.plug(port, None);
        rig.until(&["ok"; 3]);
        loads.iter().for_each(|load| load.go_on(50));
    }
    // Two at once, and while the first is away.
    rig.device.unplug(1);
    rig.until(&["ok", "offline", "ok"]);
    rig.device.unplug(2);
    rig.until(&["ok", "offline", "offline"]);
    loads[0].go_on(50);
    rig.device.plug(2, None);
    rig.until(&["ok", "offline", "ok"]);
    rig.device.plug(1, None);
    rig.until(&["ok"; 3]);
    let failed = loads.map(Load::finish);
    assert_eq!(failed[0], 0, "the one that stayed has noticed nothing");
    assert!(failed[1] > 0 && failed[2] > 0, "{failed:?}");
}

#[test]
fn an_adapter_takes_its_drives_with_it_and_brings_them_back() {
    let rig = serving(3);
    let loads = [0, 1].map(|port| rig.load(port));
    // With one that is away, and one that is held.
    rig.device.unplug(1);
    rig.order(offline, 2).unwrap();
    rig.until(&["ok", "offline", "offline"]);
    rig.device.remove();
    rig.until(&["offline"; 3]);
    rig.device.insert();
    rig.until(&["ok", "offline", "offline"]);
    rig.device.plug(1, None);
    rig.until(&["ok", "ok", "offline"]);
    rig.order(online, 2).unwrap();
    rig.until(&["ok"; 3]);
    // All of them pulled is the end of the adapter, too, until one is there.
    (0..3).for_each(|port| rig.device.unplug(port));
    rig.until(&["offline"; 3]);
    (0..3).rev().for_each(|port| rig.device.plug(port, None));
    rig.until(&["ok"; 3]);
    loads.iter().for_each(|load| load.go_on(50));
    loads.into_iter().for_each(|load| _ = load.finish());
}

#[test]
fn whatever_happens_all_drives_return() {
    const STEPS: usize = 12;
    let rig = serving(3);
    let loads = [0, 1, 2].map(|port| rig.load(port));
    // 13 has an adapter away while all its drives are held, one after the other.
    let mut random =
        Random::new(std::env::var("PLUGGED_SEED").map_or(13, |seed| seed.parse().unwrap()));
    let (mut plugged, mut is_inserted) = ([true; 3], true);
    for _ in 0..STEPS {
        let port = random.below(3) as usize;
        match random.below(8) {
            0..3 if plugged[port] => {
                rig.device.unplug(port as u8);
                plugged[port] = false;
            }
            0..3 => {
                rig.device.plug(port as u8, None);
                plugged[port] = true;
            }
            3 => {
                if is_inserted {
                    rig.device.remove();
                } else {
                    rig.device.insert();
                }
                is_inserted = !is_inserted;
            }
            4 | 5 => rig.is_answered(offline, port),
            _ => rig.is_answered(online, port),
        }
        std::thread::sleep(Duration::from_millis(random.below(700)));
    }
    if !is_inserted {
        rig.device.insert();
    }
    let unplugged = (0..3).filter(|port| !plugged[*port]);
    unplugged.for_each(|port| rig.device.plug(port as u8, None));
    let clock = Clock::start();
    while !rig.is_steady() {
        (0..3).for_each(|port| rig.is_answered(online, port));
        assert!(clock.now() < PATIENCE, "{:#?}", rig.bench().node.events_since(0));
    }
    loads.iter().for_each(|load| load.go_on(50));
    loads.into_iter().for_each(|load| _ = load.finish());
}

#[test]
fn drives_that_are_absent_at_the_start_come_later() {
    let mut rig = serving(2);
    rig.stop();
    rig.device.unplug(1);
    rig.start();
    rig.until(&["ok", "offline"]);
    rig.device.plug(1, None);
    rig.until(&["ok", "ok"]);
    let loads = [0, 1].map(|port| rig.load(port));
    loads.iter().for_each(|load| load.go_on(50));
    assert_eq!(loads.map(Load::finish), [0, 0]);
}

#[test]
fn drives_are_taken_offline_one_by_one_and_the_adapter_with_the_last() {
    let rig = serving(2);
    let loads = [0, 1].map(|port| rig.load(port));
    loads.iter().for_each(|load| load.go_on(50));
    rig.order(offline, 1).unwrap();
    rig.until(&["ok", "offline"]);
    assert!(rig.state(1).1.contains("operator"), "{:?}", rig.state(1));
    assert!(matches!(rig.order(offline, 1), Err(CommandError::Invalid(_))), "it is already");
    assert!(matches!(rig.order(online, 0), Err(CommandError::Invalid(_))), "it is already");
    // It stays so, whatever is done to it.
    rig.device.unplug(1);
    rig.device.plug(1, None);
    loads[0].go_on(500);
    assert_eq!(rig.state(1).0, "offline");
    rig.order(online, 1).unwrap();
    rig.until(&["ok", "ok"]);
    loads.iter().for_each(|load| load.go_on(50));
    let failed = loads.map(Load::finish);
    assert_eq!(failed[0], 0);
    rig.order(offline, 0).unwrap();
    rig.order(offline, 1).unwrap();
    rig.until(&["offline", "offline"]);
    assert!(!rig.device.is_owned(), "the adapter is let go with the last");
    for port in [1, 0] {
        rig.order(online, port).unwrap();
        assert_eq!(rig.state(port).0, "ok");
    }
    let loads = [0, 1].map(|port| rig.load(port));
    loads.iter().for_each(|load| load.go_on(50));
    assert_eq!(loads.map(Load::finish), [0, 0]);
}

#[test]
fn another_drive_in_its_place_is_not_taken_for_it() {
    let rig = serving(3);
    let load = rig.load(0);
    let pull = |ports: &[u8]| {
        ports.iter().for_each(|port| rig.device.unplug(*port));
        while ports.iter().any(|port| rig.state((*port).into()).0 != "offline") {
            std::thread::sleep(Duration::from_millis(10));
        }
    };
    pull(&[1, 2]);
    assert!(refusal(&rig, 1).contains("no drive"), "{}", refusal(&rig, 1));
    // In each other's places.
    rig.device.swap(1, 2);
    [1, 2].into_iter().for_each(|port| rig.device.plug(port, None));
    assert!(refusal(&rig, 1).contains("another disk"), "{}", refusal(&rig, 1));
    assert!(refusal(&rig, 2).contains("another disk"), "{}", refusal(&rig, 2));
    [1, 2].into_iter().for_each(|port| rig.device.unplug(port));
    rig.device.swap(1, 2);
    [1, 2].into_iter().for_each(|port| rig.device.plug(port, None));
    for port in [1, 2] {
        rig.order(online, port).unwrap();
    }
    let others = [1, 2].map(|port| rig.load(port));
    others.iter().for_each(|load| load.go_on(50));
    others.into_iter().for_each(|load| _ = load.finish());
    // One that has never been formatted, and what is no disk.
    pull(&[1]);
    rig.device.plug(1, Some(drive(5)));
    assert!(refusal(&rig, 1).contains("basalt disk format"), "{}", refusal(&rig, 1));
    rig.device.unplug(1);
    rig.device.plug(1, Some(EmulatedDrive { signature: 0xeb14_0101, ..drive(6) }));
    assert!(refusal(&rig, 1).contains("no disk"), "{}", refusal(&rig, 1));
    load.go_on(50);
    assert_eq!(load.finish(), 0);
}

#[test]
fn a_drive_that_is_known_and_cannot_be_mounted_is_looked_at_again() {
    let mut rig = serving(2);
    rig.stop();
    let blocks = drive(1).blocks;
    let metadata = (128..blocks - 128).step_by(8);
    metadata.clone().for_each(|lba| rig.device.make_unreadable(1, lba));
    rig.start();
    rig.until(&["ok", "offline"]);
    assert!(refusal(&rig, 1).contains("checkpoint"), "{}", refusal(&rig, 1));
    // So it is when it comes late, with its adapter or alone.
    rig.device.remove();
    rig.until(&["offline"; 2]);
    rig.device.insert();
    rig.until(&["ok", "offline"]);
    assert!(refusal(&rig, 1).contains("checkpoint"), "{}", refusal(&rig, 1));
}

#[test]
fn offline_is_for_one_drive_also_while_its_adapter_goes() {
    let rig = serving(2);
    rig.device.unplug(1);
    rig.until(&["ok", "offline"]);
    std::thread::sleep(Duration::from_millis(200));
    rig.device.remove();
    std::thread::sleep(Duration::from_millis(150));
    rig.order(offline, 1).unwrap();
    rig.until(&["offline"; 2]);
    rig.device.insert();
    rig.device.plug(1, None);
    rig.until(&["ok", "offline"]);
    assert!(rig.state(1).1.contains("operator"), "{:?}", rig.state(1));
    rig.order(online, 1).unwrap();
    rig.until(&["ok"; 2]);
}

#[test]
fn online_is_done_for_a_drive_that_comes_back_by_itself() {
    let rig = serving(2);
    for _ in 0..2 {
        rig.device.unplug(1);
        rig.until(&["ok", "offline"]);
        std::thread::sleep(Duration::from_secs(3));
        rig.device.plug(1, None);
        std::thread::sleep(Duration::from_millis(20));
        match rig.order(online, 1) {
            // It was looked for a moment before.
            Err(CommandError::Disk(text)) => assert!(text.contains("no drive"), "{text}"),
            answer => assert!(answer.is_ok(), "{answer:?}"),
        }
        rig.until(&["ok"; 2]);
    }
}

#[test]
fn a_drive_that_does_not_come_up_leaves_the_adapter_to_the_others() {
    let rig = serving(2);
    let load = rig.load(0);
    rig.device.unplug(1);
    rig.until(&["ok", "offline"]);
    load.go_on(50);
    let resets = rig.device.resets();
    rig.device.plug(1, Some(EmulatedDrive { blocks: 0, ..drive(5) }));
    let events = || rig.bench().node.events_since(0);
    while events().iter().filter(|event| event.kind == "disk.refused").count() < 2 {
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(rig.device.resets(), resets);
    load.go_on(50);
    assert_eq!(load.finish(), 0);
}

#[test]
fn online_tells_of_the_drive_and_not_of_its_adapter() {
    let rig = serving(2);
    [0, 1].into_iter().for_each(|port| rig.device.unplug(port));
    rig.until(&["offline"; 2]);
    rig.device.plug(0, None);
    assert!(refusal(&rig, 1).contains("no drive"), "{:?}", rig.state(1));
    rig.until(&["ok", "offline"]);
    rig.device.remove();
    rig.until(&["offline"; 2]);
    rig.device.insert();
    assert!(refusal(&rig, 1).contains("no drive"), "{:?}", rig.state(1));
}

#[test]
fn a_drive_is_exchanged_while_it_is_held() {
    let rig = serving(2);
    rig.order(offline, 1).unwrap();
    rig.order(offline, 0).unwrap();
    assert!(!rig.device.is_owned(), "the last takes the adapter with it");
    rig.order(online, 0).unwrap();
    rig.device.unplug(1);
    std::thread::sleep(Duration::from_millis(300));
    rig.device.plug(1, None);
    std::thread::sleep(Duration::from_millis(300));
    rig.order(online, 1).unwrap();
    rig.until(&["ok"; 2]);
}
