//! The journal at run time: one batch in flight, the next one filling.

use super::checkpoint::Mark;
use super::device::{Class, Device, What};
use super::layout::Areas;
use crate::disk::{SEGMENTS_MAX, WriteData};
use crate::dma::{Buf, Pool, Slice};
use std::collections::VecDeque;
use storage_spec::crc32c;
use storage_spec::disk::{self, BLOCK, BatchHeader};
use zerocopy::{FromZeros, IntoBytes};

const HEADER: usize = size_of::<BatchHeader>();

/// Blocks that the records from a checkpoint on may name before the next one is due; twice as many,
/// and records wait for it. Recovery keeps something of each such block in memory.
const NAMED_MAX: u64 = 4 << 20;

/// How large batches may become.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Bytes of header and records.
    pub(super) record_bytes: usize,
    /// Blocks of payload.
    pub(super) payload_blocks: u32,
    /// Blocks of one write.
    pub(super) extent_blocks: u32,
    /// Blocks named by records, at which a checkpoint is due.
    pub(super) named_blocks: u64,
}

impl Limits {
    /// For a ring of `blocks`: two batches are at most three quarters of it.
    pub(super) fn of(blocks: u64, transfer_max: usize) -> Self {
        let transfer = (transfer_max / BLOCK).max(1) as u64;
        Self {
            record_bytes: BLOCK * (blocks / 8).clamp(2, 16) as usize,
            payload_blocks: (blocks / 4).min(1024) as u32,
            extent_blocks: (blocks / 8).min(256).min(transfer) as u32,
            named_blocks: NAMED_MAX,
        }
    }
}

/// Records that fill a batch.
#[derive(Default)]
struct Batch {
    /// Room for the header, then records.
    bytes: Vec<u8>,
    records: u32,
    payload: Vec<Slice>,
    payload_blocks: u32,
    members: Vec<u32>,
}

impl Batch {
    fn clear(&mut self) {
        self.bytes.clear();
        self.bytes.resize(HEADER, 0);
        self.records = 0;
        self.payload.clear();
        self.payload_blocks = 0;
        self.members.clear();
    }

    fn blocks_with(&self, record_bytes: usize, payload_blocks: u32) -> u64 {
        ((self.bytes.len() + record_bytes).div_ceil(BLOCK)) as u64
            + u64::from(self.payload_blocks + payload_blocks)
    }
}

/// The ring's two ends and the two batches.
pub(super) struct Journal {
    areas: Areas,
    pub(super) limits: Limits,
    /// Where the part that recovery would redo starts.
    pub(super) start: u64,
    /// What the open batch will be.
    head: Mark,
    /// The end of the last durable batch.
    pub(super) durable: Mark,
    open: Batch,
    flight: Batch,
    flight_end: Option<Mark>,
    /// Blocks that records have named: until now, in batches that were closed, in durable ones,
    /// and before the checkpoint's start.
    named: u64,
    flight_named: u64,
    pub(super) durable_named: u64,
    pub(super) start_named: u64,
    parts_left: u32,
    /// The flight's records while they are being written, to have the buffer back.
    writing: Option<Slice>,
    spare: Option<Buf>,
    vectors: Vec<Vec<Slice>>,
}

impl Journal {
    /// A journal that is empty from `mark` on; `None` if there is no memory for its buffer.
    pub(super) fn new(areas: Areas, limits: Limits, mark: Mark, pool: &Pool) -> Option<Self> {
        let mut open = Batch::default();
        open.clear();
        Some(Self {
            areas,
            limits,
            start: mark.position,
            head: mark,
            durable: mark,
            open,
            flight: Batch::default(),
            flight_end: None,
            named: 0,
            flight_named: 0,
            durable_named: 0,
            start_named: 0,
            parts_left: 0,
            writing: None,
            spare: Some(pool.alloc(limits.record_bytes)?),
            vectors: Vec::new(),
        })
    }

