//! A host on the simulated network: connects, enables, looks at the namespaces, makes its I/O
//! queues, works, and, when anything breaks, begins again.

use super::Random;
use super::draw::{Habits, Kind, Operation};
use super::encode::{encode, property};
use super::inventory::{Inventory, Seen};
use super::model::Model;
use super::network::Network;
use super::world::Work;
use nvmeof_target::io::Now;
use nvmeof_target::testing::{Finished, Host, HostConfig, Transfer, command};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use storage_spec::fabrics::{CONTROLLER_ID_DYNAMIC, FabricsType, PROPERTY_CC, PROPERTY_CSTS};
use storage_spec::nvme::command::NvmOpcode;
use storage_spec::nvme::status::Status;

/// CC with EN, IOSQES 6, IOCQES 4.
const CC_ENABLE: u64 = 0x0046_0001;
/// The same without EN.
const CC_DISABLE: u64 = 0x0046_0000;
/// How long a host waits before it connects again.
const RECONNECT_DELAY: Now = Now::from_millis(20);
/// A host leaves in one of so many turns.
const LEAVE_ODDS: u64 = 4000;
/// Longest time in which it takes nothing off its streams.
const DEAF_MAX_MS: u64 = 50;
/// Commands behind a Connect: more than a connection takes before it is a queue.
const EARLY_READS: usize = 12;

/// What distinguishes a host.
#[derive(Debug, Clone)]
pub(super) struct HostSettings {
    pub(super) number: u64,
    pub(super) address: SocketAddr,
    pub(super) subsystem: String,
    pub(super) queues: u16,
    pub(super) depth: usize,
    /// Does not await the answer to an I/O queue's Connect before it sends commands.
    pub(super) reads_early: bool,
    pub(super) habits: Habits,
    pub(super) config: HostConfig,
}

/// One queue with its stream.
struct Queue {
    stream: u64,
    host: Host,
    progress: Progress,
    /// What each command does to the model; a fused pair stands at its second.
    operations: BTreeMap<u16, Operation>,
    /// Fused pairs by their second.
    fused: BTreeMap<u16, Pair>,
    /// Reads that were sent right behind the Connect; they may fail.
    early: BTreeSet<u16>,
}

/// A fused pair, and which of its halves have ended.
struct Pair {
    /// The id of the first.
    id: u16,
    first: Option<Status>,
    second: Option<Finished>,
}

/// How far a queue is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    /// The ICResp is awaited.
    Initializing,
    /// The answer to this Connect is awaited.
    Connecting(u16),
    Connected,
}

#[derive(Debug)]
enum Phase {
    /// Nothing is open; begins again at this time.
    Away(Now),
    /// The admin queue is being connected.
    Connecting,
    /// A command of the admin queue is awaited.
    Enabling { awaits: u16, is_enabled: bool },
    /// The namespaces are being looked at for the first time.
    Looking,
    /// The I/O queues are being connected.
    Queues,
    /// At work.
    Working,
}

/// How far a host is in closing one of its queues in good order, or in a reset, after which it
/// begins again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Leaving {
    No,
    /// Once nothing is outstanding.
    Wanted,
    /// The answer to this Disconnect is awaited.
    Disconnecting(u16),
    Answered,
    /// The answer to the disabling of the controller is awaited.
    Resetting(u16),
}

/// A host.
pub(super) struct SimHost {
    settings: HostSettings,
    phase: Phase,
    leaving: Leaving,
    /// The admin queue first.
    queues: Vec<Queue>,
    inventory: Inventory,
    /// Its controller, once connected.
    controller: u16,
    /// Takes nothing off its streams until then.
    deaf_until: Now,
    random: Random,
    /// Commands that succeeded.
    pub(super) succeeded: u64,
    /// Times that it had to begin again.
    pub(super) reconnects: u64,
}

impl SimHost {
    pub(super) fn new(settings: HostSettings, seed: u64) -> Self {
        Self {
            settings,
            phase: Phase::Away(Now::ZERO),
            leaving: Leaving::No,
            queues: Vec::new(),
            inventory: Inventory::default(),
            controller: 0,
            deaf_until: Now::ZERO,
            random: Random::new(seed),
            succeeded: 0,
            reconnects: 0,
        }
    }

    /// When it does something by itself.
    pub(super) fn deadline(&self) -> Option<Now> {
        match self.phase {
            Phase::Away(until) => Some(until),
            _ => None,
        }
    }

