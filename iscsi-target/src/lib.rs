//! Sans-IO iSCSI target.
//!
//! No sockets, threads or clocks: bytes, completions and the time go in; bytes, block requests and
//! deadlines come out. Two state machines share the work:
//!
//! - [`connection`]: one TCP connection, which is one session. PDU framing, digests, the command
//!   window, R2T, task management. Lives on the core that serves its socket; nothing in it is
//!   shared.
//! - [`target`]: login, CHAP, discovery, sessions and what they share. One per node, on one core,
//!   off the I/O path.
//!
//! [`scsi`] is what the commands mean, [`seam`] what passes between the two, and [`io`] what both
//! ask of their surroundings.
#![forbid(unsafe_code)]

pub mod connection;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
pub mod limits;
pub mod scsi;
pub mod seam;
pub mod target;
#[cfg(any(test, fuzzing, feature = "testing"))]
pub mod testing;
pub mod text;

pub use target_io as io;
