//! One NVMe/TCP connection, which is one queue.
//!
//! ```text
//!            ICReq            Connect accepted
//! AwaitIcReq ─────▶ AwaitConnect ─────▶ Admin | Io
//!     └───────────────┴────────┬──────────┘
//!        host breaks protocol  │  terminate request received,
//!                 ▼            │  or a deadline passed
//!            Terminating ──────┴─────▶ Over
//!              (C2HTermReq sent, host has 30 s to close)
//! ```
//!
//! The core that serves the socket
//! 1. offers [`Connection::take_landing`] and its staging buffer to the socket,
//! 2. returns the landing with [`Connection::landed`] and then gives the staged bytes to
//!    [`Connection::receive`],
//! 3. carries [`Connection::take_event`] to the target and [`Connection::reply`] back,
//! 4. gives block completions to [`Connection::complete`],
//! 5. lets [`Connection::transmit`] write what is to be sent, and carries
//!    [`Connection::take_errors`] to the target,
//! 6. calls [`Connection::resume`] after sending, and when buffers came back, if
//!    [`Connection::blocked`] or [`Connection::starved`],
//! 7. closes the socket when [`Connection::is_over`], calls [`Connection::close`], and forgets the
//!    connection when [`Connection::outstanding`] is 0.
//!
//! Invariants: every accepted command is completed exactly once while the connection lives; a slot
//! has at most one block request and one place in the send queue; nothing is executed after
//! `close`, after a protocol error, or while the association is disabled; memory is bounded by the
//! slots, the data of one transfer each.
//!
//! What it does not do: several R2Ts at once for one command (one covers the whole transfer, whose
//! buffer is there before it is asked for: more would save nothing), metadata and protection
//! information, Copy formats 2h and 3h (between namespaces, in revision 1.1 of the
//! NVM command set; ours is 1.0).

mod admit;
mod bulk;
mod counters;
mod errors;
mod execute;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod header;
mod plan;
mod receive;
mod slots;
mod transmit;

#[cfg(test)]
mod tests;

pub use counters::Counters;

use crate::io::{Buffer, Now, TRANSFER_MAX, VolumeIndex};
use crate::seam::{ConnectionId, Event, Namespaces, QueueParameters, Reply, Role, Slot};
use core::time::Duration;
use errors::Errors;
use receive::Receiver;
use slots::{Kind, NONE, Slots, State};
use std::collections::VecDeque;
use std::sync::Arc;
use storage_spec::nvme::status::Status;
use storage_spec::nvme_tcp::Digests;
use transmit::Sender;

/// Slots before Connect says how many entries the queue has.
const SLOTS_BEFORE_CONNECT: u16 = 4;

/// How long a host has to close after a terminate request (TCP transport section 3.5).
const TERMINATION_TIMEOUT: Duration = Duration::from_secs(30);

/// How long data that the host owes may make no progress.
const PROGRESS_TIMEOUT: Duration = Duration::from_secs(30);

/// How long the data of one command may take once they are asked for, whatever their progress: a
/// byte now and then would keep their buffer for ever.
const TRANSFER_TIMEOUT: Duration = Duration::from_secs(120);

/// Most bytes of replies of the target that a connection holds or has asked for: beyond, commands
/// wait until some are sent. One command is always served.
const REPLIES_MAX: usize = 2 << 20;

/// How exactly Traffic Based Keep Alive sees traffic: the shared time is written no more often.
const TOUCH_INTERVAL: Duration = Duration::from_millis(1);

