//! What a host sees: volumes as sequences of chunks, and the way of a request from the connection's
//! core to the shards that hold its chunks, and back.
//!
//! Chunk `i` of a volume lives in shard `i mod n` of its disk. A request is cut at chunk
//! boundaries; each piece goes to its shard on this core directly, to one on another core by
//! mailbox.

mod request;
mod route;
mod stats;

pub(crate) use request::{Around, Origin, Outbound, Outcome, Piece, Requests};
pub(crate) use route::{Route, Routes, ShardAddress};
pub(crate) use stats::{VolumeStats, add};
