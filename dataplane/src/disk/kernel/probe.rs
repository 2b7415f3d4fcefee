//! What sysfs says about block devices.

use rustix::fs::{Dev, major, minor};
use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// The facts about a block device that matter to us. Unknown ones are as bad as they may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct DeviceFacts {
    /// Bytes that the medium writes as one; 0 where unknown.
    pub(super) physical_block: u32,
    pub(super) volatile_cache: bool,
    pub(super) fua: bool,
    pub(super) deallocate: bool,
    pub(super) rotational: bool,
    /// Whether the kernel can poll it: it has queues without interrupts.
    pub(super) io_poll: bool,
}

impl DeviceFacts {
    const UNKNOWN: Self = Self {
        physical_block: 0,
        volatile_cache: true,
        fua: false,
        deallocate: false,
        rotational: false,
        io_poll: false,
    };

    /// Of the device with this number, or of the disk that it is a partition of.
    pub(super) fn of(device: Dev) -> Self {
        let directory = device_directory(device);
        let queue = [directory.join("queue"), directory.join("../queue")];
        queue.iter().find(|queue| queue.is_dir()).map_or(Self::UNKNOWN, |queue| Self::read(queue))
    }

    fn read(queue: &Path) -> Self {
        let cache = attribute(queue, "write_cache").unwrap_or_default();
        Self {
            physical_block: number(queue, "physical_block_size").unwrap_or(0),
            volatile_cache: cache != "write through",
            fua: number::<u32>(queue, "fua") == Some(1),
            // The kernel discards a range that must read as zero afterwards only where the device
            // can unmap and write zeroes.
            deallocate: number::<u64>(queue, "discard_max_bytes").unwrap_or(0) > 0
                && number::<u64>(queue, "write_zeroes_max_bytes").unwrap_or(0) > 0,
            rotational: number::<u32>(queue, "rotational") == Some(1),
            io_poll: number::<u32>(queue, "io_poll") == Some(1),
        }
    }
}

/// A block device among all that have had its number since the machine started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DeviceId {
    /// Where sysfs shows it.
    link: PathBuf,
    /// What tells it from earlier and later ones of its number, where the kernel counts them.
    sequence: Option<u64>,
}

impl DeviceId {
    pub(super) fn of(device: Dev) -> Self {
        Self::at(format!("/sys/dev/block/{}:{}", major(device), minor(device)).into())
    }

    fn at(link: PathBuf) -> Self {
        // A partition has its disk's.
        let directory = fs::canonicalize(&link).unwrap_or_else(|_| link.clone());
        let sequence =
            number(&directory, "diskseq").or_else(|| number(&directory.join(".."), "diskseq"));
        Self { link, sequence }
    }

    /// Whether it is still there.
    pub(super) fn is_there(&self) -> bool {
        self.link.exists() && Self::at(self.link.clone()).sequence == self.sequence
    }
}

/// The directory of a device in sysfs; need not exist (tmpfs, btrfs, overlay have no device).
pub(super) fn device_directory(device: Dev) -> PathBuf {
    let path = PathBuf::from(format!("/sys/dev/block/{}:{}", major(device), minor(device)));
    fs::canonicalize(&path).unwrap_or(path)
}

/// A file of sysfs without its end of line; `None` if it is empty or not there.
pub(super) fn attribute(directory: &Path, name: &str) -> Option<String> {
    let text = fs::read_to_string(directory.join(name)).ok()?;
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

/// As [`attribute`], a number.
pub(super) fn number<N: FromStr>(directory: &Path, name: &str) -> Option<N> {
    attribute(directory, name)?.parse().ok()
}

/// Where a device, given as `major:minor`, is mounted.
pub(super) fn mount_point(device: &str) -> Option<String> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ');
        (fields.nth(2) == Some(device)).then(|| fields.nth(1).map(str::to_owned))?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A queue directory with these attributes.
    fn facts(name: &str, attributes: &[(&str, &str)]) -> DeviceFacts {
        let queue = std::env::temp_dir().join(format!("probe-{name}-{}", std::process::id()));
        fs::create_dir(&queue).unwrap();
        for (attribute, value) in attributes {
            fs::write(queue.join(attribute), format!("{value}\n")).unwrap();
        }
        let facts = DeviceFacts::read(&queue);
        fs::remove_dir_all(&queue).unwrap();
        facts
    }

    #[test]
    fn a_device_is_known_from_its_successors() {
        let root = std::env::temp_dir().join(format!("device-id-{}", std::process::id()));
        let disk = root.join("disk");
        fs::create_dir_all(disk.join("part")).unwrap();
        fs::write(disk.join("diskseq"), "7\n").unwrap();
        let whole = DeviceId::at(disk.clone());
        let link = root.join("link");
        std::os::unix::fs::symlink(disk.join("part"), &link).unwrap();
        let part = DeviceId::at(link);
        assert!(whole.is_there() && part.is_there());
        assert_eq!((whole.sequence, part.sequence), (Some(7), Some(7)));
        fs::write(disk.join("diskseq"), "8\n").unwrap();
        assert!(!whole.is_there() && !part.is_there(), "another one has its number");
        fs::remove_dir_all(&root).unwrap();
        assert!(!whole.is_there() && !part.is_there());
    }

    #[test]
    fn what_is_not_told_is_as_bad_as_it_may_be() {
        assert_eq!(facts("empty", &[]), DeviceFacts::UNKNOWN);
        assert_eq!(DeviceFacts::of(rustix::fs::makedev(0, 4_000)), DeviceFacts::UNKNOWN);
    }

    #[test]
    fn attributes_are_understood() {
        let told = facts(
            "full",
            &[
                ("write_cache", "write through"),
                ("physical_block_size", "4096"),
                ("fua", "1"),
                ("discard_max_bytes", "2199023255040"),
                ("write_zeroes_max_bytes", "2199023255040"),
                ("rotational", "1"),
                ("io_poll", "1"),
            ],
        );
        let expected = DeviceFacts {
            physical_block: 4096,
            volatile_cache: false,
            fua: true,
            deallocate: true,
            rotational: true,
            io_poll: true,
        };
        assert_eq!(told, expected);
        let zeroes_only = facts("zeroes", &[("write_zeroes_max_bytes", "1"), ("fua", "0")]);
        assert!(!zeroes_only.deallocate && !zeroes_only.fua);
    }
}
