//! Commands that concern what nexuses share, executed on core 0: the device, its logical units, and
//! the nexuses that initiators have with it.

mod capacity;
mod config;
mod groups;
mod inquiry;
mod log;
mod mode;
mod reserve;
pub(super) mod supported;
mod transport_id;
pub(super) mod vital;

pub use config::{DeviceConfig, Nexus, Port, UnitConfig};
pub use groups::AccessState;
pub use log::Usage;

use super::{
    Access, Attention, ControlCommand, DataIn, Ending, Lun, Needs, PARAMETER_LIST_MAX, Protection,
    Sense, Unit, Units,
};
use core::convert::Infallible;
use groups::PortGroup;
use mode::Modes;
use reservations::{Order, Registrant, Table};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use storage_spec::scsi::sense::AdditionalSense;
use storage_spec::scsi::{
    Opcode, READ_CAPACITY_16, REPORT_SUPPORTED_OPCODES, REPORT_SUPPORTED_TMFS,
    REPORT_TARGET_PORT_GROUPS, SET_TARGET_PORT_GROUPS,
};
use target_io::{ConnectionId, VolumeIndex};

/// What is to be done, in this order.
#[derive(Debug)]
pub enum Effect {
    /// The nexus must be told this by `Attentions::post`.
    Attention(ConnectionId, Lun, Attention),
    /// Units look different to the nexus: give it a new snapshot, [`Device::units`], before any
    /// later effect is carried out.
    Units(ConnectionId),
    /// A command of [`Device::execute`] has ended, with the tag that it came with.
    End(ConnectionId, u16, Ending<Infallible>),
    /// Give this order to the volume's reservation table, keep the table over restarts if it says
    /// so, and tell every target of what changed ([`Device::set_reservations`]); then say by
    /// [`Device::reservation_result`] what came of it, with the same token.
    Reserve {
        /// The volume.
        volume: VolumeIndex,
        /// Whose order it is.
        who: Registrant,
        /// The order.
        order: Order,
        /// Returned with the result.
        token: u64,
    },
}

/// A SCSI target device: one for each iSCSI target name.
#[derive(Debug)]
pub struct Device {
    config: DeviceConfig,
    units: BTreeMap<Lun, LogicalUnit>,
    nexuses: BTreeMap<ConnectionId, Nexus>,
    group: PortGroup,
    effects: VecDeque<Effect>,
    /// Orders under way, by token.
    pending: BTreeMap<u64, Pending>,
    token: u64,
}

/// A logical unit, with the state that nexuses share.
#[derive(Debug)]
struct LogicalUnit {
    config: UnitConfig,
    modes: Modes,
    usage: Usage,
    /// The table as it was last told.
    reservations: Arc<Table>,
}

/// A command whose order is under way; without a tag nobody waits for it.
#[derive(Debug, Clone, Copy)]
struct Pending {
    connection: ConnectionId,
    tag: Option<u16>,
    descriptor_sense: bool,
}

/// What came of a command for now.
enum Outcome {
    /// It has succeeded, with these data.
    Data(Vec<u8>),
    /// It ends later.
    Later,
}

/// The device as the node sees it.
impl Device {
    /// A device without units.
    #[must_use]
    pub fn new(config: DeviceConfig) -> Self {
        Self {
            config,
            units: BTreeMap::new(),
            nexuses: BTreeMap::new(),
            group: PortGroup::new(),
            effects: VecDeque::new(),
            pending: BTreeMap::new(),
            token: 0,
        }
    }

    /// What is to be done next.
    pub fn take_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// Lets an initiator in; [`Device::units`] is what its connection then needs, and attentions
    /// follow as effects.
    ///
    /// # Panics
    /// If the connection is attached already, or the initiator's name is not one.
    pub fn attach(&mut self, connection: ConnectionId, nexus: Nexus) {
        assert!(nexus.is_valid(), "names are checked by the login");
        assert!(self.nexuses.insert(connection, nexus).is_none(), "a connection attaches once");
        for &lun in self.units.keys() {
            let attention = Attention::PowerOnOrReset;
            self.effects.push_back(Effect::Attention(connection, lun, attention));
        }
    }

