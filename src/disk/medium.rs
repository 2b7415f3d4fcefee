//! Disks driven from the calling thread, without a node.

use crate::failure::{Exit, Failure};
use clap::Args;
use dataplane::disk::Disk;
use dataplane::disk::kernel::{KernelFile, KernelOptions, OpenError, SelfDriven};
use dataplane::disk::single::{self, Examined, Unit};
use dataplane::dma::{Arena, Pool};
use dataplane::pci::{ControllerKind, Machine, PciAddress};
use dataplane::uring::{Ring, RingOptions};
use dataplane::vfio::{self, Options, Vfio, VfioDevice};
use indicatif::{ProgressBar, ProgressStyle};
use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

/// Buffer memory in bytes.
const BUFFERS: usize = 64 << 20;

/// What is given up where no IOMMU stands before a device.
pub(super) const NO_IOMMU: &str = "--no-iommu takes it all the same, with the kernel's leave: \
    nothing then keeps the device from reading and writing anywhere in memory";

/// What the operator accepts of a controller that a command drives itself.
#[derive(Debug, Clone, Copy, Default, Args)]
pub struct Trust {
    /// Accept a controller that no IOMMU keeps in check: it can then write anywhere in memory
    #[arg(long)]
    pub no_iommu: bool,
}

/// Buffers to work on disks with.
pub(super) struct Bench {
    arena: Arena,
    pool: Pool,
    vfio: Vfio,
}

/// A disk that nobody else uses while we have it.
pub(super) enum Medium {
    /// Driven by the kernel.
    Kernel(Box<KernelFile>),
    /// A disk of a controller that we drive ourselves.
    Device(PciAddress, Unit),
}

/// A controller and a disk of it, as `pci:0000:01:00.0` or `pci:0000:01:00.0/2`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct DeviceName {
    pub(super) address: PciAddress,
    /// Of a namespace or of a port, as the controller has it.
    pub(super) number: Option<u32>,
}

impl DeviceName {
    /// `None`: it is a path.
    ///
    /// # Errors
    /// It begins as such a name and is none.
    pub(super) fn parse(path: &Path) -> Option<Result<Self, Failure>> {
        let text = path.to_str()?;
        let rest = text.strip_prefix("pci:")?;
        let (address, number) = match rest.split_once('/') {
            Some((address, number)) => (address, number.parse().map(Some)),
            None => (rest, Ok(None)),
        };
        Some(match (address.parse(), number) {
            (Ok(address), Ok(number)) => Ok(Self { address, number }),
            _ => {
                let what = "is no device; write pci:0000:01:00.0, or pci:0000:01:00.0/2 for \
                            namespace or port 2";
                Err(Failure::new(Exit::Usage, format!("{text} {what}")))
            }
        })
    }

    /// Which disk of its controller is meant.
    ///
    /// # Errors
    /// The controller has no disk of such a number.
    pub(super) fn unit(&self, machine: &Machine) -> Result<Unit, Failure> {
        let Self { address, number } = self;
        let kind = machine.function(*address).map(|function| function.kind());
        let wrong = |what: &str| Err(Failure::new(Exit::Usage, format!("pci:{address} {what}")));
        if kind == Some(ControllerKind::Ahci) {
            return match number.map(u8::try_from) {
                Some(Ok(port @ 0..32)) => Ok(Unit::Port(port)),
                Some(_) => wrong("has ports 0 to 31 at most"),
                None => wrong("is an AHCI adapter; add the port of the drive: /0 for the first"),
            };
        }
        match number.unwrap_or(1) {
            0 | u32::MAX => wrong("is an NVMe controller: its namespaces are numbered from 1"),
            id => Ok(Unit::Namespace(id)),
        }
    }
}

impl Bench {
    pub(super) fn new() -> Result<Self, Failure> {
        Self::trusting(Trust::default())
    }

    /// As [`Bench::new`], for what may be a controller that we drive ourselves.
    pub(super) fn trusting(trust: Trust) -> Result<Self, Failure> {
        let Trust { no_iommu } = trust;
        // Without an IOMMU buffers lie in huge pages; what has one needs none reserved for a tool.
        let made = if no_iommu { Arena::for_devices(BUFFERS, 1) } else { Arena::new(BUFFERS, 1) };
        let arena = made.map_err(|error| Failure::new(Exit::Failed, error.to_string()))?;
        let pool = arena.pool(0);
        let options = Options { no_iommu, ..Options::default() };
        Ok(Self { arena, pool, vfio: Vfio::new(options) })
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
            Medium::Device(address, unit) => {
                let device = self.device(*address)?;
                single::open(device, *unit).map_err(|error| failed(error.to_string()))
            }
        }
    }
}

