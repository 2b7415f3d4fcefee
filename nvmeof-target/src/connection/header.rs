//! Checks of the headers that a host sends, and what a host is told of them that fail.

use super::{Connection, Phase};
use crate::io::Buffer;
use crate::seam::CONTROL_CAPSULE_DATA_MAX;
use core::mem::offset_of;
use storage_spec::crc32c;
use storage_spec::nvme::command::{Command, FABRICS_OPCODE};
use storage_spec::nvme_tcp::{
    CAPSULE_CMD_LEN, CommonHeader, DIGEST_LEN, FatalError, IC_LEN, PduFlags, PduType, SHORT_LEN,
    TERM_DATA_MAX,
};
use zerocopy::FromBytes;

/// How a host broke the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Violation {
    pub(super) status: FatalError,
    pub(super) information: u32,
}

impl Violation {
    /// A field of a header has a value that it must not have.
    pub(super) fn field(offset: usize) -> Self {
        Self { status: FatalError::InvalidField, information: offset as u32 }
    }

    pub(super) fn of(status: FatalError) -> Self {
        Self { status, information: 0 }
    }
}

/// The data section of a PDU.
#[derive(Debug, Clone, Copy)]
pub(super) struct Section {
    pub(super) padding: u32,
    pub(super) len: u32,
    pub(super) has_digest: bool,
}

impl<B: Buffer> Connection<B> {
    /// Checks the common header; the length of the whole header with its digest.
    pub(super) fn header_len(&self, bytes: &[u8]) -> Result<usize, Violation> {
        let common =
            CommonHeader::ref_from_bytes(bytes).expect("the length is that of the structure");
        let pdu_type = PduType(common.pdu_type);
        let is_first = matches!(self.phase, Phase::AwaitIcReq);
        let (header_len, has_digest) = match pdu_type {
            PduType::IcReq if is_first => (IC_LEN, false),
            PduType::H2cTermReq => (SHORT_LEN, false),
            PduType::CapsuleCmd if !is_first => (CAPSULE_CMD_LEN, self.digests.header()),
            PduType::H2cData if !is_first => (SHORT_LEN, self.digests.header()),
            PduType::IcReq | PduType::CapsuleCmd | PduType::H2cData => {
                return Err(Violation::of(FatalError::Sequence));
            }
            _ => return Err(Violation::field(offset_of!(CommonHeader, pdu_type))),
        };
        if usize::from(common.header_len) != header_len {
            return Err(Violation::field(offset_of!(CommonHeader, header_len)));
        }
        if PduFlags::from(common.flags).header_digest() != has_digest
            && matches!(pdu_type, PduType::CapsuleCmd | PduType::H2cData)
        {
            return Err(Violation::field(offset_of!(CommonHeader, flags)));
        }
        let need = header_len + if has_digest { DIGEST_LEN } else { 0 };
        let pdu_len = common.pdu_len.get() as usize;
        let is_fit = match pdu_type {
            PduType::IcReq => pdu_len == IC_LEN,
            PduType::H2cTermReq => (need..=need + TERM_DATA_MAX).contains(&pdu_len),
            PduType::H2cData => pdu_len > need,
            _ => pdu_len >= need,
        };
        if is_fit { Ok(need) } else { Err(Violation::field(offset_of!(CommonHeader, pdu_len))) }
    }

    pub(super) fn check_header_digest(
        &mut self,
        header: &[u8],
        len: usize,
    ) -> Result<(), Violation> {
        if !self.digests.header() {
            return Ok(());
        }
        let (header, digest) = header.split_at(len);
        let received = u32::from_le_bytes(digest.try_into().expect("a digest follows the header"));
        if crc32c::checksum(header) == received {
            return Ok(());
        }
        self.counters.header_digest_errors += 1;
        Err(Violation { status: FatalError::HeaderDigest, information: received })
    }

    /// Checks what the common header says of data.
    pub(super) fn section(
        &self,
        common: &CommonHeader,
        header_len: usize,
    ) -> Result<Section, Violation> {
        let has_digest = PduFlags::from(common.flags).data_digest();
        let pdu_len = common.pdu_len.get();
        let header_len = header_len as u32;
        if pdu_len == header_len {
            return Ok(Section { padding: 0, len: 0, has_digest: false });
        }
        if has_digest != self.digests.data() {
            return Err(Violation::field(offset_of!(CommonHeader, flags)));
        }
        let data_offset = u32::from(common.data_offset);
        if data_offset < header_len || !data_offset.is_multiple_of(4) {
            return Err(Violation::field(offset_of!(CommonHeader, data_offset)));
        }
        let digest_len = if has_digest { DIGEST_LEN as u32 } else { 0 };
        match pdu_len.checked_sub(data_offset + digest_len) {
            Some(len) if len > 0 => {
                Ok(Section { padding: data_offset - header_len, len, has_digest })
            }
            _ => Err(Violation::field(offset_of!(CommonHeader, pdu_len))),
        }
    }

    pub(super) fn capsule_data_max(&self, command: &Command) -> u32 {
        let is_io = matches!(self.phase, Phase::Io) && command.opcode != FABRICS_OPCODE;
        if is_io { self.config.in_capsule_max } else { CONTROL_CAPSULE_DATA_MAX }
    }
}
