//! Jobs: commands that go on, step after step, with the answers of shards and cores.

use super::admission::{Landing, Leaving};
use super::control::Control;
use super::hosts::{Host, HostChange};
use super::record::{Record, VolumeRecord};
use super::reservations::{Keeping, Reserved};
use super::{Answer, CommandError, Exports, Severity, VolumeInfo};
use crate::core::{Landed, Message, ShardCommand, ShardReply};
use crate::store;
use crate::volume::{Route, VolumeStats};
use crossbeam_channel::Sender;
use hashbrown::HashMap;
use nvmeof_target::io::VolumeIndex;
use nvmeof_target::target::ConfigError;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use uuid::Uuid;

/// The job that ends the node; all others count from 1.
pub(super) const STOP_TOKEN: u64 = 0;

/// Volumes, hosts, and commands under way.
#[derive(Default)]
pub(super) struct Jobs {
    pub(super) volumes: BTreeMap<String, Volume>,
    /// UUIDs of volumes that lie on the disks and are not served: nothing may take their place.
    pub(super) hidden: Vec<Uuid>,
    /// Names that volumes are being renamed to.
    pub(super) reserved_names: BTreeSet<String>,
    /// Hosts on the list, and every catalogue entry that puts them there.
    pub(super) hosts: BTreeMap<String, Host>,
    /// Hosts that are being allowed or denied.
    pub(super) busy_hosts: BTreeSet<String>,
    pub(super) next_host: u64,
    /// Hosts that were denied while a disk could not take note.
    pub(super) denied: BTreeSet<String>,
    /// Shards that have come up, by the jobs that wait for others, with their cores.
    pub(super) landed: HashMap<u64, Vec<(u16, Landed)>>,
    next_volume: u32,
    next_token: u64,
    running: HashMap<u64, Job>,
    is_stopping: bool,
}

pub(super) struct Volume {
    pub(super) record: VolumeRecord,
    pub(super) index: VolumeIndex,
    pub(super) disk: usize,
    pub(super) reservations: Reserved,
    /// A command that changes it is under way.
    pub(super) is_busy: bool,
    /// Whether hosts may see it, through the protocols that its record names.
    pub(super) is_shown: bool,
}

impl Volume {
    /// The protocols that show it now.
    pub(super) fn seen(&self) -> Exports {
        if self.is_shown { self.record.exports } else { Exports::NONE }
    }
}

struct Job {
    answer: Option<Sender<Outcome>>,
    /// Answers still to come before the next step.
    waiting: u32,
    failure: Option<store::Error>,
    /// Sum of the usages answered.
    usage: u64,
    next: Step,
    /// Why the command has failed though its job goes on, to undo what it did.
    verdict: Option<CommandError>,
}

/// What to do when every answer of the last step is there.
pub(super) enum Step {
    /// The record is durable: tell the cores.
    CreateRoutes { name: String },
    /// The cores know it: show it to hosts.
    CreateNamespace { name: String },
    /// The same for a volume of an earlier life.
    LoadNamespace { name: String },
    /// Marked in the catalogue: take it from the cores.
    DeleteRoutes { name: String },
    /// No core knows it: free its chunks.
    DeleteChunks { name: String },
    /// Its chunks are free: forget it.
    DeleteRecord { name: String },
    /// Forgotten.
    DeleteDone { name: String },
    /// The new size is durable.
    Resized { name: String, size: u64 },
    /// The new name is durable.
    Renamed { name: String, to: String },
    /// Whether hosts may write to it is durable: tell the target, by its token.
    Protected { name: String, protect: bool, request: u64 },
    /// Which protocols show it is durable.
    Exported { name: String, exports: Exports },
    /// Entries of the record of a reservation table are there, or it is gone.
    ReservationsKept(Box<Keeping>),
    /// One catalogue entry of a host is there, or gone.
    HostChanged(HostChange),
    /// Usage of these volumes is being summed, one after another.
    Usage { names: Vec<String>, done: Vec<VolumeInfo>, single: bool },
    /// Every core has answered.
    Pinged,
    /// Disks have left the cores: let go of their device.
    DisksLeft(Box<Leaving>),
    /// Their device is gone, too.
    DisksGone(Box<Leaving>),
    /// Disks have come to the cores.
    DisksLanded(Box<Landing>),
    /// No core knows the volume: load these in its place.
    Departed { name: String, next: Vec<(usize, Record)> },
    /// Connections closed and nothing in flight: settle the shards.
    StopSettle,
    /// Shards settled: leave the loops.
    StopDone,
}

/// How a command ends.
pub(super) type Outcome = Result<Answer, CommandError>;

