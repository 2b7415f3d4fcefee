//! The polled plane: everything between a host's socket and a disk.
//!
//! One pinned thread per core owns its queues, connections and shards. Nothing on the I/O path
//! takes a lock, allocates, or crosses a core without need. Time, randomness, disks and network
//! come from the core that runs the code, so that the simulator runs what ships.

pub mod core;
pub mod disk;
pub mod dma;
mod frontend;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
pub mod hardware;
pub mod net;
pub mod node;
pub mod pci;
pub mod sim;
pub mod store;
pub mod uring;
pub mod vfio;
mod volume;
