//! Pumps between sockets and the sans-IO targets.
//!
//! A connection's pump keeps one receive and at most one send outstanding. Received bytes go to the
//! protocol, its block requests to the volumes, its output into gathered sends; every connection
//! that has something to say sends once a turn.

mod buffer;
mod connection;
mod protocol;
mod pump;
mod transmit;

pub(crate) use connection::Connection;
pub(crate) use protocol::{Event, ProtocolConfig, ProtocolKind};
pub(crate) use pump::{Frontend, Post, Surrounding};
