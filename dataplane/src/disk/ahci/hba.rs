//! The adapter's life, on its home core: taken over, reset, searched for drives, ended.
//!
//! ```text
//!  start ─▶ HandingOver ─▶ Resetting ─▶ Running ─▶ Ended
//!                              ▲           │
//!                              └─ Stopping ┘
//! ```
//!
//! Nothing here waits: [`AhciHba::poll`] looks once at what the state waits for. A reset while
//! ports are on other cores begins when all of these have let go of their registers (see `link`).
//! The end of an adapter that may not obey is the drop of its [`Device`]: then it reaches memory no
//! more, and only then do the ports let go of the buffers in flight.

use super::disk::AhciSeat;
use super::link::{Left, Link, Phase, Plea};
use super::memory::PortMemory;
use super::options::{AhciOptions, Trouble};
use super::port::{NewPort, Port};
use super::registers::{HostRegisters, PortRegisters};
use crate::hardware::{Device, Presence, Registers};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use storage_spec::ahci::{GlobalControl, Handoff, HostCapabilities, PORTS_MAX, port_registers};

/// The firmware hands over within this time, or is taken to be gone (AHCI, section 10.6.3).
const HANDOFF_TIMEOUT: Duration = Duration::from_secs(2);
/// A reset ends within this time (AHCI, section 10.4.3), with something to spare.
const RESET_TIMEOUT: Duration = Duration::from_secs(2);
/// How often GHC is read while all is well.
const WATCH_PERIOD: Duration = Duration::from_millis(100);
/// How often it is looked at while it changes.
pub(super) const LIVELY_PERIOD: Duration = Duration::from_millis(1);
/// How often while it waits for a drive to show up.
const DRIVE_PERIOD: Duration = Duration::from_millis(10);
/// Events that nobody took; older ones are forgotten.
const EVENTS_MAX: usize = 256;

/// What an adapter has to tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AhciEvent {
    /// A port has a drive: see [`AhciHba::take_seat`].
    Found(u8),
    /// What is on a port cannot be driven.
    Refused(u8, Trouble),
    /// The adapter is being reset; requests of all its ports wait.
    Resetting,
    /// It has ended for good.
    Ended(Trouble),
}

/// An adapter. Lives on one core, its home, whose reactor polls it; `Send`, so that it may be
/// brought up elsewhere. It must be polled for as long as its ports are in use: they ask it for
/// resets. When it is dropped all its ports end.
pub struct AhciHba<D: Device> {
    name: String,
    /// Gone at the end.
    device: Option<D>,
    registers: D::Registers,
    options: AhciOptions,
    state: State,
    link: Arc<Link>,
    capabilities: HostCapabilities,
    /// One for each port that there may be, by its number.
    ports: Vec<Place<D>>,
    seats: VecDeque<AhciSeat<D::Registers>>,
    events: VecDeque<AhciEvent>,
    next_watch: Duration,
}

enum Place<D: Device> {
    /// The adapter has no such port.
    None,
    /// Somebody else's, or nobody's.
    Away,
    /// Being searched.
    Here(Box<Port<D::Registers>>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    Start,
    HandingOver {
        until: Duration,
    },
    Resetting {
        until: Duration,
    },
    Running,
    /// Waits for the ports to let go.
    Stopping,
    Ended(Trouble),
}

impl<D: Device> AhciHba<D> {
    /// An adapter in whatever state a former owner left it. Nothing is done before the first poll.
    #[must_use]
    pub fn new(device: D, options: AhciOptions) -> Self {
        assert!((1..=32).contains(&options.depth), "a depth of {}", options.depth);
        Self {
            name: device.name().to_owned(),
            registers: device.registers(),
            device: Some(device),
            options,
            state: State::Start,
            link: Arc::new(Link::new(PORTS_MAX)),
            capabilities: HostCapabilities::new(),
            ports: Vec::new(),
            seats: VecDeque::new(),
            events: VecDeque::new(),
            next_watch: Duration::ZERO,
        }
    }

    /// Where it is plugged in.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it runs, and has looked at all its ports.
    #[must_use]
    pub fn is_searched(&self) -> bool {
        let is_here = |place: &Place<D>| matches!(place, Place::Here(_));
        self.state == State::Running && !self.ports.iter().any(is_here)
    }

    /// Why it has ended, if it has.
    #[must_use]
    pub fn end(&self) -> Option<&Trouble> {
        match &self.state {
            State::Ended(trouble) => Some(trouble),
            _ => None,
        }
    }

    /// A port with a drive that nobody has taken yet, in the order in which they were found.
    pub fn take_seat(&mut self) -> Option<AhciSeat<D::Registers>> {
        self.seats.pop_front()
    }

    /// As [`AhciHba::take_seat`], that of one port.
    pub fn take_seat_of(&mut self, port: u8) -> Option<AhciSeat<D::Registers>> {
        let at = self.seats.iter().position(|seat| seat.number == port)?;
        self.seats.remove(at)
    }

    /// The ports whose drives nobody has taken yet.
    pub fn untaken(&self) -> impl Iterator<Item = u8> {
        self.seats.iter().map(|seat| seat.number)
    }

