//! A port: its registers, its link, and the way of its commands.

use super::AhciFault;
use super::drive::Drive;
use super::model::World;
use std::collections::VecDeque;
use std::time::Duration;
use storage_spec::ahci::{
    DETECTED_LINK, DETECTION_RESET, LINK_ACTIVE, LinkControl, LinkErrors, LinkStatus, PORT_CI,
    PORT_CLB, PORT_CMD, PORT_FB, PORT_IE, PORT_IS, PORT_SACT, PORT_SCTL, PORT_SERR, PORT_SIG,
    PORT_SSTS, PORT_TFD, PortCommand, PortInterrupts,
};
use storage_spec::ata::{AtaCommand, HostFrame};

/// How long a link takes to come up, and a drive to be ready then.
const LINK_TIME: Duration = Duration::from_millis(3);
/// A link has to be reset for so long.
const RESET_TIME_MIN: Duration = Duration::from_millis(1);
/// Status of a drive that has not told it yet.
const STATUS_NONE: u8 = 0x7F;

/// An emulated port.
pub(super) struct Port {
    pub(super) number: usize,
    pub(super) list: u64,
    pub(super) received: u64,
    pub(super) happened: PortInterrupts,
    pub(super) command: PortCommand,
    pub(super) task_file: (u8, u8),
    signature: u32,
    link: LinkStatus,
    control: LinkControl,
    pub(super) errors: LinkErrors,
    pub(super) active: u32,
    pub(super) issued: u32,
    /// Bits of PxSACT that nobody set.
    pub(super) phantoms: u32,
    /// Issued, and never to be sent.
    pub(super) unsent: u32,
    pub(super) drive: Option<Drive>,
    is_plugged: bool,
    is_staggered: bool,
    pub(super) flight: Vec<InFlight>,
    /// Stopped for an error.
    pub(super) is_halted: bool,
    /// The drive is busy for ever.
    pub(super) is_stuck: bool,
    pub(super) runs_forever: bool,
    /// It does not run, and nobody has stopped it.
    pub(super) has_forgotten: bool,
    reset_since: Option<Duration>,
    link_at: Option<Duration>,
    ready_at: Option<Duration>,
    /// The drive waits for this log to be read.
    pub(super) error_log: Option<Box<[u8; 512]>>,
    /// The drive has commands that the port knows nothing of any more.
    pub(super) has_outstanding: bool,
    pub(super) injected: VecDeque<AhciFault>,
    /// The drive is without power for a moment while its link is reset next.
    pub(super) blinks: bool,
}

/// A command that the drive has.
pub(super) struct InFlight {
    pub(super) slot: u8,
    pub(super) frame: HostFrame,
    pub(super) is_write: bool,
    /// Address and length.
    pub(super) pieces: Vec<(u64, usize)>,
    pub(super) is_lost: bool,
}

impl InFlight {
    pub(super) fn is_queued(&self) -> bool {
        is_queued(self.frame.command)
    }
}

pub(super) fn is_queued(command: u8) -> bool {
    command == AtaCommand::ReadFpdmaQueued.0 || command == AtaCommand::WriteFpdmaQueued.0
}

impl Port {
    pub(super) fn new(number: usize, drive: Option<Drive>, is_staggered: bool) -> Self {
        let is_plugged = drive.is_some();
        Self {
            number,
            list: 0,
            received: 0,
            happened: PortInterrupts::new(),
            command: PortCommand::new(),
            task_file: (STATUS_NONE, 0),
            signature: u32::MAX,
            link: LinkStatus::new(),
            control: LinkControl::new(),
            errors: LinkErrors::new(),
            active: 0,
            issued: 0,
            phantoms: 0,
            unsent: 0,
            drive,
            is_plugged,
            is_staggered,
            flight: Vec::new(),
            is_halted: false,
            is_stuck: false,
            runs_forever: false,
            has_forgotten: false,
            reset_since: None,
            link_at: None,
            ready_at: None,
            error_log: None,
            has_outstanding: false,
            injected: VecDeque::new(),
            blinks: false,
        }
    }

