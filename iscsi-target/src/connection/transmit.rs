//! The sending side: which PDUs are due, and how they look.

mod data;

use super::command::Residual;
use super::login::LoginAnswer;
use super::requests::Exchange;
use super::slots::{Kind, State};
use super::{Connection, Phase};
use crate::io::{Buffer, TxSink};
use crate::scsi::{DataIn, Sense};
use crate::seam::Message;
use std::collections::VecDeque;
use storage_spec::crc32c;
use storage_spec::iscsi::{
    AsyncEvent, AsyncMessage, BHS_LEN, Bhs, CONTINUE, DIGEST_LEN, FINAL, LogoutResponse, NopIn,
    Opcode, PAD, R2t, Reject, RejectReason, ResidualFlags, ScsiResponse, TAG_NONE,
    TaskManagementResponse, TaskResponse, TextResponse, U24, serial_lt,
};
use zerocopy::{FromZeros, IntoBytes};

/// Most data that are copied for one PDU.
pub(super) const COPIED_MAX: usize = 4096;

/// Most answers that are no task's and wait to be sent: who makes us say more does not listen.
const OTHERS_MAX: usize = 32;

/// Most messages of the target that wait to be sent. Those of SCSI events are hints, since a unit
/// attention is pending: the first few do.
const MESSAGES_MAX: usize = 8;

/// What waits to be sent.
#[derive(Debug)]
pub(super) enum Item {
    /// A slot in `R2tQueued` or `Responding`, each at most once.
    Slot(u16),
    /// An answer to a login request.
    Login(Box<LoginAnswer>),
    /// A PDU is refused: its header.
    Reject(RejectReason, [u8; BHS_LEN]),
    /// Something to tell.
    Message(Message),
    /// Is anybody there? Its transfer tag.
    Ping(u32),
}

/// The queue, first come first sent.
#[derive(Debug, Default)]
pub(super) struct Sender {
    queue: VecDeque<Item>,
    others: usize,
    messages: usize,
}

impl Sender {
    /// A task has something to say.
    pub(super) fn queue(&mut self, slot: u16) {
        self.queue.push_back(Item::Slot(slot));
    }

    /// There is something else to say; false if there is too much already.
    pub(super) fn push(&mut self, item: Item) -> bool {
        self.others += 1;
        self.queue.push_back(item);
        self.others <= OTHERS_MAX
    }

    /// The target has something to say: not the same twice, and of SCSI events a few.
    pub(super) fn push_message(&mut self, message: Message) {
        let is_same = |item: &Item| matches!(item, Item::Message(other) if *other == message);
        let is_hint = message.event == AsyncEvent::Scsi;
        if (is_hint && self.messages >= MESSAGES_MAX) || self.queue.iter().any(is_same) {
            return;
        }
        self.messages += 1;
        self.queue.push_back(Item::Message(message));
    }

    /// A task has nothing to say any more.
    pub(super) fn forget(&mut self, slot: u16) {
        self.queue.retain(|item| !matches!(item, Item::Slot(other) if *other == slot));
    }

    pub(super) fn clear(&mut self) {
        self.queue.clear();
        (self.others, self.messages) = (0, 0);
    }
}

impl<B: Buffer> Connection<B> {
    /// Whether [`Connection::transmit`] has something to send.
    #[must_use]
    pub fn wants_transmit(&self) -> bool {
        !self.sender.queue.is_empty()
    }

    /// Gives PDUs to the sink, in order, while it has room.
    pub fn transmit<T: TxSink<B>>(&mut self, sink: &mut T) {
        while sink.has_room()
            && let Some(item) = self.sender.queue.front()
        {
            if let Item::Slot(slot) = *item {
                if !self.emit(slot, sink) {
                    return;
                }
                continue;
            }
            let item = self.sender.queue.pop_front().expect("looked at above");
            match item {
                Item::Message(_) => self.sender.messages -= 1,
                _ => self.sender.others -= 1,
            }
            match item {
                Item::Slot(_) => unreachable!("served above"),
                Item::Login(answer) => self.emit_login(&answer, sink),
                Item::Reject(reason, header) => self.emit_reject(reason, &header, sink),
                Item::Message(message) => self.emit_message(message, sink),
                Item::Ping(tag) => self.emit_ping(tag, sink),
            }
        }
    }

