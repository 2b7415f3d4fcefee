//! Devices that this process drives itself, by the kernel's VFIO.
//!
//! [`Vfio`] is the process's share in it: one address space, in which the arena and every device's
//! memory lie, for all of its devices. [`VfioDevice`] is one PCI function, open: it implements the
//! seam of [`crate::hardware`] that drivers are written to.
//!
//! # Ways to the kernel
//! - iommufd, by `/dev/vfio/devices/vfioN` and `/dev/iommu`, where the kernel has it;
//! - groups and a container (type 1, version 2), by `/dev/vfio/N`, where it has not;
//! - no-IOMMU groups, by `/dev/vfio/noiommu-N`: only where the kernel allows it
//!   (`enable_unsafe_noiommu_mode`) and the operator asks for it, for then nothing keeps a device
//!   from writing anywhere. Takes huge pages, whose physical address stays.
//!
//! # Rules
//! - A device writes only what is mapped: the arena and [`DeviceMemory`](crate::dma::DeviceMemory).
//!   Anything else is a fault that the kernel reports, and an error of ours.
//! - A device is reset, if it can be, before it may write, and loses the right to write before its
//!   memory goes. When the process is killed the kernel does both: it takes bus mastering away and
//!   resets the function, so that the next start finds it usable.
//! - A device that is dropped is free for others at once, whatever handles on its registers there
//!   are: these then read ones, as those of a device that is gone do.
//!
//! What it does not do: virtual functions (SR-IOV), legacy interrupts (INTx), windows that cannot
//! be mapped to memory.
#![expect(unsafe_code)]
// UNSAFETY: system calls on VFIO's descriptors, and loads and stores to mapped device registers.

mod container;
mod device;
mod domain;
mod error;
mod interrupt;
mod ioctl;
mod iommufd;
mod physical;
mod registers;
mod space;

mod watch;

pub use device::VfioDevice;
pub use domain::{Api, Options, Vfio, is_taken, is_unchecked};
pub use error::OpenError;
pub use interrupt::VfioInterrupt;
pub use registers::Window;
