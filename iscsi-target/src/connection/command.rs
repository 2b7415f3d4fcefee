//! SCSI commands: from their PDU to their end.

use super::receive::{Section, Sequence, Target, Violation};
use super::slots::{Aborted, Entry, Kind, State};
use super::turns::Attribute;
use super::{Connection, SessionKind};
use crate::io::{BlockRequest, BlockResult, Buffer, Now, Surroundings, Ticket, VolumeIndex};
use crate::scsi::{
    Admitted, DataIn, Ending, Lun, Needs, Progress, Request, Sense, Status, Task, admit, piece_len,
};
use crate::seam::{Event, Slot};
use core::convert::Infallible;
use core::time::Duration;
use storage_spec::crc32c::BLOCK;
use storage_spec::iscsi::{AhsType, PAD, RejectReason, ScsiCommand, ScsiCommandFlags};
use storage_spec::scsi::sense::{AdditionalSense, SenseKey};
use zerocopy::FromBytes;

/// Length of a CDB that needs no additional header segment.
const CDB_LEN: usize = 16;

/// How long a command may hold up the stream for want of a buffer: pings and task management stand
/// behind it, and initiators give up on those in 5 s.
const HOLD_TIMEOUT: Duration = Duration::from_secs(1);

/// Why data of an initiator were of no use (RFC 7143, section 11.4.7.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DataFault {
    /// Their digest was wrong.
    Digest,
    /// They were not those that were due.
    Amount,
    /// They should not have come unasked.
    Uninvited,
}

impl<B: Buffer> Connection<B> {
    /// Takes a SCSI command.
    pub(super) fn on_command<S: Surroundings<Buf = B>>(
        &mut self,
        header: &[u8],
        ahs: &[u8],
        section: Section,
        around: &mut S,
    ) -> Result<(), Violation> {
        let pdu = ScsiCommand::ref_from_bytes(header).expect("the length is that of the structure");
        let Some(slot) = self.take_slot(header, section)? else { return Ok(()) };
        if self.session.kind == SessionKind::Discovery {
            self.slots.release(slot);
            return Err(Violation::Reject(RejectReason::Protocol));
        }
        self.counters.commands += 1;
        let flags = ScsiCommandFlags::from(pdu.flags);
        self.slots.set_attribute(slot, Attribute::from_wire(flags.attribute()));
        let entry = &mut self.slots[slot];
        entry.lun = pdu.lun;
        entry.command_sn = pdu.command_sn.get();
        entry.expected = pdu.transfer_len.get();
        entry.is_write = flags.write();
        let expected = entry.expected;
        let offered = if flags.write() { expected } else { 0 };
        if self.is_uninvited(pdu, section) {
            // The command is answered, so that its initiator need not wait for its own timeout.
            // Nothing of its data is kept, and what follows is a stray.
            self.slots[slot].burst_end = section.len;
            self.doom(slot, DataFault::Uninvited);
            self.begin(slot, section, around);
            return Ok(());
        }
        self.slots[slot].burst_end = match flags.is_final() {
            true => section.len,
            false => self.session.first_burst.min(expected),
        };
        match self.judge(pdu, ahs, offered) {
            Admitted::End(ending) => self.conclude(slot, ending),
            Admitted::Task(task, needs) => self.set_up(slot, Kind::Task(task), needs),
            Admitted::Control(command, needs) => {
                self.counters.control += 1;
                self.set_up(slot, Kind::Control(command), needs);
            }
        }
        self.begin(slot, section, around);
        Ok(())
    }

    /// Whether data come unasked that the initiator may not send so.
    fn is_uninvited(&self, pdu: &ScsiCommand, section: Section) -> bool {
        let flags = ScsiCommandFlags::from(pdu.flags);
        let expected = if flags.write() { pdu.transfer_len.get() } else { 0 };
        let has_more = !flags.is_final();
        section.len > self.session.first_burst.min(expected)
            || (section.len > 0 && !self.session.immediate_data)
            || (has_more && (self.session.initial_r2t || !flags.write()))
    }

