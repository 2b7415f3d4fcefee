//! Opening, locking and examining a file or block device.

use super::generic::Generic;
use super::probe::{DeviceFacts, DeviceId, mount_point};
use super::way::{Access, Way};
use super::{Fast, KernelDisk};
use crate::disk::Info;
use crate::uring::{FileModes, FileQueue, Ring, RingOptions};
use rustix::fs::{
    AtFlags, CWD, Dev, FallocateFlags, FileType, FlockOperation, Mode, OFlags, SeekFrom, Stat,
    StatxFlags, fallocate, flock, fstat, major, minor, statx,
};
use rustix::io::Errno;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

/// Largest transfer in bytes: a buffer of the arena is never larger.
const TRANSFER_MAX: usize = 2 << 20;

/// Smallest and largest unit of transfer that we work with.
const BLOCK_MIN: u32 = 512;
const BLOCK_MAX: u32 = 4096;

/// Most operations that [`KernelOptions::queue_depth`] may ask for.
const QUEUE_DEPTH_MAX: usize = 4096;

/// Patience with the lock: half a second in all.
const LOCK_RETRIES: u32 = 25;
const LOCK_PAUSE: Duration = Duration::from_millis(20);

const DEALLOCATE: FallocateFlags = FallocateFlags::PUNCH_HOLE.union(FallocateFlags::KEEP_SIZE);
const ZERO: FallocateFlags = FallocateFlags::ZERO_RANGE.union(FallocateFlags::KEEP_SIZE);

/// How to drive a kernel disk, and what the operator knows better than the kernel.
#[derive(Debug, Clone, Copy)]
pub struct KernelOptions {
    /// Operations in flight, 1 to 4096.
    pub queue_depth: usize,
    /// Declares [`Info::atomic_write`].
    pub atomic_write: Option<u32>,
    /// Declares [`Info::volatile_cache`]: `false` only where the cache survives power cuts.
    pub volatile_cache: Option<bool>,
    /// Reads and writes of an NVMe namespace go past the block layer, where the kernel has it.
    pub passthrough: bool,
}

impl Default for KernelOptions {
    fn default() -> Self {
        Self { queue_depth: 256, atomic_write: None, volatile_cache: None, passthrough: false }
    }
}

/// Why a disk was not opened or made.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// There is nothing at this path.
    #[error("{}: no such file or device", .0.display())]
    NotFound(PathBuf),
    /// Permission refused.
    #[error("{}: permission denied; run as root, or as a member of the owning group", .0.display())]
    Permission(PathBuf),
    /// A file system on the device is mounted.
    #[error("{}: mounted at {at}; unmount it, or choose another disk", path.display())]
    Mounted {
        /// The device.
        path: PathBuf,
        /// Where.
        at: String,
    },
    /// Another process, or RAID, LVM or swap, has it.
    #[error("{}: in use by another process, or by RAID, LVM or swap", .0.display())]
    Busy(PathBuf),
    /// Neither a regular file nor a block device.
    #[error("{}: neither a regular file nor a block device", .0.display())]
    NotADisk(PathBuf),
    /// The file system buffers everything.
    #[error("{}: the file system has no direct I/O; use one that has (ext4, xfs)", .0.display())]
    NoDirectIo(PathBuf),
    /// Its unit of transfer is none that we work with.
    #[error("{}: transfers in units of {unit} bytes; 512 to 4096 are supported", path.display())]
    BlockSize {
        /// The device or file.
        path: PathBuf,
        /// As the kernel says.
        unit: u32,
    },
    /// Not even one block.
    #[error("{}: empty; give it a size first", .0.display())]
    Empty(PathBuf),
    /// A file that was to be made is there.
    #[error("{}: exists already", .0.display())]
    Exists(PathBuf),
    /// No room for a file that was to be made.
    #[error("{}: the file system has no room for {size} bytes", path.display())]
    NoSpace {
        /// The file.
        path: PathBuf,
        /// What was asked for.
        size: u64,
    },
    /// Anything else.
    #[error("{}: {source}", path.display())]
    Other {
        /// The device or file.
        path: PathBuf,
        /// What the kernel said.
        source: std::io::Error,
    },
}

