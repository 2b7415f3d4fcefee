//! Initiators, connections, stores and one target, and what moves between them.

use super::{Finished, Initiator, InitiatorConfig, Memory, PlainBuf, Wire};
use crate::connection::{Config, Connection};
use crate::io::{Buffer, Now, VolumeIndex};
use crate::scsi::control::UnitConfig;
use crate::seam::{ConnectionId, Event};
use crate::target::{Action, ConnectionContext, IscsiName, Target, TargetConfig, Terms};
use reservations::{Order, Registrant, Table};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Name of the target.
pub const TARGET: &str = "iqn.2026-01.test:target";

/// A connection of a [`Fabric`].
pub type LinkId = ConnectionId;

/// One target and who talks to it.
#[derive(Debug)]
pub struct Fabric {
    /// The target.
    pub target: Target,
    /// Who talks to it.
    pub links: BTreeMap<LinkId, Link>,
    /// The time.
    pub now: Now,
    /// How connections are made.
    pub config: Config,
    next: u64,
    sizes: Vec<usize>,
    tables: BTreeMap<VolumeIndex, Arc<Table>>,
    drains: Vec<Drain>,
}

/// An order of a reservation that waits for the ends of what it has aborted.
#[derive(Debug)]
struct Drain {
    token: u64,
    volume: VolumeIndex,
    links: Vec<LinkId>,
    is_ordered: bool,
}

/// One connection, both its ends, and its store.
#[derive(Debug)]
pub struct Link {
    /// The initiator's end.
    pub initiator: Initiator,
    /// The target's.
    pub connection: Connection<PlainBuf>,
    /// The store.
    pub memory: Memory,
    /// Whether block requests wait for the test to complete them.
    pub hold_blocks: bool,
    /// Bytes on their way to the connection.
    pub stream: Vec<u8>,
    /// PDUs that the connection may send at a time.
    pub wire_room: usize,
    /// The target wants it closed.
    pub is_closing: bool,
    /// The initiator hears nothing but R2Ts.
    pub is_deaf: bool,
}

/// A unit of so many bytes.
#[must_use]
pub fn unit(volume: u32, capacity: u64, block_shift: u8) -> UnitConfig {
    UnitConfig {
        volume: VolumeIndex(volume),
        uuid: [volume as u8 + 1; 16],
        name: format!("volume-{volume}"),
        capacity,
        block_shift,
        read_only: false,
    }
}

impl Fabric {
    /// A target that lets everybody in, with a unit of each size, of 512-byte blocks where odd.
    ///
    /// # Panics
    /// If the target refuses them.
    #[must_use]
    pub fn new(sizes: &[usize], terms: Terms) -> Self {
        let config = TargetConfig {
            name: IscsiName::new(TARGET).expect("a good name"),
            alias: "test".into(),
            terms,
            receive_max: Config::default().receive_max,
        };
        let mut seed = 1_u8;
        let mut target = Target::new(
            config,
            Box::new(move |bytes| {
                for byte in bytes {
                    seed = seed.wrapping_mul(5).wrapping_add(7);
                    *byte = seed;
                }
            }),
        );
        for (lun, &size) in sizes.iter().enumerate() {
            let shift = if lun % 2 == 0 { 12 } else { 9 };
            target.add_unit(lun as u16, unit(lun as u32, size as u64, shift)).expect("free");
        }
        target.set_allow_any(true);
        target.set_ready();
        Self {
            target,
            links: BTreeMap::new(),
            now: Now::from_secs(1),
            config: Config::default(),
            next: 1,
            sizes: sizes.to_vec(),
            tables: BTreeMap::new(),
            drains: Vec::new(),
        }
    }

    /// A connection that has just been opened.
    pub fn open(&mut self, initiator: InitiatorConfig) -> LinkId {
        let id = ConnectionId(self.next);
        self.next += 1;
        let link = Link {
            initiator: Initiator::new(initiator),
            connection: Connection::new(id, self.config, self.now),
            memory: Memory::new(&self.sizes),
            hold_blocks: false,
            stream: Vec::new(),
            wire_room: usize::MAX,
            is_closing: false,
            is_deaf: false,
        };
        self.links.insert(id, link);
        id
    }

