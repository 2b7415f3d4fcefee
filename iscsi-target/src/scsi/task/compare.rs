//! VERIFY with data, and COMPARE AND WRITE.

use super::{Advance, DataIn, Door, Pieces, Step, page_span, seal};
use storage_spec::crc32c::BLOCK;
use target_io::{BlockRequest, Buffer, Surroundings};

/// One comparison.
#[derive(Debug)]
pub(crate) struct Compare<B> {
    /// Where the whole of it begins.
    pub(super) offset: u64,
    pub(super) pieces: Pieces,
    pub(super) data: Option<B>,
}

impl<B> Compare<B> {
    pub(crate) fn new(offset: u64, len: u32) -> Self {
        Self { offset, pieces: Pieces::new(offset, len), data: None }
    }

    pub(super) fn advance<S: Surroundings<Buf = B>>(
        &mut self,
        door: &mut Door<'_, S>,
    ) -> Advance<B> {
        let (offset, len) = (self.pieces.offset(), self.pieces.len());
        Ok(match self.data.take() {
            Some(expected) => door.submit(BlockRequest::Compare { offset, len, expected }),
            None if self.pieces.next() => Step::WantsData,
            None => Step::Done(DataIn::None),
        })
    }
}

/// COMPARE AND WRITE within a block of the store.
#[derive(Debug)]
pub(crate) struct CompareAndWrite<B> {
    pub(super) offset: u64,
    len: u32,
    /// What must be there, then what replaces it.
    pub(super) data: Option<B>,
}

impl<B: Buffer> CompareAndWrite<B> {
    pub(crate) fn new(offset: u64, len: u32) -> Self {
        Self { offset, len, data: None }
    }

    pub(super) fn advance<S: Surroundings<Buf = B>>(
        &mut self,
        door: &mut Door<'_, S>,
    ) -> Advance<B> {
        let (offset, len) = (self.offset, self.len);
        let Some(both) = &self.data else {
            return Ok(Step::Done(DataIn::None));
        };
        let span = page_span(offset, len.into());
        let Some(mut expected) = door.around.alloc(span) else {
            return Ok(Step::Starved);
        };
        let Some(mut data) = door.around.alloc(span) else {
            return Ok(Step::Starved);
        };
        let (head, len) = (offset as usize % BLOCK, len as usize);
        let both = both.bytes();
        expected.bytes_mut()[head..head + len].copy_from_slice(&both[..len]);
        data.bytes_mut()[head..head + len].copy_from_slice(&both[len..2 * len]);
        seal(&mut expected, head, len);
        seal(&mut data, head, len);
        self.data = None;
        let len = len as u32;
        Ok(door.submit(BlockRequest::CompareAndWrite { offset, len, expected, data }))
    }
}
