//! Admin commands: which there are, and those too small for a file of their own.

use super::controller::ControllerKey;
use super::{PendingAbort, Target};
use crate::io::Now;
use crate::limits::ABORTS_MAX;
use crate::seam::{Action, ConnectionId, Reply, Slot};
use storage_spec::nvme::command::{AdminOpcode, Command};
use storage_spec::nvme::status::Status;

/// Admin opcodes of a controller with namespaces, but for Fabrics.
pub(super) const ADMIN_OPCODES: [AdminOpcode; 7] = [
    AdminOpcode::GetLogPage,
    AdminOpcode::Identify,
    AdminOpcode::Abort,
    AdminOpcode::SetFeatures,
    AdminOpcode::GetFeatures,
    AdminOpcode::AsyncEventRequest,
    AdminOpcode::KeepAlive,
];

/// Whether the host has room for the whole of what it asks for.
pub(super) fn check_room(command: &Command, len: usize) -> Result<(), Status> {
    if (command.sgl.length.get() as usize) < len {
        return Err(Status::DATA_SGL_LENGTH_INVALID.dnr());
    }
    Ok(())
}

/// Dword 0 of an Abort that aborted nothing.
const NOT_ABORTED: u64 = 1;

impl Target {
    /// A command of an admin queue; `None` if it is answered later.
    pub(super) fn admin(
        &mut self,
        now: Now,
        key: ControllerKey,
        slot: Slot,
        command: &Command,
        data: &[u8],
    ) -> Option<Reply> {
        let opcode = AdminOpcode(command.opcode);
        let controller = &self.controllers[&key];
        // The association has noted the traffic already.
        if opcode == AdminOpcode::KeepAlive {
            return Some(Reply::done());
        }
        if !controller.is_ready() {
            return Some(Reply::failed(Status::COMMAND_SEQUENCE_ERROR.dnr()));
        }
        let outcome = match opcode {
            AdminOpcode::Identify => self.identify(key, command).map(Reply::data),
            AdminOpcode::GetLogPage => self.get_log_page(key, command).map(Reply::data),
            AdminOpcode::GetFeatures => self.get_feature(key, command),
            AdminOpcode::SetFeatures => match self.set_feature(now, key, slot, command, data) {
                Ok(None) => return None,
                Ok(Some(reply)) => Ok(reply),
                Err(status) => Err(status),
            },
            AdminOpcode::AsyncEventRequest => match self.wait_for_event(key, slot, command) {
                Ok(()) => return None,
                Err(status) => Err(status),
            },
            AdminOpcode::Abort => match self.abort(key, slot, command) {
                Ok(()) => return None,
                Err(status) => Err(status),
            },
            _ => Err(Status::INVALID_OPCODE.dnr()),
        };
        Some(outcome.unwrap_or_else(Reply::failed))
    }

    pub(super) fn answer_abort(&mut self, abort: &PendingAbort, aborted: bool) {
        let controller = self.controllers.get(&abort.controller);
        if let Some(admin) = controller.and_then(|controller| controller.admin()) {
            let reply = Reply::value(if aborted { 0 } else { NOT_ABORTED });
            self.actions.push_back(Action::Reply(admin, abort.slot, reply));
        }
    }

    /// The connection will not say any more what became of its commands.
    pub(super) fn give_up_aborts_of(&mut self, connection: ConnectionId) {
        let tokens: Vec<_> = self
            .aborts
            .iter()
            .filter(|(_, abort)| abort.asked == connection)
            .map(|(&token, _)| token)
            .collect();
        for token in tokens {
            self.abort_result(token, false);
        }
    }

    fn wait_for_event(
        &mut self,
        key: ControllerKey,
        slot: Slot,
        command: &Command,
    ) -> Result<(), Status> {
        let controller = self.controllers.get_mut(&key).expect("the caller has seen it");
        controller.events.wait(slot, command.command_id.get())?;
        self.tell(key);
        Ok(())
    }

    /// Answered by an action always, so that the aborted command is completed first.
    fn abort(&mut self, key: ControllerKey, slot: Slot, command: &Command) -> Result<(), Status> {
        let under_way = self.aborts.values().filter(|abort| abort.controller == key).count();
        if under_way >= ABORTS_MAX {
            return Err(Status::ABORT_LIMIT_EXCEEDED);
        }
        let [queue_0, queue_1, id_0, id_1] = command.dword(10).to_le_bytes();
        let queue_id = u16::from_le_bytes([queue_0, queue_1]);
        let command_id = u16::from_le_bytes([id_0, id_1]);
        let controller = self.controllers.get_mut(&key).expect("the caller has seen it");
        let admin = controller.admin().expect("the Abort came by it");
        let abort = PendingAbort { controller: key, slot, asked: admin };
        if queue_id == 0
            && let Some(victim) = controller.events.take_request(command_id)
        {
            let reply = Reply::failed(Status::ABORT_REQUESTED);
            self.actions.push_back(Action::Reply(admin, victim, reply));
            self.answer_abort(&abort, true);
            return Ok(());
        }
        // An admin command that is not here may still wait for its data.
        let asked = if queue_id == 0 { Some(admin) } else { controller.io_queue(queue_id) };
        if let Some(connection) = asked {
            let token = self.next_abort;
            self.next_abort += 1;
            self.aborts.insert(token, PendingAbort { asked: connection, ..abort });
            self.actions.push_back(Action::Abort { connection, command_id, token });
        } else {
            self.answer_abort(&abort, false);
        }
        Ok(())
    }
}
