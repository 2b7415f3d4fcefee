//! Counters of all cores, for whoever reads them: the cores write, this only points at them.

use super::{CoreCounters, DiskCounters, Snapshot, VolumeCounters};
use crate::core::CoreStats;
use crate::volume::VolumeStats;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

/// Shared by control, the cores that publish, and the node's handle.
#[derive(Clone, Default)]
pub(crate) struct Registry(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    cores: Vec<(usize, Arc<CoreStats>)>,
    volumes: Vec<(String, Vec<Arc<VolumeStats>>)>,
    disks: Vec<Vec<DiskCounters>>,
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
        self.lock().volumes.retain(|(other, _)| other != name);
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

    /// Free bytes of a disk.
    pub(crate) fn disk(&self, disk: usize) -> DiskCounters {
        self.lock().disks.get(disk).map(|shards| sum(shards)).unwrap_or_default()
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
    }
    sum
}
