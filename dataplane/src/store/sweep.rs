//! Writes that go to the medium in the order of their places, as an arm that moves one way and then
//! starts over.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// A write: its first block in the shard, and what stands for it.
type Waiting = Reverse<(u64, u32)>;

/// Writes that wait, none of which overlaps another.
#[derive(Debug, Default)]
pub(super) struct Sweep {
    /// At or after the place that was reached.
    ahead: BinaryHeap<Waiting>,
    /// For the next time round.
    behind: BinaryHeap<Waiting>,
    position: u64,
}

impl Sweep {
    pub(super) fn push(&mut self, block: u64, at: u32) {
        let side = if block >= self.position { &mut self.ahead } else { &mut self.behind };
        side.push(Reverse((block, at)));
    }

    /// The next one in order.
    pub(super) fn pop(&mut self) -> Option<(u64, u32)> {
        if self.ahead.is_empty() {
            std::mem::swap(&mut self.ahead, &mut self.behind);
        }
        let Reverse((block, at)) = self.ahead.pop()?;
        self.position = block;
        Some((block, at))
    }

    /// The next one if it begins at `block`.
    pub(super) fn next_at(&self, block: u64) -> Option<u32> {
        let &Reverse((first, at)) = self.ahead.peek()?;
        (first == block).then_some(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arm_moves_one_way() {
        let mut sweep = Sweep::default();
        for block in [7, 3, 9, 5] {
            sweep.push(block, block as u32);
        }
        assert_eq!((sweep.pop(), sweep.pop()), (Some((3, 3)), Some((5, 5))));
        assert_eq!((sweep.next_at(6), sweep.next_at(7)), (None, Some(7)));
        sweep.push(4, 4);
        sweep.push(8, 8);
        let rest: Vec<u64> = std::iter::from_fn(|| sweep.pop()).map(|(block, _)| block).collect();
        assert_eq!(rest, [7, 8, 9, 4]);
    }
}
