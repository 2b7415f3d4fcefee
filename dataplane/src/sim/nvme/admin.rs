//! Administrative commands.

use super::config::EmulatedNamespace;
use super::model::{Model, media};
use super::queues::{CompletionQueue, SubmissionQueue};
use storage_spec::nvme::command::{AdminOpcode, Command};
use storage_spec::nvme::feature::{Feature, FeatureDword10, HOST_BEHAVIOR_SIZE, NumberOfQueues};
use storage_spec::nvme::identify::{
    AdminCommands, AsyncEvents, Cns, FormattedSize, IDENTIFY_SIZE, IdentifyController,
    IdentifyDword10, IdentifyNamespace, NvmCommands, NvmController, SglSupport, VolatileCache,
};
use storage_spec::nvme::log::{
    AsyncEvent, EVENT_ERROR, EVENT_HEALTH, EVENT_NOTICE, ErrorEntry, HealthLog, LogDword10,
    LogPage, NOTICE_NAMESPACE_ATTRIBUTE,
};
use storage_spec::nvme::pci::{
    AbortDword10, CreateCompletionDword11, CreateQueueDword10, CreateSubmissionDword11,
    completion_doorbell, submission_doorbell,
};
use storage_spec::nvme::status::Status;
use zerocopy::{FromZeros, IntoBytes};

/// Asynchronous Event Requests that it takes.
const EVENT_REQUESTS_MAX: usize = 4;

/// Status and dword 0.
type Outcome = Result<u64, Status>;

impl Model {
    pub(super) fn execute_admin(&mut self, command: &Command) -> (Status, u64) {
        let outcome = match AdminOpcode(command.opcode) {
            AdminOpcode::Identify => self.identify(command),
            AdminOpcode::SetFeatures => self.set_features(command),
            AdminOpcode::GetFeatures => self.get_features(command),
            AdminOpcode::CreateCompletionQueue => self.create_completion(command),
            AdminOpcode::CreateSubmissionQueue => self.create_submission(command),
            AdminOpcode::DoorbellBufferConfig if self.config.shadow_doorbells => {
                self.set_shadows(command)
            }
            AdminOpcode::Abort => {
                let dword_10 = AbortDword10::from(command.dword(10));
                Ok(u64::from(!self.abort(dword_10.queue(), dword_10.command_id())))
            }
            AdminOpcode::GetLogPage => self.log_page(command),
            _ => Err(Status::INVALID_OPCODE.dnr()),
        };
        match outcome {
            Ok(result) => (Status::SUCCESS, result),
            Err(status) => (status, 0),
        }
    }

    pub(super) fn attach(&mut self, namespace: EmulatedNamespace) {
        let media = media(&self.config, namespace);
        self.namespaces.push(media);
        self.namespaces.sort_by_key(|media| media.config.id);
        self.notice(NOTICE_NAMESPACE_ATTRIBUTE, LogPage::ChangedNamespaces);
    }

    pub(super) fn detach(&mut self, id: u32) {
        self.namespaces.retain(|media| media.config.id != id);
        self.notice(NOTICE_NAMESPACE_ATTRIBUTE, LogPage::ChangedNamespaces);
    }

    pub(super) fn warn(&mut self, warning: u8) {
        self.warning = warning;
        let event = AsyncEvent::new().with_kind(EVENT_HEALTH).with_page(LogPage::Health.0);
        self.events.push_back(event.into());
    }

    pub(super) fn log_error(&mut self, count: u64, lba: u64) {
        let mut entry = ErrorEntry::new_zeroed();
        entry.count.set(count);
        entry.lba.set(lba);
        self.errors.insert(0, entry);
        let event = AsyncEvent::new().with_kind(EVENT_ERROR).with_page(LogPage::Error.0);
        self.events.push_back(event.into());
    }

    /// Answers waiting requests with events.
    pub(super) fn tell_events(&mut self) {
        while self.event_requests.len() > EVENT_REQUESTS_MAX {
            let command_id = self.event_requests.pop_back().expect("there are some");
            self.post(0, command_id, Status::ASYNC_EVENT_LIMIT_EXCEEDED, 0);
        }
        while !self.events.is_empty() && !self.event_requests.is_empty() {
            let event = self.events.pop_front().expect("there is one");
            let command_id = self.event_requests.pop_front().expect("there is one");
            self.post(0, command_id, Status::SUCCESS, u64::from(event));
        }
    }

