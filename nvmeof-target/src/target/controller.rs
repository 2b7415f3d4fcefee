//! One controller: its queues, its registers, its life.
//!
//! ```text
//!             EN=1                EN=0                  drained
//! Disabled ---------> Ready ----------------> Resetting ---------> Disabled, or Ready if EN=1
//!     |                 |  SHN≠0                         drained
//!     +-----------------+-------------> ShuttingDown ---------> ShutDown --EN=0--> Disabled
//!     |  EN=1, CC bad
//!     +---------------> Fatal ---EN=0---> Disabled
//!
//! any --admin queue lost, host silent or denied, subsystem removed--> Closing --drained--> gone
//! ```

use super::config::Nqn;
use super::errors::ErrorLog;
use super::events::Events;
use super::feature::Features;
use super::reservation::Notifications;
use super::{ConnectionContext, TargetConfig};
use crate::io::Now;
use crate::seam::{Association, ConnectionId};
use core::time::Duration;
use std::collections::BTreeMap;
use std::sync::Arc;
use storage_spec::fabrics::{
    Capabilities, Configuration, ControllerStatus, SHUTDOWN_COMPLETE, SHUTDOWN_NONE,
    SHUTDOWN_UNDER_WAY,
};

/// A controller, for the life of the node: controller ids come back, these do not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ControllerKey(pub(super) u64);

/// What a controller is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Namespaces.
    Nvm,
    /// The discovery log.
    Discovery,
}

/// Where in its life a controller is; see the [module](self).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Properties alone.
    Disabled,
    /// Everything.
    Ready,
    /// EN was cleared; I/O queues are being drained.
    Resetting,
    /// SHN was set; I/O queues are being drained.
    ShuttingDown,
    /// Shut down; properties alone.
    ShutDown,
    /// EN was set with an impossible configuration.
    Fatal,
    /// Ends when its queues are drained.
    Closing,
}

#[derive(Debug)]
pub(super) struct Controller {
    pub(super) id: u16,
    pub(super) kind: Kind,
    pub(super) subsystem: Nqn,
    pub(super) host: Nqn,
    pub(super) host_id: [u8; 16],
    pub(super) context: ConnectionContext,
    pub(super) association: Arc<Association>,
    pub(super) features: Features,
    pub(super) events: Events,
    pub(super) errors: ErrorLog,
    pub(super) notifications: Notifications,
    configuration: Configuration,
    state: State,
    admin: Option<ConnectionId>,
    io_queues: BTreeMap<u16, ConnectionId>,
    /// First time that the host was found silent for too long.
    suspected: Option<Now>,
}

/// Discovery controllers without a Keep Alive Timeout end after this much silence (section 3.1.2.3
/// says two minutes).
const DISCOVERY_IDLE_MAX: Duration = Duration::from_secs(120);

/// How much longer a silent host is given, since what it sent may not have been looked at yet when
/// this core itself was held up.
const GRACE_MAX: Duration = Duration::from_secs(1);

/// Most time for a reset or shutdown in 500 ms (CAP.TO): what a slow disk may take to drain.
const TIMEOUT: u8 = 60;

impl Controller {
    pub(super) fn new(
        id: u16,
        kind: Kind,
        association: Arc<Association>,
        admin: ConnectionId,
        identity: ConnectIdentity,
    ) -> Self {
        Self {
            id,
            kind,
            subsystem: identity.subsystem,
            host: identity.host,
            host_id: identity.host_id,
            context: identity.context,
            association,
            features: Features::new(identity.keep_alive_ms),
            events: Events::default(),
            errors: ErrorLog::default(),
            notifications: Notifications::default(),
            configuration: Configuration::new(),
            state: State::Disabled,
            admin: Some(admin),
            io_queues: BTreeMap::new(),
            suspected: None,
        }
    }

    pub(super) fn is_ready(&self) -> bool {
        self.state == State::Ready
    }

    pub(super) fn is_closing(&self) -> bool {
        self.state == State::Closing
    }

    /// Its admin queue, unless that is lost.
    pub(super) fn admin(&self) -> Option<ConnectionId> {
        self.admin
    }

    pub(super) fn io_queue(&self, queue_id: u16) -> Option<ConnectionId> {
        self.io_queues.get(&queue_id).copied()
    }

    pub(super) fn io_queues(&self) -> impl Iterator<Item = ConnectionId> {
        self.io_queues.values().copied()
    }

    pub(super) fn connections(&self) -> impl Iterator<Item = ConnectionId> {
        self.admin.into_iter().chain(self.io_queues())
    }

    pub(super) fn add_io_queue(&mut self, queue_id: u16, connection: ConnectionId) {
        let before = self.io_queues.insert(queue_id, connection);
        assert!(before.is_none(), "queue ids are unique");
    }

    pub(super) fn remove_queue(&mut self, queue_id: u16) {
        if queue_id == 0 {
            self.admin = None;
        } else {
            self.io_queues.remove(&queue_id);
        }
    }

    /// Begins the end: from now on no queue begins a command.
    pub(super) fn close(&mut self) {
        self.association.set_enabled(false);
        self.state = State::Closing;
    }

