//! What is asked of a controller to bring it up, command by command: what it is, what it can, its
//! namespaces, its queues. Namespaces are asked for again when they change.

use super::admin;
use super::controller::{NvmeController, NvmeEvent, Purpose, QueuePlace, Scan, State};
use super::disk::NvmeSeat;
use super::link::Phase;
use super::namespace::{ControllerFacts, METADATA_MAX, Namespace, TRANSFER_MAX};
use super::options::{FUA_IGNORED_BY, NAMESPACES_MAX, Trouble};
use super::pointers::Pointers;
use super::queue::QueueParts;
use super::registers::{ControllerRegisters, Doorbell};
use super::ring::{COMPLETION_ENTRY, Ring, SUBMISSION_ENTRY, Shadow};
use crate::dma::{DeviceMemory, PAGE};
use crate::hardware::{Device, DeviceError, Registers};
use std::time::Duration;
use storage_spec::nvme::command::Command;
use storage_spec::nvme::feature::{Feature, HOST_BEHAVIOR_SIZE, NumberOfQueues};
use storage_spec::nvme::identify::{
    AdminCommands, AsyncEvents, Cns, IdentifyController, IdentifyNamespace, NvmController,
    NvmNamespace, SglSupport,
};
use storage_spec::nvme::pci::{completion_doorbell, submission_doorbell};
use storage_spec::nvme::status::Status;
use zerocopy::FromBytes;

/// VS of 2.0.
const VERSION_2_0: u32 = 0x0002_0000;

/// A command of the bring-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Identify Controller.
    Controller,
    /// Set Features: Number of Queues.
    Queues,
    /// Set Features: Host Behavior Support, for delays of retries.
    Behavior,
    /// Set Features: Asynchronous Event Configuration.
    Events,
    /// Get Features: Volatile Write Cache.
    Cache,
    /// Identify Controller of the command set.
    Limits,
    /// Doorbell Buffer Config.
    Shadows,
    /// Identify Active Namespaces after this one.
    List(u32),
    /// Identify Namespace: the so manyth of the list.
    Namespace(usize),
    /// Identify Namespace of the command set.
    Extended(usize),
    /// Create I/O Completion Queue, by its place.
    CompletionQueue(usize),
    /// Create I/O Submission Queue.
    SubmissionQueue(usize),
}

impl Step {
    pub(super) const FIRST: Self = Self::Controller;

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Controller => "Identify Controller",
            Self::Queues => "Set Features Number of Queues",
            Self::Behavior => "Set Features Host Behavior Support",
            Self::Events => "Set Features Asynchronous Event Configuration",
            Self::Cache => "Get Features Volatile Write Cache",
            Self::Limits => "Identify Controller of the NVM command set",
            Self::Shadows => "Doorbell Buffer Config",
            Self::List(_) => "Identify Active Namespaces",
            Self::Namespace(_) => "Identify Namespace",
            Self::Extended(_) => "Identify Namespace of the NVM command set",
            Self::CompletionQueue(_) => "Create I/O Completion Queue",
            Self::SubmissionQueue(_) => "Create I/O Submission Queue",
        }
    }
}

impl<D: Device> NvmeController<D> {
    /// Starts a step's command, or that of the next step that has one.
    pub(super) fn enter(&mut self, mut step: Step, now: Duration) -> Result<(), Trouble> {
        loop {
            if let Some(command) = self.command_of(step)? {
                self.start_command(command, Purpose::Step(step), now);
                return Ok(());
            }
            match self.after(step, now)? {
                Some(next) => step = next,
                None => return Ok(()),
            }
        }
    }

