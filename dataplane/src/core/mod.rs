//! One core of the plane: what it owns, and what it does in a turn.

mod devices;
mod links;
pub mod mailbox;
mod message;
mod plane;
mod reactor;
mod sata;
mod slots;
pub mod timer;

pub(crate) use devices::{Controller, DevicePart, Devices};
#[cfg(any(test, feature = "sim"))]
pub(crate) use links::mesh_of;
pub(crate) use links::{Links, mesh};
pub(crate) use message::{Adopted, Arrival, Message, ShardCommand, ShardReply};
pub(crate) use plane::{Core, CoreParts, CoreStats, ShardSeat};
pub(crate) use reactor::{Clock, run};
pub(crate) use sata::{Probe, SataAdapter, SataDrive};
pub(crate) use slots::Landed;
