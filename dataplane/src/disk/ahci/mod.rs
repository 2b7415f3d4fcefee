//! SATA disks behind an AHCI 1.3.1 adapter, driven from user space: polled, without interrupts.
//!
//! An [`AhciHba`] lives on one core, its home, and does what concerns all ports: handoff from the
//! firmware, reset, discovery of drives, the end. It hands out [`AhciSeat`]s, one for each drive. A
//! port is a register block of its own, so that each may go to another core; there it is an
//! [`AhciPort`] that starts, recovers and resets by itself, and any number of [`AhciDisk`]s on it
//! implement [`super::Disk`].
//!
//! Reads and writes are queued commands (NCQ) where adapter and drive have them. Their end is seen
//! in PxSACT: one load from a register for each poll, and one or two more where something has
//! ended. Everything else (flushes, trims, SMART) waits until the queue has drained, and goes
//! alone. Flushes that wait at the same time are one command.
//!
//! What goes wrong, and what follows:
//! - A queued command fails: the drive has dropped all others with it. Which it was is read from
//!   log 10h; it ends with its error, or is tried again where the error was the cable's. The others
//!   are issued again, and do not pay for it. Where the log does not tell, all go one by one;
//!   where it cannot be read, the link is reset before.
//! - A command does not end, the port stops for an interface or bus error, or registers make no
//!   sense: the link is reset (COMRESET), then the whole adapter, by agreement of all cores that
//!   have ports of it. Everything in flight is tried again, at most a few times, and then fails:
//!   each request ends exactly once.
//! - The drive is unplugged, announces itself anew, or counts a power cycle more after a reset:
//!   everything fails, for what its cache held is not known. [`AhciHba::probe`] finds what is
//!   plugged in then.
//! - The adapter is gone or cannot be reset: everything fails on all ports.
//!
//! What it does not do: port multipliers and packet devices (they are refused by name), drives
//! without 48-bit addresses, queued trims, link power management, enclosure management,
//! interrupts, staggered power (drives spin up at once), security, zoned disks.

mod commands;
mod disk;
mod drive;
mod driven;
mod hba;
mod life;
mod link;
mod memory;
mod options;
mod port;
mod registers;
mod request;
mod settle;
#[cfg(test)]
mod tests;

pub use disk::{AhciDisk, AhciPort, AhciSeat};
pub use drive::DriveFacts;
pub use driven::{SelfDriven, bring_up};
pub use hba::{AhciEvent, AhciHba};
pub use options::{AhciOptions, TRANSFER_MAX, Trouble};
pub use port::PortCounters;
