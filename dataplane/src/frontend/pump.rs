//! The connections of one core.

use super::connection::{Connection, Input, STAGING_FIRST, STAGING_FLOODED, State};
use super::protocol::{Event, Protocol, ProtocolConfig};
use super::transmit::{Gather, Gathered, Reserve};
use crate::core::timer::Wheel;
use crate::core::{Adopted, Links, Message};
use crate::dma::{Buf, Pool};
use crate::net::{Event as NetEvent, ListenerId, Net, Rx, SocketId};
use crate::node::Control;
use crate::volume::{Around, Origin, Outbound, Outcome, Requests, Routes};
use hashbrown::HashMap;
use iscsi_target::seam::Order;
use nvmeof_target::seam::{Namespaces, Reply, Slot};
use std::net::SocketAddr;
use std::ops::Range;
use target_io::{BlockRequest, ConnectionId, Now, Surroundings, TRANSFER_MAX, Ticket, VolumeIndex};

/// Connections for whose timers there is memory from the start.
const TIMERS_USUAL: usize = 64;
/// How often connections that wait for buffers are looked at when nothing else happens: those that
/// other cores return say nothing.
const RETRY_PERIOD: Now = Now::from_millis(1);
/// Landing buffers from this size on get little staging beside them, and how much.
const LANDING_LARGE: usize = 64 << 10;
const STAGING_BESIDE_LARGE: usize = 4 << 10;
/// Part of its core's buffers that one connection may hold.
const POOL_SHARE: usize = 8;

/// Bytes of reads that a connection may begin before what is answered by then goes out: its host
/// has something to do while the rest is read. A read that is longer begins alone.
const READS_AT_ONCE: usize = 64 << 10;

/// What the frontend needs of its core for one step.
pub(crate) struct Surrounding<'a, O> {
    pub(crate) now: Now,
    pub(crate) pool: &'a Pool,
    pub(crate) net: &'a mut dyn Net,
    pub(crate) requests: &'a mut Requests,
    pub(crate) routes: &'a Routes,
    pub(crate) out: &'a mut O,
    /// On the control core only.
    pub(crate) control: Option<&'a mut Control>,
}

/// The way to other cores, beside the way to shards.
pub(crate) trait Post: Outbound {
    /// The mailboxes.
    fn links(&mut self) -> &mut Links;
}

/// All connections of a core.
pub(crate) struct Frontend {
    entries: Vec<Option<Entry>>,
    free: Vec<u32>,
    by_socket: HashMap<SocketId, u32>,
    by_id: HashMap<ConnectionId, u32>,
    dirty: Vec<u32>,
    stalled: Vec<u32>,
    /// When connections, by position, are looked at: one timer each at most, which may be earlier
    /// than is needed by now.
    timers: Wheel<u32>,
    next_retry: Now,
    /// Whose requests to which volume are to end, and the token of who waits for that.
    drains: Vec<(ConnectionId, VolumeIndex, u64)>,
    heads: Reserve,
    gone: FrontendCounters,
    config: ProtocolConfig,
}

/// What connections counted.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct FrontendCounters {
    pub(crate) commands: u64,
    pub(crate) digest_second_passes: u64,
    pub(crate) digest_errors: u64,
}

struct Entry {
    connection: Connection,
    socket: SocketId,
}

impl Frontend {
    /// A frontend whose connections have these limits.
    pub(crate) fn new(config: ProtocolConfig) -> Self {
        Self {
            entries: Vec::new(),
            free: Vec::new(),
            by_socket: HashMap::new(),
            by_id: HashMap::new(),
            dirty: Vec::new(),
            stalled: Vec::new(),
            timers: Wheel::new(Now::ZERO, TIMERS_USUAL),
            next_retry: Now::ZERO,
            drains: Vec::new(),
            heads: Reserve::default(),
            gone: FrontendCounters::default(),
            config,
        }
    }

