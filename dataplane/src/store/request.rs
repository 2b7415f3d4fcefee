//! Requests: what hosts and the node ask, cut into operations on one slab each.

use super::map::Owner;
use super::operation::{Kind, Operation};
use super::shard::{NOTHING, Shard};
use super::{CHUNK, ChunkKey, Completion, Error, Extent, Request, VolumeId, catalogue};
use crate::dma::{Buf, Slice};
use arrayvec::ArrayVec;
use storage_spec::disk::{BLOCK, SLAB_BLOCKS};

const SLAB: u32 = (SLAB_BLOCKS * BLOCK) as u32;
const B: u32 = BLOCK as u32;
/// Most operations of one request at once.
const WINDOW: u32 = 4;
/// Most slabs that a deletion gives back at once: each takes a slot until its record is durable.
const DROP_WINDOW: u32 = 32;
/// Most parts of one read: 2 MiB by the smallest transfer, and one more at a slab's border.
const PARTS_MAX: usize = 6;
/// Smallest largest-transfer of a device.
pub(super) const TRANSFER_MIN: usize = 512 << 10;
/// Bytes that a verification reads at once.
const VERIFY_BYTES: u32 = 128 << 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    Read,
    Verify,
    Write,
    Compare,
    Zero,
    Poison,
    Drop,
    Put,
    Delete,
}

/// A request in flight.
#[derive(Debug)]
pub(super) struct Pending {
    tag: u64,
    pub(super) asked: Asked,
    chunk: ChunkKey,
    /// Byte of the chunk at which the buffers start.
    origin: u32,
    /// Byte of the chunk from which on no operations have been made.
    position: u32,
    end: u32,
    /// As the host asked, in bytes.
    pub(super) extent: (u32, u32),
    /// Operations that have not ended.
    live: u32,
    /// Whether it stands in `Shard::advances`.
    is_queued: bool,
    error: Option<Error>,
    /// The part of a read's buffer that no operation has yet.
    buf: Option<Buf>,
    parts: ArrayVec<Option<Buf>, PARTS_MAX>,
    pub(super) data: Option<Slice>,
    pub(super) expected: Option<Slice>,
    pub(super) entry: Option<Box<(Vec<u8>, Vec<u8>)>>,
    /// Bytes of the catalogue that are set aside for the entry.
    reserved: u64,
}

impl Pending {
    fn new(tag: u64, asked: Asked, extent: Extent) -> Self {
        let Extent { chunk, offset, len } = extent;
        assert!(
            len > 0
                && u64::from(offset) + u64::from(len) <= CHUNK
                && (offset | len).is_multiple_of(512),
            "{extent:?}"
        );
        Self {
            tag,
            asked,
            chunk,
            origin: offset / B * B,
            position: offset,
            end: offset + len,
            extent: (offset, len),
            live: 0,
            is_queued: false,
            error: None,
            buf: None,
            parts: ArrayVec::new(),
            data: None,
            expected: None,
            entry: None,
            reserved: 0,
        }
    }

    /// The extent to whole blocks.
    fn widen(mut self) -> Self {
        self.position = self.origin;
        self.end = self.end.next_multiple_of(B);
        self
    }

    fn without_extent(tag: u64, asked: Asked, volume: VolumeId) -> Self {
        let chunk = ChunkKey { volume, index: 0 };
        Self::new(tag, asked, Extent { chunk, offset: 0, len: B })
    }
}

impl Shard {
    /// Takes a request; its completion carries `tag`. The extent must be valid, buffers as
    /// [`Request`] says, and a comparison at most [`Shard::compare_and_write_max`].
    pub fn submit(&mut self, tag: u64, request: Request) {
        assert!(!self.is_stopping, "no requests after a shutdown");
        let pending = match request {
            Request::Read { extent, buf } => {
                let mut pending = Pending::new(tag, Asked::Read, extent).widen();
                assert_eq!(buf.len(), (pending.end - pending.origin) as usize);
                pending.buf = Some(buf);
                pending
            }
            Request::Verify { extent } => Pending::new(tag, Asked::Verify, extent).widen(),
            Request::Write { extent, data } => {
                let mut pending = Pending::new(tag, Asked::Write, extent);
                assert!(data.len() >= (pending.end - pending.origin) as usize);
                pending.data = Some(data);
                pending
            }
            Request::CompareAndWrite { extent, expected, data } => {
                let mut pending = Pending::new(tag, Asked::Compare, extent).widen();
                let bytes = pending.end - pending.origin;
                assert!(bytes <= self.compare_and_write_max() && pending.is_comparable());
                assert!(
                    expected.len().min(data.len()) >= (extent.offset % B + extent.len) as usize
                );
                (pending.data, pending.expected) = (Some(data), Some(expected));
                pending
            }
            Request::Zero { extent } => Pending::new(tag, Asked::Zero, extent),
            Request::Poison { extent } => Pending::new(tag, Asked::Poison, extent).widen(),
        };
        self.begin(pending);
    }

