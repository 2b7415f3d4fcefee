//! The node's event log in memory: what happened, for `basalt events`.

use super::{NodeEvent, Severity};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

/// Events that are kept; older ones are forgotten.
const EVENTS_MAX: usize = 10_000;

/// A shared, bounded log. Written off the I/O path.
#[derive(Clone)]
pub(crate) struct EventLog(Arc<Mutex<Inner>>, fn() -> u64);

struct Inner {
    next: u64,
    events: VecDeque<NodeEvent>,
}

impl EventLog {
    /// An empty log that stamps events with `unix_ms`.
    pub(crate) fn new(unix_ms: fn() -> u64) -> Self {
        Self(Arc::new(Mutex::new(Inner { next: 1, events: VecDeque::new() })), unix_ms)
    }

    /// Notes an event.
    pub(crate) fn note(&self, severity: Severity, kind: &str, text: String) {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let sequence = inner.next;
        inner.next += 1;
        if inner.events.len() == EVENTS_MAX {
            inner.events.pop_front();
        }
        let kind = kind.to_owned();
        inner.events.push_back(NodeEvent { sequence, unix_ms: (self.1)(), severity, kind, text });
    }

    /// Events after `sequence`.
    pub(crate) fn since(&self, sequence: u64) -> Vec<NodeEvent> {
        let inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        inner.events.iter().filter(|event| event.sequence > sequence).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_is_bounded_and_numbered() {
        let log = EventLog::new(|| 5);
        for number in 0..EVENTS_MAX + 10 {
            log.note(Severity::Info, "test", number.to_string());
        }
        assert_eq!(log.since(0).len(), EVENTS_MAX);
        let last = log.since(EVENTS_MAX as u64 + 9);
        assert_eq!((last.len(), last[0].text.as_str()), (1, "10009"));
    }
}