    fn judge(&mut self, pdu: &ScsiCommand, ahs: &[u8], offered: u32) -> Admitted<B> {
        /// Task attribute ACA.
        const ACA: u8 = 4;
        let flags = ScsiCommandFlags::from(pdu.flags);
        let lun = Lun::from_wire(pdu.lun);
        let refusal = if is_extended(ahs) {
            Some(AdditionalSense::InvalidOpcode)
        } else if !ahs.is_empty() || (flags.read() && flags.write()) || flags.attribute() == ACA {
            Some(AdditionalSense::InvalidFieldInInformationUnit)
        } else {
            None
        };
        if let Some(code) = refusal {
            // No command that is here moves data both ways or is longer than 16 bytes; there is no
            // ACA (NormACA is 0).
            let sense = Sense::illegal(code).with_format(self.has_descriptor_sense(lun));
            return Admitted::End(Ending::check(sense));
        }
        let piece_max = self.config.piece_max;
        let request = Request { cdb: &pdu.cdb, lun, data_out: offered, piece_max };
        admit(request, &self.units, &mut self.attentions)
    }

    /// Whether sense data of a unit are in descriptor format.
    fn has_descriptor_sense(&self, lun: Option<Lun>) -> bool {
        let unit = lun.and_then(|lun| self.units.get(usize::from(lun.0))?.as_ref());
        unit.is_some_and(|unit| unit.descriptor_sense)
    }

    fn set_up(&mut self, slot: u16, kind: Kind<B>, needs: Needs) {
        let entry = &mut self.slots[slot];
        entry.kind = kind;
        entry.wanted = needs.data_out;
        entry.named = needs.named;
        entry.head = needs.page_offset;
        entry.piece_end = piece_len(needs.page_offset, needs.data_out, self.config.piece_max);
        if matches!(entry.kind, Kind::Control(_)) {
            entry.bytes = Vec::with_capacity(needs.data_out as usize);
        }
        let is_in_piece = entry.burst_end <= entry.piece_end || entry.piece_end == entry.wanted;
        assert!(is_in_piece, "what comes unasked fits in a piece");
    }

    /// A command is known: has its data come, or runs it.
    fn begin<S: Surroundings<Buf = B>>(&mut self, slot: u16, section: Section, around: &mut S) {
        let entry = &mut self.slots[slot];
        let is_unasked = entry.burst_end > 0;
        if !is_unasked {
            return self.go_on(slot, around);
        }
        entry.state = State::Receiving;
        if matches!(entry.kind, Kind::Task(_)) && entry.wanted > 0 {
            // What is asked for later can stand behind others' in the stream: such a buffer is
            // waited for only when nothing else is awaited.
            let is_all = section.len >= entry.wanted;
            if !self.take_buffer(slot, !is_all, around) {
                self.counters.buffer_waits += 1;
                let may_hold = is_all || self.awaiting_data == 0;
                if may_hold && !self.holds_none_up {
                    self.receiver.hold_for_buffer(slot, section);
                    return;
                }
                self.refuse_data(slot);
            }
        }
        self.receive_for(slot, section);
    }

    /// Goes on with the command that holds the stream up for want of a buffer; whether it does so
    /// no more.
    pub(super) fn retry_held<S: Surroundings<Buf = B>>(
        &mut self,
        now: Now,
        section: Section,
        until: Option<Now>,
        around: &mut S,
    ) -> bool {
        let slot = self.receiver.slot().expect("somebody holds it up");
        let is_all = section.len >= self.slots[slot].wanted;
        let until = until.unwrap_or(now + HOLD_TIMEOUT);
        if !self.take_buffer(slot, !is_all, around) {
            if now < until {
                self.receiver.hold_until(section, until);
                return false;
            }
            self.holds_none_up = true;
            self.refuse_data(slot);
        }
        self.receive_for(slot, section);
        true
    }

    /// There is no buffer for the data that come with a command: it may be sent again.
    fn refuse_data(&mut self, slot: u16) {
        self.counters.busy += 1;
        self.conclude(slot, Ending::status(Status::Busy));
    }

    fn receive_for(&mut self, slot: u16, section: Section) {
        let entry = &mut self.slots[slot];
        if section.len == 0 {
            entry.state = State::AwaitingData;
            entry.transfer_tag = storage_spec::iscsi::TAG_NONE;
            self.awaiting_data += 1;
            self.receiver.expect_header();
            return;
        }
        let target = self.target_of(slot);
        self.expect_data(slot, target, section);
    }

