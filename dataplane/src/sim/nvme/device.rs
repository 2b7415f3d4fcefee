//! The emulated controller as the driver sees it.

use super::EmulatedNvme;
use crate::dma::{ArenaMap, DeviceMemory, EmulatedBus};
use crate::hardware::{Device, DeviceError, Interrupt, Presence, Registers, ResetError};
use rustix::event::{EventfdFlags, eventfd};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

/// Bytes of registers.
const SIZE: usize = 0x4000;

/// A controller that has been taken over. When it is dropped the controller reaches no memory any
/// more, and otherwise stays as it is.
pub struct EmulatedDevice {
    nvme: EmulatedNvme,
    name: String,
    bus: EmulatedBus,
    arena: ArenaMap,
    /// Polls until the reset that was begun has ended.
    reset: Option<u32>,
}

impl EmulatedDevice {
    pub(super) fn new(nvme: EmulatedNvme, name: String, bus: EmulatedBus, arena: ArenaMap) -> Self {
        Self { nvme, name, bus, arena, reset: None }
    }
}

impl Drop for EmulatedDevice {
    fn drop(&mut self) {
        let mut model = self.nvme.model();
        model.release();
        drop(model);
        self.bus.unmap_all();
    }
}

impl Device for EmulatedDevice {
    type Registers = EmulatedRegisters;
    type Interrupt = EmulatedInterrupt;

    fn name(&self) -> &str {
        &self.name
    }

    fn registers(&self) -> EmulatedRegisters {
        EmulatedRegisters(self.nvme.clone())
    }

    fn allocate(&self, len: usize) -> Result<DeviceMemory, DeviceError> {
        self.bus.allocate(len).map_err(|error| DeviceError::Memory {
            bytes: len,
            source: std::io::Error::other(error.to_string()),
        })
    }

    fn arena(&self) -> &ArenaMap {
        &self.arena
    }

    fn interrupts(&mut self, count: usize) -> Result<Vec<EmulatedInterrupt>, DeviceError> {
        let count = count.min(self.nvme.model().config.vectors);
        let make = |vector| {
            let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
            let nvme = self.nvme.clone();
            event.map(|event| EmulatedInterrupt { nvme, vector, event: Arc::new(event) })
        };
        let made: Result<_, _> = (0..count as u16).map(make).collect();
        made.map_err(|error| DeviceError::Interrupt { count, source: error.into() })
    }

    fn begin_reset(&mut self) {
        self.reset = Some(3);
    }

    fn poll_reset(&mut self) -> Option<Result<(), ResetError>> {
        let left = self.reset.as_mut().expect("it was begun");
        *left -= 1;
        if *left > 0 {
            return None;
        }
        self.reset = None;
        let mut model = self.nvme.model();
        if model.is_removed {
            return Some(Err(ResetError::Gone));
        }
        model.function_reset();
        Some(Ok(()))
    }

    /// Nobody tells: registers do.
    fn presence(&self) -> Presence {
        Presence::Present
    }
}

/// Registers of the emulated controller.
#[derive(Clone)]
pub struct EmulatedRegisters(EmulatedNvme);

impl Registers for EmulatedRegisters {
    fn size(&self) -> usize {
        SIZE
    }

    fn read32(&self, offset: usize) -> u32 {
        assert!(offset.is_multiple_of(4) && offset < SIZE);
        self.0.model().read(offset)
    }

    fn write32(&self, offset: usize, value: u32) {
        assert!(offset.is_multiple_of(4) && offset < SIZE);
        self.0.model().write(offset, value);
    }

    fn read64(&self, offset: usize) -> u64 {
        u64::from(self.read32(offset)) | u64::from(self.read32(offset + 4)) << 32
    }

    fn write64(&self, offset: usize, value: u64) {
        self.write32(offset, value as u32);
        self.write32(offset + 4, (value >> 32) as u32);
    }
}

/// A vector of the emulated controller.
pub struct EmulatedInterrupt {
    nvme: EmulatedNvme,
    vector: u16,
    event: Arc<OwnedFd>,
}

impl Interrupt for EmulatedInterrupt {
    fn fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }

    fn arm(&mut self) {
        self.nvme.model().armed.insert(self.vector, Arc::clone(&self.event));
    }

    fn disarm(&mut self) {
        self.nvme.model().armed.remove(&self.vector);
    }
}
