//! The controller's registers by name.

use crate::hardware::Registers;
use storage_spec::fabrics::{
    Capabilities, Configuration, ControllerStatus, PROPERTY_CAP, PROPERTY_CC, PROPERTY_CRTO,
    PROPERTY_CSTS, PROPERTY_VS, ReadyTimeouts,
};
use storage_spec::nvme::pci::{
    AdminQueueAttributes, REGISTER_ACQ, REGISTER_AQA, REGISTER_ASQ, REGISTER_DOORBELLS,
    completion_doorbell, submission_doorbell,
};

/// Registers of a controller that is there, or `None`: a controller never has all bits set in any
/// of these, so that all ones say that it is gone.
pub(super) trait ControllerRegisters: Registers {
    /// CAP.
    fn capabilities(&self) -> Option<Capabilities> {
        let value = self.read64(PROPERTY_CAP as usize);
        (value != u64::MAX).then(|| value.into())
    }

    /// CRTO, which controllers have that name a mode of readiness in CAP.CRMS.
    fn ready_timeouts(&self) -> ReadyTimeouts {
        self.read32(PROPERTY_CRTO as usize).into()
    }

    /// VS.
    fn version(&self) -> u32 {
        self.read32(PROPERTY_VS as usize)
    }

    /// CSTS.
    fn status(&self) -> Option<ControllerStatus> {
        let value = self.read32(PROPERTY_CSTS as usize);
        (value != u32::MAX).then(|| value.into())
    }

    /// CC.
    fn configuration(&self) -> Option<Configuration> {
        let value = self.read32(PROPERTY_CC as usize);
        (value != u32::MAX).then(|| value.into())
    }

    /// Sets CC.
    fn configure(&self, configuration: Configuration) {
        self.write32(PROPERTY_CC as usize, configuration.into());
    }

    /// ASQ.
    fn admin_queue(&self) -> Option<u64> {
        let value = self.read64(REGISTER_ASQ);
        (value != u64::MAX).then_some(value)
    }

    /// Sets AQA, ASQ and ACQ.
    fn set_admin_queue(&self, entries: u16, submission: u64, completion: u64) {
        let attributes = AdminQueueAttributes::new()
            .with_submission_entries_z(entries - 1)
            .with_completion_entries_z(entries - 1);
        self.write32(REGISTER_AQA, attributes.into());
        self.write64(REGISTER_ASQ, submission);
        self.write64(REGISTER_ACQ, completion);
    }
}

impl<R: Registers> ControllerRegisters for R {}

/// Where the doorbell of a queue is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Doorbell(usize);

impl Doorbell {
    /// Submission and completion doorbell of a queue, `stride` being CAP.DSTRD.
    pub(super) fn pair(queue: u16, stride: u8) -> (Self, Self) {
        let at = |offset| Self(REGISTER_DOORBELLS + offset);
        (at(submission_doorbell(queue, stride)), at(completion_doorbell(queue, stride)))
    }

    /// Bytes of registers that the doorbells of queues up to `queue` reach to.
    pub(super) fn end(queue: u16, stride: u8) -> usize {
        REGISTER_DOORBELLS + completion_doorbell(queue, stride) + 4
    }

    /// Where that is.
    #[cfg(any(test, feature = "bench"))]
    pub(super) fn offset(self) -> usize {
        self.0
    }

    #[inline]
    pub(super) fn ring<R: Registers>(self, registers: &R, value: u16) {
        registers.write32(self.0, u32::from(value));
    }
}
