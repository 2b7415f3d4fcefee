//! Control without cores: its orders are carried out here, or fail as the test says.

mod admission;
mod exports;
mod reservations;

use super::*;
use crate::frontend::ProtocolKind;
use crate::net::ListenerId;
use crate::node::commands::{Call, VOLUMES_MAX};
use crate::node::control::{ControlParts, DiskState};
use crate::node::hosts::HOSTS_MAX;
use crate::node::record::Record;
use crate::node::{
    Command, DiskConfig, DiskSource, EventLog, NodeConfig, PortalConfig, Registry, iscsi, target,
};
use crate::store::VolumeId;
use crate::volume::ShardAddress;
use crossbeam_channel::{Receiver, unbounded};
use nvmeof_target::seam::{ConnectionId, Event, Reply, Slot};
use nvmeof_target::target::{NamespaceConfig, NamespaceId, Nqn};
use std::net::SocketAddr;
use std::time::Duration;

const CORES: u16 = 2;
const DISKS: usize = 2;
const SIZE: u64 = 1 << 20;

type Catalogue = BTreeMap<Vec<u8>, Vec<u8>>;

struct Bench {
    control: Control,
    catalogues: [Catalogue; DISKS],
    /// What changes of each disk end with.
    failures: [Option<store::Error>; DISKS],
    /// Answers are kept back while this is set.
    is_held: bool,
    held: Vec<Message>,
    /// Answers to hosts that came later.
    replies: Vec<(ConnectionId, Reply)>,
    dropped: Vec<(usize, VolumeId)>,
    settled: u16,
    /// What cores find next when they mount, by core.
    landing: Vec<Vec<Landed>>,
}

impl Bench {
    fn new() -> Self {
        Self::with([Catalogue::new(), Catalogue::new()])
    }

    /// A node that has started on these catalogues.
    fn with(catalogues: [Catalogue; DISKS]) -> Self {
        let mut bench = Self::starting(catalogues);
        bench.run();
        bench
    }

    /// A node whose cores know nothing yet.
    fn starting(catalogues: [Catalogue; DISKS]) -> Self {
        let listen = SocketAddr::from(([127, 0, 0, 1], 4420));
        let ram = DiskSource::Ram { size: 0, shards: 1 };
        let config = NodeConfig {
            name: "test".into(),
            nqn: "nqn.2026-11.io.basalt:test".into(),
            iqn: "iqn.2026-11.io.basalt:test".into(),
            cores: vec![0, 1],
            poll: true,
            no_iommu: false,
            buffers_per_core: 0,
            metadata_cache: 0,
            disks: vec![DiskConfig {
                source: ram,
                journal: None,
                zero_on_free: false,
                passthrough: false,
            }],
            portals: vec![PortalConfig {
                protocol: Default::default(),
                listen,
                advertise: None,
                discovery_only: false,
            }],
            max_connections: 8,
        };
        let (target, subsystem) = target(&config, &[listen], 1).unwrap();
        let disk = |number: usize| DiskState {
            path: format!("disk-{number}"),
            uuid: Some(Uuid::from_u128(number as u128 + 1)),
            mode: Some("intent"),
            shards: (0..CORES).map(|core| ShardAddress { core, shard: number as u16 }).collect(),
            offline: None,
        };
        let iscsi = iscsi(&config, &[listen], Box::new(|bytes| bytes.fill(7))).unwrap();
        let mut control = Control::new(ControlParts {
            target,
            subsystem,
            iscsi,
            listeners: HashMap::new(),
            disks: (0..DISKS).map(disk).collect(),
            cores: CORES,
            connections_max: 8,
            inbox: unbounded().1,
            events: EventLog::new(|| 0),
            registry: Registry::default(),
        });
        let entries = catalogues.iter().enumerate().flat_map(|(disk, entries)| {
            let decode = |(key, value): (&Vec<u8>, &Vec<u8>)| Record::decode(key, value).unwrap();
            entries.iter().map(decode).map(move |record| (disk, record))
        });
        control.load(entries.collect());
        Self {
            control,
            catalogues,
            failures: [None; DISKS],
            is_held: false,
            held: Vec::new(),
            replies: Vec::new(),
            dropped: Vec::new(),
            settled: 0,
            landing: Vec::new(),
        }
    }

