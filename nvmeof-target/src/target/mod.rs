//! The one target of a node: subsystems, controllers, Connect, properties, admin commands,
//! discovery, events, keep alive.
//!
//! Sans-IO and deterministic: commands, the time and changes of the configuration go in; replies
//! and [`Action`]s come out. Not on the I/O path: I/O queues serve NVM commands themselves.
//!
//! Invariants:
//! - A controller's [`Association`](crate::seam::Association) is disabled before its queues are
//!   closed, so that no queue begins a command that the host has given up.
//! - A controller, its id, and its queue ids are in use until every connection of it has been
//!   drained ([`Target::closed`]): nothing that was in flight can land under a successor.
//! - CSTS tells of a reset or shutdown as done only when every I/O queue has been drained.
//! - New namespaces are handed to the I/O queues before the event that tells the host.
//!
//! Not done here: authentication, namespace management by hosts, NVM subsystem reset
//! (one host would reset every other's controllers), saved features.

mod admin;
mod config;
mod connect;
mod controller;
mod discovery;
mod errors;
mod events;
mod feature;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod identify;
mod log;
mod property;
mod protection;
mod reconfigure;
mod reservation;
mod subsystem;
#[cfg(test)]
mod tests;

pub use config::{
    AllowedHosts, ConfigError, HOSTS_MAX, NamespaceConfig, NamespaceId, Nqn, PORTS_MAX, Port,
    PortId, SUBSYSTEMS_MAX, SubsystemConfig, TargetConfig,
};
pub use log::Health;

use crate::io::Now;
use crate::seam::{Action, CommandErrors, ConnectionId, Event, Reply, Slot};
use controller::{Controller, ControllerKey, Kind};
use core::net::IpAddr;
use std::collections::{BTreeMap, VecDeque};
use storage_spec::fabrics::{CONTROLLER_ID_MAX, FabricsType};
use storage_spec::nvme::command::{Command, FABRICS_OPCODE};
use storage_spec::nvme::status::Status;
use subsystem::{ControllerIds, Subsystem};
use zerocopy::FromBytes;

/// Where a connection came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectionContext {
    /// The port that accepted it.
    pub port: PortId,
    /// Our address, as the host sees it.
    pub local: IpAddr,
}

/// A queue, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueInfo {
    /// The host.
    pub host: Nqn,
    /// The subsystem that it connected to.
    pub subsystem: Nqn,
    /// The controller.
    pub controller_id: u16,
    /// 0 for the admin queue.
    pub queue_id: u16,
}

/// See the [module](self).
#[derive(Debug)]
pub struct Target {
    config: TargetConfig,
    ready: bool,
    subsystems: BTreeMap<Nqn, Subsystem>,
    ports: BTreeMap<PortId, Port>,
    discovery_ids: ControllerIds,
    generations: discovery::Generations,
    controllers: BTreeMap<ControllerKey, Controller>,
    next_key: u64,
    queues: BTreeMap<ConnectionId, QueueRef>,
    /// Connects that wait for the end of a queue.
    waiting: Vec<connect::WaitingConnect>,
    aborts: BTreeMap<u64, PendingAbort>,
    next_abort: u64,
    protections: BTreeMap<u64, protection::PendingProtection>,
    next_protection: u64,
    reserves: BTreeMap<u64, reservation::PendingReserve>,
    next_reserve: u64,
    health: Health,
    actions: VecDeque<Action>,
    /// Nothing ends by time before this, or at all if `None`.
    deadline: Option<Now>,
}

/// What a connection is.
#[derive(Debug, Clone, Copy)]
struct QueueRef {
    controller: ControllerKey,
    queue_id: u16,
}

/// An Abort that waits to hear from the queue of its command.
#[derive(Debug)]
struct PendingAbort {
    controller: ControllerKey,
    slot: Slot,
    /// The connection that was asked.
    asked: ConnectionId,
}

