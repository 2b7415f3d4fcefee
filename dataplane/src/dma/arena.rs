//! The mapping, its free lists, and the counts of its allocations.

use super::{Buf, PAGE};
use crossbeam_queue::ArrayQueue;
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous};
use std::cell::{Cell, RefCell};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

/// Orders of allocations: `1 << order` pages, 4 KiB to 2 MiB.
const ORDERS: usize = 10;
const TOP_ORDER: usize = ORDERS - 1;

/// Largest buffer in bytes.
pub(super) const BUF_MAX: usize = PAGE << TOP_ORDER;

/// Bytes in a huge page.
pub(super) const HUGE_PAGE: usize = 2 << 20;

/// One allocation: its first page, order, and the pool it belongs to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Root {
    pub(super) page: u32,
    order: u8,
    pool: u8,
}

impl Root {
    pub(super) fn pages(self) -> u32 {
        1 << self.order
    }
}

pub(super) struct Inner {
    memory: NonNull<u8>,
    crcs: NonNull<u32>,
    counts: Box<[AtomicU32]>,
    /// Freed allocations on their way back to each pool, from whatever core.
    returns: Box<[ArrayQueue<Root>]>,
}

// SAFETY: the pointers are to mappings that live as long as the process; pages and cells are
// reached only through `Buf` and `Slice`, whose ownership rules exclude races.
unsafe impl Send for Inner {}
// SAFETY: as above.
unsafe impl Sync for Inner {}

impl Inner {
    pub(super) fn page_ptr(&self, page: u32) -> NonNull<u8> {
        debug_assert!((page as usize) < self.counts.len());
        // SAFETY: pages are numbered within the mapping.
        unsafe { self.memory.add(page as usize * PAGE) }
    }

    pub(super) fn crc_ptr(&self, page: u32) -> NonNull<u32> {
        // SAFETY: one cell per page.
        unsafe { self.crcs.add(page as usize) }
    }

    pub(super) fn pages(&self) -> usize {
        self.counts.len()
    }

    pub(super) fn retain(&self, root: Root) {
        let before = self.counts[root.page as usize].fetch_add(1, Ordering::Relaxed);
        assert!(before > 0, "a freed allocation has no more users");
    }

    /// Whether there is one user. If it is the caller, nobody can become another meanwhile.
    pub(super) fn is_last(&self, root: Root) -> bool {
        self.counts[root.page as usize].load(Ordering::Acquire) == 1
    }

    pub(super) fn release(&self, root: Root) {
        let count = &self.counts[root.page as usize];
        // The last user needs no locked instruction, which would wait for every store before it:
        // nobody can become another user meanwhile.
        if self.is_last(root) {
            count.store(0, Ordering::Relaxed);
        } else if count.fetch_sub(1, Ordering::AcqRel) != 1 {
            return;
        }
        if !self.return_home(root) {
            let returned = self.returns[usize::from(root.pool)].push(root);
            assert!(returned.is_ok(), "the return queue holds every page of its pool");
        }
    }

    /// Gives an allocation back without the queue between cores, if this is the thread of its pool.
    fn return_home(&self, root: Root) -> bool {
        HOME.with_borrow_mut(|home| match home {
            Some(home) if home.is_of(self, root.pool) => {
                home.returned.push(root);
                true
            }
            _ => false,
        })
    }
}

/// What came back to the pool of this thread from this thread.
struct Home {
    arena: *const Inner,
    pool: u8,
    /// Has room for every page of the pool.
    returned: Vec<Root>,
}

impl Home {
    fn is_of(&self, arena: &Inner, pool: u8) -> bool {
        std::ptr::eq(self.arena, arena) && self.pool == pool
    }
}

thread_local! {
    static HOME: RefCell<Option<Home>> = const { RefCell::new(None) };
}

/// Why an arena could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ArenaError {
    /// The kernel refused the memory.
    #[error("cannot map {bytes} bytes for buffers: {source}; set `buffers` lower or add memory")]
    Map {
        /// What was asked for.
        bytes: usize,
        /// What the kernel said.
        source: rustix::io::Errno,
    },
}

