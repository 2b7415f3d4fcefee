//! Headers of NVMe/TCP protocol data units (NVMe TCP Transport Specification 1.0, section 3.6).

use crate::nvme::command::{Command, Completion};
use bitfield_struct::bitfield;
use open_enum::open_enum;
use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Types of PDU.
#[open_enum]
#[repr(u8)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PduType {
    /// Initialize Connection Request.
    IcReq = 0x00,
    /// Initialize Connection Response.
    IcResp = 0x01,
    /// Host to Controller Terminate Connection Request.
    H2cTermReq = 0x02,
    /// Controller to Host Terminate Connection Request.
    C2hTermReq = 0x03,
    /// Command capsule.
    CapsuleCmd = 0x04,
    /// Response capsule.
    CapsuleResp = 0x05,
    /// Host to Controller Data.
    H2cData = 0x06,
    /// Controller to Host Data.
    C2hData = 0x07,
    /// Ready to Transfer.
    R2t = 0x09,
}

/// Flags of the common header.
#[bitfield(u8)]
#[derive(PartialEq, Eq)]
pub struct PduFlags {
    /// HDGSTF: a header digest follows the header.
    pub header_digest: bool,
    /// DDGSTF: a data digest follows the data.
    pub data_digest: bool,
    /// LAST_PDU of a transfer (data PDUs).
    pub last: bool,
    /// SUCCESS (C2HData): no response capsule follows.
    pub success: bool,
    #[bits(4)]
    __: u8,
}

/// First eight bytes of every PDU (section 3.6.1).
#[repr(C)]
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
pub struct CommonHeader {
    /// A [`PduType`].
    pub pdu_type: u8,
    /// As [`PduFlags`].
    pub flags: u8,
    /// Header length in bytes, without digest.
    pub header_len: u8,
    /// Offset of the data within the PDU; 0 where there are none.
    pub data_offset: u8,
    /// Length of the whole PDU, digests and padding included.
    pub pdu_len: U32,
}
const _: () = assert!(size_of::<CommonHeader>() == 8);

/// ICReq (section 3.6.2.2).
#[repr(C)]
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
pub struct IcReq {
    /// Common header.
    pub common: CommonHeader,
    /// PDU Format Version: 0.
    pub format_version: U16,
    /// Host PDU Data Alignment: data the host receives are to be aligned to (n + 1) · 4 bytes.
    pub host_data_alignment: u8,
    /// Digests wanted, as [`Digests`].
    pub digests: u8,
    /// Most R2Ts outstanding for one command, 0-based.
    pub r2t_max_z: U32,
    /// Reserved.
    pub reserved: [u8; 112],
}
const _: () = assert!(size_of::<IcReq>() == 128);

/// ICResp (section 3.6.2.3).
#[repr(C)]
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
pub struct IcResp {
    /// Common header.
    pub common: CommonHeader,
    /// PDU Format Version: 0.
    pub format_version: U16,
    /// Controller PDU Data Alignment, as [`IcReq::host_data_alignment`] the other way.
    pub controller_data_alignment: u8,
    /// Digests in use, as [`Digests`].
    pub digests: u8,
    /// Most data bytes in one H2CData PDU; a multiple of 4, at least 4096.
    pub h2c_data_max: U32,
    /// Reserved.
    pub reserved: [u8; 112],
}
const _: () = assert!(size_of::<IcResp>() == 128);

/// Digests of ICReq and ICResp.
#[bitfield(u8)]
#[derive(PartialEq, Eq)]
pub struct Digests {
    /// HDGST_ENABLE.
    pub header: bool,
    /// DDGST_ENABLE.
    pub data: bool,
    #[bits(6)]
    __: u8,
}

/// CapsuleCmd header (section 3.6.2.6); in-capsule data may follow.
#[repr(C)]
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
pub struct CapsuleCmd {
    /// Common header.
    pub common: CommonHeader,
    /// The command.
    pub command: Command,
}
const _: () = assert!(size_of::<CapsuleCmd>() == 72);

