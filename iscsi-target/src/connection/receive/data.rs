//! Data of PDUs: landing them, sealing their pages, checking their digests.

use super::{Receiver, Section, Stage, Target, Violation};
use crate::connection::command::DataFault;
use crate::connection::slots::{NONE, State};
use crate::connection::{Connection, Phase};
use crate::io::digest::{digest, seal_pages};
use crate::io::{Buffer, Surroundings};
use core::ops::Range;
use storage_spec::crc32c;
use storage_spec::iscsi::{DIGEST_LEN, DataOut, FINAL, PAD, RejectReason};
use zerocopy::FromBytes;

impl Receiver {
    /// Data of a PDU follow, which nobody wants so far.
    pub(super) fn expect(&mut self, section: Section, has_digest: bool) {
        self.slot = NONE;
        self.target = Target::Nowhere;
        self.len = section.len;
        self.left = section.len;
        self.keep = 0;
        self.padding = section.len.next_multiple_of(PAD as u32) - section.len;
        (self.loose_crc, self.loose_len) = (0, 0);
        self.has_digest = has_digest && section.len > 0;
        self.is_disowned = false;
        self.digest_have = 0;
        self.stage = Stage::Data;
    }
}

impl<B: Buffer> Connection<B> {
    /// The buffer and the range of it that the next bytes of the stream belong in, if they are data
    /// that can go there directly. It must come back by [`Connection::landed`] before anything is
    /// received, or never.
    pub fn take_landing(&mut self) -> Option<(B, Range<usize>)> {
        let receiver = &mut self.receiver;
        let done = receiver.len - receiver.left;
        let is_due = receiver.stage == Stage::Data && receiver.target == Target::Buffer;
        if !is_due || done >= receiver.keep {
            return None;
        }
        assert!(!receiver.is_landing, "a landing is taken once");
        receiver.is_landing = true;
        let range = receiver.at + done as usize..receiver.at + receiver.keep as usize;
        let entry = &mut self.slots[receiver.slot];
        let buf = entry.buf.take().expect("a command that receives data has its buffer");
        Some((buf, range))
    }

    /// Returns a landing, of which the first `count` bytes were filled from the stream.
    pub fn landed<S: Surroundings<Buf = B>>(
        &mut self,
        buf: B,
        range: Range<usize>,
        count: usize,
        around: &mut S,
    ) {
        assert!(count <= range.len());
        let was_landing = core::mem::take(&mut self.receiver.is_landing);
        self.receiver.heard += count as u64;
        if self.receiver.stage == Stage::Ignored {
            return;
        }
        assert!(was_landing, "a landing is returned once");
        if self.receiver.slot != NONE {
            self.slots[self.receiver.slot].buf = Some(buf);
        }
        self.advance(count as u32, around);
    }

    /// Data of a PDU follow for a slot.
    pub(in crate::connection) fn expect_data(
        &mut self,
        slot: u16,
        target: Target,
        section: Section,
    ) {
        let has_digest = self.is_established && self.session.data_digest;
        let receiver = &mut self.receiver;
        receiver.expect(section, has_digest);
        receiver.slot = slot;
        receiver.target = target;
        if slot != NONE {
            let entry = &self.slots[slot];
            receiver.at = entry.head as usize + (entry.moved - entry.piece_start) as usize;
            let end = match target {
                Target::Buffer => entry.piece_end,
                Target::Bytes => entry.wanted,
                _ => 0,
            };
            receiver.keep = end.saturating_sub(entry.moved).min(section.len);
        }
    }

    /// Data of a PDU follow that nobody wants.
    pub(in crate::connection) fn expect_nothing(&mut self, section: Section) {
        if section.len > 0 {
            self.expect_data(NONE, Target::Nowhere, section);
        }
    }

    /// Text of a login request follows, or its end.
    pub(in crate::connection) fn expect_text(&mut self, section: Section) {
        self.expect_data(NONE, Target::Login, section);
    }

