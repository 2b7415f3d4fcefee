//! What passes between the connections of a node and its one target.
//!
//! A connection starts on the core that accepted it, which is the target's. It hands every Fabrics
//! command and every admin command to the target as an [`Event`] and is answered by a [`Reply`].
//! When a Connect for an I/O queue has been answered the connection may move to another core; from
//! then on it needs only its [`Association`] and a snapshot of its namespaces.

use crate::io::{Now, VolumeIndex};
use crate::target::{NamespaceId, Nqn};
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use reservations::{Order, Registrant};
use std::sync::Arc;
use storage_spec::nvme::status::Status;

/// Most source ranges of one Copy command (Identify Namespace MSRC, 0-based there).
pub const COPY_RANGES_MAX: u16 = 128;
/// Most logical blocks in one source range of Copy (MSSRL).
pub const COPY_RANGE_BLOCKS_MAX: u16 = 4096;
/// Most logical blocks copied by one command (MCL).
pub const COPY_BLOCKS_MAX: u32 = 32_768;
/// Bytes of in-capsule data that every queue takes for Fabrics and admin commands.
pub const CONTROL_CAPSULE_DATA_MAX: u32 = 8192;
/// Most data that a Fabrics command may bring.
pub const FABRICS_DATA_MAX: u32 = 8192;
/// Most data that an admin command may bring: no command that is supported brings more than a page,
/// and a host may have as many under way as its queue has entries.
pub const ADMIN_DATA_MAX: u32 = 8192;

pub use reservations::Access;
pub use target_io::ConnectionId;

/// A command slot of one connection, valid until replied to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Slot(pub u16);

/// A command for the target: Fabrics and reservations on any queue, anything on the admin queue.
#[derive(Debug)]
pub struct Event {
    /// Where the reply goes.
    pub slot: Slot,
    /// The 64 bytes of the submission queue entry.
    pub sqe: [u8; 64],
    /// Data that came with the command (in the capsule or fetched by R2T), at most 8 KiB; empty
    /// for none.
    pub data: Vec<u8>,
}

/// Commands that a queue completed with an error, for the error log of its controller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandErrors {
    /// The latest, oldest first; at most [`ERRORS_HELD_MAX`].
    pub errors: Vec<CommandError>,
    /// How many came before those and were not kept.
    pub lost: u64,
}

/// Most errors that a queue keeps until they are taken.
pub const ERRORS_HELD_MAX: usize = 8;

/// A command that completed with an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CommandError {
    /// The command.
    pub command_id: u16,
    /// How it ended.
    pub status: Status,
    /// The namespace that it named.
    pub namespace_id: u32,
    /// First logical block concerned, of a command of the NVM command set.
    pub lba: u64,
}

/// The completion of an [`Event`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// Status field of the completion without its phase bit: DNR, more, CRD, SCT, SC in bits 14:0.
    pub status: u16,
    /// Dwords 0 and 1 of the completion.
    pub result: u64,
    /// Data for the host; cut to what its SGL has room for.
    pub data: Vec<u8>,
    /// For a Connect that succeeded: what the connection becomes.
    pub role: Option<Role>,
}

/// What Connect makes of a connection.
#[derive(Debug, Clone)]
pub enum Role {
    /// The admin queue of a controller.
    Admin(QueueParameters),
    /// An I/O queue of a controller: serves NVM commands by itself.
    Io(QueueParameters, Namespaces),
}

/// Fixed by Connect.
#[derive(Debug, Clone)]
pub struct QueueParameters {
    /// The controller and all its queues.
    pub association: Arc<Association>,
    /// 0 for the admin queue.
    pub queue_id: u16,
    /// Entries in the submission queue (1-based): most commands outstanding.
    pub entries: u16,
    /// Whether the host disabled SQ flow control: SQHD is then FFFFh and SUCCESS allowed.
    pub flow_control_disabled: bool,
}

