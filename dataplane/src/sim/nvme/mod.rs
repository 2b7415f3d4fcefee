//! An NVMe controller that is emulated well enough for the driver that ships, and that can go wrong
//! in every way that a real one can.
//!
//! It does nothing by itself: [`EmulatedNvme::step`] lets it work for a moment. It also watches the
//! driver: what no driver may do (a doorbell of a queue that is not there, an identifier used
//! twice, a reserved field that is set) is kept as a violation, and what it reaches for in memory
//! and may not is a fault of the [`EmulatedBus`]. Tests end with [`EmulatedNvme::check`].

mod admin;
mod config;
mod data;
mod device;
mod faults;
mod io;
mod media;
mod model;
mod queues;

pub use config::{EmulatedNamespace, NvmeConfig};
pub use device::{EmulatedDevice, EmulatedInterrupt, EmulatedRegisters};
pub use faults::{NvmeFault, NvmeFaults};

use crate::dma::{Arena, EmulatedBus};
use crate::sim::Random;
use model::Model;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

/// An emulated controller with its media. Clones are the same one.
#[derive(Clone)]
pub struct EmulatedNvme(Arc<Mutex<Model>>);

impl EmulatedNvme {
    /// A controller, just switched on.
    #[must_use]
    pub fn new(config: NvmeConfig, seed: u64) -> Self {
        Self(Arc::new(Mutex::new(Model::new(config, Random::new(seed)))))
    }

    /// Takes it over, as a process does that opens it: memory of a former one is out of its reach.
    #[must_use]
    pub fn open(&self, arena: &Arena) -> EmulatedDevice {
        let bus = EmulatedBus::default();
        let map = bus.map_arena(arena);
        self.open_with(bus, map)
    }

    /// As [`EmulatedNvme::open`], without an IOMMU: pages of the arena are where they are.
    #[must_use]
    pub fn open_by_page(&self, arena: &Arena) -> EmulatedDevice {
        let bus = EmulatedBus::default();
        let map = bus.map_arena_by_page(arena);
        self.open_with(bus, map)
    }

    fn open_with(&self, bus: EmulatedBus, map: crate::dma::ArenaMap) -> EmulatedDevice {
        let name = {
            let mut model = self.model();
            assert!(model.bus.is_none(), "one owner at a time");
            model.bus = Some(bus.clone());
            model.config.name.clone()
        };
        EmulatedDevice::new(self.clone(), name, bus, map)
    }

    /// Lets the controller work for a moment: some of what is due, in some order.
    pub fn step(&self, now: Duration) {
        self.model().step(now);
    }

    /// Interrupts raised so far.
    #[must_use]
    pub fn interrupts(&self) -> u64 {
        self.model().interrupts
    }

    /// What goes wrong by itself from now on.
    pub fn set_faults(&self, faults: NvmeFaults) {
        self.model().faults = faults;
    }

    /// Has the next completion of an I/O command go wrong; those asked for before come first.
    pub fn inject(&self, fault: NvmeFault) {
        self.model().injected.push_back(fault);
    }

    /// Tears the device out: registers read as all ones, what was in flight is lost.
    pub fn remove(&self) {
        self.model().remove();
    }

    /// Puts it back, with its media as they were.
    pub fn insert(&self) {
        self.model().insert();
    }

    /// Power goes and comes back: what the cache held is lost or not, registers are as new.
    pub fn power_cycle(&self) {
        self.model().power_cycle();
    }

    /// Whether it is plugged in.
    #[must_use]
    pub fn is_inserted(&self) -> bool {
        !self.model().is_removed
    }

    /// The controller reports a fatal state and works no more until reset.
    pub fn fail(&self) {
        self.model().is_fatal = true;
    }

    /// Whether enabling and disabling never end, from now on.
    pub fn set_stuck(&self, is_stuck: bool) {
        self.model().is_stuck = is_stuck;
    }

    /// Leaves it as firmware does that boots without waiting for media: CC.CRIME is set.
    pub fn leave_by_firmware(&self) {
        self.model().leave_by_firmware();
    }

    /// Whether a function-level reset helps when it is stuck.
    pub fn set_reset_helps(&self, helps: bool) {
        self.model().reset_helps = helps;
    }

    /// Flips a bit of a block on the medium, past all checks.
    pub fn rot(&self, namespace: u32, lba: u64, bit: usize) {
        self.model().namespace(namespace).expect("it is there").rot(lba, bit);
    }

    /// Makes a block unreadable until it is written.
    pub fn make_unreadable(&self, namespace: u32, lba: u64) {
        self.model().namespace(namespace).expect("it is there").make_unreadable(lba);
    }

    /// A block as a read would find it.
    #[must_use]
    pub fn block(&self, namespace: u32, lba: u64) -> Vec<u8> {
        self.model().namespace(namespace).expect("it is there").block(lba).to_vec()
    }

    /// Attaches a namespace, and tells the host.
    pub fn attach(&self, namespace: EmulatedNamespace) {
        self.model().attach(namespace);
    }

    /// Detaches a namespace, and tells the host.
    pub fn detach(&self, namespace: u32) {
        self.model().detach(namespace);
    }

    /// Sets the critical warnings of the health log, and tells the host.
    pub fn warn(&self, warning: u8) {
        self.model().warn(warning);
    }

    /// Gives a namespace another size, in blocks; nobody is told.
    pub fn resize(&self, namespace: u32, blocks: u64) {
        self.model().namespace(namespace).expect("it is there").config.blocks = blocks;
    }

    /// Puts an entry in the error log, the so manyth ever, and tells the host.
    pub fn log_error(&self, count: u64, lba: u64) {
        self.model().log_error(count, lba);
    }

    /// Commands that were completed.
    #[must_use]
    pub fn completed(&self) -> u64 {
        self.model().completed
    }

    /// Writes to doorbell registers.
    #[must_use]
    pub fn doorbells(&self) -> u64 {
        self.model().doorbells
    }

    /// How often the controller was enabled.
    #[must_use]
    pub fn enabled(&self) -> u64 {
        self.model().enabled
    }

    /// Panics if the driver did what no driver may do.
    pub fn check(&self) {
        let violations = {
            let mut model = self.model();
            model.note_bus_faults();
            model.violations.clone()
        };
        assert!(violations.is_empty(), "{violations:?}");
    }

    fn model(&self) -> MutexGuard<'_, Model> {
        self.0.lock().expect("no holder panics")
    }
}
