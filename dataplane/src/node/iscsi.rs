//! Control's part of iSCSI: its target's events and actions, sessions and their cores, and
//! that initiators log out before the node stops.

use super::control::Control;
use super::jobs::{Outcome, Volume};
use super::reservations::Asker;
use super::{CommandError, Redirect, Severity};
use crate::core::Message;
use crate::frontend::ProtocolKind;
use crossbeam_channel::Sender;
use iscsi_target::scsi::control::UnitConfig;
use iscsi_target::seam::{Event, Order, SessionKind};
use iscsi_target::target::{
    self as protocol, Action, ConfigError, ConnectionContext, Credentials, Entropy, IscsiName,
};
use target_io::{ConnectionId, Now};

/// How long initiators have to log out before the node stops.
const LEAVING_MAX: Now = Now::from_secs(3);

/// A stop that waits for initiators to log out.
pub(super) struct Leaving {
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

    /// Turns an action of the target into orders for cores.
    pub(super) fn obey_iscsi(&mut self, action: Action) {
        let (id, message) = match action {
            Action::Order(connection, order) => {
                (connection, Message::Order { connection, order: Box::new(order) })
            }
            Action::Close(connection) => (connection, Message::Close(connection)),
            Action::Reserve { volume, who, order, token } => {
                return self.reserve(volume, Asker::Iscsi(token), who, order);
            }
        };
        let Some(core) = self.core_of(id) else { return };
        if matches!(&message, Message::Order { order, .. } if matches!(**order, Order::Units(..))) {
            self.unsettled += 1;
        }
        self.order(core, message);
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

    /// Sends initiators that log in to another portal from now on, or no more; those that are
    /// there are asked to log out.
    pub(super) fn redirect_initiators(&mut self, to: Option<Redirect>) -> Result<(), CommandError> {
        if let Some(Redirect { to, .. }) = to
            && (to.ip().is_unspecified() || to.port() == 0)
        {
            let text = format!("{to} is nowhere to go: give an address of a portal, and its port");
            return Err(CommandError::Invalid(text));
        }
        let serves = self.listeners.values().any(|(_, protocol)| *protocol == ProtocolKind::Iscsi);
        if to.is_some() && !serves {
            let text = "the node has no iSCSI portal from which anybody could be sent elsewhere";
            return Err(CommandError::Invalid(text.into()));
        }
        self.iscsi.redirect(
            to.map(|Redirect { to, permanent }| protocol::Redirect { to, is_permanent: permanent }),
        );
        let text = match to {
            Some(Redirect { to, .. }) => format!("initiators that log in are sent to {to}"),
            None => "initiators that log in are served here".to_owned(),
        };
        self.events.note(Severity::Info, "iscsi.redirect", text);
        Ok(())
    }

    /// Where initiators are sent.
    pub(super) fn redirected(&self) -> Option<Redirect> {
        let redirect = self.iscsi.redirected()?;
        Some(Redirect { to: redirect.to, permanent: redirect.is_permanent })
    }

    /// Begins to end the node, after initiators have been asked to log out.
    pub(super) fn leave(&mut self, answer: Sender<Outcome>) {
        if self.is_stopping() || self.iscsi.sessions() == 0 {
            return self.stop(answer);
        }
        self.iscsi.drain();
        self.leaving = Some(Leaving { answer, until: None });
    }

    /// Goes on to stop once nobody is left, or time is up. Returns whether it did.
    pub(super) fn advance_leaving(&mut self, now: Now) -> bool {
        let Some(leaving) = &mut self.leaving else { return false };
        let until = *leaving.until.get_or_insert(now + LEAVING_MAX);
        if self.iscsi.sessions() > 0 && now < until {
            return false;
        }
        let leaving = self.leaving.take().expect("looked at above");
        self.stop(leaving.answer);
        true
    }

    /// When [`Control::advance_leaving`] has something to do.
    pub(super) fn leaving_deadline(&self) -> Option<Now> {
        self.leaving.as_ref().map(|leaving| leaving.until.unwrap_or(Now::ZERO))
    }
}

/// The number of a volume's unit.
pub(super) fn lun(volume: &Volume) -> u16 {
    assert!(volume.record.nsid > 0, "namespaces are numbered from 1");
    (volume.record.nsid - 1) as u16
}
