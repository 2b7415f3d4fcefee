//! Counts heap allocations of every thread but the one that makes the load.
#![expect(unsafe_code)]
// UNSAFETY: forwards every call to the system's allocator as it is.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};

static COUNT: AtomicU64 = AtomicU64::new(0);

thread_local! {
    static IS_EXEMPT: Cell<bool> = const { Cell::new(false) };
}

/// The system's allocator, counted.
pub(crate) struct Counting;

/// Allocations so far of threads that are not exempt.
pub(crate) fn count() -> u64 {
    COUNT.load(Ordering::Relaxed)
}

/// The calling thread's allocations do not count from now on.
pub(crate) fn exempt_this_thread() {
    IS_EXEMPT.with(|exempt| exempt.set(true));
}

fn note() {
    // A thread that is ending has no cell any more; what it does then is not the I/O path.
    if !IS_EXEMPT.try_with(Cell::get).unwrap_or(true) {
        COUNT.fetch_add(1, Ordering::Relaxed);
    }
}

// SAFETY: as the system's allocator, to which everything goes.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note();
        // SAFETY: the caller's promises are the system's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        note();
        // SAFETY: as above.
        unsafe { System.realloc(pointer, layout, size) }
    }
}
