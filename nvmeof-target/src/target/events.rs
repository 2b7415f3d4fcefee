//! Asynchronous events of one controller (section 5.2).

use super::Target;
use super::controller::ControllerKey;
use crate::limits::ASYNC_EVENTS_MAX;
use crate::seam::{Action, Reply, Slot};
use std::collections::{BTreeSet, VecDeque};
use storage_spec::nvme::identify::{AsyncEvents, NSID_ALL};
use storage_spec::nvme::log::{
    AsyncEvent, CHANGED_NAMESPACES_MAX, CriticalWarning, EVENT_HEALTH, EVENT_IO, EVENT_NOTICE,
    HEALTH_RELIABILITY, HEALTH_SPARE, HEALTH_TEMPERATURE, IO_RESERVATION, LogPage, NOTICE_ANA,
    NOTICE_DISCOVERY, NOTICE_NAMESPACE_ATTRIBUTE,
};
use storage_spec::nvme::status::Status;
use zerocopy::IntoBytes;
use zerocopy::little_endian::U32;

/// A kind of event. At most one of each is held for the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Notice {
    /// A namespace was added, removed or changed.
    NamespaceAttribute,
    /// The ANA log changed.
    Ana,
    /// The discovery log changed.
    Discovery,
    /// A reservation notification came.
    Reservation,
    /// Critical warning: reliability is degraded, or nothing can be written.
    Reliability,
    /// Critical warning: a temperature threshold was crossed.
    Temperature,
    /// Critical warning: little space is left.
    Spare,
}

const NOTICES: [Notice; 7] = [
    Notice::NamespaceAttribute,
    Notice::Ana,
    Notice::Discovery,
    Notice::Reservation,
    Notice::Reliability,
    Notice::Temperature,
    Notice::Spare,
];

/// How far an event of one kind has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Progress {
    /// None has happened since the host last read the log page.
    #[default]
    Armed,
    /// Waits for an Asynchronous Event Request.
    Pending,
    /// Told; further ones are masked until the host has read the log page.
    Told,
}

#[derive(Debug, Default)]
pub(super) struct Events {
    /// Requests that wait for an event, oldest first, with their command ids.
    waiting: VecDeque<(Slot, u16)>,
    progress: [Progress; NOTICES.len()],
    /// What the host wants to hear of (feature 0Bh).
    pub(super) wanted: AsyncEvents,
    /// Namespaces changed since the host last read the list.
    changed: BTreeSet<u32>,
    /// Critical warnings that the host wants to hear of and that were there when last looked at.
    warnings: u8,
}

impl Events {
    /// Back to what it is after a Connect; requests have been dropped before.
    pub(super) fn reset(&mut self) {
        *self = Self { waiting: core::mem::take(&mut self.waiting), ..Self::default() };
    }

    /// Notes a change of a namespace, whether or not the host wants to be told at once.
    pub(super) fn namespace_changed(&mut self, id: u32) {
        self.changed.insert(id);
        self.raise(Notice::NamespaceAttribute);
    }

    /// Raises those of the critical warnings that are new, and that the host wants to hear of.
    pub(super) fn warn(&mut self, warnings: CriticalWarning) {
        let wanted = u8::from(warnings) & self.wanted.health();
        let new = CriticalWarning::from(wanted & !core::mem::replace(&mut self.warnings, wanted));
        for (is_new, notice) in [
            (new.degraded() || new.read_only() || new.backup(), Notice::Reliability),
            (new.temperature(), Notice::Temperature),
            (new.spare(), Notice::Spare),
        ] {
            if is_new {
                self.raise(notice);
            }
        }
    }

    pub(super) fn raise(&mut self, notice: Notice) {
        let progress = &mut self.progress[notice as usize];
        if notice.is_wanted(self.wanted) && *progress == Progress::Armed {
            *progress = Progress::Pending;
        }
    }

    /// Takes a request; refuses one too many.
    pub(super) fn wait(&mut self, slot: Slot, command_id: u16) -> Result<(), Status> {
        if self.waiting.len() == ASYNC_EVENTS_MAX {
            return Err(Status::ASYNC_EVENT_LIMIT_EXCEEDED.dnr());
        }
        self.waiting.push_back((slot, command_id));
        Ok(())
    }

    /// The next event that can be told, and the request to tell it by.
    pub(super) fn take(&mut self) -> Option<(Slot, AsyncEvent)> {
        let next = NOTICES.into_iter().find(|&n| self.progress[n as usize] == Progress::Pending)?;
        let (slot, _) = self.waiting.pop_front()?;
        self.progress[next as usize] = Progress::Told;
        Some((slot, next.event()))
    }

