//! What a node waits for while it starts: said once it takes long, so that a slow start explains
//! itself.

use crate::core::Clock;
use crossbeam_channel::{RecvTimeoutError, Sender, bounded};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// A step that takes longer is told of; again after twice the time, and so on.
const PATIENCE: Duration = Duration::from_secs(2);

/// How often it is looked.
const TICK: Duration = Duration::from_millis(500);

/// The steps under way, of all threads. Clones are the same.
#[derive(Clone, Default)]
pub(super) struct Steps(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    next: u64,
    /// One for each thread at most.
    underway: Vec<Underway>,
}

struct Underway {
    id: u64,
    what: String,
    /// When it was first looked at, and when it is to be told of.
    seen: Option<(Duration, Duration)>,
}

/// A step under way; over when it is dropped.
pub(super) struct Step<'a> {
    steps: &'a Steps,
    id: u64,
}

/// Tells of long steps until it is dropped.
pub(super) struct Watch {
    _end: Sender<()>,
}

impl Steps {
    /// Begins to wait for `what`.
    pub(super) fn begin(&self, what: String) -> Step<'_> {
        let mut state = self.lock();
        let id = state.next;
        state.next += 1;
        state.underway.push(Underway { id, what, seen: None });
        Step { steps: self, id }
    }

    /// Has a thread tell of what takes long. Without a thread nothing is told.
    pub(super) fn watch(&self, clock: Clock, tell: fn(&str)) -> Watch {
        let (end, ended) = bounded(0);
        let steps = self.clone();
        let watch = move || {
            while ended.recv_timeout(TICK) == Err(RecvTimeoutError::Timeout) {
                steps.long(clock.now()).iter().for_each(|text| tell(text));
            }
        };
        let _ = std::thread::Builder::new().name("start".into()).spawn(watch);
        Watch { _end: end }
    }

    /// What has taken long, where that is to be told now.
    fn long(&self, now: Duration) -> Vec<String> {
        let mut long = Vec::new();
        for step in &mut self.lock().underway {
            let (since, due) = step.seen.get_or_insert((now, now + PATIENCE));
            if now >= *due {
                let taken = now - *since;
                long.push(format!("waiting for {}, {} s by now", step.what, taken.as_secs()));
                *due = *since + taken * 2;
            }
        }
        long
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Step<'_> {
    fn drop(&mut self) {
        self.steps.lock().underway.retain(|step| step.id != self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_takes_long_is_told_of_and_ever_less_often() {
        let steps = Steps::default();
        let slow = steps.begin("disk a to be opened".into());
        let told = |seconds| steps.long(Duration::from_secs(seconds));
        assert!(told(10).is_empty() && told(11).is_empty());
        let quick = steps.begin("disk b to be opened".into());
        assert_eq!(told(12), ["waiting for disk a to be opened, 2 s by now"]);
        assert!(told(13).is_empty());
        drop(quick);
        assert_eq!(told(14), ["waiting for disk a to be opened, 4 s by now"]);
        assert!(told(17).is_empty());
        assert_eq!(told(18).len(), 1);
        drop(slow);
        assert!(told(100).is_empty());
    }
}
