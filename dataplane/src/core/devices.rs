//! The hardware that a core drives itself, besides its rings.

use crate::disk::health::Health;
use crate::disk::nvme::{Namespace, NvmeController, NvmeEvent, NvmeQueue};
use crate::hardware::{CoreTime, Device, Interrupt, Registers};
use crate::node::{DriveInfo, HealthWatch, Severity};
use crate::pci::PciAddress;
use crate::uring::{Alarm, Ring};
use nvmeof_target::io::Now;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A controller at home on this core, or a drive of one that belongs to one core as a whole.
pub(crate) trait Controller {
    /// Where it is, for people.
    fn name(&self) -> &str;

    /// What it is, for people.
    fn what(&self) -> &'static str;

    /// Advances; whether there was anything to do.
    fn poll(&mut self, now: Now) -> bool;

    /// When it wants to be polled even if nothing comes.
    fn deadline(&self, now: Now) -> Option<Now>;

    /// What it has to tell: how grave, what kind, and a text.
    fn next_event(&mut self) -> Option<(Severity, &'static str, String)>;

    /// SMART, as it was read last.
    fn health(&self) -> Option<Health>;

    /// Its disks as the node calls them, with what they say of themselves.
    fn drives(&self) -> Vec<(String, DriveInfo)>;

    /// Begins its end: it writes out what it caches.
    fn shut_down(&mut self, now: Now);

    /// Whether it has ended.
    fn has_ended(&self) -> bool;

    /// Whether it ended by itself, and is driven no more.
    fn is_lost(&self) -> bool;
}

/// A queue of a controller, on this core.
pub(crate) trait HardwareQueue {
    /// Whether something is under way whose end nobody but a poll will notice, or an interrupt.
    fn is_busy(&self) -> bool;

    /// Whether a poll would do something now. Asked of a queue with an interrupt, before a sleep.
    fn has_work(&self) -> bool {
        true
    }
}

/// A device as a whole, or a drive of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DevicePart {
    pub(crate) device: PciAddress,
    /// The port of a drive behind an adapter.
    pub(crate) port: Option<u8>,
}

impl From<PciAddress> for DevicePart {
    fn from(device: PciAddress) -> Self {
        Self { device, port: None }
    }
}

impl DevicePart {
    /// Whether `other` is this, or a part of it.
    fn includes(self, other: Self) -> bool {
        self.device == other.device && (self.port.is_none() || self.port == other.port)
    }
}

/// A controller or drive, and what is known of it elsewhere.
struct ControllerSeat {
    part: DevicePart,
    controller: Box<dyn Controller>,
    watch: HealthWatch,
    /// Set when it is driven no more.
    lost: Arc<AtomicBool>,
}

/// A queue, and what ends a sleep when it has something.
struct QueueSeat {
    part: DevicePart,
    queue: Box<dyn HardwareQueue>,
    bell: Option<Bell>,
}

/// An interrupt as an end of sleeps.
struct Bell {
    interrupt: Box<dyn Interrupt>,
    alarm: Alarm,
    is_armed: bool,
}

/// All hardware of a core.
#[derive(Default)]
pub(crate) struct Devices {
    time: CoreTime,
    controllers: Vec<ControllerSeat>,
    queues: Vec<QueueSeat>,
    /// Whether [`Devices::take_drives`] has anything new.
    has_news: bool,
}

impl Devices {
    /// The clock of everything on this core.
    pub(crate) fn time(&self) -> CoreTime {
        self.time.clone()
    }

    /// Adds a controller of a device, or a drive on it. `lost` is set when it is driven no more.
    pub(crate) fn add_controller(
        &mut self,
        part: impl Into<DevicePart>,
        controller: Box<dyn Controller>,
        lost: Arc<AtomicBool>,
    ) {
        self.has_news = true;
        let (part, watch) = (part.into(), HealthWatch::new(controller.name()));
        self.controllers.push(ControllerSeat { part, controller, watch, lost });
    }

