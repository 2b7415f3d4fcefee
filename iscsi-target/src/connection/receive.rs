//! The receiving side: finding PDUs in the stream, and checking them.

mod data;

use super::transmit::Item;
use super::{Connection, Phase};
use crate::io::{Buffer, Now, Surroundings};
use storage_spec::crc32c;
use storage_spec::iscsi::{
    AHS_MAX, BHS_LEN, Bhs, DIGEST_LEN, LoginStatus, Opcode, PAD, RejectReason, serial_lt,
};
use zerocopy::FromBytes;

/// Most numbers beyond the next that may be known never to come.
const SKIPPED_MAX: usize = 16;

/// What is wrong with a PDU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Violation {
    /// It is told, and thrown away.
    Reject(RejectReason),
    /// It is told, and the connection ends.
    RejectAndEnd(RejectReason),
    /// The login is refused.
    Login(LoginStatus),
    /// The connection ends without a word.
    Fatal,
}

/// Segments of a PDU after the basic header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Section {
    /// Bytes of additional header segments.
    pub(super) ahs: u32,
    /// Bytes of data without padding.
    pub(super) len: u32,
}

/// Where a numbered request stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sequence {
    /// It is the next, or immediate.
    Due,
    /// It is out of the window.
    Ignore,
    /// Others should have come before.
    Hole,
}

/// What the next byte of the stream is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Of a header.
    Header,
    /// Nothing yet: the task of the PDU waits for a buffer, until this time once it is known.
    Held(Section, Option<Now>),
    /// Data.
    Data,
    /// Padding after data.
    Padding,
    /// Data digest.
    Digest,
    /// Of no interest.
    Ignored,
}

/// Where data go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Target {
    /// The buffer of the slot, as far as they are wanted.
    Buffer,
    /// The bytes of the slot, as far as they are wanted.
    Bytes,
    /// The login request.
    Login,
    /// Away.
    Nowhere,
}

/// State of the stream.
#[derive(Debug)]
pub(super) struct Receiver {
    stage: Stage,
    /// Header with its additional segments and digest, as far as it came in pieces.
    header: Vec<u8>,
    /// The basic header of the PDU whose data are coming.
    present: [u8; BHS_LEN],
    slot: u16,
    target: Target,
    /// Where in the buffer the data of this PDU begin.
    at: usize,
    /// Data bytes of this PDU, and how many of them are kept.
    len: u32,
    keep: u32,
    /// Those that are still to come.
    left: u32,
    /// Padding still to come.
    padding: u32,
    /// Checksum of what was not kept in a buffer, and how much that was.
    loose_crc: u32,
    loose_len: u64,
    has_digest: bool,
    /// Whether the data were for a task that is gone: their digest is of no interest.
    is_disowned: bool,
    digest: [u8; DIGEST_LEN],
    digest_have: usize,
    /// Whether the buffer is with the socket.
    is_landing: bool,
    /// Bytes that have come.
    heard: u64,
}

impl Receiver {
    pub(super) fn new() -> Self {
        Self {
            stage: Stage::Header,
            header: Vec::with_capacity(BHS_LEN + DIGEST_LEN),
            present: [0; BHS_LEN],
            slot: super::slots::NONE,
            target: Target::Nowhere,
            at: 0,
            len: 0,
            keep: 0,
            left: 0,
            padding: 0,
            loose_crc: 0,
            loose_len: 0,
            has_digest: false,
            is_disowned: false,
            digest: [0; DIGEST_LEN],
            digest_have: 0,
            is_landing: false,
            heard: 0,
        }
    }

    /// Takes no interest in the stream any more.
    pub(super) fn ignore(&mut self) {
        self.stage = Stage::Ignored;
        self.slot = super::slots::NONE;
    }

    /// Whether a part of some data has come, or only their header.
    pub(super) fn is_amid_data(&self) -> bool {
        matches!(self.stage, Stage::Data | Stage::Padding | Stage::Digest)
    }

    /// Bytes that have come since the start.
    pub(super) fn heard(&self) -> u64 {
        self.heard
    }

    /// The slot whose data are coming, or wait for a buffer.
    pub(super) fn slot(&self) -> Option<u16> {
        let is_busy = self.is_amid_data() || matches!(self.stage, Stage::Held(..));
        (is_busy && self.slot != super::slots::NONE).then_some(self.slot)
    }

