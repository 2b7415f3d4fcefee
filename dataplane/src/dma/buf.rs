//! Owned and shared ranges of arena pages.

use super::PAGE;
use super::arena::{Inner, Root};
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

/// Exclusive owner of whole arena pages.
///
/// Starts at a page boundary. Dereferences to the bytes `0..len`. May be sent to another core; its
/// pages return to the pool that they came from when dropped anywhere.
pub struct Buf {
    arena: &'static Inner,
    root: Root,
    first_page: u32,
    pages: u32,
    len: u32,
}

// SAFETY: a `Buf` is the only handle to its pages, which are plain memory; the arena's own state is
// atomic or behind a lock-free queue.
unsafe impl Send for Buf {}

impl Buf {
    /// A new owner of `pages` pages from `first_page`, for which `root` already counts one
    /// reference.
    pub(super) fn new(arena: &'static Inner, root: Root, pages: u32, len: u32) -> Self {
        assert!(len as usize <= pages as usize * PAGE);
        Self { arena, root, first_page: root.page, pages, len }
    }

    /// Bytes that fit.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.pages as usize * PAGE
    }

    /// Sets how many bytes count, at most [`Buf::capacity`]. Bytes never written keep whatever a
    /// former owner left there: whoever sends a buffer to a host must have filled it.
    pub fn set_len(&mut self, len: usize) {
        assert!(len <= self.capacity());
        self.len = len as u32;
    }

    /// Splits off everything from byte `at`, a multiple of [`PAGE`] below `len`, into a buffer of
    /// its own; both share one allocation, which is freed with the last of them.
    #[must_use]
    pub fn split_off(&mut self, at: usize) -> Self {
        assert!(
            at.is_multiple_of(PAGE) && at < self.len() && at > 0,
            "split at page {at} of {}",
            self.len
        );
        let pages = (at / PAGE) as u32;
        self.arena.retain(self.root);
        let tail = Self {
            arena: self.arena,
            root: self.root,
            first_page: self.first_page + pages,
            pages: self.pages - pages,
            len: self.len - at as u32,
        };
        self.pages = pages;
        self.len = at as u32;
        tail
    }

    /// Rejoins a part that [`Buf::split_off`] made from this buffer, in order.
    pub fn join(&mut self, tail: Self) {
        assert_eq!(self.root.page, tail.root.page, "joined buffers come from one allocation");
        assert_eq!(self.first_page + self.pages, tail.first_page, "joined buffers are adjacent");
        assert_eq!(self.len(), self.capacity(), "only the last part may be partly filled");
        self.pages += tail.pages;
        self.len += tail.len;
    }

    /// Checksum cells, one for each page that `len` touches. What they hold is between whoever sets
    /// and whoever reads them.
    #[must_use]
    pub fn crcs(&self) -> &[u32] {
        // SAFETY: the cells of our pages are ours alone, as the pages are.
        unsafe { std::slice::from_raw_parts(self.crc_cells().as_ptr(), self.len().div_ceil(PAGE)) }
    }

    /// As [`Buf::crcs`], to set them.
    pub fn crcs_mut(&mut self) -> &mut [u32] {
        // SAFETY: as above, and `&mut self` makes it exclusive.
        unsafe {
            std::slice::from_raw_parts_mut(self.crc_cells().as_ptr(), self.len().div_ceil(PAGE))
        }
    }

    /// Turns the buffer into a shared, read-only one that covers all of it.
    #[must_use]
    pub fn freeze(self) -> Slice {
        let len = self.len;
        Slice { buf: Shared::of(self), offset: 0, len }
    }

    /// Address of the first byte, for a device or the kernel to write to while the buffer is owned
    /// by the operation in flight.
    #[must_use]
    pub fn as_device_ptr(&mut self) -> NonNull<u8> {
        self.arena.page_ptr(self.first_page)
    }

    /// Number of the first page within the arena's mapping: for registered buffers and DMA maps.
    #[must_use]
    pub fn arena_page(&self) -> u32 {
        self.first_page
    }

    pub(super) fn arena(&self) -> &'static Inner {
        self.arena
    }

    fn crc_cells(&self) -> NonNull<u32> {
        self.arena.crc_ptr(self.first_page)
    }
}

