//! The controllers that a node drives itself: brought up before its cores run, then given to them.
//!
//! Of an NVMe controller each core gets a queue. Of an AHCI adapter a core gets ports, each as a
//! whole, with its drive. The controllers themselves live on the first core.

use super::bus::{Bus, RegistersOf};
use crate::core::{Clock, Controller, DevicePart, Devices, Probe, SataAdapter, SataDrive};
use crate::disk::ahci::{AhciHba, AhciOptions, AhciPort, AhciSeat};
use crate::disk::nvme::{Namespace, NvmeController, NvmeOptions, NvmeQueue, NvmeSeat};
use crate::disk::single::{self, BringUpError, Refused, Unit};
use crate::disk::{Completion, Disk, Info, Op, Tag};
use crate::dma::Arena;
use crate::hardware::{CoreTime, Device, Registers};
use crate::pci::{ControllerKind, PciAddress};
use crate::uring::{Ring, Waker};
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

/// Opens controllers, while the node looks at its disks.
pub(super) struct Opener<'a, B: Bus> {
    bus: B,
    arena: &'a Arena,
    clock: Clock,
    cores: usize,
    found: Vec<(PciAddress, Found<B::Device>)>,
}

/// A controller, with what this thread has of it to look at its disks.
enum Found<D: Device> {
    Nvme(FoundNvme<D>),
    Ahci(FoundAhci<D>),
}

struct FoundNvme<D: Device> {
    controller: Rc<RefCell<NvmeController<D>>>,
    /// To look at its disks with. A core gets it afterwards.
    queue: NvmeQueue<D::Registers>,
    interrupt: Option<D::Interrupt>,
    /// I/O queues that the controller has for the cores.
    queues: usize,
    time: CoreTime,
}

struct FoundAhci<D: Device> {
    /// None where the cores have it: a drive has returned.
    hba: Option<Rc<RefCell<AhciHba<D>>>>,
    refused: Refused,
    ports: Vec<AhciPort<D::Registers>>,
    time: CoreTime,
}

/// Controllers that run, on their way to the cores.
pub(super) struct Controllers<D: Device>(Vec<(PciAddress, Whole<D>)>);

/// A controller that nobody looks at any more.
enum Whole<D: Device> {
    Nvme(Box<NvmeController<D>>),
    Ahci(Option<Box<AhciHba<D>>>, Vec<AhciSeat<D::Registers>>),
}

/// What one core gets: its queue of each NVMe controller and its ports of adapters, by the
/// controllers' numbers and addresses, and, the first core, the controllers.
pub(super) struct Hardware<D: Device> {
    seats: Vec<(usize, PciAddress, NvmeSeat<D>)>,
    ports: Vec<(usize, PciAddress, AhciSeat<D::Registers>, Lost)>,
    controllers: Vec<(PciAddress, Box<dyn Controller + Send>, Lost)>,
}

/// What each core gets, in order, and the controllers.
pub(super) type Shares<D> = (Vec<Hardware<D>>, Vec<Dealt<<D as Device>::Registers>>);

/// Set when a controller, or a drive, is driven no more.
pub(super) type Lost = Arc<AtomicBool>;

/// A controller that was given to the cores.
pub(super) struct Dealt<R: Registers> {
    pub(super) address: PciAddress,
    pub(super) lost: Lost,
    /// Of an adapter: each drive that a core has, by its port.
    pub(super) drives: Vec<(u8, Lost)>,
    /// Of an adapter: what has it look for drives that return.
    pub(super) probe: Option<Probe<R>>,
}

/// The queues and ports of one core.
pub(super) struct Queues<R: Registers> {
    queues: Vec<(usize, NvmeQueue<R>)>,
    ports: Vec<(usize, AhciPort<R>)>,
}

/// A disk of a controller.
#[derive(Clone)]
pub(super) struct Place {
    controller: usize,
    part: Part,
}

#[derive(Clone)]
enum Part {
    /// On a controller that has so many queues for the cores.
    Namespace(Namespace, usize),
    Port(u8),
}

/// What cores share a limited number of queues of: a controller, or a drive on a port of one.
pub(super) type QueueOwner = (usize, Option<u8>);

impl<'a, B: Bus> Opener<'a, B> {
    pub(super) fn new(bus: B, arena: &'a Arena, clock: Clock, cores: usize) -> Self {
        Self { bus, arena, clock, cores, found: Vec::new() }
    }

    /// For a drive that has returned to an adapter which the cores have.
    pub(super) fn with_drive(
        mut self,
        address: PciAddress,
        seat: AhciSeat<RegistersOf<B>>,
    ) -> Self {
        let time = time(self.clock);
        let ports = vec![seat.attach(Waker::unneeded(), time.clone())];
        let found = FoundAhci { hba: None, refused: Refused::new(), ports, time };
        self.found.push((address, Found::Ahci(found)));
        self
    }

