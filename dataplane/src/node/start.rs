//! Starts a node: opens its disks, mounts their shards on their cores, and lets hosts in.
//!
//! Each core's thread goes through three stages, between which this thread gathers and hands on:
//! it makes its ring and sockets (and, on the first core, listens); it mounts its shards; it gets
//! its mailboxes, and its control on the first core, and runs.

use super::control::{Control, ControlParts, DiskState};
use super::handle::{Inner, NodeHandle};
use super::record::Record;
use super::registry::Registry;
use super::{DiskConfig, DiskSource, EventLog, NodeConfig, PortalConfig, Severity, StartError};
use crate::core::{Clock, Core, CoreParts, CoreStats, Links, ShardSeat, mesh, run};
use crate::disk::kernel::{KernelFile, KernelOptions, SelfDriven};
use crate::disk::ram::RamDisk;
use crate::disk::{Disk, Shared};
use crate::dma::{Arena, Pool};
use crate::frontend::Frontend;
use crate::net::{ListenerId, Net};
use crate::store::{self, FormatOptions, Mode, OpenOptions, Shard};
use crate::uring::{Ring, RingOptions, SocketOptions, Sockets, Waker};
use crate::volume::ShardAddress;
use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use hashbrown::HashMap;
use nvmeof_target::connection::Config as ConnectionConfig;
use std::net::SocketAddr;
use std::path::Path;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;
use uuid::Uuid;

/// Most cores of a node.
const CORES_MAX: usize = 128;
/// Least buffer memory of a core: one transfer for each of a few commands.
const BUFFERS_MIN: usize = 16 << 20;

/// Starts a node.
///
/// # Errors
/// [`StartError`] says what the operator can do; nothing keeps running then.
pub fn start(config: &NodeConfig) -> Result<NodeHandle, StartError> {
    check(config)?;
    let clock = Clock::start();
    let events = EventLog::new(unix_ms);
    let arena = Arena::new(config.buffers_per_core, config.cores.len())
        .map_err(|error| StartError::System(error.to_string()))?;
    let mut pools: Vec<Pool> = (0..config.cores.len()).map(|core| arena.pool(core)).collect();
    let first = Rc::new(pools.remove(0));
    let disks = open_disks(config, &first)?;
    pools.insert(0, Rc::into_inner(first).expect("disks are opened and left"));
    let mut threads = Threads::default();
    let mut stages = Vec::new();
    let shards_total: usize = disks.iter().map(|disk| disk.shards).sum();
    let cache_bytes = config.metadata_cache / shards_total.max(1);
    for (core, &processor) in config.cores.iter().enumerate() {
        let seats = seats(&disks, core, config.cores.len());
        let portals = if core == 0 { config.portals.clone() } else { Vec::new() };
        let (stage, thread) = CoreThread {
            processor,
            poll: config.poll,
            clock,
            pool: pools.remove(0),
            seats,
            portals,
            cache_bytes,
        }
        .spawn(core)?;
        threads.0.push(thread);
        stages.push(stage);
    }
    finish(config, clock, events, disks, stages, threads)
}

/// Everything after the cores' threads have begun.
fn finish(
    config: &NodeConfig,
    clock: Clock,
    events: EventLog,
    disks: Vec<OpenDisk>,
    stages: Vec<Stages>,
    mut threads: Threads,
) -> Result<NodeHandle, StartError> {
    let mut wakers = Vec::new();
    let mut listeners = Vec::new();
    for stage in &stages {
        let ready = receive(&stage.ready)??;
        wakers.push(ready.waker);
        listeners.extend(ready.listeners);
    }
    let mut entries = Vec::new();
    for stage in &stages {
        entries.extend(receive(&stage.mounted)??);
    }
    let registry = Registry::default();
    let (calls, inbox) = unbounded();
    let (listeners, addresses): (HashMap<_, _>, Vec<_>) = listeners
        .into_iter()
        .enumerate()
        .map(|(portal, (listener, address))| ((listener, portal as u16), address))
        .unzip();
    let cores = config.cores.len();
    let seed = Uuid::new_v4().as_u64_pair().0;
    let (target, subsystem) = super::exports::target(config, &addresses, seed)?;
    let disks = disks.iter().enumerate().scan(0, |next, (_, disk)| Some(disk.state(next, cores)));
    let parts = ControlParts {
        target,
        subsystem,
        listeners,
        disks: disks.collect(),
        cores: cores as u16,
        connections_max: config.max_connections,
        inbox,
        events: events.clone(),
        registry: registry.clone(),
    };
    let mut control = Some((parts, entries));
    for (stage, links) in stages.iter().zip(mesh(&wakers)) {
        let go =
            Go { links, registry: registry.clone(), log: events.clone(), control: control.take() };
        stage.go.send(go).map_err(|_| died())?;
    }
    events.note(Severity::Info, "node.started", format!("node {}", config.name));
    Ok(NodeHandle::new(Inner {
        calls,
        waker: wakers[0].clone(),
        registry,
        events,
        clock,
        addresses,
        threads: Mutex::new(std::mem::take(&mut threads.0)),
    }))
}

