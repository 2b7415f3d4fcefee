//! Plain memory outside the arena, made of nothing until it is written: what RAM disks are.

use super::arena::ArenaError;
use super::{PAGE, arena, prefetch};
use rustix::mm::{Advice, madvise, munmap};
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::Arc;

/// An exclusive range of a mapping. Pages that were never written, or were discarded, read as zero
/// and take no memory. Parts may live on different cores; the mapping goes with the last of them.
pub struct Region {
    mapping: Arc<Mapping>,
    range: Range<usize>,
}

struct Mapping {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping is plain memory, reached only through `Region`s, which are disjoint.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Region {
    /// Maps `len` bytes, rounded up to whole pages. Takes memory as it is written.
    ///
    /// # Errors
    /// When the kernel has no such address space.
    pub fn new(len: usize) -> Result<Self, ArenaError> {
        let len = len.next_multiple_of(PAGE).max(PAGE);
        let start = arena::map(len)?;
        Ok(Self { mapping: Arc::new(Mapping { start, len }), range: 0..len })
    }

    /// Maps `len` bytes, rounded up, of huge pages that the operator has reserved.
    ///
    /// # Errors
    /// When there are not enough of them.
    pub fn on_huge_pages(len: usize) -> Result<Self, ArenaError> {
        let len = len.next_multiple_of(arena::HUGE_PAGE).max(arena::HUGE_PAGE);
        let start = arena::map_huge(len)?;
        Ok(Self { mapping: Arc::new(Mapping { start, len }), range: 0..len })
    }

    /// Length in bytes.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a region of no bytes is never made")]
    pub fn len(&self) -> usize {
        self.range.len()
    }

    /// Splits off everything from byte `at`, a multiple of [`PAGE`] within the region.
    #[must_use]
    pub fn split_off(&mut self, at: usize) -> Self {
        assert!(at.is_multiple_of(PAGE) && at > 0 && at < self.len());
        let middle = self.range.start + at;
        let tail = middle..self.range.end;
        self.range.end = middle;
        Self { mapping: Arc::clone(&self.mapping), range: tail }
    }

    /// Start and length in bytes, to be mapped for a device.
    #[must_use]
    pub fn mapping(&self) -> (NonNull<u8>, usize) {
        (NonNull::new(self.start()).expect("part of a mapping"), self.len())
    }

    /// The bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: our part of the mapping is ours alone, and initialised (mapped zeroed).
        unsafe { std::slice::from_raw_parts(self.start(), self.len()) }
    }

    /// The bytes, to be written.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and `&mut self` makes it exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.start(), self.len()) }
    }

    /// Makes the range read as zero, and gives the memory of its whole pages back.
    pub fn discard(&mut self, range: Range<usize>) {
        assert!(range.start <= range.end && range.end <= self.len());
        let pages = range.start.next_multiple_of(PAGE)..range.end / PAGE * PAGE;
        if pages.is_empty() {
            self.bytes_mut()[range].fill(0);
            return;
        }
        // SAFETY: whole pages of our part; nobody else refers to them while we are `&mut`.
        let freed = unsafe {
            madvise(self.start().add(pages.start).cast(), pages.len(), Advice::LinuxDontNeed)
        };
        if freed.is_err() {
            self.bytes_mut()[pages.clone()].fill(0);
        }
        self.bytes_mut()[range.start..pages.start].fill(0);
        self.bytes_mut()[pages.end..range.end].fill(0);
    }

    /// Has the processor fetch bytes that are soon read, so that many such fetches overlap. A hint.
    pub fn prefetch(&self, range: Range<usize>) {
        assert!(range.start <= range.end && range.end <= self.len());
        for at in range.step_by(prefetch::LINE) {
            // SAFETY: within our part of the mapping.
            prefetch::line(unsafe { self.start().add(at) });
        }
    }

    fn start(&self) -> *mut u8 {
        // SAFETY: the range is within the mapping.
        unsafe { self.mapping.start.add(self.range.start).as_ptr() }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped by `Region::new`, and no region refers to it any more.
        let unmapped = unsafe { munmap(self.start.as_ptr().cast(), self.len) };
        assert!(unmapped.is_ok(), "our own mapping can be unmapped");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_disjoint_and_discards_read_zero() {
        let mut low = Region::new(8 * PAGE).unwrap();
        let mut high = low.split_off(3 * PAGE);
        assert_eq!((low.len(), high.len()), (3 * PAGE, 5 * PAGE));
        low.bytes_mut().fill(1);
        high.bytes_mut().fill(2);
        assert!(low.bytes().iter().all(|&byte| byte == 1));
        low.discard(100..2 * PAGE + 200);
        assert!(low.bytes()[..100].iter().all(|&byte| byte == 1));
        assert!(low.bytes()[100..2 * PAGE + 200].iter().all(|&byte| byte == 0));
        assert!(low.bytes()[2 * PAGE + 200..].iter().all(|&byte| byte == 1));
        low.discard(10..20);
        drop(low);
        assert!(high.bytes().iter().all(|&byte| byte == 2));
    }
}
