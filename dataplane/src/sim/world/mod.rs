//! A node and its hosts in one thread, on simulated disks, network and time, all from one seed.
//!
//! Phases: hosts work and the operator changes volumes, while streams break, disks misbehave, the
//! process is killed and the power fails; then the world heals, every host must come to rest within
//! bounded steps, every block must still read as one of its allowed contents, and the disks must
//! pass their check.

mod boot;
mod operator;
mod plan;
mod trouble;

use super::Random;
use super::SimMedia;
use super::host::SimHost;
use super::model::{Model, Volume};
use super::network::Network;
use crate::core::Core;
use crate::dma::{Arena, Buf};
use crate::node::Call;
use crate::store::{self, CheckOptions};
use crossbeam_channel::{Sender, unbounded};
use nvmeof_target::io::Now;
use operator::Operator;
use plan::Plan;
use std::net::SocketAddr;
use std::rc::Rc;
use trouble::Trouble;

/// Bytes of buffers of each simulated core.
const POOL: usize = 32 << 20;
/// Most cores of a simulated node.
const CORES_MAX: usize = 4;
const NQN: &str = "nqn.2026-11.io.basalt:sim";
/// Steps within which a healed world must come to rest.
const HEALING_STEPS: usize = 60_000;
/// Time within which it must.
const HEALING_TIME: Now = Now::from_secs(40);
/// Longest time that passes in one step.
const STEP_MAX: Now = Now::from_millis(5);

/// What one seed's world did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Report {
    /// Commands that succeeded.
    pub commands: u64,
    /// Times that hosts connected anew.
    pub reconnects: u64,
    /// Power cuts and kills, those during recovery included.
    pub crashes: u64,
    /// Volumes made, deleted, resized and renamed.
    pub changes: u64,
    /// Damages to disks, failures and stalls.
    pub faults: u64,
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
        world.sweep();
        world.end()
    }
}

/// What a failure's message does not say.
impl Drop for World<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("at {:?} of a world with {:?}", self.now, self.plan);
        }
    }
}

/// What hosts do in a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::sim) enum Work {
    /// Only what is under way goes on.
    None,
    /// Whatever they like.
    Any,
    /// Reads of everything that was ever written.
    Sweep,
}

/// The node while it lives.
struct SimNode {
    cores: Vec<Core>,
    calls: Sender<Call>,
    /// Until when each core does nothing.
    paused: Vec<Now>,
    /// Buffers that somebody else has.
    _hoard: Vec<Buf>,
}

struct World<'a> {
    arena: &'a Arena,
    plan: Plan,
    random: Random,
    now: Now,
    network: Network,
    media: Vec<SimMedia>,
    node: Option<SimNode>,
    hosts: Vec<SimHost>,
    model: Model,
    operator: Operator,
    trouble: Trouble,
    starts: u64,
    /// When the node was started last.
    booted_at: Now,
    report: Report,
}

fn address() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 4420))
}

impl<'a> World<'a> {
    fn new(arena: &'a Arena, seed: u64) -> Self {
        let mut random = Random::new(seed);
        let plan = Plan::draw(&mut random);
        let network = Network::new(plan.network, random.next_u64());
        Self {
            arena,
            now: Now::from_millis(1),
            network,
            media: plan.disks.iter().map(|disk| disk.medium(&mut random)).collect(),
            node: None,
            hosts: (0..plan.hosts).map(|number| plan.host(number, &mut random)).collect(),
            model: Model::default(),
            operator: Operator::default(),
            trouble: Trouble::default(),
            starts: 0,
            booted_at: Now::ZERO,
            report: Report::default(),
            random,
            plan,
        }
    }

    fn work(&mut self) {
        for _ in 0..self.plan.steps {
            self.step(Work::Any);
            self.operate(true);
            self.make_trouble();
        }
    }

    /// No more faults: everything outstanding must end, and hosts see what is there.
    fn heal(&mut self) {
        self.end_trouble();
        self.rest("after healing", Work::None);
    }

    /// Whether a host sees the volumes that are there, and no others.
    fn sees_all(&self, host: &SimHost) -> bool {
        let Some(seen) = host.namespaces() else { return false };
        let is_there = |volume: &&Volume| volume.deleting.is_none();
        let mut volumes = self.model.volumes.values().filter(is_there);
        let count = volumes.clone().count();
        let is_seen = |volume: &Volume| {
            let wanted = (volume.serial, volume.bytes, volume.shift);
            seen.values().any(|seen| (seen.serial, seen.bytes, seen.shift) == wanted)
        };
        seen.len() == count && volumes.all(is_seen)
    }

    /// Everything is read once more.
    fn sweep(&mut self) {
        self.model.plan_sweep();
        self.rest("while everything is read", Work::Sweep);
    }

    fn rest(&mut self, when: &str, work: Work) {
        let end = self.now + HEALING_TIME;
        for _ in 0..HEALING_STEPS {
            self.step(work);
            self.operate(false);
            let is_at_rest = |host: &SimHost| host.is_idle() && self.sees_all(host);
            let is_idle = self.operator.is_idle() && self.hosts.iter().all(is_at_rest);
            if is_idle && !(work == Work::Sweep && self.model.is_sweeping()) {
                return;
            }
            if self.now > end {
                break;
            }
        }
        let hosts: Vec<_> = self.hosts.iter().map(SimHost::describe).collect();
        let volumes: Vec<_> = self.model.volumes.values().map(Volume::describe).collect();
        panic!("no rest {when}: {hosts:#?}, {:?}, {volumes:#?}", self.operator);
    }

    /// Stops the node cleanly and checks its disks.
    fn end(mut self) -> Report {
        let (answer, answers) = unbounded();
        let node = self.node.as_ref().expect("running");
        node.calls.send(Call::Shutdown(answer)).expect("control listens");
        for _ in 0..HEALING_STEPS {
            self.step(Work::None);
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
            let is_sound = report.findings_total == 0 || self.plan.is_damaging();
            assert!(is_sound, "{:?}", report.findings);
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
    fn step(&mut self, work: Work) {
        self.network.set_now(self.now);
        self.model.now = self.now;
        let mut worked = false;
        if let Some(node) = &mut self.node {
            let count = node.cores.len();
            let first = self.random.below(count as u64) as usize;
            for core in (0..count).map(|offset| (first + offset) % count) {
                if node.cores[core].is_stopped() || node.paused[core] > self.now {
                    continue;
                }
                if self.plan.small_batches {
                    node.cores[core].links().set_batch(1 + self.random.below(3) as usize);
                }
                worked |= node.cores[core].turn(self.now);
                if self.plan.pauses && count > 1 && self.random.below(40) == 0 {
                    let pause = Now::from_micros(self.random.below(400));
                    node.paused[core] = self.now + pause;
                }
            }
        }
        self.note_victims();
        for host in &mut self.hosts {
            host.turn(self.now, &self.network, &mut self.model, work);
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
        let cores = self
            .node
            .iter()
            .flat_map(|node| &node.cores)
            .filter_map(|core| core.deadline(self.now));
        let next =
            arrival.into_iter().chain(hosts).chain(cores).chain(self.trouble.deadline()).min();
        if let Some(next) = next {
            self.now = self.now.max(next.min(self.now + STEP_MAX));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_is_the_same_world() {
        let stage = Stage::default();
        for seed in 1..6 {
            assert_eq!(stage.run(seed), stage.run(seed));
        }
        assert_ne!(stage.run(1).trace, stage.run(2).trace);
    }
}