fn check(config: &NodeConfig) -> Result<(), StartError> {
    let refuse = |text: String| Err(StartError::Config(text));
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    if config.cores.is_empty() || config.cores.len() > CORES_MAX {
        return refuse(format!("`cores` names 1 to {CORES_MAX} processors"));
    }
    if let Some(core) = config.cores.iter().find(|&&core| core >= CORES_MAX.max(processors)) {
        return refuse(format!("`cores`: there is no processor {core}"));
    }
    if config.disks.is_empty() {
        return refuse("no disk: name at least one under [[disk]]".into());
    }
    if config.portals.is_empty() {
        return refuse("no address to listen on: name at least one under [[portal]]".into());
    }
    if config.buffers_per_core < BUFFERS_MIN {
        return refuse(format!("`buffers` is at least {} MiB for each core", BUFFERS_MIN >> 20));
    }
    Ok(())
}

/// Ends the threads of a node that did not start: dropping their stages makes them leave.
#[derive(Default)]
struct Threads(Vec<JoinHandle<()>>);

/// A disk that has been opened and recognised, on no core yet.
struct OpenDisk {
    path: String,
    uuid: Uuid,
    mode: &'static str,
    shards: usize,
    media: Media,
}

#[derive(Clone)]
enum Media {
    /// The disk, and its journal's if apart.
    Kernel(Box<KernelFile>, Option<Box<KernelFile>>),
    /// One memory disk for each shard, taken by its core.
    Ram(Arc<Mutex<Vec<Option<RamDisk>>>>),
}

impl OpenDisk {
    fn state(&self, next: &mut usize, cores: usize) -> DiskState {
        let shards = (0..self.shards)
            .map(|_| {
                let address = place(*next, cores);
                *next += 1;
                address
            })
            .collect();
        DiskState { path: self.path.clone(), uuid: self.uuid, mode: self.mode, shards }
    }
}

/// The core and position of the node's `number`th shard: around the cores.
fn place(number: usize, cores: usize) -> ShardAddress {
    ShardAddress { core: (number % cores) as u16, shard: (number / cores) as u16 }
}

/// The shards that core `core` mounts, in the order of their positions.
fn seats(disks: &[OpenDisk], core: usize, cores: usize) -> Vec<(ShardSeat, Media)> {
    let all = disks.iter().enumerate().flat_map(|(number, disk)| {
        (0..disk.shards).map(move |shard| {
            let seat = ShardSeat { disk: number, path: disk.path.clone(), shard };
            (seat, disk.media.clone())
        })
    });
    all.enumerate().filter(|(number, _)| number % cores == core).map(|(_, seat)| seat).collect()
}

fn open_disks(config: &NodeConfig, pool: &Rc<Pool>) -> Result<Vec<OpenDisk>, StartError> {
    config.disks.iter().map(|disk| open_disk(disk, config.cores.len(), pool)).collect()
}

fn open_disk(config: &DiskConfig, cores: usize, pool: &Rc<Pool>) -> Result<OpenDisk, StartError> {
    match &config.source {
        DiskSource::Path(path) => open_file(path, config.journal.as_deref(), pool),
        DiskSource::Ram { size, shards } => {
            let shards = if *shards == 0 { cores } else { *shards as usize };
            open_ram(*size, shards, pool)
        }
    }
}