    pub(super) fn read(&self, at: usize) -> u32 {
        match at {
            PORT_CLB => self.list as u32,
            PORT_FB => self.received as u32,
            PORT_IS => self
                .happened
                .with_connect_change(self.errors.exchanged())
                .with_phy_change(self.errors.phy_change())
                .into(),
            PORT_CMD => self.command.into(),
            PORT_TFD => u32::from(self.task_file.0) | u32::from(self.task_file.1) << 8,
            PORT_SIG => self.signature,
            PORT_SSTS => self.link.into(),
            PORT_SCTL => self.control.into(),
            PORT_SERR => self.errors.into(),
            PORT_SACT => self.active | self.phantoms,
            PORT_CI => self.issued | self.phantoms,
            _ => 0,
        }
    }

    pub(super) fn write(&mut self, at: usize, value: u32, world: &mut World) {
        let low = |old: u64| old >> 32 << 32 | u64::from(value);
        let high = |old: u64| old & 0xFFFF_FFFF | u64::from(value) << 32;
        match at {
            PORT_CLB => self.list = low(self.list),
            0x04 => self.list = high(self.list),
            PORT_FB => self.received = low(self.received),
            0x0C => self.received = high(self.received),
            PORT_IS => {
                self.happened = PortInterrupts::from(u32::from(self.happened) & !value);
            }
            PORT_IE => {}
            PORT_CMD => self.write_command(value.into(), world),
            PORT_SCTL => self.control_link(value.into(), world),
            PORT_SERR => self.errors = LinkErrors::from(u32::from(self.errors) & !value),
            PORT_SACT => {
                if !self.command.start() && !self.has_forgotten {
                    self.violation(world, "PxSACT set while it does not run");
                }
                if value & (self.active | self.issued) != 0 {
                    self.violation(world, "a tag is used twice");
                }
                self.active |= value;
            }
            PORT_CI => {
                if !self.command.start() && !self.has_forgotten {
                    self.violation(world, "PxCI set while it does not run");
                }
                let beyond = u64::from(value) >> world.config.slots != 0;
                if value & self.issued != 0 || beyond {
                    self.violation(world, "a slot is used twice, or is not there");
                }
                self.issued |= value;
            }
            _ => self.violation(world, "an unexpected register is written"),
        }
        let is_list = at < PORT_IS;
        if is_list && (self.command.start() || self.command.is_running()) {
            self.violation(world, "memory is moved while it runs");
        }
        if is_list && (self.command.receive() || self.command.is_receiving()) {
            self.violation(world, "memory is moved while it receives");
        }
        if (is_list && !world.config.address_64) && self.list.max(self.received) >> 32 != 0 {
            self.violation(world, "an address of more than 32 bits");
        }
    }

    pub(super) fn violation(&self, world: &mut World, text: &str) {
        world.violation(format!("port {}: {text}", self.number));
    }

    fn write_command(&mut self, new: PortCommand, world: &mut World) {
        let old = self.command;
        if std::mem::take(&mut self.has_forgotten) {
            (self.active, self.issued) = (0, 0);
        }
        if new.start() && !old.start() {
            if !old.receive() || self.task_file.0 & 0x88 != 0 || !self.has_link() {
                self.violation(world, "started before it may be");
            }
            if old.is_running() {
                self.violation(world, "started before it has stopped");
            }
            if !self.list.is_multiple_of(1024) || !self.received.is_multiple_of(256) {
                self.violation(world, "lists are not aligned");
            }
            self.command.set_is_running(true);
        }
        if !new.start() && old.start() {
            self.abandon(world, true);
        }
        if !new.receive() && old.receive() && (new.start() || old.is_running()) {
            self.violation(world, "stops receiving while it runs");
        }
        if new.receive() {
            self.command.set_is_receiving(true);
        }
        let was_down = self.is_staggered && !old.spin_up();
        self.command.set_start(new.start());
        self.command.set_receive(new.receive());
        self.command.set_spin_up(new.spin_up() || !self.is_staggered);
        self.command.set_power_on(new.power_on());
        if was_down && new.spin_up() && self.is_plugged && self.control.detection() == 0 {
            self.link_at = Some(world.now + LINK_TIME);
        }
    }

    fn control_link(&mut self, control: LinkControl, world: &mut World) {
        let was_reset = self.control.detection() == DETECTION_RESET;
        self.control = control;
        if control.detection() == DETECTION_RESET && !was_reset {
            if self.command.start() || self.command.is_running() {
                self.violation(world, "its link is reset while it runs");
            }
            world.link_resets += 1;
            self.reset_since = Some(world.now);
            self.reset_link();
            self.blink(world);
        } else if control.detection() == 0 && was_reset {
            let since = self.reset_since.take().expect("it was begun");
            if world.now - since < RESET_TIME_MIN {
                self.violation(world, "its link is reset too shortly");
            }
            if self.is_plugged && self.command.spin_up() {
                self.link_at = Some(world.now + LINK_TIME);
            }
        }
    }