impl Bench {
    /// The disks of a controller that nobody uses: what they are and how they fare.
    pub(super) fn examine(&self, controller: PciAddress) -> Result<Vec<Examined>, Failure> {
        let device = self.device(controller)?;
        let kind = Machine::this().function(controller).map(|function| function.kind());
        let examined = match kind {
            Some(ControllerKind::Ahci) => single::examine_drives(device),
            _ => single::examine_namespaces(device),
        };
        examined.map_err(|error| Failure::new(Exit::Failed, error.to_string()))
    }

    fn device(&self, address: PciAddress) -> Result<VfioDevice, Failure> {
        let opened = self.vfio.open(&Machine::this(), address, &self.arena);
        opened.map_err(|error| {
            let failure = Failure::new(Exit::Failed, error.to_string());
            match error {
                vfio::OpenError::NoIommu(_) => failure.hint(NO_IOMMU),
                _ => failure,
            }
        })
    }
}

impl Medium {
    /// For people.
    pub(super) fn name(&self) -> String {
        match self {
            Self::Kernel(file) => file.info().name.clone(),
            Self::Device(address, unit) => format!("pci:{address}/{unit}"),
        }
    }
}

/// Opens and locks a disk that nobody else uses. A controller of our own is locked while it is
/// driven.
pub(super) fn open(path: &Path) -> Result<Medium, Failure> {
    if let Some(device) = DeviceName::parse(path) {
        let device = device?;
        return Ok(Medium::Device(device.address, device.unit(&Machine::this())?));
    }
    let file = KernelFile::open(path, &KernelOptions::default()).map_err(|e| opened(&e))?;
    if let Some(device) = loop_device(path) {
        let text = format!("{}: in use by the loop device {device}", path.display());
        let hint = format!("detach it with `losetup -d {device}`, or choose another disk");
        return Err(Failure::new(Exit::Refused, text).hint(hint));
    }
    Ok(Medium::Kernel(Box::new(file)))
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
        assert_eq!(first.number, None);
        let third = parse("pci:01:00.0/3").expect("a device").expect("a good one");
        assert_eq!((third.address, third.number), (first.address, Some(3)));
        for bad in ["pci:", "pci:01:00.0/-1", "pci:01:00.0/", "pci:01:00.0/x", "pci:zz"] {
            assert!(parse(bad).expect("meant as a device").is_err(), "{bad}");
        }
    }

    #[test]
    fn the_controller_says_what_its_disks_are_numbered_by() {
        let root = std::env::temp_dir().join(format!("basalt-units-{}", std::process::id()));
        for (address, class) in [("0000:01:00.0", "0x010802"), ("0000:02:00.0", "0x010601")] {
            let folder = root.join("sys/bus/pci/devices").join(address);
            fs::create_dir_all(&folder).expect("a folder");
            for (name, value) in [("class", class), ("vendor", "0x1"), ("device", "0x2")] {
                fs::write(folder.join(name), value).expect("a file");
            }
        }
        let machine = Machine::simulated(root.clone(), |_, _| Ok(()));
        let unit = |text: &str| {
            let name = DeviceName::parse(Path::new(text)).expect("a device").expect("a good one");
            name.unit(&machine).map_err(|failure| failure.text)
        };
        assert_eq!(unit("pci:01:00.0"), Ok(Unit::Namespace(1)));
        assert_eq!(unit("pci:01:00.0/2"), Ok(Unit::Namespace(2)));
        assert!(unit("pci:01:00.0/0").is_err_and(|text| text.contains("numbered from 1")));
        assert_eq!(unit("pci:02:00.0/0"), Ok(Unit::Port(0)));
        assert!(unit("pci:02:00.0").is_err_and(|text| text.contains("the port")));
        assert!(unit("pci:02:00.0/32").is_err_and(|text| text.contains("0 to 31")));
        fs::remove_dir_all(&root).expect("it can be removed");
    }
}
