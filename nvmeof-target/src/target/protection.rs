//! Namespace Write Protection Configuration (feature 84h, section 8.12).
//!
//! Two states: protected, and not. The first outlasts resets and restarts of the node, so that a
//! host is answered only when the surroundings have kept it. It is the namespace's, whichever host
//! set it; the next may take it back.

use super::Target;
use super::config::{NamespaceId, Nqn};
use super::controller::ControllerKey;
use crate::seam::{Action, Reply, Slot};
use storage_spec::nvme::command::Command;
use storage_spec::nvme::feature::{WRITE_PROTECTION_OFF, WRITE_PROTECTION_ON, WriteProtection};
use storage_spec::nvme::identify::NSID_ALL;
use storage_spec::nvme::status::Status;

/// A change that is being kept.
#[derive(Debug)]
pub(super) struct PendingProtection {
    subsystem: Nqn,
    namespace: NamespaceId,
    protect: bool,
    controller: ControllerKey,
    slot: Slot,
}

impl Target {
    /// Answers an [`Action::ProtectNamespace`]: whether it is kept.
    ///
    /// # Panics
    /// If the token is not that of an action, or was answered before.
    pub fn protection_result(&mut self, token: u64, kept: bool) {
        let pending = self.protections.remove(&token).expect("a token is answered once");
        let PendingProtection { subsystem, namespace, protect, controller, slot } = pending;
        let reply = if !kept {
            // Changed by somebody else just now, or its disk fails.
            Reply::failed(Status::NAMESPACE_NOT_READY)
        } else if self.set_read_only(&subsystem, namespace, protect).is_err() {
            Reply::failed(Status::INVALID_NAMESPACE.dnr())
        } else {
            Reply::done()
        };
        let controller = self.controllers.get(&controller);
        if let Some(admin) = controller.and_then(|controller| controller.admin()) {
            self.actions.push_back(Action::Reply(admin, slot, reply));
        }
    }

    /// Whether the namespace that the command names is protected.
    pub(super) fn protection(
        &self,
        key: ControllerKey,
        command: &Command,
    ) -> Result<WriteProtection, Status> {
        let id = command.namespace_id.get();
        if id == NSID_ALL {
            return Err(Status::INVALID_FIELD.dnr());
        }
        let subsystem = &self.subsystems[&self.controllers[&key].subsystem];
        let entry = subsystem.namespaces.get(&id).ok_or(Status::INVALID_NAMESPACE.dnr())?;
        let state = if entry.config.read_only { WRITE_PROTECTION_ON } else { WRITE_PROTECTION_OFF };
        Ok(WriteProtection::new().with_state(state))
    }

    /// Protects a namespace, or does so no more; `None` if that is answered later.
    pub(super) fn set_protection(
        &mut self,
        key: ControllerKey,
        slot: Slot,
        command: &Command,
    ) -> Result<Option<Reply>, Status> {
        let now = self.protection(key, command)?.state();
        let wanted = WriteProtection::from(command.dword(11)).state();
        if !matches!(wanted, WRITE_PROTECTION_OFF | WRITE_PROTECTION_ON) {
            return Err(Status::INVALID_FIELD.dnr());
        }
        if wanted == now {
            return Ok(Some(Reply::done()));
        }
        let subsystem = self.controllers[&key].subsystem.clone();
        let namespace = NamespaceId(command.namespace_id.get());
        let protect = wanted == WRITE_PROTECTION_ON;
        let token = self.next_protection;
        self.next_protection += 1;
        let kept = PendingProtection {
            subsystem: subsystem.clone(),
            namespace,
            protect,
            controller: key,
            slot,
        };
        self.protections.insert(token, kept);
        self.actions.push_back(Action::ProtectNamespace { subsystem, namespace, protect, token });
        Ok(None)
    }
}
