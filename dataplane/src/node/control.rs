//! The node's control on its first core: the target, the places of connections, and the orders that
//! follow from what the target and the operator want.
//!
//! Control never waits: it answers from what it knows, or starts a job (see [`super::jobs`]) that
//! goes on when shards and cores have answered.

use super::commands::Call;
use super::drains::Drains;
use super::iscsi::Leaving;
use super::jobs::Jobs;
use super::registry::Registry;
use super::reservations::Asker;
use super::space::SpaceWatch;
use super::{ConnectionInfo, EventLog};
use crate::core::{Message, ShardCommand, ShardReply};
use crate::frontend::ProtocolKind;
use crate::net::ListenerId;
use crate::volume::ShardAddress;
use crossbeam_channel::Receiver;
use hashbrown::HashMap;
use iscsi_target::target as iscsi;
use nvmeof_target::seam::{Action, CommandErrors, Event, Reply, Role};
use nvmeof_target::target::{ConnectionContext, Nqn, PortId, Target};
use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use target_io::{ConnectionId, Now, VolumeIndex};

/// One disk of the node.
pub(crate) struct DiskState {
    pub(crate) path: String,
    /// Its identity, if it could be read.
    pub(crate) uuid: Option<uuid::Uuid>,
    /// How it journals, if that could be read.
    pub(crate) mode: Option<&'static str>,
    /// Its shards in the order of the disk; none while it is offline.
    pub(crate) shards: Arc<[ShardAddress]>,
    /// Why it is not served, if it is not: nothing is asked of it then.
    pub(crate) offline: Option<String>,
}

/// What control starts from.
pub(crate) struct ControlParts {
    pub(crate) target: Target,
    pub(crate) subsystem: Nqn,
    pub(crate) iscsi: iscsi::Target,
    /// Portals by their number, and what they speak.
    pub(crate) listeners: HashMap<ListenerId, (u16, ProtocolKind)>,
    pub(crate) disks: Vec<DiskState>,
    pub(crate) cores: u16,
    pub(crate) connections_max: usize,
    pub(crate) inbox: Receiver<Call>,
    pub(crate) events: EventLog,
    pub(crate) registry: Registry,
}

/// See the module.
pub(crate) struct Control {
    pub(crate) target: Target,
    pub(crate) subsystem: Nqn,
    pub(super) iscsi: iscsi::Target,
    pub(crate) disks: Vec<DiskState>,
    pub(crate) cores: u16,
    pub(crate) events: EventLog,
    pub(crate) registry: Registry,
    pub(super) jobs: Jobs,
    pub(super) listeners: HashMap<ListenerId, (u16, ProtocolKind)>,
    pub(super) places: HashMap<ConnectionId, Place>,
    next_connection: u64,
    pub(super) connections_max: usize,
    /// I/O queues and sessions on each core.
    load: Vec<u32>,
    orders: VecDeque<(u16, Message)>,
    /// Connections that have not yet taken over new namespaces or units: the targets' later actions
    /// wait.
    pub(super) unsettled: u32,
    is_ready: bool,
    /// When the target is to have new figures of the node's health.
    next_health: Now,
    space: SpaceWatch,
    /// When initiators are to be told again what their units use.
    pub(super) next_usage: Now,
    /// Actions that wait for them, in order.
    pub(super) held: VecDeque<Held>,
    pub(super) drains: Drains,
    pub(super) leaving: Option<Leaving>,
    inbox: Receiver<Call>,
}

/// What waits until every core has taken over new namespaces and units.
pub(super) enum Held {
    /// An action of the NVMe target.
    Target(Action),
    /// An action of the iSCSI target.
    Iscsi(iscsi::Action),
    /// A connection whose requests to a volume are to end.
    Drain { connection: ConnectionId, volume: VolumeIndex, token: u64 },
}

/// Part of all connections that one address may have open without a Connect that succeeded: who
/// never says who he is shall not keep others out.
const STRANGERS_SHARE: usize = 8;
/// As many are allowed in any case.
const STRANGERS_MIN: usize = 16;