    fn restart(self) -> Self {
        Self::with(self.catalogues)
    }

    /// Carries out orders until there are none.
    fn run(&mut self) {
        loop {
            while let Some((_, message)) = self.control.take_order() {
                let answer = self.carry_out(message);
                self.held.extend(answer);
            }
            if self.is_held || self.held.is_empty() {
                return;
            }
            for answer in std::mem::take(&mut self.held) {
                self.control.on_message(answer, Duration::ZERO);
            }
        }
    }

    fn carry_out(&mut self, message: Message) -> Option<Message> {
        match message {
            Message::Command { shard, token, command } => {
                let disk = usize::from(shard);
                let result = self.failures[disk].map_or(Ok(()), Err);
                let catalogue = &mut self.catalogues[disk];
                let mut reply = ShardReply::Changed(result);
                match command {
                    ShardCommand::Usage(_) => reply = ShardReply::Usage(100),
                    _ if result.is_err() => {}
                    ShardCommand::Put { key, value } => drop(catalogue.insert(key, value)),
                    ShardCommand::Delete { key } => drop(catalogue.remove(&key)),
                    ShardCommand::Drop(id) => self.dropped.push((disk, id)),
                }
                Some(Message::Shard { token, reply })
            }
            Message::SetRoute { token, .. } => {
                Some(Message::Shard { token, reply: ShardReply::Changed(Ok(())) })
            }
            Message::Ping { token }
            | Message::Retire { token, .. }
            | Message::Release { token, .. } => {
                Some(Message::Shard { token, reply: ShardReply::Changed(Ok(())) })
            }
            Message::Arrive { token, .. } => Some(self.land(token)),
            Message::Serve { disk } => {
                self.failures[disk] = None;
                None
            }
            Message::Quiesce => Some(Message::Quiet),
            Message::Settle => {
                self.settled += 1;
                Some(Message::Settled { clean: true })
            }
            Message::Stop => None,
            Message::SetNamespaces(..) => Some(Message::NamespacesSet),
            Message::Drain { token, .. } => Some(Message::Drained { token }),
            Message::Reply { connection, reply, .. } => {
                self.replies.push((connection, reply));
                None
            }
            _ => unreachable!("no connection closes"),
        }
    }

    fn begin(&mut self, command: Command) -> Receiver<Outcome> {
        let (answer, answers) = unbounded();
        self.control.start(Call::Command(command, answer));
        self.run();
        answers
    }

    fn call(&mut self, command: Command) -> Outcome {
        self.begin(command).try_recv().expect("an answer")
    }

    fn release(&mut self) {
        self.is_held = false;
        self.run();
    }

    fn names(&self) -> Vec<&str> {
        self.control.jobs.volumes.keys().map(String::as_str).collect()
    }

    /// Namespaces that hosts see, by a change that changes nothing.
    fn seen(&mut self, name: &str) -> bool {
        let record = &self.control.jobs.volumes[name].record;
        let (id, size) = (NamespaceId(record.nsid), record.size);
        let subsystem = self.control.subsystem.clone();
        self.control.target.resize_namespace(&subsystem, id, size).is_ok()
    }

    fn admits(&self, host: &str) -> bool {
        let hosts = self.control.target.hosts(&self.control.subsystem).unwrap();
        hosts.admits(&Nqn::new(host).unwrap())
    }

    fn has_event(&self, kind: &str, part: &str) -> bool {
        let events = self.control.events.since(0);
        events.iter().any(|event| event.kind == kind && event.text.contains(part))
    }

    fn fail(&mut self, disk: usize) {
        self.failures[disk] = Some(store::Error::Failed);
    }
}

fn create(name: &str, uuid: u128) -> Command {
    create_on(name, uuid, 0)
}

fn create_on(name: &str, uuid: u128, disk: usize) -> Command {
    Command::CreateVolume {
        name: name.into(),
        size: SIZE,
        block_size: 4096,
        uuid: Uuid::from_u128(uuid),
        disk: Some(format!("disk-{disk}")),
    }
}

fn delete(name: &str) -> Command {
    Command::DeleteVolume { name: name.into() }
}

