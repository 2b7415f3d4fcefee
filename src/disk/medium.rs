//! Disks driven from the calling thread, without a node.

use crate::failure::{Exit, Failure};
use dataplane::disk::Disk;
use dataplane::disk::kernel::{KernelFile, KernelOptions, OpenError, SelfDriven};
use dataplane::disk::single::SingleDisk;
use dataplane::dma::{Arena, Pool};
use dataplane::pci::{Machine, PciAddress};
use dataplane::uring::{Ring, RingOptions};
use dataplane::vfio::{Options, Vfio};
use indicatif::{ProgressBar, ProgressStyle};
use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

/// Buffer memory in bytes.
const BUFFERS: usize = 64 << 20;

/// Buffers to work on disks with.
pub(super) struct Bench {
    arena: Arena,
    pool: Pool,
    vfio: Vfio,
}

/// A disk that nobody else uses while we have it.
pub(super) enum Medium {
    /// Driven by the kernel.
    Kernel(KernelFile),
    /// A namespace of a controller that we drive ourselves.
    Device(DeviceName),
}

/// A controller and a namespace of it, as `pci:0000:01:00.0` or `pci:0000:01:00.0/2`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct DeviceName {
    pub(super) address: PciAddress,
    pub(super) namespace: u32,
}

impl DeviceName {
    /// `None`: it is a path.
    ///
    /// # Errors
    /// It begins as such a name and is none.
    pub(super) fn parse(path: &Path) -> Option<Result<Self, Failure>> {
        let text = path.to_str()?;
        let rest = text.strip_prefix("pci:")?;
        let (address, namespace) = rest.split_once('/').unwrap_or((rest, "1"));
        let namespace = namespace.parse().ok().filter(|&id| id > 0 && id < u32::MAX);
        Some(match (address.parse(), namespace) {
            (Ok(address), Some(namespace)) => Ok(Self { address, namespace }),
            _ => {
                let what = "is no device; write pci:0000:01:00.0, or pci:0000:01:00.0/2 for the \
                            second namespace";
                Err(Failure::new(Exit::Usage, format!("{text} {what}")))
            }
        })
    }
}

impl Bench {
    pub(super) fn new() -> Result<Self, Failure> {
        let arena = Arena::new(BUFFERS, 1)
            .map_err(|error| Failure::new(Exit::Failed, error.to_string()))?;
        let pool = arena.pool(0);
        Ok(Self { arena, pool, vfio: Vfio::new(Options::default()) })
    }

    pub(super) fn pool(&self) -> &Pool {
        &self.pool
    }

    /// A disk that advances whenever it is polled.
    pub(super) fn drive(&self, medium: &Medium) -> Result<Box<dyn Disk>, Failure> {
        let failed = |text: String| Failure::new(Exit::Failed, text);
        match medium {
            Medium::Kernel(file) => {
                let ring = Ring::new(RingOptions::default());
                let ring = ring.map_err(|error| failed(error.to_string()))?;
                Ok(Box::new(SelfDriven::new(file, ring)))
            }
            Medium::Device(DeviceName { address, namespace }) => {
                let device = self.vfio.open(&Machine::this(), *address, &self.arena);
                let device = device.map_err(|error| failed(error.to_string()))?;
                let disk = SingleDisk::open(device, *namespace);
                Ok(Box::new(disk.map_err(|error| failed(error.to_string()))?))
            }
        }
    }
}

impl Medium {
    /// For people.
    pub(super) fn name(&self) -> String {
        match self {
            Self::Kernel(file) => file.info().name.clone(),
            Self::Device(device) => format!("pci:{}/{}", device.address, device.namespace),
        }
    }
}

/// Opens and locks a disk that nobody else uses. A controller of our own is locked while it is
/// driven.
pub(super) fn open(path: &Path) -> Result<Medium, Failure> {
    if let Some(device) = DeviceName::parse(path) {
        return device.map(Medium::Device);
    }
    let file = KernelFile::open(path, &KernelOptions::default()).map_err(|e| opened(&e))?;
    if let Some(device) = loop_device(path) {
        let text = format!("{}: in use by the loop device {device}", path.display());
        let hint = format!("detach it with `losetup -d {device}`, or choose another disk");
        return Err(Failure::new(Exit::Refused, text).hint(hint));
    }
    Ok(Medium::Kernel(file))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_told_from_paths() {
        let parse = |text: &str| DeviceName::parse(Path::new(text));
        assert!(parse("/dev/sda").is_none() && parse("pci").is_none());
        let first = parse("pci:0000:01:00.0").expect("a device").expect("a good one");
        assert_eq!(first.namespace, 1);
        let third = parse("pci:01:00.0/3").expect("a device").expect("a good one");
        assert_eq!((third.address, third.namespace), (first.address, 3));
        for bad in ["pci:", "pci:01:00.0/0", "pci:01:00.0/", "pci:01:00.0/x", "pci:zz"] {
            assert!(parse(bad).expect("meant as a device").is_err(), "{bad}");
        }
    }
}