    /// Goes on if all I/O queues are drained; returns whether this was the end.
    pub(super) fn drained(&mut self, now: Now) -> bool {
        if !self.io_queues.is_empty() {
            return false;
        }
        match self.state {
            State::Closing => return self.admin.is_none(),
            State::Resetting => {
                self.state = State::Disabled;
                self.association.set_enabled(true);
                if self.configuration.enable() {
                    self.enable(now);
                }
            }
            State::ShuttingDown => {
                self.state = State::ShutDown;
                self.association.set_enabled(true);
            }
            State::Disabled | State::Ready | State::ShutDown | State::Fatal => {}
        }
        false
    }

    pub(super) fn configuration(&self) -> Configuration {
        self.configuration
    }

    pub(super) fn status(&self) -> ControllerStatus {
        let enabled = self.configuration.enable();
        let (ready, shutdown) = match self.state {
            State::Ready | State::Resetting => (true, SHUTDOWN_NONE),
            State::Disabled | State::Fatal | State::Closing => (false, SHUTDOWN_NONE),
            State::ShuttingDown => (enabled, SHUTDOWN_UNDER_WAY),
            State::ShutDown => (enabled, SHUTDOWN_COMPLETE),
        };
        ControllerStatus::new()
            .with_ready(ready)
            .with_fatal(self.state == State::Fatal)
            .with_shutdown(shutdown)
    }

    /// Obeys a write to CC. Returns whether the I/O queues are now to be closed.
    pub(super) fn configure(&mut self, now: Now, new: Configuration) -> bool {
        let old = core::mem::replace(&mut self.configuration, new);
        let shuts_down = new.shutdown() != 0 && old.shutdown() == 0;
        match self.state {
            State::Disabled | State::Ready | State::Fatal | State::Resetting if shuts_down => {
                self.drain(State::ShuttingDown)
            }
            State::Ready if !new.enable() => self.drain(State::Resetting),
            State::Disabled | State::ShutDown if new.enable() && !old.enable() => {
                self.enable(now);
                false
            }
            State::Fatal | State::ShutDown if !new.enable() && old.enable() => {
                self.state = State::Disabled;
                false
            }
            _ => false,
        }
    }

    /// Whether the host has been silent for so long that the controller is to end. Says so only the
    /// second time, a grace period after the first.
    pub(super) fn is_expired(&mut self, now: Now) -> bool {
        let Some(limit) = self.silence_max().filter(|_| !self.is_closing()) else { return false };
        if now.saturating_sub(self.association.last_traffic()) < limit {
            self.suspected = None;
            return false;
        }
        let since = *self.suspected.get_or_insert(now);
        now >= since + grace(limit)
    }

    /// When to look at [`Controller::is_expired`] next.
    pub(super) fn deadline(&self) -> Option<Now> {
        let limit = self.silence_max().filter(|_| !self.is_closing())?;
        Some(match self.suspected {
            Some(since) => since + grace(limit),
            None => self.association.last_traffic() + limit,
        })
    }

    fn silence_max(&self) -> Option<Duration> {
        match (self.features.keep_alive(), self.kind) {
            (Duration::ZERO, Kind::Nvm) => None,
            (Duration::ZERO, Kind::Discovery) => Some(DISCOVERY_IDLE_MAX),
            (timeout, _) => Some(timeout),
        }
    }

    fn enable(&mut self, now: Now) {
        if !is_possible(self.configuration, self.kind) {
            self.state = State::Fatal;
            return;
        }
        self.features.reset();
        self.events.reset();
        self.notifications = Notifications::default();
        self.state = State::Ready;
        self.association.touch(now);
    }

    fn drain(&mut self, state: State) -> bool {
        self.association.set_enabled(false);
        self.state = state;
        true
    }
}

/// Who connected, to what, and how: fixed for the life of a controller.
#[derive(Debug, Clone)]
pub(super) struct ConnectIdentity {
    pub(super) subsystem: Nqn,
    pub(super) host: Nqn,
    pub(super) host_id: [u8; 16],
    pub(super) keep_alive_ms: u32,
    pub(super) context: ConnectionContext,
}

/// CAP of every controller.
pub(super) fn capabilities(config: &TargetConfig) -> Capabilities {
    use storage_spec::fabrics::{COMMAND_SETS_BY_IDENTIFY, COMMAND_SETS_NVM};
    Capabilities::new()
        .with_queue_entries_z(config.queue_entries_max - 1)
        .with_contiguous_queues(true)
        .with_timeout(TIMEOUT)
        .with_command_sets(COMMAND_SETS_NVM | COMMAND_SETS_BY_IDENTIFY)
        // Revision 2.0 wants it of every controller.
        .with_ready_with_media(true)
}

/// CC.CSS: the NVM command set.
const COMMAND_SET_NVM_ONLY: u8 = 0;
/// CC.CSS: every command set that there is.
const COMMAND_SET_ALL: u8 = 6;

fn is_possible(configuration: Configuration, kind: Kind) -> bool {
    let entries = (configuration.submission_entry(), configuration.completion_entry());
    configuration.page_size() == 0
        && configuration.arbitration() == 0
        && matches!(configuration.command_set(), COMMAND_SET_NVM_ONLY | COMMAND_SET_ALL)
        && (entries == (6, 4) || kind == Kind::Discovery)
}

fn grace(limit: Duration) -> Duration {
    (limit / 4).min(GRACE_MAX)
}
