//! Reservations: their records, their order, and who waits for what.

use super::*;
use ::reservations::{Access, Current, Key, Kind, Nexus, Order, Persist, Registrant, Table};

/// Opcodes of reservation commands.
const REGISTER: u8 = 0x0D;
const ACQUIRE: u8 = 0x11;
const RELEASE: u8 = 0x15;

const CONFLICT: u16 = 0x83;
const INTERNAL: u16 = 0x06;

/// CPTPL of Register: keep, or do not keep.
const KEEP: u32 = 3 << 30;
const DROP: u32 = 2 << 30;

impl Bench {
    /// Volume `a`, open to the host whose I/O queue is connection 2.
    fn reserving() -> Self {
        let mut bench = Self::new();
        bench.call(create("a", 1)).unwrap();
        bench.call(allow("nqn.h")).unwrap();
        bench.open_queues();
        bench
    }

    fn open_queues(&mut self) {
        let controller = self.connect();
        self.connect_queue(1, controller);
    }

    fn again(self) -> Self {
        let mut bench = self.restart();
        bench.open_queues();
        bench
    }

    /// Status code of a reservation command on the I/O queue; `None` while there is none.
    fn order(&mut self, opcode: u8, dword_10: u32, keys: [Key; 2]) -> Option<u16> {
        let data = keys.iter().flat_map(|key| key.to_le_bytes()).collect();
        let sqe = sqe(opcode, 1, &[(40, dword_10)]);
        let reply = self.send_on(ConnectionId(2), sqe, data);
        self.settle();
        let code = |reply: Reply| reply.status & 0x7FF;
        reply.or_else(|| self.replies.pop().map(|(_, reply)| reply)).map(code)
    }

    /// Goes on until nothing happens.
    fn settle(&mut self) {
        for _ in 0..4 {
            self.control.poll(Duration::ZERO);
            self.run();
        }
    }

    fn table(&self) -> &Table {
        &self.control.jobs.volumes["a"].reservations.table
    }

    /// An order of somebody else, as another target gives it; its result goes to nobody.
    fn order_of(&mut self, who: &Registrant, order: &Order) {
        let mut table = Table::clone(self.table());
        table.apply(who, order).expect("a good order");
        self.control.jobs.volumes.get_mut("a").unwrap().reservations.table = Arc::new(table);
    }
}

fn join(key: Key) -> Order {
    Order::Register { current: Current::Any, key, also: Vec::new(), persist: Persist::Unchanged }
}

fn nexus(number: u8) -> Registrant {
    let name = format!("iqn.2026-11.io.basalt:{}", "x".repeat(200));
    Registrant::Scsi(Nexus::new(&name, [number; 6], 1).unwrap())
}

/// The host of the bench connects with this identity.
const HOST: Registrant = Registrant::Nvme { host_id: [9; 16] };

#[test]
fn what_persists_outlasts_a_restart_and_what_does_not_ends() {
    let mut bench = Bench::reserving();
    assert_eq!(bench.order(REGISTER, KEEP, [0, 5]), Some(0));
    assert_eq!(bench.order(ACQUIRE, 2 << 8, [5, 0]), Some(0));
    assert!(bench.has_event("volume.reserved", "ExclusiveAccess"));
    let mut bench = bench.again();
    assert_eq!(bench.table().key_of(&HOST), Some(5));
    assert_eq!(bench.table().reservation().unwrap().kind, Kind::ExclusiveAccess);
    assert_eq!(bench.table().access_of_strangers(), Access::NONE);
    // The key is known: it can be replaced, and persistence be given up.
    assert_eq!(bench.order(REGISTER, DROP | 2, [4, 6]), Some(CONFLICT));
    assert_eq!(bench.order(REGISTER, DROP | 2, [5, 6]), Some(0));
    assert_eq!(bench.table().key_of(&HOST), Some(6));
    let bench = bench.again();
    assert!(bench.table().is_new());
}

#[test]
fn an_order_is_answered_when_its_record_is_durable() {
    let mut bench = Bench::reserving();
    bench.is_held = true;
    assert_eq!(bench.order(REGISTER, KEEP, [0, 5]), None);
    assert!(bench.table().is_new());
    // The next one waits its turn.
    assert_eq!(bench.order(ACQUIRE, 1 << 8, [5, 0]), None);
    bench.release();
    bench.settle();
    assert_eq!(bench.replies.iter().filter(|(_, reply)| reply.status == 0).count(), 2);
    assert_eq!(bench.table().reservation().unwrap().kind, Kind::WriteExclusive);
}

#[test]
fn an_order_that_is_not_kept_is_not_obeyed() {
    let mut bench = Bench::reserving();
    assert_eq!(bench.order(REGISTER, KEEP, [0, 5]), Some(0));
    let before = bench.table().clone();
    bench.fail(0);
    assert_eq!(bench.order(ACQUIRE, 1 << 8, [5, 0]), Some(INTERNAL));
    assert_eq!(bench.order(REGISTER, DROP | 2, [5, 6]), Some(INTERNAL));
    assert_eq!(*bench.table(), before);
    assert!(bench.has_event("volume.failed", "reservations were not kept"));
    bench.failures[0] = None;
    assert_eq!(bench.order(ACQUIRE, 1 << 8, [5, 0]), Some(0));
    assert!(bench.again().table().reservation().is_some());
}

