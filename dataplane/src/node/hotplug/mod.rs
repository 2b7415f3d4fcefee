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

use super::commands::Call;
use super::controllers::{Dealt, Opener};
use super::disks::{Disks, Known};
use super::watch::Watched;
use super::{Answer, CommandError, DiskConfig, DiskSource, NodeConfig, Registry};
use crate::core::Clock;
use crate::dma::{Arena, Pool};
use crate::pci::{Machine, PciAddress};
use crate::uring::Waker;
use crate::vfio::Vfio;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, unbounded};
use std::rc::Rc;
use std::time::Duration;
use unit::{State, Unit};

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

/// What the thread works with.
pub(super) struct Parts {
    pub(super) config: NodeConfig,
    pub(super) clock: Clock,
    pub(super) late: Late,
    pub(super) calls: Sender<Call>,
    pub(super) waker: Waker,
    pub(super) registry: Registry,
    pub(super) watch: Sender<Watched>,
}

/// What disks are opened with that come later; and the controllers that the cores have.
pub(super) struct Late {
    pub(super) vfio: Vfio,
    pub(super) arena: Arena,
    pub(super) pool: Pool,
    pub(super) dealt: Vec<Dealt>,
}

/// Starts the thread for the disks as they were opened at start. It ends when what is returned is
/// dropped.
pub(super) fn start(parts: Parts, disks: &Disks) -> Sender<Ask> {
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

fn units(parts: &Parts, disks: &Disks) -> Vec<Unit> {
    let mut units: Vec<Unit> = Vec::new();
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
    units
}

struct Hotplug {
    config: NodeConfig,
    clock: Clock,
    vfio: Vfio,
    arena: Arena,
    pool: Rc<Pool>,
    calls: Sender<Call>,
    waker: Waker,
    registry: Registry,
    watch: Sender<Watched>,
    machine: Machine,
    units: Vec<Unit>,
    /// What is known of each disk that was there in this life of the node.
    known: Vec<Option<Known>>,
}

impl Hotplug {
    fn new(parts: Parts, units: Vec<Unit>, known: Vec<Option<Known>>) -> Self {
        let Parts { config, clock, late, calls, waker, registry, watch } = parts;
        let Late { vfio, arena, pool, .. } = late;
        let (pool, machine) = (Rc::new(pool), Machine::this());
        Self {
            config,
            clock,
            vfio,
            arena,
            pool,
            calls,
            waker,
            registry,
            watch,
            machine,
            units,
            known,
        }
    }

    fn run(mut self, asked: &Receiver<Ask>) {
        loop {
            let is_lively = self.units.iter().any(Unit::is_moving);
            match asked.recv_timeout(if is_lively { LIVELY_PERIOD } else { PERIOD }) {
                Ok(ask) => self.obey(ask),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            for unit in 0..self.units.len() {
                self.look(unit);
            }
        }
    }

    /// Takes an order, or refuses it.
    fn obey(&mut self, ask: Ask) {
        let Ask { disk: name, wish, answer } = ask;
        let of_name = |(number, disk): (usize, &DiskConfig)| disk.name(number) == name;
        let unit = self
            .config
            .disks
            .iter()
            .enumerate()
            .position(of_name)
            .map(|disk| (disk, self.units.iter_mut().find(|unit| unit.disks.contains(&disk))));
        let refused = match unit {
            None => {
                CommandError::NotFound(format!("the node has no disk {name}: see `basalt node`"))
            }
            Some((_, None)) => CommandError::Invalid("a disk in memory stays".into()),
            Some((_, Some(unit))) if unit.asked.is_some() => {
                let text = format!("disk {name}: another order for it is being carried out");
                CommandError::Unavailable(text)
            }
            Some((_, Some(unit))) if unit.disks.len() > 1 && unit.state == State::Serving => {
                let others = unit.disks.len() - 1;
                CommandError::Invalid(format!(
                    "disk {name}: its controller has {others} more that the node uses, and they \
                     come and go together: pull it, or stop the node"
                ))
            }
            Some((disk, Some(unit))) => {
                let has_failed = self.registry.disk(disk).failed;
                match (wish, &unit.state) {
                    (Wish::Online, State::Serving) if !has_failed => {
                        CommandError::Invalid(format!("disk {name} is served already"))
                    }
                    (Wish::Offline, State::Held) => {
                        CommandError::Invalid(format!("disk {name} is offline already"))
                    }
                    _ => {
                        unit.ask(wish, answer);
                        return;
                    }
                }
            }
        };
        let _ = answer.send(Err(refused));
    }

    /// Looks at a unit once.
    fn look(&mut self, unit: usize) {
        let now = self.clock.now();
        match &self.units[unit].state {
            State::Serving => {
                if let Some(reason) = self.units[unit].leaves() {
                    self.retire(unit, &reason);
                }
            }
            State::Leaving(answer) => match answer.try_recv() {
                Ok(_) => self.units[unit].left(now),
                Err(error) if error.is_disconnected() => self.units[unit].left(now),
                Err(_) => {}
            },
            State::Away if !self.units[unit].idle.is_empty() => {
                let unit = &mut self.units[unit];
                let idle = std::mem::take(&mut unit.idle);
                unit.state = State::Leaving(retire(&self.calls, &self.waker, idle, unit.device));
            }
            State::Away | State::Held => self.find(unit, now),
            State::Arriving(arriving) => {
                let landed = match arriving.answer.try_recv() {
                    Ok(landed) => landed,
                    Err(error) if error.is_disconnected() => {
                        return self.units[unit].left(now);
                    }
                    Err(_) => return,
                };
                self.landed(unit, &landed);
            }
        }
    }

    /// Has a unit leave the cores.
    fn retire(&mut self, unit: usize, reason: &str) {
        let unit = &mut self.units[unit];
        let reasons = unit.disks.iter().map(|disk| (*disk, reason.to_owned())).collect();
        unit.state = State::Leaving(retire(&self.calls, &self.waker, reasons, unit.device));
    }

    /// Opens a unit that is not served, if there is hope.
    fn find(&mut self, unit: usize, now: Duration) {
        let sight = self.units[unit].sight(&self.machine, &self.config);
        if !self.units[unit].is_due(&sight, now) {
            return;
        }
        if let Err(reason) = sight {
            return self.units[unit].refused(&reason);
        }
        match self.open(unit) {
            Ok(arriving) => self.units[unit].state = State::Arriving(Box::new(arriving)),
            Err(reasons) => self.turn_away(unit, reasons),
        }
    }

    /// Has disks wait that were found and cannot be used, and says why.
    fn turn_away(&mut self, unit: usize, reasons: Vec<(usize, String)>) {
        let unit = &mut self.units[unit];
        unit.refused(&reasons.first().map_or_else(String::new, |(_, reason)| reason.clone()));
        unit.state = State::Leaving(retire(&self.calls, &self.waker, reasons, unit.device));
    }
}

/// Asks control to have disks leave, each for a reason, and a device to be let go.
fn retire(
    calls: &Sender<Call>,
    waker: &Waker,
    disks: Vec<(usize, String)>,
    device: Option<PciAddress>,
) -> Receiver<()> {
    let (answer, answers) = crossbeam_channel::bounded(1);
    let _ = calls.send(Call::Retire { disks, device, answer });
    waker.wake();
    answers
}

impl Hotplug {
    fn opener(&self) -> Opener<'_> {
        Opener::new(self.vfio.clone(), &self.arena, self.clock, self.config.cores.len())
    }
}