    /// Takes in what a step's command brought.
    pub(super) fn on_step(
        &mut self,
        step: Step,
        status: Status,
        result: u32,
        now: Duration,
    ) -> Result<(), Trouble> {
        if status.is_success() {
            self.learn(step, result)?;
        } else if let Step::Namespace(index) = step {
            // It went away between two commands: the list is asked for again when the event comes.
            self.scan.identity = None;
            let id = self.scan.ids[index];
            let trouble = Trouble::Admin { command: step.name(), status };
            self.tell(NvmeEvent::NamespaceRefused(id, trouble));
        } else if !self.can_do_without(step) {
            return Err(Trouble::Admin { command: step.name(), status });
        } else if step == Step::Shadows {
            self.shadow_memory = None;
        } else if let Step::Extended(index) = step {
            self.describe(index, None);
        }
        match self.after(step, now)? {
            Some(next) => self.enter(next, now),
            None => Ok(()),
        }
    }

    /// Whether the controller is of use where this step fails.
    fn can_do_without(&self, step: Step) -> bool {
        match step {
            Step::Behavior | Step::Events | Step::Cache | Step::Limits | Step::Extended(_) => true,
            // Queues that were made to use them cannot do otherwise.
            Step::Shadows => self.queues.is_empty(),
            _ => false,
        }
    }

    /// The step after this one; `None` when all are done.
    fn after(&mut self, step: Step, now: Duration) -> Result<Option<Step>, Trouble> {
        let next = match step {
            Step::Controller => Step::Queues,
            Step::Queues => Step::Behavior,
            Step::Behavior => Step::Events,
            Step::Events => Step::Cache,
            Step::Cache => Step::Limits,
            Step::Limits => Step::Shadows,
            Step::Shadows => Step::List(0),
            Step::List(after) => match self.scan.ids.last() {
                // A full page: there may be more.
                Some(&last) if last > after && self.scan.is_page_full => Step::List(last),
                _ => Step::Namespace(0),
            },
            Step::Namespace(index) if self.scan.identity.is_some() => Step::Extended(index),
            Step::Namespace(index) | Step::Extended(index) => Step::Namespace(index + 1),
            Step::CompletionQueue(place) => Step::SubmissionQueue(place),
            Step::SubmissionQueue(place) if place + 1 < self.queues.len() => {
                Step::CompletionQueue(place + 1)
            }
            Step::SubmissionQueue(_) => {
                self.on_described(now);
                return Ok(None);
            }
        };
        let Step::Namespace(index) = next else { return Ok(Some(next)) };
        if index < self.scan.ids.len() {
            return Ok(Some(next));
        }
        self.reconcile();
        if self.state == State::Running {
            if std::mem::take(&mut self.scan.is_stale) {
                self.begin_scan();
                return Ok(Some(Step::List(0)));
            }
            return Ok(None);
        }
        self.make_queues()?;
        Ok(Some(Step::CompletionQueue(0)))
    }

    /// Namespaces have changed: finds out what they are now.
    pub(super) fn rescan(&mut self, now: Duration) -> Result<(), Trouble> {
        if self.scan.is_under_way {
            self.scan.is_stale = true;
            return Ok(());
        }
        self.begin_scan();
        self.enter(Step::List(0), now)
    }

    fn begin_scan(&mut self) {
        self.scan = Scan { is_under_way: true, ..Scan::default() };
    }

