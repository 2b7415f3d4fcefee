//! One iSCSI connection, which is one session.
//!
//! ```text
//!        login agreed            logout answered, a deadline passed,
//! Login ──────────────▶ Full ──▶ or the initiator broke the protocol ──▶ Over
//!   └── refused ──▶ Ending ─────────────────────────────────────────────┘
//!                  (what is queued is sent first)
//! ```
//!
//! The core that serves the socket
//! 1. offers [`Connection::take_landing`] and its staging buffer to the socket,
//! 2. returns the landing with [`Connection::landed`] and then gives the staged bytes to
//!    [`Connection::receive`],
//! 3. carries [`Connection::take_event`] to the target and [`Connection::order`] back,
//! 4. gives block completions to [`Connection::complete`],
//! 5. lets [`Connection::transmit`] write what is to be sent,
//! 6. calls [`Connection::resume`] after sending, and when buffers came back, if
//!    [`Connection::blocked`] or [`Connection::starved`],
//! 7. closes the socket when [`Connection::is_over`], calls [`Connection::close`], and forgets the
//!    connection when [`Connection::outstanding`] is 0.
//!
//! Invariants: every accepted task is answered exactly once while the connection lives, or aborted;
//! task management is answered after the tasks that it aborts have ended; a slot has at most one
//! block request and one place in the send queue; nothing is executed after `close`; memory is
//! bounded by the slots, a buffer of data each: what is longer moves in pieces. Slots are the
//! command window: MaxCmdSN grows as they become free, and never falls.
//!
//! What it does not do: error recovery beyond level 0 (a header digest that is wrong ends the
//! connection), several connections in a session, bidirectional commands, several R2Ts at once for
//! one command (one covers the whole burst, whose buffer is there before it is asked for).

mod abort;
mod command;
mod counters;
mod deadlines;
mod login;
mod pieces;
mod receive;
mod requests;
mod slots;
mod transmit;
mod turns;

#[cfg(test)]
mod tests;

pub use counters::Counters;

use crate::io::{Buffer, Now, TRANSFER_MAX};
use crate::scsi::{Attentions, PARAMETER_LIST_MAX, Units};
use crate::seam::{ConnectionId, Event, Message, Order, SessionKind, SessionParameters};
use abort::Aborting;
use core::time::Duration;
use login::Login;
use receive::Receiver;
use slots::{Slots, State};
use std::collections::VecDeque;
use std::sync::Arc;
use transmit::{Item, Sender};

/// Numbered requests of a session at once: its command window.
const WINDOW: u16 = 128;
/// Immediate requests beside them.
const IMMEDIATE_MAX: u16 = 16;
/// The same before a session is normal.
const WINDOW_FIRST: u16 = 4;

/// What a connection offers and bears.
#[derive(Debug, Clone, Copy)]
pub struct Config {
    /// Most data in one PDU of the initiator in full-feature phase, in bytes: at least 8192.
    pub receive_max: u32,
    /// Time from the start to the end of login.
    pub login_timeout: Duration,
    /// Time without a byte of the initiator until it is pinged.
    pub idle_timeout: Duration,
    /// Time that it has for the answer.
    pub ping_timeout: Duration,
    /// Most bytes of buffers that the connection's tasks hold, those whose data are being sent
    /// included; what one task at a time needs to get on comes on top. At least two of the largest
    /// pieces.
    pub buffers_max: usize,
    /// Most bytes of a buffer of a command's data: what is longer moves in pieces. Whole blocks of
    /// the store; at least a parameter list and a first burst that begins within a block, at most
    /// [`crate::io::TRANSFER_MAX`].
    pub piece_max: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            receive_max: crate::limits::RECEIVE_MAX,
            login_timeout: Duration::from_secs(15),
            idle_timeout: Duration::from_secs(30),
            ping_timeout: Duration::from_secs(15),
            buffers_max: usize::MAX,
            piece_max: TRANSFER_MAX as u32,
        }
    }
}

/// Where the connection stands; see the drawing above.
#[derive(Debug)]
enum Phase {
    Login(Box<Login>),
    Full,
    /// Nothing more is taken; the socket is to be closed when what is queued has been sent.
    Ending,
    /// The socket is to be closed.
    Over,
}

/// One TCP connection; the module says how it is driven.
#[derive(Debug)]
pub struct Connection<B> {
    id: ConnectionId,
    config: Config,
    phase: Phase,
    session: SessionParameters,
    is_established: bool,
    units: Units,
    attentions: Attentions,
    slots: Slots<B>,
    receiver: Receiver,
    sender: Sender,
    /// Slots in `AwaitingBuffer`, first come first served, but those before that hold data.
    waiting: VecDeque<u16>,
    /// How many slots are in `AwaitingTurn`.
    turns: u16,
    events: VecDeque<Event>,
    /// Task management whose tasks have not all ended.
    aborting: Vec<Aborting>,
    /// CmdSN of the next numbered request.
    expected_command_sn: u32,
    /// Highest MaxCmdSN that was told.
    command_sn_max: u32,
    /// Numbers within the window that will not come, because their task was aborted before.
    skipped: Vec<u32>,
    /// StatSN of the next response.
    status_sn: u32,
    deadline: Option<Now>,
    /// Bytes that had come when the deadline was set.
    heard: u64,
    /// Target transfer tag of the ping that is unanswered.
    ping: Option<u32>,
    next_ping: u32,
    /// CID of the login.
    connection_id: u16,
    /// The slot of a text request that is under way.
    text: Option<u16>,
    /// Bytes of buffers given to the sink and not known to be sent.
    in_sink: usize,
    /// A command has held the stream up for too long, and no buffer has come since: none does.
    holds_none_up: bool,
    /// Tasks in `AwaitingData`.
    awaiting_data: u32,
    /// When the data that are awaited last made progress, and how far they were.
    data_seen: Option<(Now, u64)>,
    counters: Counters,
}

