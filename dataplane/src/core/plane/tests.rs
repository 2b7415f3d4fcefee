use super::*;
use crate::core::{Arrival, mesh};
use crate::disk::ram::RamDisk;
use crate::disk::{self, Disk, Info, Op, Shared, Tag};
use crate::dma::Arena;
use crate::frontend::ProtocolConfig;
use crate::net::{Handoff, ListenerId, Rx, SocketId, Tx};
use crate::store::{self, ChunkKey, Extent, FormatOptions, OpenOptions, Request, Shard, VolumeId};
use crate::uring::{Ring, Waker};
use nvmeof_target::io::VolumeIndex;
use std::cell::Cell;
use std::net::SocketAddr;
use uuid::Uuid;

/// No sockets at all.
struct Deaf;

impl Net for Deaf {
    fn listen(&mut self, _: SocketAddr) -> std::io::Result<(ListenerId, SocketAddr)> {
        Err(std::io::ErrorKind::Unsupported.into())
    }
    fn unlisten(&mut self, _: ListenerId) {}
    fn receive(&mut self, _: SocketId, _: Rx) {}
    fn send(&mut self, _: SocketId, _: Tx) {}
    fn taken(&mut self, _: SocketId) -> u64 {
        0
    }
    fn shutdown(&mut self, _: SocketId) {}
    fn close(&mut self, _: SocketId) {}
    fn release(&mut self, _: SocketId) -> Handoff {
        Handoff::Simulated(0)
    }
    fn adopt(&mut self, _: Handoff) -> SocketId {
        unreachable!("no sockets")
    }
    fn poll(&mut self, _: &mut Vec<NetEvent>) {}
}

/// A core without control.
fn core(links: Links, pool: Rc<Pool>, shards: Vec<Shard>) -> Core {
    let seat = |shard| ShardSeat { disk: 0, path: "test".into(), shard };
    Core::new(CoreParts {
        links,
        pool,
        net: Box::new(Deaf),
        shards: shards.into_iter().enumerate().map(|(at, shard)| (seat(at), shard)).collect(),
        registry: Registry::default(),
        log: EventLog::new(|| 0),
        frontend: Frontend::new(ProtocolConfig::default()),
        control: None,
        stats: Arc::new(CoreStats::default()),
    })
}

/// A disk in memory that does nothing while it is held.
struct Held {
    disk: RamDisk,
    is_held: Rc<Cell<bool>>,
    waiting: Vec<(Tag, Op)>,
}

impl Disk for Held {
    fn info(&self) -> &Info {
        self.disk.info()
    }
    fn submit(&mut self, tag: Tag, op: Op) {
        self.waiting.push((tag, op));
    }
    fn poll(&mut self, done: &mut Vec<disk::Completion>) {
        if !self.is_held.get() {
            self.waiting.drain(..).for_each(|(tag, op)| self.disk.submit(tag, op));
        }
        self.disk.poll(done);
    }
    fn in_flight(&self) -> usize {
        self.waiting.len() + self.disk.in_flight()
    }
}

/// A shard on a fresh disk of its own, and what holds the disk.
fn shard(pool: &Rc<Pool>, cache_bytes: usize) -> (Shard, Rc<Cell<bool>>) {
    let disk = Shared::new(RamDisk::new("test", 64 << 20).unwrap());
    let options = FormatOptions::new(Uuid::new_v4(), 1);
    store::format(Box::new(disk.clone()), None, &options, pool).unwrap();
    let is_held = Rc::new(Cell::new(false));
    let disk = disk.into_inner().unwrap();
    let disk = Held { disk, is_held: is_held.clone(), waiting: Vec::new() };
    let options = OpenOptions { cache_bytes, ..OpenOptions::default() };
    let mounting = Shard::mount(Box::new(disk), None, 0, &options, pool.clone());
    (mounting.wait().unwrap(), is_held)
}

fn write(pool: &Pool, tag: u64, volume: u64) -> Message {
    let chunk = ChunkKey { volume: VolumeId(volume), index: 0 };
    let extent = Extent { chunk, offset: 0, len: 4096 };
    let mut buf = pool.alloc(4096).unwrap();
    buf.fill(7);
    buf.crcs_mut()[0] = storage_spec::crc32c::checksum(&[7; 4096]);
    let request = Request::Write { extent, data: buf.freeze() };
    Message::Piece { shard: 1, piece: Piece { tag, request } }
}

