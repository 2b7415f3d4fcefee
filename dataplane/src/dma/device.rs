//! Memory shared with a device, and the device's view of the arena.

use super::arena::{Arena, Inner};
use super::{Buf, PAGE, Region, Slice};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// What takes a mapping away from a device: its IOMMU domain, or whatever stands for one.
pub trait Unmap: Send + Sync {
    /// Ends the device's access to `len` bytes from `address`, before the memory is freed.
    fn unmap(&self, address: u64, len: usize);
}

/// Memory that a device reads and writes while we do: queues, descriptors, logs.
///
/// Page aligned, zeroed when made, contiguous for the device, little endian. There is no slice of
/// it: every access is volatile or atomic. Offsets are bytes, aligned to the access; an access
/// outside is an error of ours and asserted. `Send` but not `Sync`: parts go to the cores that use
/// them by [`DeviceMemory::split_off`].
pub struct DeviceMemory {
    shared: Arc<Mapped>,
    start: NonNull<u8>,
    offset: usize,
    len: usize,
}

struct Mapped {
    region: Region,
    address: u64,
    space: Arc<dyn Unmap>,
}

impl Drop for Mapped {
    fn drop(&mut self) {
        self.space.unmap(self.address, self.region.len());
    }
}

// SAFETY: plain memory that outlives the handle; parts are disjoint.
unsafe impl Send for DeviceMemory {}

impl DeviceMemory {
    /// Memory that the device already reaches at `address`, the whole of `region` in one piece.
    /// `space` hears of its end.
    #[must_use]
    pub fn new(region: Region, address: u64, space: Arc<dyn Unmap>) -> Self {
        assert!(address.is_multiple_of(PAGE as u64), "device address {address:#x}");
        let (start, len) = region.mapping();
        Self { shared: Arc::new(Mapped { region, address, space }), start, offset: 0, len }
    }

    /// Bytes.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "there is no memory of no bytes")]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Where the device finds byte `offset`.
    #[must_use]
    pub fn address(&self, offset: usize) -> u64 {
        assert!(offset < self.len, "{offset} of {}", self.len);
        self.shared.address + (self.offset + offset) as u64
    }

    /// Splits off everything from byte `at`, a multiple of 4: for another owner.
    #[must_use]
    pub fn split_off(&mut self, at: usize) -> Self {
        assert!(at.is_multiple_of(4) && at > 0 && at < self.len, "split at {at} of {}", self.len);
        let tail = Self {
            shared: Arc::clone(&self.shared),
            // SAFETY: within our part.
            start: unsafe { self.start.add(at) },
            offset: self.offset + at,
            len: self.len - at,
        };
        self.len = at;
        tail
    }

    /// The same memory for an emulated device on the same core.
    #[cfg(any(test, feature = "bench"))]
    pub(crate) fn other_side(&self) -> Self {
        let shared = Arc::clone(&self.shared);
        Self { shared, start: self.start, offset: self.offset, len: self.len }
    }

    /// Loads 32 bits; what the device wrote before them is seen by loads after this one.
    #[inline]
    #[must_use]
    pub fn load32(&self, offset: usize) -> u32 {
        // SAFETY: `place` checks bounds and alignment; both sides access atomically.
        let cell = unsafe { AtomicU32::from_ptr(self.place(offset, 4).cast().as_ptr()) };
        u32::from_le(cell.load(Ordering::Acquire))
    }

    /// Stores 32 bits; the device sees what was stored before them first.
    #[inline]
    pub fn store32(&self, offset: usize, value: u32) {
        // SAFETY: as in `load32`.
        let cell = unsafe { AtomicU32::from_ptr(self.place(offset, 4).cast().as_ptr()) };
        cell.store(value.to_le(), Ordering::Release);
    }

    /// Loads 64 bits, as [`DeviceMemory::load32`].
    #[inline]
    #[must_use]
    pub fn load64(&self, offset: usize) -> u64 {
        // SAFETY: as in `load32`.
        let cell = unsafe { AtomicU64::from_ptr(self.place(offset, 8).cast().as_ptr()) };
        u64::from_le(cell.load(Ordering::Acquire))
    }

    /// Stores 64 bits, as [`DeviceMemory::store32`].
    #[inline]
    pub fn store64(&self, offset: usize, value: u64) {
        // SAFETY: as in `load32`.
        let cell = unsafe { AtomicU64::from_ptr(self.place(offset, 8).cast().as_ptr()) };
        cell.store(value.to_le(), Ordering::Release);
    }

    /// Writes a structure as it lies in memory, in no order: the device is told afterwards. `N` is
    /// its size in words of 64 bits, by `zerocopy::transmute!`.
    #[inline]
    pub fn write_words<const N: usize>(&self, offset: usize, words: &[u64; N]) {
        let place = self.place(offset, N * 8).cast::<u64>();
        for (index, word) in words.iter().enumerate() {
            // SAFETY: `place` has checked all `N` words.
            unsafe { place.add(index).write_volatile(*word) };
        }
    }

