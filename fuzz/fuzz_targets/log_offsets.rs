//! Get Log Page with any dwords: a part is what the whole has there.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| nvmeof_target::fuzz::log_offsets(bytes));