#[test]
fn a_management_command_that_takes_long_holds_up_no_io() {
    let mut links = mesh(&[Waker::unneeded(), Waker::unneeded()]);
    let (second, mut first) = (links.pop().unwrap(), links.pop().unwrap());
    let pool = Rc::new(Arena::new(8 << 20, 1).unwrap().pool(0));
    let ((slow, is_held), (quick, _)) = (shard(&pool, 1 << 20), shard(&pool, 1 << 20));
    let mut core = core(second, pool.clone(), vec![slow, quick]);
    is_held.set(true);
    let put = |key: &[u8]| ShardCommand::Put { key: key.into(), value: vec![1; 100] };
    for token in 0..100 {
        let command = put(&[token as u8]);
        first.send(1, Message::Command { shard: 0, token, command });
    }
    let mut messages = Vec::new();
    for tag in 0..50 {
        first.send(1, write(&pool, tag, 1));
        let mut turns = 0;
        while !first.receive(&mut messages) {
            core.turn(Now::from_micros(tag));
            turns += 1;
            assert!(turns < 1000, "write {tag} waits");
        }
        let [Message::Done(completion)] = &messages[..] else { panic!("not the write alone") };
        assert!(completion.tag == tag && completion.result.is_ok());
        messages.clear();
    }
    is_held.set(false);
    let mut answered = 0;
    while answered < 100 {
        core.turn(Now::from_millis(1));
        first.receive(&mut messages);
        for message in messages.drain(..) {
            assert!(matches!(message, Message::Shard { reply: ShardReply::Changed(Ok(())), .. }));
            answered += 1;
        }
    }
}

/// A core that has no work sleeps: what has steps to go must say so.
#[test]
fn shards_settle_without_a_rest() {
    let mut links = mesh(&[Waker::unneeded(), Waker::unneeded()]);
    let (second, mut first) = (links.pop().unwrap(), links.pop().unwrap());
    let pool = Rc::new(Arena::new(8 << 20, 1).unwrap().pool(0));
    let ((first_shard, _), (shard, _)) = (shard(&pool, 1 << 20), shard(&pool, 16 << 20));
    let mut core = core(second, pool.clone(), vec![first_shard, shard]);
    first.send(1, write(&pool, 1, 1));
    first.send(1, Message::Settle);
    let (mut messages, mut rests) = (Vec::new(), 0);
    while !messages.iter().any(|message| matches!(message, Message::Settled { clean: true })) {
        rests += u32::from(!core.turn(Now::from_millis(1)));
        assert!(rests < 40, "it would have slept so often");
        first.receive(&mut messages);
    }
}

#[test]
fn a_route_is_gone_only_when_nothing_waits_for_a_mailbox() {
    let mut links = mesh(&[Waker::unneeded(), Waker::unneeded(), Waker::unneeded()]);
    let (mut third, mut second) = (links.pop().unwrap(), links.pop().unwrap());
    let mut first = links.pop().unwrap();
    let mut count = 0_u64;
    while second.is_delivered() {
        second.send(2, Message::Aborted { token: count, aborted: true });
        count += 1;
    }
    let pool = Rc::new(Arena::new(1 << 20, 1).unwrap().pool(0));
    let mut core = core(second, pool, Vec::new());
    first.send(1, Message::SetRoute { token: 9, volume: VolumeIndex(0), route: None });
    let mut messages = Vec::new();
    for _ in 0..3 {
        core.turn(Now::ZERO);
    }
    assert!(!first.receive(&mut messages), "something waits for room at the third core");
    third.receive(&mut messages);
    messages.clear();
    core.turn(Now::ZERO);
    assert!(first.receive(&mut messages));
    let [Message::Shard { token: 9, .. }] = messages[..] else { panic!("no answer") };
}

/// Shards that were begun elsewhere, for one core.
struct Begun(Vec<(ShardSeat, RamDisk)>);

impl Arrival for Begun {
    fn begin(
        self: Box<Self>,
        _: &mut Devices,
        _: Option<&Ring>,
        pool: &Rc<Pool>,
    ) -> Vec<(ShardSeat, store::Mounting)> {
        let mount = |(seat, disk): (ShardSeat, RamDisk)| {
            let options = OpenOptions::default();
            (seat, Shard::mount(Box::new(disk), None, 0, &options, pool.clone()))
        };
        self.0.into_iter().map(mount).collect()
    }
}

/// What a core has said, after enough turns for everything.
fn said(core: &mut Core, links: &mut Links) -> Vec<Message> {
    let mut messages = Vec::new();
    for _ in 0..200 {
        core.turn(Now::ZERO);
        links.flush();
        links.receive(&mut messages);
    }
    messages
}

fn formatted(pool: &Rc<Pool>) -> RamDisk {
    let disk = Shared::new(RamDisk::new("test", 64 << 20).unwrap());
    let options = FormatOptions::new(Uuid::new_v4(), 1);
    store::format(Box::new(disk.clone()), None, &options, pool).unwrap();
    disk.into_inner().unwrap()
}

