//! Hosts: who may connect. Every disk's catalogue keeps the list, so that no disk is needed for it;
//! an entry is a number and an NQN, and disks of different origin may number differently.

use super::commands::AnswerTo;
use super::control::Control;
use super::jobs::{Outcome, Progress, Step};
use super::record::{NQN_MAX, Record};
use super::{Answer, CommandError, Severity};
use crate::core::ShardCommand;
use crate::store;
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

/// A host on its way onto the list or off it, one catalogue entry after another.
pub(super) struct HostChange {
    nqn: String,
    is_allowed: bool,
    entries: Vec<HostEntry>,
    /// Entries that have been answered for.
    done: usize,
    /// Disks that did not take it.
    failed: Vec<(usize, store::Error)>,
}

impl HostChange {
    pub(super) fn new(nqn: String, is_allowed: bool, entries: Vec<HostEntry>) -> Self {
        Self { nqn, is_allowed, entries, done: 0, failed: Vec::new() }
    }
}

/// Commands.
impl Control {
    /// Puts a host on the list, if it is not there.
    pub(super) fn allow_host(&mut self, nqn: String, answer: AnswerTo) -> Result<(), CommandError> {
        check_nqn(&nqn)?;
        if self.jobs.hosts.contains_key(&nqn) {
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
        self.change_host(HostChange::new(nqn, true, entries), answer);
        Ok(())
    }

    /// Takes a host off the list: it is gone at once, then the disks are told.
    pub(super) fn deny_host(&mut self, nqn: String, answer: AnswerTo) -> Result<(), CommandError> {
        self.check_idle_host(&nqn)?;
        let entries = self.jobs.hosts.remove(&nqn).ok_or_else(|| {
            CommandError::NotFound(format!("host {nqn} is not on the list: see `basalt host list`"))
        })?;
        self.set_host(&nqn, false);
        self.events.note(Severity::Info, "host.denied", nqn.clone());
        self.change_host(HostChange::new(nqn, false, entries), answer);
        Ok(())
    }

    /// Puts a host (or `*`, every host) on the subsystem's list, or takes it off.
    pub(super) fn set_host(&mut self, host: &str, is_allowed: bool) {
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
        let HostChange { nqn, entries, failed, .. } = change;
        if failed.len() == entries.len() {
            let (disk, error) = failed[0];
            return Err(self.disk_error(disk, error));
        }
        for (disk, error) in failed {
            let error = self.disk_error(disk, error);
            let text = format!("host {nqn} is allowed, but one disk did not take note: {error}");
            self.events.note(Severity::Warning, "host.allowed", text);
        }
        self.set_host(&nqn, true);
        self.jobs.denied.remove(&nqn);
        self.events.note(Severity::Info, "host.allowed", nqn.clone());
        self.jobs.hosts.insert(nqn, entries);
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
        let key = Record::host_key(number);
        if change.is_allowed {
            return self.put(disk, token, key, change.nqn.clone().into_bytes());
        }
        let shard = self.disks[disk].shards[0];
        self.command(shard, token, ShardCommand::Delete { key });
        1
    }
}

fn check_nqn(nqn: &str) -> Result<(), CommandError> {
    if nqn != "*" && (Nqn::new(nqn).is_err() || nqn.len() > NQN_MAX) {
        let rule = "a host is named by its NQN (nqn.…, at most 223 bytes; see /etc/nvme/hostnqn), \
                    or * for every host";
        return Err(CommandError::Invalid(rule.into()));
    }
    Ok(())
}