    /// Connections open or draining.
    pub(crate) fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Acts on what happened on a socket.
    pub(crate) fn on_event<O: Post>(&mut self, event: NetEvent, s: &mut Surrounding<'_, O>) {
        match event {
            NetEvent::Accepted { listener, socket, peer, local } => {
                self.accept(listener, socket, (peer, local), s);
            }
            NetEvent::Received { socket, rx, result } => {
                let index = self.by_socket[&socket];
                self.received(index, rx, result.unwrap_or(0), s);
            }
            NetEvent::Sent { socket, mut tx, result } => {
                let index = self.by_socket[&socket];
                let connection = self.connection(index);
                tx.parts.clear();
                connection.parts = Some(tx.parts);
                connection.sends += 1;
                connection.protocol.sent();
                if result.is_err() {
                    connection.state = State::Draining;
                }
                self.heads.give(tx.heads);
                self.mark_dirty(index);
            }
        }
    }

    /// Hands the end of a block request to its connection.
    pub(crate) fn on_outcome<O: Post>(&mut self, outcome: Outcome, s: &mut Surrounding<'_, O>) {
        let Outcome { origin, result } = outcome;
        let index = origin.connection;
        let entry = self.entries[index as usize].as_mut().expect("drained before it is forgotten");
        let mut door = around(index, entry.connection.protocol.held(), s);
        entry.connection.protocol.complete(origin.ticket, result, &mut door);
        put_events(&mut entry.connection, s);
        self.mark_dirty(index);
    }

    /// Delivers the target's answer.
    pub(crate) fn on_reply<O: Post>(
        &mut self,
        id: ConnectionId,
        slot: Slot,
        reply: Reply,
        s: &mut Surrounding<'_, O>,
    ) {
        if let Some(&index) = self.by_id.get(&id) {
            answer(self.connection(index), slot, reply, s);
            self.mark_dirty(index);
        }
    }

    /// Delivers what the iSCSI target wants of a connection.
    pub(crate) fn on_order<O: Post>(
        &mut self,
        id: ConnectionId,
        order: Order,
        s: &mut Surrounding<'_, O>,
    ) {
        let Some(&index) = self.by_id.get(&id) else { return };
        let connection = self.connection(index);
        if let (Order::Login(reply), Some(control)) = (&order, s.control.as_deref_mut())
            && let Some((session, _)) = &reply.session
        {
            let here = s.out.links().core();
            let core = control.place_session(id, session.kind);
            connection.moving = (core != here).then_some(core);
        }
        connection.protocol.order(s.now, order);
        put_events(connection, s);
        self.mark_dirty(index);
        self.watch(index, s.now);
    }

    /// Ends a connection once what has been answered is sent.
    pub(crate) fn on_close(&mut self, id: ConnectionId) {
        if let Some(&index) = self.by_id.get(&id) {
            let connection = self.connection(index);
            if connection.state == State::Open {
                let is_answered = connection.protocol.outstanding() == 0;
                connection.state = if is_answered { State::Closing } else { State::Draining };
            }
            self.mark_dirty(index);
        }
    }

    /// Ends every connection.
    pub(crate) fn close_all(&mut self) {
        let ids: Vec<_> = self.by_id.keys().copied().collect();
        ids.into_iter().for_each(|id| self.on_close(id));
    }

    /// Replaces a connection's namespaces.
    pub(crate) fn on_namespaces(&mut self, id: ConnectionId, namespaces: Namespaces) {
        if let Some(&index) = self.by_id.get(&id) {
            self.connection(index).protocol.nvme().set_namespaces(namespaces);
        }
    }

    /// Aborts a command that has not begun; whether it did.
    pub(crate) fn on_abort(&mut self, id: ConnectionId, command_id: u16) -> bool {
        let Some(&index) = self.by_id.get(&id) else { return false };
        self.mark_dirty(index);
        self.connection(index).protocol.nvme().abort(command_id)
    }

    /// Aborts what a connection has asked of a volume and has not begun; says when nothing of it is
    /// in flight.
    pub(crate) fn on_drain(&mut self, id: ConnectionId, volume: VolumeIndex, token: u64) {
        if let Some(&index) = self.by_id.get(&id) {
            self.connection(index).protocol.preempt(volume);
            self.mark_dirty(index);
        }
        self.drains.push((id, volume, token));
    }

    /// Takes over a connection from the control core.
    pub(crate) fn adopt<O: Post>(&mut self, adopted: Adopted, s: &mut Surrounding<'_, O>) {
        let socket = s.net.adopt(adopted.socket);
        let index = self.insert(adopted.connection, socket, s.pool);
        self.advance(index, s);
    }

