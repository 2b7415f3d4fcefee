//! Requests of this core's connections while their pieces are with the shards.
//!
//! A slot is taken when a request comes and freed when its last piece is back; a piece's tag names
//! the origin core, the slot and which piece it is. Long ranges (zero, verify, poison) go out one
//! piece after another, so that no request occupies a shard for long.

use super::{Route, Routes, ShardAddress};
use crate::dma::{Buf, PAGE, Pool};
use crate::store::{self, Completion, Request};
use nvmeof_target::io::{BlockError, BlockRequest, BlockResult, Now, Ticket, VolumeIndex};
use std::collections::VecDeque;

/// Largest piece of a long range in bytes: eight slabs.
const STRIDE_MAX: u64 = 16 << 20;
/// Largest piece of a verify in bytes: what a shard reads into memory at once.
const VERIFY_STRIDE_MAX: u64 = 1 << 20;

/// Bytes of the buffer that is kept for compares: a transfer that begins within a page, as pools
/// give it.
const SPARE: usize = 2 << 20;

/// Who asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Origin {
    /// The connection's position on this core.
    pub(crate) connection: u32,
    /// The command.
    pub(crate) ticket: Ticket,
}

/// A request on its way to a shard.
#[derive(Debug)]
pub(crate) struct Piece {
    /// Returned with its completion.
    pub(crate) tag: u64,
    /// What is asked.
    pub(crate) request: Request,
}

/// Where pieces go: to a shard of this core, or into a mailbox.
pub(crate) trait Outbound {
    /// Hands over one piece.
    fn dispatch(&mut self, shard: ShardAddress, piece: Piece);
}

/// A request that has ended.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// Who asked.
    pub(crate) origin: Origin,
    /// How it ended.
    pub(crate) result: BlockResult<Buf>,
}

#[derive(Debug)]
enum Kind {
    /// Parts of the buffer, in order, as they come back.
    Read([Option<Buf>; 2]),
    Write,
    Compare {
        expected: Buf,
        parts: [Option<Buf>; 2],
    },
    Zero,
    Verify,
    Poison,
}

struct Slot {
    origin: Origin,
    volume: VolumeIndex,
    kind: Kind,
    /// First byte that has not been sent to a shard.
    next: u64,
    /// End of the range.
    end: u64,
    len: u64,
    started: Now,
    outstanding: u8,
    failure: Option<BlockError>,
}

/// The slots of one core.
pub(crate) struct Requests {
    core: u16,
    slots: Vec<Option<Slot>>,
    free: Vec<u32>,
    outcomes: VecDeque<Outcome>,
    /// Compares that wait for a buffer.
    starved: VecDeque<u32>,
    /// What a compare reads into when the pool has nothing: its other buffer is from there too, so
    /// that compares that all wait would wait for ever.
    spare: Option<Buf>,
    /// The compare that has it.
    spare_user: Option<u32>,
}

const PART_BITS: u32 = 1;
const SLOT_BITS: u32 = 32;

impl Requests {
    pub(crate) fn new(core: u16, pool: &Pool) -> Self {
        Self {
            core,
            slots: Vec::new(),
            free: Vec::new(),
            outcomes: VecDeque::new(),
            starved: VecDeque::new(),
            spare: pool.alloc(SPARE),
            spare_user: None,
        }
    }

    /// The core that a tag came from.
    pub(crate) fn origin_core(tag: u64) -> u16 {
        (tag >> (SLOT_BITS + PART_BITS)) as u16
    }

