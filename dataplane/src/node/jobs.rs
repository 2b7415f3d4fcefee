//! Management commands: what can be answered at once is; what shards and cores have a part in
//! becomes a job that goes on with their answers.

use super::control::Control;
use super::record::{NAME_MAX, NQN_MAX, Record, VolumeRecord};
use super::{Answer, Command, CommandError, DiskInfo, HostInfo, Severity, VolumeInfo};
use crate::core::{Message, ShardCommand, ShardReply};
use crate::store;
use crate::volume::{Route, VolumeStats};
use crossbeam_channel::Sender;
use hashbrown::HashMap;
use nvmeof_target::io::VolumeIndex;
use nvmeof_target::target::{NamespaceConfig, NamespaceId, Nqn};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Most volumes of a node: one subsystem's namespaces.
pub(super) const VOLUMES_MAX: usize = 1024;
/// Largest volume in bytes: 4 PiB.
const SIZE_MAX: u64 = 1 << 52;
/// Most hosts on the allowed list.
const HOSTS_MAX: usize = 1024;
/// The job that ends the node; all others count from 1.
pub(super) const STOP_TOKEN: u64 = 0;

/// A call from outside the plane.
pub(crate) enum Call {
    /// A command, and where its answer goes.
    Command(Command, Sender<Result<Answer, CommandError>>),
    /// Drain, settle, stop.
    Shutdown(Sender<Result<Answer, CommandError>>),
}

/// Volumes, hosts, and commands under way.
#[derive(Default)]
pub(super) struct Jobs {
    volumes: BTreeMap<String, Volume>,
    hosts: BTreeMap<String, u64>,
    next_host: u64,
    next_volume: u32,
    next_token: u64,
    running: HashMap<u64, Job>,
    is_stopping: bool,
}

struct Volume {
    record: VolumeRecord,
    index: VolumeIndex,
    disk: usize,
    /// A command that changes it is under way.
    is_busy: bool,
}

struct Job {
    answer: Option<Sender<Result<Answer, CommandError>>>,
    /// Answers still to come before the next step.
    waiting: u32,
    failure: Option<store::Error>,
    /// Sum of the usages answered.
    usage: u64,
    next: Step,
}

/// What to do when every answer of the last step is there.
enum Step {
    /// The record is durable: tell the cores.
    CreateRoutes { name: String },
    /// The cores know it: show it to hosts.
    CreateNamespace { name: String },
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
    /// A host is on the list, or off it.
    HostChanged { nqn: String, allowed: Option<u64> },
    /// Usage of these volumes is being summed, one after another.
    Usage { names: Vec<String>, done: Vec<VolumeInfo>, single: bool },
    /// Connections closed and nothing in flight: settle the shards.
    StopSettle,
    /// Shards settled: leave the loops.
    StopDone,
}

type Outcome = Result<Answer, CommandError>;

impl Control {
    /// Takes over what the catalogues hold, before the first host connects.
    pub(crate) fn load(&mut self, entries: Vec<(usize, Record)>) {
        for (disk, record) in entries {
            match record {
                Record::Host { number, nqn } => {
                    self.jobs.next_host = self.jobs.next_host.max(number + 1);
                    self.set_host(&nqn, true);
                    self.jobs.hosts.insert(nqn, number);
                }
                Record::Volume(record) => self.load_volume(disk, record),
            }
        }
    }

    fn load_volume(&mut self, disk: usize, record: VolumeRecord) {
        let name = record.name.clone();
        let is_deleting = record.is_deleting;
        self.insert_volume(record, disk);
        if is_deleting {
            self.jobs.volumes.get_mut(&name).expect("just inserted").is_busy = true;
            self.spawn(None, Step::DeleteChunks { name }, |_, _| 0);
        } else {
            self.spawn(None, Step::CreateNamespace { name: name.clone() }, |control, token| {
                control.send_routes(&name, token, true)
            });
        }
    }

    /// Starts a call.
    pub(super) fn start(&mut self, call: Call) {
        let (command, answer) = match call {
            Call::Command(command, answer) => (command, answer),
            Call::Shutdown(answer) => return self.stop(answer),
        };
        if self.jobs.is_stopping {
            let stopping = CommandError::Unavailable("the node is stopping".into());
            let _ = answer.send(Err(stopping));
            return;
        }
        if let Err(error) = self.start_command(command, &answer) {
            let _ = answer.send(Err(error));
        }
    }

