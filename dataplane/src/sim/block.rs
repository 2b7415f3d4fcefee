//! What one 4 KiB block may hold: what is certain, and changes of which it is not known whether
//! they have happened.

use super::content::Version;
use nvmeof_target::io::Now;
use std::collections::VecDeque;

/// Sectors of a block.
pub(super) const SECTORS: usize = 8;
/// Entries of a block's history that are kept.
const HISTORY_MAX: usize = 24;

/// What each sector becomes by a change; `None` where it stays.
pub(super) type Sectors = [Option<Version>; SECTORS];

/// A change that may have happened.
#[derive(Debug, Clone)]
pub(super) struct Change {
    /// Its number, which no other has.
    pub(super) id: u64,
    /// Whose it is, or part of which.
    pub(super) operation: u64,
    pub(super) sectors: Sectors,
}

/// What a reader may see. Changes stand in the order in which they began.
#[derive(Debug, Clone, Default)]
pub(super) struct State {
    pub(super) base: [Version; SECTORS],
    pub(super) maybe: Vec<Change>,
}

/// Whether the block answers reads with media errors.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Damage {
    #[default]
    None,
    /// It may.
    Maybe,
    /// It must: a host has said so.
    Poisoned,
}

/// One block.
#[derive(Debug, Clone, Default)]
pub(super) struct Block {
    pub(super) state: State,
    /// An operation is changing it, or relies on its not being changed.
    pub(super) is_busy: bool,
    /// Until when a change whose host is gone may still begin.
    pub(super) free_at: Now,
    pub(super) damage: Damage,
    /// When it was last possibly damaged.
    pub(super) damaged_at: Option<Now>,
    /// Since when it must answer with errors, if it is poisoned.
    pub(super) poisoned_at: Now,
    /// What happened last, for the message of a failure.
    pub(super) history: VecDeque<(Now, &'static str, u64)>,
}

impl State {
    /// Whether nothing is open.
    pub(super) fn is_certain(&self) -> bool {
        self.maybe.is_empty()
    }

    /// An operation has certainly happened.
    pub(super) fn settle_operation(&mut self, operation: u64) {
        let is_of = |change: &&Change| change.operation == operation;
        let ids: Vec<u64> = self.maybe.iter().filter(is_of).map(|change| change.id).collect();
        ids.into_iter().for_each(|id| self.settle(id));
    }

    /// A change has certainly happened, after those before it, if they did.
    pub(super) fn settle(&mut self, id: u64) {
        let Some(at) = self.maybe.iter().position(|change| change.id == id) else { return };
        let settled = self.maybe.remove(at);
        for earlier in &mut self.maybe[..at] {
            for (sector, by) in earlier.sectors.iter_mut().zip(&settled.sectors) {
                if by.is_some() {
                    *sector = None;
                }
            }
        }
        self.maybe.retain(|change| change.sectors.iter().any(Option::is_some));
        apply(&mut self.base, &settled.sectors);
    }

    /// The changes without which `seen`, from sector `first` on, cannot be what was read; `None` if
    /// it cannot be at all.
    pub(super) fn explain(&self, first: usize, seen: &[Version]) -> Option<Vec<u64>> {
        let range = first..first + seen.len();
        if self.maybe.is_empty() {
            return (self.base[range] == *seen).then(Vec::new);
        }
        let mut needed: Option<u32> = None;
        for chosen in 0_u32..1 << self.maybe.len() {
            let mut sectors = self.base;
            for (at, change) in self.maybe.iter().enumerate() {
                if chosen & 1 << at != 0 {
                    apply(&mut sectors, &change.sectors);
                }
            }
            if sectors[range.clone()] == *seen {
                needed = Some(needed.unwrap_or(u32::MAX) & chosen);
            }
        }
        let needed = needed?;
        let is_needed =
            |(at, change): (usize, &Change)| (needed & 1 << at != 0).then_some(change.id);
        Some(self.maybe.iter().enumerate().filter_map(is_needed).collect())
    }
}

impl Block {
    /// Notes what happened.
    pub(super) fn remember(&mut self, now: Now, what: &'static str, value: u64) {
        if self.history.len() == HISTORY_MAX {
            self.history.pop_front();
        }
        self.history.push_back((now, what, value));
    }

    /// Whether an error was allowed to an operation that began at `begun`.
    pub(super) fn was_damaged_since(&self, begun: Now) -> bool {
        self.damage != Damage::None || self.damaged_at.is_some_and(|at| at >= begun)
    }
}

fn apply(base: &mut [Version; SECTORS], sectors: &Sectors) {
    for (to, from) in base.iter_mut().zip(sectors) {
        *to = from.unwrap_or(*to);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(id: u64) -> Change {
        Change { id, operation: id, sectors: [Some(id); SECTORS] }
    }

    fn part(id: u64, sectors: std::ops::Range<usize>) -> Change {
        let change = |at| sectors.contains(&at).then_some(id);
        Change { id, operation: id, sectors: std::array::from_fn(change) }
    }

    #[test]
    fn blocks_are_old_or_new_and_never_mixed() {
        let mut state = State { base: [1; SECTORS], maybe: vec![whole(2), part(3, 0..2)] };
        assert_eq!(state.explain(0, &[1; 8]), Some(vec![]));
        assert_eq!(state.explain(0, &[2; 8]), Some(vec![2]));
        assert_eq!(state.explain(0, &[3, 3, 1, 1, 1, 1, 1, 1]), Some(vec![3]));
        assert_eq!(state.explain(0, &[3, 3, 2, 2, 2, 2, 2, 2]), Some(vec![2, 3]));
        assert_eq!(state.explain(0, &[1, 1, 2, 2, 2, 2, 2, 2]), None);
        assert_eq!(state.explain(0, &[3, 1, 1, 1, 1, 1, 1, 1]), None);
        assert_eq!(state.explain(1, &[3]), Some(vec![3]));
        state.settle(3);
        assert_eq!(state.explain(0, &[2; 8]), None);
        assert_eq!(state.explain(2, &[2; 6]), Some(vec![2]));
        state.settle(2);
        assert!(state.is_certain() && state.base == [3, 3, 2, 2, 2, 2, 2, 2]);
    }
}