fn resize(name: &str, size: u64) -> Command {
    Command::ResizeVolume { name: name.into(), size }
}

fn rename(name: &str, to: &str) -> Command {
    Command::RenameVolume { name: name.into(), to: to.into() }
}

fn allow(nqn: &str) -> Command {
    Command::AllowHost { nqn: nqn.into() }
}

fn deny(nqn: &str) -> Command {
    Command::DenyHost { nqn: nqn.into() }
}

fn record(name: &str, uuid: u128, nsid: u32) -> VolumeRecord {
    let uuid = Uuid::from_u128(uuid);
    VolumeRecord {
        name: name.into(),
        uuid,
        size: SIZE,
        block_size: 512,
        nsid,
        is_deleting: false,
        is_protected: false,
        exports: Exports::default(),
    }
}

fn catalogue(records: &[VolumeRecord]) -> Catalogue {
    records.iter().map(|record| (record.key(), record.encode())).collect()
}

#[track_caller]
fn assert_text(outcome: &Outcome, part: &str) {
    let text = outcome.as_ref().expect_err("refused").to_string();
    assert!(text.contains(part), "{text}");
}

#[test]
fn a_volume_lives_and_dies() {
    let mut bench = Bench::new();
    bench.call(create("a", 1)).unwrap();
    assert!(bench.seen("a"));
    let Ok(Answer::Volume(info)) = bench.call(resize("a", 2 * SIZE)) else { panic!() };
    assert_eq!(info.size, 2 * SIZE);
    assert_text(&bench.call(resize("a", SIZE)), "smaller");
    bench.call(rename("a", "b")).unwrap();
    let mut bench = bench.restart();
    let Ok(Answer::Volume(info)) = bench.call(Command::ShowVolume { name: "b".into() }) else {
        panic!()
    };
    assert_eq!((info.size, info.used, info.nsid), (2 * SIZE, 200, 1));
    bench.call(delete("b")).unwrap();
    assert_eq!(bench.dropped, [(0, VolumeId(1)), (0, VolumeId(1))], "of both shards");
    assert!(bench.catalogues[0].is_empty() && bench.names().is_empty());
    assert_text(&bench.call(delete("b")), "no volume b");
}

/// A host's admin queue, which is connection 1, and an I/O queue, which is 2.
impl Bench {
    /// Sends a command; `None` if it is answered later.
    fn send(&mut self, sqe: [u8; 64], data: Vec<u8>) -> Option<Reply> {
        self.send_on(ConnectionId(1), sqe, data)
    }

    fn send_on(&mut self, id: ConnectionId, sqe: [u8; 64], data: Vec<u8>) -> Option<Reply> {
        let event = Event { slot: Slot(0), sqe, data };
        let reply = self.control.event(Duration::ZERO, id, event);
        if let Some(role) = reply.as_ref().and_then(|reply| reply.role.as_ref()) {
            self.control.place(id, role);
        }
        self.control.poll(Duration::ZERO);
        self.run();
        self.control.poll(Duration::ZERO);
        reply
    }

    /// Connects and enables a controller: its number.
    fn connect(&mut self) -> u16 {
        self.control.poll(Duration::ZERO);
        let controller = self.connect_queue(0, 0xFFFF);
        let enable = sqe(0x7F, 0, &[(44, 0x14), (48, 0x0046_0061)]);
        assert_eq!(self.send(enable, Vec::new()).unwrap().status, 0);
        controller
    }

    /// Connects a queue of a controller; the controller.
    fn connect_queue(&mut self, queue: u32, controller: u16) -> u16 {
        self.control.listeners.insert(ListenerId(0), (1, ProtocolKind::Nvme));
        let address = SocketAddr::from(([127, 0, 0, 1], 4420));
        let accepted = self.control.accept(ListenerId(0), address, address);
        let (id, _) = accepted.expect("room");
        let mut data = vec![0; 1024];
        data[..16].fill(9);
        data[16..18].copy_from_slice(&controller.to_le_bytes());
        let subsystem = self.control.subsystem.to_string();
        data[256..256 + subsystem.len()].copy_from_slice(subsystem.as_bytes());
        data[512..517].copy_from_slice(b"nqn.h");
        let connect = sqe(0x7F, 1, &[(40, queue << 16), (44, 31)]);
        let reply = self.send_on(id, connect, data).unwrap();
        assert_eq!(reply.status, 0);
        reply.result as u16
    }

