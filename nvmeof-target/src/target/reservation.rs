//! Reservation commands, features 82h and 83h, and log page 80h (section 8.19).
//!
//! The tables are not kept here: orders go out as [`Action::Reserve`], and the table as it then is
//! comes in by [`Target::set_reservations`], before the order's result. Reports are made from
//! what came in last.

use super::Target;
use super::controller::{Controller, ControllerKey};
use super::subsystem::Subsystem;
use crate::io::VolumeIndex;
use crate::seam::{Action, ConnectionId, Reply, Slot};
use reservations::{
    Current, Failure, Kind, Notice, Notify, Order, Persist, Refusal, Registrant, Table,
};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use storage_spec::nvme::command::{Command, NvmOpcode};
use storage_spec::nvme::identify::NSID_ALL;
use storage_spec::nvme::reservation::{
    ACQUIRE, ACQUIRE_PREEMPT, ACQUIRE_PREEMPT_ABORT, NOTIFICATION_PREEMPTED,
    NOTIFICATION_REGISTRATION_PREEMPTED, NOTIFICATION_RELEASED, NotificationLog, NotificationMask,
    PERSIST_OFF, PERSIST_ON, PERSIST_UNCHANGED, REGISTER_END, REGISTER_KEY, REGISTER_REPLACE,
    RELEASE, RELEASE_CLEAR, RELEASE_DATA_LEN, REPORT_EXTENDED_RESERVED, RegisterDword10,
    ReportDword11, ReportHead, ReportRegistrant, ReservationKeys, ReservationPersistence,
    ReserveDword10,
};
use storage_spec::nvme::status::Status;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

/// Most notifications that a controller keeps for its host; the oldest go first.
const NOTIFICATIONS_MAX: usize = 255;

/// CNTLID of a controller that is made by Connect.
const CONTROLLER_DYNAMIC: u16 = 0xFFFF;

/// An order that is being carried out.
#[derive(Debug)]
pub(super) struct PendingReserve {
    connection: ConnectionId,
    slot: Slot,
    /// Orders of the same command that have no result yet.
    left: u32,
    /// What the command ends with, if one of them failed.
    failure: Option<Failure>,
}

/// What a controller has to tell of reservations.
#[derive(Debug, Default)]
pub(super) struct Notifications {
    /// Oldest first: which it is of all, what, and of which namespace.
    log: VecDeque<(u64, u8, u32)>,
    count: u64,
    /// What the host does not want to hear of, by namespace.
    masks: BTreeMap<u32, NotificationMask>,
}

impl Notifications {
    /// Notes one; whether the host wants it.
    fn note(&mut self, namespace: u32, what: Notice) -> bool {
        let mask = self.mask(namespace);
        let (kind, is_masked) = match what {
            Notice::RegistrationPreempted => {
                (NOTIFICATION_REGISTRATION_PREEMPTED, mask.registration_preempted())
            }
            Notice::ReservationReleased => (NOTIFICATION_RELEASED, mask.released()),
            Notice::ReservationPreempted => (NOTIFICATION_PREEMPTED, mask.preempted()),
        };
        if is_masked {
            return false;
        }
        if self.log.len() == NOTIFICATIONS_MAX {
            self.log.pop_front();
        }
        self.count += 1;
        self.log.push_back((self.count, kind, namespace));
        true
    }

    /// The log page: the oldest, or an empty one.
    pub(super) fn page(&self) -> Vec<u8> {
        let mut page = NotificationLog::new_zeroed();
        if let Some(&(count, kind, namespace)) = self.log.front() {
            page.count = U64::new(count);
            page.kind = kind;
            page.available = (self.log.len() - 1) as u8;
            page.namespace_id = U32::new(namespace);
        }
        page.as_bytes().to_vec()
    }

    /// The host has read the oldest; whether there are more.
    pub(super) fn acknowledge(&mut self) -> bool {
        self.log.pop_front();
        !self.log.is_empty()
    }

    fn mask(&self, namespace: u32) -> NotificationMask {
        self.masks.get(&namespace).copied().unwrap_or_default()
    }

    fn set_mask(&mut self, namespace: u32, mask: NotificationMask) {
        self.masks.insert(namespace, mask);
    }
}