/// What the queues of one controller share, read or written without a lock.
#[derive(Debug)]
pub struct Association {
    /// The controller's id.
    pub controller_id: u16,
    /// Nanoseconds of [`Now`] at which any queue last saw a command: Traffic Based Keep Alive.
    last_traffic: AtomicU64,
    /// Cleared when the controller is disabled, shut down or lost: queues execute nothing more.
    enabled: AtomicBool,
}

impl PartialEq for QueueParameters {
    fn eq(&self, other: &Self) -> bool {
        self.association.controller_id == other.association.controller_id
            && self.queue_id == other.queue_id
    }
}
impl Eq for QueueParameters {}
impl PartialEq for Role {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Admin(a), Self::Admin(b)) | (Self::Io(a, _), Self::Io(b, _)) => a == b,
            _ => false,
        }
    }
}
impl Eq for Role {}

impl Association {
    /// A new controller's, with traffic seen now.
    #[must_use]
    pub fn new(controller_id: u16, now: Now) -> Self {
        let this =
            Self { controller_id, last_traffic: AtomicU64::new(0), enabled: AtomicBool::new(true) };
        this.touch(now);
        this
    }

    /// Notes that a command arrived.
    pub fn touch(&self, now: Now) {
        self.last_traffic.store(now.as_nanos() as u64, Ordering::Relaxed);
    }

    /// When a command last arrived on any queue.
    #[must_use]
    pub fn last_traffic(&self) -> Now {
        Now::from_nanos(self.last_traffic.load(Ordering::Relaxed))
    }

    /// Whether queues may execute commands.
    #[must_use]
    pub fn is_enabled(&self) -> bool {
        self.enabled.load(Ordering::Acquire)
    }

    /// Allows or forbids the queues to execute commands.
    pub fn set_enabled(&self, enabled: bool) {
        self.enabled.store(enabled, Ordering::Release);
    }
}

/// A namespace as an I/O queue sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Namespace {
    /// Its volume.
    pub volume: VolumeIndex,
    /// Capacity in bytes.
    pub capacity: u64,
    /// log2 of the logical block size: 9 or 12.
    pub block_shift: u8,
    /// Write protected (feature 84h, or the volume is read only).
    pub read_only: bool,
    /// What reservations leave to the host.
    pub access: Access,
}

/// Namespaces that a controller's queues may address, by NSID: index 0 is NSID 1. A snapshot,
/// replaced as a whole when the configuration changes.
pub type Namespaces = Arc<[Option<Namespace>]>;

/// What the target wants done, outside of the reply to the command at hand.
#[derive(Debug)]
pub enum Action {
    /// Answer a command that was left pending (asynchronous event, abort).
    Reply(ConnectionId, Slot, Reply),
    /// Close this connection; its requests in flight are drained first, then
    /// `Target::closed` is called.
    Close(ConnectionId),
    /// Give an I/O queue a new snapshot of its namespaces, before any later reply or event is sent.
    SetNamespaces(ConnectionId, Namespaces),
    /// Keep over restarts whether hosts may write to a namespace; then say by
    /// `Target::protection_result` whether that is done, with the same token.
    ProtectNamespace {
        /// Its subsystem.
        subsystem: Nqn,
        /// The namespace.
        namespace: NamespaceId,
        /// Whether it is to be protected.
        protect: bool,
        /// Returned with the result.
        token: u64,
    },
    /// Give this order to the volume's reservation table, keep the table over restarts if it says
    /// so, and tell every target of what changed (`Target::set_reservations`); then say by
    /// `Target::reservation_result` what came of it, with the same token.
    Reserve {
        /// The volume.
        volume: VolumeIndex,
        /// Whose order it is.
        who: Registrant,
        /// The order.
        order: Order,
        /// Returned with the result.
        token: u64,
    },
    /// Find the command with this CID on this connection and abort it if it has not begun to
    /// execute; then tell `Target::abort_result` whether it was, with the same token.
    Abort {
        /// The queue's connection.
        connection: ConnectionId,
        /// The command.
        command_id: u16,
        /// Returned with the result.
        token: u64,
    },
}
