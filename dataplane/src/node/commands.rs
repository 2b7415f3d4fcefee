//! Management commands: checks them, answers at once what can be, and starts a job (see
//! [`super::jobs`]) for what shards and cores have a part in.

use super::admission::{Candidate, Verdict};
use super::control::{Control, DiskState};
use super::hosts::Host;
use super::jobs::{Outcome, Step, Volume};
use super::record::{NAME_MAX, VolumeRecord, is_name, is_size};
use super::{Answer, Command, CommandError, DiskInfo, Exports, HostInfo};
use crate::core::{Arrival, DevicePart, Message};
use crate::store;
use crossbeam_channel::Sender;
use std::collections::BTreeSet;

/// Most volumes of a node: one subsystem's namespaces.
pub(super) const VOLUMES_MAX: usize = 1024;

/// A call from outside the plane.
pub(crate) enum Call {
    /// A command, and where its answer goes.
    Command(Command, Sender<Result<Answer, CommandError>>),
    /// Take disks from the cores, each for a reason, and a device. Answered when nothing is left.
    Retire { disks: Vec<(usize, String)>, part: Option<DevicePart>, answer: Sender<()> },
    /// Mount disks: a share for each core. Nobody answers when the node is stopping.
    Admit { arrivals: Vec<Box<dyn Arrival>>, disks: Vec<Candidate>, answer: Sender<Vec<Verdict>> },
    /// Drain, settle, stop.
    Shutdown(Sender<Result<Answer, CommandError>>),
}

/// Where the answer goes, for what has somebody waiting.
pub(super) type AnswerTo = Option<Sender<Outcome>>;