/// All buffer memory of the process, divided in pools, one per core.
///
/// Lives as long as the process.
pub struct Arena {
    inner: &'static Inner,
    pages_per_pool: u32,
    /// Of the spare pool; 0 if there is none.
    spare_pages: u32,
    is_on_huge_pages: bool,
}

/// Pages of a spare pool.
const SPARE_PAGES: usize = 2 * BUF_MAX / PAGE;

impl Arena {
    /// Maps `bytes_per_pool` (rounded up to 2 MiB) for each of `pools` cores.
    ///
    /// # Errors
    /// [`ArenaError::Map`] when the kernel has no such memory.
    pub fn new(bytes_per_pool: usize, pools: usize) -> Result<Self, ArenaError> {
        Self::with(bytes_per_pool, pools, 0, false)
    }

    /// As [`Arena::new`], with a small pool more, [`Arena::spare`]. `try_huge`: on huge pages that
    /// the operator has reserved (`vm.nr_hugepages`) if there are enough: a device translates and
    /// the kernel pins 2 MiB at once, and without an IOMMU they alone stay where they are.
    ///
    /// # Errors
    /// As [`Arena::new`].
    pub fn with_spare(
        bytes_per_pool: usize,
        pools: usize,
        try_huge: bool,
    ) -> Result<Self, ArenaError> {
        Self::with(bytes_per_pool, pools, SPARE_PAGES, try_huge)
    }

    /// As [`Arena::new`], on huge pages if there are enough.
    ///
    /// # Errors
    /// As [`Arena::new`].
    pub fn for_devices(bytes_per_pool: usize, pools: usize) -> Result<Self, ArenaError> {
        Self::with(bytes_per_pool, pools, 0, true)
    }

    fn with(
        bytes_per_pool: usize,
        pools: usize,
        spare_pages: usize,
        try_huge: bool,
    ) -> Result<Self, ArenaError> {
        assert!((1..=254).contains(&pools));
        let pages_per_pool = bytes_per_pool.div_ceil(BUF_MAX).max(1) * (BUF_MAX / PAGE);
        let pages = pages_per_pool * pools + spare_pages;
        let huge = if try_huge { map_huge(pages * PAGE).ok() } else { None };
        let memory = huge.map_or_else(|| map(pages * PAGE), Ok)?;
        let crcs = map(pages * size_of::<u32>())?.cast();
        let counts = (0..pages).map(|_| AtomicU32::new(0)).collect();
        let sizes = (0..pools).map(|_| pages_per_pool).chain([spare_pages.max(1)]);
        let returns = sizes.map(ArrayQueue::new).collect();
        let inner = Box::leak(Box::new(Inner { memory, crcs, counts, returns }));
        let (pages_per_pool, spare_pages) = (pages_per_pool as u32, spare_pages as u32);
        Ok(Self { inner, pages_per_pool, spare_pages, is_on_huge_pages: huge.is_some() })
    }

    /// Whether the buffers lie in huge pages.
    #[must_use]
    pub fn is_on_huge_pages(&self) -> bool {
        self.is_on_huge_pages
    }

    /// Has the kernel provide every page now, before any pool is in use.
    pub(crate) fn touch(&self) {
        for page in 0..self.inner.counts.len() as u32 {
            // SAFETY: a byte of our mapping, read and written back as it is; volatile, so that it
            // happens at all.
            unsafe {
                let byte = self.inner.page_ptr(page).as_ptr();
                byte.write_volatile(byte.read_volatile());
            }
        }
    }

    /// The pool of core `core`. Called once for each.
    #[must_use]
    pub fn pool(&self, core: usize) -> Pool {
        assert!(core < self.inner.returns.len() - 1);
        self.pool_of(core, self.pages_per_pool)
    }

    /// A small pool of no core. Called once.
    #[must_use]
    pub fn spare(&self) -> Pool {
        assert!(self.spare_pages > 0, "the arena was made with one");
        self.pool_of(self.inner.returns.len() - 1, self.spare_pages)
    }