/// What the surroundings call.
impl Target {
    /// The reservation table of a volume is now this one: queues are given the access that it
    /// leaves, then those hosts are told that are to be.
    pub fn set_reservations(
        &mut self,
        volume: VolumeIndex,
        table: &Arc<Table>,
        notices: &[Notify],
    ) {
        let subsystems: Vec<_> = self.subsystems.keys().cloned().collect();
        for nqn in subsystems {
            let subsystem = self.subsystems.get_mut(&nqn).expect("just listed");
            let Some((id, before)) = subsystem.set_reservations(volume, table) else { continue };
            let keys = self.keys(|controller| controller.subsystem == nqn);
            for key in &keys {
                let who = self.controllers[key].registrant();
                if before.access(&who) != table.access(&who) {
                    self.push_namespaces(*key);
                }
            }
            for key in keys {
                self.notify(key, id, notices);
            }
        }
    }

    /// Answers an [`Action::Reserve`].
    ///
    /// # Panics
    /// If the token is not that of an action, or was answered before.
    pub fn reservation_result(&mut self, token: u64, result: Result<(), Failure>) {
        let pending = self.reserves.get_mut(&token).expect("an order has one result");
        pending.failure = pending.failure.or(result.err());
        pending.left -= 1;
        if pending.left > 0 {
            return;
        }
        let pending = self.reserves.remove(&token).expect("just seen");
        let reply = match pending.failure {
            None => Reply::done(),
            Some(failure) => Reply::failed(status_of(failure)),
        };
        if self.queues.contains_key(&pending.connection) {
            self.actions.push_back(Action::Reply(pending.connection, pending.slot, reply));
        }
    }

    /// The I/O queues of a registrant.
    #[must_use]
    pub fn io_queues_of(&self, who: &Registrant) -> Vec<ConnectionId> {
        let controllers = self.controllers.values();
        let own = controllers.filter(|controller| controller.registrant() == *who);
        own.flat_map(Controller::io_queues).collect()
    }
}

/// Commands.
impl Target {
    /// A command of an I/O queue; `None` if it is answered later.
    pub(super) fn io_command(
        &mut self,
        key: ControllerKey,
        connection: ConnectionId,
        slot: Slot,
        command: &Command,
        data: &[u8],
    ) -> Option<Reply> {
        if !self.controllers[&key].is_ready() {
            return Some(Reply::failed(Status::ABORTED_SQ_DELETION));
        }
        let order = match NvmOpcode(command.opcode) {
            NvmOpcode::ReservationReport => {
                return Some(self.report(key, command).map_or_else(Reply::failed, Reply::data));
            }
            NvmOpcode::ReservationRegister => register(command, data),
            NvmOpcode::ReservationAcquire => acquire(command, data),
            NvmOpcode::ReservationRelease => release(command, data),
            _ => Err(Status::INVALID_OPCODE),
        };
        let order = match order {
            Ok(order) => order,
            Err(status) => return Some(Reply::failed(status.dnr())),
        };
        let controller = &self.controllers[&key];
        // A host without an identity cannot be told from others (section 5.27.1.24).
        if controller.host_id == [0; 16] {
            return Some(Reply::failed(Status::OPERATION_DENIED.dnr()));
        }
        let subsystem = &self.subsystems[&controller.subsystem];
        let Some(entry) = subsystem.namespaces.get(&command.namespace_id.get()) else {
            return Some(Reply::failed(Status::INVALID_NAMESPACE.dnr()));
        };
        let volumes = vec![entry.config.volume];
        self.give_order((key, connection, slot), volumes, &order);
        None
    }

    fn report(&self, key: ControllerKey, command: &Command) -> Result<Vec<u8>, Status> {
        let subsystem = &self.subsystems[&self.controllers[&key].subsystem];
        let entry = subsystem.namespaces.get(&command.namespace_id.get());
        let table = &entry.ok_or(Status::INVALID_NAMESPACE.dnr())?.reservations;
        // Hosts of Fabrics have 128-bit identifiers, which the short structure has no room for.
        if !ReportDword11::from(command.dword(11)).extended() {
            return Err(Status::HOST_ID_INCONSISTENT.dnr());
        }
        let len = (u64::from(command.dword(10)) + 1) * 4;
        if len > u64::from(command.sgl.length.get()) {
            return Err(Status::DATA_SGL_LENGTH_INVALID.dnr());
        }
        let mut data = render(table);
        data.resize(len as usize, 0);
        Ok(data)
    }

    /// Has an order carried out for each of these volumes.
    fn give_order(
        &mut self,
        (key, connection, slot): (ControllerKey, ConnectionId, Slot),
        volumes: Vec<VolumeIndex>,
        order: &Order,
    ) {
        let token = self.next_reserve;
        self.next_reserve += 1;
        let left = volumes.len() as u32;
        self.reserves.insert(token, PendingReserve { connection, slot, left, failure: None });
        let who = self.controllers[&key].registrant();
        for volume in volumes {
            let (who, order) = (who.clone(), order.clone());
            self.actions.push_back(Action::Reserve { volume, who, order, token });
        }
    }

