//! A controller with one disk of it, on one thread without a reactor: for tools, tests, and to look
//! at a disk before a node's cores run.

use super::ahci::{self, AhciEvent, AhciHba, AhciOptions};
use super::nvme::{Namespace, NvmeController, NvmeDisk, NvmeOptions, Trouble};
use super::{Completion, Disk, Info, Op, Tag};
use crate::hardware::{CoreTime, Device};
use crate::node::DriveInfo;
use crate::uring::Waker;
use std::fmt;
use std::time::{Duration, Instant};

/// Which disk of a controller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Unit {
    /// A namespace of an NVMe controller, by its number: from 1.
    Namespace(u32),
    /// The drive on a port of an AHCI adapter, by the port's number: from 0.
    Port(u8),
}

/// The number alone.
impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Namespace(id) => id.fmt(f),
            Self::Port(port) => port.fmt(f),
        }
    }
}

/// Bring-up takes longer than this only where a controller hangs and is reset in vain.
const BRING_UP_MAX: Duration = Duration::from_secs(60);

/// The health log is waited for no longer.
const HEALTH_MAX: Duration = Duration::from_secs(5);

/// Why a disk of a controller cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BringUpError {
    /// The controller does not work.
    #[error("{address}: {trouble}")]
    Controller {
        /// Where it is.
        address: String,
        /// What is wrong.
        trouble: Trouble,
    },
    /// It works, but takes too long.
    #[error("{0}: the controller does not come up")]
    Slow(String),
    /// It has no such namespace that we can use.
    #[error("{address}: no namespace {namespace}; it has {there}")]
    NoNamespace {
        /// Where it is.
        address: String,
        /// Which was asked for.
        namespace: u32,
        /// Those that can be used.
        there: String,
    },
    /// It has fewer queues than are needed.
    #[error("{0}: the controller has no queue for us")]
    NoQueue(String),
    /// The adapter does not work.
    #[error("{address}: {trouble}")]
    Adapter {
        /// Where it is.
        address: String,
        /// What is wrong.
        trouble: ahci::Trouble,
    },
    /// It works, but has no drive there that we can use.
    #[error("{address}: no drive on port {port}{}; it has: {there}", refused(.why.as_ref()))]
    NoDrive {
        /// Where it is.
        address: String,
        /// Which port was asked for.
        port: u8,
        /// Why what is there cannot be used.
        why: Option<ahci::Trouble>,
        /// The ports with drives that can be used.
        there: String,
    },
}

fn refused(why: Option<&ahci::Trouble>) -> String {
    why.map(|why| format!(" ({why})")).unwrap_or_default()
}

/// Opens a disk of a controller for the calling thread alone, by default options. [`Disk::poll`]
/// does all of it.
///
/// # Errors
/// [`BringUpError`].
#[expect(clippy::disallowed_methods, reason = "tools have no core to take the time from")]
pub fn open<D: Device>(device: D, unit: Unit) -> Result<Box<dyn Disk>, BringUpError> {
    match unit {
        Unit::Namespace(id) => Ok(Box::new(SingleDisk::open(device, id)?)),
        Unit::Port(port) => {
            let clock = Instant::now();
            let now = || clock.elapsed();
            let (mut hba, refused) = bring_up_adapter(device, AhciOptions::default(), &now)?;
            let seat = take_drive(&mut hba, &refused, port)?;
            let time = CoreTime::default();
            time.set(now());
            let disk = seat.attach(Waker::unneeded(), time.clone()).open();
            Ok(Box::new(ahci::SelfDriven::since(clock, hba, disk, time)))
        }
    }
}

/// Drives that an adapter cannot use, by their ports.
pub type Refused = Vec<(u8, ahci::Trouble)>;

/// As [`bring_up`], an adapter; and the drives on it that cannot be used.
///
/// # Errors
/// [`BringUpError::Adapter`].
pub fn bring_up_adapter<D: Device>(
    device: D,
    options: AhciOptions,
    now: &dyn Fn() -> Duration,
) -> Result<(AhciHba<D>, Refused), BringUpError> {
    let mut hba = AhciHba::new(device, options);
    let brought_up = ahci::bring_up(&mut hba, now);
    let address = hba.name().to_owned();
    brought_up.map_err(|trouble| BringUpError::Adapter { address, trouble })?;
    let mut refused = Vec::new();
    while let Some(event) = hba.take_event() {
        if let AhciEvent::Refused(port, why) = event {
            refused.push((port, why));
        }
    }
    Ok((hba, refused))
}

