//! The controller's life, on its home core: taken over, brought up, watched, reset, ended.
//!
//! ```text
//!  start ─▶ Disabling ─▶ Clearing ─▶ Enabling ─▶ Describing ─▶ Running ─▶ ShuttingDown ─▶ Ended
//!             ▲   │                                  │            │
//!             │   └─▶ FunctionReset                  └──trouble───┤
//!             └────────────────────── Stopping ◀──────────────────┘
//! ```
//!
//! Nothing here waits: [`NvmeController::poll`] looks once at what the state waits for. Trouble in
//! any state leads to a reset, and after too many of them to the end. The end of a controller that
//! may not obey is the drop of its [`Device`]: then it reaches memory no more, and only then do the
//! queues let go of the buffers in flight.

use super::super::health::Health;
use super::admin::{self, Admin, Ended};
use super::disk::NvmeSeat;
use super::link::{Link, Phase, Plea};
use super::logs::Logs;
use super::namespace::{ControllerFacts, Facts, Namespace};
use super::options::{NvmeOptions, QUEUE_ENTRIES_MAX, QUEUES_MAX, Trouble};
use super::registers::{ControllerRegisters, Doorbell};
use super::steps::{ShadowMemory, Step};
use crate::dma::{DeviceMemory, PAGE};
use crate::hardware::{Device, DeviceError, Presence, Registers, ResetError};
use crate::node::DriveInfo;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use storage_spec::fabrics::{
    COMMAND_SETS_BY_IDENTIFY, COMMAND_SETS_NVM, Capabilities, Configuration, SHUTDOWN_COMPLETE,
};
use storage_spec::nvme::command::Command;
use storage_spec::nvme::identify::{IdentifyController, IdentifyNamespace};
use storage_spec::nvme::log::{HealthLog, LogPage};

/// How often CSTS is read while all is well: the only access by which a silent failure, or a device
/// torn out, is met early.
const WATCH_PERIOD: Duration = Duration::from_millis(100);
/// How often the health log is read.
const HEALTH_PERIOD: Duration = Duration::from_secs(60);
/// An administrative command has to end within this time.
pub(super) const ADMIN_TIMEOUT: Duration = Duration::from_secs(10);
/// Resets are in a row if less than this time passes from one to the next.
const STABLE_AFTER: Duration = Duration::from_secs(30);
/// Events that nobody took; older ones are forgotten.
const EVENTS_MAX: usize = 256;
/// Completions of the admin queue in one poll.
const ADMIN_REAP_MAX: usize = 16;
/// A controller that asks for more time until it is ready does not get it.
const READY_MAX: Duration = Duration::from_secs(600);
/// A shutdown that takes longer is no longer waited for.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(10);

/// What a controller has to tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NvmeEvent {
    /// It runs, for the first time or again.
    Running,
    /// It is being reset; its requests wait.
    Resetting(Trouble),
    /// Namespaces came, went or changed: see [`NvmeController::namespaces`].
    NamespacesChanged,
    /// A namespace that we cannot use.
    NamespaceRefused(u32, Trouble),
    /// The health log has other critical warnings than before.
    HealthWarning(u8),
    /// The error log has new entries, so many in all.
    ErrorsLogged(u64),
    /// It has ended for good: failed, removed, or shut down.
    Ended(Option<Trouble>),
}

