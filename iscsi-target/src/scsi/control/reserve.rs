//! PERSISTENT RESERVE IN and OUT (SPC-4 sections 6.15 and 6.16), RESERVE and RELEASE (SPC-2).
//!
//! Tables are not kept here: orders go out as [`Effect::Reserve`], and the table as it then is
//! comes in by [`Device::set_reservations`], before the order's result. What is read is made from
//! what came in last.

use super::transport_id::{TransportId, parse_transport_ids, transport_id};
use super::{Device, Effect, LogicalUnit, Outcome, Pending, allocation_16, cut};
use crate::scsi::{Attention, DataIn, Ending, Lun, Sense, Status};
use core::convert::Infallible;
use reservations::{
    Current, Failure, Kind, Notice, Notify, Order, Persist, REGISTRANTS_MAX, Refusal, Registrant,
    Table,
};
use std::collections::BTreeSet;
use std::sync::Arc;
use storage_spec::scsi::parameter::{FullStatus, ReserveMove, ReserveOut};
use storage_spec::scsi::sense::{AdditionalSense, SenseKey};
use target_io::{ConnectionId, VolumeIndex};
use zerocopy::big_endian::{U16, U32, U64};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

const SPEC_I_PT: u8 = 0x08;
const APTPL: u8 = 0x01;
const UNREG: u8 = 0x02;

/// CRH, SIP_C, ATP_C, PTPL_C and RLR_C of REPORT CAPABILITIES.
const CAPABILITIES: u8 = 0x9D;
/// TMV, and commands allowed as SPC-4 has them (ALLOW COMMANDS 1).
const TYPES_VALID: u8 = 0x90;
/// Every type there is.
const TYPES: [u8; 2] = [0xEA, 0x01];

/// What the surroundings call.
impl Device {
    /// The reservation table of a volume is now this one. Nexuses are given the access that it
    /// leaves, then those are told that are to be.
    pub fn set_reservations(
        &mut self,
        volume: VolumeIndex,
        table: &Arc<Table>,
        notices: &[Notify],
    ) {
        let mut units = self.units.iter_mut();
        let Some((&lun, unit)) = units.find(|(_, unit)| unit.config.volume == volume) else {
            return;
        };
        unit.reservations = table.clone();
        for &connection in self.nexuses.keys() {
            self.effects.push_back(Effect::Units(connection));
        }
        for notice in notices {
            let attention = match notice.what {
                Notice::RegistrationPreempted => Attention::RegistrationsPreempted,
                Notice::ReservationReleased => Attention::ReservationsReleased,
                Notice::ReservationPreempted => Attention::ReservationsPreempted,
            };
            let told: Vec<_> = self.connections_of(&notice.who).collect();
            for connection in told {
                self.effects.push_back(Effect::Attention(connection, lun, attention));
            }
        }
    }

    /// Answers an [`Effect::Reserve`].
    ///
    /// # Panics
    /// If the token is not that of an effect, or was answered before.
    pub fn reservation_result(&mut self, token: u64, result: Result<(), Failure>) {
        let pending = self.pending.remove(&token).expect("an order has one result");
        let Pending { connection, tag: Some(tag), descriptor_sense } = pending else { return };
        let ending = match result {
            Ok(()) => Ending::good(DataIn::None),
            Err(failure) => failed(failure, descriptor_sense),
        };
        if self.nexuses.contains_key(&connection) {
            self.effects.push_back(Effect::End(connection, tag, ending));
        }
    }

    /// Connections of a registrant: whose tasks to abort when it is preempted.
    pub fn connections_of(&self, who: &Registrant) -> impl Iterator<Item = ConnectionId> {
        let of = self.nexuses.iter().filter(move |(_, nexus)| nexus.registrant() == *who);
        of.map(|(&connection, _)| connection)
    }
}

impl Device {
    /// Gives an order to the table of a unit.
    pub(super) fn order(&mut self, pending: Pending, lun: Lun, who: Registrant, order: Order) {
        let volume = self.units[&lun].config.volume;
        let token = self.token;
        self.token += 1;
        self.pending.insert(token, pending);
        self.effects.push_back(Effect::Reserve { volume, who, order, token });
    }

    /// A reservation by RESERVE ends with the session, and with a reset of the unit.
    pub(super) fn end_unit_reservations(
        &mut self,
        ends: impl Fn(Lun, &Registrant) -> bool,
        connection: ConnectionId,
    ) {
        let holders = self.units.iter().filter_map(|(&lun, unit)| {
            let holder = unit.reservations.unit_holder()?;
            ends(lun, holder).then(|| (lun, holder.clone()))
        });
        let holders: Vec<_> = holders.collect();
        for (lun, holder) in holders {
            let pending = Pending { connection, tag: None, descriptor_sense: false };
            self.order(pending, lun, holder, Order::ReleaseUnit);
        }
    }