    fn pool_of(&self, core: usize, pages: u32) -> Pool {
        let tops = pages >> TOP_ORDER;
        let first = core as u32 * self.pages_per_pool;
        let mut free: [Vec<u32>; ORDERS] =
            std::array::from_fn(|order| Vec::with_capacity((pages >> order) as usize));
        free[TOP_ORDER].extend((0..tops).rev().map(|top| first + (top << TOP_ORDER)));
        let free = RefCell::new(free);
        Pool {
            inner: self.inner,
            pool: core as u8,
            free,
            pages,
            free_pages: Cell::new(pages),
            may_merge: Cell::new(false),
        }
    }

    /// Makes the arena as new, for another life of a simulated node: its pools are gone, and so
    /// must all their buffers be.
    #[cfg(any(test, feature = "sim"))]
    pub(crate) fn recycle(&self) {
        for (page, count) in self.inner.counts.iter().enumerate() {
            assert_eq!(count.load(Ordering::Acquire), 0, "page {page} is still in use");
        }
        for returns in &self.inner.returns {
            while returns.pop().is_some() {}
        }
    }

    pub(super) fn inner(&self) -> &'static Inner {
        self.inner
    }

    /// Start of the mapping and its length in bytes, for registration with the kernel or an IOMMU.
    #[must_use]
    pub fn mapping(&self) -> (NonNull<u8>, usize) {
        (self.inner.memory, self.inner.counts.len() * PAGE)
    }
}

pub(super) fn map(bytes: usize) -> Result<NonNull<u8>, ArenaError> {
    map_with(bytes, MapFlags::PRIVATE | MapFlags::NORESERVE)
}

/// Memory of huge pages, reserved at once: there are enough of them, or it fails here.
pub(super) fn map_huge(bytes: usize) -> Result<NonNull<u8>, ArenaError> {
    assert!(bytes.is_multiple_of(HUGE_PAGE));
    map_with(bytes, MapFlags::PRIVATE | MapFlags::HUGETLB | MapFlags::HUGE_2MB)
}

fn map_with(bytes: usize, flags: MapFlags) -> Result<NonNull<u8>, ArenaError> {
    let access = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: a new anonymous mapping at an address of the kernel's choice.
    let mapped = unsafe { mmap_anonymous(std::ptr::null_mut(), bytes, access, flags) };
    let memory = mapped.map_err(|source| ArenaError::Map { bytes, source })?;
    // SAFETY: the range has just been mapped. Huge pages are a hint that may be refused.
    let _ = unsafe { madvise(memory, bytes, Advice::LinuxHugepage) };
    Ok(NonNull::new(memory.cast()).expect("the kernel maps nothing at address zero"))
}

/// One core's share of the arena.
///
/// Not `Sync`: the owning core allocates; any core may free.
pub struct Pool {
    inner: &'static Inner,
    pool: u8,
    free: RefCell<[Vec<u32>; ORDERS]>,
    pages: u32,
    free_pages: Cell<u32>,
    /// Whether anything came back since the free blocks were last merged.
    may_merge: Cell<bool>,
}

impl Pool {
    /// A buffer of `len` bytes (1 to 2 MiB), contents unspecified; `None` when the pool is empty:
    /// the caller waits until buffers come back.
    #[must_use]
    pub fn alloc(&self, len: usize) -> Option<Buf> {
        assert!((1..=BUF_MAX).contains(&len), "buffer of {len} bytes");
        let order = len.div_ceil(PAGE).next_power_of_two().trailing_zeros() as usize;
        let mut free = self.free.borrow_mut();
        // What came back last is handed out first: it is still in the processor's cache.
        self.take_returns(&mut free);
        let page = free[order].pop().or_else(|| split(&mut free, order)).or_else(|| {
            if !self.may_merge.replace(false) {
                return None;
            }
            merge_all(&mut free);
            split(&mut free, order)
        })?;
        let root = Root { page, order: order as u8, pool: self.pool };
        self.inner.counts[page as usize].store(1, Ordering::Relaxed);
        self.free_pages.set(self.free_pages.get() - (1 << order));
        Some(Buf::new(self.inner, root, 1 << order, len as u32))
    }

