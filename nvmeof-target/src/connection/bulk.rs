//! Commands that take many block requests: Dataset Management and Copy. One request at a time, so
//! that such a command takes no more of the store than a read or write.

use super::Connection;
use super::execute::status_of;
use super::plan::{lookup, range_bytes};
use super::slots::Kind;
use crate::io::{BlockRequest, BlockResult, Buffer, Surroundings};
use crate::limits::LONG_COMMAND_MAX;
use crate::seam::{COPY_BLOCKS_MAX, COPY_RANGE_BLOCKS_MAX, Namespace};
use storage_spec::nvme::command::{CopyRange, DsmRange};
use storage_spec::nvme::status::Status;
use target_io::grid;
use zerocopy::FromBytes;

/// Bytes copied at a time.
pub(super) const PIECE_MAX: u64 = 256 << 10;

impl<B: Buffer> Connection<B> {
    pub(super) fn start_dataset<S: Surroundings<Buf = B>>(&mut self, slot: u16, around: &mut S) {
        if let Err(status) = self.check_dataset(slot) {
            self.slots[slot].status = status.dnr();
            self.respond(slot);
            return;
        }
        self.slots[slot].progress.begun = true;
        self.next_deallocation(slot, around);
    }

    /// All ranges are checked before the first is deallocated.
    fn check_dataset(&self, slot: u16) -> Result<(), Status> {
        let entry = &self.slots[slot];
        let namespace = lookup(&self.namespaces, entry.namespace_id)?;
        for range in 0..entry.progress.ranges {
            let range = self.dataset_range(slot, range);
            range_bytes(&namespace, range.lba.get(), u64::from(range.blocks.get()))?;
        }
        Ok(())
    }

    fn next_deallocation<S: Surroundings<Buf = B>>(&mut self, slot: u16, around: &mut S) {
        loop {
            let progress = self.slots[slot].progress;
            if progress.range == progress.ranges {
                self.respond(slot);
                return;
            }
            let range = self.dataset_range(slot, progress.range);
            let entry = &mut self.slots[slot];
            let shift = entry.block_shift;
            let left = (u64::from(range.blocks.get()) << shift) - progress.range_done;
            if left == 0 {
                entry.progress.range += 1;
                entry.progress.range_done = 0;
                continue;
            }
            let offset = (range.lba.get() << shift) + progress.range_done;
            let len = left.min(LONG_COMMAND_MAX);
            entry.progress.range_done += len;
            self.submit(slot, BlockRequest::Zero { offset, len }, around);
            return;
        }
    }

    fn dataset_range(&self, slot: u16, range: u16) -> DsmRange {
        let entry = &self.slots[slot];
        let bytes = entry.buf.as_ref().expect("the range list stays to the end").bytes();
        let at = usize::from(range) * usize::from(entry.progress.stride);
        DsmRange::read_from_bytes(&bytes[at..at + size_of::<DsmRange>()])
            .expect("the length is that of the structure")
    }

    pub(super) fn start_copy<S: Surroundings<Buf = B>>(&mut self, slot: u16, around: &mut S) {
        match self.check_copy(slot) {
            Ok(destination) => {
                let entry = &mut self.slots[slot];
                entry.offset = destination;
                entry.progress.begun = true;
                self.copy_piece(slot, around);
            }
            Err((range, status)) => {
                let entry = &mut self.slots[slot];
                entry.result = u64::from(range);
                entry.status = status.dnr();
                self.respond(slot);
            }
        }
    }

    /// Offset of the destination, or the first range that is wrong. All ranges are checked before
    /// the first is copied.
    fn check_copy(&self, slot: u16) -> Result<u64, (u16, Status)> {
        let entry = &self.slots[slot];
        let namespace =
            lookup(&self.namespaces, entry.namespace_id).map_err(|status| (0, status))?;
        let mut blocks = 0;
        for range in 0..entry.progress.ranges {
            let len = u64::from(self.copy_range(slot, range).blocks_z.get()) + 1;
            blocks += len;
            if len > u64::from(COPY_RANGE_BLOCKS_MAX) || blocks > u64::from(COPY_BLOCKS_MAX) {
                return Err((range, Status::COMMAND_SIZE_LIMIT_EXCEEDED));
            }
        }
        let (destination, total) =
            range_bytes(&namespace, entry.offset, blocks).map_err(|status| (0, status))?;
        for range in 0..entry.progress.ranges {
            let (offset, len) =
                self.copy_source(&namespace, slot, range).map_err(|status| (range, status))?;
            if offset < destination + total && destination < offset + len {
                return Err((range, Status::OVERLAPPING_RANGE));
            }
        }
        Ok(destination)
    }

