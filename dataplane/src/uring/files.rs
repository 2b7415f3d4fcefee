//! Operations on one file or block device.

use super::ring::{Completed, Owner, Ring};
use crate::disk::{Op, SEGMENTS_MAX, Tag, WriteData};
use io_uring::opcode;
use io_uring::squeue::Entry;
use io_uring::types::{Fd, FsyncFlags};
use rustix::fs::FallocateFlags;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

/// `fallocate` modes for the operations that are neither reads nor writes, best first: one that the
/// file turns out not to have is not tried again.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FileModes {
    pub(crate) deallocate: &'static [FallocateFlags],
    pub(crate) write_zeroes: &'static [FallocateFlags],
}

impl FileModes {
    /// Tries `mode` no more, if it has not been given up already.
    fn give_up(&mut self, op: &Op, mode: Option<FallocateFlags>) {
        let modes = match op {
            Op::Deallocate { .. } => &mut self.deallocate,
            Op::WriteZeroes { .. } => &mut self.write_zeroes,
            Op::Read { .. } | Op::Write { .. } | Op::Flush => return,
        };
        if modes.first().copied() == mode {
            *modes = &modes[1..];
        }
    }
}

/// What has ended.
pub(crate) struct FileDone {
    pub(crate) tag: Tag,
    pub(crate) op: Op,
    /// The whole operation; a short transfer at the end of the file is `UnexpectedEof`, what the
    /// file does not have is `Unsupported`.
    pub(crate) result: io::Result<()>,
}

/// A file with its operations in flight.
pub(crate) struct FileQueue {
    // Leaves the ring before the buffers of what is in flight are freed: see `Drop`.
    owner: Owner,
    fd: Arc<OwnedFd>,
    /// Where offset 0 of the operations lies in the file.
    base: u64,
    modes: FileModes,
    slots: Vec<Slot>,
    free: Vec<u32>,
}

struct Slot {
    job: Option<Job>,
    /// Where the kernel finds the segments of a write while it is in flight.
    segments: Vec<libc::iovec>,
}

struct Job {
    tag: Tag,
    op: Op,
    /// Bytes done by earlier, short transfers.
    done: usize,
    /// The mode that was last tried, of an operation that needs one.
    mode: Option<FallocateFlags>,
}

