//! An initiator and a link between it and a target, for tests here and in other packages.

mod fabric;
mod initiator;

pub use fabric::{Fabric, LinkId, TARGET, unit};
pub use initiator::{Finished, Initiator, InitiatorConfig, Pdu};
pub use target_io::testing::{Memory, PlainBuf, Wire, replay};
