//! The sending side: which PDUs are due, and how they look.

use super::errors::is_logged;
use super::header::Violation;
use super::slots::{Kind, State};
use super::{Connection, Phase};
use crate::io::digest::digest;
use crate::io::{Buffer, TxSink};
use crate::seam::CommandError;
use std::collections::VecDeque;
use storage_spec::crc32c;
use storage_spec::nvme::command::Completion;
use storage_spec::nvme::status::Status;
use storage_spec::nvme_tcp::{
    CapsuleResp, CommonHeader, DIGEST_LEN, DataHeader, IC_LEN, IcResp, PduFlags, PduType, R2t,
    SHORT_LEN, TERM_DATA_MAX, TermReq,
};
use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromZeros, IntoBytes};

/// Data of the target in one C2HData PDU: they are copied to the sink.
const COPIED_MAX: usize = 4096;

/// Largest offset of data within a PDU.
const DATA_OFFSET_MAX: usize = 128;

/// What waits to be sent.
#[derive(Debug)]
pub(super) struct Sender {
    ic_resp: bool,
    term_req: Option<Box<Termination>>,
    /// Slots in `R2tQueued` or `Responding`, each at most once.
    queue: VecDeque<u16>,
}

#[derive(Debug)]
struct Termination {
    header: TermReq,
    offending: [u8; TERM_DATA_MAX],
    offending_len: usize,
}

impl Sender {
    pub(super) fn new(slots: u16) -> Self {
        let queue = VecDeque::with_capacity(usize::from(slots));
        Self { ic_resp: false, term_req: None, queue }
    }

    /// Makes room for as many slots.
    pub(super) fn reserve(&mut self, slots: usize) {
        self.queue.reserve(slots - self.queue.len());
    }

    pub(super) fn queue(&mut self, slot: u16) {
        self.queue.push_back(slot);
    }

    pub(super) fn send_ic_resp(&mut self) {
        self.ic_resp = true;
    }

    pub(super) fn send_term_req(&mut self, violation: Violation, offending: &[u8]) {
        let mut header = TermReq::new_zeroed();
        header.common = CommonHeader {
            pdu_type: PduType::C2hTermReq.0,
            flags: 0,
            header_len: SHORT_LEN as u8,
            data_offset: 0,
            pdu_len: U32::new((SHORT_LEN + offending.len()) as u32),
        };
        header.status = U16::new(violation.status.0);
        header.information = U32::new(violation.information);
        let mut copy = [0; TERM_DATA_MAX];
        copy[..offending.len()].copy_from_slice(offending);
        let offending_len = offending.len();
        self.term_req = Some(Box::new(Termination { header, offending: copy, offending_len }));
    }

    pub(super) fn drop_commands(&mut self) {
        self.queue.clear();
    }

    pub(super) fn clear(&mut self) {
        self.queue.clear();
        self.ic_resp = false;
        self.term_req = None;
    }
}

impl<B: Buffer> Connection<B> {
    /// Whether [`Connection::transmit`] has something to send.
    #[must_use]
    pub fn wants_transmit(&self) -> bool {
        let sender = &self.sender;
        !sender.queue.is_empty() || sender.ic_resp || sender.term_req.is_some()
    }

    /// Gives PDUs to the sink, in order, while it has room.
    pub fn transmit<T: TxSink<B>>(&mut self, sink: &mut T) {
        if !self.wants_transmit() {
            return;
        }
        if self.sender.ic_resp && sink.has_room() {
            self.sender.ic_resp = false;
            self.emit_ic_resp(sink);
        }
        if self.sender.ic_resp {
            return;
        }
        while let Some(&slot) = self.sender.queue.front() {
            if !sink.has_room() {
                return;
            }
            self.emit(slot, sink);
        }
        if sink.has_room()
            && let Some(termination) = self.sender.term_req.take()
        {
            sink.bytes(termination.header.as_bytes());
            sink.bytes(&termination.offending[..termination.offending_len]);
        }
    }

