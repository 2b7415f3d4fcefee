//! A host's stream: the answers do not depend on how it is cut.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| nvmeof_target::fuzz::pdu_stream(bytes));
