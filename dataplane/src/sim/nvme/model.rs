//! The controller's state: registers, and the moments in which it works.

use super::config::{EmulatedNamespace, NvmeConfig};
use super::faults::{NvmeFault, NvmeFaults};
use super::media::Media;
use super::queues::{CompletionQueue, SubmissionQueue, Work};
use crate::dma::EmulatedBus;
use crate::sim::Random;
use std::collections::{BTreeMap, VecDeque};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;
use storage_spec::fabrics::{
    COMMAND_SETS_NVM, Capabilities, Configuration, ControllerStatus, PROPERTY_CAP, PROPERTY_CC,
    PROPERTY_CRTO, PROPERTY_CSTS, PROPERTY_VS, ReadyTimeouts, SHUTDOWN_COMPLETE,
};
use storage_spec::nvme::log::ErrorEntry;
use storage_spec::nvme::pci::{
    AdminQueueAttributes, REGISTER_ACQ, REGISTER_AQA, REGISTER_ASQ, REGISTER_DOORBELLS,
};

/// Longest time that a change of CSTS.RDY takes when it does not fail, in ms.
const READY_MS: u64 = 3;

/// A controller.
pub(super) struct Model {
    pub(super) config: NvmeConfig,
    pub(super) random: Random,
    pub(super) now: Duration,
    /// The memory of who took it over.
    pub(super) bus: Option<EmulatedBus>,
    pub(super) is_removed: bool,
    pub(super) is_fatal: bool,
    pub(super) is_stuck: bool,
    pub(super) reset_helps: bool,
    /// It lost power, which its driver cannot know yet.
    pub(super) is_forgetful: bool,
    /// It lost its owner at work: nothing goes on until it is reset.
    is_halted: bool,
    configuration: Configuration,
    is_ready: bool,
    /// When CSTS.RDY follows CC.EN.
    follows_at: Option<Duration>,
    is_shut_down: bool,
    admin_attributes: u32,
    admin_queues: [u64; 2],
    pub(super) submission: BTreeMap<u16, SubmissionQueue>,
    pub(super) completion: BTreeMap<u16, CompletionQueue>,
    pub(super) works: Vec<Work>,
    /// Doorbells in memory: values, events.
    pub(super) shadows: Option<(u64, u64)>,
    pub(super) namespaces: Vec<Media>,
    /// Identifiers of Asynchronous Event Requests.
    pub(super) event_requests: VecDeque<u16>,
    /// Dword 0 of events not yet told.
    pub(super) events: VecDeque<u32>,
    pub(super) warning: u8,
    pub(super) errors: Vec<ErrorEntry>,
    pub(super) faults: NvmeFaults,
    pub(super) injected: VecDeque<NvmeFault>,
    pub(super) violations: Vec<String>,
    pub(super) completed: u64,
    pub(super) doorbells: u64,
    pub(super) enabled: u64,
    /// Vectors that may interrupt now, and how they are told.
    pub(super) armed: BTreeMap<u16, Arc<OwnedFd>>,
    pub(super) interrupts: u64,
}

impl Model {
    pub(super) fn new(config: NvmeConfig, random: Random) -> Self {
        let namespaces =
            config.namespaces.iter().map(|namespace| media(&config, namespace.clone())).collect();
        Self {
            random,
            now: Duration::ZERO,
            bus: None,
            is_removed: false,
            is_fatal: false,
            is_stuck: false,
            reset_helps: true,
            is_forgetful: false,
            is_halted: false,
            configuration: Configuration::new(),
            is_ready: false,
            follows_at: None,
            is_shut_down: false,
            admin_attributes: 0,
            admin_queues: [0; 2],
            submission: BTreeMap::new(),
            completion: BTreeMap::new(),
            works: Vec::new(),
            shadows: None,
            namespaces,
            event_requests: VecDeque::new(),
            events: VecDeque::new(),
            warning: 0,
            errors: Vec::new(),
            faults: NvmeFaults::default(),
            injected: VecDeque::new(),
            violations: Vec::new(),
            completed: 0,
            doorbells: 0,
            enabled: 0,
            armed: BTreeMap::new(),
            interrupts: 0,
            config,
        }
    }