    /// A disk of a controller, and one to look at it with, for this thread; the controller is
    /// brought up if it has not been yet, with the first word on whether it honours FUA.
    pub(super) fn open(
        &mut self,
        (address, honours_fua): (PciAddress, bool),
        unit: Unit,
    ) -> Result<(Place, Box<dyn Disk>), String> {
        let known = self.found.iter().position(|(at, _)| *at == address);
        let controller = match known {
            Some(number) => number,
            None => {
                self.found.push((address, self.bring_up(address, honours_fua, unit)?));
                self.found.len() - 1
            }
        };
        let opened = match (&mut self.found[controller].1, unit) {
            (Found::Nvme(found), Unit::Namespace(id)) => found.open(id, self.clock),
            (Found::Ahci(found), Unit::Port(port)) => found.open(port, self.clock),
            (Found::Nvme(_), Unit::Port(_)) => return Err(NO_ADAPTER.to_owned()),
            (Found::Ahci(_), Unit::Namespace(_)) => return Err(ADAPTER.to_owned()),
        };
        let (part, disk) = opened.map_err(|error| error.to_string())?;
        Ok((Place { controller, part }, disk))
    }

    fn bring_up(
        &self,
        address: PciAddress,
        honours_fua: bool,
        unit: Unit,
    ) -> Result<Found<B::Device>, String> {
        match (self.bus.kind(address), unit) {
            (Some(ControllerKind::Ahci), Unit::Namespace(_)) => return Err(ADAPTER.to_owned()),
            (Some(ControllerKind::Nvme), Unit::Port(_)) => return Err(NO_ADAPTER.to_owned()),
            _ => {}
        }
        let device = self.bus.open(address, self.arena)?;
        match unit {
            Unit::Namespace(_) => {
                let options =
                    NvmeOptions { queues: self.cores, honours_fua, ..NvmeOptions::default() };
                let clock = self.clock;
                FoundNvme::bring_up(device, options, &|| clock.now()).map(Found::Nvme)
            }
            Unit::Port(_) => self.bring_up_ahci(device, honours_fua),
        }
    }

    fn bring_up_ahci(
        &self,
        device: B::Device,
        honours_fua: bool,
    ) -> Result<Found<B::Device>, String> {
        let options = AhciOptions { honours_fua, ..AhciOptions::default() };
        let clock = self.clock;
        let brought_up = single::bring_up_adapter(device, options, &|| clock.now());
        let (hba, refused) = brought_up.map_err(|error| error.to_string())?;
        let hba = Some(Rc::new(RefCell::new(hba)));
        Ok(Found::Ahci(FoundAhci { hba, refused, ports: Vec::new(), time: time(clock) }))
    }

    /// The controllers, once every disk has been looked at.
    pub(super) fn finish(self) -> Controllers<B::Device> {
        let whole = |(address, found)| {
            let whole = match found {
                Found::Nvme(found) => Whole::Nvme(Box::new(found.into_controller())),
                Found::Ahci(FoundAhci { hba, ports, .. }) => {
                    let seats = ports.into_iter().map(|port| port.detach().expect(LEFT)).collect();
                    let hba = hba.map(|hba| Rc::into_inner(hba).expect(LEFT).into_inner());
                    Whole::Ahci(hba.map(Box::new), seats)
                }
            };
            (address, whole)
        };
        Controllers(self.found.into_iter().map(whole).collect())
    }
}

const LEFT: &str = "who looked at a disk has left";
const ADAPTER: &str =
    "it is an AHCI adapter: say `port`, the number of the drive's, not `namespace`";
const NO_ADAPTER: &str = "it is no AHCI adapter: say `namespace`, not `port`";

fn time(clock: Clock) -> CoreTime {
    let time = CoreTime::default();
    time.set(clock.now());
    time
}

