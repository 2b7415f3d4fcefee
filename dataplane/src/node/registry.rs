//! Counters of all cores, for whoever reads them: the cores write, this only points at them.

use super::{CoreCounters, DiskCounters, Snapshot, VolumeCounters};
use crate::core::CoreStats;
use crate::volume::VolumeStats;
use nvmeof_target::io::Now;
use nvmeof_target::target::Health;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

/// Free space of a disk in % below which hosts are warned. Little: a disk full of data is well.
const SPARE_THRESHOLD: u8 = 2;

/// Shared by control, the cores that publish, and the node's handle.
#[derive(Clone, Default)]
pub(crate) struct Registry(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    cores: Vec<(usize, Arc<CoreStats>)>,
    volumes: Vec<(String, Vec<Arc<VolumeStats>>)>,
    disks: Vec<Vec<DiskCounters>>,
    /// What volumes that are gone have counted: totals of the node never fall.
    gone: Totals,
}

/// Operations and bytes of reads and of writes.
#[derive(Default, Clone, Copy)]
struct Totals {
    reads: (u64, u64),
    writes: (u64, u64),
}

impl Totals {
    fn add(&mut self, stats: &[Arc<VolumeStats>]) {
        for stats in stats {
            for (sum, of) in
                [(&mut self.reads, stats.reads.totals()), (&mut self.writes, stats.writes.totals())]
            {
                sum.0 += of.0;
                sum.1 += of.1;
            }
        }
    }
}

impl Registry {
    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a core by its processor number.
    pub(crate) fn add_core(&self, processor: usize, stats: Arc<CoreStats>) {
        self.lock().cores.push((processor, stats));
    }

    /// Adds a volume: one set of counters per core.
    pub(crate) fn add_volume(&self, name: &str, stats: Vec<Arc<VolumeStats>>) {
        self.lock().volumes.push((name.to_owned(), stats));
    }

    /// Follows a volume's new name.
    pub(crate) fn rename_volume(&self, from: &str, to: &str) {
        let mut inner = self.lock();
        if let Some((name, _)) = inner.volumes.iter_mut().find(|(name, _)| name == from) {
            to.clone_into(name);
        }
    }

    /// Forgets a volume.
    pub(crate) fn remove_volume(&self, name: &str) {
        let mut inner = self.lock();
        let mut gone = inner.gone;
        for (_, stats) in inner.volumes.extract_if(.., |(other, _)| other == name) {
            gone.add(&stats);
        }
        inner.gone = gone;
    }

    /// Counters of shard `shard` of disk `disk`, from the core that runs it.
    pub(crate) fn set_shard(&self, disk: usize, shard: usize, counters: DiskCounters) {
        let mut inner = self.lock();
        if inner.disks.len() <= disk {
            inner.disks.resize(disk + 1, Vec::new());
        }
        let shards = &mut inner.disks[disk];
        if shards.len() <= shard {
            shards.resize(shard + 1, DiskCounters::default());
        }
        shards[shard] = counters;
    }

    /// Notes that a disk is not served.
    pub(crate) fn set_offline(&self, disk: usize, path: &str) {
        let path = path.to_owned();
        let counters = DiskCounters { path, offline: true, ..DiskCounters::default() };
        self.set_shard(disk, 0, counters);
    }

    /// Free bytes of a disk.
    pub(crate) fn disk(&self, disk: usize) -> DiskCounters {
        self.lock().disks.get(disk).map(|shards| sum(shards)).unwrap_or_default()
    }

    /// What hosts are told of the node's health, `uptime` after its start.
    pub(crate) fn health(&self, uptime: Now) -> Health {
        let inner = self.lock();
        let mut totals = inner.gone;
        inner.volumes.iter().for_each(|(_, stats)| totals.add(stats));
        let mut health = Health {
            reads: totals.reads.0.into(),
            bytes_read: totals.reads.1.into(),
            writes: totals.writes.0.into(),
            bytes_written: totals.writes.1.into(),
            power_on_hours: u128::from(uptime.as_secs() / 3600),
            power_cycles: 1,
            spare_threshold: SPARE_THRESHOLD,
            ..Health::default()
        };
        let disks: Vec<_> = inner.disks.iter().map(|shards| sum(shards)).collect();
        let spare = |disk: &DiskCounters| percent(disk.free, disk.capacity);
        health.available_spare = disks.iter().map(spare).min().unwrap_or(100);
        health.space_low = health.available_spare < health.spare_threshold;
        health.media_errors = disks.iter().map(|disk| u128::from(disk.checksum_errors)).sum();
        health.degraded = health.media_errors > 0 || disks.iter().any(|disk| disk.failed);
        health.read_only = !disks.is_empty() && disks.iter().all(|disk| disk.failed);
        health
    }

