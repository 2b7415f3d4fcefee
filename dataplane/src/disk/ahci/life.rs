//! A port's life but for the time when all is well: start, recovery, reset, end.
//!
//! ```text
//!  Halted ─▶ Stopping ─▶ Resetting ─▶ Linking ─▶ Waking ─▶ Asking ─▶ Running
//!    ▲          │  ▲                                       ▲          │
//!    │          │  └──────────── trouble, or unplugged ────┼──────────┤
//!    │          ├──────────────▶ Ended                     │          │
//!    │          └── the drive reported an error ───────────┘          │
//!    └───────── Pleading ◀── nothing but a reset of the adapter helps ┘
//! ```
//!
//! Nothing here waits: [`Port::live`] looks once at what the state waits for.

use super::super::{Error, health};
use super::commands::Question;
use super::drive::DriveFacts;
use super::link::{Phase, PhaseWord, Plea};
use super::options::Trouble;
use super::port::Port;
use crate::hardware::Registers;
use std::time::Duration;
use storage_spec::ahci::{DETECTED_LINK, DETECTION_RESET, LINK_ACTIVE, LinkControl, PortCommand};
use storage_spec::ata::{
    AtaError, AtaStatus, IdentifyDevice, SIGNATURE_DISK, SIGNATURE_MULTIPLIER,
};
use zerocopy::FromBytes;

/// A port stops within this time (AHCI, section 10.1.2), with something to spare.
const STOP_TIMEOUT: Duration = Duration::from_millis(1000);
/// A link is reset for this long; at least 1 ms is asked for.
const RESET_TIME: Duration = Duration::from_millis(2);
/// A drive that is there is met within this time.
const LINK_TIMEOUT: Duration = Duration::from_secs(1);
/// A drive that has to spin up first is ready within this time.
const WAKE_TIMEOUT: Duration = Duration::from_secs(30);
/// A command of our own ends within this time.
const ASK_TIMEOUT: Duration = Duration::from_secs(10);
/// Resets are in a row if less than this time, and that of a timeout, passes between them.
const STABLE_AFTER: Duration = Duration::from_secs(30);
/// Resets in a row that concern the link alone.
const LINK_RESETS_MAX: u32 = 2;
/// Power states that the link may not enter by itself: partial, slumber and device sleep.
const NO_POWER_STATES: u8 = 7;

/// What a port is at. Times are those at which patience ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum State {
    /// The adapter is being reset.
    Halted,
    /// The port is to stop.
    Stopping { then: Then, until: Duration },
    /// The link is being reset until that time, which is not known before the next look: between
    /// the last one and the write of the register the thread may have stood still.
    Resetting { until: Option<Duration> },
    /// The drive is to show up.
    Linking { until: Duration },
    /// The drive is to become ready.
    Waking { until: Duration },
    /// A command of our own is in flight.
    Asking { question: Question, until: Duration },
    /// All is well.
    Running,
    /// Waits for the adapter.
    Pleading,
    /// For good. The port writes memory no more.
    Ended(Error),
}

/// What comes when a port has stopped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Then {
    /// The drive has reported an error: it goes on after that.
    Restart(AtaStatus, AtaError),
    /// Its link is reset.
    Reset,
    /// It ends.
    End(Error, Trouble),
}

impl<R: Registers> Port<R> {
    /// Follows the adapter.
    pub(super) fn take_over(&mut self, word: PhaseWord, now: Duration) {
        self.word = word;
        let is_over = matches!(self.state, State::Ended(_));
        match word.phase() {
            _ if is_over => {}
            Phase::Stop => self.state = State::Halted,
            Phase::Running => {
                let pays = std::mem::take(&mut self.is_guilty);
                self.reclaim(pays);
                if self.resets > self.options.resets_max {
                    self.give_up(now);
                } else {
                    self.stop(Then::Reset, now);
                }
            }
            Phase::Failed => self.end_all(Error::Failed, Trouble::ResetStuck),
            Phase::Removed => self.end_all(Error::Removed, Trouble::Removed),
        }
        self.link.answer(self.place, word);
    }

    /// Looks at what the state waits for.
    pub(super) fn live(&mut self, now: Duration) {
        match self.state {
            State::Halted | State::Pleading | State::Ended(_) | State::Running => {}
            State::Stopping { .. } => self.live_stopping(now),
            State::Resetting { until: None } => {
                self.state = State::Resetting { until: Some(now + RESET_TIME) };
            }
            State::Resetting { until: Some(until) } => {
                if now >= until {
                    self.registers.control_link(link_control(0));
                    self.state = State::Linking { until: now + LINK_TIMEOUT };
                }
            }
            State::Linking { until } => self.live_linking(until, now),
            State::Waking { until } => self.live_waking(until, now),
            State::Asking { question, until } => self.live_asking(question, until, now),
        }
    }