    /// Whether it is connected, and no command is outstanding.
    pub(super) fn is_idle(&self) -> bool {
        matches!(self.phase, Phase::Working)
            && self.leaving == Leaving::No
            && self.inventory.is_idle()
            && self.queues.iter().all(|q| q.operations.is_empty() && q.early.is_empty())
    }

    /// Whether commands of it to a volume may be under way, or come yet.
    pub(super) fn knows(&self, serial: u32) -> bool {
        let has_looked =
            !matches!(self.phase, Phase::Away(_) | Phase::Connecting | Phase::Enabling { .. });
        let mut operations = self.queues.iter().flat_map(|queue| queue.operations.values());
        has_looked && self.inventory.knows(serial)
            || operations.any(|operation| operation.volume == serial)
    }

    /// The namespaces that it knows, if it is at work.
    pub(super) fn namespaces(&self) -> Option<&BTreeMap<u32, Seen>> {
        matches!(self.phase, Phase::Working).then_some(&self.inventory.seen)
    }

    /// Where it stands, for the message of a failure.
    pub(super) fn describe(&self) -> String {
        let operations = |q: &Queue| -> Vec<String> {
            q.operations.iter().map(|(id, o)| format!("{id}: {}", o.describe())).collect()
        };
        let queues: Vec<_> = self.queues.iter().map(|q| (q.progress, operations(q))).collect();
        let Self { settings, phase, leaving, inventory, .. } = self;
        format!("host {} {phase:?} {leaving:?} {inventory:?} {queues:#?}", settings.number)
    }

    /// Receives, works, sends.
    pub(super) fn turn(&mut self, now: Now, network: &Network, model: &mut Model, work: Work) {
        if let Phase::Away(until) = self.phase {
            if now >= until {
                self.begin(now, network);
            }
            return;
        }
        if now >= self.deaf_until && !self.receive(network) {
            return self.give_up(now, network, model);
        }
        if !self.step(network) {
            return self.give_up(now, network, model);
        }
        if !self.finish_operations(model) {
            return self.give_up(now, network, model);
        }
        if matches!(self.phase, Phase::Working) {
            self.start_operations(model, work);
            self.leave(work == Work::Any);
        }
        if !self.send(network) {
            self.give_up(now, network, model);
        }
    }

    /// Something happens to it.
    pub(super) fn break_something(&mut self, now: Now, network: &Network, model: &mut Model) {
        if self.queues.is_empty() {
            return;
        }
        let victim = self.random.below(self.queues.len() as u64) as usize;
        let stream = self.queues[victim].stream;
        match self.random.below(10) {
            0..3 => network.break_stream(stream),
            3..6 => network.cut_stream(stream, self.random.below(9000) as usize),
            6..8 => {
                self.deaf_until = now + Now::from_millis(self.random.below(DEAF_MAX_MS));
            }
            8 => {
                // It is gone, and nobody tells the node.
                self.queues.iter().for_each(|queue| network.vanish(queue.stream));
                self.give_up(now, network, model);
            }
            _ if matches!(self.phase, Phase::Working) && self.leaving == Leaving::No => {
                let disable = property(FabricsType::PropertySet, PROPERTY_CC, CC_DISABLE);
                let id = self.queues[0].host.submit(disable, Transfer::None);
                self.leaving = Leaving::Resetting(id);
            }
            _ => {}
        }
    }

    fn host_nqn(&self) -> String {
        format!("nqn.2014-08.org.nvmexpress:uuid:host-{}", self.settings.number)
    }

    fn begin(&mut self, now: Now, network: &Network) {
        self.phase = match self.open(network) {
            true => Phase::Connecting,
            false => Phase::Away(now + RECONNECT_DELAY),
        };
    }

    /// Opens one more queue; `false` when nobody listens.
    fn open(&mut self, network: &Network) -> bool {
        let Some(stream) = network.connect(self.settings.address) else { return false };
        let host = Host::new(self.settings.config);
        self.queues.push(Queue {
            stream,
            host,
            progress: Progress::Initializing,
            operations: BTreeMap::new(),
            fused: BTreeMap::new(),
            early: BTreeSet::new(),
        });
        true
    }

    /// Everything is closed; what was outstanding may or may not have happened.
    fn give_up(&mut self, now: Now, network: &Network, model: &mut Model) {
        for queue in self.queues.drain(..) {
            network.break_stream(queue.stream);
            queue.operations.into_values().for_each(|operation| model.unknown(operation));
        }
        self.leaving = Leaving::No;
        self.inventory = Inventory::default();
        self.deaf_until = Now::ZERO;
        self.reconnects += 1;
        self.phase = Phase::Away(now + RECONNECT_DELAY);
    }