    /// A session that has begun, and was told of all unit attentions.
    ///
    /// # Panics
    /// If it does not begin.
    pub fn log_in(&mut self, initiator: InitiatorConfig) -> LinkId {
        let id = self.open(initiator);
        self.link(id).initiator.login(TARGET);
        self.run();
        assert!(self.link(id).initiator.is_in, "{:?}", self.link(id).initiator.received);
        self.link(id).initiator.received.clear();
        for lun in 0..self.sizes.len() {
            // TEST UNIT READY.
            let told = self.read(id, lun as u16, &[0; 6], 0);
            assert_eq!(told.sense.map(|sense| sense.0), Some(6), "{told:?}");
        }
        id
    }

    /// One of the connections.
    ///
    /// # Panics
    /// If it is gone.
    pub fn link(&mut self, id: LinkId) -> &mut Link {
        self.links.get_mut(&id).expect("the connection is there")
    }

    /// Executes a command that reads or moves nothing.
    pub fn read(&mut self, id: LinkId, lun: u16, cdb: &[u8], expected: u32) -> Finished {
        let tag = self.link(id).initiator.read(lun, cdb, expected);
        self.finish(id, tag)
    }

    /// Executes a command that brings data.
    pub fn write(&mut self, id: LinkId, lun: u16, cdb: &[u8], data: &[u8]) -> Finished {
        let tag = self.link(id).initiator.write(lun, cdb, data);
        self.finish(id, tag)
    }

    /// Waits for the end of a command.
    ///
    /// # Panics
    /// If it does not come.
    pub fn finish(&mut self, id: LinkId, tag: u32) -> Finished {
        self.run();
        let finished = self.link(id).initiator.finished(tag);
        finished.unwrap_or_else(|| panic!("command {tag} does not end"))
    }

    /// Moves everything that can move, until nothing does.
    pub fn run(&mut self) {
        self.run_in_chunks(&mut |available| available);
    }

    /// As [`Fabric::run`]; `chunk` says how many of the bytes available arrive at once.
    pub fn run_in_chunks(&mut self, chunk: &mut dyn FnMut(usize) -> usize) {
        loop {
            let mut moved = false;
            let ids: Vec<LinkId> = self.links.keys().copied().collect();
            for id in ids {
                moved |= self.step(id, chunk);
            }
            moved |= self.carry_actions();
            if !moved {
                break;
            }
        }
    }

    /// Moves what one connection can, once, and what the target wants of all.
    pub fn run_one(&mut self, id: LinkId) {
        self.run_one_chunk(id, usize::MAX);
    }

    /// As [`Fabric::run_one`], of which so many bytes arrive.
    pub fn run_one_chunk(&mut self, id: LinkId, count: usize) {
        self.step(id, &mut |available| available.min(count));
        self.carry_actions();
    }

    /// Takes in what a connection has for the target, and what it has to say.
    pub fn listen_to(&mut self, id: LinkId) {
        self.link(id).collect();
        while let Some(event) = self.link(id).connection.take_event() {
            self.event(id, event);
        }
    }

    /// Breaks a connection off.
    pub fn cut(&mut self, id: LinkId) {
        self.link(id).connection.close();
        self.link(id).is_closing = true;
        self.reap(id);
    }

    fn step(&mut self, id: LinkId, chunk: &mut dyn FnMut(usize) -> usize) -> bool {
        let now = self.now;
        let link = self.links.get_mut(&id).expect("the caller has seen it");
        let mut moved = link.deliver(now, chunk);
        if !link.hold_blocks && link.memory.pending() > 0 {
            link.complete(0);
            moved = true;
        }
        moved |= link.collect();
        while let Some(event) = self.link(id).connection.take_event() {
            self.event(id, event);
            moved = true;
        }
        let link = self.link(id);
        let is_said = link.connection.is_ending() && !link.connection.wants_transmit();
        if (link.connection.is_over() || is_said) && !link.is_closing {
            self.cut(id);
            return true;
        }
        self.reap(id);
        moved
    }

    fn event(&mut self, id: LinkId, event: Event) {
        let local = std::net::IpAddr::from([192, 0, 2, 1]);
        self.target.event(self.now, id, ConnectionContext { portal: 0, local }, event);
    }

