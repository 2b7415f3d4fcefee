//! A thread beside the plane for disks that go and come while the node runs.
//!
//! What belongs together is a [`Unit`]: a file or block device, or a controller of our own with all
//! of its disks. Of each the thread asks once a second: is what is served still there, is what is
//! not served there again? A unit that is gone leaves the cores entirely, requests, buffers and
//! hardware, before anything is opened in its place:
//!
//! ```text
//!            lost, or the operator's word          nothing is left
//!  serving ────────────────────────────▶ leaving ──────────────────▶ away (or held)
//!     ▲                                     ▲                          │ there, and the same
//!     │ every shard is recovered            │ one is not               ▼
//!     └─────────────────────────────────────┴────────────────────── arriving
//! ```
//!
//! The thread waits for no core: it looks again.

mod arrival;
mod unit;

use super::bus::{Bus, RegistersOf};
use super::commands::Call;
use super::controllers::{Dealt, Opener};
use super::disks::{Disks, Known};
use super::watch::Watched;
use super::{Answer, CommandError, DiskSource, NodeConfig, Registry};
use crate::core::{Clock, DevicePart};
use crate::dma::{Arena, Pool};
use crate::hardware::Registers;
use crate::uring::Waker;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, unbounded};
use std::rc::Rc;
use std::time::Duration;
use unit::{HELD, Order, State, Unit};

/// How often the thread looks.
const PERIOD: Duration = Duration::from_secs(1);
/// How often while something is on its way.
const LIVELY_PERIOD: Duration = Duration::from_millis(20);

/// What the operator wants of a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wish {
    /// That it is served, now.
    Online,
    /// That it is left alone.
    Offline,
}

/// An order of the operator.
pub(super) struct Ask {
    pub(super) disk: String,
    pub(super) wish: Wish,
    pub(super) answer: Sender<Result<Answer, CommandError>>,
}

/// What an order is for.
enum Aim {
    /// A unit, and the disk of it.
    Unit(usize, usize),
    /// A unit that is on its way somewhere: it is looked at again.
    Moving,
}

/// What the thread works with.
pub(super) struct Parts<B: Bus> {
    pub(super) config: NodeConfig,
    pub(super) clock: Clock,
    pub(super) late: Late<B>,
    pub(super) calls: Sender<Call>,
    pub(super) waker: Waker,
    pub(super) registry: Registry,
    pub(super) watch: Sender<Watched>,
}

/// What disks are opened with that come later; and the controllers that the cores have.
pub(super) struct Late<B: Bus> {
    pub(super) bus: B,
    pub(super) arena: Arena,
    pub(super) pool: Pool,
    pub(super) dealt: Vec<Dealt<RegistersOf<B>>>,
}

/// Starts the thread for the disks as they were opened at start. It ends when what is returned is
/// dropped.
pub(super) fn start<B: Bus>(parts: Parts<B>, disks: &Disks) -> Sender<Ask> {
    let (asks, asked) = unbounded();
    let units = units(&parts, disks);
    let cores = parts.config.cores.len();
    let known = (0..parts.config.disks.len()).map(|disk| disks.known(disk, cores)).collect();
    // Without it the node serves all the same.
    let _ = std::thread::Builder::new().name("disk-hotplug".into()).spawn(move || {
        Hotplug::new(parts, units, known).run(&asked);
    });
    asks
}

