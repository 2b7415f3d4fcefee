//! What NVMe over PCIe has beyond what every transport has: registers in memory, queues in the
//! host's memory, doorbells (NVMe over PCIe Transport Specification 1.0, section 3.1, and the base
//! specification, section 5). The registers that fabrics have as properties are in
//! [`crate::fabrics`].

use bitfield_struct::bitfield;

/// Interrupt Mask Set, 4 bytes.
pub const REGISTER_INTMS: usize = 0x0C;
/// Interrupt Mask Clear, 4 bytes.
pub const REGISTER_INTMC: usize = 0x10;
/// Admin Queue Attributes, 4 bytes: [`AdminQueueAttributes`].
pub const REGISTER_AQA: usize = 0x24;
/// Admin Submission Queue, 8 bytes: its address.
pub const REGISTER_ASQ: usize = 0x28;
/// Admin Completion Queue, 8 bytes: its address.
pub const REGISTER_ACQ: usize = 0x30;
/// The first doorbell.
pub const REGISTER_DOORBELLS: usize = 0x1000;

/// Where a queue's submission doorbell is from [`REGISTER_DOORBELLS`] on; the same in the buffers
/// of Doorbell Buffer Config. `stride` is CAP.DSTRD.
#[must_use]
pub const fn submission_doorbell(queue: u16, stride: u8) -> usize {
    (2 * queue as usize) * (4 << stride)
}

/// Where a queue's completion doorbell is.
#[must_use]
pub const fn completion_doorbell(queue: u16, stride: u8) -> usize {
    (2 * queue as usize + 1) * (4 << stride)
}

/// Admin Queue Attributes (AQA).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct AdminQueueAttributes {
    /// ASQS: entries of the submission queue, 0-based.
    #[bits(12)]
    pub submission_entries_z: u16,
    #[bits(4)]
    __: u8,
    /// ACQS: entries of the completion queue, 0-based.
    #[bits(12)]
    pub completion_entries_z: u16,
    #[bits(4)]
    __: u8,
}

/// Dword 10 of Create I/O Submission Queue and Create I/O Completion Queue.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct CreateQueueDword10 {
    /// QID.
    pub queue: u16,
    /// QSIZE, 0-based.
    pub entries_z: u16,
}

/// Dword 11 of Create I/O Completion Queue.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct CreateCompletionDword11 {
    /// PC: one piece of memory.
    pub contiguous: bool,
    /// IEN: it interrupts.
    pub interrupts: bool,
    #[bits(14)]
    __: u16,
    /// IV: the interrupt vector.
    pub vector: u16,
}

/// Dword 11 of Create I/O Submission Queue.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct CreateSubmissionDword11 {
    /// PC: one piece of memory.
    pub contiguous: bool,
    /// QPRIO: priority.
    #[bits(2)]
    pub priority: u8,
    #[bits(13)]
    __: u16,
    /// CQID: where its completions go.
    pub completion_queue: u16,
}

/// Dword 10 of Abort.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct AbortDword10 {
    /// SQID.
    pub queue: u16,
    /// CID.
    pub command_id: u16,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_lie_where_the_specification_puts_them() {
        let attributes =
            AdminQueueAttributes::new().with_submission_entries_z(31).with_completion_entries_z(63);
        assert_eq!(u32::from(attributes), 63 << 16 | 31);
        let create = CreateQueueDword10::new().with_queue(3).with_entries_z(255);
        assert_eq!(u32::from(create), 255 << 16 | 3);
        let completion = CreateCompletionDword11::new()
            .with_contiguous(true)
            .with_interrupts(true)
            .with_vector(2);
        assert_eq!(u32::from(completion), 2 << 16 | 3);
        let submission =
            CreateSubmissionDword11::new().with_contiguous(true).with_completion_queue(5);
        assert_eq!(u32::from(submission), 5 << 16 | 1);
        let abort = AbortDword10::new().with_queue(1).with_command_id(0x1234);
        assert_eq!(u32::from(abort), 0x1234 << 16 | 1);
    }

    #[test]
    fn doorbells_alternate() {
        assert_eq!((submission_doorbell(0, 0), completion_doorbell(0, 0)), (0, 4));
        assert_eq!((submission_doorbell(3, 0), completion_doorbell(3, 2)), (24, 112));
    }
}
