//! The emulated adapter as the driver sees it.

use super::EmulatedAhci;
use crate::dma::{ArenaMap, DeviceMemory, EmulatedBus};
use crate::hardware::{Device, DeviceError, Interrupt, Presence, Registers, ResetError};
use std::os::fd::BorrowedFd;

/// Bytes of registers: those of 32 ports.
const SIZE: usize = 0x1100;

/// An adapter that has been taken over. When it is dropped the adapter reaches no memory any more,
/// and otherwise stays as it is.
pub struct EmulatedDevice {
    ahci: EmulatedAhci,
    name: String,
    bus: EmulatedBus,
    arena: ArenaMap,
}

impl EmulatedDevice {
    pub(super) fn new(ahci: EmulatedAhci, name: String, bus: EmulatedBus, arena: ArenaMap) -> Self {
        Self { ahci, name, bus, arena }
    }
}

impl Drop for EmulatedDevice {
    fn drop(&mut self) {
        self.ahci.model().release();
        self.bus.unmap_all();
    }
}

impl Device for EmulatedDevice {
    type Registers = EmulatedRegisters;
    type Interrupt = NoInterrupt;

    fn name(&self) -> &str {
        &self.name
    }

    fn registers(&self) -> EmulatedRegisters {
        EmulatedRegisters(self.ahci.clone())
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

    fn interrupts(&mut self, _: usize) -> Result<Vec<NoInterrupt>, DeviceError> {
        Ok(Vec::new())
    }

    fn begin_reset(&mut self) {}

    /// As real ones: there is no function-level reset.
    fn poll_reset(&mut self) -> Option<Result<(), ResetError>> {
        Some(Err(ResetError::Unsupported))
    }

    /// Nobody tells: registers do.
    fn presence(&self) -> Presence {
        Presence::Present
    }
}

/// Registers of the emulated adapter.
#[derive(Clone)]
pub struct EmulatedRegisters(EmulatedAhci);

impl Registers for EmulatedRegisters {
    fn size(&self) -> usize {
        SIZE
    }

    fn read32(&self, offset: usize) -> u32 {
        assert!(offset.is_multiple_of(4) && offset < SIZE);
        let mut model = self.0.model();
        model.look_at_clock();
        model.read(offset)
    }

    fn write32(&self, offset: usize, value: u32) {
        assert!(offset.is_multiple_of(4) && offset < SIZE);
        let mut model = self.0.model();
        model.look_at_clock();
        model.write(offset, value);
    }

    fn read64(&self, offset: usize) -> u64 {
        u64::from(self.read32(offset)) | u64::from(self.read32(offset + 4)) << 32
    }

    fn write64(&self, offset: usize, value: u64) {
        self.write32(offset, value as u32);
        self.write32(offset + 4, (value >> 32) as u32);
    }
}

/// There are no interrupts.
pub enum NoInterrupt {}

impl Interrupt for NoInterrupt {
    fn fd(&self) -> BorrowedFd<'_> {
        match *self {}
    }

    fn arm(&mut self) {
        match *self {}
    }

    fn disarm(&mut self) {
        match *self {}
    }
}
