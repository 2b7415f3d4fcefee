//! The generic device of an NVMe namespace (`/dev/ng0n1`), by which commands reach its driver past
//! the block layer.

use super::probe::{attribute, device_directory, number};
use crate::disk::{Info, Op};
use crate::dma::{Arena, Buf};
use crate::uring::passthrough::{nvme_identify_namespace, nvme_namespace_id};
use crate::uring::{CommandDone, CommandQueue, CommandTarget};
use rustix::fs::{Dev, Mode, OFlags, major, minor};
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use storage_spec::nvme::identify::{FormattedSize, IdentifyNamespace};
use zerocopy::FromBytes;

/// A buffer may begin within a page, so that it lies in one more than it is long.
const PAGE: u64 = 4096;

/// A generic device that was found to do what it should.
#[derive(Debug, Clone)]
pub(super) struct Generic {
    device: Arc<OwnedFd>,
    target: CommandTarget,
}

impl Generic {
    /// That of a block device which is open and locked: `block` is its descriptor. An error says
    /// why there is none for us.
    pub(super) fn open(device: Dev, (block, info): (&OwnedFd, &Info)) -> Result<Self, String> {
        let place = Place::find(&device_directory(device), Path::new("/sys/class/nvme-generic"))?;
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        let opened = rustix::fs::open(&place.path, flags, Mode::empty());
        let device = opened.map_err(|error| format!("{}: {error}", place.path.display()))?;
        let number = rustix::fs::fstat(&device).map_err(|error| error.to_string())?.st_rdev;
        if format!("{}:{}", major(number), minor(number)) != place.number {
            return Err(format!("{} is another device", place.path.display()));
        }
        let (nsid, block_shift) = identify(&device, info)?;
        let of_block = nvme_namespace_id(block).map_err(|error| format!("its number: {error}"))?;
        if nsid != of_block {
            return Err("the generic device is of another namespace".to_owned());
        }
        let (transfer_max, fua) = (place.transfer_max, info.fua);
        let target = CommandTarget { nsid, block_shift, transfer_max, fua };
        let generic = Self { device: Arc::new(device), target };
        generic.try_out(block)?;
        Ok(generic)
    }

    /// One that takes no commands at all: a pipe.
    #[cfg(test)]
    pub(super) fn mute(info: &Info) -> Self {
        let device = Arc::new(OwnedFd::from(io::pipe().unwrap().0));
        let block_shift = info.block_size.trailing_zeros() as u8;
        let (transfer_max, fua) = (8192, true);
        let target = CommandTarget { nsid: 1, block_shift, transfer_max, fua };
        Self { device, target }
    }

    /// A queue for the calling core, from byte `base` on, that keeps the lock of `block`.
    pub(super) fn queue(
        &self,
        block: &OwnedFd,
        base: u64,
        depth: usize,
    ) -> Result<CommandQueue, String> {
        let files = (Arc::clone(&self.device), block);
        let queue = CommandQueue::new(files, self.target, base, depth);
        queue.map_err(|error| error.to_string())
    }

    /// Reads a block by both ways.
    fn try_out(&self, block: &OwnedFd) -> Result<(), String> {
        let system = |error: &dyn std::fmt::Display| format!("cannot try it out: {error}");
        let arena = Arena::new(2 << 20, 1).map_err(|error| system(&error))?;
        let pool = arena.pool(0);
        let len = PAGE as usize;
        let alloc = || pool.alloc(len).expect("it has room for two pages");
        let (mut expected, buf): (Buf, Buf) = (alloc(), alloc());
        rustix::io::pread(block, &mut expected[..], 0).map_err(|error| system(&error))?;
        let mut queue = self.queue(block, 0, 1)?;
        queue.submit(0, Op::Read { offset: 0, buf });
        let done = loop {
            queue.turn();
            match queue.next() {
                Some(done) => break done,
                None => std::thread::yield_now(),
            }
        };
        match done {
            CommandDone { result, .. } if result != 0 => Err(refusal(result)),
            CommandDone { op: Op::Read { buf, .. }, .. } if buf[..] == expected[..] => Ok(()),
            _ => Err("it reads other data than the block device".to_owned()),
        }
    }
}

