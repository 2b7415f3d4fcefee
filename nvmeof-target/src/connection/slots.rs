//! The commands of one queue: a fixed table of slots, found by command identifier or by ticket.

use crate::io::{Now, Ticket, VolumeIndex};
use core::ops::{Index, IndexMut};
use core::time::Duration;
use storage_spec::nvme::status::Status;

/// No slot.
pub(super) const NONE: u16 = u16::MAX;

/// Where a command stands. Except for `Free` and `Carried`, each says what is awaited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// The slot holds no command.
    Free,
    /// The data of its capsule.
    Receiving,
    /// A buffer; the slot is in `Connection::waiting`.
    AwaitingBuffer,
    /// Room to send the R2T; the slot is in the send queue.
    R2tQueued,
    /// H2CData for the R2T that was sent.
    AwaitingData,
    /// The other command of the fused pair; its own data are here.
    Ready,
    /// A reply of the target.
    WithTarget,
    /// The completion of a block request.
    Submitted,
    /// Executed as part of the request of its fused partner.
    Carried,
    /// Room to send data or the response; the slot is in the send queue.
    Responding,
}

/// What a command does once its data are here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Nothing: refused at once.
    Refused,
    /// Goes to the target.
    Event,
    /// Succeeds at once.
    Flush,
    /// Reads into `buf`.
    Read,
    /// Writes `buf`.
    Write,
    /// Compares with `buf`.
    Compare,
    /// First of a fused pair.
    FusedCompare,
    /// Second of a fused pair.
    FusedWrite,
    /// Zeroes the range.
    Zero,
    /// Verifies the range.
    Verify,
    /// Makes the range unreadable.
    Poison,
    /// Deallocates the ranges listed in `buf`, one after the other.
    Dataset,
    /// Copies the ranges listed in `buf`, piece by piece.
    Copy,
}

impl Kind {
    /// Whether `buf` lies on the volume's grid and keeps the checksums of its pages.
    pub(super) fn seals_pages(self) -> bool {
        matches!(self, Self::Write | Self::FusedWrite)
    }
}

/// Progress of a command that takes many block requests.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Progress {
    /// Ranges in the list.
    pub(super) ranges: u16,
    /// Bytes from one range's descriptor to the next.
    pub(super) stride: u8,
    /// The range at work.
    pub(super) range: u16,
    /// Bytes of that range that are done.
    pub(super) range_done: u64,
    /// Bytes done in all.
    pub(super) done: u64,
    /// Bytes of the piece at work.
    pub(super) piece: u32,
    /// Whether the piece is being written (else read).
    pub(super) writing: bool,
    /// Whether anything was submitted yet: too late to abort.
    pub(super) begun: bool,
}

/// One command.
#[derive(Debug)]
pub(super) struct Entry<B> {
    pub(super) state: State,
    pub(super) kind: Kind,
    pub(super) command_id: u16,
    /// Counts the block requests of this slot, to tell their tickets apart.
    generation: u16,
    /// Next in the free list or in the chain of a bucket.
    next: u16,
    /// Whether the slot is found by its command identifier.
    indexed: bool,
    /// The other command of a fused pair.
    pub(super) partner: u16,
    pub(super) namespace_id: u32,
    /// First block that the command names; once it has failed, the first concerned.
    pub(super) lba: u64,
    pub(super) volume: VolumeIndex,
    pub(super) block_shift: u8,
    /// First byte of the range, within the volume.
    pub(super) offset: u64,
    /// Bytes of the range.
    pub(super) len: u64,
    /// Where in `buf` the data begin: `offset % 4096` for data of the volume, else 0.
    pub(super) head: u16,
    /// Bytes that the host sends or gets.
    pub(super) transfer: u32,
    /// Bytes of it that the host has sent or was sent.
    pub(super) moved: u32,
    /// The verdict so far; once it is an error the command is not executed.
    pub(super) status: Status,
    pub(super) result: u64,
    /// Data of the volume, or the range list of a Dataset Management or Copy.
    pub(super) buf: Option<B>,
    /// Data to or from the target.
    pub(super) bytes: Vec<u8>,
    /// The submission queue entry of an [`Kind::Event`] until it is given away.
    pub(super) event: Option<Box<[u8; 64]>>,
    pub(super) progress: Progress,
    /// When its data were first seen to be awaited.
    pub(super) awaited_since: Option<Now>,
    /// Whether it was executing when its host was preempted, and has not ended since.
    pub(super) is_preempted: bool,
    /// Bytes of buffers that the command is charged with until it ends.
    held: u32,
    /// Bytes of reply that it may bring.
    owed: u32,
}