    /// Where data-out of a command go.
    pub(super) fn target_of(&self, slot: u16) -> Target {
        let entry = &self.slots[slot];
        match entry.kind {
            Kind::Task(_) if entry.buf.is_some() => Target::Buffer,
            Kind::Control(_) => Target::Bytes,
            _ => Target::Nowhere,
        }
    }

    /// Asks for the data that are missing, or runs the command, when its turn has come.
    pub(super) fn go_on<S: Surroundings<Buf = B>>(&mut self, slot: u16, around: &mut S) {
        let entry = &self.slots[slot];
        let is_doomed = matches!(entry.kind, Kind::Ended);
        if !is_doomed && self.must_wait(slot) {
            return self.await_turn(slot);
        }
        if is_doomed || entry.moved >= entry.piece_end {
            return self.run(slot, around);
        }
        let needs_buffer = matches!(entry.kind, Kind::Task(_)) && entry.buf.is_none();
        if needs_buffer && !self.take_buffer(slot, true, around) {
            self.wait_for_buffer(slot);
            return;
        }
        self.slots[slot].state = State::R2tQueued;
        self.sender.queue(slot);
    }

    /// A buffer for the piece of a command's data-out. `is_held`: until the initiator has sent
    /// more.
    fn take_buffer<S: Surroundings<Buf = B>>(
        &mut self,
        slot: u16,
        is_held: bool,
        around: &mut S,
    ) -> bool {
        let entry = &self.slots[slot];
        let len = entry.data_range().end.next_multiple_of(BLOCK);
        let charge = len.next_power_of_two();
        let max = self.config.buffers_max;
        let max = if is_held { max - max / 4 } else { max };
        if !may_hold(self.held(), charge, max) {
            return false;
        }
        let buf = if is_held { around.alloc_for_host_data(len) } else { around.alloc(len) };
        let Some(buf) = buf else { return false };
        self.slots[slot].buf = Some(buf);
        self.slots.charge_data(slot, charge);
        self.holds_none_up = false;
        true
    }

    fn wait_for_buffer(&mut self, slot: u16) {
        self.counters.buffer_waits += 1;
        self.slots[slot].state = State::AwaitingBuffer;
        // Those that hold data go first: others may wait for just these buffers.
        let place = match self.slots.holds_data(slot) {
            true => self.waiting.iter().position(|&other| !self.slots.holds_data(other)),
            false => None,
        };
        self.waiting.insert(place.unwrap_or(self.waiting.len()), slot);
    }

    /// Goes on with the first of those that wait; false if there still is no buffer.
    pub(super) fn retry_waiting<S: Surroundings<Buf = B>>(
        &mut self,
        slot: u16,
        around: &mut S,
    ) -> bool {
        let entry = &self.slots[slot];
        if entry.moved < entry.piece_end {
            if !self.take_buffer(slot, true, around) {
                return false;
            }
            self.waiting.pop_front();
            self.slots[slot].state = State::R2tQueued;
            self.sender.queue(slot);
            return true;
        }
        let first = self.waiting.pop_front();
        assert_eq!(first, Some(slot), "those that wait are served in order");
        if self.advance_task(slot, around, |task, door, _| task.resume(door)) {
            return true;
        }
        // Starved again: it keeps its place.
        self.waiting.retain(|&other| other != slot);
        self.waiting.push_front(slot);
        false
    }

