//! The block devices below a controller, and who uses them.

use super::machine::{Machine, attribute, number};
use super::{PciAddress, PciFunction};
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

/// A whole block device of a controller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockDevice {
    /// Its name in `/sys/block`, such as `nvme0n1`.
    pub name: String,
    /// Its path in `/dev`.
    pub path: PathBuf,
    /// Capacity in bytes.
    pub size: u64,
    /// The use that forbids taking it away; of itself or of a partition of it.
    pub used: Option<Use>,
}

/// What a block device is used for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Use {
    /// A file system on it is mounted here.
    Mounted {
        /// The device or partition.
        device: PathBuf,
        /// Where.
        at: String,
    },
    /// Another block device stands on it: LVM, RAID, dm-crypt, bcache.
    Holder {
        /// The device or partition.
        device: PathBuf,
        /// The device above.
        holder: String,
    },
    /// The kernel swaps to it.
    Swap {
        /// The device or partition.
        device: PathBuf,
    },
    /// Some program has it for itself.
    Open {
        /// The device or partition.
        device: PathBuf,
    },
}

impl fmt::Display for Use {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mounted { device, at } => write!(f, "{} is mounted at {at}", device.display()),
            Self::Holder { device, holder } => {
                write!(f, "{} is part of {holder} (LVM, RAID or encryption)", device.display())
            }
            Self::Swap { device } => write!(f, "{} is swap space", device.display()),
            Self::Open { device } => {
                write!(f, "{} is in use by a program or by ZFS", device.display())
            }
        }
    }
}

impl Machine {
    /// The whole block devices of a controller, by the place where they are attached: the kernel
    /// gives the drives of an adapter names as they answer, in no certain order.
    #[must_use]
    pub fn block_devices(&self, address: PciAddress) -> Vec<BlockDevice> {
        let Ok(controller) = fs::canonicalize(self.pci_directory(address)) else {
            return Vec::new();
        };
        let mut entries: Vec<PathBuf> = fs::read_dir(self.path("sys/block"))
            .into_iter()
            .flatten()
            .filter_map(Result::ok)
            .map(|entry| entry.path())
            .filter(|entry| is_below(entry, &controller))
            .collect();
        entries.sort_by_cached_key(|entry| in_order(&fs::canonicalize(entry).unwrap_or_default()));
        let name = |entry: &Path| entry.file_name().unwrap_or_default().to_string_lossy().into();
        entries.iter().map(|entry: &PathBuf| self.block_device(name(entry), entry)).collect()
    }

    /// The controller that a block device, by its name in `/sys/block`, belongs to.
    #[must_use]
    pub fn controller_of(&self, block: &str) -> Option<PciFunction> {
        let entry = self.path("sys/block").join(block.replace('/', "!"));
        let places = places(&entry);
        let parts = places.iter().flat_map(|place| place.iter().rev());
        let mut addresses = parts.filter_map(|part| part.to_string_lossy().parse().ok());
        addresses.find_map(|address| self.function(address))
    }

    fn block_device(&self, name: String, directory: &Path) -> BlockDevice {
        let parts = partitions(&name, directory);
        let used = std::iter::once(directory.to_owned()).chain(parts);
        let used = used.filter_map(|directory| self.used(&directory)).next();
        BlockDevice {
            path: device_path(&name),
            name,
            size: number::<u64>(directory, "size").unwrap_or(0) * 512,
            used,
        }
    }

    fn used(&self, directory: &Path) -> Option<Use> {
        let device = device_path(&directory.file_name()?.to_string_lossy());
        let holder = fs::read_dir(directory.join("holders")).ok()?.find_map(Result::ok);
        if let Some(holder) = holder {
            let holder = holder.file_name().to_string_lossy().into_owned();
            return Some(Use::Holder { device, holder });
        }
        let swaps = fs::read_to_string(self.path("proc/swaps")).unwrap_or_default();
        if swaps.lines().any(|line| line.split_whitespace().next().map(Path::new) == Some(&device))
        {
            return Some(Use::Swap { device });
        }
        if let Some(at) = self.mounted_at(directory, &device) {
            return Some(Use::Mounted { device, at });
        }
        (self.is_real() && is_held(&device)).then_some(Use::Open { device })
    }