impl<B: Buffer> Connection<B> {
    /// A connection that was accepted now.
    #[must_use]
    pub fn new(id: ConnectionId, config: Config, now: Now) -> Self {
        assert!(config.receive_max >= 8192 && config.receive_max.is_multiple_of(4));
        assert!((PARAMETER_LIST_MAX..=TRANSFER_MAX as u32).contains(&config.piece_max));
        Self {
            id,
            config,
            phase: Phase::Login(Box::default()),
            session: SessionParameters { kind: SessionKind::Discovery, ..Default::default() },
            is_established: false,
            units: Arc::new([]),
            attentions: Attentions::default(),
            slots: Slots::new(WINDOW_FIRST, WINDOW_FIRST),
            receiver: Receiver::new(),
            sender: Sender::default(),
            waiting: VecDeque::new(),
            turns: 0,
            events: VecDeque::new(),
            aborting: Vec::new(),
            expected_command_sn: 0,
            command_sn_max: 0,
            skipped: Vec::new(),
            status_sn: 0,
            deadline: Some(now + config.login_timeout),
            heard: 0,
            ping: None,
            next_ping: 0,
            connection_id: 0,
            text: None,
            in_sink: 0,
            holds_none_up: false,
            awaiting_data: 0,
            data_seen: None,
            counters: Counters::default(),
        }
    }

    /// As given to [`Connection::new`].
    #[must_use]
    pub fn id(&self) -> ConnectionId {
        self.id
    }

    /// What login agreed on, once it has ended.
    #[must_use]
    pub fn session(&self) -> Option<&SessionParameters> {
        self.is_established.then_some(&self.session)
    }

    /// Totals since the start.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Everything that was given to the sink has been sent: its buffers are free.
    pub fn sent(&mut self) {
        self.in_sink = 0;
    }

    /// Bytes of buffers that its tasks hold, those whose data are being sent included.
    #[must_use]
    pub fn held(&self) -> usize {
        self.slots.held() + self.in_sink
    }

    /// Whether the socket is to be closed now; after what is queued has been sent if only
    /// [`Connection::is_ending`].
    #[must_use]
    pub fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Over)
    }

    /// Whether requests are still taken.
    fn is_live(&self) -> bool {
        matches!(self.phase, Phase::Login(_) | Phase::Full)
    }

    /// The socket is gone, or shall be: drops every task that is not with the store, and sends and
    /// receives nothing more. Completions are still awaited: see [`Connection::outstanding`].
    pub fn close(&mut self) {
        self.end();
    }

    /// Block requests that have not completed. A connection that is over may be dropped at 0.
    #[must_use]
    pub fn outstanding(&self) -> usize {
        self.slots.submitted() as usize
    }

    /// What there is for the target.
    pub fn take_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Does what the target wants. Ignored when the connection has ended meanwhile.
    pub fn order(&mut self, now: Now, order: Order) {
        if !self.is_live() {
            return;
        }
        match order {
            Order::Login(reply) => self.login_replied(now, *reply),
            Order::Text(slot, text) => self.text_replied(slot.0, text),
            Order::Control(slot, ending) => self.control_replied(slot.0, ending),
            Order::Management(slot, response) => self.management_replied(slot.0, response),
            Order::Abort { token, lun, with_status } => {
                self.abort_for_target(token, lun, with_status)
            }
            Order::Units(units, attentions) => {
                self.units = units;
                for (lun, attention) in attentions {
                    self.attentions.post(lun, attention);
                }
            }
            Order::Message(message) => self.send_message(message),
        }
    }

    fn send_message(&mut self, message: Message) {
        if self.is_established && self.session.kind == SessionKind::Normal {
            self.sender.push_message(message);
        }
    }

    /// Queues what is no task's. Who makes us say more than he takes is dropped.
    fn send(&mut self, item: Item) {
        if !self.sender.push(item) {
            self.end();
        }
    }

    /// Takes and answers nothing more; what is queued is still sent.
    fn end_softly(&mut self) {
        self.phase = Phase::Ending;
        self.receiver.ignore();
        self.drop_tasks(|state| state == State::Responding);
    }

    /// Stops everything but the block requests in flight.
    fn end(&mut self) {
        self.phase = Phase::Over;
        self.receiver.ignore();
        self.sender.clear();
        self.drop_tasks(|_| false);
    }

    fn drop_tasks(&mut self, is_kept: impl Fn(State) -> bool) {
        self.deadline = None;
        self.waiting.clear();
        self.turns = 0;
        self.events.clear();
        self.aborting.clear();
        self.awaiting_data = 0;
        self.text = None;
        for slot in 0..self.slots.len() {
            let state = self.slots[slot].state;
            if !matches!(state, State::Free | State::Submitted) && !is_kept(state) {
                self.sender.forget(slot);
                self.slots.release(slot);
            }
        }
    }
}
