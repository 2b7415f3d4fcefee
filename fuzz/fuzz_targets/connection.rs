//! A schedule of commands, fragments, completions, aborts and faults, and a cut in the end.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| nvmeof_target::fuzz::connection(bytes));
