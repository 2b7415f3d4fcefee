//! What the rest of the program asks of a running node. Tests put a fake in its place.

use crate::output::note;
use dataplane::node::{
    Answer, Command, CommandError, NodeConfig, NodeEvent, NodeHandle, Snapshot, StartError,
};
use std::net::SocketAddr;
use std::sync::Arc;

/// A running node, from any thread.
pub trait Node: Send + Sync + 'static {
    /// Carries out a command; blocks until it is done.
    ///
    /// # Errors
    /// As [`CommandError`] says.
    fn call(&self, command: Command) -> Result<Answer, CommandError>;

    /// Every counter now.
    fn counters(&self) -> Snapshot;

    /// Remembered events with a greater sequence than this, oldest first.
    fn events_since(&self, sequence: u64) -> Vec<NodeEvent>;

    /// Ends requests in flight, writes a checkpoint and stops the cores; blocks.
    ///
    /// # Errors
    /// As [`CommandError`] says; the cores have been stopped all the same.
    fn shutdown(&self) -> Result<(), CommandError>;

    /// Where it listens, in the order of its portals.
    fn local_addresses(&self) -> Vec<SocketAddr>;
}

/// Starts the node that this program is for.
///
/// # Errors
/// As [`StartError`] says.
pub fn start(config: &NodeConfig) -> Result<Arc<dyn Node>, StartError> {
    let tell = |text: &str| note(&format!("basalt: {text}"));
    Ok(Arc::new(dataplane::node::start_telling(config, tell)?))
}

impl Node for NodeHandle {
    fn call(&self, command: Command) -> Result<Answer, CommandError> {
        Self::call(self, command)
    }

    fn counters(&self) -> Snapshot {
        Self::counters(self)
    }

    fn events_since(&self, sequence: u64) -> Vec<NodeEvent> {
        Self::events_since(self, sequence)
    }

    fn shutdown(&self) -> Result<(), CommandError> {
        Self::shutdown(self)
    }

    fn local_addresses(&self) -> Vec<SocketAddr> {
        Self::local_addresses(self)
    }
}

#[cfg(test)]
pub(crate) mod fake;
