//! A node and its hosts in one thread, on simulated disks, network and time, all from one seed.
//!
//! Phases: hosts work while streams break, the process is killed and the power fails; then the
//! world heals, every host must come to rest within bounded steps, every block must still read as
//! one of its allowed contents, and the disks must pass their check.

use super::host::{HostSettings, SimHost};
use super::model::Model;
use super::network::{Network, NetworkConfig};
use super::{Random, SimDiskConfig, SimMedia};
use crate::core::{Core, CoreParts, CoreStats, ShardSeat, mesh};
use crate::dma::{Arena, Pool};
use crate::frontend::Frontend;
use crate::node::{
    Answer, Call, Command, CommandError, Control, ControlParts, DiskConfig, DiskSource, DiskState,
    EventLog, NodeConfig, PortalConfig, Record, Registry, target,
};
use crate::store::{self, CheckOptions, FormatOptions, Mode, OpenOptions, Shard};
use crate::uring::Waker;
use crate::volume::ShardAddress;
use crossbeam_channel::{Sender, unbounded};
use nvmeof_target::connection::Config as ConnectionConfig;
use nvmeof_target::io::Now;
use nvmeof_target::testing::HostConfig;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use uuid::Uuid;

/// Bytes of buffers of each simulated core.
const POOL: usize = 32 << 20;
const CORES_MAX: usize = 2;
const NQN: &str = "nqn.2026-11.io.basalt:sim";
/// Steps within which a healed world must come to rest.
const HEALING_STEPS: usize = 30_000;

/// What one seed's world did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Report {
    /// Commands that succeeded.
    pub commands: u64,
    /// Times that hosts connected anew.
    pub reconnects: u64,
    /// Power cuts and kills.
    pub crashes: u64,
    /// Hash of everything observed: the same for the same seed and program.
    pub trace: u64,
}

/// Memory that worlds of one thread run in, one after another.
pub struct Stage(Arena);

impl Default for Stage {
    fn default() -> Self {
        Self(Arena::new(POOL, CORES_MAX).expect("address space for a simulated node"))
    }
}

impl Stage {
    /// Runs the world of `seed`.
    ///
    /// # Panics
    /// When the world breaks a promise; the message says which.
    pub fn run(&self, seed: u64) -> Report {
        let mut world = World::new(&self.0, seed);
        world.prepare();
        world.work();
        world.heal();
        world.end()
    }
}

/// The node while it lives.
struct SimNode {
    cores: Vec<Core>,
    calls: Sender<Call>,
}

struct World<'a> {
    arena: &'a Arena,
    random: Random,
    now: Now,
    network: Network,
    media: Vec<SimMedia>,
    cores: usize,
    node: Option<SimNode>,
    hosts: Vec<SimHost>,
    model: Model,
    volume_bytes: u64,
    may_crash: bool,
    starts: u64,
    report: Report,
}

fn address() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 4420))
}

impl<'a> World<'a> {
    fn new(arena: &'a Arena, seed: u64) -> Self {
        let mut random = Random::new(seed);
        let network = Network::new(
            NetworkConfig {
                delay_us: [0, 20, 500][random.below(3) as usize],
                piece_max: [7, 600, 100_000][random.below(3) as usize],
            },
            random.next_u64(),
        );
        let cores = 1 + random.below(CORES_MAX as u64) as usize;
        let blocks = 64 + random.below(2000);
        let block_shift = if random.chance(50) { 9 } else { 12 };
        let host_count = 1 + random.below(3);
        let hosts = (0..host_count).map(|number| host(number, &mut random)).collect();
        Self {
            arena,
            now: Now::from_millis(1),
            network,
            media: (0..cores).map(|_| medium(&mut random)).collect(),
            cores,
            node: None,
            hosts,
            model: Model::new(blocks, host_count, block_shift, 1),
            volume_bytes: blocks * 4096,
            may_crash: random.chance(70),
            starts: 0,
            report: Report::default(),
            random,
        }
    }

    /// Formats the disks, starts the node, makes the volume.
    fn prepare(&mut self) {
        let pool = Rc::new(self.arena.pool(0));
        for medium in &self.media {
            let disk = Uuid::from_u64_pair(self.random.next_u64(), self.random.next_u64());
            let options = FormatOptions {
                mode: Some(if self.random.chance(50) { Mode::Intent } else { Mode::Data }),
                journal_bytes: 1 << 20,
                ..FormatOptions::new(disk, self.random.next_u64())
            };
            store::format(Box::new(medium.open()), None, &options, &pool).expect("a good disk");
        }
        drop(pool);
        self.arena.recycle();
        self.boot();
        self.command(Command::AllowHost { nqn: "*".into() });
        let uuid = Uuid::from_u64_pair(self.random.next_u64(), self.random.next_u64());
        self.command(Command::CreateVolume {
            name: "volume".into(),
            size: self.volume_bytes,
            block_size: 1 << self.model.block_shift(),
            uuid,
            disk: None,
        });
        // Hosts that are connected already learn of the volume a little later.
        (0..100).for_each(|_| self.step(false));
    }

