//! TCP sockets of one core.

mod connection;
mod listener;
#[cfg(test)]
mod tests;

use super::ring::{Completed, Owner, Ring};
use crate::net::{Event, Handoff, ListenerId, Net, Rx, SocketId, Tx};
use bitfield_struct::bitfield;
use connection::{Connection, Sending, Slot};
use io_uring::opcode;
use io_uring::types::{Fd, Timespec};
use rustix::net::Shutdown;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

/// Most connections that a core can be told to hold.
pub const CONNECTIONS_MAX: usize = 1 << 20;

/// Most listening sockets of one core.
pub const LISTENERS_MAX: usize = 256;

/// How long accepting pauses when there are no file descriptors or no memory left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Events added by one poll to a list that has no capacity of its own.
const EVENTS_USUAL: usize = 64;

/// Sockets that are asked for data directly while their core spins. The kernel then neither arms a
/// poll nor signals, which is a part of the time that a single command takes.
const EAGER_MAX: usize = 4;
/// How often in vain before the kernel is asked to say when something comes.
const EAGER_TRIES: u32 = 200;

/// Limits of the sockets of one core.
#[derive(Debug, Clone, Copy)]
pub struct SocketOptions {
    /// Connections at once, at most [`CONNECTIONS_MAX`]; more are closed when they arrive.
    pub connections_max: usize,
}

impl Default for SocketOptions {
    fn default() -> Self {
        Self { connections_max: 4096 }
    }
}

/// What the sockets of a core have done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SocketCounters {
    /// Connections accepted.
    pub accepted: u64,
    /// Connections closed at once for [`SocketOptions::connections_max`].
    pub refused: u64,
    /// Times that accepting paused for want of file descriptors or memory.
    pub accept_pauses: u64,
    /// Receives ended.
    pub receives: u64,
    /// System calls beside the ring's: sockets asked directly for data.
    pub asked: u64,
    /// Bytes received.
    pub received_bytes: u64,
    /// Send operations ended; a send of many parts may take several.
    pub sends: u64,
    /// Bytes sent.
    pub sent_bytes: u64,
}

/// The sockets of one core, carried by its ring.
///
/// Takes at most the free capacity of the list given to [`Net::poll`], or 64 events if it has none.
pub struct Sockets {
    owner: Owner,
    options: SocketOptions,
    // Boxed, for the kernel holds addresses within.
    #[expect(clippy::vec_box, reason = "the kernel holds addresses within")]
    slots: Vec<Box<Slot>>,
    free: Vec<u32>,
    /// Sockets whose receives are not with the kernel but tried at each poll.
    eager: Vec<Eager>,
    listeners: Vec<Listener>,
    accept_pause: Box<Timespec>,
    counters: SocketCounters,
}

/// A receive that is tried directly.
struct Eager {
    slot: u32,
    /// How often it has been tried in vain.
    tries: u32,
}

#[derive(Default)]
struct Listener {
    /// Kept until nothing is pending: what is queued names it.
    fd: Option<OwnedFd>,
    is_open: bool,
    generation: u32,
    /// What the kernel still holds: an accept or the end of a pause.
    pending: Option<Kind>,
}

impl Listener {
    fn forget_if_done(&mut self) {
        if self.pending.is_none() {
            self.fd = None;
            self.generation = self.generation.wrapping_add(1);
        }
    }
}

/// What an operation is, in the index given to the ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Receive,
    Send,
    Accept,
    Pause,
}

impl Kind {
    const fn into_bits(self) -> u8 {
        self as u8
    }

    const fn from_bits(bits: u8) -> Self {
        match bits {
            0 => Self::Receive,
            1 => Self::Send,
            2 => Self::Accept,
            _ => Self::Pause,
        }
    }
}

#[bitfield(u32)]
struct OpIndex {
    #[bits(2)]
    kind: Kind,
    #[bits(22)]
    slot: u32,
    #[bits(8)]
    __: u8,
}

#[bitfield(u64)]
struct SocketName {
    slot: u32,
    generation: u32,
}

impl Sockets {
    /// No sockets yet, on this ring.
    #[must_use]
    pub fn new(ring: &Ring, options: SocketOptions) -> Self {
        assert!((1..=CONNECTIONS_MAX).contains(&options.connections_max));
        Self {
            owner: ring.join(),
            options,
            slots: Vec::new(),
            free: Vec::new(),
            eager: Vec::with_capacity(EAGER_MAX),
            listeners: Vec::new(),
            accept_pause: Box::new(ACCEPT_PAUSE.into()),
            counters: SocketCounters::default(),
        }
    }

