//! Ranges longer than any transfer, without data: VERIFY, and WRITE SAME of zeroes.

use super::{Advance, DataIn, Door, Step};
use target_io::{BlockRequest, LONG_REQUEST_MAX, Surroundings};

/// What is done to the range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LongKind {
    Verify,
    Zero,
}

/// A range, worked through in pieces.
#[derive(Debug)]
pub(crate) struct Long {
    pub(super) kind: LongKind,
    offset: u64,
    left: u64,
}

impl Long {
    pub(crate) fn new(kind: LongKind, offset: u64, len: u64) -> Self {
        Self { kind, offset, left: len }
    }

    pub(super) fn advance<S: Surroundings>(&mut self, door: &mut Door<'_, S>) -> Advance<S::Buf> {
        if self.left == 0 {
            return Ok(Step::Done(DataIn::None));
        }
        let (offset, len) = (self.offset, self.left.min(LONG_REQUEST_MAX));
        self.offset += len;
        self.left -= len;
        Ok(door.submit(match self.kind {
            LongKind::Verify => BlockRequest::Verify { offset, len },
            LongKind::Zero => BlockRequest::Zero { offset, len },
        }))
    }
}