    /// Once a turn: input that waited for buffers, timers, then output. Returns whether anything
    /// moved.
    pub(crate) fn flush<O: Post>(&mut self, s: &mut Surrounding<'_, O>) -> bool {
        let mut stalled = std::mem::take(&mut self.stalled);
        let mut moved = false;
        for index in stalled.drain(..) {
            moved |= self.resume(index, s);
        }
        stalled.append(&mut self.stalled);
        self.stalled = stalled;
        self.next_retry = s.now + RETRY_PERIOD;
        while let Some(index) = self.timers.pop_due(s.now) {
            self.look(index, s);
        }
        let mut dirty = std::mem::take(&mut self.dirty);
        moved |= !dirty.is_empty();
        for index in dirty.drain(..) {
            self.settle(index, s);
            self.watch(index, s.now);
        }
        // What became dirty meanwhile waits for the next turn, in the same allocation.
        dirty.append(&mut self.dirty);
        self.dirty = dirty;
        self.report_drains(s);
        moved
    }

    /// When [`Frontend::flush`] has something to do by itself.
    pub(crate) fn deadline(&self) -> Option<Now> {
        if !self.dirty.is_empty() {
            return Some(Now::ZERO);
        }
        let retry = (!self.stalled.is_empty()).then_some(self.next_retry);
        self.timers.next_deadline().into_iter().chain(retry).min()
    }

    /// Sum of the counters of connections, those gone included.
    pub(crate) fn counters(&self) -> FrontendCounters {
        let mut sum = self.gone;
        for entry in self.entries.iter().flatten() {
            entry.connection.protocol.count(&mut sum);
        }
        sum
    }

    fn accept<O: Post>(
        &mut self,
        listener: ListenerId,
        socket: SocketId,
        (peer, local): (SocketAddr, SocketAddr),
        s: &mut Surrounding<'_, O>,
    ) {
        let control = s.control.as_deref_mut().expect("only the control core listens");
        let Some((id, kind)) = control.accept(listener, peer, local) else {
            s.net.close(socket);
            return;
        };
        let staging = if s.pool.is_scarce() { None } else { s.pool.alloc(STAGING_FIRST) };
        let Some(staging) = staging else {
            control.closed(s.now, id);
            s.net.close(socket);
            return;
        };
        let buffers_max = (s.pool.size() / POOL_SHARE).max(4 * TRANSFER_MAX);
        let protocol = Protocol::new(kind, id, &self.config, buffers_max, s.now);
        let mut connection = Connection::new(id, protocol);
        connection.input = Input::Held { staging, unread: 0..0 };
        let index = self.insert(connection, socket, s.pool);
        self.advance(index, s);
    }

    fn received<O: Post>(
        &mut self,
        index: u32,
        rx: Rx,
        mut received: usize,
        s: &mut Surrounding<'_, O>,
    ) {
        let entry = self.entries[index as usize].as_mut().expect("open while it receives");
        let connection = &mut entry.connection;
        let is_over = received == 0;
        if let Some((buf, range)) = rx.landing {
            let landed = received.min(range.len());
            received -= landed;
            if connection.state == State::Open {
                let mut door = around(index, connection.protocol.held(), s);
                connection.protocol.landed(buf, range, landed, &mut door);
            }
        }
        if is_over {
            connection.input = Input::Ended;
            connection.state = State::Draining;
            self.mark_dirty(index);
            return;
        }
        connection.note_received(&rx.staging, received);
        connection.input = Input::Held { staging: rx.staging, unread: 0..received };
        self.advance(index, s);
    }

