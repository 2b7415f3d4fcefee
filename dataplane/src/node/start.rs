//! Starts a node: opens its disks, mounts their shards on their cores, and lets hosts in.
//!
//! Each core's thread goes through three stages, between which this thread gathers and hands on:
//! it makes its ring and sockets (and, on the first core, listens); it mounts its shards; it gets
//! its mailboxes, and its control on the first core, and runs.

use super::bus::{Bus, PciBus};
use super::control::{Control, ControlParts};
use super::controllers::{Hardware, Opener};
use super::disks::{Disks, Mounted, Mounter, Source, TimedShard, mount_all};
use super::handle::{Inner, NodeHandle};
use super::hotplug;
use super::record::Record;
use super::registry::Registry;
use super::steps::Steps;
use super::{DiskConfig, DiskSource, EventLog, NodeConfig, PortalConfig, Severity, StartError};
use crate::core::{Clock, Core, CoreParts, CoreStats, Devices, Links, ShardSeat, mesh, run};
use crate::dma::{Arena, Pool};
use crate::frontend::{Frontend, ProtocolConfig};
use crate::hardware::{Device, Registers};
use crate::net::{ListenerId, Net};
use crate::uring::{Ring, RingOptions, SocketOptions, Sockets, Waker};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, unbounded};
use std::net::SocketAddr;
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
    start_telling(config, |_| {})
}

/// As [`start`]; has a thread tell what it waits for where that takes seconds.
///
/// # Errors
/// As [`start`].
pub fn start_telling(config: &NodeConfig, tell: fn(&str)) -> Result<NodeHandle, StartError> {
    start_on(config, PciBus::new(config.no_iommu), tell)
}

/// As [`start_telling`], with the controllers of a bus.
pub(super) fn start_on<B: Bus>(
    config: &NodeConfig,
    bus: B,
    tell: fn(&str),
) -> Result<NodeHandle, StartError> {
    check(config)?;
    let clock = Clock::start();
    let steps = Steps::default();
    let _watch = steps.watch(clock, tell);
    let events = EventLog::new(unix_ms);
    let cores = config.cores.len();
    let step = steps.begin("the memory of its buffers".into());
    let arena = arena(config)?;
    drop(step);
    let spare = Rc::new(arena.spare());
    let mut opener = Opener::new(bus.clone(), &arena, clock, cores);
    let disks = Disks::open_all(config, &mut opener, &spare, &steps)?;
    disks.check_any_served()?;
    let dealt = opener.finish().deal(cores, |core, part| disks.uses(core, cores, part));
    let (hardware, dealt) = dealt.map_err(StartError::Config)?;
    let mut hardware = hardware.into_iter();
    let mut threads = Threads::default();
    let mut stages = Vec::new();
    let cache_bytes = config.metadata_cache / disks.shards().max(1);
    for (core, &processor) in config.cores.iter().enumerate() {
        let seats = disks.seats(core, cores);
        let portals = if core == 0 { config.portals.clone() } else { Vec::new() };
        let (stage, thread) = CoreThread {
            core,
            processor,
            poll: config.poll,
            clock,
            pool: arena.pool(core),
            seats,
            hardware: hardware.next().unwrap_or_default(),
            portals,
            cache_bytes,
            steps: steps.clone(),
        }
        .spawn()?;
        threads.0.push(thread);
        stages.push(stage);
    }
    let pool = Rc::into_inner(spare).expect("disks are opened and left");
    let late = hotplug::Late { bus, arena, pool, dealt };
    finish(config, clock, events, disks, (stages, threads), late)
}

