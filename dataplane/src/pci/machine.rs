//! The part of sysfs, `/proc` and `/dev` that tells about PCI functions and block devices.

use super::PciAddress;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// How a value is written to a file of sysfs.
type Write = Box<dyn Fn(&Path, &str) -> io::Result<()> + Send + Sync>;

/// One machine: the real one, or a tree of files that looks like one.
pub struct Machine {
    root: PathBuf,
    write: Write,
    is_real: bool,
}

/// What a storage controller is, by its class code (PCI Code and ID Assignment 1.11, 1.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ControllerKind {
    /// NVM Express (class 01 08 02).
    Nvme,
    /// Serial ATA by AHCI (class 01 06 01).
    Ahci,
    /// Anything else: none that we drive.
    Other,
}

/// A PCI function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PciFunction {
    /// Where it is.
    pub address: PciAddress,
    /// Its class code: base class, subclass, programming interface.
    pub class: u32,
    /// Vendor and device id.
    pub ids: (u16, u16),
    /// The kernel driver that has it.
    pub driver: Option<String>,
    /// The only driver that may take it, where somebody has said so.
    pub driver_override: Option<String>,
    /// Its IOMMU group; `None` where no IOMMU stands before it.
    pub group: Option<u32>,
    /// The NUMA node that it is attached to.
    pub numa_node: Option<u32>,
}

impl PciFunction {
    /// What kind of controller it is.
    #[must_use]
    pub fn kind(&self) -> ControllerKind {
        match self.class {
            0x01_08_02 => ControllerKind::Nvme,
            0x01_06_01 => ControllerKind::Ahci,
            _ => ControllerKind::Other,
        }
    }

    /// Whether it is a bridge, which stays with its kernel driver.
    #[must_use]
    pub fn is_bridge(&self) -> bool {
        self.class >> 16 == 0x06
    }
}

impl Machine {
    /// This machine.
    #[must_use]
    pub fn this() -> Self {
        let write = |path: &Path, value: &str| {
            let mut file = fs::OpenOptions::new().write(true).open(path)?;
            io::Write::write_all(&mut file, value.as_bytes())
        };
        Self { root: PathBuf::from("/"), write: Box::new(write), is_real: true }
    }

    /// A machine made of files below `root`, whose kernel is `write`: it is called instead of
    /// writing to an attribute.
    #[must_use]
    pub fn simulated(
        root: PathBuf,
        write: impl Fn(&Path, &str) -> io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        Self { root, write: Box::new(write), is_real: false }
    }

    /// Whether devices can be opened as well as read about.
    pub(super) fn is_real(&self) -> bool {
        self.is_real
    }

    /// A path of this machine, given without its leading `/`.
    #[must_use]
    pub fn path(&self, below: impl AsRef<Path>) -> PathBuf {
        self.root.join(below)
    }

    /// The directory of a PCI function.
    #[must_use]
    pub fn pci_directory(&self, address: PciAddress) -> PathBuf {
        self.path(format!("sys/bus/pci/devices/{address}"))
    }

    pub(super) fn write(&self, path: &Path, value: &str) -> io::Result<()> {
        (self.write)(path, value)
    }

    /// A PCI function; `None` if there is none at this address.
    #[must_use]
    pub fn function(&self, address: PciAddress) -> Option<PciFunction> {
        let directory = self.pci_directory(address);
        Some(PciFunction {
            address,
            class: hex(&directory, "class")?,
            ids: (hex(&directory, "vendor")? as u16, hex(&directory, "device")? as u16),
            driver: link_name(&directory.join("driver")),
            driver_override: attribute(&directory, "driver_override")
                .filter(|driver| driver != "(null)"),
            group: link_name(&directory.join("iommu_group")).and_then(|name| name.parse().ok()),
            numa_node: number::<i64>(&directory, "numa_node")
                .and_then(|node| u32::try_from(node).ok()),
        })
    }

    /// Whether the kernel gives away functions that no IOMMU keeps in check.
    #[must_use]
    pub fn allows_no_iommu(&self) -> bool {
        let parameters = self.path("sys/module/vfio/parameters");
        let mode = attribute(&parameters, "enable_unsafe_noiommu_mode");
        mode.is_some_and(|mode| mode == "Y" || mode == "1")
    }

    /// The NVMe and AHCI controllers of the machine, by address.
    ///
    /// # Errors
    /// If sysfs cannot be read. A machine without PCI has none.
    pub fn controllers(&self) -> io::Result<Vec<PciFunction>> {
        let entries = match fs::read_dir(self.path("sys/bus/pci/devices")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut functions: Vec<PciFunction> = entries
            .filter_map(Result::ok)
            .filter_map(|entry| entry.file_name().to_string_lossy().parse().ok())
            .filter_map(|address| self.function(address))
            .filter(|function| function.kind() != ControllerKind::Other)
            .collect();
        functions.sort_by_key(|function| function.address);
        Ok(functions)
    }

    /// The functions that share an IOMMU group: VFIO gives all of them away, or none.
    #[must_use]
    pub fn group_members(&self, group: u32) -> Vec<PciFunction> {
        let directory = self.path(format!("sys/kernel/iommu_groups/{group}/devices"));
        let mut members: Vec<PciFunction> = fs::read_dir(directory)
            .into_iter()
            .flatten()
            .filter_map(Result::ok)
            .filter_map(|entry| entry.file_name().to_string_lossy().parse().ok())
            .filter_map(|address| self.function(address))
            .collect();
        members.sort_by_key(|function| function.address);
        members
    }

    /// Members of the group of `address`, other than itself, that keep VFIO from having it: those
    /// that a host driver has. Bridges may keep theirs (Linux: Documentation/driver-api/vfio.rst).
    #[must_use]
    pub fn group_obstacles(&self, address: PciAddress) -> Vec<PciFunction> {
        let group = self.function(address).and_then(|function| function.group);
        let members = group.map(|group| self.group_members(group)).unwrap_or_default();
        let is_obstacle = |member: &PciFunction| {
            let driver = member.driver.as_deref();
            let harmless = ["vfio-pci", "pci-stub", "pcieport"];
            member.address != address
                && !member.is_bridge()
                && driver.is_some_and(|driver| !harmless.contains(&driver))
        };
        members.into_iter().filter(is_obstacle).collect()
    }
}

/// A file of sysfs without its end of line; `None` if it is empty or not there.
pub(super) fn attribute(directory: &Path, name: &str) -> Option<String> {
    let text = fs::read_to_string(directory.join(name)).ok()?;
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

/// As [`attribute`], a decimal number.
pub(super) fn number<N: FromStr>(directory: &Path, name: &str) -> Option<N> {
    attribute(directory, name)?.parse().ok()
}

fn hex(directory: &Path, name: &str) -> Option<u32> {
    let text = attribute(directory, name)?;
    u32::from_str_radix(text.strip_prefix("0x")?, 16).ok()
}

/// The last part of what a link points to.
fn link_name(link: &Path) -> Option<String> {
    let target = fs::read_link(link).ok()?;
    Some(target.file_name()?.to_string_lossy().into_owned())
}
