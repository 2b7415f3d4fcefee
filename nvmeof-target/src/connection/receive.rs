//! The receiving side: finding PDUs in the stream, and checking them.

mod data;

use super::header::Violation;
use super::slots::{Kind, NONE, State};
use super::{Connection, Phase, TERMINATION_TIMEOUT};
use crate::io::{Buffer, Now, Surroundings};
use core::mem::offset_of;
use storage_spec::nvme_tcp::{
    CAPSULE_CMD_LEN, CapsuleCmd, CommonHeader, DATA_ALIGNMENT_MAX, DIGEST_LEN, DataHeader, Digests,
    FatalError, IC_LEN, IcReq, PduFlags, PduType, SHORT_LEN, TERM_DATA_MAX,
};
use zerocopy::FromBytes;

const COMMON_LEN: usize = size_of::<CommonHeader>();
const HEADER_MAX: usize = IC_LEN + DIGEST_LEN;

/// What the next byte of the stream is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Of a header.
    Header,
    /// Nothing yet: the header held waits for a slot or a buffer.
    Blocked,
    /// Padding before data.
    Padding,
    /// Data.
    Data,
    /// Data digest.
    Digest,
    /// Of no interest.
    Ignored,
}

/// Where data go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Target {
    /// The buffer of the slot.
    Buffer,
    /// The bytes of the slot.
    Bytes,
    /// Away: the command was refused.
    Nowhere,
}

/// State of the stream.
#[derive(Debug)]
pub(super) struct Receiver {
    stage: Stage,
    header: [u8; HEADER_MAX],
    have: usize,
    /// Length of the header with its digest, once the first bytes have told it.
    need: usize,
    /// Whether the blocked command is to be aborted once it can be answered.
    abort: bool,
    slot: u16,
    target: Target,
    padding: u32,
    /// Where in the buffer the data of this PDU begin.
    at: usize,
    /// Data bytes of this PDU.
    len: u32,
    /// Those that are still to come.
    left: u32,
    has_digest: bool,
    digest: [u8; DIGEST_LEN],
    digest_have: usize,
    /// Whether the buffer is with the socket.
    is_landing: bool,
    /// Bytes of data that have come.
    received: u64,
}

impl Receiver {
    pub(super) fn new() -> Self {
        Self {
            stage: Stage::Header,
            header: [0; HEADER_MAX],
            have: 0,
            need: COMMON_LEN,
            abort: false,
            slot: NONE,
            target: Target::Nowhere,
            padding: 0,
            at: 0,
            len: 0,
            left: 0,
            has_digest: false,
            digest: [0; DIGEST_LEN],
            digest_have: 0,
            is_landing: false,
            received: 0,
        }
    }

    /// Takes no interest in the stream any more.
    pub(super) fn ignore(&mut self) {
        self.stage = Stage::Ignored;
        self.slot = NONE;
    }

    /// Marks the blocked command for abortion if it has this identifier.
    pub(super) fn abort_blocked(&mut self, command_id: u16) -> bool {
        if self.stage != Stage::Blocked || self.abort {
            return false;
        }
        let pdu = CapsuleCmd::ref_from_bytes(&self.header[..CAPSULE_CMD_LEN])
            .expect("the length is that of the structure");
        self.abort = pdu.command.command_id.get() == command_id;
        self.abort
    }

    /// Whether a part of some data has come, or only their header.
    pub(super) fn is_amid_data(&self) -> bool {
        matches!(self.stage, Stage::Padding | Stage::Data | Stage::Digest)
    }

    /// Bytes of data that have come since the start.
    pub(super) fn received(&self) -> u64 {
        self.received
    }

    fn expect_header(&mut self) {
        self.stage = Stage::Header;
        self.have = 0;
        self.need = COMMON_LEN;
    }

    fn hold(&mut self, header: &[u8]) {
        self.header[..header.len()].copy_from_slice(header);
        self.have = header.len();
        self.need = header.len();
        self.stage = Stage::Blocked;
    }
}

