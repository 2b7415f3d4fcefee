//! One connection: its socket's state beside its protocol's.

use super::protocol::{Protocol, Standing};
use crate::core::timer::TimerId;
use crate::dma::{Buf, PAGE};
use crate::net::TxPart;
use std::ops::Range;
use target_io::{ConnectionId, Now};

/// Bytes that one receive may take beside those that land in their buffers: before Connect or
/// login, when anybody may be at the other end; where no volume is served; where volumes are.
pub(super) const STAGING_FIRST: usize = PAGE;
const STAGING_ADMIN: usize = 16 << 10;
const STAGING_IO: usize = 64 << 10;
/// The same where volumes are served and the last receive filled it: more commands at once are
/// cheaper each.
pub(super) const STAGING_FLOODED: usize = 256 << 10;

/// How long a send may go on without a byte that the host takes: its buffers are kept from others.
const SEND_STALL_MAX: Now = Now::from_secs(30);
/// While others wait for buffers, a send must go on by so many bytes in each such period: 4 KiB/s.
/// One that does not keeps them for next to nothing.
const SCARCE_PERIOD: Now = Now::from_secs(60);
const SCARCE_BYTES_MIN: u64 = 60 * (4 << 10);
/// How long a connection that is to be closed may take for its last words.
const CLOSING_MAX: Now = Now::from_secs(1);
/// How often a connection that awaits something of its host is looked at.
const LOOK_PERIOD: Now = Now::from_secs(1);
/// The same for one that is to be closed.
const CLOSING_LOOK_PERIOD: Now = Now::from_millis(100);

/// A connection on the core that serves it.
pub(crate) struct Connection {
    pub(super) id: ConnectionId,
    pub(super) protocol: Protocol,
    pub(super) input: Input,
    /// Parts of the last send, for the next; away while one is outstanding.
    pub(super) parts: Option<Vec<TxPart>>,
    /// Sends that have ended.
    pub(super) sends: u64,
    /// Where the send that is outstanding stood when it last moved, as far as that was seen.
    stall: Option<Stall>,
    /// Where it stood when others began to wait for buffers, or a period ago.
    scarcity: Option<Stall>,
    /// A time at which the connection was to be closed already.
    closing_since: Option<Now>,
    /// When it is looked at next, if at all.
    pub(super) timer: Option<(Now, TimerId)>,
    /// The core that it goes to when its Connect has been answered.
    pub(super) moving: Option<u16>,
    pub(super) state: State,
    /// The last receive filled the staging buffer.
    pub(super) is_flooded: bool,
    /// In the list of connections that have something to send.
    pub(super) is_dirty: bool,
    /// In the list of connections whose input waits for buffers.
    pub(super) is_stalled: bool,
}

