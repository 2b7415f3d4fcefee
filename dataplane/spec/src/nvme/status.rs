//! Status of a completed command (section 3.3.3.2.1).

use bitfield_struct::bitfield;

/// The status field of a completion without its phase bit: SC in bits 7:0, SCT 10:8, CRD 12:11,
/// More 13, Do Not Retry 14.
///
/// The constants carry no DNR; [`Status::dnr`] sets it.
#[bitfield(u16)]
#[derive(PartialEq, Eq, Hash)]
pub struct Status {
    /// Status Code, of the Status Code Type's name space.
    pub code: u8,
    /// Status Code Type.
    #[bits(3)]
    pub kind: u8,
    /// Command Retry Delay: index of the CRDT field to wait for.
    #[bits(2)]
    pub retry_delay: u8,
    /// More information is in the error log.
    pub more: bool,
    /// A repeat of the command would fail too.
    pub do_not_retry: bool,
    #[bits(1)]
    __: u8,
}
const _: () = assert!(size_of::<Status>() == 2);

/// SCT 0h.
const GENERIC: u8 = 0;
/// SCT 1h.
const SPECIFIC: u8 = 1;
/// SCT 2h.
const MEDIA: u8 = 2;
/// SCT 3h.
const PATH: u8 = 3;

impl Status {
    /// Builds a status of any type.
    #[must_use]
    pub const fn of(kind: u8, code: u8) -> Self {
        Self::new().with_kind(kind).with_code(code)
    }

    /// The same with Do Not Retry set.
    #[must_use]
    pub const fn dnr(self) -> Self {
        self.with_do_not_retry(true)
    }

    /// Whether the command succeeded.
    #[must_use]
    pub const fn is_success(self) -> bool {
        self.code() == 0 && self.kind() == GENERIC
    }

    /// Whether it is about media or data integrity (SCT 2h).
    #[must_use]
    pub const fn is_media(self) -> bool {
        self.kind() == MEDIA
    }

    /// Whether it is about the path to the controller (SCT 3h).
    #[must_use]
    pub const fn is_path(self) -> bool {
        self.kind() == PATH
    }

    /// Whether type and code are those of `other`, whatever DNR, More and CRD say.
    #[must_use]
    pub const fn is(self, other: Self) -> bool {
        self.code() == other.code() && self.kind() == other.kind()
    }
}