    /// RESERVE and RELEASE of either length.
    pub(super) fn reserve_unit(
        &mut self,
        pending: Pending,
        lun: Lun,
        is_release: bool,
    ) -> Result<Outcome, Sense> {
        let who = self.nexuses[&pending.connection].registrant();
        let table = &self.units[&lun].reservations;
        // To release what another holds does nothing, and is no error (SPC-2 section 7.14).
        if is_release && table.unit_holder().is_some_and(|holder| *holder != who) {
            return Ok(Outcome::Data(Vec::new()));
        }
        let order = if is_release { Order::ReleaseUnit } else { Order::ReserveUnit };
        self.order(pending, lun, who, order);
        Ok(Outcome::Later)
    }

    /// PERSISTENT RESERVE OUT.
    pub(super) fn reserve_out(
        &mut self,
        pending: Pending,
        lun: Lun,
        cdb: &[u8; 16],
        list: &[u8],
    ) -> Result<Outcome, Sense> {
        let nexus = &self.nexuses[&pending.connection];
        let who = nexus.registrant();
        let order = match cdb[1] & 0x1F {
            7 => self.move_order(list)?,
            0..=8 => self.basic_order(cdb, list, &who)?,
            _ => return Err(Sense::cdb_bit(1, 4)),
        };
        self.order(pending, lun, who, order);
        Ok(Outcome::Later)
    }

    fn basic_order(&self, cdb: &[u8; 16], list: &[u8], who: &Registrant) -> Result<Order, Sense> {
        let too_short = Sense::illegal(AdditionalSense::ParameterListLengthError);
        let (head, rest) = ReserveOut::read_from_prefix(list).map_err(|_| too_short)?;
        let service = cdb[1] & 0x1F;
        let (key, action_key) = (head.key.get(), head.action_key.get());
        let has_ids = head.flags & SPEC_I_PT != 0;
        if has_ids && service != 0 {
            return Err(Sense::list_byte(20));
        }
        if !has_ids && !rest.is_empty() {
            return Err(too_short);
        }
        let persist = if head.flags & APTPL != 0 { Persist::On } else { Persist::Off };
        let kind = || {
            // The scope is the unit; all other types and scopes are obsolete.
            if cdb[2] >> 4 != 0 {
                return Err(Sense::cdb_bit(2, 7));
            }
            Kind::from_scsi(cdb[2] & 0xF).ok_or(Sense::cdb_bit(2, 3))
        };
        Ok(match service {
            0 | 6 => {
                let current = match (service, key) {
                    (6, _) => Current::Any,
                    (_, 0) => Current::None,
                    (_, key) => Current::Is(key),
                };
                let also = if has_ids { self.named(rest, who)? } else { Vec::new() };
                match action_key {
                    0 if has_ids => return Err(Sense::list_byte(8)),
                    0 => Order::Unregister { current, persist },
                    // There is one target port: ALL_TG_PT asks for no more.
                    _ => Order::Register { current, key: action_key, also, persist },
                }
            }
            1 => Order::Reserve { key, kind: kind()? },
            2 => Order::Release { key, kind: kind()? },
            3 => Order::Clear { key },
            4 | 5 => {
                let abort = service == 5;
                Order::Preempt { key, victim: action_key, kind: kind()?, abort }
            }
            _ => Order::ReplaceLost { key: action_key, kind: kind()? },
        })
    }

    /// The nexuses of SPEC_I_PT.
    fn named(&self, rest: &[u8], who: &Registrant) -> Result<Vec<Registrant>, Sense> {
        let tag = self.config.ports.first().map_or(1, |port| port.tag);
        let len = rest.get(..4).ok_or(Sense::list_byte(24))?;
        let len = u32::from_be_bytes([len[0], len[1], len[2], len[3]]) as usize;
        let ids = rest[4..].get(..len).ok_or(Sense::list_byte(24))?;
        let mut ids = parse_transport_ids(ids).ok_or(Sense::list_byte(28))?;
        ids.sort_unstable();
        ids.dedup();
        let mut also = BTreeSet::new();
        for id in ids {
            let named: Vec<_> = self.resolve(&id, tag);
            if named.is_empty() {
                return Err(Sense::list_byte(28));
            }
            also.extend(named.into_iter().filter(|other| other != who));
            if also.len() > REGISTRANTS_MAX {
                return Err(refused(Refusal::Full));
            }
        }
        Ok(also.into_iter().collect())
    }

    /// Who a TransportID stands for: one initiator port, or all that have come from a device.
    fn resolve(&self, id: &TransportId, tag: u16) -> Vec<Registrant> {
        match id.isid {
            Some(isid) => reservations::Nexus::new(&id.name, isid, tag)
                .map(Registrant::Scsi)
                .into_iter()
                .collect(),
            None => self
                .nexuses
                .values()
                .filter(|nexus| nexus.initiator == id.name)
                .map(super::Nexus::registrant)
                .collect(),
        }
    }

