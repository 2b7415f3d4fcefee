//! An AHCI adapter with ATA disks, emulated well enough for the driver that ships, and that can go
//! wrong in every way that real ones can.
//!
//! It does nothing by itself: [`EmulatedAhci::step`] lets it work for a moment. It also watches the
//! driver: what no driver may do (a command for a port that does not run, a tag used twice, a
//! queued command beside another, a list that moves under a running port) is kept as a violation,
//! and what it reaches for in memory and may not is a fault of the [`EmulatedBus`]. Tests end with
//! [`EmulatedAhci::check`].

mod ata;
mod config;
mod device;
mod drive;
mod faults;
mod model;
mod port;

pub use config::{AhciConfig, EmulatedDrive};
pub use device::{EmulatedDevice, EmulatedRegisters, NoInterrupt};
pub use faults::{AhciFault, AhciFaults};

use crate::dma::{Arena, ArenaMap, EmulatedBus};
use crate::sim::Random;
use model::Model;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

/// An emulated adapter with its drives. Clones are the same one.
#[derive(Clone)]
pub struct EmulatedAhci(Arc<Mutex<Model>>);

impl EmulatedAhci {
    /// An adapter, just switched on.
    #[must_use]
    pub fn new(config: AhciConfig, seed: u64) -> Self {
        Self(Arc::new(Mutex::new(Model::new(config, Random::new(seed)))))
    }

    /// Takes it over, as a process does that opens it: memory of a former one is out of its reach.
    #[must_use]
    pub fn open(&self, arena: &Arena) -> EmulatedDevice {
        let bus = EmulatedBus::default();
        let map = bus.map_arena(arena);
        self.open_with(bus, map)
    }

    /// As [`EmulatedAhci::open`], without an IOMMU: pages of the arena are where they are.
    #[must_use]
    pub fn open_by_page(&self, arena: &Arena) -> EmulatedDevice {
        let bus = EmulatedBus::default();
        let map = bus.map_arena_by_page(arena);
        self.open_with(bus, map)
    }

    fn open_with(&self, bus: EmulatedBus, map: ArenaMap) -> EmulatedDevice {
        let name = {
            let mut model = self.model();
            assert!(model.world.bus.is_none(), "one owner at a time");
            model.world.bus = Some(bus.clone());
            model.world.config.name.clone()
        };
        EmulatedDevice::new(self.clone(), name, bus, map)
    }

    /// Lets adapter and drives work for a moment: some of what is due, in some order.
    pub fn step(&self, now: Duration) {
        self.model().step(now);
    }

    /// Lets time pass by a clock, between calls of [`EmulatedAhci::step`] too, which get its times.
    pub fn set_clock(&self, now: impl Fn() -> Duration + Send + 'static) {
        self.model().clock = Some(Box::new(now));
    }

    /// What goes wrong by itself from now on.
    pub fn set_faults(&self, faults: AhciFaults) {
        self.model().world.faults = faults;
    }

    /// Has the next command of a port that would end go wrong, but for those by which a drive is
    /// identified and asked about errors; what was asked for before comes first.
    pub fn inject(&self, port: u8, fault: AhciFault) {
        self.model().port(port).injected.push_back(fault);
    }

    /// Tears the adapter out: registers read as all ones, what was in flight is lost.
    pub fn remove(&self) {
        self.model().remove();
    }

    /// Puts it back, with its drives as they were.
    pub fn insert(&self) {
        self.model().insert();
    }

    /// Whether it is plugged in.
    #[must_use]
    pub fn is_inserted(&self) -> bool {
        !self.model().is_removed
    }

    /// How many pieces of memory it reaches.
    #[must_use]
    pub fn shared(&self) -> usize {
        self.model().world.bus.as_ref().map_or(0, EmulatedBus::mappings)
    }

    /// Whether somebody has taken it over.
    #[must_use]
    pub fn is_owned(&self) -> bool {
        self.model().world.bus.is_some()
    }

    /// Whether a reset of the adapter never ends, from now on.
    pub fn set_stuck(&self, is_stuck: bool) {
        self.model().world.is_stuck = is_stuck;
    }

    /// Pulls a drive: its link is lost, and with its power what its cache held, or not.
    pub fn unplug(&self, port: u8) {
        self.model().unplug(port);
    }

    /// Plugs a drive back, or another.
    pub fn plug(&self, port: u8, other: Option<EmulatedDrive>) {
        self.model().plug(port, other);
    }

    /// Keeps a port running from now on, whatever it is told, until the adapter is reset.
    pub fn jam(&self, port: u8) {
        self.model().port(port).runs_forever = true;
    }

    /// Exchanges the drives of two ports, which are unplugged.
    pub fn swap(&self, one: u8, other: u8) {
        let mut model = self.model();
        let drive = model.port(one).drive.take();
        let theirs = std::mem::replace(&mut model.port(other).drive, drive);
        model.port(one).drive = theirs;
    }

    /// Takes a drive's power away for a moment when its link is reset next, so that nothing but its
    /// count of power cycles tells.
    pub fn blink(&self, port: u8) {
        self.model().port(port).blinks = true;
    }

    /// Makes a block unreadable until it is written.
    pub fn make_unreadable(&self, port: u8, lba: u64) {
        self.model().drive(port).make_unreadable(lba);
    }

    /// Has writes of a block fail.
    pub fn make_unwritable(&self, port: u8, lba: u64) {
        self.model().drive(port).make_unwritable(lba);
    }

    /// A block as a read would find it.
    #[must_use]
    pub fn block(&self, port: u8, lba: u64) -> Vec<u8> {
        self.model().drive(port).block(lba)
    }

    /// Whether a block would be there after a power cut.
    #[must_use]
    pub fn is_durable(&self, port: u8, lba: u64) -> bool {
        self.model().drive(port).is_durable(lba)
    }

    /// SMART's verdict on a drive, and an attribute of it: its number, value and raw value.
    pub fn set_smart(&self, port: u8, is_failing: bool, attribute: (u8, u8, u64)) {
        self.model().drive(port).set_smart(is_failing, attribute);
    }

    /// Commands that drives have completed, by their codes, in order.
    #[must_use]
    pub fn take_commands(&self) -> Vec<u8> {
        std::mem::take(&mut self.model().world.commands)
    }

    /// How often registers were read and written.
    #[must_use]
    pub fn accesses(&self) -> (u64, u64) {
        self.model().world.accesses
    }

    /// How often the adapter was reset.
    #[must_use]
    pub fn resets(&self) -> u64 {
        self.model().world.resets
    }

    /// How often links were reset.
    #[must_use]
    pub fn link_resets(&self) -> u64 {
        self.model().world.link_resets
    }

    /// Panics if the driver did what no driver may do.
    pub fn check(&self) {
        let violations = {
            let mut model = self.model();
            model.note_bus_faults();
            std::mem::take(&mut model.world.violations)
        };
        assert!(violations.is_empty(), "{violations:#?}");
    }

    fn model(&self) -> MutexGuard<'_, Model> {
        self.0.lock().expect("no holder panics")
    }
}
