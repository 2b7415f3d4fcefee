//! A checksum put together from its parts is the checksum of the whole, wherever the cut.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| nvmeof_target::fuzz::crc_combine(bytes));
