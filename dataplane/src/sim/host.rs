//! A host on the simulated network: connects, enables, makes its I/O queues, works, and, when
//! anything breaks, begins again.

use super::Random;
use super::model::{Kind, Model, Operation};
use super::network::Network;
use nvmeof_target::io::Now;
use nvmeof_target::testing::{Finished, Host, HostConfig, Transfer, command};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use storage_spec::fabrics::{
    CONTROLLER_ID_DYNAMIC, FabricsType, PROPERTY_CC, PROPERTY_CSTS, PropertyCommand,
};
use storage_spec::nvme::command::{Command, DsmRange, FABRICS_OPCODE, NvmOpcode};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

/// CC with EN, IOSQES 6, IOCQES 4.
const CC_ENABLE: u64 = 0x0046_0001;
/// How long a host waits before it connects again.
const RECONNECT_DELAY: Now = Now::from_millis(20);
/// A host leaves in one of so many turns.
const LEAVE_ODDS: u64 = 4000;
/// Commands behind a Connect: more than a connection takes before it is a queue.
const EARLY_READS: usize = 12;
/// Dataset Management: deallocate, in dword 11.
const DSM_DEALLOCATE: u32 = 4;

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
    pub(super) config: HostConfig,
}

/// One queue with its stream.
struct Queue {
    stream: u64,
    host: Host,
    progress: Progress,
    /// What each command does to the model.
    operations: BTreeMap<u16, Operation>,
    /// Reads that were sent right behind the Connect; they may fail.
    early: BTreeSet<u16>,
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
    /// The I/O queues are being connected.
    Queues,
    /// At work.
    Working,
}

/// How far a host is in closing one of its queues in good order, after which it begins again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Leaving {
    No,
    /// Once nothing is outstanding.
    Wanted,
    /// The answer to this Disconnect is awaited.
    Disconnecting(u16),
    Answered,
}

/// A host.
pub(super) struct SimHost {
    settings: HostSettings,
    phase: Phase,
    leaving: Leaving,
    /// The admin queue first.
    queues: Vec<Queue>,
    /// Its controller, once connected.
    controller: u16,
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
            controller: 0,
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

    /// Whether no command is outstanding.
    pub(super) fn is_idle(&self) -> bool {
        matches!(self.phase, Phase::Working)
            && self.leaving == Leaving::No
            && self.queues.iter().all(|q| q.operations.is_empty() && q.early.is_empty())
    }

    /// Where it stands, for the message of a failure.
    pub(super) fn describe(&self) -> String {
        let queues: Vec<_> = self.queues.iter().map(|q| (q.progress, &q.operations)).collect();
        format!("host {} {:?} {queues:?}", self.settings.number, self.phase)
    }

    /// Receives, works, sends. `may_start`: begins new operations.
    pub(super) fn turn(&mut self, now: Now, network: &Network, model: &mut Model, may_start: bool) {
        if let Phase::Away(until) = self.phase {
            if now >= until {
                self.begin(now, network);
            }
            return;
        }
        if !self.receive(network) {
            return self.give_up(now, network, model);
        }
        if !self.step(network, model) {
            return self.give_up(now, network, model);
        }
        self.finish_operations(model);
        if matches!(self.phase, Phase::Working) {
            if may_start {
                self.start_operations(model);
            }
            self.leave(may_start);
        }
        if !self.send(network) {
            self.give_up(now, network, model);
        }
    }

