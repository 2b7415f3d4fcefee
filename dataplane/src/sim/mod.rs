//! The emulator: devices whose every behaviour comes from a seed.

mod disk;
mod random;

pub use disk::{Faults, SimDisk, SimDiskConfig, SimMedia};
pub use random::Random;
