//! Groups and containers: the API that every kernel with VFIO has.

use super::error::OpenError;
use super::ioctl;
use crate::pci::{Machine, Neighbours, PciAddress};
use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::ops::RangeInclusive;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use vfio_bindings::bindings::vfio;

const CONTAINER: &str = "dev/vfio/vfio";

/// Bytes for the IOMMU's capabilities: 256 are usual.
const INFO_BYTES: usize = 16 << 10;

/// A container, with the groups that are in it.
pub(super) struct Container {
    fd: File,
    groups: HashMap<u32, Weak<Group>>,
    /// Whether the groups have no IOMMU.
    is_physical: bool,
    has_iommu: bool,
}

/// A group: all that one IOMMU domain holds. Open as long as one of its devices is.
pub(super) struct Group {
    fd: File,
}

impl Container {
    /// An empty container.
    pub(super) fn open(
        machine: &Machine,
        address: PciAddress,
        is_physical: bool,
    ) -> Result<Self, OpenError> {
        let path = machine.path(CONTAINER);
        let fd = open(&path).map_err(|error| OpenError::from_open(address, path.clone(), error))?;
        let system = |what, source| OpenError::System { address, what, source };
        let version =
            ioctl::api_version(&fd).map_err(|e| system("cannot ask VFIO's version", e))?;
        let kind = kind(is_physical);
        if version.cast_unsigned() != vfio::VFIO_API_VERSION || !ioctl::has_extension(&fd, kind) {
            return Err(system("the kernel's VFIO", io::ErrorKind::Unsupported.into()));
        }
        Ok(Self { fd, groups: HashMap::new(), is_physical, has_iommu: false })
    }

    /// Opens a device of a group, and the group itself if none of its devices is open.
    pub(super) fn device(
        &mut self,
        machine: &Machine,
        address: PciAddress,
        number: u32,
    ) -> Result<(OwnedFd, Arc<Group>), OpenError> {
        let group = match self.groups.get(&number).and_then(Weak::upgrade) {
            Some(group) => group,
            None => self.add_group(machine, address, number)?,
        };
        let device = ioctl::device_fd(&group.fd, &address.to_string());
        let what = "cannot open the device";
        let device = device.map_err(|source| OpenError::System { address, what, source })?;
        Ok((device, group))
    }

    fn add_group(
        &mut self,
        machine: &Machine,
        address: PciAddress,
        number: u32,
    ) -> Result<Arc<Group>, OpenError> {
        let path = group_path(machine, number, self.is_physical);
        let fd = open(&path).map_err(|error| OpenError::from_open(address, path, error))?;
        let system = |what, source| OpenError::System { address, what, source };
        let argsz = size_of::<vfio::vfio_group_status>() as u32;
        let mut status = vfio::vfio_group_status { argsz, flags: 0 };
        ioctl::ask(&fd, &mut status).map_err(|error| system("cannot ask for the group", error))?;
        if status.flags & vfio::VFIO_GROUP_FLAGS_VIABLE == 0 {
            let others = Neighbours(machine.group_obstacles(address));
            return Err(OpenError::NotViable { address, group: number, others });
        }
        ioctl::set_container(&fd, &self.fd)
            .map_err(|error| system("cannot take the group into the container", error))?;
        if !self.has_iommu {
            ioctl::set_iommu(&self.fd, kind(self.is_physical))
                .map_err(|error| system("cannot set up the IOMMU", error))?;
            self.has_iommu = true;
        }
        let group = Arc::new(Group { fd });
        self.groups.insert(number, Arc::downgrade(&group));
        Ok(group)
    }

    /// Whether a container that lost its last group has lost its IOMMU, and its mappings, with it.
    pub(super) fn is_abandoned(&self) -> bool {
        self.has_iommu && self.groups.values().all(|group| group.strong_count() == 0)
    }

    /// What the IOMMU translates.
    pub(super) fn ranges(&self) -> io::Result<Vec<RangeInclusive<u64>>> {
        let mut buffer = vec![0; INFO_BYTES / 8];
        ioctl::type1_info(&self.fd, &mut buffer)?;
        let bytes: Vec<u8> = buffer.iter().flat_map(|word| word.to_le_bytes()).collect();
        Ok(iova_ranges(&bytes))
    }

