//! Any checkpoint header and pages, with checksums that match.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| dataplane::fuzz::checkpoint(bytes));