    /// Feeds what was received to the protocol, then starts the next receive.
    fn advance<O: Post>(&mut self, index: u32, s: &mut Surrounding<'_, O>) {
        let entry = self.entries[index as usize].as_mut().expect("advanced while it is open");
        let connection = &mut entry.connection;
        let Input::Held { staging, unread } = &mut connection.input else { return };
        if connection.state != State::Open {
            connection.input = Input::Ended;
            self.mark_dirty(index);
            return;
        }
        if connection.moving.is_some() {
            // What is left to read is for the core that it goes to.
            self.mark_dirty(index);
            return;
        }
        let mut door = around(index, connection.protocol.held(), s);
        if connection.protocol.starved() {
            connection.protocol.resume(door.around.now, &mut door);
        }
        let now = door.around.now;
        unread.start += connection.protocol.receive(now, &staging[unread.clone()], &mut door);
        let is_consumed = unread.start == unread.end;
        put_events(connection, s);
        if connection.protocol.is_over() {
            connection.state = State::Draining;
        } else if is_consumed && connection.moving.is_none() {
            let Input::Held { staging, .. } =
                std::mem::replace(&mut connection.input, Input::Receiving)
            else {
                unreachable!("looked at above")
            };
            let mut staging = resized(staging, connection.staging_len(), s.pool);
            let landing = connection.protocol.take_landing();
            staging.set_len(staging_room(&staging, landing.as_ref()));
            s.net.receive(entry.socket, Rx { landing, staging });
        }
        self.note_starved(index);
        self.mark_due(index);
        self.watch(index, s.now);
    }

    /// Has a connection that waits for buffers or slots looked at again next turn.
    fn note_starved(&mut self, index: u32) {
        let connection = self.connection(index);
        let holds =
            matches!(&connection.input, Input::Held { unread, .. } if unread.start < unread.end);
        let is_served = connection.state == State::Open && connection.moving.is_none();
        let is_waiting = is_served && (connection.protocol.starved() || holds);
        if is_waiting {
            self.mark_stalled(index);
        }
    }

    /// Goes on with a connection that waited; whether it submitted anything.
    fn resume<O: Post>(&mut self, index: u32, s: &mut Surrounding<'_, O>) -> bool {
        let before = self.connection(index).protocol.outstanding();
        self.go_on(index, s);
        self.connection(index).protocol.outstanding() != before
    }

    fn go_on<O: Post>(&mut self, index: u32, s: &mut Surrounding<'_, O>) {
        let entry = self.entries[index as usize].as_mut().expect("stalled while it is open");
        entry.connection.is_stalled = false;
        if matches!(entry.connection.input, Input::Held { .. }) {
            return self.advance(index, s);
        }
        if entry.connection.state == State::Open && entry.connection.moving.is_none() {
            let mut door = around(index, entry.connection.protocol.held(), s);
            entry.connection.protocol.resume(door.around.now, &mut door);
            put_events(&mut entry.connection, s);
        }
        self.note_starved(index);
        self.mark_due(index);
    }

    /// Sends what the connection has to say, and brings its end forward.
    fn settle<O: Post>(&mut self, index: u32, s: &mut Surrounding<'_, O>) {
        let entry = self.entries[index as usize].as_mut().expect("settled while it is open");
        entry.connection.is_dirty = false;
        if entry.connection.state != State::Draining {
            send(entry, &mut self.heads, s);
            report_errors(&mut entry.connection, s);
            // What comes next of a long read, or of a command that has just found no buffer.
            self.note_starved(index);
        }
        let entry = self.entries[index as usize].as_mut().expect("it is still open");
        let connection = &mut entry.connection;
        if connection.protocol.is_ending() && connection.state == State::Open {
            connection.state = State::Closing;
        }
        let has_output = connection.protocol.wants_transmit();
        let is_said = !has_output && !connection.is_sending();
        if connection.protocol.is_over() || (connection.state == State::Closing && is_said) {
            connection.state = State::Draining;
        }
        if connection.state == State::Draining {
            connection.protocol.close();
            s.requests.abandon(index);
            if connection.is_socket_idle() {
                if connection.protocol.outstanding() == 0 {
                    self.remove(index, s);
                }
            } else {
                s.net.shutdown(entry.socket);
            }
            return;
        }
        if let Some(core) = connection.moving
            && connection.is_socket_idle()
            && connection.protocol.outstanding() == 0
            && !has_output
        {
            self.hand_over(index, core, s);
        } else if has_output && !connection.is_sending() {
            // No buffer for its headers.
            self.mark_stalled(index);
        }
    }