/// A file or block device, open, locked, examined, on no ring yet. Clones and parts share the lock,
/// which goes with the last of them, and fail together: what one of them could not write or flush
/// ends the writing of all until the file is opened anew.
#[derive(Debug, Clone)]
pub struct KernelFile {
    fd: Arc<OwnedFd>,
    info: Info,
    modes: FileModes,
    /// Where our part starts.
    base: u64,
    has_failed: Arc<AtomicBool>,
    id: FileId,
    generic: Option<Generic>,
    way: Way,
}

/// A ring for reads and writes that the kernel polls for.
const POLLED: RingOptions = RingOptions { submissions: 256, completions: 1024, polled: true };

/// Which block device it is, so that its removal is noticed also where nothing is read or written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileId(Option<DeviceId>);

impl FileId {
    /// Whether the device is still there, and has not been replaced by another one. A regular file
    /// always is.
    #[must_use]
    pub fn is_there(&self) -> bool {
        self.0.as_ref().is_none_or(DeviceId::is_there)
    }
}

impl KernelFile {
    /// Opens for reading and writing, and takes the lock.
    ///
    /// # Errors
    /// [`OpenError`] says what the operator can do.
    pub fn open(path: &Path, options: &KernelOptions) -> Result<Self, OpenError> {
        assert!((1..=QUEUE_DEPTH_MAX).contains(&options.queue_depth));
        let explain = |error| explain(path, error);
        let stat = rustix::fs::stat(path).map_err(explain)?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        let exclusive = match kind {
            FileType::BlockDevice => OFlags::EXCL,
            FileType::RegularFile => OFlags::empty(),
            _ => return Err(OpenError::NotADisk(path.to_owned())),
        };
        let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::DIRECT | exclusive;
        let fd = open_locked(path, flags)?;
        let stat = fstat(&fd).map_err(explain)?;
        let is_device = kind == FileType::BlockDevice;
        let (info, modes) = if is_device {
            examine_device(path, &fd, &stat, options)?
        } else {
            examine_file(path, &fd, &stat, options)?
        };
        if info.capacity == 0 {
            return Err(OpenError::Empty(path.to_owned()));
        }
        let id = FileId(is_device.then(|| DeviceId::of(stat.st_rdev)));
        let id_of_device = is_device.then_some(stat.st_rdev);
        let chosen = choose(id_of_device, (&fd, &info), options.passthrough);
        let (access, generic, refused) = chosen;
        let (has_failed, way) = (Arc::default(), Way::new(access, refused));
        let fd = Arc::new(fd);
        Ok(Self { fd, info, modes, base: 0, has_failed, id, generic, way })
    }

    /// By which way reads and writes go; it may be left while the disk is in use.
    #[must_use]
    pub fn way(&self) -> &Way {
        &self.way
    }

    /// Has the kernel asked to poll it, whatever it says of itself.
    #[cfg(test)]
    pub(super) fn poll_anyway(&mut self) {
        self.way = Way::new(Access::Polled, None);
    }

    /// Has reads and writes go as commands to what takes none.
    #[cfg(test)]
    pub(super) fn pass_through_anyway(&mut self) {
        self.generic = Some(Generic::mute(&self.info));
        self.way = Way::new(Access::Passthrough, None);
    }

    /// Lets the kernel buffer it, for which it then cannot poll.
    #[cfg(test)]
    pub(super) fn buffer(&self) {
        let flags = rustix::fs::fcntl_getfl(&self.fd).unwrap();
        rustix::fs::fcntl_setfl(&self.fd, flags - OFlags::DIRECT).unwrap();
    }

    /// Which device it is.
    #[must_use]
    pub fn id(&self) -> FileId {
        self.id.clone()
    }

    /// What the disk is.
    #[must_use]
    pub fn info(&self) -> &Info {
        &self.info
    }

