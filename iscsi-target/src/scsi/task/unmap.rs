//! UNMAP (SBC-3 section 5.28).

use super::{Advance, DataIn, Door, Step};
use crate::scsi::{Sense, UNMAP_BYTES_MAX, UNMAP_RANGES_MAX};
use storage_spec::scsi::parameter::{UnmapDescriptor, UnmapHeader};
use storage_spec::scsi::sense::AdditionalSense;
use target_io::{BlockRequest, Buffer, LONG_REQUEST_MAX, Surroundings};
use zerocopy::FromBytes;

/// The ranges of one command, unmapped one after the other.
#[derive(Debug)]
pub(crate) struct Unmap<B> {
    list_len: u32,
    list: Option<B>,
    ranges: u32,
    range: u32,
    /// Bytes of it that are done.
    done: u64,
}

impl<B: Buffer> Unmap<B> {
    /// With a parameter list of so many bytes.
    pub(crate) fn new(list_len: u32) -> Self {
        Self { list_len, list: None, ranges: 0, range: 0, done: 0 }
    }

    /// Takes the list. All ranges are checked before the first is unmapped.
    pub(super) fn take(&mut self, list: B, block_shift: u8, capacity: u64) -> Result<(), Sense> {
        let bytes = &list.bytes()[..self.list_len as usize];
        let header = UnmapHeader::read_from_prefix(bytes).expect("lists are no shorter").0;
        let room = self.list_len as usize - size_of::<UnmapHeader>();
        // A list that is cut short counts as far as it goes.
        let len = usize::from(header.descriptors_len.get()).min(room);
        self.ranges = (len / size_of::<UnmapDescriptor>()) as u32;
        if self.ranges > UNMAP_RANGES_MAX {
            return Err(Sense::list_byte(2));
        }
        self.list = Some(list);
        let mut total = 0;
        for index in 0..self.ranges {
            let descriptor = self.descriptor(index);
            let blocks = u64::from(descriptor.blocks.get());
            match descriptor.lba.get().checked_add(blocks) {
                Some(end) if end <= capacity >> block_shift => {}
                _ => return Err(Sense::illegal(AdditionalSense::LbaOutOfRange)),
            }
            total += blocks << block_shift;
        }
        if total > UNMAP_BYTES_MAX {
            Err(Sense::list_byte(size_of::<UnmapHeader>()))
        } else {
            Ok(())
        }
    }

    pub(super) fn advance<S: Surroundings<Buf = B>>(
        &mut self,
        door: &mut Door<'_, S>,
    ) -> Advance<B> {
        while self.range < self.ranges {
            let descriptor = self.descriptor(self.range);
            let left = (u64::from(descriptor.blocks.get()) << door.block_shift) - self.done;
            if left == 0 {
                self.range += 1;
                self.done = 0;
                continue;
            }
            let offset = (descriptor.lba.get() << door.block_shift) + self.done;
            let len = left.min(LONG_REQUEST_MAX);
            self.done += len;
            return Ok(door.submit(BlockRequest::Zero { offset, len }));
        }
        Ok(Step::Done(DataIn::None))
    }

    fn descriptor(&self, index: u32) -> UnmapDescriptor {
        let bytes = self.list.as_ref().expect("the list stays to the end").bytes();
        let at = size_of::<UnmapHeader>() + index as usize * size_of::<UnmapDescriptor>();
        let bytes = &bytes[at..at + size_of::<UnmapDescriptor>()];
        UnmapDescriptor::read_from_bytes(bytes).expect("the length is that of the structure")
    }
}
