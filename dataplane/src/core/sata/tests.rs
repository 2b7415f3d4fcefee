use super::*;
use crate::core::{DevicePart, Devices};
use crate::disk::ahci::AhciOptions;
use crate::disk::{Disk, Op, single};
use crate::dma::{Arena, Pool};
use crate::pci::PciAddress;
use crate::sim::ahci::{AhciConfig, AhciFault, EmulatedAhci, EmulatedDrive, EmulatedRegisters};
use crate::uring::Waker;
use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use storage_spec::ata::AtaCommand;

const TICK: Now = Now::from_micros(500);

/// A core with an adapter and the drives on its ports 0 and, if there is one, 1.
struct Bench {
    ahci: EmulatedAhci,
    arena: Arena,
    devices: Devices,
    disk: Option<Box<dyn Disk>>,
    other: Option<Box<dyn Disk>>,
    probe: Option<Probe<EmulatedRegisters>>,
    pool: Pool,
    now: Now,
    events: Vec<(Severity, String, String)>,
    lost: [Arc<AtomicBool>; 2],
    other_lost: Arc<AtomicBool>,
}

fn at() -> PciAddress {
    "0000:00:1f.2".parse().unwrap()
}

fn drive_at(port: u8) -> DevicePart {
    DevicePart { device: at(), port: Some(port) }
}

impl Bench {
    fn new(drive: EmulatedDrive) -> Self {
        Self::of(vec![drive])
    }

    fn of(drives: Vec<EmulatedDrive>) -> Self {
        let drives = (0..).zip(drives.into_iter().map(Some)).collect();
        let ahci = EmulatedAhci::new(AhciConfig { drives, ..AhciConfig::default() }, 1);
        let arena = Arena::new(4 << 20, 1).unwrap();
        let pool = arena.pool(0);
        let (devices, lost) = (Devices::default(), Default::default());
        let (now, events) = (Now::ZERO, Vec::new());
        let (disk, other, probe, other_lost) = (None, None, None, Arc::default());
        let mut bench =
            Self { ahci, arena, devices, disk, other, probe, pool, now, events, lost, other_lost };
        bench.bring_up();
        bench
    }

    /// Puts the adapter and its drive on the core.
    fn bring_up(&mut self) {
        let time = Cell::new(self.now);
        let tick = || {
            time.set(time.get() + TICK);
            self.ahci.step(time.get());
            time.get()
        };
        let device = self.ahci.open(&self.arena);
        let opened = single::bring_up_adapter(device, AhciOptions::default(), &tick);
        let (mut hba, refused) = opened.unwrap();
        self.now = time.get();
        let devices = &mut self.devices;
        devices.time().set(self.now);
        let seat = single::take_drive(&mut hba, &refused, 0).unwrap();
        let other = hba.take_seat_of(1);
        let port = seat.attach(Waker::unneeded(), devices.time());
        self.disk = Some(Box::new(port.open()));
        self.lost = Default::default();
        let [adapter, drive] = self.lost.clone();
        let (hba, probe) = SataAdapter::new(hba);
        self.probe = Some(probe);
        devices.add_controller(at(), Box::new(hba), adapter);
        devices.add_queue(drive_at(0), Box::new(port.clone()));
        devices.add_controller(drive_at(0), Box::new(SataDrive::new(port)), drive);
        if let Some(seat) = other {
            self.take_other(seat);
        }
    }

    /// Puts the drive on port 1 on the core.
    fn take_other(&mut self, seat: AhciSeat<EmulatedRegisters>) {
        let devices = &mut self.devices;
        let port = seat.attach(Waker::unneeded(), devices.time());
        self.other = Some(Box::new(port.open()));
        self.other_lost = Arc::default();
        let lost = self.other_lost.clone();
        devices.add_queue(drive_at(1), Box::new(port.clone()));
        devices.add_controller(drive_at(1), Box::new(SataDrive::new(port)), lost);
    }

