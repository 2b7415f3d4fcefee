//! Control's part of iSCSI: its target's events and actions, sessions and their cores, drain.

use super::control::Control;
use crate::core::Message;
use crossbeam_channel::Sender;
use iscsi_target::scsi::control::UnitConfig;
use iscsi_target::seam::{Event, Order, SessionKind};
use iscsi_target::target::{
    Action, ConfigError, ConnectionContext, Credentials, Entropy, IscsiName,
};
use reservations::{Registrant, Table};
use std::sync::Arc;
use target_io::{ConnectionId, Now, VolumeIndex};

use super::jobs::{Outcome, Volume};

/// How long initiators have to log out before the node stops.
const DRAIN_MAX: Now = Now::from_secs(3);

/// A stop that waits for initiators to log out.
pub(super) struct Draining {
    answer: Sender<Outcome>,
    until: Option<Now>,
}

/// What fills bytes with what nobody can foresee: from the kernel.
pub(crate) fn entropy() -> Entropy {
    Box::new(|mut bytes: &mut [u8]| {
        while !bytes.is_empty() {
            let filled =
                rustix::rand::getrandom(&mut *bytes, rustix::rand::GetRandomFlags::empty())
                    .expect("the kernel has random numbers once it has started");
            bytes = &mut bytes[filled..];
        }
    })
}

impl Control {
    /// Something that an iSCSI connection, on whatever core, has to say.
    pub(crate) fn iscsi_event(&mut self, now: Now, id: ConnectionId, event: Event) {
        let Some(place) = self.places.get(&id) else { return };
        let context = ConnectionContext { portal: place.portal, local: place.local };
        self.iscsi.event(now, id, context, event);
    }

    /// Chooses the core for a session that has begun.
    pub(crate) fn place_session(&mut self, id: ConnectionId, kind: SessionKind) -> u16 {
        let tsih = self.iscsi.session(id).map_or(0, |session| session.tsih);
        let place = self.places.get_mut(&id).expect("placed while it is open");
        place.role = Some((tsih, 0));
        match kind {
            SessionKind::Discovery => 0,
            SessionKind::Normal => self.choose_core(id),
        }
    }

    /// Turns the target's actions into orders for cores. As with NVMe, what comes after a new
    /// snapshot of units waits until every core concerned has it.
    pub(super) fn take_iscsi_actions(&mut self) {
        loop {
            let action = match self.held_iscsi.take() {
                Some(action) => action,
                None => match self.iscsi.take_action() {
                    Some(action) => action,
                    None => return,
                },
            };
            let is_units = matches!(action, Action::Order(_, Order::Units(..)));
            if self.unsettled > 0 && !is_units {
                self.held_iscsi = Some(action);
                return;
            }
            let (id, message) = match action {
                Action::Order(connection, order) => {
                    (connection, Message::Order { connection, order: Box::new(order) })
                }
                Action::Close(connection) => (connection, Message::Close(connection)),
                Action::Reserve { volume, who, order, token } => {
                    self.reserve_for_iscsi(volume, &who, &order, token);
                    continue;
                }
            };
            let Some(place) = self.places.get(&id) else { continue };
            self.unsettled += u32::from(is_units);
            let core = place.core;
            self.order(core, message);
        }
    }

    /// Gives an order of an initiator to the table of a volume. It lasts as long as the node runs.
    fn reserve_for_iscsi(
        &mut self,
        volume: VolumeIndex,
        who: &Registrant,
        order: &reservations::Order,
        token: u64,
    ) {
        let mut table = Table::clone(self.reserved.entry(volume).or_default());
        match table.apply(who, order) {
            Err(refusal) => self.iscsi.reservation_result(token, Err(refusal.into()), &[]),
            Ok(outcome) => {
                let table = Arc::new(table);
                self.reserved.insert(volume, table.clone());
                self.iscsi.set_reservations(volume, &table, &outcome.notices);
                self.iscsi.reservation_result(token, Ok(()), &outcome.aborts);
            }
        }
    }

    /// Shows a volume to initiators.
    pub(super) fn export_unit(&mut self, name: &str) -> Result<(), ConfigError> {
        let volume = &self.jobs.volumes[name];
        let unit = UnitConfig {
            volume: volume.index,
            uuid: *volume.record.uuid.as_bytes(),
            name: name.to_owned(),
            capacity: volume.record.size,
            block_shift: volume.record.block_size.trailing_zeros() as u8,
            read_only: volume.record.is_protected,
        };
        self.iscsi.add_unit(lun(volume), unit)
    }

    /// Lets an initiator log in, or no more; `*` is every one.
    pub(super) fn set_initiator(
        &mut self,
        name: &str,
        credentials: Option<Credentials>,
    ) -> Result<(), ConfigError> {
        match (name, credentials) {
            ("*", credentials) => self.iscsi.set_allow_any(credentials.is_some()),
            (name, Some(credentials)) => self.iscsi.allow(IscsiName::new(name)?, credentials)?,
            (name, None) => self.iscsi.deny(&IscsiName::new(name)?),
        }
        Ok(())
    }

    /// Begins to end the node, after initiators have been asked to log out.
    pub(super) fn drain(&mut self, answer: Sender<Outcome>) {
        if self.draining.is_some() || self.is_stopping() {
            return self.stop(answer);
        }
        self.iscsi.drain();
        self.draining = Some(Draining { answer, until: None });
    }

    /// Goes on to stop once nobody is left, or time is up. Returns whether it did.
    pub(super) fn advance_drain(&mut self, now: Now) -> bool {
        let Some(draining) = &mut self.draining else { return false };
        let until = *draining.until.get_or_insert(now + DRAIN_MAX);
        if self.iscsi.sessions() > 0 && now < until {
            return false;
        }
        let draining = self.draining.take().expect("looked at above");
        self.stop(draining.answer);
        true
    }

    /// When [`Control::advance_drain`] has something to do.
    pub(super) fn drain_deadline(&self) -> Option<Now> {
        self.draining.as_ref().map(|draining| draining.until.unwrap_or(Now::ZERO))
    }
}

/// The number of a volume's unit.
pub(super) fn lun(volume: &Volume) -> u16 {
    assert!(volume.record.nsid > 0, "namespaces are numbered from 1");
    (volume.record.nsid - 1) as u16
}
