//! Reading the journal: which batches there are, and whether what ends them is a crash or rot.

use super::checkpoint::Mark;
use super::journal::Limits;
use super::layout::Areas;
use super::port::Port;
use super::record::{self, Path, Range, Record};
use crate::disk;
use std::cell::RefCell;
use storage_spec::crc32c;
use storage_spec::disk::{self as spec, BLOCK, BatchHeader};
use zerocopy::FromBytes;

/// Blocks read at once.
const READ_BLOCKS: u64 = 64;

/// A batch with an intact header and records.
#[derive(Debug)]
pub(super) struct Batch {
    /// Its records' bytes.
    records: Vec<u8>,
    slabs: u32,
    pub(super) first_lsn: u64,
    pub(super) completed_lsn: u64,
    /// Block, counted on and on, of its payload.
    pub(super) payload: u64,
    pub(super) payload_blocks: u64,
    pub(super) end: Mark,
}

impl Batch {
    /// The records with their numbers and, of payload writes, the first payload block.
    pub(super) fn records(&self) -> impl Iterator<Item = (u64, u64, Record<'_>)> {
        let mut rest = self.records.as_slice();
        let mut next = (self.first_lsn, self.payload);
        std::iter::from_fn(move || {
            let (record, more) = record::decode(rest, self.slabs)?;
            rest = more;
            let (lsn, payload) = next;
            next.0 += 1;
            if let Record::Write { path: Path::Payload, range, .. } = record {
                next.1 += u64::from(range.count);
            }
            Some((lsn, payload, record))
        })
    }

    /// Whether the records are as many, and have as much payload, as the header says.
    fn is_consistent(&self, count: u32) -> bool {
        let (mut records, mut payload) = (0, self.payload);
        for (_, at, record) in self.records() {
            records += 1;
            payload = at;
            if let Record::Write { path: Path::Payload, range, .. } = record {
                payload += u64::from(range.count);
            }
        }
        records == count && payload == self.payload + self.payload_blocks
    }
}

/// What stands at a place of the ring.
#[derive(Debug)]
pub(super) enum Found {
    /// The batch that was expected.
    Batch(Batch),
    /// A batch of this journal with a higher sequence.
    Later(u64),
    /// No batch, an older one, or a damaged one.
    Nothing,
}

/// A block of payload that does not match its record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rotten {
    pub(super) lsn: u64,
    pub(super) range: Range,
    /// Position of the block in the range.
    pub(super) index: u16,
}

/// A ring on its device, which nobody writes meanwhile.
pub(super) struct Ring<'a> {
    port: &'a Port<'a>,
    areas: &'a Areas,
    /// What was read last, and its first block: the ring is read from front to back.
    window: RefCell<(u64, Vec<u8>)>,
}

impl<'a> Ring<'a> {
    pub(super) fn new(port: &'a Port<'a>, areas: &'a Areas) -> Self {
        Self { port, areas, window: RefCell::new((0, Vec::new())) }
    }

    /// Reads what stands at `mark`.
    pub(super) async fn batch(&self, mark: Mark) -> Result<Found, disk::Error> {
        let Some(first) = self.read(mark.position, 1).await? else { return Ok(Found::Nothing) };
        let (header, _) = BatchHeader::read_from_prefix(&first).expect("a block was read");
        let is_ours = header.magic == spec::BATCH_MAGIC
            && header.incarnation == self.areas.incarnation
            && header.shard == self.areas.shard
            && header.position == mark.position % self.areas.journal_blocks
            && header.sequence >= mark.sequence;
        let len = size_of::<BatchHeader>() + header.record_bytes.get() as usize;
        let limits = Limits::of(self.areas.journal_blocks, usize::MAX);
        let is_sized =
            len <= limits.record_bytes && header.payload_blocks.get() <= limits.payload_blocks;
        if !is_ours || !is_sized {
            return Ok(Found::Nothing);
        }
        let blocks = len.div_ceil(BLOCK) as u64;
        let Some(mut bytes) = self.read(mark.position, blocks).await? else {
            return Ok(Found::Nothing);
        };
        if crc32c::checksum(&bytes[4..len]) != header.crc.get() {
            return Ok(Found::Nothing);
        }
        if header.sequence != mark.sequence {
            return Ok(Found::Later(header.sequence.get()));
        }
        if header.previous_crc != mark.crc || header.first_lsn != mark.lsn {
            return Ok(Found::Nothing);
        }
        bytes.truncate(len);
        bytes.drain(..size_of::<BatchHeader>());
        let payload_blocks = u64::from(header.payload_blocks.get());
        let payload = mark.position + blocks;
        let batch = Batch {
            records: bytes,
            slabs: self.areas.slabs,
            first_lsn: mark.lsn,
            completed_lsn: header.completed_lsn.get(),
            payload,
            payload_blocks,
            end: Mark {
                position: payload + payload_blocks,
                sequence: mark.sequence + 1,
                lsn: mark.lsn + u64::from(header.records.get()),
                crc: header.crc.get(),
            },
        };
        let is_consistent = batch.is_consistent(header.records.get());
        Ok(if is_consistent { Found::Batch(batch) } else { Found::Nothing })
    }