    /// A part of it, as a disk of its own: a range of bytes in whole blocks. Parts that are driven
    /// at the same time must not overlap.
    #[must_use]
    pub fn part(&self, range: Range<u64>) -> Self {
        let block = u64::from(self.info.block_size);
        assert!(range.start < range.end && range.end <= self.info.capacity);
        assert!(range.start.is_multiple_of(block) && range.end.is_multiple_of(block));
        let mut part = self.clone();
        part.base += range.start;
        part.info.capacity = range.end - range.start;
        part
    }

    /// Attaches the disk to the ring of the calling core. Reads and writes that go another way have
    /// a ring of their own, which the disk turns.
    #[must_use]
    pub fn attach(&self, ring: &Ring) -> KernelDisk {
        let fast = match (self.way.access(), &self.generic) {
            (Access::Plain, _) | (Access::Passthrough, None) => Ok(None),
            (Access::Polled, _) => match Ring::new(POLLED) {
                Ok(ring) => Ok(Some(Fast::Polled(self.queue(&ring), ring))),
                Err(error) => Err(error.to_string()),
            },
            (Access::Passthrough, Some(generic)) => {
                let queue = generic.queue(&self.fd, self.base, self.info.queue_depth);
                queue.map(|queue| Some(Fast::Passthrough(Box::new(queue))))
            }
        };
        let fast = fast.unwrap_or_else(|why| {
            self.way.leave(|| why);
            None
        });
        let shared = (Arc::clone(&self.has_failed), self.way.clone());
        KernelDisk::new(self.info.clone(), self.queue(ring), fast, shared)
    }

    fn queue(&self, ring: &Ring) -> FileQueue {
        let depth = self.info.queue_depth;
        FileQueue::new(ring, Arc::clone(&self.fd), self.base, self.modes, depth)
    }
}

/// The best way to a device that the operator and the kernel allow; its generic device, if that is
/// it; and the way that would be better, with the reason why it is not gone. `None`: it is a file.
fn choose(
    device: Option<Dev>,
    opened: (&OwnedFd, &Info),
    passthrough: bool,
) -> (Access, Option<Generic>, Option<(Access, String)>) {
    let mut refused = None;
    if passthrough {
        let found = device.ok_or_else(|| "it is a file".to_owned());
        match found.and_then(|device| Generic::open(device, opened)) {
            Ok(generic) => return (Access::Passthrough, Some(generic), None),
            Err(why) => refused = Some((Access::Passthrough, why)),
        }
    }
    if !device.is_some_and(|device| DeviceFacts::of(device).io_poll) {
        return (Access::Plain, None, refused);
    }
    match Ring::new(POLLED) {
        Ok(_) => (Access::Polled, None, refused),
        Err(error) => {
            let unpolled = (Access::Polled, error.to_string());
            (Access::Plain, None, refused.or(Some(unpolled)))
        }
    }
}

/// How a new file gets its space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Allocation {
    /// As it is written: quick to make, slower to write first, may run out of space later.
    Sparse,
    /// Reserved: quick to make, cannot run out of space, slower to write first.
    Reserved,
    /// Written with zeroes: takes as long as writing all of it, then as fast as the disk.
    Written,
}

/// Makes a file of `size` bytes, a multiple of 4096, for use as a disk. `progress` is told how many
/// bytes are done. What was made is removed on failure.
///
/// # Errors
/// [`OpenError::Exists`], [`OpenError::NoSpace`], and what the kernel says.
pub fn create_file(
    path: &Path,
    size: u64,
    allocation: Allocation,
    progress: &mut dyn FnMut(u64),
) -> Result<(), OpenError> {
    assert!(size > 0 && size.is_multiple_of(4096), "{size} bytes");
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let mode = Mode::RUSR | Mode::WUSR | Mode::RGRP;
    let fd = rustix::fs::open(path, flags, mode).map_err(|error| match error {
        Errno::EXIST => OpenError::Exists(path.to_owned()),
        error => explain(path, error),
    })?;
    let made = fill_file(&fd, 0..size, allocation, progress);
    made.map_err(|error| {
        let _ = rustix::fs::unlink(path);
        no_space(path, error, size)
    })
}

