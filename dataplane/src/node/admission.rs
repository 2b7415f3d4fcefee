//! Disks that leave the cores and come to them, as control sees it.
//!
//! A disk that has left keeps its volumes: hosts see them, and their requests fail. One that comes
//! is mounted before control hears of it; then its catalogue is compared with what control knows,
//! and what agrees goes on as if nothing had happened.

use super::Severity;
use super::control::Control;
use super::hosts::{HostChange, HostEntry};
use super::jobs::{Progress, Step};
use super::record::{Record, VolumeRecord};
use super::reservations::Found;
use super::{Answer, CommandError};
use crate::core::{Arrival, DevicePart, Landed, Message};
use crate::volume::ShardAddress;
use crossbeam_channel::Sender;
use std::sync::Arc;
use uuid::Uuid;

/// A disk that is being mounted.
pub(crate) struct Candidate {
    pub(crate) disk: usize,
    pub(crate) uuid: Uuid,
    pub(crate) mode: &'static str,
    pub(crate) shards: usize,
}

/// What became of it.
pub(crate) struct Verdict {
    pub(crate) disk: usize,
    pub(crate) result: Result<(), String>,
}

/// Disks that leave.
pub(super) struct Leaving {
    disks: Arc<[usize]>,
    part: Option<DevicePart>,
    answer: Sender<()>,
}

/// Disks that come.
pub(super) struct Landing {
    disks: Vec<Candidate>,
    answer: Sender<Vec<Verdict>>,
}

/// Leaving.
impl Control {
    /// Takes disks from the cores, each for a reason, then their device or drive. Answered when
    /// nothing of them is left.
    pub(super) fn retire(
        &mut self,
        reasons: Vec<(usize, String)>,
        part: Option<DevicePart>,
        answer: Sender<()>,
    ) {
        for (disk, reason) in &reasons {
            let state = &mut self.disks[*disk];
            let before = state.offline.replace(reason.clone());
            if before.as_ref() != Some(reason) {
                let path = &state.path;
                let text =
                    format!("disk {path} is not served, nor are the volumes on it: {reason}");
                self.events.note(Severity::Error, "disk.offline", text);
            }
        }
        let disks: Arc<[usize]> = reasons.iter().map(|(disk, _)| *disk).collect();
        let leaving = Box::new(Leaving { disks: disks.clone(), part, answer });
        self.spawn(None, Step::DisksLeft(leaving), |control, token| {
            let order = |core| (core, Message::Retire { token, disks: disks.clone() });
            (0..control.cores).map(order).for_each(|(core, order)| control.order(core, order));
            u32::from(control.cores)
        });
    }

    /// No core has a shard of them any more.
    pub(super) fn disks_left(&mut self, leaving: Box<Leaving>, token: u64) -> Progress {
        for &disk in leaving.disks.iter() {
            self.registry.set_offline(disk, &self.disks[disk].path);
        }
        let Some(part) = leaving.part else {
            return self.disks_gone(*leaving);
        };
        (0..self.cores).for_each(|core| self.order(core, Message::Release { token, part }));
        Progress::Next(Step::DisksGone(leaving), u32::from(self.cores))
    }

    /// Nor does one have a device of theirs.
    pub(super) fn disks_gone(&mut self, leaving: Leaving) -> Progress {
        let _ = leaving.answer.send(());
        Progress::Done(Ok(Answer::Done))
    }
}

/// Coming.
impl Control {
    /// Gives each core its share of disks that come.
    pub(super) fn admit(
        &mut self,
        arrivals: Vec<Box<dyn Arrival>>,
        disks: Vec<Candidate>,
        answer: Sender<Vec<Verdict>>,
    ) {
        let landing = Box::new(Landing { disks, answer });
        self.spawn(None, Step::DisksLanded(landing), |control, token| {
            let waiting = arrivals.len() as u32;
            for (core, arrival) in arrivals.into_iter().enumerate() {
                control.order(core as u16, Message::Arrive { token, arrival });
            }
            waiting
        });
    }

