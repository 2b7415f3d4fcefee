//! Volumes in memory, whose requests complete when and in the order that the test says.

use crate::{
    BURST_PDUS_MAX, BlockError, BlockRequest, BlockResult, Buffer, PDU_BYTES_COPIED_MAX,
    Surroundings, TRANSFER_MAX, Ticket, TxSink, VolumeIndex,
};
use core::cell::Cell;
use core::ops::Range;
use core::sync::atomic::{AtomicUsize, Ordering};
use std::collections::BTreeSet;
use std::sync::Arc;
use storage_spec::crc32c::{self, BLOCK};

/// A buffer of ordinary memory that is counted while it lives.
#[derive(Debug)]
pub struct PlainBuf {
    bytes: Vec<u8>,
    crcs: Vec<u32>,
    live: Arc<AtomicUsize>,
}

impl Drop for PlainBuf {
    fn drop(&mut self) {
        self.live.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Buffer for PlainBuf {
    fn bytes(&self) -> &[u8] {
        &self.bytes
    }
    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
    fn crcs(&self) -> &[u32] {
        &self.crcs
    }
    fn crcs_mut(&mut self) -> &mut [u32] {
        &mut self.crcs
    }
}

/// Volumes, and the requests to them that wait. Checks every request as a store would.
#[derive(Debug, Default)]
pub struct Memory {
    /// The bytes of each volume.
    pub volumes: Vec<Vec<u8>>,
    /// Buffers that may be alive at once.
    pub buffers_max: usize,
    /// The next request to complete fails with this.
    pub fail_next: Option<BlockError>,
    pending: Vec<(Ticket, VolumeIndex, BlockRequest<PlainBuf>)>,
    /// Pages that [`BlockRequest::Poison`] made unreadable.
    poisoned: BTreeSet<(u32, u64)>,
    live: Arc<AtomicUsize>,
}

impl Memory {
    /// Volumes of these sizes in bytes, filled with a pattern that tells its place.
    #[must_use]
    pub fn new(sizes: &[usize]) -> Self {
        let pattern = |(volume, &size): (usize, &usize)| {
            (0..size).map(|at| (at / 512 * 31 + at * 7 + volume) as u8).collect()
        };
        Self {
            volumes: sizes.iter().enumerate().map(pattern).collect(),
            buffers_max: usize::MAX,
            ..Self::default()
        }
    }

    /// Requests that wait for completion.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.pending.len()
    }

    /// Buffers alive, wherever they are.
    #[must_use]
    pub fn live(&self) -> usize {
        self.live.load(Ordering::Relaxed)
    }

    /// Executes the `index`th request that waits; its completion is to be given to the connection.
    ///
    /// # Panics
    /// If there is no such request.
    pub fn execute(&mut self, index: usize) -> (Ticket, BlockResult<PlainBuf>) {
        let (ticket, volume, request) = self.pending.remove(index);
        let result = match self.fail_next.take() {
            Some(error) => Err(error),
            None => self.apply(volume, request),
        };
        let result = match result {
            Ok(buf) => BlockResult::Done(buf),
            Err(error) => BlockResult::Failed(error),
        };
        (ticket, result)
    }

    fn apply(
        &mut self,
        volume: VolumeIndex,
        request: BlockRequest<PlainBuf>,
    ) -> Result<Option<PlainBuf>, BlockError> {
        match request {
            BlockRequest::Read { offset, len, mut buf } => {
                self.check_readable(volume, offset, u64::from(len))?;
                self.fill(volume, offset, &mut buf);
                return Ok(Some(buf));
            }
            BlockRequest::Write { offset, len, data } => self.write(volume, offset, len, &data),
            BlockRequest::Compare { offset, len, expected } => {
                self.compare(volume, offset, len, &expected)?;
            }
            BlockRequest::CompareAndWrite { offset, len, expected, data } => {
                assert_eq!(offset / BLOCK as u64, (offset + u64::from(len) - 1) / BLOCK as u64);
                self.compare(volume, offset, len, &expected)?;
                self.write(volume, offset, len, &data);
            }
            BlockRequest::Verify { offset, len } => self.check_readable(volume, offset, len)?,
            BlockRequest::Zero { offset, len } => {
                self.range(volume, offset, len).fill(0);
                self.heal(volume, offset, len);
            }
            BlockRequest::Poison { offset, len } => {
                assert!(offset.is_multiple_of(BLOCK as u64) && len.is_multiple_of(BLOCK as u64));
                self.range(volume, offset, len);
                let pages = offset / BLOCK as u64..(offset + len) / BLOCK as u64;
                self.poisoned.extend(pages.map(|page| (volume.0, page)));
            }
        }
        Ok(None)
    }

    fn range(&mut self, volume: VolumeIndex, offset: u64, len: u64) -> &mut [u8] {
        assert!(offset.is_multiple_of(512) && len.is_multiple_of(512) && len > 0);
        &mut self.volumes[volume.0 as usize][offset as usize..(offset + len) as usize]
    }

    /// Fills whole pages and their checksums, as a store does.
    fn fill(&self, volume: VolumeIndex, offset: u64, buf: &mut PlainBuf) {
        let from = offset as usize / BLOCK * BLOCK;
        let bytes = &self.volumes[volume.0 as usize];
        for page in 0..buf.bytes.len() / BLOCK {
            let source = from + page * BLOCK;
            let target = &mut buf.bytes[page * BLOCK..(page + 1) * BLOCK];
            target.fill(0);
            let end = (source + BLOCK).min(bytes.len());
            target[..end - source].copy_from_slice(&bytes[source..end]);
            buf.crcs[page] = crc32c::checksum(target);
        }
    }

    fn write(&mut self, volume: VolumeIndex, offset: u64, len: u32, data: &PlainBuf) {
        let head = offset as usize % BLOCK;
        let end = head + len as usize;
        assert_eq!(data.bytes.len(), end.next_multiple_of(BLOCK));
        for page in head.div_ceil(BLOCK)..end / BLOCK {
            let bytes = &data.bytes[page * BLOCK..(page + 1) * BLOCK];
            assert_eq!(data.crcs[page], crc32c::checksum(bytes), "page {page} is sealed");
        }
        let source = &data.bytes[head..end];
        self.range(volume, offset, u64::from(len)).copy_from_slice(source);
        self.heal(volume, offset, u64::from(len));
    }

    fn compare(
        &mut self,
        volume: VolumeIndex,
        offset: u64,
        len: u32,
        expected: &PlainBuf,
    ) -> Result<(), BlockError> {
        self.check_readable(volume, offset, u64::from(len))?;
        let head = offset as usize % BLOCK;
        let expected = &expected.bytes[head..head + len as usize];
        let found = self.range(volume, offset, u64::from(len));
        match found.iter().zip(expected).position(|(found, expected)| found != expected) {
            Some(at) => Err(BlockError::Miscompare { offset: offset + at as u64 }),
            None => Ok(()),
        }
    }

    fn check_readable(
        &mut self,
        volume: VolumeIndex,
        offset: u64,
        len: u64,
    ) -> Result<(), BlockError> {
        self.range(volume, offset, len);
        let block = BLOCK as u64;
        let pages = (volume.0, offset / block)..(volume.0, (offset + len).div_ceil(block));
        match self.poisoned.range(pages).next() {
            Some(&(_, page)) => Err(BlockError::Media { offset: offset.max(page * block) }),
            None => Ok(()),
        }
    }

    fn heal(&mut self, volume: VolumeIndex, offset: u64, len: u64) {
        let block = BLOCK as u64;
        for page in offset / block..(offset + len).div_ceil(block) {
            self.poisoned.remove(&(volume.0, page));
        }
    }
}

impl Surroundings for Memory {
    type Buf = PlainBuf;

