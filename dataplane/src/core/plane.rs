//! What one core does in one turn. The reactor calls it on real time, the simulator on its own.

use super::slots::Slots;
use super::{Adopted, DevicePart, Devices, Links, Message, ShardCommand, ShardReply};
use crate::dma::Pool;
use crate::frontend::{Event, Frontend, Post, Surrounding};
use crate::net::{Event as NetEvent, Net};
use crate::node::{Control, DiskCounters, EventLog, Registry};
use crate::store::{Completion, Shard, VolumeId};
use crate::uring::Ring;
use crate::volume::{Around, Outbound, Piece, Requests, Routes, ShardAddress, add};
use iscsi_target::seam::Order;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use target_io::{ConnectionId, Now};

/// Tags of management requests to shards have this bit; the rest is control's token.
const MANAGEMENT: u64 = 1 << 63;

/// Polls of a busy shard in one turn while nothing ends: a write that has its record and its data
/// on a fast device at once is answered in the turn that it came in.
const SHARD_POLLS: usize = 4;

/// What a core is made of.
pub(crate) struct CoreParts {
    pub(crate) links: Links,
    pub(crate) pool: Rc<Pool>,
    pub(crate) net: Box<dyn Net>,
    pub(crate) shards: Vec<(ShardSeat, Shard)>,
    pub(crate) registry: Registry,
    pub(crate) log: EventLog,
    pub(crate) frontend: Frontend,
    /// On the first core only.
    pub(crate) control: Option<Control>,
    pub(crate) stats: Arc<CoreStats>,
}

/// Which shard of which disk.
#[derive(Debug, Clone)]
pub(crate) struct ShardSeat {
    /// The disk's position in the node's list.
    pub(crate) disk: usize,
    /// The disk's path.
    pub(crate) path: String,
    /// The shard's position on the disk.
    pub(crate) shard: usize,
}

/// What a core counts; written by it alone.
#[derive(Default)]
pub(crate) struct CoreStats {
    pub(crate) turns: AtomicU64,
    pub(crate) busy_turns: AtomicU64,
    pub(crate) asleep_ns: AtomicU64,
    pub(crate) system_calls: AtomicU64,
    pub(crate) connections: AtomicU64,
    pub(crate) buffers_free: AtomicU64,
    pub(crate) digest_second_passes: AtomicU64,
    pub(crate) digest_errors: AtomicU64,
    pub(crate) commands: AtomicU64,
}

/// How far a core is from its end.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Running,
    Quiescing,
    Quiet,
    Settling,
    Settled,
    Stopped,
}

/// One core of the plane.
pub(crate) struct Core {
    net: Box<dyn Net>,
    pool: Rc<Pool>,
    frontend: Frontend,
    requests: Requests,
    routes: Routes,
    paths: Paths,
    control: Option<Control>,
    registry: Registry,
    log: EventLog,
    stats: Arc<CoreStats>,
    devices: Devices,
    /// For disks that come while the core runs.
    ring: Option<Ring>,
    phase: Phase,
    events: Vec<NetEvent>,
    messages: Vec<Message>,
    completions: Vec<Completion>,
    /// Volumes to drop as soon as the mailboxes are empty: shard, tag, volume.
    drops: Vec<(u16, u64, VolumeId)>,
    /// Tokens of routes taken away while pieces may still wait for room in a mailbox.
    removals: Vec<u64>,
    /// Disks that leave and come, and devices that are let go.
    moves: Vec<Move>,
}

/// A disk that leaves or comes, or a device that is let go, and who is to hear when it has.
enum Move {
    Retire { token: u64, disks: Arc<[usize]> },
    Release { token: u64, part: DevicePart },
    Arrive { token: u64 },
}

/// The ways to the shards: here, and by mailbox.
struct Paths {
    shards: Slots,
    links: Links,
}

impl Outbound for Paths {
    fn dispatch(&mut self, address: ShardAddress, piece: Piece) {
        if address.core == self.links.core() {
            self.shards.submit(address.shard, piece);
        } else {
            self.links.send(address.core, Message::Piece { shard: address.shard, piece });
        }
    }
}

impl Post for Paths {
    fn links(&mut self) -> &mut Links {
        &mut self.links
    }
}

