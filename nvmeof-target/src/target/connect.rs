//! Connect (section 6.3).
//!
//! Do Not Retry is set only for a Connect that no later configuration could make good: a host that
//! is told so never tries again (Linux: `nvmf_should_reconnect`). A subsystem that is not here may
//! be added, a host that is not allowed may be allowed, a busy controller becomes free; so these
//! are refused without it, and the host keeps trying at its own pace.
//!
//! A Connect for a queue that is still there waits a moment: the end of the old connection can be
//! seen later than the beginning of the new one.

use super::config::Nqn;
use super::controller::{ConnectIdentity, Controller, ControllerKey, Kind};
use super::{ConnectionContext, QueueRef, Target};
use crate::io::Now;
use crate::seam::{Action, Association, ConnectionId, Event, QueueParameters, Reply, Role};
use core::mem::offset_of;
use core::time::Duration;
use std::sync::Arc;
use storage_spec::fabrics::{
    CONTROLLER_ID_DYNAMIC, ConnectAttributes, ConnectCommand, ConnectData, FabricsType,
    InvalidParameter,
};
use storage_spec::nvme::command::{Command, FABRICS_OPCODE};
use storage_spec::nvme::status::Status;
use zerocopy::FromBytes;

/// How long a Connect waits for the end of the queue that has its id.
const DUPLICATE_WAIT: Duration = Duration::from_secs(1);

/// A Connect for a queue that is still there. One for each connection at most.
#[derive(Debug)]
pub(super) struct WaitingConnect {
    connection: ConnectionId,
    context: ConnectionContext,
    event: Event,
    until: Now,
}

/// A Connect whose form is right.
struct Request {
    command: ConnectCommand,
    data: ConnectData,
    subsystem: Nqn,
    host: Nqn,
    context: ConnectionContext,
}

/// Why a Connect is refused: status, and dword 0 as [`InvalidParameter`].
struct Refusal(Status, u32);

impl Target {
    /// The first command of a connection; `None` if it waits.
    pub(super) fn before_connect(
        &mut self,
        now: Now,
        connection: ConnectionId,
        context: ConnectionContext,
        event: Event,
    ) -> Option<Reply> {
        if self.waiting.iter().any(|waiting| waiting.connection == connection) {
            return Some(Reply::failed(Status::COMMAND_SEQUENCE_ERROR.dnr()));
        }
        let reply = self.try_connect(now, connection, context, &event);
        let command: ConnectCommand = zerocopy::transmute!(event.sqe);
        let is_duplicate = Status::from(reply.status).is(Status::CONNECT_CONTROLLER_BUSY)
            && self.ready
            && command.queue_id.get() != 0;
        if !is_duplicate {
            return Some(reply);
        }
        let until = now + DUPLICATE_WAIT;
        self.waiting.push(WaitingConnect { connection, context, event, until });
        self.deadline = self.deadline.into_iter().chain([until]).min();
        None
    }

    /// Tries again what waits: some queue has gone, or time has passed.
    pub(super) fn retry_connects(&mut self, now: Now) {
        for waiting in core::mem::take(&mut self.waiting) {
            let WaitingConnect { connection, context, ref event, until } = waiting;
            let reply = self.try_connect(now, connection, context, event);
            if Status::from(reply.status).is(Status::CONNECT_CONTROLLER_BUSY) && now < until {
                self.waiting.push(waiting);
            } else {
                self.actions.push_back(Action::Reply(connection, event.slot, reply));
            }
        }
    }

    /// When the first of those that wait is to be answered.
    pub(super) fn connect_deadline(&self) -> Option<Now> {
        self.waiting.iter().map(|waiting| waiting.until).min()
    }

    /// The connection is gone, and its Connect with it.
    pub(super) fn forget_connect(&mut self, connection: ConnectionId) {
        self.waiting.retain(|waiting| waiting.connection != connection);
    }

