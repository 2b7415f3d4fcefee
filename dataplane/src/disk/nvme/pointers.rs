//! Where a command's data are: PRP entries and lists, scatter gather lists, and a bounce buffer for
//! what neither can say.

use super::super::WriteData;
use crate::dma::{ArenaMap, DeviceMemory, PAGE, Span};
use storage_spec::nvme::command::{
    PSDT_PRP, PSDT_SGL, SGL_DATA_BLOCK, SGL_LAST_SEGMENT, SglDescriptor,
};
use zerocopy::little_endian::{U32, U64};

/// Most descriptors of a list: a page of them.
const DESCRIPTORS_MAX: usize = PAGE / size_of::<SglDescriptor>();

/// Makes data pointers for the commands of one queue.
pub(super) struct Pointers {
    arena: ArenaMap,
    /// A page for each slot.
    lists: DeviceMemory,
    /// One largest transfer.
    bounce: DeviceMemory,
    /// The slot whose data are in it.
    bounced: Option<u16>,
    has_sgl: bool,
}

/// A command's data pointer, and what its flags say of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct DataPointer {
    pub(super) value: SglDescriptor,
    pub(super) psdt: u8,
}

impl DataPointer {
    /// Of a command without data.
    pub(super) const NONE: Self = Self::prp(0, 0);

    /// Two PRP entries.
    pub(super) const fn prp(first: u64, second: u64) -> Self {
        let [low, high] = [second as u32, (second >> 32) as u32];
        let [a, b, c, d] = high.to_le_bytes();
        let value = SglDescriptor {
            address: U64::new(first),
            length: U32::new(low),
            reserved: [a, b, c],
            identifier: d,
        };
        Self { value, psdt: PSDT_PRP }
    }

    const fn sgl(address: u64, length: u32, identifier: u8) -> Self {
        Self { value: descriptor(address, length, identifier), psdt: PSDT_SGL }
    }
}

const fn descriptor(address: u64, length: u32, identifier: u8) -> SglDescriptor {
    let (address, length) = (U64::new(address), U32::new(length));
    SglDescriptor { address, length, reserved: [0; 3], identifier }
}

impl Pointers {
    /// `lists`: a page for each slot. `bounce`: as long as the largest transfer.
    pub(super) fn new(
        arena: ArenaMap,
        lists: DeviceMemory,
        bounce: DeviceMemory,
        has_sgl: bool,
    ) -> Self {
        Self { arena, lists, bounce, bounced: None, has_sgl }
    }

    /// Of a command that reads or writes one span.
    #[inline]
    pub(super) fn span(&self, slot: u16, span: &Span) -> DataPointer {
        let first = PAGE - span.page_offset();
        let address = self.arena.address(span, 0);
        if span.len() <= first {
            return DataPointer::prp(address, 0);
        }
        if span.len() - first <= PAGE {
            return DataPointer::prp(address, self.arena.address(span, first));
        }
        if self.has_sgl && self.arena.is_contiguous() {
            return DataPointer::sgl(address, span.len() as u32, SGL_DATA_BLOCK);
        }
        let list = usize::from(slot) * PAGE;
        let pages = (first..span.len()).step_by(PAGE);
        self.write_list(list, pages.map(|at| self.arena.address(span, at)));
        DataPointer::prp(address, self.lists.address(list))
    }

    /// Of a command that writes segments. `None` where their data have to be copied, and the place
    /// for that is taken: try again when a command has ended.
    #[inline]
    pub(super) fn write(&mut self, slot: u16, data: &WriteData) -> Option<DataPointer> {
        match data {
            WriteData::One(slice) => Some(self.span(slot, &slice.span())),
            WriteData::Many(slices) if slices.len() == 1 => {
                Some(self.span(slot, &slices[0].span()))
            }
            WriteData::Many(slices) => {
                let spans = slices.iter().map(|slice| slice.span());
                self.prp_of_many(slot, spans.clone())
                    .or_else(|| self.sgl_of_many(slot, spans))
                    .or_else(|| self.bounce(slot, data))
            }
        }
    }

