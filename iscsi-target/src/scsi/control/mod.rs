//! Commands that concern what nexuses share, executed on core 0: the device, its logical units, and
//! the nexuses that initiators have with it.

mod capacity;
mod config;
mod inquiry;
mod vital;

pub use config::{DeviceConfig, Nexus, Port, UnitConfig};

use super::{
    Access, Attention, ControlCommand, DataIn, Ending, Lun, Needs, Protection, Readiness, Sense,
    Unit, Units,
};
use std::collections::BTreeMap;
use storage_spec::scsi::sense::AdditionalSense;
use storage_spec::scsi::{Opcode, READ_CAPACITY_16};
use target_io::ConnectionId;

/// What must follow a command or a change, besides the reply to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// The nexus must be told this by `Attentions::post`.
    Attention(ConnectionId, Lun, Attention),
    /// Units look different to the nexus: give it a new snapshot, [`Device::units`], before any
    /// later reply goes to anybody.
    Units(ConnectionId),
}

/// A SCSI target device: one for each iSCSI target name.
#[derive(Debug)]
pub struct Device {
    config: DeviceConfig,
    units: BTreeMap<Lun, LogicalUnit>,
    nexuses: BTreeMap<ConnectionId, Nexus>,
    effects: Vec<Effect>,
}

/// A logical unit, with the state that nexuses share.
#[derive(Debug)]
struct LogicalUnit {
    config: UnitConfig,
}

impl Device {
    /// A device without units.
    #[must_use]
    pub fn new(config: DeviceConfig) -> Self {
        Self { config, units: BTreeMap::new(), nexuses: BTreeMap::new(), effects: Vec::new() }
    }

    /// What is to be done since the last call.
    pub fn drain_effects(&mut self) -> impl Iterator<Item = Effect> + '_ {
        self.effects.drain(..)
    }

    /// Lets an initiator in; [`Device::units`] is what its connection then needs, and attentions
    /// follow as effects.
    pub fn attach(&mut self, connection: ConnectionId, nexus: Nexus) {
        assert!(self.nexuses.insert(connection, nexus).is_none(), "a connection attaches once");
        for &lun in self.units.keys() {
            self.effects.push(Effect::Attention(connection, lun, Attention::PowerOnOrReset));
        }
    }

    /// The nexus is lost: its connection has ended.
    pub fn detach(&mut self, connection: ConnectionId) {
        self.nexuses.remove(&connection);
    }

    /// Units as a nexus sees them.
    #[must_use]
    pub fn units(&self, connection: ConnectionId) -> Units {
        let count = self.units.last_key_value().map_or(0, |(lun, _)| usize::from(lun.0) + 1);
        let mut units = vec![None; count];
        for (lun, unit) in &self.units {
            units[usize::from(lun.0)] = Some(unit.seen_by(connection));
        }
        units.into()
    }

    /// Adds a unit; false if there is one with this number.
    pub fn add(&mut self, lun: Lun, config: UnitConfig) -> bool {
        assert!(lun.0 < super::LUNS_MAX, "LUNs are bounded");
        if self.units.contains_key(&lun) {
            return false;
        }
        self.units.insert(lun, LogicalUnit { config });
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
        for &connection in self.nexuses.keys() {
            self.effects.push(Effect::Units(connection));
            self.effects.push(Effect::Attention(connection, lun, Attention::CapacityChanged));
        }
        true
    }

    fn units_changed(&mut self) {
        for &connection in self.nexuses.keys() {
            self.effects.push(Effect::Units(connection));
            for &lun in self.units.keys() {
                let attention = Attention::ReportedLunsChanged;
                self.effects.push(Effect::Attention(connection, lun, attention));
            }
        }
    }

    /// Executes a command. Its data-out, if it needs some, are `data`.
    pub fn execute<B>(
        &mut self,
        connection: ConnectionId,
        command: &ControlCommand,
        data: &[u8],
    ) -> Ending<B> {
        let descriptor = self.descriptor_sense(command.lun);
        match self.dispatch(connection, command, data) {
            Ok(bytes) if bytes.is_empty() => Ending::good(DataIn::None),
            Ok(bytes) => Ending::good(DataIn::Bytes(bytes)),
            Err(sense) => Ending::check(sense.with_format(descriptor)),
        }
    }

    fn dispatch(
        &mut self,
        connection: ConnectionId,
        command: &ControlCommand,
        _data: &[u8],
    ) -> Result<Vec<u8>, Sense> {
        let cdb = &command.cdb;
        let unit = command.lun.and_then(|lun| self.units.get(&lun));
        let nexus = &self.nexuses[&connection];
        match Opcode(cdb[0]) {
            Opcode::Inquiry => return self.inquiry(cdb, command.lun, nexus),
            Opcode::ReportLuns => return self.report_luns(cdb),
            _ => {}
        }
        let unit = unit.ok_or(Sense::illegal(AdditionalSense::LogicalUnitNotSupported))?;
        match Opcode(cdb[0]) {
            Opcode::ReadCapacity10 => Ok(unit.capacity_10()),
            Opcode::ServiceActionIn16 => Ok(cut(unit.capacity_16(), allocation_32(cdb, 10))),
            _ => Err(Sense::illegal(AdditionalSense::InvalidOpcode)),
        }
    }

    fn descriptor_sense(&self, lun: Option<Lun>) -> bool {
        let unit = lun.and_then(|lun| self.units.get(&lun));
        unit.is_some_and(|unit| unit.descriptor_sense())
    }
}

impl LogicalUnit {
    fn seen_by(&self, _connection: ConnectionId) -> Unit {
        let protection = if self.config.read_only { Protection::Volume } else { Protection::None };
        Unit {
            volume: self.config.volume,
            uuid: self.config.uuid,
            capacity: self.config.capacity,
            block_shift: self.config.block_shift,
            protection,
            access: Access::All,
            descriptor_sense: self.descriptor_sense(),
            readiness: Readiness::Ready,
        }
    }

    fn descriptor_sense(&self) -> bool {
        false
    }
}

/// What a command of this module needs; `None` for commands of others.
pub(super) fn needs(cdb: &[u8; 16]) -> Option<Result<Needs, Sense>> {
    let data_in = |max: u32| Some(Ok(Needs { data_in_max: max, ..Needs::default() }));
    match Opcode(cdb[0]) {
        Opcode::Inquiry => data_in(allocation_16(cdb, 3) as u32),
        Opcode::ReportLuns => data_in(allocation_32(cdb, 6) as u32),
        Opcode::ReadCapacity10 => data_in(8),
        Opcode::ServiceActionIn16 if cdb[1] & 0x1F == READ_CAPACITY_16 => {
            data_in(allocation_32(cdb, 10) as u32)
        }
        _ => None,
    }
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