    /// Write protection of namespace 1 by feature 84h.
    fn is_protected(&mut self) -> bool {
        self.send(sqe(0x0A, 1, &[(40, 0x84)]), Vec::new()).unwrap().result == 1
    }

    fn protect(&mut self, state: u32) {
        let reply = self.send(sqe(0x09, 1, &[(40, 0x84), (44, state)]), Vec::new());
        assert!(reply.is_none(), "kept first");
    }
}

/// A command with these dwords at these offsets.
fn sqe(opcode: u8, nsid: u32, fields: &[(usize, u32)]) -> [u8; 64] {
    let mut sqe = [0; 64];
    sqe[0] = opcode;
    for &(offset, value) in [(4, nsid)].iter().chain(fields) {
        sqe[offset..offset + 4].copy_from_slice(&value.to_le_bytes());
    }
    sqe
}

#[test]
fn protection_by_a_host_outlasts_a_restart() {
    let mut bench = Bench::new();
    bench.call(create("a", 1)).unwrap();
    bench.call(allow("nqn.h")).unwrap();
    bench.connect();
    bench.fail(0);
    bench.protect(1);
    assert!(!bench.is_protected(), "the disk did not keep it");
    bench.failures[0] = None;
    bench.protect(1);
    assert!(bench.is_protected() && bench.has_event("volume.protected", "a"));
    let is_shown = |bench: &mut Bench| match bench.call(Command::ShowVolume { name: "a".into() }) {
        Ok(Answer::Volume(volume)) => volume.write_protected,
        other => panic!("no volume: {other:?}"),
    };
    assert!(is_shown(&mut bench));
    let mut bench = bench.restart();
    bench.connect();
    assert!(bench.is_protected());
    bench.protect(0);
    assert!(!bench.is_protected() && bench.has_event("volume.unprotected", "a"));
    assert!(!is_shown(&mut bench));
    // Not while the volume is being changed.
    bench.is_held = true;
    let resized = bench.begin(resize("a", 2 * SIZE));
    bench.protect(1);
    bench.release();
    resized.try_recv().unwrap().unwrap();
    assert!(!bench.is_protected());
    bench.call(resize("a", 3 * SIZE)).unwrap();
}

#[test]
fn no_host_reads_a_size_that_its_queues_do_not_know() {
    let mut bench = Bench::new();
    bench.call(create("a", 1)).unwrap();
    bench.call(allow("nqn.h")).unwrap();
    let controller = bench.connect();
    bench.connect_queue(1, controller);
    bench.is_held = true;
    let resized = bench.begin(resize("a", 2 * SIZE));
    for answer in std::mem::take(&mut bench.held) {
        bench.control.on_message(answer, Duration::ZERO);
    }
    resized.try_recv().unwrap().unwrap();
    let identify = sqe(0x06, 1, &[(32, 4096), (36, 0x5A00_0000)]);
    assert!(bench.send(identify, Vec::new()).is_none(), "the queue does not know it yet");
    bench.release();
    bench.control.poll(Duration::ZERO);
    bench.run();
    let (id, reply) = bench.replies.pop().expect("the answer");
    assert_eq!((id, reply.status), (ConnectionId(1), 0));
    assert_eq!(reply.data[..8], (2 * SIZE / 4096).to_le_bytes());
    assert!(bench.send(identify, Vec::new()).is_some());
}

#[test]
fn strangers_of_one_address_leave_room_for_others() {
    let mut bench = Bench::new();
    bench.control.listeners.insert(ListenerId(0), (1, ProtocolKind::Nvme));
    bench.control.connections_max = 256;
    let accept = |bench: &mut Bench, peer: &str| {
        let local = SocketAddr::from(([127, 0, 0, 1], 4420));
        let peer = SocketAddr::new(peer.parse().unwrap(), 1000);
        bench.control.accept(ListenerId(0), peer, local).map(|(id, _)| id)
    };
    let strangers: Vec<_> =
        (0..32).map(|_| accept(&mut bench, "192.0.2.1").expect("room")).collect();
    assert_eq!(accept(&mut bench, "192.0.2.1"), None);
    assert_eq!(accept(&mut bench, "::ffff:192.0.2.1"), None, "the same");
    accept(&mut bench, "192.0.2.2").expect("another");
    bench.control.closed(Duration::ZERO, strangers[0]);
    accept(&mut bench, "192.0.2.1").expect("one has gone");
    for host in 0..32 {
        accept(&mut bench, &format!("2001:db8::{host}")).expect("room");
    }
    assert_eq!(accept(&mut bench, "2001:db8::ffff"), None, "of the same subnet");
    accept(&mut bench, "2001:db8:0:1::1").expect("another");
}

