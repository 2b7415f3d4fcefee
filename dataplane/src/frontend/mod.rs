//! Pumps between sockets and the sans-IO targets.
//!
//! A connection's pump keeps one receive and at most one send outstanding. Received bytes go to the
//! protocol, its block requests to the volumes, its output into gathered sends; every connection
//! that has something to say sends once a turn.

mod buffer;
mod connection;
mod pump;
mod transmit;

pub(crate) use connection::Connection;
pub(crate) use pump::{Frontend, Post, Surrounding};
