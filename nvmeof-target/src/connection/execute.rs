//! From a command's data being here to its response.

use super::bulk::PIECE_MAX;
use super::plan::{is_permitted, lookup};
use super::slots::{Kind, NONE, State};
use super::{Connection, Fused, Phase};
use crate::io::{BlockError, BlockRequest, BlockResult, Buffer, Surroundings, Ticket};
use crate::seam::{Event, Slot};
use storage_spec::crc32c::BLOCK;
use storage_spec::nvme::status::Status;

impl<B: Buffer> Connection<B> {
    /// Takes the completion of a block request.
    pub fn complete<S: Surroundings<Buf = B>>(
        &mut self,
        ticket: Ticket,
        result: BlockResult<B>,
        around: &mut S,
    ) {
        let slot = self.slots.redeem(ticket);
        if !self.is_live() {
            self.slots.release(slot);
            return;
        }
        let kind = self.slots[slot].kind;
        match kind {
            Kind::Dataset | Kind::Copy => {
                self.piece_complete(slot, result, around);
                return;
            }
            Kind::FusedWrite => self.pair_complete(slot, result),
            _ => match result {
                BlockResult::Failed(error) => {
                    let entry = &mut self.slots[slot];
                    entry.locate(error);
                    entry.status = status_of(error, kind);
                }
                BlockResult::Done(buf) => {
                    assert_eq!(buf.is_some(), kind == Kind::Read, "reads alone return a buffer");
                    self.slots[slot].buf = buf;
                }
            },
        }
        self.respond(slot);
    }

    /// Allocates for a read and submits it; false if there is no buffer now.
    pub(super) fn start_read<S: Surroundings<Buf = B>>(
        &mut self,
        slot: u16,
        around: &mut S,
    ) -> bool {
        let entry = &self.slots[slot];
        let (offset, len, volume) = (entry.offset, entry.transfer, entry.volume);
        let buffer_len = (usize::from(entry.head) + len as usize).next_multiple_of(BLOCK);
        let charge = charge(Kind::Read, buffer_len);
        let is_allowed = self.may_hold(charge, false);
        let Some(buf) = is_allowed.then(|| around.alloc_for_read(buffer_len)).flatten() else {
            self.wait_for_buffer(slot);
            return false;
        };
        self.slots.charge(slot, charge);
        let ticket = self.slots.ticket(slot);
        around.submit(ticket, volume, BlockRequest::Read { offset, len, buf });
        true
    }

    /// Allocates for data of the host and asks for them; false if there is no buffer now.
    pub(super) fn fetch<S: Surroundings<Buf = B>>(&mut self, slot: u16, around: &mut S) -> bool {
        let entry = &self.slots[slot];
        if entry.kind != Kind::Event {
            let len = (usize::from(entry.head) + entry.transfer as usize).next_multiple_of(BLOCK);
            let charge = charge(entry.kind, len);
            let is_allowed = self.may_hold(charge, true);
            let buf = is_allowed.then(|| around.alloc_for_host_data(len)).flatten();
            if buf.is_none() {
                self.wait_for_buffer(slot);
                return false;
            }
            self.slots[slot].buf = buf;
            self.slots.charge(slot, charge);
        }
        self.slots[slot].state = State::R2tQueued;
        self.sender.queue(slot);
        true
    }

    pub(super) fn wait_for_buffer(&mut self, slot: u16) {
        let entry = &mut self.slots[slot];
        if entry.state == State::AwaitingBuffer {
            return;
        }
        entry.state = State::AwaitingBuffer;
        self.counters.buffer_waits += 1;
        self.waiting.push_back(slot);
    }

    /// Goes on with the first of those that wait; false if there still is no buffer.
    pub(super) fn retry_buffer<S: Surroundings<Buf = B>>(
        &mut self,
        slot: u16,
        around: &mut S,
    ) -> bool {
        let got = match self.slots[slot].kind {
            Kind::Read => match self.may_begin(slot) {
                Ok(()) => self.start_read(slot, around),
                Err(status) => {
                    self.slots[slot].status = status;
                    self.respond(slot);
                    true
                }
            },
            Kind::Copy if self.slots[slot].progress.begun => self.copy_piece(slot, around),
            _ => self.fetch(slot, around),
        };
        if got {
            let first = self.waiting.pop_front();
            assert_eq!(first, Some(slot), "those that wait are served in order");
        }
        got
    }

