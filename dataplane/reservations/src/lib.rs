//! One reservation table for a volume, whichever protocol its hosts speak.
//!
//! NVMe reservations (NVM Express Base 2.1, section 8.1.25) and SCSI-3 persistent reservations
//! (SPC-4, section 5.13) are two views of it: a volume reserved through one is respected through
//! the other. No I/O and no clock here: orders go in; results, records to keep and registrants to
//! notify come out.
//!
//! A front end turns a command into an [`Order`] and gives it to [`Table::apply`]. An order either
//! does all that it says and returns an [`Outcome`], or nothing and returns a [`Refusal`]. Who
//! keeps a table durably applies orders to a copy, writes that copy's record, and then takes
//! it over.
//!
//! Invariants:
//! - No registrant is there twice, and no key is 0.
//! - Who holds a reservation is registered; a reservation of all registrants has some.
//! - A table without registrants has no reservation.
#![forbid(unsafe_code)]

mod access;
mod kind;
mod order;
mod record;
mod registrant;
mod table;
#[cfg(test)]
mod tests;

pub use access::{Access, CommandClass};
pub use kind::Kind;
pub use order::{Current, Failure, Keep, Notice, Notify, Order, Outcome, Persist, Refusal};
pub use record::{BadRecord, RECORD_MAX};
pub use registrant::{Key, NAME_MAX, Nexus, Registrant};
pub use table::{REGISTRANTS_MAX, Registration, Reservation, Table};
