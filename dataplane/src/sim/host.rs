//! A host on the simulated network: connects, enables, makes its I/O queues, works, and, when
//! anything breaks, begins again.

use super::Random;
use super::model::{Kind, Model, Operation};
use super::network::Network;
use nvmeof_target::io::Now;
use nvmeof_target::testing::host::{Finished, Host, HostConfig, Transfer, command};
use std::collections::BTreeMap;
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
    pub(super) config: HostConfig,
}

/// One queue with its stream.
struct Queue {
    stream: u64,
    host: Host,
    /// Its Connect, while that is not answered.
    connect: Option<u16>,
    /// What each command does to the model.
    operations: BTreeMap<u16, Operation>,
}

enum Phase {
    /// Nothing is open; begins again at this time.
    Away(Now),
    /// A command of the admin queue is awaited.
    Admin { awaits: u16, step: AdminStep },
    /// Connects of the I/O queues are awaited.
    Queues,
    /// At work.
    Working,
}

#[derive(Clone, Copy)]
enum AdminStep {
    Connect,
    Enable,
    Ready,
}

/// A host.
pub(super) struct SimHost {
    settings: HostSettings,
    phase: Phase,
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
            && self.queues.iter().all(|queue| queue.operations.is_empty())
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
        if !self.step(network) {
            return self.give_up(now, network, model);
        }
        self.finish_operations(model);
        if matches!(self.phase, Phase::Working) && may_start {
            self.start_operations(model);
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
        self.phase = match self.open(network, 0, CONTROLLER_ID_DYNAMIC) {
            Some(awaits) => Phase::Admin { awaits, step: AdminStep::Connect },
            None => Phase::Away(now + RECONNECT_DELAY),
        };
    }

    /// Opens a queue; its Connect.
    fn open(&mut self, network: &Network, queue: u16, controller: u16) -> Option<u16> {
        let stream = network.connect(self.settings.address)?;
        let mut host = Host::new(self.settings.config);
        let name = self.host_nqn();
        let connect = host.connect(queue, controller, &self.settings.subsystem, &name);
        let operations = BTreeMap::new();
        self.queues.push(Queue { stream, host, connect: Some(connect), operations });
        Some(connect)
    }

    /// Everything is closed; what was outstanding may or may not have happened.
    fn give_up(&mut self, now: Now, network: &Network, model: &mut Model) {
        for queue in self.queues.drain(..) {
            network.break_stream(queue.stream);
            queue.operations.into_values().for_each(|operation| model.unknown(operation));
        }
        self.reconnects += 1;
        self.phase = Phase::Away(now + RECONNECT_DELAY);
    }

    fn receive(&mut self, network: &Network) -> bool {
        for queue in &mut self.queues {
            match network.host_receive(queue.stream) {
                Some(bytes) => queue.host.input(&bytes),
                None => return false,
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
        match self.phase {
            Phase::Admin { awaits, step } => match self.queues[0].host.finished(awaits) {
                Some(finished) => self.admin_step(step, &finished, network),
                None => true,
            },
            Phase::Queues => self.await_queues(),
            Phase::Away(_) | Phase::Working => true,
        }
    }

    fn admin_step(&mut self, step: AdminStep, finished: &Finished, network: &Network) -> bool {
        if !finished.status.is_success() {
            return false;
        }
        let admin = &mut self.queues[0].host;
        let (next, command) = match step {
            AdminStep::Connect => {
                self.controller = finished.result as u16;
                let enable = property(FabricsType::PropertySet, PROPERTY_CC, CC_ENABLE);
                (AdminStep::Enable, enable)
            }
            AdminStep::Ready if finished.result & 1 == 1 => {
                self.phase = Phase::Queues;
                let controller = self.controller;
                return (1..=self.settings.queues)
                    .all(|queue| self.open(network, queue, controller).is_some());
            }
            AdminStep::Enable | AdminStep::Ready => {
                (AdminStep::Ready, property(FabricsType::PropertyGet, PROPERTY_CSTS, 0))
            }
        };
        let awaits = admin.submit(command, Transfer::None);
        self.phase = Phase::Admin { awaits, step: next };
        true
    }

    fn await_queues(&mut self) -> bool {
        for queue in &mut self.queues[1..] {
            let Some(finished) = queue.connect.and_then(|id| queue.host.finished(id)) else {
                continue;
            };
            if !finished.status.is_success() {
                return false;
            }
            queue.connect = None;
        }
        if self.queues[1..].iter().all(|queue| queue.connect.is_none()) {
            self.phase = Phase::Working;
        }
        true
    }

    fn start_operations(&mut self, model: &mut Model) {
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

    fn finish_operations(&mut self, model: &mut Model) {
        if !matches!(self.phase, Phase::Working) {
            return;
        }
        for queue in &mut self.queues[1..] {
            while let Some((id, finished)) = queue.host.any_finished() {
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
        Kind::Read => {
            (plain(NvmOpcode::Read), Transfer::Read(operation.len as usize))
        }
        Kind::Write { data } if random.chance(50) => {
            (plain(NvmOpcode::Write), Transfer::WriteByR2t(data.clone()))
        }
        Kind::Write { data } => {
            (plain(NvmOpcode::Write), Transfer::Write(data.clone()))
        }
        Kind::Zero if random.chance(50) => {
            (plain(NvmOpcode::WriteZeroes), Transfer::None)
        }
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
