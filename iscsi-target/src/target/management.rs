//! Task management that concerns more than one session: each is told, and when the tasks of all
//! have ended the one that asked is answered.

use super::{Action, Target};
use crate::scsi::Lun;
use crate::seam::{ConnectionId, Order, Slot};
use std::collections::{BTreeMap, BTreeSet};
use storage_spec::iscsi::{TaskFunction, TaskResponse};

/// Functions that are under way.
#[derive(Debug, Default)]
pub(super) struct Resets {
    next: u64,
    open: BTreeMap<u64, Reset>,
}

/// One of them.
#[derive(Debug)]
struct Reset {
    /// Who is answered when the tasks have ended.
    asker: (ConnectionId, Slot),
    function: TaskFunction,
    lun: Option<Lun>,
    /// Whose tasks have not ended.
    awaited: BTreeSet<ConnectionId>,
}

impl Target {
    pub(super) fn on_management(
        &mut self,
        asker: ConnectionId,
        slot: Slot,
        function: TaskFunction,
        lun: Option<Lun>,
    ) {
        let token = self.resets.next;
        self.resets.next += 1;
        let awaited: BTreeSet<ConnectionId> = self.normal().into_iter().collect();
        for &connection in &awaited {
            // Who has not asked for it is told of each of its commands (TAS is set).
            let with_status = asker != connection;
            let order = Order::Abort { token, lun, with_status };
            self.actions.push_back(Action::Order(connection, order));
        }
        self.resets.open.insert(token, Reset { asker: (asker, slot), function, lun, awaited });
        self.settle_reset(token);
    }

    /// A connection's tasks have ended.
    pub(super) fn aborted(&mut self, connection: ConnectionId, token: u64) {
        if let Some(reset) = self.resets.open.get_mut(&token) {
            reset.awaited.remove(&connection);
            self.settle_reset(token);
        }
    }

    /// A connection has ended, and its tasks with it.
    pub(super) fn forget_in_resets(&mut self, connection: ConnectionId) {
        let tokens: Vec<u64> = self.resets.open.keys().copied().collect();
        tokens.into_iter().for_each(|token| self.aborted(connection, token));
    }

    fn settle_reset(&mut self, token: u64) {
        if !self.resets.open[&token].awaited.is_empty() {
            return;
        }
        let reset = self.resets.open.remove(&token).expect("looked at above");
        let Reset { asker: (asker, slot), function, lun, .. } = reset;
        // Whose commands were cleared has been told of each (TAS is set).
        if function != TaskFunction::ClearTaskSet {
            self.device.reset(lun);
            self.carry_effects();
        }
        let order = Order::Management(slot, TaskResponse::FunctionComplete);
        self.actions.push_back(Action::Order(asker, order));
        if function == TaskFunction::TargetColdReset {
            for connection in self.normal() {
                self.actions.push_back(Action::Close(connection));
            }
        }
    }
}