    /// What they have done so far.
    #[must_use]
    pub fn counters(&self) -> SocketCounters {
        self.counters
    }

    /// Connections that are open.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    fn insert(&mut self, fd: OwnedFd) -> SocketId {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::new());
            self.slots.len() as u32 - 1
        });
        let place = &mut self.slots[slot as usize];
        place.connection = Some(Connection::new(fd));
        SocketId(SocketName::new().with_slot(slot).with_generation(place.generation).into_bits())
    }

    /// The place of a socket that is open.
    fn slot(&mut self, socket: SocketId) -> (u32, &mut Slot) {
        let name = SocketName::from_bits(socket.0);
        let slot = &mut *self.slots[name.slot() as usize];
        assert!(
            slot.generation == name.generation() && slot.connection.is_some(),
            "{socket:?} is open"
        );
        (name.slot(), slot)
    }

    fn connection(&mut self, socket: SocketId) -> &mut Connection {
        self.slot(socket).1.connection.as_mut().expect("checked by `slot`")
    }

    fn remove(&mut self, socket: SocketId) -> OwnedFd {
        let (index, slot) = self.slot(socket);
        let connection = slot.connection.take().expect("checked by `slot`");
        assert!(connection.is_idle(), "{socket:?} has nothing outstanding");
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(index);
        connection.fd
    }

    fn start(&mut self, kind: Kind, slot: u32) {
        let index = OpIndex::new().with_kind(kind).with_slot(slot).into_bits();
        let (generation, entry) = match kind {
            Kind::Receive => {
                let slot = &mut self.slots[slot as usize];
                (slot.generation, slot.receive_entry())
            }
            Kind::Send => {
                let slot = &mut self.slots[slot as usize];
                (slot.generation, slot.send_entry())
            }
            Kind::Accept | Kind::Pause => {
                let listener = &mut self.listeners[slot as usize];
                let fd = listener.fd.as_ref().expect("an open listener").as_raw_fd();
                listener.pending = Some(kind);
                let entry = match kind {
                    Kind::Accept => {
                        opcode::AcceptMulti::new(Fd(fd)).flags(libc::SOCK_CLOEXEC).build()
                    }
                    _ => opcode::Timeout::new(&raw const *self.accept_pause).build(),
                };
                (listener.generation, entry)
            }
        };
        // SAFETY: the slots are boxed and keep file, buffers, headers and vectors until the
        // completion has been fetched; a listener keeps its file as long; `self` drains on drop.
        unsafe { self.owner.push(index, generation, entry) };
    }

    fn received(&mut self, slot: u32, completed: Completed) -> Option<Event> {
        if is_retry(completed.result) {
            self.start(Kind::Receive, slot);
            return None;
        }
        let place = &mut self.slots[slot as usize];
        assert_eq!(place.generation, completed.generation, "a socket outlives its operations");
        let connection = place.connection.as_mut().expect("a socket outlives its operations");
        connection.drained = !io_uring::cqueue::sock_nonempty(completed.flags);
        Some(self.end_receive(slot, completed.result))
    }

    fn end_receive(&mut self, slot: u32, result: i32) -> Event {
        let place = &mut self.slots[slot as usize];
        let connection = place.connection.as_mut().expect("a socket outlives its operations");
        let rx = connection.rx.take().expect("a receive was outstanding");
        let result = to_result(result);
        self.counters.receives += 1;
        self.counters.received_bytes += *result.as_ref().unwrap_or(&0) as u64;
        Event::Received { socket: name(slot, place.generation), rx, result }
    }

    /// Tries the receives that are not with the kernel.
    fn try_eager(&mut self, events: &mut Vec<Event>) {
        let mut at = 0;
        while at < self.eager.len() && events.len() < events.capacity() {
            let eager = &mut self.eager[at];
            let slot = eager.slot;
            eager.tries += 1;
            let is_last = eager.tries == EAGER_TRIES;
            self.counters.asked += 1;
            let received = self.slots[slot as usize].receive_now();
            if let Some(result) = received {
                self.eager.swap_remove(at);
                events.push(self.end_receive(slot, result));
            } else if is_last {
                self.eager.swap_remove(at);
                self.start(Kind::Receive, slot);
            } else {
                at += 1;
            }
        }
    }

    fn sent(&mut self, slot: u32, completed: Completed) -> Option<Event> {
        let place = &mut self.slots[slot as usize];
        assert_eq!(place.generation, completed.generation, "a socket outlives its operations");
        let connection = place.connection.as_mut().expect("a socket outlives its operations");
        let sending = connection.tx.as_mut().expect("a send was outstanding");
        self.counters.sends += 1;
        let result = match completed.result {
            result if is_retry(result) => None,
            result => match to_result(result) {
                Ok(sent) => {
                    self.counters.sent_bytes += sent as u64;
                    sending.advance(sent).then_some(Ok(()))
                }
                Err(error) => Some(Err(error)),
            },
        };
        let Some(result) = result else {
            self.start(Kind::Send, slot);
            return None;
        };
        let tx = connection.tx.take().expect("a send was outstanding").tx;
        Some(Event::Sent { socket: name(slot, completed.generation), tx, result })
    }

    fn accepted(&mut self, listener: u32, completed: Completed) -> Option<Event> {
        let place = &mut self.listeners[listener as usize];
        let more = io_uring::cqueue::more(completed.flags);
        if !more {
            place.pending = None;
        }
        // SAFETY: the kernel has just opened this file for us.
        let fd = (completed.result >= 0).then(|| unsafe { OwnedFd::from_raw_fd(completed.result) });
        if !place.is_open {
            place.forget_if_done();
            return None;
        }
        match -completed.result {
            libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM => {
                self.counters.accept_pauses += 1;
                self.start(Kind::Pause, listener);
            }
            // Anything else is the fate of one connection.
            _ if !more => self.start(Kind::Accept, listener),
            _ => {}
        }
        self.admit(ListenerId(listener), fd?)
    }

    fn admit(&mut self, listener: ListenerId, fd: OwnedFd) -> Option<Event> {
        if self.connections() >= self.options.connections_max {
            self.counters.refused += 1;
            return None;
        }
        let (peer, local) = listener::addresses(&fd).ok()?;
        self.counters.accepted += 1;
        let socket = self.insert(fd);
        Some(Event::Accepted { listener, socket, peer, local })
    }

    fn pause_over(&mut self, listener: u32) {
        let place = &mut self.listeners[listener as usize];
        place.pending = None;
        if place.is_open {
            self.start(Kind::Accept, listener);
        } else {
            place.forget_if_done();
        }
    }

    fn dispatch(&mut self, completed: Completed) -> Option<Event> {
        let index = OpIndex::from_bits(completed.index);
        match index.kind() {
            Kind::Receive => self.received(index.slot(), completed),
            Kind::Send => self.sent(index.slot(), completed),
            Kind::Accept => self.accepted(index.slot(), completed),
            Kind::Pause => {
                self.pause_over(index.slot());
                None
            }
        }
    }

    fn cancel(&self, kind: Kind, slot: u32, generation: u32) {
        let index = OpIndex::new().with_kind(kind).with_slot(slot).into_bits();
        self.owner.cancel(index, generation);
    }
}