    /// Whether a block of a disk can be read.
    fn reads(&mut self, disk: fn(&mut Self) -> &mut Option<Box<dyn Disk>>) -> bool {
        let buf = self.pool.alloc(4096).unwrap();
        let mut done = Vec::with_capacity(1);
        disk(self).as_mut().unwrap().submit(1, Op::Read { offset: 0, buf });
        while done.is_empty() {
            self.run(TICK);
            disk(self).as_mut().unwrap().poll(&mut done);
        }
        done[0].result.is_ok()
    }

    /// What the adapter has found, and lets go of it.
    fn sighted(&self) -> Option<(u8, Result<(), Trouble>)> {
        let sighting = self.probe.as_ref()?.take()?;
        Some((sighting.port, sighting.found.map(drop)))
    }

    /// Lets go of all of it.
    fn release(&mut self) {
        self.disk = None;
        self.devices.release(at().into());
        let start = self.now;
        while !self.devices.is_released(at().into()) {
            self.run(TICK);
        }
        assert!(self.now - start < END_MAX, "nobody lost patience");
        assert_eq!(self.devices.deadline(self.now), None, "nothing is left");
        assert!(!self.devices.must_poll());
    }

    /// Whether the adapter and the drive are known to be lost.
    fn lost(&self) -> [bool; 2] {
        self.lost.each_ref().map(|lost| lost.load(Ordering::Relaxed))
    }

    fn run(&mut self, time: Now) {
        let until = self.now + time;
        while self.now < until {
            self.now += TICK;
            self.ahci.step(self.now);
            let events = &mut self.events;
            let note = &mut |severity, kind: &str, text| events.push((severity, kind.into(), text));
            self.devices.poll(self.now, note);
        }
    }

    fn told(&self, kind: &str) -> Vec<&str> {
        let of_it = self.events.iter().filter(|(_, of, _)| of == kind);
        of_it.map(|(_, _, text)| text.as_str()).collect()
    }

    fn shut_down(mut self) {
        (self.disk, self.other) = (None, None);
        let Self { ahci, mut devices, now, .. } = self;
        let time = Cell::new(now);
        devices.shut_down(&|| {
            time.set(time.get() + TICK);
            ahci.step(time.get());
            time.get()
        });
        assert!(time.get() - now < END_MAX, "its ports have stopped, nobody lost patience");
        ahci.check();
    }
}

#[test]
fn a_drive_is_asked_how_it_fares_though_nobody_uses_it() {
    let mut bench = Bench::new(EmulatedDrive::new(512));
    bench.ahci.set_smart(0, false, (194, 60, 41));
    bench.run(Now::from_secs(1));
    assert!(bench.told("disk.health").is_empty());
    assert!(!bench.devices.must_poll(), "an idle drive lets its core sleep");
    bench.ahci.set_smart(0, true, (177, 2, 0));
    bench.run(HEALTH_PERIOD);
    let told = bench.told("disk.health");
    assert_eq!(told.len(), 2, "{told:?}");
    let is_named = |text: &&str| text.starts_with("disk pci:0000:00:1f.2/0: ");
    assert!(told.iter().all(is_named) && told[0].contains("failing"), "{told:?}");
    bench.shut_down();
}

#[test]
fn a_core_does_not_sleep_over_commands_and_wakes_for_the_rest() {
    let mut bench = Bench::new(EmulatedDrive { smart: false, ..EmulatedDrive::new(4096) });
    bench.run(Now::from_millis(1));
    assert!(!bench.devices.must_poll());
    let next = bench.devices.deadline(bench.now).expect("it looks after its drives");
    assert!(next > bench.now && next < bench.now + Now::from_secs(1));
    let buf = bench.pool.alloc(4096).unwrap();
    bench.disk.as_mut().unwrap().submit(1, Op::Read { offset: 0, buf });
    assert!(bench.devices.must_poll());
    let mut done = Vec::with_capacity(1);
    while done.is_empty() {
        bench.run(TICK);
        bench.disk.as_mut().unwrap().poll(&mut done);
    }
    assert!(done[0].result.is_ok() && !bench.devices.must_poll());
    bench.shut_down();
}