    /// Sends the next of a slot, which is the first in the queue. False if there is no room for it.
    fn emit<T: TxSink<B>>(&mut self, slot: u16, sink: &mut T) -> bool {
        let entry = &self.slots[slot];
        match (&entry.kind, entry.state) {
            (_, State::R2tQueued) => self.emit_r2t(slot, sink),
            (Kind::Ping, _) => self.emit_pong(slot, sink),
            (Kind::Text(exchange), _) => self.emit_text(slot, *exchange, sink),
            (Kind::Management(_, response), _) => {
                self.emit_management(slot, *response, sink);
            }
            (Kind::Logout(response), _) => self.emit_logout(slot, *response, sink),
            _ if entry.delivered < entry.deliver => return self.emit_data_in(slot, sink),
            _ => self.emit_response(slot, sink),
        }
        true
    }

    fn emit_r2t<T: TxSink<B>>(&mut self, slot: u16, sink: &mut T) {
        self.sender.queue.pop_front();
        self.counters.r2ts += 1;
        let tag = self.slots.next_tag(slot);
        let burst_max = self.session.burst_max;
        let (status_sn, (expected, max)) = (self.status_sn, self.numbers());
        let entry = &mut self.slots[slot];
        entry.transfer_tag = tag;
        entry.data_sn = 0;
        entry.burst_end = entry.moved.saturating_add(burst_max).min(entry.piece_end);
        let mut pdu = R2t::new_zeroed();
        pdu.opcode = Opcode::R2t.0;
        pdu.flags = FINAL;
        pdu.lun = entry.lun;
        pdu.task_tag = entry.tag.into();
        pdu.transfer_tag = tag.into();
        pdu.status_sn = status_sn.into();
        pdu.expected_command_sn = expected.into();
        pdu.command_sn_max = max.into();
        pdu.r2t_sn = entry.sent_sn.into();
        pdu.buffer_offset = entry.moved.into();
        pdu.desired_len = (entry.burst_end - entry.moved).into();
        entry.sent_sn += 1;
        entry.state = State::AwaitingData;
        entry.forget_wait();
        self.awaiting_data += 1;
        self.emit_pdu(pdu.as_bytes(), &[], sink);
    }

    fn emit_response<T: TxSink<B>>(&mut self, slot: u16, sink: &mut T) {
        let entry = &self.slots[slot];
        let mut pdu = ScsiResponse::new_zeroed();
        pdu.opcode = Opcode::ScsiResponse.0;
        let (flags, residual) = residual(entry.residual());
        pdu.flags = flags.with_is_final(true).into();
        pdu.residual = residual.into();
        pdu.status = entry.status.0;
        pdu.task_tag = entry.tag.into();
        pdu.expected_data_sn = entry.sent_sn.into();
        let data = sense_data(entry.sense);
        pdu.data_len = U24::new(data.len() as u32);
        self.finish(slot);
        pdu.status_sn = self.next_status_sn().into();
        let (expected, max) = self.numbers();
        pdu.expected_command_sn = expected.into();
        pdu.command_sn_max = max.into();
        self.emit_pdu(pdu.as_bytes(), &data, sink);
    }

    fn emit_pong<T: TxSink<B>>(&mut self, slot: u16, sink: &mut T) {
        let entry = &mut self.slots[slot];
        let data = core::mem::take(&mut entry.bytes);
        let mut pdu = NopIn::new_zeroed();
        pdu.opcode = Opcode::NopIn.0;
        pdu.flags = FINAL;
        pdu.data_len = U24::new(data.len() as u32);
        pdu.lun = entry.lun;
        pdu.task_tag = entry.tag.into();
        pdu.transfer_tag = TAG_NONE.into();
        self.finish(slot);
        pdu.status_sn = self.next_status_sn().into();
        let (expected, max) = self.numbers();
        pdu.expected_command_sn = expected.into();
        pdu.command_sn_max = max.into();
        self.emit_pdu(pdu.as_bytes(), &data, sink);
    }

    fn emit_ping<T: TxSink<B>>(&mut self, tag: u32, sink: &mut T) {
        let mut pdu = NopIn::new_zeroed();
        pdu.opcode = Opcode::NopIn.0;
        pdu.flags = FINAL;
        pdu.task_tag = TAG_NONE.into();
        pdu.transfer_tag = tag.into();
        pdu.status_sn = self.status_sn.into();
        let (expected, max) = self.numbers();
        pdu.expected_command_sn = expected.into();
        pdu.command_sn_max = max.into();
        self.emit_pdu(pdu.as_bytes(), &[], sink);
    }

