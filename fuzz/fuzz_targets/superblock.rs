//! A superblock is refused, or names places that are on the disk.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| dataplane::fuzz::superblock(bytes));
