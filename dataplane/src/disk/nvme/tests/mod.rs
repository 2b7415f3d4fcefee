//! The driver against the emulated controller.

mod bringup;
mod conform;
mod events;
mod faults;
mod interrupts;
mod life;
mod random;

use super::{NvmeController, NvmeDisk, NvmeEvent, NvmeOptions, NvmeQueue};
use crate::disk::test_ops::{arena, byte_of, read_op, write_op};
use crate::disk::{Completion, Disk, Error, Info, Op, Tag};
use crate::dma::{Arena, Pool};
use crate::hardware::CoreTime;
use crate::sim::nvme::{EmulatedDevice, EmulatedNvme, EmulatedRegisters, NvmeConfig};
use crate::uring::Waker;
use std::time::Duration;

/// Time that passes in a tick.
const TICK: Duration = Duration::from_micros(100);
/// Ticks until something has to have happened: 100 seconds.
const TICKS_MAX: usize = 1_000_000;

type EmulatedDisk = NvmeDisk<EmulatedRegisters>;

/// A controller with its driver, all on one core.
struct Rig {
    nvme: EmulatedNvme,
    controller: NvmeController<EmulatedDevice>,
    queues: Vec<NvmeQueue<EmulatedRegisters>>,
    time: CoreTime,
    events: Vec<NvmeEvent>,
}

impl Rig {
    /// Not brought up yet.
    fn cold(nvme: &EmulatedNvme, device: EmulatedDevice, options: NvmeOptions) -> Self {
        Self {
            nvme: nvme.clone(),
            controller: NvmeController::start(device, options),
            queues: Vec::new(),
            time: CoreTime::default(),
            events: Vec::new(),
        }
    }

    /// Running, with every queue on this core.
    fn new(config: NvmeConfig, options: NvmeOptions, arena: &Arena, seed: u64) -> Self {
        let nvme = EmulatedNvme::new(config, seed);
        let mut rig = Self::cold(&nvme, nvme.open(arena), options);
        rig.bring_up();
        rig
    }

    fn bring_up(&mut self) {
        self.until("it runs", |rig| rig.controller.is_running());
        while let Some(seat) = self.controller.take_seat() {
            self.queues.push(seat.attach(Waker::unneeded(), self.time.clone()));
        }
    }

    /// A disk on a queue: namespaces and queues by their places.
    fn disk(&self, queue: usize, namespace: usize) -> EmulatedDisk {
        let namespace = self.controller.namespaces().nth(namespace).expect("it is there");
        self.queues[queue].open(namespace)
    }

    fn tick(&mut self) {
        self.pass(TICK);
    }

    fn pass(&mut self, time: Duration) {
        let now = self.time.now() + time;
        self.time.set(now);
        self.nvme.step(now);
        self.controller.poll(now);
        while let Some(event) = self.controller.take_event() {
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

    /// Executes one operation, with whatever time it takes.
    fn execute(&mut self, disk: &mut EmulatedDisk, op: Op) -> (Op, Result<(), Error>) {
        disk.submit(7, op);
        let mut done = Vec::with_capacity(1);
        self.until("an operation ends", |_| {
            disk.poll(&mut done);
            !done.is_empty()
        });
        let Completion { tag, op, result } = done.remove(0);
        assert_eq!((tag, disk.in_flight()), (7, 0));
        (op, result)
    }

    fn write(&mut self, disk: &mut EmulatedDisk, pool: &Pool, offset: u64, byte: u8) -> Outcome {
        let op = write_op(pool, offset, 4096, byte, false);
        self.execute(disk, op).1
    }

    /// Reads 4096 bytes that are all the same.
    fn read(&mut self, disk: &mut EmulatedDisk, pool: &Pool, offset: u64) -> Result<u8, Error> {
        let (op, result) = self.execute(disk, read_op(pool, offset, 4096));
        result?;
        Ok(byte_of(&op))
    }
}

type Outcome = Result<(), Error>;

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
        self.rig.nvme.check();
    }
}
