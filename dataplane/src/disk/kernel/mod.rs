//! Disks that the kernel drives: block devices and regular files, by io_uring and `O_DIRECT`.
//!
//! A file is opened, locked and examined once ([`KernelFile`], which may be made on any thread),
//! then attached to the ring of each core that drives it or a part of it ([`KernelDisk`]).
//! Operations start with the ring's next turn; [`Disk::poll`] makes no system call.
//!
//! Of a block device that has queues without interrupts (`/sys/block/*/queue/io_poll`; for NVMe the
//! parameter `poll_queues` of the kernel's driver) reads and writes go by a ring of their own, with
//! `IORING_SETUP_IOPOLL`: [`Disk::poll`] then makes a system call, in which the kernel looks at the
//! device, while any is in flight. Of a whole NVMe namespace they go past the block layer, by its
//! generic device, if the operator wants that ([`KernelOptions::passthrough`]): as commands in a
//! ring of their own; the block device stays open and locked beside it.
//!
//! Everything else goes by the core's ring: flushes and the like; what is too large for a command,
//! or has several segments; a command that failed, which the kernel then tries again and judges as
//! usual; and all of it, once the kernel refuses the other way ([`Way::left`]).
//!
//! What it does not do: buffered I/O.

mod devices;
mod generic;
mod open;
mod probe;
mod smart;
#[cfg(test)]
mod tests;
mod way;

pub use devices::{DeviceEntry, list_devices};
pub use open::{
    Allocation, FileId, KernelFile, KernelOptions, OpenError, create_file, extend_file,
    reserve_file,
};
pub use smart::health;
pub use way::{Access, Way};

use super::{Completion, Disk, Error, Info, Op, Tag};
use crate::uring::{CommandDone, CommandQueue, FileDone, FileQueue, Ring};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A file or block device, or a part of one, on the ring of one core.
pub struct KernelDisk {
    info: Info,
    file: FileQueue,
    /// For reads and writes, if they go another way.
    fast: Option<Fast>,
    /// Of the whole file: nothing goes by the fast way that has been left.
    way: Way,
    /// Ended without reaching the kernel, for the device has failed.
    refused: Vec<Completion>,
    /// Of the whole file: a flush that failed for one core may have lost what another wrote.
    has_failed: Arc<AtomicBool>,
}

/// A faster way than the core's ring.
enum Fast {
    /// The kernel polls the device. The queue goes before its ring.
    Polled(FileQueue, Ring),
    /// Past the block layer.
    Passthrough(Box<CommandQueue>),
}

/// An operation that has to go the other way, with the reason if all have to.
type Back = (Tag, Op, Option<String>);

impl Fast {
    fn in_flight(&self) -> usize {
        match self {
            Self::Polled(queue, _) => queue.in_flight(),
            Self::Passthrough(queue) => queue.in_flight(),
        }
    }

    fn takes(&self, op: &Op) -> bool {
        match self {
            Self::Polled(..) => matches!(op, Op::Read { .. } | Op::Write { .. }),
            Self::Passthrough(queue) => queue.takes(op),
        }
    }

    fn submit(&mut self, tag: Tag, op: Op) {
        match self {
            Self::Polled(queue, _) => queue.submit(tag, op),
            Self::Passthrough(queue) => queue.submit(tag, op),
        }
    }

    fn turn(&mut self) {
        match self {
            Self::Polled(_, ring) => _ = ring.turn(),
            Self::Passthrough(queue) => queue.turn(),
        }
    }

    /// The next operation that has ended, or comes back.
    fn next(&mut self) -> Option<Result<FileDone, Back>> {
        match self {
            Self::Polled(queue, _) => {
                let done = queue.next()?;
                let is_refused = |error: &io::Error| error.raw_os_error() == Some(libc::EOPNOTSUPP);
                if done.result.as_ref().is_err_and(is_refused) {
                    return Some(Err((done.tag, done.op, Some(UNPOLLED.to_owned()))));
                }
                Some(Ok(done))
            }
            Self::Passthrough(queue) => {
                let CommandDone { tag, op, result } = queue.next()?;
                if result == 0 {
                    return Some(Ok(FileDone { tag, op, result: Ok(()) }));
                }
                let why = generic::is_refused(result).then(|| generic::refusal(result));
                Some(Err((tag, op, why)))
            }
        }
    }
}

const UNPOLLED: &str = "the kernel does not poll for its reads and writes";

impl KernelDisk {
    /// Opens a disk for one core alone.
    ///
    /// # Errors
    /// As [`KernelFile::open`].
    pub fn open(ring: &Ring, path: &Path, options: &KernelOptions) -> Result<Self, OpenError> {
        Ok(KernelFile::open(path, options)?.attach(ring))
    }

