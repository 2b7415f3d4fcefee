//! A disk without a reactor: for tools, tests, and what is done before the cores start.

use super::super::{Completion, Disk, Info, Op, Tag};
use super::{AhciDisk, AhciHba, Trouble};
use crate::hardware::{CoreTime, Device};
use std::thread;
use std::time::{Duration, Instant};

/// A pause between two looks at an adapter that is brought up.
const PAUSE: Duration = Duration::from_millis(1);

/// Waits on the calling thread until the adapter runs and has looked at all its ports. `now` tells
/// the time.
///
/// # Errors
/// Why it does not run.
pub fn bring_up<D: Device>(
    hba: &mut AhciHba<D>,
    now: &dyn Fn() -> Duration,
) -> Result<(), Trouble> {
    loop {
        hba.poll(now());
        if let Some(trouble) = hba.end() {
            return Err(trouble.clone());
        }
        if hba.is_searched() {
            return Ok(());
        }
        thread::sleep(PAUSE);
    }
}

/// A disk whose adapter and clock go on whenever it is polled.
pub struct SelfDriven<D: Device> {
    // Given up before its adapter, which then stops the port.
    disk: Option<AhciDisk<D::Registers>>,
    hba: AhciHba<D>,
    time: CoreTime,
    clock: Instant,
}

/// Longest time that a port takes to stop at the end.
const END_MAX: Duration = Duration::from_secs(2);

impl<D: Device> SelfDriven<D> {
    /// Over a disk on a port that was attached with `time`, which is the time since `clock`.
    #[must_use]
    pub fn since(
        clock: Instant,
        hba: AhciHba<D>,
        disk: AhciDisk<D::Registers>,
        time: CoreTime,
    ) -> Self {
        Self { disk: Some(disk), hba, time, clock }
    }

    /// The disk within.
    #[must_use]
    pub fn disk(&self) -> &AhciDisk<D::Registers> {
        self.disk.as_ref().expect("there until the drop")
    }
}

impl<D: Device> Disk for SelfDriven<D> {
    fn info(&self) -> &Info {
        self.disk().info()
    }

    fn submit(&mut self, tag: Tag, op: Op) {
        self.disk.as_mut().expect("there until the drop").submit(tag, op);
    }

    fn poll(&mut self, done: &mut Vec<Completion>) {
        let now = self.clock.elapsed();
        self.time.set(now);
        self.hba.poll(now);
        self.disk.as_mut().expect("there until the drop").poll(done);
    }

    fn in_flight(&self) -> usize {
        self.disk().in_flight()
    }
}

impl<D: Device> Drop for SelfDriven<D> {
    fn drop(&mut self) {
        self.disk = None;
        // One that does not stop loses its access to memory with the adapter.
        let until = self.clock.elapsed() + END_MAX;
        let hba = &mut self.hba;
        while !hba.is_deserted() && hba.end().is_none() && self.clock.elapsed() < until {
            hba.poll(self.clock.elapsed());
            hba.sweep();
            thread::yield_now();
        }
    }
}
