//! GET LBA STATUS (SBC-3 section 5.5).
//!
//! What reads as zeroes is told to be deallocated, since it cannot be told from what is: unmapped
//! blocks read as zeroes here, and hosts ask in order not to read those.

use super::{Advance, DataIn, Door, Step, page_span};
use crate::scsi::PIECE_MAX;
use storage_spec::crc32c::{BLOCK, ZERO_BLOCK};
use storage_spec::scsi::parameter::{LBA_DEALLOCATED, LBA_MAPPED, LbaStatus, LbaStatusHeader};
use target_io::{BlockRequest, Buffer, Surroundings};
use zerocopy::big_endian::{U32, U64};
use zerocopy::{FromZeros, IntoBytes};

/// The most that is looked at of a hole, all of which is read: tens of requests, not thousands.
const HOLE_BYTES_MAX: u64 = 64 << 20;

/// The extents from a place on: of one piece, or, while it is a hole, of several.
#[derive(Debug)]
pub(crate) struct Status<B> {
    /// Where the answer begins, and the first byte after what may be looked at.
    begin: u64,
    end: u64,
    /// The piece at hand. All before it is a hole.
    offset: u64,
    len: u32,
    /// Most bytes of the answer.
    allocation: u32,
    buf: Option<B>,
    /// It cannot be read: there is something.
    is_unreadable: bool,
}

impl<B: Buffer> Status<B> {
    /// Of a unit with this capacity, from `begin`, which is below it.
    pub(crate) fn new(begin: u64, capacity: u64, allocation: u32) -> Self {
        let end = capacity.min(begin + HOLE_BYTES_MAX);
        let mut this =
            Self { begin, end, offset: begin, len: 0, allocation, buf: None, is_unreadable: false };
        this.len = this.piece();
        this
    }

    pub(super) fn filled(&mut self, buf: B) {
        self.buf = Some(buf);
    }

    pub(super) fn unreadable(&mut self) {
        self.is_unreadable = true;
    }

    /// Bytes from the place at hand to the end, or to a place on the grid.
    fn piece(&self) -> u32 {
        (self.end - self.offset).min(PIECE_MAX - self.offset % BLOCK as u64) as u32
    }

    pub(super) fn advance<S: Surroundings<Buf = B>>(
        &mut self,
        door: &mut Door<'_, S>,
    ) -> Advance<B> {
        if let Some(buf) = self.buf.take() {
            let next = self.offset + u64::from(self.len);
            let holes = holes(&buf);
            if next == self.end || holes.contains(&false) {
                return Ok(Step::Done(self.answer(&holes, door.block_shift)));
            }
            self.offset = next;
            self.len = self.piece();
        }
        let (offset, len) = (self.offset, self.len);
        if self.is_unreadable {
            self.len = len.min((BLOCK - offset as usize % BLOCK) as u32);
            return Ok(Step::Done(self.answer(&[false], door.block_shift)));
        }
        let Some(buf) = door.around.alloc_for_read(page_span(offset, len.into())) else {
            return Ok(Step::Starved);
        };
        Ok(door.submit(BlockRequest::Read { offset, len, buf }))
    }

    /// Runs of pages of one kind, the first and the last cut at the range.
    fn answer(&self, holes: &[bool], block_shift: u8) -> DataIn<B> {
        let (from, end) = (self.offset, self.offset + u64::from(self.len));
        let page_len = BLOCK as u64;
        let mut position = from / page_len * page_len;
        // The hole before the piece goes on in it, or is an extent of its own.
        let hole = (self.begin < from).then_some((self.begin, from, LBA_DEALLOCATED));
        let mut found: Vec<(u64, u64, u8)> = hole.into_iter().collect();
        for run in holes.chunk_by(|one, next| one == next) {
            let (first, next) = (position.max(from), position + run.len() as u64 * page_len);
            let status = if run[0] { LBA_DEALLOCATED } else { LBA_MAPPED };
            match found.last_mut() {
                Some(last) if last.2 == status => last.1 = next.min(end),
                _ => found.push((first, next.min(end), status)),
            }
            position = next;
        }
        let extents: Vec<LbaStatus> = found
            .into_iter()
            .map(|(first, next, status)| {
                let mut extent = LbaStatus::new_zeroed();
                extent.lba = U64::new(first >> block_shift);
                extent.blocks = U32::new(((next - first) >> block_shift) as u32);
                extent.status = status;
                extent
            })
            .collect();
        let mut header = LbaStatusHeader::new_zeroed();
        let header_rest = size_of::<LbaStatusHeader>() - size_of::<U32>();
        header.len = U32::new((header_rest + size_of_val(&extents[..])) as u32);
        let mut bytes = header.as_bytes().to_vec();
        bytes.extend_from_slice(extents.as_bytes());
        bytes.truncate(self.allocation as usize);
        DataIn::Bytes(bytes)
    }
}

/// Of each page whether it reads as zeroes. The checksum says so in a hurry, but others have the
/// same one, and anybody can write such a page.
fn holes<B: Buffer>(buf: &B) -> Vec<bool> {
    let pages = buf.bytes().chunks(BLOCK);
    let is_hole =
        |(page, &crc): (&[u8], &u32)| crc == ZERO_BLOCK && page.iter().all(|&byte| byte == 0);
    pages.zip(buf.crcs()).map(is_hole).collect()
}
