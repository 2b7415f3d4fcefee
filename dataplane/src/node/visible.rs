//! What hosts see of volumes, through each protocol.

use super::commands::AnswerTo;
use super::control::Control;
use super::jobs::{Progress, Step, Volume};
use super::record::VolumeRecord;
use super::{Answer, CommandError, Exports, Severity};
use crate::store;
use iscsi_target::scsi::control::Usage;
use nvmeof_target::target::{ConfigError, NamespaceConfig, NamespaceId};
use target_io::Now;

/// How old the figures may be that initiators are told of their volumes' usage.
const USAGE_PERIOD: Now = Now::from_secs(30);

impl Control {
    /// Shows a volume to hosts.
    pub(super) fn show(&mut self, name: &str) -> Result<(), ConfigError> {
        let volume = self.volume_mut(name);
        volume.is_shown = true;
        let exports = volume.record.exports;
        let shown = self.reveal(name, exports);
        if shown.is_err() {
            self.volume_mut(name).is_shown = false;
        }
        shown
    }

    /// Takes a volume from the sight of hosts, if they see it.
    pub(super) fn hide(&mut self, name: &str) {
        let volume = self.volume_mut(name);
        let exports = volume.record.exports;
        if std::mem::take(&mut volume.is_shown) {
            self.conceal(name, exports);
        }
        self.give_up_orders(name);
    }

    /// Has hosts see a volume through these protocols alone.
    pub(super) fn export_volume(
        &mut self,
        name: &str,
        exports: Exports,
        answer: AnswerTo,
    ) -> Result<(), CommandError> {
        let volume = self.living_volume(name)?;
        volume.is_busy = true;
        let disk = volume.disk;
        let record = VolumeRecord { exports, ..volume.record.clone() };
        let next = Step::Exported { name: name.to_owned(), exports };
        self.spawn(answer, next, |control, token| {
            control.put(disk, token, record.key(), record.encode())
        });
        Ok(())
    }

    /// Which protocols show a volume is durable.
    pub(super) fn exported(
        &mut self,
        name: &str,
        exports: Exports,
        failure: Option<store::Error>,
    ) -> Progress {
        if let Some(error) = failure {
            return self.failed(name, error);
        }
        let volume = self.volume_mut(name);
        volume.is_busy = false;
        let before = std::mem::replace(&mut volume.record.exports, exports);
        if volume.is_shown {
            let only = |these: Exports, those: Exports| Exports {
                nvme: these.nvme && !those.nvme,
                iscsi: these.iscsi && !those.iscsi,
            };
            self.conceal(name, only(before, exports));
            if let Err(error) = self.reveal(name, only(exports, before)) {
                return Progress::Done(Err(self.unseen(name, &error)));
            }
        }
        self.events.note(Severity::Info, "volume.exported", format!("volume {name}: {exports}"));
        Progress::Done(Ok(Answer::Volume(self.info(name, 0))))
    }

    /// Tells the targets of a volume's new size.
    pub(super) fn show_size(&mut self, name: &str) -> Result<(), ConfigError> {
        let volume = &self.jobs.volumes[name];
        let (nsid, size) = (NamespaceId(volume.record.nsid), volume.record.size);
        let (lun, exports) = (super::iscsi::lun(volume), volume.seen());
        if exports.iscsi {
            let resized = self.iscsi.resize_unit(lun, size);
            self.note_unit(name, resized);
        }
        if exports.nvme {
            self.target.resize_namespace(&self.subsystem, nsid, size)
        } else {
            Ok(())
        }
    }

    /// Tells the NVMe target of a volume's new name; SCSI knows no names.
    pub(super) fn show_name(&mut self, name: &str) -> Result<(), ConfigError> {
        let volume = &self.jobs.volumes[name];
        let nsid = NamespaceId(volume.record.nsid);
        match volume.seen().nvme {
            true => self.target.rename_namespace(&self.subsystem, nsid, name),
            false => Ok(()),
        }
    }

    /// Tells initiators whether they may write to a volume.
    pub(super) fn show_protection(&mut self, name: &str) {
        let volume = &self.jobs.volumes[name];
        if volume.seen().iscsi {
            let (lun, is_protected) = (super::iscsi::lun(volume), volume.record.is_protected);
            let told = self.iscsi.protect_unit(lun, is_protected);
            self.note_unit(name, told);
        }
    }

    /// Tells initiators what a volume uses, and what its disk still has: log page 0Ch.
    pub(super) fn show_usage(&mut self, name: &str, used: u64) {
        let volume = &self.jobs.volumes[name];
        if volume.seen().iscsi {
            let available = self.registry.disk(volume.disk).free;
            self.iscsi.set_usage(super::iscsi::lun(volume), Usage { used, available });
        }
    }

    /// Has what volumes use summed for initiators, if there are some, now and then.
    pub(super) fn refresh_usage(&mut self, now: Now) {
        if now < self.next_usage || self.iscsi.sessions() == 0 || self.is_measuring() {
            return;
        }
        self.next_usage = now + USAGE_PERIOD;
        let volumes = self.jobs.volumes.iter().filter(|(_, volume)| volume.seen().iscsi);
        let names = volumes.map(|(name, _)| name.clone()).collect();
        self.usage(names, false, None);
    }

    /// Tells initiators that room for their volumes on a disk has become scarce.
    pub(super) fn warn_initiators(&mut self, disk: usize) {
        let is_meant = |volume: &&Volume| volume.disk == disk && volume.seen().iscsi;
        let meant = self.jobs.volumes.values().filter(is_meant);
        for lun in meant.map(super::iscsi::lun).collect::<Vec<_>>() {
            self.iscsi.warn_of_space(lun);
        }
    }

    fn reveal(&mut self, name: &str, exports: Exports) -> Result<(), ConfigError> {
        let volume = &self.jobs.volumes[name];
        if exports.nvme {
            let namespace = NamespaceConfig {
                id: NamespaceId(volume.record.nsid),
                volume: volume.index,
                uuid: *volume.record.uuid.as_bytes(),
                capacity: volume.record.size,
                block_shift: volume.record.block_size.trailing_zeros() as u8,
                read_only: volume.record.is_protected,
                name: name.to_owned(),
            };
            self.target.add_namespace(&self.subsystem, namespace)?;
        }
        if exports.iscsi {
            let exported = self.export_unit(name);
            self.note_unit(name, exported);
        }
        self.show_reservations(name);
        Ok(())
    }

    fn conceal(&mut self, name: &str, exports: Exports) {
        let volume = &self.jobs.volumes[name];
        let (nsid, lun) = (NamespaceId(volume.record.nsid), super::iscsi::lun(volume));
        if exports.iscsi {
            let removed = self.iscsi.remove_unit(lun);
            self.note_unit(name, removed);
        }
        if exports.nvme
            && let Err(error) = self.target.remove_namespace(&self.subsystem, nsid)
        {
            let text = format!("volume {name} has lost its namespace: {error}");
            self.events.note(Severity::Error, "volume.refused", text);
        }
    }

    fn note_unit(&self, name: &str, told: Result<(), iscsi_target::target::ConfigError>) {
        if let Err(error) = told {
            let text = format!("volume {name}, for initiators: {error}");
            self.events.note(Severity::Error, "volume.refused", text);
        }
    }
}
