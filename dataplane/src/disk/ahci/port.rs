//! One port while all is well: requests that wait, commands in flight, completions.
//!
//! What a port does otherwise is in `life`, what becomes of requests in `settle`.

use super::super::health::Health;
use super::super::{Completion, Error, Op, Tag};
use super::commands::Question;
use super::drive::DriveFacts;
use super::hba::LIVELY_PERIOD;
use super::life::{State, Then};
use super::link::{Link, PhaseWord, Plea};
use super::memory::PortMemory;
use super::options::{AhciOptions, Trouble};
use super::registers::PortRegisters;
use super::request::{Job, Manner, Request};
use crate::hardware::Registers;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use storage_spec::ahci::{DETECTED_LINK, HostCapabilities, SLOTS_MAX};
use storage_spec::ata::{AtaError, AtaStatus};

/// How often an idle port is looked at, and the age of commands.
const WATCH_PERIOD: Duration = Duration::from_millis(100);
/// How often PxIS is read while commands are in flight: errors of a drive are met at once, in what
/// it sent; those of link and bus by this.
const LOOK_PERIOD: Duration = Duration::from_millis(1);

/// A port with its drive. Driven by one core at a time; `Send`.
pub(super) struct Port<R: Registers> {
    pub(super) registers: PortRegisters<R>,
    /// There until dropped.
    pub(super) memory: Option<PortMemory>,
    pub(super) place: usize,
    pub(super) link: Arc<Link>,
    pub(super) word: PhaseWord,
    pub(super) capabilities: HostCapabilities,
    pub(super) options: AhciOptions,
    /// Whether the adapter may be reset to bring the drive up; for one that is up it may.
    pub(super) may_reset: bool,
    pub(super) was_running: bool,
    pub(super) state: State,
    pub(super) facts: Option<DriveFacts>,
    /// How often the drive has been switched on, as it said last.
    pub(super) power_ons: Option<u32>,
    pub(super) slots: Box<[Option<Request>; SLOTS_MAX]>,
    pub(super) flight: Flight,
    /// Requests that wait.
    pub(super) backlog: VecDeque<Request>,
    /// Requests that wait to go alone, before all others.
    pub(super) suspects: VecDeque<Request>,
    /// Flushes that end with the one in flight.
    pub(super) riders: Vec<Request>,
    pub(super) clients: Vec<Option<Client>>,
    /// A write failed: nothing is written any more.
    pub(super) has_failed: bool,
    pub(super) health: Option<Health>,
    pub(super) trouble: Option<Trouble>,
    /// What registers said of the error that the drive is asked about.
    pub(super) queued_error: (AtaStatus, AtaError),
    pub(super) resets: u32,
    pub(super) last_reset: Duration,
    /// Whether requests pay for the reset that is under way.
    pub(super) is_guilty: bool,
    pub(super) next_watch: Duration,
    pub(super) next_look: Duration,
    pub(super) counters: PortCounters,
}

/// What is in flight.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Flight {
    /// Slots in use.
    pub(super) slots: u32,
    /// Of these, those of which the port has not been told.
    unrung: u32,
    /// Whether they are queued commands.
    pub(super) is_queued: bool,
    /// Whether nothing else may go with it.
    pub(super) is_alone: bool,
}

/// One user of the port: a disk handle.
pub(super) struct Client {
    pub(super) base: u64,
    /// Ended, not yet reported.
    pub(super) ready: VecDeque<Completion>,
    pub(super) in_flight: usize,
}

/// What a port counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PortCounters {
    /// Commands that were started.
    pub commands: u64,
    /// Of these, those for requests that had had one before that did not succeed.
    pub retries: u64,
    /// Requests that ended with an error that was reported.
    pub errors: u64,
    /// Commands that did not end in time.
    pub timeouts: u64,
    /// Errors that the drive reported of commands.
    pub drive_errors: u64,
    /// Resets for trouble of this port.
    pub resets: u64,
}

/// A port of an adapter that has been reset or is about to be.
pub(super) struct NewPort<R> {
    pub(super) registers: PortRegisters<R>,
    pub(super) memory: PortMemory,
    pub(super) place: usize,
    pub(super) link: Arc<Link>,
    pub(super) capabilities: HostCapabilities,
    pub(super) options: AhciOptions,
    /// Whether the adapter may be reset to bring the drive up.
    pub(super) may_reset: bool,
}

