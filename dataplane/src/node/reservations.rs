//! Reservations of volumes: one table for each, which the targets of all protocols give their
//! orders to and are told the changes of.
//!
//! An order is carried out on a copy of the table. If the table persists, its record is made
//! durable first; then the copy takes the table's place, every target is told, and the order is
//! answered: behind the new access, since [`Control`] holds replies back until every core has
//! taken that over, and, if commands are to be aborted, behind their end. One order of a volume
//! at a time.

use super::Severity;
use super::control::Control;
use super::jobs::{Progress, Step, Volume};
use super::record::{KeptPart, reservation_keys};
use crate::core::ShardCommand;
use crate::store::{self, VALUE_MAX};
use nvmeof_target::io::VolumeIndex;
use reservations::{Failure, Keep, Notice, Order, Outcome, RECORD_MAX, Refusal, Registrant, Table};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use storage_spec::crc32c;
use storage_spec::reservation::{KeptHead, VERSION};
use uuid::Uuid;
use zerocopy::{FromBytes, IntoBytes};

/// Most orders of one volume that wait.
const ORDERS_MAX: usize = 1024;
/// Bytes of a record that go with the head into one catalogue entry.
const INLINE_MAX: usize = VALUE_MAX - size_of::<KeptHead>();
/// Most entries beside the head that a record takes.
const PARTS_MAX: usize = RECORD_MAX.div_ceil(VALUE_MAX);
const _: () = assert!(PARTS_MAX <= u8::MAX as usize);

/// Who is to be told what came of an order.
#[derive(Debug, Clone, Copy)]
pub(super) enum Asker {
    /// The NVMe target, by its token.
    Nvme(u64),
    /// The iSCSI target, by its token.
    Iscsi(u64),
}

/// An order.
#[derive(Debug)]
pub(super) struct Ask {
    asker: Asker,
    who: Registrant,
    order: Order,
}

/// The reservations of a volume.
#[derive(Default)]
pub(super) struct Reserved {
    pub(super) table: Arc<Table>,
    /// Orders that wait for the one being carried out.
    waiting: VecDeque<Ask>,
    is_busy: bool,
    kept: Kept,
}

/// What of the table lies in the catalogue.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Kept {
    has_head: bool,
    /// The set of parts that is in use.
    set: u8,
    /// Parts that there may be, of both sets.
    parts: [u8; 2],
}

/// An order whose record is on its way to the disk.
pub(super) struct Keeping {
    volume: VolumeIndex,
    ask: Ask,
    table: Table,
    outcome: Outcome,
    /// The head, to be written when the parts are durable: with it they count.
    head: Option<(u8, Vec<u8>)>,
    /// The set of parts that is in use once the head is durable.
    set: Option<u8>,
}

/// Orders.
impl Control {
    /// Gives an order to the table of a volume; it is answered later.
    pub(super) fn reserve(
        &mut self,
        volume: VolumeIndex,
        asker: Asker,
        who: Registrant,
        order: Order,
    ) {
        let Some((_, reserved)) = self.reserved(volume) else {
            return self.answer_order(asker, Err(Failure::Gone));
        };
        if reserved.waiting.len() >= ORDERS_MAX {
            return self.answer_order(asker, Err(Failure::Busy));
        }
        reserved.waiting.push_back(Ask { asker, who, order });
        self.next_order(volume);
    }

    /// Answers the orders that wait for a volume that is being taken from hosts.
    pub(super) fn give_up_orders(&mut self, name: &str) {
        let volume = self.jobs.volumes.get_mut(name).expect("busy volumes stay");
        for ask in std::mem::take(&mut volume.reservations.waiting) {
            self.answer_order(ask.asker, Err(Failure::Gone));
        }
    }