impl<B: Buffer> Connection<B> {
    /// Takes bytes of the stream, and as many of them as it can: fewer than given only when a
    /// command found no slot or no buffer ([`Connection::blocked`]). Data that were not landed are
    /// copied from here.
    pub fn receive<S: Surroundings<Buf = B>>(
        &mut self,
        now: Now,
        bytes: &[u8],
        around: &mut S,
    ) -> usize {
        assert!(!self.receiver.is_landing, "bytes that landed come before those that were staged");
        let mut rest = bytes;
        loop {
            let goes_on = match self.receiver.stage {
                Stage::Header => self.take_header(now, &mut rest, around),
                Stage::Blocked => self.retry_header(now, around),
                Stage::Padding => self.skip_padding(&mut rest),
                Stage::Data => self.take_data(&mut rest, around),
                Stage::Digest => self.take_digest(&mut rest, around),
                Stage::Ignored => {
                    rest = &[];
                    false
                }
            };
            if !goes_on {
                return bytes.len() - rest.len();
            }
        }
    }

    /// Whether bytes are refused until a slot or a buffer is free.
    #[must_use]
    pub fn blocked(&self) -> bool {
        self.receiver.stage == Stage::Blocked
    }

    /// Whether a command waits for a buffer: [`Connection::resume`] wants to be called when there
    /// may be one.
    #[must_use]
    pub fn starved(&self) -> bool {
        !self.waiting.is_empty() || self.blocked()
    }

    /// Goes on with commands that waited for a buffer or a slot.
    pub fn resume<S: Surroundings<Buf = B>>(&mut self, now: Now, around: &mut S) {
        while let Some(&slot) = self.waiting.front() {
            if !self.retry_buffer(slot, around) {
                break;
            }
        }
        if self.blocked() && !self.receiver.is_landing {
            self.receive(now, &[], around);
        }
    }

    fn take_header<S: Surroundings<Buf = B>>(
        &mut self,
        now: Now,
        rest: &mut &[u8],
        around: &mut S,
    ) -> bool {
        if self.receiver.have == 0 && rest.len() >= COMMON_LEN {
            match self.header_len(&rest[..COMMON_LEN]) {
                Err(violation) => self.violated(now, violation, rest),
                Ok(need) if rest.len() >= need => {
                    let (header, after) = rest.split_at(need);
                    *rest = after;
                    return self.process(now, header, around);
                }
                Ok(need) => self.receiver.need = need,
            }
            if self.receiver.stage != Stage::Header {
                return true;
            }
        }
        let receiver = &mut self.receiver;
        let count = rest.len().min(receiver.need - receiver.have);
        let (taken, after) = rest.split_at(count);
        *rest = after;
        receiver.header[receiver.have..receiver.have + count].copy_from_slice(taken);
        receiver.have += count;
        if receiver.have < receiver.need {
            return false;
        }
        let header = receiver.header;
        if receiver.need == COMMON_LEN {
            match self.header_len(&header[..COMMON_LEN]) {
                Err(violation) => self.violated(now, violation, &header[..COMMON_LEN]),
                Ok(need) => self.receiver.need = need,
            }
            return true;
        }
        let need = receiver.need;
        self.process(now, &header[..need], around)
    }

    fn retry_header<S: Surroundings<Buf = B>>(&mut self, now: Now, around: &mut S) -> bool {
        let header = self.receiver.header;
        self.process(now, &header[..self.receiver.have], around)
    }

    /// Acts on a whole header; false when it must wait.
    fn process<S: Surroundings<Buf = B>>(
        &mut self,
        now: Now,
        header: &[u8],
        around: &mut S,
    ) -> bool {
        let outcome = match PduType(header[0]) {
            PduType::IcReq => self.on_ic_req(now, header),
            PduType::H2cTermReq => {
                self.counters.term_requests_received += 1;
                self.end();
                Ok(true)
            }
            PduType::CapsuleCmd => self.on_capsule(now, header, around),
            _ => self.on_h2c_data(header),
        };
        match outcome {
            Ok(true) => true,
            Ok(false) => {
                self.receiver.hold(header);
                false
            }
            Err(violation) => {
                self.violated(now, violation, header);
                true
            }
        }
    }

