//! Errors of commands, until they are carried to the log of their controller.

use super::Connection;
use super::slots::Entry;
use crate::io::BlockError;
use crate::seam::{CommandError, CommandErrors, ERRORS_HELD_MAX};
use storage_spec::nvme::status::Status;

/// The latest errors, and how many were before them.
#[derive(Debug, Default)]
pub(super) struct Errors {
    held: Vec<CommandError>,
    lost: u64,
}

impl Errors {
    pub(super) fn note(&mut self, error: CommandError) {
        if self.held.len() == ERRORS_HELD_MAX {
            self.held.remove(0);
            self.lost += 1;
        }
        self.held.push(error);
    }
}

impl<B> Connection<B> {
    /// Errors since the last call, for `Target::note_errors`; `None` if there were none.
    pub fn take_errors(&mut self) -> Option<CommandErrors> {
        if self.errors.held.is_empty() {
            return None;
        }
        let Errors { held: errors, lost } = core::mem::take(&mut self.errors);
        Some(CommandErrors { errors, lost })
    }
}

impl<B> Entry<B> {
    /// Notes the first block that the store named.
    pub(super) fn locate(&mut self, error: BlockError) {
        if let BlockError::Media { offset } | BlockError::Miscompare { offset } = error {
            self.lba = offset >> self.block_shift;
        }
    }
}

/// Whether an error goes to the log: not what the host itself has asked for.
pub(super) fn is_logged(status: Status) -> bool {
    !status.is_success()
        && !status.is(Status::ABORT_REQUESTED)
        && !status.is(Status::ABORTED_SQ_DELETION)
}
