//! Interrupts as eventfds.

use super::device::Opened;
use super::ioctl::{self, VECTORS_MAX};
use crate::hardware::Interrupt;
use rustix::event::{EventfdFlags, eventfd};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Weak};
use vfio_bindings::bindings::vfio;

/// One vector of a device. Costs a system call to arm and to disarm, which only a core does that
/// goes to sleep.
pub struct VfioInterrupt {
    /// Gone when the device is dropped.
    opened: Weak<Opened>,
    event: OwnedFd,
    index: u32,
    vector: u32,
}

/// The first `count` vectors, disarmed: MSI-X, or MSI where the device has no other; fewer where it
/// has fewer.
pub(super) fn vectors(opened: &Arc<Opened>, count: usize) -> io::Result<Vec<VfioInterrupt>> {
    let kinds = [vfio::VFIO_PCI_MSIX_IRQ_INDEX, vfio::VFIO_PCI_MSI_IRQ_INDEX];
    let has = |index: &u32| opened.vectors(*index).is_ok_and(|vectors| vectors > 0);
    let Some(index) = kinds.into_iter().find(has) else { return Ok(Vec::new()) };
    let count = count.min(opened.vectors(index)? as usize).min(VECTORS_MAX);
    if count == 0 {
        return Ok(Vec::new());
    }
    // All at once, for what the kernel has allotted cannot grow; nobody is told of them yet.
    ioctl::set_triggers(opened.fd(), index, 0, &[-1; VECTORS_MAX][..count])?;
    let vector = |vector| {
        let event = event()?;
        Ok(VfioInterrupt { opened: Arc::downgrade(opened), event, index, vector })
    };
    (0..count as u32).map(vector).collect()
}

/// An eventfd that never blocks.
pub(super) fn event() -> io::Result<OwnedFd> {
    Ok(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?)
}

/// Makes an eventfd readable.
pub(super) fn raise(event: impl AsFd) {
    while rustix::io::write(&event, &1_u64.to_ne_bytes()) == Err(rustix::io::Errno::INTR) {}
}

impl VfioInterrupt {
    fn trigger(&self, fd: i32) -> io::Result<()> {
        let opened = self.opened.upgrade().ok_or(io::ErrorKind::NotFound)?;
        ioctl::set_triggers(opened.fd(), self.index, self.vector, &[fd])
    }
}

impl Interrupt for VfioInterrupt {
    fn fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }

    fn arm(&mut self) {
        if self.trigger(self.event.as_raw_fd()).is_err() {
            // The device has gone, perhaps: whoever is about to wait for it shall look at once.
            raise(&self.event);
        }
    }

    fn disarm(&mut self) {
        // One that cannot be taken away belongs to a device that is gone.
        let _ = self.trigger(-1);
    }
}