/// Lends the core's parts to its frontend.
macro_rules! surrounding {
    ($core:expr, $now:expr) => {
        &mut Surrounding {
            now: $now,
            pool: &$core.pool,
            net: &mut *$core.net,
            requests: &mut $core.requests,
            routes: &$core.routes,
            out: &mut $core.paths,
            control: $core.control.as_mut(),
        }
    };
}

impl Core {
    pub(crate) fn new(parts: CoreParts) -> Self {
        let CoreParts { links, pool, net, shards, registry, log, frontend, control, stats } = parts;
        let shards = Slots::new(shards);
        Self {
            net,
            frontend,
            requests: Requests::new(links.core(), &pool),
            pool,
            routes: Routes::default(),
            paths: Paths { shards, links },
            control,
            registry,
            log,
            stats,
            devices: Devices::default(),
            ring: None,
            phase: Phase::Running,
            events: Vec::with_capacity(256),
            messages: Vec::with_capacity(256),
            completions: Vec::with_capacity(256),
            drops: Vec::new(),
            removals: Vec::new(),
            moves: Vec::new(),
        }
    }

    /// Gives the core hardware to drive, and the ring of its thread.
    pub(crate) fn set_devices(&mut self, devices: Devices, ring: &Ring) {
        self.devices = devices;
        self.ring = Some(ring.clone());
    }

    /// What is left when the core has stopped.
    pub(crate) fn into_devices(self) -> Devices {
        self.devices
    }

    /// One turn. Returns whether there was anything to do.
    pub(crate) fn turn(&mut self, now: Now) -> bool {
        let log = &self.log;
        let mut worked =
            self.devices.poll(now, &mut |severity, kind, text| log.note(severity, kind, text));
        worked |= self.take_messages(now);
        worked |= self.take_net_events(now);
        worked |= self.poll_shards(now);
        worked |= self.retry(now);
        worked |= self.run_control(now);
        worked |= self.frontend.flush(surrounding!(self, now));
        self.paths.links.flush();
        self.confirm_removals(now);
        worked |= self.end_moves(now);
        self.advance_phase();
        add(&self.stats.turns, 1);
        add(&self.stats.busy_turns, u64::from(worked));
        worked
    }

    /// When the next turn is due even if nothing comes; `None`: not before something comes.
    pub(crate) fn deadline(&self, now: Now) -> Option<Now> {
        let control = self.control.as_ref().and_then(Control::deadline);
        let devices = self.devices.deadline(now);
        [self.frontend.deadline(), control, devices].into_iter().flatten().min()
    }

    /// Whether something is under way that only the next turn can notice.
    pub(crate) fn must_poll(&self) -> bool {
        self.devices.must_poll() || self.paths.shards.must_poll()
    }

    /// Whether something is under way at devices of our own.
    pub(crate) fn awaits_device(&self) -> bool {
        self.devices.is_busy()
    }

    /// Before a sleep: has the devices interrupt it. Whether the core may sleep now;
    /// [`Core::disarm`] follows in any case.
    pub(crate) fn arm(&mut self) -> bool {
        self.devices.arm()
    }

    /// After a sleep: no interrupts while the core polls.
    pub(crate) fn disarm(&mut self) {
        self.devices.disarm();
    }

    /// Whether the core may sleep until its deadline or something comes.
    pub(crate) fn is_quiet(&self) -> bool {
        self.paths.links.is_quiet()
    }

    /// The core is about to sleep.
    pub(crate) fn rest(&mut self) {
        self.net.rest();
    }

    /// Requests that shards of this core are working on.
    pub(crate) fn in_flight(&self) -> usize {
        self.paths.shards.in_flight()
    }

    /// Whether the core has left its last turn.
    pub(crate) fn is_stopped(&self) -> bool {
        self.phase == Phase::Stopped
    }

    /// This core's mailboxes, for a simulator that slows them down.
    #[cfg(any(test, feature = "sim"))]
    pub(crate) fn links(&mut self) -> &mut Links {
        &mut self.paths.links
    }

    /// Notes time spent asleep.
    pub(crate) fn note_sleep(&self, asleep: Now) {
        add(&self.stats.asleep_ns, asleep.as_nanos() as u64);
    }

