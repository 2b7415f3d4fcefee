//! What tests put around a connection: a host, a store in memory, a wire; and the inputs that
//! fuzzing has found.

mod corpus;
mod host;
mod link;
mod memory;

pub use corpus::replay;
pub use host::{Finished, Host, HostConfig, Terminated, Transfer, command};
pub use link::{Link, script};
pub use memory::{Memory, PlainBuf, Wire};
