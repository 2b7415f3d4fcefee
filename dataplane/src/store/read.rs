//! Reads: one device command for each slab, every byte verified, holes zeroed by the bitmap.

use super::device::What;
use super::operation::Kind;
use super::page::{self, RUNS_MAX};
use super::request::block_of;
use super::shard::{NOTHING, Shard};
use super::{Error, Event};
use crate::disk;
use crate::dma::Buf;
use arrayvec::ArrayVec;
use storage_spec::crc32c;
use storage_spec::disk::{BLOCK, SLAB_BLOCKS};

/// Blocks of a hole from which on it is cheaper to pass over it with a read of its own than to read
/// it: 64 KiB. A disk that turns comes past the hole either way.
const HOLE_MIN: u16 = 16;

/// The buffer of a read that was cut: its pieces by their first blocks; `None` while being read.
#[derive(Debug, Default)]
pub(super) struct Pieces {
    parts: ArrayVec<(u16, Option<Buf>), { 2 * RUNS_MAX + 1 }>,
}

impl Pieces {
    fn join(mut self) -> Option<Buf> {
        let mut parts = self.parts.drain(..).map(|(_, part)| part.expect("every run was read"));
        let mut whole = parts.next()?;
        for part in parts {
            whole.join(part);
        }
        Some(whole)
    }
}

impl Shard {
    pub(super) fn run_read(&mut self, at: u32) {
        let operation = &mut self.operations[at];
        if operation.kind == Kind::Verify && operation.buf.is_none() {
            let Some(buf) = self.pool.alloc(usize::from(operation.count) * BLOCK) else {
                self.wait_memory.push_back(at);
                return;
            };
            operation.buf = Some(buf);
        }
        self.read_or_scan(at);
    }

    /// Reads those of the operation's blocks that hold data, and small holes between them.
    pub(super) fn read_or_scan(&mut self, at: u32) {
        let operation = &self.operations[at];
        let page = &self.cache.slots[operation.slot as usize].page;
        let hole = if self.data.rotational { SLAB_BLOCKS as u16 } else { HOLE_MIN };
        let runs = page.runs(operation.first, operation.count, hole);
        match runs.as_slice() {
            [] => self.scan(at),
            &[(first, count)] if count == operation.count => {
                let buf = self.operations[at].buf.take().expect("a reader has a buffer");
                self.read_blocks(at, first, buf);
            }
            runs => self.read_runs(at, runs),
        }
    }

    fn read_blocks(&mut self, at: u32, first: u16, buf: Buf) {
        let operation = &mut self.operations[at];
        operation.io += 1;
        self.cache.slots[operation.slot as usize].page.prefetch(first);
        let offset = self.areas.data_offset(operation.slab, first);
        self.data.read(What::Read, at, offset, buf);
    }

    /// Cuts the operation's buffer at the borders of the runs, which are read each for itself.
    fn read_runs(&mut self, at: u32, runs: &[(u16, u16)]) {
        let operation = &mut self.operations[at];
        let mut rest = operation.buf.take();
        let mut position = operation.first;
        let pieces = self.pieces.insert(Pieces::default());
        operation.pieces = pieces;
        for &(first, count) in runs {
            if first > position {
                let hole = cut(&mut rest, first - position);
                self.pieces[pieces].parts.push((position, Some(hole)));
            }
            let run = cut(&mut rest, count);
            self.pieces[pieces].parts.push((first, None));
            position = first + count;
            self.read_blocks(at, first, run);
        }
        if let Some(rest) = rest {
            self.pieces[pieces].parts.push((position, Some(rest)));
        }
    }

    pub(super) fn read_done(
        &mut self,
        at: u32,
        buf: Buf,
        offset: u64,
        result: Result<(), disk::Error>,
    ) {
        let operation = &mut self.operations[at];
        operation.io -= 1;
        operation.is_read_failed |= result.is_err();
        let is_gone = matches!(result, Err(disk::Error::Failed | disk::Error::Removed));
        operation.is_device_failed |= is_gone;
        if operation.pieces == NOTHING {
            operation.buf = Some(buf);
        } else {
            let slab = operation.slab;
            let parts = &mut self.pieces[operation.pieces].parts;
            let mut missing = parts.iter_mut().filter(|(_, part)| part.is_none());
            let part =
                missing.find(|&&mut (first, _)| self.areas.data_offset(slab, first) == offset);
            part.expect("the run was cut from this operation").1 = Some(buf);
            if operation.io > 0 {
                return;
            }
            let pieces = std::mem::replace(&mut operation.pieces, NOTHING);
            operation.buf = self.pieces.remove(pieces).join();
        }
        if self.operations[at].is_device_failed {
            return self.finish(at, Err(Error::Failed));
        }
        self.scan(at);
    }