    /// Takes the header of a Data-Out.
    pub(super) fn on_data_out(&mut self, header: &[u8], section: Section) -> Result<(), Violation> {
        let pdu = DataOut::ref_from_bytes(header).expect("the length is that of the structure");
        let slot = self.slots.find(pdu.task_tag.get());
        let slot = slot.filter(|slot| self.slots[*slot].state == State::AwaitingData);
        let tag = pdu.transfer_tag.get();
        let Some(slot) = slot.filter(|slot| self.slots[*slot].transfer_tag == tag) else {
            // Of a task that was aborted, or answered already.
            self.counters.stray_data += 1;
            self.expect_nothing(section);
            return Ok(());
        };
        let entry = &self.slots[slot];
        let end = u64::from(entry.moved) + u64::from(section.len);
        let is_final = pdu.flags & FINAL != 0;
        let is_due = pdu.buffer_offset.get() == entry.moved && pdu.data_sn.get() == entry.data_sn;
        let is_fit = end <= u64::from(entry.burst_end) && (section.len > 0 || is_final);
        let is_short =
            is_final && tag != storage_spec::iscsi::TAG_NONE && end < u64::from(entry.burst_end);
        if !is_due || !is_fit || is_short {
            self.doom(slot, DataFault::Amount);
        }
        let entry = &mut self.slots[slot];
        entry.data_sn = entry.data_sn.wrapping_add(1);
        if is_final {
            // So that this PDU ends the sequence, whatever it brings.
            entry.burst_end = entry.moved.saturating_add(section.len);
        }
        let target = self.target_of(slot);
        self.expect_data(slot, target, section);
        Ok(())
    }

    pub(super) fn take_data<S: Surroundings<Buf = B>>(
        &mut self,
        rest: &mut &[u8],
        around: &mut S,
    ) -> bool {
        let receiver = &mut self.receiver;
        if receiver.left == 0 {
            self.data_over(around);
            return true;
        }
        let done = receiver.len - receiver.left;
        let is_kept = done < receiver.keep;
        let run = if is_kept { receiver.keep - done } else { receiver.left };
        let count = rest.len().min(run as usize);
        if count == 0 {
            return false;
        }
        let (taken, after) = rest.split_at(count);
        *rest = after;
        if is_kept && receiver.target == Target::Buffer {
            let at = receiver.at + done as usize;
            let buf = self.slots[receiver.slot].buf.as_mut();
            let buf = buf.expect("a command that receives data has its buffer");
            buf.bytes_mut()[at..at + count].copy_from_slice(taken);
        } else {
            if receiver.has_digest {
                receiver.loose_crc = crc32c::append(receiver.loose_crc, taken);
                receiver.loose_len += count as u64;
            }
            match receiver.target {
                Target::Bytes if is_kept => {
                    self.slots[receiver.slot].bytes.extend_from_slice(taken);
                }
                Target::Login => self.login_text(taken),
                _ => {}
            }
        }
        self.advance(count as u32, around);
        true
    }

    /// Notes that `count` bytes more of the data are in place.
    fn advance<S: Surroundings<Buf = B>>(&mut self, count: u32, around: &mut S) {
        let receiver = &mut self.receiver;
        let from = receiver.at + (receiver.len - receiver.left) as usize;
        let is_kept = receiver.len - receiver.left < receiver.keep;
        receiver.left -= count;
        if receiver.target == Target::Buffer && is_kept {
            let entry = &mut self.slots[receiver.slot];
            let data = entry.data_range();
            let buf = entry.buf.as_mut().expect("a command that receives data has its buffer");
            seal_pages(buf, &data, from..from + count as usize);
        }
        if self.receiver.left == 0 {
            self.data_over(around);
        }
    }

    /// All data of the PDU are here.
    fn data_over<S: Surroundings<Buf = B>>(&mut self, around: &mut S) {
        let receiver = &mut self.receiver;
        if receiver.padding > 0 {
            receiver.stage = Stage::Padding;
        } else if receiver.has_digest {
            receiver.stage = Stage::Digest;
        } else {
            self.finish_data(around);
        }
    }