    fn carry_actions(&mut self) -> bool {
        let mut moved = false;
        while let Some(action) = self.target.take_action() {
            moved = true;
            match action {
                Action::Order(id, order) => {
                    let now = self.now;
                    if let Some(link) = self.links.get_mut(&id) {
                        link.connection.order(now, order);
                    }
                }
                // One that has ended by itself is gone already.
                Action::Close(id) if !self.links.contains_key(&id) => {}
                Action::Close(id) => self.cut(id),
                Action::Reserve { volume, who, order, token } => {
                    self.reserve(volume, &who, &order, token);
                }
            }
        }
        moved | self.carry_drains()
    }

    fn reserve(&mut self, volume: VolumeIndex, who: &Registrant, order: &Order, token: u64) {
        let mut table = Table::clone(self.tables.entry(volume).or_default());
        match table.apply(who, order) {
            Err(refusal) => self.target.reservation_result(token, Err(refusal.into())),
            Ok(outcome) => {
                let table = Arc::new(table);
                self.tables.insert(volume, table.clone());
                self.target.set_reservations(volume, &table, &outcome.notices);
                let preempted = outcome.aborts.iter();
                let links = preempted.flat_map(|who| self.target.connections_of(who)).collect();
                self.drains.push(Drain { token, volume, links, is_ordered: false });
            }
        }
    }

    /// Once every action has been carried out: has preempted links end what they do, and answers
    /// the orders whose links have.
    fn carry_drains(&mut self) -> bool {
        for drain in self.drains.iter_mut().filter(|drain| !drain.is_ordered) {
            drain.is_ordered = true;
            for id in &drain.links {
                if let Some(link) = self.links.get_mut(id) {
                    link.connection.preempt(drain.volume);
                }
            }
        }
        let links = &self.links;
        let is_idle = |id: &LinkId, volume| {
            links.get(id).is_none_or(|link| link.connection.is_idle_on(volume))
        };
        let ended: Vec<_> = self
            .drains
            .extract_if(.., |drain| drain.links.iter().all(|id| is_idle(id, drain.volume)))
            .collect();
        for drain in &ended {
            self.target.reservation_result(drain.token, Ok(()));
        }
        !ended.is_empty()
    }

    /// Forgets a connection that is closed and drained.
    fn reap(&mut self, id: LinkId) {
        let link = self.link(id);
        if link.is_closing && link.connection.outstanding() == 0 {
            let link = self.links.remove(&id).expect("seen above");
            assert_eq!(link.memory.live(), 0, "every buffer is back");
            self.target.closed(id);
        }
    }
}

impl Link {
    /// Completes the `index`th block request that waits.
    pub fn complete(&mut self, index: usize) {
        let (ticket, result) = self.memory.execute(index);
        self.connection.complete(ticket, result, &mut self.memory);
    }

    fn deliver(&mut self, now: Now, chunk: &mut dyn FnMut(usize) -> usize) -> bool {
        self.stream.append(&mut self.initiator.take_output());
        if self.is_closing {
            return false;
        }
        if self.connection.starved() {
            self.connection.resume(now, &mut self.memory);
        }
        if self.stream.is_empty() || self.connection.blocked() {
            return false;
        }
        let count = chunk(self.stream.len()).clamp(1, self.stream.len());
        let mut at = 0;
        if let Some((mut buf, range)) = self.connection.take_landing() {
            at = count.min(range.len());
            buf.bytes_mut()[range.start..range.start + at].copy_from_slice(&self.stream[..at]);
            self.connection.landed(buf, range, at, &mut self.memory);
        }
        at += self.connection.receive(now, &self.stream[at..count], &mut self.memory);
        assert!(at == count || self.connection.blocked(), "bytes are refused only when blocked");
        self.stream.drain(..at);
        at > 0
    }

    fn collect(&mut self) -> bool {
        let mut wire = Wire::new(self.wire_room);
        self.connection.transmit(&mut wire);
        self.connection.sent();
        if self.is_deaf {
            self.initiator.overhear(&wire.bytes);
        } else {
            self.initiator.input(&wire.bytes);
        }
        !wire.bytes.is_empty()
    }
}
