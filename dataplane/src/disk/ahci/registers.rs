//! Registers by name. All ones in a register that cannot be so say that the adapter is gone.

use crate::hardware::Registers;
use storage_spec::ahci::{
    GlobalControl, Handoff, HostCapabilities, HostCapabilities2, LinkControl, LinkStatus, PORT_CI,
    PORT_CLB, PORT_CMD, PORT_FB, PORT_IE, PORT_IS, PORT_SACT, PORT_SCTL, PORT_SERR, PORT_SIG,
    PORT_SSTS, PORT_TFD, PortCommand, PortInterrupts, REGISTER_BOHC, REGISTER_CAP, REGISTER_CAP2,
    REGISTER_GHC, REGISTER_PI, port_registers,
};
use storage_spec::ata::{AtaError, AtaStatus};

/// Registers of the adapter itself.
pub(super) trait HostRegisters: Registers {
    fn capabilities(&self) -> Option<HostCapabilities> {
        let value = self.read32(REGISTER_CAP);
        (value != u32::MAX).then(|| value.into())
    }

    fn capabilities_2(&self) -> Option<HostCapabilities2> {
        let value = self.read32(REGISTER_CAP2);
        (value != u32::MAX).then(|| value.into())
    }

    fn control(&self) -> Option<GlobalControl> {
        let value = self.read32(REGISTER_GHC);
        (value != u32::MAX).then(|| value.into())
    }

    fn set_control(&self, control: GlobalControl) {
        self.write32(REGISTER_GHC, control.into());
    }

    fn ports(&self) -> u32 {
        self.read32(REGISTER_PI)
    }

    fn handoff(&self) -> Handoff {
        self.read32(REGISTER_BOHC).into()
    }

    fn set_handoff(&self, handoff: Handoff) {
        self.write32(REGISTER_BOHC, handoff.into());
    }
}

impl<R: Registers> HostRegisters for R {}

/// Registers of one port.
#[derive(Clone)]
pub(super) struct PortRegisters<R> {
    registers: R,
    base: usize,
}

impl<R: Registers> PortRegisters<R> {
    pub(super) fn new(registers: R, port: u8) -> Self {
        let base = port_registers(port);
        assert!(base + 0x80 <= registers.size(), "port {port} lies in the window");
        Self { registers, base }
    }

    #[inline]
    fn read(&self, offset: usize) -> u32 {
        self.registers.read32(self.base + offset)
    }

    #[inline]
    fn write(&self, offset: usize, value: u32) {
        self.registers.write32(self.base + offset, value);
    }

    pub(super) fn command(&self) -> Option<PortCommand> {
        let value = self.read(PORT_CMD);
        (value != u32::MAX).then(|| value.into())
    }

    /// Sets what of PxCMD is ours to set.
    pub(super) fn set_command(&self, command: PortCommand) {
        self.write(PORT_CMD, command.into());
    }

    /// Where list and frames are. Only while the port is stopped.
    pub(super) fn set_memory(&self, list: u64, received: u64) {
        for (at, address) in [(PORT_CLB, list), (PORT_FB, received)] {
            self.write(at, address as u32);
            self.write(at + 4, (address >> 32) as u32);
        }
    }

    /// What happened since it was last cleared.
    pub(super) fn happened(&self) -> Option<PortInterrupts> {
        let value = self.read(PORT_IS);
        (value != u32::MAX).then(|| value.into())
    }

    /// Forgets all errors and events; nothing of it interrupts.
    pub(super) fn clear_errors(&self) {
        self.write(PORT_SERR, u32::MAX);
        self.write(PORT_IS, u32::MAX);
        self.write(PORT_IE, 0);
    }

    pub(super) fn task_file(&self) -> (AtaStatus, AtaError) {
        let [status, error, _, _] = self.read(PORT_TFD).to_le_bytes();
        (status.into(), error.into())
    }

    pub(super) fn signature(&self) -> u32 {
        self.read(PORT_SIG)
    }

    pub(super) fn link(&self) -> LinkStatus {
        self.read(PORT_SSTS).into()
    }

    pub(super) fn control_link(&self, control: LinkControl) {
        self.write(PORT_SCTL, control.into());
    }

    #[inline]
    pub(super) fn active(&self) -> u32 {
        self.read(PORT_SACT)
    }

    #[inline]
    pub(super) fn set_active(&self, slots: u32) {
        self.write(PORT_SACT, slots);
    }

    #[inline]
    pub(super) fn issued(&self) -> u32 {
        self.read(PORT_CI)
    }

    #[inline]
    pub(super) fn issue(&self, slots: u32) {
        self.write(PORT_CI, slots);
    }
}
