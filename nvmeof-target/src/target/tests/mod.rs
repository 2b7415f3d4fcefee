//! Scenarios: a target, hosts that send it commands, and nothing between.

mod connect;
mod discovery;
mod end_to_end;
mod feature;
mod identify;
mod lifecycle;
mod log;
mod reservation;

use super::*;
use crate::io::{TRANSFER_MAX, VolumeIndex};
use crate::seam::{Namespaces, Role};
use core::time::Duration;
use storage_spec::fabrics::{
    ConnectCommand, ConnectData, PROPERTY_CC, PROPERTY_CSTS, PropertyCommand,
};
use storage_spec::nvme::command::AdminOpcode;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromZeros, IntoBytes};

const SUBSYSTEM: &str = "nqn.2026-11.example:node";
const HOST: &str = "nqn.2014-08.org.nvmexpress:uuid:11111111-1111-1111-1111-111111111111";
const OTHER_HOST: &str = "nqn.2014-08.org.nvmexpress:uuid:22222222-2222-2222-2222-222222222222";

/// CC of a Linux host: 64-byte and 16-byte entries, all command sets.
const CC_ENABLE: u32 = 0x0046_0061;
const CC_DISABLE: u32 = 0x0046_0060;
const CC_SHUTDOWN: u32 = 0x0046_4061;

const PORT: PortId = PortId(1);
const DISCOVERY_PORT: PortId = PortId(2);

fn nqn(name: &str) -> Nqn {
    Nqn::new(name).unwrap()
}

fn subsystem(name: &str) -> SubsystemConfig {
    SubsystemConfig {
        nqn: nqn(name),
        serial: "S123".into(),
        model: "Basalt".into(),
        controller_ids: 1..=1000,
        hosts: AllowedHosts { any: true, ..Default::default() },
    }
}

fn namespace(id: u32, block_shift: u8) -> NamespaceConfig {
    NamespaceConfig {
        id: NamespaceId(id),
        volume: VolumeIndex(id),
        uuid: [id.to_le_bytes(), [1, 2, 3, 4], [5; 4], [6; 4]].concat().try_into().unwrap(),
        capacity: 1 << 30,
        block_shift,
        read_only: false,
        name: format!("volume-{id}"),
    }
}

fn port(id: PortId, listen: &str, discovery_only: bool) -> Port {
    Port { id, listen: listen.parse().unwrap(), advertised: None, discovery_only }
}

/// A target and the time.
struct Bench {
    target: Target,
    now: Now,
    next_slot: u16,
    port: PortId,
}

impl Bench {
    /// One subsystem for every host with namespaces 1 (512) and 3 (4096), one port.
    fn new() -> Self {
        Self::with(TargetConfig::default())
    }

    fn with(config: TargetConfig) -> Self {
        let mut target = Target::new(config);
        target.add_subsystem(subsystem(SUBSYSTEM)).unwrap();
        target.add_namespace(&nqn(SUBSYSTEM), namespace(1, 9)).unwrap();
        target.add_namespace(&nqn(SUBSYSTEM), namespace(3, 12)).unwrap();
        target.add_port(port(PORT, "0.0.0.0:4420", false)).unwrap();
        target.add_port(port(DISCOVERY_PORT, "0.0.0.0:8009", true)).unwrap();
        target.set_ready();
        assert!(target.take_action().is_none());
        Self { target, now: Duration::from_secs(100), next_slot: 0, port: PORT }
    }

    fn send(&mut self, connection: u64, sqe: [u8; 64], data: Vec<u8>) -> Option<Reply> {
        let slot = Slot(self.next_slot);
        self.next_slot += 1;
        let context = ConnectionContext { port: self.port, local: "192.0.2.1".parse().unwrap() };
        self.target.event(self.now, ConnectionId(connection), context, Event { slot, sqe, data })
    }

    fn admin(&mut self, connection: u64, opcode: AdminOpcode, dwords: [u32; 6]) -> Reply {
        self.admin_on(connection, opcode, 0, dwords)
    }

