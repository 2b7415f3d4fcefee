//! Hosts, connections, the target and stores, all real but the wire.

use super::*;
use crate::connection;
use crate::testing::{self, Finished, HostConfig, Link, Memory, Transfer};
use std::collections::BTreeMap;
use storage_spec::nvme::command::NvmOpcode;

/// A node: one target, and a link for each connection.
struct Node {
    target: Target,
    links: BTreeMap<u64, Link>,
    now: Now,
}

impl Node {
    fn new() -> Self {
        let mut bench = Bench::new();
        let subsystem = nqn(SUBSYSTEM);
        for id in [1, 3] {
            bench.target.resize_namespace(&subsystem, NamespaceId(id), 1 << 20).unwrap();
        }
        Self { target: bench.target, links: BTreeMap::new(), now: bench.now }
    }

    fn open(&mut self, connection: u64, config: HostConfig) {
        let memory = Memory::new(&[0, 1 << 20, 0, 2 << 20]);
        let mut link = Link::new(config, connection::Config::default(), memory, &[]);
        link.hold_events = true;
        link.now = self.now;
        self.links.insert(connection, link);
        self.run();
    }

    /// Moves everything that can move.
    fn run(&mut self) {
        let context = ConnectionContext { port: PORT, local: "192.0.2.1".parse().unwrap() };
        loop {
            let mut moved = false;
            for (&id, link) in &mut self.links {
                link.now = self.now;
                link.run();
                if let Some(errors) = link.connection.take_errors() {
                    self.target.note_errors(ConnectionId(id), &errors);
                }
                for event in core::mem::take(&mut link.events) {
                    moved = true;
                    let slot = event.slot;
                    let reply = self.target.event(self.now, ConnectionId(id), context, event);
                    if let Some(reply) = reply {
                        link.connection.reply(slot, reply);
                    }
                }
            }
            while let Some(action) = self.target.take_action() {
                moved = true;
                self.act(action);
            }
            if !moved {
                return;
            }
        }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Reply(id, slot, reply) => {
                if let Some(link) = self.links.get_mut(&id.0) {
                    link.connection.reply(slot, reply);
                }
            }
            Action::SetNamespaces(id, namespaces) => {
                self.links.get_mut(&id.0).unwrap().connection.set_namespaces(namespaces);
            }
            Action::Abort { connection, command_id, token } => {
                let link = self.links.get_mut(&connection.0).unwrap();
                let aborted = link.connection.abort(command_id);
                self.target.abort_result(token, aborted);
            }
            Action::ProtectNamespace { token, .. } => self.target.protection_result(token, true),
            Action::Reserve { token, .. } => self.target.reservation_result(token, Ok(())),
            Action::Close(id) => self.close(id.0),
        }
    }

    fn close(&mut self, id: u64) {
        let mut link = self.links.remove(&id).unwrap();
        link.connection.close();
        while link.memory.pending() > 0 {
            link.complete(0);
        }
        assert_eq!(link.connection.outstanding(), 0);
        self.target.closed(self.now, ConnectionId(id));
    }

    fn execute(&mut self, id: u64, sqe: [u8; 64], transfer: Transfer) -> Finished {
        let host = &mut self.links.get_mut(&id).unwrap().host;
        let command_id = host.submit(zerocopy::transmute!(sqe), transfer);
        self.finish(id, command_id)
    }

    fn finish(&mut self, id: u64, command_id: u16) -> Finished {
        self.run();
        self.links.get_mut(&id).unwrap().host.finished(command_id).expect("it ends")
    }

    fn connect(&mut self, id: u64, queue: u16, controller: u16) -> Finished {
        let host = &mut self.links.get_mut(&id).unwrap().host;
        let command_id = host.connect(queue, controller, SUBSYSTEM, HOST);
        self.finish(id, command_id)
    }

    /// What a Linux host does to have a controller with one I/O queue: connections `base` and
    /// `base + 1`.
    fn bring_up(&mut self, base: u64, config: HostConfig) -> u16 {
        self.open(base, HostConfig { entries: 32, ..config });
        let connected = self.connect(base, 0, 0xFFFF);
        assert_eq!(connected.status, Status::SUCCESS);
        let id = connected.result as u16;
        for value in [CC_DISABLE, CC_ENABLE] {
            let set = property_set(PROPERTY_CC, 0, value.into());
            assert_eq!(self.execute(base, set, Transfer::None).status, Status::SUCCESS);
        }
        let csts = self.execute(base, property_get(PROPERTY_CSTS, 0), Transfer::None);
        assert_eq!(csts.result, 1);
        let identify = command(AdminOpcode::Identify.0, 0, 0, [1, 0, 0, 0, 0, 0]);
        let identified = self.execute(base, identify, Transfer::Read(4096)).data;
        assert_eq!(u16_at(&identified, 78), id);
        for (feature, value) in [(7, 0), (0x0B, 1 << 8 | 1 << 11)] {
            let set = command(AdminOpcode::SetFeatures.0, 0, 0, [feature, value, 0, 0, 0, 0]);
            assert_eq!(self.execute(base, set, Transfer::None).status, Status::SUCCESS);
        }
        self.open(base + 1, config);
        let connected = self.connect(base + 1, 1, id);
        assert_eq!((connected.status, connected.result as u16), (Status::SUCCESS, id));
        id
    }

    fn request_event(&mut self, id: u64) -> u16 {
        let sqe = command(AdminOpcode::AsyncEventRequest.0, 0, 0, [0; 6]);
        let host = &mut self.links.get_mut(&id).unwrap().host;
        let command_id = host.submit(zerocopy::transmute!(sqe), Transfer::None);
        self.run();
        command_id
    }

    fn io(&mut self, id: u64, opcode: NvmOpcode, lba: u64, transfer: Transfer) -> Finished {
        let io = testing::command(opcode, 3, lba, 1);
        self.execute(id, zerocopy::transmute!(io), transfer)
    }
}

