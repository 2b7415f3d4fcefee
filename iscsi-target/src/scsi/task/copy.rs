//! EXTENDED COPY (LID1) (SPC-4 sections 5.17 and 6.4): data move between logical units that the
//! initiator itself may address, and between no others.

use super::{Advance, DataIn, Door, Step};
use crate::scsi::control::vital::naa;
use crate::scsi::copies::{CopyLog, CopyState, CopyStatus};
use crate::scsi::{
    Access, COPY_DESCRIPTORS_LEN_MAX, COPY_DEVICES_MAX, COPY_SEGMENT_BYTES_MAX, COPY_SEGMENTS_MAX,
    PIECE_MAX, Protection, Readiness, Sense, Unit,
};
use std::sync::Arc;
use storage_spec::scsi::parameter::{
    COPY_BLOCK_TO_BLOCK, COPY_DEVICE_IDENTIFICATION, CopyDevice, CopyHeader, CopySegment,
};
use storage_spec::scsi::sense::{AdditionalSense, SenseKey};
use target_io::{BlockRequest, Buffer, Surroundings, VolumeIndex, grid};
use zerocopy::FromBytes;

/// LIST ID USAGE: no list identifier; the status is not kept.
const USAGE_NONE: u8 = 0b11;
/// DC: blocks are counted in those of the destination.
const DC: u8 = 0b10;
/// Association, type and code set of a NAA designator.
const NAA_OF_UNIT: u8 = 0x03;
const BINARY: u8 = 0x01;

/// A copy: read and written piece by piece.
#[derive(Debug)]
pub(crate) struct Copy<B> {
    list_len: u32,
    /// What the nexus may address.
    units: Box<[Unit]>,
    log: Arc<CopyLog>,
    list_id: Option<u8>,
    segments: Vec<Segment>,
    segment: usize,
    /// Bytes of the segment, and of all, that are done.
    done: u64,
    total: u64,
    piece: u32,
    read: Option<B>,
    is_writing: bool,
    has_ended: bool,
}

/// Bytes to be copied.
#[derive(Debug, Clone, Copy)]
struct Segment {
    source: Unit,
    from: u64,
    destination: Unit,
    to: u64,
    len: u64,
}

impl<B> Drop for Copy<B> {
    fn drop(&mut self) {
        if !self.has_ended {
            self.note(CopyState::Failed);
        }
    }
}

impl<B> Copy<B> {
    /// Whether it may read or write a volume: any that its nexus sees, before its list has come.
    pub(crate) fn touches(&self, volume: VolumeIndex) -> bool {
        let mut segments = self.segments.iter().flat_map(|part| [part.source, part.destination]);
        match self.segments.is_empty() {
            true => self.units.iter().any(|unit| unit.volume == volume),
            false => segments.any(|unit| unit.volume == volume),
        }
    }

    /// With a parameter list of so many bytes.
    pub(crate) fn new(list_len: u32, units: &[Option<Unit>], log: Arc<CopyLog>) -> Self {
        Self {
            list_len,
            units: units.iter().flatten().copied().collect(),
            log,
            list_id: None,
            segments: Vec::new(),
            segment: 0,
            done: 0,
            total: 0,
            piece: 0,
            read: None,
            is_writing: false,
            has_ended: true,
        }
    }

    /// Whether a request that is under way writes.
    pub(super) fn writes(&self) -> bool {
        self.is_writing
    }

    fn note(&self, state: CopyState) {
        let Some(list_id) = self.list_id else { return };
        let segments = self.segment as u16;
        self.log.note(CopyStatus { list_id, state, segments, bytes: self.total });
    }

    /// Takes the list. All descriptors are checked before anything is copied.
    pub(super) fn take(&mut self, list: &[u8]) -> Result<(), Sense> {
        let list = &list[..self.list_len as usize];
        let too_short = Sense::illegal(AdditionalSense::ParameterListLengthError);
        let (header, rest) = CopyHeader::read_from_prefix(list).map_err(|_| too_short)?;
        let devices_len = usize::from(header.devices_len.get());
        let segments_len = header.segments_len.get() as usize;
        if devices_len + segments_len > COPY_DESCRIPTORS_LEN_MAX as usize {
            return Err(too_short);
        }
        let devices = rest.get(..devices_len).ok_or(too_short)?;
        let segments = rest[devices_len..].get(..segments_len).ok_or(too_short)?;
        if header.inline_len.get() != 0 {
            return Err(Sense::illegal(AdditionalSense::InlineDataLengthExceeded));
        }
        let (devices, left) = <[CopyDevice]>::ref_from_prefix_with_elems(
            devices,
            devices.len() / size_of::<CopyDevice>(),
        )
        .expect("as many as fit");
        if devices.len() > usize::from(COPY_DEVICES_MAX) {
            return Err(Sense::illegal(AdditionalSense::TooManyTargetDescriptors));
        }
        let is_other = |device: &CopyDevice| device.kind != COPY_DEVICE_IDENTIFICATION;
        if devices.iter().any(is_other) {
            return Err(Sense::illegal(AdditionalSense::UnsupportedTargetDescriptorType));
        }
        if !left.is_empty() {
            return Err(too_short);
        }
        self.plan(devices, segments, size_of::<CopyHeader>() + devices_len)?;
        let usage = header.flags >> 3 & 0b11;
        self.list_id = (usage != USAGE_NONE).then_some(header.list_id);
        self.has_ended = false;
        self.note(CopyState::Running);
        Ok(())
    }