    fn start_command(
        &mut self,
        command: Command,
        answer: &Sender<Outcome>,
    ) -> Result<(), CommandError> {
        let later = Some(answer.clone());
        let ready = match command {
            Command::CreateVolume { name, size, block_size, uuid, disk } => {
                let record =
                    VolumeRecord { name, uuid, size, block_size, nsid: 0, is_deleting: false };
                return self.create_volume(record, disk.as_deref(), later);
            }
            Command::DeleteVolume { name } => return self.delete_volume(&name, later),
            Command::ResizeVolume { name, size } => {
                return self.resize_volume(&name, size, later);
            }
            Command::RenameVolume { name, to } => {
                return self.rename_volume(&name, &to, later);
            }
            Command::ListVolumes => {
                let names = self.jobs.volumes.keys().rev().cloned().collect();
                return self.usage(names, false, later);
            }
            Command::ShowVolume { name } => {
                self.volume(&name)?;
                return self.usage(vec![name], true, later);
            }
            Command::AllowHost { nqn } => return self.allow_host(nqn, later),
            Command::DenyHost { nqn } => return self.deny_host(nqn, later),
            Command::ListHosts => {
                let host = |nqn: &String| HostInfo { nqn: nqn.clone() };
                Answer::Hosts(self.jobs.hosts.keys().map(host).collect())
            }
            Command::ListDisks => Answer::Disks(self.disk_infos()),
            Command::ListConnections => Answer::Connections(self.connections()),
        };
        let _ = answer.send(Ok(ready));
        Ok(())
    }

    fn create_volume(
        &mut self,
        mut record: VolumeRecord,
        disk: Option<&str>,
        answer: Option<Sender<Outcome>>,
    ) -> Result<(), CommandError> {
        check_name(&record.name)?;
        check_size(record.size)?;
        if !matches!(record.block_size, 512 | 4096) {
            return Err(CommandError::Invalid("the block size is 512 or 4096".into()));
        }
        if self.jobs.volumes.contains_key(&record.name) {
            return Err(CommandError::Exists(format!("volume {} exists already", record.name)));
        }
        let taken = |nsid: &u32| self.jobs.volumes.values().all(|v| v.record.nsid != *nsid);
        let nsid = (1..=VOLUMES_MAX as u32).find(taken);
        record.nsid = nsid.ok_or_else(|| {
            CommandError::Invalid(format!("there are {VOLUMES_MAX} volumes already"))
        })?;
        let disk = self.choose_disk(disk)?;
        let (name, key, value) = (record.name.clone(), record.key(), record.encode());
        self.insert_volume(record, disk);
        self.busy(&name);
        self.spawn(answer, Step::CreateRoutes { name }, |control, token| {
            control.put(disk, token, key, value)
        });
        Ok(())
    }

    fn delete_volume(
        &mut self,
        name: &str,
        answer: Option<Sender<Outcome>>,
    ) -> Result<(), CommandError> {
        let volume = self.idle_volume(name)?;
        volume.is_busy = true;
        // A deletion that failed half way is taken up again.
        let is_retry = std::mem::replace(&mut volume.record.is_deleting, true);
        let (disk, nsid) = (volume.disk, volume.record.nsid);
        let (key, value) = (volume.record.key(), volume.record.encode());
        let removed = self.target.remove_namespace(&self.subsystem, NamespaceId(nsid));
        assert!(removed.is_ok() || is_retry, "an idle volume has a namespace");
        self.spawn(answer, Step::DeleteRoutes { name: name.to_owned() }, |control, token| {
            control.put(disk, token, key, value)
        });
        Ok(())
    }

    fn resize_volume(
        &mut self,
        name: &str,
        size: u64,
        answer: Option<Sender<Outcome>>,
    ) -> Result<(), CommandError> {
        check_size(size)?;
        let volume = self.idle_volume(name)?;
        if size < volume.record.size {
            let present = volume.record.size;
            return Err(CommandError::Invalid(format!(
                "volume {name} has {present} bytes: making it smaller would destroy data; \
                 create a smaller volume and copy"
            )));
        }
        volume.is_busy = true;
        let disk = volume.disk;
        let record = VolumeRecord { size, ..volume.record.clone() };
        let next = Step::Resized { name: name.to_owned(), size };
        self.spawn(answer, next, |control, token| {
            control.put(disk, token, record.key(), record.encode())
        });
        Ok(())
    }

