//! The seam between drivers and hardware: a device's registers, memory that it shares with us, its
//! interrupts, its reset, and how its disappearance is told.
//!
//! Drivers are generic over [`Device`]: `vfio` implements it for what is plugged in, `sim` for
//! emulated devices, so that the driver that ships is the one that unit tests run.
//!
//! Memory is shared in two ways. [`DeviceMemory`] holds queues and descriptors: both sides may
//! write it at any time, so it is never lent as a slice. Buffers of the arena belong to the
//! operation in flight; [`ArenaMap`] tells the address under which the device reaches them.

mod time;

pub use time::CoreTime;

use crate::dma::{ArenaMap, DeviceMemory};
use std::os::fd::BorrowedFd;

/// The registers of a device: one memory window of it.
///
/// Offsets are bytes, aligned to the access, and within the window: anything else is an error of
/// ours and asserted. Accesses happen once each, in the order of the program. A write is seen by
/// the device after everything that the calling thread stored before it in [`DeviceMemory`] and in
/// buffers; a read happens before everything that it loads afterwards.
///
/// A device that is gone reads as all ones and ignores writes: data, for the driver to handle.
pub trait Registers: Send + 'static {
    /// Bytes in the window.
    fn size(&self) -> usize;

    /// Reads a 32-bit register.
    fn read32(&self, offset: usize) -> u32;

    /// Writes a 32-bit register.
    fn write32(&self, offset: usize, value: u32);

    /// Reads a 64-bit register, in one access or low half first where the bus has no other way.
    fn read64(&self, offset: usize) -> u64;

    /// Writes a 64-bit register, as above.
    fn write64(&self, offset: usize, value: u64);
}

/// An interrupt of a device, for a core that wants to sleep.
///
/// Made disarmed: while a core polls, no interrupt is raised.
pub trait Interrupt: Send + 'static {
    /// Becomes readable when the interrupt is raised. Whoever was woken reads the eight bytes.
    fn fd(&self) -> BorrowedFd<'_>;

    /// Lets the device interrupt. What it did before may not be told: look once more, then sleep.
    fn arm(&mut self);

    /// Keeps the device from interrupting. One that is on its way may still come.
    fn disarm(&mut self);
}

/// Whether a device is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// It is.
    Present,
    /// It is to be removed, or somebody else wants it: stop using it, then drop the [`Device`].
    Leaving,
    /// It is gone.
    Gone,
}

/// A device taken over by this process, and this process's alone until dropped.
///
/// Belongs to one core, the device's home. Registers, memory and interrupts may go to other cores.
///
/// An implementer must:
/// - let the device write memory from the first call on (bus mastering on), and no longer after
///   the drop, whatever state the driver left it in;
/// - never block in [`Device::begin_reset`], [`Device::poll_reset`] and [`Device::presence`]; the
///   others are called while the device is brought up, where a short wait harms nobody.
///
/// A caller must:
/// - expect any state of the registers at first: a former owner may have been killed;
/// - drop [`DeviceMemory`], and let go of buffers in flight, only after it has stopped the device,
///   or after [`Device`] itself was dropped.
pub trait Device: Send + 'static {
    /// A handle on the registers; each core has its own.
    type Registers: Registers + Clone;

    /// One interrupt.
    type Interrupt: Interrupt;

    /// Where the device is plugged in (`0000:01:00.0`), for people.
    fn name(&self) -> &str;

    /// The registers of its command interface: BAR 0 of an NVMe controller, BAR 5 of an AHCI one.
    fn registers(&self) -> Self::Registers;

    /// `len` bytes, rounded up to whole pages, zeroed, and contiguous for the device.
    ///
    /// # Errors
    /// [`DeviceError::Memory`].
    fn allocate(&self, len: usize) -> Result<DeviceMemory, DeviceError>;

    /// Where the device finds the buffers of the arena.
    fn arena(&self) -> &ArenaMap;

    /// Makes the first `count` interrupt vectors of the device; called once. Fewer where it has
    /// fewer, none where it has none: then cores that wait for it do not sleep for long.
    ///
    /// # Errors
    /// [`DeviceError::Interrupt`].
    fn interrupts(&mut self, count: usize) -> Result<Vec<Self::Interrupt>, DeviceError>;

    /// Begins a function-level reset. Until it has ended nobody may touch registers.
    fn begin_reset(&mut self);

    /// How the reset that was begun has ended; `None` while it goes on. Registers and the state of
    /// the device are then those of a device just switched on; memory and interrupts remain.
    fn poll_reset(&mut self) -> Option<Result<(), ResetError>>;

    /// Whether the device is there, as far as the system has told; no access to the device. One
    /// that was torn out may be met first by its registers, which read as all ones.
    fn presence(&self) -> Presence;
}

/// What could not be had for a device.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// Memory for the device.
    #[error("cannot share {bytes} bytes with the device: {source}")]
    Memory {
        /// What was asked for.
        bytes: usize,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// Its interrupts.
    #[error("cannot set up {count} interrupts: {source}")]
    Interrupt {
        /// What was asked for.
        count: usize,
        /// What the kernel said.
        source: std::io::Error,
    },
}

/// How a function-level reset failed.
#[derive(Debug, thiserror::Error)]
pub enum ResetError {
    /// The device has none: the driver resets by registers alone.
    #[error("the device has no function-level reset")]
    Unsupported,
    /// The device is gone.
    #[error("the device is gone")]
    Gone,
    /// Anything else.
    #[error("function-level reset: {0}")]
    Failed(std::io::Error),
}