/// What a step leads to.
pub(super) enum Progress {
    /// The next step, after so many answers.
    Next(Step, u32),
    /// The end.
    Done(Outcome),
}

impl Job {
    fn new(answer: Option<Sender<Outcome>>, next: Step) -> Self {
        Self { answer, waiting: 0, failure: None, usage: 0, next, verdict: None }
    }
}

/// How jobs begin and go on.
impl Control {
    /// Begins a job: `begin` gives its first orders and says how many answers they will have.
    pub(super) fn spawn(
        &mut self,
        answer: Option<Sender<Outcome>>,
        next: Step,
        begin: impl FnOnce(&mut Self, u64) -> u32,
    ) {
        self.spawn_after(answer, |control, token| {
            let waiting = begin(control, token);
            (next, waiting)
        });
    }

    /// The same, where the next step needs what the first orders borrow.
    pub(super) fn spawn_after(
        &mut self,
        answer: Option<Sender<Outcome>>,
        begin: impl FnOnce(&mut Self, u64) -> (Step, u32),
    ) {
        self.jobs.next_token += 1;
        let token = self.jobs.next_token;
        let (next, waiting) = begin(self, token);
        self.continue_job(token, Job { waiting, ..Job::new(answer, next) });
    }

    /// Begins to end the node.
    pub(super) fn stop(&mut self, answer: Sender<Outcome>) {
        if self.leaving.is_some() || std::mem::replace(&mut self.jobs.is_stopping, true) {
            let _ = answer.send(Err(CommandError::Unavailable("the node is stopping".into())));
            return;
        }
        self.events.note(Severity::Info, "node.stopping", "closing connections".into());
        let job = Job::new(Some(answer), Step::StopSettle);
        self.jobs.running.insert(STOP_TOKEN, Job { waiting: u32::from(self.cores), ..job });
        (0..self.cores).for_each(|core| self.order(core, Message::Quiesce));
    }

    /// No host may connect any more.
    pub(super) fn is_stopping(&self) -> bool {
        self.jobs.is_stopping || self.leaving.is_some()
    }

    /// Whether volumes of an earlier life are still on their way to the cores.
    pub(super) fn is_loading(&self) -> bool {
        let loads = |job: &Job| matches!(job.next, Step::LoadNamespace { .. });
        self.jobs.running.values().any(loads)
    }

    /// Whether usages are being summed that nobody waits for.
    pub(super) fn is_measuring(&self) -> bool {
        let measures = |job: &Job| job.answer.is_none() && matches!(job.next, Step::Usage { .. });
        self.jobs.running.values().any(measures)
    }

    /// One answer for a job.
    pub(super) fn job_step(&mut self, token: u64, reply: ShardReply) {
        let mut job = self.jobs.running.remove(&token).expect("answers belong to running jobs");
        match reply {
            ShardReply::Changed(Ok(())) => {}
            ShardReply::Changed(Err(error)) => job.failure = Some(error),
            ShardReply::Usage(bytes) => job.usage += bytes,
        }
        job.waiting -= 1;
        self.continue_job(token, job);
    }

    fn continue_job(&mut self, token: u64, mut job: Job) {
        // Shards settle when no other job will ask anything of them.
        let is_early = |control: &Self, job: &Job| {
            matches!(job.next, Step::StopSettle) && !control.jobs.running.is_empty()
        };
        while job.waiting == 0 && !is_early(self, &job) {
            let failure = job.failure.take();
            let step = std::mem::replace(&mut job.next, Step::StopDone);
            match self.step(step, failure, &mut job, token) {
                Progress::Next(next, waiting) => {
                    job.next = next;
                    job.waiting = waiting;
                }
                Progress::Done(outcome) => {
                    if let Some(answer) = job.answer.take() {
                        let _ = answer.send(job.verdict.take().map_or(outcome, Err));
                    }
                    return self.continue_stop();
                }
            }
        }
        self.jobs.running.insert(token, job);
    }

    /// Goes on to end the node, if that waited for the other jobs.
    fn continue_stop(&mut self) {
        let stop = self.jobs.running.get(&STOP_TOKEN);
        if self.jobs.running.len() == 1 && stop.is_some_and(|stop| stop.waiting == 0) {
            let stop = self.jobs.running.remove(&STOP_TOKEN).expect("just seen");
            self.continue_job(STOP_TOKEN, stop);
        }
    }