    /// Whether no core drives a port of it, and those that were dropped have stopped.
    #[must_use]
    pub fn is_deserted(&self) -> bool {
        self.link.is_deserted()
    }

    /// When it wants to be polled even if nothing comes.
    #[must_use]
    pub fn deadline(&self, now: Duration) -> Option<Duration> {
        match self.state {
            State::Ended(_) => None,
            State::Running => Some(self.search_deadline(now).min(self.next_watch)),
            _ => Some(now + LIVELY_PERIOD),
        }
    }

    fn search_deadline(&self, now: Duration) -> Duration {
        let period = |place: &Place<D>| match place {
            Place::Here(port) if port.awaits_drive() => DRIVE_PERIOD,
            Place::Here(_) => LIVELY_PERIOD,
            Place::None | Place::Away => Duration::MAX,
        };
        now.saturating_add(self.ports.iter().map(period).min().unwrap_or(Duration::MAX))
    }

    /// The next event.
    pub fn take_event(&mut self) -> Option<AhciEvent> {
        self.events.pop_front()
    }

    /// Looks at all ports that nobody has: for drives that were plugged in since. Those whose
    /// drive is gone are looked at once their handles are.
    ///
    /// # Errors
    /// Memory for a port could not be had.
    pub fn probe(&mut self) -> Result<(), Trouble> {
        (0..self.ports.len() as u8).try_for_each(|port| match self.probe_port(port) {
            Err(Trouble::Empty) | Ok(_) => Ok(()),
            Err(trouble) => Err(trouble),
        })
    }

    /// As [`AhciHba::probe`], at one port. Returns whether it is looked at now: not while somebody
    /// has it.
    ///
    /// # Errors
    /// [`Trouble::Empty`] where the adapter has no such port, and as there.
    pub fn probe_port(&mut self, port: u8) -> Result<bool, Trouble> {
        let number = usize::from(port);
        match self.ports.get(number) {
            None | Some(Place::None) => return Err(Trouble::Empty),
            Some(Place::Here(_)) => return Ok(true),
            Some(Place::Away) => {}
        }
        let Some(device) = &self.device else { return Ok(false) };
        // Nobody's adapter is reset for a drive that others are served beside.
        let may_reset = self.link.is_deserted();
        if !self.link.occupy(number) {
            return Ok(false);
        }
        let memory = match device.allocate(PortMemory::BYTES) {
            Ok(memory) => PortMemory::new(memory, device.arena().clone()),
            Err(error) => {
                self.link.leave(number, None);
                return Err(Trouble::System(error.to_string()));
            }
        };
        let (_, last) = memory.bases();
        let is_low = device.arena().end().max(last + PortMemory::BYTES as u64) <= 1 << 32;
        if !self.capabilities.address_64() && !is_low {
            self.link.leave(number, None);
            return Err(Trouble::Unsupported("memory above 4 GiB"));
        }
        self.ports[number] = Place::Here(Box::new(Port::new(NewPort {
            registers: PortRegisters::new(self.registers.clone(), port),
            memory,
            place: number,
            link: Arc::clone(&self.link),
            capabilities: self.capabilities,
            options: self.options,
            may_reset,
        })));
        Ok(true)
    }

    /// Whether a port is being looked at.
    #[must_use]
    pub fn is_searching(&self, port: u8) -> bool {
        matches!(self.ports.get(usize::from(port)), Some(Place::Here(_)))
    }

    /// Advances everything. Never waits.
    pub fn poll(&mut self, now: Duration) {
        if self.device.as_ref().is_some_and(|device| device.presence() != Presence::Present) {
            self.finish(Trouble::Removed);
        }
        match self.state {
            State::Start => self.begin(now),
            State::HandingOver { until } => self.hand_over(until, now),
            State::Resetting { until } => self.follow_reset(until, now),
            State::Running => self.watch(now),
            State::Stopping => {
                if self.link.is_answered() {
                    self.reset(now);
                }
            }
            State::Ended(_) => {}
        }
        self.search(now);
    }

    fn begin(&mut self, now: Duration) {
        let Some(capabilities) = self.registers.capabilities_2() else {
            return self.finish(Trouble::Removed);
        };
        self.registers.set_control(GlobalControl::new().with_enable(true));
        if !capabilities.handoff() || !self.registers.handoff().firmware_owned() {
            return self.reset(now);
        }
        let handoff = self.registers.handoff();
        self.registers.set_handoff(handoff.with_system_owned(true));
        self.state = State::HandingOver { until: now + HANDOFF_TIMEOUT };
    }

    fn hand_over(&mut self, until: Duration, now: Duration) {
        let handoff = self.registers.handoff();
        if u32::from(handoff) == u32::MAX {
            return self.finish(Trouble::Removed);
        }
        if !handoff.firmware_owned() && !handoff.busy() {
            return self.reset(now);
        }
        if now >= until {
            // It does not answer: there is nobody.
            self.registers.set_handoff(Handoff::new().with_system_owned(true));
            self.reset(now);
        }
    }