impl FileQueue {
    /// Takes an open file from byte `base` on; at most `depth` operations may be in flight.
    pub(crate) fn new(
        ring: &Ring,
        fd: Arc<OwnedFd>,
        base: u64,
        modes: FileModes,
        depth: usize,
    ) -> Self {
        let slot = |_| Slot { job: None, segments: Vec::with_capacity(SEGMENTS_MAX) };
        Self {
            owner: ring.join(),
            fd,
            base,
            modes,
            slots: (0..depth).map(slot).collect(),
            free: (0..depth as u32).rev().collect(),
        }
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Queues an operation for the ring's next turn.
    pub(crate) fn submit(&mut self, tag: Tag, op: Op) {
        let index = self.free.pop().expect("no more in flight than the queue is deep");
        self.slots[index as usize].job = Some(Job { tag, op, done: 0, mode: None });
        self.start(index);
    }

    /// The next operation that has ended.
    pub(crate) fn next(&mut self) -> Option<FileDone> {
        loop {
            let completed = self.owner.pop()?;
            if let Some(result) = self.advance(completed) {
                let job = self.slots[completed.index as usize].job.take();
                let Job { tag, op, .. } = job.expect("a completion has its job");
                self.free.push(completed.index);
                return Some(FileDone { tag, op, result });
            }
        }
    }

    /// Accounts for a completion; `None` if the operation goes on.
    fn advance(&mut self, completed: Completed) -> Option<io::Result<()>> {
        let job = self.slots[completed.index as usize].job.as_mut();
        let job = job.expect("a completion has its job");
        match (completed.result, transfer_len(&job.op)) {
            (result, _) if -result == libc::EINTR || -result == libc::EAGAIN => {}
            (result, _) if -result == libc::EOPNOTSUPP && job.mode.is_some() => {
                self.modes.give_up(&job.op, job.mode);
            }
            (result, _) if result < 0 => return Some(Err(io::Error::from_raw_os_error(-result))),
            (_, None) if job.mode.is_none() && !matches!(job.op, Op::Flush) => {
                return Some(Err(io::ErrorKind::Unsupported.into()));
            }
            (_, None) => return Some(Ok(())),
            (result, Some(len)) => {
                job.done += result as usize;
                if job.done >= len {
                    return Some(Ok(()));
                }
                if result == 0 {
                    return Some(Err(io::ErrorKind::UnexpectedEof.into()));
                }
            }
        }
        self.start(completed.index);
        None
    }

    fn start(&mut self, index: u32) {
        let slot = &mut self.slots[index as usize];
        let job = slot.job.as_mut().expect("a started slot has its job");
        let fd = Fd(self.fd.as_raw_fd());
        let entry = match &mut job.op {
            Op::Read { offset, buf } => {
                let len = buf.len() - job.done;
                let start = buf.as_device_ptr().as_ptr().wrapping_add(job.done);
                let offset = self.base + *offset + job.done as u64;
                match self.owner.registered(start, len) {
                    Some(buffer) => {
                        opcode::ReadFixed::new(fd, start, len as u32, buffer).offset(offset).build()
                    }
                    None => opcode::Read::new(fd, start, len as u32).offset(offset).build(),
                }
            }
            Op::Write { offset, data, fua } => {
                let flags = if *fua { libc::RWF_DSYNC } else { 0 };
                let offset = self.base + *offset + job.done as u64;
                match data {
                    WriteData::One(data) => {
                        let data = &data[job.done..];
                        write_one(&self.owner, fd, data, offset, flags)
                    }
                    WriteData::Many(_) => {
                        gather(data, job.done, &mut slot.segments);
                        let (start, count) = (slot.segments.as_ptr(), slot.segments.len() as u32);
                        opcode::Writev::new(fd, start, count).offset(offset).rw_flags(flags).build()
                    }
                }
            }
            Op::Flush => opcode::Fsync::new(fd).flags(FsyncFlags::DATASYNC).build(),
            Op::Deallocate { offset, len } => {
                job.mode = self.modes.deallocate.first().copied();
                fallocate(fd, job.mode, self.base + *offset, *len)
            }
            Op::WriteZeroes { offset, len } => {
                job.mode = self.modes.write_zeroes.first().copied();
                fallocate(fd, job.mode, self.base + *offset, *len)
            }
        };
        // SAFETY: the slot keeps the buffers and segments, and `self` the file, until the
        // completion has been fetched or the owner drained.
        unsafe { self.owner.push(index, 0, entry) };
    }
}

impl Drop for FileQueue {
    fn drop(&mut self) {
        self.owner.drain();
    }
}

fn transfer_len(op: &Op) -> Option<usize> {
    match op {
        Op::Read { buf, .. } => Some(buf.len()),
        Op::Write { data, .. } => Some(data.len()),
        Op::Flush | Op::Deallocate { .. } | Op::WriteZeroes { .. } => None,
    }
}

fn write_one(owner: &Owner, fd: Fd, data: &[u8], offset: u64, flags: i32) -> Entry {
    let (start, len) = (data.as_ptr(), data.len() as u32);
    match owner.registered(start, data.len()) {
        Some(buffer) => {
            opcode::WriteFixed::new(fd, start, len, buffer).offset(offset).rw_flags(flags).build()
        }
        None => opcode::Write::new(fd, start, len).offset(offset).rw_flags(flags).build(),
    }
}

/// Lists the segments of `data` from byte `skip` on.
fn gather(data: &WriteData, mut skip: usize, segments: &mut Vec<libc::iovec>) {
    assert!(data.segments().len() <= SEGMENTS_MAX);
    segments.clear();
    for segment in data.segments() {
        let skipped = skip.min(segment.len());
        skip -= skipped;
        let rest = &segment[skipped..];
        if !rest.is_empty() {
            let iov_base = rest.as_ptr().cast_mut().cast();
            segments.push(libc::iovec { iov_base, iov_len: rest.len() });
        }
    }
}

/// With no mode left, an operation that does nothing: the refusal then arrives as any completion.
fn fallocate(fd: Fd, mode: Option<FallocateFlags>, offset: u64, len: u64) -> Entry {
    match mode {
        Some(mode) => {
            opcode::Fallocate::new(fd, len).offset(offset).mode(mode.bits() as i32).build()
        }
        None => opcode::Nop::new().build(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dma::Arena;

    #[test]
    fn a_short_write_goes_on_where_it_stopped() {
        let pool = Arena::new(2 << 20, 1).unwrap().pool(0);
        let data = pool.alloc(16 << 10).unwrap().freeze();
        let segments = vec![data.slice(0, 512), data.slice(4096, 1024), data.slice(8192, 512)];
        let start = |index: usize| segments[index].as_ptr() as usize;
        let expected = [
            (0, vec![(start(0), 512), (start(1), 1024), (start(2), 512)]),
            (512, vec![(start(1), 1024), (start(2), 512)]),
            (700, vec![(start(1) + 188, 836), (start(2), 512)]),
            (2047, vec![(start(2) + 511, 1)]),
        ];
        let data = WriteData::Many(segments.clone());
        let mut listed = Vec::new();
        for (skip, pieces) in expected {
            gather(&data, skip, &mut listed);
            let got: Vec<_> =
                listed.iter().map(|piece| (piece.iov_base as usize, piece.iov_len)).collect();
            assert_eq!(got, pieces, "after {skip} bytes");
        }
    }
}