fn units<B: Bus>(parts: &Parts<B>, disks: &Disks) -> Vec<Unit<RegistersOf<B>>> {
    let mut units: Vec<Unit<_>> = Vec::new();
    for (number, config) in parts.config.disks.iter().enumerate() {
        let device = match config.source {
            DiskSource::Ram { .. } => continue,
            DiskSource::Path(_) => None,
            DiskSource::Device { address, .. } => Some(address),
        };
        let known = units.iter_mut().find(|unit| device.is_some() && unit.device == device);
        match known {
            Some(unit) => unit.disks.push(number),
            None => units.push(Unit::new(number, device)),
        }
    }
    for unit in &mut units {
        let dealt = parts.late.dealt.iter().find(|dealt| Some(dealt.address) == unit.device);
        if unit.disks.iter().any(|disk| disks.is_served(*disk)) {
            unit.serve(disks, dealt);
        } else if dealt.is_some() {
            // The cores have a controller none of whose disks can be used.
            let of_it = disks.offline().filter(|(disk, ..)| unit.disks.contains(disk));
            unit.idle = of_it.map(|(disk, _, reason)| (disk, reason.to_owned())).collect();
        }
    }
    let absent: Vec<Unit<_>> =
        units.iter_mut().flat_map(|unit| absent(unit, disks, &parts.config)).collect();
    units.extend(absent);
    units
}

/// Of an adapter that is served, the drives that are not: units of their own from now on.
fn absent<R: Registers>(unit: &mut Unit<R>, disks: &Disks, config: &NodeConfig) -> Vec<Unit<R>> {
    if unit.state != State::Serving {
        return Vec::new();
    }
    let missing: Vec<(usize, String)> = disks
        .offline()
        .filter(|(disk, ..)| unit.disks.contains(disk))
        .map(|(disk, _, reason)| (disk, reason.to_owned()))
        .collect();
    let part = |(disk, reason): (usize, String)| {
        let port = config.disks[disk].port()?;
        let is_dealt = unit.has_dealt(port);
        let mut part = unit.split(disk, port);
        part.state = State::Away;
        // A core has it, and makes nothing of it.
        part.idle = is_dealt.then_some((disk, reason)).into_iter().collect();
        Some(part)
    };
    missing.into_iter().filter_map(part).collect()
}

struct Hotplug<B: Bus> {
    config: NodeConfig,
    clock: Clock,
    bus: B,
    arena: Arena,
    pool: Rc<Pool>,
    calls: Sender<Call>,
    waker: Waker,
    registry: Registry,
    watch: Sender<Watched>,
    units: Vec<Unit<RegistersOf<B>>>,
    /// Orders for units that are on their way.
    waiting: Vec<Ask>,
    /// What is known of each disk that was there in this life of the node.
    known: Vec<Option<Known>>,
}

impl<B: Bus> Hotplug<B> {
    fn new(parts: Parts<B>, units: Vec<Unit<RegistersOf<B>>>, known: Vec<Option<Known>>) -> Self {
        let Parts { config, clock, late, calls, waker, registry, watch } = parts;
        let Late { bus, arena, pool, .. } = late;
        let pool = Rc::new(pool);
        Self {
            config,
            clock,
            bus,
            arena,
            pool,
            calls,
            waker,
            registry,
            watch,
            units,
            waiting: Vec::new(),
            known,
        }
    }

