//! The running node: cores, shards and target, and the handle by which the rest of the program
//! speaks with them.

mod admission;
mod api;
mod bus;
mod commands;
mod control;
mod controllers;
mod disks;
mod drains;
mod events;
mod exports;
mod handle;
mod health;
mod hosts;
mod hotplug;
mod iscsi;
mod jobs;
mod load;
mod record;
mod registry;
mod reservations;
mod slow;
mod space;
mod start;
mod steps;
mod visible;
mod watch;

pub use api::*;
#[cfg(any(test, feature = "sim"))]
pub(crate) use commands::Call;
pub(crate) use control::Control;
#[cfg(any(test, feature = "sim"))]
pub(crate) use control::{ControlParts, DiskState};
pub(crate) use disks::records;
pub(crate) use events::EventLog;
pub use exports::check_iscsi_name;
#[cfg(any(test, feature = "sim"))]
pub(crate) use exports::{iscsi, target};
pub use handle::NodeHandle;
pub(crate) use health::HealthWatch;
pub(crate) use record::Record;
pub(crate) use registry::Registry;
pub use start::{start, start_telling};

#[cfg(test)]
mod tests;