    fn on_ic_req(&mut self, now: Now, header: &[u8]) -> Result<bool, Violation> {
        let request = IcReq::ref_from_bytes(header).expect("the length is that of the structure");
        if request.format_version.get() != 0 {
            let information = offset_of!(IcReq, format_version) as u32;
            return Err(Violation { status: FatalError::UnsupportedParameter, information });
        }
        if request.host_data_alignment > DATA_ALIGNMENT_MAX {
            return Err(Violation::field(offset_of!(IcReq, host_data_alignment)));
        }
        let wanted = Digests::from(request.digests);
        self.digests = Digests::new()
            .with_header(wanted.header() && self.config.header_digest)
            .with_data(wanted.data() && self.config.data_digest);
        self.host_alignment = (usize::from(request.host_data_alignment) + 1) * 4;
        self.phase = Phase::AwaitConnect { pending: None };
        self.deadline = Some(now + self.config.connect_timeout);
        self.sender.send_ic_resp();
        self.receiver.expect_header();
        Ok(true)
    }

    fn on_capsule<S: Surroundings<Buf = B>>(
        &mut self,
        now: Now,
        header: &[u8],
        around: &mut S,
    ) -> Result<bool, Violation> {
        self.check_header_digest(header, CAPSULE_CMD_LEN)?;
        let pdu = CapsuleCmd::ref_from_bytes(&header[..CAPSULE_CMD_LEN])
            .expect("the length is that of the structure");
        let section = self.section(&pdu.common, header.len())?;
        if section.len > self.capsule_data_max(&pdu.command) {
            return Err(Violation::of(FatalError::LimitExceeded));
        }
        let abort = self.receiver.abort;
        let Some(slot) = self.accept(now, &pdu.command, section.len, abort, around) else {
            return Ok(false);
        };
        self.receiver.abort = false;
        self.receiver.expect_header();
        if section.len > 0 {
            let entry = &self.slots[slot];
            let target = match entry.kind {
                Kind::Refused => Target::Nowhere,
                Kind::Event => Target::Bytes,
                _ => Target::Buffer,
            };
            self.expect_data(slot, target, section);
        }
        Ok(true)
    }

    fn on_h2c_data(&mut self, header: &[u8]) -> Result<bool, Violation> {
        self.check_header_digest(header, SHORT_LEN)?;
        let pdu = DataHeader::ref_from_bytes(&header[..SHORT_LEN])
            .expect("the length is that of the structure");
        let section = self.section(&pdu.common, header.len())?;
        let slot = pdu.transfer_tag.get();
        let is_awaited =
            usize::from(slot) < self.slots.len() && self.slots[slot].state == State::AwaitingData;
        if !is_awaited {
            return Err(Violation::field(offset_of!(DataHeader, transfer_tag)));
        }
        let entry = &self.slots[slot];
        if entry.command_id != pdu.command_id.get() {
            return Err(Violation::field(offset_of!(DataHeader, command_id)));
        }
        let len = pdu.data_len.get();
        if len == 0 {
            return Err(Violation::field(offset_of!(DataHeader, data_len)));
        }
        if len > self.config.h2c_data_max {
            return Err(Violation::of(FatalError::LimitExceeded));
        }
        let left = entry.transfer - entry.moved;
        if pdu.data_offset.get() != entry.moved || len > left {
            return Err(Violation::of(FatalError::DataOutOfRange));
        }
        if section.len != len {
            return Err(Violation::field(offset_of!(CommonHeader, pdu_len)));
        }
        if PduFlags::from(pdu.common.flags).last() != (len == left) {
            return Err(Violation::field(offset_of!(CommonHeader, flags)));
        }
        let target = match entry.kind {
            Kind::Event => Target::Bytes,
            _ => Target::Buffer,
        };
        self.receiver.expect_header();
        self.expect_data(slot, target, section);
        Ok(true)
    }

    /// The host broke the protocol: says so, and listens no more.
    fn violated(&mut self, now: Now, violation: Violation, header: &[u8]) {
        self.counters.term_requests_sent += 1;
        let len = match header.get(offset_of!(CommonHeader, header_len)) {
            Some(&len) => usize::from(len).max(COMMON_LEN).min(header.len()).min(TERM_DATA_MAX),
            None => 0,
        };
        self.phase = Phase::Terminating;
        self.deadline = Some(now + TERMINATION_TIMEOUT);
        self.drop_commands();
        self.sender.send_term_req(violation, &header[..len]);
    }
}
