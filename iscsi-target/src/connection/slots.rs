//! The tasks of one session: a fixed table of slots, found by task tag or by ticket.

use super::turns::Attribute;
use crate::io::{Now, Ticket, VolumeIndex};
use crate::scsi::{DataIn, Lun, Sense, Status, Task};
use core::ops::{Index, IndexMut, Range};
use core::time::Duration;
use storage_spec::iscsi::{TaskFunction, TaskResponse};

/// No slot.
pub(super) const NONE: u16 = u16::MAX;

/// Where a task stands. Each but `Free` says what is awaited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// The slot holds no task.
    Free,
    /// The data of its own PDU.
    Receiving,
    /// A buffer, or its turn to fill the next; the slot is in `Connection::waiting`.
    AwaitingBuffer,
    /// Room to send the R2T; the slot is in the send queue.
    R2tQueued,
    /// Data-Out PDUs.
    AwaitingData,
    /// The end of older commands: [`super::turns`].
    AwaitingTurn,
    /// The end of its block request.
    Submitted,
    /// A reply of the target.
    WithTarget,
    /// The end of tasks that are being aborted.
    AwaitingTasks,
    /// Room to send the data at hand, behind which there are more; the slot is in the send queue.
    Delivering,
    /// Room to send data or the response; the slot is in the send queue.
    Responding,
    /// The initiator's request for more of the text.
    AwaitingRequest,
}

/// What a task is.
#[derive(Debug)]
pub(super) enum Kind<B> {
    /// A SCSI command that ends without being executed.
    Ended,
    /// A SCSI command for the medium.
    Task(Task<B>),
    /// A SCSI command for the target.
    Control(crate::scsi::ControlCommand),
    /// A ping, answered with its data.
    Ping,
    /// Text negotiation.
    Text(super::requests::Exchange),
    /// Task management.
    Management(TaskFunction, TaskResponse),
    /// Logout, and how it is answered.
    Logout(u8),
}

/// What becomes of a task that another has aborted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Aborted {
    /// It is not.
    No,
    /// It ends without a word.
    Silently,
    /// It ends with TASK ABORTED.
    WithStatus,
}

/// One task.
#[derive(Debug)]
pub(super) struct Entry<B> {
    pub(super) state: State,
    pub(super) kind: Kind<B>,
    /// Initiator Task Tag.
    pub(super) tag: u32,
    /// Counts the uses of this slot for block requests and for R2Ts, to tell them apart.
    generation: u16,
    /// Next in the free list or in the chain of a bucket.
    next: u16,
    /// Whether it came as an immediate request: outside of the command window.
    is_immediate: bool,
    pub(super) command_sn: u32,
    /// Counts the requests of the session.
    pub(super) arrival: u64,
    pub(super) attribute: Attribute,
    pub(super) lun: [u8; 8],
    pub(super) aborted: Aborted,
    /// Expected Data Transfer Length; which way.
    pub(super) expected: u32,
    pub(super) is_write: bool,
    /// Bytes of data-out that the command takes; the rest that comes is thrown away.
    pub(super) wanted: u32,
    /// Bytes that its CDB names, of which it may want fewer.
    pub(super) named: u32,
    /// Bytes of data-out that have come, thrown away or not.
    pub(super) moved: u32,
    /// Where the present sequence of data-out ends.
    pub(super) burst_end: u32,
    /// DataSN of the next Data-Out.
    pub(super) data_sn: u32,
    /// Target transfer tag of the present sequence.
    pub(super) transfer_tag: u32,
    /// R2Ts and Data-Ins sent.
    pub(super) sent_sn: u32,
    /// Which of the bytes wanted `buf` is for: of more than it holds, a piece after the other.
    pub(super) piece_start: u32,
    pub(super) piece_end: u32,
    /// Where in `buf` the piece begins.
    pub(super) head: u32,
    /// Data-out, or ping data.
    pub(super) buf: Option<B>,
    /// Data-out for the target.
    pub(super) bytes: Vec<u8>,
    pub(super) status: Status,
    pub(super) sense: Option<Sense>,
    /// Data for the initiator; text.
    pub(super) data: DataIn<B>,
    /// Bytes of data-in that have gone to the initiator before those at hand.
    pub(super) base: u32,
    /// How many there were in all, and how many of those at hand go to the initiator.
    pub(super) available: u32,
    pub(super) deliver: u32,
    /// How many of these have.
    pub(super) delivered: u32,
    /// When its data were first seen to be awaited.
    awaited_since: Option<Now>,
    /// Bytes of buffers that the task is charged with: of its data-out, and of its own beside them.
    data_held: u32,
    own_held: u32,
}

