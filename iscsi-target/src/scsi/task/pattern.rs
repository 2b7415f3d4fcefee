//! One block for a whole range: WRITE SAME, and VERIFY with BYTCHK 3.

use super::long::{Long, LongKind};
use super::{Advance, DataIn, Door, Step, page_span};
use crate::scsi::PIECE_MAX;
use storage_spec::crc32c::{self, BLOCK};
use target_io::{BlockRequest, Buffer, Surroundings};

/// A block, and the range that it is written to or compared with.
#[derive(Debug)]
pub(crate) struct Pattern<B> {
    pub(super) compares: bool,
    /// The block is not looked at: the range is unmapped.
    unmaps: bool,
    offset: u64,
    left: u64,
    /// Bytes of the block.
    pub(super) len: u32,
    block: Option<B>,
    /// Of a page full of such blocks.
    crc: u32,
    /// Takes the place of writing where the block is all zeroes.
    zero: Option<Long>,
}

impl<B: Buffer> Pattern<B> {
    /// Writes it.
    pub(crate) fn write(offset: u64, left: u64, len: u32) -> Self {
        Self { compares: false, unmaps: false, offset, left, len, block: None, crc: 0, zero: None }
    }

    /// Unmaps the range, whatever the block is.
    pub(crate) fn unmap(offset: u64, left: u64, len: u32) -> Self {
        Self { unmaps: true, ..Self::write(offset, left, len) }
    }

    /// Compares it.
    pub(crate) fn verify(offset: u64, left: u64, len: u32) -> Self {
        Self { compares: true, ..Self::write(offset, left, len) }
    }

    /// Takes the block, which is at the beginning of its buffer.
    pub(super) fn take(&mut self, mut data: B) {
        let len = self.len as usize;
        let bytes = data.bytes_mut();
        let is_zero = || bytes[..len].iter().all(|&byte| byte == 0);
        if self.unmaps || !self.compares && is_zero() {
            self.zero = Some(Long::new(LongKind::Zero, self.offset, self.left));
            return;
        }
        repeat(&mut bytes[..BLOCK], len);
        self.crc = crc32c::checksum(&bytes[..BLOCK]);
        self.block = Some(data);
    }

    pub(super) fn advance<S: Surroundings<Buf = B>>(
        &mut self,
        door: &mut Door<'_, S>,
    ) -> Advance<B> {
        if let Some(zero) = &mut self.zero {
            return zero.advance(door);
        }
        if self.left == 0 {
            return Ok(Step::Done(DataIn::None));
        }
        let offset = self.offset;
        // Pieces end on the grid, so that each but the first begins there.
        let len = self.left.min(PIECE_MAX - offset % BLOCK as u64);
        let Some(mut data) = door.around.alloc(page_span(offset, len)) else {
            return Ok(Step::Starved);
        };
        let page = &self.block.as_ref().expect("the block stays to the end").bytes()[..BLOCK];
        for target in data.bytes_mut().chunks_exact_mut(BLOCK) {
            target.copy_from_slice(page);
        }
        data.crcs_mut().fill(self.crc);
        self.offset += len;
        self.left -= len;
        let len = len as u32;
        Ok(door.submit(if self.compares {
            BlockRequest::Compare { offset, len, expected: data }
        } else {
            BlockRequest::Write { offset, len, data }
        }))
    }
}

/// Fills `bytes` with repetitions of its first `len`.
fn repeat(bytes: &mut [u8], len: usize) {
    let (block, rest) = bytes.split_at_mut(len);
    for target in rest.chunks_exact_mut(len) {
        target.copy_from_slice(block);
    }
}
