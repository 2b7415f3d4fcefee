//! The block devices of this machine, for people to choose from.

use super::probe::{attribute, mount_point, number};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// A block device, as `basalt disk list` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceEntry {
    /// Path in `/dev`.
    pub path: PathBuf,
    /// Capacity in bytes.
    pub size: u64,
    /// As the device says.
    pub model: Option<String>,
    /// As the device says.
    pub serial: Option<String>,
    /// Whether the medium turns.
    pub rotational: bool,
    /// Whether it refuses writes.
    pub read_only: bool,
    /// What uses it: a mount point, a device above it, swap; of the device or a partition of it.
    pub used_by: Option<String>,
}

/// All whole block devices that have a capacity, by name. Those that the kernel hides, which nobody
/// can open, are not among them: a path of an NVMe namespace with several (`nvme0c0n1`).
///
/// # Errors
/// If sysfs cannot be read.
pub fn list_devices() -> io::Result<Vec<DeviceEntry>> {
    list(Path::new("/sys/block"))
}

fn list(blocks: &Path) -> io::Result<Vec<DeviceEntry>> {
    let mut entries: Vec<DeviceEntry> = fs::read_dir(blocks)?
        .filter_map(Result::ok)
        .filter_map(|entry| device(&entry.file_name().to_string_lossy(), &entry.path()))
        .collect();
    entries.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(entries)
}

fn device(name: &str, directory: &Path) -> Option<DeviceEntry> {
    if number::<u32>(directory, "hidden") == Some(1) {
        return None;
    }
    let sectors: u64 = number(directory, "size").filter(|&sectors| sectors > 0)?;
    let below = directory.join("device");
    Some(DeviceEntry {
        path: device_path(name),
        size: sectors * 512,
        model: attribute(&below, "model"),
        serial: attribute(directory, "serial")
            .or_else(|| attribute(&below, "serial"))
            .or_else(|| page_serial(&fs::read(below.join("vpd_pg80")).ok()?))
            .or_else(|| attribute(directory, "wwid")),
        rotational: number::<u32>(&directory.join("queue"), "rotational") == Some(1),
        read_only: number::<u32>(directory, "ro") == Some(1),
        used_by: used_by(directory)
            .or_else(|| partitions(name, directory).find_map(|p| used_by(&p))),
    })
}

/// The serial number that a SCSI or SATA disk tells (SPC-5, section 7.7.18).
fn page_serial(page: &[u8]) -> Option<String> {
    let [_, 0x80, high, low, text @ ..] = page else { return None };
    let len = usize::from(u16::from_be_bytes([*high, *low]));
    let text = String::from_utf8_lossy(text.get(..len)?);
    let text = text.trim_matches(|c: char| c.is_whitespace() || c == '\0');
    (!text.is_empty()).then(|| text.to_owned())
}

/// The name in sysfs has `!` where the path has `/`.
fn device_path(name: &str) -> PathBuf {
    Path::new("/dev").join(name.replace('!', "/"))
}

fn partitions(name: &str, directory: &Path) -> impl Iterator<Item = PathBuf> {
    let prefix = name.to_owned();
    fs::read_dir(directory)
        .into_iter()
        .flatten()
        .filter_map(Result::ok)
        .filter(move |entry| entry.file_name().to_string_lossy().starts_with(&prefix))
        .map(|entry| entry.path())
        .filter(|path| path.join("partition").exists())
}

fn used_by(directory: &Path) -> Option<String> {
    let holder = fs::read_dir(directory.join("holders")).ok()?.find_map(Result::ok);
    if let Some(holder) = holder {
        return Some(holder.file_name().to_string_lossy().into_owned());
    }
    let name = directory.file_name()?.to_string_lossy();
    let path = device_path(&name);
    let swaps = fs::read_to_string("/proc/swaps").unwrap_or_default();
    if swaps.lines().any(|line| line.split_whitespace().next().map(Path::new) == Some(&path)) {
        return Some("swap".to_owned());
    }
    mount_point(&attribute(directory, "dev")?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_hides_is_not_listed() {
        let blocks = std::env::temp_dir().join(format!("blocks-{}", std::process::id()));
        let set = |name: &str, attribute: &str, value: &str| {
            fs::create_dir_all(blocks.join(name)).unwrap();
            fs::write(blocks.join(name).join(attribute), value).unwrap();
        };
        for (name, size, hidden) in [
            ("nvme0n1", "2048\n", Some("0\n")),
            ("nvme0c0n1", "2048\n", Some("1\n")),
            ("nvme0c1n1", "2048\n", Some("1\n")),
            ("loop0", "0\n", Some("0\n")),
            ("sda", "16\n", None),
        ] {
            set(name, "size", size);
            hidden.into_iter().for_each(|hidden| set(name, "hidden", hidden));
        }
        let listed = list(&blocks).unwrap();
        let listed: Vec<_> = listed.iter().map(|entry| (entry.path.to_str(), entry.size)).collect();
        assert_eq!(listed, [(Some("/dev/nvme0n1"), 1 << 20), (Some("/dev/sda"), 8192)]);
        fs::remove_dir_all(&blocks).unwrap();
    }

    #[test]
    fn serial_numbers_are_read_from_their_page() {
        let page = |text: &[u8]| [&[0, 0x80, 0, text.len() as u8], text].concat();
        assert_eq!(page_serial(&page(b"   WD-1234 ")).as_deref(), Some("WD-1234"));
        assert_eq!(page_serial(&page(b"    ")), None);
        assert_eq!(page_serial(&[0, 0x80, 0, 9, b'x']), None, "cut short");
        assert_eq!(page_serial(&[0, 0x83, 0, 1, b'x']), None, "another page");
        assert_eq!(page_serial(&[]), None);
    }
}