    fn admin_on(
        &mut self,
        connection: u64,
        opcode: AdminOpcode,
        nsid: u32,
        dwords: [u32; 6],
    ) -> Reply {
        self.send(connection, command(opcode.0, 7, nsid, dwords), Vec::new()).expect("at once")
    }

    fn identify(&mut self, connection: u64, cns: u8, nsid: u32) -> Vec<u8> {
        let dwords = [cns.into(), 0, 0, 0, 0, 0];
        let reply = self.admin_on(connection, AdminOpcode::Identify, nsid, dwords);
        assert_eq!(status(&reply), Status::SUCCESS, "CNS {cns:02x}h");
        assert_eq!(reply.data.len(), 4096);
        reply.data
    }

    /// Reads `len` bytes of a log page.
    fn log(&mut self, connection: u64, page: u8, offset: u64, len: usize, retain: bool) -> Reply {
        let dwords_z = (len / 4 - 1) as u32;
        let dword_10 = u32::from(page) | u32::from(retain) << 15 | dwords_z << 16;
        let dwords = [dword_10, dwords_z >> 16, offset as u32, (offset >> 32) as u32, 0, 0];
        self.admin_on(connection, AdminOpcode::GetLogPage, u32::MAX, dwords)
    }

    fn connect(&mut self, connection: u64, host: &str, subsystem: &str) -> Reply {
        let data = connect_data(0xFFFF, host, subsystem);
        self.send(connection, connect(0, 31, 5000), data).expect("at once")
    }

    /// A host's admin queue, enabled. Returns the controller id.
    fn admin_queue(&mut self, connection: u64, host: &str) -> u16 {
        let reply = self.connect(connection, host, SUBSYSTEM);
        assert_eq!(status(&reply), Status::SUCCESS);
        self.set_cc(connection, CC_DISABLE);
        self.set_cc(connection, CC_ENABLE);
        assert_eq!(self.csts(connection), 1);
        reply.result as u16
    }

    fn discovery_queue(&mut self, connection: u64, host: &str) {
        let reply = self.connect(connection, host, Nqn::discovery().as_str());
        assert_eq!(status(&reply), Status::SUCCESS);
        self.set_cc(connection, CC_ENABLE);
        assert_eq!(self.csts(connection), 1);
    }

    fn connect_io(&mut self, connection: u64, controller: u16, queue: u16) -> Reply {
        self.connect_io_of(HOST, connection, controller, queue)
    }

    fn connect_io_of(&mut self, host: &str, connection: u64, controller: u16, queue: u16) -> Reply {
        let data = connect_data(controller, host, SUBSYSTEM);
        self.send(connection, connect(queue, 127, 0), data).expect("at once")
    }

    fn io_queue(&mut self, connection: u64, controller: u16, queue: u16) -> Namespaces {
        let reply = self.connect_io(connection, controller, queue);
        assert_eq!(status(&reply), Status::SUCCESS);
        let Some(Role::Io(parameters, namespaces)) = reply.role else { panic!("an I/O queue") };
        assert_eq!((parameters.queue_id, parameters.entries), (queue, 128));
        namespaces
    }

    fn set_cc(&mut self, connection: u64, value: u32) {
        let sqe = property_set(PROPERTY_CC, 0, value.into());
        let reply = self.send(connection, sqe, Vec::new()).expect("at once");
        assert_eq!(status(&reply), Status::SUCCESS);
    }

    fn csts(&mut self, connection: u64) -> u64 {
        let sqe = property_get(PROPERTY_CSTS, 0);
        let reply = self.send(connection, sqe, Vec::new()).expect("at once");
        assert_eq!(status(&reply), Status::SUCCESS);
        reply.result
    }

    /// Asks for events of every kind that a controller with namespaces has, by four requests with
    /// the command ids 100 to 103.
    fn listen(&mut self, connection: u64, wanted: u32) {
        let reply = self.admin(connection, AdminOpcode::SetFeatures, [0x0B, wanted, 0, 0, 0, 0]);
        assert_eq!(status(&reply), Status::SUCCESS);
        for id in 100..104 {
            let sqe = command(AdminOpcode::AsyncEventRequest.0, id, 0, [0; 6]);
            assert_eq!(self.send(connection, sqe, Vec::new()), None);
        }
    }