    fn hand_over<O: Post>(&mut self, index: u32, core: u16, s: &mut Surrounding<'_, O>) {
        let Entry { mut connection, socket } = self.take(index);
        assert_eq!(connection.protocol.outstanding(), 0, "requests come back to their core");
        connection.moving = None;
        // The lists are this core's; the other has its own.
        connection.is_dirty = false;
        connection.is_stalled = false;
        let socket = s.net.release(socket);
        let control = s.control.as_deref_mut().expect("only the control core hands over");
        control.moved(connection.id, core);
        let adopted = Box::new(Adopted { connection, socket });
        s.out.links().send(core, Message::Adopt(adopted));
    }

    /// Forgets a connection that is closed and drained, and says so to the target.
    fn remove<O: Post>(&mut self, index: u32, s: &mut Surrounding<'_, O>) {
        let Entry { connection, socket } = self.take(index);
        connection.protocol.count(&mut self.gone);
        s.net.close(socket);
        match s.control.as_deref_mut() {
            Some(control) => control.closed(s.now, connection.id),
            None => s.out.links().send(0, Message::Closed(connection.id)),
        }
    }

    /// A connection's timer is due.
    fn look<O: Post>(&mut self, index: u32, s: &mut Surrounding<'_, O>) {
        // Waiting for one's own share alone is nobody else's fault.
        let is_scarce = s.pool.is_low() && self.stalled.iter().any(|&other| other != index);
        let entry = self.entries[index as usize].as_mut().expect("timers go with their connection");
        entry.connection.timer = None;
        entry.connection.look(s.now, is_scarce, || s.net.taken(entry.socket));
        self.mark_due(index);
        self.watch(index, s.now);
    }

    /// Sees to it that a connection is looked at in time. A timer that is early stays, so that one
    /// with traffic costs no more than one timer for each period.
    fn watch(&mut self, index: u32, now: Now) {
        let Some(entry) = &mut self.entries[index as usize] else { return };
        let Some(wanted) = entry.connection.next_look(now) else { return };
        match entry.connection.timer {
            Some((at, _)) if at <= wanted => return,
            Some((_, timer)) => {
                self.timers.cancel(timer);
            }
            None => {}
        }
        entry.connection.timer = Some((wanted, self.timers.insert(wanted, index)));
    }

    /// Tells of the drains that are over. A connection that is gone, or has moved, has nothing in
    /// flight.
    fn report_drains<O: Post>(&mut self, s: &mut Surrounding<'_, O>) {
        let (entries, by_id) = (&self.entries, &self.by_id);
        let is_over = |&mut (id, volume, _): &mut (ConnectionId, VolumeIndex, u64)| {
            let entry = by_id.get(&id).and_then(|&index| entries[index as usize].as_ref());
            entry.is_none_or(|entry| entry.connection.protocol.is_idle_on(volume))
        };
        for (_, _, token) in self.drains.extract_if(.., is_over) {
            match s.control.as_deref_mut() {
                Some(control) => control.drained(token),
                None => s.out.links().send(0, Message::Drained { token }),
            }
        }
    }

    fn insert(&mut self, connection: Connection, socket: SocketId, pool: &Pool) -> u32 {
        if self.entries.is_empty() {
            self.heads.fill(pool);
        }
        let id = connection.id;
        let entry = Some(Entry { connection, socket });
        let index = match self.free.pop() {
            Some(index) => {
                self.entries[index as usize] = entry;
                index
            }
            None => {
                self.entries.push(entry);
                self.entries.len() as u32 - 1
            }
        };
        self.by_socket.insert(socket, index);
        self.by_id.insert(id, index);
        index
    }

    fn take(&mut self, index: u32) -> Entry {
        let mut entry = self.entries[index as usize].take().expect("taken once");
        if let Some((_, timer)) = entry.connection.timer.take() {
            self.timers.cancel(timer);
        }
        self.by_socket.remove(&entry.socket);
        self.by_id.remove(&entry.connection.id);
        self.dirty.retain(|&other| other != index);
        self.stalled.retain(|&other| other != index);
        self.free.push(index);
        entry
    }

    fn connection(&mut self, index: u32) -> &mut Connection {
        let entry = self.entries[index as usize].as_mut();
        &mut entry.expect("events come while the connection is open").connection
    }

    fn mark_stalled(&mut self, index: u32) {
        if !std::mem::replace(&mut self.connection(index).is_stalled, true) {
            self.stalled.push(index);
        }
    }