    fn rename_volume(
        &mut self,
        name: &str,
        to: &str,
        answer: Option<Sender<Outcome>>,
    ) -> Result<(), CommandError> {
        check_name(to)?;
        if self.jobs.volumes.contains_key(to) {
            return Err(CommandError::Exists(format!("volume {to} exists already")));
        }
        let volume = self.idle_volume(name)?;
        volume.is_busy = true;
        let disk = volume.disk;
        let record = VolumeRecord { name: to.to_owned(), ..volume.record.clone() };
        let next = Step::Renamed { name: name.to_owned(), to: to.to_owned() };
        self.spawn(answer, next, |control, token| {
            control.put(disk, token, record.key(), record.encode())
        });
        Ok(())
    }

    fn allow_host(
        &mut self,
        nqn: String,
        answer: Option<Sender<Outcome>>,
    ) -> Result<(), CommandError> {
        check_nqn(&nqn)?;
        if self.jobs.hosts.contains_key(&nqn) {
            return Err(CommandError::Exists(format!("host {nqn} is allowed already")));
        }
        if self.jobs.hosts.len() >= HOSTS_MAX {
            return Err(CommandError::Invalid(format!("there are {HOSTS_MAX} hosts already")));
        }
        let number = self.jobs.next_host;
        self.jobs.next_host += 1;
        let (key, value) = (Record::host_key(number), nqn.clone().into_bytes());
        let next = Step::HostChanged { nqn, allowed: Some(number) };
        self.spawn(answer, next, |control, token| {
            (0..control.disks.len())
                .map(|disk| control.put(disk, token, key.clone(), value.clone()))
                .sum()
        });
        Ok(())
    }

    fn deny_host(
        &mut self,
        nqn: String,
        answer: Option<Sender<Outcome>>,
    ) -> Result<(), CommandError> {
        let number = self.jobs.hosts.get(&nqn);
        let number = number.ok_or_else(|| {
            CommandError::NotFound(format!("host {nqn} is not on the list: see `basalt host list`"))
        })?;
        let key = Record::host_key(*number);
        let next = Step::HostChanged { nqn, allowed: None };
        self.spawn(answer, next, |control, token| {
            let disks = control.disks.len();
            for disk in 0..disks {
                let shard = control.disks[disk].shards[0];
                control.command(shard, token, ShardCommand::Delete { key: key.clone() });
            }
            disks as u32
        });
        Ok(())
    }

    fn stop(&mut self, answer: Sender<Outcome>) {
        if std::mem::replace(&mut self.jobs.is_stopping, true) {
            let _ = answer.send(Err(CommandError::Unavailable("the node is stopping".into())));
            return;
        }
        self.events.note(Severity::Info, "node.stopping", "closing connections".into());
        let job = Job::new(Some(answer), Step::StopSettle);
        self.jobs.running.insert(STOP_TOKEN, Job { waiting: u32::from(self.cores), ..job });
        (0..self.cores).for_each(|core| self.order(core, Message::Quiesce));
    }

    fn usage(
        &mut self,
        names: Vec<String>,
        single: bool,
        answer: Option<Sender<Outcome>>,
    ) -> Result<(), CommandError> {
        let first = names.last().cloned();
        let next = Step::Usage { names, done: Vec::new(), single };
        self.spawn(answer, next, |control, token| {
            first.map_or(0, |name| control.ask_usage(&name, token))
        });
        Ok(())
    }
}

impl Job {
    fn new(answer: Option<Sender<Outcome>>, next: Step) -> Self {
        Self { answer, waiting: 0, failure: None, usage: 0, next }
    }
}