    /// Brings what is read elsewhere up to date: counters, and the shards' events. Now and then,
    /// not every turn.
    pub(crate) fn publish(&mut self, system_calls: u64) {
        let counters = self.frontend.counters();
        let store = |counter: &AtomicU64, value| counter.store(value, Ordering::Relaxed);
        store(&self.stats.system_calls, system_calls + self.net.calls());
        store(&self.stats.connections, self.frontend.len() as u64);
        store(&self.stats.buffers_free, self.pool.available() as u64);
        store(&self.stats.commands, counters.commands);
        store(&self.stats.digest_second_passes, counters.digest_second_passes);
        store(&self.stats.digest_errors, counters.digest_errors);
        for (seat, shard) in self.paths.shards.serving() {
            while let Some(event) = shard.next_event() {
                self.log.note_shard(&seat.path, seat.shard, event);
            }
            self.registry.set_shard(seat.disk, seat.shard, disk_counters(seat, shard));
        }
        if let Some(drives) = self.devices.take_drives() {
            self.registry.set_drives(self.paths.links.core(), drives);
        }
    }

    fn take_messages(&mut self, now: Now) -> bool {
        let mut messages = std::mem::take(&mut self.messages);
        let any = self.paths.links.receive(&mut messages);
        loop {
            for message in messages.drain(..) {
                self.on_message(message, now);
            }
            // What other cores sent to a volume before they lost its route may still lie in a
            // mailbox: it goes before the drop.
            if self.drops.is_empty() || !self.paths.links.receive(&mut messages) {
                break;
            }
        }
        self.messages = messages;
        for (shard, tag, volume) in std::mem::take(&mut self.drops) {
            match self.paths.shards.get(shard) {
                Some(shard) => shard.drop_volume(tag, volume),
                None => self.refuse(tag & !MANAGEMENT, now),
            }
        }
        any
    }

    fn take_net_events(&mut self, now: Now) -> bool {
        let mut events = std::mem::take(&mut self.events);
        self.net.poll(&mut events);
        let any = !events.is_empty();
        for event in events.drain(..) {
            self.frontend.on_event(event, surrounding!(self, now));
        }
        self.events = events;
        any
    }

    fn poll_shards(&mut self, now: Now) -> bool {
        let mut completions = std::mem::take(&mut self.completions);
        let mut worked = false;
        for index in 0..self.paths.shards.len() {
            let Some(shard) = self.paths.shards.get(index as u16) else { continue };
            for _ in 0..SHARD_POLLS {
                shard.poll(now, &mut completions);
                if !completions.is_empty() || shard.in_flight() == 0 {
                    break;
                }
            }
            worked |= !completions.is_empty() || shard.has_step();
            for completion in completions.drain(..) {
                self.on_completion(completion, now);
            }
        }
        if self.paths.shards.is_moving() {
            let log = &self.log;
            let note = &mut |seat: &ShardSeat, event| log.note_shard(&seat.path, seat.shard, event);
            worked |= self.paths.shards.advance(now, &mut completions, note);
            for completion in completions.drain(..) {
                self.on_completion(completion, now);
            }
        }
        while let Some(refused) = self.paths.shards.take_refused() {
            worked = true;
            self.on_completion(refused, now);
        }
        self.completions = completions;
        self.deliver_outcomes(now);
        worked
    }

    fn on_completion(&mut self, completion: Completion, now: Now) {
        if completion.tag & MANAGEMENT != 0 {
            let token = completion.tag & !MANAGEMENT;
            let reply = ShardReply::Changed(completion.result.map(|_| ()));
            return self.tell_control(Message::Shard { token, reply }, now);
        }
        let core = Requests::origin_core(completion.tag);
        if core == self.paths.links.core() {
            self.complete(completion, now);
        } else {
            self.paths.links.send(core, Message::Done(completion));
        }
    }

    fn complete(&mut self, completion: Completion, now: Now) {
        let out = &mut self.paths;
        let around = &mut Around { now, routes: &self.routes, pool: &self.pool, out };
        self.requests.complete(completion, around);
    }

    /// Hands ended requests to their connections. Their next ones are polled in the next turn.
    fn deliver_outcomes(&mut self, now: Now) {
        while let Some(outcome) = self.requests.take_outcome() {
            self.frontend.on_outcome(outcome, surrounding!(self, now));
        }
    }