#[test]
fn a_disk_leaves_wholly_before_it_is_said_to_have_left() {
    let mut links = mesh(&[Waker::unneeded(), Waker::unneeded()]);
    let (second, mut first) = (links.pop().unwrap(), links.pop().unwrap());
    let pool = Rc::new(Arena::new(8 << 20, 1).unwrap().pool(0));
    let free = pool.available();
    let ((one, _), (two, is_held)) = (shard(&pool, 1 << 20), shard(&pool, 1 << 20));
    let mut core = core(second, pool.clone(), vec![one, two]);
    is_held.set(true);
    first.send(1, write(&pool, 1, 1));
    first.flush();
    assert!(said(&mut core, &mut first).is_empty());
    first.send(1, Message::Retire { token: 7, disks: [0].into() });
    first.send(1, write(&pool, 2, 1));
    first.send(
        1,
        Message::Command { shard: 1, token: 8, command: ShardCommand::Usage(VolumeId(1)) },
    );
    let put = ShardCommand::Put { key: vec![1], value: vec![2] };
    first.send(1, Message::Command { shard: 1, token: 9, command: put });
    first.send(
        1,
        Message::Command { shard: 0, token: 10, command: ShardCommand::Drop(VolumeId(1)) },
    );
    first.flush();
    let mut said_first = said(&mut core, &mut first);
    let refused = |message: &Message| {
        matches!(message, Message::Done(Completion { tag: 2, result: Err(store::Error::Failed) }))
    };
    assert!(said_first.iter().any(refused), "what comes later fails at once");
    let failed = |of| {
        move |message: &Message| {
            let failed = ShardReply::Changed(Err(store::Error::Failed));
            matches!(message, Message::Shard { token, reply } if *token == of
                && format!("{reply:?}") == format!("{failed:?}"))
        }
    };
    assert!(said_first.iter().any(failed(9)) && said_first.iter().any(failed(10)));
    assert_eq!(said_first.len(), 4, "it is not said to have left");
    assert!(core.in_flight() > 0);
    is_held.set(false);
    said_first = said(&mut core, &mut first);
    let ends: Vec<bool> =
        said_first.iter().map(|message| matches!(message, Message::Done(_))).collect();
    assert_eq!(ends, [true, false], "what was in flight ends, then it has left");
    assert!(matches!(said_first[1], Message::Shard { token: 7, .. }));
    // The core itself keeps a buffer of the largest size.
    let left = free - (2 << 20);
    assert_eq!((core.in_flight(), pool.available()), (0, left), "and nothing is left of it");
}

#[test]
fn a_disk_that_comes_serves_when_control_says_so_in_the_slot_that_it_had() {
    let mut links = mesh(&[Waker::unneeded(), Waker::unneeded()]);
    let (second, mut first) = (links.pop().unwrap(), links.pop().unwrap());
    let pool = Rc::new(Arena::new(16 << 20, 1).unwrap().pool(0));
    let ((one, _), (two, _)) = (shard(&pool, 1 << 20), shard(&pool, 1 << 20));
    let mut core = core(second, pool.clone(), vec![one, two]);
    first.send(1, Message::Retire { token: 1, disks: [0].into() });
    first.flush();
    assert_eq!(said(&mut core, &mut first).len(), 1);
    let seat = |disk, shard| ShardSeat { disk, path: "test".into(), shard };
    let blank = RamDisk::new("blank", 64 << 20).unwrap();
    let disks =
        vec![(seat(5, 0), formatted(&pool)), (seat(0, 1), formatted(&pool)), (seat(6, 0), blank)];
    first.send(1, Message::Arrive { token: 2, arrival: Box::new(Begun(disks)) });
    first.flush();
    let landed = said(&mut core, &mut first);
    let [Message::Landed { token: 2, core: 1, shards }] = &landed[..] else { panic!("not landed") };
    let found: Vec<_> = shards.iter().map(|s| (s.disk, s.shard, s.slot, s.found.is_ok())).collect();
    assert_eq!(found, [(5, 0, 2, true), (0, 1, 1, true), (6, 0, 3, false)]);
    let written = |core: &mut Core, first: &mut Links, tag| {
        first.send(1, write(&pool, tag, 1));
        first.flush();
        let said = said(core, first);
        let [Message::Done(done)] = &said[..] else { panic!("not done") };
        (done.tag, done.result.is_ok())
    };
    assert_eq!(written(&mut core, &mut first, 1), (1, false), "not yet");
    first.send(1, Message::Serve { disk: 0 });
    assert_eq!(written(&mut core, &mut first, 2), (2, true));
    first.send(1, Message::Settle);
    first.flush();
    let settled = said(&mut core, &mut first);
    assert!(matches!(settled[..], [Message::Settled { clean: true }]), "what never served, too");
}