    /// A page of the slot's own, filled with what a command carries; `words` of 8 bytes.
    pub(super) fn payload<const N: usize>(&self, slot: u16, words: &[u64; N]) -> DataPointer {
        let at = usize::from(slot) * PAGE;
        self.lists.write_words(at, words);
        DataPointer::prp(self.lists.address(at), 0)
    }

    /// The slot's command has ended.
    #[inline]
    pub(super) fn release(&mut self, slot: u16) {
        if self.bounced == Some(slot) {
            self.bounced = None;
        }
    }

    /// All commands have ended.
    pub(super) fn release_all(&mut self) {
        self.bounced = None;
    }

    /// PRP entries can say it if there are no gaps but before the first and after the last page.
    fn prp_of_many(
        &self,
        slot: u16,
        spans: impl Iterator<Item = Span> + Clone,
    ) -> Option<DataPointer> {
        let mut at_page_end = true;
        for (index, span) in spans.clone().enumerate() {
            if !at_page_end || (index > 0 && span.page_offset() != 0) {
                return None;
            }
            at_page_end = (span.page_offset() + span.len()).is_multiple_of(PAGE);
        }
        let mut pages = spans.flat_map(|span| {
            let first = PAGE - span.page_offset();
            let starts = std::iter::once(0).chain((first..span.len()).step_by(PAGE));
            starts.map(move |at| (span, at))
        });
        let (span, at) = pages.next()?;
        let first = self.arena.address(&span, at);
        let mut pages = pages.map(|(span, at)| self.arena.address(&span, at)).peekable();
        let second = pages.next()?;
        if pages.peek().is_none() {
            return Some(DataPointer::prp(first, second));
        }
        let list = usize::from(slot) * PAGE;
        self.write_list(list, std::iter::once(second).chain(pages));
        Some(DataPointer::prp(first, self.lists.address(list)))
    }

    fn sgl_of_many(&self, slot: u16, spans: impl Iterator<Item = Span>) -> Option<DataPointer> {
        if !self.has_sgl {
            return None;
        }
        let list = usize::from(slot) * PAGE;
        let mut count = 0;
        for span in spans {
            let mut at = 0;
            while at < span.len() {
                if count == DESCRIPTORS_MAX {
                    return None;
                }
                let (address, len) = self.arena.piece(&span, at);
                let words: [u64; 2] =
                    zerocopy::transmute!(descriptor(address, len as u32, SGL_DATA_BLOCK));
                self.lists.write_words(list + count * 16, &words);
                count += 1;
                at += len;
            }
        }
        Some(DataPointer::sgl(self.lists.address(list), count as u32 * 16, SGL_LAST_SEGMENT))
    }

    /// Copies the data: one command at a time, for what happens seldom.
    fn bounce(&mut self, slot: u16, data: &WriteData) -> Option<DataPointer> {
        if self.bounced.is_some() {
            return None;
        }
        self.bounced = Some(slot);
        let mut len = 0;
        for segment in data.segments() {
            self.bounce.copy_in(len, segment);
            len += segment.len();
        }
        let second = match len {
            ..=PAGE => 0,
            len if len <= 2 * PAGE => self.bounce.address(PAGE),
            len => {
                let list = usize::from(slot) * PAGE;
                let pages = (PAGE..len).step_by(PAGE);
                self.write_list(list, pages.map(|at| self.bounce.address(at)));
                self.lists.address(list)
            }
        };
        Some(DataPointer::prp(self.bounce.address(0), second))
    }

    fn write_list(&self, at: usize, pages: impl Iterator<Item = u64>) {
        for (index, address) in pages.enumerate() {
            assert!(index < PAGE / 8, "one page of entries suffices for the largest transfer");
            self.lists.write_words(at + index * 8, &[address.to_le()]);
        }
    }
}