/// Generic command status (SCT 0h).
impl Status {
    /// 00h.
    pub const SUCCESS: Self = Self::of(GENERIC, 0x00);
    /// 01h: reserved or unsupported opcode.
    pub const INVALID_OPCODE: Self = Self::of(GENERIC, 0x01);
    /// 02h: a field is reserved, unsupported or out of bounds.
    pub const INVALID_FIELD: Self = Self::of(GENERIC, 0x02);
    /// 03h: the command identifier is in use.
    pub const COMMAND_ID_CONFLICT: Self = Self::of(GENERIC, 0x03);
    /// 04h: data or metadata could not be transferred.
    pub const DATA_TRANSFER_ERROR: Self = Self::of(GENERIC, 0x04);
    /// 06h: a failure inside the controller.
    pub const INTERNAL_ERROR: Self = Self::of(GENERIC, 0x06);
    /// 07h: aborted by an Abort command.
    pub const ABORT_REQUESTED: Self = Self::of(GENERIC, 0x07);
    /// 08h: its submission queue was deleted.
    pub const ABORTED_SQ_DELETION: Self = Self::of(GENERIC, 0x08);
    /// 09h: the other command of the fused pair failed.
    pub const ABORTED_FAILED_FUSED: Self = Self::of(GENERIC, 0x09);
    /// 0Ah: the other command of the fused pair did not come next.
    pub const ABORTED_MISSING_FUSED: Self = Self::of(GENERIC, 0x0A);
    /// 0Bh: no such namespace, or its format is not fit.
    pub const INVALID_NAMESPACE: Self = Self::of(GENERIC, 0x0B);
    /// 0Ch: a command out of order (for Fabrics: before Connect).
    pub const COMMAND_SEQUENCE_ERROR: Self = Self::of(GENERIC, 0x0C);
    /// 0Dh.
    pub const INVALID_SGL_SEGMENT: Self = Self::of(GENERIC, 0x0D);
    /// 0Eh.
    pub const INVALID_SGL_COUNT: Self = Self::of(GENERIC, 0x0E);
    /// 0Fh: the SGL is too short (or, where that matters, too long) for the command's data.
    pub const DATA_SGL_LENGTH_INVALID: Self = Self::of(GENERIC, 0x0F);
    /// 11h: unsupported SGL descriptor type or subtype.
    pub const SGL_TYPE_INVALID: Self = Self::of(GENERIC, 0x11);
    /// 14h: a fused or atomic write longer than the atomic unit.
    pub const ATOMIC_WRITE_UNIT_EXCEEDED: Self = Self::of(GENERIC, 0x14);
    /// 15h.
    pub const OPERATION_DENIED: Self = Self::of(GENERIC, 0x15);
    /// 16h: in-capsule data outside of the capsule.
    pub const SGL_OFFSET_INVALID: Self = Self::of(GENERIC, 0x16);
    /// 18h: host identifier size inconsistent.
    pub const HOST_ID_INCONSISTENT: Self = Self::of(GENERIC, 0x18);
    /// 19h.
    pub const KEEP_ALIVE_EXPIRED: Self = Self::of(GENERIC, 0x19);
    /// 1Ah.
    pub const KEEP_ALIVE_INVALID: Self = Self::of(GENERIC, 0x1A);
    /// 1Bh: aborted by a Reservation Acquire that preempts and aborts.
    pub const PREEMPTED: Self = Self::of(GENERIC, 0x1B);
    /// 20h: the namespace is write protected.
    pub const WRITE_PROTECTED: Self = Self::of(GENERIC, 0x20);
    /// 21h: interrupted by the controller; retry after CRD.
    pub const COMMAND_INTERRUPTED: Self = Self::of(GENERIC, 0x21);
    /// 22h: data were damaged on the wire; retry.
    pub const TRANSIENT_TRANSPORT_ERROR: Self = Self::of(GENERIC, 0x22);
    /// 80h (NVM): a logical block beyond the namespace.
    pub const LBA_OUT_OF_RANGE: Self = Self::of(GENERIC, 0x80);
    /// 81h (NVM): thin provisioned storage is full.
    pub const CAPACITY_EXCEEDED: Self = Self::of(GENERIC, 0x81);
    /// 82h.
    pub const NAMESPACE_NOT_READY: Self = Self::of(GENERIC, 0x82);
    /// 83h.
    pub const RESERVATION_CONFLICT: Self = Self::of(GENERIC, 0x83);
}