impl<R: Registers> Port<R> {
    /// A port that starts with the next phase that it finds.
    pub(super) fn new(new: NewPort<R>) -> Self {
        let NewPort { registers, memory, place, link, capabilities, options, may_reset } = new;
        Self {
            registers,
            memory: Some(memory),
            place,
            link,
            word: PhaseWord::FIRST,
            capabilities,
            options,
            may_reset,
            was_running: false,
            state: State::Halted,
            facts: None,
            power_ons: None,
            slots: Box::new([const { None }; SLOTS_MAX]),
            flight: Flight::default(),
            backlog: VecDeque::new(),
            suspects: VecDeque::new(),
            riders: Vec::new(),
            clients: Vec::new(),
            has_failed: false,
            health: None,
            trouble: None,
            queued_error: (AtaStatus::new(), AtaError::new()),
            resets: 0,
            last_reset: Duration::ZERO,
            is_guilty: false,
            next_watch: Duration::ZERO,
            next_look: Duration::ZERO,
            counters: PortCounters::default(),
        }
    }

    pub(super) fn facts(&self) -> &DriveFacts {
        self.facts.as_ref().expect("it is only asked once it is identified")
    }

    pub(super) fn memory(&self) -> &PortMemory {
        self.memory.as_ref().expect("there until dropped")
    }

    pub(super) fn is_running(&self) -> bool {
        matches!(self.state, State::Running)
    }

    /// Whether it waits for a drive to show up, or to become ready, which may take seconds.
    pub(super) fn awaits_drive(&self) -> bool {
        matches!(self.state, State::Linking { .. } | State::Waking { .. })
    }

    /// Why it has ended, if it has.
    pub(super) fn end(&self) -> Option<&Trouble> {
        matches!(self.state, State::Ended(_)).then(|| self.trouble.as_ref())?
    }

    pub(super) fn has_ended(&self) -> bool {
        matches!(self.state, State::Ended(_))
    }

    /// When it wants to be looked at, if nothing of it is in flight.
    pub(super) fn deadline(&self, now: Duration) -> Option<Duration> {
        match self.state {
            // Whoever ends this wakes the core.
            State::Halted | State::Pleading | State::Ended(_) => None,
            State::Running => Some(self.next_watch),
            _ => Some(now + LIVELY_PERIOD),
        }
    }

    pub(super) fn add_client(&mut self, base: u64) -> u16 {
        let depth = SLOTS_MAX;
        let client = Client { base, ready: VecDeque::with_capacity(depth), in_flight: 0 };
        let place = self.clients.iter().position(Option::is_none).unwrap_or_else(|| {
            self.clients.push(None);
            self.clients.len() - 1
        });
        self.clients[place] = Some(client);
        let most = depth * self.clients.len() + 1;
        self.backlog.reserve(most);
        self.suspects.reserve(most);
        self.riders.reserve(most);
        u16::try_from(place).expect("no more than 65535 handles")
    }

    /// The handle is dropped. A caller that keeps the contract has nothing in flight; what is
    /// nevertheless ends unreported.
    pub(super) fn remove_client(&mut self, client: u16) {
        let slot = &mut self.clients[usize::from(client)];
        if slot.as_ref().is_some_and(|client| client.in_flight == 0) {
            *slot = None;
        }
    }

    pub(super) fn client(&mut self, client: u16) -> &mut Client {
        self.clients[usize::from(client)].as_mut().expect("there until dropped")
    }

    pub(super) fn in_flight(&self, client: u16) -> usize {
        self.clients[usize::from(client)].as_ref().expect("there until dropped").in_flight
    }

    pub(super) fn all_in_flight(&self) -> usize {
        self.clients.iter().flatten().map(|client| client.in_flight).sum()
    }

    pub(super) fn is_idle(&self) -> bool {
        self.flight.slots == 0
            && self.backlog.is_empty()
            && self.suspects.is_empty()
            && self.riders.is_empty()
    }

    #[inline]
    pub(super) fn submit(&mut self, client: u16, tag: Tag, op: Op, now: Duration) {
        let of = self.client(client);
        of.in_flight += 1;
        let base = of.base;
        let request = Request::new(Job::Op { client, tag, op }, base);
        if let Some(result) = self.outcome_at_once(&request) {
            return self.finish(request, result);
        }
        self.backlog.push_back(request);
        if self.is_running() {
            self.start_waiting(now);
        }
    }