/// Steps of jobs.
impl Control {
    /// Begins a job: `begin` gives its first orders and says how many answers they will have.
    fn spawn(
        &mut self,
        answer: Option<Sender<Outcome>>,
        next: Step,
        begin: impl FnOnce(&mut Self, u64) -> u32,
    ) {
        self.jobs.next_token += 1;
        let token = self.jobs.next_token;
        let waiting = begin(self, token);
        let mut job = Job::new(answer, next);
        job.waiting = waiting;
        self.continue_job(token, job);
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
        while job.waiting == 0 {
            let failure = job.failure.take();
            let step = std::mem::replace(&mut job.next, Step::StopDone);
            match self.step(step, failure, &mut job, token) {
                Progress::Next(next, waiting) => {
                    job.next = next;
                    job.waiting = waiting;
                }
                Progress::Done(outcome) => {
                    if let Some(answer) = job.answer.take() {
                        let _ = answer.send(outcome);
                    }
                    return;
                }
            }
        }
        self.jobs.running.insert(token, job);
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
            Step::CreateNamespace { name } => self.create_namespace(&name),
            Step::DeleteRoutes { name } => match failure {
                Some(error) => self.failed(&name, error),
                None => {
                    let waiting = self.send_routes(&name, token, false);
                    Progress::Next(Step::DeleteChunks { name }, waiting)
                }
            },
            Step::DeleteChunks { name } => self.delete_chunks(name, token),
            Step::DeleteRecord { name } => self.delete_record(name, failure, token),
            Step::DeleteDone { name } => self.delete_done(&name, failure),
            Step::Resized { name, size } => self.resized(&name, size, failure),
            Step::Renamed { name, to } => self.renamed(&name, to, failure),
            Step::HostChanged { nqn, allowed } => self.host_changed(nqn, allowed, failure),
            Step::Usage { names, done, single } => {
                let used = std::mem::take(&mut job.usage);
                self.usage_step(names, done, single, used, token)
            }
            Step::StopSettle => {
                (0..self.cores).for_each(|core| self.order(core, Message::Settle));
                Progress::Next(Step::StopDone, u32::from(self.cores))
            }
            Step::StopDone => {
                (0..self.cores).rev().for_each(|core| self.order(core, Message::Stop));
                let failed = "a disk failed: its journal is replayed at the next start";
                let failed = CommandError::Disk(failed.into());
                Progress::Done(failure.map_or(Ok(Answer::Done), |_| Err(failed)))
            }
        }
    }

    fn create_routes(
        &mut self,
        name: String,
        failure: Option<store::Error>,
        token: u64,
    ) -> Progress {
        if let Some(error) = failure {
            self.jobs.volumes.remove(&name);
            return Progress::Done(Err(disk_error(error)));
        }
        let waiting = self.send_routes(&name, token, true);
        Progress::Next(Step::CreateNamespace { name }, waiting)
    }

    fn create_namespace(&mut self, name: &str) -> Progress {
        let volume = self.jobs.volumes.get_mut(name).expect("busy volumes stay");
        volume.is_busy = false;
        let namespace = NamespaceConfig {
            id: NamespaceId(volume.record.nsid),
            volume: volume.index,
            uuid: *volume.record.uuid.as_bytes(),
            capacity: volume.record.size,
            block_shift: volume.record.block_size.trailing_zeros() as u8,
            read_only: false,
            name: name.to_owned(),
        };
        if let Err(error) = self.target.add_namespace(&self.subsystem, namespace) {
            return Progress::Done(Err(CommandError::Invalid(error.to_string())));
        }
        self.events.note(Severity::Info, "volume.online", format!("volume {name}"));
        Progress::Done(Ok(Answer::Volume(self.info(name, 0))))
    }

    fn delete_chunks(&mut self, name: String, token: u64) -> Progress {
        let volume = &self.jobs.volumes[&name];
        let (id, shards) = (volume.record.id(), self.disks[volume.disk].shards.clone());
        for &shard in shards.iter() {
            self.command(shard, token, ShardCommand::Drop(id));
        }
        Progress::Next(Step::DeleteRecord { name }, shards.len() as u32)
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

    fn delete_done(&mut self, name: &str, failure: Option<store::Error>) -> Progress {
        if let Some(error) = failure {
            return self.failed(name, error);
        }
        self.jobs.volumes.remove(name);
        self.registry.remove_volume(name);
        self.events.note(Severity::Info, "volume.deleted", format!("volume {name}"));
        Progress::Done(Ok(Answer::Done))
    }

    fn resized(&mut self, name: &str, size: u64, failure: Option<store::Error>) -> Progress {
        if let Some(error) = failure {
            return self.failed(name, error);
        }
        let volume = self.jobs.volumes.get_mut(name).expect("busy volumes stay");
        volume.is_busy = false;
        volume.record.size = size;
        let nsid = volume.record.nsid;
        let resized = self.target.resize_namespace(&self.subsystem, NamespaceId(nsid), size);
        assert!(resized.is_ok(), "a volume that is resized has a namespace: {resized:?}");
        self.events.note(Severity::Info, "volume.resized", format!("volume {name}: {size} bytes"));
        Progress::Done(Ok(Answer::Volume(self.info(name, 0))))
    }

    fn renamed(&mut self, name: &str, to: String, failure: Option<store::Error>) -> Progress {
        if let Some(error) = failure {
            return self.failed(name, error);
        }
        let mut volume = self.jobs.volumes.remove(name).expect("busy volumes stay");
        volume.is_busy = false;
        volume.record.name.clone_from(&to);
        let nsid = NamespaceId(volume.record.nsid);
        let renamed = self.target.rename_namespace(&self.subsystem, nsid, &to);
        assert!(renamed.is_ok(), "a volume that is renamed has a namespace: {renamed:?}");
        self.registry.rename_volume(name, &to);
        self.events.note(Severity::Info, "volume.renamed", format!("volume {name} to {to}"));
        self.jobs.volumes.insert(to.clone(), volume);
        Progress::Done(Ok(Answer::Volume(self.info(&to, 0))))
    }

    fn host_changed(
        &mut self,
        nqn: String,
        allowed: Option<u64>,
        failure: Option<store::Error>,
    ) -> Progress {
        if let Some(error) = failure {
            return Progress::Done(Err(disk_error(error)));
        }
        match allowed {
            Some(number) => {
                self.set_host(&nqn, true);
                self.events.note(Severity::Info, "host.allowed", nqn.clone());
                self.jobs.hosts.insert(nqn, number);
            }
            None => {
                self.set_host(&nqn, false);
                self.jobs.hosts.remove(&nqn);
                self.events.note(Severity::Info, "host.denied", nqn);
            }
        }
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
        }
        // A volume may be deleted while others are asked.
        names.retain(|name| self.jobs.volumes.contains_key(name));
        if let Some(name) = names.last().cloned() {
            let waiting = self.ask_usage(&name, token);
            return Progress::Next(Step::Usage { names, done, single }, waiting);
        }
        let answer = match (single, done.pop()) {
            (true, Some(info)) => Ok(Answer::Volume(info)),
            (true, None) => Err(CommandError::NotFound("the volume was deleted".into())),
            (false, last) => {
                done.extend(last);
                Ok(Answer::Volumes(done))
            }
        };
        Progress::Done(answer)
    }

    /// Ends a job whose disk failed; the volume may be asked for again.
    fn failed(&mut self, name: &str, error: store::Error) -> Progress {
        if let Some(volume) = self.jobs.volumes.get_mut(name) {
            volume.is_busy = false;
        }
        Progress::Done(Err(disk_error(error)))
    }
}