/// A controller. Lives on one core, its home, whose reactor polls it; `Send`, so that it may be
/// brought up elsewhere.
pub struct NvmeController<D: Device> {
    pub(super) name: String,
    /// Gone at the end.
    pub(super) device: Option<D>,
    pub(super) registers: D::Registers,
    pub(super) options: NvmeOptions,
    pub(super) capabilities: Capabilities,
    pub(super) state: State,
    /// Made when the controller has told how it wants them.
    pub(super) admin: Option<Admin<D::Registers, Purpose>>,
    /// Data of steps, and of log pages: a page each.
    pub(super) memory: Option<(DeviceMemory, DeviceMemory)>,
    pub(super) link: Arc<Link>,
    pub(super) seats: VecDeque<NvmeSeat<D>>,
    pub(super) queues: Vec<QueuePlace>,
    /// Where positions in memory are, once queues use them: values, events.
    pub(super) shadows: Option<(u64, u64)>,
    /// The memory of these, or what the queues have left of it.
    pub(super) shadow_memory: Option<ShadowMemory>,
    /// I/O queues that the controller has for us.
    pub(super) granted: usize,
    /// Whether the queues have room for metadata.
    pub(super) has_metadata: bool,
    pub(super) identity: Option<Box<IdentifyController>>,
    pub(super) facts: Option<ControllerFacts>,
    pub(super) namespaces: Vec<Namespace>,
    pub(super) scan: Scan,
    pub(super) logs: Logs,
    pub(super) aborts: usize,
    events: VecDeque<NvmeEvent>,
    resets: u32,
    last_reset: Duration,
    was_function_reset: bool,
    next_watch: Duration,
    pub(super) next_health: Duration,
}

/// Where an I/O queue is, to create it again and again.
pub(super) struct QueuePlace {
    pub(super) entries: u16,
    pub(super) submission: u64,
    pub(super) completion: u64,
    pub(super) vector: Option<u16>,
}

/// What is being found out about namespaces.
#[derive(Default)]
pub(super) struct Scan {
    pub(super) ids: Vec<u32>,
    pub(super) found: Vec<Facts>,
    /// The one that was identified last, until its extended formats are known too.
    pub(super) identity: Option<Box<IdentifyNamespace>>,
    pub(super) is_under_way: bool,
    /// The last page of the list was full: there may be another.
    pub(super) is_page_full: bool,
    /// Namespaces changed again meanwhile.
    pub(super) is_stale: bool,
}

/// What an administrative command is for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Purpose {
    Step(Step),
    /// Asynchronous Event Request: waits for ever.
    Event,
    Abort,
    /// A log page.
    Log(LogPage),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum State {
    /// Queues are told to stop.
    Stopping,
    /// CC.EN is 0: CSTS.RDY has to follow.
    Disabling { until: Duration },
    /// The function is being reset.
    FunctionReset,
    /// Queues take their commands back.
    Clearing,
    /// CC.EN is 1: CSTS.RDY has to follow.
    Enabling { until: Duration },
    /// Administrative commands find out what it is and make its queues.
    Describing,
    /// It works.
    Running,
    /// Queues are told to stop, then the controller to shut down.
    ShuttingDown { until: Duration, is_told: bool },
    /// For good.
    Ended(Option<Trouble>),
}

impl<D: Device> NvmeController<D> {
    /// Takes a device over, in whatever state it is. Poll it until it is running or has ended.
    #[must_use]
    pub fn start(device: D, options: NvmeOptions) -> Self {
        assert!((1..=QUEUES_MAX).contains(&options.queues), "{} queues", options.queues);
        assert!((2..=QUEUE_ENTRIES_MAX).contains(&options.entries), "{} entries", options.entries);
        assert!(!options.timeout.is_zero() && !options.patience.is_zero());
        let registers = device.registers();
        Self {
            name: device.name().to_owned(),
            device: Some(device),
            registers,
            options,
            capabilities: Capabilities::new(),
            state: State::Stopping,
            admin: None,
            memory: None,
            link: Arc::new(Link::new(options.queues)),
            seats: VecDeque::new(),
            queues: Vec::new(),
            shadows: None,
            shadow_memory: None,
            granted: 0,
            has_metadata: false,
            identity: None,
            facts: None,
            namespaces: Vec::new(),
            scan: Scan::default(),
            logs: Logs::default(),
            aborts: 0,
            events: VecDeque::new(),
            resets: 0,
            last_reset: Duration::ZERO,
            was_function_reset: false,
            next_watch: Duration::ZERO,
            next_health: Duration::ZERO,
        }
    }

