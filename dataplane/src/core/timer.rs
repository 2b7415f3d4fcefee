//! Timers of one core: a hierarchical wheel over a slab.
//!
//! Insertion and cancellation take constant time; a timer is moved at most once for each level
//! between its deadline and now. Time is given, never asked for.
//!
//! Accuracy: a timer is never early, and is due at the first [`Wheel::pop_due`] at or after the end
//! of the tick (100 µs) in which its deadline lies.

use std::time::Duration;

/// Time since the start of the node.
type Now = Duration;

/// Nanoseconds in a tick.
const TICK: u64 = 100_000;

/// Slots of a level; each level's slot is as long as all of the level below.
const SLOTS: usize = 64;
const SLOT_BITS: u32 = SLOTS.trailing_zeros();

/// Levels: 64^6 ticks are about 79 days. What is due later waits in the last slot that there is.
const LEVELS: usize = 6;
const TOP_BITS: u32 = SLOT_BITS * (LEVELS as u32 - 1);

/// No timer: the end of a list.
const NONE: u32 = u32::MAX;

/// Most timers of one wheel.
pub const TIMERS_MAX: usize = 1 << 24;

/// A timer that was set; of no use any more once it was due or cancelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TimerId {
    index: u32,
    generation: u32,
}

/// Timers, each with a value to be returned when it is due.
#[derive(Debug)]
pub struct Wheel<T> {
    /// Ticks that have passed: every timer still on the wheel is due after it.
    now: u64,
    levels: Box<[Level; LEVELS]>,
    /// Timers that are due and have not been taken.
    due: List,
    entries: Vec<Entry<T>>,
    free: u32,
    len: usize,
}

#[derive(Debug, Clone, Copy)]
struct Level {
    slots: [List; SLOTS],
    /// Bit n: slot n holds a timer.
    occupied: u64,
}

#[derive(Debug, Clone, Copy)]
struct List {
    first: u32,
    last: u32,
}

#[derive(Debug)]
struct Entry<T> {
    value: Option<T>,
    generation: u32,
    /// The tick at whose end the timer is due.
    deadline: u64,
    place: Place,
    previous: u32,
    /// The next of the list, or of the free entries.
    next: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Due,
    Slot { level: u8, slot: u8 },
}

impl<T> Wheel<T> {
    /// No timers, at time `now`, with memory for `capacity`; more are allocated when needed.
    #[must_use]
    pub fn new(now: Now, capacity: usize) -> Self {
        let level = Level { slots: [List::EMPTY; SLOTS], occupied: 0 };
        Self {
            now: ticks_passed(now),
            levels: Box::new([level; LEVELS]),
            due: List::EMPTY,
            entries: Vec::with_capacity(capacity),
            free: NONE,
            len: 0,
        }
    }

    /// Timers set and not yet due or cancelled.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no timer is set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Sets a timer; one whose deadline has passed is due at once.
    pub fn insert(&mut self, deadline: Now, value: T) -> TimerId {
        let index = self.allocate();
        let entry = &mut self.entries[index as usize];
        entry.deadline = ticks_until_end(deadline);
        entry.value = Some(value);
        let generation = entry.generation;
        self.len += 1;
        self.place(index);
        TimerId { index, generation }
    }

    /// Takes a timer back, with its value; `None` if it was due or cancelled before.
    pub fn cancel(&mut self, timer: TimerId) -> Option<T> {
        let entry = self.entries.get(timer.index as usize)?;
        if entry.generation != timer.generation {
            return None;
        }
        self.unlink(timer.index);
        self.release(timer.index)
    }

    /// The value of a timer that is due at `now`, earliest tick first, in order of insertion within
    /// a tick; `None` when there is no more. Time must not go back.
    pub fn pop_due(&mut self, now: Now) -> Option<T> {
        if self.due.is_empty() {
            self.advance(ticks_passed(now));
        }
        let index = self.due.first;
        if index == NONE {
            return None;
        }
        self.unlink(index);
        self.release(index)
    }

    /// When to call [`Wheel::pop_due`] next: not later than the next timer is due, and earlier only
    /// when timers far ahead have to be sorted (at most once for each level).
    #[must_use]
    pub fn next_deadline(&self) -> Option<Now> {
        let tick = if self.due.is_empty() { self.next_event()? } else { self.now };
        Some(Duration::from_nanos(tick.saturating_mul(TICK)))
    }

    /// Moves on to tick `target`, or to the first tick that has something due.
    fn advance(&mut self, target: u64) {
        while self.now < target && self.due.is_empty() {
            match self.next_event() {
                Some(tick) if tick <= target => {
                    self.now = tick;
                    self.turn();
                }
                _ => self.now = target,
            }
        }
    }