/// What a connection offers and bears.
#[derive(Debug, Clone, Copy)]
pub struct Config {
    /// Whether header digests are granted to hosts that ask.
    pub header_digest: bool,
    /// Whether data digests are granted to hosts that ask.
    pub data_digest: bool,
    /// In-capsule data on I/O queues in bytes, as IOCCSZ says: 0 or a multiple of 16.
    pub in_capsule_max: u32,
    /// Data in one H2CData PDU in bytes: a multiple of 4, at least 4096.
    pub h2c_data_max: u32,
    /// Time from the start to the ICReq.
    pub icreq_timeout: Duration,
    /// Time from the ICReq to a Connect that is accepted.
    pub connect_timeout: Duration,
    /// Most bytes of buffers that the connection's commands hold, those whose data are being sent
    /// included; one command is always served. At least two of the largest transfers.
    pub buffers_max: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            header_digest: true,
            data_digest: true,
            in_capsule_max: 8192,
            h2c_data_max: TRANSFER_MAX as u32,
            icreq_timeout: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(30),
            buffers_max: usize::MAX,
        }
    }
}

/// Where the connection stands; see the drawing above.
#[derive(Debug)]
enum Phase {
    AwaitIcReq,
    /// Only Connect is legal, and one at a time: the slot of the one under way.
    AwaitConnect {
        pending: Option<u16>,
    },
    Admin,
    Io,
    /// A terminate request is on its way or sent.
    Terminating,
    /// The socket is to be closed.
    Over,
}

/// The first of a fused pair, while its second is awaited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fused {
    /// No pair has begun.
    None,
    /// In this slot.
    First(u16),
    /// Refused or aborted already.
    FirstFailed,
}

/// One TCP connection; the module says how it is driven.
#[derive(Debug)]
pub struct Connection<B> {
    id: ConnectionId,
    config: Config,
    phase: Phase,
    queue: Option<QueueParameters>,
    namespaces: Namespaces,
    digests: Digests,
    /// Data in PDUs to the host begin at multiples of this.
    host_alignment: usize,
    slots: Slots<B>,
    receiver: Receiver,
    sender: Sender,
    /// Slots in `AwaitingBuffer`, first come first served.
    waiting: VecDeque<u16>,
    events: VecDeque<Event>,
    fused: Fused,
    sq_head: u16,
    /// When the association was last told of traffic.
    touched: Option<Now>,
    deadline: Option<Now>,
    /// Bytes of buffers given to the sink and not known to be sent.
    in_sink: usize,
    /// Commands in `AwaitingData`.
    awaiting_data: u32,
    /// When the data that are awaited last made progress, and how far they were.
    data_seen: Option<(Now, u64)>,
    counters: Counters,
    errors: Errors,
}

impl<B: Buffer> Connection<B> {
    /// A connection that was accepted now.
    #[must_use]
    pub fn new(id: ConnectionId, config: Config, now: Now) -> Self {
        assert!(config.h2c_data_max >= 4096 && config.h2c_data_max.is_multiple_of(4));
        assert!(config.in_capsule_max.is_multiple_of(16));
        Self {
            id,
            config,
            phase: Phase::AwaitIcReq,
            queue: None,
            namespaces: Arc::new([]),
            digests: Digests::new(),
            host_alignment: 4,
            slots: Slots::new(SLOTS_BEFORE_CONNECT),
            receiver: Receiver::new(),
            sender: Sender::new(SLOTS_BEFORE_CONNECT),
            waiting: VecDeque::with_capacity(usize::from(SLOTS_BEFORE_CONNECT)),
            events: VecDeque::with_capacity(usize::from(SLOTS_BEFORE_CONNECT)),
            fused: Fused::None,
            sq_head: 0,
            touched: None,
            deadline: Some(now + config.icreq_timeout),
            in_sink: 0,
            awaiting_data: 0,
            data_seen: None,
            counters: Counters::default(),
            errors: Errors::default(),
        }
    }

    /// As given to [`Connection::new`].
    #[must_use]
    pub fn id(&self) -> ConnectionId {
        self.id
    }

    /// Which queue Connect made of it.
    #[must_use]
    pub fn queue(&self) -> Option<&QueueParameters> {
        self.queue.as_ref()
    }

    /// Totals since the start.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// When [`Connection::on_deadline`] wants to be called.
    #[must_use]
    pub fn deadline(&self) -> Option<Now> {
        self.deadline
    }