    /// Every core has mounted its share, or could not.
    pub(super) fn disks_landed(&mut self, landing: Landing, token: u64) -> Progress {
        let mut landed = self.jobs.landed.remove(&token).unwrap_or_default();
        let mut verdicts = Vec::new();
        for candidate in landing.disks {
            let disk = candidate.disk;
            let (its, others) = landed.into_iter().partition(|(_, of)| of.disk == disk);
            landed = others;
            verdicts.push(Verdict { disk, result: self.take_in(&candidate, its) });
        }
        let _ = landing.answer.send(verdicts);
        Progress::Done(Ok(Answer::Done))
    }

    /// Serves a disk, if all of its shards have come up.
    fn take_in(&mut self, candidate: &Candidate, landed: Vec<(u16, Landed)>) -> Result<(), String> {
        let disk = candidate.disk;
        let mut places = vec![None; candidate.shards];
        let mut entries = Vec::new();
        for (core, Landed { shard, slot, found, .. }) in landed {
            entries.extend(found?.into_iter().map(|record| (disk, record)));
            places[shard] = Some(ShardAddress { core, shard: slot });
        }
        let places = places.into_iter().collect::<Option<Arc<[_]>>>();
        let places = places.ok_or("one of its shards did not come up")?;
        let state = &mut self.disks[disk];
        let has_volumes = self.jobs.volumes.values().any(|volume| volume.disk == disk);
        assert!(!has_volumes || state.shards == places, "a disk that was there has its places");
        state.shards = places;
        state.uuid = Some(candidate.uuid);
        state.mode = Some(candidate.mode);
        state.offline = None;
        self.registry.set_online(disk);
        (0..self.cores).for_each(|core| self.order(core, Message::Serve { disk }));
        self.reconcile(disk, entries);
        let text =
            format!("disk {}: it is served again, as are its volumes", self.disks[disk].path);
        self.events.note(Severity::Info, "disk.returned", text);
        Ok(())
    }

    /// Compares what a disk's catalogue says with what is known of it.
    fn reconcile(&mut self, disk: usize, mut entries: Vec<(usize, Record)>) {
        self.forget_denied(disk, &mut entries);
        let names = self.jobs.volumes.iter().filter(|(_, volume)| volume.disk == disk);
        let names: Vec<String> = names.map(|(name, _)| name.clone()).collect();
        for name in names {
            let uuid = self.jobs.volumes[&name].record.uuid;
            let is_it = |(_, record): &(usize, Record)| match record {
                Record::Volume(volume) => volume.uuid == uuid,
                Record::Host { .. } | Record::Initiator { .. } => false,
                Record::Reservations { .. } => false,
            };
            let found = entries.iter().position(is_it).map(|at| entries.remove(at).1);
            let Some(Record::Volume(found)) = found else {
                self.depart(&name, None);
                continue;
            };
            if !self.agrees(&name, &found) {
                // Its reservations go the same way.
                let reservations = take_reservations(&mut entries, uuid);
                self.depart(&name, Some((found, reservations)));
                continue;
            }
            let kept = take_reservations(&mut entries, uuid);
            self.adopt_reservations(&name, kept);
        }
        self.load(entries);
    }

    /// Whether a volume is as its disk says, or has been made so.
    fn agrees(&mut self, name: &str, found: &VolumeRecord) -> bool {
        let is_taken = |other: &str| other != name && self.jobs.volumes.contains_key(other);
        let mut nsids = self.jobs.volumes.iter().filter(|(other, _)| *other != name);
        let volume = &self.jobs.volumes[name];
        let known = &volume.record;
        // One that has another name or number here because its own is taken keeps them.
        let has_name = known.name == found.name || is_taken(&found.name);
        let has_nsid = known.nsid == found.nsid || nsids.any(|(_, v)| v.record.nsid == found.nsid);
        // What is being changed or deleted is not touched; nor is what could not be deleted.
        if volume.is_busy || (known.is_deleting && !found.is_deleting) {
            return true;
        }
        let is_same = has_name
            && has_nsid
            && known.block_size == found.block_size
            && known.is_deleting == found.is_deleting
            && known.is_protected == found.is_protected
            && known.exports == found.exports
            && known.size <= found.size;
        if is_same && known.size < found.size {
            self.volume_mut(name).record.size = found.size;
            let resized = self.show_size(name).is_ok();
            let text = format!("volume {name}: {} bytes", found.size);
            self.events.note(Severity::Info, "volume.resized", text);
            return resized;
        }
        is_same
    }

