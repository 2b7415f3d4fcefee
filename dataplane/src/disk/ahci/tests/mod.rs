//! The driver on the emulated adapter.

mod bringup;
mod conform;
mod errors;
mod faults;
mod life;
mod random;

use super::{AhciDisk, AhciEvent, AhciHba, AhciOptions, AhciPort};
use crate::disk::test_ops::{arena, byte_of, read_op, write_op};
use crate::disk::{Completion, Disk, Error, Info, Op, Tag};
use crate::dma::{Arena, Pool};
use crate::hardware::CoreTime;
use crate::sim::ahci::{
    AhciConfig, EmulatedAhci, EmulatedDevice, EmulatedDrive, EmulatedRegisters,
};
use crate::uring::Waker;
use std::time::Duration;

/// Time that passes from one poll to the next.
const TICK: Duration = Duration::from_micros(200);
/// Ticks after which something never happens: more than a minute.
const TICKS_MAX: usize = 400_000;

type EmulatedDisk = AhciDisk<EmulatedRegisters>;
type Outcome = Result<(), Error>;

/// An adapter, its driver, and the ports of one core.
struct Rig {
    ahci: EmulatedAhci,
    hba: AhciHba<EmulatedDevice>,
    time: CoreTime,
    ports: Vec<AhciPort<EmulatedRegisters>>,
    events: Vec<AhciEvent>,
}

fn options() -> AhciOptions {
    AhciOptions { timeout: Duration::from_millis(300), ..AhciOptions::default() }
}

fn one(drive: EmulatedDrive) -> AhciConfig {
    AhciConfig { drives: vec![(2, Some(drive))], ..AhciConfig::default() }
}

impl Rig {
    /// An adapter that nothing was done to yet.
    fn cold(ahci: &EmulatedAhci, device: EmulatedDevice, options: AhciOptions) -> Self {
        let hba = AhciHba::new(device, options);
        let (time, ports, events) = (CoreTime::default(), Vec::new(), Vec::new());
        Self { ahci: ahci.clone(), hba, time, ports, events }
    }

    fn new(config: AhciConfig, options: AhciOptions, arena: &Arena, seed: u64) -> Self {
        let ahci = EmulatedAhci::new(config, seed);
        let mut rig = Self::cold(&ahci, ahci.open(arena), options);
        rig.bring_up();
        rig
    }

    fn bring_up(&mut self) {
        self.until("it is searched", |rig| rig.hba.is_searched());
        self.attach();
    }

    fn attach(&mut self) {
        while let Some(seat) = self.hba.take_seat() {
            self.ports.push(seat.attach(Waker::unneeded(), self.time.clone()));
        }
        self.ports.sort_by_key(AhciPort::port);
    }

    fn disk(&self, port: usize) -> EmulatedDisk {
        self.ports[port].open()
    }

    fn tick(&mut self) {
        let now = self.time.now() + TICK;
        self.time.set(now);
        self.ahci.step(now);
        self.hba.poll(now);
        while let Some(event) = self.hba.take_event() {
            self.events.push(event);
        }
    }

    fn until(&mut self, what: &str, mut is_so: impl FnMut(&mut Self) -> bool) {
        for _ in 0..TICKS_MAX {
            if is_so(self) {
                return;
            }
            self.tick();
        }
        panic!("{what}: never; {:?}", self.events);
    }

    /// Ends everything in flight on a disk, in the order in which it does.
    fn wait(&mut self, disk: &mut EmulatedDisk) -> Vec<Completion> {
        let mut done = Vec::with_capacity(disk.in_flight());
        self.until("everything ends", |_| {
            disk.poll(&mut done);
            disk.in_flight() == 0
        });
        done
    }

    /// Executes one operation, with whatever time it takes.
    fn execute(&mut self, disk: &mut EmulatedDisk, op: Op) -> (Op, Outcome) {
        disk.submit(7, op);
        let mut done = self.wait(disk);
        assert_eq!(done.len(), 1);
        let Completion { tag, op, result } = done.remove(0);
        assert_eq!(tag, 7);
        (op, result)
    }

    fn write(&mut self, disk: &mut EmulatedDisk, pool: &Pool, offset: u64, byte: u8) -> Outcome {
        self.execute(disk, write_op(pool, offset, 4096, byte, false)).1
    }

    /// Reads 4096 bytes that are all the same.
    fn read(&mut self, disk: &mut EmulatedDisk, pool: &Pool, offset: u64) -> Result<u8, Error> {
        let (op, result) = self.execute(disk, read_op(pool, offset, 4096));
        result?;
        Ok(byte_of(&op))
    }
}

/// A disk that drives everything below it whenever it is polled.
struct Driven {
    disk: EmulatedDisk,
    rig: Rig,
}

impl Disk for Driven {
    fn info(&self) -> &Info {
        self.disk.info()
    }

    fn submit(&mut self, tag: Tag, op: Op) {
        self.disk.submit(tag, op);
    }

    fn poll(&mut self, done: &mut Vec<Completion>) {
        self.rig.tick();
        self.disk.poll(done);
    }

    fn in_flight(&self) -> usize {
        self.disk.in_flight()
    }
}

impl Drop for Driven {
    fn drop(&mut self) {
        self.rig.ahci.check();
    }
}