    /// Makes this the pool of the calling thread, which stays so: what the thread gives back to it
    /// takes the short way.
    pub fn settle_here(&self) {
        let returned = Vec::with_capacity(self.pages as usize);
        let home = Home { arena: self.inner, pool: self.pool, returned };
        let before = HOME.replace(Some(home));
        assert!(before.is_none(), "a thread has one pool");
    }

    /// Bytes that are free now.
    #[must_use]
    pub fn available(&self) -> usize {
        self.take_returns(&mut self.free.borrow_mut());
        self.free_pages.get() as usize * PAGE
    }

    /// Bytes in all.
    #[must_use]
    pub fn size(&self) -> usize {
        self.pages as usize * PAGE
    }

    /// Whether less than a quarter is free.
    #[must_use]
    pub fn is_low(&self) -> bool {
        self.has_less_than(self.pages / 4)
    }

    /// Whether less than a sixteenth is free.
    #[must_use]
    pub fn is_scarce(&self) -> bool {
        self.has_less_than(self.pages / 16)
    }

    fn has_less_than(&self, pages: u32) -> bool {
        let is_less = || self.free_pages.get() < pages;
        is_less() && {
            self.take_returns(&mut self.free.borrow_mut());
            is_less()
        }
    }

    fn take_returns(&self, free: &mut [Vec<u32>; ORDERS]) {
        let mut take = |root: Root| {
            free[usize::from(root.order)].push(root.page);
            self.may_merge.set(true);
            self.free_pages.set(self.free_pages.get() + (1 << root.order));
        };
        let returns = &self.inner.returns[usize::from(self.pool)];
        // Looking whether it is empty is cheap, trying to take is not.
        while !returns.is_empty() {
            let Some(root) = returns.pop() else { break };
            take(root);
        }
        HOME.with_borrow_mut(|home| {
            if let Some(home) = home.as_mut().filter(|home| home.is_of(self.inner, self.pool)) {
                home.returned.drain(..).for_each(take);
            }
        });
    }
}

/// Takes a block of `order` from the next larger block that is free.
fn split(free: &mut [Vec<u32>; ORDERS], order: usize) -> Option<u32> {
    let larger = (order..ORDERS).find(|&larger| !free[larger].is_empty())?;
    let page = free[larger].pop()?;
    for half in (order..larger).rev() {
        free[half].push(page + (1 << half));
    }
    Some(page)
}