/// Makes a file larger, to `size` bytes, a multiple of 4096. `progress` is told how many bytes are
/// done. What it holds stays; on failure it has its former size.
///
/// # Errors
/// [`OpenError::NoSpace`], and what the kernel says.
pub fn extend_file(
    path: &Path,
    size: u64,
    allocation: Allocation,
    progress: &mut dyn FnMut(u64),
) -> Result<(), OpenError> {
    let explain = |error| explain(path, error);
    let fd = rustix::fs::open(path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty());
    let fd = fd.map_err(explain)?;
    let former = fstat(&fd).map_err(explain)?.st_size.unsigned_abs();
    assert!(former < size && size.is_multiple_of(4096), "{former} to {size} bytes");
    fill_file(&fd, former..size, allocation, progress).map_err(|error| {
        let _ = rustix::fs::ftruncate(&fd, former);
        no_space(path, error, size - former)
    })
}

/// Reserves room for some bytes of a file, whose content and size stay as they are.
///
/// # Errors
/// [`OpenError::NoSpace`], and what the kernel says.
pub fn reserve_file(path: &Path, range: Range<u64>) -> Result<(), OpenError> {
    let fd = rustix::fs::open(path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty());
    let fd = fd.map_err(|error| explain(path, error))?;
    let len = range.end - range.start;
    let reserved = fallocate(fd, FallocateFlags::KEEP_SIZE, range.start, len);
    reserved.map_err(|error| no_space(path, error, len))
}

fn no_space(path: &Path, error: Errno, size: u64) -> OpenError {
    match error {
        Errno::NOSPC | Errno::DQUOT | Errno::FBIG => {
            OpenError::NoSpace { path: path.to_owned(), size }
        }
        error => explain(path, error),
    }
}

fn fill_file(
    fd: &OwnedFd,
    range: Range<u64>,
    allocation: Allocation,
    progress: &mut dyn FnMut(u64),
) -> Result<(), Errno> {
    const CHUNK: u64 = 4 << 20;
    let Range { start, end } = range;
    match allocation {
        Allocation::Sparse => rustix::fs::ftruncate(fd, end)?,
        Allocation::Reserved => fallocate(fd, FallocateFlags::empty(), start, end - start)?,
        Allocation::Written => {
            fallocate(fd, FallocateFlags::empty(), start, end - start)?;
            let zeroes = vec![0; CHUNK as usize];
            let mut at = start;
            while at < end {
                let len = CHUNK.min(end - at) as usize;
                at += rustix::io::pwrite(fd, &zeroes[..len], at)? as u64;
                progress(at - start);
            }
        }
    }
    rustix::fs::fsync(fd)?;
    progress(end - start);
    Ok(())
}

/// Opens and locks; waits a little for a former owner that has just been killed, whose operations
/// the kernel may still be taking back.
fn open_locked(path: &Path, flags: OFlags) -> Result<OwnedFd, OpenError> {
    let attempt = || {
        let fd = rustix::fs::open(path, flags, Mode::empty())?;
        match flock(&fd, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => Err(Errno::BUSY),
            other => other.map(|()| fd),
        }
    };
    for _ in 0..LOCK_RETRIES {
        match attempt() {
            Err(Errno::BUSY) => std::thread::sleep(LOCK_PAUSE),
            Err(Errno::INVAL) => return Err(OpenError::NoDirectIo(path.to_owned())),
            other => return other.map_err(|error| explain(path, error)),
        }
    }
    Err(explain(path, Errno::BUSY))
}