    /// Number that the next record will get.
    pub(super) fn next_lsn(&self) -> u64 {
        self.head.lsn + u64::from(self.open.records)
    }

    /// Whether nothing waits to become durable.
    pub(super) fn is_idle(&self) -> bool {
        self.flight_end.is_none() && self.open.records == 0
    }

    /// Blocks between the start and the end of what has been written.
    pub(super) fn used(&self) -> u64 {
        self.head.position - self.start
    }

    /// Whether the records behind the checkpoint name as many blocks as recovery shall remember.
    pub(super) fn names_many(&self) -> bool {
        self.named - self.start_named >= self.limits.named_blocks
    }

    /// A record that is being added names blocks.
    pub(super) fn note_named(&mut self, blocks: u16) {
        self.named += u64::from(blocks);
    }

    /// Whether a record fits in the open batch, and the batch in the ring.
    pub(super) fn admits(&self, record_bytes: usize, payload_blocks: u32) -> bool {
        let open = &self.open;
        open.bytes.len() + record_bytes <= self.limits.record_bytes
            && open.payload_blocks + payload_blocks <= self.limits.payload_blocks
            && self.used() + open.blocks_with(record_bytes, payload_blocks)
                <= self.areas.journal_blocks
            && self.named - self.start_named < 2 * self.limits.named_blocks
    }

    /// Adds a record that was admitted; its number. `member` hears when it is durable.
    pub(super) fn push(
        &mut self,
        member: Option<u32>,
        payload: Option<Slice>,
        encode: impl FnOnce(&mut Vec<u8>),
    ) -> u64 {
        let lsn = self.next_lsn();
        encode(&mut self.open.bytes);
        assert!(
            self.open.bytes.len() <= self.limits.record_bytes,
            "records that were not admitted"
        );
        self.open.records += 1;
        if let Some(payload) = payload {
            self.open.payload_blocks += (payload.len() / BLOCK) as u32;
            self.open.payload.push(payload);
        }
        self.open.members.extend(member);
        lsn
    }

    /// Writes the open batch if it has records and no other is in flight; blocks written.
    pub(super) fn close(&mut self, completed_lsn: u64, device: &mut Device) -> Option<u64> {
        if self.open.records == 0 || self.flight_end.is_some() {
            return None;
        }
        let mut buf = self.spare.take()?;
        let blocks = self.open.blocks_with(0, 0);
        let header_crc = self.seal(completed_lsn);
        self.flight_named = self.named;
        let len = self.open.bytes.len();
        buf.set_len(len.next_multiple_of(BLOCK));
        buf[..len].copy_from_slice(&self.open.bytes);
        buf[len..].fill(0);
        self.flight_end = Some(Mark {
            position: self.head.position + blocks,
            sequence: self.head.sequence + 1,
            lsn: self.next_lsn(),
            crc: header_crc,
        });
        std::mem::swap(&mut self.open, &mut self.flight);
        self.open.clear();
        self.submit(buf.freeze(), device);
        self.head = self.flight_end.expect("set above");
        Some(blocks)
    }

    /// Fills in the header; its checksum.
    fn seal(&mut self, completed_lsn: u64) -> u32 {
        let batch = &mut self.open;
        let mut header = BatchHeader::new_zeroed();
        header.magic = disk::BATCH_MAGIC;
        header.incarnation = self.areas.incarnation.into();
        header.sequence = self.head.sequence.into();
        header.position = (self.head.position % self.areas.journal_blocks).into();
        header.first_lsn = self.head.lsn.into();
        header.completed_lsn = completed_lsn.into();
        header.durable_lsn = (self.durable.lsn - 1).into();
        header.records = batch.records.into();
        header.record_bytes = ((batch.bytes.len() - HEADER) as u32).into();
        header.payload_blocks = batch.payload_blocks.into();
        header.previous_crc = self.head.crc.into();
        header.shard = self.areas.shard.into();
        batch.bytes[..HEADER].copy_from_slice(header.as_bytes());
        let crc = crc32c::checksum(&batch.bytes[4..]);
        batch.bytes[..4].copy_from_slice(&crc.to_le_bytes());
        crc
    }

