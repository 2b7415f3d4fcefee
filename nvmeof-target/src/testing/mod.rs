//! What tests put around a connection: a host and a link, beside what all targets' tests have.

mod host;
mod link;

pub use host::{Finished, Host, HostConfig, Terminated, Transfer, command};
pub use link::{Link, script};
pub use target_io::testing::{Memory, PlainBuf, Wire, replay};