    /// A command has all that it needs.
    fn run<S: Surroundings<Buf = B>>(&mut self, slot: u16, around: &mut S) {
        let entry = &mut self.slots[slot];
        match &entry.kind {
            Kind::Control(command) => {
                let command = *command;
                let data = core::mem::take(&mut entry.bytes);
                entry.state = State::WithTarget;
                self.events.push_back(Event::Control { slot: Slot(slot), command, data });
            }
            Kind::Task(_) => {
                self.counters.bytes_written += u64::from(entry.piece_end - entry.piece_start);
                let data = entry.buf.take();
                let ticket = self.slots.ticket(slot);
                self.advance_task(slot, around, |task, door, _| task.start(ticket, data, door));
            }
            _ => self.respond(slot),
        }
    }

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
        if self.slots[slot].aborted != Aborted::No {
            self.end_aborted(slot);
        } else {
            self.advance_task(slot, around, |task, door, ()| task.complete(result, door));
        }
        self.take_turns(around);
    }

    /// Lets a task go on, and does what follows; false if it lacks a buffer.
    fn advance_task<S: Surroundings<Buf = B>>(
        &mut self,
        slot: u16,
        around: &mut S,
        step: impl FnOnce(&mut Task<B>, &mut Door<'_, S>, ()) -> Progress<B>,
    ) -> bool {
        let held = self.slots.held_but_own(slot) + self.in_sink;
        // However much all hold as data-out, one task at a time gets on.
        let is_alone = self.slots.held_by_others(slot) + self.in_sink == 0;
        let max = if is_alone { usize::MAX } else { self.config.buffers_max };
        let mut door = Door { around, held, max, charged: 0, submitted: 0 };
        let Kind::Task(task) = &mut self.slots[slot].kind else {
            unreachable!("block requests are made by tasks");
        };
        let progress = step(task, &mut door, ());
        let Door { charged, submitted, .. } = door;
        assert_eq!(submitted == 1, matches!(progress, Progress::Pending), "one request at a time");
        match progress {
            Progress::Pending => {
                // A step without a buffer of its own goes on with that of the last.
                if charged > 0 {
                    self.slots.charge_own(slot, charged);
                }
                self.slots.submit(slot);
            }
            Progress::Starved => {
                // What it got beside what it lacks is dropped.
                self.slots.charge_own(slot, 0);
                self.wait_for_buffer(slot);
                return false;
            }
            Progress::Part { data, left } => self.deliver_part(slot, data, left),
            Progress::WantsData => self.want_piece(slot, around),
            Progress::End(ending) => {
                self.conclude(slot, ending);
                self.respond(slot);
            }
        }
        true
    }

    /// The target's answer to a command.
    pub(super) fn control_replied(&mut self, slot: u16, ending: Ending<Infallible>) {
        assert!(self.slots[slot].state == State::WithTarget, "an event is replied to once");
        if self.slots[slot].aborted != Aborted::No {
            self.end_aborted(slot);
            return;
        }
        let data = match ending.data {
            DataIn::None => DataIn::None,
            DataIn::Bytes(bytes) => DataIn::Bytes(bytes),
            DataIn::Buffer { buf, .. } => match buf {},
        };
        self.conclude(slot, Ending { status: ending.status, sense: ending.sense, data });
        self.respond(slot);
    }

    /// Data of the initiator were of no use: the command fails once no more are due.
    pub(super) fn doom(&mut self, slot: u16, fault: DataFault) {
        let entry = &self.slots[slot];
        if matches!(entry.kind, Kind::Ended) && fault != DataFault::Uninvited {
            return;
        }
        let code = match fault {
            DataFault::Digest => AdditionalSense(0x4705),
            DataFault::Amount => AdditionalSense(0x0C0D),
            DataFault::Uninvited => AdditionalSense(0x0C0C),
        };
        let sense = Sense::new(SenseKey::AbortedCommand, code);
        let sense = sense.with_format(self.has_descriptor_sense(entry.unit()));
        self.conclude(slot, Ending::check(sense));
        self.slots[slot].bytes = Vec::new();
    }

    /// Notes how a command ended.
    pub(super) fn conclude(&mut self, slot: u16, ending: Ending<B>) {
        let entry = &mut self.slots[slot];
        self.counters.failed += u64::from(ending.status != Status::Good);
        entry.kind = Kind::Ended;
        entry.status = ending.status;
        entry.sense = ending.sense;
        let len = ending.data.len() as u32;
        entry.available = entry.base + len;
        entry.deliver = if entry.is_write { 0 } else { len.min(entry.expected - entry.base) };
        entry.data = if entry.deliver == 0 { DataIn::None } else { ending.data };
        entry.buf = None;
        if !matches!(entry.data, DataIn::Buffer { .. }) {
            self.slots.discharge(slot);
        }
    }

    /// Queues data and response.
    pub(super) fn respond(&mut self, slot: u16) {
        self.slots[slot].state = State::Responding;
        self.sender.queue(slot);
    }

    /// Takes the slot for a request, and its number. `None`: it is to be ignored, and its data are.
    pub(super) fn take_slot(
        &mut self,
        header: &[u8],
        section: Section,
    ) -> Result<Option<u16>, Violation> {
        let pdu = storage_spec::iscsi::TextRequest::ref_from_bytes(header)
            .expect("all headers have one length");
        let is_immediate = storage_spec::iscsi::OpcodeByte::from(pdu.opcode).immediate();
        let (tag, sn) = (pdu.task_tag.get(), pdu.command_sn.get());
        match self.sequence(is_immediate, sn) {
            Sequence::Due => {}
            Sequence::Ignore => {
                self.counters.out_of_window += 1;
                self.expect_nothing(section);
                return Ok(None);
            }
            Sequence::Hole => return Err(Violation::RejectAndEnd(RejectReason::Protocol)),
        }
        if !self.slots.has_room(is_immediate) {
            assert!(is_immediate, "the window is the slots");
            return Err(Violation::Reject(RejectReason::TooManyImmediate));
        }
        if !is_immediate {
            self.advance_command_sn();
        }
        if self.slots.find(tag).is_some() {
            return Err(Violation::Reject(RejectReason::TaskInProgress));
        }
        Ok(Some(self.slots.take(tag, is_immediate)))
    }
}

