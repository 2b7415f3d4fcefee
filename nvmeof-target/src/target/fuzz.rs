//! Bodies of the target's fuzz tests: any bytes in, no panic and no broken promise out.

use super::*;
use crate::io::{TRANSFER_MAX, VolumeIndex};
use crate::seam::Role;
use core::time::Duration;
use reservations::{Order, Registrant, Table};
use std::collections::BTreeSet;
use std::sync::Arc;
use storage_spec::fabrics::{ConnectCommand, ConnectData, PROPERTY_CC, PropertyCommand};
use storage_spec::nvme::command::{AdminOpcode, NvmOpcode};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromZeros, IntoBytes};

const SUBSYSTEM: &str = "nqn.2026-11.example:fuzz";
const HOST: &str = "nqn.2014-08.org.nvmexpress:uuid:fuzz";
const ADMIN: ConnectionId = ConnectionId(0);
const DISCOVERY: ConnectionId = ConnectionId(1);
const ENABLE: u32 = 0x0046_0061;

/// Connect: eight bytes go into the command (from byte 40 on), the others are its data.
pub fn connect_data(bytes: &[u8]) {
    let Some((fields, data)) = bytes.split_first_chunk::<8>() else { return };
    let mut world = World::new();
    let mut sqe = connect_command(0, 0);
    sqe[40..48].copy_from_slice(fields);
    for connection in [ConnectionId(10), ConnectionId(11)] {
        let reply =
            world.send(connection, sqe, data.to_vec()).expect("Connect is answered at once");
        assert_eq!(reply.role.is_some(), Status::from(reply.status).is_success());
        assert_eq!(reply.role.is_some(), world.target.queue(connection).is_some());
        match reply.role {
            Some(Role::Admin(queue) | Role::Io(queue, _)) => assert!(queue.entries >= 2),
            None => assert!(Status::from(reply.status).code() != 0),
        }
        world.check_actions();
    }
    world.finish();
}

/// Get Log Page: 24 bytes are dwords 10 to 15, again and again, on both kinds of controller.
pub fn log_offsets(bytes: &[u8]) {
    let mut world = World::new();
    world.open();
    for chunk in bytes.chunks_exact(24) {
        for connection in [ADMIN, DISCOVERY] {
            let mut sqe = [0; 64];
            sqe[0] = AdminOpcode::GetLogPage.0;
            sqe[4..8].fill(0xFF);
            sqe[32..36].copy_from_slice(&(TRANSFER_MAX as u32).to_le_bytes());
            sqe[40..].copy_from_slice(chunk);
            let reply = world.send(connection, sqe, Vec::new()).expect("answered at once");
            if Status::from(reply.status).is_success() {
                assert!(!reply.data.is_empty() && reply.data.len() <= TRANSFER_MAX);
                check_part(&mut world, connection, sqe, &reply.data);
            } else {
                assert!(reply.data.is_empty());
            }
        }
    }
    world.finish();
}

/// What was read from an offset is what lies there when the page is read from its beginning.
fn check_part(world: &mut World, connection: ConnectionId, mut sqe: [u8; 64], part: &[u8]) {
    const WHOLE: usize = 16384;
    let offset = u64_at(&sqe, 48);
    if offset >= WHOLE as u64 {
        return;
    }
    sqe[41] |= 0x80;
    sqe[42..44].copy_from_slice(&(WHOLE as u16 / 4 - 1).to_le_bytes());
    sqe[44..46].fill(0);
    sqe[48..56].fill(0);
    let whole = world.send(connection, sqe, Vec::new()).expect("answered at once").data;
    let (_, rest) = whole.split_at(offset as usize);
    let len = rest.len().min(part.len());
    // Reading changes one page: the list of changed namespaces, which was empty.
    assert_eq!(part[..len], rest[..len]);
}

/// A history of a target: commands, time, lost connections, changes of the configuration.
pub fn admin(bytes: &[u8]) {
    let mut world = World::new();
    world.open();
    let mut input = Input(bytes);
    while !input.0.is_empty() {
        world.step(&mut input);
        world.check_actions();
    }
    world.finish();
}

