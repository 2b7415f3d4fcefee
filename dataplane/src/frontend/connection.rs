//! One connection: its socket's state beside its protocol's.

use crate::dma::{Buf, PAGE};
use crate::net::TxPart;
use nvmeof_target::connection as protocol;
use nvmeof_target::io::Now;
use nvmeof_target::seam::ConnectionId;
use std::ops::Range;

/// Bytes that one receive may take beside those that land in their buffers: before Connect, when
/// anybody may be at the other end; on an admin queue; on an I/O queue.
pub(super) const STAGING_FIRST: usize = PAGE;
const STAGING_ADMIN: usize = 16 << 10;
const STAGING_IO: usize = 64 << 10;

/// How long one send may take: its buffers are kept from others.
const SEND_TIMEOUT: Now = Now::from_secs(30);
/// The same when the connection is to be closed after it.
const LAST_SEND_TIMEOUT: Now = Now::from_secs(1);

/// A connection on the core that serves it.
pub(crate) struct Connection {
    pub(super) id: ConnectionId,
    pub(super) protocol: protocol::Connection<Buf>,
    pub(super) input: Input,
    /// Parts of the last send, for the next; away while one is outstanding.
    pub(super) parts: Option<Vec<TxPart>>,
    /// A time at which the send that is outstanding was so already.
    pub(super) sending_since: Option<Now>,
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
    /// Sending what has been answered; nothing more is taken.
    Closing,
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
            sending_since: None,
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

    /// Bytes of staging that the connection's role deserves.
    pub(super) fn staging_len(&self) -> usize {
        match self.protocol.queue() {
            None => STAGING_FIRST,
            Some(queue) if queue.queue_id == 0 => STAGING_ADMIN,
            Some(_) => STAGING_IO,
        }
    }

    /// Looks whether a send is outstanding for too long, since the host takes nothing. Called now
    /// and then.
    pub(super) fn is_send_stuck(&mut self, now: Now) -> bool {
        if !self.is_sending() {
            return false;
        }
        let since = *self.sending_since.get_or_insert(now);
        let is_last = self.state == State::Closing;
        now >= since + if is_last { LAST_SEND_TIMEOUT } else { SEND_TIMEOUT }
    }

    /// Whether there is something to do for it: to send, to end, to move.
    pub(super) fn is_due(&self) -> bool {
        let is_serving = self.state == State::Open && self.moving.is_none();
        let has_output = self.protocol.wants_transmit() && !self.is_sending();
        !is_serving || has_output || self.protocol.is_over()
    }

    /// Whether the socket has nothing outstanding.
    pub(super) fn is_socket_idle(&self) -> bool {
        !self.is_sending() && !matches!(self.input, Input::Receiving)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connection() -> Connection {
        let protocol = protocol::Connection::new(ConnectionId(1), Default::default(), Now::ZERO);
        Connection::new(ConnectionId(1), protocol)
    }

    #[test]
    fn a_send_that_nobody_takes_is_stuck_after_a_while() {
        let mut connection = connection();
        let start = Now::from_secs(100);
        assert!(!connection.is_send_stuck(start));
        connection.parts = None;
        assert!(!connection.is_send_stuck(start + Now::from_secs(40)), "noticed only now");
        assert!(!connection.is_send_stuck(start + Now::from_secs(69)));
        assert!(connection.is_send_stuck(start + Now::from_secs(70)));
        // Another send is another wait.
        connection.sending_since = None;
        assert!(!connection.is_send_stuck(start + Now::from_secs(71)));
        connection.state = State::Closing;
        assert!(connection.is_send_stuck(start + Now::from_secs(72)));
    }

    #[test]
    fn who_has_not_connected_gets_a_page() {
        assert_eq!(connection().staging_len(), PAGE);
    }
}