    /// Requests that have not ended.
    pub(crate) fn in_flight(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Takes the next request that has ended.
    pub(crate) fn take_outcome(&mut self) -> Option<Outcome> {
        self.outcomes.pop_front()
    }

    /// Starts a request.
    pub(crate) fn submit(
        &mut self,
        origin: Origin,
        volume: VolumeIndex,
        request: BlockRequest<Buf>,
        around: &mut Around<'_, impl Outbound>,
    ) {
        let Some(route) = around.routes.get(volume) else {
            let result = BlockResult::Failed(BlockError::VolumeGone);
            self.outcomes.push_back(Outcome { origin, result });
            return;
        };
        let (offset, len) = range(&request);
        let mut open = |kind| {
            self.insert(Slot {
                origin,
                volume,
                kind,
                next: offset,
                end: offset + len,
                len,
                started: around.now,
                outstanding: 0,
                failure: None,
            })
        };
        match request {
            BlockRequest::Read { buf, .. } => {
                let index = open(Kind::Read([None, None]));
                self.send_reads(index, buf, route, around.out);
            }
            BlockRequest::Write { data, .. } => {
                let index = open(Kind::Write);
                self.send_writes(index, data, route, around.out);
            }
            BlockRequest::CompareAndWrite { expected, data, .. } => {
                let index = open(Kind::Write);
                let (shard, extent) = route.piece(offset, len, u64::MAX);
                assert_eq!(u64::from(extent.len), len, "a compare-and-write lies in one block");
                let (expected, data) = (expected.freeze(), data.freeze());
                self.slot(index).next = offset + len;
                let request = Request::CompareAndWrite { extent, expected, data };
                self.send(index, 0, shard, request, around.out);
            }
            BlockRequest::Compare { expected, .. } => {
                let index = open(Kind::Compare { expected, parts: [None, None] });
                if !self.starved.is_empty() || !self.try_compare(index, around) {
                    self.starved.push_back(index);
                }
            }
            BlockRequest::Zero { .. } => {
                let index = open(Kind::Zero);
                self.send_stride(index, route, around.out);
            }
            BlockRequest::Verify { .. } => {
                let index = open(Kind::Verify);
                self.send_stride(index, route, around.out);
            }
            BlockRequest::Poison { .. } => {
                let index = open(Kind::Poison);
                self.send_stride(index, route, around.out);
            }
        }
    }

    /// Sends no more pieces for a connection that is closed: its host may be back on another one,
    /// and what is left of a long zeroing must not overtake what it writes there.
    pub(crate) fn abandon(&mut self, connection: u32) {
        for slot in self.slots.iter_mut().flatten() {
            let is_long = matches!(slot.kind, Kind::Zero | Kind::Verify | Kind::Poison);
            if is_long && slot.origin.connection == connection {
                slot.len -= slot.end - slot.next;
                slot.end = slot.next;
            }
        }
    }

    /// Takes back a piece.
    pub(crate) fn complete(
        &mut self,
        completion: Completion,
        around: &mut Around<'_, impl Outbound>,
    ) {
        let part = (completion.tag & 1) as usize;
        let index = (completion.tag >> PART_BITS) as u32;
        let slot = self.slot(index);
        slot.outstanding -= 1;
        match (completion.result, &mut slot.kind) {
            (Ok(Some(buf)), Kind::Read(parts) | Kind::Compare { parts, .. }) => {
                parts[part] = Some(buf);
            }
            (Ok(_), _) => {}
            (Err(error), _) => {
                let failure = block_error(error, slot, part);
                slot.failure.get_or_insert(failure);
            }
        }
        if slot.outstanding > 0 {
            return;
        }
        if slot.failure.is_none() && slot.next < slot.end {
            let volume = slot.volume;
            match around.routes.get(volume) {
                Some(route) => return self.send_stride(index, route, around.out),
                None => self.slot(index).failure = Some(BlockError::VolumeGone),
            }
        }
        self.finish(index, around.now, around.routes);
    }

    /// Tries again what waited for buffers. Returns whether anything moved.
    pub(crate) fn retry(&mut self, around: &mut Around<'_, impl Outbound>) -> bool {
        let mut moved = false;
        while let Some(&index) = self.starved.front() {
            if !self.try_compare(index, around) {
                break;
            }
            self.starved.pop_front();
            moved = true;
        }
        moved
    }

    /// Sends the reads of a compare if there is a buffer for them.
    fn try_compare(&mut self, index: u32, around: &mut Around<'_, impl Outbound>) -> bool {
        let slot = self.slot(index);
        let pad = slot.next as usize % PAGE;
        let volume = slot.volume;
        let len = (pad + slot.len as usize).next_multiple_of(PAGE);
        let Some(buf) = around.pool.alloc(len).or_else(|| self.take_spare(index, len)) else {
            return false;
        };
        if self.spare.is_none() && self.spare_user.is_none() && !around.pool.is_low() {
            self.spare = around.pool.alloc(SPARE);
        }
        match around.routes.get(volume) {
            Some(route) => self.send_reads(index, buf, route, around.out),
            None => {
                self.slot(index).failure = Some(BlockError::VolumeGone);
                self.finish(index, around.now, around.routes);
            }
        }
        true
    }

    fn take_spare(&mut self, index: u32, len: usize) -> Option<Buf> {
        let mut buf = self.spare.take()?;
        buf.set_len(len);
        self.spare_user = Some(index);
        Some(buf)
    }

    fn send_reads(&mut self, index: u32, mut buf: Buf, route: &Route, out: &mut impl Outbound) {
        let slot = self.slot(index);
        let (start, end) = (slot.next, slot.end);
        slot.next = end;
        let (shard, extent) = route.piece(start, end - start, u64::MAX);
        let boundary = start + u64::from(extent.len);
        if boundary < end {
            let tail = buf.split_off((boundary - page_floor(start)) as usize);
            let (shard, extent) = route.piece(boundary, end - boundary, u64::MAX);
            self.send(index, 1, shard, Request::Read { extent, buf: tail }, out);
        }
        self.send(index, 0, shard, Request::Read { extent, buf }, out);
    }

    fn send_writes(&mut self, index: u32, data: Buf, route: &Route, out: &mut impl Outbound) {
        let slot = self.slot(index);
        let (start, end) = (slot.next, slot.end);
        slot.next = end;
        let data = data.freeze();
        let (shard, extent) = route.piece(start, end - start, u64::MAX);
        let boundary = start + u64::from(extent.len);
        if boundary == end {
            return self.send(index, 0, shard, Request::Write { extent, data }, out);
        }
        let cut = (boundary - page_floor(start)) as usize;
        let head = data.slice(0, cut);
        let tail = data.slice(cut, data.len() - cut);
        self.send(index, 0, shard, Request::Write { extent, data: head }, out);
        let (shard, extent) = route.piece(boundary, end - boundary, u64::MAX);
        self.send(index, 1, shard, Request::Write { extent, data: tail }, out);
    }

    /// Sends the next piece of a long range.
    fn send_stride(&mut self, index: u32, route: &Route, out: &mut impl Outbound) {
        let slot = self.slot(index);
        let limit = if matches!(slot.kind, Kind::Verify) { VERIFY_STRIDE_MAX } else { STRIDE_MAX };
        // Pieces end at multiples of the stride, so that whole slabs are freed as such.
        let limit = limit - slot.next % limit;
        let (shard, extent) = route.piece(slot.next, slot.end - slot.next, limit);
        slot.next += u64::from(extent.len);
        let request = match slot.kind {
            Kind::Zero => Request::Zero { extent },
            Kind::Verify => Request::Verify { extent },
            Kind::Poison => Request::Poison { extent },
            Kind::Read(_) | Kind::Write | Kind::Compare { .. } => {
                unreachable!("reads and writes go out whole")
            }
        };
        self.send(index, 0, shard, request, out);
    }

    fn send(
        &mut self,
        index: u32,
        part: u64,
        shard: ShardAddress,
        request: Request,
        out: &mut impl Outbound,
    ) {
        self.slot(index).outstanding += 1;
        let core = u64::from(self.core) << (SLOT_BITS + PART_BITS);
        let tag = core | (u64::from(index) << PART_BITS) | part;
        out.dispatch(shard, Piece { tag, request });
    }

    fn finish(&mut self, index: u32, now: Now, routes: &Routes) {
        let slot = self.slots[index as usize].take().expect("a request ends once");
        self.free.push(index);
        if let Some(route) = routes.get(slot.volume) {
            let stats = match slot.kind {
                Kind::Read(_) | Kind::Compare { .. } | Kind::Verify => &route.stats.reads,
                Kind::Write | Kind::Zero | Kind::Poison => &route.stats.writes,
            };
            stats.record(slot.len, now.saturating_sub(slot.started));
            if slot.failure.is_some() {
                super::add(&route.stats.errors, 1);
            }
        }
        let had_spare = self.spare_user.take_if(|user| *user == index).is_some();
        let result = match (slot.failure, slot.kind) {
            (Some(failure), _) => BlockResult::Failed(failure),
            (None, Kind::Read(parts)) => BlockResult::Done(Some(join(parts))),
            (None, Kind::Compare { expected, parts }) => {
                let found = join(parts);
                let result = compare(&expected, &found, slot.end - slot.len, slot.len as usize);
                // That of a compare that failed is lost; another is taken with the next.
                self.spare = self.spare.take().or(had_spare.then_some(found));
                result
            }
            (None, _) => BlockResult::Done(None),
        };
        self.outcomes.push_back(Outcome { origin: slot.origin, result });
    }

    fn insert(&mut self, slot: Slot) -> u32 {
        match self.free.pop() {
            Some(index) => {
                self.slots[index as usize] = Some(slot);
                index
            }
            None => {
                self.slots.push(Some(slot));
                self.slots.len() as u32 - 1
            }
        }
    }

    fn slot(&mut self, index: u32) -> &mut Slot {
        self.slots[index as usize].as_mut().expect("a piece belongs to a request in flight")
    }
}

/// What a request needs of its core.
pub(crate) struct Around<'a, O> {
    /// The core's time.
    pub(crate) now: Now,
    /// Where volumes are.
    pub(crate) routes: &'a Routes,
    /// Buffers for compares.
    pub(crate) pool: &'a Pool,
    /// The way to the shards.
    pub(crate) out: &'a mut O,
}