    /// Has the drive asked how it fares, if that is not on its way already.
    pub(super) fn ask_health(&mut self) {
        let is_health = |request: &Request| matches!(request.job, Job::Health);
        let is_asked = self.slots.iter().flatten().any(is_health)
            || self.backlog.iter().any(is_health)
            || self.suspects.iter().any(is_health);
        if self.facts().smart && !is_asked && !matches!(self.state, State::Ended(_)) {
            self.backlog.push_back(Request::new(Job::Health, 0));
        }
    }

    /// Has the drive made ready for a loss of its power, once all before has ended.
    pub(super) fn rest(&mut self) {
        let facts = self.facts();
        if (facts.unloads || !facts.is_rotational) && !self.has_ended() {
            self.backlog.push_back(Request::new(Job::Rest, 0));
        }
    }

    /// Advances everything; what has ended for `client` is appended to `done`.
    #[inline]
    pub(super) fn poll(&mut self, client: u16, done: &mut Vec<Completion>, now: Duration) {
        self.advance(now);
        let client = self.client(client);
        if !client.ready.is_empty() {
            let room = (done.capacity() - done.len()).min(client.ready.len());
            done.extend(client.ready.drain(..room));
            client.in_flight -= room;
        }
    }

    /// Advances everything.
    #[inline]
    pub(super) fn advance(&mut self, now: Duration) {
        let word = self.link.word();
        if word != self.word {
            self.take_over(word, now);
        }
        if !self.is_running() {
            return self.live(now);
        }
        self.ring();
        self.reap(now);
        if self.is_running() {
            self.start_waiting(now);
            self.ring();
            if now >= self.next_watch {
                self.watch(now);
            }
        }
    }

    /// Starts what may be started; the port is told by [`Self::ring`].
    #[inline]
    fn start_waiting(&mut self, now: Duration) {
        while let Some((request, manner)) = self.next_to_start() {
            if let Some(result) = self.outcome_at_once(&request) {
                self.finish(request, result);
                continue;
            }
            self.start(request, manner, now);
        }
    }

    fn next_to_start(&mut self) -> Option<(Request, Manner)> {
        let flight = self.flight;
        if flight.is_alone {
            return None;
        }
        let facts = self.facts.as_ref().expect("a running port has been identified");
        if let Some(request) = self.suspects.front() {
            let manner = request.manner(facts, &self.options);
            return if flight.slots == 0 {
                self.suspects.pop_front().map(|request| (request, manner))
            } else {
                None
            };
        }
        let manner = self.backlog.front()?.manner(facts, &self.options);
        let may_start = match manner {
            Manner::Queued => flight.slots.count_ones() < u32::from(facts.queue.unwrap_or(1)),
            Manner::Alone | Manner::Flush => flight.slots == 0,
        };
        if !may_start {
            return None;
        }
        self.backlog.pop_front().map(|request| (request, manner))
    }

    #[inline]
    fn start(&mut self, mut request: Request, manner: Manner, now: Duration) {
        let slot = (!self.flight.slots).trailing_zeros() as usize;
        let facts = self.facts.as_ref().expect("a running port has been identified");
        let memory = self.memory.as_ref().expect("there until dropped");
        memory.write_request(slot, &request, facts, &self.options);
        request.since = now;
        self.flight.is_queued = manner == Manner::Queued;
        self.flight.is_alone = manner != Manner::Queued || request.is_suspect;
        self.flight.slots |= 1 << slot;
        self.flight.unrung |= 1 << slot;
        self.counters.commands += 1;
        self.counters.retries += u64::from(request.retries > 0 || request.is_suspect);
        self.slots[slot] = Some(request);
        if manner == Manner::Flush {
            // What waits for a flush was told to us before this one begins.
            for _ in 0..self.backlog.len() {
                let Some(other) = self.backlog.pop_front() else { break };
                if other.manner(facts, &self.options) == Manner::Flush {
                    self.riders.push(other);
                } else {
                    self.backlog.push_back(other);
                }
            }
        }
    }

    /// Tells the port of what was started, all at once.
    #[inline]
    fn ring(&mut self) {
        let slots = std::mem::take(&mut self.flight.unrung);
        if slots == 0 {
            return;
        }
        if self.flight.is_queued {
            self.registers.set_active(slots);
        }
        self.registers.issue(slots);
    }

