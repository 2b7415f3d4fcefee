//! Opens the disks of a configuration and mounts their shards.
//!
//! A disk that is missing or cannot be used is left out with the reason, and keeps no other from
//! being served. What only the configuration can mend is an error.

use super::bus::Bus;
use super::control::DiskState;
use super::controllers::{Opener, Place, QueueOwner, Queues};
use super::record::Record;
use super::steps::Steps;
use super::watch::Watched;
use super::{DiskConfig, DiskSource, NodeConfig, StartError};
use crate::core::{Clock, Devices, ShardSeat};
use crate::disk::kernel::{FileId, KernelFile, KernelOptions, OpenError, SelfDriven, Way};
use crate::disk::latency::{Latencies, Timed};
use crate::disk::ram::RamDisk;
use crate::disk::single::Unit;
use crate::disk::{Disk, Shared};
use crate::dma::Pool;
use crate::hardware::Registers;
use crate::pci::PciAddress;
use crate::store::{self, FormatOptions, Mode, MountError, Mounting, OpenOptions, Shard};
use crate::uring::{Ring, RingOptions};
use crate::volume::ShardAddress;
use std::path::Path;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use uuid::Uuid;

/// Overwrites up to this many bytes go through the journal: one wait instead of two.
const PAYLOAD_MAX: u32 = 32 << 10;

/// The disks of a node in the order of its configuration.
pub(super) struct Disks(Vec<NodeDisk>);

/// One of them.
struct NodeDisk {
    path: String,
    zero_on_free: bool,
    opened: Option<Opened>,
    /// Why it is not served, if it is not.
    offline: Option<String>,
    /// The cores of its shards, where that is settled.
    homes: Option<Vec<usize>>,
}

/// What is remembered of a disk that was opened, whether it is there or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) uuid: Uuid,
    pub(super) mode: &'static str,
    /// The cores of its shards.
    pub(super) homes: Vec<usize>,
}

/// A disk that has been opened and recognised.
struct Opened {
    uuid: Uuid,
    mode: &'static str,
    shards: usize,
    /// Bytes for data that it would gain if it grew: its device is larger than it.
    growable: u64,
    media: Media,
    /// Of a disk of the kernel's: its device, and its journal's.
    ids: Vec<FileId>,
}

/// What a core mounts a shard from.
#[derive(Clone)]
pub(super) struct Source {
    media: Media,
    zero_on_free: bool,
}

/// Where the shards of a disk lie.
#[derive(Clone)]
pub(super) enum Media {
    /// The disk, and its journal's if apart.
    Kernel(Box<KernelFile>, Option<Box<KernelFile>>),
    /// One memory disk for each shard, taken by its core.
    Ram(Arc<Mutex<Vec<Option<RamDisk>>>>),
    /// A disk of a controller that the node drives itself.
    Device(Place),
}

/// Why a disk was not opened.
enum Unusable {
    /// It is left out.
    Offline(String),
    /// The node does not start.
    Fatal(StartError),
}

impl Disks {
    /// Opens every disk that can be.
    ///
    /// # Errors
    /// [`StartError::Config`] where another disk than one that works is meant, and
    /// [`StartError::System`].
    pub(super) fn open_all(
        config: &NodeConfig,
        opener: &mut Opener<'_, impl Bus>,
        pool: &Rc<Pool>,
        steps: &Steps,
    ) -> Result<Self, StartError> {
        let cores = config.cores.len();
        let disks = config.disks.iter().enumerate();
        let disks = disks.map(|(number, disk)| {
            let _step = steps.begin(format!("disk {} to be opened", disk.name(number)));
            NodeDisk::open(disk, (number, cores), opener, pool)
        });
        disks.collect::<Result<_, _>>().map(Self)
    }

    /// As [`Disks::open_all`], for tests that wait for nothing.
    #[cfg(test)]
    fn open(
        config: &NodeConfig,
        opener: &mut Opener<'_, impl Bus>,
        pool: &Rc<Pool>,
    ) -> Result<Self, StartError> {
        Self::open_all(config, opener, pool, &Steps::default())
    }