    /// The next tick at which a slot has to be emptied.
    fn next_event(&self) -> Option<u64> {
        let events = self.levels.iter().enumerate().filter_map(|(level, wheel)| {
            let bits = SLOT_BITS * level as u32;
            let current = self.now >> bits;
            // The current slot of a level is always empty: its turn is a whole round away.
            let after = wheel.occupied.rotate_right((current % SLOTS as u64) as u32);
            let steps = u64::from(after.checked_shr(1).filter(|&rest| rest != 0)?.trailing_zeros());
            Some((current + 1 + steps) << bits)
        });
        events.min()
    }

    /// Empties the slots whose turn it is at the current tick, highest level first: timers go to
    /// lower levels, or are due.
    fn turn(&mut self) {
        for level in (0..LEVELS).rev() {
            let bits = SLOT_BITS * level as u32;
            if !self.now.is_multiple_of(1 << bits) {
                continue;
            }
            let slot = ((self.now >> bits) % SLOTS as u64) as usize;
            let list = std::mem::replace(&mut self.levels[level].slots[slot], List::EMPTY);
            self.levels[level].occupied &= !(1 << slot);
            let mut index = list.first;
            while index != NONE {
                let next = self.entries[index as usize].next;
                self.place(index);
                index = next;
            }
        }
    }

    /// Puts a timer where its deadline belongs.
    fn place(&mut self, index: u32) {
        let deadline = self.entries[index as usize].deadline;
        let place = if deadline <= self.now {
            Place::Due
        } else {
            // Less than a round of the top level ahead, so that no level's current slot is used.
            let last = (self.now >> TOP_BITS) + SLOTS as u64 - 1;
            let at = deadline.min(last << TOP_BITS);
            let level = ((at ^ self.now).ilog2() / SLOT_BITS).min(LEVELS as u32 - 1);
            let slot = (at >> (SLOT_BITS * level)) % SLOTS as u64;
            Place::Slot { level: level as u8, slot: slot as u8 }
        };
        self.entries[index as usize].place = place;
        let last = self.list(place).last;
        let entry = &mut self.entries[index as usize];
        (entry.previous, entry.next) = (last, NONE);
        if last == NONE {
            self.list(place).first = index;
        } else {
            self.entries[last as usize].next = index;
        }
        self.list(place).last = index;
        if let Place::Slot { level, slot } = place {
            self.levels[usize::from(level)].occupied |= 1 << slot;
        }
    }

    fn unlink(&mut self, index: u32) {
        let Entry { previous, next, place, .. } = self.entries[index as usize];
        match previous {
            NONE => self.list(place).first = next,
            previous => self.entries[previous as usize].next = next,
        }
        match next {
            NONE => self.list(place).last = previous,
            next => self.entries[next as usize].previous = previous,
        }
        if let Place::Slot { level, slot } = place
            && self.list(place).is_empty()
        {
            self.levels[usize::from(level)].occupied &= !(1 << slot);
        }
    }

    fn list(&mut self, place: Place) -> &mut List {
        match place {
            Place::Due => &mut self.due,
            Place::Slot { level, slot } => {
                &mut self.levels[usize::from(level)].slots[usize::from(slot)]
            }
        }
    }

    fn allocate(&mut self) -> u32 {
        if self.free == NONE {
            assert!(self.entries.len() < TIMERS_MAX, "at most {TIMERS_MAX} timers");
            self.entries.push(Entry {
                value: None,
                generation: 0,
                deadline: 0,
                place: Place::Due,
                previous: NONE,
                next: NONE,
            });
            return self.entries.len() as u32 - 1;
        }
        let index = self.free;
        self.free = self.entries[index as usize].next;
        index
    }

    fn release(&mut self, index: u32) -> Option<T> {
        let entry = &mut self.entries[index as usize];
        entry.generation = entry.generation.wrapping_add(1);
        entry.next = self.free;
        self.free = index;
        self.len -= 1;
        entry.value.take()
    }
}

impl List {
    const EMPTY: Self = Self { first: NONE, last: NONE };

    fn is_empty(&self) -> bool {
        self.first == NONE
    }
}

fn ticks_passed(now: Now) -> u64 {
    (now.as_nanos() / u128::from(TICK)).try_into().unwrap_or(u64::MAX / TICK)
}

fn ticks_until_end(deadline: Now) -> u64 {
    deadline.as_nanos().div_ceil(u128::from(TICK)).try_into().unwrap_or(u64::MAX / TICK)
}

#[cfg(test)]
mod tests;