    /// Reads a structure, as [`DeviceMemory::write_words`].
    #[inline]
    #[must_use]
    pub fn read_words<const N: usize>(&self, offset: usize) -> [u64; N] {
        let place = self.place(offset, N * 8).cast::<u64>();
        // SAFETY: `place` has checked all `N` words.
        std::array::from_fn(|index| unsafe { place.add(index).read_volatile() })
    }

    /// Copies bytes to the device's memory: for what is not done often. `offset` and the length
    /// are multiples of 8.
    pub fn copy_in(&self, offset: usize, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        assert!(rest.is_empty(), "whole words");
        for (index, word) in words.iter().enumerate() {
            self.write_words(offset + index * 8, &[u64::from_ne_bytes(*word)]);
        }
    }

    /// Copies bytes from the device's memory, as [`DeviceMemory::copy_in`].
    pub fn copy_out(&self, offset: usize, bytes: &mut [u8]) {
        let (words, rest) = bytes.as_chunks_mut::<8>();
        assert!(rest.is_empty(), "whole words");
        for (index, word) in words.iter_mut().enumerate() {
            let [value] = self.read_words(offset + index * 8);
            *word = value.to_ne_bytes();
        }
    }

    /// Fills everything with zeroes.
    pub fn clear(&self) {
        (0..self.len / 8).for_each(|index| self.write_words(index * 8, &[0]));
    }

    #[inline]
    fn place(&self, offset: usize, size: usize) -> NonNull<u8> {
        let align = size.min(8);
        assert!(
            (self.offset + offset).is_multiple_of(align)
                && size <= self.len
                && offset <= self.len - size,
            "{offset}+{size} of {}",
            self.len
        );
        // SAFETY: just checked.
        unsafe { self.start.add(offset) }
    }
}

/// Where bytes lie within the arena.
#[derive(Clone, Copy)]
pub struct Span {
    arena: &'static Inner,
    start: u64,
    len: u32,
}

impl Span {
    /// Bytes.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a transfer of no bytes is never made")]
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// The first byte's place in its page.
    #[must_use]
    pub fn page_offset(&self) -> usize {
        self.start as usize % PAGE
    }
}

impl Buf {
    /// Where the buffer lies: for a device that fills it while the operation in flight owns it.
    #[must_use]
    pub fn span(&self) -> Span {
        let start = u64::from(self.arena_page()) * PAGE as u64;
        Span { arena: self.arena(), start, len: self.len() as u32 }
    }
}

impl Slice {
    /// Where the bytes lie: for a device that reads them while the operation in flight holds them.
    #[must_use]
    pub fn span(&self) -> Span {
        Span { arena: self.arena(), start: self.arena_offset(), len: self.len() as u32 }
    }
}

/// Under which addresses a device reaches the arena. Clones are cheap: each core has its own.
#[derive(Clone)]
pub struct ArenaMap {
    arena: &'static Inner,
    base: u64,
    /// Without an IOMMU: the address of each page.
    pages: Option<Arc<[u64]>>,
}

impl ArenaMap {
    /// The arena in one piece from `base`, by an IOMMU.
    #[must_use]
    pub fn contiguous(arena: &Arena, base: u64) -> Self {
        assert!(base.is_multiple_of(PAGE as u64), "device address {base:#x}");
        Self { arena: arena.inner(), base, pages: None }
    }

    /// The arena page by page, one address for each 4 KiB in order.
    #[must_use]
    pub fn by_page(arena: &Arena, pages: Arc<[u64]>) -> Self {
        assert_eq!(pages.len() * PAGE, arena.mapping().1, "an address for each page");
        Self { arena: arena.inner(), base: 0, pages: Some(pages) }
    }

    /// Whether whole spans are contiguous for the device.
    #[must_use]
    pub fn is_contiguous(&self) -> bool {
        self.pages.is_none()
    }

    /// The first address above all of the arena.
    #[must_use]
    pub fn end(&self) -> u64 {
        match &self.pages {
            None => self.base + (self.arena.pages() * PAGE) as u64,
            Some(pages) => pages.iter().max().map_or(0, |last| last + PAGE as u64),
        }
    }

    /// Where the device finds byte `at` of the span, and the rest of its page.
    #[inline]
    #[must_use]
    pub fn address(&self, span: &Span, at: usize) -> u64 {
        assert!(std::ptr::eq(self.arena, span.arena), "a buffer of the arena that was mapped");
        assert!(at < span.len as usize);
        let byte = span.start + at as u64;
        match &self.pages {
            None => self.base + byte,
            Some(pages) => pages[byte as usize / PAGE] + byte % PAGE as u64,
        }
    }

