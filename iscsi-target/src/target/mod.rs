//! The iSCSI target of a node: who logs in, what sessions there are, what they share.
//!
//! It answers the [`Event`]s of connections with [`Action`]s. Nothing in it waits: what takes time
//! (tasks that end, an old session that drains) comes back as an event or a call. Sessions of one
//! initiator port, which is a name and an ISID, replace each other: the new one begins when the old
//! one's connection is closed and drained.

mod chap;
pub mod config;
mod discovery;
mod keys;
mod login;
mod management;
#[cfg(test)]
mod tests;

pub use config::{ConfigError, Credentials, IscsiName, Portal, Secret};
pub use keys::Terms;

use crate::io::{Now, VolumeIndex};
use crate::scsi::control::{Device, DeviceConfig, Effect, Nexus, Port, UnitConfig, Usage};
use crate::scsi::{Attention, Lun};
use crate::seam::{ConnectionId, Event, LoginReply, Message, Order, SessionKind, Slot};
use login::{Judge, Names, Negotiation, Outcome};
use management::Resets;
use reservations::{Failure, Notify, Registrant, Table};
use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use storage_spec::iscsi::{AsyncEvent, LoginFlags, LoginRequest, LoginStatus};

/// Most normal sessions at once.
pub const SESSIONS_MAX: usize = 4096;

/// The one portal group: every portal leads to every unit.
pub const PORTAL_GROUP: u16 = 1;

/// How long initiators have to log out when they are asked to, in seconds.
const LOGOUT_SECONDS: u16 = 10;

/// What fills bytes with what nobody can foresee.
pub type Entropy = Box<dyn FnMut(&mut [u8]) + Send>;

/// How a target begins.
#[derive(Debug, Clone)]
pub struct TargetConfig {
    /// Its name.
    pub name: IscsiName,
    /// What it is called by people.
    pub alias: String,
    /// What it wants of every session.
    pub terms: Terms,
    /// Most data that connections take in one PDU.
    pub receive_max: u32,
}

/// Where all who log in are to go instead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Redirect {
    /// An address as initiators see it. If it leads to a portal of this target, who comes in there
    /// is served.
    pub to: SocketAddr,
    /// Whether initiators may remember it.
    pub is_permanent: bool,
}

impl Redirect {
    fn status(self) -> LoginStatus {
        match self.is_permanent {
            true => LoginStatus::MovedPermanently,
            false => LoginStatus::MovedTemporarily,
        }
    }
}

/// Where a connection came in.
#[derive(Debug, Clone, Copy)]
pub struct ConnectionContext {
    /// Number of the portal.
    pub portal: u16,
    /// Address by which the initiator reached it.
    pub local: IpAddr,
}

/// What the target wants done.
#[derive(Debug)]
pub enum Action {
    /// Give a connection an order. An [`Order::Units`] is to be taken before any later action is
    /// carried out.
    Order(ConnectionId, Order),
    /// Close a connection; its requests in flight are drained first, then [`Target::closed`] is
    /// called.
    Close(ConnectionId),
    /// Give this order to the volume's reservation table, keep the table over restarts if it says
    /// so, tell every target of what changed ([`Target::set_reservations`]), end the commands of
    /// who was preempted; then say by [`Target::reservation_result`] what came of it, with the same
    /// token.
    Reserve {
        /// The volume.
        volume: VolumeIndex,
        /// Whose order it is.
        who: Registrant,
        /// The order.
        order: reservations::Order,
        /// Returned with the result.
        token: u64,
    },
}

/// See the module.
pub struct Target {
    config: TargetConfig,
    entropy: Entropy,
    device: Device,
    portals: Vec<Portal>,
    /// Who may log in.
    initiators: BTreeMap<IscsiName, Credentials>,
    allows_any: bool,
    is_ready: bool,
    is_draining: bool,
    redirect: Option<Redirect>,
    logins: BTreeMap<ConnectionId, Negotiation>,
    sessions: BTreeMap<ConnectionId, Session>,
    next_tsih: u16,
    resets: Resets,
    actions: VecDeque<Action>,
}

