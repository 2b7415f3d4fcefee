//! Commands, time, lost connections and changes of the configuration, on one target.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| nvmeof_target::fuzz::admin(bytes));
