//! The way from the rest of the program into the plane.

use super::commands::Call;
use super::hotplug::{Ask, Wish};
use super::registry::Registry;
use super::{Answer, Command, CommandError, EventLog, NodeEvent, Snapshot};
use crate::core::Clock;
use crate::uring::Waker;
use crossbeam_channel::{RecvTimeoutError, Sender};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// Longest wait for the answer to a command.
const CALL_TIMEOUT: Duration = Duration::from_secs(120);
/// Longest wait for a clean end.
const STOP_TIMEOUT: Duration = Duration::from_secs(60);

/// A running node. Clones are handles to the same one.
#[derive(Clone)]
pub struct NodeHandle(Arc<Inner>);

pub(super) struct Inner {
    pub(super) calls: Sender<Call>,
    /// Wakes the control core.
    pub(super) waker: Waker,
    pub(super) registry: Registry,
    pub(super) events: EventLog,
    pub(super) clock: Clock,
    pub(super) addresses: Vec<SocketAddr>,
    pub(super) threads: Mutex<Vec<JoinHandle<()>>>,
    /// The thread for disks that go and come: it ends when this goes.
    pub(super) hotplug: Sender<Ask>,
}

impl NodeHandle {
    pub(super) fn new(inner: Inner) -> Self {
        Self(Arc::new(inner))
    }

    /// Carries out a command and waits for its answer. Not to be called from the plane's threads.
    ///
    /// # Errors
    /// As the command fails; [`CommandError::Unavailable`] if there is no answer in two minutes.
    pub fn call(&self, command: Command) -> Result<Answer, CommandError> {
        let (disk, wish) = match command {
            Command::OnlineDisk { disk } => (disk, Wish::Online),
            Command::OfflineDisk { disk } => (disk, Wish::Offline),
            command => return self.ask(|answer| Call::Command(command, answer), CALL_TIMEOUT),
        };
        let (answer, answers) = crossbeam_channel::bounded(1);
        self.0.hotplug.send(Ask { disk, wish, answer }).map_err(|_| stopped())?;
        answers.recv_timeout(CALL_TIMEOUT).unwrap_or_else(|error| Err(unanswered(error)))
    }

    /// All counters.
    #[must_use]
    pub fn counters(&self) -> Snapshot {
        self.0.registry.snapshot(self.0.clock.now().as_nanos() as u64)
    }

    /// Events after `sequence`, oldest first.
    #[must_use]
    pub fn events_since(&self, sequence: u64) -> Vec<NodeEvent> {
        self.0.events.since(sequence)
    }

    /// Addresses that the node listens on.
    #[must_use]
    pub fn local_addresses(&self) -> Vec<SocketAddr> {
        self.0.addresses.clone()
    }

    /// Closes connections, waits for what is in flight, settles the disks, and ends the cores.
    ///
    /// # Errors
    /// [`CommandError::Disk`] if a disk had failed, [`CommandError::Unavailable`] if the cores did
    /// not end in time: either way nothing acknowledged is lost, the next start replays the
    /// journal.
    pub fn shutdown(&self) -> Result<(), CommandError> {
        let settled = self.ask(Call::Shutdown, STOP_TIMEOUT);
        if !matches!(settled, Err(CommandError::Unavailable(_))) {
            let mut threads = self.0.threads.lock().unwrap_or_else(PoisonError::into_inner);
            for thread in threads.drain(..) {
                let _ = thread.join();
            }
        }
        settled.map(|_| ())
    }

    fn ask(
        &self,
        call: impl FnOnce(Sender<Result<Answer, CommandError>>) -> Call,
        timeout: Duration,
    ) -> Result<Answer, CommandError> {
        let (answer, answers) = crossbeam_channel::bounded(1);
        self.0.calls.send(call(answer)).map_err(|_| stopped())?;
        self.0.waker.wake();
        answers.recv_timeout(timeout).unwrap_or_else(|error| Err(unanswered(error)))
    }
}

fn stopped() -> CommandError {
    CommandError::Unavailable("the node has stopped".into())
}

fn unanswered(error: RecvTimeoutError) -> CommandError {
    match error {
        RecvTimeoutError::Timeout => CommandError::Unavailable(
            "the node did not answer in time; the command may still take effect: look at what is \
             there and at `basalt events` before you try again"
                .into(),
        ),
        RecvTimeoutError::Disconnected => stopped(),
    }
}
