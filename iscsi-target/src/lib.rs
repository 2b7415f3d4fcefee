//! Sans-IO iSCSI target.
//!
//! No sockets, threads or clocks: bytes, completions and the time go in; bytes, block requests and
//! deadlines come out.
#![forbid(unsafe_code)]

pub mod scsi;