    /// Frees everything that the volume holds; idempotent, so that it can be repeated after a
    /// crash. The volume takes no other requests meanwhile.
    pub fn drop_volume(&mut self, tag: u64, volume: VolumeId) {
        let mut pending = Pending::without_extent(tag, Asked::Drop, volume);
        pending.end = CHUNK as u32;
        self.begin(pending);
    }

    /// Durably sets a catalogue entry: key of 1 to 64 bytes, value of at most 1 KiB. Completes with
    /// `tag`; [`Error::Full`] when the catalogue has no room.
    pub fn catalogue_put(&mut self, tag: u64, key: &[u8], value: &[u8]) {
        assert!((1..=catalogue::KEY_MAX).contains(&key.len()));
        assert!(value.len() <= catalogue::VALUE_MAX);
        let mut pending = Pending::without_extent(tag, Asked::Put, VolumeId(0));
        let growth = self.catalogue_growth(key, value);
        if self.tables.catalogue.bytes() + self.catalogue_pending + growth
            > self.areas.catalogue_bytes
        {
            pending.error = Some(Error::Full);
        } else {
            pending.reserved = growth;
            self.catalogue_pending += growth;
        }
        pending.entry = Some(Box::new((key.to_vec(), value.to_vec())));
        self.begin(pending);
    }

    /// Bytes by which the catalogue grows at most: what the entry replaces gives its room, unless
    /// another change of that key is under way, which may take it away first.
    fn catalogue_growth(&self, key: &[u8], value: &[u8]) -> u64 {
        let bytes = catalogue::entry_len(key, value) as u64;
        let is_same = |entry: &(Vec<u8>, Vec<u8>)| entry.0 == key;
        if self.requests.iter().any(|other| other.entry.as_deref().is_some_and(is_same)) {
            return bytes;
        }
        let replaced = self.tables.catalogue.get(key);
        bytes.saturating_sub(replaced.map_or(0, |old| catalogue::entry_len(key, old) as u64))
    }

    /// Durably removes a catalogue entry, if it is there. Completes with `tag`.
    pub fn catalogue_delete(&mut self, tag: u64, key: &[u8]) {
        assert!((1..=catalogue::KEY_MAX).contains(&key.len()));
        let mut pending = Pending::without_extent(tag, Asked::Delete, VolumeId(0));
        pending.entry = Some(Box::new((key.to_vec(), Vec::new())));
        self.begin(pending);
    }

    fn begin(&mut self, pending: Pending) {
        let at = self.requests.insert(pending);
        self.advance(at);
        self.settle();
    }

    /// Makes the operations that may be in flight now; completes the request after the last.
    pub(super) fn advance(&mut self, at: u32) {
        self.requests[at].is_queued = false;
        loop {
            let is_drop = self.requests[at].asked == Asked::Drop;
            let window = if is_drop { DROP_WINDOW } else { WINDOW };
            if self.requests[at].live == window || self.requests[at].error.is_some() {
                break;
            }
            if is_drop {
                self.find_slab(at);
            }
            let pending = &mut self.requests[at];
            if pending.position == pending.end {
                break;
            }
            let transfer = self.data.transfer_max as u32;
            let writes = self.journal.limits.extent_blocks * B;
            let operation = pending.next_operation(at, transfer, writes);
            pending.live += 1;
            let operation = self.operations.insert(operation);
            self.start(operation);
        }
        let pending = &self.requests[at];
        let has_more = pending.position < pending.end && pending.error.is_none();
        if pending.live == 0 && !has_more && !pending.is_queued {
            self.complete(at);
        }
    }

    /// Goes on to a dropped volume's next slab, or to the end.
    fn find_slab(&mut self, at: u32) {
        let pending = &mut self.requests[at];
        let ChunkKey { volume, index } = pending.chunk;
        let next = self.tables.map.next_slab(volume, index, pending.position / SLAB);
        (pending.chunk.index, pending.position) = match next {
            Some((chunk, slab)) => (chunk, u32::from(slab) * SLAB),
            None => (index, pending.end),
        };
    }