    /// Reads the next piece; false if there is no buffer now.
    pub(super) fn copy_piece<S: Surroundings<Buf = B>>(
        &mut self,
        slot: u16,
        around: &mut S,
    ) -> bool {
        let progress = self.slots[slot].progress;
        if progress.range == progress.ranges {
            self.respond(slot);
            return true;
        }
        if let Err(status) = self.may_begin(slot) {
            self.fail_copy(slot, status);
            return true;
        }
        let range = self.copy_range(slot, progress.range);
        let shift = self.slots[slot].block_shift;
        let len = (u64::from(range.blocks_z.get()) + 1) << shift;
        let source = (range.lba.get() << shift) + progress.range_done;
        let destination = self.slots[slot].offset + progress.done;
        let left = len - progress.range_done;
        let piece = grid::piece_len(source, destination, left, PIECE_MAX);
        let Some(buf) = around.alloc(grid::page_span(source, piece)) else {
            self.wait_for_buffer(slot);
            return false;
        };
        let progress = &mut self.slots[slot].progress;
        progress.piece = piece as u32;
        progress.writing = false;
        self.submit(slot, BlockRequest::Read { offset: source, len: piece as u32, buf }, around);
        true
    }

    /// One request of a Dataset Management or Copy has ended.
    pub(super) fn piece_complete<S: Surroundings<Buf = B>>(
        &mut self,
        slot: u16,
        result: BlockResult<B>,
        around: &mut S,
    ) {
        let entry = &mut self.slots[slot];
        let writing = entry.progress.writing;
        match result {
            BlockResult::Failed(error) if entry.kind == Kind::Dataset => {
                entry.locate(error);
                entry.status = status_of(error, Kind::Dataset);
                self.respond(slot);
            }
            BlockResult::Failed(error) => {
                entry.locate(error);
                let kind = if writing { Kind::Write } else { Kind::Read };
                self.fail_copy(slot, status_of(error, kind));
            }
            BlockResult::Done(_) if entry.kind == Kind::Dataset => match self.may_begin(slot) {
                Ok(()) => self.next_deallocation(slot, around),
                Err(status) => {
                    self.slots[slot].status = status;
                    self.respond(slot);
                }
            },
            BlockResult::Done(None) => {
                assert!(writing, "a read returns its buffer");
                self.piece_written(slot);
                self.copy_piece(slot, around);
            }
            BlockResult::Done(Some(buf)) => match self.may_begin(slot) {
                Ok(()) => self.write_piece(slot, buf, around),
                Err(status) => self.fail_copy(slot, status),
            },
        }
    }

    fn write_piece<S: Surroundings<Buf = B>>(&mut self, slot: u16, mut data: B, around: &mut S) {
        let entry = &mut self.slots[slot];
        let len = entry.progress.piece;
        let shift = entry.block_shift;
        let range = entry.progress.range;
        let source_done = entry.progress.range_done;
        let offset = entry.offset + entry.progress.done;
        entry.progress.writing = true;
        let source = (self.copy_range(slot, range).lba.get() << shift) + source_done;
        grid::shift(&mut data, source, offset, len as usize);
        self.submit(slot, BlockRequest::Write { offset, len, data }, around);
    }

    fn piece_written(&mut self, slot: u16) {
        let range = self.copy_range(slot, self.slots[slot].progress.range);
        let entry = &mut self.slots[slot];
        let len = (u64::from(range.blocks_z.get()) + 1) << entry.block_shift;
        let progress = &mut entry.progress;
        progress.done += u64::from(progress.piece);
        progress.range_done += u64::from(progress.piece);
        if progress.range_done == len {
            progress.range += 1;
            progress.range_done = 0;
        }
    }

    /// Dword 0 tells the host which range was the first not to be copied whole.
    fn fail_copy(&mut self, slot: u16, status: Status) {
        let entry = &mut self.slots[slot];
        entry.result = u64::from(entry.progress.range);
        entry.status = status;
        self.respond(slot);
    }

    fn copy_source(
        &self,
        namespace: &Namespace,
        slot: u16,
        range: u16,
    ) -> Result<(u64, u64), Status> {
        let range = self.copy_range(slot, range);
        range_bytes(namespace, range.lba.get(), u64::from(range.blocks_z.get()) + 1)
    }

    fn copy_range(&self, slot: u16, range: u16) -> CopyRange {
        let entry = &self.slots[slot];
        let bytes = entry.buf.as_ref().expect("the range list stays to the end").bytes();
        let at = usize::from(range) * usize::from(entry.progress.stride);
        CopyRange::read_from_bytes(&bytes[at..at + size_of::<CopyRange>()])
            .expect("the length is that of the structure")
    }
}