impl<D: Device + 'static> FoundNvme<D> {
    /// `now` tells the time.
    fn bring_up(
        device: D,
        options: NvmeOptions,
        now: &dyn Fn() -> Duration,
    ) -> Result<Self, String> {
        let brought_up = single::bring_up(device, options, now);
        let mut controller = brought_up.map_err(|error| error.to_string())?;
        let queues = controller.seats();
        let mut seat = controller.take_seat().ok_or("the controller has no queue for us")?;
        let interrupt = seat.take_interrupt();
        let time = CoreTime::default();
        time.set(now());
        let queue = seat.attach(Waker::unneeded(), time.clone());
        let controller = Rc::new(RefCell::new(controller));
        Ok(Self { controller, queue, interrupt, queues, time })
    }

    /// The controller, with all its queues.
    fn into_controller(self) -> NvmeController<D> {
        let mut controller = Rc::into_inner(self.controller).expect(LEFT).into_inner();
        // One on which something is still in flight is lost with that.
        if let Some(seat) = self.queue.detach(self.interrupt) {
            controller.return_seat(seat);
        }
        controller
    }

    fn open(&self, id: u32, clock: Clock) -> Result<(Part, Box<dyn Disk>), BringUpError> {
        let namespace = single::namespace(&self.controller.borrow(), id)?;
        let controller = Rc::clone(&self.controller);
        let disk = Looked {
            disk: Box::new(self.queue.open(&namespace)),
            advance: Box::new(move |now| _ = controller.borrow_mut().poll(now)),
            time: self.time.clone(),
            clock,
        };
        Ok((Part::Namespace(namespace, self.queues), Box::new(disk)))
    }
}

impl<D: Device> FoundAhci<D> {
    fn open(&mut self, port: u8, clock: Clock) -> Result<(Part, Box<dyn Disk>), BringUpError> {
        if let Some(hba) = &self.hba
            && !self.ports.iter().any(|known| known.port() == port)
        {
            let seat = single::take_drive(&mut hba.borrow_mut(), &self.refused, port)?;
            self.ports.push(seat.attach(Waker::unneeded(), self.time.clone()));
        }
        let found = self.ports.iter().find(|known| known.port() == port);
        let found = found.expect("just seen to, or the drive that has returned");
        let hba = self.hba.clone();
        let disk = Looked {
            disk: Box::new(found.open()),
            // One that the cores have advances there.
            advance: Box::new(move |now| {
                if let Some(hba) = &hba {
                    hba.borrow_mut().poll(now);
                }
            }),
            time: self.time.clone(),
            clock,
        };
        Ok((Part::Port(port), Box::new(disk)))
    }
}

impl<D: Device> Controllers<D> {
    /// What each core gets, in order, and the controllers. `uses`: whether the core has a shard on
    /// the controller of this number; on this port of it, if one is given.
    ///
    /// # Errors
    /// A controller has fewer queues than cores that need one: it had more when its disks were
    /// given to cores.
    pub(super) fn deal(
        self,
        cores: usize,
        uses: impl Fn(usize, (usize, Option<u8>)) -> bool,
    ) -> Result<Shares<D>, String> {
        let mut dealt: Vec<Hardware<D>> = (0..cores).map(|_| Hardware::default()).collect();
        let mut controllers: Vec<(PciAddress, Box<dyn Controller + Send>, Lost)> = Vec::new();
        let mut all = Vec::new();
        for (number, (address, whole)) in self.0.into_iter().enumerate() {
            let (lost, mut drives, mut probe) = (Lost::default(), Vec::new(), None);
            match whole {
                Whole::Nvme(mut controller) => {
                    for (core, hardware) in dealt.iter_mut().enumerate() {
                        if !uses(core, (number, None)) {
                            continue;
                        }
                        let seat = controller.take_seat().ok_or_else(|| too_few(address))?;
                        hardware.seats.push((number, address, seat));
                    }
                    controllers.push((address, controller, lost.clone()));
                }
                Whole::Ahci(hba, seats) => {
                    for seat in seats {
                        let part = (number, Some(seat.port()));
                        // One of a disk that is left out is let go.
                        if let Some(core) = (0..cores).find(|core| uses(*core, part)) {
                            let lost = Lost::default();
                            drives.push((seat.port(), lost.clone()));
                            dealt[core].ports.push((number, address, seat, lost));
                        }
                    }
                    if let Some(mut hba) = hba {
                        // Drives that nobody wants are let go: later they may be others.
                        while hba.take_seat().is_some() {}
                        let (adapter, of_it) = SataAdapter::new(*hba);
                        probe = Some(of_it);
                        controllers.push((address, Box::new(adapter), lost.clone()));
                    }
                }
            }
            all.push(Dealt { address, lost, drives, probe });
        }
        if let Some(first) = dealt.first_mut() {
            first.controllers = controllers;
        }
        Ok((dealt, all))
    }
}

fn too_few(address: PciAddress) -> String {
    format!(
        "controller {address} has fewer queues than cores that have shards of it: restart the \
         node, which then places them on fewer cores"
    )
}

impl<D: Device> Default for Hardware<D> {
    fn default() -> Self {
        Self { seats: Vec::new(), ports: Vec::new(), controllers: Vec::new() }
    }
}