    fn step(
        &mut self,
        step: Step,
        failure: Option<store::Error>,
        job: &mut Job,
        token: u64,
    ) -> Progress {
        match step {
            Step::CreateRoutes { name } => self.create_routes(name, failure, token),
            Step::CreateNamespace { name } => self.create_namespace(name, job, token),
            Step::LoadNamespace { name } => self.load_namespace(&name),
            Step::DeleteRoutes { name } => self.delete_routes(name, failure, token),
            Step::DeleteChunks { name } => self.delete_chunks(name, token),
            Step::DeleteRecord { name } => self.delete_record(name, failure, token),
            Step::DeleteDone { name } => self.delete_done(&name, failure, job),
            Step::Resized { name, size } => self.resized(&name, size, failure),
            Step::Renamed { name, to } => self.renamed(&name, to, failure),
            Step::Protected { name, protect, request } => {
                self.protected(&name, protect, request, failure)
            }
            Step::Exported { name, exports } => self.exported(&name, exports, failure),
            Step::ReservationsKept(keeping) => self.reservations_kept(keeping, failure, token),
            Step::HostChanged(change) => self.host_changed(change, failure, token),
            Step::Usage { names, done, single } => {
                let used = std::mem::take(&mut job.usage);
                self.usage_step(names, done, single, used, token)
            }
            Step::Pinged => Progress::Done(Ok(Answer::Done)),
            Step::DisksLeft(leaving) => self.disks_left(leaving, token),
            Step::DisksGone(leaving) => self.disks_gone(*leaving),
            Step::DisksLanded(landing) => self.disks_landed(*landing, token),
            Step::Departed { name, next } => self.departed(&name, next),
            Step::StopSettle => {
                (0..self.cores).for_each(|core| self.order(core, Message::Settle));
                Progress::Next(Step::StopDone, u32::from(self.cores))
            }
            Step::StopDone => {
                (0..self.cores).rev().for_each(|core| self.order(core, Message::Stop));
                Progress::Done(failure.map_or(Ok(Answer::Done), |_| Err(self.unclean())))
            }
        }
    }
}

/// Steps of volumes.
impl Control {
    fn create_routes(
        &mut self,
        name: String,
        failure: Option<store::Error>,
        token: u64,
    ) -> Progress {
        if let Some(error) = failure {
            let volume = self.jobs.volumes.remove(&name).expect("busy volumes stay");
            return Progress::Done(Err(self.disk_error(volume.disk, error)));
        }
        let waiting = self.send_routes(&name, token, true);
        Progress::Next(Step::CreateNamespace { name }, waiting)
    }

    /// The last step of a creation; where it fails, the first of a deletion.
    fn create_namespace(&mut self, name: String, job: &mut Job, token: u64) -> Progress {
        let Err(error) = self.show(&name) else {
            self.volume_mut(&name).is_busy = false;
            self.events.note(Severity::Info, "volume.online", format!("volume {name}"));
            return Progress::Done(Ok(Answer::Volume(self.info(&name, 0))));
        };
        let text = format!("volume {name} was not created: {error}");
        job.verdict = Some(CommandError::Invalid(text));
        self.volume_mut(&name).record.is_deleting = true;
        let waiting = self.send_routes(&name, token, false);
        Progress::Next(Step::DeleteChunks { name }, waiting)
    }

    fn load_namespace(&mut self, name: &str) -> Progress {
        self.volume_mut(name).is_busy = false;
        let (severity, kind, text) = match self.show(name) {
            Ok(()) => (Severity::Info, "volume.online", format!("volume {name}")),
            Err(error) => {
                let text = format!(
                    "volume {name}: hosts do not see it: {error}; its data are kept: serve its \
                     disk from another node, or delete it"
                );
                (Severity::Error, "volume.offline", text)
            }
        };
        self.events.note(severity, kind, text);
        Progress::Done(Ok(Answer::Done))
    }

    fn delete_routes(
        &mut self,
        name: String,
        failure: Option<store::Error>,
        token: u64,
    ) -> Progress {
        if let Some(error) = failure {
            return self.failed(&name, error);
        }
        let waiting = self.send_routes(&name, token, false);
        Progress::Next(Step::DeleteChunks { name }, waiting)
    }

    fn delete_chunks(&mut self, name: String, token: u64) -> Progress {
        let volume = &self.jobs.volumes[&name];
        let (id, shards) = (volume.record.id(), self.disks[volume.disk].shards.clone());
        for &shard in shards.iter() {
            self.command(shard, token, ShardCommand::Drop(id));
        }
        let waiting = shards.len() as u32 + self.forget_reservations(&name, token);
        Progress::Next(Step::DeleteRecord { name }, waiting)
    }