    /// Takes out the request with this command id, to abort it.
    pub(super) fn take_request(&mut self, command_id: u16) -> Option<Slot> {
        let index = self.waiting.iter().position(|&(_, waiting)| waiting == command_id)?;
        self.waiting.remove(index).map(|(slot, _)| slot)
    }

    /// Takes out the oldest request, to drop it.
    pub(super) fn take_any_request(&mut self) -> Option<Slot> {
        self.waiting.pop_front().map(|(slot, _)| slot)
    }

    /// The host has read `page` and does not want to keep its event.
    pub(super) fn acknowledge(&mut self, page: LogPage) {
        if page == LogPage::ChangedNamespaces {
            self.changed.clear();
        }
        for notice in NOTICES {
            if notice.event().page() == page.0 {
                self.progress[notice as usize] = Progress::Armed;
            }
        }
    }

    /// The log page of changed namespaces.
    pub(super) fn changed_list(&self) -> Vec<u8> {
        let mut list = vec![U32::ZERO; CHANGED_NAMESPACES_MAX];
        if self.changed.len() > CHANGED_NAMESPACES_MAX {
            list[0] = U32::new(NSID_ALL);
        } else {
            for (entry, &id) in list.iter_mut().zip(&self.changed) {
                *entry = U32::new(id);
            }
        }
        list.as_bytes().to_vec()
    }
}

impl Notice {
    fn event(self) -> AsyncEvent {
        let (kind, information, page) = match self {
            Self::NamespaceAttribute => {
                (EVENT_NOTICE, NOTICE_NAMESPACE_ATTRIBUTE, LogPage::ChangedNamespaces)
            }
            Self::Ana => (EVENT_NOTICE, NOTICE_ANA, LogPage::Ana),
            Self::Discovery => (EVENT_NOTICE, NOTICE_DISCOVERY, LogPage::Discovery),
            Self::Reservation => (EVENT_IO, IO_RESERVATION, LogPage::ReservationNotification),
            Self::Reliability => (EVENT_HEALTH, HEALTH_RELIABILITY, LogPage::Health),
            Self::Temperature => (EVENT_HEALTH, HEALTH_TEMPERATURE, LogPage::Health),
            Self::Spare => (EVENT_HEALTH, HEALTH_SPARE, LogPage::Health),
        };
        AsyncEvent::new().with_kind(kind).with_information(information).with_page(page.0)
    }

    fn is_wanted(self, wanted: AsyncEvents) -> bool {
        match self {
            Self::NamespaceAttribute => wanted.namespace_attribute(),
            Self::Ana => wanted.ana(),
            Self::Discovery => wanted.discovery(),
            // Looked at by its mask when it comes.
            Self::Reservation => true,
            // Looked at bit by bit when the warning comes.
            Self::Reliability | Self::Temperature | Self::Spare => wanted.health() != 0,
        }
    }
}

impl Target {
    /// Tells the host of a controller what there is to tell, as far as it has asked.
    pub(super) fn tell(&mut self, key: ControllerKey) {
        let controller = self.controllers.get_mut(&key).expect("the caller has seen it");
        let Some(admin) = controller.admin().filter(|_| controller.is_ready()) else { return };
        while let Some((slot, event)) = controller.events.take() {
            let reply = Reply::value(u32::from(event).into());
            self.actions.push_back(Action::Reply(admin, slot, reply));
        }
    }

    /// Tells the host of a controller of critical warnings that have come.
    pub(super) fn warn(&mut self, key: ControllerKey) {
        let controller = self.controllers.get_mut(&key).expect("the caller has seen it");
        let warnings = self.health.warnings(&controller.features);
        controller.events.warn(warnings);
        self.tell(key);
    }

    /// Ends the requests of a controller that is reset or shut down: their slots are needed, and no
    /// event will come.
    pub(super) fn drop_waiting(&mut self, key: ControllerKey) {
        let controller = self.controllers.get_mut(&key).expect("the caller has seen it");
        let Some(admin) = controller.admin() else { return };
        while let Some(slot) = controller.events.take_any_request() {
            let reply = Reply::failed(Status::ABORTED_SQ_DELETION);
            self.actions.push_back(Action::Reply(admin, slot, reply));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_changes_than_the_list_holds_say_all() {
        let mut events = Events::default();
        for id in 1..=CHANGED_NAMESPACES_MAX as u32 {
            events.namespace_changed(id);
        }
        assert_eq!(&events.changed_list()[4092..], &1024_u32.to_le_bytes());
        events.namespace_changed(1025);
        let list = events.changed_list();
        assert_eq!(&list[..4], &[0xFF; 4]);
        assert!(list[4..].iter().all(|&byte| byte == 0));
        events.acknowledge(LogPage::ChangedNamespaces);
        assert!(events.changed_list().iter().all(|&byte| byte == 0));
    }
}
