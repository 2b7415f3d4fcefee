//! What cores say to each other.

use super::ShardSeat;
use super::slots::Landed;
use super::{DevicePart, Devices};
use crate::dma::Pool;
use crate::frontend::{Connection, Event};
use crate::net::Handoff;
use crate::store::{self, Completion, Mounting, VolumeId};
use crate::uring::Ring;
use crate::volume::{Piece, Route};
use iscsi_target::seam::Order;
use nvmeof_target::seam::{CommandErrors, Namespaces, Reply, Slot};
use std::rc::Rc;
use std::sync::Arc;
use target_io::{ConnectionId, VolumeIndex};

/// One message. Between two cores they arrive in the order in which they were sent.
pub(crate) enum Message {
    /// Part of a host's request, for a shard of the receiver.
    Piece { shard: u16, piece: Piece },
    /// The end of a piece that the receiver sent.
    Done(Completion),
    /// An I/O queue or session for the receiver to serve.
    Adopt(Box<Adopted>),
    /// To the control core: a command that the target answers.
    Event { connection: ConnectionId, event: Event },
    /// To the control core: commands of the connection completed with errors.
    Errors { connection: ConnectionId, errors: CommandErrors },
    /// The iSCSI target wants something of a connection. New units are answered by
    /// `NamespacesSet`.
    Order { connection: ConnectionId, order: Box<Order> },
    /// The NVMe target's answer.
    Reply { connection: ConnectionId, slot: Slot, reply: Reply },
    /// Tear this connection down.
    Close(ConnectionId),
    /// To the control core: the connection is gone and drained.
    Closed(ConnectionId),
    /// The connection's namespaces have changed. Answered by `NamespacesSet`.
    SetNamespaces(ConnectionId, Namespaces),
    /// To the control core: the above has been done.
    NamespacesSet,
    /// A volume has come, moved, or gone. Answered by `Shard` with this token; if it has gone, once
    /// every piece that this core sent to it lies in its receiver's mailbox.
    SetRoute { token: u64, volume: VolumeIndex, route: Option<Route> },
    /// Abort a command if it has not begun.
    Abort { connection: ConnectionId, command_id: u16, token: u64 },
    /// To the control core: whether it was.
    Aborted { token: u64, aborted: bool },
    /// Abort what the connection has asked of the volume and has not begun. Answered by `Drained`
    /// when nothing of it is in flight.
    Drain { connection: ConnectionId, volume: VolumeIndex, token: u64 },
    /// To the control core: that is so.
    Drained { token: u64 },
    /// Nothing, to be answered by `Shard`: shows that the receiver takes its turns.
    Ping { token: u64 },
    /// Management of a shard of the receiver. Answered by `Shard`.
    Command { shard: u16, token: u64, command: ShardCommand },
    /// To the control core: the answer.
    Shard { token: u64, reply: ShardReply },
    /// Have the shards of these disks leave. Answered by `Shard` when nothing of them is left.
    Retire { token: u64, disks: Arc<[usize]> },
    /// Let go of a device or drive, whose disks have left every core. Answered by `Shard` when it
    /// is done.
    Release { token: u64, part: DevicePart },
    /// Shards come. Answered by `Landed` when they are recovered, or could not be.
    Arrive { token: u64, arrival: Box<dyn Arrival> },
    /// To the control core: the answer.
    Landed { token: u64, core: u16, shards: Vec<Landed> },
    /// Have the shards of a disk serve that have come.
    Serve { disk: usize },
    /// Close every connection and await what is in flight. Answered by `Quiet`.
    Quiesce,
    /// To the control core: no request of this core is in flight.
    Quiet,
    /// Settle every shard. Answered by `Settled`.
    Settle,
    /// To the control core: the shards' journals are empty, or (not clean) are left for recovery.
    Settled { clean: bool },
    /// Leave the loop.
    Stop,
}

/// Shards for one core, with the hardware that they need.
pub(crate) trait Arrival: Send {
    /// Puts the hardware on the calling core, and begins to mount the shards. `ring` is that of
    /// its thread.
    fn begin(
        self: Box<Self>,
        devices: &mut Devices,
        ring: Option<&Ring>,
        pool: &Rc<Pool>,
    ) -> Vec<(ShardSeat, Mounting)>;
}

/// A connection between two cores.
pub(crate) struct Adopted {
    pub(crate) connection: Connection,
    pub(crate) socket: Handoff,
}

/// What control asks of a shard.
#[derive(Debug, Clone)]
pub(crate) enum ShardCommand {
    /// Keep a value in the catalogue.
    Put { key: Vec<u8>, value: Vec<u8> },
    /// Forget it.
    Delete { key: Vec<u8> },
    /// Free everything that the volume has here.
    Drop(VolumeId),
    /// Slabs of the volume, and of the shard.
    Usage(VolumeId),
}

/// A shard's answer.
#[derive(Debug, Clone, Copy)]
pub(crate) enum ShardReply {
    /// A change is durable, or failed.
    Changed(Result<(), store::Error>),
    /// Bytes that the volume uses here.
    Usage(u64),
}