    fn notify(&mut self, key: ControllerKey, namespace: u32, notices: &[Notify]) {
        let controller = self.controllers.get_mut(&key).expect("the caller has seen it");
        let who = controller.registrant();
        let mut is_wanted = false;
        for notice in notices.iter().filter(|notice| notice.who == who) {
            is_wanted |= controller.notifications.note(namespace, notice.what);
        }
        if is_wanted {
            controller.events.raise(super::events::Notice::Reservation);
            self.tell(key);
        }
    }
}

/// Features.
impl Target {
    pub(super) fn reservation_mask(
        &self,
        key: ControllerKey,
        command: &Command,
    ) -> Result<Reply, Status> {
        let (_, id) = self.one_namespace(key, command)?;
        let mask = self.controllers[&key].notifications.mask(id);
        Ok(Reply::value(u32::from(mask).into()))
    }

    pub(super) fn set_reservation_mask(
        &mut self,
        key: ControllerKey,
        command: &Command,
    ) -> Result<Reply, Status> {
        let mask = NotificationMask::from(command.dword(11));
        let ids: Vec<_> = match command.namespace_id.get() {
            NSID_ALL => self.subsystem_of(key).namespaces.keys().copied().collect(),
            _ => vec![self.one_namespace(key, command)?.1],
        };
        let controller = self.controllers.get_mut(&key).expect("the caller has seen it");
        for id in ids {
            controller.notifications.set_mask(id, mask);
        }
        Ok(Reply::done())
    }

    pub(super) fn reservation_persistence(
        &self,
        key: ControllerKey,
        command: &Command,
    ) -> Result<Reply, Status> {
        let (subsystem, id) = self.one_namespace(key, command)?;
        let persists = subsystem.namespaces[&id].reservations.persists();
        let value = ReservationPersistence::new().with_persists(persists);
        Ok(Reply::value(u32::from(value).into()))
    }

    /// `None`: answered later.
    pub(super) fn set_reservation_persistence(
        &mut self,
        key: ControllerKey,
        slot: Slot,
        command: &Command,
    ) -> Result<Option<Reply>, Status> {
        let persists = ReservationPersistence::from(command.dword(11)).persists();
        let subsystem = self.subsystem_of(key);
        let volumes: Vec<_> = match command.namespace_id.get() {
            NSID_ALL => subsystem.namespaces.values().map(|entry| entry.config.volume).collect(),
            _ => {
                let (subsystem, id) = self.one_namespace(key, command)?;
                vec![subsystem.namespaces[&id].config.volume]
            }
        };
        let admin = self.controllers[&key].admin().expect("the command came by it");
        if volumes.is_empty() {
            return Ok(Some(Reply::done()));
        }
        self.give_order((key, admin, slot), volumes, &Order::SetPersist(persists));
        Ok(None)
    }

    fn one_namespace(
        &self,
        key: ControllerKey,
        command: &Command,
    ) -> Result<(&Subsystem, u32), Status> {
        let id = command.namespace_id.get();
        if id == NSID_ALL {
            return Err(Status::INVALID_FIELD.dnr());
        }
        let subsystem = self.subsystem_of(key);
        if !subsystem.namespaces.contains_key(&id) {
            return Err(Status::INVALID_NAMESPACE.dnr());
        }
        Ok((subsystem, id))
    }

    fn subsystem_of(&self, key: ControllerKey) -> &Subsystem {
        &self.subsystems[&self.controllers[&key].subsystem]
    }
}

impl Controller {
    /// Who registers through it: the host, by whichever controller.
    pub(super) fn registrant(&self) -> Registrant {
        Registrant::Nvme { host_id: self.host_id }
    }
}

fn register(command: &Command, data: &[u8]) -> Result<Order, Status> {
    let dword_10 = RegisterDword10::from(command.dword(10));
    let ReservationKeys { current, other } = keys(data)?;
    let persist = match dword_10.persist() {
        PERSIST_UNCHANGED => Persist::Unchanged,
        PERSIST_OFF => Persist::Off,
        PERSIST_ON => Persist::On,
        _ => return Err(Status::INVALID_FIELD),
    };
    let named = match dword_10.ignore_key() {
        true => Current::Any,
        false => Current::Is(current.get()),
    };
    let (current, key) = match dword_10.action() {
        REGISTER_KEY => (Current::NoneOrSame, other.get()),
        REGISTER_REPLACE => (named, other.get()),
        REGISTER_END => return Ok(Order::Unregister { current: named, persist }),
        _ => return Err(Status::INVALID_FIELD),
    };
    Ok(Order::Register { current, key, also: Vec::new(), persist })
}