/// A disk of a controller that nobody uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Examined {
    /// Which.
    pub unit: Unit,
    /// What it says of itself.
    pub info: DriveInfo,
    /// Whether its medium turns.
    pub is_rotational: bool,
}

/// Asks all drives of an adapter that nobody uses what they are and how they fare.
///
/// # Errors
/// [`BringUpError::Adapter`].
#[expect(clippy::disallowed_methods, reason = "tools have no core to take the time from")]
pub fn examine_drives<D: Device>(device: D) -> Result<Vec<Examined>, BringUpError> {
    let clock = Instant::now();
    let (mut hba, _) = bring_up_adapter(device, AhciOptions::default(), &|| clock.elapsed())?;
    let time = CoreTime::default();
    time.set(clock.elapsed());
    let mut drives = Vec::new();
    while let Some(seat) = hba.take_seat() {
        let port = seat.attach(Waker::unneeded(), time.clone());
        port.ask_health();
        while port.is_busy() && clock.elapsed() < BRING_UP_MAX {
            time.set(clock.elapsed());
            hba.poll(clock.elapsed());
            port.poll();
            std::thread::yield_now();
        }
        let (unit, is_rotational) = (Unit::Port(port.port()), port.facts().is_rotational);
        drives.push(Examined { unit, info: port.drive_info(), is_rotational });
    }
    drives.sort_by_key(|drive| drive.unit);
    Ok(drives)
}

/// Asks a controller that nobody uses what its namespaces are and how it fares; then it is shut
/// down.
///
/// # Errors
/// [`BringUpError::Controller`] and [`BringUpError::Slow`].
#[expect(clippy::disallowed_methods, reason = "tools have no core to take the time from")]
pub fn examine_namespaces<D: Device>(device: D) -> Result<Vec<Examined>, BringUpError> {
    let clock = Instant::now();
    examine_by(device, &|| clock.elapsed())
}

/// `now` tells the time.
fn examine_by<D: Device>(
    device: D,
    now: &dyn Fn() -> Duration,
) -> Result<Vec<Examined>, BringUpError> {
    let options = NvmeOptions { interrupts: false, ..NvmeOptions::default() };
    let mut controller = bring_up(device, options, now)?;
    let until = now() + HEALTH_MAX;
    while controller.health().is_none() && controller.end().is_none() && now() < until {
        controller.poll(now());
        std::thread::yield_now();
    }
    let namespaces = controller.namespaces().filter_map(|namespace| {
        let unit = Unit::Namespace(namespace.facts().id);
        let info = controller.drive_info(namespace)?;
        Some(Examined { unit, info, is_rotational: false })
    });
    let namespaces = namespaces.collect();
    controller.shut_down(now());
    while controller.end().is_none() {
        controller.poll(now());
        std::thread::yield_now();
    }
    Ok(namespaces)
}

/// The drive on a port of an adapter that has been brought up.
///
/// # Errors
/// [`BringUpError::NoDrive`].
pub fn take_drive<D: Device>(
    hba: &mut AhciHba<D>,
    refused: &Refused,
    port: u8,
) -> Result<ahci::AhciSeat<D::Registers>, BringUpError> {
    hba.take_seat_of(port).ok_or_else(|| {
        let mut ports: Vec<u8> = hba.untaken().collect();
        ports.sort_unstable();
        let ports: Vec<String> = ports.iter().map(u8::to_string).collect();
        let why = refused.iter().find(|(at, _)| *at == port).map(|(_, why)| why.clone());
        let there = if ports.is_empty() { "none".to_owned() } else { ports.join(", ") };
        BringUpError::NoDrive { address: hba.name().to_owned(), port, why, there }
    })
}

/// Brings a controller up on the calling thread, which waits. `now` tells the time.
///
/// # Errors
/// [`BringUpError`].
pub fn bring_up<D: Device>(
    device: D,
    options: NvmeOptions,
    now: &dyn Fn() -> Duration,
) -> Result<NvmeController<D>, BringUpError> {
    let mut controller = NvmeController::start(device, options);
    let start = now();
    loop {
        controller.poll(now());
        let address = || controller.name().to_owned();
        if controller.is_running() {
            return Ok(controller);
        }
        if let Some(end) = controller.end() {
            let trouble = end.cloned().unwrap_or(Trouble::Removed);
            return Err(BringUpError::Controller { address: address(), trouble });
        }
        let late = now().saturating_sub(start + BRING_UP_MAX);
        // It may ask for more by itself, once.
        if !late.is_zero() && late > controller.ready_timeout() {
            return Err(BringUpError::Slow(address()));
        }
        std::thread::sleep(Duration::from_micros(100));
    }
}