    fn emit_ic_resp<T: TxSink<B>>(&self, sink: &mut T) {
        let mut response = IcResp::new_zeroed();
        response.common.pdu_type = PduType::IcResp.0;
        response.common.header_len = IC_LEN as u8;
        response.common.pdu_len = U32::new(IC_LEN as u32);
        response.digests = u8::from(self.digests);
        response.h2c_data_max = U32::new(self.config.h2c_data_max);
        sink.bytes(response.as_bytes());
    }

    /// Sends the next PDU of a slot, which is the first in the queue.
    fn emit<T: TxSink<B>>(&mut self, slot: u16, sink: &mut T) {
        let entry = &mut self.slots[slot];
        match entry.state {
            State::R2tQueued if entry.status.is_success() => {
                entry.state = State::AwaitingData;
                entry.awaited_since = None;
                self.awaiting_data += 1;
                self.sender.queue.pop_front();
                self.emit_r2t(slot, sink);
            }
            State::R2tQueued => {
                // Doomed before its data were asked for.
                self.sender.queue.pop_front();
                self.conclude_failed(slot);
            }
            State::Responding if entry.kind == Kind::Read && entry.buf.is_some() => {
                self.emit_read(slot, sink);
            }
            State::Responding if (entry.moved as usize) < entry.bytes.len() => {
                self.emit_copied(slot, sink);
            }
            State::Responding => self.emit_response(slot, sink),
            state => unreachable!("a slot in {state:?} is not in the send queue"),
        }
    }

    fn emit_r2t<T: TxSink<B>>(&mut self, slot: u16, sink: &mut T) {
        self.counters.r2ts += 1;
        let entry = &self.slots[slot];
        let mut pdu = R2t::new_zeroed();
        pdu.common = self.common(PduType::R2t, PduFlags::new());
        pdu.command_id = U16::new(entry.command_id);
        pdu.transfer_tag = U16::new(slot);
        pdu.len = U32::new(entry.transfer);
        self.emit_header(pdu.as_bytes(), sink);
    }

    /// Sends all data of a read in one PDU, and by it the response where the queue allows.
    fn emit_read<T: TxSink<B>>(&mut self, slot: u16, sink: &mut T) {
        let is_response = self.may_omit_response(slot);
        let entry = &mut self.slots[slot];
        let buf = entry.buf.take().expect("the caller has seen it");
        let (command_id, len) = (entry.command_id, entry.transfer);
        let start = usize::from(entry.head);
        let run = start..start + len as usize;
        let flags = PduFlags::new().with_last(true).with_success(is_response);
        self.emit_data_header(command_id, flags, 0..len, sink);
        let crc = self.digests.data().then(|| {
            // The store has checksums of all pages that the read touches.
            let digest = digest(&buf, &(0..buf.bytes().len()), run.clone());
            self.counters.digest_second_pass += u64::from(digest.second_pass);
            digest.crc
        });
        self.in_sink += self.slots.discharge(slot);
        sink.data(buf, run);
        if let Some(crc) = crc {
            sink.bytes(&crc.to_le_bytes());
        }
        self.counters.bytes_read += u64::from(len);
        if is_response {
            self.finish(slot);
        }
    }

    /// Sends the next part of the target's data.
    fn emit_copied<T: TxSink<B>>(&mut self, slot: u16, sink: &mut T) {
        let is_success_allowed = self.may_omit_response(slot);
        let entry = &mut self.slots[slot];
        let start = entry.moved as usize;
        let end = entry.bytes.len().min(start + COPIED_MAX);
        let is_last = end == entry.bytes.len();
        let is_response = is_last && is_success_allowed;
        entry.moved = end as u32;
        let command_id = entry.command_id;
        let flags = PduFlags::new().with_last(is_last).with_success(is_response);
        self.emit_data_header(command_id, flags, start as u32..end as u32, sink);
        let data = &self.slots[slot].bytes[start..end];
        sink.bytes(data);
        if self.digests.data() {
            sink.bytes(&crc32c::checksum(data).to_le_bytes());
        }
        if is_response {
            self.finish(slot);
        }
    }

