//! What tests put around a target: volumes in memory, a wire, and what fuzzing has found.

mod corpus;
mod memory;

pub use corpus::replay;
pub use memory::{Memory, PlainBuf, Wire};