impl<B> Entry<B> {
    fn free(next: u16) -> Self {
        Self {
            state: State::Free,
            kind: Kind::Refused,
            command_id: 0,
            generation: 0,
            next,
            indexed: false,
            partner: NONE,
            namespace_id: 0,
            lba: 0,
            volume: VolumeIndex(0),
            block_shift: 0,
            offset: 0,
            len: 0,
            head: 0,
            transfer: 0,
            moved: 0,
            status: Status::SUCCESS,
            result: 0,
            buf: None,
            bytes: Vec::new(),
            event: None,
            progress: Progress::default(),
            awaited_since: None,
            is_preempted: false,
            held: 0,
            owed: 0,
        }
    }

    /// Whether it is executing or has been: too late to abort.
    pub(super) fn is_begun(&self) -> bool {
        match self.state {
            State::Receiving | State::R2tQueued | State::AwaitingData | State::Ready => false,
            State::AwaitingBuffer => self.progress.begun,
            _ => true,
        }
    }

    /// Whether the store, or a partner's request, may still act for it.
    pub(super) fn is_executing(&self) -> bool {
        match self.state {
            State::Submitted | State::Carried => true,
            State::AwaitingBuffer => self.is_begun(),
            _ => false,
        }
    }

    /// Whether it is the target's, not a volume's.
    pub(super) fn is_of_target(&self) -> bool {
        matches!(self.kind, Kind::Event | Kind::Refused)
    }
}

/// The table. Grows once, when Connect says how many entries the queue has.
#[derive(Debug)]
pub(super) struct Slots<B> {
    entries: Vec<Entry<B>>,
    /// Chains of used slots by the low bits of their command identifier, which hosts number
    /// densely. Its length is a power of two.
    buckets: Vec<u16>,
    free: u16,
    submitted: u32,
    /// Sums over all slots of the same in [`Entry`].
    held: usize,
    owed: usize,
}

impl<B> Slots<B> {
    pub(super) fn new(count: u16) -> Self {
        let mut this = Self {
            entries: Vec::new(),
            buckets: vec![],
            free: NONE,
            submitted: 0,
            held: 0,
            owed: 0,
        };
        this.grow(count);
        this
    }

