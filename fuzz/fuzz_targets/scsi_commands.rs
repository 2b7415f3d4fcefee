//! Any CDBs with any parameter lists, from two nexuses to three units.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| iscsi_target::scsi::fuzz::scsi_commands(bytes));
