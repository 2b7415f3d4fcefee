//! Counters of all cores, for whoever reads them: the cores write, this only points at them.

use super::space::{Room, RoomLeft};
use super::{CoreCounters, DiskCounters, DriveInfo, OperationCounters, Snapshot, VolumeCounters};
use crate::core::CoreStats;
use crate::disk::kernel::{Access, Way};
use crate::volume::VolumeStats;
use nvmeof_target::io::Now;
use nvmeof_target::target::Health;
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

/// Free space of a disk in % below which hosts are warned. Little: a disk full of data is well.
const SPARE_THRESHOLD: u8 = 2;

/// Shared by control, the cores that publish, and the node's handle.
#[derive(Clone, Default)]
pub(crate) struct Registry(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    /// Processors and counters, by position among the node's cores.
    cores: BTreeMap<usize, (usize, Arc<CoreStats>)>,
    /// One set of counters for each core.
    volumes: Vec<(String, Vec<Arc<VolumeStats>>)>,
    /// What each core did for volumes that are gone: totals never fall.
    gone: Vec<Served>,
    disks: Vec<Vec<DiskCounters>>,
    /// Disks of controllers that the node drives itself, by the core that knows of them.
    drives: BTreeMap<u16, Vec<(String, DriveInfo)>>,
    /// Disks of the kernel's, by their paths.
    ways: BTreeMap<String, Way>,
}

/// Operations and bytes of reads and of writes.
#[derive(Default, Clone, Copy)]
struct Totals {
    reads: (u64, u64),
    writes: (u64, u64),
}

impl Totals {
    fn add(&mut self, reads: (u64, u64), writes: (u64, u64)) {
        for (sum, of) in [(&mut self.reads, reads), (&mut self.writes, writes)] {
            sum.0 += of.0;
            sum.1 += of.1;
        }
    }
}

/// Reads and writes.
#[derive(Clone, Default)]
struct Served {
    reads: OperationCounters,
    writes: OperationCounters,
}

impl Served {
    fn add(&mut self, stats: &VolumeStats) {
        stats.reads.add_to(&mut self.reads);
        stats.writes.add_to(&mut self.writes);
    }
}