    /// Tells the targets of a table that is not a new one.
    pub(super) fn show_reservations(&mut self, name: &str) {
        let volume = &self.jobs.volumes[name];
        if !volume.reservations.table.is_new() {
            let (index, table) = (volume.index, volume.reservations.table.clone());
            self.target.set_reservations(index, &table, &[]);
            self.iscsi.set_reservations(index, &table, &[]);
        }
    }

    fn next_order(&mut self, volume: VolumeIndex) {
        loop {
            let Some((_, reserved)) = self.reserved(volume) else { return };
            if reserved.is_busy {
                return;
            }
            let Some(ask) = reserved.waiting.pop_front() else { return };
            let mut table = Table::clone(&reserved.table);
            match table.apply(&ask.who, &ask.order) {
                Err(refusal) => self.answer_order(ask.asker, Err(refusal.into())),
                Ok(outcome) if outcome.keep == Keep::Unchanged => {
                    self.commit(volume, ask, table, outcome);
                }
                Ok(outcome) => {
                    reserved.is_busy = true;
                    let keeping = Keeping { volume, ask, table, outcome, head: None, set: None };
                    self.keep(Box::new(keeping));
                }
            }
        }
    }

    /// Makes the record durable.
    fn keep(&mut self, mut keeping: Box<Keeping>) {
        let (name, _) = self.reserved(keeping.volume).expect("the caller has seen it");
        let name = name.clone();
        let volume = self.jobs.volumes.get_mut(&name).expect("just found");
        let (disk, uuid) = (volume.disk, volume.record.uuid);
        let keys = |part| reservation_keys(uuid, part);
        let mut puts = Vec::new();
        let kept = &mut volume.reservations.kept;
        if keeping.outcome.keep == Keep::Write {
            let record = keeping.table.encode();
            let (head, parts) = kept.replace(&record);
            let set = kept.set ^ 1;
            let place = |part: usize| Some(KeptPart { set, number: part as u8 });
            puts.extend(
                parts.iter().enumerate().map(|(number, part)| (keys(place(number)), part.to_vec())),
            );
            if parts.is_empty() {
                puts.push((keys(None), head));
            } else {
                keeping.head = Some((set, head));
            }
        }
        self.spawn_after(None, |control, token| {
            let mut waiting = 0;
            for (key, value) in puts {
                waiting += control.put(disk, token, key, value);
            }
            if waiting == 0 {
                waiting = control.forget_entry(disk, token, keys(None));
            }
            (Step::ReservationsKept(keeping), waiting)
        });
    }

    /// The table is now another one: tells the targets, and answers the order.
    fn commit(&mut self, volume: VolumeIndex, ask: Ask, table: Table, outcome: Outcome) {
        let table = Arc::new(table);
        let (name, reserved) = self.reserved(volume).expect("the caller has seen it");
        let before = std::mem::replace(&mut reserved.table, table.clone());
        let name = name.clone();
        self.note_reservation(&name, &before, &ask.who, &outcome);
        self.target.set_reservations(volume, &table, &outcome.notices);
        self.iscsi.set_reservations(volume, &table, &outcome.notices);
        let queues = outcome.aborts.iter().flat_map(|who| self.target.io_queues_of(who));
        let sessions = outcome.aborts.iter().flat_map(|who| self.iscsi.connections_of(who));
        let preempted = queues.chain(sessions).collect();
        // Behind the new access, which the target has just ordered.
        self.collect_actions();
        self.drain(preempted, volume, ask.asker);
    }

    /// Tells who gave an order what came of it.
    pub(super) fn answer_order(&mut self, asker: Asker, result: Result<(), Failure>) {
        match asker {
            Asker::Nvme(token) => self.target.reservation_result(token, result),
            Asker::Iscsi(token) => self.iscsi.reservation_result(token, result),
        }
        self.collect_actions();
    }

    /// The volume and its reservations, if hosts see it.
    fn reserved(&mut self, volume: VolumeIndex) -> Option<(&String, &mut Reserved)> {
        let mut volumes = self.jobs.volumes.iter_mut();
        let found = volumes.find(|(_, other)| other.index == volume && other.is_shown);
        found.map(|(name, volume)| (name, &mut volume.reservations))
    }

