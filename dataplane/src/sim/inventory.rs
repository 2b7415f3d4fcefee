//! What a host knows of the namespaces: asked for when it connects, and again when an event says
//! that something has changed.

use nvmeof_target::testing::{Finished, Host, Transfer, command};
use std::collections::BTreeMap;
use storage_spec::nvme::command::{AdminOpcode, Command, NvmOpcode};
use storage_spec::nvme::identify::{AsyncEvents, Cns, IDENTIFY_SIZE, IdentifyNamespace};
use storage_spec::nvme::log::{LogDword10, LogPage};
use storage_spec::nvme::status::Status;
use zerocopy::FromBytes;

/// Feature 0Bh: Asynchronous Event Configuration.
const FEATURE_EVENTS: u32 = 0x0B;

/// A namespace as a host sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seen {
    /// The volume's number, from its UUID.
    pub(super) serial: u32,
    pub(super) bytes: u64,
    pub(super) shift: u8,
}

/// What is awaited of the admin queue.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Idle,
    Configuring(u16),
    /// The list of changed namespaces, which arms the event again.
    Log(u16),
    List(u16),
    /// One namespace after another, the last first.
    Namespaces {
        command: u16,
        left: Vec<u32>,
        found: BTreeMap<u32, Seen>,
    },
}

/// See the module.
#[derive(Debug)]
pub(super) struct Inventory {
    /// By namespace id.
    pub(super) seen: BTreeMap<u32, Seen>,
    step: Step,
    /// The Asynchronous Event Request that waits.
    event: Option<u16>,
    is_stale: bool,
    /// Whether everything has been looked at once.
    pub(super) is_complete: bool,
}

impl Default for Inventory {
    fn default() -> Self {
        Self {
            seen: BTreeMap::new(),
            step: Step::Idle,
            event: None,
            is_stale: true,
            is_complete: false,
        }
    }
}

impl Inventory {
    /// Begins on a controller that is ready.
    pub(super) fn begin(&mut self, admin: &mut Host) {
        let mut command = admin_command(AdminOpcode::SetFeatures);
        command.dwords[0] = FEATURE_EVENTS.into();
        let events = AsyncEvents::new().with_namespace_attribute(true);
        command.dwords[1] = u32::from(events).into();
        self.step = Step::Configuring(admin.submit(command, Transfer::None));
    }

    /// Whether nothing is awaited but an event.
    pub(super) fn is_idle(&self) -> bool {
        self.step == Step::Idle && !self.is_stale && self.is_complete
    }

    /// Whether a volume with this number may be among those that it knows.
    pub(super) fn knows(&self, serial: u32) -> bool {
        !self.is_idle() || self.seen.values().any(|seen| seen.serial == serial)
    }

    /// Takes what has come; `false` if a command failed that should not.
    pub(super) fn turn(&mut self, admin: &mut Host) -> bool {
        if let Some(id) = self.event
            && let Some(finished) = admin.finished(id)
        {
            if !finished.status.is_success() {
                return false;
            }
            self.event = None;
            self.is_stale = true;
        }
        let awaited = match &self.step {
            Step::Idle => return self.rest(admin),
            Step::Configuring(id) | Step::Log(id) | Step::List(id) => *id,
            Step::Namespaces { command, .. } => *command,
        };
        match admin.finished(awaited) {
            Some(finished) => self.advance(admin, &finished),
            None => true,
        }
    }

    fn rest(&mut self, admin: &mut Host) -> bool {
        if self.event.is_none() {
            let request = admin_command(AdminOpcode::AsyncEventRequest);
            self.event = Some(admin.submit(request, Transfer::None));
        }
        if std::mem::take(&mut self.is_stale) {
            let mut command = admin_command(AdminOpcode::GetLogPage);
            let dword = LogDword10::new()
                .with_page(LogPage::ChangedNamespaces.0)
                .with_dwords_low((IDENTIFY_SIZE / 4 - 1) as u16);
            command.dwords[0] = u32::from(dword).into();
            self.step = Step::Log(admin.submit(command, Transfer::Read(IDENTIFY_SIZE)));
        }
        true
    }

    fn advance(&mut self, admin: &mut Host, finished: &Finished) -> bool {
        let is_gone = finished.status.is(Status::INVALID_NAMESPACE);
        if !finished.status.is_success() && !is_gone {
            return false;
        }
        match std::mem::replace(&mut self.step, Step::Idle) {
            Step::Idle => unreachable!("something was awaited"),
            Step::Configuring(_) => {}
            Step::Log(_) => {
                self.step = Step::List(identify(admin, Cns::ActiveNamespaces, 0));
            }
            Step::List(_) => {
                let ids = finished.data.chunks(4);
                let ids = ids.map(|id| u32::from_le_bytes(id.try_into().expect("four bytes")));
                let left: Vec<u32> = ids.take_while(|&id| id != 0).collect();
                self.look(admin, left, BTreeMap::new());
            }
            Step::Namespaces { left: mut ids, mut found, .. } => {
                let id = ids.pop().expect("one was asked for");
                if let Some(seen) = (!is_gone).then(|| namespace(&finished.data)).flatten() {
                    found.insert(id, seen);
                }
                self.look(admin, ids, found);
            }
        }
        true
    }

    fn look(&mut self, admin: &mut Host, left: Vec<u32>, found: BTreeMap<u32, Seen>) {
        if let Some(&id) = left.last() {
            let command = identify(admin, Cns::Namespace, id);
            self.step = Step::Namespaces { command, left, found };
        } else {
            self.seen = found;
            self.is_complete = true;
        }
    }
}

fn identify(admin: &mut Host, cns: Cns, namespace: u32) -> u16 {
    let mut command = admin_command(AdminOpcode::Identify);
    command.namespace_id = namespace.into();
    command.dwords[0] = u32::from(cns.0).into();
    admin.submit(command, Transfer::Read(IDENTIFY_SIZE))
}

fn admin_command(opcode: AdminOpcode) -> Command {
    let mut command = command(NvmOpcode(opcode.0), 0, 0, 1);
    command.dwords = [0; 6].map(Into::into);
    command
}

/// An active namespace; `None` if the data are zeroes.
fn namespace(data: &[u8]) -> Option<Seen> {
    let identity = IdentifyNamespace::read_from_bytes(data).expect("4,096 bytes");
    let format = identity.lba_formats[usize::from(identity.format & 0xF)];
    let shift = format.block_shift;
    let serial = u32::from_be_bytes(identity.nguid[12..].try_into().expect("four bytes"));
    (identity.size.get() > 0).then(|| Seen { serial, bytes: identity.size.get() << shift, shift })
}