    /// Ends the connection if its deadline has passed.
    pub fn on_deadline(&mut self, now: Now) {
        if self.deadline.is_some_and(|deadline| now >= deadline) {
            self.end();
        }
    }

    /// Whether data of the host are awaited, which [`Connection::watch`] does not do for ever.
    #[must_use]
    pub fn awaits_data(&self) -> bool {
        self.awaiting_data > 0 || self.receiver.is_amid_data()
    }

    /// To be called now and then: ends the connection if the host owes data and has sent none for
    /// 30 s, or not all of one command's for two minutes, since the buffers for them are kept from
    /// others.
    pub fn watch(&mut self, now: Now) {
        if !self.awaits_data() {
            self.data_seen = None;
            return;
        }
        if self.awaiting_data > 0 && self.slots.is_any_overdue(now, TRANSFER_TIMEOUT) {
            self.end();
            return;
        }
        let received = self.receiver.received();
        match self.data_seen {
            Some((since, seen)) if seen == received => {
                if now >= since + PROGRESS_TIMEOUT {
                    self.end();
                }
            }
            _ => self.data_seen = Some((now, received)),
        }
    }

    /// Everything that was given to the sink has been sent: its buffers are free.
    pub fn sent(&mut self) {
        self.in_sink = 0;
    }

    /// Whether a command may have `bytes` more of buffers. Those that then wait for the host's data
    /// leave a quarter to others: what the host has to send can stand behind them in the stream.
    fn may_hold(&self, bytes: usize, for_host_data: bool) -> bool {
        let max = self.config.buffers_max;
        let max = if for_host_data { max - max / 4 } else { max };
        let held = self.held();
        held == 0 || held + bytes <= max
    }

    /// Bytes of buffers that its commands hold, those whose data are being sent included.
    #[must_use]
    pub fn held(&self) -> usize {
        self.slots.held() + self.in_sink
    }