/// A session.
#[derive(Debug)]
struct Session {
    names: Names,
    tsih: u16,
    context: ConnectionContext,
    /// What is to be said when its predecessor has gone.
    waiting: Option<Box<(Outcome, crate::seam::SessionParameters)>>,
}

/// A session, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionInfo {
    /// Its initiator.
    pub initiator: String,
    /// Its handle.
    pub tsih: u16,
    /// What it is for.
    pub kind: SessionKind,
}

impl core::fmt::Debug for Target {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Target").field("config", &self.config).finish_non_exhaustive()
    }
}

/// What the operator does.
impl Target {
    /// A target that has no unit and lets nobody in.
    #[must_use]
    pub fn new(config: TargetConfig, entropy: Entropy) -> Self {
        let device = Device::new(DeviceConfig {
            name: config.name.to_string(),
            product: "Basalt".into(),
            revision: env!("CARGO_PKG_VERSION")[..3].into(),
            ports: vec![Port { tag: PORTAL_GROUP, relative: 1 }],
        });
        Self {
            config,
            entropy,
            device,
            portals: Vec::new(),
            initiators: BTreeMap::new(),
            allows_any: false,
            is_ready: false,
            is_draining: false,
            redirect: None,
            logins: BTreeMap::new(),
            sessions: BTreeMap::new(),
            next_tsih: 1,
            resets: Resets::default(),
            actions: VecDeque::new(),
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &IscsiName {
        &self.config.name
    }

    /// Everything is configured: normal sessions may begin.
    pub fn set_ready(&mut self) {
        self.is_ready = true;
    }

    /// Adds a portal.
    pub fn add_portal(&mut self, portal: Portal) {
        self.portals.push(portal);
    }

    /// Sends all who log in from now on elsewhere, and asks those to log out who are not there
    /// already; `None`: no more.
    pub fn redirect(&mut self, to: Option<Redirect>) {
        self.redirect = to;
        let Some(Redirect { to, .. }) = to else { return };
        for connection in self.normal() {
            if !self.is_at(self.sessions[&connection].context, to) {
                self.ask_to_leave(connection);
            }
        }
    }

    /// Where all who log in are sent.
    #[must_use]
    pub fn redirected(&self) -> Option<Redirect> {
        self.redirect
    }

    /// Lets an initiator log in, with these credentials from now on.
    ///
    /// # Errors
    /// [`ConfigError::Full`], [`ConfigError::Secret`].
    pub fn allow(
        &mut self,
        initiator: IscsiName,
        credentials: Credentials,
    ) -> Result<(), ConfigError> {
        credentials.check()?;
        let is_new = !self.initiators.contains_key(&initiator);
        if is_new && self.initiators.len() >= config::INITIATORS_MAX {
            return Err(ConfigError::Full);
        }
        self.initiators.insert(initiator, credentials);
        Ok(())
    }

    /// Lets an initiator log in no more, and ends its sessions unless all may come.
    pub fn deny(&mut self, initiator: &IscsiName) {
        self.initiators.remove(initiator);
        self.close_denied();
    }

    /// Lets every initiator log in, without proof, that is not named.
    pub fn set_allow_any(&mut self, allows_any: bool) {
        self.allows_any = allows_any;
        self.close_denied();
    }

    /// Adds a unit.
    ///
    /// # Errors
    /// [`ConfigError::LunInUse`].
    pub fn add_unit(&mut self, lun: u16, unit: UnitConfig) -> Result<(), ConfigError> {
        if !self.device.add(Lun(lun), unit) {
            return Err(ConfigError::LunInUse(lun));
        }
        self.carry_effects();
        self.tell_all(Attention::ReportedLunsChanged);
        Ok(())
    }

    /// Removes a unit; commands under way end by themselves.
    ///
    /// # Errors
    /// [`ConfigError::NoLun`].
    pub fn remove_unit(&mut self, lun: u16) -> Result<(), ConfigError> {
        if !self.device.remove(Lun(lun)) {
            return Err(ConfigError::NoLun(lun));
        }
        self.carry_effects();
        self.tell_all(Attention::ReportedLunsChanged);
        Ok(())
    }

    /// A unit has another capacity in bytes.
    ///
    /// # Errors
    /// [`ConfigError::NoLun`].
    pub fn resize_unit(&mut self, lun: u16, capacity: u64) -> Result<(), ConfigError> {
        if !self.device.resize(Lun(lun), capacity) {
            return Err(ConfigError::NoLun(lun));
        }
        self.carry_effects();
        self.tell(Lun(lun), Attention::CapacityChanged);
        Ok(())
    }

    /// Whether a unit may be written to is another.
    ///
    /// # Errors
    /// [`ConfigError::NoLun`].
    pub fn protect_unit(&mut self, lun: u16, read_only: bool) -> Result<(), ConfigError> {
        if !self.device.protect(Lun(lun), read_only) {
            return Err(ConfigError::NoLun(lun));
        }
        self.carry_effects();
        Ok(())
    }

    /// What a unit's volume uses of its disk.
    pub fn set_usage(&mut self, lun: u16, usage: Usage) {
        self.device.set_usage(Lun(lun), usage);
    }

    /// Space for a unit runs out: all initiators are told.
    pub fn warn_of_space(&mut self, lun: u16) {
        self.device.warn_of_space(Lun(lun));
        self.carry_effects();
        self.tell(Lun(lun), Attention::ThinProvisioningThreshold);
    }

    /// Asks every initiator to log out; no new session begins.
    pub fn drain(&mut self) {
        self.is_draining = true;
        for connection in self.normal() {
            self.ask_to_leave(connection);
        }
    }

    /// Sessions that there are.
    #[must_use]
    pub fn sessions(&self) -> usize {
        self.sessions.len()
    }

    /// What a connection has become, if it has logged in.
    #[must_use]
    pub fn session(&self, connection: ConnectionId) -> Option<SessionInfo> {
        let session = self.sessions.get(&connection)?;
        Some(SessionInfo {
            initiator: session.names.initiator.to_string(),
            tsih: session.tsih,
            kind: session.names.kind,
        })
    }

    fn ask_to_leave(&mut self, connection: ConnectionId) {
        let message = Message {
            event: AsyncEvent::RequestLogout,
            lun: Lun(0),
            parameters: [0, 0, LOGOUT_SECONDS],
            attention: None,
        };
        self.actions.push_back(Action::Order(connection, Order::Message(message)));
    }

    fn close_denied(&mut self) {
        for (connection, session) in &self.sessions {
            if !self.allows_any && !self.initiators.contains_key(&session.names.initiator) {
                self.actions.push_back(Action::Close(*connection));
            }
        }
    }

    /// Connections of normal sessions that have begun.
    fn normal(&self) -> Vec<ConnectionId> {
        let is_normal = |session: &Session| {
            session.waiting.is_none() && session.names.kind == SessionKind::Normal
        };
        self.sessions.iter().filter(|(_, s)| is_normal(s)).map(|(id, _)| *id).collect()
    }

    /// Tells all initiators of a condition of one unit, by message: it is pending already.
    fn tell(&mut self, lun: Lun, attention: Attention) {
        let message = Message {
            event: AsyncEvent::Scsi,
            lun,
            parameters: [0; 3],
            attention: Some(attention),
        };
        for connection in self.normal() {
            self.actions.push_back(Action::Order(connection, Order::Message(message)));
        }
    }

    fn tell_all(&mut self, attention: Attention) {
        self.tell(Lun(0), attention);
    }
}

/// What connections do.
impl Target {
    /// Takes what a connection has to say.
    pub fn event(
        &mut self,
        _now: Now,
        connection: ConnectionId,
        context: ConnectionContext,
        event: Event,
    ) {
        match event {
            Event::Login { header, text } => self.on_login(connection, context, &header, &text),
            Event::Text { slot, text } => {
                let answer = self.send_targets(connection, context, &text);
                self.actions.push_back(Action::Order(connection, Order::Text(slot, answer)));
            }
            Event::Control { slot, command, data } => {
                self.device.execute(connection, slot.0, &command, &data);
                self.carry_effects();
            }
            Event::Management { slot, function, lun } => {
                self.on_management(connection, slot, function, lun);
            }
            Event::Aborted { token } => self.aborted(connection, token),
        }
    }

    /// A connection is closed, and nothing of it is in flight any more.
    pub fn closed(&mut self, connection: ConnectionId) {
        self.logins.remove(&connection);
        self.forget_in_resets(connection);
        let Some(session) = self.sessions.remove(&connection) else { return };
        if session.waiting.is_none() && session.names.kind == SessionKind::Normal {
            self.device.detach(connection);
            self.carry_effects();
        }
        self.begin_waiting(&session.names);
    }

    /// What is to be done next.
    pub fn take_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    fn on_login(
        &mut self,
        connection: ConnectionId,
        context: ConnectionContext,
        header: &LoginRequest,
        text: &[u8],
    ) {
        let mut negotiation = self.logins.remove(&connection).unwrap_or_default();
        let outcome = match self.admit(header) {
            Ok(()) => negotiation.advance(header, text, self),
            Err(status) => Err(status),
        };
        match outcome {
            Err(status) => self.refuse(connection, status, Vec::new()),
            Ok(Outcome { flags, text, done: None }) => {
                self.logins.insert(connection, negotiation);
                let reply = LoginReply {
                    status: LoginStatus::Success,
                    flags,
                    tsih: 0,
                    text,
                    session: None,
                };
                self.actions.push_back(Action::Order(connection, Order::Login(Box::new(reply))));
            }
            Ok(outcome) => self.agree(connection, context, outcome),
        }
    }

    /// What speaks against a login whoever asks.
    fn admit(&self, header: &LoginRequest) -> Result<(), LoginStatus> {
        if self.is_draining {
            return Err(LoginStatus::ServiceUnavailable);
        }
        match header.tsih.get() {
            0 => Ok(()),
            tsih if self.sessions.values().any(|session| session.tsih == tsih) => {
                Err(LoginStatus::TooManyConnections)
            }
            _ => Err(LoginStatus::SessionDoesNotExist),
        }
    }

    fn refuse(&mut self, connection: ConnectionId, status: LoginStatus, text: Vec<u8>) {
        let flags = LoginFlags::new();
        let reply = LoginReply { status, flags, tsih: 0, text, session: None };
        self.actions.push_back(Action::Order(connection, Order::Login(Box::new(reply))));
    }

    /// Everything is agreed on: the session begins when its predecessor has gone.
    fn agree(
        &mut self,
        connection: ConnectionId,
        context: ConnectionContext,
        mut outcome: Outcome,
    ) {
        let (names, parameters) = outcome.done.take().expect("seen by the caller");
        let is_normal = names.kind == SessionKind::Normal;
        if is_normal {
            if !self.is_ready {
                return self.refuse(connection, LoginStatus::ServiceUnavailable, Vec::new());
            }
            let redirect = self.redirect.filter(|redirect| !self.is_at(context, redirect.to));
            if let Some(redirect) = redirect {
                // Without a tag, other than in discovery (RFC 7143, section 13.8).
                let mut text = Vec::new();
                crate::text::push(&mut text, "TargetAddress", &redirect.to.to_string());
                return self.refuse(connection, redirect.status(), text);
            }
        }
        if self.sessions.len() >= SESSIONS_MAX {
            return self.refuse(connection, LoginStatus::OutOfResources, Vec::new());
        }
        if is_normal {
            for (other, session) in &self.sessions {
                if session.is_same_port(&names) {
                    self.actions.push_back(Action::Close(*other));
                }
            }
        }
        let tsih = self.draw_tsih();
        let waiting = Some(Box::new((outcome, parameters)));
        let session = Session { names: names.clone(), tsih, context, waiting };
        self.sessions.insert(connection, session);
        if is_normal {
            self.begin_waiting(&names);
        } else {
            self.begin(connection);
        }
    }

    /// Begins the session of an initiator port that waits, if it is alone.
    fn begin_waiting(&mut self, names: &Names) {
        let mut same = self.sessions.iter().filter(|(_, session)| session.is_same_port(names));
        if let (Some((&connection, _)), None) = (same.next(), same.next()) {
            self.begin(connection);
        }
    }

    /// Begins a session that waits.
    fn begin(&mut self, connection: ConnectionId) {
        let session = self.sessions.get_mut(&connection).expect("it waits");
        let Some(waiting) = session.waiting.take() else { return };
        let (outcome, parameters) = *waiting;
        let (tsih, names) = (session.tsih, session.names.clone());
        let units = if names.kind == SessionKind::Normal {
            let initiator = names.initiator.to_string();
            let nexus = Nexus { initiator, isid: names.isid, tag: PORTAL_GROUP };
            self.device.attach(connection, nexus);
            self.device.units(connection)
        } else {
            Vec::new().into()
        };
        let reply = LoginReply {
            status: LoginStatus::Success,
            flags: outcome.flags,
            tsih,
            text: outcome.text,
            session: Some((parameters, units)),
        };
        self.actions.push_back(Action::Order(connection, Order::Login(Box::new(reply))));
        self.carry_effects();
    }

    fn draw_tsih(&mut self) -> u16 {
        loop {
            let tsih = self.next_tsih;
            self.next_tsih = self.next_tsih.checked_add(1).unwrap_or(1);
            if self.sessions.values().all(|session| session.tsih != tsih) {
                return tsih;
            }
        }
    }

    /// Turns what the device wants into actions: one snapshot for each nexus that needs one, with
    /// all that it is to be told, before what the device wants after it.
    fn carry_effects(&mut self) {
        let mut units: BTreeMap<ConnectionId, Vec<(Lun, Attention)>> = BTreeMap::new();
        while let Some(effect) = self.device.take_effect() {
            match effect {
                Effect::Attention(connection, lun, attention) => {
                    units.entry(connection).or_default().push((lun, attention));
                }
                Effect::Units(connection) => {
                    units.entry(connection).or_default();
                }
                Effect::End(connection, tag, ending) => {
                    self.give_units(&mut units);
                    let order = Order::Control(Slot(tag), ending);
                    self.actions.push_back(Action::Order(connection, order));
                }
                Effect::Reserve { volume, who, order, token } => {
                    self.give_units(&mut units);
                    self.actions.push_back(Action::Reserve { volume, who, order, token });
                }
            }
        }
        self.give_units(&mut units);
    }

    fn give_units(&mut self, units: &mut BTreeMap<ConnectionId, Vec<(Lun, Attention)>>) {
        for (connection, attentions) in core::mem::take(units) {
            let order = Order::Units(self.device.units(connection), attentions);
            self.actions.push_back(Action::Order(connection, order));
        }
    }
}

/// Reservations.
impl Target {
    /// The reservations of a volume are now these, and these registrants are to be told.
    pub fn set_reservations(
        &mut self,
        volume: VolumeIndex,
        table: &Arc<Table>,
        notices: &[Notify],
    ) {
        self.device.set_reservations(volume, table, notices);
        self.carry_effects();
    }

    /// Answers an [`Action::Reserve`].
    ///
    /// # Panics
    /// If the token is not that of an action, or was answered before.
    pub fn reservation_result(&mut self, token: u64, result: Result<(), Failure>) {
        self.device.reservation_result(token, result);
        self.carry_effects();
    }

    /// The connections of a registrant.
    #[must_use]
    pub fn connections_of(&self, who: &Registrant) -> Vec<ConnectionId> {
        self.device.connections_of(who).collect()
    }
}

impl Session {
    fn is_same_port(&self, names: &Names) -> bool {
        self.names.kind == SessionKind::Normal
            && names.kind == SessionKind::Normal
            && self.names.initiator == names.initiator
            && self.names.isid == names.isid
    }
}

impl Judge for Target {
    fn is_target(&self, name: &str) -> bool {
        name.eq_ignore_ascii_case(self.config.name.as_str())
    }

    fn credentials(&self, initiator: &IscsiName) -> Option<Credentials> {
        let known = self.initiators.get(initiator).cloned();
        known.or_else(|| self.allows_any.then(Credentials::default))
    }

    fn entropy(&mut self, bytes: &mut [u8]) {
        (self.entropy)(bytes);
    }

    fn terms(&self) -> Terms {
        self.config.terms
    }

    fn portal_group(&self) -> u16 {
        PORTAL_GROUP
    }

    fn alias(&self) -> &str {
        &self.config.alias
    }

    fn receive_max(&self) -> u32 {
        self.config.receive_max
    }
}