fn open_file(path: &Path, journal: Option<&Path>, pool: &Rc<Pool>) -> Result<OpenDisk, StartError> {
    let name = path.display().to_string();
    let fail = |reason: String| StartError::Disk { path: name.clone(), reason };
    let open = |path: &Path| {
        KernelFile::open(path, &KernelOptions::default()).map_err(|error| {
            let text = error.to_string();
            // The error of the disk itself names it, and so does ours.
            let reason = text.strip_prefix(&format!("{name}: ")).unwrap_or(&text);
            fail(reason.to_owned())
        })
    };
    let file = open(path)?;
    let ring = Ring::new(RingOptions::default()).map_err(|e| StartError::System(e.to_string()))?;
    let probe = store::probe(Box::new(SelfDriven::new(&file, ring)), pool)
        .map_err(|error| fail(error.to_string()))?;
    if probe.is_journal {
        let reason = "this is a journal disk: name it as `journal` of the disk that it belongs to";
        return Err(fail(reason.into()));
    }
    let journal = journal.map(open).transpose()?;
    Ok(OpenDisk {
        path: name.clone(),
        uuid: probe.disk,
        mode: mode_name(probe.mode),
        shards: usize::from(probe.shards),
        media: Media::Kernel(Box::new(file), journal.map(Box::new)),
    })
}

fn open_ram(size: u64, shards: usize, pool: &Rc<Pool>) -> Result<OpenDisk, StartError> {
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
    Ok(OpenDisk { path: "ram".into(), uuid, mode: mode_name(Mode::Intent), shards, media })
}

fn mode_name(mode: Mode) -> &'static str {
    match mode {
        Mode::Intent => "intent",
        Mode::Data => "data",
    }
}

/// What a core's thread begins with.
struct CoreThread {
    processor: usize,
    poll: bool,
    clock: Clock,
    pool: Pool,
    seats: Vec<(ShardSeat, Media)>,
    portals: Vec<PortalConfig>,
    cache_bytes: usize,
}

/// This thread's ends of the stages.
struct Stages {
    ready: Receiver<Result<Ready, StartError>>,
    mounted: Receiver<Result<Vec<(usize, Record)>, StartError>>,
    go: Sender<Go>,
}

/// After the first stage.
struct Ready {
    waker: Waker,
    listeners: Vec<(ListenerId, SocketAddr)>,
}

/// What a core runs with.
struct Go {
    links: Links,
    registry: Registry,
    log: EventLog,
    control: Option<(ControlParts, Vec<(usize, Record)>)>,
}

impl CoreThread {
    fn spawn(self, core: usize) -> Result<(Stages, JoinHandle<()>), StartError> {
        let (ready, ready_end) = bounded(1);
        let (mounted, mounted_end) = bounded(1);
        let (go, go_end) = bounded(1);
        let thread = std::thread::Builder::new()
            .name(format!("core-{core}"))
            .spawn(move || self.live(&ready, &mounted, &go_end))
            .map_err(|error| StartError::System(format!("cannot start a thread: {error}")))?;
        Ok((Stages { ready: ready_end, mounted: mounted_end, go }, thread))
    }

    /// The whole life of the thread. It leaves early when it failed or nobody listens.
    fn live(
        mut self,
        ready: &Sender<Result<Ready, StartError>>,
        mounted: &Sender<Result<Vec<(usize, Record)>, StartError>>,
        go: &Receiver<Go>,
    ) {
        let (ring, net) = match self.set_up() {
            Ok((ring, net, stage)) => {
                let _ = ready.send(Ok(stage));
                (ring, net)
            }
            Err(error) => return drop(ready.send(Err(error))),
        };
        let pool = Rc::new(self.pool);
        let seats = std::mem::take(&mut self.seats);
        let shards = match mount_all(seats, self.cache_bytes, &ring, &pool) {
            Ok((shards, entries)) => {
                let _ = mounted.send(Ok(entries));
                shards
            }
            Err(error) => return drop(mounted.send(Err(error))),
        };
        let Ok(Go { links, registry, log, control }) = go.recv() else { return };
        let stats = Arc::new(CoreStats::default());
        registry.add_core(self.processor, stats.clone());
        let control = control.map(|(parts, entries)| {
            let mut control = Control::new(parts);
            control.load(entries);
            control
        });
        let frontend = Frontend::new(ConnectionConfig::default());
        let net = Box::new(net);
        let parts = CoreParts { links, pool, net, shards, registry, log, frontend, control, stats };
        let mut core = Core::new(parts);
        run(&mut core, &ring, self.clock, self.poll);
    }