    fn receive(&mut self, network: &Network) -> bool {
        for queue in &mut self.queues {
            match network.host_receive(queue.stream) {
                Some(bytes) => queue.host.input(&bytes),
                None => {
                    let is_answered = !matches!(self.leaving, Leaving::Disconnecting(_));
                    let is_closed = network.is_closed_by_node(queue.stream);
                    assert!(is_answered || !is_closed, "a Disconnect is answered before the close");
                    return false;
                }
            }
            if let Some(term) = queue.host.terminated() {
                panic!("the target ended a well-behaved host's connection: {term:?}");
            }
        }
        true
    }

    fn send(&mut self, network: &Network) -> bool {
        self.queues.iter_mut().all(|queue| {
            let bytes = queue.host.take_output();
            bytes.is_empty() || network.host_send(queue.stream, &bytes)
        })
    }

    /// Brings the set-up forward; `false` if the target refused.
    fn step(&mut self, network: &Network) -> bool {
        if !self.connect_queues() {
            return false;
        }
        let is_connected = self.queues.iter().all(|q| q.progress == Progress::Connected);
        match self.phase {
            Phase::Connecting if is_connected => {
                let enable = property(FabricsType::PropertySet, PROPERTY_CC, CC_ENABLE);
                let awaits = self.queues[0].host.submit(enable, Transfer::None);
                self.phase = Phase::Enabling { awaits, is_enabled: false };
                true
            }
            Phase::Enabling { awaits, is_enabled } => match self.queues[0].host.finished(awaits) {
                Some(finished) => self.enabling(&finished, is_enabled),
                None => true,
            },
            Phase::Looking => {
                let is_sound = self.inventory.turn(&mut self.queues[0].host);
                if is_sound && self.inventory.is_complete {
                    self.phase = Phase::Queues;
                    return (0..self.settings.queues).all(|_| self.open(network));
                }
                is_sound
            }
            Phase::Queues if is_connected => {
                self.phase = Phase::Working;
                true
            }
            Phase::Working if !matches!(self.leaving, Leaving::Resetting(_)) => {
                self.inventory.turn(&mut self.queues[0].host)
            }
            Phase::Connecting | Phase::Queues | Phase::Away(_) | Phase::Working => true,
        }
    }

    /// Brings every queue's Connect forward.
    fn connect_queues(&mut self) -> bool {
        let name = self.host_nqn();
        let first = self.inventory.seen.iter().next().map(|(&id, seen)| (id, seen.shift));
        for (number, queue) in self.queues.iter_mut().enumerate() {
            match queue.progress {
                Progress::Initializing if queue.host.is_initialized() => {
                    let controller =
                        if number == 0 { CONTROLLER_ID_DYNAMIC } else { self.controller };
                    let subsystem = &self.settings.subsystem;
                    let id = queue.host.connect(number as u16, controller, subsystem, &name);
                    queue.progress = Progress::Connecting(id);
                    if number > 0
                        && self.settings.reads_early
                        && let Some((namespace, shift)) = first
                    {
                        queue.early.extend((0..EARLY_READS).map(|_| {
                            let read = command(NvmOpcode::Read, namespace, 0, 1);
                            queue.host.submit(read, Transfer::Read(1 << shift))
                        }));
                    }
                }
                Progress::Connecting(id) => {
                    let Some(finished) = queue.host.finished(id) else { continue };
                    if !finished.status.is_success() {
                        return false;
                    }
                    self.controller = finished.result as u16;
                    queue.progress = Progress::Connected;
                }
                Progress::Initializing | Progress::Connected => {}
            }
        }
        true
    }

    /// Enables the controller, waits until it is ready, looks at the namespaces.
    fn enabling(&mut self, finished: &Finished, is_enabled: bool) -> bool {
        if !finished.status.is_success() {
            return false;
        }
        if is_enabled && finished.result & 1 == 1 {
            self.phase = Phase::Looking;
            self.inventory.begin(&mut self.queues[0].host);
            return true;
        }
        let status = property(FabricsType::PropertyGet, PROPERTY_CSTS, 0);
        let awaits = self.queues[0].host.submit(status, Transfer::None);
        self.phase = Phase::Enabling { awaits, is_enabled: true };
        true
    }

