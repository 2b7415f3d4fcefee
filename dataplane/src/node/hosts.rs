//! Hosts: who may connect. Every disk's catalogue keeps the list, so that no disk is needed for it;
//! an entry is a number and an NQN, and disks of different origin may number differently.

use super::commands::AnswerTo;
use super::control::Control;
use super::jobs::{Outcome, Progress, Step};
use super::record::{NQN_MAX, Record};
use super::{Answer, Chap, CommandError, Password, Severity};
use crate::core::ShardCommand;
use crate::store;
use iscsi_target::target::{ConfigError, Credentials, IscsiName, Secret};
use nvmeof_target::target::Nqn;

/// Most hosts on the allowed list.
pub(super) const HOSTS_MAX: usize = 1024;

/// Most hosts of which it is remembered that they were denied while a disk was away.
const DENIED_MAX: usize = 4 * HOSTS_MAX;

/// Where a catalogue names a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct HostEntry {
    pub(super) disk: usize,
    pub(super) number: u64,
}

/// A host on the list.
pub(super) struct Host {
    /// Whether it must prove who it is.
    pub(super) has_secret: bool,
    /// Every catalogue entry that puts it there.
    pub(super) entries: Vec<HostEntry>,
}

/// A host on its way onto the list or off it, one catalogue entry after another.
pub(super) struct HostChange {
    nqn: String,
    is_allowed: bool,
    /// What it must prove.
    credentials: Option<Credentials>,
    has_secret: bool,
    entries: Vec<HostEntry>,
    /// Entries that have been answered for.
    done: usize,
    /// Disks that did not take it.
    failed: Vec<(usize, store::Error)>,
}

impl HostChange {
    pub(super) fn new(
        nqn: String,
        is_allowed: bool,
        has_secret: bool,
        entries: Vec<HostEntry>,
    ) -> Self {
        let (credentials, failed) = (None, Vec::new());
        Self { nqn, is_allowed, credentials, has_secret, entries, done: 0, failed }
    }
}

/// Commands.
impl Control {
    /// Puts a host on the list, if it is not there.
    pub(super) fn allow_host(
        &mut self,
        nqn: String,
        credentials: Option<Credentials>,
        answer: AnswerTo,
    ) -> Result<(), CommandError> {
        check_nqn(&nqn)?;
        if let Some(host) = self.jobs.hosts.get(&nqn) {
            if host.has_secret || credentials.is_some() {
                return Err(CommandError::Exists(format!(
                    "host {nqn} is on the list already: deny it first to change its secrets"
                )));
            }
            let _ = answer.map(|answer| answer.send(Ok(Answer::Done)));
            return Ok(());
        }
        self.check_idle_host(&nqn)?;
        if self.jobs.hosts.len() + self.jobs.busy_hosts.len() >= HOSTS_MAX {
            return Err(CommandError::Invalid(format!(
                "there are {HOSTS_MAX} hosts already, which is the most: deny one first, or allow \
                 every host by *"
            )));
        }
        let number = self.jobs.next_host;
        self.jobs.next_host += 1;
        let entries: Vec<_> = self.served().map(|disk| HostEntry { disk, number }).collect();
        if entries.is_empty() {
            let text = "no disk of the node is served that could keep the list";
            return Err(CommandError::Disk(text.into()));
        }
        let has_secret = credentials.is_some();
        let change = HostChange::new(nqn, true, has_secret, entries);
        self.change_host(HostChange { credentials, ..change }, answer);
        Ok(())
    }

    /// Puts an initiator on the list that must prove who it is.
    pub(super) fn allow_initiator(
        &mut self,
        name: &str,
        chap: &Chap,
        answer: AnswerTo,
    ) -> Result<(), CommandError> {
        let invalid = |error: ConfigError| CommandError::Invalid(error.to_string());
        let name = IscsiName::new(name).map_err(invalid)?;
        let secret = |user: &str, secret: &Password| {
            Secret::new(user, secret.0.as_bytes()).map(Some).map_err(invalid)
        };
        let initiator = secret(&chap.user, &chap.secret)?;
        let target = match &chap.target {
            Some((user, password)) => secret(user, password)?,
            None => None,
        };
        let credentials = Credentials { initiator, target };
        credentials.check().map_err(invalid)?;
        self.allow_host(name.to_string(), Some(credentials), answer)
    }

    /// Takes a host off the list: it is gone at once, then the disks are told.
    pub(super) fn deny_host(&mut self, nqn: String, answer: AnswerTo) -> Result<(), CommandError> {
        self.check_idle_host(&nqn)?;
        let host = self.jobs.hosts.remove(&nqn).ok_or_else(|| {
            CommandError::NotFound(format!("host {nqn} is not on the list: see `basalt host list`"))
        })?;
        self.set_host(&nqn, None);
        self.events.note(Severity::Info, "host.denied", nqn.clone());
        let change = HostChange::new(nqn, false, host.has_secret, host.entries);
        self.change_host(change, answer);
        Ok(())
    }

    /// Puts a host (or `*`, every host) on the subsystem's list, or takes it off.
    pub(super) fn set_host(&mut self, host: &str, credentials: Option<Credentials>) {
        let is_allowed = credentials.is_some();
        let subsystem = &self.subsystem;
        let as_host = match (host, Nqn::new(host)) {
            ("*", _) => self.target.set_allow_any(subsystem, is_allowed),
            (_, Ok(host)) if is_allowed => self.target.allow_host(subsystem, host),
            (_, Ok(host)) => self.target.deny_host(subsystem, &host),
            (_, Err(error)) => Err(error),
        };
        let as_host = as_host.map_err(|error| error.to_string());
        let as_initiator = || self.set_initiator(host, credentials).map_err(|e| e.to_string());
        let changed = match host {
            "*" => as_host.and_then(|()| as_initiator()),
            _ if is_initiator(host) => as_initiator(),
            _ => as_host,
        };
        if let Err(error) = changed {
            self.events.note(Severity::Error, "host.refused", format!("host {host}: {error}"));
        }
    }