fn acquire(command: &Command, data: &[u8]) -> Result<Order, Status> {
    let dword_10 = ReserveDword10::from(command.dword(10));
    let ReservationKeys { current, other } = keys(data)?;
    let (key, victim) = (current.get(), other.get());
    let kind = kind(dword_10)?;
    match dword_10.action() {
        ACQUIRE => Ok(Order::Reserve { key, kind }),
        ACQUIRE_PREEMPT => Ok(Order::Preempt { key, victim, kind, abort: false }),
        ACQUIRE_PREEMPT_ABORT => Ok(Order::Preempt { key, victim, kind, abort: true }),
        _ => Err(Status::INVALID_FIELD),
    }
}

fn release(command: &Command, data: &[u8]) -> Result<Order, Status> {
    let dword_10 = ReserveDword10::from(command.dword(10));
    let key = data.first_chunk::<RELEASE_DATA_LEN>().ok_or(Status::DATA_SGL_LENGTH_INVALID)?;
    let key = u64::from_le_bytes(*key);
    if dword_10.ignore_key() {
        return Err(Status::INVALID_FIELD);
    }
    match dword_10.action() {
        RELEASE => Ok(Order::Release { key, kind: kind(dword_10)? }),
        RELEASE_CLEAR => Ok(Order::Clear { key }),
        _ => Err(Status::INVALID_FIELD),
    }
}

fn keys(data: &[u8]) -> Result<ReservationKeys, Status> {
    let keys = ReservationKeys::read_from_prefix(data);
    keys.map(|(keys, _)| keys).map_err(|_| Status::DATA_SGL_LENGTH_INVALID)
}

fn kind(dword_10: ReserveDword10) -> Result<Kind, Status> {
    if dword_10.ignore_key() {
        return Err(Status::INVALID_FIELD);
    }
    Kind::from_nvme(dword_10.kind()).ok_or(Status::INVALID_FIELD)
}

/// The extended structure of Reservation Report.
fn render(table: &Table) -> Vec<u8> {
    let registrations = table.registrations();
    let head = ReportHead {
        generation: U32::new(table.generation()),
        kind: table.reservation().map_or(0, |reservation| reservation.kind.nvme()),
        registrants: U16::new(registrations.len() as u16),
        reserved_7: [0; 2],
        persists: table.persists().into(),
        reserved_10: [0; 14],
    };
    let mut data = head.as_bytes().to_vec();
    data.resize(data.len() + REPORT_EXTENDED_RESERVED, 0);
    for registration in registrations {
        let entry = ReportRegistrant {
            controller_id: U16::new(CONTROLLER_DYNAMIC),
            status: registration.is_holder.into(),
            reserved_3: [0; 5],
            key: U64::new(registration.key),
            host_id: host_id(registration.who),
            reserved_32: [0; 32],
        };
        data.extend_from_slice(entry.as_bytes());
    }
    data
}

/// How a registrant is shown to NVMe hosts. One of another protocol gets 128 bits that are the same
/// whenever it is asked for, and that no host will have.
fn host_id(who: &Registrant) -> [u8; 16] {
    const FNV_BASIS: u128 = 0x6C62_272E_07BB_0142_62B8_2175_6295_C58D;
    const FNV_PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013B;
    match who {
        Registrant::Nvme { host_id } => *host_id,
        other => {
            let mix = |hash: u128, &byte: &u8| (hash ^ u128::from(byte)).wrapping_mul(FNV_PRIME);
            other.to_string().as_bytes().iter().fold(FNV_BASIS, mix).to_be_bytes()
        }
    }
}

fn status_of(failure: Failure) -> Status {
    match failure {
        Failure::Refused(Refusal::Conflict | Refusal::Lost) => Status::RESERVATION_CONFLICT.dnr(),
        Failure::Refused(
            Refusal::BadKey | Refusal::WrongKind | Refusal::BadMove | Refusal::NotLost,
        ) => Status::INVALID_FIELD.dnr(),
        Failure::Refused(Refusal::Full) => Status::INTERNAL_ERROR.dnr(),
        Failure::NotKept | Failure::Busy => Status::INTERNAL_ERROR,
        Failure::Gone => Status::INVALID_NAMESPACE.dnr(),
    }
}
