//! Any text is refused with places that exist, or gives a configuration that keeps its promises.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| basalt::config::fuzz::configuration(bytes));