/// Where a send stood at a time.
#[derive(Clone, Copy)]
struct Stall {
    since: Now,
    sends: u64,
    taken: u64,
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
    pub(super) fn new(id: ConnectionId, protocol: Protocol) -> Self {
        Self {
            id,
            protocol,
            input: Input::Ended,
            parts: Some(Vec::new()),
            sends: 0,
            stall: None,
            scarcity: None,
            closing_since: None,
            timer: None,
            moving: None,
            state: State::Open,
            is_flooded: false,
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
        match self.protocol.standing() {
            Standing::Stranger => STAGING_FIRST,
            Standing::Admin => STAGING_ADMIN,
            Standing::Io if self.is_flooded => STAGING_FLOODED,
            Standing::Io => STAGING_IO,
        }
    }

    /// When it wants to be looked at, though nothing happens before.
    pub(super) fn next_look(&self, now: Now) -> Option<Now> {
        let is_watched = match self.state {
            State::Draining => return None,
            State::Closing => return Some(now + CLOSING_LOOK_PERIOD),
            State::Open => self.is_sending() || self.protocol.awaits_data(),
        };
        let watch = is_watched.then_some(now + LOOK_PERIOD);
        watch.into_iter().chain(self.protocol.deadline()).min()
    }

    /// Ends it if its host has kept it waiting for too long. `taken`: bytes that the host's end
    /// has taken since the connection was made.
    /// `is_scarce`: other connections wait for buffers.
    pub(super) fn look(&mut self, now: Now, is_scarce: bool, taken: impl FnOnce() -> u64) {
        if self.state == State::Draining {
            return;
        }
        self.protocol.on_deadline(now);
        self.protocol.watch(now);
        let is_late = match self.state {
            State::Closing => now >= *self.closing_since.get_or_insert(now) + CLOSING_MAX,
            _ => self.is_send_stalled(now, is_scarce, taken),
        };
        if is_late {
            self.state = State::Draining;
        }
    }

    fn is_send_stalled(&mut self, now: Now, is_scarce: bool, taken: impl FnOnce() -> u64) -> bool {
        if !self.is_sending() {
            (self.stall, self.scarcity) = (None, None);
            return false;
        }
        let present = Stall { since: now, sends: self.sends, taken: taken() };
        let stall = self.stall.get_or_insert(present);
        if (stall.sends, stall.taken) != (present.sends, present.taken) {
            *stall = present;
        }
        let has_stopped = now >= stall.since + SEND_STALL_MAX;
        has_stopped || self.is_too_slow(present, is_scarce)
    }

    /// Whether a send holds buffers that others wait for, and hardly moves.
    fn is_too_slow(&mut self, present: Stall, is_scarce: bool) -> bool {
        if !is_scarce {
            self.scarcity = None;
            return false;
        }
        let before = self.scarcity.get_or_insert(present);
        if present.since < before.since + SCARCE_PERIOD {
            return false;
        }
        let moved = present.taken.saturating_sub(before.taken);
        *before = present;
        moved < SCARCE_BYTES_MIN
    }

    /// Notes how much of its staging buffer a receive took. One that has become large is kept only
    /// while half of it is of use.
    pub(super) fn note_received(&mut self, staging: &Buf, taken: usize) {
        self.is_flooded = match staging.capacity() {
            STAGING_FLOODED => taken >= STAGING_FLOODED / 2,
            capacity => capacity == STAGING_IO && taken == STAGING_IO,
        };
    }

    /// Whether there is something to do for it: to send, to end, to move.
    pub(super) fn is_due(&self) -> bool {
        let is_serving = self.state == State::Open && self.moving.is_none();
        let has_output = self.protocol.wants_transmit() && !self.is_sending();
        let is_leaving = self.protocol.is_over() || self.protocol.is_ending();
        !is_serving || has_output || is_leaving
    }

    /// Whether the socket has nothing outstanding.
    pub(super) fn is_socket_idle(&self) -> bool {
        !self.is_sending() && !matches!(self.input, Input::Receiving)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frontend::{ProtocolConfig, ProtocolKind};

    fn connection() -> Connection {
        let (id, config) = (ConnectionId(1), ProtocolConfig::default());
        let protocol = Protocol::new(ProtocolKind::Nvme, id, &config, usize::MAX, Now::ZERO);
        Connection::new(id, protocol)
    }

    #[test]
    fn a_send_ends_when_no_byte_has_gone_for_long_not_when_it_takes_long() {
        let mut connection = connection();
        let at = |seconds| Now::from_secs(5 + seconds);
        let looked = |connection: &mut Connection, seconds, taken| {
            connection.look(at(seconds), false, || taken);
            connection.state
        };
        // No deadline of the protocol's own: a host that has connected.
        connection.protocol.close();
        connection.parts = None;
        for seconds in 0..300 {
            assert_eq!(looked(&mut connection, seconds, seconds / 29), State::Open, "slow");
        }
        assert_eq!(looked(&mut connection, 319, 10), State::Open, "since 290 s");
        // Another send is another wait.
        connection.sends += 1;
        assert_eq!(looked(&mut connection, 320, 10), State::Open);
        assert_eq!(looked(&mut connection, 349, 10), State::Open);
        assert_eq!(looked(&mut connection, 350, 10), State::Draining);
    }

    #[test]
    fn who_hardly_moves_keeps_no_buffers_from_others() {
        // Bytes a second, whether others wait at a second, and when it has ended.
        let ends = |rate: u64, is_scarce: fn(u64) -> bool| {
            let mut connection = connection();
            connection.protocol.close();
            connection.parts = None;
            (0..600).find(|&seconds| {
                connection.look(Now::from_secs(5 + seconds), is_scarce(seconds), || seconds * rate);
                connection.state == State::Draining
            })
        };
        assert_eq!(ends(1, |_| false), None, "nobody waits");
        assert_eq!(ends(1, |_| true), Some(60));
        assert_eq!(ends(4095, |_| true), Some(60));
        assert_eq!(ends(4096, |_| true), None, "slow, but honest");
        assert_eq!(ends(1, |second| second >= 100), Some(160), "from when others wait");
        assert_eq!(ends(1, |second| second % 50 > 0), None, "each wait was short");
    }

    #[test]
    fn a_host_that_has_taken_all_begins_anew() {
        let mut connection = connection();
        connection.protocol.close();
        for second in 0..300 {
            connection.parts = (second % 59 == 0).then(Vec::new);
            connection.look(Now::from_secs(5 + second), true, || second);
            assert_eq!(connection.state, State::Open);
        }
    }

    #[test]
    fn who_is_to_be_closed_gets_a_second() {
        let mut connection = connection();
        connection.state = State::Closing;
        connection.parts = None;
        let start = Now::from_secs(3);
        assert_eq!(connection.next_look(start), Some(start + CLOSING_LOOK_PERIOD));
        for (tenth, is_over) in [(0, false), (9, false), (10, true)] {
            connection.look(start + Now::from_millis(100 * tenth), false, || tenth);
            assert_eq!(connection.state == State::Draining, is_over, "however it moves");
        }
        assert_eq!(connection.next_look(start), None);
    }

    #[test]
    fn who_owes_nothing_is_not_looked_at() {
        let mut connection = connection();
        let start = Now::from_secs(3);
        assert_eq!(connection.next_look(start), connection.protocol.deadline());
        connection.parts = None;
        assert_eq!(connection.next_look(start), Some(start + LOOK_PERIOD));
        connection.parts = Some(Vec::new());
        connection.protocol.close();
        assert_eq!(connection.next_look(start), None);
    }

    #[test]
    fn who_has_not_connected_gets_a_page() {
        assert_eq!(connection().staging_len(), PAGE);
    }
}
