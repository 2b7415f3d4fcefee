//! AHCI adapters and their drives as a core drives them.

use super::devices::{Controller, HardwareQueue};
use crate::disk::ahci::{AhciEvent, AhciHba, AhciPort};
use crate::disk::health::Health;
use crate::hardware::{Device, Registers};
use crate::node::{DriveInfo, Severity};
use nvmeof_target::io::Now;

/// How often a drive is asked how it fares: it drains its queue for that.
const HEALTH_PERIOD: Now = Now::from_secs(300);
/// Longest time that a drive takes to come to rest at the end.
const REST_MAX: Now = Now::from_secs(1);
/// Longest time that ports take to stop at the end, after that.
const END_MAX: Now = Now::from_secs(3);

/// An adapter, at home on this core.
pub(crate) struct SataAdapter<D: Device> {
    hba: AhciHba<D>,
    /// When patience with its end ends, once it has begun.
    ends: Option<Now>,
    now: Now,
}

impl<D: Device> SataAdapter<D> {
    pub(crate) fn new(hba: AhciHba<D>) -> Self {
        Self { hba, ends: None, now: Now::ZERO }
    }
}

impl<D: Device> Controller for SataAdapter<D> {
    fn name(&self) -> &str {
        self.hba.name()
    }

    fn what(&self) -> &'static str {
        "controller"
    }

    fn poll(&mut self, now: Now) -> bool {
        self.now = now;
        self.hba.poll(now);
        if self.ends.is_some() {
            self.hba.sweep();
        }
        false
    }

    fn deadline(&self, now: Now) -> Option<Now> {
        self.hba.deadline(now)
    }

    fn next_event(&mut self) -> Option<(Severity, &'static str, String)> {
        Some(match self.hba.take_event()? {
            AhciEvent::Found(port) => {
                (Severity::Info, "disk.found", format!("has a drive on port {port}"))
            }
            AhciEvent::Refused(port, why) => {
                let text = format!("what is on port {port} is not used: {why}");
                (Severity::Warning, "disk.refused", text)
            }
            AhciEvent::Resetting => (Severity::Warning, "disk.reset", "is being reset".to_owned()),
            AhciEvent::Ended(why) => {
                (Severity::Error, "disk.lost", format!("is driven no more: {why}"))
            }
        })
    }

    fn health(&self) -> Option<Health> {
        None
    }

    /// Each drive tells for itself, on its core.
    fn drives(&self) -> Vec<(String, DriveInfo)> {
        Vec::new()
    }

    /// Its ports stop as their cores drop them.
    fn shut_down(&mut self, now: Now) {
        self.ends.get_or_insert(now + END_MAX);
    }

    fn has_ended(&self) -> bool {
        let is_late = self.ends.is_some_and(|at| self.now >= at);
        self.hba.end().is_some() || (self.ends.is_some() && self.hba.is_deserted()) || is_late
    }

    fn is_lost(&self) -> bool {
        self.hba.end().is_some()
    }
}

/// A drive on a port of an adapter, on the core that has the port.
pub(crate) struct SataDrive<R: Registers> {
    name: String,
    /// There until the end.
    port: Option<AhciPort<R>>,
    /// When patience with its rest ends, once it is to rest.
    rests: Option<Now>,
    next_question: Now,
    /// Resets that were told of.
    resets: u64,
    has_told_end: bool,
}

impl<R: Registers> SataDrive<R> {
    pub(crate) fn new(port: AhciPort<R>) -> Self {
        Self {
            name: format!("pci:{}", port.name()),
            resets: port.counters().resets,
            port: Some(port),
            rests: None,
            next_question: Now::ZERO,
            has_told_end: false,
        }
    }
}

impl<R: Registers> Controller for SataDrive<R> {
    fn name(&self) -> &str {
        &self.name
    }

    fn what(&self) -> &'static str {
        "disk"
    }

    fn poll(&mut self, now: Now) -> bool {
        let Some(port) = &self.port else { return false };
        if let Some(until) = self.rests {
            port.poll();
            if port.is_idle() || now >= until {
                self.port = None;
            }
            return false;
        }
        if now >= self.next_question {
            self.next_question = now + HEALTH_PERIOD;
            port.ask_health();
        }
        // While its disks have something in flight whoever waits for it polls.
        if port.in_flight() == 0 {
            port.poll();
        }
        false
    }

    fn deadline(&self, now: Now) -> Option<Now> {
        self.port.as_ref()?.deadline(now)
    }

    fn next_event(&mut self) -> Option<(Severity, &'static str, String)> {
        let port = self.port.as_ref()?;
        let why = || port.trouble().map_or_else(String::new, |trouble| trouble.to_string());
        let resets = port.counters().resets;
        if resets != self.resets {
            self.resets = resets;
            return Some((Severity::Warning, "disk.reset", format!("is reset: {}", why())));
        }
        if port.has_ended() && !self.has_told_end {
            self.has_told_end = true;
            return Some((Severity::Error, "disk.lost", format!("is driven no more: {}", why())));
        }
        None
    }

    fn health(&self) -> Option<Health> {
        self.port.as_ref()?.health()
    }

    fn drives(&self) -> Vec<(String, DriveInfo)> {
        let drive = |port: &AhciPort<R>| (self.name.clone(), port.drive_info());
        self.port.iter().map(drive).collect()
    }

    fn shut_down(&mut self, now: Now) {
        if let (Some(port), None) = (&self.port, self.rests) {
            port.rest();
            self.rests = Some(now + REST_MAX);
        }
    }

    fn has_ended(&self) -> bool {
        self.port.is_none()
    }

    fn is_lost(&self) -> bool {
        self.port.as_ref().is_some_and(AhciPort::has_ended)
    }
}

impl<R: Registers> HardwareQueue for AhciPort<R> {
    fn is_busy(&self) -> bool {
        self.is_busy()
    }
}

#[cfg(test)]
mod tests;
