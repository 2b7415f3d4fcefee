//! A disk in memory. Data are copied in and out when it is polled, a cacheful at a time: what is
//! copied is still in the processor's cache when the store verifies it and a socket takes it.
//!
//! Memory is taken as it is written, and given back by deallocation. Nothing outlives the process:
//! for demonstrations, tests, and measurements of everything but a disk.

use super::{Completion, Disk, Error, Info, Op, Tag};
use crate::dma::{ArenaError, PAGE, Region};
use std::collections::VecDeque;
use std::ops::Range;

/// Operations that may wait for [`Disk::poll`].
const QUEUE_DEPTH: usize = 1024;

/// Bytes that one poll copies: well within a second-level cache.
const POLL_BYTES: usize = 256 << 10;

/// Bytes of a read that are fetched ahead; the processor does the rest by itself.
const PREFETCH_MAX: u64 = 4096;

/// Largest transfer in bytes.
const TRANSFER_MAX: usize = 2 << 20;

/// A disk in memory. `Send`: made anywhere, then moved to the core that drives it.
pub struct RamDisk {
    info: Info,
    memory: Region,
    queue: VecDeque<(Tag, Op)>,
}

impl RamDisk {
    /// A disk of zeroes, `capacity` bytes rounded down to 4 KiB.
    ///
    /// # Errors
    /// When the kernel has no address space of that size.
    pub fn new(name: &str, capacity: u64) -> Result<Self, ArenaError> {
        assert!(capacity >= PAGE as u64, "a RAM disk of {capacity} bytes");
        let capacity = capacity - capacity % PAGE as u64;
        let memory = Region::new(capacity as usize)?;
        Ok(Self::over(name.to_owned(), memory))
    }

    /// Divides the disk in `count` disks of equal size, to be driven by different cores.
    #[must_use]
    pub fn partitions(self, count: usize) -> Vec<Self> {
        assert!(count > 0 && self.queue.is_empty());
        let size = self.memory.len() / count / PAGE * PAGE;
        assert!(size > 0, "{count} partitions of at least a page");
        let mut rest = self.memory;
        let mut parts = Vec::with_capacity(count);
        for index in 0..count {
            let tail = (rest.len() > size).then(|| rest.split_off(size));
            parts.push(Self::over(format!("{}.{index}", self.info.name), rest));
            match tail {
                Some(tail) => rest = tail,
                None => break,
            }
        }
        assert_eq!(parts.len(), count);
        parts
    }

    fn over(name: String, memory: Region) -> Self {
        let info = Info {
            name,
            capacity: memory.len() as u64,
            block_size: 512,
            atomic_write: PAGE as u32,
            volatile_cache: false,
            fua: true,
            deallocate: true,
            rotational: false,
            queue_depth: QUEUE_DEPTH,
            transfer_max: TRANSFER_MAX,
        };
        Self { info, memory, queue: VecDeque::with_capacity(QUEUE_DEPTH) }
    }

    fn execute(&mut self, op: &mut Op) -> Result<(), Error> {
        match op {
            Op::Read { offset, buf } => {
                let range = self.range(*offset, buf.len() as u64);
                buf.copy_from_slice(&self.memory.bytes()[range]);
            }
            Op::Write { offset, data, .. } => {
                let range = self.range(*offset, data.len() as u64);
                let mut rest = &mut self.memory.bytes_mut()[range];
                for segment in data.segments() {
                    let (head, tail) = rest.split_at_mut(segment.len());
                    head.copy_from_slice(segment);
                    rest = tail;
                }
            }
            Op::Flush => {}
            Op::Deallocate { offset, len } | Op::WriteZeroes { offset, len } => {
                let range = self.range(*offset, *len);
                self.memory.discard(range);
            }
        }
        Ok(())
    }

    fn prefetch(&self, op: &Op) {
        if let Op::Read { offset, buf } = op {
            let len = (buf.len() as u64).min(PREFETCH_MAX);
            self.memory.prefetch(self.range(*offset, len));
        }
    }

    fn range(&self, offset: u64, len: u64) -> Range<usize> {
        let block = u64::from(self.info.block_size);
        assert!(offset.is_multiple_of(block) && len.is_multiple_of(block), "{offset}+{len}");
        let end = offset.checked_add(len).filter(|&end| end <= self.info.capacity);
        offset as usize..end.expect("the submitter stays within the disk") as usize
    }
}

impl Disk for RamDisk {
    fn info(&self) -> &Info {
        &self.info
    }

    fn submit(&mut self, tag: Tag, op: Op) {
        assert!(self.queue.len() < QUEUE_DEPTH, "no more in flight than the queue is deep");
        self.prefetch(&op);
        self.queue.push_back((tag, op));
    }

    fn poll(&mut self, done: &mut Vec<Completion>) {
        let mut copied = 0;
        while copied < POLL_BYTES && done.len() < done.capacity() {
            let Some((tag, mut op)) = self.queue.pop_front() else { return };
            copied += match &op {
                Op::Read { buf, .. } => buf.len(),
                Op::Write { data, .. } => data.len(),
                _ => 0,
            };
            let result = self.execute(&mut op);
            done.push(Completion { tag, op, result });
        }
    }

    fn in_flight(&self) -> usize {
        self.queue.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::conformance;

    #[test]
    fn conforms() {
        conformance::run(&mut || Box::new(RamDisk::new("ram", 16 << 20).unwrap()));
    }

    #[test]
    fn a_partition_conforms() {
        conformance::run(&mut || {
            let mut parts = RamDisk::new("ram", 48 << 20).unwrap().partitions(3);
            assert!(parts.iter().all(|part| part.info().capacity == 16 << 20));
            Box::new(parts.remove(1))
        });
    }

    #[test]
    fn uneven_partitions_leave_the_rest_unused() {
        let parts = RamDisk::new("ram", 10 * PAGE as u64).unwrap().partitions(3);
        assert!(parts.iter().all(|part| part.info().capacity == 3 * PAGE as u64));
    }
}