    fn reset(&mut self, now: Duration) {
        let enabled = GlobalControl::new().with_enable(true);
        self.registers.set_control(enabled);
        self.registers.set_control(enabled.with_reset(true));
        self.state = State::Resetting { until: now + RESET_TIMEOUT };
    }

    fn follow_reset(&mut self, until: Duration, now: Duration) {
        let Some(control) = self.registers.control() else {
            return self.finish(Trouble::Removed);
        };
        if control.reset() {
            if now >= until {
                self.finish(Trouble::ResetStuck);
            }
            return;
        }
        self.registers.set_control(GlobalControl::new().with_enable(true));
        let Some(capabilities) = self.registers.capabilities() else {
            return self.finish(Trouble::Removed);
        };
        // Ports do nothing before they are told; what they asked for before has been done.
        self.link.sweep_left(|_| false);
        let _ = self.link.take_plea();
        if self.ports.is_empty() {
            self.capabilities = capabilities;
            let implemented = self.registers.ports();
            let size = self.registers.size();
            let place = |port: usize| {
                // Whatever it says, its registers have to lie in the window.
                let has_registers = port_registers(port as u8 + 1) <= size;
                let is_there = implemented >> port & 1 == 1 && has_registers;
                if is_there { Place::Away } else { Place::None }
            };
            self.ports = (0..PORTS_MAX).map(place).collect();
            if let Err(trouble) = self.probe() {
                return self.finish(trouble);
            }
        }
        self.state = State::Running;
        self.next_watch = now + WATCH_PERIOD;
        self.link.set_phase(Phase::Running);
    }

    fn watch(&mut self, now: Duration) {
        if now >= self.next_watch {
            self.next_watch = now + WATCH_PERIOD;
            let Some(control) = self.registers.control() else {
                return self.finish(Trouble::Removed);
            };
            if !control.enable() || control.reset() {
                return self.stop();
            }
            self.sweep();
        }
        match self.link.take_plea() {
            None => {}
            // A port met all ones, or does not stop even after a reset.
            Some(Plea::Gone) => self.finish(match self.registers.control() {
                None => Trouble::Removed,
                Some(_) => Trouble::PortStuck,
            }),
            Some(Plea::Reset) => self.stop(),
        }
    }

    fn stop(&mut self) {
        self.tell(AhciEvent::Resetting);
        self.state = State::Stopping;
        self.link.set_phase(Phase::Stop);
    }

    /// Stops ports that were dropped, and frees what they used when they have; [`AhciHba::poll`]
    /// does it now and then.
    pub fn sweep(&self) {
        if self.state != State::Running {
            return;
        }
        let has_stopped = |left: &Left| {
            let port = PortRegisters::new(self.registers.clone(), left.place as u8);
            let Some(command) = port.command() else { return false };
            if command.start() {
                port.set_command(command.with_start(false));
            } else if !command.is_running() && command.receive() {
                port.set_command(command.with_receive(false));
            }
            !command.start() && !command.is_running() && !command.is_receiving()
        };
        self.link.sweep_left(|left| !has_stopped(left));
    }

    /// Advances the ports that are being searched.
    fn search(&mut self, now: Duration) {
        for number in 0..self.ports.len() {
            let Place::Here(port) = &mut self.ports[number] else { continue };
            port.advance(now);
            let end = port.end().cloned();
            if !port.is_running() && end.is_none() {
                continue;
            }
            let place = std::mem::replace(&mut self.ports[number], Place::Away);
            let Place::Here(port) = place else { unreachable!("it was just looked at") };
            let number = number as u8;
            match end {
                None => {
                    let name = format!("{}/{number}", self.name);
                    self.seats.push_back(AhciSeat { name, number, port: *port });
                    self.tell(AhciEvent::Found(number));
                }
                Some(Trouble::Empty) => {}
                Some(trouble) => self.tell(AhciEvent::Refused(number, trouble)),
            }
        }
    }

    /// Ends for good.
    fn finish(&mut self, trouble: Trouble) {
        self.let_go();
        let is_gone = trouble == Trouble::Removed;
        self.link.set_phase(if is_gone { Phase::Removed } else { Phase::Failed });
        self.link.sweep_left(|_| false);
        self.seats.clear();
        self.tell(AhciEvent::Ended(trouble.clone()));
        self.state = State::Ended(trouble);
    }

    /// The adapter loses its access to memory. What it has in hand is ended by a reset before:
    /// whoever takes it next, or unplugs it, finds it at rest.
    fn let_go(&mut self) {
        let is_ours = matches!(self.state, State::Running | State::Stopping);
        if self.device.is_some() && is_ours && self.registers.control().is_some() {
            let reset = GlobalControl::new().with_enable(true).with_reset(true);
            self.registers.set_control(reset);
        }
        self.device = None;
    }

    fn tell(&mut self, event: AhciEvent) {
        if self.events.len() == EVENTS_MAX {
            self.events.pop_front();
        }
        self.events.push_back(event);
    }
}

impl<D: Device> Drop for AhciHba<D> {
    fn drop(&mut self) {
        self.let_go();
        self.link.set_phase(Phase::Removed);
        self.link.sweep_left(|_| false);
    }
}
