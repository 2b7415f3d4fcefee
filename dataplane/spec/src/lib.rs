//! Layouts of what crosses a wire or lies on a disk, and nothing else.
//!
//! Every structure is `#[repr(C)]` with explicit endianness and a size assertion; no module here
//! performs input or output, keeps state, or uses `unsafe`.
#![no_std]
#![forbid(unsafe_code)]

pub mod ahci;
pub mod ata;
pub mod crc32c;
pub mod disk;
pub mod fabrics;
pub mod iscsi;
pub mod nvme;
pub mod nvme_tcp;
pub mod reservation;
pub mod scsi;