/// A namespace of a controller that runs.
///
/// # Errors
/// [`BringUpError::NoNamespace`].
pub fn namespace<D: Device>(
    controller: &NvmeController<D>,
    id: u32,
) -> Result<Namespace, BringUpError> {
    let found = controller.namespaces().find(|namespace| namespace.facts().id == id);
    found.cloned().ok_or_else(|| {
        let ids = controller.namespaces().map(|namespace| namespace.facts().id.to_string());
        let ids: Vec<String> = ids.collect();
        let there = if ids.is_empty() { "none".to_owned() } else { ids.join(", ") };
        BringUpError::NoNamespace { address: controller.name().to_owned(), namespace: id, there }
    })
}

/// One namespace of a controller that this thread alone drives. [`Disk::poll`] does all of it; the
/// drop shuts the controller down.
pub struct SingleDisk<D: Device> {
    disk: Option<NvmeDisk<D::Registers>>,
    controller: NvmeController<D>,
    time: CoreTime,
    clock: Instant,
}

impl<D: Device> SingleDisk<D> {
    /// Brings the controller up.
    ///
    /// # Errors
    /// [`BringUpError`].
    #[expect(clippy::disallowed_methods, reason = "tools have no core to take the time from")]
    pub fn open(device: D, id: u32) -> Result<Self, BringUpError> {
        let clock = Instant::now();
        let options = NvmeOptions { interrupts: false, ..NvmeOptions::default() };
        let mut controller = bring_up(device, options, &|| clock.elapsed())?;
        let namespace = namespace(&controller, id)?;
        let Some(seat) = controller.take_seat() else {
            return Err(BringUpError::NoQueue(controller.name().to_owned()));
        };
        let time = CoreTime::default();
        time.set(clock.elapsed());
        let queue = seat.attach(Waker::unneeded(), time.clone());
        let disk = Some(queue.open(&namespace));
        Ok(Self { disk, controller, time, clock })
    }

    /// The controller.
    pub fn controller(&self) -> &NvmeController<D> {
        &self.controller
    }

    fn disk(&mut self) -> &mut NvmeDisk<D::Registers> {
        self.disk.as_mut().expect("there until the drop")
    }
}

impl<D: Device> Disk for SingleDisk<D> {
    fn info(&self) -> &Info {
        self.disk.as_ref().expect("there until the drop").info()
    }

    fn submit(&mut self, tag: Tag, op: Op) {
        self.disk().submit(tag, op);
    }

    fn poll(&mut self, done: &mut Vec<Completion>) {
        let now = self.clock.elapsed();
        self.time.set(now);
        self.controller.poll(now);
        self.disk().poll(done);
    }

    fn in_flight(&self) -> usize {
        self.disk.as_ref().expect("there until the drop").in_flight()
    }
}

impl<D: Device> Drop for SingleDisk<D> {
    fn drop(&mut self) {
        self.disk = None;
        self.controller.shut_down(self.clock.elapsed());
        while self.controller.end().is_none() {
            self.controller.poll(self.clock.elapsed());
            std::thread::yield_now();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dma::Arena;
    use crate::sim::nvme::{EmulatedNamespace, EmulatedNvme, NvmeConfig};
    use std::cell::Cell;

    #[test]
    fn a_controller_is_asked_what_it_is_and_how_it_fares() {
        let arena = Arena::new(2 << 20, 1).unwrap();
        let namespaces = vec![EmulatedNamespace::new(1, 4096), EmulatedNamespace::new(3, 512)];
        let nvme = EmulatedNvme::new(NvmeConfig { namespaces, ..NvmeConfig::default() }, 1);
        nvme.warn(0b100);
        let clock = Cell::new(Duration::ZERO);
        let now = || {
            clock.set(clock.get() + Duration::from_micros(100));
            nvme.step(clock.get());
            clock.get()
        };
        let found = examine_by(nvme.open(&arena), &now).ok().unwrap();
        let units: Vec<Unit> = found.iter().map(|examined| examined.unit).collect();
        assert_eq!(units, [Unit::Namespace(1), Unit::Namespace(3)]);
        for Examined { info, .. } in &found {
            assert_eq!((info.model.as_str(), info.size), ("Basalt emulated NVMe", 16 << 20));
            assert_eq!(info.serial, "EMULATED");
            assert!(info.health.is_some_and(|health| health.is_failing), "{info:?}");
        }
        nvme.check();
    }
}
