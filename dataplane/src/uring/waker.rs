//! Wakes a core that sleeps in its ring, from any thread.

use rustix::event::{EventfdFlags, eventfd};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};

/// Wakes one core. Costs a fence and a load while the core is awake, a system call when it sleeps.
///
/// No wake-up is lost, by the store-fence-load pattern on both sides: the sender publishes its
/// message, fences, then looks whether the core sleeps; the core announces its sleep, fences, then
/// looks for messages. At least one of them sees the other.
#[derive(Debug, Clone)]
pub struct Waker(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    sleeping: AtomicBool,
    signals: AtomicU64,
    event: Option<OwnedFd>,
}

impl Waker {
    /// A waker for a core that never sleeps: a simulated or a spinning one.
    #[must_use]
    pub fn unneeded() -> Self {
        Self::with_event(None)
    }

    /// To be called after the message has been published where the core will look.
    pub fn wake(&self) {
        fence(Ordering::SeqCst);
        if self.0.sleeping.load(Ordering::Relaxed) && self.0.sleeping.swap(false, Ordering::AcqRel)
        {
            self.signal();
        }
    }

    /// How often a sleeping core was signalled: system calls made by senders.
    #[must_use]
    pub fn signals(&self) -> u64 {
        self.0.signals.load(Ordering::Relaxed)
    }

    pub(super) fn new() -> io::Result<Self> {
        Ok(Self::with_event(Some(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?)))
    }

    fn with_event(event: Option<OwnedFd>) -> Self {
        let (sleeping, signals) = (AtomicBool::new(false), AtomicU64::new(0));
        Self(Arc::new(Shared { sleeping, signals, event }))
    }

    /// Messages published before this call are visible after it, or their senders will signal.
    pub(super) fn announce_sleep(&self) {
        self.0.sleeping.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    pub(super) fn announce_awake(&self) {
        self.0.sleeping.store(false, Ordering::Relaxed);
    }

    pub(super) fn event(&self) -> Option<BorrowedFd<'_>> {
        self.0.event.as_ref().map(AsFd::as_fd)
    }

    /// Forgets the signals received so far; called when the event is known to be readable.
    pub(super) fn clear(&self) {
        if let Some(event) = &self.0.event {
            while rustix::io::read(event, &mut [0; 8]) == Err(Errno::INTR) {}
        }
    }

    fn signal(&self) {
        self.0.signals.fetch_add(1, Ordering::Relaxed);
        if let Some(event) = &self.0.event {
            while rustix::io::write(event, &1u64.to_ne_bytes()) == Err(Errno::INTR) {}
        }
    }
}