impl Deref for Buf {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: the pages are ours alone, mapped for the life of the process, and initialised
        // (the mapping is made zeroed).
        unsafe {
            std::slice::from_raw_parts(self.arena.page_ptr(self.first_page).as_ptr(), self.len())
        }
    }
}

impl DerefMut for Buf {
    fn deref_mut(&mut self) -> &mut [u8] {
        let len = self.len as usize;
        // SAFETY: as in `deref`, and `&mut self` makes it exclusive.
        unsafe {
            std::slice::from_raw_parts_mut(self.arena.page_ptr(self.first_page).as_ptr(), len)
        }
    }
}

impl Buf {
    /// Bytes that count.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a buffer of no bytes has no use")]
    pub fn len(&self) -> usize {
        self.len as usize
    }
}

impl Drop for Buf {
    fn drop(&mut self) {
        self.arena.release(self.root);
    }
}

impl fmt::Debug for Buf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buf({}+{} pages, {} bytes)", self.first_page, self.pages, self.len)
    }
}

/// A frozen buffer: one count of its root allocation, read-only.
struct Shared {
    arena: &'static Inner,
    root: Root,
    first_page: u32,
}

// SAFETY: frozen pages are only read, and the count is atomic.
unsafe impl Send for Shared {}

impl Shared {
    /// Takes over the count that `buf` held.
    fn of(buf: Buf) -> Self {
        let buf = std::mem::ManuallyDrop::new(buf);
        Self { arena: buf.arena, root: buf.root, first_page: buf.first_page }
    }
}

impl Clone for Shared {
    fn clone(&self) -> Self {
        self.arena.retain(self.root);
        Self { arena: self.arena, root: self.root, first_page: self.first_page }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.arena.release(self.root);
    }
}

/// A read-only range of a frozen buffer; clones share the pages.
#[derive(Clone)]
pub struct Slice {
    buf: Shared,
    offset: u32,
    len: u32,
}

impl Slice {
    /// The sub-range `offset..offset + len`, in bytes.
    #[must_use]
    pub fn slice(&self, offset: usize, len: usize) -> Self {
        assert!(offset + len <= self.len as usize, "{offset}+{len} within {}", self.len);
        Self { buf: self.buf.clone(), offset: self.offset + offset as u32, len: len as u32 }
    }

    pub(super) fn arena(&self) -> &'static Inner {
        self.buf.arena
    }

    /// First byte's place in the arena's mapping.
    pub(super) fn arena_offset(&self) -> u64 {
        u64::from(self.buf.first_page) * PAGE as u64 + u64::from(self.offset)
    }

    /// As [`Slice::slice`], of a slice that is not needed as a whole any more.
    #[must_use]
    pub fn narrow(self, offset: usize, len: usize) -> Self {
        assert!(offset + len <= self.len as usize, "{offset}+{len} within {}", self.len);
        Self { buf: self.buf, offset: self.offset + offset as u32, len: len as u32 }
    }

    /// The whole allocation as a buffer again, if nobody else holds any part of it; dropped if not.
    #[must_use]
    pub fn reclaim(self) -> Option<Buf> {
        let shared = self.buf;
        if !shared.arena.is_last(shared.root) {
            return None;
        }
        // The one count passes from the slice to the buffer.
        let shared = std::mem::ManuallyDrop::new(shared);
        let pages = shared.root.pages();
        Some(Buf::new(shared.arena, shared.root, pages, pages * PAGE as u32))
    }

    /// Checksum cells of the pages that the range touches, first to last.
    #[must_use]
    pub fn crcs(&self) -> &[u32] {
        let first = self.offset as usize / PAGE;
        let end = (self.offset as usize + self.len as usize).div_ceil(PAGE);
        // SAFETY: frozen cells are only read, as the pages are.
        unsafe {
            let cells = self.buf.arena.crc_ptr(self.buf.first_page).add(first);
            std::slice::from_raw_parts(cells.as_ptr(), end - first)
        }
    }
}

impl Deref for Slice {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: frozen pages are only read until the last count is gone, and stay mapped.
        unsafe {
            let start = self.buf.arena.page_ptr(self.buf.first_page).add(self.offset as usize);
            std::slice::from_raw_parts(start.as_ptr(), self.len as usize)
        }
    }
}

impl fmt::Debug for Slice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Slice({}, {}+{})", self.buf.first_page, self.offset, self.len)
    }
}