impl Net for Sockets {
    fn listen(&mut self, address: SocketAddr) -> io::Result<(ListenerId, SocketAddr)> {
        let is_free = |listener: &Listener| listener.fd.is_none();
        let id = self.listeners.iter().position(is_free).unwrap_or(self.listeners.len());
        if id == LISTENERS_MAX {
            return Err(io::Error::other("too many listening sockets on one core"));
        }
        let (fd, bound) = listener::open(address)?;
        if id == self.listeners.len() {
            self.listeners.push(Listener::default());
        }
        let place = &mut self.listeners[id];
        (place.fd, place.is_open) = (Some(fd), true);
        self.start(Kind::Accept, id as u32);
        Ok((ListenerId(id as u32), bound))
    }

    fn unlisten(&mut self, listener: ListenerId) {
        let place = &mut self.listeners[listener.0 as usize];
        assert!(place.is_open, "{listener:?} is open");
        place.is_open = false;
        // From here on nobody can connect, though the file stays open until the accept has ended.
        let _ = place.fd.as_ref().map(|fd| rustix::net::shutdown(fd, Shutdown::Both));
        let (kind, generation) = (place.pending, place.generation);
        if let Some(kind) = kind {
            self.cancel(kind, listener.0, generation);
        }
    }

    fn receive(&mut self, socket: SocketId, rx: Rx) {
        let connection = self.connection(socket);
        assert!(connection.rx.is_none(), "one receive at a time");
        connection.rx = Some(rx);
        let is_drained = connection.drained;
        let slot = SocketName::from_bits(socket.0).slot();
        if is_drained && self.eager.len() < EAGER_MAX {
            self.eager.push(Eager { slot, tries: 0 });
        } else {
            self.start(Kind::Receive, slot);
        }
    }

