//! Limits that login tells initiators.

use storage_spec::crc32c::BLOCK;
use target_io::TRANSFER_MAX;

/// Most data in one PDU of an initiator (MaxRecvDataSegmentLength of the target).
pub const RECEIVE_MAX: u32 = 256 << 10;

/// Most data of one sequence (MaxBurstLength).
pub const BURST_MAX: u32 = TRANSFER_MAX as u32;

/// Most data of a command that come unasked (FirstBurstLength): they fit in its first buffer.
pub const FIRST_BURST_MAX: u32 = 256 << 10;

const _: () = assert!(FIRST_BURST_MAX as usize + BLOCK <= TRANSFER_MAX);