    /// Goes through the entries one by one.
    pub(super) fn change_host(&mut self, change: HostChange, answer: AnswerTo) {
        self.jobs.busy_hosts.insert(change.nqn.clone());
        self.spawn_after(answer, |control, token| {
            let waiting = control.change_host_entry(&change, token);
            (Step::HostChanged(change), waiting)
        });
    }

    fn check_idle_host(&self, nqn: &str) -> Result<(), CommandError> {
        if self.jobs.busy_hosts.contains(nqn) {
            let busy = format!("host {nqn} is being allowed or denied: try again in a moment");
            return Err(CommandError::Unavailable(busy));
        }
        Ok(())
    }
}

/// Steps.
impl Control {
    /// The next step.
    pub(super) fn host_changed(
        &mut self,
        mut change: HostChange,
        failure: Option<store::Error>,
        token: u64,
    ) -> Progress {
        let disk = change.entries[change.done].disk;
        change.failed.extend(failure.map(|error| (disk, error)));
        change.done += 1;
        if change.done < change.entries.len() {
            let waiting = self.change_host_entry(&change, token);
            return Progress::Next(Step::HostChanged(change), waiting);
        }
        self.jobs.busy_hosts.remove(&change.nqn);
        Progress::Done(if change.is_allowed {
            self.host_allowed(change)
        } else {
            self.host_denied(&change)
        })
    }

    /// One disk is enough for a host to be allowed.
    fn host_allowed(&mut self, change: HostChange) -> Outcome {
        let HostChange { nqn, entries, failed, has_secret, credentials, .. } = change;
        if failed.len() == entries.len() {
            let (disk, error) = failed[0];
            return Err(self.disk_error(disk, error));
        }
        for (disk, error) in failed {
            let error = self.disk_error(disk, error);
            let text = format!("host {nqn} is allowed, but one disk did not take note: {error}");
            self.events.note(Severity::Warning, "host.allowed", text);
        }
        self.set_host(&nqn, Some(credentials.unwrap_or_default()));
        self.jobs.denied.remove(&nqn);
        self.events.note(Severity::Info, "host.allowed", nqn.clone());
        self.jobs.hosts.insert(nqn, Host { has_secret, entries });
        Ok(Answer::Done)
    }

    /// The host is gone already; what a failed disk still says counts again after a restart.
    fn host_denied(&mut self, change: &HostChange) -> Outcome {
        let nqn = &change.nqn;
        let offline = self.disks.iter().filter(|disk| disk.offline.is_some());
        if (offline.count() > 0 || !change.failed.is_empty()) && self.jobs.denied.len() < DENIED_MAX
        {
            self.jobs.denied.insert(nqn.clone());
        }
        for &(disk, error) in &change.failed {
            let error = self.disk_error(disk, error);
            let text = format!(
                "host {nqn} is denied, but one disk did not take note: {error}; should the node \
                 restart with this disk, deny the host again"
            );
            self.events.note(Severity::Warning, "host.denied", text);
        }
        for disk in self.disks.iter().filter(|disk| disk.offline.is_some()) {
            let text = format!(
                "host {nqn} is denied, but disk {} is offline: it takes note when it is back; \
                 should the node restart before, look at `basalt host list`, and deny it again",
                disk.path
            );
            self.events.note(Severity::Warning, "host.denied", text);
        }
        match change.failed.first() {
            Some(&(disk, error)) if change.failed.len() == change.entries.len() => {
                let CommandError::Disk(text) = self.disk_error(disk, error) else {
                    unreachable!("a disk's error")
                };
                Err(CommandError::Disk(format!(
                    "host {nqn} is denied and disconnected, but only until the node restarts: \
                     {text}; deny it again then"
                )))
            }
            _ => Ok(Answer::Done),
        }
    }

    fn change_host_entry(&mut self, change: &HostChange, token: u64) -> u32 {
        let HostEntry { disk, number } = change.entries[change.done];
        let key = match change.has_secret {
            true => Record::initiator_key(number),
            false => Record::host_key(number),
        };
        if change.is_allowed {
            let value = match &change.credentials {
                Some(credentials) => Record::encode_initiator(&change.nqn, credentials),
                None => change.nqn.clone().into_bytes(),
            };
            return self.put(disk, token, key, value);
        }
        let shard = self.disks[disk].shards[0];
        self.command(shard, token, ShardCommand::Delete { key });
        1
    }
}

/// Whether this is an initiator's name rather than a host's.
fn is_initiator(name: &str) -> bool {
    IscsiName::new(name).is_ok()
}

fn check_nqn(nqn: &str) -> Result<(), CommandError> {
    let is_host = Nqn::new(nqn).is_ok() && nqn.len() <= NQN_MAX;
    if nqn != "*" && !is_host && !is_initiator(nqn) {
        let rule = "a host is named by its NQN (nqn.…, at most 223 bytes; see /etc/nvme/hostnqn), \
                    an initiator by its iSCSI name (iqn.…, eui.… or naa.…; see \
                    /etc/iscsi/initiatorname.iscsi), and * is every one";
        return Err(CommandError::Invalid(rule.into()));
    }
    Ok(())
}
