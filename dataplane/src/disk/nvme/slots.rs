//! Command identifiers: a slot's number and how often it has been used, so that a completion for a
//! former user of the slot is told from one for the present.

/// Bits of an identifier that number the slot.
const INDEX_BITS: u32 = 10;
/// Generations of a slot.
const GENERATIONS: u8 = 1 << (16 - INDEX_BITS);

/// A fixed number of slots, each free or holding a `T`.
pub(super) struct Slots<T> {
    slots: Box<[Slot<T>]>,
    free: Vec<u16>,
}

struct Slot<T> {
    generation: u8,
    content: Option<T>,
}

impl<T> Slot<T> {
    /// Slots that are used in turn are not of one generation: a controller that has a bit of the
    /// number wrong is seldom taken at its word for another command in flight.
    fn new(index: usize) -> Self {
        let generation = (index * 37 % usize::from(GENERATIONS)) as u8;
        Self { generation, content: None }
    }
}

impl<T> Slots<T> {
    /// `count` free slots, less than 1024: FFFFh is no identifier.
    pub(super) fn new(count: usize) -> Self {
        assert!((1..1 << INDEX_BITS).contains(&count), "{count} slots");
        Self { slots: (0..count).map(Slot::new).collect(), free: (0..count as u16).rev().collect() }
    }

    pub(super) fn has_room(&self) -> bool {
        !self.free.is_empty()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.free.len() == self.slots.len()
    }

    #[cfg(test)]
    pub(super) fn used(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Takes a free slot, for the caller to fill by [`Slots::fill`]: its number and identifier.
    #[inline]
    pub(super) fn take(&mut self) -> Option<(u16, u16)> {
        let index = self.free.pop()?;
        let slot = &mut self.slots[usize::from(index)];
        slot.generation = (slot.generation + 1) % GENERATIONS;
        Some((index, index | u16::from(slot.generation) << INDEX_BITS))
    }

    /// Gives back what was taken and not filled.
    pub(super) fn put_back(&mut self, index: u16) {
        self.free.push(index);
    }

    #[inline]
    pub(super) fn fill(&mut self, index: u16, content: T) {
        let slot = &mut self.slots[usize::from(index)];
        assert!(slot.content.is_none());
        slot.content = Some(content);
    }

    /// The content of the slot of this identifier, which becomes free. `None` where a controller
    /// names what is not in flight.
    #[inline]
    pub(super) fn end(&mut self, command_id: u16) -> Option<(u16, T)> {
        let index = command_id & ((1 << INDEX_BITS) - 1);
        let slot = self.slots.get_mut(usize::from(index))?;
        if u16::from(slot.generation) != command_id >> INDEX_BITS {
            return None;
        }
        let content = slot.content.take()?;
        self.free.push(index);
        Some((index, content))
    }

    /// Everything in flight, with its identifiers.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (u16, &mut T)> {
        self.slots.iter_mut().enumerate().filter_map(|(index, slot)| {
            let command_id = index as u16 | u16::from(slot.generation) << INDEX_BITS;
            Some((command_id, slot.content.as_mut()?))
        })
    }

    /// Takes everything back.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = T> {
        let free = &mut self.free;
        self.slots.iter_mut().enumerate().filter_map(|(index, slot)| {
            let content = slot.content.take()?;
            free.push(index as u16);
            Some(content)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_of_former_users_are_not_taken() {
        let mut slots = Slots::new(2);
        let (first, id) = slots.take().unwrap();
        slots.fill(first, 'a');
        assert_eq!(slots.end(id ^ 1), None, "the other slot is free");
        assert_eq!(slots.end(id | 5), None, "there is no such slot");
        assert_eq!(slots.end(id), Some((first, 'a')));
        assert_eq!(slots.end(id), None, "it has ended");
        let (again, next) = slots.take().unwrap();
        assert_eq!(again, first);
        slots.fill(again, 'b');
        assert_eq!(slots.end(id), None, "that was the former");
        assert_eq!(slots.drain().collect::<Vec<_>>(), ['b']);
        assert_eq!(slots.end(next), None);
        assert_eq!(slots.used(), 0);
    }

    #[test]
    fn generations_come_round() {
        let mut slots = Slots::new(1023);
        for _ in 0..200 {
            let (index, id) = slots.take().unwrap();
            assert_ne!(id, 0xFFFF);
            slots.fill(index, ());
            assert!(slots.end(id).is_some());
        }
    }
}