    fn run(mut self, asked: &Receiver<Ask>) {
        loop {
            let is_lively = self.units.iter().any(Unit::is_moving)
                || (0..self.units.len()).any(|unit| self.is_left_alone(unit));
            let ask = asked.recv_timeout(if is_lively { LIVELY_PERIOD } else { PERIOD });
            self.hand_out();
            for ask in std::mem::take(&mut self.waiting) {
                self.obey_late(ask);
            }
            match ask {
                Ok(ask) => self.obey(ask),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            for unit in 0..self.units.len() {
                self.look(unit);
            }
            self.units.retain(|unit| unit.state != State::Merged);
        }
    }

    /// Tells who waits for drives what adapters have found. One that nobody waits for is let go.
    fn hand_out(&mut self) {
        let now = self.clock.now();
        for adapter in 0..self.units.len() {
            let Some(probe) = self.units[adapter].probe().cloned() else { continue };
            while let Some(sighting) = probe.take() {
                let parts = self.parts(adapter);
                let unit = parts.into_iter().find(|unit| self.units[*unit].is_on(sighting.port));
                if let Some(unit) = unit {
                    self.units[unit].is_sighted(sighting.found, now);
                }
            }
        }
    }

    /// Drives of an adapter that are units of their own.
    fn parts(&self, adapter: usize) -> Vec<usize> {
        let adapter = &self.units[adapter];
        (0..self.units.len()).filter(|unit| adapter.is_parent_of(&self.units[*unit])).collect()
    }

    /// Takes an order, or refuses it.
    fn obey(&mut self, ask: Ask) {
        let Ask { disk, wish, answer } = ask;
        match self.ordered(&disk, wish) {
            Ok(Aim::Unit(unit, disk)) => self.units[unit].ask(Order { disk, wish, answer }),
            Ok(Aim::Moving) => self.waiting.push(Ask { disk, wish, answer }),
            Err(refused) => _ = answer.send(Err(refused)),
        }
    }

    /// Takes an order that has waited for its unit, which may have done it by itself meanwhile.
    fn obey_late(&mut self, ask: Ask) {
        match self.place(&ask.disk) {
            Ok((disk, unit)) if ask.wish == Wish::Online && self.is_served(disk, unit) => {
                let _ = ask.answer.send(Ok(Answer::Done));
            }
            _ => self.obey(ask),
        }
    }

    /// A disk by its name, and its unit.
    fn place(&self, name: &str) -> Result<(usize, usize), CommandError> {
        let mut disks = self.config.disks.iter().enumerate();
        let disk = disks.position(|(number, disk)| disk.name(number) == name).ok_or_else(|| {
            CommandError::NotFound(format!("the node has no disk {name}: see `basalt node`"))
        })?;
        let unit = self.units.iter().position(|unit| unit.disks.contains(&disk));
        let unit = unit.ok_or_else(|| CommandError::Invalid("a disk in memory stays".into()))?;
        Ok((disk, unit))
    }

    /// What an order is for.
    fn ordered(&mut self, name: &str, wish: Wish) -> Result<Aim, CommandError> {
        let (disk, unit) = self.place(name)?;
        let this = &self.units[unit];
        if this.asked.is_some() {
            let text = format!("disk {name}: another order for it is being carried out");
            return Err(CommandError::Unavailable(text));
        }
        let refused = |text: &str| Err(CommandError::Invalid(format!("disk {name}{text}")));
        match (wish, &this.state) {
            (Wish::Online, _) if self.is_served(disk, unit) => refused(" is served already"),
            (Wish::Offline, State::Held) => refused(" is offline already"),
            (_, State::Leaving(_) | State::Arriving(_)) => Ok(Aim::Moving),
            (Wish::Offline, State::Serving) if self.is_last(unit) => Ok(Aim::Unit(unit, disk)),
            (_, State::Serving) | (Wish::Offline, State::Away) if !self.is_alone(unit) => {
                let is_away = this.state == State::Away;
                match self.split(unit, disk) {
                    Some(part) => Ok(Aim::Unit(part, disk)),
                    None if is_away => Ok(Aim::Unit(unit, disk)),
                    None => refused(
                        ": the node uses more disks of its controller, and they come and go \
                         together: pull it, or stop the node",
                    ),
                }
            }
            _ => Ok(Aim::Unit(unit, disk)),
        }
    }

    /// Whether a unit has one disk, and the operator holds all others of its adapter.
    fn is_last(&self, unit: usize) -> bool {
        self.units[unit].disks.len() == 1 && self.are_parts_held(unit)
    }

    /// Whether the operator holds all drives of an adapter that are units of their own.
    fn are_parts_held(&self, adapter: usize) -> bool {
        self.parts(adapter).into_iter().all(|part| self.units[part].state == State::Held)
    }

    /// Whether a disk of a unit is served, and takes writes.
    fn is_served(&self, disk: usize, unit: usize) -> bool {
        let counters = self.registry.disk(disk);
        self.units[unit].state == State::Serving && !counters.failed && !counters.offline
    }

    /// Whether a unit is that of one disk, and the only one of its device.
    fn is_alone(&self, unit: usize) -> bool {
        let this = &self.units[unit];
        this.drive.is_some() || (this.disks.len() <= 1 && self.parts(unit).is_empty())
    }

    /// Makes a drive of an adapter a unit of its own. `None`: it is of another kind of controller.
    fn split(&mut self, adapter: usize, disk: usize) -> Option<usize> {
        let port = self.config.disks[disk].port()?;
        let part = self.units[adapter].split(disk, port);
        self.units.push(part);
        Some(self.units.len() - 1)
    }

    /// Looks at a unit once.
    fn look(&mut self, unit: usize) {
        let now = self.clock.now();
        match &self.units[unit].state {
            State::Merged => {}
            State::Serving => match self.units[unit].leaves() {
                Some(reason) if self.gather(unit) => self.retire(unit, &reason),
                // Its drives are on their way; then it leaves.
                Some(_) => {}
                None if self.is_left_alone(unit) => {
                    self.retire(unit, "all its drives are offline");
                }
                None => self.part(unit),
            },
            State::Leaving(answer) => match answer.try_recv() {
                Ok(_) => self.left(unit, now),
                Err(error) if error.is_disconnected() => self.left(unit, now),
                Err(_) => {}
            },
            State::Away if !self.units[unit].idle.is_empty() => {
                let unit = &mut self.units[unit];
                let idle = std::mem::take(&mut unit.idle);
                let part = unit.on_cores();
                unit.state = State::Leaving(retire(&self.calls, &self.waker, idle, part));
            }
            State::Away if self.units[unit].drive.is_some() => self.seek(unit, now),
            State::Away | State::Held => self.find(unit, now),
            State::Arriving(arriving) => {
                let landed = match arriving.answer.try_recv() {
                    Ok(landed) => landed,
                    // The node stops.
                    Err(error) if error.is_disconnected() => {
                        return self.turn_away(unit, Vec::new());
                    }
                    Err(_) => return,
                };
                self.landed(unit, &landed);
            }
        }
    }

    /// Nothing of a unit is left on the cores. Of an adapter that has drives which the operator
    /// holds, the last is one of these: the others are taken online one by one, too.
    fn left(&mut self, unit: usize, now: Duration) {
        self.units[unit].left(now);
        if self.units[unit].state != State::Held || self.parts(unit).is_empty() {
            return;
        }
        self.units[unit].state = State::Away;
        for disk in self.units[unit].disks.clone() {
            if let Some(part) = self.split(unit, disk) {
                self.units[part].state = State::Held;
            }
        }
    }

    /// Has a unit leave the cores.
    fn retire(&mut self, unit: usize, reason: &str) {
        let unit = &mut self.units[unit];
        let reasons = unit.disks.iter().map(|disk| (*disk, reason.to_owned())).collect();
        let part = unit.on_cores();
        unit.state = State::Leaving(retire(&self.calls, &self.waker, reasons, part));
    }

    /// Drives of an adapter that are lost alone leave alone.
    fn part(&mut self, adapter: usize) {
        for port in self.units[adapter].lost_drives() {
            let unit = &self.units[adapter];
            let is_it = |disk: &&usize| self.config.disks[**disk].port() == Some(port);
            let Some(&disk) = unit.disks.iter().find(is_it) else { continue };
            if let Some(part) = self.split(adapter, disk) {
                let now = self.clock.now();
                let [adapter, lost] =
                    self.units.get_disjoint_mut([adapter, part]).expect("they are two");
                adapter.loses(lost, port, now);
                self.retire(part, "it was lost, and is served again when it is back");
            }
        }
    }

    /// Whether the operator has taken every drive of an adapter offline.
    fn is_left_alone(&self, adapter: usize) -> bool {
        let this = &self.units[adapter];
        this.state == State::Serving && this.disks.is_empty() && self.are_parts_held(adapter)
    }

    /// Has the drives of an adapter that are units of their own leave with it, but those that the
    /// operator wants offline; false while one is on its way.
    fn gather(&mut self, adapter: usize) -> bool {
        let parts = self.parts(adapter);
        let is_settled = |unit: &usize| self.units[*unit].is_settled();
        if !parts.iter().all(is_settled) {
            return false;
        }
        for part in parts {
            if !self.is_held(part) {
                self.merge(adapter, part);
            }
        }
        true
    }

    /// A drive is a part of its adapter again, which is not served, or leaves.
    fn merge(&mut self, adapter: usize, part: usize) {
        let part = std::mem::replace(&mut self.units[part], Unit::merged());
        self.units[adapter].merge(part, None);
    }

    /// Has an adapter look for a drive, and opens it when it has been found.
    fn seek(&mut self, unit: usize, now: Duration) {
        if self.is_held(unit) {
            return;
        }
        let adapter = self.adapter_of(unit);
        match self.units[adapter].state {
            State::Serving => {}
            State::Away => return self.merge(adapter, unit),
            // It will be one of the two.
            _ => return,
        }
        let this = &mut self.units[unit];
        let Some(seat) = this.take_seat() else { return this.seek(now) };
        let address = this.device.expect("a drive is of a device");
        match self.open(unit, Some((address, seat))) {
            Ok(arriving) => self.units[unit].state = State::Arriving(Box::new(arriving)),
            Err(reasons) => self.turn_away(unit, reasons),
        }
    }

    /// Whether a unit that is not served is left alone, from now on perhaps, and says so then.
    fn is_held(&mut self, unit: usize) -> bool {
        let was_held = self.units[unit].state == State::Held;
        let is_held = self.units[unit].is_held();
        if is_held && !was_held {
            let disks = self.units[unit].disks.iter().map(|disk| (*disk, HELD.to_owned()));
            let _ = retire(&self.calls, &self.waker, disks.collect(), None);
        }
        is_held
    }

    /// The adapter of a drive that is a unit of its own.
    fn adapter_of(&self, part: usize) -> usize {
        let part = &self.units[part];
        let adapter = self.units.iter().position(|unit| unit.is_parent_of(part));
        adapter.expect("an adapter outlives its drives")
    }

    /// Opens a unit that is not served, if there is hope.
    fn find(&mut self, unit: usize, now: Duration) {
        if self.units[unit].disks.is_empty() || self.is_held(unit) {
            return;
        }
        let sight = self.units[unit].sight(&self.bus, &self.config);
        if !self.units[unit].is_due(&sight, now) {
            return;
        }
        if let Err(reason) = sight {
            return self.units[unit].refused(&reason);
        }
        match self.open(unit, None) {
            Ok(arriving) => self.units[unit].state = State::Arriving(Box::new(arriving)),
            Err(reasons) => self.turn_away(unit, reasons),
        }
    }

    /// Has disks wait that were found and cannot be used, and says why.
    fn turn_away(&mut self, unit: usize, reasons: Vec<(usize, String)>) {
        let unit = &mut self.units[unit];
        unit.refused(&reasons.first().map_or_else(String::new, |(_, reason)| reason.clone()));
        let part = unit.on_cores();
        unit.state = State::Leaving(retire(&self.calls, &self.waker, reasons, part));
    }
}

/// Asks control to have disks leave, each for a reason, and their device or drive to be let go.
fn retire(
    calls: &Sender<Call>,
    waker: &Waker,
    disks: Vec<(usize, String)>,
    part: Option<DevicePart>,
) -> Receiver<()> {
    let (answer, answers) = crossbeam_channel::bounded(1);
    let _ = calls.send(Call::Retire { disks, part, answer });
    waker.wake();
    answers
}

impl<B: Bus> Hotplug<B> {
    fn opener(&self) -> Opener<'_, B> {
        Opener::new(self.bus.clone(), &self.arena, self.clock, self.config.cores.len())
    }
}
