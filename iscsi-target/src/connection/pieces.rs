//! Transfers of more than a buffer: their pieces move one after another. Between two the command
//! holds nothing.

use super::Connection;
use super::slots::State;
use crate::io::{Buffer, Surroundings};
use crate::scsi::{DataIn, Ending, piece_len};

impl<B: Buffer> Connection<B> {
    /// A piece of data-out is done with: asks for the next.
    pub(super) fn want_piece<S: Surroundings<Buf = B>>(&mut self, slot: u16, around: &mut S) {
        self.slots.discharge(slot);
        let entry = &mut self.slots[slot];
        assert!(entry.moved == entry.piece_end && entry.moved < entry.wanted, "there is more");
        entry.head = 0;
        entry.piece_start = entry.piece_end;
        entry.piece_end += piece_len(0, entry.wanted - entry.piece_end, self.config.piece_max);
        self.go_on(slot, around);
    }

    /// Queues data of a read, behind which there are `left` bytes more.
    pub(super) fn deliver_part(&mut self, slot: u16, data: DataIn<B>, left: u32) {
        let entry = &mut self.slots[slot];
        let room = if entry.is_write { 0 } else { entry.expected - entry.base };
        let len = data.len() as u32;
        if room <= len {
            // The initiator takes no more of it: the rest need not be read to be counted.
            self.conclude(slot, Ending::good(data));
            self.slots[slot].available += left;
            self.respond(slot);
            return;
        }
        (entry.data, entry.deliver, entry.delivered) = (data, len, 0);
        entry.state = State::Delivering;
        self.sender.queue(slot);
    }

    /// These data have been given to the sink: the next piece is read in its turn.
    pub(super) fn part_delivered(&mut self, slot: u16) {
        self.slots.discharge(slot);
        let entry = &mut self.slots[slot];
        entry.base += core::mem::take(&mut entry.delivered);
        entry.deliver = 0;
        entry.state = State::AwaitingBuffer;
        self.waiting.push_back(slot);
    }
}