#[test]
fn a_drive_that_is_pulled_is_told_once() {
    let mut bench = Bench::new(EmulatedDrive::new(512));
    bench.run(Now::from_secs(1));
    bench.ahci.unplug(0);
    bench.run(Now::from_secs(3));
    assert_eq!(bench.told("disk.lost"), ["disk pci:0000:00:1f.2/0: is driven no more: removed"]);
    assert!(!bench.devices.must_poll());
    assert_eq!(bench.lost(), [false, true]);
    bench.shut_down();
}

#[test]
fn a_device_that_is_let_go_can_be_taken_again() {
    let mut bench = Bench::new(EmulatedDrive::new(512));
    bench.run(Now::from_millis(1));
    bench.release();
    for _ in 0..3 {
        bench.bring_up();
        bench.run(Now::from_secs(1));
        assert_eq!(bench.lost(), [false, false]);
        bench.ahci.unplug(0);
        bench.run(Now::from_secs(3));
        assert_eq!(bench.lost(), [false, true]);
        bench.release();
        bench.ahci.plug(0, None);
    }
    assert_eq!(bench.told("disk.lost").len(), 3);
    bench.bring_up();
    let buf = bench.pool.alloc(4096).unwrap();
    bench.disk.as_mut().unwrap().submit(1, Op::Read { offset: 0, buf });
    let mut done = Vec::with_capacity(1);
    while done.is_empty() {
        bench.run(TICK);
        bench.disk.as_mut().unwrap().poll(&mut done);
    }
    assert!(done[0].result.is_ok());
    drop(done);
    bench.shut_down();
}

#[test]
fn a_drive_of_several_is_pulled_and_put_back_while_the_other_is_used() {
    let mut bench = Bench::of(vec![EmulatedDrive::new(512), EmulatedDrive::new(512)]);
    for _ in 0..3 {
        assert!(bench.reads(|bench| &mut bench.disk) && bench.reads(|bench| &mut bench.other));
        bench.ahci.unplug(1);
        bench.run(Now::from_secs(3));
        assert!(bench.other_lost.load(Ordering::Relaxed));
        bench.other = None;
        bench.devices.release(drive_at(1));
        while !bench.devices.is_released(drive_at(1)) {
            assert!(bench.reads(|bench| &mut bench.disk));
        }
        let probe = bench.probe.clone().expect("the adapter has one");
        probe.ask(1);
        bench.run(Now::from_secs(3));
        assert_eq!(bench.sighted(), Some((1, Err(Trouble::Empty))), "nothing is there");
        bench.ahci.plug(1, None);
        bench.run(Now::from_secs(3));
        assert_eq!(bench.sighted(), None, "nobody has asked");
        probe.ask(1);
        let seat = loop {
            assert!(bench.reads(|bench| &mut bench.disk));
            if let Some(sighting) = probe.take() {
                break sighting.found.unwrap();
            }
        };
        assert_eq!(seat.port(), 1);
        bench.take_other(seat);
    }
    assert!(bench.reads(|bench| &mut bench.other));
    assert_eq!(bench.lost(), [false, false]);
    assert_eq!(bench.told("disk.lost").len(), 3);
    bench.shut_down();
}

#[test]
fn a_drive_that_was_found_and_is_not_used_is_let_go() {
    let mut bench = Bench::of(vec![EmulatedDrive::new(512), EmulatedDrive::new(512)]);
    bench.other = None;
    bench.devices.release(drive_at(1));
    while !bench.devices.is_released(drive_at(1)) {
        bench.run(TICK);
    }
    let probe = bench.probe.clone().expect("the adapter has one");
    for _ in 0..3 {
        probe.ask(1);
        bench.run(Now::from_secs(3));
        assert_eq!(bench.sighted(), Some((1, Ok(()))));
    }
    // What is of no use is told as well, once for each time that it is asked for.
    let tape = EmulatedDrive { signature: 0xeb14_0101, ..EmulatedDrive::new(512) };
    bench.ahci.unplug(1);
    bench.ahci.plug(1, Some(tape));
    probe.ask(1);
    bench.run(Now::from_secs(3));
    let Some((1, Err(trouble))) = bench.sighted() else { panic!("it was taken for a disk") };
    assert_ne!(trouble, Trouble::Empty);
    assert_eq!((bench.told("disk.refused").len(), bench.sighted()), (1, None));
    probe.ask(9);
    bench.run(TICK);
    assert_eq!(bench.sighted(), Some((9, Err(Trouble::Empty))), "there is no such port");
    assert!(bench.reads(|bench| &mut bench.disk));
    bench.shut_down();
}

