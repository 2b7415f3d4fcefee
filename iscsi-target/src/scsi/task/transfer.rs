//! READ, WRITE, and WRITE AND VERIFY.

use super::{Advance, DataIn, Door, Step, page_span};
use storage_spec::crc32c::BLOCK;
use target_io::{BlockRequest, Surroundings};

/// One read.
#[derive(Debug)]
pub(crate) struct Read<B> {
    offset: u64,
    len: u32,
    buf: Option<B>,
}

impl<B> Read<B> {
    pub(crate) fn new(offset: u64, len: u32) -> Self {
        Self { offset, len, buf: None }
    }

    pub(super) fn filled(&mut self, buf: B) {
        self.buf = Some(buf);
    }

    pub(super) fn advance<S: Surroundings<Buf = B>>(
        &mut self,
        door: &mut Door<'_, S>,
    ) -> Advance<B> {
        let (offset, len) = (self.offset, self.len);
        if let Some(buf) = self.buf.take() {
            let head = offset as usize % BLOCK;
            return Ok(Step::Done(DataIn::Buffer { buf, range: head..head + len as usize }));
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
    offset: u64,
    len: u32,
    verify: bool,
    data: Option<B>,
    is_written: bool,
}

impl<B> Write<B> {
    pub(crate) fn new(offset: u64, len: u32, verify: bool) -> Self {
        Self { offset, len, verify, data: None, is_written: false }
    }

    pub(super) fn take(&mut self, data: Option<B>) {
        assert_eq!(data.is_some(), self.len > 0, "the transport brings what the task needs");
        self.data = data;
    }

    /// Writes less than was asked for: it may be nothing.
    pub(crate) fn shorten(&mut self, len: u32) {
        assert!(len <= self.len, "a write becomes no longer");
        self.len = len;
    }

    /// Whether a request that is under way writes.
    pub(super) fn writes(&self) -> bool {
        !self.is_written
    }

    pub(super) fn completed(&mut self) {
        self.verify &= !self.is_written;
        self.is_written = true;
    }

    pub(super) fn advance<S: Surroundings<Buf = B>>(
        &mut self,
        door: &mut Door<'_, S>,
    ) -> Advance<B> {
        let (offset, len) = (self.offset, self.len);
        Ok(match self.data.take() {
            _ if len == 0 => Step::Done(DataIn::None),
            Some(data) => door.submit(BlockRequest::Write { offset, len, data }),
            None if self.verify => door.submit(BlockRequest::Verify { offset, len: len.into() }),
            None => Step::Done(DataIn::None),
        })
    }
}