    fn delete_record(
        &mut self,
        name: String,
        failure: Option<store::Error>,
        token: u64,
    ) -> Progress {
        if let Some(error) = failure {
            return self.failed(&name, error);
        }
        let volume = &self.jobs.volumes[&name];
        let shard = self.disks[volume.disk].shards[0];
        let key = volume.record.key();
        self.command(shard, token, ShardCommand::Delete { key });
        Progress::Next(Step::DeleteDone { name }, 1)
    }

    fn delete_done(&mut self, name: &str, failure: Option<store::Error>, job: &Job) -> Progress {
        if let Some(error) = failure {
            return self.failed(name, error);
        }
        self.jobs.volumes.remove(name);
        self.registry.remove_volume(name);
        if job.verdict.is_none() {
            self.events.note(Severity::Info, "volume.deleted", format!("volume {name}"));
        }
        Progress::Done(Ok(Answer::Done))
    }

    fn resized(&mut self, name: &str, size: u64, failure: Option<store::Error>) -> Progress {
        if let Some(error) = failure {
            return self.failed(name, error);
        }
        let volume = self.volume_mut(name);
        volume.is_busy = false;
        volume.record.size = size;
        self.events.note(Severity::Info, "volume.resized", format!("volume {name}: {size} bytes"));
        if let Err(error) = self.show_size(name) {
            return Progress::Done(Err(self.unseen(name, &error)));
        }
        Progress::Done(Ok(Answer::Volume(self.info(name, 0))))
    }

    fn renamed(&mut self, name: &str, to: String, failure: Option<store::Error>) -> Progress {
        self.jobs.reserved_names.remove(&to);
        if let Some(error) = failure {
            return self.failed(name, error);
        }
        let mut volume = self.jobs.volumes.remove(name).expect("busy volumes stay");
        volume.is_busy = false;
        volume.record.name.clone_from(&to);
        let other = self.jobs.volumes.insert(to.clone(), volume);
        assert!(other.is_none(), "the name was reserved");
        self.registry.rename_volume(name, &to);
        self.events.note(Severity::Info, "volume.renamed", format!("volume {name} to {to}"));
        if let Err(error) = self.show_name(&to) {
            return Progress::Done(Err(self.unseen(&to, &error)));
        }
        Progress::Done(Ok(Answer::Volume(self.info(&to, 0))))
    }

    fn protected(
        &mut self,
        name: &str,
        protect: bool,
        request: u64,
        failure: Option<store::Error>,
    ) -> Progress {
        if let Some(error) = failure {
            self.target.protection_result(request, false);
            return self.failed(name, error);
        }
        let volume = self.volume_mut(name);
        volume.is_busy = false;
        volume.record.is_protected = protect;
        let (kind, what) = if protect {
            ("volume.protected", "hosts may not write to it")
        } else {
            ("volume.unprotected", "hosts may write to it")
        };
        self.events.note(Severity::Info, kind, format!("volume {name}: {what}"));
        self.show_protection(name);
        // The answer comes behind what initiators see.
        self.collect_actions();
        self.target.protection_result(request, true);
        Progress::Done(Ok(Answer::Done))
    }

    fn usage_step(
        &mut self,
        mut names: Vec<String>,
        mut done: Vec<VolumeInfo>,
        single: bool,
        used: u64,
        token: u64,
    ) -> Progress {
        if let Some(name) = names.pop()
            && self.jobs.volumes.contains_key(&name)
        {
            done.push(self.info(&name, used));
            self.show_usage(&name, used);
        }
        // A volume may be deleted while others are asked.
        names.retain(|name| self.jobs.volumes.contains_key(name));
        if let Some(name) = names.last().cloned() {
            let waiting = self.ask_usage(&name, token);
            return Progress::Next(Step::Usage { names, done, single }, waiting);
        }
        let answer = match (single, done.pop()) {
            (true, Some(info)) => Ok(Answer::Volume(info)),
            (true, None) => {
                let text = "the volume was deleted or renamed meanwhile: see `basalt volume list`";
                Err(CommandError::NotFound(text.into()))
            }
            (false, last) => {
                done.extend(last);
                Ok(Answer::Volumes(done))
            }
        };
        Progress::Done(answer)
    }

    /// Ends a job whose disk failed; the volume may be asked for again.
    pub(super) fn failed(&mut self, name: &str, error: store::Error) -> Progress {
        let volume = self.volume_mut(name);
        volume.is_busy = false;
        let disk = volume.disk;
        let error = self.disk_error(disk, error);
        self.events.note(Severity::Error, "volume.failed", format!("volume {name}: {error}"));
        Progress::Done(Err(error))
    }

