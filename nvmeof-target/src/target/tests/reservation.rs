//! Reservations: two hosts, and tables that the bench keeps as a node does.

use super::*;
use reservations::Table;
use std::collections::BTreeMap;
use std::sync::Arc;
use storage_spec::nvme::command::NvmOpcode;

/// A bench with the tables of its volumes, and two hosts: each has an admin queue (10, 20) and an
/// I/O queue (11, 21).
struct Pair {
    bench: Bench,
    tables: BTreeMap<VolumeIndex, Arc<Table>>,
    /// What the last access was that an I/O queue was given to namespace 1.
    access: BTreeMap<u64, (bool, bool)>,
    /// Replies that came by actions, by connection.
    replies: BTreeMap<u64, Vec<Reply>>,
    /// Aborts that were wanted.
    aborts: usize,
}

const KEYS: [u64; 2] = [0xA, 0xB];

impl Pair {
    fn new() -> Self {
        let mut this = Self {
            bench: Bench::new(),
            tables: BTreeMap::new(),
            access: BTreeMap::new(),
            replies: BTreeMap::new(),
            aborts: 0,
        };
        for (admin, host) in [(10, HOST), (20, OTHER_HOST)] {
            this.open(admin, host, [admin as u8; 16]);
        }
        this
    }

    fn open(&mut self, admin: u64, host: &str, host_id: [u8; 16]) {
        let mut data = connect_data(0xFFFF, host, SUBSYSTEM);
        data[..16].copy_from_slice(&host_id);
        let reply = self.bench.send(admin, connect(0, 31, 5000), data.clone()).unwrap();
        assert_eq!(status(&reply), Status::SUCCESS);
        self.bench.set_cc(admin, CC_ENABLE);
        data[16..18].copy_from_slice(&(reply.result as u16).to_le_bytes());
        let reply = self.bench.send(admin + 1, connect(1, 127, 0), data).unwrap();
        let Some(Role::Io(_, namespaces)) = reply.role else { panic!("an I/O queue") };
        self.note_access(admin + 1, &namespaces);
        self.bench.listen(admin, 0x100);
    }

    fn note_access(&mut self, connection: u64, namespaces: &Namespaces) {
        let access = namespaces[0].unwrap().access;
        self.access.insert(connection, (access.read, access.write));
    }

    /// Does what a node does until there is nothing to do.
    fn settle(&mut self) {
        while let Some(action) = self.bench.target.take_action() {
            match action {
                Action::Reply(connection, _, reply) => {
                    self.replies.entry(connection.0).or_default().push(reply);
                }
                Action::SetNamespaces(connection, namespaces) => {
                    self.note_access(connection.0, &namespaces);
                }
                Action::Reserve { volume, who, order, token } => {
                    let mut table = Table::clone(self.tables.entry(volume).or_default());
                    let result = table.apply(&who, &order);
                    let result = result.map(|outcome| {
                        let table = Arc::new(table);
                        self.tables.insert(volume, table.clone());
                        self.bench.target.set_reservations(volume, &table, &outcome.notices);
                        self.aborts += outcome.aborts.len();
                    });
                    self.bench.target.reservation_result(token, result.map_err(Into::into));
                }
                other => panic!("{}", brief(&other)),
            }
        }
    }

    fn io(&mut self, queue: u64, opcode: NvmOpcode, dwords: [u32; 6], data: &[u64]) -> Status {
        let data = data.iter().flat_map(|word| word.to_le_bytes()).collect();
        let sqe = command(opcode.0, 9, 1, dwords);
        if let Some(reply) = self.bench.send(queue, sqe, data) {
            return status(&reply);
        }
        self.settle();
        let reply = self.replies.get_mut(&queue).and_then(Vec::pop).expect("an answer");
        assert_eq!(self.replies[&queue].len(), 0);
        status(&reply)
    }

    fn register(&mut self, queue: u64, dword_10: u32, current: u64, new: u64) -> Status {
        let dwords = [dword_10, 0, 0, 0, 0, 0];
        self.io(queue, NvmOpcode::ReservationRegister, dwords, &[current, new])
    }

    fn acquire(&mut self, queue: u64, action: u32, kind: u32, own: u64, other: u64) -> Status {
        let dwords = [action | kind << 8, 0, 0, 0, 0, 0];
        self.io(queue, NvmOpcode::ReservationAcquire, dwords, &[own, other])
    }

    fn release(&mut self, queue: u64, action: u32, kind: u32, own: u64) -> Status {
        let dwords = [action | kind << 8, 0, 0, 0, 0, 0];
        self.io(queue, NvmOpcode::ReservationRelease, dwords, &[own])
    }