    /// Takes a volume away that its disk no longer has, or has otherwise: that takes its place.
    fn depart(&mut self, name: &str, next: Option<(VolumeRecord, Vec<Record>)>) {
        let volume = self.jobs.volumes.get_mut(name).expect("the caller has seen it");
        if volume.is_busy {
            return;
        }
        volume.is_busy = true;
        let disk = volume.disk;
        self.hide(name);
        let next = next.map_or_else(Vec::new, |(record, mut with)| {
            with.push(Record::Volume(record));
            with
        });
        let next = next.into_iter().map(|record| (disk, record)).collect();
        let step = Step::Departed { name: name.to_owned(), next };
        self.spawn(None, step, |control, token| control.send_routes(name, token, false));
    }

    /// No core knows the volume any more.
    pub(super) fn departed(&mut self, name: &str, next: Vec<(usize, Record)>) -> Progress {
        self.jobs.volumes.remove(name);
        self.registry.remove_volume(name);
        let what = if next.is_empty() { "is no longer there" } else { "is another than before" };
        let text = format!("volume {name}: its disk has come back, and the volume {what}");
        self.events.note(Severity::Warning, "volume.changed", text);
        self.load(next);
        Progress::Done(Ok(Answer::Done))
    }

    /// Takes hosts off a disk's list that were denied while it was away; leaves those that are
    /// known already.
    fn forget_denied(&mut self, disk: usize, entries: &mut Vec<(usize, Record)>) {
        let mut denied = Vec::new();
        entries.retain(|(_, record)| {
            let (number, nqn, has_secret) = match record {
                Record::Host { number, nqn } => (*number, nqn, false),
                Record::Initiator { number, name, .. } => (*number, name, true),
                Record::Volume(_) | Record::Reservations { .. } => return true,
            };
            let entry = HostEntry { disk, number };
            self.jobs.next_host = self.jobs.next_host.max(number + 1);
            let known = self.jobs.hosts.get_mut(nqn);
            let is_stale = match &known {
                // One with secrets that are not known is of before they were changed.
                Some(host) => {
                    let is_there = host.entries.contains(&entry);
                    host.has_secret != has_secret || (has_secret && !is_there)
                }
                None => self.jobs.denied.contains(nqn),
            };
            if is_stale {
                denied.push((nqn.clone(), has_secret, entry));
                return false;
            }
            let Some(host) = known else { return true };
            if !host.entries.contains(&entry) {
                host.entries.push(entry);
            }
            false
        });
        for (nqn, has_secret, entry) in denied {
            self.change_host(HostChange::new(nqn, false, has_secret, vec![entry]), None);
        }
    }
}

/// Takes the records of one volume's reservations out.
fn take_reservations(entries: &mut Vec<(usize, Record)>, of: Uuid) -> Vec<Record> {
    let is_its = |(_, record): &mut (usize, Record)| match record {
        Record::Reservations { uuid, .. } => *uuid == of,
        Record::Host { .. } | Record::Initiator { .. } | Record::Volume(_) => false,
    };
    entries.extract_if(.., is_its).map(|(_, record)| record).collect()
}

impl Control {
    fn adopt_reservations(&mut self, name: &str, kept: Vec<Record>) {
        let mut found = Found::default();
        for record in kept {
            if let Record::Reservations { part, value, .. } = record {
                found.add(part, value);
            }
        }
        self.adopt_kept(name, found);
    }

    /// What a command is told that needs a disk which is away.
    pub(super) fn offline_error(&self, disk: usize) -> Option<CommandError> {
        let state = &self.disks[disk];
        let reason = state.offline.as_ref()?;
        Some(CommandError::Disk(format!("disk {} is offline: {reason}", state.path)))
    }
}