    fn move_order(&self, list: &[u8]) -> Result<Order, Sense> {
        let too_short = Sense::illegal(AdditionalSense::ParameterListLengthError);
        let (head, rest) = ReserveMove::read_from_prefix(list).map_err(|_| too_short)?;
        let port = head.relative_port.get();
        let port = self.config.ports.iter().find(|other| other.relative == port);
        let port = port.ok_or(Sense::list_byte(18))?;
        let ids = rest.get(..head.transport_id_len.get() as usize).ok_or(too_short)?;
        let ids = parse_transport_ids(ids).ok_or(Sense::list_byte(24))?;
        let [id] = &ids[..] else { return Err(Sense::list_byte(20)) };
        // The receiver is one initiator port.
        let mut to = self.resolve(id, port.tag);
        let to = to.pop().filter(|_| id.isid.is_some()).ok_or(Sense::list_byte(24))?;
        if head.action_key.get() == 0 {
            return Err(Sense::list_byte(8));
        }
        Ok(Order::Move {
            key: head.key.get(),
            new_key: head.action_key.get(),
            to,
            unregister: head.flags & UNREG != 0,
            persist: if head.flags & APTPL != 0 { Persist::On } else { Persist::Off },
        })
    }

    /// PERSISTENT RESERVE IN.
    pub(super) fn reserve_in(&self, unit: &LogicalUnit, cdb: &[u8; 16]) -> Result<Vec<u8>, Sense> {
        let table = &unit.reservations;
        if table.is_lost() {
            return Err(lost());
        }
        let body = match cdb[1] & 0x1F {
            0 => table.registrations().flat_map(|entry| entry.key.to_be_bytes()).collect(),
            1 => reservation(table),
            2 => {
                let active = u8::from(table.persists());
                let [low, high] = TYPES;
                let data = vec![0, 8, CAPABILITIES, TYPES_VALID | active, low, high, 0, 0];
                return Ok(cut(data, allocation_16(cdb, 7)));
            }
            3 => self.full_status(table),
            _ => return Err(Sense::cdb_bit(1, 4)),
        };
        let mut data = table.generation().to_be_bytes().to_vec();
        data.extend_from_slice(&(body.len() as u32).to_be_bytes());
        data.extend_from_slice(&body);
        Ok(cut(data, allocation_16(cdb, 7)))
    }

    fn full_status(&self, table: &Table) -> Vec<u8> {
        let kind = table.reservation().map_or(0, |reservation| reservation.kind.scsi());
        let mut data = Vec::new();
        for entry in table.registrations() {
            let id = transport_id(entry.who);
            let mut status = FullStatus::new_zeroed();
            status.key = U64::new(entry.key);
            if entry.is_holder {
                status.flags = 1;
                status.scope_type = kind;
            }
            let tag = match entry.who {
                Registrant::Scsi(nexus) => nexus.portal_group(),
                Registrant::Nvme { .. } => 0,
            };
            let port = self.config.ports.iter().find(|port| port.tag == tag);
            status.relative_port = U16::new(port.map_or(0, |port| port.relative));
            status.transport_id_len = U32::new(id.len() as u32);
            data.extend_from_slice(status.as_bytes());
            data.extend_from_slice(&id);
        }
        data
    }
}

/// READ RESERVATION after its header.
fn reservation(table: &Table) -> Vec<u8> {
    let Some(reservation) = table.reservation() else { return Vec::new() };
    let mut data = reservation.key.to_be_bytes().to_vec();
    data.extend_from_slice(&[0, 0, 0, 0, 0, reservation.kind.scsi(), 0, 0]);
    data
}

fn failed(failure: Failure, descriptor_sense: bool) -> Ending<Infallible> {
    let sense = match failure {
        Failure::Busy => return Ending::status(Status::Busy),
        Failure::Refused(Refusal::Conflict) => {
            return Ending::status(Status::ReservationConflict);
        }
        Failure::Refused(refusal) => refused(refusal),
        Failure::NotKept => {
            Sense::new(SenseKey::HardwareError, AdditionalSense::InternalTargetFailure)
        }
        Failure::Gone => Sense::illegal(AdditionalSense::LogicalUnitNotSupported),
    };
    Ending::check(sense.with_format(descriptor_sense))
}

fn refused(refusal: Refusal) -> Sense {
    match refusal {
        Refusal::BadKey | Refusal::Conflict => Sense::list_byte(8),
        Refusal::WrongKind => {
            Sense::illegal(AdditionalSense::InvalidReleaseOfPersistentReservation)
        }
        Refusal::BadMove => Sense::list_byte(24),
        Refusal::Full => Sense::illegal(AdditionalSense::InsufficientRegistrationResources),
        Refusal::Lost => lost(),
        Refusal::NotLost => Sense::cdb_bit(1, 4),
    }
}

fn lost() -> Sense {
    Sense::new(SenseKey::HardwareError, AdditionalSense::ReservationInformationLost)
}