/// What a step leads to.
enum Progress {
    /// The next step, after so many answers.
    Next(Step, u32),
    /// The end.
    Done(Outcome),
}

/// Pieces of steps.
impl Control {
    /// Puts a host (or `*`, every host) on the subsystem's list, or takes it off.
    fn set_host(&mut self, host: &str, is_allowed: bool) {
        let subsystem = &self.subsystem;
        let changed = match (host, Nqn::new(host)) {
            ("*", _) => self.target.set_allow_any(subsystem, is_allowed),
            (_, Ok(host)) if is_allowed => self.target.allow_host(subsystem, host),
            (_, Ok(host)) => self.target.deny_host(subsystem, &host),
            (_, Err(error)) => Err(error),
        };
        if let Err(error) = changed {
            self.events.note(Severity::Error, "host.refused", format!("host {host}: {error}"));
        }
    }

    /// Whether volumes of an earlier life are still on their way to the cores.
    pub(super) fn is_loading(&self) -> bool {
        let loads = |job: &Job| matches!(job.next, Step::CreateNamespace { .. });
        self.jobs.running.values().any(loads)
    }

    /// No host may connect any more.
    pub(super) fn is_stopping(&self) -> bool {
        self.jobs.is_stopping
    }

    fn insert_volume(&mut self, record: VolumeRecord, disk: usize) {
        let index = VolumeIndex(self.jobs.next_volume);
        self.jobs.next_volume += 1;
        let name = record.name.clone();
        let volume = Volume { record, index, disk, is_busy: false };
        let earlier = self.jobs.volumes.insert(name, volume);
        assert!(earlier.is_none(), "names are looked up before");
    }