    fn start_operations(&mut self, model: &mut Model, work: Work) {
        if work == Work::None || self.leaving != Leaving::No || self.inventory.seen.is_empty() {
            return;
        }
        let seen: Vec<(u32, Seen)> = self.inventory.seen.iter().map(|(&id, &s)| (id, s)).collect();
        let (depth, habits) = (self.settings.depth, self.settings.habits);
        for queue in &mut self.queues[1..] {
            while queue.operations.len() < depth && self.random.chance(70) {
                let operation = if work == Work::Sweep {
                    model.begin_sweep()
                } else {
                    let (_, seen) = seen[self.random.below(seen.len() as u64) as usize];
                    model.begin(seen.serial, seen.bytes, habits, &mut self.random)
                };
                let Some(operation) = operation else { break };
                let find = |(_, seen): &&(u32, Seen)| seen.serial == operation.volume;
                let &(id, seen) = seen.iter().find(find).expect("a namespace that it knows");
                let mut commands = encode(&operation, id, seen.shift, &mut self.random);
                let (last, transfer) = commands.pop().expect("at least one");
                let first = commands.pop().map(|(first, data)| queue.host.submit(first, data));
                let last = queue.host.submit(last, transfer);
                queue.operations.insert(last, operation);
                let pair = |id| (last, Pair { id, first: None, second: None });
                queue.fused.extend(first.map(pair));
            }
        }
    }

    /// Now and then, sends Disconnect on an I/O queue when nothing is outstanding.
    fn leave(&mut self, may_start: bool) {
        if may_start && self.leaving == Leaving::No && self.random.below(LEAVE_ODDS) == 0 {
            self.leaving = Leaving::Wanted;
        }
        let is_quiet = self.queues.iter().all(|q| q.operations.is_empty() && q.early.is_empty());
        if self.leaving == Leaving::Wanted && is_quiet {
            let disconnect = property(FabricsType::Disconnect, 0, 0);
            let id = self.queues[1].host.submit(disconnect, Transfer::None);
            self.leaving = Leaving::Disconnecting(id);
        }
    }

    /// Takes what has ended; `false` once a reset is through.
    fn finish_operations(&mut self, model: &mut Model) -> bool {
        if !matches!(self.phase, Phase::Working) {
            return true;
        }
        let is_reset = matches!(self.leaving, Leaving::Resetting(_));
        for queue in &mut self.queues[1..] {
            while let Some((id, finished)) = queue.host.any_finished() {
                if queue.early.remove(&id) {
                    continue;
                }
                if self.leaving == Leaving::Disconnecting(id) {
                    assert!(finished.status.is_success(), "{:?}", finished.status);
                    self.leaving = Leaving::Answered;
                    continue;
                }
                let Some((operation, finished)) = queue.take(id, finished) else { continue };
                if finished.status.is_success() {
                    self.succeeded += 1;
                    model.done(operation, &finished.data);
                } else if is_reset && finished.status.is(Status::ABORTED_SQ_DELETION) {
                    model.unknown(operation);
                } else {
                    model.failed(operation, finished.status);
                }
            }
        }
        match self.leaving {
            Leaving::Resetting(id) => self.queues[0].host.finished(id).is_none(),
            _ => true,
        }
    }
}

impl Queue {
    /// The operation that has ended with this command, and how; `None` for the half of a pair
    /// whose other half has not ended. A pair that fails may end in any order: what refuses the
    /// second does not wait for the data of the first.
    fn take(&mut self, mut id: u16, mut finished: Finished) -> Option<(Operation, Finished)> {
        let of_pair = |(second, pair): &(&u16, &mut Pair)| **second == id || pair.id == id;
        if let Some((&number, pair)) = self.fused.iter_mut().find(of_pair) {
            if pair.id == id {
                pair.first = Some(finished.status);
            } else {
                let is_early = pair.first.is_none() && finished.status.is_success();
                assert!(!is_early, "the second of a pair succeeded before the first");
                pair.second = Some(finished);
            }
            if pair.first.is_none() || pair.second.is_none() {
                return None;
            }
            let pair = self.fused.remove(&number).expect("just seen");
            let first = pair.first.expect("just seen");
            (id, finished) = (number, pair.second.expect("just seen"));
            let second = finished.status;
            let is_sound = first.is_success() == second.is_success();
            assert!(is_sound, "one half of a fused pair: {first:?}, {second:?}");
            // The half that failed by itself says why.
            if second.is(Status::ABORTED_FAILED_FUSED) {
                finished.status = first;
            }
        }
        let operation = self.operations.remove(&id).expect("a command of ours");
        let is_pair = matches!(operation.kind, Kind::Swap { .. });
        if !is_pair && finished.status.is(Status::ABORTED_FAILED_FUSED) {
            panic!("not fused: {}", operation.describe());
        }
        Some((operation, finished))
    }
}