    /// Both hosts, with keys A and B.
    fn registered() -> Self {
        let mut pair = Self::new();
        assert_eq!(pair.register(11, 0, 0, KEYS[0]), Status::SUCCESS);
        assert_eq!(pair.register(21, 0, 0, KEYS[1]), Status::SUCCESS);
        pair
    }

    fn report(&mut self, queue: u64, extended: bool, len: u32) -> Reply {
        let dwords = [len / 4 - 1, extended.into(), 0, 0, 0, 0];
        let sqe = command(NvmOpcode::ReservationReport.0, 9, 1, dwords);
        self.bench.send(queue, sqe, Vec::new()).expect("at once")
    }

    /// Kind, number and namespace of the oldest notification, and how many more there are.
    fn notification(&mut self, admin: u64) -> (u64, u8, u32, u8) {
        let page = self.bench.log(admin, 0x80, 0, 64, false).data;
        let namespace = u32::from_le_bytes(page[12..16].try_into().unwrap());
        (u64_of(&page[..8]), page[8], namespace, page[9])
    }

    fn events(&mut self, admin: u64) -> Vec<u64> {
        self.settle();
        self.replies.remove(&admin).unwrap_or_default().iter().map(|reply| reply.result).collect()
    }
}

fn u64_of(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes.try_into().unwrap())
}

const NOTIFIED: u64 = 0x0080_0006;

#[test]
fn every_type_leaves_the_access_of_the_standard() {
    let expected = [
        (1, (true, false), (true, false)),
        (2, (false, false), (false, false)),
        (3, (true, true), (true, false)),
        (4, (true, true), (false, false)),
        (5, (true, true), (true, false)),
        (6, (true, true), (false, false)),
    ];
    for (kind, registrant, stranger) in expected {
        let mut pair = Pair::registered();
        assert_eq!(pair.acquire(11, 0, kind, KEYS[0], 0), Status::SUCCESS);
        assert_eq!((pair.access[&11], pair.access[&21]), ((true, true), registrant), "{kind}");
        // One that connects afterwards.
        pair.open(30, HOST, [30; 16]);
        assert_eq!(pair.access[&31], stranger, "{kind}");
        // The same host on another controller is the same registrant.
        pair.open(40, HOST, [10; 16]);
        assert_eq!(pair.access[&41], (true, true), "{kind}");
        assert_eq!(pair.release(11, 0, kind, KEYS[0]), Status::SUCCESS);
        assert!(pair.access.values().all(|access| *access == (true, true)), "{kind}");
    }
}

#[test]
fn refusals_have_the_status_of_the_standard() {
    let mut pair = Pair::registered();
    let conflict = Status::RESERVATION_CONFLICT.dnr();
    let invalid = Status::INVALID_FIELD.dnr();
    assert_eq!(pair.register(11, 0, 0, 5), conflict, "registered with another key");
    assert_eq!(pair.register(11, 2, 9, 5), conflict, "replaces with a wrong key");
    assert_eq!(pair.register(11, 3, 0, 5), invalid, "a reserved action");
    assert_eq!(pair.register(11, 1 << 30, 0, KEYS[0]), invalid, "a reserved CPTPL");
    assert_eq!(pair.register(11, 2 | 8, 0, 0), invalid, "key 0");
    assert_eq!(pair.acquire(11, 0, 7, KEYS[0], 0), invalid, "a reserved type");
    assert_eq!(pair.acquire(11, 8, 1, KEYS[0], 0), invalid, "IEKEY");
    assert_eq!(pair.acquire(11, 0, 1, 1, 0), conflict);
    assert_eq!(pair.acquire(11, 0, 1, KEYS[0], 0), Status::SUCCESS);
    assert_eq!(pair.acquire(21, 0, 1, KEYS[1], 0), conflict);
    assert_eq!(pair.acquire(21, 1, 1, KEYS[1], 0), invalid, "preempts key 0");
    assert_eq!(pair.acquire(21, 3, 1, KEYS[1], KEYS[0]), invalid);
    assert_eq!(pair.release(11, 0, 2, KEYS[0]), invalid, "the wrong type");
    assert_eq!(pair.release(11, 2, 1, KEYS[0]), invalid);
    let short = [0; 6];
    let length = Status::DATA_SGL_LENGTH_INVALID.dnr();
    assert_eq!(pair.io(11, NvmOpcode::ReservationAcquire, short, &[1]), length);
    assert_eq!(pair.io(11, NvmOpcode::ReservationRelease, short, &[]), length);
    assert_eq!(pair.io(11, NvmOpcode::Write, short, &[]), Status::INVALID_OPCODE.dnr());
    pair.open(30, HOST, [0; 16]);
    assert_eq!(pair.register(31, 0, 0, 5), Status::OPERATION_DENIED.dnr(), "no host id");
}