    fn alloc(&mut self, len: usize) -> Option<PlainBuf> {
        assert!((1..=TRANSFER_MAX + BLOCK).contains(&len), "a buffer of {len} bytes");
        if self.live() >= self.buffers_max {
            return None;
        }
        self.live.fetch_add(1, Ordering::Relaxed);
        let crcs = vec![0xDEAD_BEEF; len.div_ceil(BLOCK)];
        Some(PlainBuf { bytes: vec![0xA5; len], crcs, live: self.live.clone() })
    }

    fn submit(&mut self, ticket: Ticket, volume: VolumeIndex, request: BlockRequest<PlainBuf>) {
        self.pending.push((ticket, volume, request));
    }
}

/// What a connection has sent.
#[derive(Debug)]
pub struct Wire {
    /// All bytes, in order.
    pub bytes: Vec<u8>,
    /// PDUs that may still be given.
    pub room: usize,
    /// Bytes copied for the PDU at hand; `None` between PDUs.
    copied: Cell<Option<usize>>,
    /// The bytes of the buffer that was shared last.
    shared: Vec<u8>,
}

impl Wire {
    /// Takes `room` PDUs.
    #[must_use]
    pub fn new(room: usize) -> Self {
        Self { bytes: Vec::new(), room, copied: Cell::new(None), shared: Vec::new() }
    }
}

impl<B: Buffer> TxSink<B> for Wire {
    fn has_room(&self) -> bool {
        self.copied.set(None);
        self.room > 0
    }

    fn has_room_for(&self, pdus: usize) -> bool {
        assert!(pdus <= BURST_PDUS_MAX, "{pdus} PDUs at once");
        self.copied.set(None);
        self.room > 0
    }

    fn bytes(&mut self, bytes: &[u8]) {
        if self.copied.get().is_none() {
            self.room = self.room.checked_sub(1).expect("room is asked for before each PDU");
        }
        let copied = self.copied.get().unwrap_or(0) + bytes.len();
        assert!(copied <= PDU_BYTES_COPIED_MAX, "a PDU copies {copied} bytes");
        self.copied.set(Some(copied));
        self.bytes.extend_from_slice(bytes);
    }

    fn data(&mut self, buf: B, range: Range<usize>) {
        assert!(self.copied.get().is_some(), "data follow their header");
        self.bytes.extend_from_slice(&buf.bytes()[range]);
    }

    fn share(&mut self, buf: B) {
        self.shared = buf.bytes().to_vec();
    }

    fn part(&mut self, range: Range<usize>) {
        assert!(self.copied.get().is_some(), "data follow their header");
        self.bytes.extend_from_slice(&self.shared[range]);
        // The next PDU of a burst for which there was room.
        self.copied.set(Some(0));
    }
}