    /// The blocks of a batch's payload that are not what its records say.
    pub(super) async fn rotten_payload(&self, batch: &Batch) -> Result<Vec<Rotten>, disk::Error> {
        let mut rotten = Vec::new();
        for (lsn, payload, record) in batch.records() {
            let Record::Write { path: Path::Payload, range, crcs } = record else { continue };
            let bytes = self.read(payload, u64::from(range.count)).await?;
            for (index, crc) in (0u16..).zip(crcs) {
                let at = usize::from(index) * BLOCK;
                let block = bytes.as_ref().map(|bytes| &bytes[at..at + BLOCK]);
                if block.is_none_or(|block| crc32c::checksum(block) != crc.get()) {
                    rotten.push(Rotten { lsn, range, index });
                }
            }
        }
        Ok(rotten)
    }

    /// Whether a batch with a sequence above that of `mark` stands where one could that was written
    /// after the batch at `mark`.
    pub(super) async fn has_later(&self, mark: Mark) -> Result<bool, disk::Error> {
        let limits = Limits::of(self.areas.journal_blocks, usize::MAX);
        let reach = (limits.record_bytes / BLOCK) as u64 + u64::from(limits.payload_blocks);
        for block in 0..=reach {
            let position = mark.position + block;
            if matches!(self.batch(Mark { position, ..mark }).await?, Found::Later(_)) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Reads blocks of the ring; `None` if the medium cannot.
    pub(super) async fn read(
        &self,
        position: u64,
        blocks: u64,
    ) -> Result<Option<Vec<u8>>, disk::Error> {
        if let Some(bytes) = self.in_window(position, blocks) {
            return Ok(Some(bytes));
        }
        let ahead = blocks.max(READ_BLOCKS);
        let Some(bytes) = self.read_medium(position, ahead).await? else {
            return self.read_medium(position, blocks).await;
        };
        *self.window.borrow_mut() = (position, bytes);
        Ok(self.in_window(position, blocks))
    }

    fn in_window(&self, position: u64, blocks: u64) -> Option<Vec<u8>> {
        let (start, bytes) = &*self.window.borrow();
        let at = usize::try_from(position.checked_sub(*start)?).ok()?.checked_mul(BLOCK)?;
        bytes.get(at..at.checked_add(blocks as usize * BLOCK)?).map(<[u8]>::to_vec)
    }

    async fn read_medium(
        &self,
        position: u64,
        blocks: u64,
    ) -> Result<Option<Vec<u8>>, disk::Error> {
        let ring = self.areas.journal_blocks;
        let mut bytes = Vec::with_capacity(blocks as usize * BLOCK);
        let (mut at, end) = (position, position + blocks);
        while at < end {
            let count = (end - at).min(READ_BLOCKS).min(ring - at % ring);
            let offset = self.areas.journal_offset(at);
            match self.port.read(offset, count as usize * BLOCK).await {
                Ok(part) => bytes.extend_from_slice(&part),
                Err(disk::Error::Media) => return Ok(None),
                Err(error) => return Err(error),
            }
            at += count;
        }
        Ok(Some(bytes))
    }
}
