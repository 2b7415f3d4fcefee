//! A network in memory: listening cores, hosts, and streams whose bytes arrive late, in pieces, or,
//! when a stream breaks, never.
//!
//! Streams keep their order, as TCP does; streams among each other do not.

use super::Random;
use crate::net::{Event, Handoff, ListenerId, Net, Rx, SocketId, Tx, TxPart};
use hashbrown::HashMap;
use nvmeof_target::io::Now;
use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;

/// Bytes that a stream holds in each direction before its sender waits.
const WINDOW: usize = 256 << 10;

/// How streams behave.
#[derive(Debug, Clone, Copy)]
pub(super) struct NetworkConfig {
    /// Longest delay of a piece in microseconds.
    pub(super) delay_us: u64,
    /// Largest of the small pieces in bytes, which one receive takes or one send gives.
    pub(super) piece_max: u64,
}

/// The network. Clones are the same one.
#[derive(Clone)]
pub(super) struct Network(Rc<RefCell<State>>);

struct State {
    config: NetworkConfig,
    random: Random,
    now: Now,
    next_stream: u64,
    next_listener: u32,
    listeners: BTreeMap<SocketAddr, (u32, ListenerId)>,
    streams: BTreeMap<u64, Stream>,
    /// Events for each node core, by number.
    events: HashMap<u32, Vec<Event>>,
}

/// One connection: bytes on their way in both directions.
#[derive(Default)]
struct Stream {
    core: u32,
    to_node: Pipe,
    to_host: Pipe,
    rx: Option<Rx>,
    tx: Option<(Tx, usize)>,
    /// Bytes that left in all sends.
    sent: u64,
    is_broken: bool,
    is_shut: bool,
    /// Bytes that still get through to the node before the stream breaks.
    cut_in: Option<usize>,
    /// Its host is gone without a word.
    is_forsaken: bool,
}

impl Stream {
    fn break_off(&mut self) {
        self.is_broken = true;
        self.to_node = Pipe::default();
        self.to_host = Pipe::default();
    }
}

#[derive(Default)]
struct Pipe {
    pieces: VecDeque<(Now, Vec<u8>)>,
    held: usize,
    last: Now,
}

impl Pipe {
    /// Puts bytes under way; they arrive at `at`, and after all that were put before.
    fn put(&mut self, bytes: &[u8], at: Now) {
        self.last = self.last.max(at);
        self.held += bytes.len();
        self.pieces.push_back((self.last, bytes.to_vec()));
    }

    /// Takes up to `limit` bytes that have arrived.
    fn take(&mut self, now: Now, limit: usize) -> Vec<u8> {
        let mut taken = Vec::new();
        while taken.len() < limit
            && let Some((at, piece)) = self.pieces.front_mut()
            && *at <= now
        {
            let count = piece.len().min(limit - taken.len());
            taken.extend(piece.drain(..count));
            if piece.is_empty() {
                self.pieces.pop_front();
            }
        }
        self.held -= taken.len();
        taken
    }

    fn next_arrival(&self) -> Option<Now> {
        self.pieces.front().map(|(at, _)| *at)
    }
}

impl Network {
    pub(super) fn new(config: NetworkConfig, seed: u64) -> Self {
        Self(Rc::new(RefCell::new(State {
            config,
            random: Random::new(seed),
            now: Now::ZERO,
            next_stream: 1,
            next_listener: 1,
            listeners: BTreeMap::new(),
            streams: BTreeMap::new(),
            events: HashMap::new(),
        })))
    }

    /// The sockets of node core `core`.
    pub(super) fn attach(&self, core: u32) -> SimNet {
        SimNet { network: self.clone(), core }
    }

    /// Sets the time.
    pub(super) fn set_now(&self, now: Now) {
        self.0.borrow_mut().now = now;
    }

    /// When the next bytes arrive anywhere.
    pub(super) fn next_arrival(&self) -> Option<Now> {
        let state = self.0.borrow();
        let streams = state.streams.values().filter(|stream| !stream.is_forsaken);
        let pipes = streams.flat_map(|stream| [&stream.to_node, &stream.to_host]);
        pipes.filter_map(Pipe::next_arrival).min()
    }

