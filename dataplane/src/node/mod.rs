//! The running node: cores, shards and target, and the handle by which the rest of the program
//! speaks with them.

mod api;

pub use api::*;