    /// The nexus is lost: its connection has ended.
    pub fn detach(&mut self, connection: ConnectionId) {
        let Some(nexus) = self.nexuses.remove(&connection) else { return };
        let who = nexus.registrant();
        self.end_unit_reservations(|_, holder| *holder == who, connection);
    }

    /// A task management function reset this unit, or all: every nexus is told, and what ends with
    /// a reset does. Tasks are ended by the transport.
    pub fn reset(&mut self, lun: Option<Lun>) {
        let luns: Vec<_> = match lun {
            Some(lun) => self.units.contains_key(&lun).then_some(lun).into_iter().collect(),
            None => self.units.keys().copied().collect(),
        };
        let nobody = ConnectionId(0);
        self.end_unit_reservations(|lun, _| luns.contains(&lun), nobody);
        for lun in &luns {
            self.units.get_mut(lun).expect("just listed").modes = Modes::default();
        }
        self.changed(&luns, None, Attention::Reset);
    }

    /// Units as a nexus sees them.
    #[must_use]
    pub fn units(&self, connection: ConnectionId) -> Units {
        let Some(nexus) = self.nexuses.get(&connection) else { return Units::default() };
        let who = nexus.registrant();
        let count = self.units.last_key_value().map_or(0, |(lun, _)| usize::from(lun.0) + 1);
        let mut units = vec![None; count];
        for (lun, unit) in &self.units {
            let readiness = self.group.state.readiness();
            units[usize::from(lun.0)] = Some(Unit { readiness, ..unit.seen_by(&who) });
        }
        units.into()
    }

    /// Adds a unit; false if there is one with this number. If its volume has reservations,
    /// [`Device::set_reservations`] must follow.
    ///
    /// # Panics
    /// If the number is not below [`LUNS_MAX`](super::LUNS_MAX).
    pub fn add(&mut self, lun: Lun, config: UnitConfig) -> bool {
        assert!(lun.0 < super::LUNS_MAX, "LUNs are bounded");
        if self.units.contains_key(&lun) {
            return false;
        }
        self.units.insert(lun, LogicalUnit::new(config));
        self.units_changed();
        true
    }

    /// Removes a unit; false if there is none. Commands under way end by themselves.
    pub fn remove(&mut self, lun: Lun) -> bool {
        let is_there = self.units.remove(&lun).is_some();
        if is_there {
            self.units_changed();
        }
        is_there
    }

    /// A unit's volume has another size; false if there is no such unit.
    pub fn resize(&mut self, lun: Lun, capacity: u64) -> bool {
        let Some(unit) = self.units.get_mut(&lun) else { return false };
        unit.config.capacity = capacity;
        self.changed(&[lun], None, Attention::CapacityChanged);
        true
    }

    /// Whether a unit may be written to is another; false if there is no such unit.
    pub fn protect(&mut self, lun: Lun, read_only: bool) -> bool {
        let Some(unit) = self.units.get_mut(&lun) else { return false };
        unit.config.read_only = read_only;
        self.changed(&[lun], None, Attention::ModeParametersChanged);
        true
    }

    /// What a unit's volume uses of its disk, for its log page.
    pub fn set_usage(&mut self, lun: Lun, usage: Usage) {
        if let Some(unit) = self.units.get_mut(&lun) {
            unit.usage = usage;
        }
    }

    /// Space for a unit runs out: every nexus is told.
    pub fn warn_of_space(&mut self, lun: Lun) {
        self.attention(lun, None, Attention::ThinProvisioningThreshold);
    }

    fn units_changed(&mut self) {
        for &connection in self.nexuses.keys() {
            self.effects.push_back(Effect::Units(connection));
            for &lun in self.units.keys() {
                let attention = Attention::ReportedLunsChanged;
                self.effects.push_back(Effect::Attention(connection, lun, attention));
            }
        }
    }

    /// Units look different: every nexus sees them so, and all but one are told.
    fn changed(&mut self, luns: &[Lun], except: Option<ConnectionId>, attention: Attention) {
        for &connection in self.nexuses.keys() {
            self.effects.push_back(Effect::Units(connection));
        }
        for &lun in luns {
            self.attention(lun, except, attention);
        }
    }