    /// Adds a queue for whose end the core has to poll.
    pub(crate) fn add_queue(&mut self, part: impl Into<DevicePart>, queue: Box<dyn HardwareQueue>) {
        self.queues.push(QueueSeat { part: part.into(), queue, bell: None });
    }

    /// Adds a queue with an interrupt that ends sleeps in `ring`.
    pub(crate) fn add_interrupting(
        &mut self,
        part: impl Into<DevicePart>,
        queue: Box<dyn HardwareQueue>,
        interrupt: Box<dyn Interrupt>,
        ring: &Ring,
    ) {
        // Without a descriptor for it the core polls.
        let alarm = Alarm::new(ring, interrupt.fd()).ok();
        let bell = alarm.map(|alarm| Bell { interrupt, alarm, is_armed: false });
        self.queues.push(QueueSeat { part: part.into(), queue, bell });
    }

    /// Sets the time, and advances the controllers. `note` hears of what happened.
    pub(crate) fn poll(&mut self, now: Now, note: &mut dyn FnMut(Severity, &str, String)) -> bool {
        if now > self.time.now() {
            self.time.set(now);
        }
        for bell in self.queues.iter_mut().filter_map(|seat| seat.bell.as_mut()) {
            // One that came after the sleep would count as work of the ring for ever.
            bell.alarm.take();
        }
        let mut worked = false;
        for ControllerSeat { controller, watch, lost, .. } in &mut self.controllers {
            worked |= controller.poll(now);
            while let Some((severity, kind, text)) = controller.next_event() {
                let text = format!("{} {}: {text}", controller.what(), controller.name());
                note(severity, kind, text);
                self.has_news = true;
            }
            if let Some(health) = controller.health() {
                self.has_news |= watch.see(health, note);
            }
            if controller.is_lost() && !lost.load(Ordering::Relaxed) {
                lost.store(true, Ordering::Relaxed);
            }
        }
        worked
    }

    /// The disks of controllers and drives at home here, if there is news of them.
    pub(crate) fn take_drives(&mut self) -> Option<Vec<(String, DriveInfo)>> {
        if !std::mem::take(&mut self.has_news) {
            return None;
        }
        let there = self.controllers.iter().filter(|seat| !seat.controller.has_ended());
        let there = there.filter(|seat| !seat.controller.is_lost());
        Some(there.flat_map(|seat| seat.controller.drives()).collect())
    }

    /// When the next turn is due for them.
    pub(crate) fn deadline(&self, now: Now) -> Option<Now> {
        self.controllers.iter().filter_map(|seat| seat.controller.deadline(now)).min()
    }

    /// Whether something is in flight that comes back by polling alone: the core must not sleep.
    pub(crate) fn must_poll(&self) -> bool {
        self.queues.iter().any(|seat| seat.bell.is_none() && seat.queue.is_busy())
    }

    /// Whether anything is under way at a device.
    pub(crate) fn is_busy(&self) -> bool {
        self.queues.iter().any(|seat| seat.queue.is_busy())
    }

    /// Lets the queues interrupt on which something is under way. Returns whether the core may
    /// sleep: nothing has come meanwhile. [`Devices::disarm`] follows in any case.
    pub(crate) fn arm(&mut self) -> bool {
        for seat in &mut self.queues {
            let Some(bell) = &mut seat.bell else { continue };
            if seat.queue.is_busy() {
                bell.interrupt.arm();
                bell.alarm.watch();
                bell.is_armed = true;
            }
        }
        // What ended before its interrupt was armed is not told.
        let has_work = |seat: &QueueSeat| {
            seat.bell.as_ref().is_some_and(|bell| bell.is_armed) && seat.queue.has_work()
        };
        !self.queues.iter().any(has_work)
    }