#[test]
fn a_uuid_or_its_half_is_used_once() {
    let mut bench = Bench::new();
    bench.call(create("a", 5)).unwrap();
    let before = bench.catalogues.clone();
    for disk in 0..DISKS {
        for uuid in [5, 5 | 1 << 100] {
            assert_text(&bench.call(create_on("b", uuid, disk)), "volume a has UUID");
        }
    }
    assert_text(&bench.call(create("b", 0)), "not nil");
    assert_eq!(bench.catalogues, before);
    assert_eq!(bench.names(), ["a"]);
    bench.call(create("b", 6)).unwrap();
}

#[test]
fn a_creation_that_fails_leaves_nothing() {
    let mut bench = Bench::new();
    bench.failures[0] = Some(store::Error::Full);
    let outcome = bench.call(create("a", 1));
    assert_text(&outcome, "disk disk-0 is full: delete or trim volumes, or add a disk");
    assert!(bench.names().is_empty());
    bench.failures[0] = None;
    // The target has this namespace already, which control does not know.
    let subsystem = bench.control.subsystem.clone();
    let namespace = NamespaceConfig {
        id: NamespaceId(1),
        volume: VolumeIndex(77),
        uuid: [9; 16],
        capacity: SIZE,
        block_shift: 12,
        read_only: false,
        name: "stranger".into(),
    };
    bench.control.target.add_namespace(&subsystem, namespace).unwrap();
    assert_text(&bench.call(create("a", 1)), "was not created");
    assert!(bench.names().is_empty() && bench.catalogues[0].is_empty());
    assert!(!bench.has_event("volume.deleted", "a"));
    bench.control.target.remove_namespace(&subsystem, NamespaceId(1)).unwrap();
    bench.call(create("a", 1)).unwrap();
    assert!(bench.seen("a"));
}

#[test]
fn a_name_is_taken_once_while_a_rename_is_under_way() {
    let mut bench = Bench::new();
    bench.call(create("a", 1)).unwrap();
    bench.call(create("b", 2)).unwrap();
    bench.is_held = true;
    let renamed = bench.begin(rename("a", "new"));
    assert_text(&bench.call(rename("b", "new")), "is being renamed to new");
    assert_text(&bench.call(create("new", 3)), "is being renamed to new");
    assert_text(&bench.call(create("a", 3)), "exists already");
    assert_text(&bench.call(delete("a")), "try again in a moment");
    bench.release();
    renamed.try_recv().unwrap().unwrap();
    assert_eq!(bench.names(), ["b", "new"]);
    bench.fail(0);
    assert_text(&bench.call(rename("b", "c")), "disk disk-0 has failed: replace it");
    bench.failures[0] = None;
    bench.call(rename("b", "c")).unwrap();
    assert_eq!(bench.restart().names(), ["c", "new"]);
}

#[test]
fn a_deletion_that_failed_can_only_be_repeated() {
    let mut bench = Bench::new();
    bench.call(create("a", 1)).unwrap();
    bench.fail(0);
    assert_text(&bench.call(delete("a")), "has failed");
    assert!(bench.has_event("volume.failed", "disk-0"));
    bench.failures[0] = None;
    for command in [resize("a", 2 * SIZE), rename("a", "b")] {
        assert_text(&bench.call(command), "its deletion is unfinished: delete it again");
    }
    assert!(!bench.seen("a"));
    bench.call(delete("a")).unwrap();
    assert!(bench.names().is_empty() && bench.catalogues[0].is_empty());
}