    /// Opens disks that come while the node runs: those of these numbers. What the configuration
    /// alone can mend leaves a disk out, too.
    pub(super) fn open_late(
        config: &NodeConfig,
        numbers: &[usize],
        opener: &mut Opener<'_, impl Bus>,
        pool: &Rc<Pool>,
    ) -> Self {
        let cores = config.cores.len();
        let open = |(number, disk): (usize, &DiskConfig)| {
            if !numbers.contains(&number) {
                return NodeDisk::absent(String::new(), String::new());
            }
            let opened = NodeDisk::open(disk, (number, cores), opener, pool);
            opened.unwrap_or_else(|error| NodeDisk::absent(disk.name(number), error.to_string()))
        };
        Self(config.disks.iter().enumerate().map(open).collect())
    }

    /// Gives a disk's shards cores: those that they had, or others. An error says why it is not the
    /// disk that was there.
    pub(super) fn settle(
        &mut self,
        number: usize,
        known: Option<&Known>,
        cores: usize,
    ) -> Result<(), String> {
        let Some(opened) = &self.0[number].opened else { return Ok(()) };
        let homes = match known {
            Some(known) if known.uuid != opened.uuid => {
                return Err(format!(
                    "another disk is in its place: its UUID is {}, not {}; put the disk back, or \
                     restart the node to serve the other one",
                    opened.uuid, known.uuid
                ));
            }
            Some(known) if known.homes.len() != opened.shards => {
                return Err("it has another number of shards than before".to_owned());
            }
            Some(known) => known.homes.clone(),
            None => {
                let (owner, queues) = opened.media.queues(cores);
                let mut homes = self.homes_of(owner);
                homes.extend((0..cores).map(|core| (number + core) % cores));
                let mut seen = vec![false; cores];
                homes.retain(|core| !std::mem::replace(&mut seen[*core], true));
                homes.truncate(queues);
                homes.into_iter().cycle().take(opened.shards).collect()
            }
        };
        let disk = &mut self.0[number];
        disk.homes = Some(homes);
        Ok(())
    }

    /// Cores that have shards behind the same few queues.
    fn homes_of(&self, owner: Option<QueueOwner>) -> Vec<usize> {
        let is_it = |opened: &Opened| owner.is_some() && opened.media.queues(usize::MAX).0 == owner;
        let of_it = self.0.iter().filter(|disk| disk.opened.as_ref().is_some_and(is_it));
        of_it.filter_map(|disk| disk.homes.as_ref()).flatten().copied().collect()
    }

    /// What to remember of a disk, if it was opened.
    pub(super) fn known(&self, number: usize, cores: usize) -> Option<Known> {
        let opened = self.0[number].opened.as_ref()?;
        let of_it = self.placed(cores).filter(|(disk, ..)| *disk == number);
        let homes = of_it.map(|(.., core)| core).collect();
        Some(Known { uuid: opened.uuid, mode: opened.mode, homes })
    }

    /// Which files and block devices a disk is made of; none if it was not opened, or is none of
    /// the kernel's.
    pub(super) fn file_ids(&self, number: usize) -> Vec<FileId> {
        self.0[number].opened.as_ref().map_or_else(Vec::new, |opened| opened.ids.clone())
    }

    /// Lets go of files and devices that cores have handles of; what is known of them stays.
    pub(super) fn close(&mut self) {
        for opened in self.0.iter_mut().filter_map(|disk| disk.opened.as_mut()) {
            opened.media = Media::Ram(Arc::default());
        }
    }

    /// Shards of all disks that were opened.
    pub(super) fn shards(&self) -> usize {
        self.0.iter().map(NodeDisk::shards).sum()
    }

    /// Disk, shard and core of every shard. They go round; but those behind few queues share as
    /// many cores.
    fn placed(&self, cores: usize) -> impl Iterator<Item = (usize, usize, usize)> {
        let mut placed = Vec::with_capacity(self.shards());
        let mut next = 0;
        // Owners of few queues: their first cores, and how many shards they have.
        let mut few: Vec<(QueueOwner, usize, usize)> = Vec::new();
        for (number, disk) in self.0.iter().enumerate() {
            if let Some(homes) = &disk.homes {
                placed.extend(homes.iter().enumerate().map(|(shard, core)| (number, shard, *core)));
                continue;
            }
            let Some(opened) = &disk.opened else { continue };
            let (Some(owner), queues) = opened.media.queues(cores) else {
                placed.extend((0..opened.shards).map(|n| (number, n, (next + n) % cores)));
                next += opened.shards;
                continue;
            };
            let known = few.iter().position(|(known, ..)| *known == owner);
            let at = known.unwrap_or_else(|| {
                few.push((owner, next, 0));
                next += queues.min(opened.shards);
                few.len() - 1
            });
            let (_, first, shards) = &mut few[at];
            for shard in 0..opened.shards {
                placed.push((number, shard, (*first + *shards % queues) % cores));
                *shards += 1;
            }
        }
        placed.into_iter()
    }

