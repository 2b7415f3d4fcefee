//! A queue whose commands end as soon as the doorbell rings, without data: what is left to measure
//! is the driver.

use super::NvmeDisk;
use super::disk::NvmeQueue;
use super::link::{Link, Phase};
use super::namespace::{Facts, Metadata, Namespace, TRANSFER_MAX};
use super::options::NvmeOptions;
use super::pointers::Pointers;
use super::queue::{Queue, QueueParts};
use super::registers::Doorbell;
use super::ring::{COMPLETION_ENTRY, Ring, SUBMISSION_ENTRY};
use crate::dma::{Arena, ArenaError, ArenaMap, DeviceMemory, PAGE, Region, Unmap};
use crate::hardware::{CoreTime, Registers};
use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

/// Registers that complete what is submitted.
pub struct NullRegisters {
    submission: DeviceMemory,
    completion: DeviceMemory,
    entries: usize,
    fetched: Cell<usize>,
    posted: Cell<usize>,
    phase: Cell<u64>,
    submissions: usize,
}

impl Registers for NullRegisters {
    fn size(&self) -> usize {
        usize::MAX
    }

    fn read32(&self, _: usize) -> u32 {
        0
    }

    #[inline]
    fn write32(&self, offset: usize, value: u32) {
        if offset != self.submissions {
            return;
        }
        let (mut fetched, mut posted) = (self.fetched.get(), self.posted.get());
        while fetched != value as usize {
            let command_id = self.submission.load32(fetched * SUBMISSION_ENTRY) >> 16;
            fetched = if fetched + 1 == self.entries { 0 } else { fetched + 1 };
            let word = self.phase.get() << 48 | u64::from(command_id) << 32 | 1 << 16;
            self.completion.store64(posted * COMPLETION_ENTRY + 8, word | fetched as u64);
            posted += 1;
            if posted == self.entries {
                posted = 0;
                self.phase.set(self.phase.get() ^ 1);
            }
        }
        self.fetched.set(fetched);
        self.posted.set(posted);
    }

    fn read64(&self, _: usize) -> u64 {
        0
    }

    fn write64(&self, _: usize, _: u64) {}
}

/// A disk of 1 GiB in blocks of 4 KiB on such a queue. Nothing is read or written.
///
/// # Errors
/// When the kernel has no memory.
pub fn null_disk(
    arena: &Arena,
    entries: u16,
    time: CoreTime,
) -> Result<NvmeDisk<NullRegisters>, ArenaError> {
    let count = usize::from(entries);
    let submission = memory(count * SUBMISSION_ENTRY)?;
    let completion = memory(count * COMPLETION_ENTRY)?;
    let doorbells = Doorbell::pair(1, 0);
    let registers = NullRegisters {
        submission: submission.other_side(),
        completion: completion.other_side(),
        entries: count,
        fetched: Cell::new(0),
        posted: Cell::new(0),
        phase: Cell::new(1),
        submissions: doorbells.0.offset(),
    };
    let ring = Ring::new(registers, submission, completion, doorbells);
    let map = ArenaMap::contiguous(arena, 0x20_0000_0000);
    let parts = QueueParts {
        ring,
        pointers: Pointers::new(map, memory(count * PAGE)?, memory(TRANSFER_MAX)?, false),
        metadata: None,
        options: NvmeOptions { entries, ..NvmeOptions::default() },
        retry_delays: [Duration::ZERO; 3],
    };
    let link = Arc::new(Link::new(1));
    link.set_phase(Phase::Running);
    let queue = NvmeQueue::new("null".into(), true, Queue::new(parts, link, (0, None), time));
    let facts = Facts {
        id: 1,
        blocks: 1 << 18,
        block_shift: 12,
        metadata: Metadata::default(),
        nguid: [0; 16],
        eui64: [0; 8],
        atomic_write: 4096,
        volatile_cache: false,
        transfer_max: TRANSFER_MAX,
        zeroes_max: None,
        deallocate_max: None,
        compare: false,
    };
    Ok(queue.open(&Namespace::new(facts)))
}

struct NoSpace;

impl Unmap for NoSpace {
    fn unmap(&self, _: u64, _: usize) {}
}

/// Memory that no device reaches, as long as asked for.
fn memory(len: usize) -> Result<DeviceMemory, ArenaError> {
    let mut memory = DeviceMemory::new(Region::new(len)?, 0x1000_0000, Arc::new(NoSpace));
    if memory.len() > len {
        drop(memory.split_off(len));
    }
    Ok(memory)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{Disk, Op};

    #[test]
    fn commands_end_in_order_and_come_round() {
        let arena = Arena::new(4 << 20, 1).unwrap();
        let pool = arena.pool(0);
        let mut disk = null_disk(&arena, 8, CoreTime::default()).unwrap();
        let mut done = Vec::with_capacity(8);
        let mut ended = 0;
        for tag in 0..100 {
            let buf = pool.alloc(PAGE).unwrap();
            disk.submit(tag, Op::Read { offset: tag * 4096, buf });
            if disk.in_flight() == 7 {
                disk.poll(&mut done);
                for completion in done.drain(..) {
                    assert_eq!((completion.tag, completion.result), (ended, Ok(())));
                    ended += 1;
                }
            }
        }
        assert!(ended >= 98);
    }
}
