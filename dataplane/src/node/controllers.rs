//! The controllers that a node drives itself: brought up before its cores run, then given to them.
//!
//! Each core gets one queue of each controller. The controllers themselves live on the first core.

use crate::core::{Clock, Devices};
use crate::disk::nvme::{Namespace, NvmeController, NvmeOptions, NvmeQueue, NvmeSeat};
use crate::disk::single::{bring_up, namespace};
use crate::disk::{Completion, Disk, Info, Op, Tag};
use crate::dma::Arena;
use crate::hardware::CoreTime;
use crate::pci::{Machine, PciAddress};
use crate::uring::Waker;
use crate::vfio::{Options, Vfio, VfioDevice, Window};
use std::cell::RefCell;
use std::rc::Rc;

/// Opens controllers, while the node looks at its disks.
pub(super) struct Opener<'a> {
    vfio: Vfio,
    arena: &'a Arena,
    clock: Clock,
    cores: usize,
    found: Vec<Found>,
}

struct Found {
    address: PciAddress,
    controller: Rc<RefCell<NvmeController<VfioDevice>>>,
    /// A queue to look at the disks with, on this thread.
    queue: NvmeQueue<Window>,
    time: CoreTime,
}

/// Controllers that run, on their way to the cores.
pub(super) struct Controllers {
    controllers: Vec<NvmeController<VfioDevice>>,
    addresses: Vec<PciAddress>,
}

/// What one core gets: its queue of each controller, by the controller's number, and, the first
/// core, the controllers.
#[derive(Default)]
pub(super) struct Hardware {
    seats: Vec<Option<NvmeSeat<VfioDevice>>>,
    controllers: Vec<NvmeController<VfioDevice>>,
}

/// The queues of one core.
pub(super) struct Queues(Vec<Option<NvmeQueue<Window>>>);

/// A namespace of a controller.
#[derive(Clone)]
pub(super) struct Place {
    controller: usize,
    namespace: Namespace,
}

impl<'a> Opener<'a> {
    pub(super) fn new(arena: &'a Arena, clock: Clock, cores: usize, no_iommu: bool) -> Self {
        let vfio = Vfio::new(Options { no_iommu, ..Options::default() });
        Self { vfio, arena, clock, cores, found: Vec::new() }
    }

    /// A namespace, and a disk on it to look at it with, for this thread; the controller is brought
    /// up if it has not been yet, with the first word on whether it honours FUA.
    pub(super) fn open(
        &mut self,
        (address, honours_fua): (PciAddress, bool),
        id: u32,
    ) -> Result<(Place, Box<dyn Disk>), String> {
        let known = self.found.iter().position(|found| found.address == address);
        let controller = match known {
            Some(number) => number,
            None => {
                self.found.push(self.bring_up(address, honours_fua)?);
                self.found.len() - 1
            }
        };
        let found = &self.found[controller];
        let text = |error: crate::disk::single::BringUpError| error.to_string();
        let namespace = namespace(&found.controller.borrow(), id).map_err(text)?;
        let disk = Box::new(Looked {
            disk: Box::new(found.queue.open(&namespace)),
            controller: Rc::clone(&found.controller),
            time: found.time.clone(),
            clock: self.clock,
        });
        Ok((Place { controller, namespace }, disk))
    }

    fn bring_up(&self, address: PciAddress, honours_fua: bool) -> Result<Found, String> {
        let opened = self.vfio.open(&Machine::this(), address, self.arena);
        let device = opened.map_err(|error| error.to_string())?;
        // One for each core, and one to look at its disks from here.
        let options = NvmeOptions {
            queues: self.cores + 1,
            honours_fua,
            interrupts: false,
            ..NvmeOptions::default()
        };
        let clock = self.clock;
        let brought_up = bring_up(device, options, &|| clock.now());
        let mut controller = brought_up.map_err(|error| error.to_string())?;
        let seat = controller.take_seat().ok_or("the controller has no queue for us")?;
        let time = CoreTime::default();
        time.set(clock.now());
        let queue = seat.attach(Waker::unneeded(), time.clone());
        Ok(Found { address, controller: Rc::new(RefCell::new(controller)), queue, time })
    }

    /// The controllers, once every disk has been looked at.
    pub(super) fn finish(self) -> Controllers {
        let addresses = self.found.iter().map(|found| found.address).collect();
        let whole = |found: Found| {
            drop(found.queue);
            let whole = Rc::into_inner(found.controller).expect("who looked at a disk has left");
            whole.into_inner()
        };
        Controllers { controllers: self.found.into_iter().map(whole).collect(), addresses }
    }
}

impl Controllers {
    /// What each core gets, in order. `uses`: whether the core has a shard on the controller of
    /// this number.
    ///
    /// # Errors
    /// A controller has fewer queues than cores that need one.
    pub(super) fn deal(
        mut self,
        cores: usize,
        uses: impl Fn(usize, usize) -> bool,
    ) -> Result<Vec<Hardware>, String> {
        let mut dealt: Vec<Hardware> = (0..cores).map(|_| Hardware::default()).collect();
        for (number, controller) in self.controllers.iter_mut().enumerate() {
            for (core, hardware) in dealt.iter_mut().enumerate() {
                let is_used = uses(core, number);
                let seat = if is_used { controller.take_seat() } else { None };
                if is_used && seat.is_none() {
                    return Err(format!(
                        "controller {} has too few queues for {cores} cores: give the node fewer \
                         `cores`, or format the disk with fewer shards",
                        self.addresses[number]
                    ));
                }
                hardware.seats.push(seat);
            }
        }
        if let Some(first) = dealt.first_mut() {
            first.controllers = self.controllers;
        }
        Ok(dealt)
    }
}

impl Hardware {
    /// Puts it on the calling core.
    pub(super) fn attach(self, devices: &mut Devices, waker: &Waker) -> Queues {
        for controller in self.controllers {
            devices.add_controller(Box::new(controller));
        }
        let mut attach = |seat: NvmeSeat<VfioDevice>| {
            let queue = seat.attach(waker.clone(), devices.time());
            devices.add_queue(Box::new(queue.clone()));
            queue
        };
        Queues(self.seats.into_iter().map(|seat| seat.map(&mut attach)).collect())
    }
}

impl Queues {
    /// The namespace as a disk of this core.
    pub(super) fn open(&self, place: &Place) -> Box<dyn Disk> {
        let queue = self.0[place.controller].as_ref();
        Box::new(queue.expect("a queue for each core that needs one").open(&place.namespace))
    }
}

impl Place {
    /// The number of the controller.
    pub(super) fn controller(&self) -> usize {
        self.controller
    }
}

/// A disk that is looked at on a thread without a reactor.
struct Looked {
    disk: Box<dyn Disk>,
    controller: Rc<RefCell<NvmeController<VfioDevice>>>,
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
        self.controller.borrow_mut().poll(now);
        self.disk.poll(done);
    }

    fn in_flight(&self) -> usize {
        self.disk.in_flight()
    }
}