/// How old the figures of the health log may be.
const HEALTH_PERIOD: Now = Now::from_secs(1);

/// Where a connection is served.
pub(super) struct Place {
    /// Where it is now.
    pub(super) core: u16,
    /// The core on whose load it counts: where it is, or will be.
    load: Option<u16>,
    /// What it speaks.
    protocol: ProtocolKind,
    /// Number of its portal, and the address by which the host reached that.
    pub(super) portal: u16,
    pub(super) local: IpAddr,
    peer: SocketAddr,
    /// Controller and queue; of an iSCSI session, its handle and 0.
    pub(super) role: Option<(u16, u16)>,
}

impl Control {
    pub(crate) fn new(parts: ControlParts) -> Self {
        Self {
            target: parts.target,
            subsystem: parts.subsystem,
            iscsi: parts.iscsi,
            disks: parts.disks,
            cores: parts.cores,
            events: parts.events,
            registry: parts.registry,
            jobs: Jobs::default(),
            listeners: parts.listeners,
            places: HashMap::new(),
            next_connection: 1,
            connections_max: parts.connections_max,
            load: vec![0; usize::from(parts.cores)],
            orders: VecDeque::new(),
            unsettled: 0,
            is_ready: false,
            next_health: Now::ZERO,
            space: SpaceWatch::default(),
            next_usage: Now::ZERO,
            held: VecDeque::new(),
            drains: Drains::default(),
            leaving: None,
            inbox: parts.inbox,
        }
    }

    /// Commands of the operator, deadlines and actions of the target. Returns whether there were
    /// any.
    pub(crate) fn poll(&mut self, now: Now) -> bool {
        let mut worked = false;
        while let Ok(call) = self.inbox.try_recv() {
            worked = true;
            self.start(call);
        }
        // Hosts are put off until every volume is there: Linux drops namespaces that it misses.
        if !self.is_ready && !self.is_loading() {
            self.is_ready = true;
            self.target.set_ready();
            self.iscsi.set_ready();
        }
        if now >= self.next_health {
            self.next_health = now + HEALTH_PERIOD;
            self.target.set_health(self.registry.health(now));
            let events = &self.events;
            let mut note = |severity, kind: &str, text| events.note(severity, kind, text);
            for disk in self.space.see(now, &self.registry.rooms(), &mut note) {
                self.warn_initiators(disk);
            }
            self.refresh_usage(now);
        }
        if self.target.deadline().is_some_and(|deadline| deadline <= now) {
            worked = true;
            self.target.on_deadline(now);
        }
        worked |= self.advance_leaving(now);
        self.take_actions();
        worked || !self.orders.is_empty()
    }

    /// When [`Control::poll`] has something to do by itself.
    pub(crate) fn deadline(&self) -> Option<Now> {
        if !self.orders.is_empty() || (self.unsettled == 0 && !self.held.is_empty()) {
            return Some(Now::ZERO);
        }
        let timers = [self.target.deadline(), self.leaving_deadline(), Some(self.next_health)];
        timers.into_iter().flatten().min()
    }

    /// The next message that a core is to have.
    pub(crate) fn take_order(&mut self) -> Option<(u16, Message)> {
        self.orders.pop_front()
    }

    /// A host has connected: its connection's number, and what it speaks; `None` to refuse.
    pub(crate) fn accept(
        &mut self,
        listener: ListenerId,
        peer: SocketAddr,
        local: SocketAddr,
    ) -> Option<(ConnectionId, ProtocolKind)> {
        if self.is_stopping() || self.places.len() >= self.connections_max {
            return None;
        }
        let is_stranger =
            |place: &&Place| place.role.is_none() && network(place.peer.ip()) == network(peer.ip());
        let strangers_max = (self.connections_max / STRANGERS_SHARE).max(STRANGERS_MIN);
        if self.places.values().filter(is_stranger).count() >= strangers_max {
            return None;
        }
        let &(portal, protocol) = self.listeners.get(&listener)?;
        let local = local.ip();
        let id = ConnectionId(self.next_connection);
        self.next_connection += 1;
        let place = Place { core: 0, load: None, protocol, portal, local, peer, role: None };
        self.places.insert(id, place);
        Some((id, protocol))
    }