    fn actions(&mut self) -> Vec<String> {
        core::iter::from_fn(|| self.target.take_action()).map(|action| brief(&action)).collect()
    }
}

/// An action in short.
fn brief(action: &Action) -> String {
    match action {
        Action::Reply(connection, _, reply) => {
            let status = Status::from(reply.status);
            format!(
                "reply {} {}/{:02x}h {:x}h",
                connection.0,
                status.kind(),
                status.code(),
                reply.result
            )
        }
        Action::Close(connection) => format!("close {}", connection.0),
        Action::SetNamespaces(connection, namespaces) => {
            let capacities: Vec<_> =
                namespaces.iter().map(|n| n.map_or(0, |n| n.capacity >> 20)).collect();
            format!("namespaces {} {capacities:?}", connection.0)
        }
        Action::ProtectNamespace { namespace, protect, token, .. } => {
            format!("protect {} {protect} {token}", namespace.0)
        }
        Action::Reserve { volume, order, token, .. } => {
            format!("reserve {} {token} {order:?}", volume.0)
        }
        Action::Abort { connection, command_id, token } => {
            format!("abort {} {command_id} {token}", connection.0)
        }
    }
}

fn status(reply: &Reply) -> Status {
    Status::from(reply.status)
}

fn command(opcode: u8, id: u16, nsid: u32, dwords: [u32; 6]) -> [u8; 64] {
    let mut command = Command::new_zeroed();
    command.opcode = opcode;
    command.command_id = U16::new(id);
    command.namespace_id = U32::new(nsid);
    command.dwords = dwords.map(U32::new);
    command.sgl.length = U32::new(TRANSFER_MAX as u32);
    zerocopy::transmute!(command)
}

fn connect(queue: u16, size_z: u16, keep_alive_ms: u32) -> [u8; 64] {
    let mut command = ConnectCommand::new_zeroed();
    command.opcode = FABRICS_OPCODE;
    command.fabrics_type = FabricsType::Connect.0;
    command.queue_id = U16::new(queue);
    command.queue_size_z = U16::new(size_z);
    command.attributes = 4;
    command.keep_alive_ms = U32::new(keep_alive_ms);
    zerocopy::transmute!(command)
}

fn connect_data(controller: u16, host: &str, subsystem: &str) -> Vec<u8> {
    let mut data = ConnectData::new_zeroed();
    data.host_id = [7; 16];
    data.controller_id = U16::new(controller);
    data.host_nqn[..host.len()].copy_from_slice(host.as_bytes());
    data.subsystem_nqn[..subsystem.len()].copy_from_slice(subsystem.as_bytes());
    data.as_bytes().to_vec()
}

fn property(kind: FabricsType, offset: u32, size: u8, value: u64) -> [u8; 64] {
    let mut command = PropertyCommand::new_zeroed();
    command.opcode = FABRICS_OPCODE;
    command.fabrics_type = kind.0;
    command.attributes = size;
    command.offset = U32::new(offset);
    command.value = U64::new(value);
    zerocopy::transmute!(command)
}

fn property_get(offset: u32, size: u8) -> [u8; 64] {
    property(FabricsType::PropertyGet, offset, size, 0)
}

fn property_set(offset: u32, size: u8, value: u64) -> [u8; 64] {
    property(FabricsType::PropertySet, offset, size, value)
}

fn u16_at(data: &[u8], offset: usize) -> u16 {
    u16::from_le_bytes(data[offset..offset + 2].try_into().unwrap())
}

fn u32_at(data: &[u8], offset: usize) -> u32 {
    u32::from_le_bytes(data[offset..offset + 4].try_into().unwrap())
}

fn u64_at(data: &[u8], offset: usize) -> u64 {
    u64::from_le_bytes(data[offset..offset + 8].try_into().unwrap())
}
