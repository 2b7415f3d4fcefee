//! The time of a core, for what it drives.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

/// Time since the node started, as the core's reactor (or the simulator) last set it: once a turn.
/// Clones are the same clock, for drivers on the same core.
#[derive(Debug, Clone, Default)]
pub struct CoreTime(Rc<Cell<Duration>>);

impl CoreTime {
    /// The time.
    #[must_use]
    pub fn now(&self) -> Duration {
        self.0.get()
    }

    /// Sets the time. It never goes back.
    pub fn set(&self, now: Duration) {
        assert!(now >= self.0.get(), "time goes on");
        self.0.set(now);
    }
}