    /// The longest piece from byte `at` of the span that is contiguous for the device: its address
    /// and its length.
    #[must_use]
    pub fn piece(&self, span: &Span, at: usize) -> (u64, usize) {
        let address = self.address(span, at);
        let rest = span.len as usize - at;
        if self.is_contiguous() {
            return (address, rest);
        }
        let mut len = (PAGE - (span.start as usize + at) % PAGE).min(rest);
        while len < rest && self.address(span, at + len) == address + len as u64 {
            len = (len + PAGE).min(rest);
        }
        (address, len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[derive(Default)]
    struct Log(Mutex<Vec<(u64, usize)>>);

    impl Unmap for Log {
        fn unmap(&self, address: u64, len: usize) {
            self.0.lock().unwrap().push((address, len));
        }
    }

    #[test]
    fn parts_share_a_mapping_that_ends_with_the_last() {
        let log = Arc::new(Log::default());
        let region = Region::new(3 * PAGE).unwrap();
        let mut low = DeviceMemory::new(region, 0x10_0000, log.clone());
        let high = low.split_off(PAGE + 8);
        assert_eq!((low.len(), high.len()), (PAGE + 8, 2 * PAGE - 8));
        assert_eq!(high.address(16), 0x10_0000 + PAGE as u64 + 24);
        low.store32(PAGE + 4, 7);
        high.write_words(0, &[1, 2, 3]);
        assert_eq!((low.load32(PAGE + 4), high.load64(8)), (7, 2));
        let mut bytes = [0; 16];
        high.copy_out(8, &mut bytes);
        assert_eq!(bytes[8], 3);
        high.copy_in(0, &bytes);
        assert_eq!(high.read_words::<2>(0), [2, 3]);
        high.clear();
        assert_eq!((high.load64(0), low.load32(PAGE + 4)), (0, 7));
        drop(low);
        assert!(log.0.lock().unwrap().is_empty());
        drop(high);
        assert_eq!(*log.0.lock().unwrap(), [(0x10_0000, 3 * PAGE)]);
    }

    #[test]
    #[should_panic(expected = "4096+4 of 4096")]
    fn no_access_leaves_the_memory() {
        let region = Region::new(PAGE).unwrap();
        let _ = DeviceMemory::new(region, 0, Arc::new(Log::default())).load32(PAGE);
    }

    #[test]
    fn an_iommu_maps_by_one_subtraction() {
        let arena = Arena::new(2 << 20, 1).unwrap();
        let pool = arena.pool(0);
        let map = ArenaMap::contiguous(&arena, 0x4000_0000);
        let buf = pool.alloc(5 * PAGE).unwrap();
        let page = u64::from(buf.arena_page()) * PAGE as u64;
        assert_eq!(map.address(&buf.span(), 0), 0x4000_0000 + page);
        assert_eq!(map.end(), 0x4000_0000 + arena.mapping().1 as u64);
        let slice = buf.freeze().slice(PAGE + 512, 2 * PAGE);
        let span = slice.span();
        assert_eq!((span.page_offset(), span.len()), (512, 2 * PAGE));
        let first = 0x4000_0000 + page + PAGE as u64 + 512;
        assert_eq!(map.piece(&span, 0), (first, 2 * PAGE));
        assert_eq!(map.piece(&span, PAGE), (first + PAGE as u64, PAGE));
    }

    #[test]
    fn without_an_iommu_each_page_has_its_place() {
        let arena = Arena::new(2 << 20, 1).unwrap();
        let pool = arena.pool(0);
        let buf = pool.alloc(4 * PAGE).unwrap();
        let first = buf.arena_page() as usize;
        let mut pages = vec![0_u64; 512];
        pages[first..first + 4].copy_from_slice(&[0x9000, 0xA000, 0x5000, 0x6000]);
        let map = ArenaMap::by_page(&arena, pages.into());
        let slice = buf.freeze().slice(512, 3 * PAGE);
        let span = slice.span();
        assert_eq!(map.address(&span, 0), 0x9200);
        assert_eq!(map.end(), 0xB000);
        assert_eq!(map.piece(&span, 0), (0x9200, 2 * PAGE - 512));
        assert_eq!(map.piece(&span, 2 * PAGE - 512), (0x5000, PAGE + 512));
    }

    #[test]
    #[should_panic(expected = "of the arena that was mapped")]
    fn buffers_of_another_arena_are_refused() {
        let (one, other) = (Arena::new(1, 1).unwrap(), Arena::new(1, 1).unwrap());
        let buf = other.pool(0).alloc(PAGE).unwrap();
        let _ = ArenaMap::contiguous(&one, 0).address(&buf.span(), 0);
    }
}
