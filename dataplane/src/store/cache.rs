//! Metadata pages in memory: a bounded number of slots, evicted by CLOCK, pinned while operations
//! stand on them.

use super::page::Page;

pub(super) const NONE: u32 = u32::MAX;
/// Not dirty.
pub(super) const CLEAN: u64 = u64::MAX;
/// Fewest slots.
pub(super) const SLOTS_MIN: usize = 4;

/// Where a slot stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// Holds nothing.
    Empty,
    /// Its page is being read; the flag says that it is the second try.
    Loading(bool),
    /// Its page is not read: the first operation on it gives the slab back, whatever it holds.
    Unread,
    /// Holds a page.
    Ready,
}

/// A page and the operations that stand on it.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) page: Page,
    pub(super) slab: u32,
    pub(super) state: State,
    /// Lowest record whose effect is not on the disk, or [`CLEAN`].
    pub(super) first_dirty: u64,
    /// The record that mapped the slab, which must be durable before the page is written.
    pub(super) mapped_by: u64,
    /// Whether a write of the page is in flight.
    pub(super) writing: bool,
    /// Whether the slab was taken from its chunk during that write.
    pub(super) doomed: bool,
    referenced: bool,
    /// First and last operation on the page, in the order of their arrival.
    pub(super) head: u32,
    pub(super) tail: u32,
}

impl Slot {
    fn is_pinned(&self) -> bool {
        self.head != NONE || self.writing || matches!(self.state, State::Loading(_))
    }
}

/// Result of asking for a slot.
pub(super) enum Victim {
    /// This one is empty now.
    Slot(u32),
    /// None is; this one could be evicted once it has been written.
    Dirty(u32),
    /// None is and all are in use.
    Busy,
}

/// The slots, and where each slab's page is.
#[derive(Debug)]
pub(super) struct Cache {
    pub(super) slots: Vec<Slot>,
    of_slab: Vec<u32>,
    hand: usize,
}

/// Most slots that one search looks at.
const STEPS_MAX: usize = 256;

impl Cache {
    pub(super) fn new(bytes: usize, slabs: u32) -> Self {
        let count =
            (bytes / size_of::<Slot>()).clamp(SLOTS_MIN, slabs.max(SLOTS_MIN as u32) as usize);
        let slots = (0..count)
            .map(|_| Slot {
                page: Page::EMPTY,
                slab: NONE,
                state: State::Empty,
                first_dirty: CLEAN,
                mapped_by: 0,
                writing: false,
                doomed: false,
                referenced: false,
                head: NONE,
                tail: NONE,
            })
            .collect();
        Self { slots, of_slab: vec![NONE; slabs as usize], hand: 0 }
    }

    /// The slot of a slab's page, which is thereby used.
    pub(super) fn find(&mut self, slab: u32) -> Option<u32> {
        let at = self.of_slab[slab as usize];
        if at == NONE {
            return None;
        }
        self.slots[at as usize].referenced = true;
        Some(at)
    }

    /// An empty slot, by eviction if need be.
    pub(super) fn victim(&mut self) -> Victim {
        let mut dirty = None;
        for _ in 0..(2 * self.slots.len()).min(STEPS_MAX) {
            let at = self.hand;
            self.hand = (self.hand + 1) % self.slots.len();
            let slot = &mut self.slots[at];
            if slot.is_pinned() {
                continue;
            }
            if std::mem::take(&mut slot.referenced) {
                continue;
            }
            if slot.first_dirty != CLEAN {
                dirty = dirty.or(Some(at as u32));
                continue;
            }
            self.empty(at as u32);
            return Victim::Slot(at as u32);
        }
        dirty.map_or(Victim::Busy, Victim::Dirty)
    }

    /// Gives an empty slot to a slab.
    pub(super) fn assign(&mut self, at: u32, slab: u32, state: State) {
        let slot = &mut self.slots[at as usize];
        assert!(slot.state == State::Empty && slot.head == NONE && !slot.writing);
        slot.page = Page::EMPTY;
        slot.slab = slab;
        slot.state = state;
        slot.first_dirty = CLEAN;
        slot.mapped_by = 0;
        slot.doomed = false;
        slot.referenced = true;
        self.of_slab[slab as usize] = at;
    }

    /// Takes a slot from its slab.
    pub(super) fn empty(&mut self, at: u32) {
        let slot = &mut self.slots[at as usize];
        assert!(slot.head == NONE && !slot.writing);
        slot.state = State::Empty;
        slot.first_dirty = CLEAN;
        slot.referenced = false;
        if slot.slab != NONE && self.of_slab[slot.slab as usize] == at {
            self.of_slab[slot.slab as usize] = NONE;
        }
        slot.slab = NONE;
    }

    /// The slab has no page any more, although its slot is still being written.
    pub(super) fn forget(&mut self, at: u32) {
        let slot = &mut self.slots[at as usize];
        slot.first_dirty = CLEAN;
        self.of_slab[slot.slab as usize] = NONE;
    }
}