    /// Whether the socket is to be closed now. While a terminate request waits to be sent, and for
    /// 30 s after, it is not.
    #[must_use]
    pub fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Over)
    }

    /// Whether commands are still taken: false after a protocol error and after `close`.
    fn is_live(&self) -> bool {
        !matches!(self.phase, Phase::Terminating | Phase::Over)
    }

    /// The socket is gone, or shall be: drops every command that is not with the store, and sends
    /// and receives nothing more. Completions are still awaited: see [`Connection::outstanding`].
    pub fn close(&mut self) {
        self.end();
    }

    /// Block requests that have not completed. A connection that is over may be dropped at 0.
    #[must_use]
    pub fn outstanding(&self) -> usize {
        self.slots.submitted() as usize
    }

    /// Replaces the snapshot of namespaces; commands already planned keep to theirs.
    pub fn set_namespaces(&mut self, namespaces: Namespaces) {
        self.namespaces = namespaces;
    }

    /// The next command for the target.
    pub fn take_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Completes an [`Event`]. Ignored when the connection has ended meanwhile.
    pub fn reply(&mut self, slot: Slot, reply: Reply) {
        if !self.is_live() {
            return;
        }
        let slot = slot.0;
        assert!(self.slots[slot].state == State::WithTarget, "an event is replied to once");
        let status = Status::from(reply.status);
        if matches!(self.phase, Phase::AwaitConnect { .. }) {
            self.phase = Phase::AwaitConnect { pending: None };
            if let Some(role) = reply.role {
                self.assume(role);
            }
        }
        let entry = &mut self.slots[slot];
        entry.status = status;
        entry.result = reply.result;
        entry.bytes = reply.data;
        entry.moved = 0;
        // A host may hold a successful read that is short for an error of the transport (Linux
        // does): what the target has no bytes for reads as zeroes.
        let room = if status.is_success() { entry.transfer as usize } else { 0 };
        entry.bytes.resize(room, 0);
        self.respond(slot);
    }

    /// Aborts the command with this identifier if its execution has not begun; whether it did. It
    /// completes with Command Abort Requested, after data that its R2T asked for have come.
    pub fn abort(&mut self, command_id: u16) -> bool {
        if !self.is_live() {
            return false;
        }
        let Some(slot) = self.slots.find(command_id) else {
            return self.receiver.abort_blocked(command_id);
        };
        let entry = &self.slots[slot];
        if entry.is_begun() || !entry.status.is_success() {
            return false;
        }
        self.counters.aborted += 1;
        self.fail(slot, Status::ABORT_REQUESTED);
        true
    }

    /// Aborts every command to a volume whose execution has not begun: its host was preempted.
    /// Those that are being executed, be the connection over, are what
    /// [`Connection::is_idle_on`] waits for.
    pub fn preempt(&mut self, volume: VolumeIndex) {
        for slot in 0..self.slots.len() as u16 {
            let is_live = self.is_live();
            let entry = &mut self.slots[slot];
            if entry.volume != volume || entry.is_of_target() {
                continue;
            }
            entry.is_preempted |= entry.is_executing();
            if is_live && !entry.is_begun() && entry.status.is_success() {
                self.counters.aborted += 1;
                self.fail(slot, Status::PREEMPTED);
            }
        }
    }

    /// Whether nothing that was being executed on a volume at the last [`Connection::preempt`] is
    /// any more. What the host may still do, and has begun since, does not count: who reads without
    /// end holds nobody up.
    #[must_use]
    pub fn is_idle_on(&self, volume: VolumeIndex) -> bool {
        (0..self.slots.len() as u16).all(|slot| {
            let entry = &self.slots[slot];
            entry.volume != volume || !entry.is_preempted || !entry.is_executing()
        })
    }

    /// Becomes the queue that Connect asked for.
    fn assume(&mut self, role: Role) {
        let (phase, queue) = match role {
            Role::Admin(queue) => (Phase::Admin, queue),
            Role::Io(queue, namespaces) => {
                self.namespaces = namespaces;
                (Phase::Io, queue)
            }
        };
        assert!(queue.entries >= 2 && queue.entries < NONE, "Connect checks the queue size");
        self.phase = phase;
        self.deadline = None;
        self.slots.grow(queue.entries);
        let count = self.slots.len();
        self.sender.reserve(count);
        self.waiting.reserve(count);
        self.sq_head %= queue.entries;
        self.queue = Some(queue);
    }

    /// Whether commands may be executed.
    fn is_enabled(&self) -> bool {
        self.queue.as_ref().is_some_and(|queue| queue.association.is_enabled())
    }

    /// Dooms a command that is not executing. It is answered once no more data are due for it.
    fn fail(&mut self, slot: u16, status: Status) {
        let entry = &mut self.slots[slot];
        if entry.status.is_success() {
            entry.status = status;
        }
        match entry.state {
            State::Ready => self.settle_failed_pair(slot),
            State::AwaitingBuffer => {
                self.waiting.retain(|&waiting| waiting != slot);
                self.conclude_failed(slot);
            }
            _ => {}
        }
    }

    /// Answers a command that failed before execution and awaits no more data.
    fn conclude_failed(&mut self, slot: u16) {
        if matches!(self.slots[slot].kind, Kind::FusedCompare | Kind::FusedWrite) {
            self.slots[slot].state = State::Ready;
            self.settle_failed_pair(slot);
        } else {
            self.respond(slot);
        }
    }

    /// Stops everything but the block requests in flight.
    fn end(&mut self) {
        self.phase = Phase::Over;
        self.deadline = None;
        self.drop_commands();
        self.sender.clear();
    }

    fn drop_commands(&mut self) {
        self.receiver.ignore();
        self.sender.drop_commands();
        self.waiting.clear();
        self.events.clear();
        self.fused = Fused::None;
        self.awaiting_data = 0;
        for slot in 0..self.slots.len() as u16 {
            if !matches!(self.slots[slot].state, State::Free | State::Submitted) {
                self.slots.release(slot);
            }
        }
    }
}