    fn new(
        info: Info,
        file: FileQueue,
        fast: Option<Fast>,
        (has_failed, way): (Arc<AtomicBool>, Way),
    ) -> Self {
        let refused = Vec::with_capacity(info.queue_depth);
        Self { info, file, fast, way, refused, has_failed }
    }

    /// The next read or write that ended by the fast way.
    fn next_fast(&mut self) -> Option<FileDone> {
        let fast = self.fast.as_mut()?;
        loop {
            match fast.next()? {
                Ok(done) => return Some(done),
                Err((tag, op, why)) => {
                    if let Some(why) = why {
                        self.way.leave(|| why);
                    }
                    self.file.submit(tag, op);
                }
            }
        }
    }

    fn finish(&mut self, done: FileDone) -> Completion {
        let FileDone { tag, op, result } = done;
        let result = result.map_err(|error| match op {
            Op::Read { .. } => read_error(&error),
            _ => write_error(&error),
        });
        // Deallocation is advice: nothing is lost where it is refused.
        let is_failure = match result {
            Err(Error::Removed) => true,
            Err(Error::Failed) => !matches!(op, Op::Deallocate { .. }),
            _ => false,
        };
        if is_failure {
            self.has_failed.store(true, Ordering::SeqCst);
        }
        let is_read = matches!(op, Op::Read { .. });
        let is_void = result.is_ok() && !is_read && self.has_failed();
        let result = if is_void { Err(Error::Failed) } else { result };
        Completion { tag, op, result }
    }

    fn has_failed(&self) -> bool {
        self.has_failed.load(Ordering::SeqCst)
    }
}

impl Disk for KernelDisk {
    fn info(&self) -> &Info {
        &self.info
    }

    fn submit(&mut self, tag: Tag, op: Op) {
        self.info.check(&op);
        assert!(self.in_flight() < self.info.queue_depth, "no more than the queue is deep");
        // What is on the medium can still be read, if it can.
        if self.has_failed() && !matches!(op, Op::Read { .. }) {
            self.refused.push(Completion { tag, op, result: Err(Error::Failed) });
            return;
        }
        match &mut self.fast {
            Some(fast) if fast.takes(&op) && self.way.left().is_none() => fast.submit(tag, op),
            _ => self.file.submit(tag, op),
        }
    }

    fn poll(&mut self, done: &mut Vec<Completion>) {
        if let Some(fast) = &mut self.fast
            && fast.in_flight() > 0
        {
            fast.turn();
        }
        while done.len() < done.capacity() {
            let ended = self.refused.pop().or_else(|| {
                let ended = self.next_fast().or_else(|| self.file.next())?;
                Some(self.finish(ended))
            });
            let Some(ended) = ended else { return };
            done.push(ended);
        }
    }

    fn in_flight(&self) -> usize {
        let fast = self.fast.as_ref().map_or(0, Fast::in_flight);
        self.file.in_flight() + fast + self.refused.len()
    }

    fn must_poll(&self) -> bool {
        self.fast.as_ref().is_some_and(|fast| fast.in_flight() > 0)
    }
}

/// A kernel disk with a ring of its own, turned by [`Disk::poll`]: for tools and tests, which have
/// no reactor.
pub struct SelfDriven {
    disk: KernelDisk,
    ring: Ring,
}

impl SelfDriven {
    /// Attaches a file to a ring of its own.
    #[must_use]
    pub fn new(file: &KernelFile, ring: Ring) -> Self {
        Self { disk: file.attach(&ring), ring }
    }
}

impl Disk for SelfDriven {
    fn info(&self) -> &Info {
        self.disk.info()
    }

    fn submit(&mut self, tag: Tag, op: Op) {
        self.disk.submit(tag, op);
    }

    fn poll(&mut self, done: &mut Vec<Completion>) {
        self.ring.turn();
        self.disk.poll(done);
    }

    fn in_flight(&self) -> usize {
        self.disk.in_flight()
    }

    fn must_poll(&self) -> bool {
        self.disk.must_poll()
    }
}

fn read_error(error: &io::Error) -> Error {
    match error.raw_os_error() {
        // Read past the end of a file that somebody shortened: these blocks are gone.
        None => Error::Media,
        Some(
            libc::EIO
            | libc::ENODATA
            | libc::EILSEQ
            | libc::EREMOTEIO
            | libc::EBADMSG
            | libc::EUCLEAN,
        ) => Error::Media,
        Some(libc::ENXIO | libc::ENODEV | libc::ENOMEDIUM) => Error::Removed,
        Some(_) => Error::Failed,
    }
}

fn write_error(error: &io::Error) -> Error {
    match error.raw_os_error() {
        None if error.kind() == io::ErrorKind::Unsupported => Error::Unsupported,
        Some(libc::ENOSPC | libc::EDQUOT | libc::EFBIG) => Error::NoSpace,
        Some(libc::ENXIO | libc::ENODEV | libc::ENOMEDIUM) => Error::Removed,
        Some(_) | None => Error::Failed,
    }
}