fn configs() -> [HostConfig; 2] {
    let plain = HostConfig::default();
    let other = HostConfig {
        header_digest: true,
        data_digest: true,
        flow_control_disabled: false,
        ..plain
    };
    [plain, other]
}

#[test]
fn a_host_sees_a_namespace_grow_and_uses_what_was_added() {
    for config in configs() {
        let mut node = Node::new();
        node.bring_up(1, config);
        let block = vec![0xA5; 4096];
        let beyond = node.io(2, NvmOpcode::Write, 256, Transfer::Write(block.clone()));
        assert_eq!(beyond.status, Status::LBA_OUT_OF_RANGE.dnr());

        let event = node.request_event(1);
        node.target.resize_namespace(&nqn(SUBSYSTEM), NamespaceId(3), 2 << 20).unwrap();
        assert_eq!(node.finish(1, event).result, 0x0004_0002);
        let list = command(AdminOpcode::GetLogPage.0, 0, u32::MAX, [0x03FF_0004, 0, 0, 0, 0, 0]);
        let list = node.execute(1, list, Transfer::Read(4096)).data;
        assert_eq!([u32_at(&list, 0), u32_at(&list, 4)], [3, 0]);
        let identify = command(AdminOpcode::Identify.0, 0, 3, [0; 6]);
        let identified = node.execute(1, identify, Transfer::Read(4096)).data;
        assert_eq!(u64_at(&identified, 0), 512);

        let written = node.io(2, NvmOpcode::Write, 256, Transfer::Write(block.clone()));
        assert_eq!(written.status, Status::SUCCESS);
        let read = node.io(2, NvmOpcode::Read, 256, Transfer::Read(4096));
        assert_eq!((read.status, read.data), (Status::SUCCESS, block));
    }
}

#[test]
fn a_host_protects_a_namespace_and_takes_it_back() {
    let mut node = Node::new();
    node.bring_up(1, HostConfig::default());
    let write =
        |node: &mut Node| node.io(2, NvmOpcode::Write, 0, Transfer::Write(vec![7; 4096])).status;
    for (state, want) in [(1, Status::WRITE_PROTECTED.dnr()), (0, Status::SUCCESS)] {
        let set = command(AdminOpcode::SetFeatures.0, 0, 3, [0x84, state, 0, 0, 0, 0]);
        assert_eq!(node.execute(1, set, Transfer::None).status, Status::SUCCESS);
        assert_eq!(write(&mut node), want);
        assert_eq!(node.io(2, NvmOpcode::Flush, 0, Transfer::None).status, Status::SUCCESS);
    }
}

#[test]
fn errors_of_all_queues_are_in_the_log_over_a_reset() {
    let mut node = Node::new();
    node.bring_up(1, HostConfig::default());
    let beyond = node.io(2, NvmOpcode::Write, 256, Transfer::Write(vec![0; 4096]));
    let unequal = node.io(2, NvmOpcode::Compare, 5, Transfer::Write(vec![1; 4096]));
    let unknown = node.execute(1, command(0xC0, 0, 9, [0; 6]), Transfer::None);
    assert!(beyond.is_logged && unequal.is_logged && unknown.is_logged);
    for value in [CC_DISABLE, CC_ENABLE] {
        node.execute(1, property_set(PROPERTY_CC, 0, value.into()), Transfer::None);
    }
    let get = |page: u32| command(AdminOpcode::GetLogPage.0, 0, 0, [page, 0, 0, 0, 0, 0]);
    let log = node.execute(1, get(1 | 1023 << 16), Transfer::Read(4096)).data;
    let entry = |index: usize| {
        let entry = &log[index * 64..][..64];
        let status = Status::from(u16_at(entry, 12) >> 1);
        (u64_at(entry, 0), u16_at(entry, 8), status, u64_at(entry, 16), u32_at(entry, 24))
    };
    let more = |status: Status| status.with_more(true);
    assert_eq!(entry(0), (3, 0, more(Status::INVALID_OPCODE.dnr()), 0, 9));
    assert_eq!(entry(1), (2, 1, more(Status::COMPARE_FAILURE.dnr()), 5, 3));
    assert_eq!(entry(2), (1, 1, more(Status::LBA_OUT_OF_RANGE.dnr()), 256, 3));
    assert_eq!(log[3 * 64..], [0; 61 * 64]);
    let health = node.execute(1, get(2 | 127 << 16), Transfer::Read(512)).data;
    assert_eq!(u64_at(&health, 176), 3);
}