impl Registry {
    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds the core at a position, with its processor number.
    pub(crate) fn add_core(&self, core: usize, processor: usize, stats: Arc<CoreStats>) {
        self.lock().cores.insert(core, (processor, stats));
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

    /// Forgets a volume; what was done for it stays with the cores.
    pub(crate) fn remove_volume(&self, name: &str) {
        let Inner { volumes, gone, .. } = &mut *self.lock();
        volumes.retain(|(other, all)| {
            if other != name {
                return true;
            }
            gone.resize(gone.len().max(all.len()), Served::default());
            gone.iter_mut().zip(all).for_each(|(gone, stats)| gone.add(stats));
            false
        });
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
        // Nobody brings the counters of its shards up to date any more.
        self.lock().disks[disk].truncate(1);
    }

    /// Notes that a disk is served again: its shards will say how it fares.
    pub(crate) fn set_online(&self, disk: usize) {
        if let Some(shard) = self.lock().disks.get_mut(disk).and_then(|shards| shards.first_mut()) {
            shard.offline = false;
        }
    }

    /// What the controllers and drives at home on a core say of themselves, all of them.
    pub(crate) fn set_drives(&self, core: u16, drives: Vec<(String, DriveInfo)>) {
        self.lock().drives.insert(core, drives);
    }

    /// What a disk says of itself, if the node drives it by itself.
    pub(crate) fn drive(&self, path: &str) -> Option<DriveInfo> {
        let inner = self.lock();
        let mut all = inner.drives.values().flatten();
        all.find(|(name, _)| name == path).map(|(_, drive)| drive.clone())
    }

    /// How a disk of the kernel's is accessed from now on.
    pub(crate) fn set_way(&self, path: &str, way: &Way) {
        self.lock().ways.insert(path.to_owned(), way.clone());
    }

    /// How it is accessed now.
    pub(crate) fn access(&self, path: &str) -> Option<Access> {
        self.lock().ways.get(path).map(Way::access)
    }

    /// Free bytes of a disk.
    pub(crate) fn disk(&self, disk: usize) -> DiskCounters {
        self.lock().disks.get(disk).map(|shards| sum(shards)).unwrap_or_default()
    }

    /// The room on each disk that is served, of the shard that has least.
    pub(crate) fn rooms(&self) -> Vec<Room> {
        let room = |shards: &Vec<DiskCounters>| {
            let served = shards.iter().filter(|shard| !shard.offline && shard.capacity > 0);
            let scarcest = served.min_by_key(|shard| permille(shard.free, shard.capacity))?;
            Some(RoomLeft {
                permille: permille(scarcest.free, scarcest.capacity),
                refused: shards.iter().map(|shard| shard.refused_full).sum(),
            })
        };
        let inner = self.lock();
        let path = |shards: &Vec<DiskCounters>| shards.first().map(|shard| shard.path.clone());
        let disks = inner.disks.iter();
        disks
            .map(|shards| Room { path: path(shards).unwrap_or_default(), left: room(shards) })
            .collect()
    }

    /// What hosts are told of the node's health, `uptime` after its start.
    pub(crate) fn health(&self, uptime: Now) -> Health {
        let inner = self.lock();
        let mut totals = Totals::default();
        for Served { reads, writes } in &inner.gone {
            totals.add((reads.operations, reads.bytes), (writes.operations, writes.bytes));
        }
        for stats in inner.volumes.iter().flat_map(|(_, all)| all) {
            totals.add(stats.reads.totals(), stats.writes.totals());
        }
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
        let mut served = disks.iter().filter(|disk| !disk.offline).peekable();
        health.read_only = served.peek().is_some() && served.all(|disk| disk.failed);
        health
    }

    /// Everything at this moment.
    pub(crate) fn snapshot(&self, uptime_ns: u64) -> Snapshot {
        let inner = self.lock();
        let core = |(&number, (processor, stats)): (&usize, &(usize, Arc<CoreStats>))| {
            let mut served = inner.gone.get(number).cloned().unwrap_or_default();
            let here = inner.volumes.iter().filter_map(|(_, all)| all.get(number));
            here.for_each(|stats| served.add(stats));
            core(*processor, stats, served)
        };
        let cores = inner.cores.iter().map(core).collect();
        let volumes = inner.volumes.iter().map(|(name, stats)| volume(name, stats)).collect();
        let disks = inner.disks.iter().map(|shards| sum(shards)).collect();
        Snapshot { uptime_ns, cores, volumes, disks }
    }
}

/// How much `part` of `whole` is, rounded down but never to nothing.
fn permille(part: u64, whole: u64) -> u16 {
    let permille = u128::from(part) * 1000 / u128::from(whole.max(1));
    (permille.min(1000) as u16).max(u16::from(part > 0))
}

/// How much `part` is of `whole`; of nothing it is all.
fn percent(part: u64, whole: u64) -> u8 {
    let percent = u128::from(part) * 100 / u128::from(whole.max(1));
    if whole == 0 { 100 } else { percent.min(100) as u8 }
}

fn core(processor: usize, stats: &CoreStats, served: Served) -> CoreCounters {
    CoreCounters {
        processor,
        reads: served.reads,
        writes: served.writes,
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
        sum.refused_full += shard.refused_full;
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

    #[test]
    fn what_a_core_did_survives_the_volume() {
        let registry = Registry::default();
        // The threads of cores come as they start.
        registry.add_core(1, 7, Arc::default());
        registry.add_core(0, 5, Arc::default());
        let stats: Vec<_> = (0..2).map(|_| Arc::new(VolumeStats::new())).collect();
        registry.add_volume("v", stats.clone());
        stats[0].reads.record(4096, Now::from_micros(10));
        stats[1].reads.record(512, Now::from_micros(40));
        stats[1].reads.record(512, Now::from_micros(50));
        stats[1].writes.record(8192, Now::from_millis(3));
        let check = |snapshot: &Snapshot| {
            let seen = |core: usize| {
                let CoreCounters { processor, reads, writes, .. } = &snapshot.cores[core];
                let reads = (reads.operations, reads.bytes, reads.latency_ns);
                (*processor, reads, (writes.operations, writes.latency_ns))
            };
            assert_eq!(seen(0), (5, (1, 4096, 10_000), (0, 0)));
            assert_eq!(seen(1), (7, (2, 1024, 90_000), (1, 3_000_000)));
            let counts = |core: usize| snapshot.cores[core].reads.latency.iter().sum::<u64>();
            assert_eq!((counts(0), counts(1)), (1, 2));
        };
        let before = registry.snapshot(1);
        check(&before);
        assert_eq!(before.volumes[0].reads.latency_ns, 100_000);
        registry.remove_volume("v");
        let after = registry.snapshot(2);
        check(&after);
        assert!(after.volumes.is_empty());
    }

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
        registry.set_offline(2, "gone");
        let dead = registry.health(Now::ZERO);
        assert!(!dead.space_low && dead.degraded && dead.read_only);
    }

    #[test]
    fn drives_are_known_by_the_disks_names_while_they_are_there() {
        let registry = Registry::default();
        let drive = |serial: &str| DriveInfo {
            model: "m".into(),
            serial: serial.into(),
            firmware: "f".into(),
            size: 1,
            health: None,
        };
        registry
            .set_drives(0, vec![("pci:a/1".into(), drive("1")), ("pci:a/2".into(), drive("2"))]);
        registry.set_drives(1, vec![("pci:b/0".into(), drive("3"))]);
        let serial = |path: &str| registry.drive(path).map(|drive| drive.serial);
        assert_eq!(serial("pci:a/2").as_deref(), Some("2"));
        assert_eq!(serial("pci:b/0").as_deref(), Some("3"));
        registry.set_drives(0, Vec::new());
        assert_eq!((serial("pci:a/2"), serial("pci:a")), (None, None));
        let way = Way::new(Access::Passthrough, None);
        registry.set_way("/dev/x", &way);
        assert_eq!(registry.access("/dev/x").unwrap().to_string(), "kernel passthrough");
        way.leave(String::new);
        assert_eq!(registry.access("/dev/x").unwrap().to_string(), "kernel");
        assert_eq!(registry.access("/dev/y"), None);
    }
}