    fn retry(&mut self, now: Now) -> bool {
        let out = &mut self.paths;
        let around = &mut Around { now, routes: &self.routes, pool: &self.pool, out };
        let worked = self.requests.retry(around);
        self.deliver_outcomes(now);
        worked
    }

    fn run_control(&mut self, now: Now) -> bool {
        let Some(control) = &mut self.control else { return false };
        let mut worked = control.poll(now);
        while let Some((core, message)) = self.control.as_mut().and_then(Control::take_order) {
            worked = true;
            if core == self.paths.links.core() {
                self.on_message(message, now);
            } else {
                self.paths.links.send(core, message);
            }
        }
        worked
    }

    fn tell_control(&mut self, message: Message, now: Now) {
        match &mut self.control {
            Some(control) => control.on_message(message, now),
            None => self.paths.links.send(0, message),
        }
    }

    fn on_message(&mut self, message: Message, now: Now) {
        match message {
            Message::Piece { shard, piece } => {
                self.paths.shards.submit(shard, piece);
            }
            Message::Done(completion) => self.complete(completion, now),
            Message::Adopt(adopted) => self.adopt(*adopted, now),
            Message::Reply { connection, slot, reply } => {
                self.frontend.on_reply(connection, slot, reply, surrounding!(self, now));
            }
            Message::Order { connection, order } => {
                let is_units = matches!(*order, Order::Units(..));
                self.frontend.on_order(connection, *order, surrounding!(self, now));
                if is_units {
                    self.tell_control(Message::NamespacesSet, now);
                }
            }
            Message::Close(connection) => self.frontend.on_close(connection),
            Message::SetNamespaces(connection, namespaces) => {
                self.frontend.on_namespaces(connection, namespaces);
                self.tell_control(Message::NamespacesSet, now);
            }
            Message::SetRoute { token, volume, route } => {
                let is_gone = route.is_none();
                self.routes.set(volume, route);
                if is_gone {
                    self.removals.push(token);
                } else {
                    let reply = ShardReply::Changed(Ok(()));
                    self.tell_control(Message::Shard { token, reply }, now);
                }
            }
            Message::Abort { connection, command_id, token } => {
                let aborted = self.frontend.on_abort(connection, command_id);
                self.tell_control(Message::Aborted { token, aborted }, now);
            }
            Message::Drain { connection, volume, token } => {
                self.frontend.on_drain(connection, volume, token);
            }
            Message::Ping { token } => {
                let reply = ShardReply::Changed(Ok(()));
                self.tell_control(Message::Shard { token, reply }, now);
            }
            Message::Command { shard, token, command } => self.command(shard, token, command, now),
            Message::Quiesce => {
                self.frontend.close_all();
                self.phase = Phase::Quiescing;
            }
            Message::Settle => {
                self.paths.shards.shut_down();
                self.phase = Phase::Settling;
            }
            Message::Stop => self.phase = Phase::Stopped,
            Message::Retire { .. }
            | Message::Release { .. }
            | Message::Arrive { .. }
            | Message::Serve { .. } => self.begin_move(message),
            Message::Event { connection, event } => self.forward_event(connection, event, now),
            Message::Closed(_)
            | Message::Errors { .. }
            | Message::NamespacesSet
            | Message::Aborted { .. }
            | Message::Drained { .. }
            | Message::Shard { .. }
            | Message::Landed { .. }
            | Message::Quiet
            | Message::Settled { .. } => self.tell_control(message, now),
        }
    }

    /// Answers for the routes that were taken away, once no piece can come late to a shard that
    /// then drops the volume.
    fn confirm_removals(&mut self, now: Now) {
        if self.removals.is_empty() || !self.paths.links.is_delivered() {
            return;
        }
        for token in std::mem::take(&mut self.removals) {
            let reply = ShardReply::Changed(Ok(()));
            self.tell_control(Message::Shard { token, reply }, now);
        }
        self.paths.links.flush();
    }

    fn adopt(&mut self, adopted: Adopted, now: Now) {
        self.frontend.adopt(adopted, surrounding!(self, now));
        if self.phase != Phase::Running {
            self.frontend.close_all();
        }
    }

