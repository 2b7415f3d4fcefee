//! Any fields and data of Connect.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| nvmeof_target::fuzz::connect_data(bytes));