    /// A change is durable, and the target did not take it.
    pub(super) fn unseen(&self, name: &str, error: &ConfigError) -> CommandError {
        let text = format!(
            "volume {name} is changed on its disk, but hosts do not see it before the node \
             restarts: {error}"
        );
        self.events.note(Severity::Error, "volume.refused", text.clone());
        CommandError::Unavailable(text)
    }
}

/// Pieces of steps.
impl Control {
    pub(super) fn insert_volume(&mut self, record: VolumeRecord, disk: usize) {
        let index = VolumeIndex(self.jobs.next_volume);
        self.jobs.next_volume += 1;
        let name = record.name.clone();
        let reservations = Reserved::default();
        let volume = Volume { record, index, disk, reservations, is_busy: false, is_shown: false };
        let earlier = self.jobs.volumes.insert(name, volume);
        assert!(earlier.is_none(), "names are looked up before");
    }

    /// Keeps whether hosts may write to a volume, as one of them wants; the target is told by
    /// `request`.
    pub(super) fn protect_volume(&mut self, nsid: u32, protect: bool, request: u64) {
        let is_meant = |volume: &Volume| volume.is_shown && volume.record.nsid == nsid;
        let mut volumes = self.jobs.volumes.iter_mut();
        let found = volumes.find(|(_, volume)| is_meant(volume) && !volume.is_busy);
        let Some((name, volume)) = found else {
            self.target.protection_result(request, false);
            return;
        };
        volume.is_busy = true;
        let disk = volume.disk;
        let record = VolumeRecord { is_protected: protect, ..volume.record.clone() };
        let next = Step::Protected { name: name.clone(), protect, request };
        self.spawn(None, next, |control, token| {
            control.put(disk, token, record.key(), record.encode())
        });
    }

    /// Marks a volume as being changed.
    pub(super) fn busy(&mut self, name: &str) {
        self.volume_mut(name).is_busy = true;
    }

    /// Tells every core of a volume, or that it is gone; the number of answers to come.
    pub(super) fn send_routes(&mut self, name: &str, token: u64, is_there: bool) -> u32 {
        let volume = &self.jobs.volumes[name];
        let (index, id) = (volume.index, volume.record.id());
        let shards = self.disks[volume.disk].shards.clone();
        let mut all = Vec::new();
        for core in 0..self.cores {
            let route = is_there.then(|| {
                let stats = Arc::new(VolumeStats::new());
                all.push(stats.clone());
                Route { volume: id, shards: shards.clone(), stats }
            });
            self.order(core, Message::SetRoute { token, volume: index, route });
        }
        if is_there {
            self.registry.add_volume(name, all);
        }
        u32::from(self.cores)
    }

    pub(super) fn put(&mut self, disk: usize, token: u64, key: Vec<u8>, value: Vec<u8>) -> u32 {
        let shard = self.disks[disk].shards[0];
        self.command(shard, token, ShardCommand::Put { key, value });
        1
    }

    pub(super) fn ask_usage(&mut self, name: &str, token: u64) -> u32 {
        let volume = &self.jobs.volumes[name];
        let (id, shards) = (volume.record.id(), self.disks[volume.disk].shards.clone());
        for &shard in shards.iter() {
            self.command(shard, token, ShardCommand::Usage(id));
        }
        shards.len() as u32
    }

    pub(super) fn volume_mut(&mut self, name: &str) -> &mut Volume {
        self.jobs.volumes.get_mut(name).expect("volumes of jobs stay")
    }

    pub(super) fn info(&self, name: &str, used: u64) -> VolumeInfo {
        let volume = &self.jobs.volumes[name];
        VolumeInfo {
            name: name.to_owned(),
            uuid: volume.record.uuid,
            size: volume.record.size,
            used,
            block_size: volume.record.block_size,
            nsid: volume.record.nsid,
            subsystem: self.subsystem.to_string(),
            disk: self.disks[volume.disk].path.clone(),
            write_protected: volume.record.is_protected,
            lun: super::iscsi::lun(volume),
            exports: volume.record.exports,
        }
    }

    /// What a stop says that left a journal.
    fn unclean(&self) -> CommandError {
        let failed = |number: &usize| self.registry.disk(*number).failed;
        let numbers = (0..self.disks.len()).filter(failed);
        let paths: Vec<_> = numbers.map(|number| self.disks[number].path.as_str()).collect();
        CommandError::Disk(format!(
            "a disk failed ({}): its journal is replayed at the next start; if it fails again, \
             replace it",
            paths.join(", ")
        ))
    }
}

#[cfg(test)]
mod tests;
