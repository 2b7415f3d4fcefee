//! Asynchronous events, and the log pages that say more: health, errors, changed namespaces.

use super::admin;
use super::controller::{NvmeController, NvmeEvent, Purpose};
use super::options::Trouble;
use crate::dma::PAGE;
use crate::hardware::Device;
use std::time::Duration;
use storage_spec::nvme::log::{
    AsyncEvent, EVENT_ERROR, EVENT_HEALTH, EVENT_NOTICE, ErrorEntry, HealthLog, LogPage,
    NOTICE_NAMESPACE_ATTRIBUTE,
};
use storage_spec::nvme::status::Status;
use zerocopy::FromBytes;

/// Asynchronous Event Requests outstanding.
const REQUESTS_MAX: usize = 4;
/// Events that are answered in one period of the watch: a controller that has more to say waits.
const EVENTS_PER_PERIOD: usize = 8;

/// What is known from log pages, and what is to be read.
#[derive(Default)]
pub(super) struct Logs {
    pub(super) health: Option<Box<HealthLog>>,
    pub(super) errors: Vec<ErrorEntry>,
    /// Pages to read when the one being read has come, each once.
    wanted: Vec<LogPage>,
    is_reading: bool,
    /// Requests that rest until the next period.
    resting: usize,
    left: usize,
}

impl Logs {
    /// The controller has been reset: nothing is outstanding.
    pub(super) fn restart(&mut self) {
        self.wanted.clear();
        self.is_reading = false;
        self.resting = 0;
        self.left = EVENTS_PER_PERIOD;
    }
}

impl<D: Device> NvmeController<D> {
    /// The newest entries of the error log, newest first, as they were read last.
    #[must_use]
    pub fn errors(&self) -> &[ErrorEntry] {
        &self.logs.errors
    }

    pub(super) fn request_events(&mut self, now: Duration) {
        let most = self.identity.as_ref().map_or(0, |identity| identity.async_event_limit_z);
        for _ in 0..(usize::from(most) + 1).min(REQUESTS_MAX) {
            self.start_command(admin::event_request(), Purpose::Event, now);
        }
        self.want_log(LogPage::Error, now);
    }

    /// Lets events be answered again that came too thick.
    pub(super) fn rest_events(&mut self, now: Duration) {
        self.logs.left = EVENTS_PER_PERIOD;
        for _ in 0..std::mem::take(&mut self.logs.resting) {
            self.start_command(admin::event_request(), Purpose::Event, now);
        }
    }

    pub(super) fn on_event(&mut self, status: Status, result: u32, now: Duration) {
        if !status.is_success() {
            // More requests than it takes, or a reset under way: one less from now on.
            return;
        }
        let event = AsyncEvent::from(result);
        match (event.kind(), event.information()) {
            (EVENT_ERROR, _) => self.want_log(LogPage::Error, now),
            (EVENT_HEALTH, _) => self.want_log(LogPage::Health, now),
            (EVENT_NOTICE, NOTICE_NAMESPACE_ATTRIBUTE) => {
                self.want_log(LogPage::ChangedNamespaces, now);
            }
            _ => {}
        }
        if self.logs.left == 0 {
            self.logs.resting += 1;
            return;
        }
        self.logs.left -= 1;
        self.start_command(admin::event_request(), Purpose::Event, now);
    }

    pub(super) fn want_log(&mut self, page: LogPage, now: Duration) {
        if self.logs.is_reading {
            if !self.logs.wanted.contains(&page) {
                self.logs.wanted.push(page);
            }
            return;
        }
        self.logs.is_reading = true;
        let len = match page {
            LogPage::Health => size_of::<HealthLog>(),
            LogPage::Error => self.error_log_len(),
            _ => PAGE,
        };
        let data = self.memory.as_ref().expect("made before").1.address(0);
        self.start_command(admin::log_page(page, len, data), Purpose::Log(page), now);
    }

    pub(super) fn on_log(
        &mut self,
        page: LogPage,
        status: Status,
        now: Duration,
    ) -> Result<(), Trouble> {
        self.logs.is_reading = false;
        // A page that cannot be read is not there: no harm.
        if status.is_success() {
            let mut bytes = [0; PAGE];
            self.memory.as_ref().expect("made before").1.copy_out(0, &mut bytes);
            match page {
                LogPage::Health => self.learn_health(&bytes),
                LogPage::Error => self.learn_errors(&bytes),
                _ => {}
            }
        }
        if page == LogPage::ChangedNamespaces {
            // Which ones changed is of no interest: all are looked at.
            self.rescan(now)?;
        }
        if !self.logs.wanted.is_empty() {
            let next = self.logs.wanted.remove(0);
            self.want_log(next, now);
        }
        Ok(())
    }

    fn learn_health(&mut self, bytes: &[u8]) {
        let (health, _) = HealthLog::read_from_prefix(bytes).expect("shorter than a page");
        let before = self.logs.health.as_ref().map_or(0, |before| before.critical_warning);
        if health.critical_warning != before {
            self.tell(NvmeEvent::HealthWarning(health.critical_warning));
        }
        self.logs.health = Some(Box::new(health));
    }

    fn learn_errors(&mut self, bytes: &[u8]) {
        let entries = bytes[..self.error_log_len()].chunks_exact(size_of::<ErrorEntry>());
        let entries = entries.map(|entry| ErrorEntry::read_from_bytes(entry).expect("its size"));
        let newest = |entries: &[ErrorEntry]| entries.first().map_or(0, |entry| entry.count.get());
        let before = newest(&self.logs.errors);
        self.logs.errors = entries.take_while(|entry| entry.count.get() != 0).collect();
        let count = newest(&self.logs.errors);
        if count != before {
            self.tell(NvmeEvent::ErrorsLogged(count));
        }
    }

    fn error_log_len(&self) -> usize {
        let entries = self.identity.as_ref().map_or(0, |identity| identity.error_log_entries_z);
        ((usize::from(entries) + 1) * size_of::<ErrorEntry>()).min(PAGE)
    }
}
