//! ORWRITE: each block of the store is read, or'ed, and written if it is still what was read. That
//! is as one for each block of the store, not for the command: a store compares and writes no more
//! at once.

use super::{Advance, DataIn, Door, Pieces, Step, seal};
use storage_spec::crc32c::BLOCK;
use target_io::{BlockRequest, Buffer, Surroundings};

/// How often a block is tried again that others write meanwhile.
const TRIES_MAX: u32 = 1000;

/// A range, worked through block by block.
#[derive(Debug)]
pub(crate) struct OrWrite<B> {
    pub(super) pieces: Pieces,
    /// Bytes of the piece at hand that are done.
    done: u32,
    tries: u32,
    /// The bits to set of the piece at hand, where they lie in their blocks.
    pub(super) data: Option<B>,
    /// What was read, and the buffer for what is to be written.
    read: Option<B>,
    spare: Option<B>,
    is_writing: bool,
}

impl<B: Buffer> OrWrite<B> {
    pub(crate) fn new(offset: u64, len: u32) -> Self {
        Self {
            pieces: Pieces::new(offset, len),
            done: 0,
            tries: 0,
            data: None,
            read: None,
            spare: None,
            is_writing: false,
        }
    }

    /// Whether a request that is under way writes.
    pub(super) fn writes(&self) -> bool {
        self.is_writing
    }

    /// Takes a completion: of the read with its buffer, or of the write.
    pub(super) fn completed(&mut self, read: Option<B>) {
        assert_eq!(read.is_none(), self.is_writing, "reads alone return a buffer");
        if self.is_writing {
            self.next();
        }
        self.read = read;
    }

    fn next(&mut self) {
        self.done += self.piece();
        self.tries = 0;
    }

    /// Others have written the block meanwhile: whether to try it again.
    pub(super) fn tries_again(&mut self) -> bool {
        self.tries += 1;
        self.tries < TRIES_MAX
    }

    /// Bytes up to the end of the block at hand.
    fn piece(&self) -> u32 {
        let head = (self.at() % BLOCK as u64) as u32;
        (BLOCK as u32 - head).min(self.pieces.len() - self.done)
    }

    /// Where the block at hand, or the part of it, begins.
    fn at(&self) -> u64 {
        self.pieces.offset() + u64::from(self.done)
    }

    pub(super) fn advance<S: Surroundings<Buf = B>>(
        &mut self,
        door: &mut Door<'_, S>,
    ) -> Advance<B> {
        if let Some(expected) = self.read.take() {
            let (offset, len) = (self.at(), self.piece());
            let data = self.spare.take().expect("there are two buffers or none");
            if let Some(data) = self.or(&expected, data) {
                self.is_writing = true;
                let request = BlockRequest::CompareAndWrite { offset, len, expected, data };
                return Ok(door.submit(request));
            }
            // All bits were set when it was read: then it was done.
            self.next();
        }
        if self.done == self.pieces.len() {
            (self.data, self.done) = (None, 0);
            let is_over = !self.pieces.next();
            return Ok(if is_over { Step::Done(DataIn::None) } else { Step::WantsData });
        }
        let (offset, len) = (self.at(), self.piece());
        let Some(buf) = door.around.alloc(BLOCK) else {
            return Ok(Step::Starved);
        };
        let Some(spare) = door.around.alloc(BLOCK) else {
            return Ok(Step::Starved);
        };
        self.spare = Some(spare);
        self.is_writing = false;
        Ok(door.submit(BlockRequest::Read { offset, len, buf }))
    }

    /// The block as it is to be; `None` if it is so already.
    fn or(&self, read: &B, mut target: B) -> Option<B> {
        let bits = self.data.as_ref().expect("the bits stay to the end of the piece").bytes();
        let head = self.at() as usize % BLOCK;
        let len = self.piece() as usize;
        let from = self.pieces.offset() as usize % BLOCK + self.done as usize;
        let pairs = read.bytes()[head..head + len].iter().zip(&bits[from..from + len]);
        for (target, (read, bits)) in target.bytes_mut()[head..head + len].iter_mut().zip(pairs) {
            *target = read | bits;
        }
        seal(&mut target, head, len);
        let range = head..head + len;
        (target.bytes()[range.clone()] != read.bytes()[range]).then_some(target)
    }
}
