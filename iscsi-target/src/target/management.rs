//! Task management that concerns more than one session: each is told, and when the tasks of all
//! have ended the one that asked is answered.

use super::{Action, Target};
use crate::scsi::{Attention, Lun};
use crate::seam::{ConnectionId, Order, Slot};
use reservations::Failure;
use std::collections::{BTreeMap, BTreeSet};
use storage_spec::iscsi::{TaskFunction, TaskResponse};

/// Functions that are under way.
#[derive(Debug, Default)]
pub(super) struct Resets {
    next: u64,
    open: BTreeMap<u64, Reset>,
}

/// One of them, or an order of a reservation that ends tasks as well.
#[derive(Debug)]
struct Reset {
    after: After,
    /// Whose tasks have not ended.
    awaited: BTreeSet<ConnectionId>,
}

/// What follows when the tasks have ended.
#[derive(Debug)]
pub(super) enum After {
    /// Task management is answered.
    Management(ConnectionId, Slot, TaskFunction, Option<Lun>),
    /// An order of a reservation is.
    Reservation(u64, Result<(), Failure>),
}

impl Target {
    pub(super) fn on_management(
        &mut self,
        asker: ConnectionId,
        slot: Slot,
        function: TaskFunction,
        lun: Option<Lun>,
    ) {
        let all = self.normal();
        self.abort_then(all, lun, Some(asker), After::Management(asker, slot, function, lun));
    }

    /// Ends the tasks of connections; then goes on. Who has not asked for it is told of each of its
    /// commands (TAS is set).
    pub(super) fn abort_then(
        &mut self,
        of: Vec<ConnectionId>,
        lun: Option<Lun>,
        asker: Option<ConnectionId>,
        after: After,
    ) {
        let token = self.resets.next;
        self.resets.next += 1;
        let awaited: BTreeSet<ConnectionId> = of.into_iter().collect();
        for &connection in &awaited {
            let with_status = asker != Some(connection);
            let order = Order::Abort { token, lun, with_status };
            self.actions.push_back(Action::Order(connection, order));
        }
        self.resets.open.insert(token, Reset { after, awaited });
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
        match reset.after {
            After::Reservation(token, result) => {
                self.device.reservation_result(token, result);
                self.carry_effects();
            }
            After::Management(asker, slot, function, lun) => {
                self.post_reset(asker, function, lun);
                let order = Order::Management(slot, TaskResponse::FunctionComplete);
                self.actions.push_back(Action::Order(asker, order));
                if function == TaskFunction::TargetColdReset {
                    for connection in self.normal() {
                        self.actions.push_back(Action::Close(connection));
                    }
                }
            }
        }
    }

    /// What nexuses are told after a reset.
    fn post_reset(&mut self, asker: ConnectionId, function: TaskFunction, lun: Option<Lun>) {
        if function != TaskFunction::ClearTaskSet {
            self.device.reset(lun);
            self.carry_effects();
            return;
        }
        let Some(lun) = lun else { return };
        // Who cleared the task set knows.
        for connection in self.normal().into_iter().filter(|other| *other != asker) {
            let attentions = vec![(lun, Attention::CommandsCleared)];
            let order = Order::Units(self.device.units(connection), attentions);
            self.actions.push_back(Action::Order(connection, order));
        }
    }
}
