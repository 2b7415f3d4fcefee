//! Data for the initiator: cut into PDUs where pages and bursts end.

use super::{COPIED_MAX, residual};
use crate::connection::Connection;
use crate::connection::slots::State;
use crate::io::digest::digest;
use crate::io::{BURST_PDUS_MAX, Buffer, TxSink};
use crate::scsi::{DataIn, Status};
use core::ops::Range;
use storage_spec::crc32c::{self, BLOCK};
use storage_spec::iscsi::{self, Opcode, PAD, ResidualFlags, TAG_NONE, U24};
use zerocopy::{FromZeros, IntoBytes};

/// Initiators that take less in one PDU, or one burst, get their data copied.
const UNCOPIED_MIN: u32 = 8192;

/// One Data-In.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Cut {
    /// Where its data end, within those at hand.
    end: u32,
    /// Whether it is the last of its burst.
    is_final: bool,
}

/// What limits a Data-In.
#[derive(Debug, Clone, Copy)]
struct Limits {
    pdu: u32,
    burst: u32,
    /// Bytes of the data at hand.
    total: u32,
    /// Where in its buffer, past a page's start, the data begin.
    skew: u32,
}

impl Limits {
    /// For data that are not copied: PDUs and bursts of whole pages, and no burst ends with a small
    /// PDU, so that [`BURST_PDUS_MAX`] suffice. Neither may be less than [`UNCOPIED_MIN`].
    fn uncopied(pdu: u32, burst: u32, total: u32, skew: u32) -> Self {
        assert!(pdu.min(burst) >= UNCOPIED_MIN, "smaller ones are copied");
        let block = BLOCK as u32;
        let pdu = pdu.min(burst) / block * block;
        Self { pdu, burst: burst / pdu * pdu, total, skew }
    }

    /// The Data-In from `start` on, in a burst that began at `burst_start`.
    fn cut(&self, start: u32, burst_start: u32) -> Cut {
        let burst_end = burst_start.saturating_add(self.burst).min(self.total);
        let end = start.saturating_add(self.pdu).min(burst_end);
        if end == self.total {
            return Cut { end, is_final: true };
        }
        // On the grid, so that every page is of one PDU and its checksum serves for the digest.
        let block = BLOCK as u32;
        let on_grid = ((end + self.skew) / block * block).saturating_sub(self.skew);
        let end = if on_grid > start { on_grid } else { end };
        // What is left of a burst is not worth a PDU if it is less than a page.
        Cut { end, is_final: burst_end - end < block }
    }
}

impl<B: Buffer> Connection<B> {
    /// Sends the next data of a read, in one PDU or all in several. False if there is no room.
    pub(super) fn emit_data_in<T: TxSink<B>>(&mut self, slot: u16, sink: &mut T) -> bool {
        let (pdu, burst) = (self.session.send_max, self.session.burst_max);
        let entry = &self.slots[slot];
        let is_copied = match &entry.data {
            DataIn::Buffer { .. } => pdu.min(burst) < UNCOPIED_MIN,
            _ => true,
        };
        let total = entry.deliver;
        if is_copied {
            // Bursts are told from what was sent: those of copied data need not be on the grid.
            let pdu = pdu.min(COPIED_MAX as u32);
            self.emit_copied(slot, Limits { pdu, burst, total, skew: 0 }, sink);
            return true;
        }
        let skew = match &entry.data {
            DataIn::Buffer { range, .. } => (range.start % BLOCK) as u32,
            _ => 0,
        };
        let limits = Limits::uncopied(pdu, burst, total, skew);
        let pdus = count(&limits);
        assert!(pdus <= BURST_PDUS_MAX, "a transfer is bounded");
        if pdus > 1 && !sink.has_room_for(pdus) {
            return false;
        }
        self.emit_uncopied(slot, limits, pdus, sink);
        true
    }

    fn emit_copied<T: TxSink<B>>(&mut self, slot: u16, limits: Limits, sink: &mut T) {
        let entry = &self.slots[slot];
        let start = entry.delivered;
        let burst_start = start - start % limits.burst;
        let mut cut = limits.cut(start, burst_start);
        let burst_end = burst_start.saturating_add(limits.burst).min(limits.total);
        if cut.is_final {
            cut.end = burst_end.min(start + limits.pdu);
            cut.is_final = cut.end == burst_end;
        }
        let run = start as usize..cut.end as usize;
        let data = match &entry.data {
            DataIn::Bytes(bytes) => bytes[run].to_vec(),
            DataIn::Buffer { buf, range } => buf.bytes()[range.clone()][run].to_vec(),
            DataIn::None => unreachable!("there are data to deliver"),
        };
        let (header, is_last) = self.data_header(slot, start, cut);
        self.emit_pdu(header.as_bytes(), &data, sink);
        if is_last {
            self.finish_read(slot, header.flags);
        }
    }