    fn reset_link(&mut self) {
        self.link = LinkStatus::new();
        self.task_file = (STATUS_NONE, 0);
        self.signature = u32::MAX;
        (self.is_stuck, self.has_outstanding, self.error_log) = (false, false, None);
        (self.link_at, self.ready_at) = (None, None);
    }

    fn blink(&mut self, world: &mut World) {
        let is_dark = std::mem::take(&mut self.blinks);
        if let Some(drive) = self.drive.as_mut().filter(|_| is_dark) {
            drive.lose_power(&mut world.random);
        }
    }

    fn has_link(&self) -> bool {
        self.link.detection() == DETECTED_LINK
    }

    /// The adapter is reset.
    pub(super) fn reset_all(&mut self, world: &mut World) {
        self.abandon(world, true);
        self.reset_link();
        self.blink(world);
        (self.list, self.received) = (0, 0);
        self.happened = PortInterrupts::new();
        self.errors = LinkErrors::new();
        self.control = LinkControl::new();
        (self.runs_forever, self.has_forgotten, self.reset_since) = (false, false, None);
        self.command = PortCommand::new().with_spin_up(!self.is_staggered);
        if self.is_plugged && !self.is_staggered {
            self.link_at = Some(world.now + LINK_TIME);
        }
    }

    pub(super) fn unplug(&mut self, world: &mut World) {
        self.abandon(world, false);
        if let Some(drive) = &mut self.drive {
            drive.lose_power(&mut world.random);
        }
        self.is_plugged = false;
        self.reset_link();
        self.errors.set_phy_change(true);
    }

    pub(super) fn plug(&mut self, world: &mut World) {
        assert!(!self.is_plugged && self.drive.is_some());
        self.is_plugged = true;
        if self.command.spin_up() {
            self.link_at = Some(world.now + LINK_TIME);
        }
    }

    /// What was in flight never ends; of writes, some were made.
    pub(super) fn abandon(&mut self, world: &mut World, forgets: bool) {
        for in_flight in std::mem::take(&mut self.flight) {
            self.has_outstanding |= in_flight.is_queued() && self.error_log.is_none();
            if in_flight.is_write && world.bus.is_some() && world.random.chance(50) {
                // Whether it succeeds is told to nobody.
                let _ = self.execute(world, &in_flight);
            }
        }
        if forgets {
            (self.active, self.issued, self.phantoms, self.unsent) = (0, 0, 0, 0);
            self.is_halted = false;
        }
    }

    /// The bus is not its any more: whatever it does with memory fails, and stops it.
    pub(super) fn release(&mut self) {
        self.has_outstanding |= self.flight.iter().any(InFlight::is_queued);
        self.flight.clear();
        if self.command.start() {
            self.halt(PortInterrupts::new().with_bus_fatal(true));
        }
    }

    /// Works for a moment.
    pub(super) fn step(&mut self, world: &mut World) {
        if self.link_at.is_some_and(|at| world.now >= at) {
            self.link_at = None;
            self.link = LinkStatus::new()
                .with_detection(DETECTED_LINK)
                .with_speed(3)
                .with_power(LINK_ACTIVE);
            self.errors.set_exchanged(true);
            self.errors.set_phy_change(true);
            self.ready_at = Some(world.now + LINK_TIME);
        }
        if self.ready_at.is_some_and(|at| world.now >= at) {
            self.ready_at = None;
            self.task_file = (0x50, 0x01);
            self.signature = self.drive.as_ref().map_or(u32::MAX, |drive| drive.config.signature);
        }
        if !self.command.start() && !self.runs_forever && world.is_due(50) {
            self.command.set_is_running(false);
        }
        if !self.command.receive() && !self.command.is_running() && world.is_due(50) {
            self.command.set_is_receiving(false);
        }
        let works = self.command.start() && !self.is_halted && !self.is_stuck && self.has_link();
        if works && world.bus.is_some() {
            self.fetch(world);
            self.complete(world);
        }
    }

    /// The port or its drive stops working for a reason that a bit of PxIS tells.
    pub(super) fn halt(&mut self, reason: PortInterrupts) {
        self.happened = PortInterrupts::from(u32::from(self.happened) | u32::from(reason));
        self.is_halted = true;
    }
}