    fn try_connect(
        &mut self,
        now: Now,
        connection: ConnectionId,
        context: ConnectionContext,
        event: &Event,
    ) -> Reply {
        let command: &Command = zerocopy::transmute_ref!(&event.sqe);
        let is_connect = command.opcode == FABRICS_OPCODE
            && FabricsType(command.namespace_id.get() as u8) == FabricsType::Connect;
        if !is_connect {
            return Reply::failed(Status::COMMAND_SEQUENCE_ERROR.dnr());
        }
        if !self.ready {
            return Reply::failed(Status::CONNECT_CONTROLLER_BUSY);
        }
        let outcome = self.check_form(command, &event.data, context).and_then(|request| {
            match request.command.queue_id.get() {
                0 => self.connect_admin(now, connection, &request),
                queue_id => self.connect_io(connection, queue_id, &request),
            }
        });
        outcome.unwrap_or_else(|Refusal(status, result)| Reply {
            result: result.into(),
            ..Reply::failed(status)
        })
    }

    fn check_form(
        &self,
        command: &Command,
        data: &[u8],
        context: ConnectionContext,
    ) -> Result<Request, Refusal> {
        let command: ConnectCommand = zerocopy::transmute!(*command);
        if command.record_format.get() != 0 {
            return Err(Refusal(Status::CONNECT_INCOMPATIBLE_FORMAT.dnr(), 0));
        }
        let (data, _) = ConnectData::read_from_prefix(data)
            .map_err(|_| Refusal(Status::DATA_SGL_LENGTH_INVALID.dnr(), 0))?;
        let entries_z = command.queue_size_z.get();
        if entries_z == 0 || entries_z >= self.config.queue_entries_max {
            return Err(bad_command(offset_of!(ConnectCommand, queue_size_z)).dnr());
        }
        let subsystem = Nqn::from_field(&data.subsystem_nqn)
            .map_err(|_| bad_data(offset_of!(ConnectData, subsystem_nqn)).dnr())?;
        let host = Nqn::from_field(&data.host_nqn)
            .map_err(|_| bad_data(offset_of!(ConnectData, host_nqn)).dnr())?;
        Ok(Request { command, data, subsystem, host, context })
    }

    fn connect_admin(
        &mut self,
        now: Now,
        connection: ConnectionId,
        request: &Request,
    ) -> Result<Reply, Refusal> {
        let is_discovery = request.subsystem == Nqn::discovery();
        let kind = if is_discovery { Kind::Discovery } else { Kind::Nvm };
        if kind == Kind::Nvm {
            self.check_admission(request)?;
        }
        // The dynamic controller model: a host cannot choose.
        if request.data.controller_id.get() != CONTROLLER_ID_DYNAMIC {
            return Err(bad_data(offset_of!(ConnectData, controller_id)).dnr());
        }
        let (mut count, mut of_host) = (0, 0);
        for other in self.controllers.values().filter(|other| other.kind == kind) {
            count += 1;
            of_host += usize::from(other.host == request.host);
        }
        let busy = Refusal(Status::CONNECT_CONTROLLER_BUSY, 0);
        if count >= self.config.controllers_max || of_host >= self.config.controllers_of_host_max()
        {
            return Err(busy);
        }
        let id = self.take_controller_id(&request.subsystem).ok_or(busy)?;
        let key = ControllerKey(self.next_key);
        self.next_key += 1;
        let association = Arc::new(Association::new(id, now));
        let identity = ConnectIdentity {
            subsystem: request.subsystem.clone(),
            host: request.host.clone(),
            host_id: request.data.host_id,
            keep_alive_ms: request.command.keep_alive_ms.get(),
            context: request.context,
        };
        let parameters = parameters(&association, request);
        let controller = Controller::new(id, kind, association, connection, identity);
        self.controllers.insert(key, controller);
        self.queues.insert(connection, QueueRef { controller: key, queue_id: 0 });
        self.watch(key);
        Ok(Reply { role: Some(Role::Admin(parameters)), ..Reply::value(id.into()) })
    }

