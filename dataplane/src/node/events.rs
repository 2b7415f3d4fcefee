//! The node's event log in memory: what happened, for `basalt events`.

use super::{NodeEvent, Severity};
use crate::store::{self, ChunkKey};
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

    /// Notes what a shard of the disk at `path` tells.
    pub(crate) fn note_shard(&self, path: &str, shard: usize, event: store::Event) {
        let (severity, kind, what) = describe(event);
        self.note(severity, kind, format!("disk {path}, shard {shard}: {what}"));
    }

    /// Events after `sequence`.
    pub(crate) fn since(&self, sequence: u64) -> Vec<NodeEvent> {
        let inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        inner.events.iter().filter(|event| event.sequence > sequence).cloned().collect()
    }
}

fn describe(event: store::Event) -> (Severity, &'static str, String) {
    let place = |chunk: ChunkKey| format!("volume id {}, chunk {}", chunk.volume.0, chunk.index);
    match event {
        store::Event::BlockError { chunk, block } => {
            let what = "cannot be read or does not match its checksum";
            (Severity::Error, "disk.checksum", format!("{}, block {block}: {what}", place(chunk)))
        }
        store::Event::PageError { chunk, index } => {
            let what = "its metadata are unreadable or out of date; its blocks answer with errors";
            (Severity::Error, "disk.metadata", format!("{}, slab {index}: {what}", place(chunk)))
        }
        store::Event::Failed => {
            let what = "the device failed or is gone; it takes no more writes until it is opened \
                        anew: when it is back, or by `basalt disk online`";
            (Severity::Error, "disk.failed", what.to_owned())
        }
        store::Event::Recovered { batches, lost_blocks: 0 } => {
            let what = format!("recovered from its journal, {batches} batches redone");
            (Severity::Info, "disk.recovered", what)
        }
        store::Event::Recovered { batches, lost_blocks } => {
            let what = format!(
                "recovered from its journal, {batches} batches redone; {lost_blocks} blocks are \
                 neither old nor new and answer with errors"
            );
            (Severity::Error, "disk.recovered", what)
        }
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