    /// A host connects; `None` when nobody listens.
    pub(super) fn connect(&self, to: SocketAddr) -> Option<u64> {
        let state = &mut *self.0.borrow_mut();
        let (core, listener) = *state.listeners.get(&to)?;
        let number = state.next_stream;
        state.next_stream += 1;
        state.streams.insert(number, Stream { core, ..Stream::default() });
        let peer = SocketAddr::from(([127, 0, 0, 1], 1024 + (number % 60_000) as u16));
        let event = Event::Accepted { listener, socket: SocketId(number), peer, local: to };
        state.events.entry(core).or_default().push(event);
        Some(number)
    }

    /// A host sends; `false` when the stream is gone.
    pub(super) fn host_send(&self, stream: u64, bytes: &[u8]) -> bool {
        let state = &mut *self.0.borrow_mut();
        let at = state.now + Now::from_micros(state.random.below(state.config.delay_us + 1));
        match state.streams.get_mut(&stream) {
            Some(stream) if !stream.is_broken && !stream.is_shut => {
                stream.to_node.put(bytes, at);
                true
            }
            _ => false,
        }
    }

    /// What has arrived at a host; `None` when the stream is gone and everything is read.
    pub(super) fn host_receive(&self, stream: u64) -> Option<Vec<u8>> {
        let state = &mut *self.0.borrow_mut();
        let now = state.now;
        let found = state.streams.get_mut(&stream)?;
        let bytes = found.to_host.take(now, usize::MAX);
        let is_over = found.is_broken || found.is_shut;
        (!bytes.is_empty() || !is_over || found.to_host.held > 0).then_some(bytes)
    }

    /// Whether the node closed the stream, which did not break.
    pub(super) fn is_closed_by_node(&self, stream: u64) -> bool {
        let state = self.0.borrow();
        state.streams.get(&stream).is_some_and(|stream| stream.is_shut && !stream.is_broken)
    }

    /// The stream breaks: what is under way is lost, both ends learn of it.
    pub(super) fn break_stream(&self, stream: u64) {
        if let Some(stream) = self.0.borrow_mut().streams.get_mut(&stream)
            && !stream.is_forsaken
        {
            stream.break_off();
        }
    }

    /// The stream breaks when `bytes` more have come to the node.
    pub(super) fn cut_stream(&self, stream: u64, bytes: usize) {
        if let Some(stream) = self.0.borrow_mut().streams.get_mut(&stream) {
            stream.cut_in = Some(bytes);
        }
    }

    /// The host is gone: nothing more comes from it, nothing is taken, and the node is not told.
    pub(super) fn vanish(&self, stream: u64) {
        if let Some(stream) = self.0.borrow_mut().streams.get_mut(&stream) {
            stream.to_node = Pipe::default();
            stream.is_forsaken = true;
        }
    }

    /// The node dies: its listeners and streams with it.
    pub(super) fn kill_node(&self) {
        let state = &mut *self.0.borrow_mut();
        state.listeners.clear();
        state.streams.clear();
        state.events.clear();
    }
}

/// The sockets of one simulated core.
pub(super) struct SimNet {
    network: Network,
    core: u32,
}

impl Net for SimNet {
    fn listen(&mut self, address: SocketAddr) -> io::Result<(ListenerId, SocketAddr)> {
        let state = &mut *self.network.0.borrow_mut();
        let listener = ListenerId(state.next_listener);
        state.next_listener += 1;
        state.listeners.insert(address, (self.core, listener));
        Ok((listener, address))
    }

    fn unlisten(&mut self, listener: ListenerId) {
        self.network.0.borrow_mut().listeners.retain(|_, (_, other)| *other != listener);
    }

    fn receive(&mut self, socket: SocketId, rx: Rx) {
        let state = &mut *self.network.0.borrow_mut();
        let stream = state.streams.get_mut(&socket.0).expect("received from while it is open");
        assert!(stream.rx.replace(rx).is_none(), "one receive at a time");
    }

    fn send(&mut self, socket: SocketId, tx: Tx) {
        let state = &mut *self.network.0.borrow_mut();
        let stream = state.streams.get_mut(&socket.0).expect("sent on while it is open");
        assert!(stream.tx.replace((tx, 0)).is_none(), "one send at a time");
    }

    fn taken(&mut self, socket: SocketId) -> u64 {
        let state = self.network.0.borrow();
        let stream = state.streams.get(&socket.0).expect("asked while it is open");
        stream.sent
    }