/// Joins every pair of free buddies, lowest order first. Rare: only when a large block is wanted
/// and small ones hold the memory.
fn merge_all(free: &mut [Vec<u32>; ORDERS]) {
    for order in 0..TOP_ORDER {
        free[order].sort_unstable();
        let blocks = std::mem::take(&mut free[order]);
        let mut kept = Vec::with_capacity(blocks.capacity());
        let mut blocks = blocks.into_iter().peekable();
        while let Some(block) = blocks.next() {
            let is_low_half = block & (1 << order) == 0;
            if is_low_half && blocks.next_if_eq(&(block + (1 << order))).is_some() {
                free[order + 1].push(block);
            } else {
                kept.push(block);
            }
        }
        free[order] = kept;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_back_last_is_handed_out_first() {
        let pool = Arena::new(BUF_MAX, 1).unwrap().pool(0);
        let (first, second) = (pool.alloc(PAGE).unwrap(), pool.alloc(PAGE).unwrap());
        let pages = (first.arena_page(), second.arena_page());
        drop(first);
        drop(second);
        let again = (pool.alloc(PAGE).unwrap(), pool.alloc(PAGE).unwrap());
        assert_eq!((again.1.arena_page(), again.0.arena_page()), pages);
    }

    #[test]
    fn a_pool_at_home_gets_back_what_any_thread_frees() {
        let pool = Arena::new(2 * BUF_MAX, 1).unwrap().pool(0);
        let other = Arena::new(BUF_MAX, 1).unwrap().pool(0);
        pool.settle_here();
        let (here, there) = (pool.alloc(BUF_MAX).unwrap(), pool.alloc(BUF_MAX).unwrap());
        let foreign = other.alloc(BUF_MAX).unwrap();
        assert!(pool.alloc(1).is_none());
        let shared = here.freeze();
        let again = shared.clone();
        std::thread::spawn(move || drop((there, shared))).join().unwrap();
        assert_eq!((pool.available(), other.available()), (BUF_MAX, 0));
        drop((again, foreign));
        assert_eq!((pool.available(), other.available()), (2 * BUF_MAX, BUF_MAX));
        assert!(pool.alloc(BUF_MAX).is_some() && other.alloc(BUF_MAX).is_some());
    }

    #[test]
    fn buffers_come_back_and_merge() {
        let pool = Arena::new(BUF_MAX, 1).unwrap().pool(0);
        let small: Vec<Buf> = (0..512).map(|_| pool.alloc(PAGE).unwrap()).collect();
        assert!(pool.alloc(1).is_none());
        drop(small);
        assert_eq!(pool.available(), BUF_MAX);
        assert_eq!(pool.alloc(BUF_MAX).unwrap().len(), BUF_MAX);
    }

    #[test]
    fn parts_free_their_allocation_together() {
        let pool = Arena::new(BUF_MAX, 1).unwrap().pool(0);
        let mut whole = pool.alloc(4 * PAGE).unwrap();
        whole.fill(7);
        let tail = whole.split_off(PAGE);
        assert_eq!((whole.len(), tail.len()), (PAGE, 3 * PAGE));
        let frozen = tail.freeze();
        let part = frozen.slice(PAGE, 100);
        drop((whole, frozen));
        assert_eq!(pool.available(), BUF_MAX - 4 * PAGE);
        assert!(part.iter().all(|&byte| byte == 7));
        drop(part);
        assert_eq!(pool.available(), BUF_MAX);
    }

    #[test]
    fn only_the_last_user_reclaims() {
        let pool = Arena::new(BUF_MAX, 1).unwrap().pool(0);
        let first = pool.alloc(3 * PAGE).unwrap().freeze();
        let second = first.slice(PAGE, PAGE);
        assert!(first.reclaim().is_none());
        let whole = second.reclaim().unwrap();
        assert_eq!((whole.len(), whole.capacity()), (4 * PAGE, 4 * PAGE));
        drop(whole);
        assert_eq!(pool.available(), BUF_MAX);
    }

    #[test]
    fn join_restores_the_whole() {
        let pool = Arena::new(BUF_MAX, 1).unwrap().pool(0);
        let mut whole = pool.alloc(3 * PAGE + 5).unwrap();
        let tail = whole.split_off(2 * PAGE);
        whole.join(tail);
        assert_eq!(whole.len(), 3 * PAGE + 5);
        drop(whole);
        assert_eq!(pool.available(), BUF_MAX);
    }

    #[test]
    fn an_empty_pool_is_not_merged_again_and_again() {
        let pool = Arena::new(BUF_MAX, 1).unwrap().pool(0);
        let mut small: Vec<Buf> = (0..512).map(|_| pool.alloc(PAGE).unwrap()).collect();
        drop(small.split_off(256));
        assert!(pool.alloc(BUF_MAX).is_none());
        assert!(!pool.may_merge.get(), "merged, to no avail");
        assert!(pool.alloc(BUF_MAX).is_none());
        assert!(!pool.is_low() && !pool.is_scarce());
        drop(small);
        assert!(pool.alloc(BUF_MAX).is_some(), "what came back is merged");
    }

    #[test]
    fn a_pool_knows_how_full_it_is() {
        let pool = Arena::new(BUF_MAX, 1).unwrap().pool(0);
        let mut held: Vec<Buf> = (0..384).map(|_| pool.alloc(PAGE).unwrap()).collect();
        assert!(!pool.is_low());
        held.push(pool.alloc(PAGE).unwrap());
        assert!(pool.is_low() && !pool.is_scarce());
        held.extend((0..96).map(|_| pool.alloc(PAGE).unwrap()));
        assert!(pool.is_scarce());
        held.truncate(384);
        assert!(!pool.is_low() && !pool.is_scarce());
    }
}