    /// Keeps the queues from interrupting while the core is awake.
    pub(crate) fn disarm(&mut self) {
        for bell in self.queues.iter_mut().filter_map(|seat| seat.bell.as_mut()) {
            if std::mem::take(&mut bell.is_armed) {
                bell.interrupt.disarm();
            }
        }
    }

    /// Begins to let go of a device or drive, whose disks have left every core.
    pub(crate) fn release(&mut self, part: DevicePart) {
        self.queues.retain(|seat| !part.includes(seat.part));
        let now = self.time.now();
        for seat in self.controllers.iter_mut().filter(|seat| part.includes(seat.part)) {
            seat.controller.shut_down(now);
        }
    }

    /// Whether that is done.
    pub(crate) fn is_released(&mut self, part: DevicePart) -> bool {
        let is_left = |seat: &ControllerSeat| part.includes(seat.part);
        self.controllers.retain(|seat| !is_left(seat) || !seat.controller.has_ended());
        self.has_news = true;
        !self.controllers.iter().any(is_left)
    }

    /// Ends the controllers, each in the time that it takes, once nobody uses their queues any
    /// more on this core. `now` tells the time.
    pub(crate) fn shut_down(&mut self, now: &dyn Fn() -> Now) {
        self.queues.clear();
        for seat in &mut self.controllers {
            seat.controller.shut_down(now());
        }
        let note = &mut |_: Severity, _: &str, _: String| {};
        while self.controllers.iter().any(|seat| !seat.controller.has_ended()) {
            self.poll(now(), note);
            std::thread::yield_now();
        }
    }
}

impl<D: Device> Controller for NvmeController<D> {
    fn name(&self) -> &str {
        self.name()
    }

    fn what(&self) -> &'static str {
        "controller"
    }

    fn poll(&mut self, now: Now) -> bool {
        self.poll(now)
    }

    fn deadline(&self, now: Now) -> Option<Now> {
        self.deadline(now)
    }

    fn next_event(&mut self) -> Option<(Severity, &'static str, String)> {
        Some(match self.take_event()? {
            NvmeEvent::Running => (Severity::Info, "disk.running", "runs".to_owned()),
            NvmeEvent::Resetting(why) => {
                (Severity::Warning, "disk.reset", format!("is being reset: {why}"))
            }
            NvmeEvent::NamespacesChanged => {
                (Severity::Info, "disk.namespaces", "its namespaces changed".to_owned())
            }
            NvmeEvent::NamespaceRefused(id, why) => {
                (Severity::Warning, "disk.namespaces", format!("namespace {id} is not used: {why}"))
            }
            NvmeEvent::HealthWarning(bits) => {
                (Severity::Warning, "disk.health", format!("critical warnings {bits:#04x}"))
            }
            NvmeEvent::ErrorsLogged(count) => {
                (Severity::Info, "disk.errors", format!("{count} entries in its error log"))
            }
            NvmeEvent::Ended(Some(why)) => {
                (Severity::Error, "disk.lost", format!("is driven no more: {why}"))
            }
            NvmeEvent::Ended(None) => (Severity::Info, "disk.ended", "was shut down".to_owned()),
        })
    }

    fn health(&self) -> Option<Health> {
        self.health().map(Health::from_nvme)
    }

    fn drives(&self) -> Vec<(String, DriveInfo)> {
        let drive = |namespace: &Namespace| {
            let name = format!("pci:{}/{}", self.name(), namespace.facts().id);
            Some((name, self.drive_info(namespace)?))
        };
        self.namespaces().filter_map(drive).collect()
    }

    fn shut_down(&mut self, now: Now) {
        self.shut_down(now);
    }

    fn has_ended(&self) -> bool {
        self.end().is_some()
    }

    fn is_lost(&self) -> bool {
        self.end().is_some_and(|why| why.is_some())
    }
}

impl<R: Registers> HardwareQueue for NvmeQueue<R> {
    fn is_busy(&self) -> bool {
        self.in_flight() > 0
    }

    fn has_work(&self) -> bool {
        self.has_work()
    }
}