    /// The shards that core `core` mounts, in the order of their positions.
    pub(super) fn seats(&self, core: usize, cores: usize) -> Vec<(ShardSeat, Source)> {
        // In the course of the node, a disk that cannot be used is not given to cores at all.
        let is_wanted = |disk: usize| self.0[disk].homes.is_none() || self.is_served(disk);
        let here = self.placed(cores).filter(|(disk, _, of)| *of == core && is_wanted(*disk));
        let seat = |(disk, shard, _): (usize, usize, usize)| {
            let &NodeDisk { ref path, ref opened, zero_on_free, .. } = &self.0[disk];
            let opened = opened.as_ref().expect("a disk with shards has been opened");
            let source = Source { media: opened.media.clone(), zero_on_free };
            (ShardSeat { disk, path: path.clone(), shard }, source)
        };
        here.map(seat).collect()
    }

    /// Whether core `core` mounts a shard on the controller of this number; on this port of it, if
    /// one is given.
    pub(super) fn uses(&self, core: usize, cores: usize, part: (usize, Option<u8>)) -> bool {
        self.seats(core, cores).iter().any(|(_, source)| match &source.media {
            Media::Device(place) => place.is_on(part),
            Media::Kernel(..) | Media::Ram(_) => false,
        })
    }

    /// Leaves a disk out one of whose shards was not mounted.
    pub(super) fn fail(&mut self, disk: usize, reason: String) {
        self.0[disk].offline.get_or_insert(reason);
    }

    /// Whether a disk is served.
    pub(super) fn is_served(&self, disk: usize) -> bool {
        self.0[disk].offline.is_none()
    }

    /// Disks that are left out: their numbers, paths and the reasons.
    pub(super) fn offline(&self) -> impl Iterator<Item = (usize, &str, &str)> {
        let offline = |(number, disk): (usize, &'_ NodeDisk)| disk.offline.as_ref().map(|_| number);
        let numbers: Vec<usize> = self.0.iter().enumerate().filter_map(offline).collect();
        numbers.into_iter().map(|number| {
            let NodeDisk { path, offline, .. } = &self.0[number];
            (number, path.as_str(), offline.as_deref().unwrap_or_default())
        })
    }

    /// Disks that are served and smaller than their devices: their paths, and the bytes for data
    /// that they would gain.
    pub(super) fn growable(&self) -> impl Iterator<Item = (&str, u64)> {
        let served = self.0.iter().filter(|disk| disk.offline.is_none());
        served.filter_map(|disk| {
            let growable = disk.opened.as_ref()?.growable;
            (growable > 0).then_some((disk.path.as_str(), growable))
        })
    }

    /// Disks of the kernel's that are served: their paths, and by which way.
    pub(super) fn ways(&self) -> impl Iterator<Item = (&str, &Way)> {
        let served = self.0.iter().filter(|disk| disk.offline.is_none());
        served.filter_map(|disk| match &disk.opened.as_ref()?.media {
            Media::Kernel(file, _) => Some((disk.path.as_str(), file.way())),
            Media::Ram(_) | Media::Device(_) => None,
        })
    }

    /// What to look after: the disks that are served, with the latencies of their shards.
    pub(super) fn watched(&self, timed: &[TimedShard]) -> Vec<Watched> {
        let served = self.0.iter().enumerate().filter(|(number, _)| self.is_served(*number));
        let watched = served.filter_map(|(number, disk)| {
            let of_it: Vec<&TimedShard> =
                timed.iter().filter(|shard| shard.disk == number).collect();
            let rotational = of_it.first()?.rotational;
            let latencies = of_it.iter().map(|shard| Arc::clone(&shard.latencies)).collect();
            let way = of_it.first()?.way.clone();
            Some(Watched { name: disk.path.clone(), rotational, latencies, way })
        });
        watched.collect()
    }

    /// Refuses to start a node that would serve nothing.
    ///
    /// # Errors
    /// [`StartError::Disk`] with the reason of each disk.
    pub(super) fn check_any_served(&self) -> Result<(), StartError> {
        if self.0.iter().any(|disk| disk.offline.is_none()) {
            return Ok(());
        }
        let mut reasons = self.offline();
        let (_, path, reason) = reasons.next().expect("a node has a disk");
        let error = StartError::Disk { path: path.to_owned(), reason: reason.to_owned() };
        let others: Vec<String> =
            reasons.map(|(_, path, reason)| format!("\n  disk {path}: {reason}")).collect();
        if others.is_empty() {
            return Err(error);
        }
        let text = format!("no disk can be served:\n  {error}{}", others.concat());
        Err(StartError::NoDisk(text))
    }

    /// The disks as control knows them. Shards of disks that are left out have no place: each
    /// core closes up those that remain, in their order.
    pub(super) fn states(&self, cores: usize) -> Vec<DiskState> {
        let mut next = vec![0; cores];
        let mut placed = self.placed(cores);
        let state = |disk: &NodeDisk| {
            let mut shards = Vec::new();
            for (_, _, core) in placed.by_ref().take(disk.shards()) {
                if disk.offline.is_none() {
                    shards.push(ShardAddress { core: core as u16, shard: next[core] });
                    next[core] += 1;
                }
            }
            DiskState {
                path: disk.path.clone(),
                uuid: disk.opened.as_ref().map(|opened| opened.uuid),
                mode: disk.opened.as_ref().map(|opened| opened.mode),
                shards: shards.into(),
                offline: disk.offline.clone(),
            }
        };
        self.0.iter().map(state).collect()
    }
}

impl DiskConfig {
    /// The port of an adapter that it is on, if it is on one.
    pub(super) fn port(&self) -> Option<u8> {
        match self.source {
            DiskSource::Device { unit: Unit::Port(port), .. } => Some(port),
            _ => None,
        }
    }

