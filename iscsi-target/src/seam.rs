//! What passes between the connections of a node and its one target.
//!
//! A connection starts on the core that accepted it, which is the target's. The target answers its
//! login requests. When one has made it a normal session it may move to another core; from then on
//! it needs its [`SessionParameters`], a snapshot of its logical units, and now and then an
//! [`Order`].

use crate::scsi::{Attention, ControlCommand, Ending, Lun, Units};
use storage_spec::iscsi::{AsyncEvent, LoginFlags, LoginRequest, LoginStatus};
use storage_spec::iscsi::{TaskFunction, TaskResponse};

pub use target_io::ConnectionId;

/// Most bytes of text of one login or text request, over all its PDUs.
pub const TEXT_MAX: usize = 16 << 10;

/// A task of one connection, valid until replied to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Slot(pub u16);

/// What a connection has for the target.
#[derive(Debug)]
pub enum Event {
    /// A login request with all of its text. Answered by [`Order::Login`]; no other comes before.
    Login {
        /// The header of its last PDU.
        header: LoginRequest,
        /// Keys and values, each ended by NUL; at most [`TEXT_MAX`] bytes.
        text: Vec<u8>,
    },
    /// A text request. Answered by [`Order::Text`].
    Text {
        /// Where the answer goes.
        slot: Slot,
        /// As in `Login`.
        text: Vec<u8>,
    },
    /// A SCSI command that concerns what nexuses share. Answered by [`Order::Control`].
    Control {
        /// Where the answer goes.
        slot: Slot,
        /// The command.
        command: ControlCommand,
        /// Its parameter list.
        data: Vec<u8>,
    },
    /// Task management that concerns other sessions as well. Answered by [`Order::Management`].
    Management {
        /// Where the answer goes.
        slot: Slot,
        /// What is to be done.
        function: TaskFunction,
        /// To which unit, for those that name one.
        lun: Option<Lun>,
    },
    /// The tasks that [`Order::Abort`] named have ended.
    Aborted {
        /// As in the order.
        token: u64,
    },
}

/// What the target wants of a connection.
#[derive(Debug)]
pub enum Order {
    /// The answer to a login request.
    Login(Box<LoginReply>),
    /// The answer to a text request; `None` to reject it.
    Text(Slot, Option<Vec<u8>>),
    /// How a command ended.
    Control(Slot, Ending<core::convert::Infallible>),
    /// How task management ended.
    Management(Slot, TaskResponse),
    /// End the tasks of a unit, or all. [`Event::Aborted`] says when that is done.
    Abort {
        /// Returned with the event.
        token: u64,
        /// Of this unit only.
        lun: Option<Lun>,
        /// Whether each is to end with TASK ABORTED rather than silently.
        with_status: bool,
    },
    /// A new snapshot of the units, and what the initiator is to be told of it.
    Units(Units, Vec<(Lun, Attention)>),
    /// Tell the initiator something.
    Message(Message),
}

/// An asynchronous message (RFC 7143, section 11.9).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message {
    /// What happened.
    pub event: AsyncEvent,
    /// To which unit.
    pub lun: Lun,
    /// What else there is to say, depending on the event.
    pub parameters: [u16; 3],
    /// Sense data of a SCSI event.
    pub attention: Option<Attention>,
}

/// The answer to a login request.
#[derive(Debug)]
pub struct LoginReply {
    /// How it stands.
    pub status: LoginStatus,
    /// Stages, and whether the next begins.
    pub flags: LoginFlags,
    /// Handle of the session, in the last answer.
    pub tsih: u16,
    /// Keys and values.
    pub text: Vec<u8>,
    /// With the last answer: what the connection becomes.
    pub session: Option<(SessionParameters, Units)>,
}

/// What kind of session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionKind {
    /// Only SendTargets.
    Discovery,
    /// Everything.
    Normal,
}

/// What login has agreed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionParameters {
    /// What it is for.
    pub kind: SessionKind,
    /// Whether headers carry digests.
    pub header_digest: bool,
    /// Whether data carry digests.
    pub data_digest: bool,
    /// Whether data beyond the command's own PDU have to be asked for.
    pub initial_r2t: bool,
    /// Whether the command's own PDU may carry data.
    pub immediate_data: bool,
    /// Most data of one PDU to the initiator (its MaxRecvDataSegmentLength).
    pub send_max: u32,
    /// Most data of one sequence (MaxBurstLength).
    pub burst_max: u32,
    /// Most data of a command that come unasked (FirstBurstLength).
    pub first_burst: u32,
    /// iSCSIProtocolLevel: from 2 on there are the task management functions of RFC 7144.
    pub protocol_level: u16,
}

impl Default for SessionParameters {
    /// What holds when nothing was said (RFC 7143, section 13).
    fn default() -> Self {
        Self {
            kind: SessionKind::Normal,
            header_digest: false,
            data_digest: false,
            initial_r2t: true,
            immediate_data: true,
            send_max: 8192,
            burst_max: 262_144,
            first_burst: 65_536,
            protocol_level: 1,
        }
    }
}