    pub(super) fn namespace(&mut self, id: u32) -> Option<&mut Media> {
        self.namespaces.iter_mut().find(|media| media.config.id == id)
    }

    pub(super) fn violation(&mut self, text: String) {
        self.violations.push(text);
    }

    /// What the IOMMU has stopped counts as a violation.
    pub(super) fn note_bus_faults(&mut self) {
        let faults = self.bus.as_ref().map(EmulatedBus::take_faults).unwrap_or_default();
        self.violations.extend(faults.iter().map(|fault| format!("{fault:x?}")));
    }

    pub(super) fn is_enabled(&self) -> bool {
        self.configuration.enable()
    }

    pub(super) fn read(&mut self, offset: usize) -> u32 {
        if self.is_removed {
            return u32::MAX;
        }
        let half = |value: u64, low: usize| (value >> (8 * (offset - low))) as u32;
        const CAP: usize = PROPERTY_CAP as usize;
        const CAP_HIGH: usize = CAP + 4;
        const ASQ_HIGH: usize = REGISTER_ASQ + 4;
        const ACQ_HIGH: usize = REGISTER_ACQ + 4;
        match offset {
            CAP | CAP_HIGH => half(self.capabilities().into(), CAP),
            _ if offset == PROPERTY_VS as usize => self.config.version,
            _ if offset == PROPERTY_CC as usize => self.configuration.into(),
            _ if offset == PROPERTY_CSTS as usize => self.status().into(),
            _ if offset == PROPERTY_CRTO as usize => self.config.ready_timeouts.into(),
            REGISTER_AQA => self.admin_attributes,
            REGISTER_ASQ | ASQ_HIGH => half(self.admin_queues[0], REGISTER_ASQ),
            REGISTER_ACQ | ACQ_HIGH => half(self.admin_queues[1], REGISTER_ACQ),
            _ => 0,
        }
    }

    pub(super) fn write(&mut self, offset: usize, value: u32) {
        if self.is_removed {
            return;
        }
        if offset >= REGISTER_DOORBELLS {
            return self.ring(offset - REGISTER_DOORBELLS, value);
        }
        if offset == PROPERTY_CC as usize {
            return self.configure(value.into());
        }
        if self.is_enabled() {
            return self.violation(format!("register {offset:#x} written while enabled"));
        }
        let set = |place: &mut u64, at: usize| {
            let shift = 8 * (offset - at);
            *place = *place & !(0xFFFF_FFFF << shift) | u64::from(value) << shift;
        };
        match offset {
            REGISTER_AQA => self.admin_attributes = value,
            _ if (REGISTER_ASQ..REGISTER_ASQ + 8).contains(&offset) => {
                set(&mut self.admin_queues[0], REGISTER_ASQ);
            }
            _ if (REGISTER_ACQ..REGISTER_ACQ + 8).contains(&offset) => {
                set(&mut self.admin_queues[1], REGISTER_ACQ);
            }
            _ => self.violation(format!("register {offset:#x} written")),
        }
    }

    /// Works for a moment.
    pub(super) fn step(&mut self, now: Duration) {
        self.now = now;
        if self.is_removed {
            return;
        }
        if self.follows_at.is_some_and(|at| now >= at) {
            self.follows_at = None;
            self.is_ready = self.is_enabled();
        }
        if self.is_enabled() && self.is_ready && !self.is_fatal && !self.is_halted {
            self.fetch_all();
            self.complete_some();
            self.tell_events();
        }
    }

    pub(super) fn remove(&mut self) {
        self.reset();
        self.is_removed = true;
    }

    pub(super) fn insert(&mut self) {
        self.is_removed = false;
        self.power_cycle();
    }

    pub(super) fn power_cycle(&mut self) {
        self.is_forgetful = self.is_enabled();
        self.reset();
        let Self { namespaces, random, .. } = self;
        namespaces.iter_mut().for_each(|media| media.power_cycle(random));
    }

    pub(super) fn function_reset(&mut self) {
        self.reset();
        if self.reset_helps {
            self.is_stuck = false;
        }
    }