/// Rules for a device: everything as the kernel says. A block that the medium writes as one is
/// written whole or not at all when the power goes: true of every medium that we know to report
/// 4096-byte physical blocks, but a promise of none; the operator may declare otherwise.
fn examine_device(
    path: &Path,
    fd: &OwnedFd,
    stat: &Stat,
    options: &KernelOptions,
) -> Result<(Info, FileModes), OpenError> {
    let explain = |error| explain(path, error);
    let block_size = rustix::fs::ioctl_blksszget(fd).map_err(explain)?;
    let physical = rustix::fs::ioctl_blkpbszget(fd).map_err(explain)?;
    let size = rustix::fs::seek(fd, SeekFrom::End(0)).map_err(explain)?;
    let facts = DeviceFacts { physical_block: physical, ..DeviceFacts::of(stat.st_rdev) };
    let info = info(path, block_size, size, facts, options)?;
    let deallocate: &[_] = if facts.deallocate { &[DEALLOCATE] } else { &[] };
    Ok((info, FileModes { deallocate, write_zeroes: &[ZERO] }))
}

/// Rules for a file: the unit of transfer is what direct I/O needs. The file system's own records
/// (a hole filled, a reserved block written first) are durable only after a flush, so the cache
/// counts as volatile whatever the device says. A block is written in place, as on the device.
fn examine_file(
    path: &Path,
    fd: &OwnedFd,
    stat: &Stat,
    options: &KernelOptions,
) -> Result<(Info, FileModes), OpenError> {
    let unit = direct_io_unit(path, fd)?;
    let below = DeviceFacts::of(stat.st_dev);
    let facts = DeviceFacts {
        volatile_cache: true,
        fua: below.fua || !below.volatile_cache,
        deallocate: true,
        ..below
    };
    let info = info(path, unit, stat.st_size as u64, facts, options)?;
    let modes = FileModes { deallocate: &[DEALLOCATE], write_zeroes: &[ZERO, DEALLOCATE] };
    Ok((info, modes))
}

/// Smallest unit of direct I/O on a file: 4096 where the file system does not say.
fn direct_io_unit(path: &Path, fd: &OwnedFd) -> Result<u32, OpenError> {
    let asked = statx(fd, "", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN);
    match asked {
        Ok(facts) if facts.stx_mask & StatxFlags::DIOALIGN.bits() != 0 => {
            match facts.stx_dio_offset_align.max(facts.stx_dio_mem_align) {
                0 => Err(OpenError::NoDirectIo(path.to_owned())),
                unit => Ok(unit),
            }
        }
        Ok(_) | Err(Errno::NOSYS) => Ok(BLOCK_MAX),
        Err(error) => Err(explain(path, error)),
    }
}

fn info(
    path: &Path,
    unit: u32,
    size: u64,
    facts: DeviceFacts,
    options: &KernelOptions,
) -> Result<Info, OpenError> {
    if !unit.is_power_of_two() || unit > BLOCK_MAX {
        return Err(OpenError::BlockSize { path: path.to_owned(), unit });
    }
    let block_size = unit.max(BLOCK_MIN);
    let usual_atomic = if facts.physical_block == 4096 { 4096 } else { 0 };
    Ok(Info {
        name: path.display().to_string(),
        capacity: size - size % u64::from(block_size),
        block_size,
        atomic_write: options.atomic_write.unwrap_or(usual_atomic),
        volatile_cache: options.volatile_cache.unwrap_or(facts.volatile_cache),
        fua: facts.fua,
        deallocate: facts.deallocate,
        rotational: facts.rotational,
        queue_depth: options.queue_depth,
        transfer_max: TRANSFER_MAX,
    })
}

fn explain(path: &Path, error: Errno) -> OpenError {
    let owned = path.to_owned();
    match error {
        Errno::NOENT | Errno::NOTDIR | Errno::NXIO | Errno::NODEV => OpenError::NotFound(owned),
        Errno::ACCESS | Errno::PERM => OpenError::Permission(owned),
        Errno::BUSY | Errno::TXTBSY => match mounted_at(path) {
            Some(at) => OpenError::Mounted { path: owned, at },
            None => OpenError::Busy(owned),
        },
        error => OpenError::Other { path: owned, source: error.into() },
    }
}

fn mounted_at(path: &Path) -> Option<String> {
    let device = rustix::fs::statat(CWD, path, AtFlags::empty()).ok()?.st_rdev;
    mount_point(&format!("{}:{}", major(device), minor(device)))
}
