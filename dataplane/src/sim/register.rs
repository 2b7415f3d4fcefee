//! A logical block that all hosts change by Compare and Write: its values form a chain, and each is
//! replaced once.

use super::content::Version;

/// Registers' versions have this bit, so that no other write has the same.
const REGISTER: u64 = 1 << 63;

/// See the module. Depth 0 is zeroes.
#[derive(Debug, Clone)]
pub(super) struct Register {
    /// Versions that were tried at each depth and may have come to be.
    tried: Vec<Vec<Version>>,
    /// The version that was seen at each depth.
    seen: Vec<Option<Version>>,
    /// The deepest that was seen.
    floor: usize,
    next: u64,
}

/// An attempt to replace a value.
#[derive(Debug, Clone, Copy)]
pub(super) struct Swap {
    pub(super) expected: Version,
    pub(super) new: Version,
    depth: usize,
}

impl Default for Register {
    fn default() -> Self {
        Self { tried: vec![vec![0]], seen: vec![Some(0)], floor: 0, next: 0 }
    }
}

impl Register {
    /// Begins an attempt; with `is_stale` on a value that was replaced already, if there is one.
    pub(super) fn begin(&mut self, is_stale: bool) -> Swap {
        let depth = self.floor - usize::from(is_stale && self.floor > 0);
        let Some(expected) = self.seen[depth] else {
            return self.begin(false);
        };
        self.next += 1;
        let new = REGISTER | (depth as u64 + 1) << 32 | self.next;
        if self.tried.len() == depth + 1 {
            self.tried.push(Vec::new());
            self.seen.push(None);
        }
        self.tried[depth + 1].push(new);
        Swap { expected, new, depth }
    }

    /// The attempt succeeded.
    pub(super) fn swapped(&mut self, swap: Swap) {
        self.see(swap.depth + 1, swap.new);
    }

    /// The attempt found another value: there must be one.
    pub(super) fn differed(&mut self, swap: Swap) {
        let tried = &mut self.tried[swap.depth + 1];
        let seen = self.seen[swap.depth + 1];
        assert_ne!(seen, Some(swap.new), "a compare failed, and its write was seen");
        assert!(tried.len() > 1, "{swap:?} failed with nothing else there: {seen:?}");
        tried.retain(|&version| version != swap.new);
    }

    /// The deepest value that a read which begins now may return or fall behind.
    pub(super) fn floor(&self) -> usize {
        self.floor
    }

    /// A read that began at `floor` returned this.
    pub(super) fn read(&mut self, floor: usize, version: Version) {
        let depth = (version & !REGISTER) >> 32;
        assert!(depth as usize >= floor, "a register went back from {floor} to {depth}");
        self.see(depth as usize, version);
    }

    fn see(&mut self, depth: usize, version: Version) {
        let tried = self.tried.get(depth).is_some_and(|tried| tried.contains(&version));
        assert!(tried, "a register holds {version:x}, which nobody wrote");
        let seen = self.seen[depth].replace(version);
        assert!(
            seen.is_none_or(|seen| seen == version),
            "depth {depth} of a register was won twice, by {seen:x?} and {version:x}"
        );
        self.floor = self.floor.max(depth);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_is_taken() {
        let mut register = Register::default();
        let (first, second) = (register.begin(false), register.begin(false));
        register.swapped(second);
        register.differed(first);
        let third = register.begin(false);
        assert_eq!(third.expected, second.new);
        register.read(1, third.new);
        register.swapped(third);
        let stale = register.begin(true);
        assert_eq!(stale.expected, second.new);
        register.differed(stale);
    }

    #[test]
    #[should_panic(expected = "won twice")]
    fn two_winners_are_seen() {
        let mut register = Register::default();
        let (first, second) = (register.begin(false), register.begin(false));
        register.swapped(first);
        register.swapped(second);
    }

    #[test]
    #[should_panic(expected = "nothing else there")]
    fn a_compare_that_fails_for_no_reason_is_seen() {
        let mut register = Register::default();
        let swap = register.begin(false);
        register.differed(swap);
    }

    #[test]
    #[should_panic(expected = "went back")]
    fn an_old_value_is_seen() {
        let mut register = Register::default();
        let swap = register.begin(false);
        register.swapped(swap);
        register.read(register.floor(), 0);
    }
}