    /// Everything at this moment.
    pub(crate) fn snapshot(&self, uptime_ns: u64) -> Snapshot {
        let inner = self.lock();
        let cores = inner.cores.iter().map(|(processor, stats)| core(*processor, stats)).collect();
        let volumes = inner.volumes.iter().map(|(name, stats)| volume(name, stats)).collect();
        let disks = inner.disks.iter().map(|shards| sum(shards)).collect();
        Snapshot { uptime_ns, cores, volumes, disks }
    }
}

/// How much `part` is of `whole`; of nothing it is all.
fn percent(part: u64, whole: u64) -> u8 {
    let percent = u128::from(part) * 100 / u128::from(whole.max(1));
    if whole == 0 { 100 } else { percent.min(100) as u8 }
}

fn core(processor: usize, stats: &CoreStats) -> CoreCounters {
    CoreCounters {
        processor,
        turns: stats.turns.load(Ordering::Relaxed),
        busy_turns: stats.busy_turns.load(Ordering::Relaxed),
        asleep_ns: stats.asleep_ns.load(Ordering::Relaxed),
        system_calls: stats.system_calls.load(Ordering::Relaxed),
        connections: stats.connections.load(Ordering::Relaxed),
        buffers_free: stats.buffers_free.load(Ordering::Relaxed),
        digest_second_passes: stats.digest_second_passes.load(Ordering::Relaxed),
        digest_errors: stats.digest_errors.load(Ordering::Relaxed),
        commands: stats.commands.load(Ordering::Relaxed),
    }
}

fn volume(name: &str, stats: &[Arc<VolumeStats>]) -> VolumeCounters {
    let mut sum = VolumeCounters { name: name.to_owned(), ..Default::default() };
    for stats in stats {
        stats.reads.add_to(&mut sum.reads);
        stats.writes.add_to(&mut sum.writes);
        sum.errors += stats.errors.load(Ordering::Relaxed);
    }
    sum
}

fn sum(shards: &[DiskCounters]) -> DiskCounters {
    let mut sum = DiskCounters::default();
    for shard in shards {
        sum.path.clone_from(&shard.path);
        sum.capacity += shard.capacity;
        sum.free += shard.free;
        sum.checksum_errors += shard.checksum_errors;
        sum.journal_bytes += shard.journal_bytes;
        sum.checkpoints += shard.checkpoints;
        sum.metadata_hits += shard.metadata_hits;
        sum.metadata_misses += shard.metadata_misses;
        sum.failed |= shard.failed;
        sum.offline |= shard.offline;
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(free: u64, checksum_errors: u64, failed: bool) -> DiskCounters {
        DiskCounters { capacity: 1000, free, checksum_errors, failed, ..Default::default() }
    }

    #[test]
    fn hosts_are_told_of_the_worst_disk() {
        let registry = Registry::default();
        let empty = registry.health(Now::ZERO);
        assert!(!empty.space_low && !empty.degraded && !empty.read_only);
        let stats = Arc::new(VolumeStats::new());
        registry.add_volume("a", vec![stats.clone()]);
        stats.reads.record(4096, Now::ZERO);
        stats.writes.record(8192, Now::ZERO);
        stats.writes.record(512, Now::ZERO);
        registry.set_shard(0, 0, disk(500, 0, false));
        registry.set_shard(1, 0, disk(400, 0, false));
        let well = registry.health(Now::from_secs(7200));
        assert_eq!(
            (well.reads, well.bytes_read, well.writes, well.bytes_written),
            (1, 4096, 2, 8704)
        );
        assert_eq!((well.available_spare, well.power_on_hours), (40, 2));
        assert!(!well.space_low && !well.degraded && !well.read_only);
        registry.remove_volume("a");
        assert_eq!(registry.health(Now::from_secs(7200)), well, "totals never fall");
        registry.set_shard(1, 0, disk(19, 3, false));
        let worse = registry.health(Now::ZERO);
        assert_eq!((worse.available_spare, worse.media_errors), (1, 3));
        assert!(worse.space_low && worse.degraded && !worse.read_only);
        registry.set_shard(0, 0, disk(500, 0, true));
        registry.set_shard(1, 0, disk(500, 0, true));
        let dead = registry.health(Now::ZERO);
        assert!(!dead.space_low && dead.degraded && dead.read_only);
    }
}
