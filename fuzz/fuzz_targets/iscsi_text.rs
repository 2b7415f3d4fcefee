//! Text of login and text requests.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| iscsi_target::fuzz::iscsi_text(bytes));