    fn work(&mut self) {
        let steps = 4000 + self.random.below(8000);
        for _ in 0..steps {
            self.step(true);
            if self.random.below(2000) == 0 {
                let victim = self.random.below(self.hosts.len() as u64) as usize;
                self.hosts[victim].break_something(&self.network);
            }
            if self.may_crash && self.random.below(6000) == 0 {
                self.crash();
            }
        }
    }

    /// No more faults: everything outstanding must end.
    fn heal(&mut self) {
        for _ in 0..HEALING_STEPS {
            self.step(false);
            if self.hosts.iter().all(SimHost::is_idle) {
                return;
            }
        }
        let hosts: Vec<_> = self.hosts.iter().map(SimHost::describe).collect();
        panic!("hosts do not come to rest after healing: {hosts:#?}");
    }

    /// Stops the node cleanly and checks its disks.
    fn end(mut self) -> Report {
        let (answer, answers) = unbounded();
        let node = self.node.as_ref().expect("running");
        node.calls.send(Call::Shutdown(answer)).expect("control listens");
        for _ in 0..HEALING_STEPS {
            self.step(false);
            let node = self.node.as_ref().expect("running");
            if node.cores.iter().all(Core::is_stopped) {
                break;
            }
        }
        let stopped = answers.try_recv().expect("the node stops within bounded steps");
        assert!(stopped.is_ok(), "an undisturbed node stops cleanly: {stopped:?}");
        self.kill_node(false);
        let pool = Rc::new(self.arena.pool(0));
        for medium in &self.media {
            let disk = Box::new(medium.open());
            let report = store::check(disk, None, CheckOptions::default(), &pool, &mut |_| {})
                .expect("a disk that can be checked");
            assert_eq!(report.findings_total, 0, "{:?}", report.findings);
        }
        drop(pool);
        self.arena.recycle();
        self.report.trace = self.model.trace();
        for host in &self.hosts {
            self.report.commands += host.succeeded;
            self.report.reconnects += host.reconnects;
        }
        self.report
    }

    /// A little time passes.
    fn step(&mut self, may_start: bool) {
        self.network.set_now(self.now);
        self.model.set_now(self.now);
        let mut worked = false;
        if let Some(node) = &mut self.node {
            let first = self.random.below(node.cores.len() as u64) as usize;
            for offset in 0..node.cores.len() {
                let core = (first + offset) % node.cores.len();
                if !node.cores[core].is_stopped() {
                    worked |= node.cores[core].turn(self.now);
                }
            }
        }
        for host in &mut self.hosts {
            host.turn(self.now, &self.network, &mut self.model, may_start);
        }
        self.now += Now::from_micros(1 + self.random.below(30));
        if !worked {
            self.skip_idle();
        }
    }

    /// Nothing to do: the next thing that happens is due.
    fn skip_idle(&mut self) {
        let arrival = self.network.next_arrival();
        let hosts = self.hosts.iter().filter_map(SimHost::deadline);
        let next = arrival.into_iter().chain(hosts).min();
        if let Some(next) = next {
            self.now = self.now.max(next.min(self.now + Now::from_millis(5)));
        }
    }

    /// The process dies, or the power fails; then the node starts again.
    fn crash(&mut self) {
        self.report.crashes += 1;
        self.model.crashed();
        let is_power = self.random.chance(60);
        self.kill_node(is_power);
        self.boot();
    }

    fn kill_node(&mut self, is_power_cut: bool) {
        self.node = None;
        self.network.kill_node();
        for medium in &self.media {
            if is_power_cut { medium.power_cut() } else { medium.kill() }
        }
        self.arena.recycle();
    }

