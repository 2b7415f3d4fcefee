//! Login requests and responses (RFC 7143, sections 11.12 and 11.13).

use super::{BHS_LEN, U24};
use bitfield_struct::bitfield;
use open_enum::open_enum;
use zerocopy::big_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Stages of login.
#[open_enum]
#[repr(u8)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Stage {
    /// Who is who.
    Security = 0,
    /// How to talk.
    Operational = 1,
    /// Login is over.
    FullFeature = 3,
}

/// Flags of login PDUs.
#[bitfield(u8)]
#[derive(PartialEq, Eq)]
pub struct LoginFlags {
    /// NSG: the [`Stage`] to go to.
    #[bits(2)]
    pub next: u8,
    /// CSG: the present [`Stage`].
    #[bits(2)]
    pub current: u8,
    #[bits(2)]
    __: u8,
    /// C: the text goes on in the next PDU.
    pub more: bool,
    /// T: wants to, or does, go to the next stage.
    pub transit: bool,
}

/// Login Request.
#[repr(C)]
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
pub struct LoginRequest {
    /// As [`super::OpcodeByte`].
    pub opcode: u8,
    /// As [`LoginFlags`].
    pub flags: u8,
    /// Highest version that the initiator speaks.
    pub version_max: u8,
    /// Lowest.
    pub version_min: u8,
    /// 0.
    pub ahs_words: u8,
    /// Text in bytes.
    pub data_len: U24,
    /// The initiator's part of the session's identifier.
    pub isid: [u8; 6],
    /// The target's part; 0 for a new session.
    pub tsih: U16,
    /// Initiator Task Tag.
    pub task_tag: U32,
    /// Number of the connection within its session.
    pub connection_id: U16,
    /// Reserved.
    pub reserved: U16,
    /// CmdSN: the first of the session.
    pub command_sn: U32,
    /// ExpStatSN.
    pub expected_status_sn: U32,
    /// Reserved.
    pub reserved2: [u8; 16],
}
const _: () = assert!(size_of::<LoginRequest>() == BHS_LEN);

/// Login Response.
#[repr(C)]
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
pub struct LoginResponse {
    /// [`super::Opcode::LoginResponse`].
    pub opcode: u8,
    /// As [`LoginFlags`].
    pub flags: u8,
    /// Highest version that the target speaks.
    pub version_max: u8,
    /// The version in use.
    pub version_active: u8,
    /// 0.
    pub ahs_words: u8,
    /// Text in bytes.
    pub data_len: U24,
    /// As in the request.
    pub isid: [u8; 6],
    /// The session's handle, in the last response.
    pub tsih: U16,
    /// Initiator Task Tag.
    pub task_tag: U32,
    /// Reserved.
    pub reserved: U32,
    /// StatSN.
    pub status_sn: U32,
    /// ExpCmdSN.
    pub expected_command_sn: U32,
    /// MaxCmdSN.
    pub command_sn_max: U32,
    /// A [`LoginStatus`]: class, then detail.
    pub status: U16,
    /// Reserved.
    pub reserved2: [u8; 10],
}
const _: () = assert!(size_of::<LoginResponse>() == BHS_LEN);

/// Status classes and details of a Login Response (section 11.13.5).
#[open_enum]
#[repr(u16)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LoginStatus {
    /// Goes on, or has ended well.
    Success = 0x0000,
    /// The target is at TargetAddress for now.
    MovedTemporarily = 0x0101,
    /// For good.
    MovedPermanently = 0x0102,
    /// The initiator did something wrong.
    InitiatorError = 0x0200,
    /// Did not prove who it is.
    AuthenticationFailure = 0x0201,
    /// May not use this target.
    AuthorizationFailure = 0x0202,
    /// No such target.
    NotFound = 0x0203,
    /// The target is gone for good.
    TargetRemoved = 0x0204,
    /// No version in common.
    UnsupportedVersion = 0x0205,
    /// The session takes no more connections.
    TooManyConnections = 0x0206,
    /// A name is missing.
    MissingParameter = 0x0207,
    /// The connection cannot be part of the session.
    CannotIncludeInSession = 0x0208,
    /// No such type of session.
    SessionTypeNotSupported = 0x0209,
    /// There is no such session.
    SessionDoesNotExist = 0x020A,
    /// No login request, or not this one now.
    InvalidDuringLogin = 0x020B,
    /// The target has an error.
    TargetError = 0x0300,
    /// Not now.
    ServiceUnavailable = 0x0301,
    /// Too many sessions.
    OutOfResources = 0x0302,
}