    /// Nothing is refused for good: the controller may have been closed since its admin queue was
    /// connected, and even its id be another host's by now. The host starts again with a new one.
    fn connect_io(
        &mut self,
        connection: ConnectionId,
        queue_id: u16,
        request: &Request,
    ) -> Result<Reply, Refusal> {
        self.check_admission(request)?;
        let id = request.data.controller_id.get();
        let found = self.controllers.iter_mut().find(|(_, controller)| {
            controller.id == id
                && controller.subsystem == request.subsystem
                && controller.kind == Kind::Nvm
                && !controller.is_closing()
        });
        let (&key, controller) = found.ok_or(bad_data(offset_of!(ConnectData, controller_id)))?;
        if controller.host != request.host {
            return Err(bad_data(offset_of!(ConnectData, host_nqn)));
        }
        if controller.host_id != request.data.host_id {
            return Err(bad_data(offset_of!(ConnectData, host_id)));
        }
        if !controller.is_ready() {
            return Err(Refusal(Status::COMMAND_SEQUENCE_ERROR, 0));
        }
        if queue_id > controller.features.io_queues(&self.config) {
            return Err(bad_command(offset_of!(ConnectCommand, queue_id)));
        }
        // The old connection may not be torn down yet: its reset can be seen later than the new
        // connection, and what it has in flight has to end first.
        if controller.io_queue(queue_id).is_some() {
            return Err(Refusal(Status::CONNECT_CONTROLLER_BUSY, 0));
        }
        controller.add_io_queue(queue_id, connection);
        let namespaces = self.subsystems[&request.subsystem].snapshot(&controller.registrant());
        self.queues.insert(connection, QueueRef { controller: key, queue_id });
        let role = Role::Io(parameters(&controller.association, request), namespaces);
        Ok(Reply { role: Some(role), ..Reply::value(id.into()) })
    }

    /// Whether the subsystem is here, on this port, for this host.
    fn check_admission(&self, request: &Request) -> Result<(), Refusal> {
        let discovery_only =
            self.ports.get(&request.context.port).is_some_and(|port| port.discovery_only);
        let subsystem = self
            .subsystems
            .get(&request.subsystem)
            .filter(|_| !discovery_only)
            .ok_or(bad_data(offset_of!(ConnectData, subsystem_nqn)))?;
        if subsystem.config.hosts.admits(&request.host) {
            Ok(())
        } else {
            let parameter = bad_data(offset_of!(ConnectData, host_nqn)).1;
            Err(Refusal(Status::CONNECT_INVALID_HOST, parameter))
        }
    }

    fn take_controller_id(&mut self, subsystem: &Nqn) -> Option<u16> {
        let ids = match self.subsystems.get_mut(subsystem) {
            Some(subsystem) => &mut subsystem.ids,
            None => &mut self.discovery_ids,
        };
        let controllers = &self.controllers;
        ids.take(|id| {
            controllers.values().any(|other| other.id == id && other.subsystem == *subsystem)
        })
    }
}

impl Refusal {
    fn dnr(self) -> Self {
        Self(self.0.dnr(), self.1)
    }
}

fn parameters(association: &Arc<Association>, request: &Request) -> QueueParameters {
    let attributes = ConnectAttributes::from(request.command.attributes);
    QueueParameters {
        association: association.clone(),
        queue_id: request.command.queue_id.get(),
        entries: request.command.queue_size_z.get() + 1,
        flow_control_disabled: attributes.disable_flow_control(),
    }
}

/// A parameter of the command is bad.
fn bad_command(offset: usize) -> Refusal {
    let parameter = InvalidParameter::new().with_offset(offset as u16);
    Refusal(Status::CONNECT_INVALID_PARAMETERS, parameter.into())
}

/// A parameter of the data is bad, as things are now.
fn bad_data(offset: usize) -> Refusal {
    let parameter = InvalidParameter::new().with_offset(offset as u16).with_in_data(true);
    Refusal(Status::CONNECT_INVALID_PARAMETERS, parameter.into())
}