    fn boot(&mut self) {
        self.starts += 1;
        let registry = Registry::default();
        let events = EventLog::new(|| 0);
        let wakers: Vec<Waker> = (0..self.cores).map(|_| Waker::unneeded()).collect();
        let mut entries = Vec::new();
        let (calls, inbox) = unbounded();
        let mut cores = Vec::new();
        let mut control = None;
        for (number, links) in mesh(&wakers).into_iter().enumerate() {
            let pool = Rc::new(self.arena.pool(number));
            let mut net = Box::new(self.network.attach(number as u32));
            let shard = mount(&self.media[number], &pool, &mut self.random);
            for (key, value) in shard.catalogue() {
                entries.push((number, Record::decode(key, value).expect("our own records")));
            }
            if number == 0 {
                let (listener, listen) =
                    crate::net::Net::listen(&mut *net, address()).expect("a simulated address");
                let config = self.config();
                let (target, subsystem) =
                    target(&config, &[listen], self.starts).expect("a good configuration");
                control = Some(ControlParts {
                    target,
                    subsystem,
                    listeners: [(listener, 0)].into_iter().collect(),
                    disks: (0..self.cores).map(disk_state).collect(),
                    cores: self.cores as u16,
                    connections_max: 64,
                    inbox: inbox.clone(),
                    events: events.clone(),
                    registry: registry.clone(),
                });
            }
            let seat = ShardSeat { disk: number, path: format!("disk-{number}"), shard: 0 };
            cores.push((links, pool, net, (seat, shard)));
        }
        let mut control = control.map(Control::new);
        if let Some(control) = &mut control {
            control.load(entries);
        }
        let mut core = |(links, pool, net, shard): (_, Rc<Pool>, _, (ShardSeat, Shard))| {
            let mut core = Core::new(CoreParts {
                links,
                pool,
                net,
                shards: vec![shard],
                registry: registry.clone(),
                log: events.clone(),
                frontend: Frontend::new(ConnectionConfig::default()),
                control: control.take(),
                stats: Arc::new(CoreStats::default()),
            });
            core.publish(0);
            core
        };
        let cores = cores.into_iter().map(|(l, p, n, s)| core((l, p, n as _, s))).collect();
        self.node = Some(SimNode { cores, calls });
    }

    fn config(&self) -> NodeConfig {
        let portal = PortalConfig { listen: address(), advertise: None, discovery_only: false };
        let ram = DiskSource::Ram { size: 0, shards: 1 };
        NodeConfig {
            name: "sim".into(),
            nqn: NQN.into(),
            cores: (0..self.cores).collect(),
            poll: true,
            buffers_per_core: POOL,
            metadata_cache: 1 << 20,
            disks: vec![DiskConfig { source: ram, journal: None }],
            portals: vec![portal],
            max_connections: 64,
        }
    }

    /// Carries out a management command.
    fn command(&mut self, command: Command) -> Answer {
        let (answer, answers) = unbounded::<Result<Answer, CommandError>>();
        let node = self.node.as_ref().expect("running");
        node.calls.send(Call::Command(command, answer)).expect("control listens");
        for _ in 0..HEALING_STEPS {
            self.step(false);
            if let Ok(answer) = answers.try_recv() {
                return answer.expect("a command that must succeed");
            }
        }
        panic!("a management command is not answered");
    }
}

fn disk_state(number: usize) -> DiskState {
    let address = ShardAddress { core: number as u16, shard: 0 };
    DiskState {
        path: format!("disk-{number}"),
        uuid: Some(Uuid::from_u128(number as u128 + 1)),
        mode: Some("intent"),
        shards: [address].into_iter().collect(),
        offline: None,
    }
}

fn mount(medium: &SimMedia, pool: &Rc<Pool>, random: &mut Random) -> Shard {
    let options = OpenOptions {
        cache_bytes: 64 << 10,
        payload_max: [0, 8192, 65536][random.below(3) as usize],
        ..OpenOptions::default()
    };
    let mounting = Shard::mount(Box::new(medium.open()), None, 0, &options, pool.clone());
    mounting.wait().expect("a disk that lost nothing acknowledged mounts")
}

fn medium(random: &mut Random) -> SimMedia {
    let config = SimDiskConfig {
        volatile_cache: random.chance(70),
        fua: random.chance(50),
        atomic_write: 4096,
        is_slow: random.chance(70),
        ..SimDiskConfig::new(64 << 20)
    };
    SimMedia::new(&config, random.next_u64())
}

fn host(number: u64, random: &mut Random) -> SimHost {
    let config = HostConfig {
        header_digest: random.chance(50),
        data_digest: random.chance(50),
        entries: 2 + random.below(64) as u16,
        flow_control_disabled: random.chance(70),
        h2c_data_max: [4096, 100_000, usize::MAX][random.below(3) as usize],
        ..HostConfig::default()
    };
    let settings = HostSettings {
        number,
        address: address(),
        subsystem: NQN.into(),
        queues: 1 + random.below(3) as u16,
        depth: usize::from(config.entries - 1).min(1 + random.below(16) as usize),
        reads_early: random.chance(50),
        config,
    };
    SimHost::new(settings, random.next_u64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_is_the_same_world() {
        let stage = Stage::default();
        assert_eq!(stage.run(1), stage.run(1));
        assert_ne!(stage.run(1).trace, stage.run(2).trace);
    }
}