impl<B> Entry<B> {
    fn free(next: u16) -> Self {
        Self {
            state: State::Free,
            kind: Kind::Ended,
            tag: 0,
            generation: 0,
            next,
            is_immediate: false,
            command_sn: 0,
            arrival: 0,
            attribute: Attribute::Simple,
            lun: [0; 8],
            aborted: Aborted::No,
            expected: 0,
            is_write: false,
            wanted: 0,
            named: 0,
            moved: 0,
            burst_end: 0,
            data_sn: 0,
            transfer_tag: 0,
            sent_sn: 0,
            piece_start: 0,
            piece_end: 0,
            head: 0,
            buf: None,
            bytes: Vec::new(),
            status: Status::Good,
            sense: None,
            data: DataIn::None,
            base: 0,
            available: 0,
            deliver: 0,
            delivered: 0,
            awaited_since: None,
            data_held: 0,
            own_held: 0,
        }
    }

    /// Whether it is a SCSI command.
    pub(super) fn is_command(&self) -> bool {
        matches!(self.kind, Kind::Ended | Kind::Task(_) | Kind::Control(_))
    }

    /// Whether task management still finds it: it is a command that has not ended.
    pub(super) fn is_active(&self) -> bool {
        self.is_command() && !matches!(self.state, State::Free | State::Responding)
    }

    /// The unit that it is for.
    pub(super) fn unit(&self) -> Option<Lun> {
        Lun::from_wire(self.lun)
    }

    /// Whether it is a command that may read or write a volume.
    pub(super) fn touches(&self, volume: VolumeIndex) -> bool {
        matches!(&self.kind, Kind::Task(task) if task.touches(volume))
    }

    /// The part of its buffer that the piece of its data-out fills.
    pub(super) fn data_range(&self) -> Range<usize> {
        self.head as usize..self.head as usize + (self.piece_end - self.piece_start) as usize
    }

    /// As [`Entry::awaited_since`] is kept: from the first look on.
    pub(super) fn forget_wait(&mut self) {
        self.awaited_since = None;
    }
}

/// The table.
#[derive(Debug)]
pub(super) struct Slots<B> {
    entries: Vec<Entry<B>>,
    /// Chains of used slots by their task tag. Its length is a power of two.
    buckets: Vec<u16>,
    free: u16,
    /// Slots that numbered requests may take and have not; the same of immediate ones.
    window: u16,
    immediate: u16,
    submitted: u32,
    /// Requests taken so far.
    arrivals: u64,
    /// Tasks that are ordered.
    ordered: u16,
    /// Sums of what tasks are charged with.
    data_held: usize,
    own_held: usize,
}

impl<B> Slots<B> {
    /// For so many numbered and immediate requests at once.
    pub(super) fn new(window: u16, immediate: u16) -> Self {
        let count = window + immediate;
        assert!(count < NONE, "slot numbers end before the mark for none");
        let next = |slot: u16| if slot + 1 == count { NONE } else { slot + 1 };
        Self {
            entries: (0..count).map(|slot| Entry::free(next(slot))).collect(),
            buckets: vec![NONE; usize::from(count).next_power_of_two()],
            free: 0,
            window,
            immediate,
            submitted: 0,
            arrivals: 0,
            ordered: 0,
            data_held: 0,
            own_held: 0,
        }
    }

    pub(super) fn len(&self) -> u16 {
        self.entries.len() as u16
    }

    /// Numbered requests that are still to be taken.
    pub(super) fn window(&self) -> u16 {
        self.window
    }