/// Everything after the cores' threads have begun.
fn finish<B: Bus>(
    config: &NodeConfig,
    clock: Clock,
    events: EventLog,
    mut disks: Disks,
    (stages, mut threads): (Vec<Stages>, Threads),
    late: hotplug::Late<B>,
) -> Result<NodeHandle, StartError> {
    let (wakers, listeners) = ready(&stages)?;
    let (entries, timed) = mounted(&stages, &mut disks)?;
    let registry = Registry::default();
    tell_offline(&disks, &registry, &events);
    tell_growable(&disks, &events);
    disks.ways().for_each(|(path, way)| registry.set_way(path, way));
    let (calls, inbox) = unbounded();
    let (listeners, addresses) = super::exports::portals(config, listeners);
    let cores = config.cores.len();
    let seed = Uuid::new_v4().as_u64_pair().0;
    let (target, subsystem) = super::exports::target(config, &addresses, seed)?;
    let iscsi = super::exports::iscsi(config, &addresses, super::iscsi::entropy())?;
    let parts = ControlParts {
        target,
        subsystem,
        iscsi,
        listeners,
        disks: disks.states(cores),
        cores: cores as u16,
        connections_max: config.max_connections,
        inbox,
        events: events.clone(),
        registry: registry.clone(),
    };
    let mut control = Some((parts, entries));
    for (stage, links) in stages.iter().zip(mesh(&wakers)) {
        let go = Go {
            links,
            registry: registry.clone(),
            log: events.clone(),
            offline: disks.offline().map(|(disk, ..)| disk).collect(),
            control: control.take(),
        };
        stage.go.send(go).map_err(|_| died())?;
    }
    events.note(Severity::Info, "node.started", format!("node {}", config.name));
    let watch = super::watch::start(disks.watched(&timed), events.clone());
    let parts = hotplug::Parts {
        config: config.clone(),
        clock,
        late,
        calls: calls.clone(),
        waker: wakers[0].clone(),
        registry: registry.clone(),
        watch,
    };
    let hotplug = hotplug::start(parts, &disks);
    Ok(NodeHandle::new(Inner {
        calls,
        hotplug,
        waker: wakers[0].clone(),
        registry,
        events,
        clock,
        addresses,
        threads: Mutex::new(std::mem::take(&mut threads.0)),
    }))
}

/// Sockets that hosts connect to, and their addresses.
type Listeners = Vec<(ListenerId, SocketAddr)>;

/// What wakes each core, and what the first one listens on.
fn ready(stages: &[Stages]) -> Result<(Vec<Waker>, Listeners), StartError> {
    let (mut wakers, mut listeners) = (Vec::new(), Vec::new());
    for stage in stages {
        let ready = receive(&stage.ready)??;
        wakers.push(ready.waker);
        listeners.extend(ready.listeners);
    }
    Ok((wakers, listeners))
}

/// What the cores have found on the disks that can be served, and how long these take.
fn mounted(stages: &[Stages], disks: &mut Disks) -> Result<Found, StartError> {
    let (mut entries, mut timed) = (Vec::new(), Vec::new());
    for stage in stages {
        let mounted = receive(&stage.mounted)?;
        entries.extend(mounted.entries);
        timed.extend(mounted.timed);
        mounted.failures.into_iter().for_each(|(disk, reason)| disks.fail(disk, reason));
    }
    disks.check_any_served()?;
    entries.retain(|(disk, _)| disks.is_served(*disk));
    Ok((entries, timed))
}

/// Catalogue entries with the numbers of their disks, and latencies of shards.
type Found = (Vec<(usize, Record)>, Vec<TimedShard>);

/// Tells the operator of disks that are left out.
fn tell_offline(disks: &Disks, registry: &Registry, events: &EventLog) {
    for (disk, path, reason) in disks.offline() {
        registry.set_offline(disk, path);
        let text = format!(
            "disk {path} is not served, nor are the volumes on it ({reason}); the other disks are. \
             It is served as soon as it can be"
        );
        events.note(Severity::Error, "disk.offline", text);
    }
}