/// Command specific status (SCT 1h).
impl Status {
    /// 01h.
    pub const INVALID_QUEUE_ID: Self = Self::of(SPECIFIC, 0x01);
    /// 02h.
    pub const INVALID_QUEUE_SIZE: Self = Self::of(SPECIFIC, 0x02);
    /// 03h.
    pub const ABORT_LIMIT_EXCEEDED: Self = Self::of(SPECIFIC, 0x03);
    /// 05h.
    pub const ASYNC_EVENT_LIMIT_EXCEEDED: Self = Self::of(SPECIFIC, 0x05);
    /// 09h.
    pub const INVALID_LOG_PAGE: Self = Self::of(SPECIFIC, 0x09);
    /// 0Ah.
    pub const INVALID_FORMAT: Self = Self::of(SPECIFIC, 0x0A);
    /// 0Dh.
    pub const FEATURE_NOT_SAVEABLE: Self = Self::of(SPECIFIC, 0x0D);
    /// 0Eh.
    pub const FEATURE_NOT_CHANGEABLE: Self = Self::of(SPECIFIC, 0x0E);
    /// 0Fh.
    pub const FEATURE_NOT_NAMESPACE_SPECIFIC: Self = Self::of(SPECIFIC, 0x0F);
    /// 80h (Connect): record format not supported.
    pub const CONNECT_INCOMPATIBLE_FORMAT: Self = Self::of(SPECIFIC, 0x80);
    /// 81h (Connect): no controller or queue free.
    pub const CONNECT_CONTROLLER_BUSY: Self = Self::of(SPECIFIC, 0x81);
    /// 82h (Connect): a parameter is bad; dword 0 says which.
    pub const CONNECT_INVALID_PARAMETERS: Self = Self::of(SPECIFIC, 0x82);
    /// 83h (Connect): the subsystem is not here; discover again.
    pub const CONNECT_RESTART_DISCOVERY: Self = Self::of(SPECIFIC, 0x83);
    /// 84h (Connect): the host is not allowed.
    pub const CONNECT_INVALID_HOST: Self = Self::of(SPECIFIC, 0x84);
    /// 85h (Disconnect): the queue is not of the type that the command is for.
    pub const INVALID_QUEUE_TYPE: Self = Self::of(SPECIFIC, 0x85);
    /// 00h (Create I/O Submission Queue): its completion queue is not there.
    pub const COMPLETION_QUEUE_INVALID: Self = Self::of(SPECIFIC, 0x00);
    /// 08h (Create I/O Completion Queue).
    pub const INVALID_INTERRUPT_VECTOR: Self = Self::of(SPECIFIC, 0x08);
    /// 0Ch (Delete I/O Completion Queue): a submission queue still uses it.
    pub const INVALID_QUEUE_DELETION: Self = Self::of(SPECIFIC, 0x0C);
    /// 90h: the discovery log changed while it was read.
    pub const DISCOVER_RESTART: Self = Self::of(SPECIFIC, 0x90);
    /// 91h.
    pub const AUTHENTICATION_REQUIRED: Self = Self::of(SPECIFIC, 0x91);
    /// 80h (NVM): attributes contradict one another.
    pub const CONFLICTING_ATTRIBUTES: Self = Self::of(SPECIFIC, 0x80);
    /// 81h (NVM).
    pub const INVALID_PROTECTION_INFORMATION: Self = Self::of(SPECIFIC, 0x81);
    /// 83h (NVM): a Copy or Dataset Management beyond MSRC, MSSRL, MCL, DMRL….
    pub const COMMAND_SIZE_LIMIT_EXCEEDED: Self = Self::of(SPECIFIC, 0x83);
    /// 87h (NVM): source and destination overlap.
    pub const OVERLAPPING_RANGE: Self = Self::of(SPECIFIC, 0x87);
    /// 85h (NVM): a Copy between namespaces of different format.
    pub const INCOMPATIBLE_NAMESPACE: Self = Self::of(SPECIFIC, 0x85);
}

/// Media and data integrity errors (SCT 2h).
impl Status {
    /// 80h.
    pub const WRITE_FAULT: Self = Self::of(MEDIA, 0x80);
    /// 81h.
    pub const UNRECOVERED_READ_ERROR: Self = Self::of(MEDIA, 0x81);
    /// 82h: the guard of protection information is not that of the data.
    pub const GUARD_CHECK_ERROR: Self = Self::of(MEDIA, 0x82);
    /// 83h.
    pub const APPLICATION_TAG_CHECK_ERROR: Self = Self::of(MEDIA, 0x83);
    /// 84h: the reference tag is not that of the block.
    pub const REFERENCE_TAG_CHECK_ERROR: Self = Self::of(MEDIA, 0x84);
    /// 85h.
    pub const COMPARE_FAILURE: Self = Self::of(MEDIA, 0x85);
    /// 86h.
    pub const ACCESS_DENIED: Self = Self::of(MEDIA, 0x86);
}

/// Path related status (SCT 3h).
impl Status {
    /// 00h.
    pub const INTERNAL_PATH_ERROR: Self = Self::of(PATH, 0x00);
    /// 01h.
    pub const ANA_PERSISTENT_LOSS: Self = Self::of(PATH, 0x01);
    /// 02h.
    pub const ANA_INACCESSIBLE: Self = Self::of(PATH, 0x02);
    /// 03h.
    pub const ANA_TRANSITION: Self = Self::of(PATH, 0x03);
    /// 70h.
    pub const HOST_PATH_ERROR: Self = Self::of(PATH, 0x70);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_lie_where_a_completion_wants_them() {
        assert_eq!(u16::from(Status::COMPARE_FAILURE.dnr()), 0x4285);
        assert_eq!(u16::from(Status::ANA_INACCESSIBLE), 0x0302);
        assert!(Status::COMPARE_FAILURE.dnr().is(Status::COMPARE_FAILURE));
        assert!(!Status::COMPARE_FAILURE.is_success());
        assert!(!Status::WRITE_FAULT.is(Status::LBA_OUT_OF_RANGE));
    }
}
