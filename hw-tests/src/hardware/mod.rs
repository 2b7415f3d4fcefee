//! Basalt inside the guest, on emulated disks behind an emulated IOMMU, which it drives itself.
//!
//! The program of the host runs in the guest: it comes on a disk of its own. Whatever a scenario
//! does, the guest's kernel must not have seen a device reach for memory that was not mapped.

mod adapter;
pub(crate) mod ahci;
pub(crate) mod backends;
mod cuts;
mod machine;
mod polled;
mod power;
pub(crate) mod pulled;
mod qmp;
pub(crate) mod rates;
mod scenarios;
mod steps;

pub(crate) use polled::{passthrough, polled};
pub(crate) use power::cut;
pub(crate) use scenarios::{conformance, first, idle, media, raw, restart};
