//! What a core has of an adapter: a port, and disks on it.

use super::super::health::Health;
use super::super::{Completion, Disk, Info, Op, Tag};
use super::drive::DriveFacts;
use super::options::Trouble;
use super::port::{Port, PortCounters};
use crate::hardware::{CoreTime, Registers};
use crate::node::DriveInfo;
use crate::uring::Waker;
use std::cell::RefCell;
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

/// A port with its drive, on no core. `Send`: made by the adapter on its core, then given to the
/// one that shall drive it.
pub struct AhciSeat<R: Registers> {
    pub(super) name: String,
    pub(super) number: u8,
    pub(super) port: Port<R>,
}

impl<R: Registers> AhciSeat<R> {
    /// Which port of the adapter it is.
    #[must_use]
    pub fn port(&self) -> u8 {
        self.number
    }

    /// What its drive says of itself.
    #[must_use]
    pub fn facts(&self) -> &DriveFacts {
        self.port.facts()
    }

    /// Puts the port on the calling core. `waker`: of that core, which may sleep while the adapter
    /// has something to say. `time`: its clock.
    #[must_use]
    pub fn attach(self, waker: Waker, time: CoreTime) -> AhciPort<R> {
        let Self { name, number, mut port } = self;
        // A core that takes a port may have a clock of its own.
        (port.resets, port.last_reset) = (0, time.now());
        (port.next_watch, port.next_look) = (time.now(), time.now());
        port.link.attach(port.place, waker);
        AhciPort(Rc::new(Shared { name, number, port: RefCell::new(port), time }))
    }
}

/// A port with its drive, on its core. Clones are the same one.
pub struct AhciPort<R: Registers>(Rc<Shared<R>>);

struct Shared<R: Registers> {
    name: String,
    number: u8,
    port: RefCell<Port<R>>,
    time: CoreTime,
}

impl<R: Registers> Clone for AhciPort<R> {
    fn clone(&self) -> Self {
        Self(Rc::clone(&self.0))
    }
}

impl<R: Registers> AhciPort<R> {
    /// Takes the port from its core, for another: nothing may be in flight. `None` while there are
    /// other handles or disks on it.
    #[must_use]
    pub fn detach(self) -> Option<AhciSeat<R>> {
        let Shared { name, number, port, .. } = Rc::into_inner(self.0)?;
        let port = port.into_inner();
        assert!(port.is_idle(), "a port is moved when nothing is in flight");
        port.link.detach(port.place);
        Some(AhciSeat { name, number, port })
    }

    /// The drive as a disk. It may have any number of them.
    #[must_use]
    pub fn open(&self) -> AhciDisk<R> {
        let capacity = self.with(|port| port.facts().blocks << port.facts().block_shift);
        self.open_part(0..capacity)
    }

    /// A part of the drive, a range of bytes in whole blocks. Parts that are driven at the same
    /// time must not overlap.
    #[must_use]
    pub fn open_part(&self, range: Range<u64>) -> AhciDisk<R> {
        let name = self.0.name.clone();
        let (info, client) = self.with(|port| {
            let (options, facts) = (port.options, port.facts());
            let mut info = facts.info(name, &options);
            let (shift, block) = (facts.block_shift, 1_u64 << facts.block_shift);
            assert!(range.start < range.end && range.end <= info.capacity);
            assert!(range.start.is_multiple_of(block) && range.end.is_multiple_of(block));
            info.capacity = range.end - range.start;
            (info, port.add_client(range.start >> shift))
        });
        AhciDisk { info, port: self.clone(), client }
    }

    /// Which port of the adapter it is.
    #[must_use]
    pub fn port(&self) -> u8 {
        self.0.number
    }

    /// The adapter and the port, for people.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// What the drive says of itself.
    #[must_use]
    pub fn facts(&self) -> DriveFacts {
        self.with(|port| port.facts().clone())
    }