    /// Has the port stop, then go on with something else.
    pub(super) fn stop(&mut self, then: Then, now: Duration) {
        let Some(command) = self.registers.command() else { return self.plead(Plea::Gone) };
        self.registers.set_command(command.with_start(false));
        self.state = State::Stopping { then, until: now + STOP_TIMEOUT };
    }

    /// Only a reset helps.
    pub(super) fn reset_for(&mut self, trouble: Trouble, now: Duration) {
        if now.saturating_sub(self.last_reset) > STABLE_AFTER + self.options.timeout {
            self.resets = 0;
        }
        self.resets += 1;
        self.last_reset = now;
        self.counters.resets += 1;
        self.is_guilty = true;
        let is_stuck = trouble == Trouble::PortStuck;
        let may_plead = self.may_plead();
        self.trouble = Some(trouble);
        if is_stuck && !may_plead {
            // What it may still use is kept until it has stopped.
            self.end_all(Error::Failed, Trouble::PortStuck);
        } else if is_stuck {
            self.plead(Plea::Reset);
        } else if self.resets > self.options.resets_max
            || (self.resets > LINK_RESETS_MAX && !may_plead)
        {
            self.give_up(now);
        } else if self.resets > LINK_RESETS_MAX {
            self.plead(Plea::Reset);
        } else {
            self.stop(Then::Reset, now);
        }
    }

    /// Whether all drives of the adapter may be disturbed for this one: not before it is up.
    fn may_plead(&self) -> bool {
        self.may_reset || self.was_running
    }

    /// Asks the adapter for what only it can do.
    pub(super) fn plead(&mut self, plea: Plea) {
        self.state = State::Pleading;
        self.link.plead(self.place, plea);
    }

    /// Ends the port for its last trouble, once it has stopped.
    fn give_up(&mut self, now: Duration) {
        let last = self.trouble.take().unwrap_or(Trouble::NotReady);
        let trouble = Trouble::Hopeless(Box::new(last));
        self.stop(Then::End(Error::Failed, trouble), now);
    }

    fn live_stopping(&mut self, now: Duration) {
        let State::Stopping { then, until } = &self.state else { return };
        let Some(command) = self.registers.command() else { return self.plead(Plea::Gone) };
        let is_restart = matches!(then, Then::Restart(..));
        if command.is_running() || (command.is_receiving() && !is_restart) {
            if !command.is_running() && command.receive() {
                self.registers.set_command(command.with_receive(false));
            }
            if now < *until {
                return;
            }
            // After a reset of the adapter nothing runs; what does so nevertheless cannot be
            // trusted with memory.
            let is_hopeless = self.resets > self.options.resets_max;
            return if is_hopeless && self.may_plead() {
                self.plead(Plea::Gone);
            } else {
                self.reset_for(Trouble::PortStuck, now);
            };
        }
        if command.receive() && !is_restart {
            self.registers.set_command(command.with_receive(false));
            return;
        }
        match then.clone() {
            Then::Restart(status, error) => self.restart(command, status, error, now),
            Then::Reset => self.reset_link(command),
            Then::End(error, trouble) => self.end_all(error, trouble),
        }
    }

    /// Goes on after an error that the drive has reported (AHCI, section 6.2.2.2).
    fn restart(&mut self, command: PortCommand, status: AtaStatus, error: AtaError, now: Duration) {
        let (present, _) = self.registers.task_file();
        if present.busy() || present.data_request() {
            return self.reset_for(Trouble::NotReady, now);
        }
        self.registers.clear_errors();
        self.memory().clear_received();
        self.registers.set_command(command.with_start(true));
        if self.flight.slots != 0 && self.flight.is_queued {
            self.queued_error = (status, error);
            return self.ask_queued_error(now);
        }
        self.fail_alone(status, error);
        self.run(now);
    }

    /// Sets the port up, and resets its link (AHCI, section 10.4.2).
    fn reset_link(&mut self, command: PortCommand) {
        let pays = std::mem::take(&mut self.is_guilty);
        self.reclaim(pays);
        let (list, received) = self.memory().bases();
        self.registers.set_memory(list, received);
        self.registers.clear_errors();
        let command = command.with_receive(true).with_spin_up(true).with_power_on(true);
        self.registers.set_command(command.with_link_state(LINK_ACTIVE));
        self.registers.control_link(link_control(DETECTION_RESET));
        self.state = State::Resetting { until: None };
    }

