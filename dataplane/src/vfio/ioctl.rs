//! The system calls: numbers, and calls whose arguments have the types that the numbers take.

use iommufd_bindings as iommufd;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use vfio_bindings::bindings::vfio;

/// `_IO(VFIO_TYPE, number)`: VFIO and iommufd put no size in their numbers.
const fn io(number: u32) -> u32 {
    (vfio::VFIO_TYPE as u32) << 8 | number
}

const fn vfio_io(offset: u32) -> u32 {
    io(vfio::VFIO_BASE + offset)
}

/// A call, with the type of its argument.
pub(super) trait Call {
    const NUMBER: u32;
}

macro_rules! calls {
    ($($type:ty: $number:expr;)*) => { $(impl Call for $type { const NUMBER: u32 = $number; })* };
}

calls! {
    vfio::vfio_group_status: vfio_io(3);
    vfio::vfio_device_info: vfio_io(7);
    vfio::vfio_region_info: vfio_io(8);
    vfio::vfio_irq_info: vfio_io(9);
    vfio::vfio_iommu_type1_dma_map: vfio_io(13);
    vfio::vfio_iommu_type1_dma_unmap: vfio_io(14);
    vfio::vfio_device_bind_iommufd: vfio_io(18);
    vfio::vfio_device_attach_iommufd_pt: vfio_io(19);
    iommufd::iommu_ioas_alloc: io(iommufd::IOMMUFD_CMD_IOAS_ALLOC);
    iommufd::iommu_ioas_map: io(iommufd::IOMMUFD_CMD_IOAS_MAP);
    iommufd::iommu_ioas_unmap: io(iommufd::IOMMUFD_CMD_IOAS_UNMAP);
}

/// Makes a call whose structure holds no pointers but to memory that the caller vouches for.
///
/// # Safety
/// Memory that the structure names must be valid for what the call does with it, as long as it
/// does.
pub(super) unsafe fn call<T: Call>(fd: impl AsFd, argument: &mut T) -> io::Result<i32> {
    // SAFETY: the number takes a structure of this type, whose size field says how large it is.
    unsafe { raw(fd.as_fd(), T::NUMBER, std::ptr::from_mut(argument).cast()) }
}

/// As [`call`], for structures that name no memory.
pub(super) fn ask<T: Call>(fd: impl AsFd, argument: &mut T) -> io::Result<i32> {
    // SAFETY: by the promise above; all uses are in this folder.
    unsafe { call(fd, argument) }
}

/// `VFIO_GET_API_VERSION`.
pub(super) fn api_version(container: impl AsFd) -> io::Result<i32> {
    value(container.as_fd(), vfio_io(0), 0)
}

/// `VFIO_CHECK_EXTENSION`.
pub(super) fn has_extension(container: impl AsFd, extension: u32) -> bool {
    value(container.as_fd(), vfio_io(1), extension as usize).is_ok_and(|has| has > 0)
}

/// `VFIO_SET_IOMMU`.
pub(super) fn set_iommu(container: impl AsFd, kind: u32) -> io::Result<()> {
    value(container.as_fd(), vfio_io(2), kind as usize).map(drop)
}

/// `VFIO_GROUP_SET_CONTAINER`.
pub(super) fn set_container(group: impl AsFd, container: impl AsFd) -> io::Result<()> {
    let mut fd = container.as_fd().as_raw_fd();
    // SAFETY: the call reads one descriptor number.
    unsafe { raw(group.as_fd(), vfio_io(4), (&raw mut fd).cast()) }.map(drop)
}

