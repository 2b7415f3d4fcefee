//! Task attributes: which commands wait for older ones (SAM-5 section 8.6).
//!
//! Order is kept among the commands of a session to a unit. Who sees those of another only when
//! they are answered cannot tell in which order both arrived.

use super::Connection;
use super::slots::{Entry, Slots, State};
use crate::io::{Buffer, Surroundings};
use crate::scsi::{Ending, Status};

/// Part of the buffers that commands may hold which wait for their turn: older ones need some.
const WAITING_SHARE: usize = 8;

/// When a command may begin.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Attribute {
    /// After older ordered ones.
    #[default]
    Simple,
    /// After all older ones.
    Ordered,
    /// At once.
    HeadOfQueue,
}

impl Attribute {
    /// As on the wire: untagged is simple.
    pub(super) fn from_wire(attribute: u8) -> Self {
        match attribute {
            2 => Self::Ordered,
            3 => Self::HeadOfQueue,
            _ => Self::Simple,
        }
    }
}

impl<B: Buffer> Connection<B> {
    /// Whether older commands keep this one from being executed. Once it is false it stays so.
    pub(super) fn must_wait(&self, slot: u16) -> bool {
        // One comparison for initiators that send none.
        self.slots.ordered() > 0 && is_kept(&self.slots, &self.slots[slot])
    }

    /// Has a command wait for its turn. One that holds data may be told to come again.
    pub(super) fn await_turn(&mut self, slot: u16) {
        let holds = self.slots.holds_data(slot);
        if holds && self.held() > self.config.buffers_max / WAITING_SHARE {
            self.counters.busy += 1;
            self.conclude(slot, Ending::status(Status::TaskSetFull));
            return self.respond(slot);
        }
        self.slots[slot].state = State::AwaitingTurn;
        self.turns += 1;
    }

    /// Goes on with commands whose turn has come, the oldest first.
    pub(super) fn take_turns<S: Surroundings<Buf = B>>(&mut self, around: &mut S) {
        while self.turns > 0 {
            let waiting = (0..self.slots.len()).filter(|&slot| {
                let entry = &self.slots[slot];
                entry.state == State::AwaitingTurn && !is_kept(&self.slots, entry)
            });
            let Some(slot) = waiting.min_by_key(|&slot| self.slots[slot].arrival) else { return };
            self.turns -= 1;
            self.go_on(slot, around);
        }
    }
}

fn is_kept<B>(slots: &Slots<B>, entry: &Entry<B>) -> bool {
    (0..slots.len()).map(|slot| &slots[slot]).any(|older| {
        let is_older = older.is_active() && older.arrival < entry.arrival && older.lun == entry.lun;
        is_older
            && match entry.attribute {
                Attribute::Simple => older.attribute == Attribute::Ordered,
                Attribute::Ordered => true,
                Attribute::HeadOfQueue => false,
            }
    })
}
