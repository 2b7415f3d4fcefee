//! One connection: its socket's state beside its protocol's.

use crate::dma::Buf;
use crate::net::TxPart;
use nvmeof_target::connection as protocol;
use nvmeof_target::seam::ConnectionId;
use std::ops::Range;

/// Bytes that one receive may take beside those that land in their buffers.
pub(super) const STAGING: usize = 64 << 10;

/// A connection on the core that serves it.
pub(crate) struct Connection {
    pub(super) id: ConnectionId,
    pub(super) protocol: protocol::Connection<Buf>,
    pub(super) input: Input,
    /// Parts of the last send, for the next; away while one is outstanding.
    pub(super) parts: Option<Vec<TxPart>>,
    /// The core that it goes to when its Connect has been answered.
    pub(super) moving: Option<u16>,
    pub(super) state: State,
    /// In the list of connections that have something to send.
    pub(super) is_dirty: bool,
    /// In the list of connections whose input waits for buffers.
    pub(super) is_stalled: bool,
}

/// Where the receiving side stands.
pub(super) enum Input {
    /// A receive is outstanding.
    Receiving,
    /// Bytes of `staging` that have not been consumed.
    Held { staging: Buf, unread: Range<usize> },
    /// The socket gives no more, or we take no more.
    Ended,
}

/// How far a connection is from its end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum State {
    /// Serving.
    Open,
    /// The socket is shut; requests with the shards are awaited.
    Draining,
}

impl Connection {
    pub(super) fn new(id: ConnectionId, protocol: protocol::Connection<Buf>) -> Self {
        Self {
            id,
            protocol,
            input: Input::Ended,
            parts: Some(Vec::new()),
            moving: None,
            state: State::Open,
            is_dirty: false,
            is_stalled: false,
        }
    }

    /// Whether a send is outstanding.
    pub(super) fn is_sending(&self) -> bool {
        self.parts.is_none()
    }

    /// Whether the socket has nothing outstanding.
    pub(super) fn is_socket_idle(&self) -> bool {
        !self.is_sending() && !matches!(self.input, Input::Receiving)
    }
}
