//! The adapter itself: its registers, its resets, and what all of its ports share.

use super::drive::Drive;
use super::port::Port;
use super::{AhciConfig, AhciFaults, EmulatedDrive};
use crate::dma::EmulatedBus;
use crate::sim::Random;
use std::time::Duration;
use storage_spec::ahci::{
    GlobalControl, Handoff, HostCapabilities, HostCapabilities2, PORTS_MAX, REGISTER_BOHC,
    REGISTER_CAP, REGISTER_CAP2, REGISTER_GHC, REGISTER_PI, REGISTER_VS, port_registers,
};

/// A reset takes this long.
const RESET_TIME: Duration = Duration::from_millis(2);

/// The emulated adapter.
pub(super) struct Model {
    pub(super) world: World,
    ports: Vec<Option<Port>>,
    control: GlobalControl,
    handoff: Handoff,
    reset_ends: Duration,
    pub(super) is_removed: bool,
    /// Tells the time; without one it is that of the last step.
    pub(super) clock: Option<Box<dyn Fn() -> Duration + Send>>,
}

/// What ports share.
pub(super) struct World {
    pub(super) config: AhciConfig,
    pub(super) random: Random,
    pub(super) now: Duration,
    /// There while somebody has it.
    pub(super) bus: Option<EmulatedBus>,
    pub(super) faults: AhciFaults,
    pub(super) violations: Vec<String>,
    pub(super) commands: Vec<u8>,
    pub(super) accesses: (u64, u64),
    pub(super) resets: u64,
    pub(super) link_resets: u64,
    pub(super) is_stuck: bool,
}

impl World {
    pub(super) fn violation(&mut self, text: String) {
        self.violations.push(text);
    }

    /// Whether something happens in this step.
    pub(super) fn is_due(&mut self, percent: u64) -> bool {
        !self.config.is_slow || self.random.chance(percent)
    }
}

impl Model {
    pub(super) fn new(config: AhciConfig, random: Random) -> Self {
        let port = |number: usize| {
            let (_, drive) = config.drives.iter().find(|(at, _)| usize::from(*at) == number)?;
            Some(Port::new(number, drive.clone().map(Drive::new), config.staggered))
        };
        Self {
            ports: (0..PORTS_MAX).map(port).collect(),
            control: GlobalControl::new(),
            handoff: Handoff::new().with_firmware_owned(config.firmware.is_some()),
            reset_ends: Duration::ZERO,
            is_removed: false,
            clock: None,
            world: World {
                config,
                random,
                now: Duration::ZERO,
                bus: None,
                faults: AhciFaults::default(),
                violations: Vec::new(),
                commands: Vec::new(),
                accesses: (0, 0),
                resets: 0,
                link_resets: 0,
                is_stuck: false,
            },
        }
    }

    pub(super) fn port(&mut self, port: u8) -> &mut Port {
        self.ports[usize::from(port)].as_mut().expect("there is such a port")
    }

    pub(super) fn drive(&mut self, port: u8) -> &mut Drive {
        self.port(port).drive.as_mut().expect("there is a drive")
    }

    /// What the IOMMU has stopped counts as a violation.
    pub(super) fn note_bus_faults(&mut self) {
        let bus = self.world.bus.as_ref();
        let faults = bus.map(EmulatedBus::take_faults).unwrap_or_default();
        self.world.violations.extend(faults.iter().map(|fault| format!("{fault:x?}")));
    }

    pub(super) fn read(&mut self, offset: usize) -> u32 {
        self.world.accesses.0 += 1;
        if self.is_removed {
            return u32::MAX;
        }
        let config = &self.world.config;
        match offset {
            REGISTER_CAP => HostCapabilities::new()
                .with_ports_z(config.drives.len() as u8 - 1)
                .with_slots_z(config.slots - 1)
                .with_ahci_only(true)
                .with_speed(3)
                .with_staggered_spin_up(config.staggered)
                .with_queueing(config.queueing)
                .with_address_64(config.address_64)
                .into(),
            REGISTER_GHC => self.control.into(),
            REGISTER_PI => config.drives.iter().fold(0, |ports, (port, _)| ports | 1 << port),
            REGISTER_VS => 0x0001_0301,
            REGISTER_CAP2 => {
                HostCapabilities2::new().with_handoff(config.firmware.is_some()).into()
            }
            REGISTER_BOHC => self.handoff.into(),
            _ => match self.port_at(offset) {
                Some((port, at)) => self.ports[port].as_mut().map_or(0, |port| port.read(at)),
                None => 0,
            },
        }
    }

