//! Data of writes against what was asked for.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| iscsi_target::fuzz::iscsi_data_out(bytes));