/// A target and what is known of it from outside.
struct World {
    target: Target,
    now: Now,
    next_slot: u16,
    next_connection: u64,
    /// Connections with a queue that were not told to close.
    open: BTreeSet<ConnectionId>,
    /// Connections that were told to close.
    closing: BTreeSet<ConnectionId>,
    /// Commands without a reply yet.
    waiting: BTreeSet<(ConnectionId, u16)>,
    aborts: BTreeSet<u64>,
    protections: BTreeSet<u64>,
    /// Orders for reservation tables.
    reserves: VecDeque<(VolumeIndex, Registrant, Order, u64)>,
    tables: BTreeMap<VolumeIndex, Table>,
}

impl World {
    fn new() -> Self {
        let mut target = Target::new(TargetConfig { controllers_max: 4, ..Default::default() });
        let config = SubsystemConfig {
            nqn: nqn(),
            serial: "1".into(),
            model: "fuzz".into(),
            controller_ids: 1..=6,
            hosts: AllowedHosts { any: true, ..Default::default() },
        };
        target.add_subsystem(config).expect("it is the first");
        target.set_ready();
        let listen = "0.0.0.0:4420".parse().expect("an address");
        let port = Port { id: PortId(1), listen, advertised: None, discovery_only: false };
        target.add_port(port).expect("it is the first");
        Self {
            target,
            now: Duration::from_secs(1),
            next_slot: 0,
            next_connection: 100,
            open: BTreeSet::new(),
            closing: BTreeSet::new(),
            waiting: BTreeSet::new(),
            aborts: BTreeSet::new(),
            protections: BTreeSet::new(),
            reserves: VecDeque::new(),
            tables: BTreeMap::new(),
        }
    }

    /// Two hosts: an enabled controller with namespaces, and one for discovery.
    fn open(&mut self) {
        for (connection, subsystem) in [(ADMIN, nqn()), (DISCOVERY, Nqn::discovery())] {
            let reply = self.connect(connection, 0, 0xFFFF, &subsystem).expect("answered at once");
            assert!(Status::from(reply.status).is_success());
            self.set_cc(connection, ENABLE);
        }
    }

    fn send(&mut self, connection: ConnectionId, sqe: [u8; 64], data: Vec<u8>) -> Option<Reply> {
        let slot = Slot(self.next_slot);
        self.next_slot = self.next_slot.wrapping_add(1);
        let local = "192.0.2.1".parse().expect("an address");
        let context = ConnectionContext { port: PortId(1), local };
        let event = Event { slot, sqe, data };
        let reply = self.target.event(self.now, connection, context, event);
        match &reply {
            Some(reply) if reply.role.is_some() => assert!(self.open.insert(connection)),
            Some(_) => {}
            None => assert!(self.waiting.insert((connection, slot.0))),
        }
        reply
    }

    /// `None` if it waits for the end of a queue.
    fn connect(&mut self, on: ConnectionId, queue: u16, id: u16, subsystem: &Nqn) -> Option<Reply> {
        let mut data = ConnectData::new_zeroed();
        data.controller_id = U16::new(id);
        data.host_nqn[..HOST.len()].copy_from_slice(HOST.as_bytes());
        data.subsystem_nqn = subsystem.to_field();
        self.send(on, connect_command(queue, 5000), data.as_bytes().to_vec())
    }

    fn set_cc(&mut self, connection: ConnectionId, value: u32) {
        let mut command = PropertyCommand::new_zeroed();
        command.opcode = FABRICS_OPCODE;
        command.fabrics_type = FabricsType::PropertySet.0;
        command.offset = U32::new(PROPERTY_CC);
        command.value = U64::new(value.into());
        let reply = self.send(connection, zerocopy::transmute!(command), Vec::new());
        assert!(reply.is_some());
    }