    /// All data that the host had to send are here.
    pub(super) fn data_complete<S: Surroundings<Buf = B>>(&mut self, slot: u16, around: &mut S) {
        let entry = &mut self.slots[slot];
        match entry.kind {
            Kind::FusedCompare | Kind::FusedWrite => {
                entry.state = State::Ready;
                self.settle_pair(slot, around);
            }
            _ if !entry.status.is_success() => self.respond(slot),
            _ => self.execute(slot, around),
        }
    }

    /// Whether a command may still be executed: since it was planned, the controller may have been
    /// disabled, or its host been shut out by a reservation.
    pub(super) fn may_begin(&self, slot: u16) -> Result<(), Status> {
        if !self.is_enabled() {
            return Err(Status::ABORTED_SQ_DELETION);
        }
        let entry = &self.slots[slot];
        match lookup(&self.namespaces, entry.namespace_id) {
            Ok(namespace) if !is_permitted(namespace.access, entry.kind) => {
                Err(Status::RESERVATION_CONFLICT.dnr())
            }
            // Of one that is gone its requests tell.
            _ => Ok(()),
        }
    }

    /// Executes a command that stands alone and has all it needs.
    pub(super) fn execute<S: Surroundings<Buf = B>>(&mut self, slot: u16, around: &mut S) {
        if self.slots[slot].kind != Kind::Event
            && let Err(status) = self.may_begin(slot)
        {
            self.slots[slot].status = status;
            self.respond(slot);
            return;
        }
        let entry = &mut self.slots[slot];
        let (offset, len) = (entry.offset, entry.len);
        let request = match entry.kind {
            Kind::Event => {
                entry.state = State::WithTarget;
                let sqe = entry.event.take().expect("an event keeps its command until now");
                let data = core::mem::take(&mut entry.bytes);
                if entry.moved > 0 {
                    // That was from the host: nothing is due to it.
                    entry.transfer = 0;
                }
                self.events.push_back(Event { slot: Slot(slot), sqe: *sqe, data });
                return;
            }
            Kind::Flush => {
                // A write completes when it is durable: nothing is left to flush.
                self.respond(slot);
                return;
            }
            Kind::Dataset => return self.start_dataset(slot, around),
            Kind::Copy => return self.start_copy(slot, around),
            Kind::Write => {
                self.counters.bytes_written += len;
                let data = entry.buf.take().expect("a write has its data");
                BlockRequest::Write { offset, len: len as u32, data }
            }
            Kind::Compare => {
                let expected = entry.buf.take().expect("a compare has its data");
                BlockRequest::Compare { offset, len: len as u32, expected }
            }
            Kind::Zero => BlockRequest::Zero { offset, len },
            Kind::Verify => BlockRequest::Verify { offset, len },
            Kind::Poison => BlockRequest::Poison { offset, len },
            Kind::Refused | Kind::Read | Kind::FusedCompare | Kind::FusedWrite => {
                unreachable!("these have ways of their own")
            }
        };
        self.submit(slot, request, around);
    }

    pub(super) fn submit<S: Surroundings<Buf = B>>(
        &mut self,
        slot: u16,
        request: BlockRequest<B>,
        around: &mut S,
    ) {
        let ticket = self.slots.ticket(slot);
        let volume = self.slots[slot].volume;
        around.submit(ticket, volume, request);
    }

    /// One of a fused pair is ready, with or without error: if both are, they execute or fail
    /// together.
    fn settle_pair<S: Surroundings<Buf = B>>(&mut self, slot: u16, around: &mut S) {
        let partner = self.slots[slot].partner;
        let is_sound = |slot: u16| {
            self.slots[slot].state == State::Ready && self.slots[slot].status.is_success()
        };
        if partner == NONE || !is_sound(slot) || !is_sound(partner) {
            self.settle_failed_pair(slot);
            return;
        }
        let is_second = self.slots[slot].kind == Kind::FusedWrite;
        let (first, second) = if is_second { (partner, slot) } else { (slot, partner) };
        if let Err(status) = self.may_begin(first).and_then(|()| self.may_begin(second)) {
            self.slots[first].status = status;
            self.settle_failed_pair(first);
            return;
        }
        let compare = &mut self.slots[first];
        compare.state = State::Carried;
        let expected = compare.buf.take().expect("a compare has its data");
        let write = &mut self.slots[second];
        let data = write.buf.take().expect("a write has its data");
        let (offset, len) = (write.offset, write.len as u32);
        self.counters.bytes_written += u64::from(len);
        let request = BlockRequest::CompareAndWrite { offset, len, expected, data };
        self.submit(second, request, around);
    }