    /// Whether one more can be taken.
    pub(super) fn has_room(&self, is_immediate: bool) -> bool {
        if is_immediate { self.immediate > 0 } else { self.window > 0 }
    }

    /// Block requests whose completion is awaited.
    pub(super) fn submitted(&self) -> u32 {
        self.submitted
    }

    /// Whether the data of some task have been awaited for so long. Looked at now and then.
    pub(super) fn is_any_overdue(&mut self, now: Now, limit: Duration) -> bool {
        let awaiting = |entry: &&mut Entry<B>| entry.state == State::AwaitingData;
        self.entries.iter_mut().filter(awaiting).any(|entry| {
            let since = *entry.awaited_since.get_or_insert(now);
            now >= since + limit
        })
    }

    /// The slot of an outstanding task.
    pub(super) fn find(&self, tag: u32) -> Option<u16> {
        let mut slot = self.buckets[self.bucket(tag)];
        while slot != NONE {
            let entry = &self[slot];
            if entry.tag == tag {
                return Some(slot);
            }
            slot = entry.next;
        }
        None
    }

    /// Takes a free slot for a task whose tag is not in use.
    pub(super) fn take(&mut self, tag: u32, is_immediate: bool) -> u16 {
        assert!(self.has_room(is_immediate), "a request is taken only when there is room");
        *if is_immediate { &mut self.immediate } else { &mut self.window } -= 1;
        let slot = self.free;
        let bucket = self.bucket(tag);
        let chain = core::mem::replace(&mut self.buckets[bucket], slot);
        let entry = &mut self.entries[usize::from(slot)];
        self.free = entry.next;
        let generation = entry.generation;
        let state = State::Receiving;
        let arrival = self.arrivals;
        self.arrivals += 1;
        *entry = Entry { state, generation, tag, is_immediate, arrival, ..Entry::free(chain) };
        slot
    }

    /// Notes the attribute of a command that has just been taken.
    pub(super) fn set_attribute(&mut self, slot: u16, attribute: Attribute) {
        self[slot].attribute = attribute;
        self.ordered += u16::from(attribute == Attribute::Ordered);
    }

    /// Ordered commands whose slots are not free.
    pub(super) fn ordered(&self) -> u16 {
        self.ordered
    }

    /// Ends a task; whatever it holds is dropped.
    pub(super) fn release(&mut self, slot: u16) {
        let tag = self[slot].tag;
        self.unlink(slot, tag);
        let free = self.free;
        let entry = &mut self.entries[usize::from(slot)];
        assert!(entry.state != State::Free && entry.state != State::Submitted);
        entry.state = State::Free;
        self.data_held -= core::mem::take(&mut entry.data_held) as usize;
        self.own_held -= core::mem::take(&mut entry.own_held) as usize;
        let attribute = core::mem::take(&mut entry.attribute);
        self.ordered -= u16::from(attribute == Attribute::Ordered);
        entry.kind = Kind::Ended;
        entry.buf = None;
        entry.data = DataIn::None;
        entry.bytes = Vec::new();
        entry.next = free;
        self.free = slot;
        *if entry.is_immediate { &mut self.immediate } else { &mut self.window } += 1;
    }

    /// Bytes of buffers that all tasks are charged with.
    pub(super) fn held(&self) -> usize {
        self.data_held + self.own_held
    }

    /// Of these, what others than this task hold beside their data-out.
    pub(super) fn held_by_others(&self, slot: u16) -> usize {
        self.own_held - self[slot].own_held as usize
    }

    /// As [`Slots::held`], without what this task holds beside its data-out.
    pub(super) fn held_but_own(&self, slot: u16) -> usize {
        self.held() - self[slot].own_held as usize
    }

    /// Whether a task is charged with a buffer of data-out.
    pub(super) fn holds_data(&self, slot: u16) -> bool {
        self[slot].data_held > 0
    }

    /// Charges a task with the buffer of its data-out, until it is done with it.
    pub(super) fn charge_data(&mut self, slot: u16, bytes: usize) {
        self.data_held += bytes;
        self[slot].data_held += bytes as u32;
    }

