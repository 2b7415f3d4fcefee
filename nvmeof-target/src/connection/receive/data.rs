//! Data of PDUs: landing them, sealing their pages, checking their digests.

use super::{Stage, Target};
use crate::connection::Connection;
use crate::connection::header::Section;
use crate::connection::slots::{NONE, State};
use crate::io::digest::{digest, seal_pages};
use crate::io::{Buffer, Surroundings};
use core::ops::Range;
use storage_spec::crc32c;
use storage_spec::nvme::status::Status;
use storage_spec::nvme_tcp::DIGEST_LEN;

impl<B: Buffer> Connection<B> {
    /// The buffer and the range of it that the next bytes of the stream belong in, if they are data
    /// that can go there directly. It must come back by [`Connection::landed`] before anything is
    /// received, or never.
    pub fn take_landing(&mut self) -> Option<(B, Range<usize>)> {
        let receiver = &mut self.receiver;
        if receiver.stage != Stage::Data || receiver.target != Target::Buffer {
            return None;
        }
        assert!(!receiver.is_landing, "a landing is taken once");
        receiver.is_landing = true;
        let end = receiver.at + receiver.len as usize;
        let entry = &mut self.slots[receiver.slot];
        let buf = entry.buf.take().expect("a command that receives data has its buffer");
        Some((buf, end - receiver.left as usize..end))
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
        if self.receiver.stage == Stage::Ignored {
            return;
        }
        assert!(was_landing, "a landing is returned once");
        self.slots[self.receiver.slot].buf = Some(buf);
        self.advance(count as u32, around);
    }

    pub(super) fn expect_data(&mut self, slot: u16, target: Target, section: Section) {
        let entry = &self.slots[slot];
        let receiver = &mut self.receiver;
        receiver.slot = slot;
        receiver.target = target;
        receiver.at = usize::from(entry.head) + entry.moved as usize;
        receiver.padding = section.padding;
        receiver.len = section.len;
        receiver.left = section.len;
        receiver.has_digest = section.has_digest;
        receiver.digest_have = 0;
        receiver.stage = if section.padding == 0 { Stage::Data } else { Stage::Padding };
    }

    pub(super) fn skip_padding(&mut self, rest: &mut &[u8]) -> bool {
        let receiver = &mut self.receiver;
        let count = rest.len().min(receiver.padding as usize);
        *rest = &rest[count..];
        receiver.padding -= count as u32;
        if receiver.padding == 0 {
            receiver.stage = Stage::Data;
        }
        count > 0
    }

    pub(super) fn take_data<S: Surroundings<Buf = B>>(
        &mut self,
        rest: &mut &[u8],
        around: &mut S,
    ) -> bool {
        let receiver = &self.receiver;
        let count = rest.len().min(receiver.left as usize);
        if count == 0 {
            return false;
        }
        let (taken, after) = rest.split_at(count);
        *rest = after;
        let at = receiver.at + (receiver.len - receiver.left) as usize;
        let entry = &mut self.slots[receiver.slot];
        match receiver.target {
            Target::Buffer => {
                let buf = entry.buf.as_mut().expect("a command that receives data has its buffer");
                buf.bytes_mut()[at..at + count].copy_from_slice(taken);
            }
            Target::Bytes => entry.bytes.extend_from_slice(taken),
            Target::Nowhere => {}
        }
        self.advance(count as u32, around);
        true
    }

    /// Notes that `count` bytes more of the data are in place.
    fn advance<S: Surroundings<Buf = B>>(&mut self, count: u32, around: &mut S) {
        let receiver = &mut self.receiver;
        let from = receiver.at + (receiver.len - receiver.left) as usize;
        receiver.left -= count;
        receiver.received += u64::from(count);
        let entry = &mut self.slots[receiver.slot];
        if receiver.target != Target::Nowhere {
            entry.moved += count;
        }
        if receiver.target == Target::Buffer && entry.kind.seals_pages() {
            let head = usize::from(entry.head);
            let data = head..head + entry.transfer as usize;
            let buf = entry.buf.as_mut().expect("a command that receives data has its buffer");
            seal_pages(buf, &data, from..from + count as usize);
        }
        if receiver.left == 0 {
            if receiver.has_digest {
                receiver.stage = Stage::Digest;
            } else {
                self.finish_data(around);
            }
        }
    }

    pub(super) fn take_digest<S: Surroundings<Buf = B>>(
        &mut self,
        rest: &mut &[u8],
        around: &mut S,
    ) -> bool {
        let receiver = &mut self.receiver;
        let count = rest.len().min(DIGEST_LEN - receiver.digest_have);
        let (taken, after) = rest.split_at(count);
        *rest = after;
        receiver.digest[receiver.digest_have..][..count].copy_from_slice(taken);
        receiver.digest_have += count;
        if receiver.digest_have < DIGEST_LEN {
            return false;
        }
        let received = u32::from_le_bytes(receiver.digest);
        if self.computed_digest().is_some_and(|computed| computed != received) {
            self.counters.data_digest_errors += 1;
            let slot = self.receiver.slot;
            let entry = &mut self.slots[slot];
            if entry.status.is_success() {
                entry.status = Status::TRANSIENT_TRANSPORT_ERROR;
            }
        }
        self.finish_data(around);
        true
    }

    /// Digest of the data of this PDU; none where they were thrown away.
    fn computed_digest(&mut self) -> Option<u32> {
        let receiver = &self.receiver;
        let run = receiver.at..receiver.at + receiver.len as usize;
        let entry = &self.slots[receiver.slot];
        match receiver.target {
            Target::Nowhere => None,
            Target::Bytes => Some(crc32c::checksum(&entry.bytes[run])),
            Target::Buffer => {
                let head = usize::from(entry.head);
                let buf = entry.buf.as_ref().expect("a command that receives data has its buffer");
                if !entry.kind.seals_pages() {
                    return Some(crc32c::checksum(&buf.bytes()[run]));
                }
                let run = digest(buf, &(head..head + entry.transfer as usize), run);
                self.counters.digest_second_pass += u64::from(run.second_pass);
                Some(run.crc)
            }
        }
    }

    /// The PDU is through.
    fn finish_data<S: Surroundings<Buf = B>>(&mut self, around: &mut S) {
        let slot = self.receiver.slot;
        let is_refused = self.receiver.target == Target::Nowhere;
        self.receiver.expect_header();
        self.receiver.slot = NONE;
        let entry = &self.slots[slot];
        if is_refused {
            self.respond(slot);
        } else if entry.moved == entry.transfer {
            self.awaiting_data -= u32::from(entry.state == State::AwaitingData);
            self.data_complete(slot, around);
        }
    }
}