    fn mark_due(&mut self, index: u32) {
        if self.connection(index).is_due() {
            self.mark_dirty(index);
        }
    }

    fn mark_dirty(&mut self, index: u32) {
        if !std::mem::replace(&mut self.connection(index).is_dirty, true) {
            self.dirty.push(index);
        }
    }
}

/// Starts a send if there is something to say and none is outstanding.
fn send<O: Post>(entry: &mut Entry, reserve: &mut Reserve, s: &mut Surrounding<'_, O>) {
    let connection = &mut entry.connection;
    if !connection.protocol.wants_transmit() {
        return;
    }
    let Some(parts) = connection.parts.take() else { return };
    let mut gather = match Gather::new(s.pool, reserve, parts) {
        Ok(gather) => gather,
        Err(parts) => {
            connection.parts = Some(parts);
            return;
        }
    };
    connection.protocol.transmit(&mut gather);
    match gather.finish() {
        Gathered::Send(tx) => s.net.send(entry.socket, tx),
        Gathered::Nothing(parts) => connection.parts = Some(parts),
    }
}

/// Tells the target of commands that were answered with errors: what it logs of a controller.
fn report_errors<O: Post>(connection: &mut Connection, s: &mut Surrounding<'_, O>) {
    let Some(errors) = connection.protocol.take_errors() else { return };
    match s.control.as_deref_mut() {
        Some(control) => control.note_errors(connection.id, &errors),
        None => s.out.links().send(0, Message::Errors { connection: connection.id, errors }),
    }
}

/// Bytes that the next receive may take beside those that land: little where large data land one
/// after another, since what comes into the staging buffer has to be copied.
fn staging_room(staging: &Buf, landing: Option<&(Buf, Range<usize>)>) -> usize {
    match landing {
        Some((buf, _)) if buf.len() >= LANDING_LARGE => {
            STAGING_BESIDE_LARGE.min(staging.capacity())
        }
        _ => staging.capacity(),
    }
}

/// A staging buffer of `wanted` bytes if the pool can spare one, else the one that there is. What
/// it holds is lost. Only one that was made for a flood becomes smaller.
fn resized(staging: Buf, wanted: usize, pool: &Pool) -> Buf {
    let is_kept = match staging.capacity() {
        STAGING_FLOODED => wanted == STAGING_FLOODED,
        capacity => capacity >= wanted || pool.is_low(),
    };
    if is_kept { staging } else { pool.alloc(wanted).unwrap_or(staging) }
}

/// Puts the connection's events to the target.
fn put_events<O: Post>(connection: &mut Connection, s: &mut Surrounding<'_, O>) {
    while let Some(event) = connection.protocol.take_event() {
        if let Some((slot, reply)) = ask(connection.id, event, s) {
            answer(connection, slot, reply, s);
        }
    }
}

/// Gives the connection the target's answer; learns where the connection is to be served.
fn answer<O: Post>(
    connection: &mut Connection,
    slot: Slot,
    reply: Reply,
    s: &mut Surrounding<'_, O>,
) {
    if let (Some(role), Some(control)) = (&reply.role, s.control.as_deref_mut()) {
        let here = s.out.links().core();
        let core = control.place(connection.id, role);
        connection.moving = (core != here).then_some(core);
    }
    connection.protocol.nvme().reply(slot, reply);
}

/// Puts an event to its target: directly on its core, by mailbox elsewhere. The iSCSI target
/// answers by orders.
fn ask<O: Post>(
    id: ConnectionId,
    event: Event,
    s: &mut Surrounding<'_, O>,
) -> Option<(Slot, Reply)> {
    match (s.control.as_deref_mut(), event) {
        (Some(control), Event::Nvme(event)) => {
            let slot = event.slot;
            control.event(s.now, id, event).map(|reply| (slot, reply))
        }
        (Some(control), Event::Iscsi(event)) => {
            control.iscsi_event(s.now, id, event);
            None
        }
        (None, event) => {
            s.out.links().send(0, Message::Event { connection: id, event });
            None
        }
    }
}