    fn live_linking(&mut self, until: Duration, now: Duration) {
        if self.registers.link().detection() == DETECTED_LINK {
            self.registers.clear_errors();
            self.state = State::Waking { until: now + WAKE_TIMEOUT };
        } else if now >= until {
            if self.registers.command().is_none() {
                return self.plead(Plea::Gone);
            }
            let trouble = if self.facts.is_some() { Trouble::Removed } else { Trouble::Empty };
            self.stop(Then::End(Error::Removed, trouble), now);
        }
    }

    fn live_waking(&mut self, until: Duration, now: Duration) {
        let (status, _) = self.registers.task_file();
        let signature = self.registers.signature();
        if status.busy() || status.data_request() || signature == u32::MAX {
            if now >= until {
                self.reset_for(Trouble::NotReady, now);
            }
            return;
        }
        if signature != SIGNATURE_DISK {
            let what = match signature {
                SIGNATURE_MULTIPLIER => "a port multiplier",
                _ => "no disk, by its signature",
            };
            return self.stop(Then::End(Error::Removed, Trouble::Unsupported(what)), now);
        }
        let Some(command) = self.registers.command() else { return self.plead(Plea::Gone) };
        self.memory().clear_received();
        self.registers.set_command(command.with_start(true));
        self.ask(Question::Identify, now);
    }

    /// Sends a command of our own.
    pub(super) fn ask(&mut self, question: Question, now: Duration) {
        self.memory().write_question(question);
        self.registers.issue(1);
        self.state = State::Asking { question, until: now + ASK_TIMEOUT };
    }

    fn live_asking(&mut self, question: Question, until: Duration, now: Duration) {
        let Some(happened) = self.registers.happened() else { return self.plead(Plea::Gone) };
        // Until the command has ended the status is that of the error before it.
        let has_ended = self.registers.issued() & 1 == 0;
        let (status, _) = self.registers.task_file();
        let is_bad = status.error() || status.fault();
        let is_error = happened.task_file() || (has_ended && is_bad);
        let is_worse = happened.bus_fatal() || happened.bus_data() || happened.interface();
        if is_worse {
            return self.reset_for(Trouble::Interface, now);
        }
        if is_error {
            return match question {
                Question::Identify => self.reset_for(Trouble::Identify("it refuses"), now),
                // It does not tell: nothing follows from that.
                Question::PowerOns => {
                    let (status, error) = self.registers.task_file();
                    self.stop(Then::Restart(status, error), now);
                }
                Question::QueuedError => {
                    // A drive whose log was not read takes nothing but a reset of its link.
                    self.fail_queued(None, self.queued_error);
                    self.stop(Then::Reset, now);
                }
            };
        }
        if !has_ended {
            if now >= until {
                self.reset_for(Trouble::Timeout, now);
            }
            return;
        }
        if !self.still_runs(now) {
            return;
        }
        let answer = self.memory().scratch();
        match question {
            Question::Identify => self.identified(&answer, now),
            Question::PowerOns => self.switched_on(&answer, now),
            Question::QueuedError => {
                self.fail_queued(Some(answer), self.queued_error);
                self.run(now);
            }
        }
    }

    fn identified(&mut self, answer: &[u8; 512], now: Duration) {
        let identify = IdentifyDevice::ref_from_bytes(answer).expect("as long as a sector");
        let facts = match DriveFacts::new(identify, self.capabilities, &self.options) {
            Ok(facts) => facts,
            Err(trouble @ Trouble::Unsupported(_)) => {
                return self.stop(Then::End(Error::Removed, trouble), now);
            }
            Err(trouble) => return self.reset_for(trouble, now),
        };
        if self.facts.as_ref().is_some_and(|before| !before.is_same(&facts)) {
            return self.stop(Then::End(Error::Removed, Trouble::Changed), now);
        }
        let has_more_to_tell = facts.smart && facts.is_cached(&self.options);
        self.facts = Some(facts);
        if has_more_to_tell {
            self.ask(Question::PowerOns, now);
        } else {
            self.run(now);
        }
    }

    /// A drive that loses its power while its link is being reset comes back as if nothing had
    /// happened, but without what its cache held: by its count of power cycles alone it is known.
    fn switched_on(&mut self, answer: &[u8; 512], now: Duration) {
        let before = self.power_ons;
        self.power_ons = health::ata_power_cycles(answer).or(before);
        if before.is_some() && before != self.power_ons {
            return self.stop(Then::End(Error::Removed, Trouble::PowerLost), now);
        }
        self.run(now);
    }

    fn run(&mut self, now: Duration) {
        self.next_watch = now;
        self.next_look = now;
        self.was_running = true;
        self.state = State::Running;
    }
}

fn link_control(detection: u8) -> LinkControl {
    LinkControl::new().with_detection(detection).with_no_power_states(NO_POWER_STATES)
}
