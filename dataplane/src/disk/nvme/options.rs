//! How to drive a controller, and what can go wrong with it.

use super::link::Reason;
use std::time::Duration;
use storage_spec::nvme::status::Status;

/// Most I/O queues of a controller: one for each core.
pub const QUEUES_MAX: usize = 128;
/// Most entries of an I/O queue: command identifiers have ten bits for the slot.
pub const QUEUE_ENTRIES_MAX: u16 = 1024;
/// Most namespaces of a controller.
pub const NAMESPACES_MAX: usize = 256;

/// Models that do nothing about Force Unit Access. QEMU's (10.0) acknowledges such a write as any
/// other, without a flush below.
pub(super) const FUA_IGNORED_BY: [&str; 1] = ["QEMU NVMe Ctrl"];

/// How to drive a controller, and what the operator knows better than it.
#[derive(Debug, Clone, Copy)]
pub struct NvmeOptions {
    /// I/O queues to ask for: one for each core that shall have disks. 1 to [`QUEUES_MAX`].
    pub queues: usize,
    /// Entries of each, 2 to [`QUEUE_ENTRIES_MAX`]; fewer where the controller has fewer.
    pub entries: u16,
    /// A command is aborted after this time.
    pub timeout: Duration,
    /// The controller is reset if it does not end within this time after that.
    pub patience: Duration,
    /// Resets in a row, each soon after the one before, until the controller is given up.
    pub resets_max: u32,
    /// Use doorbells in memory where the controller offers them.
    pub shadow_doorbells: bool,
    /// Use scatter gather lists where the controller has them.
    pub sgl: bool,
    /// Whether Force Unit Access does what it says: `false` has writes flushed instead, as has a
    /// model that is known for it.
    pub honours_fua: bool,
    /// Declares that the cache survives power cuts.
    pub cache_is_safe: bool,
    /// Whether completions can interrupt, for cores that want to sleep.
    pub interrupts: bool,
}

impl Default for NvmeOptions {
    fn default() -> Self {
        Self {
            queues: 1,
            entries: 256,
            timeout: Duration::from_secs(8),
            patience: Duration::from_secs(2),
            resets_max: 5,
            shadow_doorbells: true,
            sgl: true,
            honours_fua: true,
            cache_is_safe: false,
            interrupts: true,
        }
    }
}

/// What is wrong with a controller.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    /// It lacks what we cannot do without.
    #[error("not supported: {0}")]
    Unsupported(&'static str),
    /// It did not become ready, or unready, in the time that it asks for itself.
    #[error("the controller did not become {}", if *.0 { "ready" } else { "idle" })]
    NotReady(bool),
    /// It reports a fatal state (CSTS.CFS).
    #[error("the controller reports a fatal error")]
    Fatal,
    /// It has forgotten its state: power was lost, or somebody else reset it.
    #[error("the controller lost its state")]
    LostState,
    /// A command did not end, not even when aborted.
    #[error("a command did not end")]
    Timeout,
    /// An administrative command did not end.
    #[error("{0} did not end")]
    AdminTimeout(&'static str),
    /// An administrative command that must succeed failed.
    #[error("{command} failed with status {:#06x}", u16::from(*.status))]
    Admin {
        /// Which.
        command: &'static str,
        /// How.
        status: Status,
    },
    /// A completion made no sense.
    #[error("a completion of {0}")]
    Nonsense(&'static str),
    /// After a reset it is another controller, or its queues or namespaces are others.
    #[error("the controller is no longer what it was: {0}")]
    Changed(&'static str),
    /// Memory or interrupts could not be had.
    #[error("{0}")]
    System(String),
    /// It has been reset too often.
    #[error("reset again and again; the last time: {0}")]
    Hopeless(Box<Trouble>),
    /// It is gone.
    #[error("the device is gone")]
    Removed,
}

impl From<Reason> for Trouble {
    fn from(reason: Reason) -> Self {
        match reason {
            Reason::Timeout => Self::Timeout,
            Reason::UnknownCommand => Self::Nonsense("a command that is not in flight"),
            Reason::WrongQueue => Self::Nonsense("another queue"),
            Reason::WrongHead => Self::Nonsense("a position outside of its queue"),
        }
    }
}
