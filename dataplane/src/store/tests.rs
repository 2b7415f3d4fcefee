//! The whole store on simulated disks, against a plain table of blocks.

use super::*;
use crate::dma::{Arena, Pool};
use crate::sim::{Random, SimDiskConfig, SimMedia};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;
use storage_spec::crc32c;
use uuid::Uuid;

mod cost;
mod crash;
mod faults;
mod freeing;
mod grow;
mod media;
mod pages;
mod plain;
mod refusals;
mod several;
mod speed;

const BLOCK: usize = 4096;

/// A disk, perhaps a journal disk, and how they are used.
struct Bench {
    pool: Rc<Pool>,
    data: SimMedia,
    journal: Option<SimMedia>,
    options: OpenOptions,
    now: Duration,
}

impl Bench {
    fn new(config: &SimDiskConfig, options: &FormatOptions, apart: bool, seed: u64) -> Self {
        let pool = Rc::new(Arena::new(16 << 20, 1).unwrap().pool(0));
        let data = SimMedia::new(config, seed);
        let journal = apart
            .then(|| SimMedia::new(&SimDiskConfig { capacity: 8 << 20, ..config.clone() }, seed));
        let bench = Self {
            pool,
            data,
            journal,
            options: OpenOptions { cache_bytes: 0, ..OpenOptions::default() },
            now: Duration::ZERO,
        };
        format(bench.disk(), bench.journal(), options, &bench.pool).unwrap();
        bench
    }

    fn disk(&self) -> Box<dyn crate::disk::Disk> {
        Box::new(self.data.open())
    }

    fn journal(&self) -> Option<Box<dyn crate::disk::Disk>> {
        self.journal.as_ref().map(|media| Box::new(media.open()) as _)
    }

    fn mount(&self) -> Result<Shard, MountError> {
        self.mounting().wait()
    }

    fn mounting(&self) -> Mounting {
        Shard::mount(self.disk(), self.journal(), 0, &self.options, self.pool.clone())
    }

    fn check(&self) -> CheckReport {
        let options = CheckOptions::default();
        check(self.disk(), self.journal(), options, &self.pool, &mut |_| {}).unwrap()
    }

    /// Carries out one request to its end.
    fn run(&mut self, shard: &mut Shard, request: Request) -> Result<Option<Buf>, Error> {
        shard.submit(7, request);
        self.finish(shard)
    }

    fn finish(&mut self, shard: &mut Shard) -> Result<Option<Buf>, Error> {
        let mut done = Vec::new();
        for _ in 0..100_000 {
            self.now += Duration::from_micros(10);
            shard.poll(self.now, &mut done);
            if let Some(completion) = done.pop() {
                return completion.result;
            }
        }
        panic!("the request hangs");
    }

    /// Polls until `count` requests have ended.
    fn finish_all(&mut self, shard: &mut Shard, count: usize) -> Vec<Completion> {
        let mut done = Vec::new();
        for _ in 0..100_000 {
            self.now += Duration::from_micros(10);
            shard.poll(self.now, &mut done);
            if done.len() == count {
                return done;
            }
        }
        panic!("{} of {count} requests hang", count - done.len());
    }

    fn stop(&mut self, mut shard: Shard) {
        shard.shutdown();
        for _ in 0..100_000 {
            self.now += Duration::from_micros(10);
            shard.poll(self.now, &mut Vec::new());
            if shard.is_shut_down() {
                return;
            }
        }
        panic!("the shutdown hangs");
    }

    /// Polls until all of the shard's space is free.
    fn wait_until_free(&mut self, shard: &mut Shard) {
        for _ in 0..100_000 {
            self.now += Duration::from_micros(10);
            shard.poll(self.now, &mut Vec::new());
            if shard.space().free == shard.space().capacity {
                return;
            }
        }
        panic!("{:?} is not free", shard.space());
    }

    /// A buffer for an extent, from the start of its first block, with `byte` in it.
    fn filled(&self, extent: Extent, byte: u8) -> Slice {
        let lead = extent.offset as usize % BLOCK;
        let mut buf = self.pool.alloc(lead + extent.len as usize).unwrap();
        buf.fill(byte);
        sum(&mut buf);
        buf.freeze()
    }

    fn write(&mut self, shard: &mut Shard, extent: Extent, byte: u8) -> Result<(), Error> {
        let data = self.filled(extent, byte);
        self.run(shard, Request::Write { extent, data }).map(|_| ())
    }

    /// The extent's bytes, whose checksums have been compared with the cells.
    fn read(&mut self, shard: &mut Shard, extent: Extent) -> Result<Vec<u8>, Error> {
        let first = extent.offset as usize / BLOCK * BLOCK;
        let end = (extent.offset + extent.len) as usize;
        let buf = self.pool.alloc(end.next_multiple_of(BLOCK) - first).unwrap();
        let buf = self.run(shard, Request::Read { extent, buf })?.unwrap();
        for (bytes, &crc) in buf.chunks(BLOCK).zip(buf.crcs()) {
            assert_eq!(crc32c::checksum(bytes), crc, "cell of a read");
        }
        Ok(buf[extent.offset as usize - first..end - first].to_vec())
    }
}

/// Sets the checksum cells of whole blocks.
fn sum(buf: &mut Buf) {
    let crcs: Vec<u32> = buf.chunks(BLOCK).map(crc32c::checksum).collect();
    buf.crcs_mut().copy_from_slice(&crcs);
}

fn extent(volume: u64, chunk: u32, offset: u32, len: u32) -> Extent {
    Extent { chunk: ChunkKey { volume: VolumeId(volume), index: chunk }, offset, len }
}

fn format_options(mode: Mode, journal_blocks: u64) -> FormatOptions {
    let mut options = FormatOptions::new(Uuid::from_u128(0xABCD), 4711);
    options.mode = Some(mode);
    options.journal_bytes = journal_blocks * BLOCK as u64;
    options.catalogue_bytes = 16 << 10;
    options
}

fn bench(mode: Mode) -> Bench {
    Bench::new(&SimDiskConfig::new(32 << 20), &format_options(mode, 64), false, 1)
}