    /// What the disk of this number is called.
    pub(super) fn name(&self, number: usize) -> String {
        match &self.source {
            DiskSource::Path(path) => path.display().to_string(),
            DiskSource::Device { address, unit, .. } => format!("pci:{address}/{unit}"),
            // No two disks have one name.
            DiskSource::Ram { .. } if number == 0 => "ram".to_owned(),
            DiskSource::Ram { .. } => format!("ram-{number}"),
        }
    }
}

impl Media {
    /// On how many of so many cores its shards can be; and with whom it shares that, if not all.
    fn queues(&self, cores: usize) -> (Option<QueueOwner>, usize) {
        match self {
            Self::Device(place) => match place.queues() {
                (_, queues) if queues >= cores => (None, cores),
                (owner, queues) => (Some(owner), queues),
            },
            Self::Kernel(..) | Self::Ram(_) => (None, cores),
        }
    }
}

impl NodeDisk {
    fn open(
        config: &DiskConfig,
        (number, cores): (usize, usize),
        opener: &mut Opener<'_, impl Bus>,
        pool: &Rc<Pool>,
    ) -> Result<Self, StartError> {
        let (path, opened) = match &config.source {
            DiskSource::Path(path) => {
                let name = config.name(number);
                let opened = open_file(config, path, &name, pool);
                (name, opened)
            }
            DiskSource::Device { address, unit, fua } => {
                (config.name(number), open_device((*address, *fua), *unit, opener, pool))
            }
            DiskSource::Ram { size, shards } => {
                let shards = if *shards == 0 { cores } else { *shards as usize };
                (config.name(number), open_ram(*size, shards, pool).map_err(Unusable::Fatal))
            }
        };
        let (opened, offline) = match opened {
            Ok(opened) => (Some(opened), None),
            Err(Unusable::Offline(reason)) => (None, Some(reason)),
            Err(Unusable::Fatal(error)) => return Err(error),
        };
        Ok(Self { path, zero_on_free: config.zero_on_free, opened, offline, homes: None })
    }

    /// One that is left out.
    fn absent(path: String, reason: String) -> Self {
        Self { path, zero_on_free: false, opened: None, offline: Some(reason), homes: None }
    }

