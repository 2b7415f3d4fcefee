//! SCSI without a transport: what a command descriptor block asks for, and the block requests that
//! answer it (SAM-5, SPC-4, SBC-3).
//!
//! [`admit`] judges a command on the core of its connection with what that core knows: a snapshot
//! of the logical units ([`Unit`]) and the unit attentions of the nexus ([`Attentions`]). What
//! touches the medium becomes a [`Task`], which turns into block requests, one at a time; long
//! transfers move in pieces of a buffer each. What concerns state that nexuses share becomes a
//! [`ControlCommand`] for core 0 ([`control`]).
//!
//! The transport collects data-out as [`Needs`] says, delivers completions, and cuts or counts data
//! by the length that the initiator expects.

mod admit;
mod attention;
pub mod control;
mod copies;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
#[cfg(any(test, fuzzing))]
mod harness;
mod limits;
mod plan;
mod sense;
mod task;

pub use admit::{Request, admit};
pub use attention::{Attention, Attentions};
pub use limits::*;
pub use sense::{SENSE_MAX, Sense, SenseBytes};
pub use task::{Progress, Task, piece_len};

use core::ops::Range;
use std::sync::Arc;
pub use storage_spec::scsi::Status;
use target_io::VolumeIndex;

/// A logical unit number: what single-level addressing can say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lun(pub u16);

impl Lun {
    /// From its eight bytes (SAM-5 section 4.7.6); `None` for what names no unit here.
    #[must_use]
    pub fn from_wire(bytes: [u8; 8]) -> Option<Self> {
        let [high, low, rest @ ..] = bytes;
        if rest != [0; 6] {
            return None;
        }
        match high >> 6 {
            // Peripheral device addressing on bus 0.
            0b00 if high == 0 => Some(Self(low.into())),
            // Flat space addressing.
            0b01 => Some(Self(u16::from_be_bytes([high & 0x3F, low]))),
            _ => None,
        }
    }

    /// Its eight bytes: peripheral addressing as far as that goes, then flat.
    #[must_use]
    pub fn to_wire(self) -> [u8; 8] {
        let [high, low] = self.0.to_be_bytes();
        let high = if high == 0 { 0 } else { 0x40 | high };
        [high, low, 0, 0, 0, 0, 0, 0]
    }
}

/// A logical unit as a connection sees it: a snapshot, replaced when anything of it changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unit {
    /// Its volume.
    pub volume: VolumeIndex,
    /// The volume's identity: names are derived from it.
    pub uuid: [u8; 16],
    /// Capacity in bytes.
    pub capacity: u64,
    /// log2 of the logical block size: 9 or 12.
    pub block_shift: u8,
    /// Whether it may be written at all.
    pub protection: Protection,
    /// What reservations leave to this nexus.
    pub access: Access,
    /// Whether sense data are in descriptor format (D_SENSE).
    pub descriptor_sense: bool,
    /// Whether it answers commands to its medium, and why not.
    pub readiness: Readiness,
}

/// Logical units by LUN: a snapshot, replaced as a whole.
pub type Units = Arc<[Option<Unit>]>;

/// Whether and why a unit cannot be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protection {
    /// It can.
    None,
    /// The volume is read only.
    Volume,
    /// A host set SWP in the Control mode page.
    Software,
}

/// What reservations of others leave to a nexus (SPC-4 section 5.13.1, SBC-3 section 4.17).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Everything.
    All,
    /// Reading: another holds a write exclusive persistent reservation.
    ReadOnly,
    /// What concerns no data: another holds an exclusive access persistent reservation.
    None,
    /// As good as nothing: another holds the unit by RESERVE (SPC-2 section 5.5.1).
    Reserved,
}

/// Whether a unit answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readiness {
    /// It does.
    Ready,
    /// Its target port group is in another state than active.
    Standby,
    /// Its target port group is unavailable.
    Unavailable,
    /// Its target port group changes state.
    Transitioning,
}

/// What a command was judged to be.
#[derive(Debug)]
pub enum Admitted<B> {
    /// It has ended.
    End(Ending<B>),
    /// It moves data or touches the medium.
    Task(Task<B>, Needs),
    /// It is for [`control`].
    Control(ControlCommand, Needs),
}

/// A command for core 0. The data-out, if it needs some, goes with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ControlCommand {
    /// Its CDB.
    pub cdb: [u8; 16],
    /// Its logical unit; `None` where the bytes named none that can be.
    pub lun: Option<Lun>,
}

/// What a command needs from and has for the initiator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Needs {
    /// Bytes of data-out, in pieces of [`piece_len`]; [`admit`] has seen that the initiator offers
    /// as many.
    pub data_out: u32,
    /// Bytes of data-out that the CDB names: more where the initiator offers fewer and only what it
    /// offers is written.
    pub named: u32,
    /// Where byte 0 of the data-out lands in its page-aligned buffer.
    pub page_offset: u32,
    /// Most bytes of data-in.
    pub data_in_max: u32,
}

/// How a command ended.
#[derive(Debug)]
pub struct Ending<B> {
    /// Status byte of the response.
    pub status: Status,
    /// Sense data, with CHECK CONDITION.
    pub sense: Option<Sense>,
    /// Data for the initiator.
    pub data: DataIn<B>,
}

impl<B> Ending<B> {
    /// GOOD, with these data.
    #[must_use]
    pub fn good(data: DataIn<B>) -> Self {
        Self { status: Status::Good, sense: None, data }
    }

    /// CHECK CONDITION.
    #[must_use]
    pub fn check(sense: Sense) -> Self {
        Self { status: Status::CheckCondition, sense: Some(sense), data: DataIn::None }
    }

    /// A status that says all.
    #[must_use]
    pub fn status(status: Status) -> Self {
        Self { status, sense: None, data: DataIn::None }
    }
}

impl Ending<core::convert::Infallible> {
    /// The same where data could be in buffers.
    #[must_use]
    pub fn widen<B>(self) -> Ending<B> {
        let data = match self.data {
            DataIn::None => DataIn::None,
            DataIn::Bytes(bytes) => DataIn::Bytes(bytes),
            DataIn::Buffer { buf, .. } => match buf {},
        };
        Ending { status: self.status, sense: self.sense, data }
    }
}

/// Data for the initiator.
#[derive(Debug)]
pub enum DataIn<B> {
    /// None.
    None,
    /// A few.
    Bytes(Vec<u8>),
    /// A part of a buffer.
    Buffer {
        /// The buffer.
        buf: B,
        /// Which of its bytes.
        range: Range<usize>,
    },
}

impl<B> DataIn<B> {
    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::None => 0,
            Self::Bytes(bytes) => bytes.len(),
            Self::Buffer { range, .. } => range.len(),
        }
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests;