    fn step(&mut self, input: &mut Input<'_>) {
        let kind = input.byte();
        let connection = self.pick(input.byte());
        match kind % 12 {
            0..=2 => {
                let mut sqe = input.array();
                let opcodes = admin::ADMIN_OPCODES;
                if kind < 128 {
                    sqe[0] = opcodes[usize::from(sqe[0]) % opcodes.len()].0;
                    if sqe[0] == AdminOpcode::Abort.0 {
                        // A queue that could be there.
                        (sqe[40], sqe[41]) = (sqe[40] % 4, 0);
                    }
                }
                self.send(connection, sqe, vec![0; 512]);
            }
            3 => {
                let value = [ENABLE, ENABLE & !1, ENABLE | 0x4000, u32::from(input.byte())];
                self.set_cc(connection, value[usize::from(input.byte()) % 4]);
            }
            4 => {
                let new = ConnectionId(self.next_connection);
                self.next_connection += 1;
                let (queue, id) = (u16::from(input.byte() % 4), u16::from(input.byte() % 8));
                let id = if queue == 0 { 0xFFFF } else { id };
                let subsystem = if kind < 240 { nqn() } else { Nqn::discovery() };
                self.connect(new, queue, id, &subsystem);
            }
            5 => self.lose(connection),
            6 => {
                self.now += Duration::from_millis(u64::from(input.byte()) * 50);
                self.target.on_deadline(self.now);
                assert!(self.target.deadline().is_none_or(|deadline| deadline > self.now));
            }
            7 => {
                if let Some(token) = self.aborts.pop_first() {
                    self.target.abort_result(token, input.byte() & 1 == 0);
                }
                if let Some(token) = self.protections.pop_last() {
                    self.target.protection_result(token, input.byte() & 3 != 0);
                }
            }
            8 => self.change_namespace(input),
            10 => self.reserve(connection, input),
            11 => self.carry_out(input),
            _ => self.change_hosts(input),
        }
    }

    /// A reservation command, on whichever queue; most are well-formed.
    fn reserve(&mut self, connection: ConnectionId, input: &mut Input<'_>) {
        const OPCODES: [NvmOpcode; 4] = [
            NvmOpcode::ReservationRegister,
            NvmOpcode::ReservationReport,
            NvmOpcode::ReservationAcquire,
            NvmOpcode::ReservationRelease,
        ];
        let mut sqe = [0; 64];
        sqe[0] = OPCODES[usize::from(input.byte() % 4)].0;
        sqe[4] = input.byte() % 8;
        sqe[32..36].copy_from_slice(&4096_u32.to_le_bytes());
        sqe[40..44].copy_from_slice(&input.array::<4>());
        sqe[44] = 1;
        let mut data = vec![0; usize::from(input.byte() % 24)];
        for key in [0, 8] {
            let byte = input.byte() % 4;
            if let Some(low) = data.get_mut(key) {
                *low = byte;
            }
        }
        self.send(connection, sqe, data);
    }

    /// Carries out the oldest order, or says that it was not kept.
    fn carry_out(&mut self, input: &mut Input<'_>) {
        let Some((volume, who, order, token)) = self.reserves.pop_front() else { return };
        if input.byte().is_multiple_of(8) {
            return self.target.reservation_result(token, Err(reservations::Failure::NotKept));
        }
        let table = self.tables.entry(volume).or_default();
        let result = table.apply(&who, &order).map(|outcome| {
            let table = Arc::new(table.clone());
            self.target.set_reservations(volume, &table, &outcome.notices);
            for who in &outcome.aborts {
                let queues = self.target.io_queues_of(who);
                assert!(queues.len() <= self.open.len() + self.closing.len());
            }
        });
        self.target.reservation_result(token, result.map_err(Into::into));
    }

    fn change_namespace(&mut self, input: &mut Input<'_>) {
        let id = NamespaceId(u32::from(input.byte() % 8));
        // Refusals are answers too.
        let _ = match input.byte() % 4 {
            0 => {
                let config = NamespaceConfig {
                    id,
                    volume: VolumeIndex(id.0),
                    uuid: [id.0 as u8; 16],
                    capacity: 1 << 20,
                    block_shift: 12,
                    read_only: false,
                    name: String::new(),
                };
                self.target.add_namespace(&nqn(), config)
            }
            1 => self.target.remove_namespace(&nqn(), id),
            2 => self.target.resize_namespace(&nqn(), id, u64::from(input.byte()) << 12),
            _ => self.target.rename_namespace(&nqn(), id, "name"),
        };
    }

    fn change_hosts(&mut self, input: &mut Input<'_>) {
        let host = Nqn::new(HOST).expect("a name");
        let _ = match input.byte() % 4 {
            0 => self.target.allow_host(&nqn(), host),
            1 => self.target.deny_host(&nqn(), &host),
            2 => self.target.set_allow_any(&nqn(), input.byte() & 1 == 0),
            _ => self.target.remove_port(PortId(u16::from(input.byte() % 3))),
        };
    }

    /// A connection that is open or closing, or waits for its Connect.
    fn pick(&self, choice: u8) -> ConnectionId {
        let waiting = self.waiting.iter().map(|&(connection, _)| connection);
        let all: BTreeSet<_> = self.open.union(&self.closing).copied().chain(waiting).collect();
        let all: Vec<_> = all.into_iter().collect();
        if all.is_empty() { ADMIN } else { all[usize::from(choice) % all.len()] }
    }