    /// A command from a connection on another core.
    fn forward_event(&mut self, connection: ConnectionId, event: Event, now: Now) {
        let control = self.control.as_mut().expect("events go to the control core");
        match event {
            Event::Nvme(event) => control.remote_event(now, connection, event),
            Event::Iscsi(event) => control.iscsi_event(now, connection, event),
        }
    }

    fn command(&mut self, shard: u16, token: u64, command: ShardCommand, now: Now) {
        let tag = MANAGEMENT | token;
        let slot = self.paths.shards.get(shard);
        match (command, slot) {
            (ShardCommand::Put { key, value }, Some(shard)) => {
                shard.catalogue_put(tag, &key, &value);
            }
            (ShardCommand::Delete { key }, Some(shard)) => shard.catalogue_delete(tag, &key),
            (ShardCommand::Drop(volume), _) => self.drops.push((shard, tag, volume)),
            (ShardCommand::Usage(volume), slot) => {
                let usage = slot.map_or(0, |shard| shard.volume_usage(volume));
                let reply = ShardReply::Usage(usage);
                self.tell_control(Message::Shard { token, reply }, now);
            }
            (_, None) => self.refuse(token, now),
        }
    }

    /// Answers management of a shard that does not serve.
    fn refuse(&mut self, token: u64, now: Now) {
        let reply = ShardReply::Changed(Err(crate::store::Error::Failed));
        self.tell_control(Message::Shard { token, reply }, now);
    }

    fn advance_phase(&mut self) {
        let next = match self.phase {
            Phase::Quiescing if self.frontend.len() == 0 && self.requests.in_flight() == 0 => {
                (Phase::Quiet, Message::Quiet)
            }
            Phase::Settling if self.paths.shards.is_shut_down() => {
                let clean = !self.paths.shards.has_failed();
                (Phase::Settled, Message::Settled { clean })
            }
            _ => return,
        };
        self.phase = next.0;
        self.tell_control(next.1, Now::ZERO);
        self.paths.links.flush();
    }
}

fn disk_counters(seat: &ShardSeat, shard: &Shard) -> DiskCounters {
    let (space, counters) = (shard.space(), shard.counters());
    DiskCounters {
        path: seat.path.clone(),
        capacity: space.capacity,
        free: space.free,
        refused_full: counters.refused_full,
        checksum_errors: counters.block_errors,
        journal_bytes: counters.journal_bytes,
        checkpoints: counters.checkpoints,
        metadata_hits: counters.cache_hits,
        metadata_misses: counters.cache_misses,
        failed: shard.is_failed(),
        offline: false,
    }
}

/// Disks that go and come while the core runs.
impl Core {
    fn begin_move(&mut self, message: Message) {
        self.moves.push(match message {
            Message::Retire { token, disks } => {
                self.paths.shards.retire(&disks);
                Move::Retire { token, disks }
            }
            Message::Release { token, part } => {
                self.devices.release(part);
                Move::Release { token, part }
            }
            Message::Arrive { token, arrival } => {
                let ring = self.ring.as_ref();
                let mountings = arrival.begin(&mut self.devices, ring, &self.pool);
                self.paths.shards.begin(mountings);
                Move::Arrive { token }
            }
            Message::Serve { disk } => return self.paths.shards.serve(disk),
            _ => unreachable!("the caller has looked"),
        });
    }

    /// Answers for what has gone or come.
    fn end_moves(&mut self, now: Now) -> bool {
        let mut ended = false;
        for each in std::mem::take(&mut self.moves) {
            let is_done = match &each {
                Move::Retire { disks, .. } => self.paths.shards.has_none_of(disks),
                Move::Release { part, .. } => self.devices.is_released(*part),
                Move::Arrive { .. } => self.paths.shards.has_landed(),
            };
            if !is_done {
                self.moves.push(each);
                continue;
            }
            ended = true;
            let message = match each {
                Move::Retire { token, .. } | Move::Release { token, .. } => {
                    Message::Shard { token, reply: ShardReply::Changed(Ok(())) }
                }
                Move::Arrive { token } => {
                    let core = self.paths.links.core();
                    Message::Landed { token, core, shards: self.paths.shards.landed() }
                }
            };
            self.tell_control(message, now);
        }
        if ended {
            self.paths.links.flush();
        }
        ended
    }
}

#[cfg(test)]
mod tests;