    fn plan(
        &mut self,
        devices: &[CopyDevice],
        mut descriptors: &[u8],
        mut at: usize,
    ) -> Result<(), Sense> {
        let too_short = Sense::illegal(AdditionalSense::ParameterListLengthError);
        while let Some(&kind) = descriptors.first() {
            if kind != COPY_BLOCK_TO_BLOCK {
                return Err(Sense::illegal(AdditionalSense::UnsupportedSegmentDescriptorType));
            }
            let (segment, rest) =
                CopySegment::read_from_prefix(descriptors).map_err(|_| too_short)?;
            if usize::from(segment.len.get()) != size_of::<CopySegment>() - 4 {
                return Err(Sense::list_byte(at + 2));
            }
            if self.segments.len() == usize::from(COPY_SEGMENTS_MAX) {
                return Err(Sense::illegal(AdditionalSense::TooManySegmentDescriptors));
            }
            let segment = self.plan_segment(devices, &segment, at)?;
            self.segments.push(segment);
            at += descriptors.len() - rest.len();
            descriptors = rest;
        }
        Ok(())
    }

    fn plan_segment(
        &self,
        devices: &[CopyDevice],
        segment: &CopySegment,
        at: usize,
    ) -> Result<Segment, Sense> {
        let source = self.find(devices, segment.source.get())?;
        let destination = self.find(devices, segment.destination.get())?;
        let counted = if segment.flags & DC != 0 { &destination } else { &source };
        let len = u64::from(segment.blocks.get()) << counted.block_shift;
        let from = within(&source, segment.source_lba.get(), len)?;
        let to = within(&destination, segment.destination_lba.get(), len)?;
        if len > COPY_SEGMENT_BYTES_MAX.into() {
            return Err(Sense::list_byte(at + 10));
        }
        // What is copied onto itself would not be what was there.
        let overlaps = source.volume == destination.volume && from < to + len && to < from + len;
        if overlaps && len != 0 && from != to {
            return Err(Sense::list_byte(at + 12));
        }
        let may_read = matches!(source.access, Access::All | Access::ReadOnly);
        let may_write = destination.access == Access::All;
        let is_ready = [source, destination].iter().all(|unit| unit.readiness == Readiness::Ready);
        if !may_read || !may_write || !is_ready || destination.protection != Protection::None {
            return Err(aborted());
        }
        Ok(Segment { source, from, destination, to, len })
    }

    /// The unit that a descriptor names, if the initiator may address it.
    fn find(&self, devices: &[CopyDevice], index: u16) -> Result<Unit, Sense> {
        let device = devices.get(usize::from(index)).ok_or(aborted())?;
        let is_naa =
            device.code_set & 0xF == BINARY && device.designator_kind & 0x3F == NAA_OF_UNIT;
        let name = device.designator.get(..device.designator_len.into()).ok_or(aborted())?;
        let found = self.units.iter().find(|unit| is_naa && naa(&unit.uuid) == *name);
        let unit = found.copied().ok_or(aborted())?;
        let block_len = device.block_len.get() & 0xFF_FFFF;
        if block_len == 1 << unit.block_shift { Ok(unit) } else { Err(aborted()) }
    }
}

impl<B: Buffer> Copy<B> {
    /// Takes a completion: of a read with its buffer, or of a write.
    pub(super) fn completed(&mut self, read: Option<B>) {
        assert_eq!(read.is_none(), self.is_writing, "reads alone return a buffer");
        if self.is_writing {
            self.done += u64::from(self.piece);
            self.total += u64::from(self.piece);
        }
        self.read = read;
    }

    pub(super) fn advance<S: Surroundings<Buf = B>>(
        &mut self,
        door: &mut Door<'_, S>,
    ) -> Advance<B> {
        while let Some(&segment) = self.segments.get(self.segment) {
            if self.done == segment.len {
                self.segment += 1;
                self.done = 0;
                continue;
            }
            let (from, to) = (segment.from + self.done, segment.to + self.done);
            if let Some(mut data) = self.read.take() {
                grid::shift(&mut data, from, to, self.piece as usize);
                self.is_writing = true;
                let request = BlockRequest::Write { offset: to, len: self.piece, data };
                return Ok(door.submit_to(segment.destination.volume, request));
            }
            let piece = grid::piece_len(from, to, segment.len - self.done, PIECE_MAX);
            let Some(buf) = door.around.alloc(grid::page_span(from, piece)) else {
                return Ok(Step::Starved);
            };
            self.is_writing = false;
            self.piece = piece as u32;
            let request = BlockRequest::Read { offset: from, len: self.piece, buf };
            return Ok(door.submit_to(segment.source.volume, request));
        }
        self.has_ended = true;
        self.note(CopyState::Done);
        Ok(Step::Done(DataIn::None))
    }
}

/// The first byte of a range that a unit has.
fn within(unit: &Unit, lba: u64, len: u64) -> Result<u64, Sense> {
    let capacity = unit.capacity >> unit.block_shift;
    let blocks = len >> unit.block_shift;
    match lba.checked_add(blocks) {
        Some(end) if end <= capacity && blocks << unit.block_shift == len => {
            Ok(lba << unit.block_shift)
        }
        _ => Err(aborted()),
    }
}

/// COPY ABORTED: a unit that is not there, or not for this initiator, or without such a range.
fn aborted() -> Sense {
    Sense::new(SenseKey::CopyAborted, AdditionalSense::CopyTargetUnreachable)
}