impl Target {
    /// A target without subsystems and ports. Connects are put off until [`Target::set_ready`].
    ///
    /// # Panics
    /// If a limit of `config` is out of its range.
    #[must_use]
    pub fn new(config: TargetConfig) -> Self {
        assert!(config.queue_entries_max >= 32, "the admin queue has 32 entries (ASQSZ)");
        assert!(config.io_queues_max >= 1);
        assert!(config.in_capsule_max.is_multiple_of(16));
        let discovery_ids = ControllerIds::new(1, CONTROLLER_ID_MAX, config.seed);
        let generations = discovery::Generations::new(config.seed);
        Self {
            config,
            ready: false,
            subsystems: BTreeMap::new(),
            ports: BTreeMap::new(),
            discovery_ids,
            generations,
            controllers: BTreeMap::new(),
            next_key: 0,
            queues: BTreeMap::new(),
            waiting: Vec::new(),
            aborts: BTreeMap::new(),
            next_abort: 0,
            protections: BTreeMap::new(),
            next_protection: 0,
            reserves: BTreeMap::new(),
            next_reserve: 0,
            health: Health::default(),
            actions: VecDeque::new(),
            deadline: None,
        }
    }

    /// Says that the configuration is complete: hosts may connect.
    ///
    /// A Connect refused for good would keep a Linux host from ever trying again, so that nothing
    /// may be refused before everything is known.
    pub fn set_ready(&mut self) {
        self.ready = true;
    }

    /// Takes a command: any Fabrics command, any command of an admin queue, and reservation
    /// commands. Returns its reply, or `None` if that comes later as an [`Action::Reply`], which
    /// may have a role, too. Actions that follow from the command are to be taken after its reply
    /// has been given to the connection.
    pub fn event(
        &mut self,
        now: Now,
        connection: ConnectionId,
        context: ConnectionContext,
        event: Event,
    ) -> Option<Reply> {
        let command = Command::read_from_bytes(&event.sqe).expect("an entry has 64 bytes");
        let Some(queue) = self.queues.get(&connection).copied() else {
            return self.before_connect(now, connection, context, event);
        };
        let controller = self.controllers.get(&queue.controller).expect("a queue's controller");
        controller.association.touch(now);
        if controller.is_closing() {
            return Some(Reply::failed(Status::ABORTED_SQ_DELETION));
        }
        if command.opcode == FABRICS_OPCODE {
            return Some(self.fabrics(now, connection, queue, &command));
        }
        if queue.queue_id != 0 {
            let (key, slot) = (queue.controller, event.slot);
            return self.io_command(key, connection, slot, &command, &event.data);
        }
        self.admin(now, queue.controller, event.slot, &command, &event.data)
    }

    /// The next thing to do, in order.
    pub fn take_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// A connection is gone, and nothing of it is in flight any more. Also to be called for
    /// connections that never sent a Connect.
    pub fn closed(&mut self, now: Now, connection: ConnectionId) {
        self.forget_connect(connection);
        let Some(queue) = self.queues.remove(&connection) else { return };
        if queue.queue_id == 0 {
            // Nobody is left to answer.
            self.aborts.retain(|_, abort| abort.controller != queue.controller);
        }
        self.give_up_aborts_of(connection);
        let controller = self.controllers.get_mut(&queue.controller).expect("a queue's controller");
        controller.remove_queue(queue.queue_id);
        if queue.queue_id == 0 {
            self.close_controller(queue.controller);
        }
        self.settle(now, queue.controller);
        self.retry_connects(now);
    }

    /// Commands of a connection that completed with errors.
    pub fn note_errors(&mut self, connection: ConnectionId, errors: &CommandErrors) {
        let Some(queue) = self.queues.get(&connection) else { return };
        let controller = self.controllers.get_mut(&queue.controller).expect("a queue's controller");
        controller.errors.note(queue.queue_id, errors);
    }

    /// Answers an [`Action::Abort`].
    pub fn abort_result(&mut self, token: u64, aborted: bool) {
        // Unknown if the queue or the controller has closed meanwhile.
        if let Some(abort) = self.aborts.remove(&token) {
            self.answer_abort(&abort, aborted);
        }
    }

    /// When to call [`Target::on_deadline`].
    #[must_use]
    pub fn deadline(&self) -> Option<Now> {
        self.deadline
    }