    /// Charges a task with the buffers that it now holds beside that of its data-out, and no more
    /// with those that it held before.
    pub(super) fn charge_own(&mut self, slot: u16, bytes: usize) {
        let before = core::mem::replace(&mut self[slot].own_held, bytes as u32);
        self.own_held = self.own_held - before as usize + bytes;
    }

    /// Charges the task with nothing any more; how much it was.
    pub(super) fn discharge(&mut self, slot: u16) -> usize {
        let data = core::mem::take(&mut self[slot].data_held) as usize;
        let own = core::mem::take(&mut self[slot].own_held) as usize;
        self.data_held -= data;
        self.own_held -= own;
        data + own
    }

    /// A ticket for the block requests of a slot. They count when [`Slots::submit`] says so.
    pub(super) fn ticket(&mut self, slot: u16) -> Ticket {
        Ticket(self.next_tag(slot))
    }

    /// A number that names this slot and was not used lately: ticket, or target transfer tag.
    pub(super) fn next_tag(&mut self, slot: u16) -> u32 {
        let entry = &mut self[slot];
        // The tag of all ones names nothing; slots end before it.
        entry.generation = entry.generation.wrapping_add(1);
        u32::from(entry.generation) << 16 | u32::from(slot)
    }

    /// A block request with the slot's last ticket is on its way.
    pub(super) fn submit(&mut self, slot: u16) {
        let entry = &mut self[slot];
        assert!(entry.state != State::Submitted, "one block request per task at a time");
        entry.state = State::Submitted;
        self.submitted += 1;
    }

    /// The slot of a request that has completed; it is in no state until the caller sets one.
    pub(super) fn redeem(&mut self, ticket: Ticket) -> u16 {
        let (generation, slot) = ((ticket.0 >> 16) as u16, ticket.0 as u16);
        let entry = &mut self[slot];
        assert!(
            entry.state == State::Submitted && entry.generation == generation,
            "a request completes once, and with its own ticket"
        );
        entry.state = State::AwaitingBuffer;
        self.submitted -= 1;
        slot
    }

    fn bucket(&self, tag: u32) -> usize {
        // Initiators count them up, some in the upper half.
        (tag ^ tag >> 16) as usize & (self.buckets.len() - 1)
    }

    fn unlink(&mut self, slot: u16, tag: u32) {
        let bucket = self.bucket(tag);
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
        /// Few tags, so that they meet in one bucket.
        #[test]
        fn finds_what_a_map_finds(steps: Vec<(bool, bool, prop::sample::Index)>) {
            let tags = [1_u32, 9, 17, 0x1_0000, 0x8001, 0x9_0001, 3, 0xFFFF_0000];
            let mut slots = Slots::<()>::new(4, 2);
            let mut oracle = HashMap::new();
            for (take, is_immediate, which) in steps {
                let tag = tags[which.index(tags.len())];
                prop_assert_eq!(slots.find(tag), oracle.get(&tag).copied());
                match oracle.get(&tag) {
                    None if take && slots.has_room(is_immediate) => {
                        let slot = slots.take(tag, is_immediate);
                        slots[slot].state = State::Responding;
                        oracle.insert(tag, slot);
                    }
                    Some(&slot) if !take => {
                        slots.release(slot);
                        oracle.remove(&tag);
                    }
                    _ => {}
                }
                let used = u16::try_from(oracle.len()).unwrap();
                prop_assert_eq!(slots.window + slots.immediate + used, 6);
            }
        }
    }

    #[test]
    fn tickets_of_one_slot_differ() {
        let mut slots = Slots::<()>::new(1, 1);
        let slot = slots.take(5, false);
        let first = slots.ticket(slot);
        slots.submit(slot);
        assert_eq!(slots.redeem(first), slot);
        assert_ne!(slots.ticket(slot), first);
        slots.submit(slot);
        assert_eq!(slots.submitted(), 1);
    }

    #[test]
    #[should_panic(expected = "with its own ticket")]
    fn a_ticket_is_good_once() {
        let mut slots = Slots::<()>::new(1, 1);
        let slot = slots.take(5, false);
        let ticket = slots.ticket(slot);
        slots.submit(slot);
        slots.redeem(ticket);
        slots.redeem(ticket);
    }
}