    fn emit_text<T: TxSink<B>>(&mut self, slot: u16, exchange: Exchange, sink: &mut T) {
        let part_max = COPIED_MAX.min(self.session.send_max as usize) as u32;
        let entry = &mut self.slots[slot];
        let from = entry.delivered;
        let part = match &entry.data {
            DataIn::Bytes(text) => {
                let to = entry.deliver.min(from + part_max);
                text[from as usize..to as usize].to_vec()
            }
            _ => Vec::new(),
        };
        entry.delivered += part.len() as u32;
        let is_part = entry.delivered < entry.deliver;
        let is_last = !is_part && exchange.is_final && !exchange.is_more;
        let mut pdu = TextResponse::new_zeroed();
        pdu.opcode = Opcode::TextResponse.0;
        pdu.flags = if is_last { FINAL } else { 0 } | if is_part { CONTINUE } else { 0 };
        pdu.data_len = U24::new(part.len() as u32);
        pdu.task_tag = entry.tag.into();
        pdu.transfer_tag = TAG_NONE.into();
        if is_last {
            self.text = None;
            self.finish(slot);
        } else {
            self.sender.queue.pop_front();
            let tag = self.slots.next_tag(slot);
            self.slots[slot].transfer_tag = tag;
            self.slots[slot].state = State::AwaitingRequest;
            pdu.transfer_tag = tag.into();
        }
        pdu.status_sn = self.next_status_sn().into();
        let (expected, max) = self.numbers();
        pdu.expected_command_sn = expected.into();
        pdu.command_sn_max = max.into();
        self.emit_pdu(pdu.as_bytes(), &part, sink);
    }

    fn emit_management<T: TxSink<B>>(&mut self, slot: u16, response: TaskResponse, sink: &mut T) {
        let mut pdu = TaskManagementResponse::new_zeroed();
        pdu.opcode = Opcode::TaskManagementResponse.0;
        pdu.flags = FINAL;
        pdu.response = response.0;
        pdu.task_tag = self.slots[slot].tag.into();
        self.finish(slot);
        pdu.status_sn = self.next_status_sn().into();
        let (expected, max) = self.numbers();
        pdu.expected_command_sn = expected.into();
        pdu.command_sn_max = max.into();
        self.emit_pdu(pdu.as_bytes(), &[], sink);
    }

    fn emit_logout<T: TxSink<B>>(&mut self, slot: u16, response: u8, sink: &mut T) {
        let mut pdu = LogoutResponse::new_zeroed();
        pdu.opcode = Opcode::LogoutResponse.0;
        pdu.flags = FINAL;
        pdu.response = response;
        pdu.task_tag = self.slots[slot].tag.into();
        self.finish(slot);
        pdu.status_sn = self.next_status_sn().into();
        let (expected, max) = self.numbers();
        pdu.expected_command_sn = expected.into();
        pdu.command_sn_max = max.into();
        self.emit_pdu(pdu.as_bytes(), &[], sink);
        if response == 0 {
            self.end_softly();
        }
    }

    fn emit_login<T: TxSink<B>>(&mut self, answer: &LoginAnswer, sink: &mut T) {
        let mut pdu = answer.header();
        pdu.status_sn = self.next_status_sn().into();
        let (expected, max) = self.numbers();
        pdu.expected_command_sn = expected.into();
        pdu.command_sn_max = max.into();
        // Digests begin with the first PDU after login.
        emit_plain(pdu.as_bytes(), &answer.text, sink);
    }

    fn emit_reject<T: TxSink<B>>(
        &mut self,
        reason: RejectReason,
        header: &[u8; BHS_LEN],
        sink: &mut T,
    ) {
        let mut pdu = Reject::new_zeroed();
        pdu.opcode = Opcode::Reject.0;
        pdu.flags = FINAL;
        pdu.reason = reason.0;
        pdu.data_len = U24::new(header.len() as u32);
        pdu.task_tag = TAG_NONE.into();
        pdu.status_sn = self.next_status_sn().into();
        let (expected, max) = self.numbers();
        pdu.expected_command_sn = expected.into();
        pdu.command_sn_max = max.into();
        self.emit_pdu(pdu.as_bytes(), header, sink);
    }

