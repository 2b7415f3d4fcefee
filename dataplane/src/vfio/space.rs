//! Which addresses of the devices' address space are taken.

use std::ops::RangeInclusive;

/// Nothing is mapped below: a device that follows a null pointer shall meet a fault.
const FIRST: u64 = 1 << 20;

/// Where nothing else is known: below what the smallest IOMMU in use translates (39 bits), and
/// without the interrupt window of x86.
const USUAL: [RangeInclusive<u64>; 2] = [0..=0xfedf_ffff, 0xfef0_0000..=(1 << 39) - 1];

/// The free addresses of one address space, lowest first: so that devices of few address bits reach
/// what is mapped.
#[derive(Debug)]
pub(super) struct Space {
    /// In order, never touching each other.
    free: Vec<RangeInclusive<u64>>,
}

impl Space {
    /// A space of the ranges that the kernel tells; of none: the usual ones.
    pub(super) fn new(ranges: impl IntoIterator<Item = RangeInclusive<u64>>) -> Self {
        let mut free: Vec<_> = ranges.into_iter().filter(|range| *range.end() >= FIRST).collect();
        if free.is_empty() {
            free.extend(USUAL);
        }
        free.sort_by_key(|range| *range.start());
        if *free[0].start() < FIRST {
            free[0] = FIRST..=*free[0].end();
        }
        Self { free }
    }

    /// Takes the lowest `len` bytes that begin at a multiple of `align`.
    pub(super) fn take(&mut self, len: u64, align: u64) -> Option<u64> {
        assert!(len > 0 && align.is_power_of_two());
        let (at, start) = self.free.iter().enumerate().find_map(|(at, range)| {
            let start = range.start().checked_next_multiple_of(align)?;
            let last = start.checked_add(len - 1)?;
            (last <= *range.end()).then_some((at, start))
        })?;
        let range = self.free.remove(at);
        let last = start + (len - 1);
        if last < *range.end() {
            self.free.insert(at, last + 1..=*range.end());
        }
        if *range.start() < start {
            self.free.insert(at, *range.start()..=start - 1);
        }
        Some(start)
    }

    /// Gives back what [`Space::take`] gave.
    pub(super) fn give(&mut self, start: u64, len: u64) {
        let last = start + (len - 1);
        let at = self.free.partition_point(|range| *range.start() < start);
        assert!(at == 0 || *self.free[at - 1].end() < start, "{start:#x} is given back once");
        assert!(at == self.free.len() || last < *self.free[at].start(), "and wholly");
        self.free.insert(at, start..=last);
        self.join(at);
        if at > 0 {
            self.join(at - 1);
        }
    }

    /// Joins the range at `at` with the next one if they touch.
    fn join(&mut self, at: usize) {
        let Some(next) = self.free.get(at + 1) else { return };
        if *self.free[at].end() + 1 == *next.start() {
            self.free[at] = *self.free[at].start()..=*next.end();
            self.free.remove(at + 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn low_addresses_go_first_around_reserved_ones() {
        let mut space = Space::new([0..=0xf_ffff, 0x20_0000..=0x2f_ffff, 0x100_0000..=u64::MAX]);
        assert_eq!(space.take(0x1000, 0x1000), Some(0x20_0000));
        assert_eq!(space.take(0x20_0000, 0x20_0000), Some(0x100_0000));
        assert_eq!(space.take(0xf_f000, 0x1000), Some(0x20_1000));
        assert_eq!(space.take(0x1000, 0x1000), Some(0x120_0000));
        space.give(0x20_0000, 0x1000);
        space.give(0x20_1000, 0xf_f000);
        assert_eq!(space.take(0x10_0000, 0x1000), Some(0x20_0000));
        assert_eq!(space.take(u64::MAX, 1), None);
    }

    #[test]
    fn unknown_spaces_are_small_and_spare_the_interrupts() {
        let mut space = Space::new([]);
        assert_eq!(space.take(0x1000, 0x1000), Some(FIRST));
        let above = space.take(0xff00_0000, 0x1000).unwrap();
        assert_eq!(above, 0xfef0_0000);
        assert_eq!(space.take(1 << 39, 1), None);
    }

    proptest! {
        #[test]
        fn nothing_is_given_twice(
            steps in prop::collection::vec((1..64_u64, 0..4_u32, any::<bool>()), 1..200),
        ) {
            let mut space = Space::new([FIRST..=FIRST + 0x3f_ffff]);
            let mut held: Vec<(u64, u64)> = Vec::new();
            for (pages, order, gives) in steps {
                if gives && !held.is_empty() {
                    let (start, len) = held.swap_remove(pages as usize % held.len());
                    space.give(start, len);
                    continue;
                }
                let (len, align) = (pages << 12, 0x1000 << order);
                let Some(start) = space.take(len, align) else { continue };
                prop_assert!(start.is_multiple_of(align));
                let is_apart =
                    |&(other, size): &(u64, u64)| start + len <= other || other + size <= start;
                prop_assert!(held.iter().all(is_apart));
                held.push((start, len));
            }
            for (start, len) in held {
                space.give(start, len);
            }
            prop_assert_eq!(space.free, vec![FIRST..=FIRST + 0x3f_ffff]);
        }
    }
}