    fn shards(&self) -> usize {
        self.opened.as_ref().map_or(0, |opened| opened.shards)
    }
}

fn open_file(
    config: &DiskConfig,
    path: &Path,
    name: &str,
    pool: &Rc<Pool>,
) -> Result<Opened, Unusable> {
    let journal = config.journal.as_deref();
    let file = open_kernel(path, config.passthrough).map_err(|error| unusable(name, &error))?;
    let ring = Ring::new(RingOptions::default())
        .map_err(|error| Unusable::Fatal(StartError::System(error.to_string())))?;
    let probe = store::probe(Box::new(SelfDriven::new(&file, ring)), pool)
        .map_err(|error| Unusable::Offline(unreadable(&error)))?;
    if probe.is_journal {
        let reason = "this is a journal disk: name it as `journal` of the disk that it belongs to";
        return Err(Unusable::Fatal(StartError::Config(format!("disk {name}: {reason}"))));
    }
    let journal =
        journal.map(|path| open_kernel(path, false)).transpose().map_err(
            |error| match unusable("", &error) {
                Unusable::Offline(reason) => Unusable::Offline(format!("its journal {reason}")),
                fatal @ Unusable::Fatal(_) => fatal,
            },
        )?;
    let ids = [Some(&file), journal.as_ref()].into_iter().flatten().map(KernelFile::id);
    Ok(Opened {
        uuid: probe.disk,
        mode: mode_name(probe.mode),
        shards: usize::from(probe.shards),
        growable: probe.growable_bytes,
        ids: ids.collect(),
        media: Media::Kernel(Box::new(file), journal.map(Box::new)),
    })
}

fn open_device(
    controller: (PciAddress, bool),
    unit: Unit,
    opener: &mut Opener<'_, impl Bus>,
    pool: &Rc<Pool>,
) -> Result<Opened, Unusable> {
    let (place, disk) = opener.open(controller, unit).map_err(Unusable::Offline)?;
    let probe = store::probe(disk, pool).map_err(|error| Unusable::Offline(unreadable(&error)))?;
    let media = Media::Device(place);
    let (uuid, shards) = (probe.disk, usize::from(probe.shards));
    let growable = probe.growable_bytes;
    Ok(Opened { uuid, mode: mode_name(probe.mode), shards, growable, media, ids: Vec::new() })
}

/// Why a disk that can be opened is not one of ours.
fn unreadable(error: &MountError) -> String {
    match error {
        MountError::NotFormatted => {
            format!("{error}: prepare it by `basalt disk format`, or correct the path")
        }
        _ => error.to_string(),
    }
}

fn open_kernel(path: &Path, passthrough: bool) -> Result<KernelFile, OpenError> {
    KernelFile::open(path, &KernelOptions { passthrough, ..KernelOptions::default() })
}

/// What an error of opening means for the node: a path that names no disk at all was not meant.
fn unusable(name: &str, error: &OpenError) -> Unusable {
    let text = error.to_string();
    // The error of the disk itself names it, and so does whoever tells it.
    let reason = text.strip_prefix(&format!("{name}: ")).unwrap_or(&text);
    match error {
        OpenError::NotADisk(_) => Unusable::Fatal(StartError::Config(format!("disk {text}"))),
        OpenError::NotFound(_) => Unusable::Offline(format!(
            "{reason}; is it plugged in, and the path still its own (see `basalt disk list`)?"
        )),
        _ => Unusable::Offline(reason.to_owned()),
    }
}

fn open_ram(size: u64, shards: usize, pool: &Rc<Pool>) -> Result<Opened, StartError> {
    let fail = |reason: String| StartError::Disk { path: "ram".into(), reason };
    let disk = RamDisk::new("ram", size).map_err(|error| fail(error.to_string()))?;
    let uuid = Uuid::new_v4();
    let mut parts = Vec::new();
    for part in disk.partitions(shards) {
        let incarnation = Uuid::new_v4().as_u64_pair().0;
        let options = FormatOptions::new(Uuid::new_v4(), incarnation);
        let shared = Shared::new(part);
        store::format(Box::new(shared.clone()), None, &options, pool)
            .map_err(|error| fail(error.to_string()))?;
        parts.push(Some(shared.into_inner().expect("the formatter has dropped its handle")));
    }
    let media = Media::Ram(Arc::new(Mutex::new(parts)));
    let mode = mode_name(Mode::Intent);
    Ok(Opened { uuid, mode, shards, growable: 0, media, ids: Vec::new() })
}

fn mode_name(mode: Mode) -> &'static str {
    match mode {
        Mode::Intent => "intent",
        Mode::Data => "data",
    }
}

/// What one core found when it mounted its shards.
#[derive(Default)]
pub(super) struct Mounted {
    /// Catalogue entries, with the numbers of their disks.
    pub(super) entries: Vec<(usize, Record)>,
    /// Disks of which a shard cannot be used, and why.
    pub(super) failures: Vec<(usize, String)>,
    /// How long the disks take, one for each shard.
    pub(super) timed: Vec<TimedShard>,
}

/// The latencies of a shard.
pub(super) struct TimedShard {
    /// Number of its disk.
    disk: usize,
    rotational: bool,
    latencies: Arc<Latencies>,
    /// Of a disk of the kernel's.
    way: Option<Way>,
}

