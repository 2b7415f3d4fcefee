//! What 4 KiB operations on a file or block device cost, with and without registered buffers:
//! `cargo run --release --example disk_rate PATH [depth]`. Overwrites the file, and makes one of
//! 1 GiB where there is none.

use dataplane::disk::kernel::{Allocation, KernelDisk, KernelFile, KernelOptions, create_file};
use dataplane::disk::{Disk, Op, WriteData};
use dataplane::dma::{Arena, Pool};
use dataplane::uring::{Ring, RingOptions};
use rustix::time::{ClockId, clock_gettime};
use std::path::Path;

const BLOCK: u64 = 4096;
const OPERATIONS: u64 = 30_000;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().expect("a path");
    let depth: u64 = arguments.next().map_or(32, |text| text.parse().expect("a number"));
    let path = Path::new(&path);
    if !path.exists() {
        create_file(path, 1 << 30, Allocation::Written, &mut |_| {}).expect("a file");
    }
    let file = KernelFile::open(path, &KernelOptions::default()).expect("a disk");
    println!("{:?}", file.info());
    for registered in [false, true, false, true] {
        let arena = Arena::new(32 << 20, 1).expect("memory");
        let ring = Ring::new(RingOptions::default()).expect("io_uring");
        if registered {
            ring.register_arena(&arena).expect("locked memory");
        }
        let pool = arena.pool(0);
        for (name, writes, fua) in
            [("read", false, false), ("write", true, false), ("write fua", true, true)]
        {
            let mut disk = file.attach(&ring);
            let enters = ring.counters().enters;
            let (wall, cpu) = (seconds(ClockId::Monotonic), seconds(ClockId::ThreadCPUTime));
            run(&mut disk, &ring, &pool, depth, writes.then_some(fua));
            let wall = seconds(ClockId::Monotonic) - wall;
            let cpu = seconds(ClockId::ThreadCPUTime) - cpu;
            println!(
                "{name:9} depth {depth} registered {registered:5}: {:7.0}/s, \
                 {:5.0} ns of the core, {:.3} calls each",
                OPERATIONS as f64 / wall,
                cpu * 1e9 / OPERATIONS as f64,
                (ring.counters().enters - enters) as f64 / OPERATIONS as f64,
            );
        }
    }
}

fn seconds(clock: ClockId) -> f64 {
    let time = clock_gettime(clock);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// Random operations: reads, or writes with or without FUA.
fn run(disk: &mut KernelDisk, ring: &Ring, pool: &Pool, depth: u64, writes: Option<bool>) {
    let blocks = disk.info().capacity / BLOCK;
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut done = Vec::with_capacity(depth as usize);
    let (mut started, mut ended) = (0, 0);
    while ended < OPERATIONS {
        while started < OPERATIONS && started - ended < depth {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let offset = random % blocks * BLOCK;
            let buf = pool.alloc(BLOCK as usize).expect("buffers suffice");
            let op = match writes {
                None => Op::Read { offset, buf },
                Some(fua) => Op::Write { offset, data: WriteData::One(buf.freeze()), fua },
            };
            disk.submit(started, op);
            started += 1;
        }
        if ring.turn() == 0 {
            ring.wait(None);
        }
        disk.poll(&mut done);
        for completion in done.drain(..) {
            completion.result.expect("a good disk");
            ended += 1;
        }
    }
}