    /// Has the drive asked how it fares: it drains its queue for that, so not too often. The answer
    /// is [`AhciPort::health`] some polls later.
    pub fn ask_health(&self) {
        self.with(Port::ask_health);
    }

    /// Has the drive made ready for a loss of its power, once all before has ended: for the end of
    /// its use. A drive of flash memory stands by; a turning one moves its heads aside, if it can,
    /// and goes on turning. It is done when the port [is idle](Self::is_idle).
    pub fn rest(&self) {
        self.with(Port::rest);
    }

    /// Whether it has nothing to do, nor ever will have.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.with(|port| port.is_idle() || port.has_ended())
    }

    /// How the drive fared when it was asked last; `None` where it was not, or does not say.
    #[must_use]
    pub fn health(&self) -> Option<Health> {
        self.with(|port| port.health)
    }

    /// What the drive says of itself and of how it fares.
    #[must_use]
    pub fn drive_info(&self) -> DriveInfo {
        let DriveFacts { model, serial, firmware, blocks, block_shift, .. } = self.facts();
        let (size, health) = (blocks << block_shift, self.health());
        DriveInfo { model, serial, firmware, size, health }
    }

    /// What the port has counted.
    #[must_use]
    pub fn counters(&self) -> PortCounters {
        self.with(|port| port.counters)
    }

    /// Its last trouble; with [`AhciPort::has_ended`], why it has ended.
    #[must_use]
    pub fn trouble(&self) -> Option<Trouble> {
        self.with(|port| port.trouble.clone())
    }

    /// Whether it has ended for good. When all handles are gone, [`super::AhciHba::probe`] may find
    /// a drive again.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.with(|port| port.has_ended())
    }

    /// Operations of its disks that have not been reported.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.with(|port| port.all_in_flight())
    }

    /// Whether it does something that nobody but a poll will notice the end of.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.with(|port| !port.has_ended() && (port.all_in_flight() > 0 || !port.is_idle()))
    }

    /// When it wants to be polled even if it is not busy.
    #[must_use]
    pub fn deadline(&self, now: Duration) -> Option<Duration> {
        self.with(|port| port.deadline(now))
    }

    /// Advances the port: for one without a disk. [`Disk::poll`] does it too.
    pub fn poll(&self) {
        self.with(|port| port.advance(self.0.time.now()));
    }

    #[inline]
    fn with<T>(&self, act: impl FnOnce(&mut Port<R>) -> T) -> T {
        act(&mut self.0.port.borrow_mut())
    }
}

/// A drive, or a part of one, on the port of one core.
///
/// What goes wrong is met by the port (see [`super`]): the submitter sees a delay. What cannot be
/// written ends the writing of the drive.
pub struct AhciDisk<R: Registers> {
    info: Info,
    port: AhciPort<R>,
    client: u16,
}

impl<R: Registers> AhciDisk<R> {
    /// The port that it is on.
    #[must_use]
    pub fn port(&self) -> &AhciPort<R> {
        &self.port
    }
}

impl<R: Registers> Disk for AhciDisk<R> {
    fn info(&self) -> &Info {
        &self.info
    }

    #[inline]
    fn submit(&mut self, tag: Tag, op: Op) {
        self.info.check_transfer(&op);
        let now = self.port.0.time.now();
        self.port.with(|port| {
            assert!(port.in_flight(self.client) < self.info.queue_depth, "queue depth");
            port.submit(self.client, tag, op, now);
        });
    }

    #[inline]
    fn poll(&mut self, done: &mut Vec<Completion>) {
        let now = self.port.0.time.now();
        self.port.with(|port| port.poll(self.client, done, now));
    }

    fn in_flight(&self) -> usize {
        self.port.with(|port| port.in_flight(self.client))
    }
}

impl<R: Registers> Drop for AhciDisk<R> {
    fn drop(&mut self) {
        self.port.with(|port| port.remove_client(self.client));
    }
}