#[test]
fn a_port_that_does_not_stop_is_told() {
    let mut bench = Bench::of(vec![EmulatedDrive::new(512), EmulatedDrive::new(512)]);
    assert!(bench.reads(|bench| &mut bench.other));
    bench.other = None;
    bench.ahci.inject(1, AhciFault::StuckRunning);
    bench.devices.release(drive_at(1));
    while !bench.devices.is_released(drive_at(1)) {
        bench.run(TICK);
    }
    for _ in 0..2 {
        bench.probe.as_ref().unwrap().ask(1);
        bench.run(FREE_MAX + TICK + TICK);
        assert_eq!(bench.sighted(), Some((1, Err(Trouble::PortStuck))));
    }
    assert!(bench.reads(|bench| &mut bench.disk));
}

#[test]
fn what_a_port_uses_that_does_not_stop_is_kept() {
    let mut bench = Bench::of(vec![EmulatedDrive::new(512), EmulatedDrive::new(512)]);
    assert!(bench.reads(|bench| &mut bench.other));
    bench.ahci.unplug(1);
    bench.run(Now::from_secs(3));
    bench.other = None;
    bench.devices.release(drive_at(1));
    while !bench.devices.is_released(drive_at(1)) {
        bench.run(TICK);
    }
    bench.ahci.plug(1, Some(EmulatedDrive { blocks: 0, ..EmulatedDrive::new(512) }));
    bench.ahci.jam(1);
    let (resets, shared) = (bench.ahci.resets(), bench.ahci.shared());
    for _ in 0..2 {
        bench.probe.as_ref().unwrap().ask(1);
        bench.run(Now::from_secs(20));
        assert_eq!(bench.sighted(), Some((1, Err(Trouble::PortStuck))));
        assert!(bench.ahci.shared() > shared, "it may still write there");
    }
    assert_eq!(bench.ahci.resets(), resets);
    assert!(bench.reads(|bench| &mut bench.disk));
    bench.ahci.check();
}

#[test]
fn an_adapter_that_is_torn_out_takes_its_drives_with_it() {
    let mut bench = Bench::new(EmulatedDrive::new(512));
    bench.run(Now::from_secs(1));
    bench.ahci.remove();
    bench.run(Now::from_secs(1));
    let told = bench.told("disk.lost");
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told.iter().any(|text| text.starts_with("controller 0000:00:1f.2: ")), "{told:?}");
    assert_eq!(bench.lost(), [true, true]);
    bench.release();
    bench.shut_down();
}

#[test]
fn a_drive_is_at_rest_when_its_use_has_ended() {
    let (standby, idle) = (AtaCommand::StandbyImmediate.0, AtaCommand::IdleImmediate.0);
    let turning = EmulatedDrive { rotation: 7200, ..EmulatedDrive::new(512) };
    let old = EmulatedDrive { unloads: false, ..turning.clone() };
    for (drive, last) in
        [(EmulatedDrive::new(512), Some(standby)), (turning, Some(idle)), (old, None)]
    {
        let mut bench = Bench::new(drive);
        bench.run(Now::from_secs(1));
        let _ = bench.ahci.take_commands();
        let ahci = bench.ahci.clone();
        bench.shut_down();
        assert_eq!(ahci.take_commands().last().copied(), last);
    }
}

#[test]
fn a_drive_that_does_not_come_to_rest_is_let_go() {
    for fault in [AhciFault::Lost, AhciFault::Error(0x04), AhciFault::Stuck] {
        let mut bench = Bench::new(EmulatedDrive::new(512));
        bench.run(Now::from_secs(1));
        bench.ahci.inject(0, fault);
        bench.release();
        bench.bring_up();
        bench.shut_down();
    }
}