impl<B> Entry<B> {
    /// How many bytes the command did not move of those expected, or would have moved beyond.
    pub(super) fn residual(&self) -> Residual {
        let (moved, expected) = match self.is_write {
            true => (self.named, self.expected),
            false => (self.available, self.expected),
        };
        if moved < expected {
            Residual::Under(expected - moved)
        } else if moved > expected {
            Residual::Over(moved - expected)
        } else {
            Residual::None
        }
    }
}

/// See [`Entry::residual`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Residual {
    /// All.
    None,
    /// Fewer.
    Under(u32),
    /// More.
    Over(u32),
}

/// Whether additional header segments make a CDB longer than 16 bytes.
fn is_extended(mut ahs: &[u8]) -> bool {
    const { assert!(CDB_LEN == 16) };
    // Of each: the length of its specific part, its type, and that part, padded as a whole.
    while let [high, low, kind, ..] = *ahs {
        if AhsType(kind) == AhsType::ExtendedCdb {
            return true;
        }
        let len = (3 + usize::from(u16::from_be_bytes([high, low]))).next_multiple_of(PAD);
        ahs = ahs.get(len..).unwrap_or_default();
    }
    false
}

fn may_hold(held: usize, bytes: usize, max: usize) -> bool {
    held == 0 || held + bytes <= max
}

/// A connection's surroundings as a task of it sees them.
pub(super) struct Door<'a, S> {
    around: &'a mut S,
    held: usize,
    max: usize,
    charged: usize,
    submitted: u32,
}

impl<S: Surroundings> Door<'_, S> {
    fn allocate(
        &mut self,
        len: usize,
        alloc: impl FnOnce(&mut S, usize) -> Option<S::Buf>,
    ) -> Option<S::Buf> {
        let charge = len.next_power_of_two().max(BLOCK);
        if !may_hold(self.held + self.charged, charge, self.max) {
            return None;
        }
        let buf = alloc(self.around, len)?;
        self.charged += charge;
        Some(buf)
    }
}

impl<S: Surroundings> Surroundings for Door<'_, S> {
    type Buf = S::Buf;

    fn alloc(&mut self, len: usize) -> Option<S::Buf> {
        self.allocate(len, S::alloc)
    }

    fn alloc_for_host_data(&mut self, len: usize) -> Option<S::Buf> {
        self.allocate(len, S::alloc_for_host_data)
    }

    fn alloc_for_read(&mut self, len: usize) -> Option<S::Buf> {
        self.allocate(len, S::alloc_for_read)
    }

    fn submit(&mut self, ticket: Ticket, volume: VolumeIndex, request: BlockRequest<S::Buf>) {
        self.submitted += 1;
        self.around.submit(ticket, volume, request);
    }
}