    /// Chooses the core for a connection whose Connect succeeded.
    pub(crate) fn place(&mut self, id: ConnectionId, role: &Role) -> u16 {
        let (Role::Admin(queue) | Role::Io(queue, _)) = role;
        let place = self.places.get_mut(&id).expect("placed while it is open");
        place.role = Some((queue.association.controller_id, queue.queue_id));
        if matches!(role, Role::Admin(_)) {
            return 0;
        }
        self.choose_core(id)
    }

    /// The core with the least to do, which the connection then counts on.
    pub(super) fn choose_core(&mut self, id: ConnectionId) -> u16 {
        let core = (0..self.cores).min_by_key(|&core| self.load[usize::from(core)]).unwrap_or(0);
        self.load[usize::from(core)] += 1;
        self.places.get_mut(&id).expect("placed while it is open").load = Some(core);
        core
    }

    /// The connection has left for its core: later orders follow it there.
    pub(crate) fn moved(&mut self, id: ConnectionId, core: u16) {
        self.places.get_mut(&id).expect("moved while it is open").core = core;
    }

    /// A command of a connection on this core.
    pub(crate) fn event(&mut self, now: Now, id: ConnectionId, event: Event) -> Option<Reply> {
        let place = self.places.get(&id)?;
        let context = ConnectionContext { port: PortId(place.portal), local: place.local };
        let (is_queue, slot) = (place.role.is_some(), event.slot);
        self.collect_actions();
        let reply = self.target.event(now, id, context, event)?;
        if !is_queue || (self.unsettled == 0 && self.held.is_empty()) {
            return Some(reply);
        }
        // It may tell of namespaces that not every core has yet.
        self.held.push_back(Held::Target(Action::Reply(id, slot, reply)));
        None
    }

    /// A command of a connection on another core.
    pub(crate) fn remote_event(&mut self, now: Now, id: ConnectionId, event: Event) {
        let slot = event.slot;
        let Some(core) = self.places.get(&id).map(|place| place.core) else { return };
        if let Some(reply) = self.event(now, id, event) {
            self.orders.push_back((core, Message::Reply { connection: id, slot, reply }));
        }
    }

    /// Commands of a connection completed with errors.
    pub(crate) fn note_errors(&mut self, id: ConnectionId, errors: &CommandErrors) {
        self.target.note_errors(id, errors);
    }

    /// A connection is closed and drained.
    pub(crate) fn closed(&mut self, now: Now, id: ConnectionId) {
        if let Some(place) = self.places.remove(&id) {
            if let Some(core) = place.load {
                self.load[usize::from(core)] -= 1;
            }
            match place.protocol {
                ProtocolKind::Nvme => self.target.closed(now, id),
                ProtocolKind::Iscsi => self.iscsi.closed(id),
            }
        }
    }

    /// An answer of a core.
    pub(crate) fn on_message(&mut self, message: Message, now: Now) {
        match message {
            Message::Closed(id) => self.closed(now, id),
            Message::Errors { connection, errors } => self.note_errors(connection, &errors),
            Message::NamespacesSet => self.unsettled -= 1,
            Message::Aborted { token, aborted } => self.target.abort_result(token, aborted),
            Message::Drained { token } => self.drained(token),
            Message::Shard { token, reply } => self.job_step(token, reply),
            Message::Landed { token, core, shards } => {
                let landed = self.jobs.landed.entry(token).or_default();
                landed.extend(shards.into_iter().map(|shard| (core, shard)));
                self.job_step(token, ShardReply::Changed(Ok(())));
            }
            Message::Quiet => self.job_step(super::jobs::STOP_TOKEN, ShardReply::Changed(Ok(()))),
            Message::Settled { clean } => {
                let result = if clean { Ok(()) } else { Err(crate::store::Error::Failed) };
                self.job_step(super::jobs::STOP_TOKEN, ShardReply::Changed(result));
            }
            _ => unreachable!("only answers come to control"),
        }
    }

