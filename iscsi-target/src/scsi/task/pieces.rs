//! A range that is worked through in pieces of one buffer each.

use storage_spec::crc32c::BLOCK;
use target_io::TRANSFER_MAX;

/// A range and the piece of it at hand. All pieces but the first begin on the store's grid.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pieces {
    offset: u64,
    len: u32,
    /// Bytes behind the piece at hand.
    left: u32,
    max: u32,
}

impl Pieces {
    /// Pieces of at most [`TRANSFER_MAX`]; the first is at hand.
    pub(crate) fn new(offset: u64, len: u32) -> Self {
        Self { offset, len: 0, left: len, max: TRANSFER_MAX as u32 }.first()
    }

    fn first(mut self) -> Self {
        (self.left, self.len) = (self.left + self.len, 0);
        self.next();
        self
    }

    /// The same range from the first piece at hand on, in pieces whose buffers have at most `max`
    /// bytes: whole blocks of the store, and no more than [`TRANSFER_MAX`].
    pub(crate) fn limit(&mut self, max: u32) {
        assert!(max > 0 && max.is_multiple_of(BLOCK as u32) && max <= TRANSFER_MAX as u32);
        self.max = max;
        *self = self.first();
    }

    /// The first `len` bytes of the range alone.
    pub(crate) fn shorten(&mut self, len: u32) {
        assert!(len <= self.len + self.left, "a range becomes no longer");
        (self.left, self.len) = (len, 0);
        *self = self.first();
    }

    /// Where the piece at hand begins.
    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }

    /// Its length in bytes: 0 only of an empty range.
    pub(crate) fn len(&self) -> u32 {
        self.len
    }

    /// Bytes of the range behind it.
    pub(crate) fn left(&self) -> u32 {
        self.left
    }

    /// Goes on to the next piece, if there is one.
    pub(crate) fn next(&mut self) -> bool {
        self.offset += u64::from(self.len);
        let head = (self.offset % BLOCK as u64) as u32;
        self.len = piece_len(head, self.left, self.max);
        self.left -= self.len;
        self.len > 0
    }
}

/// Length of a command's next piece: as much of the `left` bytes as a buffer of `max` bytes holds
/// from `head` on.
#[must_use]
pub fn piece_len(head: u32, left: u32, max: u32) -> u32 {
    left.min(max - head)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn pieces_cover_the_range_on_the_grid(
            sector in 0..1000_u64, len in 0..4_000_000_u32, max in 1..=256_u32, cut in 0..2_u32,
        ) {
            let (offset, max) = (sector * 512, max * 4096);
            let mut pieces = Pieces::new(offset, len);
            pieces.limit(max);
            let len = len >> cut;
            pieces.shorten(len);
            let (mut at, end) = (offset, offset + u64::from(len));
            while pieces.len() > 0 {
                prop_assert_eq!(pieces.offset(), at);
                prop_assert!(at == offset || at.is_multiple_of(BLOCK as u64));
                prop_assert!((at % BLOCK as u64) as u32 + pieces.len() <= max);
                at += u64::from(pieces.len());
                prop_assert_eq!(u64::from(pieces.left()), end - at);
                prop_assert_eq!(pieces.next(), at < end);
            }
            prop_assert_eq!(at, end);
        }
    }
}