    fn notice(&mut self, information: u8, page: LogPage) {
        let event = AsyncEvent::new().with_kind(EVENT_NOTICE);
        self.events.push_back(event.with_information(information).with_page(page.0).into());
    }

    fn identify(&mut self, command: &Command) -> Outcome {
        let id = command.namespace_id.get();
        let cns = Cns(IdentifyDword10::from(command.dword(10)).cns());
        let bytes = match cns {
            Cns::Controller => self.controller().as_bytes().to_vec(),
            Cns::ActiveNamespaces => {
                let ids = self.namespaces.iter().map(|media| media.config.id);
                let list = ids.filter(|&other| other > id).take(IDENTIFY_SIZE / 4);
                let mut bytes: Vec<u8> = list.flat_map(u32::to_le_bytes).collect();
                bytes.resize(IDENTIFY_SIZE, 0);
                bytes
            }
            Cns::Namespace => {
                let media = self.namespace(id).ok_or(Status::INVALID_NAMESPACE.dnr())?;
                namespace(&media.config).as_bytes().to_vec()
            }
            Cns::CommandSetController if self.config.version >= 0x2_0000 => {
                let mut limits = NvmController::new_zeroed();
                limits.write_zeroes_max = self.config.zeroes_shift;
                limits.as_bytes().to_vec()
            }
            Cns::CommandSetNamespace if self.config.version >= 0x2_0000 => {
                vec![0; IDENTIFY_SIZE]
            }
            _ => return Err(Status::INVALID_FIELD.dnr()),
        };
        self.give_data(command, &bytes).map(|()| 0)
    }

    fn controller(&self) -> IdentifyController {
        let config = &self.config;
        let mut identity = IdentifyController::new_zeroed();
        pad(&mut identity.serial, &config.serial);
        pad(&mut identity.model, &config.model);
        pad(&mut identity.firmware, "1");
        identity.transfer_max = config.transfer_shift;
        identity.version.set(config.version);
        identity.async_events.set(AsyncEvents::new().with_namespace_attribute(true).into());
        identity.retry_delay[0].set(config.retry_delay);
        let admin = AdminCommands::new().with_doorbell_buffer(config.shadow_doorbells);
        identity.admin_commands.set(admin.into());
        identity.abort_limit_z = 3;
        identity.async_event_limit_z = EVENT_REQUESTS_MAX as u8 - 1;
        identity.error_log_entries_z = 15;
        identity.submission_entry = 0x66;
        identity.completion_entry = 0x44;
        identity.namespaces.set(1024);
        let has = config.optional_commands;
        let commands = NvmCommands::new()
            .with_compare(has)
            .with_dataset_management(has)
            .with_write_zeroes(has);
        identity.nvm_commands.set(commands.into());
        identity.volatile_cache =
            VolatileCache::new().with_present(config.volatile_cache).with_flush_all(3).into();
        identity.atomic_write_power_fail_z.set(config.atomic_z);
        identity.sgl.set(SglSupport::new().with_supported(u8::from(config.sgl)).into());
        identity
    }

    fn set_features(&mut self, command: &Command) -> Outcome {
        match Feature(FeatureDword10::from(command.dword(10)).feature()) {
            Feature::NumberOfQueues => {
                let asked = NumberOfQueues::from(command.dword(11));
                let most = self.config.queues - 1;
                let granted = NumberOfQueues::new()
                    .with_submission_z(asked.submission_z().min(most))
                    .with_completion_z(asked.completion_z().min(most));
                Ok(u64::from(u32::from(granted)))
            }
            Feature::AsyncEventConfiguration => Ok(0),
            Feature::HostBehavior => self.take_data(command, HOST_BEHAVIOR_SIZE).map(|_| 0),
            _ => Err(Status::INVALID_FIELD.dnr()),
        }
    }

    fn get_features(&mut self, command: &Command) -> Outcome {
        match Feature(FeatureDword10::from(command.dword(10)).feature()) {
            Feature::VolatileWriteCache => Ok(u64::from(self.config.volatile_cache)),
            _ => Err(Status::INVALID_FIELD.dnr()),
        }
    }