impl Control {
    /// Starts a call.
    pub(super) fn start(&mut self, call: Call) {
        let (command, answer) = match call {
            Call::Command(command, answer) => (command, answer),
            Call::Shutdown(answer) => return self.leave(answer),
            Call::Retire { .. } | Call::Admit { .. } if self.is_stopping() => return,
            Call::Retire { disks, part, answer } => return self.retire(disks, part, answer),
            Call::Admit { arrivals, disks, answer } => return self.admit(arrivals, disks, answer),
        };
        if self.is_stopping() {
            let stopping = "the node is stopping: start it again first";
            let _ = answer.send(Err(CommandError::Unavailable(stopping.into())));
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
                let record = VolumeRecord {
                    name,
                    uuid,
                    size,
                    block_size,
                    nsid: 0,
                    is_deleting: false,
                    is_protected: false,
                    exports: Exports::default(),
                };
                return self.create_volume(record, disk.as_deref(), later);
            }
            Command::DeleteVolume { name } => return self.delete_volume(&name, later),
            Command::ResizeVolume { name, size } => {
                return self.resize_volume(&name, size, later);
            }
            Command::RenameVolume { name, to } => {
                return self.rename_volume(&name, &to, later);
            }
            Command::ExportVolume { name, exports } => {
                return self.export_volume(&name, exports, later);
            }
            Command::ListVolumes => {
                let names = self.jobs.volumes.keys().rev().cloned().collect();
                self.usage(names, false, later);
                return Ok(());
            }
            Command::ShowVolume { name } => {
                self.jobs.volumes.get(&name).ok_or_else(|| self.not_found(&name))?;
                self.usage(vec![name], true, later);
                return Ok(());
            }
            Command::AllowHost { nqn } => return self.allow_host(nqn, None, later),
            Command::AllowInitiator { name, chap } => {
                return self.allow_initiator(&name, &chap, later);
            }
            Command::DenyHost { nqn } => return self.deny_host(nqn, later),
            Command::ListHosts => Answer::Hosts(self.host_infos()),
            Command::OnlineDisk { .. } | Command::OfflineDisk { .. } => {
                let text = "the disks of this node neither come nor go";
                return Err(CommandError::Unavailable(text.into()));
            }
            Command::ListDisks => Answer::Disks(self.disk_infos()),
            Command::ListConnections => Answer::Connections(self.connections()),
            Command::RedirectInitiators { to } => {
                self.redirect_initiators(to)?;
                Answer::Done
            }
            Command::ShowRedirect => Answer::Redirect(self.redirected()),
            Command::Ping => {
                self.spawn(later, Step::Pinged, |control, token| {
                    (0..control.cores)
                        .for_each(|core| control.order(core, Message::Ping { token }));
                    u32::from(control.cores)
                });
                return Ok(());
            }
        };
        let _ = answer.send(Ok(ready));
        Ok(())
    }

    fn create_volume(
        &mut self,
        mut record: VolumeRecord,
        disk: Option<&str>,
        answer: AnswerTo,
    ) -> Result<(), CommandError> {
        check_size(record.size)?;
        if !matches!(record.block_size, 512 | 4096) {
            return Err(CommandError::Invalid("the block size is 512 or 4096".into()));
        }
        self.check_new_name(&record.name)?;
        self.check_new_uuid(&record)?;
        let taken = |nsid: &u32| self.jobs.volumes.values().all(|v| v.record.nsid != *nsid);
        let nsid = (1..=VOLUMES_MAX as u32).find(taken);
        record.nsid = nsid.ok_or_else(|| {
            CommandError::Invalid(format!(
                "there are {VOLUMES_MAX} volumes already, which is the most: delete one first"
            ))
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

    fn delete_volume(&mut self, name: &str, answer: AnswerTo) -> Result<(), CommandError> {
        let volume = self.idle_volume(name)?;
        volume.is_busy = true;
        // A deletion that failed half way is taken up again.
        volume.record.is_deleting = true;
        let disk = volume.disk;
        let (key, value) = (volume.record.key(), volume.record.encode());
        self.hide(name);
        self.spawn(answer, Step::DeleteRoutes { name: name.to_owned() }, |control, token| {
            control.put(disk, token, key, value)
        });
        Ok(())
    }

    fn resize_volume(
        &mut self,
        name: &str,
        size: u64,
        answer: AnswerTo,
    ) -> Result<(), CommandError> {
        check_size(size)?;
        let volume = self.living_volume(name)?;
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
        answer: AnswerTo,
    ) -> Result<(), CommandError> {
        self.check_new_name(to)?;
        let volume = self.living_volume(name)?;
        volume.is_busy = true;
        let disk = volume.disk;
        let record = VolumeRecord { name: to.to_owned(), ..volume.record.clone() };
        self.jobs.reserved_names.insert(to.to_owned());
        let next = Step::Renamed { name: name.to_owned(), to: to.to_owned() };
        self.spawn(answer, next, |control, token| {
            control.put(disk, token, record.key(), record.encode())
        });
        Ok(())
    }

    pub(super) fn usage(&mut self, names: Vec<String>, single: bool, answer: AnswerTo) {
        let first = names.last().cloned();
        let next = Step::Usage { names, done: Vec::new(), single };
        self.spawn(answer, next, |control, token| {
            first.map_or(0, |name| control.ask_usage(&name, token))
        });
    }

    fn choose_disk(&self, path: Option<&str>) -> Result<usize, CommandError> {
        if let Some(path) = path {
            let found = self.disks.iter().position(|disk| disk.path == path);
            let found = found.ok_or_else(|| {
                let text = format!("the node has no disk {path}: see `basalt node`");
                CommandError::NotFound(text)
            })?;
            return match &self.disks[found].offline {
                None => Ok(found),
                Some(reason) => {
                    Err(CommandError::Disk(format!("disk {path} is offline: {reason}")))
                }
            };
        }
        let healthy = |disk: &usize| !self.registry.disk(*disk).failed;
        let free = |&disk: &usize| self.registry.disk(disk).free;
        self.served().filter(healthy).max_by_key(free).ok_or_else(|| {
            let text = "every disk that the node serves has failed: replace them; `basalt events` \
                        says why they failed";
            CommandError::Disk(text.into())
        })
    }

    /// A volume that no other command is changing.
    fn idle_volume(&mut self, name: &str) -> Result<&mut Volume, CommandError> {
        if !self.jobs.volumes.contains_key(name) {
            return Err(self.not_found(name));
        }
        let volume = &self.jobs.volumes[name];
        if volume.is_busy {
            let busy = format!("volume {name} is being changed: try again in a moment");
            return Err(CommandError::Unavailable(busy));
        }
        let disk = volume.disk;
        if let Some(error) = self.offline_error(disk) {
            return Err(error);
        }
        Ok(self.jobs.volumes.get_mut(name).expect("just seen"))
    }

    /// An idle volume whose deletion has not begun.
    pub(super) fn living_volume(&mut self, name: &str) -> Result<&mut Volume, CommandError> {
        let volume = self.idle_volume(name)?;
        if volume.record.is_deleting {
            let text = format!(
                "volume {name} is gone, but its deletion is unfinished: delete it \
                                again"
            );
            return Err(CommandError::Unavailable(text));
        }
        Ok(volume)
    }

    fn check_new_name(&self, name: &str) -> Result<(), CommandError> {
        if !is_name(name) {
            let rule = format!("a volume's name is 1 to {NAME_MAX} of a-z A-Z 0-9 _ - .");
            return Err(CommandError::Invalid(rule));
        }
        if self.jobs.volumes.contains_key(name) {
            let text = format!("volume {name} exists already: choose another name");
            return Err(CommandError::Exists(text));
        }
        if self.jobs.reserved_names.contains(name) {
            let text = format!("a volume is being renamed to {name}: choose another name");
            return Err(CommandError::Exists(text));
        }
        Ok(())
    }

    /// A volume's record and chunks are found by its UUID: no two may share it, or its half.
    fn check_new_uuid(&self, record: &VolumeRecord) -> Result<(), CommandError> {
        let uuid = record.uuid;
        if uuid.is_nil() {
            let text = "a volume's UUID is not nil: name another, or none to have one drawn";
            return Err(CommandError::Invalid(text.into()));
        }
        let clashes = |other: &VolumeRecord| other.uuid == uuid || other.id() == record.id();
        let known = self.jobs.volumes.values().map(|volume| &volume.record);
        let holder = known.into_iter().find(|other| clashes(other)).map(|other| &other.name);
        let is_hidden = self
            .jobs
            .hidden
            .iter()
            .any(|other| *other == uuid || other.as_u64_pair().1 == uuid.as_u64_pair().1);
        let holder = match (holder, is_hidden) {
            (Some(name), _) => format!("volume {name}"),
            (None, true) => "a volume that is not served (see `basalt events`)".to_owned(),
            (None, false) => return Ok(()),
        };
        Err(CommandError::Exists(format!(
            "{holder} has UUID {uuid} already, or its last 16 digits: name another, or none to \
             have one drawn"
        )))
    }

    /// Disks that the node serves.
    pub(super) fn served(&self) -> impl Iterator<Item = usize> {
        (0..self.disks.len()).filter(|&disk| self.disks[disk].offline.is_none())
    }

    /// Nobody knows which volumes lie on a disk that is offline.
    fn not_found(&self, name: &str) -> CommandError {
        let offline: Vec<&str> =
            self.disks.iter().filter(|d| d.offline.is_some()).map(|d| d.path.as_str()).collect();
        let doubt = match offline[..] {
            [] => String::new(),
            _ => format!(
                "; it may lie on what is offline ({}: see `basalt node`)",
                offline.join(", ")
            ),
        };
        CommandError::NotFound(format!("no volume {name}: see `basalt volume list`{doubt}"))
    }

    /// A disk's error, with what to do.
    pub(super) fn disk_error(&self, disk: usize, error: store::Error) -> CommandError {
        let path = &self.disks[disk].path;
        CommandError::Disk(match error {
            store::Error::Full => {
                format!("disk {path} is full: delete or trim volumes, or add a disk")
            }
            store::Error::Failed => format!(
                "disk {path} has failed: replace it; its event log entry (`basalt events`) says why"
            ),
            error => format!("disk {path}: {error}; see `basalt events`"),
        })
    }

    fn host_infos(&self) -> Vec<HostInfo> {
        let info =
            |(nqn, host): (&String, &Host)| HostInfo { nqn: nqn.clone(), chap: host.has_secret };
        self.jobs.hosts.iter().map(info).collect()
    }

    fn disk_infos(&self) -> Vec<DiskInfo> {
        let info = |(number, disk): (usize, &DiskState)| {
            let counters = self.registry.disk(number);
            let state = match (&disk.offline, counters.failed) {
                (Some(_), _) => "offline",
                (None, true) => "failed",
                (None, false) => "ok",
            };
            let drive = self.registry.drive(&disk.path);
            let access = self.registry.access(&disk.path).map(|access| access.to_string());
            let is_ours = disk.path.starts_with("pci:");
            let access = access.or_else(|| is_ours.then(|| "basalt".to_owned()));
            DiskInfo {
                path: disk.path.clone(),
                uuid: disk.uuid,
                capacity: counters.capacity,
                free: counters.free,
                shards: disk.shards.len() as u32,
                cores: cores(disk),
                mode: disk.mode.map(str::to_owned),
                state: state.to_owned(),
                reason: disk.offline.clone(),
                access: access.filter(|_| disk.offline.is_none()),
                drive,
            }
        };
        self.disks.iter().enumerate().map(info).collect()
    }
}

/// The cores that have shards of the disk, in order.
fn cores(disk: &DiskState) -> Vec<u16> {
    let cores: BTreeSet<u16> = disk.shards.iter().map(|address| address.core).collect();
    cores.into_iter().collect()
}

fn check_size(size: u64) -> Result<(), CommandError> {
    if !is_size(size) {
        let rule = "a volume's size is a multiple of 4096 bytes, at most 4 PiB";
        return Err(CommandError::Invalid(rule.into()));
    }
    Ok(())
}
