//! What can go wrong, and when.

use crate::sim::Random;

/// A way in which a command of a port goes wrong when it would end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AhciFault {
    /// It never ends.
    Lost,
    /// The drive is busy from now on, until its link is reset.
    Stuck,
    /// The port does not stop any more until the adapter is reset, and this one never ends.
    StuckRunning,
    /// The drive reports an error, with these bits in its error register.
    Error(u8),
    /// As that, and the log of it names another command, or is damaged.
    LyingLog,
    /// PxSACT, or PxCI, tells of a command that was never issued.
    WrongActive,
    /// A queued command ends that has not been sent.
    Unsent,
    /// The port stops for an error of its link (IFS).
    Interface,
    /// The port stops for an error on the bus (HBFS).
    BusFatal,
    /// The port stops for an error with memory (HBDS).
    BusData,
    /// The drive has moved more than was asked for (OFS).
    Overflow,
    /// The port forgets that it was running.
    LostState,
}

impl AhciFault {
    /// All kinds.
    pub const ALL: [Self; 13] = [
        Self::Lost,
        Self::Stuck,
        Self::StuckRunning,
        Self::Error(0x84),
        Self::Error(0x04),
        Self::LyingLog,
        Self::WrongActive,
        Self::Unsent,
        Self::Interface,
        Self::BusFatal,
        Self::BusData,
        Self::Overflow,
        Self::LostState,
    ];
}

/// What goes wrong by itself, in each so many of 10,000 commands.
#[derive(Debug, Clone, Default)]
pub struct AhciFaults {
    /// Any of these.
    pub kinds: Vec<AhciFault>,
    /// How often.
    pub chance: u64,
}

impl AhciFaults {
    pub(super) fn draw(&self, random: &mut Random) -> Option<AhciFault> {
        let is_hit = !self.kinds.is_empty() && random.below(10_000) < self.chance;
        is_hit.then(|| self.kinds[random.below(self.kinds.len() as u64) as usize])
    }
}