#[test]
fn a_long_record_is_replaced_as_a_whole() {
    let mut bench = Bench::reserving();
    for number in 0..20 {
        bench.order_of(&nexus(number), &join(7));
    }
    assert_eq!(bench.order(REGISTER, KEEP, [0, 5]), Some(0));
    let first = bench.catalogues.clone();
    assert!(first[0].len() > 6, "one head and several parts");
    assert_eq!(bench.order(ACQUIRE, 1 << 8, [5, 0]), Some(0));
    let second = bench.catalogues.clone();
    // A crash with any of the parts written, but not the head.
    let is_part = |key: &[u8]| key.len() == b"reservations/".len() + 18;
    let changed = |(key, value): &(&Vec<u8>, &Vec<u8>)| first[0].get(*key) != Some(*value);
    let parts: Vec<_> = second[0].iter().filter(changed).filter(|(key, _)| is_part(key)).collect();
    assert!(parts.len() > 3);
    for written in 0..=parts.len() {
        let mut crashed = first.clone();
        let some = parts[..written].iter().map(|&(key, value)| (key.clone(), value.clone()));
        crashed[0].extend(some);
        let bench = Bench::with(crashed);
        assert_eq!((bench.table().registrations().len(), bench.table().reservation()), (21, None));
    }
    let mut bench = bench.again();
    assert_eq!(bench.table().registrations().len(), 21);
    assert!(bench.table().reservation().is_some());
    // A failure among the parts leaves those that count alone, also at the next attempt.
    bench.fail(0);
    assert_eq!(bench.order(RELEASE, 1 << 8, [5, 0]), Some(INTERNAL));
    assert_eq!(bench.order(RELEASE, 1 << 8, [5, 0]), Some(INTERNAL));
    let mut bench = bench.again();
    assert!(bench.table().reservation().is_some());
    // Short again, and then deleted with everything.
    assert_eq!(bench.order(RELEASE, 1, [5, 0]), Some(0));
    let mut bench = bench.again();
    assert_eq!(bench.table().registrations().len(), 0);
    bench.call(delete("a")).unwrap();
    assert!(bench.catalogues[0].keys().all(|key| key.starts_with(b"host/")));
}

#[test]
fn a_record_that_cannot_be_read_shuts_every_host_out() {
    let mut bench = Bench::reserving();
    assert_eq!(bench.order(REGISTER, KEEP, [0, 5]), Some(0));
    let head = bench.catalogues[0].keys().find(|key| key.starts_with(b"reservations/")).cloned();
    *bench.catalogues[0].get_mut(&head.unwrap()).unwrap().last_mut().unwrap() ^= 1;
    let mut bench = bench.again();
    assert!(bench.table().is_lost() && bench.has_event("volume.reservations_lost", "a"));
    assert_eq!(bench.order(ACQUIRE, 1 << 8, [5, 0]), Some(CONFLICT));
    assert_eq!(bench.table().access(&HOST), Access::NONE);
    bench.call(delete("a")).unwrap();
}

#[test]
fn orders_for_a_volume_that_goes_are_answered() {
    let mut bench = Bench::reserving();
    bench.is_held = true;
    assert_eq!(bench.order(REGISTER, KEEP, [0, 5]), None);
    assert_eq!(bench.order(ACQUIRE, 1 << 8, [5, 0]), None);
    let deleted = bench.begin(delete("a"));
    bench.release();
    bench.settle();
    deleted.try_recv().unwrap().unwrap();
    let codes: Vec<_> = bench.replies.iter().map(|(_, reply)| reply.status & 0x7FF).collect();
    assert_eq!(codes, [0x0B, 0x0B]);
    assert!(bench.catalogues[0].keys().all(|key| key.starts_with(b"host/")));
}

#[test]
fn preempt_and_abort_waits_for_what_the_preempted_have_in_flight() {
    let mut bench = Bench::reserving();
    assert_eq!(bench.order(REGISTER, 0, [0, 5]), Some(0));
    bench.order_of(&nexus(1), &join(7));
    // The preempted has no queue here.
    assert_eq!(bench.order(ACQUIRE, 2 | 1 << 8, [5, 7]), Some(0));
    // Another NVMe host preempts ours: the orders are those of a second controller.
    let other = Registrant::Nvme { host_id: [8; 16] };
    bench.order_of(&other, &join(6));
    let order = Order::Preempt { key: 6, victim: 5, kind: Kind::ExclusiveAccess, abort: true };
    let mut table = Table::clone(bench.table());
    let outcome = table.apply(&other, &order).unwrap();
    let queues: Vec<_> =
        outcome.aborts.iter().flat_map(|who| bench.control.target.io_queues_of(who)).collect();
    assert_eq!(queues, [ConnectionId(2)]);
}
