//! Requests that are no SCSI commands: pings, text, logout.

use super::receive::{Section, Sequence, Target, Violation};
use super::slots::{Kind, State};
use super::transmit::Item;
use super::{Connection, SessionKind};
use crate::io::{Buffer, Now};
use crate::scsi::DataIn;
use crate::seam::{Event, Slot, TEXT_MAX};
use storage_spec::iscsi::{
    BHS_LEN, Bhs, CONTINUE, FINAL, LogoutRequest, NopOut, Opcode, RejectReason, TAG_NONE,
    TextRequest,
};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

/// Most ping data that are sent back.
const PING_MAX: u32 = 4096;

/// Responses to logout (RFC 7143, section 11.15.1).
const LOGGED_OUT: u8 = 0;
const NO_SUCH_CONNECTION: u8 = 1;
const RECOVERY_NOT_SUPPORTED: u8 = 2;

/// How a text exchange goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Exchange {
    /// The initiator's text goes on in its next request.
    pub(super) is_more: bool,
    /// The initiator has no more to say.
    pub(super) is_final: bool,
}

impl<B: Buffer> Connection<B> {
    /// Takes a NOP-Out.
    pub(super) fn on_nop_out(
        &mut self,
        now: Now,
        header: &[u8],
        section: Section,
    ) -> Result<(), Violation> {
        let pdu = NopOut::ref_from_bytes(header).expect("the length is that of the structure");
        if pdu.task_tag.get() == TAG_NONE {
            if self.ping == Some(pdu.transfer_tag.get()) {
                self.expect_life(now);
            }
            self.expect_nothing(section);
            return Ok(());
        }
        let Some(slot) = self.take_slot(header, section)? else { return Ok(()) };
        let send_max = self.session.send_max;
        let entry = &mut self.slots[slot];
        entry.kind = Kind::Ping;
        entry.lun = pdu.lun;
        entry.wanted = section.len.min(send_max).min(PING_MAX);
        if section.len == 0 {
            self.respond(slot);
        } else {
            entry.bytes = Vec::with_capacity(entry.wanted as usize);
            self.expect_data(slot, Target::Bytes, section);
        }
        Ok(())
    }

    /// Takes a text request.
    pub(super) fn on_text(&mut self, header: &[u8], section: Section) -> Result<(), Violation> {
        let pdu = TextRequest::ref_from_bytes(header).expect("the length is that of the structure");
        let exchange =
            Exchange { is_more: pdu.flags & CONTINUE != 0, is_final: pdu.flags & FINAL != 0 };
        let slot = match pdu.transfer_tag.get() {
            TAG_NONE => {
                let Some(slot) = self.take_slot(header, section)? else { return Ok(()) };
                self.begin_text(slot)?;
                slot
            }
            tag => match self.continue_text(pdu, tag)? {
                Some(slot) => slot,
                None => {
                    self.expect_nothing(section);
                    return Ok(());
                }
            },
        };
        let entry = &mut self.slots[slot];
        entry.kind = Kind::Text(exchange);
        entry.state = State::Receiving;
        let total = entry.bytes.len() + section.len as usize;
        if total > TEXT_MAX || (exchange.is_more && exchange.is_final) {
            self.forget_request(slot);
            return Err(Violation::Reject(RejectReason::Protocol));
        }
        entry.moved = entry.bytes.len() as u32;
        entry.wanted = total as u32;
        if section.len == 0 {
            self.request_complete(slot);
        } else {
            self.expect_data(slot, Target::Bytes, section);
        }
        Ok(())
    }

    /// One text exchange at a time: a new one ends what the initiator has left.
    fn begin_text(&mut self, slot: u16) -> Result<(), Violation> {
        if let Some(other) = self.text {
            if self.slots[other].state != State::AwaitingRequest {
                self.slots.release(slot);
                return Err(Violation::Reject(RejectReason::Protocol));
            }
            self.slots.release(other);
        }
        self.text = Some(slot);
        Ok(())
    }