/// Tells the operator of disks that do not use all of their devices.
fn tell_growable(disks: &Disks, events: &EventLog) {
    for (path, more) in disks.growable() {
        let text = format!(
            "disk {path}: its device has room for {} MiB more of data than it uses; to take it, \
             stop the node, or take the disk offline, and run `basalt disk grow {path}`",
            more >> 20
        );
        events.note(Severity::Info, "disk.growable", text);
    }
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

/// What a core's thread begins with.
struct CoreThread<D: Device> {
    /// Position among the node's cores.
    core: usize,
    processor: usize,
    poll: bool,
    clock: Clock,
    pool: Pool,
    seats: Vec<(ShardSeat, Source)>,
    hardware: Hardware<D>,
    portals: Vec<PortalConfig>,
    cache_bytes: usize,
    steps: Steps,
}

/// This thread's ends of the stages.
struct Stages {
    ready: Receiver<Result<Ready, StartError>>,
    mounted: Receiver<Mounted>,
    go: Sender<Go>,
}

/// After the first stage.
struct Ready {
    waker: Waker,
    listeners: Listeners,
}

/// What a core runs with.
struct Go {
    links: Links,
    registry: Registry,
    log: EventLog,
    /// Numbers of the disks that are left out, though shards of theirs may have been mounted.
    offline: Vec<usize>,
    control: Option<(ControlParts, Vec<(usize, Record)>)>,
}

impl<D: Device> CoreThread<D> {
    fn spawn(self) -> Result<(Stages, JoinHandle<()>), StartError> {
        let (ready, ready_end) = bounded(1);
        let (mounted, mounted_end) = bounded(1);
        let (go, go_end) = bounded(1);
        let thread = std::thread::Builder::new()
            .name(format!("core-{}", self.core))
            .spawn(move || self.live(&ready, &mounted, &go_end))
            .map_err(|error| StartError::System(format!("cannot start a thread: {error}")))?;
        Ok((Stages { ready: ready_end, mounted: mounted_end, go }, thread))
    }

    /// The whole life of the thread. It leaves early when it failed or nobody listens.
    fn live(
        mut self,
        ready: &Sender<Result<Ready, StartError>>,
        mounted: &Sender<Mounted>,
        go: &Receiver<Go>,
    ) {
        self.pool.settle_here();
        let (ring, net) = match self.set_up() {
            Ok((ring, net, stage)) => {
                let _ = ready.send(Ok(stage));
                (ring, net)
            }
            Err(error) => return drop(ready.send(Err(error))),
        };
        let pool = Rc::new(self.pool);
        let seats = std::mem::take(&mut self.seats);
        let clock = self.clock;
        let mut devices = Devices::default();
        devices.time().set(clock.now());
        let queues = std::mem::take(&mut self.hardware).attach(&mut devices, &ring);
        let mut around = Mounter {
            ring: &ring,
            pool: &pool,
            queues: &queues,
            devices: &mut devices,
            clock,
            timed: Vec::new(),
        };
        let (mut shards, found) = mount_all(seats, self.cache_bytes, &self.steps, &mut around);
        let _ = mounted.send(found);
        let Some(Go { links, registry, log, offline, control }) = around.await_go(go) else {
            return;
        };
        drop(queues);
        shards.retain(|(seat, _)| !offline.contains(&seat.disk));
        let stats = Arc::new(CoreStats::default());
        registry.add_core(self.core, self.processor, stats.clone());
        let control = control.map(|(parts, entries)| {
            let mut control = Control::new(parts);
            control.load(entries);
            control
        });
        let frontend = Frontend::new(ProtocolConfig::default());
        let net = Box::new(net);
        let parts = CoreParts { links, pool, net, shards, registry, log, frontend, control, stats };
        let mut core = Core::new(parts);
        core.set_devices(devices, &ring);
        run(&mut core, &ring, clock, self.poll);
        core.into_devices().shut_down(&|| clock.now());
    }

    fn set_up(&self) -> Result<(Ring, Sockets, Ready), StartError> {
        pin(self.processor);
        let system = |error: String| StartError::System(error);
        let ring = Ring::new(RingOptions::default()).map_err(|e| system(e.to_string()))?;
        let mut net = Sockets::new(&ring, SocketOptions::default());
        let mut listeners = Vec::new();
        for portal in &self.portals {
            let in_use = |error: &std::io::Error| error.kind() == std::io::ErrorKind::AddrInUse;
            let _step = self.steps.begin(format!("port {} to be free", portal.listen));
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

impl<R: Registers> Mounter<'_, R> {
    /// Waits for the last stage, while controllers go on. `None`: it does not come.
    fn await_go(&mut self, go: &Receiver<Go>) -> Option<Go> {
        const LOOK: Duration = Duration::from_millis(2);
        loop {
            match go.recv_timeout(LOOK) {
                Ok(go) => return Some(go),
                Err(RecvTimeoutError::Disconnected) => return None,
                Err(RecvTimeoutError::Timeout) => {
                    self.devices.poll(self.clock.now(), &mut |_, _, _| {});
                }
            }
        }
    }
}

/// Buffers, in huge pages if there are devices of our own and the operator has reserved some.
fn arena(config: &NodeConfig) -> Result<Arena, StartError> {
    let is_device = |disk: &DiskConfig| matches!(disk.source, DiskSource::Device { .. });
    let try_huge = config.disks.iter().any(is_device);
    let made = Arena::with_spare(config.buffers_per_core, config.cores.len(), try_huge);
    made.map_err(|error| StartError::System(error.to_string()))
}

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
