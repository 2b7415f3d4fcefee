//! What a sans-IO target asks of the core that runs it: one vocabulary for all protocols.
#![forbid(unsafe_code)]

pub mod digest;
pub mod grid;
#[cfg(any(test, fuzzing, feature = "testing"))]
pub mod testing;

use core::ops::Range;
use core::time::Duration;

/// Monotonic time since the node started.
pub type Now = Duration;

/// A volume, as the surroundings number it: what a namespace is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VolumeIndex(pub u32);

/// A page-aligned buffer that data land in and leave from without being copied.
///
/// Buffers lie on the volume's 4 KiB grid: byte 0 stands for the request's offset rounded down to
/// 4 KiB. `crcs()[i]` is the CRC32C of page `i`.
pub trait Buffer {
    /// The bytes that count.
    fn bytes(&self) -> &[u8];
    /// As [`Buffer::bytes`], to fill.
    fn bytes_mut(&mut self) -> &mut [u8];
    /// One checksum cell per 4 KiB page of `bytes`.
    fn crcs(&self) -> &[u32];
    /// As [`Buffer::crcs`], to set.
    fn crcs_mut(&mut self) -> &mut [u32];
}

/// A connection, as the surroundings number it: unique for the life of the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId(pub u64);

/// What a connection names a block request by. Returned with its completion, once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ticket(pub u32);

/// One request to a volume. Offsets and lengths are bytes within the volume, multiples of 512,
/// already checked against its size.
#[derive(Debug)]
pub enum BlockRequest<B> {
    /// Fill `buf` (whose length covers the range to whole 4 KiB blocks) and its checksum cells with
    /// the checksums that the store holds.
    Read {
        /// First byte.
        offset: u64,
        /// Number of bytes.
        len: u32,
        /// Where they go.
        buf: B,
    },
    /// Write. Cells of wholly written blocks hold the data's checksums. Durable when completed.
    Write {
        /// First byte.
        offset: u64,
        /// Number of bytes.
        len: u32,
        /// The bytes.
        data: B,
    },
    /// Compare with `expected`.
    Compare {
        /// First byte.
        offset: u64,
        /// Number of bytes.
        len: u32,
        /// What must be there.
        expected: B,
    },
    /// Compare with `expected` and, if equal, write `data`, as one. The range lies in one 4 KiB
    /// block.
    CompareAndWrite {
        /// First byte.
        offset: u64,
        /// Number of bytes.
        len: u32,
        /// What must be there.
        expected: B,
        /// What replaces it, with checksum cells as in `Write`.
        data: B,
    },
    /// Check that the range can be read.
    Verify {
        /// First byte.
        offset: u64,
        /// Number of bytes, at most [`LONG_REQUEST_MAX`]: more than any transfer.
        len: u64,
    },
    /// The range reads as zeroes; its whole blocks are unmapped.
    Zero {
        /// First byte.
        offset: u64,
        /// Number of bytes, at most [`LONG_REQUEST_MAX`]: more than any transfer.
        len: u64,
    },
    /// The range, whole 4 KiB blocks, answers reads with a media error until written.
    Poison {
        /// First byte.
        offset: u64,
        /// Number of bytes.
        len: u64,
    },
}

/// How a block request ended.
#[derive(Debug)]
pub enum BlockResult<B> {
    /// Done; the buffer of a read, filled. `None` for everything else.
    Done(Option<B>),
    /// Not done, or not known to be.
    Failed(BlockError),
}

/// Why a block request failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlockError {
    /// No space for a first write (NVMe: Capacity Exceeded).
    Full,
    /// Unreadable from this byte of the volume on (NVMe: Unrecovered Read Error).
    Media {
        /// First unreadable byte, within the volume.
        offset: u64,
    },
    /// A comparison failed (NVMe: Compare Failure).
    Miscompare {
        /// First differing byte, within the volume.
        offset: u64,
    },
    /// The disk failed (NVMe: Internal Error for reads, Write Fault for writes).
    DiskFailed,
    /// The volume was deleted or is not here any more (NVMe: Namespace Not Ready or Invalid
    /// Namespace).
    VolumeGone,
}

/// The core around a connection.
pub trait Surroundings {
    /// Its buffers.
    type Buf: Buffer;

    /// A buffer of `len` bytes, at most [`TRANSFER_MAX`] + 4 KiB; contents unspecified. `None` when
    /// there is none now: the connection keeps the command and stops taking bytes until it is
    /// resumed.
    fn alloc(&mut self, len: usize) -> Option<Self::Buf>;

    /// As [`Surroundings::alloc`], for a buffer that is then held until the host has sent data for
    /// it (R2T). Surroundings keep a part of their memory out of these, because a host's data can
    /// stand in the stream behind commands that need buffers themselves.
    fn alloc_for_host_data(&mut self, len: usize) -> Option<Self::Buf> {
        self.alloc(len)
    }

    /// As [`Surroundings::alloc`], for a buffer that is then held until the host has taken what was
    /// read into it. Surroundings may keep a part of their memory out of these too.
    fn alloc_for_read(&mut self, len: usize) -> Option<Self::Buf> {
        self.alloc(len)
    }

    /// Starts a request. Its completion is delivered later, never from within this call.
    fn submit(&mut self, ticket: Ticket, volume: VolumeIndex, request: BlockRequest<Self::Buf>);
}

/// Where a connection puts what it sends. Everything given is sent in this order.
pub trait TxSink<B> {
    /// Whether one more PDU may be given: one [`TxSink::data`] and at most
    /// [`PDU_BYTES_COPIED_MAX`] in calls of [`TxSink::bytes`].
    fn has_room(&self) -> bool;
    /// Whether so many PDUs may be given that carry parts of one buffer, each with at most
    /// [`BURST_PDU_BYTES_COPIED_MAX`] in calls of [`TxSink::bytes`]. Of an empty sink true up to
    /// [`BURST_PDUS_MAX`].
    fn has_room_for(&self, pdus: usize) -> bool;
    /// Copies a few bytes: headers and digests.
    fn bytes(&mut self, bytes: &[u8]);
    /// Hands over a range of a buffer without a copy.
    fn data(&mut self, buf: B, range: Range<usize>);
    /// Hands over a buffer of which parts are to be sent: see [`TxSink::part`].
    fn share(&mut self, buf: B);
    /// A range of the buffer that was handed over last by [`TxSink::share`], without a copy.
    fn part(&mut self, range: Range<usize>);
}

/// Most bytes of one PDU that are given through [`TxSink::bytes`]: a header, its digest and
/// padding, a page of copied data, its digest.
pub const PDU_BYTES_COPIED_MAX: usize = 4096 + 256;

/// As [`PDU_BYTES_COPIED_MAX`], of PDUs that are given several at once: a header and two digests.
pub const BURST_PDU_BYTES_COPIED_MAX: usize = 64;

/// Most PDUs that are given at once: a transfer, unaligned, of 8 KiB in each.
pub const BURST_PDUS_MAX: usize = TRANSFER_MAX / 8192 + 2;

/// Largest data transfer of one command in bytes (reported as MDTS).
pub const TRANSFER_MAX: usize = 1 << 20;

/// Largest [`BlockRequest::Zero`] and [`BlockRequest::Verify`] in bytes.
pub const LONG_REQUEST_MAX: u64 = 32 << 20;
