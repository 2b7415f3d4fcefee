//! Hints to the processor, so that fetches from memory overlap with work.

/// Bytes fetched by one hint.
pub(super) const LINE: usize = 64;

/// Fetches the line of `value` that holds its first byte.
pub(crate) fn value<T>(value: &T) {
    line(std::ptr::from_ref(value).cast());
}

/// Fetches one line.
#[cfg(target_arch = "x86_64")]
pub(super) fn line(at: *const u8) {
    use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
    // SAFETY: a prefetch changes nothing and does not fault, whatever the address.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) };
}

/// As above, where stable Rust has no such instruction.
#[cfg(not(target_arch = "x86_64"))]
pub(super) fn line(_: *const u8) {}
