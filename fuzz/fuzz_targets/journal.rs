//! Any batches, with checksums that match: the disk is mounted or refused.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| dataplane::fuzz::journal(bytes));