    /// Verifies block after block; one that does not match is read once more by itself.
    fn scan(&mut self, at: u32) {
        let operation = &mut self.operations[at];
        let page = &self.cache.slots[operation.slot as usize].page;
        let mut buf = operation.buf.take().expect("a reader has a buffer");
        let mut bad = None;
        for position in usize::from(operation.cursor)..usize::from(operation.count) {
            let block = operation.first + position as u16;
            let bytes = &mut buf[position * BLOCK..][..BLOCK];
            let crc = match page.crc(block) {
                _ if page.is_poisoned(block) => {
                    bad = Some((position, false));
                    break;
                }
                None => {
                    bytes.fill(0);
                    crc32c::ZERO_BLOCK
                }
                Some(crc) if !operation.is_read_failed && page::matches(bytes, crc) => crc,
                Some(_) => {
                    bad = Some((position, true));
                    break;
                }
            };
            buf.crcs_mut()[position] = crc;
        }
        operation.buf = Some(buf);
        match bad {
            None => self.scanned(at),
            Some((position, may_retry)) => {
                operation.cursor = position as u16;
                if may_retry { self.reread(at) } else { self.block_error(at) }
            }
        }
    }

    fn reread(&mut self, at: u32) {
        let Some(buf) = self.page_buf() else {
            // Without memory for a second try the first one stands.
            return self.data_error(at);
        };
        let operation = &mut self.operations[at];
        operation.io += 1;
        let block = operation.first + operation.cursor;
        let offset = self.areas.data_offset(operation.slab, block);
        self.data.read(What::Reread, at, offset, buf);
    }

    pub(super) fn reread_done(&mut self, at: u32, again: Buf, result: Result<(), disk::Error>) {
        let operation = &mut self.operations[at];
        operation.io -= 1;
        let page = &self.cache.slots[operation.slot as usize].page;
        let position = usize::from(operation.cursor);
        let crc = page.crc(operation.first + operation.cursor).expect("only data are read again");
        let is_good = result.is_ok() && page::matches(&again, crc);
        if is_good {
            let buf = operation.buf.as_mut().expect("a reader has a buffer");
            buf[position * BLOCK..][..BLOCK].copy_from_slice(&again);
            buf.crcs_mut()[position] = crc;
            operation.cursor += 1;
            self.counters.block_retries += 1;
        }
        self.return_page_buf(again);
        if is_good { self.scan(at) } else { self.data_error(at) }
    }

    /// The block at the cursor is not what was written.
    fn data_error(&mut self, at: u32) {
        if self.is_failed {
            // It may have been acknowledged and never have come here; then the journal has it, for
            // the next mount: no reason to call the medium bad.
            return self.finish(at, Err(Error::Failed));
        }
        self.block_error(at);
    }

    /// The block at the cursor is bad.
    fn block_error(&mut self, at: u32) {
        let operation = &self.operations[at];
        let (chunk, block) =
            (operation.owner.key(), block_of(operation.owner, operation.first + operation.cursor));
        self.counters.block_errors += 1;
        self.tell(Event::BlockError { chunk, block });
        self.finish(at, Err(Error::Media { block }));
    }

    /// Every block of the buffer is what it must be.
    fn scanned(&mut self, at: u32) {
        match self.operations[at].kind {
            Kind::Read | Kind::Verify => self.finish(at, Ok(())),
            _ => self.merge(at),
        }
    }

    /// Where no slab is, everything is zero.
    pub(super) fn read_nothing(&mut self, at: u32) {
        let buf = self.operations[at].buf.as_mut().expect("a reader has a buffer");
        buf.fill(0);
        buf.crcs_mut().fill(crc32c::ZERO_BLOCK);
        self.finish(at, Ok(()));
    }

    /// Acknowledged data that are not yet in place answer a read.
    pub(super) fn read_memory(&mut self, at: u32, destage: u32) {
        let source = &self.operations[destage];
        let start = usize::from(self.operations[at].first - source.first);
        let data = source.data.as_ref().expect("a destage has data").clone();
        let operation = &mut self.operations[at];
        let count = usize::from(operation.count);
        let buf = operation.buf.as_mut().expect("a reader has a buffer");
        buf.copy_from_slice(&data[start * BLOCK..][..count * BLOCK]);
        buf.crcs_mut().copy_from_slice(&data.crcs()[start..][..count]);
        self.finish(at, Ok(()));
    }
}

/// Cuts `blocks` from the front of a buffer.
fn cut(rest: &mut Option<Buf>, blocks: u16) -> Buf {
    let len = usize::from(blocks) * BLOCK;
    let mut front = rest.take().expect("runs lie within the buffer");
    *rest = (len < front.len()).then(|| front.split_off(len));
    front
}