/// `VFIO_GROUP_GET_DEVICE_FD`.
pub(super) fn device_fd(group: impl AsFd, name: &str) -> io::Result<OwnedFd> {
    let name = std::ffi::CString::new(name).map_err(io::Error::from)?;
    // SAFETY: the call reads a string that ends in zero.
    let fd = unsafe { raw(group.as_fd(), vfio_io(6), name.as_ptr().cast_mut().cast()) }?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// `VFIO_DEVICE_RESET`.
pub(super) fn reset(device: impl AsFd) -> io::Result<()> {
    value(device.as_fd(), vfio_io(11), 0).map(drop)
}

/// Most interrupt vectors of a device that we use.
pub(super) const VECTORS_MAX: usize = 256;

/// `VFIO_DEVICE_SET_IRQS`: what happens when vectors of `index` from `start` on are raised; `-1`
/// takes one away.
pub(super) fn set_triggers(
    device: impl AsFd,
    index: u32,
    start: u32,
    fds: &[i32],
) -> io::Result<()> {
    const HEADER: usize = 5;
    assert!(!fds.is_empty() && fds.len() <= VECTORS_MAX);
    let mut words = [0_u32; HEADER + VECTORS_MAX];
    let size = (HEADER + fds.len()) * 4;
    let flags = vfio::VFIO_IRQ_SET_DATA_EVENTFD | vfio::VFIO_IRQ_SET_ACTION_TRIGGER;
    words[..HEADER].copy_from_slice(&[size as u32, flags, index, start, fds.len() as u32]);
    for (word, fd) in words[HEADER..].iter_mut().zip(fds) {
        *word = fd.cast_unsigned();
    }
    // SAFETY: a `vfio_irq_set` followed by its descriptors, `size` bytes in all, only read.
    unsafe { raw(device.as_fd(), vfio_io(10), words.as_mut_ptr().cast()) }.map(drop)
}

/// `VFIO_IOMMU_GET_INFO` in a buffer that also takes the capabilities, 64-bit aligned.
pub(super) fn type1_info(container: impl AsFd, buffer: &mut [u64]) -> io::Result<()> {
    let bytes = buffer.len() * 8;
    assert!(bytes >= size_of::<vfio::vfio_iommu_type1_info>());
    buffer.fill(0);
    buffer[0] = bytes as u64; // `argsz` is the first 32 bits, little endian as all who have VFIO
    // SAFETY: the buffer is as large as its first field says.
    unsafe { raw(container.as_fd(), vfio_io(12), buffer.as_mut_ptr().cast()) }.map(drop)
}

/// `IOMMU_IOAS_IOVA_RANGES`: fills `ranges` with what may be mapped, and returns how many there
/// are.
pub(super) fn iova_ranges(
    iommu: impl AsFd,
    ioas: u32,
    ranges: &mut [iommufd::iommu_iova_range],
) -> io::Result<usize> {
    let mut argument = iommufd::iommu_ioas_iova_ranges {
        size: size_of::<iommufd::iommu_ioas_iova_ranges>() as u32,
        ioas_id: ioas,
        num_iovas: ranges.len() as u32,
        allowed_iovas: ranges.as_mut_ptr() as u64,
        ..Default::default()
    };
    let number = io(iommufd::IOMMUFD_CMD_IOAS_IOVA_RANGES);
    // SAFETY: the structure names `ranges` and its length.
    unsafe { raw(iommu.as_fd(), number, (&raw mut argument).cast()) }?;
    Ok((argument.num_iovas as usize).min(ranges.len()))
}

fn value(fd: BorrowedFd<'_>, number: u32, value: usize) -> io::Result<i32> {
    // SAFETY: these calls take a number, no pointer.
    unsafe { raw(fd, number, std::ptr::without_provenance_mut(value)) }
}

/// # Safety
/// `argument` must be what the call of this number takes.
unsafe fn raw(fd: BorrowedFd<'_>, number: u32, argument: *mut libc::c_void) -> io::Result<i32> {
    loop {
        // SAFETY: the caller's promise.
        let result = unsafe { libc::ioctl(fd.as_raw_fd(), number as _, argument) };
        if result >= 0 {
            return Ok(result);
        }
        let error = io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::EINTR) {
            return Err(error);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_the_kernel_s() {
        // As `strace` shows them for programs in C.
        assert_eq!(<vfio::vfio_group_status as Call>::NUMBER, 0x3b67);
        assert_eq!(<vfio::vfio_iommu_type1_dma_map as Call>::NUMBER, 0x3b71);
        assert_eq!(<vfio::vfio_device_bind_iommufd as Call>::NUMBER, 0x3b76);
        assert_eq!(<iommufd::iommu_ioas_map as Call>::NUMBER, 0x3b85);
    }
}
