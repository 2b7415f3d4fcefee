//! READ, WRITE, and WRITE AND VERIFY.

use super::{Advance, DataIn, Door, Pieces, Step, page_span};
use storage_spec::crc32c::BLOCK;
use target_io::{BlockRequest, Surroundings};

/// One read.
#[derive(Debug)]
pub(crate) struct Read<B> {
    pub(super) pieces: Pieces,
    buf: Option<B>,
}

impl<B> Read<B> {
    pub(crate) fn new(offset: u64, len: u32) -> Self {
        Self { pieces: Pieces::new(offset, len), buf: None }
    }

    pub(super) fn filled(&mut self, buf: B) {
        self.buf = Some(buf);
    }

    pub(super) fn advance<S: Surroundings<Buf = B>>(
        &mut self,
        door: &mut Door<'_, S>,
    ) -> Advance<B> {
        let (offset, len) = (self.pieces.offset(), self.pieces.len());
        if let Some(buf) = self.buf.take() {
            let head = offset as usize % BLOCK;
            let data = DataIn::Buffer { buf, range: head..head + len as usize };
            let left = self.pieces.left();
            return Ok(if self.pieces.next() { Step::Part(data, left) } else { Step::Done(data) });
        }
        let Some(buf) = door.around.alloc_for_read(page_span(offset, len.into())) else {
            return Ok(Step::Starved);
        };
        Ok(door.submit(BlockRequest::Read { offset, len, buf }))
    }
}

/// One write. What is to be verified is then read by the store, which holds the checksums of the
/// data that were sent: that it matches them is a comparison with what was sent.
#[derive(Debug)]
pub(crate) struct Write<B> {
    pub(super) pieces: Pieces,
    verify: bool,
    data: Option<B>,
    stage: Stage,
}

/// What was done with the piece at hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Nothing,
    Written,
    Verified,
}

impl<B> Write<B> {
    pub(crate) fn new(offset: u64, len: u32, verify: bool) -> Self {
        Self { pieces: Pieces::new(offset, len), verify, data: None, stage: Stage::Nothing }
    }

    pub(super) fn take(&mut self, data: Option<B>) {
        assert_eq!(data.is_some(), self.pieces.len() > 0, "the transport brings what is needed");
        self.data = data;
    }

    /// Writes less than was asked for: it may be nothing.
    pub(crate) fn shorten(&mut self, len: u32) {
        self.pieces.shorten(len);
    }

    /// Whether a request that is under way writes.
    pub(super) fn writes(&self) -> bool {
        self.stage == Stage::Nothing
    }

    pub(super) fn completed(&mut self) {
        self.stage = if self.writes() { Stage::Written } else { Stage::Verified };
    }

    pub(super) fn advance<S: Surroundings<Buf = B>>(
        &mut self,
        door: &mut Door<'_, S>,
    ) -> Advance<B> {
        let (offset, len) = (self.pieces.offset(), self.pieces.len());
        if let Some(data) = self.data.take() {
            return Ok(door.submit(BlockRequest::Write { offset, len, data }));
        }
        if self.verify && self.stage == Stage::Written {
            return Ok(door.submit(BlockRequest::Verify { offset, len: len.into() }));
        }
        self.stage = Stage::Nothing;
        Ok(if self.pieces.next() { Step::WantsData } else { Step::Done(DataIn::None) })
    }
}