fn page_floor(offset: u64) -> u64 {
    offset - offset % PAGE as u64
}

/// Offset and length of a request in bytes.
fn range(request: &BlockRequest<Buf>) -> (u64, u64) {
    match *request {
        BlockRequest::Read { offset, len, .. }
        | BlockRequest::Write { offset, len, .. }
        | BlockRequest::Compare { offset, len, .. }
        | BlockRequest::CompareAndWrite { offset, len, .. } => (offset, u64::from(len)),
        BlockRequest::Zero { offset, len }
        | BlockRequest::Verify { offset, len }
        | BlockRequest::Poison { offset, len } => (offset, len),
    }
}

fn join([first, second]: [Option<Buf>; 2]) -> Buf {
    let mut whole = first.expect("a read that succeeded returns its buffer");
    if let Some(second) = second {
        whole.join(second);
    }
    whole
}

fn compare(expected: &Buf, found: &Buf, offset: u64, len: usize) -> BlockResult<Buf> {
    let pad = offset as usize % PAGE;
    let (expected, found) = (&expected[pad..pad + len], &found[pad..pad + len]);
    match expected.iter().zip(found).position(|(a, b)| a != b) {
        None => BlockResult::Done(None),
        Some(at) => BlockResult::Failed(BlockError::Miscompare { offset: offset + at as u64 }),
    }
}