    fn emit_uncopied<T: TxSink<B>>(
        &mut self,
        slot: u16,
        limits: Limits,
        pdus: usize,
        sink: &mut T,
    ) {
        let data = core::mem::replace(&mut self.slots[slot].data, DataIn::None);
        let DataIn::Buffer { buf, range } = data else { unreachable!("others are copied") };
        let has_digest = self.session.data_digest;
        let origin = range.start;
        // Checksums first: the buffer is given away.
        let mut crcs = [0; BURST_PDUS_MAX];
        if has_digest {
            let mut at = 0;
            for_each(&limits, |run, _| {
                let run = origin + run.start as usize..origin + run.end as usize;
                let run = digest(&buf, &(0..buf.bytes().len()), run);
                self.counters.digest_second_pass += u64::from(run.second_pass);
                crcs[at] = run.crc;
                at += 1;
            });
        }
        self.in_sink += self.slots.discharge(slot);
        let mut single = None;
        if pdus == 1 {
            single = Some(buf)
        } else {
            sink.share(buf)
        }
        let (mut at, mut last_flags) = (0, 0);
        for_each(&limits, |run, is_final| {
            let cut = Cut { end: run.end, is_final };
            let (header, _) = self.data_header(slot, run.start, cut);
            self.emit_header(header.as_bytes(), sink);
            let part = origin + run.start as usize..origin + run.end as usize;
            match single.take() {
                Some(buf) => sink.data(buf, part),
                None => sink.part(part),
            }
            let len = (run.end - run.start) as usize;
            let padding = len.next_multiple_of(PAD) - len;
            let crc = crc32c::append(crcs[at], &[0; PAD][..padding]);
            self.emit_tail(padding, crc, sink);
            last_flags = header.flags;
            at += 1;
        });
        self.finish_read(slot, last_flags);
    }

    /// The header of a Data-In; whether it is the last of the data at hand.
    fn data_header(&mut self, slot: u16, start: u32, cut: Cut) -> (iscsi::DataIn, bool) {
        let entry = &mut self.slots[slot];
        let is_last = cut.end == entry.deliver;
        let is_all = is_last && entry.state == State::Responding;
        let says_all = is_all && entry.status == Status::Good && entry.sense.is_none();
        let mut pdu = iscsi::DataIn::new_zeroed();
        pdu.opcode = Opcode::DataIn.0;
        pdu.data_len = U24::new(cut.end - start);
        pdu.task_tag = entry.tag.into();
        pdu.transfer_tag = TAG_NONE.into();
        pdu.data_sn = entry.sent_sn.into();
        pdu.buffer_offset = (entry.base + start).into();
        entry.sent_sn += 1;
        entry.delivered = cut.end;
        self.counters.bytes_read += u64::from(cut.end - start);
        let mut flags = ResidualFlags::new();
        if says_all {
            let (with_residual, bytes) = residual(self.slots[slot].residual());
            flags = with_residual.with_status(true);
            pdu.residual = bytes.into();
            pdu.status_sn = self.next_status_sn().into();
        }
        let (expected, max) = self.numbers();
        pdu.flags = flags.with_is_final(cut.is_final).into();
        pdu.expected_command_sn = expected.into();
        // The command's own place is free when it has been answered.
        pdu.command_sn_max = max.into();
        (pdu, is_last)
    }

    /// The data at hand are sent; if that said all, the command is over.
    fn finish_read(&mut self, slot: u16, flags: u8) {
        self.slots[slot].data = DataIn::None;
        if ResidualFlags::from(flags).status() {
            self.finish(slot);
        } else if self.slots[slot].state == State::Delivering {
            self.sender.queue.pop_front();
            self.part_delivered(slot);
        }
    }
}

fn count(limits: &Limits) -> usize {
    let mut count = 0;
    for_each(limits, |_, _| count += 1);
    count
}

/// Goes through the PDUs of a command's data: their range, and whether each is the last of a burst.
fn for_each(limits: &Limits, mut each: impl FnMut(Range<u32>, bool)) {
    let (mut start, mut burst_start) = (0, 0);
    while start < limits.total {
        let cut = limits.cut(start, burst_start);
        each(start..cut.end, cut.is_final);
        start = cut.end;
        if cut.is_final {
            burst_start = start;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn cuts_cover_all_within_limits_and_on_the_grid(
            pdu in prop_oneof![2048..6200_u32, 2048..70_000_u32],
            burst in prop_oneof![2048..6200_u32, 2048..270_000_u32],
            total in prop_oneof![1..1_048_577_u32, Just(1 << 20)],
            sectors in 0..8_u32,
        ) {
            let (pdu, burst) = (pdu * 4, burst * 4);
            let limits = Limits::uncopied(pdu, burst, total, sectors * 512);
            let (mut at, mut burst_start, mut pdus) = (0, 0, 0);
            let mut ended = false;
            for_each(&limits, |run, is_final| {
                assert_eq!(run.start, at);
                assert!(run.end > run.start && run.end - run.start <= pdu);
                assert!(run.end - burst_start <= burst);
                assert!(run.end == total || (run.end + limits.skew).is_multiple_of(BLOCK as u32));
                at = run.end;
                pdus += 1;
                ended = is_final;
                if is_final {
                    burst_start = at;
                }
            });
            prop_assert!(ended && at == total);
            prop_assert!(pdus <= BURST_PDUS_MAX, "{pdus}");
        }
    }
}