    /// Where the device is plugged in.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it runs: its namespaces are known and its queues are there.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.state == State::Running
    }

    /// Whether it has ended, and why if not because it was told to.
    #[must_use]
    pub fn end(&self) -> Option<Option<&Trouble>> {
        match &self.state {
            State::Ended(trouble) => Some(trouble.as_ref()),
            _ => None,
        }
    }

    /// Model, serial number, firmware and so on, once it has told.
    #[must_use]
    pub fn identity(&self) -> Option<&IdentifyController> {
        self.identity.as_deref()
    }

    /// The namespaces that can be used now.
    pub fn namespaces(&self) -> impl Iterator<Item = &Namespace> {
        self.namespaces.iter().filter(|namespace| !namespace.is_gone())
    }

    /// The health log as it was read last.
    #[must_use]
    pub fn health(&self) -> Option<&HealthLog> {
        self.logs.health.as_deref()
    }

    /// What the controller says of itself, with the size of a namespace; once it has told.
    #[must_use]
    pub fn drive_info(&self, namespace: &Namespace) -> Option<DriveInfo> {
        let identity = self.identity()?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        let facts = namespace.facts();
        Some(DriveInfo {
            model: text(&identity.model),
            serial: text(&identity.serial),
            firmware: text(&identity.firmware),
            size: facts.blocks << facts.block_shift,
            health: self.health().map(Health::from_nvme),
        })
    }

    /// An I/O queue for one core, once it runs: as many as asked for, or fewer where it has fewer.
    pub fn take_seat(&mut self) -> Option<NvmeSeat<D>> {
        self.seats.pop_front()
    }

    /// Takes a queue back that a core has let go of, for another core.
    pub fn return_seat(&mut self, seat: NvmeSeat<D>) {
        self.seats.push_front(seat);
    }

    /// I/O queues that nobody has taken.
    #[must_use]
    pub fn seats(&self) -> usize {
        self.seats.len()
    }

    /// What there is to tell, oldest first.
    pub fn take_event(&mut self) -> Option<NvmeEvent> {
        self.events.pop_front()
    }

    /// Has the health log read soon, not only when it is due.
    pub fn refresh_health(&mut self) {
        self.next_health = Duration::ZERO;
    }

    /// What it asks for to become ready with its media: CRTO.CRWMT where it has that (sections
    /// 3.1.3.1, 3.1.3.22), since CAP.TO ends at 127.5 s. No less than CAP.TO, no more than ten
    /// minutes.
    #[must_use]
    pub fn ready_timeout(&self) -> Duration {
        if !self.capabilities.ready_with_media() {
            return self.idle_timeout();
        }
        let units = u32::from(self.registers.ready_timeouts().with_media());
        (Duration::from_millis(500) * units).clamp(self.idle_timeout(), READY_MAX)
    }

    /// When it wants to be polled even if nothing comes.
    #[must_use]
    pub fn deadline(&self, now: Duration) -> Option<Duration> {
        match self.state {
            State::Ended(_) => None,
            State::Running => Some(self.next_watch),
            _ => Some(now + Duration::from_millis(1)),
        }
    }

    /// Shuts down: the controller writes out what it caches. Requests that are in flight, or come
    /// afterwards, fail.
    pub fn shut_down(&mut self, now: Duration) {
        if matches!(self.state, State::Ended(_) | State::ShuttingDown { .. }) {
            return;
        }
        if self.link.word().phase() == Phase::Running {
            self.link.set_phase(Phase::Stop);
        }
        self.state = State::ShuttingDown { until: now + SHUTDOWN_TIMEOUT, is_told: false };
    }

    /// Advances. Returns whether there was anything to do.
    pub fn poll(&mut self, now: Duration) -> bool {
        let Some(device) = &self.device else { return false };
        if device.presence() != Presence::Present {
            self.finish(Some(Trouble::Removed));
            return true;
        }
        match self.advance(now) {
            Ok(worked) => worked,
            Err(trouble) => {
                self.on_trouble(trouble, now);
                true
            }
        }
    }

    pub(super) fn tell(&mut self, event: NvmeEvent) {
        if self.events.len() == EVENTS_MAX {
            self.events.pop_front();
        }
        self.events.push_back(event);
    }

    fn advance(&mut self, now: Duration) -> Result<bool, Trouble> {
        match self.state.clone() {
            State::Stopping if self.link.is_answered() => self.disable(now).map(|()| true),
            State::Disabling { until } => self.await_idle(now, until),
            State::FunctionReset => self.await_function_reset(now),
            State::Clearing if self.link.is_answered() => self.enable(now).map(|()| true),
            State::Enabling { until } => self.await_ready(now, until),
            State::Describing | State::Running => self.work(now),
            State::ShuttingDown { until, is_told } => Ok(self.await_shutdown(now, until, is_told)),
            State::Stopping | State::Clearing | State::Ended(_) => Ok(false),
        }
    }

    fn on_trouble(&mut self, trouble: Trouble, now: Duration) {
        let is_final = matches!(
            trouble,
            Trouble::Removed
                | Trouble::Unsupported(_)
                | Trouble::System(_)
                | Trouble::Changed(_)
                | Trouble::Hopeless(_)
        );
        if is_final {
            return self.finish(Some(trouble));
        }
        if now >= self.last_reset + STABLE_AFTER {
            self.resets = 0;
        }
        self.resets += 1;
        self.last_reset = now;
        if self.resets > self.options.resets_max {
            return self.finish(Some(Trouble::Hopeless(Box::new(trouble))));
        }
        self.tell(NvmeEvent::Resetting(trouble));
        self.note_lost_state();
        self.was_function_reset = false;
        if self.link.word().phase() == Phase::Running {
            self.link.set_phase(Phase::Stop);
        }
        self.state = State::Stopping;
    }

    /// The admin queue's address outlives a reset of the controller, but not of the function, and
    /// not a loss of power: one that is no longer ours, while we reset no function, says that what
    /// the cache held may be lost.
    fn note_lost_state(&mut self) {
        let Some(admin) = &self.admin else { return };
        let found = self.registers.admin_queue();
        if self.was_function_reset || found.is_none_or(|found| found == admin.addresses().0) {
            return;
        }
        self.tell(NvmeEvent::Resetting(Trouble::LostState));
        let cached = self.namespaces.iter().filter(|one| one.facts().volatile_cache);
        cached.for_each(Namespace::set_failed);
    }

    fn disable(&mut self, now: Duration) -> Result<(), Trouble> {
        self.capabilities = self.registers.capabilities().ok_or(Trouble::Removed)?;
        let configuration = self.registers.configuration().ok_or(Trouble::Removed)?;
        if configuration.enable() {
            self.registers.configure(configuration.with_enable(false).with_shutdown(0));
        }
        self.state = State::Disabling { until: now + self.idle_timeout() };
        Ok(())
    }

    fn await_idle(&mut self, now: Duration, until: Duration) -> Result<bool, Trouble> {
        let status = self.registers.status().ok_or(Trouble::Removed)?;
        if !status.ready() {
            // The second reset in a row and those after it take the whole function.
            if self.resets > 1 && !self.was_function_reset {
                self.begin_function_reset();
            } else {
                self.on_disabled();
            }
            return Ok(true);
        }
        if now < until {
            return Ok(false);
        }
        if self.was_function_reset {
            return Err(Trouble::Hopeless(Box::new(Trouble::NotReady(false))));
        }
        self.begin_function_reset();
        Ok(true)
    }

    fn begin_function_reset(&mut self) {
        self.note_lost_state();
        self.was_function_reset = true;
        self.device.as_mut().expect("not ended").begin_reset();
        self.state = State::FunctionReset;
    }

    fn await_function_reset(&mut self, now: Duration) -> Result<bool, Trouble> {
        let Some(result) = self.device.as_mut().expect("not ended").poll_reset() else {
            return Ok(false);
        };
        // Without one, registers have to do: their state is looked at again.
        match result {
            Ok(()) | Err(ResetError::Unsupported) => {}
            Err(ResetError::Gone) => return Err(Trouble::Removed),
            Err(error) => return Err(Trouble::System(error.to_string())),
        }
        self.disable(now).map(|()| true)
    }

    /// The controller reaches memory no more.
    fn on_disabled(&mut self) {
        self.link.free_left();
        if self.link.word().phase() == Phase::Stop {
            self.link.set_phase(Phase::Clear);
        }
        self.state = State::Clearing;
    }

    fn enable(&mut self, now: Duration) -> Result<(), Trouble> {
        let capabilities = self.capabilities;
        if capabilities.page_size_min() > 0 {
            return Err(Trouble::Unsupported("memory pages of no less than 8 KiB"));
        }
        let sets = capabilities.command_sets();
        if sets & (COMMAND_SETS_NVM | COMMAND_SETS_BY_IDENTIFY) == 0 {
            return Err(Trouble::Unsupported("no NVM command set"));
        }
        if capabilities.queue_entries_z() == 0 {
            return Err(Trouble::Unsupported("queues of one entry"));
        }
        self.note_lost_state();
        self.make_admin()?;
        let admin = self.admin.as_mut().expect("just made");
        admin.restart();
        let (submission, completion) = admin.addresses();
        self.registers.set_admin_queue(admin::ADMIN_ENTRIES, submission, completion);
        self.was_function_reset = false;
        let command_set = if sets & COMMAND_SETS_NVM != 0 { 0 } else { 6 };
        let configuration = Configuration::new()
            .with_command_set(command_set)
            .with_submission_entry(6)
            .with_completion_entry(4);
        // Without CRIME: a namespace whose media are not ready is of no use to us. CAP.TO follows.
        self.registers.configure(configuration);
        self.capabilities = self.registers.capabilities().ok_or(Trouble::Removed)?;
        self.registers.configure(configuration.with_enable(true));
        self.state = State::Enabling { until: now + self.ready_timeout() };
        Ok(())
    }

    fn make_admin(&mut self) -> Result<(), Trouble> {
        if self.admin.is_some() {
            return Ok(());
        }
        let device = self.device.as_ref().expect("not ended");
        let fail = |error: DeviceError| Trouble::System(error.to_string());
        let stride = self.capabilities.doorbell_stride();
        if Doorbell::end(0, stride) > self.registers.size() {
            return Err(Trouble::Unsupported("doorbells outside of the registers"));
        }
        self.admin = Some(Admin::new(device, stride).map_err(fail)?);
        let pages = || device.allocate(PAGE).map_err(fail);
        self.memory = Some((pages()?, pages()?));
        Ok(())
    }

    fn await_ready(&mut self, now: Duration, until: Duration) -> Result<bool, Trouble> {
        let status = self.registers.status().ok_or(Trouble::Removed)?;
        if status.fatal() {
            return Err(Trouble::Fatal);
        }
        if status.ready() {
            self.state = State::Describing;
            self.next_watch = now + WATCH_PERIOD;
            self.aborts = 0;
            self.scan = Scan::default();
            self.logs.restart();
            self.enter(Step::FIRST, now)?;
            return Ok(true);
        }
        if now >= until { Err(Trouble::NotReady(true)) } else { Ok(false) }
    }

    /// What the controller asks for to become unready (CAP.TO), one second at least.
    fn idle_timeout(&self) -> Duration {
        Duration::from_millis(500) * u32::from(self.capabilities.timeout()).max(2)
    }

    /// Administrative commands, watch, and what queues ask for.
    fn work(&mut self, now: Duration) -> Result<bool, Trouble> {
        let mut worked = self.take_admin(now)?;
        if now >= self.next_watch {
            self.watch(now)?;
        }
        if self.state != State::Running {
            return Ok(worked);
        }
        while let Some((place, plea)) = self.link.take_plea() {
            worked = true;
            match plea {
                Plea::Abort(command_id) => self.abort(place, command_id, now),
                Plea::Reset(reason) => return Err(reason.into()),
            }
        }
        if now >= self.next_health {
            self.next_health = now + HEALTH_PERIOD;
            self.want_log(LogPage::Health, now);
        }
        Ok(worked)
    }

    fn take_admin(&mut self, now: Duration) -> Result<bool, Trouble> {
        for count in 0..ADMIN_REAP_MAX {
            let Some(ended) = self.admin.as_mut().expect("it is enabled").next() else {
                return Ok(count > 0);
            };
            let nonsense = Trouble::Nonsense("an administrative command that is not in flight");
            let Ended { purpose, status, result } = ended.map_err(|_| nonsense)?;
            match purpose {
                Purpose::Step(step) => self.on_step(step, status, result, now)?,
                Purpose::Event => self.on_event(status, result, now),
                Purpose::Abort => self.aborts -= 1,
                Purpose::Log(page) => self.on_log(page, status, now)?,
            }
        }
        Ok(true)
    }

    fn watch(&mut self, now: Duration) -> Result<(), Trouble> {
        self.next_watch = now + WATCH_PERIOD;
        let status = self.registers.status().ok_or(Trouble::Removed)?;
        if status.fatal() {
            return Err(Trouble::Fatal);
        }
        if !status.ready() {
            return Err(Trouble::NotReady(true));
        }
        self.rest_events(now);
        match self.admin.as_mut().expect("it is enabled").late(now) {
            None => Ok(()),
            Some(Purpose::Step(step)) => Err(Trouble::AdminTimeout(step.name())),
            Some(Purpose::Log(_)) => Err(Trouble::AdminTimeout("Get Log Page")),
            Some(Purpose::Abort) => Err(Trouble::AdminTimeout("Abort")),
            Some(Purpose::Event) => unreachable!("it may take for ever"),
        }
    }

    /// Aborts a command if the controller takes another Abort: if not, it is reset when the queue's
    /// patience ends.
    fn abort(&mut self, place: usize, command_id: u16, now: Duration) {
        let most = self.identity.as_ref().map_or(0, |identity| identity.abort_limit_z);
        if self.aborts > usize::from(most).min(3) {
            return;
        }
        self.aborts += 1;
        let command = admin::abort(place as u16 + 1, command_id);
        self.start_command(command, Purpose::Abort, now);
    }

    pub(super) fn start_command(&mut self, command: Command, purpose: Purpose, now: Duration) {
        let until = match purpose {
            Purpose::Event => Duration::MAX,
            _ => now + ADMIN_TIMEOUT,
        };
        self.admin.as_mut().expect("it is enabled").start(command, purpose, until);
    }

    fn await_shutdown(&mut self, now: Duration, until: Duration, is_told: bool) -> bool {
        let Some(status) = self.registers.status() else {
            self.finish(Some(Trouble::Removed));
            return true;
        };
        if is_told {
            if status.shutdown() == SHUTDOWN_COMPLETE || now >= until {
                self.finish(None);
                return true;
            }
            return false;
        }
        if self.link.word().phase() == Phase::Stop && !self.link.is_answered() && now < until {
            return false;
        }
        match self.registers.configuration() {
            Some(configuration) if configuration.enable() && status.ready() => {
                self.registers.configure(configuration.with_shutdown(1));
                self.state = State::ShuttingDown { until, is_told: true };
            }
            _ => self.finish(None),
        }
        true
    }

    /// The end. First the device loses its access to memory, then the queues hear.
    fn finish(&mut self, trouble: Option<Trouble>) {
        if matches!(self.state, State::Ended(_)) {
            return;
        }
        drop(self.device.take());
        self.link.free_left();
        let is_gone = trouble == Some(Trouble::Removed);
        self.link.set_phase(if is_gone { Phase::Removed } else { Phase::Failed });
        self.tell(NvmeEvent::Ended(trouble.clone()));
        self.state = State::Ended(trouble);
    }
}

impl<D: Device> Drop for NvmeController<D> {
    fn drop(&mut self) {
        self.finish(None);
    }
}
