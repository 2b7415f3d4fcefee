//! What an initiator has time for.

use super::transmit::Item;
use super::{Connection, Phase};
use crate::io::{Buffer, Now};
use core::time::Duration;
use storage_spec::iscsi::TAG_NONE;

/// How long data that the initiator owes may make no progress.
const PROGRESS_TIMEOUT: Duration = Duration::from_secs(30);

/// How long the data of one command may take once they are asked for, whatever their progress: a
/// byte now and then would keep their buffer for ever.
const TRANSFER_TIMEOUT: Duration = Duration::from_secs(120);

impl<B: Buffer> Connection<B> {
    /// When [`Connection::on_deadline`] wants to be called.
    #[must_use]
    pub fn deadline(&self) -> Option<Now> {
        self.deadline
    }

    /// Ends a login that takes too long; pings an initiator that is silent, and ends the session of
    /// one that does not answer.
    pub fn on_deadline(&mut self, now: Now) {
        if self.deadline.is_none_or(|deadline| now < deadline) {
            return;
        }
        if !matches!(self.phase, Phase::Full) {
            self.end();
            return;
        }
        let heard = self.receiver.heard();
        if heard != self.heard {
            self.expect_life(now);
        } else if self.ping.is_some() {
            self.end();
        } else {
            self.next_ping = (self.next_ping + 1) % TAG_NONE;
            self.ping = Some(self.next_ping);
            self.deadline = Some(now + self.config.ping_timeout);
            self.counters.pings += 1;
            self.send(Item::Ping(self.next_ping));
        }
    }

    /// Begins to wait for a sign of life.
    pub(super) fn expect_life(&mut self, now: Now) {
        self.heard = self.receiver.heard();
        self.ping = None;
        self.deadline = Some(now + self.config.idle_timeout);
    }

    /// Whether data of the initiator are awaited, which [`Connection::watch`] does not do for ever.
    #[must_use]
    pub fn awaits_data(&self) -> bool {
        self.awaiting_data > 0 || self.receiver.is_amid_data()
    }

    /// To be called now and then: ends the connection if the initiator owes data and has sent none
    /// for 30 s, or not all of one command's for two minutes, since the buffers for them are kept
    /// from others.
    pub fn watch(&mut self, now: Now) {
        if !self.awaits_data() {
            self.data_seen = None;
            return;
        }
        if self.awaiting_data > 0 && self.slots.is_any_overdue(now, TRANSFER_TIMEOUT) {
            self.end();
            return;
        }
        let heard = self.receiver.heard();
        match self.data_seen {
            Some((since, seen)) if seen == heard => {
                if now >= since + PROGRESS_TIMEOUT {
                    self.end();
                }
            }
            _ => self.data_seen = Some((now, heard)),
        }
    }
}
