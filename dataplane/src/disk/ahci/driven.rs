//! A disk without a reactor: for tools, tests, and what is done before the cores start.

use super::super::{Completion, Disk, Info, Op, Tag};
use super::{AhciDisk, AhciHba, AhciOptions, Trouble};
use crate::core::Clock;
use crate::hardware::{CoreTime, Device};
use crate::uring::Waker;
use std::cell::RefCell;
use std::rc::Rc;
use std::thread;
use std::time::Duration;

/// A pause between two looks at an adapter that is brought up.
const PAUSE: Duration = Duration::from_millis(1);

/// Waits on the calling thread until the adapter runs and has looked at all its ports.
///
/// # Errors
/// Why it does not run.
pub fn bring_up<D: Device>(hba: &mut AhciHba<D>) -> Result<(), Trouble> {
    let clock = Clock::start();
    loop {
        hba.poll(clock.now());
        if let Some(trouble) = hba.end() {
            return Err(trouble.clone());
        }
        if hba.is_searched() {
            return Ok(());
        }
        thread::sleep(PAUSE);
    }
}

/// Takes an adapter over for the drive on one port alone.
///
/// # Errors
/// Why the adapter does not run, or [`Trouble::Empty`] where nothing that we drive is on the port.
pub fn open_port<D: Device>(
    device: D,
    port: u8,
    options: AhciOptions,
) -> Result<SelfDriven<D>, Trouble> {
    let mut hba = AhciHba::new(device, options);
    bring_up(&mut hba)?;
    let seat = hba.take_seat_of(port).ok_or(Trouble::Empty)?;
    let time = CoreTime::default();
    let disk = seat.attach(Waker::unneeded(), time.clone()).open();
    Ok(SelfDriven::new(Rc::new(RefCell::new(hba)), disk, time))
}

/// A disk whose adapter and clock go on whenever it is polled.
pub struct SelfDriven<D: Device> {
    hba: Rc<RefCell<AhciHba<D>>>,
    disk: AhciDisk<D::Registers>,
    time: CoreTime,
    clock: Clock,
}

impl<D: Device> SelfDriven<D> {
    /// Over a disk on a port that was attached with `time`.
    #[must_use]
    pub fn new(hba: Rc<RefCell<AhciHba<D>>>, disk: AhciDisk<D::Registers>, time: CoreTime) -> Self {
        Self { hba, disk, time, clock: Clock::start() }
    }

    /// The disk within.
    #[must_use]
    pub fn disk(&self) -> &AhciDisk<D::Registers> {
        &self.disk
    }
}

impl<D: Device> Disk for SelfDriven<D> {
    fn info(&self) -> &Info {
        self.disk.info()
    }

    fn submit(&mut self, tag: Tag, op: Op) {
        self.disk.submit(tag, op);
    }

    fn poll(&mut self, done: &mut Vec<Completion>) {
        let now = self.clock.now().max(self.time.now());
        self.time.set(now);
        self.hba.borrow_mut().poll(now);
        self.disk.poll(done);
    }

    fn in_flight(&self) -> usize {
        self.disk.in_flight()
    }
}