    fn shutdown(&mut self, socket: SocketId) {
        if let Some(stream) = self.network.0.borrow_mut().streams.get_mut(&socket.0) {
            stream.is_shut = true;
        }
    }

    fn close(&mut self, socket: SocketId) {
        let state = &mut *self.network.0.borrow_mut();
        let stream = state.streams.get_mut(&socket.0).expect("closed once");
        assert!(stream.rx.is_none() && stream.tx.is_none(), "closed with nothing outstanding");
        stream.is_shut = true;
        stream.core = u32::MAX;
    }

    fn release(&mut self, socket: SocketId) -> Handoff {
        Handoff::Simulated(socket.0)
    }

    fn adopt(&mut self, socket: Handoff) -> SocketId {
        let Handoff::Simulated(number) = socket else { panic!("a real socket in the simulator") };
        let state = &mut *self.network.0.borrow_mut();
        state.streams.get_mut(&number).expect("handed over while open").core = self.core;
        SocketId(number)
    }

    fn poll(&mut self, events: &mut Vec<Event>) {
        let state = &mut *self.network.0.borrow_mut();
        events.append(state.events.entry(self.core).or_default());
        let (now, config) = (state.now, state.config);
        for (&number, stream) in &mut state.streams {
            if stream.core == self.core {
                let socket = SocketId(number);
                send_some(stream, socket, now, &mut state.random, config, events);
                receive_some(stream, socket, now, &mut state.random, config, events);
            }
        }
    }
}

fn send_some(
    stream: &mut Stream,
    socket: SocketId,
    now: Now,
    random: &mut Random,
    config: NetworkConfig,
    events: &mut Vec<Event>,
) {
    let Some((tx, sent)) = stream.tx.take() else { return };
    if stream.is_broken || stream.is_shut {
        let result = Err(io::ErrorKind::ConnectionReset.into());
        return events.push(Event::Sent { socket, tx, result });
    }
    let bytes = gathered(&tx);
    let room = WINDOW.saturating_sub(stream.to_host.held);
    let count = (bytes.len() - sent).min(room).min(piece(random, config));
    let at = now + Now::from_micros(random.below(config.delay_us + 1));
    stream.sent += count as u64;
    if count > 0 {
        stream.to_host.put(&bytes[sent..sent + count], at);
    }
    if sent + count == bytes.len() {
        events.push(Event::Sent { socket, tx, result: Ok(()) });
    } else {
        stream.tx = Some((tx, sent + count));
    }
}

/// Bytes that move at once: often few, but not so often that nothing large ever ends.
fn piece(random: &mut Random, config: NetworkConfig) -> usize {
    let most = if random.chance(60) { config.piece_max } else { WINDOW as u64 };
    random.below(most) as usize + 1
}

fn gathered(tx: &Tx) -> Vec<u8> {
    let mut bytes = Vec::new();
    for part in &tx.parts {
        match part {
            TxPart::Head(range) => {
                bytes.extend_from_slice(&tx.heads[range.start as usize..range.end as usize]);
            }
            TxPart::Data(slice) => bytes.extend_from_slice(slice),
        }
    }
    bytes
}

fn receive_some(
    stream: &mut Stream,
    socket: SocketId,
    now: Now,
    random: &mut Random,
    config: NetworkConfig,
    events: &mut Vec<Event>,
) {
    let Some(mut rx) = stream.rx.take() else { return };
    if stream.is_broken || stream.is_shut {
        let result = Err(io::ErrorKind::ConnectionReset.into());
        return events.push(Event::Received { socket, rx, result });
    }
    let landing = rx.landing.as_ref().map_or(0, |(_, range)| range.len());
    let limit = (landing + rx.staging.len()).min(piece(random, config));
    let bytes = stream.to_node.take(now, limit.min(stream.cut_in.unwrap_or(limit)));
    if let Some(left) = &mut stream.cut_in {
        *left -= bytes.len();
        if *left == 0 {
            stream.break_off();
        }
    }
    if bytes.is_empty() {
        stream.rx = Some(rx);
        return;
    }
    let (landed, staged) = bytes.split_at(landing.min(bytes.len()));
    if let Some((buf, range)) = &mut rx.landing {
        buf[range.start..range.start + landed.len()].copy_from_slice(landed);
    }
    rx.staging[..staged.len()].copy_from_slice(staged);
    events.push(Event::Received { socket, rx, result: Ok(bytes.len()) });
}