    /// The slot of the exchange that a request goes on with; none if it is to be ignored.
    fn continue_text(&mut self, pdu: &TextRequest, tag: u32) -> Result<Option<u16>, Violation> {
        let is_immediate = storage_spec::iscsi::OpcodeByte::from(pdu.opcode).immediate();
        match self.sequence(is_immediate, pdu.command_sn.get()) {
            Sequence::Due if !is_immediate => self.advance_command_sn(),
            Sequence::Due => {}
            Sequence::Ignore => return Ok(None),
            Sequence::Hole => return Err(Violation::RejectAndEnd(RejectReason::Protocol)),
        }
        let slot = self.text.filter(|slot| {
            let entry = &self.slots[*slot];
            let names = (entry.tag, entry.transfer_tag);
            entry.state == State::AwaitingRequest && names == (pdu.task_tag.get(), tag)
        });
        slot.map(Some).ok_or(Violation::Reject(RejectReason::Protocol))
    }

    /// The data of a request that is no command have come.
    pub(super) fn request_complete(&mut self, slot: u16) {
        let entry = &mut self.slots[slot];
        let exchange = match entry.kind {
            Kind::Text(exchange) => exchange,
            _ => return self.respond(slot),
        };
        if exchange.is_more {
            // Nothing to say before all of it is here.
            (entry.deliver, entry.delivered) = (0, 0);
            return self.respond(slot);
        }
        if entry.delivered < entry.deliver || (entry.bytes.is_empty() && exchange.is_final) {
            // It wants the rest of what it has been told a part of, or nothing more.
            return self.respond(slot);
        }
        entry.state = State::WithTarget;
        let text = core::mem::take(&mut entry.bytes);
        self.events.push_back(Event::Text { slot: Slot(slot), text });
    }

    /// The target's answer to a text request.
    pub(super) fn text_replied(&mut self, slot: u16, text: Option<Vec<u8>>) {
        let entry = &mut self.slots[slot];
        assert!(entry.state == State::WithTarget, "an event is replied to once");
        let Some(text) = text else {
            let mut header = Bhs::new_zeroed();
            header.opcode = Opcode::TextRequest.0;
            header.flags = FINAL;
            header.task_tag = entry.tag.into();
            let header: [u8; BHS_LEN] =
                header.as_bytes().try_into().expect("the length is that of the header");
            self.forget_request(slot);
            self.counters.rejects += 1;
            self.send(Item::Reject(RejectReason::Protocol, header));
            return;
        };
        entry.deliver = text.len() as u32;
        entry.delivered = 0;
        entry.data = DataIn::Bytes(text);
        self.respond(slot);
    }

    /// Takes a logout request.
    pub(super) fn on_logout(&mut self, header: &[u8], section: Section) -> Result<(), Violation> {
        let pdu =
            LogoutRequest::ref_from_bytes(header).expect("the length is that of the structure");
        let Some(slot) = self.take_slot(header, section)? else { return Ok(()) };
        let response = match pdu.reason & 0x7F {
            0 => LOGGED_OUT,
            1 if pdu.connection_id.get() == self.connection_id => LOGGED_OUT,
            1 => NO_SUCH_CONNECTION,
            2 => RECOVERY_NOT_SUPPORTED,
            _ => {
                self.slots.release(slot);
                return Err(Violation::Reject(RejectReason::InvalidField));
            }
        };
        self.expect_nothing(section);
        self.slots[slot].kind = Kind::Logout(response);
        if response == LOGGED_OUT && self.session.kind == SessionKind::Normal {
            self.abort_all(slot);
        } else {
            self.respond(slot);
        }
        Ok(())
    }

    /// A request was of no use: it is as if it had not come.
    pub(super) fn forget_request(&mut self, slot: u16) {
        if self.text == Some(slot) {
            self.text = None;
        }
        self.slots.release(slot);
    }
}