/// What a result of a command that is no success says.
pub(super) fn refusal(result: i32) -> String {
    if result < 0 {
        return format!("the kernel refuses: {}", io::Error::from_raw_os_error(-result));
    }
    format!("the device answers with status {result:#06x}")
}

/// Whether the kernel does not take commands at all, rather than having failed at this one.
pub(super) fn is_refused(result: i32) -> bool {
    let errors = [libc::EOPNOTSUPP, libc::ENOTTY, libc::EPERM, libc::EACCES, libc::EINVAL];
    errors.contains(&-result)
}

/// Where a generic device is, and what goes through it.
#[derive(Debug, PartialEq, Eq)]
struct Place {
    path: PathBuf,
    /// `major:minor`.
    number: String,
    transfer_max: usize,
}

impl Place {
    /// `directory`: of the block device in sysfs. `class`: where generic devices are.
    fn find(directory: &Path, class: &Path) -> Result<Self, String> {
        if directory.join("partition").exists() {
            return Err("it is a partition, and a generic device is the whole namespace".to_owned());
        }
        let name = directory.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let numbers = name.strip_prefix("nvme").ok_or("it is no NVMe namespace")?;
        let queue = directory.join("queue");
        if attribute(&queue, "zoned").is_some_and(|zoned| zoned != "none") {
            return Err("it is zoned".to_owned());
        }
        let name = format!("ng{numbers}");
        let controller = |place: &Path| fs::canonicalize(place.join("device")).ok();
        let generic = class.join(&name);
        let found =
            controller(&generic).filter(|found| Some(found) == controller(directory).as_ref());
        let (Some(_), Some(dev)) = (found, attribute(&generic, "dev")) else {
            return Err(format!("the kernel has no /dev/{name} for it (Linux 6.1 or newer has)"));
        };
        let bytes = number::<u64>(&queue, "max_hw_sectors_kb").map(|kib| kib << 10);
        let pages = number::<u64>(&queue, "max_segments").map(|count| (count.max(2) - 1) * PAGE);
        let (Some(bytes), Some(pages)) = (bytes, pages) else {
            return Err("the kernel does not say how much fits into a command".to_owned());
        };
        let transfer_max = bytes.min(pages) / PAGE * PAGE;
        if transfer_max == 0 {
            return Err("less than 4 KiB fit into a command".to_owned());
        }
        let path = Path::new("/dev").join(name);
        Ok(Self { path, number: dev, transfer_max: transfer_max as usize })
    }
}

/// The number, and log2 of a block's bytes, of a namespace without metadata that is what the block
/// device shows.
fn identify(device: &OwnedFd, info: &Info) -> Result<(u32, u8), String> {
    let ask = |error: io::Error| format!("cannot identify the namespace: {error}");
    let nsid = nvme_namespace_id(device).map_err(ask)?;
    let bytes = nvme_identify_namespace(device, nsid).map_err(ask)?;
    let identity = IdentifyNamespace::read_from_bytes(&bytes).expect("it has one page");
    Ok((nsid, block_shift(&identity, info)?))
}

