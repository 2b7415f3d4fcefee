//! A window of a device's registers, mapped.

use super::device::Opened;
use super::error::OpenError;
use crate::dma::PAGE;
use crate::hardware::Registers;
use rustix::mm::{MapFlags, MremapFlags, ProtFlags, mmap, mmap_anonymous, mremap_fixed, munmap};
use std::io;
use std::ptr::NonNull;
use std::sync::Arc;
use vfio_bindings::bindings::vfio;

/// Largest window that is mapped: those of disks take some KiB.
const WINDOW_MAX: u64 = 64 << 20;

/// A BAR. Clones are the same window. When the device is dropped, whatever handles there are, ones
/// take its place.
#[derive(Clone)]
pub struct Window(Arc<Mapped>);

struct Mapped {
    start: NonNull<u8>,
    /// What is mapped, in bytes.
    len: usize,
    /// The window itself.
    size: usize,
}

// SAFETY: device registers may be accessed from any thread; each access is one volatile load or
// store, and order between threads is the drivers' matter.
unsafe impl Send for Mapped {}
// SAFETY: as above.
unsafe impl Sync for Mapped {}

impl Window {
    /// Maps a BAR.
    pub(super) fn map(opened: &Opened, bar: u32) -> Result<Self, OpenError> {
        let address = opened.address();
        let refuse = |what| Err(OpenError::Window { address, bar, what });
        let info = opened.region(bar)?;
        if info.size == 0 {
            return refuse("is not there; is the device what its class says?");
        }
        if info.flags & vfio::VFIO_REGION_INFO_FLAG_MMAP == 0 || info.size > WINDOW_MAX {
            return refuse("cannot be mapped into memory; the kernel drives this device instead");
        }
        // Whole pages: small windows have theirs alone, or the kernel does not let them be mapped.
        let (size, len) = (info.size as usize, (info.size as usize).next_multiple_of(PAGE));
        // SAFETY: a new mapping at an address of the kernel's choice, of a part of the device file
        // that is made for it.
        let mapped = unsafe {
            mmap(
                std::ptr::null_mut(),
                len,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                opened.fd(),
                info.offset,
            )
        };
        let what = "cannot map registers";
        let system = |source: io::Error| OpenError::System { address, what, source };
        let start = mapped.map_err(|error| system(error.into()))?;
        let start = NonNull::new(start.cast()).expect("the kernel maps nothing at address zero");
        Ok(Self(Arc::new(Mapped { start, len, size })))
    }

    /// Puts ones where the registers were, at once for all handles: the function can be closed, and
    /// what still reads sees a device that is gone.
    pub(super) fn detach(&self) -> io::Result<()> {
        let len = self.0.len;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let ones = unsafe {
            let flags = MapFlags::PRIVATE;
            mmap_anonymous(std::ptr::null_mut(), len, ProtFlags::READ | ProtFlags::WRITE, flags)?
        };
        // SAFETY: all of the new mapping, then moved over the old one: the addresses stay valid,
        // and every access is volatile.
        unsafe {
            ones.cast::<u8>().write_bytes(0xff, len);
            let place = self.0.start.as_ptr().cast();
            mremap_fixed(ones, len, len, MremapFlags::MAYMOVE, place)?;
        }
        Ok(())
    }

    fn place<T>(&self, offset: usize) -> *mut T {
        let size = size_of::<T>();
        assert!(
            offset.is_multiple_of(size) && size <= self.0.size && offset <= self.0.size - size,
            "register {offset:#x} of {:#x}",
            self.0.size
        );
        // SAFETY: just checked.
        unsafe { self.0.start.as_ptr().add(offset).cast() }
    }
}

impl Registers for Window {
    fn size(&self) -> usize {
        self.0.size
    }

    #[inline]
    fn read32(&self, offset: usize) -> u32 {
        // SAFETY: within the window, aligned.
        let value = unsafe { self.place::<u32>(offset).read_volatile() };
        after_read();
        u32::from_le(value)
    }

    #[inline]
    fn write32(&self, offset: usize, value: u32) {
        before_write();
        // SAFETY: as above.
        unsafe { self.place::<u32>(offset).write_volatile(value.to_le()) };
    }

    #[inline]
    fn read64(&self, offset: usize) -> u64 {
        // SAFETY: as above. Every bus below a 64-bit processor takes it in one access.
        let value = unsafe { self.place::<u64>(offset).read_volatile() };
        after_read();
        u64::from_le(value)
    }

    #[inline]
    fn write64(&self, offset: usize, value: u64) {
        before_write();
        // SAFETY: as above.
        unsafe { self.place::<u64>(offset).write_volatile(value.to_le()) };
    }
}

/// Whatever this thread stored reaches memory before the register that tells of it.
#[inline]
fn before_write() {
    // x86 keeps the order of stores, also to registers; the compiler must too.
    std::sync::atomic::fence(std::sync::atomic::Ordering::Release);
    #[cfg(target_arch = "aarch64")]
    // SAFETY: a barrier touches nothing. A device is outside the domain that `Release` orders.
    unsafe {
        std::arch::asm!("dmb oshst", options(nostack, preserves_flags));
    }
}

/// Whatever is loaded later is at least as new as what the register told.
#[inline]
fn after_read() {
    std::sync::atomic::fence(std::sync::atomic::Ordering::Acquire);
    #[cfg(target_arch = "aarch64")]
    // SAFETY: as above.
    unsafe {
        std::arch::asm!("dmb oshld", options(nostack, preserves_flags));
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: mapped by `Window::map`, and this was the last handle.
        let unmapped = unsafe { munmap(self.start.as_ptr().cast(), self.len) };
        assert!(unmapped.is_ok(), "our own mapping can be unmapped");
    }
}
