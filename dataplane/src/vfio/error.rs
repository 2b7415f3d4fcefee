//! Why a device was not opened, and what to do about it.

use crate::pci::{Neighbours, PciAddress};
use std::io;
use std::path::PathBuf;

/// Why a device was not opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// There is nothing at this address.
    #[error("{0}: no PCI function there; `basalt disk list` shows the controllers")]
    Missing(PciAddress),
    /// Another driver has it, or none.
    #[error("{address}: driven by {}; give it up with `basalt disk bind {address}`",
        driver.as_deref().unwrap_or("no driver"))]
    NotBound {
        /// Where.
        address: PciAddress,
        /// Who has it.
        driver: Option<String>,
    },
    /// The kernel has no VFIO.
    #[error("{}: not there; run `modprobe vfio-pci`", .0.display())]
    NoVfio(PathBuf),
    /// No IOMMU stands before it.
    #[error(
        "{0}: there is no IOMMU before it; enable VT-d or AMD-Vi in the firmware (and \
         intel_iommu=on on the kernel's command line), or allow `no_iommu`"
    )]
    NoIommu(PciAddress),
    /// The operator allows no-IOMMU mode, the kernel does not.
    #[error(
        "{0}: no IOMMU, and the kernel does not allow devices without: echo 1 > \
         /sys/module/vfio/parameters/enable_unsafe_noiommu_mode, then bind it anew"
    )]
    NoIommuForbidden(PciAddress),
    /// No-IOMMU mode needs memory that stays where it is.
    #[error(
        "{0}: without an IOMMU buffers must lie in huge pages; reserve some (sysctl \
         vm.nr_hugepages) for `buffers` of every core and 64 MiB besides"
    )]
    NoHugePages(PciAddress),
    /// Others of the group have host drivers.
    #[error(
        "{address}: shares IOMMU group {group} with {others}; bind these to vfio-pci too, or move \
         the disk to another slot"
    )]
    NotViable {
        /// Where.
        address: PciAddress,
        /// The group.
        group: u32,
        /// Who keeps it.
        others: Neighbours,
    },
    /// The device file is somebody else's.
    #[error(
        "{}: permission denied; run as root, or give this user the file and a limit on locked \
         memory (LimitMEMLOCK=infinity)", .0.display()
    )]
    Permission(PathBuf),
    /// Another process has it.
    #[error("{address}: another process has it ({}); stop that one", path.display())]
    Busy {
        /// Where.
        address: PciAddress,
        /// The file that is busy.
        path: PathBuf,
    },
    /// Too little memory may be locked.
    #[error(
        "{address}: the kernel does not let this process lock {bytes} bytes (its limit: {limit}); \
         raise it: LimitMEMLOCK=infinity in the unit, or `ulimit -l unlimited`"
    )]
    LockedMemory {
        /// Where.
        address: PciAddress,
        /// What was to be mapped.
        bytes: usize,
        /// The limit in bytes, or "none".
        limit: String,
    },
    /// The device reaches less address space than the buffers take.
    #[error("{address}: no room for {bytes} bytes among the addresses that its IOMMU translates")]
    AddressSpace {
        /// Where.
        address: PciAddress,
        /// What was to be mapped.
        bytes: usize,
    },
    /// A window of registers that cannot be mapped.
    #[error("{address}: BAR {bar} {what}")]
    Window {
        /// Where.
        address: PciAddress,
        /// Which.
        bar: u32,
        /// What is wrong with it.
        what: &'static str,
    },
    /// Anything else.
    #[error("{address}: {what}: {source}")]
    System {
        /// Where.
        address: PciAddress,
        /// What was tried.
        what: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

impl OpenError {
    /// From what the kernel said when `path` was opened for `address`.
    pub(super) fn from_open(address: PciAddress, path: PathBuf, source: io::Error) -> Self {
        match source.raw_os_error() {
            Some(libc::ENOENT | libc::ENODEV) => Self::NoVfio(path),
            Some(libc::EACCES | libc::EPERM) => Self::Permission(path),
            Some(libc::EBUSY) => Self::Busy { address, path },
            _ => Self::System { address, what: "cannot open the device", source },
        }
    }

    /// From what the kernel said to a mapping of `bytes`.
    pub(super) fn from_map(address: PciAddress, bytes: usize, source: io::Error) -> Self {
        match source.raw_os_error() {
            Some(libc::ENOMEM | libc::EAGAIN) => {
                use rustix::process::{Resource, getrlimit};
                let limit = getrlimit(Resource::Memlock).current;
                let limit = limit.map_or("none".to_owned(), |limit| limit.to_string());
                Self::LockedMemory { address, bytes, limit }
            }
            Some(libc::ENOSPC) => Self::AddressSpace { address, bytes },
            _ => Self::System { address, what: "cannot map memory", source },
        }
    }
}
