//! A thread for each device that waits for the kernel's word that it is to go.

use super::device::Opened;
use super::interrupt::{event, raise};
use super::ioctl;
use crate::hardware::Presence;
use rustix::event::{PollFd, PollFlags, poll};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread::JoinHandle;
use vfio_bindings::bindings::vfio;

/// Tells whether the device is there, at the cost of a load.
pub(super) struct Watch {
    presence: Arc<AtomicU8>,
    stop: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

const PRESENT: u8 = 0;
const LEAVING: u8 = 1;
const GONE: u8 = 2;

impl Watch {
    pub(super) fn start(opened: &Arc<Opened>) -> io::Result<Self> {
        let told = event()?;
        let stop = Arc::new(event()?);
        for index in [vfio::VFIO_PCI_REQ_IRQ_INDEX, vfio::VFIO_PCI_ERR_IRQ_INDEX] {
            // Old kernels have no request, devices without error reporting no errors.
            if opened.vectors(index).is_ok_and(|vectors| vectors > 0) {
                ioctl::set_triggers(opened.fd(), index, 0, &[told.as_raw_fd()])?;
            }
        }
        let presence = Arc::new(AtomicU8::new(PRESENT));
        let watcher = (Arc::clone(opened), Arc::clone(&stop), Arc::clone(&presence));
        let thread = std::thread::Builder::new().name("vfio-watch".into());
        let thread = thread.spawn(move || {
            let (opened, stop, presence) = watcher;
            run(&opened, &told, &stop, &presence);
        })?;
        Ok(Self { presence, stop, thread: Some(thread) })
    }

    pub(super) fn presence(&self) -> Presence {
        match self.presence.load(Ordering::Relaxed) {
            PRESENT => Presence::Present,
            LEAVING => Presence::Leaving,
            _ => Presence::Gone,
        }
    }
}

fn run(opened: &Opened, told: &OwnedFd, stop: &OwnedFd, presence: &AtomicU8) {
    loop {
        let mut fds = [PollFd::new(told, PollFlags::IN), PollFd::new(stop, PollFlags::IN)];
        let polled = poll(&mut fds, None);
        let is_told = !fds[0].revents().is_empty();
        let is_stopped = !fds[1].revents().is_empty();
        if is_stopped || polled.is_err_and(|error| error != rustix::io::Errno::INTR) {
            return;
        }
        if is_told {
            let _ = rustix::io::read(told, &mut [0; 8]);
            // A function that is no longer there answers with ones.
            let state = if opened.vendor() == u16::MAX { GONE } else { LEAVING };
            presence.store(state, Ordering::Relaxed);
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        raise(&*self.stop);
        let ended = self.thread.take().map(JoinHandle::join);
        assert!(!matches!(ended, Some(Err(_))), "the watching thread does not panic");
    }
}
