//! What tests put around a connection: a host, a store in memory, a wire.

mod host;
mod link;
mod memory;

pub use host::{Finished, Host, HostConfig, Terminated, Transfer, command};
pub use link::{Link, script};
pub use memory::{Memory, PlainBuf, Wire};