    fn send(&mut self, socket: SocketId, tx: Tx) {
        let connection = self.connection(socket);
        assert!(connection.tx.is_none(), "one send at a time");
        connection.tx = Some(Sending::new(tx));
        self.start(Kind::Send, SocketName::from_bits(socket.0).slot());
    }

    fn taken(&mut self, socket: SocketId) -> u64 {
        bytes_acked(&self.connection(socket).fd)
    }

    fn shutdown(&mut self, socket: SocketId) {
        let (index, slot) = self.slot(socket);
        let generation = slot.generation;
        let connection = slot.connection.as_ref().expect("checked by `slot`");
        let (receives, sends) = (connection.rx.is_some(), connection.tx.is_some());
        // Wakes whatever waits on the socket. It fails only on a socket that has failed already.
        let _ = rustix::net::shutdown(&connection.fd, Shutdown::Both);
        // One that is tried directly finds the end by itself.
        if receives && !self.eager.iter().any(|eager| eager.slot == index) {
            self.cancel(Kind::Receive, index, generation);
        }
        if sends {
            self.cancel(Kind::Send, index, generation);
        }
    }

    fn close(&mut self, socket: SocketId) {
        drop(self.remove(socket));
    }

    fn release(&mut self, socket: SocketId) -> Handoff {
        Handoff::Fd(self.remove(socket))
    }

    fn adopt(&mut self, socket: Handoff) -> SocketId {
        match socket {
            Handoff::Fd(fd) => self.insert(fd),
            Handoff::Simulated(_) => unreachable!("simulated sockets stay in the simulator"),
        }
    }

    fn rest(&mut self) {
        while let Some(eager) = self.eager.pop() {
            self.start(Kind::Receive, eager.slot);
        }
    }

    fn calls(&self) -> u64 {
        self.counters.asked
    }

    fn poll(&mut self, events: &mut Vec<Event>) {
        if events.len() == events.capacity() {
            events.reserve(EVENTS_USUAL);
        }
        self.try_eager(events);
        while events.len() < events.capacity() {
            let Some(completed) = self.owner.pop() else { return };
            events.extend(self.dispatch(completed));
        }
    }
}

impl Drop for Sockets {
    fn drop(&mut self) {
        for (index, listener) in self.listeners.iter().enumerate() {
            if let Some(kind) = listener.pending {
                self.cancel(kind, index as u32, listener.generation);
            }
        }
        for (index, slot) in self.slots.iter().enumerate() {
            let Some(connection) = &slot.connection else { continue };
            if connection.rx.is_some() {
                self.cancel(Kind::Receive, index as u32, slot.generation);
            }
            if connection.tx.is_some() {
                self.cancel(Kind::Send, index as u32, slot.generation);
            }
        }
        self.owner.drain();
    }
}

fn name(slot: u32, generation: u32) -> SocketId {
    SocketId(SocketName::new().with_slot(slot).with_generation(generation).into_bits())
}

/// `tcpi_bytes_acked` of `TCP_INFO` (linux/tcp.h, since Linux 4.1); 0 where there is none.
fn bytes_acked(fd: &OwnedFd) -> u64 {
    /// Eight bytes, 24 words, and two long words stand before it.
    const OFFSET: usize = 8 + 24 * 4 + 2 * 8;
    let mut info = [0_u8; OFFSET + 8];
    let mut len = info.len() as libc::socklen_t;
    // SAFETY: `info` has room for `len` bytes, and both outlive the call.
    let result = unsafe {
        let (info, len) = (info.as_mut_ptr().cast(), &raw mut len);
        libc::getsockopt(fd.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, info, len)
    };
    if result < 0 || len as usize != info.len() {
        return 0;
    }
    u64::from_ne_bytes(info[OFFSET..].try_into().expect("eight bytes"))
}

fn is_retry(result: i32) -> bool {
    -result == libc::EINTR || -result == libc::EAGAIN
}

fn to_result(result: i32) -> io::Result<usize> {
    if result < 0 { Err(io::Error::from_raw_os_error(-result)) } else { Ok(result as usize) }
}
