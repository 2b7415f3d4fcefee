//! NVM Express: what queues carry, independent of the transport.
//!
//! Section numbers are those of the NVM Express Base Specification 2.0 and of the NVM Command Set
//! Specification 1.0 ("NVM").

pub mod command;
pub mod feature;
pub mod identify;
pub mod log;
pub mod pci;
pub mod reservation;
pub mod status;