    /// Cuts the flight at the ring's end and the device's limits, and writes the parts.
    fn submit(&mut self, records: Slice, device: &mut Device) {
        self.writing = Some(records.clone());
        let mut position = self.head.position;
        let mut part = self.vectors.pop().unwrap_or_default();
        let mut part_start = position;
        let mut part_len = 0;
        let payload = std::mem::take(&mut self.flight.payload);
        for segment in std::iter::once(records).chain(payload.iter().cloned()) {
            let mut at = 0;
            while at < segment.len() {
                let ring = self.areas.journal_blocks;
                let to_ring_end = (ring - position % ring) as usize * BLOCK;
                let room = (device.transfer_max - part_len).min(to_ring_end);
                let len = room.min(segment.len() - at);
                part.push(segment.slice(at, len));
                at += len;
                part_len += len;
                position += (len / BLOCK) as u64;
                let is_cut = part_len == device.transfer_max
                    || position.is_multiple_of(ring)
                    || part.len() == SEGMENTS_MAX;
                if is_cut {
                    self.write_part(part_start, part, device);
                    part = self.vectors.pop().unwrap_or_default();
                    part_start = position;
                    part_len = 0;
                }
            }
        }
        if part.is_empty() {
            self.vectors.push(part);
        } else {
            self.write_part(part_start, part, device);
        }
        self.flight.payload = payload;
    }

    fn write_part(&mut self, position: u64, mut part: Vec<Slice>, device: &mut Device) {
        self.parts_left += 1;
        let data = if part.len() == 1 {
            let only = part.pop().expect("one segment");
            self.vectors.push(part);
            WriteData::One(only)
        } else {
            WriteData::Many(part)
        };
        let offset = self.areas.journal_offset(position);
        device.write(What::Journal, 0, offset, data, Class::Prompt);
    }

    /// A part has ended; once all have, appends the batch's members: they are durable.
    pub(super) fn part_done(&mut self, data: WriteData, members: &mut Vec<u32>) {
        match data {
            WriteData::One(slice) => drop(slice),
            WriteData::Many(mut vector) => {
                vector.clear();
                self.vectors.push(vector);
            }
        }
        self.parts_left -= 1;
        if self.parts_left > 0 {
            return;
        }
        self.durable = self.flight_end.take().expect("a batch is in flight");
        self.durable_named = self.flight_named;
        members.append(&mut self.flight.members);
        self.flight.clear();
        self.spare = self.writing.take().and_then(Slice::reclaim);
        assert!(self.spare.is_some(), "nobody else holds the records");
    }

    /// The device failed: every member that will not become durable.
    pub(super) fn abandon(&mut self, members: &mut Vec<u32>) {
        members.append(&mut self.flight.members);
        members.append(&mut self.open.members);
        self.open.clear();
    }
}

/// Records in order, of which some are still being carried out.
#[derive(Debug, Default)]
pub(super) struct Tracker {
    base: u64,
    entries: VecDeque<(u64, bool)>,
}

impl Tracker {
    /// Adds the next record; what to call [`Tracker::done`] with.
    pub(super) fn push(&mut self, lsn: u64) -> u64 {
        self.entries.push_back((lsn, false));
        self.base + self.entries.len() as u64 - 1
    }

    pub(super) fn done(&mut self, sequence: u64) {
        self.entries[(sequence - self.base) as usize].1 = true;
        while self.entries.front().is_some_and(|&(_, done)| done) {
            self.entries.pop_front();
            self.base += 1;
        }
    }

    /// The first record that is not done.
    pub(super) fn first_pending(&self) -> Option<u64> {
        self.entries.front().map(|&(lsn, _)| lsn)
    }
}