    /// A connection is gone and drained.
    fn lose(&mut self, connection: ConnectionId) {
        self.open.remove(&connection);
        self.closing.remove(&connection);
        self.waiting.retain(|&(waiting, _)| waiting != connection);
        self.target.closed(self.now, connection);
        assert!(self.target.queue(connection).is_none());
        assert!(self.target.aborts.values().all(|abort| abort.asked != connection));
    }

    /// Takes all actions: each must make sense for the connection as it is.
    fn check_actions(&mut self) {
        while let Some(action) = self.target.take_action() {
            match action {
                Action::Reply(connection, Slot(slot), reply) => {
                    if reply.role.is_some() {
                        assert!(self.target.queue(connection).is_some_and(|q| q.queue_id > 0));
                        assert!(self.open.insert(connection), "connected once");
                    }
                    assert!(self.waiting.remove(&(connection, slot)), "replied to once");
                }
                Action::Close(connection) => {
                    if self.open.remove(&connection) {
                        self.closing.insert(connection);
                    }
                    assert!(self.closing.contains(&connection), "it was open");
                }
                Action::SetNamespaces(connection, _) => {
                    let queue = self.target.queue(connection).expect("the queue is there");
                    assert!(queue.queue_id > 0);
                }
                Action::ProtectNamespace { token, .. } => {
                    assert!(self.protections.insert(token), "tokens are unique");
                }
                Action::Reserve { volume, who, order, token } => {
                    self.reserves.push_back((volume, who, order, token));
                }
                Action::Abort { connection, token, .. } => {
                    assert!(self.target.queue(connection).is_some());
                    assert!(self.aborts.insert(token), "tokens are unique");
                }
            }
        }
    }

    /// Everything that was opened can be closed, and nothing stays.
    fn finish(mut self) {
        let waiting: BTreeSet<_> = self.waiting.iter().map(|&(connection, _)| connection).collect();
        for connection in &(&self.open | &self.closing) | &waiting {
            self.lose(connection);
            self.check_actions();
        }
        assert_eq!(self.target.controller_count(), 0);
        assert!(self.waiting.is_empty());
        assert!(self.target.aborts.is_empty());
    }
}

/// Bytes to take from; zeroes when there are no more.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn byte(&mut self) -> u8 {
        let [byte] = self.array();
        byte
    }

    fn array<const N: usize>(&mut self) -> [u8; N] {
        let len = self.0.len().min(N);
        let (taken, rest) = self.0.split_at(len);
        self.0 = rest;
        let mut array = [0; N];
        array[..len].copy_from_slice(taken);
        array
    }
}

fn nqn() -> Nqn {
    Nqn::new(SUBSYSTEM).expect("a name")
}

fn connect_command(queue: u16, keep_alive_ms: u32) -> [u8; 64] {
    let mut command = ConnectCommand::new_zeroed();
    command.opcode = FABRICS_OPCODE;
    command.fabrics_type = FabricsType::Connect.0;
    command.queue_id = U16::new(queue);
    command.queue_size_z = U16::new(31);
    command.keep_alive_ms = U32::new(keep_alive_ms);
    zerocopy::transmute!(command)
}

fn u64_at(bytes: &[u8], offset: usize) -> u64 {
    let bytes = bytes[offset..].first_chunk().expect("the entry is long enough");
    u64::from_le_bytes(*bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_connect(bytes in prop::collection::vec(any::<u8>(), 0..1100)) {
            connect_data(&bytes);
        }

        #[test]
        fn any_log_request(
            requests in prop::collection::vec(
                (0..0x80_u8, any::<u8>(), 0..2048_u16, 0..9000_u64), 1..8)
        ) {
            let bytes: Vec<u8> = requests
                .into_iter()
                .flat_map(|(page, specific, dwords, offset)| {
                    let mut request = [0; 24];
                    (request[0], request[1]) = (page, specific);
                    request[2..4].copy_from_slice(&dwords.to_le_bytes());
                    request[8..16].copy_from_slice(&offset.to_le_bytes());
                    request
                })
                .collect();
            log_offsets(&bytes);
        }

        #[test]
        fn any_history(bytes in prop::collection::vec(any::<u8>(), 0..3000)) {
            admin(&bytes);
        }
    }
}
