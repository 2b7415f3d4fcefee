//! Disks that the kernel drives: block devices and regular files, by io_uring and `O_DIRECT`.
//!
//! A file is opened, locked and examined once ([`KernelFile`], which may be made on any thread),
//! then attached to the ring of each core that drives it or a part of it ([`KernelDisk`]).
//! Operations start with the ring's next turn; [`Disk::poll`] makes no system call.
//!
//! Of a block device that has queues without interrupts (`/sys/block/*/queue/io_poll`; for NVMe the
//! parameter `poll_queues` of the kernel's driver) reads and writes go by a ring of their own, with
//! `IORING_SETUP_IOPOLL`: [`Disk::poll`] then makes a system call, in which the kernel looks at the
//! device, while any is in flight. Flushes and the like go by the core's ring. Where the kernel
//! does not poll after all, everything does ([`Way::left`]).
//!
//! What it does not do: buffered I/O, NVMe passthrough.

mod devices;
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
use crate::uring::{FileDone, FileQueue, Ring};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A file or block device, or a part of one, on the ring of one core.
pub struct KernelDisk {
    info: Info,
    file: FileQueue,
    /// For reads and writes, if the kernel polls for them. The queue goes before its ring.
    polled: Option<(FileQueue, Ring)>,
    /// Of the whole file: once it is left no read or write is polled for.
    way: Way,
    /// Ended without reaching the kernel, for the device has failed.
    refused: Vec<Completion>,
    /// Of the whole file: a flush that failed for one core may have lost what another wrote.
    has_failed: Arc<AtomicBool>,
}

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
        polled: Option<(FileQueue, Ring)>,
        (has_failed, way): (Arc<AtomicBool>, Way),
    ) -> Self {
        let refused = Vec::with_capacity(info.queue_depth);
        Self { info, file, polled, way, refused, has_failed }
    }

    /// The next read or write that the kernel has polled for.
    fn next_polled(&mut self) -> Option<FileDone> {
        let (polled, _) = self.polled.as_mut()?;
        loop {
            let done = polled.next()?;
            let is_refused = |error: &io::Error| error.raw_os_error() == Some(libc::EOPNOTSUPP);
            if !done.result.as_ref().is_err_and(is_refused) {
                return Some(done);
            }
            self.way.leave(|| UNPOLLED.to_owned());
            self.file.submit(done.tag, done.op);
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
        match (&mut self.polled, &op) {
            (Some((polled, _)), Op::Read { .. } | Op::Write { .. })
                if self.way.left().is_none() =>
            {
                polled.submit(tag, op);
            }
            _ => self.file.submit(tag, op),
        }
    }

    fn poll(&mut self, done: &mut Vec<Completion>) {
        if self.must_poll()
            && let Some((_, ring)) = &self.polled
        {
            ring.turn();
        }
        while done.len() < done.capacity() {
            let ended = self.refused.pop().or_else(|| {
                let ended = self.next_polled().or_else(|| self.file.next())?;
                Some(self.finish(ended))
            });
            let Some(ended) = ended else { return };
            done.push(ended);
        }
    }

    fn in_flight(&self) -> usize {
        let polled = self.polled.as_ref().map_or(0, |(polled, _)| polled.in_flight());
        self.file.in_flight() + polled + self.refused.len()
    }

    fn must_poll(&self) -> bool {
        self.polled.as_ref().is_some_and(|(polled, _)| polled.in_flight() > 0)
    }
}

const UNPOLLED: &str = "the kernel does not poll for its reads and writes";

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
