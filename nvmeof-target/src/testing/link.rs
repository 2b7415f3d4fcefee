//! A host, a connection and a store, and what moves between them.

use super::{Finished, Host, HostConfig, Memory, PlainBuf, Transfer, Wire};
use crate::connection::{Config, Connection};
use crate::io::Now;
use crate::seam::{
    Association, ConnectionId, Event, Namespace, Namespaces, QueueParameters, Reply, Role,
};
use std::sync::Arc;
use storage_spec::fabrics::ConnectCommand;
use storage_spec::nvme::command::{AdminOpcode, Command, Direction, FABRICS_OPCODE};
use storage_spec::nvme::status::Status;
use storage_spec::{crc32c, fabrics};
use zerocopy::FromBytes;

/// One queue from the host's end to the store, with a target that follows a script.
#[derive(Debug)]
pub struct Link {
    /// The host's end.
    pub host: Host,
    /// The connection under test.
    pub connection: Connection<PlainBuf>,
    /// The store.
    pub memory: Memory,
    /// The time.
    pub now: Now,
    /// What Connect makes the connection part of.
    pub association: Arc<Association>,
    /// What Connect lets an I/O queue address.
    pub namespaces: Namespaces,
    /// Events that wait for a reply while `hold_events`.
    pub events: Vec<Event>,
    /// Whether the script leaves events alone.
    pub hold_events: bool,
    /// Whether block requests wait for the test to complete them.
    pub hold_blocks: bool,
    /// Bytes on their way to the connection.
    pub stream: Vec<u8>,
    /// PDUs that the connection may send at a time.
    pub wire_room: usize,
}

impl Link {
    /// A host that has just opened a connection to `namespaces` on `memory`.
    #[must_use]
    pub fn new(host: HostConfig, config: Config, memory: Memory, namespaces: &[Namespace]) -> Self {
        let now = Now::from_secs(1);
        Self {
            host: Host::new(host),
            connection: Connection::new(ConnectionId(1), config, now),
            memory,
            now,
            association: Arc::new(Association::new(1, now)),
            namespaces: namespaces.iter().copied().map(Some).collect(),
            events: Vec::new(),
            hold_events: false,
            hold_blocks: false,
            stream: Vec::new(),
            wire_room: usize::MAX,
        }
    }

    /// As [`Link::new`], with queue `queue_id` connected.
    ///
    /// # Panics
    /// If that fails.
    #[must_use]
    pub fn connected(
        host: HostConfig,
        config: Config,
        memory: Memory,
        namespaces: &[Namespace],
        queue_id: u16,
    ) -> Self {
        let mut this = Self::new(host, config, memory, namespaces);
        this.run();
        let connect = this.host.connect(queue_id, 1, "nqn.2026-01.test:subsystem", "nqn.host");
        assert_eq!(this.finish(connect).status, Status::SUCCESS);
        this
    }

    /// Sends a command and waits for its outcome.
    pub fn execute(&mut self, command: Command, transfer: Transfer) -> Finished {
        let command_id = self.host.submit(command, transfer);
        self.finish(command_id)
    }

    /// Waits for the outcome of a command.
    ///
    /// # Panics
    /// If it does not come.
    pub fn finish(&mut self, command_id: u16) -> Finished {
        self.run();
        let finished = self.host.finished(command_id);
        finished.unwrap_or_else(|| panic!("command {command_id} does not end: {self:?}"))
    }

    /// Moves everything that can move, until nothing does.
    pub fn run(&mut self) {
        self.run_in_chunks(&mut |available| available);
    }

    /// As [`Link::run`]; `chunk` says how many of the bytes available arrive at once.
    pub fn run_in_chunks(&mut self, chunk: &mut dyn FnMut(usize) -> usize) {
        loop {
            let mut moved = self.deliver(chunk);
            moved |= self.serve_events();
            if !self.hold_blocks && self.memory.pending() > 0 {
                self.complete(0);
                moved = true;
            }
            moved |= self.collect();
            if !moved {
                break;
            }
        }
    }