    /// Breaks one of its streams.
    pub(super) fn break_something(&mut self, network: &Network) {
        if !self.queues.is_empty() {
            let victim = self.random.below(self.queues.len() as u64) as usize;
            network.break_stream(self.queues[victim].stream);
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
    fn step(&mut self, network: &Network, model: &Model) -> bool {
        if !self.connect_queues(model) {
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
                Some(finished) => self.enabling(&finished, is_enabled, network),
                None => true,
            },
            Phase::Queues if is_connected => {
                self.phase = Phase::Working;
                true
            }
            Phase::Connecting | Phase::Queues | Phase::Away(_) | Phase::Working => true,
        }
    }

    /// Brings every queue's Connect forward.
    fn connect_queues(&mut self, model: &Model) -> bool {
        let name = self.host_nqn();
        for (number, queue) in self.queues.iter_mut().enumerate() {
            match queue.progress {
                Progress::Initializing if queue.host.is_initialized() => {
                    let controller =
                        if number == 0 { CONTROLLER_ID_DYNAMIC } else { self.controller };
                    let subsystem = &self.settings.subsystem;
                    let id = queue.host.connect(number as u16, controller, subsystem, &name);
                    queue.progress = Progress::Connecting(id);
                    if number > 0 && self.settings.reads_early {
                        let len = 1 << model.block_shift();
                        queue.early.extend((0..EARLY_READS).map(|_| {
                            let read = command(NvmOpcode::Read, model.namespace(), 0, 1);
                            queue.host.submit(read, Transfer::Read(len))
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

    /// Enables the controller, waits until it is ready, opens the I/O queues.
    fn enabling(&mut self, finished: &Finished, is_enabled: bool, network: &Network) -> bool {
        if !finished.status.is_success() {
            return false;
        }
        if is_enabled && finished.result & 1 == 1 {
            self.phase = Phase::Queues;
            return (0..self.settings.queues).all(|_| self.open(network));
        }
        let status = property(FabricsType::PropertyGet, PROPERTY_CSTS, 0);
        let awaits = self.queues[0].host.submit(status, Transfer::None);
        self.phase = Phase::Enabling { awaits, is_enabled: true };
        true
    }

    fn start_operations(&mut self, model: &mut Model) {
        if self.leaving != Leaving::No {
            return;
        }
        let depth = self.settings.depth;
        for queue in &mut self.queues[1..] {
            while queue.operations.len() < depth && self.random.chance(70) {
                let number = self.settings.number;
                let Some(operation) = model.begin(number, &mut self.random) else { break };
                let (command, transfer) = encode(&operation, model, &mut self.random);
                let id = queue.host.submit(command, transfer);
                queue.operations.insert(id, operation);
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

    fn finish_operations(&mut self, model: &mut Model) {
        if !matches!(self.phase, Phase::Working) {
            return;
        }
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
                let operation = queue.operations.remove(&id).expect("a command of ours");
                if finished.status.is_success() {
                    self.succeeded += 1;
                    model.done(operation, &finished.data);
                } else {
                    model.failed(operation, finished.status);
                }
            }
        }
    }
}

fn property(fabrics_type: FabricsType, offset: u32, value: u64) -> Command {
    let mut command = PropertyCommand::new_zeroed();
    command.opcode = FABRICS_OPCODE;
    command.fabrics_type = fabrics_type.0;
    command.offset = offset.into();
    command.value = value.into();
    Command::read_from_bytes(command.as_bytes()).expect("both are 64 bytes")
}

/// An operation as a command with its data.
fn encode(operation: &Operation, model: &Model, random: &mut Random) -> (Command, Transfer) {
    let (shift, namespace) = (model.block_shift(), model.namespace());
    let (lba, blocks) = (operation.offset >> shift, (operation.len >> shift) as u32);
    let plain = |opcode| command(opcode, namespace, lba, blocks);
    match &operation.kind {
        Kind::Read => (plain(NvmOpcode::Read), Transfer::Read(operation.len as usize)),
        Kind::Write { data } if random.chance(50) => {
            (plain(NvmOpcode::Write), Transfer::WriteByR2t(data.clone()))
        }
        Kind::Write { data } => (plain(NvmOpcode::Write), Transfer::Write(data.clone())),
        Kind::Zero if random.chance(50) => (plain(NvmOpcode::WriteZeroes), Transfer::None),
        Kind::Zero => {
            let mut range = DsmRange::new_zeroed();
            range.lba = lba.into();
            range.blocks = blocks.into();
            let mut command = command(NvmOpcode::DatasetManagement, namespace, 0, 1);
            command.dwords = [0; 6].map(Into::into);
            command.dwords[1] = DSM_DEALLOCATE.into();
            (command, Transfer::Write(range.as_bytes().to_vec()))
        }
        Kind::Verify => (plain(NvmOpcode::Verify), Transfer::None),
        Kind::Flush => {
            let mut command = command(NvmOpcode::Flush, namespace, 0, 1);
            command.dwords = [0; 6].map(Into::into);
            (command, Transfer::None)
        }
    }
}