/// CapsuleResp (section 3.6.2.7).
#[repr(C)]
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
pub struct CapsuleResp {
    /// Common header.
    pub common: CommonHeader,
    /// The completion.
    pub completion: Completion,
}
const _: () = assert!(size_of::<CapsuleResp>() == 24);

/// H2CData (section 3.6.2.8) and C2HData (section 3.6.2.9) headers.
#[repr(C)]
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
pub struct DataHeader {
    /// Common header.
    pub common: CommonHeader,
    /// CCCID: the command that the data belong to.
    pub command_id: U16,
    /// TTAG of the R2T that is answered; reserved in C2HData.
    pub transfer_tag: U16,
    /// DATAO: offset of the data within the command's.
    pub data_offset: U32,
    /// DATAL: bytes of data.
    pub data_len: U32,
    /// Reserved.
    pub reserved: [u8; 4],
}
const _: () = assert!(size_of::<DataHeader>() == 24);

/// R2T (section 3.6.2.10).
#[repr(C)]
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
pub struct R2t {
    /// Common header.
    pub common: CommonHeader,
    /// CCCID: the command whose data are asked for.
    pub command_id: U16,
    /// TTAG: to be returned with the data.
    pub transfer_tag: U16,
    /// R2TO: offset within the command's data.
    pub offset: U32,
    /// R2TL: bytes.
    pub len: U32,
    /// Reserved.
    pub reserved: [u8; 4],
}
const _: () = assert!(size_of::<R2t>() == 24);

/// H2CTermReq and C2HTermReq (sections 3.6.2.4 and 3.6.2.5); up to 128 bytes of the header that
/// was wrong follow.
#[repr(C)]
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
pub struct TermReq {
    /// Common header.
    pub common: CommonHeader,
    /// A [`FatalError`].
    pub status: U16,
    /// FEI: for invalid fields and unsupported parameters the byte offset of the field; for
    /// header digest errors the digest received.
    pub information: U32,
    /// Reserved.
    pub reserved: [u8; 10],
}
const _: () = assert!(size_of::<TermReq>() == 24);

/// Fatal Error Status of a terminate request.
#[open_enum]
#[repr(u16)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FatalError {
    /// Invalid PDU Header Field.
    InvalidField = 1,
    /// PDU Sequence Error.
    Sequence = 2,
    /// Header Digest Error.
    HeaderDigest = 3,
    /// Data Transfer Out of Range.
    DataOutOfRange = 4,
    /// R2T Limit Exceeded (from hosts), Data Transfer Limit Exceeded (from controllers).
    LimitExceeded = 5,
    /// Unsupported Parameter.
    UnsupportedParameter = 6,
}

/// Bytes of ICReq and ICResp.
pub const IC_LEN: usize = 128;
/// Bytes of a CapsuleCmd header.
pub const CAPSULE_CMD_LEN: usize = 72;
/// Bytes of CapsuleResp, data, R2T and terminate request headers.
pub const SHORT_LEN: usize = 24;
/// Bytes of a digest.
pub const DIGEST_LEN: usize = 4;
/// Most bytes of an offending header in a terminate request.
pub const TERM_DATA_MAX: usize = 128;
/// Largest Host or Controller PDU Data Alignment.
pub const DATA_ALIGNMENT_MAX: u8 = 31;

#[cfg(test)]
mod tests {
    use super::*;
    use core::mem::offset_of;

    #[test]
    fn fields_lie_where_the_specification_puts_them() {
        assert_eq!(offset_of!(IcReq, host_data_alignment), 10);
        assert_eq!(offset_of!(IcReq, r2t_max_z), 12);
        assert_eq!(offset_of!(IcResp, h2c_data_max), 12);
        assert_eq!(offset_of!(DataHeader, transfer_tag), 10);
        assert_eq!(offset_of!(DataHeader, data_len), 16);
        assert_eq!(offset_of!(R2t, len), 16);
        assert_eq!(offset_of!(TermReq, information), 10);
        assert_eq!(u8::from(PduFlags::new().with_last(true).with_success(true)), 0x0C);
    }
}
