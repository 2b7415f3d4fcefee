//! What tests put around a target: volumes in memory, a wire, ports, and what fuzzing has found.

mod corpus;
mod memory;
mod ports;

pub use corpus::replay;
pub use memory::{Memory, PlainBuf, Wire};
pub use ports::free_port;
