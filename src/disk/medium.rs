//! Disks driven from the calling thread, without a node.

use crate::failure::{Exit, Failure};
use dataplane::disk::Disk;
use dataplane::disk::kernel::{KernelFile, KernelOptions, OpenError, SelfDriven};
use dataplane::dma::{Arena, Pool};
use dataplane::uring::{Ring, RingOptions};
use indicatif::{ProgressBar, ProgressStyle};
use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

/// Buffer memory in bytes.
const BUFFERS: usize = 64 << 20;

/// Buffers to work on disks with.
pub(super) struct Bench {
    pool: Pool,
}

impl Bench {
    pub(super) fn new() -> Result<Self, Failure> {
        let arena = Arena::new(BUFFERS, 1)
            .map_err(|error| Failure::new(Exit::Failed, error.to_string()))?;
        Ok(Self { pool: arena.pool(0) })
    }

    pub(super) fn pool(&self) -> &Pool {
        &self.pool
    }

    /// A disk that advances whenever it is polled.
    pub(super) fn drive(&self, file: &KernelFile) -> Result<Box<dyn Disk>, Failure> {
        let ring = Ring::new(RingOptions::default())
            .map_err(|error| Failure::new(Exit::Failed, error.to_string()))?;
        Ok(Box::new(SelfDriven::new(file, ring)))
    }
}

/// Opens and locks a disk that nobody else uses.
pub(super) fn open(path: &Path) -> Result<KernelFile, Failure> {
    let file = KernelFile::open(path, &KernelOptions::default()).map_err(|e| opened(&e))?;
    if let Some(device) = loop_device(path) {
        let text = format!("{}: in use by the loop device {device}", path.display());
        let hint = format!("detach it with `losetup -d {device}`, or choose another disk");
        return Err(Failure::new(Exit::Refused, text).hint(hint));
    }
    Ok(file)
}

/// As the command line tells it.
pub(super) fn opened(error: &OpenError) -> Failure {
    match error {
        OpenError::Mounted { .. } | OpenError::Exists(_) => {
            Failure::new(Exit::Refused, error.to_string())
        }
        OpenError::NotFound(_) => {
            let hint = "`basalt disk list` shows disks; `basalt disk format --size` makes a file";
            Failure::new(Exit::Failed, error.to_string()).hint(hint)
        }
        OpenError::Busy(_) => {
            let hint = "if a node runs on it, stop the node; `lsblk` shows RAID and LVM";
            Failure::new(Exit::Refused, error.to_string()).hint(hint)
        }
        OpenError::NoSpace { .. } => {
            let hint = "make room, make it smaller (--size), or put it on another file system";
            Failure::new(Exit::Failed, error.to_string()).hint(hint)
        }
        _ => Failure::new(Exit::Failed, error.to_string()),
    }
}

/// The loop device that stands on a file: it takes no lock that we would see.
fn loop_device(path: &Path) -> Option<String> {
    let whole = fs::canonicalize(path).ok()?;
    if fs::metadata(&whole).ok()?.file_type().is_block_device() {
        return None;
    }
    let entries = fs::read_dir("/sys/block").ok()?;
    entries.filter_map(Result::ok).find_map(|entry| {
        let backing = fs::read_to_string(entry.path().join("loop/backing_file")).ok()?;
        let name = entry.file_name().to_string_lossy().into_owned();
        (Path::new(backing.trim_end_matches('\n')) == whole).then(|| format!("/dev/{name}"))
    })
}

/// A progress bar of bytes; invisible unless standard error is a terminal.
pub(super) fn bar(what: &'static str, total: u64) -> ProgressBar {
    let style = "{msg} [{bar:40}] {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta}";
    let style = ProgressStyle::with_template(style).expect("the template is well-formed");
    ProgressBar::new(total).with_style(style.progress_chars("=> ")).with_message(what)
}
