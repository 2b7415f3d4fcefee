//! Buffer arena: one mapping made at start, divided in 4 KiB pages, from which every buffer on the
//! I/O path comes.
//!
//! [`Buf`] is the exclusive owner of a range of pages and may fill it; [`Buf::freeze`] turns it
//! into a shared, read-only [`Slice`]. Each page has a checksum cell beside it, so that the CRC32C
//! of a 4 KiB block travels with the block between socket, store, and (later) replicas.
#![expect(unsafe_code)]
// UNSAFETY: hands out ranges of one raw mapping, each to exactly one owner at a time.

mod arena;
mod buf;
#[cfg(any(test, feature = "sim"))]
mod bus;
mod device;
pub(crate) mod prefetch;
mod region;

pub use arena::{Arena, ArenaError, Pool};
pub use buf::{Buf, Slice};
#[cfg(any(test, feature = "sim"))]
pub use bus::{EmulatedBus, Fault};
pub use device::{ArenaMap, DeviceMemory, Span, Unmap};
pub use region::Region;

/// Bytes in a page: the unit of allocation, of alignment, and of checksums.
pub const PAGE: usize = 4096;