    pub(super) fn take_padding<S: Surroundings<Buf = B>>(
        &mut self,
        rest: &mut &[u8],
        around: &mut S,
    ) -> bool {
        let receiver = &mut self.receiver;
        let count = rest.len().min(receiver.padding as usize);
        if count == 0 {
            return false;
        }
        let (taken, after) = rest.split_at(count);
        *rest = after;
        receiver.padding -= count as u32;
        if receiver.has_digest {
            receiver.loose_crc = crc32c::append(receiver.loose_crc, taken);
            receiver.loose_len += count as u64;
        }
        if receiver.padding == 0 {
            self.data_over(around);
        }
        true
    }

    pub(super) fn take_digest<S: Surroundings<Buf = B>>(
        &mut self,
        rest: &mut &[u8],
        around: &mut S,
    ) -> bool {
        let receiver = &mut self.receiver;
        let count = rest.len().min(DIGEST_LEN - receiver.digest_have);
        if count == 0 {
            return false;
        }
        let (taken, after) = rest.split_at(count);
        *rest = after;
        receiver.digest[receiver.digest_have..][..count].copy_from_slice(taken);
        receiver.digest_have += count;
        if receiver.digest_have == DIGEST_LEN {
            let received = u32::from_le_bytes(receiver.digest);
            if self.receiver.is_disowned || self.computed_digest() == received {
                self.finish_data(around);
            } else {
                self.digest_failed(around);
            }
        }
        true
    }

    /// Digest of the data of this PDU with their padding.
    fn computed_digest(&mut self) -> u32 {
        let receiver = &self.receiver;
        if receiver.target != Target::Buffer || receiver.keep == 0 {
            return receiver.loose_crc;
        }
        let entry = &self.slots[receiver.slot];
        let run = receiver.at..receiver.at + receiver.keep as usize;
        let buf = entry.buf.as_ref().expect("a command that receives data has its buffer");
        let run = digest(buf, &entry.data_range(), run);
        self.counters.digest_second_pass += u64::from(run.second_pass);
        crc32c::combine(run.crc, receiver.loose_crc, receiver.loose_len)
    }

    /// Data are not what was sent: their command fails. Of other PDUs nothing is left.
    fn digest_failed<S: Surroundings<Buf = B>>(&mut self, around: &mut S) {
        self.counters.data_digest_errors += 1;
        self.reject(RejectReason::DataDigest);
        let slot = self.receiver.slot;
        let is_stream_over = self.receiver.stage == Stage::Ignored;
        if is_stream_over {
            return;
        }
        if slot == NONE {
            self.receiver.expect_header();
        } else if self.slots[slot].is_command() {
            self.doom(slot, DataFault::Digest);
            self.finish_data(around);
        } else {
            // Text or ping: as if it had never come, but its number is used up.
            self.receiver.expect_header();
            self.forget_request(slot);
        }
    }

    /// The PDU is through.
    fn finish_data<S: Surroundings<Buf = B>>(&mut self, around: &mut S) {
        let (slot, len, target) = (self.receiver.slot, self.receiver.len, self.receiver.target);
        self.receiver.expect_header();
        if target == Target::Login {
            if matches!(self.phase, Phase::Login(_)) {
                self.login_complete();
            }
            return;
        }
        if slot == NONE {
            return;
        }
        let entry = &mut self.slots[slot];
        entry.moved = entry.moved.saturating_add(len);
        if !entry.is_command() {
            self.request_complete(slot);
            return;
        }
        let is_over = entry.moved >= entry.burst_end;
        let was_awaited = entry.state == State::AwaitingData;
        if is_over {
            self.awaiting_data -= u32::from(was_awaited);
            self.go_on(slot, around);
        } else if !was_awaited {
            // The rest of what comes unasked.
            entry.state = State::AwaitingData;
            entry.transfer_tag = storage_spec::iscsi::TAG_NONE;
            entry.forget_wait();
            self.awaiting_data += 1;
        }
    }
}