    /// As [`Self::settle_pair`] where at most one of the two is without error.
    pub(super) fn settle_failed_pair(&mut self, slot: u16) {
        let entry = &self.slots[slot];
        let (partner, status) = (entry.partner, entry.status);
        if partner == NONE {
            // The second has not come. If this one failed it need not be waited for.
            if !status.is_success() {
                if self.fused == Fused::First(slot) {
                    self.fused = Fused::FirstFailed;
                }
                self.respond(slot);
            }
            return;
        }
        if self.slots[partner].state != State::Ready {
            return;
        }
        let partner_status = self.slots[partner].status;
        assert!(!status.is_success() || !partner_status.is_success(), "a sound pair executes");
        for slot in [slot, partner] {
            let entry = &mut self.slots[slot];
            if entry.status.is_success() {
                entry.status = Status::ABORTED_FAILED_FUSED;
            }
            self.respond(slot);
        }
    }

    /// The request for a fused pair has ended: answers the first; the caller answers the second.
    fn pair_complete(&mut self, second: u16, result: BlockResult<B>) {
        let first = self.slots[second].partner;
        assert!(self.slots[first].state == State::Carried);
        if let BlockResult::Failed(error) = result {
            self.slots[first].locate(error);
        }
        let (first_status, second_status) = match result {
            BlockResult::Done(_) => (Status::SUCCESS, Status::SUCCESS),
            BlockResult::Failed(
                error @ (BlockError::Miscompare { .. } | BlockError::Media { .. }),
            ) => (status_of(error, Kind::Compare), Status::ABORTED_FAILED_FUSED),
            BlockResult::Failed(error) => {
                (Status::ABORTED_FAILED_FUSED, status_of(error, Kind::Write))
            }
        };
        self.slots[first].status = first_status;
        self.slots[second].status = second_status;
        self.respond(first);
    }

    /// Queues the response, with data where there are any.
    pub(super) fn respond(&mut self, slot: u16) {
        let entry = &mut self.slots[slot];
        entry.state = State::Responding;
        entry.moved = 0;
        if let Phase::AwaitConnect { pending } = &mut self.phase
            && *pending == Some(slot)
        {
            // It failed before the target saw it: another may follow.
            *pending = None;
        }
        if !entry.status.is_success() {
            self.counters.failed += 1;
            entry.buf = None;
            // Data of the host, if the command failed before the target saw them.
            entry.bytes.clear();
        } else if entry.kind != Kind::Read {
            // A range list, or nothing.
            entry.buf = None;
        }
        self.sender.queue(slot);
    }
}

/// What a command is charged with that needs a buffer of `len` bytes, which are given in powers of
/// two, and others of its kind's that it will need.
pub(super) fn charge(kind: Kind, len: usize) -> usize {
    let own = len.next_power_of_two().max(BLOCK);
    match kind {
        // What is there is read into another of that size.
        Kind::Compare => 2 * own,
        Kind::Copy => own + PIECE_MAX as usize,
        _ => own,
    }
}

/// The status that tells a host of this failure.
pub(super) fn status_of(error: BlockError, kind: Kind) -> Status {
    let writes =
        matches!(kind, Kind::Write | Kind::FusedWrite | Kind::Zero | Kind::Poison | Kind::Dataset);
    match error {
        BlockError::Full => Status::CAPACITY_EXCEEDED.dnr(),
        BlockError::Media { .. } => Status::UNRECOVERED_READ_ERROR,
        BlockError::Miscompare { .. } => Status::COMPARE_FAILURE.dnr(),
        BlockError::DiskFailed if writes => Status::WRITE_FAULT,
        BlockError::DiskFailed => Status::INTERNAL_ERROR,
        // The volume may come back or be elsewhere; a namespace that is gone for good is missed
        // when the next snapshot comes.
        BlockError::VolumeGone => Status::NAMESPACE_NOT_READY,
    }
}