#[test]
fn a_reset_under_io_drains_it_and_a_new_queue_works() {
    let mut node = Node::new();
    let id = node.bring_up(1, HostConfig::default());
    let event = node.request_event(1);
    let link = node.links.get_mut(&2).unwrap();
    link.hold_blocks = true;
    for lba in 0..4 {
        let read = testing::command(NvmOpcode::Read, 3, lba, 1);
        link.host.submit(read, Transfer::Read(4096));
    }
    node.run();
    assert_eq!(node.links[&2].memory.pending(), 4);
    let set = property_set(PROPERTY_CC, 0, CC_DISABLE.into());
    assert_eq!(node.execute(1, set, Transfer::None).status, Status::SUCCESS);
    assert_eq!(node.finish(1, event).status, Status::ABORTED_SQ_DELETION);
    assert!(!node.links.contains_key(&2), "the I/O queue was closed");
    let csts = node.execute(1, property_get(PROPERTY_CSTS, 0), Transfer::None);
    assert_eq!(csts.result, 0);
    let set = property_set(PROPERTY_CC, 0, CC_ENABLE.into());
    node.execute(1, set, Transfer::None);
    node.open(3, HostConfig::default());
    assert_eq!(node.connect(3, 1, id).status, Status::SUCCESS);
    assert_eq!(node.io(3, NvmOpcode::Read, 0, Transfer::Read(4096)).status, Status::SUCCESS);
}

#[test]
fn an_abort_ends_a_command_that_has_not_begun_and_no_other() {
    let mut node = Node::new();
    node.bring_up(1, HostConfig::default());
    let link = node.links.get_mut(&2).unwrap();
    link.host.hold_r2ts = true;
    link.hold_blocks = true;
    let write = testing::command(NvmOpcode::Write, 3, 0, 1);
    let waiting = link.host.submit(write, Transfer::WriteByR2t(vec![1; 4096]));
    let read = testing::command(NvmOpcode::Read, 3, 0, 1);
    let begun = link.host.submit(read, Transfer::Read(4096));
    node.run();
    for (command_id, not_aborted) in [(waiting, 0), (begun, 1), (999, 1)] {
        let dword_10 = 1 | u32::from(command_id) << 16;
        let abort = command(AdminOpcode::Abort.0, 0, 0, [dword_10, 0, 0, 0, 0, 0]);
        let aborted = node.execute(1, abort, Transfer::None);
        assert_eq!((aborted.status, aborted.result), (Status::SUCCESS, not_aborted));
    }
    let link = node.links.get_mut(&2).unwrap();
    link.hold_blocks = false;
    link.host.hold_r2ts = false;
    link.host.answer_r2ts();
    assert_eq!(node.finish(2, begun).status, Status::SUCCESS);
    assert_eq!(node.finish(2, waiting).status, Status::ABORT_REQUESTED);
}

#[test]
fn a_silent_host_is_closed_and_its_busy_neighbour_is_not() {
    let mut node = Node::new();
    node.bring_up(1, HostConfig::default());
    node.bring_up(11, HostConfig::default());
    for _ in 0..40 {
        node.now += Duration::from_millis(500);
        node.io(12, NvmOpcode::Read, 0, Transfer::Read(4096));
        if node.target.deadline().is_some_and(|deadline| deadline <= node.now) {
            node.target.on_deadline(node.now);
        }
        node.run();
    }
    let left: Vec<_> = node.links.keys().copied().collect();
    assert_eq!(left, [11, 12], "traffic on the I/O queue alone keeps a controller alive");
    assert_eq!(node.target.controller_count(), 1);
}

#[test]
fn a_host_that_is_denied_is_cut_off() {
    let mut node = Node::new();
    node.bring_up(1, HostConfig::default());
    node.target.set_allow_any(&nqn(SUBSYSTEM), false).unwrap();
    node.run();
    assert!(node.links.is_empty());
    node.open(5, HostConfig { entries: 32, ..HostConfig::default() });
    let refused = node.connect(5, 0, 0xFFFF);
    assert_eq!(refused.status, Status::CONNECT_INVALID_HOST);
    node.target.allow_host(&nqn(SUBSYSTEM), nqn(HOST)).unwrap();
    assert_eq!(node.connect(5, 0, 0xFFFF).status, Status::SUCCESS);
}