    /// Maps memory that the caller keeps until it is unmapped.
    ///
    /// # Safety
    /// The memory must be plain memory of ours that stays mapped, and may be written by devices.
    pub(super) unsafe fn map(&self, start: usize, len: usize, address: u64) -> io::Result<()> {
        let mut argument = vfio::vfio_iommu_type1_dma_map {
            argsz: size_of::<vfio::vfio_iommu_type1_dma_map>() as u32,
            flags: vfio::VFIO_DMA_MAP_FLAG_READ | vfio::VFIO_DMA_MAP_FLAG_WRITE,
            vaddr: start as u64,
            iova: address,
            size: len as u64,
        };
        // SAFETY: the caller's promise.
        unsafe { ioctl::call(&self.fd, &mut argument) }.map(drop)
    }

    pub(super) fn unmap(&self, address: u64, len: usize) -> io::Result<()> {
        let mut argument = vfio::vfio_iommu_type1_dma_unmap {
            argsz: size_of::<vfio::vfio_iommu_type1_dma_unmap>() as u32,
            iova: address,
            size: len as u64,
            ..Default::default()
        };
        ioctl::ask(&self.fd, &mut argument).map(drop)
    }
}

/// The file of a group.
pub(super) fn group_path(machine: &Machine, number: u32, is_physical: bool) -> PathBuf {
    let prefix = if is_physical { "noiommu-" } else { "" };
    machine.path(format!("dev/vfio/{prefix}{number}"))
}

fn kind(is_physical: bool) -> u32 {
    if is_physical { vfio::VFIO_NOIOMMU_IOMMU } else { vfio::VFIO_TYPE1v2_IOMMU }
}

pub(super) fn open(path: &std::path::Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open(path)
}

/// The ranges in a `vfio_iommu_type1_info` with its chain of capabilities; none where it tells
/// none, or makes no sense.
fn iova_ranges(info: &[u8]) -> Vec<RangeInclusive<u64>> {
    let u16_at = |at: usize| Some(u16::from_le_bytes(*info.get(at..)?.first_chunk()?));
    let u32_at = |at: usize| Some(u32::from_le_bytes(*info.get(at..)?.first_chunk()?));
    let u64_at = |at: usize| Some(u64::from_le_bytes(*info.get(at..)?.first_chunk()?));
    let has_capabilities = u32_at(4).is_some_and(|flags| flags & vfio::VFIO_IOMMU_INFO_CAPS != 0);
    let mut at = u32_at(16).filter(|_| has_capabilities).unwrap_or(0) as usize;
    let mut ranges = Vec::new();
    while at != 0 {
        let wanted = vfio::VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE;
        if u16_at(at).map(u32::from) == Some(wanted) {
            let count = u32_at(at + 8).unwrap_or(0) as usize;
            let entries = (0..count.min(info.len() / 16)).map(|entry| at + 16 + entry * 16);
            ranges.extend(entries.map_while(|at| Some(u64_at(at)?..=u64_at(at + 8)?)));
        }
        // Capabilities lie in order: one that points back would never end.
        let next = u32_at(at + 4).unwrap_or(0) as usize;
        at = if next > at { next } else { 0 };
    }
    ranges.retain(|range| range.start() < range.end());
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: &[u32]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    #[test]
    fn ranges_are_found_in_the_chain() {
        let info = words(&[
            // argsz, flags, page sizes, offset of the first capability, padding
            96,
            3,
            0x4020_1000,
            0,
            24,
            0, //
            // another capability: id 3, version 1
            3 | 1 << 16,
            40,
            65535,
            0, //
            // two ranges: around the interrupts
            1 | 1 << 16,
            0,
            2,
            0,
            0,
            0,
            0xfedf_ffff,
            0,
            0xfef0_0000,
            0,
            0xffff_ffff,
            0x7f,
        ]);
        let expected = [0..=0xfedf_ffff, 0xfef0_0000..=0x7f_ffff_ffff];
        assert_eq!(iova_ranges(&info), expected);
    }

    #[test]
    fn nonsense_has_no_ranges() {
        assert_eq!(iova_ranges(&[]), []);
        assert_eq!(iova_ranges(&words(&[24, 1, 0, 0, 24, 0])), []);
        assert_eq!(iova_ranges(&words(&[24, 3, 0, 0, 4096, 0])), []);
        let cut = words(&[40, 3, 0, 0, 24, 0, 1, 0, u32::MAX, 0]);
        assert_eq!(iova_ranges(&cut), []);
        let loops = words(&[40, 3, 0, 0, 24, 0, 7, 24, 0, 0]);
        assert_eq!(iova_ranges(&loops), []);
    }
}