    fn attention(&mut self, lun: Lun, except: Option<ConnectionId>, attention: Attention) {
        let told = self.nexuses.keys().filter(|&&connection| Some(connection) != except);
        for &connection in told {
            self.effects.push_back(Effect::Attention(connection, lun, attention));
        }
    }
}

/// Commands.
impl Device {
    /// Executes a command. Its data-out, if it needs some, are `data`. It ends with
    /// [`Effect::End`], now or later, unless the connection is detached before.
    pub fn execute(
        &mut self,
        connection: ConnectionId,
        tag: u16,
        command: &ControlCommand,
        data: &[u8],
    ) {
        if !self.nexuses.contains_key(&connection) {
            return;
        }
        let unit = command.lun.and_then(|lun| self.units.get(&lun));
        let descriptor_sense = unit.is_some_and(|unit| unit.modes.descriptor_sense);
        let pending = Pending { connection, tag: Some(tag), descriptor_sense };
        let ending = match self.dispatch(pending, command, data) {
            Ok(Outcome::Later) => return,
            Ok(Outcome::Data(bytes)) if bytes.is_empty() => Ending::good(DataIn::None),
            Ok(Outcome::Data(bytes)) => Ending::good(DataIn::Bytes(bytes)),
            Err(sense) => Ending::check(sense.with_format(descriptor_sense)),
        };
        self.effects.push_back(Effect::End(connection, tag, ending));
    }

    fn dispatch(
        &mut self,
        pending: Pending,
        command: &ControlCommand,
        data: &[u8],
    ) -> Result<Outcome, Sense> {
        let (cdb, connection) = (&command.cdb, pending.connection);
        let opcode = Opcode(cdb[0]);
        let nexus = &self.nexuses[&connection];
        match opcode {
            Opcode::Inquiry => return self.inquiry(cdb, command.lun, nexus).map(Outcome::Data),
            Opcode::ReportLuns => return self.report_luns(cdb).map(Outcome::Data),
            _ => {}
        }
        let lun = command.lun.filter(|lun| self.units.contains_key(lun));
        // It may have gone while the command was on its way.
        let lun = lun.ok_or(Sense::illegal(AdditionalSense::LogicalUnitNotSupported))?;
        match opcode {
            Opcode::Reserve6 | Opcode::Reserve10 => self.reserve_unit(pending, lun, false),
            Opcode::Release6 | Opcode::Release10 => self.reserve_unit(pending, lun, true),
            Opcode::PersistentReserveOut => self.reserve_out(pending, lun, cdb, data),
            Opcode::ModeSelect6 | Opcode::ModeSelect10 => {
                self.mode_select(connection, lun, cdb, data).map(Outcome::Data)
            }
            Opcode::MaintenanceOut => self.set_groups(connection, data).map(Outcome::Data),
            _ => self.read_only(lun, cdb).map(Outcome::Data),
        }
    }

    /// Commands that change nothing.
    fn read_only(&self, lun: Lun, cdb: &[u8; 16]) -> Result<Vec<u8>, Sense> {
        let unit = &self.units[&lun];
        match Opcode(cdb[0]) {
            Opcode::ReadCapacity10 => Ok(unit.capacity_10()),
            Opcode::ServiceActionIn16 => Ok(cut(unit.capacity_16(), allocation_32(cdb, 10))),
            Opcode::ModeSense6 | Opcode::ModeSense10 => unit.mode_sense(cdb),
            Opcode::LogSense => unit.log_sense(cdb),
            Opcode::ReadDefectData10 | Opcode::ReadDefectData12 => Ok(supported::defects(cdb)),
            Opcode::PersistentReserveIn => self.reserve_in(unit, cdb),
            Opcode::MaintenanceIn => match cdb[1] & 0x1F {
                REPORT_TARGET_PORT_GROUPS => self.report_groups(cdb),
                REPORT_SUPPORTED_OPCODES => supported::opcodes(cdb),
                _ => supported::functions(cdb),
            },
            _ => Err(Sense::illegal(AdditionalSense::InvalidOpcode)),
        }
    }
}