    /// An operation of the request has ended.
    pub(super) fn report(
        &mut self,
        at: u32,
        part: u8,
        buf: Option<Buf>,
        result: Result<(), Error>,
    ) {
        let pending = &mut self.requests[at];
        pending.live -= 1;
        if pending.asked == Asked::Read {
            pending.parts[usize::from(part)] = buf;
        }
        if let Err(error) = result {
            pending.error = Some(match (pending.error, error) {
                (Some(Error::Media { block: a }), Error::Media { block: b }) => {
                    Error::Media { block: a.min(b) }
                }
                (Some(earlier), _) => earlier,
                (None, error) => error,
            });
        }
        if !pending.is_queued {
            pending.is_queued = true;
            self.advances.push(at);
        }
    }

    fn complete(&mut self, at: u32) {
        let mut pending = self.requests.remove(at);
        let bytes = u64::from(pending.extent.1);
        let counters = &mut self.counters;
        match pending.asked {
            Asked::Read => {
                counters.reads += 1;
                counters.read_bytes += bytes;
            }
            Asked::Write | Asked::Compare => {
                counters.writes += 1;
                counters.write_bytes += bytes;
            }
            _ => counters.others += 1,
        }
        self.catalogue_pending -= pending.reserved;
        let result = match pending.error {
            Some(error) => Err(error),
            None => Ok(pending.join()),
        };
        self.done.push(Completion { tag: pending.tag, result });
    }
}

impl Pending {
    /// Within one block, or whole blocks of one slab.
    fn is_comparable(&self) -> bool {
        let is_whole = (self.extent.0 | self.extent.1).is_multiple_of(B);
        let is_one = self.end - self.origin == B;
        (is_one || is_whole) && self.position / SLAB == (self.end - 1) / SLAB
    }

    /// The read's buffer in one piece again.
    fn join(&mut self) -> Option<Buf> {
        let mut parts = self.parts.drain(..).map(|part| part.expect("every part has ended"));
        let mut whole = parts.next()?;
        for part in parts {
            whole.join(part);
        }
        Some(whole)
    }

    /// Cuts off the next operation: one slab, one kind.
    fn next_operation(&mut self, request: u32, transfer: u32, writes: u32) -> Operation {
        let from = self.position;
        let slab_end = (from / SLAB + 1) * SLAB;
        let whole_end = self.end.min(slab_end);
        let (kind, to) = match self.asked {
            Asked::Read => (Kind::Read, whole_end.min(from + transfer)),
            Asked::Verify => (Kind::Verify, whole_end.min(from + VERIFY_BYTES.min(transfer))),
            Asked::Compare => (Kind::Compare, self.end),
            Asked::Poison => (Kind::Poison, whole_end),
            Asked::Drop => (Kind::Trim, whole_end),
            Asked::Put | Asked::Delete => (Kind::Catalogue, self.end),
            Asked::Write | Asked::Zero => {
                let block = from / B * B;
                let is_partial = from > block || self.end < block + B;
                if is_partial {
                    let to = self.end.min(block + B);
                    let (from, len) = ((from - block) as u16, (to - from) as u16);
                    (Kind::Partial { from, len }, to)
                } else if self.asked == Asked::Write {
                    (Kind::Write, (self.end / B * B).min(slab_end).min(from + writes))
                } else {
                    (Kind::Trim, (self.end / B * B).min(slab_end))
                }
            }
        };
        self.position = to;
        let first = (from % SLAB / B) as u16;
        let count = (to.div_ceil(B) - from / B) as u16;
        let mut operation =
            Operation::new(request, kind, Owner::of(self.chunk, (from / SLAB) as u8), first, count);
        if kind == Kind::Read {
            let mut buf = self.buf.take().expect("the rest of the buffer");
            let len = (to - from) as usize;
            self.buf = (len < buf.len()).then(|| buf.split_off(len));
            operation.buf = Some(buf);
            operation.part = self.parts.len() as u8;
            self.parts.push(None);
        }
        if matches!(kind, Kind::Write | Kind::Partial { .. }) {
            let start = (from / B * B - self.origin) as usize;
            let cut = |data: &Slice| (data.len() - start).min(BLOCK.max((to - from) as usize));
            operation.data = if to == self.end {
                self.data.take().map(|data| {
                    let len = cut(&data);
                    data.narrow(start, len)
                })
            } else {
                self.data.as_ref().map(|data| data.slice(start, cut(data)))
            };
        }
        operation
    }
}

/// The block within the chunk.
pub(super) fn block_of(owner: Owner, block: u16) -> u32 {
    u32::from(owner.index) * SLAB_BLOCKS as u32 + u32::from(block)
}

/// Whether the number stands for a request.
pub(super) fn is_request(at: u32) -> bool {
    at != NOTHING
}
