//! io_uring: one ring per core, shared by the core's sockets and kernel disks.
//!
//! ```text
//! Ring::new(RingOptions) -> Result<Ring, RingError>    on the core's own thread; Clone, not Send
//! ring.turn() -> usize                                 submit and reap; once per reactor turn
//! ring.waker() -> Waker                                Clone + Send; wake() after each message
//! ring.announce_sleep()                                then look again, and
//! ring.wait(timeout) or ring.stay_awake()
//! ring.counters() -> RingCounters                      system calls, operations
//! ring.register_arena(&Arena)                          optional: pins the buffers
//! Sockets::new(&Ring, SocketOptions) -> Sockets        implements net::Net
//! Alarm::new(&Ring, event) -> Alarm                     a descriptor that ends a sleep
//! KernelDisk::open(&Ring, path, &KernelOptions)        implements disk::Disk (disk::kernel)
//! ```
//!
//! A turn of a reactor: `ring.turn()`, then `poll` each disk and the sockets, then whatever
//! else; what they submit goes out with the next `turn`.
//!
//! Memory that the kernel reads or writes belongs to the operation from submission to completion:
//! each owner keeps buffers, message headers and vectors in slabs that do not move, and on drop
//! waits until the kernel holds none of them.
#![expect(unsafe_code)]
// UNSAFETY: gives addresses to the kernel, for whose validity until completion it must vouch.

mod alarm;
mod commands;
mod files;
pub mod passthrough;
mod ring;
mod sockets;
mod waker;

pub(crate) use alarm::Alarm;
pub(crate) use commands::{CommandDone, CommandQueue, CommandTarget};
pub(crate) use files::{FileDone, FileModes, FileQueue};
pub use ring::{OWNERS_MAX, Ring, RingCounters, RingError, RingOptions};
pub use sockets::{CONNECTIONS_MAX, LISTENERS_MAX, SocketCounters, SocketOptions, Sockets};
pub use waker::Waker;