    fn emit_message<T: TxSink<B>>(&mut self, message: Message, sink: &mut T) {
        let mut pdu = AsyncMessage::new_zeroed();
        pdu.opcode = Opcode::AsyncMessage.0;
        pdu.flags = FINAL;
        pdu.lun = message.lun.to_wire();
        pdu.task_tag = TAG_NONE.into();
        pdu.event = message.event.0;
        pdu.parameters = message.parameters.map(Into::into);
        let data = sense_data(message.attention.map(|attention| attention.sense()));
        pdu.data_len = U24::new(data.len() as u32);
        pdu.status_sn = self.next_status_sn().into();
        let (expected, max) = self.numbers();
        pdu.expected_command_sn = expected.into();
        pdu.command_sn_max = max.into();
        self.emit_pdu(pdu.as_bytes(), &data, sink);
    }

    /// The task at the front of the queue has been answered.
    fn finish(&mut self, slot: u16) {
        self.sender.queue.pop_front();
        self.slots.release(slot);
    }

    /// StatSN of a response that is being sent.
    fn next_status_sn(&mut self) -> u32 {
        let sn = self.status_sn;
        self.status_sn = sn.wrapping_add(1);
        sn
    }

    /// ExpCmdSN and MaxCmdSN as they are now.
    fn numbers(&mut self) -> (u32, u32) {
        let next = self.expected_command_sn;
        let max = next.wrapping_add(u32::from(self.slots.window())).wrapping_sub(1);
        if serial_lt(self.command_sn_max, max) {
            self.command_sn_max = max;
        }
        (next, self.command_sn_max)
    }

    /// Sends a PDU whose data, if any, are copied.
    fn emit_pdu<T: TxSink<B>>(&mut self, header: &[u8], data: &[u8], sink: &mut T) {
        self.emit_header(header, sink);
        if data.is_empty() {
            return;
        }
        sink.bytes(data);
        let padding = &[0; PAD][..data.len().next_multiple_of(PAD) - data.len()];
        let crc = crc32c::append(crc32c::checksum(data), padding);
        self.emit_tail(padding.len(), crc, sink);
    }

    /// Sends a header and its digest.
    fn emit_header<T: TxSink<B>>(&self, header: &[u8], sink: &mut T) {
        let mut bytes = [0; BHS_LEN + DIGEST_LEN];
        bytes[..BHS_LEN].copy_from_slice(header);
        if self.session.header_digest && self.is_established {
            bytes[BHS_LEN..].copy_from_slice(&crc32c::checksum(header).to_le_bytes());
            sink.bytes(&bytes);
        } else {
            sink.bytes(&bytes[..BHS_LEN]);
        }
    }

    /// Sends what follows data: padding and the digest of both.
    fn emit_tail<T: TxSink<B>>(&self, padding: usize, crc: u32, sink: &mut T) {
        let mut bytes = [0; PAD + DIGEST_LEN];
        let mut len = padding;
        if self.session.data_digest && self.is_established {
            bytes[len..len + DIGEST_LEN].copy_from_slice(&crc.to_le_bytes());
            len += DIGEST_LEN;
        }
        if len > 0 {
            sink.bytes(&bytes[..len]);
        }
    }

    /// Whether nothing more is taken and only what is queued is sent.
    #[must_use]
    pub fn is_ending(&self) -> bool {
        matches!(self.phase, Phase::Ending)
    }
}

/// Sense data behind their length, as a data segment (RFC 7143, section 11.4.7.2); empty for none.
fn sense_data(sense: Option<Sense>) -> Vec<u8> {
    let Some(sense) = sense.map(|sense| sense.to_bytes()) else { return Vec::new() };
    [&(sense.len() as u16).to_be_bytes()[..], &sense].concat()
}

/// Sends a PDU without digests.
fn emit_plain<B, T: TxSink<B>>(header: &[u8], data: &[u8], sink: &mut T) {
    const { assert!(BHS_LEN == size_of::<Bhs>()) };
    sink.bytes(header);
    if !data.is_empty() {
        sink.bytes(data);
        sink.bytes(&[0; PAD][..data.len().next_multiple_of(PAD) - data.len()]);
    }
}

/// A residual as headers have it.
pub(super) fn residual(residual: Residual) -> (ResidualFlags, u32) {
    match residual {
        Residual::None => (ResidualFlags::new(), 0),
        Residual::Under(bytes) => (ResidualFlags::new().with_underflow(true), bytes),
        Residual::Over(bytes) => (ResidualFlags::new().with_overflow(true), bytes),
    }
}
