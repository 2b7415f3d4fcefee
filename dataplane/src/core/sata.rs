//! AHCI adapters and their drives as a core drives them.

use super::devices::{Controller, HardwareQueue};
use crate::disk::ahci::{AhciEvent, AhciHba, AhciPort, AhciSeat, Trouble};
use crate::disk::health::Health;
use crate::hardware::{Device, Registers};
use crate::node::{DriveInfo, Severity};
use crossbeam_channel::{Receiver, Sender, unbounded};
use nvmeof_target::io::Now;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use storage_spec::ahci::PORTS_MAX;

/// How often a drive is asked how it fares: it drains its queue for that.
const HEALTH_PERIOD: Now = Now::from_secs(300);
/// Longest time that a drive takes to come to rest at the end.
const REST_MAX: Now = Now::from_secs(1);
/// Longest time that ports take to stop at the end, after that.
const END_MAX: Now = Now::from_secs(3);
/// Longest time that a port takes to be free after its drive was let go.
const FREE_MAX: Now = Now::from_secs(5);

/// How a thread beside the cores has an adapter look for drives that are plugged in again. Clones
/// are of the same adapter.
pub(crate) struct Probe<R: Registers> {
    wanted: Arc<AtomicU32>,
    answers: Receiver<Sighting<R>>,
}

/// What there is on a port that an adapter was to look at.
pub(crate) struct Sighting<R: Registers> {
    pub(crate) port: u8,
    /// A drive, or why there is none that can be used.
    pub(crate) found: Result<AhciSeat<R>, Trouble>,
}

/// The adapter's side of it. Ports have a bit each.
struct Probed<R: Registers> {
    wanted: Arc<AtomicU32>,
    answers: Sender<Sighting<R>>,
    /// Which are to be looked at, and until when at the latest they are free for that.
    waiting: u32,
    patience: [Now; PORTS_MAX],
    /// Which are being looked at.
    searched: u32,
}

impl<R: Registers> Clone for Probe<R> {
    fn clone(&self) -> Self {
        Self { wanted: Arc::clone(&self.wanted), answers: self.answers.clone() }
    }
}

impl<R: Registers> Probe<R> {
    /// Wants a port looked at, which leads to one answer as long as the adapter runs. What drove it
    /// before has been let go.
    pub(crate) fn ask(&self, port: u8) {
        self.wanted.fetch_or(1 << port, Ordering::Relaxed);
    }

    /// An answer.
    pub(crate) fn take(&self) -> Option<Sighting<R>> {
        self.answers.try_recv().ok()
    }
}

impl<R: Registers> Probed<R> {
    fn answer(&mut self, port: u8, found: Result<AhciSeat<R>, Trouble>) {
        self.waiting &= !(1 << port);
        self.searched &= !(1 << port);
        // Nobody takes it at the end of the node.
        let _ = self.answers.send(Sighting { port, found });
    }
}

/// An adapter, at home on this core.
pub(crate) struct SataAdapter<D: Device> {
    hba: AhciHba<D>,
    probed: Probed<D::Registers>,
    /// What it has to tell.
    events: VecDeque<AhciEvent>,
    /// When patience with its end ends, once it has begun.
    ends: Option<Now>,
    now: Now,
}

impl<D: Device> SataAdapter<D> {
    /// The adapter, and what has it look for drives later.
    pub(crate) fn new(hba: AhciHba<D>) -> (Self, Probe<D::Registers>) {
        let (sender, answers) = unbounded();
        let probe = Probe { wanted: Arc::default(), answers };
        let wanted = Arc::clone(&probe.wanted);
        let probed = Probed {
            wanted,
            answers: sender,
            waiting: 0,
            patience: [Now::ZERO; PORTS_MAX],
            searched: 0,
        };
        (Self { hba, probed, events: VecDeque::new(), ends: None, now: Now::ZERO }, probe)
    }

    /// Looks at the ports that it is to look at, and hands over what is found there.
    fn probe(&mut self) {
        let Self { hba, probed, now, .. } = self;
        if probed.wanted.load(Ordering::Relaxed) > 0 {
            let wanted = probed.wanted.swap(0, Ordering::Relaxed) & !probed.waiting;
            probed.waiting |= wanted;
            let of_it = probed.patience.iter_mut().enumerate();
            let of_it = of_it.filter(|(port, _)| wanted >> port & 1 == 1);
            of_it.for_each(|(_, patience)| *patience = *now + FREE_MAX);
        }
        let asked = probed.waiting | probed.searched;
        if asked == 0 {
            return;
        }
        for port in (0..PORTS_MAX as u8).filter(|port| asked >> port & 1 == 1) {
            if probed.waiting >> port & 1 == 1 {
                match hba.probe_port(port) {
                    Ok(true) => {
                        probed.waiting &= !(1 << port);
                        probed.searched |= 1 << port;
                    }
                    // It has not been let go entirely.
                    Ok(false) if *now < probed.patience[usize::from(port)] => {}
                    Ok(false) => probed.answer(port, Err(Trouble::PortStuck)),
                    Err(trouble) => probed.answer(port, Err(trouble)),
                }
            } else if let Some(seat) = hba.take_seat_of(port) {
                probed.answer(port, Ok(seat));
            } else if !hba.is_searching(port) {
                probed.answer(port, Err(Trouble::Empty));
            }
        }
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
        while let Some(event) = self.hba.take_event() {
            match &event {
                AhciEvent::Refused(port, why) if self.probed.searched >> port & 1 == 1 => {
                    self.probed.answer(*port, Err(why.clone()));
                }
                _ => {}
            }
            self.events.push_back(event);
        }
        if self.ends.is_some() {
            self.hba.sweep();
        } else {
            self.probe();
        }
        false
    }

    fn deadline(&self, now: Now) -> Option<Now> {
        self.hba.deadline(now)
    }

    fn next_event(&mut self) -> Option<(Severity, &'static str, String)> {
        Some(match self.events.pop_front()? {
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