    pub(super) fn write(&mut self, offset: usize, value: u32) {
        self.world.accesses.1 += 1;
        if self.is_removed {
            return;
        }
        match offset {
            REGISTER_GHC => self.control_all(value.into()),
            REGISTER_BOHC => {
                self.handoff.set_system_owned(Handoff::from(value).system_owned());
                if !Handoff::from(value).firmware_owned() {
                    self.handoff.set_firmware_owned(false);
                }
            }
            _ => {
                let Some((port, at)) = self.port_at(offset) else {
                    return self.world.violation(format!("register {offset:#x} written"));
                };
                if !self.control.enable() || self.control.reset() {
                    self.world.violation(format!("port {port} written, {:?}", self.control));
                }
                match &mut self.ports[port] {
                    Some(port) => port.write(at, value, &mut self.world),
                    None => self.world.violation(format!("port {port} is not there")),
                }
            }
        }
    }

    fn port_at(&self, offset: usize) -> Option<(usize, usize)> {
        let at = offset.checked_sub(port_registers(0))?;
        Some((at / 0x80, at % 0x80))
    }

    fn control_all(&mut self, control: GlobalControl) {
        if control.reset() && !self.control.reset() {
            let firmware_is_alive = self.world.config.firmware == Some(true);
            if firmware_is_alive && self.handoff.firmware_owned() {
                self.world.violation("reset while the firmware owned it".into());
            }
            self.world.resets += 1;
            self.reset_ends = self.world.now + RESET_TIME;
            self.reset_ports();
            self.control.set_reset(true);
        } else if !self.control.reset() {
            self.control.set_enable(control.enable());
        }
    }

    fn reset_ports(&mut self) {
        let Self { ports, world, .. } = self;
        ports.iter_mut().flatten().for_each(|port| port.reset_all(world));
    }

    /// Works for a moment.
    pub(super) fn step(&mut self, now: Duration) {
        self.world.now = now;
        self.look_at_clock();
        if self.is_removed {
            return;
        }
        if self.control.reset() && now >= self.reset_ends && !self.world.is_stuck {
            self.control = GlobalControl::new();
        }
        if self.handoff.system_owned() && self.world.config.firmware == Some(true) {
            let is_done = self.handoff.busy();
            self.handoff.set_busy(!is_done && self.handoff.firmware_owned());
            self.handoff.set_firmware_owned(self.handoff.firmware_owned() && !is_done);
        }
        if !self.control.reset() {
            let Self { ports, world, .. } = self;
            ports.iter_mut().flatten().for_each(|port| port.step(world));
        }
    }

    pub(super) fn look_at_clock(&mut self) {
        if let Some(clock) = &self.clock {
            self.world.now = clock();
        }
    }

    pub(super) fn unplug(&mut self, port: u8) {
        let Self { ports, world, .. } = self;
        let port = ports[usize::from(port)].as_mut().expect("there is such a port");
        port.unplug(world);
    }

    pub(super) fn plug(&mut self, port: u8, other: Option<EmulatedDrive>) {
        let Self { ports, world, .. } = self;
        let port = ports[usize::from(port)].as_mut().expect("there is such a port");
        if let Some(other) = other {
            port.drive = Some(Drive::new(other));
        }
        port.plug(world);
    }

    /// Whoever had it has it no more.
    pub(super) fn release(&mut self) {
        self.note_bus_faults();
        self.world.bus = None;
        self.ports.iter_mut().flatten().for_each(Port::release);
    }

    pub(super) fn remove(&mut self) {
        self.reset_ports();
        self.is_removed = true;
    }

    pub(super) fn insert(&mut self) {
        self.is_removed = false;
        self.control = GlobalControl::new();
        self.reset_ports();
    }
}