    /// Takes nothing before the slot has a buffer.
    pub(super) fn hold_for_buffer(&mut self, slot: u16, section: Section) {
        self.slot = slot;
        self.stage = Stage::Held(section, None);
    }

    /// The task whose data are coming, or wait for a buffer, is no more: they are thrown away. A
    /// landing that is with the socket is dropped when it returns.
    pub(super) fn disown(&mut self, has_digest: bool) {
        match self.stage {
            Stage::Held(section, _) if section.len == 0 => return self.expect_header(),
            Stage::Held(section, _) => self.expect(section, has_digest),
            _ => {}
        }
        (self.target, self.keep) = (Target::Nowhere, 0);
        self.slot = super::slots::NONE;
        self.is_disowned = true;
    }

    /// As [`Receiver::hold_for_buffer`], until then.
    pub(super) fn hold_until(&mut self, section: Section, until: Now) {
        self.stage = Stage::Held(section, Some(until));
    }

    pub(super) fn expect_header(&mut self) {
        self.stage = Stage::Header;
        self.slot = super::slots::NONE;
        self.header.clear();
    }
}

impl<B: Buffer> Connection<B> {
    /// Takes bytes of the stream, and as many of them as it can: fewer than given only when a
    /// command found no buffer ([`Connection::blocked`]). Data that were not landed are copied from
    /// here.
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
                Stage::Held(section, until) => self.retry_held(now, section, until, around),
                Stage::Data => self.take_data(&mut rest, around),
                Stage::Padding => self.take_padding(&mut rest, around),
                Stage::Digest => self.take_digest(&mut rest, around),
                Stage::Ignored => {
                    rest = &[];
                    false
                }
            };
            if !goes_on {
                let taken = bytes.len() - rest.len();
                self.receiver.heard += taken as u64;
                return taken;
            }
        }
    }

    /// Whether bytes are refused until a buffer is free.
    #[must_use]
    pub fn blocked(&self) -> bool {
        matches!(self.receiver.stage, Stage::Held(..))
    }

    /// Whether a command waits for a buffer, or for older ones: [`Connection::resume`] wants to be
    /// called when there may be one, or when they may have ended.
    #[must_use]
    pub fn starved(&self) -> bool {
        !self.waiting.is_empty() || self.turns > 0 || self.blocked()
    }

    /// Goes on with commands that waited for a buffer, or for older ones.
    pub fn resume<S: Surroundings<Buf = B>>(&mut self, now: Now, around: &mut S) {
        self.take_turns(around);
        while let Some(&slot) = self.waiting.front() {
            if !self.retry_waiting(slot, around) {
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
        if self.receiver.header.is_empty() && rest.len() >= BHS_LEN {
            let need = self.header_len(&rest[..BHS_LEN]);
            if rest.len() >= need {
                let (header, after) = rest.split_at(need);
                *rest = after;
                self.process(now, header, around);
                return true;
            }
        }
        let mut header = core::mem::take(&mut self.receiver.header);
        let mut need = self.known_len(&header);
        while header.len() < need {
            let count = rest.len().min(need - header.len());
            if count == 0 {
                self.receiver.header = header;
                return false;
            }
            let (taken, after) = rest.split_at(count);
            *rest = after;
            header.extend_from_slice(taken);
            need = self.known_len(&header);
        }
        self.process(now, &header, around);
        header.clear();
        self.receiver.header = header;
        true
    }

    /// What is known of the length of a header of which a part has come.
    fn known_len(&self, part: &[u8]) -> usize {
        if part.len() < BHS_LEN { BHS_LEN } else { self.header_len(part) }
    }

    /// Length of a header with additional segments and digest.
    fn header_len(&self, bytes: &[u8]) -> usize {
        const { assert!(AHS_MAX == u8::MAX as usize * PAD) };
        let bhs = Bhs::ref_from_bytes(&bytes[..BHS_LEN]).expect("the length is that of the header");
        let digest = if self.has_header_digest() { DIGEST_LEN } else { 0 };
        BHS_LEN + usize::from(bhs.ahs_words) * PAD + digest
    }

    fn has_header_digest(&self) -> bool {
        self.is_established && self.session.header_digest
    }

    /// Acts on a whole header.
    fn process<S: Surroundings<Buf = B>>(&mut self, now: Now, header: &[u8], around: &mut S) {
        let header = match self.has_header_digest() {
            false => header,
            true => {
                let (header, digest) = header.split_at(header.len() - DIGEST_LEN);
                let received =
                    u32::from_le_bytes(digest.try_into().expect("a digest follows the header"));
                if crc32c::checksum(header) != received {
                    // Nothing of it can be trusted, its length neither.
                    self.counters.header_digest_errors += 1;
                    self.end();
                    return;
                }
                header
            }
        };
        let (bhs, ahs) = header.split_at(BHS_LEN);
        let common = Bhs::ref_from_bytes(bhs).expect("the length is that of the header");
        let section = Section { ahs: ahs.len() as u32, len: common.data_len.get() };
        self.receiver.present.copy_from_slice(bhs);
        self.receiver.expect_header();
        let outcome = match self.phase {
            Phase::Login(_) => self.on_login(bhs, section),
            _ if section.len > self.config.receive_max => {
                Err(Violation::RejectAndEnd(RejectReason::InvalidField))
            }
            _ => self.dispatch(now, common, bhs, ahs, section, around),
        };
        if let Err(violation) = outcome {
            self.violated(violation, section);
        }
    }

    fn dispatch<S: Surroundings<Buf = B>>(
        &mut self,
        now: Now,
        common: &Bhs,
        bhs: &[u8],
        ahs: &[u8],
        section: Section,
        around: &mut S,
    ) -> Result<(), Violation> {
        let opcode = common.opcode();
        if section.ahs > 0 && opcode != Opcode::ScsiCommand {
            return Err(Violation::Reject(RejectReason::InvalidField));
        }
        match opcode {
            Opcode::ScsiCommand => self.on_command(bhs, ahs, section, around),
            Opcode::DataOut => self.on_data_out(bhs, section),
            Opcode::NopOut => self.on_nop_out(now, bhs, section),
            Opcode::TaskManagementRequest => self.on_management(bhs, section),
            Opcode::TextRequest => self.on_text(bhs, section),
            Opcode::LogoutRequest => self.on_logout(bhs, section),
            Opcode::LoginRequest => Err(Violation::RejectAndEnd(RejectReason::Protocol)),
            Opcode::Snack => Err(Violation::Reject(RejectReason::Snack)),
            _ => Err(Violation::Reject(RejectReason::NotSupported)),
        }
    }

    /// Where a request with this number stands.
    pub(super) fn sequence(&self, is_immediate: bool, sn: u32) -> Sequence {
        let next = self.expected_command_sn;
        if is_immediate || sn == next {
            let is_open = !serial_lt(self.command_sn_max, next);
            return if is_immediate || is_open { Sequence::Due } else { Sequence::Ignore };
        }
        if serial_lt(sn, next) || serial_lt(self.command_sn_max, sn) {
            Sequence::Ignore
        } else {
            Sequence::Hole
        }
    }

    /// The next number has come, and perhaps numbers after it will not.
    pub(super) fn advance_command_sn(&mut self) {
        self.expected_command_sn = self.expected_command_sn.wrapping_add(1);
        while let Some(at) = self.skipped.iter().position(|sn| *sn == self.expected_command_sn) {
            self.skipped.swap_remove(at);
            self.expected_command_sn = self.expected_command_sn.wrapping_add(1);
        }
    }

    /// A number of the window will not come: its task was aborted before it did. Whether it was in
    /// the window.
    pub(super) fn skip_command_sn(&mut self, sn: u32) -> bool {
        let is_within =
            !serial_lt(sn, self.expected_command_sn) && !serial_lt(self.command_sn_max, sn);
        if is_within && sn == self.expected_command_sn {
            self.advance_command_sn();
        } else if is_within && !self.skipped.contains(&sn) {
            if self.skipped.len() == SKIPPED_MAX {
                return false;
            }
            self.skipped.push(sn);
        }
        is_within
    }

    /// The initiator broke the protocol.
    fn violated(&mut self, violation: Violation, section: Section) {
        match violation {
            Violation::Fatal => self.end(),
            Violation::Login(status) => self.refuse_login(status),
            Violation::Reject(reason) => {
                self.expect_nothing(section);
                self.reject(reason);
            }
            Violation::RejectAndEnd(reason) => {
                self.reject(reason);
                if self.is_live() {
                    self.end_softly();
                }
            }
        }
    }

    /// Tells the initiator that the present PDU is refused.
    pub(super) fn reject(&mut self, reason: RejectReason) {
        self.counters.rejects += 1;
        let header = self.receiver.present;
        self.send(Item::Reject(reason, header));
    }
}