/// A shard's error in terms of the volume.
fn block_error(error: store::Error, slot: &Slot, part: usize) -> BlockError {
    let start = slot.end - slot.len;
    match error {
        store::Error::Full => BlockError::Full,
        store::Error::Failed => BlockError::DiskFailed,
        store::Error::Miscompare { offset } => {
            BlockError::Miscompare { offset: start + u64::from(offset) }
        }
        store::Error::Media { block } => {
            let last = slot.next.saturating_sub(1).max(start);
            let chunk = match (&slot.kind, part) {
                (Kind::Read(_) | Kind::Write | Kind::Compare { .. }, 0) => start / store::CHUNK,
                _ => last / store::CHUNK,
            };
            let offset = chunk * store::CHUNK + u64::from(block) * PAGE as u64;
            BlockError::Media { offset: offset.max(start) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dma::Arena;
    use crate::store::VolumeId;
    use crate::volume::VolumeStats;
    use std::sync::Arc;

    /// Shards that keep what they are sent.
    #[derive(Default)]
    struct Kept(Vec<Piece>);

    impl Outbound for Kept {
        fn dispatch(&mut self, _: ShardAddress, piece: Piece) {
            self.0.push(piece);
        }
    }

    /// Compares at both sides of a chunk's end, in an empty pool.
    #[test]
    fn compares_go_on_when_the_pool_is_empty() {
        let pool = Arena::new(4 << 20, 1).unwrap().pool(0);
        let mut requests = Requests::new(0, &pool);
        let mut routes = Routes::default();
        let shards: Arc<[ShardAddress]> =
            (0..1).map(|shard| ShardAddress { core: 0, shard }).collect();
        let stats = Arc::new(VolumeStats::new());
        routes.set(VolumeIndex(0), Some(Route { volume: VolumeId(1), shards, stats }));
        let mut out = Kept::default();
        let len = 1 << 20;
        let buffers: Vec<_> = std::iter::from_fn(|| pool.alloc(len)).collect();
        let count = buffers.len() as u32;
        assert_eq!(count, 2, "one half of the pool is the spare buffer's");
        let mut around = Around { now: Now::ZERO, routes: &routes, pool: &pool, out: &mut out };
        for (number, mut expected) in (0..).zip(buffers) {
            expected.fill(7);
            let origin = Origin { connection: 0, ticket: Ticket(number) };
            let offset = store::CHUNK - PAGE as u64;
            let request = BlockRequest::Compare { offset, len: len as u32, expected };
            requests.submit(origin, VolumeIndex(0), request, &mut around);
        }
        for number in 0..count {
            requests.retry(&mut around);
            let pieces = std::mem::take(&mut around.out.0);
            assert_eq!(pieces.len(), 2, "one compare at a time, in two pieces");
            for Piece { tag, request } in pieces {
                let Request::Read { mut buf, .. } = request else { panic!("a compare reads") };
                buf.fill(7);
                requests.complete(Completion { tag, result: Ok(Some(buf)) }, &mut around);
            }
            let outcome = requests.take_outcome().expect("the compare has ended");
            assert_eq!(outcome.origin.ticket, Ticket(number));
            assert!(matches!(outcome.result, BlockResult::Done(None)));
            // Nothing comes back to the pool meanwhile.
            while let Some(buf) = pool.alloc(PAGE) {
                std::mem::forget(buf);
            }
        }
        assert_eq!(requests.in_flight(), 0);
    }

    #[test]
    fn of_a_closed_connection_no_more_is_sent() {
        let pool = Arena::new(4 << 20, 1).unwrap().pool(0);
        let mut requests = Requests::new(0, &pool);
        let mut routes = Routes::default();
        let shards = [ShardAddress { core: 0, shard: 0 }].into_iter().collect();
        let stats = Arc::new(VolumeStats::new());
        routes.set(VolumeIndex(0), Some(Route { volume: VolumeId(1), shards, stats }));
        let mut out = Kept::default();
        let mut around = Around { now: Now::ZERO, routes: &routes, pool: &pool, out: &mut out };
        for connection in 0..2 {
            let origin = Origin { connection, ticket: Ticket(1) };
            let request = BlockRequest::Zero { offset: 0, len: 3 * STRIDE_MAX };
            requests.submit(origin, VolumeIndex(0), request, &mut around);
        }
        requests.abandon(1);
        for sent in [2, 1, 1, 0] {
            let pieces = std::mem::take(&mut around.out.0);
            assert_eq!(pieces.len(), sent);
            for Piece { tag, .. } in pieces {
                requests.complete(Completion { tag, result: Ok(None) }, &mut around);
            }
        }
        let ended = std::iter::from_fn(|| requests.take_outcome());
        assert_eq!(ended.map(|outcome| outcome.origin.connection).collect::<Vec<_>>(), [1, 0]);
        assert_eq!(requests.in_flight(), 0);
    }

    /// A compare of parts of blocks reads whole ones, as the store wants them.
    #[test]
    fn compares_of_parts_read_whole_blocks() {
        let pool = Arena::new(4 << 20, 1).unwrap().pool(0);
        let mut requests = Requests::new(0, &pool);
        let mut routes = Routes::default();
        let shards = [ShardAddress { core: 0, shard: 0 }].into_iter().collect();
        let stats = Arc::new(VolumeStats::new());
        routes.set(VolumeIndex(0), Some(Route { volume: VolumeId(1), shards, stats }));
        let mut out = Kept::default();
        let mut around = Around { now: Now::ZERO, routes: &routes, pool: &pool, out: &mut out };
        let origin = Origin { connection: 0, ticket: Ticket(1) };
        let offset = store::CHUNK - 4096 + 512;
        let expected = pool.alloc(3 * PAGE).unwrap();
        let request = BlockRequest::Compare { offset, len: 7680, expected };
        requests.submit(origin, VolumeIndex(0), request, &mut around);
        let lens = out.0.iter().map(|piece| match &piece.request {
            Request::Read { extent, buf } => (extent.offset % 4096, extent.len, buf.len()),
            _ => panic!("a compare reads"),
        });
        assert_eq!(lens.collect::<Vec<_>>(), [(0, 4096, PAGE), (512, 3584, PAGE)]);
    }
}