/// What a core mounts its shards with.
pub(super) struct Mounter<'a, R: Registers> {
    pub(super) ring: &'a Ring,
    pub(super) pool: &'a Rc<Pool>,
    pub(super) queues: &'a Queues<R>,
    pub(super) devices: &'a mut Devices,
    pub(super) clock: Clock,
    pub(super) timed: Vec<TimedShard>,
}

impl<R: Registers> Mounter<'_, R> {
    /// Has the disk of a shard timed.
    fn timed(&mut self, seat: &ShardSeat, data: Box<dyn Disk>, way: Option<Way>) -> Box<dyn Disk> {
        let (disk, rotational) = (seat.disk, data.info().rotational);
        let latencies = Arc::<Latencies>::default();
        self.timed.push(TimedShard { disk, rotational, latencies: Arc::clone(&latencies), way });
        Box::new(Timed::new(data, self.devices.time(), latencies))
    }
}

/// Mounts the shards of one core.
pub(super) fn mount_all(
    seats: Vec<(ShardSeat, Source)>,
    cache_bytes: usize,
    steps: &Steps,
    around: &mut Mounter<'_, impl Registers>,
) -> (Vec<(ShardSeat, Shard)>, Mounted) {
    let mut shards = Vec::new();
    let mut mounted = Mounted::default();
    for (seat, source) in seats {
        let ShardSeat { path, shard, .. } = &seat;
        let step = steps.begin(format!("shard {shard} of disk {path} to be mounted"));
        let whole = mount(&seat, &source, cache_bytes, around)
            .map_err(|error| error.to_string())
            .and_then(|shard| Ok((records(&shard)?, shard)));
        drop(step);
        match whole {
            Ok((records, shard)) => {
                let disk = seat.disk;
                mounted.entries.extend(records.into_iter().map(|record| (disk, record)));
                shards.push((seat, shard));
            }
            Err(reason) => mounted.failures.push((seat.disk, reason)),
        }
    }
    mounted.timed = std::mem::take(&mut around.timed);
    (shards, mounted)
}

/// The entries of a shard's catalogue.
///
/// # Errors
/// One that is none of ours.
pub(crate) fn records(shard: &Shard) -> Result<Vec<Record>, String> {
    let decode = |(key, value)| Record::decode(key, value).map_err(|error| error.to_string());
    shard.catalogue().map(decode).collect()
}

fn mount(
    seat: &ShardSeat,
    source: &Source,
    cache_bytes: usize,
    around: &mut Mounter<'_, impl Registers>,
) -> Result<Shard, MountError> {
    let mut mounting = begin_mount(seat, source, cache_bytes, around);
    loop {
        if let Some(result) = mounting.poll() {
            return result;
        }
        around.devices.poll(around.clock.now(), &mut |_, _, _| {});
        if around.ring.turn() == 0 {
            std::thread::yield_now();
        }
    }
}

/// Begins to mount a shard.
pub(super) fn begin_mount(
    seat: &ShardSeat,
    source: &Source,
    cache_bytes: usize,
    around: &mut Mounter<'_, impl Registers>,
) -> Mounting {
    let ring = around.ring;
    let Source { media, zero_on_free } = source;
    let (data, journal, shard): (Box<dyn Disk>, Option<Box<dyn Disk>>, u16) = match media {
        Media::Kernel(file, journal) => {
            let journal = journal.as_ref().map(|file| Box::new(file.attach(ring)) as Box<dyn Disk>);
            (Box::new(file.attach(ring)), journal, seat.shard as u16)
        }
        Media::Ram(parts) => {
            let mut parts = parts.lock().expect("no holder panics");
            let part = parts[seat.shard].take().expect("each part has one core");
            (Box::new(part), None, 0)
        }
        Media::Device(place) => (around.queues.open(place), None, seat.shard as u16),
    };
    let data = match media {
        Media::Ram(_) => data,
        Media::Kernel(file, _) => around.timed(seat, data, Some(file.way().clone())),
        Media::Device(_) => around.timed(seat, data, None),
    };
    let payload_max = if matches!(media, Media::Ram(_)) { 0 } else { PAYLOAD_MAX };
    let options = OpenOptions {
        cache_bytes,
        payload_max,
        zero_on_free: *zero_on_free,
        ..OpenOptions::default()
    };
    Shard::mount(data, journal, shard, &options, around.pool.clone())
}

#[cfg(test)]
mod tests;
