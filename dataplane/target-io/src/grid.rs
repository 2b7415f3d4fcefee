//! Moving data between places that lie differently on the 4 KiB grid of buffers.

use crate::Buffer;
use storage_spec::crc32c::{self, BLOCK};

/// Bytes of the pages that `len` bytes from `offset` touch.
#[must_use]
pub fn page_span(offset: u64, len: u64) -> usize {
    (offset as usize % BLOCK + len as usize).next_multiple_of(BLOCK)
}

/// The largest piece, at most `left` and not much more than `max` less a page, that touches as many
/// pages at its source as at its destination: the buffer of the read then is that of the write.
#[must_use]
pub fn piece_len(source: u64, destination: u64, left: u64, max: u64) -> u64 {
    let block = BLOCK as u64;
    let (low, high) = (source % block, destination % block);
    let (low, high) = (low.min(high), low.max(high));
    let piece = left.min(max - high);
    if (low + piece).div_ceil(block) == (high + piece).div_ceil(block) {
        piece
    } else {
        (low + piece).div_ceil(block) * block - high
    }
}

/// Moves data that were read from `source` to where data for `destination` must lie in a buffer,
/// with the checksum cells of whole pages.
pub fn shift<B: Buffer>(data: &mut B, source: u64, destination: u64, len: usize) {
    let (from, to) = (source as usize % BLOCK, destination as usize % BLOCK);
    if from == to {
        return;
    }
    data.bytes_mut().copy_within(from..from + len, to);
    for page in to.div_ceil(BLOCK)..(to + len) / BLOCK {
        let crc = crc32c::checksum(&data.bytes()[page * BLOCK..(page + 1) * BLOCK]);
        data.crcs_mut()[page] = crc;
    }
}
