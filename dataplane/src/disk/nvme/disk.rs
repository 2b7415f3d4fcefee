//! What a core has of a controller: a queue, and disks on it.

use super::super::{Completion, Disk, Info, Op, Tag, WriteData};
use super::link::{Link, PhaseWord};
use super::namespace::Namespace;
use super::queue::{Queue, QueueCounters, QueueParts};
use super::request::{Stage, Target};
use crate::hardware::{CoreTime, Device, Registers};
use crate::uring::Waker;
use std::cell::RefCell;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

/// An I/O queue pair that is on no core yet. `Send`: made by the controller on its core, then given
/// to the one that shall drive it.
pub struct NvmeSeat<D: Device> {
    pub(super) name: String,
    pub(super) parts: QueueParts<D::Registers>,
    pub(super) link: Arc<Link>,
    pub(super) place: usize,
    pub(super) interrupt: Option<D::Interrupt>,
    /// The phase in which the rings were used last, if they were.
    pub(super) used_in: Option<PhaseWord>,
}

impl<D: Device> NvmeSeat<D> {
    /// The interrupt of the queue's completions, for a core that wants to sleep. `None` where there
    /// is none.
    #[must_use]
    pub fn take_interrupt(&mut self) -> Option<D::Interrupt> {
        self.interrupt.take()
    }

    /// Puts the queue on the calling core. `waker`: of that core, which may sleep while the
    /// controller has something to say. `time`: its clock.
    #[must_use]
    pub fn attach(self, waker: Waker, time: CoreTime) -> NvmeQueue<D::Registers> {
        self.link.attach(self.place, waker);
        let honours_fua = self.parts.options.honours_fua;
        let queue = Queue::new(self.parts, self.link, (self.place, self.used_in), time);
        NvmeQueue::new(self.name, honours_fua, queue)
    }
}

/// An I/O queue pair on its core. Clones are the same one.
pub struct NvmeQueue<R: Registers>(Rc<Shared<R>>);

struct Shared<R: Registers> {
    name: String,
    honours_fua: bool,
    /// There until the last handle goes, or the queue to another core.
    queue: RefCell<Option<Queue<R>>>,
}

impl<R: Registers> Clone for NvmeQueue<R> {
    fn clone(&self) -> Self {
        Self(Rc::clone(&self.0))
    }
}

impl<R: Registers> Drop for Shared<R> {
    fn drop(&mut self) {
        if let Some(queue) = self.queue.take() {
            queue.close();
        }
    }
}

impl<R: Registers> NvmeQueue<R> {
    pub(super) fn new(name: String, honours_fua: bool, queue: Queue<R>) -> Self {
        let queue = RefCell::new(Some(queue));
        Self(Rc::new(Shared { name, honours_fua, queue }))
    }

    /// Takes the queue from its core, for another, with its interrupt. `None`, and the queue is
    /// lost, while there are other handles or disks on it, or anything is in flight.
    #[must_use]
    pub fn detach<D>(self, interrupt: Option<D::Interrupt>) -> Option<NvmeSeat<D>>
    where
        D: Device<Registers = R>,
    {
        let shared = Rc::into_inner(self.0)?;
        let mut queue = shared.queue.borrow_mut();
        if !queue.as_ref().is_some_and(Queue::is_idle) {
            return None;
        }
        let (parts, link, place, word) = queue.take()?.detach();
        let name = shared.name.clone();
        Some(NvmeSeat { name, parts, link, place, interrupt, used_in: Some(word) })
    }

    /// A namespace as a disk on this queue. A namespace may have any number of disks, on any of the
    /// controller's queues.
    #[must_use]
    pub fn open(&self, namespace: &Namespace) -> NvmeDisk<R> {
        let facts = namespace.facts();
        let capacity = facts.blocks << facts.block_shift;
        self.open_part(namespace, 0..capacity)
    }

    /// A part of a namespace, a range of bytes in whole blocks. Parts that are driven at the same
    /// time must not overlap.
    #[must_use]
    pub fn open_part(&self, namespace: &Namespace, range: Range<u64>) -> NvmeDisk<R> {
        let facts = namespace.facts();
        let block = 1_u64 << facts.block_shift;
        assert!(range.start < range.end && range.end <= facts.blocks << facts.block_shift);
        assert!(range.start.is_multiple_of(block) && range.end.is_multiple_of(block));
        let name = format!("{}n{}", self.0.name, facts.id);
        let honours_fua = self.0.honours_fua;
        let base = range.start >> facts.block_shift;
        let target = Target { namespace: namespace.clone(), base, honours_fua };
        let (client, depth) = self.with(|queue| (queue.add_client(target), queue.depth()));
        let mut info = namespace.info(name, depth, honours_fua);
        info.capacity = range.end - range.start;
        NvmeDisk { info, queue: self.clone(), client }
    }

    /// What the queue has counted.
    #[must_use]
    pub fn counters(&self) -> QueueCounters {
        self.with(|queue| queue.counters())
    }

    /// Operations of all its disks that have not been reported.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.with(|queue| queue.in_flight_total())
    }

    /// Whether polling its disks would bring something now.
    #[must_use]
    pub fn has_work(&self) -> bool {
        self.with(|queue| queue.has_work())
    }

    #[inline]
    fn with<T>(&self, act: impl FnOnce(&mut Queue<R>) -> T) -> T {
        act(self.0.queue.borrow_mut().as_mut().expect("there until the last handle goes"))
    }
}

/// A namespace, or a part of one, on the queue of one core.
///
/// Commands that do not end are aborted, then the controller is reset and they are tried again: the
/// submitter sees a delay. What cannot be written, or is lost with the power of a device that has a
/// volatile cache, ends the writing of the namespace on all cores.
pub struct NvmeDisk<R: Registers> {
    info: Info,
    queue: NvmeQueue<R>,
    client: u16,
}

impl<R: Registers> NvmeDisk<R> {
    /// Compares what a write would write with what is there. Completes as that write would, with
    /// [`super::super::Error::Mismatch`] where they differ, and with `Unsupported` where the
    /// controller has no Compare.
    pub fn compare(&mut self, tag: Tag, offset: u64, data: WriteData) {
        let op = Op::Write { offset, data, fua: false };
        self.info.check_transfer(&op);
        self.queue.with(|queue| queue.submit(self.client, tag, op, Stage::Compare));
    }
}

impl<R: Registers> Disk for NvmeDisk<R> {
    fn info(&self) -> &Info {
        &self.info
    }

    #[inline]
    fn submit(&mut self, tag: Tag, op: Op) {
        self.info.check_transfer(&op);
        self.queue.with(|queue| queue.submit(self.client, tag, op, Stage::Main));
    }

    #[inline]
    fn poll(&mut self, done: &mut Vec<Completion>) {
        self.queue.with(|queue| queue.poll(self.client, done));
    }

    fn in_flight(&self) -> usize {
        self.queue.with(|queue| queue.in_flight(self.client))
    }
}

impl<R: Registers> Drop for NvmeDisk<R> {
    fn drop(&mut self) {
        self.queue.with(|queue| queue.remove_client(self.client));
    }
}