    fn create_completion(&mut self, command: &Command) -> Outcome {
        let dword_10 = CreateQueueDword10::from(command.dword(10));
        let dword_11 = CreateCompletionDword11::from(command.dword(11));
        let number = dword_10.queue();
        let is_free = !self.completion.contains_key(&number);
        self.check_queue(dword_10, is_free, dword_11.contiguous(), command)?;
        let base = command.sgl.address.get();
        let mut queue = CompletionQueue::new(base, dword_10.entries_z() + 1);
        let offset = completion_doorbell(number, self.config.stride) as u64;
        queue.shadow = self.shadows.map(|(values, _)| values + offset);
        queue.vector = dword_11.interrupts().then_some(dword_11.vector());
        if queue.vector.is_some_and(|vector| usize::from(vector) >= self.config.vectors) {
            return Err(Status::INVALID_FIELD.dnr());
        }
        self.completion.insert(number, queue);
        Ok(0)
    }

    fn create_submission(&mut self, command: &Command) -> Outcome {
        let dword_10 = CreateQueueDword10::from(command.dword(10));
        let dword_11 = CreateSubmissionDword11::from(command.dword(11));
        let (number, completion) = (dword_10.queue(), dword_11.completion_queue());
        let is_free = !self.submission.contains_key(&number);
        self.check_queue(dword_10, is_free, dword_11.contiguous(), command)?;
        if completion == 0 || !self.completion.contains_key(&completion) {
            return Err(Status::COMPLETION_QUEUE_INVALID.dnr());
        }
        let offset = submission_doorbell(number, self.config.stride) as u64;
        let shadow = self.shadows.map(|(values, events)| (values + offset, events + offset));
        let base = command.sgl.address.get();
        let queue = SubmissionQueue::new(base, dword_10.entries_z() + 1, completion, shadow);
        self.submission.insert(number, queue);
        Ok(0)
    }

    fn check_queue(
        &self,
        dword_10: CreateQueueDword10,
        is_free: bool,
        is_contiguous: bool,
        command: &Command,
    ) -> Result<(), Status> {
        let number = dword_10.queue();
        if number == 0 || number > self.config.queues || !is_free {
            return Err(Status::INVALID_QUEUE_ID.dnr());
        }
        if dword_10.entries_z() == 0 || dword_10.entries_z() >= self.config.queue_entries {
            return Err(Status::INVALID_QUEUE_SIZE.dnr());
        }
        if !is_contiguous || !command.sgl.address.get().is_multiple_of(4096) {
            return Err(Status::INVALID_FIELD.dnr());
        }
        Ok(())
    }

    fn set_shadows(&mut self, command: &Command) -> Outcome {
        let words = command.sgl.as_bytes().as_chunks::<8>().0;
        let [values, events] = [words[0], words[1]].map(u64::from_le_bytes);
        if !values.is_multiple_of(4096) || !events.is_multiple_of(4096) {
            return Err(Status::INVALID_FIELD.dnr());
        }
        self.shadows = Some((values, events));
        Ok(0)
    }

    fn log_page(&mut self, command: &Command) -> Outcome {
        let dword_10 = LogDword10::from(command.dword(10));
        let len = (usize::from(dword_10.dwords_low()) + 1) * 4;
        let mut bytes = match LogPage(dword_10.page()) {
            LogPage::Health => {
                let mut health = HealthLog::new_zeroed();
                health.critical_warning = self.warning;
                health.temperature.set(310);
                health.available_spare = 100;
                health.as_bytes().to_vec()
            }
            LogPage::Error => self.errors.as_bytes().to_vec(),
            LogPage::ChangedNamespaces => vec![0; 4096],
            _ => return Err(Status::INVALID_LOG_PAGE.dnr()),
        };
        bytes.resize(len, 0);
        self.give_data(command, &bytes).map(|()| 0)
    }
}

fn namespace(config: &EmulatedNamespace) -> IdentifyNamespace {
    let mut identity = IdentifyNamespace::new_zeroed();
    identity.size.set(config.blocks);
    identity.capacity.set(config.blocks);
    identity.used.set(config.blocks);
    // The second format, so that the first is not taken by mistake.
    identity.formats_z = 1;
    identity.format = FormattedSize::new().with_index_low(1).with_extended(config.extended).into();
    identity.lba_formats[0].block_shift = 9;
    identity.lba_formats[1].block_shift = config.block_shift;
    identity.lba_formats[1].metadata.set(config.metadata);
    identity.protection = config.protection;
    identity.nguid = [config.id as u8; 16];
    identity
}

fn pad(field: &mut [u8], text: &str) {
    field.fill(b' ');
    field[..text.len()].copy_from_slice(text.as_bytes());
}