impl<D: Device> Hardware<D> {
    /// Puts it on the calling core.
    pub(super) fn attach(self, devices: &mut Devices, ring: &Ring) -> Queues<D::Registers> {
        for (address, controller, lost) in self.controllers {
            devices.add_controller(address, controller, lost);
        }
        let (mut queues, mut ports) = (Vec::new(), Vec::new());
        for (number, address, mut seat) in self.seats {
            let interrupt = seat.take_interrupt();
            let queue = seat.attach(ring.waker(), devices.time());
            let polled = Box::new(queue.clone());
            match interrupt {
                Some(interrupt) => {
                    devices.add_interrupting(address, polled, Box::new(interrupt), ring);
                }
                None => devices.add_queue(address, polled),
            }
            queues.push((number, queue));
        }
        for (number, address, seat, lost) in self.ports {
            let port = seat.attach(ring.waker(), devices.time());
            let part = DevicePart { device: address, port: Some(port.port()) };
            devices.add_queue(part, Box::new(port.clone()));
            devices.add_controller(part, Box::new(SataDrive::new(port.clone())), lost);
            ports.push((number, port));
        }
        Queues { queues, ports }
    }
}

impl<R: Registers> Queues<R> {
    /// As a disk of this core.
    pub(super) fn open(&self, place: &Place) -> Box<dyn Disk> {
        match &place.part {
            Part::Namespace(namespace, _) => {
                let is_it = |(number, _): &&(usize, _)| *number == place.controller;
                let queue = self.queues.iter().find(is_it);
                let (_, queue) = queue.expect("a queue for each core that needs one");
                Box::new(queue.open(namespace))
            }
            Part::Port(port) => {
                let is_it = |(number, of): &&(usize, AhciPort<R>)| {
                    *number == place.controller && of.port() == *port
                };
                let (_, port) = self.ports.iter().find(is_it).expect("the port is of this core");
                Box::new(port.open())
            }
        }
    }
}

impl Place {
    /// Whether it is on the controller of this number, and on this port of it, if one is given.
    pub(super) fn is_on(&self, (controller, port): (usize, Option<u8>)) -> bool {
        let is_there = match self.part {
            Part::Namespace(..) => port.is_none(),
            Part::Port(of) => port.is_none_or(|port| port == of),
        };
        self.controller == controller && is_there
    }

    /// On how many cores its shards can be, and those of all disks of the same owner of queues.
    pub(super) fn queues(&self) -> (QueueOwner, usize) {
        match self.part {
            Part::Namespace(_, queues) => ((self.controller, None), queues),
            Part::Port(port) => ((self.controller, Some(port)), 1),
        }
    }

    /// What the opening of some namespaces leads to: their places, and the controller with its
    /// queues. `now` tells the time.
    #[cfg(test)]
    pub(super) fn found<D: Device + 'static>(
        device: D,
        (number, ids, cores): (usize, &[u32], usize),
        now: &dyn Fn() -> Duration,
    ) -> (Vec<Self>, NvmeController<D>) {
        let options = NvmeOptions { queues: cores, ..NvmeOptions::default() };
        let found = FoundNvme::bring_up(device, options, now).unwrap();
        let open = |id: &u32| found.open(*id, Clock::start()).ok().unwrap().0;
        let places = ids.iter().map(open).map(|part| Self { controller: number, part }).collect();
        (places, found.into_controller())
    }

    /// As a disk on a queue of its controller.
    #[cfg(test)]
    pub(super) fn on<R: Registers>(&self, queue: &NvmeQueue<R>) -> crate::disk::nvme::NvmeDisk<R> {
        let Part::Namespace(namespace, _) = &self.part else { panic!("of an adapter") };
        queue.open(namespace)
    }

    /// The drive on a port of an adapter.
    #[cfg(test)]
    pub(super) fn on_port(controller: usize, port: u8) -> Self {
        Self { controller, part: Part::Port(port) }
    }
}

/// A disk that is looked at on a thread without a reactor.
struct Looked {
    disk: Box<dyn Disk>,
    /// Advances its controller.
    advance: Box<dyn FnMut(Duration)>,
    time: CoreTime,
    clock: Clock,
}

impl Disk for Looked {
    fn info(&self) -> &Info {
        self.disk.info()
    }

    fn submit(&mut self, tag: Tag, op: Op) {
        self.disk.submit(tag, op);
    }

    fn poll(&mut self, done: &mut Vec<Completion>) {
        let now = self.clock.now();
        self.time.set(now);
        (self.advance)(now);
        self.disk.poll(done);
    }

    fn in_flight(&self) -> usize {
        self.disk.in_flight()
    }
}
