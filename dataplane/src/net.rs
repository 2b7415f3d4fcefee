//! The contract between a frontend and the sockets of its core, whatever carries them.
//!
//! As with disks, buffers travel with the operation and come back with its event.

use crate::dma::{Buf, Slice};
use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::os::fd::OwnedFd;

/// A listening socket of this core.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ListenerId(pub u32);

/// A connected socket of this core; not reused while events of its former life may come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SocketId(pub u64);

/// Where received bytes go: first into the landing range, what is left over into the staging
/// buffer.
#[derive(Debug)]
pub struct Rx {
    /// The buffer that goes on to the disk, and which of its bytes are awaited.
    pub landing: Option<(Buf, Range<usize>)>,
    /// Everything else: headers and small data.
    pub staging: Buf,
}

/// What to send, in order. Kept whole by the implementer until every byte has gone.
#[derive(Debug)]
pub struct Tx {
    /// Bytes that were copied: headers, digests, small data.
    pub heads: Buf,
    /// What is sent: ranges of `heads` and whole slices.
    pub parts: Vec<TxPart>,
}

/// One piece of a send.
#[derive(Debug)]
pub enum TxPart {
    /// This range of [`Tx::heads`].
    Head(Range<u32>),
    /// This data, not copied by us.
    Data(Slice),
}

/// Something that happened on a socket.
#[derive(Debug)]
pub enum Event {
    /// A host connected.
    Accepted {
        /// Where.
        listener: ListenerId,
        /// The new socket.
        socket: SocketId,
        /// The host's address.
        peer: SocketAddr,
        /// The address that the host chose of ours.
        local: SocketAddr,
    },
    /// A receive ended with this many bytes (0: the peer sends no more), or failed.
    Received {
        /// The socket.
        socket: SocketId,
        /// As given.
        rx: Rx,
        /// Bytes received, over both buffers.
        result: io::Result<usize>,
    },
    /// A send has gone whole, or failed.
    Sent {
        /// The socket.
        socket: SocketId,
        /// As given.
        tx: Tx,
        /// Whether all of it went.
        result: io::Result<()>,
    },
}

/// A socket between two cores.
#[derive(Debug)]
pub enum Handoff {
    /// A real one.
    Fd(OwnedFd),
    /// One of the simulator's.
    Simulated(u64),
}

/// The sockets of one core. At most one receive and one send are outstanding on each.
pub trait Net {
    /// Listens on `address`; port 0 takes any free one.
    ///
    /// # Errors
    /// As the operating system says: address in use, no permission, no such address.
    fn listen(&mut self, address: SocketAddr) -> io::Result<(ListenerId, SocketAddr)>;

    /// Accepts no more connections here.
    fn unlisten(&mut self, listener: ListenerId);

    /// Starts a receive.
    fn receive(&mut self, socket: SocketId, rx: Rx);

    /// Starts a send of at least one byte.
    fn send(&mut self, socket: SocketId, tx: Tx);

    /// Bytes that the peer's end has taken of what was sent since the connection was made. Not for
    /// every I/O: may cost a system call.
    fn taken(&mut self, socket: SocketId) -> u64;

    /// Makes outstanding operations on the socket end soon.
    fn shutdown(&mut self, socket: SocketId);

    /// Forgets a socket with nothing outstanding and closes it.
    fn close(&mut self, socket: SocketId);

    /// Gives a socket with nothing outstanding to another core.
    fn release(&mut self, socket: SocketId) -> Handoff;

    /// Takes a socket that another core released.
    fn adopt(&mut self, socket: Handoff) -> SocketId;

    /// The core is about to sleep: from here on whatever happens must wake it.
    fn rest(&mut self) {}

    /// System calls made so far, beside those of the core's ring.
    fn calls(&self) -> u64 {
        0
    }

    /// Appends what has happened to `events`.
    fn poll(&mut self, events: &mut Vec<Event>);
}