    /// Makes it `count` slots, if it has fewer; commands keep theirs.
    pub(super) fn grow(&mut self, count: u16) {
        assert!(count < NONE, "slot numbers end before the mark for none");
        let old = self.entries.len() as u16;
        for slot in old..count.max(old) {
            let next = self.free;
            self.entries.push(Entry::free(next));
            self.free = slot;
        }
        self.buckets = vec![NONE; self.entries.len().next_power_of_two()];
        for slot in 0..self.entries.len() as u16 {
            if self[slot].indexed {
                self.link(slot);
            }
        }
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn is_full(&self) -> bool {
        self.free == NONE
    }

    /// Block requests whose completion is awaited.
    pub(super) fn submitted(&self) -> u32 {
        self.submitted
    }

    /// Whether the data of some command have been awaited for so long. Looked at now and then.
    pub(super) fn is_any_overdue(&mut self, now: Now, limit: Duration) -> bool {
        let awaiting = |entry: &&mut Entry<B>| entry.state == State::AwaitingData;
        self.entries.iter_mut().filter(awaiting).any(|entry| {
            let since = *entry.awaited_since.get_or_insert(now);
            now >= since + limit
        })
    }

    /// The slot of an outstanding command.
    pub(super) fn find(&self, command_id: u16) -> Option<u16> {
        let mut slot = self.buckets[self.bucket(command_id)];
        while slot != NONE {
            let entry = &self[slot];
            if entry.command_id == command_id {
                return Some(slot);
            }
            slot = entry.next;
        }
        None
    }

    /// Takes a free slot. `indexed`: [`Slots::find`] shall find it, which nothing else may yet.
    pub(super) fn take(&mut self, command_id: u16, indexed: bool) -> u16 {
        let slot = self.free;
        assert!(slot != NONE, "a command is accepted only when a slot is free");
        let entry = &mut self.entries[usize::from(slot)];
        self.free = entry.next;
        entry.command_id = command_id;
        entry.indexed = indexed;
        entry.partner = NONE;
        entry.moved = 0;
        entry.status = Status::SUCCESS;
        entry.result = 0;
        entry.is_preempted = false;
        if indexed {
            self.link(slot);
        }
        slot
    }

    /// Ends a command; whatever it holds is dropped.
    pub(super) fn release(&mut self, slot: u16) {
        if self[slot].indexed {
            self.unlink(slot);
        }
        let free = self.free;
        let entry = &mut self[slot];
        assert!(entry.state != State::Free && entry.state != State::Submitted);
        let (held, owed) = (core::mem::take(&mut entry.held), core::mem::take(&mut entry.owed));
        entry.state = State::Free;
        entry.indexed = false;
        entry.buf = None;
        entry.event = None;
        if entry.bytes.capacity() != 0 {
            entry.bytes = Vec::new();
        }
        entry.next = free;
        self.free = slot;
        self.held -= held as usize;
        self.owed -= owed as usize;
    }

    /// Bytes of buffers that all commands are charged with.
    pub(super) fn held(&self) -> usize {
        self.held
    }

    /// Charges a command with buffers.
    pub(super) fn charge(&mut self, slot: u16, bytes: usize) {
        self.held += bytes;
        self[slot].held += bytes as u32;
    }

    /// Charges the command with them no more; how many they are.
    pub(super) fn discharge(&mut self, slot: u16) -> usize {
        let bytes = core::mem::take(&mut self[slot].held) as usize;
        self.held -= bytes;
        bytes
    }

    /// Bytes of reply that all commands may bring.
    pub(super) fn owed(&self) -> usize {
        self.owed
    }

    /// Notes the most that the reply to a command may be.
    pub(super) fn owe(&mut self, slot: u16, bytes: u32) {
        self.owed += bytes as usize;
        self[slot].owed += bytes;
    }

    /// Marks a slot submitted and names the request.
    pub(super) fn ticket(&mut self, slot: u16) -> Ticket {
        self.submitted += 1;
        let entry = &mut self[slot];
        assert!(entry.state != State::Submitted, "one block request per command at a time");
        entry.state = State::Submitted;
        entry.generation = entry.generation.wrapping_add(1);
        Ticket(u32::from(entry.generation) << 16 | u32::from(slot))
    }

    /// The slot of a request that has completed; it is in no state until the caller sets one.
    pub(super) fn redeem(&mut self, ticket: Ticket) -> u16 {
        let (generation, slot) = ((ticket.0 >> 16) as u16, ticket.0 as u16);
        let entry = &mut self[slot];
        assert!(
            entry.state == State::Submitted && entry.generation == generation,
            "a request completes once, and with its own ticket"
        );
        entry.state = State::Ready;
        self.submitted -= 1;
        slot
    }

    fn bucket(&self, command_id: u16) -> usize {
        usize::from(command_id) & (self.buckets.len() - 1)
    }

    fn link(&mut self, slot: u16) {
        let bucket = self.bucket(self[slot].command_id);
        self[slot].next = self.buckets[bucket];
        self.buckets[bucket] = slot;
    }

    fn unlink(&mut self, slot: u16) {
        let bucket = self.bucket(self[slot].command_id);
        let after = self[slot].next;
        if self.buckets[bucket] == slot {
            self.buckets[bucket] = after;
            return;
        }
        let mut before = self.buckets[bucket];
        while self[before].next != slot {
            before = self[before].next;
        }
        self[before].next = after;
    }
}

impl<B> Index<u16> for Slots<B> {
    type Output = Entry<B>;
    fn index(&self, slot: u16) -> &Entry<B> {
        &self.entries[usize::from(slot)]
    }
}

impl<B> IndexMut<u16> for Slots<B> {
    fn index_mut(&mut self, slot: u16) -> &mut Entry<B> {
        &mut self.entries[usize::from(slot)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    proptest! {
        /// Few identifiers, so that they meet in one bucket.
        #[test]
        fn finds_what_a_map_finds(steps: Vec<(bool, prop::sample::Index)>) {
            let identifiers = [1_u16, 9, 17, 25, 2, 0x8001, 0x8009, 3, 11];
            let mut slots = Slots::<()>::new(6);
            let mut oracle = HashMap::new();
            for (take, which) in steps {
                let command_id = identifiers[which.index(identifiers.len())];
                prop_assert_eq!(slots.find(command_id), oracle.get(&command_id).copied());
                match oracle.get(&command_id) {
                    None if take && !slots.is_full() => {
                        let slot = slots.take(command_id, true);
                        slots[slot].state = State::Responding;
                        oracle.insert(command_id, slot);
                    }
                    Some(&slot) if !take => {
                        slots.release(slot);
                        oracle.remove(&command_id);
                    }
                    _ => {}
                }
            }
            slots.grow(40);
            for command_id in identifiers {
                prop_assert_eq!(slots.find(command_id), oracle.get(&command_id).copied());
            }
        }
    }

    #[test]
    fn tickets_of_one_slot_differ() {
        let mut slots = Slots::<()>::new(1);
        let slot = slots.take(5, true);
        let first = slots.ticket(slot);
        assert_eq!(slots.redeem(first), slot);
        assert_ne!(slots.ticket(slot), first);
        assert_eq!(slots.submitted(), 1);
    }

    #[test]
    #[should_panic(expected = "with its own ticket")]
    fn a_ticket_is_good_once() {
        let mut slots = Slots::<()>::new(1);
        let slot = slots.take(5, true);
        let ticket = slots.ticket(slot);
        slots.redeem(ticket);
        slots.redeem(ticket);
    }
}