    /// Tells every core of a volume, or that it is gone; the number of answers to come.
    fn send_routes(&mut self, name: &str, token: u64, is_there: bool) -> u32 {
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

    fn put(&mut self, disk: usize, token: u64, key: Vec<u8>, value: Vec<u8>) -> u32 {
        let shard = self.disks[disk].shards[0];
        self.command(shard, token, ShardCommand::Put { key, value });
        1
    }

    fn ask_usage(&mut self, name: &str, token: u64) -> u32 {
        let volume = &self.jobs.volumes[name];
        let (id, shards) = (volume.record.id(), self.disks[volume.disk].shards.clone());
        for &shard in shards.iter() {
            self.command(shard, token, ShardCommand::Usage(id));
        }
        shards.len() as u32
    }

    fn choose_disk(&self, path: Option<&str>) -> Result<usize, CommandError> {
        if let Some(path) = path {
            let found = self.disks.iter().position(|disk| disk.path == path);
            return found.ok_or_else(|| {
                CommandError::NotFound(format!("no disk {path}: see `basalt disk list`"))
            });
        }
        let healthy = |disk: &usize| !self.registry.disk(*disk).failed;
        let disks = (0..self.disks.len()).filter(healthy);
        disks
            .max_by_key(|&disk| self.registry.disk(disk).free)
            .ok_or_else(|| CommandError::Disk("no disk of the node is healthy".into()))
    }

    fn volume(&self, name: &str) -> Result<&Volume, CommandError> {
        self.jobs.volumes.get(name).ok_or_else(|| not_found(name))
    }

    /// A volume that no other command is changing.
    fn idle_volume(&mut self, name: &str) -> Result<&mut Volume, CommandError> {
        let volume = self.jobs.volumes.get_mut(name).ok_or_else(|| not_found(name))?;
        if volume.is_busy {
            let busy = format!("volume {name} is being changed: try again in a moment");
            return Err(CommandError::Unavailable(busy));
        }
        Ok(volume)
    }

    fn busy(&mut self, name: &str) {
        self.jobs.volumes.get_mut(name).expect("just inserted").is_busy = true;
    }

    fn info(&self, name: &str, used: u64) -> VolumeInfo {
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
        }
    }

    fn disk_infos(&self) -> Vec<DiskInfo> {
        let info = |(number, disk): (usize, &super::control::DiskState)| {
            let counters = self.registry.disk(number);
            DiskInfo {
                path: disk.path.clone(),
                uuid: disk.uuid,
                capacity: counters.capacity,
                free: counters.free,
                shards: disk.shards.len() as u32,
                mode: disk.mode.to_owned(),
                state: if counters.failed { "failed" } else { "ok" }.to_owned(),
            }
        };
        self.disks.iter().enumerate().map(info).collect()
    }
}

fn not_found(name: &str) -> CommandError {
    CommandError::NotFound(format!("no volume {name}: see `basalt volume list`"))
}

fn disk_error(error: store::Error) -> CommandError {
    CommandError::Disk(error.to_string())
}

fn check_name(name: &str) -> Result<(), CommandError> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    if name.is_empty() || name.len() > NAME_MAX || !name.bytes().all(is_plain) {
        let rule = format!("a volume's name is 1 to {NAME_MAX} of a-z A-Z 0-9 _ -");
        return Err(CommandError::Invalid(rule));
    }
    Ok(())
}

fn check_size(size: u64) -> Result<(), CommandError> {
    if size == 0 || size > SIZE_MAX || !size.is_multiple_of(4096) {
        let rule = "a volume's size is a multiple of 4096 bytes, at most 4 PiB";
        return Err(CommandError::Invalid(rule.into()));
    }
    Ok(())
}

fn check_nqn(nqn: &str) -> Result<(), CommandError> {
    if nqn != "*" && (Nqn::new(nqn).is_err() || nqn.len() > NQN_MAX) {
        let rule = "a host is named by its NQN (nqn.…, at most 223 bytes; see /etc/nvme/hostnqn), \
                    or * for every host";
        return Err(CommandError::Invalid(rule.into()));
    }
    Ok(())
}
