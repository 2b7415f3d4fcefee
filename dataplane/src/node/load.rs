//! Takes over what the catalogues hold when the node starts. Disks of different origin may disagree
//! with each other; whatever they hold, the node starts, and says what it could not take as it is.

use super::Severity;
use super::commands::VOLUMES_MAX;
use super::control::Control;
use super::hosts::{HOSTS_MAX, Host, HostEntry};
use super::jobs::{Step, Volume};
use super::record::{NAME_MAX, Record, VolumeRecord};
use super::reservations::AllFound;
use iscsi_target::target::Credentials;
use std::collections::BTreeSet;

/// What all catalogues together name: a substitute must be none of these.
struct Claimed {
    names: BTreeSet<String>,
    nsids: BTreeSet<u32>,
}

impl Control {
    /// Takes over what the catalogues hold, before the first host connects.
    pub(crate) fn load(&mut self, mut entries: Vec<(usize, Record)>) {
        // The first disk of the configuration comes first; and where two volumes have one id, the
        // deletion of one must not free what the other holds.
        entries.sort_by_key(|(disk, record)| (*disk, is_deleting(record)));
        let claimed = Claimed::by(&entries);
        let mut found = take_reservations(&mut entries);
        let (mut hosts, mut volumes) = (0, 0);
        for (disk, record) in entries {
            match record {
                Record::Host { number, nqn } => {
                    hosts += self.load_host(HostEntry { disk, number }, nqn, None);
                }
                Record::Initiator { number, name, credentials } => {
                    let entry = HostEntry { disk, number };
                    hosts += self.load_host(entry, name, Some(credentials));
                }
                Record::Volume(record) => {
                    volumes += self.load_volume(disk, record, &claimed, &mut found);
                }
                Record::Reservations { .. } => unreachable!("taken out before"),
            }
        }
        if hosts > 0 {
            let text = format!(
                "the disks allow {hosts} hosts beyond the {HOSTS_MAX} that a node can have: these \
                 cannot connect; take hosts off the list and restart"
            );
            self.events.note(Severity::Error, "host.refused", text);
        }
        if volumes > 0 {
            let text = format!(
                "the disks hold {volumes} volumes beyond the {VOLUMES_MAX} that a node can serve: \
                 these are not served; serve some of the disks from another node"
            );
            self.events.note(Severity::Error, "volume.offline", text);
        }
    }

    /// Returns how many hosts were left out.
    fn load_host(
        &mut self,
        entry: HostEntry,
        nqn: String,
        credentials: Option<Credentials>,
    ) -> u32 {
        self.jobs.next_host = self.jobs.next_host.max(entry.number + 1);
        let credentials_given = credentials.is_some();
        if !self.jobs.hosts.contains_key(&nqn) {
            if self.jobs.hosts.len() >= HOSTS_MAX {
                return 1;
            }
            let has_secret = credentials.is_some();
            self.set_host(&nqn, Some(credentials.unwrap_or_default()));
            let host = Host { has_secret, entries: Vec::new() };
            self.jobs.hosts.insert(nqn.clone(), host);
        }
        let host = self.jobs.hosts.get_mut(&nqn).expect("just inserted");
        if host.has_secret == credentials_given {
            host.entries.push(entry);
        }
        0
    }

