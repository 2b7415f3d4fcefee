//! Micro measurements: nanoseconds per operation of the parts that every command goes through.
//!
//! Each part runs in rounds of a fixed count; the median round counts. On a busy machine compare
//! the figures of one run with each other, not with those of another day.

use crate::initiator::{io_capsule, set_up_capsules};
use anyhow::{Context, Result, ensure};
use dataplane::core::mailbox::mailbox;
use dataplane::disk::nvme::null_disk;
use dataplane::disk::ram::RamDisk;
use dataplane::disk::{Disk, Op, Shared, WriteData};
use dataplane::dma::{Arena, Buf, PAGE, Pool};
use dataplane::hardware::CoreTime;
use dataplane::store::{
    self, ChunkKey, Completion, Extent, FormatOptions, OpenOptions, Request, Shard, VolumeId,
};
use dataplane::uring::Waker;
use nvmeof_target::connection::{Config, Connection};
use nvmeof_target::io::{
    BlockRequest, BlockResult, Now, Surroundings, Ticket, TxSink, VolumeIndex,
};
use nvmeof_target::seam::{
    Access, Association, ConnectionId, Namespace, Namespaces, QueueParameters, Reply, Role,
};
use std::cell::RefCell;
use std::hint::black_box;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;
use storage_spec::crc32c;
use uuid::Uuid;

const ROUNDS: usize = 15;
/// Commands in flight where there is a depth.
const DEPTH: usize = 32;
/// Blocks that the store's measurements go around in: 64 MiB.
const BLOCKS: u32 = 16 << 10;

/// Runs and prints everything.
pub(crate) fn run() -> Result<()> {
    crc();
    buffers();
    mailboxes();
    nvme()?;
    connection()?;
    shard()
}

#[expect(clippy::disallowed_methods, reason = "a measurement reads the clock")]
fn measure(what: &str, count: usize, mut round: impl FnMut()) {
    round();
    let mut rounds: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let start = Instant::now();
            round();
            start.elapsed().as_nanos() as f64 / count as f64
        })
        .collect();
    rounds.sort_by(f64::total_cmp);
    println!("{what:<52} {:>8.1} ns", rounds[ROUNDS / 2]);
}

fn crc() {
    let block = vec![0x5A; PAGE];
    measure("CRC32C of 4 KiB", 1000, || {
        (0..1000).for_each(|_| {
            black_box(crc32c::checksum(black_box(&block)));
        });
    });
    let blocks: Vec<u32> = (0..32).collect();
    measure("CRC32C of 128 KiB, combined from 32 blocks", 1000, || {
        (0..1000).for_each(|_| {
            black_box(black_box(&blocks).iter().fold(0, |crc, &b| crc32c::append_block(crc, b)));
        });
    });
}

fn buffers() {
    let pool = Arena::new(16 << 20, 1).expect("16 MiB").pool(0);
    measure("buffer of 4 KiB: taken, given back", 1000, || {
        (0..1000).for_each(|_| drop(black_box(pool.alloc(PAGE))));
    });
}

fn mailboxes() {
    let (mut sender, receiver) = mailbox::<[u64; 12]>(1024, Waker::unneeded());
    measure("mailbox: sent, received, 96 bytes", 1000, || {
        for number in 0..1000 {
            assert!(sender.queue([number; 12]).is_ok());
            black_box(receiver.receive());
        }
    });
}

/// The NVMe driver against a device that completes at once and moves no data: submission, doorbell,
/// completion, with the buffer's way through it.
fn nvme() -> Result<()> {
    const COUNT: usize = 32 << 10;
    let arena = Arena::new(16 << 20, 1)?;
    let pool = arena.pool(0);
    for (what, len) in [("4 KiB", PAGE), ("128 KiB", 32 * PAGE)] {
        for is_write in [false, true] {
            let mut disk = null_disk(&arena, 256, CoreTime::default())?;
            let mut done = Vec::with_capacity(DEPTH);
            let taken = (0..DEPTH).map(|_| pool.alloc(len).expect("there is room"));
            let mut operations: Vec<Op> = if is_write {
                let data = |buf: Buf| WriteData::One(buf.freeze());
                taken.map(|buf| Op::Write { offset: 0, data: data(buf), fua: false }).collect()
            } else {
                taken.map(|buf| Op::Read { offset: 0, buf }).collect()
            };
            let name = if is_write { "write" } else { "read" };
            let allocations = crate::allocations::count();
            measure(&format!("NVMe driver: {what} {name}, null device"), COUNT, || {
                for batch in 0..COUNT / DEPTH {
                    for (index, mut op) in operations.drain(..).enumerate() {
                        let place = ((batch * DEPTH + index) % 1024 * len) as u64;
                        if let Op::Read { offset, .. } | Op::Write { offset, .. } = &mut op {
                            *offset = place;
                        }
                        disk.submit(index as u64, op);
                    }
                    disk.poll(&mut done);
                    assert_eq!(done.len(), DEPTH);
                    operations.extend(done.drain(..).map(|completion| completion.op));
                }
            });
            // The measurement's own are a few.
            let allocations = crate::allocations::count() - allocations;
            ensure!(allocations < 100, "{allocations} allocations in {} commands", ROUNDS * COUNT);
        }
    }
    Ok(())
}

/// The core around a connection: every read is done as soon as it is asked for.
struct Core<'a> {
    pool: &'a Pool,
    done: &'a RefCell<Vec<(Ticket, BlockResult<Buf>)>>,
}

