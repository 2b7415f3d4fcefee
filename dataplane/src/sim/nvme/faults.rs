//! What goes wrong.

use super::model::Model;
use crate::sim::Random;
use storage_spec::nvme::status::Status;

/// One thing that goes wrong with the completion of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NvmeFault {
    /// It never comes, not even by an abort.
    Lost,
    /// It comes when the command is aborted.
    Stuck,
    /// It comes long after, but before an abort that a patient driver sends.
    Late,
    /// It names a command that is not in flight. Where it names another that is, no driver can
    /// tell: a checksum of the data has to.
    WrongCommand,
    /// It comes twice.
    Twice,
    /// It has the phase of an old entry.
    WrongPhase,
    /// It names another queue.
    WrongQueue,
    /// Its queue position is none.
    WrongHead,
    /// An error instead of the command's execution.
    Error(Status),
    /// The controller stops and reports a fatal state.
    Fatal,
    /// Power goes and comes back.
    PowerCycle,
}

impl NvmeFault {
    /// All kinds.
    pub const ALL: [Self; 13] = [
        Self::Lost,
        Self::Stuck,
        Self::Late,
        Self::WrongCommand,
        Self::Twice,
        Self::WrongPhase,
        Self::WrongQueue,
        Self::WrongHead,
        Self::Error(Status::INTERNAL_ERROR),
        Self::Error(Status::COMMAND_INTERRUPTED.with_retry_delay(1)),
        Self::Error(Status::NAMESPACE_NOT_READY),
        Self::Fatal,
        Self::PowerCycle,
    ];
}

/// What goes wrong by itself, in each so many of 10,000 completions of I/O commands.
#[derive(Debug, Clone, Default)]
pub struct NvmeFaults {
    /// Any of these.
    pub kinds: Vec<NvmeFault>,
    /// How often.
    pub chance: u64,
    /// Whether administrative commands suffer too.
    pub admin: bool,
    /// How often a change of CSTS.RDY takes for ever, of 100.
    pub stuck_ready: u64,
}

impl NvmeFaults {
    pub(super) fn draw(&self, random: &mut Random, is_admin: bool) -> Option<NvmeFault> {
        let is_hit = (!is_admin || self.admin)
            && !self.kinds.is_empty()
            && random.below(10_000) < self.chance;
        is_hit.then(|| self.kinds[random.below(self.kinds.len() as u64) as usize])
    }
}

impl Model {
    /// What goes wrong with the next completion.
    pub(super) fn next_fault(&mut self, is_admin: bool) -> Option<NvmeFault> {
        if !is_admin && let Some(fault) = self.injected.pop_front() {
            return Some(fault);
        }
        let Self { faults, random, .. } = self;
        faults.draw(random, is_admin)
    }
}
