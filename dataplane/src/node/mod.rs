//! The running node: cores, shards and target, and the handle by which the rest of the program
//! speaks with them.

mod api;
mod control;
mod events;
mod exports;
mod handle;
mod jobs;
mod record;
mod registry;
mod start;

pub use api::*;
pub(crate) use control::Control;
pub(crate) use events::EventLog;
pub use handle::NodeHandle;
pub(crate) use registry::Registry;
pub use start::start;