fn block_shift(identity: &IdentifyNamespace, info: &Info) -> Result<u8, String> {
    let format = FormattedSize::from(identity.format);
    let index = usize::from(format.index_low()) | usize::from(format.index_high()) << 4;
    let format = identity.lba_formats[index];
    if format.metadata.get() != 0 || identity.protection & 0b111 != 0 {
        return Err("its format has metadata".to_owned());
    }
    let block = 1_u64.checked_shl(format.block_shift.into()).unwrap_or(0);
    let is_same = block == u64::from(info.block_size)
        && identity.size.get().checked_mul(block).is_some_and(|bytes| bytes >= info.capacity);
    if is_same { Ok(format.block_shift) } else { Err("its format is another one".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use storage_spec::nvme::identify::LbaFormat;
    use zerocopy::FromZeros;

    #[test]
    fn the_generic_device_of_a_namespace_is_found() {
        let root = std::env::temp_dir().join(format!("generic-{}", std::process::id()));
        let (class, controller) = (root.join("class"), root.join("nvme3"));
        let (block, other) = (controller.join("nvme3n2"), root.join("nvme4"));
        let queue = block.join("queue");
        for folder in [&queue, &class.join("ng3n2"), &other] {
            fs::create_dir_all(folder).unwrap();
        }
        let set = |name: &str, value: &str| fs::write(queue.join(name), value).unwrap();
        let link = |to: &Path, from: &Path| std::os::unix::fs::symlink(to, from).unwrap();
        let find = || Place::find(&block, &class);
        let generic = class.join("ng3n2/device");
        link(&controller, &block.join("device"));
        assert!(find().unwrap_err().contains("ng3n2"), "another kernel");
        link(&other, &generic);
        assert!(find().unwrap_err().contains("ng3n2"), "of another controller");
        fs::remove_file(&generic).unwrap();
        link(&controller, &generic);
        assert!(find().unwrap_err().contains("ng3n2"), "without a number");
        fs::write(class.join("ng3n2/dev"), "242:7\n").unwrap();
        assert!(find().unwrap_err().contains("how much"));
        set("max_hw_sectors_kb", "512\n");
        set("max_segments", "127\n");
        set("zoned", "none\n");
        let path = PathBuf::from("/dev/ng3n2");
        let number = "242:7".to_owned();
        let place =
            |transfer_max| Ok(Place { path: path.clone(), number: number.clone(), transfer_max });
        assert_eq!(find(), place(126 * 4096), "a page each, and one more for the beginning");
        set("max_hw_sectors_kb", "130\n");
        assert_eq!(find(), place(128 << 10));
        set("max_hw_sectors_kb", "2\n");
        assert!(find().unwrap_err().contains("4 KiB"));
        set("zoned", "host-managed\n");
        assert!(find().unwrap_err().contains("zoned"));
        fs::write(block.join("partition"), "1\n").unwrap();
        assert!(find().unwrap_err().contains("partition"));
        assert!(Place::find(&root.join("sda"), &class).unwrap_err().contains("no NVMe"));
        fs::remove_dir_all(&root).unwrap();
    }

    #[test]
    fn formats_that_carry_metadata_are_left_to_the_block_layer() {
        let info = Info {
            name: "x".into(),
            capacity: 1000 * 4096,
            block_size: 4096,
            atomic_write: 0,
            volatile_cache: true,
            fua: true,
            deallocate: true,
            rotational: false,
            queue_depth: 1,
            transfer_max: 4096,
        };
        let mut identity = IdentifyNamespace::new_zeroed();
        identity.size.set(1000);
        identity.format = 1;
        identity.lba_formats[1] = LbaFormat { block_shift: 12, ..LbaFormat::new_zeroed() };
        assert_eq!(block_shift(&identity, &info), Ok(12));
        identity.lba_formats[1].metadata.set(8);
        assert!(block_shift(&identity, &info).unwrap_err().contains("metadata"));
        identity.lba_formats[1].metadata.set(0);
        identity.protection = 1;
        assert!(block_shift(&identity, &info).unwrap_err().contains("metadata"));
        identity.protection = 0;
        identity.lba_formats[1].block_shift = 9;
        assert!(block_shift(&identity, &info).unwrap_err().contains("another"));
        identity.lba_formats[1].block_shift = 200;
        assert!(block_shift(&identity, &info).unwrap_err().contains("another"));
        identity.lba_formats[1].block_shift = 12;
        identity.size.set(999);
        assert!(block_shift(&identity, &info).unwrap_err().contains("another"));
    }

    #[test]
    fn a_refusal_is_told_from_a_failure() {
        assert!(is_refused(-libc::EOPNOTSUPP) && is_refused(-libc::EACCES));
        assert!(!is_refused(-libc::EINTR) && !is_refused(-libc::ENODEV) && !is_refused(0x281));
        assert!(refusal(0x281).contains("0x0281"));
        assert!(refusal(-libc::EACCES).contains("ermission"));
    }
}
