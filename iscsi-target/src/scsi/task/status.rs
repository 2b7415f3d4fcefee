//! GET LBA STATUS (SBC-3 section 5.5).
//!
//! What reads as zeroes is told to be deallocated, since it cannot be told from what is: unmapped
//! blocks read as zeroes here, and hosts ask in order not to read those.

use super::{Advance, DataIn, Door, Step, page_span};
use storage_spec::crc32c::{BLOCK, ZERO_BLOCK};
use storage_spec::scsi::parameter::{LBA_DEALLOCATED, LBA_MAPPED, LbaStatus, LbaStatusHeader};
use target_io::{BlockRequest, Buffer, Surroundings};
use zerocopy::big_endian::{U32, U64};
use zerocopy::{FromZeros, IntoBytes};

/// The extents of a range.
#[derive(Debug)]
pub(crate) struct Status<B> {
    offset: u64,
    len: u32,
    /// Most bytes of the answer.
    allocation: u32,
    buf: Option<B>,
    /// It cannot be read: there is something.
    is_unreadable: bool,
}

impl<B: Buffer> Status<B> {
    /// Of `len` bytes, not 0, from `offset`.
    pub(crate) fn new(offset: u64, len: u32, allocation: u32) -> Self {
        Self { offset, len, allocation, buf: None, is_unreadable: false }
    }

    pub(super) fn filled(&mut self, buf: B) {
        self.buf = Some(buf);
    }

    pub(super) fn unreadable(&mut self) {
        self.is_unreadable = true;
    }

    pub(super) fn advance<S: Surroundings<Buf = B>>(
        &mut self,
        door: &mut Door<'_, S>,
    ) -> Advance<B> {
        let (offset, len) = (self.offset, self.len);
        if let Some(buf) = &self.buf {
            return Ok(Step::Done(self.answer(buf.crcs(), door.block_shift)));
        }
        if self.is_unreadable {
            self.len = len.min((BLOCK - offset as usize % BLOCK) as u32);
            return Ok(Step::Done(self.answer(&[!ZERO_BLOCK], door.block_shift)));
        }
        let Some(buf) = door.around.alloc_for_read(page_span(offset, len.into())) else {
            return Ok(Step::Starved);
        };
        Ok(door.submit(BlockRequest::Read { offset, len, buf }))
    }

    /// Runs of pages of one kind, the first and the last cut at the range.
    fn answer(&self, crcs: &[u32], block_shift: u8) -> DataIn<B> {
        let (begin, end) = (self.offset, self.offset + u64::from(self.len));
        let page_len = BLOCK as u64;
        let mut position = begin / page_len * page_len;
        let mut extents = Vec::new();
        for run in crcs.chunk_by(|a, b| (*a == ZERO_BLOCK) == (*b == ZERO_BLOCK)) {
            let (first, next) = (position.max(begin), position + run.len() as u64 * page_len);
            let mut extent = LbaStatus::new_zeroed();
            extent.lba = U64::new(first >> block_shift);
            extent.blocks = U32::new(((next.min(end) - first) >> block_shift) as u32);
            extent.status = if run[0] == ZERO_BLOCK { LBA_DEALLOCATED } else { LBA_MAPPED };
            extents.push(extent);
            position = next;
        }
        let mut header = LbaStatusHeader::new_zeroed();
        let header_rest = size_of::<LbaStatusHeader>() - size_of::<U32>();
        header.len = U32::new((header_rest + size_of_val(&extents[..])) as u32);
        let mut bytes = header.as_bytes().to_vec();
        bytes.extend_from_slice(extents.as_bytes());
        bytes.truncate(self.allocation as usize);
        DataIn::Bytes(bytes)
    }
}
