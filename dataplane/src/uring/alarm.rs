//! Ends a core's sleep in its ring when an event descriptor becomes readable.

use super::ring::{Owner, Ring};
use io_uring::opcode;
use io_uring::types::Fd;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

/// An event descriptor that a core looks at in its sleep alone: it costs nothing while the core is
/// awake.
pub(crate) struct Alarm {
    // Leaves the ring before the descriptor is closed: see `Drop`.
    owner: Owner,
    event: OwnedFd,
    is_watched: bool,
}

impl Alarm {
    /// For the core of this ring. `event`: an eventfd that does not block; shared, not taken.
    ///
    /// # Errors
    /// There are no descriptors left.
    pub(crate) fn new(ring: &Ring, event: BorrowedFd<'_>) -> io::Result<Self> {
        Ok(Self { owner: ring.join(), event: event.try_clone_to_owned()?, is_watched: false })
    }

    /// Has the ring's next wait end when the event is raised, or has been already.
    pub(crate) fn watch(&mut self) {
        if self.is_watched {
            return;
        }
        self.is_watched = true;
        let entry = opcode::PollAdd::new(Fd(self.event.as_raw_fd()), libc::POLLIN as u32).build();
        // SAFETY: the entry names no memory, and a descriptor that outlives it: see `Drop`.
        unsafe { self.owner.push(0, 0, entry) };
    }

    /// Whether the event was raised since the last time; to be called again and again, for what
    /// comes while the core is awake counts as work of the ring.
    #[inline]
    pub(crate) fn take(&mut self) -> bool {
        if !self.is_watched || self.owner.pop().is_none() {
            return false;
        }
        self.is_watched = false;
        let _ = rustix::io::read(&self.event, &mut [0; 8]);
        true
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        if self.is_watched {
            self.owner.cancel(0, 0);
        }
        self.owner.drain();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::uring::RingOptions;
    use rustix::event::{EventfdFlags, eventfd};
    use std::os::fd::AsFd;
    use std::time::Duration;

    #[test]
    fn a_raised_event_ends_the_sleep_and_only_once() {
        let ring = Ring::new(RingOptions::default()).unwrap();
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap();
        let mut alarm = Alarm::new(&ring, event.as_fd()).unwrap();
        assert!(!alarm.take(), "nothing is watched");
        for _ in 0..3 {
            alarm.watch();
            ring.wait(Some(Duration::from_millis(1)));
            assert!(!alarm.take(), "nothing was raised");
            let other = event.try_clone().unwrap();
            let raiser = std::thread::spawn(move || {
                rustix::io::write(&other, &1_u64.to_ne_bytes()).unwrap();
            });
            while !alarm.take() {
                alarm.watch();
                ring.wait(None);
            }
            raiser.join().unwrap();
            assert_eq!(ring.turn(), 0, "nothing is left for the ring");
        }
        alarm.watch();
        ring.turn();
        drop(alarm);
        assert_eq!(ring.turn(), 0);
    }
}