impl LogicalUnit {
    fn new(config: UnitConfig) -> Self {
        let (modes, usage) = (Modes::default(), Usage::default());
        Self { config, modes, usage, reservations: Arc::default() }
    }

    fn seen_by(&self, who: &Registrant) -> Unit {
        let protection = match (self.config.read_only, self.modes.write_protect) {
            (true, _) => Protection::Volume,
            (false, true) => Protection::Software,
            (false, false) => Protection::None,
        };
        let access = match self.reservations.access(who) {
            _ if self.reservations.unit_holder().is_some_and(|holder| holder != who) => {
                Access::Reserved
            }
            reservations::Access { write: true, .. } => Access::All,
            reservations::Access { read: true, .. } => Access::ReadOnly,
            _ => Access::None,
        };
        Unit {
            volume: self.config.volume,
            uuid: self.config.uuid,
            capacity: self.config.capacity,
            block_shift: self.config.block_shift,
            protection,
            access,
            descriptor_sense: self.modes.descriptor_sense,
            readiness: super::Readiness::Ready,
        }
    }
}

/// What a command of this module needs; `None` for commands of others.
pub(super) fn needs(cdb: &[u8; 16]) -> Option<Result<Needs, Sense>> {
    let data_in = |max: usize| Some(Ok(Needs { data_in_max: max as u32, ..Needs::default() }));
    let service = cdb[1] & 0x1F;
    match Opcode(cdb[0]) {
        Opcode::Inquiry => data_in(allocation_16(cdb, 3)),
        Opcode::ReportLuns => data_in(allocation_32(cdb, 6)),
        Opcode::ReadCapacity10 => data_in(8),
        Opcode::ServiceActionIn16 if service == READ_CAPACITY_16 => data_in(allocation_32(cdb, 10)),
        Opcode::ModeSense6 => data_in(cdb[4].into()),
        Opcode::ModeSense10
        | Opcode::LogSense
        | Opcode::ReadDefectData10
        | Opcode::PersistentReserveIn => data_in(allocation_16(cdb, 7)),
        Opcode::ReadDefectData12 => data_in(allocation_32(cdb, 6)),
        Opcode::MaintenanceIn => match service {
            REPORT_TARGET_PORT_GROUPS | REPORT_SUPPORTED_OPCODES | REPORT_SUPPORTED_TMFS => {
                data_in(allocation_32(cdb, 6))
            }
            _ => Some(Err(Sense::cdb_bit(1, 4))),
        },
        Opcode::Reserve6 | Opcode::Reserve10 | Opcode::Release6 | Opcode::Release10 => data_in(0),
        Opcode::ModeSelect6 => Some(list(cdb[4].into(), 4)),
        Opcode::ModeSelect10 => Some(list(allocation_16(cdb, 7), 7)),
        Opcode::PersistentReserveOut => Some(list(allocation_32(cdb, 5), 5)),
        Opcode::MaintenanceOut if service == SET_TARGET_PORT_GROUPS => {
            Some(list(allocation_32(cdb, 6), 6))
        }
        Opcode::MaintenanceOut => Some(Err(Sense::cdb_bit(1, 4))),
        _ => None,
    }
}

/// A parameter list of so many bytes, which the CDB tells at a place.
pub(super) fn list(len: usize, at: u16) -> Result<Needs, Sense> {
    if len > PARAMETER_LIST_MAX as usize {
        return Err(Sense::cdb_byte(at));
    }
    Ok(Needs { data_out: len as u32, ..Needs::default() })
}

/// A two-byte length at a place of the CDB.
fn allocation_16(cdb: &[u8; 16], at: usize) -> usize {
    u16::from_be_bytes([cdb[at], cdb[at + 1]]).into()
}

/// A four-byte length at a place of the CDB.
fn allocation_32(cdb: &[u8; 16], at: usize) -> usize {
    u32::from_be_bytes([cdb[at], cdb[at + 1], cdb[at + 2], cdb[at + 3]]) as usize
}

/// Data as far as the allocation length goes, which is no error (SPC-4 section 4.2.5.6).
fn cut(mut data: Vec<u8>, allocation: usize) -> Vec<u8> {
    data.truncate(allocation);
    data
}