    fn set_up(&self) -> Result<(Ring, Sockets, Ready), StartError> {
        pin(self.processor);
        let system = |error: String| StartError::System(error);
        let ring = Ring::new(RingOptions::default()).map_err(|e| system(e.to_string()))?;
        let mut net = Sockets::new(&ring, SocketOptions::default());
        let mut listeners = Vec::new();
        for portal in &self.portals {
            let in_use = |error: &std::io::Error| error.kind() == std::io::ErrorKind::AddrInUse;
            let listener = patiently(|| net.listen(portal.listen), in_use).map_err(|source| {
                let hint = listen_hint(&source);
                StartError::Listen { address: portal.listen, source, hint }
            })?;
            listeners.push(listener);
        }
        let waker = ring.waker();
        Ok((ring, net, Ready { waker, listeners }))
    }
}

type Mounted = (Vec<(ShardSeat, Shard)>, Vec<(usize, Record)>);

fn mount_all(
    seats: Vec<(ShardSeat, Media)>,
    cache_bytes: usize,
    ring: &Ring,
    pool: &Rc<Pool>,
) -> Result<Mounted, StartError> {
    let mut shards = Vec::new();
    let mut entries = Vec::new();
    for (seat, media) in seats {
        let fail = |reason: String| StartError::Disk { path: seat.path.clone(), reason };
        let shard = mount(&seat, &media, cache_bytes, ring, pool)
            .map_err(|error| fail(error.to_string()))?;
        for (key, value) in shard.catalogue() {
            let record = Record::decode(key, value).map_err(|error| fail(error.to_string()))?;
            entries.push((seat.disk, record));
        }
        shards.push((seat, shard));
    }
    Ok((shards, entries))
}

fn mount(
    seat: &ShardSeat,
    media: &Media,
    cache_bytes: usize,
    ring: &Ring,
    pool: &Rc<Pool>,
) -> Result<Shard, store::MountError> {
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
    };
    let payload_max = if matches!(media, Media::Ram(_)) { 0 } else { PAYLOAD_MAX };
    let options = OpenOptions { cache_bytes, payload_max, ..OpenOptions::default() };
    let mut mounting = Shard::mount(data, journal, shard, &options, pool.clone());
    loop {
        if let Some(result) = mounting.poll() {
            return result;
        }
        if ring.turn() == 0 {
            std::thread::yield_now();
        }
    }
}

/// Overwrites up to this many bytes go through the journal: one wait instead of two.
const PAYLOAD_MAX: u32 = 32 << 10;

/// Pins this thread. Where that is not allowed it runs wherever it may.
fn pin(processor: usize) {
    let mut set = rustix::thread::CpuSet::new();
    set.set(processor);
    let _ = rustix::thread::sched_setaffinity(None, &set);
}

/// Tries for two seconds while a killed predecessor may hold what is asked for: the kernel ends the
/// rings of a process, and with them its sockets, a little after the process.
fn patiently<T, E>(
    mut attempt: impl FnMut() -> Result<T, E>,
    may_pass: impl Fn(&E) -> bool,
) -> Result<T, E> {
    const RETRIES: u32 = 20;
    for _ in 0..RETRIES {
        match attempt() {
            Err(error) if may_pass(&error) => std::thread::sleep(Duration::from_millis(100)),
            ended => return ended,
        }
    }
    attempt()
}

fn listen_hint(error: &std::io::Error) -> &'static str {
    match error.kind() {
        std::io::ErrorKind::AddrInUse => {
            ": another program listens there; stop it (see `ss -ltnp`) or choose another port"
        }
        std::io::ErrorKind::PermissionDenied => {
            ": ports below 1024 need CAP_NET_BIND_SERVICE; choose another port or add it"
        }
        std::io::ErrorKind::AddrNotAvailable => ": no interface has this address (see `ip addr`)",
        _ => "",
    }
}

fn receive<T>(stage: &Receiver<T>) -> Result<T, StartError> {
    stage.recv().map_err(|_| died())
}

fn died() -> StartError {
    StartError::System("a core's thread ended while the node started".into())
}

#[expect(clippy::disallowed_methods, reason = "wall time, for people to read in the event log")]
fn unix_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis() as u64)
}