    #[inline]
    fn reap(&mut self, now: Duration) {
        let flight = self.flight;
        if flight.slots == 0 {
            return;
        }
        let busy = if flight.is_queued { self.registers.active() } else { self.registers.issued() };
        if busy & !flight.slots != 0 {
            return self.suspect(now);
        }
        let ended = flight.slots & !busy;
        if ended == 0 {
            if self.memory().tells_error() || now >= self.next_look {
                self.next_look = now + LOOK_PERIOD;
                self.look(now);
            }
            return;
        }
        // What has not been sent has not ended. Where an error is told in the same breath nothing
        // is taken to have ended: all of it is tried again.
        let is_unsent = flight.is_queued && self.registers.issued() & ended != 0;
        if is_unsent {
            return self.suspect(now);
        }
        if self.memory().tells_error() {
            return self.look(now);
        }
        // The registers of a port that has lost its state say that all has ended.
        let is_vouched = flight.is_queued && ended & !self.memory().take_ended() == 0;
        if is_vouched || self.still_runs(now) {
            self.succeed(ended);
        }
    }

    /// Whether the port has not forgotten that it was started.
    pub(super) fn still_runs(&mut self, now: Duration) -> bool {
        match self.registers.command() {
            None => self.plead(Plea::Gone),
            Some(command) if !command.start() => self.reset_for(Trouble::LostState, now),
            Some(_) => return true,
        }
        false
    }

    /// Registers tell of commands that are not in flight: it is gone, or talks nonsense.
    fn suspect(&mut self, now: Duration) {
        if self.registers.command().is_none() {
            return self.plead(Plea::Gone);
        }
        self.reset_for(Trouble::Nonsense, now);
    }

    /// Looks what has happened besides completions.
    pub(super) fn look(&mut self, now: Duration) {
        let Some(happened) = self.registers.happened() else { return self.plead(Plea::Gone) };
        if happened.connect_change() || happened.phy_change() {
            return self.unplugged(now);
        }
        if happened.bus_fatal() || happened.bus_data() {
            return self.reset_for(Trouble::Bus, now);
        }
        if happened.overflow() {
            return self.reset_for(Trouble::Overflow, now);
        }
        if happened.interface() {
            return self.reset_for(Trouble::Interface, now);
        }
        // The status alone says nothing: it stays as an error left it until the next command ends.
        let (status, error) = self.registers.task_file();
        let is_told = self.memory().tells_error() && (status.error() || status.fault());
        if happened.task_file() || is_told {
            self.counters.drive_errors += 1;
            self.stop(Then::Restart(status, error), now);
        }
    }

    /// Looks from time to time whether all is still well.
    fn watch(&mut self, now: Duration) {
        self.next_watch = now + WATCH_PERIOD;
        let Some(command) = self.registers.command() else { return self.plead(Plea::Gone) };
        if !command.start() || !command.receive() {
            return self.reset_for(Trouble::LostState, now);
        }
        if self.registers.link().detection() != DETECTED_LINK {
            return self.unplugged(now);
        }
        self.look(now);
        if !self.is_running() {
            return;
        }
        let is_late = |request: &Request| now.saturating_sub(request.since) >= self.options.timeout;
        let late = self.slots.iter().flatten().filter(|request| is_late(request)).count();
        if late > 0 {
            self.counters.timeouts += late as u64;
            self.reset_for(Trouble::Timeout, now);
        }
    }

    /// Asks the drive which queued command failed.
    pub(super) fn ask_queued_error(&mut self, now: Duration) {
        self.ask(Question::QueuedError, now);
    }

    fn unplugged(&mut self, now: Duration) {
        self.stop(Then::End(Error::Removed, Trouble::Removed), now);
    }
}

impl<R: Registers> Drop for Port<R> {
    fn drop(&mut self) {
        let memory = self.memory.take();
        let slots = std::mem::replace(&mut self.slots, Box::new([const { None }; SLOTS_MAX]));
        // One that ended and did not stop may still use its memory.
        let is_stuck = self.trouble == Some(Trouble::PortStuck);
        let is_over = matches!(self.state, State::Ended(_)) && !is_stuck;
        let left: Option<Box<dyn Send>> =
            if is_over { None } else { Some(Box::new((memory, slots))) };
        self.link.leave(self.place, left);
    }
}
