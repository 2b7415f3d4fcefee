//! UNMAP (SBC-3 section 5.28).

use super::{Advance, DataIn, Door, Step};
use crate::scsi::{Sense, UNMAP_BYTES_MAX, UNMAP_RANGES_MAX};
use std::collections::VecDeque;
use storage_spec::scsi::parameter::{UnmapDescriptor, UnmapHeader};
use storage_spec::scsi::sense::AdditionalSense;
use target_io::{BlockRequest, LONG_REQUEST_MAX, Surroundings};
use zerocopy::FromBytes;

/// The ranges of one command, unmapped one after the other; those that adjoin are one.
#[derive(Debug)]
pub(crate) struct Unmap {
    list_len: u32,
    /// Offset and length in bytes; what is done is taken off.
    ranges: VecDeque<(u64, u64)>,
}

impl Unmap {
    /// With a parameter list of so many bytes.
    pub(crate) fn new(list_len: u32) -> Self {
        Self { list_len, ranges: VecDeque::new() }
    }

    /// Takes the list. All ranges are checked before the first is unmapped.
    pub(super) fn take(&mut self, list: &[u8], shift: u8, capacity: u64) -> Result<(), Sense> {
        let list = &list[..self.list_len as usize];
        let (header, rest) = UnmapHeader::read_from_prefix(list).expect("lists are no shorter");
        // A list that is cut short counts as far as it goes.
        let len = usize::from(header.descriptors_len.get()).min(rest.len());
        let count = len / size_of::<UnmapDescriptor>();
        if count > UNMAP_RANGES_MAX as usize {
            return Err(Sense::list_byte(2));
        }
        let (descriptors, _) =
            <[UnmapDescriptor]>::ref_from_prefix_with_elems(rest, count).expect("as many as fit");
        let mut total = 0;
        for descriptor in descriptors {
            let (lba, blocks) = (descriptor.lba.get(), u64::from(descriptor.blocks.get()));
            match lba.checked_add(blocks) {
                Some(end) if end <= capacity >> shift => {}
                _ => return Err(Sense::illegal(AdditionalSense::LbaOutOfRange)),
            }
            let (offset, len) = (lba << shift, blocks << shift);
            total += len;
            match self.ranges.back_mut() {
                Some(last) if last.0 + last.1 == offset => last.1 += len,
                _ => self.ranges.push_back((offset, len)),
            }
        }
        if total > UNMAP_BYTES_MAX {
            return Err(Sense::list_byte(size_of::<UnmapHeader>()));
        }
        Ok(())
    }

    pub(super) fn advance<S: Surroundings>(&mut self, door: &mut Door<'_, S>) -> Advance<S::Buf> {
        while let Some((offset, left)) = self.ranges.front_mut() {
            if *left == 0 {
                self.ranges.pop_front();
                continue;
            }
            let (from, len) = (*offset, (*left).min(LONG_REQUEST_MAX));
            *offset += len;
            *left -= len;
            return Ok(door.submit(BlockRequest::Zero { offset: from, len }));
        }
        Ok(Step::Done(DataIn::None))
    }
}