fn around<'a, 'b, O>(index: u32, held: usize, s: &'a mut Surrounding<'b, O>) -> Door<'a, O> {
    Door {
        connection: index,
        held,
        reads: 0,
        requests: s.requests,
        around: Around { now: s.now, routes: s.routes, pool: s.pool, out: s.out },
    }
}

/// What a connection sees of its core.
struct Door<'a, O> {
    connection: u32,
    /// Bytes of buffers that the connection's commands hold.
    held: usize,
    /// Bytes of reads that have begun in this step.
    reads: usize,
    requests: &'a mut Requests,
    around: Around<'a, O>,
}

impl<O: Outbound> Surroundings for Door<'_, O> {
    type Buf = Buf;

    fn alloc(&mut self, len: usize) -> Option<Buf> {
        self.around.pool.alloc(len)
    }

    fn alloc_for_host_data(&mut self, len: usize) -> Option<Buf> {
        self.alloc_for_host(len)
    }

    fn alloc_for_read(&mut self, len: usize) -> Option<Buf> {
        if self.reads >= READS_AT_ONCE {
            return None;
        }
        let buf = self.alloc_for_host(len)?;
        self.reads += len;
        Some(buf)
    }

    fn submit(&mut self, ticket: Ticket, volume: VolumeIndex, request: BlockRequest<Buf>) {
        let origin = Origin { connection: self.connection, ticket };
        self.requests.submit(origin, volume, request, &mut self.around);
    }
}

impl<O> Door<'_, O> {
    /// What hosts still have to fill, or to take, must not take the buffers that let others go on:
    /// the last quarter is for connections that hold nothing, the last sixteenth for none.
    fn alloc_for_host(&mut self, len: usize) -> Option<Buf> {
        let pool = self.around.pool;
        if pool.is_scarce() || (self.held > 0 && pool.is_low()) {
            return None;
        }
        let buf = pool.alloc(len)?;
        self.held += len;
        Some(buf)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dma::Arena;
    use crate::volume::{Piece, ShardAddress};

    struct Nowhere;

    impl Outbound for Nowhere {
        fn dispatch(&mut self, _: ShardAddress, _: Piece) {
            unreachable!("nothing is submitted");
        }
    }

    #[test]
    fn reads_begin_a_few_at_a_time_and_a_long_one_alone() {
        let pool = Arena::new(8 << 20, 1).unwrap().pool(0);
        let (routes, mut requests) = (Routes::default(), Requests::new(0, &pool));
        let mut step = |sizes: &[usize]| {
            let around = Around { now: Now::ZERO, routes: &routes, pool: &pool, out: &mut Nowhere };
            let mut door =
                Door { connection: 0, held: 0, reads: 0, requests: &mut requests, around };
            let begun = sizes.iter().take_while(|&&size| door.alloc_for_read(size).is_some());
            begun.count()
        };
        assert_eq!(step(&[4096; 32]), 16);
        assert_eq!(step(&[4096; 5]), 5, "each step anew");
        assert_eq!(step(&[TRANSFER_MAX; 2]), 1);
        assert_eq!(step(&[4096, TRANSFER_MAX, 4096]), 2);
    }

    #[test]
    fn staging_grows_while_the_pool_can_spare_it() {
        let pool = Arena::new(1 << 21, 1).unwrap().pool(0);
        let small = pool.alloc(STAGING_FIRST).unwrap();
        let grown_once = resized(small, 64 << 10, &pool);
        assert_eq!(grown_once.len(), 64 << 10);
        assert_eq!(pool.available(), (2 << 20) - (64 << 10), "the small one is free again");
        let kept = resized(grown_once, 16 << 10, &pool);
        assert_eq!(kept.len(), 64 << 10);
        let rest: Vec<_> =
            std::iter::from_fn(|| (!pool.is_low()).then(|| pool.alloc(STAGING_FIRST)))
                .flatten()
                .collect();
        let small = pool.alloc(STAGING_FIRST).unwrap();
        let small = resized(small, 64 << 10, &pool);
        assert_eq!(small.len(), STAGING_FIRST);
        drop(rest);
        let flooded = resized(small, STAGING_FLOODED, &pool);
        assert_eq!(flooded.len(), STAGING_FLOODED);
        assert_eq!(resized(flooded, 64 << 10, &pool).len(), 64 << 10);
    }
}