    /// Ends controllers whose hosts have been silent for too long, and Connects that waited.
    pub fn on_deadline(&mut self, now: Now) {
        if self.deadline.is_none_or(|deadline| now < deadline) {
            return;
        }
        let keys: Vec<_> = self.controllers.keys().copied().collect();
        for key in keys {
            if self.controllers.get_mut(&key).is_some_and(|controller| controller.is_expired(now)) {
                self.close_controller(key);
            }
        }
        self.retry_connects(now);
        let silence = self.controllers.values().filter_map(Controller::deadline);
        self.deadline = silence.chain(self.connect_deadline()).min();
    }

    /// New figures for the health log; hosts are told of new warnings.
    pub fn set_health(&mut self, health: Health) {
        let warnings = |health: &Health| (health.space_low, health.degraded, health.read_only);
        let before = (warnings(&self.health), self.health.temperature);
        self.health = health;
        if (warnings(&self.health), self.health.temperature) != before {
            for key in self.keys(|controller| controller.kind == Kind::Nvm) {
                self.warn(key);
            }
        }
    }

    /// What a connection is; `None` before its Connect.
    #[must_use]
    pub fn queue(&self, connection: ConnectionId) -> Option<QueueInfo> {
        let queue = self.queues.get(&connection)?;
        let controller = &self.controllers[&queue.controller];
        Some(QueueInfo {
            host: controller.host.clone(),
            subsystem: controller.subsystem.clone(),
            controller_id: controller.id,
            queue_id: queue.queue_id,
        })
    }

    /// Number of controllers, discovery controllers included.
    #[must_use]
    pub fn controller_count(&self) -> usize {
        self.controllers.len()
    }

    fn fabrics(
        &mut self,
        now: Now,
        connection: ConnectionId,
        queue: QueueRef,
        command: &Command,
    ) -> Reply {
        match FabricsType(command.namespace_id.get() as u8) {
            FabricsType::Connect => Reply::failed(Status::COMMAND_SEQUENCE_ERROR.dnr()),
            FabricsType::PropertyGet if queue.queue_id == 0 => {
                self.property_get(queue.controller, command)
            }
            FabricsType::PropertySet if queue.queue_id == 0 => {
                self.property_set(now, queue.controller, command)
            }
            FabricsType::Disconnect => {
                let refusal = if queue.queue_id == 0 {
                    Some(Status::INVALID_QUEUE_TYPE)
                } else {
                    let record_format = command.dword(10) as u16;
                    (record_format != 0).then_some(Status::CONNECT_INCOMPATIBLE_FORMAT)
                };
                if let Some(status) = refusal {
                    return Reply::failed(status.dnr());
                }
                self.actions.push_back(Action::Close(connection));
                Reply::done()
            }
            FabricsType::PropertyGet | FabricsType::PropertySet => {
                Reply::failed(Status::INVALID_FIELD.dnr())
            }
            _ => Reply::failed(Status::INVALID_OPCODE.dnr()),
        }
    }

    /// Fences a controller and closes all its queues; it goes when they are drained.
    fn close_controller(&mut self, key: ControllerKey) {
        let controller = self.controllers.get_mut(&key).expect("the caller has seen it");
        if controller.is_closing() {
            return;
        }
        controller.close();
        for connection in controller.connections() {
            self.actions.push_back(Action::Close(connection));
        }
        self.aborts.retain(|_, abort| abort.controller != key);
    }

    /// Notes what follows from queues having been drained.
    fn settle(&mut self, now: Now, key: ControllerKey) {
        let controller = self.controllers.get_mut(&key).expect("the caller has seen it");
        if controller.drained(now) {
            self.controllers.remove(&key);
        }
    }

    /// Wakes up for the keep alive timer of `key`, if it is the first.
    fn watch(&mut self, key: ControllerKey) {
        let deadline = self.controllers[&key].deadline();
        self.deadline = self.deadline.into_iter().chain(deadline).min();
    }
}

impl Reply {
    /// Success without a result.
    fn done() -> Self {
        Self::value(0)
    }

    /// Success with a result.
    fn value(result: u64) -> Self {
        Self { status: Status::SUCCESS.into(), result, data: Vec::new(), role: None }
    }

    /// Success with data.
    fn data(data: Vec<u8>) -> Self {
        Self { data, ..Self::done() }
    }

    /// Failure.
    fn failed(status: Status) -> Self {
        Self { status: status.into(), ..Self::done() }
    }
}

impl From<Status> for Reply {
    fn from(status: Status) -> Self {
        Self::failed(status)
    }
}
