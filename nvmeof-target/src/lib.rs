//! Sans-IO NVMe over Fabrics target.
//!
//! No sockets, threads or clocks: bytes, completions and the time go in; bytes, block requests and
//! deadlines come out. Two state machines share the work:
//!
//! - [`connection`]: one TCP connection, which is one queue. PDU framing, digests, R2T, and every
//!   NVM command on an I/O queue. Lives on the core that serves its socket; nothing in it is
//!   shared.
//! - [`target`]: subsystems, controllers, Connect, properties, admin commands, discovery, events.
//!   One per node, on one core, off the I/O path.
//!
//! [`seam`] says what passes between the two, and [`io`] what both ask of their surroundings.
#![forbid(unsafe_code)]

pub mod connection;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
pub mod limits;
pub mod seam;
pub mod target;
#[cfg(any(test, fuzzing, feature = "testing"))]
pub mod testing;

pub use target_io as io;