    /// Returns how many volumes were left out for want of room.
    fn load_volume(
        &mut self,
        disk: usize,
        mut record: VolumeRecord,
        claimed: &Claimed,
        found: &mut AllFound,
    ) -> u32 {
        let volumes = || self.jobs.volumes.values();
        let same_place =
            |volume: &&Volume| volume.disk == disk && volume.record.id() == record.id();
        if let Some(first) = volumes().find(same_place) {
            let text = format!(
                "volume {} on disk {} has the same id as volume {} there, and would share its \
                 data: it is not served",
                record.name, self.disks[disk].path, first.record.name
            );
            self.events.note(Severity::Error, "volume.offline", text);
            self.jobs.hidden.push(record.uuid);
            return 0;
        }
        let twin = volumes().find(|volume| volume.record.uuid == record.uuid);
        let twin = twin.map(|twin| (twin.record.name.clone(), twin.disk));
        let Some(nsid) = self.nsid_for(&record, claimed) else {
            self.jobs.hidden.push(record.uuid);
            return 1;
        };
        record.nsid = nsid;
        self.make_name_unique(disk, &mut record, claimed);
        let name = record.name.clone();
        let is_deleting = record.is_deleting;
        let reservations = found.remove(&(disk, record.uuid));
        self.insert_volume(record, disk);
        if let Some(reservations) = reservations {
            self.load_reservations(&name, reservations);
        }
        if is_deleting {
            self.busy(&name);
            self.spawn(None, Step::DeleteChunks { name }, |_, _| 0);
        } else if let Some((other, other_disk)) = twin {
            let (path, other_path) = (&self.disks[disk].path, &self.disks[other_disk].path);
            let text = format!(
                "volume {name} on disk {path} has the same UUID as volume {other} on disk \
                 {other_path}: hosts do not see it; delete one of them and restart, or take the \
                 disk out"
            );
            self.events.note(Severity::Error, "volume.offline", text);
        } else {
            self.busy(&name);
            self.spawn(None, Step::LoadNamespace { name: name.clone() }, |control, token| {
                control.send_routes(&name, token, true)
            });
        }
        0
    }

    /// The namespace id that the volume has, or another if an earlier one has it.
    fn nsid_for(&self, record: &VolumeRecord, claimed: &Claimed) -> Option<u32> {
        let ids = 1..=VOLUMES_MAX as u32;
        let used: BTreeSet<u32> = self.jobs.volumes.values().map(|v| v.record.nsid).collect();
        if ids.contains(&record.nsid) && !used.contains(&record.nsid) {
            return Some(record.nsid);
        }
        let free = |id: &u32| !used.contains(id);
        let unclaimed = ids.clone().find(|id| free(id) && !claimed.nsids.contains(id));
        unclaimed.or_else(|| ids.clone().find(free))
    }

    /// Gives the volume another name if an earlier one has its own.
    fn make_name_unique(&self, disk: usize, record: &mut VolumeRecord, claimed: &Claimed) {
        if !self.jobs.volumes.contains_key(&record.name) {
            return;
        }
        let is_free =
            |name: &String| !claimed.names.contains(name) && !self.jobs.volumes.contains_key(name);
        let candidates = (2_u32..).map(|number| {
            let suffix = format!("-{number}");
            let stem = record.name.len().min(NAME_MAX - suffix.len());
            format!("{}{suffix}", &record.name[..stem])
        });
        let name = candidates.into_iter().find(is_free).expect("more numbers than volumes");
        let text = format!(
            "two volumes are called {}: the one on disk {} is called {name} for now; rename or \
             delete it",
            record.name, self.disks[disk].path
        );
        self.events.note(Severity::Warning, "volume.renamed", text);
        record.name = name;
    }
}

/// Takes the reservations out of what was read.
fn take_reservations(entries: &mut Vec<(usize, Record)>) -> AllFound {
    let mut found = AllFound::new();
    entries.retain_mut(|(disk, record)| {
        let Record::Reservations { uuid, part, value } = record else { return true };
        found.entry((*disk, *uuid)).or_default().add(*part, std::mem::take(value));
        false
    });
    found
}

fn is_deleting(record: &Record) -> bool {
    matches!(record, Record::Volume(record) if record.is_deleting)
}

impl Claimed {
    fn by(entries: &[(usize, Record)]) -> Self {
        let volumes = entries.iter().filter_map(|(_, record)| match record {
            Record::Volume(volume) => Some((volume.name.clone(), volume.nsid)),
            Record::Host { .. } | Record::Initiator { .. } | Record::Reservations { .. } => None,
        });
        let (names, nsids) = volumes.unzip();
        Self { names, nsids }
    }
}