    fn note_reservation(&self, name: &str, before: &Table, who: &Registrant, outcome: &Outcome) {
        let preempted = outcome.notices.iter();
        let preempted = preempted.filter(|notify| notify.what == Notice::RegistrationPreempted);
        for notify in preempted {
            let text = format!("volume {name}: {who} has preempted {}", notify.who);
            self.events.note(Severity::Info, "volume.preempted", text);
        }
        let table = &self.jobs.volumes[name].reservations.table;
        let kind = |table: &Table| table.reservation().map(|reservation| reservation.kind);
        let holder = |table: &Table| table.reservation().and_then(|held| held.holder.cloned());
        let text = match kind(table) {
            now if now == kind(before) && holder(table) == holder(before) => return,
            Some(kind) => format!("volume {name}: reserved by {who} ({kind:?})"),
            None => format!("volume {name}: its reservation was ended by {who}"),
        };
        self.events.note(Severity::Info, "volume.reserved", text);
    }
}

/// Steps.
impl Control {
    /// Catalogue entries of a record are durable, or one of them failed.
    pub(super) fn reservations_kept(
        &mut self,
        mut keeping: Box<Keeping>,
        failure: Option<store::Error>,
        token: u64,
    ) -> Progress {
        let volume = keeping.volume;
        let asker = keeping.ask.asker;
        let Some((name, reserved)) = self.reserved(volume) else {
            self.answer_order(asker, Err(Failure::Gone));
            return Progress::Done(Ok(super::Answer::Done));
        };
        if let Some(error) = failure {
            reserved.is_busy = false;
            let text = format!("volume {name}: its reservations were not kept: {error}");
            self.events.note(Severity::Error, "volume.failed", text);
            self.answer_order(asker, Err(Failure::NotKept));
        } else if let Some((set, head)) = keeping.head.take() {
            keeping.set = Some(set);
            let name = name.clone();
            let volume = &self.jobs.volumes[&name];
            let (disk, key) = (volume.disk, reservation_keys(volume.record.uuid, None));
            let waiting = self.put(disk, token, key, head);
            return Progress::Next(Step::ReservationsKept(keeping), waiting);
        } else {
            reserved.is_busy = false;
            reserved.kept.set = keeping.set.unwrap_or(reserved.kept.set);
            let Keeping { ask, table, outcome, .. } = *keeping;
            self.commit(volume, ask, table, outcome);
        }
        self.next_order(volume);
        Progress::Done(Ok(super::Answer::Done))
    }

    /// Deletes what the catalogue has of a volume's reservations; the number of answers to come.
    pub(super) fn forget_reservations(&mut self, name: &str, token: u64) -> u32 {
        let volume = &self.jobs.volumes[name];
        let (disk, uuid, kept) = (volume.disk, volume.record.uuid, volume.reservations.kept);
        let mut waiting = 0;
        for key in kept.entries().map(|part| reservation_keys(uuid, part)).collect::<Vec<_>>() {
            waiting += self.forget_entry(disk, token, key);
        }
        waiting
    }

    fn forget_entry(&mut self, disk: usize, token: u64, key: Vec<u8>) -> u32 {
        let shard = self.disks[disk].shards[0];
        self.command(shard, token, ShardCommand::Delete { key });
        1
    }
}

