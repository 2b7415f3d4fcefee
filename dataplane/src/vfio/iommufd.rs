//! iommufd: the newer API, a character device for each function and address spaces apart.

use super::error::OpenError;
use super::ioctl;
use crate::pci::{Machine, Neighbours, PciAddress};
use iommufd_bindings as bindings;
use std::fs::{self, File};
use std::io;
use std::ops::RangeInclusive;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;
use vfio_bindings::bindings::vfio;

const IOMMU: &str = "dev/iommu";

/// Ranges of addresses that are asked for: a few are usual.
const RANGES_MAX: usize = 64;

/// One address space for all devices.
pub(super) struct Iommufd {
    fd: File,
    ioas: u32,
}

/// The character device of a function, where the kernel has them.
pub(super) fn device_path(machine: &Machine, address: PciAddress) -> Option<PathBuf> {
    let names = fs::read_dir(machine.pci_directory(address).join("vfio-dev")).ok()?;
    let name = names.filter_map(Result::ok).next()?.file_name();
    let path = machine.path("dev/vfio/devices").join(name);
    (path.exists() && machine.path(IOMMU).exists()).then_some(path)
}

impl Iommufd {
    /// An empty address space.
    pub(super) fn open(machine: &Machine, address: PciAddress) -> Result<Self, OpenError> {
        let path = machine.path(IOMMU);
        let opened = super::container::open(&path);
        let fd = opened.map_err(|error| OpenError::from_open(address, path, error))?;
        let size = size_of::<bindings::iommu_ioas_alloc>() as u32;
        let mut argument = bindings::iommu_ioas_alloc { size, ..Default::default() };
        let what = "cannot make an address space";
        ioctl::ask(&fd, &mut argument).map_err(|source| OpenError::System {
            address,
            what,
            source,
        })?;
        Ok(Self { fd, ioas: argument.out_ioas_id })
    }

    /// Opens a function and attaches it to the address space.
    pub(super) fn device(
        &self,
        machine: &Machine,
        address: PciAddress,
        path: PathBuf,
    ) -> Result<OwnedFd, OpenError> {
        let device = super::container::open(&path)
            .map_err(|error| OpenError::from_open(address, path.clone(), error))?;
        let mut bind = vfio::vfio_device_bind_iommufd {
            argsz: size_of::<vfio::vfio_device_bind_iommufd>() as u32,
            iommufd: self.fd.as_raw_fd(),
            ..Default::default()
        };
        ioctl::ask(&device, &mut bind)
            .map_err(|source| not_taken(machine, address, path, source))?;
        let mut attach = vfio::vfio_device_attach_iommufd_pt {
            argsz: size_of::<vfio::vfio_device_attach_iommufd_pt>() as u32,
            pt_id: self.ioas,
            ..Default::default()
        };
        let what = "cannot attach the device to its address space";
        ioctl::ask(&device, &mut attach).map_err(|source| OpenError::System {
            address,
            what,
            source,
        })?;
        Ok(device.into())
    }

    /// What may be mapped, for the devices attached so far.
    pub(super) fn ranges(&self) -> io::Result<Vec<RangeInclusive<u64>>> {
        let mut ranges = [bindings::iommu_iova_range::default(); RANGES_MAX];
        let count = ioctl::iova_ranges(&self.fd, self.ioas, &mut ranges)?;
        let ranges = ranges[..count].iter().filter(|range| range.start < range.last);
        Ok(ranges.map(|range| range.start..=range.last).collect())
    }

    /// Maps memory that the caller keeps until it is unmapped.
    ///
    /// # Safety
    /// The memory must be plain memory of ours that stays mapped, and may be written by devices.
    pub(super) unsafe fn map(&self, start: usize, len: usize, address: u64) -> io::Result<()> {
        let flags = bindings::iommufd_ioas_map_flags_IOMMU_IOAS_MAP_FIXED_IOVA
            | bindings::iommufd_ioas_map_flags_IOMMU_IOAS_MAP_READABLE
            | bindings::iommufd_ioas_map_flags_IOMMU_IOAS_MAP_WRITEABLE;
        let mut argument = bindings::iommu_ioas_map {
            size: size_of::<bindings::iommu_ioas_map>() as u32,
            flags,
            ioas_id: self.ioas,
            user_va: start as u64,
            length: len as u64,
            iova: address,
            ..Default::default()
        };
        // SAFETY: the caller's promise.
        unsafe { ioctl::call(&self.fd, &mut argument) }.map(drop)
    }

    pub(super) fn unmap(&self, address: u64, len: usize) -> io::Result<()> {
        let mut argument = bindings::iommu_ioas_unmap {
            size: size_of::<bindings::iommu_ioas_unmap>() as u32,
            ioas_id: self.ioas,
            iova: address,
            length: len as u64,
        };
        ioctl::ask(&self.fd, &mut argument).map(drop)
    }
}

/// What the kernel's answer to the bind of a device means.
fn not_taken(
    machine: &Machine,
    address: PciAddress,
    path: PathBuf,
    source: io::Error,
) -> OpenError {
    match source.raw_os_error() {
        // A group of it is open, or the device itself, which is told as an invalid argument: there
        // is nothing else wrong with ours.
        Some(libc::EBUSY | libc::EINVAL) => OpenError::Busy { address, path },
        // Others of its group belong to host drivers or to another process.
        Some(libc::EPERM) => {
            let group = machine.function(address).and_then(|function| function.group);
            let others = machine.group_obstacles(address);
            match group {
                Some(group) if !others.is_empty() => {
                    OpenError::NotViable { address, group, others: Neighbours(others) }
                }
                _ => OpenError::Busy { address, path },
            }
        }
        _ => OpenError::System { address, what: "cannot take the device", source },
    }
}