#[test]
fn reports_name_every_registrant() {
    let mut pair = Pair::registered();
    assert_eq!(pair.register(11, 2 | 3 << 30, KEYS[0], 0xAA), Status::SUCCESS);
    assert_eq!(pair.acquire(21, 0, 4, KEYS[1], 0), Status::SUCCESS);
    let reply = pair.report(21, false, 64);
    assert_eq!(status(&reply), Status::HOST_ID_INCONSISTENT.dnr());
    let data = pair.report(21, true, 256).data;
    assert_eq!(data.len(), 256);
    // Three registrations, exclusive access for registrants only, two of them, persistent.
    assert_eq!(data[..10], [3, 0, 0, 0, 4, 2, 0, 0, 0, 1]);
    for (entry, id, key, status) in [(&data[64..128], 10, 0xAA, 0), (&data[128..192], 20, 0xB, 1)] {
        assert_eq!(entry[..3], [0xFF, 0xFF, status]);
        assert_eq!((u64_of(&entry[8..16]), &entry[16..32]), (key, &[id; 16][..]));
    }
    assert!(data[192..].iter().all(|&byte| byte == 0));
    assert_eq!(pair.report(21, true, 32).data, data[..32], "cut to what was asked for");
    let mut sqe = command(NvmOpcode::ReservationReport.0, 9, 2, [63, 1, 0, 0, 0, 0]);
    let reply = pair.bench.send(21, sqe, Vec::new()).unwrap();
    assert_eq!(status(&reply), Status::INVALID_NAMESPACE.dnr());
    sqe[4] = 1;
    sqe[32..36].copy_from_slice(&128_u32.to_le_bytes());
    let reply = pair.bench.send(21, sqe, Vec::new()).unwrap();
    assert_eq!(status(&reply), Status::DATA_SGL_LENGTH_INVALID.dnr());
}

#[test]
fn the_preempted_are_shut_out_and_told() {
    let mut pair = Pair::registered();
    pair.acquire(11, 0, 1, KEYS[0], 0);
    assert_eq!(pair.acquire(21, 2, 2, KEYS[1], KEYS[0]), Status::SUCCESS);
    assert_eq!(pair.aborts, 1);
    assert_eq!((pair.access[&11], pair.access[&21]), ((false, false), (true, true)));
    assert_eq!((pair.events(10), pair.events(20)), (vec![NOTIFIED], vec![]));
    assert_eq!(pair.notification(10), (1, 1, 1, 0));
    assert_eq!(pair.notification(10), (0, 0, 0, 0), "an empty page");
    assert_eq!(pair.notification(20), (0, 0, 0, 0));
    // Once more: the event is told again, since its page has been read.
    pair.register(11, 0, 0, KEYS[0]);
    pair.release(21, 1, 0, KEYS[1]);
    assert_eq!(pair.events(10), [NOTIFIED]);
    assert_eq!(pair.notification(10), (2, 3, 1, 0));
}

#[test]
fn notifications_queue_up_and_are_told_one_by_one() {
    let mut pair = Pair::registered();
    for _ in 0..3 {
        pair.acquire(11, 0, 3, KEYS[0], 0);
        pair.release(11, 0, 3, KEYS[0]);
    }
    assert_eq!(pair.events(20), [NOTIFIED]);
    assert_eq!(pair.notification(20), (1, 2, 1, 2));
    assert_eq!(pair.events(20), [NOTIFIED]);
    assert_eq!(pair.notification(20), (2, 2, 1, 1));
    assert_eq!(pair.notification(20), (3, 2, 1, 0));
    for _ in 0..300 {
        pair.acquire(11, 0, 3, KEYS[0], 0);
        pair.release(11, 0, 3, KEYS[0]);
    }
    assert_eq!(pair.notification(20), (49, 2, 1, 254), "the oldest have gone");
}