impl Kept {
    /// What replaces the record that is there: the head, and the parts that go before it, into the
    /// set that is not in use.
    fn replace<'a>(&mut self, record: &'a [u8]) -> (Vec<u8>, Vec<&'a [u8]>) {
        let parts: Vec<_> = match record.len() {
            0..=INLINE_MAX => Vec::new(),
            _ => record.chunks(VALUE_MAX).collect(),
        };
        self.has_head = true;
        let set = self.set ^ 1;
        let there = &mut self.parts[usize::from(set)];
        *there = (*there).max(parts.len() as u8);
        let head = KeptHead {
            version: VERSION.into(),
            set,
            parts: parts.len() as u8,
            len: (record.len() as u32).into(),
            crc: crc32c::checksum(record).into(),
        };
        let mut head = head.as_bytes().to_vec();
        if parts.is_empty() {
            head.extend_from_slice(record);
        }
        (head, parts)
    }

    /// Every entry that may be there.
    fn entries(self) -> impl Iterator<Item = Option<KeptPart>> {
        let parts = (0..2_u8).flat_map(move |set| {
            (0..self.parts[usize::from(set)]).map(move |number| Some(KeptPart { set, number }))
        });
        self.has_head.then_some(None).into_iter().chain(parts)
    }
}

/// What the catalogue of one disk holds of one volume's reservations, as it is read.
#[derive(Debug, Default)]
pub(super) struct Found {
    head: Option<Vec<u8>>,
    parts: BTreeMap<(u8, u8), Vec<u8>>,
}

/// Everything of this kind that was read, by disk and volume.
pub(super) type AllFound = BTreeMap<(usize, Uuid), Found>;

impl Found {
    /// Takes one entry.
    pub(super) fn add(&mut self, part: Option<KeptPart>, value: Vec<u8>) {
        match part {
            None => self.head = Some(value),
            Some(KeptPart { set, number }) => {
                self.parts.insert((set, number), value);
            }
        }
    }

    /// The reservations, and whether they were lost.
    pub(super) fn reserved(self) -> Reserved {
        let mut kept = Kept { has_head: self.head.is_some(), ..Kept::default() };
        for &(set, number) in self.parts.keys() {
            let there = &mut kept.parts[usize::from(set & 1)];
            *there = (*there).max(number.saturating_add(1));
        }
        let table = self.head.as_deref().map(|head| {
            let (set, record) = self.record(head)?;
            kept.set = set;
            Table::decode(&record).ok()
        });
        let table = match table {
            None => Table::new(),
            Some(None) => Table::lost(),
            Some(Some(table)) => table,
        };
        Reserved { table: Arc::new(table), kept, ..Reserved::default() }
    }

    /// The record that the head names, and in which set it is; `None` if it is not that.
    fn record(&self, head: &[u8]) -> Option<(u8, Vec<u8>)> {
        let (head, inline) = KeptHead::ref_from_prefix(head).ok()?;
        if head.version.get() != VERSION || head.set > 1 {
            return None;
        }
        let record = match head.parts {
            0 => inline.to_vec(),
            parts => {
                let part = |number| self.parts.get(&(head.set, number)).cloned();
                (0..parts).map(part).collect::<Option<Vec<_>>>()?.concat()
            }
        };
        let is_meant =
            record.len() == head.len.get() as usize && crc32c::checksum(&record) == head.crc.get();
        is_meant.then_some((head.set, record))
    }
}

impl Control {
    /// Takes over where the record of a volume's reservations lies on a disk that has come back: an
    /// order that failed with the disk may have moved it. The table itself is known.
    pub(super) fn adopt_kept(&mut self, name: &str, found: Found) {
        let volume = self.jobs.volumes.get_mut(name).expect("just seen");
        if !volume.reservations.is_busy {
            volume.reservations.kept = found.reserved().kept;
        }
    }

    /// Gives a volume the reservations that were found for it.
    pub(super) fn load_reservations(&mut self, name: &str, found: Found) {
        let reserved = found.reserved();
        if reserved.table.is_lost() {
            let text = format!(
                "volume {name}: its reservations are unreadable; no host may use it until one \
                 replaces them ({})",
                Refusal::Lost
            );
            self.events.note(Severity::Error, "volume.reservations_lost", text);
        }
        let volume: &mut Volume = self.jobs.volumes.get_mut(name).expect("just loaded");
        volume.reservations = reserved;
    }
}