impl Surroundings for Core<'_> {
    type Buf = Buf;

    fn alloc(&mut self, len: usize) -> Option<Buf> {
        self.pool.alloc(len)
    }

    fn submit(&mut self, ticket: Ticket, _: VolumeIndex, request: BlockRequest<Buf>) {
        let buf = match request {
            BlockRequest::Read { buf, .. } => Some(buf),
            _ => None,
        };
        self.done.borrow_mut().push((ticket, BlockResult::Done(buf)));
    }
}

/// Counts what is sent.
struct Sink(usize);

impl TxSink<Buf> for Sink {
    fn has_room(&self) -> bool {
        true
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.0 += bytes.len();
    }

    fn has_room_for(&self, _: usize) -> bool {
        true
    }

    fn data(&mut self, _: Buf, range: Range<usize>) {
        self.0 += range.len();
    }

    fn share(&mut self, _: Buf) {}

    fn part(&mut self, range: Range<usize>) {
        self.0 += range.len();
    }
}

fn connection() -> Result<()> {
    let pool = Arena::new(16 << 20, 1)?.pool(0);
    let done = RefCell::new(Vec::with_capacity(DEPTH));
    let mut core = Core { pool: &pool, done: &done };
    let mut connection = Connection::<Buf>::new(ConnectionId(1), Config::default(), Now::ZERO);
    let (request, connect) = set_up_capsules();
    let mut sink = Sink(0);
    connection.receive(Now::ZERO, &request, &mut core);
    connection.transmit(&mut sink);
    connection.receive(Now::ZERO, &connect, &mut core);
    let event = connection.take_event().context("Connect goes to the target")?;
    connection.reply(event.slot, accepted());
    connection.transmit(&mut sink);
    let capsules = |opcode: u8, data: usize| -> Vec<u8> {
        (0..DEPTH as u16).flat_map(|id| io_capsule(opcode, id, u64::from(id), data)).collect()
    };
    for (what, bytes) in [
        ("connection: 4 KiB read, capsule to data PDU", capsules(2, 0)),
        ("connection: 4 KiB write in its capsule, with CRC", capsules(1, PAGE)),
    ] {
        measure(what, DEPTH * 100, || {
            for _ in 0..100 {
                let taken = connection.receive(Now::ZERO, &bytes, &mut core);
                assert_eq!(taken, bytes.len());
                let ended = std::mem::take(&mut *done.borrow_mut());
                assert_eq!(ended.len(), DEPTH);
                for (ticket, result) in ended {
                    connection.complete(ticket, result, &mut core);
                }
                connection.transmit(&mut sink);
            }
        });
    }
    ensure!(connection.counters().failed == 0, "a command failed");
    Ok(())
}

fn accepted() -> Reply {
    let namespace = Namespace {
        volume: VolumeIndex(0),
        capacity: 1 << 30,
        block_shift: 12,
        read_only: false,
        access: Access::ALL,
    };
    let namespaces: Namespaces = [Some(namespace)].into_iter().collect();
    let queue = QueueParameters {
        association: Arc::new(Association::new(1, Now::ZERO)),
        queue_id: 1,
        entries: 128,
        flow_control_disabled: true,
    };
    Reply { status: 0, result: 1, data: Vec::new(), role: Some(Role::Io(queue, namespaces)) }
}

fn shard() -> Result<()> {
    let pool = Rc::new(Arena::new(64 << 20, 1)?.pool(0));
    let disk = Shared::new(RamDisk::new("ram", 512 << 20)?);
    let options = FormatOptions::new(Uuid::new_v4(), Uuid::new_v4().as_u64_pair().0);
    store::format(Box::new(disk.clone()), None, &options, &pool)?;
    let options = OpenOptions { payload_max: 0, ..OpenOptions::default() };
    let mounting = Shard::mount(Box::new(disk), None, 0, &options, pool.clone());
    let mut store = Store { shard: mounting.wait()?, pool, done: Vec::new(), next: 1 };
    measure("store: 4 KiB write, first then in place", BLOCKS as usize, || store.go_round(true));
    measure("store: 4 KiB read, looked up and verified", BLOCKS as usize, || store.go_round(false));
    store.shard.shutdown();
    while !store.shard.is_shut_down() {
        store.shard.poll(Now::ZERO, &mut store.done);
    }
    Ok(())
}

struct Store {
    shard: Shard,
    pool: Rc<Pool>,
    done: Vec<Completion>,
    next: u64,
}

impl Store {
    /// Every block once, [`DEPTH`] at a time, in an order that jumps about.
    fn go_round(&mut self, is_write: bool) {
        let chunk = ChunkKey { volume: VolumeId(1), index: 0 };
        for first in (0..BLOCKS).step_by(DEPTH) {
            for number in first..first + DEPTH as u32 {
                let block = number.wrapping_mul(7919) % BLOCKS;
                let extent = Extent { chunk, offset: block * PAGE as u32, len: PAGE as u32 };
                let mut buf = self.pool.alloc(PAGE).expect("as many as are in flight");
                let request = if is_write {
                    buf.fill(block as u8);
                    buf.crcs_mut()[0] = crc32c::checksum(&buf);
                    Request::Write { extent, data: buf.freeze() }
                } else {
                    Request::Read { extent, buf }
                };
                self.next += 1;
                self.shard.submit(self.next, request);
            }
            let mut ended = 0;
            while ended < DEPTH {
                self.shard.poll(Now::ZERO, &mut self.done);
                ended += self.done.len();
                assert!(self.done.drain(..).all(|completion| completion.result.is_ok()));
            }
        }
    }
}