    /// The command of a step; `None` where the controller does not have it, or it brings nothing.
    fn command_of(&mut self, step: Step) -> Result<Option<Command>, Trouble> {
        let data = &self.memory.as_ref().expect("made before the controller was enabled").0;
        let address = data.address(0);
        let identify = |cns, id| admin::identify(cns, id, address);
        let identity = self.identity.as_deref();
        let version = self.registers.version();
        Ok(match step {
            Step::Controller => Some(identify(Cns::Controller, 0)),
            Step::Queues => Some(admin::number_of_queues(self.options.queues as u16)),
            Step::Behavior => {
                let has_delays =
                    identity.is_some_and(|i| i.retry_delay.iter().any(|d| d.get() > 0));
                data.clear();
                // ACRE: the controller may name delays.
                data.store32(0, 1);
                assert!(data.len() >= HOST_BEHAVIOR_SIZE);
                has_delays.then(|| admin::set_feature(Feature::HostBehavior, 0, address))
            }
            Step::Events => {
                let has = identity.map_or(0, |identity| identity.async_events.get());
                let notices = AsyncEvents::from(has).namespace_attribute();
                let all = AsyncEvents::new().with_health(0x1F).with_namespace_attribute(notices);
                Some(admin::configure_events(all))
            }
            Step::Cache => {
                let has = self.facts.as_ref().is_some_and(|facts| facts.volatile_cache);
                has.then(|| admin::get_feature(Feature::VolatileWriteCache))
            }
            Step::Limits => {
                let has = version >= VERSION_2_0;
                has.then(|| identify(Cns::CommandSetController, 0))
            }
            Step::Shadows => self.shadow_command()?,
            Step::List(after) => {
                self.scan.is_under_way = true;
                self.scan.is_page_full = false;
                Some(identify(Cns::ActiveNamespaces, after))
            }
            Step::Namespace(index) => {
                let id = self.scan.ids.get(index);
                id.map(|&id| identify(Cns::Namespace, id))
            }
            Step::Extended(index) => {
                if version < VERSION_2_0 {
                    self.describe(index, None);
                    return Ok(None);
                }
                Some(identify(Cns::CommandSetNamespace, self.scan.ids[index]))
            }
            Step::CompletionQueue(place) => {
                let &QueuePlace { entries, completion, vector, .. } = &self.queues[place];
                let id = place as u16 + 1;
                Some(admin::create_completion_queue(id, entries, completion, vector))
            }
            Step::SubmissionQueue(place) => {
                let &QueuePlace { entries, submission, .. } = &self.queues[place];
                Some(admin::create_submission_queue(place as u16 + 1, entries, submission))
            }
        })
    }

    fn learn(&mut self, step: Step, result: u32) -> Result<(), Trouble> {
        match step {
            Step::Controller => self.learn_identity()?,
            Step::Queues => {
                let granted = NumberOfQueues::from(result);
                let count = granted.submission_z().min(granted.completion_z());
                self.granted = usize::from(count) + 1;
                if self.granted < self.queues.len() {
                    return Err(Trouble::Changed("it has fewer queues"));
                }
            }
            Step::Cache => {
                let facts = self.facts.as_mut().expect("identified before");
                facts.volatile_cache = result & 1 != 0 && !self.options.cache_is_safe;
            }
            Step::Limits => {
                let limits: Box<NvmController> = self.structure();
                self.facts.as_mut().expect("identified before").set_limits(&limits);
            }
            Step::List(after) => self.learn_list(after),
            Step::Namespace(_) => {
                let identity: Box<IdentifyNamespace> = self.structure();
                self.scan.identity = Some(identity);
            }
            Step::Extended(index) => {
                let extended: Box<NvmNamespace> = self.structure();
                self.describe(index, Some(&extended));
            }
            Step::Behavior
            | Step::Events
            | Step::Shadows
            | Step::CompletionQueue(_)
            | Step::SubmissionQueue(_) => {}
        }
        Ok(())
    }

    fn learn_identity(&mut self) -> Result<(), Trouble> {
        let identity: Box<IdentifyController> = self.structure();
        if identity.submission_entry & 0x0F != 6 || identity.completion_entry & 0x0F != 4 {
            return Err(Trouble::Unsupported("queue entries of other than 64 and 16 bytes"));
        }
        if let Some(former) = &self.identity {
            let is_same = (former.serial, former.model) == (identity.serial, identity.model);
            if !is_same {
                return Err(Trouble::Changed("it has another serial number"));
            }
        }
        let mut facts = ControllerFacts::new(&identity);
        facts.volatile_cache &= !self.options.cache_is_safe;
        let model = identity.model.trim_ascii_end();
        self.options.honours_fua &= !FUA_IGNORED_BY.iter().any(|known| model == known.as_bytes());
        self.facts = Some(facts);
        self.identity = Some(identity);
        Ok(())
    }

    fn learn_list(&mut self, after: u32) {
        let mut bytes = [0; PAGE];
        self.memory.as_ref().expect("made before").0.copy_out(0, &mut bytes);
        let ids = bytes.as_chunks::<4>().0.iter().map(|bytes| u32::from_le_bytes(*bytes));
        let mut last = after;
        let mut count = 0;
        for id in ids.take_while(|&id| id != 0) {
            // A list that does not rise would have us go round for ever.
            if id <= last || self.scan.ids.len() == NAMESPACES_MAX {
                return;
            }
            last = id;
            count += 1;
            self.scan.ids.push(id);
        }
        self.scan.is_page_full = count == PAGE / 4;
    }

