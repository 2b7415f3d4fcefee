//! What a request costs on a disk that ends everything at once: run by hand, in release.

use super::*;
use crate::disk::{Completion as Done, Disk, Info, Op, Tag};

/// Memory behind the contract, with one copy.
struct Instant {
    info: Info,
    bytes: Vec<u8>,
    ended: Vec<Done>,
}

impl Disk for Instant {
    fn info(&self) -> &Info {
        &self.info
    }

    fn submit(&mut self, tag: Tag, mut op: Op) {
        match &mut op {
            Op::Read { offset, buf } => {
                let len = buf.len();
                buf.copy_from_slice(&self.bytes[*offset as usize..][..len]);
            }
            Op::Write { offset, data, .. } => {
                let mut at = *offset as usize;
                for segment in data.segments() {
                    self.bytes[at..at + segment.len()].copy_from_slice(segment);
                    at += segment.len();
                }
            }
            Op::Flush | Op::Deallocate { .. } | Op::WriteZeroes { .. } => {}
        }
        self.ended.push(Done { tag, op, result: Ok(()) });
    }

    fn poll(&mut self, done: &mut Vec<Done>) {
        let count = self.ended.len().min(done.capacity() - done.len());
        done.extend(self.ended.drain(..count));
    }

    fn in_flight(&self) -> usize {
        self.ended.len()
    }
}

/// What the bare copy and the bare checksum of a random block cost.
#[expect(clippy::disallowed_methods, reason = "it measures time")]
fn baseline(pool: &Pool, media: &SimMedia) {
    let bytes = media.bytes(0, 512 << 20);
    let mut random = Random::new(1);
    let start = std::time::Instant::now();
    let mut sum = 0;
    for _ in 0..1_000_000 {
        let mut buf = pool.alloc(BLOCK).unwrap();
        let at = random.below((256 << 20) / 4096) as usize * BLOCK;
        buf.copy_from_slice(&bytes[at..at + BLOCK]);
        sum ^= crc32c::checksum(&buf);
    }
    println!("copy and checksum alone: {} ns ({sum})", start.elapsed().as_nanos() / 1_000_000);
}

#[test]
#[ignore = "a measurement"]
#[expect(clippy::disallowed_methods, reason = "it measures time")]
fn four_kib_at_depth_32() {
    for payload_max in [0, 16384] {
        let media = SimMedia::new(&SimDiskConfig::new(512 << 20), 1);
        let pool = Rc::new(Arena::new(64 << 20, 1).unwrap().pool(0));
        let mut options = format_options(Mode::Intent, 4096);
        options.force = true;
        format(Box::new(media.open()), None, &options, &pool).unwrap();
        let mut info = media.open().info().clone();
        (info.volatile_cache, info.queue_depth) = (false, 1024);
        let bytes = media.bytes(0, 512 << 20);
        let disk = Instant { info, bytes, ended: Vec::with_capacity(1024) };
        let open = OpenOptions { payload_max, ..OpenOptions::default() };
        let mut shard = Shard::mount(Box::new(disk), None, 0, &open, pool.clone()).wait().unwrap();
        let blocks = (256u32 << 20) / 4096;
        baseline(&pool, &media);
        let run = |shard: &mut Shard, name: &str, request: &mut dyn FnMut(u32) -> Request| {
            let mut random = Random::new(1);
            let (mut done, mut ended) = (Vec::with_capacity(64), 0u32);
            let count = 1_000_000u32;
            let start = std::time::Instant::now();
            let mut submitted = 0;
            while ended < count {
                while submitted < count && shard.in_flight() < 32 {
                    let block = random.below(u64::from(blocks)) as u32;
                    shard.submit(0, request(block));
                    submitted += 1;
                }
                shard.poll(start.elapsed(), &mut done);
                ended += done.len() as u32;
                done.clear();
            }
            let each = start.elapsed().as_nanos() / u128::from(count);
            println!("payload_max {payload_max:5} {name}: {each} ns each");
        };
        let mut data = pool.alloc(BLOCK).unwrap();
        data.fill(7);
        sum(&mut data);
        let data = data.freeze();
        let mut next = 0;
        run(&mut shard, "fill", &mut |_| {
            next = (next + 1) % blocks;
            Request::Write { extent: extent(1, 0, next * 4096, 4096), data: data.clone() }
        });
        run(&mut shard, "overwrite", &mut |block| Request::Write {
            extent: extent(1, 0, block * 4096, 4096),
            data: data.clone(),
        });
        run(&mut shard, "read", &mut |block| Request::Read {
            extent: extent(1, 0, block * 4096, 4096),
            buf: pool.alloc(BLOCK).unwrap(),
        });
        println!("{:?}", shard.counters());
    }
}