    /// By number, or, for file systems of several devices, by the name of the source; in our mount
    /// namespace or in that of the first process.
    fn mounted_at(&self, directory: &Path, device: &Path) -> Option<String> {
        let number = attribute(directory, "dev");
        let lists = ["proc/self/mountinfo", "proc/1/mountinfo"];
        let texts = lists.into_iter().filter_map(|list| fs::read_to_string(self.path(list)).ok());
        texts.into_iter().find_map(|text| {
            text.lines().find_map(|line| {
                let (left, right) = line.split_once(" - ")?;
                let mut fields = left.split(' ');
                let by_number = fields.nth(2).map(str::to_owned) == number;
                let at = fields.nth(1)?.to_owned();
                let source = right.split(' ').nth(1).map(Path::new);
                (by_number || source == Some(device)).then_some(at)
            })
        })
    }
}

/// An exclusive open fails where a file system, a device above, or a program has the device.
fn is_held(device: &Path) -> bool {
    use rustix::fs::{Mode, OFlags, open};
    let flags = OFlags::RDONLY | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NONBLOCK;
    open(device, flags, Mode::empty()).is_err_and(|error| error == rustix::io::Errno::BUSY)
}

/// Where an entry of `/sys/block` lies: itself, and, for a namespace that several controllers
/// share (`nvme-subsystem`), those controllers.
fn places(entry: &Path) -> Vec<PathBuf> {
    let Ok(place) = fs::canonicalize(entry) else { return Vec::new() };
    let above = place.parent().map(Path::to_owned).unwrap_or_default();
    let is_subsystem =
        above.file_name().is_some_and(|name| name.to_string_lossy().starts_with("nvme-subsys"));
    let controllers = fs::read_dir(&above)
        .into_iter()
        .flatten()
        .filter_map(Result::ok)
        .filter(|entry| is_subsystem && entry.file_name().to_string_lossy().starts_with("nvme"))
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_symlink()))
        .filter_map(|entry| fs::canonicalize(entry.path()).ok());
    std::iter::once(place).chain(controllers).collect()
}

fn is_below(entry: &Path, controller: &Path) -> bool {
    // `nvme0c0n1` is a hidden path of `nvme0n1`, not a disk.
    let name = entry.file_name().unwrap_or_default().to_string_lossy();
    let is_hidden = fs::read_to_string(entry.join("hidden")).is_ok_and(|text| text.trim() == "1");
    let is_path = name.starts_with("nvme") && name.trim_start_matches("nvme").contains('c');
    !is_hidden && !is_path && places(entry).iter().any(|place| place.starts_with(controller))
}

/// What orders paths by the numbers in them: `ata9` before `ata10`.
fn in_order(path: &Path) -> Vec<(String, u64)> {
    let text = path.to_string_lossy();
    let is_end = |pair: &[u8]| pair[0].is_ascii_digit() && !pair[1].is_ascii_digit();
    let ends = text.as_bytes().windows(2).enumerate().filter(|(_, pair)| is_end(pair));
    let ends = ends.map(|(at, _)| at + 1).chain([text.len()]);
    let mut begin = 0;
    let mut parts = Vec::new();
    for end in ends {
        let part = &text[begin..end];
        let words = part.trim_end_matches(|c: char| c.is_ascii_digit());
        parts.push((words.to_owned(), part[words.len()..].parse().unwrap_or(0)));
        begin = end;
    }
    parts
}

fn partitions(name: &str, directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().filter_map(Result::ok);
    entries
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(name))
        .map(|entry| entry.path())
        .filter(|path| path.join("partition").exists())
        .collect()
}

/// The name in sysfs has `!` where the path has `/`.
fn device_path(name: &str) -> PathBuf {
    Path::new("/dev").join(name.replace('!', "/"))
}