    /// The namespace that was identified last is one that we can use, or not.
    fn describe(&mut self, index: usize, extended: Option<&NvmNamespace>) {
        let identity = self.scan.identity.take().expect("identified before");
        let id = self.scan.ids[index];
        let facts = self.facts.as_ref().expect("identified before");
        match facts.namespace(id, &identity, extended) {
            Ok(facts) => self.scan.found.push(facts),
            Err(trouble) => self.tell(NvmeEvent::NamespaceRefused(id, trouble)),
        }
    }

    /// What was found against what was known: a namespace that is another one, or smaller, is gone
    /// for those who have it open.
    fn reconcile(&mut self) {
        let found = std::mem::take(&mut self.scan.found);
        self.scan.is_under_way = false;
        let has_room = self.has_metadata;
        let mut has_changed = false;
        for known in self.namespaces.iter().filter(|known| !known.is_gone()) {
            let is_same = found.iter().any(|facts| known.facts().is_still(facts));
            if !is_same {
                known.set_gone();
                has_changed = true;
            }
        }
        for facts in found {
            let mut known = self.namespaces.iter().filter(|known| !known.is_gone());
            if known.any(|known| known.facts().id == facts.id) {
                continue;
            }
            if facts.metadata.carried > 0 && !self.queues.is_empty() && !has_room {
                let trouble = Trouble::Unsupported("metadata, where no namespace had any before");
                self.tell(NvmeEvent::NamespaceRefused(facts.id, trouble));
                continue;
            }
            self.namespaces.push(Namespace::new(facts));
            has_changed = true;
        }
        self.namespaces.retain(|known| !known.is_gone());
        if has_changed && !self.queues.is_empty() {
            self.tell(NvmeEvent::NamespacesChanged);
        }
    }

    /// Doorbells in memory, where offered: a page for values, a page for events.
    fn shadow_command(&mut self) -> Result<Option<Command>, Trouble> {
        if let Some((values, events)) = self.shadows {
            return Ok(Some(admin::doorbell_buffers(values, events)));
        }
        let offered = self.identity.as_deref().is_some_and(|identity| {
            AdminCommands::from(identity.admin_commands.get()).doorbell_buffer()
        });
        let stride = self.capabilities.doorbell_stride();
        let end = completion_doorbell(self.options.queues as u16, stride) + 4;
        if !offered || !self.options.shadow_doorbells || !self.queues.is_empty() || end > PAGE {
            return Ok(None);
        }
        let device = self.device.as_ref().expect("not ended");
        let page = || device.allocate(PAGE).map_err(system);
        let (values, events) = (page()?, page()?);
        let command = admin::doorbell_buffers(values.address(0), events.address(0));
        self.shadow_memory = Some((values, events));
        Ok(Some(command))
    }

    /// Makes memory and seats of the I/O queues, the first time.
    fn make_queues(&mut self) -> Result<(), Trouble> {
        if !self.queues.is_empty() {
            return Ok(());
        }
        let stride = self.capabilities.doorbell_stride();
        let size = self.registers.size();
        let mut count = self.granted.min(self.options.queues);
        while count > 0 && Doorbell::end(count as u16, stride) > size {
            count -= 1;
        }
        if count == 0 {
            return Err(Trouble::Unsupported("doorbells outside of the registers"));
        }
        let interrupts = if self.options.interrupts {
            let device = self.device.as_mut().expect("not ended");
            // Without them its cores do not sleep while anything is in flight.
            device.interrupts(count + 1).unwrap_or_default()
        } else {
            Vec::new()
        };
        // The first is the admin queue's: it is polled.
        let mut interrupts = interrupts.into_iter().skip(1);
        let mut shadows = self.take_shadows(count);
        self.has_metadata =
            self.namespaces.iter().any(|namespace| namespace.facts().metadata.carried > 0);
        for place in 0..count {
            let interrupt = interrupts.next();
            let vector = interrupt.as_ref().map(|_| place as u16 + 1);
            let parts = self.make_queue(place, vector, shadows.pop())?;
            let (name, link) = (self.name.clone(), self.link.clone());
            self.seats.push_back(NvmeSeat { name, parts, link, place, interrupt, used_in: None });
        }
        Ok(())
    }