    /// Gives an order to a core.
    pub(super) fn order(&mut self, core: u16, message: Message) {
        self.orders.push_back((core, message));
    }

    /// Gives a shard a management command; answered by a step of job `token`.
    pub(super) fn command(&mut self, address: ShardAddress, token: u64, command: ShardCommand) {
        self.order(address.core, Message::Command { shard: address.shard, token, command });
    }

    /// Connections, for people.
    pub(super) fn connections(&self) -> Vec<ConnectionInfo> {
        let mut list: Vec<_> = self
            .places
            .iter()
            .map(|(id, place)| ConnectionInfo {
                id: id.0,
                peer: place.peer.to_string(),
                host: self.host_of(*id),
                protocol: match place.protocol {
                    ProtocolKind::Nvme => "nvme".to_owned(),
                    ProtocolKind::Iscsi => "iscsi".to_owned(),
                },
                controller: place.role.map(|(controller, _)| controller),
                queue: place.role.map(|(_, queue)| queue),
                core: usize::from(place.core),
            })
            .collect();
        list.sort_by_key(|connection| connection.id);
        list
    }

    fn host_of(&self, id: ConnectionId) -> String {
        let queue = self.target.queue(id).map(|queue| queue.host.to_string());
        let session = || self.iscsi.session(id).map(|session| session.initiator);
        queue.or_else(session).unwrap_or_default()
    }

    /// Turns the targets' actions into orders. Actions after new namespaces or units wait until
    /// every core has those, so that no host hears of a change before its I/O queues know it.
    fn take_actions(&mut self) {
        self.collect_actions();
        while let Some(held) = self.held.pop_front() {
            if self.unsettled > 0 && !held.is_update() {
                self.held.push_front(held);
                break;
            }
            match held {
                Held::Target(action) => self.obey(action),
                Held::Iscsi(action) => self.obey_iscsi(action),
                Held::Drain { connection, volume, token } => {
                    self.send_drain(connection, volume, token);
                }
            }
            self.collect_actions();
        }
    }

    fn obey(&mut self, action: Action) {
        let (id, message) = match action {
            Action::ProtectNamespace { subsystem, namespace, protect, token } => {
                assert!(subsystem == self.subsystem, "the node has one subsystem");
                return self.protect_volume(namespace.0, protect, token);
            }
            Action::Reserve { volume, who, order, token } => {
                return self.reserve(volume, Asker::Nvme(token), who, order);
            }
            Action::Reply(id, slot, reply) => (id, Message::Reply { connection: id, slot, reply }),
            Action::Close(id) => (id, Message::Close(id)),
            Action::SetNamespaces(id, namespaces) => (id, Message::SetNamespaces(id, namespaces)),
            Action::Abort { connection, command_id, token } => {
                (connection, Message::Abort { connection, command_id, token })
            }
        };
        let Some(core) = self.core_of(id) else { return };
        if matches!(message, Message::SetNamespaces(..)) {
            self.unsettled += 1;
        }
        self.orders.push_back((core, message));
    }

    /// Where a connection is served, while it is open.
    pub(super) fn core_of(&self, id: ConnectionId) -> Option<u16> {
        self.places.get(&id).map(|place| place.core)
    }

    /// Puts what the targets want behind what waits.
    pub(super) fn collect_actions(&mut self) {
        while let Some(action) = self.target.take_action() {
            self.held.push_back(Held::Target(action));
        }
        while let Some(action) = self.iscsi.take_action() {
            self.held.push_back(Held::Iscsi(action));
        }
    }
}

impl Held {
    /// Whether cores get new namespaces or units by it.
    fn is_update(&self) -> bool {
        use iscsi_target::seam::Order;
        matches!(
            self,
            Self::Target(Action::SetNamespaces(..))
                | Self::Iscsi(iscsi::Action::Order(_, Order::Units(..)))
        )
    }
}

/// What stands for one host: an address, or of IPv6 the half that one host may have all of.
fn network(address: IpAddr) -> u128 {
    const SUBNET: u128 = !0 << 64;
    match address.to_canonical() {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits() & SUBNET,
    }
}
