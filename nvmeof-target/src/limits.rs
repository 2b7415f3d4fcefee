//! Limits that Identify tells hosts and that queues enforce; those of Copy are in [`crate::seam`].

/// Most namespaces of a subsystem, and the largest namespace id (NN, MNAN).
pub const NAMESPACES_MAX: u32 = 1024;

/// Unit of MDTS, VSL, WZSL and WUSL in bytes: CAP.MPSMIN.
pub const PAGE_SIZE: usize = 4096;

/// log2 of the most pages of one Write Zeroes, Verify or Write Uncorrectable (WZSL, VSL, WUSL).
///
/// 32 MiB is the most that the 16-bit block count can say with 512-byte blocks. Linux takes the
/// limit in bytes and does not see that its count overflows, so that a larger one would zero too
/// little.
pub const LONG_COMMAND_PAGES_SHIFT: u8 = 13;

/// [`LONG_COMMAND_PAGES_SHIFT`] in bytes.
pub const LONG_COMMAND_MAX: u64 = (PAGE_SIZE as u64) << LONG_COMMAND_PAGES_SHIFT;
const _: () = assert!(LONG_COMMAND_MAX == target_io::LONG_REQUEST_MAX);

/// Formats of Copy source ranges that are understood, one bit each (CDFS).
pub const COPY_FORMATS: u16 = 0b11;

/// Most Aborts of one controller at once (ACL + 1).
pub const ABORTS_MAX: usize = 4;

/// Most Asynchronous Event Requests of one controller at once (AERL + 1).
pub const ASYNC_EVENTS_MAX: usize = 4;