    /// The owner lets go, whatever is under way.
    pub(super) fn release(&mut self) {
        self.note_bus_faults();
        self.bus = None;
        self.armed.clear();
        self.is_halted = self.is_enabled();
        self.works.clear();
    }

    /// As after power on.
    fn reset(&mut self) {
        self.stop();
        self.configuration = Configuration::new();
        (self.is_ready, self.follows_at) = (false, None);
        (self.admin_attributes, self.admin_queues) = (0, [0; 2]);
    }

    /// Everything that a controller reset ends.
    fn stop(&mut self) {
        self.submission.clear();
        self.completion.clear();
        self.works.clear();
        self.event_requests.clear();
        self.shadows = None;
        self.is_shut_down = false;
        self.is_halted = false;
        self.is_fatal = false;
    }

    /// As firmware leaves it that has booted from it: CC.CRIME is set.
    pub(super) fn leave_by_firmware(&mut self) {
        self.configuration.set_ready_independent_of_media(true);
    }

    fn configure(&mut self, new: Configuration) {
        let old = self.configuration;
        self.configuration = new;
        if new.enable() && !old.enable() {
            self.enable();
        } else if old.enable() && !new.enable() {
            self.stop();
            self.follow();
        } else if new.shutdown() != 0 && old.shutdown() == 0 && new.enable() {
            self.namespaces.iter_mut().for_each(Media::flush);
            self.is_shut_down = true;
        }
    }

    fn enable(&mut self) {
        self.enabled += 1;
        self.is_forgetful = false;
        if self.is_ready {
            self.violation("enabled before it was idle".into());
        }
        let attributes = AdminQueueAttributes::from(self.admin_attributes);
        let [submission, completion] = self.admin_queues;
        if submission % 4096 != 0 || completion % 4096 != 0 || submission == 0 || completion == 0 {
            self.violation("admin queues are nowhere".into());
        }
        if (self.configuration.submission_entry(), self.configuration.completion_entry()) != (6, 4)
            || self.configuration.page_size() != 0
            || self.configuration.ready_independent_of_media()
        {
            self.violation(format!("{:?}", self.configuration));
        }
        let entries = attributes.submission_entries_z() + 1;
        self.submission.insert(0, SubmissionQueue::new(submission, entries, 0, None));
        let entries = attributes.completion_entries_z() + 1;
        self.completion.insert(0, CompletionQueue::new(completion, entries));
        self.follow();
    }

    /// Has CSTS.RDY follow CC.EN soon, or never.
    fn follow(&mut self) {
        let is_stuck = self.is_stuck || self.random.chance(self.faults.stuck_ready);
        let media = if self.is_enabled() { self.config.media_take } else { Duration::ZERO };
        let delay = media + Duration::from_millis(self.random.below(READY_MS));
        self.follows_at = (!is_stuck).then(|| self.now + delay);
    }

    fn capabilities(&self) -> Capabilities {
        let timeouts = self.config.ready_timeouts;
        let has_timeouts = timeouts != ReadyTimeouts::new();
        // What does not fit is in CRTO alone.
        let timeout = match self.configuration.ready_independent_of_media() {
            _ if !has_timeouts => 2,
            true => timeouts.independent_of_media().min(255),
            false => timeouts.with_media().min(255),
        };
        Capabilities::new()
            .with_queue_entries_z(self.config.queue_entries - 1)
            .with_contiguous_queues(true)
            .with_timeout(timeout as u8)
            .with_ready_with_media(has_timeouts)
            .with_ready_independent_of_media(timeouts.independent_of_media() > 0)
            .with_doorbell_stride(self.config.stride)
            .with_command_sets(COMMAND_SETS_NVM)
            .with_page_size_max(4)
    }

    fn status(&self) -> ControllerStatus {
        let shutdown = if self.is_shut_down { SHUTDOWN_COMPLETE } else { 0 };
        ControllerStatus::new()
            .with_ready(self.is_ready)
            .with_fatal(self.is_fatal)
            .with_shutdown(shutdown)
    }
}

/// Media of a namespace of this controller.
pub(super) fn media(config: &NvmeConfig, namespace: EmulatedNamespace) -> Media {
    Media::new(namespace, config.volatile_cache, usize::from(config.atomic_z) + 1)
}