#[test]
fn masked_notifications_are_not_made() {
    let mut pair = Pair::registered();
    let set = |pair: &mut Pair, nsid, mask| {
        let dwords = [0x82, mask, 0, 0, 0, 0];
        status(&pair.bench.admin_on(20, AdminOpcode::SetFeatures, nsid, dwords))
    };
    let get = |pair: &mut Pair, nsid| {
        pair.bench.admin_on(20, AdminOpcode::GetFeatures, nsid, [0x82, 0, 0, 0, 0, 0])
    };
    assert_eq!(set(&mut pair, 2, 0), Status::INVALID_NAMESPACE.dnr());
    assert_eq!(set(&mut pair, u32::MAX, 1 << 2), Status::SUCCESS);
    assert_eq!(get(&mut pair, 3).result, 1 << 2);
    assert_eq!(status(&get(&mut pair, u32::MAX)), Status::INVALID_FIELD.dnr());
    pair.acquire(11, 0, 3, KEYS[0], 0);
    pair.release(11, 0, 3, KEYS[0]);
    assert_eq!(pair.events(20), []);
    assert_eq!(pair.notification(20), (0, 0, 0, 0));
    assert_eq!(set(&mut pair, 1, 0), Status::SUCCESS);
    pair.acquire(11, 0, 3, KEYS[0], 0);
    pair.release(11, 0, 3, KEYS[0]);
    assert_eq!(pair.events(20), [NOTIFIED]);
}

#[test]
fn persistence_is_a_feature_of_the_namespace() {
    let mut pair = Pair::new();
    let set = |pair: &mut Pair, nsid, value| {
        let sqe = command(AdminOpcode::SetFeatures.0, 7, nsid, [0x83, value, 0, 0, 0, 0]);
        assert_eq!(pair.bench.send(10, sqe, Vec::new()), None);
        pair.settle();
        status(&pair.replies.get_mut(&10).unwrap().pop().unwrap())
    };
    let get = |pair: &mut Pair, nsid| {
        let dwords = [0x83, 0, 0, 0, 0, 0];
        pair.bench.admin_on(20, AdminOpcode::GetFeatures, nsid, dwords).result
    };
    assert_eq!((get(&mut pair, 1), get(&mut pair, 3)), (0, 0));
    assert_eq!(set(&mut pair, 1, 1), Status::SUCCESS);
    assert_eq!((get(&mut pair, 1), get(&mut pair, 3)), (1, 0));
    assert_eq!(set(&mut pair, u32::MAX, 1), Status::SUCCESS);
    assert_eq!((get(&mut pair, 1), get(&mut pair, 3)), (1, 1));
    assert_eq!(pair.register(11, 2 << 30, 0, 5), Status::SUCCESS);
    assert_eq!((get(&mut pair, 1), get(&mut pair, 3)), (0, 1));
}

#[test]
fn a_failed_order_is_answered_and_a_lost_host_is_not() {
    let mut pair = Pair::new();
    for (failure, expected) in [
        (reservations::Failure::NotKept, Status::INTERNAL_ERROR),
        (reservations::Failure::Gone, Status::INVALID_NAMESPACE.dnr()),
    ] {
        let sqe = command(NvmOpcode::ReservationRegister.0, 9, 1, [0; 6]);
        let data = [0_u64, 5].iter().flat_map(|key| key.to_le_bytes()).collect::<Vec<_>>();
        assert_eq!(pair.bench.send(11, sqe, data.clone()), None);
        let Some(Action::Reserve { token, .. }) = pair.bench.target.take_action() else { panic!() };
        pair.bench.target.reservation_result(token, Err(failure));
        pair.settle();
        assert_eq!(status(&pair.replies.remove(&11).unwrap()[0]), expected);
        assert_eq!(pair.bench.send(11, sqe, data), None);
        let Some(Action::Reserve { token, .. }) = pair.bench.target.take_action() else { panic!() };
        pair.bench.target.closed(pair.bench.now, ConnectionId(11));
        pair.bench.target.reservation_result(token, Ok(()));
        pair.settle();
        assert!(pair.replies.is_empty());
        pair.bench.target.closed(pair.bench.now, ConnectionId(10));
        pair.settle();
        pair.open(10, HOST, [10; 16]);
    }
}

#[test]
fn hosts_find_reservations_in_identify() {
    let mut pair = Pair::new();
    assert_eq!(pair.bench.identify(10, 0x01, 0)[520] & 1 << 5, 1 << 5, "ONCS");
    assert_eq!(pair.bench.identify(10, 0x00, 1)[31], 0xFF, "RESCAP");
    assert_eq!(pair.bench.identify(10, 0x00, 1)[30] & 1, 1, "NMIC");
    assert_eq!(pair.bench.identify(10, 0x08, 1)[2], 0xFF, "RESCAP");
}