#[test]
fn a_deletion_goes_on_after_a_restart() {
    let deleting = VolumeRecord { is_deleting: true, ..record("a", 1, 1) };
    let bench = Bench::with([catalogue(&[deleting]), Catalogue::new()]);
    assert!(bench.names().is_empty() && bench.catalogues[0].is_empty());
    assert_eq!(bench.dropped.len(), 2);
}

#[test]
fn a_namespace_that_the_target_lost_is_told_not_asserted() {
    let mut bench = Bench::new();
    bench.call(create("a", 1)).unwrap();
    let subsystem = bench.control.subsystem.clone();
    bench.control.target.remove_namespace(&subsystem, NamespaceId(1)).unwrap();
    assert_text(&bench.call(resize("a", 2 * SIZE)), "before the node restarts");
    assert_text(&bench.call(rename("a", "b")), "before the node restarts");
    assert_eq!(bench.names(), ["b"]);
    bench.call(delete("b")).unwrap();
    assert!(bench.has_event("volume.refused", "has lost its namespace"));
}

#[test]
fn disks_of_different_origin_are_served_together() {
    let long = "x".repeat(63);
    let second = [record("a", 2, 1), record(&long, 3, 2), record("a-2", 4, 9), record("z", 5, 0)];
    let mut bench =
        Bench::with([catalogue(&[record("a", 1, 1), record(&long, 6, 3)]), catalogue(&second)]);
    let cut = format!("{}-2", &long[..61]);
    assert_eq!(bench.names(), ["a", "a-2", "a-3", cut.as_str(), long.as_str(), "z"]);
    let ids: BTreeMap<_, _> = bench
        .control
        .jobs
        .volumes
        .iter()
        .map(|(name, volume)| (name.as_str(), (volume.disk, volume.record.nsid)))
        .collect();
    let (a, third, z) = (ids["a"], ids["a-3"], ids["z"]);
    assert_eq!((a, ids["a-2"], ids[&*cut]), ((0, 1), (1, 9), (1, 2)));
    // Neither takes a number that another volume has.
    assert_eq!((third, z), ((1, 4), (1, 5)));
    for name in ["a", "a-2", "a-3", &cut, &long, "z"] {
        assert!(bench.seen(name));
    }
    assert!(bench.has_event("volume.renamed", "the one on disk disk-1 is called a-3 for now"));
    // A new name is durable, and so is what became of its number.
    bench.call(rename("a-3", "mine")).unwrap();
    let mut bench = bench.restart();
    assert_eq!(bench.control.jobs.volumes["mine"].record.nsid, 4);
    bench.call(delete("mine")).unwrap();
    assert!(bench.catalogues[0].len() == 2 && bench.catalogues[1].len() == 3);
}

#[test]
fn twins_are_not_shown_and_can_be_deleted() {
    let twin = [record("a", 1, 1)];
    let mut bench = Bench::with([catalogue(&twin), catalogue(&twin)]);
    assert_eq!(bench.names(), ["a", "a-2"]);
    assert!(bench.seen("a") && !bench.seen("a-2"));
    assert!(bench.has_event("volume.offline", "the same UUID as volume a on disk disk-0"));
    bench.call(rename("a-2", "copy")).unwrap();
    bench.call(delete("copy")).unwrap();
    assert_eq!(bench.dropped, [(1, VolumeId(1)), (1, VolumeId(1))]);
    assert!(bench.seen("a") && bench.catalogues[1].is_empty());
    assert_eq!(bench.catalogues[0], catalogue(&twin));
}

#[test]
fn volumes_that_would_share_data_are_not_served_together() {
    let dying = VolumeRecord { is_deleting: true, ..record("dying", 1, 2) };
    let same = record("same", 1 | 1 << 100, 1);
    let mut bench = Bench::with([catalogue(&[dying, same]), Catalogue::new()]);
    assert_eq!(bench.names(), ["same"]);
    assert!(bench.dropped.is_empty(), "the deletion would have freed what the other has");
    assert!(bench.has_event("volume.offline", "volume dying on disk disk-0 has the same id"));
    assert_eq!(bench.catalogues[0].len(), 2);
    bench.call(delete("same")).unwrap();
    assert_text(&bench.call(create("new", 1)), "is not served");
}