    /// Each queue's doorbells in memory, the first queue's last.
    fn take_shadows(&mut self, count: usize) -> Vec<(Shadow, Shadow)> {
        let Some((mut values, mut events)) = self.shadow_memory.take() else { return Vec::new() };
        self.shadows = Some((values.address(0), events.address(0)));
        let stride = self.capabilities.doorbell_stride();
        let shadows: Vec<(Shadow, Shadow)> = (1..=count as u16)
            .rev()
            .map(|queue| {
                let mut split =
                    |at| Shadow { value: values.split_off(at), event: events.split_off(at) };
                let completion = split(completion_doorbell(queue, stride));
                let submission = split(submission_doorbell(queue, stride));
                (submission, completion)
            })
            .collect();
        // The first queue's last, to be taken first. What is left is the admin queue's, which is
        // told by register.
        self.shadow_memory = Some((values, events));
        shadows
    }

    fn make_queue(
        &mut self,
        place: usize,
        vector: Option<u16>,
        shadows: Option<(Shadow, Shadow)>,
    ) -> Result<QueueParts<D::Registers>, Trouble> {
        let device = self.device.as_ref().expect("not ended");
        let most = u32::from(self.capabilities.queue_entries_z()) + 1;
        let entries = u32::from(self.options.entries).min(most) as u16;
        let count = usize::from(entries);
        let memory = |len: usize| admin::queue_memory(device, len).map_err(system);
        let submission = memory(count * SUBMISSION_ENTRY)?;
        let completion = memory(count * COMPLETION_ENTRY)?;
        let doorbells = Doorbell::pair(place as u16 + 1, self.capabilities.doorbell_stride());
        let mut ring = Ring::new(self.registers.clone(), submission, completion, doorbells);
        if let Some((tail, head)) = shadows {
            ring.set_shadows(tail, head);
        }
        let (submission, completion) = ring.addresses();
        self.queues.push(QueuePlace { entries, submission, completion, vector });
        let metadata = if self.has_metadata {
            Some((memory(count * METADATA_MAX)?, METADATA_MAX))
        } else {
            None
        };
        let identity = self.identity.as_deref().expect("identified before");
        let has_sgl = SglSupport::from(identity.sgl.get()).supported() != 0 && self.options.sgl;
        let (lists, bounce) = (memory(count * PAGE)?, memory(TRANSFER_MAX)?);
        let delay = |delay: &zerocopy::little_endian::U16| {
            Duration::from_millis(100) * u32::from(delay.get())
        };
        Ok(QueueParts {
            ring,
            pointers: Pointers::new(device.arena().clone(), lists, bounce, has_sgl),
            metadata,
            options: self.options,
            retry_delays: std::array::from_fn(|index| delay(&identity.retry_delay[index])),
        })
    }

    /// Everything is known and made.
    fn on_described(&mut self, now: Duration) {
        self.state = State::Running;
        self.link.set_phase(Phase::Running);
        self.next_health = now;
        self.request_events(now);
        self.tell(NvmeEvent::Running);
    }

    /// The data structure that the last command brought.
    fn structure<T: FromBytes>(&self) -> Box<T> {
        let mut bytes = vec![0; PAGE];
        self.memory.as_ref().expect("made before").0.copy_out(0, &mut bytes);
        Box::new(T::read_from_bytes(&bytes).expect("a structure has one page"))
    }
}

fn system(error: DeviceError) -> Trouble {
    Trouble::System(error.to_string())
}

/// Memory of doorbells: values, events.
pub(super) type ShadowMemory = (DeviceMemory, DeviceMemory);