    fn emit_response<T: TxSink<B>>(&mut self, slot: u16, sink: &mut T) {
        let entry = &self.slots[slot];
        let mut status = entry.status;
        // Without a controller there is no log.
        if self.queue.is_some() && is_logged(status) {
            let (command_id, namespace_id, lba) = (entry.command_id, entry.namespace_id, entry.lba);
            self.errors.note(CommandError { command_id, status, namespace_id, lba });
            status = status.with_more(true);
        }
        let flow_control = self.queue.as_ref().is_none_or(|queue| !queue.flow_control_disabled);
        let sq_head = if flow_control { self.sq_head } else { u16::MAX };
        let completion = Completion::new(entry.command_id, status, entry.result, sq_head);
        let common = self.common(PduType::CapsuleResp, PduFlags::new());
        self.emit_header(CapsuleResp { common, completion }.as_bytes(), sink);
        self.finish(slot);
    }

    /// Whether the SUCCESS flag may stand for the response: only without SQ flow control, since the
    /// flag carries no SQ head, and only if there is nothing else to say.
    fn may_omit_response(&self, slot: u16) -> bool {
        let entry = &self.slots[slot];
        self.queue.as_ref().is_some_and(|queue| queue.flow_control_disabled)
            && entry.status == Status::SUCCESS
            && entry.result == 0
    }

    /// The command at the front of the queue has been answered.
    fn finish(&mut self, slot: u16) {
        self.sender.queue.pop_front();
        self.slots.release(slot);
    }

    /// The common header of a PDU with a short header and no data.
    fn common(&self, pdu_type: PduType, flags: PduFlags) -> CommonHeader {
        let digest_len = if self.digests.header() { DIGEST_LEN } else { 0 };
        CommonHeader {
            pdu_type: pdu_type.0,
            flags: u8::from(flags.with_header_digest(self.digests.header())),
            header_len: SHORT_LEN as u8,
            data_offset: 0,
            pdu_len: U32::new((SHORT_LEN + digest_len) as u32),
        }
    }

    /// Sends a header of a PDU without data, and its digest.
    fn emit_header<T: TxSink<B>>(&self, header: &[u8], sink: &mut T) {
        let mut bytes = [0; SHORT_LEN + DIGEST_LEN];
        bytes[..SHORT_LEN].copy_from_slice(header);
        if self.digests.header() {
            bytes[SHORT_LEN..].copy_from_slice(&crc32c::checksum(header).to_le_bytes());
            sink.bytes(&bytes);
        } else {
            sink.bytes(&bytes[..SHORT_LEN]);
        }
    }

    /// Sends the header of a C2HData PDU, its digest, and the padding that the host asked for.
    fn emit_data_header<T: TxSink<B>>(
        &self,
        command_id: u16,
        flags: PduFlags,
        range: core::ops::Range<u32>,
        sink: &mut T,
    ) {
        let flags = flags.with_data_digest(self.digests.data());
        let mut pdu = DataHeader::new_zeroed();
        pdu.common = self.common(PduType::C2hData, flags);
        let data_offset = (pdu.common.pdu_len.get() as usize).next_multiple_of(self.host_alignment);
        let len = range.end - range.start;
        let digest_len = if self.digests.data() { DIGEST_LEN as u32 } else { 0 };
        pdu.common.data_offset = data_offset as u8;
        pdu.common.pdu_len = U32::new(data_offset as u32 + len + digest_len);
        pdu.command_id = U16::new(command_id);
        pdu.data_offset = U32::new(range.start);
        pdu.data_len = U32::new(len);
        let mut bytes = [0; DATA_OFFSET_MAX];
        bytes[..SHORT_LEN].copy_from_slice(pdu.as_bytes());
        if self.digests.header() {
            let crc = crc32c::checksum(&bytes[..SHORT_LEN]).to_le_bytes();
            bytes[SHORT_LEN..SHORT_LEN + DIGEST_LEN].copy_from_slice(&crc);
        }
        sink.bytes(&bytes[..data_offset]);
    }

    /// Whether everything that was to be sent before closing has been given to the sink.
    #[must_use]
    pub fn is_terminating(&self) -> bool {
        matches!(self.phase, Phase::Terminating)
    }
}