#[test]
fn more_than_can_be_is_left_alone() {
    let many = |disk: u128| -> Vec<_> {
        let uuid = |number| disk << 32 | number;
        (1..=600).map(|n| record(&format!("v{disk}-{n}"), uuid(n), n as u32)).collect()
    };
    let mut catalogues = [catalogue(&many(1)), catalogue(&many(2))];
    for number in 0..HOSTS_MAX as u64 + 3 {
        let nqn = format!("nqn.host:{number}");
        catalogues[0].insert(Record::host_key(number), nqn.into_bytes());
    }
    let mut bench = Bench::with(catalogues);
    assert_eq!(bench.names().len(), VOLUMES_MAX);
    assert!(bench.has_event("volume.offline", "hold 176 volumes beyond"));
    assert!(bench.has_event("host.refused", "3 hosts beyond"));
    assert_text(&bench.call(create("one-more", 7)), "delete one first");
    let unserved = 2 << 32 | 600;
    assert_text(&bench.call(create("one-more", unserved)), "is not served");
    assert_text(&bench.call(allow("nqn.more")), "deny one first");
}

#[test]
fn hosts_come_and_go() {
    let mut bench = Bench::new();
    bench.call(allow("nqn.a")).unwrap();
    assert!(bench.admits("nqn.a"));
    let before = bench.catalogues.clone();
    bench.call(allow("nqn.a")).unwrap();
    assert_eq!(bench.catalogues, before, "allowed already: nothing to do");
    assert_eq!((before[0].len(), before[1].len()), (1, 1));
    bench.call(allow("*")).unwrap();
    assert!(bench.admits("nqn.b"));
    let mut bench = bench.restart();
    bench.call(deny("*")).unwrap();
    assert!(bench.admits("nqn.a") && !bench.admits("nqn.b"));
    bench.call(deny("nqn.a")).unwrap();
    assert_text(&bench.call(deny("nqn.a")), "is not on the list");
    assert!(bench.catalogues.iter().all(Catalogue::is_empty));
    assert_text(&bench.call(allow("host")), "/etc/nvme/hostnqn");
}

#[test]
fn a_host_is_denied_though_a_disk_has_failed() {
    let mut bench = Bench::new();
    bench.call(allow("nqn.a")).unwrap();
    bench.call(allow("nqn.b")).unwrap();
    bench.fail(1);
    bench.is_held = true;
    let denied = bench.begin(deny("nqn.a"));
    assert!(!bench.admits("nqn.a"), "at once");
    assert_text(&bench.call(allow("nqn.a")), "try again in a moment");
    assert_text(&bench.call(deny("nqn.a")), "try again in a moment");
    bench.release();
    denied.try_recv().unwrap().unwrap();
    assert!(bench.has_event("host.denied", "disk disk-1 has failed"));
    assert_eq!((bench.catalogues[0].len(), bench.catalogues[1].len()), (1, 2));
    bench.call(allow("nqn.c")).unwrap();
    assert!(bench.has_event("host.allowed", "disk disk-1 has failed"));
    bench.fail(0);
    assert_text(&bench.call(deny("nqn.b")), "only until the node restarts");
    assert!(!bench.admits("nqn.b"));
    assert_text(&bench.call(allow("nqn.d")), "disk disk-0 has failed");
    assert!(!bench.admits("nqn.d"));
    // What the failed disk still says is denied for good after a restart.
    let mut bench = bench.restart();
    assert!(bench.admits("nqn.a"));
    bench.call(deny("nqn.a")).unwrap();
    assert!(!bench.restart().admits("nqn.a"));
}

#[test]
fn a_host_is_allowed_by_one_job_at_a_time_and_denied_by_every_number() {
    let mut bench = Bench::new();
    bench.is_held = true;
    let allowed = bench.begin(allow("nqn.a"));
    assert_text(&bench.call(allow("nqn.a")), "try again in a moment");
    bench.release();
    allowed.try_recv().unwrap().unwrap();
    assert_eq!(bench.catalogues[0].len(), 1);
    // Other numbers, of other nodes; and the same number for another host on another disk.
    bench.catalogues[0].insert(Record::host_key(7), b"nqn.a".to_vec());
    bench.catalogues[1].insert(Record::host_key(9), b"nqn.a".to_vec());
    bench.catalogues[1].insert(Record::host_key(7), b"nqn.b".to_vec());
    let mut bench = bench.restart();
    bench.call(deny("nqn.a")).unwrap();
    assert!(bench.catalogues[0].is_empty());
    let mut bench = bench.restart();
    assert!(!bench.admits("nqn.a") && bench.admits("nqn.b"));
    bench.call(allow("nqn.c")).unwrap();
    assert!(bench.catalogues[0].contains_key(&Record::host_key(8)), "a number not in use");
}