    /// Moves some bytes of the host to the connection; whether any moved.
    pub fn deliver(&mut self, chunk: &mut dyn FnMut(usize) -> usize) -> bool {
        self.stream.append(&mut self.host.take_output());
        if self.connection.starved() {
            self.connection.resume(self.now, &mut self.memory);
        }
        if self.stream.is_empty() || self.connection.blocked() {
            return false;
        }
        let count = chunk(self.stream.len()).clamp(1, self.stream.len());
        let mut at = 0;
        if let Some((mut buf, range)) = self.connection.take_landing() {
            use crate::io::Buffer;
            at = count.min(range.len());
            buf.bytes_mut()[range.start..range.start + at].copy_from_slice(&self.stream[..at]);
            self.connection.landed(buf, range, at, &mut self.memory);
        }
        at += self.connection.receive(self.now, &self.stream[at..count], &mut self.memory);
        assert!(at == count || self.connection.blocked(), "bytes are refused only when blocked");
        self.stream.drain(..at);
        at > 0
    }

    /// Moves PDUs of the connection to the host; whether any moved.
    pub fn collect(&mut self) -> bool {
        let mut wire = Wire::new(self.wire_room);
        self.connection.transmit(&mut wire);
        self.connection.sent();
        self.host.input(&wire.bytes);
        !wire.bytes.is_empty()
    }

    /// Completes the `index`th block request that waits.
    pub fn complete(&mut self, index: usize) {
        let (ticket, result) = self.memory.execute(index);
        self.connection.complete(ticket, result, &mut self.memory);
    }

    /// Lets the script reply to events; whether there were any.
    pub fn serve_events(&mut self) -> bool {
        let mut served = false;
        while let Some(event) = self.connection.take_event() {
            if self.hold_events {
                self.events.push(event);
                continue;
            }
            let slot = event.slot;
            let reply = script(&event, &self.association, &self.namespaces);
            self.connection.reply(slot, reply);
            served = true;
        }
        served
    }
}

/// What a target of few words replies: Connect succeeds, reads of admin data return bytes that
/// count up, and writes return the checksum of their data.
#[must_use]
pub fn script(event: &Event, association: &Arc<Association>, namespaces: &Namespaces) -> Reply {
    let command = Command::read_from_bytes(&event.sqe).expect("both are 64 bytes");
    let mut reply = Reply { status: 0, result: 0, data: Vec::new(), role: None };
    let is_fabrics = command.opcode == FABRICS_OPCODE;
    let fabrics_type = fabrics::FabricsType(command.namespace_id.get() as u8);
    if is_fabrics && fabrics_type == fabrics::FabricsType::Connect {
        let connect = ConnectCommand::read_from_bytes(&event.sqe).expect("both are 64 bytes");
        let attributes = fabrics::ConnectAttributes::from(connect.attributes);
        let queue = QueueParameters {
            association: association.clone(),
            queue_id: connect.queue_id.get(),
            entries: connect.queue_size_z.get().clamp(1, 1023) + 1,
            flow_control_disabled: attributes.disable_flow_control(),
        };
        reply.role = Some(match queue.queue_id {
            0 => Role::Admin(queue),
            _ => Role::Io(queue, namespaces.clone()),
        });
        reply.result = u64::from(association.controller_id);
    } else if command.direction() == Direction::ControllerToHost {
        let len = command.sgl.length.get().min(1 << 16);
        reply.data = (0..len).map(|at| at as u8).collect();
    } else if command.direction() == Direction::HostToController {
        reply.result = u64::from(crc32c::checksum(&event.data));
    } else if !is_fabrics && AdminOpcode(command.opcode) != AdminOpcode::KeepAlive {
        reply.status = u16::from(Status::INVALID_OPCODE.dnr());
    }
    reply
}