#[test]
fn a_volume_that_is_loading_is_not_changed() {
    let mut bench = Bench::starting([catalogue(&[record("a", 1, 1)]), Catalogue::new()]);
    assert!(bench.control.is_loading());
    bench.is_held = true;
    assert_text(&bench.call(delete("a")), "try again");
    bench.release();
    assert!(!bench.control.is_loading() && bench.seen("a"));
    let Ok(Answer::Volumes(list)) = bench.call(Command::ListVolumes) else { panic!() };
    assert_eq!((list.len(), list[0].used), (1, 200));
}

#[test]
fn shards_settle_when_no_command_is_under_way() {
    let mut bench = Bench::new();
    bench.is_held = true;
    let created = bench.begin(create("a", 1));
    let (answer, answers) = unbounded();
    bench.control.start(Call::Shutdown(answer));
    bench.is_held = false;
    // The cores are quiet before the record is durable.
    let late = std::mem::take(&mut bench.held);
    bench.run();
    assert_eq!(bench.settled, 0);
    assert_text(&bench.call(create("b", 2)), "the node is stopping");
    bench.held = late;
    bench.run();
    created.try_recv().unwrap().unwrap();
    assert_eq!(bench.settled, CORES);
    answers.try_recv().unwrap().unwrap();
}

#[test]
fn nothing_is_asked_of_a_disk_that_is_offline() {
    let mut bench = Bench::new();
    bench.control.disks[0].offline = Some("unplugged".into());
    bench.control.disks[0].shards = Arc::from([]);
    let Err(CommandError::Disk(text)) = bench.call(create_on("v", 1, 0)) else { panic!("taken") };
    assert!(text.contains("disk-0") && text.contains("unplugged"), "{text}");
    let Command::CreateVolume { name, size, block_size, uuid, .. } = create("v", 1) else {
        unreachable!()
    };
    let anywhere = Command::CreateVolume { name, size, block_size, uuid, disk: None };
    let Ok(Answer::Volume(volume)) = bench.call(anywhere) else { panic!("no volume") };
    assert_eq!(volume.disk, "disk-1");
    let host = "nqn.2026-11.io.basalt:host";
    bench.call(Command::AllowHost { nqn: host.into() }).unwrap();
    assert!(bench.admits(host) && bench.catalogues[0].is_empty());
    bench.call(Command::DenyHost { nqn: host.into() }).unwrap();
    assert!(bench.has_event("host.denied", "disk-0 is offline"), "it may still allow the host");
    let missing = bench.call(Command::ShowVolume { name: "w".into() });
    let Err(CommandError::NotFound(text)) = missing else { panic!("found") };
    assert!(text.contains("disk-0"), "{text}");
    let Ok(Answer::Disks(disks)) = bench.call(Command::ListDisks) else { panic!("no list") };
    assert_eq!((disks[0].state.as_str(), disks[1].state.as_str()), ("offline", "ok"));
    assert_eq!(disks[0].reason.as_deref(), Some("unplugged"));
}

#[test]
fn one_core_that_does_not_answer_keeps_a_ping_waiting() {
    let mut bench = Bench::new();
    bench.call(Command::Ping).unwrap();
    bench.is_held = true;
    let answers = bench.begin(Command::Ping);
    let last = bench.held.pop().unwrap();
    let others = std::mem::take(&mut bench.held);
    assert_eq!(others.len(), usize::from(CORES) - 1);
    others.into_iter().for_each(|answer| bench.control.on_message(answer, Duration::ZERO));
    assert!(answers.try_recv().is_err());
    bench.control.on_message(last, Duration::ZERO);
    assert!(answers.try_recv().unwrap().is_ok());
}
